//! [`Stage`]: a step of a pipeline, with what it reads and what it makes.

use std::path::{Path, PathBuf};

use crate::lifecycle::Validator;

/// A step of a pipeline: its name, the files it reads and the files it makes.
///
/// Paths are relative to the pipeline's directory.
#[derive(Clone, Debug)]
#[must_use]
pub struct Stage {
    pub(super) name: String,
    pub(super) inputs: Vec<PathBuf>,
    /// Stages all of whose outputs it reads.
    pub(super) input_stages: Vec<String>,
    pub(super) outputs: Vec<Output>,
    pub(super) validator: Option<Validator>,
}

/// A file that a stage makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) path: PathBuf,
    /// Whether it must pass a validator.
    pub(super) is_checkpoint: bool,
}

impl Output {
    pub(super) fn file(path: impl AsRef<Path>) -> Output {
        Output { path: path.as_ref().to_path_buf(), is_checkpoint: false }
    }

    pub(super) fn checkpoint(path: impl AsRef<Path>) -> Output {
        Output { path: path.as_ref().to_path_buf(), is_checkpoint: true }
    }
}

impl Stage {
    /// A stage that reads and makes nothing yet. The name is what the state file and the summary call it.
    pub fn new(name: impl Into<String>) -> Stage {
        Stage { name: name.into(), inputs: Vec::new(), input_stages: Vec::new(), outputs: Vec::new(), validator: None }
    }

    /// A file that it reads. It must be there when the stage begins; if it is another one later, the stage is done again.
    ///
    /// A directory can be named as well; only that it is there is looked at then.
    pub fn input(mut self, path: impl AsRef<Path>) -> Stage {
        self.inputs.push(path.as_ref().to_path_buf());
        self
    }

    /// Files that it reads.
    pub fn inputs<P: AsRef<Path>>(mut self, paths: impl IntoIterator<Item = P>) -> Stage {
        self.inputs.extend(paths.into_iter().map(|path| path.as_ref().to_path_buf()));
        self
    }

    /// An earlier stage all of whose outputs it reads, also those that are known only when that stage has run.
    pub fn inputs_from(mut self, stage: impl Into<String>) -> Stage {
        self.input_stages.push(stage.into());
        self
    }

    /// A file of any kind that it makes. It counts for as long as it has the length and the CRC-32 that it had when the stage was
    /// completed.
    pub fn output(mut self, path: impl AsRef<Path>) -> Stage {
        self.outputs.push(Output::file(path));
        self
    }

    /// Files of any kind that it makes.
    pub fn outputs<P: AsRef<Path>>(mut self, paths: impl IntoIterator<Item = P>) -> Stage {
        self.outputs.extend(paths.into_iter().map(Output::file));
        self
    }

    /// A checkpoint that it makes. It counts for as long as it also passes the validator.
    pub fn checkpoint(mut self, path: impl AsRef<Path>) -> Stage {
        self.outputs.push(Output::checkpoint(path));
        self
    }

    /// Checkpoints that it makes.
    pub fn checkpoints<P: AsRef<Path>>(mut self, paths: impl IntoIterator<Item = P>) -> Stage {
        self.outputs.extend(paths.into_iter().map(Output::checkpoint));
        self
    }

    /// What is asked of its checkpoints, if it is not what the pipeline asks. Whether data is read,
    /// [`ResumeOptions::full`](super::ResumeOptions::full) says.
    pub fn validator(mut self, validator: Validator) -> Stage {
        self.validator = Some(validator);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
