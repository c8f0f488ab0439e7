//! [`ShardedBatches`]: features that several workers write batch by batch, each batch durable, each worker in a directory of its own.
//!
//! # The directory
//! `ROOT/shard_R/batch_NNNNN.dolmen`: R is the worker's number, N the batch's, with five digits or as many more as it needs. The `.pt`
//! batches of the original are taken too, if their `.done` marker stands beside them: without one they were not finished.
//!
//! # Resuming
//! Every batch stands for itself. One that is bad or missing is done again, and nothing that comes after it: what was paid for is kept.

mod name;
mod state;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{CheckpointError, CheckpointErrorKind};
use super::label::done_marker;

use super::lock::Lock;
use super::validation::{Level, Validator};
use crate::commit::file_system::FileSystem;
use crate::commit::{RealFileSystem, SaveOptions, create_directories, sweep};
use crate::error::{Error, Result};
use crate::write::{Builder, FileOptions, Writer};
use name::Name;
pub use state::{BadBatch, ShardBatch, ShardState};

/// The name of a shard's lock file.
const LOCK_FILE: &str = "shard.lock";

/// A directory of shards.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let root = dir.path().join("features");
/// use dolmen::Builder;
/// use dolmen::lifecycle::{ShardedBatches, Validator};
///
/// let batches = ShardedBatches::new(&root);
/// let shard = batches.shard(0)?;
/// let state = shard.resume(&Validator::new().required_keys(["embeddings"]))?;
/// for number in state.to_do(3) {
///     let embeddings = [number as f32; 6];
///     let mut b = Builder::new();
///     b.tensor("embeddings", (&embeddings, [2, 3]))?;
///     shard.save(number, &b)?;
/// }
/// assert_eq!(shard.resume(&Validator::new())?.complete.len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ShardedBatches {
    root: PathBuf,
    save: SaveOptions,
}

impl ShardedBatches {
    /// The shards in a directory, which need not exist yet.
    pub fn new(root: impl AsRef<Path>) -> ShardedBatches {
        ShardedBatches { root: root.as_ref().to_path_buf(), save: SaveOptions::new() }
    }

    /// How batches are saved.
    pub fn save_options(mut self, save: SaveOptions) -> ShardedBatches {
        self.save = save;
        self
    }

    /// The directory of a shard.
    pub fn directory(&self, rank: u32) -> PathBuf {
        self.root.join(format!("shard_{rank}"))
    }

    /// The shards that there are, ascending.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the directory is there and cannot be read.
    pub fn ranks(&self) -> Result<Vec<u32>> {
        let mut ranks: Vec<u32> = names_in(&self.root)?.iter().filter_map(|name| name::rank(name)).collect();
        ranks.sort_unstable();
        Ok(ranks)
    }

    /// Begins to work on a shard: creates its directory, takes its lock, and removes the unfinished saves of dead workers.
    ///
    /// The lock is held until the shard is dropped, or its process ends, however it ends. Where the file system has no locks it is up to
    /// the caller that nobody else works there.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if another worker has the shard; [`Io`](crate::ErrorKind::Io) if the directory
    /// cannot be made or used.
    pub fn shard(&self, rank: u32) -> Result<Shard> {
        let directory = self.directory(rank);
        create_directories(&RealFileSystem, &self.root)?;
        create_directories(&RealFileSystem, &directory)?;
        let lock = lock(&directory)?;
        sweep(&directory)?;
        Ok(Shard { rank, directory, save: self.save.clone(), _lock: lock })
    }

    /// What is there of a shard, whoever works on it: for those who read. Nothing is locked, created or removed.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if its directory is there and cannot be read.
    pub fn look(&self, rank: u32, validator: &Validator) -> Result<ShardState> {
        survey(&self.directory(rank), rank, validator)
    }
}

/// A shard that one worker has to itself.
///
/// Several threads of it may save batches at once.
#[derive(Debug)]
#[must_use]
pub struct Shard {
    rank: u32,
    directory: PathBuf,
    save: SaveOptions,
    _lock: Lock,
}

