//! Guests: files of other formats, read in place or converted, and written, through the same types as everybody.
//!
//! | format | opened in place | read by conversion | written |
//! |---|---|---|---|
//! | [`safetensors`] | yes | | yes |
//! | [`npy`], little-endian | yes | | yes |
//! | [`npy`], big-endian | | yes | |
//! | [`npz`] | | yes | yes |
//! | [`torch`] | yes | | yes |
//!
//! The front door asks `read_index` about every file that is not a Dolmen file; what it finds is opened by
//! [`Checkpoint`](crate::Checkpoint) like any other. The command calls [`convert()`]. What a format could not hold is told in [`Notes`].
//! What a document says of the values of tensors, [`Held`] knows.
//!
//! Of these formats only PyTorch's archives have checksums that a reader can use in place, and not all of those do. The data of others is
//! given as it is ([`TensorView::is_checksummed`](crate::TensorView::is_checksummed) says `false`). Converting to Dolmen is what protects it.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(feature = "fs")]
mod convert;
mod held;
mod notes;
#[cfg(feature = "npy")]
pub mod npy;
#[cfg(feature = "npy")]
pub mod npz;
#[cfg(any(feature = "npy", feature = "torch"))]
mod positioned;
#[cfg(feature = "safetensors")]
pub mod safetensors;
#[cfg(feature = "torch")]
pub mod torch;

#[cfg(feature = "fs")]
pub(crate) use convert::save_as;
#[cfg(feature = "fs")]
pub use convert::{ConvertOptions, convert};
pub use held::Held;
pub use notes::Notes;

use crate::error::Result;
use crate::format::diagnosis;
use crate::format::header::MAGIC;
use crate::format::limits::Limits;
use crate::read::GuestIndex;
use crate::source::ReadAt;

/// What begins every `.npy` file.
pub(crate) const NPY_MAGIC: &[u8] = b"\x93NUMPY";

/// What begins a PyTorch checkpoint from before version 1.6: its magic number, pickled by protocol 2 or later.
const TORCH_LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The same by protocol 1.
const TORCH_LEGACY_DIGITS: &[u8] = b"L119547037146038801333356L\n.";

/// Whether a file begins as a PyTorch checkpoint from before version 1.6.
fn is_torch_legacy(start: &[u8]) -> bool {
    let [0x80, 2..=5, rest @ ..] = start else { return start.starts_with(TORCH_LEGACY_DIGITS) };
    // From protocol 4 on it is in a frame, which says its length.
    let framed = match rest {
        [0x95, framed @ ..] => framed.get(8..).unwrap_or_default(),
        rest => rest,
    };
    framed.starts_with(TORCH_LEGACY_MAGIC)
}

/// What a file is, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A Dolmen file.
    Dolmen,
    /// A safetensors file.
    Safetensors,
    /// One NumPy array.
    Npy,
    /// A ZIP archive of NumPy arrays.
    Npz,
    /// A PyTorch checkpoint.
    Torch,
    /// A ZIP archive that its first entry does not tell: a PyTorch checkpoint, a `.npz`, or something else.
    Zip,
    /// A tar archive that its first entry does not tell: a PyTorch checkpoint from before 0.1.10, or something else.
    Tar,
}

impl Kind {
    /// The name, as the command shows it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dolmen => "dolmen",
            Kind::Safetensors => "safetensors",
            Kind::Npy => "npy",
            Kind::Npz => "npz",
            Kind::Torch => "torch",
            Kind::Zip => "zip",
            Kind::Tar => "tar",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a file is, from its first bytes; `None` if it is nothing that is known here. 512 bytes are enough.
///
/// It promises nothing about the rest of the file.
pub fn recognise(start: &[u8]) -> Option<Kind> {
    if start.starts_with(&MAGIC) {
        return Some(Kind::Dolmen);
    }
    if start.starts_with(NPY_MAGIC) {
        return Some(Kind::Npy);
    }
    if is_torch_legacy(start) {
        return Some(Kind::Torch);
    }
    if start.starts_with(b"PK\x05\x06") {
        return Some(Kind::Zip);
    }
    if start.starts_with(b"PK\x03\x04") {
        return Some(zip_kind(start));
    }
    #[cfg(feature = "torch")]
    if let Some(first) = torch::first_member(start) {
        return match first {
            torch::First::Torch => Some(Kind::Torch),
            torch::First::Extensions => Some(Kind::Tar),
            torch::First::Other => None,
        };
    }
    diagnosis::is_safetensors(start).then_some(Kind::Safetensors)
}

/// What a ZIP archive is, by the name of its first entry.
fn zip_kind(start: &[u8]) -> Kind {
    match first_name(start) {
        Some(name) if is_torch_entry(name) => Kind::Torch,
        Some(name) if name.ends_with(b".npy") => Kind::Npz,
        _ => Kind::Zip,
    }
}

/// The name of the first entry of a ZIP archive.
fn first_name(start: &[u8]) -> Option<&[u8]> {
    /// The length of the name lies here in the entry's header, and the name itself follows the header.
    const NAME_LEN_AT: usize = 26;
    const NAME_AT: usize = 30;
    let len = start.get(NAME_LEN_AT..)?.first_chunk::<2>().map(|len| u16::from_le_bytes(*len))?;
    start.get(NAME_AT..)?.get(..usize::from(len))
}

/// Whether a ZIP archive with this entry is a PyTorch checkpoint.
fn is_torch_entry(name: &[u8]) -> bool {
    name == b"data.pkl" || name.ends_with(b"/data.pkl")
}

/// Whether a ZIP archive that its first entry does not tell is a PyTorch checkpoint, whole or cut off.
#[cfg(feature = "torch")]
fn is_torch_zip(start: &[u8], source: &dyn ReadAt, limits: &Limits) -> bool {
    torch::is_archive(source, limits) || first_name(start).is_some_and(|name| torch::is_cut_off(name, source))
}

/// The index of a file of another format, recognised by its first bytes; `None` if it is none that is read in place.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read_index(start: &[u8], source: &dyn ReadAt, limits: &Limits) -> Result<Option<GuestIndex>> {
    match recognise(start) {
        #[cfg(feature = "safetensors")]
        Some(Kind::Safetensors) => safetensors::read_index(source, limits).map(Some),
        #[cfg(feature = "npy")]
        Some(Kind::Npy) => npy::read_index(source, limits).map(Some),
        #[cfg(feature = "torch")]
        Some(Kind::Torch) => torch::read_index(start, source, limits).map(Some),
        #[cfg(feature = "torch")]
        Some(Kind::Zip) if is_torch_zip(start, source, limits) => torch::read_index(start, source, limits).map(Some),
        #[cfg(feature = "torch")]
        Some(Kind::Tar) if torch::is_tar(source) => torch::read_index(start, source, limits).map(Some),
        _ => {
            let _ = (source, limits);
            Ok(None)
        }
    }
}

/// Refuses a tensor whose strides expand too far: a small file must not fill a disk.
#[cfg(any(feature = "safetensors", feature = "npy"))]
fn check_expansion(tensor: &crate::TensorView<'_>) -> Result<()> {
    if !tensor.expands_too_far() {
        return Ok(());
    }
    let message = format!("its strides expand to {} bytes, far more than the file holds", tensor.contiguous_byte_len());
    let e = crate::Error::new(crate::ErrorKind::Limit, message).with_tensor(tensor.name());
    Err(e.with_advice("convert to a Dolmen file, which keeps strides as they are"))
}
