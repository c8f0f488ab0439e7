//! The signatures of an archive's parts, wherever in a file they are: found in one pass that skips nothing.
//!
//! Nothing is believed here. A header may be one of an archive that lies within a tensor, a damaged one, or four bytes by chance: what
//! it takes to be plausible keeps the number of those small, and who asks decides.

use super::super::archive::{self, CENTRAL, DESCRIPTOR, END, END64, Fields, HAS_DESCRIPTOR, LOCAL, Method, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// How much is read at a time.
const PIECE_LEN: usize = 1 << 20;
/// The longest part that is taken from what was read: a header with its name and extra fields.
const LOOK_LEN: usize = 1024;
/// The longest name of a record. PyTorch's are a folder and a number; programs of TorchScript name modules.
const MAX_NAME_LEN: usize = 512;
/// As many parts of a kind may be found. They are kept in memory, and no checkpoint has as many records.
const MAX_SIGNS: usize = 1 << 20;

/// A header that stands in front of a record's data.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) at: u64,
    pub(super) name: String,
    pub(super) data_at: u64,
    pub(super) method: Method,
    /// CRC-32, length as stored, and length, unless they follow the data.
    pub(super) numbers: Option<(u32, u64, u64)>,
}

/// What follows a record's data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) at: u64,
    pub(super) crc32: u32,
    pub(super) stored_len: u64,
    pub(super) len: u64,
}

/// An entry of an archive's directory. Where its record's header is, is counted from where the archive begins.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) record: Record,
}

/// A record that ends an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) at: u64,
    /// Behind it, and behind the locator if it is one of zip64.
    pub(super) end: u64,
    /// Where the archive begins, by what it says of its directory, which ends here: less than 0 if its beginning is missing.
    pub(super) base: Option<i64>,
}

/// All that was found, each kind in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Signs {
    pub(super) locals: Vec<Local>,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) entries: Vec<Entry>,
    pub(super) ends: Vec<End>,
}

impl Signs {
    /// Looks through a file.
    ///
    /// **Cost**: one pass over the file; memory for what is found.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) for more parts than any checkpoint has; [`Io`](ErrorKind::Io).
    pub(super) fn find(source: &dyn ReadAt, file_len: u64) -> Result<Signs> {
        let mut signs = Signs::default();
        let mut buffer: Vec<u8> = Vec::new();
        // Where in the file the buffer begins.
        let mut start = 0u64;
        loop {
            let held = len_u64(buffer.len());
            let next = start.saturating_add(held);
            let more = len_usize(file_len.saturating_sub(next)).unwrap_or(usize::MAX).min(PIECE_LEN);
            buffer.resize(buffer.len().saturating_add(more), 0);
            let place = buffer.get_mut(len_usize(held).unwrap_or(usize::MAX)..).unwrap_or_default();
            source.read_exact_at(place, next).map_err(|e| Error::io("cannot read", e))?;
            let is_last = next.saturating_add(len_u64(more)) >= file_len;
            // What begins further behind may not be there to its end.
            let whole = if is_last { buffer.len() } else { buffer.len().saturating_sub(LOOK_LEN) };
            let mut at = 0usize;
            while let Some(found) = next_signature(&buffer, at).filter(|&found| found < whole) {
                let bytes = buffer.get(found..).unwrap_or_default();
                signs.take(bytes, start.saturating_add(len_u64(found)), file_len);
                at = found.saturating_add(1);
            }
            signs.check()?;
            if is_last {
                return Ok(signs);
            }
            buffer.drain(..whole);
            start = start.saturating_add(len_u64(whole));
        }
    }

    fn take(&mut self, bytes: &[u8], at: u64, file_len: u64) {
        let Some((magic, _)) = bytes.split_first_chunk::<4>() else { return };
        match *magic {
            LOCAL => self.locals.extend(local(bytes, at).filter(|local| local.data_at <= file_len)),
            DESCRIPTOR => self.descriptors.extend(descriptors(bytes, at)),
            CENTRAL => self.entries.extend(entry(bytes, at)),
            END | END64 => self.ends.extend(end(bytes, at)),
            _ => {}
        }
    }

    fn check(&self) -> Result<()> {
        let Signs { locals, descriptors, entries, ends } = self;
        let most = [locals.len(), descriptors.len(), entries.len(), ends.len()].into_iter().max().unwrap_or(0);
        if most <= MAX_SIGNS {
            return Ok(());
        }
        let message = format!("more than {MAX_SIGNS} records seem to begin in the file, which no checkpoint has");
        Err(Error::new(ErrorKind::Limit, message).with_advice("do not trust where this file came from"))
    }
}

