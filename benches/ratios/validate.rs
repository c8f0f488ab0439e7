//! Validating many checkpoints: quickly, by their structure, and in full, beside the checksum alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use dolmen::format::checksum::crc32;
use dolmen::format::value::{Dict, Value};
use dolmen::lifecycle::Validator;
use dolmen::{Builder, Durability, FileOptions, SaveOptions};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::machine::Machine;
use crate::measure::{Cache, Row, Table, in_turns, time};
use crate::open::name;

/// Files that differ; the others are further names of theirs. Their indexes together are longer than the caches of processors.
const DISTINCT: usize = 60;
/// Files that the data is in, for full validation.
const FULL_FILES: usize = 16;

/// Gives each of the files further names, until there are so many.
fn multiply(files: &[PathBuf], count: usize) -> Vec<PathBuf> {
    let further = |n: usize| {
        let original = &files[n % files.len()];
        let path = original.with_file_name(format!("{n:04}-{}", original.file_name().unwrap().to_str().unwrap()));
        fs::hard_link(original, &path).unwrap();
        path
    };
    (0..count).map(further).collect()
}

fn write_dolmen(path: &Path, tensors: usize, document: bool) {
    let data = [1.0f32; 16];
    let mut builder = Builder::with_options(FileOptions::new().alignment(64).unwrap());
    let mut root = Dict::new();
    for n in 0..tensors {
        let name = name(n);
        builder.tensor(&name, (&data, [4, 4])).unwrap();
        if document {
            root.push(name.as_str(), Value::tensor(name.as_str()));
        }
    }
    if document {
        builder.document(Value::from(root));
    }
    builder.save_with(path, &SaveOptions::new().durability(Durability::None)).unwrap();
}

/// Calls `work` for each file, on two threads or more.
fn on_all_threads(paths: &[PathBuf], work: impl Fn(&Path) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(path);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(run);
        }
        run();
    });
}

fn mapped(path: &Path) -> memmap2::Mmap {
    // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()) }.unwrap()
}

pub fn run(machine: &Machine, table: &mut Table) {
    quick(machine, table);
    full(machine, table);
}

fn quick(machine: &Machine, table: &mut Table) {
    let tensors = machine.tensor_counts().iter().copied().filter(|&count| count <= 10_000).max().unwrap_or(10);
    let count = machine.rounds(600);
    let originals = |ending: &str, write: &dyn Fn(&Path)| {
        let files: Vec<PathBuf> =
            (0..count.min(DISTINCT)).map(|n| machine.path(&format!("quick-{n}.{ending}"))).collect();
        files.iter().for_each(|path| write(path));
        multiply(&files, count)
    };
    let data = [1.0f32; 16];
    let view = || TensorView::new(Dtype::F32, vec![4, 4], bytemuck::cast_slice(&data)).unwrap();
    let named = originals("dolmen", &|path| write_dolmen(path, tensors, false));
    let nested = originals("document.dolmen", &|path| write_dolmen(path, tensors, true));
    let peer = originals("safetensors", &|path| {
        safetensors::serialize_to_file((0..tensors).map(|n| (name(n), view())), None, path).unwrap();
    });
    let validate = |paths: &[PathBuf]| {
        let batch = Validator::new().quick(true).validate_all(paths);
        assert_eq!(batch.valid.len(), count);
        batch
    };
    let [by_name, by_document, by_peer] = in_turns(
        machine.rounds(7),
        machine.at_most(60),
        [
            Box::new(|| time(|| validate(&named))),
            Box::new(|| time(|| validate(&nested))),
            Box::new(|| {
                time(|| on_all_threads(&peer, |path| drop(SafeTensors::deserialize(&mapped(path)).map(|t| t.len()))))
            }),
        ],
    );
    for (what, samples) in [("tensors by name", by_name), ("with a document", by_document)] {
        let least = samples.min().as_secs_f64();
        let met = if least < 1.0 { "met" } else { "short" };
        table.notes.push(format!(
            "quick validation of {count} checkpoints of {tensors} tensors, {what}: {least:.3} s, warm; under 1 s was asked: {met}"
        ));
        table.rows.push(Row {
            case: format!("quick validation, {count} checkpoints of {tensors} tensors"),
            what,
            dolmen: samples,
            peer_name: "safetensors, each mapped and its header parsed, all threads",
            peer: by_peer.clone(),
            cache: Cache::Warm,
            touched: "no data",
            bytes: None,
            asked: None,
        });
    }
    for path in named.iter().chain(&nested).chain(&peer) {
        fs::remove_file(path).unwrap();
    }
}

fn full(machine: &Machine, table: &mut Table) {
    let data = machine.data();
    let mut paths = Vec::new();
    for (n, part) in data.chunks(data.len().div_ceil(FULL_FILES)).enumerate() {
        let path = machine.path(&format!("full-{n}.dolmen"));
        let mut builder = Builder::new();
        builder.tensor("data", part).unwrap();
        builder.save_with(&path, &SaveOptions::new().durability(Durability::None)).unwrap();
        paths.push(path);
    }
    let bytes = std::mem::size_of_val(&data[..]) as u64;
    drop(data);
    let [validated, checksum, read] = in_turns(
        machine.rounds(9),
        machine.at_most(60),
        [
            Box::new(|| {
                time(|| {
                    let batch = Validator::new().validate_all(&paths);
                    assert_eq!(batch.valid.len(), paths.len());
                    batch
                })
            }),
            Box::new(|| {
                time(|| {
                    on_all_threads(&paths, |path| {
                        std::hint::black_box(crc32(&mapped(path)));
                    })
                })
            }),
            Box::new(|| {
                time(|| {
                    on_all_threads(&paths, |path| {
                        use std::io::Read;
                        let (mut file, mut piece) = (File::open(path).unwrap(), vec![0; 1 << 20]);
                        let mut hasher = crc32fast::Hasher::new();
                        loop {
                            match file.read(&mut piece).unwrap() {
                                0 => break,
                                len => hasher.update(&piece[..len]),
                            }
                        }
                        std::hint::black_box(hasher.finalize());
                    });
                })
            }),
        ],
    );
    let row = |peer_name, peer| Row {
        case: format!("full validation, {} MiB in {FULL_FILES} checkpoints", bytes >> 20),
        what: "`validate_all`, all threads",
        dolmen: validated.clone(),
        peer_name,
        peer,
        cache: Cache::Warm,
        touched: "all: CRC / CRC",
        bytes: Some(bytes),
        asked: None,
    };
    table.rows.push(row("CRC-32 of a map, all threads", checksum));
    table.rows.push(row("`read` and CRC-32, all threads", read));
    for path in &paths {
        fs::remove_file(path).unwrap();
    }
}
