//! The pipeline on NVIDIA's GPUs: a loader's batches, loaded checkpoints, views of both, and handing them over; by a simulated driver, or by a
//! real one with `DOLMEN_CUDA_DEVICE=0`. See `tests/common/cuda.rs`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Random;
use common::cuda::{Failure, Gpu, Simulation, on_cuda, on_simulated_cuda};
use cudarc::driver::{CudaSlice, DevicePtr};
use dolmen::feature::dlpack::{DLDevice, DLManagedTensorVersioned, DlpackTensor, K_DL_CUDA};
use dolmen::feature::{
    Batch, Cuda, CudaOptions, Layout, LoadOptions, Loader, LoaderOptions, OnDamage, Order, Table, TableWriter,
    TableWriterOptions, load_to_device,
};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, FileOptions, View};

mod common;

const WIDTH: usize = 7;
const ROWS: usize = 230;

/// Small buffers, so that a batch goes through several of them.
fn options() -> CudaOptions {
    let mut options = CudaOptions::default();
    (options.staging_len, options.staging_count) = (200, 2);
    options
}

fn device(gpu: &Gpu) -> Cuda {
    Cuda::with_options(gpu.ordinal, options()).unwrap()
}

/// An element of a table: each is another number, and an f16 exactly.
fn element(row: u64, column: usize) -> f32 {
    row as f32 + column as f32 / 8.
}

fn expected(rows: &[u64], columns: std::ops::Range<usize>) -> Vec<f32> {
    rows.iter().flat_map(|&row| columns.clone().map(move |column| element(row, column))).collect()
}

fn label(row: u64) -> i64 {
    -3 * row as i64
}

/// A table over files of 100 rows, with small blocks.
fn write_table(dir: &Path, labels: bool) -> Vec<PathBuf> {
    let options = TableWriterOptions::new(DType::F32, [WIDTH]).unwrap().rows_per_file(100).labels(labels);
    let options = options.file(FileOptions::default().block_len(4096).unwrap());
    let mut writer = TableWriter::create(dir.join("part"), &options).unwrap();
    let rows: Vec<u64> = (0..ROWS as u64).collect();
    let ids: Vec<String> = rows.iter().map(|row| format!("row{row}")).collect();
    let elements = expected(&rows, 0..WIDTH);
    if labels {
        writer.append_labelled(&ids, &elements, &rows.iter().map(|&row| label(row)).collect::<Vec<_>>()).unwrap();
    } else {
        writer.append(&ids, &elements).unwrap();
    }
    writer.finish().unwrap().into_iter().map(|file| file.path).collect()
}

fn table(dir: &Path, labels: bool) -> Table {
    Table::open(write_table(dir, labels), &Layout::new()).unwrap()
}

