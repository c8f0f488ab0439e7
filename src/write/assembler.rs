//! Puts a file together, record by record, in one pass (`spec/format.md` sections 3 and 11).

use super::FileOptions;
use super::sink::{BUFFER_LEN, Buffered, Sink};
use crate::error::{Error, Result};
use crate::format::catalog::{Catalog, Defaults, Extras, Storage, Tensor, check_tensor};
use crate::format::checksum::BlockHasher;
use crate::format::descriptor::{self, Descriptor};
use crate::format::dtype::DType;
use crate::format::header::{HEADER_LEN_U64, Header, MINOR};
use crate::format::layout::{self, RECORD_ALIGNMENT};

/// Data is checksummed and then passed on, while it is still in the cache, in pieces that end at multiples of this in the file.
///
/// The system keeps what was written in one piece together, and maps it in one step later: of a file written in pieces of 256 KiB, mapping
/// took almost as long as the CRC. Pieces of 2 MiB map a little faster still, but memory in whole huge pages can be slow to come by.
const PIECE: u64 = 1 << 20;

/// How many bytes of a record's data are written between two notes of how far it has come.
///
/// Who salvages an interrupted save can verify what the last note speaks of. A note is a write of a hundred bytes: in a thousandth of the time
/// that the data takes.
const NOTE_EVERY: u64 = 4 << 20;
// At multiples of a piece, all that was given has been passed on.
const _: () = assert!(PIECE.is_multiple_of(BUFFER_LEN as u64) && NOTE_EVERY.is_multiple_of(PIECE));

/// What was known before the data was seen: for sinks that take no corrections.
pub(crate) struct Known {
    pub(crate) header: Header,
    pub(crate) storages: Vec<Storage>,
}

/// Puts a file together.
///
/// One record is begun, given its data, and ended, before the next one. After an error it must be dropped.
pub(crate) struct Assembler<S: Sink> {
    sink: Buffered<S>,
    options: FileOptions,
    /// Where the next byte goes.
    cursor: u64,
    catalog: Catalog,
    known: Option<Known>,
    open: Option<OpenRecord>,
    /// Reused for each descriptor.
    scratch: Vec<u8>,
}

/// The record that is being written.
struct OpenRecord {
    name: String,
    tensor: Tensor,
    record_offset: u64,
    data_offset: u64,
    declared_len: Option<u64>,
    hasher: BlockHasher,
    first_block: u64,
    written: u64,
    check: ContentCheck,
    progress: Option<Progress>,
}

/// How far a record of rows has come: in its descriptor, for who must salvage it (section 5 of the specification).
struct Progress {
    row_len: u64,
    /// The end of the last whole row that lay before a multiple of [`PIECE`] in the file, and the CRC up to there.
    whole_rows: u64,
    crc32: u32,
    /// How much the last note spoke of.
    noted: u64,
}

impl Progress {
    /// Of a contiguous tensor that takes all of its storage, and has rows of whole bytes.
    fn of(tensor: &Tensor, declared_len: Option<u64>) -> Option<Progress> {
        let row_len = layout::row_len(tensor.shape.get(1..)?, tensor.dtype.bits())?;
        let len = tensor.shape.first()?.checked_mul(row_len)?;
        let is_all =
            tensor.strides.is_none() && tensor.start == 0 && declared_len.is_none_or(|declared| declared == len);
        is_all.then_some(Progress { row_len, whole_rows: 0, crc32: 0, noted: 0 })
    }
}

impl OpenRecord {
    /// Says in the record's descriptor how many whole rows were written, and their CRC.
    fn note<S: Sink>(&mut self, scratch: &mut Vec<u8>, sink: &mut Buffered<S>) -> Result<()> {
        let Some(progress) = &mut self.progress else { return Ok(()) };
        let mut shape = self.tensor.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = progress.whole_rows / progress.row_len;
        }
        let descriptor = Descriptor {
            name: &self.name,
            dtype: self.tensor.dtype,
            shape: &shape,
            strides: None,
            storage: self.tensor.storage,
            start: 0,
            data_offset: self.data_offset,
            data_len: progress.whole_rows,
            data_crc32: progress.crc32,
            view: false,
            unfinished: true,
        };
        scratch.clear();
        descriptor.encode(scratch)?;
        sink.patch(self.record_offset, scratch)?;
        progress.noted = progress.whole_rows;
        Ok(())
    }
}

