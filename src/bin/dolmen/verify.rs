//! `dolmen verify`: every byte of files and directories of checkpoints, and what is damaged named.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dolmen::lifecycle::{Candidate, Candidates, Claim, spread};
use dolmen::salvage::marked_tensors;
use dolmen::{Checkpoint, Error, ErrorKind, Report, Result, VerifyOptions};
use serde_json::{Value as Json, json};

use crate::progress::Progress;
use crate::style::{self, BAD, FAINT, GOOD, WARN, cannot_write, paint};
use crate::{Outcome, human, say};

/// What to verify, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Checkpoints, and directories to search for them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write JSON: an array with an object for each file
    #[arg(long)]
    json: bool,
    /// Check header and index alone, and read no data
    #[arg(long)]
    quick: bool,
    /// How many threads to use; as many as the machine has if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

const AFTER_HELP: &str = "\
Directories are searched with all directories within; links to directories are
not followed. In them, what is named .dolmen, .pt, .pth, .ckpt or .safetensors is
verified, and what is recognised by its content. Of what is named .bin or .pt2,
empty files, git-LFS pointers and web pages are reported too, and the others that
are skipped are named on standard error. Results are sorted by path.

Verdicts:
  ok            every byte is accounted for; in other formats than .dolmen, all
                that their checksums cover
  corrupted     damaged, malformed, or nothing that is known
  incompatible  it may be good, but it needs a newer version of this command, is
                of a format that this one does not read, or goes beyond a limit
  error         it could not be read, and nothing is known of it

Formats without checksums can be ok in structure only: damage to their data
cannot be found, and the output says so. Of a .pt file every record is compared
with its CRC-32, also those that hold no tensor; older ones (before PyTorch 1.6)
have none, and newer ones may have been saved without.

