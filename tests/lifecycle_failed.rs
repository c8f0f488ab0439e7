//! Failures that are remembered: the file's lines, several processes at once, faults and crashes.
#![cfg(all(unix, feature = "lifecycle"))]

use common::memory::{Call, Fault, Memory};
use common::{Random, in_parallel};
use dolmen::commit::file_system::{Directory, FileSystem};
use dolmen::lifecycle::{CheckpointError, CheckpointErrorKind, FailedCheckpoint, FailedLog, failed_summary};
use dolmen::{Error, ErrorKind};
use proptest::prelude::*;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod common;

const NAME: &str = "failed_checkpoints.txt";
const TIME: &str = "2026-01-23T12:00:00Z";

fn corrupted(path: impl AsRef<Path>, message: &str) -> CheckpointError {
    CheckpointError::new(path, CheckpointErrorKind::Corrupted, message)
}

fn entry(path: impl Into<PathBuf>, reason: &str, time: &str) -> FailedCheckpoint {
    FailedCheckpoint { path: path.into(), reason: reason.into(), time: time.into() }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn paths(entries: &[FailedCheckpoint]) -> Vec<&Path> {
    entries.iter().map(|e| e.path.as_path()).collect()
}

// The four tests of the original, by their names.

#[test]
fn test_log_failed_checkpoint() {
    let directory = directory();
    let path = directory.path().join("failed.pt");
    let log = FailedLog::in_directory(directory.path());
    log.record(&[entry(&path, "corrupted: file is 0 bytes", TIME)]).unwrap();

    let text = fs::read_to_string(directory.path().join(NAME)).unwrap();
    assert_eq!(text, format!("{}|corrupted: file is 0 bytes|{TIME}\n", path.display()));
    assert_eq!(text.matches('|').count(), 2);
}

#[test]
fn test_load_failed_checkpoints() {
    let directory = directory();
    let lines = "checkpoint1.pt|corrupted: 0 bytes|2026-01-23T12:00:00Z\n\
                 checkpoint2.pt|incompatible: missing keys|2026-01-23T12:05:00Z\n";
    fs::write(directory.path().join(NAME), lines).unwrap();
    let entries = FailedLog::in_directory(directory.path()).entries().unwrap();
    assert_eq!(
        entries,
        [
            entry("checkpoint1.pt", "corrupted: 0 bytes", "2026-01-23T12:00:00Z"),
            entry("checkpoint2.pt", "incompatible: missing keys", "2026-01-23T12:05:00Z"),
        ]
    );
    assert_eq!(entries[0].kind(), Some(CheckpointErrorKind::Corrupted));
    assert_eq!(entries[1].kind(), Some(CheckpointErrorKind::Incompatible));
}

#[test]
fn test_load_failed_checkpoints_empty() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    assert!(log.entries().unwrap().is_empty());
    assert_eq!(log.clear(["a.pt"]).unwrap(), 0);
    assert!(FailedLog::in_directory(directory.path().join("no such directory")).entries().unwrap().is_empty());
    assert!(names(directory.path()).is_empty(), "looking creates nothing");
}

#[test]
fn test_log_append_multiple() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    log.append(&corrupted("failed1.pt", "error1")).unwrap();
    log.append(&corrupted("failed2.pt", "error2")).unwrap();
    let entries = log.entries().unwrap();
    assert_eq!(paths(&entries), [Path::new("failed1.pt"), Path::new("failed2.pt")]);
    assert_eq!(entries[0].reason, "corrupted: error1");
    assert!(entries.iter().all(|e| e.time.ends_with('Z') && e.time.starts_with("20")), "{entries:?}");
}

// Lines.

