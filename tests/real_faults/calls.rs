//! Every system call of a save and of an open failed in turn with every errno, and the process killed at each.
//!
//! A run without faults is traced first; then the Nth call of a name fails, for every call between the marks. A killed process does not make the
//! call at which it is killed; killed at the next one, it has made it. That a call has its effect and fails all the same is beyond strace: the
//! file system in memory of `tests/faults.rs` does that.

use crate::common::{Random, in_parallel};
use crate::errand::{Ended, args, program};
use crate::opens::{self, Open};
use crate::runner::{Test, is_full, number};
use crate::saves::{Expected, Happening, Outcome, Save};
use crate::strace::{self, Call, Ran, Subject, Trace, What, Window, errnos};
use dolmen::lifecycle::{PipelineState, STATE_FILE, StageStatus};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub const TESTS: &[Test] = &[
    ("calls::a_save_flushes_renames_and_flushes_in_this_order", a_save_flushes_renames_and_flushes_in_this_order),
    ("calls::a_save_survives_every_call_failing_and_being_killed", a_save_survives_every_call_failing_and_being_killed),
    (
        "calls::a_stage_whose_output_cannot_be_flushed_is_not_complete",
        a_stage_whose_output_cannot_be_flushed_is_not_complete,
    ),
    ("calls::an_open_survives_every_call_failing", an_open_survives_every_call_failing),
    ("calls::an_interrupted_look_at_a_file_is_repeated", an_interrupted_look_at_a_file_is_repeated),
    ("calls::a_log_is_cleared_without_a_working_directory", a_log_is_cleared_without_a_working_directory),
];

/// How often each thing came out, by what was done.
pub struct Tally<O> {
    counts: Mutex<BTreeMap<(String, O), usize>>,
    wrong: Mutex<Vec<String>>,
}

impl<O: Ord + Copy + Debug> Tally<O> {
    pub fn new() -> Tally<O> {
        Tally { counts: Mutex::default(), wrong: Mutex::default() }
    }

    pub fn note(&self, of: &impl Debug, outcome: Result<O, String>, story: impl Fn() -> String) {
        match outcome {
            Ok(outcome) => {
                let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
                *counts.entry((format!("{of:?}"), outcome)).or_default() += 1;
            }
            Err(e) => {
                let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
                wrong.push(format!("{of:?}: {}: {e}", story()));
            }
        }
    }

    pub fn total(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    pub fn count(&self, outcome: O) -> usize {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().filter(|((_, found), _)| *found == outcome).map(|(_, count)| count).sum()
    }

    /// Prints all, and fails if there is anything that may not be.
    pub fn finish(&self, what: &str) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{what}: {}", counts.values().sum::<usize>());
        let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((of, outcome), count) in counts.iter() {
            lines.entry(of).or_default().push(format!("{outcome:?} {count}"));
        }
        for (of, outcomes) in lines {
            println!("    {of}: {}", outcomes.join(", "));
        }
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        for story in wrong.iter().take(20) {
            println!("WRONG: {story}");
        }
        assert!(wrong.is_empty(), "{} outcomes that are not allowed", wrong.len());
    }
}

/// What is done to the calls of a trace: all, or a sample of them.
pub fn faults(trace: &Trace, kills: bool, random: &mut Random) -> Vec<(usize, Call, What)> {
    let mut faults = Vec::new();
    for (at, call) in trace.calls.iter().enumerate() {
        let (mut once, mut for_ever) = (Vec::new(), Vec::new());
        for errno in errnos(&call.name) {
            // That a name does not exist is an answer: a new file is saved, with the mode of one; a link is replaced; and of a log that does not
            // exist nothing has to be removed.
            let looks = call.line.contains("AT_SYMLINK_NOFOLLOW");
            let opens = call.line.contains("failed_checkpoints.txt\", O_RDWR|O_NONBLOCK");
            if *errno == "ENOENT" && (looks || opens) {
                continue;
            }
            once.push(What::Fails(errno));
            // A call that is always interrupted, or a lock that is always held, is waited for.
            if !matches!(*errno, "EINTR" | "EAGAIN") {
                for_ever.push(What::FailsFromThenOn(errno));
            }
        }
        let mut all = [once.clone(), for_ever.clone()].concat();
        if !is_full() {
            // Every third call, but all that matter most.
            let matters = ["pwrite64", "fsync", "renameat", "renameat2", "unlinkat", "ftruncate", "fallocate"];
            let taken = matters.contains(&call.name.as_str()) || random.below(3) == 0;
            let mut pick = |from: &[What]| from.get(random.below(from.len())).copied();
            all = pick(&once).into_iter().filter(|_| taken).chain(pick(&for_ever).filter(|_| at % 8 == 0)).collect();
        }
        let kill = (kills && (is_full() || random.below(2) == 0)).then_some(What::Killed);
        faults.extend(all.into_iter().chain(kill).map(|what| (at, call.clone(), what)));
    }
    if let (true, Some(after)) = (kills, &trace.after) {
        faults.push((trace.calls.len(), after.clone(), What::Killed));
    }
    faults
}

