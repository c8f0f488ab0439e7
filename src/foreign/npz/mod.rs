//! `.npz`: a ZIP archive of NumPy arrays, as `numpy.savez` and `numpy.savez_compressed` write them.
//!
//! Entry `a/b.npy` is the tensor `a/b`. An archive is converted, not opened in place: [`import`] adds its arrays to a
//! [`Builder`](crate::Builder), [`write()`] and [`save`] write one. Nothing is ever extracted to a path, so names in an archive can do no
//! harm. What an array inflates to is bounded by the header of the array, by what the archive says, and by what deflate can do at
//! all; entries may not overlap.

mod read;
mod write;

pub(super) use read::check;
pub use read::import;
#[cfg(not(feature = "torch"))]
pub(super) use read::torch;
pub use write::{save, write};

/// What the entries of arrays end with.
const SUFFIX: &str = ".npy";
