//! Upgrading: a file rewritten in the program's version, in its place and in its format.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::content::Content;
use super::version::Version;
use super::{StepName, Versions, incompatible, unmade};
use crate::commit::file_system::{Directory, Status, uninterrupted};
use crate::commit::{Durability, SaveOptions, Validator as CommitValidator, split};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::value::Value;
use crate::lifecycle::error::CheckpointError;
use crate::lifecycle::label::{Label, VERSION_KEY};
use crate::open::OpenOptions;
use crate::read::{Checkpoint, VerifyOptions};
use crate::source::ReadAt;

/// How to upgrade: in place, durably, and keeping no copy unless told otherwise.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct UpgradeOptions {
    output: Option<PathBuf>,
    backup: bool,
    dry_run: bool,
    save: SaveOptions,
}

impl UpgradeOptions {
    /// The defaults.
    pub fn new() -> UpgradeOptions {
        UpgradeOptions::default()
    }

    /// Another path to write to; the file itself is left alone then.
    pub fn output(mut self, output: impl Into<PathBuf>) -> UpgradeOptions {
        self.output = Some(output.into());
        self
    }

    /// Whether to keep the original beside the new file, as `NAME.vVERSION.bak`.
    ///
    /// **Cost**: none; it is the same file under another name, which a file system must have hard links for.
    pub fn backup(mut self, backup: bool) -> UpgradeOptions {
        self.backup = backup;
        self
    }

    /// Whether to do everything but write.
    pub fn dry_run(mut self, dry_run: bool) -> UpgradeOptions {
        self.dry_run = dry_run;
        self
    }

    /// How to save. A validator in it is not used: the new file is verified at any rate.
    pub fn save(mut self, save: SaveOptions) -> UpgradeOptions {
        self.save = save;
        self
    }
}

/// What became of a file that was to be upgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgraded {
    /// The version that it had.
    pub from: Version,
    /// The version that it has now, or would have.
    pub to: Version,
    /// The steps that were applied; those that change nothing but the version are among them. None, if it was in the program's version, or in a later
    /// one that the program takes: then nothing was written at all.
    pub steps: Vec<StepName>,
    /// Where the new file is, if one was written.
    pub written: Option<PathBuf>,
    /// Where the original is kept, if it was asked for.
    pub backup: Option<PathBuf>,
    /// What the new file could not hold exactly, or its readers should know.
    pub notes: Vec<String>,
}

/// Why a file could not be upgraded. It is as it was, unless the error is [`NotDurable`](crate::ErrorKind::NotDurable).
#[derive(Debug)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The checkpoint is to blame.
    Checkpoint(CheckpointError),
    /// The new file could not be saved.
    Save(Error),
}

impl UpgradeError {
    /// The code a program exits with because of it.
    pub fn exit_code(&self) -> u8 {
        match self {
            UpgradeError::Checkpoint(e) => e.exit_code(),
            UpgradeError::Save(_) => 1,
        }
    }
}

impl From<CheckpointError> for UpgradeError {
    fn from(e: CheckpointError) -> UpgradeError {
        UpgradeError::Checkpoint(e)
    }
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpgradeError::Checkpoint(e) => e.fmt(f),
            UpgradeError::Save(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for UpgradeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            UpgradeError::Checkpoint(e) => Some(e),
            UpgradeError::Save(e) => Some(e),
        }
    }
}

/// The formats that are written as they were read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Dolmen,
    #[cfg(feature = "torch")]
    Torch,
}

impl Format {
    fn of(checkpoint: &Checkpoint) -> Option<Format> {
        match checkpoint.format() {
            "dolmen" => Some(Format::Dolmen),
            #[cfg(feature = "torch")]
            "torch" if !checkpoint.format_version().contains("torchscript") => Some(Format::Torch),
            _ => None,
        }
    }

    /// Whether there is nothing but a document that could say the version.
    fn has_document_alone(self) -> bool {
        self != Format::Dolmen
    }
}

impl Versions {
    /// Upgrades a file in its place: rewrites it, in the format that it has, in the program's version.
    ///
    /// The new file appears whole, after it was verified strictly and was found to be of the version that it should be; until then the original
    /// stays. A file in the program's version, or a later one that it takes, is left untouched.
    ///
    /// # Errors
    /// As [`load`](Self::load), and that its format cannot be written: [`Checkpoint`](UpgradeError::Checkpoint). That the new file could
    /// not be saved: [`Save`](UpgradeError::Save). Nothing is lost by either.
    pub fn upgrade(&self, path: impl AsRef<Path>) -> Result<Upgraded, UpgradeError> {
        self.upgrade_with(path, &UpgradeOptions::new())
    }

