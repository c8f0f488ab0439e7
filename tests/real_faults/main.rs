//! Faults in the real process: system calls that fail, processes that are killed, disks that are full, limits that are small.
//!
//! Each test starts this very program again, as a saver or an opener ([`errand`]), lets something happen to it and looks at what is left. What may be
//! left is said once, in [`saves`] and [`opens`]; the other files are ways to make things happen.
//!
//! A part that needs root, or a tool that is not there, is skipped, said and counted; with `DOLMEN_REQUIRE_ALL=1` a skip is a failure. A plain run
//! takes a sample of everything; `DOLMEN_FAULTS=full` takes all, for some minutes, and `DOLMEN_KILLS=10000` is how often a process is killed at
//! random. `DOLMEN_SEED` gives another sample and other moments.
//!
//! The full form, with what came of it:
//! `DOLMEN_FAULTS=full DOLMEN_KILLS=10000 cargo test --test real_faults -- --nocapture`

#[cfg(target_os = "linux")]
#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod command;
#[cfg(target_os = "linux")]
mod disk;
#[cfg(target_os = "linux")]
mod errand;
#[cfg(target_os = "linux")]
mod kills;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(target_os = "linux")]
mod opens;
#[cfg(target_os = "linux")]
mod runner;
#[cfg(target_os = "linux")]
mod saves;
#[cfg(target_os = "linux")]
mod short;
#[cfg(target_os = "linux")]
mod strace;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == errand::FLAG => errand::run(rest),
        _ => runner::run(
            &[calls::TESTS, command::TESTS, short::TESTS, disk::TESTS, limits::TESTS, kills::TESTS].concat(),
            &args,
        ),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("SKIPPED 1: faults in the real process, which are made with the tools of Linux");
}
