//! Where bytes come from: memory, a mapped file, a file read on demand.
//!
//! `read` asks this room for ranges of bytes and never knows which kind it has. This is the only room
//! with `unsafe` code, all of it in `map.rs`; the front door passes its contract on.

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
            Source::File(_) => None,
            Source::Absent(_) => None,
        }
    }
}

impl Source {
    /// Whether touching a byte may have to wait for the disk.
    pub(crate) fn comes_when_touched(&self) -> bool {
        #[cfg(feature = "mmap")]
        return matches!(self, Source::Map(_));
        #[cfg(not(feature = "mmap"))]
        false
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
            Source::Absent(byte_len) => Ok(*byte_len),
            resident => resident.resident().unwrap_or_default().byte_len(),
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        match self {
            #[cfg(feature = "fs")]
            Source::File(file) => file.read_exact_at(buffer, offset),
            Source::Absent(_) => Err(std::io::Error::other("only the structure of the file was opened")),
            resident => resident.resident().unwrap_or_default().read_exact_at(buffer, offset),
        }
    }
}
