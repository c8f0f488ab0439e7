//! Batches and loaded tensors handed over by DLPack, to a consumer that knows nothing but its structs.
#![cfg(feature = "feature")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dolmen::feature::device::Lent;
use dolmen::feature::dlpack::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPACK_FLAG_BITMASK_READ_ONLY, DLPackVersion,
    DLTensor, DlpackDevice, DlpackTensor,
};
use dolmen::feature::{
    Batch, Device, Host, HostMemory, Layout, LoadOptions, Loader, LoaderOptions, Order, Table, TableWriter,
    TableWriterOptions, load_to_device,
};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, Result, TensorData, View};

const F32: DLDataType = DLDataType { code: 2, bits: 32, lanes: 1 };
const I64: DLDataType = DLDataType { code: 0, bits: 64, lanes: 1 };
const CPU: DLDevice = DLDevice { device_type: 1, device_id: 0 };

/// The host, of which one sees how much memory it has given and not got back.
struct Watched(Arc<Counts>);

#[derive(Default)]
struct Counts {
    allocated: AtomicUsize,
    alive: AtomicUsize,
    waits: AtomicUsize,
}

struct WatchedMemory(HostMemory, Arc<Counts>);

impl Drop for WatchedMemory {
    fn drop(&mut self) {
        self.1.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Watched {
    fn memory(&self, memory: HostMemory) -> WatchedMemory {
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        WatchedMemory(memory, Arc::clone(&self.0))
    }
}

impl Device for Watched {
    type Memory = WatchedMemory;
    type Lane = ();
    type Part<'m> = &'m mut [u8];

    fn name(&self) -> String {
        "watched".to_owned()
    }

    fn allocate(&self, byte_len: usize) -> Result<WatchedMemory> {
        self.0.allocated.fetch_add(1, Ordering::SeqCst);
        Ok(self.memory(Host.allocate(byte_len)?))
    }

    fn lend(&self, bytes: Lent) -> Option<WatchedMemory> {
        Host.lend(bytes).map(|memory| self.memory(memory))
    }

    fn lane(&self) -> Result<()> {
        Ok(())
    }

    fn max_part_len(&self) -> usize {
        1000
    }

    fn lane_byte_len(&self) -> usize {
        0
    }

    fn parts<'m>(&self, memory: &'m mut WatchedMemory, byte_lens: &[usize]) -> Result<Vec<&'m mut [u8]>> {
        Host.parts(&mut memory.0, byte_lens)
    }

    fn fill(&self, (): &mut (), part: &mut [u8], write: &mut dyn FnMut(&mut [u8]) -> Result<()>) -> Result<()> {
        write(part)
    }

    fn finish(&self, (): &mut (), _: &mut WatchedMemory) -> Result<()> {
        Ok(())
    }

    fn acquire(&self, _: &mut WatchedMemory) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: &mut WatchedMemory) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _: &WatchedMemory) -> Result<()> {
        Ok(())
    }

    fn read_back(&self, memory: &WatchedMemory, bytes: Range<usize>) -> Result<Vec<u8>> {
        Host.read_back(&memory.0, bytes)
    }
}

// SAFETY: as the host's, whose memory it is.
unsafe impl DlpackDevice for Watched {
    fn dlpack_device(&self) -> DLDevice {
        Host.dlpack_device()
    }

    fn dlpack_ptr(&self, memory: &WatchedMemory) -> *const std::ffi::c_void {
        Host.dlpack_ptr(&memory.0)
    }

    fn dlpack_ptr_mut(&self, memory: &mut WatchedMemory) -> Option<*mut std::ffi::c_void> {
        Host.dlpack_ptr_mut(&mut memory.0)
    }

    fn dlpack_wait(&self) {
        self.0.waits.fetch_add(1, Ordering::SeqCst);
    }
}

