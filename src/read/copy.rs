//! Copying a range of a storage into a buffer, with the checksum computed on the bytes that arrive there.

use std::ops::Range;

use super::checks::{Checks, Claim, Known};
use super::verify::{block_damaged, block_known_damaged, touched_blocks};
use super::window::{Window, outside};
use super::{Checkpoint, open, span};
use crate::error::{ErrorKind, Result};
use crate::format::index::StorageEntry;
use crate::format::{len_u64, len_usize};

/// Bytes that are copied, or read, and then hashed at a time: what was just written is still in the processor's cache.
const PIECE: usize = 64 << 10;
/// Bytes that are read from a file at a time. A call costs more than a miss of the cache.
const READ_PIECE: usize = 256 << 10;

/// Memory that one thread reads into what it hashes and does not keep.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<u8>);

impl Scratch {
    /// So many bytes, which hold anything.
    fn of(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        self.0.get_mut(..len).unwrap_or_default()
    }
}

impl Checkpoint {
    /// Copies a range of a storage's bytes into a buffer of that length.
    ///
    /// With `checks`, each block that the range touches and of which nothing is known is verified: of its bytes, those that are copied are
    /// hashed in the buffer, the others where they are. A block that another thread is checking at this moment is copied, and its number
    /// added to `unsettled`: before the bytes are used, [`settle`](Self::settle) says what was found.
    ///
    /// Nothing is kept in memory, but for storages that a guest makes.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) with the damaged block, and the buffer then holds anything; [`Io`](ErrorKind::Io).
    pub(crate) fn copy_storage(
        &self,
        number: u32,
        range: Range<u64>,
        to: &mut [u8],
        checks: Option<&Checks>,
        scratch: &mut Scratch,
        unsettled: &mut Vec<u64>,
    ) -> Result<()> {
        let storage = self.storage_entry(number)?;
        if range.start > range.end
            || range.end > storage.data_len
            || range.end.saturating_sub(range.start) != len_u64(to.len())
        {
            return Err(outside(&range));
        }
        if self.own(number).is_some() {
            to.copy_from_slice(self.own_bytes(number, &storage, &range, checks)?);
            return Ok(());
        }
        let Some(checks) = checks else { return self.read_data(&storage.in_file(&range), to) };
        let blocks = touched_blocks(&self.head.header, &range);
        let numbers = storage.block(blocks.start).zip(len_usize(blocks.end.saturating_sub(blocks.start)));
        if let Some(((_, first), count)) = numbers
            && checks.all_whole(first..first.saturating_add(count))
        {
            return self.read_data(&storage.in_file(&range), to);
        }
        let wanted = storage.in_file(&range);
        let mut rest = to;
        for block in blocks {
            let place = span::block_range(&self.head.header, &storage, block);
            let part = wanted.start.max(place.start)..wanted.end.min(place.end);
            let len = len_usize(part.end.saturating_sub(part.start)).ok_or_else(|| outside(&part))?;
            let target = rest.split_off_mut(..len).ok_or_else(|| outside(&part))?;
            let (expected, among_all) = storage.block(block).ok_or_else(|| outside(&place))?;
            match checks.of(among_all) {
                Known::Whole => self.read_data(&part, target)?,
                Known::Damaged => return Err(block_known_damaged(number, block, &place)),
                Known::Nothing => match checks.claim(among_all) {
                    Some(claim) => {
                        let found = self.copy_hashed(&place, &part, target, scratch)?;
                        found_crc(claim, number, block, &place, expected, found)?;
                    }
                    None => {
                        self.read_data(&part, target)?;
                        unsettled.push(block);
                    }
                },
            }
        }
        Ok(())
    }

    /// Says what was found of a block of a storage, having waited for the thread that is checking it; if that gave up, checks it.
    ///
    /// # Errors
    /// As [`copy_storage`](Self::copy_storage).
    pub(crate) fn settle(&self, number: u32, block: u64, checks: &Checks, scratch: &mut Scratch) -> Result<()> {
        let storage = self.storage_entry(number)?;
        let place = span::block_range(&self.head.header, &storage, block);
        let (expected, among_all) = storage.block(block).ok_or_else(|| outside(&place))?;
        loop {
            match checks.settled(among_all) {
                Known::Whole => return Ok(()),
                Known::Damaged => return Err(block_known_damaged(number, block, &place)),
                Known::Nothing => {}
            }
            if let Some(claim) = checks.claim(among_all) {
                let found = self.copy_hashed(&place, &(place.start..place.start), &mut [], scratch)?;
                return found_crc(claim, number, block, &place, expected, found);
            }
        }
    }

