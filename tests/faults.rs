//! Saving when something fails: every call with every error, every crash, and the habits of real file systems.
#![cfg(all(unix, feature = "fs"))]

use common::memory::{self, Call, Fault, Memory, Preallocation};
use dolmen::commit::file_system::{Directory, FileSystem, OutputFile};
use dolmen::commit::{AtomicFile, Durability, RealFileSystem, SaveOptions, sweep, sweep_in};
use dolmen::source::ReadAt;
use dolmen::{Error, ErrorKind, Result};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

mod common;

const NAME: &str = "m.dolmen";
const TARGET: &str = "d/m.dolmen";
const OLD: &[u8] = b"the old content, which is longer than the new one will ever be";
const NEW: &[u8] = b"the new content, written in pieces";

const ERRNOS: [Errno; 14] = [
    Errno::IO,
    Errno::NOSPC,
    Errno::DQUOT,
    Errno::ACCESS,
    Errno::MFILE,
    Errno::INTR,
    Errno::ROFS,
    Errno::NOENT,
    Errno::EXIST,
    Errno::INVAL,
    Errno::NOTSUP,
    Errno::STALE,
    Errno::NOMEM,
    Errno::FBIG,
];

/// A way of saving, and the file system it happens on.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    old: Option<&'static [u8]>,
    create_new: bool,
    durability: Durability,
    validated: bool,
    /// Goes on writing after an error and commits all the same.
    stubborn: bool,
    longest_write: usize,
    preallocation: Preallocation,
    no_replace: bool,
    locks: bool,
    identities: bool,
    /// An earlier save of the same target was killed.
    leftover: bool,
}

const PLAIN: Scenario = Scenario {
    old: Some(OLD),
    create_new: false,
    durability: Durability::Full,
    validated: false,
    stubborn: false,
    longest_write: usize::MAX,
    preallocation: Preallocation::KeepsLength,
    no_replace: true,
    locks: true,
    identities: true,
    leftover: false,
};

const SCENARIOS: [Scenario; 10] = [
    PLAIN,
    Scenario { old: None, ..PLAIN },
    Scenario { old: None, create_new: true, ..PLAIN },
    Scenario { old: None, create_new: true, no_replace: false, ..PLAIN },
    Scenario { validated: true, longest_write: 5, ..PLAIN },
    Scenario { stubborn: true, longest_write: 5, preallocation: Preallocation::Extends, ..PLAIN },
    Scenario { stubborn: true, leftover: true, ..PLAIN },
    Scenario { durability: Durability::None, preallocation: Preallocation::Unsupported, ..PLAIN },
    Scenario { locks: false, leftover: true, ..PLAIN },
    Scenario { identities: false, ..PLAIN },
];

const LEFTOVER: &str = ".m.dolmen.00112233445566aa.dolmen-tmp";

impl Scenario {
    fn memory(&self) -> Memory {
        let memory = Memory::new().behave(|b| {
            b.longest_write = self.longest_write;
            b.preallocation = self.preallocation;
            b.no_replace = self.no_replace;
            b.locks = self.locks;
            b.identities = self.identities;
            b.watched = Some(NAME.into());
        });
        if let Some(old) = self.old {
            memory.put(NAME, 0o640, old);
        }
        if self.leftover {
            memory.put(LEFTOVER, 0o600, b"half a check");
        }
        memory
    }

    fn options(&self, memory: &Memory) -> SaveOptions {
        SaveOptions::new()
            .file_system(Arc::new(memory.clone()))
            .create_new(self.create_new)
            .durability(self.durability)
            .validator(self.validated.then(|| Arc::new(begins_like_new) as _))
    }

    fn save(&self, memory: &Memory) -> Result<()> {
        let or_go_on = |result: Result<()>| if self.stubborn { Ok(()) } else { result };
        let mut file = AtomicFile::create(TARGET, &self.options(memory))?;
        or_go_on(file.preallocate(NEW.len() as u64 + 30))?;
        or_go_on(file.append(&[0; 8]))?;
        or_go_on(file.append(&NEW[8..]))?;
        or_go_on(file.patch(0, &NEW[..8]))?;
        file.commit()
    }

