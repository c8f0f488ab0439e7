//! A disk that is full, at every level from no free space to enough, and directories that cannot be written.
//!
//! The file systems are mounted in a namespace of their own, so that nobody else sees them and nothing is left of them, however the test ends.

use crate::calls::Tally;
use crate::errand::{FLAG, program, tamed};
use crate::runner::{Test, is_full, skip};
use crate::saves::{builder, pattern, stream, temps, version_of};
use dolmen::commit::{AtomicFile, SaveOptions, sweep};
use dolmen::lifecycle::{FailedCheckpoint, FailedLog};
use dolmen::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub const TESTS: &[Test] = &[
    ("disk::full_tmpfs_keeps_the_old_file", full_tmpfs_keeps_the_old_file),
    ("disk::full_ext4_keeps_the_old_file", full_ext4_keeps_the_old_file),
    ("disk::file_system_mounted_read_only_keeps_the_old_file", file_system_mounted_read_only_keeps_the_old_file),
];

/// What space comes in.
const LEVEL: u64 = 4096;
const OLD_LEN: usize = 30_000;
const NEW_LEN: usize = 140_000;

/// A command that mounts, as a script says, where nobody else sees it, and runs this program there. In the script, `$1` is the place.
fn mounted(script: &str, place: &Path, errand: &[OsString]) -> Command {
    let mut command = Command::new("unshare");
    // Who is not root becomes root of a namespace, where a file system in memory may be mounted.
    command.args(if rustix::process::getuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    command
        .args(["sh", "-e", "-c", &format!("{script}\nshift\nexec \"$@\""), "sh"])
        .arg(place)
        .arg(program())
        .args(errand);
    tamed(command)
}

/// Whether a script can mount here; if not, that is said and counted.
fn can_mount(what: &str, script: &str, place: &Path) -> bool {
    let mut command = Command::new("unshare");
    command.args(if rustix::process::getuid().is_root() { &["-m"][..] } else { &["-r", "-m"] });
    let reason = match command.args(["sh", "-e", "-c", script, "sh"]).arg(place).output() {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", "),
        Err(e) => e.to_string(),
    };
    skip(format!("{what}: it cannot be mounted ({reason})"));
    false
}

fn full_tmpfs_keeps_the_old_file() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("disk");
    fs::create_dir(&place).unwrap();
    fill_mounted("a full tmpfs", "mount -t tmpfs -o size=1m,mode=755 none \"$1\"", &place, 1);
}

