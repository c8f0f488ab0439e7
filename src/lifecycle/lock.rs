//! The lock of a directory: one process runs a pipeline, or fills a shard, at a time.
//!
//! It is advisory, never waits, and belongs to an open file: when the process ends, however it ends, the kernel gives it back. The file
//! stays, for removing it could remove the lock that somebody else has just taken.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use serde_json::{Value as Json, json};

use crate::commit::file_system::{Directory, OutputFile, uninterrupted};
use crate::commit::means_no_locks;

/// The longest note of a holder that is read, in bytes.
const NOTE_MAX: usize = 1024;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// The process.
    pub pid: u32,
    /// The machine it runs on.
    pub host: String,
    /// Since when: UTC, ISO 8601.
    pub since: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}, since {}", self.pid, self.host, self.since)
    }
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: Box<dyn OutputFile>,
    /// Whether the file system has locks at all.
    pub(super) holds: bool,
}

/// Who holds a lock that another wants, if that could be read.
pub(super) type Held = Option<LockHolder>;

impl Lock {
    /// Takes the lock of a file in a directory, which is created if it is not there.
    pub(super) fn take(directory: &dyn Directory, name: &OsStr, now: &str) -> io::Result<Result<Lock, Held>> {
        let file = uninterrupted(|| directory.open_or_create(name, 0o666))?;
        let holds = match uninterrupted(|| file.try_lock()) {
            Ok(true) => true,
            Ok(false) => return Ok(Err(read_note(&*file))),
            Err(e) if means_no_locks(&e) => false,
            Err(e) => return Err(e),
        };
        // For messages alone: if it cannot be written, nobody is named.
        let _ = write_note(&*file, now);
        Ok(Ok(Lock { file, holds }))
    }
}

impl Lock {
    /// Whether the name still stands for the file that is locked: whoever takes it away lets another in.
    pub(super) fn has_its_name(&self, directory: &dyn Directory, name: &OsStr) -> io::Result<bool> {
        let named = uninterrupted(|| directory.status(name))?;
        let locked = uninterrupted(|| self.file.status())?;
        // Where files have no identity, that there is one must do.
        Ok(named.is_some_and(|named| named.identity == locked.identity))
    }
}

fn write_note(file: &dyn OutputFile, now: &str) -> io::Result<()> {
    let note = json!({"pid": std::process::id(), "host": host(), "since": now}).to_string();
    file.set_len(0)?;
    file.write_at(format!("{note}\n").as_bytes(), 0)?;
    Ok(())
}

/// What the holder says of itself; nothing if it has not come to that yet, or if it is something else.
fn read_note(file: &dyn OutputFile) -> Option<LockHolder> {
    let mut bytes = vec![0; NOTE_MAX];
    let read = uninterrupted(|| file.read_at(&mut bytes, 0)).ok()?;
    let note: Json = serde_json::from_slice(bytes.get(..read)?).ok()?;
    let plain = |key: &str| {
        let text = note.get(key)?.as_str()?;
        let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
        is_plain.then(|| text.to_owned())
    };
    Some(LockHolder { pid: note.get("pid")?.as_u64()?.try_into().ok()?, host: plain("host")?, since: plain("since")? })
}

/// The machine's name, in characters that are safe to show.
#[cfg(unix)]
fn host() -> String {
    plain_host(&rustix::system::uname().nodename().to_string_lossy())
}

#[cfg(not(unix))]
fn host() -> String {
    plain_host(&std::env::var("COMPUTERNAME").unwrap_or_default())
}

fn plain_host(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(64).collect();
    if plain.is_empty() { "unknown".to_owned() } else { plain }
}
