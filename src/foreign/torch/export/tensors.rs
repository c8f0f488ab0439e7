//! Tensors in a pickle: calls of PyTorch's rebuild functions, arrays of NumPy's, and lists of numbers.

use std::io::{self, Write};

use super::super::made::{Changer, Form};
use super::super::vocabulary::{self, TorchDType};
use super::opcodes::{APPEND, APPENDS, BATCH, BINPERSID, BUILD, EMPTY_DICT, EMPTY_LIST, MARK, NONE, REDUCE, SETITEMS};
use super::storages::{self, Class};
use super::values::Pickler;
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::DType;
use crate::format::layout;
use crate::format::len_u64;
use crate::format::value::{TensorRef, Value};
use crate::read::{Checkpoint, TensorView};

/// Which bytes of which storage, and whether they are swapped: arrays of the same ones share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blob {
    storage: u32,
    start: u64,
    len: u64,
    swap: Option<u8>,
}

/// How many bytes lists and arrays may take in a pickle: so many more than there are in the file only if they are repeated.
pub(super) fn budget(checkpoint: &Checkpoint) -> u64 {
    const ALWAYS_ALLOWED: u64 = 256 << 20;
    const RATIO: u64 = 16;
    checkpoint.header().file_len().saturating_mul(RATIO).max(ALWAYS_ALLOWED)
}

/// How NumPy calls a dtype in a pickle.
pub(super) fn numpy_dtype(dtype: DType) -> Option<&'static str> {
    vocabulary::NUMPY_DTYPES.iter().find(|(_, known)| *known == dtype).map(|&(name, _)| name)
}

/// Whether elements can be Python's numbers.
pub(super) fn is_listable(dtype: DType) -> bool {
    matches!(dtype, DType::Bool | DType::F16 | DType::BF16 | DType::F32 | DType::F64 | DType::C64 | DType::C128)
        || is_integer(dtype)
}

