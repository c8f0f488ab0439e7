//! PyTorch's checkpoints (`.pt`, `.pth`): read in place, converted, and written, without Python and without running anything.
//!
//! ```text
//! archive     the directory of a ZIP, read strictly      zip      checkpoints from version 1.6 on
//! records     its parts, for verification                legacy   those from before        tar   and from before 0.1.10
//! pickle      a machine that executes nothing: a graph
//! rebuild     what the graph means: document, tensors, storages      vocabulary   the words for it
//! assemble    the index of a guest                                   made         bytes in another form than the file has
//! export      the way back: an archive as PyTorch writes it
//! module      modules that were pickled whole: their parameters and buffers
//! salvage     what is intact of a damaged file
//! scan        what the pickles name                       verdicts   what to think of it      accepted   what PyTorch accepts
//! ```

mod accepted;
mod archive;
mod assemble;
mod export;
mod float;
mod legacy;
mod made;
mod module;
mod pickle;
mod rebuild;
mod records;
pub(crate) mod salvage;
mod scan;
mod tar;
mod verdicts;
pub mod vocabulary;
mod zip;

pub use crate::format::value::LIST_LEN;
pub(crate) use archive::is_torch as is_archive;
use assemble::Assembled;
#[cfg(feature = "fs")]
pub use export::save;
pub use export::{ExportOptions, write};
pub use module::{ModuleTensor, Modules, Role};
pub use records::further_records;
pub(crate) use records::is_cut_off;
#[cfg(feature = "fs")]
pub use scan::globals;
#[cfg(feature = "fs")]
pub(crate) use scan::note_dangerous;
pub use scan::{Scan, ScannedGlobal, scan, scan_document};
pub(crate) use tar::{First, first_member, is_torch as is_tar};
pub use verdicts::Verdict;

use crate::error::{Error, ErrorKind, Result};
use crate::format::limits::Limits;
use crate::read::GuestIndex;
use crate::source::ReadAt;

#[cold]
fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// The index of a PyTorch checkpoint of any kind.
///
/// # Errors
/// What is wrong with it, or which variant it is that is not read; and first, what its pickle names that can run code.
pub(crate) fn read_index(start: &[u8], source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let index = if super::is_torch_legacy(start) {
        legacy::read_index(source, limits)
    } else if first_member(start).is_some() {
        tar::read_index(source, limits)
    } else {
        zip::read_index(source, limits)
    };
    index.map_err(|e| scan::with_warning(records::name_damaged(e, source), source, limits))
}

/// Whether a checkpoint is a program of TorchScript.
#[cfg(feature = "fs")]
pub(crate) fn is_script(checkpoint: &crate::Checkpoint) -> bool {
    checkpoint.format() == "torch" && checkpoint.format_version().contains("torchscript")
}

/// Reads a checkpoint strictly, to the last byte of every record.
#[cfg(feature = "fs")]
pub(crate) fn check(source: &dyn ReadAt) -> Result<()> {
    let start = crate::read::read_start(source)?;
    read_index(&start, source, &Limits::NONE)?;
    if start.starts_with(b"PK") { records::check_all(source) } else { Ok(()) }
}
