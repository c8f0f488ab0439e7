//! [`FailedLog`]: the checkpoints that did not pass, remembered in `failed_checkpoints.txt`.
//!
//! # The file
//! A line a failure, `path|reason|time`, in the order in which they happened; a checkpoint that fails again has another line. In what is
//! written here `|`, `%`, control characters and the bytes of a path that are not UTF-8 appear as `%7C`, `%25`, `%0A` and so on, so that a
//! line has two bars and one newline whatever the path is called. Times are UTC and end in `Z`.
//!
//! # Lines of the original
//! The pipeline that this file comes from escapes nothing, and its times have no `Z`. A line is taken as escaped if it has exactly two
//! bars, its time ends in `Z`, and escaping would have written path and reason just as they are. Any other line is taken as it stands: the
//! time is what follows the last bar; the reason begins after the first bar that `corrupted:`, `incompatible:` or `unreadable:` follows,
//! or else after the first bar of all.
//!
//! # What is not a line
//! Binary junk, and what a crash left of an append, is counted, kept where it is, and harms no other line. A last line without its newline
//! counts only if its time is whole, with its `Z`: otherwise more may be missing, and what is left could name another file. The next append
//! ends an unfinished line first, with a bar if it does not count, so that it never will.

mod line;
mod summary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{CheckpointError, CheckpointErrorKind};
use crate::commit::file_system::{FileSystem, uninterrupted};
use crate::commit::{AtomicFile, RealFileSystem, SaveOptions, SharedFile, cannot_be_flushed, split};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

pub use summary::{FailedSummary, summary};

/// The file's name.
const NAME: &str = "failed_checkpoints.txt";

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the file that are read at most, from its end.
const TAIL_MAX: u64 = 16 << 20;

/// How often a reader begins again because the file, from which a failed append was taken back, became shorter.
const SHRINKS: usize = 8;

/// Bytes that are read or written at once when the file is gone through.
const PIECE: usize = 64 << 10;

/// A checkpoint that did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCheckpoint {
    /// The checkpoint, as whoever found the failure named it.
    pub path: PathBuf,
    /// Kind and message, such as `corrupted: file is 0 bytes`.
    pub reason: String,
    /// When it failed, as it is written in the file: UTC, such as `2026-01-23T12:00:00.000000Z`.
    pub time: String,
}

impl FailedCheckpoint {
    /// A failure that is found now.
    pub fn new(path: impl Into<PathBuf>, reason: impl Into<String>) -> FailedCheckpoint {
        FailedCheckpoint { path: path.into(), reason: reason.into(), time: format!("{:.6}", jiff::Timestamp::now()) }
    }

    /// The kind of trouble, by the reason's first word, if it is one of the known ones.
    pub fn kind(&self) -> Option<CheckpointErrorKind> {
        use CheckpointErrorKind::{Corrupted, Incompatible, Unreadable};
        let (word, _) = self.reason.split_once(':')?;
        [Corrupted, Incompatible, Unreadable].into_iter().find(|kind| kind.name() == word)
    }
}

impl From<&CheckpointError> for FailedCheckpoint {
    fn from(e: &CheckpointError) -> FailedCheckpoint {
        FailedCheckpoint::new(&e.path, e.reason())
    }
}

/// What is in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedEntries {
    /// The failures, oldest first.
    pub entries: Vec<FailedCheckpoint>,
    /// Lines that tell of none.
    pub malformed: usize,
    /// Bytes of older lines that were not read, because the file is too large.
    pub unread_bytes: u64,
}

/// The file `failed_checkpoints.txt` of a directory, in which failures are remembered from run to run.
///
/// Any number of threads and processes may append, read and clear at once. What an append has acknowledged survives a crash, and only
/// [`clear`](FailedLog::clear) removes it.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// use dolmen::lifecycle::{CheckpointError, CheckpointErrorKind, FailedLog, failed_summary};
///
/// let log = FailedLog::in_directory(dir.path());
/// log.append(&CheckpointError::new("output_3.dolmen", CheckpointErrorKind::Corrupted, "file is 0 bytes"))?;
/// let failed = log.entries()?;
/// assert_eq!(
///     failed_summary(&failed).to_string(),
///     "Found 1 failed checkpoints from previous runs:\n  output_3.dolmen: corrupted: file is 0 bytes"
/// );
/// assert_eq!(log.clear(["output_3.dolmen"])?, 1);
/// assert!(log.entries()?.is_empty());
/// # Ok::<(), dolmen::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct FailedLog {
    path: PathBuf,
    patience: Duration,
    file_system: Arc<dyn FileSystem>,
}

