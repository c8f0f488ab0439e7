//! Reading large tensors: verified by Dolmen, unverified by its peers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use dolmen::{Builder, Checkpoint, OpenOptions, VerifyOptions};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::machine::{self, Machine};
use crate::measure::{Cache, Case, Row, Samples, Table, Taken, in_turns, time};
use crate::open::name;

/// Tensors of the file.
pub const TENSORS: usize = 64;

/// The sum of all words: what merely reading the bytes takes. The compiler makes vector code of it.
fn sum(bytes: &[u8]) -> u64 {
    let (front, words, back) = bytemuck::pod_align_to::<u8, u64>(bytes);
    let ends = front.iter().chain(back).fold(0u64, |sum, &byte| sum.wrapping_add(byte.into()));
    words.iter().fold(ends, |sum, &word| sum.wrapping_add(word))
}

/// As [`sum`], by so many threads, each with a part of its own.
fn sum_by(threads: usize, bytes: &[u8]) -> u64 {
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            bytes.chunks(bytes.len().div_ceil(threads)).map(|part| scope.spawn(move || sum(part))).collect();
        parts.into_iter().fold(0u64, |all, part| all.wrapping_add(part.join().unwrap()))
    })
}

fn map(path: &Path) -> memmap2::Mmap {
    // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()) }.unwrap()
}

fn map_dolmen(path: &Path, threads: usize) -> Checkpoint {
    // SAFETY: as above.
    unsafe { OpenOptions::new().threads(threads).map(path) }.unwrap()
}

/// Verifies every tensor by touching it.
fn touch_all(checkpoint: &Checkpoint) -> usize {
    checkpoint.tensors().map(|t| t.unwrap().as_slice::<f32>().unwrap().len()).sum()
}

