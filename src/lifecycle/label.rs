//! [`Label`]: what a checkpoint says of itself, version and status.

use std::collections::BTreeMap;

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

/// What the document has for a key, if it is a dictionary, and whether or not it is kept elsewhere in it.
pub(super) fn in_document<'v>(document: &'v Value, key: &str) -> Option<&'v Value> {
    let value = document.as_dict()?.get(key)?;
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
