//! [`Schema`]: what dtypes and shapes the tensors of a checkpoint should have, and which lengths should agree.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::root::{Root, listed, shown};
use crate::error::{Error, Result, quoted};
use crate::format::dtype::DType;
use crate::lifecycle::text::read_text;
use crate::read::{Checkpoint, TensorView};

/// How long a pattern, or the name of a dim, may be.
const MAX_TEXT_LEN: usize = 4096;

/// What tensors should look like, by patterns of their names; and which dims and lengths should be the same.
///
/// As JSON:
///
/// ```json
/// {
///   "required_keys": ["ids", "data"],
///   "tensors": [
///     {"name": "data", "dtype": "f32", "shape": ["N", 3328]},
///     {"name": "layers.*.weight", "dtype": ["f32", "bf16"], "shape": ["*", "*"]},
///     {"name": "labels", "shape": ["N"], "optional": true}
///   ],
///   "lengths": {"ids": "N"},
///   "other_tensors": true
/// }
/// ```
///
/// - In a **name**, `*` stands for any characters but dots, `**` for any characters, and a backslash makes the next character
///   stand for itself. A tensor must fit every pattern that its name has; a pattern that no tensor's name has is an error, unless it
///   is `optional`.
/// - **dtype** is a name of the specification (`f32`, `bf16`, `i64`, …) or several; without it any will do.
/// - In a **shape**, a number is that number, `"*"` any, `"..."` any number of dims, and a word is a dim that must be the same wherever the
///   word stands. Without it any shape will do.
/// - **lengths** are those of lists, or of the first axis of tensors, by key.
/// - With `"other_tensors": false`, every tensor must have a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    required_keys: Vec<String>,
    tensors: Vec<Expected>,
    lengths: BTreeMap<String, Length>,
    no_others: bool,
}

