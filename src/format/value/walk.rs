//! Walking over a value and all within it.

use std::collections::BTreeMap;

use super::encode::in_order;
use super::{Dict, Object, Value};

/// A value and all within it: see [`Value::descendants`].
///
/// **Cost:** a pointer for each value that is known but not met yet; no recursion.
#[derive(Clone, Debug)]
pub struct Descendants<'a> {
    /// Those still to come, the next one last.
    pending: Vec<&'a Value>,
}

impl<'a> Descendants<'a> {
    pub(super) fn new(value: &'a Value) -> Descendants<'a> {
        Descendants { pending: vec![value] }
    }

    fn push_values(&mut self, values: &'a [Value]) {
        self.pending.extend(values.iter().rev());
    }

    fn push_pairs(&mut self, pairs: &'a [(Value, Value)]) {
        self.pending.extend(pairs.iter().rev().flat_map(|(key, value)| [value, key]));
    }

    fn push_dict(&mut self, dict: &'a Dict) {
        self.pending.extend(dict.attributes.as_deref());
        self.pending.extend(dict.factory.as_deref());
        self.push_pairs(&dict.entries);
    }

    fn push_object(&mut self, object: &'a Object) {
        self.push_pairs(object.entries.as_deref().unwrap_or_default());
        self.push_pairs(object.kwargs.as_deref().unwrap_or_default());
        self.pending.extend(&object.state);
        self.push_values(object.items.as_deref().unwrap_or_default());
        self.pending.push(&object.class);
        self.pending.extend(&object.args);
    }

    fn push_map(&mut self, map: &'a BTreeMap<String, Value>) {
        self.pending.extend(in_order(map).into_iter().rev().map(|(_, value)| value));
    }
}

impl<'a> Iterator for Descendants<'a> {
    type Item = &'a Value;

    fn next(&mut self) -> Option<&'a Value> {
        let value = self.pending.pop()?;
        match value {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
                self.push_values(items);
            }
            Value::Dict(dict) => self.push_dict(dict),
            Value::Map(map) => self.push_map(map),
            Value::Tensor(tensor) => self.push_map(&tensor.attributes),
            Value::Object(object) => self.push_object(object),
            Value::Shareable(inner) => self.pending.push(inner),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::BigInt(_)
            | Value::Float(_)
            | Value::Complex(..)
            | Value::Text(_)
            | Value::Wtf8(_)
            | Value::Bytes(_)
            | Value::ByteArray(_)
            | Value::Global(_)
            | Value::SharedRef(_) => {}
        }
        Some(value)
    }
}
