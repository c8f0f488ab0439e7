//! A tensor of a checkpoint: what it is, and its bytes, verified.

use std::borrow::Cow;
use std::ops::Range;

use super::{Checkpoint, gather};
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::{DType, Element};
use crate::format::index::TensorEntry;
use crate::format::{layout, len_u64};

/// A tensor of a [`Checkpoint`], borrowed from it: name, dtype, shape, strides, and the bytes where they lie.
///
/// Looking at what it is touches the index alone. Its bytes are verified the first time they are touched, block by block;
/// what has been verified is remembered in the checkpoint. It is `Copy`, `Send` and `Sync`.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    checkpoint: &'a Checkpoint,
    entry: TensorEntry<'a>,
}

impl<'a> TensorView<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, entry: TensorEntry<'a>) -> TensorView<'a> {
        TensorView { checkpoint, entry }
    }

    /// The name.
    pub fn name(&self) -> &'a str {
        self.entry.name
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.entry.dtype
    }

    /// The shape: the number of elements along each axis. Empty for a scalar.
    pub fn shape(&self) -> &'a [u64] {
        self.entry.shape
    }

    /// The strides in elements, one for each axis. **Cost**: allocates if the tensor is contiguous.
    pub fn strides(&self) -> Cow<'a, [u64]> {
        match self.entry.strides {
            Some(strides) => Cow::Borrowed(strides),
            None => Cow::Owned(layout::contiguous_strides(self.entry.shape)),
        }
    }

    /// The strides in elements if they are not those of row-major order.
    pub fn explicit_strides(&self) -> Option<&'a [u64]> {
        self.entry.strides
    }

    /// Whether the elements lie one after the other in row-major order.
    ///
    /// Strides along axes of length 1 do not matter for that, nor any if there are no elements.
    pub fn is_contiguous(&self) -> bool {
        let Some(strides) = self.entry.strides else { return true };
        self.entry.element_count == 0
            || layout::contiguous_strides_reversed(self.entry.shape)
                .zip(self.entry.shape.iter().zip(strides).rev())
                .all(|(expected, (&dim, &stride))| dim == 1 || stride == expected)
    }

    /// How many elements the shape has.
    pub fn element_count(&self) -> u64 {
        self.entry.element_count
    }

    /// The length of [`bytes`](Self::bytes): from the first element to the end of the last one, gaps of strides included.
    pub fn byte_len(&self) -> u64 {
        self.entry.extent
    }

    /// The number of the storage that it lies in. Tensors of the same storage may overlap.
    pub fn storage(&self) -> u32 {
        self.entry.storage
    }

    /// Where it begins in its storage, in bytes.
    pub fn start(&self) -> u64 {
        self.entry.start
    }

    /// The bytes of its storage that it reaches over.
    pub(crate) fn range_in_storage(&self) -> Range<u64> {
        self.entry.range()
    }

    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The CRC-32 of its whole storage, as the file has it; `None` if a file of another format has none.
    ///
    /// # Errors
    /// If the storage's record is broken.
    pub fn storage_crc32(&self) -> Result<Option<u32>> {
        let storage = self.checkpoint.index().storage_of(&self.entry).map_err(|e| self.in_file(e))?;
        Ok(self.checkpoint.has_crc(self.entry.storage).then_some(storage.crc32))
    }

    /// The length of its whole storage in bytes.
    ///
    /// # Errors
    /// If the storage's record is broken.
    pub fn storage_len(&self) -> Result<u64> {
        Ok(self.checkpoint.index().storage_of(&self.entry).map_err(|e| self.in_file(e))?.data_len)
    }

    /// Where its first byte lies in the file.
    ///
    /// # Errors
    /// If the storage's record is broken; [`InvalidInput`](ErrorKind::InvalidInput) if a file of another format does not have its bytes as they
    /// are.
    pub fn file_offset(&self) -> Result<u64> {
        if self.checkpoint.own(self.entry.storage).is_some() {
            return Err(self.in_file(Error::invalid("its bytes are in the file in another form")));
        }
        let storage = self.checkpoint.index().storage_of(&self.entry).map_err(|e| self.in_file(e))?;
        Ok(storage.in_file(&self.entry.range()).start)
    }

    /// The bytes from its first element to the end of its last one, verified.
    ///
    /// **Cost**: the first time, the CRC of the blocks that it touches (and reading its storage, if the checkpoint reads on
    /// demand); later, a look at the bits that remember it.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) with the damaged block; [`Io`](ErrorKind::Io) if the file cannot be read.
    pub fn bytes(&self) -> Result<&'a [u8]> {
        self.bytes_of(0..self.entry.extent)
    }

    /// The bytes of a part of its extent, verified: only the blocks that the part touches are checked.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); [`InvalidInput`](ErrorKind::InvalidInput) if the part is not within the extent.
    pub fn bytes_of(&self, part: Range<u64>) -> Result<&'a [u8]> {
        if part.start > part.end || part.end > self.entry.extent {
            let message = format!("bytes {}..{} of a tensor of {} bytes", part.start, part.end, self.entry.extent);
            return Err(self.in_file(Error::invalid(message)));
        }
        // Within the extent, whose end rule TEN-11 keeps from overflowing.
        let start = self.entry.start;
        let range = start.saturating_add(part.start)..start.saturating_add(part.end);
        self.checkpoint.storage_bytes(self.entry.storage, range, true).map_err(|e| self.in_file(e))
    }

    /// The bytes as they are, with nothing checked. What was damaged on the disk or on the way is in them.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the file cannot be read.
    pub fn bytes_unverified(&self) -> Result<&'a [u8]> {
        self.checkpoint.storage_bytes(self.entry.storage, self.entry.range(), false).map_err(|e| self.in_file(e))
    }

    /// The bytes of its whole storage, verified. The tensor itself begins at [`start`](Self::start).
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn storage_bytes(&self) -> Result<&'a [u8]> {
        let len = self.storage_len()?;
        self.checkpoint.storage_bytes(self.entry.storage, 0..len, true).map_err(|e| self.in_file(e))
    }

    /// The elements in row-major order, borrowed where they lie, verified.
    ///
    /// **Shape**: as long as [`element_count`](Self::element_count).
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); [`InvalidInput`](ErrorKind::InvalidInput) if `T` is not the tensor's dtype, or the tensor
    /// is strided ([`to_vec`](Self::to_vec) copies such a one); [`Malformed`](ErrorKind::Malformed) for a bool that is
    /// neither 0 nor 1.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        self.check_typed::<T>()?;
        cast(self.bytes()?).map_err(|e| self.in_file(e))
    }

    /// As [`as_slice`](Self::as_slice), with nothing checked but dtype and layout.
    ///
    /// # Errors
    /// As [`as_slice`](Self::as_slice), but for damage.
    pub fn as_slice_unverified<T: Element>(&self) -> Result<&'a [T]> {
        self.check_typed::<T>()?;
        cast(self.bytes_unverified()?).map_err(|e| self.in_file(e))
    }

    fn check_dtype<T: Element>(&self) -> Result<()> {
        if self.entry.dtype == T::DTYPE {
            return Ok(());
        }
        Err(self.in_file(Error::invalid(format!("it is of dtype {}, not {}", self.entry.dtype, T::DTYPE))))
    }

    fn check_contiguous(&self) -> Result<()> {
        if self.is_contiguous() {
            return Ok(());
        }
        let e = Error::invalid(format!(
            "its strides {:?} over shape {:?} are not contiguous",
            self.strides(),
            self.entry.shape
        ));
        Err(self.in_file(e.with_advice("copy it with `to_vec` or `read_into`")))
    }

    fn check_typed<T: Element>(&self) -> Result<()> {
        self.check_dtype::<T>()?;
        self.check_contiguous()
    }

    /// The length in bytes of the elements one after the other: what [`read_into`](Self::read_into) needs.
    pub fn contiguous_byte_len(&self) -> u64 {
        // Rule TEN-8 has it that this does not overflow.
        layout::contiguous_len(self.entry.element_count, self.entry.dtype.bits()).unwrap_or(u64::MAX)
    }

    /// Gives the elements in row-major order, verified, as runs of bytes; all in one run if the tensor is contiguous.
    ///
    /// **Cost**: no copy and no memory, whatever the strides expand to.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and whatever `run` returns.
    pub fn for_each_run(&self, mut run: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let bytes = self.bytes()?;
        match (self.entry.strides, self.entry.dtype.byte_size()) {
            (Some(strides), Some(size)) if !self.is_contiguous() => {
                gather::for_each_run(bytes, self.entry.shape, strides, size, run)
            }
            _ => run(bytes),
        }
    }

    /// Gives the elements in row-major order, verified, piece by piece, keeping nothing in memory.
    ///
    /// What [`for_each_run`](Self::for_each_run) does, for a contiguous tensor of a checkpoint that
    /// [reads on demand](Checkpoint::open_on_demand): it is read block by block and not kept. A damaged block longer than 16 MiB may be
    /// given in part before the error comes; shorter ones are never given.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and whatever `take` returns.
    pub fn stream(&self, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if !self.is_contiguous() {
            return self.for_each_run(take);
        }
        self.checkpoint.stream_storage(self.entry.storage, self.entry.range(), take).map_err(|e| self.in_file(e))
    }

    /// Gives the bytes of its extent, gaps of strides included, verified, piece by piece, keeping nothing in memory.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn stream_extent(&self, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.checkpoint.stream_storage(self.entry.storage, self.entry.range(), take).map_err(|e| self.in_file(e))
    }

    /// Gives the bytes of its whole storage, verified, piece by piece, keeping nothing in memory.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn stream_storage(&self, take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let len = self.storage_len()?;
        self.checkpoint.stream_storage(self.entry.storage, 0..len, take).map_err(|e| self.in_file(e))
    }

    /// Copies the elements, in row-major order, into a buffer of exactly
    /// [`contiguous_byte_len`](Self::contiguous_byte_len) bytes; verified.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); [`InvalidInput`](ErrorKind::InvalidInput) if the buffer is of another length.
    pub fn read_into(&self, buffer: &mut [u8]) -> Result<()> {
        if len_u64(buffer.len()) != self.contiguous_byte_len() {
            let message =
                format!("its elements take {} bytes, the buffer has {}", self.contiguous_byte_len(), buffer.len());
            return Err(self.in_file(Error::invalid(message)));
        }
        let mut rest = buffer;
        self.stream(|run| {
            let place = rest.split_off_mut(..run.len());
            place.ok_or_else(|| Error::invalid("it gives more bytes than its elements take"))?.copy_from_slice(run);
            Ok(())
        })
    }

    /// Whether its strides expand to more than the file's own length, and more than 256 MiB: a small file must not make a program
    /// allocate, or write, terabytes. What copies the elements should ask this first.
    pub fn expands_too_far(&self) -> bool {
        const ALWAYS_ALLOWED: u64 = 256 << 20;
        self.contiguous_byte_len() > self.checkpoint.header().file_len().max(ALWAYS_ALLOWED)
    }

    /// A copy of the elements in row-major order; verified.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes); [`InvalidInput`](ErrorKind::InvalidInput) if `T` is not the dtype;
    /// [`Limit`](ErrorKind::Limit) if its strides [expand too far](Self::expands_too_far); [`for_each_run`](Self::for_each_run) has no
    /// such limit.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.check_dtype::<T>()?;
        if self.expands_too_far() {
            let message =
                format!("its strides expand to {} bytes, far more than the file holds", self.contiguous_byte_len());
            let e = Error::new(ErrorKind::Limit, message);
            return Err(self.in_file(e.with_advice("use `for_each_run` or `read_into` if that is what you want")));
        }
        let mut out = Vec::new();
        usize::try_from(self.entry.element_count)
            .ok()
            .and_then(|n| out.try_reserve_exact(n).ok())
            .ok_or_else(|| self.in_file(Error::io("cannot hold a copy", std::io::ErrorKind::OutOfMemory.into())))?;
        self.for_each_run(|run| append(&mut out, run).map_err(|e| self.in_file(e)))?;
        Ok(out)
    }

    /// Rows `rows` along the first axis. Only the blocks that they touch are verified when their bytes are used.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there are no such rows, if it has no axis, or if its rows do not lie
    /// one after the other (or not at byte boundaries, for packed dtypes).
    pub fn rows(&self, rows: Range<u64>) -> Result<Rows<'a>> {
        let Some((&count, row_shape)) = self.entry.shape.split_first() else {
            return Err(self.in_file(Error::invalid("it is a scalar, which has no rows")));
        };
        if rows.start > rows.end || rows.end > count {
            let message = format!("there are no rows {}..{} of {count}", rows.start, rows.end);
            return Err(self.in_file(Error::invalid(message)));
        }
        self.check_contiguous()?;
        let bits = self.entry.dtype.bits();
        let row_bits = layout::element_count(row_shape, bits).unwrap_or(0).saturating_mul(bits.into());
        if row_bits % 8 != 0 {
            return Err(self.in_file(Error::invalid("its rows do not begin at byte boundaries")));
        }
        Ok(Rows { tensor: *self, rows, row_len: row_bits / 8 })
    }

    fn in_file(&self, e: Error) -> Error {
        self.checkpoint.in_file(e).with_tensor(self.entry.name)
    }
}

