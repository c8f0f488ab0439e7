//! Files of other formats, read as if they had a Dolmen index.
//!
//! A guest (in `foreign`) reads the structure of its format and says here where storages and tensors lie. From that an index is made
//! in memory, over the same bytes; from then on there is no difference.

mod own;

use std::collections::BTreeMap;
use std::io::Write;

use super::open::Head;
use super::touched::AtomicSet;
use super::verify::Parts;
use super::{Checkpoint, Checks, TensorView};
use crate::error::{Error, Result};
use crate::format::catalog::{self, Catalog, Extras, Storage, Tensor};
use crate::format::dtype::DType;
use crate::format::header::{Header, MINOR};
use crate::format::layout;
use crate::format::limits::Limits;
use crate::format::value::Value;
use crate::format::{len_u64, len_usize};
use crate::source::{AlignedBytes, ReadAt, Source};

pub use own::Checked;
pub(crate) use own::Own;

/// A guest has one block for each storage, however long.
const WHOLE_STORAGE_LOG2: u8 = 63;

/// Looks at what a file has besides its storages.
type Check = dyn Fn(&dyn ReadAt, &mut Parts<'_>) -> Result<()> + Send + Sync;

/// One of those, for lists of fields.
struct CheckParts(Box<Check>);

impl std::fmt::Debug for CheckParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckParts")
    }
}

/// Where the storages and tensors of a file of another format lie: what [`open_guest`](crate::OpenOptions::open_guest) needs.
#[derive(Debug)]
pub struct GuestIndex {
    format: &'static str,
    version: String,
    catalog: Catalog,
    extras: Extras,
    /// For each storage, whether the format has a CRC of it.
    checked: Vec<bool>,
    /// Storages that do not lie in the file as they are.
    own: BTreeMap<u32, Own>,
    forms: BTreeMap<u32, &'static str>,
    parts: Option<CheckParts>,
}

/// What is kept of a guest.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) format: &'static str,
    pub(crate) version: String,
    /// The storages of which there is a CRC.
    checked: AtomicSet,
    own: BTreeMap<u32, Own>,
    forms: BTreeMap<u32, &'static str>,
    parts: Option<CheckParts>,
}

impl Guest {
    /// Whether there is a CRC of a storage.
    pub(crate) fn has_crc(&self, storage: u32) -> bool {
        len_usize(storage.into()).is_some_and(|storage| self.checked.contains(storage))
    }

    /// Whether the bytes of a storage are known to be right, one way or another.
    pub(crate) fn is_checked(&self, storage: u32) -> bool {
        self.own.get(&storage).map_or_else(|| self.has_crc(storage), Own::is_checked)
    }

    /// A storage that does not lie in the file as it is.
    pub(crate) fn own(&self, storage: u32) -> Option<&Own> {
        self.own.get(&storage)
    }

    /// Checks what the file has besides its storages.
    pub(super) fn check_parts(&self, source: &dyn ReadAt, parts: &mut Parts<'_>) -> Result<()> {
        self.parts.as_ref().map_or(Ok(()), |check| (check.0)(source, parts))
    }
}

impl GuestIndex {
    /// An empty file of a format; `version` is what it has for one, or empty.
    pub fn new(format: &'static str, version: impl Into<String>) -> GuestIndex {
        GuestIndex {
            format,
            version: version.into(),
            catalog: Catalog::default(),
            extras: Extras::default(),
            checked: Vec::new(),
            own: BTreeMap::new(),
            forms: BTreeMap::new(),
            parts: None,
        }
    }

    /// Adds a storage: where it lies in the file, how long it is, and the CRC-32 that the format has of it, if it has one. Gives its
    /// number.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are too many.
    pub fn storage(&mut self, offset: u64, byte_len: u64, crc32: Option<u32>) -> Result<u32> {
        let number = u32::try_from(self.checked.len()).ok().filter(|&n| n < u32::MAX);
        let number = number.ok_or_else(|| Error::invalid("there are too many storages"))?;
        self.catalog.storages.push(Storage {
            data_offset: offset,
            data_len: byte_len,
            crc32: crc32.unwrap_or(0),
            first_block: len_u64(self.catalog.blocks.len()),
        });
        if byte_len > 0 {
            self.catalog.blocks.push(crc32.unwrap_or(0));
        }
        self.checked.push(crc32.is_some() || byte_len == 0);
        Ok(number)
    }

    /// Adds a storage that is in memory, because the file has it in another form, such as numbers one by one.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are too many; [`Io`](crate::ErrorKind::Io) without memory for it.
    pub fn held_storage(&mut self, bytes: &[u8]) -> Result<u32> {
        let held = AlignedBytes::copy_of(bytes).map_err(|e| Error::io("cannot hold the storage in memory", e))?;
        self.own_storage(Own::Held(held))
    }

