//! [`SharedFile`]: a file that several processes append to in place, each under its lock.

use super::atomic_file::{read_exact_at, write_all_at};
use super::file_system::{Directory, FileKind, FileSystem, OutputFile, uninterrupted};
use super::target::split;
use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadAt;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the first pause between two attempts to lock is, and the longest. Short, or those who wait would be starved
/// by one who appends without end.
const PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(2));

/// A file that several processes and threads append to, held under its exclusive lock until it is dropped.
///
/// What [`append`](SharedFile::append) has acknowledged is there after a crash, and an append that fails, or that a
/// crash interrupts, changes no byte of what was there before; some of its own bytes may stay at the end.
///
/// Who replaces the file (with [`AtomicFile`](super::AtomicFile)) or [removes](SharedFile::remove) it does so while
/// holding it: those who waited for the old file notice that its name stands for another one now, and open that.
///
/// Where a file system has no locks the file is opened all the same, and [`is_locked`](SharedFile::is_locked) says so:
/// of two appends at the very same time one may then overwrite the other.
#[derive(Debug)]
pub struct SharedFile {
    file: Box<dyn OutputFile>,
    directory: Box<dyn Directory>,
    name: OsString,
    path: PathBuf,
    locked: bool,
}

impl SharedFile {
    /// Opens the file at a path, creating it if there is none, and waits for its lock as long as `patience` lasts.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if it cannot be opened or locked, or another holds the lock for longer than that;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the path is not that of a regular file. Symbolic links are not
    /// followed.
    pub fn open_or_create(file_system: &dyn FileSystem, path: &Path, patience: Duration) -> Result<SharedFile> {
        let open = |directory: &dyn Directory, name: &OsStr| directory.open_or_create(name, 0o666).map(Some);
        match SharedFile::locked(file_system, path, patience, &open)? {
            Some(file) => Ok(file),
            None => Err(Error::io("cannot open the directory of the file", io::ErrorKind::NotFound.into())
                .with_path(path)
                .with_advice("create the directory first")),
        }
    }

    /// Opens the file at a path and waits for its lock as long as `patience` lasts; `None` if there is no such file.
    ///
    /// # Errors
    /// Those of [`open_or_create`](SharedFile::open_or_create).
    pub fn open(file_system: &dyn FileSystem, path: &Path, patience: Duration) -> Result<Option<SharedFile>> {
        SharedFile::locked(file_system, path, patience, &open_existing)
    }

    /// Opens the file at a path for reading alone, without its lock; `None` if there is no such file.
    ///
    /// Its last bytes may be those of an append that is under way.
    ///
    /// # Errors
    /// Those of [`open_or_create`](SharedFile::open_or_create), but for the lock's.
    pub fn open_to_read(file_system: &dyn FileSystem, path: &Path) -> Result<Option<impl ReadAt + use<>>> {
        let Some((directory, name)) = find(file_system, path)? else { return Ok(None) };
        let file = match uninterrupted(|| open_existing(&*directory, name)) {
            Ok(None) => return Ok(None),
            Ok(Some(file)) => file,
            Err(e) => return Err(cannot_open(e).with_path(path)),
        };
        expect_regular(&*file).map_err(|e| e.with_path(path))?;
        Ok(Some(OpenFile(file)))
    }

    fn locked(
        file_system: &dyn FileSystem,
        path: &Path,
        patience: Duration,
        open: &Open,
    ) -> Result<Option<SharedFile>> {
        let begun = Instant::now();
        let Some((directory, name)) = find(file_system, path)? else { return Ok(None) };
        loop {
            let file = match uninterrupted(|| open(&*directory, name)) {
                Ok(None) => return Ok(None),
                Ok(Some(file)) => file,
                Err(e) => return Err(cannot_open(e).with_path(path)),
            };
            expect_regular(&*file).map_err(|e| e.with_path(path))?;
            let locked = lock(&*file, begun, patience).map_err(|e| e.with_path(path))?;
            let same = match is_still_named(&*directory, name, &*file) {
                // So a network file system says that another machine has replaced or removed it.
                Err(e) if e.kind() == io::ErrorKind::StaleNetworkFileHandle => false,
                result => result.map_err(|e| Error::io("cannot look at the file", e).with_path(path))?,
            };
            if same {
                return Ok(Some(SharedFile { file, directory, name: name.to_owned(), path: path.to_owned(), locked }));
            }
            if begun.elapsed() >= patience {
                return Err(held_too_long(patience).with_path(path));
            }
        }
    }

