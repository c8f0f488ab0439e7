//! Limits of a process: how long a file may be, how many descriptors it may have, what it may do in a directory.

use crate::calls::Tally;
use crate::common::in_parallel;
use crate::errand::{Ended, args, command, program, tamed};
use crate::opens::{self, Open};
use crate::runner::{Test, is_full, skip};
use crate::saves::{Expected, Happening, Outcome, Save};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("limits::file_that_may_not_be_so_long_leaves_the_old_one", file_that_may_not_be_so_long_leaves_the_old_one),
    ("limits::few_descriptors_are_an_error_or_enough", few_descriptors_are_an_error_or_enough),
    (
        "limits::directory_that_may_not_be_written_or_read_keeps_the_old_file",
        directory_that_may_not_be_written_or_read_keeps_the_old_file,
    ),
    (
        "limits::file_that_may_not_be_read_is_an_error_of_the_machine",
        file_that_may_not_be_read_is_an_error_of_the_machine,
    ),
];

fn file_that_may_not_be_so_long_leaves_the_old_one() {
    let tally = Tally::new();
    for save in [Save::Over, Save::Streaming, Save::Unflushed, Save::LogAppend] {
        let expected = Expected::of(save);
        let len = expected.new.as_ref().unwrap().len() as u64;
        let step = match (save.is_log(), is_full()) {
            (true, true) => 1,
            (true, false) => 16,
            (false, true) => 4096,
            (false, false) => 150_000,
        };
        // Each level, and one byte less and more than is needed.
        let levels: Vec<u64> = (0..len).step_by(step).chain([len - 1, len, len + 1]).collect();
        let runs: Vec<(u64, bool)> = levels.iter().flat_map(|&level| [(level, true), (level, false)]).collect();
        in_parallel(&runs, |&(level, ignored)| {
            let home = tempfile::tempdir().unwrap();
            let room = home.path().join("room");
            save.prepare(&room, &expected);
            let mut shell = Command::new("sh");
            let signal = if ignored { "trap '' XFSZ" } else { "trap - XFSZ" };
            shell.args(["-c", &format!("{signal}; exec \"$0\" \"$@\"")]).arg(program());
            shell.args(args("save", &format!("{save:?}"), &room)).env("DOLMEN_FSIZE", level.to_string());
            let ended = Ended::of(&tamed(shell).output().unwrap());
            let happening = Happening { kills: !ignored, ..Happening::default() };
            let outcome = expected.judge(&room, &ended, happening).and_then(|outcome| {
                let enough = level >= len;
                match (outcome == Outcome::SuccessNew) == enough {
                    true => Ok(outcome),
                    false => Err(format!("{outcome:?} with {level} of {len} bytes: {ended:?}")),
                }
            });
            let outcome = outcome.and_then(|outcome| match &ended {
                Ended::Error { message, .. } if !message.contains("os error 27") => Err(message.clone()),
                _ => Ok(outcome),
            });
            tally.note(&save, outcome, || {
                format!("{level} bytes, the signal {}", if ignored { "ignored" } else { "not ignored" })
            });
        });
    }
    tally.finish("limits of a file's length");
    assert!(tally.count(Outcome::KilledOld) > 0 && tally.count(Outcome::ErrorOld) > 0);
}

fn few_descriptors_are_an_error_or_enough() {
    const ENOUGH: u32 = 12;
    let saves = Tally::new();
    for save in Save::ALL {
        let expected = Expected::of(save);
        in_parallel(&[3, 4, 5, 6, 7, 8, ENOUGH], |descriptors| {
            let home = tempfile::tempdir().unwrap();
            let room = home.path().join("room");
            save.prepare(&room, &expected);
            let mut saver = command(&args("save", &format!("{save:?}"), &room));
            let ended = Ended::of(&saver.env("DOLMEN_NOFILE", descriptors.to_string()).output().unwrap());
            let happening = Happening { sweep_may_fail: *descriptors < ENOUGH, ..Happening::default() };
            let outcome = expected.judge(&room, &ended, happening).and_then(|outcome| {
                let must_fail = *descriptors == 3;
                let must_succeed = *descriptors == ENOUGH;
                match outcome == Outcome::SuccessNew {
                    true if !must_fail => Ok(outcome),
                    false if !must_succeed => Ok(outcome),
                    _ => Err(format!("{ended:?}")),
                }
            });
            saves.note(&save, outcome, || format!("{descriptors} descriptors"));
        });
    }
    saves.finish("saves with few descriptors");

    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let opens = Tally::new();
    for open in Open::ALL {
        let arguments = args("open", &format!("{open:?}"), home.path());
        let Ended::Ok(right) = Ended::of(&command(&arguments).output().unwrap()) else { panic!("{open:?}") };
        for descriptors in [3, 4, 5, 6, ENOUGH] {
            let mut opener = command(&arguments);
            let ended = Ended::of(&opener.env("DOLMEN_NOFILE", descriptors.to_string()).output().unwrap());
            let outcome = open.judge(home.path(), &ended, &right).and_then(|outcome| {
                match outcome == opens::Outcome::RightContent {
                    true if descriptors > 3 => Ok(outcome),
                    false if descriptors < ENOUGH => Ok(outcome),
                    _ => Err(format!("{ended:?}")),
                }
            });
            opens.note(&open, outcome, || format!("{descriptors} descriptors"));
        }
    }
    opens.finish("opens with few descriptors");
}

