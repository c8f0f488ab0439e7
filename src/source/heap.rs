//! Bytes in memory, aligned for any dtype and for direct I/O.

use std::fmt;

use bytemuck::{Pod, Zeroable};

/// The alignment of [`AlignedBytes`], in bytes: a page.
pub const HEAP_ALIGNMENT: usize = 4096;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; HEAP_ALIGNMENT]);

/// A buffer of bytes that begins at a multiple of 4096.
///
/// Typed views of an aligned offset in it are therefore always aligned.
pub struct AlignedBytes {
    pages: Vec<Page>,
    len: usize,
}

impl AlignedBytes {
    /// `len` bytes of zeros. **Cost**: address space only, for large buffers; pages come into being as they are written.
    ///
    /// # Errors
    /// [`OutOfMemory`](std::io::ErrorKind::OutOfMemory) if the memory cannot be had.
    pub fn zeroed(len: usize) -> std::io::Result<AlignedBytes> {
        let pages = bytemuck::allocation::try_zeroed_vec(len.div_ceil(HEAP_ALIGNMENT))
            .map_err(|()| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        Ok(AlignedBytes { pages, len })
    }

    /// A copy of bytes.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn copy_of(bytes: &[u8]) -> std::io::Result<AlignedBytes> {
        let mut copy = AlignedBytes::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }
}

impl std::ops::Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = bytemuck::cast_slice(&self.pages);
        &all[..self.len]
    }
}

impl std::ops::DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.pages);
        &mut all[..self.len]
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
    fn buffers_are_aligned_and_as_long_as_asked() {
        for len in [0, 1, 4095, 4096, 4097, 100_000] {
            let mut bytes = AlignedBytes::zeroed(len).unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % HEAP_ALIGNMENT), (len, 0));
            bytes.fill(7);
            assert_eq!(AlignedBytes::copy_of(&bytes).unwrap()[..], vec![7; len]);
        }
    }
}