    /// Whether its lock is held, so that nobody else changes it; `false` where there are no locks.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Writes all of `bytes` at the end and flushes the file and its name.
    ///
    /// **Cost**: one write and two flushes.
    ///
    /// # Errors
    /// [`NotDurable`](ErrorKind::NotDurable) if the bytes are there, but the name could not be flushed;
    /// [`Io`](ErrorKind::Io) if a call fails before that: then all, some or none of them are at the end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = uninterrupted(|| self.file.status()).map_err(|e| self.error("cannot look at the file", e))?.byte_len;
        if let Err(e) = write_all_at(&*self.file, bytes, end) {
            // Nobody else can have written there, if it is locked.
            if self.locked {
                let _ = uninterrupted(|| self.file.set_len(end));
            }
            return Err(self.error("cannot append", e));
        }
        // Once; see the rules of the room.
        self.file.sync().map_err(|e| self.error("cannot flush what was appended to the device", e))?;
        // Not only when the file is new: who created or replaced it may have died before flushing its name.
        self.directory.sync().map_err(|e| {
            self.error("appended, but the directory could not be flushed to the device", e)
                .with_kind(ErrorKind::NotDurable)
        })
    }

    /// Removes the file's name, durably. Those who wait for its lock will find that it is gone.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the name cannot be removed; [`NotDurable`](ErrorKind::NotDurable) if it was, and a
    /// crash may bring it back.
    pub fn remove(self) -> Result<()> {
        uninterrupted(|| self.directory.remove(&self.name)).map_err(|e| self.error("cannot remove the file", e))?;
        self.directory.sync().map_err(|e| {
            self.error("removed, but the directory could not be flushed to the device", e)
                .with_kind(ErrorKind::NotDurable)
        })
    }

    fn error(&self, doing: &str, e: io::Error) -> Error {
        Error::io(doing, e).with_path(&self.path)
    }
}

impl ReadAt for SharedFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(uninterrupted(|| self.file.status())?.byte_len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(&*self.file, buffer, offset)
    }
}

struct OpenFile(Box<dyn OutputFile>);

impl ReadAt for OpenFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(uninterrupted(|| self.0.status())?.byte_len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(&*self.0, buffer, offset)
    }
}

type Open<'a> = dyn Fn(&dyn Directory, &OsStr) -> io::Result<Option<Box<dyn OutputFile>>> + 'a;

fn open_existing(directory: &dyn Directory, name: &OsStr) -> io::Result<Option<Box<dyn OutputFile>>> {
    match directory.open_existing(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The directory of a path, if there is one, and the name in it.
fn find<'p>(file_system: &dyn FileSystem, path: &'p Path) -> Result<Option<(Box<dyn Directory>, &'p OsStr)>> {
    let (parent, name) = split(path).map_err(|e| e.with_path(path))?;
    match uninterrupted(|| file_system.open_directory(parent)) {
        Ok(directory) => Ok(Some((directory, name))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot open the directory of the file", e).with_path(path)),
    }
}

fn expect_regular(file: &dyn OutputFile) -> Result<()> {
    match uninterrupted(|| file.status()).map_err(|e| Error::io("cannot look at the file", e))?.kind {
        FileKind::File => Ok(()),
        _ => Err(Error::invalid("there is something else than a regular file of that name")),
    }
}

/// Waits for the exclusive lock; `false` where there are none.
fn lock(file: &dyn OutputFile, begun: Instant, patience: Duration) -> Result<bool> {
    let (mut pause, longest) = PAUSES;
    loop {
        match uninterrupted(|| file.try_lock()) {
            Ok(true) => return Ok(true),
            Ok(false) if begun.elapsed() >= patience => return Err(held_too_long(patience)),
            Ok(false) => std::thread::sleep(pause),
            Err(e) if means_no_locks(&e) => return Ok(false),
            Err(e) => return Err(Error::io("cannot lock the file", e)),
        }
        pause = longest.min(pause.saturating_mul(2));
    }
}

/// Whether a lock could not be taken because there are none.
pub(crate) fn means_no_locks(e: &io::Error) -> bool {
    #[cfg(unix)]
    let code = [rustix::io::Errno::NOLCK, rustix::io::Errno::NOTSUP].map(|e| Some(e.raw_os_error()));
    #[cfg(not(unix))]
    let code: [Option<i32>; 0] = [];
    e.kind() == io::ErrorKind::Unsupported || (e.raw_os_error().is_some() && code.contains(&e.raw_os_error()))
}

/// Whether a file that is locked has not been replaced or removed while its lock was waited for.
fn is_still_named(directory: &dyn Directory, name: &OsStr, file: &dyn OutputFile) -> io::Result<bool> {
    let Some(named) = uninterrupted(|| directory.status(name))? else { return Ok(false) };
    let open = uninterrupted(|| file.status())?;
    Ok(match (named.identity, open.identity) {
        (Some(named), Some(open)) => named == open,
        // Where files have no identity, a file that took this one's place is almost never as long.
        _ => named.byte_len == open.byte_len,
    })
}

fn cannot_open(e: io::Error) -> Error {
    Error::io("cannot open the file", e)
}

fn held_too_long(patience: Duration) -> Error {
    Error::io(format!("another process has held the file's lock for {} s", patience.as_secs_f32()), timed_out())
        .with_advice("wait for it, or end it if it hangs, and try again")
}

fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
