//! From any format that is read to any that is written.

use std::path::Path;
#[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
use std::sync::Arc;

use super::{Kind, Notes, recognise};
#[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
use crate::commit::Validator;
use crate::commit::{AtomicFile, SaveOptions};
use crate::error::{Error, Result, quoted};
use crate::format::diagnosis::DIAGNOSIS_LEN;
use crate::format::limits::Limits;
use crate::open::OpenOptions;
use crate::read::Checkpoint;
use crate::source::ReadAt;
use crate::write::{Builder, FileOptions};

/// How to convert: durably, without validation and without limits unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct ConvertOptions {
    save: SaveOptions,
    file: FileOptions,
    limits: Limits,
    validate: bool,
    #[cfg(feature = "torch")]
    torch: super::torch::ExportOptions,
}

impl Default for ConvertOptions {
    fn default() -> ConvertOptions {
        ConvertOptions::new()
    }
}

impl ConvertOptions {
    /// The defaults.
    pub fn new() -> ConvertOptions {
        ConvertOptions {
            save: SaveOptions::new(),
            file: FileOptions::new(),
            limits: Limits::NONE,
            validate: false,
            #[cfg(feature = "torch")]
            torch: super::torch::ExportOptions::new(),
        }
    }

    /// How to save. A validator in it is not used: see [`validate`](Self::validate).
    pub fn save(mut self, save: SaveOptions) -> ConvertOptions {
        self.save = save.validator(None);
        self
    }

    /// What a Dolmen file looks like.
    pub fn file(mut self, file: FileOptions) -> ConvertOptions {
        self.file = file;
        self
    }

    /// What to accept at most of the input.
    pub fn limits(mut self, limits: Limits) -> ConvertOptions {
        self.limits = limits;
        self
    }

    /// Whether to read the finished file back, as strictly as its format allows, before it gets its name.
    pub fn validate(mut self, validate: bool) -> ConvertOptions {
        self.validate = validate;
        self
    }

    /// What to write of a PyTorch checkpoint.
    #[cfg(feature = "torch")]
    pub fn torch(mut self, torch: super::torch::ExportOptions) -> ConvertOptions {
        self.torch = torch;
        self
    }

    #[cfg(any(feature = "safetensors", feature = "npy", feature = "torch"))]
    fn save_options(&self, validator: impl Fn(&dyn ReadAt) -> Result<()> + Send + Sync + 'static) -> SaveOptions {
        let validator: Validator = Arc::new(validator);
        self.save.clone().validator(self.validate.then_some(validator))
    }
}

/// Converts a file, recognised by its content, into the format that the output's extension names: `.dolmen`, `.pt` or `.pth` (also `.ckpt`
/// or `.bin`), `.safetensors`, `.npy` (of exactly one tensor) or `.npz`. The output appears whole or not at all, and may be the input itself.
///
/// Gives what the output could not hold exactly; nothing is lost into a Dolmen file but what the notes of [`npy`](super::npy) and
/// [`npz`](super::npz) say, and a program of TorchScript.
///
/// **Cost**: one pass over the data, which is never all in memory: at most a storage of which some tensor is strided and must be made
/// contiguous. From `.npz` into another format than Dolmen it goes through a temporary file beside the output.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for an extension that is not known, for what the format cannot hold at all, and for a
/// program of TorchScript as a PyTorch checkpoint of more than its tensors; and all errors of opening the input and saving the output.
pub fn convert(input: impl AsRef<Path>, output: impl AsRef<Path>, options: &ConvertOptions) -> Result<Notes> {
    let (input, output) = (input.as_ref(), output.as_ref());
    let target = Target::of(output).map_err(|e| e.with_path(output))?;
    let mut notes = Notes::default();
    let mut imported = Builder::with_options(options.file);
    if import(input, &mut imported, &mut notes, options).map_err(|e| e.with_path(input))? {
        if target == Target::Dolmen {
            imported.save_with(output, &options.save.clone().validate(options.validate))?;
            return Ok(notes);
        }
        // Never committed: it is removed when it is dropped.
        let mut scratch = AtomicFile::create(output, &options.save)?;
        imported.write_to(&mut scratch)?;
        let checkpoint = Checkpoint::open_on_demand(scratch.temp_path())?;
        notes.extend(target.save(&checkpoint, output, options)?);
        return Ok(notes);
    }
    let checkpoint = OpenOptions::new().limits(options.limits).open_on_demand(input)?;
    #[cfg(feature = "torch")]
    if super::torch::is_script(&checkpoint) {
        if target == Target::Torch && !options.torch.is_tensors_only() {
            let message = "without the code of this TorchScript program, PyTorch could not load what would be written";
            let advice = "write nothing but its tensors (--tensors-only), or convert to .dolmen";
            return Err(Error::invalid(message).with_path(input).with_advice(advice));
        }
        notes.push("the code of the TorchScript program is left out: its tensors and objects are kept");
    }
    #[cfg(feature = "torch")]
    if checkpoint.format() == "torch" {
        let (file, _) = crate::source::file::open_regular(input)?;
        for record in super::torch::further_records(&file, &options.limits).map_err(|e| e.with_path(input))? {
            notes
                .push(format!("the archive's record {} is left out: it is no part of the checkpoint", quoted(&record)));
        }
        if target == Target::Dolmen {
            super::torch::note_dangerous(&checkpoint, &mut notes)?;
        }
    }
    notes.extend(target.save(&checkpoint, output, options)?);
    Ok(notes)
}

