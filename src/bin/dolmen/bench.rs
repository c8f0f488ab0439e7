//! `dolmen bench`: how fast this machine reads, verifies and streams these very files.

mod cases;
mod files;
mod measure;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use dolmen::feature::{Host, Layout, LoaderOptions, Order, Table};
use dolmen::lifecycle::Candidates;
use dolmen::{Checkpoint, DType, Error, ErrorKind, Result};

use self::cases::{Bench, Opening, Place, What, planned};
use self::files::Files;
use self::measure::{Cache, Case};
use self::report::{Facts, Report};
use crate::Outcome;
use crate::progress::Progress;
use crate::style::cannot_write;

/// Blocks that are mixed at a time with `--block-shuffle`.
const WINDOW_BLOCKS: u64 = 16;

/// What to measure, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Checkpoints, and directories to search for them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Where batches go: host, or cuda:0 and so on
    #[arg(long, value_name = "DEVICE", default_value = "host", value_parser = parse_device)]
    device: Where,
    /// Rows of a batch
    #[arg(long, value_name = "ROWS", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Rows in random order
    #[arg(long)]
    shuffle: bool,
    /// Rows mixed in blocks of so many, 16 blocks at a time
    #[arg(long, value_name = "ROWS", conflicts_with = "shuffle", value_parser = clap::value_parser!(u64).range(1..))]
    block_shuffle: Option<u64>,
    /// What chooses the random order
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many threads fill batches; as many as the machine has, 8 at most, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// How many batches are made ahead; twice as many as threads if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    prefetch: Option<u32>,
    /// The key of a matrix; several lie side by side in a row
    #[arg(long, value_name = "KEY")]
    data: Vec<String>,
    /// The key of ids, which are read too
    #[arg(long, value_name = "KEY")]
    ids: Option<String>,
    /// Give rows in this dtype
    #[arg(long, value_enum)]
    dtype: Option<Float>,
    /// How files are read
    #[arg(long, value_enum, default_value_t = Access::Read)]
    access: Access,
    /// Use the first files alone, until they have so many rows, and no more rows of an epoch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// How long each case runs, about; with 0 each runs once, to its end
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=86400))]
    seconds: u32,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Dtypes that rows can be converted to.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// Mapped: the fastest if they are in memory; nobody may change or shorten them meanwhile
    Map,
    /// When rows are asked for
    Read,
    /// As read, past the page cache
    Direct,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Host,
    Cuda(usize),
}

const AFTER_HELP: &str = "\
Directories are searched as `dolmen verify` searches them. The files are taken
as one table of features, one below the other, and streamed in batches, as a
program does with dolmen::feature::Loader. Files that are no table are read and
loaded.

Cases:
  memcpy                bytes in memory, copied in pieces as long as a batch
  read(2)               the same files, read into memory that is used again
  pinned copy           pinned memory to the GPU, in parts as long as those of
                        batches, on as many streams as threads; no file is read
  batches, unverified   no checksum is computed
  batches, first epoch  each block is verified when it is first touched
  batches, later epoch  what was verified is remembered
  load_to_device        each file opened, and all its tensors verified and put
                        into memory that is allocated for it

Warm is with the files in the page cache: they are read once before. Cold is
after the page cache was asked to forget them, and is left out, with a note,
where it does not. What is touched: \"copied\" is every byte, into memory of the
device; \"CRC\" is every byte, to verify it. On the host, rows that lie together
in a mapped file are lent, which copies nothing: those batches are shown as they
are, then with all their bytes added up by the one thread that takes them, and
then copied all the same.

GB/s are 10^9 bytes of rows a second, as the files have them (of read(2): of
whole files; of load_to_device: of tensors), in the median of the rounds and in
the best of them. \"of memcpy\", \"of read\" and \"of pinned\" are shares of the
medians of those cases with as many threads, and of read with the same cache.
Where files have no checksums, as .safetensors, nothing is verified.

