//! `dolmen validate`: which checkpoints of a job are good, before it starts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dolmen::lifecycle::{
    Batch, Candidates, CheckpointError, CheckpointErrorKind, FailedCheckpoint, FailedLog, Level, Schema, Validated,
    Validator, Version, Versions,
};
use dolmen::{Error, ErrorKind, Result};
use serde_json::{Value as Json, json};

use crate::progress::Progress;
use crate::style::{self, BAD, FAINT, GOOD, WARN, cannot_write, paint};
use crate::{Outcome, human};

/// What to validate, and what to ask for.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Directories to search for checkpoints, and checkpoints
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    /// Read no data: all levels but the checksums
    #[arg(long)]
    quick: bool,
    /// Keys that each must have, with commas between
    #[arg(long, value_name = "KEY,…", value_delimiter = ',')]
    required_keys: Vec<String>,
    /// Dtypes and shapes that tensors must have, in a file of JSON
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Two keys that must have as many elements, or rows, as each other
    #[arg(long, value_name = "IDS=DATA", value_parser = parse_rows)]
    rows: Vec<(String, String)>,
    /// A program and its version: refuse contents of a later major version
    #[arg(long, value_name = "NAME=VERSION", value_parser = parse_program)]
    program: Option<(String, String)>,
    /// Accept what holds no dictionary: a whole module, a list, an array
    #[arg(long)]
    any_object: bool,
    /// Remember failures in failed_checkpoints.txt of DIR, and forget those that pass again
    #[arg(long)]
    log_failures: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// How many threads to use; as many as the machine has if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const AFTER_HELP: &str = "\
Directories are searched as `dolmen verify` searches them. Each checkpoint must
pass these levels, in this order; the first that it does not pass is told:
  exists, readable, not empty, recognised, complete, structurally valid,
  checksums (not with --quick), is a dict, required keys, schema, ids match rows,
  version (with --program)

Failures:
  corrupted     missing, damaged or unfinished: make it again, or restore it
  incompatible  whole, but not what is needed: another version, shape or dtype, a
                key that is missing
  unreadable    the machine could not read it, and nothing is known of it

With --log-failures each failure is a line of failed_checkpoints.txt in DIR (or
beside a checkpoint that is given itself), unless it is one already; the lines of
checkpoints that pass, or are there no more, are taken out, but not with --quick,
which cannot tell whether data is whole.

