//! [`Plan`]: a file laid out, with nothing written yet.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::builder::Builder;
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, check_tensor};
use crate::format::checksum::block_count;
use crate::format::descriptor::{self, descriptor_len};
use crate::format::header::HEADER_LEN_U64;
use crate::format::layout::{self, RECORD_ALIGNMENT};

/// A file laid out: where each storage will lie and how long the file will be. Nothing has been read or written.
#[derive(Debug)]
pub struct Plan<'b, 'a> {
    builder: &'b Builder<'a>,
    places: BTreeMap<&'b str, Range<u64>>,
    file_len: u64,
}

impl<'b, 'a> Plan<'b, 'a> {
    pub(super) fn new(builder: &'b Builder<'a>) -> Result<Plan<'b, 'a>> {
        let too_long = || Error::invalid("the file would be longer than the format can say");
        let options = builder.options();
        let extras = builder.encode_extras()?;
        let mut places = BTreeMap::new();
        let mut storages: Vec<Range<u64>> = Vec::new();
        let mut blocks = 0;
        let mut cursor = HEADER_LEN_U64;
        for (name, tensor, introduced) in builder.in_order()? {
            let rank = u8::try_from(tensor.shape.len()).map_err(|_| too_long())?;
            let descriptor_len =
                descriptor_len(rank, tensor.strides.is_some(), name.len() as u64).ok_or_else(too_long)?;
            let mut end = cursor.checked_add(descriptor_len).ok_or_else(too_long)?;
            if let Some(bytes) = introduced {
                check_tensor(name, &tensor, bytes.len())?;
                let data_offset = descriptor::data_offset(cursor, descriptor_len, options.alignment_log2);
                let data_offset = data_offset.ok_or_else(too_long)?;
                end = data_offset.checked_add(bytes.len()).ok_or_else(too_long)?;
                blocks += block_count(bytes.len(), options.block_log2);
                storages.push(data_offset..end);
            }
            let storage = storages.get(tensor.storage as usize).cloned().unwrap_or_default();
            let extent = layout::extent(&tensor.shape, tensor.strides.as_deref(), tensor.dtype.bits()).unwrap_or(0);
            let start = storage.start + tensor.start;
            places.insert(name, start..start + extent);
            cursor = layout::round_up(end, RECORD_ALIGNMENT).ok_or_else(too_long)?;
        }
        let index_len = Catalog::index_len(builder.tensors(), storages.len() as u64, blocks, &extras);
        let file_len = cursor.checked_add(index_len).and_then(|end| end.checked_add(HEADER_LEN_U64));
        Ok(Plan { builder, places, file_len: file_len.ok_or_else(too_long)? })
    }

    /// The length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where a tensor's bytes will lie in the file, from its first element to the end of its last one.
    pub fn place(&self, name: &str) -> Option<Range<u64>> {
        self.places.get(name).cloned()
    }

    /// Writes the file. See [`Builder::write_to`].
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if writing fails; what a lazy or deferred tensor says.
    pub fn write_to(&self, out: impl io::Write) -> Result<()> {
        self.builder.write_planned(out)
    }
}
