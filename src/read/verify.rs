//! Strict verification: every byte of a file accounted for, and what is damaged named (`spec/format.md` section 10).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::guest::Guest;
use super::open::{Head, read_exact};
use super::parallel;
use super::span::{Span, Spans, block_range};
use super::touched::AtomicSet;
use crate::error::{Error, Result};
use crate::format::checksum::crc32;
use crate::format::descriptor::{self, Descriptor};
use crate::format::header::{DAMAGED_ADVICE, HEADER_LEN_U64, Header};
use crate::format::index::Index;
use crate::format::layout::{self, RECORD_ALIGNMENT};
use crate::format::limits::Limits;
use crate::format::rules::*;
use crate::format::value;
use crate::source::{AlignedBytes, ReadAt, Source};

/// How to verify.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct VerifyOptions<'a> {
    /// How many threads to use; by default as many as the machine has.
    pub threads: usize,
    /// What to accept at most.
    pub limits: Limits,
    /// Called with a number of bytes each time so many more have been checked, from any thread.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        VerifyOptions { threads: parallel::default_threads(), limits: Limits::NONE, progress: None }
    }
}

impl std::fmt::Debug for VerifyOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyOptions")
            .field("threads", &self.threads)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What a strict verification found.
///
/// The file is valid if there are no [`problems`](Report::problems).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The length of the file in bytes.
    pub file_len: u64,
    /// How many tensors the index lists.
    pub tensor_count: u64,
    /// How many storages the index lists.
    pub storage_count: u64,
    /// How many storages have no checksum, in a file of another format: of their bytes nothing can be said.
    pub unchecked_storages: u64,
    /// All that is wrong, in the order of the file; at most [`MAX_PROBLEMS`](Report::MAX_PROBLEMS) of them.
    pub problems: Vec<Error>,
    /// How many problems there are, listed or not.
    pub problem_count: u64,
    /// The tensors whose bytes are damaged, in the order of their names.
    pub damaged: Vec<DamagedTensor>,
}

/// A tensor some of whose bytes are damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedTensor {
    /// Its name.
    pub name: String,
    /// The damaged blocks that it touches, in the order of the storage: all of them, unless many tensors touch the same ones. Then of
    /// some tensors only the first is listed, so that the report does not grow with the product of both numbers.
    pub bad_blocks: Vec<BadBlock>,
}

/// A checksum block whose bytes are not those that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadBlock {
    /// The number of the storage.
    pub storage: u32,
    /// The number of the block within the storage.
    pub block: u64,
    /// The bytes of the file that it is.
    pub bytes: Range<u64>,
}

impl Report {
    /// How many problems are listed at most; a file damaged all over has one for each block.
    pub const MAX_PROBLEMS: usize = 1000;

    /// Whether the file is valid.
    pub fn is_valid(&self) -> bool {
        self.problem_count == 0
    }

    /// Nothing, or the first problem.
    ///
    /// # Errors
    /// The first problem.
    pub fn into_result(self) -> Result<()> {
        self.problems.into_iter().next().map_or(Ok(()), Err)
    }
}

/// Verifies strictly a file, or anything that can be read at positions.
///
/// **Cost**: reads everything once, on several threads, each with a buffer of a few MiB (or of a checksum block, if that is
/// longer); the index is in memory.
///
/// # Errors
/// Only if the source cannot be read, or a limit is exceeded. What is wrong with the content is in the report.
pub fn verify_source(source: &dyn ReadAt, options: &VerifyOptions<'_>) -> Result<Report> {
    let mut report = Report { file_len: super::open::source_len(source)?, ..Report::default() };
    let opened = Head::read(source, &options.limits).and_then(|(header, index_bytes)| {
        let head = Head::parse(header, &index_bytes, &options.limits)?;
        Ok((head, index_bytes))
    });
    let (head, index_bytes) = match opened {
        Ok(opened) => opened,
        Err(e) if e.is_corruption() || e.is_incompatible() => {
            report.problem_count = 1;
            report.problems.push(e);
            return Ok(report);
        }
        Err(e) => return Err(e),
    };
    verify_opened(&head.header, head.index(&index_bytes), Bytes::Read(source), options, report)
}

