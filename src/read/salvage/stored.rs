//! A storage of a damaged file: what is known of it, and which of its bytes are good.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::bytes::{Base, Damaged};
use super::marks::merge;
use crate::error::{Error, Result};
use crate::format::checksum::{block_count, block_len, combine_blocks};
use crate::format::{len_u64, len_usize};
use crate::read::parallel;

/// What vouches for the bytes of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Vouched {
    /// The CRC of all of it.
    Whole(u32),
    /// The CRC of each block of that length (as a power of two).
    Blocks(u8, Vec<u32>),
    /// The CRC of so many bytes at its beginning: its writer was in the middle of it.
    Beginning(u64, u32),
}

/// A storage of a damaged file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// Where its data lies, as offsets of the original file.
    pub(super) own: Range<u64>,
    pub(super) vouched: Vouched,
    /// Bytes of it that are damaged, or not there: ascending, none touching the next.
    pub(super) bad: Vec<Range<u64>>,
    /// Bytes of it that nothing vouches for, likewise; none of them bad.
    pub(super) unverified: Vec<Range<u64>>,
    /// Whether bytes of it are not there.
    pub(super) cut_off: bool,
    /// Whether nothing but views speaks of it. They could be those of a file that lies within a tensor of this one: only its checksum tells.
    pub(super) only_viewed: bool,
}

impl Stored {
    pub(super) fn new(own: Range<u64>, vouched: Vouched) -> Stored {
        Stored { own, vouched, bad: Vec::new(), unverified: Vec::new(), cut_off: false, only_viewed: false }
    }

    /// How long its data is.
    pub(super) fn byte_len(&self) -> u64 {
        self.own.end.saturating_sub(self.own.start)
    }

    /// Whether every byte is verified.
    pub(super) fn is_intact(&self) -> bool {
        self.bad.is_empty() && self.unverified.is_empty()
    }

    /// The CRC of all of it, if it is known without reading it.
    pub(super) fn whole_crc32(&self) -> Option<u32> {
        match &self.vouched {
            Vouched::Whole(crc) => Some(*crc),
            Vouched::Blocks(log2, blocks) => Some(combine_blocks(blocks, self.byte_len(), *log2)),
            Vouched::Beginning(end, crc) => (*end == self.byte_len()).then_some(*crc),
        }
    }

    /// Gives up all bytes from one on.
    pub(super) fn cut(&mut self, byte_len: u64) {
        self.own.end = self.own.start.saturating_add(byte_len).min(self.own.end);
        for ranges in [&mut self.bad, &mut self.unverified] {
            *ranges = within(ranges, &(0..byte_len));
        }
    }

    /// Gives up what is behind the stretch that these bytes end in: nobody needs it, and it could be more than any disk holds.
    pub(super) fn end_behind(&mut self, byte_len: u64) {
        let end = match &self.vouched {
            Vouched::Whole(_) => byte_len,
            Vouched::Blocks(log2, _) => {
                let last = byte_len.saturating_sub(1) >> log2;
                last.saturating_add(1).saturating_mul(1u64.checked_shl((*log2).into()).unwrap_or(u64::MAX))
            }
            Vouched::Beginning(..) => return,
        };
        if end < self.byte_len() {
            self.cut(end);
        }
    }

    /// Where a byte of it lies; `None` if that is before the first byte there is.
    fn place(&self, base: Base, at: u64) -> Option<u64> {
        base.place(self.own.start.checked_add(at)?)
    }

    /// How many stretches it has that have a checksum each, with one more for the rest of an unfinished one.
    fn stretch_count(&self) -> u64 {
        match &self.vouched {
            Vouched::Whole(_) => u64::from(self.byte_len() > 0),
            Vouched::Blocks(log2, _) => block_count(self.byte_len(), *log2),
            Vouched::Beginning(..) => 2,
        }
    }

    /// A stretch of it, and its CRC if it has one.
    fn stretch(&self, number: u64) -> (Range<u64>, Option<u32>) {
        let len = self.byte_len();
        match &self.vouched {
            Vouched::Whole(crc) => (0..len, Some(*crc)),
            Vouched::Blocks(log2, blocks) => {
                let start = number.checked_shl((*log2).into()).unwrap_or(len);
                let end = start.saturating_add(block_len(len, number, *log2));
                (start..end, len_usize(number).and_then(|number| blocks.get(number).copied()))
            }
            Vouched::Beginning(end, crc) if number == 0 => (0..(*end).min(len), Some(*crc)),
            Vouched::Beginning(end, _) => ((*end).min(len)..len, None),
        }
    }

