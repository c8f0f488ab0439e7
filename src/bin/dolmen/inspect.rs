//! `dolmen inspect`: what a checkpoint holds. It reads header and index, never data.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::ValueEnum;
use dolmen::foreign::Held;
use dolmen::foreign::torch::{self, Modules, Role, Scan, ScannedGlobal, Verdict};
use dolmen::format::value::TreeOptions;
use dolmen::salvage::marked_tensors;
use dolmen::{Checkpoint, DType, Error, Result, TensorView, Value};
use serde_json::{Value as Json, json};

use crate::style::{self, BAD, FAINT, TITLE, WARN, cannot_write, paint};
use crate::table::{Column, Table};
use crate::{Outcome, complain, human};

/// What to inspect, and how to show it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Checkpoints to look into
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write JSON: an object for one file, an array of objects for several
    #[arg(long)]
    json: bool,
    /// Show the document too: the nested object that was saved
    #[arg(long)]
    document: bool,
    /// Show all metadata in full, and no tensors
    #[arg(long)]
    metadata: bool,
    /// The order of tensors
    #[arg(long, value_enum, default_value_t = Sort::Name)]
    sort: Sort,
    /// Only tensors whose names match: a pattern with * and ?, or else a part of the name
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<String>,
}

const AFTER_HELP: &str = "\
Names are shortened to fit the terminal (or COLUMNS); they are whole when the
output goes to a file or a pipe.

