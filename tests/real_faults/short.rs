//! Short writes, short reads and interruptions, by a library that is preloaded: saves and opens succeed all the same.
//!
//! The library (`shim.c`) sees what goes through the C library alone. What moves bytes does: `std` does it that way. The other calls, which `rustix`
//! makes without the C library, have no length that could be short; they are interrupted by strace in `calls`. Whether that is so is a test itself.

use crate::calls::Tally;
use crate::common::in_parallel;
use crate::errand::{Ended, Mark, args, command, program, tamed};
use crate::opens::{self, Open};
use crate::runner::{Test, is_full, number, skip};
use crate::saves::{Expected, Happening, Outcome, Save};
use crate::strace;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("short::what_moves_bytes_goes_through_the_c_library", what_moves_bytes_goes_through_the_c_library),
    ("short::saves_succeed_with_short_and_interrupted_calls", saves_succeed_with_short_and_interrupted_calls),
    ("short::direct_reads_of_less_than_a_block_are_gone_on_from", direct_reads_of_less_than_a_block_are_gone_on_from),
    ("short::opens_succeed_with_short_and_interrupted_calls", opens_succeed_with_short_and_interrupted_calls),
];

/// How often a call was seen, cut short and interrupted.
type Counts = BTreeMap<String, [u64; 3]>;

/// The library, compiled.
struct Shim {
    home: tempfile::TempDir,
}

impl Shim {
    /// Compiles it; says what is missing if that cannot be done.
    fn compile() -> Option<Shim> {
        let home = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_faults/shim.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wno-unused-result", "-Werror", "-o"]);
        let missing = match cc.arg(home.path().join("shim.so")).arg(source).arg("-ldl").output() {
            Ok(output) if output.status.success() => {
                let shim = Shim { home };
                let probe = shim.home.path().join("probe");
                shim.preload(&mut command(&args("open", "none", Path::new("/"))), 0, &probe).output().unwrap();
                if probe.exists() {
                    return Some(shim);
                }
                "this program takes no preloaded library".to_owned()
            }
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(e) => format!("no C compiler ({e})"),
        };
        skip(format!("short writes and reads: {missing}"));
        None
    }

    fn preload<'c>(&self, command: &'c mut Command, seed: u64, report: &Path) -> &'c mut Command {
        command.env("LD_PRELOAD", self.home.path().join("shim.so"));
        command.env("SHIM_SEED", seed.to_string()).env("SHIM_REPORT", report)
    }

    /// Runs an errand with this seed; gives how it ended, and adds to the counts.
    fn run(&self, arguments: &[std::ffi::OsString], seed: u64, report: &Path) -> (Ended, Counts) {
        let output = self.preload(&mut command(arguments), seed, report).output().unwrap();
        (Ended::of(&output), counts(report))
    }
}

fn counts(report: &Path) -> Counts {
    let text = fs::read_to_string(report).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().to_owned();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        (name, numbers.try_into().unwrap())
    };
    text.lines().map(line).collect()
}

fn add(all: &std::sync::Mutex<Counts>, counts: Counts) {
    let mut all = all.lock().unwrap();
    for (name, numbers) in counts {
        let sum = all.entry(name).or_default();
        (0..3).for_each(|i| sum[i] += numbers[i]);
    }
}

fn seeds() -> Vec<u64> {
    let first = number("DOLMEN_SEED", 1);
    (first..first + if is_full() { 200 } else { 6 }).collect()
}

fn what_moves_bytes_goes_through_the_c_library() {
    let Some(shim) = Shim::compile() else { return };
    if !strace::is_available() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    // Whatever else there is that moves bytes, the library would not see it, and the tests below would say nothing of it.
    let moving = [
        "read",
        "write",
        "pread64",
        "pwrite64",
        "readv",
        "writev",
        "preadv",
        "pwritev",
        "preadv2",
        "pwritev2",
        "sendfile",
        "splice",
        "copy_file_range",
        "getrandom",
        "io_uring_enter",
    ];
    let traced: Vec<String> = moving.iter().map(|name| format!("?{name}")).collect();
    let trace = home.path().join("trace");
    let report = home.path().join("report");
    let mut total = 0;
    let mut compare = |of: String, arguments: Vec<std::ffi::OsString>| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-s", "0", "-e", &format!("trace=?statx,?newfstatat,{}", traced.join(",")), "-o"]);
        strace
            .arg(&trace)
            .arg("--")
            .arg("env")
            .arg(format!("LD_PRELOAD={}", shim.home.path().join("shim.so").display()));
        strace.arg("SHIM_SEED=0").arg(format!("SHIM_REPORT={}", report.display())).arg(program()).args(&arguments);
        assert!(tamed(strace).output().unwrap().status.success());
        let text = fs::read_to_string(&trace).unwrap();
        let window = text.lines().skip_while(|line| !line.contains(Mark::Begin.path()));
        let window: Vec<&str> = window.take_while(|line| !line.contains(Mark::End.path())).collect();
        let found = counts(&report);
        for name in moving {
            let begins = |line: &&&str| line.split(' ').any(|word| word.starts_with(&format!("{name}(")));
            let traced = window.iter().filter(begins).count() as u64;
            let seen = found.get(name).map_or(0, |numbers| numbers[0]);
            // The library counts from the start of the process, which reads a file or two of the system's; and random bytes may come without a
            // system call.
            let more_may_be = matches!(name, "read" | "getrandom");
            let all_seen = if more_may_be { seen >= traced } else { seen == traced };
            assert!(all_seen, "{of}: {traced} calls of {name}, and {seen} went through the C library");
            total += traced;
        }
    };
    for open in Open::ALL {
        compare(format!("{open:?}"), args("open", &format!("{open:?}"), home.path()));
    }
    for save in Save::ALL {
        let room = home.path().join(format!("{save:?}"));
        save.prepare(&room, &Expected::of(save));
        compare(format!("{save:?}"), args("save", &format!("{save:?}"), &room));
    }
    assert!(total > 50, "{total}");
}

