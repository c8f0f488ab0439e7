//! `dolmen validate`.
#![cfg(feature = "cli")]

mod common;

use dolmen::Builder;
use dolmen::format::value::{Dict, Value};

use common::command::Room;

/// A tensor that owns its elements.
fn owned<T: dolmen::Element>(elements: Vec<T>, shape: &[usize]) -> dolmen::TensorData<'static> {
    let shape: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
    dolmen::TensorData::raw(T::DTYPE, shape, bytemuck::cast_slice(&elements).to_vec()).unwrap()
}

fn features(ids: usize, rows: usize) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("data", owned(vec![0.5f32; rows * 4], &[rows, 4])).unwrap();
    let mut root = Dict::new();
    root.push("ids", Value::from_iter((0..ids).map(|n| format!("seq_{n}"))));
    root.push("data", Value::tensor("data"));
    b.document(Value::from(root));
    b
}

/// A directory with two good files, one that is damaged in its data, and one that is empty.
fn room() -> Room {
    let room = Room::new();
    room.save("d/a.dolmen", &features(2, 2));
    room.save("d/sub/b.dolmen", &features(3, 2));
    let mut bytes = features(2, 2).to_vec().unwrap();
    let at = dolmen::Checkpoint::from_bytes(&bytes).unwrap().tensor("data").unwrap().file_offset().unwrap() as usize;
    bytes[at] ^= 1;
    room.put("d/c.dolmen", bytes);
    room.put("d/e.pt", b"");
    room.put("d/failed_checkpoints.txt", b"");
    room
}

