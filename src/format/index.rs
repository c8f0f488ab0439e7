//! The index: the section table and the sections, used where they lie (`spec/format.md` section 6).
//!
//! Opening a file places the sections and no more: nothing is built, whatever the number of tensors. The rules that speak of
//! one record are checked when that record is used; `Index::check` checks all rules of all records.

use std::cmp::Ordering;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::checksum::{block_count, combine_blocks};
use super::dtype::DType;
use super::header::Header;
use super::layout;
use super::limits::Limits;
use super::rules::*;
use super::{len_u64, len_usize};
use crate::error::{Error, Result, quoted};

/// The longest name of a tensor, in bytes (TEN-3).
pub const MAX_NAME_LEN: usize = 65535;
/// The flag of a section that a reader may skip.
pub const SECTION_ANCILLARY: u32 = 1;
/// Section kinds from here on are free for private use.
pub const PRIVATE_SECTIONS: u32 = 0x8000_0000;

/// The kinds of section that this version knows, in their order in the file.
pub(crate) mod kind {
    pub(crate) const NAMES: u32 = 1;
    pub(crate) const DIMS: u32 = 2;
    pub(crate) const TENSORS: u32 = 3;
    pub(crate) const STORAGES: u32 = 4;
    pub(crate) const BLOCKS: u32 = 5;
    pub(crate) const METADATA: u32 = 6;
    pub(crate) const DOCUMENT: u32 = 7;
}

/// A section kind of the specification: code, name, flags, whether it must be there.
pub(crate) struct SectionKind {
    pub(crate) kind: u32,
    pub(crate) name: &'static str,
    pub(crate) flags: u32,
    pub(crate) required: bool,
    /// The length of an element in bytes; 1 where any length will do.
    pub(crate) element_len: u64,
}

pub(crate) const SECTION_KINDS: [SectionKind; 7] = [
    SectionKind { kind: kind::NAMES, name: "names", flags: 0, required: true, element_len: 1 },
    SectionKind { kind: kind::DIMS, name: "dims", flags: 0, required: true, element_len: 8 },
    SectionKind { kind: kind::TENSORS, name: "tensors", flags: 0, required: true, element_len: 40 },
    SectionKind { kind: kind::STORAGES, name: "storages", flags: 0, required: true, element_len: 32 },
    SectionKind { kind: kind::BLOCKS, name: "blocks", flags: 0, required: true, element_len: 4 },
    SectionKind { kind: kind::METADATA, name: "metadata", flags: SECTION_ANCILLARY, required: false, element_len: 1 },
    SectionKind { kind: kind::DOCUMENT, name: "document", flags: SECTION_ANCILLARY, required: false, element_len: 1 },
];

/// The beginning of the index.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawSectionTable {
    pub(crate) section_count: u32,
    pub(crate) reserved: u32,
}

/// An entry of the section table.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawSectionEntry {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) section_len: u64,
}

/// A tensor record as it lies in the index.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawTensor {
    pub(crate) first_name_byte: u64,
    pub(crate) first_dim: u64,
    pub(crate) start: u64,
    pub(crate) name_len: u32,
    pub(crate) storage: u32,
    pub(crate) dtype: u16,
    pub(crate) rank: u8,
    pub(crate) flags: u8,
    pub(crate) bits: u32,
}

/// The flag of a tensor record, and of a descriptor, that has strides.
pub(crate) const STRIDED: u8 = 1;

/// A storage record as it lies in the index.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct RawStorage {
    pub(crate) data_offset: u64,
    pub(crate) data_len: u64,
    pub(crate) first_block: u64,
    pub(crate) crc32: u32,
    pub(crate) reserved: u32,
}

/// Where the sections lie within the index, in bytes from its start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sections {
    places: [Range<usize>; 5],
    metadata: Option<Range<usize>>,
    document: Option<Range<usize>>,
    unknown: Vec<UnknownSection>,
}

#[derive(Clone, Debug)]
struct UnknownSection {
    kind: u32,
    place: Range<usize>,
}

