//! Strict verification: every byte of a file accounted for, and what is damaged named (`spec/format.md` section 10).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::damage;
use super::guest::Guest;
use super::open::{Head, read_exact};
use super::parallel;
use super::records::check_records;
use super::span::{Span, Spans, block_range};
use super::touched::AtomicSet;
use super::window::{Window, outside};
use crate::error::{Error, Result};
use crate::format::checksum::{self, crc32};
use crate::format::header::{DAMAGED_ADVICE, Header};
use crate::format::index::Index;
use crate::format::len_u64;
use crate::format::limits::Limits;
use crate::format::rules::*;
use crate::format::value;
use crate::source::{AlignedBytes, ReadAt};

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
    /// How many parts a file of another format has, if it says: all records of an archive, whether they hold tensors or not.
    pub part_count: u64,
    /// How many of those have no checksum.
    pub unchecked_parts: u64,
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
/// **Cost**: reads everything once, on several threads, each with a buffer of a few MiB (or of a checksum block, or of the descriptors
/// of all views between two storages, if that is longer); the index is in memory.
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

/// Verifies an open checkpoint, whose data is in a source: in `resident`, if all of it is in memory.
pub(crate) fn verify_checkpoint(
    header: &Header,
    index: Index<'_>,
    source: &dyn ReadAt,
    resident: Option<&[u8]>,
    options: &VerifyOptions<'_>,
) -> Result<Report> {
    let report = Report { file_len: header.file_len, ..Report::default() };
    verify_opened(header, index, resident.map_or(Bytes::Read(source), Bytes::Resident), options, report)
}

/// What the parts of a file of another format turn out to be: see [`GuestIndex::check_parts`](crate::GuestIndex::check_parts).
pub struct Parts<'a> {
    findings: &'a Findings,
    progress: Option<&'a (dyn Fn(u64) + Sync)>,
    count: u64,
    unchecked: u64,
}

impl Parts<'_> {
    /// Takes a part that was compared with its checksum, so many bytes long, and what came of it.
    ///
    /// # Errors
    /// The error, if it is not the file that is at fault: then there is no going on.
    pub fn checked(&mut self, byte_len: u64, outcome: Result<()>) -> Result<()> {
        self.count = self.count.saturating_add(1);
        self.progress.into_iter().for_each(|progress| progress(byte_len));
        match outcome {
            Ok(()) => Ok(()),
            Err(e) => self.findings.add(e.offset().unwrap_or(0), e),
        }
    }

    /// Takes a part that is a storage with a checksum, and so is checked with the storages.
    pub fn storage(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Takes a part that has no checksum.
    pub fn unchecked(&mut self) {
        self.count = self.count.saturating_add(1);
        self.unchecked = self.unchecked.saturating_add(1);
    }
}

impl std::fmt::Debug for Parts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("count", &self.count).field("unchecked", &self.unchecked).finish_non_exhaustive()
    }
}

