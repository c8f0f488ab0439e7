//! Everything that there is: contexts, streams and events, and what was done wrong.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_int;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::memory::{Allocation, Pinned};
use crate::stream::{Marker, Op, Queue};

pub type CallResult<T = ()> = Result<T, c_int>;

pub const INVALID_VALUE: c_int = 1;
pub const OUT_OF_MEMORY: c_int = 2;
pub const NOT_INITIALIZED: c_int = 3;
pub const NO_DEVICE: c_int = 100;
pub const INVALID_DEVICE: c_int = 101;
pub const INVALID_CONTEXT: c_int = 201;
pub const ALREADY_DESTROYED: c_int = 400;
pub const NOT_READY: c_int = 600;
pub const NOT_SUPPORTED: c_int = 801;

/// Handles look like pointers, and like nothing else.
const CONTEXTS: u64 = 0xC0_0000_0000;
const FIRST_HANDLE: u64 = 0xE0_0000_0000;
/// The legacy stream, by either of its names.
const LEGACY: [u64; 2] = [0, 1];

pub struct Settings {
    pub devices: usize,
    pub memory: usize,
    pub pools: bool,
    pub seed: u64,
    pub delay_us: u64,
}

/// A record of an event: what was last asked for.
#[derive(Clone)]
pub struct Record {
    pub marker: Arc<Marker>,
    pub clock: Clock,
}

struct Event {
    context: u64,
    record: Option<Record>,
}

struct Stream {
    context: u64,
    index: usize,
}

pub struct World {
    pub settings: Settings,
    pub initialised: bool,
    retained: HashMap<c_int, u32>,
    streams: HashMap<u64, Stream>,
    events: HashMap<u64, Event>,
    next_handle: u64,
    /// By stream, the destroyed ones too.
    queues: Vec<Arc<Queue>>,
    /// What each stream will have waited for before what it is asked to do next.
    pub clocks: Vec<Clock>,
    /// What the host has waited for, any of its threads: less is reported than with a clock for each thread, and nothing wrongly.
    pub host: Clock,
    ending: Vec<Arc<Marker>>,
    pub(crate) device: BTreeMap<u64, Allocation>,
    pub(crate) next_address: u64,
    pub(crate) pinned: BTreeMap<usize, Pinned>,
    violations: Vec<String>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn world() -> MutexGuard<'static, World> {
    static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::new()));
    lock(&WORLD)
}