fn loader(table: &Table, cuda: &Cuda, options: LoaderOptions) -> Loader<Cuda> {
    Loader::new(table, cuda.clone(), options).unwrap()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// A consumer's work on its stream: copies that take their time, to be looked at later.
struct Consumed {
    rows: Vec<u64>,
    features: CudaSlice<f32>,
    labels: Option<CudaSlice<i64>>,
}

fn consume(batch: &Batch<Cuda>) -> Consumed {
    let stream = batch.device().stream();
    let features = stream.clone_dtod(&batch.features_view::<f32>().unwrap()).unwrap();
    let labels = batch.labels_view().unwrap().map(|labels| stream.clone_dtod(&labels).unwrap());
    Consumed { rows: batch.rows().to_vec(), features, labels }
}

fn check(cuda: &Cuda, consumed: Vec<Consumed>) -> Vec<u64> {
    let mut all = Vec::new();
    for Consumed { rows, features, labels } in consumed {
        let features = cuda.stream().clone_dtoh(&features).unwrap();
        let labels = labels.map(|labels| cuda.stream().clone_dtoh(&labels).unwrap());
        cuda.stream().synchronize().unwrap();
        assert_eq!(features, expected(&rows, 0..WIDTH));
        if let Some(labels) = labels {
            assert_eq!(labels, rows.iter().map(|&row| label(row)).collect::<Vec<_>>());
        }
        all.extend(rows);
    }
    all
}

#[test]
fn batches_of_every_order_are_on_the_device_in_every_epoch() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let table = table(dir.path(), true);
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(32).threads(3).prefetch(2));
        for (order, epochs) in
            [(Order::sequential(), 1), (Order::shuffled(gpu.seed), 3), (Order::block_shuffled(gpu.seed, 10, 4), 2)]
        {
            for epoch in 0..epochs {
                let order = order.epoch(epoch);
                let mut consumed = Vec::new();
                for batch in loader.epoch(order).unwrap() {
                    let batch = batch.unwrap();
                    // Some are read back, which waits; the others are only asked to be copied, and their memory is filled again soon.
                    if batch.number() % 3 == 2 {
                        assert_eq!(f32s(&batch.read_back().unwrap()), expected(batch.rows(), 0..WIDTH));
                        assert_eq!(batch.read_back_labels().unwrap().as_deref(), batch.labels());
                    }
                    consumed.push(consume(&batch));
                }
                let rows = check(&cuda, consumed);
                let mut all = Vec::new();
                order.of(ROWS as u64).unwrap().extend(0..ROWS as u64, &mut all).unwrap();
                assert_eq!(rows, all);
            }
        }
    });
}

#[test]
fn batches_that_are_held_stay_as_they_are_while_others_are_made() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let table = table(dir.path(), false);
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(16).threads(2).prefetch(1));
        let mut random = Random::new(gpu.seed);
        let mut held = VecDeque::new();
        for batch in loader.epoch(Order::shuffled(1)).unwrap() {
            held.push_back(batch.unwrap());
            while random.below(4) < held.len() {
                let batch = held.remove(random.below(held.len())).unwrap();
                assert_eq!(f32s(&batch.read_back().unwrap()), expected(batch.rows(), 0..WIDTH));
            }
        }
        drop(loader);
        for batch in held {
            assert_eq!(f32s(&batch.read_back().unwrap()), expected(batch.rows(), 0..WIDTH));
        }
    });
}

#[test]
fn an_epoch_may_be_dropped_in_the_middle_and_resumed() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let table = table(dir.path(), true);
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(20).threads(2));
        let mut random = Random::new(gpu.seed);
        for epoch in 0..6 {
            let order = Order::shuffled(3).epoch(epoch);
            let stop = random.below(12);
            let mut batches = loader.epoch(order).unwrap();
            let mut consumed: Vec<Consumed> = (&mut batches).take(stop).map(|batch| consume(&batch.unwrap())).collect();
            let kept = batches.next().map(|batch| batch.unwrap());
            drop(batches);
            if let Some(kept) = kept {
                consumed.push(consume(&kept));
            }
            let next = consumed.len() as u64;
            consumed.extend(loader.epoch_from(order, next).unwrap().map(|batch| consume(&batch.unwrap())));
            let mut rows = check(&cuda, consumed);
            rows.sort_unstable();
            assert_eq!(rows, (0..ROWS as u64).collect::<Vec<_>>());
        }
    });
}

#[test]
fn columns_of_another_dtype_are_converted_on_the_way() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let table = table(dir.path(), false).columns(2..5).unwrap().cast(DType::F16).unwrap();
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(50).threads(2));
        for batch in loader.epoch(Order::shuffled(gpu.seed)).unwrap() {
            let batch = batch.unwrap();
            assert_eq!((batch.dtype(), batch.width()), (DType::F16, 3));
            assert_eq!(batch.features_view::<dolmen::half::f16>().unwrap().len(), batch.len() * 3);
            let found = batch.read_back().unwrap();
            let found = found.as_chunks().0.iter().map(|&bytes| dolmen::half::f16::from_le_bytes(bytes).to_f32());
            assert_eq!(found.collect::<Vec<f32>>(), expected(batch.rows(), 2..5));
            assert_eq!(batch.features_view::<f32>().unwrap_err().kind(), ErrorKind::InvalidInput);
            assert!(batch.labels_view().unwrap().is_none());
        }
    });
}

