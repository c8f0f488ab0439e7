//! safetensors: a length, a JSON header, and the data of all tensors one after the other.
//!
//! ```text
//! 0        u64, little-endian: the length of the header
//! 8        JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets": [from, to]}, ...}, padded with spaces
//! 8 + len  data, which the offsets count from; no holes, no overlap, nothing after it
//! ```
//! `read` turns the header into an index, so that such a file is opened and mapped in place by
//! [`Checkpoint`](crate::Checkpoint); `write` writes the layout of the reference implementation, version 0.8. `json` is the strict
//! parser that both the format's reputation and hostile files ask for.
//!
//! Stricter than the reference implementation: names, keys of the metadata and fields that occur twice are refused, as are fields that
//! are not known. Looser: a header may be longer than 100 MB.
//!
//! The elements of `F4`, `F6_E2M3` and `F6_E3M2` are read as the packed dtypes `f4_e2m1fn`, `f6_e2m3fn` and `f6_e3m2fn`, of the same
//! shape and bytes. `f4_e2m1fn_x2`, which counts bytes, is written as `F4` with the last dim doubled.

mod json;
mod read;
mod write;

pub(crate) use read::read_index;
#[cfg(feature = "fs")]
pub use write::save;
pub use write::write;

use crate::format::dtype::DType;

/// The dtypes and their names, in the ascending order of the reference implementation: data lies in the descending one.
const DTYPES: &[(&str, DType)] = &[
    ("BOOL", DType::Bool),
    ("F4", DType::F4E2M1Fn),
    ("F6_E2M3", DType::F6E2M3Fn),
    ("F6_E3M2", DType::F6E3M2Fn),
    ("U8", DType::U8),
    ("I8", DType::I8),
    ("F8_E5M2", DType::F8E5M2),
    ("F8_E4M3", DType::F8E4M3Fn),
    ("F8_E8M0", DType::F8E8M0Fnu),
    ("F8_E4M3FNUZ", DType::F8E4M3Fnuz),
    ("F8_E5M2FNUZ", DType::F8E5M2Fnuz),
    ("I16", DType::I16),
    ("U16", DType::U16),
    ("F16", DType::F16),
    ("BF16", DType::BF16),
    ("I32", DType::I32),
    ("U32", DType::U32),
    ("F32", DType::F32),
    ("C64", DType::C64),
    ("F64", DType::F64),
    ("I64", DType::I64),
    ("U64", DType::U64),
];

/// Where the header begins: after its length.
const HEADER_AT: u64 = 8;
/// The key of the metadata, among the names of tensors.
const METADATA: &str = "__metadata__";
