//! Reading: [`Checkpoint`], [`TensorView`], and verification.
//!
//! A checkpoint is a [source](crate::source) of bytes, a header, and the places of the sections; everything else is looked up
//! where it lies. `open` does the steps of opening, `tensor` is what users hold, `touched` remembers what has been verified,
//! `span` cuts the file for threads, and `verify` is the strict reader.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod checks;
#[cfg(feature = "feature")]
mod copy;
mod damage;
mod gather;
mod guest;
#[cfg(feature = "fs")]
mod load;
mod open;
mod parallel;
mod records;
pub(crate) mod salvage;
mod span;
mod tensor;
mod touched;
mod verify;
mod window;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
#[cfg(feature = "fs")]
use std::sync::OnceLock;

pub(crate) use checks::Checks;
use checks::Known;
#[cfg(feature = "feature")]
pub(crate) use copy::Scratch;
pub use guest::{Checked, GuestIndex};
#[cfg(feature = "fs")]
pub(crate) use load::{load, read_whole};
pub(crate) use open::read_start;
pub(crate) use parallel::default_threads;
#[cfg(feature = "feature")]
pub(crate) use parallel::for_each;
pub use tensor::{Rows, TensorView};
pub use verify::{BadBlock, DamagedTensor, Parts, Report, VerifyOptions, verify_source};

use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::checksum::crc32;
use crate::format::header::Header;
use crate::format::index::{Index, StorageEntry};
use crate::format::len_usize;
use crate::format::limits::Limits;
use crate::format::value::{self, Value};
use crate::source::{AlignedBytes, ReadAt, Source};
use open::Head;
use window::Window;

/// Bytes from which on the first touch of a range is verified by several threads.
const PARALLEL_LEN: u64 = 16 << 20;
/// So many bytes are verified first, to see how fast they come.
const SAMPLE_LEN: u64 = 1 << 20;

/// An open file of tensors.
///
/// | | bytes | data is checked | use it for |
/// |---|---|---|---|
/// | [`open`](Checkpoint::open) | read into aligned memory | all of it, before it returns | models |
/// | [`map`](Checkpoint::map) | mapped, zero-copy | at first touch | large features; fastest |
/// | [`open_on_demand`](Checkpoint::open_on_demand) | each storage read when touched | at first touch | looking into large files safely |
/// | [`from_bytes`](Checkpoint::from_bytes), [`from_static`](Checkpoint::from_static) | in memory already | at first touch | tests, wasm |
///
/// Opening checks header, trailer and the checksum of the index; looking up a tensor checks its record. What is verified once is
/// remembered. [`verify`](Checkpoint::verify) checks everything, strictly. All methods take `&self`, from any number of
/// threads.
#[derive(Debug)]
pub struct Checkpoint {
    head: Head,
    source: Source,
    /// The index, if the source cannot lend it.
    own_index: Option<AlignedBytes>,
    /// What is special about a file of another format.
    guest: Option<guest::Guest>,
    /// Storages that were read on demand, by number.
    #[cfg(feature = "fs")]
    loaded: OnceLock<Box<[OnceLock<AlignedBytes>]>>,
    /// What was found of the blocks that were touched.
    checks: Checks,
    limits: Limits,
    /// How many threads verify the first touch of a long range.
    threads: usize,
    path: Option<PathBuf>,
}

/// Checks the bytes of a block (BLK-1), which lie at `place` in the file; gives its number among all blocks.
fn check_block(storage: &StorageEntry<'_>, number: u32, block: u64, place: &Range<u64>, bytes: &[u8]) -> Result<usize> {
    let Some((expected, among_all)) = storage.block(block) else { return Err(window::outside(place)) };
    let found = crc32(bytes);
    if found != expected {
        return Err(verify::block_damaged(number, block, place, expected, found));
    }
    Ok(among_all)
}

