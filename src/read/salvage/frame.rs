//! Where a damaged Dolmen file lies among the bytes that there are, and what its header said.

use std::collections::BTreeMap;

use super::bytes::{Base, Damaged, Pages};
use super::report::{Part, SalvageReport};
use super::walk;
use crate::error::{ErrorKind, Result};
use crate::format::checksum::crc32;
use crate::format::descriptor::{DESCRIPTOR_MAGIC, MAX_DESCRIPTOR_LEN};
use crate::format::header::{HEADER_LEN, HEADER_LEN_U64, Header, MAGIC, RawHeader};
use crate::format::limits::Limits;
use crate::format::{len_u64, len_usize};

/// What is known of a damaged file as a whole.
pub(super) struct Frame {
    pub(super) base: Base,
    /// The header of a file that was committed, if a copy of it is whole or could be put together.
    pub(super) header: Option<Header>,
    /// The header of a file that was not.
    pub(super) provisional: bool,
    pub(super) alignment_log2: Option<u8>,
    pub(super) block_log2: Option<u8>,
}

/// A header whose checksum is right.
#[derive(Clone, Copy)]
enum Copy {
    Committed(Header),
    Provisional(Header),
}

impl Copy {
    fn header(&self) -> &Header {
        match self {
            Copy::Committed(header) | Copy::Provisional(header) => header,
        }
    }
}

/// Reads a header, or a trailer: `None` if it is damaged.
///
/// # Errors
/// [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) if it is whole and asks for a newer reader.
fn read_copy(bytes: [u8; HEADER_LEN]) -> Result<Option<Copy>> {
    let raw: RawHeader = bytemuck::cast(bytes);
    if raw.magic != MAGIC {
        return Ok(None);
    }
    if raw.file_len == 0 {
        let header = Header::provisional(raw.alignment_log2, raw.block_log2);
        let is_one =
            header.to_bytes() == bytes && (6..=21).contains(&raw.alignment_log2) && (12..=30).contains(&raw.block_log2);
        return Ok(is_one.then_some(Copy::Provisional(header)));
    }
    match Header::parse(&bytes, raw.file_len, &Limits::NONE) {
        Ok(header) => Ok(Some(Copy::Committed(header))),
        Err(e) if e.kind() == ErrorKind::UnsupportedVersion => Err(e),
        Err(_) => Ok(None),
    }
}

impl Frame {
    fn new(base: Base, copy: Option<&Copy>) -> Frame {
        Frame {
            base,
            header: copy.and_then(|copy| match copy {
                Copy::Committed(header) => Some(*header),
                Copy::Provisional(_) => None,
            }),
            provisional: matches!(copy, Some(Copy::Provisional(_))),
            alignment_log2: copy.map(|copy| copy.header().alignment_log2),
            block_log2: copy.map(|copy| copy.header().block_log2),
        }
    }

