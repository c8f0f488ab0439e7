//! [`Validator`]: what is asked of a checkpoint before it is trusted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::level::Level;
use super::root::{Root, listed, shown};
use super::schema::{Misfit, Schema};
use super::search::{Candidate, Candidates, Claim, spread};
use crate::commit::file_system::uninterrupted;
use crate::error::{Error, ErrorKind, Result};
use crate::format::len_u64;
use crate::lifecycle::error::{CheckpointError, CheckpointErrorKind};
use crate::lifecycle::versions::Versions;
use crate::open::OpenOptions;
use crate::read::{Checkpoint, Report, VerifyOptions};
use crate::source::ReadAt;

/// What is asked of a checkpoint: the [levels](Level), in their order, of files of every format that is read.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("features.dolmen");
/// use dolmen::lifecycle::{CheckpointErrorKind, Level, Validator};
///
/// let mut b = dolmen::Builder::new();
/// b.tensor("data", (&[0.5f32; 6], [2, 3]))?;
/// b.save(&path)?;
///
/// let validator = Validator::new().required_keys(["data", "ids"]);
/// let e = validator.validate(&path).unwrap_err();
/// assert_eq!((e.kind, e.level), (CheckpointErrorKind::Incompatible, Some(Level::RequiredKeys)));
/// assert_eq!(e.message, "missing required keys {'ids'} (keys found: 'data')");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Validator {
    quick: bool,
    any_root: bool,
    any_status: bool,
    required_keys: Vec<String>,
    schema: Option<Arc<Schema>>,
    /// Keys whose lengths must agree.
    rows: Vec<(String, String)>,
    versions: Option<Arc<Versions>>,
    threads: usize,
}

/// A checkpoint that passed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Validated {
    /// Where it is.
    pub path: PathBuf,
    /// Its format, as [`Checkpoint::format`] says it.
    pub format: String,
    /// Its length in bytes.
    pub byte_len: u64,
    /// How many tensors it has.
    pub tensor_count: u64,
    /// How many parts of it have no checksum: of their bytes nothing can be said. 0 if no data was read.
    pub unchecked: u64,
}

/// What became of many checkpoints.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Batch {
    /// Those that passed, in the order in which they were given.
    pub valid: Vec<Validated>,
    /// Those that did not, in the order in which they were given.
    pub failed: Vec<CheckpointError>,
    /// How many files were found that are no checkpoints, and are not meant to be.
    pub passed_over: u64,
}

impl Default for Validator {
    fn default() -> Validator {
        Validator::new()
    }
}

impl Validator {
    /// Everything but keys, shapes and lengths, which it cannot know; on as many threads as the machine has.
    pub fn new() -> Validator {
        Validator {
            quick: false,
            any_root: false,
            any_status: false,
            required_keys: Vec::new(),
            schema: None,
            rows: Vec::new(),
            versions: None,
            threads: VerifyOptions::default().threads,
        }
    }

    /// Whether to read no data: all levels but [`Level::Checksums`].
    pub fn quick(mut self, quick: bool) -> Validator {
        self.quick = quick;
        self
    }

    /// Whether to accept what holds no dictionary: a module that was pickled whole, a list, an array.
    pub fn any_root(mut self, any_root: bool) -> Validator {
        self.any_root = any_root;
        self
    }

    /// Whether to accept what says of itself that it is not finished.
    pub fn any_status(mut self, any_status: bool) -> Validator {
        self.any_status = any_status;
        self
    }

