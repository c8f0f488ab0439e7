//! [`Steps`]: steps from one version to the next that are declared, not programmed.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::Versions;
use super::content::Content;
use super::version::Version;
use crate::error::{Error, Result, quoted};
use crate::format::value::{Dict, Value};
use crate::lifecycle::label::VERSION_KEY;
use crate::lifecycle::text::read_text;

/// Steps that are declared in JSON: keys that are renamed, removed and set, in this order.
///
/// ```
/// # use dolmen::lifecycle::Steps;
/// let steps: Steps = r#"{"program": "virnucpro", "version": "2.0", "steps": [
///     {"from": "1.0", "to": "2.0", "rename": {"data": "embeddings"}, "remove": ["scratch"], "set": {"pooling": "mean"}}
/// ]}"#.parse()?;
/// let versions = steps.versions(None)?;
/// assert_eq!(versions.current().to_string(), "2.0");
/// # Ok::<(), dolmen::Error>(())
/// ```
///
/// Keys are those of [`Content`]. To rename one that is not there is an error; to remove one is not.
#[derive(Clone, Debug)]
pub struct Steps {
    program: String,
    version: Version,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    from: Version,
    to: Version,
    changes: Changes,
}

#[derive(Clone, Debug, Default)]
struct Changes {
    rename: Vec<(String, String)>,
    remove: Vec<String>,
    set: Vec<(String, Json)>,
}

impl Steps {
    /// Reads steps from a file of JSON.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io); [`InvalidInput`](crate::ErrorKind::InvalidInput) for what declares no steps, saying where.
    pub fn open(path: impl AsRef<Path>) -> Result<Steps> {
        let path = path.as_ref();
        read_text(path)?.parse().map_err(|e: Error| e.with_path(path))
    }

    /// The version that the steps lead to.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// A program that writes the version that the steps lead to, or an earlier one, and takes those steps.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a version that is later than that of the steps, or in the middle of one; and for steps that
    /// [`Versions::step`] refuses.
    pub fn versions(&self, to: Option<&Version>) -> Result<Versions> {
        let to = to.unwrap_or(&self.version);
        if *to > self.version {
            return Err(Error::invalid(format!("the steps lead to version {}, and not to {to}", self.version)));
        }
        let mut versions = Versions::new(&*self.program, to.as_str())?;
        for Step { from, to: end, changes } in &self.steps {
            if end <= to {
                let changes = changes.clone();
                versions = versions.step(from.as_str(), end.as_str(), move |content| changes.apply(content))?;
            } else if from < to {
                return Err(Error::invalid(format!("the step from {from} to {end} goes beyond {to}")));
            }
        }
        Ok(versions)
    }
}

impl Changes {
    fn apply(&self, content: &mut Content<'_>) -> Result<()> {
        for (old, new) in &self.rename {
            content.rename(old, new)?;
        }
        for key in &self.remove {
            content.remove(key)?;
        }
        let in_document = content.document().is_some();
        for (key, json) in &self.set {
            content.set(key, value_of(json, in_document))?;
        }
        Ok(())
    }
}

/// A value as JSON has it; its objects are dictionaries in a document, and maps in metadata.
fn value_of(json: &Json, in_document: bool) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(|item| value_of(item, in_document)).collect()),
        Json::Object(entries) => {
            let entries = entries.iter().map(|(key, json)| (key.clone(), value_of(json, in_document)));
            if in_document {
                Value::from(entries.collect::<Dict>())
            } else {
                Value::from(entries.collect::<BTreeMap<_, _>>())
            }
        }
    }
}

impl std::str::FromStr for Steps {
    type Err = Error;

    fn from_str(text: &str) -> Result<Steps> {
        let json: Json =
            serde_json::from_str(text).map_err(|e| Error::invalid(format!("the steps are no JSON: {e}")))?;
        let fields = object(&json, "the steps", &["program", "version", "steps"])?;
        let program = text_of(required(fields, "program", "the steps")?, "program")?;
        let version = version_of(required(fields, "version", "the steps")?)?;
        let Json::Array(steps) = required(fields, "steps", "the steps")? else {
            return Err(Error::invalid("\"steps\" is not a list"));
        };
        let steps: Vec<Step> = steps.iter().map(step).collect::<Result<_>>()?;
        let declared = Steps { program: program.to_owned(), version, steps };
        // What cannot be registered is told here, and not when it is used.
        declared.versions(None).map(|_| ())?;
        Ok(declared)
    }
}

fn step(json: &Json) -> Result<Step> {
    let fields = object(json, "a step", &["from", "to", "rename", "remove", "set"])?;
    let from = version_of(required(fields, "from", "a step")?)?;
    let to = version_of(required(fields, "to", "a step")?)?;
    let mut changes = Changes::default();
    if let Some(json) = fields.get("rename") {
        for (old, new) in entries(json, "rename")? {
            changes.rename.push((key(old)?, key(text_of(new, "rename")?)?));
        }
    }
    if let Some(json) = fields.get("remove") {
        let Json::Array(keys) = json else { return Err(Error::invalid("\"remove\" is not a list of keys")) };
        changes.remove = keys.iter().map(|json| key(text_of(json, "remove")?)).collect::<Result<_>>()?;
    }
    if let Some(json) = fields.get("set") {
        for (name, json) in entries(json, "set")? {
            changes.set.push((key(name)?, json.clone()));
        }
    }
    Ok(Step { from, to, changes })
}

/// A key that steps may change.
fn key(key: &str) -> Result<String> {
    match key {
        VERSION_KEY => Err(Error::invalid("the version is set by itself, and a step may not change it")),
        _ => Ok(key.to_owned()),
    }
}

fn object<'j>(json: &'j Json, what: &str, known: &[&str]) -> Result<&'j Map<String, Json>> {
    let Json::Object(fields) = json else { return Err(Error::invalid(format!("{what} is not a JSON object"))) };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => {
            let known = known.join(", ");
            Err(Error::invalid(format!("{what} has a field {}, and there are only these: {known}", quoted(unknown))))
        }
        None => Ok(fields),
    }
}

fn required<'j>(fields: &'j Map<String, Json>, name: &str, what: &str) -> Result<&'j Json> {
    fields.get(name).ok_or_else(|| Error::invalid(format!("{what} has no field \"{name}\"")))
}

fn entries<'j>(json: &'j Json, name: &str) -> Result<&'j Map<String, Json>> {
    match json {
        Json::Object(entries) => Ok(entries),
        _ => Err(Error::invalid(format!("\"{name}\" is not an object of keys"))),
    }
}

fn text_of<'j>(json: &'j Json, name: &str) -> Result<&'j str> {
    json.as_str().ok_or_else(|| Error::invalid(format!("\"{name}\" has something that is not text")))
}

fn version_of(json: &Json) -> Result<Version> {
    match json {
        Json::String(text) => text.parse(),
        _ => Err(Error::invalid("a version is not text, such as \"1.0\"")),
    }
}