    /// Finds the frame of a file; `None` if nothing of a Dolmen file is there. Tells of header and trailer, and of what is before and behind.
    ///
    /// # Errors
    /// [`UnsupportedVersion`](ErrorKind::UnsupportedVersion).
    pub(super) fn find(
        file: &Damaged<'_>,
        report: &mut SalvageReport,
        looked_at: &dyn Fn(u64),
    ) -> Result<Option<Frame>> {
        let first = file.array(0);
        let last_place = file.len().checked_sub(HEADER_LEN_U64).filter(|&place| place >= HEADER_LEN_U64);
        let last = last_place.and_then(|place| file.array(place));
        let at_start = first.map(read_copy).transpose()?.flatten();
        let at_end = last.map(read_copy).transpose();
        // Of a file whose own header is whole, the last bytes may be anything.
        let at_end = if at_start.is_some() { at_end.unwrap_or_default() } else { at_end? }.flatten();
        let frame = match (at_start, at_end) {
            // The usual case, even if the trailer is damaged or cut off.
            (Some(copy @ Copy::Committed(_)), _) => Some(Frame::new(Base(0), Some(&copy))),
            // All but the header itself was written, or the header is damaged.
            (_, Some(copy @ Copy::Committed(header))) if header.file_len == file.len() => {
                Some(Frame::new(Base(0), Some(&copy)))
            }
            // What ends such a file can be a file that is data of it.
            (Some(copy @ Copy::Provisional(_)), _) => Some(Frame::new(Base(0), Some(&copy))),
            (None, at_end) => match first.zip(last).and_then(|(first, last)| mend(first, last, file.len())) {
                Some(header) => Some(Frame::new(Base(0), Some(&Copy::Committed(header)))),
                None => search(file, at_end, looked_at),
            },
        };
        let Some(frame) = frame else {
            // Nothing but the name of the format is left.
            let begins_right = first.is_some_and(|bytes| bytes.starts_with(&MAGIC))
                || file.len() < HEADER_LEN_U64 && file.array::<8>(0) == Some(MAGIC);
            if !begins_right {
                return Ok(None);
            }
            let frame = Frame::new(Base(0), None);
            frame.tell(file, report);
            return Ok(Some(frame));
        };
        frame.tell(file, report);
        Ok(Some(frame))
    }

    /// Tells what is damaged of header and trailer, and what is before and behind the file.
    fn tell(&self, file: &Damaged<'_>, report: &mut SalvageReport) {
        report.begins_at = Some(self.base.0);
        report.original_len = self.header.map(|header| header.file_len);
        report.unfinished = self.provisional;
        let copy_at = |own: u64| {
            let places = self.base.places(&(own..own.saturating_add(HEADER_LEN_U64)), file.len());
            let whole = places.end.saturating_sub(places.start) == HEADER_LEN_U64;
            (places.clone(), whole.then(|| file.array::<HEADER_LEN>(places.start)))
        };
        if let Some(before) = u64::try_from(self.base.0).ok().filter(|&before| before > 0) {
            report.damage(Part::File, Some(0..before), format!("{before} bytes were put before it"));
            report.unknown(0..before);
        }
        if self.base.0 < 0 {
            let missing = self.base.0.unsigned_abs();
            report.damage(Part::File, None, format!("its first {missing} bytes are missing"));
        }
        let Some(header) = self.header else {
            if !self.provisional && self.base.0 >= 0 {
                let (places, _) = copy_at(0);
                report.damage(Part::Header, Some(places), "it is damaged, and so is its copy at the end");
            }
            return;
        };
        if self.base.0 >= 0 {
            let (places, there) = copy_at(0);
            if there.flatten() != Some(header.to_bytes()) {
                let what = if there.flatten().map(read_copy).is_some_and(|copy| matches!(copy, Ok(Some(_)))) {
                    "it was never written: its writer stopped right before"
                } else {
                    "it is damaged; its copy at the end served instead"
                };
                report.damage(Part::Header, Some(places), what);
            }
        }
        let end = self.base.own(file.len()).unwrap_or(0);
        let (places, there) = copy_at(header.file_len.saturating_sub(HEADER_LEN_U64));
        match there {
            Some(bytes) if bytes == Some(header.to_bytes()) => {}
            Some(_) => report.damage(Part::Trailer, Some(places), "it is damaged"),
            None => {
                let missing = header.file_len.saturating_sub(end);
                report.damage(Part::File, None, format!("its last {missing} bytes are missing"));
            }
        }
        if end > header.file_len {
            let place = self.base.place(header.file_len).unwrap_or(0);
            let more = end.saturating_sub(header.file_len);
            report.damage(Part::File, Some(place..file.len()), format!("{more} bytes were put behind it"));
            report.unknown(place..file.len());
        }
    }
}

