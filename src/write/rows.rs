//! [`RowsWriter`]: a tensor that stays open from one call to the next.

use super::stream::{OpenTensor, Writer};
use crate::error::Result;
use crate::format::dtype::Element;

/// Takes the rows of one tensor, and has the [`Writer`] until they are [finished](RowsWriter::finish): for who keeps it among other things,
/// where a [`TensorWriter`](crate::TensorWriter) would borrow from its neighbour. [`Writer::into_rows`] begins it.
///
/// If it is dropped unfinished, nothing is saved.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("features.dolmen");
/// use dolmen::{DType, RowsWriter, Writer};
///
/// struct Job { features: RowsWriter }
///
/// let mut job = Job { features: Writer::create(&path)?.into_rows("embeddings", DType::F32, [2])? };
/// job.features.write_elements(&[0.5f32, 1.0])?;
/// job.features.write_elements(&[1.5f32, 2.0])?;
/// let (writer, rows) = job.features.finish()?;
/// assert_eq!(rows, 2);
/// writer.commit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the tensor must be finished"]
pub struct RowsWriter {
    writer: Writer,
    tensor: OpenTensor,
}

impl RowsWriter {
    pub(super) fn new(writer: Writer, tensor: OpenTensor) -> RowsWriter {
        RowsWriter { writer, tensor }
    }

    /// Takes the next bytes, which need not end with a row.
    ///
    /// # Errors
    /// As [`TensorWriter::write_bytes`](crate::TensorWriter::write_bytes).
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.tensor.write(&mut self.writer, bytes)
    }

    /// Takes the next elements.
    ///
    /// # Errors
    /// As [`TensorWriter::write_elements`](crate::TensorWriter::write_elements).
    pub fn write_elements<T: Element>(&mut self, elements: &[T]) -> Result<()> {
        self.write_bytes(bytemuck::cast_slice(elements))
    }

    /// Ends the tensor; gives the writer back, and the number of rows.
    ///
    /// # Errors
    /// As [`TensorWriter::finish`](crate::TensorWriter::finish); what was written is removed then.
    pub fn finish(mut self) -> Result<(Writer, u64)> {
        let rows = self.tensor.finish(&mut self.writer)?;
        Ok((self.writer, rows))
    }
}
