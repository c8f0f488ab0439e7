//! Tensors in a pickle: calls of PyTorch's rebuild functions.

use super::super::vocabulary::{self, TorchDType};
use super::opcodes::{BINPERSID, EMPTY_DICT, MARK, REDUCE, SETITEMS};
use super::storages::{self, Class};
use super::values::Pickler;
use crate::error::{Error, ErrorKind, Result};
use crate::format::value::{TensorRef, Value};
use crate::read::{Checkpoint, TensorView};

/// How many bytes lists and arrays may take in a pickle: so many more than there are in the file only if they are repeated.
pub(super) fn budget(checkpoint: &Checkpoint) -> u64 {
    const ALWAYS_ALLOWED: u64 = 256 << 20;
    const RATIO: u64 = 16;
    checkpoint.header().file_len().saturating_mul(RATIO).max(ALWAYS_ALLOWED)
}

impl<'d> Pickler<'_, 'd> {
    pub(super) fn tensor(&mut self, reference: &'d TensorRef, number: Option<usize>) -> Result<()> {
        let tensor = self.checkpoint.tensor(&reference.name)?;
        let kind = storages::kind_of(reference);
        if storages::is_inline(reference, &tensor) {
            return match kind {
                Some(vocabulary::LIST) => self.list(&tensor, number),
                Some(vocabulary::SCALAR) => self.scalar(reference, &tensor, number),
                _ => self.array(reference, &tensor, number),
            };
        }
        let dtype = storages::dtype_of(reference, &tensor)?;
        match kind {
            None => self.whole(number, |this| this.subclass(reference, &tensor, dtype), |this| this.ops.op(REDUCE)),
            Some(vocabulary::PARAMETER) => {
                self.whole(number, |this| this.parameter(reference, &tensor, dtype), |this| this.ops.op(REDUCE))
            }
            Some(vocabulary::STORAGE | vocabulary::UNTYPED_STORAGE) => {
                let (place, wanted) =
                    (self.storages.place(reference, &tensor, dtype)?, kind == Some(vocabulary::STORAGE));
                let class = self.storages.record(place.record).map(|record| record.class);
                if wanted != matches!(class, Some(Class::Typed(_))) {
                    let note = "it was a storage of a dtype, and is written as one of bytes";
                    self.notes.tensor(tensor.name(), note);
                }
                self.storage_id(reference, place.record)?;
                self.remember(number)
            }
            Some(_) => {
                self.notes
                    .tensor(tensor.name(), "what it was held as has no word in PyTorch: it is written as a tensor");
                self.whole(number, |this| this.subclass(reference, &tensor, dtype), |this| this.ops.op(REDUCE))
            }
        }
    }

    /// Takes the bytes of a list or an array from those that may be written into the pickle.
    pub(super) fn spend(&mut self, tensor: &TensorView<'_>, bytes: u64) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => {
                let message = "lists and arrays repeat so much of the file that the pickle would be far longer than it";
                Err(Error::new(ErrorKind::Limit, message).with_tensor(tensor.name()))
            }
        }
    }

    /// The persistent id of a storage.
    fn storage_id(&mut self, reference: &'d TensorRef, record: usize) -> Result<()> {
        let Some(record) = self.storages.record(record) else { return Ok(()) };
        let (class, count, key) = (record.class, record.element_count(), record.key.unwrap_or_default());
        self.ops.op(MARK)?;
        self.ops.text("storage")?;
        match class {
            Class::Typed(dtype) => self.ops.global("torch", dtype.storage.unwrap_or_default())?,
            Class::Untyped => self.ops.global("torch.storage", "UntypedStorage")?,
        }
        self.ops.text_once(key.to_string().as_bytes())?;
        let location = reference.attributes.get(vocabulary::LOCATION).and_then(Value::as_str);
        self.ops.text(location.unwrap_or(vocabulary::CPU))?;
        self.ops.natural(count)?;
        self.ops.tuple_of_mark()?;
        self.ops.op(BINPERSID)
    }

    /// Function and arguments of a tensor, which may be of a subclass.
    fn subclass(
        &mut self,
        reference: &'d TensorRef,
        tensor: &TensorView<'_>,
        dtype: &'static TorchDType,
    ) -> Result<()> {
        let (Some(class), Some(state)) =
            (attribute(reference, vocabulary::TYPE), attribute(reference, vocabulary::STATE))
        else {
            let function = self.function(reference, tensor, dtype)?;
            self.ops.global("torch._utils", function)?;
            return self.args(reference, tensor, dtype, true);
        };
        self.ops.global("torch._tensor", "_rebuild_from_type_v2")?;
        self.ops.op(MARK)?;
        let function = self.function(reference, tensor, dtype)?;
        self.ops.global("torch._utils", function)?;
        self.value(class)?;
        self.args(reference, tensor, dtype, true)?;
        self.value(state)?;
        self.ops.tuple_of_mark()
    }

    /// Function and arguments of a parameter.
    fn parameter(
        &mut self,
        reference: &'d TensorRef,
        tensor: &TensorView<'_>,
        dtype: &'static TorchDType,
    ) -> Result<()> {
        let state = attribute(reference, vocabulary::STATE);
        let outer = if state.is_some() { "_rebuild_parameter_with_state" } else { "_rebuild_parameter" };
        self.ops.global("torch._utils", outer)?;
        self.ops.op(MARK)?;
        let function = self.function(reference, tensor, dtype)?;
        self.ops.global("torch._utils", function)?;
        self.args(reference, tensor, dtype, false)?;
        self.ops.op(REDUCE)?;
        self.ops.bool(flag(reference, vocabulary::REQUIRES_GRAD))?;
        self.hooks(reference)?;
        if let Some(state) = state {
            self.value(state)?;
        }
        self.ops.tuple_of_mark()
    }

    /// The function that rebuilds a tensor, and the record that it lies in.
    fn function(
        &mut self,
        reference: &TensorRef,
        tensor: &TensorView<'_>,
        dtype: &'static TorchDType,
    ) -> Result<&'static str> {
        let place = self.storages.place(reference, tensor, dtype)?;
        let class = self.storages.record(place.record).map(|record| record.class);
        let is_typed = matches!(class, Some(Class::Typed(_)));
        if attribute(reference, vocabulary::QUANTIZER).is_some() {
            if !is_typed {
                let e = Error::invalid("it is quantised, and others view its storage with another dtype");
                return Err(e.with_tensor(tensor.name()).with_advice("give it a storage of its own"));
            }
            return Ok("_rebuild_qtensor");
        }
        Ok(if is_typed { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" })
    }

    /// The arguments of the function that rebuilds a tensor. What belongs to a parameter is not said of its data.
    fn args(
        &mut self,
        reference: &'d TensorRef,
        tensor: &TensorView<'_>,
        dtype: &'static TorchDType,
        is_all: bool,
    ) -> Result<()> {
        let place = self.storages.place(reference, tensor, dtype)?;
        self.ops.op(MARK)?;
        self.storage_id(reference, place.record)?;
        self.ops.natural(place.offset)?;
        self.naturals(tensor.shape())?;
        self.naturals(&tensor.strides())?;
        if let Some(quantizer) = attribute(reference, vocabulary::QUANTIZER) {
            self.value(quantizer)?;
        }
        self.ops.bool(is_all && flag(reference, vocabulary::REQUIRES_GRAD))?;
        if is_all {
            self.hooks(reference)?;
        } else {
            self.no_hooks()?;
        }
        if attribute(reference, vocabulary::QUANTIZER).is_none() {
            if matches!(self.storages.record(place.record).map(|record| record.class), Some(Class::Untyped)) {
                self.ops.global("torch", dtype.name)?;
            }
            self.metadata(reference)?;
        }
        self.ops.tuple_of_mark()
    }

    pub(super) fn naturals(&mut self, numbers: &[u64]) -> Result<()> {
        let is_long = numbers.len() > 3;
        if is_long {
            self.ops.op(MARK)?;
        }
        numbers.iter().try_for_each(|&number| self.ops.natural(number))?;
        if is_long { self.ops.tuple_of_mark() } else { self.ops.tuple(numbers.len()) }
    }

    fn hooks(&mut self, reference: &'d TensorRef) -> Result<()> {
        match attribute(reference, vocabulary::HOOKS) {
            Some(hooks) => self.value(hooks),
            None => self.no_hooks(),
        }
    }

    fn no_hooks(&mut self) -> Result<()> {
        self.ops.global("collections", "OrderedDict")?;
        self.ops.tuple(0)?;
        self.ops.op(REDUCE)
    }

    /// The last argument: a dictionary, if there is anything to say.
    fn metadata(&mut self, reference: &'d TensorRef) -> Result<()> {
        let bits = [vocabulary::CONJ, vocabulary::NEG].into_iter().filter(|bit| flag(reference, bit));
        let further = match attribute(reference, vocabulary::METADATA).map(Value::unmarked) {
            Some(Value::Dict(dict)) => dict.entries.as_slice(),
            _ => &[],
        };
        let bits: Vec<&'static str> = bits.collect();
        if bits.is_empty() && further.is_empty() {
            return Ok(());
        }
        self.ops.op(EMPTY_DICT)?;
        if !bits.is_empty() {
            self.ops.op(MARK)?;
            for bit in bits {
                self.ops.text(bit)?;
                self.ops.bool(true)?;
            }
            self.ops.op(SETITEMS)?;
        }
        self.entries(further)
    }
}

pub(super) fn attribute<'d>(reference: &'d TensorRef, key: &str) -> Option<&'d Value> {
    reference.attributes.get(key)
}

fn flag(reference: &TensorRef, key: &str) -> bool {
    attribute(reference, key).and_then(Value::as_bool) == Some(true)
}
