//! How a loader works.

use crate::feature::order::{Shard, Tail};

/// Whether and when the bytes of batches are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verification {
    /// Each block of a file the first time that it is touched, for as long as the file is open; what was found is remembered.
    #[default]
    Once,
    /// Each block once in every epoch, on the bytes that are read then: for files that do not stay in memory from one epoch to the next.
    EveryEpoch,
    /// Never. What was damaged on the disk, or on the way, is in the batches.
    Off,
}

/// What becomes of a batch that has damaged rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDamage {
    /// It is an error, in its place among the batches; those after it come all the same.
    #[default]
    Fail,
    /// It comes without those rows, and says which they are. A block that is damaged takes all rows with it that lie in it.
    SkipRows,
}

/// What the system's page cache should make of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageCache {
    /// [`Keep`](PageCache::Keep) if the table has less than half as many bytes as the machine has memory, and otherwise
    /// [`Spare`](PageCache::Spare).
    #[default]
    Auto,
    /// What was read stays, as long as the system likes.
    Keep,
    /// What was read in order is given up after its batch, and what is read here and there is asked for in time, and nothing around it: so a
    /// table of more than the memory does not push out everything else.
    Spare,
}

/// How a [`Loader`](super::Loader) makes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct LoaderOptions {
    pub(super) batch_len: u64,
    pub(super) shard: Shard,
    pub(super) tail: Tail,
    pub(super) prefetch: u32,
    pub(super) threads: u32,
    pub(super) verification: Verification,
    pub(super) on_damage: OnDamage,
    pub(super) page_cache: PageCache,
    pub(super) copied: bool,
}

impl Default for LoaderOptions {
    fn default() -> LoaderOptions {
        LoaderOptions::new()
    }
}

impl LoaderOptions {
    /// Batches of 256 rows, of which all come; as many threads as the machine has, 8 at most, and twice as many batches ahead; verified.
    pub fn new() -> LoaderOptions {
        let threads = u32::try_from(crate::read::default_threads()).unwrap_or(1).min(8);
        LoaderOptions {
            batch_len: 256,
            shard: Shard::WHOLE,
            tail: Tail::Keep,
            prefetch: threads.saturating_mul(2),
            threads,
            verification: Verification::Once,
            on_damage: OnDamage::Fail,
            page_cache: PageCache::Auto,
            copied: false,
        }
    }

    /// Rows of a batch.
    pub fn batch_len(mut self, rows: u64) -> LoaderOptions {
        self.batch_len = rows;
        self
    }

    /// Which of several workers this is: each gets every so-manieth batch.
    pub fn shard(mut self, shard: Shard) -> LoaderOptions {
        self.shard = shard;
        self
    }

    /// What becomes of the rows at the end that fill no batch.
    pub fn tail(mut self, tail: Tail) -> LoaderOptions {
        self.tail = tail;
        self
    }

    /// How many batches are made ahead, at most; at least 1. Memory is taken for so many, and for those that you hold. More threads than that have
    /// nothing to do.
    pub fn prefetch(mut self, batches: u32) -> LoaderOptions {
        self.prefetch = batches.max(1);
        self
    }

    /// How many threads fill batches. With 0, [`next`](Iterator::next) fills them itself, when they are asked for.
    pub fn threads(mut self, threads: u32) -> LoaderOptions {
        self.threads = threads;
        self
    }

    /// Whether and when bytes are verified.
    pub fn verification(mut self, verification: Verification) -> LoaderOptions {
        self.verification = verification;
        self
    }

    /// What becomes of a batch that has damaged rows.
    pub fn on_damage(mut self, on_damage: OnDamage) -> LoaderOptions {
        self.on_damage = on_damage;
        self
    }

    /// What the system's page cache should make of the files.
    pub fn page_cache(mut self, page_cache: PageCache) -> LoaderOptions {
        self.page_cache = page_cache;
        self
    }

    /// Whether batches are copied even if they could be used where they lie.
    ///
    /// On the host, rows of one mapped file (or one in memory) that follow each other, neither converted nor joined and without labels, are lent:
    /// verified, and not copied. Copies are for those who want to change them, or to be done with the file early. Off by default.
    pub fn copied(mut self, copied: bool) -> LoaderOptions {
        self.copied = copied;
        self
    }
}
