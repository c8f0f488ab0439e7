//! [`Label`]: what a checkpoint says of itself, version and status; and the marker beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::versions::Version;
use crate::error::Result;
use crate::format::value::Value;
use crate::read::Checkpoint;

/// The key under which a checkpoint says the version of its content.
pub const VERSION_KEY: &str = "version";
/// The key under which a checkpoint says whether it was finished.
pub const STATUS_KEY: &str = "status";
/// The status of a checkpoint that was finished.
pub const STATUS_COMPLETE: &str = "complete";
/// The status of a checkpoint that was not finished.
pub const STATUS_IN_PROGRESS: &str = "in_progress";

/// What a checkpoint says of itself: in the dictionary that is its document, if that has the key, and otherwise in the metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct Label {
    pub(super) version: Option<Value>,
    pub(super) status: Option<Value>,
}

impl Label {
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Label> {
        Ok(Label::in_values(&checkpoint.metadata()?, checkpoint.document()?.as_ref()))
    }

    pub(super) fn in_values(metadata: &BTreeMap<String, Value>, document: Option<&Value>) -> Label {
        let said =
            |key| document.and_then(|document| in_document(document, key)).or_else(|| metadata.get(key)).cloned();
        Label { version: said(VERSION_KEY), status: said(STATUS_KEY) }
    }

    /// The version; 0.x if none is said.
    pub(super) fn version(&self) -> Result<Version> {
        self.version.as_ref().map_or_else(|| Ok(Version::unversioned()), Version::of_value)
    }

    pub(super) fn is_in_progress(&self) -> bool {
        self.status.as_ref().and_then(Value::as_str) == Some(STATUS_IN_PROGRESS)
    }
}

/// The empty file beside a checkpoint by which the original says that it is complete: `x.pt.done` of `x.pt`.
pub(super) fn done_marker(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".done");
    name.into()
}

/// What the document has for a key, if it is a dictionary, and whether or not it is kept elsewhere in it.
pub(super) fn in_document<'v>(document: &'v Value, key: &str) -> Option<&'v Value> {
    let entries = &document.as_dict()?.entries;
    let (_, value) = entries.get(*positions_of(entries, key, document).last()?)?;
    let Value::SharedRef(number) = value else { return Some(value) };
    shared(document, *number)
}

/// The shareable value of a number.
///
/// **Cost**: a walk through the document as far as there.
pub(super) fn shared(document: &Value, number: u64) -> Option<&Value> {
    let number = usize::try_from(number).ok()?;
    document.descendants().filter(|value| matches!(value, Value::Shareable(_))).nth(number)
}

/// Where a dictionary of a document has a key: more than once if the file has it so. A long text that is held in several places is a key
/// by its number in all but one.
pub(super) fn positions_of(entries: &[(Value, Value)], key: &str, document: &Value) -> Vec<usize> {
    let is_shared = |entry: &(Value, Value)| matches!(entry.0, Value::SharedRef(_));
    let texts: BTreeMap<u64, &str> =
        if entries.iter().any(is_shared) { shared_texts(document) } else { BTreeMap::new() };
    let text_of = |known: &'_ Value| match known {
        Value::SharedRef(number) => texts.get(number).copied() == Some(key),
        known => known.as_str() == Some(key),
    };
    entries.iter().enumerate().filter(|(_, (known, _))| text_of(known)).map(|(at, _)| at).collect()
}

/// The shareable values of a document that are texts, by their numbers.
fn shared_texts(document: &Value) -> BTreeMap<u64, &str> {
    let shareable = document.descendants().filter(|value| matches!(value, Value::Shareable(_)));
    shareable.zip(0u64..).filter_map(|(value, number)| Some((number, value.as_str()?))).collect()
}