A key is one of the outermost dictionary, or with dots one within it, or the name
of a tensor. A schema looks like this:
  {\"required_keys\": [\"ids\", \"data\"],
   \"tensors\": [{\"name\": \"data\", \"dtype\": \"f32\", \"shape\": [\"N\", 3328]},
               {\"name\": \"layers.*.weight\", \"dtype\": [\"f32\", \"bf16\"]},
               {\"name\": \"labels\", \"shape\": [\"N\"], \"optional\": true}],
   \"lengths\": {\"ids\": \"N\"}, \"other_tensors\": false}
In a name, * is anything without a dot and ** anything; in a shape, a number is
itself, \"*\" any, \"...\" any number of dims, and a word the same number wherever it
stands.

JSON: {\"valid\": [{\"path\", \"format\", \"file_bytes\", \"tensors\", \"unchecked\"}],
  \"failed\": [{\"path\", \"kind\", \"level\", \"message\", \"advice\"}], \"quick\"}
\"unchecked\" counts parts without a checksum, which formats other than .dolmen may
have; \"advice\" may be null.

Exit codes: 3 if a checkpoint is corrupted or incompatible; otherwise 1 if one
could not be read, if none was found, or if there is nothing at a path that was
named, which says nothing of a checkpoint; otherwise 0.

Examples:
  dolmen validate checkpoints/ --quick && ./resume.sh
  dolmen validate features/ --required-keys ids,data --rows ids=data
  dolmen validate features/ --program virnucpro=1.0
  dolmen validate features/ --schema features.json --json | jq '.failed[].path'";

fn parse_program(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, version)) if !name.is_empty() && version.parse::<Version>().is_ok() => {
            Ok((name.to_owned(), version.to_owned()))
        }
        _ => Err("expected a name and a version with = between, such as virnucpro=1.0".to_owned()),
    }
}

fn parse_rows(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((ids, data)) if !ids.is_empty() && !data.is_empty() => Ok((ids.to_owned(), data.to_owned())),
        _ => Err("expected two keys with = between, such as ids=data".to_owned()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut validator = Validator::new().quick(args.quick).any_root(args.any_object);
    validator = validator.required_keys(args.required_keys.iter().filter(|key| !key.is_empty()).cloned());
    for (ids, data) in &args.rows {
        validator = validator.rows(ids, data);
    }
    if let Some(schema) = &args.schema {
        validator = validator.schema(Schema::open(schema)?);
    }
    if let Some((name, version)) = &args.program {
        validator = validator.versions(Arc::new(Versions::new(name, version)?));
    }
    if let Some(threads) = args.threads {
        validator = validator.threads(threads.into());
    }
    let candidates = Candidates::search(&args.paths);
    let progress = Progress::of_bytes(candidates.byte_len());
    let batch = validator.validate_candidates(candidates, &|bytes| progress.add(bytes));
    drop(progress);
    if args.log_failures {
        log_failures(&batch, args)?;
    }
    match if args.json { print_json(&batch, args) } else { print_text(&batch, args) } {
        // The verdict stands, whether or not somebody reads all of it.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(cannot_write(e)),
        _ => {}
    }
    if batch.valid.is_empty() && batch.failed.is_empty() {
        let e = Error::new(ErrorKind::NotFound, "no checkpoint was found");
        return Err(match &args.paths[..] {
            [path] => e.with_path(path),
            _ => e,
        });
    }
    Ok(batch.failed.iter().map(|e| outcome(e, args)).max().unwrap_or(Outcome::Well))
}

/// Remembers what failed, and forgets what passed or is there no more, in the directories that were searched.
///
/// Paths are remembered from the root on, so that it does not matter where the command was run.
fn log_failures(batch: &Batch, args: &Args) -> Result<()> {
    let mut logs: BTreeMap<PathBuf, (Vec<FailedCheckpoint>, Vec<PathBuf>)> = BTreeMap::new();
    for e in batch.failed.iter().filter(|e| outcome(e, args) == Outcome::Unsound) {
        let (failed, _) = logs.entry(absolute(log_directory(&e.path, args))).or_default();
        failed.push(FailedCheckpoint::new(absolute(&e.path), e.reason()));
    }
    for validated in &batch.valid {
        let (_, passed) = logs.entry(absolute(log_directory(&validated.path, args))).or_default();
        passed.push(absolute(&validated.path));
    }
    for (directory, (failed, mut passed)) in logs {
        let log = FailedLog::in_directory(&directory);
        let known = log.entries()?;
        let is_new =
            |e: &&FailedCheckpoint| !known.iter().any(|known| known.path == e.path && known.reason == e.reason);
        let new: Vec<FailedCheckpoint> = failed.iter().filter(is_new).cloned().collect();
        log.record(&new)?;
        if !args.quick {
            let is_gone =
                |known: &&FailedCheckpoint| !known.path.exists() && absolute(&known.path).starts_with(&directory);
            passed.extend(known.iter().filter(is_gone).map(|known| known.path.clone()));
            passed.retain(|path| !failed.iter().any(|e| e.path == *path));
            log.clear(passed)?;
        }
    }
    Ok(())
}

/// Where a file is, whatever way led there; a link is itself, and not what it leads to.
fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (whole.parent().map(std::fs::canonicalize), whole.file_name()) {
        (Some(Ok(directory)), Some(name)) => directory.join(name),
        _ => whole,
    }
}

/// The directory that a checkpoint was found in or below, as it was given; if it was given itself, that in which it lies.
fn log_directory<'p>(path: &'p Path, args: &'p Args) -> &'p Path {
    let beside = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    };
    args.paths.iter().find(|given| path != **given && path.starts_with(given)).map_or(beside, |given| given)
}

