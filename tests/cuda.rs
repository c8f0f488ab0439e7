//! Devices of NVIDIA's: by a simulated driver, or by a real one with `DOLMEN_CUDA_DEVICE=0`. See `tests/common/cuda.rs`.

use std::sync::Arc;
use std::sync::mpsc;

use common::Random;
use common::cuda::{
    Failure, Gpu, Simulated, Simulation, on_cuda, on_cuda_with, on_simulated_cuda, with_each_function_missing,
    without_cuda,
};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaSlice, DriverError};
use dolmen::feature::device::{Cuda, CudaLane, CudaMemory, CudaOptions, DEVICE_ALIGNMENT, Device};
use dolmen::{Error, ErrorKind, Result};

mod common;

/// Small buffers, so that they are used again soon.
fn options() -> CudaOptions {
    let mut options = CudaOptions::default();
    (options.staging_len, options.staging_count) = (1000, 2);
    options
}

fn device(gpu: &Gpu) -> Cuda {
    Cuda::with_options(gpu.ordinal, options()).unwrap()
}

/// Lengths of parts that make up so many bytes, some of them 0.
fn byte_lens(random: &mut Random, total: usize) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut left = total;
    while left > 0 {
        let len = if random.below(8) == 0 { 0 } else { 1 + random.below(1000) }.min(left);
        lens.push(len);
        left -= len;
    }
    lens
}

/// Writes these bytes into a buffer as long as they are.
fn copy_of(source: &[u8]) -> impl FnMut(&mut [u8]) -> Result<()> {
    move |buffer| {
        buffer.copy_from_slice(source);
        Ok(())
    }
}

/// Writes one byte all over a buffer.
fn all(byte: u8) -> impl FnMut(&mut [u8]) -> Result<()> {
    move |buffer| {
        buffer.fill(byte);
        Ok(())
    }
}

/// Fills memory with bytes, by one lane after the other, and finishes.
fn fill(cuda: &Cuda, lanes: &mut [CudaLane], memory: &mut CudaMemory, lens: &[usize], bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    for (i, (part, &len)) in cuda.parts(memory, lens)?.into_iter().zip(lens).enumerate() {
        let lane = i % lanes.len();
        let source = rest.split_off(..len).unwrap();
        cuda.fill(&mut lanes[lane], part, &mut copy_of(source))?;
    }
    lanes.iter_mut().try_for_each(|lane| cuda.finish(lane, memory))
}

fn lanes(cuda: &Cuda, count: usize) -> Vec<CudaLane> {
    (0..count).map(|_| cuda.lane().unwrap()).collect()
}

/// A consumer's work: a copy on its stream, which takes its time.
fn consume(cuda: &Cuda, memory: &CudaMemory) -> CudaSlice<u8> {
    cuda.stream().clone_dtod(&memory.as_cuda_view::<u8>(0..memory.byte_len()).unwrap()).unwrap()
}

/// What a consumer's work has come to.
fn consumed(cuda: &Cuda, copy: &CudaSlice<u8>) -> Vec<u8> {
    let bytes = cuda.stream().clone_dtoh(copy).unwrap();
    cuda.stream().synchronize().unwrap();
    bytes
}

/// All that a device is used for, once or twice each. `before_dropping` is called when everything has gone well and is only dropped.
fn cycle(ordinal: usize, before_dropping: &mut dyn FnMut()) -> Result<()> {
    let cuda = Cuda::with_options(ordinal, options())?;
    let mut lanes = vec![cuda.lane()?, cuda.lane()?];
    let mut memory = cuda.allocate(3000)?;
    let mut random = Random::new(0);
    for _ in 0..2 {
        let bytes = random.bytes(3000);
        fill(&cuda, &mut lanes, &mut memory, &[700, 300, 1000, 0, 500, 500], &bytes)?;
        cuda.acquire(&mut memory)?;
        assert_eq!(cuda.read_back(&memory, 0..3000)?, bytes);
        cuda.release(&mut memory)?;
    }
    // Dropped while it is filled.
    let mut other = cuda.allocate(500)?;
    for part in cuda.parts(&mut other, &[500])? {
        cuda.fill(&mut lanes[0], part, &mut all(1))?;
    }
    drop(other);
    cuda.synchronize(&memory)?;
    before_dropping();
    Ok(())
}

