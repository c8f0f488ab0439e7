//! The original pipeline's tests of versions and compatibility, by their names: each does here what it did there, on Dolmen files and, where a
//! file only has to be there, on PyTorch's.
#![cfg(all(feature = "lifecycle", feature = "torch"))]

use std::path::{Path, PathBuf};

use dolmen::foreign::torch::{self, ExportOptions};
use dolmen::format::value::{Dict, Value};
use dolmen::lifecycle::{
    CHECKPOINT_VERSION, CheckpointErrorKind, CheckpointInfo, Level, Save, Validator, Versions, Warning,
};
use dolmen::{Builder, Checkpoint, SaveOptions};
use tempfile::TempDir;

const DATA: [f32; 15] = [0.5, -1.0, 2.0, 3.5, 4.0, 0.0, 1.0, 7.5, -8.0, 9.0, 1e-9, 11.0, 12.0, 1e9, 14.0];

fn room() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// `{'data': tensor, …}` as a document, and the tensor.
fn dictionary(entries: &[(&str, &str)]) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("data", (&DATA, [5, 3])).unwrap();
    let mut dict = Dict::new();
    for &(key, value) in entries {
        dict.push(key, value);
    }
    dict.push("data", Value::tensor("data"));
    b.document(Value::from(dict));
    b
}

/// What `torch.save` writes of it.
fn torch_save(builder: &Builder<'_>, path: &Path) {
    let checkpoint = builder.to_checkpoint().unwrap();
    let notes = torch::save(&checkpoint, path, ExportOptions::new(), &SaveOptions::new()).unwrap();
    assert!(notes.is_empty(), "{notes}");
}

/// The same content as a Dolmen file and as one of PyTorch.
fn both(room: &TempDir, name: &str, entries: &[(&str, &str)]) -> [PathBuf; 2] {
    let (dolmen, pt) = (room.path().join(format!("{name}.dolmen")), room.path().join(format!("{name}.pt")));
    dictionary(entries).save(&dolmen).unwrap();
    torch_save(&dictionary(entries), &pt);
    [dolmen, pt]
}

fn said(path: &Path, key: &str) -> Option<String> {
    let metadata = Checkpoint::open(path).unwrap().metadata().unwrap();
    metadata.get(key).map(|value| value.as_str().unwrap().to_owned())
}

/// `virnucpro` at the version that it writes.
fn virnucpro() -> Versions {
    Versions::new("virnucpro", CHECKPOINT_VERSION).unwrap()
}

/// `load_with_compatibility(path, skip_validation=True)`: no validation, and the version is checked nevertheless.
fn with_compatibility() -> Versions {
    virnucpro().validator(None)
}

fn has_data(checkpoint: &Checkpoint) {
    assert_eq!(checkpoint.tensor("data").unwrap().as_slice::<f32>().unwrap(), DATA);
}

#[test]
fn atomic_save_adds_version() {
    let room = room();
    let path = room.path().join("versioned.dolmen");
    let mut b = Builder::new();
    b.tensor("data", (&DATA, [5, 3])).unwrap().metadata("test", true);
    Save::new().validate(false).save(&b, &path).unwrap();
    assert_eq!(said(&path, "version").as_deref(), Some(CHECKPOINT_VERSION));
}

#[test]
fn atomic_save_preserves_existing_version() {
    let room = room();
    let path = room.path().join("custom_version.dolmen");
    let mut b = Builder::new();
    b.tensor("data", (&DATA, [5, 3])).unwrap().metadata("version", "0.9");
    Save::new().validate(false).save(&b, &path).unwrap();
    assert_eq!(said(&path, "version").as_deref(), Some("0.9"));
    // Also where the version is in the dictionary.
    Save::new().validate(false).save(&dictionary(&[("version", "0.9")]), &path).unwrap();
    assert_eq!(said(&path, "version"), None);
    assert_eq!(CheckpointInfo::of(&path).version, "0.9");
}

#[test]
fn version_constant_correct() {
    assert_eq!(CHECKPOINT_VERSION, "1.0");
}

#[test]
fn atomic_save_adds_status() {
    let room = room();
    let path = room.path().join("with_status.dolmen");
    Save::new().validate(false).save(&dictionary(&[]), &path).unwrap();
    assert_eq!(said(&path, "status").as_deref(), Some("complete"));
}

