//! The records of an archive, one by one: those that hold no tensor are checked when the file is verified.

use std::collections::HashSet;
use std::io;

use super::archive::{Archive, copy_record};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::limits::Limits;
use crate::read::Parts;
use crate::source::ReadAt;

/// Compares every record with its CRC-32; but `storages`, which are known by where their data begins, are left to who has read them.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn check(source: &dyn ReadAt, storages: &HashSet<u64>, parts: &mut Parts<'_>) -> Result<()> {
    let archive = Archive::read(source, &Limits::NONE)?;
    for record in archive.records() {
        if record.crc32.is_none() {
            parts.unchecked();
        } else if storages.contains(&record.data_offset) {
            parts.storage();
        } else {
            let outcome = copy_record(source, record, &mut io::sink());
            let named = outcome.map_err(|e| e.with_words_before(&format!("{}: ", quoted(&record.name))));
            parts.checked(record.stored_len, named)?;
        }
    }
    Ok(())
}

/// Reads every record, and checks its length and CRC-32.
///
/// # Errors
/// The first that is wrong.
#[cfg(feature = "fs")]
pub(super) fn check_all(source: &dyn ReadAt) -> Result<()> {
    let archive = Archive::read(source, &Limits::NONE)?;
    archive.records().iter().try_for_each(|record| copy_record(source, record, &mut io::sink()))
}

/// The records of an archive that are no part of a checkpoint as PyTorch writes it: what other programs put there. They are not read, and no
/// conversion keeps them. None, of a file that is no ZIP archive.
///
/// # Errors
/// What is wrong with the archive.
pub fn further_records(source: &dyn ReadAt, limits: &Limits) -> Result<Vec<String>> {
    if !crate::read::read_start(source)?.starts_with(b"PK") {
        return Ok(Vec::new());
    }
    let archive = Archive::read(source, limits)?;
    let is_known = |name: &str| {
        let within = name.split_once('/').map_or(name, |(_, within)| within);
        matches!(
            within,
            "data.pkl" | "constants.pkl" | "version" | "byteorder" | ".format_version" | ".storage_alignment"
        ) || ["data/", "constants/", "code/", "traced_inputs", ".data/"].iter().any(|folder| within.starts_with(folder))
    };
    // A folder has a record of its own in archives that were packed by hand.
    let names = archive.records().iter().map(|record| record.name.as_str());
    Ok(names.filter(|name| !is_known(name) && !name.ends_with('/')).map(str::to_owned).collect())
}

/// Names the record that a damaged place is in.
#[cold]
pub(super) fn name_damaged(e: Error, source: &dyn ReadAt) -> Error {
    let Some(offset) = e.offset().filter(|_| e.kind() == ErrorKind::Corrupt) else { return e };
    let Ok(archive) = Archive::read(source, &Limits::NONE) else { return e };
    match archive.records().iter().find(|record| record.data_offset == offset) {
        // Without the record that it is about, there are no tensors that could be read nevertheless.
        Some(record) => {
            let named = e.with_words_before(&format!("{}: ", quoted(&record.name)));
            named.with_advice("restore it from another copy")
        }
        None => e,
    }
}

/// Whether a file of which only the first entry of a ZIP archive is known is a checkpoint that was cut off: it begins as some do, and has
/// no directory.
pub(crate) fn is_cut_off(first_name: &[u8], source: &dyn ReadAt) -> bool {
    let within = first_name.splitn(2, |&byte| byte == b'/').nth(1).unwrap_or_default();
    let begins_as_one =
        matches!(within, b"version" | b"byteorder" | b".format_version") || within.starts_with(b"data/");
    begins_as_one && !super::archive::has_directory(source)
}