/// Copies contiguous elements to the end of a vector; a guest's file may not align them.
fn append<T: Element>(out: &mut Vec<T>, bytes: &[u8]) -> Result<()> {
    if bytes.as_ptr().align_offset(align_of::<T>()) == 0 {
        out.extend_from_slice(cast(bytes)?);
        return Ok(());
    }
    for element in bytes.chunks_exact(size_of::<T>()) {
        out.push(bytemuck::checked::try_pod_read_unaligned(element).map_err(|_| invalid_element::<T>())?);
    }
    Ok(())
}

fn invalid_element<T: Element>() -> Error {
    Error::new(ErrorKind::Malformed, format!("an element is not a valid {}", T::DTYPE))
}

/// The bytes of contiguous elements as a slice of them.
fn cast<T: Element>(bytes: &[u8]) -> Result<&[T]> {
    // Where there are no elements, none can be out of line.
    if bytes.is_empty() {
        return Ok(&[]);
    }
    bytemuck::checked::try_cast_slice(bytes).map_err(|e| match e {
        bytemuck::checked::CheckedCastError::InvalidBitPattern => invalid_element::<T>(),
        // Dolmen files align every element; memory given to `from_static` or a view of a guest's file may not.
        bytemuck::checked::CheckedCastError::PodCastError(_) => {
            Error::invalid("its bytes are not aligned for a typed view").with_advice("use its bytes, or copy it")
        }
    })
}