    /// Whether the outcome is one of the three that there may be, at every moment and after every crash.
    fn check(&self, memory: &Memory, result: &Result<()>) -> Result<usize, String> {
        let old = self.old.map(<[u8]>::to_vec);
        let new = Some(NEW.to_vec());
        let in_place = match result {
            Ok(()) => true,
            Err(e) => e.kind() == ErrorKind::NotDurable,
        };
        if memory.content(NAME) != *if in_place { &new } else { &old } {
            return Err(format!("{result:?}, but the file holds {:?}", memory.content(NAME)));
        }
        let mut states = 0;
        for moment in memory.take_moments() {
            if moment.visible != old && moment.visible != new {
                return Err(format!("after {:?} readers see {:?}", moment.call, moment.visible));
            }
            if self.durability == Durability::Full {
                states += moment.after_crash.len();
                if let Some(bad) = moment.after_crash.iter().find(|&c| *c != old && *c != new) {
                    return Err(format!("a crash after {:?} can leave {bad:?}", moment.call));
                }
            }
        }
        if self.durability == Durability::Full {
            for content in memory.after_crash(NAME) {
                states += 1;
                match result {
                    Ok(()) if content != new => return Err(format!("acknowledged, yet a crash leaves {content:?}")),
                    Err(_) if !in_place && content != old => {
                        return Err(format!("failed, yet a crash leaves {content:?}"));
                    }
                    _ => {}
                }
            }
        }
        for name in memory.names() {
            let known = name == NAME || (self.leftover && name == LEFTOVER);
            if !known && !memory.failed().contains(&Call::Remove(name.clone())) {
                return Err(format!("left {name:?} behind, which could have been removed"));
            }
        }
        Ok(states)
    }
}

fn begins_like_new(file: &dyn ReadAt) -> Result<()> {
    let mut found = vec![0; file.byte_len().map_err(|e| Error::io("cannot read", e))? as usize];
    file.read_exact_at(&mut found, 0).map_err(|e| Error::io("cannot read", e))?;
    match found == NEW {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, "not the new content")),
    }
}

fn is_cleaning_or_looking(call: &Call) -> bool {
    match call {
        Call::Remove(name) => name != NAME,
        Call::Status(_) | Call::FileStatus(_) => true,
        _ => false,
    }
}

#[test]
fn every_call_failing_with_every_error_leaves_old_or_new_and_says_which() {
    let (mut runs, mut not_durable, mut states) = (0, 0, 0);
    for scenario in SCENARIOS {
        for errno in ERRNOS {
            for (after_effect, forever) in [(false, false), (true, false), (false, true)] {
                if after_effect && !matches!(errno, Errno::IO | Errno::INTR | Errno::STALE) {
                    continue;
                }
                if forever && errno == Errno::INTR {
                    continue;
                }
                for call in 0.. {
                    let fault = Fault { call, errno: errno.raw_os_error(), after_effect, forever };
                    let memory = scenario.memory().behave(|b| b.fault = Some(fault));
                    let result = scenario.save(&memory);
                    let Some(failed) = memory.failed().first().cloned() else {
                        result.unwrap();
                        break;
                    };
                    runs += 1;
                    let story = format!("{scenario:?}, {fault:?} in {failed:?}: {result:?}");
                    states += scenario.check(&memory, &result).unwrap_or_else(|e| panic!("{story}: {e}"));

                    let after = memory.calls().split_off(call + 1);
                    let flushes_again =
                        |c: &Call| matches!((c, &failed), (Call::SyncFile(a), Call::SyncFile(b)) if a == b);
                    assert!(!after.iter().any(flushes_again), "{story}: flushed again");
                    if let Err(error) = &result {
                        not_durable += usize::from(error.kind() == ErrorKind::NotDurable);
                        assert_eq!(error.path(), Some(Path::new(TARGET)), "{story}");
                        let begun_anew = matches!(failed, Call::Create(..) | Call::TryLock(_));
                        // Reserving space is the one thing that may fail without harm.
                        let harmless = matches!(failed, Call::Preallocate(_));
                        if !begun_anew && !harmless {
                            let worse = after.iter().find(|call| !is_cleaning_or_looking(call));
                            assert!(worse.is_none() || forever, "{story}: went on with {worse:?}");
                        }
                    }
                }
            }
        }
    }
    assert!(runs > 3_000 && not_durable > 100 && states > 50_000, "{runs} {not_durable} {states}");
}

#[test]
fn crash_at_any_point_leaves_old_or_new_and_never_loses_an_acknowledged_save() {
    for scenario in SCENARIOS {
        let memory = scenario.memory();
        let result = scenario.save(&memory);
        assert!(result.is_ok());
        let states = scenario.check(&memory, &result).unwrap();
        assert!(scenario.durability == Durability::None || states > 10, "{states}");
    }
}

