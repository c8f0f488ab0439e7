//! `dolmen bench`.
#![cfg(feature = "cli")]

mod common;

use dolmen::Builder;
use dolmen::format::value::{Dict, Value};
use serde_json::Value as Json;

use common::command::Room;

const WIDTH: usize = 16;

fn features(rows: usize) -> Builder<'static> {
    let mut b = Builder::new();
    let bytes = bytemuck::cast_slice(&vec![0.5f32; rows * WIDTH]).to_vec();
    b.tensor("data", dolmen::TensorData::raw(dolmen::DType::F32, [rows as u64, WIDTH as u64], bytes).unwrap()).unwrap();
    let mut root = Dict::new();
    root.push("ids", Value::from_iter((0..rows).map(|n| format!("seq_{n}"))));
    root.push("data", Value::tensor("data"));
    b.document(Value::from(root));
    b
}

/// A directory with two files of features, and something else.
fn room() -> Room {
    let room = Room::new();
    room.save("d/a.dolmen", &features(600));
    room.save("d/sub/b.dolmen", &features(100));
    room.put("d/notes.txt", b"nothing of interest");
    room
}

/// One round of each case.
fn bench<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--seconds", "0", "--threads", "2"], args].concat()
}

fn cases(json: &Json) -> Vec<(String, String)> {
    let cases = json["cases"].as_array().unwrap();
    let name = |case: &Json| {
        let [name, cache] = ["case", "cache"].map(|key| case[key].as_str().unwrap_or("-").to_owned());
        (format!("{name}, {} threads", case["threads"]), cache)
    };
    cases.iter().map(name).collect()
}

#[test]
fn json_has_facts_and_every_case() {
    let json = room().json(0, &bench(&["d", "--json"]));
    assert_eq!(
        (&json["device"], &json["access"], &json["order"]),
        (&"host".into(), &"read".into(), &"sequential".into())
    );
    assert_eq!((&json["batch"], &json["threads"], &json["prefetch"]), (&256.into(), &2.into(), &4.into()));
    assert_eq!(json["files"], 2);
    let table = &json["table"];
    assert_eq!((&table["rows"], &table["width"], &table["row_bytes"]), (&700.into(), &16.into(), &64.into()));
    assert_eq!(table["dtype"], "f32");
    let found = cases(&json);
    let warm = [
        ("memcpy, 1 threads", "-"),
        ("memcpy, 2 threads", "-"),
        ("read(2), 1 threads", "warm"),
        ("read(2), 2 threads", "warm"),
        ("batches, unverified, 2 threads", "warm"),
        ("batches, first epoch, 2 threads", "warm"),
        ("batches, later epoch, 2 threads", "warm"),
        ("load_to_device, 2 threads", "warm"),
    ];
    let cold = [
        ("read(2), 1 threads", "cold"),
        ("read(2), 2 threads", "cold"),
        ("batches, unverified, 2 threads", "cold"),
        ("batches, first epoch, 2 threads", "cold"),
        ("load_to_device, 2 threads", "cold"),
    ];
    let own = |cases: &[(&str, &str)]| cases.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect::<Vec<_>>();
    assert_eq!(found[..warm.len()], own(&warm));
    // Some file systems cannot be made cold, and that is said.
    match found.len() - warm.len() {
        0 => assert!(json["notes"][0].as_str().unwrap().starts_with("no cold cases: "), "{json}"),
        _ => assert_eq!(found[warm.len()..], own(&cold)),
    }
    for case in json["cases"].as_array().unwrap() {
        let rate = case["gb_per_s"].as_f64().unwrap();
        assert!(rate > 0.0 && case["best_gb_per_s"].as_f64().unwrap() >= rate, "{case}");
        let is_batches = case["case"].as_str().unwrap().starts_with("batches");
        assert_eq!(case["rows_per_s"].is_number(), is_batches, "{case}");
        assert_eq!(case["rounds"], 1);
        if is_batches {
            let shares = [&case["of_memcpy"], &case["of_read"]].map(|share| share.as_f64().unwrap());
            assert!(shares.iter().all(|&share| share > 0.0), "{case}");
            // Rows and their bytes go together.
            assert!((rate * 1e9 / case["rows_per_s"].as_f64().unwrap() - 64.0).abs() < 0.01, "{case}");
        }
        assert_eq!(case["of_pinned"], Json::Null);
    }
}

#[test]
fn mapped_batches_are_lent_and_it_is_said_what_was_touched() {
    let room = room();
    let told = |args: &[&str]| {
        let json = room.json(0, &bench(&[&["d", "--access", "map", "--json"], args].concat()));
        let cases = json["cases"].as_array().unwrap().iter();
        let warm = cases.filter(|case| case["cache"] == "warm" && case["rows_per_s"].is_number());
        warm.map(|case| format!("{}: {}", case["case"].as_str().unwrap(), case["touched"].as_str().unwrap()))
            .collect::<Vec<String>>()
    };
    let lent = [
        "batches, unverified, lent: nothing",
        "batches, unverified, lent: summed",
        "batches, unverified: copied",
        "batches, first epoch, lent: CRC",
        "batches, first epoch, lent: CRC, summed",
        "batches, first epoch: CRC, copied",
        "batches, later epoch, lent: nothing",
        "batches, later epoch, lent: summed",
        "batches, later epoch: copied",
    ];
    assert_eq!(told(&[]), lent);
    let copied = ["batches, unverified: copied", "batches, first epoch: CRC, copied", "batches, later epoch: copied"];
    for args in [&["--shuffle", "--batch", "32", "--seed", "3"][..], &["--block-shuffle", "10"], &["--dtype", "bf16"]] {
        assert_eq!(told(args), copied, "{args:?}");
    }
}

