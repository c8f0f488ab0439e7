//! [`CudaMemory`]: memory of a GPU, and what is in flight to and from it.
//!
//! # Who waits for whom
//! Every order is an event, recorded on the stream that works and waited for by the stream that must not begin yet.
//!
//! | before | what must be done | event | recorded | waited for |
//! |---|---|---|---|---|
//! | a copy into it | its allocation, and the consumer's work on it | `released` | by `allocate` and `release`, on the consumer's stream | by every `fill`, on the lane's stream |
//! | the consumer's work | all copies into it | `copied`, one of each lane | by `finish`, on the lane's stream | by `acquire`, on the consumer's stream |
//! | freeing it | all copies, and the consumer's work | `copied` | by `finish`, or when it is dropped | by dropping it, on the consumer's stream, on which the free is ordered |
//!
//! A lane that filled and did not finish (because filling failed) is in `filling`, and whoever next needs the copies to be done records its
//! event. So nothing hangs on how filling ended.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut, DriverError};

use super::super::DEVICE_ALIGNMENT;
use super::driver::{Doing, bind, drain, drain_context, record, wait_on_host};
use super::lane::wait_for_all;
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::Element;

/// Memory of a GPU.
///
/// It is used with [cudarc](https://docs.rs/cudarc), between [`acquire`](super::super::Device::acquire) and
/// [`release`](super::super::Device::release), on the [consumer's stream](super::Cuda::stream): what is put on that stream after `acquire`
/// sees what was filled, and what was put on it before `release` is done before anything is overwritten.
///
/// Another stream has to be ordered by whoever uses it: it waits for an event recorded on the consumer's stream after `acquire`, and the
/// consumer's stream waits for an event of it before `release` and before the memory is dropped. cudarc does both by itself for
/// [views](Self::as_cuda_view) that are passed to its own functions and launches, as long as its event tracking is on.
///
/// Dropping it waits for nothing: it is freed in the consumer's stream, behind everything that uses it. (Where the driver has no memory
/// pools, dropping waits for that.)
#[derive(Debug)]
pub struct CudaMemory {
    /// `None` only while it is dropped. Freed on the consumer's stream, which is its stream.
    slice: Option<CudaSlice<u8>>,
    address: u64,
    byte_len: usize,
    stream: Arc<CudaStream>,
    /// Behind the allocation, and then behind what the consumer did until it last released.
    released: CudaEvent,
    /// Behind copies that the consumer's stream does not wait for yet.
    copied: Vec<CudaEvent>,
    /// So many of `copied`, the first ones, are waited for by every copy since `parts`.
    superseded: usize,
    /// Events to use again.
    spare: Vec<CudaEvent>,
    /// The streams of lanes that have filled some of it since `parts`, and have not finished.
    filling: Mutex<Vec<Arc<CudaStream>>>,
    /// Whether the consumer has acquired it and has not released it.
    acquired: bool,
}

/// A part of a GPU's memory that is to be filled.
#[derive(Debug)]
pub struct CudaPart<'m> {
    pub(super) address: u64,
    pub(super) byte_len: usize,
    /// Borrowed from the memory, so that it is neither dropped nor acquired while it has parts.
    memory: &'m CudaMemory,
}

impl CudaPart<'_> {
    /// Makes a lane's stream wait for everything that was done with the memory before it was cut into parts.
    ///
    /// Every fill does, for waiting again costs a microsecond, and knowing of each lane and memory whether it has waited costs a proof.
    pub(super) fn wait(&self, stream: &CudaStream) -> std::result::Result<(), DriverError> {
        wait_for_all(stream, std::iter::once(&self.memory.released).chain(&self.memory.copied))
    }

    /// Remembers that a lane's stream copies into the memory.
    pub(super) fn begin(&self, stream: &Arc<CudaStream>) {
        let mut filling = self.memory.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if !filling.contains(stream) {
            filling.push(Arc::clone(stream));
        }
    }

    pub(super) fn consumer(&self) -> &CudaStream {
        &self.memory.stream
    }
}