fn is_integer(dtype: DType) -> bool {
    use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(dtype, U8 | U16 | U32 | U64 | I8 | I16 | I32 | I64)
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
    fn spend(&mut self, tensor: &TensorView<'_>, bytes: u64) -> Result<()> {
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

    fn naturals(&mut self, numbers: &[u64]) -> Result<()> {
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

    /// A list of numbers, nested as deep as the tensor's rank.
    fn list(&mut self, tensor: &TensorView<'_>, number: Option<usize>) -> Result<()> {
        self.spend(tensor, list_len(tensor))?;
        let shape = tensor.shape();
        let Some((&inner, outer)) = shape.split_last() else {
            let mut element = Vec::new();
            tensor.stream(|bytes| append(&mut element, bytes))?;
            self.element(tensor.dtype(), &element)?;
            return self.remember(number);
        };
        self.ops.op(EMPTY_LIST)?;
        self.remember(number)?;
        if tensor.element_count() == 0 {
            return self.empty_lists(outer);
        }
        // How many elements one list at each level has within it, the innermost last.
        let sizes: Vec<u64> = (1..shape.len())
            .map(|level| {
                shape.get(level..).unwrap_or_default().iter().fold(1u64, |size, &dim| size.saturating_mul(dim))
            })
            .collect();
        let dtype = tensor.dtype();
        let size = usize::try_from(dtype.bits().div_euclid(8)).unwrap_or(1);
        let (mut at, mut carry) = (0u64, Vec::new());
        tensor.stream(|bytes| {
            // Pieces need not end between elements.
            carry.extend_from_slice(bytes);
            let whole = carry.len().saturating_sub(carry.len().checked_rem(size).unwrap_or(0));
            let rest = carry.split_off(whole);
            for element in carry.chunks_exact(size) {
                self.list_element(dtype, element, at, inner, &sizes)?;
                at = at.saturating_add(1);
            }
            carry = rest;
            Ok(())
        })
    }

    /// An element of a list, and the lists that begin before it or end after it.
    fn list_element(&mut self, dtype: DType, element: &[u8], at: u64, inner: u64, sizes: &[u64]) -> Result<()> {
        for _ in sizes.iter().filter(|&&size| at.checked_rem(size) == Some(0)) {
            self.ops.op(EMPTY_LIST)?;
        }
        let within = at.checked_rem(inner).unwrap_or(0);
        if within.checked_rem(BATCH) == Some(0) {
            self.ops.op(MARK)?;
        }
        self.element(dtype, element)?;
        let next = within.saturating_add(1);
        if next == inner || next.checked_rem(BATCH) == Some(0) {
            self.ops.op(APPENDS)?;
        }
        for _ in sizes.iter().filter(|&&size| at.saturating_add(1).checked_rem(size) == Some(0)) {
            self.ops.op(APPEND)?;
        }
        Ok(())
    }

    /// What is within a list of lists that are empty at last.
    fn empty_lists(&mut self, shape: &[u64]) -> Result<()> {
        let Some((&count, within)) = shape.split_first() else { return Ok(()) };
        for _ in 0..count {
            self.ops.op(EMPTY_LIST)?;
            self.empty_lists(within)?;
            self.ops.op(APPEND)?;
        }
        Ok(())
    }

    /// A number as Python has it: what is narrower is widened, which loses nothing.
    fn element(&mut self, dtype: DType, bytes: &[u8]) -> Result<()> {
        let lost = || Error::invalid("an element of a list is cut off");
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk::<N>().copied()
        }
        match dtype {
            DType::Bool => self.ops.bool(bytes.first().is_some_and(|&byte| byte != 0)),
            DType::F64 => self.ops.float(f64::from_le_bytes(le(bytes).ok_or_else(lost)?)),
            DType::F32 => self.ops.float(f32::from_le_bytes(le(bytes).ok_or_else(lost)?).into()),
            DType::F16 => self.ops.float(half::f16::from_le_bytes(le(bytes).ok_or_else(lost)?).into()),
            DType::BF16 => self.ops.float(half::bf16::from_le_bytes(le(bytes).ok_or_else(lost)?).into()),
            DType::C64 | DType::C128 => {
                let (real, imaginary) = bytes.split_at_checked(bytes.len().div_euclid(2)).ok_or_else(lost)?;
                let part = |bytes: &[u8]| match bytes.len() {
                    4 => le(bytes).map(|bytes| f64::from(f32::from_le_bytes(bytes))),
                    _ => le(bytes).map(f64::from_le_bytes),
                };
                self.complex(part(real).ok_or_else(lost)?, part(imaginary).ok_or_else(lost)?)
            }
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => {
                let mut word = [0; 8];
                word.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
                self.ops.natural(u64::from_le_bytes(word))
            }
            _ => {
                let fill = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xFF } else { 0 };
                let mut word = [fill; 8];
                word.iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
                self.ops.int(i64::from_le_bytes(word))
            }
        }
    }

    /// `_reconstruct(ndarray, (0,), b'b')`, and its state.
    fn array(&mut self, reference: &'d TensorRef, tensor: &TensorView<'_>, number: Option<usize>) -> Result<()> {
        let order = Order::of(tensor);
        let is_big = is_big_endian(reference) && tensor.dtype().bits() > 8;
        if is_big || matches!(order, Order::Permuted { .. }) {
            return self.array_over_buffer(reference, tensor, &order, is_big, number);
        }
        self.numpy_global(reference, "multiarray", "_reconstruct")?;
        self.ops.global("numpy", "ndarray")?;
        self.naturals(&[0])?;
        self.ops.global("_codecs", "encode")?;
        self.ops.text("b")?;
        self.ops.text("latin1")?;
        self.ops.tuple(2)?;
        self.ops.op(REDUCE)?;
        self.ops.tuple(3)?;
        self.ops.op(REDUCE)?;
        self.remember(number)?;
        self.ops.op(MARK)?;
        self.ops.int(1)?;
        self.naturals(tensor.shape())?;
        self.numpy_dtype(tensor.dtype(), false)?;
        self.ops.bool(matches!(order, Order::ColumnMajor))?;
        self.numpy_bytes(tensor, false, matches!(order, Order::RowMajor))?;
        self.ops.tuple_of_mark()?;
        self.ops.op(BUILD)
    }

    /// `_frombuffer(bytearray, dtype, shape, order[, axes])`: the function that leaves the byte order as it is, and takes axes in any order.
    fn array_over_buffer(
        &mut self,
        reference: &TensorRef,
        tensor: &TensorView<'_>,
        order: &Order,
        is_big: bool,
        number: Option<usize>,
    ) -> Result<()> {
        self.numpy_global(reference, "numeric", "_frombuffer")?;
        self.ops.op(MARK)?;
        // What is made over mutable bytes can be written to.
        self.ops.global("builtins", "bytearray")?;
        self.numpy_bytes(tensor, is_big, matches!(order, Order::RowMajor))?;
        self.ops.tuple(1)?;
        self.ops.op(REDUCE)?;
        self.numpy_dtype(tensor.dtype(), is_big)?;
        match order {
            Order::Permuted { shape, .. } => self.naturals(shape)?,
            _ => self.naturals(tensor.shape())?,
        }
        self.ops.text(match order {
            Order::RowMajor => "C",
            Order::ColumnMajor => "F",
            Order::Permuted { .. } => "K",
        })?;
        if let Order::Permuted { axes, .. } = order {
            self.naturals(axes)?;
        }
        self.ops.tuple_of_mark()?;
        self.ops.op(REDUCE)?;
        self.remember(number)
    }

    /// A function of NumPy's, by the name that it had when the array was saved: its modules have moved since.
    fn numpy_global(&mut self, reference: &TensorRef, module: &str, function: &str) -> Result<()> {
        let is_old = attribute(reference, vocabulary::MODULE).and_then(Value::as_str) == Some(vocabulary::NUMPY_CORE);
        let parent = if is_old { vocabulary::NUMPY_CORE } else { "numpy._core" };
        self.ops.global(&format!("{parent}.{module}"), function)
    }

    /// `scalar(dtype, bytes)`
    fn scalar(&mut self, reference: &TensorRef, tensor: &TensorView<'_>, number: Option<usize>) -> Result<()> {
        self.numpy_global(reference, "multiarray", "scalar")?;
        self.numpy_dtype(tensor.dtype(), false)?;
        self.numpy_bytes(tensor, false, true)?;
        self.ops.tuple(2)?;
        self.ops.op(REDUCE)?;
        self.remember(number)
    }

    /// `dtype('f4', False, True)`, and its state.
    fn numpy_dtype(&mut self, dtype: DType, is_big: bool) -> Result<()> {
        self.ops.global("numpy", "dtype")?;
        self.ops.text(numpy_dtype(dtype).unwrap_or_default())?;
        self.ops.bool(false)?;
        self.ops.bool(true)?;
        self.ops.tuple(3)?;
        self.ops.op(REDUCE)?;
        self.ops.op(MARK)?;
        self.ops.int(3)?;
        self.ops.text(match (dtype.bits(), is_big) {
            (8, _) => "|",
            (_, true) => ">",
            (_, false) => "<",
        })?;
        for _ in 0..3 {
            self.ops.op(NONE)?;
        }
        self.ops.int(-1)?;
        self.ops.int(-1)?;
        self.ops.int(0)?;
        self.ops.tuple_of_mark()?;
        self.ops.op(BUILD)
    }

    /// The elements as a byte string: text whose code points are the bytes.
    fn numpy_bytes(&mut self, tensor: &TensorView<'_>, is_big: bool, is_row_major: bool) -> Result<()> {
        let swap = u8::try_from(vocabulary::component_len(tensor.dtype())).ok().filter(|&size| is_big && size > 1);
        let blob = Blob { storage: tensor.storage(), start: tensor.start(), len: tensor.byte_len(), swap };
        // What is gathered by strides is not what lies there.
        let is_as_it_lies = tensor.is_contiguous() || !is_row_major;
        if let Some(&memo) = self.blobs.get(&blob).filter(|_| is_as_it_lies) {
            return self.ops.get(memo);
        }
        self.spend(tensor, tensor.contiguous_byte_len().saturating_mul(2))?;
        // How long the text is must be said before it.
        let mut high = Latin1 { out: &mut io::sink(), len: 0 };
        give(tensor, swap, is_row_major, &mut high)?;
        let len = high.len;
        self.ops.global("_codecs", "encode")?;
        self.ops.text_begin(len)?;
        let mut out = OpsOut { pickler: self, error: None };
        let given = give(tensor, swap, is_row_major, &mut Latin1 { out: &mut out, len: 0 });
        out.error.take().map_or(given, Err)?;
        self.ops.text("latin1")?;
        self.ops.tuple(2)?;
        self.ops.op(REDUCE)?;
        if is_as_it_lies {
            let memo = self.ops.put()?;
            self.blobs.insert(blob, memo);
        }
        Ok(())
    }
}