    /// Adds a storage whose bytes are made from the file when they are touched: inflated, decoded, or put in another order.
    ///
    /// `make` gets the file, and writes exactly `byte_len` bytes, the same each time. What is touched is made once and kept;
    /// what is only copied, streamed or verified is not kept, unless parts of it are streamed more than once.
    ///
    /// ```
    /// # fn main() -> dolmen::Result<()> {
    /// use dolmen::read::Checked;
    /// use dolmen::{DType, GuestIndex, OpenOptions};
    ///
    /// // A file of big-endian numbers.
    /// let mut guest = GuestIndex::new("table", "1");
    /// let storage = guest.made_storage(4, Checked::Never, |file, out| {
    ///     let mut bytes = [0; 4];
    ///     file.read_exact_at(&mut bytes, 0).map_err(|e| dolmen::Error::io("cannot read", e))?;
    ///     bytes.reverse();
    ///     out.write_all(&bytes).map_err(|e| dolmen::Error::io("cannot write", e))
    /// })?;
    /// guest.tensor("number", DType::U32, vec![], None, storage, 0)?;
    /// let ckpt = OpenOptions::new().guest_from_bytes(&[0, 0, 1, 2], guest)?;
    /// assert_eq!(ckpt.tensor("number")?.as_slice::<u32>()?, [258]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there are too many. When the bytes are touched, what `make` says, and
    /// [`Malformed`](crate::ErrorKind::Malformed) if it writes another number of them.
    pub fn made_storage(
        &mut self,
        byte_len: u64,
        checked: Checked,
        make: impl Fn(&dyn ReadAt, &mut dyn Write) -> Result<()> + Send + Sync + 'static,
    ) -> Result<u32> {
        self.own_storage(Own::made(byte_len, checked, make))
    }

    /// Says, for people, in which form the file has a storage that is not used where it lies, such as `compressed`.
    pub fn storage_form(&mut self, storage: u32, form: &'static str) {
        self.forms.insert(storage, form);
    }

    fn own_storage(&mut self, own: Own) -> Result<u32> {
        // Where it would lie in the file means nothing.
        let number = self.storage(0, own.len(), own.crc32())?;
        self.own.insert(number, own);
        Ok(number)
    }

    /// Adds a tensor: strides in elements if it has any of its own, `start` in bytes from the storage's first.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if it does not fit the storage, or the name was used before.
    pub fn tensor(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Vec<u64>,
        strides: Option<Vec<u64>>,
        storage: u32,
        start: u64,
    ) -> Result<()> {
        let strides = strides.filter(|strides| !layout::strides_are_contiguous(&shape, strides));
        let tensor = Tensor { dtype, shape, strides, storage, start };
        let Some(place) = len_usize(storage.into()).and_then(|n| self.catalog.storages.get(n)) else {
            return Err(Error::invalid(format!("there is no storage {storage}")).with_tensor(name));
        };
        catalog::check_tensor(name, &tensor, place.data_len)?;
        if self.catalog.tensors.contains_key(name) {
            return Err(Error::invalid("the name is used twice").with_tensor(name));
        }
        self.catalog.add(name, tensor);
        Ok(())
    }

    /// Sets what [`verify`](Checkpoint::verify) calls when it is done with the storages: to check the other parts of the file, such as
    /// the records of an archive that hold no tensor, and to say which parts have no checksum.
    ///
    /// `check` gets the file, and tells of every part.
    pub fn check_parts(&mut self, check: impl Fn(&dyn ReadAt, &mut Parts<'_>) -> Result<()> + Send + Sync + 'static) {
        self.parts = Some(CheckParts(Box::new(check)));
    }

    /// Sets a metadata entry.
    pub fn metadata(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.extras.metadata.insert(key.into(), value.into());
    }

    /// Sets the document.
    pub fn document(&mut self, document: Value) {
        self.extras.document = Some(document);
    }

    /// Takes the document out again.
    pub(crate) fn take_document(&mut self) -> Option<Value> {
        self.extras.document.take()
    }

    /// What was set besides tensors.
    pub(crate) fn extras(&self) -> &Extras {
        &self.extras
    }

    /// Carries along an ancillary section that this version gives no meaning to.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the kind has a meaning, or was given before.
    pub(crate) fn section(&mut self, kind: u32, bytes: Vec<u8>) -> Result<()> {
        self.extras.section(kind, bytes)
    }

    /// Whether a tensor of that name was added.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.catalog.tensors.contains_key(name)
    }
}

