//! The ids of a table's rows, for tables of tens of millions of rows: [`Ids`], and [`IdIndex`] from an id to its rows.
//!
//! The ids lie one after the other in one text, and 4 bytes for each say where it ends. The index is built when it is first asked for.

mod index;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

pub use index::{Duplicate, Duplicates, IdIndex, Which};

use crate::error::{Error, Result};
use index::Index;

/// The ids of rows 0, 1, 2 and so on. Ids that are numbers are held as text.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::feature::{IdsBuilder, Which};
///
/// let mut ids = IdsBuilder::new();
/// for id in ["contig_7", "contig_8", "contig_7"] {
///     ids.push(id)?;
/// }
/// let ids = ids.finish();
/// assert_eq!(ids.get(1), Some("contig_8"));
///
/// let index = ids.index()?;
/// assert_eq!(index.find("contig_7"), Some(0));
/// assert_eq!(index.row_of("contig_7", Which::Last), Some(2));
/// assert_eq!(index.duplicates().surplus_row_count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Ids {
    text: String,
    ends: Ends,
    index: OnceLock<Index>,
    /// Held while the index is built, so that it is built once.
    building: Mutex<()>,
}

impl Ids {
    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.ends.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of a row, if there is the row.
    pub fn get(&self, row: u64) -> Option<&str> {
        self.text.get(self.ends.range(row)?)
    }

    /// The ids of all rows, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> {
        (0..self.len()).filter_map(|row| self.get(row))
    }

    /// Memory that they take, in bytes: with that of the index, if it was built.
    pub fn byte_len(&self) -> usize {
        let index = self.index.get().map_or(0, Index::byte_len);
        self.text.capacity().saturating_add(self.ends.byte_len()).saturating_add(index)
    }

    /// The index from an id to its rows.
    ///
    /// **Cost**: built the first time: a pass over all ids, and 6 to 12 bytes of memory for each.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if there is not the memory. It can be asked for again then.
    pub fn index(&self) -> Result<IdIndex<'_>> {
        if let Some(index) = self.index.get() {
            return Ok(IdIndex::new(self, index));
        }
        // A thread that panicked here left nothing behind.
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match self.index.get() {
            Some(index) => index,
            None => {
                let index = Index::build(self)?;
                self.index.get_or_init(|| index)
            }
        };
        drop(building);
        Ok(IdIndex::new(self, index))
    }

    /// The first row of an id, if there is one. **Cost**: as [`index`](Self::index), and then a few reads of memory.
    ///
    /// # Errors
    /// As [`index`](Self::index).
    pub fn find(&self, id: &str) -> Result<Option<u64>> {
        Ok(self.index()?.find(id))
    }

    /// The bytes of a row's id: what is compared and hashed, without looking where characters begin.
    fn bytes(&self, row: u64) -> Option<&[u8]> {
        self.text.as_bytes().get(self.ends.range(row)?)
    }
}

/// The same ids, in the same order.
impl PartialEq for Ids {
    fn eq(&self, other: &Ids) -> bool {
        self.ends == other.ends && self.text == other.text
    }
}

impl Eq for Ids {}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ids({} rows, {} bytes of text)", self.len(), self.text.len())
    }
}

/// Gathers [`Ids`], row by row.
#[derive(Default)]
pub struct IdsBuilder {
    text: String,
    ends: Ends,
}

impl IdsBuilder {
    /// Without rows.
    pub fn new() -> IdsBuilder {
        IdsBuilder::default()
    }

    /// Without rows, and with room for so many, and for so many bytes of ids. There may be more of them, or fewer.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if there is not the memory.
    pub fn with_capacity(rows: u64, byte_len: u64) -> Result<IdsBuilder> {
        let mut builder = IdsBuilder::new();
        let byte_len = usize::try_from(byte_len).map_err(|_| no_memory())?;
        builder.text.try_reserve_exact(byte_len).map_err(|_| no_memory())?;
        builder.ends.try_reserve_exact(rows)?;
        Ok(builder)
    }

    /// Adds the id of the next row.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if there is not the memory. What was added before is kept.
    pub fn push(&mut self, id: &str) -> Result<()> {
        self.text.try_reserve(id.len()).map_err(|_| no_memory())?;
        let end = self.text.len().checked_add(id.len()).and_then(|end| u64::try_from(end).ok());
        self.ends.push(end.ok_or_else(no_memory)?)?;
        self.text.push_str(id);
        Ok(())
    }

    /// Rows added so far.
    pub fn len(&self) -> u64 {
        self.ends.len()
    }

    /// Whether no row was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids. Memory that is not needed is given back.
    #[must_use]
    pub fn finish(mut self) -> Ids {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
        Ids { text: self.text, ends: self.ends, ..Ids::default() }
    }
}

impl fmt::Debug for IdsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdsBuilder({} rows, {} bytes of text)", self.len(), self.text.len())
    }
}

#[cold]
fn no_memory() -> Error {
    Error::io("cannot hold the ids of the rows in memory", io::ErrorKind::OutOfMemory.into())
}

/// Where each id ends: numbers that never fall, in 4 bytes each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ends {
    /// The lower 32 bits.
    lower: Vec<u32>,
    /// The upper 32 bits of a row's are how many of these are not after it: ascending, and none below 4 GiB of text.
    carries: Vec<u64>,
}