    /// Takes what was found of its stretches.
    fn settle(&mut self, mut found: Findings) {
        found.sort_unstable_by_key(|(range, _)| range.start);
        for (range, found) in found {
            match found {
                Found::Bad => self.bad.push(range),
                Found::Unverified => self.unverified.push(range),
                Found::CutOff => {
                    self.cut_off = true;
                    self.bad.push(range);
                }
            }
        }
        merge(&mut self.bad);
        merge(&mut self.unverified);
    }
}

/// What is wrong with a range.
enum Found {
    Bad,
    Unverified,
    CutOff,
}

/// What is wrong with which ranges of a storage.
type Findings = Vec<(Range<u64>, Found)>;

/// Stretches of storages that one thread checks at a time.
struct Task {
    storage: usize,
    stretches: Range<u64>,
}

/// Bytes that a task should have at least.
const TASK_LEN: u64 = 4 << 20;
/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// Reads all storages, and finds out which of their bytes are good.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) only if there is not the memory for a buffer.
pub(super) fn check_all(
    file: &Damaged<'_>,
    base: Base,
    storages: &mut [Stored],
    threads: usize,
    looked_at: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let found: Vec<Mutex<Findings>> = storages.iter().map(|_| Mutex::default()).collect();
    {
        let storages = &*storages;
        let tasks = storages.iter().enumerate().flat_map(|(storage, stored)| {
            let per_task = match &stored.vouched {
                Vouched::Blocks(log2, _) => (TASK_LEN >> log2).max(1),
                _ => u64::MAX,
            };
            let count = stored.stretch_count();
            let starts = std::iter::successors(Some(0u64), move |at| at.checked_add(per_task));
            starts
                .take_while(move |&at| at < count)
                .map(move |at| Task { storage, stretches: at..at.saturating_add(per_task).min(count) })
        });
        parallel::for_each(threads, tasks, Vec::new, |buffer: &mut Vec<u8>, task| {
            let (Some(stored), Some(found)) = (storages.get(task.storage), found.get(task.storage)) else {
                return Ok(());
            };
            if buffer.is_empty() {
                buffer
                    .try_reserve_exact(PIECE)
                    .map_err(|_| Error::io("cannot read", std::io::ErrorKind::OutOfMemory.into()))?;
                buffer.resize(PIECE, 0);
            }
            let mut here = Vec::new();
            for number in task.stretches {
                check(file, base, stored, stored.stretch(number), buffer, &mut here, looked_at);
            }
            if !here.is_empty() {
                found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut here);
            }
            Ok(())
        })?;
    }
    for (stored, found) in storages.iter_mut().zip(found) {
        stored.settle(found.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}

/// Checks a stretch of a storage.
fn check(
    file: &Damaged<'_>,
    base: Base,
    stored: &Stored,
    (range, crc): (Range<u64>, Option<u32>),
    buffer: &mut [u8],
    found: &mut Findings,
    looked_at: &(dyn Fn(u64) + Sync),
) {
    if range.is_empty() {
        return;
    }
    let start = stored.own.start;
    let own = start.saturating_add(range.start)..start.saturating_add(range.end);
    let present = base.present(&own, file.len());
    let present = present.start.saturating_sub(start)..present.end.saturating_sub(start);
    let is_block = matches!(stored.vouched, Vouched::Blocks(..));
    if present != range {
        // A part of a block is as good as none: nothing tells whether it is right. A part of what has but one checksum is all there is of it.
        let (before, behind) = (range.start..present.start.max(range.start), present.end.max(range.start)..range.end);
        if is_block || present.is_empty() {
            found.push((range, Found::CutOff));
        } else {
            found.extend([(before, Found::CutOff), (present, Found::Unverified), (behind, Found::CutOff)]);
        }
        return;
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut unreadable = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at.saturating_add(len_u64(buffer.len())));
        let len = len_usize(end.saturating_sub(at)).unwrap_or(0);
        let Some(piece) = buffer.get_mut(..len).filter(|piece| !piece.is_empty()) else { break };
        if stored.place(base, at).is_some_and(|place| file.read(place, piece)) {
            hasher.update(piece);
        } else {
            unreadable.push(at..end);
        }
        looked_at(len_u64(len));
        at = end;
    }
    let is_right = unreadable.is_empty() && crc == Some(hasher.finalize());
    if is_right {
        return;
    }
    if is_block {
        found.push((range, Found::Bad));
        return;
    }
    let mut from = range.start;
    for bad in unreadable {
        found.push((from..bad.start, Found::Unverified));
        from = bad.end;
        found.push((bad, Found::Bad));
    }
    found.push((from..range.end, Found::Unverified));
}

