//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

#[cfg(feature = "cli")]
pub mod command;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(feature = "feature", unix))]
pub mod feature;
pub mod json;
#[cfg(feature = "fs")]
pub mod memory;
pub mod sha256;
#[cfg(feature = "torch")]
pub mod torch;

use std::path::{Path, PathBuf};

use dolmen::format::checksum::crc32;
use dolmen::format::value::{Dict, Value};
use dolmen::{
    Builder, Checkpoint, DType, Element, Error, ErrorKind, FileOptions, Result, TensorData, TensorView, VerifyOptions,
    View, verify_source,
};

/// The directory of the specification.
pub fn spec() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("spec")
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Runs a test that recurses deeply.
pub fn with_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 << 20).spawn_scoped(scope, work).unwrap();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Calls `work` for each item, on all processors.
pub fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

/// Numbers that look random and are the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Options for one thread: for files so small that threads cost more than they gain.
pub fn one_thread() -> VerifyOptions<'static> {
    let mut options = VerifyOptions::default();
    options.threads = 1;
    options
}

/// Whether a strict reader accepts the bytes.
pub fn is_valid(bytes: &[u8]) -> bool {
    verify_source(&bytes.to_vec().into_reader(), &one_thread()).unwrap().is_valid()
}

/// `ReadAt` is implemented for slices, which are unsized; a trait object needs something that has a size.
pub struct Reader<B>(pub B);

pub trait IntoReader: Sized {
    fn into_reader(self) -> Reader<Self> {
        Reader(self)
    }
}

impl IntoReader for Vec<u8> {}
impl IntoReader for &[u8] {}

impl<B: AsRef<[u8]> + Send + Sync> dolmen::ReadAt for Reader<B> {
    fn byte_len(&self) -> std::io::Result<u64> {
        self.0.as_ref().byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.as_ref().read_exact_at(buffer, offset)
    }
}

/// The elements in row-major order, by `for_each_run`; `None` if they expand to more than `most` bytes.
pub fn logical_bytes(tensor: &TensorView<'_>, most: usize) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let mut too_many = false;
    let result = tensor.for_each_run(|run| {
        if out.len() + run.len() > most {
            too_many = true;
            return Err(Error::new(ErrorKind::Limit, "enough"));
        }
        out.extend_from_slice(run);
        Ok(())
    });
    if too_many {
        return Ok(None);
    }
    result.map(|()| Some(out))
}

/// Asks a checkpoint for everything that it can give, as far as that is bounded. Nothing of it may panic; whether it
/// fails does not matter here.
pub fn touch_everything(checkpoint: &Checkpoint) {
    const MOST: u64 = 1 << 16;
    let header = checkpoint.header();
    let _ = (header.minor(), header.file_len(), header.index_offset(), header.index_len());
    let _ = (header.alignment(), header.block_len(), checkpoint.format_version(), checkpoint.format().len());
    let _ = (checkpoint.path(), checkpoint.is_empty(), checkpoint.storage_count(), checkpoint.limits());
    let _ = checkpoint.check_index();
    if let Ok(metadata) = checkpoint.metadata() {
        for value in metadata.values() {
            let _ = (value.tree(Default::default()).to_string(), value.descendants().count());
        }
    }
    if let Ok(Some(document)) = checkpoint.document() {
        let _ = (document.tree(Default::default()).to_string(), document.tensor_names().count());
    }
    let _: usize = checkpoint.unknown_sections().map(|(_, bytes)| bytes.len()).sum();
    let _ = checkpoint.get("no such name");
    let _ = checkpoint.tensor("no such name").map_err(|e| e.to_string());
    assert!(checkpoint.nth(checkpoint.len()).is_err());
    for tensor in checkpoint.tensors() {
        let Ok(tensor) = tensor.inspect_err(|e| drop((e.to_string(), e.reason()))) else { continue };
        let _ = checkpoint.get(tensor.name());
        let _ = (tensor.is_contiguous(), tensor.strides(), tensor.element_count(), tensor.dtype().to_string());
        let _ = (tensor.storage_crc32(), tensor.storage_len(), tensor.file_offset(), format!("{tensor:?}"));
        let _ = (tensor.bytes(), tensor.bytes_unverified(), tensor.storage_bytes());
        let _ = (tensor.bytes_of(0..1), tensor.bytes_of(tensor.byte_len()..tensor.byte_len()));
        let _ = tensor.bytes_of(tensor.byte_len()..u64::MAX);
        let _ = logical_bytes(&tensor, MOST as usize);
        let mut streamed = 0;
        let _ = tensor.stream(|piece| {
            streamed += piece.len() as u64;
            if streamed > MOST { Err(Error::new(ErrorKind::Limit, "enough")) } else { Ok(()) }
        });
        let _ = tensor.stream_storage(|_| Ok(()));
        let _ = tensor.read_into(&mut [0; 3]);
        if tensor.contiguous_byte_len() <= MOST {
            let _ = tensor.read_into(&mut vec![0; tensor.contiguous_byte_len() as usize]);
        }
        touch_as::<bool>(&tensor);
        touch_as::<u8>(&tensor);
        touch_as::<u16>(&tensor);
        touch_as::<f32>(&tensor);
        touch_as::<i64>(&tensor);
        touch_as::<[f64; 2]>(&tensor);
        let count = tensor.shape().first().copied().unwrap_or(0);
        for rows in [0..0, 0..1, 0..count, count..count, count / 2..count, count..u64::MAX, 0..u64::MAX] {
            if let Ok(rows) = tensor.rows(rows) {
                let _ = (rows.range(), rows.row_byte_len(), rows.bytes(), rows.as_slice::<f32>());
            }
        }
    }
}

