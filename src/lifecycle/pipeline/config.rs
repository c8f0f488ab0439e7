//! [`Config`]: what a pipeline was told, its hash as the original computes it, and what changed since.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::format::value::{Dict, DictKind, Value};

/// How deep a configuration may nest: the state file holds it, and a JSON reader's patience ends at 128.
const DEPTH_MAX: usize = 64;

/// What a pipeline was told: values under names, sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Config(BTreeMap<String, Value>);

impl Config {
    pub(super) fn set(&mut self, key: String, value: Value) {
        self.0.insert(key, value);
    }

    /// The text that Python's `json.dumps(config, sort_keys=True)` gives.
    pub(super) fn python_json(&self) -> Result<String> {
        let mut out = String::new();
        write_entries(self.0.iter().map(|(k, v)| (k.as_str(), v)), &mut out, 0)?;
        Ok(out)
    }

    /// The SHA-256 of that text, in hexadecimal: the original's `config_hash`.
    pub(super) fn hash(&self) -> Result<String> {
        let digest = Sha256::digest(self.python_json()?);
        Ok(digest.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        }))
    }

    /// The configuration as the state file keeps it.
    pub(super) fn to_json(&self) -> Map<String, Json> {
        self.0.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
    }

    /// What differs from the configuration that a state file keeps; nothing where it cannot be known.
    ///
    /// `partial` are values that the original keeps beside its hash: not all, so that none is missing from them.
    pub(super) fn changes_from(
        &self,
        kept: Option<&Map<String, Json>>,
        partial: &Map<String, Json>,
    ) -> Vec<ConfigChange> {
        let now = through_text(self.to_json());
        let old = kept.unwrap_or(partial);
        let mut changes = Vec::new();
        for (key, new) in &now {
            match old.get(key) {
                Some(old) if old != new => changes.push(ConfigChange::new(key, Some(old), Some(new))),
                None if kept.is_some() => changes.push(ConfigChange::new(key, None, Some(new))),
                _ => {}
            }
        }
        if kept.is_some() {
            changes.extend(
                old.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(k, v)| ConfigChange::new(k, Some(v), None)),
            );
        }
        changes
    }
}

/// As it would be read back: a parser may round a float differently from the value that was written.
fn through_text(map: Map<String, Json>) -> Map<String, Json> {
    match serde_json::from_str(&Json::Object(map.clone()).to_string()) {
        Ok(Json::Object(read)) => read,
        _ => map,
    }
}

/// One thing that differs between the configuration of a state file and that of the pipeline.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConfigChange {
    /// Its name.
    pub key: String,
    /// What it was; nothing if it was added.
    pub old: Option<Json>,
    /// What it is; nothing if it was removed.
    pub new: Option<Json>,
}

impl ConfigChange {
    fn new(key: &str, old: Option<&Json>, new: Option<&Json>) -> ConfigChange {
        ConfigChange { key: key.to_owned(), old: old.cloned(), new: new.cloned() }
    }
}

/// As in `expected_length: 500 is now 300`.
impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.escape_debug();
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{key}: {} is now {}", shown(old), shown(new)),
            (None, Some(new)) => write!(f, "{key}: added, {}", shown(new)),
            (Some(old), None) => write!(f, "{key}: removed, was {}", shown(old)),
            (None, None) => f.write_str(&key.to_string()),
        }
    }
}

/// A value on a line of a message.
fn shown(value: &Json) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn write_value(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new(crate::ErrorKind::InvalidInput, "the configuration nests too deeply"));
    }
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::BigInt(value) => out.push_str(&decimal(value)?),
        Value::Float(value) => write_float(*value, out),
        Value::Text(text) => write_text(text, out),
        Value::List(items) | Value::Tuple(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_value(item, out, depth.saturating_add(1))?;
            }
            out.push(']');
        }
        Value::Map(map) => write_entries(map.iter().map(|(k, v)| (k.as_str(), v)), out, depth)?,
        Value::Dict(dict) => write_entries(plain_entries(dict)?.into_iter(), out, depth)?,
        _ => return Err(not_json("a value is of a kind that JSON does not have")),
    }
    Ok(())
}

/// The entries of a dictionary whose keys are all text, sorted.
fn plain_entries(dict: &Dict) -> Result<BTreeMap<&str, &Value>> {
    if !matches!(dict.kind, DictKind::Plain | DictKind::Ordered) {
        return Err(not_json("a dictionary is of a kind that JSON does not have"));
    }
    let mut entries = BTreeMap::new();
    for (key, value) in &dict.entries {
        let key = key.as_str().ok_or_else(|| not_json("a key is not text"))?;
        if entries.insert(key, value).is_some() {
            return Err(not_json("a key occurs twice"));
        }
    }
    Ok(entries)
}

/// Entries that come sorted by their keys: by code points, which is the order of their bytes.
fn write_entries<'a>(
    entries: impl Iterator<Item = (&'a str, &'a Value)>,
    out: &mut String,
    depth: usize,
) -> Result<()> {
    out.push('{');
    for (i, (key, value)) in entries.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_text(key, out);
        out.push_str(": ");
        write_value(value, out, depth.saturating_add(1))?;
    }
    out.push('}');
    Ok(())
}

/// Text as Python's `json` writes it: ASCII alone.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// A float as Python's `repr` gives it: the shortest digits that read back the same, and an exponent below 1e-4 and from
/// 1e16 on.
fn write_float(value: f64, out: &mut String) {
    if !value.is_finite() {
        out.push_str(match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (_, true) => "Infinity",
            _ => "-Infinity",
        });
        return;
    }
    let shortest = format!("{value:e}");
    let digit_count = shortest.bytes().take_while(|&b| b != b'e').filter(u8::is_ascii_digit).count();
    // Of two that are as short and as near, Python takes the even one, as this does, and the shortest form here the one above.
    let nearest = format!("{value:.*e}", digit_count.saturating_sub(1));
    let scientific = if nearest.parse() == Ok(value) { nearest } else { shortest };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
        return;
    }
    if mantissa.starts_with('-') {
        out.push('-');
    }
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or_default();
    if exponent < 0 {
        let _ = write!(out, "0.{}{digits}", "0".repeat(places.saturating_sub(1)));
        return;
    }
    let whole_len = places.saturating_add(1);
    let whole = digits.get(..whole_len).unwrap_or(&digits);
    let fraction = digits.get(whole_len..).filter(|digits| !digits.is_empty()).unwrap_or("0");
    let _ = write!(out, "{whole:0<whole_len$}.{fraction}");
}

/// An integer in decimal, as Python writes it, which refuses more than 4300 digits as well.
fn decimal(value: &crate::format::value::BigInt) -> Result<String> {
    let text = value.to_string();
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.bytes().all(|b| b.is_ascii_digit()) { Ok(text) } else { Err(not_json("an integer is too large")) }
}

fn not_json(why: &str) -> Error {
    Error::new(crate::ErrorKind::InvalidInput, format!("the configuration cannot be written as JSON: {why}"))
        .with_advice("use null, booleans, numbers, text, lists and dictionaries with keys of text")
}
