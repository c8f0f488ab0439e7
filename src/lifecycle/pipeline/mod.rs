//! Pipelines that resume: stages with what they read and make, a state that survives any crash, and what to do next.
//!
//! [`Pipeline`] is the definition. [`resume`](Pipeline::resume) takes the directory's lock, reads the state, looks at what completed
//! stages made and gives a [`Run`], which says which stage comes next and records what becomes of it. [`PipelineState`] reads a state
//! file alone.
//!
//! A stage counts as complete only if its outputs are there, are the ones it was completed with and pass validation, and if
//! its inputs are still those it ran on. What a stage did and what the state says of it can differ after a crash in one
//! direction only: it is done and not recorded, and is done again.

mod config;
mod error;
mod fingerprint;
mod options;
mod resume;
mod run;
mod stage;
mod state;
mod store;
mod summary;
mod survey;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use config::ConfigChange;
pub use error::PipelineError;
pub use options::ResumeOptions;
pub use run::{Run, RunningStage};
pub use stage::Stage;
pub use state::{PipelineState, STATE_FILE, StageRecord, StageStatus};
pub use summary::Summary;

use self::config::Config;
use super::Validator;
use crate::format::value::Value;

/// A pipeline: a directory, a configuration, and stages in their order.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use dolmen::lifecycle::{Pipeline, ResumeOptions, Stage};
///
/// let pipeline = Pipeline::new(dir.path())
///     .config("length", 500)
///     .stage(Stage::new("CHUNKING").output("chunks.fa"))
///     .stage(Stage::new("FEATURES").input("chunks.fa").checkpoint("features.dolmen"));
///
/// let mut run = pipeline.resume(&ResumeOptions::new())?;
/// assert_eq!(run.summary().to_string(), "Progress: 0/2 stages complete, resuming from: CHUNKING");
/// run.run_all(|stage| {
///     // In another process after a crash, this goes on where it stopped.
///     match stage.name() {
///         "CHUNKING" => std::fs::write(stage.path("chunks.fa"), ">seq1\nACGT\n").map_err(dolmen_io),
///         _ => {
///             let mut features = dolmen::Builder::new();
///             features.tensor("mean", (&[0.5f32; 4], [4]))?;
///             features.save(stage.path("features.dolmen"))
///         }
///     }
/// })?;
/// assert_eq!(run.summary().to_string(), "Progress: 2/2 stages complete");
/// # fn dolmen_io(e: std::io::Error) -> dolmen::Error { dolmen::Error::io("cannot write", e) }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Pipeline {
    directory: PathBuf,
    state_directory: PathBuf,
    config: Config,
    stages: Vec<Stage>,
    validator: Validator,
}

impl Pipeline {
    /// A pipeline without stages in a directory, which is made when it runs. Relative paths of stages are relative to it.
    pub fn new(directory: impl AsRef<Path>) -> Pipeline {
        let directory = directory.as_ref();
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory }.to_path_buf();
        Pipeline {
            state_directory: directory.clone(),
            directory,
            config: Config::default(),
            stages: Vec::new(),
            validator: Validator::new(),
        }
    }

    /// Where `pipeline_state.json`, the lock and `failed_checkpoints.txt` are, relative to the directory: the directory itself, if
    /// not given; the original has them in `.checkpoints`.
    pub fn state_in(mut self, directory: impl AsRef<Path>) -> Pipeline {
        self.state_directory = self.directory.join(directory);
        self
    }

    /// Something that the pipeline was told and its results depend on. If one of these changes, what completed stages made no
    /// longer counts, and resuming fails or starts over.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<Value>) -> Pipeline {
        self.config.set(key.into(), value.into());
        self
    }

    /// The next stage.
    pub fn stage(mut self, stage: Stage) -> Pipeline {
        self.stages.push(stage);
        self
    }

    /// What is asked of the checkpoints that stages make. Whether data is read, [`ResumeOptions::full`] says.
    pub fn validator(mut self, validator: Validator) -> Pipeline {
        self.validator = validator;
        self
    }

    /// The SHA-256 of the configuration: of what Python's `json.dumps(config, sort_keys=True)` gives, as in the original.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a value that JSON does not have.
    pub fn config_hash(&self) -> crate::Result<String> {
        self.config.hash()
    }

    /// Takes the directory's lock, reads the state and looks at what completed stages made.
    ///
    /// Unfinished saves of killed processes are [swept away](crate::commit::sweep()) in the directory of the state and in those of the
    /// stages' outputs; in those of outputs that are named only when a stage has run, when it is completed.
    ///
    /// **Cost**: quick validation of each checkpoint of completed stages, but full validation of one that is remembered as failed or whose
    /// modification time is not as it was; once, of what another program completed, its inputs from outside are read. Other
    /// files are read again only if their modification time is not as it was: a change that leaves it is found by
    /// [`ResumeOptions::full`] alone.
    ///
    /// # Errors
    /// [`Locked`](PipelineError::Locked); [`ConfigChanged`](PipelineError::ConfigChanged);
    /// [`Checkpoints`](PipelineError::Checkpoints) if the state file or outputs of completed stages are corrupted, incompatible or
    /// unreadable; [`Other`](PipelineError::Other) if there is no stage, two have the same name or make the same file, or one reads
    /// what a later one makes, and if something cannot be read or saved.
    pub fn resume(&self, options: &ResumeOptions) -> Result<Run, PipelineError> {
        Run::resume(self, options)
    }

    /// Starts over: nothing that stages made before counts. The state of before is kept beside the new one.
    ///
    /// # Errors
    /// Those of [`resume`](Pipeline::resume) that do not come from the state or the outputs.
    pub fn restart(&self, options: &ResumeOptions) -> Result<Run, PipelineError> {
        Run::restart(self, options)
    }

    /// A stage's path, relative to the directory.
    fn resolve(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(Stage::name)
    }

    /// Refuses a definition that cannot be.
    fn check(&self) -> Result<(), PipelineError> {
        if self.stages.is_empty() {
            return Err(PipelineError::invalid("a pipeline without stages cannot run"));
        }
        let mut names = BTreeSet::new();
        let mut made = BTreeSet::new();
        let all_made: BTreeSet<PathBuf> =
            self.stages.iter().flat_map(|stage| &stage.outputs).map(|output| self.resolve(&output.path)).collect();
        for stage in &self.stages {
            let name = &stage.name;
            let wrong = |why: &str| Err(PipelineError::invalid(format!("stage {name:?} {why}")));
            for path in stage.inputs.iter().chain(stage.outputs.iter().map(|output| &output.path)) {
                if path.to_str().is_none() {
                    return wrong(&format!("names {path:?}, which is not text: a state file cannot hold it"));
                }
            }
            for input in stage.inputs.iter().map(|path| self.resolve(path)) {
                if all_made.contains(&input) && !made.contains(&input) {
                    return wrong(&format!("reads {input:?}, which no earlier stage makes"));
                }
            }
            for earlier in &stage.input_stages {
                if !names.contains(earlier) {
                    return wrong(&format!("reads what {earlier:?} makes, which is no earlier stage"));
                }
            }
            for output in &stage.outputs {
                if !made.insert(self.resolve(&output.path)) {
                    return wrong(&format!("makes {:?}, which is made already", output.path));
                }
            }
            if !names.insert(name.clone()) {
                return wrong("occurs twice");
            }
        }
        Ok(())
    }
}
