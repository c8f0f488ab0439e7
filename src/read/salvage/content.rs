//! What a damaged file held, as its index or its records say.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::bytes::Damaged;
use super::frame::{Frame, is_index_whole};
use super::report::{ExtraOutcome, Guide, Loss, LossReason, Outcome, Part, SalvageReport};
use super::stored::{Stored, Vouched};
use super::walk::{Step, Walk, looks_like_an_index};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::catalog::{self, Tensor};
use crate::format::checksum::combine_blocks;
use crate::format::descriptor::Descriptor;
use crate::format::header::{HEADER_LEN_U64, Header};
use crate::format::index::{Index, Sections};
use crate::format::layout::{self, RECORD_ALIGNMENT};
use crate::format::limits::Limits;
use crate::format::value::{self, Value};
use crate::format::{len_u64, len_usize};
use crate::source::AlignedBytes;

const NOT_ZERO: &str = "bytes that must be zero are not";

/// What a damaged file held, whether or not its data is good.
#[derive(Default)]
pub(super) struct Content {
    pub(super) storages: Vec<Stored>,
    /// Names and tensors, whose storages are those above.
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) document: Option<Value>,
    pub(super) sections: Vec<(u32, Vec<u8>)>,
    /// The tensor that the writer was in the middle of, and how long its rows are.
    pub(super) unfinished: Option<(String, u64)>,
    /// How many rows of that were found and are not taken.
    pub(super) further_rows: u64,
}

/// An index, whole or not, in memory.
struct Held {
    header: Header,
    sections: Sections,
    bytes: AlignedBytes,
}

impl Held {
    fn index(&self) -> Index<'_> {
        Index::new(&self.header, &self.sections, &self.bytes)
    }
}

/// Finds out what a file held.
///
/// # Errors
/// [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) if its index needs a newer reader; [`Limit`](ErrorKind::Limit).
pub(super) fn find(
    file: &Damaged<'_>,
    frame: &Frame,
    limits: &Limits,
    unverified: bool,
    report: &mut SalvageReport,
) -> Result<Content> {
    let mut content = Content::default();
    let mut damaged_index = None;
    if let Some(header) = frame.header {
        limits.check("index length", header.index_len, limits.max_index_len)?;
        let (bytes, whole) = read_index(file, frame, &header)?;
        match Sections::parse(&bytes, &header, limits) {
            Ok(sections) if whole => {
                report.guide = Guide::Index;
                let held = Held { header, sections, bytes };
                content.take_index(&held.index(), report)?;
                content.take_values(&held.index(), true, unverified, report);
                compare_records(file, frame, &held.index(), &content, report)?;
                return Ok(content);
            }
            Err(e) if whole && matches!(e.kind(), ErrorKind::UnsupportedVersion | ErrorKind::Limit) => return Err(e),
            Ok(sections) => damaged_index = Some(Held { header, sections, bytes }),
            Err(e) if whole => {
                let at = frame.base.places(&(header.index_offset..header.file_len), file.len());
                report.damage(
                    Part::Index,
                    Some(at),
                    format!("its checksum is right, and it breaks a rule: {}", e.reason()),
                );
            }
            Err(_) => {}
        }
        if !whole {
            let index = header.index_offset..header.index_offset.saturating_add(header.index_len);
            let at = frame.base.places(&index, file.len());
            let what = if at.is_empty() { "it is missing" } else { "it is damaged" };
            report.damage(Part::Index, Some(at), what);
        }
    }
    report.guide = Guide::Records;
    let walked = Walked::of(file, frame, report)?;
    let index_at = walked.index_at;
    let complete = walked.complete;
    content.take_records(walked, file, frame, report);
    if content.storages.is_empty() && content.tensors.is_empty() {
        report.guide = Guide::Nothing;
    }
    report.may_have_more = !complete;
    if frame.header.is_none() && !frame.provisional {
        damaged_index = index_at.and_then(|at| find_index(file, frame, at, limits));
        if damaged_index.is_none() {
            report.damage(Part::Index, None, "it was not found");
        }
    }
    match &damaged_index {
        Some(held) => {
            let index = held.index();
            content.prove_blocks(&index, held.header.block_log2);
            content.take_values(&index, false, unverified, report);
        }
        None if frame.provisional => {}
        None => {
            // Whether there were any, only the index said.
            report.metadata = ExtraOutcome::Unknown;
            report.document = ExtraOutcome::Unknown;
        }
    }
    limits.check("tensor count", len_u64(content.tensors.len()), limits.max_tensors)?;
    Ok(content)
}

