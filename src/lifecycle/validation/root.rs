//! What a checkpoint holds, as a dictionary: that of its document, or its tensors and metadata by their names.

use std::collections::BTreeMap;

use crate::error::{Result, quoted};
use crate::format::len_u64;
use crate::format::value::{DictKind, Value};
use crate::lifecycle::label::{Label, positions_of, shared};
use crate::read::Checkpoint;

/// How many keys a message lists.
const KEYS_SHOWN: usize = 8;
/// How many names of tensors a message lists.
const NAMES_SHOWN: usize = 5;

/// The outermost object of a checkpoint, decoded once.
#[derive(Debug)]
pub(super) struct Root {
    metadata: BTreeMap<String, Value>,
    document: Option<Value>,
    /// One array without a name, and nothing else.
    is_array: bool,
}

impl Root {
    /// **Cost**: decodes the document and the metadata.
    ///
    /// # Errors
    /// What is wrong with either.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Root> {
        let (metadata, document) = (checkpoint.metadata()?, checkpoint.document()?);
        let is_array = document.is_none() && checkpoint.format() == "npy";
        Ok(Root { metadata, document, is_array })
    }

    /// What the checkpoint says of itself.
    pub(super) fn label(&self) -> Label {
        Label::in_values(&self.metadata, self.document.as_ref())
    }

    /// The type that Python would say it is, if it is no dictionary.
    pub(super) fn type_if_no_dict(&self) -> Option<String> {
        match &self.document {
            None if self.is_array => Some("ndarray".to_owned()),
            None => None,
            Some(document) if entries(document).is_some() => None,
            Some(document) => Some(type_name(document)),
        }
    }

    /// What the dictionary holds for a key, other than the tensors of a file without a document, whose metadata it is then.
    fn value(&self, key: &str) -> Option<&Value> {
        match &self.document {
            None => self.metadata.get(key),
            Some(document) => self.resolved(self.get(document, key)?),
        }
    }

    /// What a dictionary, or an object that is one, holds for a key; the last, if the file has it twice.
    fn get<'v>(&'v self, value: &'v Value, key: &str) -> Option<&'v Value> {
        if let Value::Map(map) = value {
            return map.get(key);
        }
        let entries = entries(value)?;
        let positions = positions_of(entries, key, self.document.as_ref().unwrap_or(value));
        entries.get(*positions.last()?).map(|(_, value)| value)
    }

    /// A value, wherever in the document it is kept.
    fn resolved<'v>(&'v self, value: &'v Value) -> Option<&'v Value> {
        let Value::SharedRef(number) = value else { return Some(value) };
        shared(self.document.as_ref()?, *number)
    }

    /// Whether there is such a key: in the dictionary itself, or, with dots, in those within it; or a tensor of that name.
    pub(super) fn has(&self, key: &str, checkpoint: &Checkpoint) -> Result<bool> {
        if self.find(key).is_some() || checkpoint.get(key)?.is_some() {
            return Ok(true);
        }
        // Tensors below a key, as in `encoder` of `encoder.weight`. Of a document the keys are known already.
        if self.document.is_some() { Ok(false) } else { begins_a_name(key, checkpoint) }
    }

    /// What lies at a key, or at keys with dots between them.
    pub(super) fn find(&self, key: &str) -> Option<&Value> {
        if let Some(found) = self.value(key) {
            return Some(found);
        }
        // A key may have dots of its own, so every place where it can be split is tried; the shortest head first.
        let mut looks = MAX_LOOKS;
        splits(key).find_map(|(head, rest)| self.within(self.value(head)?, rest, MAX_PARTS, &mut looks))
    }

    /// What lies within a value at keys with dots between them. A dictionary that holds itself has it at many ways of splitting the key.
    fn within<'v>(&'v self, value: &'v Value, key: &str, parts: u32, looks: &mut u32) -> Option<&'v Value> {
        *looks = looks.checked_sub(1)?;
        if let Some(found) = self.get(value, key) {
            return self.resolved(found);
        }
        let parts = parts.checked_sub(1)?;
        splits(key).find_map(|(head, rest)| self.within(self.resolved(self.get(value, head)?)?, rest, parts, looks))
    }

    /// The first keys, for messages, such as `'data', 'ids' and 3 more`.
    pub(super) fn keys(&self, checkpoint: &Checkpoint) -> String {
        let mut keys: Vec<String> = match &self.document {
            Some(document) => entries(document).unwrap_or_default().iter().map(|(key, _)| shown_key(key)).collect(),
            None => {
                let tensors = checkpoint.tensors().flatten().map(|tensor| shown(tensor.name()));
                tensors.take(KEYS_SHOWN).chain(self.metadata.keys().map(|key| shown(key))).collect()
            }
        };
        let count = match &self.document {
            Some(_) => keys.len(),
            None => checkpoint.len().saturating_add(self.metadata.len()),
        };
        keys.truncate(KEYS_SHOWN);
        match count.saturating_sub(keys.len()) {
            _ if keys.is_empty() => "it has no keys".to_owned(),
            0 => format!("keys found: {}", keys.join(", ")),
            more => format!("keys found: {} and {more} more", keys.join(", ")),
        }
    }

    /// How many elements a key's value has: those of a list, or the rows of a tensor. `None` if it has no length, or is not there.
    pub(super) fn length(&self, key: &str, checkpoint: &Checkpoint) -> Result<Option<u64>> {
        let rows = |name: &str| Ok(checkpoint.get(name)?.and_then(|tensor| tensor.shape().first().copied()));
        match self.find(key) {
            Some(value) => match value.unmarked() {
                Value::Tensor(tensor) => rows(&tensor.name),
                value => Ok(value.as_slice().map(|items| len_u64(items.len()))),
            },
            None => rows(key),
        }
    }
}

