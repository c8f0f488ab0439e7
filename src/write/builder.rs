//! [`Builder`]: content that is at hand, gathered and then written.

use std::collections::BTreeMap;
use std::io;

use super::FileOptions;
use super::assembler::{Assembler, Known};
use super::plan::Plan;
use super::sink::{InMemory, Nowhere, Sequential, Sink};
use super::tensor_data::{Bytes, IntoTensor, StorageSource, TensorData, View, canonical_strides, contiguous_len};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Defaults, Extras, Tensor, check_tensor};
use crate::format::header::Header;
use crate::format::value::Value;
use crate::source::AlignedBytes;

/// A storage that was given to a [`Builder`] or a [`Writer`](crate::Writer), to be viewed by tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StorageId(pub(crate) u32);

/// Gathers tensors, metadata and a document, and writes them.
///
/// It borrows what it is given. Each tensor is checked when it is added: a shape that does not fit its bytes, or a name used
/// twice, is an error then and there. The same calls give the same bytes, whenever and wherever.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.dolmen");
/// let weights = vec![0.25f32; 12];
/// let mut b = dolmen::Builder::new();
/// b.tensor("encoder.weight", (&weights, [3, 4]))?;
/// b.alias("decoder.weight", "encoder.weight")?;
/// b.metadata("version", "1.0");
/// b.save(&path)?;
///
/// let ckpt = dolmen::Checkpoint::open(&path)?;
/// assert_eq!(ckpt.tensor("decoder.weight")?.as_slice::<f32>()?, weights);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct Builder<'a> {
    options: FileOptions,
    storages: Vec<Bytes<'a>>,
    /// What to write, in the order in which it was given.
    records: Vec<Record>,
    /// Which record each name is.
    names: BTreeMap<String, usize>,
    extras: Extras,
}

struct Record {
    name: String,
    tensor: Tensor,
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("tensors", &self.records.len())
            .field("storages", &self.storages.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Builder<'a> {
    /// Nothing yet.
    pub fn new() -> Builder<'a> {
        Builder::default()
    }

