//! Saving: durably, with checksums, beside writing the same bytes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use dolmen::{Builder, DType, Durability, SaveOptions, Writer};
use safetensors::tensor::{Dtype, TensorView};

use crate::load::TENSORS;
use crate::machine::{self, Machine};
use crate::measure::{Cache, Case, Row, Samples, Table, in_turns, time};
use crate::open::name;

const PIECE: usize = 1 << 20;

fn parts(data: &[f32]) -> impl Iterator<Item = (String, &[f32])> {
    data.chunks(data.len().div_ceil(TENSORS)).enumerate().map(|(n, part)| (name(n), part))
}

fn builder(data: &[f32]) -> Builder<'_> {
    let mut builder = Builder::new();
    for (name, part) in parts(data) {
        builder.tensor(&name, part).unwrap();
    }
    builder
}

/// Writes the data with nothing before, between or after.
fn write_raw(data: &[f32], path: &Path, durable: bool) {
    let mut file = File::create(path).unwrap();
    for piece in bytemuck::cast_slice::<f32, u8>(data).chunks(PIECE) {
        file.write_all(piece).unwrap();
    }
    if durable {
        file.sync_all().unwrap();
    }
}

fn write_safetensors(data: &[f32], path: &Path, durable: bool) {
    let tensors = parts(data)
        .map(|(name, part)| (name, TensorView::new(Dtype::F32, vec![part.len()], bytemuck::cast_slice(part)).unwrap()));
    safetensors::serialize_to_file(tensors, None::<HashMap<String, String>>, path).unwrap();
    if durable {
        File::open(path).unwrap().sync_all().unwrap();
    }
}

/// Streams the data, all of it as the rows of one tensor.
fn stream(data: &[f32], path: &Path, durability: Durability) {
    let options = SaveOptions::new().durability(durability);
    let mut writer = Writer::create_with(path, dolmen::FileOptions::new(), &options).unwrap();
    let mut rows = writer.begin_rows("rows", DType::F32, [1024]).unwrap();
    for piece in bytemuck::cast_slice::<f32, u8>(data).chunks(PIECE) {
        rows.write_bytes(piece).unwrap();
    }
    rows.finish().unwrap();
    writer.commit().unwrap();
}

pub fn run(machine: &Machine, table: &mut Table) {
    let data = machine.data();
    let data = &data[..];
    let path = machine.path("save.file");
    // Each save begins with no file there and with nothing of anybody's waiting for the disk.
    let fresh = |save: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&path);
        machine::quiet_disk();
        time(|| save(&path))
    };
    let no_sync = SaveOptions::new().durability(Durability::None);
    let no_sync = &no_sync;
    let [durable, raw_durable, st_durable] = in_turns(
        machine.rounds(9),
        machine.at_most(70),
        [
            Box::new(|| fresh(&|path| builder(data).save(path).unwrap())) as Case<'_>,
            Box::new(|| fresh(&|path| write_raw(data, path, true))),
            Box::new(|| fresh(&|path| write_safetensors(data, path, true))),
        ],
    );
    let [stream_durable, cached, raw_cached, st_cached, stream_cached] = in_turns(
        machine.rounds(7),
        machine.at_most(40),
        [
            Box::new(|| fresh(&|path| stream(data, path, Durability::Full))) as Case<'_>,
            Box::new(|| fresh(&|path| builder(data).save_with(path, no_sync).unwrap())),
            Box::new(|| fresh(&|path| write_raw(data, path, false))),
            Box::new(|| fresh(&|path| write_safetensors(data, path, false))),
            Box::new(|| fresh(&|path| stream(data, path, Durability::None))),
        ],
    );
    let row = |what, dolmen: &Samples, peer_name, peer: &Samples, asked| Row {
        case: format!("save, {} MiB", machine.mib),
        what,
        dolmen: dolmen.clone(),
        peer_name,
        peer: peer.clone(),
        cache: Cache::NotRead,
        touched: "all: CRC, write / write",
        bytes: Some((machine.mib << 20) as u64),
        asked,
    };
    let rows = &mut table.rows;
    // At most 1.1 times as long is at least 1/1.1 times as fast.
    rows.push(row("`save`, durable", &durable, "raw write, fsync", &raw_durable, Some(0.909)));
    rows.push(row("`save`, durable", &durable, "safetensors, fsync added", &st_durable, None));
    rows.push(row("`save`, durable", &durable, "safetensors, not durable", &st_cached, None));
    rows.push(row("`Writer`, durable", &stream_durable, "raw write, fsync", &raw_durable, None));
    rows.push(row("`save`, no fsync", &cached, "raw write, no fsync", &raw_cached, None));
    rows.push(row("`save`, no fsync", &cached, "safetensors, not durable", &st_cached, None));
    rows.push(row("`Writer`, no fsync", &stream_cached, "raw write, no fsync", &raw_cached, None));

    let _ = fs::remove_file(&path);
    for (what, save) in [
        ("`save`", &(|| builder(data).save_with(&path, no_sync).unwrap()) as &dyn Fn()),
        ("`Writer`", &|| stream(data, &path, Durability::None)),
        ("safetensors `serialize_to_file`", &|| write_safetensors(data, &path, false)),
    ] {
        let (heap, resident) = machine::extra_memory(save);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let resident = resident.map_or(String::new(), |bytes| format!(", resident memory {:.2} MiB", mib(bytes)));
        let _ = fs::remove_file(&path);
        table.notes.push(format!(
            "extra memory of {what} of {} MiB at its peak: heap {:.2} MiB{resident}",
            machine.mib,
            mib(heap)
        ));
    }
}
