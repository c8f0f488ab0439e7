//! [`CheckpointInfo`]: what a checkpoint is, at a glance.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::label::{Label, done_marker};
use super::versions::{Version, in_words};
use crate::error::Result;
use crate::read::Checkpoint;

/// What is said of what is not known.
const UNKNOWN: &str = "unknown";

/// What a checkpoint is: its version, status, length and format, and whether a marker says that it is complete.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// The version that it says, 0.x if it says none; `unknown` of a file that cannot be read, and what is there, in words, of one that says nonsense.
    pub version: String,
    /// The status that it says; `unknown` if none.
    pub status: String,
    /// The file's length in bytes; 0 if there is none.
    pub byte_len: u64,
    /// The format, such as `dolmen` or `torch`, if it is one that is known and the file is structurally sound.
    pub format: Option<String>,
    /// Whether there is a file named like it with `.done` at the end: what the original pipeline leaves beside what is complete.
    pub has_done_marker: bool,
    /// Why nothing is known of it.
    pub error: Option<CheckpointError>,
}

impl CheckpointInfo {
    /// What there is at a path. A file that is broken, or missing, is no failure: of it little is known.
    ///
    /// **Cost**: that of opening on demand, metadata and document; no data is read.
    pub fn of(path: impl AsRef<Path>) -> CheckpointInfo {
        let path = path.as_ref();
        let mut info = CheckpointInfo {
            path: path.to_path_buf(),
            version: UNKNOWN.to_owned(),
            status: UNKNOWN.to_owned(),
            byte_len: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            format: None,
            has_done_marker: done_marker(path).exists(),
            error: None,
        };
        if let Err(e) = info.look(path) {
            info.error = Some(CheckpointError::of(path, e));
        }
        info
    }

    fn look(&mut self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open_on_demand(path)?;
        let label = Label::of(&checkpoint)?;
        self.format = Some(checkpoint.format().to_owned());
        self.version = match label.version() {
            Ok(version) => version.to_string(),
            Err(_) => label.version.as_ref().map_or_else(|| Version::unversioned().to_string(), in_words),
        };
        if let Some(status) = &label.status {
            self.status =
                status.as_str().filter(|status| is_word(status)).map_or_else(|| in_words(status), str::to_owned);
        }
        Ok(())
    }
}

/// Whether text is short and plain, to be shown as it is.
fn is_word(text: &str) -> bool {
    text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ' | '.'))
}