fn is_device_error(error: &Error, name: &str) -> bool {
    error.kind() == ErrorKind::Device && error.to_string().contains(name)
}

#[test]
fn without_a_driver_there_is_an_error_and_no_panic() {
    without_cuda(|| {
        let error = Cuda::new(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().starts_with("no CUDA driver found; install"), "{error}");
    });
}

#[test]
fn a_driver_that_lacks_a_function_is_an_error_and_no_panic() {
    with_each_function_missing(|missing| {
        let unneeded = ["cuEventQuery", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async"].contains(&missing);
        match cycle(0, &mut || {}) {
            Ok(()) => assert!(unneeded, "{missing} is not asked for"),
            Err(error) => {
                assert!(!unneeded && is_device_error(&error, &format!("the CUDA driver has no {missing};")), "{error}");
            }
        }
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_how_many_there_are() {
    on_cuda(|gpu| {
        let error = Cuda::new(99).unwrap_err();
        assert!(is_device_error(&error, "there is no CUDA device 99, only "), "{error}");
        assert_eq!(device(gpu).name(), format!("cuda:{}", gpu.ordinal));
    });
}

#[test]
fn a_driver_without_devices_is_an_error() {
    on_simulated_cuda(&[Simulation { devices: 0, runs: 1, ..Simulation::default() }], |_| {
        let error = Cuda::new(0).unwrap_err();
        assert!(is_device_error(&error, "CUDA_ERROR_NO_DEVICE (100): no CUDA-capable device"), "{error}");
    });
}

#[test]
fn what_is_filled_is_read_back() {
    on_cuda(|gpu| {
        let mut random = Random::new(gpu.seed);
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 3);
        let mut memory = cuda.allocate(20_000).unwrap();
        assert!(memory.device_ptr().is_multiple_of(DEVICE_ALIGNMENT as u64));
        for round in 0..6 {
            let bytes = random.bytes(20_000);
            let lens = byte_lens(&mut random, if round == 5 { 700 } else { 20_000 });
            let filled: usize = lens.iter().sum();
            fill(&cuda, &mut lanes, &mut memory, &lens, &bytes[..filled]).unwrap();
            cuda.acquire(&mut memory).unwrap();
            assert_eq!(cuda.read_back(&memory, 0..filled).unwrap(), bytes[..filled]);
            let start = random.below(filled);
            assert_eq!(cuda.read_back(&memory, start..filled).unwrap(), bytes[start..filled]);
            assert_eq!(cuda.read_back(&memory, start..start).unwrap(), b"");
            cuda.release(&mut memory).unwrap();
        }
    });
}

#[test]
fn lanes_of_several_threads_fill_one_memory_at_once() {
    on_cuda(|gpu| {
        let mut random = Random::new(gpu.seed);
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 4);
        let mut memory = cuda.allocate(100_000).unwrap();
        for _ in 0..2 {
            let bytes = random.bytes(100_000);
            let lens = byte_lens(&mut random, bytes.len());
            let mut work: Vec<Vec<_>> = lanes.iter().map(|_| Vec::new()).collect();
            let mut rest = &bytes[..];
            for (part, &len) in cuda.parts(&mut memory, &lens).unwrap().into_iter().zip(&lens) {
                work[random.below(lanes.len())].push((part, rest.split_off(..len).unwrap()));
            }
            std::thread::scope(|scope| {
                for (lane, work) in lanes.iter_mut().zip(work) {
                    let cuda = &cuda;
                    scope.spawn(move || {
                        for (part, source) in work {
                            cuda.fill(lane, part, &mut copy_of(source)).unwrap();
                        }
                    });
                }
            });
            for lane in &mut lanes {
                cuda.finish(lane, &mut memory).unwrap();
            }
            cuda.acquire(&mut memory).unwrap();
            assert!(cuda.read_back(&memory, 0..bytes.len()).unwrap() == bytes);
            cuda.release(&mut memory).unwrap();
        }
    });
}

/// The pipeline's use: a thread fills, another consumes, and two pieces of memory go around.
fn stream_batches(cuda: &Cuda, seed: u64, batches: usize) {
    const LEN: usize = 5000;
    let (give, taken) = mpsc::channel::<CudaMemory>();
    let (fill_more, free) = mpsc::channel::<CudaMemory>();
    for _ in 0..2 {
        fill_more.send(cuda.allocate(LEN).unwrap()).unwrap();
    }
    let batch = |number: usize| Random::new(seed ^ (number as u64) << 32).bytes(LEN);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = Random::new(seed);
            let mut lanes = lanes(cuda, 2);
            for number in 0..batches {
                let mut memory = free.recv().unwrap();
                fill(cuda, &mut lanes, &mut memory, &byte_lens(&mut random, LEN), &batch(number)).unwrap();
                give.send(memory).unwrap();
            }
        });
        let mut copies = Vec::new();
        for mut memory in taken {
            cuda.acquire(&mut memory).unwrap();
            copies.push(consume(cuda, &memory));
            cuda.release(&mut memory).unwrap();
            // The thread that fills may have ended.
            let _ = fill_more.send(memory);
        }
        for (number, copy) in copies.iter().enumerate() {
            assert!(consumed(cuda, copy) == batch(number), "batch {number} is wrong");
        }
    });
}

