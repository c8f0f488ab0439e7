//! `dolmen diff`: what two checkpoints have in common and what not, tensor by tensor.

use std::cmp::Ordering;
use std::io::{self, Write};
use std::path::PathBuf;

use dolmen::foreign::Held;
use dolmen::{Checkpoint, Result, TensorView, Value};
use serde_json::{Value as Json, json};

use crate::compare::{self, Compared, Differences, Side};
use crate::number::{Distance, Number};
use crate::progress::Progress;
use crate::style::{self, BAD, FAINT, GOOD, TITLE, WARN, cannot_write, paint};
use crate::{Outcome, human, values};

/// What to compare, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The left checkpoint
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The right checkpoint
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Compare values; this is the default
    #[arg(long, overrides_with = "no_values")]
    values: bool,
    /// Compare names, dtypes and shapes alone, and read no data
    #[arg(long)]
    no_values: bool,
    /// Exit with 1 if the checkpoints differ
    #[arg(long)]
    exit_code: bool,
}

const AFTER_HELP: &str = "\
Values of the same dtype are the same if their bits are: 0.0 and -0.0 differ, a
NaN is the same as a NaN of the same bits. Values of different dtypes are
compared as numbers. Distances between complex numbers are those of the part
that differs more. Both formats may be different. Strides, sharing of storages
and the order of the data make no difference; strides that differ are mentioned.
Tensors that a document says are conjugated or negated are compared as such, and
quantised ones as the integers that are stored.

JSON: {\"equal\", \"equal_tensors\", \"added\": [...], \"removed\": [...],
  \"changed\": [{\"name\", \"dtype\": [a, b], \"shape\": [a, b],
    \"values\": {\"compared\", \"differing\", \"nans\", \"unit\",
      \"largest\": {\"difference\", \"index\": [...], \"a\", \"b\"}}}],
  \"strides\": [{\"name\", \"strides\": [a, b]}],
  \"metadata\": {\"added\", \"removed\", \"changed\"}, \"document\"}
\"values\" is null if they were not compared or are equal, and \"largest\" is null
if no distance can be told; infinities and NaNs are text, complex numbers arrays.
\"added\" is in B alone, \"removed\" in A alone. \"document\" is \"equal\", \"added\",
\"removed\" or \"changed\".

Exit codes: 0 if the checkpoints were compared, also if they differ, unless
--exit-code is given: then 1 if they differ. 3 if one of them is damaged.

Examples:
  dolmen diff before.dolmen after.dolmen
  dolmen diff model.safetensors model.dolmen --exit-code && rm model.safetensors
  dolmen diff checkpoint_10.pt checkpoint_11.pt
  dolmen diff checkpoint.pt checkpoint.dolmen --exit-code
  dolmen diff a.dolmen b.dolmen --no-values";

/// Differences shown of metadata, and of documents.
const SHOWN: usize = 20;

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let a = Checkpoint::open_on_demand(&args.a)?;
    let b = Checkpoint::open_on_demand(&args.b)?;
    let diff = Diff::of(&a, &b, args)?;
    let written = if args.json { diff.print_json() } else { diff.print_text(args) };
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(cannot_write(e)),
        _ => {}
    }
    Ok(if args.exit_code && !diff.is_equal() { Outcome::CouldNot } else { Outcome::Well })
}

/// All that differs.
struct Diff<'a> {
    equal_tensors: u64,
    added: Vec<TensorView<'a>>,
    removed: Vec<TensorView<'a>>,
    changed: Vec<Changed<'a>>,
    /// The same values over other strides.
    restrided: Vec<(TensorView<'a>, TensorView<'a>)>,
    metadata: Entries,
    document: Document,
}

/// A tensor that both have, and that is not the same.
struct Changed<'a> {
    a: TensorView<'a>,
    b: TensorView<'a>,
    /// What came of comparing values, if they were compared.
    values: Option<Compared>,
}

/// Keys of metadata, and what stands behind them.
#[derive(Default)]
struct Entries {
    added: Vec<(String, Value)>,
    removed: Vec<(String, Value)>,
    changed: Vec<(String, Value, Value)>,
}

