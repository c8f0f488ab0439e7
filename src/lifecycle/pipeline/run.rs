//! [`Run`]: a pipeline going on, which records what becomes of each stage.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::fingerprint::Fingerprint;
use super::stage::Output;
use super::state::{PipelineState, StageStatus};
use super::store::Store;
use super::summary::Summary;
use super::survey::{Found, Survey};
use super::{Pipeline, PipelineError, ResumeOptions, Stage};
use crate::error::{Error, ErrorKind, Result};
use crate::lifecycle::failed::absolute;
use crate::lifecycle::{CheckpointError, CheckpointErrorKind, FailedCheckpoint, FailedLog};

const MADE_ADVICE: &str = "the stage is recorded as failed, and is done again when the pipeline is resumed";

const INPUT_ADVICE: &str = "it has changed since it was made: resume, and do the stage that makes it again";

/// Whether a stage need not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Complete,
    /// It is to be done; why, if it was complete before.
    Todo(Option<String>),
}

/// A pipeline going on. It holds the directory's lock until it is dropped.
///
/// ```no_run
/// # use dolmen::lifecycle::{Pipeline, PipelineError, ResumeOptions};
/// # fn work(name: &str) -> Result<(), PipelineError> { Ok(()) }
/// # fn go_on(pipeline: &Pipeline) -> Result<(), PipelineError> {
/// let mut run = pipeline.resume(&ResumeOptions::new())?;
/// println!("{}", run.summary());
/// while let Some(stage) = run.begin_next()? {
///     match work(stage.name()) {
///         Ok(()) => run.complete(stage)?,
///         Err(e) => {
///             run.fail(stage, &e)?;
///             return Err(e);
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Run {
    pub(super) pipeline: Pipeline,
    pub(super) options: ResumeOptions,
    pub(super) store: Store,
    pub(super) state: PipelineState,
    pub(super) standings: Vec<Standing>,
    pub(super) notes: Vec<String>,
    pub(super) log: FailedLog,
    /// What the log held when the run began, without what has passed since.
    pub(super) failed: Vec<FailedCheckpoint>,
    /// The attempt that may be completed, and how many there were.
    pub(super) current: Option<u64>,
    pub(super) attempts: u64,
}

/// A stage that has begun. Dropped, it stays in progress in the state and is done again.
#[derive(Debug)]
#[must_use = "a stage that is neither completed nor failed is done again"]
pub struct RunningStage {
    name: String,
    index: usize,
    attempt: u64,
    directory: PathBuf,
    inputs: Vec<PathBuf>,
    outputs: Vec<Output>,
    began: Instant,
}

impl RunningStage {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a path of the pipeline is: in its directory.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Where the files are that it reads: those named, and all outputs of the stages named.
    pub fn inputs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.inputs.iter().map(|path| self.directory.join(path))
    }

    /// Where the files are to be that it makes.
    pub fn outputs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.outputs.iter().map(|output| self.directory.join(&output.path))
    }

    /// Names a file of any kind that it has made, and that was not known before.
    pub fn add_output(&mut self, path: impl AsRef<Path>) {
        self.add(Output::file(path));
    }

    /// Names a checkpoint that it has made, and that was not known before.
    pub fn add_checkpoint(&mut self, path: impl AsRef<Path>) {
        self.add(Output::checkpoint(path));
    }

    fn add(&mut self, mut output: Output) {
        if let Ok(relative) = output.path.strip_prefix(&self.directory) {
            output.path = relative.to_path_buf();
        }
        match self.outputs.iter_mut().find(|known| known.path == output.path) {
            Some(known) => known.is_checkpoint |= output.is_checkpoint,
            None => self.outputs.push(output),
        }
    }
}

impl Run {
    /// What earlier stages have made, by where it is: the number of the stage, and what the file is known by.
    pub(super) fn made_before(&self, index: usize) -> BTreeMap<PathBuf, (usize, Option<Fingerprint>)> {
        let mut made = BTreeMap::new();
        for (number, stage) in self.pipeline.stages.iter().enumerate().take(index) {
            for output in &stage.outputs {
                made.insert(self.pipeline.resolve(&output.path), (number, None));
            }
            for (output, fingerprint) in self.state.outputs_of(&stage.name) {
                made.insert(self.pipeline.resolve(&output.path), (number, fingerprint));
            }
        }
        made
    }

