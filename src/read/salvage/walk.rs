//! The records of a damaged file, found by their descriptors.

use std::ops::Range;

use super::bytes::{Base, Damaged, Pages};
use crate::error::Result;
use crate::format::descriptor::{self, DESCRIPTOR_MAGIC, Descriptor, FIXED_LEN, MAX_DESCRIPTOR_LEN};
use crate::format::layout::{self, RECORD_ALIGNMENT};
use crate::format::{len_u64, len_usize};

/// Alignments that data can have, as powers of two.
const ALIGNMENTS: std::ops::RangeInclusive<u8> = 6..=21;

/// Whether data is where section 3 of the specification puts it, for a descriptor at `record` (offsets).
///
/// So a Dolmen file that lies within the data of another is not taken for a part of it: its descriptors count from its own beginning.
pub(super) fn is_in_place(record: u64, descriptor_len: u64, data_offset: u64, alignment_log2: Option<u8>) -> bool {
    let placed = |alignment| descriptor::data_offset(record, descriptor_len, alignment) == Some(data_offset);
    match alignment_log2 {
        Some(alignment) => placed(alignment),
        None => ALIGNMENTS.into_iter().any(placed),
    }
}

/// What a walk comes to.
pub(super) enum Step<'d> {
    /// A descriptor that is whole, of so many bytes, at this offset.
    Record { at: u64, len: u64, descriptor: Descriptor<'d> },
    /// No descriptor, and no data of one: all zeros, or not.
    Gap { own: Range<u64>, zeros: bool },
    /// Bytes that must be zero and are not.
    Padding { own: Range<u64> },
    /// Perhaps the beginning of an index.
    Index { at: u64 },
}

/// Goes through the records of a file.
pub(super) struct Walk<'f> {
    file: &'f Damaged<'f>,
    pages: Pages<'f>,
    base: Base,
    alignment_log2: Option<u8>,
    dims: Vec<u64>,
    /// How many bytes of descriptors that turn out to be none may still be hashed. A file of nothing but magics would cost a thousand times
    /// its length; one that is merely damaged has fewer bytes of descriptors than bytes.
    patience: u64,
}

/// Where a walk goes on behind a record.
#[derive(Clone, Copy)]
enum Next {
    /// At once, for its data is not there or is gone through by others.
    Behind(u64),
    /// Somewhere from here on: how long its data is, is not known.
    Somewhere(u64),
}

