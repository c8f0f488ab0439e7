//! Streaming tables of features: beside copying the same rows, and beside gathering them from mapped safetensors files.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dolmen::feature::{
    Access, Batch, Device, Host, JoinOptions, Layout, LoadOptions, Loaded, Loader, LoaderOptions, Order, PageCache,
    Table as Features, TableWriter, TableWriterOptions, Verification, load_to_device,
};
use dolmen::foreign::{ConvertOptions, convert};
use dolmen::{Builder, Checkpoint, DType, Durability, SaveOptions};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::load::TENSORS;
use crate::machine::{self, Machine};
use crate::measure::{Cache, Case, Row, Samples, Table, Taken, in_turns, time};
use crate::open::name;

/// Columns of the two tables that are joined, and of the joined one.
const NARROW: usize = 768;
const WIDE: usize = 2560;
pub const WIDTH: usize = NARROW + WIDE;
/// Bytes of a row.
pub const ROW_LEN: usize = WIDTH * 4;
const FILES: usize = 8;
/// Rows of a batch when predicting, in order, and when training, at random.
pub const IN_ORDER: usize = 256;
pub const AT_RANDOM: usize = 32;
const SEED: u64 = 42;

/// Files of features, and how many rows they have in all.
pub struct Written {
    pub paths: Vec<PathBuf>,
    pub rows: usize,
}

impl Written {
    pub fn byte_len(&self) -> usize {
        self.rows * ROW_LEN
    }

    /// The table over the files, mapped anew: nothing of it is verified.
    pub fn mapped(&self) -> Features {
        map(&self.paths)
    }

