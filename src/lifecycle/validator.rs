//! [`Validator`]: what is asked of a checkpoint before it is used.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::level::Level;
use crate::error::Result;
use crate::read::Checkpoint;
use crate::source::ReadAt;

/// What is asked of a checkpoint: all [levels](Level), or all but those that read data.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Validator {
    quick: bool,
    required_keys: Vec<String>,
}

/// A checkpoint that passed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Validated {
    /// Where it is.
    pub path: PathBuf,
}

/// What became of many checkpoints.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// Those that passed, in the order in which they were given.
    pub valid: Vec<Validated>,
    /// Those that did not, in the order in which they were given.
    pub failed: Vec<CheckpointError>,
}

impl Validator {
    /// Everything but keys and shapes, which it cannot know.
    pub fn new() -> Validator {
        Validator::default()
    }

    /// Whether to read no data: all levels but [`Level::Checksums`].
    pub fn quick(mut self, quick: bool) -> Validator {
        self.quick = quick;
        self
    }

    /// Keys that the dictionary must have.
    pub fn required_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Validator {
        self.required_keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Validates the checkpoint at a path.
    ///
    /// # Errors
    /// The first level that it does not pass.
    pub fn validate(&self, path: impl AsRef<Path>) -> Result<Validated, CheckpointError> {
        let path = path.as_ref();
        let checkpoint = Checkpoint::open_on_demand(path).map_err(|e| CheckpointError::of(path, e))?;
        self.validate_open(&checkpoint)
    }

    /// Validates a checkpoint that is open: the levels from [`Level::StructurallyValid`] on.
    ///
    /// # Errors
    /// The first level that it does not pass.
    pub fn validate_open(&self, checkpoint: &Checkpoint) -> Result<Validated, CheckpointError> {
        let path = checkpoint.path().unwrap_or(Path::new(""));
        checkpoint.check_index().map_err(|e| CheckpointError::of(path, e).at_level(Level::StructurallyValid))?;
        Ok(Validated { path: path.to_path_buf() })
    }

    /// Validates the file that a save has finished and not yet put in place.
    ///
    /// # Errors
    /// The first level that it does not pass, as an error of the crate.
    pub fn validate_source(&self, file: &dyn ReadAt) -> Result<()> {
        crate::read::verify_source(file, &crate::read::VerifyOptions::default())?.into_result()
    }

    /// Validates checkpoints in parallel.
    pub fn validate_all<P: AsRef<Path> + Sync>(&self, paths: &[P]) -> Batch {
        let mut batch = Batch::default();
        for path in paths {
            match self.validate(path) {
                Ok(valid) => batch.valid.push(valid),
                Err(e) => batch.failed.push(e),
            }
        }
        batch
    }
}