/// Saves a checkpoint in the format that the output's extension names.
///
/// # Errors
/// As [`convert`], but for opening the input.
pub(crate) fn save_as(checkpoint: &Checkpoint, output: &Path, options: &ConvertOptions) -> Result<Notes> {
    let target = Target::of(output).map_err(|e| e.with_path(output))?;
    target.save(checkpoint, output, options)
}

/// Adds the input to a builder, if it is of a format that is not opened in place. Gives whether it is.
fn import(input: &Path, builder: &mut Builder<'_>, notes: &mut Notes, options: &ConvertOptions) -> Result<bool> {
    let (file, len) = crate::source::file::open_regular(input)?;
    options.limits.check("file length", len, options.limits.max_file_len)?;
    let mut start = [0; DIAGNOSIS_LEN];
    let start = start.get_mut(..usize::try_from(len).unwrap_or(usize::MAX).min(DIAGNOSIS_LEN)).unwrap_or_default();
    file.read_exact_at(start, 0).map_err(|e| Error::io("cannot read", e))?;
    match recognise(start) {
        #[cfg(feature = "torch")]
        Some(Kind::Torch) => Ok(false),
        #[cfg(feature = "torch")]
        Some(Kind::Zip) if super::is_torch_zip(start, &file, &options.limits) => Ok(false),
        #[cfg(all(feature = "npy", not(feature = "torch")))]
        Some(Kind::Torch) => Err(super::npz::torch()),
        #[cfg(feature = "npy")]
        Some(Kind::Npz | Kind::Zip) => {
            notes.extend(super::npz::import(input, builder)?);
            Ok(true)
        }
        #[cfg(feature = "npy")]
        Some(Kind::Npy) if super::npy::Header::read_file(&file)?.element.swap.is_some() => {
            notes.extend(super::npy::import(input, builder)?);
            Ok(true)
        }
        _ => {
            let _ = (builder, notes, Kind::Npz);
            Ok(false)
        }
    }
}

/// What an output is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Dolmen,
    #[cfg(feature = "safetensors")]
    Safetensors,
    #[cfg(feature = "npy")]
    Npy,
    #[cfg(feature = "npy")]
    Npz,
    #[cfg(feature = "torch")]
    Torch,
}

impl Target {
    fn of(path: &Path) -> Result<Target> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        let what = match extension.as_deref() {
            Some("dolmen") => return Ok(Target::Dolmen),
            #[cfg(feature = "safetensors")]
            Some("safetensors") => return Ok(Target::Safetensors),
            #[cfg(feature = "npy")]
            Some("npy") => return Ok(Target::Npy),
            #[cfg(feature = "npy")]
            Some("npz") => return Ok(Target::Npz),
            #[cfg(feature = "torch")]
            Some("pt" | "pth" | "ckpt" | "bin") => return Ok(Target::Torch),
            Some(other) => format!("the extension {} names no format that is written here", quoted(other)),
            None => "an output without an extension does not say what format it is to be".to_owned(),
        };
        Err(Error::invalid(what)
            .with_advice("end it with .dolmen, .pt or .pth (also .ckpt or .bin), .safetensors, .npy or .npz"))
    }

    fn save(self, checkpoint: &Checkpoint, output: &Path, options: &ConvertOptions) -> Result<Notes> {
        match self {
            Target::Dolmen => {
                let mut builder = Builder::with_options(options.file);
                builder.checkpoint(checkpoint)?;
                builder.save_with(output, &options.save.clone().validate(options.validate))?;
                Ok(Notes::default())
            }
            #[cfg(feature = "safetensors")]
            Target::Safetensors => {
                let validator = |file: &dyn ReadAt| super::safetensors::read_index(file, &Limits::NONE).map(drop);
                super::safetensors::save(checkpoint, output, &options.save_options(validator))
            }
            #[cfg(feature = "npy")]
            Target::Npy => {
                let mut notes = Notes::default();
                if checkpoint.len() != 1 {
                    let e = Error::invalid(format!("a .npy file holds one tensor, and there are {}", checkpoint.len()));
                    return Err(e.with_path(output).with_advice("convert to .npz, or extract one of them"));
                }
                let tensor = checkpoint.nth(0)?;
                let validator = |file: &dyn ReadAt| super::npy::Header::read_file(file).map(drop);
                if tensor.name() != super::npy::TENSOR_NAME {
                    notes.tensor(tensor.name(), "a .npy file holds no name");
                }
                super::notes::structure(checkpoint, &mut notes)?;
                match checkpoint.metadata()?.len() {
                    0 => {}
                    1 => notes.push("the metadata (1 entry) is left out"),
                    count => notes.push(format!("the metadata ({count} entries) is left out")),
                }
                notes.extend(super::npy::save(&tensor, output, &options.save_options(validator))?);
                Ok(notes)
            }
            #[cfg(feature = "npy")]
            Target::Npz => super::npz::save(checkpoint, output, &options.save_options(super::npz::check)),
            #[cfg(feature = "torch")]
            Target::Torch => {
                super::torch::save(checkpoint, output, options.torch, &options.save_options(super::torch::check))
            }
        }
    }
}
