//! The records of a damaged archive: what the signatures in it add up to.
//!
//! ```text
//! claim    bytes of the file are a record: says its header, what follows its data, or the directory's entry
//! found    a claim, or several of the same bytes, and whether their CRC-32 agrees
//! ```
//! A claim is believed as far as its CRC goes. Where none agrees, it takes two that agree on where the record ends, or one and something of
//! the archive that begins there. What begins within a record that was found is part of its data: a checkpoint can lie in a tensor.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::archive::{self, Method, Record, copy_record};
use super::signs::{Descriptor, Entry, Local, Signs};
use super::sums::Sums;
use crate::error::{ErrorKind, Result};
use crate::format::len_u64;
use crate::source::ReadAt;

/// PyTorch's data begins at multiples of this, counted from where the archive begins.
const ALIGNMENT: u64 = 64;
/// From this number on, lengths and offsets are in zip64 fields.
const ZIP64: u64 = 0xFFFF_FFFF;
/// What may lie between a record's data and the next header: what follows data, in any of its forms.
pub(super) const MAX_DESCRIPTOR_LEN: u64 = 24;
/// How many entries at each end of a directory are asked where the archive begins.
const ASKED: usize = 4;

/// What the CRC-32 of a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    /// It agrees.
    Right,
    /// There is none, but where the record ends is known.
    Absent,
    /// It does not agree.
    Wrong,
    /// Some of its bytes cannot be read.
    Unreadable,
    /// Where the record ends is not known, or lies beyond the end of the file: then the length that is claimed for it is in the record.
    Open,
}

/// A record that was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What its own header calls it, if that is there.
    pub(super) local_name: Option<String>,
    /// What the directory calls it.
    pub(super) entry_name: Option<String>,
    /// Where it begins: its header, or if that is lost, its data.
    pub(super) at: u64,
    /// Where it lies, and its CRC-32. It has no name yet.
    pub(super) record: Record,
    pub(super) sum: Sum,
}

impl Found {
    /// Where its data ends, as far as that is known.
    pub(super) fn data_end(&self) -> u64 {
        match self.sum {
            Sum::Open => self.record.data_offset,
            _ => self.record.data_offset.saturating_add(self.record.stored_len),
        }
    }

    /// Whether the directory has it too.
    pub(super) fn is_confirmed(&self) -> bool {
        self.entry_name.is_some()
    }

    /// Whether nothing lies between it and the one behind it. In front of one whose header is lost there may have been others.
    pub(super) fn adjoins(&self, next: &Found) -> bool {
        let has_header = next.local_name.is_some() || next.is_confirmed();
        let gap = next.at.checked_sub(self.data_end()).filter(|_| has_header && self.sum != Sum::Open);
        gap.is_some_and(|gap| gap <= MAX_DESCRIPTOR_LEN)
    }
}

/// The records, in the order of the file.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) found: Vec<Found>,
    /// Where the archive begins: less than 0 if its beginning is missing.
    pub(super) base: i64,
    /// Whether there is something left of the directory.
    pub(super) has_directory: bool,
    /// Where, behind the records, directory and end records are.
    pub(super) tail: Vec<std::ops::Range<u64>>,
}

/// That bytes are a record.
struct Claim {
    data_at: u64,
    stored_len: u64,
    len: u64,
    crc32: u32,
    method: Method,
    /// The entry of the directory that says so.
    entry: Option<usize>,
    /// Whether it says enough without a CRC that agrees.
    credible: bool,
    sum: Sum,
}

