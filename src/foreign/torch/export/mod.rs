//! Writing PyTorch's checkpoints: a ZIP archive of a pickle and of storages, as `torch.save` writes it.
//!
//! ```text
//! storages   which records there are, and of which class
//! values     the document ── opcodes      tensors, lists, numpy   what it holds as tensors
//! archive    records at multiples of 64, with real CRC-32s
//! ```
//! The pickle is written twice: first to nowhere, for its length and the order of the storages; then into the archive, which is written in
//! one pass.

mod archive;
mod lists;
mod numpy;
mod opcodes;
mod storages;
mod tensors;
mod values;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, BufWriter, Write};

use super::made::Measure;
use super::verdicts::{self, Verdict};
use super::vocabulary;
use crate::error::{Error, Result};
use crate::foreign::notes::{self, Notes};
use crate::format::dtype::DType;
use crate::format::value::{Dict, TensorRef, Value};
use crate::read::{Checkpoint, TensorView};
use archive::ArchiveWriter;
use opcodes::Opcodes;
use storages::Storages;
use values::Pickler;

const BUFFER_LEN: usize = 1 << 20;
/// The first version that has storages in the order of their keys; and the alignment of records.
const FORMAT_VERSION: &str = "1";
const VERSION: &str = "3\n";

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ExportOptions {
    tensors_only: bool,
}

impl ExportOptions {
    /// The whole document.
    pub fn new() -> ExportOptions {
        ExportOptions::default()
    }

    /// Only tensors, as a dictionary by their names: what a default `torch.load` takes, whatever else the document holds. Parameters, arrays
    /// of NumPy and lists of numbers become plain tensors, on no device but the processor's.
    pub fn tensors_only(mut self, tensors_only: bool) -> ExportOptions {
        self.tensors_only = tensors_only;
        self
    }

    /// Whether only tensors are written.
    pub fn is_tensors_only(self) -> bool {
        self.tensors_only
    }
}

/// Writes a checkpoint as PyTorch does: the object that its document describes, or a dictionary of its tensors if it has none.
///
/// Tensors keep strides, aliases and devices; storages are written once, with their CRC-32, at multiples of 64 bytes, so that
/// `torch.load(mmap=True)` uses them where they lie. Data is verified as it is read. What a default `torch.load` with
/// `weights_only=True` refuses, such as classes of others and arrays of NumPy, is written all the same, and noted. The same content
/// gives the same bytes.
///
/// **Cost**: one pass over the storages; lists and arrays, which are part of the pickle, are read two or three times. Memory for
/// document and directory, and a buffer of 1 MiB.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for dtypes that PyTorch does not have, and documents that no pickle can say;
/// [`Limit`](crate::ErrorKind::Limit) for documents that repeat lists or arrays beyond reason; [`Io`](crate::ErrorKind::Io); and what
/// is damaged in the data.
pub fn write(checkpoint: &Checkpoint, out: impl io::Write, options: ExportOptions) -> Result<Notes> {
    let mut plan = Plan::new(checkpoint, options)?;
    plan.write(out)?;
    Ok(plan.notes)
}

/// As [`write()`], to a path: atomically and durably. See [`commit`](crate::commit) for what that means.
///
/// A validator among the options must be one for such files.
///
/// # Errors
/// As [`write()`]; with every error but [`NotDurable`](crate::ErrorKind::NotDurable) the old file, if any, is untouched.
#[cfg(feature = "fs")]
pub fn save(
    checkpoint: &Checkpoint,
    path: impl AsRef<std::path::Path>,
    options: ExportOptions,
    save: &crate::commit::SaveOptions,
) -> Result<Notes> {
    let path = path.as_ref();
    let save = || {
        let mut plan = Plan::new(checkpoint, options)?;
        let mut file = crate::commit::AtomicFile::create(path, save)?;
        file.preallocate(plan.file_len()?)?;
        plan.write(&mut file)?;
        file.commit()?;
        Ok(plan.notes)
    };
    save().map_err(|e: Error| e.with_path(path))
}

/// All that is known before data is copied.
struct Plan<'c> {
    checkpoint: &'c Checkpoint,
    document: Value,
    storages: Storages,
    pickle_len: u64,
    notes: Notes,
}