    /// As [`upgrade`](Self::upgrade), with options.
    ///
    /// **Cost**: reads the data once, verified, and writes it; then reads the new file. A PyTorch checkpoint is in memory whole meanwhile.
    ///
    /// # Errors
    /// As [`upgrade`](Self::upgrade).
    pub fn upgrade_with(&self, path: impl AsRef<Path>, options: &UpgradeOptions) -> Result<Upgraded, UpgradeError> {
        let path = path.as_ref();
        let of_file = |e| CheckpointError::of(path, e);
        let checkpoint = OpenOptions::new().open_on_demand(path).map_err(of_file)?;
        let label = Label::of(&checkpoint).map_err(of_file)?;
        let (from, way) = self.way_from(path, &label)?;
        let nothing =
            |to| Upgraded { from: from.clone(), to, steps: Vec::new(), written: None, backup: None, notes: Vec::new() };
        if way.is_empty() {
            return Ok(nothing(from.clone()));
        }
        let format = Format::of(&checkpoint).ok_or_else(|| unwritable(path, &checkpoint))?;
        if let Some(output) = &options.output {
            check_output(path, output, format).map_err(UpgradeError::Save)?;
        }
        check_records(path, format)?;
        // The index may be right and yet break rules that copying it would carry along.
        checkpoint.check_index().map_err(of_file)?;
        let mut content = Content::of(&checkpoint).map_err(of_file)?;
        let unmentioned: Vec<String> = content.unmentioned().into_iter().map(str::to_owned).collect();
        let steps = self.walk(path, &way, &mut content, format.has_document_alone())?;
        if format.has_document_alone() {
            check_is_in_document(path, &content, &unmentioned)?;
        }
        let mut upgraded = Upgraded { steps, ..nothing(self.current().clone()) };
        let said_before = label.version.is_some();
        let output = options.output.as_deref().unwrap_or(path);
        let backup =
            options.backup.then(|| Backup::of(path, &from, &options.save)).transpose().map_err(UpgradeError::Save)?;
        if options.dry_run {
            upgraded.notes = write_nowhere(path, format, &content)?;
            upgraded.notes.extend(note_on_state_dict(format, &content, said_before));
            return Ok(upgraded);
        }
        let save = options.save.clone().validator(Some(self.validator_of(backup.clone())));
        upgraded.notes = write(path, output, format, &content, &save).inspect_err(|e| {
            let is_in_place = matches!(e, UpgradeError::Save(e) if e.kind() == ErrorKind::NotDurable);
            backup.iter().filter(|_| !is_in_place).for_each(Backup::undo);
        })?;
        upgraded.notes.extend(note_on_state_dict(format, &content, said_before));
        upgraded.written = Some(output.to_path_buf());
        upgraded.backup = backup.map(|backup| backup.path);
        Ok(upgraded)
    }

    /// What a new file must pass before it gets its name; the original is kept just before that, if it is to be.
    fn validator_of(&self, backup: Option<Backup>) -> CommitValidator {
        let current = self.current().clone();
        Arc::new(move |file: &dyn ReadAt| {
            let found = verified_version(file).map_err(|e| {
                // It is not the original that is damaged.
                Error::new(ErrorKind::Io, format!("the new file is not what was written: {}", e.reason()))
            })?;
            if found != current {
                let message = format!("the new file says version {found}, and should say {current}");
                return Err(Error::invalid(message));
            }
            backup.as_ref().map_or(Ok(()), Backup::keep)
        })
    }
}

/// The version of a file of which every byte was verified.
fn verified_version(file: &dyn ReadAt) -> Result<Version> {
    let written = OpenOptions::new().open_structure(file)?;
    written.verify_in(file, &VerifyOptions::default())?.into_result()?;
    Label::of(&written)?.version()
}