/// Reads the index that a header speaks of, as far as it is there; and says whether its checksum is right.
fn read_index(file: &Damaged<'_>, frame: &Frame, header: &Header) -> Result<(AlignedBytes, bool)> {
    let own = header.index_offset..header.index_offset.saturating_add(header.index_len);
    let present = frame.base.present(&own, file.len());
    let no_memory = |e| Error::io("cannot hold the index in memory", e);
    // What is missing of it could be longer than the file is.
    if present != own {
        let bytes = AlignedBytes::zeroed(0).map_err(no_memory)?;
        return Ok((bytes, header.index_len == 0 && header.index_crc32 == 0));
    }
    let len = len_usize(header.index_len).ok_or_else(|| no_memory(std::io::ErrorKind::OutOfMemory.into()))?;
    let mut bytes = AlignedBytes::zeroed(len).map_err(no_memory)?;
    let place = frame.base.place(own.start).unwrap_or(u64::MAX);
    let read = file.read_what_can_be(place, &mut bytes);
    let whole = read && is_index_whole(header, &bytes);
    Ok((bytes, whole))
}

/// An index at an offset where one seems to begin, with a header that suits it: nothing vouches for it.
fn find_index(file: &Damaged<'_>, frame: &Frame, at: u64, limits: &Limits) -> Option<Held> {
    let place = frame.base.place(at)?;
    let count = u32::from_le_bytes(file.array::<4>(place)?);
    let mut len = u64::from(count).checked_mul(16)?.checked_add(8)?;
    for number in 0..u64::from(count.min(64)) {
        let entry = place.checked_add(8)?.checked_add(number.checked_mul(16)?)?;
        let section_len = u64::from_le_bytes(file.array::<8>(entry.checked_add(8)?)?);
        len = len.checked_add(section_len)?.checked_next_multiple_of(8)?;
    }
    if len > file.len().checked_sub(place)? || len > limits.max_index_len {
        return None;
    }
    let mut bytes = AlignedBytes::zeroed(len_usize(len)?).ok()?;
    file.read_what_can_be(place, &mut bytes);
    let header = Header {
        minor: 0,
        file_len: at.checked_add(len)?.checked_add(HEADER_LEN_U64)?,
        index_offset: at,
        index_len: len,
        index_crc32: 0,
        alignment_log2: frame.alignment_log2.unwrap_or(6),
        block_log2: frame.block_log2.unwrap_or(layout::DEFAULT_BLOCK_LOG2),
    };
    let sections = Sections::parse(&bytes, &header, limits).ok()?;
    let mut held = Held { header, sections, bytes };
    if frame.block_log2.is_none() {
        // The length of blocks is the one with which the first storage has the CRC that its blocks combine to.
        held.header.block_log2 = (12..=30u8)
            .find(|&log2| {
                held.header.block_log2 = log2;
                let first = held.index().storage(0).ok().flatten();
                first.is_some_and(|first| combine_blocks(first.blocks, first.data_len, log2) == first.crc32)
            })
            .unwrap_or(layout::DEFAULT_BLOCK_LOG2);
    }
    Some(held)
}

fn lost(reason: LossReason, why: impl Into<String>) -> Outcome {
    Outcome::Lost(Loss::new(reason, why))
}