impl<'c> Plan<'c> {
    fn new(checkpoint: &'c Checkpoint, options: ExportOptions) -> Result<Plan<'c>> {
        let mut notes = Notes::default();
        let document = document(checkpoint, options, &mut notes)?;
        let mut storages = Storages::plan(checkpoint, &document)?;
        let mut measure = Measure::default();
        let (refused, beyond) = {
            let mut pickler =
                Pickler::new(Opcodes::new(&mut measure), checkpoint, &mut storages, &document, &mut notes);
            pickler.pickle(&document)?;
            (pickler.ops.refused().clone(), pickler.ops.beyond().clone())
        };
        note_refused(&refused, &beyond, &mut notes);
        for record in storages.mentioned().filter(|record| record.is_part()) {
            notes.tensor(record.tensor(), "PyTorch cannot view its storage so: it gets one of its own");
        }
        Ok(Plan { checkpoint, document, storages, pickle_len: measure.len, notes })
    }

    /// The names and lengths of all records, in their order.
    #[cfg(feature = "fs")]
    fn records(&self) -> Result<Vec<(String, u64)>> {
        let word = |name: &str, len: usize| (name.to_owned(), crate::format::len_u64(len));
        let alignment = archive::ALIGNMENT.to_string();
        let mut records = vec![
            ("data.pkl".to_owned(), self.pickle_len),
            word(".format_version", FORMAT_VERSION.len()),
            word(".storage_alignment", alignment.len()),
            word("byteorder", "little".len()),
        ];
        for record in self.storages.mentioned() {
            records.push((record.name()?, record.byte_len));
        }
        records.push(word("version", VERSION.len()));
        records.push(word(".data/serialization_id", 40));
        Ok(records)
    }

    #[cfg(feature = "fs")]
    fn file_len(&self) -> Result<u64> {
        archive::archive_len(self.records()?.iter().map(|(name, len)| (name.as_str(), *len)))
    }

    fn write(&mut self, out: impl Write) -> Result<()> {
        let mut archive = ArchiveWriter::new(BufWriter::with_capacity(BUFFER_LEN, out));
        let Plan { checkpoint, document, storages, pickle_len, .. } = self;
        storages.begin_again();
        // What there is to note was noted the first time.
        let mut notes = Notes::default();
        archive.record("data.pkl", *pickle_len, |out| {
            let mut buffer = BufWriter::new(out);
            Pickler::new(Opcodes::new(&mut buffer), checkpoint, storages, document, &mut notes).pickle(document)?;
            buffer.flush().map_err(|e| Error::io("cannot write", e))
        })?;
        archive.word(".format_version", FORMAT_VERSION.as_bytes())?;
        archive.word(".storage_alignment", archive::ALIGNMENT.to_string().as_bytes())?;
        archive.word("byteorder", b"little")?;
        for record in storages.mentioned() {
            archive.record(&record.name()?, record.byte_len, |out| record.copy(checkpoint, out))?;
        }
        archive.word("version", VERSION.as_bytes())?;
        let id = archive.serialization_id();
        archive.word(".data/serialization_id", id.as_bytes())?;
        archive.finish().map(drop)
    }
}

/// The object to write.
fn document(checkpoint: &Checkpoint, options: ExportOptions, notes: &mut Notes) -> Result<Value> {
    let document = checkpoint.document()?;
    match checkpoint.metadata()?.len() {
        0 => {}
        1 => notes.push("the metadata (1 entry) is left out"),
        count => notes.push(format!("the metadata ({count} entries) is left out")),
    }
    match checkpoint.unknown_sections().count() {
        0 => {}
        count => notes.push(format!("{count} sections that this version does not know are left out")),
    }
    let document = match document {
        Some(document) if !options.tensors_only => {
            note_unmentioned(checkpoint, &document, notes)?;
            return Ok(document);
        }
        Some(document) => {
            notes.push("the document is left out: only tensors are written");
            Some(document)
        }
        None => None,
    };
    let shared: Vec<&Value> = document.iter().flat_map(Value::descendants).filter_map(shareable).collect();
    let mut references = Vec::new();
    let mut known = BTreeSet::new();
    // How each place is understood; `None`, if it is so in two ways.
    let mut understood: HashMap<_, Option<TensorRef>> = HashMap::new();
    for value in document.iter().flat_map(Value::descendants) {
        if let Value::Tensor(reference) = value
            && known.insert(reference.name.as_str())
        {
            let bare = bare(reference, &shared).map_err(|e| e.with_tensor(&reference.name))?;
            let before = understood.entry(place(&checkpoint.tensor(&reference.name)?)).or_insert(Some(bare.clone()));
            if before.as_ref().is_some_and(|before| before.attributes != bare.attributes) {
                *before = None;
            }
            references.push(bare);
        }
    }
    for tensor in checkpoint.tensors() {
        let tensor = tensor?;
        if known.contains(tensor.name()) {
            continue;
        }
        match understood.get(&place(&tensor)) {
            None => references.push(TensorRef::new(tensor.name())),
            // A further name of one that the document mentions.
            Some(Some(same)) => references.push(TensorRef { name: tensor.name().to_owned(), ..same.clone() }),
            Some(None) => {
                notes.tensor(tensor.name(), "which of the tensors there it is, cannot be told: it is left out")
            }
        }
    }
    let mut all = Dict::new();
    for reference in references {
        all.push(reference.name.clone(), reference);
    }
    Ok(Value::from(all))
}

/// Notes the tensors that the document does not lead to; but further names of those that it does lead to, such as tied weights have.
fn note_unmentioned(checkpoint: &Checkpoint, document: &Value, notes: &mut Notes) -> Result<()> {
    let mentioned: BTreeSet<&str> = document.tensor_names().collect();
    let (mut known, mut rest) = (HashSet::new(), Vec::new());
    for tensor in checkpoint.tensors() {
        let tensor = tensor?;
        if mentioned.contains(tensor.name()) {
            known.insert(place(&tensor));
        } else {
            rest.push(tensor);
        }
    }
    rest.retain(|tensor| !known.contains(&place(tensor)));
    if !rest.is_empty() {
        let names: Vec<&str> = rest.iter().map(|tensor| tensor.name()).collect();
        notes.push(format!("the document does not mention {}: left out", notes::list(&names)));
    }
    Ok(())
}

/// Where a tensor lies, and how: two of the same place are the same elements.
fn place<'a>(tensor: &TensorView<'a>) -> (u32, u64, DType, &'a [u64], Option<&'a [u64]>) {
    (tensor.storage(), tensor.start(), tensor.dtype(), tensor.shape(), tensor.explicit_strides())
}

