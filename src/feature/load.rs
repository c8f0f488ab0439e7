//! Whole checkpoints put on a device: one allocation, all tensors in it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::{DEVICE_ALIGNMENT, Device, Host};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checksum::{self, crc32};
use crate::format::dtype::{DType, Element};
use crate::format::{layout, len_u64, len_usize};
use crate::read::{Checkpoint, Scratch};

/// Bytes that a thread copies at a time, at most, where the device sets no limit.
const PART_LEN: usize = 8 << 20;

/// How to put a checkpoint on a device.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct LoadOptions {
    threads: u32,
    verify: bool,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions::new()
    }
}

impl LoadOptions {
    /// As many threads as the machine has, 8 at most; verified.
    pub fn new() -> LoadOptions {
        LoadOptions { threads: u32::try_from(crate::read::default_threads()).unwrap_or(1).min(8), verify: true }
    }

    /// How many threads copy; at least 1. Each has the device's buffers for one lane.
    pub fn threads(mut self, threads: u32) -> LoadOptions {
        self.threads = threads.max(1);
        self
    }

    /// Nothing is verified: what was damaged on the disk, or on the way, is on the device.
    pub fn unverified(mut self) -> LoadOptions {
        self.verify = false;
        self
    }
}

/// Puts all tensors of a checkpoint on a device, in one allocation.
///
/// Storages are copied whole, each once, so that tensors that share one in the file share it on the device: tied weights, slices and transposes
/// stay what they are. Each storage begins at a multiple of 256 bytes. Every byte is verified on the way, in the buffer that the device copies
/// from; blocks that were verified before are not verified again.
///
/// **Cost**: reads the file once; memory of the host for the device's lanes, whatever the file's length.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("model.dolmen");
/// # let mut b = dolmen::Builder::new();
/// # b.tensor("weight", (&[1f32, 2.0, 3.0, 4.0], [2, 2]))?;
/// # b.save(&path)?;
/// use dolmen::feature::{Host, LoadOptions, load_to_device};
///
/// let ckpt = dolmen::Checkpoint::open_on_demand(&path)?;
/// let loaded = load_to_device(&ckpt, Host, &LoadOptions::new())?;
/// assert_eq!(loaded.tensor("weight")?.as_slice::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) with the damaged tensor and block; [`Device`](ErrorKind::Device) if the device has not the memory, or fails;
/// [`Io`](ErrorKind::Io).
pub fn load_to_device<D: Device>(
    checkpoint: &Checkpoint,
    device: impl Into<Arc<D>>,
    options: &LoadOptions,
) -> Result<Loaded<D>> {
    let device = device.into();
    load(checkpoint, &device, options).map_err(|e| checkpoint.in_file(e))
}

/// A storage of the file, and where it goes.
struct Placed<'c> {
    number: u32,
    byte_len: u64,
    at: usize,
    /// A tensor that lies in it, for messages.
    tensor: &'c str,
    /// Its CRC-32, if it has one, and more parts than blocks: it is then put together from those of its parts.
    whole_crc32: Option<u32>,
}

/// What one thread copies at a time.
struct Part<'c> {
    storage: &'c Placed<'c>,
    range: Range<u64>,
    /// Where the CRC-32 of its bytes is noted.
    crc32: Option<usize>,
}

