//! [`OpenFile`]: the file of a table that rows go into.

use std::path::PathBuf;

use super::{Batch, TableFile, TableWriterOptions};
use crate::error::Result;
use crate::format::len_u64;
use crate::format::value::{Dict, LIST_LEN, TensorRef, Value};
use crate::write::{RowsWriter, Writer};

/// The file that rows go into. Its data is on the way to the disk; its ids and labels, which stand behind the data, are held here.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    rows: RowsWriter,
    ids: Vec<Value>,
    labels: Vec<i64>,
}

impl OpenFile {
    pub(super) fn begin(path: PathBuf, options: &TableWriterOptions) -> Result<OpenFile> {
        let writer = Writer::create_with(&path, options.file, &options.save)?;
        let rows = writer.into_rows(options.data_key(), options.dtype, options.row_shape.as_slice())?;
        Ok(OpenFile { path, rows, ids: Vec::new(), labels: Vec::new() })
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(super) fn row_count(&self) -> u64 {
        len_u64(self.ids.len())
    }

    pub(super) fn append<S: AsRef<str>>(&mut self, batch: &Batch<'_, S>) -> Result<()> {
        self.rows.write_bytes(batch.bytes)?;
        self.ids.extend(batch.ids.iter().map(|id| Value::from(id.as_ref())));
        self.labels.extend_from_slice(batch.labels);
        Ok(())
    }

    /// Writes ids and labels, and puts the file in place.
    pub(super) fn commit(self, options: &TableWriterOptions) -> Result<TableFile> {
        let (mut writer, rows) = self.rows.finish()?;
        let mut table = Dict::new();
        table.push(options.ids_key(), Value::List(self.ids));
        table.push(options.data_key(), TensorRef::new(options.data_key()));
        if options.labels {
            let key = options.labels_key();
            if self.labels.len() < LIST_LEN {
                table.push(key, Value::from_iter(self.labels));
            } else {
                writer.tensor(key, &self.labels)?;
                table.push(key, TensorRef::list(key));
            }
        }
        writer.document(table.into());
        for (key, value) in &options.metadata {
            writer.metadata(key, value.clone());
        }
        writer.commit()?;
        Ok(TableFile { path: self.path, rows })
    }
}
