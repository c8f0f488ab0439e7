//! Runs a test on NVIDIA's driver or on a simulated one.
//!
//! With `DOLMEN_CUDA_DEVICE=0` (or another number) tests run in their own process, on that GPU: nothing is simulated, and the test program
//! needs nothing but itself, so that it can be copied to a machine with a GPU. Without it each test runs in child processes, which load the
//! driver of `tests/simulated_cuda` and are held to account for what they asked it to do.
//!
//! ```ignore
//! #[test]
//! fn something_works() {
//!     on_cuda(|gpu| {
//!         let cuda = Cuda::new(gpu.ordinal).unwrap();
//!         // …
//!     });
//! }
//! ```
//!
//! A test calls one of the functions here, and once: a child runs the whole test.
//!
//! `DOLMEN_SEED` gives the simulated delays, and whatever a test draws from `Gpu::seed`, other numbers.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libloading::{Library, Symbol};

/// The GPU to use; its driver is only simulated unless it is there.
const REAL_DEVICE: &str = "DOLMEN_CUDA_DEVICE";
/// In a child: the test that it was started for.
const CHILD: &str = "DOLMEN_CUDA_CHILD";
/// How long a child may take. It hangs if it takes longer.
const CHILD_TIME: Duration = Duration::from_secs(120);

/// What a test runs on.
pub struct Gpu {
    pub ordinal: usize,
    /// What a test draws its numbers from.
    pub seed: u64,
    /// The simulated driver, if it is that.
    pub simulated: Option<Simulated>,
}

/// How the driver is simulated.
#[derive(Clone, Debug)]
pub struct Simulation {
    pub devices: usize,
    /// Bytes of memory of a device.
    pub memory: usize,
    /// Whether the driver has memory pools: then memory is allocated and freed in the order of a stream.
    pub pools: bool,
    pub delay_us: u64,
    /// How often the test runs, with other delays each time.
    pub runs: u64,
}

impl Default for Simulation {
    fn default() -> Simulation {
        Simulation { devices: 1, memory: 1 << 30, pools: true, delay_us: 200, runs: 2 }
    }
}

/// Runs a test on a GPU, or on simulated ones: with memory pools and without.
pub fn on_cuda<F: Fn(&Gpu)>(body: F) {
    on_cuda_with(&[Simulation::default(), Simulation { pools: false, ..Simulation::default() }], body);
}

/// Runs a test on a GPU, or on these simulated ones.
pub fn on_cuda_with<F: Fn(&Gpu)>(simulations: &[Simulation], body: F) {
    if let Ok(ordinal) = std::env::var(REAL_DEVICE) {
        let ordinal = ordinal.parse().expect("DOLMEN_CUDA_DEVICE is a number");
        return body(&Gpu { ordinal, seed: first_seed(), simulated: None });
    }
    simulate(test_name::<F>(), simulations, body);
}

/// Runs a test on simulated drivers only: skipped, loudly, where there is a GPU to run on.
pub fn on_simulated_cuda<F: Fn(&Gpu)>(simulations: &[Simulation], body: F) {
    let test = test_name::<F>();
    if std::env::var_os(REAL_DEVICE).is_some() {
        return skip(test, "it is one of the simulated driver");
    }
    simulate(test, simulations, body);
}

fn simulate(test: &str, simulations: &[Simulation], body: impl Fn(&Gpu)) {
    if is_child(test) {
        let simulated = Simulated::load();
        body(&Gpu { ordinal: 0, seed: first_seed(), simulated: Some(simulated) });
        let report = Simulated::load().report();
        assert_eq!(report.violations, Vec::<String>::new());
        assert!(report.alive.values().all(|&count| count == 0), "still alive: {:?}", report.alive);
        return;
    }
    let Some(library) = simulated_library(test) else { return };
    for simulation in simulations {
        for run in 0..simulation.runs {
            let seed = first_seed().wrapping_add(run);
            let child = child(test, Some(&library), &simulation.environment(seed));
            assert!(child.passed, "{simulation:?}, DOLMEN_SEED={seed}:\n{}", child.output);
        }
    }
}

/// Runs a test without any driver: skipped, loudly, where there is one.
pub fn without_cuda<F: Fn()>(body: F) {
    let test = test_name::<F>();
    if std::env::var_os(REAL_DEVICE).is_some() {
        return skip(test, "there is a driver");
    }
    if !is_child(test) {
        let child = child(test, None, &[]);
        print!("{}", child.output);
        return assert!(child.passed, "{}", child.output);
    }
    // SAFETY: what the code under test does next, too.
    let found = ["libcuda.so", "libcuda.so.1", "nvcuda.dll"].iter().any(|name| unsafe { Library::new(*name) }.is_ok());
    if found { skip(test, "there is a driver") } else { body() }
}