/// What a shareable value marks as such.
fn shareable(value: &Value) -> Option<&Value> {
    match value {
        Value::Shareable(inner) => Some(inner),
        _ => None,
    }
}

/// A reference with nothing but what its elements cannot be understood without.
fn bare(reference: &TensorRef, shared: &[&Value]) -> Result<TensorRef> {
    const KEPT: [&str; 4] = [vocabulary::CONJ, vocabulary::NEG, vocabulary::DTYPE, vocabulary::QUANTIZER];
    let mut bare = TensorRef::new(reference.name.clone());
    for (key, value) in reference.attributes.iter().filter(|(key, _)| KEPT.contains(&key.as_str())) {
        bare.attributes.insert(key.clone(), unshared(value, shared, 0)?);
    }
    Ok(bare)
}

/// A copy of a small value that refers to nothing outside of it.
fn unshared(value: &Value, shared: &[&Value], depth: usize) -> Result<Value> {
    /// The arguments of a quantiser are a tuple of numbers, names and tensors.
    const MAX_DEPTH: usize = 4;
    const MAX_LEN: usize = 16;
    let unknown = || Error::invalid("what it is quantised by is nothing that PyTorch knows");
    if depth > MAX_DEPTH {
        return Err(unknown());
    }
    let next = depth.saturating_add(1);
    match value {
        Value::Shareable(inner) => unshared(inner, shared, next),
        Value::SharedRef(number) => {
            let value = crate::format::len_usize(*number).and_then(|number| shared.get(number));
            unshared(value.ok_or_else(unknown)?, shared, next)
        }
        Value::Tuple(items) if items.len() <= MAX_LEN => {
            Ok(Value::Tuple(items.iter().map(|item| unshared(item, shared, next)).collect::<Result<_>>()?))
        }
        Value::Tensor(tensor) => Ok(Value::from(TensorRef::new(tensor.name.clone()))),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Global(_) => {
            Ok(value.clone())
        }
        _ => Err(unknown()),
    }
}

fn note_refused(refused: &BTreeSet<(String, String)>, beyond: &BTreeSet<&'static str>, notes: &mut Notes) {
    let load = "a default torch.load (weights_only=True)";
    let is_dangerous = |(module, name): &&(String, String)| verdicts::of(module, name) == Verdict::Dangerous;
    let (dangerous, others): (Vec<_>, Vec<_>) = refused.iter().partition(is_dangerous);
    let listed = |names: &[&(String, String)]| {
        let paths: Vec<String> = names.iter().map(|(module, name)| format!("{module}.{name}")).collect();
        notes::all(&paths.iter().map(String::as_str).collect::<Vec<_>>())
    };
    if !dangerous.is_empty() {
        notes.push(format!(
            "it names what can run code: {}; {load} refuses that, and nothing else keeps it from happening: use --tensors-only \
             unless you trust where it came from",
            listed(&dangerous)
        ));
    }
    if !others.is_empty() {
        let arrays = if others.iter().any(|(module, _)| module.starts_with("numpy")) {
            ", and the classes of NumPy's dtypes,"
        } else {
            ""
        };
        notes.push(format!(
            "{load} refuses {}: if you trust them, add them{arrays} to its safe globals, or use weights_only=False",
            listed(&others)
        ));
    }
    if !beyond.is_empty() {
        let what: Vec<&str> = beyond.iter().copied().collect();
        notes.push(format!("{load} refuses {}: if you trust the file, use weights_only=False", what.join(", ")));
    }
}
