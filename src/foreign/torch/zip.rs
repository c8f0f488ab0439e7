//! Checkpoints from version 1.6 on: a ZIP archive of a pickle and of storages.

use std::sync::Arc;

use super::archive::{Archive, Method, Record};
use super::made;
use super::pickle::{self, Graph, Input, Ref};
use super::rebuild::{self, Container, Found, Rebuilt};
use super::{Assembled, wrong};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::limits::Limits;
use crate::read::GuestIndex;
use crate::source::ReadAt;

/// The newest version that PyTorch itself reads.
const NEWEST_VERSION: u64 = 10;
/// The longest record of a single word that is read.
const MAX_WORD_LEN: u64 = 64;
/// A compressed pickle may become so many times as long; and may have this length in any case.
const MAX_PICKLE_RATIO: u64 = 64;
const MAX_SMALL_PICKLE: u64 = 64 << 10;
/// What is made of it may be as much as if it became so many times as long. Few do: what compresses well is text, of which little is made.
const WARRANTED_RATIO: u64 = 8;
const WARRANTED: u64 = 1 << 10;
/// What a byte of a pickle may take up in the machine.
const GRAPH_RATIO: u64 = 128;

/// What stands in front of the names of tensors that are constants of a program.
pub(super) const CONSTANTS: &str = "constants";

/// How long a compressed pickle may become.
pub(super) fn inflated_most(record: &Record) -> u64 {
    MAX_SMALL_PICKLE.max(record.stored_len.saturating_mul(MAX_PICKLE_RATIO))
}

/// As how long a pickle counts when it is bounded what may be made of it.
fn warranted(record: &Record) -> u64 {
    match record.method {
        Method::Stored => record.len,
        Method::Deflated => record.stored_len.saturating_mul(WARRANTED_RATIO).saturating_add(WARRANTED).min(record.len),
    }
}

/// How many bytes the machine may take up that reads this pickle.
pub(super) fn most_of(record: &Record) -> u64 {
    match record.method {
        Method::Stored => u64::MAX,
        Method::Deflated => warranted(record).saturating_mul(GRAPH_RATIO),
    }
}

/// The index of such a checkpoint.
///
/// **Cost**: reads the directory of the archive, a local header for each record, and the pickle, whose CRC-32 is checked.
///
/// # Errors
/// What is wrong with the archive, its pickle, or where its tensors lie.
pub(super) fn read_index(source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let archive = Archive::read(source, limits)?;
    check_version(&archive, source)?;
    let big_endian = is_big_endian(&archive, source)?;
    let script = archive.is_torchscript();
    let main = Part { archive: &archive, source, pickle: "data.pkl", folder: "data/", big_endian };
    let (rebuilt, inflated) = main.rebuild(limits)?;
    let mut assembled = Assembled::new("torch", if script { "zip (torchscript)" } else { "zip" });
    assembled.add(rebuilt, true, inflated)?;
    if script {
        let constants = Part { pickle: "constants.pkl", folder: "constants/", ..main };
        let (mut rebuilt, inflated) = constants.rebuild(limits)?;
        assembled.prefix(&mut rebuilt, CONSTANTS);
        assembled.add(rebuilt, false, inflated)?;
    }
    assembled.finish(limits)
}

fn check_version(archive: &Archive, source: &dyn ReadAt) -> Result<()> {
    // Where both are there PyTorch asks the newer place.
    let record = archive.get(".data/version").or_else(|| archive.get("version"));
    record.map_or(Ok(()), |record| check_version_record(source, record))
}

/// Refuses what is newer than what is known.
pub(super) fn check_version_record(source: &dyn ReadAt, record: &Record) -> Result<()> {
    let word = word(source, record)?;
    match word.trim().parse::<u64>() {
        Ok(version) if version <= NEWEST_VERSION => Ok(()),
        Ok(version) => {
            let message =
                format!("the archive is of PyTorch's version {version}, and {NEWEST_VERSION} is the newest known");
            Err(Error::new(ErrorKind::UnsupportedVersion, message).with_offset(record.data_offset))
        }
        Err(_) => {
            Err(wrong(format!("the archive's version is {}, no number", quoted(&word))).with_offset(record.data_offset))
        }
    }
}

fn is_big_endian(archive: &Archive, source: &dyn ReadAt) -> Result<bool> {
    let Some(record) = archive.get("byteorder") else { return Ok(false) };
    let word = word(source, record)?;
    match word.trim() {
        "little" => Ok(false),
        "big" => Ok(true),
        _ => Err(wrong(format!("the archive's byte order is {}", quoted(&word))).with_offset(record.data_offset)),
    }
}

fn word(source: &dyn ReadAt, record: &Record) -> Result<String> {
    let bytes = super::archive::read_record(source, record, MAX_WORD_LEN)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A pickle of an archive, and the folder of its storages.
#[derive(Clone, Copy)]
struct Part<'a> {
    archive: &'a Archive,
    source: &'a dyn ReadAt,
    pickle: &'static str,
    folder: &'static str,
    big_endian: bool,
}

