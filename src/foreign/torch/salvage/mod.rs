//! Salvage of damaged PyTorch checkpoints: what is intact, found though the archive cannot be opened.
//!
//! ```text
//! signs       headers, descriptors, directory entries: all that looks like a part of an archive
//! records     what they add up to        sums   the CRC-32s of many stretches, in one pass
//! names       which record is which      byte_order
//! tensors     from storages to tensors   raw    storages without a pickle     legacy   files from before version 1.6
//! ```
//! PyTorch writes the pickle first, then the storages, and last the directory that it opens a file by: so of a file that was cut off all
//! storages in front of the cut are there, each with its CRC. The pickle is read, and the index made, by the same code as of whole files: it
//! is given other records. A pickle that is damaged is never guessed at.

mod byte_order;
mod legacy;
mod names;
mod raw;
mod readable;
mod records;
mod signs;
mod sums;
mod tensors;

use std::ops::Range;

use super::archive::{Archive, Record, copy_record};
use super::assemble::Assembled;
use super::rebuild::StorageId;
use super::zip::{self, Pickle};
use byte_order::ByteOrder;
use names::{Keys, Names};
use readable::Readable;
use records::{Found, Records, Sum};
use signs::Signs;
use tensors::{Judge, Judged, Meant};

use crate::error::{Error, ErrorKind, Result, quoted};
use crate::read::salvage::{ExtraOutcome, Finding, Guide, Loss, LossReason, Part, SalvageOptions, SalvageReport};
use crate::source::ReadAt;

/// What is left of a PyTorch checkpoint; `None` if nothing of one is there.
///
/// **Cost**: two passes over the file; memory for the pickle, and for what describes the records.
///
/// # Errors
/// [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for tar files from before 0.1.10, and what is too new; [`Limit`](ErrorKind::Limit);
/// [`InvalidInput`](ErrorKind::InvalidInput) if a tensor to be filled has a dtype without such an element; [`Io`](ErrorKind::Io).
pub(crate) fn find(source: &dyn ReadAt, options: &SalvageOptions) -> Result<Option<Finding>> {
    let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    options.limits.check("file length", file_len, options.limits.max_file_len)?;
    let start = crate::read::read_start(source)?;
    if crate::foreign::is_torch_legacy(&start) {
        return legacy::find(source, file_len, options).map(Some);
    }
    if super::tar::first_member(&start).is_some() && super::tar::is_torch(source) {
        let message = "a PyTorch checkpoint from before version 0.1.10, which has no checksums, cannot be salvaged";
        let e = Error::new(ErrorKind::UnsupportedVersion, message);
        return Err(e.with_advice("if it opens at all, convert it"));
    }
    let readable = Readable::new(source);
    let (mut records, damage) = records(&readable, file_len, options)?;
    let unreadable = readable.unreadable();
    for found in &mut records.found {
        if found.sum != Sum::Open && overlaps(&unreadable, found.record.data_offset..found.data_end()) {
            found.sum = Sum::Unreadable;
        }
    }
    let salvage = Salvage { source: &readable, file_len, options, records, damage, unreadable };
    if !salvage.is_checkpoint() {
        return Ok(None);
    }
    let finding = salvage.find()?;
    if let Some(progress) = &options.progress {
        progress(file_len);
    }
    Ok(Some(finding))
}

/// The records of an archive, and why it cannot be opened, or should not be.
fn records(source: &dyn ReadAt, file_len: u64, options: &SalvageOptions) -> Result<(Records, Option<String>)> {
    let (opened, damage) = match Archive::read(source, &options.limits) {
        Ok(archive) if archive.get("data.pkl").is_some() => {
            let what = "a record does not lie where the archive says";
            (Some(of_archive(source, &archive)?), what.to_owned())
        }
        Ok(_) => (None, "the archive's directory has no data.pkl".to_owned()),
        Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Limit) => return Err(e),
        Err(e) => (None, e.reason()),
    };
    let right = |records: &Records| records.found.iter().filter(|found| found.sum == Sum::Right).count();
    match opened {
        Some(opened) if opened.found.iter().all(|found| found.sum != Sum::Wrong) => Ok((opened, None)),
        opened => {
            let signs = Signs::find(source, file_len)?;
            let found = Records::find(source, file_len, &signs)?;
            match opened {
                Some(opened) if right(&opened) >= right(&found) => Ok((opened, None)),
                _ => Ok((found, Some(damage))),
            }
        }
    }
}

