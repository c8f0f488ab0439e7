//! The records of an archive, one by one: those that hold no tensor are checked when the file is verified.

use std::collections::HashSet;
use std::io;

use super::archive::{Archive, Record, copy_record};
use super::wrong;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::limits::Limits;
use crate::format::{len_u64, len_usize};
use crate::read::Parts;
use crate::source::ReadAt;

/// Compares every record with its CRC-32; but `storages`, which are known by where their data begins, are left to who has read them.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn check(source: &dyn ReadAt, storages: &HashSet<u64>, parts: &mut Parts<'_>) -> Result<()> {
    each(source, &mut |name, record| {
        let Some(record) = record.filter(|record| record.crc32.is_some()) else {
            parts.unchecked();
            return Ok(());
        };
        if storages.contains(&record.data_offset) {
            parts.storage();
            return Ok(());
        }
        let outcome = copy_record(source, record, &mut io::sink());
        parts.checked(record.stored_len, outcome.map_err(|e| e.with_words_before(&format!("{}: ", quoted(name)))))
    })
}

/// Names the record that a damaged place is in.
#[cold]
pub(super) fn name_damaged(e: Error, source: &dyn ReadAt) -> Error {
    let Some(offset) = e.offset().filter(|_| e.kind() == ErrorKind::Corrupt) else { return e };
    let mut damaged = None;
    let _ = each(source, &mut |name, record| {
        if record.is_some_and(|record| record.data_offset == offset) {
            damaged = Some(name.to_owned());
        }
        Ok(())
    });
    match damaged {
        // Without the record that it is about, there are no tensors that could be read nevertheless.
        Some(name) => e.with_words_before(&format!("{}: ", quoted(&name))).with_advice("restore it from another copy"),
        None => e,
    }
}

/// Whether a file of which only the first entry of a ZIP archive is known is a checkpoint that was cut off: it begins as some do, and has
/// no directory.
pub(crate) fn is_cut_off(first_name: &[u8], source: &dyn ReadAt) -> bool {
    let within = first_name.splitn(2, |&byte| byte == b'/').nth(1).unwrap_or_default();
    let begins_as_one =
        matches!(within, b"version" | b"byteorder" | b".format_version") || within.starts_with(b"data/");
    begins_as_one && Archive::read(source, &Limits::NONE).is_err() && names(source).is_err()
}

/// Calls `take` for every record, with its whole name. Of one outside of the root, which PyTorch never looks at, nothing is known but that.
fn each(source: &dyn ReadAt, take: &mut dyn FnMut(&str, Option<&Record>) -> Result<()>) -> Result<()> {
    let archive = Archive::read(source, &Limits::NONE)?;
    let names = names(source)?;
    let root =
        names.first().and_then(|first| first.split_once('/')).map_or(String::new(), |(root, _)| format!("{root}/"));
    for name in &names {
        take(name, name.strip_prefix(&root).and_then(|within| archive.get(within)))?;
    }
    Ok(())
}

/// The names in a directory that was found to be in order: there is one, and only end records come after it.
fn names(source: &dyn ReadAt) -> Result<Vec<String>> {
    const END_LEN: usize = 22;
    const MAX_COMMENT_LEN: u64 = 0xFFFF;
    let lost = || wrong("the archive's directory is lost");
    let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    let read = |offset: u64, len: u64| {
        let mut bytes = vec![0; len_usize(len).filter(|_| len <= file_len).ok_or_else(lost)?];
        source.read_exact_at(&mut bytes, offset).map_err(|e| Error::io("cannot read", e))?;
        Ok::<Vec<u8>, Error>(bytes)
    };
    let tail_at = file_len.saturating_sub(MAX_COMMENT_LEN.saturating_add(len_u64(END_LEN)));
    let tail = read(tail_at, file_len.saturating_sub(tail_at))?;
    let (i, end) = tail
        .windows(END_LEN)
        .enumerate()
        .rev()
        .find(|(i, end)| {
            let after = tail.len().saturating_sub(i.saturating_add(END_LEN));
            end.starts_with(b"PK\x05\x06") && u16_at(end, 20).map(usize::from) == Some(after)
        })
        .ok_or_else(lost)?;
    let mut place = u32_at(end, 16).map(u64::from).zip(u32_at(end, 12).map(u64::from));
    if let Some(locator_at) = tail_at.saturating_add(len_u64(i)).checked_sub(20) {
        let locator = read(locator_at, 20)?;
        if locator.starts_with(b"PK\x06\x07") {
            let end = read(u64_at(&locator, 8).ok_or_else(lost)?, 56)?;
            place = u64_at(&end, 48).zip(u64_at(&end, 40));
        }
    }
    let (offset, len) = place.ok_or_else(lost)?;
    let directory = read(offset, len)?;
    let mut names = Vec::new();
    let mut rest = &directory[..];
    while !rest.is_empty() {
        const ENTRY_LEN: usize = 46;
        let lens = [28, 30, 32].map(|at| u16_at(rest, at).map_or(0, usize::from));
        let end = lens.iter().fold(ENTRY_LEN, |sum, len| sum.saturating_add(*len));
        let name = lens.first().and_then(|len| rest.get(ENTRY_LEN..)?.get(..*len)).ok_or_else(lost)?;
        names.push(String::from_utf8_lossy(name).into_owned());
        rest = rest.get(end..).ok_or_else(lost)?;
    }
    Ok(names)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}
