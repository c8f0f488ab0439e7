//! Levels of validation: what each finds, in which order, and of which kind it says it is.
#![cfg(all(feature = "lifecycle", feature = "torch"))]

mod common;

use std::path::{Path, PathBuf};

use dolmen::foreign::torch::ExportOptions;
use dolmen::format::value::{Dict, Value};
use dolmen::lifecycle::{
    Batch, CHECKPOINT_EXIT_CODE, CheckpointError, CheckpointErrorKind, FailedLog, Level, Schema, Validator,
};
use dolmen::{Builder, Checkpoint, DType, FileOptions, SaveOptions};
use tempfile::TempDir;

use CheckpointErrorKind::{Corrupted, Incompatible, Unreadable};

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(directory: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A tensor that owns its elements.
fn owned<T: dolmen::Element>(elements: Vec<T>, shape: &[usize]) -> dolmen::TensorData<'static> {
    let shape: Vec<u64> = shape.iter().map(|&dim| dim as u64).collect();
    dolmen::TensorData::raw(T::DTYPE, shape, bytemuck::cast_slice(&elements).to_vec()).unwrap()
}

/// What the pipeline merges: ids and rows.
fn features(ids: usize, rows: usize) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("data", owned(vec![0.5f32; rows * 4], &[rows, 4])).unwrap();
    let mut root = Dict::new();
    root.push("ids", Value::from_iter((0..ids).map(|n| format!("seq_{n}"))));
    root.push("data", Value::tensor("data"));
    b.document(Value::from(root));
    b
}

/// The same as PyTorch saves it.
fn as_torch(b: &Builder<'_>) -> Vec<u8> {
    let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    let mut out = Vec::new();
    let _ = dolmen::foreign::torch::write(&checkpoint, &mut out, ExportOptions::new()).unwrap();
    out
}

fn fails(validator: &Validator, path: impl AsRef<Path>) -> CheckpointError {
    validator.validate(path).unwrap_err()
}

#[track_caller]
fn is(e: &CheckpointError, kind: CheckpointErrorKind, level: Level, words: &str) {
    assert_eq!((e.kind, e.level), (kind, Some(level)), "{e}");
    assert!(e.message.contains(words), "{words:?} in {e}");
}

// The tests of the pipeline that this grew from, by their names there.

#[test]
fn test_validate_empty_file() {
    let d = directory();
    for name in ["x.pt", "x.dolmen"] {
        let e = fails(&Validator::new(), put(&d, name, b""));
        is(&e, Corrupted, Level::NotEmpty, "file is 0 bytes");
        assert_eq!(e.reason(), "corrupted: file is 0 bytes");
    }
}

#[test]
fn test_validate_non_zip_file() {
    let d = directory();
    let e = fails(&Validator::new(), put(&d, "x.pt", b"This is not a ZIP file"));
    is(&e, Corrupted, Level::Recognised, "");
}

#[test]
fn test_validate_corrupted_torch_file() {
    let d = directory();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("archive/data.pkl", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, b"invalid pickle data").unwrap();
    let path = put(&d, "x.pt", zip.finish().unwrap().into_inner());
    for quick in [false, true] {
        let e = fails(&Validator::new().quick(quick), &path);
        assert_eq!(e.kind, Corrupted, "{e}");
    }
}

#[test]
fn test_validate_missing_required_keys() {
    let d = directory();
    let mut b = Builder::new();
    b.tensor("wrong_key", (&[1.0f32; 3], [3])).unwrap();
    let mut root = Dict::new();
    root.push("wrong_key", Value::tensor("wrong_key"));
    b.document(Value::from(root));
    for (name, bytes) in [("x.dolmen", b.to_vec().unwrap()), ("x.pt", as_torch(&b))] {
        let path = put(&d, name, bytes);
        for quick in [false, true] {
            let e = fails(&Validator::new().quick(quick).required_keys(["data"]), &path);
            is(&e, Incompatible, Level::RequiredKeys, "missing required keys {'data'} (keys found: 'wrong_key')");
        }
    }
}

