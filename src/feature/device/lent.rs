//! Bytes of a checkpoint that are used where they lie.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::read::Checkpoint;

/// Verified bytes of a checkpoint in memory, or mapped, which live as long as this does. It derefs to them.
pub struct Lent {
    checkpoint: Arc<Checkpoint>,
    storage: u32,
    range: Range<u64>,
}

impl Lent {
    /// A range of a storage, which was found to be there, and verified if that was asked for.
    pub(crate) fn new(checkpoint: Arc<Checkpoint>, storage: u32, range: Range<u64>) -> Lent {
        Lent { checkpoint, storage, range }
    }
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // Never the default: it was there when it was lent, and what a checkpoint has in memory stays where it is.
        self.checkpoint.storage_bytes(self.storage, self.range.clone(), false).unwrap_or_default()
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("storage", &self.storage).field("range", &self.range).finish_non_exhaustive()
    }
}