impl Checkpoint {
    fn new(head: Head, source: Source, own_index: Option<AlignedBytes>, limits: Limits) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            head,
            source,
            own_index,
            guest: None,
            #[cfg(feature = "fs")]
            loaded: OnceLock::new(),
            checks: Checks::new(0),
            limits,
            threads: default_threads(),
            path: None,
        };
        checkpoint.checks = Checks::new(checkpoint.index().block_count());
        checkpoint
    }

    /// Opens a Dolmen file: steps 1 to 7 of reading.
    pub(crate) fn of_source(source: Source, limits: Limits) -> Result<Checkpoint> {
        if let Some(bytes) = source.resident() {
            let head = Head::of_resident(bytes, &limits, |offset, len| source.will_need(offset, len))?;
            return Ok(Checkpoint::new(head, source, None, limits));
        }
        let (header, index) = Head::read(&source, &limits)?;
        let head = Head::parse(header, &index, &limits)?;
        Ok(Checkpoint::new(head, source, Some(index), limits))
    }

    /// Opens a Dolmen file whose structure is read from one source, and whose data is in another, or nowhere.
    pub(crate) fn of_structure(structure: &dyn ReadAt, data: Source, limits: Limits) -> Result<Checkpoint> {
        let (header, index) = Head::read(structure, &limits)?;
        let head = Head::parse(header, &index, &limits)?;
        Ok(Checkpoint::new(head, data, Some(index), limits))
    }

    /// Says which file it stands for: errors name it.
    #[must_use]
    pub fn at_path(mut self, path: impl AsRef<Path>) -> Checkpoint {
        self.path = Some(path.as_ref().to_path_buf());
        self
    }

    pub(crate) fn with_threads(mut self, threads: usize) -> Checkpoint {
        self.threads = threads;
        self
    }

    #[inline]
    pub(crate) fn index(&self) -> Index<'_> {
        if let Some(own) = &self.own_index {
            return self.head.index(own);
        }
        // In range: the header was checked against these bytes.
        let rest = usize::try_from(self.head.header.index_offset)
            .ok()
            .and_then(|offset| self.source.resident()?.get(offset..))
            .unwrap_or_default();
        self.head.index(rest)
    }

    /// The header: version, lengths, alignment.
    pub fn header(&self) -> &Header {
        &self.head.header
    }

    /// The path it was opened at, if it was.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The format of the file: `dolmen`, or that of a guest, such as `safetensors`.
    pub fn format(&self) -> &str {
        self.guest.as_ref().map_or("dolmen", |guest| guest.format)
    }

    /// The version of the format: `1.0`, or what a guest's format has for one.
    pub fn format_version(&self) -> String {
        match &self.guest {
            None => format!("{}.{}", crate::format::header::MAJOR, self.head.header.minor),
            Some(guest) => guest.version.clone(),
        }
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.index().tensor_count()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many storages there are: fewer than tensors if some share one.
    pub fn storage_count(&self) -> usize {
        self.index().storage_count()
    }

    /// The tensor of that name.
    ///
    /// **Cost**: a binary search in the index where it lies; nothing is built, and no data is touched. For a name that is not there, a
    /// look at up to 10,000 names for one that is close; [`get`](Self::get) does without.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), with a name that is close to it if there is one;
    /// [`Malformed`](ErrorKind::Malformed) if its record breaks a rule.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.get(name)?.ok_or_else(|| self.not_found(name))
    }

    /// The tensor of that name, if there is one.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) if its record breaks a rule.
    pub fn get(&self, name: &str) -> Result<Option<TensorView<'_>>> {
        let index = self.index();
        match index.find(name).map_err(|e| self.in_file(e))? {
            Some(number) => self.nth(number).map(Some),
            None => Ok(None),
        }
    }

    /// Tensor number `number` in the order of names.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there are fewer; [`Malformed`](ErrorKind::Malformed) if its record
    /// breaks a rule.
    pub fn nth(&self, number: usize) -> Result<TensorView<'_>> {
        let entry = self.index().tensor(number).map_err(|e| self.in_file(e))?;
        Ok(TensorView::new(self, entry))
    }

    /// All tensors, in ascending order of their names.
    ///
    /// Each is an error of its own if its record breaks a rule.
    pub fn tensors(&self) -> impl DoubleEndedIterator<Item = Result<TensorView<'_>>> + ExactSizeIterator {
        (0..self.len()).map(|number| self.nth(number))
    }

    /// The error for a name that is not there, with one that is close to it: the same but for case, or for what stands before a dot.
    #[cold]
    fn not_found(&self, name: &str) -> Error {
        const LOOKED_AT: usize = 10_000;
        let ends_with = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'));
        let close = self.tensors().flatten().take(LOOKED_AT).map(|tensor| tensor.name()).find(|close| {
            close.eq_ignore_ascii_case(name) || (!name.is_empty() && ends_with(close, name)) || ends_with(name, close)
        });
        let message = close.map_or_else(
            || "there is no tensor of this name".to_owned(),
            |close| format!("there is no tensor of this name; there is one named {}", quoted(close)),
        );
        self.in_file(Error::new(ErrorKind::NotFound, message)).with_tensor(name)
    }

    /// The metadata; empty if there is none.
    ///
    /// **Cost**: decodes it each time.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) if it breaks a rule.
    pub fn metadata(&self) -> Result<BTreeMap<String, Value>> {
        let Some((bytes, offset)) = self.index().metadata() else { return Ok(BTreeMap::new()) };
        value::decode_metadata(bytes).map_err(|e| self.in_file(verify::at_section(e, offset)))
    }

    /// The document: the nested object that the file was saved from, if it has one. Tensors it refers to exist.
    ///
    /// **Cost**: decodes it each time.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) if it breaks a rule.
    pub fn document(&self) -> Result<Option<Value>> {
        let index = self.index();
        let Some((bytes, offset)) = index.document() else { return Ok(None) };
        let document = value::decode_document(bytes)
            .map_err(|e| verify::at_section(e, offset))
            .and_then(|document| verify::check_references(&index, &document).map(|()| document));
        document.map(Some).map_err(|e| self.in_file(e))
    }

    /// The sections of the index that this version does not know: kind and bytes. They are ancillary, or opening had failed.
    pub fn unknown_sections(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.index().unknown_sections()
    }

    /// Checks every rule of the index for every record; reads no data.
    ///
    /// [`open`](Checkpoint::open) and [`verify`](Checkpoint::verify) do it too. **Cost**: one pass over the index.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_index(&self) -> Result<()> {
        self.check_records()?;
        verify::check_values(&self.index()).map_err(|e| self.in_file(e))
    }

    /// Checks the rules of the index but for metadata and document, which [`metadata`](Self::metadata) and [`document`](Self::document)
    /// check: for who is about to look at those anyway.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_records(&self) -> Result<()> {
        // The order that the rules ask for is that of our own writers; a guest was checked when it was read.
        if self.guest.is_some() {
            return Ok(());
        }
        self.index().check().map_err(|e| self.in_file(e))
    }

    /// Verifies strictly: every byte of the file, on all threads of the machine.
    ///
    /// Header, trailer and the CRC of the index were checked when it was opened, and stay as they were then. A checkpoint that was read into
    /// memory is verified there.
    ///
    /// **Cost**: reads everything once. Nothing is remembered as verified, and nothing is kept in memory.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) only. What is wrong with the content is in the report.
    pub fn verify(&self) -> Result<Report> {
        self.verify_with(&VerifyOptions::default())
    }

    /// As [`verify`](Checkpoint::verify), with options. Their limits count for nothing: those it was opened with do.
    ///
    /// # Errors
    /// As [`verify`](Checkpoint::verify).
    pub fn verify_with(&self, options: &VerifyOptions<'_>) -> Result<Report> {
        self.verify_data(&self.source, self.source.resident(), options)
    }

    /// As [`verify_with`](Checkpoint::verify_with), of a checkpoint whose [structure](crate::OpenOptions::open_structure) alone was opened, in
    /// the source that it was opened in.
    ///
    /// # Errors
    /// As [`verify`](Checkpoint::verify).
    pub fn verify_in(&self, source: &dyn ReadAt, options: &VerifyOptions<'_>) -> Result<Report> {
        self.verify_data(source, None, options)
    }

    fn verify_data(&self, source: &dyn ReadAt, resident: Option<&[u8]>, options: &VerifyOptions<'_>) -> Result<Report> {
        let (header, index) = (&self.head.header, self.index());
        let report = match &self.guest {
            None => verify::verify_checkpoint(header, index, source, resident, options),
            Some(guest) => verify::verify_guest(header, index, source, resident, guest, options),
        };
        let mut report = report.map_err(|e| self.in_file(e))?;
        report.problems = report.problems.into_iter().map(|e| self.in_file(e)).collect();
        Ok(report)
    }

    /// What is remembered of its blocks.
    #[cfg(feature = "feature")]
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Whether its bytes can be borrowed without reading them into memory first.
    #[cfg(feature = "feature")]
    pub(crate) fn is_resident(&self) -> bool {
        self.source.resident().is_some()
    }

    /// Begins to bring a range of a storage that is in memory into the processor's cache: the first bytes of each of its pages.
    #[cfg(feature = "feature")]
    #[inline]
    pub(crate) fn prefetch(&self, number: u32, range: &Range<u64>) {
        if let (Some(all), None, Ok(storage)) = (self.source.resident(), self.own(number), self.storage_entry(number))
            && let Ok(bytes) = Window::new(0, all).get(&storage.in_file(range))
        {
            crate::source::prefetch(bytes);
        }
    }

    /// Says in which order its data will be read. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn advise(&self, pattern: crate::source::Pattern) {
        self.source.advise(pattern);
    }

    /// Says that a range of a storage will be read soon, with the blocks that must be verified for it. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn will_need_soon(&self, number: u32, range: Range<u64>, checks: Option<&Checks>) {
        let (None, Ok(storage)) = (self.own(number), self.storage_entry(number)) else { return };
        let mut place = storage.in_file(&range);
        for block in verify::touched_blocks(&self.head.header, &range) {
            let unknown = |checks: &Checks| storage.block(block).is_some_and(|(_, n)| checks.of(n) == Known::Nothing);
            if checks.is_some_and(unknown) {
                let block = span::block_range(&self.head.header, &storage, block);
                place = place.start.min(block.start)..place.end.max(block.end);
            }
        }
        self.source.will_need_soon(place.start, place.end.saturating_sub(place.start));
    }

    /// Says that a range of a storage will not be read again soon, and that what is before it was read already. Best effort.
    #[cfg(feature = "feature")]
    pub(crate) fn forget(&self, number: u32, range: Range<u64>) {
        /// The page cache holds files in pages of up to this length, and gives up none of which a part is to stay: so those that end in the
        /// range go as a whole.
        const LARGEST_PAGE: u64 = 2 << 20;
        if let (None, Ok(storage)) = (self.own(number), self.storage_entry(number)) {
            let place = storage.in_file(&range);
            let start = place.start.saturating_sub(LARGEST_PAGE).max(storage.data_offset);
            self.source.forget(start, place.end.saturating_sub(start));
        }
    }

    /// The limits it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The record of a storage.
    fn storage_entry(&self, number: u32) -> Result<StorageEntry<'_>> {
        let missing = || Error::invalid(format!("there is no storage number {number}"));
        self.index().storage(number)?.ok_or_else(missing)
    }

    /// A range of a storage's bytes, verified or not.
    pub(crate) fn storage_bytes(&self, number: u32, range: Range<u64>, verified: bool) -> Result<&[u8]> {
        let storage = self.storage_entry(number)?;
        let data = self.storage_data(number, &storage)?;
        let bytes = data.get(&range)?;
        if verified {
            self.verify_range(&storage, number, data, &range)?;
        }
        Ok(bytes)
    }

    /// The bytes of a storage, unverified, addressed from its own start.
    fn storage_data(&self, number: u32, storage: &StorageEntry<'_>) -> Result<Window<'_>> {
        if let Some(own) = self.own(number) {
            return Ok(Window::new(0, own.bytes(&self.source)?));
        }
        let bytes = match self.source.resident() {
            Some(all) => Window::new(0, all).get(&storage.place())?,
            #[cfg(feature = "fs")]
            None => self.load_storage(number, storage)?,
            #[cfg(not(feature = "fs"))]
            None => return Err(Error::invalid(format!("storage {number} is not in memory"))),
        };
        Ok(Window::new(0, bytes))
    }

    /// Gives the bytes of a range of a storage piece by piece, verified, and keeps none of them.
    ///
    /// A storage that is in memory is given as it lies; one that is not is read block by block.
    pub(crate) fn stream_storage(
        &self,
        number: u32,
        range: Range<u64>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let storage = self.storage_entry(number)?;
        if let Some(own) = self.own(number) {
            if range.start > range.end || range.end > storage.data_len {
                return Err(window::outside(&range));
            }
            return own.stream(&self.source, range, &mut take);
        }
        #[cfg(feature = "fs")]
        let in_memory = self.source.resident().is_some() || self.is_loaded(number);
        #[cfg(not(feature = "fs"))]
        let in_memory = true;
        if in_memory {
            return take(self.storage_bytes(number, range, true)?);
        }
        if range.start > range.end || range.end > storage.data_len {
            return Err(window::outside(&range));
        }
        let header = &self.head.header;
        let wanted = storage.in_file(&range);
        let mut buffer = Vec::new();
        for block in verify::touched_blocks(header, &range) {
            self.stream_block(number, &storage, block, &wanted, &mut buffer, &mut take)?;
        }
        Ok(())
    }

    /// Gives the part of a block that is `wanted`, having read, and verified, all of it.
    ///
    /// What other threads verified does not count: these bytes are read anew.
    fn stream_block(
        &self,
        number: u32,
        storage: &StorageEntry<'_>,
        block: u64,
        wanted: &Range<u64>,
        buffer: &mut Vec<u8>,
        take: &mut impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        /// Blocks up to this length are given only after their CRC was found right. A longer one (1 GiB is allowed, and a
        /// guest's storage is one block, however long) is given in such pieces, all but the last before it is known.
        const PIECE: u64 = 16 << 20;
        let place = span::block_range(&self.head.header, storage, block);
        let part = wanted.start.max(place.start)..wanted.end.min(place.end);
        let (expected, _) = storage.block(block).ok_or_else(|| window::outside(&place))?;
        let verify = self.has_crc(number);
        let whole = if verify { place.clone() } else { part.clone() };
        let mut give = |piece: &Range<u64>, bytes: &[u8]| {
            let given = piece.start.max(part.start)..piece.end.min(part.end);
            if given.is_empty() { Ok(()) } else { take(Window::new(piece.start, bytes).get(&given)?) }
        };
        let mut hasher = crc32fast::Hasher::new();
        let mut held = whole.start..whole.start;
        while held.end < whole.end {
            give(&held, buffer)?;
            held = held.end..whole.end.min(held.end.saturating_add(PIECE));
            let len = held.end.saturating_sub(held.start);
            buffer.resize(usize::try_from(len).map_err(|_| window::outside(&held))?, 0);
            open::read_exact(&self.source, buffer, held.start)?;
            if verify {
                hasher.update(buffer);
            }
        }
        if verify {
            let found = hasher.finalize();
            if found != expected {
                return Err(verify::block_damaged(number, block, &place, expected, found));
            }
        }
        give(&held, buffer)
    }

    #[cfg(feature = "fs")]
    fn is_loaded(&self, number: u32) -> bool {
        let place = self.loaded.get().and_then(|all| all.get(len_usize(number.into())?));
        place.is_some_and(|place| place.get().is_some())
    }

    /// Reads a storage on demand, once.
    #[cfg(feature = "fs")]
    fn load_storage(&self, number: u32, storage: &StorageEntry<'_>) -> Result<&[u8]> {
        let all = self.loaded.get_or_init(|| (0..self.storage_count()).map(|_| OnceLock::new()).collect());
        let Some(place) = len_usize(number.into()).and_then(|number| all.get(number)) else {
            return Err(Error::invalid(format!("there is no storage number {number}")));
        };
        if let Some(data) = place.get() {
            return Ok(data);
        }
        let no_memory = |e| Error::io("cannot hold the storage in memory", e);
        let len = len_usize(storage.data_len).ok_or_else(|| no_memory(std::io::ErrorKind::OutOfMemory.into()))?;
        let mut data = AlignedBytes::zeroed(len).map_err(no_memory)?;
        open::read_exact(&self.source, &mut data, storage.data_offset)?;
        // If another thread was faster, its bytes stay and these are dropped: both were read from the same file.
        Ok(place.get_or_init(|| data))
    }

    /// Verifies the blocks that a range of a storage touches, unless they were verified before.
    fn verify_range(
        &self,
        storage: &StorageEntry<'_>,
        number: u32,
        data: Window<'_>,
        range: &Range<u64>,
    ) -> Result<()> {
        let header = &self.head.header;
        let blocks = verify::touched_blocks(header, range);
        let numbers = storage.block(blocks.start).zip(len_usize(blocks.end.saturating_sub(blocks.start)));
        if let Some(((_, first), count)) = numbers
            && self.checks.all_whole(first..first.saturating_add(count))
        {
            return Ok(());
        }
        let check = |block: u64| self.check_once(storage, number, block, data);
        if self.threads <= 1 || range.end.saturating_sub(range.start) < PARALLEL_LEN {
            return blocks.into_iter().try_for_each(check);
        }
        let mut rest = blocks;
        let from_disk = self.source.comes_when_touched() && self.comes_slowly(&mut rest, check)?;
        parallel::for_each(if from_disk { 1 } else { self.threads }, rest, || (), |(), block| check(block))
    }

    /// Verifies a block of a storage whose bytes are `data`, unless that was done before; remembers what was found.
    fn check_once(&self, storage: &StorageEntry<'_>, number: u32, block: u64, data: Window<'_>) -> Result<()> {
        let place = span::block_range(&self.head.header, storage, block);
        let Some((_, among_all)) = storage.block(block) else { return Err(window::outside(&place)) };
        loop {
            match self.checks.of(among_all) {
                Known::Whole => return Ok(()),
                Known::Damaged => return Err(verify::block_known_damaged(number, block, &place)),
                Known::Nothing => {}
            }
            // Another thread may be at it, or have just been.
            let Some(claim) = self.checks.claim(among_all) else {
                self.checks.settled(among_all);
                continue;
            };
            let start = storage.data_offset;
            let bytes = data.get(&(place.start.saturating_sub(start)..place.end.saturating_sub(start)))?;
            let checked = check_block(storage, number, block, &place, bytes);
            claim.found(checked.is_ok());
            return checked.map(drop);
        }
    }

    /// Verifies the first blocks of a mapped range, and says whether they came slower than a thread verifies them: from the disk.
    ///
    /// Several threads, each at another place, then look like random access to the system, and it reads ahead too little: one after the
    /// other the bytes come sooner. Two stretches must be slow, for one may have been interrupted.
    fn comes_slowly(&self, blocks: &mut Range<u64>, check: impl Fn(u64) -> Result<()>) -> Result<bool> {
        let log2 = self.head.header.block_log2;
        for _ in 0..2 {
            let sample = blocks.start..blocks.start.saturating_add((SAMPLE_LEN >> log2).max(1)).min(blocks.end);
            let begin = std::time::Instant::now();
            sample.clone().try_for_each(&check)?;
            *blocks = sample.end..blocks.end;
            // A byte in a nanosecond is 1 GB/s.
            let len = sample.end.saturating_sub(sample.start) << log2;
            if begin.elapsed().as_nanos() <= u128::from(len) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn in_file(&self, e: Error) -> Error {
        match &self.path {
            Some(path) => e.with_path(path),
            None => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_and_views_go_between_threads() {
        fn check<T: Send + Sync>() {}
        check::<Checkpoint>();
        check::<TensorView<'_>>();
        check::<Rows<'_>>();
        check::<Error>();
    }
}