/// Puts the header together from two copies that are both damaged, but hardly in the same bytes.
///
/// Where they differ either may be right: the header's checksum tells, which is compared with few enough combinations to trust it.
fn mend(first: [u8; HEADER_LEN], last: [u8; HEADER_LEN], file_len: u64) -> Option<Header> {
    const MOST: usize = 8;
    // What every header of this version has, and how long this file is.
    let known = |bytes: [u8; HEADER_LEN]| {
        let mut raw: RawHeader = bytemuck::cast(bytes);
        raw.magic = MAGIC;
        raw.major = crate::format::header::MAJOR;
        raw.required_features = 0;
        raw.file_len = file_len;
        raw.reserved = [0; 14];
        bytemuck::cast::<RawHeader, [u8; HEADER_LEN]>(raw)
    };
    // Something of the file's own must be there, or any 64 bytes could be taken for copies.
    let alike = |bytes: [u8; HEADER_LEN]| known(bytes).iter().zip(bytes).filter(|(known, byte)| *known == byte).count();
    if alike(first).max(alike(last)) < HEADER_LEN.saturating_sub(MOST) {
        return None;
    }
    let (first, last) = (known(first), known(last));
    let differ: Vec<usize> = first.iter().zip(&last).enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
    if differ.len() > MOST {
        return None;
    }
    for combination in 0..1u32 << differ.len() {
        let mut bytes = first;
        for (bit, &at) in differ.iter().enumerate() {
            if combination >> bit & 1 == 1
                && let (Some(byte), Some(other)) = (bytes.get_mut(at), last.get(at))
            {
                *byte = *other;
            }
        }
        if let Ok(Some(Copy::Committed(header))) = read_copy(bytes) {
            return Some(header);
        }
    }
    None
}

/// A descriptor that is whole, somewhere.
struct Hit {
    place: u64,
    len: u64,
    view: bool,
    data_offset: u64,
    data_len: u64,
}

/// What is whole in a file, wherever it is.
struct Scanned {
    /// Headers and trailers, and their places.
    copies: Vec<(u64, Copy)>,
    hits: Vec<Hit>,
}

/// A place where the file may begin, and what speaks for it.
#[derive(Default)]
struct Candidate {
    copy: Option<Copy>,
    /// How many headers and trailers say so.
    copies: u64,
}

/// How many places are looked at closely.
const CANDIDATES: usize = 16;
/// How many headers are remembered, of each kind: the first ones, and the last one.
const HEADERS: usize = 32;