fn load<D: Device>(checkpoint: &Checkpoint, device: &Arc<D>, options: &LoadOptions) -> Result<Loaded<D>> {
    let too_long = || Error::new(ErrorKind::Limit, "its tensors take more bytes than this machine can address");
    let part_len = device.max_part_len().min(PART_LEN);
    if part_len == 0 {
        return Err(Error::invalid("the device's buffers hold 0 bytes").with_advice("give the device longer buffers"));
    }
    // Parts end where blocks do, if they can: then no block is in two of them.
    let block_len = checkpoint.header().block_len();
    let part_len = match len_usize(block_len).filter(|&len| len > 0 && len <= part_len) {
        Some(block_len) => part_len.saturating_sub(part_len.checked_rem(block_len).unwrap_or(0)),
        None => part_len,
    };

    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut storages, mut tensors) = (Vec::new(), Vec::new());
    let mut byte_len = 0usize;
    for tensor in checkpoint.tensors() {
        let tensor = tensor?;
        let at = match places.get(&tensor.storage()) {
            Some(&at) => at,
            None => {
                let storage_len = tensor.storage_len()?;
                let at = byte_len.checked_next_multiple_of(DEVICE_ALIGNMENT).ok_or_else(too_long)?;
                byte_len = len_usize(storage_len).and_then(|len| at.checked_add(len)).ok_or_else(too_long)?;
                places.insert(tensor.storage(), at);
                let is_one_block = storage_len <= block_len && storage_len > len_u64(part_len);
                let whole_crc32 = if is_one_block && options.verify && tensor.is_in_place() {
                    tensor.storage_crc32()?.filter(|_| !checkpoint.is_known_whole(tensor.storage()))
                } else {
                    None
                };
                let (number, name) = (tensor.storage(), tensor.name());
                storages.push(Placed { number, byte_len: storage_len, at, tensor: name, whole_crc32 });
                at
            }
        };
        let start = len_usize(tensor.start()).and_then(|start| at.checked_add(start)).ok_or_else(too_long)?;
        let end = len_usize(tensor.byte_len()).and_then(|len| start.checked_add(len)).ok_or_else(too_long)?;
        tensors.push(Entry {
            name: tensor.name().to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            strides: tensor.explicit_strides().map(<[u64]>::to_vec),
            bytes: start..end,
        });
    }
    if isize::try_from(byte_len).is_err() {
        return Err(too_long());
    }

    let mut memory = device.allocate(byte_len.max(1))?;
    let (mut lens, mut parts) = (Vec::new(), Vec::new());
    let (mut at, mut crc_count) = (0usize, 0usize);
    for storage in &storages {
        lens.push((storage.at.saturating_sub(at), None));
        at = storage.at;
        let mut start = 0u64;
        while start < storage.byte_len {
            let end = storage.byte_len.min(start.saturating_add(len_u64(part_len)));
            let len = len_usize(end.saturating_sub(start)).ok_or_else(too_long)?;
            let crc = storage.whole_crc32.map(|_| crc_count);
            crc_count = crc_count.saturating_add(usize::from(crc.is_some()));
            lens.push((len, Some(parts.len())));
            parts.push(Some(Part { storage, range: start..end, crc32: crc }));
            at = at.saturating_add(len);
            start = end;
        }
    }
    let crcs: Vec<Mutex<u32>> = (0..crc_count).map(|_| Mutex::new(0)).collect();
    let lanes = (0..options.threads).map(|_| device.lane().map(|lane| Mutex::new(Some(lane))));
    let lanes: Vec<Mutex<Option<D::Lane>>> = lanes.collect::<Result<_>>()?;
    {
        let byte_lens: Vec<usize> = lens.iter().map(|&(len, _)| len).collect();
        let cut = device.parts(&mut memory, &byte_lens)?;
        let work = cut
            .into_iter()
            .zip(&lens)
            .filter_map(|(part, &(_, number))| Some((part, parts.get_mut(number?).and_then(Option::take)?)));
        let work: Vec<_> = work.collect();
        let threads = usize::try_from(options.threads).unwrap_or(1);
        crate::read::for_each(
            threads,
            work.into_iter(),
            || Worker::<D>::of(&lanes),
            |worker, (place, part)| worker.copy(checkpoint, device, place, &part, options.verify, &crcs),
        )?;
    }
    check_whole_crcs(checkpoint, &storages, part_len, &crcs)?;
    for lane in lanes {
        if let Some(mut lane) = lane.into_inner().unwrap_or_else(PoisonError::into_inner) {
            device.finish(&mut lane, &mut memory)?;
        }
    }
    device.acquire(&mut memory)?;
    // What the device did in the background may have failed: whoever gets the tensors has them.
    device.synchronize(&memory)?;
    Ok(Loaded { device: Arc::clone(device), memory, tensors, byte_len })
}

