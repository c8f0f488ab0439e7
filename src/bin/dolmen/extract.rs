//! `dolmen extract`: one tensor, or some of its rows, as a file that other programs read.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use dolmen::commit::{AtomicFile, SaveOptions};
use dolmen::foreign::Held;
use dolmen::{Builder, Checkpoint, Error, ErrorKind, Result, TensorData, TensorView};

use crate::progress::Progress;
use crate::style;
use crate::{Outcome, human, say};

/// What to extract, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The checkpoint
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The tensor's name
    #[arg(value_name = "NAME")]
    name: String,
    /// The file to write, replaced atomically; - is standard output
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Write the elements alone, little-endian, in row-major order
    #[arg(long)]
    raw: bool,
    /// Only these rows along the first axis, the last one excluded
    #[arg(long, value_name = "A..B", value_parser = parse_rows)]
    rows: Option<RowRange>,
    /// Write raw data even if strides expand it to far more than the file holds,
    /// or the document, which can say that values are others, is broken
    #[arg(long)]
    force: bool,
}

const AFTER_HELP: &str = "\
OUT is a NumPy file if its name ends in .npy or it is standard output, and raw
if its name ends in .bin or .raw or --raw is given. The data is verified as it
is read; if it is damaged, an existing OUT stays as it was. Strided tensors are
written contiguously. Values are those that the document says: conjugated or
negated where it does; quantised tensors give their integers. NAME is as inspect shows it; in a .pt file it is the keys
and positions that lead to the tensor, and a list of numbers is one too. Dtypes
that NumPy lacks are written as void of the same bytes, which a note says; see
them with .view() there.

Examples:
  dolmen extract model.dolmen encoder.weight -o weight.npy
  dolmen extract checkpoint.pt model.encoder.weight -o weight.npy
  dolmen extract features.dolmen x --rows 1000..2000 -o part.npy
  dolmen extract model.dolmen bias --raw -o - | od -t f4";

/// Rows as they are given: either end may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowRange {
    start: u64,
    end: Option<u64>,
}

fn parse_rows(text: &str) -> std::result::Result<RowRange, String> {
    let wrong = || "expected a range such as 0..10, 10.. or ..10".to_owned();
    let (start, end) = text.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let start = if start.is_empty() { 0 } else { number(start)? };
    let end = if end.is_empty() { None } else { Some(number(end)?) };
    if end.is_some_and(|end| end < start) {
        return Err("the range ends before it begins".to_owned());
    }
    Ok(RowRange { start, end })
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let raw = is_raw(args)?;
    let checkpoint = Checkpoint::open_on_demand(&args.file)?;
    let tensor = checkpoint.tensor(&args.name)?;
    check_expansion(&tensor, args)?;
    let held = held(&checkpoint, raw && args.force)?;
    let in_file = |e: Error| e.with_path(&args.file).with_tensor(tensor.name());
    let rows = args.rows.map(|rows| resolve(&tensor, rows).map_err(in_file)).transpose()?;
    let part = rows.map(|rows| Ok((byte_range(&tensor, &rows)?, rows))).transpose().map_err(in_file)?;
    if args.output == Path::new("-") {
        let mut out = style::plain_output();
        let written = write(&tensor, &held, part, raw, &mut out);
        return written.and_then(|()| out.flush().map_err(cannot_write)).map(|()| Outcome::Well);
    }
    let mut file = AtomicFile::create(&args.output, &SaveOptions::new())?;
    let mut out = io::BufWriter::with_capacity(1 << 20, &mut file);
    // What is wrong with the input names it already.
    let in_output = |e: Error| e.with_path(&args.output);
    write(&tensor, &held, part, raw, &mut out).map_err(in_output)?;
    out.into_inner().map_err(|e| in_output(cannot_write(e.into_error())))?;
    file.commit()?;
    Ok(Outcome::Well)
}

/// Whether to write the elements alone.
fn is_raw(args: &Args) -> Result<bool> {
    let extension = args.output.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        _ if args.raw => Ok(true),
        Some("bin" | "raw") => Ok(true),
        Some("npy") => Ok(false),
        None if args.output == Path::new("-") => Ok(false),
        _ => {
            let e = Error::new(ErrorKind::InvalidInput, "cannot tell from this name what to write");
            Err(e.with_path(&args.output).with_advice("end it in .npy, .bin or .raw, or give --raw"))
        }
    }
}

/// What the document says of values; if it is broken, nothing where that is wanted all the same.
fn held(checkpoint: &Checkpoint, anyway: bool) -> Result<Held> {
    match Held::of(checkpoint) {
        Err(e) if anyway => {
            note(&format!("the elements are written as they are stored, whatever the document says of them: {e}"));
            Ok(Held::default())
        }
        Err(e) => Err(e.with_advice("give --raw and --force to have the elements as they are stored")),
        held => held,
    }
}

/// Refuses what a small file can be made to expand to.
fn check_expansion(tensor: &TensorView<'_>, args: &Args) -> Result<()> {
    if args.force || !tensor.expands_too_far() {
        return Ok(());
    }
    let len = tensor.contiguous_byte_len();
    let message = format!("its strides expand to {}, far more than the file holds", human::size(len));
    let e = Error::new(ErrorKind::Limit, message).with_path(&args.file).with_tensor(tensor.name());
    Err(e.with_advice("give --raw and --force if that is what you want"))
}

