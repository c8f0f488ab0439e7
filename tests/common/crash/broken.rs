//! File systems that break a saver: it makes the right calls, and something else happens. Whoever looks for crashes must find them.

use super::disk::Disk;
use dolmen::commit::file_system::{Directory, FileSystem, OutputFile, Status};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Files are not flushed.
    NoFileSync,
    /// Directories are not flushed.
    NoDirectorySync,
    /// A file is flushed only after it has been renamed.
    RenameBeforeSync,
    /// A flush that failed is tried again, which the kernel answers with success. The first flush fails.
    RetryOfFailedSync,
    /// The file is written in its place, under its own name.
    InPlace,
    /// The old file is removed before the new one is renamed.
    RemoveBeforeRename,
    /// A file is flushed before it is written.
    SyncBeforeWrite,
}

impl Broken {
    pub const ALL: [Broken; 7] = [
        Broken::NoFileSync,
        Broken::NoDirectorySync,
        Broken::RenameBeforeSync,
        Broken::RetryOfFailedSync,
        Broken::InPlace,
        Broken::RemoveBeforeRename,
        Broken::SyncBeforeWrite,
    ];

    /// A saver that is broken so, on this disk.
    pub fn on(self, disk: Disk) -> Arc<dyn FileSystem> {
        let disk = match self {
            Broken::RetryOfFailedSync => disk.behave(|b| b.failing_sync = Some(0)),
            _ => disk,
        };
        Arc::new(BrokenFileSystem { inner: Arc::new(disk), room: Room { broken: self, late: Arc::default() } })
    }
}

/// What files and directories of a broken file system have in common.
#[derive(Clone, Debug)]
struct Room {
    broken: Broken,
    /// Files whose flush has yet to come. Those that are closed have missed it.
    late: Arc<Mutex<Vec<Weak<dyn OutputFile>>>>,
}

impl Room {
    fn directory(&self, inner: Box<dyn Directory>) -> Box<dyn Directory> {
        Box::new(BrokenDirectory { inner, room: self.clone() })
    }

    fn file(&self, inner: Box<dyn OutputFile>, in_place: bool) -> Box<dyn OutputFile> {
        Box::new(BrokenFile { inner: inner.into(), room: self.clone(), in_place, is_written: Mutex::new(false) })
    }

    fn flush_the_late(&self) -> io::Result<()> {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        late.iter().filter_map(Weak::upgrade).try_for_each(|file| file.sync())
    }

    /// The name under which a file is really written: of a temp, in its place, that of its target.
    fn name(&self, name: &OsStr) -> OsString {
        let text = name.to_string_lossy();
        let target = text.strip_suffix(".dolmen-tmp").and_then(|rest| rest.strip_prefix('.')?.rsplit_once('.'));
        match target {
            Some((target, _)) if self.broken == Broken::InPlace => target.into(),
            _ => name.to_owned(),
        }
    }
}

#[derive(Debug)]
struct BrokenFileSystem {
    inner: Arc<dyn FileSystem>,
    room: Room,
}

impl FileSystem for BrokenFileSystem {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        self.inner.open_directory(path).map(|inner| self.room.directory(inner))
    }
}

#[derive(Debug)]
struct BrokenDirectory {
    inner: Box<dyn Directory>,
    room: Room,
}

impl Directory for BrokenDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        self.inner.open_directory(path).map(|inner| self.room.directory(inner))
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        self.inner.status(&self.room.name(name))
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        self.inner.read_link(name)
    }

    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let real = self.room.name(name);
        let file = match real == name {
            true => self.inner.create_new(name, mode)?,
            false => self.inner.open_or_create(&real, mode)?,
        };
        Ok(self.room.file(file, real != name))
    }

    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        self.inner.open_or_create(name, mode).map(|file| self.room.file(file, false))
    }

    fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.inner.create_directory(name, mode)
    }

    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        self.inner.open_existing(name).map(|file| self.room.file(file, false))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        if self.room.name(from) == to {
            return Ok(());
        }
        if self.room.broken == Broken::RemoveBeforeRename && self.inner.status(to)?.is_some() {
            self.inner.remove(to)?;
        }
        self.inner.rename(from, to)?;
        self.room.flush_the_late()
    }

    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        if self.room.name(from) == to {
            return Ok(());
        }
        self.inner.rename_no_replace(from, to)?;
        self.room.flush_the_late()
    }

    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        if self.room.name(from) == to {
            return Ok(());
        }
        self.inner.hard_link(from, to)?;
        self.room.flush_the_late()
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        if self.room.name(name) != name {
            return Ok(());
        }
        self.inner.remove(name)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        self.inner.names()
    }

    fn sync(&self) -> io::Result<()> {
        match self.room.broken {
            Broken::NoDirectorySync => Ok(()),
            _ => self.inner.sync(),
        }
    }
}

#[derive(Debug)]
struct BrokenFile {
    inner: Arc<dyn OutputFile>,
    room: Room,
    in_place: bool,
    is_written: Mutex<bool>,
}

impl OutputFile for BrokenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if !std::mem::replace(&mut *self.is_written.lock().unwrap(), true) {
            if self.in_place {
                self.inner.set_len(0)?;
            }
            if self.room.broken == Broken::SyncBeforeWrite {
                self.inner.sync()?;
            }
        }
        self.inner.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn status(&self) -> io::Result<Status> {
        self.inner.status()
    }

    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        self.inner.set_len(byte_len)
    }

    fn preallocate(&self, byte_len: u64) -> io::Result<()> {
        self.inner.preallocate(byte_len)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.inner.set_mode(mode)
    }

    fn try_lock(&self) -> io::Result<bool> {
        // Who writes in place has no file of its own to lock.
        if self.in_place { Ok(true) } else { self.inner.try_lock() }
    }

    fn sync(&self) -> io::Result<()> {
        match self.room.broken {
            Broken::NoFileSync | Broken::SyncBeforeWrite => Ok(()),
            Broken::RenameBeforeSync => {
                self.room.late.lock().unwrap().push(Arc::downgrade(&self.inner));
                Ok(())
            }
            Broken::RetryOfFailedSync => self.inner.sync().or_else(|_| self.inner.sync()),
            _ => self.inner.sync(),
        }
    }
}