    /// Keys that must be there: of the outermost dictionary, or of those within it with dots between; or names of tensors.
    pub fn required_keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Validator {
        self.required_keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// What tensors should look like.
    pub fn schema(mut self, schema: Schema) -> Validator {
        self.schema = Some(Arc::new(schema));
        self
    }

    /// Asks for as many elements under one key (ids, say) as under another (rows): elements of a list, or rows of a tensor.
    pub fn rows(mut self, ids: impl Into<String>, rows: impl Into<String>) -> Validator {
        self.rows.push((ids.into(), rows.into()));
        self
    }

    /// Asks for a version of the content that a program takes: none of a later major version, and none from which no step leads on.
    pub fn versions(mut self, versions: Arc<Versions>) -> Validator {
        self.versions = Some(versions);
        self
    }

    /// How many threads to use.
    pub fn threads(mut self, threads: usize) -> Validator {
        self.threads = threads.max(1);
        self
    }

    /// Whether no data is read.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Validates the checkpoint at a path.
    ///
    /// **Cost**: quick, reads header and index, or what other formats have for them (of a `.pt` file, its pickle); in full, every byte
    /// once.
    ///
    /// # Errors
    /// The first level that it does not pass.
    pub fn validate(&self, path: impl AsRef<Path>) -> Result<Validated, CheckpointError> {
        self.validate_with(path.as_ref(), self.threads, &|_| {})
    }

    /// Validates a checkpoint that is open: the levels from [`Level::StructurallyValid`] on.
    ///
    /// # Errors
    /// The first level that it does not pass.
    pub fn validate_open(&self, checkpoint: &Checkpoint) -> Result<Validated, CheckpointError> {
        let path = checkpoint.path().unwrap_or(Path::new(""));
        self.validate_opened(path, checkpoint, self.threads, &|_| {}, |options| checkpoint.verify_with(options))
    }

    /// Validates a file that is lent for a moment, such as one that a save has finished and not yet put in place: for
    /// [`SaveOptions::validator`](crate::SaveOptions::validator).
    ///
    /// # Errors
    /// The first level that it does not pass; its path is that of nothing.
    pub fn validate_source(&self, file: &dyn ReadAt) -> Result<Validated, CheckpointError> {
        let path = Path::new("");
        let byte_len = file.byte_len().map_err(|e| failed_at(path, Error::io("cannot get the length", e)))?;
        if byte_len == 0 {
            return Err(empty(path));
        }
        let options = OpenOptions::new().threads(self.threads);
        let checkpoint = options.open_structure(file).map_err(|e| failed_at(path, e))?;
        self.validate_opened(path, &checkpoint, self.threads, &|_| {}, |options| checkpoint.verify_in(file, options))
    }

    /// Validates many checkpoints, side by side.
    pub fn validate_all<P: AsRef<Path>>(&self, paths: &[P]) -> Batch {
        // A file that cannot be looked at counts as small; validation says what is wrong with it.
        let candidate = |path: &P| Candidate {
            path: path.as_ref().to_path_buf(),
            byte_len: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
            claim: Claim::Given,
        };
        let candidates = Candidates { files: paths.iter().map(candidate).collect(), failed: Vec::new() };
        self.validate_candidates(candidates, &|_| {})
    }

    /// Validates all checkpoints in a directory and in those within it.
    ///
    /// # Errors
    /// [`Io`](ErrorKind::Io) if the directory cannot be read. What cannot be read within it is in [`Batch::failed`].
    pub fn validate_directory(&self, directory: impl AsRef<Path>) -> Result<Batch> {
        let directory = directory.as_ref();
        std::fs::read_dir(directory).map_err(|e| Error::io("cannot read the directory", e).with_path(directory))?;
        Ok(self.validate_candidates(Candidates::search(&[directory]), &|_| {}))
    }

    /// Validates what a search found. `progress` is called with a number of bytes, from any thread, when so many more are done with,
    /// whether they had to be read or not.
    pub fn validate_candidates(&self, candidates: Candidates, progress: &(dyn Fn(u64) + Sync)) -> Batch {
        let Candidates { files, failed } = candidates;
        let byte_lens: Vec<u64> = files.iter().map(|file| file.byte_len).collect();
        let results: Vec<Mutex<Option<Result<Validated, CheckpointError>>>> =
            files.iter().map(|_| Mutex::default()).collect();
        spread(&byte_lens, self.threads, |i, threads| {
            let (Some(file), Some(result)) = (files.get(i), results.get(i)) else { return };
            let done = std::sync::atomic::AtomicU64::new(0);
            let more = |bytes: u64| {
                done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                progress(bytes);
            };
            let validated = self.validate_with(&file.path, threads, &more);
            progress(file.byte_len.saturating_sub(done.into_inner()));
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(validated);
        });
        let mut batch = Batch::default();
        for (file, result) in files.iter().zip(results) {
            match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(Ok(validated)) => batch.valid.push(validated),
                Some(Err(e)) if file.is_unmeant(&e) => {
                    batch.passed_over = batch.passed_over.saturating_add(1);
                }
                Some(Err(e)) => batch.failed.push(e),
                None => {}
            }
        }
        batch.failed.extend(failed.into_iter().map(|e| {
            let path = e.path().unwrap_or(Path::new("")).to_path_buf();
            match e.io_error().map(std::io::Error::kind) {
                Some(std::io::ErrorKind::NotFound) => missing(&path),
                _ => failed_at(&path, e),
            }
        }));
        batch
    }

