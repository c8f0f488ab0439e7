//! NVIDIA's GPUs, through [cudarc](https://docs.rs/cudarc).
//!
//! Nothing of CUDA is needed to build this or to start a program that has it: the driver is looked for when a [`Cuda`] is made, and if it is
//! not there, that is an error.

mod dlpack;
mod driver;
mod lane;
mod memory;
mod views;

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream};

use self::driver::{Doing, bind, drain};
pub use self::lane::CudaLane;
pub use self::memory::{CudaMemory, CudaPart};
use super::Device;
use crate::error::{Error, ErrorKind, Result};

/// How a [`Cuda`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CudaOptions {
    /// How long a buffer of pinned memory is, in bytes: 8 MiB unless set. It is the longest part that can be filled.
    pub staging_len: usize,
    /// How many such buffers a lane has: 3 unless set, so that one is written while others are copied.
    pub staging_count: usize,
    /// The stream that the memory is used on: a new one unless set.
    pub stream: Option<Arc<CudaStream>>,
}

impl Default for CudaOptions {
    fn default() -> CudaOptions {
        CudaOptions { staging_len: 8 << 20, staging_count: 3, stream: None }
    }
}

/// A GPU of NVIDIA's.
///
/// What is loaded is used on its [stream](Self::stream). A clone is the same device, with the same stream.
///
/// ```no_run
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::feature::device::{Cuda, Device};
///
/// let gpu = Cuda::new(0)?;
/// let (mut lane, mut memory) = (gpu.lane()?, gpu.allocate(1024)?);
/// for part in gpu.parts(&mut memory, &[512, 512])? {
///     gpu.fill(&mut lane, part, &mut |bytes| {
///         bytes.fill(7);
///         Ok(())
///     })?;
/// }
/// gpu.finish(&mut lane, &mut memory)?;
///
/// gpu.acquire(&mut memory)?;
/// let view = memory.as_cuda_view::<f32>(0..1024)?;
/// // Kernels that are launched on `gpu.stream()` now see what was filled.
/// # let _ = view;
/// gpu.release(&mut memory)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    staging_len: usize,
    staging_count: usize,
}

impl Cuda {
    /// The GPU of a number, counted from 0 as the driver counts them.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if there is no driver or no such GPU, or the driver fails.
    pub fn new(ordinal: usize) -> Result<Cuda> {
        Cuda::with_options(ordinal, CudaOptions::default())
    }

    /// The GPU of a number. If the options have a stream, its context is used.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`InvalidInput`](crate::ErrorKind::InvalidInput) if the options cannot be, or the stream is another GPU's.
    pub fn with_options(ordinal: usize, options: CudaOptions) -> Result<Cuda> {
        driver::require()?;
        if let Some(stream) = &options.stream {
            let context = Arc::clone(stream.context());
            if context.ordinal() != ordinal {
                return Err(Error::invalid(format!(
                    "the stream is one of cuda:{}, not of cuda:{ordinal}",
                    context.ordinal()
                )));
            }
            return Cuda::in_context(context, options);
        }
        options.check()?;
        let count = CudaContext::device_count().doing("cannot use the CUDA driver")?;
        let count = usize::try_from(count).unwrap_or(0);
        if ordinal >= count {
            return Err(Error::new(ErrorKind::Device, format!("there is no CUDA device {ordinal}, only {count}"))
                .with_advice("they are counted from 0; CUDA_VISIBLE_DEVICES may hide some"));
        }
        let context = CudaContext::new(ordinal).doing("cannot use a CUDA device")?;
        Cuda::in_context(context, options)
    }

    /// The GPU of a context that a program has already.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the driver fails; [`InvalidInput`](crate::ErrorKind::InvalidInput) if the options cannot be,
    /// or their stream is of another context.
    pub fn in_context(context: Arc<CudaContext>, options: CudaOptions) -> Result<Cuda> {
        driver::require()?;
        options.check()?;
        let stream = match options.stream {
            Some(stream) if *stream.context() != context => {
                return Err(Error::invalid("the stream is of another context"));
            }
            // It would be another stream for each thread that uses it, so that none of the orders held.
            Some(stream) if stream.cu_stream() == context.per_thread_stream().cu_stream() => {
                return Err(
                    Error::invalid("the stream is that of each thread").with_advice("make one with `new_stream`")
                );
            }
            Some(stream) => stream,
            None => context.new_stream().doing("cannot make a stream")?,
        };
        Ok(Cuda { context, stream, staging_len: options.staging_len, staging_count: options.staging_count })
    }

