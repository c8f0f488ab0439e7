//! Dolmen: checkpoints that stay standing.
pub mod error;
pub mod format;
pub mod source;
pub use error::{Error, ErrorKind, Result};
