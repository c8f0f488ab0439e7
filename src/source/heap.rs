//! Bytes in memory, aligned for any dtype and for direct I/O.

use std::fmt;
use std::io;

/// The alignment of [`AlignedBytes`], in bytes: a page.
pub const HEAP_ALIGNMENT: usize = 4096;

/// Buffers from this length on are mapped, in huge pages where the system has them.
#[cfg(feature = "mmap")]
const MAPPED_LEN: usize = 4 << 20;

/// A buffer of bytes that begins at a multiple of 4096.
///
/// Typed views of an aligned offset in it are therefore always aligned.
pub struct AlignedBytes {
    memory: Memory,
    len: usize,
}

/// Zeroed memory. None of the two is written when it is made: for large buffers that would take as long as filling them.
enum Memory {
    /// The buffer begins at the first aligned byte of a longer vector, whose bytes never move.
    ///
    /// Asked for with an alignment of its own, the memory would be written, for no allocator gives zeroed and aligned memory in one.
    Allocated { bytes: Vec<u8>, start: usize },
    /// Pages of the system. A first write then takes in 2 MiB at once instead of 4 KiB.
    #[cfg(feature = "mmap")]
    Mapped(memmap2::MmapMut),
}

impl AlignedBytes {
    /// `len` bytes of zeros. **Cost**: address space only, for large buffers; pages come into being as they are written.
    ///
    /// # Errors
    /// [`OutOfMemory`](std::io::ErrorKind::OutOfMemory) if the memory cannot be had.
    pub fn zeroed(len: usize) -> io::Result<AlignedBytes> {
        #[cfg(feature = "mmap")]
        if len >= MAPPED_LEN {
            let map = memmap2::MmapMut::map_anon(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
            // Best effort: there may be no huge pages.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            return Ok(AlignedBytes { memory: Memory::Mapped(map), len });
        }
        let bytes: Vec<u8> = len
            .checked_add(HEAP_ALIGNMENT)
            .and_then(|room| bytemuck::allocation::try_zeroed_vec(room).ok())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let start = bytes.as_ptr().addr().wrapping_neg() % HEAP_ALIGNMENT;
        Ok(AlignedBytes { memory: Memory::Allocated { bytes, start }, len })
    }

    /// A copy of bytes.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn copy_of(bytes: &[u8]) -> io::Result<AlignedBytes> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Allocated { bytes, start } => &bytes[*start..*start + self.len],
            #[cfg(feature = "mmap")]
            Memory::Mapped(map) => &map[..self.len],
        }
    }
}

impl std::ops::DerefMut for AlignedBytes {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Allocated { bytes, start } => &mut bytes[*start..*start + self.len],
            #[cfg(feature = "mmap")]
            Memory::Mapped(map) => &mut map[..self.len],
        }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [0, 1, 4095, 4096, 4097, 100_000, (4 << 20) - 1, 4 << 20, (5 << 20) + 3] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % HEAP_ALIGNMENT), (len, 0));
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(7);
            assert_eq!(AlignedBytes::copy_of(&bytes).unwrap()[..], vec![7; len]);
        }
    }
}
