//! Finding what a layout names in a checkpoint, or what it leaves to be found.

use std::cell::OnceCell;

use super::layout::{Layout, Wanted};
use crate::error::{Error, Result, quoted};
use crate::format::len_u64;
use crate::format::value::Value;
use crate::read::Checkpoint;

/// What stands for any position of a list in a key.
const ANY: &str = "*";

/// The entry of a dictionary that is taken for labels if none are named.
const LABELS: &str = "labels";

/// Where the rows of a matrix are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// All in a tensor of that name.
    Tensor(String),
    /// One in each tensor of these names.
    Listed(Vec<String>),
}

/// Numbers, or texts, one for each row.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Column {
    Texts(Vec<String>),
    Integers(Vec<i64>),
    /// The elements of a tensor.
    Tensor(String),
}

/// What a checkpoint has for a table.
#[derive(Debug)]
pub(super) struct Located {
    /// The matrices, and the keys they are at.
    pub(super) matrices: Vec<(String, Rows)>,
    pub(super) ids: Option<Column>,
    pub(super) labels: Option<Column>,
}

/// Finds the parts of a table.
///
/// **Cost**: decodes the document.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a key that is not there or holds something else, or if it is not clear what is meant.
pub(super) fn locate(checkpoint: &Checkpoint, layout: &Layout) -> Result<Located> {
    let document = checkpoint.document()?;
    let found = match &document {
        Some(document) => Document::new(document).locate(checkpoint, layout),
        None => locate_by_name(checkpoint, layout),
    };
    found.map_err(|e| checkpoint.in_file(e))
}

/// The value at a key.
enum At<'v> {
    One(&'v Value),
    /// What the positions of a list have at the rest of the key.
    Each(Vec<&'v Value>),
}

struct Document<'v> {
    root: &'v Value,
    /// What references to shared values stand for, in the order of their numbers.
    shareable: OnceCell<Vec<&'v Value>>,
}