/// Writes the bytes of a storage: as they are where they are good or taken unverified, and filled where they are bad.
///
/// What was found good is compared with its checksum again: the file could have changed, or the disk failed, since.
pub(super) struct Patched {
    stored: Stored,
    base: Base,
    fill: Filling,
}

/// What bad bytes are replaced by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    /// Repeated from `phase` on, which is a place in the storage.
    pub(super) pattern: Vec<u8>,
    pub(super) phase: u64,
    /// Bits that must be 0 all the same, of single bytes.
    pub(super) unused: Vec<(u64, u8)>,
}

impl Filling {
    pub(super) fn zeros() -> Filling {
        Filling { pattern: vec![0], phase: 0, unused: Vec::new() }
    }

    /// Whether both put the same bytes at the same places, but for unused bits.
    pub(super) fn agrees(&self, other: &Filling) -> bool {
        (&self.pattern, self.phase) == (&other.pattern, other.phase)
    }

    /// Fills a buffer that begins at a place of the storage.
    fn fill(&self, at: u64, buffer: &mut [u8]) {
        let Some(len) = std::num::NonZero::new(len_u64(self.pattern.len())) else { return };
        // The distance from the phase, which may lie behind: up to the next multiple of the pattern's length.
        let ahead = len.get().saturating_sub(self.phase.rem_euclid(len.get()));
        let first = at.rem_euclid(len.get()).saturating_add(ahead).rem_euclid(len.get());
        let pattern = self.pattern.iter().cycle().skip(len_usize(first).unwrap_or(0));
        buffer.iter_mut().zip(pattern).for_each(|(byte, fill)| *byte = *fill);
        for &(place, unused) in &self.unused {
            let within = place.checked_sub(at).and_then(len_usize);
            if let Some(byte) = within.and_then(|within| buffer.get_mut(within)) {
                *byte &= !unused;
            }
        }
    }
}

impl Patched {
    pub(super) fn new(stored: Stored, base: Base, fill: Filling) -> Patched {
        Patched { stored, base, fill }
    }

    /// Writes all bytes.
    pub(super) fn write(&self, source: &dyn crate::source::ReadAt, out: &mut dyn std::io::Write) -> Result<()> {
        let file = Damaged::new(source)?;
        let mut buffer = vec![0; PIECE];
        let mut next_bad = self.stored.bad.iter().peekable();
        for number in 0..self.stored.stretch_count() {
            let (stretch, crc) = self.stored.stretch(number);
            let mut hasher = crc32fast::Hasher::new();
            let mut at = stretch.start;
            let mut is_whole = true;
            while at < stretch.end {
                while next_bad.next_if(|bad| bad.end <= at).is_some() {}
                let (end, bad) = match next_bad.peek() {
                    Some(bad) if bad.start <= at => (bad.end, true),
                    Some(bad) => (bad.start, false),
                    None => (stretch.end, false),
                };
                let end = end.min(stretch.end).min(at.saturating_add(len_u64(PIECE)));
                let len = len_usize(end.saturating_sub(at)).unwrap_or(0);
                let Some(piece) = buffer.get_mut(..len).filter(|piece| !piece.is_empty()) else { break };
                if bad {
                    is_whole = false;
                    self.fill.fill(at, piece);
                } else {
                    let place = self.stored.place(self.base, at).unwrap_or(u64::MAX);
                    if !file.read(place, piece) {
                        let e = Error::io("cannot read what could be read before", std::io::ErrorKind::Other.into());
                        return Err(e.with_offset(place));
                    }
                    hasher.update(piece);
                }
                out.write_all(piece).map_err(|e| Error::io("cannot write", e))?;
                at = end;
            }
            let is_vouched = !self.stored.unverified.iter().any(|range| overlaps(range, &stretch));
            if is_whole
                && is_vouched
                && let Some(expected) = crc
                && let found = hasher.finalize()
                && found != expected
            {
                let e = Error::new(crate::ErrorKind::Corrupt, "the damaged file changed while it was salvaged");
                let place = self.stored.place(self.base, stretch.start).unwrap_or(0);
                return Err(e.with_offset(place).with_numbers(expected.into(), found.into()));
            }
        }
        Ok(())
    }
}