#[test]
fn every_line_has_two_bars_whatever_is_in_it() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let strange = [
        Path::new("a|b\nc\rd%e%7Cf\t\u{85}\u{1b}[31m.dolmen").to_path_buf(),
        Path::new(OsStr::from_bytes(b"\xff\xfe|\xc3\x28.pt")).to_path_buf(),
        Path::new(" spaces at both ends ").to_path_buf(),
        Path::new("\u{e4}\u{1F5FF}\u{202e}").to_path_buf(),
    ];
    let errors: Vec<_> = strange.iter().map(|path| corrupted(path, "x|y\r\nz 100% %0A")).collect();
    log.append_many(&errors).unwrap();

    let bytes = fs::read(directory.path().join(NAME)).unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    assert_eq!(text.lines().count(), strange.len());
    for line in text.split_terminator('\n') {
        assert_eq!(line.matches('|').count(), 2, "{line}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    assert!(text.contains("|corrupted: x%7Cy%0D%0Az 100%25 %250A|"), "{text}");
    assert!(text.starts_with("a%7Cb%0Ac%0Dd%25e%257Cf%09%C2%85%1B[31m.dolmen|"), "{text}");
    let entries = log.entries().unwrap();
    assert_eq!(paths(&entries), strange.each_ref().map(PathBuf::as_path));
    assert!(entries.iter().all(|e| e.reason == "corrupted: x|y\r\nz 100% %0A"));
}

#[test]
fn lines_of_the_original_are_taken_as_they_stand() {
    let lines: [(&[u8], FailedCheckpoint); 9] = [
        (
            b"/data/100%7Creal.pt|corrupted: file is 0 bytes|2026-01-23T12:00:00.123456",
            entry("/data/100%7Creal.pt", "corrupted: file is 0 bytes", "2026-01-23T12:00:00.123456"),
        ),
        (
            b"/data/a|b.pt|corrupted: torch.load failed - x|y|2026-01-23T12:00:00.123456",
            entry("/data/a|b.pt", "corrupted: torch.load failed - x|y", "2026-01-23T12:00:00.123456"),
        ),
        (
            b"/a|b|c.pt|incompatible: missing required keys {'data'}|2026-01-23T12:00:00",
            entry("/a|b|c.pt", "incompatible: missing required keys {'data'}", "2026-01-23T12:00:00"),
        ),
        (b"a.pt|error1|2026-01-23T12:00:00.1", entry("a.pt", "error1", "2026-01-23T12:00:00.1")),
        (b"a.pt|er|ror|2026-01-23T12:00:00.1", entry("a.pt", "er|ror", "2026-01-23T12:00:00.1")),
        // With a `Z`, but not as escaping would have written it.
        (b"50%.pt|corrupted: x|2026-01-23T12:00:00Z", entry("50%.pt", "corrupted: x", TIME)),
        (b"%41.pt|corrupted: x|2026-01-23T12:00:00Z", entry("%41.pt", "corrupted: x", TIME)),
        (b"a%7cb.pt|corrupted: x|2026-01-23T12:00:00Z", entry("a%7cb.pt", "corrupted: x", TIME)),
        // Written with Windows' line ends.
        (b"a.pt|corrupted: x|2026-01-23T12:00:00\r", entry("a.pt", "corrupted: x", "2026-01-23T12:00:00")),
    ];
    let directory = directory();
    for (line, expected) in lines {
        fs::write(directory.path().join(NAME), [line, b"\n"].concat()).unwrap();
        let found = FailedLog::in_directory(directory.path()).read().unwrap();
        assert_eq!((found.entries, found.malformed), (vec![expected], 0), "{}", line.escape_ascii());
    }
}

#[test]
fn junk_loses_no_good_line() {
    let directory = directory();
    let file = directory.path().join(NAME);
    let good = format!("good1.pt|corrupted: x|{TIME}\n");
    let junk: [&[u8]; 9] = [
        b"no bar at all\n",
        b"one|bar\n",
        b"|no path|2026-01-23T12:00:00Z\n",
        b"a|corrupted: no time|yesterday\n",
        b"\0\0\0\0|corrupted: x|2026-01-23T12:00:00Z\n",
        b"\xff\xfe\x00\n",
        b"%zz\n",
        b"\x1b[2J\n",
        b"||\n",
    ];
    let log = FailedLog::in_directory(directory.path());
    let long = [vec![b'x'; 600_000], b"|corrupted: x|2026-01-23T12:00:00Z\n".to_vec()].concat();
    let mut bytes = Vec::new();
    for piece in junk.iter().copied().chain([long.as_slice()]) {
        bytes.extend_from_slice(good.as_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes.extend_from_slice(b"\n  \n");
    bytes.extend_from_slice(b"half a line|corru");
    fs::write(&file, &bytes).unwrap();
    let found = log.read().unwrap();
    assert_eq!((found.entries.len(), found.malformed, found.unread_bytes), (10, 11, 0));

    // An append ends the unfinished line and changes nothing else.
    log.append(&corrupted("last.pt", "y")).unwrap();
    assert_eq!(fs::read(&file).unwrap()[..bytes.len()], bytes);
    let found = log.read().unwrap();
    assert_eq!((found.entries.len(), found.malformed), (11, 11));
    assert_eq!(found.entries[10].path, Path::new("last.pt"));

    // Clearing takes its lines and leaves the junk.
    assert_eq!(log.clear(["good1.pt", "last.pt"]).unwrap(), 11);
    let expected: Vec<u8> = [&junk.concat()[..], &long, b"\n  \n", b"half a line|corru|\n"].concat();
    assert!(fs::read(&file).unwrap() == expected);
}

#[test]
fn last_line_without_its_newline_counts_if_it_is_whole() {
    let directory = directory();
    fs::write(directory.path().join(NAME), format!("a.pt|corrupted: x|{TIME}\nb.pt|corrupted: y|{TIME}")).unwrap();
    let log = FailedLog::in_directory(directory.path());
    assert_eq!(log.read().unwrap().entries.len(), 2);
    log.append(&corrupted("c.pt", "z")).unwrap();
    assert_eq!(paths(&log.entries().unwrap()), ["a.pt", "b.pt", "c.pt"].map(Path::new));
}

/// A crash left the beginning of a line that names `a|b`. Read as it stands it would name another file, `a%7Cb`, and it did so for ever once the next
/// append had ended it.
#[test]
fn what_a_crash_left_of_a_line_never_tells_of_a_failure() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let whole = format!("a%7Cb|corrupted: x|{TIME}");
    for len in 1..whole.len() {
        fs::write(log.path(), &whole.as_bytes()[..len]).unwrap();
        let found = log.read().unwrap();
        assert_eq!((found.entries.len(), found.malformed), (0, 1), "{}", &whole[..len]);
        log.append(&corrupted("c", "z")).unwrap();
        let found = log.read().unwrap();
        assert_eq!((paths(&found.entries), found.malformed), (vec![Path::new("c")], 1), "{}", &whole[..len]);
    }
    // Nothing but its newline is missing.
    fs::write(log.path(), &whole).unwrap();
    assert_eq!(paths(&log.entries().unwrap()), [Path::new("a|b")]);
    log.append(&corrupted("c", "z")).unwrap();
    assert_eq!(paths(&log.entries().unwrap()), ["a|b", "c"].map(Path::new));
}

#[test]
fn of_a_huge_file_the_newest_lines_are_read_and_the_rest_is_counted() {
    let directory = directory();
    let file = directory.path().join(NAME);
    let line = format!("/data/features/output_000.pt|corrupted: file is 0 bytes|{TIME}\n");
    let mut bytes = line.repeat((20 << 20) / line.len()).into_bytes();
    bytes.extend_from_slice(format!("new|corrupted: x|{TIME}\n").as_bytes());
    fs::write(&file, &bytes).unwrap();
    let log = FailedLog::in_directory(directory.path());
    let found = log.read().unwrap();
    assert_eq!(found.entries.last().unwrap().path, Path::new("new"));
    assert_eq!(found.malformed, 0);
    let unread = found.unread_bytes as usize;
    assert!(unread > 3 << 20 && unread.is_multiple_of(line.len()), "{unread}");
    assert_eq!(found.entries.len() - 1, (bytes.len() - unread) / line.len());

    // All of it is cleared.
    assert_eq!(log.clear(["new"]).unwrap(), 1);
    assert_eq!(fs::metadata(&file).unwrap().len() as usize, (20 << 20) / line.len() * line.len());
    log.clear(["/data/features/output_000.pt"]).unwrap();
    assert!(!file.exists());
}

#[test]
fn endless_reasons_are_cut_and_impossible_paths_refused() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    log.append(&corrupted("a.pt", &"\u{e4}".repeat(1 << 20))).unwrap();
    let entries = log.entries().unwrap();
    assert!(
        entries[0].reason.len() < 17_000 && entries[0].reason.ends_with("\u{e4}\u{2026}"),
        "{}",
        entries[0].reason.len()
    );

    let before = fs::read(log.path()).unwrap();
    for bad in
        [entry("", "corrupted: x", TIME), entry("x".repeat(40_000), "corrupted: x", TIME), entry("x", "y", "noon Z")]
    {
        let e = log.record(&[entry("good", "corrupted: x", TIME), bad]).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::InvalidInput, Some(log.path())), "{e}");
    }
    assert_eq!(fs::read(log.path()).unwrap(), before, "nothing is written if one of them cannot be");
    log.append_many([]).unwrap();
    assert_eq!(fs::read(log.path()).unwrap(), before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_path_and_reason_come_back_as_they_were(
        failures in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), any::<String>()), 1..6),
    ) {
        let memory = Memory::new();
        let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
        let failures: Vec<_> = failures
            .into_iter()
            .map(|(path, reason)| entry(Path::new(OsStr::from_bytes(&path)), &reason, TIME))
            .collect();
        log.record(&failures).unwrap();
        prop_assert_eq!(log.entries().unwrap(), failures.clone());
        let bytes = memory.content(NAME).unwrap();
        prop_assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), failures.len());
        prop_assert_eq!(bytes.iter().filter(|b| **b == b'|').count(), 2 * failures.len());
    }

    #[test]
    fn any_bytes_are_read_and_none_are_lost_by_an_append(junk in prop::collection::vec(any::<u8>(), 0..200)) {
        let memory = Memory::new();
        memory.put(NAME, 0o644, &junk);
        let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
        let before = log.read().unwrap();
        log.record(&[entry("a|b", "corrupted: x", TIME)]).unwrap();
        let after = log.read().unwrap();
        prop_assert_eq!(&after.entries[..before.entries.len()], &before.entries[..]);
        prop_assert_eq!(after.entries.last(), Some(&entry("a|b", "corrupted: x", TIME)));
        prop_assert!(memory.content(NAME).unwrap().starts_with(&junk));
    }
}

