//! The feature pipeline: from files to the device, every byte checked on the way.
//!
//! Features that were computed once are read again and again: by a trainer in another order every epoch, by a predictor from the first to the
//! last. This room streams them from mapped files to where they are used, as fast as the way there allows.
//!
//! ```text
//! writer     TableWriter: rows as they are computed ─▶ files of so many rows, each whole or not there
//!               │
//! table      Table: one or many files as rows and columns; joins by id, slices, other dtypes: views, nothing is copied
//!   ids, convert   id ─▶ row; elements of one dtype to another
//!               │
//! loader     Loader: batches made ahead by threads ◀─ order   Order, BatchPlan: which rows, in which order, whose
//!               │     gathered, verified, converted
//! device     Device: memory of the host, or of a GPU through pinned buffers (feature `cuda`)
//!               │
//!            Batch: features and labels, in the device's memory                    load   load_to_device: a whole checkpoint at once
//!               │                                                                 │
//! dlpack     DlpackTensor: either of them in another framework, without a copy ◀──┘
//! ```
//! What a block of a file holds is verified when a batch first touches it, by the thread that fills the batch, on the bytes that it copies; what
//! was found is remembered. [`LoaderOptions::verification`] says otherwise, if you do.
//!
//! ```
//! # fn main() -> dolmen::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let prefix = dir.path().join("part");
//! use dolmen::DType;
//! use dolmen::feature::{Host, Layout, Loader, LoaderOptions, Order, Table, TableWriter, TableWriterOptions};
//!
//! // Write: rows as they come, ids alongside.
//! let options = TableWriterOptions::new(DType::F32, [2])?.rows_per_file(2);
//! let mut writer = TableWriter::create(&prefix, &options)?;
//! writer.append(&["a", "b", "c"], &[0.5f32, 1.0, 1.5, 2.0, 2.5, 3.0])?;
//! let files = writer.finish()?;
//!
//! // Read: one table over all files, in batches.
//! let table = Table::open(files.iter().map(|file| &file.path), &Layout::new())?;
//! assert_eq!(table.row_of("c")?, 2);
//! let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(2))?;
//! for batch in loader.epoch(Order::shuffled(42))? {
//!     let batch = batch?;
//!     println!("rows {:?}: {:?}", batch.rows(), batch.as_slice::<f32>()?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The files and the orders are described in `spec/features.md`, for programs in other languages.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

mod convert;
pub mod device;
pub mod dlpack;
mod ids;
mod load;
mod loader;
mod order;
mod table;
mod writer;

pub use device::{Device, Host, HostMemory};
pub use ids::{Duplicate, Duplicates, IdIndex, Ids, IdsBuilder, Which};
pub use load::{DeviceTensor, LoadOptions, Loaded, load_to_device};
pub use loader::{Batch, Batches, EpochReport, Loader, LoaderOptions, OnDamage, PageCache, Verification};
pub use order::{BatchPlan, Order, OrderedRows, Shard, Tail};
pub use table::{Access, Join, JoinOptions, Layout, OnMissing, Table};
pub use writer::{MAX_FILES, TableFile, TableWriter, TableWriterOptions};

#[cfg(feature = "cuda")]
pub use device::{Cuda, CudaMemory, CudaOptions};