#[test]
fn memory_is_not_overwritten_before_the_consumer_is_done_with_it() {
    on_cuda(|gpu| stream_batches(&device(gpu), gpu.seed, 12));
}

#[test]
fn the_consumer_may_bring_its_own_stream() {
    on_cuda(|gpu| {
        let context = CudaContext::new(gpu.ordinal).unwrap();
        for stream in [context.new_stream().unwrap(), context.default_stream()] {
            let mut options = options();
            options.stream = Some(stream.clone());
            let cuda = Cuda::with_options(gpu.ordinal, options.clone()).unwrap();
            assert!(Arc::ptr_eq(cuda.stream(), &stream) && Arc::ptr_eq(cuda.context(), &context));
            stream_batches(&cuda, gpu.seed, 4);
            stream_batches(&Cuda::in_context(context.clone(), options).unwrap(), gpu.seed, 4);
        }
        let mut options = options();
        options.stream = Some(context.per_thread_stream());
        let error = Cuda::in_context(context.clone(), options.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        options.stream = Some(context.default_stream());
        assert_eq!(Cuda::with_options(99, options).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn another_stream_that_uses_views_through_cudarc_is_ordered_too() {
    on_cuda(|gpu| {
        let mut random = Random::new(gpu.seed);
        let cuda = device(gpu);
        let other = cuda.context().new_stream().unwrap();
        let mut lanes = lanes(&cuda, 2);
        let mut memory = cuda.allocate(3000).unwrap();
        let mut copies = Vec::new();
        for _ in 0..6 {
            let bytes = random.bytes(3000);
            fill(&cuda, &mut lanes, &mut memory, &[1000, 1000, 1000], &bytes).unwrap();
            cuda.acquire(&mut memory).unwrap();
            copies.push((other.clone_dtod(&memory.as_cuda_view::<u8>(0..3000).unwrap()).unwrap(), bytes));
            cuda.release(&mut memory).unwrap();
        }
        // It is freed, and its address used again, after the other stream has read it.
        drop(memory);
        for (copy, bytes) in copies {
            let found = other.clone_dtoh(&copy).unwrap();
            other.synchronize().unwrap();
            assert!(found == bytes);
        }
    });
}

#[test]
fn views_are_of_elements_and_within_the_memory() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 1);
        let mut memory = cuda.allocate(16).unwrap();
        let values = [1.5f32, -2.0, f32::INFINITY, 0.0];
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        fill(&cuda, &mut lanes, &mut memory, &[16], &bytes).unwrap();
        cuda.acquire(&mut memory).unwrap();
        let read = |view| {
            let values: Vec<f32> = cuda.stream().clone_dtoh(&view).unwrap();
            cuda.stream().synchronize().unwrap();
            values
        };
        assert_eq!(read(memory.as_cuda_view::<f32>(0..16).unwrap()), values);
        assert_eq!(read(memory.as_cuda_view::<f32>(8..12).unwrap()), values[2..3]);
        assert_eq!(memory.byte_len(), 16);
        for (start, end) in
            [(0, 17), (0, 20), (17, 17), (20, 24), (8, 4), (0, usize::MAX), (2, 6), (0, 3), (usize::MAX, usize::MAX)]
        {
            let view = memory.as_cuda_view::<f32>(start..end);
            assert_eq!(view.unwrap_err().kind(), ErrorKind::InvalidInput, "{start}..{end}");
        }
        for (start, end) in [(0, 17), (17, 17), (8, 4), (0, usize::MAX)] {
            assert_eq!(
                cuda.read_back(&memory, start..end).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{start}..{end}"
            );
        }
    });
}

#[test]
fn memory_of_no_bytes_is_memory() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 1);
        let mut memory = cuda.allocate(0).unwrap();
        fill(&cuda, &mut lanes, &mut memory, &[0, 0], b"").unwrap();
        cuda.acquire(&mut memory).unwrap();
        assert_eq!(cuda.read_back(&memory, 0..0).unwrap(), b"");
        assert_eq!(memory.as_cuda_view::<u64>(0..0).unwrap().len(), 0);
        assert!(cuda.read_back(&memory, 0..1).is_err() && cuda.parts(&mut memory, &[1]).is_err());
        cuda.release(&mut memory).unwrap();
    });
}

