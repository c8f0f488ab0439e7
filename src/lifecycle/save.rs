//! [`Save`]: saving a checkpoint that says its version and status, and is validated before it gets its name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::error::{CheckpointError, CheckpointErrorKind};
use super::label::{STATUS_COMPLETE, STATUS_KEY, VERSION_KEY, in_document};
use super::validation::Validator;
use super::versions::Version;
use crate::commit::SaveOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::format::value::Value;
use crate::source::ReadAt;
use crate::write::{Builder, FileOptions, Writer};

/// How to save checkpoints: version and status are embedded if the content says none, and the finished file is validated before it replaces what
/// was there, so that a bad one never takes the place of a good one.
///
/// ```
/// # fn main() -> dolmen::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("features.dolmen");
/// use dolmen::lifecycle::{CheckpointInfo, Save, Validator};
///
/// let mut b = dolmen::Builder::new();
/// b.tensor("data", &[1.0f32, 2.0])?;
/// Save::new().validator(Validator::new().required_keys(["data"])).save(&b, &path)?;
///
/// let info = CheckpointInfo::of(&path);
/// assert_eq!((&*info.version, &*info.status), ("1.0", "complete"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Save {
    version: Version,
    status: String,
    validator: Validator,
    validate: bool,
    options: SaveOptions,
}

impl Default for Save {
    fn default() -> Save {
        Save::new()
    }
}

impl Save {
    /// Version [`CHECKPOINT_VERSION`](super::CHECKPOINT_VERSION), status `complete`, validated fully, durable.
    pub fn new() -> Save {
        Save {
            version: Version::first(),
            status: STATUS_COMPLETE.to_owned(),
            validator: Validator::new(),
            validate: true,
            options: SaveOptions::new(),
        }
    }

    /// The version that is embedded where the content says none.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it is none.
    pub fn version(mut self, version: &str) -> Result<Save> {
        self.version = version.parse()?;
        Ok(self)
    }

    /// The status that is embedded where the content says none.
    pub fn status(mut self, status: impl Into<String>) -> Save {
        self.status = status.into();
        self
    }

    /// What the finished file must pass.
    pub fn validator(mut self, validator: Validator) -> Save {
        self.validator = validator;
        self
    }

    /// Whether to validate at all. Large features, which would have to be read once more, may do without.
    pub fn validate(mut self, validate: bool) -> Save {
        self.validate = validate;
        self
    }

    /// Durability, and the rest of how to save. A validator in them is used only if [`validate`](Self::validate) is off.
    pub fn options(mut self, options: SaveOptions) -> Save {
        self.options = options;
        self
    }

    /// Saves what a builder has gathered, which stays as it is: version and status go into the metadata of the file, if neither metadata nor document
    /// say them.
    ///
    /// # Errors
    /// As [`Builder::save_with`], and what the validator finds: then the file that was there before is still there, and nothing else.
    pub fn save(&self, builder: &Builder<'_>, path: impl AsRef<Path>) -> Result<()> {
        let mut defaults = BTreeMap::new();
        for (key, value) in self.label() {
            let said = builder.document_value().and_then(|document| in_document(document, key));
            if said.is_none() {
                defaults.insert(key.to_owned(), value);
            }
        }
        builder.save_with_defaults(path, &self.save_options(), &defaults)
    }

    /// Begins a file whose tensors are written as they are produced. Version and status are set already, for the caller to set otherwise; it is
    /// validated when it is committed.
    ///
    /// # Errors
    /// As [`Writer::create_with`].
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Writer> {
        self.create_with(path, FileOptions::new())
    }

    /// As [`create`](Self::create), with another alignment or block length than the usual.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with(&self, path: impl AsRef<Path>, file: FileOptions) -> Result<Writer> {
        let mut writer = Writer::create_with(path, file, &self.save_options())?;
        for (key, value) in self.label() {
            writer.metadata(key, value);
        }
        Ok(writer)
    }

    fn label(&self) -> [(&'static str, Value); 2] {
        [(VERSION_KEY, Value::from(&self.version)), (STATUS_KEY, Value::from(self.status.as_str()))]
    }

    fn save_options(&self) -> SaveOptions {
        let options = self.options.clone();
        if !self.validate {
            return options;
        }
        // Who asked for the status means it.
        let validator = self.validator.clone();
        let validator = if self.status == STATUS_COMPLETE { validator } else { validator.any_status(true) };
        options.validator(Some(Arc::new(move |file: &dyn ReadAt| {
            validator.validate_source(file).map(drop).map_err(unsaved)
        })))
    }
}

/// What the validator says of a file that will not be saved.
fn unsaved(e: CheckpointError) -> Error {
    let kind = e.error().map(Error::kind).unwrap_or(match e.kind {
        CheckpointErrorKind::Corrupted => ErrorKind::Corrupt,
        CheckpointErrorKind::Incompatible => ErrorKind::InvalidInput,
        CheckpointErrorKind::Unreadable => ErrorKind::Io,
    });
    Error::new(kind, format!("the new file is not valid: {}", e.reason()))
}
