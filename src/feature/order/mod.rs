//! In which order the rows of a table come: [`Order`] says how they are mixed, [`OrderedRows`] is that order over a number of rows, and
//! [`BatchPlan`] cuts it into the batches of each rank.
//!
//! All of it is arithmetic on the number of rows and a seed. Nothing is stored or drawn: any batch can be asked for at any time, in any
//! order, on any machine, and is the same. So a run resumes at a batch by asking for that batch. The arithmetic is specified in the section
//! "Order of rows" of `spec/features.md`, and never changes.

mod blocks;
mod permutation;
mod plan;
mod rows;

pub use plan::{BatchPlan, Shard, Tail};
pub use rows::OrderedRows;

use crate::error::Result;

/// In which order the rows of a table come.
///
/// The order of an epoch is a function of the seed, the epoch and the number of rows. Orders of different epochs have nothing in common
/// that shows, nor have those of different seeds.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::feature::Order;
///
/// let rows = Order::shuffled(42).epoch(3).of(1_000_000)?;
/// let third = rows.row_at(2).unwrap();
/// assert_eq!(rows.position_of(third), Some(2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// As the table has them.
    #[default]
    Sequential,
    /// Any row may come anywhere: for tables in memory, or on media that read single rows well.
    Shuffled {
        /// What chooses the order.
        seed: u64,
        /// Which time it is that the rows come.
        epoch: u64,
    },
    /// Mixed, and yet read in long stretches: for tables on disks.
    ///
    /// The table is cut into blocks of consecutive rows, the last of which may be short. The blocks are permuted; as many consecutive ones
    /// of those as `window_blocks` says, or the fewer that are left at the end, are a window; and the rows of each window are permuted.
    /// So a window's rows come from few long stretches of the table, and all of them come before any of the next window.
    BlockShuffled {
        /// What chooses the order.
        seed: u64,
        /// Which time it is that the rows come.
        epoch: u64,
        /// Rows of a block: what is read in one go. At least 1.
        block_rows: u64,
        /// Blocks of a window: what is mixed, and is best held in memory while its rows come. At least 1.
        window_blocks: u64,
    },
}

impl Order {
    /// As the table has them.
    #[must_use]
    pub fn sequential() -> Order {
        Order::Sequential
    }

    /// Shuffled by a seed, in epoch 0.
    #[must_use]
    pub fn shuffled(seed: u64) -> Order {
        Order::Shuffled { seed, epoch: 0 }
    }

    /// Shuffled by a seed in windows of so many blocks of so many rows, in epoch 0.
    #[must_use]
    pub fn block_shuffled(seed: u64, block_rows: u64, window_blocks: u64) -> Order {
        Order::BlockShuffled { seed, epoch: 0, block_rows, window_blocks }
    }

    /// The same for another epoch. Rows that are not shuffled come in the same order in every epoch.
    #[must_use]
    pub fn epoch(mut self, number: u64) -> Order {
        match &mut self {
            Order::Sequential => {}
            Order::Shuffled { epoch, .. } | Order::BlockShuffled { epoch, .. } => *epoch = number,
        }
        self
    }

    /// Whether the rows come as the table has them.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        matches!(self, Order::Sequential)
    }

    /// This order over so many rows. **Cost**: less than a microsecond, and half a kilobyte.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are more than 2^63 − 1 rows, or blocks of no rows, or windows of no blocks.
    pub fn of(&self, rows: u64) -> Result<OrderedRows> {
        OrderedRows::new(*self, rows)
    }
}