/// A table of 100 rows of 3, whose element `i` is `i`, with labels or without.
fn write_table(dir: &Path, labels: bool) -> PathBuf {
    let options = TableWriterOptions::new(DType::F32, [3]).unwrap().labels(labels);
    let path = dir.join(format!("table-{labels}.dolmen"));
    let mut writer = TableWriter::single(&path, &options).unwrap();
    let ids: Vec<String> = (0..100).map(|row| format!("row{row}")).collect();
    let rows: Vec<f32> = (0..300u16).map(f32::from).collect();
    if labels {
        writer.append_labelled(&ids, &rows, &(0..100).map(|row| -row).collect::<Vec<i64>>()).unwrap();
    } else {
        writer.append(&ids, &rows).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn watched_loader(path: &Path) -> (Loader<Watched>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let table = Table::open([path], &Layout::new()).unwrap();
    // What is free when a batch is filled does not hang on threads then.
    let options = LoaderOptions::new().batch_len(10).threads(0);
    (Loader::new(&table, Watched(Arc::clone(&counts)), options).unwrap(), counts)
}

/// What a consumer finds in a tensor.
#[derive(Debug, PartialEq)]
struct Found {
    device: DLDevice,
    dtype: DLDataType,
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// The elements in row-major order, as bytes.
    bytes: Vec<u8>,
}

/// Walks a tensor as C would.
///
/// # Safety
/// It is alive, and on the host.
unsafe fn walk(tensor: &DLTensor) -> Found {
    let ndim = tensor.ndim as usize;
    assert_eq!(tensor.byte_offset, 0);
    // SAFETY: both have as many numbers as there are axes, and are not null.
    let (shape, strides) =
        unsafe { (std::slice::from_raw_parts(tensor.shape, ndim), std::slice::from_raw_parts(tensor.strides, ndim)) };
    let byte_size = usize::from(tensor.dtype.bits) / 8;
    let count: i64 = shape.iter().product();
    let mut bytes = Vec::new();
    for number in 0..count {
        let (mut rest, mut at) = (number, 0);
        for (&len, &stride) in shape.iter().zip(strides).rev() {
            at += rest % len * stride;
            rest /= len;
        }
        // SAFETY: the element is within the tensor.
        let element = unsafe { tensor.data.cast::<u8>().add(at as usize * byte_size) };
        // SAFETY: as above.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(element, byte_size) });
    }
    assert_eq!(tensor.data.is_null(), count == 0);
    Found { device: tensor.device, dtype: tensor.dtype, shape: shape.to_vec(), strides: strides.to_vec(), bytes }
}

/// What a consumer has: either form.
enum Consumed {
    Versioned(*mut DLManagedTensorVersioned),
    Unversioned(*mut DLManagedTensor),
}

// SAFETY: DLPack's tensors may be given back by any thread.
unsafe impl Send for Consumed {}

impl Consumed {
    fn versioned(tensor: DlpackTensor) -> Consumed {
        Consumed::Versioned(tensor.into_raw())
    }

    fn unversioned(tensor: DlpackTensor) -> Consumed {
        Consumed::Unversioned(tensor.into_raw_unversioned().unwrap())
    }

    fn tensor(&self) -> &DLTensor {
        // SAFETY: it was not deleted.
        unsafe {
            match *self {
                Consumed::Versioned(managed) => &(*managed).dl_tensor,
                Consumed::Unversioned(managed) => &(*managed).dl_tensor,
            }
        }
    }

    fn flags(&self) -> u64 {
        let Consumed::Versioned(managed) = *self else { return 0 };
        // SAFETY: it was not deleted.
        let managed = unsafe { &*managed };
        assert_eq!(managed.version, DLPackVersion { major: 1, minor: 1 });
        managed.flags
    }

    fn walk(&self) -> Found {
        // SAFETY: it was not deleted, and the tests' devices are hosts.
        unsafe { walk(self.tensor()) }
    }

    fn f32s(&self) -> Vec<f32> {
        let found = self.walk();
        assert_eq!(found.dtype, F32);
        found.bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }

    fn delete(self) {
        // SAFETY: it was not deleted, and nobody else has it.
        unsafe {
            match self {
                Consumed::Versioned(managed) => (*managed).deleter.unwrap()(managed),
                Consumed::Unversioned(managed) => (*managed).deleter.unwrap()(managed),
            }
        }
    }
}

fn features_of(rows: &[u64]) -> Vec<f32> {
    rows.iter().flat_map(|&row| (0..3u16).map(move |column| (row * 3) as f32 + f32::from(column))).collect()
}

/// Both forms of handing over.
const FORMS: [fn(DlpackTensor) -> Consumed; 2] = [Consumed::versioned, Consumed::unversioned];

#[test]
fn a_consumer_finds_the_batch_and_its_memory_goes_back_to_the_loader() {
    let dir = tempfile::tempdir().unwrap();
    let (loader, counts) = watched_loader(&write_table(dir.path(), true));
    for epoch in 0..3 {
        for batch in loader.epoch(Order::shuffled(5).epoch(epoch)).unwrap() {
            let batch = batch.unwrap();
            let rows = batch.rows().to_vec();
            let mut memory = batch.read_back().unwrap();
            let exported = batch.into_dlpack().unwrap();
            let form = FORMS[rows[0] as usize % 2];
            let (features, labels) = (form(exported.features), form(exported.labels.unwrap()));
            assert_eq!((features.flags(), labels.flags()), (0, 0));
            assert!(features.tensor().data.addr().is_multiple_of(256));
            assert!(labels.tensor().data.addr().is_multiple_of(256));
            assert_eq!(features.f32s(), features_of(&rows));
            let expected: Vec<u8> = rows.iter().flat_map(|&row| (-(row as i64)).to_le_bytes()).collect();
            let (shape, strides) = (vec![rows.len() as i64], vec![1]);
            assert_eq!(labels.walk(), Found { device: CPU, dtype: I64, shape, strides, bytes: expected });
            let found = features.walk();
            assert_eq!((found.device, &found.shape[..], &found.strides[..]), (CPU, &[10, 3][..], &[3, 1][..]));
            // What the consumer changes is the consumer's: the next batch is filled anew.
            memory.fill(0xAB);
            // SAFETY: it is as long as the features, which may be written to.
            unsafe { features.tensor().data.cast::<u8>().copy_from(memory.as_ptr(), memory.len()) };
            let [first, second] = if epoch == 0 { [features, labels] } else { [labels, features] };
            first.delete();
            assert_eq!(second.walk().shape[0], 10);
            std::thread::spawn(|| second.delete()).join().unwrap();
        }
        // What was given back was used again, in this epoch and in those after it.
        assert_eq!(counts.allocated.load(Ordering::SeqCst), 1);
    }
    drop(loader);
    assert_eq!(counts.alive.load(Ordering::SeqCst), 0);
}

#[test]
fn what_was_handed_over_outlives_loader_epoch_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let (loader, counts) = watched_loader(&write_table(dir.path(), true));
    let mut batches = loader.epoch(Order::sequential()).unwrap();
    let consumed: Vec<Consumed> = (&mut batches)
        .take(4)
        .map(|batch| Consumed::versioned(batch.unwrap().into_dlpack().unwrap().features))
        .collect();
    drop(batches);
    drop(loader);
    drop(dir);
    assert_eq!(counts.alive.load(Ordering::SeqCst), 4);
    for (number, tensor) in consumed.into_iter().enumerate() {
        let rows: Vec<u64> = (number as u64 * 10..number as u64 * 10 + 10).collect();
        assert_eq!(tensor.f32s(), features_of(&rows));
        std::thread::spawn(|| tensor.delete()).join().unwrap();
        assert_eq!(counts.alive.load(Ordering::SeqCst), 3 - number);
    }
}

#[test]
fn what_is_not_handed_over_gives_its_memory_back_too() {
    let dir = tempfile::tempdir().unwrap();
    let (loader, counts) = watched_loader(&write_table(dir.path(), true));
    for batch in loader.epoch(Order::shuffled(1)).unwrap() {
        drop(batch.unwrap().into_dlpack().unwrap());
    }
    assert_eq!(counts.allocated.load(Ordering::SeqCst), 1);
    drop(loader);
    assert_eq!(counts.alive.load(Ordering::SeqCst), 0);
}

fn lent_batch(path: &Path) -> Batch<Host> {
    // SAFETY: nobody changes the file while the test runs.
    let table = unsafe { Table::map([path], &Layout::new()) }.unwrap();
    let loader = Loader::new(&table, Host, LoaderOptions::new().batch_len(64)).unwrap();
    let batch = loader.epoch(Order::sequential()).unwrap().next().unwrap().unwrap();
    assert!(batch.is_lent());
    batch
}

#[test]
fn a_lent_batch_is_read_only_and_refused_where_that_cannot_be_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_table(dir.path(), false);
    let batch = lent_batch(&path);
    let at = batch.as_bytes().as_ptr();
    let exported = batch.into_dlpack().unwrap();
    assert!(exported.labels.is_none() && exported.features.is_read_only());
    let features = Consumed::versioned(exported.features);
    assert_eq!(features.flags(), DLPACK_FLAG_BITMASK_READ_ONLY);
    assert_eq!(features.tensor().data.cast_const().cast(), at, "it was copied");
    assert_eq!(features.f32s(), features_of(&(0..64).collect::<Vec<u64>>()));
    features.delete();

    let error = lent_batch(&path).into_dlpack().unwrap().features.into_raw_unversioned().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("must not be written to"), "{error}");
}