impl FailedLog {
    /// The log of a directory. Nothing is touched yet: an append creates the file, not the directory.
    pub fn in_directory(directory: impl AsRef<Path>) -> FailedLog {
        FailedLog { path: directory.as_ref().join(NAME), patience: PATIENCE, file_system: Arc::new(RealFileSystem) }
    }

    /// Where the directory is: the machine's file system, or a test's.
    pub fn file_system(mut self, file_system: Arc<dyn FileSystem>) -> FailedLog {
        self.file_system = file_system;
        self
    }

    /// How long to wait for others who are writing; 30 seconds unless told otherwise.
    pub fn patience(mut self, patience: Duration) -> FailedLog {
        self.patience = patience;
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers that a checkpoint failed, durably.
    ///
    /// Where the file system has no locks, let one process at a time append.
    ///
    /// **Cost**: one write and two flushes.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be opened, locked in time or written;
    /// [`NotDurable`](crate::ErrorKind::NotDurable) if it is written, and a crash may yet lose it;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the path is empty or longer than 32 KiB.
    pub fn append(&self, e: &CheckpointError) -> Result<()> {
        self.append_many([e])
    }

    /// Remembers failures together, at the cost of one.
    ///
    /// # Errors
    /// Those of [`append`](FailedLog::append).
    pub fn append_many<'e>(&self, errors: impl IntoIterator<Item = &'e CheckpointError>) -> Result<()> {
        let failed: Vec<FailedCheckpoint> = errors.into_iter().map(FailedCheckpoint::from).collect();
        self.record(&failed)
    }

    /// Remembers failures with the times that they have. Reasons of more than 16 KiB are cut.
    ///
    /// # Errors
    /// Those of [`append`](FailedLog::append); [`InvalidInput`](crate::ErrorKind::InvalidInput) also if a time is not UTC with a `Z`.
    pub fn record(&self, failed: &[FailedCheckpoint]) -> Result<()> {
        let mut lines = String::new();
        for entry in failed {
            lines.push_str(&line::written(entry).map_err(|e| e.with_path(&self.path))?);
        }
        if lines.is_empty() {
            return Ok(());
        }
        let mut file = SharedFile::open_or_create(&*self.file_system, &self.path, self.patience)?;
        lines.insert_str(0, ending_of(&file).map_err(|e| self.cannot_read(e))?);
        file.append(lines.as_bytes())
    }

    /// The failures that are remembered, oldest first; none if there is no such file.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file is there and cannot be read. Malformed lines are no error: [`read`](FailedLog::read)
    /// counts them.
    pub fn entries(&self) -> Result<Vec<FailedCheckpoint>> {
        Ok(self.read()?.entries)
    }