    fn validate_with(
        &self,
        path: &Path,
        threads: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Validated, CheckpointError> {
        let cannot = |e| failed_at(path, Error::io("cannot access file", e));
        let metadata = uninterrupted(|| std::fs::metadata(path)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => missing(path),
            _ => cannot(e),
        })?;
        if metadata.is_file() && metadata.len() == 0 {
            std::fs::File::open(path).map_err(cannot)?;
            return Err(empty(path));
        }
        let checkpoint = OpenOptions::new().threads(threads).open_on_demand(path).map_err(|e| failed_at(path, e))?;
        self.validate_opened(path, &checkpoint, threads, progress, |options| checkpoint.verify_with(options))
    }

    /// The levels of a checkpoint whose structure is open, and which `verify` verifies.
    fn validate_opened(
        &self,
        path: &Path,
        checkpoint: &Checkpoint,
        threads: usize,
        progress: &(dyn Fn(u64) + Sync),
        verify: impl FnOnce(&VerifyOptions<'_>) -> Result<Report>,
    ) -> Result<Validated, CheckpointError> {
        let malformed = |e: Error| failed_at(path, e).at_level(Level::StructurallyValid);
        checkpoint.check_records().map_err(malformed)?;
        // Which checks metadata and document.
        let root = Root::of(checkpoint).map_err(malformed)?;
        // The original's saves begin with this, and say `complete` when they are done.
        if root.label().is_in_progress() && !self.any_status {
            let message = "status is in_progress: the program that saved it did not finish";
            return Err(CheckpointError::new(path, CheckpointErrorKind::Corrupted, message).at_level(Level::Complete));
        }
        let mut unchecked = 0;
        if !self.quick {
            let options = VerifyOptions { threads, progress: Some(progress), ..VerifyOptions::default() };
            let report = verify(&options).map_err(|e| failed_at(path, e))?;
            unchecked = report.unchecked_storages.max(report.unchecked_parts);
            check_report(path, report)?;
        }
        self.check_content(path, checkpoint, &root)?;
        Ok(Validated {
            path: path.to_path_buf(),
            format: checkpoint.format().to_owned(),
            byte_len: checkpoint.header().file_len(),
            tensor_count: len_u64(checkpoint.len()),
            unchecked,
        })
    }

    /// The levels that are about what it holds.
    fn check_content(&self, path: &Path, checkpoint: &Checkpoint, root: &Root) -> Result<(), CheckpointError> {
        let malformed = |e: Error| failed_at(path, e).at_level(Level::StructurallyValid);
        let incompatible = |level: Level, message: String| {
            Err(CheckpointError::new(path, CheckpointErrorKind::Incompatible, message).at_level(level))
        };
        if let Some(found) = root.type_if_no_dict()
            && !self.any_root
        {
            return incompatible(Level::IsDict, format!("checkpoint is not a dict (got {found})"));
        }
        let schema = self.schema.as_deref();
        let mut missing: Vec<String> = Vec::new();
        for key in self.required_keys.iter().chain(schema.into_iter().flat_map(Schema::required_keys)) {
            let key_shown = shown(key);
            if !root.has(key, checkpoint).map_err(malformed)? && !missing.contains(&key_shown) {
                missing.push(key_shown);
            }
        }
        if !missing.is_empty() {
            let message = format!("missing required keys {{{}}} ({})", missing.join(", "), root.keys(checkpoint));
            return incompatible(Level::RequiredKeys, message);
        }
        if let Some(schema) = schema {
            match schema.check(checkpoint, root).map_err(malformed)? {
                Some(Misfit::Tensor(message)) => return incompatible(Level::Schema, message),
                Some(Misfit::Length(message)) => return incompatible(Level::IdsMatchRows, message),
                None => {}
            }
        }
        for (ids, rows) in &self.rows {
            let length = |key: &str| root.length(key, checkpoint).map_err(malformed);
            let message = match (length(ids)?, length(rows)?) {
                (Some(a), Some(b)) if a == b => continue,
                (Some(a), Some(b)) => format!("{} has {a} elements, and {} has {b} rows", shown(ids), shown(rows)),
                (a, _) => {
                    let key = if a.is_none() { ids } else { rows };
                    let what =
                        if root.has(key, checkpoint).map_err(malformed)? { "has no length" } else { "is missing" };
                    format!("{} {what}", shown(key))
                }
            };
            return incompatible(Level::IdsMatchRows, message);
        }
        match &self.versions {
            Some(versions) => versions.check_label(path, &root.label()).map(drop),
            None => Ok(()),
        }
    }
}

impl Candidate {
    /// Whether nobody says that a file which did not pass is a checkpoint.
    fn is_unmeant(&self, e: &CheckpointError) -> bool {
        if e.error().is_some_and(|e| self.is_passed_over(e)) {
            return true;
        }
        // An empty file is told before it is opened; a lone array can be anything; and an upgrade keeps originals as `.bak`.
        let is_backup = self.path.extension().is_some_and(|extension| extension == "bak");
        let is_array = self.path.extension().is_some_and(|extension| extension == "npy");
        self.claim == Claim::Found && (e.level == Some(Level::NotEmpty) || is_array || is_backup)
    }
}

fn missing(path: &Path) -> CheckpointError {
    CheckpointError::new(path, CheckpointErrorKind::Corrupted, "file does not exist").at_level(Level::Exists)
}

fn empty(path: &Path) -> CheckpointError {
    CheckpointError::new(path, CheckpointErrorKind::Corrupted, "file is 0 bytes")
        .at_level(Level::NotEmpty)
        .with_advice("the program that wrote it stopped too early, or the disk was full; save it again")
}

/// What an error of opening or reading says, and at which level.
fn failed_at(path: &Path, e: Error) -> CheckpointError {
    let level = match e.kind() {
        ErrorKind::Io | ErrorKind::InvalidInput => Level::Readable,
        ErrorKind::NotThisFormat | ErrorKind::UnsupportedVersion => Level::Recognised,
        _ if e.is_incomplete() => Level::Complete,
        ErrorKind::Corrupt if e.rule() == Some("BLK-1") => Level::Checksums,
        _ => Level::StructurallyValid,
    };
    CheckpointError::of(path, e).at_level(level)
}

/// The first thing that strict verification found, which tensors are damaged, and how many more problems there are.
fn check_report(path: &Path, report: Report) -> Result<(), CheckpointError> {
    let more = report.problem_count.saturating_sub(1);
    let damaged: Vec<&str> = report.damaged.iter().map(|tensor| tensor.name.as_str()).collect();
    let damaged = match damaged.len() {
        0 => String::new(),
        1 => format!("tensor {} is damaged: ", listed(&damaged)),
        _ => format!("tensors {} are damaged: ", listed(&damaged)),
    };
    let Err(e) = report.into_result() else { return Ok(()) };
    let level = if e.kind() == ErrorKind::Corrupt { Level::Checksums } else { Level::StructurallyValid };
    let mut e = CheckpointError::of(path, e).at_level(level);
    let more = match more {
        0 => String::new(),
        1 => "; and 1 more problem".to_owned(),
        more => format!("; and {more} more problems"),
    };
    e.message = format!("{damaged}{}{more}", e.message);
    Err(e)
}