#[test]
fn test_validate_valid_checkpoint() {
    let d = directory();
    for (name, bytes) in [("x.dolmen", features(3, 3).to_vec().unwrap()), ("x.pt", as_torch(&features(3, 3)))] {
        let path = put(&d, name, bytes);
        let validated = Validator::new().required_keys(["data", "ids"]).validate(&path).unwrap();
        assert_eq!((validated.path, validated.tensor_count, validated.unchecked), (path, 1, 0));
    }
}

#[test]
fn test_validate_skip_load() {
    let d = directory();
    for (name, bytes) in [("x.dolmen", features(3, 3).to_vec().unwrap()), ("x.pt", as_torch(&features(3, 3)))] {
        Validator::new().quick(true).validate(put(&d, name, bytes)).unwrap();
    }
}

#[test]
fn test_validate_nonexistent_file() {
    let d = directory();
    let e = fails(&Validator::new(), d.path().join("nowhere.pt"));
    is(&e, Corrupted, Level::Exists, "file does not exist");
    let e = fails(&Validator::new(), put(&d, "file", b"x").join("below"));
    is(&e, Corrupted, Level::Exists, "file does not exist");
}

#[test]
fn test_distinguish_corrupted_vs_incompatible() {
    // By type, whatever the message says.
    let of = |kind: CheckpointErrorKind| CheckpointError::new("x", kind, "incompatible: corrupted");
    assert_eq!((of(Corrupted).kind, of(Corrupted).exit_code()), (Corrupted, 3));
    assert_eq!((of(Incompatible).kind, of(Incompatible).exit_code()), (Incompatible, 3));
    assert_eq!((of(Unreadable).kind, of(Unreadable).exit_code()), (Unreadable, 1));
}

#[test]
fn test_validate_checkpoint_batch() {
    let d = directory();
    let valid =
        [put(&d, "valid1.pt", as_torch(&features(2, 2))), put(&d, "valid2.dolmen", features(2, 2).to_vec().unwrap())];
    let empty = put(&d, "empty.pt", b"");
    let text = put(&d, "text.pt", b"not a checkpoint");
    let paths = [valid[0].clone(), empty.clone(), valid[1].clone(), text.clone()];
    let batch = Validator::new().validate_all(&paths);
    assert_eq!(batch.valid.iter().map(|v| &v.path).collect::<Vec<_>>(), [&valid[0], &valid[1]]);
    assert_eq!(batch.failed.iter().map(|e| &e.path).collect::<Vec<_>>(), [&empty, &text]);
}

#[test]
fn test_validate_empty_batch() {
    let Batch { valid, failed, .. } = Validator::new().validate_all::<PathBuf>(&[]);
    assert!(valid.is_empty() && failed.is_empty());
}

#[test]
fn test_checkpoint_error_creation() {
    let e = CheckpointError::new("test.pt", Corrupted, "file is 0 bytes");
    assert_eq!((e.path.as_path(), e.kind, e.message.as_str()), (Path::new("test.pt"), Corrupted, "file is 0 bytes"));
    assert_eq!(e.to_string(), "test.pt: corrupted: file is 0 bytes");
}

#[test]
fn test_checkpoint_exit_code() {
    assert_eq!(CHECKPOINT_EXIT_CODE, 3);
}

#[test]
fn test_validate_with_log_failures_enabled() {
    let d = directory();
    let path = put(&d, "empty.pt", b"");
    let log = FailedLog::in_directory(d.path());
    log.append(&fails(&Validator::new(), &path)).unwrap();
    let entries = log.entries().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((&entries[0].path, entries[0].reason.as_str()), (&path, "corrupted: file is 0 bytes"));
}