enum Document {
    Equal,
    Added(Value),
    Removed(Value),
    Changed(Box<(Value, Value)>),
}

impl<'a> Diff<'a> {
    fn of(a: &'a Checkpoint, b: &'a Checkpoint, args: &Args) -> Result<Diff<'a>> {
        let mut diff = Diff {
            equal_tensors: 0,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            restrided: Vec::new(),
            metadata: Entries::of(a, b)?,
            document: Document::of(a, b)?,
        };
        let mut pairs = Vec::new();
        let mut left = a.tensors().collect::<Result<Vec<_>>>()?.into_iter().peekable();
        let mut right = b.tensors().collect::<Result<Vec<_>>>()?.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) => a.name().cmp(b.name()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match order {
                Ordering::Less => diff.removed.extend(left.next()),
                Ordering::Greater => diff.added.extend(right.next()),
                Ordering::Equal => pairs.extend(left.next().zip(right.next())),
            }
        }
        let longest_file = a.header().file_len().max(b.header().file_len());
        diff.compare(pairs, (&Held::of(a)?, &Held::of(b)?), longest_file, args)?;
        Ok(diff)
    }

    fn compare(
        &mut self,
        pairs: Vec<(TensorView<'a>, TensorView<'a>)>,
        held: (&Held, &Held),
        longest_file: u64,
        args: &Args,
    ) -> Result<()> {
        let longest = |len: u64, t: &TensorView<'_>| len.saturating_add(t.contiguous_byte_len());
        let total = pairs.iter().fold(0, |len, (a, b)| longest(longest(len, a), b));
        let progress = Progress::of_bytes(if args.no_values { 0 } else { total });
        for (a, b) in pairs {
            let same_kind = a.dtype() == b.dtype() && a.shape() == b.shape();
            let values = match args.no_values || a.shape() != b.shape() {
                true => None,
                false => {
                    let (left, right) = (Side { tensor: a, held: held.0 }, Side { tensor: b, held: held.1 });
                    Some(compare::compare(left, right, longest_file, &|bytes| progress.add(bytes))?)
                }
            };
            if !same_kind || !matches!(values, None | Some(Compared::Equal)) {
                self.changed.push(Changed { a, b, values });
                continue;
            }
            self.equal_tensors += 1;
            if a.is_contiguous() != b.is_contiguous() || (!a.is_contiguous() && a.strides() != b.strides()) {
                self.restrided.push((a, b));
            }
        }
        Ok(())
    }

    fn is_equal(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.metadata.is_equal()
            && matches!(self.document, Document::Equal)
    }

    fn print_json(&self) -> io::Result<()> {
        let mut out = style::plain_output();
        let names = |tensors: &[TensorView<'_>]| Json::from_iter(tensors.iter().map(|tensor| tensor.name()));
        let restrided = |(a, b): &(TensorView<'_>, TensorView<'_>)| json!({"name": a.name(), "strides": [a.strides(), b.strides()]});
        let json = json!({
            "equal": self.is_equal(),
            "equal_tensors": self.equal_tensors,
            "added": names(&self.added),
            "removed": names(&self.removed),
            "changed": self.changed.iter().map(Changed::to_json).collect::<Vec<_>>(),
            "strides": self.restrided.iter().map(restrided).collect::<Vec<_>>(),
            "metadata": self.metadata.to_json(),
            "document": self.document.name(),
        });
        writeln!(out, "{}", human::json(&json))?;
        out.flush()
    }

    fn print_text(&self, args: &Args) -> io::Result<()> {
        let mut out = style::text_output();
        let width = style::output_width();
        writeln!(out, "{} {}", paint(BAD, "-"), paint(TITLE, human::path(&args.a)))?;
        writeln!(out, "{} {}", paint(GOOD, "+"), paint(TITLE, human::path(&args.b)))?;
        for (sign, style, tensors) in [("-", BAD, &self.removed), ("+", GOOD, &self.added)] {
            for tensor in tensors {
                let kind = format!("{} {}", tensor.dtype(), human::dims(tensor.shape()));
                writeln!(out, "{} {}  {}", paint(style, sign), name(tensor, width), paint(FAINT, kind))?;
            }
        }
        for changed in &self.changed {
            changed.print(width, &mut out)?;
        }
        for (a, b) in &self.restrided {
            let (x, y) = (human::dims(&a.strides()), human::dims(&b.strides()));
            writeln!(out, "{} {}  {}", paint(FAINT, "="), name(a, width), paint(FAINT, format!("strides {x} → {y}")))?;
        }
        self.metadata.print(width, &mut out)?;
        self.document.print(width, &mut out)?;
        let same = format!("{} equal", human::counted(self.equal_tensors, "tensor"));
        let unread = if args.no_values { " in dtype and shape; values were not compared" } else { "" };
        let counts = [("changed", self.changed.len()), ("removed", self.removed.len()), ("added", self.added.len())];
        let mut parts = vec![format!("{same}{unread}")];
        parts.extend(
            counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{} {what}", human::count(*n as u64))),
        );
        writeln!(out, "{}", parts.join(", "))?;
        out.flush()
    }
}

