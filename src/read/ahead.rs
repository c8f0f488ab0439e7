//! Reading ahead of the CRC, at the first touch of a mapped range.

use std::ops::Range;

use crate::source::Source;

/// How far the disk is asked to be ahead. Several threads, each at another place, look like random access to the system, and it reads
/// ahead little.
const WINDOW: u64 = 32 << 20;
/// Shorter ranges are left to the system.
const LEAST_LEN: u64 = 2 << 20;

/// Asks for a range of the file, window by window, while blocks of it are verified in about the order of the file.
pub(crate) struct ReadAhead<'a> {
    source: &'a Source,
    range: Range<u64>,
}

impl<'a> ReadAhead<'a> {
    /// Asks for the beginning of a range.
    ///
    /// **Cost**: about 8 µs for each window that is in memory already.
    pub(crate) fn new(source: &'a Source, range: Range<u64>) -> ReadAhead<'a> {
        let ahead = ReadAhead { source, range };
        ahead.ask(0);
        ahead.ask(1);
        ahead
    }

    /// Asks for the window after the one that a block ends in, if the block is the first to do so.
    pub(crate) fn before(&self, block: &Range<u64>) {
        let window = |at: u64| at.saturating_sub(self.range.start) / WINDOW;
        if window(block.end) > window(block.start) {
            self.ask(window(block.end).saturating_add(1));
        }
    }

    fn ask(&self, window: u64) {
        let len = self.range.end.saturating_sub(self.range.start);
        let start = window.saturating_mul(WINDOW);
        if len >= LEAST_LEN && start < len {
            let from = self.range.start.saturating_add(start);
            self.source.read_ahead(from, len.saturating_sub(start).min(WINDOW));
        }
    }
}
