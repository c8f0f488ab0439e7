//! [`Writer`]: tensors written as they are produced, in one pass and bounded memory.

use std::io;
use std::path::Path;

use super::FileOptions;
use super::assembler::Assembler;
use super::builder::StorageId;
use super::rows::RowsWriter;
use super::tensor_data::{Bytes, IntoShape, IntoTensor, TensorData, View, canonical_strides, contiguous_len};
use crate::commit::{AtomicFile, SaveOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::catalog::{self, Defaults, Extras, Tensor};
use crate::format::dtype::DType;
use crate::format::layout;
use crate::format::value::Value;

/// Writes tensors one after the other, as they are produced.
///
/// Nothing is visible under the file's name until [`commit`](Writer::commit). **Cost**: one pass; about 1 MiB of buffers and, for each
/// tensor, what the index will say of it, whatever the length of the data.
///
/// A writer that is dropped without commit removes what it wrote. If the process dies, the unfinished file stays beside the target
/// (as `.NAME.….dolmen-tmp`), with each tensor that was finished readable from its record, until the next successful save of
/// the same target.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("features.dolmen");
/// use dolmen::{DType, Writer};
///
/// let mut w = Writer::create(&path)?;
/// w.push("labels", DType::U8, [3], &[0, 1, 1])?;
/// let mut rows = w.begin_rows("embeddings", DType::F32, [2])?;
/// for row in [[0.5f32, 1.0], [1.5, 2.0]] {
///     rows.write_elements(&row)?;
/// }
/// assert_eq!(rows.finish()?, 2);
/// w.commit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer {
    assembler: Assembler<AtomicFile>,
    extras: Extras,
    path: std::path::PathBuf,
    /// Why no more may be written.
    failed: Option<String>,
}

