//! What is there of a table already.

use std::ffi::OsStr;

use super::name::Prefix;
use super::{TableFile, TableWriterOptions};
use crate::commit::file_system::{Directory, FileKind, uninterrupted};
use crate::commit::{Durability, sweep_target};
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::DType;
use crate::format::len_u64;
use crate::format::value::{TensorRef, Value};
use crate::open::OpenOptions;
use crate::read::{Checkpoint, VerifyOptions};
use crate::source::ReadAt;

const OTHER_TABLE: &str = "resume with the options that the table was begun with, or choose another prefix";
const NOT_WHOLE: &str = "remove it and the files after it, and resume: their rows are then written again";

/// Refuses to begin where there are files already: rows of two tables would come one after the other.
pub(super) fn check_new(prefix: &Prefix, options: &TableWriterOptions) -> Result<()> {
    let directory = open_directory(prefix, options)?;
    match numbers(&*directory, prefix)?.first() {
        Some(&number) => Err(Error::invalid("there is a table of that prefix already")
            .with_path(prefix.path(number))
            .with_advice("resume it, or remove its files, or choose another prefix")),
        None => clear_next(&*directory, prefix, 0),
    }
}

/// The files of a table, checked. What dead writers left unfinished is removed.
pub(super) fn survey(prefix: &Prefix, options: &TableWriterOptions) -> Result<Vec<TableFile>> {
    let directory = open_directory(prefix, options)?;
    let numbers = numbers(&*directory, prefix)?;
    if let Some((missing, &there)) = (0..).zip(&numbers).find(|(expected, number)| expected != *number) {
        let there = prefix.path(there);
        let message = format!("this file of the table is missing, and {} is there", there.display());
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_path(prefix.path(missing))
            .with_advice("put it back, or remove the files after it, and resume: their rows are then written again"));
    }
    let mut files = Vec::with_capacity(numbers.len());
    for &number in &numbers {
        let path = prefix.path(number);
        let rows = check_file(&*directory, &prefix.name(number), options).map_err(|e| e.with_path(&path))?;
        let is_last = len_u64(files.len()).saturating_add(1) == len_u64(numbers.len());
        let allowed = options.rows_at_most();
        if rows > allowed || (rows < allowed && !is_last) {
            let message = format!("has {rows} rows, and a file of this table has {allowed}");
            return Err(Error::invalid(message).with_path(&path).with_advice(OTHER_TABLE));
        }
        files.push(TableFile { path, rows });
    }
    let next = len_u64(files.len());
    clear_next(&*directory, prefix, next)?;
    if let Some(last) = next.checked_sub(1) {
        let _ = sweep_target(&*directory, prefix.directory(), &prefix.name(last));
        if options.save.promised() == Durability::Full {
            // Who put the last file in place may have died before the flush that makes it last.
            directory.sync().map_err(|e| {
                Error::io("the table's directory could not be flushed to the device", e)
                    .with_kind(ErrorKind::NotDurable)
                    .with_path(prefix.directory())
            })?;
        }
    }
    Ok(files)
}

/// Whether there is a file of that number.
pub(super) fn is_there(prefix: &Prefix, number: u64, options: &TableWriterOptions) -> Result<bool> {
    let name = prefix.name(number);
    uninterrupted(|| options.save.saves_in().open_directory(prefix.directory())?.status(&name))
        .map(|status| status.is_some())
        .map_err(|e| Error::io("cannot look for another of that name", e).with_path(prefix.path(number)))
}

fn open_directory(prefix: &Prefix, options: &TableWriterOptions) -> Result<Box<dyn Directory>> {
    let path = prefix.directory();
    uninterrupted(|| options.save.saves_in().open_directory(path)).map_err(|e| {
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        let e = Error::io("cannot open the table's directory", e).with_path(path);
        if missing { e.with_advice("create the directory first") } else { e }
    })
}