/// How many bytes a list takes in a pickle, at most.
fn list_len(tensor: &TensorView<'_>) -> u64 {
    /// An opcode for each list, and three for what is in it.
    const LIST_LEN: u64 = 4;
    let element_len = match tensor.dtype() {
        DType::Bool => 1,
        DType::U8 => 2,
        DType::U16 => 3,
        DType::I8 | DType::I16 | DType::I32 => 5,
        DType::C64 | DType::C128 => 25,
        // Floats take nine; integers of 64 bits two more than their bytes.
        _ => 11,
    };
    // Lists within lists, as far as there are any.
    let (mut lists, mut within) = (1u64, 1u64);
    for &dim in tensor.shape().split_last().map_or(&[][..], |(_, outer)| outer) {
        within = within.saturating_mul(dim);
        lists = lists.saturating_add(within);
    }
    let elements = tensor.element_count().saturating_mul(element_len);
    lists.saturating_mul(LIST_LEN).saturating_add(elements)
}

fn attribute<'d>(reference: &'d TensorRef, key: &str) -> Option<&'d Value> {
    reference.attributes.get(key)
}

fn flag(reference: &TensorRef, key: &str) -> bool {
    attribute(reference, key).and_then(Value::as_bool) == Some(true)
}

fn is_big_endian(reference: &TensorRef) -> bool {
    attribute(reference, vocabulary::BYTE_ORDER).and_then(Value::as_str) == Some(vocabulary::BIG)
}

