//! Workloads of a checkpoint's life: the log of failures, a pipeline's state, an upgrade that keeps the original.

use super::{Disk, Tree, Workload, saves};
use dolmen::commit::file_system::FileSystem;
use dolmen::format::value::Value;
use dolmen::lifecycle::{FailedCheckpoint, FailedLog, Pipeline, ResumeOptions, Stage, UpgradeOptions, Versions};
use dolmen::{Builder, DType, SaveOptions, TensorData};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

// --- The log of failures -------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Doing {
    /// Append so many lines with one call, with reasons of so many bytes.
    Append(usize, usize),
    /// Forget the lines that were appended so many before the last one.
    Clear(&'static [usize]),
}

/// Lines are appended and cleared.
pub struct Failures {
    longest_write: usize,
    steps: Vec<Doing>,
    /// What the log says after so many steps.
    after: Vec<Vec<FailedCheckpoint>>,
}

/// A failure unlike any other, whose path would be another one if it were read as it is written.
fn failure(number: usize, reason_len: usize) -> FailedCheckpoint {
    let mut entry = FailedCheckpoint::new(
        PathBuf::from(format!("out|put {number}%7C.dolmen")),
        format!("corrupted: number {number} {}", "reason ".repeat(reason_len / 7)),
    );
    entry.time = format!("2026-01-23T12:{:02}:{:02}.{:06}Z", number / 60, number % 60, number * 1001);
    entry
}

impl Failures {
    pub fn new(longest_write: usize) -> Failures {
        use Doing::{Append, Clear};
        Failures::of(
            longest_write,
            vec![
                Append(1, 20),
                Append(1, 420),
                Append(6, 300),
                Clear(&[0, 3]),
                Append(1, 30),
                Append(3, 500),
                Append(1, 3000),
                Clear(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
                Append(2, 100),
                Append(1, 0),
            ],
        )
    }

    /// So few lines that it can be interrupted anywhere.
    pub fn short() -> Failures {
        Failures::of(1, vec![Doing::Append(1, 0), Doing::Append(1, 7)])
    }

    fn of(longest_write: usize, steps: Vec<Doing>) -> Failures {
        use Doing::{Append, Clear};
        let (mut after, mut number) = (vec![Vec::new()], 0);
        for step in &steps {
            let mut now = after[after.len() - 1].clone();
            match step {
                Append(count, len) => {
                    now.extend((number..number + count).map(|number| failure(number, *len)));
                    number += count;
                }
                Clear(back) => {
                    let keep: Vec<bool> = (0..now.len()).map(|n| !back.contains(&(now.len() - 1 - n))).collect();
                    let mut keep = keep.into_iter();
                    now.retain(|_| keep.next().unwrap());
                }
            }
            after.push(now);
        }
        Failures { longest_write, steps, after }
    }
}

fn keys(entries: &[FailedCheckpoint]) -> BTreeSet<(PathBuf, &str, &str)> {
    entries.iter().map(|e| (e.path.clone(), e.reason.as_str(), e.time.as_str())).collect()
}

impl Workload for Failures {
    fn name(&self) -> String {
        match self.longest_write {
            usize::MAX => "the log of failures".to_owned(),
            1 => "a short log of failures, byte by byte".to_owned(),
            len => format!("the log of failures, in writes of {len} bytes"),
        }
    }

    fn going_on(&self) -> usize {
        // So that it is killed everywhere, where that does not take long.
        if self.longest_write == 7 { 10 } else { 150 }
    }

    fn disk(&self) -> Disk {
        Disk::new(Tree::new().with_directory("d")).behave(|b| b.longest_write = self.longest_write)
    }

    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, done: usize) -> Result<(), String> {
        let log = FailedLog::in_directory("d").file_system(saving_in.clone());
        for (n, step) in self.steps.iter().enumerate().skip(done) {
            let (before, now) = (&self.after[n], &self.after[n + 1]);
            disk.begin(n + 1);
            match step {
                Doing::Append(count, _) => log.record(&now[now.len() - count..]),
                Doing::Clear(_) => {
                    let gone = before.iter().filter(|entry| !now.contains(entry));
                    log.clear(gone.map(|entry| &entry.path)).map(drop)
                }
            }
            .map_err(|e| e.to_string())?;
            disk.done(n + 1);
        }
        Ok(())
    }

    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String> {
        let log = FailedLog::in_directory("d").file_system(Arc::new(after.clone()));
        let found = log.read().map_err(|e| format!("it cannot be read: {e}"))?;
        let found = keys(&found.entries);
        let (sure, begun_with) = (keys(&self.after[done]), keys(&self.after[begun]));
        if let Some(strange) = found.iter().find(|entry| !sure.contains(entry) && !begun_with.contains(entry)) {
            return Err(format!("it tells of a failure that there was not: {strange:?}"));
        }
        // Lines come one by one. They go all at once.
        let is_clear = begun > done && matches!(self.steps[done], Doing::Clear(_));
        if is_clear && found != sure && found != begun_with {
            return Err(format!("of {} lines that were to be cleared, {} are there", sure.len(), found.len()));
        }
        match sure.iter().find(|entry| !found.contains(entry)) {
            Some(lost) if !is_clear => Err(format!("an acknowledged line is lost: {lost:?}")),
            _ => Ok(()),
        }
    }
}