fn saves_succeed_with_short_and_interrupted_calls() {
    let Some(shim) = Shim::compile() else { return };
    let tally = Tally::new();
    let all = std::sync::Mutex::new(Counts::new());
    for save in Save::ALL {
        let expected = Expected::of(save);
        in_parallel(&seeds(), |seed| {
            let home = tempfile::tempdir().unwrap();
            let room = home.path().join("room");
            save.prepare(&room, &expected);
            let arguments = args("save", &format!("{save:?}"), &room);
            let (ended, counts) = shim.run(&arguments, *seed, &home.path().join("report"));
            add(&all, counts);
            let outcome = expected.judge(&room, &ended, Happening::default());
            let outcome = outcome.and_then(|outcome| match outcome {
                Outcome::SuccessNew => Ok(outcome),
                _ => Err(format!("{ended:?}")),
            });
            tally.note(&save, outcome, || format!("seed {seed}"));
        });
    }
    tally.finish("saves with short and interrupted calls");
    happened(&all.into_inner().unwrap(), &["pwrite64", "pread64", "getrandom"]);
}

/// A direct read may give less than a block where the file does not end; that was taken for a file that had become shorter. These do, now and then:
/// the library cuts them to whole sectors.
fn direct_reads_of_less_than_a_block_are_gone_on_from() {
    let Some(shim) = Shim::compile() else { return };
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let arguments = args("open", &format!("{:?}", Open::Direct), home.path());
    let right = Ended::of(&command(&arguments).output().unwrap());
    for seed in 1..=4 {
        let (ended, _) = shim.run(&arguments, seed, &home.path().join("report"));
        match (&ended, &right) {
            (Ended::Ok(read), Ended::Ok(right)) if read == right => {}
            _ => panic!("seed {seed}: {ended:?}, and right would be {right:?}"),
        }
    }
}

fn opens_succeed_with_short_and_interrupted_calls() {
    let Some(shim) = Shim::compile() else { return };
    let home = tempfile::tempdir().unwrap();
    Open::prepare(home.path());
    let tally = Tally::new();
    let all = std::sync::Mutex::new(Counts::new());
    for open in Open::ALL {
        let arguments = args("open", &format!("{open:?}"), home.path());
        let Ended::Ok(right) = Ended::of(&command(&arguments).output().unwrap()) else { panic!("{open:?}") };
        in_parallel(&seeds(), |seed| {
            let report = tempfile::NamedTempFile::new().unwrap();
            let (ended, counts) = shim.run(&arguments, *seed, report.path());
            add(&all, counts);
            let outcome = open.judge(home.path(), &ended, &right).and_then(|outcome| match outcome {
                opens::Outcome::RightContent => Ok(outcome),
                _ => Err(format!("{ended:?}")),
            });
            tally.note(&open, outcome, || format!("seed {seed}"));
        });
    }
    tally.finish("opens with short and interrupted calls");
    happened(&all.into_inner().unwrap(), &["pread64"]);
}

/// Whether the library did anything.
fn happened(counts: &Counts, wanted: &[&str]) {
    for (name, [seen, cut, interrupted]) in counts.iter().filter(|(_, numbers)| numbers[0] > 0) {
        println!("    {name}: {seen} seen, {cut} cut short, {interrupted} interrupted");
    }
    for name in wanted {
        let [_, cut, interrupted] = counts[*name];
        assert!(cut > 10 && interrupted > 10, "{name}: {counts:?}");
    }
}
