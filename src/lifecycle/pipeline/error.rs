//! [`PipelineError`]: why a pipeline does not go on.

use std::fmt;
use std::path::PathBuf;

use super::config::ConfigChange;
use crate::error::Error;
use crate::lifecycle::{CHECKPOINT_EXIT_CODE, CheckpointError, LockHolder};

/// Why a pipeline does not go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum PipelineError {
    /// Checkpoints or other outputs of stages cannot be used; or the state file, which is then the only one.
    Checkpoints {
        /// At least one, in the order of the stages.
        errors: Vec<CheckpointError>,
        /// What can be done about it.
        advice: &'static str,
    },
    /// The configuration is not the one that the state was made with.
    ConfigChanged {
        /// The state file.
        path: PathBuf,
        /// What differs, where it is known.
        changes: Vec<ConfigChange>,
        /// The hash in the state file, if there is one.
        old_hash: Option<String>,
        /// The hash of the pipeline's configuration.
        new_hash: String,
    },
    /// Another process runs a pipeline in this directory.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who it is, if that could be read.
        holder: Option<LockHolder>,
    },
    /// The work of a stage failed.
    Stage {
        /// The stage.
        name: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pipeline cannot be as it is defined, or something could not be read or saved.
    Other(Error),
}

impl PipelineError {
    /// The code to exit with: 3 if a checkpoint or the state file is corrupted or incompatible, also if it was a stage that found that;
    /// otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            PipelineError::Checkpoints { errors, .. } => {
                errors.iter().map(CheckpointError::exit_code).max().unwrap_or(1)
            }
            PipelineError::Stage { source, .. } => exit_code_of(&**source),
            PipelineError::Other(e) => exit_code_of(e),
            _ => 1,
        }
    }

    /// What cannot be used, if that is the trouble.
    pub fn checkpoint_errors(&self) -> &[CheckpointError] {
        match self {
            PipelineError::Checkpoints { errors, .. } => errors,
            _ => &[],
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> PipelineError {
        PipelineError::Other(Error::new(crate::ErrorKind::InvalidInput, message))
    }
}

fn exit_code_of(source: &(dyn std::error::Error + 'static)) -> u8 {
    if let Some(e) = source.downcast_ref::<CheckpointError>() {
        return e.exit_code();
    }
    let is_unsound = |e: &Error| e.is_corruption() || e.is_incompatible();
    if source.downcast_ref::<Error>().is_some_and(is_unsound) { CHECKPOINT_EXIT_CODE } else { 1 }
}

impl From<Error> for PipelineError {
    fn from(e: Error) -> PipelineError {
        PipelineError::Other(e)
    }
}

/// The state file.
impl From<CheckpointError> for PipelineError {
    fn from(mut e: CheckpointError) -> PipelineError {
        let advice = e.advice.take().unwrap_or_default();
        PipelineError::Checkpoints { errors: vec![e], advice }
    }
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// What is listed before `... and K more`, as of failed checkpoints.
        const SHOWN: usize = 5;
        match self {
            PipelineError::Checkpoints { errors, advice } => {
                match &errors[..] {
                    [e] => e.fmt(f)?,
                    _ => {
                        write!(f, "{} outputs cannot be used:", errors.len())?;
                        errors.iter().take(SHOWN).try_for_each(|e| write!(f, "\n  {e}"))?;
                        if errors.len() > SHOWN {
                            write!(f, "\n  ... and {} more", errors.len().saturating_sub(SHOWN))?;
                        }
                        f.write_str("\n")?;
                    }
                }
                if !advice.is_empty() {
                    write!(f, "{}{advice}", if errors.len() == 1 { "; " } else { "" })?;
                }
                Ok(())
            }
            PipelineError::ConfigChanged { path, changes, old_hash, new_hash } => {
                write!(f, "{}: the configuration has changed since this pipeline began", path.display())?;
                if changes.is_empty() {
                    let old = old_hash.as_deref().map_or("unknown".to_owned(), |hash| hash.escape_debug().to_string());
                    write!(f, ": its hash was {old} and is {new_hash}")?;
                }
                changes.iter().try_for_each(|change| write!(f, "\n  {change}"))?;
                let separator = if changes.is_empty() { "; " } else { "\n" };
                write!(f, "{separator}restore the configuration, or restart the pipeline")
            }
            PipelineError::Locked { path, holder } => {
                write!(f, "{}: another process runs this pipeline", path.display())?;
                if let Some(holder) = holder {
                    write!(f, ": {holder}")?;
                }
                f.write_str("; wait until it ends, or end it")
            }
            PipelineError::Stage { name, source } => write!(f, "stage {name} failed: {source}"),
            PipelineError::Other(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for PipelineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PipelineError::Checkpoints { errors, .. } => {
                errors.first().map(|e| -> &(dyn std::error::Error + 'static) { e })
            }
            PipelineError::Stage { source, .. } => Some(&**source),
            PipelineError::Other(e) => Some(e),
            PipelineError::ConfigChanged { .. } | PipelineError::Locked { .. } => None,
        }
    }
}
