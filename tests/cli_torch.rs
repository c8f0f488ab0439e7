//! The command on PyTorch's checkpoints.
#![cfg(all(feature = "cli", feature = "torch"))]

mod common;

use serde_json::{Value as Json, json};

use dolmen::foreign::torch::{Modules, Role};

use common::command::Room;
use common::torch::*;

/// A model as a training program saves it.
fn model() -> Vec<u8> {
    let weights = dict([("weight", tensor("FloatStorage", "0", &[2, 3])), ("bias", tensor("FloatStorage", "1", &[2]))]);
    let root = dict([("model", weights), ("epoch", int(12)), ("names", list(&[text("first"), text("second")]))]);
    checkpoint(root, &[("0", floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])), ("1", floats(&[0.5, -0.5]))])
}

/// The globals that `inspect --json` tells: name, whether it is called, verdict.
fn globals(room: &Room, file: &str) -> Vec<(String, bool, String)> {
    let found = room.json(0, &["inspect", "--json", file]);
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let global = |g: &Json| (text(&g["name"]), g["called"].as_bool().unwrap(), text(&g["verdict"]));
    found["globals"].as_array().unwrap().iter().map(global).collect()
}

fn has(globals: &[(String, bool, String)], name: &str, called: bool, verdict: &str) {
    let wanted = (name.to_owned(), called, verdict.to_owned());
    assert!(globals.contains(&wanted), "{wanted:?} in {globals:#?}");
}

/// Asks for the globals of a checkpoint with this document.
fn named(root: Part) -> Vec<(String, bool, String)> {
    let room = Room::new();
    room.put("x.pt", checkpoint(root, &[]));
    globals(&room, "x.pt")
}

// inspect

#[test]
fn inspect_shows_what_a_checkpoint_holds() {
    let room = Room::new();
    room.put("m.pt", model());
    let ran = room.run(&["inspect", "m.pt"]);
    let lines: Vec<&str> = ran.succeeded().lines().collect();
    assert_eq!(lines[1], "  format     torch zip, pickle protocol 2");
    assert_eq!(lines[3], "  tensors    2 in 2 storages; 8 elements, 32 B");
    assert_eq!(lines[4], "  checksums  CRC-32 of each storage");
    assert_eq!(lines[5], "  globals    3, all safe");
    assert!(lines.iter().any(|line| line.starts_with("model.weight  f32    [2, 3]     24")), "{lines:#?}");
}

#[test]
fn inspect_says_what_is_converted_when_it_is_touched() {
    let tensors = ["0", "1", "2"].map(|key| tensor("ShortStorage", key, &[2]));
    let numbers: Vec<Part> = (0..100).map(int).collect();
    let root = list(&[tensors.concat(), list(&numbers)]);
    let storage = |key| (key, vec![0, 1, 0, 2]);
    let mut all = records(pickle(root), &[storage("0"), storage("1"), storage("2")]);
    all[2].deflated = true;
    all[3].aligned = false;
    let room = Room::new();
    room.put("x.pt", archive(&all));
    let ran = room.run(&["inspect", "x.pt"]);
    let expected = "converted  when touched: 1 storage compressed, 1 storage in the pickle, 1 storage unaligned\n";
    assert!(ran.succeeded().contains(expected), "{ran:?}");
    assert_eq!(ran.out.lines().filter(|line| line.ends_with("  unaligned")).count(), 1, "{ran:?}");
    all[1].bytes = b"big".to_vec();
    room.put("x.pt", archive(&all));
    let ran = room.run(&["inspect", "x.pt"]);
    let expected = "touched: 2 storages big-endian, 1 storage compressed and big-endian, 1 storage in the pickle\n";
    assert!(ran.succeeded().contains(expected), "{ran:?}");
}