#[test]
fn test_validate_with_log_failures_disabled() {
    let d = directory();
    fails(&Validator::new(), put(&d, "empty.pt", b""));
    assert_eq!(std::fs::read_dir(d.path()).unwrap().count(), 1);
}

// Levels, one by one.

#[test]
fn levels_are_looked_at_in_their_order() {
    let levels = Level::ALL;
    assert!(levels.is_sorted());
    let d = directory();
    // Everything is wrong with it; what has been mended so far passes.
    let validator = Validator::new()
        .required_keys(["data"])
        .schema(Schema::new().tensor("data", "f32", &["*", "3328"]).unwrap())
        .rows("ids", "data");
    let no_dict = |name: &str, rows: usize, columns: usize, keys: &[&str]| {
        let mut b = Builder::with_options(FileOptions::new().block_len(4096).unwrap());
        b.tensor(name, owned(vec![1.0f32; rows * columns], &[rows, columns])).unwrap();
        b.document(Value::from_iter(keys.iter().copied()));
        b
    };
    let dict = |name: &str, columns: usize, ids: usize| {
        let mut b = no_dict(name, 2, columns, &[]);
        let mut root = Dict::new();
        root.push("ids", Value::from_iter((0..ids).map(|n| n as i64)));
        root.push(name, Value::tensor(name));
        b.document(Value::from(root));
        b.to_vec().unwrap()
    };
    let list = no_dict("a", 2, 4, &["x"]).to_vec().unwrap();
    let mut damaged = list.clone();
    let data = Checkpoint::from_bytes(&list).unwrap().tensor("a").unwrap().file_offset().unwrap() as usize;
    damaged[data] ^= 1;
    let mut broken = list.clone();
    let index = list.len() - 80;
    broken[index] ^= 1;
    let mut cut = list.clone();
    cut.truncate(list.len() - 1);
    for (bytes, kind, level) in [
        (None, Corrupted, Level::Exists),
        (Some(Vec::new()), Corrupted, Level::NotEmpty),
        (Some(b"text".to_vec()), Corrupted, Level::Recognised),
        (Some(cut), Corrupted, Level::Complete),
        (Some(broken), Corrupted, Level::StructurallyValid),
        (Some(damaged), Corrupted, Level::Checksums),
        (Some(list), Incompatible, Level::IsDict),
        (Some(dict("other", 4, 1)), Incompatible, Level::RequiredKeys),
        (Some(dict("data", 4, 1)), Incompatible, Level::Schema),
        (Some(dict("data", 3328, 1)), Incompatible, Level::IdsMatchRows),
    ] {
        let path = d.path().join("x.dolmen");
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        is(&fails(&validator, &path), kind, level, "");
    }
    validator.validate(put(&d, "x.dolmen", dict("data", 3328, 2))).unwrap();
}

#[test]
fn a_directory_or_device_is_no_checkpoint_but_nothing_is_said_of_damage() {
    let d = directory();
    is(&fails(&Validator::new(), d.path()), Incompatible, Level::Readable, "is a directory");
    #[cfg(unix)]
    is(&fails(&Validator::new(), "/dev/null"), Incompatible, Level::Readable, "not a regular file");
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read_is_unreadable_and_not_corrupted() {
    use std::os::unix::fs::PermissionsExt;
    let d = directory();
    let path = put(&d, "x.dolmen", features(1, 1).to_vec().unwrap());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        // Root may read everything: nothing to see.
        return;
    }
    let e = fails(&Validator::new(), &path);
    is(&e, Unreadable, Level::Readable, "");
    assert_eq!(e.exit_code(), 1);
}

#[test]
fn a_newer_version_of_the_format_is_incompatible() {
    let d = directory();
    let mut bytes = features(1, 1).to_vec().unwrap();
    let end = bytes.len() - 64;
    for at in [0, end] {
        bytes[at + 8] = 2;
        let crc = dolmen::format::checksum::crc32(&bytes[at..at + 60]);
        bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
    }
    is(&fails(&Validator::new(), put(&d, "x.dolmen", bytes)), Incompatible, Level::Recognised, "");
}