JSON: {\"device\", \"access\", \"order\", \"batch\", \"threads\", \"prefetch\",
  \"files\", \"file_bytes\", \"notes\": [\"…\"],
  \"table\": {\"rows\", \"width\", \"dtype\", \"row_bytes\", \"open_seconds\"},
  \"cases\": [{\"case\", \"cache\", \"touched\", \"threads\", \"rounds\",
    \"gb_per_s\", \"best_gb_per_s\", \"rows_per_s\",
    \"of_memcpy\", \"of_read\", \"of_pinned\"}]}
\"table\" is null if the files are none; \"row_bytes\" are those in the files.
\"cache\" is \"warm\", \"cold\", or null where no file is read; \"rows_per_s\" and
shares may be null.

Exit codes: 3 if a file is corrupted or incompatible; 1 if it could not be done:
a file cannot be read, or there is no such device; otherwise 0.

Examples:
  dolmen bench features/
  dolmen bench features/ --access map --shuffle --batch 32
  dolmen bench merged.pt --data data --dtype bf16 --seconds 5
  dolmen bench features/ --json | jq '.cases[] | select(.cache == \"cold\")'
  dolmen bench features/ --device cuda:0";

fn parse_device(text: &str) -> std::result::Result<Where, String> {
    let expected = || "expected host, cuda or cuda:0".to_owned();
    match text {
        "host" => Ok(Where::Host),
        "cuda" => Ok(Where::Cuda(0)),
        _ => {
            let number = text.strip_prefix("cuda:").ok_or_else(expected)?;
            number.parse().map(Where::Cuda).map_err(|_| expected())
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    match args.device {
        Where::Host => measure(args, Host),
        #[cfg(feature = "cuda")]
        Where::Cuda(ordinal) => measure(args, dolmen::feature::Cuda::new(ordinal)?),
        #[cfg(not(feature = "cuda"))]
        Where::Cuda(ordinal) => Err(Error::new(
            ErrorKind::Device,
            format!("cannot use cuda:{ordinal}: this build has no CUDA: build it with --features cuda"),
        )),
    }
}

/// The checkpoints that were named or found.
fn checkpoints(args: &Args) -> Result<Vec<PathBuf>> {
    let mut found = Candidates::search(&args.paths);
    if let Some(e) = found.failed.pop() {
        return Err(e);
    }
    let mut paths = Vec::new();
    for file in found.files {
        match Checkpoint::open_on_demand(&file.path) {
            Ok(_) => paths.push(file.path),
            Err(e) if file.is_passed_over(&e) => {}
            Err(e) => return Err(e),
        }
    }
    if paths.is_empty() {
        let e = Error::new(ErrorKind::NotFound, "no checkpoint was found");
        return Err(match &args.paths[..] {
            [path] => e.with_path(path),
            _ => e,
        });
    }
    Ok(paths)
}

impl Args {
    fn opening(&self) -> Opening {
        let mut layout = self.data.iter().fold(Layout::new(), |layout, key| layout.matrix(key));
        layout = match &self.ids {
            Some(key) => layout.ids(key),
            None => layout.no_ids(),
        };
        let dtype = self.dtype.map(|dtype| match dtype {
            Float::F32 => DType::F32,
            Float::F16 => DType::F16,
            Float::Bf16 => DType::BF16,
        });
        Opening { access: self.access, layout, dtype }
    }

    fn order(&self) -> Order {
        match self.block_shuffle {
            Some(rows) => Order::block_shuffled(self.seed, rows, WINDOW_BLOCKS),
            None if self.shuffle => Order::shuffled(self.seed),
            None => Order::sequential(),
        }
    }

    fn order_name(&self) -> &'static str {
        match self.block_shuffle {
            Some(_) => "block-shuffled",
            None if self.shuffle => "shuffled",
            None => "sequential",
        }
    }

    /// The first files, until they have as many rows as were asked for.
    fn first_files(&self, paths: Vec<PathBuf>, opening: &Opening) -> Result<Vec<PathBuf>> {
        let Some(most) = self.rows else { return Ok(paths) };
        let mut rows = 0;
        let mut first = Vec::new();
        for path in paths {
            if rows >= most {
                break;
            }
            rows += opening.table(&[&path])?.rows();
            first.push(path);
        }
        Ok(first)
    }

    /// The table over files, and how long it took to open; nothing, with a note, if they are none and nobody said that they are.
    fn table(&self, files: &Files, opening: &Opening, notes: &mut Vec<String>) -> Result<Option<(Table, Duration)>> {
        let begin = Instant::now();
        match opening.table(&files.paths) {
            Ok(table) => Ok(Some((table, begin.elapsed()))),
            Err(e) => {
                let is_no_table = matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound);
                let was_said = !self.data.is_empty() || self.ids.is_some() || self.rows.is_some();
                if !is_no_table || was_said || self.dtype.is_some() {
                    return Err(e);
                }
                notes.push(format!("no batches, for the files are no table that can be told without --data: {e}"));
                Ok(None)
            }
        }
    }
}

/// Measures all cases on a device, and tells what they came to.
fn measure<D: Place>(args: &Args, device: D) -> Result<Outcome> {
    let opening = args.opening();
    let files = Files::new(args.first_files(checkpoints(args)?, &opening)?)?;
    let mut notes = Vec::new();
    let table = args.table(&files, &opening, &mut notes)?;
    let threads = args.threads.unwrap_or_else(default_threads);
    let prefetch = args.prefetch.unwrap_or(threads.saturating_mul(2));
    let options = LoaderOptions::new().batch_len(args.batch).threads(threads).prefetch(prefetch);
    // Of the files' own dtype, so that every figure is of the bytes that are read.
    let stored = Opening { dtype: None, ..args.opening() };
    let (row_len, batch_len) = match &table {
        Some((table, _)) => {
            let rows = args.batch.min(table.rows());
            let batch = usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(table.row_byte_len());
            (stored.table(&files.paths)?.row_byte_len() as u64, batch)
        }
        None => (0, 0),
    };
    let bench = Bench {
        device: Arc::new(device),
        files: &files,
        opening: &opening,
        options,
        order: args.order(),
        threads,
        row_len,
        batch_len,
        most_rows: args.rows,
        time: Duration::from_secs(args.seconds.into()),
    };
    let table = table.filter(|(table, _)| {
        if table.rows() == 0 {
            notes.push("no batches, for the table has no rows".to_owned());
        }
        table.rows() > 0
    });
    let lends = table.as_ref().map_or(Ok(false), |(table, _)| bench.lends(table))?;
    let facts = Facts {
        device: bench.device.name(),
        access: args.access,
        order: args.order_name(),
        batch: args.batch,
        threads,
        prefetch,
        files: files.paths.len(),
        file_bytes: files.byte_len,
        table: table.as_ref().map(|(table, opened)| report::TableFacts {
            rows: table.rows(),
            width: table.width(),
            dtype: table.dtype(),
            row_len,
            opened: *opened,
        }),
    };
    let has_table = table.is_some();
    // What it has mapped could not be made cold.
    drop(table);
    let is_cold = match files.try_cold() {
        Ok(()) => true,
        Err(why) => {
            notes.push(format!("no cold cases: {why}"));
            false
        }
    };
    let can_load = can_load(&files, &mut notes);
    let planned = planned(threads as usize, facts.device == "host", has_table, lends, can_load, is_cold);
    let cases = run_all(&bench, &planned)?;
    let report = Report { facts, cases, notes };
    let written = if args.json { report.print_json() } else { report.print_text() };
    written.map_err(cannot_write)?;
    Ok(Outcome::Well)
}

/// As many as a loader has unless told.
fn default_threads() -> u32 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    u32::try_from(threads).unwrap_or(1)
}

/// Whether the longest file fits into the memory that is there.
fn can_load(files: &Files, notes: &mut Vec<String>) -> bool {
    let longest = files.paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| m.len()).max();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let fits = available.zip(longest).is_none_or(|(available, longest)| longest / 1024 < available / 2);
    if !fits {
        notes.push("no load_to_device: a file takes more than half of the memory that is left".to_owned());
    }
    fits
}

fn run_all<D: Place>(bench: &Bench<'_, D>, planned: &[(What, Cache)]) -> Result<Vec<Case>> {
    let progress = Progress::of_steps(planned.len() as u64);
    progress.step("reading the files");
    // So that they are warm.
    bench.files.read(1, None)?;
    let mut cases = Vec::new();
    for (number, &(what, cache)) in planned.iter().enumerate() {
        cases.push(bench.run(what, cache)?);
        if let (Some(done), true) = (cases.last(), number + 1 < planned.len()) {
            progress.step(&done.name);
        }
    }
    Ok(cases)
}