#[test]
fn inspect_notes_the_buffers_of_modules() {
    let layer = |key: &str| {
        let weight = parameter(tensor("FloatStorage", key, &[1]));
        module("torch.nn.Linear", dict([("weight", weight), ("bias", none())]), dict([]), set(&[]), dict([]))
    };
    let buffers = dict([("mean", tensor("FloatStorage", "1", &[1])), ("mask", tensor("FloatStorage", "2", &[1]))]);
    let inner = dict([("first", put(7, layer("0"))), ("tied", get(7))]);
    let root = module("__main__.Net", dict([]), buffers, set(&[text("mask")]), inner);
    let storages = ["0", "1", "2"].map(|key| (key, floats(&[1.5])));
    let room = Room::new();
    room.put("net.pt", checkpoint(root, &storages));
    let ran = room.run(&["inspect", "net.pt"]);
    let rows: Vec<&str> = ran.succeeded().lines().rev().take(4).collect();
    assert!(rows[2].starts_with("first.weight ") && !rows[2].contains("buffer"), "{ran:?}");
    assert!(rows[1].starts_with("mask ") && rows[1].ends_with("  buffer, not persistent"), "{ran:?}");
    assert!(rows[0].starts_with("mean ") && rows[0].ends_with("  buffer"), "{ran:?}");

    let checkpoint = dolmen::Checkpoint::open(room.path("net.pt")).unwrap();
    let document = checkpoint.document().unwrap().unwrap();
    let modules = Modules::of(&document);
    let tensors = modules.state_dict(&document).unwrap().unwrap();
    let names: Vec<(&str, &str)> = tensors.iter().map(|tensor| (&*tensor.name, tensor.tensor)).collect();
    let expected =
        [("mean", "mean"), ("mask", "mask"), ("first.weight", "first.weight"), ("tied.weight", "first.weight")];
    assert_eq!(names, expected);
    assert_eq!(tensors[1].role, Role::Buffer { persistent: false });
}

#[test]
fn inspect_json_has_the_documented_fields_and_the_globals() {
    let room = Room::new();
    room.put("m.pt", model());
    let found = room.json(0, &["inspect", "--json", "m.pt"]);
    assert_eq!(
        (&found["format"], &found["format_version"], &found["metadata"]),
        (&json!("torch"), &json!("zip"), &json!({}))
    );
    assert_eq!(found["file_bytes"], json!(model().len()));
    let crc = format!("{:08x}", dolmen::format::checksum::crc32(&floats(&[0.5, -0.5])));
    assert_eq!(
        found["tensors"][0],
        json!({"name": "model.bias", "path": ["model", "bias"], "dtype": "f32", "shape": [2], "strides": [1],
               "byte_len": 8, "storage": 1, "crc32": crc})
    );
    let names: Vec<&Json> = found["globals"].as_array().unwrap().iter().map(|global| &global["name"]).collect();
    assert_eq!(names, ["torch._utils._rebuild_tensor_v2", "torch.FloatStorage", "collections.OrderedDict"]);
    assert_eq!(found["globals"][0], json!({"name": names[0], "called": true, "verdict": "safe"}));
    assert_eq!(found["globals"][1]["called"], json!(false));
}

#[test]
fn inspect_shows_the_document_as_a_tree_with_the_tensors_in_it() {
    let weight = parameter(tensor("FloatStorage", "0", &[2, 3]));
    let layer = module("torch.nn.Linear", dict([("weight", weight), ("bias", none())]), dict([]), set(&[]), dict([]));
    let names: Vec<Part> = (0..1000).map(|i| text(&format!("protein number {i}"))).collect();
    let options =
        object("argparse.Namespace", dict([("layers", list(&[int(1), int(2)])), ("name", text("x\u{1b}[2J"))]));
    let steps: Vec<Part> = (0..1000).map(int).collect();
    let root = dict([("net", layer), ("names", list(&names)), ("args", options), ("steps", list(&steps))]);
    let room = Room::new();
    room.put("x.pt", checkpoint(root, &[("0", floats(&[0.0; 6]))]));
    let ran = room.run(&["inspect", "--document", "x.pt"]);
    let (_, document) = ran.succeeded().split_once("document ").unwrap();
    let (document, _) = document.split_once("\n\n").unwrap();
    let names: String = (0..10).map(|i| format!("│  ├─ {i}: \"protein number {i}\"\n")).collect();
    let expected = format!(
        r#"dict of 4
├─ "net": object torch.nn.Linear
│  ├─ .training: true
│  ├─ ._parameters: dict of 2
│  │  ├─ "weight": tensor "net.weight" f32 [2, 3] (parameter, requires_grad)
│  │  └─ "bias": null
│  └─ … 4 empty
├─ "names": list of 1000
{names}│  └─ … 990 more
├─ "args": object argparse.Namespace
│  ├─ .layers: list of 2: [1, 2]
│  └─ .name: "x\u{{1b}}[2J"
└─ "steps": tensor "steps" i64 [1000] (list)"#
    );
    assert_eq!(document, expected);
}

