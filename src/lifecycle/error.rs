//! [`CheckpointError`]: why a checkpoint cannot be used, and what kind of trouble that is.

use std::fmt;
use std::path::{Path, PathBuf};

use super::validation::Level;
use crate::error::{Error, ErrorKind};

/// The exit code of a program that stops because of a [`CheckpointError`].
pub const CHECKPOINT_EXIT_CODE: u8 = 3;

/// What kind of trouble a checkpoint is in, and so what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckpointErrorKind {
    /// It is missing, damaged or unfinished: make it again, or restore it from another copy.
    Corrupted,
    /// It is whole, and not what is needed: of a newer version, without a key, of another shape.
    Incompatible,
    /// The machine could not read it, and nothing is known of it: no permission, a failing disk, too many open files.
    Unreadable,
}

impl CheckpointErrorKind {
    /// The word in messages, in `failed_checkpoints.txt` and in JSON: `corrupted`, `incompatible` or `unreadable`.
    pub fn name(self) -> &'static str {
        match self {
            CheckpointErrorKind::Corrupted => "corrupted",
            CheckpointErrorKind::Incompatible => "incompatible",
            CheckpointErrorKind::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for CheckpointErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A checkpoint that cannot be used.
///
/// It reads like `features/output_3.dolmen: corrupted: file is 0 bytes`. A program that stops because of it exits with
/// [`CHECKPOINT_EXIT_CODE`] unless the checkpoint is merely unreadable.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckpointError {
    /// The checkpoint.
    pub path: PathBuf,
    /// What kind of trouble it is in.
    pub kind: CheckpointErrorKind,
    /// What is wrong, without path and kind.
    pub message: String,
    /// The level of validation that it did not pass, if it was validation that found it.
    pub level: Option<Level>,
    /// What can be done about it, where something can.
    pub advice: Option<&'static str>,
    source: Option<Error>,
}

impl CheckpointError {
    /// A checkpoint in trouble.
    #[cold]
    pub fn new(path: impl AsRef<Path>, kind: CheckpointErrorKind, message: impl Into<String>) -> CheckpointError {
        CheckpointError {
            path: path.as_ref().to_path_buf(),
            kind,
            message: message.into(),
            level: None,
            advice: None,
            source: None,
        }
    }

    /// What an error of opening, reading or verifying a checkpoint says about it.
    #[cold]
    pub fn of(path: impl AsRef<Path>, e: Error) -> CheckpointError {
        let kind = if e.is_corruption() {
            CheckpointErrorKind::Corrupted
        } else if e.is_incompatible() || matches!(e.kind(), ErrorKind::Limit | ErrorKind::InvalidInput) {
            CheckpointErrorKind::Incompatible
        } else {
            CheckpointErrorKind::Unreadable
        };
        CheckpointError { advice: e.advice(), source: Some(e), ..CheckpointError::new(path, kind, String::new()) }
            .with_message_of_source()
    }

    fn with_message_of_source(mut self) -> CheckpointError {
        self.message = self.source.as_ref().map(Error::reason).unwrap_or_default();
        self
    }

    /// Says at which level of validation it was found.
    #[must_use]
    pub fn at_level(mut self, level: Level) -> CheckpointError {
        self.level = Some(level);
        self
    }

    /// Says what the reader of the message can do.
    #[must_use]
    pub fn with_advice(mut self, advice: &'static str) -> CheckpointError {
        self.advice = Some(advice);
        self
    }

    /// The error beneath, with tensor, offset and rule, if there is one.
    pub fn error(&self) -> Option<&Error> {
        self.source.as_ref()
    }

    /// Kind and message, as in `corrupted: file is 0 bytes`: what `failed_checkpoints.txt` says of it.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.kind, self.message)
    }

    /// The code a program exits with because of it: [`CHECKPOINT_EXIT_CODE`], or 1 if the machine is to blame.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            CheckpointErrorKind::Corrupted | CheckpointErrorKind::Incompatible => CHECKPOINT_EXIT_CODE,
            CheckpointErrorKind::Unreadable => 1,
        }
    }
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.path.display(), self.kind, self.message)?;
        if let Some(advice) = self.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for CheckpointError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e: &Error| -> &(dyn std::error::Error + 'static) { e })
    }
}