/// What tensors of a name should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    pattern: Pattern,
    /// Any, if none is named.
    dtypes: Vec<DType>,
    shape: Option<Vec<Dim>>,
    optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Dim {
    Exactly(u64),
    Any,
    /// Any number of dims.
    Rest,
    Named(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Length {
    Exactly(u64),
    Named(String),
}

/// A name with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Char(char),
    /// Any characters but dots.
    Any,
    /// Any characters.
    Everything,
}

/// What does not fit.
#[derive(Debug)]
pub(super) enum Misfit {
    /// A tensor has another dtype or shape, is missing, or is one too many.
    Tensor(String),
    /// Lengths do not agree.
    Length(String),
}

/// The values of named dims, and what gave each its value.
type Dims<'s> = BTreeMap<&'s str, (u64, String)>;

impl Schema {
    /// Nothing is expected yet.
    pub fn new() -> Schema {
        Schema::default()
    }

    /// Reads a schema from a file of JSON.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io); [`InvalidInput`](crate::ErrorKind::InvalidInput) for what is no schema, saying where.
    pub fn open(path: impl AsRef<Path>) -> Result<Schema> {
        let path = path.as_ref();
        Schema::from_json(&read_text(path)?).map_err(|e| e.with_path(path))
    }

    /// Reads a schema from JSON.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for what is no schema, saying where.
    pub fn from_json(json: &str) -> Result<Schema> {
        let json: Json =
            serde_json::from_str(json).map_err(|e| Error::invalid(format!("the schema is no JSON: {e}")))?;
        let mut schema = Schema::new();
        for (key, value) in object(&json, "the schema")? {
            match key.as_str() {
                "required_keys" => {
                    for key in array(value, key)? {
                        schema.required_keys.push(text(key, "a required key")?.to_owned());
                    }
                }
                "tensors" => {
                    for tensor in array(value, key)? {
                        schema.tensors.push(Expected::from_json(tensor)?);
                    }
                }
                "lengths" => {
                    for (key, length) in object(value, key)? {
                        schema.lengths.insert(key.clone(), Length::from_json(length)?);
                    }
                }
                "other_tensors" => {
                    schema.no_others = !value.as_bool().ok_or_else(|| wrong("other_tensors must be true or false"))?;
                }
                other => return Err(wrong(format!("the schema has an unknown key {}", quoted(other)))),
            }
        }
        Ok(schema)
    }

    /// Expects tensors whose names have this pattern to have this dtype and shape, and at least one of them to be there.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a pattern, dtype or shape that is none.
    pub fn tensor(mut self, pattern: &str, dtype: &str, shape: &[&str]) -> Result<Schema> {
        let dims = shape.iter().map(|dim| dim.parse().map_or_else(|_| Dim::from_text(dim), |n| Ok(Dim::Exactly(n))));
        let shape = checked_shape(dims.collect::<Result<Vec<Dim>>>()?)?;
        let dtypes = if dtype == "*" { Vec::new() } else { vec![dtype.parse()?] };
        self.tensors.push(Expected { pattern: Pattern::new(pattern)?, dtypes, shape: Some(shape), optional: false });
        Ok(self)
    }

    /// Expects what a key holds to have this length: a number, or the name of a dim.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for what is neither.
    pub fn length(mut self, key: &str, length: &str) -> Result<Schema> {
        let length = match length.parse() {
            Ok(number) => Length::Exactly(number),
            Err(_) => Length::Named(name_of_dim(length)?.to_owned()),
        };
        self.lengths.insert(key.to_owned(), length);
        Ok(self)
    }

    /// Keys that must be there.
    pub(super) fn required_keys(&self) -> &[String] {
        &self.required_keys
    }

    /// The first thing that does not fit.
    ///
    /// **Cost**: for each tensor, a look at each pattern.
    pub(super) fn check(&self, checkpoint: &Checkpoint, root: &Root) -> Result<Option<Misfit>> {
        let mut dims = Dims::new();
        let mut seen = vec![false; self.tensors.len()];
        let mut others = Vec::new();
        if !self.tensors.is_empty() || self.no_others {
            for tensor in checkpoint.tensors() {
                let tensor = tensor?;
                let mut expected_one = false;
                for (expected, seen) in self.tensors.iter().zip(&mut seen) {
                    if expected.pattern.fits(tensor.name()) {
                        (*seen, expected_one) = (true, true);
                        if let Some(message) = expected.misfit(&tensor, &mut dims) {
                            return Ok(Some(Misfit::Tensor(message)));
                        }
                    }
                }
                if !expected_one {
                    others.push(tensor.name());
                }
            }
        }
        let missing = self.tensors.iter().zip(&seen).find(|(expected, seen)| !**seen && !expected.optional);
        if let Some((expected, _)) = missing {
            let message = format!("there is no tensor {}", shown(&expected.pattern.text));
            return Ok(Some(Misfit::Tensor(message)));
        }
        if self.no_others && !others.is_empty() {
            return Ok(Some(Misfit::Tensor(format!("tensors that are not expected: {}", listed(&others)))));
        }
        for (key, expected) in &self.lengths {
            if let Some(message) = expected.misfit(key, root.length(key, checkpoint)?, &mut dims) {
                return Ok(Some(Misfit::Length(message)));
            }
        }
        Ok(None)
    }
}

impl Expected {
    fn from_json(json: &Json) -> Result<Expected> {
        let json = object(json, "what is expected of a tensor")?;
        let name = json.get("name").ok_or_else(|| wrong("what is expected of a tensor has no name"))?;
        let name = text(name, "the name of a tensor")?;
        let in_tensor = |e: Error| e.with_tensor(name);
        let mut expected = Expected { pattern: Pattern::new(name)?, dtypes: Vec::new(), shape: None, optional: false };
        for (key, value) in json {
            match key.as_str() {
                "name" => {}
                "dtype" => {
                    let names = match value {
                        Json::Array(names) => names.as_slice(),
                        one => std::slice::from_ref(one),
                    };
                    for name in names {
                        let name = text(name, "a dtype").map_err(in_tensor)?;
                        expected.dtypes.push(name.parse().map_err(in_tensor)?);
                    }
                }
                "shape" => {
                    let dims = array(value, key)?.iter().map(Dim::from_json).collect::<Result<Vec<Dim>>>();
                    expected.shape = Some(dims.and_then(checked_shape).map_err(in_tensor)?);
                }
                "optional" => {
                    let optional = value.as_bool().ok_or_else(|| wrong("optional must be true or false"));
                    expected.optional = optional.map_err(in_tensor)?;
                }
                other => {
                    let message = format!("what is expected of a tensor has an unknown key {}", quoted(other));
                    return Err(in_tensor(wrong(message)));
                }
            }
        }
        Ok(expected)
    }

    /// What is wrong with a tensor of the name.
    fn misfit<'s>(&'s self, tensor: &TensorView<'_>, dims: &mut Dims<'s>) -> Option<String> {
        let name = quoted(tensor.name());
        if !self.dtypes.is_empty() && !self.dtypes.contains(&tensor.dtype()) {
            let expected: Vec<_> = self.dtypes.iter().map(|dtype| dtype.name()).collect();
            return Some(format!("tensor {name}: dtype is {}, expected {}", tensor.dtype(), expected.join(" or ")));
        }
        let expected = self.shape.as_deref()?;
        let shape = tensor.shape();
        let wrong = || Some(format!("tensor {name}: shape is {shape:?}, expected {}", shown_shape(expected)));
        let (front, back) = match expected.iter().position(|dim| *dim == Dim::Rest) {
            None if expected.len() == shape.len() => (expected, &[][..]),
            None => return wrong(),
            Some(at) => {
                let (front, back) = expected.split_at(at);
                let back = back.get(1..).unwrap_or_default();
                if front.len().saturating_add(back.len()) > shape.len() {
                    return wrong();
                }
                (front, back)
            }
        };
        let from_back = back.iter().rev().zip(shape.iter().rev());
        for (expected, &found) in front.iter().zip(shape).chain(from_back) {
            match expected {
                Dim::Exactly(number) if *number != found => return wrong(),
                Dim::Exactly(_) | Dim::Any | Dim::Rest => {}
                Dim::Named(word) => {
                    if let Some((value, giver)) = bind(dims, word, found, || format!("tensor {name}")) {
                        let shape = format!("tensor {name}: shape is {shape:?}");
                        return Some(format!("{shape}, so {word} is {found}, but it is {value} of {giver}"));
                    }
                }
            }
        }
        None
    }
}