#[test]
fn globals_of_every_opcode_are_told() {
    let inst = b"(X\x01\x00\x00\x00xiinst.module\nName\n".to_vec();
    let obj = [b"(".to_vec(), global("obj.module.Name"), text("x"), b"o".to_vec()].concat();
    let new = [global("new.module.Name"), b")\x81".to_vec()].concat();
    let new_ex = [global("ex.module.Name"), b")}\x92".to_vec()].concat();
    let stack = [text("stack.module"), text("Outer.Name"), b"\x93)R".to_vec()].concat();
    let found = named(list(&[inst, obj, new, new_ex, stack, global("bare.module.Name")]));
    for name in ["inst.module.Name", "obj.module.Name", "new.module.Name", "ex.module.Name", "stack.module.Outer.Name"]
    {
        has(&found, name, true, "unknown");
    }
    has(&found, "bare.module.Name", false, "unknown");
}

#[test]
fn what_runs_code_is_dangerous_called_or_not() {
    let found = named(list(&[
        call(global("posix.system"), [text("id")]),
        call(global("functools.partial"), [global("os.system"), text("id")]),
        global("builtins.eval"),
        global("__builtin__.exec"),
        call(global("torch.load"), [text("other.pt")]),
        call(global("torch.storage._load_from_bytes"), [text("nested")]),
    ]));
    has(&found, "posix.system", true, "dangerous");
    has(&found, "functools.partial", true, "dangerous");
    has(&found, "os.system", false, "dangerous");
    has(&found, "builtins.eval", false, "dangerous");
    has(&found, "builtins.exec", false, "dangerous");
    has(&found, "torch.load", true, "dangerous");
    has(&found, "torch.storage._load_from_bytes", true, "dangerous");
}

#[test]
fn what_the_document_does_not_hold_is_told_too() {
    // Popped, dropped with its mark, only in the memo, or in the arguments of what is understood.
    let popped = [call(global("os.system"), [text("id")]), b"0".to_vec()].concat();
    let dropped = [b"(".to_vec(), call(global("subprocess.run"), [text("id")]), b"1".to_vec()].concat();
    let memo_only = [put(9, global("runpy.run_path")), b"0".to_vec()].concat();
    let hooks = call(global("collections.OrderedDict"), []);
    let state = [hooks, call(global("builtins.exec"), [text("x")]), b"b".to_vec()].concat();
    let found = named([popped, dropped, memo_only, dict([("hooks", state)])].concat());
    has(&found, "os.system", true, "dangerous");
    has(&found, "subprocess.run", true, "dangerous");
    has(&found, "runpy.run_path", false, "dangerous");
    has(&found, "builtins.exec", true, "dangerous");
}

#[test]
fn attributes_that_getattr_reaches_are_told_in_full() {
    let getattr = |of: Part, name: &str| call(global("builtins.getattr"), [of, text(name)]);
    let init = getattr(getattr(global("collections.OrderedDict"), "__init__"), "__globals__");
    let found = named(list(&[
        call(getattr(global("os.path"), "join"), [text("a")]),
        call(getattr(global("mymodels.Net"), "Inner"), []),
        init,
    ]));
    has(&found, "builtins.getattr", true, "dangerous");
    has(&found, "os.path.join", true, "dangerous");
    has(&found, "mymodels.Net.Inner", true, "unknown");
    has(&found, "collections.OrderedDict.__init__.__globals__", false, "dangerous");
}

#[test]
fn inspect_warns_of_what_runs_code_and_escapes_its_name() {
    let room = Room::new();
    let evil = call(global("os.system"), [text("id")]);
    let hostile = global("os.\u{1b}[31mpath");
    room.put("evil.pt", checkpoint(list(&[evil, hostile]), &[]));
    let ran = room.run(&["inspect", "evil.pt"]);
    let warning: Vec<&str> = ran.succeeded().lines().filter(|line| line.trim_start().starts_with("warning")).collect();
    assert_eq!(warning.len(), 1, "{ran:?}");
    assert!(warning[0].contains("os.system (called), \"os.\\u{1b}[31mpath\""), "{ran:?}");
    assert!(!ran.out.contains('\u{1b}'), "{ran:?}");
    room.put("good.pt", model());
    assert!(!room.run(&["inspect", "good.pt"]).succeeded().contains("warning"));
}