impl std::fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorView")
            .field("name", &self.name())
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("strides", &self.explicit_strides())
            .field("storage", &self.storage())
            .field("start", &self.start())
            .finish()
    }
}

/// Consecutive rows of a tensor, along its first axis.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    tensor: TensorView<'a>,
    rows: Range<u64>,
    row_len: u64,
}

impl<'a> Rows<'a> {
    /// The tensor whose rows these are.
    pub fn tensor(&self) -> TensorView<'a> {
        self.tensor
    }

    /// Which rows.
    pub fn range(&self) -> Range<u64> {
        self.rows.clone()
    }

    /// Bytes of one row.
    pub fn row_byte_len(&self) -> u64 {
        self.row_len
    }

    /// The rows' bytes, verified: the blocks that they touch and no others.
    ///
    /// # Errors
    /// As [`TensorView::bytes`].
    pub fn bytes(&self) -> Result<&'a [u8]> {
        // Within the extent, for the rows are within the shape; so nothing overflows.
        let place = |row: u64| row.saturating_mul(self.row_len);
        self.tensor.bytes_of(place(self.rows.start)..place(self.rows.end))
    }

    /// The rows' elements, borrowed where they lie, verified: the blocks that they touch and no others.
    ///
    /// **Shape**: the number of rows, times the elements of a row.
    ///
    /// # Errors
    /// As [`TensorView::as_slice`].
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T]> {
        self.tensor.check_typed::<T>()?;
        cast(self.bytes()?).map_err(|e| self.tensor.in_file(e))
    }
}