    /// Whether a range of a storage touches a block that was found damaged.
    pub(crate) fn touches_damage(&self, number: u32, range: &Range<u64>, checks: &Checks) -> Result<bool> {
        let storage = self.storage_entry(number)?;
        let mut blocks = touched_blocks(&self.head.header, range);
        Ok(blocks
            .any(|block| storage.block(block).is_some_and(|(_, among_all)| checks.of(among_all) == Known::Damaged)))
    }

    /// Whether a storage of one block is known to be whole.
    pub(crate) fn is_known_whole(&self, number: u32) -> bool {
        self.storage_entry(number).is_ok_and(|storage| self.checks.of(storage.first_block) == Known::Whole)
    }

    /// Remembers the CRC-32 that was found of a storage of one block, part by part, and says whether it is right.
    pub(crate) fn found_whole(&self, number: u32, expected: u32, found: u32) -> Result<()> {
        let storage = self.storage_entry(number)?;
        self.checks.remember(storage.first_block, found == expected);
        if found == expected { Ok(()) } else { Err(block_damaged(number, 0, &storage.place(), expected, found)) }
    }

    /// The bytes of a storage that a guest makes; damage that is found in making it is remembered.
    fn own_bytes(
        &self,
        number: u32,
        storage: &StorageEntry<'_>,
        range: &Range<u64>,
        checks: Option<&Checks>,
    ) -> Result<&[u8]> {
        let made = self.storage_data(number, storage).and_then(|data| data.get(range));
        if let (Err(e), Some(checks)) = (&made, checks)
            && matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Malformed)
        {
            checks.remember(storage.first_block, false);
        }
        made
    }

    /// Copies a part of a block, and gives the CRC-32 of all of it.
    fn copy_hashed(&self, place: &Range<u64>, part: &Range<u64>, to: &mut [u8], scratch: &mut Scratch) -> Result<u32> {
        let mut hasher = crc32fast::Hasher::new();
        if let Some(all) = self.source.resident() {
            let all = Window::new(0, all);
            hasher.update(all.get(&(place.start..part.start))?);
            for (from, to) in all.get(part)?.chunks(PIECE).zip(to.chunks_mut(PIECE)) {
                to.copy_from_slice(from);
                hasher.update(to);
            }
            hasher.update(all.get(&(part.end..place.end))?);
            return Ok(hasher.finalize());
        }
        if part == place {
            let mut at = place.start;
            for to in to.chunks_mut(READ_PIECE) {
                self.read_data_at(to, at)?;
                hasher.update(to);
                at = at.saturating_add(len_u64(to.len()));
            }
            return Ok(hasher.finalize());
        }
        // All of it is read through the scratch: in one stretch, whatever part of it is wanted.
        let mut rest = to;
        let mut at = place.start;
        while at < place.end {
            let end = place.end.min(at.saturating_add(len_u64(READ_PIECE)));
            let len = len_usize(end.saturating_sub(at)).unwrap_or(READ_PIECE);
            let read = scratch.of(len);
            self.read_data_at(read, at)?;
            hasher.update(read);
            let wanted = at.max(part.start)..end.min(part.end);
            if wanted.start < wanted.end {
                let bytes = Window::new(at, read).get(&wanted)?;
                let to = rest.split_off_mut(..bytes.len()).ok_or_else(|| outside(&wanted))?;
                to.copy_from_slice(bytes);
            }
            at = end;
        }
        Ok(hasher.finalize())
    }

    /// Copies bytes of the file as they are.
    fn read_data(&self, range: &Range<u64>, to: &mut [u8]) -> Result<()> {
        match self.source.resident() {
            Some(all) => {
                to.copy_from_slice(Window::new(0, all).get(range)?);
                Ok(())
            }
            None => self.read_data_at(to, range.start),
        }
    }

    fn read_data_at(&self, to: &mut [u8], offset: u64) -> Result<()> {
        open::said(self.source.read_data_at(to, offset), offset)
    }
}

/// Remembers what was found of a block, and says it.
fn found_crc(claim: Claim<'_>, number: u32, block: u64, place: &Range<u64>, expected: u32, found: u32) -> Result<()> {
    claim.found(found == expected);
    if found == expected { Ok(()) } else { Err(block_damaged(number, block, place, expected, found)) }
}