/// In which order an array's elements lie.
enum Order {
    /// That of rows; or none that NumPy has a word for: then they are written in that of rows.
    RowMajor,
    ColumnMajor,
    /// Row-major with the axes in another order: the lengths of the axes as they lie, and for each axis of the array which of those it is.
    Permuted {
        shape: Vec<u64>,
        axes: Vec<u64>,
    },
}

impl Order {
    fn of(tensor: &TensorView<'_>) -> Order {
        let (shape, strides) = (tensor.shape(), tensor.strides());
        if tensor.is_contiguous() {
            return Order::RowMajor;
        }
        let reversed = |numbers: &[u64]| numbers.iter().rev().copied().collect::<Vec<u64>>();
        if layout::strides_are_contiguous(&reversed(shape), &reversed(&strides)) {
            return Order::ColumnMajor;
        }
        // As they lie, the axis with the longest stride comes first.
        let mut lying: Vec<(u64, u64, usize)> =
            strides.iter().zip(shape).enumerate().map(|(axis, (&stride, &len))| (stride, len, axis)).collect();
        lying.sort_by_key(|&(stride, _, _)| std::cmp::Reverse(stride));
        let (lens, steps): (Vec<u64>, Vec<u64>) = lying.iter().map(|&(stride, len, _)| (len, stride)).unzip();
        if !layout::strides_are_contiguous(&lens, &steps) {
            return Order::RowMajor;
        }
        let mut axes = vec![0; lying.len()];
        for (place, (_, _, axis)) in (0..).zip(&lying) {
            if let Some(of) = axes.get_mut(*axis) {
                *of = place;
            }
        }
        Order::Permuted { shape: lens, axes }
    }
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    out.extend_from_slice(bytes);
    Ok(())
}

/// Gives the bytes of an array.
fn give(tensor: &TensorView<'_>, swap: Option<u8>, is_row_major: bool, out: &mut dyn Write) -> Result<()> {
    let mut changer = Changer::new(Form { latin1: false, swap }, out);
    if is_row_major {
        tensor.stream(|bytes| changer.take(bytes))?;
    } else {
        tensor.stream_extent(|bytes| changer.take(bytes))?;
    }
    changer.finish()
}

/// Encodes bytes as code points in UTF-8, and counts what comes out.
struct Latin1<'o> {
    out: &'o mut dyn Write,
    len: u64,
}

impl Write for Latin1<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            match byte {
                0..=0x7F => text.push(byte),
                // The upper two bits go into the first byte.
                _ => text.extend_from_slice(&[0xC0 | (byte >> 6), 0x80 | (byte & 0x3F)]),
            }
        }
        self.out.write_all(&text)?;
        self.len = self.len.saturating_add(len_u64(text.len()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts bytes among the opcodes.
struct OpsOut<'p, 'w, 'd> {
    pickler: &'p mut Pickler<'w, 'd>,
    /// What went wrong, which an `io::Error` cannot say.
    error: Option<Error>,
}

impl Write for OpsOut<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pickler.ops.bytes(bytes).map(|()| bytes.len()).map_err(|e| {
            let told = io::Error::other(e.reason());
            self.error.get_or_insert(e);
            told
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