fn name(tensor: &TensorView<'_>, width: Option<usize>) -> String {
    let name = human::name(tensor.name());
    width.map_or(name.clone(), |width| human::shorten_middle(&name, (width / 2).max(20)))
}

fn fit(line: String, used: usize, width: Option<usize>) -> String {
    width.map_or_else(|| line.clone(), |width| human::shorten_end(&line, width.saturating_sub(used)))
}

impl Changed<'_> {
    fn print(&self, width: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} {}", paint(WARN, "~"), name(&self.a, width))?;
        let mut lines = Vec::new();
        if self.a.dtype() != self.b.dtype() {
            lines.push(format!("dtype {} → {}", self.a.dtype(), self.b.dtype()));
        }
        if self.a.shape() != self.b.shape() {
            lines.push(format!("shape {} → {}", human::dims(self.a.shape()), human::dims(self.b.shape())));
        }
        match &self.values {
            None => {}
            Some(Compared::Equal) => lines.push("values are the same".to_owned()),
            Some(Compared::Not(why)) => lines.push(format!("values were not compared: {why}")),
            Some(Compared::Differing(found)) => self.describe(found, &mut lines),
        }
        lines.into_iter().try_for_each(|line| writeln!(out, "    {}", fit(line, 4, width)))
    }

    fn describe(&self, found: &Differences, lines: &mut Vec<String>) {
        let of = human::counted(found.compared, if found.bytes { "byte" } else { "element" });
        let verb = if found.differing == 1 { "differs" } else { "differ" };
        let nans = match found.nans {
            0 => String::new(),
            n => format!(", {} with a NaN", human::count(n)),
        };
        lines.push(format!("{} of {of} {verb}{nans}", human::count(found.differing)));
        if let Some(largest) = &found.largest {
            let index = human::dims(&compare::index_of(largest.element, self.a.shape()));
            let distance = match largest.distance {
                Distance::Int(n) => human::count(n),
                Distance::Float(x) => format!("{x:?}"),
            };
            lines.push(format!("largest difference {distance} at {index}: {} → {}", largest.a, largest.b));
        }
    }

    fn to_json(&self) -> Json {
        let values = match &self.values {
            Some(Compared::Differing(found)) => {
                let largest = found.largest.as_ref().map(|largest| {
                    json!({
                        "difference": match largest.distance {
                            Distance::Int(n) => integer_json(n),
                            Distance::Float(x) => float_json(x),
                        },
                        "index": compare::index_of(largest.element, self.a.shape()),
                        "a": number_json(largest.a),
                        "b": number_json(largest.b),
                    })
                });
                json!({
                    "compared": found.compared,
                    "differing": found.differing,
                    "nans": found.nans,
                    "unit": if found.bytes { "byte" } else { "element" },
                    "largest": largest,
                })
            }
            _ => Json::Null,
        };
        json!({
            "name": self.a.name(),
            "dtype": [self.a.dtype().name(), self.b.dtype().name()],
            "shape": [self.a.shape(), self.b.shape()],
            "values": values,
        })
    }
}

