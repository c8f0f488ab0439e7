//! System calls of a process recorded, and then one of them made to fail, or to be the last.

use crate::errand::{Ended, Mark, tamed};
use crate::runner::skip;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Those that flush or rename: watched in every run.
const ORDERED: [&str; 9] =
    ["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync", "rename", "renameat", "renameat2"];

/// Whether processes can be traced here; if not, that is said and counted once.
pub fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let found = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
        let reason = match found {
            Ok(output) if output.status.success() => return true,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(e) => e.to_string(),
        };
        skip(format!("every system call failed in turn: strace cannot be used ({reason})"));
        false
    })
}

/// A system call in a trace.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// How many of that name its thread has made with it.
    pub nth: usize,
    /// How many of that name there are in the window with it, in all threads.
    pub nth_in_window: usize,
    /// What was traced, without the process.
    pub line: String,
}

/// What a run without faults does between its marks.
#[derive(Debug)]
pub struct Trace {
    pub calls: Vec<Call>,
    /// The first call after the window, if it can be told apart: being killed at it is being killed after the last one.
    pub after: Option<Call>,
}

impl Trace {
    /// The place of the last flush, beyond which a save has been made durable.
    pub fn last_flush(&self) -> Option<usize> {
        self.calls.iter().rposition(|call| call.name == "fsync")
    }

    pub fn count(&self, name: &str) -> usize {
        self.calls.iter().filter(|call| call.name == name).count()
    }
}

/// A process that can be run again and again, each time in a room that was made anew.
pub struct Subject<'a> {
    pub program: OsString,
    pub args: Vec<OsString>,
    /// Where it works.
    pub directory: PathBuf,
    pub window: Window<'a>,
    /// Looks at the calls that concern this file alone, in all threads: the Nth of them, in each. Otherwise at all calls of the first thread.
    pub only: Option<PathBuf>,
    /// Whether it works on several threads: which of them makes a call is another thing each time.
    pub threads: bool,
}

/// Which calls of it are looked at.
#[derive(Clone, Copy)]
pub enum Window<'a> {
    /// Those between the marks.
    Marks,
    /// Those from the first that names a file on, to the end.
    From(&'a Path),
}

impl Window<'_> {
    fn begins(&self, line: &str) -> bool {
        match self {
            Window::Marks => line.contains(Mark::Begin.path()),
            Window::From(path) => line.contains(path.to_str().unwrap()) && !line.starts_with("execve("),
        }
    }

    /// Whether the line that begins it is a part of it.
    fn includes_its_begin(&self) -> bool {
        matches!(self, Window::From(_))
    }

    fn ended(&self, output: &Output) -> Ended {
        match self {
            Window::Marks => Ended::of(output),
            Window::From(_) => Ended::of_any(output),
        }
    }

    fn ends(&self, line: &str) -> bool {
        match self {
            Window::Marks => line.contains(Mark::End.path()),
            Window::From(_) => line.starts_with("exit_group("),
        }
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It fails and does nothing.
    Fails(&'static str),
    /// It and all later ones of its name do.
    FailsFromThenOn(&'static str),
    /// The process is killed before it is made.
    Killed,
}

/// What came of a run.
#[derive(Debug)]
pub struct Ran {
    pub ended: Ended,
    /// Whether it happened, as it always does without threads.
    pub happened: bool,
    /// Flushes and renames, and calls of the name that was made to fail, in the window.
    pub lines: Vec<String>,
}

impl Subject<'_> {
    fn command(&self, trace: &Path, options: &[String]) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "16", "-o"]).arg(trace).args(options);
        if let Some(path) = &self.only {
            command.args(["-P", Mark::Begin.path(), "-P", Mark::End.path(), "-P"]).arg(path);
        }
        command.arg("--");
        command.arg(&self.program).args(&self.args).current_dir(&self.directory);
        tamed(command)
    }

    /// Runs it with nothing happening; gives what it did and how it ended.
    pub fn record(&self, trace: &Path) -> (Trace, Ended) {
        let output = self.command(trace, &[]).output().unwrap();
        let lines = started(&fs::read_to_string(trace).unwrap());
        let first = lines.first().map(|(thread, _)| thread.clone());
        let (mut inside, mut ended) = (false, false);
        let mut made: BTreeMap<(String, String), usize> = BTreeMap::new();
        let mut in_window: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = Trace { calls: Vec::new(), after: None };
        for (thread, line) in lines {
            let Some((name, _)) = line.split_once('(') else { continue };
            if self.only.is_none() && Some(&thread) != first.as_ref() {
                continue;
            }
            let nth = made.entry((thread, name.to_owned())).or_default();
            *nth += 1;
            let begins = !inside && !ended && self.window.begins(&line);
            if begins {
                inside = true;
                if !self.window.includes_its_begin() {
                    continue;
                }
            }
            if inside {
                ended = self.window.ends(&line);
                let nth_in_window = in_window.entry(name.to_owned()).or_default();
                *nth_in_window += usize::from(!ended);
                let call = Call { name: name.to_owned(), nth: *nth, nth_in_window: *nth_in_window, line };
                if ended {
                    inside = false;
                    found.after = Some(call);
                } else {
                    found.calls.push(call);
                }
            }
        }
        assert!(ended && !found.calls.is_empty(), "no window in the trace: {output:?}");
        (found, self.window.ended(&output))
    }

    /// Runs it with something happening to one call.
    ///
    /// # Panics
    /// If it did not happen, or to another call: then the runs are not the same, and the test means nothing.
    pub fn run(&self, trace: &Path, call: &Call, what: What) -> Ran {
        let (which, inject) = match what {
            What::Fails(errno) => (call.nth.to_string(), format!("error={errno}")),
            What::FailsFromThenOn(errno) => (format!("{}+", call.nth), format!("error={errno}")),
            What::Killed => (call.nth.to_string(), "signal=KILL".to_owned()),
        };
        let watched: Vec<String> = ORDERED.iter().map(|name| format!("?{name}")).collect();
        // The marks are calls of one of these, and so are those that name a file first.
        let trace_these = format!("trace=?statx,?newfstatat,exit_group,{},{}", call.name, watched.join(","));
        let inject = format!("inject={}:{inject}:when={which}", call.name);
        let options = ["-e".into(), trace_these, "-e".into(), inject];
        let output = self.command(trace, &options).output().unwrap();
        let ended = self.window.ended(&output);
        let text = fs::read_to_string(trace).unwrap();

        let started = started(&text);
        let first = started.first().map(|(thread, _)| thread.clone());
        let seen = |thread: &String| self.only.is_some() || Some(thread) == first.as_ref();
        let lines: Vec<String> = started.into_iter().filter(|(thread, _)| seen(thread)).map(|(_, line)| line).collect();
        let begin = lines.iter().position(|line| self.window.begins(line));
        let window: Vec<String> = match self.window {
            Window::Marks => {
                let begin = begin.unwrap_or_else(|| panic!("{what:?} came too early: {output:?}, {call:?}"));
                lines[begin + 1..].to_vec()
            }
            Window::From(_) => lines[begin.unwrap_or(0)..].to_vec(),
        };
        let of_name = |line: &&String| line.split_once('(').is_some_and(|(name, _)| name == call.name);
        let happened = match what {
            What::Killed => matches!(ended, Ended::Signal(9, _)),
            _ => text.contains("(INJECTED)"),
        };
        // Whether the call that it happened to is the one that was recorded. Of several threads it may be another's.
        let is_the_same = match self.window {
            Window::Marks if self.threads => true,
            Window::Marks => {
                let at = match what {
                    What::Killed => window.iter().filter(of_name).count(),
                    _ => {
                        let injected = |line: &String| line.contains("(INJECTED)");
                        let place = window.iter().filter(of_name).position(injected);
                        place.map_or(0, |place| place + 1)
                    }
                };
                let is_mark = call.line.contains(Mark::End.path());
                is_mark || at == call.nth_in_window
            }
            Window::From(_) => true,
        };
        let as_it_should = is_the_same && (happened || self.threads);
        assert!(as_it_should, "{what:?} did not happen to {call:?}: {ended:?}\n{window:#?}");
        Ran { ended, happened, lines: window }
    }
}