fn touch_as<T: Element>(tensor: &TensorView<'_>) {
    let _ = (tensor.as_slice::<T>(), tensor.as_slice_unverified::<T>());
    if tensor.contiguous_byte_len() <= 1 << 16 {
        let _ = tensor.to_vec::<T>();
    }
}

/// Where a section of the index lies in the file, by the text of the specification alone.
pub fn section(file: &[u8], kind: u32) -> Option<std::ops::Range<usize>> {
    let index_offset = usize::try_from(u64_at(file, 24)).ok()?;
    let index_len = usize::try_from(u64_at(file, 32)).ok()?;
    let index = file.get(index_offset..index_offset.checked_add(index_len)?)?;
    let count = index.get(..8).map(|table| u32_at(table, 0))? as usize;
    let mut at = count.checked_mul(16)?.checked_add(8)?;
    for entry in 0..count {
        let entry = index.get(8 + entry * 16..24 + entry * 16)?;
        let len = usize::try_from(u64_at(entry, 8)).ok()?;
        let end = at.checked_add(len)?;
        if u32_at(entry, 0) == kind {
            index.get(at..end)?;
            return Some(index_offset + at..index_offset + end);
        }
        at = end.checked_next_multiple_of(8)?;
    }
    None
}

/// Makes all CRCs of a file right again, and the trailer a copy of the header, as far as its structure can be made out.
///
/// So what was changed in it is not hidden behind a wrong checksum.
pub fn reseal(file: &mut [u8]) {
    if file.len() < 128 {
        return;
    }
    let (alignment_log2, block_log2) = (u32::from(file[44]).min(30), u32::from(file[45]).min(40));
    if let (Some(storages), Some(blocks)) = (section(file, 4), section(file, 5)) {
        let end = storages.end;
        for record in storages.step_by(32).filter(|at| at + 32 <= end) {
            reseal_storage(file, record, &blocks, 1 << block_log2);
        }
    }
    reseal_descriptors(file, 1 << alignment_log2);
    let index = usize::try_from(u64_at(file, 24)).ok().zip(usize::try_from(u64_at(file, 32)).ok());
    let index = index.and_then(|(offset, len)| file.get(offset..offset.checked_add(len)?));
    if let Some(crc) = index.map(crc32) {
        file[40..44].copy_from_slice(&crc.to_le_bytes());
    }
    reseal_header(file);
}

/// Makes the header's CRC right again, and the trailer a copy of the header.
pub fn reseal_header(file: &mut [u8]) {
    let crc = crc32(&file[..60]);
    file[60..64].copy_from_slice(&crc.to_le_bytes());
    let (header, rest) = file.split_at_mut(64);
    if let Some(trailer) = rest.last_chunk_mut::<64>() {
        trailer.copy_from_slice(header);
    }
}