impl<'v> Document<'v> {
    fn new(root: &'v Value) -> Document<'v> {
        Document { root, shareable: OnceCell::new() }
    }

    /// A value, wherever in the document it is kept.
    fn resolved(&self, value: &'v Value) -> &'v Value {
        let Value::SharedRef(number) = value else { return value.unmarked() };
        let shareable = self
            .shareable
            .get_or_init(|| self.root.descendants().filter(|value| matches!(value, Value::Shareable(_))).collect());
        let kept = usize::try_from(*number).ok().and_then(|number| shareable.get(number));
        kept.map_or(value, |kept| kept.unmarked())
    }

    fn entries(&self, value: &'v Value) -> &'v [(Value, Value)] {
        match value {
            Value::Dict(dict) => &dict.entries,
            Value::Object(object) => object.entries.as_deref().unwrap_or_default(),
            _ => &[],
        }
    }

    /// What a dictionary holds for a key; the last, if it has it twice.
    fn entry(&self, value: &'v Value, key: &str) -> Option<&'v Value> {
        let is = |(known, _): &&'v (Value, Value)| self.resolved(known).as_str() == Some(key);
        self.entries(value).iter().rev().find(is).map(|(_, value)| self.resolved(value))
    }

    /// What lies at a key: of the outermost dictionary, or with dots of those within. A key may have dots of its own.
    fn at(&self, value: &'v Value, key: &str) -> Option<At<'v>> {
        if let Some(found) = self.entry(value, key) {
            return Some(At::One(found));
        }
        let (head, rest) = key.split_once('.').map_or((key, None), |(head, rest)| (head, Some(rest)));
        if head == ANY {
            let items = value.as_slice()?.iter().map(|item| self.resolved(item));
            let Some(rest) = rest else { return Some(At::Each(items.collect())) };
            let each = items.map(|item| match self.at(item, rest)? {
                At::One(found) => Some(found),
                At::Each(_) => None,
            });
            return each.collect::<Option<Vec<_>>>().map(At::Each);
        }
        key.match_indices('.').find_map(|(dot, _)| {
            let (head, rest) = (key.get(..dot)?, key.get(dot.checked_add(1)?..)?);
            self.at(self.entry(value, head)?, rest)
        })
    }

    fn locate(&self, checkpoint: &Checkpoint, layout: &Layout) -> Result<Located> {
        let mut matrices = Vec::new();
        for key in &layout.matrices {
            let rows = match self.at(self.resolved(self.root), key) {
                Some(found) => self.rows(&found),
                None if checkpoint.get(key)?.is_some() => Some(Rows::Tensor(key.clone())),
                None => return Err(self.missing("matrix", key, checkpoint)),
            };
            let what = "neither a tensor nor a list of tensors";
            let rows = rows.ok_or_else(|| Error::invalid(format!("what is at {} is {what}", quoted(key))))?;
            matrices.push((key.clone(), rows));
        }
        if matrices.is_empty() {
            matrices.push(self.find_matrix(checkpoint)?);
        }
        let ids = match &layout.ids {
            Wanted::No => None,
            Wanted::At(key) => Some(self.column("ids", key, checkpoint)?),
            Wanted::IfThere => self.find_ids()?,
        };
        let labels = match &layout.labels {
            Wanted::No => None,
            Wanted::At(key) => Some(self.column("labels", key, checkpoint)?),
            Wanted::IfThere => match self.at(self.resolved(self.root), LABELS) {
                Some(At::One(found)) => self.column_of(&At::One(found)).filter(|c| {
                    // A list without items is of nothing, and of labels as well.
                    !matches!(c, Column::Texts(texts) if !texts.is_empty())
                }),
                _ => None,
            },
        };
        Ok(Located { matrices, ids, labels })
    }

    fn missing(&self, what: &str, key: &str, checkpoint: &Checkpoint) -> Error {
        let keys = self.entries(self.resolved(self.root)).iter();
        let names: Vec<&str> = keys.filter_map(|(key, _)| self.resolved(key).as_str()).collect();
        let names = if names.is_empty() { tensor_names(checkpoint) } else { names };
        missing(what, key, &names)
    }

    fn column(&self, what: &str, key: &str, checkpoint: &Checkpoint) -> Result<Column> {
        let Some(found) = self.at(self.resolved(self.root), key) else {
            if checkpoint.get(key)?.is_some() {
                return Ok(Column::Tensor(key.to_owned()));
            }
            return Err(self.missing(what, key, checkpoint));
        };
        let no_column =
            || Error::invalid(format!("what is at {} cannot be {what}: no texts, no integers", quoted(key)));
        self.column_of(&found).ok_or_else(no_column)
    }

    /// Texts or integers, if these are nothing else.
    fn column_of(&self, found: &At<'v>) -> Option<Column> {
        let items: Vec<&Value> = match found {
            At::One(Value::Tensor(tensor)) => return Some(Column::Tensor(tensor.name.clone())),
            At::One(value) => value.as_slice()?.iter().map(|item| self.resolved(item)).collect(),
            At::Each(items) => items.clone(),
        };
        let integer = |item: &&Value| item.as_i64().or_else(|| item.as_bool().map(i64::from));
        if items.first().is_some_and(|first| integer(first).is_some()) {
            return items.iter().map(integer).collect::<Option<_>>().map(Column::Integers);
        }
        items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().map(Column::Texts)
    }

    /// The rows of a matrix, if that is what it is.
    fn rows(&self, found: &At<'v>) -> Option<Rows> {
        let names = |items: &mut dyn Iterator<Item = &'v Value>| {
            items.map(|item| item.as_tensor().map(|tensor| tensor.name.clone())).collect::<Option<Vec<_>>>()
        };
        match found {
            At::One(Value::Tensor(tensor)) => Some(Rows::Tensor(tensor.name.clone())),
            At::One(value) => names(&mut value.as_slice()?.iter().map(|item| self.resolved(item))).map(Rows::Listed),
            At::Each(items) => names(&mut items.iter().copied()).map(Rows::Listed),
        }
    }

    /// The only matrix there is.
    fn find_matrix(&self, checkpoint: &Checkpoint) -> Result<(String, Rows)> {
        let root = self.resolved(self.root);
        if let Some(rows) = self.matrix_in(root, checkpoint)? {
            return Ok((String::new(), rows));
        }
        let mut found = Vec::new();
        for (key, value) in self.entries(root) {
            let (Some(key), value) = (self.resolved(key).as_str(), self.resolved(value)) else { continue };
            if let Some(rows) = self.matrix_in(value, checkpoint)? {
                found.push((key.to_owned(), rows));
                continue;
            }
            // Dictionaries, one for each row, with one tensor in each.
            let first = value.as_slice().and_then(|items| items.first()).map(|first| self.resolved(first));
            for (inner, _) in first.map(|first| self.entries(first)).unwrap_or_default() {
                let Some(inner) = self.resolved(inner).as_str() else { continue };
                let path = format!("{key}.{ANY}.{inner}");
                if let Some(rows) = self.at(root, &path).and_then(|found| self.rows(&found)) {
                    found.push((path, rows));
                }
            }
        }
        only(found, checkpoint)
    }

    /// The rows of a tensor of two axes or more, or of a list of tensors.
    fn matrix_in(&self, value: &'v Value, checkpoint: &Checkpoint) -> Result<Option<Rows>> {
        let rank = |name: &str| Ok::<_, Error>(checkpoint.get(name)?.map_or(0, |tensor| tensor.shape().len()));
        Ok(match self.rows(&At::One(value)) {
            Some(Rows::Tensor(name)) if rank(&name)? >= 2 => Some(Rows::Tensor(name)),
            Some(Rows::Listed(names)) if !names.is_empty() => Some(Rows::Listed(names)),
            _ => None,
        })
    }

    /// The only list of texts there is.
    fn find_ids(&self) -> Result<Option<Column>> {
        let mut found = Vec::new();
        let mut empty = None;
        for (key, value) in self.entries(self.resolved(self.root)) {
            let (Some(key), value) = (self.resolved(key).as_str(), self.resolved(value)) else { continue };
            let Some(items) = value.as_slice() else { continue };
            match items.first().map(|first| self.resolved(first)) {
                None => empty = Some(Column::Texts(Vec::new())),
                Some(Value::Text(_)) => {
                    if let Some(column @ Column::Texts(_)) = self.column_of(&At::One(value)) {
                        found.push((key, column));
                    }
                }
                Some(_) => {}
            }
        }
        if found.len() > 1 {
            let keys: Vec<&str> = found.iter().map(|(key, _)| *key).collect();
            let message = format!("it has several lists of texts: {}", listed(&keys));
            return Err(Error::invalid(message).with_advice("say which are the ids"));
        }
        Ok(found.pop().map(|(_, column)| column).or(empty))
    }
}

/// Without a document, keys are names of tensors.
fn locate_by_name(checkpoint: &Checkpoint, layout: &Layout) -> Result<Located> {
    let named = |what: &str, key: &str| match checkpoint.get(key)? {
        Some(_) => Ok(key.to_owned()),
        None => Err(missing(what, key, &tensor_names(checkpoint))),
    };
    let mut matrices = Vec::new();
    for key in &layout.matrices {
        matrices.push((key.clone(), Rows::Tensor(named("matrix", key)?)));
    }
    if matrices.is_empty() {
        let mut found = Vec::new();
        for tensor in checkpoint.tensors() {
            let tensor = tensor?;
            if tensor.shape().len() >= 2 {
                found.push((tensor.name().to_owned(), Rows::Tensor(tensor.name().to_owned())));
            }
        }
        matrices.push(only(found, checkpoint)?);
    }
    let ids = match &layout.ids {
        Wanted::At(key) => Some(Column::Tensor(named("ids", key)?)),
        Wanted::IfThere | Wanted::No => None,
    };
    let labels = match &layout.labels {
        Wanted::At(key) => Some(Column::Tensor(named("labels", key)?)),
        Wanted::IfThere if checkpoint.get(LABELS)?.is_some() => Some(Column::Tensor(LABELS.to_owned())),
        Wanted::IfThere | Wanted::No => None,
    };
    Ok(Located { matrices, ids, labels })
}

fn only(mut found: Vec<(String, Rows)>, checkpoint: &Checkpoint) -> Result<(String, Rows)> {
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok(only),
        (0, _) | (_, None) => {
            let message = format!(
                "it has no matrix: no tensor of two axes, no list of tensors; it has {}",
                listed(&tensor_names(checkpoint))
            );
            Err(Error::invalid(message).with_advice("is it a table of features?"))
        }
        (_, Some(last)) => {
            let keys: Vec<&str> = found.iter().chain([&last]).map(|(key, _)| key.as_str()).collect();
            let message = format!("it has several matrices: {}", listed(&keys));
            Err(Error::invalid(message).with_advice("say which to take"))
        }
    }
}

fn missing(what: &str, key: &str, names: &[&str]) -> Error {
    Error::new(
        crate::ErrorKind::NotFound,
        format!("there is nothing at {}, where its {what} should be; there is {}", quoted(key), listed(names)),
    )
}

/// Names that a message lists.
const SHOWN: usize = 8;

fn tensor_names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors().flatten().take(SHOWN.saturating_add(1)).map(|tensor| tensor.name()).collect()
}

/// The first of some names.
fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    let more = if len_u64(names.len()) > len_u64(shown.len()) { " and more" } else { "" };
    format!("{}{more}", shown.join(", "))
}