/// The calls of a trace in the order in which they began, each with its thread.
fn started(trace: &str) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        match rest.strip_prefix("<... ") {
            // The end of one that had begun when another thread did something.
            Some(end) => {
                let last = calls.iter_mut().rev().find(|(of, line)| of == thread && line.ends_with("<unfinished ...>"));
                if let Some((_, begun)) = last {
                    let end = end.split_once("resumed>").map_or("", |(_, end)| end);
                    *begun = begun.replace("<unfinished ...>", end);
                }
            }
            None => calls.push((thread.to_owned(), rest.to_owned())),
        }
    }
    calls
}

/// Errors that a call of this name can plausibly give; none for those that cannot fail, or whose failing no program survives.
pub fn errnos(name: &str) -> &'static [&'static str] {
    const FILES: &[&str] = &[
        "EIO",
        "ENOSPC",
        "EDQUOT",
        "EINTR",
        "EACCES",
        "EMFILE",
        "ENFILE",
        "EROFS",
        "ENOMEM",
        "EFBIG",
        "ESTALE",
        "EINVAL",
        "EOPNOTSUPP",
        "EPERM",
        "EEXIST",
        "ENOENT",
        "ENOSYS",
        "EBUSY",
        "ETXTBSY",
    ];
    match name {
        "flock" => &["EIO", "EINTR", "EAGAIN", "ENOLCK", "EINVAL", "EOPNOTSUPP", "ENOMEM", "ESTALE", "ENOSYS"],
        "getrandom" => &["EINTR", "ENOSYS", "EPERM"],
        "mmap" => &["ENOMEM", "EACCES", "EAGAIN", "ENODEV", "EPERM", "EINVAL", "ENFILE", "EIO"],
        "mremap" | "mprotect" => &["ENOMEM", "EACCES"],
        "munmap" => &["ENOMEM", "EINVAL"],
        "madvise" => &["EAGAIN", "EINVAL", "ENOMEM", "EIO", "ENOSYS", "EPERM"],
        "clone" | "clone3" => &["EAGAIN", "ENOMEM", "EPERM", "ENOSYS"],
        "sched_getaffinity" => &["EINVAL", "EPERM", "ENOSYS"],
        "ioctl" => &["EIO", "ENOTTY", "EINVAL", "EPERM"],
        // The kernel says that it gives no more by giving the same again, which is no error. A `futex` or `clock_nanosleep` fails by a defect of
        // the program; the others set up or end a thread, where the standard library does not return from a failure.
        "brk" | "futex" | "clock_nanosleep" | "sched_yield" | "rt_sigprocmask" | "rt_sigaction" | "sigaltstack"
        | "rseq" | "set_robust_list" | "prctl" | "exit" | "exit_group" | "gettid" | "getpid" | "tgkill" | "getuid"
        | "geteuid" => &[],
        _ => FILES,
    }
}