/// Keys within keys that are looked for at most.
const MAX_PARTS: u32 = 32;

/// Dictionaries that are looked into at most for one key.
const MAX_LOOKS: u32 = 10_000;

/// What stands before and after each dot of a key.
fn splits(key: &str) -> impl Iterator<Item = (&str, &str)> {
    key.match_indices('.').filter_map(|(at, _)| Some((key.get(..at)?, key.get(at.checked_add(1)?..)?)))
}

/// The entries of a dictionary, or of an object that is one: of a class derived from `dict`.
fn entries(value: &Value) -> Option<&[(Value, Value)]> {
    match value.unmarked() {
        Value::Dict(dict) => Some(&dict.entries),
        Value::Object(object) => object.entries.as_deref(),
        _ => None,
    }
}

/// Whether a tensor's name begins with a key and a dot.
fn begins_a_name(key: &str, checkpoint: &Checkpoint) -> Result<bool> {
    let prefix = format!("{key}.");
    // Names ascend: the first that is not before the prefix has it, if any has.
    let (mut low, mut high) = (0, checkpoint.len());
    while low < high {
        let middle = low.midpoint(high);
        if checkpoint.nth(middle)?.name().as_bytes() < prefix.as_bytes() {
            low = middle.saturating_add(1);
        } else {
            high = middle;
        }
    }
    Ok(low < checkpoint.len() && checkpoint.nth(low)?.name().starts_with(&prefix))
}

/// A key as Python shows text.
pub(super) fn shown(key: &str) -> String {
    let quoted = quoted(key);
    match quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) if !text.contains('\'') && !text.contains("\\\"") => format!("'{text}'"),
        _ => quoted,
    }
}

/// The first of some names, and how many more there are.
pub(super) fn listed(names: &[&str]) -> String {
    let first: Vec<String> = names.iter().take(NAMES_SHOWN).map(|name| shown(name)).collect();
    match names.len().saturating_sub(first.len()) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

fn shown_key(key: &Value) -> String {
    match key.unmarked() {
        Value::Text(text) => shown(text),
        Value::Int(number) => number.to_string(),
        other => type_name(other),
    }
}

/// The type that Python would say a value is.
fn type_name(value: &Value) -> String {
    let name = match value.unmarked() {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::BigInt(_) => "int",
        Value::Float(_) => "float",
        Value::Complex(..) => "complex",
        Value::Text(_) | Value::Wtf8(_) => "str",
        Value::Bytes(_) => "bytes",
        Value::ByteArray(_) => "bytearray",
        Value::List(_) => "list",
        Value::Tuple(_) => "tuple",
        Value::Set(_) => "set",
        Value::FrozenSet(_) => "frozenset",
        Value::Dict(dict) => match dict.kind {
            DictKind::Plain => "dict",
            DictKind::Ordered => "OrderedDict",
            DictKind::Default => "defaultdict",
            DictKind::Counter => "Counter",
        },
        Value::Map(_) => "dict",
        Value::Tensor(tensor) if tensor.attributes.get("as").and_then(Value::as_str) == Some("list") => "list",
        Value::Tensor(_) => "Tensor",
        Value::Global(global) => return format!("{}.{}", bare(&global.module), bare(&global.name)),
        Value::Object(object) => match object.class.unmarked() {
            Value::Global(global) => return format!("{}.{}", bare(&global.module), bare(&global.name)),
            _ => "object",
        },
        Value::Shareable(_) | Value::SharedRef(_) => "object",
    };
    name.to_owned()
}

/// Text of a file, safe to show, without quotes.
fn bare(text: &str) -> String {
    quoted(text).trim_matches('"').to_owned()
}