#[test]
fn a_write_that_fails_copies_nothing_and_leaves_the_lane_as_it_was() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let mut lane = cuda.lane().unwrap();
        let mut memory = cuda.allocate(3000).unwrap();
        fill(&cuda, std::slice::from_mut(&mut lane), &mut memory, &[1000; 3], &[1; 3000]).unwrap();
        for (i, part) in cuda.parts(&mut memory, &[1000; 3]).unwrap().into_iter().enumerate() {
            let result = cuda.fill(&mut lane, part, &mut |buffer| {
                buffer.fill(2);
                if i == 1 { Err(Error::new(ErrorKind::Corrupt, "these bytes are bad")) } else { Ok(()) }
            });
            assert_eq!(result.map_err(|error| error.kind()), if i == 1 { Err(ErrorKind::Corrupt) } else { Ok(()) });
        }
        cuda.finish(&mut lane, &mut memory).unwrap();
        cuda.acquire(&mut memory).unwrap();
        let expected: Vec<u8> = [2, 1, 2].into_iter().flat_map(|byte| [byte; 1000]).collect();
        assert!(cuda.read_back(&memory, 0..3000).unwrap() == expected);
    });
}

#[test]
fn memory_that_was_not_finished_acquired_or_released_is_filled_again_in_order() {
    on_cuda(|gpu| {
        let mut random = Random::new(gpu.seed);
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 3);
        let mut memory = cuda.allocate(4000).unwrap();
        let mut copies = Vec::new();
        for round in 0..20 {
            let bytes = random.bytes(4000);
            for (part, source) in cuda.parts(&mut memory, &[1000; 4]).unwrap().into_iter().zip(bytes.chunks(1000)) {
                let lane = random.below(3);
                cuda.fill(&mut lanes[lane], part, &mut copy_of(source)).unwrap();
            }
            // Lanes that do not finish are waited for, whoever comes next.
            for lane in &mut lanes {
                if random.below(2) == 0 {
                    cuda.finish(lane, &mut memory).unwrap();
                }
            }
            if random.below(2) == 0 || round == 19 {
                cuda.acquire(&mut memory).unwrap();
                // Not released either: what the consumer was asked to do is done all the same, before anything is overwritten.
                copies.push((consume(&cuda, &memory), bytes));
            }
        }
        for (copy, bytes) in copies {
            assert!(consumed(&cuda, &copy) == bytes);
        }
    });
}

#[test]
fn everything_may_be_dropped_at_any_time_and_in_any_order() {
    on_cuda(|gpu| {
        let mut random = Random::new(gpu.seed);
        let cuda = device(gpu);
        for _ in 0..30 {
            let mut lanes = lanes(&cuda, 2);
            let mut memory = cuda.allocate(6000).unwrap();
            let steps = random.below(8);
            if steps >= 6 {
                fill(&cuda, &mut lanes, &mut memory, &[1000; 6], &[7; 6000]).unwrap();
            } else {
                let parts = cuda.parts(&mut memory, &[1000; 6]).unwrap();
                for (i, part) in parts.into_iter().enumerate().take(steps) {
                    cuda.fill(&mut lanes[i % 2], part, &mut all(7)).unwrap();
                }
            }
            let copy = (steps == 7).then(|| {
                cuda.acquire(&mut memory).unwrap();
                consume(&cuda, &memory)
            });
            if random.below(2) == 0 {
                drop(lanes);
                drop(memory);
            } else {
                drop(memory);
                drop(lanes);
            }
            if let Some(copy) = copy {
                assert!(consumed(&cuda, &copy) == [7; 6000]);
            }
        }
    });
}

