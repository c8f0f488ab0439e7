//! The directory of a ZIP archive, read strictly.
//!
//! ```text
//! local header │ name │ extra │ data │ data descriptor      for each record
//! central directory: an entry for each record
//! zip64 end record, zip64 locator                           if there is one
//! end record │ comment                                      to the last byte of the file
//! ```
//! Two readers must not see two files: where the local header and the directory disagree, names differ only in case, or records
//! overlap, the archive is refused.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::made::damaged;
use super::wrong;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::foreign::positioned::Positioned;
use crate::format::limits::Limits;
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

pub(super) const END_LEN: u64 = 22;
pub(super) const LOCATOR_LEN: u64 = 20;
pub(super) const END64_LEN: u64 = 56;
const CENTRAL_LEN: usize = 46;
pub(super) const LOCAL_LEN: u64 = 30;
const MAX_COMMENT_LEN: u64 = 0xFFFF;

pub(super) const END: [u8; 4] = *b"PK\x05\x06";
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
pub(super) const END64: [u8; 4] = *b"PK\x06\x06";
pub(super) const CENTRAL: [u8; 4] = *b"PK\x01\x02";
pub(super) const LOCAL: [u8; 4] = *b"PK\x03\x04";
pub(super) const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";

/// Flags: CRC and lengths follow the data; names are UTF-8. Those of the level of deflate mean nothing to a reader.
pub(super) const HAS_DESCRIPTOR: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;
const DEFLATE_LEVEL: u16 = 0b110;
const ENCRYPTED: u16 = 1;

/// An extra field of zip64 numbers.
const ZIP64_EXTRA: u16 = 1;
/// What stands for a number that is among those.
const IN_EXTRA: u32 = u32::MAX;
const NOT_IN_EXTRA: &str = "a number should be in its zip64 field, and is not";
/// Deflate makes no more than this of a byte.
const MAX_RATIO: u64 = 1032;
/// How much is read around a local header: with PyTorch's padding it is seldom longer.
const LOCAL_READ_LEN: u64 = 160;

const DISTRUST: &str = "do not trust where this file came from";

/// How the data of a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflated,
}

/// A record of an archive.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The whole name; [`Archive::get`] takes it without the root.
    pub(super) name: String,
    pub(super) header_offset: u64,
    pub(super) data_offset: u64,
    pub(super) stored_len: u64,
    pub(super) len: u64,
    /// `None` for 0 on a record that is not empty: so PyTorch writes that it did not compute one.
    pub(super) crc32: Option<u32>,
    pub(super) method: Method,
}

/// The records of an archive.
#[derive(Debug)]
pub(super) struct Archive {
    root: String,
    records: Vec<Record>,
    by_name: HashMap<String, usize>,
}

impl Archive {
    /// Reads the directory, and the local header of every record.
    ///
    /// **Cost**: memory for the directory; a read of 160 bytes for each record.
    ///
    /// # Errors
    /// [`Malformed`](ErrorKind::Malformed) with what is wrong, and where; [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for what is
    /// encrypted, or compressed in other ways than deflate; [`Limit`](ErrorKind::Limit).
    pub(super) fn read(source: &dyn ReadAt, limits: &Limits) -> Result<Archive> {
        let (directory, mut records) = Directory::read(source, limits)?;
        check_locals(source, &mut records, directory.offset)?;
        let root = root_of(&records).to_owned();
        let records: Vec<Record> = records.into_iter().map(|(record, _)| record).collect();
        let by_name = names(&records)?;
        Ok(Archive { root, records, by_name })
    }

    /// The record of a name within the root.
    pub(super) fn get(&self, name: &str) -> Option<&Record> {
        self.by_name.get(&within(&self.root, name)).and_then(|&number| self.records.get(number))
    }

    /// All records, in the order of the directory.
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether it holds a program of TorchScript.
    pub(super) fn is_torchscript(&self) -> bool {
        self.get("constants.pkl").is_some()
    }
}