// --- A pipeline ----------------------------------------------------------------------------------------------------------------

const STATE: &str = "d/pipeline_state.json";
const STAGES: usize = 3;

/// A pipeline runs, its state on the disk that crashes and its outputs, which do not matter here, elsewhere.
pub struct Stages {
    outputs: TempDir,
    /// Whether it was complete before, and is started over.
    restarts: bool,
    old: Option<Vec<u8>>,
}

impl Stages {
    pub fn new(restarts: bool) -> Stages {
        let mut stages = Stages { outputs: tempfile::tempdir().unwrap(), restarts: false, old: None };
        if restarts {
            let disk = stages.disk();
            let saving_in: Arc<dyn FileSystem> = Arc::new(disk.clone());
            stages.run(&saving_in, &disk, 0).unwrap();
            (stages.restarts, stages.old) = (true, disk.read(STATE));
        }
        stages
    }

    fn pipeline(&self) -> Pipeline {
        let pipeline = Pipeline::new("d").config("expected_length", 500);
        (1..=STAGES).fold(pipeline, |pipeline, n| pipeline.stage(Stage::new(stage(n)).output(self.output(n))))
    }

    fn output(&self, n: usize) -> PathBuf {
        self.outputs.path().join(format!("{n}.txt"))
    }
}

fn stage(n: usize) -> String {
    format!("STAGE {n}")
}

fn saving(saving_in: &Arc<dyn FileSystem>) -> ResumeOptions {
    ResumeOptions::new().save_options(SaveOptions::new().file_system(saving_in.clone()))
}

/// How many steps a state has behind it: 1 when it is there, 2 when the first stage has begun, 3 when that is complete.
fn steps_in(state: Option<&[u8]>) -> Result<usize, String> {
    let Some(bytes) = state else { return Ok(0) };
    let state: Json = serde_json::from_slice(bytes).map_err(|e| format!("the state is torn: {e}"))?;
    let status = |n: usize| state["stages"][stage(n)]["status"].as_str();
    let complete = (1..=STAGES).take_while(|n| status(*n) == Some("completed")).count();
    let begun = complete < STAGES && status(complete + 1) == Some("in_progress");
    Ok(1 + 2 * complete + usize::from(begun))
}

impl Workload for Stages {
    fn name(&self) -> String {
        if self.restarts { "a pipeline that starts over" } else { "a pipeline" }.to_owned()
    }

    fn disk(&self) -> Disk {
        let tree = Tree::new().with_directory("d");
        Disk::new(self.old.iter().fold(tree, |tree, old| tree.with(STATE, old)))
    }

    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, _: usize) -> Result<(), String> {
        let step = || steps_in(disk.read(STATE).as_deref());
        disk.begin(1);
        if self.restarts {
            self.pipeline().restart(&saving(saving_in)).map_err(|e| e.to_string())?;
            disk.done(1);
            return Ok(());
        }
        let is_new = step()? == 0;
        let mut run = self.pipeline().resume(&saving(saving_in)).map_err(|e| e.to_string())?;
        if is_new {
            disk.done(1);
        }
        loop {
            disk.begin(step()? + 1);
            let Some(stage) = run.begin_next().map_err(|e| e.to_string())? else { return Ok(()) };
            disk.done(step()?);
            stage.outputs().try_for_each(|path| std::fs::write(path, "made")).map_err(|e| e.to_string())?;
            disk.begin(step()? + 1);
            run.complete(stage).map_err(|e| e.to_string())?;
            disk.done(step()?);
        }
    }

    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String> {
        let found = after.read(STATE);
        let steps = steps_in(found.as_deref())?;
        if let Some(old) = &self.old {
            let is_old = found.as_ref() == Some(old);
            if !is_old && (steps != 1 || begun == 0) {
                return Err(format!("a state of {steps} steps that never was"));
            }
            if is_old && done == 1 {
                return Err("started over, and the state of before is back".to_owned());
            }
            let kept = after.names("d").iter().any(|name| {
                name.starts_with("pipeline_state.before-restart")
                    && after.read(format!("d/{name}")).as_ref() == Some(old)
            });
            if !is_old && !kept {
                return Err("the state of before was to be kept, and is lost".to_owned());
            }
        } else if !(done..=begun).contains(&steps) {
            return Err(format!("the state has {steps} steps behind it"));
        }
        let saving_in: Arc<dyn FileSystem> = Arc::new(after.clone());
        let run = self.pipeline().resume(&saving(&saving_in)).map_err(|e| format!("it cannot be resumed: {e}"))?;
        match (run.summary().complete, steps.saturating_sub(1) / 2) {
            (complete, sure) if complete == sure => Ok(()),
            (complete, sure) => Err(format!("resumed, it has {complete} stages complete and not {sure}")),
        }
    }
}

