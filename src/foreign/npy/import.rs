//! Reading by conversion: what cannot be used where it lies.

use std::io::{Read, Write};
use std::path::Path;

use super::{DESCR_KEY, Header, TENSOR_NAME, descr_value};
use crate::error::{Error, ErrorKind, Result};
use crate::foreign::notes::Notes;
use crate::foreign::positioned::Positioned;
use crate::write::{Builder, View};

/// Bytes that are read at once: a multiple of every size that is swapped.
const PIECE: usize = 1 << 20;

/// Adds the array of a `.npy` file to a builder, as the tensor [`TENSOR_NAME`]; big-endian elements are made little-endian.
///
/// The data is read when the builder is saved. **Cost**: then one pass, in pieces of 1 MiB.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed), [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for elements that are not supported,
/// [`Io`](ErrorKind::Io); [`InvalidInput`](ErrorKind::InvalidInput) if the builder has such a tensor.
pub fn import(path: impl AsRef<Path>, builder: &mut Builder<'_>) -> Result<Notes> {
    let path = path.as_ref();
    add(path, builder).map_err(|e| e.with_path(path))
}

fn add(path: &Path, builder: &mut Builder<'_>) -> Result<Notes> {
    let (file, _) = crate::source::file::open_regular(path)?;
    let header = Header::read_file(&file)?;
    let mut notes = Notes::default();
    if let Some(descr) = header.element.opaque_descr() {
        notes.tensor(TENSOR_NAME, format_args!("elements {descr} are kept as opaque bytes"));
        builder.metadata(DESCR_KEY, descr_value([(TENSOR_NAME, descr)]));
    }
    let mut view = View::new(header.element.dtype, &header.shape)?;
    if let Some(strides) = header.strides() {
        view = view.strides(strides)?;
    }
    let path = path.to_path_buf();
    let storage = builder.deferred_storage(header.data_len, move |out| {
        let mut from = Positioned::new(&file).map_err(|e| e.with_path(&path))?;
        from.skip_to(header.data_at);
        copy_elements(&mut from, header.data_len, header.element.swap, out).map_err(|e| e.with_path(&path))
    })?;
    builder.view(TENSOR_NAME, storage, view)?;
    Ok(notes)
}

/// Copies data, `swap` the bytes of each number in reverse.
pub(crate) fn copy_elements(from: &mut impl Read, len: u64, swap: Option<usize>, out: &mut dyn Write) -> Result<()> {
    let mut buffer = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    let mut left = len;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let piece = buffer.get_mut(..now).unwrap_or_default();
        from.read_exact(piece).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(ErrorKind::Malformed, "the data of the array ends too early")
            }
            // What the archive's reader says of its data: that it does not inflate, or that the CRC is wrong.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                Error::new(ErrorKind::Corrupt, format!("the data of the array is damaged: {e}"))
            }
            _ => Error::io("cannot read", e),
        })?;
        if let Some(unit) = swap.filter(|&unit| unit > 0) {
            piece.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
        }
        out.write_all(piece).map_err(|e| Error::io("cannot write", e))?;
        left = left.saturating_sub(crate::format::len_u64(now));
    }
    Ok(())
}
