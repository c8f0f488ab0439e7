//! A tensor to be written: dtype, shape, strides, and where its bytes come from.

use std::borrow::Cow;
use std::io;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::dtype::{DType, Element};
use crate::format::layout;

/// A tensor to be written.
///
/// Most often made from a slice by [`IntoTensor`]; the functions here are for everything else.
pub struct TensorData<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Option<Vec<u64>>,
    pub(crate) bytes: Bytes<'a>,
}

/// Writes a storage's bytes.
///
/// It borrows nothing: a [`Builder`](crate::Builder) that held a borrowing closure would have to be dropped before what it borrows from,
/// and so could not be made before the data.
pub(crate) type Produce = Box<dyn Fn(&mut dyn io::Write) -> Result<()> + Send + Sync>;

/// What storages can be copied from: another checkpoint.
pub(crate) trait StorageSource: Sync {
    /// Writes a range of a storage's bytes, verified.
    fn copy_storage(&self, storage: u32, range: Range<u64>, out: &mut dyn io::Write) -> Result<()>;
}

/// Where a storage's bytes come from.
pub(crate) enum Bytes<'a> {
    /// They are here.
    Here(Cow<'a, [u8]>),
    /// They are read, and verified, when they are written.
    Copied { source: &'a dyn StorageSource, storage: u32, range: Range<u64> },
    /// They are produced when they are written.
    Deferred(u64, Produce),
}

impl Bytes<'_> {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Bytes::Here(bytes) => bytes.len() as u64,
            Bytes::Copied { range, .. } => range.end.saturating_sub(range.start),
            Bytes::Deferred(len, _) => *len,
        }
    }

    /// Whether what they are is the affair of whoever wrote them first: they are carried along as they are.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(self, Bytes::Copied { .. })
    }

    /// Writes them all.
    pub(crate) fn write(&self, out: &mut dyn io::Write) -> Result<()> {
        match self {
            Bytes::Here(bytes) => out.write_all(bytes).map_err(|e| Error::io("cannot write", e)),
            Bytes::Copied { source, storage, range } => source.copy_storage(*storage, range.clone(), out),
            Bytes::Deferred(_, produce) => produce(out),
        }
    }
}

impl std::fmt::Debug for TensorData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorData")
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .field("strides", &self.strides)
            .field("byte_len", &self.bytes.len())
            .finish()
    }
}

impl<'a> TensorData<'a> {
    /// A contiguous tensor of raw bytes: little-endian elements in row-major order.
    ///
    /// **Units**: as many bytes as shape and dtype take; checked when it is added.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a shape with negative numbers.
    pub fn raw(dtype: DType, shape: impl IntoShape, bytes: impl Into<Cow<'a, [u8]>>) -> Result<TensorData<'a>> {
        Ok(TensorData { dtype, shape: shape.into_shape()?, strides: None, bytes: Bytes::Here(bytes.into()) })
    }

    /// A strided tensor of raw bytes: from its first element to the end of its last one.
    ///
    /// **Units**: strides are in elements.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for negative numbers.
    pub fn strided(
        dtype: DType,
        shape: impl IntoShape,
        strides: impl IntoShape,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<TensorData<'a>> {
        let strides = Some(strides.into_shape()?);
        Ok(TensorData { dtype, shape: shape.into_shape()?, strides, bytes: Bytes::Here(bytes.into()) })
    }

    /// A contiguous tensor whose bytes are produced when the file is written, never all in memory.
    ///
    /// `produce` writes exactly the tensor's bytes, the same each time it is called. It owns what it needs.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a shape that overflows or has negative numbers.
    pub fn deferred(
        dtype: DType,
        shape: impl IntoShape,
        produce: impl Fn(&mut dyn io::Write) -> Result<()> + Send + Sync + 'static,
    ) -> Result<TensorData<'a>> {
        let shape = shape.into_shape()?;
        let len = contiguous_len(dtype, &shape)?;
        Ok(TensorData { dtype, shape, strides: None, bytes: Bytes::Deferred(len, Box::new(produce)) })
    }

    /// A tensor, strided or not, of another checkpoint.
    pub(crate) fn copied(
        dtype: DType,
        shape: Vec<u64>,
        strides: Option<Vec<u64>>,
        source: &'a dyn StorageSource,
        storage: u32,
        range: Range<u64>,
    ) -> TensorData<'a> {
        TensorData { dtype, shape, strides, bytes: Bytes::Copied { source, storage, range } }
    }
}

/// The bytes that a contiguous tensor takes.
pub(crate) fn contiguous_len(dtype: DType, shape: &[u64]) -> Result<u64> {
    layout::element_count(shape, dtype.bits())
        .and_then(|count| layout::contiguous_len(count, dtype.bits()))
        .ok_or_else(|| Error::invalid(format!("the number of elements of shape {shape:?} overflows")))
}