/// Runs a test with the simulated driver once for each of the driver's functions, which its library then lacks.
pub fn with_each_function_missing<F: Fn(&str)>(body: F) {
    const MISSING: &str = "DOLMEN_CUDA_MISSING";
    let test = test_name::<F>();
    if std::env::var_os(REAL_DEVICE).is_some() {
        return skip(test, "a driver that has everything is there");
    }
    if is_child(test) {
        return body(&std::env::var(MISSING).unwrap());
    }
    let Some(library) = simulated_library(test) else { return };
    let bytes = fs::read(library.join(LIBRARY_NAMES[0])).unwrap();
    let functions = function_names(&bytes);
    assert!(functions.len() > 20, "{functions:?}");
    for function in functions {
        let lacking = tempfile::tempdir().unwrap();
        let changed = without_function(&bytes, &function);
        for name in LIBRARY_NAMES {
            fs::write(lacking.path().join(name), &changed).unwrap();
        }
        let child = child(test, Some(lacking.path()), &[(MISSING, function.clone())]);
        assert!(child.passed, "without {function}:\n{}", child.output);
    }
}

/// Says that a test was not run.
pub fn skip(test: &str, reason: &str) {
    eprintln!("!!! SKIPPED {test}: {reason}");
}

fn first_seed() -> u64 {
    std::env::var("DOLMEN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0)
}

/// The name of the test that a closure was written in, as the test program knows it: without the crate, and without the closure.
fn test_name<F>() -> &'static str {
    let name = std::any::type_name::<F>();
    let name = name.strip_suffix("::{{closure}}").expect("the test is a closure");
    name.split_once("::").expect("the closure is in a function").1
}

fn is_child(test: &str) -> bool {
    let Ok(name) = std::env::var(CHILD) else { return false };
    assert_eq!(name, test, "the child runs another test");
    println!("{}", ran(test));
    true
}

/// What a child prints, so that one that ran no test is not taken for one that passed.
fn ran(test: &str) -> String {
    format!("the child runs {test}")
}

struct Child {
    passed: bool,
    output: String,
}

/// Runs one test of this program again, in a process that finds a driver in a directory, or none.
fn child(test: &str, driver: Option<&Path>, environment: &[(&str, String)]) -> Child {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(CHILD, test)
        .env_remove("LD_LIBRARY_PATH")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    if let Some(driver) = driver {
        command.env("LD_LIBRARY_PATH", driver);
    }
    // Both write at the end of the log.
    let append = fs::OpenOptions::new().append(true).open(log.path()).unwrap();
    command.stdout(append.try_clone().unwrap()).stderr(append);
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if started.elapsed() < CHILD_TIME => std::thread::sleep(Duration::from_millis(5)),
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
        }
    };
    let mut output = fs::read_to_string(log.path()).unwrap();
    match status {
        Some(status) => output.push_str(&format!("\nthe child ended with {status}\n")),
        None => output.push_str(&format!("\nthe child hung for {CHILD_TIME:?}\n")),
    }
    let passed = status.is_some_and(|status| status.success()) && output.contains(&ran(test));
    Child { passed, output }
}

/// Both are looked for: the first by cudarc, the second by everything else.
const LIBRARY_NAMES: [&str; 2] = ["libcuda.so", "libcuda.so.1"];

/// The directory with the simulated driver, which is built for it. `None`, loudly, where it cannot be.
fn simulated_library(test: &str) -> Option<PathBuf> {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulated_cuda");
    if !cfg!(target_os = "linux") {
        skip(test, "the simulated driver is one for Linux");
        return None;
    }
    if !source.is_dir() {
        skip(test, "the simulated driver is in the repository, and not in the package");
        return None;
    }
    let library = LIBRARY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated_cuda");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--offline", "--locked", "--manifest-path"])
            .arg(source.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()
            .unwrap();
        assert!(built.success(), "the simulated driver cannot be built");
        let directory = target.join("library");
        fs::create_dir_all(&directory).unwrap();
        for name in LIBRARY_NAMES {
            // Renamed into place: another test program may have it loaded.
            let temporary = tempfile::NamedTempFile::new_in(&directory).unwrap();
            fs::copy(target.join("debug/libcuda.so"), temporary.path()).unwrap();
            temporary.persist(directory.join(name)).unwrap();
        }
        directory
    });
    Some(library.clone())
}