/// What the format asks of the elements themselves (section 11, item 5).
enum ContentCheck {
    None,
    /// Bytes of this range of the storage are 0 or 1.
    Bool(std::ops::Range<u64>),
    /// Of the byte at this place these bits are 0.
    LastByte(u64, u8),
}

impl ContentCheck {
    fn new(tensor: &Tensor) -> ContentCheck {
        let extent = layout::extent(&tensor.shape, tensor.strides.as_deref(), tensor.dtype.bits()).unwrap_or(0);
        let bits =
            layout::element_count(&tensor.shape, tensor.dtype.bits()).unwrap_or(0) * u64::from(tensor.dtype.bits());
        match tensor.dtype {
            _ if extent == 0 => ContentCheck::None,
            // Between the elements of a strided tensor may lie what is no bool.
            DType::Bool if tensor.strides.is_none() => ContentCheck::Bool(tensor.start..tensor.start + extent),
            dtype if dtype.is_packed() && !bits.is_multiple_of(8) => {
                ContentCheck::LastByte(tensor.start + extent - 1, 0xFF << (bits % 8))
            }
            _ => ContentCheck::None,
        }
    }

    /// Checks the bytes at `at` of the storage.
    fn check(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at + bytes.len() as u64;
        match self {
            ContentCheck::None => Ok(()),
            ContentCheck::Bool(range) => {
                let (from, to) = (range.start.clamp(at, end) - at, range.end.clamp(at, end) - at);
                if bytes[from as usize..to as usize].iter().all(|&byte| byte <= 1) {
                    return Ok(());
                }
                Err(Error::invalid("a bool is neither 0 nor 1").with_advice("write it as u8"))
            }
            &ContentCheck::LastByte(place, unused) => {
                if (at..end).contains(&place) && bytes[(place - at) as usize] & unused != 0 {
                    return Err(Error::invalid("unused bits of the last byte of a packed tensor are not 0"));
                }
                Ok(())
            }
        }
    }
}

fn too_long() -> Error {
    Error::invalid("the file would be longer than the format can say")
}

impl<S: Sink> Assembler<S> {
    /// Begins a file; writes its (provisional) header.
    pub(crate) fn new(sink: S, options: FileOptions, known: Option<Known>) -> Result<Assembler<S>> {
        let mut sink = Buffered::new(sink);
        let provisional = Header::provisional(options.alignment_log2, options.block_log2);
        sink.append(&known.as_ref().map_or(provisional, |known| known.header).to_bytes())?;
        Ok(Assembler {
            sink,
            options,
            cursor: HEADER_LEN_U64,
            catalog: Catalog::default(),
            known,
            open: None,
            scratch: Vec::new(),
        })
    }

    #[cfg(feature = "fs")]
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where the file goes.
    #[cfg(feature = "fs")]
    pub(crate) fn sink(&self) -> &S {
        self.sink.inner()
    }

    fn check_new_name(&self, name: &str) -> Result<()> {
        if let Some(open) = &self.open {
            return Err(Error::invalid("it was begun and not finished").with_tensor(&open.name));
        }
        if self.catalog.tensors.contains_key(name) {
            return Err(Error::invalid("a tensor of this name was written before").with_tensor(name));
        }
        Ok(())
    }

    fn zeros(&mut self, to: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.cursor < to {
            let now = (to - self.cursor).min(ZEROS.len() as u64);
            self.sink.append(&ZEROS[..now as usize])?;
            self.cursor += now;
        }
        Ok(())
    }

