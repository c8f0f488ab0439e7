//! [`IdIndex`]: from an id to its rows, and which ids there are more than once.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{Ids, no_memory};
use crate::error::{Result, quoted};

/// Ids that are listed of those that there are more than once, at most.
const LISTED_IDS: usize = 10;

/// Rows that are listed of each of them, at most.
const LISTED_ROWS: usize = 10;

/// Ids that are hashed before the first of them is put into the table: with nothing between one look at it and the next, a processor
/// waits for the memory of several at once. A third of the time is saved.
const HASHED_AT_ONCE: usize = 64;

/// Which row of an id that several rows have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Which {
    /// The first one.
    #[default]
    First,
    /// The last one.
    Last,
}

/// From an id to its rows: see [`Ids::index`].
#[derive(Clone, Copy)]
pub struct IdIndex<'a> {
    ids: &'a Ids,
    index: &'a Index,
}

impl<'a> IdIndex<'a> {
    pub(super) fn new(ids: &'a Ids, index: &'a Index) -> IdIndex<'a> {
        IdIndex { ids, index }
    }

    /// The ids that it is of.
    pub fn ids(&self) -> &'a Ids {
        self.ids
    }

    /// The first row of an id, if there is one.
    pub fn find(&self, id: &str) -> Option<u64> {
        self.row_of(id, Which::First)
    }

    /// A row of an id, if there is one: the first, or the last.
    pub fn row_of(&self, id: &str, which: Which) -> Option<u64> {
        self.index.row_of(self.ids, id.as_bytes(), which)
    }

    /// How many different ids there are.
    pub fn id_count(&self) -> u64 {
        self.ids.len().saturating_sub(self.index.surplus_row_count)
    }

    /// The ids that several rows have.
    pub fn duplicates(&self) -> Duplicates<'a> {
        Duplicates { ids: self.ids, index: self.index }
    }
}

impl fmt::Debug for IdIndex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdIndex({} ids of {} rows)", self.id_count(), self.ids.len())
    }
}

/// The ids of which there is more than one row. `Display` names a few of them.
#[derive(Clone, Copy)]
pub struct Duplicates<'a> {
    ids: &'a Ids,
    index: &'a Index,
}

impl<'a> Duplicates<'a> {
    /// How many ids there are more than once.
    pub fn id_count(&self) -> u64 {
        self.index.duplicated_id_count
    }

    /// How many rows have an id that a row before them has.
    pub fn surplus_row_count(&self) -> u64 {
        self.index.surplus_row_count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.id_count() == 0
    }

    /// The first ten of these ids: those whose second row comes first.
    pub fn listed(&self) -> impl ExactSizeIterator<Item = Duplicate<'a>> {
        let ids = self.ids;
        self.index.listed.iter().map(move |listed| Duplicate {
            id: listed.rows.first().and_then(|&row| ids.get(row)).unwrap_or_default(),
            rows: &listed.rows,
            row_count: listed.row_count,
        })
    }
}

impl fmt::Display for Duplicates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ids, rows) = (self.id_count(), self.surplus_row_count());
        let (id_noun, row_noun) =
            (if ids == 1 { "id has" } else { "ids have" }, if rows == 1 { "row" } else { "rows" });
        write!(f, "{ids} {id_noun} more than one row, which makes {rows} {row_noun} too many")?;
        for (i, duplicate) in self.listed().enumerate() {
            write!(f, "{} {duplicate}", if i == 0 { ":" } else { ";" })?;
        }
        if u64::try_from(self.index.listed.len()).is_ok_and(|listed| listed < ids) {
            f.write_str("; …")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Duplicates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Duplicates({} ids, {} surplus rows)", self.id_count(), self.surplus_row_count())
    }
}

/// An id that several rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Duplicate<'a> {
    /// The id.
    pub id: &'a str,
    /// Its rows, ascending: the first ten.
    pub rows: &'a [u64],
    /// How many rows it has.
    pub row_count: u64,
}

impl fmt::Display for Duplicate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in rows ", quoted(self.id))?;
        for (i, row) in self.rows.iter().enumerate() {
            write!(f, "{}{row}", if i == 0 { "" } else { ", " })?;
        }
        match u64::try_from(self.rows.len()).ok().and_then(|listed| self.row_count.checked_sub(listed)) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

/// What an [`IdIndex`] looks into.
pub(super) struct Index {
    /// Seeded at random: whoever writes ids cannot choose ones that collide.
    state: RandomState,
    tables: Tables,
    duplicated_id_count: u64,
    surplus_row_count: u64,
    listed: Vec<Listed>,
}

/// Rows in 4 bytes where they are few enough, which they nearly always are.
enum Tables {
    Narrow(Table<u32>),
    Wide(Table<u64>),
}

struct Listed {
    rows: Vec<u64>,
    row_count: u64,
}

/// The number of a row, as a table holds it.
trait Row: Copy + Eq {
    fn new(row: u64) -> Option<Self>;

    fn get(self) -> u64;
}

impl Row for u32 {
    fn new(row: u64) -> Option<u32> {
        u32::try_from(row).ok()
    }

