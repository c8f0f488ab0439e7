//! Tensors for other frameworks, without a copy: [DLPack](https://dmlc.github.io/dlpack/latest/).
//!
//! ```text
//! Batch ─▶ into_dlpack ─▶ DlpackTensor ─▶ into_raw ─▶ PyCapsule ─▶ numpy.from_dlpack, torch.from_dlpack, …
//!                            └ dropped: the memory is given back       └ the deleter, from any thread: the memory is given back
//! ```
//! What is handed over owns the batch (or a share of the [`Loaded`] checkpoint): the loader and its epoch may be gone before the consumer is
//! done. `examples/dlpack` is a library that Python loads; with pyo3 a capsule is made of the pointer in the same way.
//!
//! # Who may write
//! Memory that the loader has filled is the consumer's to change. What is [lent](Batch::is_lent) from a checkpoint, and what is shared with
//! others of this program, is flagged as read-only; DLPack before version 1 has no such flag, and is refused for these. Not every consumer
//! heeds it (PyTorch did not as this was written): a write to a mapped file then ends the process. Batches that are
//! [copied](super::LoaderOptions::copied) are for those.
//!
//! # Where tensors begin
//! DLPack's header asks for a `data` that is a multiple of 256 with the rest in `byte_offset`, and says that nobody does so. PyTorch does not
//! look at `byte_offset`. So `data` is the first element, and `byte_offset` 0. What is copied begins at a multiple of 256 all the same; what
//! is lent, at a multiple of 16; a tensor of a checkpoint that is a slice of a larger one, wherever it does.
//!
//! # Why no crate
//! What could be shared is five structs that DLPack will never change, which are asserted to have the header's layout. The rest is who owns
//! what, and no crate knows that.

mod abi;
mod tensor;

use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, PoisonError};

pub use abi::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPACK_FLAG_BITMASK_READ_ONLY, DLPACK_VERSION,
    DLPackVersion, DLTensor, K_DL_CPU, K_DL_CUDA,
};
pub use tensor::DlpackTensor;

use super::device::{Device, Host};
use super::load::{DeviceTensor, Loaded};
use super::loader::Batch;
use crate::error::Result;
use crate::format::dtype::DType;

/// The name of a Python capsule with a [`DLManagedTensorVersioned`].
pub const VERSIONED_CAPSULE_NAME: &CStr = c"dltensor_versioned";

/// The name of a Python capsule with a [`DLManagedTensor`].
pub const CAPSULE_NAME: &CStr = c"dltensor";

/// A device whose memory can be handed over by DLPack.
///
/// # Safety
/// The pointers are to the first byte of the memory, on the device that [`dlpack_device`](Self::dlpack_device) says. All of its bytes can be
/// read through them, and through [`dlpack_ptr_mut`](Self::dlpack_ptr_mut) be written, wherever the value that stands for the memory is moved,
/// until that is dropped, or given to [`parts`](Device::parts).
pub unsafe trait DlpackDevice: Device {
    /// The device, as DLPack numbers them.
    fn dlpack_device(&self) -> DLDevice;

    /// Where the memory begins, for reading.
    fn dlpack_ptr(&self, memory: &Self::Memory) -> *const c_void;

    /// Where the memory begins, for writing; `None` if nobody may write to it.
    fn dlpack_ptr_mut(&self, memory: &mut Self::Memory) -> Option<*mut c_void>;

    /// Waits until the device has done all that anyone has asked it to do: a consumer gives tensors of a checkpoint back, and may have used
    /// them in ways that the device's memory does not know of.
    fn dlpack_wait(&self) {}
}

// SAFETY: both are the address of the first of the bytes that the memory derefs to. They are on the heap or mapped, and do not move with it;
// own ones are reached through a pointer for writing.
unsafe impl DlpackDevice for Host {
    fn dlpack_device(&self) -> DLDevice {
        DLDevice { device_type: K_DL_CPU, device_id: 0 }
    }

    fn dlpack_ptr(&self, memory: &Self::Memory) -> *const c_void {
        memory.as_ptr().cast()
    }

    fn dlpack_ptr_mut(&self, memory: &mut Self::Memory) -> Option<*mut c_void> {
        memory.own_mut().map(|bytes| bytes.as_mut_ptr().cast())
    }
}

/// A batch that is to be handed over. Its memory goes back to the loader when the last of the two is given back.
#[derive(Debug)]
#[non_exhaustive]
pub struct DlpackBatch {
    /// The features. **Shape**: rows, columns.
    pub features: DlpackTensor,
    /// The labels, as i64, if the table has labels. **Shape**: rows.
    pub labels: Option<DlpackTensor>,
}

impl<D: DlpackDevice> Batch<D> {
    /// The batch for another framework, without a copy. What else it knows, such as its [rows](Batch::rows), is asked for before.
    ///
    /// On a GPU the consumer's work must be on the device's stream, or be ordered behind it and before it by the consumer; `into_dlpack_on`
    /// does that for any other stream. PyTorch works on the default stream unless it is told otherwise, which
    /// `CudaContext::default_stream` can make the device's, too.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a dtype that DLPack does not have.
    pub fn into_dlpack(self) -> Result<DlpackBatch> {
        export_batch(self, |batch| Some(batch))
    }
}