impl Content {
    /// Takes storages and tensors of an index whose checksum is right. Its writer may have broken rules all the same.
    fn take_index(&mut self, index: &Index<'_>, report: &mut SalvageReport) -> Result<()> {
        let header_block_log2 = index.header().block_log2;
        let mut numbers: Vec<Option<u32>> = vec![None; index.storage_count()];
        // Each byte belongs to one storage, and each block: so work and memory are in proportion, whatever the index says.
        let (mut end, mut next_block) = (HEADER_LEN_U64, 0);
        for (number, known) in numbers.iter_mut().enumerate() {
            let entry = u32::try_from(number).ok().map_or(Ok(None), |number| index.storage(number));
            let what = match entry {
                Ok(Some(entry)) if entry.data_offset < end || entry.first_block < next_block => {
                    format!("storage {number} overlaps the one before it")
                }
                Ok(Some(entry)) => {
                    end = entry.place().end;
                    next_block = entry.first_block.saturating_add(entry.blocks.len());
                    if combine_blocks(entry.blocks, entry.data_len, header_block_log2) == entry.crc32 {
                        *known = u32::try_from(self.storages.len()).ok();
                        let vouched = Vouched::Blocks(header_block_log2, entry.blocks.to_vec());
                        self.storages.push(Stored::new(entry.place(), vouched));
                        continue;
                    }
                    format!("the checksums of storage {number} contradict each other")
                }
                Ok(None) => continue,
                Err(e) => e.reason(),
            };
            report.damage(Part::Index, None, what);
        }
        for number in 0..index.tensor_count() {
            let entry = match index.tensor(number) {
                Ok(entry) => entry,
                Err(e) => {
                    match e.tensor() {
                        Some(name) if !self.tensors.contains_key(name) => {
                            report.tensor(name, None, None, lost(LossReason::DescriptionDamaged, e.reason()));
                        }
                        _ => report.damage(Part::Index, None, e.reason()),
                    }
                    continue;
                }
            };
            if self.tensors.contains_key(entry.name) {
                report.damage(Part::Index, None, format!("the name {} is there twice", quoted(entry.name)));
                continue;
            }
            let known = len_usize(entry.storage.into()).and_then(|storage| numbers.get(storage).copied().flatten());
            let Some(storage) = known else {
                let why = "the index contradicts itself about its bytes";
                let outcome = lost(LossReason::Overlap, why);
                report.tensor(entry.name, Some(entry.dtype), Some(entry.shape), outcome);
                continue;
            };
            let tensor = Tensor {
                dtype: entry.dtype,
                shape: entry.shape.to_vec(),
                strides: entry.strides.map(<[u64]>::to_vec),
                storage,
                start: entry.start,
            };
            self.tensors.insert(entry.name.to_owned(), tensor);
        }
        Ok(())
    }

    /// Takes metadata, document and unknown sections: all that is well formed, if a checksum vouches for it or that does not matter.
    fn take_values(&mut self, index: &Index<'_>, vouched: bool, unverified: bool, report: &mut SalvageReport) {
        let taken = |decoded: Result<()>| match decoded {
            Err(e) => ExtraOutcome::broken(e.reason()),
            Ok(()) if vouched => ExtraOutcome::Intact,
            Ok(()) if unverified => ExtraOutcome::Unverified,
            Ok(()) => ExtraOutcome::not_vouched_for("the index is damaged, and nothing else vouches for it"),
        };
        let keep = vouched || unverified;
        if let Some((bytes, _)) = index.metadata() {
            let decoded = value::decode_metadata(bytes);
            report.metadata = taken(decoded.map(|metadata| {
                if keep {
                    self.metadata = metadata;
                }
            }));
        }
        if let Some((bytes, _)) = index.document() {
            let decoded = value::decode_document(bytes);
            report.document = taken(decoded.map(|document| {
                if keep {
                    self.document = Some(document);
                }
            }));
        }
        if keep {
            self.sections = index.unknown_sections().map(|(kind, bytes)| (kind, bytes.to_vec())).collect();
        } else if index.unknown_sections().next().is_some() {
            report.damage(Part::Index, None, "sections that this version does not know are left out");
        }
    }

