//! Reading from one place on, for parsers that want a stream.

use std::io::{self, Read, Seek, SeekFrom};

use crate::error::{Error, Result};
use crate::source::ReadAt;

/// A [`ReadAt`] read from a position onwards, which can be moved. Nothing is buffered.
pub(crate) struct Positioned<S> {
    source: S,
    len: u64,
    at: u64,
}

impl<S: std::ops::Deref<Target: ReadAt>> Positioned<S> {
    pub(crate) fn new(source: S) -> Result<Positioned<S>> {
        let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        Ok(Positioned { source, len, at: 0 })
    }

    pub(crate) fn skip_to(&mut self, at: u64) {
        self.at = at;
    }
}

impl<S: std::ops::Deref<Target: ReadAt>> Read for Positioned<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        self.source.read_exact_at(buffer.get_mut(..len).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(crate::format::len_u64(len));
        Ok(len)
    }
}

impl<S> Seek for Positioned<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