impl Shard {
    /// Which shard it is.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a batch is saved.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the number has more than nine digits.
    pub fn path(&self, number: u64) -> Result<PathBuf> {
        name::batch(number).map(|name| self.directory.join(name)).ok_or_else(|| {
            Error::invalid(format!("batches are numbered up to {}, and this is {number}", name::NUMBER_MAX))
                .with_path(&self.directory)
        })
    }

    /// Saves a batch, and gives its path. When this returns the batch is durable.
    ///
    /// # Errors
    /// Those of [`path`](Shard::path) and of [`Builder::save_with`].
    pub fn save(&self, number: u64, batch: &Builder<'_>) -> Result<PathBuf> {
        let path = self.path(number)?;
        batch.save_with(&path, &self.save)?;
        Ok(path)
    }

    /// Begins a batch that is written as it is produced. When its [`commit`](Writer::commit) returns the batch is durable; before, it is
    /// missing.
    ///
    /// # Errors
    /// Those of [`path`](Shard::path) and of [`Writer::create_with`].
    pub fn writer(&self, number: u64) -> Result<Writer> {
        Writer::create_with(self.path(number)?, FileOptions::new(), &self.save)
    }

    /// Which batches are there and pass, which are bad and which are missing.
    ///
    /// **Cost**: that of validating every batch, side by side.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if the directory cannot be read. Bad batches are no error.
    pub fn resume(&self, validator: &Validator) -> Result<ShardState> {
        survey(&self.directory, self.rank, validator)
    }
}

fn lock(directory: &Path) -> Result<Lock> {
    let path = directory.join(LOCK_FILE);
    let now = format!("{:.6}", jiff::Timestamp::now());
    RealFileSystem
        .open_directory(directory)
        .and_then(|open| Lock::take(&*open, LOCK_FILE.as_ref(), &now))
        .map_err(|e| Error::io("cannot lock the shard", e).with_path(&path))?
        .map_err(|holder| {
            let holder = holder.map(|holder| format!(": {holder}")).unwrap_or_default();
            Error::invalid(format!("another worker has this shard{holder}"))
                .with_path(&path)
                .with_advice("let it finish or end it; the lock ends with it")
        })
}

/// The names in a directory; none if there is no such directory.
fn names_in(directory: &Path) -> Result<Vec<OsString>> {
    let read = || -> io::Result<_> { fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect() };
    match read() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result.map_err(|e| Error::io("cannot read the directory", e).with_path(directory)),
    }
}

/// Looks at everything in a shard's directory.
fn survey(directory: &Path, rank: u32, validator: &Validator) -> Result<ShardState> {
    let mut names = names_in(directory)?;
    names.sort();
    let (mut files, mut strange) = (Vec::new(), Vec::new());
    for name in &names {
        match Name::of(name) {
            Name::Batch { number, is_ours } => files.push((number, !is_ours, directory.join(name))),
            Name::MarkerOf(file) if names.binary_search(&file).is_ok() => {}
            Name::Working => {}
            Name::MarkerOf(_) | Name::Strange => strange.push(directory.join(name)),
        }
    }
    files.sort();

    let is_finished = |path: &Path, is_theirs: bool| !is_theirs || done_marker(path).exists();
    let (finished, unfinished): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, is_theirs, path)| is_finished(path, *is_theirs));
    let batch = validator.validate_all(&finished.iter().map(|(_, _, path)| path).collect::<Vec<_>>());
    let without_marker = unfinished.into_iter().map(|(_, _, path)| not_finished(path));
    let failed = batch.failed.into_iter().chain(without_marker);
    let number_of = |path: &Path| name::number(path.file_name()?);
    Ok(ShardState::new(
        rank,
        batch.valid.into_iter().filter_map(|valid| Some((number_of(&valid.path)?, valid.path))),
        failed.filter_map(|error| Some(BadBatch { number: number_of(&error.path)?, error })),
        strange,
    ))
}

fn not_finished(path: &Path) -> CheckpointError {
    CheckpointError::new(path, CheckpointErrorKind::Corrupted, "no .done marker beside it, so it was not finished")
        .at_level(Level::Complete)
        .with_advice("let it be made again")
}
