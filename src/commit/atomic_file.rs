//! The file being saved, from its creation under a temporary name to its commit.

use super::file_system::{Directory, OutputFile, Status, uninterrupted};
use super::target::{Target, already_exists};
use super::{Durability, SaveOptions, sweep, temp};
use crate::error::{Error, ErrorKind, Result};
use crate::source::ReadAt;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

/// A file that appears under its name complete or not at all.
///
/// It is written under a temporary name in the directory of its target. [`commit`](AtomicFile::commit) makes it
/// durable and puts it in place; dropping it, or [`discard`](AtomicFile::discard), removes it. Until the commit has
/// succeeded the file that was there before is untouched.
///
/// After a failed write it takes no more, and `commit` refuses. Writes are not buffered: each is at least one system
/// call, so hand over large pieces.
///
/// ```
/// use dolmen::commit::{AtomicFile, SaveOptions};
/// # let directory = std::env::temp_dir().join(format!("dolmen-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory).unwrap();
/// # let path = directory.join("notes.bin");
/// let mut file = AtomicFile::create(&path, &SaveOptions::new())?;
/// file.append(b"????, world")?;
/// file.patch(0, b"Hail")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"Hail, world");
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), dolmen::Error>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    file: Box<dyn OutputFile>,
    directory: Box<dyn Directory>,
    directory_path: PathBuf,
    name: OsString,
    /// The name to remove, for as long as the file may have it.
    temp: Option<OsString>,
    temp_path: PathBuf,
    /// As the caller wrote it, for messages.
    path: PathBuf,
    replaced: Option<Status>,
    options: SaveOptions,
    byte_len: u64,
    reserved: u64,
    failure: Option<Failure>,
}

/// A write that failed, remembered: nothing that follows can be trusted.
#[derive(Clone, Copy, Debug)]
struct Failure {
    kind: io::ErrorKind,
    code: Option<i32>,
}

impl Failure {
    fn of(error: &io::Error) -> Failure {
        Failure { kind: error.kind(), code: error.raw_os_error() }
    }

    fn to_error(self) -> io::Error {
        self.code.map_or_else(|| self.kind.into(), io::Error::from_raw_os_error)
    }
}

impl AtomicFile {
    /// Begins to save `path`, which need not exist; its directory must.
    ///
    /// If `path` is a symbolic link, the file that it leads to is saved (beside itself, in its own directory) and the
    /// link stays; with [`create_new`](SaveOptions::create_new) a link counts as existing.
    ///
    /// **Cost**: half a dozen system calls.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `path` is a directory, device, pipe or socket, or names an
    /// unfinished save, or exists when it must not. [`Io`](ErrorKind::Io) if the directory cannot be opened or
    /// written.
    pub fn create(path: impl AsRef<Path>, options: &SaveOptions) -> Result<AtomicFile> {
        let path = path.as_ref();
        AtomicFile::begin(path, options).map_err(|e| e.with_path(path))
    }

    fn begin(path: &Path, options: &SaveOptions) -> Result<AtomicFile> {
        let Target { directory, directory_path, name, replaced } =
            Target::find(&*options.file_system, path, options.create_new)?;

        // With the mode of the file that it replaces from the first moment on, so that nobody can open the new one
        // who could not open the old one. The umask may take bits away here; those come back below.
        let mode = replaced.map_or(0o666, |status| status.mode);
        let (file, temp) = temp::create(&*directory, &name, mode)
            .map_err(|e| Error::io("cannot create a temporary file beside the file to save", e))?;
        let atomic = AtomicFile {
            file,
            directory,
            temp_path: directory_path.join(&temp),
            directory_path,
            name,
            temp: Some(temp),
            path: path.to_owned(),
            replaced,
            options: options.clone(),
            byte_len: 0,
            reserved: 0,
            failure: None,
        };
        if let Some(replaced) = replaced {
            uninterrupted(|| match atomic.file.status()?.mode == replaced.mode {
                true => Ok(()),
                false => atomic.file.set_mode(replaced.mode),
            })
            .map_err(|e| atomic.error("cannot give the new file the mode of the old one", e))?;
        }
        Ok(atomic)
    }

    /// The path that is being saved, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the bytes are until the commit: the file from which an interrupted save can be salvaged.
    pub fn temp_path(&self) -> &Path {
        &self.temp_path
    }

    /// The length so far, in bytes.
    pub fn byte_len(&self) -> u64 {
        self.byte_len
    }