impl Records {
    /// Makes records of signatures.
    ///
    /// **Cost**: one pass over the file, and once more what is compressed.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io).
    pub(super) fn find(source: &dyn ReadAt, file_len: u64, signs: &Signs) -> Result<Records> {
        let finder = Finder::new(signs, file_len);
        let mut claims = finder.claims();
        let stretch = |claim: &Claim| claim.data_at..claim.data_at.saturating_add(claim.stored_len);
        let summed = |claim: &Claim| claim.method == Method::Stored && claim.crc32 != 0 && claim.stored_len > 0;
        let sums = Sums::compute(source, claims.iter().filter(|claim| summed(claim)).map(stretch))?;
        for claim in &mut claims {
            claim.sum = match claim.stored_len {
                // Only what comes of it has a CRC: that is computed when it is known that nothing else lies there.
                _ if claim.method == Method::Deflated => Sum::Wrong,
                0 if claim.len == 0 && claim.crc32 == 0 => Sum::Right,
                0 => Sum::Wrong,
                _ if claim.crc32 == 0 => Sum::Absent,
                _ if summed(claim) && sums.of(stretch(claim)) == Some(claim.crc32) => Sum::Right,
                _ => Sum::Wrong,
            };
        }
        let found = finder.found(&claims);
        let mut settled = Settled::default();
        let found = settled.settle(source, file_len, found)?;
        let mut records = Records {
            found,
            base: finder.base,
            has_directory: !finder.directory.is_empty(),
            tail: finder.tail(&settled),
        };
        // Those within a record end an archive that lies in a tensor.
        let ends: Vec<u64> = signs.ends.iter().map(|end| end.at).filter(|&at| !settled.covers(at)).collect();
        records.drop_nested(&ends);
        Ok(records)
    }

    /// Drops what lies within the data of open records whose lengths have become known: where it begins, and how long it is. But only if
    /// the end is one indeed: if something of the archive begins there, or the file ends.
    pub(super) fn enclose(&mut self, stretches: &[(u64, u64)], file_len: u64) {
        let mut within: Vec<std::ops::Range<u64>> = Vec::new();
        for &(data_at, len) in stretches {
            let end = data_at.saturating_add(len);
            let next = self.found.get(self.found.partition_point(|found| found.at < end)).map(|found| found.at);
            let next = next.or(self.tail.first().map(|tail| tail.start)).unwrap_or(file_len.max(end));
            if next.saturating_sub(end) <= MAX_DESCRIPTOR_LEN {
                within.push(data_at..end);
            }
        }
        crate::read::salvage::merge(&mut within);
        self.found.retain(|found| {
            let stretch = within.partition_point(|stretch| stretch.end <= found.at);
            found.is_confirmed() || within.get(stretch).is_none_or(|stretch| found.at < stretch.start)
        });
    }

    /// Drops records of an archive that lies in a tensor whose own record is so damaged that it is not known how far it goes.
    ///
    /// Such are never joined to the record in front of them. They give themselves away by a second pickle, or by an end record behind which
    /// there are further records.
    fn drop_nested(&mut self, ends: &[u64]) {
        let right = self.found.iter().rfind(|found| found.sum == Sum::Right);
        let last_at = right.map_or(0, |found| found.at);
        let mut pickles = 0usize;
        // The end record up to which all is nested.
        let mut nested_until = 0u64;
        let mut kept: Vec<Found> = Vec::with_capacity(self.found.len());
        for found in std::mem::take(&mut self.found) {
            let joined = kept.last().is_none_or(|before| before.adjoins(&found));
            if !joined && !found.is_confirmed() {
                // Without an end record behind a second pickle, all that is left belongs to it.
                let next_end = ends.get(ends.partition_point(|&end| end < found.at)).copied().unwrap_or(u64::MAX);
                if next_end < last_at || (is_pickle(&found) && pickles > 0) {
                    nested_until = nested_until.max(next_end);
                }
            }
            if found.at < nested_until && !found.is_confirmed() {
                continue;
            }
            pickles = pickles.saturating_add(usize::from(is_pickle(&found)));
            kept.push(found);
        }
        self.found = kept;
    }
}

fn is_pickle(found: &Found) -> bool {
    let names = [&found.local_name, &found.entry_name];
    names.into_iter().flatten().any(|name| name == "data.pkl" || name.ends_with("/data.pkl"))
}

/// Puts claims together.
struct Finder<'s> {
    signs: &'s Signs,
    file_len: u64,
    /// The entries of the directory, of the archive that is not within another; and where that begins.
    directory: Vec<&'s Entry>,
    base: i64,
    /// Headers by where they are, and by where the data behind them begins.
    by_place: HashMap<u64, usize>,
    by_data: HashMap<u64, usize>,
}

/// The place that a number of bytes behind where an archive begins.
fn place(base: i64, offset: u64) -> Option<u64> {
    u64::try_from(i64::try_from(offset).ok()?.checked_add(base)?).ok()
}

