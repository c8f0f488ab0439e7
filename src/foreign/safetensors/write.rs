//! Writing a safetensors file.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write as _};

use super::{DTYPES, METADATA};
use crate::error::{Error, Result};
use crate::foreign::check_expansion;
use crate::foreign::held::Held;
use crate::foreign::notes::{self, Notes};
use crate::format::dtype::DType;
use crate::format::len_u64;
use crate::format::value::Value;
use crate::read::{Checkpoint, TensorView};

/// The reference implementation reads no longer header.
const MAX_HEADER_LEN: usize = 100_000_000;
const BUFFER_LEN: usize = 1 << 20;

/// Writes all tensors and the metadata of a checkpoint as a safetensors file, the way the reference implementation lays it out:
/// descending by alignment of the dtype, then ascending by name, the header padded to 8 bytes.
///
/// Data is verified as it is read. Strided tensors are made contiguous, each tensor of a shared storage is written on its own, and
/// metadata that is not text is written as JSON text: all that is noted. Values are written as the document says that they are, conjugated or
/// negated; that tensors are quantised is noted. Checksums have no place in the format.
///
/// **Cost**: one pass over the data, a buffer of 1 MiB, and memory for the header. A strided tensor of a checkpoint that
/// [reads on demand](Checkpoint::open_on_demand) is read into memory.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for dtypes that the format has no name for, packed tensors that end within a byte, and a
/// tensor named `__metadata__`; [`Limit`](crate::ErrorKind::Limit) for strides that expand to more than the storage's own length and more
/// than 256 MiB; [`Io`](crate::ErrorKind::Io); and what is damaged in the data.
pub fn write(checkpoint: &Checkpoint, out: impl io::Write) -> Result<Notes> {
    let file = Plan::new(checkpoint)?;
    file.write(out)?;
    Ok(file.notes)
}

/// As [`write()`], to a path: atomically and durably. See [`commit`](crate::commit) for what that means.
///
/// A validator among the options must be one for such files.
///
/// # Errors
/// As [`write()`]; with every error but [`NotDurable`](crate::ErrorKind::NotDurable) the old file, if any, is untouched.
#[cfg(feature = "fs")]
pub fn save(
    checkpoint: &Checkpoint,
    path: impl AsRef<std::path::Path>,
    options: &crate::commit::SaveOptions,
) -> Result<Notes> {
    let path = path.as_ref();
    let save = || {
        let plan = Plan::new(checkpoint)?;
        let mut file = crate::commit::AtomicFile::create(path, options)?;
        file.preallocate(plan.file_len)?;
        plan.write(&mut file)?;
        file.commit()?;
        Ok(plan.notes)
    };
    save().map_err(|e: Error| e.with_path(path))
}

/// All that is known before data is read.
struct Plan<'a> {
    tensors: Vec<TensorView<'a>>,
    held: Held,
    /// With its length before it and its padding.
    header: Vec<u8>,
    #[cfg_attr(not(feature = "fs"), expect(dead_code, reason = "space is reserved in files alone"))]
    file_len: u64,
    notes: Notes,
}

impl<'a> Plan<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Result<Plan<'a>> {
        let mut notes = Notes::default();
        let mut ordered = Vec::with_capacity(checkpoint.len());
        let mut nameless = Vec::new();
        for tensor in checkpoint.tensors() {
            let tensor = tensor?;
            match place(tensor.dtype()) {
                Some(place) => ordered.push((std::cmp::Reverse(place), tensor)),
                None => nameless.push(tensor),
            }
        }
        if !nameless.is_empty() {
            return Err(no_name(&nameless));
        }
        // Stable: tensors come in the order of their names.
        ordered.sort_by_key(|&(place, _)| place);

        let held = Held::of(checkpoint)?;
        let mut header = Header::begin(checkpoint, &mut notes)?;
        let mut tensors = Vec::with_capacity(ordered.len());
        for (_, tensor) in ordered {
            header.tensor(&tensor, &mut notes)?;
            notes.lost(&held, &tensor);
            tensors.push(tensor);
        }
        let data_len = header.data_len;
        let header = header.finish()?;
        let file_len = len_u64(header.len()).checked_add(data_len);
        let file_len = file_len.ok_or_else(|| Error::invalid("the length of the file overflows"))?;
        notes::structure(checkpoint, &mut notes)?;
        Ok(Plan { tensors, held, header, file_len, notes })
    }

    fn write(&self, out: impl io::Write) -> Result<()> {
        let cannot = |e| Error::io("cannot write", e);
        let mut out = BufWriter::with_capacity(BUFFER_LEN, out);
        out.write_all(&self.header).map_err(cannot)?;
        for tensor in &self.tensors {
            self.held.stream(tensor, |bytes| out.write_all(bytes).map_err(cannot))?;
        }
        out.flush().map_err(cannot)
    }
}