    /// Takes what a walk found.
    fn take_records(&mut self, walked: Walked, file: &Damaged<'_>, frame: &Frame, report: &mut SalvageReport) {
        let Walked { found, unfinished, .. } = walked;
        let mut by_offset: HashMap<u64, u32> = HashMap::new();
        // A view tells where its storage is, too: for want of the record that introduced it.
        let mut places: Vec<(u64, u64, u32, bool)> = Vec::new();
        for record in &found {
            places.push((record.data_offset, record.data_len, record.data_crc32, record.view));
        }
        places.sort_unstable_by_key(|&(offset, _, _, view)| (offset, view));
        let records: Vec<Range<u64>> = found.iter().map(|record| record.own.clone()).collect();
        let mut end = HEADER_LEN_U64;
        for (offset, len, crc, view) in places {
            if by_offset.contains_key(&offset) {
                continue;
            }
            let own = offset..offset.saturating_add(len);
            // Bytes in which a descriptor was found are no data.
            let next = records.partition_point(|record| record.end <= own.start);
            let holds_record = view && records.get(next).is_some_and(|record| record.start < own.end);
            if own.start < end || holds_record {
                continue;
            }
            end = own.end;
            if let Ok(number) = u32::try_from(self.storages.len()) {
                by_offset.insert(offset, number);
                let mut stored = Stored::new(own, Vouched::Whole(crc));
                stored.only_viewed = view;
                self.storages.push(stored);
            }
        }
        for record in found {
            let Found { name, mut tensor, data_offset, data_len, data_crc32, own, view } = record;
            let place = frame.base.places(&own, file.len());
            let loss = |reason, why: &str| Outcome::Lost(Loss::new(reason, why).at(place.clone()));
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            if self.tensors.contains_key(&name) {
                let what = format!("there is another record of the name {}: the first one counts", quoted(&name));
                report.damage(Part::Record, Some(place), what);
                continue;
            }
            let known = by_offset.get(&data_offset).copied();
            let stored = known.and_then(|number| Some((number, self.storages.get(len_usize(number.into())?)?)));
            let same = stored
                .filter(|(_, stored)| stored.byte_len() == data_len && stored.vouched == Vouched::Whole(data_crc32));
            let Some((number, _)) = same else {
                if view {
                    report.damage(Part::Record, Some(place), view_of_nothing(&name));
                } else {
                    let outcome = loss(LossReason::Overlap, "its bytes would be those of other records");
                    report.tensor(&name, Some(dtype), Some(&shape), outcome);
                }
                continue;
            };
            tensor.storage = number;
            if let Err(e) = catalog::check_tensor(&name, &tensor, data_len) {
                let outcome = loss(LossReason::DescriptionDamaged, &e.reason());
                report.tensor(&name, Some(dtype), Some(&shape), outcome);
                continue;
            }
            self.tensors.insert(name, tensor);
        }
        if let Some(Unfinished { name, mut tensor, data_offset, noted_len, noted_crc32, reach }) = unfinished {
            if self.tensors.contains_key(&name) {
                report.damage(Part::Record, None, format!("the unfinished record {} is there twice", quoted(&name)));
                return;
            }
            let row_len = tensor.shape.get(1..).and_then(|row| layout::row_len(row, tensor.dtype.bits()));
            // A note is of rows one after the other, from the first byte on.
            let row_len = row_len.filter(|_| tensor.start == 0 && tensor.strides.is_none());
            let (Some(row_len), Ok(number)) = (row_len, u32::try_from(self.storages.len())) else {
                let why = "its writer was in the middle of it, and how long its rows are is not known";
                report.tensor(&name, Some(tensor.dtype), None, lost(LossReason::DescriptionDamaged, why));
                return;
            };
            let there = reach.saturating_sub(data_offset);
            let rows = there.checked_div(row_len).unwrap_or(0);
            let own = data_offset..data_offset.saturating_add(rows.saturating_mul(row_len));
            // A note that speaks of more than there is, or of no whole rows, cannot be compared with anything.
            let noted_rows = tensor.shape.first().copied().unwrap_or(0);
            let is_usable = noted_rows.checked_mul(row_len) == Some(noted_len) && noted_rows <= rows;
            let vouched = if is_usable { Vouched::Beginning(noted_len, noted_crc32) } else { Vouched::Beginning(0, 0) };
            if let Some(first) = tensor.shape.first_mut() {
                *first = rows;
            }
            tensor.storage = number;
            self.storages.push(Stored::new(own, vouched));
            self.tensors.insert(name.clone(), tensor);
            self.unfinished = Some((name, row_len));
        }
    }

    /// Gives up views of storages that nothing but views speaks of, and whose checksum is not right: of a file within a tensor of this one, perhaps.
    pub(super) fn drop_mere_views(&mut self, report: &mut SalvageReport) {
        let storages = &self.storages;
        self.tensors.retain(|name, tensor| {
            let stored = len_usize(tensor.storage.into()).and_then(|number| storages.get(number));
            let keep = stored.is_none_or(|stored| !stored.only_viewed || stored.is_intact());
            if !keep {
                report.damage(Part::Record, None, view_of_nothing(name));
                report.may_have_more = true;
            }
            keep
        });
    }