// Summary.

#[test]
fn summary_speaks_as_the_original_does() {
    let failed: Vec<_> =
        (1..=7).map(|n| entry(format!("/x/output_{n}.pt"), "corrupted: file is 0 bytes", TIME)).collect();
    assert_eq!(
        failed_summary(&failed).to_string(),
        "Found 7 failed checkpoints from previous runs:\n  \
         output_1.pt: corrupted: file is 0 bytes\n  \
         output_2.pt: corrupted: file is 0 bytes\n  \
         output_3.pt: corrupted: file is 0 bytes\n  \
         output_4.pt: corrupted: file is 0 bytes\n  \
         output_5.pt: corrupted: file is 0 bytes\n  \
         ... and 2 more"
    );
    assert!(!failed_summary(&failed[..5]).to_string().contains("more"));
    assert!(failed_summary(&failed[..6]).to_string().ends_with("\n  ... and 1 more"));
    assert_eq!(failed_summary(&[]).to_string(), "");
}

#[test]
fn summary_counts_a_checkpoint_once_with_its_last_reason() {
    let failed = [
        entry("/x/a.pt", "corrupted: file is 0 bytes", TIME),
        entry("/x/b.pt", "corrupted: file is 0 bytes", TIME),
        entry("/x/a.pt", "incompatible: checkpoint is not a dict", TIME),
    ];
    let summary = failed_summary(&failed);
    assert_eq!(summary.len(), 2);
    assert_eq!(
        summary.to_string(),
        "Found 2 failed checkpoints from previous runs:\n  \
         a.pt: incompatible: checkpoint is not a dict\n  \
         b.pt: corrupted: file is 0 bytes"
    );
}

