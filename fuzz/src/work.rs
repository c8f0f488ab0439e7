//! Work: what a thread takes of the processor, and how many bytes are read from a source.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dolmen::ReadAt;

/// Runs before a time counts as too long: the work is the same each time, the machine's mood is not.
const RUNS: u32 = 5;

/// How long an allowance is in an optimised build without a sanitizer; others are slower by this.
const SLOWNESS: u32 = if cfg!(debug_assertions) { 12 } else { 4 };

/// What an operation may take: processor time whatever the input, and for each byte of it.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    pub fixed: Duration,
    pub per_byte: Duration,
}

impl Allowance {
    /// Microseconds whatever the input, and nanoseconds for each byte.
    pub const fn of(fixed: u64, per_byte: u64) -> Allowance {
        Allowance { fixed: Duration::from_micros(fixed), per_byte: Duration::from_nanos(per_byte) }
    }
}

/// Processor time that this thread has used.
#[cfg(unix)]
fn used() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(not(unix))]
fn used() -> Duration {
    Duration::ZERO
}

/// Runs something that must be done in a time linear in `bytes`, and gives its result.
///
/// # Panics
/// If it takes longer than is allowed, five times out of five.
pub fn bounded<T>(what: &'static str, allowance: Allowance, bytes: u64, mut run: impl FnMut() -> T) -> T {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let allowed = (allowance.fixed + allowance.per_byte.saturating_mul(bytes)).saturating_mul(SLOWNESS);
    let mut least = Duration::MAX;
    for _ in 0..RUNS {
        let before = used();
        let result = run();
        least = least.min(used().saturating_sub(before));
        if least <= allowed {
            worst::remember(what, least, bytes);
            return result;
        }
    }
    panic!("{what} took {least:?} for {bytes} bytes; {allowed:?} are allowed");
}

/// The most that was seen, for `measure_work` of `tests/corpus.rs`.
pub mod worst {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::Duration;

    #[derive(Clone, Copy, Debug, Default)]
    pub struct Worst {
        pub time: Duration,
        /// Of inputs of 1 KiB and more.
        pub time_per_byte: Duration,
        pub reads: u64,
        /// Bytes read for each byte there is, of inputs of 1 KiB and more.
        pub times_read: f64,
        /// Reads for each KiB, of the same.
        pub reads_per_kib: f64,
    }

    static WORST: Mutex<BTreeMap<String, Worst>> = Mutex::new(BTreeMap::new());

    fn update(what: &str, change: impl FnOnce(&mut Worst)) {
        if cfg!(test) {
            change(WORST.lock().expect("no one panics with it").entry(what.to_owned()).or_default());
        }
    }

    pub(super) fn remember(what: &str, time: Duration, bytes: u32) {
        update(what, |worst| {
            worst.time = worst.time.max(time);
            if bytes >= 1024 {
                worst.time_per_byte = worst.time_per_byte.max(time / bytes);
            }
        });
    }

    pub(super) fn remember_reads(what: &str, read: u64, reads: u64, len: u64) {
        update(what, |worst| {
            worst.reads = worst.reads.max(reads);
            if len >= 1024 {
                worst.times_read = worst.times_read.max(read as f64 / len as f64);
                worst.reads_per_kib = worst.reads_per_kib.max(reads as f64 * 1024.0 / len as f64);
            }
        });
    }

    pub fn list() -> Vec<(String, Worst)> {
        WORST.lock().expect("no one panics with it").clone().into_iter().collect()
    }
}

/// Bytes in memory that count what is read of them.
pub struct Counted<'a> {
    bytes: &'a [u8],
    read: AtomicU64,
    reads: AtomicU64,
}

impl<'a> Counted<'a> {
    pub fn new(bytes: &'a [u8]) -> Counted<'a> {
        Counted { bytes, read: AtomicU64::new(0), reads: AtomicU64::new(0) }
    }

    /// Checks that each byte was read `times` at most, on average, and 64 KiB besides, in no more reads than one for each `piece` bytes
    /// and 64 besides.
    pub fn check(&self, what: &str, times: u64, piece: u64) {
        let (len, read, reads) =
            (self.bytes.len() as u64, self.read.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed));
        assert!(read <= times * len + (64 << 10), "{what} read {read} bytes of a file of {len}");
        assert!(reads <= 64 + times * len / piece, "{what} made {reads} reads of a file of {len} bytes");
        worst::remember_reads(what, read, reads, len);
    }
}

impl ReadAt for Counted<'_> {
    fn byte_len(&self) -> std::io::Result<u64> {
        self.bytes.byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.read_exact_at(buffer, offset)
    }
}