#[test]
fn a_pickle_that_breaks_off_after_its_payload_is_told_of() {
    let payload = call(global("os.system"), [text("id")]);
    let cut = [b"\x80\x02", &payload[..]].concat();
    let endings: [&[u8]; 5] = [
        b"",
        // A text, and a name, that end with the file; something that there is not; a value where none can be.
        b"X\xff\x00\x00\x00abc",
        b"cevil_module\nev",
        b"\xff",
        b"e.",
    ];
    let framed = [b"\x80\x04\x95\x00\x01\0\0\0\0\0\0", &payload[..], &[b'N'; 300], b"\xff"].concat();
    for pickle in endings.iter().map(|end| [&cut, *end].concat()).chain([framed]) {
        let room = Room::new();
        room.put("evil.pt", archive(&records(pickle, &[])));
        for args in [&["inspect", "evil.pt"][..], &["inspect", "--json", "evil.pt"], &["diff", "evil.pt", "evil.pt"]] {
            room.run(args).failed(3, &["evil.pt", "\"os.system\"", "cannot be read"]);
        }
        let verified = room.run(&["verify", "evil.pt"]);
        assert!(verified.code == 3 && verified.out.contains("\"os.system\""), "{verified:?}");
    }
}

#[test]
fn all_pickles_of_older_files_are_scanned() {
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    let system = dict([("little_endian", call(global("nt.system"), [text("id")]))]);
    let old = [magic, pickle(int(1001)), pickle(system), pickle(dict([("a", int(1))])), pickle(list(&[]))].concat();
    let room = Room::new();
    room.put("old.pt", old);
    has(&globals(&room, "old.pt"), "nt.system", true, "dangerous");
    let ran = room.run(&["inspect", "old.pt"]);
    assert!(ran.succeeded().contains("torch legacy, pickle protocol 2\n"), "{ran:?}");
}

#[test]
fn compressed_pickles_are_scanned() {
    let room = Room::new();
    let mut records = records(pickle(call(global("os.system"), [text("id")])), &[]);
    records[0].deflated = true;
    room.put("x.pt", archive(&records));
    has(&globals(&room, "x.pt"), "os.system", true, "dangerous");
}

// verify

/// Where in a file the data of a storage, or of any other record of which the name is given, begins.
fn place_of(bytes: &[u8], content: &[u8]) -> usize {
    bytes.windows(content.len()).position(|window| window == content).unwrap()
}

#[test]
fn verify_compares_every_record_with_its_checksum() {
    let room = Room::new();
    room.put("m.pt", model());
    assert!(room.run(&["verify", "m.pt"]).succeeded().starts_with("ok            m.pt  2 tensors in 5 records, "));
    let found = room.json(0, &["verify", "--json", "m.pt"]);
    let ok = json!([{"path": "m.pt", "verdict": "ok", "reason": null, "tensors": [], "records": {"checked": 5, "unchecked": 0}}]);
    assert_eq!(found, ok);
}

#[test]
fn verify_names_the_tensors_of_a_damaged_record() {
    for deflated in [false, true] {
        let room = Room::new();
        let shared = list(&[
            tensor("FloatStorage", "0", &[2]),
            tensor("FloatStorage", "0", &[2, 1]),
            tensor("ByteStorage", "1", &[1]),
        ]);
        let mut records = records(pickle(shared), &[("0", floats(&[1.0, 2.0])), ("1", vec![7])]);
        records[2].crc32 = Some(0x1234_5678);
        records[2].deflated = deflated;
        room.put("bad.pt", archive(&records));
        let found = room.json(3, &["verify", "--json", "bad.pt"]);
        let bad = |name| json!({"name": name, "verdict": "corrupted", "bad_blocks": [0]});
        assert_eq!(found[0]["tensors"], json!([bad("0"), bad("1")]), "{found}");
        let ran = room.run(&["verify", "bad.pt"]);
        assert!(ran.code == 3 && ran.out.contains("12345678"), "{ran:?}");
        room.run(&["extract", "bad.pt", "0", "-o", "x.npy"]).failed(3, &["bad.pt", "tensor \"0\"", "12345678"]);
        room.run(&["extract", "bad.pt", "2", "-o", "x.npy"]).succeeded();
    }
}

