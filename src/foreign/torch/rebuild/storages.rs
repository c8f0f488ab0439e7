//! The storages that a document's tensors lie in, in the order in which it mentions them.

use std::collections::HashMap;

use super::super::archive::Record;
use super::super::made::{self, Form, Measure};
use super::super::pickle::{INLINE_LEN, Items, Payload};
use super::super::vocabulary::TorchDType;
use super::budget::Budget;
use super::lists;
use super::meaning::{self, Blob, Place};
use super::tensor::StorageId;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::dtype::DType;
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// What holds storages under keys: the records of an archive, or what follows the pickle in older files.
pub(in super::super) trait Container {
    /// Where the storage of a key is, if it is there. It should be so many bytes long.
    ///
    /// # Errors
    /// What is wrong with it.
    fn find(&self, key: &str, byte_len: u64) -> Result<Option<Found>>;

    /// Whether numbers in storages are big-endian.
    fn is_big_endian(&self) -> bool;

    /// What the offsets of payloads in the pickle refer to.
    fn pickle(&self) -> &dyn ReadAt;
}

/// Where a storage is.
#[derive(Clone, Debug)]
pub(in super::super) enum Found {
    /// As it is, in the file.
    InFile { offset: u64, len: u64, crc32: Option<u32> },
    /// A compressed record.
    Record(Box<Record>),
    /// Not there any more, in a file that is being salvaged. It had so many bytes.
    Lost { len: u64 },
}

impl Found {
    pub(in super::super) fn len(&self) -> u64 {
        match self {
            Found::InFile { len, .. } | Found::Lost { len } => *len,
            Found::Record(record) => record.len,
        }
    }
}

/// A storage as it will be listed.
#[derive(Debug)]
pub(in super::super) enum Planned {
    /// Used where it lies, or changed on the way: `swap` by numbers of so many bytes, `copy` because it is not aligned.
    Found { found: Found, swap: Option<u8>, copy: bool },
    /// Numbers that the pickle holds one by one.
    Held(Vec<u8>),
    /// The beginning of one that is cut off, and a pattern instead of the rest: in a file that is being salvaged. The pattern begins at
    /// byte `phase` of the storage.
    Filled { offset: u64, have: u64, len: u64, swap: Option<u8>, pattern: Vec<u8>, phase: u64 },
    /// Bytes within the pickle.
    Payload { payload: Payload, form: Form, len: u64, crc32: u32 },
}

impl Planned {
    pub(super) fn len(&self) -> u64 {
        match self {
            Planned::Found { found, .. } => found.len(),
            Planned::Held(bytes) => len_u64(bytes.len()),
            Planned::Payload { len, .. } | Planned::Filled { len, .. } => *len,
        }
    }
}

/// From this length on, bytes of the pickle get a storage of their own. It is that of the array, not of how the pickle has it: what is
/// saved again in another way must come out the same. What is not read into the graph is longer, however it is written.
const OWN_LEN: u64 = INLINE_LEN / 2;

/// The storages so far.
pub(super) struct Storages<'c> {
    container: &'c dyn Container,
    pub(super) planned: Vec<Planned>,
    by_key: HashMap<String, (usize, u64, &'static str)>,
    /// For each dtype, the storage that short arrays and lists of it share.
    pools: HashMap<DType, usize>,
    /// The storages of long arrays: of payloads by their places, of bytes of the graph by their addresses.
    payloads: HashMap<(u64, u64, Form), usize>,
    blobs: HashMap<(usize, Form), usize>,
}

/// What bytes of the graph stand for.
fn decode(bytes: &[u8], form: Form, byte_len: u64, budget: &mut Budget) -> Result<Vec<u8>> {
    budget.spend(byte_len)?;
    let mut decoded = Vec::new();
    let mut changer = made::Changer::new(form, &mut decoded);
    changer.take(bytes)?;
    changer.finish()?;
    Ok(decoded)
}

