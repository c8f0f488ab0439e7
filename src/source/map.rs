//! A mapped file.

use std::fs::File;
use std::io;

/// The bytes of a file, mapped read-only.
#[derive(Debug)]
pub(crate) struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Safety
    /// For as long as the value lives, nobody truncates the file or writes to it: a read beyond a new end is a SIGBUS, and
    /// bytes that change while they are borrowed are undefined behaviour. Replacing the file by rename is fine: the map
    /// keeps the old one.
    pub(crate) unsafe fn new(file: &File, len: usize) -> io::Result<Mapped> {
        // SAFETY: the caller promises, in the same words as memmap2 asks for it, that the file is not modified or truncated
        // while the map lives.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file) }?;
        Ok(Mapped(map))
    }

    /// Says that a range will be read soon, all of it. Best effort.
    pub(crate) fn will_need(&self, offset: usize, len: usize) {
        #[cfg(target_os = "linux")]
        let _ = self.0.advise_range(memmap2::Advice::PopulateRead, offset, len);
        #[cfg(all(unix, not(target_os = "linux")))]
        let _ = self.0.advise_range(memmap2::Advice::WillNeed, offset, len);
        #[cfg(not(unix))]
        let _ = (offset, len);
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