#[test]
fn crash_check_catches_savers_whose_flushes_do_nothing() {
    let memory = PLAIN.memory().behave(|b| b.ignores_file_sync = true);
    let result = PLAIN.save(&memory);
    assert!(result.is_ok());
    let caught = PLAIN.check(&memory, &result).unwrap_err();
    assert!(caught.contains("a crash after Rename"), "{caught}");

    let memory = PLAIN.memory().behave(|b| b.ignores_directory_sync = true);
    let result = PLAIN.save(&memory);
    assert!(result.is_ok());
    let caught = PLAIN.check(&memory, &result).unwrap_err();
    assert!(caught.contains("acknowledged, yet"), "{caught}");

    // A saver that asks for no flush is the same to a crash.
    let lazy = Scenario { durability: Durability::None, ..PLAIN };
    let memory = lazy.memory();
    let result = lazy.save(&memory);
    assert!(lazy.check(&memory, &result).is_ok());
    assert!(PLAIN.check(&memory, &result).is_err());
}

#[test]
fn calls_come_in_the_order_that_the_rules_ask_for() {
    let memory = PLAIN.memory();
    PLAIN.save(&memory).unwrap();
    let calls = memory.calls();
    let at = |wanted: &dyn Fn(&Call) -> bool| calls.iter().position(wanted).unwrap();
    let order = [
        at(&|c| *c == Call::OpenDirectory),
        at(&|c| matches!(c, Call::Create(..))),
        at(&|c| matches!(c, Call::TryLock(_))),
        at(&|c| matches!(c, Call::Write(_))),
        calls.iter().rposition(|c| matches!(c, Call::Write(_))).unwrap(),
        at(&|c| matches!(c, Call::SetLen(_))),
        at(&|c| matches!(c, Call::SyncFile(_))),
        at(&|c| matches!(c, Call::Rename(..))),
        at(&|c| *c == Call::SyncDirectory),
        at(&|c| *c == Call::Names),
    ];
    assert!(order.is_sorted(), "{calls:?}");
    assert_eq!(calls.iter().filter(|c| **c == Call::OpenDirectory).count(), 1, "{calls:?}");
    assert_eq!(calls.iter().filter(|c| matches!(c, Call::SyncFile(_))).count(), 1, "{calls:?}");
}

#[test]
fn durability_none_flushes_nothing() {
    let lazy = Scenario { durability: Durability::None, ..PLAIN };
    let memory = lazy.memory();
    lazy.save(&memory).unwrap();
    assert!(!memory.calls().iter().any(|c| matches!(c, Call::SyncFile(_) | Call::SyncDirectory)));
}

#[test]
fn failed_write_poisons_the_file_for_good() {
    let memory = PLAIN.memory();
    let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
    file.append(b"good").unwrap();
    let fault =
        Fault { call: memory.calls().len(), errno: Errno::NOSPC.raw_os_error(), after_effect: false, forever: false };
    let memory = memory.behave(|b| b.fault = Some(fault));
    let error = file.append(b"no room").unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Io, Some(4)));
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::StorageFull);

    let calls = memory.calls().len();
    assert!(file.append(b"more").is_err());
    assert!(file.patch(0, b"bad").is_err());
    assert!(file.write(b"more").is_err());
    assert_eq!(memory.calls().len(), calls, "nothing is written after a failed write");
    let error = file.commit().unwrap_err();
    assert!(error.to_string().contains("an earlier write failed"), "{error}");
    assert!(error.to_string().contains("the file that was there before is unchanged"), "{error}");
    assert_eq!(memory.names(), [NAME]);
    assert_eq!(memory.content(NAME).unwrap(), OLD);
}

#[test]
fn interrupted_calls_are_repeated_but_not_those_that_flush_or_rename() {
    for scenario in SCENARIOS {
        for call in 0.. {
            let errno = Errno::INTR.raw_os_error();
            let fault = Fault { call, errno, after_effect: false, forever: false };
            let memory = scenario.memory().behave(|b| b.fault = Some(fault));
            let result = scenario.save(&memory);
            match memory.failed().first() {
                None => break,
                Some(Call::SyncFile(_) | Call::SyncDirectory) => assert!(result.is_err()),
                Some(Call::Rename(..) | Call::RenameNoReplace(..) | Call::HardLink(..)) => assert!(result.is_err()),
                Some(failed) => assert!(result.is_ok(), "{scenario:?}, {failed:?}: {result:?}"),
            }
        }
    }
}

