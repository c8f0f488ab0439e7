//! The CRC-32s of many stretches of a file, whichever way they overlap, in one pass.
//!
//! The CRC of a stretch follows from those of all that lies in front of its end, and of all in front of its beginning. So ten thousand
//! headers that each claim the rest of the file cost no more than one.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::checksum::combine;
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// How much is read at a time.
const PIECE_LEN: u64 = 1 << 20;

/// The CRCs of all that lies in front of certain places.
pub(super) struct Sums {
    before: HashMap<u64, u32>,
}

impl Sums {
    /// Reads a file from the first of some stretches to the last.
    ///
    /// **Cost**: one pass over the file; memory for each stretch.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io).
    pub(super) fn compute(source: &dyn ReadAt, stretches: impl Iterator<Item = Range<u64>>) -> Result<Sums> {
        let mut places: Vec<u64> = stretches.flat_map(|stretch| [stretch.start, stretch.end]).collect();
        places.sort_unstable();
        places.dedup();
        let mut before = HashMap::with_capacity(places.len());
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = Vec::new();
        let mut at = places.first().copied().unwrap_or(0);
        for place in places {
            while at < place {
                let len = place.saturating_sub(at).min(PIECE_LEN);
                buffer.resize(len_usize(len).unwrap_or_default(), 0);
                source.read_exact_at(&mut buffer, at).map_err(|e| Error::io("cannot read", e))?;
                hasher.update(&buffer);
                at = at.saturating_add(len_u64(buffer.len()));
            }
            before.insert(place, hasher.clone().finalize());
        }
        Ok(Sums { before })
    }

    /// The CRC of a stretch; `None` if it was not among those that were asked for.
    pub(super) fn of(&self, stretch: Range<u64>) -> Option<u32> {
        let (start, end) = (self.before.get(&stretch.start)?, self.before.get(&stretch.end)?);
        // What the beginning contributes to the end, when only zeros of a CRC follow it, taken out of the end.
        Some(combine(*start, 0, stretch.end.checked_sub(stretch.start)?) ^ end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_overlap_have_the_sums_of_their_bytes() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let stretches = [0..5000, 17..17, 17..1234, 1000..5000, 1233..1234, 4999..5000, 300..301];
        let sums = Sums::compute(&bytes, stretches.iter().cloned()).unwrap();
        for stretch in stretches {
            let range = stretch.start as usize..stretch.end as usize;
            assert_eq!(sums.of(stretch), Some(crc32fast::hash(&bytes[range.clone()])), "{range:?}");
        }
        assert_eq!(sums.of(0..17), Some(crc32fast::hash(&bytes[..17])));
        assert_eq!(sums.of(1..17), None);
    }
}