impl<'c> Storages<'c> {
    pub(super) fn new(container: &'c dyn Container) -> Storages<'c> {
        Storages {
            container,
            planned: Vec::new(),
            by_key: HashMap::new(),
            pools: HashMap::new(),
            payloads: HashMap::new(),
            blobs: HashMap::new(),
        }
    }

    fn plan(&mut self, planned: Planned) -> usize {
        self.planned.push(planned);
        self.planned.len().saturating_sub(1)
    }

    /// The number of the storage that a persistent id means, for a tensor whose numbers have parts of so many bytes.
    pub(super) fn of_id(&mut self, id: &StorageId<'_>, part: u64) -> Result<usize> {
        let wrong = |message: String| Error::new(ErrorKind::Malformed, message);
        let byte_len = id
            .byte_len()
            .ok_or_else(|| wrong(format!("storage {} of {} elements overflows", quoted(id.key), id.element_count)))?;
        let class = id.dtype.map_or("", |dtype| dtype.name);
        // A storage of mere bytes has numbers in the machine's order too: only the tensor says how long they are. PyTorch itself does
        // not put those right on a machine of another order.
        let part = id.dtype.map_or(part, TorchDType::component_len);
        let swap = u8::try_from(part).ok().filter(|&part| part > 1 && self.container.is_big_endian());
        if let Some(&(number, len, known)) = self.by_key.get(id.key) {
            if (len, known) != (byte_len, class) {
                let message = format!("storage {} is spoken of as two: of another length or dtype", quoted(id.key));
                return Err(wrong(message));
            }
            let swapped = match self.planned.get(number) {
                Some(Planned::Found { swap, .. }) => *swap,
                _ => None,
            };
            if swapped != swap {
                let message = format!("storage {} is big-endian, and holds numbers of different sizes", quoted(id.key));
                return Err(Error::new(ErrorKind::UnsupportedVersion, message));
            }
            return Ok(number);
        }
        let Some(found) = self.container.find(id.key, byte_len)? else {
            let message = format!("storage {} of {byte_len} bytes is not in the file", quoted(id.key));
            return Err(wrong(message).cut_off());
        };
        let copy = match found {
            Found::InFile { offset, .. } => offset.checked_rem(id.alignment()).is_none_or(|rest| rest != 0),
            Found::Record(_) | Found::Lost { .. } => true,
        };
        let number = self.plan(Planned::Found { found, swap, copy });
        self.by_key.insert(id.key.to_owned(), (number, byte_len, class));
        Ok(number)
    }

    /// The storage of bytes of the pickle, and the byte of it at which they begin. They should be so many.
    pub(super) fn of_blob(
        &mut self,
        blob: Blob<'_>,
        dtype: DType,
        swap: Option<u8>,
        byte_len: u64,
        budget: &mut Budget,
    ) -> Result<(usize, u64)> {
        let form = Form { latin1: blob.latin1, swap };
        match blob.place {
            Place::Here(bytes) if byte_len < OWN_LEN => {
                let mut decoded = decode(bytes, form, byte_len, budget)?;
                let pool = self.pool(dtype);
                let start = match self.planned.get_mut(pool) {
                    Some(Planned::Held(held)) => {
                        let start = len_u64(held.len());
                        held.append(&mut decoded);
                        start
                    }
                    _ => 0,
                };
                Ok((pool, start))
            }
            Place::Here(bytes) => {
                let key = (bytes.as_ptr().addr(), form);
                if let Some(&number) = self.blobs.get(&key) {
                    return Ok((number, 0));
                }
                let decoded = decode(bytes, form, byte_len, budget)?;
                let number = self.plan(Planned::Held(decoded));
                self.blobs.insert(key, number);
                Ok((number, 0))
            }
            Place::InFile(payload) => {
                let key = (payload.offset, payload.len, form);
                let check = |len: u64| {
                    if len == byte_len {
                        return Ok(());
                    }
                    let message = format!("an array takes {byte_len} bytes, and has {len}");
                    let e = Error::new(ErrorKind::Malformed, message).with_numbers(byte_len, len);
                    Err(e.with_offset(payload.offset))
                };
                if let Some(&number) = self.payloads.get(&key) {
                    return check(self.len_of(number)).map(|()| (number, 0));
                }
                let mut measure = Measure::default();
                made::transfer(self.container.pickle(), (payload.offset, payload.len), None, form, &mut measure)?;
                check(measure.len)?;
                let crc32 = measure.hasher.finalize();
                let number = self.plan(Planned::Payload { payload, form, len: byte_len, crc32 });
                self.payloads.insert(key, number);
                Ok((number, 0))
            }
        }
    }

    /// The storage of a list of numbers, and the byte of it at which they begin.
    pub(super) fn of_list(&mut self, items: &Items, dtype: DType) -> (usize, u64) {
        let pool = self.pool(dtype);
        let start = match self.planned.get_mut(pool) {
            Some(Planned::Held(held)) => lists::append(items, dtype, held),
            _ => 0,
        };
        (pool, start)
    }

    fn pool(&mut self, dtype: DType) -> usize {
        if let Some(&pool) = self.pools.get(&dtype) {
            return pool;
        }
        let pool = self.plan(Planned::Held(Vec::new()));
        self.pools.insert(dtype, pool);
        pool
    }

    /// The bytes of a text or byte string of the pickle.
    pub(super) fn read(&self, blob: Blob<'_>, budget: &mut Budget) -> Result<Vec<u8>> {
        budget.spend(blob.written_len())?;
        match blob.place {
            Place::Here(bytes) if blob.latin1 => Ok(meaning::decode_latin1(bytes).unwrap_or_default()),
            Place::Here(bytes) => Ok(bytes.to_vec()),
            Place::InFile(payload) => {
                let no_memory =
                    || Error::io("cannot hold a text of the pickle", std::io::ErrorKind::OutOfMemory.into());
                let mut out = Vec::new();
                out.try_reserve_exact(len_usize(payload.len).ok_or_else(no_memory)?).map_err(|_| no_memory())?;
                let form = Form { latin1: blob.latin1, swap: None };
                made::transfer(self.container.pickle(), (payload.offset, payload.len), None, form, &mut out)?;
                Ok(out)
            }
        }
    }

    pub(super) fn len_of(&self, number: usize) -> u64 {
        self.planned.get(number).map_or(0, Planned::len)
    }
}
