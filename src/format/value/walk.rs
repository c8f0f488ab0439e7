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
        if map.is_empty() {
            return;
        }
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

impl Value {
    /// Calls `visit` for this value and all within it, each before what it holds, in the order of the encoding, and lets it change them: what it
    /// leaves is gone into.
    ///
    /// A [`Value::SharedRef`] counts the shareable values before it: who adds or removes some must renumber the references.
    ///
    /// **Cost:** as [`descendants`](Self::descendants).
    pub fn visit_mut(&mut self, mut visit: impl FnMut(&mut Value)) {
        self.visit_mut_by_depth(|value, _| visit(value));
    }

    /// As [`visit_mut`](Self::visit_mut); `visit` is told how deep within this value each lies, too: this one at 0.
    pub(crate) fn visit_mut_by_depth(&mut self, mut visit: impl FnMut(&mut Value, usize)) {
        let mut pending = vec![(self, 0usize)];
        let mut within: Vec<&mut Value> = Vec::new();
        while let Some((value, depth)) = pending.pop() {
            visit(value, depth);
            match value {
                Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
                    within.extend(items.iter_mut().rev());
                }
                Value::Dict(dict) => {
                    within.extend(dict.attributes.as_deref_mut());
                    within.extend(dict.factory.as_deref_mut());
                    within.extend(pairs_mut(&mut dict.entries));
                }
                Value::Map(map) => within.extend(values_mut(map)),
                Value::Tensor(tensor) => within.extend(values_mut(&mut tensor.attributes)),
                Value::Object(object) => {
                    let Object { class, args, kwargs, state, items, entries, new: _ } = &mut **object;
                    within.extend(pairs_mut(entries.as_deref_mut().unwrap_or_default()));
                    within.extend(pairs_mut(kwargs.as_deref_mut().unwrap_or_default()));
                    within.extend(state);
                    within.extend(items.as_deref_mut().unwrap_or_default().iter_mut().rev());
                    within.push(class);
                    within.extend(args);
                }
                Value::Shareable(inner) => within.push(inner),
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
            pending.extend(within.drain(..).map(|value| (value, depth.saturating_add(1))));
        }
    }
}

/// The last first, each value before its key.
fn pairs_mut(pairs: &mut [(Value, Value)]) -> impl Iterator<Item = &mut Value> {
    pairs.iter_mut().rev().flat_map(|(key, value)| [value, key])
}

/// The last first.
fn values_mut(map: &mut BTreeMap<String, Value>) -> impl Iterator<Item = &mut Value> {
    let mut entries: Vec<_> = map.iter_mut().collect();
    entries.sort_by_key(|(key, _)| std::cmp::Reverse((key.len(), key.as_str())));
    entries.into_iter().map(|(_, value)| value)
}