impl<'s> Finder<'s> {
    fn new(signs: &'s Signs, file_len: u64) -> Finder<'s> {
        let mut by_place = HashMap::with_capacity(signs.locals.len());
        let mut by_data = HashMap::with_capacity(signs.locals.len());
        for (number, local) in signs.locals.iter().enumerate() {
            by_place.insert(local.at, number);
            // One behind which others begin before its data does is damaged, or claims too much. Of several the one that lies closest.
            let next = signs.locals.get(number.saturating_add(1));
            if next.is_none_or(|next| next.at >= local.data_at) {
                by_data.insert(local.data_at, number);
            }
        }
        let first = signs.locals.first().map_or(0, |local| local.at);
        let base = i64::try_from(first).unwrap_or(0);
        let mut finder = Finder { signs, file_len, directory: Vec::new(), base, by_place, by_data };
        finder.find_directory();
        finder
    }

    /// Finds which entries are those of the outermost archive, and where it begins.
    fn find_directory(&mut self) {
        let mut names: HashMap<&str, (u64, u64)> = HashMap::new();
        for local in &self.signs.locals {
            names.entry(&local.name).and_modify(|(_, last)| *last = local.at).or_insert((local.at, local.at));
        }
        let mut best: Option<(i64, &[Entry])> = None;
        let mut unmatched: Option<(i64, &[Entry])> = None;
        let is_between = |before: &Entry, entry: &Entry| {
            let local = self.signs.locals.partition_point(|local| local.at < before.at);
            let end = self.signs.ends.partition_point(|end| end.at < before.at);
            self.signs.locals.get(local).is_some_and(|local| local.at < entry.at)
                || self.signs.ends.get(end).is_some_and(|end| end.at < entry.at)
        };
        for group in self.signs.entries.chunk_by(|before, entry| !is_between(before, entry)) {
            let (base, score) = self.base_of(group, &names);
            // Of an archive within a tensor, something lies in front.
            match base.filter(|&base| base <= self.base) {
                Some(base) if score > 0 && best.is_none_or(|(known, _)| base <= known) => best = Some((base, group)),
                Some(base) if score == 0 => unmatched = Some((base, group)),
                _ => {}
            }
        }
        if let Some((base, group)) = best.or(unmatched) {
            self.base = base;
            self.directory = group.iter().collect();
        }
    }

    /// Where the archive begins that these entries are of, and how many headers are where they would be then.
    fn base_of(&self, group: &[Entry], names: &HashMap<&str, (u64, u64)>) -> (Option<i64>, usize) {
        let mut asked: Vec<i64> = Vec::new();
        let end = group.last().map_or(0, |entry| entry.end);
        let behind = self.signs.ends.partition_point(|sign| sign.at < end);
        asked.extend(self.signs.ends.iter().skip(behind).take(2).filter_map(|sign| sign.base));
        let outer = group.iter().take(ASKED).chain(group.iter().rev().take(ASKED));
        for entry in outer {
            let Some(&(first, last)) = names.get(entry.record.name.as_str()) else { continue };
            let offset = i64::try_from(entry.record.header_offset).unwrap_or(i64::MAX);
            let bases = [first, last].map(|at| i64::try_from(at).ok().and_then(|at| at.checked_sub(offset)));
            asked.extend(bases.into_iter().flatten());
        }
        let score = |base: i64| {
            let is_there = |entry: &&Entry| {
                let at = place(base, entry.record.header_offset);
                let local = at.and_then(|at| self.by_place.get(&at)).and_then(|&local| self.signs.locals.get(local));
                local.is_some_and(|local| local.name == entry.record.name)
            };
            group.iter().filter(is_there).count()
        };
        let mut best = (None, 0);
        for base in asked {
            let score = score(base);
            if best.0.is_none() || score > best.1 {
                best = (Some(base), score);
            }
        }
        best
    }

    /// All that is said of where records are.
    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mut push = |data_at: u64, numbers: (u32, u64, u64), method, entry, credible| {
            let (crc32, stored_len, len) = numbers;
            let is_inside = data_at.checked_add(stored_len).is_some_and(|end| end <= self.file_len);
            if is_inside && (method == Method::Deflated || stored_len == len) {
                claims.push(Claim { data_at, stored_len, len, crc32, method, entry, credible, sum: Sum::Open });
            }
        };
        for descriptor in &self.signs.descriptors {
            let Descriptor { at, crc32, stored_len, len } = *descriptor;
            let data_at = at.saturating_sub(stored_len);
            let owner = self.owner(data_at);
            let method = owner.map_or(Method::Stored, |local| local.method);
            // Without a header, something must follow it.
            let ends = [16, MAX_DESCRIPTOR_LEN].map(|own_len| at.saturating_add(own_len));
            let is_followed = owner.is_some() || ends.into_iter().any(|end| self.begins_at(end));
            push(data_at, (crc32, stored_len, len), method, None, is_followed);
        }
        for (number, local) in self.signs.locals.iter().enumerate() {
            if let Some((crc32, stored_len, len)) = local.numbers
                && self.by_data.get(&local.data_at) == Some(&number)
            {
                let end = local.data_at.saturating_add(stored_len);
                push(local.data_at, (crc32, stored_len, len), local.method, None, self.begins_at(end));
            }
        }
        let mut offsets: Vec<u64> = self.directory.iter().map(|entry| entry.record.header_offset).collect();
        offsets.sort_unstable();
        for (number, entry) in self.directory.iter().enumerate() {
            let record = &entry.record;
            let numbers = (record.crc32.unwrap_or(0), record.stored_len, record.len);
            if let Some(local) = self.local_of(entry) {
                // If the header says wrongly where its data begins, nothing follows where it would end.
                let end = local.data_at.saturating_add(record.stored_len);
                let ends = [0, 16, MAX_DESCRIPTOR_LEN].map(|own_len| end.saturating_add(own_len));
                let is_followed = ends.into_iter().any(|end| self.begins_at(end));
                push(local.data_at, numbers, record.method, Some(number), is_followed);
            }
            for data_at in self.guesses(entry, &offsets) {
                push(data_at, numbers, record.method, Some(number), false);
            }
        }
        claims
    }

