//! A simulated CUDA driver: see the README. The functions are the driver's, as far as they are used; each does what its documentation says,
//! late, and checks that it may be asked to.
#![allow(non_snake_case, reason = "the driver's names")]
#![allow(clippy::missing_safety_doc, reason = "the driver's contracts")]

mod clock;
mod faults;
mod memory;
mod stream;
mod world;

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use stream::Op;
use world::{
    ALREADY_DESTROYED, CallResult, INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, NOT_INITIALIZED,
    NOT_READY, NOT_SUPPORTED, OUT_OF_MEMORY, Record, World, world,
};

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// Defines functions of the driver, which may be told to fail.
macro_rules! driver {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
                faults::call(stringify!($name), || -> CallResult { $body })
            }
        )*
    };
}

/// Gives a value to the caller.
fn give<T>(out: *mut T, value: T) -> CallResult {
    if out.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the driver's contract: the caller owns what it points to.
    unsafe { out.write(value) };
    Ok(())
}

fn need_context(world: &World) -> CallResult {
    if world.is_context(CURRENT.get()) { Ok(()) } else { Err(INVALID_CONTEXT) }
}

fn need_device(world: &World, device: c_int) -> CallResult {
    match usize::try_from(device) {
        _ if !world.initialised => Err(NOT_INITIALIZED),
        Ok(device) if device < world.settings.devices => Ok(()),
        _ => Err(INVALID_DEVICE),
    }
}

/// Waits for what a stream was asked to do so far.
fn drain(handle: u64) -> CallResult {
    let asked = {
        let mut world = world();
        let index = world.stream(handle, CURRENT.get())?;
        world.mark(index)
    };
    wait_for(asked);
    Ok(())
}

/// Waits for what all streams were asked to do so far.
fn drain_all() {
    let asked: Vec<Record> = {
        let mut world = world();
        world.stream_indices().into_iter().map(|index| world.mark(index)).collect()
    };
    asked.into_iter().for_each(wait_for);
}

fn wait_for(asked: Record) {
    asked.marker.wait();
    world().host.join(&asked.clock);
}

driver! {
    fn cuInit(flags: c_uint) {
        let mut world = world();
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        if world.settings.devices == 0 {
            return Err(NO_DEVICE);
        }
        world.initialised = true;
        Ok(())
    }
    fn cuDeviceGetCount(count: *mut c_int) {
        let world = world();
        if !world.initialised {
            return Err(NOT_INITIALIZED);
        }
        give(count, world.settings.devices as c_int)
    }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        need_device(&world(), ordinal)?;
        give(device, ordinal)
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_uint, device: c_int) {
        const MEMORY_POOLS_SUPPORTED: c_uint = 115;
        let world = world();
        need_device(&world, device)?;
        give(value, if attribute == MEMORY_POOLS_SUPPORTED { world.settings.pools as c_int } else { 0 })
    }
    fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) {
        let mut world = world();
        need_device(&world, device)?;
        give(context, world.retain(device))
    }
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        let mut world = world();
        need_device(&world, device)?;
        world.release(device)
    }
    fn cuCtxGetCurrent(context: *mut u64) {
        give(context, CURRENT.get())
    }
    fn cuCtxSetCurrent(context: u64) {
        let mut world = world();
        if context != 0 && !world.is_context(context) {
            world.violation("cuCtxSetCurrent: no such context".to_owned());
            return Err(INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    }
    fn cuCtxSynchronize() {
        need_context(&world())?;
        drain_all();
        Ok(())
    }
    fn cuStreamCreate(stream: *mut u64, flags: c_uint) {
        let mut world = world();
        need_context(&world)?;
        if flags != 1 {
            return Err(NOT_SUPPORTED);
        }
        give(stream, world.create_stream(CURRENT.get()))
    }
    fn cuStreamDestroy_v2(stream: u64) {
        world().destroy_stream(stream)
    }
    fn cuStreamSynchronize(stream: u64) {
        drain(stream)
    }
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: c_uint) {
        let mut world = world();
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        let index = world.stream(stream, CURRENT.get())?;
        if let Some(record) = world.event(event)?.clone() {
            world.clocks[index].join(&record.clock);
            world.enqueue(index, Op::Wait(record.marker));
        }
        Ok(())
    }
    fn cuEventCreate(event: *mut u64, _flags: c_uint) {
        let mut world = world();
        need_context(&world)?;
        give(event, world.create_event(CURRENT.get()))
    }
    fn cuEventDestroy_v2(event: u64) {
        world().destroy_event(event)
    }
    fn cuEventRecord(event: u64, stream: u64) {
        let mut world = world();
        world.event(event)?;
        let index = world.stream(stream, CURRENT.get())?;
        let record = world.mark(index);
        *world.event(event)? = Some(record);
        Ok(())
    }
    fn cuEventQuery(event: u64) {
        let mut world = world();
        match world.event(event)?.clone() {
            Some(record) if !record.marker.is_done() => Err(NOT_READY),
            Some(record) => {
                world.host.join(&record.clock);
                Ok(())
            }
            None => Ok(()),
        }
    }
    fn cuEventSynchronize(event: u64) {
        let record = world().event(event)?.clone();
        record.into_iter().for_each(wait_for);
        Ok(())
    }
    fn cuMemAlloc_v2(address: *mut u64, len: usize) {
        let mut world = world();
        need_context(&world)?;
        give(address, world.allocate(len, CURRENT.get()).ok_or(if len == 0 { INVALID_VALUE } else { OUT_OF_MEMORY })?)
    }
    fn cuMemFree_v2(address: u64) {
        let mut world = world();
        need_context(&world)?;
        world.free_now(address)
    }
    fn cuMemAllocAsync(address: *mut u64, len: usize, stream: u64) {
        // What was freed and is not gone yet counts: the driver would wait for it.
        let full = len > world().free_len();
        if full {
            drain_all();
        }
        let mut world = world();
        let index = world.stream(stream, CURRENT.get())?;
        if !world.settings.pools {
            return Err(NOT_SUPPORTED);
        }
        let allocated = world.allocate(len, CURRENT.get()).ok_or(if len == 0 { INVALID_VALUE } else { OUT_OF_MEMORY })?;
        world.enqueue(index, Op::Nothing);
        world.touch(index, allocated, len, true, "cuMemAllocAsync")?;
        give(address, allocated)
    }
    fn cuMemFreeAsync(address: u64, stream: u64) {
        let mut world = world();
        let index = world.stream(stream, CURRENT.get())?;
        world.free_in_stream(index, address)
    }
    fn cuMemHostAlloc(pointer: *mut *mut c_void, len: usize, _flags: c_uint) {
        let mut world = world();
        need_context(&world)?;
        if len == 0 {
            return Err(INVALID_VALUE);
        }
        give(pointer, world.pin(len, CURRENT.get()).ok_or(OUT_OF_MEMORY)? as *mut c_void)
    }
    fn cuMemFreeHost(pointer: *mut c_void) {
        world().unpin(pointer as usize)
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: u64) {
        let mut world = world();
        let index = world.stream(stream, CURRENT.get())?;
        world.copy_in(index, to, from as usize, len)
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: u64) {
        let pinned = {
            let mut world = world();
            let index = world.stream(stream, CURRENT.get())?;
            world.enqueue(index, Op::CopyOut { from, to: to as usize, len });
            world.touch(index, from, len, false, "cuMemcpyDtoHAsync")?;
            world.is_pinned(to as usize, len)
        };
        // Into memory that is not pinned the driver copies before it returns.
        if pinned { Ok(()) } else { drain(stream) }
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: u64) {
        let mut world = world();
        let index = world.stream(stream, CURRENT.get())?;
        world.enqueue(index, Op::CopyWithin { from, to, len });
        world.touch(index, from, len, false, "cuMemcpyDtoDAsync")?;
        world.touch(index, to, len, true, "cuMemcpyDtoDAsync")
    }
    fn cuMemsetD8Async(to: u64, byte: u8, len: usize, stream: u64) {
        let mut world = world();
        let index = world.stream(stream, CURRENT.get())?;
        world.enqueue(index, Op::Set { to, byte, len });
        world.touch(index, to, len, true, "cuMemsetD8Async")
    }
}

