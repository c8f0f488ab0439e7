//! Dolmen: checkpoints that stay standing.
pub mod error;
pub mod source;
pub use error::{Error, ErrorKind, Result};
