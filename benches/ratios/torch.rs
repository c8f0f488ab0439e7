//! PyTorch's checkpoints: importing, exporting and listing, beside copying the file. Against PyTorch itself: `benches/beside_torch.py`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use dolmen::foreign::torch::ExportOptions;
use dolmen::foreign::{ConvertOptions, convert, torch};
use dolmen::{Builder, Checkpoint, SaveOptions};

use crate::load::TENSORS;
use crate::machine::{self, Machine};
use crate::measure::{Cache, Case, Row, Samples, Table, in_turns, time};
use crate::open::name;

const PIECE: usize = 1 << 20;
/// Entries of the checkpoint that is listed.
const ENTRIES: usize = 10_000;

fn write_pt(builder: &Builder<'_>, scratch: &Path, path: &Path) {
    builder.save(scratch).unwrap();
    let checkpoint = Checkpoint::open_on_demand(scratch).unwrap();
    assert!(torch::save(&checkpoint, path, ExportOptions::new(), &SaveOptions::new()).unwrap().is_empty());
}

/// As `cp` and `sync` do it, through memory.
fn copy(from: &Path, to: &Path) {
    let (mut from, mut to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        to.write_all(&piece[..read]).unwrap();
    }
    to.sync_all().unwrap();
}

/// As the system copies within itself.
fn copy_within(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    File::open(to).unwrap().sync_all().unwrap();
}

fn list(path: &Path) -> usize {
    // SAFETY: nobody changes the file meanwhile.
    let checkpoint = unsafe { Checkpoint::map(path) }.unwrap();
    checkpoint.tensors().map(|tensor| tensor.unwrap().name().len()).sum()
}

pub fn run(machine: &Machine, table: &mut Table) {
    let data = machine.data();
    let data = &data[..];
    let path = |name: &str| machine.path(name);
    let (pt, dolmen, out) = (path("torch.pt"), path("torch.dolmen"), path("torch.out"));
    let mut builder = Builder::new();
    for (n, part) in data.chunks(data.len().div_ceil(TENSORS)).enumerate() {
        builder.tensor(&name(n), part).unwrap();
    }
    write_pt(&builder, &dolmen, &pt);
    drop(builder);
    let fresh = |work: &dyn Fn(&Path)| {
        for name in [&out, &path("torch.out.dolmen"), &path("torch.out.pt")] {
            let _ = fs::remove_file(name);
        }
        machine::quiet_disk();
        time(|| work(&out))
    };
    let options = ConvertOptions::new();
    let convert_to = |from: &Path, to: &Path| drop(convert(from, to, &options).unwrap());
    let [import, export, copied, copied_within] = in_turns(
        machine.rounds(9),
        machine.at_most(90),
        [
            Box::new(|| fresh(&|_| convert_to(&pt, &path("torch.out.dolmen")))) as Case<'_>,
            Box::new(|| fresh(&|_| convert_to(&dolmen, &path("torch.out.pt")))),
            Box::new(|| fresh(&|out| copy(&pt, out))),
            Box::new(|| fresh(&|out| copy_within(&pt, out))),
        ],
    );
    let row = |what, dolmen: &Samples, peer_name, peer: &Samples, asked| Row {
        case: format!("`.pt`, {} MiB", machine.mib),
        what,
        dolmen: dolmen.clone(),
        peer_name,
        peer: peer.clone(),
        cache: Cache::Warm,
        touched: "all: CRC twice, write / write",
        bytes: Some((machine.mib << 20) as u64),
        asked,
    };
    // At most 1.15 times as long is at least 1/1.15 times as fast.
    table.rows.push(row("import, durable", &import, "copy through memory, fsync", &copied, Some(0.87)));
    table.rows.push(row("import, durable", &import, "copy within the system, fsync", &copied_within, Some(0.87)));
    table.rows.push(row("export, durable", &export, "copy through memory, fsync", &copied, None));
    for (what, work) in [
        ("import", &(|| convert_to(&pt, &path("torch.out.dolmen"))) as &dyn Fn()),
        ("export", &|| convert_to(&dolmen, &path("torch.out.pt"))),
    ] {
        let (heap, _) = machine::extra_memory(work);
        let mib = heap as f64 / f64::from(1 << 20);
        table.notes.push(format!("extra memory of the {what} of {} MiB at its peak: heap {mib:.2} MiB", machine.mib));
    }

    let numbers: Vec<f32> = (0..8).map(|n| n as f32).collect();
    let mut builder = Builder::new();
    for n in 0..ENTRIES {
        builder.tensor(&name(n), &numbers).unwrap();
    }
    write_pt(&builder, &dolmen, &pt);
    let mut names = fs::read(&pt).unwrap();
    let [listed, read] = in_turns(
        machine.rounds(30),
        machine.at_most(20),
        [
            Box::new(|| time(|| list(&pt))) as Case<'_>,
            Box::new(|| {
                time(|| {
                    names.clear();
                    File::open(&pt).unwrap().read_to_end(&mut names).unwrap()
                })
            }),
        ],
    );
    table.rows.push(Row {
        case: format!("`.pt` of {ENTRIES} entries"),
        what: "`map`, list all",
        dolmen: listed,
        peer_name: "merely reading the file",
        peer: read,
        cache: Cache::Warm,
        touched: "no data / all",
        bytes: None,
        asked: None,
    });
    for name in [&pt, &dolmen, &out, &path("torch.out.dolmen"), &path("torch.out.pt")] {
        let _ = fs::remove_file(name);
    }
}