/// Names of errors, as far as they are used.
fn error_texts(error: c_int) -> (&'static CStr, &'static CStr) {
    match error {
        0 => (c"CUDA_SUCCESS", c"no error"),
        INVALID_VALUE => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        OUT_OF_MEMORY => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        NOT_INITIALIZED => (c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error"),
        NO_DEVICE => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        INVALID_DEVICE => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        INVALID_CONTEXT => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        ALREADY_DESTROYED => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        NOT_READY => (c"CUDA_ERROR_NOT_READY", c"device not ready"),
        NOT_SUPPORTED => (c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
        700 => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        _ => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
    }
}

/// The driver's function. It never fails: it is asked about failures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: c_int, text: *mut *const c_char) -> c_int {
    give(text, error_texts(error).0.as_ptr()).err().unwrap_or(0)
}

/// The driver's function. It never fails: it is asked about failures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: c_int, text: *mut *const c_char) -> c_int {
    give(text, error_texts(error).1.as_ptr()).err().unwrap_or(0)
}

/// Makes the `nth` call from now on fail with `error`, of `function` or of any if that is null: instead of being done (`mode` 0), after it
/// was done (1), or instead of being done, with every call after it (2). 0 for `nth` takes back what was asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_fail(function: *const c_char, nth: u64, error: c_int, mode: c_int) {
    // SAFETY: a C string, or null.
    let function = (!function.is_null()).then(|| unsafe { CStr::from_ptr(function) }.to_string_lossy().into_owned());
    faults::plan(function, nth, error, mode);
}

/// How many calls there were.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_calls() -> u64 {
    faults::calls()
}

/// Waits for all streams, and writes a report: a line `NAME NUMBER` for each kind of object that is alive, `failed FUNCTION NUMBER` for the
/// first call that was made to fail, and `violation TEXT` for each violation since the last report. Returns how long it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simulated_cuda_report(to: *mut c_char, len: usize) -> usize {
    drain_all();
    let ending = world().take_ending();
    ending.iter().for_each(|marker| marker.wait());
    let mut report = world().report();
    if let Some((function, number)) = faults::fired() {
        report.push_str(&format!("failed {function} {number}\n"));
    }
    let shown = report.len().min(len);
    // SAFETY: the caller has room for `len` bytes.
    unsafe { report.as_ptr().copy_to_nonoverlapping(to.cast(), shown) };
    report.len()
}

/// Forgets every object, as if the program were new: for what comes after a failure that nobody can clean up after.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_reset() {
    drain_all();
    world().forget();
}
