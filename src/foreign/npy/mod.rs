//! `.npy`: one NumPy array.
//!
//! ```text
//! 0      \x93NUMPY, version major u8, minor u8
//! 8      length of the header: u16 (version 1.0) or u32 (2.0 and 3.0), little-endian
//! 10/12  header: a Python dict literal of descr, fortran_order and shape, padded with spaces, then \n
//!        data, to the end of the file
//! ```
//! A little-endian array is opened in place by [`Checkpoint`](crate::Checkpoint), as the only tensor of the file, named
//! [`TENSOR_NAME`]; one in Fortran order has the strides for it. A big-endian one is converted by [`import`].
//!
//! Elements that Dolmen has no dtype for but whose bits it can keep (`S`, `U`, `V`, dates and times, long double) become opaque;
//! what they were is kept in the metadata entry [`DESCR_KEY`]. Structured arrays are refused, and so are arrays of Python objects:
//! those are pickles, which can run any code and are not even looked at.

mod dtype;
mod header;
mod import;
mod write;

pub use import::import;
pub use write::{save, write_npy};

pub(super) use header::Header;
pub(super) use import::copy_elements;
pub(super) use write::{array_header, write_data};

use crate::error::{Error, ErrorKind, Result};
use crate::foreign::positioned::Positioned;
use crate::format::dtype::DType;
use crate::format::limits::Limits;
use crate::format::value::Value;
use crate::read::GuestIndex;
use crate::source::ReadAt;

/// The name of the tensor that a `.npy` file is: the format has none.
pub const TENSOR_NAME: &str = "array";
/// The metadata entry that says what the elements of opaque tensors were: a map from names to `descr`, such as `<U5`.
pub const DESCR_KEY: &str = "numpy.descr";

/// The index of a little-endian `.npy` file: one tensor, in place.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed); [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for elements that are not supported, and for
/// big-endian ones, which cannot be read in place.
pub(crate) fn read_index(source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let header = Header::read_file(source)?;
    limits.check("the length of the header,", header.data_at, limits.max_index_len)?;
    if header.element.swap.is_some() {
        let e = Error::new(ErrorKind::UnsupportedVersion, "its elements are big-endian and cannot be used in place");
        return Err(e.with_advice("convert it with `dolmen convert`, which swaps their bytes"));
    }
    let mut index = GuestIndex::new("npy", header.version());
    if let Some(descr) = header.element.opaque_descr() {
        index.metadata(DESCR_KEY, descr_value([(TENSOR_NAME, descr)]));
    }
    let strides = header.strides();
    let storage = index.storage(header.data_at, header.data_len, None)?;
    index.tensor(TENSOR_NAME, header.element.dtype, header.shape, strides, storage, 0)?;
    Ok(index)
}

/// The value of [`DESCR_KEY`].
pub(super) fn descr_value<'a>(descrs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    Value::Map(descrs.into_iter().map(|(name, descr)| (name.to_owned(), Value::from(descr))).collect())
}

/// What a tensor becomes in NumPy.
pub(super) enum Written {
    /// A dtype of NumPy's own.
    Exactly(&'static str),
    /// Raw void of so many bytes.
    Void(u32),
}

pub(super) fn written_as(dtype: DType) -> Option<Written> {
    match dtype::descr_of(dtype) {
        Some(descr) => Some(Written::Exactly(descr)),
        None if dtype.is_packed() => None,
        None => Some(Written::Void(dtype.bits().div_euclid(8))),
    }
}

impl Header {
    /// The header of a file that holds this array and nothing else.
    pub(super) fn read_file(source: &dyn ReadAt) -> Result<Header> {
        let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        let header = Header::read(&mut Positioned::new(source)?)?;
        header.check_file_len(file_len)?;
        Ok(header)
    }

    /// Checks that the data ends with the file.
    pub(super) fn check_file_len(&self, file_len: u64) -> Result<()> {
        let expected = self.data_at.saturating_add(self.data_len);
        let wrong = |message: String| {
            let e = Error::new(ErrorKind::Malformed, message).with_offset(expected.min(file_len));
            e.with_numbers(expected, file_len)
        };
        match expected.checked_sub(file_len) {
            Some(0) => Ok(()),
            Some(missing) => {
                let message = format!("the file is short by {missing} bytes: it has {file_len} of {expected}");
                Err(wrong(message).cut_off())
            }
            None => {
                let more = file_len.saturating_sub(expected);
                let advice = "if several arrays were saved into one file, save them as .npz instead";
                Err(wrong(format!("the file has {more} bytes too many after its array")).with_advice(advice))
            }
        }
    }
}
