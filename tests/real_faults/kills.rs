//! Processes that save again and again, killed at random moments: what was acknowledged is there, and what is there is whole.
//!
//! Each saves versions one after the other, of two lengths in turn, and says through a pipe which it has finished. When it is killed the file must
//! be the version that it finished last, or the one after that; nothing else. The page cache outlives the process: crashes of the machine are
//! tested elsewhere.

use crate::common::Random;
use crate::errand::{FLAG, program, tamed};
use crate::runner::{Test, number, skip};
use crate::saves::{builder, pattern, stream, temps, version_of};
use dolmen::commit::{SaveOptions, sweep};
use dolmen::lifecycle::{FailedCheckpoint, FailedLog};
use dolmen::{Durability, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[(
    "kills::killed_at_any_moment_what_was_acknowledged_is_there",
    killed_at_any_moment_what_was_acknowledged_is_there,
)];

const FILE: &str = "m.dolmen";

/// What a process saves in its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saver {
    Builder,
    Writer,
    Log,
}

impl Saver {
    const ALL: [Saver; 3] = [Saver::Builder, Saver::Writer, Saver::Log];

    /// The bytes of a version: one is longer than what a save writes at once, and the next one is short.
    fn len(version: u64) -> usize {
        if version.is_multiple_of(2) { 1_300_000 } else { 3_000 + (version % 100) as usize }
    }

    fn step(self, room: &Path, version: u64, durability: Durability) -> Result<()> {
        let options = SaveOptions::new().durability(durability);
        let path = room.join(FILE);
        match self {
            Saver::Builder => builder(version, Saver::len(version)).save_with(path, &options),
            Saver::Writer => stream(&path, version, &pattern(version, Saver::len(version)), &options),
            Saver::Log => match cleared(version) {
                Some(earlier) => FailedLog::in_directory(room).clear([failure(earlier).path]).map(drop),
                None => FailedLog::in_directory(room).record(&[failure(version)]),
            },
        }
    }

    /// The versions that what is there may be, if it is whole.
    fn found(self, room: &Path, least: u64) -> Result<Vec<u64>, String> {
        if self != Saver::Log {
            return version_of(&room.join(FILE), Saver::len).map(|version| vec![version]);
        }
        let read = FailedLog::in_directory(room).read().map_err(|e| e.to_string())?;
        let lines = |upto: u64| {
            let kept = |version: &u64| {
                cleared(*version).is_none() && !(1..=upto).any(|later| cleared(later) == Some(*version))
            };
            (1..=upto).filter(kept).map(failure).collect::<Vec<_>>()
        };
        if read.malformed != 0 {
            return Err(format!("{} lines of nothing", read.malformed));
        }
        Ok((least..=least + 1).filter(|&upto| lines(upto) == read.entries).collect())
    }
}

/// Every eighth step forgets an earlier one.
fn cleared(version: u64) -> Option<u64> {
    version.is_multiple_of(8).then(|| version - 3)
}

fn failure(version: u64) -> FailedCheckpoint {
    FailedCheckpoint {
        path: PathBuf::from(format!("output_{version}.dolmen")),
        reason: "corrupted: file is 0 bytes".into(),
        time: "2026-01-23T12:00:00.000000Z".into(),
    }
}

/// Saves version after version, and says which it has finished.
pub fn save_for_ever(saver: &str, durability: &str, room: &Path, first: u64) {
    let saver = Saver::ALL.into_iter().find(|known| format!("{known:?}") == saver).unwrap();
    let durability = if durability == "Full" { Durability::Full } else { Durability::None };
    let mut out = std::io::stdout();
    out.write_all(b"ready\n").unwrap();
    for version in first.. {
        saver.step(room, version, durability).unwrap();
        out.write_all(format!("{version}\n").as_bytes()).unwrap();
    }
}

/// What was found, of one way of saving.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    acknowledged: u64,
    /// Kills between the putting in place and the acknowledgement.
    in_place: usize,
    /// Kills that left a temporary file, by how much of it was there.
    left: BTreeMap<&'static str, usize>,
    swept: usize,
}

/// A way of saving, somewhere.
struct Job {
    saver: Saver,
    durability: Durability,
    room: PathBuf,
    _home: tempfile::TempDir,
    /// The version that is known to be there.
    version: u64,
    kills: usize,
    /// How long a step takes.
    usual: Duration,
    /// Temporary files that were not swept yet.
    orphans: usize,
    tally: Tally,
}

impl Job {
    fn new(saver: Saver, durability: Durability, place: &Path) -> Job {
        let home = tempfile::tempdir_in(place).unwrap();
        let room = home.path().join("room");
        fs::create_dir(&room).unwrap();
        let begun = Instant::now();
        const MEASURED: u64 = 6;
        for version in 1..=MEASURED {
            saver.step(&room, version, durability).unwrap();
        }
        let usual = begun.elapsed() / MEASURED as u32;
        let (version, kills, orphans) = (MEASURED, 0, 0);
        Job { saver, durability, room, _home: home, version, kills, usual, orphans, tally: Tally::default() }
    }

