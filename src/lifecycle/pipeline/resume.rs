//! How a [`Run`] begins: the state is read, and what completed stages made is looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::run::{Standing, now};
use super::state::{PipelineState, StageStatus};
use super::store::Store;
use super::survey::{Found, Survey};
use super::{Pipeline, PipelineError, ResumeOptions, Run, Stage};
use crate::commit::create_directories;
use crate::lifecycle::{CheckpointError, CheckpointErrorKind, FailedLog};

const FORCE_ADVICE: &str = "restore them from a copy, or resume with --force-resume: their stages are done again";
const UNREADABLE_ADVICE: &str =
    "nothing is known of what cannot be read: see to the disk and to permissions, and try again";

impl Run {
    pub(super) fn resume(pipeline: &Pipeline, options: &ResumeOptions) -> Result<Run, PipelineError> {
        let mut run = Run::open(pipeline, options)?;
        let mut changed = false;
        let mut is_lost = false;
        match run.store.read() {
            Ok(Some(state)) => run.state = state,
            Ok(None) => changed = true,
            Err(e) if e.kind == CheckpointErrorKind::Corrupted && options.force_resume => {
                (changed, is_lost) = (true, true);
            }
            Err(e) => return Err(e.into()),
        }
        let is_new = changed;
        if !is_new && run.is_config_changed()? {
            if !options.restart_on_config_change {
                return Err(run.config_changed()?);
            }
            run.note_config_change()?;
            run.begin_anew("before-config-change")?;
            return Ok(run);
        }
        changed |= run.adopt(is_new)?;
        changed |= run.survey(is_lost)?;
        if is_lost {
            let kept = run.store.keep("corrupted")?;
            run.notes.push(format!("The pipeline's state was corrupted; it is kept as {}", kept.display()));
        }
        if changed {
            let state = run.state.clone();
            run.save(state)?;
        }
        Ok(run)
    }

    pub(super) fn restart(pipeline: &Pipeline, options: &ResumeOptions) -> Result<Run, PipelineError> {
        let mut run = Run::open(pipeline, options)?;
        run.begin_anew("before-restart")?;
        Ok(run)
    }

    /// Takes the lock and sweeps; the state is an initial one.
    fn open(pipeline: &Pipeline, options: &ResumeOptions) -> Result<Run, PipelineError> {
        pipeline.check()?;
        pipeline.config.python_json()?;
        if pipeline.directory != pipeline.state_directory {
            create_directories(&**options.save.saves_in(), &pipeline.directory)?;
        }
        let store = Store::open(&pipeline.state_directory, &options.save, &now())?;
        let state = PipelineState::initial(store.path(), &now(), pipeline.names());
        let mut notes = Vec::new();
        if !store.is_locked() {
            notes.push(
                "This file system has no locks: nothing keeps two processes from running this pipeline".to_owned(),
            );
        }
        let log = FailedLog::in_directory(&pipeline.state_directory).file_system(options.save.saves_in().clone());
        let failed = log.entries().unwrap_or_else(|e| {
            notes.push(format!("The failed checkpoints of previous runs could not be read: {e}"));
            Vec::new()
        });
        let run = Run {
            pipeline: pipeline.clone(),
            options: options.clone(),
            store,
            state,
            standings: vec![Standing::Todo(None); pipeline.stages.len()],
            notes,
            log,
            failed,
            current: None,
            attempts: 0,
        };
        let outputs = pipeline.stages.iter().flat_map(|stage| &stage.outputs);
        let mut directories: BTreeSet<PathBuf> =
            outputs.filter_map(|output| Some(pipeline.resolve(&output.path).parent()?.to_path_buf())).collect();
        directories.insert(pipeline.state_directory.clone());
        directories.iter().for_each(|directory| run.store.sweep(directory));
        Ok(run)
    }

    /// Keeps the state that there is, and begins with an initial one.
    fn begin_anew(&mut self, reason: &str) -> Result<(), PipelineError> {
        match self.store.read() {
            Ok(None) => {}
            Err(e) if e.kind == CheckpointErrorKind::Unreadable => return Err(e.into()),
            Ok(Some(_)) | Err(_) => {
                let kept = self.store.keep(reason)?;
                self.notes.push(format!("Starting over; the state of before is kept as {}", kept.display()));
            }
        }
        let mut state = PipelineState::initial(self.store.path(), &now(), self.pipeline.names());
        self.set_config(&mut state)?;
        self.save(state)
    }

    fn set_config(&self, state: &mut PipelineState) -> Result<(), PipelineError> {
        state.set_config(&self.pipeline.config.hash()?, self.pipeline.config.to_json());
        Ok(())
    }

    fn is_config_changed(&self) -> Result<bool, PipelineError> {
        Ok(self.state.config_hash() != Some(&self.pipeline.config.hash()?))
    }

    fn config_changed(&self) -> Result<PipelineError, PipelineError> {
        Ok(PipelineError::ConfigChanged {
            path: self.store.path().to_path_buf(),
            changes: self.pipeline.config.changes_from(self.state.config(), &self.state.partial_config()),
            old_hash: self.state.config_hash().map(str::to_owned),
            new_hash: self.pipeline.config.hash()?,
        })
    }

    fn note_config_change(&mut self) -> Result<(), PipelineError> {
        let PipelineError::ConfigChanged { changes, .. } = self.config_changed()? else { return Ok(()) };
        self.notes.push("The configuration has changed since this pipeline began".to_owned());
        self.notes.extend(changes.iter().map(|change| format!("  {change}")));
        Ok(())
    }

