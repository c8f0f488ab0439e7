//! A damaged file of which not every byte can be read: a disk that fails does so by sectors.

use std::io;
use std::ops::Range;
use std::sync::Mutex;

use crate::format::len_u64;
use crate::source::ReadAt;

/// Where a longer stretch cannot be read, stretches of this length are tried.
const SECTOR: usize = 4 << 10;
/// As many stretches that cannot be read are known apart; further ones count as one with the last.
const MAX_STRETCHES: usize = 10_000;

/// Gives zeros for what cannot be read, and remembers where that is.
pub(super) struct Readable<'a> {
    source: &'a dyn ReadAt,
    bad: Mutex<Vec<Range<u64>>>,
}

impl<'a> Readable<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Readable<'a> {
        Readable { source, bad: Mutex::default() }
    }

    /// What could not be read so far, in the order of the file, no two of them touching.
    pub(super) fn unreadable(&self) -> Vec<Range<u64>> {
        let mut bad = self.bad.lock().map(|bad| bad.clone()).unwrap_or_default();
        crate::read::salvage::merge(&mut bad);
        bad
    }

    fn cannot_read(&self, range: Range<u64>) {
        let Ok(mut bad) = self.bad.lock() else { return };
        if bad.len() >= MAX_STRETCHES {
            crate::read::salvage::merge(&mut bad);
        }
        let is_full = bad.len() >= MAX_STRETCHES;
        match bad.last_mut() {
            Some(last) if last.end == range.start || is_full => {
                *last = last.start.min(range.start)..last.end.max(range.end);
            }
            _ => bad.push(range),
        }
    }
}

impl ReadAt for Readable<'_> {
    fn byte_len(&self) -> io::Result<u64> {
        self.source.byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let Err(e) = self.source.read_exact_at(buffer, offset) else { return Ok(()) };
        // What lies beyond the end is not there, rather than unreadable.
        let is_beyond =
            offset.checked_add(len_u64(buffer.len())).is_none_or(|end| self.byte_len().is_ok_and(|len| end > len));
        if is_beyond || e.kind() == io::ErrorKind::UnexpectedEof {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset;
        for sector in buffer.chunks_mut(SECTOR) {
            let end = at.saturating_add(len_u64(sector.len()));
            if self.source.read_exact_at(sector, at).is_err() {
                sector.fill(0);
                self.cannot_read(at..end);
            }
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct BadSectors(Vec<u8>, Range<u64>);

    impl ReadAt for BadSectors {
        fn byte_len(&self) -> io::Result<u64> {
            self.0.byte_len()
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            if offset < self.1.end && self.1.start < offset + buffer.len() as u64 {
                return Err(io::Error::other("a bad sector"));
            }
            self.0.read_exact_at(buffer, offset)
        }
    }

    #[test]
    fn what_cannot_be_read_is_zeros_and_known() {
        let file = BadSectors(vec![7; 40_000], 10_000..10_001);
        let readable = Readable::new(&file);
        let mut all = vec![1; 40_000];
        readable.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(readable.unreadable(), [8192..12_288]);
        assert!(all[..8192].iter().all(|&byte| byte == 7) && all[8192..12_288].iter().all(|&byte| byte == 0));
        assert!(all[12_288..].iter().all(|&byte| byte == 7));
        assert!(readable.read_exact_at(&mut all, 1).is_err(), "beyond the end");
    }
}