pub fn random() -> Random {
    Random::new(number("DOLMEN_SEED", 1))
}

fn subject(errand: &str, name: &impl Debug, room: &Path) -> Subject<'static> {
    Subject {
        program: program(),
        args: args(errand, &format!("{name:?}"), room),
        directory: std::env::temp_dir(),
        window: Window::Marks,
        only: None,
        threads: false,
    }
}

fn record_save(save: Save, expected: &Expected) -> Trace {
    let home = tempfile::tempdir().unwrap();
    let room = home.path().join("room");
    save.prepare(&room, expected);
    let (trace, ended) = subject("save", &save, &room).record(&home.path().join("trace"));
    expected.judge(&room, &ended, Happening::default()).unwrap();
    assert!(matches!(ended, Ended::Ok(_)), "{ended:?}");
    trace
}

fn a_save_flushes_renames_and_flushes_in_this_order() {
    if !strace::is_available() {
        return;
    }
    for save in Save::ALL {
        let trace = record_save(save, &Expected::of(save));
        assert_eq!(trace.count("fsync"), save.flushes(), "{save:?}");
        for other in ["fdatasync", "sync", "syncfs", "sync_file_range", "msync"] {
            assert_eq!(trace.count(other), 0, "{save:?}: {other}");
        }
        let places = |wanted: &dyn Fn(&Call) -> bool| -> Vec<usize> {
            (0..trace.calls.len()).filter(|&at| wanted(&trace.calls[at])).collect()
        };
        let writes = places(&|call| call.name == "pwrite64");
        let flushes = places(&|call| call.name == "fsync");
        let renames = places(&|call| call.name.starts_with("rename"));
        if let (Some(write), [file, directory], [rename]) = (writes.last(), &flushes[..], &renames[..]) {
            assert!(write < file && file < rename && rename < directory, "{save:?}: {:#?}", trace.calls);
            assert!(trace.calls[*file].line.contains("dolmen-tmp>"), "{:?}", trace.calls[*file]);
            assert!(!trace.calls[*directory].line.contains("dolmen-tmp>"), "{:?}", trace.calls[*directory]);
        }
        // What one thing cannot be told from the other by: a call that is not known to this test.
        assert!(renames.len() <= 1 && (renames.len() == 1) == is_renamed(save), "{save:?}: {renames:?}");
    }
}

fn is_renamed(save: Save) -> bool {
    !matches!(save, Save::LogBegin | Save::LogAppend | Save::LogRemove | Save::Sweep)
}

/// After a flush that failed there is no second one of that file, nor is it renamed.
fn check_flushes(ran: &Ran) -> Result<(), String> {
    let of_file =
        |line: &str| line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned());
    for (at, line) in ran.lines.iter().enumerate() {
        if !line.starts_with("fsync(") || !line.contains("(INJECTED)") {
            continue;
        }
        let path = of_file(line).ok_or_else(|| format!("no path in {line}"))?;
        for later in &ran.lines[at + 1..] {
            let again = (later.contains("sync(") || later.contains("sync_file_range("))
                && of_file(later).as_ref() == Some(&path);
            let renamed = later.starts_with("rename") && path.ends_with("dolmen-tmp");
            if again || renamed {
                return Err(format!("after {line} came {later}"));
            }
        }
    }
    Ok(())
}

