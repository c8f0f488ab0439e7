//! Memory of a GPU for other frameworks: which GPU it is, and whose streams wait for whose.

use std::ffi::c_void;
use std::mem;
use std::ptr;

use cudarc::driver::sys::CUstream;

use super::Cuda;
use super::driver::{Doing, bind, drain_context, record, record_raw, wait_on_device, wait_on_device_raw};
use crate::error::{Error, Result};
use crate::feature::dlpack::{DLDevice, DlpackBatch, DlpackDevice, K_DL_CUDA, export_batch};
use crate::feature::loader::Batch;

/// The handle that stands for another stream in each thread: `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;

// SAFETY: both are the address of the allocation, on the GPU of the context. It is freed when the memory is dropped.
unsafe impl DlpackDevice for Cuda {
    fn dlpack_device(&self) -> DLDevice {
        // The driver counts them in an i32.
        DLDevice { device_type: K_DL_CUDA, device_id: i32::try_from(self.context.ordinal()).unwrap_or(i32::MAX) }
    }

    fn dlpack_ptr(&self, memory: &Self::Memory) -> *const c_void {
        // Where pointers have 32 bits, so have the driver's addresses.
        ptr::without_provenance(usize::try_from(memory.device_ptr()).unwrap_or(0))
    }

    fn dlpack_ptr_mut(&self, memory: &mut Self::Memory) -> Option<*mut c_void> {
        Some(self.dlpack_ptr(memory).cast_mut())
    }

    fn dlpack_wait(&self) {
        // What failed is reported by what fails next: there is nobody here to tell.
        let _ = drain_context(&self.context);
    }
}

impl Batch<Cuda> {
    /// The batch for another framework that works on a stream of its own: what is put on that stream from now on sees the batch, and the
    /// memory is filled again only after what was put on it until the last tensor is given back. Nobody waits for that but the GPU.
    ///
    /// The stream is the driver's handle: what Python's `__dlpack__(stream=…)` is given is that, as a number.
    ///
    /// # Errors
    /// As [`into_dlpack`](Batch::into_dlpack); [`InvalidInput`](crate::ErrorKind::InvalidInput) for the handle that stands for another stream
    /// in each thread; [`Device`](crate::ErrorKind::Device) if the driver fails.
    ///
    /// # Safety
    /// The handle is that of a stream of the device's context, or of its default stream, and the stream is not destroyed before the tensors are
    /// given back.
    pub unsafe fn into_dlpack_on(self, stream: CUstream) -> Result<DlpackBatch> {
        if stream.addr() == PER_THREAD {
            return Err(Error::invalid("the stream is that of each thread").with_advice("name one stream"));
        }
        let cuda = self.device();
        let doing = "cannot order a consumer's stream";
        bind(&cuda.context).doing(doing)?;
        let event = cuda.context.new_event(None).doing(doing)?;
        record(&event, &cuda.stream).doing(doing)?;
        // SAFETY: the caller's promise.
        unsafe { wait_on_device_raw(stream, &event) }.doing(doing)?;
        export_batch(OnStream { batch: Some(self), stream }, |owner| owner.batch.as_mut())
    }
}

/// A batch that another framework uses on a stream.
struct OnStream {
    /// `None` only while it is dropped.
    batch: Option<Batch<Cuda>>,
    stream: CUstream,
}

// SAFETY: the driver's handles may be used by any thread, and the stream is alive until this is dropped, which whoever made it has promised.
unsafe impl Send for OnStream {}

impl Drop for OnStream {
    fn drop(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let cuda = batch.device();
        let ordered = bind(&cuda.context).and_then(|()| {
            let event = cuda.context.new_event(None)?;
            // SAFETY: the stream is alive, as `into_dlpack_on` was promised.
            unsafe { record_raw(&event, self.stream) }?;
            wait_on_device(&cuda.stream, &event)
        });
        if ordered.is_err() && drain_context(&cuda.context).is_err() {
            // The consumer's work may still read it, for all that is known: it is lost rather than filled again.
            mem::forget(batch);
        }
    }
}
