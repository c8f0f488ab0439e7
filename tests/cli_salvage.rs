//! `dolmen salvage` as people and scripts see it.
#![cfg(feature = "cli")]

mod common;

use common::command::{Ran, Room};
use dolmen::{Builder, Checkpoint, DType, Durability, FileOptions, SaveOptions, TensorData, Value, Writer};
use serde_json::json;

/// A tensor of 3 blocks of 4 KiB, with 64 rows in each but the last; a small one; metadata.
fn model() -> Builder<'static> {
    let mut b = Builder::with_options(FileOptions::new().block_len(4096).unwrap());
    let rows: Vec<u8> = (0..160 * 64u32).map(|i| (i % 251) as u8).collect();
    b.tensor("large", TensorData::raw(DType::F32, [160, 16], rows).unwrap()).unwrap();
    b.tensor("small", &[1u8, 2, 3]).unwrap();
    b.metadata("version", "1.0");
    b
}

/// With row 70 of `large` damaged.
fn damaged() -> Vec<u8> {
    let mut bytes = model().to_vec().unwrap();
    let at = Checkpoint::from_bytes(&bytes).unwrap().tensor("large").unwrap().file_offset().unwrap();
    bytes[at as usize + 70 * 64] ^= 1;
    bytes
}

#[test]
fn an_undamaged_file_is_said_to_be_so_and_copied() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    let ran = room.run(&["salvage", "m.dolmen", "out.dolmen"]);
    assert_eq!(ran.succeeded(), "m.dolmen: it is not damaged; saved 2 of 2 tensors to out.dolmen, all verified\n");
    assert_eq!(room.read("out.dolmen"), room.read("m.dolmen"));
    let ran = room.run(&["salvage", "m.dolmen"]);
    assert!(ran.succeeded().contains("would save 2 of 2 tensors, all verified"), "{ran:?}");
    assert_eq!(room.names(), ["m.dolmen", "out.dolmen"]);
}

#[test]
fn what_is_lost_is_named_with_what_to_ask_for() {
    let room = Room::new();
    let before = damaged();
    room.put("m.dolmen", &before);
    let ran = room.run(&["salvage", "m.dolmen", "out.dolmen"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""), "{ran:?}");
    assert!(ran.out.starts_with("m.dolmen: saved 1 of 2 tensors to out.dolmen, all verified\n"), "{ran:?}");
    assert!(ran.out.contains("lost     large: 4096 of its 10240 bytes lie in damaged blocks"), "{ran:?}");
    assert!(ran.out.contains("--partial would save 96 of 160 rows"), "{ran:?}");
    assert_eq!(room.read("m.dolmen"), before);
    let saved = Checkpoint::open(room.path("out.dolmen")).unwrap();
    assert_eq!((saved.len(), saved.metadata().unwrap().len()), (1, 1));
    // As is advised.
    let ran = room.run(&["salvage", "m.dolmen", "out.dolmen", "--partial", "--fill", "ones"]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.starts_with("m.dolmen: saved 2 of 2 tensors to out.dolmen, 1 with bytes that nothing"), "{ran:?}");
    assert!(ran.out.contains("in doubt large: 4,096 bytes replaced, in 64 of 160 rows (64 to 127)"), "{ran:?}");
    let saved = Checkpoint::open(room.path("out.dolmen")).unwrap();
    let large: &[f32] = saved.tensor("large").unwrap().as_slice().unwrap();
    assert!(large[1024..2048].iter().all(|&x| x == 1.0) && large[2048] != 1.0);
    // The file says so wherever it is looked at.
    let inspected = room.run(&["inspect", "out.dolmen"]);
    assert!(inspected.succeeded().contains("salvaged: 1 tensor holds bytes that nothing vouched for"), "{inspected:?}");
    let verified = room.run(&["verify", "out.dolmen"]);
    assert!(verified.succeeded().contains("salvaged: 1 tensor holds bytes that nothing vouched for"), "{verified:?}");
    assert_eq!(room.json(0, &["inspect", "--json", "out.dolmen"])["salvaged"], json!({"doubtful": ["large"]}));
    assert_eq!(room.json(0, &["verify", "--json", "out.dolmen"])[0]["salvaged"], json!({"doubtful": ["large"]}));
}