fn a_save_survives_every_call_failing_and_being_killed() {
    if !strace::is_available() {
        return;
    }
    let tally = Tally::new();
    let mut random = random();
    for save in Save::ALL {
        let expected = Expected::of(save);
        let trace = record_save(save, &expected);
        in_parallel(&faults(&trace, true, &mut random), |(at, call, what)| {
            let home = tempfile::tempdir().unwrap();
            let room = home.path().join("room");
            save.prepare(&room, &expected);
            let ran = subject("save", &save, &room).run(&home.path().join("trace"), call, *what);
            // A log whose directory does not exist is none, either.
            let is_none = matches!(save, Save::LogClear | Save::LogRemove)
                && matches!(what, What::Fails("ENOENT") | What::FailsFromThenOn("ENOENT"))
                && call.line.contains("O_DIRECTORY");
            let happening = Happening {
                says_that_there_is_none: is_none,
                kills: *what == What::Killed,
                no_unlink: call.name.starts_with("unlink"),
                sweep_may_fail: matches!(what, What::FailsFromThenOn(_))
                    || trace.last_flush().is_none_or(|last| *at > last),
                name_is_taken: matches!(what, What::Fails("EEXIST") | What::FailsFromThenOn("EEXIST"))
                    && (call.name.starts_with("rename") || call.name.starts_with("link")),
            };
            let outcome = expected.judge(&room, &ran.ended, happening);
            let outcome = outcome.and_then(|outcome| check_flushes(&ran).map(|()| outcome));
            let outcome = outcome.and_then(|outcome| {
                let must_repeat =
                    *what == What::Fails("EINTR") && call.name != "fsync" && !call.name.starts_with("rename");
                // A flush or a write that failed is never success, whatever the page cache has to show.
                let must_tell = call.name == "fsync" || (call.name == "pwrite64" && *what != What::Fails("EINTR"));
                let success = outcome == Outcome::SuccessNew;
                match (must_repeat, success) {
                    (true, false) => Err(format!("an interrupted call was not repeated: {:?}", ran.ended)),
                    (_, true) if must_tell && *what != What::Killed => Err("it failed and nobody was told".to_owned()),
                    _ => Ok(outcome),
                }
            });
            tally.note(&save, outcome, || format!("{what:?} at call {at}, {}", call.line));
        });
    }
    tally.finish("faults in saves");
    let least = if is_full() { 8_000 } else { 150 };
    assert!(tally.total() >= least, "{} are too few", tally.total());
    for outcome in
        [Outcome::SuccessNew, Outcome::ErrorOld, Outcome::NotDurableNew, Outcome::KilledOld, Outcome::KilledNew]
    {
        assert!(tally.count(outcome) > 0, "never {outcome:?}");
    }
}

/// The standard library's flush repeats itself when a signal interrupts it, and a stage's outputs were flushed with that.
fn a_stage_whose_output_cannot_be_flushed_is_not_complete() {
    if !strace::is_available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    let room = |name: &str| {
        let room = home.path().join(name);
        std::fs::create_dir(&room).unwrap();
        room
    };
    let clean = room("clean");
    let (found, ended) = subject("stage", &"", &clean).record(&trace);
    assert!(matches!(ended, Ended::Ok(_)), "{ended:?}");
    let flushes: Vec<&Call> = found.calls.iter().filter(|call| call.name == "fsync").collect();
    let of_output = |call: &Call| call.line.contains("/output.txt>");
    assert_eq!(flushes.iter().filter(|call| of_output(call)).count(), 1, "{flushes:?}");
    for (at, call) in flushes.iter().enumerate() {
        for errno in ["EIO", "EINTR", "ENOSPC", "EDQUOT"] {
            let room = room(&format!("{at}{errno}"));
            let ran = subject("stage", &"", &room).run(&trace, call, What::Fails(errno));
            check_flushes(&ran).unwrap();
            let state = PipelineState::read(room.join(STATE_FILE)).unwrap();
            let complete = state.stages().any(|stage| stage.status == StageStatus::Completed);
            if of_output(call) {
                assert!(matches!(ran.ended, Ended::Error { .. }) && !complete, "{errno}: {:?}, {complete}", ran.ended);
            }
            assert!(complete || !matches!(ran.ended, Ended::Ok(_)), "{errno} at {call:?}");
        }
    }
}