    /// Brings a state that was read to this pipeline's stages and configuration; whether there was anything to do.
    fn adopt(&mut self, is_new: bool) -> Result<bool, PipelineError> {
        let before = self.state.to_bytes();
        let names: Vec<String> = self.pipeline.names().map(str::to_owned).collect();
        self.state.order(names.iter().map(String::as_str));
        if is_new || self.state.config().is_none() {
            let mut state = self.state.clone();
            self.set_config(&mut state)?;
            self.state = state;
        }
        Ok(self.state.to_bytes() != before)
    }

    /// Looks at every stage that the state, or a marker, calls complete; whether the state has changed by that.
    fn survey(&mut self, is_lost: bool) -> Result<bool, PipelineError> {
        let before = self.state.to_bytes();
        let recorded = self.state.clone();
        // Of states that this crate writes none says less than a marker would, which may be older than it.
        let has_markers = self.state.is_of_original() || self.state.updated_at().is_none();
        let mut bad = Vec::new();
        let mut passed = Vec::new();
        for index in 0..self.pipeline.stages.len() {
            let Some(stage) = self.pipeline.stages.get(index).cloned() else { break };
            let standing = match self.state.status(&stage.name) {
                Some(StageStatus::Completed) => self.survey_completed(&stage, &mut bad),
                None | Some(StageStatus::NotStarted | StageStatus::InProgress) if has_markers => {
                    self.survey_unrecorded(&stage, is_lost)
                }
                _ => Standing::Todo(None),
            };
            let standing = match standing {
                Standing::Complete => self.survey_inputs(index, &stage, &recorded),
                todo => todo,
            };
            if standing == Standing::Complete {
                passed.extend(self.outputs_of(&stage.name));
            }
            if let Some(place) = self.standings.get_mut(index) {
                *place = standing;
            }
        }
        self.forget(&passed);
        self.remember(&bad);
        let is_unreadable = bad.iter().any(|e| e.kind == CheckpointErrorKind::Unreadable);
        if is_unreadable || (!bad.is_empty() && !self.options.force_resume) {
            let advice = if is_unreadable { UNREADABLE_ADVICE } else { FORCE_ADVICE };
            return Err(PipelineError::Checkpoints { errors: bad, advice });
        }
        Ok(self.state.to_bytes() != before)
    }

    /// An input of a stage that an earlier one had made, by a state whose word on that stage no longer counts.
    fn made_again<'s>(&self, index: usize, stage: &'s Stage, recorded: &PipelineState) -> Option<&'s PathBuf> {
        let look = Survey { state: recorded, ..self.look() };
        let earlier = self.pipeline.stages.iter().zip(&self.standings).take(index);
        let again = earlier.filter(|(_, standing)| **standing != Standing::Complete);
        let made: BTreeSet<PathBuf> =
            again.flat_map(|(stage, _)| look.outputs_of(stage)).map(|(_, path, _)| path).collect();
        stage.inputs.iter().find(|path| made.contains(&self.pipeline.resolve(path)))
    }

    fn survey_completed(&mut self, stage: &Stage, bad: &mut Vec<CheckpointError>) -> Standing {
        let name = &stage.name;
        match self.look().completed(stage) {
            Found::Good(outputs) => {
                if self
                    .state
                    .outputs_of(name)
                    .iter()
                    .map(|(_, known)| known.as_ref())
                    .ne(outputs.iter().map(|(_, f)| Some(f)))
                {
                    self.state.set_known_outputs(name, &outputs);
                }
                Standing::Complete
            }
            Found::Missing(path) => {
                self.state.reset(name);
                Standing::Todo(Some(format!("its output {} is missing", path.display())))
            }
            Found::Bad(errors) => {
                let why = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
                // So that the next run needs no force.
                self.state.fail(name, &why, &now());
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                bad.extend(errors);
                Standing::Todo(Some(first))
            }
        }
    }

    fn survey_unrecorded(&mut self, stage: &Stage, is_lost: bool) -> Standing {
        match self.look().unrecorded(stage, is_lost) {
            Some(outputs) => {
                self.state.complete(&stage.name, &outputs, &now(), None);
                Standing::Complete
            }
            None => Standing::Todo(None),
        }
    }

    /// Whether the inputs of a complete stage are those it ran on; where that was not recorded, those that there are now are
    /// taken for them if none is made again.
    fn survey_inputs(&mut self, index: usize, stage: &Stage, recorded: &PipelineState) -> Standing {
        let Some(known) = self.state.inputs_of(&stage.name) else {
            let inputs = match self.made_again(index, stage, recorded) {
                Some(path) => Err(format!("its input {} is made again", path.display())),
                None => self.inputs_made(index, stage),
            };
            return match inputs {
                Ok(mut inputs) => {
                    for path in &stage.inputs {
                        if !inputs.contains_key(path) {
                            inputs.extend(self.look().adopted_input(path).map(|known| (path.clone(), known)));
                        }
                    }
                    if !inputs.is_empty() {
                        self.state.set_known_inputs(&stage.name, &inputs);
                    }
                    Standing::Complete
                }
                Err(why) => {
                    // Or a run after a crash would take what there is then for what it ran on.
                    self.state.reset(&stage.name);
                    Standing::Todo(Some(why))
                }
            };
        };
        if self.options.skip_checkpoint_validation {
            return Standing::Complete;
        }
        let made = self.made_before(index);
        let changed = stage
            .inputs
            .iter()
            .filter(|path| !made.contains_key(&self.pipeline.resolve(path)))
            .find(|path| known.get(*path).is_some_and(|known| self.look().is_external_input_changed(path, known)));
        match changed {
            Some(path) => Standing::Todo(Some(format!("its input {} has changed", path.display()))),
            None => Standing::Complete,
        }
    }
}
