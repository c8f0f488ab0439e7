//! Where tensors are used: memory of the host, or of a GPU.
//!
//! A [`Device`] hands out [memory](Device::Memory), and *lanes*: what one filling thread holds, its buffers and its queue. A thread cuts
//! memory into parts and fills them through its lane: the bytes are written, and their checksum computed, in the very buffer that the device
//! copies from. The pipeline's threads, orders and checks know nothing else of devices, so that all of it is tested on the host.
//!
//! ```text
//! allocate ─▶ parts ─▶ fill, fill, fill … ─▶ finish ─▶ acquire ─▶ (used) ─▶ release ─▶ parts ─▶ …
//!                      └── one lane or several ──┘      the consumer
//! ```

#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod lent;

#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaLane, CudaMemory, CudaOptions, CudaPart};
pub use host::{Host, HostMemory};
pub use lent::Lent;

use std::ops::Range;

use crate::error::Result;

/// At which multiples memory of a device begins, at least: in bytes.
pub const DEVICE_ALIGNMENT: usize = 256;

/// Memory of its own that tensors are put into.
///
/// Memory is used in this order: it is [allocated](Self::allocate), cut into [parts](Self::parts), each of which is
/// [filled](Self::fill); every lane that filled some of it [finishes](Self::finish); then whoever uses it [acquires](Self::acquire) it, and
/// [releases](Self::release) it afterwards, and it may be filled again. Nothing here waits for the device unless it says so.
pub trait Device: Send + Sync + 'static {
    /// A piece of the device's memory. It begins at a multiple of [`DEVICE_ALIGNMENT`].
    ///
    /// Dropping it at any time is sound: an implementation waits for what the device still does with it.
    type Memory: Send + 'static;

    /// What a filling thread holds: buffers and a queue. Dropping it waits for what it began.
    type Lane: Send + 'static;

    /// A part of memory that is filled.
    type Part<'m>: Send;

    /// The name, such as `host` or `cuda:0`.
    fn name(&self) -> String;

    /// Memory of so many bytes. What is in it is not specified.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) or [`Device`](crate::ErrorKind::Device) if there is not the memory.
    fn allocate(&self, byte_len: usize) -> Result<Self::Memory>;

    /// Memory that is bytes of a checkpoint, where they lie: nothing is filled then. `None`, unless the device can use memory of the host in
    /// place.
    fn lend(&self, bytes: Lent) -> Option<Self::Memory> {
        let _ = bytes;
        None
    }

    /// A lane for one thread. **Cost**: its buffers, all that it will ever hold: pinning takes milliseconds.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    fn lane(&self) -> Result<Self::Lane>;

    /// Bytes that a part may have at most: the length of a lane's buffers.
    fn max_part_len(&self) -> usize;

    /// Memory of the host that a lane holds, in bytes: what [`lane`](Self::lane) pins.
    fn lane_byte_len(&self) -> usize;

    /// Cuts memory into parts of these lengths, one after the other from its beginning on.
    ///
    /// What was given to the consumer before is waited for by the device, not by the caller, before any part is overwritten.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if they are more than the memory has;
    /// [`Device`](crate::ErrorKind::Device) if the device fails.
    fn parts<'m>(&self, memory: &'m mut Self::Memory, byte_lens: &[usize]) -> Result<Vec<Self::Part<'m>>>;

    /// Fills a part: `write` is given a buffer of the part's length, which holds anything, and writes all of it; it is then on its way to the
    /// part. Waits for one of the lane's buffers, if all are still being copied from.
    ///
    /// # Errors
    /// What `write` returns, and nothing is copied then; [`Device`](crate::ErrorKind::Device) if the device fails;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the part is longer than [`max_part_len`](Self::max_part_len).
    fn fill(
        &self,
        lane: &mut Self::Lane,
        part: Self::Part<'_>,
        write: &mut dyn FnMut(&mut [u8]) -> Result<()>,
    ) -> Result<()>;

    /// Says that a lane has filled all that it will fill of this memory: who acquires it waits for that.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device fails.
    fn finish(&self, lane: &mut Self::Lane, memory: &mut Self::Memory) -> Result<()>;

    /// Hands memory to the consumer: what the consumer then asks the device to do sees what was filled.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device fails.
    fn acquire(&self, memory: &mut Self::Memory) -> Result<()>;

    /// Takes memory back from the consumer: it is not overwritten before the device has done what the consumer has asked it to do so far.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device fails.
    fn release(&self, memory: &mut Self::Memory) -> Result<()>;

    /// Waits until the device has done everything that it was asked to do with this memory.
    ///
    /// # Errors
    /// [`Device`](crate::ErrorKind::Device) if the device fails: also in something that it was asked to do before.
    fn synchronize(&self, memory: &Self::Memory) -> Result<()>;

    /// Copies bytes of memory that was acquired back to the host, and waits for it. For tests and for looking; it is slow.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are no such bytes; [`Device`](crate::ErrorKind::Device).
    fn read_back(&self, memory: &Self::Memory, bytes: Range<usize>) -> Result<Vec<u8>>;
}