    /// The failures that are remembered, and what else the file holds.
    ///
    /// It does not wait for writers. Of a file larger than 16 MiB the last 16 MiB are read.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file is there and cannot be read.
    pub fn read(&self) -> Result<FailedEntries> {
        for _ in 0..SHRINKS {
            match self.read_once() {
                Err(e) if e.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof) => {}
                result => return result,
            }
        }
        self.read_once()
    }

    fn read_once(&self) -> Result<FailedEntries> {
        let Some(file) = SharedFile::open_to_read(&*self.file_system, &self.path)? else {
            return Ok(FailedEntries::default());
        };
        let len = file.byte_len().map_err(|e| self.cannot_read(e))?;
        let mut found = FailedEntries::default();
        let start = len.saturating_sub(TAIL_MAX);
        let mut first = start > 0;
        for_each_line(&file, start..len, &mut |line| {
            // The beginning of this one may have been left out.
            if std::mem::take(&mut first) {
                found.unread_bytes = start.saturating_add(len_u64(line.bytes.len()));
                return Ok(());
            }
            match line.parsed() {
                Some(entry) => found.entries.push(entry),
                None => found.malformed = found.malformed.saturating_add(usize::from(line.is_malformed())),
            }
            Ok(())
        })
        .map_err(|e| e.with_path(&self.path))?;
        Ok(found)
    }

    /// Forgets the failures of these checkpoints, which have passed since, and says how many lines that were.
    ///
    /// A path matches if it is the same as the one remembered, or if both, taken from the working directory, are. All other lines stay as
    /// they are, also those that tell of nothing; a file without any left is removed. What is not there afterwards no crash brings back.
    ///
    /// **Cost**: reads the file, and if something is to be forgotten writes a new one; flushes the directory at any rate. Bounded memory.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the file cannot be locked (where there are no locks, others could be appending) or rewritten: it is
    /// then unchanged. [`NotDurable`](crate::ErrorKind::NotDurable) if a crash may bring the old one back.
    pub fn clear(&self, paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<usize> {
        let passed = Paths::new(paths);
        if passed.is_empty() {
            return Ok(0);
        }
        let Some(file) = SharedFile::open(&*self.file_system, &self.path, self.patience)? else {
            self.flush_directory()?;
            return Ok(0);
        };
        if !file.is_locked() {
            return Err(Error::io("cannot lock the file", std::io::ErrorKind::Unsupported.into())
                .with_path(&self.path)
                .with_advice("while no program runs here, remove the lines of checkpoints that pass by hand"));
        }
        let len = file.byte_len().map_err(|e| self.cannot_read(e))?;
        let is_passed = |line: &Line<'_>| line.parsed().is_some_and(|entry| passed.contains(&entry.path));
        let (mut cleared, mut kept) = (0usize, 0usize);
        self.go_through(&file, len, &mut |line| {
            let count = if is_passed(line) { &mut cleared } else { &mut kept };
            *count = count.saturating_add(1);
            Ok(())
        })?;
        match (cleared, kept) {
            (0, _) => self.flush_directory()?,
            (_, 0) => file.remove()?,
            _ => {
                let options = SaveOptions::new().file_system(self.file_system.clone());
                let mut new = AtomicFile::create(&self.path, &options)?;
                let mut piece = Vec::with_capacity(PIECE);
                self.go_through(&file, len, &mut |line| {
                    if !is_passed(line) {
                        piece.extend_from_slice(line.bytes);
                    }
                    if piece.len() >= PIECE {
                        new.append(&piece)?;
                        piece.clear();
                    }
                    Ok(())
                })?;
                new.append(&piece)?;
                new.commit()?;
            }
        }
        Ok(cleared)
    }

    /// Makes sure of what is not there: who cleared it may have died before that, and a crash would bring it back.
    fn flush_directory(&self) -> Result<()> {
        let (parent, _) = split(&self.path)?;
        let flushed = uninterrupted(|| self.file_system.open_directory(parent)).and_then(|directory| directory.sync());
        match flushed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound && !cannot_be_flushed(&e) => {
                Err(Error::io("nothing to clear, but the directory could not be flushed to the device", e)
                    .with_kind(ErrorKind::NotDurable)
                    .with_path(&self.path))
            }
            _ => Ok(()),
        }
    }

    fn go_through(&self, file: &dyn ReadAt, len: u64, each: &mut EachLine<'_>) -> Result<()> {
        for_each_line(file, 0..len, each).map_err(|e| e.with_path(&self.path))
    }

    fn cannot_read(&self, e: std::io::Error) -> Error {
        Error::io("cannot read the file", e).with_path(&self.path)
    }
}

/// Paths that are found however they are written, as far as that can be known without looking at files.
///
/// The working directory is asked for once. If it can be had at one moment and not at the next, a line must not be counted as one that goes and
/// then be kept; if it cannot be had at all, paths are compared as they are.
struct Paths {
    here: Option<PathBuf>,
    paths: BTreeSet<PathBuf>,
}