    /// Takes the CRCs of blocks of a damaged index for storages where they combine to the CRC that the storage's own record has: they are
    /// proved by that.
    fn prove_blocks(&mut self, index: &Index<'_>, block_log2: u8) {
        let mut by_offset: HashMap<u64, u32> = HashMap::new();
        for number in (0..index.storage_count()).filter_map(|number| u32::try_from(number).ok()) {
            if let Ok(Some(entry)) = index.storage(number) {
                by_offset.insert(entry.data_offset, number);
            }
        }
        for stored in &mut self.storages {
            let Vouched::Whole(crc) = stored.vouched else { continue };
            let number = by_offset.get(&stored.own.start).copied();
            let Some(Ok(Some(entry))) = number.map(|number| index.storage(number)) else { continue };
            let len = stored.byte_len();
            if entry.data_len == len && entry.blocks.len() > 1 && combine_blocks(entry.blocks, len, block_log2) == crc {
                stored.vouched = Vouched::Blocks(block_log2, entry.blocks.to_vec());
            }
        }
    }
}

/// What is said of a view whose storage is not found. The view is no tensor of the report, for it need not be one of this file.
fn view_of_nothing(name: &str) -> String {
    format!("there is a record of {}, a view of bytes that were not found", quoted(name))
}

/// A record that a walk found, with all that it says.
struct Found {
    name: String,
    tensor: Tensor,
    data_offset: u64,
    data_len: u64,
    data_crc32: u32,
    /// The descriptor.
    own: Range<u64>,
    view: bool,
}

/// A record that its writer was in the middle of.
struct Unfinished {
    name: String,
    tensor: Tensor,
    data_offset: u64,
    /// What the last note says: how much was written, and its CRC.
    noted_len: u64,
    noted_crc32: u32,
    /// Where its data ends at the latest.
    reach: u64,
}

/// What a walk found.
struct Walked {
    found: Vec<Found>,
    unfinished: Option<Unfinished>,
    /// Where an index seems to begin.
    index_at: Option<u64>,
    /// Whether there is a record, or nothing, everywhere.
    complete: bool,
}

fn tensor_of(descriptor: &Descriptor<'_>) -> Tensor {
    let strides = descriptor.strides.filter(|strides| !layout::strides_are_contiguous(descriptor.shape, strides));
    Tensor {
        dtype: descriptor.dtype,
        shape: descriptor.shape.to_vec(),
        strides: strides.map(<[u64]>::to_vec),
        storage: 0,
        start: descriptor.start,
    }
}

impl Walked {
    fn of(file: &Damaged<'_>, frame: &Frame, report: &mut SalvageReport) -> Result<Walked> {
        let end = frame.base.own(file.len()).unwrap_or(0);
        let records = HEADER_LEN_U64..frame.header.map_or(end, |header| header.index_offset).min(end);
        let mut walked = Walked { found: Vec::new(), unfinished: None, index_at: None, complete: true };
        let mut gaps: Vec<(Range<u64>, bool)> = Vec::new();
        let mut covered = records.start;
        let mut walk = Walk::new(file, frame.base, frame.alignment_log2);
        walk.go(records.clone(), true, |step| {
            match step {
                Step::Record { at, len, descriptor } => {
                    let data_end = descriptor.data_offset.saturating_add(descriptor.data_len);
                    let own = at..at.saturating_add(len);
                    covered = covered.max(if descriptor.view { own.end } else { data_end });
                    if descriptor.unfinished && !descriptor.view {
                        walked.unfinished = Some(Unfinished {
                            name: descriptor.name.to_owned(),
                            tensor: tensor_of(&descriptor),
                            data_offset: descriptor.data_offset,
                            noted_len: descriptor.data_len,
                            noted_crc32: descriptor.data_crc32,
                            reach: data_end.min(end),
                        });
                        return Ok(());
                    }
                    walked.found.push(Found {
                        name: descriptor.name.to_owned(),
                        tensor: tensor_of(&descriptor),
                        data_offset: descriptor.data_offset,
                        data_len: descriptor.data_len,
                        data_crc32: descriptor.data_crc32,
                        own,
                        view: descriptor.view,
                    });
                }
                Step::Gap { own, zeros } => {
                    // What follows the data that an unfinished record speaks of is more of it.
                    if let Some(unfinished) = walked.unfinished.as_mut().filter(|open| open.reach == own.start) {
                        unfinished.reach = own.end;
                        covered = covered.max(own.end);
                    } else {
                        gaps.push((own, zeros));
                    }
                }
                Step::Padding { own } => {
                    let places = frame.base.places(&own, file.len());
                    report.damage(Part::Padding, Some(places), NOT_ZERO);
                }
                Step::Index { at } => {
                    walked.index_at.get_or_insert(at);
                }
            }
            Ok(())
        })?;
        // Where the records before it end, or after garbage, there may be an index that no header speaks of.
        let behind = layout::round_up(covered, RECORD_ALIGNMENT).unwrap_or(end);
        if frame.header.is_none() && !frame.provisional {
            let is_there = frame.base.place(behind).and_then(|place| file.array::<16>(place));
            if is_there.is_some_and(|bytes| looks_like_an_index(&bytes)) {
                walked.index_at = Some(behind);
            }
        }
        for (own, zeros) in gaps {
            let places = frame.base.places(&own, file.len());
            let is_index = frame.header.is_none() && walked.index_at.is_some_and(|at| own.contains(&at));
            if zeros {
                walked.complete &= frame.provisional;
                report.damage(Part::Record, Some(places), "there are zeros where records should be");
            } else if is_index {
                let before = own.start..walked.index_at.unwrap_or(own.start);
                let before = frame.base.places(&before, file.len());
                if !before.is_empty() {
                    walked.complete = false;
                    report.damage(Part::Record, Some(before.clone()), "no descriptor is whole there");
                    report.unknown(before);
                }
            } else {
                walked.complete = false;
                report.damage(Part::Record, Some(places.clone()), "no descriptor is whole there");
                report.unknown(places);
            }
        }
        // All records are known only if they reach up to where the index begins.
        walked.complete &=
            frame.header.is_some_and(|header| header.index_offset <= end) && frame.base.0 >= 0 || frame.provisional;
        Ok(walked)
    }
}

