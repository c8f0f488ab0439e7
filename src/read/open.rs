//! Opening: steps 1 to 7 of reading (`spec/format.md` section 10).

use crate::error::{Error, Result};
use crate::format::diagnosis::DIAGNOSIS_LEN;
use crate::format::header::{HEADER_LEN, Header};
use crate::format::index::{Index, Sections};
use crate::format::limits::Limits;
use crate::format::{len_u64, len_usize};
use crate::source::{AlignedBytes, ReadAt};

/// The header and the places of the sections: all that is kept of a file's structure.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) header: Header,
    pub(crate) sections: Sections,
}

/// The length of a source.
pub(crate) fn source_len(source: &dyn ReadAt) -> Result<u64> {
    source.byte_len().map_err(|e| Error::io("cannot get the length", e))
}

/// As much of the beginning of a file as a diagnosis looks at.
pub(crate) fn beginning(bytes: &[u8]) -> &[u8] {
    bytes.get(..DIAGNOSIS_LEN).unwrap_or(bytes)
}

/// Reads as much of the beginning of a source as a diagnosis looks at.
pub(crate) fn read_start(source: &dyn ReadAt) -> Result<Vec<u8>> {
    let len = source_len(source)?.min(len_u64(DIAGNOSIS_LEN));
    let mut start = vec![0; len_usize(len).unwrap_or(DIAGNOSIS_LEN)];
    read_exact(source, &mut start, 0)?;
    Ok(start)
}

/// Index and trailer, which lie together.
fn split_trailer(index_and_trailer: &[u8]) -> (&[u8], &[u8]) {
    index_and_trailer.split_last_chunk::<HEADER_LEN>().map_or((&[], &[]), |(index, trailer)| (index, trailer))
}

/// Reads exactly the bytes asked for; a source that has become shorter is an error of its own words.
pub(crate) fn read_exact(source: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<()> {
    said(source.read_exact_at(buffer, offset), offset)
}

/// What a read at an offset said, in the words of this crate.
pub(super) fn said(read: std::io::Result<()>, offset: u64) -> Result<()> {
    read.map_err(|e| {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            Error::io("the file became shorter while it was read", e).with_offset(offset)
        } else {
            Error::io("cannot read", e).with_offset(offset)
        }
    })
}

impl Head {
    /// Reads header, trailer and index of a source, and checks rules HDR-1 to HDR-12 and IDX-1.
    ///
    /// **Cost**: three reads; memory for the index.
    pub(crate) fn read(source: &dyn ReadAt, limits: &Limits) -> Result<(Header, AlignedBytes)> {
        let file_len = source_len(source)?;
        let start = read_start(source)?;
        let header = Header::parse(&start, file_len, limits)?;
        // Index and trailer lie together, and the header says that they end with the file.
        let rest = file_len.saturating_sub(header.index_offset);
        let no_memory = |e| Error::io("cannot hold the index in memory", e);
        let len = usize::try_from(rest).map_err(|_| no_memory(std::io::ErrorKind::OutOfMemory.into()))?;
        let mut bytes = AlignedBytes::zeroed(len).map_err(no_memory)?;
        read_exact(source, &mut bytes, header.index_offset)?;
        let (index, trailer) = split_trailer(&bytes);
        header.check_trailer(trailer)?;
        header.check_index_crc(index)?;
        Ok((header, bytes))
    }

    /// Places the sections of an index that was read, with or without the trailer after it.
    pub(crate) fn parse(header: Header, index_and_trailer: &[u8], limits: &Limits) -> Result<Head> {
        let index = index_bytes(&header, index_and_trailer);
        let sections = Sections::parse(index, &header, limits)?;
        Ok(Head { header, sections })
    }

    /// The checks of a file whose bytes can be borrowed.
    ///
    /// **Cost**: that of the CRC of the index.
    pub(crate) fn of_resident(bytes: &[u8], limits: &Limits, will_need: impl FnOnce(usize, usize)) -> Result<Head> {
        let header = Header::parse(beginning(bytes), len_u64(bytes.len()), limits)?;
        // In range: the header says that index and trailer end with the file.
        let index_offset = len_usize(header.index_offset).unwrap_or(usize::MAX);
        let rest = bytes.get(index_offset..).unwrap_or_default();
        will_need(index_offset, rest.len());
        let (index, trailer) = split_trailer(rest);
        header.check_trailer(trailer)?;
        header.check_index_crc(index)?;
        Head::parse(header, index, limits)
    }

    /// The index, whose bytes begin `index_and_after`.
    #[inline]
    pub(crate) fn index<'a>(&'a self, index_and_after: &'a [u8]) -> Index<'a> {
        Index::new(&self.header, &self.sections, index_bytes(&self.header, index_and_after))
    }
}

fn index_bytes<'a>(header: &Header, index_and_after: &'a [u8]) -> &'a [u8] {
    usize::try_from(header.index_len).ok().and_then(|len| index_and_after.get(..len)).unwrap_or_default()
}