impl Part<'_> {
    /// What the pickle means; and the pickle, if it was compressed.
    fn rebuild(self, limits: &Limits) -> Result<(Rebuilt, Option<Arc<Vec<u8>>>)> {
        let Some(record) = self.archive.get(self.pickle) else {
            return Err(wrong(format!("the archive has no {}", self.pickle)));
        };
        let pickle = Pickle::read(self.source, record, self.pickle, limits)?;
        let rebuilt = pickle.rebuild(&Records { part: self, pickle: pickle.bytes(self.source) })?;
        Ok((rebuilt, pickle.inflated))
    }
}

/// A pickle of an archive, read and not yet given a meaning.
pub(super) struct Pickle {
    pub(super) graph: Graph,
    root: Ref,
    /// As how long it counts.
    len: u64,
    /// Its bytes, if they are not in the file as they are.
    pub(super) inflated: Option<Arc<Vec<u8>>>,
}

impl Pickle {
    /// Reads a pickle, and checks its CRC-32. It is called `name` in messages.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt); what is wrong with it; [`Limit`](ErrorKind::Limit).
    pub(super) fn read(source: &dyn ReadAt, record: &Record, name: &str, limits: &Limits) -> Result<Pickle> {
        limits.check("the length of the pickle,", record.len, limits.max_value_len)?;
        let inflated = Pickle::check(source, record, name)?;
        let (pickle, start): (&dyn ReadAt, u64) = match &inflated {
            Some(held) => (held.as_ref(), 0),
            None => (source, record.data_offset),
        };
        let mut input = Input::new(pickle, start, start.saturating_add(record.len));
        let (graph, root) = pickle::read(&mut input, most_of(record))?;
        if input.left() > 0 {
            let message = format!("{name} goes on for {} bytes after its end", input.left());
            return Err(wrong(message).with_offset(input.offset()));
        }
        Ok(Pickle { graph, root, len: warranted(record), inflated })
    }

    /// What the offsets of payloads in the graph refer to.
    pub(super) fn bytes<'p>(&'p self, source: &'p dyn ReadAt) -> &'p dyn ReadAt {
        match &self.inflated {
            Some(held) => held.as_ref(),
            None => source,
        }
    }

    /// What it means, with storages of a container.
    pub(super) fn rebuild(&self, container: &dyn Container) -> Result<Rebuilt> {
        rebuild::rebuild(&self.graph, self.root, self.len, container)
    }

    /// Checks the CRC-32 of the pickle; gives its bytes, if they are not in the file as they are.
    fn check(source: &dyn ReadAt, record: &Record, name: &str) -> Result<Option<Arc<Vec<u8>>>> {
        match record.method {
            Method::Stored => {
                let range = (record.data_offset, record.len);
                if record.crc32.is_some() {
                    made::transfer(source, range, record.crc32, made::Form::default(), &mut std::io::sink())?;
                }
                Ok(None)
            }
            Method::Deflated => {
                if record.len > inflated_most(record) {
                    let message = format!(
                        "{name} would become {} bytes, more than {MAX_PICKLE_RATIO} times what it is compressed",
                        record.len
                    );
                    let e = Error::new(ErrorKind::Limit, message).with_offset(record.data_offset);
                    return Err(e.with_advice("do not trust where this file came from"));
                }
                Ok(Some(Arc::new(super::archive::read_record(source, record, record.len)?)))
            }
        }
    }
}

/// The records of a folder, as storages.
struct Records<'a> {
    part: Part<'a>,
    pickle: &'a dyn ReadAt,
}

impl Container for Records<'_> {
    fn find(&self, key: &str, byte_len: u64) -> Result<Option<Found>> {
        let Some(record) = self.part.archive.get(&format!("{}{key}", self.part.folder)) else { return Ok(None) };
        if record.len != byte_len {
            let message = format!("storage {} takes {byte_len} bytes, and its record has {}", quoted(key), record.len);
            return Err(wrong(message).with_offset(record.data_offset).with_numbers(byte_len, record.len));
        }
        Ok(Some(found(record)))
    }

    fn is_big_endian(&self) -> bool {
        self.part.big_endian
    }

    fn pickle(&self) -> &dyn ReadAt {
        self.pickle
    }
}

/// A record as a storage.
pub(super) fn found(record: &Record) -> Found {
    match record.method {
        Method::Stored => Found::InFile { offset: record.data_offset, len: record.len, crc32: record.crc32 },
        Method::Deflated => Found::Record(Box::new(record.clone())),
    }
}

/// Writes what a compressed record holds, in another form.
pub(super) fn transfer(
    source: &dyn ReadAt,
    record: &Record,
    form: made::Form,
    out: &mut dyn std::io::Write,
) -> Result<()> {
    let mut changer = made::Changer::new(form, out);
    let mut changing = made::Changing { changer: &mut changer, error: None };
    let copied = super::archive::copy_record(source, record, &mut changing);
    // What went wrong in the changing is told rather than what the copying made of it.
    changing.error.take().map_or(copied, Err)?;
    changer.finish()
}
