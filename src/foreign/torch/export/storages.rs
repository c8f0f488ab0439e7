//! Which records an archive gets: the storages that a document's tensors lie in, and the class of each.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use super::super::vocabulary::{self, TorchDType};
use crate::error::{Error, Result, quoted};
use crate::format::value::{TensorRef, Value};
use crate::read::{Checkpoint, TensorView};

/// What class a storage has in the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Typed(&'static TorchDType),
    /// Of bytes, for dtypes without a class, and where tensors of several dtypes share it.
    Untyped,
}

/// A record: a storage, or a part of one.
pub(super) struct Record {
    /// A tensor that lies in it.
    tensor: String,
    /// Whether it is the whole storage; if not, it is the extent of that tensor.
    is_whole: bool,
    pub(super) byte_len: u64,
    pub(super) class: Class,
    /// Its name among the records, once it was mentioned.
    pub(super) key: Option<usize>,
}

/// All records, and in which order the pickle mentions them.
pub(super) struct Storages {
    records: Vec<Record>,
    by_place: HashMap<(u32, Range<u64>), usize>,
    /// Those with keys.
    order: Vec<usize>,
}

/// Where a tensor is among the records.
pub(super) struct Place {
    pub(super) record: usize,
    /// In elements.
    pub(super) offset: u64,
}

/// PyTorch's dtype of a tensor.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it has none.
pub(super) fn dtype_of(reference: &TensorRef, tensor: &TensorView<'_>) -> Result<&'static TorchDType> {
    let said = reference.attributes.get(vocabulary::DTYPE).and_then(Value::as_str).and_then(vocabulary::dtype_named);
    let known = said.filter(|known| known.dtype == tensor.dtype()).or_else(|| vocabulary::dtype_of(tensor.dtype()));
    known.ok_or_else(|| {
        let e = Error::invalid(format!("PyTorch has no dtype for {}", tensor.dtype())).with_tensor(tensor.name());
        e.with_advice("convert to a Dolmen file, or leave the tensor out")
    })
}

/// How the document held a tensor, in the words of [`vocabulary`].
pub(super) fn kind_of(reference: &TensorRef) -> Option<&str> {
    reference.attributes.get(vocabulary::AS).and_then(Value::as_str)
}

/// Whether what it was held as has its data in the pickle.
pub(super) fn is_inline(reference: &TensorRef, tensor: &TensorView<'_>) -> bool {
    match kind_of(reference) {
        Some(vocabulary::LIST) => super::lists::is_listable(tensor.dtype()),
        Some(vocabulary::ARRAY) => super::numpy::numpy_dtype(tensor.dtype()).is_some(),
        Some(vocabulary::SCALAR) => super::numpy::numpy_dtype(tensor.dtype()).is_some() && tensor.shape().is_empty(),
        _ => false,
    }
}

impl Storages {
    /// The records that a document needs.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for dtypes that PyTorch does not have; what is broken in the checkpoint.
    pub(super) fn plan(checkpoint: &Checkpoint, document: &Value) -> Result<Storages> {
        let mut storages = Storages { records: Vec::new(), by_place: HashMap::new(), order: Vec::new() };
        for value in document.descendants() {
            let Value::Tensor(reference) = value else { continue };
            let tensor = checkpoint.tensor(&reference.name)?;
            if !is_inline(reference, &tensor) {
                storages.add(reference, &tensor)?;
            }
        }
        Ok(storages)
    }

    fn add(&mut self, reference: &TensorRef, tensor: &TensorView<'_>) -> Result<()> {
        let dtype = dtype_of(reference, tensor)?;
        let range = range_of(reference, tensor)?;
        let byte_len = range.end.saturating_sub(range.start);
        let is_whole = byte_len == tensor.storage_len()?;
        let divides = byte_len.checked_rem(dtype.element_len()) == Some(0);
        let class = match kind_of(reference) {
            Some(vocabulary::UNTYPED_STORAGE) => Class::Untyped,
            _ if dtype.storage.is_some() && divides => Class::Typed(dtype),
            _ => Class::Untyped,
        };
        let number = self.records.len();
        let number = *self.by_place.entry((tensor.storage(), range)).or_insert(number);
        match self.records.get_mut(number) {
            Some(record) if record.class != class => record.class = Class::Untyped,
            Some(_) => {}
            None => {
                self.records.push(Record { tensor: tensor.name().to_owned(), is_whole, byte_len, class, key: None });
            }
        }
        Ok(())
    }

    /// Where a tensor is; gives its record a key, if it has none.
    pub(super) fn place(
        &mut self,
        reference: &TensorRef,
        tensor: &TensorView<'_>,
        dtype: &TorchDType,
    ) -> Result<Place> {
        let range = range_of(reference, tensor)?;
        let start = tensor.start().saturating_sub(range.start);
        let offset = start.checked_div(dtype.element_len()).unwrap_or(0);
        let lost = || Error::invalid("its storage was not planned").with_tensor(tensor.name());
        let &number = self.by_place.get(&(tensor.storage(), range)).ok_or_else(lost)?;
        let record = self.records.get_mut(number).ok_or_else(lost)?;
        if record.key.is_none() {
            record.key = Some(self.order.len());
            self.order.push(number);
        }
        Ok(Place { record: number, offset })
    }

    pub(super) fn record(&self, number: usize) -> Option<&Record> {
        self.records.get(number)
    }

    /// The records that were mentioned, in that order.
    pub(super) fn mentioned(&self) -> impl Iterator<Item = &Record> {
        self.order.iter().filter_map(|&number| self.records.get(number))
    }

    /// Forgets what was mentioned.
    pub(super) fn begin_again(&mut self) {
        self.order.clear();
        self.records.iter_mut().for_each(|record| record.key = None);
    }
}

/// The part of its storage that a tensor needs in the file: all of it, but of a storage that is held as such and is only a part of another
/// one. Files from before version 1.6 have such; later ones cannot.
fn range_of(reference: &TensorRef, tensor: &TensorView<'_>) -> Result<Range<u64>> {
    let is_storage = matches!(kind_of(reference), Some(vocabulary::STORAGE | vocabulary::UNTYPED_STORAGE));
    Ok(match is_storage {
        true => tensor.start()..tensor.start().saturating_add(tensor.byte_len()),
        false => 0..tensor.storage_len()?,
    })
}

impl Record {
    /// Whether it is only a part of a storage.
    pub(super) fn is_part(&self) -> bool {
        !self.is_whole
    }

    pub(super) fn tensor(&self) -> &str {
        &self.tensor
    }

    /// Writes its bytes, verified.
    pub(super) fn copy(&self, checkpoint: &Checkpoint, out: &mut dyn Write) -> Result<()> {
        let tensor = checkpoint.tensor(&self.tensor)?;
        let take = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("cannot write", e));
        if self.is_whole { tensor.stream_storage(take) } else { tensor.stream_extent(take) }
    }

    /// How many elements the pickle says it has.
    pub(super) fn element_count(&self) -> u64 {
        match self.class {
            Class::Typed(dtype) => self.byte_len.checked_div(dtype.element_len()).unwrap_or(0),
            Class::Untyped => self.byte_len,
        }
    }

    /// The name of its record.
    pub(super) fn name(&self) -> Result<String> {
        let key =
            self.key.ok_or_else(|| Error::invalid(format!("the storage of {} has no key", quoted(&self.tensor))))?;
        Ok(format!("data/{key}"))
    }
}
