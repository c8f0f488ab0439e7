//! [`Versions`]: which versions of checkpoints a program takes, and the steps from older ones to its own.

mod content;
mod sharing;
mod steps;
mod upgrade;
mod version;

use std::fmt;
use std::path::Path;

pub use content::Content;
pub use steps::Steps;
pub use upgrade::{UpgradeError, UpgradeOptions, Upgraded};
pub(super) use version::in_words;
pub use version::{CHECKPOINT_VERSION, Version};

use crate::error::{Error, ErrorKind, Result};
use crate::lifecycle::error::{CheckpointError, CheckpointErrorKind};
use crate::lifecycle::label::Label;
use crate::lifecycle::validation::{Level, Validator};
use crate::open::OpenOptions;
use crate::read::Checkpoint;

type Run = Box<dyn Fn(&mut Content<'_>) -> Result<()> + Send + Sync>;

/// What a program knows of the versions of its checkpoints: the one that it writes, and the steps that lead to it.
///
/// - A checkpoint of a later major version is refused; a later minor one is taken as it is.
/// - An older one is brought to the program's version by the steps that were registered, in order, each once.
/// - Within a major version nothing need be done where there is no step; from one major version to the next there must be one. The way from 0.x
///   to 1.0 is there by itself, and changes nothing but the version.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("features.dolmen");
/// # let mut b = dolmen::Builder::new();
/// # b.tensor("data", &[1.0f32])?.metadata("version", "1.0");
/// # b.save(&path)?;
/// use dolmen::lifecycle::Versions;
///
/// let versions = Versions::new("virnucpro", "2.0")?
///     .step("1.0", "2.0", |content| content.rename("data", "embeddings"))?;
///
/// let loaded = versions.load(&path)?;
/// assert_eq!(loaded.version.to_string(), "1.0");
/// assert_eq!(loaded.checkpoint.tensor("embeddings")?.as_slice::<f32>()?, [1.0]);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct Versions {
    program: String,
    current: Version,
    /// Ascending, none overlapping another.
    steps: Vec<Step>,
    validator: Option<Validator>,
    skip: bool,
    on_demand: bool,
    open: OpenOptions,
}

struct Step {
    name: StepName,
    run: Run,
}

/// A step from one version to another, as in `1.0 to 2.0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StepName {
    /// The first version that it applies to.
    pub from: Version,
    /// The version that it leads to; it applies to those before it.
    pub to: Version,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

/// A checkpoint that was loaded.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The checkpoint, in the program's version as far as there were steps; in memory if one was applied.
    pub checkpoint: Checkpoint,
    /// The version that the file has.
    pub version: Version,
    /// The steps that were applied, in their order.
    pub steps: Vec<StepName>,
    /// What its user should know.
    pub warnings: Vec<Warning>,
}

/// What the user of a checkpoint that can be used should know. It reads as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// It says no version: it was saved before there were any.
    PreOptimization,
    /// It says that it was not finished.
    InProgress,
    /// What it says of its version was not believed, because validation is skipped: what would have been wrong.
    Unchecked(String),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::PreOptimization => {
                f.write_str("pre-optimization checkpoint without a version, taken as 0.x (the file is not modified)")
            }
            Warning::InProgress => f.write_str("checkpoint marked as in-progress (may be incomplete)"),
            Warning::Unchecked(what) => {
                write!(f, "loaded although its version is not right, because validation is skipped: {what}")
            }
        }
    }
}

/// A way through the steps.
pub(super) enum Leg<'v> {
    /// A step that was registered.
    Step(&'v StepName, &'v Run),
    /// Nothing but the version changes.
    Nothing(StepName),
}

impl Versions {
    /// A program by the name that people install it by, and the version that it writes.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the version is none, or 0.x.
    pub fn new(program: impl Into<String>, current: &str) -> Result<Versions> {
        let current: Version = current.parse()?;
        if current.is_unversioned() {
            return Err(Error::invalid(
                "a program cannot write version 0.x, which is that of checkpoints that say none",
            ));
        }
        Ok(Versions {
            program: program.into(),
            current,
            steps: Vec::new(),
            validator: Some(Validator::new()),
            skip: false,
            on_demand: false,
            open: OpenOptions::new(),
        })
    }