#[test]
fn cut_off_files_of_every_format_are_incomplete() {
    let d = directory();
    let checkpoint = Checkpoint::from_bytes(&features(9, 9).to_vec().unwrap()).unwrap();
    let safetensors = d.path().join("x.safetensors");
    let _ = dolmen::foreign::safetensors::save(&checkpoint, &safetensors, &SaveOptions::new()).unwrap();
    for (name, bytes) in [
        ("x.dolmen", features(9, 9).to_vec().unwrap()),
        ("x.pt", as_torch(&features(9, 9))),
        ("x.safetensors", std::fs::read(&safetensors).unwrap()),
    ] {
        for cut in [bytes.len() - 1, bytes.len() * 3 / 4, bytes.len() / 2] {
            let path = put(&d, name, &bytes[..cut]);
            for quick in [false, true] {
                is(&fails(&Validator::new().quick(quick), &path), Corrupted, Level::Complete, "");
            }
        }
    }
}

#[test]
fn a_save_that_the_original_did_not_finish_is_incomplete() {
    let d = directory();
    let with_status = |status: &str| {
        let mut b = features(1, 1);
        let mut root = Dict::new();
        root.push("status", status);
        root.push("data", Value::tensor("data"));
        b.document(Value::from(root));
        as_torch(&b)
    };
    let e = fails(&Validator::new().quick(true), put(&d, "x.pt", with_status("in_progress")));
    is(&e, Corrupted, Level::Complete, "in_progress");
    Validator::new().validate(put(&d, "x.pt", with_status("complete"))).unwrap();
}

#[test]
fn quick_reads_no_data_and_full_finds_every_flipped_bit_of_it() {
    let d = directory();
    for (name, mut bytes) in [("x.dolmen", features(3, 3).to_vec().unwrap()), ("x.pt", as_torch(&features(3, 3)))] {
        let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
        let at = checkpoint.tensor("data").unwrap().file_offset().unwrap() as usize;
        bytes[at + 5] ^= 0x10;
        let path = put(&d, name, bytes);
        Validator::new().quick(true).validate(&path).unwrap();
        let e = fails(&Validator::new(), &path);
        is(&e, Corrupted, Level::Checksums, "tensor 'data' is damaged");
        assert!(e.error().is_some(), "the error beneath says where");
    }
}

#[test]
fn what_holds_no_dictionary_is_told_by_its_type() {
    let d = directory();
    for (name, found) in [("bare.pt", "Tensor"), ("cuda.pth", "__main__.MLPClassifier"), ("itself.pt", "list")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data").join(name);
        let words = format!("checkpoint is not a dict (got {found})");
        is(&fails(&Validator::new(), &path), Incompatible, Level::IsDict, &words);
        Validator::new().any_root(true).validate(&path).unwrap();
    }
    let b = features(2, 2);
    let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    let path = d.path().join("x.npy");
    let tensor = checkpoint.tensor("data").unwrap();
    let _ = dolmen::foreign::npy::save(&tensor, &path, &SaveOptions::new()).unwrap();
    is(&fails(&Validator::new(), &path), Incompatible, Level::IsDict, "got ndarray");
    // Tensors by name are a dictionary, without any document.
    let mut b = Builder::new();
    b.tensor("data", (&[1u8], [1])).unwrap();
    Validator::new().validate(put(&d, "y.dolmen", b.to_vec().unwrap())).unwrap();
}

