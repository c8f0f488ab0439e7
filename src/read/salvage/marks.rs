//! What a salvaged file says of itself: which bytes nothing vouches for, and which tensors its document misses.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::fill::Fill;
use super::report::{ExtraOutcome, SalvageReport};
use crate::format::value::{Global, Object, Value};

/// The key of the metadata under which a salvaged file says which of its bytes nothing vouches for (`spec/format.md` section 16).
pub const MARKS: &str = "dolmen.salvage";

/// Module and name of the class of objects that stand in a document where a tensor was that is lost. Their one argument is its name.
pub const LOST: (&str, &str) = ("dolmen", "Lost");

/// The key of the marks of tensors.
const TENSORS: &str = "tensors";
/// The key of replaced bytes.
const REPLACED: &str = "replaced";
/// The key of bytes that are as they were found.
const UNVERIFIED: &str = "unverified";
/// The key of what replaced bytes are now.
const FILL: &str = "fill";
/// What stands there for bytes that were replaced by different things, at different times.
const MIXED: &str = "mixed";
/// The key of marks that this version does not understand.
const EARLIER: &str = "earlier";

/// The marks of a finding: those that the damaged file had itself, of tensors that are saved, and what its report says. `None` if there is
/// nothing to say. Notes in the report of which tensors the file had marks.
pub(crate) fn marks_of(report: &mut SalvageReport, fill: Option<Fill>, before: Option<&Value>) -> Option<Value> {
    let mut marks = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    let saved: HashSet<&str> =
        report.tensors.iter().filter(|tensor| tensor.outcome.is_saved()).map(|tensor| tensor.name.as_str()).collect();
    let mut marked_before = Vec::new();
    match before {
        None => {}
        Some(Value::Map(known)) if is_understood(known) => {
            for (key, value) in known {
                match value {
                    Value::Map(named) if key == TENSORS => {
                        let kept = named.iter().filter(|(name, _)| saved.contains(name.as_str()));
                        for (name, mark) in kept {
                            marked_before.push(name.clone());
                            tensors.insert(name.clone(), mark.clone());
                        }
                    }
                    other => drop(marks.insert(key.clone(), other.clone())),
                }
            }
        }
        Some(other) => drop(marks.insert(EARLIER.to_owned(), other.clone())),
    }
    for tensor in &report.tensors {
        let Some(doubt) = tensor.outcome.doubt() else { continue };
        let Value::Map(mark) = tensors.entry(tensor.name.clone()).or_insert_with(|| Value::Map(BTreeMap::new())) else {
            continue;
        };
        add_ranges(mark, UNVERIFIED, &doubt.unverified);
        add_ranges(mark, REPLACED, &doubt.replaced);
        if !doubt.replaced.is_empty() {
            let fill = fill.unwrap_or(Fill::Zeros).name();
            let agrees = mark.get(FILL).is_none_or(|before| before.as_str() == Some(&fill));
            mark.insert(FILL.to_owned(), Value::from(if agrees { fill.as_str() } else { MIXED }));
        }
    }
    if !tensors.is_empty() {
        marks.insert(TENSORS.to_owned(), Value::Map(tensors));
    }
    for (key, extra) in [("metadata", &report.metadata), ("document", &report.document)] {
        if *extra == ExtraOutcome::Unverified {
            marks.insert(key.to_owned(), Value::from(UNVERIFIED));
        }
    }
    report.marked_before = marked_before;
    (!marks.is_empty()).then_some(Value::Map(marks))
}

