//! The command as people and scripts see it: exit codes, output, JSON, and what it does to files.
#![cfg(feature = "cli")]

mod common;

use std::path::Path;
use std::process::Stdio;

use bytemuck::{Pod, cast_slice};
use dolmen::format::value::Dict;
use dolmen::half::{bf16, f16};
use dolmen::{Builder, Checkpoint, DType, Element, FileOptions, IntoShape, TensorData, Value, View};
use serde_json::{Value as Json, json};

use common::command::{Ran, Room};

fn crc_of(bytes: &[u8]) -> String {
    format!("{:08x}", dolmen::format::checksum::crc32(bytes))
}

/// A tensor that owns its elements.
fn owned<T: Element + Pod>(elements: Vec<T>, shape: impl IntoShape) -> TensorData<'static> {
    TensorData::raw(T::DTYPE, shape, cast_slice::<T, u8>(&elements).to_vec()).unwrap()
}

/// A model as a training program saves it: nested, with a tied and a strided tensor.
fn model() -> Builder<'static> {
    let mut builder = Builder::new();
    builder.tensor("encoder.weight", owned(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])).unwrap();
    builder.alias("head.weight", "encoder.weight").unwrap();
    let storage = builder.storage_of("encoder.weight").unwrap();
    builder.view("turned", storage, View::new(DType::F32, [3, 2]).unwrap().strides([1, 3]).unwrap()).unwrap();
    builder.tensor("step", owned(vec![7i64], ())).unwrap();
    let mut weights = Dict::new();
    weights.push("encoder.weight", Value::tensor("encoder.weight"));
    let mut document = Dict::new();
    document.push("model", weights);
    document.push("steps", Value::List(vec![Value::from("first"), Value::tensor("step")]));
    document.push("epoch", 12);
    builder.document(Value::from(document));
    builder.metadata("version", "1.0");
    builder.metadata("epoch", 12);
    builder
}

/// A tensor of three blocks of 4 KiB and a small one behind it.
fn blocks() -> Builder<'static> {
    let mut builder = Builder::with_options(FileOptions::new().block_len(4096).unwrap());
    builder.tensor("large", owned((0..3000).map(|i| i as f32).collect::<Vec<_>>(), [3000])).unwrap();
    builder.tensor("small", owned(vec![1u8, 2, 3], [3])).unwrap();
    builder
}

/// A file with one byte changed in block 1 of `large`.
fn damaged() -> Vec<u8> {
    let mut bytes = blocks().to_vec().unwrap();
    let at = Checkpoint::from_bytes(&bytes).unwrap().tensor("large").unwrap().file_offset().unwrap();
    bytes[at as usize + 5000] ^= 0x10;
    bytes
}