#[test]
fn keys_are_those_of_the_dictionary_of_dictionaries_within_and_names_of_tensors() {
    let d = directory();
    let mut b = Builder::new();
    b.tensor("encoder.layer.weight", (&[1.0f32], [1])).unwrap();
    b.metadata("ids", Value::from_iter(["a"]));
    let named = put(&d, "named.dolmen", b.to_vec().unwrap());
    let (mut inner, mut root) = (Dict::new(), Dict::new());
    inner.push("lr", 0.1);
    inner.push("weight.decay", 0.2);
    root.push("optimizer", Value::from(inner));
    root.push("model", Value::tensor("encoder.layer.weight"));
    b.document(Value::from(root));
    let nested = put(&d, "nested.dolmen", b.to_vec().unwrap());
    let has = |path: &Path, key: &str| Validator::new().required_keys([key]).validate(path).is_ok();
    for key in ["encoder", "encoder.layer", "encoder.layer.weight", "ids"] {
        assert!(has(&named, key), "{key}");
    }
    for key in ["enc", "encoder.", "encoder.layer.weight.x", "layer", "optimizer"] {
        assert!(!has(&named, key), "{key}");
    }
    for key in ["model", "optimizer", "optimizer.lr", "optimizer.weight.decay", "encoder.layer.weight"] {
        assert!(has(&nested, key), "{key}");
    }
    for key in ["lr", "optimizer.lr.x", "model.x", "ids", "encoder", "", "."] {
        assert!(!has(&nested, key), "{key}");
    }
}

#[test]
fn hostile_keys_cannot_fill_a_message_or_write_on_a_terminal() {
    let d = directory();
    let mut b = Builder::new();
    let mut root = Dict::new();
    for n in 0..100 {
        root.push(format!("\u{1b}[31m{n}{}", "x".repeat(10_000)), n);
    }
    b.document(Value::from(root));
    let e = fails(&Validator::new().required_keys(["data"]), put(&d, "x.dolmen", b.to_vec().unwrap()));
    assert!(e.message.len() < 4000 && !e.message.contains('\u{1b}'), "{e}");
    assert!(e.message.ends_with("and 92 more)"), "{e}");
}

