//! What is known of the blocks of a checkpoint: which were found whole, and which damaged.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use super::touched::AtomicSet;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Its checksum was found right.
    Whole,
    /// Its checksum was found wrong: however many tensors touch it, it is computed once.
    Damaged,
    /// Nothing.
    Nothing,
}

/// The blocks of a checkpoint that were checked, by their numbers among all blocks.
///
/// Whoever is about to check a block may claim it, so that no two threads compute the same checksum: where batches meet within a block, both
/// would otherwise come to it at the same moment.
#[derive(Debug)]
pub(crate) struct Checks {
    whole: AtomicSet,
    damaged: AtomicSet,
    /// Blocks that a thread is checking: as many at most as there are threads.
    claimed: Mutex<Vec<usize>>,
    given_up: Condvar,
}

impl Checks {
    /// Nothing is known of so many blocks.
    pub(crate) fn new(block_count: usize) -> Checks {
        Checks {
            whole: AtomicSet::new(block_count),
            damaged: AtomicSet::new(block_count),
            claimed: Mutex::new(Vec::new()),
            given_up: Condvar::new(),
        }
    }

    /// What is known of a block. Damage counts more: a block that is made from others may be found damaged after it was taken for whole.
    #[inline]
    pub(crate) fn of(&self, block: usize) -> Known {
        if self.damaged.contains(block) {
            Known::Damaged
        } else if self.whole.contains(block) {
            Known::Whole
        } else {
            Known::Nothing
        }
    }

    /// Whether all of these were found whole, and none damaged.
    #[inline]
    pub(crate) fn all_whole(&self, blocks: Range<usize>) -> bool {
        self.whole.contains_all(blocks.clone())
            && (self.damaged.is_empty() || !blocks.into_iter().any(|b| self.damaged.contains(b)))
    }

    /// Remembers what was found.
    pub(crate) fn remember(&self, block: usize, whole: bool) {
        let _ = if whole { self.whole.insert(block) } else { self.damaged.insert(block) };
    }

    /// The right to check a block of which nothing is known; `None` if another thread has it, or has just used it.
    pub(crate) fn claim(&self, block: usize) -> Option<Claim<'_>> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: claims end after what they found is remembered.
        if claimed.contains(&block) || self.of(block) != Known::Nothing {
            return None;
        }
        claimed.push(block);
        Some(Claim { checks: self, block })
    }

    /// Waits until no other thread is checking a block, and says what is known of it then.
    pub(crate) fn settled(&self, block: usize) -> Known {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |claimed: &mut Vec<usize>| claimed.contains(&block);
        drop(self.given_up.wait_while(claimed, busy).unwrap_or_else(PoisonError::into_inner));
        self.of(block)
    }
}

/// The right to check a block. It ends when it is dropped, whatever was found.
#[derive(Debug)]
pub(crate) struct Claim<'c> {
    checks: &'c Checks,
    block: usize,
}

impl Claim<'_> {
    /// Remembers what was found, and gives up the right.
    pub(crate) fn found(self, whole: bool) {
        self.checks.remember(self.block, whole);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.checks.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.retain(|&block| block != self.block);
        drop(claimed);
        self.checks.given_up.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_checks_a_block_and_the_others_wait_for_what_it_finds() {
        let checks = Checks::new(100);
        assert_eq!(checks.of(7), Known::Nothing);
        let claim = checks.claim(7).unwrap();
        assert!(checks.claim(7).is_none());
        drop(checks.claim(8).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| checks.settled(7));
            std::thread::sleep(std::time::Duration::from_millis(5));
            assert!(!waiting.is_finished());
            claim.found(true);
            assert_eq!(waiting.join().unwrap(), Known::Whole);
        });
        assert!(checks.claim(7).is_none(), "it was checked already");
        assert!(checks.claim(8).is_some(), "a claim that was given up leaves nothing behind");
    }

    #[test]
    fn damage_outweighs_what_was_taken_for_whole() {
        let checks = Checks::new(10);
        checks.remember(3, true);
        assert!(checks.all_whole(3..4) && !checks.all_whole(3..5) && checks.all_whole(5..5));
        checks.remember(3, false);
        assert_eq!(checks.of(3), Known::Damaged);
        assert!(!checks.all_whole(3..4));
    }
}