#[test]
fn json_has_all_of_it() {
    let room = Room::new();
    room.put("m.dolmen", damaged());
    let report = room.json(3, &["salvage", "m.dolmen", "out.dolmen", "--json"]);
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "path",
            "output",
            "format",
            "file_bytes",
            "reason",
            "complete",
            "undamaged",
            "unfinished",
            "being_written",
            "may_have_more",
            "guide",
            "begins_at",
            "original_bytes",
            "saved",
            "intact",
            "lost",
            "tensors",
            "metadata",
            "document",
            "damages",
            "damage_count",
            "unknown",
            "unknown_bytes",
            "marked_before",
            "notes"
        ]
    );
    let at =
        Checkpoint::from_bytes(&model().to_vec().unwrap()).unwrap().tensor("large").unwrap().file_offset().unwrap();
    let bytes = [at + 4096, at + 8192];
    assert_eq!(
        report["tensors"],
        json!([
            {"name": "large", "dtype": "f32", "shape": [160, 16], "outcome": "lost",
             "why": "4096 of its 10240 bytes lie in damaged blocks", "reason": "data_damaged", "at": bytes,
             "rescue": {"partial": true, "unverified": false, "rows": [96, 160]}},
            {"name": "small", "dtype": "u8", "shape": [3], "outcome": "intact"},
        ])
    );
    assert_eq!(report["damages"], json!([{"part": "data", "what": "its checksum is wrong", "at": bytes}]));
    assert_eq!(
        (&report["metadata"], &report["document"]),
        (&json!({"outcome": "intact"}), &json!({"outcome": "absent"}))
    );
    assert_eq!(
        (&report["output"], &report["guide"], &report["saved"]),
        (&json!("out.dolmen"), &json!("index"), &json!(1))
    );
    let report = room.json(3, &["salvage", "m.dolmen", "out.dolmen", "--json", "--partial", "--dry-run"]);
    assert_eq!(report["output"], json!(null));
    assert_eq!(report["tensors"][0]["rows"], json!({"count": 160, "hit": [[64, 128]]}));
    assert_eq!(report["tensors"][0]["replaced"], json!([[4096, 8192]]));
    assert_eq!(report["tensors"][0]["outcome"], json!("partial"));
}

#[test]
fn nothing_is_written_if_nothing_is_left() {
    let room = Room::new();
    room.put("web.dolmen", "<!DOCTYPE html><html>");
    room.put("zeros.dolmen", vec![0; 5000]);
    room.put("start.dolmen", &model().to_vec().unwrap()[..100]);
    for (name, words) in [("web.dolmen", "HTML page"), ("zeros.dolmen", "zeros"), ("absent.dolmen", "No such file")] {
        let ran = room.run(&["salvage", name, "out.dolmen"]);
        ran.failed(if name == "absent.dolmen" { 1 } else { 3 }, &[name, words]);
    }
    let ran = room.run(&["salvage", "start.dolmen", "out.dolmen"]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.starts_with("start.dolmen: nothing could be saved\n"), "{ran:?}");
    let report = room.json(3, &["salvage", "web.dolmen", "out.dolmen", "--json"]);
    assert!(report["reason"].as_str().unwrap().contains("HTML") && report["format"].is_null());
    assert!(!room.names().contains(&"out.dolmen".to_owned()));
}