impl CudaMemory {
    /// Memory that is allocated in the order of the consumer's stream.
    ///
    /// Where the driver has memory pools that is `cuMemAllocAsync`: the memory is there when the stream gets to it, and may be used by
    /// another stream only after that. `released` is recorded behind it, so that the first copies wait for it as later ones wait for the
    /// consumer. Elsewhere it is `cuMemAlloc`, and there at once.
    pub(super) fn new(stream: &Arc<CudaStream>, byte_len: usize) -> Result<CudaMemory> {
        let doing = || format!("cannot allocate {byte_len} bytes on the device");
        let released = stream.context().new_event(None).doing(&doing())?;
        // SAFETY: the call is unsafe because what it gives is not initialised. Nothing here reads it, and any bytes are valid for the
        // element types that it is viewed as. The driver refuses to allocate nothing, so there is at least a byte.
        let slice = unsafe { stream.alloc::<u8>(byte_len.max(1)) }.doing(&doing())?;
        record(&released, stream).doing(&doing())?;
        let address = slice.device_ptr(stream).0;
        // Promised by the driver, for every allocation; and by us.
        if !usize::try_from(address).is_ok_and(|address| address.is_multiple_of(DEVICE_ALIGNMENT)) {
            return Err(Error::new(ErrorKind::Device, "the driver's memory is not aligned"));
        }
        Ok(CudaMemory {
            slice: Some(slice),
            address,
            byte_len,
            stream: Arc::clone(stream),
            released,
            copied: Vec::new(),
            superseded: 0,
            spare: Vec::new(),
            filling: Mutex::default(),
            acquired: false,
        })
    }

    /// How many bytes it has.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// The address of its first byte, a multiple of [`DEVICE_ALIGNMENT`].
    ///
    /// Whoever uses it keeps to the order that the type's documentation gives, and keeps the memory alive meanwhile.
    pub fn device_ptr(&self) -> u64 {
        self.address
    }

