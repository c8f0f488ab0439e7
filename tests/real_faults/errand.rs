//! This program once more, as the process that things happen to.

use crate::opens::Open;
use crate::saves::Save;
use crate::{disk, kills};
use dolmen::lifecycle::{Pipeline, ResumeOptions, Stage};
use dolmen::{Error, ErrorKind, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

/// What the arguments of such a process begin with.
pub const FLAG: &str = "--errand";

/// The variables that limit it, and what they limit.
const LIMITS: [(&str, Resource); 3] =
    [("DOLMEN_NOFILE", Resource::Nofile), ("DOLMEN_FSIZE", Resource::Fsize), ("DOLMEN_CORE", Resource::Core)];

/// A call of no effect that tells where in a trace the work begins and ends.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    Begin,
    End,
}

impl Mark {
    /// The path that is asked for, and does not exist.
    pub fn path(self) -> &'static str {
        match self {
            Mark::Begin => "/dolmen-fault-begin",
            Mark::End => "/dolmen-fault-end",
        }
    }
}

fn mark(mark: Mark) {
    let _ = std::fs::metadata(mark.path());
}

/// Does what the arguments say, in this process.
pub fn run(args: &[OsString]) -> ExitCode {
    for (variable, resource) in LIMITS {
        if let Ok(value) = std::env::var(variable) {
            let value = value.parse().unwrap();
            setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).unwrap();
        }
    }
    let text = |at: usize| args[at].to_str().unwrap();
    let path = |at: usize| Path::new(&args[at]);
    match text(0) {
        "save" => report(Save::named(text(1)).perform(path(2), &mark).map(|()| "saved".into())),
        "open" => report(Open::named(text(1)).perform(path(2), &mark)),
        "stage" => report(run_a_stage(path(2)).map(|()| "done".into())),
        "fill" => disk::fill(path(1), text(2).parse().unwrap()),
        "loop" => kills::save_for_ever(text(1), text(2), path(3), text(4).parse().unwrap()),
        errand => panic!("unknown errand {errand}"),
    }
    ExitCode::SUCCESS
}

/// Runs a pipeline of one stage, whose output it writes as any program would.
fn run_a_stage(room: &Path) -> Result<()> {
    let pipeline = Pipeline::new(room).stage(Stage::new("FEATURES"));
    let said = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Io, e.to_string());
    let mut run = pipeline.resume(&ResumeOptions::new()).map_err(|e| said(&e))?;
    let done = run.run_all(|stage| {
        std::fs::write(stage.path("output.txt"), "all of it").unwrap();
        stage.add_output("output.txt");
        mark(Mark::Begin);
        Ok::<(), Error>(())
    });
    mark(Mark::End);
    done.map(drop).map_err(|e| said(&e))
}

fn report(result: Result<String>) {
    let line = match result {
        Ok(what) => format!("ok {what}\n"),
        Err(e) => format!("error {} {}\n", e.kind().name(), e.to_string().replace('\n', " ")),
    };
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// The arguments with which this program runs an errand.
pub fn args(errand: &str, name: &str, room: &Path) -> Vec<OsString> {
    vec![FLAG.into(), errand.into(), name.into(), room.into()]
}

/// This program.
pub fn program() -> OsString {
    std::env::current_exe().unwrap().into()
}

/// A command that runs this program with these arguments.
pub fn command(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program());
    command.args(args);
    tamed(command)
}

/// A command without input, core files, or traces of panics.
pub fn tamed(mut command: Command) -> Command {
    command.stdin(Stdio::null()).env("DOLMEN_CORE", "0").env_remove("RUST_BACKTRACE");
    command
}

/// How such a process ended.
#[derive(Clone, Debug)]
pub enum Ended {
    Ok(String),
    Error { kind: String, message: String },
    Exit(i32, String),
    Signal(i32, String),
}

impl Ended {
    /// Of an errand, with what it reports.
    pub fn of(output: &Output) -> Ended {
        let out = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            if let Some(what) = out.strip_prefix("ok ") {
                return Ended::Ok(what.trim_end().into());
            }
            if let Some((kind, message)) = out.strip_prefix("error ").and_then(|line| line.split_once(' ')) {
                return Ended::Error { kind: kind.into(), message: message.trim_end().into() };
            }
        }
        Ended::of_any(output)
    }

    /// Of any other program.
    pub fn of_any(output: &Output) -> Ended {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        match output.status.signal() {
            Some(signal) => Ended::Signal(signal, text(&output.stderr)),
            None => {
                let said = format!("{} {}", text(&output.stdout), text(&output.stderr));
                Ended::Exit(output.status.code().unwrap_or(-1), said)
            }
        }
    }

    /// Whether Rust ended the process because a small allocation failed: no library can prevent that.
    pub fn is_out_of_memory(&self) -> bool {
        const SIGABRT: i32 = 6;
        matches!(self, Ended::Signal(SIGABRT, err) if err.contains("memory allocation of"))
    }
}