/// The numbers of the files that there are, ascending.
fn numbers(directory: &dyn Directory, prefix: &Prefix) -> Result<Vec<u64>> {
    let names = uninterrupted(|| directory.names())
        .map_err(|e| Error::io("cannot read the table's directory", e).with_path(prefix.directory()))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| prefix.number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes what dead writers left of the next file, and refuses to go on beside a living one.
fn clear_next(directory: &dyn Directory, prefix: &Prefix, next: u64) -> Result<()> {
    let swept = sweep_target(directory, prefix.directory(), &prefix.name(next));
    match swept {
        Ok(swept) if !swept.live.is_empty() => Err(Error::invalid("another writer has begun this file of the table")
            .with_path(prefix.path(next))
            .with_advice("let it finish, or end it, and resume")),
        // What could not be removed now is when the file has been saved.
        _ => Ok(()),
    }
}

/// Checks that a file is whole and of the table that the options describe; gives its rows.
fn check_file(directory: &dyn Directory, name: &OsStr, options: &TableWriterOptions) -> Result<u64> {
    let file = uninterrupted(|| directory.open_existing(name)).map_err(|e| Error::io("cannot open", e))?;
    if uninterrupted(|| file.status()).map_err(|e| Error::io("cannot look at", e))?.kind != FileKind::File {
        return Err(Error::invalid("is not a regular file"));
    }
    let (checkpoint, document) = whole(&file, options.verify).map_err(|e| match e.kind() {
        ErrorKind::Io => e,
        _ => e.with_advice(NOT_WHOLE),
    })?;
    rows_of(&checkpoint, &document, options).map_err(|message| Error::invalid(message).with_advice(OTHER_TABLE))
}

fn whole(file: &dyn ReadAt, verify: bool) -> Result<(Checkpoint, Value)> {
    let checkpoint = OpenOptions::new().open_structure(file)?;
    checkpoint.check_records()?;
    checkpoint.metadata()?;
    if verify {
        checkpoint.verify_in(file, &VerifyOptions::default())?.into_result()?;
    }
    let document = checkpoint.document()?.unwrap_or_default();
    Ok((checkpoint, document))
}

/// The rows of a file, or why it is not of this table.
fn rows_of(checkpoint: &Checkpoint, table: &Value, options: &TableWriterOptions) -> Result<u64, String> {
    let tensor = |key: &str, is_list: bool| match table.get(key).map(Value::unmarked) {
        Some(Value::Tensor(tensor)) if tensor.is_list() == is_list => named(checkpoint, tensor),
        _ => None,
    };
    let key = options.data_key();
    let (dtype, shape) = tensor(key, false).ok_or_else(|| format!("has no tensor {key:?} in its document"))?;
    let (&rows, row_shape) = shape.split_first().ok_or_else(|| format!("has no rows in {key:?}, but a scalar"))?;
    if (dtype, row_shape) != (options.dtype, &options.row_shape) {
        let (expected, shape) = (options.dtype, &options.row_shape);
        return Err(format!("has rows of shape {row_shape:?} of {dtype}, and this table of {shape:?} of {expected}"));
    }
    let length = |key: &str| match table.get(key).map(Value::unmarked) {
        Some(Value::List(items)) => Some(len_u64(items.len())),
        _ => tensor(key, true).and_then(|(_, shape)| shape.first().copied()),
    };
    let key = options.ids_key();
    match length(key) {
        Some(ids) if ids == rows => {}
        Some(ids) => return Err(format!("has {rows} rows, and {ids} ids in {key:?}")),
        None => return Err(format!("has no list {key:?} in its document")),
    }
    let key = options.labels_key();
    match (options.labels, length(key)) {
        (true, Some(labels)) if labels == rows => Ok(rows),
        (true, Some(labels)) => Err(format!("has {rows} rows, and {labels} labels in {key:?}")),
        (true, None) => Err("has no labels, and the rows of this table have".to_owned()),
        (false, None) => Ok(rows),
        (false, Some(_)) => Err("has labels, and the rows of this table have none".to_owned()),
    }
}

fn named<'c>(checkpoint: &'c Checkpoint, tensor: &TensorRef) -> Option<(DType, &'c [u64])> {
    let tensor = checkpoint.get(&tensor.name).ok()??;
    Some((tensor.dtype(), tensor.shape()))
}