/// Verifies an open checkpoint.
pub(crate) fn verify_checkpoint(
    header: &Header,
    index: Index<'_>,
    source: &Source,
    options: &VerifyOptions<'_>,
) -> Result<Report> {
    let report = Report { file_len: header.file_len, ..Report::default() };
    let bytes = source.resident().map_or(Bytes::Read(source), Bytes::Resident);
    verify_opened(header, index, bytes, options, report)
}

/// Verifies what can be verified of a file of another format: the storages of which there is a CRC.
pub(crate) fn verify_guest(
    header: &Header,
    index: Index<'_>,
    source: &Source,
    guest: &Guest,
    options: &VerifyOptions<'_>,
) -> Result<Report> {
    const CHUNK: u64 = 1 << 20;
    let findings = Findings::new(index.tensor_count());
    let unchecked = AtomicU64::new(0);
    let nothing = || AlignedBytes::zeroed(0).map_err(|e| Error::io("cannot read", e));
    let bytes = source.resident().map_or(Bytes::Read(source), Bytes::Resident);
    let storages = 0..u32::try_from(index.storage_count()).unwrap_or(u32::MAX);
    parallel::for_each(options.threads, storages, nothing, |buffer, number| {
        let buffer = buffer.as_mut().map_err(|e| Error::new(e.kind(), e.reason()))?;
        let Some(storage) = index.storage(number)? else { return Ok(()) };
        if !guest.checked.contains(number as usize) {
            unchecked.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let place = storage.data_offset..storage.data_offset + storage.data_len;
        let mut hasher = crc32fast::Hasher::new();
        let mut at = place.start;
        while at < place.end {
            let end = place.end.min(at + CHUNK);
            hasher.update(bytes.get(&(at..end), buffer)?);
            at = end;
            if let Some(progress) = options.progress {
                progress(CHUNK.min(storage.data_len));
            }
        }
        let found = hasher.finalize();
        if found != storage.crc32 {
            findings.bad_block(BadBlock { storage: number, block: 0, bytes: place }, storage.crc32, found)?;
        }
        Ok(())
    })?;
    let report = Report {
        file_len: header.file_len,
        tensor_count: index.tensor_count() as u64,
        storage_count: index.storage_count() as u64,
        unchecked_storages: unchecked.into_inner(),
        ..Report::default()
    };
    findings.into_report(header, &index, report)
}

/// Bytes of the file: borrowed, or read into a thread's own buffer.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    Resident(&'a [u8]),
    Read(&'a dyn ReadAt),
}

impl Bytes<'_> {
    fn get<'b>(&'b self, range: &Range<u64>, buffer: &'b mut AlignedBytes) -> Result<&'b [u8]> {
        let beyond = || REC_1.broken("a part of the file lies beyond its end");
        let len = usize::try_from(range.end - range.start).map_err(|_| beyond())?;
        match self {
            Bytes::Resident(all) => {
                let start = usize::try_from(range.start).map_err(|_| beyond())?;
                all.get(start..).and_then(|rest| rest.get(..len)).ok_or_else(beyond)
            }
            Bytes::Read(source) => {
                if buffer.len() < len {
                    *buffer = AlignedBytes::zeroed(len).map_err(|e| Error::io("cannot read", e))?;
                }
                let wanted = &mut buffer[..len];
                read_exact(*source, wanted, range.start)?;
                Ok(wanted)
            }
        }
    }
}

/// What the threads find.
struct Findings {
    count: AtomicU64,
    problems: Mutex<Vec<(u64, Error)>>,
    bad_blocks: Mutex<Vec<BadBlock>>,
    described: AtomicSet,
}

impl Findings {
    fn new(tensor_count: usize) -> Findings {
        Findings {
            count: AtomicU64::new(0),
            problems: Mutex::default(),
            bad_blocks: Mutex::default(),
            described: AtomicSet::new(tensor_count),
        }
    }

    /// Takes a block whose CRC disagrees.
    fn bad_block(&self, bad: BadBlock, expected: u32, found: u32) -> Result<()> {
        self.add(bad.bytes.start, block_damaged(bad.storage, bad.block, &bad.bytes, expected, found))?;
        self.bad_blocks.lock().unwrap_or_else(PoisonError::into_inner).push(bad);
        Ok(())
    }

