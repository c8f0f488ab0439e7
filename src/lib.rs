//! Dolmen: checkpoints that stay standing.
mod bridge;
#[cfg(feature = "fs")]
pub mod commit;
pub mod error;
pub mod foreign;
pub mod format;
mod open;
pub mod read;
pub mod source;
pub mod write;

pub use bytemuck;
pub use half;

#[cfg(feature = "fs")]
pub use commit::{Durability, SaveOptions};
pub use error::{Error, ErrorKind, Result};
pub use format::dtype::{DType, Element};
pub use format::limits::Limits;
pub use format::value::Value;
pub use open::OpenOptions;
pub use read::{Checkpoint, GuestIndex, Report, Rows, TensorView, VerifyOptions, verify_source};
pub use source::ReadAt;
pub use write::{Builder, FileOptions, IntoShape, IntoTensor, Plan, TensorData, View};
#[cfg(feature = "fs")]
pub use write::{TensorWriter, Writer};
