//! The files around checkpoints, which anybody can have written.

use std::path::{Path, PathBuf};

use dolmen::lifecycle::{
    CheckpointErrorKind, FailedCheckpoint, FailedLog, PipelineState, STATE_FILE, Summary, failed_summary,
};

use super::heap;
use super::open::{self, Outcome};

/// A directory of this process and thread, in memory where there is a place for that.
fn scratch(what: &str) -> PathBuf {
    let path = open::scratch(what).with_extension("d");
    std::fs::create_dir_all(&path).expect("a place for temporary files");
    path
}

/// Removes it, with the file in it.
fn remove(directory: &Path, file: &Path) {
    let _ = std::fs::remove_file(file);
    let _ = std::fs::remove_dir(directory);
}

fn assert_bounded(peak: u64, allowed_each: u64, data: &[u8]) {
    let allowed = (1 << 20) + allowed_each * data.len() as u64;
    assert!(peak <= allowed, "{peak} bytes were in use at a time for a file of {}; {allowed} are allowed", data.len());
}

/// Nothing of a file may act on a terminal.
fn assert_printable(text: &str) {
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

/// `pipeline_state.json`: read in bounded memory, or refused with the file to blame.
pub fn pipeline_state(data: &[u8]) -> Outcome {
    let directory = scratch("state");
    let path = directory.join(STATE_FILE);
    std::fs::write(&path, data).expect("a place for temporary files");
    let (state, peak) = heap::peak(|| PipelineState::read(&path));
    remove(&directory, &path);
    // JSON becomes a tree of values.
    assert_bounded(peak, 600, data);
    match state {
        Ok(state) => {
            let stages: Vec<_> = state.stages().collect();
            let summary = Summary::of_state(&state);
            assert_eq!(summary.total, stages.len());
            assert!(summary.complete <= summary.total);
            assert_eq!(summary.next.is_none(), summary.complete == summary.total);
            assert_printable(&summary.to_string());
            assert!(stages.iter().all(|stage| state.stage(&stage.name).is_some()));
            Outcome::Valid
        }
        Err(e) => {
            assert_ne!(e.kind, CheckpointErrorKind::Unreadable, "not an error of a file: {e}");
            assert_printable(&e.message);
            Outcome::Refused(e.kind.name())
        }
    }
}

/// `failed_checkpoints.txt`: every line is a failure or counted; an append changes none of them, and what is cleared is gone and nothing else.
///
/// The first byte says what is appended and cleared.
pub fn failed_log(data: &[u8]) -> Outcome {
    let Some((&choice, bytes)) = data.split_first() else { return Outcome::Refused("empty") };
    let directory = scratch("log");
    let log = FailedLog::in_directory(&directory);
    std::fs::write(log.path(), bytes).expect("a place for temporary files");
    let (read, peak) = heap::peak(|| log.read().expect("the file is there"));
    assert_bounded(peak, 200, data);
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    assert_eq!(read.entries.len() + read.malformed, lines, "every line is a failure or counted");
    assert_printable(&failed_summary(&read.entries).to_string());

    let half = bytes.len() / 2;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let path = if choice & 1 == 1 && half > 0 { text(&bytes[..half]) } else { "x".to_owned() };
    let reason = if choice & 2 == 2 { text(&bytes[half..]) } else { "corrupted: y".to_owned() };
    let new = FailedCheckpoint::new(path, reason);
    log.record(std::slice::from_ref(&new)).expect("a failure can be recorded");
    let after = log.read().expect("the file is there");
    assert_eq!(after.malformed, read.malformed);
    let (last, before) = after.entries.split_last().expect("one was recorded");
    assert_eq!(before, read.entries, "an append changed what was there");
    assert_eq!(*last, new);

    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let gone = absolute(&after.entries[usize::from(choice >> 2) % after.entries.len()].path);
    let cleared = log.clear([&gone]).expect("the log can be cleared");
    let (away, kept): (Vec<_>, Vec<_>) = after.entries.into_iter().partition(|entry| absolute(&entry.path) == gone);
    assert_eq!(cleared, away.len());
    let end = log.read().expect("the file may be gone");
    assert_eq!((end.entries, end.malformed), (kept, after.malformed), "more was cleared, or less");
    remove(&directory, log.path());
    if after.malformed == 0 { Outcome::Valid } else { Outcome::Refused("malformed lines") }
}
