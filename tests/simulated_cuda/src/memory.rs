//! Device memory and pinned memory: what is in it, and who uses it when.

use std::alloc::Layout;

use crate::clock::Clock;
use crate::stream::Op;
use crate::world::{CallResult, INVALID_VALUE, World};

/// What is in memory that nobody has written yet.
const GARBAGE: u8 = 0xCD;
/// What is in pinned memory that was freed.
const FREED: u8 = 0xDD;
const PAGE: usize = 4096;

pub struct Allocation {
    pub context: u64,
    pub freed: bool,
    bytes: Vec<u8>,
    accesses: Vec<Access>,
}

/// A use of some bytes by a stream: what it does as number `number`.
struct Access {
    start: u64,
    end: u64,
    write: bool,
    stream: usize,
    number: u64,
    what: &'static str,
}

impl Access {
    fn is_before(&self, clock: &Clock) -> bool {
        clock.get(self.stream) >= self.number
    }
}

pub struct Pinned {
    pub context: u64,
    pub freed: bool,
    len: usize,
    in_flight: usize,
}

impl World {
    pub fn free_len(&self) -> usize {
        let used: usize = self.device.values().map(|allocation| allocation.bytes.len()).sum();
        self.settings.memory.saturating_sub(used)
    }

    pub fn allocate(&mut self, len: usize, context: u64) -> Option<u64> {
        if len == 0 || len > self.free_len() {
            return None;
        }
        let address = self.next_address;
        // A gap behind each, so that what is copied past the end hits nothing.
        self.next_address += (len as u64).next_multiple_of(512) + 65536;
        self.device
            .insert(address, Allocation { context, freed: false, bytes: vec![GARBAGE; len], accesses: Vec::new() });
        Some(address)
    }

    /// The allocation that has all of these bytes.
    fn holder(&mut self, address: u64, len: usize) -> Option<(u64, &mut Allocation)> {
        let (&start, allocation) = self.device.range_mut(..=address).next_back()?;
        let end = address.checked_add(len as u64)?;
        (end <= start + allocation.bytes.len() as u64).then_some((start, allocation))
    }

    /// Notes that a stream will use bytes, in what it was last asked to do.
    pub fn touch(&mut self, stream: usize, address: u64, len: usize, write: bool, what: &'static str) -> CallResult {
        let clock = self.clocks[stream].clone();
        let mut wrong = Vec::new();
        match self.holder(address, len) {
            None => wrong.push(format!("{what}: {len} bytes at {address:#x} are in no allocation")),
            Some((start, allocation)) => {
                if allocation.freed {
                    wrong.push(format!("{what}: the allocation at {start:#x} is freed"));
                }
                let (start, end) = (address - start, address - start + len as u64);
                for other in &allocation.accesses {
                    if other.start < end && start < other.end && (write || other.write) && !other.is_before(&clock) {
                        wrong.push(format!(
                            "race: {what} of bytes {start}..{end} in stream {stream} is not ordered after {} of bytes {}..{} in stream {}",
                            other.what, other.start, other.end, other.stream
                        ));
                    }
                }
                if write {
                    allocation.accesses.retain(|o| !(start <= o.start && o.end <= end && o.is_before(&clock)));
                }
                let number = clock.get(stream);
                allocation.accesses.push(Access { start, end, write, stream, number, what });
            }
        }
        let nothing = wrong.iter().all(|text| text.starts_with("race"));
        wrong.into_iter().for_each(|text| self.violation(text));
        if nothing { Ok(()) } else { Err(INVALID_VALUE) }
    }

    pub fn free_now(&mut self, address: u64) -> CallResult {
        let host = self.host.clone();
        let Some(allocation) = self.device.remove(&address).filter(|allocation| !allocation.freed) else {
            self.violation(format!("there is nothing to free at {address:#x}"));
            return Err(INVALID_VALUE);
        };
        for access in allocation.accesses.iter().filter(|access| !access.is_before(&host)) {
            self.violation(format!("the allocation at {address:#x} is freed, and {} may still use it", access.what));
        }
        Ok(())
    }

    pub fn free_in_stream(&mut self, stream: usize, address: u64) -> CallResult {
        let Some(allocation) = self.device.get(&address).filter(|allocation| !allocation.freed) else {
            self.violation(format!("there is nothing to free at {address:#x}"));
            return Err(INVALID_VALUE);
        };
        let len = allocation.bytes.len();
        self.enqueue(stream, Op::Free { address });
        self.touch(stream, address, len, true, "cuMemFreeAsync")?;
        self.device.entry(address).and_modify(|allocation| allocation.freed = true);
        Ok(())
    }

