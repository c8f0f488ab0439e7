//! Metadata and documents of two checkpoints, compared.

use dolmen::Value;
use dolmen::format::value::Dict;

use crate::human;
use crate::inspect::headline;

/// A difference between two values: where, and what stands on either side.
#[derive(Debug)]
pub struct Difference {
    /// The keys and positions that lead there.
    pub path: String,
    /// What there is on the left, if anything.
    pub a: Option<String>,
    /// What there is on the right, if anything.
    pub b: Option<String>,
}

/// The differences between two values, deepest place first named, in the order of the left one; at most so many.
pub fn differences(a: &Value, b: &Value, most: usize) -> Vec<Difference> {
    let mut found = Vec::new();
    collect(a, b, &mut String::new(), most, &mut found);
    found
}

fn collect(a: &Value, b: &Value, path: &mut String, most: usize, found: &mut Vec<Difference>) {
    if found.len() >= most {
        return;
    }
    let before = path.len();
    match (a, b) {
        (Value::Shareable(a), Value::Shareable(b)) => collect(a, b, path, most, found),
        (Value::Dict(x), Value::Dict(y)) if are_alike(x, y) => {
            for ((key, a), (_, b)) in x.entries.iter().zip(&y.entries) {
                step(path, key);
                collect(a, b, path, most, found);
                path.truncate(before);
            }
            only(&x.entries[x.entries.len().min(y.entries.len())..], true, path, most, found);
            only(&y.entries[x.entries.len().min(y.entries.len())..], false, path, most, found);
        }
        (Value::List(x), Value::List(y)) | (Value::Tuple(x), Value::Tuple(y)) if x.len() == y.len() => {
            for (i, (a, b)) in x.iter().zip(y).enumerate() {
                *path += &format!("[{i}]");
                collect(a, b, path, most, found);
                path.truncate(before);
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(Difference { path: path.clone(), a: Some(headline(a)), b: Some(headline(b)) }),
    }
}

/// Whether two dictionaries have the same keys in the same order, as far as the shorter one goes.
fn are_alike(a: &Dict, b: &Dict) -> bool {
    a.kind == b.kind
        && a.factory == b.factory
        && a.attributes == b.attributes
        && a.entries.iter().zip(&b.entries).all(|((a, _), (b, _))| a == b)
}

fn only(entries: &[(Value, Value)], left: bool, path: &mut String, most: usize, found: &mut Vec<Difference>) {
    let before = path.len();
    for (key, value) in entries.iter().take(most.saturating_sub(found.len())) {
        step(path, key);
        let value = Some(headline(value));
        let (a, b) = if left { (value, None) } else { (None, value) };
        found.push(Difference { path: path.clone(), a, b });
        path.truncate(before);
    }
}

fn step(path: &mut String, key: &Value) {
    match key.as_str() {
        Some(key) => {
            if !path.is_empty() {
                path.push('.');
            }
            *path += &human::name(key);
        }
        None => *path += &format!("[{}]", headline(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(entries: &[(&str, Value)]) -> Value {
        let mut dict = Dict::new();
        for (key, value) in entries {
            dict.push(*key, value.clone());
        }
        Value::from(dict)
    }

    #[test]
    fn differences_name_the_deepest_place() {
        let run = |lr: f64| dict(&[("opt", dict(&[("groups", Value::List(vec![dict(&[("lr", lr.into())])]))]))]);
        let found = differences(&run(0.1), &run(0.2), 10);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "opt.groups[0].lr");
        assert_eq!((found[0].a.as_deref(), found[0].b.as_deref()), (Some("0.1"), Some("0.2")));
        assert!(differences(&run(0.1), &run(0.1), 10).is_empty());
    }

    #[test]
    fn keys_on_one_side_alone_are_named() {
        let found = differences(&dict(&[("a", 1.into())]), &dict(&[("a", 1.into()), ("b", 2.into())]), 10);
        assert_eq!((found[0].path.as_str(), found[0].a.is_none(), found[0].b.as_deref()), ("b", true, Some("2")));
    }
}