    /// What the inputs of a stage that earlier stages made are known by now; or why that cannot be said.
    pub(super) fn inputs_made(&self, index: usize, stage: &Stage) -> Result<BTreeMap<PathBuf, Fingerprint>, String> {
        let made = self.made_before(index);
        let is_complete = |number: usize| self.standings.get(number) == Some(&Standing::Complete);
        let mut inputs = BTreeMap::new();
        for path in &stage.inputs {
            match made.get(&self.pipeline.resolve(path)) {
                Some((number, Some(fingerprint))) if is_complete(*number) => {
                    inputs.insert(path.clone(), fingerprint.clone());
                }
                Some(_) => return Err(format!("its input {} is made again", path.display())),
                None => {}
            }
        }
        for name in &stage.input_stages {
            let number = self.pipeline.names().position(|known| known == name).unwrap_or(usize::MAX);
            if !is_complete(number) {
                return Err(format!("stage {name}, which it reads from, is done again"));
            }
            for (output, fingerprint) in self.state.outputs_of(name) {
                inputs.extend(fingerprint.map(|fingerprint| (output.path, fingerprint)));
            }
        }
        Ok(inputs)
    }

    /// Why a complete stage is to be done again although its outputs are good: it ran on other inputs. All stages before it
    /// must be complete.
    fn why_stale(&self, index: usize, stage: &Stage) -> Option<String> {
        let now = match self.inputs_made(index, stage) {
            Ok(now) => now,
            Err(why) => return Some(why),
        };
        let known = self.state.inputs_of(&stage.name).unwrap_or_default();
        // What was recorded unread is trusted for as long as that is asked for.
        let is_trusted = |known: &Fingerprint| self.options.skip_checkpoint_validation && known.crc32.is_none();
        let is_same = |path: &PathBuf, now: &Fingerprint| {
            known.get(path).is_some_and(|known| known.is_same_content(now) || is_trusted(known))
        };
        if let Some((path, _)) = now.iter().find(|(path, fingerprint)| !is_same(path, fingerprint)) {
            return Some(format!("its input {} is no longer the one that it ran on", path.display()));
        }
        let mut gone = known.keys().filter(|path| !now.contains_key(*path) && !stage.inputs.contains(path));
        let gone = if stage.input_stages.is_empty() { None } else { gone.next() };
        gone.map(|path| format!("its input {} is no longer made", path.display()))
    }