/// A checkpoint with tensors of every sort.
fn write_checkpoint(path: &Path) -> Arc<Checkpoint> {
    let mut b = Builder::new();
    b.tensor("matrix", (&[1f32, 2., 3., 4., 5., 6.], [2, 3])).unwrap();
    b.tensor("scalar", (&[7i64], [0usize; 0])).unwrap();
    b.tensor("none", (&[0f32; 0], [0, 4])).unwrap();
    b.save(path).unwrap();
    Arc::new(Checkpoint::open_on_demand(path).unwrap())
}

#[test]
fn a_loaded_tensor_is_shared_and_read_only() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write_checkpoint(&dir.path().join("model.dolmen"));
    let counts = Arc::new(Counts::default());
    let loaded = load_to_device(&checkpoint, Watched(Arc::clone(&counts)), &LoadOptions::new()).unwrap();
    let loaded = Arc::new(loaded);
    let matrix = Consumed::versioned(loaded.tensor_to_dlpack("matrix").unwrap());
    let scalar = Consumed::versioned(loaded.tensor_to_dlpack("scalar").unwrap());
    let none = Consumed::versioned(loaded.tensor_to_dlpack("none").unwrap());
    assert_eq!(loaded.tensor("matrix").unwrap().read_back().unwrap(), matrix.walk().bytes);
    let error = loaded.tensor_to_dlpack("matrix").unwrap().into_raw_unversioned().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(loaded.tensor_to_dlpack("other").unwrap_err().kind(), ErrorKind::NotFound);
    drop(loaded);
    assert_eq!(matrix.flags(), DLPACK_FLAG_BITMASK_READ_ONLY);
    assert_eq!(matrix.f32s(), [1., 2., 3., 4., 5., 6.]);
    let expected =
        Found { device: CPU, dtype: I64, shape: vec![], strides: vec![], bytes: 7i64.to_le_bytes().to_vec() };
    assert_eq!(scalar.walk(), expected);
    let expected = Found { device: CPU, dtype: F32, shape: vec![0, 4], strides: none.walk().strides, bytes: vec![] };
    assert_eq!(none.walk(), expected);
    let waits = counts.waits.load(Ordering::SeqCst);
    for tensor in [matrix, scalar, none] {
        assert_eq!(counts.alive.load(Ordering::SeqCst), 1);
        tensor.delete();
    }
    assert_eq!(counts.alive.load(Ordering::SeqCst), 0);
    assert_eq!(counts.waits.load(Ordering::SeqCst), waits + 3, "nobody waited for the consumer's work");
}