#[test]
fn load_pre_optimization_checkpoint() {
    let room = room();
    for path in both(&room, "pre_optimization", &[("nucleotide", "seq1")]) {
        let loaded = with_compatibility().load(&path).unwrap();
        has_data(&loaded.checkpoint);
        assert_eq!(loaded.version.to_string(), "0.x");
        assert_eq!(loaded.warnings, [Warning::PreOptimization]);
        // It is taken as it is.
        assert!(loaded.steps.is_empty());
        assert!(loaded.checkpoint.document().unwrap().unwrap().get("version").is_none());
    }
}

#[test]
fn load_current_version_checkpoint() {
    let room = room();
    for path in both(&room, "current_version", &[("version", "1.0"), ("status", "complete")]) {
        let loaded = with_compatibility().load(&path).unwrap();
        has_data(&loaded.checkpoint);
        assert_eq!(loaded.version.to_string(), "1.0");
        assert!(loaded.warnings.is_empty());
    }
}

#[test]
fn reject_future_version() {
    let room = room();
    for path in both(&room, "future_version", &[("version", "2.0")]) {
        let e = with_compatibility().load(&path).unwrap_err();
        assert_eq!((e.kind, e.level), (CheckpointErrorKind::Incompatible, Some(Level::Version)));
        assert_eq!(e.message, "Checkpoint version 2.0 requires virnucpro >= 2.0.0 (upgrade required)");
        assert_eq!((&e.path, e.exit_code()), (&path, 3));
    }
}

#[test]
fn reject_high_future_version() {
    let room = room();
    for path in both(&room, "v5", &[("version", "5.0")]) {
        let e = with_compatibility().load(&path).unwrap_err();
        assert_eq!(e.message, "Checkpoint version 5.0 requires virnucpro >= 5.0.0 (upgrade required)");
    }
}

#[test]
fn skip_validation_flag() {
    let room = room();
    for path in both(&room, "no_validate", &[("version", "1.0")]) {
        let versions = virnucpro().validator(Validator::new().required_keys(["absent"]));
        assert!(versions.load(&path).is_err());
        has_data(&versions.skip_checkpoint_validation(true).load(&path).unwrap().checkpoint);
    }
}