#[test]
fn damaged_rows_never_come_and_batches_after_them_do() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let files = write_table(dir.path(), true);
        // A byte of an element of row 150, in the second file.
        let checkpoint = Checkpoint::open_on_demand(&files[1]).unwrap();
        let at = checkpoint.tensor("data").unwrap().file_offset().unwrap() + 50 * WIDTH as u64 * 4;
        drop(checkpoint);
        let mut bytes = std::fs::read(&files[1]).unwrap();
        bytes[at as usize] ^= 1;
        std::fs::write(&files[1], bytes).unwrap();
        let cuda = device(gpu);
        let table = Table::open(&files, &Layout::new()).unwrap();
        for on_damage in [OnDamage::Fail, OnDamage::SkipRows] {
            let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(25).threads(2).on_damage(on_damage));
            for epoch in 0..2 {
                let (mut rows, mut failed, mut skipped) = (Vec::new(), 0, Vec::new());
                for batch in loader.epoch(Order::sequential().epoch(epoch)).unwrap() {
                    match batch {
                        Ok(batch) => {
                            assert_eq!(f32s(&batch.read_back().unwrap()), expected(batch.rows(), 0..WIDTH));
                            let labels: Vec<i64> = batch.rows().iter().map(|&row| label(row)).collect();
                            assert_eq!(batch.read_back_labels().unwrap(), Some(labels));
                            skipped.extend_from_slice(batch.skipped());
                            rows.extend_from_slice(batch.rows());
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                            failed += 1;
                        }
                    }
                }
                assert!(!rows.contains(&150) && rows.contains(&0) && rows.contains(&229));
                // All rows of the second file lie in one block.
                if on_damage == OnDamage::Fail {
                    assert_eq!((failed, skipped), (4, vec![]));
                } else {
                    assert_eq!((failed, skipped), (0, (100..200).collect()));
                }
            }
        }
    });
}

/// A checkpoint with shared, strided, empty and scalar tensors.
fn write_checkpoint(path: &Path, random: &mut Random) {
    let elements: Vec<f32> = (0..1500u16).map(f32::from).collect();
    let mut b = Builder::with_options(FileOptions::default().block_len(4096).unwrap());
    for number in 0..12 {
        let rows = random.below(300);
        b.tensor(&format!("layer.{number}"), (&elements[..rows * 5], [rows, 5])).unwrap();
    }
    let shared = b.storage((0..=255u8).cycle().take(4000).collect::<Vec<u8>>()).unwrap();
    b.view("tied", shared, View::new(DType::F32, [10, 100]).unwrap()).unwrap();
    b.view("turned", shared, View::new(DType::F32, [100, 10]).unwrap().strides([1, 100]).unwrap()).unwrap();
    b.view("part", shared, View::new(DType::I64, [5]).unwrap().start(80)).unwrap();
    b.tensor("scalar", (&[1.5f64], [0usize; 0])).unwrap();
    b.tensor("flags", (&[true, false, true], [3])).unwrap();
    b.save(path).unwrap();
}

