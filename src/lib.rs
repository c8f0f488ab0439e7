//! Dolmen: checkpoints that stay standing.
//!
//! A file format for tensors and the crate around it: every byte checksummed, saved atomically and durably, mapped and used where it
//! lies. The format is specified in `spec/format.md` of the repository, with vectors and an independent reader.
//!
//! ```
//! # fn main() -> dolmen::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("model.dolmen");
//! let weights = vec![0.5f32; 6];
//!
//! // Save: all of it or nothing, on the disk when it returns.
//! let mut b = dolmen::Builder::new();
//! b.tensor("encoder.weight", (&weights, [2, 3]))?;
//! b.metadata("version", "1.0");
//! b.save(&path)?;
//!
//! // Load: read into memory, verified.
//! let ckpt = dolmen::Checkpoint::open(&path)?;
//! let w: &[f32] = ckpt.tensor("encoder.weight")?.as_slice()?;
//! assert_eq!(w, weights);
//! # Ok(())
//! # }
//! ```
//!
//! # A file
//!
//! ```text
//! 0        header, 64 bytes: magic, version, lengths, CRC of the index, its own CRC
//!          record: descriptor, padding, data (aligned)       one for each tensor, in written order
//!          record ...
//!          index: names, dims, tensors, storages, block CRCs, metadata, document
//! end-64   trailer: the header again
//! ```
//!
//! # Overview
//!
//! - [`Checkpoint`] is an open file: [`open`](Checkpoint::open) reads and verifies it,
//!   [`map`](Checkpoint::map) maps it, [`open_on_demand`](Checkpoint::open_on_demand) reads what is touched. It finds tensors by name without
//!   building anything, and [verifies](Checkpoint::verify) every byte strictly when asked to.
//! - [`TensorView`] is a tensor of it: dtype, shape, strides, and its bytes, checked the first time they are touched.
//! - [`Builder`] gathers tensors and saves them; [`Writer`] writes them as they are produced, in bounded memory.
//! - [`Value`] is what metadata and the document (the nested object that tensors were part of) are made of.
//! - [`commit`] makes a file appear whole or not at all; [`SaveOptions`] says how.
//! - [`lifecycle`] is the life of a checkpoint: validated before it is trusted, upgraded when its version changes, remembered if it failed; and
//!   pipelines that resume.
//! - [`feature`] is the feature pipeline: tables over many files, streamed in batches to where they are used, a GPU among others.
//! - [`foreign`] holds the guests: PyTorch's checkpoints and safetensors are read in place by the same `Checkpoint`, NumPy's archives are
//!   converted.
//! - [`Error`] names file, tensor, offset and rule, and says what to do.
//!
//! # Features
//!
//! `fs` (open and save by path), `mmap`, `parallel` (several threads), `safetensors`, `npy`, `torch`, `lifecycle`, `feature`, and `cli` (the
//! command) are on by default; `cuda` (NVIDIA's GPUs) is not. None of them changes a byte of what is written. Without default features the crate reads and writes bytes in memory, on
//! `wasm32-unknown-unknown` too.
//!
//! # What it does not do
//!
//! - A CRC finds accidents. It is no protection against someone who changes a file on purpose: sign files if you need that.
//! - Data is not compressed or encrypted.
//! - A file is not changed in place: saving writes a new one.
//! - Big-endian machines are not supported: the format is little-endian and used where it lies.

#[cfg(target_endian = "big")]
compile_error!("Dolmen uses little-endian files where they lie, and does not support big-endian machines");

mod bridge;
#[cfg(feature = "fs")]
pub mod commit;
pub mod error;
#[cfg(feature = "feature")]
pub mod feature;
pub mod foreign;
pub mod format;
#[cfg(feature = "lifecycle")]
pub mod lifecycle;
mod open;
pub mod read;
pub mod salvage;
pub mod source;
pub mod write;

#[cfg(feature = "cuda")]
pub use cudarc;
pub use half;

#[cfg(feature = "fs")]
pub use commit::{Durability, SaveOptions};
pub use error::{Error, ErrorKind, Result};
pub use format::dtype::{DType, Element};
pub use format::limits::Limits;
pub use format::value::Value;
pub use open::OpenOptions;
pub use read::{Checkpoint, GuestIndex, Report, Rows, TensorView, VerifyOptions, verify_source};
pub use salvage::{Fill, SalvageOptions, SalvageReport, Salvaged};
pub use source::ReadAt;
pub use write::{Builder, FileOptions, IntoShape, IntoTensor, Plan, StorageId, TensorData, View};
#[cfg(feature = "fs")]
pub use write::{RowsWriter, TensorWriter, Writer};