const TABLE_LEN: usize = size_of::<RawSectionTable>();
const ENTRY_LEN: usize = size_of::<RawSectionEntry>();
const TENSOR_LEN: usize = 40;
const _: () = assert!(TENSOR_LEN == size_of::<RawTensor>() && size_of::<RawStorage>() == 32);

impl Sections {
    /// Places the sections of an index: rules IDX-2 to IDX-8.
    ///
    /// `index` begins at an address that is a multiple of 8. **Cost**: one step for each section.
    pub(crate) fn parse(index: &[u8], header: &Header, limits: &Limits) -> Result<Sections> {
        let at = |within: usize| header.index_offset.saturating_add(len_u64(within));
        let table_broken = || IDX_2.broken("the section table does not fit the index").with_offset(at(0));
        let table: &RawSectionTable =
            index.get(..TABLE_LEN).and_then(|b| bytemuck::try_from_bytes(b).ok()).ok_or_else(table_broken)?;
        let entries_end = len_usize(table.section_count.into())
            .and_then(|count| count.checked_mul(ENTRY_LEN)?.checked_add(TABLE_LEN))
            .ok_or_else(table_broken)?;
        let entries: &[RawSectionEntry] = index
            .get(TABLE_LEN..entries_end)
            .and_then(|bytes| bytemuck::try_cast_slice(bytes).ok())
            .ok_or_else(table_broken)?;
        if table.reserved != 0 {
            return Err(IDX_2.broken("the reserved field of the section table is not zero").with_offset(at(4)));
        }

        let mut sections = Sections::default();
        let mut seen = [false; 5];
        let mut previous: Option<u32> = None;
        let mut cursor = entries_end;
        for (i, entry) in entries.iter().enumerate() {
            let entry_at = at(i.saturating_mul(ENTRY_LEN).saturating_add(TABLE_LEN));
            if previous.is_some_and(|previous| previous >= entry.kind) {
                return Err(IDX_3
                    .broken(format!("section {} stands where a greater kind must", entry.kind))
                    .with_offset(entry_at));
            }
            previous = Some(entry.kind);
            let known = SECTION_KINDS.iter().find(|known| known.kind == entry.kind);
            let private = entry.kind >= PRIVATE_SECTIONS;
            let flags_right = match known {
                Some(known) => entry.flags == known.flags,
                None => entry.flags & !SECTION_ANCILLARY == 0 && (entry.flags == SECTION_ANCILLARY || !private),
            };
            if !flags_right {
                return Err(IDX_4
                    .broken(format!("section {} has flags {:#x}", entry.kind, entry.flags))
                    .with_offset(entry_at));
            }
            if known.is_none() && entry.flags & SECTION_ANCILLARY == 0 {
                return Err(IDX_5
                    .broken(format!(
                        "the file has a section of kind {} that a reader must understand, and this one does not",
                        entry.kind
                    ))
                    .with_offset(entry_at));
            }
            let place = len_usize(entry.section_len)
                .and_then(|len| Some(cursor..cursor.checked_add(len)?))
                .filter(|place| place.end <= index.len())
                .ok_or_else(|| {
                    IDX_7
                        .broken(format!(
                            "section {} of {} bytes reaches beyond the index",
                            entry.kind, entry.section_len
                        ))
                        .with_offset(entry_at)
                })?;
            cursor = place.end.checked_next_multiple_of(8).unwrap_or(usize::MAX);
            match index.get(place.end..cursor) {
                None => return Err(IDX_7.broken("a section's padding reaches beyond the index").with_offset(entry_at)),
                Some(padding) if padding.iter().any(|&byte| byte != 0) => {
                    return Err(IDX_7.broken("padding after a section is not zero").with_offset(at(place.end)));
                }
                Some(_) => {}
            }
            let Some(known) = known else {
                sections.unknown.push(UnknownSection { kind: entry.kind, place });
                continue;
            };
            if !entry.section_len.is_multiple_of(known.element_len) {
                return Err(IDX_8
                    .broken(format!(
                        "section {} has {} bytes, which is no multiple of {}",
                        known.name, entry.section_len, known.element_len
                    ))
                    .with_offset(entry_at));
            }
            match entry.kind {
                kind::METADATA => sections.metadata = Some(place),
                kind::DOCUMENT => sections.document = Some(place),
                // The five required ones have the kinds 1 to 5, in the order of `places`.
                _ => {
                    let slots = sections.places.iter_mut().zip(&mut seen).zip(&SECTION_KINDS);
                    for ((slot, seen), _) in slots.filter(|(_, candidate)| candidate.kind == entry.kind) {
                        *slot = place.clone();
                        *seen = true;
                    }
                }
            }
        }
        if let Some((missing, _)) = SECTION_KINDS.iter().zip(seen).find(|(known, seen)| known.required && !seen) {
            return Err(IDX_6.broken(format!("the section {} is missing", missing.name)).with_offset(at(0)));
        }
        if cursor != index.len() {
            return Err(IDX_7
                .broken(format!("the sections end at byte {cursor} of an index of {} bytes", index.len()))
                .with_offset(at(cursor)));
        }
        let [_, _, tensors, _, _] = &sections.places;
        limits.check("tensor count", len_u64(tensors.len() / TENSOR_LEN), limits.max_tensors)?;
        for value in [&sections.metadata, &sections.document].into_iter().flatten() {
            limits.check("length of a value", len_u64(value.len()), limits.max_value_len)?;
        }
        Ok(sections)
    }
}