    fn get(self) -> u64 {
        u64::from(self)
    }
}

impl Row for u64 {
    fn new(row: u64) -> Option<u64> {
        Some(row)
    }

    fn get(self) -> u64 {
        self
    }
}

/// Both tables are looked into by the hash of an id's text.
struct Table<R> {
    /// The first row of every id.
    firsts: HashTable<R>,
    /// The first and the last row of the ids that there are more than once.
    lasts: HashTable<(R, R)>,
}

impl Index {
    pub(super) fn build(ids: &Ids) -> Result<Index> {
        if u32::try_from(ids.len()).is_ok() {
            Index::build_as(ids, Tables::Narrow)
        } else {
            Index::build_as(ids, Tables::Wide)
        }
    }

    fn build_as<R: Row>(ids: &Ids, tables: impl FnOnce(Table<R>) -> Tables) -> Result<Index> {
        let state = RandomState::new();
        let hash_of = |row: R| hash(&state, ids.bytes(row.get()).unwrap_or_default());
        let mut table = Table { firsts: HashTable::new(), lasts: HashTable::new() };
        let (mut duplicated_id_count, mut surplus_row_count, mut listed) = (0u64, 0u64, Vec::new());
        // Room for all at once: growing would hash every id again, all over the memory.
        let count = usize::try_from(ids.len()).map_err(|_| no_memory())?;
        table.firsts.try_reserve(count, |&row| hash_of(row)).map_err(|_| no_memory())?;
        let mut hashes = [0; HASHED_AT_ONCE];
        for (number, slot) in (0..ids.len()).zip((0..HASHED_AT_ONCE).cycle()) {
            if slot == 0 {
                for (hash, ahead) in hashes.iter_mut().zip(number..ids.len()) {
                    *hash = self::hash(&state, ids.bytes(ahead).unwrap_or_default());
                }
            }
            let (Some(row), Some(id), Some(&hash)) = (R::new(number), ids.bytes(number), hashes.get(slot)) else {
                continue;
            };
            let first = match table.firsts.entry(hash, |other| ids.bytes(other.get()) == Some(id), |&row| hash_of(row))
            {
                Entry::Vacant(entry) => {
                    entry.insert(row);
                    continue;
                }
                Entry::Occupied(entry) => *entry.get(),
            };
            surplus_row_count = surplus_row_count.saturating_add(1);
            match table.lasts.find_mut(hash, |(other, _)| *other == first) {
                Some((_, last)) => *last = row,
                None => {
                    table.lasts.try_reserve(1, |&(first, _)| hash_of(first)).map_err(|_| no_memory())?;
                    table.lasts.insert_unique(hash, (first, row), |&(first, _)| hash_of(first));
                    duplicated_id_count = duplicated_id_count.saturating_add(1);
                }
            }
            list(&mut listed, first.get(), number);
        }
        table.shrink(hash_of);
        Ok(Index { tables: tables(table), state, duplicated_id_count, surplus_row_count, listed })
    }

    pub(super) fn byte_len(&self) -> usize {
        match &self.tables {
            Tables::Narrow(table) => table.byte_len(),
            Tables::Wide(table) => table.byte_len(),
        }
    }

    fn row_of(&self, ids: &Ids, id: &[u8], which: Which) -> Option<u64> {
        let hash = hash(&self.state, id);
        match &self.tables {
            Tables::Narrow(table) => table.row_of(ids, id, hash, which),
            Tables::Wide(table) => table.row_of(ids, id, hash, which),
        }
    }
}

impl<R: Row> Table<R> {
    fn row_of(&self, ids: &Ids, id: &[u8], hash: u64, which: Which) -> Option<u64> {
        let first = *self.firsts.find(hash, |row| ids.bytes(row.get()) == Some(id))?;
        let row = match which {
            Which::First => first,
            Which::Last => self.lasts.find(hash, |(other, _)| *other == first).map_or(first, |&(_, last)| last),
        };
        Some(row.get())
    }

    /// Gives back memory if most of it is not needed, because there were far fewer ids than rows.
    fn shrink(&mut self, hash_of: impl Fn(R) -> u64) {
        let mut small = HashTable::new();
        let few = self.firsts.len() < self.firsts.capacity().wrapping_shr(2);
        // Without the memory for a second table, for as long as it takes, the large one stays.
        if few && small.try_reserve(self.firsts.len(), |&row| hash_of(row)).is_ok() {
            for &row in &self.firsts {
                small.insert_unique(hash_of(row), row, |&row| hash_of(row));
            }
            self.firsts = small;
        }
    }

    fn byte_len(&self) -> usize {
        self.firsts.allocation_size().saturating_add(self.lasts.allocation_size())
    }
}

fn hash(state: &RandomState, id: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write(id);
    hasher.finish()
}

