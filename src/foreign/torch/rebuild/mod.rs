//! What a pickle's graph means: the document, and the tensors and storages it speaks of.
//!
//! ```text
//! graph ── meaning ──┬─ tensor, numpy   what rebuild functions make of their arguments
//!                    └─ lists           long lists of numbers
//! arguments what the parts of sparse tensors and the like are called
//! shared    which nodes are referred to more than once
//! document  values in the order of their encoding; names; storages as they are first mentioned
//! ```
//! Nothing is run: a function that is not understood becomes an object that says what would have been called. Work and memory are
//! bounded by a budget in proportion to the pickle's length.

mod arguments;
mod budget;
mod document;
mod lists;
mod meaning;
mod names;
mod numpy;
mod shared;
mod storages;
mod tensor;

pub(super) use meaning::is_nested_class;
pub(super) use shared::REPEATED_LEN;
pub(super) use storages::{Container, Found, Planned};
pub(super) use tensor::StorageId;

use super::pickle::{Graph, Ref};
use crate::error::Result;
use crate::format::dtype::DType;
use crate::format::value::Value;

/// A tensor, checked against its storage.
#[derive(Debug)]
pub(super) struct RebuiltTensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Option<Vec<u64>>,
    /// Its number among the storages.
    pub(super) storage: usize,
    /// In bytes from the storage's first.
    pub(super) start: u64,
}

/// All that a pickle means.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) document: Value,
    /// In the order in which the document first mentions them.
    pub(super) storages: Vec<Planned>,
    /// In the order of the document.
    pub(super) tensors: Vec<RebuiltTensor>,
}

/// Gives a graph its meaning.
///
/// # Errors
/// [`Malformed`](crate::ErrorKind::Malformed) for a tensor that does not fit its storage, or a storage that is not there;
/// [`Limit`](crate::ErrorKind::Limit) for objects that nest too deep, or make too much of themselves; and what the container says.
pub(super) fn rebuild(graph: &Graph, root: Ref, pickle_len: u64, container: &dyn Container) -> Result<Rebuilt> {
    let mut budget = budget::Budget::new(pickle_len);
    let counts = shared::count(graph, root, &mut budget)?;
    let storages = storages::Storages::new(container);
    document::Document::new(graph, counts, storages, budget).build(root)
}
