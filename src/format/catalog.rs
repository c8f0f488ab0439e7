//! What an index will say, and its bytes: for files that are written, and for files of guests that are read as if they had one.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "the numbers here are lengths of what is in memory, and were checked when it was added"
)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytemuck::bytes_of;

use super::checksum::crc32;
use super::dtype::DType;
use super::index::{
    MAX_NAME_LEN, PRIVATE_SECTIONS, RawSectionEntry, RawSectionTable, RawStorage, RawTensor, SECTION_ANCILLARY,
    SECTION_KINDS, STRIDED, kind,
};
use super::layout;
use super::value::{self, Value};
use crate::error::{Error, Result};

/// A tensor as the index will list it; strides only if they are not contiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Option<Vec<u64>>,
    pub(crate) storage: u32,
    pub(crate) start: u64,
}

/// A storage as the index will list it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) data_offset: u64,
    pub(crate) data_len: u64,
    pub(crate) crc32: u32,
    pub(crate) first_block: u64,
}

/// All that the index will say.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) storages: Vec<Storage>,
    pub(crate) blocks: Vec<u32>,
}

/// Metadata for keys that a file has no entries of.
pub(crate) type Defaults = BTreeMap<String, Value>;

/// What a file holds besides tensors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) document: Option<Value>,
    pub(crate) sections: BTreeMap<u32, Vec<u8>>,
}

impl Extras {
    /// Takes an ancillary section that this version gives no meaning to.
    pub(crate) fn section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<()> {
        if SECTION_KINDS.iter().any(|known| known.kind == kind) {
            return Err(Error::invalid(format!("section kind {kind} has a meaning of its own")));
        }
        if self.sections.contains_key(&kind) {
            return Err(Error::invalid(format!("section kind {kind} was given twice")));
        }
        self.sections.insert(kind, bytes);
        Ok(())
    }

    /// Takes a section of a kind that is free for private use.
    pub(crate) fn private_section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<()> {
        if kind < PRIVATE_SECTIONS {
            return Err(Error::invalid(format!("section kind {kind:#x} is not private: those begin at 0x80000000")));
        }
        self.section(kind, bytes)
    }

    /// Encodes what is there, and checks that the document refers to tensors that exist.
    pub(crate) fn encode(&self, exists: impl Fn(&str) -> bool) -> Result<EncodedExtras> {
        self.encode_with(&Defaults::new(), exists)
    }

    /// As [`encode`](Self::encode), with metadata for keys that there are no entries of.
    pub(crate) fn encode_with(&self, defaults: &Defaults, exists: impl Fn(&str) -> bool) -> Result<EncodedExtras> {
        let mut sections = Vec::new();
        let mut metadata = Cow::Borrowed(&self.metadata);
        for (key, value) in defaults {
            if !metadata.contains_key(key) {
                metadata.to_mut().insert(key.clone(), value.clone());
            }
        }
        if !metadata.is_empty() {
            sections.push((kind::METADATA, SECTION_ANCILLARY, value::encode_metadata(&metadata)?));
        }
        if let Some(document) = &self.document {
            if let Some(name) = document.tensor_names().find(|name| !exists(name)) {
                return Err(
                    Error::invalid("the document refers to this tensor, which is not in the file").with_tensor(name)
                );
            }
            sections.push((kind::DOCUMENT, SECTION_ANCILLARY, value::encode_document(document)?));
        }
        sections.extend(self.sections.iter().map(|(&kind, bytes)| (kind, SECTION_ANCILLARY, bytes.clone())));
        Ok(EncodedExtras(sections))
    }
}

/// The sections besides the required ones: kind, flags, bytes.
pub(crate) struct EncodedExtras(Vec<(u32, u32, Vec<u8>)>);

/// Checks what the rules of section 6.1 ask of a tensor, before anything is written.
pub(crate) fn check_tensor(name: &str, tensor: &Tensor, data_len: u64) -> Result<()> {
    let wrong = |message: String| Err(Error::invalid(message).with_tensor(name));
    if name.len() > MAX_NAME_LEN {
        return wrong(format!("its name has {} bytes, and {MAX_NAME_LEN} are allowed", name.len()));
    }
    let Tensor { dtype, shape, strides, start, .. } = tensor;
    if shape.len() > usize::from(u8::MAX) {
        return wrong(format!("its rank is {}, and 255 is the most there can be", shape.len()));
    }
    if DType::from_code(dtype.code(), dtype.bits()) != Some(*dtype) {
        return wrong(format!("its dtype {dtype} with {} bits cannot be written", dtype.bits()));
    }
    if let Some(strides) = strides {
        if strides.len() != shape.len() {
            return wrong(format!("it has {} strides for a rank of {}", strides.len(), shape.len()));
        }
        if dtype.is_packed() {
            return wrong(format!("elements of the packed dtype {dtype} cannot be strided"));
        }
    }
    if layout::element_count(shape, dtype.bits()).is_none() {
        return wrong(format!("the number of its elements, of shape {shape:?}, overflows"));
    }
    if dtype.byte_size().is_some_and(|size| start % size != 0) {
        return wrong(format!("its start, byte {start} of the storage, is no multiple of its element's size"));
    }
    let end = layout::extent(shape, strides.as_deref(), dtype.bits()).and_then(|extent| extent.checked_add(*start));
    match end {
        Some(end) if end <= data_len => Ok(()),
        Some(end) => wrong(format!("shape {shape:?} of {dtype} ends at byte {end}, and there are {data_len} bytes")),
        None => wrong(format!("the extent of its shape {shape:?} overflows")),
    }
}

