//! Changing a document whose values refer to each other by number.
//!
//! A reference counts the shareable values that begin before it, so whoever takes one out changes the meaning of all references behind it, and
//! those to what was taken out lose theirs. Here every shareable value is lifted out first, the rest is changed, and then each is put back
//! where it is referred to first.

use crate::error::{Error, Result};
use crate::format::value::{Dict, MAX_DEPTH, Value};

/// Whether there are shareable values in a value.
pub(super) fn has_shareables(value: &Value) -> bool {
    value.descendants().any(|value| matches!(value, Value::Shareable(_)))
}

/// Whether a value is shareable, refers to one, or holds one that does.
pub(super) fn is_entangled(value: &Value) -> bool {
    value.descendants().any(|value| matches!(value, Value::Shareable(_) | Value::SharedRef(_)))
}

/// Changes the dictionary that a document is, where references are to be kept right.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is no dictionary, or refers to what is not there.
pub(super) fn edit(document: &mut Value, change: impl FnOnce(&mut Dict)) -> Result<()> {
    let mut lifted = Vec::new();
    lift(document, &mut lifted);
    let changed = dictionary(document, &mut lifted).map(change);
    settle(document, lifted)?;
    changed.ok_or_else(|| Error::invalid("the document is no dictionary"))
}

/// The dictionary, wherever it was lifted to.
fn dictionary<'v>(document: &'v mut Value, lifted: &'v mut [Option<Value>]) -> Option<&'v mut Dict> {
    let mut place = None;
    let mut value: &Value = document;
    while let Value::SharedRef(number) = value {
        let next = usize::try_from(*number).ok()?;
        // What is lifted is numbered from the outside inwards.
        if place.is_some_and(|place| next <= place) {
            return None;
        }
        place = Some(next);
        value = lifted.get(next)?.as_ref()?;
    }
    let value = match place {
        None => document,
        Some(place) => lifted.get_mut(place)?.as_mut()?,
    };
    match value {
        Value::Dict(dict) => Some(dict),
        _ => None,
    }
}

/// Puts a reference in the place of each shareable value, and the values into a list, in the order of their numbers.
fn lift(value: &mut Value, lifted: &mut Vec<Option<Value>>) {
    value.visit_mut(|value| {
        let Value::Shareable(inner) = value else { return };
        let mut inner = std::mem::take(&mut **inner);
        let number = lifted.len();
        lifted.push(None);
        *value = Value::SharedRef(u64::try_from(number).unwrap_or(u64::MAX));
        lift(&mut inner, lifted);
        if let Some(place) = lifted.get_mut(number) {
            *place = Some(inner);
        }
    });
}

/// Puts each shareable value where it is referred to first, and numbers them anew.
fn settle(document: &mut Value, mut lifted: Vec<Option<Value>>) -> Result<()> {
    let mut numbers: Vec<Option<u64>> = vec![None; lifted.len()];
    let mut begun = 0u64;
    let (mut missing, mut too_deep) = (false, false);
    document.visit_mut_by_depth(|value, depth| {
        let Value::SharedRef(number) = value else { return };
        let at = usize::try_from(*number).unwrap_or(usize::MAX);
        match (numbers.get_mut(at), lifted.get_mut(at)) {
            (Some(Some(known)), _) => *number = *known,
            // What lay side by side may come to lie within each other, as deep as there are values.
            (Some(None), Some(_)) if depth >= MAX_DEPTH => too_deep = true,
            (Some(known @ None), Some(inner)) => {
                *known = Some(begun);
                begun = begun.saturating_add(1);
                *value = Value::Shareable(Box::new(inner.take().unwrap_or_default()));
            }
            _ => missing = true,
        }
    });
    if missing {
        return Err(Error::invalid("the document refers to a shareable value that is not there"));
    }
    if too_deep {
        let message = format!("values that refer to each other would nest more than {MAX_DEPTH} deep");
        return Err(Error::invalid(message).with_advice("keep the key that holds them"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shareable(value: impl Into<Value>) -> Value {
        Value::Shareable(Box::new(value.into()))
    }

    fn remove(document: &mut Value, key: &str) {
        edit(document, |dict| dict.entries.retain(|(k, _)| k.as_str() != Some(key))).unwrap();
    }

    #[test]
    fn nothing_changed_is_nothing_changed() {
        let inner = Dict::from([("a", shareable(Value::List(vec![Value::SharedRef(1)]))), ("b", Value::SharedRef(0))]);
        let mut document = shareable(Value::from(Dict::from([("x", shareable(inner)), ("y", Value::SharedRef(2))])));
        // What encloses a reference may be referred to.
        let before = document.clone();
        edit(&mut document, |_| {}).unwrap();
        assert_eq!(document, before);
    }

    #[test]
    fn what_is_removed_moves_to_where_it_is_referred_to() {
        let scratch = Value::List(vec![shareable("long"), shareable(Value::List(vec![Value::SharedRef(0)])), 1.into()]);
        let mut document = Value::from(Dict::from([
            ("scratch", scratch),
            ("kept", shareable("own")),
            ("of scratch", Value::SharedRef(1)),
            ("again", Value::List(vec![Value::SharedRef(0), Value::SharedRef(1), Value::SharedRef(2)])),
        ]));
        remove(&mut document, "scratch");
        let expected = Value::from(Dict::from([
            ("kept", shareable("own")),
            ("of scratch", shareable(Value::List(vec![shareable("long")]))),
            ("again", Value::List(vec![Value::SharedRef(2), Value::SharedRef(1), Value::SharedRef(0)])),
        ]));
        assert_eq!(document, expected);
    }

    #[test]
    fn a_chain_of_values_is_not_nested_without_limit() {
        let chain = |n: u64| {
            let link = |k: u64| match k {
                0 => shareable("first"),
                k => shareable(Value::List(vec![Value::SharedRef(k - 1)])),
            };
            let scratch = Value::List((0..n).map(link).collect());
            Value::from(Dict::from([("scratch", scratch), ("last", Value::SharedRef(n - 1))]))
        };
        let mut document = chain(500);
        remove(&mut document, "scratch");
        assert_eq!(document.descendants().filter(|value| matches!(value, Value::Shareable(_))).count(), 500);
        for n in [2_000, 100_000] {
            let without = |dict: &mut Dict| dict.entries.retain(|(key, _)| key.as_str() != Some("scratch"));
            let e = edit(&mut chain(n), without).unwrap_err();
            assert!(e.to_string().contains("would nest more than 1024 deep"), "{e}");
        }
    }

    #[test]
    fn references_to_nothing_are_refused_rather_than_given_a_meaning() {
        let mut document = Value::from(Dict::from([("a", Value::SharedRef(7))]));
        assert!(edit(&mut document, |_| {}).is_err());
    }
}
