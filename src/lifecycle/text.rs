//! Small files of text that people write: schemas, steps.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// How long such a file may be, in bytes.
const MAX_LEN: u64 = 16 << 20;

/// The text of a file.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io), also for text that is not UTF-8; [`InvalidInput`](crate::ErrorKind::InvalidInput) for what is no regular
/// file, or too long.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("cannot open", e).with_path(path))?;
    if !metadata.is_file() {
        return Err(Error::invalid("is not a regular file").with_path(path));
    }
    if metadata.len() > MAX_LEN {
        return Err(Error::invalid(format!("has {} bytes, and {MAX_LEN} are allowed", metadata.len())).with_path(path));
    }
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text));
    read.map_err(|e| Error::io("cannot read", e).with_path(path))?;
    Ok(text)
}
