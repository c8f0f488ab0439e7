//! The front door: recognises what a file is, and joins source, reader and guests.

#[cfg(feature = "fs")]
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::header::MAGIC;
use crate::format::limits::Limits;
use crate::read::{Checkpoint, GuestIndex};
use crate::source::{AlignedBytes, ReadAt, Source};

/// How to open a file. The functions of [`Checkpoint`] use the defaults.
#[derive(Clone, Debug)]
#[must_use]
pub struct OpenOptions {
    limits: Limits,
    threads: usize,
    direct: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// No limits but the file's size, and as many threads as the machine has.
    pub fn new() -> OpenOptions {
        OpenOptions { limits: Limits::NONE, threads: crate::read::default_threads(), direct: false }
    }

    /// What to accept at most.
    pub fn limits(mut self, limits: Limits) -> OpenOptions {
        self.limits = limits;
        self
    }

    /// How many threads [`open`](Self::open) reads and verifies with, and the first touch of a large tensor verifies with.
    pub fn threads(mut self, threads: usize) -> OpenOptions {
        self.threads = if cfg!(feature = "parallel") { threads.max(1) } else { 1 };
        self
    }

    /// Whether [`open_on_demand`](Self::open_on_demand) reads data past the system's page cache (`O_DIRECT`), where it can: for data of more
    /// than the memory, from a fast disk. Short reads, of headers and indexes, are as usual. Off by default.
    pub fn direct(mut self, direct: bool) -> OpenOptions {
        self.direct = direct;
        self
    }

    /// As [`Checkpoint::open`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    #[cfg(feature = "fs")]
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Checkpoint> {
        let open = |file, _| match recognise(&file, &self.limits)? {
            None => crate::read::load(&file, &self.limits, self.threads),
            Some(guest) => {
                let bytes = crate::read::read_whole(&file, self.threads)?;
                let checkpoint =
                    Checkpoint::of_guest(Source::Heap(bytes), guest, self.limits)?.with_threads(self.threads);
                checkpoint.check_data().map(|()| checkpoint)
            }
        };
        at(path.as_ref(), open).map(|checkpoint| checkpoint.with_threads(self.threads))
    }

    /// As [`Checkpoint::open_on_demand`].
    ///
    /// # Errors
    /// As [`Checkpoint::open_on_demand`].
    #[cfg(feature = "fs")]
    pub fn open_on_demand(&self, path: impl AsRef<Path>) -> Result<Checkpoint> {
        let path = path.as_ref();
        let source = |file| {
            if !self.direct {
                return Ok(Source::File(file));
            }
            let direct = crate::source::direct::DirectFile::new(file, path);
            direct.map(Source::Direct).map_err(|e| Error::io("cannot open for direct reads", e))
        };
        at(path, |file, _| self.source(source(file)?))
    }

    /// As [`Checkpoint::map`].
    ///
    /// # Errors
    /// As [`Checkpoint::map`].
    ///
    /// # Safety
    /// As [`Checkpoint::map`].
    #[cfg(feature = "mmap")]
    pub unsafe fn map(&self, path: impl AsRef<Path>) -> Result<Checkpoint> {
        at(path.as_ref(), |file, len| {
            if len == 0 {
                // There is nothing to map; opening it says what is wrong.
                return self.source(Source::File(file));
            }
            let cannot = |e| Error::io("cannot map", e);
            let len = usize::try_from(len).map_err(|_| cannot(std::io::ErrorKind::OutOfMemory.into()))?;
            // SAFETY: the caller promises that nobody truncates or writes to the file while the checkpoint lives.
            let map = unsafe { crate::source::map::Mapped::new(&file, len) }.map_err(cannot)?;
            self.source(Source::Map(map))
        })
    }

    /// As [`Checkpoint::from_bytes`].
    ///
    /// # Errors
    /// As [`Checkpoint::from_bytes`].
    pub fn from_bytes(&self, bytes: &[u8]) -> Result<Checkpoint> {
        self.limits.check("file length", bytes.len() as u64, self.limits.max_file_len)?;
        let copy = AlignedBytes::copy_of(bytes).map_err(|e| Error::io("cannot hold the file in memory", e))?;
        self.source(Source::Heap(copy))
    }

    /// Opens a file of a format of your own, whose structure you have read: its storages are read when they are touched.
    ///
    /// ```
    /// # fn main() -> dolmen::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("table.bin");
    /// use dolmen::{DType, GuestIndex, OpenOptions};
    ///
    /// std::fs::write(&path, b"HEAD\x01\x02\x03").unwrap();
    /// let mut guest = GuestIndex::new("table", "1");
    /// let storage = guest.storage(4, 3, None)?;
    /// guest.tensor("bytes", DType::U8, vec![3], None, storage, 0)?;
    /// let ckpt = OpenOptions::new().open_guest(&path, guest)?;
    /// assert_eq!(ckpt.tensor("bytes")?.as_slice::<u8>()?, [1, 2, 3]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Malformed`](crate::ErrorKind::Malformed) if a storage does not lie in the file; [`Io`](crate::ErrorKind::Io).
    #[cfg(feature = "fs")]
    pub fn open_guest(&self, path: impl AsRef<Path>, guest: GuestIndex) -> Result<Checkpoint> {
        let open = |file, _| Checkpoint::of_guest(Source::File(file), guest, self.limits);
        at(path.as_ref(), open).map(|checkpoint| checkpoint.with_threads(self.threads))
    }

