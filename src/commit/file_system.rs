//! The seam: what saving needs from a file system, and nothing more.
//!
//! [`AtomicFile`](super::AtomicFile), [`SharedFile`](super::SharedFile) and [`sweep`](super::sweep()) reach the disk
//! through these traits alone.
//! [`RealFileSystem`](super::RealFileSystem) implements them with system calls; tests implement them in
//! memory, to fail the Nth call and to enumerate what a crash can leave behind.
//!
//! An implementation reports every error as it came: it neither retries nor hides one. An interrupted call
//! ([`Interrupted`](std::io::ErrorKind::Interrupted)) is an error like any other here; who calls decides
//! whether it may be repeated. All of a [`Directory`]'s names are single components, looked up in the open
//! directory itself, never by its path, so that renaming or replacing a parent directory changes nothing.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

pub use crate::source::file::uninterrupted;

/// Where files are saved: the way in to directories.
pub trait FileSystem: Debug + Send + Sync {
    /// Opens a directory, from the process's working directory.
    ///
    /// # Errors
    /// What the operating system says.
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>>;
}

/// An open directory.
pub trait Directory: Debug + Send + Sync {
    /// Opens another directory, by a path that begins at this one (or at the root).
    ///
    /// # Errors
    /// What the operating system says.
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>>;

    /// What a name stands for, not following a symbolic link; `None` if there is no such name.
    ///
    /// # Errors
    /// What the operating system says, but that the name does not exist.
    fn status(&self, name: &OsStr) -> io::Result<Option<Status>>;

    /// Where a symbolic link points, which need not exist.
    ///
    /// The operating system is first made to follow the link, so that what it forbids (links of strangers in
    /// shared directories, loops) stays forbidden.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf>;

    /// Creates an empty file for reading and writing, that child processes do not inherit.
    ///
    /// `mode` are the permission bits before the process's umask takes its part; ignored where there are none.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the name is taken by anything at all; otherwise what the
    /// operating system says.
    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>>;

    /// Opens a file for reading and writing, or creates it empty if there is none; child processes do not inherit it.
    /// Never follows a symbolic link, never waits for the other end of a pipe.
    ///
    /// `mode` are a new file's permission bits before the process's umask takes its part; ignored where there are none.
    ///
    /// # Errors
    /// What the operating system says.
    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>>;

    /// Creates an empty directory.
    ///
    /// `mode` are the permission bits before the process's umask takes its part; ignored where there are none.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if the name is taken by anything at all; otherwise what the
    /// operating system says.
    fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()>;

    /// Opens a file that exists, for reading and [`try_lock`](OutputFile::try_lock). Never follows a symbolic link, never waits
    /// for the other end of a pipe.
    ///
    /// # Errors
    /// What the operating system says.
    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>>;

    /// Gives a file another name in the same directory, replacing what has that name, in one step.
    ///
    /// # Errors
    /// What the operating system says. On network file systems the rename may have happened nevertheless.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// [`rename`](Directory::rename) that never replaces.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if `to` is taken by anything at all;
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this file system cannot do it in one step; otherwise what the
    /// operating system says.
    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Gives a file a second name in the same directory.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if `to` is taken; otherwise what the operating system says.
    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Removes the name of a file.
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, name: &OsStr) -> io::Result<()>;

    /// All names, in any order, without `.` and `..`.
    ///
    /// # Errors
    /// What the operating system says.
    fn names(&self) -> io::Result<Vec<OsString>>;

    /// Flushes the names to the device.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
///
/// Positions and lengths are in bytes.
pub trait OutputFile: Debug + Send + Sync {
    /// Writes at a position, and says how many of the bytes it took, which may be fewer than given.
    ///
    /// # Errors
    /// What the operating system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Reads at a position, and says how many bytes it gave; 0 at the end of the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// What the file is now, whatever its name.
    ///
    /// # Errors
    /// What the operating system says.
    fn status(&self) -> io::Result<Status>;

    /// Cuts the file off, or extends it with zeros.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, byte_len: u64) -> io::Result<()>;

    /// Reserves space for the first `byte_len` bytes, if possible without changing the file's length.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) where it cannot be done; otherwise what the operating system says.
    fn preallocate(&self, byte_len: u64) -> io::Result<()>;

    /// Sets exactly these permission bits; does nothing where there are none.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_mode(&self, mode: u32) -> io::Result<()>;

    /// Takes the file's exclusive lock, which is held until the file is closed: `false` if another holds it.
    ///
    /// # Errors
    /// What the operating system says, such as that this file system has no locks.
    fn try_lock(&self) -> io::Result<bool>;

    /// Flushes content and length to the device, once: an interrupted or failed flush is never tried again.
    ///
    /// # Errors
    /// What the operating system says. It must include failures to write back, since this file was opened, what had
    /// been written before.
    fn sync(&self) -> io::Result<()>;
}

/// What a file or name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// File, directory, link or another thing.
    pub kind: FileKind,
    /// The permission bits, `0o777` at most; 0 where there are none.
    pub mode: u32,
    /// The length in bytes.
    pub byte_len: u64,
    /// Which file it is, where the system tells.
    pub identity: Option<Identity>,
}

/// Which file a file is: two names with the same identity are the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The device it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What a name can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket, a device.
    Other,
}