fn an_open_survives_every_call_failing() {
    if !strace::is_available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let tally = Tally::new();
    let mut random = random();
    // Of threads, the file's calls in all of them; and of the first, those that make the others.
    let on_threads = Some(Open::Threads.file(home.path()));
    for (open, only) in Open::ALL.map(|open| (open, None)).into_iter().chain([(Open::Threads, on_threads)]) {
        let subject = Subject { only, threads: open == Open::Threads, ..subject("open", &open, home.path()) };
        let (trace, ended) = subject.record(&home.path().join("trace"));
        let Ended::Ok(right) = ended else { panic!("{open:?}: {ended:?}") };
        in_parallel(&faults(&trace, false, &mut random), |(at, call, what)| {
            let trace = tempfile::NamedTempFile::new().unwrap();
            let ran = subject.run(trace.path(), call, *what);
            // Of a file that does not exist, validation says that the checkpoint is missing, and that is right.
            let missing = open == Open::Validate
                && matches!(what, What::Fails("ENOENT") | What::FailsFromThenOn("ENOENT"))
                && call.name.contains("stat")
                && !call.line.contains("AT_EMPTY_PATH");
            let says_missing =
                matches!(&ran.ended, Ended::Error { message, .. } if message.contains("file does not exist"));
            if missing && says_missing {
                return tally.note(&open, Ok(opens::Outcome::Missing), String::new);
            }
            let outcome = open.judge(home.path(), &ran.ended, &right).and_then(|outcome| {
                let must_succeed = *what == What::Fails("EINTR") || !ran.happened;
                match must_succeed && outcome != opens::Outcome::RightContent {
                    true => Err(format!("an interrupted call was not repeated: {:?}", ran.ended)),
                    false => Ok(outcome),
                }
            });
            if ran.happened || outcome.is_err() {
                tally.note(&open, outcome, || format!("{what:?} at call {at}, {}", call.line));
            }
        });
    }
    tally.finish("faults in opens");
    let least = if is_full() { 5_000 } else { 60 };
    assert!(tally.total() >= least, "{} are too few", tally.total());
    assert!(tally.count(opens::Outcome::IoError) > 0);
}

/// A look at a file's length that a signal interrupted, as network and FUSE file systems let it, made opening fail.
fn an_interrupted_look_at_a_file_is_repeated() {
    if !strace::is_available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let mut runs = 0;
    for open in [Open::OnDemand, Open::Direct, Open::Map, Open::Validate, Open::TorchWhole] {
        let subject = subject("open", &open, home.path());
        let (trace, ended) = subject.record(&home.path().join("trace"));
        let Ended::Ok(right) = ended else { panic!("{open:?}: {ended:?}") };
        for call in trace.calls.iter().filter(|call| call.name.contains("stat")) {
            let ran = subject.run(&home.path().join("trace"), call, What::Fails("EINTR"));
            assert!(matches!(&ran.ended, Ended::Ok(read) if *read == right), "{open:?}, {call:?}: {:?}", ran.ended);
            runs += 1;
        }
    }
    assert!(runs > 10, "{runs}");
}

/// The working directory was asked for again for each path: had at one moment and not at the next, a line could be counted as removed and kept.
fn a_log_is_cleared_without_a_working_directory() {
    if !strace::is_available() {
        return;
    }
    for save in [Save::LogClear, Save::LogRemove] {
        let expected = Expected::of(save);
        let trace = record_save(save, &expected);
        assert_eq!(trace.count("getcwd"), 1, "{save:?}: it may say another thing each time");
        for call in trace.calls.iter().filter(|call| call.name == "getcwd") {
            let home = tempfile::tempdir().unwrap();
            let room = home.path().join("room");
            save.prepare(&room, &expected);
            let ran = subject("save", &save, &room).run(&home.path().join("trace"), call, What::Fails("ENOENT"));
            assert_eq!(expected.judge(&room, &ran.ended, Happening::default()), Ok(Outcome::SuccessNew));
        }
    }
}
