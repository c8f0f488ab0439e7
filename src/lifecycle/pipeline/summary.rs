//! [`Summary`]: how far a pipeline has come, in the original's words.

use std::fmt;

use super::state::{PipelineState, StageStatus};
use crate::error::is_bidi_control;
use crate::lifecycle::{FailedCheckpoint, failed_summary};

/// How far a pipeline has come.
///
/// Shown, it is `Progress: 3/9 stages complete, resuming from: PROTEIN_SPLITTING`, or `Progress: 9/9 stages complete`; then the
/// [failed checkpoints](failed_summary), if there are any, and what else a person should know, a line each. [`heading`](Summary::heading) gives the original's three lines instead of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Stages that are complete.
    pub complete: usize,
    /// Stages in all.
    pub total: usize,
    /// The stage to go on with; none if all are complete.
    pub next: Option<String>,
    /// Checkpoints that failed in earlier runs, and have not passed since.
    pub failed: Vec<FailedCheckpoint>,
    /// What was found and done: stages that are done again and why, a state that was kept.
    pub notes: Vec<String>,
}

impl Summary {
    /// What a state file says; nothing that it names is looked at.
    pub fn of_state(state: &PipelineState) -> Summary {
        let mut summary = Summary::default();
        for stage in state.stages() {
            summary.total = summary.total.saturating_add(1);
            match stage.status {
                StageStatus::Completed => summary.complete = summary.complete.saturating_add(1),
                _ => summary.next = summary.next.or(Some(stage.name)),
            }
        }
        summary
    }

    /// The original's lines, without what follows them: `=== Resuming Pipeline ===`, `Progress: 3/9 stages complete` and
    /// `Resuming from stage: PROTEIN_SPLITTING`.
    pub fn heading(&self) -> String {
        let mut lines =
            format!("=== Resuming Pipeline ===\nProgress: {}/{} stages complete", self.complete, self.total);
        if let Some(next) = &self.next {
            lines += &format!("\nResuming from stage: {}", next.escape_debug());
        }
        lines
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress: {}/{} stages complete", self.complete, self.total)?;
        if let Some(next) = &self.next {
            write!(f, ", resuming from: {}", next.escape_debug())?;
        }
        let failed = failed_summary(&self.failed);
        if !failed.is_empty() {
            write!(f, "\n{failed}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{}", shown(note)))
    }
}

/// A note, in which names and values from files cannot write on a terminal.
fn shown(note: &str) -> String {
    let mut out = String::with_capacity(note.len());
    for c in note.chars() {
        if c.is_control() || is_bidi_control(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