/// Whether a file has a directory where that of an archive would be.
pub(super) fn has_directory(source: &dyn ReadAt) -> bool {
    Directory::find(source).is_ok()
}

/// Whether a file that begins as a ZIP archive does is a checkpoint: whether its directory names a pickle where one would be.
///
/// What is wrong with the directory is not told here: if it cannot be read, this is no checkpoint.
pub(crate) fn is_torch(source: &dyn ReadAt, limits: &Limits) -> bool {
    Directory::read(source, limits).is_ok_and(|(_, records)| {
        let pickle = within(root_of(&records), "data.pkl");
        records.iter().any(|(record, _)| record.name == pickle)
    })
}

/// The folder that PyTorch takes for that of all records: the one of the first.
fn root_of(records: &[(Record, u16)]) -> &str {
    records.first().and_then(|(record, _)| record.name.split_once('/')).map_or("", |(root, _)| root)
}

fn within(root: &str, name: &str) -> String {
    if root.is_empty() { name.to_owned() } else { format!("{root}/{name}") }
}

/// Reads a record into memory, if it is at most so long, and checks its CRC-32.
///
/// # Errors
/// [`Limit`](ErrorKind::Limit) if it is longer; and as [`copy_record`].
pub(super) fn read_record(source: &dyn ReadAt, record: &Record, max_len: u64) -> Result<Vec<u8>> {
    if record.len > max_len {
        let message =
            format!("the record {} has {} bytes, and {max_len} are the most", quoted(&record.name), record.len);
        return Err(Error::new(ErrorKind::Limit, message).with_offset(record.data_offset));
    }
    let mut bytes = Vec::new();
    let no_memory = || Error::io("cannot hold the record in memory", std::io::ErrorKind::OutOfMemory.into());
    // What deflate makes may be far more than the file: it comes as it comes.
    let sure = len_usize(record.len.min(record.stored_len)).ok_or_else(no_memory)?;
    bytes.try_reserve(sure).map_err(|_| no_memory())?;
    copy_record(source, record, &mut bytes)?;
    Ok(bytes)
}

/// Writes what a record holds, inflated if it is compressed, and checks length and CRC-32.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt); [`Io`](ErrorKind::Io).
pub(super) fn copy_record(source: &dyn ReadAt, record: &Record, out: &mut dyn Write) -> Result<()> {
    const PIECE_LEN: u64 = 256 << 10;
    let mut stored = Positioned::new(source)?;
    stored.skip_to(record.data_offset);
    let stored = stored.take(record.stored_len);
    let mut content: Box<dyn Read> = match record.method {
        Method::Stored => Box::new(stored),
        Method::Deflated => Box::new(flate2::read::DeflateDecoder::new(stored)),
    };
    let broken = |what: String| Error::new(ErrorKind::Corrupt, what).with_offset(record.data_offset);
    let mut hasher = crc32fast::Hasher::new();
    // A byte more than the record should have, so that one that is too long is seen to be. Small records are many.
    let mut buffer = vec![0; len_usize(record.len.saturating_add(1).min(PIECE_LEN)).unwrap_or_default()];
    let mut len = 0u64;
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.raw_os_error().is_none() && record.method == Method::Deflated => {
                return Err(broken(format!("the record {} cannot be inflated: {e}", quoted(&record.name))));
            }
            Err(e) => return Err(Error::io("cannot read", e)),
        };
        let piece = buffer.get(..read).unwrap_or_default();
        len = len.saturating_add(len_u64(read));
        if len > record.len {
            break;
        }
        hasher.update(piece);
        out.write_all(piece).map_err(|e| Error::io("cannot write", e))?;
    }
    if len != record.len {
        let message = format!("the record {} should have {} bytes, and has others", quoted(&record.name), record.len);
        return Err(broken(message).with_numbers(record.len, len));
    }
    match (record.crc32, hasher.finalize()) {
        (Some(expected), found) if expected != found => Err(damaged(record.data_offset, expected, found)),
        _ => Ok(()),
    }
}

