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
    let mut by_storage: Vec<(u32, &str)> =
        checkpoint.tensors().map(|tensor| tensor.map(|t| (t.storage(), t.name()))).collect::<crate::Result<_>>()?;
    by_storage.sort_unstable();
    for group in by_storage.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
        let names: Vec<&str> = group.iter().map(|&(_, name)| name).collect();
        notes.push(format!("{} share a storage: each is written on its own", list(&names)));
    }
    if checkpoint.document()?.is_some() {
        notes.push("the document is left out");
    }
    match checkpoint.unknown_sections().count() {
        0 => {}
        count => notes.push(format!("{count} sections that this version does not know are left out")),
    }
    Ok(())
}