#[test]
fn a_loaded_checkpoint_that_is_given_away_may_be_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write_checkpoint(&dir.path().join("model.dolmen"));
    let counts = Arc::new(Counts::default());
    let loaded = load_to_device(&checkpoint, Watched(Arc::clone(&counts)), &LoadOptions::new()).unwrap();
    let mut tensors =
        loaded.into_dlpack().into_iter().map(|(name, tensor)| (name, Consumed::unversioned(tensor.unwrap())));
    let (name, matrix) = tensors.next().unwrap();
    assert_eq!(name, "matrix");
    // SAFETY: it has 6 elements.
    unsafe { matrix.tensor().data.cast::<f32>().add(4).write(50.) };
    let rest: Vec<_> = tensors.collect();
    assert_eq!(rest.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["none", "scalar"]);
    assert_eq!(matrix.f32s(), [1., 2., 3., 4., 50., 6.]);
    for (_, tensor) in rest {
        tensor.delete();
    }
    assert_eq!(counts.alive.load(Ordering::SeqCst), 1);
    matrix.delete();
    assert_eq!(counts.alive.load(Ordering::SeqCst), 0);
}

#[test]
fn strided_tensors_of_a_checkpoint_keep_their_strides_and_what_they_share() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("views.dolmen");
    let values: Vec<f32> = (0..24u8).map(f32::from).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut b = Builder::new();
    let storage = b.storage(bytes).unwrap();
    b.view("whole", storage, View::new(DType::F32, [4, 6]).unwrap()).unwrap();
    b.view("transposed", storage, View::new(DType::F32, [6, 4]).unwrap().strides([1, 6]).unwrap()).unwrap();
    b.view("slice", storage, View::new(DType::F32, [2, 2]).unwrap().start(28).strides([6, 2]).unwrap()).unwrap();
    b.save(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let loaded = Arc::new(load_to_device(&checkpoint, Host, &LoadOptions::new()).unwrap());
    let handed = |name| Consumed::versioned(loaded.tensor_to_dlpack(name).unwrap());
    let (whole, transposed, slice) = (handed("whole"), handed("transposed"), handed("slice"));
    assert_eq!(whole.f32s(), values);
    let columns: Vec<f32> = (0..24u8).map(|i| f32::from(i % 4 * 6 + i / 4)).collect();
    assert_eq!(transposed.f32s(), columns);
    assert_eq!(transposed.walk().strides, [1, 6]);
    assert_eq!(slice.f32s(), [7., 9., 13., 15.]);
    assert_eq!(whole.tensor().data, transposed.tensor().data);
    assert_eq!(slice.tensor().data.addr(), whole.tensor().data.addr() + 28);
    [whole, transposed, slice].into_iter().for_each(Consumed::delete);
}

#[test]
fn a_dtype_that_dlpack_does_not_have_is_an_error_that_names_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packed.dolmen");
    let mut b = Builder::new();
    b.tensor("packed", TensorData::raw(DType::F4E2M1Fn, [4], vec![0x12, 0x34]).unwrap()).unwrap();
    b.save(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let loaded = Arc::new(load_to_device(&checkpoint, Host, &LoadOptions::new()).unwrap());
    let error = loaded.tensor_to_dlpack("packed").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("packed") && error.to_string().contains("f4_e2m1fn"), "{error}");
}
