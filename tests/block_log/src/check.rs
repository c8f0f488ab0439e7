//! What a crash left, compared with what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen::commit::{RealFileSystem, sweep};
use dolmen::lifecycle::{FailedCheckpoint, FailedLog, PipelineState, STATE_FILE, StageStatus};
use dolmen::{Builder, Checkpoint, VerifyOptions, verify_source};

use crate::voyage::Voyage;

/// How many things that are wrong are told of one crash.
const TOLD_MAX: usize = 6;

/// What is wrong after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// Something acknowledged is not there, or an older one is.
    Lost,
    /// There is a file under its final name that is no valid one.
    Corrupt,
    /// A valid one that was never saved there, or a name that nothing explains.
    Foreign,
    /// What is left behind hinders the saves that follow.
    Stuck,
}

/// All that is wrong after a crash.
#[derive(Debug, Default)]
pub struct Found(Vec<(Wrong, String)>);

impl Found {
    fn tell(&mut self, wrong: Wrong, what: impl fmt::Display) {
        self.0.push((wrong, what.to_string()));
    }

    /// One line: `ok`, or what is wrong, separated by tabs.
    pub fn line(&self) -> String {
        if self.0.is_empty() {
            return "ok".to_owned();
        }
        let told =
            self.0.iter().take(TOLD_MAX).map(|(wrong, what)| {
                format!("{}: {what}", format!("{wrong:?}").to_lowercase()).replace(['\t', '\n'], " ")
            });
        told.collect::<Vec<_>>().join("\t")
    }
}

/// What a step left in the rehearsal.
#[derive(Default)]
struct Left {
    files: Vec<(PathBuf, Arc<[u8]>)>,
    job: Option<(PathBuf, &'static [&'static str])>,
    /// All that the log of failures holds after the step.
    log: Vec<FailedCheckpoint>,
}

/// Knows what every step of a voyage is to leave.
pub struct Checker {
    /// Of step 0, which is before all others, first.
    steps: Vec<Left>,
}

/// What must be there after so many steps.
#[derive(Default)]
struct Expected<'c> {
    files: BTreeMap<&'c Path, &'c [u8]>,
    older: BTreeMap<&'c Path, Vec<&'c [u8]>>,
    jobs: BTreeMap<&'c Path, &'static [&'static str]>,
}

impl Checker {
    /// Takes all steps in an empty directory, to know what they leave.
    pub fn rehearse(scratch: &Path, seed: u64, count: u64) -> Result<Checker, Box<dyn std::error::Error>> {
        let mut voyage = Voyage::new(scratch, seed, count, Arc::new(RealFileSystem));
        let mut steps = vec![Left::default()];
        for number in 1..=voyage.len() {
            let changes = voyage.take(number)?;
            let mut left = Left { job: changes.job, log: voyage.log().entries()?, ..Left::default() };
            for path in changes.files {
                let bytes = fs::read(scratch.join(&path))?;
                verify_source(&bytes, &one_thread())?.into_result()?;
                left.files.push((path, bytes.into()));
            }
            steps.push(left);
        }
        Ok(Checker { steps })
    }

    fn expected(&self, done: usize) -> Expected<'_> {
        let mut expected = Expected::default();
        for left in &self.steps[..=done] {
            for (path, bytes) in &left.files {
                if let Some(before) = expected.files.insert(path, bytes) {
                    expected.older.entry(path).or_default().push(before);
                }
            }
            if let Some((path, complete)) = &left.job {
                expected.jobs.insert(path, complete);
            }
        }
        expected
    }

    /// Looks at a directory in which the first `done` steps were acknowledged, and the first `begun` begun: one more, or none.
    pub fn check(&self, directory: &Path, done: usize, begun: usize) -> Found {
        let mut found = Found::default();
        let expected = self.expected(done);
        let none = Left::default();
        let under_way = if begun > done { &self.steps[done + 1] } else { &none };
        let coming: BTreeMap<&Path, &[u8]> = under_way.files.iter().map(|(path, bytes)| (&**path, &**bytes)).collect();

        for (&path, &bytes) in &expected.files {
            let older = expected.older.get(path).map_or(&[][..], Vec::as_slice);
            check_file(directory, path, Some(bytes), older, coming.get(path).copied(), &mut found);
        }
        for (&path, &bytes) in coming.iter().filter(|(path, _)| !expected.files.contains_key(*path)) {
            check_file(directory, path, None, &[], Some(bytes), &mut found);
        }
        for (&path, &complete) in &expected.jobs {
            check_job(&directory.join(path), complete, &mut found);
        }
        if let Some((path, _)) = under_way.job.as_ref().filter(|(path, _)| !expected.jobs.contains_key(&**path)) {
            check_job(&directory.join(path), &[], &mut found);
        }
        check_log(directory, &self.steps[..=done], (begun > done).then_some(&under_way.log), &mut found);
        let known: BTreeSet<&Path> = expected.files.keys().chain(coming.keys()).copied().collect();
        if let Err(e) = check_names(directory, Path::new(""), &known, &mut found) {
            found.tell(Wrong::Lost, format!("the directory cannot be read: {e}"));
        }
        found
    }

    /// Whether saving can go on: what dead writers left is swept away, and a new save succeeds.
    pub fn live_on(&self, directory: &Path, found: &mut Found) {
        let outcome = || -> Result<(), Box<dyn std::error::Error>> {
            let swept = sweep(directory)?;
            if let Some((path, e)) = swept.failed.first() {
                return Err(format!("{}: {e}", path.display()).into());
            }
            if let Some(path) = swept.live.first() {
                return Err(format!("{}: said to be of a living writer", path.display()).into());
            }
            let path = directory.join("model-0.dolmen");
            let mut builder = Builder::new();
            builder.tensor("after", (&[1u8, 2, 3], [3]))?;
            builder.save(&path)?;
            if Checkpoint::open(&path)?.tensor("after")?.as_slice::<u8>()? != [1, 2, 3] {
                return Err("what was saved after the crash is not what is read".into());
            }
            Ok(())
        };
        if let Err(e) = outcome() {
            found.tell(Wrong::Stuck, e);
        }
    }
}

