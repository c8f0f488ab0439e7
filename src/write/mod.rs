//! Writing: [`Builder`] for content that is at hand, [`Writer`] for content that is produced as it is written.
//!
//! Both drive one `Assembler`, which puts records one after the other into a `Sink` and the index behind them; so the same content
//! gives the same bytes by either way. `tensor_data` is what a tensor to be written is.
//! Only [`Writer`] and `Builder::save` touch files, through [`commit`](crate::commit).

mod assembler;
mod builder;
mod plan;
#[cfg(feature = "fs")]
mod rows;
mod sink;
#[cfg(feature = "fs")]
mod stream;
mod tensor_data;

pub use builder::{Builder, StorageId};
pub use plan::Plan;
#[cfg(feature = "fs")]
pub use rows::RowsWriter;
#[cfg(feature = "fs")]
pub use stream::{TensorWriter, Writer};
pub(crate) use tensor_data::StorageSource;
pub use tensor_data::{IntoShape, IntoTensor, TensorData, View};

use crate::error::{Error, Result};
use crate::format::layout::{DEFAULT_ALIGNMENT_LOG2, DEFAULT_BLOCK_LOG2};

/// What a new file looks like: the alignment of its data and the length of its checksum blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FileOptions {
    alignment_log2: u8,
    block_log2: u8,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions::new()
    }
}

impl FileOptions {
    /// Data aligned to 256 bytes, blocks of 1 MiB.
    pub const fn new() -> FileOptions {
        FileOptions { alignment_log2: DEFAULT_ALIGNMENT_LOG2, block_log2: DEFAULT_BLOCK_LOG2 }
    }

    /// Aligns the data of each storage to a multiple of so many bytes: a power of two from 64 to 2 MiB.
    ///
    /// 4096 suits direct I/O; each storage takes up to that much more space.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any other number.
    pub fn alignment(mut self, bytes: u64) -> Result<FileOptions> {
        self.alignment_log2 = log2(bytes, 6..=21, "alignment")?;
        Ok(self)
    }

    /// Computes a CRC for each so many bytes: a power of two from 4 KiB to 1 GiB.
    ///
    /// Smaller blocks make small parts cheaper to verify and damage more local, at 4 bytes each.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for any other number.
    pub fn block_len(mut self, bytes: u64) -> Result<FileOptions> {
        self.block_log2 = log2(bytes, 12..=30, "block length")?;
        Ok(self)
    }
}

fn log2(bytes: u64, allowed: std::ops::RangeInclusive<u8>, what: &str) -> Result<u8> {
    let log2 = bytes.trailing_zeros() as u8;
    if bytes.is_power_of_two() && allowed.contains(&log2) {
        return Ok(log2);
    }
    let (least, most) = (1u64 << allowed.start(), 1u64 << allowed.end());
    Err(Error::invalid(format!("{what} {bytes} is not a power of two from {least} to {most}")))
}
