//! Which nodes are referred to more than once.

use super::super::pickle::{Graph, How, Node, Ref};
use super::budget::Budget;
use super::lists;
use super::meaning::{self, Meaning, Place};
use super::tensor::Data;
use crate::error::Result;
use crate::format::{len_u64, len_usize};

/// Texts, bytes and large integers up to this length are repeated where they occur; longer ones are kept once.
pub(in super::super) const REPEATED_LEN: u64 = 64;
/// The same of names of classes, module and name together.
const REPEATED_NAME_LEN: usize = 128;

/// For each node, how often it is referred to in what the root means: 0, 1, or 2 for more.
///
/// What is handed over anew for each of many calls, such as one list to a thousand sets, takes from the budget each time.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) when the budget is spent.
pub(super) fn count(graph: &Graph, root: Ref, budget: &mut Budget) -> Result<Vec<u8>> {
    let mut counts = vec![0u8; graph.len()];
    let mut open = Vec::new();
    // Only what is met for the first time is visited, so that no more is open than there are nodes.
    let mut meet = |value: Ref, open: &mut Vec<Ref>| {
        let Ref::Node(node) = value else { return };
        let Some(count) = len_usize(node.into()).and_then(|node| counts.get_mut(node)) else { return };
        *count = count.saturating_add(1).min(2);
        if *count == 1 {
            open.push(value);
        }
    };
    meet(root, &mut open);
    while let Some(value) = open.pop() {
        let meaning = meaning::of(graph, value);
        let mut met = looked_through(graph, &meaning);
        each_within(graph, &meaning, |within| {
            met = met.saturating_add(1);
            meet(within, &mut open);
        });
        budget.spend(met)?;
    }
    Ok(counts)
}

/// How much was looked through to know what something means: bytes of text that stands for bytes, or a list that might have been one of
/// pairs. Many can share it.
fn looked_through(graph: &Graph, meaning: &Meaning<'_>) -> u64 {
    let blob = match meaning {
        Meaning::Bytes(blob) | Meaning::ByteArray(blob) => blob,
        Meaning::Tensor(tensor) => match &tensor.data {
            Data::Blob(blob, _) => blob,
            Data::Storage(_) => return 0,
        },
        Meaning::Dict(dict) => return len_u64(dict.looked_through),
        Meaning::Object(call) => {
            return match graph.tuple(call.args) {
                Some(&[Ref::Node(items)]) => match graph.node(items) {
                    Some(Node::List(items)) => len_u64(items.len()),
                    _ => 0,
                },
                _ => 0,
            };
        }
        _ => return 0,
    };
    if blob.latin1 && matches!(blob.place, Place::Here(_)) { blob.written_len() } else { 0 }
}

/// Whether what is referred to twice is written twice: nobody can tell, and it is short.
pub(super) fn is_repeated(meaning: &Meaning<'_>) -> bool {
    match meaning {
        Meaning::Null | Meaning::Bool(_) | Meaning::Int(_) | Meaning::Float(_) | Meaning::Complex(..) => true,
        Meaning::Integer(bytes) => crate::format::len_u64(bytes.len()) <= REPEATED_LEN,
        Meaning::Text(blob) | Meaning::OldText(blob) | Meaning::Bytes(blob) => blob.is_within(REPEATED_LEN),
        Meaning::Tuple(items) => items.is_empty(),
        Meaning::Global(module, name) => module.len().saturating_add(name.len()) <= REPEATED_NAME_LEN,
        Meaning::Extension(_) => true,
        _ => false,
    }
}

/// Calls `take` for every value that a meaning holds.
fn each_within(graph: &Graph, meaning: &Meaning<'_>, mut take: impl FnMut(Ref)) {
    let pairs = |entries: &[(Ref, Ref)], take: &mut dyn FnMut(Ref)| {
        for &(key, value) in entries {
            take(key);
            take(value);
        }
    };
    match meaning {
        Meaning::List(items) if lists::dtype_of(items).is_none() => {
            (0..items.len()).filter_map(|i| items.get(i)).for_each(take);
        }
        Meaning::Tuple(items) => items.iter().copied().for_each(take),
        Meaning::Set(items) | Meaning::FrozenSet(items) => items.iter().for_each(take),
        Meaning::Dict(dict) => {
            pairs(&dict.entries, &mut take);
            dict.factory.into_iter().chain(dict.attributes).for_each(take);
        }
        Meaning::Tensor(tensor) => {
            tensor.further.iter().for_each(|&(_, value)| take(value));
            pairs(&tensor.metadata, &mut take);
        }
        Meaning::Object(call) => {
            // Arguments are handed over one by one: the tuple itself is not part of what is made.
            graph.tuple(call.args).unwrap_or_default().iter().copied().for_each(&mut take);
            take(call.callable);
            call.items.iter().copied().for_each(&mut take);
            call.state.into_iter().for_each(&mut take);
            if let How::NewWith(kwargs) = call.how
                && let Meaning::Dict(kwargs) = meaning::of(graph, kwargs)
            {
                pairs(&kwargs.entries, &mut take);
            }
            pairs(&call.entries, &mut take);
        }
        _ => {}
    }
}
