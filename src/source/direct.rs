//! A file whose data is read past the page cache, where the system can do that.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{AlignedBytes, ReadAt};

/// What offset, length and memory of a direct read are multiples of: as much as any device asks for.
const BLOCK: usize = 4096;
/// Bytes of one direct read. Less is slower, on most devices; more is not faster.
const PIECE: usize = 1 << 20;
/// Shorter reads go through the page cache: they are of headers and indexes, which are read once, in small pieces.
const SHORT: usize = 64 << 10;

/// A file, opened once as usual and once for direct reads.
///
/// Direct reads neither use the page cache nor fill it, so that a table of many times the memory does not push out everything else; from a
/// fast disk they are faster, too. Each is made into aligned memory, which is kept for the next one, and copied from there.
pub(crate) struct DirectFile {
    file: File,
    /// `None` where the file system has no direct reads: then all are as usual.
    direct: Option<File>,
    /// As many as there were ever reads at a time.
    buffers: Mutex<Vec<AlignedBytes>>,
}

impl std::fmt::Debug for DirectFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectFile").field("file", &self.file).field("direct", &self.direct).finish_non_exhaustive()
    }
}

impl DirectFile {
    /// Opens the file at a path, which is open already, for direct reads.
    ///
    /// # Errors
    /// What the system says; [`NotFound`](io::ErrorKind::NotFound) if there is another file at the path by now.
    pub(crate) fn new(file: File, path: &Path) -> io::Result<DirectFile> {
        let direct = open_direct(&file, path)?;
        Ok(DirectFile { file, direct, buffers: Mutex::new(Vec::new()) })
    }

    /// Fills a buffer, past the page cache if that can be.
    pub(crate) fn read_data_at(&self, mut to: &mut [u8], mut offset: u64) -> io::Result<()> {
        let Some(direct) = &self.direct else { return self.file.read_exact_at(to, offset) };
        let kept = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = match kept {
            Some(buffer) => buffer,
            None => AlignedBytes::zeroed(PIECE)?,
        };
        let mut read = || {
            while !to.is_empty() {
                // Less than a block, so that it fits any integer.
                let before = (offset % BLOCK as u64) as usize;
                let len = before.saturating_add(to.len()).min(PIECE);
                let blocks = &mut buffer[..len.next_multiple_of(BLOCK)];
                let filled = read_blocks(direct, blocks, offset - before as u64, len)?;
                let (now, rest) = std::mem::take(&mut to).split_at_mut(len - before);
                let (direct, usual) = now.split_at_mut(filled.saturating_sub(before).min(len - before));
                direct.copy_from_slice(&buffer[before..before + direct.len()]);
                // The end of the file, or of what could be had: this tells which it is.
                self.file.read_exact_at(usual, offset + direct.len() as u64)?;
                offset += now.len() as u64;
                to = rest;
            }
            Ok(())
        };
        let done = read();
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        done
    }
}

impl ReadAt for DirectFile {
    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if buffer.len() < SHORT { self.file.read_exact_at(buffer, offset) } else { self.read_data_at(buffer, offset) }
    }
}

/// Fills whole blocks up to at least `needed` bytes, and says how far it came: less far if the file ends before that, or a read gives less than
/// a block, from whose end a direct read cannot go on.
fn read_blocks(file: &File, blocks: &mut [u8], offset: u64, needed: usize) -> io::Result<usize> {
    let mut filled = 0;
    while filled < needed {
        match read_some(file, &mut blocks[filled..], offset + filled as u64) {
            Ok(n) if filled + n >= needed || n < BLOCK => return Ok(filled + n),
            Ok(n) => filled += n - n % BLOCK,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(unix)]
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(not(unix))]
fn read_some(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn open_direct(file: &File, path: &Path) -> io::Result<Option<File>> {
    use super::file::uninterrupted;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let direct = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(direct) => direct,
        // There are no direct reads on this file system.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(e) => return Err(e),
    };
    let identity = |file: &File| uninterrupted(|| file.metadata()).map(|metadata| (metadata.dev(), metadata.ino()));
    if identity(file)? != identity(&direct)? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it was replaced while it was opened"));
    }
    Ok(Some(direct))
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &File, _: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn direct_reads_give_the_bytes_of_any_range_and_none_beyond_the_end() {
        // Not in a directory of the system for short-lived files: that is often in memory, where there are no direct reads.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..(2 * PIECE + 12_345)).map(|i| (i * 7 + i / 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = DirectFile::new(File::open(&path).unwrap(), &path).unwrap();
        for (start, len) in
            [(0, 1), (1, 4095), (4095, 2), (100, PIECE), (4096, PIECE), (77, 2 * PIECE), (bytes.len() - 3, 3), (9, 0)]
        {
            let mut read = vec![0; len];
            file.read_data_at(&mut read, start as u64).unwrap();
            assert!(read == bytes[start..start + len], "{start} {len}");
            read.fill(0);
            file.read_exact_at(&mut read, start as u64).unwrap();
            assert!(read == bytes[start..start + len], "{start} {len}");
        }
        for (start, len) in [(bytes.len() - 3, 4), (bytes.len(), 1), (bytes.len() + 9000, 1), (5, bytes.len())] {
            let e = file.read_data_at(&mut vec![0; len], start as u64).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{start} {len}");
        }
        assert!(file.direct.is_none() || !file.buffers.lock().unwrap().is_empty());
    }
}