#[test]
fn memory_outlives_its_device() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let (mut lanes, mut memory) = (lanes(&cuda, 1), cuda.allocate(1000).unwrap());
        fill(&cuda, &mut lanes, &mut memory, &[1000], &[1; 1000]).unwrap();
        drop(cuda);
        drop(lanes);
        drop(memory);
    });
}

#[test]
fn memory_that_is_not_there_is_an_error_and_what_comes_after_it_works() {
    on_cuda_with(&[Simulation { memory: 1 << 20, ..Simulation::default() }], |gpu| {
        let cuda = device(gpu);
        for _ in 0..3 {
            let error = cuda.allocate(1 << 50).unwrap_err();
            let words = "cannot allocate 1125899906842624 bytes on the device: CUDA_ERROR_OUT_OF_MEMORY (2)";
            assert!(is_device_error(&error, words), "{error}");
            let mut options = options();
            options.staging_len = 1 << 50;
            let error = Cuda::in_context(cuda.context().clone(), options).unwrap().lane().unwrap_err();
            assert!(is_device_error(&error, "cannot pin memory of the host: CUDA_ERROR_"), "{error}");
            stream_batches(&cuda, gpu.seed, 3);
        }
        // Freed memory is there again.
        if gpu.simulated.is_some() {
            for _ in 0..5 {
                drop(cuda.allocate(900_000).unwrap());
            }
        }
    });
}

#[test]
fn what_cannot_be_asked_is_refused() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let other = device(gpu);
        assert_eq!((cuda.max_part_len(), cuda.lane_byte_len()), (1000, 2000));
        let (mut lane, mut memory) = (cuda.lane().unwrap(), cuda.allocate(1500).unwrap());
        let is_refused = |result: Result<()>| result.is_err_and(|error| error.kind() == ErrorKind::InvalidInput);
        for lens in [&[1501][..], &[1000, 501], &[usize::MAX, 2]] {
            assert!(is_refused(cuda.parts(&mut memory, lens).map(drop)), "{lens:?}");
        }
        let part = cuda.parts(&mut memory, &[1001]).unwrap().pop().unwrap();
        assert!(is_refused(cuda.fill(&mut lane, part, &mut |_| unreachable!())));
        let part = cuda.parts(&mut memory, &[1]).unwrap().pop().unwrap();
        assert!(is_refused(other.fill(&mut lane, part, &mut |_| unreachable!())));
        assert!(is_refused(other.parts(&mut memory, &[]).map(drop)));
        assert!(is_refused(other.finish(&mut lane, &mut memory)));
        assert!(is_refused(other.acquire(&mut memory)) && is_refused(other.release(&mut memory)));
        assert!(is_refused(other.synchronize(&memory)) && is_refused(other.read_back(&memory, 0..1).map(drop)));
        for (staging_len, staging_count) in
            [(0, 3), (1000, 0), (usize::MAX, 2), (usize::MAX / 2, 3), (usize::MAX / 2, 1)]
        {
            let mut options = CudaOptions::default();
            (options.staging_len, options.staging_count) = (staging_len, staging_count);
            assert!(is_refused(Cuda::with_options(gpu.ordinal, options).map(drop)), "{staging_len} {staging_count}");
        }
        // A clone is the same device.
        assert!(cuda.clone().synchronize(&memory).is_ok());
    });
}

