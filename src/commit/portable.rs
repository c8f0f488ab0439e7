//! The file system of machines that are not Unix, through the standard library.
//!
//! The standard library opens nothing relative to a directory, so names are looked up by path here: who renames
//! the directory during a save moves the ground from under it, and the save fails.

use super::file_system::{Directory, FileKind, FileSystem, OutputFile, Status};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

impl FileSystem for RealFileSystem {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        open_directory(path)
    }
}

fn open_directory(path: &Path) -> io::Result<Box<dyn Directory>> {
    // Absolute, so that a change of the working directory does not matter.
    let path = fs::canonicalize(path)?;
    if !fs::metadata(&path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(Box::new(PortableDirectory { handle: directory_handle(&path)?, path }))
}

#[cfg(windows)]
fn directory_handle(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    // Without FILE_FLAG_BACKUP_SEMANTICS no directory can be opened; without write access none can be flushed.
    OpenOptions::new().read(true).write(true).custom_flags(0x0200_0000).open(path)
}

#[cfg(not(windows))]
fn directory_handle(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[derive(Debug)]
struct PortableDirectory {
    path: PathBuf,
    handle: File,
}

impl Directory for PortableDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        open_directory(&self.path.join(path))
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        match fs::symlink_metadata(self.path.join(name)) {
            Ok(metadata) => Ok(Some(status(&metadata))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        fs::read_link(self.path.join(name))
    }

    fn create_new(&self, name: &OsStr, _: u32) -> io::Result<Box<dyn OutputFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))?;
        Ok(Box::new(PortableFile { file }))
    }

    fn open_or_create(&self, name: &OsStr, _: u32) -> io::Result<Box<dyn OutputFile>> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => return Err(io::Error::other("it is a symbolic link")),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(PortableFile { file }))
    }

    fn create_directory(&self, name: &OsStr, _: u32) -> io::Result<()> {
        fs::create_dir(self.path.join(name))
    }

    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Box::new(PortableFile { file }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn rename_no_replace(&self, _: &OsStr, _: &OsStr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::hard_link(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

#[derive(Debug)]
struct PortableFile {
    file: File,
}

impl OutputFile for PortableFile {
    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.file, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset)
    }

    #[cfg(not(windows))]
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(not(windows))]
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn status(&self) -> io::Result<Status> {
        Ok(status(&self.file.metadata()?))
    }

    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        self.file.set_len(byte_len)
    }

    fn preallocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_mode(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

fn status(metadata: &Metadata) -> Status {
    let kind = if metadata.is_file() {
        FileKind::File
    } else if metadata.is_dir() {
        FileKind::Directory
    } else if metadata.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    };
    Status { kind, mode: 0, byte_len: metadata.len(), identity: None }
}
