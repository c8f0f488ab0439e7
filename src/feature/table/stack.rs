//! Checkpoints one below the other, and which of their rows are taken.

use std::sync::Arc;

use super::part::Part;
use crate::error::{Error, Result};
use crate::format::len_usize;

/// Parts, each with its rows after those of the one before.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) parts: Vec<Part>,
    /// The first row of each part, and the number of all rows.
    starts: Vec<u64>,
}

impl Stack {
    pub(super) fn new(parts: Vec<Part>) -> Result<Stack> {
        let mut starts = Vec::with_capacity(parts.len().saturating_add(1));
        let mut rows = 0u64;
        for part in &parts {
            starts.push(rows);
            rows = rows.checked_add(part.rows).ok_or_else(|| Error::invalid("the number of all rows overflows"))?;
        }
        starts.push(rows);
        Ok(Stack { parts, starts })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The number of the part that has a row, and the number of the row there. `hint` is the part that is looked at first.
    #[inline]
    pub(crate) fn place(&self, row: u64, hint: usize) -> Option<(usize, u64)> {
        if let (Some(&start), Some(&end)) = (self.starts.get(hint), self.starts.get(hint.saturating_add(1)))
            && (start..end).contains(&row)
        {
            return Some((hint, row.saturating_sub(start)));
        }
        // Of empty parts, which begin where the next one does, the last is not empty, or there is no such row.
        let part = self.starts.partition_point(|&start| start <= row).checked_sub(1)?;
        self.parts.get(part)?;
        Some((part, row.saturating_sub(*self.starts.get(part)?)))
    }
}

/// Which rows of a stack are the rows of a table, if not all of them in their order.
#[derive(Debug)]
pub(crate) enum RowMap {
    /// Of a stack of fewer than 2^32 rows: half the memory.
    Short(Box<[u32]>),
    Long(Box<[u64]>),
}

impl RowMap {
    /// Rows of a stack that has so many.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such row; [`Io`](crate::ErrorKind::Io) without memory for it.
    pub(crate) fn new(rows: impl ExactSizeIterator<Item = u64>, of: u64) -> Result<RowMap> {
        fn collect<T>(rows: impl ExactSizeIterator<Item = Result<T>>) -> Result<Box<[T]>> {
            let mut out = Vec::new();
            let no_memory = |_| Error::io("cannot hold the numbers of rows", std::io::ErrorKind::OutOfMemory.into());
            out.try_reserve_exact(rows.len()).map_err(no_memory)?;
            for row in rows {
                out.push(row?);
            }
            Ok(out.into())
        }
        let missing = |row| Error::invalid(format!("there is no row {row} of {of}"));
        let checked = rows.map(|row| if row < of { Ok(row) } else { Err(missing(row)) });
        if u32::try_from(of).is_ok() {
            let short = checked.map(|row| u32::try_from(row?).map_err(|_| missing(of)));
            return collect(short).map(RowMap::Short);
        }
        collect(checked).map(RowMap::Long)
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            RowMap::Short(rows) => rows.len(),
            RowMap::Long(rows) => rows.len(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, row: u64) -> Option<u64> {
        let row = len_usize(row)?;
        match self {
            RowMap::Short(rows) => rows.get(row).map(|&row| row.into()),
            RowMap::Long(rows) => rows.get(row).copied(),
        }
    }
}

/// A stack as a side of a table.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) stack: Arc<Stack>,
    /// `None`: all rows in their order.
    pub(crate) rows: Option<Arc<RowMap>>,
}

impl Side {
    /// The row of the stack that a row of the table is.
    #[inline]
    pub(crate) fn stack_row(&self, row: u64) -> Option<u64> {
        match &self.rows {
            None => Some(row),
            Some(map) => map.get(row),
        }
    }

    /// The side of a table that takes only these rows of what it was.
    pub(super) fn taking(&self, rows: &Arc<RowMap>) -> Result<Side> {
        let Some(before) = &self.rows else {
            return Ok(Side { stack: Arc::clone(&self.stack), rows: Some(Arc::clone(rows)) });
        };
        let of = self.stack.rows();
        // A row that is not there would be found missing below.
        let both = (0..rows.len()).map(|row| {
            let row = rows.get(crate::format::len_u64(row)).and_then(|row| before.get(row));
            row.unwrap_or(u64::MAX)
        });
        Ok(Side { stack: Arc::clone(&self.stack), rows: Some(Arc::new(RowMap::new(both, of)?)) })
    }
}
