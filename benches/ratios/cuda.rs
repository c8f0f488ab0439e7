//! Streaming to a GPU: beside plain copies of pinned memory, and beside copying what safetensors maps.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, PinnedHostSlice};
use dolmen::feature::device::CudaOptions;
use dolmen::feature::{Cuda, LoadOptions, Loader, LoaderOptions, Order, PageCache, Verification};
use safetensors::SafeTensors;

use crate::feature::{AT_RANDOM, IN_ORDER, ROW_LEN, Written, epoch, load, write_features, write_whole};
use crate::load::TENSORS;
use crate::machine::{self, Machine};
use crate::measure::{Cache, Case, Row, Samples, Table, Taken, in_turns, time};

/// Buffers that each stream copies from, in turn: as many as a lane of Dolmen's has.
fn buffers_of_a_lane() -> usize {
    CudaOptions::default().staging_count
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

fn options(batch_len: usize) -> LoaderOptions {
    let threads = threads() as u32;
    let options = LoaderOptions::new().batch_len(batch_len as u64).threads(threads).prefetch(threads * 2);
    options.page_cache(PageCache::Keep)
}

pub fn run(machine: &Machine, table: &mut Table) {
    let ordinal = std::env::var("DOLMEN_CUDA_DEVICE").map_or(0, |number| number.parse().expect("a number of a device"));
    let cuda = match Cuda::new(ordinal) {
        Ok(cuda) => cuda,
        Err(e) => return table.notes.push(format!("no CUDA device: {e}")),
    };
    let name = cuda.context().name().unwrap_or_else(|_| "?".into());
    table.notes.push(format!("cuda:{ordinal} is {name}"));
    let cuda = Arc::new(cuda);
    let written = {
        let data = machine.data();
        write_features(machine, &data)
    };
    batches(machine, table, &cuda, &written);
    written.remove();
    whole(machine, table, &cuda);
}

/// One stream of a plain copy: its pinned buffers, and as much memory of the device.
struct Plain {
    stream: Arc<CudaStream>,
    pinned: Vec<PinnedHostSlice<u8>>,
    device: Vec<CudaSlice<u8>>,
}

impl Plain {
    fn new(cuda: &Cuda, part_len: usize) -> Plain {
        let stream = cuda.context().new_stream().unwrap();
        let pinned = || {
            // SAFETY: the call is unsafe because what it gives is not initialised, which is done next.
            let mut pinned = unsafe { cuda.context().alloc_pinned_with_flags::<u8>(part_len, 0) }.unwrap();
            // SAFETY: it has so many bytes, and nobody else knows of it yet.
            unsafe { pinned.as_mut_ptr().unwrap().write_bytes(1, part_len) };
            pinned
        };
        let pinned = (0..buffers_of_a_lane()).map(|_| pinned()).collect();
        let device = (0..buffers_of_a_lane()).map(|_| stream.alloc_zeros(part_len).unwrap()).collect();
        stream.synchronize().unwrap();
        Plain { stream, pinned, device }
    }
}

/// So many parts copied from pinned memory to the device, by all streams in turn.
fn copy_pinned(lanes: &mut [Plain], parts: usize) -> Taken {
    time(|| {
        for number in 0..parts {
            let count = lanes.len();
            let Plain { stream, pinned, device } = &mut lanes[number % count];
            let buffer = number / count % pinned.len();
            stream.memcpy_htod(&pinned[buffer], &mut device[buffer]).unwrap();
        }
        lanes.iter().for_each(|lane| lane.stream.synchronize().unwrap());
    })
}

fn batches(machine: &Machine, table: &mut Table, cuda: &Arc<Cuda>, written: &Written) {
    let (in_order, at_random) = (Order::sequential(), Order::shuffled(42));
    let first = |batch_len, order, verification| {
        let options = options(batch_len).verification(verification);
        Box::new(move || {
            let loader: Loader<Cuda> = Loader::new(&written.mapped(), Arc::clone(cuda), options).unwrap();
            epoch(&loader, order)
        }) as Case<'_>
    };
    let kept = |batch_len| {
        let loader: Loader<Cuda> = Loader::new(&written.mapped(), Arc::clone(cuda), options(batch_len)).unwrap();
        epoch(&loader, in_order);
        loader
    };
    let (kept_in_order, kept_at_random) = (kept(IN_ORDER), kept(AT_RANDOM));
    let mut lanes: Vec<Plain> = (0..threads()).map(|_| Plain::new(cuda, IN_ORDER * ROW_LEN)).collect();
    let mut short: Vec<Plain> = (0..threads()).map(|_| Plain::new(cuda, AT_RANDOM * ROW_LEN)).collect();
    let (once, off) = (Verification::Once, Verification::Off);
    let [verified, unverified, later, shuffled, random, later_random, pinned, short_pinned] = in_turns(
        machine.rounds(9),
        machine.at_most(60),
        [
            first(IN_ORDER, in_order, once),
            first(IN_ORDER, in_order, off),
            Box::new(|| epoch(&kept_in_order, in_order)),
            first(IN_ORDER, at_random, once),
            first(AT_RANDOM, at_random, once),
            Box::new(|| epoch(&kept_at_random, at_random)),
            Box::new(|| copy_pinned(&mut lanes, written.rows.div_ceil(IN_ORDER))),
            Box::new(|| copy_pinned(&mut short, written.rows.div_ceil(AT_RANDOM))),
        ],
    );
    let case = format!("batches to the GPU, {} MiB", machine.mib);
    let mut push = |what, dolmen: &Samples, peer_name, peer: &Samples, touched, asked| {
        let (dolmen, peer, bytes) = (dolmen.clone(), peer.clone(), Some(written.byte_len() as u64));
        let case = case.clone();
        table.rows.push(Row { case, what, dolmen, peer_name, peer, cache: Cache::Warm, touched, bytes, asked });
    };
    let (checked, both) = ("all: CRC, copy twice / copy", "all: copy twice / copy");
    const PINNED: &str = "pinned memory copied in as long parts, as many streams";
    push("256 rows in order, first epoch", &verified, PINNED, &pinned, checked, Some(0.9));
    push("256 rows in order, later epochs", &later, PINNED, &pinned, both, Some(0.9));
    push("256 rows in order, first epoch", &verified, "the same, unverified", &unverified, checked, None);
    push("256 rows at random, first epoch", &shuffled, PINNED, &pinned, checked, Some(0.9));
    push("32 rows at random, first epoch", &random, PINNED, &short_pinned, checked, None);
    push("32 rows at random, later epochs", &later_random, PINNED, &short_pinned, both, None);
}

/// What programs in Rust do: the file mapped, its header parsed, and each tensor copied from the map to memory of its own.
fn copy_mapped(path: &Path, cuda: &Cuda) -> Taken {
    let stream = cuda.stream();
    time(|| {
        let file = fs::File::open(path).unwrap();
        // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let tensors = SafeTensors::deserialize(&map).unwrap();
        let copy = |(_, tensor): (_, safetensors::tensor::TensorView<'_>)| stream.clone_htod(tensor.data()).unwrap();
        let copied: Vec<CudaSlice<u8>> = tensors.iter().map(copy).collect();
        stream.synchronize().unwrap();
        drop(tensors);
        (copied, map)
    })
}

fn whole(machine: &Machine, table: &mut Table, cuda: &Arc<Cuda>) {
    let [dolmen, peer] = write_whole(machine);
    let verified = LoadOptions::new();
    let [warm, unverified, warm_copied] = in_turns(
        machine.rounds(7),
        machine.at_most(60),
        [
            Box::new(|| load(&dolmen, cuda, &verified)) as Case<'_>,
            Box::new(|| load(&dolmen, cuda, &verified.unverified())),
            Box::new(|| copy_mapped(&peer, cuda)),
        ],
    );
    let case = format!("`load_to_device`, to the GPU, {} MiB in {TENSORS} tensors", machine.mib);
    let bytes = Some((machine.mib << 20) as u64);
    let mut push = |what, dolmen: &Samples, peer: &Samples, cache, touched, asked| {
        let (case, dolmen, peer) = (case.clone(), dolmen.clone(), peer.clone());
        let peer_name = "safetensors, mapped, each tensor copied";
        table.rows.push(Row { case, what, dolmen, peer_name, peer, cache, touched, bytes, asked });
    };
    let (checked, both) = ("all: CRC, copy / copy", "all: copy / copy");
    push("all threads", &warm, &warm_copied, Cache::Warm, checked, Some(3.0));
    push("unverified, all threads", &unverified, &warm_copied, Cache::Warm, both, None);
    if machine::make_cold(&dolmen) {
        let cold = |path: &Path| assert!(machine::make_cold(path));
        let [cold_load, cold_copied] = in_turns(
            machine.rounds(5),
            machine.at_most(60),
            [
                Box::new(|| {
                    cold(&dolmen);
                    load(&dolmen, cuda, &verified)
                }) as Case<'_>,
                Box::new(|| {
                    cold(&peer);
                    copy_mapped(&peer, cuda)
                }),
            ],
        );
        push("all threads", &cold_load, &cold_copied, Cache::Cold, checked, Some(3.0));
    } else {
        table.notes.push("no cold runs: the page cache cannot be asked to forget a file here".into());
    }
    for path in [dolmen, peer] {
        fs::remove_file(path).unwrap();
    }
}
