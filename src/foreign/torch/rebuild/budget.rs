//! How much a pickle may make of itself.

use crate::error::{Error, ErrorKind, Result};

/// Bytes, roughly, that may still be made: in proportion to the pickle's length, so that no small file becomes a large document.
pub(super) struct Budget {
    left: u64,
}

/// As many bytes as a byte of the pickle may become.
const RATIO: u64 = 80;
/// And so many for any pickle.
const ANY: u64 = 64 << 10;

impl Budget {
    pub(super) fn new(pickle_len: u64) -> Budget {
        Budget { left: pickle_len.saturating_mul(RATIO).saturating_add(ANY) }
    }

    /// Takes from it.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) if it is spent.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<()> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                let message = "the pickle repeats itself so often that it would fill the memory";
                Err(Error::new(ErrorKind::Limit, message).with_advice("do not trust where this file came from"))
            }
        }
    }
}