#[test]
fn verify_checks_records_that_hold_no_tensor() {
    let change = |name: &str| {
        let mut all = records(pickle(tensor("ByteStorage", "0", &[1])), &[("0", vec![1]), ("7", vec![9; 5])]);
        all.push(Record::new("m/code/model.py", "def forward(): pass"));
        let record = all.iter_mut().find(|record| record.name == name).unwrap();
        record.crc32 = Some(1);
        archive(&all)
    };
    for (name, opens) in [("m/data/7", true), ("m/code/model.py", true), ("m/version", false), ("m/data.pkl", false)] {
        let room = Room::new();
        room.put("bad.pt", change(name));
        let ran = room.run(&["verify", "bad.pt"]);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.out.starts_with(&format!("corrupted     bad.pt: \"{name}\": the record is damaged")), "{ran:?}");
        assert_eq!(room.run(&["inspect", "bad.pt"]).code, if opens { 0 } else { 3 });
    }
}

#[test]
fn verify_says_what_it_could_not_check() {
    let room = Room::new();
    let mut some = records(pickle(tensor("ByteStorage", "0", &[2])), &[("0", vec![1, 2])]);
    some[2].crc32 = Some(0);
    room.put("some.pt", archive(&some));
    let ran = room.run(&["verify", "some.pt"]);
    assert!(ran.succeeded().ends_with(" (no checksums of 1 record; of those, structure only)\n"), "{ran:?}");
    let found = room.json(0, &["verify", "--json", "some.pt"]);
    assert_eq!(found[0]["records"], json!({"checked": 3, "unchecked": 1}));
    assert_eq!(found[0]["unchecked_storages"], json!(1));
    some.iter_mut().for_each(|record| record.crc32 = Some(0));
    room.put("none.pt", archive(&some));
    let ran = room.run(&["verify", "none.pt"]);
    assert!(ran.succeeded().ends_with(" (no checksums in this file; structure only)\n"), "{ran:?}");
    assert_eq!(room.json(0, &["verify", "--json", "none.pt"])[0]["records"], json!({"checked": 0, "unchecked": 4}));
    // What PyTorch does not look at is checked all the same.
    some.push(Record::new("elsewhere/data.pkl", "x"));
    room.put("more.pt", archive(&some));
    assert_eq!(room.json(0, &["verify", "--json", "more.pt"])[0]["records"], json!({"checked": 1, "unchecked": 4}));
}

#[test]
fn verify_finds_checkpoints_of_pytorch_in_directories() {
    let room = Room::new();
    room.put("a/m.pt", model());
    room.put("a/b/m.bin", model());
    room.put("a/page.pth", "<!DOCTYPE html><html></html>");
    room.put("a/notes.txt", "nothing");
    let ran = room.run(&["verify", "a"]);
    assert_eq!(ran.code, 3);
    let verdicts: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(verdicts[..3], [["ok", "a/b/m.bin"], ["ok", "a/m.pt"], ["corrupted", "a/page.pth:"]]);
    assert!(ran.out.contains("3 checkpoints: 2 ok, 1 corrupted; 1 other file skipped"), "{ran:?}");
}

