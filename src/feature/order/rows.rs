//! [`OrderedRows`]: an order over a number of rows.

use std::ops::Range;

use super::Order;
use super::blocks::BlockShuffle;
use super::permutation::{Key, Permutation};
use crate::error::{Error, Result};

/// The rows of a table in an [`Order`]: which row is at a position, and at which position a row is.
///
/// Every position has one row and every row one position.
#[derive(Clone, Debug)]
pub struct OrderedRows {
    order: Order,
    rows: u64,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Sequential,
    Shuffled(Box<Permutation>),
    BlockShuffled(Box<BlockShuffle>),
}

impl OrderedRows {
    pub(super) fn new(order: Order, rows: u64) -> Result<OrderedRows> {
        if rows > Permutation::LEN_MAX {
            return Err(Error::invalid(format!("a table of {rows} rows has more than an order can have"))
                .with_numbers(Permutation::LEN_MAX, rows)
                .with_advice("an order has at most 2^63 - 1 rows"));
        }
        let how = match order {
            Order::Sequential => How::Sequential,
            Order::Shuffled { seed, epoch } => {
                How::Shuffled(Box::new(Permutation::new(rows, Key::EMPTY.with(seed).with(epoch).with(0))))
            }
            Order::BlockShuffled { seed, epoch, block_rows, window_blocks } => {
                let key = Key::EMPTY.with(seed).with(epoch);
                How::BlockShuffled(Box::new(BlockShuffle::new(rows, block_rows, window_blocks, key)?))
            }
        };
        Ok(OrderedRows { order, rows, how })
    }

    /// The order.
    #[must_use]
    pub fn order(&self) -> Order {
        self.order
    }

    /// How many rows there are.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.rows
    }

    /// The row at a position, if there are so many. **Cost**: less than a microsecond or about that.
    #[must_use]
    pub fn row_at(&self, position: u64) -> Option<u64> {
        (position < self.rows).then(|| match &self.how {
            How::Sequential => position,
            How::Shuffled(permutation) => permutation.apply(position),
            How::BlockShuffled(shuffle) => shuffle.apply(position),
        })
    }

    /// The position of a row, if there are so many. **Cost**: less than a microsecond or about that.
    #[must_use]
    pub fn position_of(&self, row: u64) -> Option<u64> {
        (row < self.rows).then(|| match &self.how {
            How::Sequential => row,
            How::Shuffled(permutation) => permutation.invert(row),
            How::BlockShuffled(shuffle) => shuffle.invert(row),
        })
    }

    /// Appends the rows at consecutive positions to a list. Positions that there are not have no rows.
    ///
    /// **Cost**: a fraction of that of [`row_at`](Self::row_at) for each.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if they are more than memory has room for; the list is as it was then.
    pub fn extend(&self, positions: Range<u64>, rows: &mut Vec<u64>) -> Result<()> {
        let end = positions.end.min(self.rows);
        let wanted = end.saturating_sub(positions.start);
        let count = usize::try_from(wanted).ok().filter(|&count| rows.try_reserve(count).is_ok()).ok_or_else(|| {
            Error::new(crate::ErrorKind::Limit, format!("there is no memory for the numbers of {wanted} rows"))
                .with_advice("ask for fewer at a time")
        })?;
        match &self.how {
            How::Sequential => rows.extend(positions.start..end),
            How::Shuffled(permutation) => permutation.extend(positions.start, count, rows),
            How::BlockShuffled(shuffle) => shuffle.extend(positions.start, count, rows),
        }
        Ok(())
    }
}