impl Checkpoint {
    /// A file of another format as a checkpoint.
    ///
    /// Storages of which the format has a CRC are verified when they are touched; the others are given as they are, and
    /// [`TensorView::storage_crc32`] says `None` of them.
    pub(crate) fn of_guest(source: Source, guest: GuestIndex, limits: Limits) -> Result<Checkpoint> {
        let file_len = super::open::source_len(&source)?;
        let inside = |s: &Storage| s.data_offset.checked_add(s.data_len).is_some_and(|end| end <= file_len);
        let mut in_file =
            guest.catalog.storages.iter().zip(0..).filter(|(_, n)| !guest.own.contains_key(n)).map(|(s, _)| s);
        if let Some(storage) = in_file.find(|storage| !inside(storage)) {
            let message = format!(
                "a storage of {} bytes at byte {} does not lie in a file of {file_len}",
                storage.data_len, storage.data_offset
            );
            return Err(Error::new(crate::ErrorKind::Malformed, message));
        }
        let extras = guest.extras.encode(|name| guest.catalog.tensors.contains_key(name))?;
        let (index, index_crc32) = guest.catalog.encode_index(&extras)?;
        // The index follows the file, and storages that are not in it are said to lie in front of the index nevertheless.
        let longest = guest.own.values().map(Own::len).max().unwrap_or(0);
        let header = Header {
            minor: MINOR,
            file_len,
            index_offset: file_len.max(longest),
            index_len: len_u64(index.len()),
            index_crc32,
            alignment_log2: 0,
            block_log2: WHOLE_STORAGE_LOG2,
        };
        let index = AlignedBytes::copy_of(&index).map_err(|e| Error::io("cannot hold the index in memory", e))?;
        let head = Head::parse(header, &index, &limits)?;
        let mut checkpoint = Checkpoint::new(head, source, Some(index), limits);
        let checked = AtomicSet::new(guest.checked.len());
        for (number, _) in (0..).zip(guest.checked).filter(|&(_, has_crc)| has_crc) {
            checked.insert(number);
        }
        let GuestIndex { format, version, own, forms, parts, .. } = guest;
        checkpoint.guest = Some(Guest { format, version, checked, own, forms, parts });
        checkpoint.checks = checkpoint.new_checks()?;
        Ok(checkpoint)
    }

    /// Nothing is known of any block, but for what needs no checking.
    ///
    /// **Cost**: a bit or two for each block; in a file of another format, a look at each storage.
    ///
    /// # Errors
    /// If a storage's record is broken.
    pub(crate) fn new_checks(&self) -> Result<Checks> {
        let index = self.index();
        let checks = Checks::new(index.block_count());
        let Some(guest) = &self.guest else { return Ok(checks) };
        // What cannot be verified is not verified again and again: its block counts as whole. So does what is verified when it is made.
        for number in 0..u32::try_from(index.storage_count()).unwrap_or(u32::MAX) {
            if (!guest.has_crc(number) || guest.own.contains_key(&number))
                && let Some(storage) = index.storage(number)?
                // Where there are no bytes there is no block, and the number is that of the next storage's.
                && !storage.blocks.is_empty()
            {
                checks.remember(storage.first_block, true);
            }
        }
        Ok(checks)
    }

    /// Whether there is a CRC of a storage.
    pub(super) fn has_crc(&self, storage: u32) -> bool {
        self.guest.as_ref().is_none_or(|guest| guest.has_crc(storage))
    }

    /// Whether the bytes of a storage are verified, one way or another.
    fn is_checked(&self, storage: u32) -> bool {
        self.guest.as_ref().is_none_or(|guest| guest.is_checked(storage))
    }

    /// A storage of a guest that does not lie in the file as it is.
    pub(super) fn own(&self, storage: u32) -> Option<&Own> {
        self.guest.as_ref()?.own(storage)
    }
}

impl TensorView<'_> {
    /// Whether its bytes can be verified: always in a Dolmen file, and in others if they have a CRC of it, or of what it is made from.
    pub fn is_checksummed(&self) -> bool {
        self.checkpoint().is_checked(self.storage())
    }

    /// Whether the file has its bytes as they are used. Otherwise they are made from it when they are touched first, and kept in memory.
    pub fn is_in_place(&self) -> bool {
        self.checkpoint().own(self.storage()).is_none()
    }

    /// In which other form a file of another format has its bytes, such as `compressed` or `big-endian`, for people to read.
    pub fn storage_form(&self) -> Option<&'static str> {
        self.checkpoint().guest.as_ref()?.forms.get(&self.storage()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, OpenOptions};

    #[test]
    fn a_storage_without_bytes_that_is_made_says_nothing_of_the_one_after_it() {
        let mut guest = GuestIndex::new("table", "1");
        let empty = guest.made_storage(0, Checked::WhenMade, |_, _| Ok(())).unwrap();
        let wrong_crc = 0x1234_5678;
        let damaged = guest.storage(0, 4, Some(wrong_crc)).unwrap();
        guest.tensor("empty", DType::U8, vec![0], None, empty, 0).unwrap();
        guest.tensor("damaged", DType::U8, vec![4], None, damaged, 0).unwrap();
        let checkpoint = OpenOptions::new().guest_from_bytes(b"data", guest).unwrap();
        assert!(checkpoint.tensor("empty").unwrap().bytes().unwrap().is_empty());
        assert_eq!(checkpoint.tensor("damaged").unwrap().bytes().unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
