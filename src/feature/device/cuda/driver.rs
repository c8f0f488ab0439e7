//! NVIDIA's driver: found without a panic, called without losing an error, its errors as ours.
//!
//! cudarc's safe calls first report an error that some earlier call left behind, *instead of* doing what they are asked to. Where the
//! soundness of memory hangs on a wait or on a record, that is no choice: those go through the functions here, which do what they say or
//! fail for a reason of their own.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUevent_wait_flags, CUstream};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result};
use libloading::Library;

use crate::error::{Error, ErrorKind, Result};

/// What the driver's library ends in, in the order in which cudarc tries it. The names that it makes from a toolkit's version, such as
/// `libcuda64_13.so`, are left out: no driver has such a name.
const NAME_ENDS: [&str; 10] =
    ["{}", "64{}", "64_10{}", "64_11{}", "64_12{}", "64_9{}", "{}.12", "{}.11", "{}.10", "{}.1"];

/// The functions that are called here, by cudarc's types too. cudarc looks each up when it is first called, and panics if it is missing.
const FUNCTIONS: [&str; 27] = [
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuMemAllocAsync",
    "cuMemAlloc_v2",
    "cuMemFreeAsync",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// The driver's library once it was found. It stays loaded: cudarc holds it too, from its first call on.
static DRIVER: OnceLock<Library> = OnceLock::new();

/// Makes sure that there is a driver, with every function that is called: cudarc panics where one is not.
pub(super) fn require() -> Result<()> {
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let names = ["cuda", "nvcuda"].into_iter().flat_map(|library| {
        NAME_ENDS.into_iter().map(move |end| format!("{DLL_PREFIX}{library}{}", end.replace("{}", DLL_SUFFIX)))
    });
    // SAFETY: loading a library runs its initialisers. This is the first of these names that loads, which is the library that cudarc
    // loads with its first call: nothing runs that would not run anyway.
    let found = names.into_iter().find_map(|name| unsafe { Library::new(name) }.ok());
    let driver = found.ok_or_else(|| {
        Error::new(ErrorKind::Device, "no CUDA driver found").with_advice(
            "install NVIDIA's driver, and see that its libcuda.so.1 (nvcuda.dll) is where libraries are looked for",
        )
    })?;
    for function in FUNCTIONS {
        // SAFETY: the symbol is looked up and not called, so its type does not matter.
        if unsafe { driver.get::<*const ()>(function) }.is_err() {
            return Err(Error::new(ErrorKind::Device, format!("the CUDA driver has no {function}"))
                .with_advice("it is too old for this program: install a newer one of NVIDIA's drivers"));
        }
    }
    // Whoever was first has loaded the same library.
    let _ = DRIVER.set(driver);
    Ok(())
}

/// The driver's error as ours, with its name and its number.
#[cold]
pub(super) fn failed(doing: &str, error: DriverError) -> Error {
    let name = error.error_name().map_or("an unknown error".into(), |name| name.to_string_lossy());
    let words = error.error_string().map_or("no description".into(), |words| words.to_string_lossy());
    #[allow(clippy::as_conversions, reason = "an enum of the driver's numbers, none negative")]
    let number = error.0 as u32;
    Error::new(ErrorKind::Device, format!("{doing}: {name} ({number}): {words}"))
}

/// What the driver was asked to do, for its error.
pub(super) trait Doing<T> {
    /// Says what was being done, as in `cannot copy`.
    fn doing(self, doing: &str) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, DriverError> {
    fn doing(self, doing: &str) -> Result<T> {
        self.map_err(|error| failed(doing, error))
    }
}

/// Makes a context the calling thread's.
pub(super) fn bind(context: &CudaContext) -> std::result::Result<(), DriverError> {
    // SAFETY: the context is alive, for it is destroyed when the last `Arc` of it is dropped.
    unsafe { result::ctx::set_current(context.cu_ctx()) }
}

/// Puts an event behind everything that a stream was asked to do so far.
pub(super) fn record(event: &CudaEvent, stream: &CudaStream) -> std::result::Result<(), DriverError> {
    // SAFETY: both are borrowed, and destroyed only when they are dropped.
    unsafe { result::event::record(event.cu_event(), stream.cu_stream()) }
}

/// Makes a stream wait for an event as it was last recorded, before anything that the stream is asked to do from now on.
///
/// The event may be recorded again, or dropped, at once: which record is meant is settled when this returns.
pub(super) fn wait_on_device(stream: &CudaStream, event: &CudaEvent) -> std::result::Result<(), DriverError> {
    let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both are borrowed, and destroyed only when they are dropped.
    unsafe { result::stream::wait_event(stream.cu_stream(), event.cu_event(), flags) }
}

/// As [`wait_on_device`], for a stream of which there is only the handle.
///
/// # Safety
/// The handle is that of a stream that is alive.
pub(super) unsafe fn wait_on_device_raw(stream: CUstream, event: &CudaEvent) -> std::result::Result<(), DriverError> {
    // SAFETY: the event is borrowed, and the stream is alive, as the caller promises.
    unsafe { result::stream::wait_event(stream, event.cu_event(), CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
}

/// As [`record`], for a stream of which there is only the handle.
///
/// # Safety
/// As [`wait_on_device_raw`].
pub(super) unsafe fn record_raw(event: &CudaEvent, stream: CUstream) -> std::result::Result<(), DriverError> {
    // SAFETY: the event is borrowed, and the stream is alive, as the caller promises.
    unsafe { result::event::record(event.cu_event(), stream) }
}

/// Waits for an event as it was last recorded.
pub(super) fn wait_on_host(event: &CudaEvent) -> std::result::Result<(), DriverError> {
    // SAFETY: it is borrowed, and destroyed only when it is dropped.
    unsafe { result::event::synchronize(event.cu_event()) }
}

/// Waits for everything that a stream was asked to do.
pub(super) fn drain(stream: &CudaStream) -> std::result::Result<(), DriverError> {
    // SAFETY: it is borrowed, and destroyed only when it is dropped.
    unsafe { result::stream::synchronize(stream.cu_stream()) }
}

/// Waits for everything that a context was asked to do: the last resort, where a lesser wait has failed.
pub(super) fn drain_context(context: &Arc<CudaContext>) -> std::result::Result<(), DriverError> {
    bind(context)?;
    result::ctx::synchronize()
}
