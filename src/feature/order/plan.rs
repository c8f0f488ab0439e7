//! [`BatchPlan`]: the batches of each rank.

use std::ops::Range;

use super::{Order, OrderedRows};
use crate::error::{Error, Result};

/// Which of several workers one is, that share the batches of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    rank: u32,
    world: u32,
}

impl Shard {
    /// Everything is one worker's.
    pub const WHOLE: Shard = Shard { rank: 0, world: 1 };

    /// Worker `rank` of `world` workers, counted from 0.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such worker.
    pub fn new(rank: u32, world: u32) -> Result<Shard> {
        if rank >= world {
            return Err(Error::invalid(format!("there is no rank {rank} in a world of {world}"))
                .with_advice("ranks are counted from 0, and the world is how many there are"));
        }
        Ok(Shard { rank, world })
    }

    /// Which worker it is.
    #[must_use]
    pub fn rank(self) -> u32 {
        self.rank
    }

    /// How many workers there are.
    #[must_use]
    pub fn world(self) -> u32 {
        self.world
    }
}

impl Default for Shard {
    fn default() -> Shard {
        Shard::WHOLE
    }
}

/// What becomes of the rows at the end that fill no batch, or not one for every rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tail {
    /// They come: every row comes exactly once over all ranks. The last batch may be short, and some ranks may have a batch more than
    /// others.
    #[default]
    Keep,
    /// A last batch that is short is left out. Some ranks may have a batch more than others.
    DropShort,
    /// Every rank has the same number of batches, all of them whole: for training whose ranks wait for each other at every batch. Fewer
    /// rows than a batch for every rank are left out; that may be all there are.
    DropUneven,
}

/// The batches that one rank has of a table in one epoch.
///
/// Batch `k` of rank `r` in a world of `w` is batch `k · w + r` of the epoch, and the batches of the epoch cut the order into stretches of
/// `batch_len` positions. Batches do not depend on each other: to resume, begin with the batch that comes next.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::feature::{BatchPlan, Order, Shard, Tail};
///
/// let plan = BatchPlan::new(1000, 256, Order::shuffled(42), Shard::new(1, 2)?, Tail::Keep)?;
/// let mut rows = Vec::new();
/// let mut lens = Vec::new();
/// for k in 0..plan.batch_count() {
///     plan.fill(k, &mut rows)?;
///     lens.push(rows.len());
/// }
/// // The second and the fourth batch of the epoch, of which the fourth is the last.
/// assert_eq!(lens, [256, 1000 - 3 * 256]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BatchPlan {
    rows: OrderedRows,
    batch_len: u64,
    shard: Shard,
    tail: Tail,
    /// Of this rank.
    batch_count: u64,
}

impl BatchPlan {
    /// The batches of one rank: of a table of so many rows, in batches of `batch_len` rows.
    ///
    /// A table without rows has no batches.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if batches have no rows, or as [`Order::of`].
    pub fn new(rows: u64, batch_len: u64, order: Order, shard: Shard, tail: Tail) -> Result<BatchPlan> {
        let whole = rows
            .checked_div(batch_len)
            .ok_or_else(|| Error::invalid("batches of 0 rows have no end").with_advice("a batch has a row at least"))?;
        let rows = order.of(rows)?;
        let (rank, world) = (u64::from(shard.rank), u64::from(shard.world));
        let of_all = match tail {
            Tail::Keep => rows.row_count().div_ceil(batch_len),
            Tail::DropShort => whole,
            // The world is 1 at least.
            Tail::DropUneven => whole.wrapping_sub(whole.checked_rem(world).unwrap_or(0)),
        };
        // Of the numbers below `of_all`, those that leave the rank as remainder.
        let batch_count = of_all.saturating_sub(rank).div_ceil(world);
        Ok(BatchPlan { rows, batch_len, shard, tail, batch_count })
    }

    /// The order, over all rows.
    #[must_use]
    pub fn rows(&self) -> &OrderedRows {
        &self.rows
    }

    /// How many rows a whole batch has.
    #[must_use]
    pub fn batch_len(&self) -> u64 {
        self.batch_len
    }

    /// Whose batches these are.
    #[must_use]
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// What becomes of the rows at the end.
    #[must_use]
    pub fn tail(&self) -> Tail {
        self.tail
    }

    /// How many batches this rank has.
    #[must_use]
    pub fn batch_count(&self) -> u64 {
        self.batch_count
    }

    /// How many rows this rank has, in all its batches.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        let Some(last) = self.batch_count.checked_sub(1) else { return 0 };
        // Only the last batch of all can be short, and it is the last of its rank.
        let last_len = self.positions(last).map_or(0, |positions| positions.end.saturating_sub(positions.start));
        last.saturating_mul(self.batch_len).saturating_add(last_len)
    }

    /// Whether rows come as the table has them, so that each batch is a [range](Self::batch_range) of it.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        self.rows.order().is_sequential()
    }

    /// The positions, in the order over all rows, of a batch of this rank; nothing if it has no such batch.
    #[must_use]
    pub fn positions(&self, batch: u64) -> Option<Range<u64>> {
        if batch >= self.batch_count {
            return None;
        }
        let of_all = batch.checked_mul(u64::from(self.shard.world))?.checked_add(u64::from(self.shard.rank))?;
        let start = of_all.checked_mul(self.batch_len)?;
        Some(start..start.saturating_add(self.batch_len).min(self.rows.row_count()))
    }

    /// The rows of a batch of a sequential plan, as a range of the table; nothing if the plan is not
    /// [sequential](Self::is_sequential), or there is no such batch.
    #[must_use]
    pub fn batch_range(&self, batch: u64) -> Option<Range<u64>> {
        if self.is_sequential() { self.positions(batch) } else { None }
    }

    /// Puts the rows of a batch of this rank into a list, in their order, in place of what was in it.
    ///
    /// **Cost**: some tens of nanoseconds a row, or up to two hundred if the order is block-shuffled and a batch has fewer rows than a
    /// window has blocks. No memory is needed once the list is long enough, but for a number for each block of a window.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this rank has no such batch; as [`OrderedRows::extend`]. The list is empty then.
    pub fn fill(&self, batch: u64, rows: &mut Vec<u64>) -> Result<()> {
        rows.clear();
        let positions = self.positions(batch).ok_or_else(|| {
            Error::invalid(format!("there is no batch {batch}: this rank has {}", self.batch_count))
                .with_numbers(self.batch_count, batch)
                .with_advice("batches are counted from 0, and each rank counts its own")
        })?;
        self.rows.extend(positions, rows)
    }

    /// The rows of a batch of this rank, in their order: [`fill`](Self::fill) into a list of its own.
    ///
    /// # Errors
    /// As [`fill`](Self::fill).
    pub fn batch(&self, batch: u64) -> Result<Vec<u64>> {
        let mut rows = Vec::new();
        self.fill(batch, &mut rows)?;
        Ok(rows)
    }
}
