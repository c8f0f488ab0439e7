//! Which blocks have been verified: one bit each, set once and never cleared.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A set of numbers below a fixed bound, that many threads may add to.
///
/// Adding needs no order with other memory: what a bit stands for (bytes that were checked) was there before and does not
/// change.
#[derive(Debug)]
pub(crate) struct AtomicSet {
    words: Box<[AtomicU64]>,
    /// Whether a number was ever added.
    any: AtomicBool,
}

impl AtomicSet {
    /// The empty set of numbers below `bound`.
    pub(crate) fn new(bound: usize) -> AtomicSet {
        AtomicSet { words: (0..bound.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), any: AtomicBool::new(false) }
    }

    /// Whether there is no number in the set. **Cost**: one look.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Whether the number is in the set.
    #[inline]
    pub(crate) fn contains(&self, number: usize) -> bool {
        self.words.get(number / 64).is_some_and(|word| word.load(Ordering::Relaxed) & bit(number) != 0)
    }

    /// Adds the number; `true` if it was not in the set before.
    #[inline]
    pub(crate) fn insert(&self, number: usize) -> bool {
        let Some(word) = self.words.get(number / 64) else { return false };
        let is_new = word.fetch_or(bit(number), Ordering::Relaxed) & bit(number) == 0;
        // Written once: threads that add at the same time would take the line from each other.
        if self.is_empty() {
            self.any.store(true, Ordering::Relaxed);
        }
        is_new
    }

    /// Whether all numbers of the range are in the set.
    #[inline]
    pub(crate) fn contains_all(&self, mut numbers: Range<usize>) -> bool {
        while !numbers.is_empty() {
            let whole = numbers.start.is_multiple_of(64) && numbers.len() >= 64;
            let present = if whole {
                self.words.get(numbers.start / 64).is_some_and(|word| word.load(Ordering::Relaxed) == u64::MAX)
            } else {
                self.contains(numbers.start)
            };
            if !present {
                return false;
            }
            numbers.start = numbers.start.saturating_add(if whole { 64 } else { 1 });
        }
        true
    }

    /// How many numbers are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum()
    }
}

fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_remembered_once_each() {
        let set = AtomicSet::new(200);
        assert!(!set.contains_all(0..1) && set.is_empty());
        for number in 0..150 {
            assert!(set.insert(number));
            assert!(!set.insert(number));
        }
        assert!(set.contains_all(0..150) && set.contains_all(3..149) && set.contains_all(9..9));
        assert!(!set.contains_all(0..151) && !set.contains(199) && !set.contains(100_000));
        assert_eq!(set.count(), 150);
        assert!(!set.is_empty());
        assert!(!set.insert(100_000));
    }
}