    /// Registers the step that brings every version from `from` on, and before `to`, to `to`. It need not set the version.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if a version is none; if `to` is not after `from`, or is after the program's own; or if another
    /// step applies to one of the versions already.
    pub fn step(
        mut self,
        from: &str,
        to: &str,
        run: impl Fn(&mut Content<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Versions> {
        let name = StepName { from: from.parse()?, to: to.parse()? };
        if name.to <= name.from {
            return Err(Error::invalid(format!("the step from {name} leads to no later version")));
        }
        if name.to > self.current {
            return Err(Error::invalid(format!(
                "the step from {name} leads beyond the program's version {}",
                self.current
            )));
        }
        if let Some(other) = self.steps.iter().find(|other| name.from < other.name.to && other.name.from < name.to) {
            let message = format!("the steps from {} and from {name} apply to the same versions", other.name);
            return Err(Error::invalid(message));
        }
        let at = self.steps.partition_point(|other| other.name.from < name.from);
        self.steps.insert(at, Step { name, run: Box::new(run) });
        Ok(self)
    }

    /// What a checkpoint must pass before its version is looked at; `Validator::new()` if nothing else is said. With `None` the version is still
    /// checked, and data as it is read.
    pub fn validator(mut self, validator: impl Into<Option<Validator>>) -> Versions {
        self.validator = validator.into();
        self
    }

    /// Whether to trust files unread: no validation, data is opened [on demand](Self::on_demand), and nothing is refused for the version that it
    /// says. What is older is still brought to the program's version if steps lead there.
    pub fn skip_checkpoint_validation(mut self, skip: bool) -> Versions {
        self.skip = skip;
        self
    }

    /// Whether what need not be changed is opened [on demand](Checkpoint::open_on_demand), rather than [read](Checkpoint::open).
    pub fn on_demand(mut self, on_demand: bool) -> Versions {
        self.on_demand = on_demand;
        self
    }

    /// How files are opened.
    pub fn open_options(mut self, options: OpenOptions) -> Versions {
        self.open = options;
        self
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The version that the program writes.
    pub fn current(&self) -> &Version {
        &self.current
    }

    /// Loads a checkpoint, in the program's version.
    ///
    /// One that needs no step is opened and stays as it is, whatever it says of its version. Of another one the result is made in memory; the
    /// file is left alone (see [`upgrade`](Self::upgrade)).
    ///
    /// **Cost**: that of validation; of opening; and where steps apply, of reading the data once more, into memory for a whole file.
    ///
    /// # Errors
    /// What validation finds; a version that is none, is of a later major version, or from which no step leads on: *incompatible*; a step that
    /// fails.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Loaded, CheckpointError> {
        let path = path.as_ref();
        if let (Some(validator), false) = (&self.validator, self.skip) {
            validator.validate(path)?;
        }
        let of_file = |e| CheckpointError::of(path, e);
        let checkpoint = self.open.open_on_demand(path).map_err(of_file)?;
        let label = Label::of(&checkpoint).map_err(of_file)?;
        let mut warnings = Vec::new();
        let (version, way) = match self.way_from(path, &label) {
            Ok(found) => found,
            Err(e) if self.skip => {
                warnings.push(Warning::Unchecked(e.message));
                (label.version().unwrap_or_else(|_| Version::unversioned()), Vec::new())
            }
            Err(e) => return Err(e),
        };
        if label.version.is_none() {
            warnings.push(Warning::PreOptimization);
        }
        if label.is_in_progress() {
            warnings.push(Warning::InProgress);
        }
        if way.iter().any(|leg| matches!(leg, Leg::Step(..))) {
            let mut content = Content::of(&checkpoint).map_err(of_file)?;
            let steps = self.walk(path, &way, &mut content, false)?;
            let made = content.builder().and_then(|builder| builder.to_checkpoint()).map_err(|e| unmade(path, e))?;
            return Ok(Loaded { checkpoint: made.at_path(path), version, steps, warnings });
        }
        let is_as_wanted = self.on_demand || self.skip;
        let checkpoint = if is_as_wanted { checkpoint } else { self.open.open(path).map_err(of_file)? };
        Ok(Loaded { checkpoint, version, steps: Vec::new(), warnings })
    }

    /// The version of a checkpoint that is open, if it is one that [`load`](Self::load) takes.
    ///
    /// # Errors
    /// That the version is none, is of a later major version, or no step leads on from it: *incompatible*.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<Version, CheckpointError> {
        let path = checkpoint.path().unwrap_or(Path::new(""));
        let label = Label::of(checkpoint).map_err(|e| CheckpointError::of(path, e))?;
        self.check_label(path, &label)
    }

    /// The version that a checkpoint says, if it is one that is taken.
    pub(super) fn check_label(&self, path: &Path, label: &Label) -> Result<Version, CheckpointError> {
        self.way_from(path, label).map(|(version, _)| version)
    }

    /// The version that a checkpoint says, and the way from there to the program's.
    pub(super) fn way_from(&self, path: &Path, label: &Label) -> Result<(Version, Vec<Leg<'_>>), CheckpointError> {
        let version = label.version().map_err(|e| incompatible(path, e.reason()))?;
        if version.major() > self.current.major() {
            let message = format!(
                "Checkpoint version {version} requires {} >= {}.0.0 (upgrade required)",
                self.program,
                version.major()
            );
            return Err(incompatible(path, message));
        }
        let way = self.way(&version).map_err(|gap| {
            let (program, current) = (&self.program, &self.current);
            let message = format!(
                "Checkpoint version {version} is too old for {program} {current}: no step leads from {} on to {}",
                gap.from, gap.to
            );
            incompatible(path, message)
        })?;
        Ok((version, way))
    }

    /// The way from a version to the program's, or the gap in it.
    fn way(&self, from: &Version) -> Result<Vec<Leg<'_>>, StepName> {
        let mut way = Vec::new();
        let mut at = from;
        for Step { name, run } in &self.steps {
            if name.to <= *at {
                continue;
            }
            if name.from > *at {
                way.push(Leg::Nothing(without_step(at, &name.from)?));
            }
            way.push(Leg::Step(name, run));
            at = &name.to;
        }
        if *at < self.current {
            way.push(Leg::Nothing(without_step(at, &self.current)?));
        }
        Ok(way)
    }