#[test]
fn wrong_usage_and_what_cannot_be_done_are_told_apart() {
    let room = Room::new();
    room.put("m.dolmen", damaged());
    room.put("taken.dolmen", "mine");
    for args in [&["--fill", "nan"][..], &["--partial", "--fill", "ten"], &["--partial", "--fill", "0x100"]] {
        let ran = room.run(&[&["salvage", "m.dolmen"], args].concat());
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    }
    room.run(&["salvage", "m.dolmen", "m.dolmen"]).failed(1, &["damaged file", "another name"]);
    room.run(&["salvage", "m.dolmen", "taken.dolmen", "--no-overwrite"]).failed(1, &["taken.dolmen"]);
    room.run(&["salvage", "m.dolmen", "out.xyz"]).failed(1, &["out.xyz", "xyz"]);
    assert_eq!(room.read("taken.dolmen"), b"mine");
    assert_eq!(room.read("m.dolmen"), damaged());
}

#[test]
fn an_interrupted_extraction_is_finished_from_its_temporary_file() {
    let room = Room::new();
    let save = SaveOptions::new().durability(Durability::None);
    let mut w = Writer::create_with(room.path("f.dolmen"), FileOptions::new(), &save).unwrap();
    let temp = w.temp_path().to_owned();
    let mut rows = w.begin_rows("features", DType::U8, [1000]).unwrap();
    for i in 0..8000u32 {
        rows.write_bytes(&[i as u8; 1000]).unwrap();
    }
    let alive = room.run(&["salvage", temp.to_str().unwrap()]);
    assert_eq!(alive.code, 3);
    assert!(alive.out.contains("its writer is alive") || cfg!(not(unix)), "{alive:?}");
    room.put("left.dolmen-tmp", std::fs::read(&temp).unwrap());
    drop(w);
    let ran = room.run(&["salvage", "left.dolmen-tmp", "out.dolmen"]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.starts_with("left.dolmen-tmp: saved 1 of 1 tensor to out.dolmen, all verified\n"), "{ran:?}");
    assert!(ran.out.contains("it was never finished") && ran.out.contains("--unverified would add "), "{ran:?}");
    let saved = Checkpoint::open(room.path("out.dolmen")).unwrap();
    let features = saved.tensor("features").unwrap();
    assert!(features.shape()[0] > 3000);
    assert!(features.bytes().unwrap().chunks(1000).enumerate().all(|(i, row)| row == [i as u8; 1000]));
    let ran = room.run(&["salvage", "left.dolmen-tmp", "more.dolmen", "--unverified"]);
    assert!(ran.out.contains("unverified, in "), "{ran:?}");
    assert!(Checkpoint::open(room.path("more.dolmen")).unwrap().tensor("features").unwrap().shape()[0] > 7000);
}

#[test]
fn help_fits_80_columns_and_has_examples() {
    let room = Room::new();
    let ran = Ran::of(room.command().args(["salvage", "--help"]).env("COLUMNS", "80").output().unwrap());
    let out = ran.succeeded();
    assert!(out.contains("Examples:\n") && out.contains("  dolmen salvage "), "{out}");
    out.lines().for_each(|line| assert!(line.trim_end().chars().count() <= 80, "{line}"));
}

#[test]
fn a_pt_file_that_was_cut_off_becomes_a_dolmen_file() {
    let room = Room::new();
    let mut b = model();
    let document =
        dolmen::format::value::Dict::from([("large", Value::tensor("large")), ("small", Value::tensor("small"))]);
    b.document(document.into());
    room.save("m.dolmen", &b);
    assert_eq!(room.run(&["convert", "m.dolmen", "m.pt"]).code, 0);
    let whole = room.read("m.pt");
    // Without the archive's directory.
    room.put("cut.pt", &whole[..whole.len() - 300]);
    let ran = room.run(&["salvage", "cut.pt", "out.dolmen"]);
    assert!(ran.out.contains("saved 2 of 2 tensors to out.dolmen, all verified"), "{ran:?}");
    assert_eq!(Checkpoint::open(room.path("out.dolmen")).unwrap().tensor("small").unwrap().bytes().unwrap(), [1, 2, 3]);
}
