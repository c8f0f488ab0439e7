//! Stretches of a file, cut so that each can be read and checked on its own, by any thread.

use std::ops::Range;

use crate::error::Result;
use crate::format::checksum;
use crate::format::header::{HEADER_LEN_U64, Header};
use crate::format::index::{Index, StorageEntry};
use crate::format::{len_u64, len_usize};

/// How long a span should be, in bytes: long enough to read well, short enough to share out and to stay in a cache.
const SPAN_LEN: u64 = 2 << 20;

/// A stretch of the file between header and index, and the blocks that lie in it, whole.
///
/// The spans of a file follow each other without gaps, and together are all bytes from the end of the header to the start of the
/// index. So descriptors and padding in front of a block are in its span, and those after the last block in the last span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The bytes of the file.
    pub(crate) bytes: Range<u64>,
    /// The storages whose beginning lies in the span.
    pub(crate) begun: Range<u32>,
    /// The pieces of storages that lie in the span.
    pub(crate) pieces: Vec<Piece>,
    /// Whether it is the last one.
    pub(crate) last: bool,
}

/// Consecutive blocks of one storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) storage: u32,
    /// Numbers of blocks within the storage.
    pub(crate) blocks: Range<u64>,
}

/// Cuts a file into spans. The index's rules hold ([`Index::check`]).
pub(crate) struct Spans<'a> {
    header: &'a Header,
    index: Index<'a>,
    next_offset: u64,
    next_storage: u32,
    next_block: u64,
    done: bool,
}

impl<'a> Spans<'a> {
    pub(crate) fn new(header: &'a Header, index: Index<'a>) -> Spans<'a> {
        Spans { header, index, next_offset: HEADER_LEN_U64, next_storage: 0, next_block: 0, done: false }
    }

    fn next_span(&mut self) -> Result<Span> {
        // Sums here are offsets in the file: saturating arithmetic never saturates, and need not be proved not to.
        let begin = self.next_offset;
        let mut end = begin;
        // A storage that the last span ended within has begun there.
        let first_begun = self.next_storage.saturating_add(u32::from(self.next_block > 0));
        let mut pieces = Vec::new();
        while let Some(storage) = self.index.storage(self.next_storage)? {
            let blocks = len_u64(storage.blocks.len());
            let room = SPAN_LEN.saturating_sub(end.saturating_sub(begin));
            let done = self.next_block << self.header.block_log2;
            let left = blocks.saturating_sub(self.next_block);
            let take = if storage.data_len.saturating_sub(done) <= room {
                left
            } else {
                // At least one block, even if it alone is longer than a span should be.
                (room >> self.header.block_log2).max(u64::from(pieces.is_empty())).min(left)
            };
            if take == 0 && blocks > 0 {
                break;
            }
            let taken = self.next_block..self.next_block.saturating_add(take);
            self.next_block = taken.end;
            end = if taken.end == blocks {
                storage.place().end
            } else {
                storage.data_offset.saturating_add(taken.end << self.header.block_log2)
            };
            if blocks > 0 {
                pieces.push(Piece { storage: self.next_storage, blocks: taken });
            }
            if self.next_block < blocks {
                break;
            }
            self.next_storage = self.next_storage.saturating_add(1);
            self.next_block = 0;
            if end.saturating_sub(begin) >= SPAN_LEN {
                break;
            }
        }
        let after_last = self.next_storage.saturating_add(u32::from(self.next_block > 0));
        self.done = len_usize(self.next_storage.into()) == Some(self.index.storage_count());
        if self.done {
            end = self.header.index_offset;
        }
        self.next_offset = end;
        Ok(Span { bytes: begin..end, begun: first_begun..after_last, pieces, last: self.done })
    }
}

impl Iterator for Spans<'_> {
    type Item = Result<Span>;

    fn next(&mut self) -> Option<Result<Span>> {
        if self.done {
            return None;
        }
        let span = self.next_span();
        self.done |= span.is_err();
        Some(span)
    }
}

impl Span {
    /// How long it is, in bytes.
    pub(crate) fn byte_len(&self) -> u64 {
        self.bytes.end.saturating_sub(self.bytes.start)
    }
}

impl Piece {
    /// The numbers of its blocks within the storage, and their CRCs.
    pub(crate) fn blocks_of<'s>(&self, storage: &StorageEntry<'s>) -> impl Iterator<Item = (u64, u32)> + use<'s> {
        let storage = *storage;
        self.blocks.clone().map_while(move |block| Some((block, storage.block(block)?.0)))
    }
}

/// Where block number `block` of a storage lies in the file.
pub(crate) fn block_range(header: &Header, storage: &StorageEntry<'_>, block: u64) -> Range<u64> {
    let start = block << header.block_log2;
    let len = checksum::block_len(storage.data_len, block, header.block_log2);
    storage.in_file(&(start..start.saturating_add(len)))
}