    /// The header where an entry says that it is.
    fn local_of(&self, entry: &Entry) -> Option<&'s Local> {
        let at = place(self.base, entry.record.header_offset)?;
        self.by_place.get(&at).and_then(|&local| self.signs.locals.get(local))
    }

    /// The header that data belongs to which begins here.
    fn owner(&self, data_at: u64) -> Option<&'s Local> {
        self.by_data.get(&data_at).and_then(|&local| self.signs.locals.get(local))
    }

    /// Where the data of an entry may begin, if its header is damaged: as PyTorch and as others write it, and as far in front of the next
    /// record as it is long.
    fn guesses(&self, entry: &Entry, offsets: &[u64]) -> Vec<u64> {
        let Record { header_offset, stored_len, .. } = entry.record;
        let unpadded =
            header_offset.saturating_add(archive::LOCAL_LEN).saturating_add(len_u64(entry.record.name.len()));
        let mut long = if stored_len >= ZIP64 { 16u64 } else { 0 };
        long = long.saturating_add(if header_offset >= ZIP64 { 8 } else { 0 });
        long = long.saturating_add(if long > 0 { 4 } else { 0 });
        let padded = unpadded.saturating_add(long).saturating_add(4).checked_next_multiple_of(ALIGNMENT);
        let mut guesses: Vec<u64> =
            [Some(unpadded), padded].into_iter().flatten().filter_map(|offset| place(self.base, offset)).collect();
        let next = offsets.get(offsets.partition_point(|&offset| offset <= header_offset));
        let next = match next {
            Some(&offset) => place(self.base, offset),
            None => self.directory.first().map(|entry| entry.at),
        };
        let lens = [0, 16, MAX_DESCRIPTOR_LEN];
        guesses.extend(
            lens.into_iter().filter_map(|len| next?.checked_sub(len)?.checked_sub(stored_len)).collect::<Vec<u64>>(),
        );
        guesses
    }

    /// Whether some part of an archive begins here, or the file ends.
    fn begins_at(&self, at: u64) -> bool {
        at == self.file_len
            || self.by_place.contains_key(&at)
            || self.signs.descriptors.binary_search_by_key(&at, |descriptor| descriptor.at).is_ok()
            || self.signs.entries.binary_search_by_key(&at, |entry| entry.at).is_ok()
    }

    /// Puts claims on the same bytes together.
    fn found(&self, claims: &[Claim]) -> Vec<Found> {
        // Of claims that agree with the bytes the longest, of others the first that says enough.
        let mut right: HashMap<u64, usize> = HashMap::new();
        let mut credible: HashMap<u64, usize> = HashMap::new();
        let mut entries: HashMap<u64, usize> = HashMap::new();
        let mut entry_data: HashMap<usize, u64> = HashMap::new();
        for (number, claim) in claims.iter().enumerate() {
            if claim.sum == Sum::Right {
                let known = right.entry(claim.data_at).or_insert(number);
                if claims.get(*known).is_some_and(|other| other.stored_len < claim.stored_len) {
                    *known = number;
                }
            } else if claim.credible {
                let known = credible.entry(claim.data_at).or_insert(number);
                // The directory's word counts more.
                if claim.entry.is_some() && claims.get(*known).is_some_and(|other| other.entry.is_none()) {
                    *known = number;
                }
            }
        }
        for claim in claims {
            let Some(entry) = claim.entry else { continue };
            let is_right = claim.sum == Sum::Right
                && right.get(&claim.data_at).and_then(|&n| claims.get(n)).is_some_and(|n| n.len == claim.len);
            if is_right && claim.len > 0 {
                entries.entry(claim.data_at).or_insert(entry);
                entry_data.entry(entry).or_insert(claim.data_at);
            }
        }
        let mut moved: HashSet<u64> = HashSet::new();
        let mut local_names: HashMap<u64, (&str, u64)> = HashMap::new();
        for (number, entry) in self.directory.iter().enumerate() {
            let Some(local) = self.local_of(entry) else { continue };
            let is_owner = self.owner(local.data_at).is_some_and(|owner| owner.at == local.at);
            match entry_data.get(&number) {
                // Its header says wrongly where its data begins.
                Some(&data_at) if data_at != local.data_at => {
                    if is_owner {
                        moved.insert(local.data_at);
                    }
                    local_names.insert(data_at, (&local.name, local.at));
                }
                Some(_) => {}
                None if !is_owner => {}
                None => {
                    entries.entry(local.data_at).or_insert(number);
                    entry_data.insert(number, local.data_at);
                }
            }
        }
        let mut places: Vec<u64> = right.keys().chain(credible.keys()).copied().collect();
        places.extend(self.by_data.keys());
        places.sort_unstable();
        places.dedup();
        let mut found = Vec::with_capacity(places.len());
        for data_at in places {
            let claim = right.get(&data_at).or_else(|| credible.get(&data_at)).and_then(|&claim| claims.get(claim));
            let local = self.owner(data_at);
            let entry = entries.get(&data_at).and_then(|&entry| self.directory.get(entry));
            let is_right = claim.is_some_and(|claim| claim.sum == Sum::Right);
            if moved.contains(&data_at) && !is_right {
                continue;
            }
            let local_name = local_names.get(&data_at).copied().or(local.map(|local| (local.name.as_str(), local.at)));
            let claimed = entry.map(|entry| entry.record.stored_len).or(local.and_then(|l| Some(l.numbers?.1)));
            found.push(self.one(data_at, claim, local_name, entry.copied(), claimed));
        }
        // What only the directory knows of.
        for (number, entry) in self.directory.iter().enumerate() {
            if !entry_data.contains_key(&number)
                && let Some(at) = place(self.base, entry.record.header_offset).filter(|&at| at < self.file_len)
            {
                found.push(self.one(at, None, None, Some(entry), Some(entry.record.stored_len)));
            }
        }
        found
    }

    fn one(
        &self,
        data_at: u64,
        claim: Option<&Claim>,
        local: Option<(&str, u64)>,
        entry: Option<&Entry>,
        claimed: Option<u64>,
    ) -> Found {
        let entry_at = entry.and_then(|entry| place(self.base, entry.record.header_offset));
        let at = local.map(|(_, at)| at).or(entry_at.filter(|&at| at <= data_at)).unwrap_or(data_at);
        let stored_len = claim.map_or(claimed.unwrap_or(0), |claim| claim.stored_len);
        let record = Record {
            name: String::new(),
            header_offset: at,
            data_offset: data_at,
            stored_len,
            len: claim.map_or(stored_len, |claim| claim.len),
            crc32: claim.filter(|claim| claim.crc32 != 0 || claim.len == 0).map(|claim| claim.crc32),
            method: claim.map_or(Method::Stored, |claim| claim.method),
        };
        let sum = claim.map_or(Sum::Open, |claim| claim.sum);
        let local_name = local.map(|(name, _)| name.to_owned());
        Found { local_name, entry_name: entry.map(|entry| entry.record.name.clone()), at, record, sum }
    }

    /// The parts of the file that are the directory and its end records.
    fn tail(&self, settled: &Settled) -> Vec<std::ops::Range<u64>> {
        let mut tail: Vec<_> = self.directory.iter().map(|entry| entry.at..entry.end).collect();
        let from = self.directory.last().map_or(u64::MAX, |entry| entry.end);
        let ends = self.signs.ends.iter().filter(|end| end.at >= from && !settled.covers(end.at));
        tail.extend(ends.map(|end| end.at..end.end.min(self.file_len)));
        tail
    }
}

