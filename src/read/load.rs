//! Reading a whole file into memory, verified on the way.

use std::sync::{Mutex, PoisonError};

use super::open::{self, Head};
use super::span::{self, Spans};
use super::touched::AtomicSet;
use super::{Checkpoint, check_block, parallel, verify};
use crate::error::{Error, Result};
use crate::format::header::{HEADER_LEN, Header};
use crate::format::index::Index;
use crate::format::limits::Limits;
use crate::source::{AlignedBytes, ReadAt, Source};

/// Reads a whole file into memory and verifies the data on the way.
pub(crate) fn load(file: &dyn ReadAt, limits: &Limits, threads: usize) -> Result<Checkpoint> {
    let (header, index_and_trailer) = Head::read(file, limits)?;
    let head = Head::parse(header, &index_and_trailer, limits)?;
    let index = head.index(&index_and_trailer);
    index.check()?;
    let cannot = |e| Error::io("cannot hold the file in memory", e);
    let len = usize::try_from(header.file_len).map_err(|_| cannot(std::io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = AlignedBytes::zeroed(len).map_err(cannot)?;
    let verified = AtomicSet::new(index.block_count());
    {
        // In range: the header's rules hold. What lies between header and index is cut into the spans' own slices.
        let (front, back) = bytes.split_at_mut(header.index_offset as usize);
        back.copy_from_slice(&index_and_trailer);
        let (start, data) = front.split_at_mut(HEADER_LEN);
        start.copy_from_slice(&header.to_bytes());
        let mut rest = data;
        let pieces = Spans::new(&header, index).map(move |span| {
            let span = span?;
            let (now, later) = std::mem::take(&mut rest).split_at_mut((span.bytes.end - span.bytes.start) as usize);
            rest = later;
            Ok((span, now))
        });
        // The first damage by position, not by which thread was faster.
        let worst: Mutex<Option<Error>> = Mutex::new(None);
        let noted = |e: Error| {
            let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
            if worst.as_ref().is_none_or(|known| e.offset() < known.offset()) {
                *worst = Some(e);
            }
        };
        parallel::for_each(
            threads,
            pieces,
            || (),
            |(), piece: Result<_>| {
                let (span, buffer) = piece?;
                open::read_exact(file, buffer, span.bytes.start)?;
                for piece in &span.pieces {
                    let Some(storage) = index.storage(piece.storage)? else { continue };
                    for block in piece.blocks.clone() {
                        let range = span::block_range(&header, &storage, block);
                        let at = (range.start - span.bytes.start) as usize;
                        let bytes = &buffer[at..at + (range.end - range.start) as usize];
                        match check_block(&storage, piece.storage, block, &range, bytes) {
                            Ok(number) => drop(verified.insert(number)),
                            Err(e) => noted(e),
                        }
                    }
                }
                Ok(())
            },
        )?;
        if let Some(e) = worst.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(name_damaged(&header, &index, e));
        }
    }
    let mut checkpoint = Checkpoint::new(head, Source::Heap(bytes), None, *limits);
    checkpoint.verified = verified;
    Ok(checkpoint)
}

/// Names the first tensor that a damaged place of the file belongs to.
fn name_damaged(header: &Header, index: &Index<'_>, e: Error) -> Error {
    let Some(offset) = e.offset() else { return e };
    for tensor in (0..index.tensor_count()).filter_map(|number| index.tensor(number).ok()) {
        let Ok(storage) = index.storage_of(&tensor) else { continue };
        let touched = verify::touched_blocks(header, tensor.start, tensor.extent);
        let place = storage.data_offset + touched.start * header.block_len()
            ..storage.data_offset + touched.end * header.block_len();
        if place.contains(&offset) {
            return e.with_tensor(tensor.name);
        }
    }
    e
}

/// Reads a whole file into memory, on several threads, with nothing checked.
pub(crate) fn read_whole(file: &dyn ReadAt, threads: usize) -> Result<AlignedBytes> {
    const CHUNK: usize = 4 << 20;
    let cannot = |e| Error::io("cannot hold the file in memory", e);
    let len = open::source_len(file)?;
    let len = usize::try_from(len).map_err(|_| cannot(std::io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = AlignedBytes::zeroed(len).map_err(cannot)?;
    parallel::for_each(
        threads,
        bytes.chunks_mut(CHUNK).enumerate(),
        || (),
        |(), (number, chunk)| open::read_exact(file, chunk, (number * CHUNK) as u64),
    )?;
    Ok(bytes)
}