    fn into_report(self, header: &Header, index: &Index<'_>, mut report: Report) -> Result<Report> {
        report.problem_count = self.count.into_inner();
        let mut problems = self.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        problems.sort_by_key(|(at, _)| *at);
        report.problems = problems.into_iter().map(|(_, e)| e).collect();
        let bad_blocks = self.bad_blocks.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.damaged = damaged_tensors(header, index, bad_blocks)?;
        Ok(report)
    }

    /// Takes a problem, unless it is one of the machine and not of the file.
    fn add(&self, position: u64, e: Error) -> Result<()> {
        if !e.is_corruption() && !e.is_incompatible() {
            return Err(e);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.len() < Report::MAX_PROBLEMS {
            problems.push((position, e));
        }
        Ok(())
    }
}

fn verify_opened(
    header: &Header,
    index: Index<'_>,
    bytes: Bytes<'_>,
    options: &VerifyOptions<'_>,
    mut report: Report,
) -> Result<Report> {
    report.tensor_count = index.tensor_count() as u64;
    report.storage_count = index.storage_count() as u64;
    let findings = Findings::new(index.tensor_count());
    if let Err(e) = index.check() {
        // Nothing in the records can be judged by an index that is wrong in itself.
        findings.add(header.index_offset, e)?;
    } else {
        if let Err(e) = check_values(&index) {
            findings.add(header.index_offset, e)?;
        }
        let nothing = || AlignedBytes::zeroed(0).map_err(|e| Error::io("cannot read", e));
        parallel::for_each(options.threads, Spans::new(header, index), nothing, |buffer, span| {
            let span = span?;
            let buffer = buffer.as_mut().map_err(|e| Error::new(e.kind(), e.reason()))?;
            let data = bytes.get(&span.bytes, buffer)?;
            check_blocks(header, &index, &span, data, &findings)?;
            if let Err((at, e)) = check_records(header, &index, &span, data, &findings.described) {
                findings.add(at, e)?;
            }
            if let Some(progress) = options.progress {
                progress(span.bytes.end - span.bytes.start);
            }
            Ok(())
        })?;
        let count = findings.count.load(Ordering::Relaxed);
        if count == 0 && findings.described.count() != report.tensor_count {
            let missing = (0..index.tensor_count()).find(|&n| !findings.described.contains(n));
            let name = missing.and_then(|n| index.tensor(n).ok()).map_or("", |t| t.name);
            findings.add(header.index_offset, REC_6.broken("no record describes it").with_tensor(name))?;
        }
    }
    findings.into_report(header, &index, report)
}

/// Checks metadata and document: VAL-1 to VAL-6.
pub(crate) fn check_values(index: &Index<'_>) -> Result<()> {
    if let Some((bytes, offset)) = index.metadata() {
        value::decode_metadata(bytes).map_err(|e| at_section(e, offset))?;
    }
    if let Some((bytes, offset)) = index.document() {
        let document = value::decode_document(bytes).map_err(|e| at_section(e, offset))?;
        check_references(index, &document).map_err(|e| e.with_offset(offset))?;
    }
    Ok(())
}

/// Turns an offset within a section into one within the file.
pub(crate) fn at_section(e: Error, section_offset: u64) -> Error {
    let within = e.offset().unwrap_or(0);
    e.with_offset(section_offset.saturating_add(within))
}

/// Checks that the document refers to tensors of the index alone (VAL-4).
pub(crate) fn check_references(index: &Index<'_>, document: &value::Value) -> Result<()> {
    for name in document.tensor_names() {
        if index.find(name)?.is_none() {
            return Err(VAL_4.broken("the document refers to this tensor, which does not exist").with_tensor(name));
        }
    }
    Ok(())
}

fn check_blocks(header: &Header, index: &Index<'_>, span: &Span, data: &[u8], findings: &Findings) -> Result<()> {
    for piece in &span.pieces {
        let Some(storage) = index.storage(piece.storage)? else { continue };
        for block in piece.blocks.clone() {
            let range = block_range(header, &storage, block);
            let at = (range.start - span.bytes.start) as usize;
            let found = crc32(&data[at..at + (range.end - range.start) as usize]);
            let Some(&expected) = storage.blocks.get(block as usize) else { continue };
            if found != expected {
                findings.bad_block(BadBlock { storage: piece.storage, block, bytes: range }, expected, found)?;
            }
        }
    }
    Ok(())
}

/// The error for a block whose CRC disagrees.
#[cold]
pub(crate) fn block_damaged(storage: u32, block: u64, range: &Range<u64>, expected: u32, found: u32) -> Error {
    BLK_1
        .broken(format!(
            "block {block} of storage {storage}, bytes {} to {} of the file, is damaged: \
             its checksum should be {expected:08x} and is {found:08x}",
            range.start, range.end
        ))
        .with_offset(range.start)
        .with_numbers(expected.into(), found.into())
        .with_advice(DAMAGED_ADVICE)
}

/// The tensors that touch damaged blocks.
fn damaged_tensors(header: &Header, index: &Index<'_>, mut bad_blocks: Vec<BadBlock>) -> Result<Vec<DamagedTensor>> {
    if bad_blocks.is_empty() {
        return Ok(Vec::new());
    }
    bad_blocks.sort_by_key(|bad| bad.bytes.start);
    let mut by_storage: BTreeMap<u32, Vec<BadBlock>> = BTreeMap::new();
    for bad in bad_blocks {
        by_storage.entry(bad.storage).or_default().push(bad);
    }
    // As many as tensors that share nothing could have, and a generous number for those that do.
    const SHARED: usize = 10_000;
    let mut room = by_storage.values().map(Vec::len).sum::<usize>().saturating_add(SHARED);
    let mut damaged = Vec::new();
    for number in 0..index.tensor_count() {
        let tensor = index.tensor(number)?;
        let Some(bad) = by_storage.get(&tensor.storage) else { continue };
        let touched = touched_blocks(header, tensor.start, tensor.extent);
        let from = bad.partition_point(|bad| bad.block < touched.start);
        let to = bad.partition_point(|bad| bad.block < touched.end);
        let Some(bad_blocks) = bad.get(from..to).filter(|bad| !bad.is_empty()) else { continue };
        let listed = if bad_blocks.len() <= room { bad_blocks } else { &bad_blocks[..1] };
        room = room.saturating_sub(listed.len());
        damaged.push(DamagedTensor { name: tensor.name.to_owned(), bad_blocks: listed.to_vec() });
    }
    Ok(damaged)
}

/// The blocks of a storage that `len` bytes from `start` touch.
#[inline]
pub(crate) fn touched_blocks(header: &Header, start: u64, len: u64) -> Range<u64> {
    if len == 0 {
        return 0..0;
    }
    start >> header.block_log2..(start + len).div_ceil(header.block_len())
}

/// Walks the descriptors and the padding of a span: REC-1 to REC-8. The error comes with its position.
fn check_records(
    header: &Header,
    index: &Index<'_>,
    span: &Span,
    data: &[u8],
    described: &AtomicSet,
) -> Result<(), (u64, Error)> {
    let mut walk = Walk { header, index, data, begin: span.bytes.start, described, dims: Vec::new() };
    for storage in span.begun.clone() {
        let from = match storage.checked_sub(1) {
            None => HEADER_LEN_U64,
            Some(previous) => walk.data_range(previous).map_err(|e| (span.bytes.start, e))?.end,
        };
        walk.gap(from, Some(storage))?;
    }
    if span.last {
        let from = match (index.storage_count() as u64).checked_sub(1) {
            None => HEADER_LEN_U64,
            Some(previous) => walk.data_range(previous as u32).map_err(|e| (span.bytes.start, e))?.end,
        };
        walk.gap(from, None)?;
    }
    Ok(())
}

struct Walk<'a> {
    header: &'a Header,
    index: &'a Index<'a>,
    data: &'a [u8],
    begin: u64,
    described: &'a AtomicSet,
    dims: Vec<u64>,
}

