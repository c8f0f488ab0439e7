//! Reading a whole file into memory, verified on the way.

use super::checks::Checks;
use super::damage::FirstDamage;
use super::open::{self, Head};
use super::span::{self, Span, Spans};
use super::window::{self, Window};
use super::{Checkpoint, check_block, parallel};
use crate::error::{Error, Result};
use crate::format::header::HEADER_LEN;
use crate::format::len_usize;
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
    let checks = Checks::new(index.block_count());
    let damage = FirstDamage::default();
    {
        // The header's rules hold, so the file is made of header, what the spans cover, and index with trailer.
        let short = || window::outside(&(0..header.file_len));
        let index_len = index_and_trailer.len();
        let (front, back) = bytes.split_at_mut_checked(len.saturating_sub(index_len)).ok_or_else(short)?;
        back.copy_from_slice(&index_and_trailer);
        let (start, mut rest) = front.split_at_mut_checked(HEADER_LEN).ok_or_else(short)?;
        start.copy_from_slice(&header.to_bytes());
        let pieces = Spans::new(&header, index).map(move |span| {
            let span = span?;
            let now = len_usize(span.byte_len()).and_then(|len| rest.split_off_mut(..len));
            Ok((now.ok_or_else(|| window::outside(&span.bytes))?, span))
        });
        parallel::for_each(
            threads,
            pieces,
            || (),
            |(), piece: Result<(&mut [u8], Span)>| {
                let (buffer, span) = piece?;
                open::read_exact(file, buffer, span.bytes.start)?;
                let read = Window::new(span.bytes.start, buffer);
                for piece in &span.pieces {
                    let Some(storage) = index.storage(piece.storage)? else { continue };
                    for (block, _) in piece.blocks_of(&storage) {
                        let place = span::block_range(&header, &storage, block);
                        match check_block(&storage, piece.storage, block, &place, read.get(&place)?) {
                            Ok(among_all) => checks.remember(among_all, true),
                            Err(e) => damage.note(e),
                        }
                    }
                }
                Ok(())
            },
        )?;
    }
    damage.into_result(&header, &index)?;
    let mut checkpoint = Checkpoint::new(head, Source::Heap(bytes), None, *limits);
    checkpoint.checks = checks;
    Ok(checkpoint)
}

/// Reads a whole file into memory, on several threads, with nothing checked.
pub(crate) fn read_whole(file: &dyn ReadAt, threads: usize) -> Result<AlignedBytes> {
    const CHUNK: usize = 4 << 20;
    let cannot = |e| Error::io("cannot hold the file in memory", e);
    let len = open::source_len(file)?;
    let len = usize::try_from(len).map_err(|_| cannot(std::io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = AlignedBytes::zeroed(len).map_err(cannot)?;
    let offsets = (0u64..).step_by(CHUNK);
    parallel::for_each(
        threads,
        bytes.chunks_mut(CHUNK).zip(offsets),
        || (),
        |(), (chunk, offset)| open::read_exact(file, chunk, offset),
    )?;
    Ok(bytes)
}