    /// The stream that the memory is used on: the consumer's.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The context that memory and streams are of.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Reports what failed before where no error could be returned, and makes the context the thread's.
    fn enter(&self) -> Result<()> {
        self.context.check_err().doing("the device failed before")?;
        bind(&self.context).doing("cannot use a CUDA device")
    }

    fn enter_with(&self, memory: &CudaMemory) -> Result<()> {
        if **memory.stream() != *self.stream {
            return Err(Error::invalid("the memory is another device's"));
        }
        self.enter()
    }
}

impl CudaOptions {
    fn check(&self) -> Result<()> {
        let pinned = self
            .staging_len
            .checked_mul(self.staging_count)
            .filter(|&len| isize::try_from(len).is_ok_and(|len| len < isize::MAX));
        match pinned {
            Some(1..) => Ok(()),
            _ => Err(Error::invalid(
                "a lane needs at least one buffer of at least one byte, and they must fit into memory",
            )),
        }
    }
}

impl Device for Cuda {
    type Memory = CudaMemory;
    type Lane = CudaLane;
    type Part<'m> = CudaPart<'m>;

    fn name(&self) -> String {
        format!("cuda:{}", self.context.ordinal())
    }

    fn allocate(&self, byte_len: usize) -> Result<CudaMemory> {
        self.enter()?;
        CudaMemory::new(&self.stream, byte_len)
    }

    fn lane(&self) -> Result<CudaLane> {
        self.enter()?;
        CudaLane::new(&self.context, self.staging_len, self.staging_count)
    }

    fn max_part_len(&self) -> usize {
        self.staging_len
    }

    fn lane_byte_len(&self) -> usize {
        self.staging_len.saturating_mul(self.staging_count)
    }

    fn parts<'m>(&self, memory: &'m mut CudaMemory, byte_lens: &[usize]) -> Result<Vec<CudaPart<'m>>> {
        self.enter_with(memory)?;
        memory.parts(byte_lens)
    }

    fn fill(
        &self,
        lane: &mut CudaLane,
        part: CudaPart<'_>,
        write: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        if *part.consumer() != *self.stream || *lane.stream().context() != self.context {
            return Err(Error::invalid("the memory or the lane is another device's"));
        }
        self.enter()?;
        lane.fill(part, write)
    }

    fn finish(&self, lane: &mut CudaLane, memory: &mut CudaMemory) -> Result<()> {
        if *lane.stream().context() != self.context {
            return Err(Error::invalid("the lane is another device's"));
        }
        self.enter_with(memory)?;
        memory.finish(lane.stream()).doing("cannot finish copies to the device")
    }

    fn acquire(&self, memory: &mut CudaMemory) -> Result<()> {
        self.enter_with(memory)?;
        memory.acquire()
    }

    fn release(&self, memory: &mut CudaMemory) -> Result<()> {
        self.enter_with(memory)?;
        memory.release()
    }

    fn synchronize(&self, memory: &CudaMemory) -> Result<()> {
        self.enter_with(memory)?;
        memory.synchronize().doing("the device failed")?;
        self.context.check_err().doing("the device failed before")
    }

    fn read_back(&self, memory: &CudaMemory, bytes: Range<usize>) -> Result<Vec<u8>> {
        self.enter_with(memory)?;
        let view = memory.view(bytes)?;
        let mut copy = bytemuck::allocation::try_zeroed_vec::<u8>(view.len()).map_err(|()| {
            Error::io("cannot hold a copy of the device's memory", std::io::ErrorKind::OutOfMemory.into())
        })?;
        if view.is_empty() {
            return Ok(copy);
        }
        let doing = "cannot copy from the device";
        let asked = self.stream.memcpy_dtoh(&view, &mut copy);
        if let Err(error) = drain(&self.stream) {
            // The device may still write into it, for all that is known.
            std::mem::forget(copy);
            return Err(driver::failed(doing, error));
        }
        asked.doing(doing)?;
        self.context.check_err().doing(doing)?;
        Ok(copy)
    }
}
