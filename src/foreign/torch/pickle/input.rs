//! The bytes of a pickle, through a window.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// How much is read at a time.
const WINDOW_LEN: usize = 256 << 10;

/// A range of a source, read from its beginning to its end.
pub(in super::super) struct Input<'a> {
    source: &'a dyn ReadAt,
    /// Where in the source the window ends, and what is to be read of it.
    next: u64,
    end: u64,
    window: Vec<u8>,
    at: usize,
}

impl<'a> Input<'a> {
    pub(in super::super) fn new(source: &'a dyn ReadAt, start: u64, end: u64) -> Input<'a> {
        Input { source, next: start, end: end.max(start), window: Vec::new(), at: 0 }
    }

    pub(super) fn source(&self) -> &'a dyn ReadAt {
        self.source
    }

    /// Where in the source the next byte lies.
    pub(in super::super) fn offset(&self) -> u64 {
        self.next.saturating_sub(len_u64(self.window.len().saturating_sub(self.at)))
    }

    /// How many bytes are left.
    pub(in super::super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.offset())
    }

    #[cold]
    pub(in super::super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_offset(self.offset())
    }

    #[cold]
    fn ends(&self) -> Error {
        self.error(ErrorKind::Malformed, "the pickle ends in the middle").cut_off()
    }

    /// Fills the window so that `len` bytes are in it.
    #[cold]
    fn fill(&mut self, len: usize) -> Result<()> {
        if len_u64(len) > self.left() {
            return Err(self.ends());
        }
        self.window.drain(..self.at.min(self.window.len()));
        self.at = 0;
        let rest = self.end.saturating_sub(self.next);
        let missing = len.max(WINDOW_LEN).saturating_sub(self.window.len());
        let more = len_usize(rest).unwrap_or(usize::MAX).min(missing);
        let held = self.window.len();
        let no_memory = || Error::io("cannot hold a part of the pickle", std::io::ErrorKind::OutOfMemory.into());
        self.window.try_reserve_exact(more).map_err(|_| no_memory())?;
        self.window.resize(held.saturating_add(more), 0);
        let place = self.window.get_mut(held..).unwrap_or_default();
        self.source.read_exact_at(place, self.next).map_err(|e| Error::io("cannot read", e))?;
        self.next = self.next.saturating_add(len_u64(more));
        Ok(())
    }

    /// The next bytes.
    #[inline]
    pub(in super::super) fn take(&mut self, len: usize) -> Result<&[u8]> {
        if self.window.len().saturating_sub(self.at) < len {
            self.fill(len)?;
        }
        let start = self.at;
        self.at = start.saturating_add(len);
        Ok(self.window.get(start..self.at).unwrap_or_default())
    }

    #[inline]
    pub(in super::super) fn byte(&mut self) -> Result<u8> {
        if let Some(&byte) = self.window.get(self.at) {
            self.at = self.at.saturating_add(1);
            return Ok(byte);
        }
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    #[inline]
    pub(in super::super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?.first_chunk::<N>().copied();
        bytes.ok_or_else(|| self.ends())
    }

    /// Goes over bytes that are left where they are; gives where they begin.
    pub(in super::super) fn skip(&mut self, len: u64) -> Result<u64> {
        if len > self.left() {
            return Err(self.ends());
        }
        let start = self.offset();
        let held = len_u64(self.window.len().saturating_sub(self.at));
        if len <= held {
            self.at = self.at.saturating_add(len_usize(len).unwrap_or(usize::MAX));
        } else {
            self.window.clear();
            self.at = 0;
            self.next = start.saturating_add(len);
        }
        Ok(start)
    }

    /// The bytes up to a line feed, which is taken too.
    pub(in super::super) fn line(&mut self) -> Result<&[u8]> {
        let mut searched = 0;
        loop {
            let held = self.window.get(self.at..).unwrap_or_default();
            if let Some(more) = held.get(searched..).unwrap_or_default().iter().position(|&byte| byte == b'\n') {
                let len = searched.saturating_add(more);
                let line = self.take(len.saturating_add(1))?;
                return Ok(line.get(..len).unwrap_or_default());
            }
            searched = held.len();
            if len_u64(searched) >= self.left() {
                return Err(self.ends());
            }
            // Twice as much each time, so that a long line is not searched for again and again.
            let want = len_usize(self.left()).unwrap_or(usize::MAX).min(searched.saturating_mul(2).saturating_add(1));
            self.fill(want)?;
        }
    }

    /// The bytes that are in the window already, for those who look ahead.
    pub(super) fn ahead(&mut self, len: usize) -> &[u8] {
        if self.window.len().saturating_sub(self.at) < len {
            let len = len_usize(self.left()).unwrap_or(usize::MAX).min(len);
            // What cannot be read is told by who takes it.
            let _ = self.fill(len);
        }
        self.window.get(self.at..).unwrap_or_default()
    }
}