#[test]
fn it_says_which_checkpoints_are_valid_and_why_the_others_are_not() {
    let ran = room().run(&["validate", "d"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 5, "{ran:?}");
    assert_eq!(lines[0], "valid         d/a.dolmen  1 tensor, 632 B");
    assert!(lines[1].starts_with("corrupted     d/c.dolmen: tensor 'data' is damaged: block 0 "), "{ran:?}");
    assert!(lines[2].starts_with("corrupted     d/e.pt: file is 0 bytes; "), "{ran:?}");
    assert!(lines[3].starts_with("valid         d/sub/b.dolmen"), "{ran:?}");
    assert_eq!(lines[4], "4 checkpoints: 2 valid, 2 corrupted; 1 other file skipped");
    assert_eq!(ran.err, "");
}

#[test]
fn quick_reads_no_data_and_says_so() {
    let ran = room().run(&["validate", "d", "--quick", "--threads", "1"]);
    assert_eq!(ran.code, 3);
    let last = "4 checkpoints: 3 valid, 1 corrupted (quick: data was not read); 1 other file skipped";
    assert_eq!(ran.out.lines().last(), Some(last));
}

#[test]
fn keys_schema_and_rows_are_asked_for() {
    let room = room();
    let schema = r#"{"tensors": [{"name": "data", "dtype": "f32", "shape": ["N", 5]}]}"#;
    room.put("schema.json", schema);
    let reason = |args: &[&str]| {
        let ran = room.run(&[&["validate", "d/sub/b.dolmen"], args].concat());
        assert_eq!(ran.code, 3, "{ran:?}");
        ran.out.trim_end().split_once(".dolmen: ").unwrap().1.to_owned()
    };
    let keys = "missing required keys {'labels', 'x'} (keys found: 'ids', 'data')";
    assert_eq!(reason(&["--required-keys", "data,labels,x"]), keys);
    assert_eq!(reason(&["--rows", "ids=data"]), "'ids' has 3 elements, and 'data' has 2 rows");
    assert_eq!(reason(&["--schema", "schema.json"]), "tensor \"data\": shape is [2, 4], expected [N, 5]");
    room.run(&["validate", "d/a.dolmen", "--rows", "ids=data", "--required-keys", "ids,data"]).succeeded();
}

#[test]
fn json_has_valid_and_failed() {
    let json = room().json(3, &["validate", "d", "--json"]);
    let paths = |list: &str| -> Vec<String> {
        let items = json[list].as_array().unwrap();
        items.iter().map(|item| item["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths("valid"), ["d/a.dolmen", "d/sub/b.dolmen"]);
    assert_eq!(paths("failed"), ["d/c.dolmen", "d/e.pt"]);
    let valid = &json["valid"][0];
    assert_eq!((&valid["format"], &valid["tensors"], &valid["unchecked"]), (&"dolmen".into(), &1.into(), &0.into()));
    let failed = &json["failed"][1];
    assert_eq!(
        (&failed["kind"], &failed["level"], &failed["message"]),
        (&"corrupted".into(), &"not empty".into(), &"file is 0 bytes".into())
    );
    assert_eq!(json["quick"], false);
    let room = Room::new();
    room.save("a.dolmen", &features(1, 1));
    let json = room.json(0, &["validate", ".", "--json", "--quick"]);
    assert_eq!((json["failed"].as_array().unwrap().len(), &json["quick"]), (0, &true.into()));
}

#[test]
fn what_holds_no_dictionary_is_accepted_on_request() {
    let room = Room::new();
    let mut b = features(1, 1);
    b.document(Value::tensor("data"));
    room.save("x.dolmen", &b);
    let ran = room.run(&["validate", "x.dolmen"]);
    assert_eq!((ran.code, ran.out.trim_end()), (3, "incompatible  x.dolmen: checkpoint is not a dict (got Tensor)"));
    room.run(&["validate", "x.dolmen", "--any-object"]).succeeded();
}

#[test]
fn wrong_usage_and_missing_files_have_codes_of_their_own() {
    let room = Room::new();
    std::fs::create_dir(room.path("empty")).unwrap();
    room.run(&["validate", "empty"]).failed(1, &["empty: no checkpoint was found"]);
    let ran = room.run(&["validate", "nowhere"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "corrupted     nowhere: file does not exist\n"));
    for args in [&["validate"][..], &["validate", ".", "--rows", "ids"], &["validate", ".", "--threads", "0"]] {
        assert_eq!(room.run(args).code, 2);
    }
    room.put("schema.json", "{\"tensor\": []}");
    room.save("x.dolmen", &features(1, 1));
    let schema = ["validate", "x.dolmen", "--schema", "schema.json"];
    room.run(&schema).failed(1, &["schema.json: the schema has an unknown key \"tensor\""]);
    room.run(&["validate", "x.dolmen", "--schema", "none.json"]).failed(1, &["none.json"]);
}

#[test]
fn failures_are_remembered_on_request_until_they_pass() {
    let room = room();
    assert_eq!(room.run(&["validate", "d"]).code, 3);
    let log = || String::from_utf8(room.read("d/failed_checkpoints.txt")).unwrap();
    assert_eq!(log(), "", "only on request");
    assert_eq!(room.run(&["validate", "d", "--log-failures"]).code, 3);
    let lines: Vec<String> = log().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2);
    let absolute = |name: &str| {
        std::fs::canonicalize(room.path("d"))
            .map(|d| d.join(name.strip_prefix("d/").unwrap()))
            .unwrap()
            .display()
            .to_string()
    };
    let damaged = format!("{}|corrupted: tensor 'data' is damaged: ", absolute("d/c.dolmen"));
    assert!(lines[0].starts_with(&damaged), "{lines:?}");
    let empty = format!("{}|corrupted: file is 0 bytes|20", absolute("d/e.pt"));
    assert!(lines[1].starts_with(&empty), "{lines:?}");
    // The same again is nothing new, wherever the command is run.
    assert_eq!(room.run(&["validate", "./d/../d", "--log-failures"]).code, 3);
    assert_eq!(log().lines().count(), 2);
    // Quick validation cannot tell that what is damaged is whole again.
    room.save("d/e.pt", &features(1, 1));
    assert_eq!(room.run(&["validate", "d", "--log-failures", "--quick"]).code, 0);
    assert_eq!(log().lines().count(), 2);
    // What is there no more is nothing to remember.
    std::fs::remove_file(room.path("d/e.pt")).unwrap();
    assert_eq!(room.run(&["validate", "d", "--log-failures"]).code, 3);
    assert_eq!(log().lines().count(), 1);
    room.save("d/c.dolmen", &features(1, 1));
    assert_eq!(room.run(&["validate", "d", "--log-failures"]).code, 0);
    assert!(!room.path("d/failed_checkpoints.txt").exists());
    // Beside a checkpoint that is given itself; one that is not there is a mistake of who named it.
    room.put("d/sub/b.dolmen", b"x");
    assert_eq!(room.run(&["validate", "d/sub/b.dolmen", "nowhere", "--log-failures"]).code, 3);
    assert!(room.path("d/sub/failed_checkpoints.txt").exists() && !room.path("failed_checkpoints.txt").exists());
}

#[test]
fn a_later_version_of_the_content_is_refused_on_request() {
    let room = Room::new();
    let mut b = features(1, 1);
    b.metadata("version", "10.0");
    room.save("x.dolmen", &b);
    room.run(&["validate", "x.dolmen"]).succeeded();
    let ran = room.run(&["validate", "x.dolmen", "--program", "virnucpro=2.0"]);
    let words = "incompatible  x.dolmen: Checkpoint version 10.0 requires virnucpro >= 10.0.0 (upgrade required)\n";
    assert_eq!((ran.code, ran.out.as_str()), (3, words));
    assert_eq!(room.run(&["validate", "x.dolmen", "--program", "virnucpro"]).code, 2);
}

#[test]
fn the_help_names_all_levels_in_their_order() {
    let help = Room::new().run(&["validate", "--help"]).succeeded().split_whitespace().collect::<Vec<_>>().join(" ");
    let levels = help.split_once("the first that it does not pass is told:").unwrap().1;
    let mut rest = levels;
    for level in dolmen::lifecycle::Level::ALL {
        let at = rest.find(level.name()).unwrap_or_else(|| panic!("{level} is missing, or comes too early: {levels}"));
        rest = &rest[at..];
    }
}

#[test]
fn arrays_and_kept_originals_that_were_not_asked_about_fail_nothing() {
    let room = Room::new();
    let mut b = features(1, 1);
    b.metadata("version", "1.0");
    room.save("d/x.dolmen", &b);
    room.save("d/x.dolmen.v1.0.bak", &b);
    let ran = room.run(&["convert", "d/x.dolmen", "d/x.npy"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = room.run(&["validate", "d", "--program", "virnucpro=1.5"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = room.run(&["validate", "d/x.npy"]);
    assert_eq!(ran.code, 3, "{ran:?}");
}