#[test]
fn summary_cannot_write_on_the_terminal_or_fill_it() {
    let failed = [entry("/x/\u{1b}[2J\n\u{202e}.pt", &"\u{7}x".repeat(10_000), TIME)];
    let text = failed_summary(&failed).to_string();
    assert!(
        text.starts_with("Found 1 failed checkpoints from previous runs:\n  \\u{1b}[2J\\n\\u{202e}.pt: \\u{7}x"),
        "{text}"
    );
    assert!(text.len() < 2_000 && text.lines().count() == 2);
}

// Clearing.

#[test]
fn checkpoints_that_pass_again_are_forgotten() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    for name in ["a.pt", "b.pt", "a.pt", "/abs/c.pt", "x/../d.pt"] {
        log.append(&corrupted(name, "x")).unwrap();
    }
    assert_eq!(log.clear(["nothing.pt"]).unwrap(), 0);
    assert_eq!(log.clear([std::env::current_dir().unwrap().join("a.pt")]).unwrap(), 2, "both lines of it");
    assert_eq!(log.clear(["/abs/./c.pt", "b.pt"]).unwrap(), 2);
    assert_eq!(paths(&log.entries().unwrap()), [Path::new("x/../d.pt")]);
    assert_eq!(names(directory.path()), [NAME]);
    assert_eq!(log.clear(["x/../d.pt"]).unwrap(), 1);
    assert!(names(directory.path()).is_empty(), "an empty log is removed");
}

#[test]
fn clearing_keeps_the_mode_of_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    log.append_many(&[corrupted("a", "x"), corrupted("b", "x")]).unwrap();
    fs::set_permissions(log.path(), fs::Permissions::from_mode(0o660)).unwrap();
    log.clear(["a"]).unwrap();
    assert_eq!(fs::metadata(log.path()).unwrap().permissions().mode() & 0o777, 0o660);
}

// What stands in the way.