    /// Writes all of `bytes` at the end.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if a write fails, or one failed before: the save is lost, and `commit` will refuse.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let offset = self.byte_len;
        self.write_end(bytes).map_err(|e| self.error("cannot write", e).with_offset(offset))
    }

    /// Overwrites bytes that were written before, beginning at byte `offset`.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if not all of the range was written before; nothing is written then,
    /// and the save can go on. [`Io`](ErrorKind::Io) as for [`append`](AtomicFile::append).
    pub fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        match offset.checked_add(bytes.len() as u64) {
            Some(end) if end <= self.byte_len => {}
            _ => {
                return Err(Error::invalid("cannot overwrite bytes beyond the end of the file")
                    .with_path(&self.path)
                    .with_offset(offset));
            }
        }
        self.write_all_at(bytes, offset).map_err(|e| self.error("cannot write", e).with_offset(offset))
    }

    /// Asks for space for a file of `byte_len` bytes in all, so that a full disk is known before hours of writing,
    /// and so that the file is laid out in few pieces.
    ///
    /// A hint: where space cannot be reserved this does nothing and succeeds. The file's length stays as it is, and
    /// what is not used is given back at the commit.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the disk, the quota or the largest file allowed is too small. The save can go on all
    /// the same, for file systems that compress may yet hold it.
    pub fn preallocate(&mut self, byte_len: u64) -> Result<()> {
        if byte_len <= self.byte_len.max(self.reserved) {
            return Ok(());
        }
        // Noted even if it fails, for some of the space may have been reserved.
        self.reserved = byte_len;
        match self.file.preallocate(byte_len) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
                ) =>
            {
                Err(self.error("cannot reserve space", e))
            }
            _ => Ok(()),
        }
    }

    /// Flushes the file, validates it, puts it in place and flushes the directory, as the options say.
    ///
    /// Afterwards the unfinished saves of this target that dead writers left behind are removed, if that can be done;
    /// it reads all names in the directory.
    ///
    /// # Errors
    /// [`NotDurable`](ErrorKind::NotDurable) if the new file is in place, but a crash of the machine may yet bring
    /// the old one back. With every other error nothing has changed: the file that was there before is still there,
    /// and the new one has been removed. Those are [`Io`](ErrorKind::Io) if a system call fails now or a write failed
    /// before; [`InvalidInput`](ErrorKind::InvalidInput) if the target exists and
    /// [`create_new`](SaveOptions::create_new) was asked for; and whatever the validator says.
    pub fn commit(mut self) -> Result<()> {
        self.finish()?;
        self.validate()?;
        self.put_in_place()?;
        self.flush_directory()?;
        // Not before now: until a save of this target has succeeded, an earlier one that was interrupted may be all
        // there is to salvage.
        let _ = sweep::sweep_target(&*self.directory, &self.directory_path, &self.name);
        Ok(())
    }

    /// Removes what was written. The same as dropping it.
    pub fn discard(self) {}

    /// Makes the temp complete and durable under its own name.
    fn finish(&mut self) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(self.error("not saved, because an earlier write failed", failure.to_error()));
        }
        if self.reserved > self.byte_len {
            uninterrupted(|| self.file.set_len(self.byte_len))
                .map_err(|e| self.error("cannot give back reserved space", e))?;
        }
        let found =
            uninterrupted(|| self.file.status()).map_err(|e| self.error("cannot check the length written", e))?;
        if found.byte_len != self.byte_len {
            return Err(Error::new(
                ErrorKind::Io,
                format!("wrote {} bytes, but the new file has {}", self.byte_len, found.byte_len),
            )
            .with_path(&self.path)
            .with_numbers(self.byte_len, found.byte_len)
            .with_advice(self.what_remains()));
        }
        if self.options.durability == Durability::Full {
            // Once, and if it fails or is interrupted the file is thrown away: the kernel then takes the pages for
            // written, and a second fsync would succeed with the bytes lost.
            self.file.sync().map_err(|e| self.error("cannot flush the new file to the device", e))?;
        }
        Ok(())
    }

    fn validate(&self) -> Result<()> {
        match &self.options.validator {
            Some(validator) => validator(self).map_err(|e| e.with_path(&self.path).with_advice(self.what_remains())),
            None => Ok(()),
        }
    }

    fn put_in_place(&mut self) -> Result<()> {
        let Some(temp) = self.temp.clone() else {
            return Err(Error::invalid("the file has been committed already").with_path(&self.path));
        };
        let outcome = match self.options.create_new {
            true => self.directory.rename_no_replace(&temp, &self.name),
            false => self.directory.rename(&temp, &self.name),
        };
        let (outcome, linked) = match outcome {
            // In two steps: a crash between them leaves the temp as a second name of the file in place, for a sweep
            // to remove.
            Err(e) if self.options.create_new && e.kind() == io::ErrorKind::Unsupported => {
                (self.directory.hard_link(&temp, &self.name), true)
            }
            outcome => (outcome, false),
        };
        match outcome {
            Ok(()) => {
                if !linked || uninterrupted(|| self.directory.remove(&temp)).is_ok() {
                    self.temp = None;
                }
                Ok(())
            }
            // Over a network a call can have its effect and fail nevertheless.
            Err(e) => match self.is_in_place(&temp) {
                Some(true) => Err(self.not_durable("the new file is in place, but renaming it failed", e)),
                Some(false) if self.options.create_new && e.kind() == io::ErrorKind::AlreadyExists => {
                    Err(already_exists().with_path(&self.path))
                }
                Some(false) if linked => {
                    Err(self.error("cannot link the new file into place, nor rename it without risk to another", e))
                }
                Some(false) => Err(self.error("cannot rename the new file into place", e)),
                None => Err(self
                    .error("cannot rename the new file into place", e)
                    .with_advice("whether the old or the new file is there now could not be found out")),
            },
        }
    }

    /// Whether the target's name stands for the file that was written here, where that can be known.
    fn is_in_place(&self, temp: &OsStr) -> Option<bool> {
        let written = uninterrupted(|| self.file.status()).ok()?.identity;
        let visible = uninterrupted(|| self.directory.status(&self.name)).ok()?.map(|s| s.identity);
        match (written, visible) {
            (_, None) => Some(false),
            (Some(written), Some(Some(visible))) => Some(written == visible),
            // Where files have no identity, a temp that still has its name has not been renamed.
            _ => Some(uninterrupted(|| self.directory.status(temp)).ok()?.is_none()),
        }
    }

    fn flush_directory(&self) -> Result<()> {
        match self.options.durability {
            Durability::Full => self.directory.sync().map_err(|e| {
                self.not_durable("the new file is in place, but its directory could not be flushed to the device", e)
            }),
            Durability::None => Ok(()),
        }
    }

    fn write_end(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.byte_len.checked_add(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.write_all_at(bytes, self.byte_len)?;
        self.byte_len = end;
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure.to_error());
        }
        let result = write_all_at(&*self.file, bytes, offset);
        if let Err(e) = &result {
            self.failure = Some(Failure::of(e));
        }
        result
    }

    fn error(&self, doing: &str, error: io::Error) -> Error {
        Error::io(doing, error).with_path(&self.path).with_advice(self.what_remains())
    }

    fn not_durable(&self, doing: &str, error: io::Error) -> Error {
        Error::io(doing, error)
            .with_path(&self.path)
            .with_kind(ErrorKind::NotDurable)
            .with_advice("after a crash of the machine the old or the new file may be there: check the disk")
    }

    fn what_remains(&self) -> &'static str {
        match self.replaced {
            Some(_) => "the file that was there before is unchanged",
            None => "nothing was put in place",
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temp) = self.temp.take() {
            // What cannot be removed now a sweep will remove. The lock is held until after this.
            let _ = uninterrupted(|| self.directory.remove(&temp));
        }
    }
}

/// Appends; each call is at least one system call, and takes all bytes or fails for good.
impl io::Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_end(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: no byte is held back here, and [`commit`](AtomicFile::commit) alone makes them durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What has been written so far.
impl ReadAt for AtomicFile {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.byte_len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buffer.len() as u64) {
            Some(end) if end <= self.byte_len => read_exact_at(&*self.file, buffer, offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file that is there already.
impl ReadAt for Box<dyn OutputFile> {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(uninterrupted(|| self.status())?.byte_len)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        read_exact_at(&**self, buffer, offset)
    }
}

pub(super) fn write_all_at(file: &dyn OutputFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = uninterrupted(|| file.write_at(bytes, offset))?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).ok_or_else(|| io::Error::other("more bytes were written than given"))?;
        offset = offset.checked_add(written as u64).ok_or(io::ErrorKind::FileTooLarge)?;
    }
    Ok(())
}

pub(super) fn read_exact_at(file: &dyn OutputFile, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let read = uninterrupted(|| file.read_at(buffer, offset))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(read..).ok_or_else(|| io::Error::other("more bytes were read than asked for"))?;
        offset = offset.checked_add(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
    }
    Ok(())
}