/// Changes bytes of the header, and makes its checksum and the trailer agree again.
fn patched_header(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    let crc = dolmen::format::checksum::crc32(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    let end = bytes.len() - 64;
    bytes.copy_within(0..64, end);
    bytes
}

// The command as a whole.

#[test]
fn without_arguments_it_shows_help_and_exits_with_2() {
    let room = Room::new();
    let ran = room.run(&[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("Usage: dolmen"), "{ran:?}");
    for command in ["inspect", "verify", "extract", "diff", "convert", "bench"] {
        assert!(ran.err.contains(command), "{command}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    for args in [
        &["nonsense"][..],
        &["inspect"],
        &["inspect", "m.dolmen", "--sort", "colour"],
        &["verify"],
        &["verify", "m.dolmen", "--threads", "0"],
        &["extract", "m.dolmen", "step"],
        &["extract", "m.dolmen", "step", "-o", "x.npy", "--rows", "3..1"],
        &["diff", "m.dolmen"],
        &["convert", "m.dolmen", "x.dolmen", "--alignment", "100"],
        &["convert", "m.dolmen", "x.dolmen", "--block", "2K"],
    ] {
        let ran = room.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
    assert_eq!(room.names(), ["m.dolmen"]);
}

#[test]
fn help_of_every_subcommand_has_examples_and_fits_80_columns() {
    let room = Room::new();
    for command in ["inspect", "verify", "extract", "diff", "convert", "bench"] {
        let ran = Ran::of(room.command().args([command, "--help"]).env("COLUMNS", "80").output().unwrap());
        let out = ran.succeeded();
        assert!(out.contains("Examples:\n") && out.contains(&format!("  dolmen {command} ")), "{out}");
        // Between entries, the lines that clap leaves empty hold spaces.
        out.lines().for_each(|line| assert_fits(line.trim_end(), 80));
    }
    room.run(&["--help"]).succeeded().lines().for_each(|line| assert_fits(line.trim_end(), 80));
    assert_eq!(room.run(&["--version"]).succeeded(), concat!("dolmen ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[track_caller]
fn assert_fits(out: &str, columns: usize) {
    for line in out.lines() {
        assert!(line.chars().count() <= columns, "{} columns: {line}", line.chars().count());
        assert_eq!(line.trim_end(), line, "no spaces at the end");
    }
}

#[test]
fn what_is_no_checkpoint_is_called_what_it_is() {
    let room = Room::new();
    let bytes = model().to_vec().unwrap();
    let future = patched_header(bytes.clone(), 8, &2u16.to_le_bytes());
    let cases: &[(&str, &[u8], i32, &str)] = &[
        ("empty", b"", 3, "the file is empty"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", 3, "git lfs pull"),
        ("html", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", 3, "this is an HTML page"),
        ("pickle", b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.", 3, "this is a Python pickle"),
        ("short", &bytes[..bytes.len() - 10], 3, "10 bytes"),
        ("header", &bytes[..100], 3, "[HDR-1]"),
        ("future", &future, 3, "version"),
    ];
    for (name, content, code, words) in cases {
        let file = format!("{name}.dolmen");
        room.put(&file, content);
        for args in [
            &["inspect", &file][..],
            &["inspect", "--json", &file],
            &["extract", &file, "w", "-o", "w.npy"],
            &["diff", &file, &file],
            &["convert", &file, "out.dolmen"],
        ] {
            let ran = room.run(args);
            ran.failed(*code, &[&file, words]);
        }
        let verified = room.run(&["verify", &file]);
        assert_eq!(verified.code, *code, "{verified:?}");
        assert!(verified.out.contains(words), "{verified:?}");
        std::fs::remove_file(room.path(&file)).unwrap();
    }
    assert_eq!(room.names(), [""; 0]);
}

#[test]
fn what_is_missing_or_no_file_exits_with_1() {
    let room = Room::new();
    std::fs::create_dir(room.path("directory")).unwrap();
    for (file, words) in [("missing.dolmen", "No such file"), ("directory", "is a directory")] {
        for args in [
            &["inspect", file][..],
            &["extract", file, "w", "-o", "w.npy"],
            &["diff", file, file],
            &["convert", file, "out.dolmen"],
        ] {
            room.run(args).failed(1, &[file, words]);
        }
    }
    let verified = room.run(&["verify", "missing.dolmen"]);
    assert_eq!(verified.code, 1);
    assert!(verified.out.starts_with("error         missing.dolmen: "), "{verified:?}");
}

#[test]
fn nothing_is_coloured_when_piped() {
    let room = Room::new();
    room.save("a.dolmen", &model());
    room.save("b.dolmen", &blocks());
    room.put("bad.dolmen", damaged());
    for args in [
        &["inspect", "a.dolmen", "--document"][..],
        &["verify", "."],
        &["diff", "a.dolmen", "b.dolmen"],
        &["inspect", "x"],
    ] {
        let ran = room.run(args);
        assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "{ran:?}");
        let forced = Ran::of(room.command().args(args).env("CLICOLOR_FORCE", "1").output().unwrap());
        assert!(forced.out.contains('\x1b') || forced.err.contains('\x1b'), "{forced:?}");
        let both = room.command().args(args).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
        let both = Ran::of(both);
        assert!(!both.out.contains('\x1b') && !both.err.contains('\x1b'), "{both:?}");
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_goes_away_is_no_failure() {
    let room = Room::new();
    let mut builder = Builder::new();
    for i in 0..20_000 {
        builder.tensor(&format!("layer.{i}.weight"), owned(vec![0u8], [1])).unwrap();
    }
    room.save("many.dolmen", &builder);
    let mut damaged = room.read("many.dolmen");
    damaged[10_000] ^= 1;
    room.put("damaged.dolmen", damaged);
    for (args, code) in [
        (&["inspect", "many.dolmen"][..], 0),
        (&["inspect", "many.dolmen", "--json"], 0),
        (&["verify", "many.dolmen", "--json"], 0),
        (&["verify", "damaged.dolmen"], 3),
    ] {
        let mut child = room.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ran = Ran::of(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (code, ""), "{args:?}");
    }
}

// inspect

#[test]
fn inspect_shows_what_a_checkpoint_holds() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    let ran = room.run(&["inspect", "m.dolmen"]);
    let out = ran.succeeded();
    let len = room.read("m.dolmen").len();
    let expected = [
        "m.dolmen".to_owned(),
        "  format     dolmen 1.0".to_owned(),
        format!("  size       {:.1} KiB ({},{:03} bytes)", len as f64 / 1024.0, len / 1000, len % 1000),
        "  tensors    4 in 2 storages; 19 elements, 32 B".to_owned(),
        "  alignment  256 B".to_owned(),
        "  checksums  CRC-32 of each 1 MiB".to_owned(),
        "  metadata   epoch: 12".to_owned(),
        "             version: \"1.0\"".to_owned(),
        "  document   dict of 3; --document shows it".to_owned(),
        String::new(),
    ];
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..expected.len()], expected);
    let rows: Vec<Vec<&str>> = lines[expected.len()..].iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["name", "dtype", "shape", "bytes", "crc32", "notes"]);
    let crc = rows[1][5];
    assert_eq!(rows[1], ["encoder.weight", "f32", "[2,", "3]", "24", crc, "in", "storage", "0"]);
    assert_eq!(rows[2], ["head.weight", "f32", "[2,", "3]", "24", crc, "=", "encoder.weight"]);
    assert_eq!(rows[3][..5], ["step", "i64", "[]", "8", &crc_of(&7i64.to_le_bytes())]);
    assert_eq!(rows[4][6..], ["in", "storage", "0,", "strides", "[1,", "3]"]);
    assert_eq!(rows.len(), 5);
}

#[test]
fn inspect_json_has_the_documented_fields() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    let found = room.json(0, &["inspect", "m.dolmen", "--json"]);
    let weight: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let expected = json!({
        "format": "dolmen",
        "format_version": "1.0",
        "file_bytes": room.read("m.dolmen").len(),
        "metadata": {"epoch": 12, "version": "1.0"},
        "tensors": [
            {"name": "encoder.weight", "path": ["model", "encoder.weight"], "dtype": "f32", "shape": [2, 3],
             "strides": [3, 1], "byte_len": 24, "storage": 0, "crc32": crc_of(&weight)},
            {"name": "head.weight", "path": [], "dtype": "f32", "shape": [2, 3],
             "strides": [3, 1], "byte_len": 24, "storage": 0, "crc32": crc_of(&weight)},
            {"name": "step", "path": ["steps", 1], "dtype": "i64", "shape": [],
             "strides": [], "byte_len": 8, "storage": 1, "crc32": crc_of(&7i64.to_le_bytes())},
            {"name": "turned", "path": [], "dtype": "f32", "shape": [3, 2],
             "strides": [1, 3], "byte_len": 24, "storage": 0, "crc32": crc_of(&weight)},
        ],
    });
    assert_eq!(found, expected);
    let with_document = room.json(0, &["inspect", "m.dolmen", "--json", "--document"]);
    assert_eq!(with_document["document"]["model"], json!({"encoder.weight": {"$tensor": "encoder.weight"}}));
    assert_eq!(with_document["tensors"], expected["tensors"]);
}

#[test]
fn inspect_json_of_several_files_is_an_array_without_those_that_failed() {
    let room = Room::new();
    room.save("a.dolmen", &model());
    room.save("b.dolmen", &blocks());
    let ran = room.run(&["inspect", "a.dolmen", "missing.dolmen", "b.dolmen", "--json"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("missing.dolmen"), "{ran:?}");
    let found: Json = serde_json::from_str(&ran.out).unwrap();
    let paths: Vec<&Json> = found.as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, ["a.dolmen", "b.dolmen"]);
    let none = room.run(&["inspect", "x", "y", "--json"]);
    assert_eq!((none.code, serde_json::from_str::<Json>(&none.out).unwrap()), (1, json!([])));
}

#[test]
fn inspect_reads_no_data() {
    let room = Room::new();
    room.put("bad.dolmen", damaged());
    assert!(room.run(&["inspect", "bad.dolmen"]).succeeded().contains("large"));
}

#[test]
fn inspect_sorts_and_filters() {
    let room = Room::new();
    let mut builder = Builder::new();
    for (name, len) in [("b.weight", 10), ("a.bias", 30), ("c.weight", 20)] {
        builder.tensor(name, owned(vec![0u8; len], [len as u64])).unwrap();
    }
    room.save("m.dolmen", &builder);
    let names = |args: &[&str]| -> Vec<String> {
        let found = room.json(0, &[&["inspect", "m.dolmen", "--json"], args].concat());
        found["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["a.bias", "b.weight", "c.weight"]);
    assert_eq!(names(&["--sort", "size"]), ["a.bias", "c.weight", "b.weight"]);
    assert_eq!(names(&["--sort", "offset"]), ["b.weight", "a.bias", "c.weight"]);
    assert_eq!(names(&["--match", "*.weight"]), ["b.weight", "c.weight"]);
    assert_eq!(names(&["--match", "bias"]), ["a.bias"]);
    let ran = room.run(&["inspect", "m.dolmen", "--match", "*.weight"]);
    assert!(ran.succeeded().ends_with("2 of 3 tensors match *.weight\n"), "{ran:?}");
}

#[test]
fn inspect_fits_the_columns_there_are_and_is_whole_when_piped() {
    let room = Room::new();
    let mut builder = Builder::new();
    let long = format!("transformer.{}.weight", "very.".repeat(40));
    builder.tensor(&long, owned(vec![0f32; 720], [1u64, 2, 3, 4, 5, 6])).unwrap();
    builder.alias(&format!("{long}.tied"), &long).unwrap();
    builder.tensor("重".repeat(60).as_str(), owned(vec![0u8], [1])).unwrap();
    let rank = TensorData::raw(DType::U8, vec![1u64; 200], vec![0]).unwrap();
    builder.tensor("rank", rank).unwrap();
    builder.metadata("note", "x".repeat(300));
    builder.document(Value::from("y".repeat(300)));
    room.save("m.dolmen", &builder);
    for args in [&["inspect", "m.dolmen"][..], &["inspect", "m.dolmen", "--document", "--metadata"]] {
        for columns in [80, 60, 132] {
            let ran = room.command().args(args).env("COLUMNS", columns.to_string()).output().unwrap();
            let ran = Ran::of(ran);
            assert_fits(ran.succeeded(), columns);
        }
    }
    let ran = room.run(&["inspect", "m.dolmen"]);
    assert!(ran.succeeded().contains(&long), "{ran:?}");
}

#[test]
fn hostile_names_cannot_write_on_the_terminal() {
    let room = Room::new();
    let mut builder = Builder::new();
    let hostile = "\x1b[2J\x07evil\u{202e}\u{9b}2J\r\n";
    builder.tensor(hostile, owned(vec![1u8], [1])).unwrap();
    builder.metadata(hostile, hostile);
    builder.document(Value::List(vec![Value::tensor(hostile), Value::from(hostile)]));
    let path = room.save("m.dolmen", &builder);
    let mut other = Builder::new();
    other.tensor(hostile, owned(vec![2u8], [1])).unwrap();
    room.save("n.dolmen", &other);
    let mut bytes = std::fs::read(path).unwrap();
    let at = Checkpoint::from_bytes(&bytes).unwrap().tensor(hostile).unwrap().file_offset().unwrap();
    bytes[at as usize] ^= 1;
    room.put("bad.dolmen", bytes);
    for args in [
        &["inspect", "m.dolmen", "--document"][..],
        &["inspect", "m.dolmen", "--metadata"],
        &["inspect", "m.dolmen", "--json"],
        &["verify", "."],
        &["diff", "m.dolmen", "n.dolmen"],
        &["extract", "bad.dolmen", hostile, "-o", "x.npy"],
        &["extract", "m.dolmen", "\x1b[2J", "-o", "x.npy"],
    ] {
        // With colours wanted, only the command's own sequences may be there: those end in m.
        let ran = Ran::of(room.command().args(args).env("CLICOLOR_FORCE", "1").output().unwrap());
        for text in [&ran.out, &ran.err] {
            assert!(
                !text.contains("\x1b[2J") && !text.contains(['\x07', '\r', '\u{202e}', '\u{9b}']),
                "{args:?} {ran:?}"
            );
        }
    }
}

// verify

#[test]
fn verify_of_a_directory_names_the_damaged_tensor_and_block() {
    let room = Room::new();
    room.save("run/good.dolmen", &model());
    room.put("run/deep/er/bad.dolmen", damaged());
    room.put("run/notes.txt", "no checkpoint");
    room.put("run/lfs.dolmen", "version https://git-lfs.github.com/spec/v1\n");
    room.put("run/no-extension", model().to_vec().unwrap());
    room.put("run/.x.dolmen.0123456789abcdef.dolmen-tmp", &model().to_vec().unwrap()[..200]);
    let future = patched_header(model().to_vec().unwrap(), 8, &2u16.to_le_bytes());
    room.put("run/new.dolmen", future);

    let ran = room.run(&["verify", "run"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, ""));
    let verdicts: Vec<Vec<&str>> = ran
        .out
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split([' ', ':']).filter(|word| !word.is_empty()).take(2).collect())
        .collect();
    let expected = [
        ["corrupted", "run/deep/er/bad.dolmen"],
        ["ok", "run/good.dolmen"],
        ["corrupted", "run/lfs.dolmen"],
        ["incompatible", "run/new.dolmen"],
        ["ok", "run/no-extension"],
        ["5", "checkpoints"],
    ];
    assert_eq!(verdicts, expected);
    assert!(ran.out.contains("\n              tensor large: block 1\n"), "{}", ran.out);
    let last = "5 checkpoints: 2 ok, 2 corrupted, 1 incompatible; 2 other files skipped\n";
    assert!(ran.out.ends_with(last), "{}", ran.out);

    let found = room.json(3, &["verify", "run", "--json"]);
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 5);
    let reason = found[0]["reason"].as_str().unwrap();
    assert!(reason.contains("block 1 of storage 0") && reason.ends_with("[BLK-1]"), "{reason}");
    assert_eq!(
        found[0],
        json!({"path": "run/deep/er/bad.dolmen", "verdict": "corrupted", "reason": reason,
               "tensors": [{"name": "large", "verdict": "corrupted", "bad_blocks": [1]}]})
    );
    assert_eq!(found[1], json!({"path": "run/good.dolmen", "verdict": "ok", "reason": null, "tensors": []}));
    assert_eq!(found[3]["verdict"], "incompatible");
}

#[test]
fn verify_says_ok_of_good_files_and_exits_with_0() {
    let room = Room::new();
    room.save("a.dolmen", &model());
    room.save("b.dolmen", &blocks());
    let one = room.run(&["verify", "a.dolmen"]);
    assert!(one.succeeded().starts_with("ok            a.dolmen  4 tensors, "), "{one:?}");
    let found = room.json(0, &["verify", "b.dolmen", "a.dolmen", "b.dolmen", "--json", "--threads", "2"]);
    let ok = |path| json!({"path": path, "verdict": "ok", "reason": null, "tensors": []});
    assert_eq!(found, json!([ok("a.dolmen"), ok("b.dolmen")]), "sorted, each once");
}

#[test]
fn verify_puts_corruption_before_what_could_not_be_read() {
    let room = Room::new();
    room.put("bad.dolmen", damaged());
    room.save("good.dolmen", &model());
    let found = room.json(3, &["verify", "missing.dolmen", "bad.dolmen", "good.dolmen", "--json"]);
    let verdicts: Vec<&Json> = found.as_array().unwrap().iter().map(|file| &file["verdict"]).collect();
    assert_eq!(verdicts, ["corrupted", "ok", "error"]);
    let found = room.json(1, &["verify", "missing.dolmen", "good.dolmen", "--json"]);
    assert_eq!(found[1]["verdict"], "error");
    assert!(found[1]["reason"].as_str().unwrap().contains("No such file"), "{found}");
}

#[test]
fn verify_of_a_directory_without_checkpoints_is_not_a_success() {
    let room = Room::new();
    room.put("data/notes.txt", "nothing here");
    let ran = room.run(&["verify", "data"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no checkpoint was found"), "{ran:?}");
    assert_eq!(room.json(1, &["verify", "data", "--json"]), json!([]));
}

#[test]
fn quick_verification_reads_no_data_and_says_so() {
    let room = Room::new();
    room.put("bad.dolmen", damaged());
    let ran = room.run(&["verify", "bad.dolmen", "--quick"]);
    assert!(ran.succeeded().contains("data was not read"), "{ran:?}");
    assert_eq!(room.json(0, &["verify", "bad.dolmen", "--quick", "--json"])[0]["quick"], true);
    let mut bytes = blocks().to_vec().unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    room.put("index.dolmen", bytes);
    let found = room.json(3, &["verify", "index.dolmen", "--quick", "--json"]);
    assert!(found[0]["reason"].as_str().unwrap().ends_with("[IDX-1]"), "{found}");
}

#[test]
fn a_file_that_is_short_says_by_how_many_bytes() {
    let room = Room::new();
    let bytes = blocks().to_vec().unwrap();
    room.put("short.dolmen", &bytes[..bytes.len() - 1234]);
    let found = room.json(3, &["verify", "short.dolmen", "--json"]);
    let reason = found[0]["reason"].as_str().unwrap();
    assert!(reason.contains("1234") && reason.ends_with("[HDR-7]"), "{reason}");
}

#[test]
fn many_damaged_tensors_are_all_in_json_and_some_on_the_terminal() {
    let room = Room::new();
    let mut builder = Builder::new();
    for i in 0..40 {
        builder.tensor(&format!("t{i:02}"), owned(vec![i as u8; 64], [64])).unwrap();
    }
    let mut bytes = builder.to_vec().unwrap();
    let places: Vec<u64> = {
        let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
        checkpoint.tensors().map(|t| t.unwrap().file_offset().unwrap()).collect()
    };
    places.iter().for_each(|&at| bytes[at as usize] ^= 1);
    room.put("bad.dolmen", bytes);
    let ran = room.run(&["verify", "bad.dolmen"]);
    assert!(ran.out.contains("tensor t00: block 0\n") && ran.out.ends_with("… and 20 more tensors\n"), "{}", ran.out);
    let found = room.json(3, &["verify", "bad.dolmen", "--json"]);
    assert_eq!(found[0]["tensors"].as_array().unwrap().len(), 40);
}

#[test]
fn formats_without_checksums_are_ok_in_structure_only() {
    let room = Room::new();
    room.put("m.safetensors", safetensors_file());
    let ran = room.run(&["verify", "m.safetensors"]);
    assert!(ran.succeeded().contains("no checksums in this format; structure only"), "{ran:?}");
    let found = room.json(0, &["verify", "m.safetensors", "--json"]);
    assert_eq!(
        found[0],
        json!({"path": "m.safetensors", "verdict": "ok", "reason": null, "tensors": [], "unchecked_storages": 1})
    );
    let found = room.json(0, &["inspect", "m.safetensors", "--json"]);
    assert_eq!((&found["format"], &found["tensors"][0]["crc32"]), (&json!("safetensors"), &Json::Null));
    let bytes = safetensors_file();
    room.put("short.safetensors", &bytes[..bytes.len() - 3]);
    assert_eq!(room.run(&["verify", "."]).code, 3);
}

/// A safetensors file, byte by byte: one tensor `w` of two f32.
fn safetensors_file() -> Vec<u8> {
    let mut json = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_vec();
    json.resize(json.len().next_multiple_of(8), b' ');
    let data = [1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
    [&(json.len() as u64).to_le_bytes()[..], &json, &data].concat()
}

// extract

/// What a `.npy` file says of itself, and its data.
fn npy(bytes: &[u8]) -> (String, Vec<u8>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + len) % 64, 0);
    (String::from_utf8(bytes[10..10 + len].to_vec()).unwrap().trim_end().to_owned(), bytes[10 + len..].to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

#[test]
fn extract_writes_numpy_and_raw_files() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    room.run(&["extract", "m.dolmen", "encoder.weight", "-o", "w.npy"]).succeeded();
    let (header, data) = npy(&room.read("w.npy"));
    assert_eq!(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    assert_eq!(floats(&data), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);

    room.run(&["extract", "m.dolmen", "encoder.weight", "-o", "w.bin"]).succeeded();
    room.run(&["extract", "m.dolmen", "encoder.weight", "--raw", "-o", "w.data"]).succeeded();
    assert_eq!((room.read("w.bin"), room.read("w.data")), (data.clone(), data));

    room.run(&["extract", "m.dolmen", "turned", "-o", "turned.bin"]).succeeded();
    assert_eq!(floats(&room.read("turned.bin")), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0], "gathered");
    room.run(&["extract", "m.dolmen", "step", "-o", "step.npy"]).succeeded();
    assert_eq!(npy(&room.read("step.npy")).1, 7i64.to_le_bytes());
    assert_eq!(room.names(), ["m.dolmen", "step.npy", "turned.bin", "w.bin", "w.data", "w.npy"]);
}

#[test]
fn a_part_of_a_storage_is_extracted_and_converted_alone() {
    let room = Room::new();
    let elements: Vec<u8> = (1..=6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let mut b = Builder::new();
    let storage = b.storage(elements).unwrap();
    b.view("last", storage, View::new(DType::F32, [2]).unwrap().start(16)).unwrap();
    b.view("middle", storage, View::new(DType::F32, [3]).unwrap().start(4)).unwrap();
    b.view("every_second", storage, View::new(DType::F32, [3]).unwrap().strides([2]).unwrap()).unwrap();
    room.save("m.dolmen", &b);
    let right: [(&str, &[f32]); 3] =
        [("every_second", &[1.0, 3.0, 5.0]), ("last", &[5.0, 6.0]), ("middle", &[2.0, 3.0, 4.0])];
    for (name, elements) in right {
        assert_eq!(room.run(&["extract", "m.dolmen", name, "-o", "x.npy"]).code, 0, "{name}");
        assert_eq!(floats(&npy(&room.read("x.npy")).1), elements, "{name}");
        assert_eq!(room.run(&["extract", "m.dolmen", name, "-o", "x.bin"]).code, 0, "{name}");
        assert_eq!(floats(&room.read("x.bin")), elements, "{name}");
    }
    for to in ["m.safetensors", "m.npz", "again.dolmen"] {
        assert_eq!(room.run(&["convert", "m.dolmen", to, "--validate"]).code, 0, "{to}");
        assert_eq!(room.run(&["convert", to, "back.dolmen"]).code, 0, "{to}");
        let back = Checkpoint::open(room.path("back.dolmen")).unwrap();
        for (name, elements) in right {
            assert_eq!(back.tensor(name).unwrap().to_vec::<f32>().unwrap(), elements, "{name} by {to}");
        }
    }
    let report = room.json(0, &["diff", "m.dolmen", "again.dolmen", "--json"]);
    assert_eq!(report["equal"], true, "{report}");
}

#[test]
fn extract_writes_rows() {
    let room = Room::new();
    room.save("b.dolmen", &blocks());
    room.save("m.dolmen", &model());
    let rows = |range: &str| {
        room.run(&["extract", "b.dolmen", "large", "--rows", range, "-o", "x.bin"]).succeeded();
        room.run(&["extract", "b.dolmen", "large", "--rows", range, "-o", "x.npy"]).succeeded();
        let (header, data) = npy(&room.read("x.npy"));
        assert_eq!(data, room.read("x.bin"));
        let expected = format!("'shape': ({},)", data.len() / 4);
        assert!(header.contains(&expected), "{header}");
        floats(&data)
    };
    assert_eq!(rows("10..13"), [10.0, 11.0, 12.0]);
    assert_eq!(rows("2998.."), [2998.0, 2999.0]);
    assert_eq!(rows("..2"), [0.0, 1.0]);
    assert_eq!(rows("1020..1030"), (1020..1030).map(|i| i as f32).collect::<Vec<_>>(), "over the edge of a block");
    assert_eq!(rows("5..5"), [0f32; 0]);
    room.run(&["extract", "m.dolmen", "turned", "--rows", "1..", "--raw", "-o", "x.bin"]).succeeded();
    assert_eq!(floats(&room.read("x.bin")), [2.0, 5.0, 3.0, 6.0]);
    room.run(&["extract", "b.dolmen", "large", "--rows", "2999..3001", "-o", "y.npy"]).failed(1, &["large", "3,000"]);
    room.run(&["extract", "m.dolmen", "step", "--rows", "0..1", "-o", "y.npy"]).failed(1, &["scalar"]);
    assert!(!room.path("y.npy").exists());
}

#[test]
fn extract_to_standard_output_writes_the_bytes_alone() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    let output = room.command().args(["extract", "m.dolmen", "step", "--raw", "-o", "-"]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &7i64.to_le_bytes()[..]));
    let output = room.command().args(["extract", "m.dolmen", "step", "-o", "-"]).output().unwrap();
    assert_eq!(npy(&output.stdout).1, 7i64.to_le_bytes());
}

#[test]
fn extract_leaves_the_old_file_when_data_is_damaged() {
    let room = Room::new();
    room.put("bad.dolmen", damaged());
    room.put("x.bin", "old");
    room.put("x.npy", "old");
    for output in ["x.bin", "x.npy"] {
        let ran = room.run(&["extract", "bad.dolmen", "large", "-o", output]);
        ran.failed(3, &["bad.dolmen", "large", "block 1", "[BLK-1]"]);
        assert_eq!(room.read(output), b"old");
    }
    room.run(&["extract", "bad.dolmen", "small", "-o", "x.bin"]).succeeded();
    assert_eq!(room.read("x.bin"), [1, 2, 3]);
    room.run(&["extract", "bad.dolmen", "large", "--rows", "0..10", "-o", "x.npy"]).succeeded();
    assert_eq!(room.names(), ["bad.dolmen", "x.bin", "x.npy"], "nothing is left behind");
}

#[test]
fn extract_suggests_a_name_and_refuses_what_it_cannot_write() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    room.run(&["extract", "m.dolmen", "weight", "-o", "x.npy"]).failed(
        1,
        &["m.dolmen", "tensor \"weight\": there is no tensor of this name", "there is one named \"encoder.weight\""],
    );
    room.run(&["extract", "m.dolmen", "step", "-o", "x.jpg"]).failed(1, &["x.jpg", "--raw"]);
    room.run(&["extract", "m.dolmen", "step", "-o", "no/such/x.npy"]).failed(1, &["x.npy", "create the directory"]);
    std::fs::create_dir(room.path("d.npy")).unwrap();
    room.run(&["extract", "m.dolmen", "step", "-o", "d.npy"]).failed(1, &["d.npy", "directory"]);
    assert_eq!(room.names(), ["d.npy", "m.dolmen"]);
}

#[test]
fn extract_refuses_strides_that_expand_without_bound() {
    let room = Room::new();
    let mut builder = Builder::new();
    let storage = builder.storage(vec![1u8]).unwrap();
    let huge = View::new(DType::U8, [1 << 30, 1 << 30]).unwrap().strides([0, 0]).unwrap();
    builder.view("huge", storage, huge).unwrap();
    let large = View::new(DType::U8, [300 << 20]).unwrap().strides([0]).unwrap();
    builder.view("large", storage, large).unwrap();
    room.save("m.dolmen", &builder);
    for name in ["huge", "large"] {
        for output in ["x.bin", "x.npy"] {
            room.run(&["extract", "m.dolmen", name, "-o", output]).failed(1, &["expand", "--force"]);
        }
    }
    // Equal without expanding: the same strides over the same bytes.
    assert_eq!(room.json(0, &["diff", "m.dolmen", "m.dolmen", "--json"])["equal"], true);
    assert_eq!(room.names(), ["m.dolmen"]);
}

#[test]
fn what_numpy_lacks_is_written_and_noted() {
    let room = Room::new();
    let mut builder = Builder::new();
    builder.tensor("w", owned(vec![bf16::ONE, bf16::NEG_ONE], [2])).unwrap();
    room.save("m.dolmen", &builder);
    let ran = room.run(&["extract", "m.dolmen", "w", "-o", "w.npy"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    assert!(ran.err.starts_with("note: ") && ran.err.contains("bf16"), "{ran:?}");
    assert_eq!(npy(&room.read("w.npy")).1, [0x80, 0x3F, 0x80, 0xBF]);
}

// diff

#[test]
fn equal_checkpoints_have_no_differences() {
    let room = Room::new();
    room.save("a.dolmen", &model());
    room.save("b.dolmen", &model());
    let ran = room.run(&["diff", "a.dolmen", "b.dolmen", "--exit-code"]);
    assert_eq!(ran.succeeded(), "- a.dolmen\n+ b.dolmen\n4 tensors equal\n");
    let found = room.json(0, &["diff", "a.dolmen", "b.dolmen", "--json"]);
    let expected = json!({
        "equal": true, "equal_tensors": 4, "added": [], "removed": [], "changed": [], "strides": [],
        "metadata": {"added": [], "removed": [], "changed": []}, "document": "equal",
    });
    assert_eq!(found, expected);
}

#[test]
fn differences_are_counted_and_the_largest_is_located() {
    let room = Room::new();
    let mut a = Builder::new();
    let mut b = Builder::new();
    a.tensor("f", owned(vec![1.0f32, 2.0, 3.0, f32::NAN, 5.0, 0.0], [2, 3])).unwrap();
    b.tensor("f", owned(vec![1.5f32, 2.0, 0.0, 4.0, 5.0, -0.0], [2, 3])).unwrap();
    a.tensor("i", owned(vec![i64::MIN, 5], [2])).unwrap();
    b.tensor("i", owned(vec![i64::MAX, 6], [2])).unwrap();
    a.tensor("nan", owned(vec![f64::NAN, 1.0], [2])).unwrap();
    b.tensor("nan", owned(vec![f64::NAN, 1.0], [2])).unwrap();
    a.tensor("half", owned(vec![f16::from_f32(1.0), f16::from_f32(2.0)], [2])).unwrap();
    b.tensor("half", owned(vec![f16::from_f32(1.0), f16::INFINITY], [2])).unwrap();
    a.tensor("c", owned(vec![[1.0f32, 2.0]], [1])).unwrap();
    b.tensor("c", owned(vec![[1.0f32, -2.0]], [1])).unwrap();
    a.tensor("p", TensorData::raw(DType::I4, [3], vec![0x21, 0x0F]).unwrap()).unwrap();
    b.tensor("p", TensorData::raw(DType::I4, [3], vec![0x21, 0x01]).unwrap()).unwrap();
    a.tensor("o", TensorData::raw(DType::Opaque { bits: 24 }, [2], vec![1, 2, 3, 4, 5, 6]).unwrap()).unwrap();
    b.tensor("o", TensorData::raw(DType::Opaque { bits: 24 }, [2], vec![1, 0, 0, 4, 5, 6]).unwrap()).unwrap();
    room.save("a.dolmen", &a);
    room.save("b.dolmen", &b);
    let found = room.json(0, &["diff", "a.dolmen", "b.dolmen", "--json"]);
    let values = |name: &str| {
        let changed = found["changed"].as_array().unwrap().iter().find(|c| c["name"] == name);
        changed.unwrap_or_else(|| panic!("{name} in {found}"))["values"].clone()
    };
    assert_eq!(
        values("f"),
        json!({"compared": 6, "differing": 4, "nans": 1, "unit": "element",
               "largest": {"difference": 3.0, "index": [0, 2], "a": 3.0, "b": 0.0}})
    );
    assert_eq!(
        values("i"),
        json!({"compared": 2, "differing": 2, "nans": 0, "unit": "element",
               "largest": {"difference": u64::MAX, "index": [0], "a": i64::MIN, "b": i64::MAX}})
    );
    let largest = |name: &str| values(name)["largest"].clone();
    assert_eq!(largest("half"), json!({"difference": "inf", "index": [1], "a": 2.0, "b": "inf"}));
    assert_eq!(largest("c"), json!({"difference": 4.0, "index": [0], "a": [1.0, 2.0], "b": [1.0, -2.0]}));
    assert_eq!(largest("p"), json!({"difference": 2, "index": [2], "a": -1, "b": 1}));
    assert_eq!(values("o"), json!({"compared": 6, "differing": 2, "nans": 0, "unit": "byte", "largest": null}));
    assert_eq!((&found["equal"], &found["equal_tensors"]), (&json!(false), &json!(1)));

    let ran = room.run(&["diff", "a.dolmen", "b.dolmen"]);
    let out = ran.succeeded();
    assert!(out.contains("~ f\n    4 of 6 elements differ, 1 with a NaN\n"), "{out}");
    assert!(out.contains("    largest difference 3.0 at [0, 2]: 3.0 → 0.0\n"), "{out}");
    assert!(out.ends_with("1 tensor equal, 6 changed\n"), "{out}");
}

#[test]
fn large_tensors_are_compared_as_they_stream() {
    let room = Room::new();
    let mut values: Vec<f32> = (0..1_500_000).map(|i| i as f32).collect();
    let mut a = Builder::new();
    a.tensor("w", owned(values.clone(), [1500, 1000])).unwrap();
    room.save("a.dolmen", &a);
    values[1_234_567] += 8.0;
    values[3] += 1.0;
    // The right one turned, so that it has to be gathered.
    let mut turned = vec![0f32; values.len()];
    for (i, &x) in values.iter().enumerate() {
        turned[i % 1000 * 1500 + i / 1000] = x;
    }
    let mut b = Builder::new();
    let strides = View::new(DType::F32, [1500, 1000]).unwrap().strides([1, 1500]).unwrap();
    let storage = b.storage(turned.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    b.view("w", storage, strides).unwrap();
    room.save("b.dolmen", &b);
    let found = room.json(0, &["diff", "a.dolmen", "b.dolmen", "--json"]);
    assert_eq!(
        found["changed"][0]["values"],
        json!({"compared": 1_500_000, "differing": 2, "nans": 0, "unit": "element",
               "largest": {"difference": 8.0, "index": [1234, 567], "a": 1_234_567.0, "b": 1_234_575.0}})
    );
}

#[test]
fn added_removed_and_retyped_tensors_are_told() {
    let room = Room::new();
    let mut a = Builder::new();
    a.tensor("gone", owned(vec![1u8], [1])).unwrap();
    a.tensor("same values", owned(vec![1.0f32, 2.0], [2])).unwrap();
    a.tensor("shape", owned(vec![1u8, 2], [2])).unwrap();
    a.tensor("strided", owned(vec![1u8, 2, 3, 4], [2, 2])).unwrap();
    a.metadata("kept", 1).metadata("old", 1).metadata("epoch", 1);
    let mut lr = Dict::new();
    lr.push("lr", 0.1);
    a.document(Value::from(lr));
    let mut b = Builder::new();
    b.tensor("new", owned(vec![1u8], [1])).unwrap();
    b.tensor("same values", owned(vec![bf16::from_f32(1.0), bf16::from_f32(2.0)], [2])).unwrap();
    b.tensor("shape", owned(vec![1u8, 2], [2, 1])).unwrap();
    let storage = b.storage(vec![1u8, 3, 2, 4]).unwrap();
    b.view("strided", storage, View::new(DType::U8, [2, 2]).unwrap().strides([1, 2]).unwrap()).unwrap();
    b.metadata("kept", 1).metadata("young", 1).metadata("epoch", 2);
    let mut lr = Dict::new();
    lr.push("lr", 0.2);
    b.document(Value::from(lr));
    room.save("a.dolmen", &a);
    room.save("b.dolmen", &b);
    let found = room.json(0, &["diff", "a.dolmen", "b.dolmen", "--json"]);
    let expected = json!({
        "equal": false, "equal_tensors": 1, "added": ["new"], "removed": ["gone"],
        "changed": [
            {"name": "same values", "dtype": ["f32", "bf16"], "shape": [[2], [2]], "values": null},
            {"name": "shape", "dtype": ["u8", "u8"], "shape": [[2], [2, 1]], "values": null},
        ],
        "strides": [{"name": "strided", "strides": [[2, 1], [1, 2]]}],
        "metadata": {"added": ["young"], "removed": ["old"], "changed": ["epoch"]},
        "document": "changed",
    });
    assert_eq!(found, expected);
    let ran = room.run(&["diff", "a.dolmen", "b.dolmen", "--exit-code"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    let expected = "\
- a.dolmen
+ b.dolmen
- gone  u8 [1]
+ new  u8 [1]
~ \"same values\"
    dtype f32 → bf16
    values are the same
~ shape
    shape [2] → [2, 1]
= strided  strides [2, 1] → [1, 2]
- metadata old: 1
+ metadata young: 1
~ metadata epoch
    1 → 2
~ document
    lr: 0.1 → 0.2
1 tensor equal, 2 changed, 1 removed, 1 added
";
    assert_eq!(ran.out, expected);
}

#[test]
fn diff_without_values_reads_no_data_and_with_them_finds_damage() {
    let room = Room::new();
    room.save("a.dolmen", &blocks());
    room.put("b.dolmen", damaged());
    let ran = room.run(&["diff", "a.dolmen", "b.dolmen", "--no-values", "--exit-code"]);
    assert!(ran.succeeded().ends_with("2 tensors equal in dtype and shape; values were not compared\n"), "{ran:?}");
    let ran = room.run(&["diff", "a.dolmen", "b.dolmen"]);
    ran.failed(3, &["b.dolmen", "large", "block 1"]);
}

#[test]
fn a_conversion_makes_no_difference() {
    let room = Room::new();
    room.put("m.safetensors", safetensors_file());
    room.run(&["convert", "m.safetensors", "m.dolmen", "--validate"]).succeeded();
    let found = room.json(0, &["diff", "m.safetensors", "m.dolmen", "--json", "--exit-code"]);
    assert_eq!((&found["equal"], &found["equal_tensors"]), (&json!(true), &json!(1)));
}

// convert

#[test]
fn convert_goes_there_and_back() {
    let room = Room::new();
    room.put("m.safetensors", safetensors_file());
    room.run(&["convert", "m.safetensors", "m.dolmen"]).succeeded();
    room.run(&["convert", "m.dolmen", "back.safetensors"]).succeeded();
    assert_eq!(room.read("back.safetensors"), safetensors_file());
    room.run(&["verify", "m.dolmen"]).succeeded();
    let checkpoint = Checkpoint::open(room.path("m.dolmen")).unwrap();
    assert_eq!(checkpoint.tensor("w").unwrap().as_slice::<f32>().unwrap(), [1.5, -2.0]);
}

#[test]
fn what_a_format_cannot_hold_is_noted_on_standard_error() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    let ran = room.run(&["convert", "m.dolmen", "m.safetensors"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    assert!(ran.err.lines().all(|line| line.starts_with("note: ")), "{ran:?}");
    assert!(ran.err.contains("document") && ran.err.contains("share a storage"), "{ran:?}");
}

#[test]
fn convert_keeps_everything_and_sets_the_layout() {
    let room = Room::new();
    room.save("a.dolmen", &model());
    room.run(&["convert", "a.dolmen", "b.dolmen", "--alignment", "4K", "--block", "64KiB"]).succeeded();
    let found = room.json(0, &["diff", "a.dolmen", "b.dolmen", "--json"]);
    assert_eq!((&found["equal"], &found["strides"]), (&json!(true), &json!([])));
    let out = room.run(&["inspect", "b.dolmen"]).out;
    assert!(out.contains("alignment  4 KiB\n") && out.contains("CRC-32 of each 64 KiB\n"), "{out}");
}

#[test]
fn convert_leaves_the_old_file_when_it_fails() {
    let room = Room::new();
    room.put("bad.dolmen", damaged());
    room.save("good.dolmen", &model());
    room.put("out.dolmen", "old");
    room.run(&["convert", "bad.dolmen", "out.dolmen"]).failed(3, &["large", "block 1"]);
    room.run(&["convert", "good.dolmen", "out.dolmen", "--no-overwrite"]).failed(1, &["out.dolmen", "exists"]);
    room.run(&["convert", "good.dolmen", "out.xyz"]).failed(1, &["out.xyz"]);
    assert_eq!(room.read("out.dolmen"), b"old");
    assert_eq!(room.names(), ["bad.dolmen", "good.dolmen", "out.dolmen"], "nothing is left behind");
    room.run(&["convert", "good.dolmen", "good.dolmen"]).succeeded();
    assert_eq!(room.read("good.dolmen"), model().to_vec().unwrap(), "over itself");
}

#[test]
#[cfg(unix)]
fn an_output_that_cannot_be_written_exits_with_1() {
    let room = Room::new();
    room.save("m.dolmen", &model());
    for output in ["/proc/x.dolmen", "no/such/directory/x.dolmen", "m.dolmen/x.dolmen"] {
        room.run(&["convert", "m.dolmen", output]).failed(1, &[output]);
        room.run(&["extract", "m.dolmen", "step", "--raw", "-o", output]).failed(1, &[output]);
    }
    if Path::new("/dev/full").exists() {
        for args in [
            &["inspect", "m.dolmen"][..],
            &["verify", "m.dolmen"],
            &["extract", "m.dolmen", "step", "--raw", "-o", "-"],
        ] {
            let full = std::fs::File::create("/dev/full").unwrap();
            let ran = Ran::of(room.command().args(args).stdout(full).output().unwrap());
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(ran.err.contains("No space left"), "{ran:?}");
        }
    }
}

// All of it.

#[test]
fn no_file_of_the_vectors_makes_it_panic() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/vectors");
    let room = Room::new();
    let mut files = Vec::new();
    for (directory, code) in [("accept", 0), ("reject", 3)] {
        let directory = vectors.join(directory);
        let verified = room.json(code, &["verify", directory.to_str().unwrap(), "--json"]);
        for file in verified.as_array().unwrap() {
            assert_eq!(file["verdict"] == "ok", code == 0, "{file}");
            files.push(file["path"].as_str().unwrap().to_owned());
        }
    }
    assert!(files.len() > 300);
    for command in [&["inspect", "--document"][..], &["inspect", "--metadata"], &["inspect", "--json", "--document"]] {
        let args: Vec<&str> = command.iter().copied().chain(files.iter().map(String::as_str)).collect();
        let ran = room.run(&args);
        assert_eq!(ran.code, 3, "{}", ran.err);
        assert!(ran.err.lines().all(|line| line.starts_with("dolmen: ")), "{}", ran.err);
    }
}