    fn put_descriptor(&mut self, descriptor: &Descriptor<'_>) -> Result<()> {
        self.scratch.clear();
        descriptor.encode(&mut self.scratch)?;
        self.sink.append(&self.scratch)?;
        self.cursor += self.scratch.len() as u64;
        Ok(())
    }

    /// Begins a record that introduces a storage. With no declared length, the tensor's first dim is 0 and will be known
    /// when the record ends. A `copy` is carried along as it is; the elements of what is new are checked.
    pub(crate) fn begin(
        &mut self,
        name: &str,
        mut tensor: Tensor,
        declared_len: Option<u64>,
        copy: bool,
    ) -> Result<()> {
        self.check_new_name(name)?;
        check_tensor(name, &tensor, declared_len.unwrap_or(u64::MAX))?;
        let number = self.catalog.storages.len();
        tensor.storage =
            u32::try_from(number).ok().filter(|&n| n < u32::MAX).ok_or_else(|| Error::invalid("too many storages"))?;
        let record_offset = self.cursor;
        let known = self.known.as_ref().and_then(|known| known.storages.get(number)).copied();
        let mut descriptor = Descriptor {
            name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            strides: tensor.strides.as_deref(),
            storage: tensor.storage,
            start: tensor.start,
            data_offset: 0,
            data_len: declared_len.unwrap_or(0),
            data_crc32: known.map_or(0, |known| known.crc32),
            view: false,
            unfinished: declared_len.is_none(),
        };
        descriptor.data_offset = descriptor
            .encoded_len()
            .and_then(|len| descriptor::data_offset(record_offset, len, self.options.alignment_log2))
            .ok_or_else(too_long)?;
        let data_offset = descriptor.data_offset;
        data_offset.checked_add(declared_len.unwrap_or(0)).ok_or_else(too_long)?;
        self.put_descriptor(&descriptor)?;
        self.zeros(data_offset)?;
        let blocks = std::mem::take(&mut self.catalog.blocks);
        let progress = if self.sink.outlives_its_writer() { Progress::of(&tensor, declared_len) } else { None };
        self.open = Some(OpenRecord {
            name: name.to_owned(),
            progress,
            check: if declared_len.is_some() && !copy { ContentCheck::new(&tensor) } else { ContentCheck::None },
            tensor,
            record_offset,
            data_offset,
            declared_len,
            first_block: blocks.len() as u64,
            hasher: BlockHasher::new(self.options.block_log2, blocks),
            written: 0,
        });
        Ok(())
    }