fn number_json(number: Number) -> Json {
    match number {
        Number::Int(n) if n < 0 => i64::try_from(n).map_or_else(|_| n.to_string().into(), Json::from),
        Number::Int(n) => integer_json(n.unsigned_abs()),
        Number::Float(x) => float_json(x),
        Number::Pair(x, y) => json!([float_json(x), float_json(y)]),
    }
}

fn integer_json(n: u128) -> Json {
    u64::try_from(n).map_or_else(|_| n.to_string().into(), Json::from)
}

fn float_json(x: f64) -> Json {
    serde_json::Number::from_f64(x).map_or_else(|| format!("{x:?}").into(), Json::Number)
}

impl Entries {
    fn of(a: &Checkpoint, b: &Checkpoint) -> Result<Entries> {
        let (a, mut b) = (a.metadata()?, b.metadata()?);
        let mut entries = Entries::default();
        for (key, value) in a {
            match b.remove(&key) {
                None => entries.removed.push((key, value)),
                Some(other) if other != value => entries.changed.push((key, value, other)),
                Some(_) => {}
            }
        }
        entries.added.extend(b);
        Ok(entries)
    }

    fn is_equal(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }

    fn to_json(&self) -> Json {
        let keys = |entries: &[(String, Value)]| Json::from_iter(entries.iter().map(|(key, _)| key.as_str()));
        let changed = Json::from_iter(self.changed.iter().map(|(key, _, _)| key.as_str()));
        json!({"added": keys(&self.added), "removed": keys(&self.removed), "changed": changed})
    }

    fn print(&self, width: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
        for (sign, style, entries) in [("-", BAD, &self.removed), ("+", GOOD, &self.added)] {
            for (key, value) in entries {
                let text = format!("metadata {}: {}", human::name(key), crate::inspect::headline(value));
                writeln!(out, "{} {}", paint(style, sign), fit(text, 2, width))?;
            }
        }
        for (key, a, b) in &self.changed {
            print_differences(&format!("metadata {}", human::name(key)), a, b, width, out)?;
        }
        Ok(())
    }
}

impl Document {
    fn of(a: &Checkpoint, b: &Checkpoint) -> Result<Document> {
        Ok(match (a.document()?, b.document()?) {
            (None, None) => Document::Equal,
            (Some(a), None) => Document::Removed(a),
            (None, Some(b)) => Document::Added(b),
            (Some(a), Some(b)) if a == b => Document::Equal,
            (Some(a), Some(b)) => Document::Changed(Box::new((a, b))),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Document::Equal => "equal",
            Document::Added(_) => "added",
            Document::Removed(_) => "removed",
            Document::Changed(_) => "changed",
        }
    }

    fn print(&self, width: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
        let (sign, style, value) = match self {
            Document::Equal => return Ok(()),
            Document::Changed(both) => return print_differences("document", &both.0, &both.1, width, out),
            Document::Removed(value) => ("-", BAD, value),
            Document::Added(value) => ("+", GOOD, value),
        };
        writeln!(
            out,
            "{} {}",
            paint(style, sign),
            fit(format!("document: {}", crate::inspect::headline(value)), 2, width)
        )
    }
}

fn print_differences(what: &str, a: &Value, b: &Value, width: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
    let found = values::differences(a, b, SHOWN + 1);
    writeln!(out, "{} {}", paint(WARN, "~"), fit(what.to_owned(), 2, width))?;
    for difference in found.iter().take(SHOWN) {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        let colon = if difference.path.is_empty() { "" } else { ": " };
        let line = format!("{}{colon}{} → {}", difference.path, side(&difference.a), side(&difference.b));
        writeln!(out, "    {}", fit(line, 4, width))?;
    }
    if found.len() > SHOWN {
        writeln!(out, "    … and more")?;
    }
    Ok(())
}