pub fn run(machine: &Machine, table: &mut Table) {
    let [dolmen, peer] = [machine.path("load.dolmen"), machine.path("load.safetensors")];
    let len = machine.mib << 20;
    {
        let data = machine.data();
        let parts = || data.chunks(data.len().div_ceil(TENSORS)).enumerate();
        let mut builder = Builder::new();
        for (n, part) in parts() {
            builder.tensor(&name(n), part).unwrap();
        }
        builder.save(&dolmen).unwrap();
        let view = |part| TensorView::new(Dtype::F32, vec![<[f32]>::len(part)], bytemuck::cast_slice(part)).unwrap();
        safetensors::serialize_to_file(parts().map(|(n, part)| (name(n), view(part))), None, &peer).unwrap();
    }
    machine::settle(&dolmen);
    machine::settle(&peer);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut buffer = vec![1u8; len];
    let one = name(TENSORS / 2);
    let plain_len = std::fs::metadata(&peer).unwrap().len() as usize;

    let verified = |threads: usize| {
        let dolmen = &dolmen;
        move || {
            time(|| {
                let checkpoint = map_dolmen(dolmen, threads);
                assert_eq!(touch_all(&checkpoint), len / 4);
                checkpoint
            })
        }
    };
    let checked = |threads: usize| {
        let dolmen = &dolmen;
        move || {
            time(|| {
                let checkpoint = map_dolmen(dolmen, threads);
                checkpoint.check_data().unwrap();
                assert_eq!(touch_all(&checkpoint), len / 4);
                checkpoint
            })
        }
    };
    let summed = |threads: usize| {
        let peer = &peer;
        move || {
            time(|| {
                let map = map(peer);
                std::hint::black_box(if threads == 1 { sum(&map) } else { sum_by(threads, &map) });
                map
            })
        }
    };
    let safetensors_summed = || {
        time(|| {
            let map = map(&peer);
            let tensors = SafeTensors::deserialize(&map).unwrap();
            let all = tensors.iter().fold(0u64, |all, (_, tensor)| all.wrapping_add(sum(tensor.data())));
            std::hint::black_box(all);
            drop(tensors);
            map
        })
    };
    let at_most = machine.at_most(30);
    let rounds = machine.rounds(15);
    let [single, all, at_once, sum_single, sum_all, st, in_memory_crc, in_memory_sum] = {
        let bytes = std::fs::read(&peer).unwrap();
        let bytes = &bytes;
        in_turns(
            rounds,
            at_most,
            [
                Box::new(verified(1)),
                Box::new(verified(threads)),
                Box::new(checked(threads)),
                Box::new(summed(1)),
                Box::new(summed(threads)),
                Box::new(safetensors_summed) as Case<'_>,
                Box::new(|| time(|| dolmen::format::checksum::crc32(bytes))),
                Box::new(|| time(|| sum(bytes))),
            ],
        )
    };
    let [copied, read, touched_one, summed_one, on_demand_one] = in_turns(
        rounds.min(11),
        machine.at_most(15),
        [
            Box::new(|| {
                let map = map(&peer);
                time(|| buffer.copy_from_slice(&map[map.len() - len..]))
            }) as Case<'_>,
            Box::new(|| {
                let mut other = vec![1u8; len];
                let mut file = File::open(&peer).unwrap();
                time(|| file.read_exact(&mut other).unwrap())
            }),
            Box::new(|| {
                time(|| {
                    let checkpoint = map_dolmen(&dolmen, threads);
                    assert!(!checkpoint.tensor(&one).unwrap().as_slice::<f32>().unwrap().is_empty());
                    checkpoint
                })
            }),
            Box::new(|| {
                time(|| {
                    let map = map(&peer);
                    let tensors = SafeTensors::deserialize(&map).unwrap();
                    std::hint::black_box(sum(tensors.tensor(&one).unwrap().data()));
                    drop(tensors);
                    map
                })
            }),
            Box::new(|| {
                time(|| {
                    let checkpoint = OpenOptions::new().threads(threads).open_on_demand(&dolmen).unwrap();
                    assert!(!checkpoint.tensor(&one).unwrap().as_slice::<f32>().unwrap().is_empty());
                    checkpoint
                })
            }),
        ],
    );
    drop(buffer);
    let [open_single, open_all, read_fresh, strict_single, strict_all] = in_turns(
        rounds.min(11),
        machine.at_most(25),
        [
            Box::new(|| time(|| OpenOptions::new().threads(1).open(&dolmen).unwrap())) as Case<'_>,
            Box::new(|| time(|| OpenOptions::new().open(&dolmen).unwrap())),
            Box::new(|| time(|| std::fs::read(&peer).unwrap())),
            Box::new(|| strict(&dolmen, 1)),
            Box::new(|| strict(&dolmen, threads)),
        ],
    );

    let row = |case: &str, what, dolmen: &Samples, peer_name, peer: &Samples, touched, asked| Row {
        case: case.to_owned(),
        what,
        dolmen: dolmen.clone(),
        peer_name,
        peer: peer.clone(),
        cache: Cache::Warm,
        touched,
        bytes: Some(len as u64),
        asked,
    };
    let load = format!("verified load, {} MiB", machine.mib);
    let both = "all: CRC / sum";
    let rows = &mut table.rows;
    const ONE: &str = "`map`, touch all, 1 thread";
    const ALL: &str = "`map`, touch all, all threads";
    const AT_ONCE: &str = "`map`, `check_data`, touch all, all threads";
    rows.push(row(&load, ONE, &single, "merely reading: sum over a map, 1 thread", &sum_single, both, Some(0.9)));
    rows.push(row(&load, ALL, &all, "merely reading: sum over a map, 1 thread", &sum_single, both, Some(0.9)));
    rows.push(row(&load, AT_ONCE, &at_once, "merely reading: sum over a map, 1 thread", &sum_single, both, Some(0.9)));
    rows.push(row(&load, ALL, &all, "merely reading: sum over a map, all threads", &sum_all, both, None));
    rows.push(row(&load, AT_ONCE, &at_once, "merely reading: sum over a map, all threads", &sum_all, both, Some(0.9)));
    rows.push(row(&load, ONE, &single, "safetensors, mapped and summed, 1 thread", &st, both, None));
    rows.push(row(&load, ALL, &all, "safetensors, mapped and summed, 1 thread", &st, both, None));
    rows.push(row(&load, ONE, &single, "copy of a map into memory that is there", &copied, "all: CRC / copy", None));
    rows.push(row(&load, ONE, &single, "`read` into memory that is there", &read, "all: CRC / copy", None));
    rows.push(row("in memory", "CRC-32, 1 thread", &in_memory_crc, "sum, 1 thread", &in_memory_sum, both, None));
    let open = format!("load into memory, {} MiB", machine.mib);
    rows.push(row(
        &open,
        "`open`, 1 thread",
        &open_single,
        "`std::fs::read`",
        &read_fresh,
        "all: copy, CRC / copy",
        None,
    ));
    rows.push(row(
        &open,
        "`open`, all threads",
        &open_all,
        "`std::fs::read`",
        &read_fresh,
        "all: copy, CRC / copy",
        None,
    ));
    let strict = format!("strict verification, {} MiB", machine.mib);
    rows.push(row(&strict, "`verify`, 1 thread", &strict_single, "merely reading, 1 thread", &sum_single, both, None));
    rows.push(row(&strict, "`verify`, all threads", &strict_all, "merely reading, all threads", &sum_all, both, None));
    let part = format!("first touch of 1 tensor of {TENSORS}");
    let some = "1 tensor: CRC / sum";
    let bytes = Some((len / TENSORS) as u64);
    rows.push(Row {
        bytes,
        ..row(&part, "`map`", &touched_one, "safetensors, mapped and summed", &summed_one, some, None)
    });
    let read_one = "1 tensor: copy, CRC / sum";
    rows.push(Row {
        bytes,
        ..row(&part, "`open_on_demand`", &on_demand_one, "safetensors, mapped and summed", &summed_one, read_one, None)
    });
    table.notes.push(format!("the peer's file has {plain_len} bytes"));

    if !machine::make_cold(&peer) {
        table.notes.push("no cold runs: the page cache cannot be asked to forget a file here".into());
        return;
    }
    let cold = |path: &Path| assert!(machine::make_cold(path));
    let [cold_map, cold_sum, cold_open, cold_read] = in_turns(
        machine.rounds(5),
        machine.at_most(25),
        [
            Box::new(|| {
                cold(&dolmen);
                verified(threads)()
            }) as Case<'_>,
            Box::new(|| {
                cold(&peer);
                summed(1)()
            }),
            Box::new(|| {
                cold(&dolmen);
                time(|| Checkpoint::open(&dolmen).unwrap())
            }),
            Box::new(|| {
                cold(&peer);
                time(|| std::fs::read(&peer).unwrap())
            }),
        ],
    );
    let reading = "merely reading: sum over a map, 1 thread";
    table.rows.push(Row { cache: Cache::Cold, ..row(&load, ALL, &cold_map, reading, &cold_sum, both, None) });
    table.rows.push(Row {
        cache: Cache::Cold,
        ..row(&open, "`open`, all threads", &cold_open, "`std::fs::read`", &cold_read, "all: copy, CRC / copy", None)
    });
}

/// The time of a strict verification.
fn strict(path: &Path, threads: usize) -> Taken {
    // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
    let checkpoint = unsafe { Checkpoint::map(path) }.unwrap();
    let mut options = VerifyOptions::default();
    options.threads = threads;
    let mut valid = false;
    let elapsed = time(|| valid = checkpoint.verify_with(&options).unwrap().is_valid());
    assert!(valid);
    elapsed
}