/// A path that was named and is not there is a mistake of who named it, and says nothing about a checkpoint.
fn outcome(e: &CheckpointError, args: &Args) -> Outcome {
    let mistaken = e.level == Some(Level::Exists) && args.paths.contains(&e.path);
    if mistaken || e.kind == CheckpointErrorKind::Unreadable { Outcome::CouldNot } else { Outcome::Unsound }
}

fn print_json(batch: &Batch, args: &Args) -> io::Result<()> {
    let valid = |validated: &Validated| {
        json!({
            "path": validated.path.to_string_lossy(),
            "format": validated.format,
            "file_bytes": validated.byte_len,
            "tensors": validated.tensor_count,
            "unchecked": validated.unchecked,
        })
    };
    let failed = |e: &CheckpointError| {
        json!({
            "path": e.path.to_string_lossy(),
            "kind": e.kind.name(),
            "level": e.level.map(Level::name),
            "message": e.message,
            "advice": e.advice,
        })
    };
    let mut out = style::plain_output();
    let lists = [
        ("valid", batch.valid.iter().map(valid).collect::<Vec<Json>>()),
        ("failed", batch.failed.iter().map(failed).collect()),
    ];
    out.write_all(b"{")?;
    for (name, items) in lists {
        write!(out, "\"{name}\": [")?;
        for (i, item) in items.iter().enumerate() {
            write!(out, "{}\n{}", if i == 0 { "" } else { "," }, human::json(item))?;
        }
        out.write_all(if items.is_empty() { b"],\n" } else { b"\n],\n" })?;
    }
    writeln!(out, "\"quick\": {}}}", args.quick)?;
    out.flush()
}

fn print_text(batch: &Batch, args: &Args) -> io::Result<()> {
    enum Line<'a> {
        Valid(&'a Validated),
        Failed(&'a CheckpointError),
    }
    let mut lines: Vec<(&Path, Line<'_>)> = Vec::new();
    lines.extend(batch.valid.iter().map(|validated| (&*validated.path, Line::Valid(validated))));
    lines.extend(batch.failed.iter().map(|e| (&*e.path, Line::Failed(e))));
    lines.sort_by_key(|(path, _)| *path);
    let mut out = style::text_output();
    for (path, line) in &lines {
        let path = human::path(path);
        match line {
            Line::Valid(validated) => {
                let tensors = human::counted(validated.tensor_count, "tensor");
                let facts = format!("{tensors}, {}", human::size(validated.byte_len));
                let unchecked = match validated.unchecked {
                    0 => String::new(),
                    n => format!(" (no checksums of {})", human::counted(n, "part")),
                };
                let faint = paint(FAINT, format!("  {facts}{unchecked}"));
                writeln!(out, "{}  {path}{faint}", paint(GOOD, format!("{:<12}", "valid")))?;
            }
            Line::Failed(e) => {
                let kind = paint(style_of(e.kind), format!("{:<12}", e.kind.name()));
                let advice = e.advice.map(|advice| format!("; {advice}")).unwrap_or_default();
                writeln!(out, "{kind}  {path}: {}{advice}", human::printable(&e.message))?;
            }
        }
    }
    if lines.len() > 1 || batch.passed_over > 0 {
        let mut parts = vec![format!("{} {}", human::count(batch.valid.len() as u64), paint(GOOD, "valid"))];
        for kind in [CheckpointErrorKind::Corrupted, CheckpointErrorKind::Incompatible, CheckpointErrorKind::Unreadable]
        {
            match batch.failed.iter().filter(|e| e.kind == kind).count() as u64 {
                0 => {}
                n => parts.push(format!("{} {}", human::count(n), paint(style_of(kind), kind))),
            }
        }
        let quick = if args.quick { " (quick: data was not read)" } else { "" };
        let others = match batch.passed_over {
            0 => String::new(),
            n => format!("; {} skipped", human::counted(n, "other file")),
        };
        let files = human::counted(lines.len() as u64, "checkpoint");
        writeln!(out, "{files}: {}{quick}{others}", parts.join(", "))?;
    }
    out.flush()
}

fn style_of(kind: CheckpointErrorKind) -> anstyle::Style {
    if kind == CheckpointErrorKind::Corrupted { BAD } else { WARN }
}