// --- An upgrade ----------------------------------------------------------------------------------------------------------------

/// A file is upgraded in its place, and the original kept. The reader of the original looks at a real file, which stays.
pub struct Upgrade {
    directory: TempDir,
    old: Vec<u8>,
}

fn content(content: u32, len: usize) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("content", TensorData::raw(DType::U32, [1], content.to_le_bytes().to_vec()).unwrap()).unwrap();
    b.tensor("weights", TensorData::raw(DType::U8, [len as u64], vec![content as u8; len]).unwrap()).unwrap();
    b.metadata("version", "1.0");
    b
}

impl Upgrade {
    pub fn new() -> Upgrade {
        let directory = tempfile::tempdir().unwrap();
        let upgrade = Upgrade { old: content(6, 10_000).to_vec().unwrap(), directory };
        std::fs::write(upgrade.path(), &upgrade.old).unwrap();
        upgrade
    }

    fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join("m.dolmen")
    }

    fn kept(&self) -> PathBuf {
        self.path().with_file_name("m.dolmen.v1.0.bak")
    }
}

fn version_of(bytes: &[u8]) -> Result<String, String> {
    saves::read(bytes)?;
    let opened = dolmen::Checkpoint::from_bytes(bytes).map_err(|e| e.to_string())?;
    let metadata = opened.metadata().map_err(|e| e.to_string())?;
    metadata.get("version").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| "no version".to_owned())
}

impl Workload for Upgrade {
    fn name(&self) -> String {
        "an upgrade that keeps the original".to_owned()
    }

    fn disk(&self) -> Disk {
        Disk::new(Tree::new().with(self.path(), &self.old)).behave(|b| b.longest_write = 4000)
    }

    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, _: usize) -> Result<(), String> {
        let step = |content: &mut dolmen::lifecycle::Content<'_>| content.set("pooling", "mean");
        let versions = Versions::new("example", "2.0").and_then(|v| v.step("1.0", "2.0", step));
        let options = UpgradeOptions::new().backup(true).save(SaveOptions::new().file_system(saving_in.clone()));
        disk.begin(1);
        if disk.read(self.path()).as_ref() == Some(&self.old) {
            versions.unwrap().upgrade_with(self.path(), &options).map_err(|e| e.to_string())?;
        } else {
            // It was upgraded just before the crash: whoever finds it so has nothing to do, but to see that it stays.
            let directory = saving_in.open_directory(self.directory.path()).map_err(|e| e.to_string())?;
            directory.sync().map_err(|e| e.to_string())?;
            dolmen::commit::sweep_in(&**saving_in, self.directory.path()).map_err(|e| e.to_string())?;
        }
        disk.done(1);
        Ok(())
    }

    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String> {
        let found = after.read(self.path()).ok_or("the file is gone")?;
        if found == self.old {
            return if done == 0 { Ok(()) } else { Err("upgraded, and the original is back".to_owned()) };
        }
        let version = version_of(&found)?;
        if version != "2.0" || begun == 0 {
            return Err(format!("the file has version {version}"));
        }
        match after.read(self.kept()) {
            Some(kept) if kept == self.old => Ok(()),
            Some(_) => Err("what was kept is not the original".to_owned()),
            None => Err("the original was to be kept, and is lost".to_owned()),
        }
    }
}
