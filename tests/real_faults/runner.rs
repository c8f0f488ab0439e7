//! Runs the tests one after the other and counts what had to be skipped.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A test and its name.
pub type Test = (&'static str, fn());

static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says that something is not tested here, and why; once, if several tests say it.
pub fn skip(what: impl Into<String>) {
    let what = what.into();
    let mut skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    if !skipped.contains(&what) {
        println!("SKIPPED: {what}");
        skipped.push(what);
    }
}

/// Whether everything is to be done, rather than a sample.
pub fn is_full() -> bool {
    std::env::var("DOLMEN_FAULTS").is_ok_and(|value| value == "full")
}

/// A number from the environment.
pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// What the arguments of the usual harness ask for, as far as it makes a difference here.
#[derive(Default)]
struct Wanted {
    filters: Vec<String>,
    without: Vec<String>,
    exact: bool,
    list: bool,
    ignored_only: bool,
}

impl Wanted {
    fn of(args: &[OsString]) -> Wanted {
        let mut wanted = Wanted::default();
        let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--exact" => wanted.exact = true,
                "--list" => wanted.list = true,
                "--ignored" => wanted.ignored_only = true,
                "--skip" => wanted.without.extend(args.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => drop(args.next()),
                _ if arg.starts_with('-') => {}
                _ => wanted.filters.push(arg),
            }
        }
        wanted
    }

    fn takes(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        !self.ignored_only
            && (self.filters.is_empty() || self.filters.iter().any(matches))
            && !self.without.iter().any(matches)
    }
}

/// Runs the tests that the arguments ask for.
pub fn run(tests: &[Test], args: &[OsString]) -> ExitCode {
    let wanted = Wanted::of(args);
    let taken: Vec<&Test> = tests.iter().filter(|(name, _)| wanted.takes(name)).collect();
    if wanted.list {
        taken.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", taken.len());
    let mut failed = Vec::new();
    for (name, test) in &taken {
        let begun = Instant::now();
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {} ({:.1} s)", if passed { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
        if !passed {
            failed.push(*name);
        }
    }
    let skipped = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    println!("SKIPPED {}: {}", skipped.len(), if skipped.is_empty() { "nothing".into() } else { skipped.join("; ") });
    let all_required = std::env::var_os("DOLMEN_REQUIRE_ALL").is_some_and(|value| value == "1");
    if all_required && !skipped.is_empty() {
        failed.push("nothing may be skipped with DOLMEN_REQUIRE_ALL=1");
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed", taken.len().saturating_sub(failed.len()), failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(101) }
}
