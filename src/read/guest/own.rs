//! Storages of a guest that do not lie in its file as they are used.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum::crc32;
use crate::format::{len_u64, len_usize};
use crate::source::{AlignedBytes, ReadAt};

/// Makes a storage's bytes from the file.
type Make = Box<dyn Fn(&dyn ReadAt, &mut dyn Write) -> Result<()> + Send + Sync>;

/// How the bytes of a made storage are known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// They are not: the file has no checksum of them.
    Never,
    /// Whatever makes them checks what it makes them from.
    WhenMade,
    /// Their CRC-32 is this.
    Crc32(u32),
}

/// Where a storage that is not simply in the file comes from.
pub(crate) enum Own {
    Held(AlignedBytes),
    /// `streamed` once a part of it was given without being kept.
    Made {
        make: Make,
        len: u64,
        checked: Checked,
        kept: OnceLock<AlignedBytes>,
        streamed: AtomicBool,
    },
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Own::Held(bytes) => write!(f, "Held({} bytes)", bytes.len()),
            Own::Made { len, checked, .. } => write!(f, "Made({len} bytes, {checked:?})"),
        }
    }
}

impl Own {
    pub(super) fn made(
        len: u64,
        checked: Checked,
        make: impl Fn(&dyn ReadAt, &mut dyn Write) -> Result<()> + Send + Sync + 'static,
    ) -> Own {
        Own::Made { make: Box::new(make), len, checked, kept: OnceLock::new(), streamed: AtomicBool::new(false) }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Own::Held(bytes) => len_u64(bytes.len()),
            Own::Made { len, .. } => *len,
        }
    }

    /// The CRC-32 of the bytes, if it is known without making them.
    pub(super) fn crc32(&self) -> Option<u32> {
        match self {
            Own::Held(bytes) => Some(crc32(bytes)),
            Own::Made { checked: Checked::Crc32(crc32), .. } => Some(*crc32),
            Own::Made { .. } => None,
        }
    }

    pub(super) fn is_checked(&self) -> bool {
        !matches!(self, Own::Made { checked: Checked::Never, .. })
    }

    /// All bytes; made ones are made once, and kept.
    pub(crate) fn bytes(&self, source: &dyn ReadAt) -> Result<&[u8]> {
        let (len, kept) = match self {
            Own::Held(bytes) => return Ok(bytes),
            Own::Made { len, kept, .. } => (*len, kept),
        };
        if let Some(bytes) = kept.get() {
            return Ok(bytes);
        }
        let no_memory = |e| Error::io("cannot hold the storage in memory", e);
        let size = len_usize(len).ok_or_else(|| no_memory(io::ErrorKind::OutOfMemory.into()))?;
        let mut bytes = AlignedBytes::zeroed(size).map_err(no_memory)?;
        let mut rest: &mut [u8] = &mut bytes;
        self.stream(source, 0..len, &mut |piece| {
            rest.write_all(piece).map_err(|e| Error::io("cannot hold the storage", e))
        })?;
        // If another thread was faster, its bytes stay: both were made from the same file.
        Ok(kept.get_or_init(|| bytes))
    }

    /// Gives the bytes of a range piece by piece, and keeps none. All are made, and checked, whatever the range: so when a part is asked for
    /// once more they are kept, or a thousand tensors over one storage would make all of it a thousand times.
    pub(crate) fn stream(
        &self,
        source: &dyn ReadAt,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (make, len, checked) = match self {
            Own::Held(bytes) => return take(part(bytes, 0, &range)),
            Own::Made { kept, .. } if kept.get().is_some() => {
                return take(part(kept.get().map_or(&[], |bytes| bytes), 0, &range));
            }
            Own::Made { make, len, checked, streamed, .. } => {
                let is_part = range != (0..*len);
                if is_part && streamed.swap(true, Ordering::Relaxed) {
                    match self.bytes(source) {
                        Ok(bytes) => return take(part(bytes, 0, &range)),
                        // Without the memory it takes longer.
                        Err(e) if e.kind() == ErrorKind::Io => {}
                        Err(e) => return Err(e),
                    }
                }
                (make, *len, *checked)
            }
        };
        let mut cut = Cut { at: 0, len, range, hasher: crc32fast::Hasher::new(), take, error: None };
        let made = make(source, &mut cut);
        // What went wrong on this side is told rather than what the maker made of it.
        cut.error.take().map_or(made, Err)?;
        if cut.at != len {
            return Err(wrong_len(len, cut.at));
        }
        let found = cut.hasher.finalize();
        match checked {
            Checked::Crc32(expected) if expected != found => {
                let message = format!("the storage is damaged: its CRC-32 should be {expected:08x} and is {found:08x}");
                let e = Error::new(ErrorKind::Corrupt, message).with_numbers(expected.into(), found.into());
                Err(e.with_advice(crate::format::header::DAMAGED_ADVICE))
            }
            _ => Ok(()),
        }
    }
}

#[cold]
fn wrong_len(expected: u64, found: u64) -> Error {
    let message = format!("a storage of {expected} bytes was to be made, and {found} came out");
    Error::new(ErrorKind::Malformed, message).with_numbers(expected, found)
}

/// What a piece that begins at `at` has of a range.
fn part<'b>(bytes: &'b [u8], at: u64, range: &Range<u64>) -> &'b [u8] {
    let place = |offset: u64| len_usize(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(place(range.start)..place(range.end)).unwrap_or_default()
}

/// Cuts a range out of what is made.
struct Cut<'t> {
    at: u64,
    len: u64,
    range: Range<u64>,
    hasher: crc32fast::Hasher,
    take: &'t mut dyn FnMut(&[u8]) -> Result<()>,
    error: Option<Error>,
}

impl Write for Cut<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at.saturating_add(len_u64(bytes.len()));
        let wanted = part(bytes, self.at, &self.range);
        let taken = if end > self.len {
            Err(wrong_len(self.len, end))
        } else if wanted.is_empty() {
            Ok(())
        } else {
            (self.take)(wanted)
        };
        match taken {
            Ok(()) => {
                self.hasher.update(bytes);
                self.at = end;
                Ok(bytes.len())
            }
            Err(e) => {
                let told = io::Error::other(e.reason());
                self.error.get_or_insert(e);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