JSON: [{\"path\", \"verdict\", \"reason\", \"tensors\": [{\"name\", \"verdict\",
  \"bad_blocks\": [...]}]}]
\"reason\" is null if the verdict is ok; \"tensors\" are the bad ones, with the
numbers of their damaged checksum blocks. \"unchecked_storages\" is there if some
storages have no checksum, and \"quick\": true if no data was read. For a .pt
file there is \"records\": {\"checked\", \"unchecked\"}, how many of all its records
have a checksum and how many have none. For a file that was salvaged there is
\"salvaged\": {\"doubtful\": [...]}: tensors with bytes that nothing vouched for.

Exit codes: 3 if a file is corrupted or incompatible; otherwise 1 if one could
not be read or none was found; otherwise 0.

Examples:
  dolmen verify model.dolmen
  dolmen verify checkpoints/ && ./resume.sh
  dolmen verify downloads/*.pt
  dolmen verify checkpoints/ --json | jq -r '.[] | select(.verdict != \"ok\").path'";

/// What is listed of one file on a terminal; JSON has it all.
const SHOWN: usize = 20;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let found = Candidates::search(&args.paths);
    let results = verify_all(&found.files, args);
    let passed =
        found.files.iter().zip(&results).filter(|(file, checked)| file.claim == Claim::Perhaps && checked.is_none());
    let mut passed: Vec<&Path> = passed.map(|(file, _)| file.path.as_path()).collect();
    passed.sort();
    for path in passed {
        let note = style::paint(style::WARN, "note:");
        say(&format!("{note} {} is skipped: it is none of the checkpoints that are known here", human::path(path)));
    }
    let failed = found.failed.iter().map(|e| Checked::failed(e.path().unwrap_or(Path::new("")), e));
    let mut results: Vec<Checked> = results.into_iter().flatten().chain(failed).collect();
    results.sort_by(|a, b| a.path.cmp(&b.path));
    let none = results.is_empty();
    let outcome = results.iter().map(|checked| checked.verdict.outcome()).max().unwrap_or(Outcome::CouldNot);
    // Others that were searched for and are no checkpoints.
    let unsure = found.files.iter().filter(|file| is_unsure(file)).count() as u64;
    let others = unsure - results.iter().filter(|checked| checked.unsure).count() as u64;
    let written = if args.json { print_json(&results, args) } else { print_text(&results, others, args) };
    match written {
        // The verdict stands, whether or not somebody reads all of it.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(cannot_write(e)),
        _ => {}
    }
    if none {
        let e = Error::new(ErrorKind::NotFound, "no checkpoint was found");
        return Err(match &args.paths[..] {
            [path] => e.with_path(path),
            _ => e,
        });
    }
    Ok(outcome)
}

/// Verifies small files side by side, each on one thread; then large ones one by one, each on all threads.
fn verify_all(files: &[Candidate], args: &Args) -> Vec<Option<Checked>> {
    let threads = args.threads.map_or_else(|| VerifyOptions::default().threads, usize::from);
    let byte_lens: Vec<u64> = files.iter().map(|file| file.byte_len).collect();
    let progress = Progress::of_bytes(byte_lens.iter().sum());
    let results: Vec<Mutex<Option<Checked>>> = files.iter().map(|_| Mutex::default()).collect();
    spread(&byte_lens, threads, |i, threads| {
        let checked = verify_file(&files[i], threads, args.quick, &progress);
        *results[i].lock().unwrap_or_else(PoisonError::into_inner) = checked;
    });
    results.into_iter().map(|checked| checked.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Verifies a file; nothing if it is one that nobody claims to be a checkpoint, and is none.
fn verify_file(file: &Candidate, threads: usize, quick: bool, progress: &Progress) -> Option<Checked> {
    let checkpoint = match Checkpoint::open_on_demand(&file.path) {
        Ok(checkpoint) => checkpoint,
        Err(e) if file.is_passed_over(&e) => return None,
        Err(e) => return Some(Checked { unsure: is_unsure(file), ..Checked::failed(&file.path, &e) }),
    };
    let add = |bytes| progress.add(bytes);
    let mut options = VerifyOptions::default();
    options.threads = threads;
    options.progress = Some(&add);
    let report = if quick {
        let mut report = Report::default();
        report.file_len = checkpoint.header().file_len();
        report.tensor_count = checkpoint.len() as u64;
        report.problems.extend(checkpoint.check_index().err());
        report.problem_count = report.problems.len() as u64;
        if let Some(e) = report.problems.pop_if(|e| Verdict::of(e) == Verdict::Error) { Err(e) } else { Ok(report) }
    } else {
        checkpoint.verify_with(&options)
    };
    let checked = match report {
        Ok(report) => Checked::of_report(&file.path, &checkpoint, &report),
        Err(e) => Checked::failed(&file.path, &e),
    };
    Some(Checked { unsure: is_unsure(file), ..checked })
}

/// Whether a file was found under a name that does not say that it is a checkpoint.
fn is_unsure(file: &Candidate) -> bool {
    matches!(file.claim, Claim::Perhaps | Claim::Found)
}

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Corrupted,
    Incompatible,
    Error,
}

impl Verdict {
    fn of(e: &Error) -> Verdict {
        if e.is_corruption() {
            Verdict::Corrupted
        } else if e.is_incompatible() || e.kind() == ErrorKind::Limit {
            Verdict::Incompatible
        } else {
            Verdict::Error
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Corrupted => "corrupted",
            Verdict::Incompatible => "incompatible",
            Verdict::Error => "error",
        }
    }

    fn style(self) -> anstyle::Style {
        match self {
            Verdict::Ok => GOOD,
            Verdict::Corrupted => BAD,
            Verdict::Incompatible | Verdict::Error => WARN,
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Verdict::Ok => Outcome::Well,
            Verdict::Error => Outcome::CouldNot,
            Verdict::Corrupted | Verdict::Incompatible => Outcome::Unsound,
        }
    }
}

/// What is known of a file after verification.
struct Checked {
    path: PathBuf,
    verdict: Verdict,
    reason: Option<String>,
    advice: Option<&'static str>,
    /// Further problems, for people.
    further: Vec<String>,
    /// Problems in all.
    problem_count: u64,
    /// The tensors that are bad, and the numbers of their damaged blocks.
    tensors: BTreeMap<String, Vec<u64>>,
    tensor_count: u64,
    byte_len: u64,
    storage_count: u64,
    unchecked_storages: u64,
    record_count: u64,
    unchecked_records: u64,
    /// The tensors with bytes that nothing vouched for when the file was salvaged.
    doubtful: Vec<String>,
    unsure: bool,
}

impl Checked {
    fn new(path: &Path, verdict: Verdict) -> Checked {
        Checked {
            path: path.to_owned(),
            verdict,
            reason: None,
            advice: None,
            further: Vec::new(),
            problem_count: 0,
            tensors: BTreeMap::new(),
            tensor_count: 0,
            byte_len: 0,
            storage_count: 0,
            unchecked_storages: 0,
            record_count: 0,
            unchecked_records: 0,
            doubtful: Vec::new(),
            unsure: false,
        }
    }

    /// A file that could not be opened, or not be read to its end.
    fn failed(path: &Path, e: &Error) -> Checked {
        Checked {
            reason: Some(e.reason()),
            advice: e.advice(),
            problem_count: 1,
            tensors: e.tensor().map(|name| (name.to_owned(), Vec::new())).into_iter().collect(),
            ..Checked::new(path, Verdict::of(e))
        }
    }

    fn of_report(path: &Path, checkpoint: &Checkpoint, report: &Report) -> Checked {
        let worst = |verdict| report.problems.iter().find(|e| Verdict::of(e) == verdict);
        let reason = worst(Verdict::Corrupted).or(worst(Verdict::Incompatible)).or(report.problems.first());
        let mut tensors: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for damaged in &report.damaged {
            let blocks = damaged.bad_blocks.iter().map(|bad| bad.block).collect();
            tensors.insert(damaged.name.clone(), blocks);
        }
        for name in report.problems.iter().filter_map(Error::tensor) {
            // A problem can also name what a document or record speaks of and the file does not have.
            if !tensors.contains_key(name) && !matches!(checkpoint.get(name), Ok(None)) {
                tensors.insert(name.to_owned(), Vec::new());
            }
        }
        Checked {
            reason: reason.map(Error::reason),
            advice: reason.and_then(Error::advice),
            further: report
                .problems
                .iter()
                .filter(|e| reason.is_none_or(|r| !std::ptr::eq(*e, r)))
                .map(Error::reason)
                .collect(),
            problem_count: report.problem_count,
            tensors,
            tensor_count: report.tensor_count,
            byte_len: report.file_len,
            storage_count: report.storage_count,
            unchecked_storages: report.unchecked_storages,
            record_count: report.part_count,
            unchecked_records: report.unchecked_parts,
            doubtful: checkpoint.metadata().map_or_else(
                |_| Vec::new(),
                |metadata| marked_tensors(&metadata).into_iter().map(str::to_owned).collect(),
            ),
            ..Checked::new(path, reason.map_or(Verdict::Ok, Verdict::of))
        }
    }

    fn to_json(&self, args: &Args) -> Json {
        let bad = |(name, blocks): (&String, &Vec<u64>)| json!({"name": name, "verdict": self.verdict.name(), "bad_blocks": blocks});
        let mut json = json!({
            "path": self.path.to_string_lossy(),
            "verdict": self.verdict.name(),
            "reason": self.reason,
            "tensors": self.tensors.iter().map(bad).collect::<Vec<_>>(),
        });
        if self.unchecked_storages > 0 {
            json["unchecked_storages"] = self.unchecked_storages.into();
        }
        if self.record_count > 0 {
            let checked = self.record_count - self.unchecked_records;
            json["records"] = json!({"checked": checked, "unchecked": self.unchecked_records});
        }
        if !self.doubtful.is_empty() {
            json["salvaged"] = json!({"doubtful": self.doubtful});
        }
        if args.quick {
            json["quick"] = true.into();
        }
        json
    }

    fn print(&self, args: &Args, out: &mut dyn Write) -> io::Result<()> {
        let verdict = format!("{:<12}", self.verdict.name());
        write!(out, "{}  {}", paint(self.verdict.style(), verdict), human::path(&self.path))?;
        let Some(reason) = &self.reason else {
            let records = match self.record_count {
                0 => String::new(),
                n => format!(" in {}", human::counted(n, "record")),
            };
            let tensors = human::counted(self.tensor_count, "tensor");
            let facts = format!("{tensors}{records}, {}", human::size(self.byte_len));
            writeln!(out, "{}", paint(FAINT, format!("  {facts}{}", self.reservation(args))))?;
            let doubtful: Vec<&str> = self.doubtful.iter().map(String::as_str).collect();
            if let Some(salvaged) = human::salvaged(&doubtful) {
                writeln!(out, "{:14}{}", "", paint(WARN, salvaged))?;
            }
            return Ok(());
        };
        let advice = self.advice.map(|advice| format!("; {advice}")).unwrap_or_default();
        writeln!(out, ": {}{advice}", human::printable(reason))?;
        // Damage to blocks is told by the tensors that have it.
        let damaged = self.tensors.values().any(|blocks| !blocks.is_empty());
        let mut lines: Vec<String> = Vec::new();
        for (name, blocks) in self.tensors.iter().filter(|(_, blocks)| !blocks.is_empty()) {
            let noun = if blocks.len() == 1 { "block" } else { "blocks" };
            lines.push(format!("tensor {}: {noun} {}", human::name(name), human::runs(blocks)));
        }
        print_some(&lines, lines.len() as u64, "tensor", out)?;
        let others: Vec<String> = self
            .further
            .iter()
            .filter(|line| !damaged || !line.ends_with("[BLK-1]"))
            .map(|l| human::printable(l))
            .collect();
        let hidden = self.problem_count.saturating_sub(1 + self.further.len() as u64);
        print_some(&others, others.len() as u64 + hidden, "problem", out)
    }

    /// What an ok does not say.
    fn reservation(&self, args: &Args) -> String {
        if args.quick {
            return " (header and index; data was not read)".to_owned();
        }
        match (self.unchecked_records, self.record_count) {
            (0, _) => {}
            (n, all) if n == all => return " (no checksums in this file; structure only)".to_owned(),
            (n, _) => {
                return format!(" (no checksums of {}; of those, structure only)", human::counted(n, "record"));
            }
        }
        match self.unchecked_storages {
            0 => String::new(),
            n if n == self.storage_count => " (no checksums in this format; structure only)".to_owned(),
            n => format!(" (no checksums of {}; of those, structure only)", human::counted(n, "storage")),
        }
    }
}

/// The first of some lines, and how many more there are.
fn print_some(lines: &[String], all: u64, noun: &str, out: &mut dyn Write) -> io::Result<()> {
    for line in lines.iter().take(SHOWN) {
        writeln!(out, "{:14}{line}", "")?;
    }
    match all - lines.len().min(SHOWN) as u64 {
        0 => Ok(()),
        more => {
            let plural = if more == 1 { "" } else { "s" };
            writeln!(out, "{:14}… and {} more {noun}{plural}", "", human::count(more))
        }
    }
}

fn print_json(results: &[Checked], args: &Args) -> io::Result<()> {
    let mut out = style::plain_output();
    out.write_all(b"[")?;
    for (i, checked) in results.iter().enumerate() {
        write!(out, "{}\n{}", if i == 0 { "" } else { "," }, human::json(&checked.to_json(args)))?;
    }
    out.write_all(if results.is_empty() { b"]\n" } else { b"\n]\n" })?;
    out.flush()
}

fn print_text(results: &[Checked], others: u64, args: &Args) -> io::Result<()> {
    let mut out = style::text_output();
    for checked in results {
        checked.print(args, &mut out)?;
    }
    if results.len() > 1 || others > 0 {
        let mut parts = Vec::new();
        for verdict in [Verdict::Ok, Verdict::Corrupted, Verdict::Incompatible, Verdict::Error] {
            let n = results.iter().filter(|checked| checked.verdict == verdict).count() as u64;
            if n > 0 {
                parts.push(format!("{} {}", human::count(n), paint(verdict.style(), verdict.name())));
            }
        }
        let files = human::counted(results.len() as u64, "checkpoint");
        let others = match others {
            0 => String::new(),
            n => format!("; {} skipped", human::counted(n, "other file")),
        };
        let colon = if parts.is_empty() { "" } else { ": " };
        writeln!(out, "{files}{colon}{}{others}", parts.join(", "))?;
    }
    out.flush()
}