    pub fn pin(&mut self, len: usize, context: u64) -> Option<usize> {
        let layout = Layout::from_size_align(len.checked_next_multiple_of(PAGE)?, PAGE).ok()?;
        // SAFETY: the layout is not empty.
        let start = unsafe { std::alloc::alloc(layout) };
        if start.is_null() {
            return None;
        }
        // SAFETY: it has so many bytes.
        unsafe { start.write_bytes(GARBAGE, len) };
        self.pinned.insert(start as usize, Pinned { context, freed: false, len, in_flight: 0 });
        Some(start as usize)
    }

    /// Pinned memory that was freed is not given back, so that a late copy reads what is wrong, and not what does not exist.
    pub fn unpin(&mut self, start: usize) -> CallResult {
        let Some(pinned) = self.pinned.get_mut(&start).filter(|pinned| !pinned.freed) else {
            self.violation("cuMemFreeHost: this memory is not pinned".to_owned());
            return Err(INVALID_VALUE);
        };
        pinned.freed = true;
        let (len, in_flight) = (pinned.len, pinned.in_flight);
        // SAFETY: it has so many bytes, and its owner has given it up.
        unsafe { (start as *mut u8).write_bytes(FREED, len) };
        if in_flight > 0 {
            self.violation(format!("pinned memory is freed with {in_flight} copies in flight"));
        }
        Ok(())
    }

    fn pinned_holder(&mut self, start: usize, len: usize) -> Option<&mut Pinned> {
        let (&first, pinned) = self.pinned.range_mut(..=start).next_back()?;
        (start.checked_add(len)? <= first + pinned.len && !pinned.freed).then_some(pinned)
    }

    pub fn is_pinned(&mut self, start: usize, len: usize) -> bool {
        self.pinned_holder(start, len).is_some()
    }

    pub fn copy_in(&mut self, stream: usize, to: u64, from: usize, len: usize) -> CallResult {
        let Some(pinned) = self.pinned_holder(from, len) else {
            // The driver would take it, and copy while the caller waits.
            self.violation("cuMemcpyHtoDAsync: the source is not pinned".to_owned());
            return Err(INVALID_VALUE);
        };
        pinned.in_flight += 1;
        self.enqueue(stream, Op::CopyIn { to, from, len, sum: sum(from, len) });
        self.touch(stream, to, len, true, "cuMemcpyHtoDAsync")
    }

    fn bytes(&mut self, address: u64, len: usize) -> Option<&mut [u8]> {
        let (start, allocation) = self.holder(address, len)?;
        let start = (address - start) as usize;
        Some(&mut allocation.bytes[start..start + len])
    }

    /// Does what a stream was asked to do. What is out of bounds was reported when it was asked for.
    pub fn perform(&mut self, op: Op) {
        match op {
            Op::CopyIn { to, from, len, sum: asked } => {
                if sum(from, len) != asked {
                    self.violation("pinned memory was written while it was copied from".to_owned());
                }
                // SAFETY: memory that was once pinned is never given back.
                let source = unsafe { std::slice::from_raw_parts(from as *const u8, len) };
                if let Some(bytes) = self.bytes(to, len) {
                    bytes.copy_from_slice(source);
                }
                if let Some((_, pinned)) = self.pinned.range_mut(..=from).next_back() {
                    pinned.in_flight -= 1;
                }
            }
            Op::CopyOut { from, to, len } => {
                if let Some(bytes) = self.bytes(from, len) {
                    // SAFETY: the driver's contract: the caller keeps the destination until the copy is done.
                    unsafe { bytes.as_ptr().copy_to_nonoverlapping(to as *mut u8, len) };
                }
            }
            Op::CopyWithin { from, to, len } => {
                let copy = self.bytes(from, len).map(|bytes| bytes.to_vec());
                if let (Some(copy), Some(bytes)) = (copy, self.bytes(to, len)) {
                    bytes.copy_from_slice(&copy);
                }
            }
            Op::Set { to, byte, len } => {
                if let Some(bytes) = self.bytes(to, len) {
                    bytes.fill(byte);
                }
            }
            Op::Free { address } => drop(self.device.remove(&address)),
            Op::Nothing | Op::Record(_) | Op::Wait(_) | Op::End(_) => {}
        }
    }
}

/// FNV-1a over words would do; over bytes it is simple.
fn sum(start: usize, len: usize) -> u64 {
    // SAFETY: memory that was once pinned is never given back. The host may write it meanwhile, which is what is looked for.
    let bytes = unsafe { std::slice::from_raw_parts(start as *const u8, len) };
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}