impl std::fmt::Debug for Assembler<AtomicFile> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler").field("tensors", &self.catalog().tensors.len()).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins a file that will replace, or be, the one at this path.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file beside it cannot be made.
    pub fn create(path: impl AsRef<Path>) -> Result<Writer> {
        Writer::create_with(path, FileOptions::new(), &SaveOptions::new())
    }

    /// As [`create`](Self::create), with options.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(path: impl AsRef<Path>, file: FileOptions, save: &SaveOptions) -> Result<Writer> {
        let path = path.as_ref();
        let begin = || Assembler::new(AtomicFile::create(path, save)?, file, None);
        let assembler = begin().map_err(|e| e.with_path(path))?;
        Ok(Writer { assembler, extras: Extras::default(), path: path.to_path_buf(), failed: None })
    }

    /// Runs a step; after one has failed half way, nothing else may be written.
    fn step<T>(&mut self, step: impl FnOnce(&mut Assembler<AtomicFile>) -> Result<T>) -> Result<T> {
        if let Some(reason) = &self.failed {
            let e = Error::invalid(format!("an earlier tensor could not be written: {reason}"));
            return Err(e.with_path(&self.path));
        }
        step(&mut self.assembler).map_err(|e| {
            self.failed = Some(e.reason());
            e.with_path(&self.path)
        })
    }

    fn check_new_name(&self, name: &str) -> Result<()> {
        if self.assembler.catalog().tensors.contains_key(name) {
            let e = Error::invalid("a tensor of this name was written before");
            return Err(e.with_tensor(name).with_path(&self.path));
        }
        Ok(())
    }

    /// Writes a contiguous tensor of raw bytes: little-endian elements in row-major order.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the shape does not fit the bytes, or the name was used before: nothing has
    /// been written then. [`Io`](ErrorKind::Io) if writing fails; the writer is of no more use then.
    pub fn push(&mut self, name: &str, dtype: DType, shape: impl IntoShape, bytes: &[u8]) -> Result<()> {
        self.tensor(name, TensorData::raw(dtype, shape, bytes)?)
    }

    /// Writes a tensor, as [`Builder::tensor`](crate::Builder::tensor) adds one.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn tensor<'t>(&mut self, name: &str, tensor: impl IntoTensor<'t>) -> Result<()> {
        let wrong = |e: Error, path: &Path| e.with_tensor(name).with_path(path);
        let TensorData { dtype, shape, strides, bytes } = tensor.into_tensor().map_err(|e| wrong(e, &self.path))?;
        let strides = canonical_strides(&shape, strides);
        if strides.is_none() {
            let expected = contiguous_len(dtype, &shape).map_err(|e| wrong(e, &self.path))?;
            if expected != bytes.len() {
                let message =
                    format!("shape {shape:?} of {dtype} takes {expected} bytes, and {} were given", bytes.len());
                return Err(wrong(Error::invalid(message).with_numbers(expected, bytes.len()), &self.path));
            }
        }
        let tensor = Tensor { dtype, shape, strides, storage: 0, start: 0 };
        catalog::check_tensor(name, &tensor, bytes.len()).map_err(|e| wrong(e, &self.path))?;
        self.check_new_name(name)?;
        self.step(|assembler| assembler.begin(name, tensor, Some(bytes.len()), bytes.is_copy()))?;
        match &bytes {
            Bytes::Here(bytes) => self.step(|assembler| assembler.data(bytes))?,
            _ => {
                let mut out = TensorWriter::new(self, OpenTensor::of_length(name));
                let written = bytes.write(&mut out).map_err(|e| e.with_tensor(name));
                // What went wrong here is told rather than what the producer made of it.
                let failed = out.error.take();
                failed.map_or(written, Err).inspect_err(|e| self.failed = Some(e.reason()))?;
            }
        }
        self.step(|assembler| assembler.end(None))
    }

    /// Begins a contiguous tensor whose bytes are then written piece by piece: exactly as many as it takes.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn begin(&mut self, name: &str, dtype: DType, shape: impl IntoShape) -> Result<TensorWriter<'_>> {
        let wrong = |e: Error, path: &Path| e.with_tensor(name).with_path(path);
        let shape = shape.into_shape().map_err(|e| wrong(e, &self.path))?;
        let len = contiguous_len(dtype, &shape).map_err(|e| wrong(e, &self.path))?;
        let tensor = Tensor { dtype, shape, strides: None, storage: 0, start: 0 };
        catalog::check_tensor(name, &tensor, len).map_err(|e| wrong(e, &self.path))?;
        self.check_new_name(name)?;
        self.step(|assembler| assembler.begin(name, tensor, Some(len), false))?;
        Ok(TensorWriter::new(self, OpenTensor::of_length(name)))
    }

    /// Begins a tensor whose number of rows is not known yet: `row_shape` is its shape without the first axis. Whole rows are then
    /// written; their number becomes the first dim.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`InvalidInput`](ErrorKind::InvalidInput) if a row takes no whole number of bytes, or none.
    pub fn begin_rows(&mut self, name: &str, dtype: DType, row_shape: impl IntoShape) -> Result<TensorWriter<'_>> {
        let tensor = self.open_rows(name, dtype, row_shape)?;
        Ok(TensorWriter::new(self, tensor))
    }

    /// As [`begin_rows`](Self::begin_rows), for who keeps the tensor open from one call to the next and cannot borrow the writer all that
    /// time: it goes into the tensor, and [comes back](RowsWriter::finish) when that is finished.
    ///
    /// # Errors
    /// As there; the writer is dropped then, and what it wrote with it.
    pub fn into_rows(mut self, name: &str, dtype: DType, row_shape: impl IntoShape) -> Result<RowsWriter> {
        let tensor = self.open_rows(name, dtype, row_shape)?;
        Ok(RowsWriter::new(self, tensor))
    }

    fn open_rows(&mut self, name: &str, dtype: DType, row_shape: impl IntoShape) -> Result<OpenTensor> {
        let wrong = |e: Error, path: &Path| e.with_tensor(name).with_path(path);
        let row_shape = row_shape.into_shape().map_err(|e| wrong(e, &self.path))?;
        let Some(row_len) = layout::row_len(&row_shape, dtype.bits()) else {
            let e = Error::invalid(format!(
                "rows of shape {row_shape:?} of {dtype} take no whole number of bytes, or none"
            ));
            return Err(wrong(e.with_advice("declare the whole shape with `begin`"), &self.path));
        };
        let shape: Vec<u64> = std::iter::once(0).chain(row_shape).collect();
        let tensor = Tensor { dtype, shape, strides: None, storage: 0, start: 0 };
        catalog::check_tensor(name, &tensor, u64::MAX).map_err(|e| wrong(e, &self.path))?;
        self.check_new_name(name)?;
        self.step(|assembler| assembler.begin(name, tensor, None, false))?;
        Ok(OpenTensor { name: name.to_owned(), row_len: Some(row_len), written: 0 })
    }

    /// Adds a tensor over a storage that was written before.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn view(&mut self, name: &str, storage: StorageId, view: View) -> Result<()> {
        let wrong = |e: Error, path: &Path| e.with_tensor(name).with_path(path);
        let View { dtype, shape, strides, start } = view;
        let strides = canonical_strides(&shape, strides);
        let tensor = Tensor { dtype, shape, strides, storage: storage.0, start };
        let Some(written) = self.assembler.catalog().storages.get(storage.0 as usize) else {
            return Err(wrong(Error::invalid("its storage was not written by this writer"), &self.path));
        };
        catalog::check_tensor(name, &tensor, written.data_len).map_err(|e| wrong(e, &self.path))?;
        self.check_new_name(name)?;
        self.step(|assembler| assembler.view(name, tensor))
    }

    /// Adds a second name for a tensor that was written: the same storage, shape and strides.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`NotFound`](ErrorKind::NotFound) if there is no tensor of the old name.
    pub fn alias(&mut self, name: &str, existing: &str) -> Result<()> {
        self.check_new_name(name)?;
        let tensor = self.existing(existing)?.clone();
        self.step(|assembler| assembler.view(name, tensor))
    }

    /// The storage of a tensor that was written.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none of that name.
    pub fn storage_of(&self, name: &str) -> Result<StorageId> {
        Ok(StorageId(self.existing(name)?.storage))
    }

    fn existing(&self, name: &str) -> Result<&Tensor> {
        self.assembler.catalog().tensors.get(name).ok_or_else(|| {
            let e = Error::new(ErrorKind::NotFound, "no tensor of this name was written");
            e.with_tensor(name).with_path(&self.path)
        })
    }

    /// Sets a metadata entry; a later one of the same key replaces an earlier one.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.extras.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets the document: the nested object that these tensors are part of.
    pub fn document(&mut self, document: Value) -> &mut Self {
        self.extras.document = Some(document);
        self
    }

    /// Adds an ancillary section of a private kind, as [`Builder::section`](crate::Builder::section).
    ///
    /// # Errors
    /// As there.
    pub fn section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<&mut Self> {
        self.extras.private_section(kind, bytes)?;
        Ok(self)
    }

    /// Where the unfinished file is, until it is committed.
    pub fn temp_path(&self) -> &Path {
        self.assembler.sink().temp_path()
    }

    /// Writes the index, flushes, and gives the file its name: it is there, whole, from this moment on, or not at all.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a tensor was begun and not finished, or the document refers to one that is
    /// not there; [`Io`](ErrorKind::Io) with the old file (if any) untouched; [`NotDurable`](ErrorKind::NotDurable) if the new file is in place
    /// but might not survive a crash.
    pub fn commit(self) -> Result<()> {
        let path = self.path;
        if let Some(reason) = self.failed {
            let e = Error::invalid(format!("nothing is saved, for a tensor could not be written: {reason}"));
            return Err(e.with_path(path));
        }
        let finish = |assembler: Assembler<AtomicFile>| {
            let (file, _, _) = assembler.finish(&self.extras, &Defaults::new())?;
            file.commit()
        };
        finish(self.assembler).map_err(|e| e.with_path(path))
    }

    /// Gives up and removes what was written. Dropping does the same.
    pub fn discard(self) {}
}