    /// Starts a process, kills it, and looks.
    fn kill_once(&mut self, random: &mut Random) -> Result<(), String> {
        if self.saver == Saver::Log && self.version > 300 {
            fs::remove_file(FailedLog::in_directory(&self.room).path()).unwrap();
            for version in 1..=6 {
                self.saver.step(&self.room, version, Durability::None).unwrap();
            }
            self.version = 6;
        }
        let mut command = Command::new(program());
        command.args([FLAG, "loop", &format!("{:?}", self.saver), &format!("{:?}", self.durability)]);
        command.arg(&self.room).arg((self.version + 1).to_string()).stdout(Stdio::piped());
        let mut child = tamed(command).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.next().and_then(std::result::Result::ok);
        if ready.as_deref() != Some("ready") {
            return Err(format!("the saver did not begin: {ready:?}, {:?}", child.wait()));
        }
        // Over two lengths of a step of each kind: any moment of it is as likely as any other.
        wait(self.usual.mul_f64(4.0 * random.below(1_000_000) as f64 / 1e6));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.signal() != Some(9) {
            return Err(format!("it ended by itself: {status}"));
        }
        let mut acknowledged = self.version;
        for line in lines {
            let line = line.map_err(|e| e.to_string())?;
            let version = line.parse().map_err(|_| format!("it said {line:?}"))?;
            if version != acknowledged + 1 {
                return Err(format!("it acknowledged {version} after {acknowledged}"));
            }
            acknowledged = version;
        }
        self.tally.acknowledged += acknowledged - self.version;
        self.tally.kills += 1;
        self.kills += 1;

        let found = self.saver.found(&self.room, acknowledged)?;
        let &[version] = &found[..] else {
            return Err(format!("{acknowledged} was acknowledged, and there is {found:?}"));
        };
        if version != acknowledged && version != acknowledged + 1 {
            return Err(format!("{acknowledged} was acknowledged, and {version} is there"));
        }
        self.tally.in_place += usize::from(version != acknowledged);
        let saved = acknowledged > self.version && self.saver != Saver::Log;
        self.version = version;
        self.look_at_orphans(saved, random)
    }

    fn look_at_orphans(&mut self, saved: bool, random: &mut Random) -> Result<(), String> {
        let orphans = temps(&self.room);
        // A save that succeeds removes what earlier ones left; the one after it may have been killed.
        let most = if saved { 1 } else { self.orphans + 1 };
        if orphans.len() > most {
            return Err(format!("{orphans:?}, and {most} would be the most"));
        }
        if orphans.len() > if saved { 0 } else { self.orphans } {
            let newest = orphans.iter().map(|name| fs::metadata(self.room.join(name)).unwrap());
            let len = newest.max_by_key(|metadata| metadata.modified().unwrap()).unwrap().len();
            let how = match len {
                0 => "empty",
                len if len < 100_000 => "short",
                len if len < 1_300_000 => "part of a long one",
                _ => "as long as a long one",
            };
            *self.tally.left.entry(how).or_default() += 1;
        }
        // Now and then they are left to the next save.
        if random.below(4) == 0 {
            self.orphans = orphans.len();
            return Ok(());
        }
        let swept = sweep(&self.room).map_err(|e| e.to_string())?;
        let names = fs::read_dir(&self.room).unwrap().count();
        if swept.removed.len() != orphans.len() || names != 1 {
            return Err(format!("{swept:?} of {orphans:?}, and {names} names are left"));
        }
        self.tally.swept += swept.removed.len();
        self.orphans = 0;
        Ok(())
    }
}

/// Waits to the microsecond, which sleeping alone does not.
fn wait(time: Duration) {
    let begun = Instant::now();
    if let Some(long) = time.checked_sub(Duration::from_micros(300)) {
        std::thread::sleep(long);
    }
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Where files are kept: where temporary files are, and in memory if that is another place.
fn places() -> Vec<PathBuf> {
    let disk = std::env::temp_dir();
    let memory = PathBuf::from("/dev/shm");
    let kind = |path: &Path| rustix::fs::statfs(path).map(|stat| stat.f_type).ok();
    match (kind(&disk), kind(&memory)) {
        (disk, Some(memory)) if disk == Some(memory) => skip("kills on a disk: temporary files are kept in memory"),
        (_, None) => skip("kills in memory: there is no /dev/shm"),
        _ => return vec![disk, memory],
    }
    vec![disk]
}

fn killed_at_any_moment_what_was_acknowledged_is_there() {
    let wanted = number("DOLMEN_KILLS", 200) as usize;
    let mut jobs = Vec::new();
    for place in places() {
        for saver in Saver::ALL {
            let log = saver == Saver::Log;
            for durability in [Durability::Full, Durability::None] {
                // A log is always flushed.
                if !(log && durability == Durability::None) {
                    jobs.push((place.clone(), Job::new(saver, durability, &place)));
                }
            }
        }
    }
    let mut random = Random::new(number("DOLMEN_SEED", 1));
    let begun = Instant::now();
    for kill in 0..wanted {
        let at = kill % jobs.len();
        let (_, job) = &mut jobs[at];
        if let Err(e) = job.kill_once(&mut random) {
            panic!("kill {kill}, {:?} {:?} in {:?}: {e}", job.saver, job.durability, job.room);
        }
    }
    println!("{wanted} kills in {:.1} s, none bad", begun.elapsed().as_secs_f64());
    for (place, job) in &jobs {
        let Job { saver, durability, usual, tally, .. } = job;
        println!("    {saver:?} {durability:?} in {}, {usual:?} a step: {tally:?}", place.display());
    }
    let sum = |count: &dyn Fn(&Tally) -> usize| jobs.iter().map(|(_, job)| count(&job.tally)).sum::<usize>();
    // Kills that hit something: a saver that is never in the middle of a save tests nothing.
    assert!(sum(&|tally| tally.left.values().sum()) > wanted / 20, "kills hit no save");
    assert!(sum(&|tally| tally.acknowledged as usize) > wanted / 4, "nothing was ever acknowledged");
    if wanted >= 1000 {
        assert!(sum(&|tally| tally.in_place) > 0, "no kill came after the rename and before the acknowledgement");
    }
}