#[test]
fn a_checkpoint_is_loaded_by_many_lanes_as_it_is() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.dolmen");
        write_checkpoint(&path, &mut Random::new(gpu.seed));
        let mut options = options();
        options.staging_len = 1000;
        let cuda = Cuda::with_options(gpu.ordinal, options).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        for threads in [1, 5] {
            let on_demand = Checkpoint::open_on_demand(&path).unwrap();
            let loaded = load_to_device(&on_demand, cuda.clone(), &LoadOptions::new().threads(threads)).unwrap();
            assert_eq!(loaded.len(), checkpoint.tensors().count());
            for tensor in loaded.tensors() {
                let expected = checkpoint.tensor(tensor.name()).unwrap().bytes().unwrap();
                assert!(tensor.read_back().unwrap() == expected, "{}", tensor.name());
            }
            let at = |name: &str| loaded.tensor(name).unwrap().bytes_in_memory().start;
            assert_eq!((at("turned"), at("part")), (at("tied"), at("tied") + 80));

            let read = |view: cudarc::driver::CudaView<'_, f32>| {
                let elements = cuda.stream().clone_dtoh(&view).unwrap();
                cuda.stream().synchronize().unwrap();
                elements
            };
            let tensor = |name: &str| loaded.tensor(name).unwrap();
            let layer = checkpoint.tensor("layer.3").unwrap().to_vec::<f32>().unwrap();
            assert_eq!(read(tensor("layer.3").as_cuda_view().unwrap()), layer);
            assert_eq!(tensor("flags").as_cuda_view::<u8>().unwrap().len(), 3);
            assert_eq!(tensor("scalar").as_cuda_view::<f64>().unwrap().len(), 1);
            for error in [
                tensor("layer.3").as_cuda_view::<i32>().map(drop),
                tensor("layer.3").as_cuda_view::<u8>().map(drop),
                tensor("turned").as_cuda_view::<f32>().map(drop),
            ] {
                assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput);
            }
        }
        // A damaged file is not loaded.
        let at = checkpoint.tensor("tied").unwrap().file_offset().unwrap() as usize;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at + 3999] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
        let damaged = Checkpoint::open_on_demand(&path).unwrap();
        let error = load_to_device(&damaged, cuda.clone(), &LoadOptions::new().threads(4)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    });
}

/// What a consumer was handed.
struct Handed(*mut DLManagedTensorVersioned);

// SAFETY: DLPack's tensors may be given back by any thread.
unsafe impl Send for Handed {}

impl Handed {
    fn new(tensor: DlpackTensor) -> Handed {
        Handed(tensor.into_raw())
    }

    fn address(&self) -> u64 {
        // SAFETY: it was not deleted.
        unsafe { (*self.0).dl_tensor.data.addr() as u64 }
    }

    /// Which device it says that it is on.
    fn device(&self) -> DLDevice {
        // SAFETY: it was not deleted.
        unsafe { (*self.0).dl_tensor.device }
    }

    fn delete(self) {
        // SAFETY: it was not deleted, and nobody else has it.
        unsafe { (*self.0).deleter.unwrap()(self.0) }
    }
}

#[test]
fn what_is_handed_over_says_where_it_is() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let on_gpu = DLDevice { device_type: K_DL_CUDA, device_id: gpu.ordinal as i32 };
        let table = table(dir.path(), true);
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(64).threads(1));
        let mut batches = loader.epoch(Order::sequential()).unwrap();
        let batch = batches.next().unwrap().unwrap();
        let address = |batch: &Batch<Cuda>| batch.features_view::<f32>().unwrap().device_ptr(cuda.stream()).0;
        let labels_at = batch.labels_in_memory().unwrap().start as u64;
        let expected = address(&batch);
        let exported = batch.into_dlpack().unwrap();
        assert!(!exported.features.is_read_only());
        let (features, labels) = (Handed::new(exported.features), Handed::new(exported.labels.unwrap()));
        assert_eq!((features.device(), labels.device()), (on_gpu, on_gpu));
        assert_eq!((features.address(), labels.address()), (expected, expected + labels_at));
        drop((batches, loader));
        features.delete();
        std::thread::spawn(|| labels.delete()).join().unwrap();

        let path = dir.path().join("model.dolmen");
        write_checkpoint(&path, &mut Random::new(gpu.seed));
        let checkpoint = Checkpoint::open(&path).unwrap();
        let loaded = Arc::new(load_to_device(&checkpoint, cuda.clone(), &LoadOptions::new()).unwrap());
        let part = Handed::new(loaded.tensor_to_dlpack("part").unwrap());
        assert_eq!(part.device(), on_gpu);
        let at = loaded.tensor("part").unwrap().bytes_in_memory().start as u64;
        assert_eq!(part.address(), loaded.memory().device_ptr() + at);
        drop(loaded);
        std::thread::spawn(|| part.delete()).join().unwrap();
    });
}