    /// Nothing yet, with another alignment or block length than the usual.
    pub fn with_options(options: FileOptions) -> Builder<'a> {
        Builder { options, ..Builder::default() }
    }

    /// Adds a tensor with a storage of its own.
    ///
    /// **Cost**: copies no data.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the shape does not fit the bytes, or the name was used before.
    pub fn tensor(&mut self, name: &str, tensor: impl IntoTensor<'a>) -> Result<&mut Self> {
        let TensorData { dtype, shape, strides, bytes } = tensor.into_tensor().map_err(|e| e.with_tensor(name))?;
        let strides = canonical_strides(&shape, strides);
        if strides.is_none() {
            let expected = contiguous_len(dtype, &shape).map_err(|e| e.with_tensor(name))?;
            if expected != bytes.len() {
                let message =
                    format!("shape {shape:?} of {dtype} takes {expected} bytes, and {} were given", bytes.len());
                return Err(Error::invalid(message).with_tensor(name).with_numbers(expected, bytes.len()));
            }
        }
        let data_len = bytes.len();
        let storage = StorageId(self.next_storage()?);
        let tensor = Tensor { dtype, shape, strides, storage: storage.0, start: 0 };
        self.check(name, &tensor, data_len)?;
        self.storages.push(bytes);
        self.add(name, tensor);
        Ok(self)
    }

    /// Adds a storage, which tensors then view with [`view`](Self::view). At least one must.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are 2^32 − 1 already.
    pub fn storage(&mut self, bytes: impl Into<std::borrow::Cow<'a, [u8]>>) -> Result<StorageId> {
        self.storage_from(Bytes::Here(bytes.into()))
    }

    /// Adds a storage of `len` bytes that are produced when the file is written, never all in memory, as
    /// [`TensorData::deferred`] does it. At least one tensor must view it.
    ///
    /// # Errors
    /// As [`storage`](Self::storage).
    pub fn deferred_storage(
        &mut self,
        len: u64,
        produce: impl Fn(&mut dyn io::Write) -> Result<()> + Send + Sync + 'static,
    ) -> Result<StorageId> {
        self.storage_from(Bytes::Deferred(len, Box::new(produce)))
    }

    /// Adds a storage of another checkpoint.
    pub(crate) fn copied_storage(
        &mut self,
        source: &'a dyn StorageSource,
        storage: u32,
        len: u64,
    ) -> Result<StorageId> {
        self.storage_from(Bytes::Copied { source, storage, range: 0..len })
    }

    /// Whether a tensor of that name was added.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn storage_from(&mut self, bytes: Bytes<'a>) -> Result<StorageId> {
        let number = self.next_storage()?;
        self.storages.push(bytes);
        Ok(StorageId(number))
    }

    /// Adds a tensor over a storage that was given before.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it does not fit the storage, or the name was used before.
    pub fn view(&mut self, name: &str, storage: StorageId, view: View) -> Result<&mut Self> {
        let View { dtype, shape, strides, start } = view;
        let strides = canonical_strides(&shape, strides);
        let Some(data_len) = self.storages.get(storage.0 as usize).map(Bytes::len) else {
            return Err(Error::invalid("its storage was not given to this builder").with_tensor(name));
        };
        let tensor = Tensor { dtype, shape, strides, storage: storage.0, start };
        self.check(name, &tensor, data_len)?;
        self.add(name, tensor);
        Ok(self)
    }

    /// Adds a second name for a tensor: the same storage, shape and strides. Tied weights, for example.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is no tensor of the old name;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the new one was used before.
    pub fn alias(&mut self, name: &str, existing: &str) -> Result<&mut Self> {
        let tensor = self.existing(existing)?.clone();
        self.check(name, &tensor, u64::MAX)?;
        self.add(name, tensor);
        Ok(self)
    }

    /// The storage of a tensor that was added.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none of that name.
    pub fn storage_of(&self, name: &str) -> Result<StorageId> {
        Ok(StorageId(self.existing(name)?.storage))
    }

    fn existing(&self, name: &str) -> Result<&Tensor> {
        let record = self.names.get(name).and_then(|&record| self.records.get(record));
        record
            .map(|record| &record.tensor)
            .ok_or_else(|| Error::new(crate::ErrorKind::NotFound, "no tensor of this name was added").with_tensor(name))
    }

    fn next_storage(&self) -> Result<u32> {
        u32::try_from(self.storages.len())
            .ok()
            .filter(|&number| number < u32::MAX)
            .ok_or_else(|| Error::invalid("there are too many storages"))
    }

    fn check(&self, name: &str, tensor: &Tensor, data_len: u64) -> Result<()> {
        if self.names.contains_key(name) {
            return Err(Error::invalid("a tensor of this name was added before").with_tensor(name));
        }
        check_tensor(name, tensor, data_len)
    }

    fn add(&mut self, name: &str, tensor: Tensor) {
        self.names.insert(name.to_owned(), self.records.len());
        self.records.push(Record { name: name.to_owned(), tensor });
    }

    /// Sets a metadata entry; a later one of the same key replaces an earlier one.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) -> &mut Self {
        self.extras.metadata.insert(key.into(), value.into());
        self
    }

    /// The metadata entry of a key, if one was set.
    pub fn metadata_entry(&self, key: &str) -> Option<&Value> {
        self.extras.metadata.get(key)
    }

    /// The document, if one was set.
    pub fn document_value(&self) -> Option<&Value> {
        self.extras.document.as_ref()
    }

    /// Sets the document: the nested object that these tensors are part of.
    pub fn document(&mut self, document: Value) -> &mut Self {
        self.extras.document = Some(document);
        self
    }

    /// Adds an ancillary section of a private kind (0x80000000 and above) to the index. It must not mean anything that depends
    /// on offsets in the file.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a kind that is not private, or was given before.
    pub fn section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<&mut Self> {
        self.extras.private_section(kind, bytes)?;
        Ok(self)
    }

    /// Carries along a section that this version does not know.
    pub(crate) fn carried_section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<()> {
        self.extras.section(kind, bytes)
    }

    /// Whether a section of that kind was added.
    pub(crate) fn has_section(&self, kind: u32) -> bool {
        self.extras.sections.contains_key(&kind)
    }

    /// How many tensors were added.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no tensor was added.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Lays out the file: every offset and its length, with nothing read or written yet.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if a storage has no tensor, the document refers to a tensor that is not there, or
    /// a value cannot be encoded.
    pub fn plan(&self) -> Result<Plan> {
        self.plan_with(&Defaults::new())
    }

    fn plan_with(&self, defaults: &Defaults) -> Result<Plan> {
        let records = self.in_order()?;
        let records = records.iter().map(|(name, tensor, introduced)| (*name, tensor, introduced.map(Bytes::len)));
        let extras = self.extras.encode_with(defaults, |name| self.names.contains_key(name))?;
        Plan::lay_out(self.options, records, &extras)
    }

    /// Writes the file to anything that takes bytes.
    ///
    /// **Cost**: goes over the data twice: once for the checksums, which stand before the data, and once to write it. Saving to a path
    /// goes over it once. Deferred tensors are produced twice.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`Io`](crate::ErrorKind::Io) if writing fails.
    pub fn write_to(&self, out: impl io::Write) -> Result<()> {
        let (_, header, catalog) = self.assemble(Nowhere, None, &Defaults::new())?;
        let known = Known { header, storages: catalog.storages };
        let (Sequential(mut out), _, _) = self.assemble(Sequential(out), Some(known), &Defaults::new())?;
        out.flush().map_err(|e| Error::io("cannot write", e))
    }

    /// The file as bytes in memory.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let plan = self.plan()?;
        let mut out = Vec::new();
        usize::try_from(plan.file_len())
            .ok()
            .and_then(|len| out.try_reserve_exact(len).ok())
            .ok_or_else(|| Error::io("cannot hold the file in memory", io::ErrorKind::OutOfMemory.into()))?;
        Ok(self.assemble(out, None, &Defaults::new())?.0)
    }

    /// The file in memory, aligned.
    pub(crate) fn to_aligned(&self) -> Result<AlignedBytes> {
        let no_memory = |e| Error::io("cannot hold the file in memory", e);
        let len = usize::try_from(self.plan()?.file_len()).map_err(|_| no_memory(io::ErrorKind::OutOfMemory.into()))?;
        let bytes = AlignedBytes::zeroed(len).map_err(no_memory)?;
        let (InMemory { bytes, end }, _, _) = self.assemble(InMemory { bytes, end: 0 }, None, &Defaults::new())?;
        if end != len {
            return Err(Error::invalid(format!("a file of {len} bytes was laid out, and {end} came out")));
        }
        Ok(bytes)
    }

    /// Saves the file at a path: atomically and durably. See [`commit`](crate::commit) for what that means.
    ///
    /// **Cost**: one pass over the data, the CRC computed as it is written; a buffer of 1 MiB; then fsync.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`Io`](crate::ErrorKind::Io) with the old file (if any) untouched;
    /// [`NotDurable`](crate::ErrorKind::NotDurable) if the new file is in place but might not survive a crash.
    #[cfg(feature = "fs")]
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.save_with(path, &crate::commit::SaveOptions::new())
    }

    /// As [`save`](Self::save), with options.
    ///
    /// # Errors
    /// As [`save`](Self::save); and what validation finds, if it was asked for.
    #[cfg(feature = "fs")]
    pub fn save_with(&self, path: impl AsRef<std::path::Path>, options: &crate::commit::SaveOptions) -> Result<()> {
        self.save_with_defaults(path, options, &Defaults::new())
    }

    /// As [`save_with`](Self::save_with), with metadata for keys that no entry was set of: the builder stays as it is.
    ///
    /// # Errors
    /// As [`save_with`](Self::save_with).
    #[cfg(feature = "fs")]
    pub fn save_with_defaults(
        &self,
        path: impl AsRef<std::path::Path>,
        options: &crate::commit::SaveOptions,
        defaults: &BTreeMap<String, Value>,
    ) -> Result<()> {
        let path = path.as_ref();
        let save = || {
            let plan = self.plan_with(defaults)?;
            let mut file = crate::commit::AtomicFile::create(path, options)?;
            file.preallocate(plan.file_len())?;
            let (file, _, _) = self.assemble(file, None, defaults)?;
            file.commit()
        };
        save().map_err(|e: Error| e.with_path(path))
    }

    /// The order of records: each storage is introduced by the first tensor over it, and storages are numbered in that order. Gives for
    /// each record its tensor, and the storage's bytes if it introduces it.
    fn in_order(&self) -> Result<Vec<(&str, Tensor, Option<&Bytes<'a>>)>> {
        let mut numbers: Vec<Option<u32>> = vec![None; self.storages.len()];
        let mut next = 0;
        let mut records = Vec::with_capacity(self.records.len());
        for Record { name, tensor } in &self.records {
            let mut tensor = tensor.clone();
            let at = tensor.storage as usize;
            let (Some(number), Some(bytes)) = (numbers.get_mut(at), self.storages.get(at)) else {
                return Err(Error::invalid("its storage was not given to this builder").with_tensor(name));
            };
            let introduced = number.is_none().then_some(bytes);
            tensor.storage = *number.get_or_insert_with(|| {
                next += 1;
                next - 1
            });
            records.push((name.as_str(), tensor, introduced));
        }
        match numbers.iter().position(Option::is_none) {
            None => Ok(records),
            Some(unused) => Err(Error::invalid(format!("storage number {unused} has no tensor over it"))),
        }
    }

    fn assemble<S: Sink>(&self, sink: S, known: Option<Known>, defaults: &Defaults) -> Result<(S, Header, Catalog)> {
        let mut assembler = Assembler::new(sink, self.options, known)?;
        for (name, tensor, introduced) in self.in_order()? {
            match introduced {
                None => assembler.view(name, tensor)?,
                Some(bytes) => {
                    assembler.begin(name, tensor, Some(bytes.len()), bytes.is_copy())?;
                    match bytes {
                        Bytes::Here(bytes) => assembler.data(bytes)?,
                        _ => {
                            let mut out = DataOut { assembler: &mut assembler, error: None };
                            let written = bytes.write(&mut out);
                            // What went wrong here is told rather than what the producer made of it.
                            out.error.take().map_or(written, Err).map_err(|e| e.with_tensor(name))?;
                        }
                    }
                    assembler.end(None)?;
                }
            }
        }
        assembler.finish(&self.extras, defaults)
    }
}

/// Lets a deferred tensor write itself.
struct DataOut<'w, S: Sink> {
    assembler: &'w mut Assembler<S>,
    error: Option<Error>,
}

impl<S: Sink> io::Write for DataOut<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.assembler.data(bytes).map(|()| bytes.len()).map_err(|e| {
            let told = io::Error::other(e.reason());
            self.error.get_or_insert(e);
            told
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