fn one_thread() -> VerifyOptions<'static> {
    let mut options = VerifyOptions::default();
    options.threads = 1;
    options
}

/// Looks at a file that must have the content acknowledged last, or may have the one under way.
fn check_file(
    directory: &Path,
    path: &Path,
    acknowledged: Option<&[u8]>,
    older: &[&[u8]],
    coming: Option<&[u8]>,
    found: &mut Found,
) {
    let name = path.display();
    let bytes = match fs::read(directory.join(path)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if acknowledged.is_some() {
                found.tell(Wrong::Lost, format!("{name}: not there"));
            }
            return;
        }
        Err(e) => return found.tell(Wrong::Corrupt, format!("{name}: cannot be read: {e}")),
    };
    match verify_source(&bytes, &one_thread()).and_then(dolmen::Report::into_result) {
        Err(e) => found.tell(Wrong::Corrupt, format!("{name}: {} bytes: {e}", bytes.len())),
        Ok(()) if acknowledged == Some(&bytes) || coming == Some(&bytes) => {}
        Ok(()) if older.contains(&&*bytes) => found.tell(Wrong::Lost, format!("{name}: has an older content")),
        Ok(()) => found.tell(Wrong::Foreign, format!("{name}: has a content that was never saved there")),
    }
}

/// Looks at the state of a pipeline of which these stages, at least, are complete.
fn check_job(directory: &Path, complete: &[&str], found: &mut Found) {
    let name = directory.file_name().unwrap_or_default().display();
    let path = directory.join(STATE_FILE);
    if !path.exists() {
        if !complete.is_empty() {
            found.tell(Wrong::Lost, format!("{name}: its state is not there"));
        }
        return;
    }
    match PipelineState::read(&path) {
        Err(e) => found.tell(Wrong::Corrupt, format!("{name}: {e}")),
        Ok(state) => {
            for stage in complete {
                if state.stage(stage).map(|record| record.status) != Some(StageStatus::Completed) {
                    found.tell(Wrong::Lost, format!("{name}: stage {stage} is not complete any more"));
                }
            }
        }
    }
}

/// Looks at the log of failures, which must hold what it held after the steps taken or, if one is under way, after that.
fn check_log(directory: &Path, taken: &[Left], after: Option<&Vec<FailedCheckpoint>>, found: &mut Found) {
    let before = taken.last().map_or(&[][..], |left| &left.log);
    let read = match FailedLog::in_directory(directory).read() {
        Ok(read) => read,
        Err(e) => return found.tell(Wrong::Corrupt, e),
    };
    // Of an append that a crash interrupted, any number of whole lines may be there, and a piece.
    let appended = |after: &Vec<FailedCheckpoint>| {
        after.len() > before.len() && after.starts_with(before) && after.starts_with(&read.entries)
    };
    let (whole, piece_allowed) = match after {
        Some(after) if appended(after) => (read.entries.len() >= before.len(), true),
        Some(after) => (read.entries == *before || read.entries == *after, false),
        None => (read.entries == *before, false),
    };
    if !whole {
        let message = format!("the log: {} entries, where {} were acknowledged", read.entries.len(), before.len());
        let is_older = before.starts_with(&read.entries) || taken.iter().any(|left| left.log == read.entries);
        let wrong = if is_older { Wrong::Lost } else { Wrong::Foreign };
        found.tell(wrong, message);
    }
    if read.malformed > usize::from(piece_allowed) {
        found.tell(Wrong::Corrupt, format!("the log: {} malformed lines", read.malformed));
    }
}

/// Looks for files that nothing explains.
fn check_names(directory: &Path, inside: &Path, known: &BTreeSet<&Path>, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(directory.join(inside))? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            // What a check of the whole file system puts there is its own matter.
            if name != "lost+found" {
                check_names(directory, &path, known, found)?;
            }
        } else if name.ends_with(".dolmen") && !known.contains(&*path) {
            found.tell(Wrong::Foreign, format!("{}: nobody saved it", path.display()));
        }
    }
    Ok(())
}
