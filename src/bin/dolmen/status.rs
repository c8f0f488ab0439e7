//! `dolmen status`: how far a pipeline has come, from its state file, and the checkpoints that failed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dolmen::lifecycle::{
    CHECKPOINT_EXIT_CODE, CheckpointError, FailedCheckpoint, FailedLog, PipelineState, STATE_FILE, StageRecord,
    Summary, failed_summary,
};
use dolmen::{Error, ErrorKind, Result};
use serde_json::{Value as Json, json};

use crate::style::{self, BAD, WARN, cannot_write, paint};
use crate::table::{Column, Table};
use crate::{Outcome, human, say};

/// Whose state to show, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The directory of a pipeline, or its state file
    #[arg(value_name = "DIR")]
    path: PathBuf,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
In a directory, pipeline_state.json is read, or .checkpoints/pipeline_state.json;
and failed_checkpoints.txt beside it. No output is opened: whether the outputs of completed stages are still there
and good is found out when the pipeline resumes. A pipeline that runs is not
disturbed. Times are UTC. The first line reads

  Progress: 3/9 stages complete, resuming from: PROTEIN_SPLITTING

and ends after `complete` when all are. Checkpoints that an attempt to resume
found bad follow the stages, until they pass again.

JSON: {\"path\", \"complete\", \"total\", \"next\", \"created_at\", \"updated_at\",
  \"config_hash\", \"stages\": [{\"name\", \"status\", \"started_at\",
  \"completed_at\", \"failed_at\", \"duration_seconds\", \"inputs\": [...],
  \"outputs\": [...], \"error\"}],
  \"failed_checkpoints\": [{\"path\", \"reason\", \"time\"}]}
\"status\" is not_started, in_progress, completed or failed. \"next\" is the stage
to go on with, null if all are complete. What the file does not say is null.

Exit codes: 0 if the state could be read, however far it has come; 1 if there is
none; 3 if it is corrupted, or of a newer version.

Examples:
  dolmen status results/
  dolmen status results/ --json | jq -r .next";

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let path = find(&args.path)?;
    let state = match PipelineState::read(&path) {
        Ok(state) => state,
        Err(e) => return Ok(complain(&e)),
    };
    let failed = failed_checkpoints(&path);
    let written = if args.json { print_json(&state, &failed) } else { print_text(&state, &failed) };
    written.map(|()| Outcome::Well).map_err(cannot_write)
}

/// The state file of a directory, or the file itself.
fn find(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let places = [path.join(STATE_FILE), path.join(".checkpoints").join(STATE_FILE)];
    places.into_iter().find(|place| place.symlink_metadata().is_ok()).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no {STATE_FILE} here, nor in .checkpoints"))
            .with_path(path)
            .with_advice("name the directory in which a pipeline runs")
    })
}

/// The checkpoints that failed before, as remembered beside the state. That this cannot be read is no reason not to show the state.
fn failed_checkpoints(state: &Path) -> Vec<FailedCheckpoint> {
    let directory = match state.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    FailedLog::in_directory(directory).entries().unwrap_or_else(|e| {
        say(&format!("{} {}", paint(WARN, "note:"), human::printable(&e.to_string())));
        Vec::new()
    })
}

fn complain(e: &CheckpointError) -> Outcome {
    say(&format!("{} {}", paint(BAD, "dolmen:"), human::printable(&e.to_string())));
    if e.exit_code() == CHECKPOINT_EXIT_CODE { Outcome::Unsound } else { Outcome::CouldNot }
}

fn print_json(state: &PipelineState, failed: &[FailedCheckpoint]) -> io::Result<()> {
    let summary = Summary::of_state(state);
    let stages: Vec<Json> = state.stages().map(|stage| stage_json(&stage)).collect();
    let json = json!({
        "path": state.path().to_string_lossy(),
        "complete": summary.complete,
        "total": summary.total,
        "next": summary.next,
        "created_at": state.created_at(),
        "updated_at": state.updated_at(),
        "config_hash": state.config_hash(),
        "stages": stages,
        "failed_checkpoints": failed.iter().map(failed_json).collect::<Vec<_>>(),
    });
    let mut out = style::plain_output();
    writeln!(out, "{}", human::json(&json))?;
    out.flush()
}