/// The index of a file, borrowed where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Index<'a> {
    header: &'a Header,
    sections: &'a Sections,
    bytes: &'a [u8],
    names: &'a [u8],
    dims: &'a [u64],
    tensors: &'a [RawTensor],
    storages: &'a [RawStorage],
    blocks: &'a [u32],
}

/// A tensor of the index whose own rules hold: everything it names lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [u64],
    pub(crate) strides: Option<&'a [u64]>,
    pub(crate) storage: u32,
    pub(crate) start: u64,
    pub(crate) element_count: u64,
    pub(crate) extent: u64,
}

/// A storage of the index whose own rules hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorageEntry<'a> {
    pub(crate) data_offset: u64,
    pub(crate) data_len: u64,
    pub(crate) crc32: u32,
    /// The number of its first block among all blocks.
    pub(crate) first_block: usize,
    /// The CRCs of its blocks.
    pub(crate) blocks: &'a [u32],
}

impl TensorEntry<'_> {
    /// The bytes of its storage that it reaches over.
    pub(crate) fn range(&self) -> Range<u64> {
        // Rule TEN-11 has it that this does not overflow.
        self.start..self.start.saturating_add(self.extent)
    }
}

impl StorageEntry<'_> {
    /// Where its data lies in the file.
    pub(crate) fn place(&self) -> Range<u64> {
        // Rule STO-1 has it that this does not overflow.
        self.data_offset..self.data_offset.saturating_add(self.data_len)
    }

    /// A range of its data, as a range of the file.
    pub(crate) fn in_file(&self, range: &Range<u64>) -> Range<u64> {
        self.data_offset.saturating_add(range.start)..self.data_offset.saturating_add(range.end)
    }

    /// The CRC of block number `block` of this storage, and its number among all blocks.
    pub(crate) fn block(&self, block: u64) -> Option<(u32, usize)> {
        let within = len_usize(block)?;
        Some((*self.blocks.get(within)?, self.first_block.checked_add(within)?))
    }
}

