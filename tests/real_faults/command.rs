//! The command `dolmen`, every system call of it that follows its first look at a file failed in turn: it says what the machine did with code 1,
//! and never that the file is damaged, which would be code 3.

use crate::calls::{Tally, faults, random};
use crate::common::in_parallel;
use crate::errand::Ended;
use crate::opens::Open;
use crate::runner::{Test, is_full};
use crate::strace::{self, Subject, What, Window};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

pub const TESTS: &[Test] =
    &[("command::a_call_that_fails_is_not_blamed_on_the_file", a_call_that_fails_is_not_blamed_on_the_file)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Right,
    IoError,
    /// A small allocation, or the start of a thread, which the standard library does not survive.
    Aborted,
}

fn a_call_that_fails_is_not_blamed_on_the_file() {
    if !strace::is_available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let file = home.path().join("m.dolmen");
    let out = home.path().join("out.npy");
    let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(|word| word.into()).collect() };
    let path = file.to_str().unwrap();
    let commands = [
        ("inspect", words(&["inspect", path])),
        ("verify", words(&["verify", "--threads", "1", path])),
        ("verify --json", words(&["verify", "--json", "--threads", "1", path])),
        ("validate", words(&["validate", "--threads", "1", path])),
        ("extract", words(&["extract", "--force", path, "pattern", "--output", out.to_str().unwrap()])),
    ];
    let tally = Tally::new();
    let mut random = random();
    for (name, args) in commands {
        let subject = Subject {
            program: env!("CARGO_BIN_EXE_dolmen").into(),
            args,
            directory: home.path().to_owned(),
            window: Window::From(&file),
            only: None,
            threads: true,
        };
        let (trace, right) = subject.record(&home.path().join("trace"));
        // Not a sentence of an errand, but what it says and exits with.
        let Ended::Exit(0, right) = right else { panic!("{name}: {right:?}") };
        let written = fs::read(&out).ok();
        let work = |(at, call, what): &(usize, strace::Call, What)| {
            let trace = tempfile::NamedTempFile::new().unwrap();
            let ran = subject.run(trace.path(), call, *what);
            let to_the_screen = call.line.contains("(1<") || call.line.contains("(2<");
            let outcome = judge(&ran.ended, &right, path, to_the_screen);
            let outcome = outcome.and_then(|outcome| match &written {
                // Extracting writes its file as a save does.
                Some(written) if name == "extract" && fs::read(&out).ok().as_ref() != Some(written) => {
                    Err(format!("the file that was there is gone: {:?}", ran.ended))
                }
                _ => Ok(outcome),
            });
            if ran.happened || outcome.is_err() {
                tally.note(&name, outcome, || format!("{what:?} at call {at}, {}", call.line));
            }
        };
        let faults = faults(&trace, false, &mut random);
        // One of them writes a file, always the same.
        if name == "extract" { faults.iter().for_each(work) } else { in_parallel(&faults, work) }
    }
    tally.finish("faults in the command");
    assert!(tally.total() > if is_full() { 5000 } else { 50 } && tally.count(Outcome::IoError) > 0);
}

fn judge(ended: &Ended, right: &str, file: &str, to_the_screen: bool) -> Result<Outcome, String> {
    match ended {
        Ended::Exit(0, said) if said == right || to_the_screen => Ok(Outcome::Right),
        Ended::Exit(1, said) if to_the_screen || said.contains(file) || names_another(said) => Ok(Outcome::IoError),
        Ended::Signal(..) if ended.is_out_of_memory() => Ok(Outcome::Aborted),
        _ => Err(format!("{ended:?}")),
    }
}

/// Of what is written, it is the file that is written that is named.
fn names_another(said: &str) -> bool {
    said.contains(Path::new("out.npy").to_str().unwrap())
}
