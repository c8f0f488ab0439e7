//! Writing an array.

use std::io::{self, BufWriter, Write};

use super::header::fortran_strides;
use super::{Written, written_as};
use crate::error::{Error, Result};
use crate::foreign::held::Held;
use crate::foreign::notes::Notes;
use crate::foreign::{NPY_MAGIC, check_expansion};
use crate::format::len_u64;
use crate::read::TensorView;

const BUFFER_LEN: usize = 1 << 20;
/// NumPy pads headers to this, so that the data of a mapped file is aligned.
const ALIGNMENT: usize = 64;
/// NumPy leaves room for the first dim to grow in place to so many digits.
const GROWTH_DIGITS: usize = 21;

/// Writes a tensor as a `.npy` file, byte for byte as NumPy does.
///
/// The data is verified as it is read. A tensor whose strides are exactly those of Fortran order is written in it; other strided ones are
/// made contiguous. Dtypes that NumPy lacks (bf16, the 8-bit floats, c32, opaque ones) are written as raw void of the same bytes. All
/// that is noted. Values are written as the checkpoint's document says that they are, conjugated or negated and then in row-major order; that
/// they are quantised is noted.
///
/// **Cost**: decodes the document; one pass over the data, a buffer of 1 MiB. A strided tensor of a checkpoint that
/// [reads on demand](crate::Checkpoint::open_on_demand) is read into memory.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for packed dtypes; [`Limit`](crate::ErrorKind::Limit) for strides that expand to more
/// than the storage's own length and more than 256 MiB; [`Io`](crate::ErrorKind::Io); and what is damaged in the data.
pub fn write_npy(tensor: &TensorView<'_>, out: impl io::Write) -> Result<Notes> {
    let mut notes = Notes::default();
    let held = Held::of(tensor.checkpoint())?;
    let header = array_header(tensor, &held, &mut notes)?;
    let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
    let cannot = |e| Error::io("cannot write", e);
    out.write_all(&header).map_err(cannot)?;
    write_data(tensor, &held, &mut out)?;
    out.flush().map_err(cannot)?;
    Ok(notes)
}

/// As [`write_npy()`], to a path: atomically and durably. See [`commit`](crate::commit) for what that means.
///
/// A validator among the options must be one for such files.
///
/// # Errors
/// As [`write_npy()`]; with every error but [`NotDurable`](crate::ErrorKind::NotDurable) the old file, if any, is untouched.
pub fn save(
    tensor: &TensorView<'_>,
    path: impl AsRef<std::path::Path>,
    options: &crate::commit::SaveOptions,
) -> Result<Notes> {
    let path = path.as_ref();
    let save = || {
        let mut file = crate::commit::AtomicFile::create(path, options)?;
        let notes = write_npy(tensor, &mut file)?;
        file.commit()?;
        Ok(notes)
    };
    save().map_err(|e: Error| e.with_path(path))
}

/// Whether the bytes of a tensor, as they lie, are its elements in Fortran order and not in row-major order too.
fn is_fortran(tensor: &TensorView<'_>, held: &Held) -> bool {
    !tensor.is_contiguous()
        && !held.changes(tensor)
        && tensor.explicit_strides().is_some_and(|strides| strides == fortran_strides(tensor.shape()))
}

/// The bytes before the data.
pub(crate) fn array_header(tensor: &TensorView<'_>, held: &Held, notes: &mut Notes) -> Result<Vec<u8>> {
    let dtype = tensor.dtype();
    let descr = match written_as(dtype) {
        Some(Written::Exactly(descr)) => descr.to_owned(),
        Some(Written::Void(bytes)) => {
            notes
                .tensor(tensor.name(), format_args!("{dtype}, which NumPy lacks, is written as void of {bytes} bytes"));
            format!("|V{bytes}")
        }
        None => {
            let e = Error::invalid(format!("NumPy has no packed dtype such as {dtype}")).with_tensor(tensor.name());
            return Err(e.with_advice("write its bytes with `dolmen extract --raw`"));
        }
    };
    let fortran = is_fortran(tensor, held);
    if !fortran && !tensor.is_contiguous() {
        check_expansion(tensor)?;
        notes.tensor(tensor.name(), "its strides are made contiguous");
    }
    notes.lost(held, tensor);
    let dims: Vec<String> = tensor.shape().iter().map(u64::to_string).collect();
    let shape = match &*dims {
        [one] => format!("({one},)"),
        dims => format!("({})", dims.join(", ")),
    };
    let order = if fortran { "True" } else { "False" };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
    let growing = if fortran { dims.last() } else { dims.first() };
    let room = growing.map_or(0, |dim| GROWTH_DIGITS.saturating_sub(dim.len()));
    text.extend(std::iter::repeat_n(' ', room));
    Ok(framed(text))
}

/// A header's text with magic, version, length and padding.
fn framed(text: String) -> Vec<u8> {
    let frame = |version: u8, len_len: usize| {
        let used = NPY_MAGIC.len().saturating_add(2).saturating_add(len_len);
        let used = used.saturating_add(text.len()).saturating_add(1);
        // As NumPy does: at least one space.
        let padding = ALIGNMENT.saturating_sub(used.checked_rem(ALIGNMENT).unwrap_or_default());
        let len = len_u64(text.len().saturating_add(padding).saturating_add(1));
        let mut bytes = [NPY_MAGIC, &[version, 0]].concat();
        bytes.extend_from_slice(len.to_le_bytes().get(..len_len).unwrap_or_default());
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend(std::iter::repeat_n(b' ', padding));
        bytes.push(b'\n');
        (bytes, len)
    };
    match frame(1, 2) {
        (bytes, len) if len <= u64::from(u16::MAX) => bytes,
        // 255 axes of 20 digits do not come here, but a length must never be cut.
        _ => frame(2, 4).0,
    }
}

/// The data in the order that the header says.
pub(crate) fn write_data(tensor: &TensorView<'_>, held: &Held, out: &mut dyn Write) -> Result<()> {
    let write = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("cannot write", e));
    match is_fortran(tensor, held) {
        true => tensor.stream_extent(write),
        false => held.stream(tensor, write),
    }
}
