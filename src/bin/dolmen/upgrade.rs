//! `dolmen upgrade`: checkpoints rewritten in a later version of their content.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use dolmen::lifecycle::{
    CHECKPOINT_VERSION, CheckpointErrorKind, Steps, UpgradeError, UpgradeOptions, Upgraded, Version, Versions,
};
use dolmen::{ErrorKind, Result};
use serde_json::{Value as Json, json};

use crate::style::{self, BAD, FAINT, GOOD, WARN, cannot_write, paint};
use crate::{Outcome, human, say};

/// What to upgrade, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Checkpoints: .dolmen files and PyTorch's .pt and .pth
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// The steps from one version to the next, declared in JSON
    #[arg(long, value_name = "FILE.json")]
    steps: Option<PathBuf>,
    /// The version to upgrade to; that of the steps if not given, and 1.0 without steps
    #[arg(long, value_name = "VERSION")]
    to: Option<Version>,
    /// Write the new file here, and leave FILE alone
    #[arg(long, short, value_name = "OUT", conflicts_with = "backup")]
    output: Option<PathBuf>,
    /// Keep the original beside the new file, as NAME.vVERSION.bak
    #[arg(long)]
    backup: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write JSON: an array with an object for each file
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
The version is that of the content, not of the format: \"version\" in the
dictionary that was saved or, if that has none, in the metadata. A file without
one is of version 0.x; from there to 1.0 nothing changes but the version.

A file is rewritten in the format that it has. The new one takes its place after
every byte of it was verified; until then the original stays. A file that is of
the version already, or of a later minor one, is not touched, and its data is not
read: `dolmen verify` says whether it is whole.

