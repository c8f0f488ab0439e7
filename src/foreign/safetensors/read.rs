//! The index of a safetensors file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::json::Json;
use super::{DTYPES, HEADER_AT, METADATA};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::dtype::DType;
use crate::format::limits::Limits;
use crate::format::{index, layout, len_usize};
use crate::read::GuestIndex;
use crate::source::ReadAt;

/// What to do about a header that is wrong.
const WRITER_ADVICE: &str = "write the file again with a program that follows the format";

/// A tensor as the header has it.
struct Entry<'a> {
    name: Cow<'a, str>,
    /// Where in the file the name lies.
    at: u64,
    dtype: DType,
    shape: Vec<u64>,
    start: u64,
    end: u64,
}

impl Entry<'_> {
    #[cold]
    fn broken(&self, message: impl Into<String>) -> Error {
        self.error(ErrorKind::Malformed, message).with_advice(WRITER_ADVICE)
    }

    #[cold]
    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_tensor(&self.name).with_offset(self.at)
    }

    /// Checks that the data is as long as shape and dtype say.
    fn check_shape(&self) -> Result<()> {
        let Entry { dtype, shape, start, end, .. } = self;
        // What Dolmen's own index cannot hold.
        if shape.len() > usize::from(u8::MAX) {
            let message = format!("its rank is {}, and 255 is the most that is supported", shape.len());
            return Err(self.error(ErrorKind::Limit, message));
        }
        if self.name.len() > index::MAX_NAME_LEN {
            let message = format!("its name has {} bytes, and {} are supported", self.name.len(), index::MAX_NAME_LEN);
            return Err(self.error(ErrorKind::Limit, message));
        }
        let Some(count) = layout::element_count(shape, dtype.bits()) else {
            return Err(self.broken(format!("the number of its elements, of shape {shape:?}, overflows")));
        };
        let Some(len) = end.checked_sub(*start) else {
            return Err(self.broken(format!("its data ends at {end}, before it begins at {start}")));
        };
        let bits = count.saturating_mul(u64::from(dtype.bits()));
        if !bits.is_multiple_of(8) {
            let message = format!("shape {shape:?} of {dtype} takes {bits} bits, which are no whole number of bytes");
            return Err(self.broken(message));
        }
        let expected = bits.div_euclid(8);
        if expected != len {
            let message = format!("shape {shape:?} of {dtype} takes {expected} bytes, and its data has {len}");
            return Err(self.broken(message).with_numbers(expected, len));
        }
        Ok(())
    }
}

/// The index of a safetensors file: each tensor a storage of its own, without CRC.
///
/// **Cost**: reads the header; memory a small multiple of the header's length, which is bounded by the file's.
///
/// # Errors
/// [`Malformed`](ErrorKind::Malformed) with the tensor and the byte; [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for a dtype that is
/// not known; [`Limit`](ErrorKind::Limit).
pub(crate) fn read_index(source: &dyn ReadAt, limits: &Limits) -> Result<GuestIndex> {
    let cannot_read = |e| Error::io("cannot read", e);
    let file_len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
    let mut len = [0; 8];
    source.read_exact_at(&mut len, 0).map_err(cannot_read)?;
    let header_len = u64::from_le_bytes(len);
    let data_at = match HEADER_AT.checked_add(header_len) {
        Some(end) if end <= file_len => end,
        end => {
            let end = end.unwrap_or(u64::MAX);
            let message = format!(
                "the header of {header_len} bytes does not fit a file of {file_len}: it is short by at least {} bytes",
                end.saturating_sub(file_len)
            );
            let e = Error::new(ErrorKind::Malformed, message).with_offset(0).with_numbers(end, file_len);
            return Err(e.cut_off());
        }
    };
    limits.check("the length of the header,", header_len, limits.max_index_len)?;
    let no_memory = || Error::io("cannot hold the header in memory", std::io::ErrorKind::OutOfMemory.into());
    let len = len_usize(header_len).ok_or_else(no_memory)?;
    let mut header = Vec::new();
    header.try_reserve_exact(len).map_err(|_| no_memory())?;
    header.resize(len, 0);
    source.read_exact_at(&mut header, HEADER_AT).map_err(cannot_read)?;

    let (mut entries, metadata) = parse(&header, limits).map_err(|e| match e.advice() {
        Some(_) => e,
        None => e.with_advice(WRITER_ADVICE),
    })?;
    check_names(&mut entries)?;
    check_places(&mut entries, data_at, file_len)?;

    let mut index = GuestIndex::new("safetensors", "");
    for entry in entries {
        let Entry { name, dtype, shape, start, end, .. } = entry;
        // Neither overflows: the places were checked.
        let storage = index.storage(data_at.saturating_add(start), end.saturating_sub(start), None)?;
        index.tensor(&name, dtype, shape, None, storage, 0)?;
    }
    for (key, value) in metadata {
        index.metadata(key, &*value);
    }
    Ok(index)
}

