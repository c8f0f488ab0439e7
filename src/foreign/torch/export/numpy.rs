//! Arrays and scalars of NumPy's in a pickle.

use std::io::{self, Write};

use super::super::made::{Changer, Form};
use super::super::vocabulary;
use super::opcodes::{BUILD, MARK, NONE, REDUCE};
use super::tensors::attribute;
use super::values::Pickler;
use crate::error::{Error, Result};
use crate::format::dtype::DType;
use crate::format::layout;
use crate::format::len_u64;
use crate::format::value::{TensorRef, Value};
use crate::read::TensorView;

/// Which bytes of which storage, and whether they are swapped: arrays of the same ones share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blob {
    storage: u32,
    start: u64,
    len: u64,
    swap: Option<u8>,
}

/// How NumPy calls a dtype in a pickle.
pub(super) fn numpy_dtype(dtype: DType) -> Option<&'static str> {
    vocabulary::NUMPY_DTYPES.iter().find(|(_, known)| *known == dtype).map(|&(name, _)| name)
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

impl<'d> Pickler<'_, 'd> {
    /// `_reconstruct(ndarray, (0,), b'b')`, and its state.
    pub(super) fn array(
        &mut self,
        reference: &'d TensorRef,
        tensor: &TensorView<'_>,
        number: Option<usize>,
    ) -> Result<()> {
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
    pub(super) fn scalar(
        &mut self,
        reference: &TensorRef,
        tensor: &TensorView<'_>,
        number: Option<usize>,
    ) -> Result<()> {
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