/// What a thread holds while it copies: a lane, which it gives back.
struct Worker<'l, D: Device> {
    lane: Option<D::Lane>,
    home: Option<&'l Mutex<Option<D::Lane>>>,
    scratch: Scratch,
    unsettled: Vec<u64>,
}

impl<'l, D: Device> Worker<'l, D> {
    fn of(lanes: &'l [Mutex<Option<D::Lane>>]) -> Worker<'l, D> {
        let free = lanes.iter().find_map(|home| {
            let lane = home.lock().unwrap_or_else(PoisonError::into_inner).take();
            lane.map(|lane| (home, lane))
        });
        let (home, lane) = free.map_or((None, None), |(home, lane)| (Some(home), Some(lane)));
        Worker { lane, home, scratch: Scratch::default(), unsettled: Vec::new() }
    }

    fn copy(
        &mut self,
        checkpoint: &Checkpoint,
        device: &D,
        place: D::Part<'_>,
        part: &Part<'_>,
        verify: bool,
        crcs: &[Mutex<u32>],
    ) -> Result<()> {
        let number = part.storage.number;
        // There are as many lanes as threads.
        let no_lane = || Error::invalid("there is no lane for this thread");
        let lane = self.lane.as_mut().ok_or_else(no_lane)?;
        let checks = (verify && part.storage.whole_crc32.is_none()).then(|| checkpoint.checks());
        let (scratch, unsettled) = (&mut self.scratch, &mut self.unsettled);
        let filled = device.fill(lane, place, &mut |buffer| {
            checkpoint.copy_storage(number, part.range.clone(), buffer, checks, scratch, unsettled)?;
            if let Some(place) = part.crc32.and_then(|crc32| crcs.get(crc32)) {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = crc32(buffer);
            }
            Ok(())
        });
        let settle = |checks| {
            self.unsettled.drain(..).try_for_each(|block| checkpoint.settle(number, block, checks, &mut self.scratch))
        };
        filled.and_then(|()| checks.map_or(Ok(()), settle)).map_err(|e| e.with_tensor(part.storage.tensor))
    }
}

impl<D: Device> Drop for Worker<'_, D> {
    fn drop(&mut self) {
        if let Some(home) = self.home {
            *home.lock().unwrap_or_else(PoisonError::into_inner) = self.lane.take();
        }
    }
}

/// Puts the CRC-32s of parts together to those of their storages, and checks them.
fn check_whole_crcs(
    checkpoint: &Checkpoint,
    storages: &[Placed<'_>],
    part_len: usize,
    crcs: &[Mutex<u32>],
) -> Result<()> {
    let mut crcs = crcs.iter().map(|crc32| *crc32.lock().unwrap_or_else(PoisonError::into_inner));
    for storage in storages {
        let Some(expected) = storage.whole_crc32 else { continue };
        let mut found = 0;
        let mut left = storage.byte_len;
        while left > 0 {
            let len = left.min(len_u64(part_len));
            found = checksum::combine(found, crcs.next().unwrap_or(0), len);
            left = left.saturating_sub(len);
        }
        checkpoint.found_whole(storage.number, expected, found).map_err(|e| e.with_tensor(storage.tensor))?;
    }
    Ok(())
}

/// All tensors of a checkpoint, in a device's memory.
pub struct Loaded<D: Device> {
    device: Arc<D>,
    memory: D::Memory,
    /// In ascending order of their names.
    tensors: Vec<Entry>,
    byte_len: usize,
}

struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    strides: Option<Vec<u64>>,
    bytes: Range<usize>,
}

impl<D: Device> Loaded<D> {
    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of the device's memory that the tensors take, with what lies between them.
    pub fn byte_len(&self) -> usize {
        self.byte_len
    }