#[test]
fn verify_of_directories_reports_what_stands_where_a_checkpoint_should_be() {
    let room = Room::new();
    room.put("a/empty.bin", "");
    room.put("a/lfs.pt2", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n");
    room.put("a/notes.txt", "");
    room.put("a/page.BIN", "\n<!DOCTYPE html><html></html>");
    room.put("a/program.pt2", archive(&[Record::new("archive_format", "pt2")]));
    room.put("a/raw.bin", [1, 2, 3]);
    room.put("a/train.ckpt", "nothing");
    room.put("a/whole.ckpt", model());
    let ran = room.run(&["verify", "a"]);
    assert_eq!(ran.code, 3);
    let verdicts: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    let bad = ["a/empty.bin:", "a/lfs.pt2:", "a/page.BIN:", "a/train.ckpt:"].map(|path| ["corrupted", path]);
    assert_eq!(verdicts[..4], bad, "{ran:?}");
    assert_eq!(verdicts[4], ["ok", "a/whole.ckpt"]);
    assert!(ran.out.contains("5 checkpoints: 1 ok, 4 corrupted; 3 other files skipped"), "{ran:?}");
    let notes: Vec<&str> = ran.err.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(notes, ["a/program.pt2", "a/raw.bin"], "{ran:?}");
}

#[test]
fn what_goes_beyond_a_limit_is_incompatible() {
    let room = Room::new();
    room.put("deep.pt", checkpoint((0..600).fold(int(1), |inner, _| dict([("a", inner)])), &[]));
    let ran = room.run(&["verify", "deep.pt"]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.starts_with("incompatible  deep.pt: "), "{ran:?}");
    assert!(ran.out.contains("a dictionary or tuple two; save it with fewer levels"), "{ran:?}");
    room.run(&["inspect", "deep.pt"]).failed(3, &["deep.pt", "nest"]);
}

// convert

#[test]
fn options_that_say_nothing_about_the_output_are_wrong_usage() {
    let room = Room::new();
    room.put("m.pt", model());
    for args in [
        &["m.safetensors", "--tensors-only"][..],
        &["m.dolmen", "--tensors-only"],
        &["m", "--tensors-only"],
        &["out.pt", "--alignment", "4K"],
        &["out.npz", "--block", "64K"],
    ] {
        let ran = room.run(&[&["convert", "m.pt"], args].concat());
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(args[0]) && ran.err.contains(args[1]), "{ran:?}");
    }
    assert_eq!(room.names(), ["m.pt"]);
    for output in ["a.pt", "a.pth", "a.ckpt", "a.BIN"] {
        let ran = room.run(&["convert", "m.pt", output, "--tensors-only", "--validate"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(room.run(&["inspect", output]).succeeded().contains("torch zip"), "{output}");
    }
    room.run(&["convert", "m.pt", "out.xyz"]).failed(1, &[".pt or .pth", ".ckpt"]);
}

#[test]
fn a_cut_off_archive_is_told_to_be_so_by_convert_too() {
    let mut old = records(pickle(list(&[])), &[("0", vec![0; 200])]);
    old.rotate_right(1);
    let old = archive(&old);
    let room = Room::new();
    room.put("old.pt", &old[..old.len() - 30]);
    room.run(&["convert", "old.pt", "new.dolmen"]).failed(3, &["old.pt", "was cut off"]);
    assert_eq!(room.names(), ["old.pt"]);
}

#[test]
fn programs_of_torchscript_are_not_written_without_their_code() {
    let room = Room::new();
    let script = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torch_data/script.pt")).unwrap();
    room.put("script.pt", &script);
    for output in ["out.pt", "out.pth", "script.pt"] {
        room.run(&["convert", "script.pt", output])
            .failed(1, &["script.pt", "TorchScript", "--tensors-only", ".dolmen"]);
    }
    assert!(room.names() == ["script.pt"] && room.read("script.pt") == script);
    for args in [&["out.dolmen"][..], &["out.pt", "--tensors-only"]] {
        let ran = room.run(&[&["convert", "script.pt"], args].concat());
        assert!(ran.code == 0 && ran.err.contains("the code of the TorchScript program is left out"), "{ran:?}");
    }
    let ran = room.run(&["inspect", "out.pt"]);
    assert!(ran.succeeded().contains("torch zip"), "{ran:?}");
}

#[test]
fn what_is_no_checkpoint_of_pytorch_is_called_what_it_is() {
    let whole = model();
    let mut old = records(pickle(list(&[])), &[("0", vec![0; 200])]);
    old.rotate_right(1);
    let old = archive(&old);
    let encrypted = {
        let mut bytes = model();
        bytes[6] |= 1;
        let directory = place_of(&bytes, b"PK\x01\x02");
        bytes[directory + 8] |= 1;
        bytes
    };
    let cases: &[(&str, &[u8], &str)] = &[
        ("html", b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "this is an HTML page"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull"),
        ("short", &whole[..whole.len() - 30], "was cut off"),
        ("half", &whole[..whole.len() / 2], "was cut off"),
        ("old", &old[..old.len() - 30], "was cut off"),
        ("more", &[&whole[..], b"x"].concat(), "other bytes follow it"),
        ("locked", &encrypted, "encrypted"),
        ("zip", &archive(&[Record::new("notes.txt", "x")]), "this is a ZIP archive"),
        ("bare", &pickle(list(&[])), "this is a Python pickle"),
    ];
    for (name, content, words) in cases {
        let room = Room::new();
        let file = format!("{name}.pt");
        room.put(&file, content);
        for args in [
            &["inspect", &file][..],
            &["inspect", "--json", &file],
            &["extract", &file, "w", "-o", "w.npy"],
            &["diff", &file, &file],
        ] {
            room.run(args).failed(3, &[&file, words]);
        }
        let verified = room.run(&["verify", &file]);
        assert!(verified.code == 3 && verified.out.contains(words), "{verified:?}");
        assert_eq!(room.names(), [file]);
    }
}

// extract and diff

#[test]
fn extract_writes_tensors_in_any_form_that_a_file_has_them_in() {
    let values = [1.0f32, 2.0, 3.0, 4.0];
    let big: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    let plain = || records(pickle(dict([("w", tensor("FloatStorage", "0", &[2, 2]))])), &[("0", floats(&values))]);
    let mut deflated = plain();
    deflated.iter_mut().for_each(|record| record.deflated = true);
    let mut unaligned = plain();
    unaligned[2].aligned = false;
    let mut big_endian = records(pickle(dict([("w", tensor("FloatStorage", "0", &[2, 2]))])), &[("0", big)]);
    big_endian[1].bytes = b"big".to_vec();
    for records in [plain(), deflated, unaligned, big_endian] {
        let room = Room::new();
        room.put("m.pt", archive(&records));
        room.run(&["extract", "m.pt", "w", "-o", "w.bin"]).succeeded();
        assert_eq!(room.read("w.bin"), floats(&values));
        room.run(&["extract", "m.pt", "w", "--rows", "1..2", "-o", "w.bin"]).succeeded();
        assert_eq!(room.read("w.bin"), floats(&values[2..]));
        room.run(&["extract", "m.pt", "w", "-o", "w.npy"]).succeeded();
        assert_eq!(room.read("w.npy")[128..], floats(&values));
        room.run(&["verify", "m.pt"]).succeeded();
    }
}

#[test]
fn extract_writes_lists_of_numbers() {
    let room = Room::new();
    let numbers: Vec<Part> = (0..100).map(int).collect();
    room.put("m.pt", checkpoint(dict([("steps", list(&numbers))]), &[]));
    room.run(&["extract", "m.pt", "steps", "-o", "steps.bin"]).succeeded();
    let expected: Vec<u8> = (0..100i64).flat_map(i64::to_le_bytes).collect();
    assert_eq!(room.read("steps.bin"), expected);
}

#[test]
fn diff_compares_checkpoints_of_pytorch_with_any_other() {
    let room = Room::new();
    room.put("a.pt", model());
    room.run(&["convert", "a.pt", "a.dolmen"]).succeeded();
    let same = room.json(0, &["diff", "--json", "--exit-code", "a.pt", "a.dolmen"]);
    assert_eq!((&same["equal"], &same["document"]), (&json!(true), &json!("equal")));
    let weights = dict([("weight", tensor("FloatStorage", "0", &[2, 3])), ("new", tensor("FloatStorage", "1", &[2]))]);
    let root = dict([("model", weights), ("epoch", int(13)), ("names", list(&[text("first"), text("second")]))]);
    let other = checkpoint(root, &[("0", floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.5])), ("1", floats(&[0.5, -0.5]))]);
    room.put("b.pt", other);
    let found = room.json(1, &["diff", "--json", "--exit-code", "a.pt", "b.pt"]);
    assert_eq!((&found["added"], &found["removed"]), (&json!(["model.new"]), &json!(["model.bias"])));
    assert_eq!(found["changed"][0]["name"], json!("model.weight"));
    assert_eq!(found["changed"][0]["values"]["largest"]["difference"], json!(0.5));
    assert_eq!(found["document"], json!("changed"));
    let text = room.run(&["diff", "a.pt", "b.pt"]);
    assert!(text.succeeded().contains("epoch"), "{text:?}");
}