    /// Takes the next bytes of the open record's data.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Err(Error::invalid("no tensor was begun")) };
        let end = open.written.checked_add(bytes.len() as u64).ok_or_else(too_long)?;
        if let Some(declared) = open.declared_len.filter(|&declared| end > declared) {
            let e = Error::invalid(format!("more bytes were given than its {declared}"));
            return Err(e.with_tensor(&open.name).with_numbers(declared, end));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PIECE - self.cursor % PIECE;
            let (piece, later) = rest.split_at(rest.len().min(room as usize));
            if open.declared_len.is_none() && open.tensor.dtype == DType::Bool {
                ContentCheck::Bool(0..u64::MAX).check(open.written, piece).map_err(|e| e.with_tensor(&open.name))?;
            }
            open.check.check(open.written, piece).map_err(|e| e.with_tensor(&open.name))?;
            let end = open.written + piece.len() as u64;
            let mut unhashed = piece;
            let mut note = false;
            if let Some(progress) = &mut open.progress
                && piece.len() as u64 == room
                && let Some(within) = (end - end % progress.row_len).checked_sub(open.written)
            {
                let (whole, part) = piece.split_at(within as usize);
                open.hasher.update(whole);
                (progress.whole_rows, progress.crc32) = (open.written + within, open.hasher.so_far());
                unhashed = part;
                note = progress.whole_rows - progress.noted >= NOTE_EVERY;
            }
            open.hasher.update(unhashed);
            self.sink.append(piece)?;
            open.written = end;
            self.cursor += piece.len() as u64;
            if note {
                open.note(&mut self.scratch, &mut self.sink)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Ends the open record. `first_dim` is the first dim of a tensor whose length was not declared.
    pub(crate) fn end(&mut self, first_dim: Option<u64>) -> Result<()> {
        let Some(open) = self.open.take() else { return Err(Error::invalid("no tensor was begun")) };
        let OpenRecord {
            name, mut tensor, record_offset, data_offset, declared_len, hasher, first_block, written, ..
        } = open;
        if let Some(declared) = declared_len.filter(|&declared| declared != written) {
            let e = Error::invalid(format!("{written} bytes were given, and it has {declared}"));
            return Err(e.with_tensor(&name).with_numbers(declared, written));
        }
        if let (Some(first_dim), Some(dim)) = (first_dim, tensor.shape.first_mut()) {
            *dim = first_dim;
            check_tensor(&name, &tensor, written)?;
        }
        let (data_len, crc32, blocks) = hasher.finish();
        self.catalog.blocks = blocks;
        self.scratch.clear();
        let descriptor = Descriptor {
            name: &name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            strides: tensor.strides.as_deref(),
            storage: tensor.storage,
            start: tensor.start,
            data_offset,
            data_len,
            data_crc32: crc32,
            view: false,
            unfinished: false,
        };
        descriptor.encode(&mut self.scratch)?;
        self.sink.patch(record_offset, &self.scratch)?;
        let to = layout::round_up(self.cursor, RECORD_ALIGNMENT).ok_or_else(too_long)?;
        self.zeros(to)?;
        self.catalog.storages.push(Storage { data_offset, data_len, crc32, first_block });
        self.catalog.add(&name, tensor);
        Ok(())
    }

    /// Writes the record of a tensor over a storage that is there already.
    pub(crate) fn view(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        self.check_new_name(name)?;
        let Some(&storage) = self.catalog.storages.get(tensor.storage as usize) else {
            return Err(Error::invalid(format!("there is no storage {}", tensor.storage)).with_tensor(name));
        };
        check_tensor(name, &tensor, storage.data_len)?;
        self.put_descriptor(&Descriptor {
            name,
            dtype: tensor.dtype,
            shape: &tensor.shape,
            strides: tensor.strides.as_deref(),
            storage: tensor.storage,
            start: tensor.start,
            data_offset: storage.data_offset,
            data_len: storage.data_len,
            data_crc32: storage.crc32,
            view: true,
            unfinished: false,
        })?;
        let to = layout::round_up(self.cursor, RECORD_ALIGNMENT).ok_or_else(too_long)?;
        self.zeros(to)?;
        self.catalog.add(name, tensor);
        Ok(())
    }

    /// Writes index and trailer, and the header last of all.
    pub(crate) fn finish(mut self, extras: &Extras, defaults: &Defaults) -> Result<(S, Header, Catalog)> {
        if let Some(open) = &self.open {
            return Err(Error::invalid("it was begun and not finished").with_tensor(&open.name));
        }
        let extras = extras.encode_with(defaults, |name| self.catalog.tensors.contains_key(name))?;
        let (index, index_crc32) = self.catalog.encode_index(&extras)?;
        let file_len = self.cursor.checked_add(index.len() as u64).and_then(|end| end.checked_add(HEADER_LEN_U64));
        let header = Header {
            minor: MINOR,
            file_len: file_len.ok_or_else(too_long)?,
            index_offset: self.cursor,
            index_len: index.len() as u64,
            index_crc32,
            alignment_log2: self.options.alignment_log2,
            block_log2: self.options.block_log2,
        };
        if self.known.as_ref().is_some_and(|known| known.header != header) {
            return Err(Error::invalid("a deferred tensor gave other bytes when it was asked again"));
        }
        self.sink.append(&index)?;
        self.sink.append(&header.to_bytes())?;
        self.sink.patch(0, &header.to_bytes())?;
        Ok((self.sink.finish()?, header, self.catalog))
    }
}