/// Hands a batch over with everything that it is kept in.
pub(super) fn export_batch<D: DlpackDevice, O: Send + 'static>(
    owner: O,
    batch_of: impl FnOnce(&mut O) -> Option<&mut Batch<D>>,
) -> Result<DlpackBatch> {
    // The batch stays where it is from here on. The lock is taken now and never again: it makes a share of the owner `Send`.
    let shared = Arc::new(Mutex::new(owner));
    let mut owner = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || crate::Error::invalid("the batch was handed over before");
    let batch = batch_of(&mut owner).ok_or_else(gone)?;
    let (dtype, shape, width) = (batch.dtype(), batch.shape(), batch.width());
    let (features, labels) = (batch.features_in_memory(), batch.labels_in_memory());
    let (device, memory) = batch.device_and_memory_mut().ok_or_else(gone)?;
    let (base, is_read_only) = writable_or_not(device, memory);
    let device = device.dlpack_device();
    let tensor = |at: usize, dtype: DType, shape: &[u64], strides: &[u64]| {
        let (data, owner) = (byte_at(base, at), Box::new(Arc::clone(&shared)));
        DlpackTensor::new(data, device, dtype, shape, strides, is_read_only, owner)
    };
    let features = tensor(features.start, dtype, &shape, &[width, 1])?;
    let labels = labels.map(|labels| tensor(labels.start, DType::I64, &shape[..1], &[1])).transpose()?;
    drop(owner);
    Ok(DlpackBatch { features, labels })
}

impl<D: DlpackDevice> Loaded<D> {
    /// All tensors for other frameworks, without a copy, in ascending order of their names: each may be written to. Those that share memory in
    /// the file share it afterwards. The memory is freed when the last of them is given back.
    ///
    /// On a GPU giving one back waits for all that the GPU was asked to do.
    ///
    /// A dtype that DLPack does not have is an error in its tensor's place.
    pub fn into_dlpack(self) -> Vec<(String, Result<DlpackTensor>)> {
        let device = self.shared_device();
        let loaded = Arc::new(Mutex::new(self));
        let mut locked = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (base, is_read_only) = writable_or_not(&*device, locked.memory_mut());
        let export = |tensor: DeviceTensor<'_, D>| {
            let owner = Awaited { device: Arc::clone(&device), owner: Some(Arc::clone(&loaded)) };
            (tensor.name().to_owned(), export_tensor(&*device, tensor, base, is_read_only, Box::new(owner)))
        };
        locked.tensors().map(export).collect()
    }

    /// A tensor for another framework, without a copy, read-only: this and every other tensor stay usable here.
    ///
    /// On a GPU giving it back waits for all that the GPU was asked to do.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none of that name; [`InvalidInput`](crate::ErrorKind::InvalidInput) for a dtype
    /// that DLPack does not have.
    pub fn tensor_to_dlpack(self: &Arc<Self>, name: &str) -> Result<DlpackTensor>
    where
        D::Memory: Sync,
    {
        let device = self.shared_device();
        let base = device.dlpack_ptr(self.memory()).cast_mut();
        let owner = Awaited { device: Arc::clone(&device), owner: Some(Arc::clone(self)) };
        export_tensor(&*device, self.tensor(name)?, base, true, Box::new(owner))
    }
}

fn export_tensor<D: DlpackDevice>(
    device: &D,
    tensor: DeviceTensor<'_, D>,
    base: *mut c_void,
    is_read_only: bool,
    owner: Box<dyn Send>,
) -> Result<DlpackTensor> {
    let data = byte_at(base, tensor.bytes_in_memory().start);
    let (shape, strides) = (tensor.shape(), tensor.strides());
    DlpackTensor::new(data, device.dlpack_device(), tensor.dtype(), shape, &strides, is_read_only, owner)
        .map_err(|e| e.with_tensor(tensor.name()))
}

/// Where memory begins, and whether nobody may write to it.
fn writable_or_not<D: DlpackDevice>(device: &D, memory: &mut D::Memory) -> (*mut c_void, bool) {
    match device.dlpack_ptr_mut(memory) {
        Some(base) => (base, false),
        None => (device.dlpack_ptr(memory).cast_mut(), true),
    }
}

fn byte_at(base: *mut c_void, at: usize) -> *mut c_void {
    base.cast::<u8>().wrapping_add(at).cast()
}

/// A share of memory whose consumer may have used it in ways that the memory does not know of.
struct Awaited<D: DlpackDevice, O> {
    device: Arc<D>,
    owner: Option<O>,
}

impl<D: DlpackDevice, O> Drop for Awaited<D, O> {
    fn drop(&mut self) {
        self.device.dlpack_wait();
        self.owner = None;
    }
}