#[test]
fn the_lanes_and_memory_of_two_devices_are_not_mixed() {
    on_simulated_cuda(&[Simulation { devices: 2, runs: 1, ..Simulation::default() }], |_| {
        let (first, second) = (Cuda::new(0).unwrap(), Cuda::new(1).unwrap());
        let (mut lane, mut memory) = (second.lane().unwrap(), first.allocate(1).unwrap());
        let part = first.parts(&mut memory, &[1]).unwrap().pop().unwrap();
        let error = first.fill(&mut lane, part, &mut |_| unreachable!()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(first.finish(&mut lane, &mut memory).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(second.name(), "cuda:1");
    });
}

#[test]
fn an_error_that_was_left_in_the_context_is_reported_once_and_loses_no_order() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let mut lanes = lanes(&cuda, 2);
        let mut memory = cuda.allocate(2000).unwrap();
        let leave = || cuda.context().record_err::<()>(Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
        let is_reported =
            |result: Result<()>| result.is_err_and(|error| is_device_error(&error, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
        for round in 0..6u8 {
            let parts = cuda.parts(&mut memory, &[1000, 1000]).unwrap();
            for (lane, part) in lanes.iter_mut().zip(parts) {
                cuda.fill(lane, part, &mut all(round)).unwrap();
            }
            leave();
            assert!(is_reported(cuda.finish(&mut lanes[0], &mut memory)));
            cuda.finish(&mut lanes[1], &mut memory).unwrap();
            leave();
            assert!(is_reported(cuda.acquire(&mut memory)));
            cuda.acquire(&mut memory).unwrap();
            assert!(cuda.read_back(&memory, 0..2000).unwrap() == [round; 2000]);
            leave();
            assert!(is_reported(cuda.release(&mut memory)));
            cuda.release(&mut memory).unwrap();
        }
        let mut other = cuda.allocate(1000).unwrap();
        for lane in &mut lanes {
            fill(&cuda, std::slice::from_mut(lane), &mut other, &[1000], &[1; 1000]).unwrap();
            leave();
            assert!(is_reported(cuda.synchronize(&other)));
        }
        // What is dropped is waited for, and the error kept.
        for part in cuda.parts(&mut other, &[1000]).unwrap() {
            cuda.fill(&mut lanes[0], part, &mut all(2)).unwrap();
        }
        leave();
        drop(other);
        drop(lanes);
        assert!(is_reported(cuda.synchronize(&memory)));
        cuda.synchronize(&memory).unwrap();
    });
}

#[test]
fn memory_that_another_stream_reads_is_freed_after_that_even_if_an_error_was_left_in_the_context() {
    on_cuda(|gpu| {
        let cuda = device(gpu);
        let other = cuda.context().new_stream().unwrap();
        let mut lanes = lanes(&cuda, 1);
        for round in 0..6u8 {
            let mut memory = cuda.allocate(1000).unwrap();
            fill(&cuda, &mut lanes, &mut memory, &[1000], &[round; 1000]).unwrap();
            cuda.acquire(&mut memory).unwrap();
            let copy = other.clone_dtod(&memory.as_cuda_view::<u8>(0..1000).unwrap()).unwrap();
            cuda.context().record_err::<()>(Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)));
            drop(memory);
            let error = cuda.allocate(1000).unwrap_err();
            assert!(is_device_error(&error, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{error}");
            let found = other.clone_dtoh(&copy).unwrap();
            other.synchronize().unwrap();
            assert!(found == [round; 1000]);
        }
    });
}

#[test]
fn a_buffer_is_not_lent_again_before_a_copy_whose_record_failed_is_done() {
    on_simulated_cuda(&[Simulation { delay_us: 2000, ..Simulation::default() }], |gpu| {
        let simulated = gpu.simulated.as_ref().unwrap();
        let cuda = device(gpu);
        let mut lane = cuda.lane().unwrap();
        let mut memory = cuda.allocate(4000).unwrap();
        for round in 0..10u8 {
            for (i, part) in (0..4).zip(cuda.parts(&mut memory, &[1000; 4]).unwrap()) {
                if i == 0 {
                    simulated.fail(Some("cuEventRecord"), 1, 999, Failure::Instead);
                }
                let filled = cuda.fill(&mut lane, part, &mut all(4 * round + i));
                assert_eq!(filled.is_err(), i == 0);
            }
            cuda.finish(&mut lane, &mut memory).unwrap();
            cuda.acquire(&mut memory).unwrap();
            let expected: Vec<u8> = (0..4).flat_map(|i| [4 * round + i; 1000]).collect();
            assert!(cuda.read_back(&memory, 0..4000).unwrap() == expected);
            cuda.release(&mut memory).unwrap();
        }
    });
}

/// The functions that give something back, and what is lost if they fail.
const GIVES_BACK: [(&str, &[&str]); 6] = [
    ("cuDevicePrimaryCtxRelease_v2", &["contexts"]),
    ("cuEventDestroy_v2", &["events"]),
    ("cuMemFreeAsync", &["allocations"]),
    ("cuMemFreeHost", &["pinned"]),
    ("cuMemFree_v2", &["allocations"]),
    ("cuStreamDestroy_v2", &["streams"]),
];

/// Runs the cycle with a failure in it. Whether the call that was to fail came at all.
fn cycle_with_failure(simulated: &Simulated, function: Option<&str>, nth: u64, failure: Failure) -> bool {
    let mut dropping = u64::MAX;
    simulated.fail(function, nth, 700, failure);
    let result = cycle(0, &mut || dropping = simulated.calls());
    simulated.fail_no_more();
    let report = simulated.report();
    let Some((failed, number)) = report.failed.clone() else {
        assert!(result.is_ok(), "{result:?}");
        return false;
    };
    let what = format!("{failure:?} of call {nth} ({function:?}), {failed}: {result:?} {report:?}");
    match &result {
        Ok(()) => assert!(number > dropping, "the error is lost: {what}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Device, "{what}"),
    }
    if failure != Failure::FromThenOn {
        let lost: Vec<&str> =
            report.alive.iter().filter(|(_, count)| **count > 0).map(|(kind, _)| kind.as_str()).collect();
        let is_allocating = matches!(&result, Err(error) if error.to_string().starts_with("cannot allocate"));
        let known: &[&str] = match &failed[..] {
            // These are cudarc's: a context that was retained, and memory that was allocated, are lost if a call after that fails.
            "cuDeviceGetAttribute" => &["contexts"],
            "cuCtxGetCurrent" | "cuEventCreate" if is_allocating => &["allocations"],
            name if failure == Failure::Instead => {
                GIVES_BACK.iter().find(|gives| gives.0 == name).map_or(&[], |gives| gives.1)
            }
            _ => &[],
        };
        assert!(lost.is_empty() || lost == known, "something is lost: {what}");
        assert!(report.alive.values().sum::<usize>() <= 1, "something is lost: {what}");
        let wrong = report.violations.iter().filter(|text| known.is_empty() || !text.contains("outlive their context"));
        assert_eq!(wrong.count(), 0, "{what}");
    } else {
        assert_eq!(report.violations, Vec::<String>::new(), "{what}");
    }
    simulated.reset();
    true
}

/// Short delays: these are many runs.
fn quick(pools: bool) -> Simulation {
    Simulation { pools, delay_us: 20, runs: 1, ..Simulation::default() }
}

#[test]
fn each_call_of_the_driver_may_fail_and_the_error_is_returned() {
    on_simulated_cuda(&[quick(true), quick(false)], |gpu| {
        let simulated = gpu.simulated.as_ref().unwrap();
        let runs = (1..).take_while(|&nth| cycle_with_failure(simulated, None, nth, Failure::Instead)).count();
        assert!(runs > 100, "{runs}");
    });
}

#[test]
fn each_call_of_the_driver_may_be_the_last_that_works() {
    on_simulated_cuda(&[quick(true), quick(false)], |gpu| {
        let simulated = gpu.simulated.as_ref().unwrap();
        let runs = (1..).take_while(|&nth| cycle_with_failure(simulated, None, nth, Failure::FromThenOn)).count();
        assert!(runs > 100, "{runs}");
    });
}

#[test]
fn a_call_that_was_done_may_say_that_something_failed() {
    on_simulated_cuda(&[quick(true), quick(false)], |gpu| {
        let simulated = gpu.simulated.as_ref().unwrap();
        let functions = [
            "cuEventRecord",
            "cuEventSynchronize",
            "cuMemcpyDtoHAsync_v2",
            "cuMemcpyHtoDAsync_v2",
            "cuStreamSynchronize",
            "cuStreamWaitEvent",
        ];
        for function in functions.into_iter().chain(GIVES_BACK.map(|gives| gives.0)) {
            let runs =
                (1..).take_while(|&nth| cycle_with_failure(simulated, Some(function), nth, Failure::After)).count();
            // Memory is freed in one way or in the other.
            assert!(runs > 0 || function.starts_with("cuMemFree"), "{function} is never called");
        }
    });
}
