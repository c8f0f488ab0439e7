//! The file system of a Unix machine, by system calls relative to an open directory.

use super::file_system::{Directory, FileKind, FileSystem, Identity, OutputFile, Status};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFileSystem;

impl FileSystem for RealFileSystem {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(RealDirectory::open(CWD, path)?))
    }
}

#[derive(Debug)]
struct RealDirectory {
    fd: OwnedFd,
}

impl RealDirectory {
    fn open(from: impl rustix::fd::AsFd, path: &Path) -> io::Result<RealDirectory> {
        // Opened for reading, not as O_PATH: such a descriptor cannot be flushed, and a directory that cannot be
        // flushed has to be known before the first byte is written.
        let fd = rustix::fs::openat(from, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(RealDirectory { fd })
    }

    fn open_file(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        Ok(File::from(rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)?))
    }
}

impl Directory for RealDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(RealDirectory::open(&self.fd, path)?))
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(status(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        // `readlinkat` alone would go round `fs.protected_symlinks`.
        match rustix::fs::statat(&self.fd, name, AtFlags::empty()) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(Box::new(RealFile { file: self.open_file(name, flags, permission_bits(mode))? }))
    }

    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        Ok(Box::new(RealFile { file: self.open_file(name, flags, permission_bits(mode))? }))
    }

    fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, permission_bits(mode))?)
    }

    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        // NFS locks exclusively only what is open for writing; elsewhere reading is enough, and a temp may have
        // been given the mode of a read-only file.
        let file = match self.open_file(name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?
            }
            result => result?,
        };
        Ok(Box::new(RealFile { file }))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, rustix::fs::RenameFlags::NOREPLACE) {
            // A file system without this flag says that it is invalid; no argument of ours can be.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    fn rename_no_replace(&self, _: &OsStr, _: &OsStr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty())?)
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.fd)
    }
}

#[derive(Debug)]
struct RealFile {
    // Open from the creation to the flush: the kernel reports a failure to write back only to those who had the
    // file open when it happened.
    file: File,
}

impl OutputFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn status(&self) -> io::Result<Status> {
        Ok(status(&rustix::fs::fstat(&self.file)?))
    }

    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(&self.file, byte_len)?)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn preallocate(&self, byte_len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, byte_len) {
            Err(Errno::NOSYS | Errno::NOTSUP) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn preallocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.file, permission_bits(mode))?)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn sync(&self) -> io::Result<()> {
        sync(&self.file)
    }
}

// Not `File::sync_all`: it repeats an interrupted fsync, and the second may succeed with the first one's bytes lost.
#[cfg(not(target_vendor = "apple"))]
fn sync(fd: impl rustix::fd::AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(fd)?)
}

#[cfg(target_vendor = "apple")]
fn sync(fd: impl rustix::fd::AsFd) -> io::Result<()> {
    // fsync leaves the bytes in the drive's cache here. A file system that does not know F_FULLFSYNC has flushed
    // nothing by refusing it, so that the fsync after it is a first one.
    match rustix::fs::fcntl_fullfsync(&fd) {
        Err(Errno::NOTSUP | Errno::INVAL | Errno::NOTTY) => Ok(rustix::fs::fsync(fd)?),
        result => Ok(result?),
    }
}

/// Flushes to the device, once, a file that somebody else has written: [`OutputFile::sync`] for what was not opened here.
#[cfg(feature = "lifecycle")]
pub(crate) fn flush_file(file: &File) -> io::Result<()> {
    sync(file)
}

fn permission_bits(mode: u32) -> Mode {
    Mode::from_bits_truncate((mode & 0o777) as rustix::fs::RawMode)
}

// The widths of these fields differ between systems.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn status(stat: &rustix::fs::Stat) -> Status {
    let kind = match FileType::from_raw_mode(stat.st_mode as rustix::fs::RawMode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    Status {
        kind,
        mode: u32::from(stat.st_mode) & 0o777,
        byte_len: u64::try_from(stat.st_size).unwrap_or(0),
        identity: Some(Identity { device: stat.st_dev as u64, inode: stat.st_ino as u64 }),
    }
}