    /// Applies the steps of a way, and says the version where each leads.
    pub(super) fn walk(
        &self,
        path: &Path,
        way: &[Leg<'_>],
        content: &mut Content<'_>,
        in_document: bool,
    ) -> Result<Vec<StepName>, CheckpointError> {
        let mut steps = Vec::new();
        for leg in way {
            let (name, done) = match leg {
                Leg::Step(name, run) => (*name, run(content)),
                Leg::Nothing(name) => (name, Ok(())),
            };
            let done = done.and_then(|()| content.set_version(&name.to, in_document));
            done.map_err(|e| failed_step(path, name, e))?;
            steps.push(name.clone());
        }
        Ok(steps)
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(|step| step.name.to_string()).collect();
        f.debug_struct("Versions")
            .field("program", &self.program)
            .field("current", &self.current.as_str())
            .field("steps", &steps)
            .field("skip", &self.skip)
            .finish_non_exhaustive()
    }
}

/// From one version to another where nothing need be done, or the gap where something must.
fn without_step(from: &Version, to: &Version) -> Result<StepName, StepName> {
    let step = |from: Version| StepName { from, to: to.clone() };
    match (from.major(), to.major()) {
        (from_major, to_major) if from_major == to_major => Ok(step(from.clone())),
        (0, 1) => Ok(step(from.clone())),
        (0, _) => Err(step(Version::first())),
        _ => Err(step(from.clone())),
    }
}

pub(super) fn incompatible(path: &Path, message: String) -> CheckpointError {
    CheckpointError::new(path, CheckpointErrorKind::Incompatible, message).at_level(Level::Version)
}

/// What a step says about a checkpoint by failing: unless its data is damaged or cannot be read, that it is not what was expected.
fn failed_step(path: &Path, name: &StepName, e: Error) -> CheckpointError {
    let mut error = unmade(path, e);
    error.message = format!("the step from {name} failed: {}", error.message);
    error
}

/// What it says about a checkpoint that its content could not be changed.
pub(super) fn unmade(path: &Path, e: Error) -> CheckpointError {
    let of_machine = e.kind() == ErrorKind::Io;
    let mut error = CheckpointError::of(path, e);
    if error.kind == CheckpointErrorKind::Unreadable && !of_machine {
        error.kind = CheckpointErrorKind::Incompatible;
    }
    error
}
