//! PyTorch's checkpoints (`.pt`, `.pth`): read in place, converted, and written, without Python and without running anything.
//!
//! ```text
//! archive   the directory of the ZIP, read strictly         legacy   files from before version 1.6
//!                                                           tar      files from before version 0.1.10
//! pickle    a machine that executes nothing: a graph
//! rebuild   what the graph means: document, tensors, storages
//! made      bytes in another form than the file has them
//! ```

mod archive;
mod assemble;
mod legacy;
mod made;
mod pickle;
mod rebuild;
mod tar;
pub mod vocabulary;
mod zip;

pub(crate) use archive::is_torch as is_archive;
use assemble::Assembled;
pub use rebuild::LIST_LEN;
pub(crate) use tar::{First, first_member, is_torch as is_tar};

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
/// What is wrong with it, or which variant it is that is not read.
pub(crate) fn read_index(start: &[u8], source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    if super::is_torch_legacy(start) {
        legacy::read_index(source, limits)
    } else if first_member(start).is_some() {
        tar::read_index(source, limits)
    } else {
        zip::read_index(source, limits)
    }
}
