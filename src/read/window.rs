//! A stretch of a file that is in memory, addressed by the file's own offsets.

use std::ops::Range;

use crate::error::{Error, Result};

/// Bytes of a file, and where in it (or in a storage) they begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl<'a> Window<'a> {
    /// Bytes that begin at `start`.
    pub(crate) fn new(start: u64, bytes: &'a [u8]) -> Window<'a> {
        Window { start, bytes }
    }

    /// The bytes of a range.
    ///
    /// # Errors
    /// If it does not lie in the window. Ranges were checked against the index before, so this is a defect of ours, not of the file.
    #[inline]
    pub(crate) fn get(self, range: &Range<u64>) -> Result<&'a [u8]> {
        let place = || {
            let start = usize::try_from(range.start.checked_sub(self.start)?).ok()?;
            let len = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
            self.bytes.get(start..)?.get(..len)
        };
        place().ok_or_else(|| outside(range))
    }
}

/// The error for a range that is not where it was found to be.
#[cold]
pub(crate) fn outside(range: &Range<u64>) -> Error {
    Error::invalid(format!("bytes {} to {} are not there", range.start, range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_file_and_none_reaches_outside() {
        let window = Window::new(100, b"abcdef");
        assert_eq!(window.get(&(101..103)).unwrap(), b"bc");
        assert_eq!(window.get(&(106..106)).unwrap(), b"");
        for outside in [99..101, 104..107, 107..107, 0..1, 100..u64::MAX, Range { start: 103, end: 101 }] {
            assert!(window.get(&outside).is_err(), "{outside:?}");
        }
    }
}