/// Gives a dim its value, unless it has another already: that, and what gave it.
fn bind<'s>(dims: &mut Dims<'s>, word: &'s str, found: u64, giver: impl FnOnce() -> String) -> Option<(u64, String)> {
    match dims.get(word) {
        None => {
            dims.insert(word, (found, giver()));
            None
        }
        Some((value, _)) if *value == found => None,
        Some(other) => Some(other.clone()),
    }
}

impl Length {
    fn from_json(json: &Json) -> Result<Length> {
        match (json.as_u64(), json.as_str()) {
            (Some(number), _) => Ok(Length::Exactly(number)),
            (None, Some(word)) => name_of_dim(word).map(|word| Length::Named(word.to_owned())),
            _ => Err(wrong("a length must be a number, or the name of a dim")),
        }
    }

    fn misfit<'s>(&'s self, key: &'s str, found: Option<u64>, dims: &mut Dims<'s>) -> Option<String> {
        let key = shown(key);
        let Some(found) = found else { return Some(format!("{key} is missing, or has no length")) };
        match self {
            Length::Exactly(expected) if *expected != found => {
                Some(format!("{key} has {found} elements, expected {expected}"))
            }
            Length::Exactly(_) => None,
            Length::Named(word) => bind(dims, word, found, || key.clone())
                .map(|(value, giver)| format!("{key} has {found} elements, but {word} is {value} of {giver}")),
        }
    }
}

impl Dim {
    fn from_json(json: &Json) -> Result<Dim> {
        match (json.as_u64(), json.as_str()) {
            (Some(number), _) => Ok(Dim::Exactly(number)),
            (None, Some(text)) => Dim::from_text(text),
            _ => Err(wrong("a dim must be a number, \"*\", \"...\" or a word")),
        }
    }

    fn from_text(text: &str) -> Result<Dim> {
        match text {
            "*" => Ok(Dim::Any),
            "..." => Ok(Dim::Rest),
            word => name_of_dim(word).map(|word| Dim::Named(word.to_owned())),
        }
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern> {
        if text.len() > MAX_TEXT_LEN {
            return Err(wrong(format!("a pattern of {} bytes is too long", text.len())));
        }
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let part = match (c, parts.last()) {
                ('\\', _) => Part::Char(chars.next().ok_or_else(|| wrong("a pattern ends with a backslash"))?),
                ('*', Some(Part::Any)) => {
                    parts.pop();
                    Part::Everything
                }
                ('*', Some(Part::Everything)) => return Err(wrong("a pattern has three stars in a row")),
                ('*', _) => Part::Any,
                (c, _) => Part::Char(c),
            };
            parts.push(part);
        }
        Ok(Pattern { text: text.to_owned(), parts })
    }