#[test]
fn reserved_space_beyond_the_end_cannot_be_read() {
    let scenario = Scenario { preallocation: Preallocation::Extends, longest_write: 3, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.preallocate(100).unwrap();
    file.append(NEW).unwrap();
    let mut all = vec![0; NEW.len()];
    file.read_exact_at(&mut all, 0).unwrap();
    assert_eq!(all, NEW);
    assert_eq!(file.read_exact_at(&mut all, 1).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(ReadAt::byte_len(&file).unwrap(), NEW.len() as u64);
}

#[test]
fn file_of_another_length_than_written_is_not_put_in_place() {
    let memory = PLAIN.memory();
    let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
    file.append(NEW).unwrap();
    let temp = file.temp_path().file_name().unwrap().to_owned();
    Directory::open_existing(&*memory.open_directory(memory::DIRECTORY.as_ref()).unwrap(), &temp)
        .unwrap()
        .set_len(3)
        .unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!((error.expected(), error.found()), (Some(NEW.len() as u64), Some(3)));
    assert_eq!(memory.content(NAME).unwrap(), OLD);
    assert_eq!(memory.names(), [NAME]);
}

#[test]
fn space_reserved_beyond_the_end_is_given_back() {
    for preallocation in [Preallocation::Extends, Preallocation::KeepsLength, Preallocation::Unsupported] {
        let scenario = Scenario { preallocation, ..PLAIN };
        let memory = scenario.memory();
        scenario.save(&memory).unwrap();
        assert_eq!(memory.content(NAME).unwrap(), NEW);
    }
}

#[test]
fn space_that_cannot_be_reserved_is_told_and_can_be_ignored() {
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::FBIG] {
        let memory = PLAIN.memory();
        let mut file = AtomicFile::create(TARGET, &PLAIN.options(&memory)).unwrap();
        let call = memory.calls().len();
        let fault = Fault { call, errno: errno.raw_os_error(), after_effect: false, forever: false };
        let memory = memory.behave(|b| b.fault = Some(fault));
        let error = file.preallocate(1 << 40).unwrap_err();
        assert!(error.to_string().contains("cannot reserve space"), "{error}");
        file.append(NEW).unwrap();
        file.commit().unwrap();
        assert_eq!(memory.content(NAME).unwrap(), NEW);
    }
}

#[test]
fn rejected_file_is_removed_and_the_old_one_stays() {
    let scenario = Scenario { validated: true, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.append(b"something else").unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.path(), Some(Path::new(TARGET)));
    assert_eq!(memory.content(NAME).unwrap(), OLD);
    assert_eq!(memory.names(), [NAME]);
    let calls = memory.calls();
    let flushed = calls.iter().position(|c| matches!(c, Call::SyncFile(_))).unwrap();
    assert!(flushed < calls.iter().position(|c| matches!(c, Call::Read(_))).unwrap(), "validated before the flush");
}

#[test]
fn create_new_without_rename_flags_links_and_never_replaces() {
    let scenario = Scenario { old: None, create_new: true, no_replace: false, ..PLAIN };
    let memory = scenario.memory();
    let mut file = AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap();
    file.append(NEW).unwrap();
    memory.put(NAME, 0o644, b"faster");
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(memory.content(NAME).unwrap(), b"faster");
    assert_eq!(memory.names(), [NAME]);

    let memory = scenario.memory().behave(|b| b.hard_links = false);
    assert_eq!(scenario.save(&memory).unwrap_err().kind(), ErrorKind::Io);
    assert!(memory.names().is_empty());
}

#[test]
fn writer_survives_sweepers_that_are_faster_than_its_lock() {
    for (locks, removes) in [(2, 0), (0, 2), (1, 1)] {
        let memory = PLAIN.memory().behave(|b| (b.sweeper_locks, b.sweeper_removes) = (locks, removes));
        let result = PLAIN.save(&memory);
        assert!(result.is_ok(), "{result:?}");
        PLAIN.check(&memory, &result).unwrap();
        assert_eq!(memory.calls().iter().filter(|c| matches!(c, Call::Create(..))).count(), 3);
    }
}

#[test]
fn mode_of_the_file_replaced_is_there_before_the_first_byte_and_never_wider() {
    for old in [0o640, 0o666, 0o600, 0o400, 0o777] {
        let memory = Memory::new();
        memory.put(NAME, old, OLD);
        PLAIN.save(&memory).unwrap();
        assert_eq!(memory.mode(NAME), old);
        let calls = memory.calls();
        let asked = calls.iter().find_map(|c| if let Call::Create(_, mode) = c { Some(*mode) } else { None });
        assert_eq!(asked, Some(old));
        let first_write = calls.iter().position(|c| matches!(c, Call::Write(_))).unwrap();
        assert!(calls.iter().rposition(|c| matches!(c, Call::SetMode(..))).is_none_or(|at| at < first_write));
    }
}

#[test]
fn leftovers_of_the_target_are_removed_after_success_only() {
    let others = ".n.dolmen.00112233445566aa.dolmen-tmp";
    let live = ".m.dolmen.00112233445566ff.dolmen-tmp";
    let scenario = Scenario { leftover: true, ..PLAIN };
    let memory = scenario.memory();
    memory.put(others, 0o600, b"of another target");
    memory.put(live, 0o600, b"of a living writer");
    memory.lock_as_another_process(live);

    AtomicFile::create(TARGET, &scenario.options(&memory)).unwrap().discard();
    assert!(memory.content(LEFTOVER).is_some(), "salvage may want it until a save succeeds");
    scenario.save(&memory).unwrap();
    assert_eq!(memory.content(LEFTOVER), None);
    assert!(memory.content(others).is_some());
    assert!(memory.content(live).is_some());

    let swept = sweep_in(&memory, memory::DIRECTORY.as_ref()).unwrap();
    assert_eq!(swept.removed, [Path::new("d").join(others)]);
    assert_eq!(swept.live, [Path::new("d").join(live)]);
    assert!(swept.failed.is_empty());
}

#[test]
fn sweeping_removes_nothing_where_there_are_no_locks() {
    let memory = Scenario { locks: false, leftover: true, ..PLAIN }.memory();
    let swept = sweep_in(&memory, memory::DIRECTORY.as_ref()).unwrap();
    assert!(swept.removed.is_empty() && swept.live.is_empty());
    assert_eq!(swept.failed.len(), 1);
    assert!(memory.content(LEFTOVER).is_some());
}

#[test]
fn sweep_with_any_call_failing_removes_no_more_than_the_dead() {
    let scenario = Scenario { leftover: true, ..PLAIN };
    let live = ".m.dolmen.00112233445566ff.dolmen-tmp";
    for errno in ERRNOS {
        for call in 0.. {
            let fault = Fault { call, errno: errno.raw_os_error(), after_effect: false, forever: false };
            let memory = scenario.memory().behave(|b| b.fault = Some(fault));
            memory.put(live, 0o600, b"of a living writer");
            memory.lock_as_another_process(live);
            let swept = sweep_in(&memory, memory::DIRECTORY.as_ref());
            assert!(memory.content(live).is_some() && memory.content(NAME).is_some());
            if memory.failed().is_empty() {
                assert_eq!(swept.unwrap().removed.len(), 1);
                break;
            }
        }
    }
}

// From here on: real file systems.

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn save(path: &Path, content: &[u8], options: &SaveOptions) -> Result<()> {
    let mut file = AtomicFile::create(path, options)?;
    file.append(content)?;
    file.commit()
}

fn names(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Starts this test program once more, to do only what [`errand`] says. `shell` runs before it in the same process.
fn send(errand: &str, path: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{shell}; exec \"$0\" --exact child_process_runs_its_errand --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env("DOLMEN_TEST_ERRAND", errand)
        .env("DOLMEN_TEST_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn wait_until_ready(child: &mut Child) {
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        if line.unwrap().ends_with("ready") {
            return;
        }
    }
    panic!("the child ended before it was ready");
}

#[test]
fn child_process_runs_its_errand() {
    let Ok(errand) = std::env::var("DOLMEN_TEST_ERRAND") else { return };
    let path = PathBuf::from(std::env::var_os("DOLMEN_TEST_PATH").unwrap());
    match errand.as_str() {
        "save" => save(&path, NEW, &SaveOptions::new()).unwrap(),
        "fail to save a megabyte" => {
            let error = save(&path, &[7; 1 << 20], &SaveOptions::new()).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::FileTooLarge, "{error}");
        }
        "fail to save in a read-only directory" => {
            let error = save(&path, NEW, &SaveOptions::new()).unwrap_err();
            assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        }
        "hold a save open" => {
            let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
            file.append(NEW).unwrap();
            println!("\nready");
            std::io::stdout().flush().unwrap();
            let _ = std::io::stdin().read(&mut [0]);
            panic!("the parent kills this process while it waits");
        }
        _ => panic!("unknown errand {errand}"),
    }
}

#[test]
fn saving_over_a_file_keeps_its_mode_and_nothing_else_of_it() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let other_name = directory.path().join("hard link");
    for bits in [0o600, 0o640, 0o666, 0o444, 0o755] {
        fs::write(&path, OLD).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
        fs::hard_link(&path, &other_name).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        save(&path, NEW, &SaveOptions::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), NEW);
        assert_eq!(mode(&path), bits);
        assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(fs::read(&other_name).unwrap(), OLD, "another name of the old file keeps the old content");
        fs::remove_file(&path).unwrap();
        fs::remove_file(&other_name).unwrap();
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn set_user_id_is_not_inherited() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn new_file_has_the_mode_that_the_umask_leaves() {
    for (umask, expected) in [("022", 0o644), ("077", 0o600), ("000", 0o666), ("027", 0o640)] {
        let directory = directory();
        let path = directory.path().join(NAME);
        assert!(send("save", &path, &format!("umask {umask}")).output().unwrap().status.success());
        assert_eq!(mode(&path), expected);
        assert_eq!(fs::read(&path).unwrap(), NEW);
    }
    // A file that is replaced overrules the umask.
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(send("save", &path, "umask 077").output().unwrap().status.success());
    assert_eq!(mode(&path), 0o664);
}

#[test]
fn file_size_limit_leaves_the_old_file_whether_the_signal_kills_or_not() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();

    let ignored = send("fail to save a megabyte", &path, "trap '' XFSZ; ulimit -f 64").output().unwrap();
    assert!(ignored.status.success(), "{ignored:?}");
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(names(directory.path()), [NAME]);

    let killed = send("fail to save a megabyte", &path, "ulimit -c 0; ulimit -f 64").output().unwrap();
    assert!(!killed.status.success());
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(sweep(directory.path()).unwrap().removed.len(), 1);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn create_new_refuses_what_exists_and_what_appears_meanwhile() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().create_new(true);

    let mut file = AtomicFile::create(&path, &options).unwrap();
    file.append(NEW).unwrap();
    fs::write(&path, OLD).unwrap();
    let error = file.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("already exists"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), OLD);

    assert!(AtomicFile::create(&path, &options).unwrap_err().to_string().contains("already exists"));
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert!(AtomicFile::create(&path, &options).unwrap_err().to_string().contains("already exists"));
    fs::remove_file(&path).unwrap();
    save(&path, NEW, &options).unwrap();
    assert_eq!(fs::read(&path).unwrap(), NEW);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn of_many_creators_of_one_file_exactly_one_succeeds() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().create_new(true).durability(Durability::None);
    let won = std::thread::scope(|scope| {
        let save_mine = |i: u8| (i, save(&path, &[i; 1000], &options));
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || save_mine(i))).collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        results.iter().filter(|(_, r)| r.is_ok()).map(|(i, _)| *i).collect::<Vec<_>>()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(fs::read(&path).unwrap(), [won[0]; 1000]);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn writers_of_one_file_do_not_disturb_each_other_or_readers() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let options = SaveOptions::new().durability(Durability::None);
    save(&path, &[0; 4096], &options).unwrap();
    std::thread::scope(|scope| {
        for writer in 1..4_u8 {
            let (path, options) = (&path, &options);
            scope.spawn(move || (0..50).for_each(|_| save(path, &[writer; 4096], options).unwrap()));
        }
        scope.spawn(|| {
            for _ in 0..500 {
                let seen = fs::read(&path).unwrap();
                assert!(seen.len() == 4096 && seen.iter().all(|b| *b == seen[0]));
            }
        });
        scope.spawn(|| {
            for _ in 0..50 {
                sweep(directory.path()).unwrap();
            }
        });
    });
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn file_can_be_saved_over_while_it_is_open() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    let mut reader = fs::File::open(&path).unwrap();
    let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    std::io::copy(&mut reader, &mut file).unwrap();
    file.append(NEW).unwrap();
    assert_eq!(file.byte_len(), (OLD.len() + NEW.len()) as u64);
    file.commit().unwrap();
    assert_eq!(reader.metadata().unwrap().len(), OLD.len() as u64);
    assert_eq!(fs::read(&path).unwrap(), [OLD, NEW].concat());
}

