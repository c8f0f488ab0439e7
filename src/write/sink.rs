//! Where an assembled file goes.

use crate::error::{Error, Result};
use crate::source::AlignedBytes;

/// Takes bytes at its end, and corrections of bytes that it took before.
pub(crate) trait Sink {
    /// Takes the next bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Overwrites bytes that were appended before.
    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Whether what it took is still there if the writer dies: then it is worth noting how far it has come.
    fn outlives_its_writer(&self) -> bool {
        false
    }
}

impl Sink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.try_reserve(bytes.len())
            .map_err(|_| Error::io("cannot hold the file in memory", std::io::ErrorKind::OutOfMemory.into()))?;
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let place = usize::try_from(offset).ok().and_then(|start| self.get_mut(start..)?.get_mut(..bytes.len()));
        place.ok_or_else(|| Error::invalid("a correction lies beyond what was written"))?.copy_from_slice(bytes);
        Ok(())
    }
}

/// Memory for a file whose length is known.
pub(crate) struct InMemory {
    pub(crate) bytes: AlignedBytes,
    /// Up to here it has been written.
    pub(crate) end: usize,
}

impl InMemory {
    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let place = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or_else(|| Error::invalid("the file is longer than it was laid out to be"))?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Sink for InMemory {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(self.end, bytes)?;
        self.end += bytes.len();
        Ok(())
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(usize::try_from(offset).unwrap_or(usize::MAX), bytes)
    }
}

/// Takes everything and keeps nothing: what is left is the catalog, with every CRC.
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn append(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn patch(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Passes bytes on to a `Write`, which takes no corrections: they must say what is there already.
pub(crate) struct Sequential<W>(pub(crate) W);

impl<W: std::io::Write> Sink for Sequential<W> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).map_err(|e| Error::io("cannot write", e))
    }

    fn patch(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[cfg(feature = "fs")]
impl Sink for crate::commit::AtomicFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        crate::commit::AtomicFile::append(self, bytes)
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        crate::commit::AtomicFile::patch(self, offset, bytes)
    }

    fn outlives_its_writer(&self) -> bool {
        true
    }
}

/// Gathers small pieces before it passes them on, so that a file of many small tensors takes few writes; corrections of what is
/// still here cost nothing.
///
/// What it passes on ends at multiples of [`BUFFER_LEN`], but for the end of the file: so the system's page cache can hold the file in large
/// pages, and whoever maps it later has fewer of them to find.
pub(crate) struct Buffered<S> {
    sink: S,
    buffer: Vec<u8>,
    /// How many bytes the sink has.
    passed: u64,
}

/// Bytes that are gathered.
pub(crate) const BUFFER_LEN: usize = 1 << 20;

impl<S: Sink> Buffered<S> {
    pub(crate) fn new(sink: S) -> Buffered<S> {
        Buffered { sink, buffer: Vec::new(), passed: 0 }
    }

    /// Where the bytes go.
    #[cfg(feature = "fs")]
    pub(crate) fn inner(&self) -> &S {
        &self.sink
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.sink.append(&self.buffer)?;
            self.passed += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<S> {
        self.flush()?;
        Ok(self.sink)
    }
}

impl<S: Sink> Sink for Buffered<S> {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let at = self.passed + self.buffer.len() as u64;
            // Less than the length of the buffer, so that it fits any integer.
            let room = BUFFER_LEN - (at % BUFFER_LEN as u64) as usize;
            let whole = bytes.len().checked_sub(room).map(|rest| bytes.len() - rest % BUFFER_LEN);
            if let (Some(whole), true) = (whole, self.buffer.is_empty()) {
                // As far as it goes without a copy.
                self.sink.append(&bytes[..whole])?;
                self.passed += whole as u64;
                bytes = &bytes[whole..];
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            if now.len() == room {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset < self.passed && offset + bytes.len() as u64 > self.passed {
            self.flush()?;
        }
        match offset.checked_sub(self.passed) {
            Some(within) => self.buffer.patch(within, bytes),
            None => self.sink.patch(offset, bytes),
        }
    }

    fn outlives_its_writer(&self) -> bool {
        self.sink.outlives_its_writer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_ends_at_multiples_of_the_buffers_length() {
        struct Ends(u64, Vec<u64>);
        impl Sink for Ends {
            fn append(&mut self, bytes: &[u8]) -> Result<()> {
                self.0 += bytes.len() as u64;
                self.1.push(self.0);
                Ok(())
            }
            fn patch(&mut self, _: u64, _: &[u8]) -> Result<()> {
                Ok(())
            }
        }
        let mut buffered = Buffered::new(Ends(0, Vec::new()));
        for len in [256, BUFFER_LEN - 256, 13_312, 5 * BUFFER_LEN, 70_000, 3 * BUFFER_LEN - 7, 1] {
            buffered.append(&vec![1; len]).unwrap();
        }
        let Ends(end, mut ends) = buffered.finish().unwrap();
        assert_eq!(ends.pop(), Some(end));
        assert!(ends.len() >= 4 && ends.iter().all(|end| end % BUFFER_LEN as u64 == 0), "{ends:?}");
    }

    #[test]
    fn a_buffered_sink_ends_up_with_the_same_bytes() {
        let mut buffered = Buffered::new(Vec::new());
        let mut plain = Vec::new();
        for (i, len) in
            [30, 700_000, 5, 600_000, 3, 1 << 20, 2_000_000, 1, 400_000, 400_000, 400_000].into_iter().enumerate()
        {
            let bytes = vec![i as u8; len];
            buffered.append(&bytes).unwrap();
            Sink::append(&mut plain, &bytes).unwrap();
            for at in [0, plain.len() / 2, plain.len().saturating_sub(20)] {
                let patch = [0xF0 | i as u8; 9];
                buffered.patch(at as u64, &patch).unwrap();
                plain.patch(at as u64, &patch).unwrap();
            }
        }
        assert!(buffered.finish().unwrap() == plain);
    }
}
