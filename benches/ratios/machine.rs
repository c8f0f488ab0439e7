//! Where the benches run: sizes, directory, page cache, memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// What to measure, and where.
pub struct Machine {
    directory: PathBuf,
    /// MiB of data.
    pub mib: usize,
    rounds: Option<usize>,
    smoke: bool,
}

fn setting(name: &str) -> Option<usize> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, which is no number")))
}

impl Machine {
    pub fn new(smoke: bool) -> Machine {
        let parent = std::env::var_os("DOLMEN_BENCH_DIR").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
        let directory = parent.join(format!("dolmen-bench-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mib = setting("DOLMEN_BENCH_MIB").unwrap_or(if smoke { 16 } else { 1024 });
        assert!(mib >= 1, "DOLMEN_BENCH_MIB is 0");
        Machine { directory, mib, rounds: setting("DOLMEN_BENCH_ROUNDS"), smoke }
    }

    /// A file of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// How often to measure each case.
    pub fn rounds(&self, usual: usize) -> usize {
        self.rounds.unwrap_or(if self.smoke { 1 } else { usual })
    }

    /// After how long to stop early, unless the number of rounds was asked for.
    pub fn at_most(&self, seconds: u64) -> Duration {
        Duration::from_secs(if self.rounds.is_some() { u64::MAX } else { seconds })
    }

    /// The numbers of tensors to open files of.
    pub fn tensor_counts(&self) -> &'static [usize] {
        if self.smoke { &[10, 1_000] } else { &[10, 1_000, 10_000, 100_000] }
    }

    /// Data that no compression or hole can shorten.
    pub fn data(&self) -> Vec<f32> {
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let words = (self.mib << 20) / 4;
        let mut data = Vec::with_capacity(words);
        for _ in 0..words {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Numbers between 1 and 2: every bit pattern a number, none a NaN.
            data.push(f32::from_bits(0x3F80_0000 | (state >> 41) as u32));
        }
        data
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn first_line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "?".into(), |text| text.lines().next().unwrap_or("?").to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let release = first_line("/proc/sys/kernel/osrelease");
        let busy = first_line("/proc/loadavg");
        writeln!(f, "{} MiB of data in {}", self.mib, self.directory.display())?;
        writeln!(f, "processor{model}, {threads} threads; kernel {release}; load average {busy}")
    }
}

/// Makes sure that a file is on the disk, so that [`make_cold`] can drop it.
pub fn settle(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Asks for a file's bytes to leave the page cache; `false` if that cannot be asked here.
pub fn make_cold(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        let file = File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

/// Writes back everything that waits for the disk, that of other programs too.
pub fn quiet_disk() {
    #[cfg(target_os = "linux")]
    rustix::fs::sync();
}

/// The system's allocator, which counts while it is asked to.
pub struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grown(by: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        let now = NOW.fetch_add(by, Ordering::Relaxed) + by;
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

fn shrunk(by: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        // What was there before counting began may go now.
        let _ = NOW.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(by)));
    }
}

// SAFETY: every call is passed on to the system's allocator as it came, and what that gives is given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller keeps the same promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller keeps the same promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: the caller keeps the same promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        // Both are there while the bytes are moved.
        grown(new_len);
        shrunk(layout.size());
        // SAFETY: the caller keeps the same promises.
        unsafe { System.realloc(at, layout, new_len) }
    }
}

/// The most heap memory, in bytes, that `f` holds at once, over what there was before; and by how much the process's peak of
/// resident memory grew, in bytes, where the system tells that.
pub fn extra_memory(f: impl FnOnce()) -> (usize, Option<usize>) {
    // The peak begins anew.
    let reset = fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = resident("VmRSS:");
    NOW.store(0, Ordering::Relaxed);
    PEAK.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    f();
    COUNTING.store(false, Ordering::Relaxed);
    let resident = before.zip(resident("VmHWM:")).map(|(before, peak)| peak.saturating_sub(before));
    (PEAK.load(Ordering::Relaxed), resident.filter(|_| reset))
}

fn resident(what: &str) -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}
