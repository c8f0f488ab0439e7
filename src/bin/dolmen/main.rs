//! The command `dolmen`: looks into checkpoints, verifies them, compares them, takes them apart and converts them.
//!
//! It is built on the public API of the crate alone. Each subcommand is a file here; [`style`], [`human`], [`table`] and
//! [`progress`] are what they share. Results go to standard output, notes and progress to standard error.

mod bench;
mod compare;
mod convert;
mod diff;
mod extract;
mod human;
mod inspect;
mod number;
mod progress;
mod salvage;
mod status;
mod style;
mod table;
mod upgrade;
mod validate;
mod values;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dolmen::{Error, ErrorKind};

/// Looks into tensor checkpoints, verifies, compares and converts them.
#[derive(Debug, Parser)]
#[command(name = "dolmen", version, arg_required_else_help = true, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Files are recognised by their content, not by their names: .dolmen, PyTorch's
.pt and .pth, .safetensors and .npy. Reading a file runs nothing that is in it.

Exit codes:
  0  all is well
  1  it could not be done: a file is missing, cannot be read or written
  2  wrong usage
  3  a checkpoint is corrupted or incompatible

A checksum finds accidents. It is no protection against someone who changes a
file on purpose.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what a checkpoint holds; reads no data
    Inspect(inspect::Args),
    /// Check every byte of checkpoints, and name what is damaged
    Verify(verify::Args),
    /// Say which checkpoints are good, and what is wrong with the others
    Validate(validate::Args),
    /// Write one tensor to a .npy or raw file
    Extract(extract::Args),
    /// Compare two checkpoints, tensor by tensor
    Diff(diff::Args),
    /// Convert between formats
    Convert(convert::Args),
    /// Save what is intact of a damaged or unfinished checkpoint
    Salvage(salvage::Args),
    /// Show how far a pipeline has come, from its state file alone
    Status(status::Args),
    /// Rewrite checkpoints in a later version of their content
    Upgrade(upgrade::Args),
    /// Measure how fast this machine reads, verifies and streams files
    Bench(bench::Args),
}

/// How it went; a later one outweighs an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// All is well.
    Well,
    /// It could not be done: I/O, a missing file, something that is not there.
    CouldNot,
    /// A checkpoint is corrupted or incompatible.
    Unsound,
}

impl Outcome {
    /// What an error comes to.
    fn of(e: &Error) -> Outcome {
        match e.kind() {
            ErrorKind::Corrupt | ErrorKind::Malformed | ErrorKind::NotThisFormat | ErrorKind::UnsupportedVersion => {
                Outcome::Unsound
            }
            // Of a tensor, it is what was to be done with it that goes too far.
            ErrorKind::Limit if e.tensor().is_none() => Outcome::Unsound,
            _ => Outcome::CouldNot,
        }
    }

    fn code(self) -> u8 {
        match self {
            Outcome::Well => 0,
            Outcome::CouldNot => 1,
            Outcome::Unsound => 3,
        }
    }
}

/// Says on standard error what went wrong.
fn complain(e: &Error) {
    say(&format!("{} {}", style::paint(style::BAD, "dolmen:"), human::printable(&e.to_string())));
}

/// Says something on standard error. That nobody listens is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    let outcome = done.unwrap_or_else(|e| {
        if style::is_broken_pipe(&e) {
            return Outcome::Well;
        }
        complain(&e);
        Outcome::of(&e)
    });
    ExitCode::from(outcome.code())
}
