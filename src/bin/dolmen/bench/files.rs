//! The files that are measured: read plainly, and made cold.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dolmen::{Error, Result};

use super::measure::{Sample, timed};

/// Bytes that are read at a time, and that a thread takes of a file at a time.
const PIECE: usize = 1 << 20;
const STRETCH: u64 = 8 << 20;

/// Bytes that are copied in memory: more than caches hold, and no more than anybody can spare.
const MOST_COPIED: u64 = 256 << 20;

/// Files, and how many bytes they have.
#[derive(Debug)]
pub struct Files {
    pub paths: Vec<PathBuf>,
    pub byte_len: u64,
}

fn cannot<'p>(doing: &'static str, path: &'p Path) -> impl FnOnce(std::io::Error) -> Error + 'p {
    move |e| Error::io(doing, e).with_path(path)
}

impl Files {
    pub fn new(paths: Vec<PathBuf>) -> Result<Files> {
        let mut byte_len = 0;
        for path in &paths {
            byte_len += std::fs::metadata(path).map_err(cannot("cannot read", path))?.len();
        }
        Ok(Files { paths, byte_len })
    }

    /// Reads all files with `read`, each thread into a buffer that it uses again.
    pub fn read(&self, threads: usize, until: Option<Instant>) -> Result<Sample> {
        let mut stretches = Vec::new();
        for path in &self.paths {
            let len = std::fs::metadata(path).map_err(cannot("cannot read", path))?.len();
            stretches.extend((0..len).step_by(STRETCH as usize).map(|start| (path, start)));
        }
        let (next, bytes, cut) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let failed = Mutex::new(None);
        let mut buffers: Vec<Vec<u8>> = (0..threads).map(|_| vec![1; PIECE]).collect();
        let work = |buffer: &mut Vec<u8>| -> Result<()> {
            while let Some((path, start)) = stretches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if until.is_some_and(|until| Instant::now() >= until) {
                    cut.store(true, Ordering::Relaxed);
                    break;
                }
                let mut file = File::open(path).map_err(cannot("cannot open", path))?;
                file.seek(SeekFrom::Start(*start)).map_err(cannot("cannot read", path))?;
                let mut left = STRETCH;
                while left > 0 {
                    let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let read = file.read(&mut buffer[..most]).map_err(cannot("cannot read", path))?;
                    if read == 0 {
                        break;
                    }
                    black_box(&buffer[..read]);
                    bytes.fetch_add(read as u64, Ordering::Relaxed);
                    left -= read as u64;
                }
            }
            Ok(())
        };
        let (time, ()) = timed(|| {
            std::thread::scope(|scope| {
                for buffer in &mut buffers {
                    scope.spawn(|| {
                        if let Err(e) = work(buffer) {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
                        }
                    });
                }
            });
        });
        if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(e);
        }
        Ok(Sample { bytes: bytes.into_inner(), rows: 0, time, whole: !cut.into_inner() })
    }

    /// Writes what waits for the disk, so that [`forget`](Self::forget) can do its work, and tries it.
    ///
    /// # Errors
    /// Why there can be no cold runs.
    pub fn try_cold(&self) -> std::result::Result<(), &'static str> {
        #[cfg(target_os = "linux")]
        {
            for path in &self.paths {
                File::open(path).and_then(|file| file.sync_all()).map_err(|_| "a file cannot be flushed")?;
            }
            self.forget().map_err(|_| "the page cache cannot be asked to forget these files")?;
            let is_cached = |path: &PathBuf| is_any_cached(path).ok();
            match self.paths.iter().map(is_cached).find(|cached| *cached != Some(false)) {
                None => Ok(()),
                Some(None) => Err("it cannot be told whether the page cache has forgotten these files"),
                Some(Some(_)) => Err(
                    "these files stay in memory: they lie in a file system in memory, or somebody else has them mapped",
                ),
            }
        }
        #[cfg(not(target_os = "linux"))]
        Err("this system cannot be asked to forget a file")
    }

    /// Asks for the files to leave the page cache.
    pub fn forget(&self) -> Result<()> {
        #[cfg(target_os = "linux")]
        for path in &self.paths {
            let file = File::open(path).map_err(cannot("cannot open", path))?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|e| cannot("cannot drop from the page cache", path)(e.into()))?;
        }
        Ok(())
    }
}

/// Whether some of a file is in the page cache: asked at a few places.
#[cfg(target_os = "linux")]
fn is_any_cached(path: &Path) -> std::io::Result<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    const PLACES: u64 = 4;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    for place in 0..PLACES {
        let mut byte = [0];
        let at = len / PLACES * place;
        // What would have to be waited for is not there.
        match preadv2(&file, &mut [std::io::IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT) {
            Ok(1) => return Ok(true),
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

/// Bytes in memory, to be copied.
#[derive(Debug)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// About as many bytes as the files have, but neither very few nor very many.
    pub fn like(files: &Files) -> Memory {
        let len = files.byte_len.clamp(1 << 20, MOST_COPIED);
        // Written, so that it is memory.
        Memory(vec![1; usize::try_from(len).unwrap_or(1 << 20)])
    }

    /// Copies all of it, each thread its part, in pieces as long as batches, into a buffer that it uses again.
    pub fn copy(&self, threads: usize, piece: usize) -> Sample {
        let len = self.0.len();
        let piece = piece.clamp(1, len);
        let mut buffers: Vec<Vec<u8>> = (0..threads).map(|_| vec![1; piece]).collect();
        let (time, ()) = timed(|| {
            std::thread::scope(|scope| {
                for (part, buffer) in self.0.chunks(len.div_ceil(threads)).zip(&mut buffers) {
                    scope.spawn(move || {
                        for piece in part.chunks(piece) {
                            buffer[..piece.len()].copy_from_slice(piece);
                            black_box(&mut *buffer);
                        }
                    });
                }
            });
        });
        Sample { bytes: len as u64, rows: 0, time, whole: true }
    }
}

/// The sum of all bytes, as words: what it takes to read them, and no more.
pub fn sum(bytes: &[u8]) -> u64 {
    let (front, words, back) = bytemuck::pod_align_to::<u8, u64>(bytes);
    let ends = front.iter().chain(back).fold(0u64, |sum, &byte| sum.wrapping_add(byte.into()));
    words.iter().fold(ends, |sum, &word| sum.wrapping_add(word))
}