impl Paths {
    fn new(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Paths {
        let mut known = Paths { here: std::env::current_dir().ok(), paths: BTreeSet::new() };
        for path in paths {
            let path = known.complete(path.as_ref());
            known.paths.insert(path);
        }
        known
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(&self.complete(path))
    }

    fn complete(&self, path: &Path) -> PathBuf {
        match &self.here {
            Some(here) => absolute(&here.join(path)),
            None if path.is_absolute() => absolute(path),
            None => path.to_path_buf(),
        }
    }
}

/// The same path however it is written, as far as that can be known without looking at files.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// What ends the last line, if that is unfinished. A bar after all others leaves it without a time, so that what a crash left of a line
/// never counts as one.
fn ending_of(file: &dyn ReadAt) -> std::io::Result<&'static str> {
    let len = file.byte_len()?;
    let Some(last) = len.checked_sub(1) else { return Ok("") };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    if byte == *b"\n" {
        return Ok("");
    }
    let begin = len.saturating_sub(len_u64(line::LINE_MAX)).saturating_sub(1);
    let mut tail = vec![0; len_usize(len.saturating_sub(begin)).unwrap_or(0)];
    file.read_exact_at(&mut tail, begin)?;
    let unfinished = tail.rsplit(|&b| b == b'\n').next().unwrap_or_default();
    // What is blank tells of nothing, and is not to become a line that does not.
    let may_end = unfinished.trim_ascii().is_empty() || line::parsed_unfinished(unfinished).is_some();
    Ok(if may_end { "\n" } else { "|\n" })
}

/// A line with its newline, if it has one; or a piece of one that is too long.
struct Line<'l> {
    bytes: &'l [u8],
    is_whole: bool,
    /// Whether the file ends with it.
    is_end: bool,
}

impl Line<'_> {
    fn text(&self) -> &[u8] {
        self.bytes.strip_suffix(b"\n").unwrap_or(self.bytes)
    }

    fn parsed(&self) -> Option<FailedCheckpoint> {
        match (self.is_whole, self.is_end) {
            (false, _) => None,
            (true, false) => line::parsed(self.text()),
            (true, true) => line::parsed_unfinished(self.text()),
        }
    }

    /// Whether it is a line, and not blank, and tells of nothing. A line in pieces counts with its last.
    fn is_malformed(&self) -> bool {
        match self.is_whole {
            true => !self.text().trim_ascii().is_empty(),
            false => self.is_end || self.bytes.ends_with(b"\n"),
        }
    }
}

type EachLine<'e> = dyn FnMut(&Line<'_>) -> Result<()> + 'e;

/// Reads lines one after the other, in bounded memory.
fn for_each_line(file: &dyn ReadAt, range: std::ops::Range<u64>, each: &mut EachLine<'_>) -> Result<()> {
    let mut held = Vec::new();
    let mut in_pieces = false;
    let mut at = range.start;
    while at < range.end {
        let piece = range.end.saturating_sub(at).min(len_u64(PIECE));
        let begin = held.len();
        held.resize(begin.saturating_add(len_usize(piece).unwrap_or(PIECE)), 0);
        let room = held.get_mut(begin..).unwrap_or_default();
        file.read_exact_at(room, at).map_err(|e| Error::io("cannot read the file", e).with_offset(at))?;
        at = at.saturating_add(piece);

        let mut rest = held.as_slice();
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let (bytes, after) = rest.split_at(end.saturating_add(1).min(rest.len()));
            each(&Line { bytes, is_whole: !in_pieces, is_end: false })?;
            (rest, in_pieces) = (after, false);
        }
        if rest.len() > line::LINE_MAX {
            each(&Line { bytes: rest, is_whole: false, is_end: false })?;
            (rest, in_pieces) = (&[], true);
        }
        let done = held.len().saturating_sub(rest.len());
        held.drain(..done);
    }
    match held.is_empty() && !in_pieces {
        true => Ok(()),
        false => each(&Line { bytes: &held, is_whole: !in_pieces, is_end: true }),
    }
}