#[test]
fn patching_reaches_what_was_written_and_no_further() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    file.preallocate(1 << 20).unwrap();
    file.append(b"0123456789").unwrap();
    file.patch(4, b"abc").unwrap();
    file.patch(10, b"").unwrap();
    for (offset, bytes) in [(10, &b"x"[..]), (9, b"xy"), (u64::MAX, b"x")] {
        assert_eq!(file.patch(offset, bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let mut seen = [0; 5];
    file.read_exact_at(&mut seen, 3).unwrap();
    assert_eq!(&seen, b"3abc7");
    assert_eq!(file.read_exact_at(&mut seen, 6).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(file.read_exact_at(&mut seen, u64::MAX).unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    file.append(b"!").unwrap();
    file.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123abc789!");
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 < 1 << 19, "reserved space was kept: {} blocks", metadata.blocks());
}

#[test]
fn dropping_discarding_and_panicking_remove_the_temporary_file() {
    fn panics(_: &dyn ReadAt) -> Result<()> {
        panic!("a validator with a defect");
    }
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    for end in [drop::<AtomicFile>, AtomicFile::discard] {
        let mut file = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
        file.append(NEW).unwrap();
        assert!(file.temp_path().exists());
        assert_eq!(names(directory.path()).len(), 2);
        end(file);
        assert_eq!(names(directory.path()), [NAME]);
    }
    let options = SaveOptions::new().validator(Some(Arc::new(panics)));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| save(&path, NEW, &options))).is_err());
    assert_eq!(names(directory.path()), [NAME]);
    assert_eq!(fs::read(&path).unwrap(), OLD);
}

