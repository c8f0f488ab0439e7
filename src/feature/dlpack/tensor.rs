//! [`DlpackTensor`]: a tensor that is to be handed over, and what is handed over.

use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::abi::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPACK_FLAG_BITMASK_READ_ONLY, DLPACK_VERSION,
    DLTensor,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::dtype::DType;

/// A tensor in a device's memory that is to be handed over to another framework.
///
/// It owns what it lies in, or a share of it. [`into_raw`](Self::into_raw) hands it over; dropping it instead gives the memory back.
pub struct DlpackTensor {
    /// The first element; null if there is none. It is handed on, and never followed here.
    data: *mut c_void,
    device: DLDevice,
    dtype: DLDataType,
    shape: Vec<i64>,
    strides: Vec<i64>,
    is_read_only: bool,
    owner: Box<dyn Send>,
}

// SAFETY: `data` is a number here, and what it points to belongs to the owner, which is `Send`; so is everything else.
unsafe impl Send for DlpackTensor {}

impl DlpackTensor {
    /// A tensor whose first element is at `data`, in memory that stays there for as long as `owner` lives.
    ///
    /// # Errors
    /// As [`DLDataType::of`]; [`Limit`](ErrorKind::Limit) for shapes and strides that are too long for an i64.
    pub(super) fn new(
        data: *mut c_void,
        device: DLDevice,
        dtype: DType,
        shape: &[u64],
        strides: &[u64],
        is_read_only: bool,
        owner: Box<dyn Send>,
    ) -> Result<DlpackTensor> {
        let numbers = |numbers: &[u64]| {
            let numbers: std::result::Result<Vec<i64>, _> = numbers.iter().map(|&n| i64::try_from(n)).collect();
            numbers.map_err(|_| Error::new(ErrorKind::Limit, "its shape or its strides are too long for DLPack"))
        };
        let data = if shape.contains(&0) { std::ptr::null_mut() } else { data };
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        Ok(DlpackTensor { data, device, dtype: DLDataType::of(dtype)?, shape, strides, is_read_only, owner })
    }

    /// The address of its first element, on the device; null if it has none.
    pub fn data(&self) -> *mut c_void {
        self.data
    }

    /// The device.
    pub fn device(&self) -> DLDevice {
        self.device
    }

    /// The dtype.
    pub fn dtype(&self) -> DLDataType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The strides, in elements.
    pub fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// Whether it must not be written to.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Hands it over as DLPack 1 does: for a capsule of the name [`VERSIONED_CAPSULE_NAME`](super::VERSIONED_CAPSULE_NAME).
    ///
    /// Whoever has the pointer calls its `deleter` with it, once, from any thread, when nothing uses the tensor any more. If nobody does, the
    /// memory is lost, and nothing worse.
    #[must_use = "its memory is lost unless its deleter is called"]
    pub fn into_raw(self) -> *mut DLManagedTensorVersioned {
        self.hand_over()
    }

    /// Hands it over as DLPack did before version 1: for a capsule of the name [`CAPSULE_NAME`](super::CAPSULE_NAME). As
    /// [`into_raw`](Self::into_raw).
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it must not be written to, which this form cannot say.
    pub fn into_raw_unversioned(self) -> Result<*mut DLManagedTensor> {
        if self.is_read_only {
            return Err(Error::invalid("this tensor must not be written to, which DLPack before version 1 cannot say")
                .with_advice(
                    "hand it over as DLPack 1; or copy batches with `LoaderOptions::copied`, and give a loaded checkpoint away whole",
                ));
        }
        Ok(self.hand_over())
    }

    fn hand_over<M: Managed>(self) -> *mut M {
        let DlpackTensor { data, device, dtype, shape, strides, is_read_only, owner } = self;
        // An i32 counts axes: a tensor with more than 2^31 of them has no index of a file.
        let ndim = i32::try_from(shape.len()).unwrap_or(i32::MAX);
        let null = std::ptr::null_mut();
        let tensor = DLTensor { data, device, ndim, dtype, shape: null, strides: null, byte_offset: 0 };
        let handed = Handed { managed: M::new(tensor, is_read_only), shape, strides, owner: Some(owner) };
        let handed = Box::into_raw(Box::new(handed));
        // SAFETY: `handed` was just made, and nobody else knows of it. What is referred to here does not move until the box is taken back:
        // that is done by `delete` alone.
        let Handed { managed, shape, strides, .. } = unsafe { &mut *handed };
        let (shape, strides) = (shape.as_mut_ptr(), strides.as_mut_ptr());
        managed.complete(shape, strides, handed.cast());
        // SAFETY: the place is within what `handed` points to.
        unsafe { &raw mut (*handed).managed }
    }
}

impl fmt::Debug for DlpackTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DlpackTensor")
            .field("device", &self.device)
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .field("strides", &self.strides)
            .field("is_read_only", &self.is_read_only)
            .finish_non_exhaustive()
    }
}

/// What the consumer's pointer points into.
struct Handed<M> {
    managed: M,
    shape: Vec<i64>,
    strides: Vec<i64>,
    owner: Option<Box<dyn Send>>,
}

/// The two structs that DLPack hands tensors over in.
trait Managed: Sized {
    fn new(dl_tensor: DLTensor, is_read_only: bool) -> Self;