/// The records of an archive that can be opened, each with what its CRC says.
fn of_archive(source: &dyn ReadAt, archive: &Archive) -> Result<Records> {
    let mut found = Vec::with_capacity(archive.records().len());
    for record in archive.records() {
        let sum = match copy_record(source, record, &mut std::io::sink()) {
            Ok(()) if record.crc32.is_some() => Sum::Right,
            Ok(()) => Sum::Absent,
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(_) => Sum::Wrong,
        };
        let name = Some(record.name.clone());
        let (at, record) = (record.header_offset, record.clone());
        found.push(Found { local_name: name.clone(), entry_name: name, at, record, sum });
    }
    found.sort_by_key(|found| found.at);
    Ok(Records { found, base: 0, has_directory: true, tail: Vec::new() })
}

/// A damaged archive, and what was found in it.
struct Salvage<'a> {
    source: &'a dyn ReadAt,
    file_len: u64,
    options: &'a SalvageOptions,
    records: Records,
    /// Why it cannot be opened, if it cannot.
    damage: Option<String>,
    /// The bytes that cannot be read.
    unreadable: Vec<Range<u64>>,
}

/// Whether a range has bytes of any of some that are in ascending order.
fn overlaps(ranges: &[Range<u64>], range: Range<u64>) -> bool {
    let first = ranges.get(ranges.partition_point(|one| one.end <= range.start));
    first.is_some_and(|one| one.start < range.end)
}

/// A pickle that was read; and why nothing vouches for it, if so.
struct Read {
    pickle: Pickle,
    doubt: Option<String>,
}