/// Writes the new file; gives what there is to note about it.
fn write(
    path: &Path,
    output: &Path,
    format: Format,
    content: &Content<'_>,
    save: &SaveOptions,
) -> Result<Vec<String>, UpgradeError> {
    // Damage in the original is found when its data is copied.
    let failed = |e: Error| if e.is_corruption() { CheckpointError::of(path, e).into() } else { UpgradeError::Save(e) };
    let builder = content.builder().map_err(|e| unmade(path, e))?;
    match format {
        Format::Dolmen => {
            builder.plan().map_err(|e| unmade(path, e))?;
            builder.save_with(output, save).map_err(failed)?;
            Ok(Vec::new())
        }
        #[cfg(feature = "torch")]
        Format::Torch => {
            let made = builder.to_checkpoint().map_err(|e| unmade(path, e))?;
            let options = crate::foreign::torch::ExportOptions::new();
            let notes = crate::foreign::torch::save(&made, output, options, save).map_err(failed)?;
            Ok(notes.iter().map(str::to_owned).collect())
        }
    }
}

/// Does all that writing the new file does, but for keeping what is written.
fn write_nowhere(path: &Path, format: Format, content: &Content<'_>) -> Result<Vec<String>, UpgradeError> {
    let builder = content.builder().map_err(|e| unmade(path, e))?;
    match format {
        Format::Dolmen => {
            builder.plan().map_err(|e| unmade(path, e))?;
            Ok(Vec::new())
        }
        #[cfg(feature = "torch")]
        Format::Torch => {
            let made = builder.to_checkpoint().map_err(|e| unmade(path, e))?;
            let options = crate::foreign::torch::ExportOptions::new();
            let notes = crate::foreign::torch::write(&made, std::io::sink(), options).map_err(|e| unmade(path, e))?;
            Ok(notes.iter().map(str::to_owned).collect())
        }
    }
}

/// Refuses a file that has more in it than a checkpoint holds: that would be lost.
fn check_records(path: &Path, format: Format) -> Result<(), UpgradeError> {
    match format {
        Format::Dolmen => {
            let _ = path;
            Ok(())
        }
        #[cfg(feature = "torch")]
        Format::Torch => {
            let of_file = |e| CheckpointError::of(path, e);
            let file = std::fs::File::open(path).map_err(|e| of_file(Error::io("cannot open", e)))?;
            let further =
                crate::foreign::torch::further_records(&file, &crate::format::limits::Limits::NONE).map_err(of_file)?;
            let Some(first) = further.first() else { return Ok(()) };
            let message = match further.len().saturating_sub(1) {
                0 => format!("the archive's record {} would be lost", quoted(first)),
                more => format!("the archive's record {} and {more} more would be lost", quoted(first)),
            };
            Err(incompatible(path, message).with_advice("convert it to .dolmen, and keep the archive").into())
        }
    }
}

/// What those should know who load a dictionary that held tensors alone, and says its version now.
fn note_on_state_dict(format: Format, content: &Content<'_>, said_before: bool) -> Option<String> {
    let entries = &content.document()?.as_dict()?.entries;
    let is_tensor = |(key, value): &(Value, Value)| {
        key.as_str() == Some(VERSION_KEY) || value.as_tensor().is_some() || matches!(value, Value::SharedRef(_))
    };
    let is_state_dict =
        format.has_document_alone() && !said_before && entries.len() > 1 && entries.iter().all(is_tensor);
    is_state_dict.then(|| {
        "it looks like a state dict: load_state_dict(strict=True) will call the key \"version\" unexpected".to_owned()
    })
}

/// A copy of the original: another name for the same file, which stays when the first one is given to the new file.
#[derive(Clone, Debug)]
struct Backup {
    directory: Arc<dyn Directory>,
    original: OsString,
    copy: OsString,
    /// Where the copy is.
    path: PathBuf,
    durability: Durability,
    is_made: Arc<AtomicBool>,
}