/// The driver's functions that a library exports: the names in its table of strings that look like one.
fn function_names(library: &[u8]) -> Vec<String> {
    let strings = library.split(|&byte| byte == 0);
    let names = strings.filter_map(|string| std::str::from_utf8(string).ok());
    let is_function = |name: &&str| {
        name.strip_prefix("cu").is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_uppercase())
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let mut names: Vec<String> = names.filter(is_function).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A library in whose tables of names a function has another name, so that it is not found.
fn without_function(library: &[u8], function: &str) -> Vec<u8> {
    let pattern = [b"\0", function.as_bytes(), b"\0"].concat();
    let mut changed = library.to_vec();
    let mut at = 0;
    while let Some(found) = changed[at..].windows(pattern.len()).position(|window| window == pattern) {
        changed[at + found + 1] = b'X';
        at += found + 1;
    }
    assert_ne!(changed, library, "{function} is not in the library");
    changed
}

impl Simulation {
    fn environment(&self, seed: u64) -> Vec<(&'static str, String)> {
        vec![
            ("SIMULATED_CUDA_DEVICES", self.devices.to_string()),
            ("SIMULATED_CUDA_MEMORY", self.memory.to_string()),
            ("SIMULATED_CUDA_POOLS", u8::from(self.pools).to_string()),
            ("SIMULATED_CUDA_DELAY_US", self.delay_us.to_string()),
            ("SIMULATED_CUDA_SEED", seed.to_string()),
            ("DOLMEN_SEED", seed.to_string()),
        ]
    }
}

/// The simulated driver, as a test asks it.
pub struct Simulated(Library);

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does nothing.
    Instead = 0,
    /// It is done, and says that something failed.
    After = 1,
    /// It does nothing, and neither does any call after it.
    FromThenOn = 2,
}

/// What the simulated driver has to say.
#[derive(Debug)]
pub struct Report {
    /// How many contexts, streams, events, allocations and pieces of pinned memory are alive.
    pub alive: BTreeMap<String, usize>,
    pub violations: Vec<String>,
    /// The first call that failed as it was told to: its function, and its number.
    pub failed: Option<(String, u64)>,
}

impl Simulated {
    fn load() -> Simulated {
        // SAFETY: the library's initialisers do nothing. It is loaded from `LD_LIBRARY_PATH`.
        let library = unsafe { Library::new(LIBRARY_NAMES[0]) }.unwrap();
        Simulated(library)
    }

    /// Makes the `nth` call from now on fail, of one function or of any.
    pub fn fail(&self, function: Option<&str>, nth: u64, error: u32, failure: Failure) {
        let function = function.map(|name| CString::new(name).unwrap());
        let name = function.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: its type, in the simulated driver. The name outlives the call.
        unsafe {
            let call: Symbol<'_, unsafe extern "C" fn(*const c_char, u64, c_int, c_int)> =
                self.0.get("simulated_cuda_fail").unwrap();
            call(name, nth, error as c_int, failure as c_int);
        }
    }

    /// Lets nothing fail any more. What failed is still reported.
    pub fn fail_no_more(&self) {
        self.fail(None, 0, 0, Failure::Instead);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        // SAFETY: its type, in the simulated driver.
        unsafe { self.0.get::<unsafe extern "C" fn() -> u64>("simulated_cuda_calls").unwrap()() }
    }

    /// Waits for everything, and reports.
    pub fn report(&self) -> Report {
        let mut text = vec![0u8; 1 << 20];
        // SAFETY: its type, in the simulated driver. The buffer is as long as it says.
        let len = unsafe {
            let call: Symbol<'_, unsafe extern "C" fn(*mut u8, usize) -> usize> =
                self.0.get("simulated_cuda_report").unwrap();
            call(text.as_mut_ptr(), text.len())
        };
        text.truncate(len);
        let mut report = Report { alive: BTreeMap::new(), violations: Vec::new(), failed: None };
        for line in String::from_utf8(text).unwrap().lines() {
            match line.split_once(' ').unwrap() {
                ("violation", what) => report.violations.push(what.to_owned()),
                ("failed", what) => {
                    let (function, number) = what.split_once(' ').unwrap();
                    report.failed = Some((function.to_owned(), number.parse().unwrap()));
                }
                (kind, count) => drop(report.alive.insert(kind.to_owned(), count.parse().unwrap())),
            }
        }
        report
    }

    /// Forgets every object that is alive.
    pub fn reset(&self) {
        // SAFETY: its type, in the simulated driver.
        unsafe { self.0.get::<unsafe extern "C" fn()>("simulated_cuda_reset").unwrap()() }
    }
}