fn read_exact(source: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<()> {
    source.read_exact_at(buffer, offset).map_err(|e| Error::io("cannot read", e))
}

/// Takes little-endian numbers from bytes, one after the other.
pub(super) struct Fields<'b>(pub(super) &'b [u8]);

impl<'b> Fields<'b> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Where the central directory lies.
#[derive(Debug)]
struct Directory {
    offset: u64,
    len: u64,
    count: u64,
}

impl Directory {
    /// The directory, and its entries with their flags.
    fn read(source: &dyn ReadAt, limits: &Limits) -> Result<(Directory, Vec<(Record, u16)>)> {
        let directory = Directory::find(source)?;
        limits.check("the length of the archive's directory,", directory.len, limits.max_index_len)?;
        let mut bytes = vec![0; len_usize(directory.len).ok_or_else(|| wrong("the archive's directory is too long"))?];
        read_exact(source, &mut bytes, directory.offset)?;
        let entries = directory.entries(&bytes)?;
        Ok((directory, entries))
    }

    fn find(source: &dyn ReadAt) -> Result<Directory> {
        let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        let tail_len = file_len.min(END_LEN.saturating_add(MAX_COMMENT_LEN));
        let tail_at = file_len.saturating_sub(tail_len);
        // Nearly always there is no comment, and 22 bytes are enough.
        let mut tail = vec![0; len_usize(file_len.min(END_LEN)).unwrap_or_default()];
        let mut at = file_len.saturating_sub(len_u64(tail.len()));
        read_exact(source, &mut tail, at)?;
        if !tail.starts_with(&END) {
            tail.resize(len_usize(tail_len).unwrap_or_default(), 0);
            read_exact(source, &mut tail, tail_at)?;
            // The last one there is, as PyTorch and Python look for it: one in the comment of another would be theirs, so it is ours.
            let whole = usize::try_from(END_LEN).unwrap_or(usize::MAX);
            let found = tail.windows(whole).rposition(|end| end.starts_with(&END));
            let Some(i) = found else { return Err(no_directory(&tail, file_len)) };
            at = tail_at.saturating_add(len_u64(i));
            tail.drain(..i);
        }
        let mut directory = Directory::of_end(&tail, at)?;
        let (start, end) = directory.zip64(source, at)?;
        let expected = directory.offset.checked_add(directory.len);
        if expected != Some(end) {
            let message = format!(
                "the archive's directory of {} bytes at byte {} should end at byte {end}, where the end record begins",
                directory.len, directory.offset
            );
            return Err(wrong(message).with_offset(start).with_advice(DISTRUST));
        }
        Ok(directory)
    }

    /// What the end record says.
    fn of_end(end: &[u8], at: u64) -> Result<Directory> {
        let read = || {
            let mut fields = Fields(end);
            fields.u32()?;
            let (disk, first_disk) = (fields.u16()?, fields.u16()?);
            let (here, count) = (fields.u16()?, fields.u16()?);
            let (len, offset) = (fields.u32()?, fields.u32()?);
            let comment = fields.u16()?;
            Some((disk, first_disk, here, count, len, offset, comment))
        };
        let Some((disk, first_disk, here, count, len, offset, comment)) = read() else {
            return Err(wrong("the archive's end record is cut off").with_offset(at));
        };
        if usize::from(comment) != end.len().saturating_sub(usize::try_from(END_LEN).unwrap_or_default()) {
            let e = wrong("the archive's comment does not end with the file: it was cut off, or other bytes follow it");
            return Err(e.with_offset(at).cut_off());
        }
        let whole = |number: u16| number == 0 || number == u16::MAX;
        if !whole(disk) || !whole(first_disk) || here != count {
            let e = Error::new(ErrorKind::UnsupportedVersion, "the archive is one of several parts");
            return Err(e.with_offset(at).with_advice("join the parts first"));
        }
        Ok(Directory { offset: offset.into(), len: len.into(), count: count.into() })
    }

