//! [`ShardState`]: what is there of a shard, and what is to be done.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use super::CheckpointError;

/// Bad batches that are shown one by one.
const SHOWN: usize = 5;

/// A batch that is there and passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardBatch {
    /// Its number.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A batch that is there and did not pass.
#[derive(Debug)]
pub struct BadBatch {
    /// Its number.
    pub number: u64,
    /// What is wrong with it, as `failed_checkpoints.txt` can remember it.
    pub error: CheckpointError,
}

/// What is there of a shard.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShardState {
    /// Which shard it is.
    pub rank: u32,
    /// The batches that passed, ascending.
    pub complete: Vec<ShardBatch>,
    /// The files that did not pass, ascending. They stay as they are until their batch is saved again. If a good file of the same batch
    /// stands beside a bad one, the batch is complete all the same.
    pub bad: Vec<BadBatch>,
    /// The numbers below `next` of which there is nothing, ascending.
    pub missing: Vec<Range<u64>>,
    /// The number after the highest that there is: 0 if there is none.
    pub next: u64,
    /// What else is in the directory. It is left alone.
    pub strange: Vec<PathBuf>,
}

impl ShardState {
    pub(super) fn new(
        rank: u32,
        valid: impl Iterator<Item = (u64, PathBuf)>,
        bad: impl Iterator<Item = BadBatch>,
        strange: Vec<PathBuf>,
    ) -> ShardState {
        let mut complete: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for (number, path) in valid {
            // The first is this crate's, if there are two.
            complete.entry(number).or_insert(path);
        }
        let mut bad: Vec<BadBatch> = bad.collect();
        bad.sort_by(|a, b| (a.number, &a.error.path).cmp(&(b.number, &b.error.path)));

        let mut there: Vec<u64> = complete.keys().copied().chain(bad.iter().map(|bad| bad.number)).collect();
        there.sort_unstable();
        let (mut missing, mut next) = (Vec::new(), 0u64);
        for number in there {
            if number > next {
                missing.push(next..number);
            }
            next = number.saturating_add(1);
        }
        let complete = complete.into_iter().map(|(number, path)| ShardBatch { number, path }).collect();
        ShardState { rank, complete, bad, missing, next, strange }
    }

    /// The numbers below `total` that are to be done, ascending: those that are bad, those that are missing and those that were never
    /// begun. Nothing that is complete is among them.
    pub fn to_do(&self, total: u64) -> impl Iterator<Item = u64> + '_ {
        let mut complete = self.complete.iter().map(|batch| batch.number).peekable();
        (0..total).filter(move |number| {
            while complete.next_if(|done| done < number).is_some() {}
            complete.peek() != Some(number)
        })
    }

    /// Counts only the batches that a caller wants to keep: those that pass, and are not of the input of today, say. The others are left
    /// where they are, and are to be done again.
    pub fn retain(&mut self, is_wanted: impl FnMut(&ShardBatch) -> bool) {
        self.complete.retain(is_wanted);
    }

    /// Whether all numbers below `total` are complete.
    pub fn is_complete(&self, total: u64) -> bool {
        self.to_do(total).next().is_none()
    }
}

/// For people: how many batches are complete, and which are to be done again and why.
impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing =
            self.missing.iter().fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
        write!(
            f,
            "shard {}: {} batches complete, {} bad, {missing} missing",
            self.rank,
            self.complete.len(),
            self.bad.len()
        )?;
        for bad in self.bad.iter().take(SHOWN) {
            write!(f, "\n  batch {}: {}", bad.number, bad.error.reason())?;
        }
        match self.bad.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\n  ... and {more} more"),
            _ => Ok(()),
        }
    }
}
