//! Joining tables by id: rows of both side by side, whatever their orders.

use std::sync::Arc;

use super::stack::RowMap;
use super::{Inner, Segment, Table};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::feature::ids::Which;
use crate::format::len_u64;

/// What becomes of rows whose id the other table does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMissing {
    /// The join fails, and says which.
    #[default]
    Refuse,
    /// They are left out, and counted.
    LeaveOut,
}

/// How to join: see [`Table::join`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct JoinOptions {
    missing: OnMissing,
    duplicates: Option<Which>,
}

impl JoinOptions {
    /// Every row must find one row of the other table, and every row of that must be found.
    pub fn new() -> JoinOptions {
        JoinOptions::default()
    }

    /// What becomes of rows, of either table, whose id the other does not have.
    pub fn on_missing(mut self, missing: OnMissing) -> JoinOptions {
        self.missing = missing;
        self
    }

    /// Which row of the other table is taken if several have the id. By default the join fails.
    pub fn on_duplicates(mut self, which: Which) -> JoinOptions {
        self.duplicates = Some(which);
        self
    }
}

/// A joined table, and what the join left out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Join {
    /// The rows of both tables, side by side, in the order of the first one.
    pub table: Table,
    /// Rows of the first table whose id the second does not have.
    pub missing_right: u64,
    /// Rows of the second table that no row of the first one found: their id is not there, or another row of the same id was taken.
    pub missing_left: u64,
}

/// Ids that a message lists.
const SHOWN: usize = 5;

impl Table {
    /// The rows of this table and those of another that have the same id, side by side.
    ///
    /// Rows come in the order of this table, its columns first. Ids and labels are this one's; labels the other one's, if this has none.
    /// Nothing is copied: rows of both are put together when they are read. **Cost**: the index of the other one's ids, and 4 bytes for each
    /// row (8 for tables of 2^32 rows).
    ///
    /// ```no_run
    /// # fn main() -> dolmen::Result<()> {
    /// use dolmen::feature::{JoinOptions, Layout, Table};
    ///
    /// let dnabert = Table::open(["output_1_DNABERT_S.pt"], &Layout::new())?; // 768 columns
    /// let esm = Table::open(["output_1_ESM.pt"], &Layout::new())?; // 2560 columns, in another order
    /// let merged = dnabert.join(&esm, &JoinOptions::new())?.table;
    /// assert_eq!(merged.width(), 3328);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a table has no ids, if several rows of the second one have the same id,
    /// or if the dtypes differ ([`cast`](Table::cast) one); [`NotFound`](ErrorKind::NotFound) with the first ids that are missing in one of
    /// them. What the options allow is no error.
    pub fn join(&self, other: &Table, options: &JoinOptions) -> Result<Join> {
        let (ids, other_index) = (self.ids_or_error()?, other.id_index()?);
        if self.dtype() != other.dtype() {
            let message = format!("a table of dtype {} cannot be joined with one of {}", self.dtype(), other.dtype());
            return Err(Error::invalid(message).with_advice("cast one of them"));
        }
        // A repeated id of the first table finds the same row again and again; of the second, it would leave open which row it finds.
        if options.duplicates.is_none() {
            let duplicates = other_index.duplicates();
            if !duplicates.is_empty() {
                return Err(Error::invalid(format!("of the second table, {duplicates}")));
            }
        }
        let which = options.duplicates.unwrap_or(Which::First);
        let (mut left, mut right, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        let no_memory = |_| Error::io("cannot hold the numbers of rows", std::io::ErrorKind::OutOfMemory.into());
        let hint = usize::try_from(self.rows().min(other.rows())).unwrap_or(0);
        left.try_reserve(hint).map_err(no_memory)?;
        right.try_reserve(hint).map_err(no_memory)?;
        let mut found = vec![0u64; usize::try_from(other.rows().div_ceil(64)).unwrap_or(0)];
        let mut missing_right = 0u64;
        for (row, id) in (0u64..).zip(ids.iter()) {
            let Some(match_) = other_index.row_of(id, which) else {
                missing_right = missing_right.saturating_add(1);
                if missing.len() < SHOWN {
                    missing.push(id);
                }
                continue;
            };
            if let Some(word) = usize::try_from(match_ / 64).ok().and_then(|word| found.get_mut(word)) {
                *word |= 1 << (match_ % 64);
            }
            left.push(row);
            right.push(match_);
        }
        let matched = found.iter().map(|word| u64::from(word.count_ones())).sum();
        let missing_left = other.rows().saturating_sub(matched);
        if options.missing == OnMissing::Refuse {
            if missing_right > 0 {
                return Err(unmatched("the first", missing_right, "the second", &missing));
            }
            // Of ids that several rows have, one row was chosen, and the others are not missing.
            if missing_left > 0 {
                let index = self.id_index()?;
                let is_found = |row: u64| {
                    let word = usize::try_from(row / 64).ok().and_then(|word| found.get(word));
                    word.is_some_and(|word| word & (1 << (row % 64)) != 0)
                };
                let lost = || {
                    (0..other.rows())
                        .filter(|&row| !is_found(row))
                        .filter_map(|row| other.id(row))
                        .filter(|id| index.find(id).is_none())
                };
                let shown: Vec<&str> = lost().take(SHOWN).collect();
                if !shown.is_empty() {
                    return Err(unmatched("the second", len_u64(lost().count()), "the first", &shown));
                }
            }
        }
        // Without rows left out, this one's are its own in their order.
        let all = len_u64(left.len()) == self.rows();
        let kept = if all { self.clone() } else { self.take_rows(&left)? };
        let map = Arc::new(RowMap::new(right.iter().copied(), other.rows())?);
        let mut inner = Inner::clone(&kept.0);
        let before = inner.sides.len();
        for side in &other.0.sides {
            inner.sides.push(side.taking(&map)?);
        }
        let moved = |segment: &Segment| Segment { side: segment.side.saturating_add(before), ..segment.clone() };
        inner.segments.extend(other.0.segments.iter().map(moved));
        let width = self.width().checked_add(other.width());
        inner.width = width.ok_or_else(|| Error::invalid("the width of both tables overflows"))?;
        if inner.labels.is_none() {
            inner.labels = other.labels().map(|labels| {
                right.iter().filter_map(|&row| labels.get(usize::try_from(row).ok()?).copied()).collect()
            });
        }
        Ok(Join { table: Table::checked(inner)?, missing_right, missing_left })
    }
}

fn unmatched(of: &str, count: u64, other: &str, shown: &[&str]) -> Error {
    let names: Vec<String> = shown.iter().map(|id| quoted(id)).collect();
    let more = if count > len_u64(shown.len()) { ", …" } else { "" };
    let message = format!("{count} rows of {of} table have ids that {other} has not: {}{more}", names.join(", "));
    Error::new(ErrorKind::NotFound, message).with_advice("leave them out with `OnMissing::LeaveOut`, if that is meant")
}
