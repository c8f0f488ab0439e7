//! What a conversion could not hold exactly.

use std::fmt;

#[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
use crate::error::quoted;

/// How many names a note lists.
#[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
const LISTED: usize = 3;

/// What a format could not hold exactly, a sentence each; empty if nothing was lost.
///
/// `Display` gives a line for each. Names in them are escaped: they are safe to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Notes(Vec<String>);

impl Notes {
    /// Whether everything was held exactly.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The sentences.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    #[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
    pub(super) fn push(&mut self, note: impl Into<String>) {
        self.0.push(note.into());
    }

    #[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
    pub(super) fn tensor(&mut self, name: &str, note: impl fmt::Display) {
        self.0.push(format!("tensor {}: {note}", quoted(name)));
    }

    /// Notes what is lost of a tensor where its elements alone are written.
    #[cfg(any(feature = "safetensors", feature = "npy"))]
    pub(super) fn lost(&mut self, held: &super::Held, tensor: &crate::TensorView<'_>) {
        held.lost(tensor).into_iter().for_each(|lost| self.tensor(tensor.name(), lost));
    }

    #[cfg(feature = "fs")]
    pub(super) fn extend(&mut self, other: Notes) {
        self.0.extend(other.0);
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// Names for a message: the first few, quoted, and how many more there are.
#[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
pub(super) fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| quoted(name)).collect();
    match names.len().checked_sub(LISTED) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// As [`list`], of names that all have to be known; only very many are cut short.
#[cfg(feature = "torch")]
pub(super) fn all(names: &[&str]) -> String {
    const MOST: usize = 50;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| quoted(name)).collect();
    match names.len().checked_sub(MOST) {
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Notes what every format but Dolmen leaves out: tensors over one storage as such, the document, unknown sections.
#[cfg(any(feature = "safetensors", feature = "npy"))]
pub(super) fn structure(checkpoint: &crate::Checkpoint, notes: &mut Notes) -> crate::Result<()> {
    let mut placed = checkpoint
        .tensors()
        .map(|tensor| tensor.map(|t| (t.storage(), t.range_in_storage(), t.name())))
        .filter(|placed| placed.as_ref().map_or(true, |(_, range, _)| !range.is_empty()))
        .collect::<crate::Result<Vec<_>>>()?;
    placed.sort_unstable_by_key(|(storage, range, name)| (*storage, range.start, range.end, *name));
    // Each group reaches on for as long as the next one begins within it. What merely lies in the same storage shares nothing.
    let mut reach = (0, 0);
    let mut group: Vec<&str> = Vec::new();
    for (storage, range, name) in placed {
        if reach.0 != storage || range.start >= reach.1 {
            shared(&mut group, notes);
            reach = (storage, range.end);
        }
        reach.1 = reach.1.max(range.end);
        group.push(name);
    }
    shared(&mut group, notes);
    if checkpoint.document()?.is_some() {
        notes.push("the document is left out");
    }
    match checkpoint.unknown_sections().count() {
        0 => {}
        count => notes.push(format!("{count} sections that this version does not know are left out")),
    }
    Ok(())
}

/// Notes tensors that overlap, if there are several, and forgets them.
#[cfg(any(feature = "safetensors", feature = "npy"))]
fn shared(group: &mut Vec<&str>, notes: &mut Notes) {
    if group.len() > 1 {
        group.sort_unstable();
        notes.push(format!("{} share a storage: each is written on its own", list(group)));
    }
    group.clear();
}
