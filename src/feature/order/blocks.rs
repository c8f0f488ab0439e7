//! [`BlockShuffle`]: blocks permuted, and rows permuted within windows of blocks.
//!
//! Of all blocks at most the last is short. Where it comes among the permuted ones is known from the inverse of their permutation, so
//! that every position is found by division, and nothing is stored for a block.

use std::ops::Range;

use super::permutation::{Key, Permutation};
use crate::error::{Error, Result};

/// A bijection of `0..rows` that mixes blocks, and the rows within windows of blocks.
#[derive(Clone, Debug)]
pub(super) struct BlockShuffle {
    rows: u64,
    block_rows: u64,
    window_blocks: u64,
    blocks: Permutation,
    block_count: u64,
    /// Rows that the last block of the table lacks.
    lacking: u64,
    /// Where the last block of the table comes among the permuted ones.
    short_at: u64,
    window_key: Key,
}

/// Consecutive permuted blocks, and the positions that their rows have.
struct Window {
    first_block: u64,
    positions: Range<u64>,
    permutation: Permutation,
    /// Of its rows, in the order of its blocks: behind which ones rows are lacking.
    short_end: u64,
}

impl BlockShuffle {
    /// `rows` is at most [`Permutation::LEN_MAX`].
    pub(super) fn new(rows: u64, block_rows: u64, window_blocks: u64, key: Key) -> Result<BlockShuffle> {
        if block_rows == 0 || window_blocks == 0 {
            return Err(Error::invalid(format!("windows of {window_blocks} blocks of {block_rows} rows hold nothing"))
                .with_advice("blocks have a row at least, and windows a block"));
        }
        // All rows in one block are as good as more: with this, no product below exceeds twice the rows.
        let block_rows = block_rows.min(rows.max(1));
        let block_count = rows.div_ceil(block_rows);
        let blocks = Permutation::new(block_count, key.with(1));
        let short_at = match block_count.checked_sub(1) {
            Some(last) => blocks.invert(last),
            None => 0,
        };
        Ok(BlockShuffle {
            rows,
            block_rows,
            window_blocks: window_blocks.min(block_count.max(1)),
            blocks,
            block_count,
            lacking: block_count.wrapping_mul(block_rows).wrapping_sub(rows),
            short_at,
            window_key: key,
        })
    }

    /// The positions before the permuted block of a number, or all if there is none.
    fn position_of_block(&self, block: u64) -> u64 {
        let whole = block.min(self.block_count).wrapping_mul(self.block_rows);
        if block > self.short_at { whole.wrapping_sub(self.lacking) } else { whole }
    }

    /// The window of a position, which must be less than `rows`.
    fn window_at(&self, position: u64) -> Window {
        let window_rows = self.window_blocks.wrapping_mul(self.block_rows);
        let short_window = self.short_at.checked_div(self.window_blocks).unwrap_or(0);
        let is_before = position < short_window.wrapping_mul(window_rows);
        let unshortened = if is_before { position } else { position.wrapping_add(self.lacking) };
        self.window(unshortened.checked_div(window_rows).unwrap_or(0))
    }

    fn window(&self, number: u64) -> Window {
        let first_block = number.wrapping_mul(self.window_blocks);
        let positions =
            self.position_of_block(first_block)..self.position_of_block(first_block.wrapping_add(self.window_blocks));
        let len = positions.end.wrapping_sub(positions.start);
        let is_whole = !(first_block..first_block.wrapping_add(self.window_blocks)).contains(&self.short_at);
        let short_end = match is_whole {
            true => len,
            false => {
                let end = self.short_at.wrapping_sub(first_block).wrapping_add(1).wrapping_mul(self.block_rows);
                end.wrapping_sub(self.lacking)
            }
        };
        let permutation = Permutation::new(len, self.window_key.with(number.wrapping_add(2)));
        Window { first_block, positions, permutation, short_end }
    }

    /// The permuted block, and the row in it, of a row of a window.
    fn place(&self, window: &Window, row: u64) -> (u64, u64) {
        let unshortened = if row < window.short_end { row } else { row.wrapping_add(self.lacking) };
        let block = unshortened.checked_div(self.block_rows).unwrap_or(0);
        (block, unshortened.wrapping_sub(block.wrapping_mul(self.block_rows)))
    }

    fn row_of(&self, window: &Window, row: u64) -> u64 {
        let (block, offset) = self.place(window, row);
        let block = self.blocks.apply(window.first_block.wrapping_add(block));
        block.wrapping_mul(self.block_rows).wrapping_add(offset)
    }

    /// The row at a position, which must be less than `rows`.
    pub(super) fn apply(&self, position: u64) -> u64 {
        let window = self.window_at(position);
        self.row_of(&window, window.permutation.apply(position.wrapping_sub(window.positions.start)))
    }

    /// The position of a row, which must be less than `rows`.
    pub(super) fn invert(&self, row: u64) -> u64 {
        let block = row.checked_div(self.block_rows).unwrap_or(0);
        let offset = row.wrapping_sub(block.wrapping_mul(self.block_rows));
        let permuted = self.blocks.invert(block);
        let window = self.window(permuted.checked_div(self.window_blocks).unwrap_or(0));
        let row_of_window = self.position_of_block(permuted).wrapping_add(offset).wrapping_sub(window.positions.start);
        window.positions.start.wrapping_add(window.permutation.invert(row_of_window))
    }

    /// Appends the rows at `count` positions from `first` on. All must be less than `rows`.
    pub(super) fn extend(&self, first: u64, count: usize, out: &mut Vec<u64>) {
        out.reserve(count);
        let (mut next, mut remaining) = (first, count);
        while remaining > 0 && next < self.rows {
            let window = self.window_at(next);
            let here = window.positions.end.saturating_sub(next);
            let here = usize::try_from(here).map_or(remaining, |here| here.min(remaining));
            debug_assert!(here > 0, "a window has the positions that it is asked for");
            let begun = out.len();
            window.permutation.extend(next.wrapping_sub(window.positions.start), here, out);
            let rows = out.get_mut(begun..).unwrap_or_default();
            // The blocks of the window one by one, or for each row that of its own: whichever are fewer.
            let window_blocks = self.window_blocks.min(self.block_count.wrapping_sub(window.first_block));
            match usize::try_from(window_blocks) {
                Ok(window_blocks) if window_blocks <= here => {
                    let mut blocks = Vec::new();
                    self.blocks.extend(window.first_block, window_blocks, &mut blocks);
                    for row in rows {
                        let (block, offset) = self.place(&window, *row);
                        let block =
                            usize::try_from(block).ok().and_then(|block| blocks.get(block)).copied().unwrap_or(0);
                        *row = block.wrapping_mul(self.block_rows).wrapping_add(offset);
                    }
                }
                _ => {
                    for row in rows {
                        *row = self.row_of(&window, *row);
                    }
                }
            }
            remaining = remaining.saturating_sub(here);
            next = window.positions.end;
        }
    }
}