/// Tells which descriptors are damaged, and which padding, of a file whose index is whole: nothing is lost by that.
fn compare_records(
    file: &Damaged<'_>,
    frame: &Frame,
    index: &Index<'_>,
    content: &Content,
    report: &mut SalvageReport,
) -> Result<()> {
    let mut order: Vec<&Range<u64>> = content.storages.iter().map(|stored| &stored.own).collect();
    order.sort_by_key(|own| own.start);
    let records_end = index.header().index_offset;
    let starts = order.iter().map(|own| own.start).chain([records_end]);
    let ends = std::iter::once(HEADER_LEN_U64).chain(order.iter().map(|own| own.end));
    let mut described: std::collections::HashSet<String> = std::collections::HashSet::new();
    let mut walk = Walk::new(file, frame.base, frame.alignment_log2);
    let padding = |own: Range<u64>, report: &mut SalvageReport| {
        let places = frame.base.places(&own, file.len());
        report.damage(Part::Padding, Some(places), NOT_ZERO);
    };
    for gap in ends.zip(starts).map(|(from, to)| from..to) {
        let mut introduced = false;
        walk.go(gap, false, |step| {
            match step {
                Step::Record { at, len, descriptor } => {
                    introduced = !descriptor.view;
                    let tensor = content.tensors.get(descriptor.name);
                    let stored = tensor.and_then(|tensor| content.storages.get(len_usize(tensor.storage.into())?));
                    let same = tensor.zip(stored).is_some_and(|(tensor, stored)| {
                        let found = tensor_of(&descriptor);
                        found.dtype == tensor.dtype
                            && found.shape == tensor.shape
                            && found.strides == tensor.strides
                            && found.start == tensor.start
                            && descriptor.data_offset == stored.own.start
                            && descriptor.data_len == stored.byte_len()
                            && !descriptor.unfinished
                    });
                    if same {
                        described.insert(descriptor.name.to_owned());
                    } else {
                        let places = frame.base.places(&(at..at.saturating_add(len)), file.len());
                        let what = format!("the record of {} and the index disagree", quoted(descriptor.name));
                        report.damage(Part::Record, Some(places), what);
                    }
                }
                // Before the descriptor that introduces what follows, that is a damaged one, which is told by name.
                Step::Gap { own, zeros: false } if introduced => padding(own, report),
                Step::Padding { own } => padding(own, report),
                Step::Gap { .. } | Step::Index { .. } => {}
            }
            Ok(())
        })?;
    }
    for name in content.tensors.keys().filter(|name| !described.contains(*name)) {
        report.damage(
            Part::Record,
            None,
            format!("the record of {} is damaged; the index has all that it said", quoted(name)),
        );
    }
    Ok(())
}