    /// As [`open_guest`](Self::open_guest), of a file that is in memory, copying it.
    ///
    /// # Errors
    /// As there.
    pub fn guest_from_bytes(&self, bytes: &[u8], guest: GuestIndex) -> Result<Checkpoint> {
        let copy = AlignedBytes::copy_of(bytes).map_err(|e| Error::io("cannot hold the file in memory", e))?;
        Ok(Checkpoint::of_guest(Source::Heap(copy), guest, self.limits)?.with_threads(self.threads))
    }

    /// Opens the structure of a file that is lent for a moment, such as one that a save has finished and not yet put in place: names,
    /// dtypes, shapes, metadata and document. Its data cannot be touched; [`verify_in`](Checkpoint::verify_in) verifies it.
    ///
    /// **Cost**: reads header and index, or what other formats have for them.
    ///
    /// # Errors
    /// As [`Checkpoint::open_on_demand`].
    pub fn open_structure(&self, source: &dyn ReadAt) -> Result<Checkpoint> {
        let absent = |source: &dyn ReadAt| {
            let byte_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
            Ok(Source::Absent(byte_len))
        };
        let checkpoint = match recognise(source, &self.limits)? {
            None => Checkpoint::of_structure(source, absent(source)?, self.limits),
            Some(guest) => Checkpoint::of_guest(absent(source)?, guest, self.limits),
        };
        checkpoint.map(|checkpoint| checkpoint.with_threads(self.threads))
    }

    fn source(&self, source: Source) -> Result<Checkpoint> {
        let checkpoint = match recognise(&source, &self.limits)? {
            None => Checkpoint::of_source(source, self.limits),
            Some(guest) => Checkpoint::of_guest(source, guest, self.limits),
        };
        checkpoint.map(|checkpoint| checkpoint.with_threads(self.threads))
    }
}

/// The index of a guest's file; `None` for what is a Dolmen file, or nothing that is known.
fn recognise(source: &dyn ReadAt, limits: &Limits) -> Result<Option<GuestIndex>> {
    let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    limits.check("file length", len, limits.max_file_len)?;
    let start = crate::read::read_start(source)?;
    if start.starts_with(&MAGIC) {
        return Ok(None);
    }
    crate::foreign::read_index(&start, source, limits)
}

/// Opens the file at a path; every error names it.
#[cfg(feature = "fs")]
fn at(path: &Path, open: impl FnOnce(std::fs::File, u64) -> Result<Checkpoint>) -> Result<Checkpoint> {
    let (file, len) = crate::source::file::open_regular(path)?;
    open(file, len).map(|checkpoint| checkpoint.at_path(path)).map_err(|e| e.with_path(path))
}

impl Checkpoint {
    /// Reads a file into aligned memory and verifies all of its data.
    ///
    /// It needs no `unsafe`, and nothing that happens to the file afterwards matters. Files of other formats are recognised by their
    /// content. **Cost**: memory for the whole file; reads it once, on several threads, each block's CRC computed while it is in the
    /// cache.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) or [`Malformed`](crate::ErrorKind::Malformed) with the tensor and block that is
    /// damaged, or the rule that is broken; [`NotThisFormat`](crate::ErrorKind::NotThisFormat) with what the file is instead;
    /// [`UnsupportedVersion`](crate::ErrorKind::UnsupportedVersion); [`Io`](crate::ErrorKind::Io).
    #[cfg(feature = "fs")]
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint> {
        OpenOptions::new().open(path)
    }

    /// Opens a file whose storages are read when they are touched first, verified, and kept.
    ///
    /// It needs no `unsafe`: a file that is cut short meanwhile is an error. **Cost**: reads header and index; then for each storage
    /// touched its length in memory. [`verify`](Checkpoint::verify) keeps nothing.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open), for header and index.
    #[cfg(feature = "fs")]
    pub fn open_on_demand(path: impl AsRef<Path>) -> Result<Checkpoint> {
        OpenOptions::new().open_on_demand(path)
    }

    /// Maps a file: nothing is copied, and data is verified at first touch.
    ///
    /// **Cost**: microseconds and the CRC of the index, however many tensors there are.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open), for header and index.
    ///
    /// # Safety
    /// While the checkpoint lives, nobody may truncate the file (reading beyond its new end kills the process with SIGBUS) or write to it
    /// in place (bytes would change while they are borrowed). Dolmen itself never does either: it saves by renaming a new file
    /// over the old one, which leaves this map as it was. So saving over the very file that is mapped is safe.
    #[cfg(feature = "mmap")]
    pub unsafe fn map(path: impl AsRef<Path>) -> Result<Checkpoint> {
        // SAFETY: the caller's promise is the same.
        unsafe { OpenOptions::new().map(path) }
    }

    /// Opens a file that is in memory, copying it into aligned memory.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open), for header and index.
    pub fn from_bytes(bytes: &[u8]) -> Result<Checkpoint> {
        OpenOptions::new().from_bytes(bytes)
    }

    /// Opens a file that is in memory for good, such as one of `include_bytes!`.
    ///
    /// Nothing is copied if the bytes begin at a multiple of 64; otherwise all are.
    ///
    /// # Errors
    /// As [`open`](Checkpoint::open), for header and index.
    pub fn from_static(bytes: &'static [u8]) -> Result<Checkpoint> {
        if !(bytes.as_ptr() as usize).is_multiple_of(64) {
            return Checkpoint::from_bytes(bytes);
        }
        OpenOptions::new().source(Source::Static(bytes))
    }
}