    /// **Cost**: the length of the name times the number of wildcards, at most.
    fn fits(&self, name: &str) -> bool {
        // The states of an automaton: which parts may come next. A wildcard stays, and is passed over.
        let mut next = vec![false; self.parts.len().saturating_add(1)];
        let enter = |states: &mut [bool], mut at: usize| {
            while let Some(state) = states.get_mut(at) {
                *state = true;
                match self.parts.get(at) {
                    Some(Part::Any | Part::Everything) => at = at.saturating_add(1),
                    _ => break,
                }
            }
        };
        if !self.parts.iter().any(|part| !matches!(part, Part::Char(_))) {
            return name.chars().eq(self.parts.iter().filter_map(|part| match part {
                Part::Char(c) => Some(*c),
                _ => None,
            }));
        }
        enter(&mut next, 0);
        for c in name.chars() {
            let now = std::mem::replace(&mut next, vec![false; self.parts.len().saturating_add(1)]);
            for (at, part) in self.parts.iter().enumerate() {
                if !now.get(at).copied().unwrap_or(false) {
                    continue;
                }
                match part {
                    Part::Char(wanted) if *wanted == c => enter(&mut next, at.saturating_add(1)),
                    Part::Any if c != '.' => enter(&mut next, at),
                    Part::Everything => enter(&mut next, at),
                    _ => {}
                }
            }
        }
        next.last().copied().unwrap_or(false)
    }
}

/// A shape with at most one place for any number of dims.
fn checked_shape(dims: Vec<Dim>) -> Result<Vec<Dim>> {
    match dims.iter().filter(|dim| **dim == Dim::Rest).count() {
        0 | 1 => Ok(dims),
        _ => Err(wrong("a shape has \"...\" twice")),
    }
}

fn shown_shape(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims
        .iter()
        .map(|dim| match dim {
            Dim::Exactly(number) => number.to_string(),
            Dim::Any => "*".to_owned(),
            Dim::Rest => "...".to_owned(),
            Dim::Named(word) => word.clone(),
        })
        .collect();
    format!("[{}]", dims.join(", "))
}

/// A word that may stand for a dim.
fn name_of_dim(word: &str) -> Result<&str> {
    let begins = word.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if begins && word.len() <= MAX_TEXT_LEN && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(word);
    }
    Err(wrong(format!("{} is no number, \"*\", \"...\" or word of letters, digits and _", quoted(word))))
}

fn wrong(message: impl Into<String>) -> Error {
    Error::invalid(message)
}

fn object<'j>(json: &'j Json, what: &str) -> Result<&'j Map<String, Json>> {
    json.as_object().ok_or_else(|| wrong(format!("{what} must be an object")))
}

fn array<'j>(json: &'j Json, what: &str) -> Result<&'j Vec<Json>> {
    json.as_array().ok_or_else(|| wrong(format!("{what} must be an array")))
}

fn text<'j>(json: &'j Json, what: &str) -> Result<&'j str> {
    json.as_str().ok_or_else(|| wrong(format!("{what} must be text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().fits(name)
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_name_and_two_for_any() {
        for (pattern, name) in [
            ("data", "data"),
            ("layers.*.weight", "layers.10.weight"),
            ("layers.*.weight", "layers..weight"),
            ("**.weight", "a.b.c.weight"),
            ("**", ""),
            ("*", "x"),
            ("*a*", "banana"),
            ("a\\*b", "a*b"),
            ("größe.*", "größe.1"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("data", "data2"),
            ("data", "dat"),
            ("layers.*.weight", "layers.1.2.weight"),
            ("layers.*.weight", "layers.1.weight2"),
            ("*", "a.b"),
            ("**.weight", "weight"),
            ("a\\*b", "axb"),
            ("", "x"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!(Pattern::new("a***").is_err());
        assert!(Pattern::new("a\\").is_err());
    }

    #[test]
    fn many_stars_take_no_time_that_matters() {
        let pattern = Pattern::new(&"*a".repeat(500)).unwrap();
        assert!(!pattern.fits(&"aaab".repeat(500)));
    }

    #[test]
    fn a_schema_that_is_none_says_where() {
        for (json, words) in [
            ("{", "no JSON"),
            ("[]", "the schema must be an object"),
            (r#"{"tensor": []}"#, "unknown key \"tensor\""),
            (r#"{"tensors": [{"dtype": "f32"}]}"#, "no name"),
            (r#"{"tensors": [{"name": "a", "dtype": "float"}]}"#, "no dtype named \"float\""),
            (r#"{"tensors": [{"name": "a", "shape": [-1]}]}"#, "a dim must be"),
            (r#"{"tensors": [{"name": "a", "shape": ["...", 1, "..."]}]}"#, "twice"),
            (r#"{"tensors": [{"name": "a", "shape": ["a b"]}]}"#, "\"a b\""),
            (r#"{"tensors": [{"name": "a", "shap": []}]}"#, "unknown key \"shap\""),
            (r#"{"lengths": {"a": 1.5}}"#, "a length must be"),
            (r#"{"other_tensors": 1}"#, "true or false"),
        ] {
            let e = Schema::from_json(json).unwrap_err().to_string();
            assert!(e.contains(words), "{json}: {e}");
        }
    }
}