/// Where, from a place on, the next of the signatures begins. All begin with two letters.
fn next_signature(bytes: &[u8], from: usize) -> Option<usize> {
    let mut from = from;
    loop {
        let rest = bytes.get(from..)?;
        let found = from.saturating_add(rest.windows(2).position(|two| two == b"PK")?);
        if let Some([1..=8, 2..=8]) = bytes.get(found.saturating_add(2)..).and_then(<[u8]>::first_chunk::<2>) {
            return Some(found);
        }
        from = found.saturating_add(2);
    }
}

/// Whether a record of a checkpoint may have such a name. Without control characters none holds another signature, so names take no more
/// memory than the file has bytes.
fn name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?;
    let is_plausible = !name.is_empty()
        && name.len() <= MAX_NAME_LEN
        && !name.chars().any(char::is_control)
        && !name.starts_with('/')
        && name.split('/').all(|part| part != "..");
    is_plausible.then_some(name)
}

fn local(bytes: &[u8], at: u64) -> Option<Local> {
    let mut fields = Fields(bytes);
    fields.u32()?;
    fields.u16()?;
    let (flags, method) = (fields.u16()?, fields.u16()?);
    fields.u32()?;
    let (crc32, stored_len, len) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let (name_len, extra_len) = (fields.u16()?, fields.u16()?);
    let name = name(fields.bytes(name_len.into())?)?;
    archive::check_flags(flags, method).ok()?;
    // Those that are longer are none of PyTorch's, and cannot be looked into here.
    let extra = fields.bytes(extra_len.into())?;
    let long = archive::zip64_field(extra).ok()?;
    if !is_padding_last(extra) {
        return None;
    }
    let data_at = at.checked_add(archive::LOCAL_LEN)?.checked_add(name_len.into())?.checked_add(extra_len.into())?;
    let numbers = match archive::with_zip64(long, [len, stored_len, 0]) {
        Some([len, stored_len, _]) if flags & HAS_DESCRIPTOR == 0 || len > 0 => Some((crc32, stored_len, len)),
        _ => None,
    };
    let method = if method == 0 { Method::Stored } else { Method::Deflated };
    Some(Local { at, name: name.to_owned(), data_at, method, numbers })
}

/// Whether PyTorch's padding, if there is some, goes to the end of the extra fields. If not, one of the lengths is damaged, and so it is not
/// known where data begins.
fn is_padding_last(extra: &[u8]) -> bool {
    let mut fields = Fields(extra);
    while let (Some(kind), Some(len)) = (fields.array::<2>(), fields.u16()) {
        if fields.bytes(len.into()).is_none() || (kind == *b"FB" && !fields.0.is_empty()) {
            return false;
        }
    }
    true
}

/// Both ways to read what follows data: with lengths of 32 bits, and of 64.
fn descriptors(bytes: &[u8], at: u64) -> impl Iterator<Item = Descriptor> {
    let narrow = || {
        let mut fields = Fields(bytes);
        fields.u32()?;
        Some((fields.u32()?, u64::from(fields.u32()?), u64::from(fields.u32()?)))
    };
    let wide = || {
        let mut fields = Fields(bytes);
        fields.u32()?;
        Some((fields.u32()?, fields.u64()?, fields.u64()?))
    };
    // Nothing follows an empty record; and none begins before the file does.
    let header_len = archive::LOCAL_LEN;
    [narrow(), wide()].into_iter().flatten().filter_map(move |(crc32, stored_len, len)| {
        let fits = stored_len > 0 && at.checked_sub(stored_len).is_some_and(|data_at| data_at > header_len);
        fits.then_some(Descriptor { at, crc32, stored_len, len })
    })
}

fn entry(bytes: &[u8], at: u64) -> Option<Entry> {
    let mut fields = Fields(bytes);
    let entry = archive::Entry::read(&mut fields)?;
    let (record, _) = entry.check().ok()?;
    name(record.name.as_bytes())?;
    let len = bytes.len().checked_sub(fields.0.len())?;
    Some(Entry { at, end: at.saturating_add(len_u64(len)), record })
}

fn end(bytes: &[u8], at: u64) -> Option<End> {
    let mut fields = Fields(bytes);
    let magic = fields.array::<4>()?;
    let (len, offset, own_len) = if magic == END {
        fields.array::<8>()?;
        let (len, offset) = (fields.u32()?, fields.u32()?);
        (u64::from(len), u64::from(offset), archive::END_LEN)
    } else {
        fields.array::<36>()?;
        (fields.u64()?, fields.u64()?, archive::END64_LEN.saturating_add(archive::LOCATOR_LEN))
    };
    let base = || {
        let directory_end = i64::try_from(offset.checked_add(len)?).ok()?;
        i64::try_from(at).ok()?.checked_sub(directory_end)
    };
    // If a zip64 record stands between them, only that one is right behind the directory.
    Some(End { at, end: at.saturating_add(own_len), base: base() })
}
