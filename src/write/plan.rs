//! [`Plan`]: a file laid out, with nothing written yet.

use std::collections::BTreeMap;
use std::ops::Range;

use super::FileOptions;
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, EncodedExtras, Tensor, check_tensor};
use crate::format::checksum::block_count;
use crate::format::descriptor::{self, descriptor_len};
use crate::format::header::HEADER_LEN_U64;
use crate::format::layout::{self, RECORD_ALIGNMENT};

/// A file laid out: where each tensor will lie and how long the file will be. Nothing has been read or written.
#[derive(Clone, Debug)]
pub struct Plan {
    places: BTreeMap<String, Range<u64>>,
    file_len: u64,
}

/// A record to lay out: name, tensor, and the length of the storage if it introduces one.
pub(super) type PlannedRecord<'a> = (&'a str, &'a Tensor, Option<u64>);

impl Plan {
    /// Lays out records in the order in which they will be written (`spec/format.md` section 3).
    pub(super) fn lay_out<'a>(
        options: FileOptions,
        records: impl Iterator<Item = PlannedRecord<'a>> + Clone,
        extras: &EncodedExtras,
    ) -> Result<Plan> {
        let too_long = || Error::invalid("the file would be longer than the format can say");
        let mut places = BTreeMap::new();
        let mut storages: Vec<Range<u64>> = Vec::new();
        let mut blocks = 0;
        let mut cursor = HEADER_LEN_U64;
        for (name, tensor, introduced) in records.clone() {
            let rank = u8::try_from(tensor.shape.len()).map_err(|_| too_long())?;
            let descriptor_len =
                descriptor_len(rank, tensor.strides.is_some(), name.len() as u64).ok_or_else(too_long)?;
            let mut end = cursor.checked_add(descriptor_len).ok_or_else(too_long)?;
            if let Some(data_len) = introduced {
                check_tensor(name, tensor, data_len)?;
                let data_offset = descriptor::data_offset(cursor, descriptor_len, options.alignment_log2);
                let data_offset = data_offset.ok_or_else(too_long)?;
                end = data_offset.checked_add(data_len).ok_or_else(too_long)?;
                blocks += block_count(data_len, options.block_log2);
                storages.push(data_offset..end);
            }
            let storage = storages.get(tensor.storage as usize).cloned().unwrap_or_default();
            let extent = layout::extent(&tensor.shape, tensor.strides.as_deref(), tensor.dtype.bits()).unwrap_or(0);
            let start = storage.start + tensor.start;
            places.insert(name.to_owned(), start..start + extent);
            cursor = layout::round_up(end, RECORD_ALIGNMENT).ok_or_else(too_long)?;
        }
        let tensors = records.map(|(name, tensor, _)| (name, tensor));
        let index_len = Catalog::index_len(tensors, storages.len() as u64, blocks, extras);
        let file_len = cursor.checked_add(index_len).and_then(|end| end.checked_add(HEADER_LEN_U64));
        Ok(Plan { places, file_len: file_len.ok_or_else(too_long)? })
    }

    /// The length of the file in bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where a tensor's bytes will lie in the file, from its first element to the end of its last one.
    pub fn place(&self, name: &str) -> Option<Range<u64>> {
        self.places.get(name).cloned()
    }
}