impl Salvage<'_> {
    /// Whether there is anything that only PyTorch's checkpoints have.
    fn is_checkpoint(&self) -> bool {
        let is_storage = |within: &str| {
            let key = names::FOLDERS.iter().find_map(|folder| within.strip_prefix(folder));
            key.is_some_and(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let is_torch = |name: &String| {
            let within = name.split_once('/').map_or(name.as_str(), |(_, within)| within);
            within == "data.pkl" || is_storage(within)
        };
        self.records.found.iter().any(|one| [&one.local_name, &one.entry_name].into_iter().flatten().any(is_torch))
    }

    fn find(mut self) -> Result<Finding> {
        let names = Names::of(&self.records.found, &Keys::default());
        let main = self.pickle(&names, "data.pkl")?;
        let is_program = names.get("constants.pkl").is_some();
        let constants = if is_program { Some(self.pickle(&names, "constants.pkl")?) } else { None };
        let parts = [("data/", Some(&main)), ("constants/", constants.as_ref())];
        let keys = keys(parts.into_iter().filter_map(|(folder, read)| Some((folder, read?.as_ref().ok()?))));
        self.enclose(names.root(), &keys);
        let names = Names::of(&self.records.found, &keys);
        self.check_version(&names)?;
        let order = byte_order::of(self.source, &self.records, &names)?;

        let mut report = SalvageReport::new("torch", self.file_len);
        self.describe(order, &mut report);
        let mut assembled = Assembled::salvaged(if is_program { "zip (torchscript)" } else { "zip" });
        let mut main = main;
        if let Ok(read) = &main
            && let Some(e) = self.tensors(read, None, &names, &keys, order, &mut assembled, &mut report)?
        {
            main = Err(e);
        }
        match &main {
            Ok(read) => {
                report.document = match &read.doubt {
                    None => ExtraOutcome::Intact,
                    Some(_) if self.options.unverified => ExtraOutcome::Unverified,
                    Some(why) => ExtraOutcome::not_vouched_for(why.clone()),
                };
            }
            Err(e) => {
                report.document = ExtraOutcome::broken(e.reason());
                more_lost(Error::new(e.kind(), e.reason()), &mut report);
                raw::storages(self.source, &self.records.found, &names, self.options, &mut assembled, &mut report)?;
            }
        }
        match constants {
            // Without the program's own, what its constants are called would say little.
            Some(Ok(read)) if main.is_ok() => {
                let name = Some(zip::CONSTANTS);
                let broken = self.tensors(&read, name, &names, &keys, order, &mut assembled, &mut report)?;
                broken.into_iter().for_each(|e| more_lost(e, &mut report));
            }
            Some(Err(e)) => more_lost(e, &mut report),
            _ => {}
        }
        let mut guest = assembled.finish(&self.options.limits)?;
        if !matches!(report.document, ExtraOutcome::Intact | ExtraOutcome::Unverified) {
            drop(guest.take_document());
        }
        Ok(Finding { guest, report, layout: None })
    }

    /// Reads a pickle.
    ///
    /// The inner error says why it is lost.
    fn pickle(&self, names: &Names, name: &str) -> Result<Result<Read>> {
        let lost = |what: &str| Ok(Err(Error::new(ErrorKind::Corrupt, format!("{name} {what}"))));
        let Some(named) = names.get(name) else { return lost("is not there any more") };
        let Some(found) = self.records.found.get(named.number) else { return lost("is not there any more") };
        let mut record = found.record.clone();
        name.clone_into(&mut record.name);
        let doubt = match found.sum {
            Sum::Right => named.doubt.map(str::to_owned),
            Sum::Absent => Some("the archive has no CRC-32 of it".to_owned()),
            Sum::Wrong => return lost("is damaged: its CRC-32 differs"),
            Sum::Unreadable => return lost("cannot be read from the disk"),
            Sum::Open => return lost("is damaged: where it ends is not known"),
        };
        let doubt = doubt.map(|why| format!("{name}: {why}"));
        match Pickle::read(self.source, &record, name, &self.options.limits) {
            Ok(pickle) => Ok(Ok(Read { pickle, doubt })),
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Limit) => Err(e),
            Err(e) => lost(&format!("cannot be read: {}", e.reason())),
        }
    }

    /// Drops what lies within storages whose records do not say any more how long they are, though the pickle does.
    fn enclose(&mut self, root: &str, keys: &Keys) {
        let known = |found: &Found| {
            let names = [&found.local_name, &found.entry_name].into_iter().flatten();
            names.filter_map(|name| name.strip_prefix(root)).find_map(|name| {
                let name = name.strip_prefix('/').unwrap_or(name);
                keys.storages.get(name).map(|&(len, _)| (found.record.data_offset, len))
            })
        };
        let open = self.records.found.iter().filter(|found| found.sum == Sum::Open && found.local_name.is_some());
        let stretches: Vec<(u64, u64)> = open.filter_map(known).collect();
        self.records.enclose(&stretches, self.file_len);
    }

    fn check_version(&self, names: &Names) -> Result<()> {
        let named = names.get(".data/version").or_else(|| names.get("version"));
        let Some(found) = named.and_then(|named| self.records.found.get(named.number)) else { return Ok(()) };
        if found.sum != Sum::Right {
            return Ok(());
        }
        match zip::check_version_record(self.source, &found.record) {
            Err(e) if matches!(e.kind(), ErrorKind::UnsupportedVersion | ErrorKind::Io) => Err(e),
            _ => Ok(()),
        }
    }

    /// Adds the tensors of a pickle; gives why it does not mean any, if it was broken before it was damaged.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the file")]
    fn tensors(
        &self,
        read: &Read,
        prefix: Option<&str>,
        names: &Names,
        keys: &Keys,
        order: ByteOrder,
        assembled: &mut Assembled,
        report: &mut SalvageReport,
    ) -> Result<Option<Error>> {
        let folder = if prefix.is_none() { "data/" } else { "constants/" };
        let judge = |key: &str, len: u64| self.judge(&format!("{folder}{key}"), len, names, keys, order);
        let judge = Judge::new(judge, order == ByteOrder::Big, read.pickle.bytes(self.source));
        let rebuilt = match read.pickle.rebuild(&judge) {
            Ok(rebuilt) => rebuilt,
            Err(e) if matches!(e.kind(), ErrorKind::Io | ErrorKind::Limit) => return Err(e),
            Err(e) => return Ok(Some(e)),
        };
        let (said, inflated) = (judge.said(), read.pickle.inflated.clone());
        let meant = Meant { rebuilt, said, prefix, inflated, doubt: read.doubt.clone() };
        tensors::settle(meant, assembled, report, self.options).map(|()| None)
    }

    /// What has become of a storage.
    fn judge(&self, name: &str, len: u64, names: &Names, keys: &Keys, order: ByteOrder) -> Judged {
        let lost = |reason, why: String| Loss::new(reason, why);
        if len == 0 {
            return Judged::Good(super::rebuild::Found::InFile { offset: 0, len: 0, crc32: None });
        }
        // 0, if only its tensors know.
        let number_len = keys.storages.get(name).map_or(0, |&(_, number_len)| number_len);
        let named = names.get(name);
        let Some((named, found)) = named.and_then(|named| Some((named, self.records.found.get(named.number)?))) else {
            let what = format!("its record {} is not there any more", quoted(name));
            return Judged::Lost(match self.is_cut_off() {
                true => lost(LossReason::CutOff, format!("{what}: the file is cut off")),
                false => lost(LossReason::StorageMissing, what),
            });
        };
        let record = &found.record;
        let at = record.data_offset..found.data_end().max(record.data_offset);
        let name = quoted(name);
        let end = record.data_offset.saturating_add(len);
        if found.sum == Sum::Unreadable || overlaps(&self.unreadable, record.data_offset..end) {
            let why = format!("some of the bytes of its record {name} cannot be read");
            return Judged::Lost(lost(LossReason::DataDamaged, why).at(at));
        }
        if found.sum == Sum::Open {
            let left = self.end_of(named.number).saturating_sub(record.data_offset);
            let why = match found.local_name {
                None => format!("the header of its record {name} is damaged"),
                Some(_) if len > left => format!("its record {name} is cut off"),
                Some(_) => format!("what says how long its record {name} is is damaged, and its CRC-32 with it"),
            };
            let is_cut = self.records.found.get(named.number.saturating_add(1)).is_none();
            return match found.local_name {
                None => Judged::Lost(lost(LossReason::DescriptionDamaged, why)),
                Some(_) if len <= left => {
                    let found = super::rebuild::Found::InFile { offset: record.data_offset, len, crc32: None };
                    Judged::Doubtful { found, reason: LossReason::DescriptionDamaged, why }
                }
                Some(_) if is_cut => Judged::Cut { offset: record.data_offset, have: left, why },
                Some(_) => Judged::Lost(lost(LossReason::Overlap, why)),
            };
        }
        if record.len != len {
            let why = format!("its record {name} has {} bytes, and should have {len}", record.len);
            return Judged::Lost(lost(LossReason::DescriptionDamaged, why).at(at));
        }
        let there = zip::found(record);
        let doubt = |reason, why: String| Judged::Doubtful { found: there.clone(), reason, why };
        // What is damaged may not become as many bytes as there were, and then there is nothing to be unverified.
        if found.sum != Sum::Right
            && let Err(e) = copy_record(self.source, &Record { crc32: None, ..record.clone() }, &mut std::io::sink())
        {
            return Judged::Lost(lost(LossReason::DataDamaged, e.reason()).at(at));
        }
        match found.sum {
            Sum::Right => match named.doubt {
                Some(why) => doubt(LossReason::DescriptionDamaged, format!("{name}: {why}")),
                None if order == ByteOrder::Unknown && number_len != 1 => doubt(
                    LossReason::Unverified,
                    "whether its numbers are little-endian is not known any more".to_owned(),
                ),
                None => Judged::Good(there),
            },
            Sum::Absent => doubt(LossReason::Unverified, format!("the archive has no CRC-32 of its record {name}")),
            _ => doubt(LossReason::DataDamaged, format!("its record {name} is damaged: its CRC-32 differs")),
        }
    }

    /// Where what follows a record begins.
    fn end_of(&self, number: usize) -> u64 {
        let next = self.records.found.get(number.saturating_add(1)).map(|next| next.at);
        let tail = self.records.tail.iter().map(|part| part.start).min();
        next.or(tail).unwrap_or(self.file_len)
    }

    /// Whether the file ends before its archive does.
    fn is_cut_off(&self) -> bool {
        !self.records.has_directory
    }

    /// Says what is damaged, and what belongs to nothing.
    fn describe(&self, order: ByteOrder, report: &mut SalvageReport) {
        let Records { found, base, has_directory, tail } = &self.records;
        report.begins_at = Some(*base);
        let Some(damage) = &self.damage else {
            report.guide = Guide::Index;
            report.original_len = Some(self.file_len);
            self.describe_records(report);
            return;
        };
        report.guide = Guide::Records;
        match base {
            1.. => report.damage(Part::File, Some(0..base.unsigned_abs()), "something was put in front of the archive"),
            ..0 => report.damage(Part::File, None, "the beginning of the archive is missing"),
            0 => {}
        }
        if *has_directory {
            report.damage(Part::Index, None, format!("the archive cannot be opened: {damage}"));
        } else {
            let what =
                "the archive's directory is not there any more, and what follows its records: the file was cut off";
            report.damage(Part::Index, Some(self.file_len..self.file_len), what);
        }
        self.describe_records(report);
        if order == ByteOrder::Unknown {
            report.damage(Part::Record, None, "byteorder is lost: whether numbers are little-endian is not known");
        }
        let mut known: Vec<Range<u64>> = found.iter().map(|one| one.at..one.data_end()).collect();
        known.extend(tail.iter().cloned());
        crate::read::salvage::merge(&mut known);
        let mut at = 0;
        for range in known {
            // Between two records may be what follows data.
            if range.start.saturating_sub(at) > records::MAX_DESCRIPTOR_LEN {
                report.unknown(at..range.start);
            }
            at = at.max(range.end);
        }
        if self.file_len.saturating_sub(at) > records::MAX_DESCRIPTOR_LEN {
            report.unknown(at..self.file_len);
        }
    }

    fn describe_records(&self, report: &mut SalvageReport) {
        for range in &self.unreadable {
            report.damage(Part::File, Some(range.clone()), "these bytes cannot be read");
        }
        for one in &self.records.found {
            let Some(name) = one.entry_name.as_ref().or(one.local_name.as_ref()) else {
                let at = one.record.data_offset..one.data_end();
                report.damage(Part::Record, Some(at), "a record whose header is lost: its name is not known");
                continue;
            };
            let Record { data_offset, stored_len, .. } = one.record;
            let part = match name.rsplit_once('.') {
                Some((_, "pkl")) => Part::Pickle,
                _ => Part::Data,
            };
            let name = quoted(name);
            let place = data_offset..data_offset.saturating_add(stored_len);
            match one.sum {
                Sum::Wrong => report.damage(part, Some(place), format!("{name}: its CRC-32 differs")),
                Sum::Open => {
                    let what =
                        format!("{name}: what says where it lies is damaged, or it goes beyond the end of the file");
                    report.damage(Part::Record, Some(one.at..data_offset), what);
                }
                Sum::Right | Sum::Absent | Sum::Unreadable => {}
            }
            match (&one.local_name, &one.entry_name) {
                (None, Some(_)) => {
                    report.damage(Part::Record, Some(one.at..data_offset), format!("{name}: its header is damaged"));
                }
                (Some(local), Some(entry)) if local != entry => {
                    let what = format!("{name}: its header calls it {}", quoted(local));
                    report.damage(Part::Record, Some(one.at..data_offset), what);
                }
                _ => {}
            }
        }
    }
}

/// Notes a pickle that is lost, and whatever tensors it spoke of.
fn more_lost(e: Error, report: &mut SalvageReport) {
    // A record that is damaged has been told already.
    if report.damages.iter().all(|damage| damage.part != Part::Pickle) {
        report.damage(Part::Pickle, None, e.reason());
    }
    report.may_have_more = true;
}

/// The storages that pickles speak of.
fn keys<'p>(parts: impl Iterator<Item = (&'static str, &'p Read)>) -> Keys {
    let mut keys = Keys::default();
    for (folder, read) in parts {
        for id in StorageId::all(&read.pickle.graph) {
            let number_len = id.dtype.map_or(0, super::vocabulary::TorchDType::component_len);
            if let Some(len) = id.byte_len() {
                keys.storages.entry(format!("{folder}{}", id.key)).or_insert((len, number_len));
            }
        }
    }
    keys
}