/// Searches all bytes for headers and descriptors, and takes the place that most of them, by the bytes that they describe, agree on.
fn search(file: &Damaged<'_>, at_end: Option<Copy>, looked_at: &dyn Fn(u64)) -> Option<Frame> {
    let Scanned { copies, hits } = scan(file, looked_at);
    let mut candidates: BTreeMap<Base, Candidate> = BTreeMap::new();
    let last = file.len().saturating_sub(HEADER_LEN_U64);
    for (place, copy) in copies.into_iter().chain(at_end.map(|copy| (last, copy))) {
        let mut add = |base: Option<Base>, found: Copy| {
            if let Some(base) = base {
                let Candidate { copy: known, copies } = candidates.entry(base).or_default();
                if !matches!(known, Some(Copy::Committed(_))) {
                    *known = Some(found);
                }
                *copies = copies.saturating_add(1);
            }
        };
        match &copy {
            Copy::Provisional(_) => add(Base::with(0, place), copy),
            Copy::Committed(header) => {
                add(Base::with(0, place), copy);
                add(Base::with(header.file_len.saturating_sub(HEADER_LEN_U64), place), copy);
            }
        }
    }
    // Each descriptor could be in a few places, for its data is where alignment puts it. Only all together tell which.
    let mut weights: BTreeMap<Base, u64> = BTreeMap::new();
    for hit in hits.iter().filter(|hit| !hit.view) {
        for base in bases_of(hit) {
            let weight = weights.entry(base).or_default();
            *weight = weight.saturating_add(hit.len.saturating_add(hit.data_len.min(file.len())));
        }
    }
    let mut heaviest: Vec<(u64, Base)> = weights.into_iter().map(|(base, weight)| (weight, base)).collect();
    heaviest.sort_unstable_by_key(|&(weight, base)| (std::cmp::Reverse(weight), base.0.unsigned_abs()));
    let with_headers: Vec<Base> = candidates.keys().copied().take(2 * HEADERS).collect();
    let others = heaviest.into_iter().take(CANDIDATES).map(|(_, base)| base);
    let bases: std::collections::BTreeSet<Base> = with_headers.into_iter().chain(others).chain([Base(0)]).collect();
    // Of headers that nothing else speaks for, that is the best whose file has most bytes here.
    let overlap = |base: Base, candidate: &Candidate| match &candidate.copy {
        Some(Copy::Committed(header)) => {
            let places = base.places(&(0..header.file_len), file.len());
            places.end.saturating_sub(places.start)
        }
        _ => 0,
    };
    let mut best: Option<((u64, u64), Base)> = None;
    let mut patience = file.len().saturating_mul(2);
    for base in bases {
        let candidate = candidates.entry(base).or_default();
        let weight = (weigh(file, base, candidate, &hits, &mut patience), overlap(base, candidate));
        let better = match best {
            None => weight.0 > 0,
            Some((other_weight, Base(other))) => {
                (weight, std::cmp::Reverse(base.0.unsigned_abs()))
                    > (other_weight, std::cmp::Reverse(other.unsigned_abs()))
            }
        };
        if better {
            best = Some((weight, base));
        }
    }
    if best.is_none() && file.array::<16>(HEADER_LEN_U64).is_some_and(|bytes| walk::looks_like_an_index(&bytes)) {
        // A file without tensors.
        return Some(Frame::new(Base(0), None));
    }
    best.map(|(_, base)| Frame::new(base, candidates.get(&base).and_then(|candidate| candidate.copy.as_ref())))
}

/// How many bytes are described by what agrees with a base: by an index that is whole, or by descriptors. `patience` is how many bytes of
/// indexes may be hashed.
fn weigh(file: &Damaged<'_>, base: Base, candidate: &Candidate, hits: &[Hit], patience: &mut u64) -> u64 {
    let Candidate { copy, copies } = candidate;
    let there = |own: std::ops::Range<u64>| {
        let places = base.places(&own, file.len());
        places.end.saturating_sub(places.start)
    };
    let alignment = copy.as_ref().map(|copy| copy.header().alignment_log2);
    let mut bytes = copies.saturating_mul(HEADER_LEN_U64);
    if let Some(Copy::Committed(header)) = copy
        && header.index_len <= *patience
    {
        *patience = patience.saturating_sub(header.index_len);
        if is_index_there(file, base, header) {
            bytes = bytes.saturating_add(header.index_len);
        }
    }
    // What the data of one record covers is not the data of another.
    let mut covered = 0;
    for hit in hits.iter().filter(|hit| !hit.view) {
        let Some(record) = base.own(hit.place).filter(|&own| own >= covered.max(HEADER_LEN_U64)) else { continue };
        let fits = record.is_multiple_of(crate::format::layout::RECORD_ALIGNMENT)
            && walk::is_in_place(record, hit.len, hit.data_offset, alignment);
        if fits {
            let data = hit.data_offset..hit.data_offset.saturating_add(hit.data_len);
            covered = data.end;
            bytes = bytes.saturating_add(hit.len).saturating_add(there(data));
        }
    }
    bytes
}

/// The places where the file of a descriptor may begin, for the usual alignments.
fn bases_of(hit: &Hit) -> impl Iterator<Item = Base> {
    const STEP: u64 = crate::format::layout::RECORD_ALIGNMENT;
    // Data is aligned to no more than this.
    let alignment_log2 = hit.data_offset.trailing_zeros().min(21);
    let nearest = hit.data_offset.saturating_sub(hit.len) & !(STEP.saturating_sub(1));
    let (place, len, data_offset) = (hit.place, hit.len, hit.data_offset);
    (0..4u64).filter_map(move |steps| {
        let record = nearest.checked_sub(steps.checked_mul(STEP)?)?;
        let gap = data_offset.checked_sub(record.checked_add(len)?)?;
        (record >= HEADER_LEN_U64 && gap < 1 << alignment_log2).then_some(())?;
        Base::with(record, place)
    })
}

