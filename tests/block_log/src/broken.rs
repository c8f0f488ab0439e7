//! Savers that are broken on purpose: the real file system, but for one call that is left out and reported as done.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use dolmen::commit::RealFileSystem;
use dolmen::commit::file_system::{Directory, FileSystem, OutputFile, Status};

/// The call that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    FileSync,
    DirectorySync,
}

#[derive(Debug)]
pub struct Broken {
    real: RealFileSystem,
    omitted: Omitted,
}

impl Broken {
    pub fn new(omitted: Omitted) -> Broken {
        Broken { real: RealFileSystem, omitted }
    }
}

impl FileSystem for Broken {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(BrokenDirectory { real: self.real.open_directory(path)?, omitted: self.omitted }))
    }
}

#[derive(Debug)]
struct BrokenDirectory {
    real: Box<dyn Directory>,
    omitted: Omitted,
}

impl BrokenDirectory {
    fn file(&self, real: Box<dyn OutputFile>) -> Box<dyn OutputFile> {
        Box::new(BrokenFile { real, omitted: self.omitted })
    }
}

impl Directory for BrokenDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(BrokenDirectory { real: self.real.open_directory(path)?, omitted: self.omitted }))
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        self.real.status(name)
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        self.real.read_link(name)
    }

    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        Ok(self.file(self.real.create_new(name, mode)?))
    }

    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        Ok(self.file(self.real.open_or_create(name, mode)?))
    }

    fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.real.create_directory(name, mode)
    }

    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        Ok(self.file(self.real.open_existing(name)?))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.real.rename_no_replace(from, to)
    }

    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.real.hard_link(from, to)
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.real.remove(name)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        self.real.names()
    }

    fn sync(&self) -> io::Result<()> {
        if self.omitted == Omitted::DirectorySync { Ok(()) } else { self.real.sync() }
    }
}

#[derive(Debug)]
struct BrokenFile {
    real: Box<dyn OutputFile>,
    omitted: Omitted,
}

impl OutputFile for BrokenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.real.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(buffer, offset)
    }

    fn status(&self) -> io::Result<Status> {
        self.real.status()
    }

    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        self.real.set_len(byte_len)
    }

    fn preallocate(&self, byte_len: u64) -> io::Result<()> {
        self.real.preallocate(byte_len)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.real.set_mode(mode)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.real.try_lock()
    }

    fn sync(&self) -> io::Result<()> {
        if self.omitted == Omitted::FileSync { Ok(()) } else { self.real.sync() }
    }
}
