//! Opening a file and looking up one tensor, by the number of tensors.

use std::cell::OnceCell;
use std::fs::File;
use std::path::Path;

use dolmen::{Builder, Checkpoint};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::machine::{self, Machine};
use crate::measure::{Cache, Row, Table, in_turns, time};

const PARTS: [&str; 9] = [
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
];

/// The name of tensor number `n`.
pub fn name(n: usize) -> String {
    format!("model.layers.{}.{}", n / PARTS.len(), PARTS[n % PARTS.len()])
}

/// Writes the same small tensors in both formats.
fn write_both(count: usize, dolmen: &Path, peer: &Path) {
    let data = [1.0f32; 16];
    let mut builder = Builder::new();
    for n in 0..count {
        builder.tensor(&name(n), (&data, [4, 4])).unwrap();
    }
    builder.save(dolmen).unwrap();
    let view = || TensorView::new(Dtype::F32, vec![4, 4], bytemuck::cast_slice(&data)).unwrap();
    safetensors::serialize_to_file((0..count).map(|n| (name(n), view())), None, peer).unwrap();
}

fn map(path: &Path) -> memmap2::Mmap {
    // SAFETY: the file belongs to this run, and nobody writes to it while it is mapped.
    unsafe { memmap2::Mmap::map(&File::open(path).unwrap()) }.unwrap()
}

pub fn run(machine: &Machine, table: &mut Table) {
    let [dolmen, peer] = [machine.path("open.dolmen"), machine.path("open.safetensors")];
    for &count in machine.tensor_counts() {
        write_both(count, &dolmen, &peer);
        let wanted = name(count * 7 / 10);
        let rounds = machine.rounds(if count >= 100_000 { 25 } else { 200 });
        let at_most = machine.at_most(8);
        let dolmen_map = || {
            time(|| {
                // SAFETY: as for `map` above.
                let checkpoint = unsafe { Checkpoint::map(&dolmen) }.unwrap();
                assert_eq!(checkpoint.tensor(&wanted).unwrap().byte_len(), 64);
                checkpoint
            })
        };
        let dolmen_on_demand = || {
            time(|| {
                let checkpoint = Checkpoint::open_on_demand(&dolmen).unwrap();
                assert_eq!(checkpoint.tensor(&wanted).unwrap().byte_len(), 64);
                checkpoint
            })
        };
        let safetensors = || {
            // Neither is taken down before the clock has stopped.
            let kept = OnceCell::new();
            time(|| {
                let tensors = SafeTensors::deserialize(kept.get_or_init(|| map(&peer))).unwrap();
                assert_eq!(tensors.tensor(&wanted).unwrap().data().len(), 64);
                tensors
            })
        };
        let header = *Checkpoint::open_on_demand(&dolmen).unwrap().header();
        let bytes = std::fs::read(&dolmen).unwrap();
        let index = &bytes[header.index_offset() as usize..][..header.index_len() as usize];
        let [by_map, on_demand, by_peer, crc] = in_turns(
            rounds,
            at_most,
            [
                Box::new(dolmen_map),
                Box::new(dolmen_on_demand),
                Box::new(safetensors),
                Box::new(|| time(|| dolmen::format::checksum::crc32(index))),
            ],
        );
        let asked = (count >= 100_000).then_some(100.0);
        let row = |what, dolmen, peer_name, peer, asked| Row {
            case: format!("open {count} tensors, look up one"),
            what,
            dolmen,
            peer_name,
            peer,
            cache: Cache::Warm,
            touched: "no data",
            bytes: None,
            asked,
        };
        let name = "safetensors, mapped";
        table.rows.push(row("`map`", by_map.clone(), name, by_peer.clone(), asked));
        table.rows.push(row("`open_on_demand`", on_demand, name, by_peer, asked));
        table.rows.push(row("`map`", by_map, "CRC-32 of the index alone, in memory", crc, None));
        table.notes.push(format!("the index of {count} tensors has {} bytes", header.index_len()));
        // Cold, both: what the disk gives.
        if machine::make_cold(&dolmen) && count >= 10_000 {
            let [cold_dolmen, cold_peer] = in_turns(
                machine.rounds(5),
                at_most,
                [
                    Box::new(|| {
                        machine::make_cold(&dolmen);
                        dolmen_map()
                    }),
                    Box::new(|| {
                        machine::settle(&peer);
                        machine::make_cold(&peer);
                        safetensors()
                    }),
                ],
            );
            table.rows.push(Row { cache: Cache::Cold, ..row("`map`", cold_dolmen, name, cold_peer, None) });
        }
    }
}
