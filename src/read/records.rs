//! The walk over records: descriptors and padding, which a strict reader compares with the index.

use std::ops::Range;

use super::span::Span;
use super::touched::AtomicSet;
use super::window::Window;
use crate::error::Result;
use crate::format::descriptor::{self, Descriptor};
use crate::format::header::{HEADER_LEN_U64, Header};
use crate::format::index::Index;
use crate::format::layout::{self, RECORD_ALIGNMENT};
use crate::format::len_u64;
use crate::format::rules::*;

/// Checks the descriptors and the padding of a span: REC-1 to REC-8. Every error says at which byte.
pub(super) fn check_records(
    header: &Header,
    index: &Index<'_>,
    span: &Span,
    data: Window<'_>,
    described: &AtomicSet,
) -> Result<()> {
    let mut walk = Walk { header, index, data, described, dims: Vec::new() };
    for storage in span.begun.clone() {
        let from = walk.end_of(storage.checked_sub(1))?;
        walk.gap(from, Some(storage))?;
    }
    if span.last {
        let from = walk.end_of(u32::try_from(index.storage_count()).ok().and_then(|count| count.checked_sub(1)))?;
        walk.gap(from, None)?;
    }
    Ok(())
}

struct Walk<'a> {
    header: &'a Header,
    index: &'a Index<'a>,
    data: Window<'a>,
    described: &'a AtomicSet,
    /// Reused for each descriptor.
    dims: Vec<u64>,
}

impl Walk<'_> {
    fn place(&self, storage: u32) -> Result<Range<u64>> {
        let entry = self.index.storage(storage)?;
        entry.map(|entry| entry.place()).ok_or_else(|| REC_7.broken(format!("storage {storage} does not exist")))
    }

    /// Where a storage's data ends; before the first one, where the header does.
    fn end_of(&self, storage: Option<u32>) -> Result<u64> {
        storage.map_or(Ok(HEADER_LEN_U64), |storage| Ok(self.place(storage)?.end))
    }

    fn padding(&self, range: Range<u64>) -> Result<()> {
        match self.data.get(&range)?.iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(i) => Err(REC_8
                .broken("padding between records is not zero")
                .with_offset(range.start.saturating_add(len_u64(i)))),
        }
    }

    /// Checks what lies between the end of one storage's data and the beginning of the next, or the index.
    fn gap(&mut self, from: u64, introduces: Option<u32>) -> Result<()> {
        let no_room = |at| REC_1.broken("there is no room for what must follow").with_offset(at);
        let next_data = introduces.map(|storage| self.place(storage)).transpose()?.map(|place| place.start);
        let limit = next_data.unwrap_or(self.header.index_offset);
        let aligned = |at| layout::round_up(at, RECORD_ALIGNMENT).filter(|&cursor| cursor <= limit);
        let mut cursor = aligned(from).ok_or_else(|| no_room(from))?;
        self.padding(from..cursor)?;
        loop {
            if introduces.is_none() && cursor == limit {
                return Ok(());
            }
            if cursor == self.header.index_offset {
                return Err(REC_7.broken("no record introduces a storage of the index").with_offset(cursor));
            }
            let mut dims = std::mem::take(&mut self.dims);
            let (len, found) = descriptor::read(self.data.get(&(cursor..limit))?, &mut dims, cursor)?;
            self.compare(&found, introduces, cursor)?;
            let view = found.view;
            self.dims = dims;
            let end = cursor.checked_add(len).ok_or_else(|| no_room(cursor))?;
            if view {
                let next = aligned(end).ok_or_else(|| no_room(end))?;
                self.padding(end..next)?;
                cursor = next;
                continue;
            }
            let placed = descriptor::data_offset(cursor, len, self.header.alignment_log2);
            if placed != next_data {
                let message = "the index has the data of this record elsewhere than the layout puts it";
                return Err(REC_1.broken(message).with_offset(cursor));
            }
            return self.padding(end..limit);
        }
    }

    /// Compares a descriptor with the index.
    fn compare(&self, found: &Descriptor<'_>, introduces: Option<u32>, cursor: u64) -> Result<()> {
        let broken = |rule: Rule, message: &str| Err(rule.broken(message).with_tensor(found.name).with_offset(cursor));
        if found.unfinished {
            return broken(REC_4, "its record was never finished");
        }
        if !found.view && introduces != Some(found.storage) {
            return broken(REC_7, "its record does not introduce the next storage");
        }
        // Without a storage to come, all have been introduced.
        let introduced = introduces.map_or(len_u64(self.index.storage_count()), u64::from);
        if found.view && u64::from(found.storage) >= introduced {
            return broken(REC_7, "its record views a storage that comes later");
        }
        let Some(number) = self.index.find(found.name)? else {
            return broken(REC_5, "a record describes it, and the index does not list it");
        };
        let tensor = self.index.tensor(number)?;
        let storage = self.index.storage_of(&tensor)?;
        let same = found.dtype == tensor.dtype
            && found.shape == tensor.shape
            && found.strides == tensor.strides
            && found.storage == tensor.storage
            && found.start == tensor.start
            && found.data_offset == storage.data_offset
            && found.data_len == storage.data_len
            && found.data_crc32 == storage.crc32;
        if !same {
            return broken(REC_5, "its record and the index disagree");
        }
        if !self.described.insert(number) {
            return broken(REC_6, "more than one record describes it");
        }
        Ok(())
    }
}