/// Takes note of another row of an id.
fn list(listed: &mut Vec<Listed>, first: u64, row: u64) {
    if let Some(known) = listed.iter_mut().find(|known| known.rows.first() == Some(&first)) {
        known.row_count = known.row_count.saturating_add(1);
        if known.rows.len() < LISTED_ROWS {
            known.rows.push(row);
        }
    } else if listed.len() < LISTED_IDS {
        listed.push(Listed { rows: vec![first, row], row_count: 2 });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ids;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Instant;

    /// Compares an index with a map, of which it is to be an image.
    fn check(ids: &Ids, index: &Index) {
        let mut model = BTreeMap::<&str, Vec<u64>>::new();
        ids.iter().enumerate().for_each(|(row, id)| model.entry(id).or_default().push(row as u64));
        let index = IdIndex::new(ids, index);
        for (id, rows) in &model {
            assert_eq!(index.find(id), rows.first().copied());
            assert_eq!(index.row_of(id, Which::Last), rows.last().copied());
            for other in [format!("{id}x"), format!("x{id}"), id.chars().skip(1).collect()] {
                assert_eq!(index.find(&other), model.get(&*other).map(|rows| rows[0]), "{other:?}");
            }
        }
        assert_eq!(index.id_count(), model.len() as u64);

        model.retain(|_, rows| rows.len() > 1);
        let duplicates = index.duplicates();
        assert_eq!(duplicates.id_count(), model.len() as u64);
        assert_eq!(duplicates.surplus_row_count(), model.values().map(|rows| rows.len() as u64 - 1).sum::<u64>());
        assert_eq!(duplicates.is_empty(), model.is_empty());
        let mut expected: Vec<_> = model.into_iter().collect();
        expected.sort_by_key(|(_, rows)| rows[1]);
        expected.truncate(10);
        assert_eq!(duplicates.listed().len(), expected.len());
        for (listed, (id, rows)) in duplicates.listed().zip(expected) {
            assert_eq!((listed.id, listed.row_count), (id, rows.len() as u64));
            assert_eq!(listed.rows, &rows[..rows.len().min(10)]);
        }
    }

    fn check_both(ids: &Ids) {
        check(ids, &Index::build_as(ids, Tables::Narrow).unwrap());
        check(ids, &Index::build_as(ids, Tables::Wide).unwrap());
    }

    proptest! {
        #[test]
        fn the_index_is_that_of_a_map(all in proptest::collection::vec("[a-c]{0,3}", 0..300)) {
            check_both(&ids(all));
        }

        #[test]
        fn the_index_is_that_of_a_map_of_any_text(all in proptest::collection::vec("\\PC{0,2}", 0..100)) {
            check_both(&ids(all));
        }
    }

    #[test]
    fn many_rows_are_found() {
        let ids =
            ids((0..150_000u32).map(|row| format!("contig_{:06}", if row % 1000 == 999 { row / 2 } else { row })));
        assert!(matches!(Index::build(&ids).unwrap().tables, Tables::Narrow(_)));
        check_both(&ids);
    }

    #[test]
    fn no_rows_have_an_index() {
        let ids = Ids::default();
        assert_eq!(ids.find("").unwrap(), None);
        assert!(ids.index().unwrap().duplicates().is_empty());
        check_both(&ids);
    }

    /// A million rows of one id, and a million of two thousand. Were every row kept in the table, each would be compared with all before
    /// it: hours.
    #[test]
    fn many_rows_of_one_id_take_no_longer_than_others() {
        let begin = Instant::now();
        let one = ids(std::iter::repeat_n("contig_0001234_chunk_17R2", 1_000_000));
        check_both(&one);
        let index = one.index().unwrap();
        assert_eq!((index.find("contig_0001234_chunk_17R2"), index.find("contig")), (Some(0), None));
        assert!(one.byte_len() - (25 + 4) * 1_000_000 < 1000, "{} bytes", one.byte_len());
        let many = ids((0..1_000_000).map(|row| (row % 2000).to_string()));
        check_both(&many);
        assert!(begin.elapsed().as_secs() < 60, "{:?}", begin.elapsed());
    }

    #[test]
    fn duplicates_are_shown_in_a_bounded_message() {
        let text = |all: &Ids| all.index().unwrap().duplicates().to_string();
        assert_eq!(
            text(&ids(["a", "b", "a"])),
            "1 id has more than one row, which makes 1 row too many: \"a\" in rows 0, 2"
        );
        let two = ids(["a", "b", "b", "a", "\u{202e}", "b"]);
        let both = "\"b\" in rows 1, 2, 5; \"a\" in rows 0, 3";
        assert_eq!(text(&two), format!("2 ids have more than one row, which makes 3 rows too many: {both}"));
        let many = ids((0..100_000).map(|row| format!("{:0300}", row % 20)));
        assert!(text(&many).len() < 4000);
        assert!(text(&many).contains("rows 0, 20, 40, 60, 80, 100, 120, 140, 160, 180 and 4990 more; \""));
        assert!(text(&many).ends_with("; …"));
    }

    #[test]
    fn threads_share_one_index() {
        let ids = ids((0..10_000).map(|row| row.to_string()));
        let addresses: Vec<usize> = std::thread::scope(|scope| {
            let look = || std::ptr::from_ref(ids.index().unwrap().index).addr();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(look)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(addresses.iter().all(|&address| address == addresses[0]));
        assert_eq!(ids.find("9999").unwrap(), Some(9999));
    }
}