    pub(super) fn look(&self) -> Survey<'_> {
        Survey { pipeline: &self.pipeline, options: &self.options, state: &self.state, failed: &self.failed }
    }

    /// The stage to go on with, and why it is to be done.
    fn find_next(&self) -> Option<(usize, Option<String>)> {
        self.pipeline.stages.iter().zip(&self.standings).enumerate().find_map(|(index, (stage, standing))| {
            match standing {
                Standing::Todo(why) => Some((index, why.clone())),
                Standing::Complete => self.why_stale(index, stage).map(|why| (index, Some(why))),
            }
        })
    }

    /// The stage to go on with; none if all are complete.
    pub fn next_stage(&self) -> Option<&str> {
        let (index, _) = self.find_next()?;
        self.pipeline.stages.get(index).map(Stage::name)
    }

    /// How far the pipeline has come, and what was found.
    pub fn summary(&self) -> Summary {
        let next = self.find_next();
        let next_index = next.map(|(index, _)| index);
        let mut summary = Summary {
            total: self.standings.len(),
            failed: self.failed.clone(),
            notes: self.notes.clone(),
            ..Summary::default()
        };
        for (index, (stage, standing)) in self.pipeline.stages.iter().zip(&self.standings).enumerate() {
            let why = match standing {
                Standing::Complete if next_index == Some(index) => self.why_stale(index, stage),
                Standing::Complete => {
                    summary.complete = summary.complete.saturating_add(1);
                    continue;
                }
                Standing::Todo(why) => why.clone(),
            };
            if let Some(why) = why {
                summary.notes.push(format!("Stage {} is done again: {why}", stage.name));
            }
        }
        summary.next = next_index.and_then(|index| self.pipeline.stages.get(index)).map(|stage| stage.name.clone());
        summary
    }

    /// The state as it was saved last.
    pub fn state(&self) -> &PipelineState {
        &self.state
    }

    /// Where the files are that a complete stage has made; none of one that is not complete.
    pub fn outputs_of(&self, stage: &str) -> Vec<PathBuf> {
        let is_complete = self.state.status(stage) == Some(StageStatus::Completed);
        let outputs = if is_complete { self.state.outputs_of(stage) } else { Vec::new() };
        outputs.into_iter().map(|(output, _)| self.pipeline.resolve(&output.path)).collect()
    }

    /// Begins the next stage: it is recorded as in progress, durably, when this returns. None if all are complete.
    ///
    /// A stage that was begun before and neither completed nor failed is begun again; so is one that failed.
    ///
    /// **Cost**: saves the state, reads once the files outside of the pipeline that the stage reads, and looks at its other inputs.
    ///
    /// # Errors
    /// [`Checkpoints`](PipelineError::Checkpoints) if an input is no longer what an earlier stage made;
    /// [`Other`](PipelineError::Other): [`NotFound`](ErrorKind::NotFound) if an input is not there; what saving the state says.
    pub fn begin_next(&mut self) -> Result<Option<RunningStage>, PipelineError> {
        self.current = None;
        let Some((index, why)) = self.find_next() else { return Ok(None) };
        let Some(stage) = self.pipeline.stages.get(index).cloned() else { return Ok(None) };
        let mut known = self
            .inputs_made(index, &stage)
            .map_err(|why| PipelineError::invalid(format!("stage {}: {why}", stage.name)))?;
        let mut inputs: Vec<PathBuf> = stage.inputs.clone();
        inputs.extend(known.keys().filter(|path| !stage.inputs.contains(path)).cloned());
        for path in &inputs {
            self.require_input(&stage, path, &mut known)?;
        }
        let mut state = self.state.clone();
        state.begin(&stage.name, &now(), &inputs, &known);
        self.save(state)?;
        if let Some(standing) = self.standings.get_mut(index) {
            *standing = Standing::Todo(why);
        }
        self.attempts = self.attempts.saturating_add(1);
        self.current = Some(self.attempts);
        Ok(Some(RunningStage {
            name: stage.name,
            index,
            attempt: self.attempts,
            directory: self.pipeline.directory.clone(),
            inputs,
            outputs: stage.outputs,
            began: Instant::now(),
        }))
    }

    fn require_input(
        &self,
        stage: &Stage,
        path: &Path,
        known: &mut BTreeMap<PathBuf, Fingerprint>,
    ) -> Result<(), PipelineError> {
        let missing = |e: io::Error| {
            let kind = if e.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Io };
            Error::new(kind, format!("stage {} cannot begin: its input cannot be read: {e}", stage.name))
                .with_path(self.pipeline.resolve(path))
        };
        if let Some(made) = known.get(path).cloned() {
            std::fs::metadata(self.pipeline.resolve(path)).map_err(missing)?;
            // It may have changed since it was made, or be trusted unread: what is recorded is what the stage runs on.
            let found = self.look().made_input(path, &made);
            let found = found.map_err(|e| PipelineError::Checkpoints { errors: vec![e], advice: INPUT_ADVICE })?;
            known.insert(path.to_path_buf(), found);
        } else if let Some(fingerprint) = self.look().external_input(path).map_err(missing)? {
            known.insert(path.to_path_buf(), fingerprint);
        }
        Ok(())
    }

    /// Records a stage as complete, durably when this returns, with what its outputs are known by and how long it took.
    ///
    /// Its outputs are looked at first, and flushed to the device: they must be there and pass. If only the state cannot be saved,
    /// it can be tried again with a reference to the stage. If outputs are bad the stage is recorded as failed; if they cannot be
    /// flushed it has to be done again.
    ///
    /// **Cost**: validates checkpoints as the options say; reads the other outputs once.
    ///
    /// # Errors
    /// [`Checkpoints`](PipelineError::Checkpoints) names the outputs that are missing or bad; [`Other`](PipelineError::Other) if the
    /// stage is not the one that runs or names a file that is not its own, or something cannot be read, flushed or saved.
    pub fn complete(&mut self, stage: impl Borrow<RunningStage>) -> Result<(), PipelineError> {
        let running = stage.borrow();
        let seconds = running.began.elapsed().as_secs_f64();
        let defined = self.running(running)?.clone();
        let not_text = running.outputs.iter().find(|output| output.path.to_str().is_none());
        if let Some(output) = not_text {
            let why = format!(
                "stage {} made {:?}, which is not text: a state file cannot hold it",
                running.name, output.path
            );
            return Err(PipelineError::invalid(why));
        }
        self.require_own_outputs(running)?;
        let errors = match self.look().made(&defined, running.outputs.clone()) {
            Found::Good(outputs) => {
                if let Err(e) = flush(running.outputs().collect()) {
                    // Never a second time: the kernel then takes the pages for written, with the bytes lost.
                    self.current = None;
                    return Err(e.into());
                }
                // Where an output that was named only now is, no resume has looked; and a save that was killed after its rename
                // has not swept what an earlier one left.
                let directories: BTreeSet<PathBuf> =
                    running.outputs().filter_map(|path| Some(path.parent()?.to_path_buf())).collect();
                directories.iter().for_each(|directory| self.store.sweep(directory));
                let mut state = self.state.clone();
                let seconds = (seconds * 1e6).round() / 1e6;
                state.complete(&running.name, &outputs, &now(), Some(seconds));
                self.save(state)?;
                self.current = None;
                if let Some(standing) = self.standings.get_mut(running.index) {
                    *standing = Standing::Complete;
                }
                self.forget(&running.outputs().collect::<Vec<_>>());
                return Ok(());
            }
            Found::Missing(path) => {
                let why = format!("stage {} says that it is complete, but has not made this output", running.name);
                vec![CheckpointError::new(path, CheckpointErrorKind::Corrupted, why)]
            }
            Found::Bad(errors) => {
                self.remember(&errors);
                errors
            }
        };
        let e = PipelineError::Checkpoints { errors, advice: MADE_ADVICE };
        self.record_failure(running, &e)?;
        Err(e)
    }

    /// Refuses files that were named only now and are those of another stage, or what the stage itself reads.
    fn require_own_outputs(&self, running: &RunningStage) -> Result<(), PipelineError> {
        let others = self.pipeline.stages.iter().enumerate().filter(|(index, _)| *index != running.index);
        let declared = others.flat_map(|(_, stage)| &stage.outputs).map(|output| self.pipeline.resolve(&output.path));
        let mut taken: BTreeSet<PathBuf> = self.made_before(running.index).into_keys().collect();
        taken.extend(declared.chain(running.inputs()));
        match running.outputs().find(|path| taken.contains(path)) {
            Some(path) => Err(PipelineError::invalid(format!(
                "stage {} names {path:?} as its output, which is its input or made by another stage",
                running.name
            ))),
            None => Ok(()),
        }
    }

    /// Records a stage as failed, durably when this returns, and why. [`begin_next`](Run::begin_next) begins it again.
    ///
    /// # Errors
    /// [`Other`](PipelineError::Other) if the stage is not the one that runs, or the state cannot be saved.
    pub fn fail(&mut self, stage: impl Borrow<RunningStage>, error: &dyn Display) -> Result<(), PipelineError> {
        let running = stage.borrow();
        self.running(running)?;
        self.record_failure(running, error)?;
        self.current = None;
        Ok(())
    }

    fn record_failure(&mut self, running: &RunningStage, error: &dyn Display) -> Result<(), PipelineError> {
        let mut state = self.state.clone();
        state.fail(&running.name, &error.to_string(), &now());
        self.save(state)
    }

    /// Does all stages that are to be done, in order, until one fails.
    ///
    /// # Errors
    /// [`Stage`](PipelineError::Stage) with the error of the work, which is recorded; if it is a [`CheckpointError`], or an [`Error`] of
    /// corruption, about what an earlier stage made, that is remembered as failed. And those of [`begin_next`](Run::begin_next)
    /// and [`complete`](Run::complete).
    pub fn run_all<E>(&mut self, mut work: impl FnMut(&mut RunningStage) -> Result<(), E>) -> Result<(), PipelineError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        while let Some(mut stage) = self.begin_next()? {
            match work(&mut stage) {
                Ok(()) => self.complete(&stage)?,
                Err(e) => {
                    let source = e.into();
                    self.remember_input(stage.index, &*source);
                    self.fail(&stage, &source)?;
                    return Err(PipelineError::Stage { name: stage.name, source });
                }
            }
        }
        Ok(())
    }

    /// Remembers an input that a stage found bad and that an earlier stage made: the next resume validates it in full, and does
    /// not go on as if it were good.
    fn remember_input(&mut self, index: usize, source: &(dyn std::error::Error + 'static)) {
        let found = match (source.downcast_ref::<CheckpointError>(), source.downcast_ref::<Error>()) {
            (Some(e), _) => Some((e.path.clone(), e.kind, e.message.clone())),
            (None, Some(e)) if e.is_corruption() => {
                e.path().map(|path| (path.to_path_buf(), CheckpointErrorKind::Corrupted, e.reason()))
            }
            _ => None,
        };
        let Some((path, kind, message)) = found else { return };
        let made = self.made_before(index);
        if made.keys().any(|known| absolute(known) == absolute(&path)) {
            self.remember(&[CheckpointError::new(path, kind, message)]);
        }
    }

    /// Remembers the checkpoints that failed, but for those that are remembered with the same words. That it could not be done is not
    /// worth losing the errors themselves.
    pub(super) fn remember(&mut self, errors: &[CheckpointError]) {
        let is_new = |e: &&CheckpointError| {
            e.kind != CheckpointErrorKind::Unreadable
                && !self.failed.iter().any(|known| known.path == e.path && known.reason == e.reason())
        };
        if let Err(e) = self.log.append_many(errors.iter().filter(is_new)) {
            self.notes.push(format!("The failed checkpoints could not be remembered: {e}"));
        }
    }

    /// Forgets the checkpoints that pass again.
    pub(super) fn forget(&mut self, passed: &[PathBuf]) {
        if self.options.skip_checkpoint_validation {
            return;
        }
        if let Err(e) = self.log.clear(passed) {
            self.notes.push(format!("The checkpoints that pass again are still remembered as failed: {e}"));
        }
        let passed: BTreeSet<PathBuf> = passed.iter().map(|path| absolute(path)).collect();
        self.failed.retain(|known| !passed.contains(&absolute(&known.path)));
    }

    /// The definition of a stage that runs.
    fn running(&self, running: &RunningStage) -> Result<&Stage, PipelineError> {
        let stage = self.pipeline.stages.get(running.index).filter(|stage| stage.name == running.name);
        match stage {
            Some(stage) if self.current == Some(running.attempt) => Ok(stage),
            _ => Err(PipelineError::invalid(format!(
                "stage {} is not running: it was begun again, or has ended",
                running.name
            ))),
        }
    }

    /// Saves a state, and takes it for the one that there is as soon as it is visible.
    pub(super) fn save(&mut self, mut state: PipelineState) -> Result<(), PipelineError> {
        state.touch(&now());
        match self.store.write(&state) {
            Err(e) if e.kind() != ErrorKind::NotDurable => Err(e.into()),
            written => {
                self.state = state;
                Ok(written?)
            }
        }
    }
}