impl World {
    fn new() -> World {
        let number =
            |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
        World {
            settings: Settings {
                devices: number("SIMULATED_CUDA_DEVICES", 1) as usize,
                memory: number("SIMULATED_CUDA_MEMORY", 1 << 30) as usize,
                pools: number("SIMULATED_CUDA_POOLS", 1) != 0,
                seed: number("SIMULATED_CUDA_SEED", 0),
                delay_us: number("SIMULATED_CUDA_DELAY_US", 200),
            },
            initialised: false,
            retained: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            next_handle: FIRST_HANDLE,
            queues: Vec::new(),
            clocks: Vec::new(),
            host: Clock::default(),
            ending: Vec::new(),
            device: BTreeMap::new(),
            next_address: 0x70_0000_0000,
            pinned: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    pub fn violation(&mut self, text: String) {
        if self.violations.len() < 100 {
            self.violations.push(text);
        }
    }

    pub fn is_context(&self, context: u64) -> bool {
        self.retained.iter().any(|(&device, &count)| count > 0 && CONTEXTS + device as u64 * 256 == context)
    }

    pub fn retain(&mut self, device: c_int) -> u64 {
        *self.retained.entry(device).or_default() += 1;
        CONTEXTS + device as u64 * 256
    }

    pub fn release(&mut self, device: c_int) -> CallResult {
        let count = self.retained.entry(device).or_default();
        if *count == 0 {
            self.violation(format!("the context of device {device} is released once too often"));
            return Err(INVALID_CONTEXT);
        }
        *count -= 1;
        if *count > 0 {
            return Ok(());
        }
        let context = CONTEXTS + device as u64 * 256;
        // The streams that stand for the default one go with their context.
        let legacy = self.streams.extract_if(|handle, stream| LEGACY.contains(handle) && stream.context == context);
        for (_, stream) in legacy {
            let marker = Arc::<Marker>::default();
            self.ending.push(marker.clone());
            self.queues[stream.index].push(Op::End(marker));
        }
        let outlive = [
            self.streams.values().filter(|stream| stream.context == context).count(),
            self.events.values().filter(|event| event.context == context).count(),
            self.device.values().filter(|allocation| allocation.context == context && !allocation.freed).count(),
            self.pinned.values().filter(|pinned| pinned.context == context && !pinned.freed).count(),
        ];
        if outlive != [0; 4] {
            self.violation(format!("streams, events, allocations, pinned memory {outlive:?} outlive their context"));
        }
        Ok(())
    }

    pub fn create_stream(&mut self, context: u64) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 256;
        self.add_stream(handle, context);
        handle
    }

    fn add_stream(&mut self, handle: u64, context: u64) -> usize {
        let index = self.queues.len();
        self.queues.push(Queue::start(index, &self.settings));
        self.clocks.push(Clock::default());
        self.streams.insert(handle, Stream { context, index });
        index
    }

    /// The stream of a handle. Streams are ordered among themselves by events alone: the legacy stream waits for nothing here.
    pub fn stream(&mut self, handle: u64, current: u64) -> CallResult<usize> {
        if LEGACY.contains(&handle) {
            if !self.is_context(current) {
                return Err(INVALID_CONTEXT);
            }
            let legacy = self.streams.get(&LEGACY[0]).map(|stream| stream.index);
            return Ok(legacy.unwrap_or_else(|| self.add_stream(LEGACY[0], current)));
        }
        let index = self.streams.get(&handle).map(|stream| stream.index);
        index.ok_or_else(|| {
            self.violation(format!("there is no stream {handle:#x}"));
            ALREADY_DESTROYED
        })
    }

    pub fn stream_indices(&self) -> Vec<usize> {
        self.streams.values().map(|stream| stream.index).collect()
    }

    pub fn destroy_stream(&mut self, handle: u64) -> CallResult {
        let index = self.stream(handle, 0)?;
        self.streams.remove(&handle);
        // What it was asked to do is done, all the same.
        let marker = Arc::<Marker>::default();
        self.ending.push(marker.clone());
        self.queues[index].push(Op::End(marker));
        Ok(())
    }

    /// Streams that were destroyed, and may still have things to do.
    pub fn take_ending(&mut self) -> Vec<Arc<Marker>> {
        std::mem::take(&mut self.ending)
    }

    pub fn enqueue(&mut self, index: usize, op: Op) {
        let host = std::mem::take(&mut self.host);
        self.clocks[index].join(&host);
        self.host = host;
        self.clocks[index].tick(index);
        self.queues[index].push(op);
    }

    /// Puts a marker behind everything that a stream was asked to do so far.
    pub fn mark(&mut self, index: usize) -> Record {
        let marker = Arc::<Marker>::default();
        self.enqueue(index, Op::Record(marker.clone()));
        Record { marker, clock: self.clocks[index].clone() }
    }

    pub fn forget(&mut self) {
        for stream in self.streams.drain().map(|(_, stream)| stream) {
            self.queues[stream.index].push(Op::End(Arc::default()));
        }
        self.events.clear();
        self.retained.clear();
        self.device.clear();
        self.pinned.values_mut().for_each(|pinned| pinned.freed = true);
        self.violations.clear();
    }

    pub fn create_event(&mut self, context: u64) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 256;
        self.events.insert(handle, Event { context, record: None });
        handle
    }

    pub fn event(&mut self, handle: u64) -> CallResult<&mut Option<Record>> {
        if !self.events.contains_key(&handle) {
            self.violation(format!("there is no event {handle:#x}"));
        }
        self.events.get_mut(&handle).map(|event| &mut event.record).ok_or(ALREADY_DESTROYED)
    }

    pub fn destroy_event(&mut self, handle: u64) -> CallResult {
        self.event(handle)?;
        self.events.remove(&handle);
        Ok(())
    }

    pub fn report(&mut self) -> String {
        let lines = [
            ("contexts", self.retained.values().map(|&count| count as usize).sum()),
            ("streams", self.streams.keys().filter(|handle| !LEGACY.contains(handle)).count()),
            ("events", self.events.len()),
            ("allocations", self.device.len()),
            ("pinned", self.pinned.values().filter(|pinned| !pinned.freed).count()),
        ];
        let mut report: String = lines.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        for violation in self.violations.drain(..) {
            report.push_str(&format!("violation {violation}\n"));
        }
        report
    }
}