JSON: {\"format\", \"format_version\", \"file_bytes\", \"metadata\": {...},
  \"tensors\": [{\"name\", \"path\": [...], \"dtype\", \"shape\": [...],
  \"strides\": [...], \"byte_len\", \"storage\", \"crc32\": \"xxxxxxxx\",
  \"attributes\": {...}}]}
and, with --document, \"document\". Strides are in elements. \"path\" has the keys
and list positions that lead to the tensor in the document (fields of objects by
their names), [] if there are none. \"attributes\" (only if there are any) is what
the document says of the tensor beyond its place, such as {\"neg\": true}: its
values are the negatives of those that are stored. \"crc32\" is that of the whole storage, null
if the file has none. With several files each object begins with its \"path\".
For a .pt file, or what was converted from one, there is \"globals\":
[{\"name\", \"called\", \"verdict\"}], all that its pickles name, with \"safe\" (plain
data), \"unknown\" or \"dangerous\" (can run code when Python loads the file; this
command runs nothing). Of a file that was salvaged there is \"salvaged\":
{\"doubtful\": [...]}, the tensors with bytes that nothing vouched for.

Examples:
  dolmen inspect model.dolmen
  dolmen inspect model.safetensors --sort size --match '*.weight'
  dolmen inspect model.dolmen --json | jq -r '.tensors[].name'
  dolmen inspect checkpoint.pt --document
  dolmen inspect model.pt --json | jq '.globals[] | select(.verdict != \"safe\")'";

/// The order of tensors.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// By name
    Name,
    /// The largest first
    Size,
    /// By where they lie in the file
    Offset,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<Outcome> {
    let mut outcome = Outcome::Well;
    let mut out: Box<dyn Write> =
        if args.json { Box::new(style::plain_output()) } else { Box::new(style::text_output()) };
    let several = args.files.len() > 1;
    if args.json && several {
        out.write_all(b"[").map_err(cannot_write)?;
    }
    let mut shown = 0;
    for path in &args.files {
        // All that can fail is asked for before anything is written of a file.
        let found = Checkpoint::open_on_demand(path).and_then(|checkpoint| {
            let metadata = checkpoint.metadata()?;
            let document = checkpoint.document()?;
            checkpoint.tensors().try_for_each(|tensor| tensor?.storage_crc32().map(drop))?;
            let held = document.as_ref().map(|document| Held::in_document(&checkpoint, document)).transpose()?;
            let scan = scan(&checkpoint, document.as_ref(), path)?;
            Ok((checkpoint, metadata, document, held.unwrap_or_default(), scan))
        });
        let (checkpoint, metadata, document, held, scan) = match found {
            Ok(found) => found,
            Err(e) => {
                complain(&e);
                outcome = outcome.max(Outcome::of(&e));
                continue;
            }
        };
        let file = File { checkpoint: &checkpoint, metadata, document: document.as_ref(), held, scan };
        let separator = match (args.json, shown) {
            (true, 0) if several => "\n",
            (_, 0) => "",
            (true, _) => ",\n",
            (false, _) => "\n",
        };
        out.write_all(separator.as_bytes()).map_err(cannot_write)?;
        if args.json {
            file.write_json(args, several, &mut out)?;
        } else {
            file.write_text(args, &mut out)?;
        }
        shown += 1;
    }
    if args.json && (several || shown > 0) {
        out.write_all(if several { b"\n]\n" } else { b"\n" }).map_err(cannot_write)?;
    }
    out.flush().map_err(cannot_write)?;
    Ok(outcome)
}

/// What the pickles of a PyTorch checkpoint name; of others what the document names, if it names anything.
fn scan(checkpoint: &Checkpoint, document: Option<&Value>, path: &Path) -> Result<Option<Scan>> {
    if checkpoint.format() != "torch" {
        return Ok(document.map(torch::scan_document).filter(|scan| !scan.globals.is_empty()));
    }
    let file = std::fs::File::open(path).map_err(|e| Error::io("cannot open", e).with_path(path))?;
    torch::scan(&file, checkpoint.limits()).map(Some).map_err(|e| e.with_path(path))
}

/// An open file, and what was decoded of it.
struct File<'a> {
    checkpoint: &'a Checkpoint,
    metadata: BTreeMap<String, Value>,
    document: Option<&'a Value>,
    held: Held,
    scan: Option<Scan>,
}

impl<'a> File<'a> {
    /// The tensors that were asked for, in the order that was asked for.
    fn tensors(&self, args: &Args) -> Result<Vec<TensorView<'a>>> {
        let mut tensors = Vec::new();
        for tensor in self.checkpoint.tensors() {
            let tensor = tensor?;
            if args.pattern.as_ref().is_none_or(|pattern| matches(pattern, tensor.name())) {
                tensors.push(tensor);
            }
        }
        match args.sort {
            Sort::Name => {}
            Sort::Size => tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.byte_len())),
            Sort::Offset => tensors.sort_by_key(|tensor| tensor.file_offset().unwrap_or(u64::MAX)),
        }
        Ok(tensors)
    }

    fn write_json(&self, args: &Args, several: bool, out: &mut dyn Write) -> Result<()> {
        let tensors = self.tensors(args)?;
        let paths = self.document.map(paths).unwrap_or_default();
        let attributes = self.attributes();
        self.print_json(args, several, &tensors, &paths, &attributes, out).map_err(cannot_write)
    }

    /// Writes tensor by tensor: a hostile document can make all paths together far longer than the file.
    fn print_json(
        &self,
        args: &Args,
        several: bool,
        tensors: &[TensorView<'_>],
        paths: &HashMap<&str, Rc<Step<'_>>>,
        attributes: &HashMap<&str, &BTreeMap<String, Value>>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        out.write_all(b"{")?;
        if several {
            let path = self.checkpoint.path().map(|path| path.to_string_lossy());
            write!(out, "\"path\":{},", human::json(&json!(path)))?;
        }
        let format = human::json(&json!(self.checkpoint.format()));
        let version = human::json(&json!(self.checkpoint.format_version()));
        let file_bytes = self.checkpoint.header().file_len();
        let metadata = human::json(&Value::Map(self.metadata.clone()).to_json());
        write!(out, "\"format\":{format},\"format_version\":{version},\"file_bytes\":{file_bytes},")?;
        let marked = marked_tensors(&self.metadata);
        if !marked.is_empty() {
            write!(out, "\"salvaged\":{},", human::json(&json!({"doubtful": marked})))?;
        }
        write!(out, "\"metadata\":{metadata},\n\"tensors\":[")?;
        for (i, tensor) in tensors.iter().enumerate() {
            let path = paths.get(tensor.name()).map_or_else(Vec::new, |step| step.path());
            let crc32 = tensor.storage_crc32().ok().flatten().map(|crc32| format!("{crc32:08x}"));
            let mut entry = json!({
                "name": tensor.name(),
                "path": path,
                "dtype": tensor.dtype().name(),
                "shape": tensor.shape(),
                "strides": tensor.strides(),
                "byte_len": tensor.byte_len(),
                "storage": tensor.storage(),
                "crc32": crc32,
            });
            if let Some(attributes) = self.attributes_json(tensor.name(), attributes) {
                entry["attributes"] = attributes;
            }
            write!(out, "{}\n{}", if i == 0 { "" } else { "," }, human::json(&entry))?;
        }
        out.write_all(if tensors.is_empty() { b"]" } else { b"\n]" })?;
        if let Some(scan) = &self.scan {
            out.write_all(b",\n\"globals\":[")?;
            for (i, global) in scan.globals.iter().enumerate() {
                let entry = json!({"name": global.path(), "called": global.called, "verdict": global.verdict.name()});
                write!(out, "{}\n{}", if i == 0 { "" } else { "," }, human::json(&entry))?;
            }
            out.write_all(if scan.globals.is_empty() { b"]" } else { b"\n]" })?;
        }
        if args.document {
            write!(out, ",\n\"document\":{}", human::json(&self.document.map_or(Json::Null, Value::to_json)))?;
        }
        out.write_all(b"}")
    }

    /// The attributes that the document gives tensors where it first mentions them, unless there are none.
    fn attributes(&self) -> HashMap<&'a str, &'a BTreeMap<String, Value>> {
        let mut attributes = HashMap::new();
        for value in self.document.into_iter().flat_map(Value::descendants) {
            if let Value::Tensor(tensor) = value {
                attributes.entry(tensor.name.as_str()).or_insert(&tensor.attributes);
            }
        }
        attributes.retain(|_, attributes| !attributes.is_empty());
        attributes
    }

    /// The attributes of a tensor; of one that the document does not mention, what is understood of its values all the same.
    ///
    /// Not all attributes of the tensor that lies in the same place: a hostile document can make those far longer than the file.
    fn attributes_json(&self, name: &str, known: &HashMap<&str, &BTreeMap<String, Value>>) -> Option<Json> {
        if let Some(&attributes) = known.get(name) {
            return Some(Value::Map(attributes.clone()).to_json());
        }
        let said = [("conj", self.held.is_conj(name)), ("neg", self.held.is_neg(name))];
        let said: serde_json::Map<String, Json> =
            said.into_iter().filter(|(_, is)| *is).map(|(key, is)| (key.to_owned(), is.into())).collect();
        (!said.is_empty()).then_some(Json::Object(said))
    }

    fn write_text(&self, args: &Args, out: &mut dyn Write) -> Result<()> {
        let tensors = self.tensors(args)?;
        let width = style::output_width();
        let facts = self.facts()?;
        self.print_text(args, &tensors, &facts, width, out).map_err(cannot_write)
    }

    fn print_text(
        &self,
        args: &Args,
        tensors: &[TensorView<'_>],
        facts: &[(&'static str, String)],
        width: Option<usize>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let path = self.checkpoint.path().map(human::path).unwrap_or_default();
        writeln!(out, "{}", paint(TITLE, fit(&path, 0, width)))?;
        let mut table = Table::new(&[("", Column::Whole), ("", Column::End(20))]).style(0, FAINT);
        for (label, text) in facts {
            table.row(vec![(*label).to_owned(), text.clone()]);
        }
        if !args.metadata {
            self.summarise_values(args, &mut table);
        }
        table.write(out, 2, width)?;
        if args.metadata {
            writeln!(out)?;
            self.print_tree(&Value::Map(self.metadata.clone()), "metadata", width, out)?;
        }
        if args.document {
            writeln!(out)?;
            match self.document {
                Some(document) => self.print_tree(document, "document", width, out)?,
                None => writeln!(out, "There is no document.")?,
            }
        }
        if args.metadata {
            return Ok(());
        }
        if !tensors.is_empty() {
            writeln!(out)?;
            let roles = self.document.filter(|_| self.scan.is_some()).map(|document| Modules::of(document).roles());
            tensor_table(tensors, &roles.unwrap_or_default(), &self.held).write(out, 0, width)?;
        }
        if let Some(pattern) = &args.pattern {
            let (shown, all) = (human::count(tensors.len() as u64), human::count(self.checkpoint.len() as u64));
            let pattern = human::name(pattern);
            writeln!(out, "{}", paint(FAINT, fit(&format!("{shown} of {all} tensors match {pattern}"), 0, width)))?;
        }
        Ok(())
    }

    /// What there is to say of the file as a whole.
    fn facts(&self) -> Result<Vec<(&'static str, String)>> {
        let checkpoint = self.checkpoint;
        let header = checkpoint.header();
        let (mut elements, mut bytes, mut unchecked) = (0u128, 0u128, 0u64);
        let mut forms: BTreeMap<&str, u64> = BTreeMap::new();
        let mut seen = vec![false; checkpoint.storage_count()];
        for tensor in checkpoint.tensors() {
            let tensor = tensor?;
            elements += u128::from(tensor.element_count());
            if let Some(seen) = seen.get_mut(tensor.storage() as usize).filter(|seen| !**seen) {
                *seen = true;
                bytes += u128::from(tensor.storage_len()?);
                unchecked += u64::from(!tensor.is_checksummed());
                if let Some(form) = tensor.storage_form() {
                    *forms.entry(form).or_default() += 1;
                }
            }
        }
        let mut facts = Vec::new();
        let version = checkpoint.format_version();
        let gap = if version.is_empty() { "" } else { " " };
        let protocol = self
            .scan
            .as_ref()
            .filter(|_| checkpoint.format() == "torch")
            .map(|scan| format!(", pickle protocol {}", scan.protocol));
        let protocol = protocol.unwrap_or_default();
        facts.push(("format", format!("{}{gap}{}{protocol}", checkpoint.format(), human::printable(&version))));
        let len = header.file_len();
        let exact = if len < 1024 { String::new() } else { format!(" ({} bytes)", human::count(len)) };
        facts.push(("size", format!("{}{exact}", human::size(len))));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let storages = checkpoint.storage_count() as u64;
        facts.push((
            "tensors",
            format!(
                "{} in {}; {} elements, {}",
                human::count(checkpoint.len() as u64),
                human::counted(storages, "storage"),
                human::count(elements),
                human::size(bytes)
            ),
        ));
        if checkpoint.format() == "dolmen" {
            facts.push(("alignment", human::size(header.alignment())));
            facts.push(("checksums", format!("CRC-32 of each {}", human::size(header.block_len()))));
        } else if storages > 0 {
            let text = match unchecked {
                0 => "CRC-32 of each storage".to_owned(),
                n if n == storages => "none: damage to the data cannot be found".to_owned(),
                n => format!("CRC-32 of each storage, but for {}", human::count(n)),
            };
            facts.push(("checksums", text));
        }
        if !forms.is_empty() {
            let form = |(form, n): (&&str, &u64)| format!("{} {form}", human::counted(*n, "storage"));
            facts.push((
                "converted",
                format!("when touched: {}", forms.iter().map(form).collect::<Vec<_>>().join(", ")),
            ));
        }
        if let Some(salvaged) = human::salvaged(&marked_tensors(&self.metadata)) {
            facts.push(("warning", paint(WARN, salvaged)));
        }
        if let Some(scan) = &self.scan {
            facts.push(("globals", globals(scan)));
            let dangerous: Vec<&ScannedGlobal> = scan.dangerous().collect();
            if !dangerous.is_empty() {
                facts.push(("warning", paint(BAD, warning(&dangerous))));
            }
        }
        Ok(facts)
    }

    fn print_tree(&self, value: &Value, title: &str, width: Option<usize>, out: &mut dyn Write) -> io::Result<()> {
        let mut options = TreeOptions::default();
        options.max_items = 200;
        options.max_list = 10;
        options.max_text = 200;
        let describe = |name: &str| {
            let tensor = self.checkpoint.get(name).ok()??;
            Some(format!("{} {}", tensor.dtype(), human::dims(tensor.shape())))
        };
        let tree = value.tree(options).describe(&describe).to_string();
        let mut lines = tree.lines();
        let first = lines.next().unwrap_or_default();
        writeln!(out, "{} {}", paint(TITLE, title), fit(first, title.len() + 1, width))?;
        for line in lines {
            writeln!(out, "{}", fit(line, 0, width))?;
        }
        Ok(())
    }

    /// Metadata and document, compactly.
    fn summarise_values(&self, args: &Args, table: &mut Table) {
        const SHOWN: usize = 10;
        let mut label = "metadata";
        for (key, value) in self.metadata.iter().take(SHOWN) {
            let text = format!("{}: {}", human::name(key), headline(value));
            table.row(vec![std::mem::take(&mut label).to_owned(), text]);
        }
        if let Some(more) = self.metadata.len().checked_sub(SHOWN).filter(|&more| more > 0) {
            table.row(vec![String::new(), format!("… {more} more; --metadata shows all")]);
        }
        if let Some(document) = self.document.filter(|_| !args.document) {
            table.row(vec!["document".to_owned(), format!("{}; --document shows it", headline(document))]);
        }
    }
}

/// How many globals a pickle names, and how many of them are of each kind.
fn globals(scan: &Scan) -> String {
    let of = |verdict| scan.globals.iter().filter(|global| global.verdict == verdict).count() as u64;
    let all = scan.globals.len() as u64;
    let parts: Vec<String> = [Verdict::Safe, Verdict::Unknown, Verdict::Dangerous]
        .into_iter()
        .filter(|&verdict| of(verdict) > 0)
        .map(|verdict| format!("{} {}", human::count(of(verdict)), verdict.name()))
        .collect();
    match all {
        0 => "none".to_owned(),
        all if of(Verdict::Safe) == all => format!("{}, all safe", human::count(all)),
        all => format!("{}: {}; --json lists them", human::count(all), parts.join(", ")),
    }
}

/// What would run code, if Python loaded it.
fn warning(dangerous: &[&ScannedGlobal]) -> String {
    const TOLD: usize = 5;
    let told: Vec<String> = dangerous
        .iter()
        .take(TOLD)
        .map(|global| {
            let name = human::shorten_middle(&human::name(&global.path()), 60);
            if global.called { format!("{name} (called)") } else { name }
        })
        .collect();
    let more = match dangerous.len().saturating_sub(TOLD) {
        0 => String::new(),
        n => format!(" and {} more", human::count(n as u64)),
    };
    format!("can run code in Python: {}{more}", told.join(", "))
}

/// A value on one line.
pub fn headline(value: &Value) -> String {
    let mut options = TreeOptions::default();
    options.max_depth = 0;
    value.tree(options).to_string()
}

/// A line shortened to what is left of the width after so many columns.
fn fit(line: &str, used: usize, width: Option<usize>) -> String {
    width.map_or_else(|| line.to_owned(), |width| human::shorten_end(line, width.saturating_sub(used)))
}

/// The layout of a tensor within the file: two tensors of the same one are the same elements.
type Place<'a> = (u32, u64, DType, &'a [u64], Option<&'a [u64]>);

fn place<'a>(tensor: &TensorView<'a>) -> Place<'a> {
    (tensor.storage(), tensor.start(), tensor.dtype(), tensor.shape(), tensor.explicit_strides())
}

fn tensor_table(tensors: &[TensorView<'_>], roles: &BTreeMap<&str, Role>, held: &Held) -> Table {
    let mut table = Table::new(&[
        ("name", Column::Middle(12)),
        ("dtype", Column::Whole),
        ("shape", Column::Middle(6)),
        ("bytes", Column::Right),
        ("crc32", Column::Whole),
        ("notes", Column::Middle(8)),
    ])
    .style(3, FAINT)
    .style(4, FAINT);
    // The same stored elements are not the same if they are conjugated or negated.
    let is = |tensor: &TensorView<'_>| (held.is_conj(tensor.name()), held.is_neg(tensor.name()));
    let mut first_at: HashMap<(Place<'_>, (bool, bool)), &str> = HashMap::new();
    // How many different places there are in each storage.
    let mut places: HashMap<u32, usize> = HashMap::new();
    for tensor in tensors {
        first_at.entry((place(tensor), is(tensor))).or_insert_with(|| {
            *places.entry(tensor.storage()).or_default() += 1;
            tensor.name()
        });
    }
    for tensor in tensors {
        let mut notes = Vec::new();
        match first_at.get(&(place(tensor), is(tensor))) {
            Some(&first) if first != tensor.name() => notes.push(format!("= {}", human::name(first))),
            _ if places.get(&tensor.storage()).is_some_and(|&n| n > 1) => {
                notes.push(format!("in storage {}", tensor.storage()));
            }
            _ => {}
        }
        if let Some(strides) = tensor.explicit_strides() {
            notes.push(format!("strides {}", human::dims(strides)));
        }
        let name = tensor.name();
        let said = [("conj", held.is_conj(name)), ("neg", held.is_neg(name)), ("quantised", held.is_quantised(name))];
        notes.extend(said.into_iter().filter(|(_, is)| *is).map(|(what, _)| what.to_owned()));
        notes.extend(tensor.storage_form().map(str::to_owned));
        match roles.get(tensor.name()) {
            Some(Role::Buffer { persistent: true }) => notes.push("buffer".to_owned()),
            Some(Role::Buffer { persistent: false }) => notes.push("buffer, not persistent".to_owned()),
            _ => {}
        }
        let crc32 = match tensor.storage_crc32() {
            Ok(Some(crc32)) => format!("{crc32:08x}"),
            _ => String::new(),
        };
        table.row(vec![
            human::name(tensor.name()),
            tensor.dtype().to_string(),
            human::dims(tensor.shape()),
            human::count(tensor.byte_len()),
            crc32,
            notes.join(", "),
        ]);
    }
    table
}

/// A step on the way to a tensor in the document.
#[derive(Debug)]
struct Step<'a> {
    before: Option<Rc<Step<'a>>>,
    key: Key<'a>,
}

#[derive(Debug)]
enum Key<'a> {
    Position(usize),
    Field(&'static str),
    Of(&'a Value),
    Name(&'a str),
}

impl Step<'_> {
    fn path(&self) -> Vec<Json> {
        let steps = std::iter::successors(Some(self), |step| step.before.as_deref());
        let mut path: Vec<Json> = steps
            .map(|step| match step.key {
                Key::Position(i) => Json::from(i),
                Key::Field(name) => Json::from(name),
                Key::Name(name) => Json::from(name),
                Key::Of(key) => key.to_json(),
            })
            .collect();
        path.reverse();
        path
    }
}

/// The way to each tensor of a document; to the first mention of it, if there are several.
fn paths(document: &Value) -> HashMap<&str, Rc<Step<'_>>> {
    let mut found = HashMap::new();
    let mut pending: Vec<(&Value, Option<Rc<Step<'_>>>)> = vec![(document, None)];
    while let Some((value, step)) = pending.pop() {
        if let Value::Tensor(tensor) = value.unmarked() {
            if let Some(step) = step {
                found.entry(tensor.name.as_str()).or_insert(step);
            }
            continue;
        }
        // The last is visited first: so the children are put there in reverse.
        for (field, key, child) in children(value).into_iter().rev() {
            let before = match field {
                Some(field) => Some(Rc::new(Step { before: step.clone(), key: Key::Field(field) })),
                None => step.clone(),
            };
            pending.push((child, Some(Rc::new(Step { before, key }))));
        }
    }
    found
}

/// What is below a value and can lead to a tensor: the key of each, and the field of an object that the key is within.
fn children(value: &Value) -> Vec<(Option<&'static str>, Key<'_>, &Value)> {
    let mut children = Vec::new();
    let positions = |field, items| <[Value]>::iter(items).enumerate().map(move |(i, v)| (field, Key::Position(i), v));
    let pairs = |field, pairs| <[(Value, Value)]>::iter(pairs).map(move |(key, v)| (field, Key::Of(key), v));
    let single = |name, value| Option::<&Value>::map(value, |v| (None, Key::Field(name), v));
    match value.unmarked() {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            children.extend(positions(None, items).filter(|child| leads_on(child.2)));
        }
        Value::Dict(dict) => {
            children.extend(pairs(None, &dict.entries).filter(|child| leads_on(child.2)));
            children.extend(single("factory", dict.factory.as_deref()));
            children.extend(single("attributes", dict.attributes.as_deref()));
        }
        Value::Map(map) => children.extend(map.iter().map(|(key, value)| (None, Key::Name(key), value))),
        Value::Object(object) => {
            children.extend(single("args", object.args.as_ref()));
            children.extend(positions(Some("items"), object.items.as_deref().unwrap_or_default()));
            children.extend(single("state", object.state.as_ref()));
            children.extend(pairs(Some("kwargs"), object.kwargs.as_deref().unwrap_or_default()));
            children.extend(pairs(Some("entries"), object.entries.as_deref().unwrap_or_default()));
        }
        _ => {}
    }
    children
}

/// Whether a tensor can be at or below a value. Lists can hold millions of numbers.
fn leads_on(value: &Value) -> bool {
    matches!(
        value.unmarked(),
        Value::Tensor(_)
            | Value::List(_)
            | Value::Tuple(_)
            | Value::Set(_)
            | Value::FrozenSet(_)
            | Value::Dict(_)
            | Value::Map(_)
            | Value::Object(_)
    )
}

/// Whether a name matches a pattern: `*` is any text, `?` any character; a pattern without either is looked for within.
fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains(['*', '?']) {
        return name.contains(pattern);
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not match: one character later.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, from)) = retry else { return false };
                retry = Some((star, from + 1));
                p = star + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_and_plain_text_parts_of_them() {
        for (pattern, name, expected) in [
            ("weight", "a.weight.b", true),
            ("weight", "a.bias", false),
            ("*.weight", "a.weight", true),
            ("*.weight", "a.weight.b", false),
            ("layer.?.w*", "layer.3.weight", true),
            ("layer.?.w*", "layer.13.weight", false),
            ("*a*b*c", "xxaxxbxxabc", true),
            ("*", "", true),
            ("?", "", false),
            ("?", "重", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