/// The rows that are meant, of those that there are.
fn resolve(tensor: &TensorView<'_>, rows: RowRange) -> Result<Range<u64>> {
    let Some(&count) = tensor.shape().first() else {
        return Err(Error::new(ErrorKind::InvalidInput, "it is a scalar, which has no rows"));
    };
    let end = rows.end.unwrap_or(count);
    if end > count || rows.start > end {
        let message = format!("there are no rows {}..{end}: it has {}", rows.start, human::count(count));
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(rows.start..end)
}

/// The bytes, among the elements in row-major order, that rows are.
fn byte_range(tensor: &TensorView<'_>, rows: &Range<u64>) -> Result<Range<u64>> {
    let count = tensor.shape().first().copied().unwrap_or(0).max(1);
    let row_bits = u128::from(tensor.element_count() / count) * u128::from(tensor.dtype().bits());
    let (start, end) = (row_bits * u128::from(rows.start), row_bits * u128::from(rows.end));
    if start % 8 != 0 || (end % 8 != 0 && rows.end != count) {
        return Err(Error::new(ErrorKind::InvalidInput, "these rows do not begin and end at byte boundaries"));
    }
    // Both are at most the bytes of all rows, which a u64 holds.
    let byte = |bits: u128| u64::try_from(bits.div_ceil(8)).unwrap_or(u64::MAX);
    Ok(byte(start)..byte(end))
}

/// Writes a tensor, or some rows and the bytes that they are.
fn write(
    tensor: &TensorView<'_>,
    held: &Held,
    part: Option<(Range<u64>, Range<u64>)>,
    raw: bool,
    out: &mut dyn Write,
) -> Result<()> {
    if part.is_none() && !raw {
        return write_npy(tensor, out);
    }
    held.lost(tensor).iter().for_each(|lost| note(&format!("tensor {}: {lost}", human::name(tensor.name()))));
    match part {
        None => stream(tensor, held, 0..tensor.contiguous_byte_len(), out),
        Some((bytes, _)) if raw => stream(tensor, held, bytes, out),
        Some((bytes, rows)) => {
            // The rows as a tensor of their own, in memory.
            let mut shape = tensor.shape().to_vec();
            if let Some(first) = shape.first_mut() {
                *first = rows.end - rows.start;
            }
            let mut elements = Vec::new();
            stream(tensor, held, bytes, &mut elements)?;
            let mut builder = Builder::new();
            builder.tensor(tensor.name(), TensorData::raw(tensor.dtype(), shape, elements)?)?;
            let part = Checkpoint::from_bytes(&builder.to_vec()?)?;
            write_npy(&part.tensor(tensor.name())?, out)
        }
    }
}

/// Writes a range of the elements' bytes, and stops reading at its end.
fn stream(tensor: &TensorView<'_>, held: &Held, wanted: Range<u64>, out: &mut dyn Write) -> Result<()> {
    let progress = Progress::of_bytes(wanted.end);
    let mut at = 0u64;
    let mut complete = wanted.is_empty();
    if complete {
        return Ok(());
    }
    let streamed = held.stream(tensor, |run| {
        let (begin, end) = (at, at + run.len() as u64);
        at = end;
        progress.add(run.len() as u64);
        let from = wanted.start.clamp(begin, end) - begin;
        let to = wanted.end.clamp(begin, end) - begin;
        out.write_all(&run[from as usize..to as usize]).map_err(cannot_write)?;
        complete = wanted.end <= end;
        // An error is the way to stop; it is told from others by `complete`.
        let enough = || Error::new(ErrorKind::InvalidInput, "enough has been read");
        if complete && end < tensor.contiguous_byte_len() { Err(enough()) } else { Ok(()) }
    });
    if complete { Ok(()) } else { streamed }
}

/// Writes a tensor as a NumPy file, and says what NumPy lacks.
fn write_npy(tensor: &TensorView<'_>, out: &mut dyn Write) -> Result<()> {
    let notes = dolmen::foreign::npy::write_npy(tensor, out)?;
    notes.iter().for_each(note);
    Ok(())
}

fn note(text: &str) {
    say(&format!("{} {text}", style::paint(style::WARN, "note:")));
}

/// The error for bytes that could not be written.
fn cannot_write(e: io::Error) -> Error {
    Error::io("cannot write", e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_end_of_a_range_of_rows_may_be_left_out() {
        assert_eq!(parse_rows("2..5"), Ok(RowRange { start: 2, end: Some(5) }));
        assert_eq!(parse_rows("2.."), Ok(RowRange { start: 2, end: None }));
        assert_eq!(parse_rows("..5"), Ok(RowRange { start: 0, end: Some(5) }));
        assert_eq!(parse_rows("5..5"), Ok(RowRange { start: 5, end: Some(5) }));
        for wrong in ["", "5", "5..2", "a..b", "-1..2", "1...3", "1..=3"] {
            assert!(parse_rows(wrong).is_err(), "{wrong}");
        }
    }
}