type Metadata<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// What the header says, in its order.
fn parse<'a>(header: &'a [u8], limits: &Limits) -> Result<(Vec<Entry<'a>>, Metadata<'a>)> {
    let mut json = Json::new(header, HEADER_AT);
    let mut entries = Vec::new();
    let mut metadata: Option<Metadata<'a>> = None;
    json.object(|json, name, at| {
        if name == METADATA {
            let mut map = Metadata::new();
            json.object(|json, key, at| {
                let value = json.string("text")?;
                if map.contains_key(&key) {
                    let message = format!("the key {} occurs twice in the metadata", quoted(&key));
                    return Err(Error::new(ErrorKind::Malformed, message).with_offset(at));
                }
                map.insert(key, value);
                Ok(())
            })?;
            return match metadata.replace(map) {
                None => Ok(()),
                Some(_) => {
                    let e = Error::new(ErrorKind::Malformed, "the header has metadata twice");
                    Err(e.with_offset(at))
                }
            };
        }
        limits.check(
            "the number of tensors,",
            crate::format::len_u64(entries.len()).saturating_add(1),
            limits.max_tensors,
        )?;
        entries.push(entry(json, name, at)?);
        Ok(())
    })?;
    json.end()?;
    Ok((entries, metadata.unwrap_or_default()))
}

/// The object of one tensor.
fn entry<'a>(json: &mut Json<'a>, name: Cow<'a, str>, at: u64) -> Result<Entry<'a>> {
    let mut dtype = None;
    let mut shape = None;
    let mut offsets = None;
    let fields = json.object(|json, key, at| {
        let again = match &*key {
            "dtype" => {
                let text = json.string("a dtype")?;
                let Some(&(_, known)) = DTYPES.iter().find(|(name, _)| *name == text) else {
                    let message = format!("its dtype {} is not known", quoted(&text));
                    let e = Error::new(ErrorKind::UnsupportedVersion, message).with_offset(at);
                    return Err(e.with_advice("a later version of Dolmen may read it"));
                };
                dtype.replace(known).is_some()
            }
            "shape" => {
                let mut dims = Vec::new();
                json.array(|json| {
                    dims.push(json.integer()?);
                    Ok(())
                })?;
                shape.replace(dims).is_some()
            }
            "data_offsets" => {
                let mut numbers = (None, None);
                json.array(|json| {
                    let number = Some(json.integer()?);
                    match &mut numbers {
                        (place @ None, _) | (_, place @ None) => *place = number,
                        _ => return Err(json.broken("there are more than two data_offsets")),
                    }
                    Ok(())
                })?;
                let (Some(start), Some(end)) = numbers else {
                    return Err(json.broken("there are fewer than two data_offsets"));
                };
                offsets.replace((start, end)).is_some()
            }
            _ => {
                let message = format!("the format has no field {}", quoted(&key));
                return Err(Error::new(ErrorKind::Malformed, message).with_offset(at));
            }
        };
        if again {
            return Err(Error::new(ErrorKind::Malformed, format!("its {key} is there twice")).with_offset(at));
        }
        Ok(())
    });
    fields.map_err(|e| e.with_tensor(&name))?;
    let (Some(dtype), Some(shape), Some((start, end))) = (dtype, shape, offsets) else {
        let message = "of dtype, shape and data_offsets, one is missing";
        return Err(Error::new(ErrorKind::Malformed, message).with_tensor(&name).with_offset(at));
    };
    let entry = Entry { name, at, dtype, shape, start, end };
    entry.check_shape()?;
    Ok(entry)
}

/// Refuses a name that occurs twice: readers differ in which of the two they take.
fn check_names(entries: &mut [Entry<'_>]) -> Result<()> {
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.at.cmp(&b.at)));
    match entries.iter().zip(entries.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        Some((_, second)) => Err(second.broken("the name occurs twice in the header")),
        None => Ok(()),
    }
}

/// Checks that the data of the tensors lies one after the other, from the first byte to the last, and sorts them by that.
fn check_places(entries: &mut [Entry<'_>], data_at: u64, file_len: u64) -> Result<()> {
    entries.sort_by_key(|entry| (entry.start, entry.end));
    let data_len = file_len.saturating_sub(data_at);
    let mut next = 0;
    let mut cut = None;
    for entry in entries.iter() {
        let Entry { start, end, .. } = entry;
        if *start > next {
            let message = format!("its data begins at {start}, and what is before it ends at {next}: a hole");
            return Err(entry.broken(message).with_numbers(next, *start));
        }
        if *start < next {
            let message =
                format!("its data begins at {start}, within what is before it and ends at {next}: an overlap");
            return Err(entry.broken(message).with_numbers(next, *start));
        }
        next = *end;
        if next > data_len && cut.is_none() {
            cut = Some(entry);
        }
    }
    let end = data_at.saturating_add(next);
    if let Some(entry) = cut {
        let message = format!(
            "the file is short by {} bytes: it has {file_len}, and this tensor is the first to end beyond that",
            next.saturating_sub(data_len)
        );
        let e = entry.error(ErrorKind::Malformed, message).with_offset(file_len).with_numbers(end, file_len);
        return Err(e.cut_off());
    }
    if next < data_len {
        let message = format!("the file has {} bytes too many after its last tensor", data_len.saturating_sub(next));
        let e = Error::new(ErrorKind::Malformed, message).with_offset(end).with_numbers(end, file_len);
        return Err(e.with_advice(WRITER_ADVICE));
    }
    Ok(())
}
