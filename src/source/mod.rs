//! Where bytes come from: memory, a mapped file, a file read on demand.
//!
//! `read` asks this room for ranges of bytes and never knows which kind it has. This is the room with `unsafe` code: what maps files, in
//! `map.rs`, whose contract the front door passes on, and a hint to the processor. The others are what calls CUDA, in
//! `feature::device`, and what hands tensors over to other frameworks, in `feature::dlpack`.

#[cfg(feature = "fs")]
pub(crate) mod direct;
#[cfg(feature = "fs")]
pub(crate) mod file;
mod heap;
#[cfg(feature = "mmap")]
pub(crate) mod map;

pub use heap::{AlignedBytes, HEAP_ALIGNMENT};

/// Something of a known length that can be read at any position.
///
/// Files, byte slices and the files that are being written implement it, so that verification can run
/// over each with bounded memory.
pub trait ReadAt: Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn byte_len(&self) -> std::io::Result<u64>;

    /// Fills `buffer` from the bytes that begin at `offset`.
    ///
    /// # Errors
    /// [`UnexpectedEof`](std::io::ErrorKind::UnexpectedEof) if the source ends before the buffer is full; otherwise
    /// what the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn byte_len(&self) -> std::io::Result<u64> {
        (**self).byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn byte_len(&self) -> std::io::Result<u64> {
        self.as_slice().byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buffer.len())?))
            .and_then(|range| self.get(range))
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Begins to bring bytes into the processor's cache: the first of each page, which is what a copy would wait for. The rest follows by itself.
#[cfg(feature = "feature")]
#[inline]
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for page in bytes.chunks(4096) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction. It is a hint, which reads nothing that the program could see, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(page.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// In which order a file will be read.
#[cfg(feature = "feature")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// As most files are.
    Normal,
    /// From its beginning to its end.
    Sequential,
    /// Here and there.
    Random,
}

/// The bytes of a checkpoint, wherever they are.
#[derive(Debug)]
pub(crate) enum Source {
    /// The whole file, in memory of our own.
    Heap(AlignedBytes),
    /// The whole file, in memory that lives as long as the program.
    Static(&'static [u8]),
    /// The whole file, mapped.
    #[cfg(feature = "mmap")]
    Map(map::Mapped),
    /// A file whose storages are read when they are touched.
    #[cfg(feature = "fs")]
    File(std::fs::File),
    /// The same, with data read past the page cache.
    #[cfg(feature = "fs")]
    Direct(direct::DirectFile),
    /// A file of this length of which no data can be touched: it was lent for a moment, to read its structure.
    Absent(u64),
}

impl Source {
    /// The whole file's bytes, if they can be borrowed.
    #[inline]
    pub(crate) fn resident(&self) -> Option<&[u8]> {
        match self {
            Source::Heap(bytes) => Some(bytes),
            Source::Static(bytes) => Some(bytes),
            #[cfg(feature = "mmap")]
            Source::Map(bytes) => Some(bytes),
            #[cfg(feature = "fs")]
            Source::File(_) | Source::Direct(_) => None,
            Source::Absent(_) => None,
        }
    }

    /// Whether touching a byte may have to wait for the disk.
    pub(crate) fn comes_when_touched(&self) -> bool {
        #[cfg(feature = "mmap")]
        return matches!(self, Source::Map(_));
        #[cfg(not(feature = "mmap"))]
        false
    }

    /// Fills a buffer from the file's data, past the page cache if that was asked for.
    #[cfg(feature = "feature")]
    pub(crate) fn read_data_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            #[cfg(feature = "fs")]
            Source::Direct(file) => file.read_data_at(buffer, offset),
            other => other.read_exact_at(buffer, offset),
        }
    }

    /// Says how the file will be read, for the system to read ahead or not. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn advise(&self, pattern: Pattern) {
        match self {
            #[cfg(feature = "mmap")]
            Source::Map(map) => map.advise(pattern),
            #[cfg(feature = "fs")]
            Source::File(file) => file::advise(file, pattern),
            _ => {}
        }
    }

    /// Says that a range will be read soon, and returns before it is there. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn will_need_soon(&self, offset: u64, len: u64) {
        match self {
            #[cfg(feature = "mmap")]
            Source::Map(map) => map.will_need_soon(offset, len),
            #[cfg(feature = "fs")]
            Source::File(file) => file::will_need_soon(file, offset, len),
            _ => {}
        }
    }

    /// Says that a range will not be read again soon: the page cache may forget it. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        match self {
            #[cfg(feature = "mmap")]
            Source::Map(map) => map.forget(offset, len),
            #[cfg(feature = "fs")]
            Source::File(file) => file::forget(file, offset, len),
            _ => {}
        }
    }

    /// Says that a range will be read soon, all of it. Best effort.
    pub(crate) fn will_need(&self, offset: usize, len: usize) {
        match self {
            #[cfg(feature = "mmap")]
            Source::Map(map) => map.will_need(offset, len),
            _ => {
                let _ = (offset, len);
            }
        }
    }
}

impl ReadAt for Source {
    fn byte_len(&self) -> std::io::Result<u64> {
        match self {
            #[cfg(feature = "fs")]
            Source::File(file) => file.byte_len(),
            #[cfg(feature = "fs")]
            Source::Direct(file) => file.byte_len(),
            Source::Absent(byte_len) => Ok(*byte_len),
            resident => resident.resident().unwrap_or_default().byte_len(),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            #[cfg(feature = "fs")]
            Source::File(file) => file.read_exact_at(buffer, offset),
            #[cfg(feature = "fs")]
            Source::Direct(file) => file.read_exact_at(buffer, offset),
            Source::Absent(_) => Err(std::io::Error::other("only the structure of the file was opened")),
            resident => resident.resident().unwrap_or_default().read_exact_at(buffer, offset),
        }
    }
}