/// Where a dtype stands in the order of dtypes; `None` if it has no name.
fn place(dtype: DType) -> Option<usize> {
    let dtype = if dtype == DType::F4E2M1FnX2 { DType::F4E2M1Fn } else { dtype };
    DTYPES.iter().position(|&(_, known)| known == dtype)
}

#[cold]
fn no_name(tensors: &[TensorView<'_>]) -> Error {
    let mut dtypes: Vec<String> = tensors.iter().map(|t| t.dtype().name().into_owned()).collect();
    dtypes.sort_unstable();
    dtypes.dedup();
    let names: Vec<&str> = tensors.iter().map(TensorView::name).collect();
    let message = format!("safetensors has no name for {}, the dtype of {}", dtypes.join(", "), notes::list(&names));
    Error::invalid(message).with_advice("convert to a Dolmen file, or leave those tensors out")
}

/// The JSON text as it grows.
struct Header {
    /// Room for the length, then the text.
    bytes: String,
    data_len: u64,
}

/// Room for the length, which is put in at the end.
const LEN_PLACE: &str = "\0\0\0\0\0\0\0\0";

impl Header {
    fn begin(checkpoint: &Checkpoint, notes: &mut Notes) -> Result<Header> {
        let mut header = Header { bytes: format!("{LEN_PLACE}{{"), data_len: 0 };
        let metadata = checkpoint.metadata()?;
        if metadata.is_empty() {
            return Ok(header);
        }
        header.key(METADATA)?;
        header.bytes.push('{');
        for (key, value) in &metadata {
            header.key(key)?;
            match value {
                Value::Text(text) => header.text(text)?,
                other => {
                    notes.push(format!("the metadata entry {} is written as JSON text", crate::error::quoted(key)));
                    header.text(&other.to_json().to_string())?;
                }
            }
        }
        header.bytes.push('}');
        Ok(header)
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let text = serde_json::to_string(text).map_err(|e| Error::invalid(format!("text cannot be JSON: {e}")))?;
        self.bytes.push_str(&text);
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<()> {
        if !self.bytes.ends_with('{') {
            self.bytes.push(',');
        }
        self.text(key)?;
        self.bytes.push(':');
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorView<'_>, notes: &mut Notes) -> Result<()> {
        let wrong = |message: String| Error::invalid(message).with_tensor(tensor.name());
        if tensor.name() == METADATA {
            return Err(wrong("safetensors keeps this name for its metadata".to_owned()));
        }
        let overflows = || wrong("its length overflows".to_owned());
        if !tensor.is_contiguous() {
            check_expansion(tensor)?;
            notes.tensor(tensor.name(), "its strides are made contiguous");
        }
        let mut shape = tensor.shape().to_vec();
        if tensor.dtype() == DType::F4E2M1FnX2 {
            match shape.last_mut() {
                Some(last) => *last = last.checked_mul(2).ok_or_else(overflows)?,
                None => shape.push(2),
            }
            notes
                .tensor(tensor.name(), "f4_e2m1fn_x2 is written as F4, which counts elements: its last dim is doubled");
        }
        let bits = tensor.element_count().checked_mul(u64::from(tensor.dtype().bits())).ok_or_else(overflows)?;
        if !bits.is_multiple_of(8) {
            let message = format!("it takes {bits} bits, and safetensors needs a whole number of bytes");
            return Err(wrong(message).with_advice("pad its last dim"));
        }
        let start = self.data_len;
        let end = start.checked_add(tensor.contiguous_byte_len()).ok_or_else(overflows)?;
        self.data_len = end;
        self.key(tensor.name())?;
        let dtype = place(tensor.dtype()).and_then(|place| DTYPES.get(place)).map_or("", |&(name, _)| name);
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        // Writing to a String does not fail.
        let _ =
            write!(self.bytes, r#"{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{start},{end}]}}"#, shape.join(","));
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>> {
        let mut bytes = self.bytes.into_bytes();
        bytes.push(b'}');
        while !bytes.len().is_multiple_of(8) {
            bytes.push(b' ');
        }
        let len = bytes.len().saturating_sub(LEN_PLACE.len());
        if len > MAX_HEADER_LEN {
            let message = format!("the header takes {len} bytes, and programs read {MAX_HEADER_LEN} at most");
            return Err(Error::invalid(message).with_advice("convert to a Dolmen file, which has no such limit"));
        }
        if let Some(place) = bytes.first_chunk_mut::<8>() {
            *place = len_u64(len).to_le_bytes();
        }
        Ok(bytes)
    }
}