Steps:
  {\"program\": \"virnucpro\", \"version\": \"2.0\", \"steps\": [
    {\"from\": \"1.0\", \"to\": \"2.0\",
     \"rename\": {\"data\": \"embeddings\"}, \"remove\": [\"scratch\"],
     \"set\": {\"pooling\": \"mean\"}}]}
Each step applies to the versions from \"from\" on and before \"to\"; within it keys
are renamed, then removed, then set. Keys are those of the dictionary that was
saved, with the tensors beneath them; in files without one, names of tensors and
entries of the metadata. To rename a key that is not there is an error, and the
file then stays as it is.

JSON: [{\"path\", \"verdict\", \"reason\", \"from\", \"to\", \"steps\", \"written\",
  \"backup\", \"notes\"}]
\"verdict\" is upgraded, would be upgraded, up to date, corrupted, incompatible or
error; \"reason\" is null unless it is one of the last three.

Exit codes: 3 if a file is corrupted or incompatible; otherwise 1 if one could
not be read or written; 2 for wrong usage, which steps that are none are; 0 if all
are of the version now.

Examples:
  dolmen upgrade features/*.pt
  dolmen upgrade features.dolmen --steps steps.json --dry-run
  dolmen upgrade features.dolmen --steps steps.json --backup
  dolmen upgrade old.dolmen --steps steps.json --to 2.0 -o new.dolmen";

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    if args.output.is_some() && args.paths.len() > 1 {
        usage("--output takes one FILE, and several were given");
    }
    let versions = versions(args)?;
    let mut options = UpgradeOptions::new().backup(args.backup).dry_run(args.dry_run);
    if let Some(output) = &args.output {
        options = options.output(output);
    }
    let mut outcome = Outcome::Well;
    let mut told = Vec::new();
    let mut unheard = Ok(());
    let mut out = style::text_output();
    for path in &args.paths {
        let result = versions.upgrade_with(path, &options);
        outcome = outcome.max(outcome_of(&result));
        if args.json {
            told.push(to_json(path, &result, args));
            continue;
        }
        // Each is told as soon as it is done, and the others are done whether or not somebody listens.
        unheard = unheard.and(print(path, &result, args, &mut out).and_then(|()| out.flush()));
    }
    if args.json {
        unheard = print_json(&told);
    }
    match unheard {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(cannot_write(e)),
        _ => Ok(outcome),
    }
}

/// The versions to go through. What is wrong with the steps, or with `--to`, is wrong usage, and ends the program.
fn versions(args: &Args) -> Result<Versions> {
    let Some(path) = &args.steps else {
        let to = args.to.as_ref().map_or(CHECKPOINT_VERSION, Version::as_str);
        return Ok(Versions::new("a program", to).unwrap_or_else(|e| usage(&e.reason())));
    };
    let steps = match Steps::open(path) {
        Err(e) if e.kind() != ErrorKind::InvalidInput => return Err(e),
        steps => steps,
    };
    let versions = steps.and_then(|steps| steps.versions(args.to.as_ref()));
    Ok(versions.unwrap_or_else(|e| usage(&format!("{}: {}", human::path(path), human::printable(&e.reason())))))
}

fn usage(message: &str) -> ! {
    crate::Cli::command().error(clap::error::ErrorKind::ValueValidation, message).exit()
}

fn outcome_of(result: &Result<Upgraded, UpgradeError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Well,
        Err(e) if e.exit_code() == 3 => Outcome::Unsound,
        Err(_) => Outcome::CouldNot,
    }
}

/// One word for what became of a file.
fn verdict(result: &Result<Upgraded, UpgradeError>, args: &Args) -> &'static str {
    match result {
        Ok(upgraded) if upgraded.steps.is_empty() => "up to date",
        Ok(_) if args.dry_run => "would be upgraded",
        Ok(_) => "upgraded",
        Err(UpgradeError::Checkpoint(e)) if e.kind != CheckpointErrorKind::Unreadable => e.kind.name(),
        Err(_) => "error",
    }
}

/// What went wrong, without the path.
fn reason(e: &UpgradeError) -> String {
    let (reason, advice) = match e {
        UpgradeError::Checkpoint(e) => (e.message.clone(), e.advice),
        UpgradeError::Save(e) if e.kind() == ErrorKind::NotDurable => (e.reason(), e.advice()),
        UpgradeError::Save(e) => (format!("the new file could not be saved: {}", e.reason()), e.advice()),
        other => (other.to_string(), None),
    };
    advice.map_or(reason.clone(), |advice| format!("{reason}; {advice}"))
}

fn print(path: &Path, result: &Result<Upgraded, UpgradeError>, args: &Args, out: &mut dyn Write) -> io::Result<()> {
    let verdict = verdict(result, args);
    let shown = human::path(path);
    let upgraded = match result {
        Ok(upgraded) => upgraded,
        Err(e) => return writeln!(out, "{}  {shown}: {}", paint(BAD, verdict), human::printable(&reason(e))),
    };
    if upgraded.steps.is_empty() {
        let not_written = match &args.output {
            Some(output) => format!("; {} was not written", human::path(output)),
            None => String::new(),
        };
        let version = paint(FAINT, format!("  version {}{not_written}", upgraded.from));
        return writeln!(out, "{}  {shown}{version}", paint(GOOD, verdict));
    }
    let versions = format!("  from version {} to {}", upgraded.from, upgraded.to);
    writeln!(out, "{}  {shown}{}", paint(GOOD, verdict), paint(FAINT, versions))?;
    if let Some(backup) = &upgraded.backup {
        writeln!(out, "  the original is kept as {}", human::path(backup))?;
    }
    for note in &upgraded.notes {
        say(&format!("{} {}", paint(WARN, "note:"), human::printable(note)));
    }
    Ok(())
}

fn to_json(path: &Path, result: &Result<Upgraded, UpgradeError>, args: &Args) -> Json {
    let lossy = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let mut json = json!({"path": path.to_string_lossy(), "verdict": verdict(result, args), "reason": null});
    match result {
        Ok(upgraded) => {
            let step = |step: &dolmen::lifecycle::StepName| json!({"from": step.from.as_str(), "to": step.to.as_str()});
            json["from"] = upgraded.from.as_str().into();
            json["to"] = upgraded.to.as_str().into();
            json["steps"] = upgraded.steps.iter().map(step).collect();
            json["written"] = lossy(&upgraded.written).into();
            json["backup"] = lossy(&upgraded.backup).into();
            json["notes"] = upgraded.notes.clone().into();
        }
        Err(e) => json["reason"] = reason(e).into(),
    }
    json
}

fn print_json(told: &[Json]) -> io::Result<()> {
    let mut out = style::plain_output();
    out.write_all(b"[")?;
    for (i, json) in told.iter().enumerate() {
        write!(out, "{}\n{}", if i == 0 { "" } else { "," }, human::json(json))?;
    }
    out.write_all(b"\n]\n")?;
    out.flush()
}