#[test]
fn schemas_compare_dtypes_shapes_and_dims_of_the_same_name() {
    let d = directory();
    let mut b = Builder::new();
    b.tensor("data", owned(vec![0.0f32; 12], &[3, 4])).unwrap();
    b.tensor("layers.0.weight", owned(vec![0.0f32; 8], &[4, 2])).unwrap();
    b.tensor("layers.1.weight", owned(vec![0u8; 8], &[2, 2, 2])).unwrap();
    b.tensor("labels", owned(vec![0i64; 3], &[3])).unwrap();
    b.tensor("scalar", owned(vec![0i64; 1], &[])).unwrap();
    b.metadata("ids", Value::from_iter(["a", "b", "c"]));
    let path = put(&d, "x.dolmen", b.to_vec().unwrap());
    let check = |json: &str| {
        let schema = Schema::from_json(json).unwrap();
        Validator::new().quick(true).schema(schema).validate(&path).map_err(|e| (e.level.unwrap(), e.message))
    };
    for json in [
        r#"{}"#,
        r#"{"required_keys": ["data", "ids"]}"#,
        r#"{"tensors": [{"name": "data"}]}"#,
        r#"{"tensors": [{"name": "data", "dtype": "f32", "shape": [3, 4]}]}"#,
        r#"{"tensors": [{"name": "data", "dtype": ["bf16", "f32"], "shape": ["N", "C"]},
                        {"name": "labels", "shape": ["N"]}], "lengths": {"ids": "N", "data": 3, "labels": "N"}}"#,
        r#"{"tensors": [{"name": "layers.*.weight", "shape": ["*", 2, "..."]}]}"#,
        r#"{"tensors": [{"name": "layers.*.weight", "shape": ["...", 2]}, {"name": "**", "shape": ["..."]}], "other_tensors": false}"#,
        r#"{"tensors": [{"name": "scalar", "shape": []}, {"name": "bias", "optional": true}]}"#,
    ] {
        check(json).unwrap_or_else(|e| panic!("{json}: {e:?}"));
    }
    for (json, level, words) in [
        (r#"{"required_keys": ["bias"]}"#, Level::RequiredKeys, "{'bias'}"),
        (r#"{"tensors": [{"name": "bias"}]}"#, Level::Schema, "there is no tensor 'bias'"),
        (
            r#"{"tensors": [{"name": "data", "dtype": ["f16", "bf16"]}]}"#,
            Level::Schema,
            "tensor \"data\": dtype is f32, expected f16 or bf16",
        ),
        (
            r#"{"tensors": [{"name": "data", "shape": ["N", 3328]}]}"#,
            Level::Schema,
            "tensor \"data\": shape is [3, 4], expected [N, 3328]",
        ),
        (r#"{"tensors": [{"name": "data", "shape": [3]}]}"#, Level::Schema, "expected [3]"),
        (r#"{"tensors": [{"name": "data", "shape": [3, 4, "...", 4]}]}"#, Level::Schema, "expected [3, 4, ..., 4]"),
        (
            r#"{"tensors": [{"name": "data", "shape": ["N", "N"]}]}"#,
            Level::Schema,
            "tensor \"data\": shape is [3, 4], so N is 4, but it is 3 of tensor \"data\"",
        ),
        (
            r#"{"tensors": [{"name": "data", "shape": ["*", "C"]}, {"name": "layers.0.weight", "shape": ["*", "C"]}]}"#,
            Level::Schema,
            "so C is 2, but it is 4 of tensor \"data\"",
        ),
        (r#"{"tensors": [{"name": "data"}], "other_tensors": false}"#, Level::Schema, "'labels', 'layers.0.weight'"),
        (r#"{"lengths": {"ids": 4}}"#, Level::IdsMatchRows, "'ids' has 3 elements, expected 4"),
        (
            r#"{"tensors": [{"name": "data", "shape": ["*", "N"]}], "lengths": {"ids": "N"}}"#,
            Level::IdsMatchRows,
            "'ids' has 3 elements, but N is 4 of tensor \"data\"",
        ),
        (r#"{"lengths": {"scalar": "N"}}"#, Level::IdsMatchRows, "'scalar' is missing, or has no length"),
    ] {
        let (found, message) = check(json).unwrap_err();
        assert_eq!(found, level, "{json}: {message}");
        assert!(message.contains(words), "{json}: {message}");
    }
    let built = Schema::new().tensor("data", "f32", &["N", "4"]).unwrap().length("ids", "N").unwrap();
    let read = r#"{"tensors": [{"name": "data", "dtype": "f32", "shape": ["N", 4]}], "lengths": {"ids": "N"}}"#;
    assert_eq!(built, Schema::from_json(read).unwrap());
}

#[test]
fn ids_and_rows_agree_where_asked() {
    let d = directory();
    let rows = Validator::new().quick(true).rows("ids", "data");
    for (name, of) in
        [("x.dolmen", (|b| b.to_vec().unwrap()) as fn(&Builder<'_>) -> Vec<u8>), ("x.pt", |b| as_torch(b))]
    {
        rows.validate(put(&d, name, of(&features(3, 3)))).unwrap();
        let path = put(&d, name, of(&features(4, 3)));
        is(&fails(&rows, &path), Incompatible, Level::IdsMatchRows, "'ids' has 4 elements, and 'data' has 3 rows");
        Validator::new().validate(&path).unwrap();
        // Many numbers are kept as a tensor, and are a list all the same.
        let mut b = features(1, 1);
        b.tensor("n", owned(vec![7i64; 100], &[100])).unwrap();
        b.tensor("rows", owned(vec![7u8; 100], &[100, 1])).unwrap();
        let mut root = Dict::new();
        let mut reference = dolmen::format::value::TensorRef::new("n");
        reference.attributes.insert("as".to_owned(), Value::from("list"));
        root.push("ids", Value::from(reference));
        root.push("data", Value::tensor("rows"));
        root.push("rest", Value::tensor("data"));
        b.document(Value::from(root));
        rows.validate(put(&d, name, of(&b))).unwrap();
    }
    // An empty merge has no rows and no ids.
    rows.validate(put(&d, "x.dolmen", features(0, 0).to_vec().unwrap())).unwrap();
}

#[test]
fn a_file_is_validated_before_it_is_put_in_place() {
    let d = directory();
    let path = put(&d, "x.dolmen", features(1, 1).to_vec().unwrap());
    let before = std::fs::read(&path).unwrap();
    let validator = Validator::new().rows("ids", "data");
    let check = move |file: &dyn dolmen::ReadAt| {
        let done = validator.validate_source(file);
        done.map(drop).map_err(|e| dolmen::Error::new(dolmen::ErrorKind::InvalidInput, e.reason()))
    };
    let options = SaveOptions::new().validator(Some(std::sync::Arc::new(check)));
    let e = features(2, 1).save_with(&path, &options).unwrap_err();
    assert!(e.to_string().contains("'ids' has 2 elements, and 'data' has 1 rows"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    features(2, 2).save_with(&path, &options).unwrap();
    assert_ne!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(d.path()).unwrap().count(), 1);
}

#[test]
fn the_structure_of_a_lent_file_has_names_and_shapes_and_no_data() {
    for bytes in [features(2, 3).to_vec().unwrap(), as_torch(&features(2, 3))] {
        let structure = dolmen::OpenOptions::new().open_structure(&bytes).unwrap();
        let tensor = structure.tensor("data").unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (DType::F32, &[3, 4][..]));
        assert_eq!(structure.document().unwrap().unwrap().get("ids").unwrap().as_slice().unwrap().len(), 2);
        let e = tensor.bytes().unwrap_err();
        assert!(e.to_string().contains("only the structure of the file was opened"), "{e}");
        let options = dolmen::VerifyOptions::default();
        assert!(structure.verify_in(&bytes, &options).unwrap().is_valid());
        let mut damaged = bytes.clone();
        let at = Checkpoint::from_bytes(&bytes).unwrap().tensor("data").unwrap().file_offset().unwrap() as usize;
        damaged[at] ^= 1;
        assert!(!structure.verify_in(&damaged, &options).unwrap().is_valid());
    }
}

#[test]
fn a_directory_is_searched_and_what_is_no_checkpoint_is_passed_over() {
    let d = directory();
    for n in 0..40 {
        put(&d, &format!("shard_{}/batch_{n:05}.dolmen", n % 3), features(n, n).to_vec().unwrap());
    }
    put(&d, "shard_0/batch_00000.dolmen.done", b"");
    put(&d, "pipeline_state.json", b"{}");
    put(&d, "failed_checkpoints.txt", b"a|b|c\n");
    put(&d, "notes.txt", b"");
    put(&d, "model", features(1, 1).to_vec().unwrap());
    put(&d, "shard_1/.batch_00099.dolmen.0123456789abcdef.dolmen-tmp", &features(1, 1).to_vec().unwrap()[..100]);
    let empty = put(&d, "shard_2/batch_00041.pt", b"");
    let pointer = put(&d, "x.bin", b"version https://git-lfs.github.com/spec/v1\n");
    let seen = std::sync::atomic::AtomicU64::new(0);
    let candidates = dolmen::lifecycle::Candidates::search(&[d.path()]);
    let all = candidates.byte_len();
    let count = |bytes| {
        seen.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let batch = Validator::new().validate_candidates(candidates, &count);
    assert_eq!(batch.valid.len(), 41);
    assert_eq!(batch.failed.iter().map(|e| &e.path).collect::<Vec<_>>(), [&empty, &pointer]);
    assert_eq!(batch.passed_over, 5);
    assert!(seen.into_inner() >= all, "progress ends at the end");
    let again = Validator::new().quick(true).threads(1).validate_directory(d.path()).unwrap();
    assert_eq!((again.valid.len(), again.failed.len()), (41, 2));
    Validator::new().validate_directory(d.path().join("nowhere")).unwrap_err();
}

#[test]
fn versions_are_checked_where_a_program_asks_for_it() {
    let d = directory();
    let versions = std::sync::Arc::new(dolmen::lifecycle::Versions::new("virnucpro", "2.0").unwrap());
    let validator = Validator::new().quick(true).versions(versions);
    let with = |version: Value| {
        let mut b = features(1, 1);
        b.metadata("version", version);
        put(&d, "x.dolmen", b.to_vec().unwrap())
    };
    for version in ["2.0", "2.9"] {
        validator.validate(with(version.into())).unwrap();
    }
    let e = fails(&validator, with("10.0".into()));
    let words = "Checkpoint version 10.0 requires virnucpro >= 10.0.0 (upgrade required)";
    is(&e, Incompatible, Level::Version, words);
    for version in [Value::from(2), Value::from("two"), Value::Null, Value::from_iter(["2.0"])] {
        is(&fails(&validator, with(version)), Incompatible, Level::Version, "the version is");
    }
    is(&fails(&validator, with("1.0".into())), Incompatible, Level::Version, "no step leads");
    Validator::new().validate(with(Value::from(2))).unwrap();
}

#[test]
fn a_list_that_is_held_in_two_places_has_its_length_in_both() {
    let d = directory();
    let mut b = features(2, 2);
    let mut root = Dict::new();
    root.push("names", Value::Shareable(Box::new(Value::from_iter(["a", "b"]))));
    root.push("ids", Value::SharedRef(0));
    root.push("data", Value::tensor("data"));
    b.document(Value::from(root));
    Validator::new().rows("ids", "data").validate(put(&d, "x.dolmen", b.to_vec().unwrap())).unwrap();
}

#[test]
fn a_key_that_is_a_text_held_in_several_places_is_found() {
    let d = directory();
    let long = "k".repeat(65);
    let mut b = features(1, 1);
    let mut first = Dict::new();
    first.push(Value::Shareable(Box::new(Value::from(long.as_str()))), 1);
    let mut root = Dict::new();
    root.push("other", Value::from(first));
    root.push(Value::SharedRef(0), Value::from_iter(["a"]));
    root.push("data", Value::tensor("data"));
    b.document(Value::from(root));
    let path = put(&d, "x.dolmen", b.to_vec().unwrap());
    Validator::new()
        .required_keys([long.clone(), format!("other.{long}")])
        .rows(&long, "data")
        .validate(&path)
        .unwrap();

    let file = Checkpoint::open(&path).unwrap();
    let mut content = dolmen::lifecycle::Content::of(&file).unwrap();
    assert!(content.get(&long).is_some());
    content.set(&long, 5).unwrap();
    content.rename(&long, "short").unwrap();
    let document = content.document().unwrap();
    assert_eq!(document.get("short").and_then(Value::as_i64), Some(5));
    assert_eq!(document.as_dict().unwrap().entries.len(), 3);
    assert!(content.remove("other").unwrap());
    content.builder().unwrap().to_checkpoint().unwrap().document().unwrap();
}

#[test]
fn a_dictionary_that_holds_itself_takes_no_time_that_matters() {
    let d = directory();
    let mut b = features(1, 1);
    let root = Dict::from([("a", Value::SharedRef(0)), ("data", Value::tensor("data"))]);
    b.document(Value::Shareable(Box::new(Value::from(root))));
    let path = put(&d, "x.dolmen", b.to_vec().unwrap());
    let key = "a.".repeat(60) + "nowhere";
    is(&fails(&Validator::new().required_keys([key]), &path), Incompatible, Level::RequiredKeys, "");
    Validator::new().required_keys(["a.a.a.data"]).validate(&path).unwrap();
}
