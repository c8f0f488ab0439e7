//! PyTorch's checkpoints (`.pt`, `.pth`): read in place, converted, and written, without Python and without running anything.
//!
//! ```text
//! archive   the directory of the ZIP, read strictly         legacy   files from before version 1.6
//! pickle    a machine that executes nothing: a graph
//! rebuild   what the graph means: document, tensors, storages
//! made      bytes in another form than the file has them
//! export    the way back: an archive as PyTorch writes it
//! module    modules that were pickled whole: their parameters and buffers
//! records   the parts of the archive, for verification
//! scan      what the pickles name, and what to think of it
//! ```

mod archive;
mod assemble;
mod export;
mod legacy;
mod made;
mod module;
mod pickle;
mod rebuild;
mod records;
mod scan;
mod verdicts;
pub mod vocabulary;
mod zip;

pub(crate) use archive::is_torch as is_archive;
use assemble::Assembled;
#[cfg(feature = "fs")]
pub use export::save;
pub use export::{ExportOptions, write};
pub use module::{ModuleTensor, Modules, Role};
pub use rebuild::LIST_LEN;
pub(crate) use records::is_cut_off;
#[cfg(feature = "fs")]
pub use scan::globals;
pub use scan::{Scan, ScannedGlobal, scan};
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
    let index = match super::is_torch_legacy(start) {
        true => legacy::read_index(source, limits),
        false => zip::read_index(source, limits),
    };
    index.map_err(|e| scan::with_warning(records::name_damaged(e, source), source, limits))
}

/// Reads a checkpoint strictly, to the last byte of every record.
#[cfg(feature = "fs")]
pub(crate) fn check(source: &dyn ReadAt) -> Result<()> {
    let mut start = [0; 64];
    let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    let start = start.get_mut(..crate::format::len_usize(len.min(64)).unwrap_or_default()).unwrap_or_default();
    source.read_exact_at(start, 0).map_err(|e| Error::io("cannot read", e))?;
    read_index(start, source, &Limits::NONE)?;
    if super::is_torch_legacy(start) { Ok(()) } else { records::check_all(source) }
}
