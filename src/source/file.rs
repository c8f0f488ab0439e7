//! A file read at positions, without mapping it: a file cut short underneath is an error, not a signal.

use std::fs::File;
use std::io;

use super::ReadAt;

impl ReadAt for File {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(uninterrupted(|| self.metadata())?.len())
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    #[cfg(not(any(unix, windows)))]
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Says how a file will be read. Best effort.
#[cfg(feature = "feature")]
pub(crate) fn advise(file: &File, pattern: super::Pattern) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(
        file,
        0,
        None,
        match pattern {
            super::Pattern::Normal => rustix::fs::Advice::Normal,
            super::Pattern::Sequential => rustix::fs::Advice::Sequential,
            super::Pattern::Random => rustix::fs::Advice::Random,
        },
    );
    #[cfg(not(target_os = "linux"))]
    let _ = (file, pattern);
}

/// Says that a range of a file will be read soon. Best effort.
#[cfg(feature = "feature")]
pub(crate) fn will_need_soon(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZero::new(len) {
        let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::WillNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Says that a range of a file will not be read again soon. Best effort.
#[cfg(feature = "feature")]
pub(crate) fn forget(file: &File, offset: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZero::new(len) {
        let _ = rustix::fs::fadvise(file, offset, Some(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
}

/// Opens a regular file for reading, refusing what would block or never end.
pub(crate) fn open_regular(path: &std::path::Path) -> crate::Result<(File, u64)> {
    let doing = |doing: &str, e| crate::Error::io(doing, e).with_path(path);
    // Looked at before it is opened: opening a FIFO would wait for a writer.
    let metadata = uninterrupted(|| std::fs::metadata(path)).map_err(|e| doing("cannot open", e))?;
    if metadata.is_dir() {
        return Err(crate::Error::invalid("is a directory, not a file").with_path(path));
    }
    if !metadata.is_file() {
        return Err(crate::Error::invalid("is not a regular file").with_path(path));
    }
    let file = File::open(path).map_err(|e| doing("cannot open", e))?;
    let len = file.byte_len().map_err(|e| doing("cannot get the length of", e))?;
    Ok((file, len))
}

/// Repeats a call for as long as a signal interrupts it, which some network and FUSE file systems let it do.
///
/// For calls without effect, or whose effect is the same when repeated; never for a flush. Reads, and the opening of files, do so by themselves.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
