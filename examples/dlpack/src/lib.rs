//! Dolmen's feature pipeline as a C library: a loader is opened, and its batches are handed over by DLPack, without a copy.
//!
//! `check.py` loads it from Python and gives the batches to NumPy and PyTorch:
//!
//! ```text
//! cargo build --manifest-path examples/dlpack/Cargo.toml
//! python3 examples/dlpack/check.py
//! ```
//!
//! Every function that can fail gives -1 or null then, and `features_error` says why.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use dolmen::feature::dlpack::DlpackTensor;
use dolmen::feature::{Batches, Host, Layout, Loader, LoaderOptions, Order, Table};
use dolmen::foreign::{ConvertOptions, convert};
use dolmen::{Error, ErrorKind, Result};

/// A loader, and the epoch that it is in.
pub struct Features {
    loader: Loader<Host>,
    epoch: Option<Batches<Host>>,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Runs what a function does; an error, or a panic, is noted and gives `otherwise`: neither may reach C.
fn guarded<T>(otherwise: T, work: impl FnOnce() -> Result<T>) -> T {
    let done = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Device, "the library panicked")));
    done.unwrap_or_else(|error| {
        ERROR.set(CString::new(error.to_string().replace('\0', " ")).unwrap_or_default());
        otherwise
    })
}

/// What failed last in this thread. The text is good until the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn features_error() -> *const c_char {
    ERROR.with_borrow(|error| error.as_ptr())
}

/// Converts a file, such as a `.npz`, into one that can be opened, such as a `.dolmen`. Gives 0.
///
/// # Safety
/// Both are texts that end in 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn features_convert(from: *const c_char, to: *const c_char) -> c_int {
    guarded(-1, || {
        // SAFETY: the caller's promise.
        let [from, to] = [from, to].map(|path| unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned());
        // What a Dolmen file could not hold exactly of an array: nothing.
        let _ = convert(from, to, &ConvertOptions::new())?;
        Ok(0)
    })
}

/// Opens a table over files, in batches of so many rows.
///
/// `mapped`: the files are mapped, and batches of rows that follow each other are lent, read-only, unless `copied` is set.
///
/// # Safety
/// `paths` are `count` texts that end in 0. With `mapped`, nobody writes to the files until everything is given back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn features_open(
    paths: *const *const c_char,
    count: usize,
    batch_len: u64,
    mapped: bool,
    copied: bool,
) -> *mut Features {
    guarded(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let paths = unsafe { std::slice::from_raw_parts(paths, count) };
        // SAFETY: as above.
        let text = |&path: &*const c_char| unsafe { CStr::from_ptr(path) }.to_string_lossy().into_owned();
        let paths: Vec<String> = paths.iter().map(text).collect();
        let table = if mapped {
            // SAFETY: the caller's promise.
            unsafe { Table::map(paths, &Layout::new()) }?
        } else {
            Table::open(paths, &Layout::new())?
        };
        let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(batch_len).copied(copied))?;
        Ok(Box::into_raw(Box::new(Features { loader, epoch: None })))
    })
}

/// Begins an epoch: in the table's order if `seed` is negative. Gives 0.
///
/// # Safety
/// `features` was opened and not closed, and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn features_epoch(features: *mut Features, seed: i64, epoch: u64) -> c_int {
    guarded(-1, || {
        // SAFETY: the caller's promise.
        let features = unsafe { &mut *features };
        let order = u64::try_from(seed).map_or(Order::sequential(), |seed| Order::shuffled(seed).epoch(epoch));
        features.epoch = Some(features.loader.epoch(order)?);
        Ok(0)
    })
}

/// Hands the next batch over: 1, or 0 if there is none.
///
/// The tensors are `DLManagedTensorVersioned` if `versioned` is set, and otherwise `DLManagedTensor`; that of labels is null if there are none.
/// Each is ended by its own deleter, from any thread, also when the loader is long closed.
///
/// # Safety
/// As [`features_epoch`]. There is room for a pointer at `data` and at `labels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn features_next(
    features: *mut Features,
    versioned: bool,
    data: *mut *mut c_void,
    labels: *mut *mut c_void,
) -> c_int {
    guarded(-1, || {
        // SAFETY: the caller's promise.
        let features = unsafe { &mut *features };
        let Some(batch) = features.epoch.as_mut().and_then(Iterator::next) else { return Ok(0) };
        let batch = batch?.into_dlpack()?;
        let raw = |tensor: DlpackTensor| -> Result<*mut c_void> {
            Ok(if versioned { tensor.into_raw().cast() } else { tensor.into_raw_unversioned()?.cast() })
        };
        let (first, second) = (raw(batch.features)?, batch.labels.map(raw).transpose()?.unwrap_or(ptr::null_mut()));
        // SAFETY: the caller's promise.
        unsafe { (*data, *labels) = (first, second) };
        Ok(1)
    })
}

/// Closes a loader. What was handed over stays good.
///
/// # Safety
/// As [`features_epoch`]; or `features` is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn features_close(features: *mut Features) {
    guarded((), || {
        if !features.is_null() {
            // SAFETY: `features_open` made it of a box, and it is closed once.
            drop(unsafe { Box::from_raw(features) });
        }
        Ok(())
    });
}