/// Whether two ranges have a byte in common.
pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What ascending ranges have of a range, counted from its beginning.
pub(super) fn within(ranges: &[Range<u64>], part: &Range<u64>) -> Vec<Range<u64>> {
    let from = ranges.partition_point(|range| range.end <= part.start);
    let to = ranges.partition_point(|range| range.start < part.end);
    let cut = |range: &Range<u64>| {
        let start = range.start.max(part.start).saturating_sub(part.start);
        start..range.end.min(part.end).saturating_sub(part.start)
    };
    ranges.get(from..to).unwrap_or_default().iter().map(cut).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is compared")]
mod tests {
    use super::*;
    use crate::format::checksum::crc32;

    fn filled(fill: &Filling, at: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![9; len];
        fill.fill(at, &mut buffer);
        buffer
    }

    #[test]
    fn a_pattern_begins_with_the_tensor_wherever_the_damage_does() {
        let fill = Filling { pattern: vec![1, 2, 3], phase: 4, unused: vec![(9, 0b10)] };
        assert_eq!(filled(&fill, 4, 4), [1, 2, 3, 1]);
        assert_eq!(filled(&fill, 5, 2), [2, 3]);
        assert_eq!(filled(&fill, 3, 2), [3, 1]);
        assert_eq!(filled(&fill, 0, 5), [3, 1, 2, 3, 1]);
        assert_eq!(filled(&fill, 8, 3), [2, 1, 1], "an unused bit of byte 9 is 0");
    }

    #[test]
    fn parts_are_counted_from_the_beginning_of_the_range() {
        let ranges = [0..4, 8..12, 20..30];
        assert_eq!(within(&ranges, &(0..40)), ranges);
        assert_eq!(within(&ranges, &(3..9)), [0..1, 5..6]);
        assert_eq!(within(&ranges, &(4..8)), []);
        assert_eq!(within(&ranges, &(25..26)), [0..1]);
        assert_eq!(within(&ranges, &(9..9)), []);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn what_is_cut_off_damaged_or_unreadable_is_told_apart() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        let blocks: Vec<u32> = bytes[..16_000].chunks(4096).map(crc32).collect();
        let check = |file: &[u8], base: i64, vouched: Vouched| {
            let file = file.to_vec();
            let file = Damaged::new(&file).unwrap();
            let mut storages = [Stored::new(0..16_000, vouched)];
            check_all(&file, Base(base), &mut storages, 2, &|_| ()).unwrap();
            let [stored] = storages;
            (stored.bad, stored.unverified, stored.cut_off)
        };
        let nothing = || (vec![], vec![], false);
        let by_blocks = || Vouched::Blocks(12, blocks.clone());
        let whole = || Vouched::Whole(crc32(&bytes[..16_000]));
        assert_eq!(check(&bytes, 0, by_blocks()), nothing());
        assert_eq!(check(&bytes, 0, whole()), nothing());
        let mut damaged = bytes.clone();
        damaged[5000] ^= 1;
        damaged[15_999] ^= 1;
        assert_eq!(check(&damaged, 0, by_blocks()), (vec![4096..8192, 12_288..16_000], vec![], false));
        assert_eq!(check(&damaged, 0, whole()), (vec![], vec![0..16_000], false));
        assert_eq!(check(&bytes[..9000], 0, by_blocks()), (vec![8192..16_000], vec![], true));
        assert_eq!(check(&bytes[..9000], 0, whole()), (vec![9000..16_000], vec![0..9000], true));
        assert_eq!(check(&bytes[100..], -100, by_blocks()), (vec![0..4096], vec![], true));
        assert_eq!(check(&bytes[100..], -100, whole()), (vec![0..100], vec![100..16_000], true));
        let beginning = Vouched::Beginning(5000, crc32(&bytes[..5000]));
        assert_eq!(check(&bytes, 0, beginning.clone()), (vec![], vec![5000..16_000], false));
        damaged[0] ^= 1;
        assert_eq!(check(&damaged, 0, beginning), (vec![], vec![0..16_000], false));
    }
}