fn full_ext4_keeps_the_old_file() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("disk");
    fs::create_dir(&place).unwrap();
    let image = home.path().join("image");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let make = Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-m", "0"]).arg(&image).output();
    match make {
        Ok(output) if output.status.success() => {}
        Ok(output) => return skip(format!("a full ext4: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(e) => return skip(format!("a full ext4: no mkfs.ext4 ({e})")),
    }
    // On a device each level takes a while.
    let step = if is_full() { 1 } else { 5 };
    fill_mounted("a full ext4", &format!("mount -o loop \"{}\" \"$1\"", image.display()), &place, step);
}

fn fill_mounted(what: &str, script: &str, place: &Path, step: usize) {
    if !can_mount(what, script, place) {
        return;
    }
    let output =
        mounted(script, place, &[FLAG.into(), "fill".into(), place.into(), step.to_string().into()]).output().unwrap();
    show(what, &output);
    assert!(!place.join("ballast").exists(), "it was seen from outside");
}

fn show(what: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().for_each(|line| println!("    {what}: {}", line.trim_start()));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A way of saving on a disk that may be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saver {
    /// Asks for all the space before.
    Builder,
    /// Asks for none.
    Writer,
    /// Asks, and goes on if it is refused.
    Stubborn,
    /// Appends a line to a log, of some length.
    Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    SuccessNew,
    ErrorOld,
}

fn failure(version: u64, len: usize) -> FailedCheckpoint {
    FailedCheckpoint {
        path: PathBuf::from(format!("output_{version}.dolmen")),
        reason: format!("corrupted: {}", "x".repeat(len)),
        time: "2026-01-23T12:00:00.000000Z".into(),
    }
}

impl Saver {
    fn save(self, room: &Path, version: u64, len: usize) -> Result<()> {
        let path = room.join("m.dolmen");
        match self {
            Saver::Builder => builder(version, len).save(path),
            Saver::Writer => stream(&path, version, &pattern(version, len), &SaveOptions::new()),
            Saver::Stubborn => {
                let bytes = builder(version, len).to_vec()?;
                let mut file = AtomicFile::create(&path, &SaveOptions::new())?;
                let _ = file.preallocate(bytes.len() as u64);
                bytes.chunks(10_000).try_for_each(|piece| file.append(piece))?;
                file.commit()
            }
            Saver::Log => FailedLog::in_directory(room).record(&[failure(version, len)]),
        }
    }

    /// What is there, if it is whole.
    fn found(self, room: &Path) -> Result<u64, String> {
        if self != Saver::Log {
            return version_of(&room.join("m.dolmen"), |version| if version == 1 { OLD_LEN } else { NEW_LEN });
        }
        let read = FailedLog::in_directory(room).read().map_err(|e| e.to_string())?;
        let whole = |entry: &FailedCheckpoint| *entry == failure(1, 1000) || *entry == failure(2, 10_000);
        match read.malformed == 0 && read.entries.iter().all(whole) {
            true => Ok(read.entries.len() as u64),
            false => Err(format!("{} whole lines, {} that are not", read.entries.len(), read.malformed)),
        }
    }
}

/// Saves over an old file with every amount of free space (or every so many of them), on the file system that is mounted at a place.
pub fn fill(place: &Path, step: usize) {
    let tally = Tally::new();
    let room = place.join("room");
    fs::create_dir(&room).unwrap();
    for saver in [Saver::Builder, Saver::Writer, Saver::Stubborn, Saver::Log] {
        let (old, new) = if saver == Saver::Log { (1000, 10_000) } else { (OLD_LEN, NEW_LEN) };
        // Enough for all of the new file and what the file system needs besides.
        let levels = new as u64 / LEVEL + 16;
        let mut ballast = Ballast::new(place);
        for level in (0..levels).step_by(step).chain([levels - 1]) {
            ballast.leave(u64::MAX);
            saver.save(&room, 1, old).unwrap();
            ballast.leave(level * LEVEL);
            let result = saver.save(&room, 2, new);
            let outcome = judge(saver, &room, &result, level == 0, level + 1 == levels);
            tally.note(&saver, outcome, || format!("{level} × {LEVEL} bytes free"));
            fs::read_dir(&room).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        }
    }
    tally.finish("levels of free space");
}

fn judge(saver: Saver, room: &Path, result: &Result<()>, none_free: bool, all_free: bool) -> Result<Outcome, String> {
    let found = saver.found(room)?;
    let names: Vec<_> = fs::read_dir(room).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    if names.len() != 1 {
        return Err(format!("{result:?} left {names:?}"));
    }
    match result {
        Ok(()) if found == 2 && !none_free => Ok(Outcome::SuccessNew),
        Err(e) if found == 1 && !all_free && is_no_space(e) && names_the_file(e, &names[0]) => Ok(Outcome::ErrorOld),
        _ => Err(format!("{result:?}, and version {found} is there")),
    }
}

fn is_no_space(e: &Error) -> bool {
    e.kind() == ErrorKind::Io && e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::StorageFull)
}

fn names_the_file(e: &Error, name: &std::ffi::OsStr) -> bool {
    e.to_string().contains(name.to_str().unwrap())
}

/// A file that takes all the space but for what is to be left.
struct Ballast {
    place: PathBuf,
    file: File,
}

impl Ballast {
    fn new(place: &Path) -> Ballast {
        let file = File::create(place.join("ballast")).unwrap();
        Ballast { place: place.to_owned(), file }
    }

    /// Leaves at most this much free.
    fn leave(&mut self, bytes: u64) {
        self.file.set_len(0).unwrap();
        self.file.sync_all().unwrap();
        let mut at = 0;
        // Again and again, because a file system needs some space for where the file's space is.
        loop {
            let stat = rustix::fs::statvfs(&self.place).unwrap();
            let free = stat.f_bavail * stat.f_frsize;
            if free <= bytes {
                break;
            }
            for _ in 0..(free - bytes).div_ceil(LEVEL) {
                match self.file.write_at(&[0xBA; LEVEL as usize], at) {
                    Ok(written) => at += written as u64,
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => panic!("{e}"),
                }
            }
            self.file.sync_all().unwrap();
            if bytes == 0 && self.file.write_at(&[0], at).is_err() {
                break;
            }
        }
    }
}

fn file_system_mounted_read_only_keeps_the_old_file() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("disk");
    fs::create_dir(&place).unwrap();
    builder(1, OLD_LEN).save(place.join("m.dolmen")).unwrap();
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    if !can_mount("a directory mounted read-only", script, &place) {
        return;
    }
    for errand in ["save", "open"] {
        let name = if errand == "save" { "Over" } else { "Verify" };
        let arguments = [FLAG.into(), errand.into(), name.into(), OsString::from(&place)];
        let output = mounted(script, &place, &arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let as_it_should = match errand {
            "save" => said.starts_with("error Io") && said.contains("m.dolmen") && said.contains("os error 30"),
            _ => said.starts_with("ok 3 tensors"),
        };
        assert!(as_it_should, "{errand}: {said} {output:?}");
    }
    assert_eq!(version_of(&place.join("m.dolmen"), |_| OLD_LEN), Ok(1));
    assert!(temps(&place).is_empty() && sweep(&place).unwrap().removed.is_empty());
}