    /// Fills in what is known only when the struct is in its place.
    fn complete(&mut self, shape: *mut i64, strides: *mut i64, context: *mut c_void);

    fn context(&self) -> *mut c_void;
}

impl Managed for DLManagedTensor {
    fn new(dl_tensor: DLTensor, _: bool) -> Self {
        DLManagedTensor { dl_tensor, manager_ctx: std::ptr::null_mut(), deleter: Some(delete::<Self>) }
    }

    fn complete(&mut self, shape: *mut i64, strides: *mut i64, context: *mut c_void) {
        (self.dl_tensor.shape, self.dl_tensor.strides, self.manager_ctx) = (shape, strides, context);
    }

    fn context(&self) -> *mut c_void {
        self.manager_ctx
    }
}

impl Managed for DLManagedTensorVersioned {
    fn new(dl_tensor: DLTensor, is_read_only: bool) -> Self {
        DLManagedTensorVersioned {
            version: DLPACK_VERSION,
            manager_ctx: std::ptr::null_mut(),
            deleter: Some(delete::<Self>),
            flags: if is_read_only { DLPACK_FLAG_BITMASK_READ_ONLY } else { 0 },
            dl_tensor,
        }
    }

    fn complete(&mut self, shape: *mut i64, strides: *mut i64, context: *mut c_void) {
        (self.dl_tensor.shape, self.dl_tensor.strides, self.manager_ctx) = (shape, strides, context);
    }

    fn context(&self) -> *mut c_void {
        self.manager_ctx
    }
}

/// Ends what was handed over.
///
/// # Safety
/// `managed` is null, or was given by `hand_over::<M>` and not deleted, and nothing uses it or its tensor any more.
unsafe extern "C" fn delete<M: Managed>(managed: *mut M) {
    if managed.is_null() {
        return;
    }
    // SAFETY: it is alive, for it was not deleted.
    let handed = unsafe { &*managed }.context().cast::<Handed<M>>();
    // SAFETY: `hand_over` made this pointer of a box, and noted it there; it is taken back once. Its owner is `Send`, so that this may be any
    // thread; the rest is plain.
    let mut handed = unsafe { Box::from_raw(handed) };
    let owner = handed.owner.take();
    // A panic of a device's implementation must not reach the consumer, who may be C.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(owner)));
}

#[cfg(test)]
mod tests {
    use super::super::abi::K_DL_CPU;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Memory that counts how often it was given back.
    struct Memory(Vec<u16>, Arc<AtomicUsize>);

    impl Drop for Memory {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tensor(given_back: &Arc<AtomicUsize>) -> DlpackTensor {
        let mut memory = Memory(vec![1, 2, 3, 4, 5, 6], Arc::clone(given_back));
        let data = memory.0.as_mut_ptr().cast();
        let device = DLDevice { device_type: K_DL_CPU, device_id: 0 };
        DlpackTensor::new(data, device, DType::U16, &[3, 2], &[1, 3], false, Box::new(memory)).unwrap()
    }

    /// What a consumer sees: the elements in row-major order.
    ///
    /// # Safety
    /// The tensor is one of those above, and alive.
    unsafe fn elements(of: &DLTensor) -> Vec<u16> {
        // SAFETY: it has two axes, and its elements lie where they say.
        unsafe {
            let (shape, strides) = (std::slice::from_raw_parts(of.shape, 2), std::slice::from_raw_parts(of.strides, 2));
            let at = |row: i64, column: i64| {
                *of.data.cast::<u16>().offset((row * strides[0] + column * strides[1]) as isize)
            };
            (0..shape[0])
                .flat_map(|row| (0..shape[1]).map(move |column| (row, column)))
                .map(|(r, c)| at(r, c))
                .collect()
        }
    }

    #[test]
    fn what_is_handed_over_can_be_read_written_and_given_back_once() {
        let given_back = Arc::default();
        let handed = tensor(&given_back).into_raw();
        // SAFETY: it was just handed over, and is deleted once, at the end.
        unsafe {
            assert_eq!(elements(&(*handed).dl_tensor), [1, 4, 2, 5, 3, 6]);
            *(*handed).dl_tensor.data.cast::<u16>() = 9;
            assert_eq!(elements(&(*handed).dl_tensor)[0], 9);
            assert_eq!(given_back.load(Ordering::Relaxed), 0);
            (*handed).deleter.unwrap()(handed);
        }
        assert_eq!(given_back.load(Ordering::Relaxed), 1);

        let handed = tensor(&given_back).into_raw_unversioned().unwrap();
        // SAFETY: as above; another thread may be the one that deletes it.
        unsafe {
            assert_eq!(elements(&(*handed).dl_tensor), [1, 4, 2, 5, 3, 6]);
            let (address, deleter) = (handed.expose_provenance(), (*handed).deleter.unwrap());
            std::thread::spawn(move || deleter(std::ptr::with_exposed_provenance_mut(address))).join().unwrap();
            deleter(std::ptr::null_mut());
        }
        assert_eq!(given_back.load(Ordering::Relaxed), 2);

        // Kept by nobody, it is given back too.
        drop(tensor(&given_back));
        assert_eq!(given_back.load(Ordering::Relaxed), 3);
    }
}