#[test]
fn sweep_removes_the_dead_and_keeps_the_living() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    fs::write(directory.path().join(".m.dolmen.dolmen-tmp"), b"not ours").unwrap();
    // Names like ours of things that are not: removing them is not ours to do.
    fs::create_dir(directory.path().join(".x.0000000000000000.dolmen-tmp")).unwrap();
    symlink(NAME, directory.path().join(".x.0000000000000001.dolmen-tmp")).unwrap();
    let fifo = directory.path().join(".x.0000000000000002.dolmen-tmp");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mine = AtomicFile::create(&path, &SaveOptions::new()).unwrap();
    let mut child = send("hold a save open", &path, ":").spawn().unwrap();
    wait_until_ready(&mut child);

    let swept = sweep(directory.path()).unwrap();
    assert_eq!((swept.removed.len(), swept.live.len(), swept.failed.len()), (0, 2, 3), "{swept:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read(&path).unwrap(), OLD);
    let swept = sweep(directory.path()).unwrap();
    assert_eq!((swept.removed.len(), swept.live.len(), swept.failed.len()), (1, 1, 3), "{swept:?}");
    assert_eq!(swept.live, [mine.temp_path()]);
    mine.commit().unwrap();
    assert_eq!(names(directory.path()).len(), 5);
}