/// The time, as the state file has it.
pub(super) fn now() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.6}")
}

/// Flushes files that a stage has made, and the directories that they are in, so that no crash takes back what the state says.
#[cfg(unix)]
fn flush(paths: Vec<PathBuf>) -> Result<()> {
    use crate::commit::file_system::{FileSystem, uninterrupted};
    use crate::commit::{RealFileSystem, flush_file};
    let doing = |path: &Path, e| Error::io("cannot flush an output to the device", e).with_path(path);
    let mut directories = BTreeSet::new();
    for path in &paths {
        // Where a link leads is what must be there.
        let path = path.canonicalize().map_err(|e| doing(path, e))?;
        // Not `File::sync_all`: it repeats a flush that a signal interrupted; see the rules of `commit`.
        std::fs::File::open(&path).and_then(|file| flush_file(&file)).map_err(|e| doing(&path, e))?;
        directories.extend(path.parent().map(Path::to_path_buf));
    }
    for directory in directories {
        let open = uninterrupted(|| RealFileSystem.open_directory(&directory));
        open.and_then(|open| open.sync()).map_err(|e| doing(&directory, e))?;
    }
    Ok(())
}

/// Only a file that is open for writing can be flushed here, and outputs may be read-only.
#[cfg(not(unix))]
fn flush(_: Vec<PathBuf>) -> Result<()> {
    Ok(())
}