    /// The memory that all of them lie in.
    pub fn memory(&self) -> &D::Memory {
        &self.memory
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn shared_device(&self) -> Arc<D> {
        Arc::clone(&self.device)
    }

    pub(crate) fn memory_mut(&mut self) -> &mut D::Memory {
        &mut self.memory
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none.
    pub fn tensor(&self, name: &str) -> Result<DeviceTensor<'_, D>> {
        let found = self.tensors.binary_search_by(|entry| entry.name.as_bytes().cmp(name.as_bytes()));
        let entry = found.ok().and_then(|number| self.tensors.get(number));
        let missing = || Error::new(ErrorKind::NotFound, "there is no tensor of this name").with_tensor(name);
        Ok(DeviceTensor { loaded: self, entry: entry.ok_or_else(missing)? })
    }

    /// All tensors, in ascending order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = DeviceTensor<'_, D>> {
        self.tensors.iter().map(|entry| DeviceTensor { loaded: self, entry })
    }
}

impl<D: Device> fmt::Debug for Loaded<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("device", &self.device.name())
            .field("tensors", &self.tensors.len())
            .field("byte_len", &self.byte_len)
            .finish_non_exhaustive()
    }
}

/// A tensor in a device's memory.
pub struct DeviceTensor<'l, D: Device> {
    loaded: &'l Loaded<D>,
    entry: &'l Entry,
}

impl<D: Device> Clone for DeviceTensor<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for DeviceTensor<'_, D> {}

impl<'l, D: Device> DeviceTensor<'l, D> {
    /// The name.
    pub fn name(&self) -> &'l str {
        &self.entry.name
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.entry.dtype
    }

    /// The shape. Empty for a scalar.
    pub fn shape(&self) -> &'l [u64] {
        &self.entry.shape
    }

    /// The strides in elements, one for each axis.
    pub fn strides(&self) -> Vec<u64> {
        self.explicit_strides().map_or_else(|| layout::contiguous_strides(self.shape()), <[u64]>::to_vec)
    }

    /// The strides in elements if they are not those of row-major order.
    pub fn explicit_strides(&self) -> Option<&'l [u64]> {
        self.entry.strides.as_deref()
    }

    /// Which bytes of the memory it reaches over, from its first element to the end of its last one.
    pub fn bytes_in_memory(&self) -> Range<usize> {
        self.entry.bytes.clone()
    }

    /// The memory that it lies in.
    pub fn memory(&self) -> &'l D::Memory {
        &self.loaded.memory
    }

    /// Copies those bytes to the host. On a GPU it waits for that.
    ///
    /// # Errors
    /// [`Device`](ErrorKind::Device) if the device fails.
    pub fn read_back(&self) -> Result<Vec<u8>> {
        self.loaded.device.read_back(&self.loaded.memory, self.bytes_in_memory())
    }
}

impl<'l> DeviceTensor<'l, Host> {
    /// The bytes from its first element to the end of its last one.
    pub fn as_bytes(&self) -> &'l [u8] {
        self.loaded.memory.get(self.bytes_in_memory()).unwrap_or_default()
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `T` is not its dtype, it is strided, or a file of another format did not align it;
    /// [`Malformed`](ErrorKind::Malformed) for a bool that is neither 0 nor 1.
    pub fn as_slice<T: Element>(&self) -> Result<&'l [T]> {
        let wrong = |message: String| Err(Error::invalid(message).with_tensor(self.name()));
        if self.dtype() != T::DTYPE {
            return wrong(format!("it is of dtype {}, not {}", self.dtype(), T::DTYPE));
        }
        if self.explicit_strides().is_some() {
            return wrong("its strides are not contiguous".to_owned());
        }
        let bytes = self.as_bytes();
        if !bytes.as_ptr().addr().is_multiple_of(align_of::<T>()) {
            return wrong("its bytes are not aligned for a typed view".to_owned());
        }
        bytemuck::checked::try_cast_slice(bytes).map_err(|_| {
            Error::new(ErrorKind::Malformed, format!("an element is not a valid {}", T::DTYPE)).with_tensor(self.name())
        })
    }
}

impl<D: Device> fmt::Debug for DeviceTensor<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceTensor")
            .field("name", &self.name())
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .field("strides", &self.explicit_strides())
            .field("bytes", &self.bytes_in_memory())
            .finish_non_exhaustive()
    }
}