/// The tensor that a writer is in the middle of.
#[derive(Debug)]
pub(super) struct OpenTensor {
    name: String,
    /// The length of a row, if it was the shape of a row that was declared, and not the whole shape.
    row_len: Option<u64>,
    written: u64,
}

impl OpenTensor {
    fn of_length(name: &str) -> OpenTensor {
        OpenTensor { name: name.to_owned(), row_len: None, written: 0 }
    }

    pub(super) fn write(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<()> {
        writer.step(|assembler| assembler.data(bytes))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Gives the number of rows if that was not declared, and of bytes otherwise.
    pub(super) fn finish(self, writer: &mut Writer) -> Result<u64> {
        let OpenTensor { name, row_len, written } = self;
        if let Some(row_len) = row_len.filter(|&row_len| !written.is_multiple_of(row_len)) {
            let e = Error::invalid(format!("{written} bytes are no whole number of rows of {row_len} bytes"));
            writer.failed = Some(e.reason());
            return Err(e.with_tensor(&name).with_path(&writer.path));
        }
        let rows = row_len.map(|row_len| written / row_len);
        writer.step(|assembler| assembler.end(rows))?;
        Ok(rows.unwrap_or(written))
    }
}

/// Takes the bytes of one tensor, piece by piece. [`finish`](TensorWriter::finish) ends it.
///
/// If it is dropped unfinished, the writer cannot be committed.
#[must_use = "the tensor must be finished"]
pub struct TensorWriter<'w> {
    writer: &'w mut Writer,
    tensor: OpenTensor,
    error: Option<Error>,
}

impl<'w> TensorWriter<'w> {
    fn new(writer: &'w mut Writer, tensor: OpenTensor) -> TensorWriter<'w> {
        TensorWriter { writer, tensor, error: None }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if they are more than the shape takes; [`Io`](ErrorKind::Io) if writing
    /// fails.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.tensor.write(self.writer, bytes)
    }

    /// Takes the next elements.
    ///
    /// # Errors
    /// As [`write_bytes`](Self::write_bytes). That `T` is the tensor's dtype is the caller's affair: f8 types and others have
    /// no Rust type of their own.
    pub fn write_elements<T: crate::Element>(&mut self, elements: &[T]) -> Result<()> {
        self.write_bytes(bytemuck::cast_slice(elements))
    }

    /// Ends the tensor; gives the number of its rows if that was not declared, and of its bytes otherwise.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if bytes are missing, or the last row is incomplete: the writer cannot be committed
    /// then.
    pub fn finish(self) -> Result<u64> {
        self.tensor.finish(self.writer)
    }
}

impl io::Write for TensorWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bytes(bytes).map(|()| bytes.len()).map_err(|e| {
            let told = io::Error::other(e.reason());
            self.error.get_or_insert(e);
            told
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for TensorWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorWriter").field("tensor", &self.tensor).finish_non_exhaustive()
    }
}