#[test]
fn next_save_of_the_target_removes_what_a_killed_one_left() {
    let directory = directory();
    let path = directory.path().join(NAME);
    let mut child = send("hold a save open", &path, ":").spawn().unwrap();
    wait_until_ready(&mut child);
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()).len(), 2, "a living writer's file is left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    save(&directory.path().join("other"), NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()).len(), 3, "a save of another target leaves it");
    save(&path, NEW, &SaveOptions::new()).unwrap();
    assert_eq!(names(directory.path()), [NAME, "other"]);
}

#[test]
fn symbolic_links_are_followed_and_stay() {
    let directory = directory();
    let root = directory.path();
    fs::create_dir_all(root.join("real/deep")).unwrap();
    fs::create_dir(root.join("links")).unwrap();
    fs::write(root.join("real/deep/m"), OLD).unwrap();
    symlink("../real/step", root.join("links/m")).unwrap();
    symlink(root.join("real/deep/m"), root.join("real/step")).unwrap();

    let mut file = AtomicFile::create(root.join("links/m"), &SaveOptions::new()).unwrap();
    file.append(NEW).unwrap();
    assert_eq!(names(&root.join("links")), ["m"], "the temporary file is beside the file that is replaced");
    assert_eq!(names(&root.join("real/deep")).len(), 2);
    assert!(file.temp_path().exists());
    file.commit().unwrap();
    assert!(fs::symlink_metadata(root.join("links/m")).unwrap().is_symlink());
    assert!(fs::symlink_metadata(root.join("real/step")).unwrap().is_symlink());
    assert_eq!(fs::read(root.join("real/deep/m")).unwrap(), NEW);

    symlink("real/deep/fresh", root.join("dangling")).unwrap();
    save(&root.join("dangling"), NEW, &SaveOptions::new()).unwrap();
    assert_eq!(fs::read(root.join("real/deep/fresh")).unwrap(), NEW);

    symlink("loop", root.join("loop")).unwrap();
    assert!(save(&root.join("loop"), NEW, &SaveOptions::new()).is_err());
    symlink("real/deep", root.join("to a directory")).unwrap();
    let error = save(&root.join("to a directory"), NEW, &SaveOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn links_that_the_system_does_not_follow_are_not_followed() {
    let directory = directory();
    let protected = fs::read_to_string("/proc/sys/fs/protected_symlinks").is_ok_and(|s| s.trim() == "1");
    if !protected || fs::metadata(directory.path()).unwrap().uid() != 0 {
        eprintln!("SKIPPED: needs root, to plant the link of a stranger, and fs.protected_symlinks");
        return;
    }
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let precious = directory.path().join("precious");
    fs::write(&precious, OLD).unwrap();
    let trap = shared.join(NAME);
    symlink(&precious, &trap).unwrap();
    std::os::unix::fs::lchown(&trap, Some(65534), Some(65534)).unwrap();
    let error = save(&trap, NEW, &SaveOptions::new()).unwrap_err();
    assert!(error.to_string().contains("cannot follow the symbolic link"), "{error}");
    assert_eq!(fs::read(&precious).unwrap(), OLD);
}

#[test]
fn what_is_not_a_regular_file_is_refused() {
    let directory = directory();
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let inside = directory.path().join("x/");
    for path in [directory.path(), &fifo, Path::new("/dev/null"), Path::new(""), Path::new("/"), &inside] {
        let error = save(path, NEW, &SaveOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
        assert_eq!(error.path(), Some(path));
    }
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    assert!(fs::symlink_metadata("/dev/null").unwrap().file_type().is_char_device());
    let temp = directory.path().join(LEFTOVER);
    assert_eq!(save(&temp, NEW, &SaveOptions::new()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(names(directory.path()), ["fifo"]);
}

#[test]
fn missing_directory_is_named_and_the_remedy_told() {
    let directory = directory();
    let path = directory.path().join("missing/m.dolmen");
    let error = save(&path, NEW, &SaveOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.io_error().unwrap().kind(), std::io::ErrorKind::NotFound);
    let message = error.to_string();
    assert!(message.contains("missing/m.dolmen") && message.ends_with("create the directory first"), "{message}");
}

#[test]
fn read_only_directory_keeps_the_old_file() {
    let directory = directory();
    let path = directory.path().join(NAME);
    fs::write(&path, OLD).unwrap();
    let mut command = send("fail to save in a read-only directory", &path, ":");
    if fs::metadata(directory.path()).unwrap().uid() == 0 {
        // Root may write anywhere, so somebody else has to try.
        command.uid(65534);
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let output = command.output().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if output.status.code() == Some(126) || output.status.code() == Some(127) {
        eprintln!("SKIPPED: another user cannot run this test program: {output:?}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(&path).unwrap(), OLD);
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn directory_may_be_renamed_during_a_save() {
    let directory = directory();
    fs::create_dir(directory.path().join("a")).unwrap();
    let mut file = AtomicFile::create(directory.path().join("a/m"), &SaveOptions::new()).unwrap();
    file.append(NEW).unwrap();
    fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
    fs::create_dir(directory.path().join("a")).unwrap();
    file.commit().unwrap();
    assert_eq!(names(&directory.path().join("b")), ["m"]);
    assert!(names(&directory.path().join("a")).is_empty());
}

#[test]
fn names_as_long_as_the_file_system_takes_can_be_saved() {
    let directory = directory();
    for name in ["x".repeat(255), "ß".repeat(127)] {
        let path = directory.path().join(name);
        save(&path, OLD, &SaveOptions::new()).unwrap();
        save(&path, NEW, &SaveOptions::new()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), NEW);
    }
    assert_eq!(names(directory.path()).len(), 2);
    let too_long = directory.path().join("x".repeat(256));
    assert_eq!(AtomicFile::create(too_long, &SaveOptions::new()).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn real_rename_that_never_replaces_says_that_the_name_is_taken() {
    let directory = directory();
    fs::write(directory.path().join("a"), NEW).unwrap();
    fs::write(directory.path().join("b"), OLD).unwrap();
    let open = RealFileSystem.open_directory(directory.path()).unwrap();
    match open.rename_no_replace("a".as_ref(), "b".as_ref()).unwrap_err().kind() {
        std::io::ErrorKind::AlreadyExists => open.rename_no_replace("a".as_ref(), "c".as_ref()).unwrap(),
        std::io::ErrorKind::Unsupported => {
            open.hard_link("a".as_ref(), "c".as_ref()).unwrap();
            open.remove("a".as_ref()).unwrap();
        }
        other => panic!("{other}"),
    }
    assert_eq!(open.hard_link("c".as_ref(), "b".as_ref()).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(names(directory.path()), ["b", "c"]);
    open.sync().unwrap();
}

#[test]
fn atomic_file_can_move_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<AtomicFile>();
    check::<SaveOptions>();
    check::<Box<dyn OutputFile>>();
}