/// How a tensor lies in a storage: for several tensors over one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct View {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Option<Vec<u64>>,
    pub(crate) start: u64,
}

impl View {
    /// A contiguous tensor from the storage's first byte on.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for negative numbers.
    pub fn new(dtype: DType, shape: impl IntoShape) -> Result<View> {
        Ok(View { dtype, shape: shape.into_shape()?, strides: None, start: 0 })
    }

    /// With strides, in elements.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for negative numbers.
    pub fn strides(mut self, strides: impl IntoShape) -> Result<View> {
        self.strides = Some(strides.into_shape()?);
        Ok(self)
    }

    /// Beginning at so many **bytes** from the storage's first one.
    pub fn start(mut self, start: u64) -> View {
        self.start = start;
        self
    }
}

/// Strides that are those of row-major order are not written at all.
pub(crate) fn canonical_strides(shape: &[u64], strides: Option<Vec<u64>>) -> Option<Vec<u64>> {
    strides.filter(|strides| !layout::strides_are_contiguous(shape, strides))
}

/// What can be written as a tensor: slices of [`Element`]s, alone (one axis) or with a shape, and [`TensorData`].
///
/// ```
/// # use dolmen::{Builder, half::bf16};
/// let mut b = Builder::new();
/// let weights = vec![0.5f32; 6];
/// b.tensor("vector", &weights)?;
/// b.tensor("matrix", (&weights, [2, 3]))?;
/// b.tensor("scalar", (&[1i64], ()))?;
/// b.tensor("half", (&[bf16::ONE; 4], [2, 2]))?;
/// # Ok::<(), dolmen::Error>(())
/// ```
pub trait IntoTensor<'a> {
    /// The tensor.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there can be no such tensor.
    fn into_tensor(self) -> Result<TensorData<'a>>;
}

impl<'a> IntoTensor<'a> for TensorData<'a> {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        Ok(self)
    }
}

impl<'a, T: Element> IntoTensor<'a> for &'a [T] {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        let bytes: &[u8] = bytemuck::cast_slice(self);
        TensorData::raw(T::DTYPE, [self.len() as u64], bytes)
    }
}

impl<'a, T: Element> IntoTensor<'a> for &'a Vec<T> {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        self.as_slice().into_tensor()
    }
}

impl<'a, T: Element, const N: usize> IntoTensor<'a> for &'a [T; N] {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        self.as_slice().into_tensor()
    }
}

/// Elements with a shape of their own.
fn shaped<'a, T: Element>(elements: &'a [T], shape: impl IntoShape) -> Result<TensorData<'a>> {
    let mut tensor = elements.into_tensor()?;
    tensor.shape = shape.into_shape()?;
    Ok(tensor)
}

impl<'a, T: Element, D: IntoShape> IntoTensor<'a> for (&'a [T], D) {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        shaped(self.0, self.1)
    }
}

impl<'a, T: Element, D: IntoShape> IntoTensor<'a> for (&'a Vec<T>, D) {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        shaped(self.0, self.1)
    }
}

impl<'a, T: Element, const N: usize, D: IntoShape> IntoTensor<'a> for (&'a [T; N], D) {
    fn into_tensor(self) -> Result<TensorData<'a>> {
        shaped(self.0, self.1)
    }
}

/// What can be a shape, or strides: arrays, slices and vectors of `u64`, `usize`, `i64` or `i32`, none of them negative; and `()`,
/// the shape of a scalar.
pub trait IntoShape {
    /// The numbers.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if one is negative.
    fn into_shape(self) -> Result<Vec<u64>>;
}

impl IntoShape for () {
    fn into_shape(self) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }
}

macro_rules! shapes {
    ($($number:ty)*) => { $(
        impl IntoShape for &[$number] {
            fn into_shape(self) -> Result<Vec<u64>> {
                let one = |&n: &$number| {
                    u64::try_from(n).map_err(|_| Error::invalid(format!("{n} in a shape is not a length")))
                };
                self.iter().map(one).collect()
            }
        }
        impl IntoShape for Vec<$number> {
            fn into_shape(self) -> Result<Vec<u64>> { self.as_slice().into_shape() }
        }
        impl IntoShape for &Vec<$number> {
            fn into_shape(self) -> Result<Vec<u64>> { self.as_slice().into_shape() }
        }
        impl<const N: usize> IntoShape for [$number; N] {
            fn into_shape(self) -> Result<Vec<u64>> { self.as_slice().into_shape() }
        }
        impl<const N: usize> IntoShape for &[$number; N] {
            fn into_shape(self) -> Result<Vec<u64>> { self.as_slice().into_shape() }
        }
    )* };
}

shapes! { u64 usize i64 i32 }