fn stage_json(stage: &StageRecord) -> Json {
    json!({
        "name": stage.name,
        "status": stage.status.name(),
        "started_at": stage.started_at,
        "completed_at": stage.completed_at,
        "failed_at": stage.failed_at,
        "duration_seconds": stage.duration_seconds,
        "inputs": stage.inputs,
        "outputs": stage.outputs,
        "error": stage.error,
    })
}

fn failed_json(failed: &FailedCheckpoint) -> Json {
    json!({"path": failed.path.to_string_lossy(), "reason": failed.reason, "time": failed.time})
}

fn print_text(state: &PipelineState, failed: &[FailedCheckpoint]) -> io::Result<()> {
    let mut table = Table::new(&[
        ("stage", Column::Middle(12)),
        ("status", Column::Whole),
        ("duration", Column::Right),
        ("when", Column::End(10)),
        ("error", Column::End(10)),
    ]);
    for stage in state.stages() {
        // Of what is not over, when it began.
        let when = stage.completed_at.as_deref().or(stage.failed_at.as_deref()).or(stage.started_at.as_deref());
        table.row(vec![
            human::name(&stage.name),
            stage.status.name().to_owned(),
            stage.duration_seconds.map(duration).unwrap_or_default(),
            when.map(time).unwrap_or_default(),
            stage.error.as_deref().map(human::printable).unwrap_or_default(),
        ]);
    }
    let mut out = style::text_output();
    writeln!(out, "{}", Summary::of_state(state))?;
    table.write(&mut out, 2, style::output_width())?;
    let failed = failed_summary(failed);
    if !failed.is_empty() {
        writeln!(out, "{failed}")?;
    }
    out.flush()
}

/// A time as people read it, as in `2026-01-22 17:27:41`; what does not look like one as it is.
fn time(text: &str) -> String {
    let shape = |(i, c): (usize, char)| match i {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        _ => c.is_ascii_digit(),
    };
    match text.get(..19) {
        Some(whole) if whole.char_indices().all(shape) => whole.replacen('T', " ", 1),
        _ => human::printable(text),
    }
}

/// Seconds as people read them, as in `0.005 s`, `15.1 s`, `2 min 05 s` or `8 h 12 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round();
    let (minutes, hours) = ((whole / 60.0).floor(), (whole / 3600.0).floor());
    if !(0.0..1e12).contains(&seconds) {
        format!("{seconds} s")
    } else if seconds < 1.0 {
        format!("{seconds:.3} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if hours < 1.0 {
        format!("{minutes} min {:02} s", whole % 60.0)
    } else {
        format!("{hours} h {:02} min", minutes % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_change_unit_as_they_grow() {
        for (seconds, text) in [
            (0.0, "0.000 s"),
            (0.005482, "0.005 s"),
            (15.132767, "15.1 s"),
            (59.96, "1 min 00 s"),
            (125.4, "2 min 05 s"),
            (3599.6, "1 h 00 min"),
            (8.0 * 3600.0 + 720.0, "8 h 12 min"),
            (-1.0, "-1 s"),
            (1e300, &format!("{} s", 1e300)),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn times_are_shown_to_the_second_and_other_text_is_escaped() {
        assert_eq!(time("2026-01-22T17:27:41.213097"), "2026-01-22 17:27:41");
        assert_eq!(time("2026-01-22T17:27:41Z"), "2026-01-22 17:27:41");
        assert_eq!(time("yesterday\u{1b}[2J"), "yesterday\\u{1b}[2J");
    }
}
