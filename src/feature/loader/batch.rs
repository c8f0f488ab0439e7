//! A batch: rows of a table in a device's memory.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::fill::{Filled, Shape};
use super::pool::Pool;
use super::{Came, Shared};
use crate::error::{Error, Result};
use crate::feature::device::{Device, Host};
use crate::format::dtype::{DType, Element};
use crate::format::len_u64;

/// Rows of a table, in a device's memory: features, one row after the other, and labels behind them.
///
/// Dropping it gives its memory to a later batch. On a GPU it does so at once: what your stream was asked to do with it until then comes first,
/// on the device, without anyone waiting.
pub struct Batch<D: Device> {
    number: u64,
    filled: Option<Filled<D::Memory>>,
    shape: Shape,
    dtype: DType,
    width: u64,
    pool: Arc<Pool<Came<D>, D::Memory>>,
    shared: Arc<Shared<D>>,
}

impl<D: Device> Batch<D> {
    pub(super) fn new(
        number: u64,
        filled: Filled<D::Memory>,
        pool: &Arc<Pool<Came<D>, D::Memory>>,
        shared: &Arc<Shared<D>>,
    ) -> Batch<D> {
        Batch {
            number,
            filled: Some(filled),
            shape: shared.shape,
            dtype: shared.table.dtype(),
            width: shared.table.width(),
            pool: Arc::clone(pool),
            shared: Arc::clone(shared),
        }
    }

    fn filled(&self) -> &Filled<D::Memory> {
        match &self.filled {
            Some(filled) => filled,
            // It is taken out when the batch is dropped, and nowhere else.
            None => unreachable!("a batch that was dropped"),
        }
    }

    /// Its number among this worker's batches of the epoch, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The rows of the table that it has, in its order.
    pub fn rows(&self) -> &[u64] {
        &self.filled().rows
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows().len()
    }

    /// Whether it has no rows: all were damaged, and skipped.
    pub fn is_empty(&self) -> bool {
        self.rows().is_empty()
    }

    /// Elements of a row.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// The shape of the features: rows and columns.
    pub fn shape(&self) -> [u64; 2] {
        [len_u64(self.len()), self.width]
    }

    /// The dtype of the features.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The labels of its rows, on the host, if the table has labels. They are in the device's memory, too, as i64.
    pub fn labels(&self) -> Option<&[i64]> {
        self.filled().labels.as_deref()
    }

    /// Rows that should be in it, and were skipped because they are damaged; ascending.
    pub fn skipped(&self) -> &[u64] {
        &self.filled().skipped
    }

    /// Whether it lies where it was, in the memory of a checkpoint: nothing was copied.
    pub fn is_lent(&self) -> bool {
        self.filled().lent
    }

    /// The memory that it lies in.
    pub fn memory(&self) -> &D::Memory {
        &self.filled().memory
    }

    /// The device, and the memory to change; `None` only while it is dropped.
    pub(crate) fn device_and_memory_mut(&mut self) -> Option<(&D, &mut D::Memory)> {
        let filled = self.filled.as_mut()?;
        Some((&self.shared.device, &mut filled.memory))
    }

    /// The device that the memory is of.
    pub fn device(&self) -> &D {
        &self.shared.device
    }

    /// Which bytes of the memory are the features. They begin at a multiple of 256, or of 16 on the host if they are
    /// [lent](super::LoaderOptions::copied).
    pub fn features_in_memory(&self) -> Range<usize> {
        self.shape.features(self.len())
    }

    /// Which bytes of the memory are the labels, as i64, if the table has labels. They begin at a multiple of 256.
    pub fn labels_in_memory(&self) -> Option<Range<usize>> {
        self.labels().map(|labels| self.shape.labels(labels.len()))
    }

    /// Copies the features to the host. On a GPU it waits for that; it is meant for tests and for looking.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device fails.
    pub fn read_back(&self) -> Result<Vec<u8>> {
        self.shared.device.read_back(self.memory(), self.features_in_memory())
    }

    /// Copies the labels to the host, from the device's memory.
    ///
    /// # Errors
    /// As [`read_back`](Self::read_back).
    pub fn read_back_labels(&self) -> Result<Option<Vec<i64>>> {
        let Some(range) = self.labels_in_memory() else { return Ok(None) };
        let bytes = self.shared.device.read_back(self.memory(), range)?;
        Ok(Some(bytes.as_chunks().0.iter().map(|&label| i64::from_le_bytes(label)).collect()))
    }
}

impl Batch<Host> {
    /// The features, one row after the other.
    ///
    /// **Shape**: [`shape`](Self::shape).
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `T` is not their dtype.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if self.dtype != T::DTYPE {
            return Err(Error::invalid(format!("the batch is of dtype {}, not {}", self.dtype, T::DTYPE)));
        }
        let bytes = self.as_bytes();
        bytemuck::checked::try_cast_slice(bytes)
            .map_err(|_| Error::new(crate::ErrorKind::Malformed, format!("an element is not a valid {}", T::DTYPE)))
    }

    /// The bytes of the features.
    pub fn as_bytes(&self) -> &[u8] {
        self.memory().get(self.features_in_memory()).unwrap_or_default()
    }
}

impl<D: Device> Drop for Batch<D> {
    fn drop(&mut self) {
        if let Some(mut filled) = self.filled.take().filter(|filled| !filled.lent)
            // Memory of which the device cannot say when it is done with it is not used again.
            && self.shared.device.release(&mut filled.memory).is_ok()
        {
            self.pool.give_back(filled.memory);
        }
    }
}

impl<D: Device> fmt::Debug for Batch<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("number", &self.number)
            .field("shape", &self.shape())
            .field("dtype", &self.dtype)
            .field("labels", &self.labels().is_some())
            .field("skipped", &self.skipped().len())
            .finish_non_exhaustive()
    }
}
