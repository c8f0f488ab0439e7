//! [`CudaLane`]: a stream of its own, and buffers that the device copies from.

use std::mem;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result, sys};

use super::driver::{Doing, bind, drain, drain_context, record, wait_on_device, wait_on_host};
use super::memory::CudaPart;
use crate::error::{Error, Result};

/// What one filling thread holds of a GPU: a stream, and buffers of pinned memory.
///
/// Dropping it waits for the copies that it began.
#[derive(Debug)]
pub struct CudaLane {
    stream: Arc<CudaStream>,
    /// Never empty.
    staging: Vec<Staging>,
    next: usize,
}

/// A buffer of pinned memory that the CPU caches: checksums are computed on it, and reading write-combined memory is very slow.
#[derive(Debug)]
struct Staging {
    bytes: PinnedHostSlice<u8>,
    copied: CudaEvent,
    copy: LastCopy,
}

/// The last copy out of a buffer.
#[derive(Clone, Copy, Debug)]
enum LastCopy {
    /// It is known to be done, or there was none: the host may write.
    Done,
    /// The buffer's event is behind it.
    Recorded,
    /// It may have begun, and nothing but the stream is behind it.
    Unrecorded,
}

impl Staging {
    fn new(context: &Arc<CudaContext>, byte_len: usize) -> Result<Staging> {
        let doing = "cannot pin memory of the host";
        // A thread that waits sleeps, so that the threads that compute have the processors.
        let copied = context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC)).doing(doing)?;
        // SAFETY: the call is unsafe because what it gives is not initialised, which is done next, through a pointer.
        let mut bytes = unsafe { context.alloc_pinned_with_flags::<u8>(byte_len, 0) }.doing(doing)?;
        let start = bytes.as_mut_ptr().doing(doing)?;
        // SAFETY: the allocation has `byte_len` bytes, and nobody else knows of it yet.
        unsafe { start.write_bytes(0, byte_len) };
        Ok(Staging { bytes, copied, copy: LastCopy::Done })
    }

    /// Waits until the host may write into the buffer.
    fn wait(&mut self, stream: &CudaStream) -> std::result::Result<(), DriverError> {
        match self.copy {
            LastCopy::Done => {}
            // The event was recorded behind the copy, on the same stream: it is done when the copy is.
            LastCopy::Recorded => wait_on_host(&self.copied)?,
            LastCopy::Unrecorded => drain(stream)?,
        }
        self.copy = LastCopy::Done;
        Ok(())
    }
}

impl CudaLane {
    /// A lane of a context. `staging_count` is not 0.
    pub(super) fn new(context: &Arc<CudaContext>, staging_len: usize, staging_count: usize) -> Result<CudaLane> {
        let stream = context.new_stream().doing("cannot make a stream")?;
        let staging =
            (0..staging_count).map(|_| Staging::new(context, staging_len)).collect::<Result<Vec<Staging>>>()?;
        Ok(CudaLane { stream, staging, next: 0 })
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Fills a part, as [`Device::fill`](super::super::Device::fill) says.
    pub(super) fn fill(&mut self, part: CudaPart<'_>, write: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        let staging_count = self.staging.len();
        let staging = self.staging.get_mut(self.next).ok_or_else(|| Error::invalid("this lane has no buffers"))?;
        if part.byte_len > staging.bytes.len() {
            return Err(Error::invalid("the part is longer than the lane's buffers").with_numbers(
                u64::try_from(staging.bytes.len()).unwrap_or(u64::MAX),
                u64::try_from(part.byte_len).unwrap_or(u64::MAX),
            ));
        }
        staging.wait(&self.stream).doing("cannot wait for a copy to the device")?;
        // cudarc waits here too, for an event of its own that is never recorded: for nothing.
        let bytes = staging.bytes.as_mut_slice().doing("cannot use pinned memory")?;
        let bytes = bytes.get_mut(..part.byte_len).ok_or_else(|| Error::invalid("the buffer is not as long"))?;
        write(bytes)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let doing = "cannot copy to the device";
        // `write` may have made another context the thread's.
        bind(self.stream.context()).doing(doing)?;
        part.wait(&self.stream).doing(doing)?;
        // From here on the part's memory knows of this lane, and waits for it before it is used, filled again or freed.
        part.begin(&self.stream);
        self.next = self.next.wrapping_add(1).checked_rem(staging_count).unwrap_or(0);
        staging.copy = LastCopy::Unrecorded;
        // SAFETY: the source is pinned. It is neither written nor freed before the copy is done: `copy` says that there is one, `wait`
        // waits for it before the buffer is lent again, and dropping the lane waits for its stream. The destination is a part of one
        // allocation, and `parts` has cut it with that allocation's length. It is not freed before the copy is done: dropping the memory
        // orders the free behind all of this stream, which it knows from `begin`. What was done with it before is waited for by the
        // stream, in `part.wait`.
        unsafe { result::memcpy_htod_async(part.address, bytes, self.stream.cu_stream()) }.doing(doing)?;
        record(&staging.copied, &self.stream).doing(doing)?;
        staging.copy = LastCopy::Recorded;
        Ok(())
    }
}

impl Drop for CudaLane {
    fn drop(&mut self) {
        let context = Arc::clone(self.stream.context());
        let idle = bind(&context).and_then(|()| drain(&self.stream));
        if idle.is_err() && drain_context(&context).is_err() {
            // The device may still read the buffers, for all that is known: they are lost rather than freed.
            self.staging.drain(..).for_each(mem::forget);
        }
        // The next call reports it.
        context.record_err(idle);
    }
}

/// Makes `stream` wait for events.
pub(super) fn wait_for_all<'e>(
    stream: &CudaStream,
    events: impl IntoIterator<Item = &'e CudaEvent>,
) -> std::result::Result<(), DriverError> {
    events.into_iter().try_for_each(|event| wait_on_device(stream, event))
}
