//! Files of other formats, read as if they had a Dolmen index.
//!
//! A guest (in `foreign`) reads the structure of its format and says here where storages and tensors lie. From that an index is made
//! in memory, over the same bytes; from then on there is no difference.

use super::open::Head;
use super::touched::AtomicSet;
use super::{Checkpoint, TensorView};
use crate::error::{Error, Result};
use crate::format::catalog::{self, Catalog, Extras, Storage, Tensor};
use crate::format::dtype::DType;
use crate::format::header::{Header, MINOR};
use crate::format::layout;
use crate::format::limits::Limits;
use crate::format::value::Value;
use crate::format::{len_u64, len_usize};
use crate::source::{AlignedBytes, Source};

/// A guest has one block for each storage, however long.
const WHOLE_STORAGE_LOG2: u8 = 63;

/// Where the storages and tensors of a file of another format lie: what [`open_guest`](crate::OpenOptions::open_guest) needs.
#[derive(Debug)]
pub struct GuestIndex {
    format: &'static str,
    version: String,
    catalog: Catalog,
    extras: Extras,
    /// For each storage, whether the format has a CRC of it.
    checked: Vec<bool>,
}

/// What is kept of a guest.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) format: &'static str,
    pub(crate) version: String,
    /// The storages of which there is a CRC.
    checked: AtomicSet,
}

impl Guest {
    /// Whether there is a CRC of a storage.
    pub(crate) fn has_crc(&self, storage: u32) -> bool {
        len_usize(storage.into()).is_some_and(|storage| self.checked.contains(storage))
    }
}

impl GuestIndex {
    /// An empty file of a format; `version` is what it has for one, or empty.
    pub fn new(format: &'static str, version: impl Into<String>) -> GuestIndex {
        GuestIndex {
            format,
            version: version.into(),
            catalog: Catalog::default(),
            extras: Extras::default(),
            checked: Vec::new(),
        }
    }

    /// Adds a storage: where it lies in the file, how long it is, and the CRC-32 that the format has of it, if it has one. Gives its
    /// number.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are too many.
    pub fn storage(&mut self, offset: u64, byte_len: u64, crc32: Option<u32>) -> Result<u32> {
        let number = u32::try_from(self.checked.len()).ok().filter(|&n| n < u32::MAX);
        let number = number.ok_or_else(|| Error::invalid("there are too many storages"))?;
        self.catalog.storages.push(Storage {
            data_offset: offset,
            data_len: byte_len,
            crc32: crc32.unwrap_or(0),
            first_block: len_u64(self.catalog.blocks.len()),
        });
        if byte_len > 0 {
            self.catalog.blocks.push(crc32.unwrap_or(0));
        }
        self.checked.push(crc32.is_some() || byte_len == 0);
        Ok(number)
    }

    /// Adds a tensor: strides in elements if it has any of its own, `start` in bytes from the storage's first.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it does not fit the storage, or the name was used before.
    pub fn tensor(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Vec<u64>,
        strides: Option<Vec<u64>>,
        storage: u32,
        start: u64,
    ) -> Result<()> {
        let strides = strides.filter(|strides| !layout::strides_are_contiguous(&shape, strides));
        let tensor = Tensor { dtype, shape, strides, storage, start };
        let Some(place) = len_usize(storage.into()).and_then(|n| self.catalog.storages.get(n)) else {
            return Err(Error::invalid(format!("there is no storage {storage}")).with_tensor(name));
        };
        catalog::check_tensor(name, &tensor, place.data_len)?;
        if self.catalog.tensors.contains_key(name) {
            return Err(Error::invalid("the name is used twice").with_tensor(name));
        }
        self.catalog.add(name, tensor);
        Ok(())
    }

    /// Sets a metadata entry.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.extras.metadata.insert(key.into(), value.into());
    }

    /// Sets the document.
    pub fn document(&mut self, document: Value) {
        self.extras.document = Some(document);
    }
}

impl Checkpoint {
    /// A file of another format as a checkpoint.
    ///
    /// Storages of which the format has a CRC are verified when they are touched; the others are given as they are, and
    /// [`TensorView::storage_crc32`] says `None` of them.
    pub(crate) fn of_guest(source: Source, guest: GuestIndex, limits: Limits) -> Result<Checkpoint> {
        let file_len = super::open::source_len(&source)?;
        let inside = |s: &Storage| s.data_offset.checked_add(s.data_len).is_some_and(|end| end <= file_len);
        if let Some(storage) = guest.catalog.storages.iter().find(|storage| !inside(storage)) {
            let message = format!(
                "a storage of {} bytes at byte {} does not lie in a file of {file_len}",
                storage.data_len, storage.data_offset
            );
            return Err(Error::new(crate::ErrorKind::Malformed, message));
        }
        let extras = guest.extras.encode(|name| guest.catalog.tensors.contains_key(name))?;
        let (index, index_crc32) = guest.catalog.encode_index(&extras)?;
        let header = Header {
            minor: MINOR,
            file_len,
            index_offset: file_len,
            index_len: len_u64(index.len()),
            index_crc32,
            alignment_log2: 0,
            block_log2: WHOLE_STORAGE_LOG2,
        };
        let index = AlignedBytes::copy_of(&index).map_err(|e| Error::io("cannot hold the index in memory", e))?;
        let head = Head::parse(header, &index, &limits)?;
        let mut checkpoint = Checkpoint::new(head, source, Some(index), limits);
        let checked = AtomicSet::new(guest.checked.len());
        // What cannot be verified is not verified again and again: its block counts as done.
        let index = checkpoint.index();
        for ((number, storage), has_crc) in (0..).zip(0u32..).zip(guest.checked) {
            if has_crc {
                checked.insert(number);
            } else if let Some(storage) = index.storage(storage)? {
                checkpoint.verified.insert(storage.first_block);
            }
        }
        checkpoint.guest = Some(Guest { format: guest.format, version: guest.version, checked });
        Ok(checkpoint)
    }

    /// Whether there is a CRC of a storage.
    pub(super) fn has_crc(&self, storage: u32) -> bool {
        self.guest.as_ref().is_none_or(|guest| guest.has_crc(storage))
    }
}

impl TensorView<'_> {
    /// Whether its bytes can be verified: always in a Dolmen file, and in others if they have a CRC of it.
    pub fn is_checksummed(&self) -> bool {
        self.checkpoint().has_crc(self.storage())
    }
}