    /// Takes the numbers of the zip64 end record, if there is one. Gives the error's place, and where the directory must end.
    fn zip64(&mut self, source: &dyn ReadAt, end_at: u64) -> Result<(u64, u64)> {
        let marked =
            self.offset == u64::from(u32::MAX) || self.len == u64::from(u32::MAX) || self.count == u64::from(u16::MAX);
        let locator = match end_at.checked_sub(LOCATOR_LEN) {
            Some(at) => {
                let mut bytes = [0; 20];
                read_exact(source, &mut bytes, at)?;
                Some((at, bytes)).filter(|(_, bytes)| bytes.starts_with(&LOCATOR))
            }
            None => None,
        };
        let Some((locator_at, locator)) = locator else {
            if marked {
                return Err(wrong("the archive says it has a zip64 end record, and has none").with_offset(end_at));
            }
            return Ok((end_at, end_at));
        };
        let broken = |message: &str| wrong(message).with_offset(locator_at).with_advice(DISTRUST);
        let mut fields = Fields(&locator);
        let place = (fields.u32(), fields.u32(), fields.u64(), fields.u32());
        let (_, Some(0), Some(end64_at), Some(0 | 1)) = place else {
            return Err(broken("the archive's zip64 locator is wrong"));
        };
        if end64_at.checked_add(END64_LEN) != Some(locator_at) {
            return Err(broken("the archive's zip64 end record is not where the locator says, in front of it"));
        }
        let mut bytes = [0; 56];
        read_exact(source, &mut bytes, end64_at)?;
        let read = || {
            let mut fields = Fields(&bytes);
            let magic = fields.array::<4>()?;
            let len = fields.u64()?;
            fields.u32()?;
            let disks = (fields.u32()?, fields.u32()?);
            let (here, count) = (fields.u64()?, fields.u64()?);
            Some((magic, len, disks, here, count, fields.u64()?, fields.u64()?))
        };
        let Some((END64, 44, (0, 0), here, count, len, offset)) = read() else {
            return Err(wrong("the archive's zip64 end record is wrong").with_offset(end64_at));
        };
        let same = |short: u64, marker: u64, long: u64| short == marker || short == long;
        let agree = same(self.offset, u32::MAX.into(), offset)
            && same(self.len, u32::MAX.into(), len)
            && same(self.count, u16::MAX.into(), count);
        if !agree || here != count {
            let message = "the archive's two end records disagree on where the directory is";
            return Err(wrong(message).with_offset(end64_at).with_advice(DISTRUST));
        }
        *self = Directory { offset, len, count };
        Ok((end64_at, end64_at))
    }

    /// The entries of the directory, with their flags. Where their data begins is not known yet.
    fn entries(&self, bytes: &[u8]) -> Result<Vec<(Record, u16)>> {
        let most = bytes.len().checked_div(CENTRAL_LEN).unwrap_or(0);
        let count = len_usize(self.count).filter(|&count| count <= most).ok_or_else(|| {
            let message = format!("the archive's directory of {} bytes cannot have {} entries", self.len, self.count);
            wrong(message).with_offset(self.offset)
        })?;
        let mut records = Vec::with_capacity(count);
        let mut fields = Fields(bytes);
        for _ in 0..count {
            let at = self.offset.saturating_add(len_u64(bytes.len().saturating_sub(fields.0.len())));
            let cut = || wrong("an entry of the archive's directory is cut off").with_offset(at);
            let entry = Entry::read(&mut fields).ok_or_else(cut)?;
            records.push(entry.check().map_err(|e| e.with_offset(at))?);
        }
        if !fields.0.is_empty() {
            let message = format!("the archive's directory goes on after its {count} entries");
            return Err(wrong(message).with_offset(self.offset).with_advice(DISTRUST));
        }
        Ok(records)
    }
}