#[test]
fn text_is_a_table_with_a_line_for_each_case() {
    let ran = room().run(&bench(&["d", "--batch", "100", "--access", "direct", "--ids", "ids"]));
    let out = ran.succeeded();
    let mut lines = out.lines();
    assert!(lines.next().unwrap().contains(": 700 rows of 16 × f32, 64 B in the files; opened in "), "{out}");
    assert_eq!(lines.next(), Some("to host, access direct, sequential batches of 100 rows, 2 threads, 4 ahead"));
    assert_eq!(lines.next(), Some(""));
    let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(titles.join(" "), "case threads cache touched GB/s best rows/s of memcpy of read");
    assert!(lines.any(|line| line.starts_with("batches, first epoch        2  warm   CRC, copied  ")), "{out}");
}

#[test]
fn rows_bound_files_and_epochs() {
    let json = room().json(0, &bench(&["d", "--rows", "300", "--batch", "50", "--json"]));
    assert_eq!((&json["files"], &json["table"]["rows"]), (&1.into(), &600.into()));
    let case = json["cases"].as_array().unwrap().iter().find(|case| case["rows_per_s"].is_number()).unwrap();
    assert!(case["rows_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_damaged_file_is_told_with_its_rows() {
    let room = room();
    let mut bytes = features(100).to_vec().unwrap();
    let at = dolmen::Checkpoint::from_bytes(&bytes).unwrap().tensor("data").unwrap().file_offset().unwrap() as usize;
    bytes[at] ^= 1;
    room.put("d/sub/b.dolmen", &bytes);
    for args in [&["d"][..], &["d", "--json"], &["d", "--access", "map"], &["d", "--shuffle", "--batch", "8"]] {
        let ran = room.run(&bench(args));
        ran.failed(3, &["d/sub/b.dolmen", "tensor \"data\"", "batch ", " of the table: "]);
        // Rows 600 to 699 are those of the second file.
        assert!(ran.err.contains(": rows 6") || ran.err.contains(": row 6"), "{ran:?}");
    }
    room.put("d/cut.dolmen", &bytes[..bytes.len() - 1]);
    room.run(&bench(&["d"])).failed(3, &["d/cut.dolmen"]);
}

#[test]
fn files_that_are_no_table_are_read_and_loaded() {
    let room = Room::new();
    let mut b = Builder::new();
    for name in ["a", "b"] {
        b.tensor(name, (&[0.5f32; 12], [4, 3])).unwrap();
    }
    room.save("model.dolmen", &b);
    let json = room.json(0, &bench(&["model.dolmen", "--json"]));
    assert_eq!(json["table"], Json::Null);
    let found = cases(&json);
    assert!(found.iter().any(|(name, _)| name == "load_to_device, 2 threads"), "{json}");
    assert!(!found.iter().any(|(name, _)| name.starts_with("batches")), "{json}");
    assert!(json["notes"][0].as_str().unwrap().starts_with("no batches, for the files are no table "), "{json}");
    // Who says that they are is told why not, and with the key they are.
    room.run(&bench(&["model.dolmen", "--rows", "1"])).failed(1, &["model.dolmen"]);
    room.run(&bench(&["model.dolmen", "--data", "c"])).failed(1, &["model.dolmen", "c"]);
    let json = room.json(0, &bench(&["model.dolmen", "--json", "--data", "b", "--data", "a"]));
    assert_eq!(json["table"]["width"], 6);
}

#[test]
fn what_cannot_be_done_and_what_is_wrong_usage_are_told_apart() {
    let room = room();
    room.run(&bench(&["absent"])).failed(1, &["absent"]);
    room.run(&bench(&["d", "--data", "nothing"])).failed(1, &["nothing"]);
    room.put("empty/notes.txt", b"nothing of interest");
    room.run(&bench(&["empty"])).failed(1, &["empty", "no checkpoint was found"]);
    for args in [
        &[][..],
        &["d", "--device", "gpu"],
        &["d", "--device", "cuda:x"],
        &["d", "--batch", "0"],
        &["d", "--threads", "0"],
        &["d", "--dtype", "u8"],
        &["d", "--access", "telepathy"],
        &["d", "--shuffle", "--block-shuffle", "10"],
        &["d", "--seconds", "-1"],
    ] {
        let ran = room.run(&[&["bench"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_gpu_needs_a_build_with_cuda_and_a_driver() {
    let ran = room().run(&bench(&["d", "--device", "cuda:0"]));
    if !cfg!(feature = "cuda") {
        ran.failed(1, &["this build has no CUDA: build it with --features cuda"]);
    } else if ran.code != 0 {
        // Without a driver, or with one and no device.
        ran.failed(1, &["CUDA"]);
    }
}