/// Verifies what can be verified of a file of another format: the storages of which there is a CRC, and what parts it has besides.
pub(crate) fn verify_guest(
    header: &Header,
    index: Index<'_>,
    source: &dyn ReadAt,
    resident: Option<&[u8]>,
    guest: &Guest,
    options: &VerifyOptions<'_>,
) -> Result<Report> {
    const CHUNK: u64 = 1 << 20;
    let findings = Findings::new(index.tensor_count());
    let first_tensors = damage::FirstTensors::default();
    let unchecked = AtomicU64::new(0);
    let nothing = || AlignedBytes::zeroed(0).map_err(|e| Error::io("cannot read", e));
    let bytes = resident.map_or(Bytes::Read(source), Bytes::Resident);
    let storages = 0..u32::try_from(index.storage_count()).unwrap_or(u32::MAX);
    parallel::for_each(options.threads, storages, nothing, |buffer, number| {
        let buffer = buffer.as_mut().map_err(|e| Error::new(e.kind(), e.reason()))?;
        let Some(storage) = index.storage(number)? else { return Ok(()) };
        if let Some(own) = guest.own(number)
            && guest.is_checked(number)
        {
            let mut progress = |piece: &[u8]| {
                options.progress.into_iter().for_each(|progress| progress(len_u64(piece.len())));
                Ok(())
            };
            let Err(e) = own.stream(source, 0..storage.data_len, &mut progress) else { return Ok(()) };
            let at = e.offset().unwrap_or(0);
            findings.add(at, first_tensors.name(&index, number, e))?;
            return findings.bad_storage(number, at);
        }
        if !guest.has_crc(number) {
            unchecked.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let place = storage.place();
        let mut hasher = crc32fast::Hasher::new();
        let mut at = place.start;
        while at < place.end {
            let chunk = at..place.end.min(at.saturating_add(CHUNK));
            hasher.update(bytes.get(&chunk, buffer)?.get(&chunk)?);
            if let Some(progress) = options.progress {
                progress(chunk.end.saturating_sub(at));
            }
            at = chunk.end;
        }
        let found = hasher.finalize();
        if found != storage.crc32 {
            findings.bad_block(BadBlock { storage: number, block: 0, bytes: place }, storage.crc32, found)?;
        }
        Ok(())
    })?;
    let mut parts = Parts { findings: &findings, progress: options.progress, count: 0, unchecked: 0 };
    guest.check_parts(source, &mut parts)?;
    let report = Report {
        file_len: header.file_len,
        tensor_count: len_u64(index.tensor_count()),
        storage_count: len_u64(index.storage_count()),
        unchecked_storages: unchecked.into_inner(),
        part_count: parts.count,
        unchecked_parts: parts.unchecked,
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
    fn get<'b>(&'b self, range: &Range<u64>, buffer: &'b mut AlignedBytes) -> Result<Window<'b>> {
        let bytes = match self {
            Bytes::Resident(all) => Window::new(0, all).get(range)?,
            Bytes::Read(source) => {
                let len = range.end.checked_sub(range.start).and_then(|len| usize::try_from(len).ok());
                let len = len.ok_or_else(|| outside(range))?;
                if buffer.len() < len {
                    *buffer = AlignedBytes::zeroed(len).map_err(|e| Error::io("cannot read", e))?;
                }
                let wanted = buffer.get_mut(..len).ok_or_else(|| outside(range))?;
                read_exact(*source, wanted, range.start)?;
                wanted
            }
        };
        Ok(Window::new(range.start, bytes))
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

    /// Takes a storage that cannot be made from the file.
    fn bad_storage(&self, storage: u32, at: u64) -> Result<()> {
        let bad = BadBlock { storage, block: 0, bytes: at..at };
        self.bad_blocks.lock().unwrap_or_else(PoisonError::into_inner).push(bad);
        Ok(())
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
        keep_first(&mut problems);
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
        problems.push((position, e));
        // Those that come first in the file are kept, whichever thread finds them when.
        if problems.len() >= Report::MAX_PROBLEMS.saturating_mul(2) {
            keep_first(&mut problems);
        }
        Ok(())
    }
}

fn keep_first(problems: &mut Vec<(u64, Error)>) {
    problems.sort_by_key(|(at, _)| *at);
    problems.truncate(Report::MAX_PROBLEMS);
}

fn verify_opened(
    header: &Header,
    index: Index<'_>,
    bytes: Bytes<'_>,
    options: &VerifyOptions<'_>,
    mut report: Report,
) -> Result<Report> {
    report.tensor_count = len_u64(index.tensor_count());
    report.storage_count = len_u64(index.storage_count());
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
            if let Err(e) = check_records(header, &index, &span, data, &findings.described) {
                findings.add(e.offset().unwrap_or(span.bytes.start), e)?;
            }
            if let Some(progress) = options.progress {
                progress(span.byte_len());
            }
            Ok(())
        })?;
        let count = findings.count.load(Ordering::Relaxed);
        if count == 0 && findings.described.count() != report.tensor_count {
            let missing = (0..index.tensor_count()).find(|&n| !findings.described.contains(n));
            let name = missing.and_then(|n| index.tensor(n).ok()).map_or("", |t| t.name);
            let e = REC_6.broken("no record describes it").with_tensor(name).with_offset(header.index_offset);
            findings.add(header.index_offset, e)?;
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
    let mut guess = 0;
    for name in document.tensor_names() {
        let Some(found) = index.find_at(guess, name)? else {
            return Err(VAL_4.broken("the document refers to this tensor, which does not exist").with_tensor(name));
        };
        guess = found.saturating_add(1);
    }
    Ok(())
}

fn check_blocks(header: &Header, index: &Index<'_>, span: &Span, data: Window<'_>, findings: &Findings) -> Result<()> {
    for piece in &span.pieces {
        let Some(storage) = index.storage(piece.storage)? else { continue };
        for (block, expected) in piece.blocks_of(&storage) {
            let bytes = block_range(header, &storage, block);
            let found = crc32(data.get(&bytes)?);
            if found != expected {
                findings.bad_block(BadBlock { storage: piece.storage, block, bytes }, expected, found)?;
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

/// The error for a block whose CRC was found to disagree before.
#[cold]
pub(crate) fn block_known_damaged(storage: u32, block: u64, range: &Range<u64>) -> Error {
    BLK_1
        .broken(format!(
            "block {block} of storage {storage}, bytes {} to {} of the file, was found damaged before",
            range.start, range.end
        ))
        .with_offset(range.start)
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
        let touched = touched_blocks(header, &tensor.range());
        let from = bad.partition_point(|bad| bad.block < touched.start);
        let to = bad.partition_point(|bad| bad.block < touched.end);
        let Some(bad_blocks) = bad.get(from..to).filter(|bad| !bad.is_empty()) else { continue };
        let listed = if bad_blocks.len() <= room { bad_blocks } else { bad_blocks.get(..1).unwrap_or_default() };
        room = room.saturating_sub(listed.len());
        damaged.push(DamagedTensor { name: tensor.name.to_owned(), bad_blocks: listed.to_vec() });
    }
    Ok(damaged)
}

/// The blocks of a storage that a range of it touches.
#[inline]
pub(crate) fn touched_blocks(header: &Header, range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return 0..0;
    }
    range.start >> header.block_log2..checksum::block_count(range.end, header.block_log2)
}