    /// Some of its bytes as elements, for cudarc's functions and launches. `T` is an element type of which any bytes are one: bools are
    /// viewed as `u8`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are no such bytes, they are not a number of whole elements, or do not
    /// begin where one may.
    pub fn as_cuda_view<T: Element + bytemuck::AnyBitPattern>(&self, bytes: Range<usize>) -> Result<CudaView<'_, T>> {
        let view = self.view(bytes.clone())?;
        let element_count = view.len().checked_div(size_of::<T>()).unwrap_or(0);
        if !view.len().is_multiple_of(size_of::<T>()) || !bytes.start.is_multiple_of(align_of::<T>()) {
            return Err(Error::invalid(format!("bytes {bytes:?} are not a number of {} elements, aligned", T::DTYPE)));
        }
        // SAFETY: the view has `element_count * size_of::<T>()` bytes, and begins at a multiple of `T`'s alignment, for the allocation
        // begins at a multiple of 256. Any bytes are elements, and nothing else says what these are.
        let elements = unsafe { view.transmute::<T>(element_count) };
        elements.ok_or_else(|| Error::invalid("there are no such bytes in this memory"))
    }

    /// Some of its bytes.
    pub(super) fn view(&self, bytes: Range<usize>) -> Result<CudaView<'_, u8>> {
        let slice = self.slice.as_ref().filter(|_| bytes.end <= self.byte_len);
        slice
            .and_then(|slice| slice.try_slice(bytes))
            .ok_or_else(|| Error::invalid("there are no such bytes in this memory"))
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(super) fn parts(&mut self, byte_lens: &[usize]) -> Result<Vec<CudaPart<'_>>> {
        let doing = "cannot order copies to the device";
        self.settle().doing(doing)?;
        if self.acquired {
            // Whoever acquired it did not say that it is released: everything that the consumer was asked to do counts.
            self.release()?;
        }
        self.superseded = self.copied.len();
        let memory = &*self;
        let mut start = 0usize;
        let cut = |&byte_len: &usize| {
            let too_long = || Error::invalid("the memory is not as long");
            let end = start.checked_add(byte_len).filter(|&end| end <= memory.byte_len).ok_or_else(too_long)?;
            let address =
                u64::try_from(start).ok().and_then(|start| memory.address.checked_add(start)).ok_or_else(too_long)?;
            start = end;
            Ok(CudaPart { address, byte_len, memory })
        };
        byte_lens.iter().map(cut).collect()
    }

    /// Records that a lane's copies so far are all.
    pub(super) fn finish(&mut self, stream: &Arc<CudaStream>) -> std::result::Result<(), DriverError> {
        let filling = self.filling.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = filling.iter().position(|filling| filling == stream) else {
            return Ok(());
        };
        let event = Self::record_spare(&mut self.spare, stream)?;
        self.copied.push(event);
        filling.swap_remove(at);
        // This lane has filled since `parts`, and its stream has waited for these: its event is behind them.
        self.spare.extend(self.copied.drain(..self.superseded));
        self.superseded = 0;
        Ok(())
    }

    pub(super) fn acquire(&mut self) -> Result<()> {
        let doing = "cannot hand memory to the consumer";
        self.settle().doing(doing)?;
        self.acquired = true;
        wait_for_all(&self.stream, &self.copied).doing(doing)?;
        // Copied or not, what the consumer's stream does from now on is behind them: and so is all that waits for that stream.
        self.spare.append(&mut self.copied);
        self.superseded = 0;
        self.note_for_cudarc(doing)
    }

    pub(super) fn release(&mut self) -> Result<()> {
        let doing = "cannot take memory back from the consumer";
        self.note_for_cudarc(doing)?;
        record(&self.released, &self.stream).doing(doing)?;
        self.acquired = false;
        Ok(())
    }

    /// Waits for everything that was asked for so far.
    pub(super) fn synchronize(&self) -> std::result::Result<(), DriverError> {
        let filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        filling.iter().try_for_each(|stream| drain(stream))?;
        self.copied.iter().try_for_each(wait_on_host)?;
        drain(&self.stream)
    }

    /// Records the events of lanes that filled and did not finish.
    fn settle(&mut self) -> std::result::Result<(), DriverError> {
        let filling = self.filling.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(stream) = filling.last() {
            let event = Self::record_spare(&mut self.spare, stream)?;
            self.copied.push(event);
            filling.pop();
        }
        Ok(())
    }

    fn record_spare(spare: &mut Vec<CudaEvent>, stream: &CudaStream) -> std::result::Result<CudaEvent, DriverError> {
        let event = match spare.pop() {
            Some(event) => event,
            None => stream.context().new_event(None)?,
        };
        record(&event, stream)?;
        Ok(event)
    }

    /// Tells cudarc's own tracking that the consumer's stream writes all of it now: after what other streams did with views of it, and
    /// before what they will do. Nothing here hangs on that; it is for those who use such streams.
    fn note_for_cudarc(&mut self, doing: &str) -> Result<()> {
        let context = Arc::clone(self.stream.context());
        if let Some(slice) = &mut self.slice {
            drop(slice.device_ptr_mut(&self.stream));
        }
        // What failed in that was left in the context.
        context.check_err().doing(doing)
    }

    /// Orders the consumer's stream behind every copy, so that what is freed in it is freed after them.
    fn order_free(&mut self, context: &CudaContext) -> std::result::Result<(), DriverError> {
        bind(context)?;
        self.settle()?;
        wait_for_all(&self.stream, &self.copied)?;
        // Without pools freeing is no work of a stream: the host waits.
        if context.has_async_alloc() { Ok(()) } else { drain(&self.stream) }
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        let context = Arc::clone(self.stream.context());
        // An error that waits to be reported would keep cudarc from waiting when it frees. It is put back afterwards.
        let earlier = context.check_err();
        let ordered = self.order_free(&context);
        if ordered.is_ok() || drain_context(&context).is_ok() {
            self.slice = None;
        } else {
            // The device may still copy into it, for all that is known: it is lost rather than freed.
            mem::forget(self.slice.take());
        }
        // The next call reports it.
        context.record_err(ordered);
        context.record_err(earlier);
    }
}