impl<'a> Index<'a> {
    /// Views the index's bytes, whose sections have been placed.
    ///
    /// **Cost**: constant. The bytes begin at an address that is a multiple of 8, as they did when the sections were placed.
    #[inline]
    pub(crate) fn new(header: &'a Header, sections: &'a Sections, bytes: &'a [u8]) -> Index<'a> {
        fn cast<'a, T: Pod>(bytes: &'a [u8], place: &Range<usize>) -> &'a [T] {
            // Never the default: the places were checked against these bytes, and begin at multiples of 8.
            bytes.get(place.clone()).and_then(|b| bytemuck::try_cast_slice(b).ok()).unwrap_or_default()
        }
        let [names, dims, tensors, storages, blocks] = &sections.places;
        Index {
            header,
            sections,
            bytes,
            names: cast(bytes, names),
            dims: cast(bytes, dims),
            tensors: cast(bytes, tensors),
            storages: cast(bytes, storages),
            blocks: cast(bytes, blocks),
        }
    }

    /// The header of its file.
    pub(crate) fn header(&self) -> &'a Header {
        self.header
    }

    /// How many tensors there are.
    pub(crate) fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// How many storages there are.
    pub(crate) fn storage_count(&self) -> usize {
        self.storages.len()
    }

    /// How many checksum blocks there are.
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The encoded metadata, and where it lies in the file.
    pub(crate) fn metadata(&self) -> Option<(&'a [u8], u64)> {
        self.section_bytes(self.sections.metadata.as_ref()?)
    }

    /// The encoded document, and where it lies in the file.
    pub(crate) fn document(&self) -> Option<(&'a [u8], u64)> {
        self.section_bytes(self.sections.document.as_ref()?)
    }

    /// The ancillary sections that this version does not know: kind and bytes, in ascending order of kind.
    pub(crate) fn unknown_sections(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.sections.unknown.iter().map(move |s| (s.kind, bytes.get(s.place.clone()).unwrap_or_default()))
    }

    fn section_bytes(&self, place: &Range<usize>) -> Option<(&'a [u8], u64)> {
        let offset = self.header.index_offset.saturating_add(len_u64(place.start));
        Some((self.bytes.get(place.clone())?, offset))
    }

    /// Where in the file the record of tensor `number` lies.
    fn tensor_offset(&self, number: usize) -> u64 {
        let [_, _, tensors, _, _] = &self.sections.places;
        let within = number.saturating_mul(size_of::<RawTensor>()).saturating_add(tensors.start);
        self.header.index_offset.saturating_add(len_u64(within))
    }

    /// Where in the file the record of storage `number` lies.
    fn storage_offset(&self, number: usize) -> u64 {
        let [_, _, _, storages, _] = &self.sections.places;
        let within = number.saturating_mul(size_of::<RawStorage>()).saturating_add(storages.start);
        self.header.index_offset.saturating_add(len_u64(within))
    }

    #[inline]
    fn name_bytes(&self, raw: &RawTensor) -> Option<&'a [u8]> {
        let start = len_usize(raw.first_name_byte)?;
        let end = start.checked_add(len_usize(raw.name_len.into())?)?;
        self.names.get(start..end)
    }

    fn name_broken(&self, number: usize) -> Error {
        TEN_1
            .broken(format!("the name of tensor number {number} reaches beyond the section names"))
            .with_offset(self.tensor_offset(number))
    }

    /// The number of the tensor of that name, by binary search.
    ///
    /// **Cost**: about log2 of the number of tensors comparisons; nothing is built.
    pub(crate) fn find(&self, name: &str) -> Result<Option<usize>> {
        let mut low = 0;
        let mut high = self.tensors.len();
        while low < high {
            let middle = low.midpoint(high);
            let Some(raw) = self.tensors.get(middle) else { return Ok(None) };
            let found = self.name_bytes(raw).ok_or_else(|| self.name_broken(middle))?;
            match found.cmp(name.as_bytes()) {
                Ordering::Equal => return Ok(Some(middle)),
                Ordering::Less => low = middle.saturating_add(1),
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// As [`find`](Self::find), with a guess that is tried first: who looks up many names often has them in order.
    pub(crate) fn find_at(&self, guess: usize, name: &str) -> Result<Option<usize>> {
        let guessed = self.tensors.get(guess).and_then(|raw| self.name_bytes(raw));
        if guessed == Some(name.as_bytes()) { Ok(Some(guess)) } else { self.find(name) }
    }

    /// The tensor of that number, all rules that speak of it alone checked (step 8 of reading); its storage too.
    pub(crate) fn tensor(&self, number: usize) -> Result<TensorEntry<'a>> {
        let Some(raw) = self.tensors.get(number) else {
            return Err(Error::invalid(format!("there is no tensor number {number}")));
        };
        let name = self.name_bytes(raw).ok_or_else(|| self.name_broken(number))?;
        let broken = |rule: Rule, message: String| {
            let shown = std::str::from_utf8(name).map_or_else(|_| String::from_utf8_lossy(name), Into::into);
            Err(rule.broken(message).with_tensor(&shown).with_offset(self.tensor_offset(number)))
        };
        if name.len() > MAX_NAME_LEN {
            return broken(TEN_3, format!("the name has {} bytes, and {MAX_NAME_LEN} are allowed", name.len()));
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return broken(TEN_2, "the name is not valid UTF-8".into());
        };
        if raw.flags & !STRIDED != 0 {
            return broken(TEN_6, format!("flags {:#04x} are not defined", raw.flags));
        }
        let strided = raw.flags & STRIDED != 0;
        let Some(dtype) = DType::from_code(raw.dtype, raw.bits) else {
            return broken(
                TEN_7,
                format!("dtype {:#06x} with {} bits per element does not exist", raw.dtype, raw.bits),
            );
        };
        let rank = usize::from(raw.rank);
        let dims = len_usize(raw.first_dim).and_then(|first| {
            let shape_end = first.checked_add(rank)?;
            let strides_end = if strided { shape_end.checked_add(rank)? } else { shape_end };
            Some((self.dims.get(first..shape_end)?, self.dims.get(shape_end..strides_end)?))
        });
        let Some((shape, strides)) = dims else {
            return broken(TEN_5, format!("its dims at element {} reach beyond the section dims", raw.first_dim));
        };
        let Some(element_count) = layout::element_count(shape, raw.bits) else {
            return broken(TEN_8, format!("the number of elements of shape {shape:?} overflows"));
        };
        if strided && (dtype.is_packed() || layout::strides_are_contiguous(shape, strides)) {
            return broken(TEN_12, format!("strides {strides:?} of shape {shape:?} must not be written"));
        }
        let strides = strided.then_some(strides);
        let storage = self.storage(raw.storage).map_err(|e| e.with_tensor(name))?;
        let Some(storage) = storage else {
            return broken(
                TEN_9,
                format!("it lies in storage {}, and there are {} storages", raw.storage, self.storages.len()),
            );
        };
        if dtype.byte_size().is_some_and(|size| !raw.start.is_multiple_of(size)) {
            return broken(TEN_10, format!("it starts at byte {} of its storage, not at an element", raw.start));
        }
        let end = layout::extent(shape, strides, raw.bits).and_then(|e| Some((e, raw.start.checked_add(e)?)));
        let extent = match end {
            Some((extent, end)) if end <= storage.data_len => extent,
            Some((_, end)) => {
                return broken(TEN_11, format!("it ends at byte {end} of a storage of {} bytes", storage.data_len));
            }
            None => return broken(TEN_11, format!("the extent of shape {shape:?} overflows")),
        };
        Ok(TensorEntry { name, dtype, shape, strides, storage: raw.storage, start: raw.start, element_count, extent })
    }

    /// The storage of that number, if there is one, with the rules that speak of it alone checked.
    pub(crate) fn storage(&self, number: u32) -> Result<Option<StorageEntry<'a>>> {
        let Some(number) = len_usize(number.into()) else { return Ok(None) };
        let Some(raw) = self.storages.get(number) else { return Ok(None) };
        let broken = |rule: Rule, message: String| {
            Err(rule.broken(format!("storage {number}: {message}")).with_offset(self.storage_offset(number)))
        };
        let end = raw.data_offset.checked_add(raw.data_len);
        if !raw.data_offset.is_multiple_of(self.header.alignment()) {
            return broken(STO_1, format!("its data begins at byte {}, which is not aligned", raw.data_offset));
        }
        if raw.data_offset < self.header.data_begin() || end.is_none_or(|end| end > self.header.index_offset) {
            return broken(
                STO_1,
                format!(
                    "its data of {} bytes at byte {} is not between the header and the index",
                    raw.data_len, raw.data_offset
                ),
            );
        }
        if raw.reserved != 0 {
            return broken(STO_5, "its reserved field is not zero".into());
        }
        let count = block_count(raw.data_len, self.header.block_log2);
        let blocks = len_usize(raw.first_block).and_then(|first| {
            let end = first.checked_add(len_usize(count)?)?;
            Some((first, self.blocks.get(first..end)?))
        });
        let Some((first_block, blocks)) = blocks else {
            return broken(STO_3, format!("its {count} blocks from number {} are not all there", raw.first_block));
        };
        Ok(Some(StorageEntry {
            data_offset: raw.data_offset,
            data_len: raw.data_len,
            crc32: raw.crc32,
            first_block,
            blocks,
        }))
    }

    /// The storage of a tensor that was checked.
    pub(crate) fn storage_of(&self, tensor: &TensorEntry<'_>) -> Result<StorageEntry<'a>> {
        self.storage(tensor.storage)?
            .ok_or_else(|| TEN_9.broken(format!("storage {} does not exist", tensor.storage)).with_tensor(tensor.name))
    }

    /// Checks every rule of section 6 for every record: order of names, packing of the sections, storages, and that
    /// block CRCs combine to those of the storages. Values are not looked at.
    ///
    /// **Cost**: one pass over the index.
    pub(crate) fn check(&self) -> Result<()> {
        let mut next_block = 0usize;
        let mut last_end = None;
        for number in 0..self.storages.len() {
            let Some(storage) = u32::try_from(number).ok().map(|n| self.storage(n)).transpose()?.flatten() else {
                return Err(TEN_9.broken("there are more storages than tensors can name"));
            };
            let broken = |rule: Rule, message: String| {
                Err(rule.broken(format!("storage {number}: {message}")).with_offset(self.storage_offset(number)))
            };
            // A descriptor lies between any two storages, so even empty ones never touch.
            if let Some(last_end) = last_end.filter(|&end| storage.data_offset <= end) {
                return broken(STO_2, format!("its data begins at byte {}, not after {last_end}", storage.data_offset));
            }
            last_end = Some(storage.data_offset.saturating_add(storage.data_len));
            if storage.first_block != next_block {
                return broken(
                    STO_3,
                    format!("its first block is number {} and should be {next_block}", storage.first_block),
                );
            }
            next_block = next_block.saturating_add(storage.blocks.len());
            let combined = combine_blocks(storage.blocks, storage.data_len, self.header.block_log2);
            if combined != storage.crc32 {
                return broken(
                    STO_4,
                    format!("its checksum is {:08x}, and its blocks combine to {combined:08x}", storage.crc32),
                )
                .map_err(|e: Error| e.with_numbers(storage.crc32.into(), combined.into()));
            }
        }
        if next_block != self.blocks.len() {
            return Err(STO_3
                .broken(format!("the storages have {next_block} blocks, {} are listed", self.blocks.len()))
                .with_offset(self.header.index_offset));
        }

        let mut next_name = 0u64;
        let mut next_dim = 0u64;
        let mut previous: Option<&str> = None;
        for (number, raw) in self.tensors.iter().enumerate() {
            let entry = self.tensor(number)?;
            let broken = |rule: Rule, message: String| {
                Err(rule.broken(message).with_tensor(entry.name).with_offset(self.tensor_offset(number)))
            };
            if raw.first_name_byte != next_name {
                return broken(TEN_1, format!("its name begins at byte {}, not {next_name}", raw.first_name_byte));
            }
            next_name = next_name.saturating_add(raw.name_len.into());
            if previous.is_some_and(|previous| previous >= entry.name) {
                return broken(
                    TEN_4,
                    format!("it follows {}, so names are not ascending", quoted(previous.unwrap_or(""))),
                );
            }
            previous = Some(entry.name);
            if raw.first_dim != next_dim {
                return broken(TEN_5, format!("its dims begin at element {}, not {next_dim}", raw.first_dim));
            }
            let dims = entry.shape.len().saturating_add(entry.strides.map_or(0, <[u64]>::len));
            next_dim = next_dim.saturating_add(len_u64(dims));
        }
        if next_name != len_u64(self.names.len()) {
            return Err(TEN_1
                .broken(format!("names end at byte {next_name} of a section of {}", self.names.len()))
                .with_offset(self.header.index_offset));
        }
        if next_dim != len_u64(self.dims.len()) {
            return Err(TEN_5
                .broken(format!("dims end at element {next_dim} of a section of {}", self.dims.len()))
                .with_offset(self.header.index_offset));
        }
        Ok(())
    }
}