impl Ends {
    fn len(&self) -> u64 {
        u64::try_from(self.lower.len()).unwrap_or(u64::MAX)
    }

    fn byte_len(&self) -> usize {
        let carries = self.carries.capacity().saturating_mul(size_of::<u64>());
        self.lower.capacity().saturating_mul(size_of::<u32>()).saturating_add(carries)
    }

    fn try_reserve_exact(&mut self, rows: u64) -> Result<()> {
        let rows = usize::try_from(rows).map_err(|_| no_memory())?;
        self.lower.try_reserve_exact(rows).map_err(|_| no_memory())
    }

    fn shrink_to_fit(&mut self) {
        self.lower.shrink_to_fit();
        self.carries.shrink_to_fit();
    }

    /// Adds the end of the next row, which is not before that of the last.
    fn push(&mut self, end: u64) -> Result<()> {
        let [a, b, c, d, upper @ ..] = end.to_le_bytes();
        let carries = usize::try_from(u32::from_le_bytes(upper)).map_err(|_| no_memory())?;
        self.lower.try_reserve(1).map_err(|_| no_memory())?;
        if let Some(more @ 1..) = carries.checked_sub(self.carries.len()) {
            self.carries.try_reserve(more).map_err(|_| no_memory())?;
            self.carries.resize(carries, self.len());
        }
        self.lower.push(u32::from_le_bytes([a, b, c, d]));
        Ok(())
    }

    fn get(&self, row: u64) -> Option<u64> {
        let lower = *self.lower.get(usize::try_from(row).ok()?)?;
        let upper = self.carries.partition_point(|&carry| carry <= row);
        Some(u64::from(lower) | u64::try_from(upper).ok()?.checked_shl(32)?)
    }

    fn range(&self, row: u64) -> Option<Range<usize>> {
        let begin = match row.checked_sub(1) {
            Some(before) => self.get(before)?,
            None => 0,
        };
        Some(usize::try_from(begin).ok()?..usize::try_from(self.get(row)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    pub(super) fn ids<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> Ids {
        let mut builder = IdsBuilder::new();
        for id in all {
            builder.push(id.as_ref()).unwrap();
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn rows_keep_their_ids(all in proptest::collection::vec("\\PC{0,6}", 0..200)) {
            let ids = ids(&all);
            prop_assert_eq!(ids.len(), all.len() as u64);
            prop_assert_eq!(ids.is_empty(), all.is_empty());
            prop_assert!(ids.iter().eq(&all));
            prop_assert!(ids.iter().rev().eq(all.iter().rev()));
            prop_assert!(all.iter().enumerate().all(|(row, id)| ids.get(row as u64) == Some(id)));
            prop_assert_eq!(ids.get(ids.len()), None);
            prop_assert_eq!(ids.get(u64::MAX), None);
        }

        /// As of a text of many times 4 GiB: which needs no text.
        #[test]
        fn ends_beyond_32_bits_are_kept(lens in proptest::collection::vec(prop_oneof![0..5u64, 0..1u64 << 34], 0..100)) {
            let mut ends = Ends::default();
            let mut all = vec![0u64];
            for len in lens {
                all.push(all[all.len() - 1] + len);
                ends.push(all[all.len() - 1]).unwrap();
            }
            for (row, pair) in all.windows(2).enumerate() {
                prop_assert_eq!(ends.range(row as u64), Some(pair[0] as usize..pair[1] as usize));
            }
            prop_assert_eq!(ends.get(ends.len()), None);
        }
    }

    #[test]
    fn equal_are_the_same_ids_in_the_same_order() {
        let ab = ids(["a", "b"]);
        ab.index().unwrap();
        assert_eq!(ab, ids(["a", "b"]));
        for other in [&["ab", ""][..], &["", "ab"], &["b", "a"], &["a", "b", ""], &["a"]] {
            assert_ne!(ab, ids(other));
        }
    }

    #[test]
    fn memory_is_little_more_than_the_text() {
        let mut builder = IdsBuilder::with_capacity(100_000, 1 << 20).unwrap();
        (0..70_000).for_each(|row| builder.push(&format!("{row:08}")).unwrap());
        assert_eq!((builder.len(), builder.is_empty()), (70_000, false));
        let ids = builder.finish();
        assert_eq!(ids.byte_len(), 70_000 * (8 + 4));
        ids.index().unwrap();
        assert!((70_000 * (8 + 4 + 5)..70_000 * (8 + 4 + 12)).contains(&ids.byte_len()), "{}", ids.byte_len());
        assert_eq!(format!("{ids:?}"), "Ids(70000 rows, 560000 bytes of text)");
    }

    #[test]
    fn memory_that_there_is_not_is_an_error() {
        for (rows, byte_len) in [(u64::MAX, 0), (0, u64::MAX), (1 << 62, 0), (0, 1 << 62)] {
            let e = IdsBuilder::with_capacity(rows, byte_len).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Io);
            assert_eq!(e.io_error().map(io::Error::kind), Some(io::ErrorKind::OutOfMemory));
        }
    }
}