fn reseal_storage(file: &mut [u8], record: usize, blocks: &std::ops::Range<usize>, block_len: usize) -> Option<()> {
    let offset = usize::try_from(u64_at(file, record)).ok()?;
    let len = usize::try_from(u64_at(file, record + 8)).ok()?;
    let first_block = usize::try_from(u64_at(file, record + 16)).ok()?;
    let data = file.get(offset..offset.checked_add(len)?)?;
    let crc = crc32(data);
    let crcs: Vec<u32> = data.chunks(block_len).map(crc32).collect();
    file[record + 24..record + 28].copy_from_slice(&crc.to_le_bytes());
    for (i, crc) in crcs.into_iter().enumerate() {
        let at = blocks.start.checked_add(first_block.checked_add(i)?.checked_mul(4)?)?;
        if at.checked_add(4)? <= blocks.end {
            file[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    Some(())
}

fn reseal_descriptors(file: &mut [u8], alignment: usize) -> Option<()> {
    let index_offset = usize::try_from(u64_at(file, 24)).ok()?.min(file.len());
    let storages = section(file, 4);
    let mut at = 64usize;
    while at.checked_add(64)? <= index_offset && file[at..at + 8] == *b"DOLMREC\n" {
        let len = u32_at(file, at + 8) as usize;
        let end = at.checked_add(len)?;
        if len < 68 || end > index_offset {
            return None;
        }
        let record = storages.as_ref().and_then(|storages| {
            let record = storages.start.checked_add((u32_at(file, at + 12) as usize).checked_mul(32)?)?;
            (record + 32 <= storages.end).then_some(record)
        });
        if let Some(record) = record {
            let crc: [u8; 4] = file[record + 24..record + 28].try_into().unwrap();
            file[at + 40..at + 44].copy_from_slice(&crc);
        }
        let crc = crc32(&file[at..end - 4]);
        file[end - 4..end].copy_from_slice(&crc.to_le_bytes());
        let data_end = match file[at + 51] & 2 {
            0 => end.checked_next_multiple_of(alignment)?.checked_add(usize::try_from(u64_at(file, at + 24)).ok()?)?,
            _ => end,
        };
        at = data_end.checked_next_multiple_of(64)?;
    }
    Some(())
}

/// The program whose file `spec/hexdump.md` explains.
pub fn hexdump_builder() -> Builder<'static> {
    let mut b = Builder::with_options(FileOptions::new().alignment(64).unwrap());
    b.tensor("bias", &[0.5f32, -1.0]).unwrap();
    b.tensor("weight", (&[1i8, 2, 3, 4, 5, 6], [2, 3])).unwrap();
    let storage = b.storage_of("weight").unwrap();
    b.view("weight.t", storage, View::new(DType::I8, [3, 2]).unwrap().strides([1, 3]).unwrap()).unwrap();
    b.metadata("version", "1.0");
    let model = Dict::from([("weight", Value::tensor("weight")), ("bias", Value::tensor("bias"))]);
    b.document(Dict::from([("model", Value::from(model))]).into());
    b
}

/// Small valid files of different shapes, with what is special about each.
pub fn small_files() -> Vec<(&'static str, Vec<u8>)> {
    let small = || FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap();
    let with = |build: &dyn Fn(&mut Builder<'_>)| {
        let mut b = Builder::with_options(small());
        build(&mut b);
        b.to_vec().unwrap()
    };
    let packed = |dtype: DType, n: u64, byte: u8| {
        TensorData::raw(dtype, [n], vec![byte; (n * u64::from(dtype.bits())).div_ceil(8) as usize]).unwrap()
    };
    vec![
        ("the example of the specification", hexdump_builder().to_vec().unwrap()),
        ("nothing", with(&|_| {})),
        (
            "one zero byte",
            with(&|b| {
                b.tensor("z", &[0u8]).unwrap();
            }),
        ),
        (
            "names that are no identifiers",
            with(&|b| {
                b.tensor("", &[1u8]).unwrap();
                b.tensor("\u{1F5FF}\n\"", &[2u16]).unwrap();
            }),
        ),
        (
            "packed elements",
            with(&|b| {
                b.tensor("p1", packed(DType::U1, 9, 0x01)).unwrap();
                b.tensor("p6", packed(DType::F6E2M3Fn, 4, 0xAA)).unwrap();
            }),
        ),
        (
            "a private dtype, a private section",
            with(&|b| {
                let dtype = DType::Unknown { code: 0x8001, bits: 24 };
                b.tensor("u", TensorData::raw(dtype, [2], vec![1, 2, 3, 4, 5, 6]).unwrap()).unwrap();
                b.section(0x8000_0007, vec![1, 2, 3]).unwrap();
            }),
        ),
        (
            "empty storages, one after the other",
            with(&|b| {
                b.tensor("a", (&[0f32; 0], [0, 3])).unwrap();
                b.tensor("b", (&[0f64; 0], [2, 0])).unwrap();
                b.tensor("c", &[true, false]).unwrap();
            }),
        ),
        (
            "views that overlap, repeat and begin in the middle",
            with(&|b| {
                let storage = b.storage((0..40u8).collect::<Vec<_>>()).unwrap();
                let view = |shape: &[u64]| View::new(DType::U16, shape).unwrap();
                b.view("late", storage, view(&[4]).start(16)).unwrap();
                b.view("repeat", storage, view(&[5, 2]).strides([0, 1]).unwrap().start(2)).unwrap();
                b.view("overlap", storage, view(&[4, 3]).strides([1, 1]).unwrap()).unwrap();
                b.alias("same", "late").unwrap();
            }),
        ),
        (
            "a document",
            with(&|b| {
                b.tensor("t", &[1i64]).unwrap();
                b.metadata("k", vec![Value::from(1), Value::Float(f64::NAN), Value::Bytes(vec![0, 255])]);
                let items = [Value::Tuple(vec![Value::Null]), Value::from(u64::MAX), Value::tensor("t")];
                b.document(Value::List(items.into_iter().collect()));
            }),
        ),
        (
            "metadata alone",
            with(&|b| {
                b.metadata("\u{e4}", std::collections::BTreeMap::from([(String::new(), 1.into())]));
            }),
        ),
    ]
}