impl Walk<'_> {
    fn data_range(&self, storage: u32) -> Result<Range<u64>> {
        let entry = self.index.storage(storage)?.ok_or_else(|| REC_7.broken("a storage is missing"))?;
        Ok(entry.data_offset..entry.data_offset + entry.data_len)
    }

    /// The bytes of a range of the file, which lies in the span.
    fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        let start = usize::try_from(range.start.checked_sub(self.begin)?).ok()?;
        self.data.get(start..)?.get(..usize::try_from(range.end.checked_sub(range.start)?).ok()?)
    }

    fn padding(&self, range: Range<u64>) -> Result<(), (u64, Error)> {
        let at = range.start;
        let wrong = |message: &str, at| (at, REC_8.broken(message).with_offset(at));
        let bytes = self.bytes(range).ok_or_else(|| wrong("padding reaches too far", at))?;
        match bytes.iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(i) => Err(wrong("padding between records is not zero", at + i as u64)),
        }
    }

    /// Checks what lies between the end of one storage's data and the beginning of the next, or the index.
    fn gap(&mut self, from: u64, introduces: Option<u32>) -> Result<(), (u64, Error)> {
        let overflow = || (from, REC_1.broken("the position of a record overflows").with_offset(from));
        let next_data = match introduces {
            Some(storage) => Some(self.data_range(storage).map_err(|e| (from, e))?.start),
            None => None,
        };
        let limit = next_data.unwrap_or(self.header.index_offset);
        let mut cursor = layout::round_up(from, RECORD_ALIGNMENT).ok_or_else(overflow)?;
        if cursor > limit {
            return Err((from, REC_1.broken("there is no room for a record").with_offset(from)));
        }
        self.padding(from..cursor)?;
        loop {
            if introduces.is_none() && cursor == limit {
                return Ok(());
            }
            let mut dims = std::mem::take(&mut self.dims);
            let bytes = self.bytes(cursor..limit).ok_or_else(overflow)?;
            let raw = descriptor::parse_fixed(bytes, limit - cursor, cursor).map_err(|e| (cursor, e))?;
            let bytes = &bytes[..raw.descriptor_len as usize];
            let found = descriptor::parse(&raw, bytes, &mut dims, cursor)
                .and_then(|found| self.compare(&found, introduces, cursor).map(|()| found.view));
            let view = found.map_err(|e| (cursor, e))?;
            self.dims = dims;
            let end = cursor + u64::from(raw.descriptor_len);
            if view {
                let next =
                    layout::round_up(end, RECORD_ALIGNMENT).filter(|&next| next <= limit).ok_or_else(overflow)?;
                self.padding(end..next)?;
                cursor = next;
                continue;
            }
            let placed = descriptor::data_offset(cursor, raw.descriptor_len.into(), self.header.alignment_log2);
            if placed != next_data {
                let message = format!("the data of this record is not where the layout puts it, at {placed:?}");
                return Err((cursor, REC_1.broken(message).with_offset(cursor)));
            }
            return self.padding(end..limit);
        }
    }

    /// Compares a descriptor with the index.
    fn compare(&self, found: &Descriptor<'_>, introduces: Option<u32>, cursor: u64) -> Result<()> {
        let broken = |rule: Rule, message: &str| Err(rule.broken(message).with_tensor(found.name).with_offset(cursor));
        if found.unfinished {
            return broken(REC_4, "its record was never finished");
        }
        if !found.view && introduces != Some(found.storage) {
            return broken(REC_7, "its record does not introduce the next storage");
        }
        // Without a storage to come, all have been introduced.
        let introduced = introduces.map_or(self.index.storage_count() as u64, u64::from);
        if found.view && u64::from(found.storage) >= introduced {
            return broken(REC_7, "its record views a storage that comes later");
        }
        let Some(number) = self.index.find(found.name)? else {
            return broken(REC_5, "a record describes it, and the index does not list it");
        };
        let tensor = self.index.tensor(number)?;
        let storage = self.index.storage_of(&tensor)?;
        let same = found.dtype == tensor.dtype
            && found.shape == tensor.shape
            && found.strides == tensor.strides
            && found.storage == tensor.storage
            && found.start == tensor.start
            && found.data_offset == storage.data_offset
            && found.data_len == storage.data_len
            && found.data_crc32 == storage.crc32;
        if !same {
            return broken(REC_5, "its record and the index disagree");
        }
        if !self.described.insert(number) {
            return broken(REC_6, "more than one record describes it");
        }
        Ok(())
    }
}
