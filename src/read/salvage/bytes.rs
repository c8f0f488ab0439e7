//! The bytes of a damaged file: read as far as they can be.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// What is read at a time where the file is searched.
const PAGE: usize = 256 << 10;
/// Where a longer stretch cannot be read, stretches of this length are tried: disks fail by sectors.
const SECTOR: usize = 4 << 10;

/// A damaged file, of which not every byte need be readable.
pub(super) struct Damaged<'a> {
    source: &'a dyn ReadAt,
    len: u64,
}

impl<'a> Damaged<'a> {
    pub(super) fn new(source: &'a dyn ReadAt) -> Result<Damaged<'a>> {
        let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        Ok(Damaged { source, len })
    }

    /// How long it is.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Reads all of a range, if it is there and can be read.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> bool {
        self.source.read_exact_at(buffer, at).is_ok()
    }

    /// Reads a range; what cannot be read of it is zeros. Gives whether all of it could be.
    pub(super) fn read_what_can_be(&self, at: u64, buffer: &mut [u8]) -> bool {
        if self.read(at, buffer) {
            return true;
        }
        let mut from = at;
        for piece in buffer.chunks_mut(SECTOR) {
            if !self.read(from, piece) {
                piece.fill(0);
            }
            from = from.saturating_add(len_u64(piece.len()));
        }
        false
    }

    /// A short range, if all of it is there.
    pub(super) fn array<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes).then_some(bytes)
    }
}

/// A damaged file that is gone through from its beginning to its end.
pub(super) struct Pages<'f> {
    file: &'f Damaged<'f>,
    start: u64,
    bytes: Vec<u8>,
    /// How many bytes were read.
    pub(super) read: u64,
}

impl<'f> Pages<'f> {
    pub(super) fn new(file: &'f Damaged<'f>) -> Pages<'f> {
        Pages { file, start: 0, bytes: Vec::new(), read: 0 }
    }

    /// `len` bytes from `at` on, or as many as there are before the end of the file.
    pub(super) fn get(&mut self, at: u64, len: usize) -> &[u8] {
        let left = len_usize(self.file.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = len.min(left);
        let within = |start: u64, held: usize| {
            let from = len_usize(at.checked_sub(start)?)?;
            Some(from..from.checked_add(wanted)?).filter(|place| place.end <= held)
        };
        let place = within(self.start, self.bytes.len()).unwrap_or_else(|| {
            self.bytes.resize(wanted.max(PAGE).min(left), 0);
            self.start = at;
            self.file.read_what_can_be(at, &mut self.bytes);
            self.read = self.read.saturating_add(len_u64(self.bytes.len()));
            0..wanted
        });
        self.bytes.get(place).unwrap_or_default()
    }

    /// The first byte of a range that is not zero.
    pub(super) fn first_non_zero(&mut self, range: &Range<u64>) -> Option<u64> {
        let mut at = range.start;
        while at < range.end.min(self.file.len) {
            let len = len_usize(range.end.saturating_sub(at)).unwrap_or(PAGE).min(PAGE);
            let bytes = self.get(at, len);
            if let Some(i) = bytes.iter().position(|&byte| byte != 0) {
                return Some(at.saturating_add(len_u64(i)));
            }
            at = at.saturating_add(len_u64(bytes.len().max(1)));
        }
        None
    }
}

/// Where a Dolmen file lies among the bytes that there are: offsets in the file are its *own*, and the others are *places*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Base(pub(super) i64);

impl Base {
    /// The base with which an offset is at a place.
    pub(super) fn with(own: u64, place: u64) -> Option<Base> {
        i64::try_from(i128::from(place).checked_sub(i128::from(own))?).ok().map(Base)
    }

    /// Where an offset is; `None` if it is before the first byte that there is.
    pub(super) fn place(self, own: u64) -> Option<u64> {
        own.checked_add_signed(self.0)
    }

    /// The offset of a place; `None` if it is before the file's beginning.
    pub(super) fn own(self, place: u64) -> Option<u64> {
        place.checked_add_signed(self.0.checked_neg()?)
    }

    /// Those of a range's bytes that are there, as offsets.
    pub(super) fn present(self, own: &Range<u64>, len: u64) -> Range<u64> {
        let first = self.own(0).unwrap_or(0);
        let end = self.own(len).unwrap_or(0);
        let start = own.start.max(first).min(own.end);
        start..own.end.min(end).max(start)
    }

    /// A range's bytes, as far as they are there, as places.
    pub(super) fn places(self, own: &Range<u64>, len: u64) -> Range<u64> {
        let present = self.present(own, len);
        let place = |own| self.place(own).unwrap_or(0);
        place(present.start)..place(present.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_what_is_there() {
        let junk_before = Base(10);
        assert_eq!((junk_before.place(5), junk_before.own(15), junk_before.own(9)), (Some(15), Some(5), None));
        assert_eq!(junk_before.present(&(0..100), 50), 0..40);
        assert_eq!(junk_before.places(&(30..100), 50), 40..50);
        let beginning_missing = Base(-10);
        assert_eq!((beginning_missing.place(9), beginning_missing.place(12)), (None, Some(2)));
        assert_eq!(beginning_missing.present(&(0..100), 50), 10..60);
        assert_eq!(beginning_missing.places(&(0..20), 50), 0..10);
        assert!(beginning_missing.places(&(0..5), 50).is_empty());
        assert!(Base(0).places(&(60..70), 50).is_empty());
        assert_eq!(Base::with(u64::MAX, 0), None);
    }

    #[test]
    fn what_cannot_be_read_is_zeros_and_the_rest_is_there() {
        struct BadSector;
        impl ReadAt for BadSector {
            fn byte_len(&self) -> std::io::Result<u64> {
                Ok(3 * SECTOR as u64 + 100)
            }
            fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
                let bad = SECTOR as u64..2 * SECTOR as u64;
                if at < bad.end && at + buffer.len() as u64 > bad.start {
                    return Err(std::io::Error::other("bad sector"));
                }
                buffer.fill(7);
                Ok(())
            }
        }
        let file = Damaged::new(&BadSector).unwrap();
        let mut pages = Pages::new(&file);
        let bytes = pages.get(0, 1 << 20).to_vec();
        assert_eq!(bytes.len() as u64, file.len());
        let bad = SECTOR..2 * SECTOR;
        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == if bad.contains(&i) { 0 } else { 7 }));
        assert_eq!(pages.first_non_zero(&(SECTOR as u64..file.len())), Some(2 * SECTOR as u64));
        assert_eq!(pages.first_non_zero(&(SECTOR as u64..2 * SECTOR as u64)), None);
    }
}