#[test]
fn a_consumers_own_stream_is_ordered_without_anyone_waiting() {
    on_cuda(|gpu| {
        let dir = tempfile::tempdir().unwrap();
        let cuda = device(gpu);
        let other = cuda.context().new_stream().unwrap();
        let table = table(dir.path(), true);
        let loader = loader(&table, &cuda, LoaderOptions::new().batch_len(16).threads(2).prefetch(1));
        let mut copies = Vec::new();
        for epoch in 0..2 {
            for batch in loader.epoch(Order::shuffled(9).epoch(epoch)).unwrap() {
                let batch = batch.unwrap();
                let (rows, len) = (batch.rows().to_vec(), batch.features_in_memory().len());
                // SAFETY: the stream is the context's, and outlives what is handed over.
                let exported = unsafe { batch.into_dlpack_on(other.cu_stream()) }.unwrap();
                let (features, labels) = (Handed::new(exported.features), exported.labels.unwrap());
                // What a kernel of another framework would do: of what is handed over it knows the address.
                // SAFETY: it is only asked to be alive, which nothing frees before it was copied from.
                let copy = unsafe {
                    let mut copy = other.alloc::<u8>(len).unwrap();
                    let to = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut copy, &other).0;
                    cudarc::driver::result::memcpy_dtod_async(to, features.address(), len, other.cu_stream()).unwrap();
                    copy
                };
                copies.push((rows, copy));
                drop(labels);
                std::thread::spawn(|| features.delete()).join().unwrap();
            }
        }
        for (rows, copy) in copies {
            let found = other.clone_dtoh(&copy).unwrap();
            other.synchronize().unwrap();
            assert_eq!(f32s(&found), expected(&rows, 0..WIDTH));
        }
        let batch = loader.epoch(Order::sequential()).unwrap().next().unwrap().unwrap();
        // SAFETY: it is refused.
        let error = unsafe { batch.into_dlpack_on(std::ptr::without_provenance_mut(2)) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn each_call_of_the_driver_may_fail_while_batches_are_made_and_handed_over() {
    let quick = Simulation { delay_us: 20, runs: 1, ..Simulation::default() };
    on_simulated_cuda(&[quick], |gpu| {
        let simulated = gpu.simulated.as_ref().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let table = table(dir.path(), true).take_rows(&(0..40).collect::<Vec<u64>>()).unwrap();
        let epoch = || -> dolmen::Result<()> {
            let mut options = options();
            options.staging_len = 1000;
            let cuda = Cuda::with_options(0, options)?;
            let other = cuda.context().default_stream();
            let loader = Loader::new(&table, cuda, LoaderOptions::new().batch_len(10).threads(1).prefetch(1))?;
            for batch in loader.epoch(Order::shuffled(1))? {
                let batch = batch?;
                let rows = batch.rows().to_vec();
                assert_eq!(f32s(&batch.read_back()?), expected(&rows, 0..WIDTH));
                // SAFETY: the default stream is never destroyed.
                drop(unsafe { batch.into_dlpack_on(other.cu_stream()) }?);
            }
            Ok(())
        };
        let mut failed = 0;
        for nth in (1..).step_by(3) {
            simulated.fail(None, nth, 700, Failure::Instead);
            let result = epoch();
            simulated.fail_no_more();
            let report = simulated.report();
            // What cudarc loses when a call of its own fails, `tests/cuda.rs` lists.
            let wrong = report.violations.iter().filter(|text| !text.contains("outlive their context"));
            assert_eq!(wrong.collect::<Vec<_>>(), Vec::<&String>::new(), "call {nth}");
            simulated.reset();
            if report.failed.is_none() {
                result.unwrap();
                break;
            }
            failed += 1;
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Device, "call {nth}: {error}");
            }
        }
        assert!(failed > 30, "{failed}");
    });
}