/// Which bytes of the file are records, without any two that overlap.
#[derive(Default)]
struct Settled {
    /// First byte to last.
    taken: BTreeMap<u64, u64>,
}

impl Settled {
    fn covers(&self, at: u64) -> bool {
        self.taken.range(..=at).next_back().is_some_and(|(_, &end)| at < end)
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.covers(start) || self.taken.range(start..end).next().is_some()
    }

    /// Decides between records that overlap: those that are in the directory and agree with their CRC come first, and of others the one
    /// that begins first.
    fn settle(&mut self, source: &dyn ReadAt, file_len: u64, mut found: Vec<Found>) -> Result<Vec<Found>> {
        found.sort_by_key(|found| (found.record.data_offset, std::cmp::Reverse(found.record.stored_len), found.at));
        // What is compressed is read for its CRC: all together no more often than the file is long, a few times over.
        let mut may_read = file_len.saturating_mul(4);
        let mut kept: Vec<Found> = Vec::with_capacity(found.len());
        let rank = |found: &Found| match (found.is_confirmed(), found.sum) {
            (true, Sum::Right) => 0,
            (true, Sum::Absent | Sum::Wrong) => 1,
            (false, Sum::Right | Sum::Absent | Sum::Wrong) => 2,
            (_, Sum::Open | Sum::Unreadable) => 3,
        };
        for round in 0..4 {
            for mut one in found.extract_if(.., |found| rank(found) == round) {
                let (start, end) = (one.record.data_offset, one.data_end());
                if self.covers(one.at) {
                    // Within another. The directory's are lost rather than forgotten.
                    if one.is_confirmed() {
                        one.sum = Sum::Open;
                        kept.push(one);
                    }
                    continue;
                }
                if one.record.method == Method::Deflated && one.sum == Sum::Wrong {
                    may_read = check_deflated(source, &mut one, may_read)?;
                }
                if end > start && self.overlaps(start, end) {
                    one.sum = Sum::Open;
                } else if end > start {
                    self.taken.insert(start, end);
                }
                kept.push(one);
            }
        }
        kept.sort_by_key(|found| (found.at, found.record.data_offset));
        Ok(kept)
    }
}

/// Inflates a record to see whether its CRC agrees; gives how much may be read after it.
fn check_deflated(source: &dyn ReadAt, found: &mut Found, may_read: u64) -> Result<u64> {
    let Some(left) = may_read.checked_sub(found.record.stored_len) else { return Ok(may_read) };
    match copy_record(source, &found.record, &mut std::io::sink()) {
        Ok(()) if found.record.crc32.is_some() => found.sum = Sum::Right,
        Ok(()) => found.sum = Sum::Absent,
        Err(e) if e.kind() == ErrorKind::Io => return Err(e),
        Err(_) => {}
    }
    Ok(left)
}
