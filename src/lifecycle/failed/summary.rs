//! The failures of earlier runs, as a resumed run shows them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::FailedCheckpoint;
use crate::error::is_bidi_control;

/// Failures that are shown one by one.
const SHOWN: usize = 5;

/// Characters of a name or a reason that are shown.
const LONGEST: usize = 300;

/// What [`failed_summary`](crate::lifecycle::failed_summary) makes of failures.
///
/// A checkpoint counts once, with its last reason, in the order in which the checkpoints first failed. Without failures it is empty;
/// there is no newline at its end.
///
/// ```text
/// Found 7 failed checkpoints from previous runs:
///   output_3.dolmen: corrupted: file is 0 bytes
///   ... and 6 more
/// ```
#[derive(Clone, Debug)]
pub struct FailedSummary<'a> {
    failed: Vec<&'a FailedCheckpoint>,
}

/// Counts a checkpoint once, with its last reason.
pub fn summary(failed: &[FailedCheckpoint]) -> FailedSummary<'_> {
    let mut places: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut once: Vec<&FailedCheckpoint> = Vec::new();
    for entry in failed {
        let place = *places.entry(&entry.path).or_insert(once.len());
        match once.get_mut(place) {
            Some(earlier) => *earlier = entry,
            None => once.push(entry),
        }
    }
    FailedSummary { failed: once }
}

impl FailedSummary<'_> {
    /// How many checkpoints there are.
    pub fn len(&self) -> usize {
        self.failed.len()
    }

    /// Whether there is none, and so nothing to show.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for FailedSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        write!(f, "Found {} failed checkpoints from previous runs:", self.len())?;
        for entry in self.failed.iter().take(SHOWN) {
            let name = entry.path.file_name().unwrap_or(entry.path.as_os_str());
            write!(f, "\n  {}: {}", shown(&name.to_string_lossy()), shown(&entry.reason))?;
        }
        match self.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\n  ... and {more} more"),
            _ => Ok(()),
        }
    }
}

/// What a file says, so that it cannot write on a terminal or fill it.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        match c {
            _ if i == LONGEST => {
                out.push('…');
                break;
            }
            c if c.is_control() || is_bidi_control(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
