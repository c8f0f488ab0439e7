//! The files around checkpoints, which anybody can have written.

use std::path::{Path, PathBuf};

use dolmen::lifecycle::{
    CheckpointErrorKind, FailedCheckpoint, FailedLog, PipelineState, STATE_FILE, Summary, failed_summary,
};

use super::dice::Random;
use super::open::{self, Outcome};
use super::seal::Mutate;
use super::work::{self, Allowance};
use super::{heap, json};

/// What reading such a file may take of the processor.
const LINEAR: Allowance = Allowance::of(4_000, 400);

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
    let (state, peak) =
        heap::peak(|| work::bounded("reading a state", LINEAR, data.len() as u64, || PipelineState::read(&path)));
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
    let (read, peak) = heap::peak(|| {
        work::bounded("reading a log", LINEAR, data.len() as u64, || log.read().expect("the file is there"))
    });
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

const WORDS: json::Words = json::Words {
    keys: &[
        "state_version",
        "created_at",
        "updated_at",
        "pipeline_config",
        "config_hash",
        "config",
        "stages",
        "stage",
        "extract",
        "status",
        "started_at",
        "completed_at",
        "failed_at",
        "duration_seconds",
        "inputs",
        "outputs",
        "files",
        "error",
        "fingerprints",
        "checkpoint",
        "len",
        "size",
        "mtime",
        "modified",
        "sha256",
        "",
    ],
    texts: &[
        "",
        "completed",
        "in_progress",
        "not_started",
        "failed",
        "extract",
        "2026-01-23T12:00:00Z",
        "2026-01-23T12:00:00.123456",
        "output_3.dolmen",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "\u{1b}[31m",
        "h\u{e9}\n",
    ],
};

/// The mutation of the target `pipeline_state`.
pub fn mutate_state(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    json::mutate(data, size, max_size, seed, &WORDS, mutate)
}

/// What lines of the log are made of, between bars.
const PARTS: [&str; 22] = [
    "output_3.dolmen",
    "/data/x.pt",
    "corrupted: file is 0 bytes",
    "unreadable: y",
    "incompatible:",
    "corrupted",
    "2026-01-23T12:00:00Z",
    "2026-01-23T12:00:00.123456Z",
    "2026-01-23T12:00:00",
    "2026-01-23T12:00",
    "2026-13-23T12:00:00Z",
    "",
    " ",
    "%7C",
    "%0A",
    "%7c",
    "%",
    "%41",
    "%C3%28",
    "h\u{e9}",
    "\0",
    "\r",
];

/// The mutation of the target `failed_log`: by lines, and by what is between their bars.
pub fn mutate_log(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    let Some((&choice, text)) = data[..size].split_first().filter(|_| !random.one_in(8)) else {
        return mutate(data, size, max_size);
    };
    let choice = if random.one_in(8) { random.u64() as u8 } else { choice };
    let mut lines: Vec<Vec<u8>> = text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    for _ in 0..1 + random.below(3) {
        let at = random.below(lines.len() + 1);
        match (random.below(6), lines.len()) {
            (0, _) | (_, 0) => {
                let mut parts: Vec<&str> =
                    vec![PARTS[random.below(2)], PARTS[2 + random.below(4)], PARTS[6 + random.below(5)]];
                if random.one_in(3) {
                    parts[random.below(3)] = PARTS[random.below(PARTS.len())];
                }
                lines.insert(at, parts.join("|").into_bytes());
            }
            (1, len) => drop(lines.remove(random.below(len))),
            (2, len) => {
                let copy = lines[random.below(len)].clone();
                lines.insert(at, copy);
            }
            (3, len) => {
                let line = &mut lines[random.below(len)];
                let old = line.len();
                line.resize(old + 16, 0);
                let new = mutate(line, old, old + 16);
                line.truncate(new);
            }
            (_, len) => {
                let line = &mut lines[random.below(len)];
                let mut parts: Vec<Vec<u8>> = line.split(|&byte| byte == b'|').map(<[u8]>::to_vec).collect();
                let part = PARTS[random.below(PARTS.len())].as_bytes().to_vec();
                let at = random.below(parts.len() + 1);
                match random.below(3) {
                    0 => parts.insert(at, part),
                    1 if at < parts.len() => parts[at].extend(part),
                    _ if at < parts.len() => parts[at] = part,
                    _ => drop(parts.pop()),
                }
                *line = parts.join(&b'|');
            }
        }
    }
    let new = [&[choice][..], &lines.join(&b'\n')].concat();
    json::put(data, &new, max_size).unwrap_or_else(|| mutate(data, size, max_size))
}
