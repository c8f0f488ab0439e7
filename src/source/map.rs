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

    /// Says how the file will be read. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn advise(&self, pattern: super::Pattern) {
        #[cfg(unix)]
        let _ = self.0.advise(match pattern {
            super::Pattern::Normal => memmap2::Advice::Normal,
            super::Pattern::Sequential => memmap2::Advice::Sequential,
            super::Pattern::Random => memmap2::Advice::Random,
        });
        #[cfg(not(unix))]
        let _ = pattern;
    }

    /// Says that a range will be read soon, and returns before it is there. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn will_need_soon(&self, offset: u64, len: u64) {
        #[cfg(unix)]
        if let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) {
            let _ = self.0.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }

    /// Says that a range will not be read again soon. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        #[cfg(target_os = "linux")]
        {
            let page = rustix::param::page_size();
            let place = |offset: u64| Some(usize::try_from(offset).ok()?.min(self.0.len()));
            let Some((start, end)) = place(offset).zip(place(offset.saturating_add(len))) else { return };
            // Whole pages only: what is at the edges may still be read.
            let (start, end) = (start.next_multiple_of(page), end - end % page);
            if start < end {
                let first = self.0[start..].as_ptr().cast_mut().cast();
                // SAFETY: the range lies in the map, and begins at a page, as the map does. The advice changes no byte of it: pages that
                // are taken back are read from the file again.
                let _ = unsafe { rustix::mm::madvise(first, end - start, rustix::mm::Advice::LinuxCold) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len);
    }
}

impl std::ops::Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