/// Finds all headers and descriptors that are whole.
fn scan(file: &Damaged<'_>, looked_at: &dyn Fn(u64)) -> Scanned {
    /// In the middle of both magics.
    const COMMON: &[u8] = b"DOLM";
    const STEP: usize = 128 << 10;
    let mut pages = Pages::new(file);
    let (mut copies, mut hits) = (Vec::new(), Vec::new());
    let (mut dims, mut found) = (Vec::new(), Vec::new());
    let mut patience = file.len().saturating_mul(4).saturating_add(1 << 20);
    let mut at = 0;
    while at < file.len() {
        let bytes = pages.get(at, STEP.saturating_add(COMMON.len()));
        find_all(bytes, COMMON, STEP, &mut found);
        for within in found.drain(..) {
            let place = at.saturating_add(len_u64(within));
            if let Some(start) = place.checked_sub(1)
                && let Some((&bytes, _)) = pages.get(start, HEADER_LEN).split_first_chunk::<HEADER_LEN>()
                // A newer file within this one, or junk: its version says nothing about this file.
                && let Ok(Some(copy)) = read_copy(bytes)
            {
                if copies.len() >= HEADERS {
                    copies.pop();
                }
                copies.push((start, copy));
            }
            let bytes = pages.get(place, MAX_DESCRIPTOR_LEN);
            if bytes.starts_with(&DESCRIPTOR_MAGIC)
                && let Some((len, found)) = walk::read_anywhere(bytes, &mut dims, place, &mut patience)
            {
                hits.push(Hit {
                    place,
                    len,
                    view: found.view,
                    data_offset: found.data_offset,
                    data_len: found.data_len,
                });
            }
        }
        at = at.saturating_add(len_u64(STEP));
        looked_at(len_u64(STEP).min(file.len()));
    }
    Scanned { copies, hits }
}

/// Where a word begins within the first `most` bytes.
fn find_all(bytes: &[u8], word: &[u8], most: usize, found: &mut Vec<usize>) {
    let Some(&first) = word.first() else { return };
    let mut from = 0;
    while let Some(rest) = bytes.get(from..) {
        let Some(next) = rest.iter().position(|&byte| byte == first) else { return };
        let at = from.saturating_add(next);
        if at >= most {
            return;
        }
        if bytes.get(at..).is_some_and(|rest| rest.starts_with(word)) {
            found.push(at);
        }
        from = at.saturating_add(1);
    }
}

/// Whether the index that a header speaks of is there, whole.
fn is_index_there(file: &Damaged<'_>, base: Base, header: &Header) -> bool {
    const PIECE: u64 = 64 << 10;
    let end = header.index_offset.saturating_add(header.index_len);
    let own = header.index_offset..end;
    if base.present(&own, file.len()) != own {
        return false;
    }
    let mut buffer = Vec::new();
    let mut hasher = crc32fast::Hasher::new();
    let mut at = own.start;
    while at < end {
        let len = end.saturating_sub(at).min(PIECE);
        buffer.resize(len_usize(len).unwrap_or(0), 0);
        if !base.place(at).is_some_and(|place| file.read(place, &mut buffer)) {
            return false;
        }
        hasher.update(&buffer);
        at = at.saturating_add(len);
    }
    hasher.finalize() == header.index_crc32
}

/// Whether the checksum of an index is right, of which all bytes are there.
pub(super) fn is_index_whole(header: &Header, index: &[u8]) -> bool {
    len_usize(header.index_len) == Some(index.len()) && crc32(index) == header.index_crc32
}