/// The error for a file without an end record.
#[cold]
fn no_directory(tail: &[u8], file_len: u64) -> Error {
    let within = tail.windows(END.len()).any(|bytes| bytes == END);
    let message = if within {
        "the ZIP archive is followed by bytes that are no part of it"
    } else {
        "the ZIP archive has no end: the file was cut off"
    };
    wrong(message).with_offset(file_len).cut_off()
}

/// An entry of the central directory, as it is there.
pub(super) struct Entry<'b> {
    magic: [u8; 4],
    flags: u16,
    method: u16,
    crc32: u32,
    stored_len: u32,
    len: u32,
    disk: u16,
    header_offset: u32,
    name: &'b [u8],
    extra: &'b [u8],
}

impl<'b> Entry<'b> {
    pub(super) fn read(fields: &mut Fields<'b>) -> Option<Entry<'b>> {
        let magic = fields.array()?;
        fields.u32()?;
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.u32()?;
        let (crc32, stored_len, len) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (name_len, extra_len, comment_len) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let disk = fields.u16()?;
        fields.array::<6>()?;
        let header_offset = fields.u32()?;
        let name = fields.bytes(name_len.into())?;
        let extra = fields.bytes(extra_len.into())?;
        fields.bytes(comment_len.into())?;
        Some(Entry { magic, flags, method, crc32, stored_len, len, disk, header_offset, name, extra })
    }

    pub(super) fn check(&self) -> Result<(Record, u16)> {
        if self.magic != CENTRAL {
            return Err(wrong("an entry of the archive's directory does not begin as one"));
        }
        let name = std::str::from_utf8(self.name).map_err(|_| wrong("the name of a record is not UTF-8"))?;
        let named = |e: Error| Error::new(e.kind(), format!("record {}: {}", quoted(name), e.reason()));
        let numbers = [self.len, self.stored_len, self.header_offset];
        let long = zip64_field(self.extra).map_err(named)?;
        let [len, stored_len, header_offset] = with_zip64(long, numbers).ok_or_else(|| named(wrong(NOT_IN_EXTRA)))?;
        if !matches!(self.disk, 0 | u16::MAX) {
            return Err(named(Error::new(ErrorKind::UnsupportedVersion, "it is in another part of the archive")));
        }
        check_flags(self.flags, self.method).map_err(named)?;
        let method = if self.method == 0 { Method::Stored } else { Method::Deflated };
        if name.is_empty() || name.contains('\0') || name.split('/').any(|part| part == "..") || name.starts_with('/') {
            return Err(named(wrong("its name is none that a checkpoint has")).with_advice(DISTRUST));
        }
        match method {
            Method::Stored if len != stored_len => {
                let message = format!("it is stored as it is, and its lengths are {stored_len} and {len}");
                return Err(named(wrong(message)).with_advice(DISTRUST));
            }
            Method::Deflated if len > stored_len.saturating_mul(MAX_RATIO) => {
                let message = format!("its {stored_len} bytes cannot become the {len} that it claims");
                return Err(named(wrong(message)).with_advice(DISTRUST));
            }
            _ => {}
        }
        let crc32 = Some(self.crc32).filter(|&crc32| crc32 != 0 || len == 0);
        let record = Record { name: name.to_owned(), header_offset, data_offset: 0, stored_len, len, crc32, method };
        Ok((record, self.flags))
    }
}

pub(super) fn check_flags(flags: u16, method: u16) -> Result<()> {
    let unsupported = |what: String| Error::new(ErrorKind::UnsupportedVersion, what);
    if flags & ENCRYPTED != 0 {
        return Err(unsupported("it is encrypted".to_owned()).with_advice("save it without a password"));
    }
    let known = HAS_DESCRIPTOR | UTF8 | if method == 8 { DEFLATE_LEVEL } else { 0 };
    if flags & !known != 0 {
        return Err(unsupported(format!("its flags {flags:#06x} are not known")));
    }
    match method {
        0 | 8 => Ok(()),
        other => Err(unsupported(format!("it is compressed by method {other}; only deflate (8) is known"))),
    }
}

/// What the zip64 extra field holds; empty if there is none.
pub(super) fn zip64_field(extra: &[u8]) -> Result<&[u8]> {
    let mut fields = Fields(extra);
    let mut found = None;
    while !fields.0.is_empty() {
        let field = (|| {
            let (kind, len) = (fields.u16()?, fields.u16()?);
            Some((kind, fields.bytes(len.into())?))
        })();
        let Some((kind, content)) = field else { return Err(wrong("its extra fields are cut off")) };
        if kind == ZIP64_EXTRA && found.replace(content).is_some() {
            return Err(wrong("it has two zip64 fields").with_advice(DISTRUST));
        }
    }
    Ok(found.unwrap_or_default())
}

/// Numbers of which those that are marked are in the zip64 extra field, in this order; `None` if one is not there.
pub(super) fn with_zip64(field: &[u8], numbers: [u32; 3]) -> Option<[u64; 3]> {
    let mut long = Fields(field);
    let mut out = [0; 3];
    for (place, number) in out.iter_mut().zip(numbers) {
        *place = if number == IN_EXTRA { long.u64()? } else { number.into() };
    }
    Some(out)
}

/// Compares each local header with the directory, and finds where data begins; refuses records of which one begins before the one in
/// front of it ends.
///
/// In the order of the file: so no byte of it is read for more than one header, whatever the directory says.
fn check_locals(source: &dyn ReadAt, records: &mut [(Record, u16)], directory_at: u64) -> Result<()> {
    let mut in_file: Vec<&mut (Record, u16)> = records.iter_mut().collect();
    in_file.sort_by_key(|(record, _)| record.header_offset);
    let mut free_from = 0;
    for (record, flags) in in_file {
        if record.header_offset < free_from {
            let message = format!("record {} begins within the one in front of it", quoted(&record.name));
            return Err(wrong(message).with_offset(record.header_offset).with_advice(DISTRUST));
        }
        free_from = check_local(source, record, *flags, directory_at)?;
    }
    Ok(())
}

/// Compares a record's local header with the directory, and finds where its data begins. Gives where the record ends.
fn check_local(source: &dyn ReadAt, record: &mut Record, flags: u16, directory_at: u64) -> Result<u64> {
    let at = record.header_offset;
    let name = record.name.clone();
    let broken = |what: &str| {
        let e = wrong(format!("record {}: {what}", quoted(&name)));
        e.with_offset(at).with_advice(DISTRUST)
    };
    let beyond = || broken("it does not lie in front of the archive's directory");
    let room = directory_at.checked_sub(at).filter(|&room| room >= LOCAL_LEN).ok_or_else(beyond)?;
    let mut bytes = vec![0; len_usize(room.min(LOCAL_READ_LEN)).unwrap_or_default()];
    read_exact(source, &mut bytes, at)?;
    let lens = bytes.get(26..30).and_then(|lens| lens.as_chunks::<2>().0.first_chunk::<2>());
    let [name_len, extra_len] = lens.map_or([0; 2], |lens| lens.map(u16::from_le_bytes));
    let header_len = LOCAL_LEN.saturating_add(name_len.into()).saturating_add(extra_len.into());
    if header_len > room {
        return Err(beyond());
    }
    if header_len > len_u64(bytes.len()) {
        bytes.resize(len_usize(header_len).unwrap_or_default(), 0);
        read_exact(source, &mut bytes, at)?;
    }
    let read = || {
        let mut fields = Fields(&bytes);
        let magic = fields.array::<4>()?;
        fields.u16()?;
        let (flags, method) = (fields.u16()?, fields.u16()?);
        fields.u32()?;
        let numbers = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.u32()?;
        Some((magic, flags, method, numbers, fields.bytes(name_len.into())?, fields.bytes(extra_len.into())?))
    };
    let Some((magic, local_flags, method, (crc32, stored_len, len), local_name, extra)) = read() else {
        return Err(beyond());
    };
    if magic != LOCAL {
        return Err(broken("its header does not begin as one"));
    }
    if local_name != record.name.as_bytes() {
        return Err(broken("its header has another name than the archive's directory"));
    }
    if local_flags != flags {
        return Err(broken("its header has other flags than the archive's directory"));
    }
    if method != if record.method == Method::Stored { 0 } else { 8 } {
        return Err(broken("its header has another method than the archive's directory"));
    }
    let has_descriptor = flags & HAS_DESCRIPTOR != 0;
    let long = zip64_field(extra).map_err(|e| broken(&e.reason()))?;
    let [local_len, local_stored_len, _] = match with_zip64(long, [len, stored_len, 0]) {
        Some(numbers) => numbers,
        // PyTorch writes a marker where the number follows the data.
        None if has_descriptor => [0; 3],
        None => return Err(broken(NOT_IN_EXTRA)),
    };
    // What follows the data may be 0 here.
    let same = |local: u64, central: u64| local == central || (has_descriptor && local == 0);
    if !same(local_len, record.len) || !same(local_stored_len, record.stored_len) {
        return Err(broken("its header has other lengths than the archive's directory"));
    }
    if !same(crc32.into(), record.crc32.unwrap_or(0).into()) {
        return Err(broken("its header has another CRC-32 than the archive's directory"));
    }
    record.data_offset = at.checked_add(header_len).ok_or_else(beyond)?;
    let end =
        record.data_offset.checked_add(record.stored_len).filter(|&end| end <= directory_at).ok_or_else(beyond)?;
    if !has_descriptor {
        return Ok(end);
    }
    let mut descriptor = [0; 24];
    let room = directory_at.saturating_sub(end).min(24);
    let descriptor = descriptor.get_mut(..len_usize(room).unwrap_or_default()).unwrap_or_default();
    read_exact(source, descriptor, end)?;
    match descriptor_len(descriptor, record) {
        Some(len) => Ok(end.saturating_add(len)),
        None => Err(broken("what follows its data disagrees with the archive's directory")),
    }
}

/// How long the data descriptor is that these bytes begin with: with a signature or without, of 32 or 64 bits.
fn descriptor_len(bytes: &[u8], record: &Record) -> Option<u64> {
    let crc32 = record.crc32.unwrap_or(0).to_le_bytes();
    let (stored_len, len) = (record.stored_len.to_le_bytes(), record.len.to_le_bytes());
    let short = |number: &[u8; 8]| {
        let (low, high) = number.split_at(4);
        high.iter().all(|&byte| byte == 0).then(|| low.to_vec())
    };
    let narrow = short(&stored_len).zip(short(&len)).map(|(a, b)| [a, b].concat());
    let wide = Some([stored_len, len].concat());
    for signature in [&DESCRIPTOR[..], &[]] {
        for numbers in [&wide, &narrow] {
            let Some(numbers) = numbers else { continue };
            let whole = [signature, &crc32, numbers].concat();
            if bytes.starts_with(&whole) {
                return Some(len_u64(whole.len()));
            }
        }
    }
    None
}

/// Refuses names that differ in nothing but case: PyTorch takes them for the same.
fn names(records: &[Record]) -> Result<HashMap<String, usize>> {
    let mut folded: HashMap<String, usize> = HashMap::with_capacity(records.len());
    let mut names = HashMap::with_capacity(records.len());
    for (number, record) in records.iter().enumerate() {
        if folded.insert(record.name.to_ascii_lowercase(), number).is_some() {
            let message = format!("two records have the name {}, or differ only in case", quoted(&record.name));
            return Err(wrong(message).with_offset(record.header_offset).with_advice(DISTRUST));
        }
        names.insert(record.name.clone(), number);
    }
    Ok(names)
}