impl Catalog {
    /// Adds a tensor whose record has been written.
    pub(crate) fn add(&mut self, name: &str, tensor: Tensor) {
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// The bytes of the index, and their CRC-32.
    pub(crate) fn encode_index(&self, extras: &EncodedExtras) -> Result<(Vec<u8>, u32)> {
        let mut names = Vec::new();
        let mut dims: Vec<u64> = Vec::new();
        let mut tensors: Vec<u8> = Vec::with_capacity(self.tensors.len() * size_of::<RawTensor>());
        for (name, tensor) in &self.tensors {
            let raw = RawTensor {
                first_name_byte: names.len() as u64,
                first_dim: dims.len() as u64,
                start: tensor.start,
                name_len: name.len() as u32,
                storage: tensor.storage,
                dtype: tensor.dtype.code(),
                rank: tensor.shape.len() as u8,
                flags: if tensor.strides.is_some() { STRIDED } else { 0 },
                bits: tensor.dtype.bits(),
            };
            names.extend_from_slice(name.as_bytes());
            dims.extend_from_slice(&tensor.shape);
            dims.extend_from_slice(tensor.strides.as_deref().unwrap_or_default());
            tensors.extend_from_slice(bytes_of(&raw));
        }
        let storages: Vec<RawStorage> = self
            .storages
            .iter()
            .map(|s| RawStorage {
                data_offset: s.data_offset,
                data_len: s.data_len,
                first_block: s.first_block,
                crc32: s.crc32,
                reserved: 0,
            })
            .collect();
        let required: [(u32, u32, &[u8]); 5] = [
            (kind::NAMES, 0, &names),
            (kind::DIMS, 0, bytemuck::cast_slice(&dims)),
            (kind::TENSORS, 0, &tensors),
            (kind::STORAGES, 0, bytemuck::cast_slice(&storages)),
            (kind::BLOCKS, 0, bytemuck::cast_slice(&self.blocks)),
        ];
        let mut sections: Vec<_> = required
            .into_iter()
            .chain(extras.0.iter().map(|(kind, flags, bytes)| (*kind, *flags, &bytes[..])))
            .collect();
        // Kind 0, which a later version may assign, comes before all of them.
        sections.sort_by_key(|&(kind, _, _)| kind);

        let mut index = Vec::new();
        let section_count = u32::try_from(sections.len()).map_err(|_| Error::invalid("there are too many sections"))?;
        index.extend_from_slice(bytes_of(&RawSectionTable { section_count, reserved: 0 }));
        for &(kind, flags, bytes) in &sections {
            index.extend_from_slice(bytes_of(&RawSectionEntry { kind, flags, section_len: bytes.len() as u64 }));
        }
        for (_, _, bytes) in sections {
            index.extend_from_slice(bytes);
            index.resize(index.len().next_multiple_of(8), 0);
        }
        let crc = crc32(&index);
        Ok((index, crc))
    }

    /// The length of the index that [`encode_index`](Self::encode_index) would give, were the given tensors all there are.
    pub(crate) fn index_len<'a>(
        tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
        storage_count: u64,
        block_count: u64,
        extras: &EncodedExtras,
    ) -> u64 {
        let (mut names, mut dims, mut count) = (0u64, 0u64, 0u64);
        for (name, tensor) in tensors {
            names += name.len() as u64;
            dims += (tensor.shape.len() + tensor.strides.as_ref().map_or(0, Vec::len)) as u64;
            count += 1;
        }
        let required = [
            names,
            dims * 8,
            count * size_of::<RawTensor>() as u64,
            storage_count * size_of::<RawStorage>() as u64,
            block_count * 4,
        ];
        let table = size_of::<RawSectionTable>() + (required.len() + extras.0.len()) * size_of::<RawSectionEntry>();
        let extras = extras.0.iter().map(|(_, _, bytes)| bytes.len() as u64);
        table as u64 + required.into_iter().chain(extras).map(|len| len.next_multiple_of(8)).sum::<u64>()
    }
}