#[test]
fn waiting_for_the_lock_ends_with_a_message() {
    let memory = Memory::new();
    memory.put(NAME, 0o644, format!("a.pt|corrupted: x|{TIME}\n").as_bytes());
    memory.lock_as_another_process(NAME);
    let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone())).patience(Duration::from_millis(120));
    let begun = Instant::now();
    for e in [log.append(&corrupted("b.pt", "y")).unwrap_err(), log.clear(["a.pt"]).unwrap_err()] {
        let text = e.to_string();
        assert!(
            text.starts_with("d/failed_checkpoints.txt: another process has held the file's lock for 0.12 s"),
            "{text}"
        );
        assert!(text.contains("end it if it hangs"), "{text}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(240) && begun.elapsed() < Duration::from_secs(5));
    assert_eq!(log.entries().unwrap().len(), 1, "reading waits for nobody");
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let outside = directory.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    std::os::unix::fs::symlink(&outside, log.path()).unwrap();
    assert!(log.append(&corrupted("a", "x")).is_err());
    assert!(log.entries().is_err());
    assert_eq!(fs::read(&outside).unwrap(), b"precious");

    fs::remove_file(log.path()).unwrap();
    fs::create_dir(log.path()).unwrap();
    assert!(log.append(&corrupted("a", "x")).is_err());
    assert!(log.entries().is_err());

    fs::remove_dir(log.path()).unwrap();
    assert!(Command::new("mkfifo").arg(log.path()).status().unwrap().success());
    let e = log.append(&corrupted("a", "x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
    assert_eq!(log.entries().unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn missing_directory_is_named_with_what_to_do() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path().join("gone"));
    let e = log.append(&corrupted("a", "x")).unwrap_err();
    assert!(e.to_string().contains("create the directory first"), "{e}");
}

#[test]
fn without_locks_lines_are_appended_and_none_cleared() {
    let memory = Memory::new().behave(|b| b.locks = false);
    memory.put(NAME, 0o644, format!("a.pt|corrupted: x|{TIME}\n").as_bytes());
    let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
    log.append(&corrupted("b.pt", "y")).unwrap();
    assert_eq!(log.entries().unwrap().len(), 2);
    let e = log.clear(["a.pt"]).unwrap_err();
    assert!(e.advice().is_some(), "{e}");
    assert_eq!(log.entries().unwrap().len(), 2);
}

#[test]
fn appender_notices_that_the_log_was_replaced_or_removed_while_it_waited() {
    for replaced in [true, false] {
        let directory = directory();
        let log = FailedLog::in_directory(directory.path());
        log.append(&corrupted("a", "x")).unwrap();
        let held = dolmen::commit::SharedFile::open(&dolmen::commit::RealFileSystem, log.path(), Duration::ZERO);
        let held = held.unwrap().unwrap();
        let waiting = std::thread::spawn({
            let log = log.clone();
            move || log.append(&corrupted("b", "y"))
        });
        std::thread::sleep(Duration::from_millis(100));
        match replaced {
            true => {
                let new = directory.path().join("new");
                fs::write(&new, format!("c|corrupted: z|{TIME}\n")).unwrap();
                fs::rename(&new, log.path()).unwrap();
                drop(held);
            }
            false => held.remove().unwrap(),
        }
        waiting.join().unwrap().unwrap();
        let entries = log.entries().unwrap();
        assert_eq!(entries.last().unwrap().path, Path::new("b"));
        assert_eq!(entries.len(), if replaced { 2 } else { 1 });
    }
}

/// So a network file system says of a file that another machine replaced.
#[test]
fn appender_whose_file_has_become_stale_opens_it_again() {
    let memory = Memory::new();
    old_log(&memory).append(&corrupted("f", "y")).unwrap();
    let calls = memory.calls();
    let locked = calls.iter().position(|call| matches!(call, Call::TryLock(_))).unwrap();
    let looked = calls[locked..].iter().position(|call| matches!(call, Call::FileStatus(_))).unwrap();
    let errno = rustix::io::Errno::STALE.raw_os_error();
    let fault = Fault { call: locked + looked, errno, after_effect: false, forever: false };
    let memory = Memory::new().behave(|b| b.fault = Some(fault));
    old_log(&memory).append(&corrupted("f", "y")).unwrap();
    assert_eq!(paths_in(&memory.content(NAME)), set(&["a", "b|c", "d", "f"]));
}

// Every call failing, every crash.

const OLD: [&str; 3] = ["a", "b|c", "d"];

/// A log that has been there for long, with an unfinished line at its end.
fn old_log(memory: &Memory) -> FailedLog {
    let scratch = Memory::new();
    let log = FailedLog::in_directory("d").file_system(Arc::new(scratch.clone()));
    log.record(&OLD.map(|path| entry(path, "corrupted: x", TIME))).unwrap();
    let mut bytes = scratch.content(NAME).unwrap();
    bytes.extend_from_slice(b"e|corru");
    memory.put(NAME, 0o644, &bytes);
    log.file_system(Arc::new(memory.clone()))
}

/// The paths that a log with this content would give.
fn paths_in(content: &Option<Vec<u8>>) -> BTreeSet<PathBuf> {
    let memory = Memory::new();
    if let Some(bytes) = content {
        memory.put(NAME, 0o644, bytes);
    }
    let log = FailedLog::in_directory("d").file_system(Arc::new(memory));
    log.entries().unwrap().into_iter().map(|e| e.path).collect()
}

fn set(paths: &[&str]) -> BTreeSet<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

const ERRNOS: [Errno; 8] =
    [Errno::IO, Errno::NOSPC, Errno::ACCESS, Errno::INTR, Errno::NOENT, Errno::NOTSUP, Errno::STALE, Errno::MFILE];

/// Runs work with each call failing in each way, and hands over what became of it.
fn with_every_fault(
    begin: impl Fn(&Memory) -> FailedLog,
    work: impl Fn(&FailedLog) -> Result<usize, Error>,
    check: impl Fn(&Memory, &Result<usize, Error>, &str),
) -> usize {
    let mut runs = 0;
    for errno in ERRNOS {
        for (after_effect, forever) in [(false, false), (true, false), (false, true)] {
            if forever && errno == Errno::INTR {
                continue;
            }
            for longest_write in [usize::MAX, 7] {
                for call in 0.. {
                    let fault = Fault { call, errno: errno.raw_os_error(), after_effect, forever };
                    let memory = Memory::new();
                    let log = begin(&memory).patience(Duration::from_millis(2));
                    let before = memory.calls().len();
                    let memory = memory.behave(|b| {
                        b.watched = Some(NAME.into());
                        b.longest_write = longest_write;
                        b.fault = Some(Fault { call: before + call, ..fault });
                    });
                    let result = work(&log);
                    let failed = memory.failed().first().cloned();
                    let memory = memory.behave(|b| b.fault = None);
                    check(&memory, &result, &format!("{fault:?} in {failed:?}: {result:?}"));
                    runs += 1;
                    if failed.is_none() {
                        assert!(result.is_ok());
                        break;
                    }
                }
            }
        }
    }
    runs
}

#[test]
fn append_with_any_call_failing_or_a_crash_anywhere_loses_nothing() {
    let old = set(&OLD);
    let runs = with_every_fault(
        old_log,
        |log| log.append(&corrupted("new", "y")).map(|()| 1),
        |memory, result, story| {
            let moments = memory.take_moments();
            for (call, content) in
                moments.iter().flat_map(|m| m.after_crash.iter().chain([&m.visible]).map(|c| (&m.call, c)))
            {
                assert!(paths_in(content).is_superset(&old), "{story}: after {call:?}: {content:?}");
            }
            for content in memory.after_crash(NAME) {
                let found = paths_in(&content);
                assert!(result.is_err() || found.contains(Path::new("new")), "{story}: acknowledged and lost");
                assert!(found.is_superset(&old), "{story}");
            }
            // Whatever happened, the next append is unharmed.
            let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
            log.append(&corrupted("next", "z")).unwrap_or_else(|e| panic!("{story}: {e}"));
            for content in memory.after_crash(NAME) {
                let found = paths_in(&content);
                assert!(found.is_superset(&old) && found.contains(Path::new("next")), "{story}: {content:?}");
                assert!(result.is_err() || found.contains(Path::new("new")), "{story}: lost by the next append");
            }
        },
    );
    assert!(runs > 500, "{runs}");
}

#[test]
fn first_append_with_any_call_failing_or_a_crash_anywhere_is_there_when_it_is_acknowledged() {
    let runs = with_every_fault(
        |memory| FailedLog::in_directory("d").file_system(Arc::new(memory.clone())),
        |log| log.append(&corrupted("new", "y")).map(|()| 1),
        |memory, result, story| {
            for content in memory.after_crash(NAME) {
                let found = paths_in(&content);
                assert!(found.is_subset(&set(&["new"])), "{story}");
                assert!(result.is_err() || found == set(&["new"]), "{story}: acknowledged and lost");
            }
        },
    );
    assert!(runs > 400, "{runs}");
}

#[test]
fn clear_with_any_call_failing_or_a_crash_anywhere_leaves_the_old_log_or_the_new_one() {
    let runs = with_every_fault(
        |memory| {
            let log = old_log(memory);
            log.append(&corrupted("f", "y")).unwrap();
            log
        },
        |log| log.clear(["b|c"]),
        |memory, result, story| {
            let (old, new) = (set(&["a", "b|c", "d", "f"]), set(&["a", "d", "f"]));
            for content in memory.take_moments().iter().flat_map(|m| m.after_crash.iter().chain([&m.visible])) {
                let found = paths_in(content);
                assert!(found == old || found == new, "{story}: {content:?}");
            }
            for content in memory.after_crash(NAME) {
                let found = paths_in(&content);
                let done = matches!(result, Ok(1));
                assert!(if done { found == new } else { found == old || found == new }, "{story}: {content:?}");
            }
        },
    );
    assert!(runs > 500, "{runs}");
}

#[test]
fn clear_that_leaves_nothing_is_durable_too() {
    with_every_fault(
        |memory| {
            let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
            log.append(&corrupted("a", "x")).unwrap();
            log
        },
        |log| log.clear(["a"]),
        |memory, result, story| {
            let sure = matches!(result, Ok(1));
            for content in memory.after_crash(NAME) {
                let found = paths_in(&content);
                assert!(found == set(&["a"]) || found.is_empty(), "{story}");
                assert!(!sure || found.is_empty(), "{story}: cleared, and back after a crash");
            }
        },
    );
}

/// A clear that died between its rename and the flush of the directory leaves the name to whoever appends next.
#[test]
fn append_after_a_clear_that_died_flushes_the_name() {
    let memory = Memory::new();
    let log = old_log(&memory);
    let syncs = |memory: &Memory| memory.calls().iter().filter(|c| **c == Call::SyncDirectory).count();
    let memory = memory.behave(|b| b.ignores_directory_sync = true);
    log.clear(["a"]).unwrap();
    let memory = memory.behave(|b| b.ignores_directory_sync = false);
    let before = syncs(&memory);
    log.append(&corrupted("new", "y")).unwrap();
    assert!(syncs(&memory) > before);
    assert!(memory.after_crash(NAME).iter().all(|content| paths_in(content).contains(Path::new("new"))));
}

/// And to whoever clears next, although there is nothing left to clear: the lines were back after a crash.
#[test]
fn clear_after_a_clear_that_died_flushes_the_name() {
    for passed in [&["a"][..], &OLD] {
        let memory = Memory::new();
        let log = old_log(&memory);
        let memory = memory.behave(|b| b.ignores_directory_sync = true);
        assert_eq!(log.clear(passed).unwrap(), passed.len());
        assert!(memory.after_crash(NAME).iter().any(|content| paths_in(content).contains(Path::new("a"))));
        let memory = memory.behave(|b| b.ignores_directory_sync = false);
        assert_eq!(log.clear(passed).unwrap(), 0);
        assert!(memory.after_crash(NAME).iter().all(|content| !paths_in(content).contains(Path::new("a"))));
    }
}

#[test]
fn crash_check_catches_a_log_whose_flushes_do_nothing() {
    for directory_only in [true, false] {
        let memory = Memory::new()
            .behave(|b| (b.ignores_file_sync, b.ignores_directory_sync) = (!directory_only, directory_only));
        let log = FailedLog::in_directory("d").file_system(Arc::new(memory.clone()));
        log.append(&corrupted("new", "y")).unwrap();
        assert!(memory.after_crash(NAME).iter().any(|content| paths_in(content).is_empty()));
    }
}

// Several at once.

/// Starts this test program once more, to do only what [`errand`] says.
fn send(errand: &str, directory: &Path, who: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_process_runs_its_errand", "--nocapture"])
        .env("DOLMEN_TEST_ERRAND", errand)
        .env("DOLMEN_TEST_PATH", directory)
        .env("DOLMEN_TEST_WHO", who.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

#[test]
fn child_process_runs_its_errand() {
    let Ok(errand) = std::env::var("DOLMEN_TEST_ERRAND") else { return };
    let log = FailedLog::in_directory(std::env::var_os("DOLMEN_TEST_PATH").unwrap());
    let who = std::env::var("DOLMEN_TEST_WHO").unwrap();
    match errand.as_str() {
        "append 200" => {
            for n in 0..200 {
                log.append(&corrupted(format!("{who}/{n}|\n"), "x")).unwrap();
            }
        }
        "append and say so" => {
            let mut out = std::io::stdout();
            for n in 0.. {
                log.append(&corrupted(format!("{who}/{n}"), &"long ".repeat(n % 500))).unwrap();
                out.write_all(format!("\nappended {who}/{n}\n").as_bytes()).unwrap();
                out.flush().unwrap();
            }
        }
        _ => panic!("unknown errand {errand}"),
    }
}

#[test]
fn eight_processes_append_while_another_clears_and_nothing_is_lost_or_torn() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let children: Vec<_> = (0..8).map(|who| send("append 200", directory.path(), who).spawn().unwrap()).collect();
    let mut cleared = 0;
    let mut rounds = 0;
    let mut children: Vec<_> = children.into_iter().map(Some).collect();
    while children.iter().any(Option::is_some) {
        // Half of them pass again, over and over.
        let passed = (0..200).filter(|n| n % 2 == 0).flat_map(|n| (0..8).map(move |who| format!("{who}/{n}|\n")));
        cleared += log.clear(passed).unwrap();
        rounds += 1;
        let found = log.read().unwrap();
        assert!(found.malformed <= 1, "at most a line that is being appended");
        for child in &mut children {
            if let Some(status) = child.as_mut().and_then(|c| c.try_wait().unwrap()) {
                assert!(status.success());
                *child = None;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let passed = (0..200).filter(|n| n % 2 == 0).flat_map(|n| (0..8).map(move |who| format!("{who}/{n}|\n")));
    cleared += log.clear(passed).unwrap();
    assert_eq!(cleared, 800);
    assert!(rounds > 3, "{rounds}");
    let found = log.read().unwrap();
    assert_eq!(found.malformed, 0);
    assert_eq!(found.entries.len(), 800);
    for who in 0..8 {
        let of_one: Vec<_> = found.entries.iter().filter(|e| e.path.starts_with(who.to_string())).collect();
        let expected: Vec<_> =
            (0..200).filter(|n| n % 2 == 1).map(|n| PathBuf::from(format!("{who}/{n}|\n"))).collect();
        assert_eq!(of_one.iter().map(|e| e.path.clone()).collect::<Vec<_>>(), expected, "in the order of appending");
    }
    assert_eq!(names(directory.path()), [NAME]);
}

#[test]
fn threads_append_at_once_and_nothing_is_lost() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let numbers: Vec<usize> = (0..60).collect();
    in_parallel(&numbers, |n| log.append(&corrupted(n.to_string(), "x")).unwrap());
    let found: BTreeSet<_> = log.entries().unwrap().into_iter().map(|e| e.path).collect();
    assert_eq!(found, numbers.iter().map(|n| PathBuf::from(n.to_string())).collect());
}

#[test]
fn killed_while_appending_loses_nothing_that_was_acknowledged() {
    let directory = directory();
    let log = FailedLog::in_directory(directory.path());
    let mut random = Random::new(11);
    let mut acknowledged = Vec::new();
    for who in 0..12 {
        let mut child = send("append and say so", directory.path(), who).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + random.next() % 80));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        acknowledged.extend(
            text.split_inclusive('\n')
                .filter_map(|line| line.strip_prefix("appended ")?.strip_suffix('\n'))
                .map(PathBuf::from),
        );
    }
    assert!(acknowledged.len() > 12, "{}", acknowledged.len());
    log.append(&corrupted("last", "x")).unwrap();
    let found = log.read().unwrap();
    let paths: BTreeSet<_> = found.entries.iter().map(|e| e.path.clone()).collect();
    assert!(acknowledged.iter().all(|path| paths.contains(path)));
    assert!(paths.contains(Path::new("last")));
    assert!(found.malformed <= 12);
}

/// The lock lies on the file itself; this sees that opening creates nothing that it should not.
#[test]
fn file_system_opens_or_creates_without_cutting_off() {
    let directory = directory();
    let path = directory.path().join("f");
    fs::write(&path, "content").unwrap();
    let open = dolmen::commit::RealFileSystem.open_directory(directory.path()).unwrap();
    let file = Directory::open_or_create(&*open, "f".as_ref(), 0o600).unwrap();
    assert_eq!(file.status().unwrap().byte_len, 7);
    Directory::open_or_create(&*open, "g".as_ref(), 0o600).unwrap();
    assert_eq!(open.status("g".as_ref()).unwrap().unwrap().mode, 0o600);
    open.create_directory("h".as_ref(), 0o700).unwrap();
    assert_eq!(open.create_directory("h".as_ref(), 0o700).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

#[test]
fn an_endless_line_that_the_file_ends_with_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let log = FailedLog::in_directory(directory.path());
    for len in [100 << 10, 300 << 10] {
        for end in ["", "\n"] {
            std::fs::write(log.path(), format!("a.pt|corrupted: x|2026-01-23T12:00:00Z\n{}{end}", "j".repeat(len)))
                .unwrap();
            let found = log.read().unwrap();
            assert_eq!((found.entries.len(), found.malformed), (1, 1), "{len} {end:?}");
        }
    }
}