impl Backup {
    fn of(path: &Path, version: &Version, save: &SaveOptions) -> Result<Backup> {
        // A link to a symbolic link would lead to the new file.
        let cannot = |e| Error::io("cannot open", e).with_path(path);
        let whole = std::fs::canonicalize(path).map_err(cannot)?;
        let (parent, original) = split(&whole)?;
        let directory = uninterrupted(|| save.saves_in().open_directory(parent)).map_err(cannot)?;
        let mut copy = original.to_owned();
        copy.push(format!(".v{version}.bak"));
        let backup = Backup {
            directory: directory.into(),
            original: original.to_owned(),
            path: parent.join(&copy),
            copy,
            durability: save.promised(),
            is_made: Arc::default(),
        };
        if backup.status(&backup.copy).map_err(cannot)?.is_some() && !backup.is_there() {
            let e = Error::invalid("there is a file already where the original was to be kept");
            return Err(e.with_path(&backup.path).with_advice("move it away"));
        }
        Ok(backup)
    }

    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        uninterrupted(|| self.directory.status(name))
    }

    /// Whether both names are known to stand for the same file.
    fn is_there(&self) -> bool {
        let identity = |name| self.status(name).ok().flatten().and_then(|status| status.identity);
        identity(&self.original).is_some_and(|original| identity(&self.copy) == Some(original))
    }

    /// Makes the copy, as durable as the new file will be, and before that has its name: a crash could otherwise leave the new file alone.
    fn keep(&self) -> Result<()> {
        let cannot = |e| {
            let e = Error::io(format!("cannot keep the original as {}", self.path.display()), e);
            e.with_advice("copy it elsewhere, and do without this copy")
        };
        match self.directory.hard_link(&self.original, &self.copy) {
            Ok(()) => self.is_made.store(true, Ordering::Relaxed),
            // An upgrade that a crash interrupted has made it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_there() => {}
            Err(e) => return Err(cannot(e)),
        }
        match self.durability {
            Durability::Full => self.directory.sync().map_err(cannot),
            Durability::None => Ok(()),
        }
    }

    /// Takes it back, if the original is known to have kept its name: otherwise this may be all that is left of it.
    fn undo(&self) {
        if self.is_made.swap(false, Ordering::Relaxed) && self.is_there() {
            let _ = self.directory.remove(&self.copy);
        }
    }
}

/// Refuses to write where the file is that was to be left alone, and under a name that says another format.
fn check_output(path: &Path, output: &Path, format: Format) -> Result<()> {
    let place = |path: &Path| std::fs::canonicalize(path).ok();
    if place(output).is_some_and(|output| place(path) == Some(output)) {
        let e = Error::invalid("the output is the file itself, which was to be left alone").with_path(output);
        return Err(e.with_advice("name another file, or none: then it is upgraded in its place"));
    }
    let extension = output.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let says_dolmen = extension.as_deref() == Some("dolmen");
    let says_torch = matches!(extension.as_deref(), Some("pt" | "pth" | "ckpt"));
    if (says_dolmen && format != Format::Dolmen) || (says_torch && format == Format::Dolmen) {
        let e = Error::invalid("an upgrade keeps the format, and this name says another").with_path(output);
        return Err(e.with_advice("upgrade first, then convert"));
    }
    Ok(())
}

fn unwritable(path: &Path, checkpoint: &Checkpoint) -> CheckpointError {
    let what = match checkpoint.format() {
        "torch" => "a TorchScript program",
        other => other,
    };
    let message = format!("{what} cannot be upgraded in its format");
    incompatible(path, message).with_advice("convert it to .dolmen first")
}

/// Refuses content that a file would not hold that has a document and nothing else.
fn check_is_in_document(path: &Path, content: &Content<'_>, unmentioned: &[String]) -> Result<(), CheckpointError> {
    let advice = "put it into the document, or convert the file to .dolmen first";
    if let Some(key) = content.metadata().keys().next() {
        let message = format!("the format has no metadata, and {} was set there", quoted(key));
        return Err(incompatible(path, message).with_advice(advice));
    }
    let lost = content.unmentioned().into_iter().find(|name| !unmentioned.iter().any(|known| known == name));
    match lost {
        Some(name) => {
            let message =
                format!("the tensor {} is nothing that the document leads to, and would be lost", quoted(name));
            Err(incompatible(path, message).with_advice(advice))
        }
        None => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_taken_back_only_while_the_original_has_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.dolmen");
        std::fs::write(&path, "old").unwrap();
        let backup = Backup::of(&path, &Version::first(), &SaveOptions::new()).unwrap();
        backup.keep().unwrap();
        backup.undo();
        assert!(!backup.path.exists());
        // The rename had its effect, and said that it failed.
        backup.keep().unwrap();
        std::fs::write(directory.path().join("new"), "new").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        backup.undo();
        assert_eq!(std::fs::read(&backup.path).unwrap(), b"old");
    }
}