/// The tensors of a salvaged file of whose bytes nothing vouched for all when it was salvaged, by its metadata; none of any other file.
pub fn marked_tensors(metadata: &BTreeMap<String, Value>) -> Vec<&str> {
    match metadata.get(MARKS).and_then(|marks| marks.get(TENSORS)) {
        Some(Value::Map(tensors)) => tensors.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The name of the tensor that an object of a document stands for, if it is lost.
pub fn lost_tensor(object: &Object) -> Option<&str> {
    let Value::Global(class) = &object.class else { return None };
    match (class.module.as_str(), class.name.as_str(), object.args.as_ref()?.as_slice()?) {
        (module, name, [tensor]) if (module, name) == LOST => tensor.as_str(),
        _ => None,
    }
}

/// Whether marks are such as this version makes.
fn is_understood(marks: &BTreeMap<String, Value>) -> bool {
    let is_ranges = |value: &Value| value.as_slice().is_some_and(|ranges| ranges.iter().all(|r| range_of(r).is_some()));
    let is_mark = |value: &Value| match value {
        Value::Map(mark) => mark.iter().all(|(key, value)| match key.as_str() {
            REPLACED | UNVERIFIED => is_ranges(value),
            FILL => value.as_str().is_some(),
            _ => false,
        }),
        _ => false,
    };
    marks.iter().all(|(key, value)| match (key.as_str(), value) {
        (TENSORS, Value::Map(tensors)) => tensors.values().all(is_mark),
        ("metadata" | "document", Value::Text(_)) => true,
        (EARLIER, _) => true,
        _ => false,
    })
}

fn range_of(value: &Value) -> Option<Range<u64>> {
    match value.as_slice()? {
        [start, end] => Some(start.as_u64()?..end.as_u64()?),
        _ => None,
    }
}

/// Adds ranges to those that a mark has under a key.
fn add_ranges(mark: &mut BTreeMap<String, Value>, key: &str, ranges: &[Range<u64>]) {
    if ranges.is_empty() {
        return;
    }
    let before = mark.get(key).and_then(Value::as_slice).unwrap_or_default();
    let mut all: Vec<Range<u64>> = before.iter().filter_map(range_of).chain(ranges.iter().cloned()).collect();
    merge(&mut all);
    let all = all.into_iter().map(|range| Value::List(vec![Value::from(range.start), Value::from(range.end)]));
    mark.insert(key.to_owned(), all.collect());
}

/// Sorts ranges, and joins those that touch.
pub(crate) fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
}

/// Replaces the references of a document to tensors that do not exist by objects that say so; gives how many there were.
///
/// What a reference says besides the name is kept as the object's entries: so what is shared keeps its numbers.
pub(crate) fn mark_lost(document: &mut Value, exists: impl Fn(&str) -> bool) -> u64 {
    let mut lost = 0u64;
    document.visit_mut(|value| {
        let Value::Tensor(tensor) = value else { return };
        if exists(&tensor.name) {
            return;
        }
        lost = lost.saturating_add(1);
        let mut object = Object::new(Global::new(LOST.0, LOST.1));
        object.args = Some(Value::Tuple(vec![Value::Text(std::mem::take(&mut tensor.name))]));
        let mut attributes: Vec<(String, Value)> = std::mem::take(&mut tensor.attributes).into_iter().collect();
        // In the order in which they were encoded, so that what is shareable within begins in the same order as before.
        attributes.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
        if !attributes.is_empty() {
            object.entries = Some(attributes.into_iter().map(|(key, value)| (Value::Text(key), value)).collect());
        }
        *value = Value::from(object);
    });
    lost
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is compared")]
mod tests {
    use super::super::report::{Doubt, Loss, LossReason, Outcome};
    use super::*;
    use crate::format::value::{Dict, TensorRef, decode_document, encode_document};

    fn report(outcomes: &[(&str, Outcome)]) -> SalvageReport {
        let mut report = SalvageReport::new("dolmen", 0);
        for (name, outcome) in outcomes {
            report.tensor(name, None, None, outcome.clone());
        }
        report
    }

    fn partial(replaced: &[Range<u64>]) -> Outcome {
        Outcome::Partial(Doubt { replaced: replaced.to_vec(), ..Doubt::default() })
    }

    #[test]
    fn marks_say_what_is_in_doubt_and_nothing_else() {
        assert_eq!(marks_of(&mut report(&[("a", Outcome::Intact)]), None, None), None);
        let marks =
            marks_of(&mut report(&[("a", Outcome::Intact), ("b", partial(&[0..4, 8..9]))]), Some(Fill::Nan), None);
        let marks = marks.unwrap();
        let b = marks.get("tensors").unwrap().get("b").unwrap();
        assert_eq!(b.get("fill").unwrap().as_str(), Some("nan"));
        let ranges: Vec<_> = b.get("replaced").unwrap().as_slice().unwrap().iter().filter_map(range_of).collect();
        assert_eq!(ranges, [0..4, 8..9]);
        assert!(marks.get("tensors").unwrap().get("a").is_none() && b.get("unverified").is_none());
    }

    #[test]
    fn marks_from_before_are_kept_and_joined_for_what_is_saved() {
        let first = marks_of(&mut report(&[("a", partial(&[0..4])), ("b", partial(&[1..2]))]), None, None).unwrap();
        let lost = Outcome::Lost(Loss::new(LossReason::DataDamaged, ""));
        let mut second = report(&[("a", partial(&[4..6, 9..10])), ("b", lost)]);
        let both = marks_of(&mut second, Some(Fill::Byte(7)), Some(&first)).unwrap();
        let tensors = both.get("tensors").unwrap();
        let a = tensors.get("a").unwrap();
        let ranges: Vec<_> = a.get("replaced").unwrap().as_slice().unwrap().iter().filter_map(range_of).collect();
        assert_eq!((ranges, a.get("fill").unwrap().as_str()), (vec![0..6, 9..10], Some("mixed")));
        assert!(tensors.get("b").is_none());
        assert_eq!(second.marked_before, ["a"]);
        let strange = Value::from("something else");
        let kept = marks_of(&mut report(&[]), None, Some(&strange)).unwrap();
        assert_eq!(kept.get("earlier"), Some(&strange));
    }

    #[test]
    fn references_to_lost_tensors_say_so_and_what_is_shared_keeps_its_numbers() {
        let shared = Value::Shareable(Box::new(Value::List(vec![Value::from(1)])));
        let mut attributes = BTreeMap::new();
        attributes.insert("type".to_owned(), Value::global("m", "T"));
        attributes.insert("bb".to_owned(), shared.clone());
        let reference = |name: &str| TensorRef { name: name.to_owned(), attributes: attributes.clone() };
        let mut document = Value::from(Dict::from([
            ("kept", Value::tensor("kept")),
            ("lost", Value::from(reference("lost"))),
            ("again", Value::SharedRef(0)),
        ]));
        assert_eq!(mark_lost(&mut document, |name| name == "kept"), 1);
        let Some(Value::Object(lost)) = document.get("lost") else { panic!("{document:?}") };
        assert_eq!(
            (lost.class.clone(), lost.args.clone()),
            (Value::global("dolmen", "Lost"), Some(Value::Tuple(vec![Value::from("lost")])))
        );
        let encoded = encode_document(&document).unwrap();
        assert_eq!(decode_document(&encoded).unwrap(), document);
        assert_eq!(document.tensor_names().collect::<Vec<_>>(), ["kept"]);
    }
}