/// Somebody who is not root, as root; oneself otherwise.
struct Somebody {
    home: tempfile::TempDir,
    uid: Option<u32>,
}

impl Somebody {
    const NOBODY: u32 = 65534;

    /// Somebody who can run this program; if there is none, that is said and counted.
    fn find(what: &str) -> Option<Somebody> {
        let home = tempfile::tempdir().unwrap();
        let uid = rustix::process::getuid().is_root().then_some(Somebody::NOBODY);
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        // Where this program lies, others may not go.
        fs::copy(program(), home.path().join("program")).unwrap();
        fs::set_permissions(home.path().join("program"), Permissions::from_mode(0o755)).unwrap();
        let somebody = Somebody { home, uid };
        let reason = match somebody.command(&["--list".into()]).output() {
            Ok(output) if output.status.success() => return Some(somebody),
            Ok(output) => format!("{output:?}"),
            Err(e) => e.to_string(),
        };
        skip(format!("{what}: another user cannot run this program ({reason})"));
        None
    }

    fn command(&self, arguments: &[std::ffi::OsString]) -> Command {
        let mut command = Command::new(self.home.path().join("program"));
        command.args(arguments).current_dir("/");
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        tamed(command)
    }

    /// Gives all in a directory to that user.
    fn own(&self, path: &Path) {
        let Some(uid) = self.uid else { return };
        chown(path, Some(uid), Some(uid)).unwrap();
        if path.is_dir() && !path.is_symlink() {
            fs::read_dir(path).unwrap().for_each(|entry| self.own(&entry.unwrap().path()));
        }
    }
}

fn directory_that_may_not_be_written_or_read_keeps_the_old_file() {
    let Some(somebody) = Somebody::find("directories that may not be written") else { return };
    let tally = Tally::new();
    for save in Save::ALL.into_iter().filter(|&save| save != Save::ThroughALink) {
        let expected = Expected::of(save);
        for mode in [0o000, 0o100, 0o300, 0o400, 0o500, 0o555, 0o700] {
            let room = somebody.home.path().join(format!("{save:?}{mode:o}"));
            save.prepare(&room, &expected);
            somebody.own(&room);
            fs::set_permissions(&room, Permissions::from_mode(mode)).unwrap();
            let output = somebody.command(&args("save", &format!("{save:?}"), &room)).output().unwrap();
            fs::set_permissions(&room, Permissions::from_mode(0o755)).unwrap();
            let ended = Ended::of(&output);
            // In a directory that may only be entered, what is there may be removed by nobody.
            let happening =
                Happening { no_unlink: mode & 0o200 == 0, sweep_may_fail: mode != 0o700, ..Happening::default() };
            let outcome = expected.judge(&room, &ended, happening).and_then(|outcome| {
                // A log that is there is no new name, and a sweep that finds nothing to do has done it.
                let right = match (mode, save) {
                    (0o700, _) => outcome == Outcome::SuccessNew,
                    (_, Save::LogAppend | Save::Sweep) => true,
                    _ => outcome == Outcome::ErrorOld,
                };
                right.then_some(outcome).ok_or(format!("{ended:?}"))
            });
            tally.note(&save, outcome, || format!("mode {mode:o}"));
        }
    }
    tally.finish("saves in directories of little access");
}

fn file_that_may_not_be_read_is_an_error_of_the_machine() {
    let Some(somebody) = Somebody::find("files that may not be read") else { return };
    let room = somebody.home.path().join("files");
    fs::create_dir(&room).unwrap();
    Open::prepare(&room);
    somebody.own(&room);
    let tally = Tally::new();
    for open in Open::ALL {
        let arguments = args("open", &format!("{open:?}"), &room);
        let file = open.file(&room);
        let Ended::Ok(right) = Ended::of(&somebody.command(&arguments).output().unwrap()) else { panic!("{open:?}") };
        for (of_file, of_directory) in [(0o000, 0o700), (0o200, 0o700), (0o400, 0o000), (0o400, 0o400), (0o400, 0o100)]
        {
            fs::set_permissions(&file, Permissions::from_mode(of_file)).unwrap();
            fs::set_permissions(&room, Permissions::from_mode(of_directory)).unwrap();
            let ended = Ended::of(&somebody.command(&arguments).output().unwrap());
            fs::set_permissions(&room, Permissions::from_mode(0o700)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            let may_be_read = of_file & 0o400 != 0 && of_directory & 0o100 != 0;
            let outcome = open.judge(&room, &ended, &right).and_then(|outcome| {
                let as_it_should = (outcome == opens::Outcome::RightContent) == may_be_read;
                as_it_should.then_some(outcome).ok_or(format!("{ended:?}"))
            });
            tally.note(&open, outcome, || format!("file {of_file:o} in a directory {of_directory:o}"));
        }
    }
    tally.finish("opens of files of little access");
}