impl<'f> Walk<'f> {
    pub(super) fn new(file: &'f Damaged<'f>, base: Base, alignment_log2: Option<u8>) -> Walk<'f> {
        let patience = file.len().saturating_mul(4).saturating_add(1 << 20);
        Walk { file, pages: Pages::new(file), base, alignment_log2, dims: Vec::new(), patience }
    }

    /// Goes through a range of offsets, and calls `take` for what is met, in order. With `whole`, records are met with their data, which is
    /// passed over; otherwise there are only descriptors in the range.
    pub(super) fn go(
        &mut self,
        own: Range<u64>,
        whole: bool,
        mut take: impl FnMut(Step<'_>) -> Result<()>,
    ) -> Result<()> {
        let there = self.base.present(&own, self.file.len());
        let mut cursor = layout::round_up(there.start, RECORD_ALIGNMENT).unwrap_or(there.end);
        self.padding(own.start.max(there.start)..cursor.min(there.end), &mut take)?;
        while cursor < there.end {
            let mut dims = std::mem::take(&mut self.dims);
            let met = self.record(cursor, &there, whole, &mut dims, &mut take);
            self.dims = dims;
            let (mut from, next) = match met? {
                Some(Next::Behind(next)) => {
                    cursor = next;
                    continue;
                }
                Some(Next::Somewhere(from)) => (from, self.search(from, there.end, &mut take)?),
                None => (cursor, self.search(cursor.saturating_add(RECORD_ALIGNMENT), there.end, &mut take)?),
            };
            let end = next.unwrap_or(there.end);
            // What follows a record whose length is not known is its data, or nobody's: who takes the record asks how far it could reach.
            from = from.min(end);
            if from < end {
                let places = self.base.places(&(from..end), self.file.len());
                let zeros = self.pages.first_non_zero(&places).is_none();
                take(Step::Gap { own: from..end, zeros })?;
            }
            cursor = end;
        }
        Ok(())
    }

    /// Meets the record at an offset, if there is one.
    fn record(
        &mut self,
        at: u64,
        there: &Range<u64>,
        whole: bool,
        dims: &mut Vec<u64>,
        take: &mut impl FnMut(Step<'_>) -> Result<()>,
    ) -> Result<Option<Next>> {
        let alignment = self.alignment_log2;
        let Some(place) = self.base.place(at) else { return Ok(None) };
        let bytes = self.pages.get(place, MAX_DESCRIPTOR_LEN);
        let Some((len, descriptor)) = read(bytes, dims, at, there.end, alignment, &mut self.patience) else {
            return Ok(None);
        };
        let descriptor_end = at.saturating_add(len);
        let (view, unfinished) = (descriptor.view, descriptor.unfinished);
        let (data_start, data_len) = (descriptor.data_offset, descriptor.data_len);
        take(Step::Record { at, len, descriptor })?;
        if view || !whole {
            let next = layout::round_up(descriptor_end, RECORD_ALIGNMENT).unwrap_or(u64::MAX);
            self.padding(descriptor_end..next.min(there.end), take)?;
            return Ok(Some(Next::Behind(next)));
        }
        let data_end = data_start.saturating_add(data_len);
        self.padding(descriptor_end..data_start.min(there.end), take)?;
        let next = layout::round_up(data_end, RECORD_ALIGNMENT).unwrap_or(u64::MAX);
        if unfinished {
            return Ok(Some(Next::Somewhere(data_end.min(there.end))));
        }
        self.padding(data_end.min(there.end)..next.min(there.end), take)?;
        Ok(Some(Next::Behind(next)))
    }

    /// The next descriptor at or after an offset.
    fn search(&mut self, from: u64, end: u64, take: &mut impl FnMut(Step<'_>) -> Result<()>) -> Result<Option<u64>> {
        let mut at = layout::round_up(from, RECORD_ALIGNMENT).unwrap_or(end);
        let mut dims = std::mem::take(&mut self.dims);
        let mut found = None;
        while at < end {
            let Some(place) = self.base.place(at) else { break };
            match self.pages.get(place, 16) {
                bytes if bytes.starts_with(&DESCRIPTOR_MAGIC) => {
                    let bytes = self.pages.get(place, MAX_DESCRIPTOR_LEN);
                    if read(bytes, &mut dims, at, end, self.alignment_log2, &mut self.patience).is_some() {
                        found = Some(at);
                        break;
                    }
                }
                bytes if looks_like_an_index(bytes) => take(Step::Index { at })?,
                _ => {}
            }
            at = at.saturating_add(RECORD_ALIGNMENT);
        }
        self.dims = dims;
        Ok(found)
    }

    fn padding(&mut self, own: Range<u64>, take: &mut impl FnMut(Step<'_>) -> Result<()>) -> Result<()> {
        if own.start < own.end
            && let places = self.base.places(&own, self.file.len())
            && self.pages.first_non_zero(&places).is_some()
        {
            take(Step::Padding { own })?;
        }
        Ok(())
    }
}

/// Whether a section table could begin so: its count, and the first entry, which is that of the names.
pub(super) fn looks_like_an_index(bytes: &[u8]) -> bool {
    let Some((&[a, b, c, d, reserved @ .., k0, k1, k2, k3, f0, f1, f2, f3], _)) = bytes.split_first_chunk::<16>()
    else {
        return false;
    };
    let count = u32::from_le_bytes([a, b, c, d]);
    let kind = u32::from_le_bytes([k0, k1, k2, k3]);
    (5..=64).contains(&count) && reserved == [0; 4] && kind == 1 && u32::from_le_bytes([f0, f1, f2, f3]) == 0
}

/// The descriptor that `bytes` begin with, at offset `at`, if it is whole and could be there: its length, and what it says.
fn read<'d>(
    bytes: &'d [u8],
    dims: &'d mut Vec<u64>,
    at: u64,
    end: u64,
    alignment_log2: Option<u8>,
    patience: &mut u64,
) -> Option<(u64, Descriptor<'d>)> {
    let (len, descriptor) = read_anywhere(bytes, dims, at, patience)?;
    let could_be = if descriptor.view {
        // A storage without bytes lies where the next record begins.
        descriptor.data_offset <= at
    } else {
        is_in_place(at, len, descriptor.data_offset, alignment_log2)
    };
    (could_be && at.checked_add(len)? <= end).then_some((len, descriptor))
}

/// The descriptor that `bytes` begin with, if it is whole, wherever it may be.
pub(super) fn read_anywhere<'d>(
    bytes: &'d [u8],
    dims: &'d mut Vec<u64>,
    at: u64,
    patience: &mut u64,
) -> Option<(u64, Descriptor<'d>)> {
    let raw = descriptor::parse_fixed(bytes.get(..FIXED_LEN)?, len_u64(bytes.len()), at).ok()?;
    let len = len_usize(raw.descriptor_len.into())?;
    let whole = bytes.get(..len)?;
    if *patience < len_u64(len) {
        return None;
    }
    match descriptor::parse(&raw, whole, dims, at) {
        Ok(descriptor) => Some((len_u64(len), descriptor)),
        Err(_) => {
            *patience = patience.saturating_sub(len_u64(len));
            None
        }
    }
}
