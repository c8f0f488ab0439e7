//! [`TableWriterOptions`]: what a table holds, and how its files are saved.

use std::collections::BTreeMap;

use crate::commit::SaveOptions;
use crate::error::{Error, Result};
use crate::format::dtype::DType;
use crate::format::value::Value;
use crate::format::{layout, len_usize};
use crate::write::{FileOptions, IntoShape};

/// What a table holds, and how its files are saved.
#[derive(Clone, Debug)]
#[must_use]
pub struct TableWriterOptions {
    pub(super) dtype: DType,
    pub(super) row_shape: Vec<u64>,
    /// The length of a row, in bytes.
    pub(super) row_len: usize,
    pub(super) rows_per_file: Option<u64>,
    pub(super) labels: bool,
    pub(super) keys: [String; 3],
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) file: FileOptions,
    pub(super) save: SaveOptions,
    pub(super) verify: bool,
}

impl TableWriterOptions {
    /// Rows of this dtype and shape (`[3328]`, for as many columns), any number in a file, without labels, saved durably.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a row takes no bytes, or no whole number of them.
    pub fn new(dtype: DType, row_shape: impl IntoShape) -> Result<TableWriterOptions> {
        let row_shape = row_shape.into_shape()?;
        let Some(row_len) = layout::row_len(&row_shape, dtype.bits()).and_then(len_usize) else {
            let message = format!("rows of shape {row_shape:?} of {dtype} take no whole number of bytes, or none");
            return Err(Error::invalid(message).with_advice("a row of a table needs an element at least"));
        };
        Ok(TableWriterOptions {
            dtype,
            row_shape,
            row_len,
            rows_per_file: None,
            labels: false,
            keys: ["ids", "data", "labels"].map(str::to_owned),
            metadata: BTreeMap::new(),
            file: FileOptions::new(),
            save: SaveOptions::new(),
            verify: false,
        })
    }

    /// After how many rows a file is finished and the next one begun. It must not be 0.
    ///
    /// Fewer than so many rows, and their batch, are to be computed again when a job dies. Ids and labels of so many are in memory: with ids of 17
    /// bytes and labels about 140 bytes a row, when the file is finished.
    pub fn rows_per_file(mut self, rows: u64) -> TableWriterOptions {
        self.rows_per_file = Some(rows);
        self
    }

    /// Whether each row has a label.
    pub fn labels(mut self, labels: bool) -> TableWriterOptions {
        self.labels = labels;
        self
    }

    /// The keys of ids, rows and labels in each file: `ids`, `data` and `labels` unless told otherwise.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if two of them are the same, or one is empty.
    pub fn keys(mut self, ids: &str, data: &str, labels: &str) -> Result<TableWriterOptions> {
        if ids == data || ids == labels || data == labels || [ids, data, labels].contains(&"") {
            let message = format!("the keys {ids:?}, {data:?} and {labels:?} are not three different ones");
            return Err(Error::invalid(message));
        }
        self.keys = [ids, data, labels].map(str::to_owned);
        Ok(self)
    }

    /// Sets a metadata entry of every file; a later one of the same key replaces an earlier one.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Value>) -> TableWriterOptions {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// What the files look like.
    pub fn file(mut self, file: FileOptions) -> TableWriterOptions {
        self.file = file;
        self
    }

    /// How each file is saved.
    pub fn save(mut self, save: SaveOptions) -> TableWriterOptions {
        self.save = save;
        self
    }

    /// Whether [`resume`](super::TableWriter::resume) verifies every byte of the files that are there, and not their structure alone.
    /// **Cost**: reads them.
    pub fn verify(mut self, verify: bool) -> TableWriterOptions {
        self.verify = verify;
        self
    }

    pub(super) fn ids_key(&self) -> &str {
        &self.keys[0]
    }

    pub(super) fn data_key(&self) -> &str {
        &self.keys[1]
    }

    pub(super) fn labels_key(&self) -> &str {
        &self.keys[2]
    }

    /// The most rows a file may have.
    pub(super) fn rows_at_most(&self) -> u64 {
        self.rows_per_file.unwrap_or(u64::MAX)
    }
}