    pub fn remove(&self) {
        self.paths.iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    fn make_cold(&self) -> bool {
        self.paths.iter().all(|path| machine::make_cold(path))
    }
}

fn map(paths: &[PathBuf]) -> Features {
    // SAFETY: the files belong to this run, and nobody writes to them while they are mapped.
    unsafe { Features::map(paths, &Layout::new().no_ids()) }.unwrap()
}

fn file_map(path: &Path) -> memmap2::Mmap {
    // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()) }.unwrap()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

fn loader_options(batch_len: usize, threads: usize) -> LoaderOptions {
    let threads = threads as u32;
    let options = LoaderOptions::new().batch_len(batch_len as u64).threads(threads).prefetch(threads * 2);
    options.page_cache(PageCache::Keep)
}

/// Rows of so many elements, in files, with the ids of so many numbers.
fn write(machine: &Machine, prefix: &str, width: usize, rows: &[&[f32]], ids: impl Fn(usize) -> usize) -> Vec<PathBuf> {
    let save = SaveOptions::new().durability(Durability::None);
    let options = TableWriterOptions::new(DType::F32, [width as u64]).unwrap().save(save);
    let options = options.rows_per_file(rows.len().div_ceil(FILES) as u64);
    let mut writer = TableWriter::create(machine.path(prefix), &options).unwrap();
    for (number, row) in rows.iter().enumerate() {
        writer.append(&[format!("seq_{}", ids(number))], row).unwrap();
    }
    let paths: Vec<PathBuf> = writer.finish().unwrap().into_iter().map(|file| file.path).collect();
    paths.iter().for_each(|path| machine::settle(path));
    paths
}

/// The features, in files of Dolmen's.
pub fn write_features(machine: &Machine, data: &[f32]) -> Written {
    let rows: Vec<&[f32]> = data.chunks_exact(WIDTH).collect();
    Written { paths: write(machine, "features", WIDTH, &rows, |number| number), rows: rows.len() }
}

/// The same rows in as many files of safetensors.
fn write_peer(machine: &Machine, data: &[f32]) -> Vec<PathBuf> {
    let rows = data.len() / WIDTH;
    let parts = data[..rows * WIDTH].chunks(rows.div_ceil(FILES) * WIDTH).enumerate();
    let write = |(number, part): (usize, &[f32])| {
        let path = machine.path(&format!("features-{number}.safetensors"));
        let view = TensorView::new(Dtype::F32, vec![part.len() / WIDTH, WIDTH], bytemuck::cast_slice(part)).unwrap();
        safetensors::serialize_to_file([("data", view)], None, &path).unwrap();
        machine::settle(&path);
        path
    };
    parts.map(write).collect()
}

/// How long an epoch takes, from asking for it until the device has all of it. Of a new table, or of one that was streamed before.
pub fn epoch<D: Device>(loader: &Loader<D>, order: Order) -> Taken {
    time(|| {
        let mut last: Option<Batch<D>> = None;
        let mut rows = 0;
        let mut batches = loader.epoch(order).unwrap();
        for batch in &mut batches {
            let batch = batch.unwrap();
            rows += batch.len() as u64;
            last = Some(batch);
        }
        assert_eq!(rows, loader.table().rows());
        let last = last.expect("there are rows");
        loader.device().synchronize(last.memory()).unwrap();
        drop(last);
        batches
    })
}

/// The first epoch of a table that is mapped anew.
fn first_epoch(written: &Written, options: LoaderOptions, order: Order, dtype: DType) -> Taken {
    let table = written.mapped().cast(dtype).unwrap();
    epoch(&Loader::new(&table, Host, options).unwrap(), order)
}

/// The bytes of rows where they lie in maps of Dolmen's files.
struct Places(Vec<(memmap2::Mmap, Range<usize>)>);

impl Places {
    fn of(written: &Written) -> Places {
        let place = |path: &PathBuf| {
            let checkpoint = Checkpoint::open_on_demand(path).unwrap();
            let tensor = checkpoint.tensor("data").unwrap();
            let at = tensor.file_offset().unwrap() as usize;
            (file_map(path), at..at + tensor.byte_len() as usize)
        };
        Places(written.paths.iter().map(place).collect())
    }

    fn batches(&self) -> Vec<&[u8]> {
        self.0.iter().flat_map(|(map, range)| map[range.clone()].chunks(IN_ORDER * ROW_LEN)).collect()
    }
}

/// Copies all batches from maps into memory that is there, by so many threads; each has a buffer of its own.
fn copy_batches(places: &Places, threads: usize, buffers: &mut [Vec<u8>]) -> Taken {
    let batches = places.batches();
    let next = AtomicUsize::new(0);
    let work = |buffer: &mut Vec<u8>| {
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            buffer[..batch.len()].copy_from_slice(batch);
            black_box(&mut *buffer);
        }
    };
    time(|| {
        if threads == 1 {
            return work(&mut buffers[0]);
        }
        std::thread::scope(|scope| {
            for buffer in &mut buffers[..threads] {
                scope.spawn(|| work(buffer));
            }
        });
    })
}

/// Batches of rows at random from mapped safetensors files: parsed once, then each row copied behind the other.
fn gather(tensors: &[SafeTensors<'_>], rows: &[u64]) -> Taken {
    let data: Vec<&[f32]> = tensors
        .iter()
        .map(|tensors| bytemuck::try_cast_slice(tensors.tensor("data").unwrap().data()).expect("safetensors aligns it"))
        .collect();
    let per_file = data[0].len() / WIDTH;
    time(|| {
        for batch in rows.chunks(AT_RANDOM) {
            let mut gathered: Vec<f32> = Vec::with_capacity(batch.len() * WIDTH);
            for &row in batch {
                let row = row as usize;
                gathered.extend_from_slice(&data[row / per_file][row % per_file * WIDTH..][..WIDTH]);
            }
            black_box(&gathered);
        }
    })
}

fn gather_from(paths: &[PathBuf], rows: &[u64]) -> Taken {
    let maps: Vec<memmap2::Mmap> = paths.iter().map(|path| file_map(path)).collect();
    let tensors: Vec<SafeTensors<'_>> = maps.iter().map(|map| SafeTensors::deserialize(map).unwrap()).collect();
    gather(&tensors, rows)
}

fn read_all(paths: &[PathBuf], buffer: &mut [u8]) -> Taken {
    time(|| {
        for path in paths {
            let mut file = File::open(path).unwrap();
            while file.read(buffer).unwrap() > 0 {
                black_box(&mut *buffer);
            }
        }
    })
}

struct Rows<'t> {
    table: &'t mut Table,
    case: String,
    cache: Cache,
    bytes: u64,
}

impl Rows<'_> {
    fn push(
        &mut self,
        (what, dolmen): (&'static str, &Samples),
        (peer_name, peer): (&'static str, &Samples),
        touched: &'static str,
        asked: Option<f64>,
    ) {
        let (case, cache, bytes) = (self.case.clone(), self.cache, Some(self.bytes));
        let (dolmen, peer) = (dolmen.clone(), peer.clone());
        self.table.rows.push(Row { case, what, dolmen, peer_name, peer, cache, touched, bytes, asked });
    }
}

pub fn run(machine: &Machine, table: &mut Table) {
    {
        let data = machine.data();
        assert!(data.len() >= 2 * FILES * WIDTH, "DOLMEN_BENCH_MIB is too small for features");
        let written = write_features(machine, &data);
        let peer = write_peer(machine, &data);
        drop(data);
        in_order(machine, table, &written);
        at_random(machine, table, &written, &peer);
        cold(machine, table, &written, &peer);
        peer.iter().for_each(|path| fs::remove_file(path).unwrap());
        in_place(machine, table, &written);
        joined(machine, table, &written);
        written.remove();
    }
    whole(machine, table);
}

fn in_order(machine: &Machine, table: &mut Table, written: &Written) {
    let threads = threads();
    let mut buffers = vec![vec![1u8; IN_ORDER * ROW_LEN]; threads];
    let mut more_buffers = buffers.clone();
    let (mut kept_buffers, mut more_kept_buffers) = (buffers.clone(), buffers.clone());
    let with = |threads| loader_options(IN_ORDER, threads);
    let first = |options: LoaderOptions, dtype| {
        Box::new(move || first_epoch(written, options, Order::sequential(), dtype)) as Case<'_>
    };
    let off = Verification::Off;
    let [lent, single, all, single_off, all_off, bf16, memcpy, memcpy_all] = in_turns(
        machine.rounds(15),
        machine.at_most(40),
        [
            first(with(threads), DType::F32),
            first(with(1).copied(true), DType::F32),
            first(with(threads).copied(true), DType::F32),
            first(with(1).copied(true).verification(off), DType::F32),
            first(with(threads).copied(true).verification(off), DType::F32),
            first(with(threads), DType::BF16),
            Box::new(|| copy_batches(&Places::of(written), 1, &mut buffers)),
            Box::new(|| copy_batches(&Places::of(written), threads, &mut more_buffers)),
        ],
    );
    let loader = |threads, verification| {
        let options = with(threads).copied(true).verification(verification);
        let loader = Loader::new(&written.mapped(), Host, options).unwrap();
        epoch(&loader, Order::sequential());
        loader
    };
    let (once, every) = (Verification::Once, Verification::EveryEpoch);
    let (kept, kept_all, places) = (loader(1, once), loader(threads, once), Places::of(written));
    let (anew, anew_all) = (loader(1, every), loader(threads, every));
    copy_batches(&places, 1, &mut kept_buffers);
    let [later, later_all, again, again_all, kept_memcpy, kept_memcpy_all] = in_turns(
        machine.rounds(15),
        machine.at_most(25),
        [
            Box::new(|| epoch(&kept, Order::sequential())) as Case<'_>,
            Box::new(|| epoch(&kept_all, Order::sequential())),
            Box::new(|| epoch(&anew, Order::sequential())),
            Box::new(|| epoch(&anew_all, Order::sequential())),
            Box::new(|| copy_batches(&places, 1, &mut kept_buffers)),
            Box::new(|| copy_batches(&places, threads, &mut more_kept_buffers)),
        ],
    );
    let case = format!("batches of {IN_ORDER} rows in order, {} MiB in {FILES} files", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Warm, bytes: written.byte_len() as u64 };
    const FRESH: &str = "memcpy of the batches from a new map, 1 thread";
    const FRESH_ALL: &str = "memcpy of the batches from a new map, all threads";
    let copied = "all: CRC, copy / copy";
    rows.push(("first epoch, lent, all threads", &lent), (FRESH, &memcpy), "all: CRC / copy", None);
    rows.push(("first epoch, lent, all threads", &lent), (FRESH_ALL, &memcpy_all), "all: CRC / copy", Some(0.9));
    rows.push(("first epoch, copied, 1 thread", &single), (FRESH, &memcpy), copied, Some(0.9));
    rows.push(("first epoch, copied, all threads", &all), (FRESH, &memcpy), copied, None);
    rows.push(("first epoch, copied, all threads", &all), (FRESH_ALL, &memcpy_all), copied, Some(0.9));
    let both = "all: copy / copy";
    const USED: &str = "memcpy of the batches from a map that was read, 1 thread";
    const USED_ALL: &str = "memcpy of the batches from a map that was read, all threads";
    rows.push(("later epochs, copied, 1 thread", &later), (USED, &kept_memcpy), both, Some(0.9));
    rows.push(("later epochs, copied, all threads", &later_all), (USED_ALL, &kept_memcpy_all), both, Some(0.9));
    rows.push(("verified in every epoch, copied, 1 thread", &again), (USED, &kept_memcpy), copied, Some(0.9));
    rows.push(
        ("verified in every epoch, copied, all threads", &again_all),
        (USED_ALL, &kept_memcpy_all),
        copied,
        Some(0.9),
    );
    rows.push(("first epoch, copied, 1 thread", &single), ("the same, unverified", &single_off), copied, None);
    rows.push(("first epoch, copied, all threads", &all), ("the same, unverified", &all_off), copied, None);
    let converted = "all: CRC, conversion / copy";
    rows.push(("first epoch, as bf16, all threads", &bf16), (FRESH_ALL, &memcpy_all), converted, None);
}

fn at_random(machine: &Machine, table: &mut Table, written: &Written, peer: &[PathBuf]) {
    let threads = threads();
    let order = Order::shuffled(SEED);
    let ordered = order.of(written.rows as u64).unwrap();
    let mut shuffled = Vec::new();
    ordered.extend(0..written.rows as u64, &mut shuffled).unwrap();
    let with = |threads| loader_options(AT_RANDOM, threads);
    let [single, all, gathered] = in_turns(
        machine.rounds(15),
        machine.at_most(20),
        [
            Box::new(|| first_epoch(written, with(1), order, DType::F32)) as Case<'_>,
            Box::new(|| first_epoch(written, with(threads), order, DType::F32)),
            Box::new(|| gather_from(peer, &shuffled)),
        ],
    );
    let loader = |threads| Loader::new(&written.mapped(), Host, with(threads)).unwrap();
    let (kept, kept_all) = (loader(1), loader(threads));
    epoch(&kept, order);
    epoch(&kept_all, order);
    let maps: Vec<memmap2::Mmap> = peer.iter().map(|path| file_map(path)).collect();
    let tensors: Vec<SafeTensors<'_>> = maps.iter().map(|map| SafeTensors::deserialize(map).unwrap()).collect();
    gather(&tensors, &shuffled);
    let [later, later_all, kept_gathered] = in_turns(
        machine.rounds(15),
        machine.at_most(20),
        [
            Box::new(|| epoch(&kept, order)) as Case<'_>,
            Box::new(|| epoch(&kept_all, order)),
            Box::new(|| gather(&tensors, &shuffled)),
        ],
    );
    let case = format!("batches of {AT_RANDOM} rows at random, {} MiB in {FILES} files", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Warm, bytes: written.byte_len() as u64 };
    let (checked, both) = ("all: CRC, copy / copy", "all: copy / copy");
    const FRESH: &str = "safetensors, gathered from new maps, 1 thread";
    const USED: &str = "safetensors, gathered from maps that were read, 1 thread";
    rows.push(("first epoch, 1 thread", &single), (FRESH, &gathered), checked, None);
    rows.push(("first epoch, all threads", &all), (FRESH, &gathered), checked, Some(2.0));
    rows.push(("later epochs, 1 thread", &later), (USED, &kept_gathered), both, None);
    rows.push(("later epochs, all threads", &later_all), (USED, &kept_gathered), both, Some(2.0));
    let rate = |samples: &Samples| (written.rows as f64 / samples.min().as_secs_f64()).round();
    table.notes.push(format!(
        "rows a second at random, in batches of {AT_RANDOM}, by least times: first epoch {} (1 thread) and {} (all threads), \
         gathered from new maps of safetensors {}; later epochs {} and {}, gathered from maps that were read {}",
        rate(&single),
        rate(&all),
        rate(&gathered),
        rate(&later),
        rate(&later_all),
        rate(&kept_gathered),
    ));
}

fn cold(machine: &Machine, table: &mut Table, written: &Written, peer: &[PathBuf]) {
    if !written.make_cold() {
        table.notes.push("no cold runs of features: the page cache cannot be asked to forget a file here".into());
        return;
    }
    let threads = threads();
    let open = |access| Features::open_with(&written.paths, &Layout::new().no_ids(), access).unwrap();
    // Opened first: that reads the index, and maps nothing of the data.
    let epoch_of = |features: Features, batch_len, order| {
        assert!(written.make_cold());
        epoch(&Loader::new(&features, Host, loader_options(batch_len, threads).copied(true)).unwrap(), order)
    };
    let (in_order, at_random) = (Order::sequential(), Order::shuffled(SEED));
    let mut buffer = vec![1u8; 1 << 20];
    let [map, read, direct, plain] = in_turns(
        machine.rounds(5),
        machine.at_most(25),
        [
            Box::new(|| epoch_of(written.mapped(), IN_ORDER, in_order)) as Case<'_>,
            Box::new(|| epoch_of(open(Access::Read), IN_ORDER, in_order)),
            Box::new(|| epoch_of(open(Access::Direct), IN_ORDER, in_order)),
            Box::new(|| {
                assert!(written.make_cold());
                read_all(&written.paths, &mut buffer)
            }),
        ],
    );
    let mut shuffled = Vec::new();
    at_random.of(written.rows as u64).unwrap().extend(0..written.rows as u64, &mut shuffled).unwrap();
    let [random_map, random_read, gathered] = in_turns(
        machine.rounds(5),
        machine.at_most(25),
        [
            Box::new(|| epoch_of(written.mapped(), AT_RANDOM, at_random)) as Case<'_>,
            Box::new(|| epoch_of(open(Access::Read), AT_RANDOM, at_random)),
            Box::new(|| {
                assert!(peer.iter().all(|path| machine::make_cold(path)));
                gather_from(peer, &shuffled)
            }),
        ],
    );
    let case = format!("batches of {IN_ORDER} rows in order, {} MiB in {FILES} files", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Cold, bytes: written.byte_len() as u64 };
    let copied = "all: CRC, copy / copy";
    const PLAIN: &str = "`read` of the files into memory that is there, 1 thread";
    rows.push(("mapped, first epoch, all threads", &map), (PLAIN, &plain), copied, None);
    rows.push(("read on demand, first epoch, all threads", &read), (PLAIN, &plain), copied, None);
    rows.push(("read past the page cache, first epoch, all threads", &direct), (PLAIN, &plain), copied, None);
    rows.case = format!("batches of {AT_RANDOM} rows at random, {} MiB in {FILES} files", machine.mib);
    const GATHERED: &str = "safetensors, gathered from maps, 1 thread";
    rows.push(("mapped, first epoch, all threads", &random_map), (GATHERED, &gathered), copied, None);
    rows.push(("read on demand, first epoch, all threads", &random_read), (GATHERED, &gathered), copied, None);
}

/// PyTorch's files, where they are.
fn in_place(machine: &Machine, table: &mut Table, written: &Written) {
    let exported = |path: &PathBuf| {
        let to = path.with_extension("pt");
        drop(convert(path, &to, &ConvertOptions::new()).unwrap());
        to
    };
    let torch = Written { paths: written.paths.iter().map(exported).collect(), rows: written.rows };
    let threads = threads();
    let options = loader_options(IN_ORDER, threads).copied(true);
    let random = loader_options(AT_RANDOM, threads);
    let (in_order, at_random) = (Order::sequential(), Order::shuffled(SEED));
    let case = |of, options, order| Box::new(move || first_epoch(of, options, order, DType::F32)) as Case<'_>;
    let [torch_order, order, torch_random, at_random] = in_turns(
        machine.rounds(9),
        machine.at_most(20),
        [
            case(&torch, options, in_order),
            case(written, options, in_order),
            case(&torch, random, at_random),
            case(written, random, at_random),
        ],
    );
    torch.remove();
    let case = format!("`.pt` where it is, {} MiB in {FILES} files", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Warm, bytes: written.byte_len() as u64 };
    let both = "all: CRC, copy / CRC, copy";
    rows.push(("`.pt`, in order, all threads", &torch_order), ("`.dolmen`", &order), both, None);
    rows.push(("`.pt`, at random, all threads", &torch_random), ("`.dolmen`", &at_random), both, None);
}

/// Two tables joined as they are read, beside one that was joined before.
fn joined(machine: &Machine, table: &mut Table, written: &Written) {
    let count = written.rows;
    // Another order: of every row, that which is as many rows further as a number that has no divisor in common with them.
    let step = (count / 3..).find(|&step| greatest_divisor(step, count) == 1).expect("a prime is one");
    let (left, right) = {
        let data = machine.data();
        let rows: Vec<&[f32]> = data.chunks_exact(WIDTH).collect();
        let left: Vec<&[f32]> = rows.iter().map(|row| &row[..NARROW]).collect();
        let right: Vec<&[f32]> = (0..count).map(|row| &rows[row * step % count][NARROW..]).collect();
        (
            write(machine, "left", NARROW, &left, |row| row),
            write(machine, "right", WIDE, &right, |row| row * step % count),
        )
    };
    let open = |paths: &[PathBuf]| {
        // SAFETY: the files belong to this run, and nobody writes to them while they are mapped.
        unsafe { Features::map(paths, &Layout::new()) }.unwrap()
    };
    let join = || open(&left).join(&open(&right), &JoinOptions::new()).unwrap().table;
    let some = [0, 1, count as u64 / 2, count as u64 - 1];
    assert_eq!(join().read_rows::<f32>(&some).unwrap(), written.mapped().read_rows::<f32>(&some).unwrap());
    let threads = threads();
    let options = |batch_len| loader_options(batch_len, threads).copied(true);
    let (in_order, at_random) = (Order::sequential(), Order::shuffled(SEED));
    let of_join = |batch_len, order| epoch(&Loader::new(&join(), Host, options(batch_len)).unwrap(), order);
    let materialised = |batch_len, order| first_epoch(written, options(batch_len), order, DType::F32);
    let [joined, plain, random_joined, random_plain] = in_turns(
        machine.rounds(9),
        machine.at_most(30),
        [
            Box::new(|| of_join(IN_ORDER, in_order)) as Case<'_>,
            Box::new(|| materialised(IN_ORDER, in_order)),
            Box::new(|| of_join(AT_RANDOM, at_random)),
            Box::new(|| materialised(AT_RANDOM, at_random)),
        ],
    );
    left.iter().chain(&right).for_each(|path| fs::remove_file(path).unwrap());
    let case = format!("{NARROW} + {WIDE} columns joined by id, in different orders, {} MiB", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Warm, bytes: written.byte_len() as u64 };
    let both = "all: CRC, copy / CRC, copy";
    let peer = "one table that was joined before";
    rows.push(("first epoch, in order, all threads", &joined), (peer, &plain), both, None);
    rows.push(("first epoch, at random, all threads", &random_joined), (peer, &random_plain), both, None);
}

fn greatest_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// The data as tensors of one checkpoint, in a file of Dolmen's and in one of safetensors.
pub fn write_whole(machine: &Machine) -> [PathBuf; 2] {
    let [dolmen, peer] = [machine.path("whole.dolmen"), machine.path("whole.safetensors")];
    let data = machine.data();
    let parts = || data.chunks(data.len().div_ceil(TENSORS)).enumerate();
    let mut builder = Builder::new();
    for (n, part) in parts() {
        builder.tensor(&name(n), part).unwrap();
    }
    builder.save_with(&dolmen, &SaveOptions::new().durability(Durability::None)).unwrap();
    let view = |part| TensorView::new(Dtype::F32, vec![<[f32]>::len(part)], bytemuck::cast_slice(part)).unwrap();
    safetensors::serialize_to_file(parts().map(|(n, part)| (name(n), view(part))), None, &peer).unwrap();
    [&dolmen, &peer].into_iter().for_each(|path| machine::settle(path));
    [dolmen, peer]
}

/// A checkpoint opened and put on a device. The device's memory is freed after the clocks have stopped.
pub fn load<D: Device>(path: &Path, device: &Arc<D>, options: &LoadOptions) -> Taken {
    time(|| {
        // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
        let checkpoint = unsafe { Checkpoint::map(path) }.unwrap();
        let loaded: Loaded<D> = load_to_device(&checkpoint, Arc::clone(device), options).unwrap();
        (loaded, checkpoint)
    })
}

fn whole(machine: &Machine, table: &mut Table) {
    let [dolmen, peer] = write_whole(machine);
    let host = Arc::new(Host);
    let copy_all = || {
        time(|| {
            let map = file_map(&peer);
            let tensors = SafeTensors::deserialize(&map).unwrap();
            let mut all: Vec<u8> = Vec::with_capacity(map.len());
            for (_, tensor) in tensors.iter() {
                all.extend_from_slice(tensor.data());
            }
            drop(tensors);
            (all, map)
        })
    };
    let (verified, single) = (LoadOptions::new(), LoadOptions::new().threads(1));
    let [all, one, unverified, read, copied] = in_turns(
        machine.rounds(9),
        machine.at_most(30),
        [
            Box::new(|| load(&dolmen, &host, &verified)) as Case<'_>,
            Box::new(|| load(&dolmen, &host, &single)),
            Box::new(|| load(&dolmen, &host, &verified.unverified())),
            Box::new(|| time(|| fs::read(&dolmen).unwrap())),
            Box::new(copy_all),
        ],
    );
    let case = format!("`load_to_device`, to memory, {} MiB in {TENSORS} tensors", machine.mib);
    let mut rows = Rows { table, case, cache: Cache::Warm, bytes: (machine.mib << 20) as u64 };
    let (checked, both) = ("all: CRC, copy / copy", "all: copy / copy");
    const READ: &str = "`std::fs::read`";
    const COPIED: &str = "safetensors, mapped and copied into one buffer";
    rows.push(("all threads", &all), (READ, &read), checked, None);
    rows.push(("1 thread", &one), (READ, &read), checked, None);
    rows.push(("all threads", &all), (COPIED, &copied), checked, None);
    rows.push(("1 thread", &one), (COPIED, &copied), checked, None);
    rows.push(("unverified, all threads", &unverified), (COPIED, &copied), both, None);
    for path in [dolmen, peer] {
        fs::remove_file(path).unwrap();
    }
}