#[test]
fn validation_catches_corruption_when_not_skipped() {
    let room = room();
    for name in ["empty.pt", "empty.dolmen"] {
        let path = room.path().join(name);
        std::fs::write(&path, b"").unwrap();
        let e = virnucpro().load(&path).unwrap_err();
        assert_eq!(e.reason(), "corrupted: file is 0 bytes");
    }
    // Also where it is data that is damaged.
    let path = room.path().join("damaged.dolmen");
    let mut bytes = dictionary(&[]).to_vec().unwrap();
    let at = bytes.windows(4).position(|window| window == 9.0f32.to_le_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(virnucpro().load(&path).unwrap_err().kind, CheckpointErrorKind::Corrupted);
}

#[test]
fn validation_with_required_keys() {
    let room = room();
    let path = room.path().join("missing_key.pt");
    let mut b = Builder::new();
    b.document(Value::from(Dict::from([("version", Value::from("1.0")), ("metadata", Value::from(Dict::new()))])));
    torch_save(&b, &path);
    let versions = virnucpro().validator(Validator::new().required_keys(["data"]));
    let e = versions.load(&path).unwrap_err();
    assert_eq!((e.kind, e.level), (CheckpointErrorKind::Incompatible, Some(Level::RequiredKeys)));
    assert!(e.message.contains("missing"), "{e}");
}

#[test]
fn get_checkpoint_info_valid() {
    let room = room();
    for (path, format) in
        both(&room, "info_test", &[("version", "1.0"), ("status", "complete")]).iter().zip(["dolmen", "torch"])
    {
        let info = CheckpointInfo::of(path);
        assert_eq!((&*info.version, &*info.status, info.format.as_deref()), ("1.0", "complete", Some(format)));
        assert_eq!(info.byte_len, std::fs::metadata(path).unwrap().len());
        assert!(info.error.is_none() && !info.has_done_marker);
        std::fs::write(format!("{}.done", path.display()), b"").unwrap();
        assert!(CheckpointInfo::of(path).has_done_marker);
    }
}

#[test]
fn get_checkpoint_info_pre_optimization() {
    let room = room();
    for path in both(&room, "old_checkpoint", &[]) {
        let info = CheckpointInfo::of(&path);
        assert_eq!((&*info.version, &*info.status), ("0.x", "unknown"));
        assert!(info.format.is_some());
    }
}

#[test]
fn get_checkpoint_info_corrupted() {
    let room = room();
    let path = room.path().join("corrupted.pt");
    std::fs::write(&path, b"").unwrap();
    let info = CheckpointInfo::of(&path);
    assert_eq!((&*info.version, &*info.status, info.byte_len, info.format), ("unknown", "unknown", 0, None));
    assert_eq!(info.error.unwrap().kind, CheckpointErrorKind::Corrupted);
    std::fs::write(&path, b"PK\x03\x04 and then nothing").unwrap();
    let info = CheckpointInfo::of(&path);
    assert_eq!((&*info.version, info.byte_len), ("unknown", 21));
    let missing = CheckpointInfo::of(room.path().join("missing.pt"));
    assert_eq!((&*missing.version, missing.byte_len, missing.has_done_marker), ("unknown", 0, false));
}

#[test]
fn atomic_save_without_validation() {
    let room = room();
    let path = room.path().join("no_validate.dolmen");
    let save = Save::new().validator(Validator::new().required_keys(["absent"]));
    assert!(save.save(&dictionary(&[]), &path).is_err());
    assert!(!path.exists());
    save.validate(false).save(&dictionary(&[]), &path).unwrap();
    assert!(path.exists());
}

#[test]
fn atomic_save_with_validation() {
    let room = room();
    let path = room.path().join("validated.dolmen");
    Save::new().validator(Validator::new().required_keys(["data"])).save(&dictionary(&[]), &path).unwrap();
    has_data(&Checkpoint::open(&path).unwrap());
}

#[test]
fn atomic_save_cleanup_on_failure() {
    let room = room();
    let path = room.path().join("will_fail.dolmen");
    // What cannot be written, and what does not pass.
    let mut wrong = dictionary(&[]);
    wrong.document(Value::from(Dict::from([("gone", Value::tensor("gone"))])));
    Save::new().save(&wrong, &path).unwrap_err();
    Save::new().validator(Validator::new().required_keys(["absent"])).save(&dictionary(&[]), &path).unwrap_err();
    assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
}

#[test]
fn save_and_load_roundtrip() {
    let room = room();
    let path = room.path().join("roundtrip.dolmen");
    let mut b = Builder::new();
    b.tensor("data", (&DATA, [5, 3])).unwrap();
    b.metadata("metadata", std::collections::BTreeMap::from([("test".to_owned(), Value::from(true))]));
    Save::new().validate(false).save(&b, &path).unwrap();
    let loaded = with_compatibility().load(&path).unwrap();
    assert_eq!(loaded.version.to_string(), CHECKPOINT_VERSION);
    assert_eq!(loaded.checkpoint.metadata().unwrap()["metadata"].get("test"), Some(&Value::from(true)));
    has_data(&loaded.checkpoint);
}

#[test]
fn upgrade_path_simulation() {
    let room = room();
    for old in both(&room, "v0_checkpoint", &[]) {
        let loaded = with_compatibility().load(&old).unwrap();
        assert_eq!(loaded.version.to_string(), "0.x");
        // Saved again, it has a version.
        let new = room.path().join("v1_checkpoint.dolmen");
        let mut b = Builder::new();
        b.checkpoint(&loaded.checkpoint).unwrap();
        Save::new().validate(false).save(&b, &new).unwrap();
        assert_eq!(with_compatibility().load(&new).unwrap().version.to_string(), CHECKPOINT_VERSION);
        // And so it has where it is, once it is upgraded.
        virnucpro().upgrade(&old).unwrap();
        let loaded = with_compatibility().load(&old).unwrap();
        assert_eq!(loaded.version.to_string(), CHECKPOINT_VERSION);
        assert!(loaded.warnings.is_empty());
        has_data(&loaded.checkpoint);
    }
}
