//! Versions of content: compared, refused, brought up to date in memory and on disk; and saves that embed them. What the original pipeline did
//! wrong is a test each, before all others.
#![cfg(all(unix, feature = "lifecycle", feature = "torch", feature = "safetensors"))]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::memory::{Fault, Memory};
use dolmen::foreign::torch::{self, ExportOptions};
use dolmen::format::value::{Dict, DictKind, Object, Value};
use dolmen::lifecycle::{
    CheckpointErrorKind, CheckpointInfo, Content, Level, Loaded, Save, Steps, UpgradeError, UpgradeOptions, Validator,
    Version, Versions, Warning,
};
use dolmen::{
    Builder, Checkpoint, DType, Error, ErrorKind, FileOptions, SaveOptions, TensorData, VerifyOptions, View,
    verify_source,
};
use tempfile::TempDir;

mod common;

/// What a step does.
type Run = fn(&mut Content<'_>) -> dolmen::Result<()>;

fn room() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn versions(current: &str) -> Versions {
    Versions::new("virnucpro", current).unwrap()
}

/// A tensor `data` and a version.
fn versioned(version: impl Into<Value>) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("data", &[1.0f32, 2.0]).unwrap().metadata("version", version);
    b
}

/// `{'version': …, 'data': tensor}`.
fn dictionary(version: impl Into<Value>) -> Builder<'static> {
    let mut b = Builder::new();
    b.tensor("data", &[1.0f32, 2.0]).unwrap();
    b.document(Value::from(Dict::from([("version", version.into()), ("data", Value::tensor("data"))])));
    b
}

fn torch_save(builder: &Builder<'_>, path: &Path) {
    let notes = torch::save(&builder.to_checkpoint().unwrap(), path, ExportOptions::new(), &SaveOptions::new());
    assert!(notes.unwrap().is_empty());
}

fn names(room: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(room.path()).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn elements(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    checkpoint.tensor(name).unwrap().to_vec().unwrap()
}

// What the original did wrong.

#[test]
fn version_10_is_newer_than_2_and_is_refused() {
    let room = room();
    let path = room.path().join("new.dolmen");
    for (version, needed) in
        [("10.0", "10.0.0"), ("2.0", "2.0.0"), ("11", "11.0.0"), ("20000000000.1", "20000000000.0.0")]
    {
        versioned(version).save(&path).unwrap();
        let e = versions("1.0").load(&path).unwrap_err();
        assert_eq!(
            e.message,
            format!("Checkpoint version {version} requires virnucpro >= {needed} (upgrade required)")
        );
        assert_eq!((e.kind, e.level, e.exit_code()), (CheckpointErrorKind::Incompatible, Some(Level::Version), 3));
    }
    // And it is no newer than itself.
    for version in ["10.0", "2.0", "9.9"] {
        versioned(version).save(&path).unwrap();
        let result = versions("10.0").load(&path);
        assert_eq!(result.is_ok(), version == "10.0", "{version}: {result:?}");
    }
}

#[test]
fn versions_that_are_none_are_incompatible_and_never_a_crash() {
    let room = room();
    let long = "9.".repeat(1 << 20);
    let wrong: [(Value, &str); 11] = [
        (2.into(), "the integer 2"),
        (2.5.into(), "the number 2.5"),
        (Value::Null, "None"),
        (true.into(), "the truth value true"),
        (vec![Value::from(1)].into(), "a list"),
        (Value::Bytes(b"1.0".to_vec()), "bytes"),
        (Value::from(u64::MAX), "a large integer"),
        ("".into(), "\"\""),
        ("two\u{1b}[31m".into(), "\"two\\u{1b}[31m\""),
        ("99999999999999999999.0".into(), "\"99999999999999999999.0\""),
        (long.into(), "\"9.9.9."),
    ];
    for (value, shown) in wrong {
        let (a, b, c) = (room.path().join("a.dolmen"), room.path().join("b.dolmen"), room.path().join("c.pt"));
        versioned(value.clone()).save(&a).unwrap();
        dictionary(value.clone()).save(&b).unwrap();
        torch_save(&dictionary(value), &c);
        for path in [a, b, c] {
            let e = versions("1.0").load(&path).unwrap_err();
            assert_eq!((e.kind, e.level), (CheckpointErrorKind::Incompatible, Some(Level::Version)), "{e}");
            assert!(e.message.contains(shown) && e.message.contains("such as \"1.0\"") && e.message.len() < 500, "{e}");
            assert!(versions("1.0").upgrade(&path).is_err());
            assert!(CheckpointInfo::of(&path).version.starts_with(shown), "{:?}", CheckpointInfo::of(&path));
        }
    }
}

#[test]
fn steps_are_applied_in_order_each_once() {
    let room = room();
    let path = room.path().join("old.dolmen");
    let ran = Arc::new(AtomicUsize::new(0));
    let (first, second) = (ran.clone(), ran.clone());
    // Registered in another order than they apply in.
    let versions = versions("3.0")
        .step("2.0", "3.0", move |content| {
            assert_eq!(second.fetch_add(10, Ordering::Relaxed), 1);
            assert!(content.version()? >= "2.0".parse()?);
            content.rename("embeddings", "features")
        })
        .unwrap()
        .step("1.0", "2.0", move |content| {
            assert_eq!(first.fetch_add(1, Ordering::Relaxed), 0);
            content.rename("data", "embeddings")
        })
        .unwrap();
    for (version, steps) in [("1.0", "1.0 to 2.0, 2.0 to 3.0"), ("1.7", "1.0 to 2.0, 2.0 to 3.0")] {
        ran.store(0, Ordering::Relaxed);
        versioned(version).save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let loaded = versions.load(&path).unwrap();
        assert_eq!(applied(&loaded), steps);
        assert_eq!(loaded.version.to_string(), version);
        assert_eq!(elements(&loaded.checkpoint, "features"), [1.0, 2.0]);
        assert_eq!(loaded.checkpoint.metadata().unwrap()["version"], "3.0".into());
        assert_eq!(loaded.checkpoint.path(), Some(&*path));
        assert_eq!(loaded.checkpoint.len(), 1);
        assert!(loaded.checkpoint.verify().unwrap().is_valid());
        // In memory, and nowhere else.
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    // One that is half the way needs the rest.
    ran.store(1, Ordering::Relaxed);
    let mut b = Builder::new();
    b.tensor("embeddings", &[3.0f32]).unwrap().metadata("version", "2.5");
    b.save(&path).unwrap();
    assert_eq!(applied(&versions.load(&path).unwrap()), "2.0 to 3.0");
    assert_eq!(names(&room), ["old.dolmen"]);
}

fn applied(loaded: &Loaded) -> String {
    loaded.steps.iter().map(|step| step.to_string()).collect::<Vec<_>>().join(", ")
}

#[test]
fn files_whose_names_differ_in_their_extension_do_not_collide() {
    let room = room();
    let (pt, pth) = (room.path().join("x.pt"), room.path().join("x.pth"));
    let mut first = Save::new().create(&pt).unwrap();
    let mut second = Save::new().create(&pth).unwrap();
    assert_ne!(first.temp_path(), second.temp_path());
    first.tensor("data", &[1.0f32]).unwrap();
    second.tensor("data", &[2.0f32]).unwrap();
    first.commit().unwrap();
    second.commit().unwrap();
    assert_eq!(elements(&Checkpoint::open(&pt).unwrap(), "data"), [1.0]);
    assert_eq!(elements(&Checkpoint::open(&pth).unwrap(), "data"), [2.0]);
    assert_eq!(names(&room), ["x.pt", "x.pth"]);
}

#[test]
fn a_save_that_does_not_pass_leaves_the_good_file() {
    let room = room();
    let path = room.path().join("good.dolmen");
    versioned("1.0").save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let save = Save::new().validator(Validator::new().required_keys(["embeddings"]));
    let e = save.save(&versioned("1.0"), &path).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.to_string().contains("missing required keys"), "{e}");
    assert_eq!(e.path(), Some(&*path));

    let mut writer = save.create(&path).unwrap();
    writer.tensor("data", &[5.0f32]).unwrap();
    assert!(writer.commit().is_err());
    assert_eq!(std::fs::read(&path).unwrap(), good);
    assert_eq!(names(&room), ["good.dolmen"]);

    // What the caller says is not finished is not put in the place of what is.
    let mut unfinished = versioned("1.0");
    unfinished.metadata("status", "in_progress");
    Save::new().save(&unfinished, &path).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), good);
}

#[test]
fn saving_leaves_the_callers_content_as_it_is() {
    let room = room();
    let path = room.path().join("saved.dolmen");
    let mut b = Builder::new();
    b.tensor("data", &[1.0f32]).unwrap().metadata("epoch", 3);
    b.document(Value::from(Dict::from([("data", Value::tensor("data"))])));
    let before = b.to_vec().unwrap();
    Save::new().version("1.3").unwrap().save(&b, &path).unwrap();
    assert_eq!(b.to_vec().unwrap(), before);
    assert_eq!(b.metadata_entry("version"), None);

    let saved = Checkpoint::open(&path).unwrap();
    let metadata = saved.metadata().unwrap();
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["epoch", "status", "version"]);
    assert_eq!((&metadata["version"], &metadata["status"]), (&"1.3".into(), &"complete".into()));
    // The document is the caller's too.
    assert_eq!(saved.document().unwrap().as_ref(), b.document_value());
}

// Saving.

#[test]
fn what_the_caller_sets_of_a_stream_wins() {
    let room = room();
    let path = room.path().join("stream.dolmen");
    Save::new().create(&path).unwrap().commit().unwrap();
    let info = CheckpointInfo::of(&path);
    assert_eq!((&*info.version, &*info.status), ("1.0", "complete"));
    let mut writer = Save::new().status("final").create(&path).unwrap();
    writer.metadata("version", "0.7");
    writer.commit().unwrap();
    let info = CheckpointInfo::of(&path);
    assert_eq!((&*info.version, &*info.status), ("0.7", "final"));
    assert!(Save::new().version("one").is_err());
}

#[test]
fn a_save_without_validation_does_not_read_what_it_wrote() {
    let memory = Memory::new();
    let reads = |memory: &Memory| memory.calls().iter().filter(|call| format!("{call:?}").contains("Read")).count();
    let save = Save::new().options(SaveOptions::new().file_system(Arc::new(memory.clone())));
    save.clone().validate(false).save(&versioned("1.0"), "d/a.dolmen").unwrap();
    let unread = reads(&memory);
    save.save(&versioned("1.0"), "d/b.dolmen").unwrap();
    assert_eq!(unread, 0);
    assert!(memory.content("a.dolmen").unwrap() == memory.content("b.dolmen").unwrap());
}

// Which versions are taken.

#[test]
fn a_later_minor_version_is_taken_as_it_is() {
    let room = room();
    let path = room.path().join("minor.dolmen");
    versioned("1.9").save(&path).unwrap();
    let versions = versions("1.2").step("1.0", "1.2", |_| Err(Error::new(ErrorKind::Io, "not for this one"))).unwrap();
    let loaded = versions.load(&path).unwrap();
    assert!(loaded.steps.is_empty() && loaded.warnings.is_empty());
    assert_eq!(versions.check(&loaded.checkpoint).unwrap().to_string(), "1.9");
}

#[test]
fn an_older_major_version_without_a_step_on_is_a_gap_that_is_named() {
    let room = room();
    let path = room.path().join("gap.dolmen");
    let rename = |content: &mut Content<'_>| content.rename("data", "embeddings");
    let at = |version: &str, versions: Versions| {
        versioned(version).save(&path).unwrap();
        versions.load(&path).map(|loaded| applied(&loaded)).map_err(|e| (e.kind, e.message))
    };
    let gap = |gap: &str| (CheckpointErrorKind::Incompatible, gap.to_owned());
    let expected = "Checkpoint version 1.4 is too old for virnucpro 3.0: no step leads from 1.4 on to 3.0";
    assert_eq!(at("1.4", versions("3.0")), Err(gap(expected)));
    let expected = "Checkpoint version 1.4 is too old for virnucpro 4.0: no step leads from 2.0 on to 3.0";
    let partly = versions("4.0").step("1.0", "2.0", rename).unwrap().step("3.0", "4.0", rename).unwrap();
    assert_eq!(at("1.4", partly), Err(gap(expected)));
    let expected = "Checkpoint version 0.9 is too old for virnucpro 2.0: no step leads from 1.0 on to 2.0";
    assert_eq!(at("0.9", versions("2.0")), Err(gap(expected)));
    // Within a major version nothing need be done.
    assert_eq!(
        at("2.0", versions("2.9").step("2.5", "2.7", rename).unwrap()),
        Ok("2.0 to 2.5, 2.5 to 2.7, 2.7 to 2.9".to_owned())
    );
    assert_eq!(at("2.8", versions("2.9").step("2.5", "2.7", rename).unwrap()), Ok(String::new()));
    // From 0.x to 1.0 neither, and the program's own step takes the place of that.
    assert_eq!(at("0.9", versions("2.0").step("1.0", "2.0", rename).unwrap()), Ok("0.9 to 1.0, 1.0 to 2.0".to_owned()));
    assert_eq!(at("0.x", versions("2.0").step("0.x", "2.0", rename).unwrap()), Ok("0.x to 2.0".to_owned()));
    assert_eq!(at("0.9", versions("1.0").step("0.x", "1.0", rename).unwrap()), Ok("0.x to 1.0".to_owned()));
}

#[test]
fn steps_that_cannot_be_are_errors_of_the_program() {
    let step = |versions: Versions, from: &str, to: &str| versions.step(from, to, |_| Ok(()));
    for (from, to) in [("2.0", "2.0"), ("2.0", "1.0"), ("2.0", "3.1"), ("one", "2.0"), ("0.x", "0.x"), ("1.0", "1.0.0")]
    {
        let e = step(versions("3.0"), from, to).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput, "{from} to {to}: {e}");
    }
    for (from, to) in [("1.0", "2.0"), ("1.5", "1.6"), ("0.x", "1.1"), ("1.9", "3.0"), ("0.x", "3.0")] {
        let taken = step(versions("3.0"), "1.0", "2.0").unwrap();
        let e = step(taken, from, to).unwrap_err();
        assert!(e.reason().contains("apply to the same versions"), "{e}");
    }
    let taken = step(versions("3.0"), "1.0", "2.0").unwrap();
    assert!(step(step(taken, "2.0", "3.0").unwrap(), "0.x", "1.0").is_ok());
    for current in ["0.x", "", "latest"] {
        assert!(Versions::new("virnucpro", current).is_err());
    }
}

#[test]
fn the_document_says_the_version_before_the_metadata_does() {
    let room = room();
    let path = room.path().join("both.dolmen");
    let mut b = dictionary("0.5");
    b.metadata("version", "7.0").metadata("status", "complete");
    b.save(&path).unwrap();
    let loaded = versions("1.0").step("0.x", "1.0", |_| Ok(())).unwrap().load(&path).unwrap();
    assert_eq!(loaded.version.to_string(), "0.5");
    assert_eq!(CheckpointInfo::of(&path).status, "complete");
    // Afterwards the two agree.
    assert_eq!(loaded.checkpoint.metadata().unwrap()["version"], "1.0".into());
    assert_eq!(loaded.checkpoint.document().unwrap().unwrap().get("version"), Some(&"1.0".into()));
    // A document that is no dictionary says none.
    let mut b = versioned("0.3");
    b.document(Value::List(vec![Value::tensor("data")]));
    b.save(&path).unwrap();
    assert_eq!(CheckpointInfo::of(&path).version, "0.3");
}

#[test]
fn a_version_that_is_shared_in_the_document_is_found() {
    let room = room();
    let path = room.path().join("shared.dolmen");
    let mut b = Builder::new();
    let shared = Value::Shareable(Box::new("3.0".into()));
    b.document(Value::from(Dict::from([("written by", shared), ("version", Value::SharedRef(0))])));
    b.save(&path).unwrap();
    assert_eq!(CheckpointInfo::of(&path).version, "3.0");
    assert!(versions("2.0").load(&path).is_err());
}

// Skipping.

#[test]
fn skipping_validation_trusts_files_unread() {
    let room = room();
    let path = room.path().join("trusted.dolmen");
    for version in [Value::from("99.0"), Value::from(7), Value::from("nonsense")] {
        versioned(version).save(&path).unwrap();
        let versions = versions("1.0").validator(Validator::new().required_keys(["absent"]));
        let loaded = versions.skip_checkpoint_validation(true).load(&path).unwrap();
        assert_eq!(elements(&loaded.checkpoint, "data"), [1.0, 2.0]);
        assert!(matches!(&loaded.warnings[..], [Warning::Unchecked(_)]), "{:?}", loaded.warnings);
    }
    // Damage to data is found when the data is touched, and not before.
    let mut bytes = versioned("1.0").to_vec().unwrap();
    let at = bytes.windows(8).position(|window| window == [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(versions("1.0").load(&path).unwrap_err().kind, CheckpointErrorKind::Corrupted);
    assert_eq!(versions("1.0").validator(None).load(&path).unwrap_err().kind, CheckpointErrorKind::Corrupted);
    let loaded = versions("1.0").skip_checkpoint_validation(true).load(&path).unwrap();
    assert!(loaded.checkpoint.tensor("data").unwrap().bytes().unwrap_err().is_corruption());
    // What is older is brought up to date all the same.
    versioned("1.0").save(&path).unwrap();
    let versions = versions("2.0").step("1.0", "2.0", |content| content.rename("data", "new")).unwrap();
    assert_eq!(elements(&versions.skip_checkpoint_validation(true).load(&path).unwrap().checkpoint, "new"), [1.0, 2.0]);
}

#[test]
fn what_was_not_finished_is_refused_or_without_validation_told() {
    let room = room();
    let path = room.path().join("unfinished.dolmen");
    let mut b = versioned("1.0");
    b.metadata("status", "in_progress");
    b.save(&path).unwrap();
    let e = versions("1.0").load(&path).unwrap_err();
    assert_eq!((e.kind, e.level), (CheckpointErrorKind::Corrupted, Some(Level::Complete)));
    let loaded = versions("1.0").validator(None).load(&path).unwrap();
    assert_eq!(loaded.warnings, [Warning::InProgress]);
}

// Steps that fail.

#[test]
fn a_step_that_fails_names_itself_and_the_file() {
    let room = room();
    let path = room.path().join("failing.dolmen");
    versioned("1.0").save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let steps: [(Run, &str); 3] = [
        (|content| content.rename("embeddings", "data"), "there is no key \"embeddings\""),
        (|content| content.tensor("ids").map(drop), "tensor \"ids\""),
        (|_| Err(Error::new(ErrorKind::InvalidInput, "not today")), "not today"),
    ];
    for (step, words) in steps {
        let versions = versions("2.0").step("1.0", "2.0", step).unwrap();
        let e = versions.load(&path).unwrap_err();
        assert_eq!((e.kind, &e.path), (CheckpointErrorKind::Incompatible, &path));
        assert!(e.message.starts_with("the step from 1.0 to 2.0 failed: ") && e.message.contains(words), "{e}");
        let UpgradeError::Checkpoint(e) = versions.upgrade(&path).unwrap_err() else { panic!() };
        assert!(e.message.starts_with("the step from 1.0 to 2.0 failed: "), "{e}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(names(&room), ["failing.dolmen"]);
}

#[test]
fn content_that_a_step_leaves_broken_is_an_error_and_not_a_file() {
    let room = room();
    let path = room.path().join("broken.dolmen");
    dictionary("1.0").save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let versions = versions("2.0").step("1.0", "2.0", |content| content.set("data", Value::tensor("gone"))).unwrap();
    assert_eq!(versions.load(&path).unwrap_err().kind, CheckpointErrorKind::Incompatible);
    assert!(matches!(versions.upgrade(&path), Err(UpgradeError::Checkpoint(_))));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

// Content.

/// Tied, transposed and sliced tensors over one storage, and what a file can have besides.
fn intricate() -> Builder<'static> {
    let mut b = Builder::with_options(FileOptions::new().alignment(4096).unwrap().block_len(4096).unwrap());
    let floats: Vec<u8> = (0..12u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let storage = b.storage(floats).unwrap();
    b.view("model.weight", storage, View::new(DType::F32, [3, 4]).unwrap()).unwrap();
    b.view("model.transposed", storage, View::new(DType::F32, [4, 3]).unwrap().strides([1, 4]).unwrap()).unwrap();
    b.view("model.row", storage, View::new(DType::F32, [4]).unwrap().start(16)).unwrap();
    b.alias("tied", "model.weight").unwrap();
    b.tensor("scratch", &[9u8; 100]).unwrap();
    b.tensor("bytes", TensorData::raw(DType::U8, [3], vec![1, 2, 3]).unwrap()).unwrap();
    b.section(0x8000_0001, vec![1, 2, 3]).unwrap();
    b.metadata("version", "1.0").metadata("note", "kept");
    let model =
        Dict::from([("weight", Value::tensor("model.weight")), ("transposed", Value::tensor("model.transposed"))]);
    let mut outer = Dict::of_kind(DictKind::Ordered);
    outer.push("model", model);
    outer.push("scratch", vec![Value::Shareable(Box::new(vec![Value::tensor("scratch")].into()))]);
    outer.push("tied", Value::tensor("tied"));
    let mut object = Object::new(Value::global("my.module", "Config"));
    object.state = Some(Value::List(vec![Value::tensor("model.weight"), Value::SharedRef(0)]));
    outer.push("config", object);
    outer.push("row", Value::tensor("model.row"));
    outer.push("bytes", Value::tensor("bytes"));
    b.document(Value::from(outer));
    b
}

#[test]
fn content_that_is_not_changed_is_the_same_file() {
    let written = intricate().to_checkpoint().unwrap();
    // Copied once, tensors over one storage are in the order of their names.
    let before = Content::of(&written).unwrap().builder().unwrap().to_vec().unwrap();
    let checkpoint = Checkpoint::from_bytes(&before).unwrap();
    let content = Content::of(&checkpoint).unwrap();
    assert!(content.builder().unwrap().to_vec().unwrap() == before);
    assert_eq!(checkpoint.header().block_len(), 4096);
    let made = content.builder().unwrap().to_checkpoint().unwrap();
    assert!(made.verify().unwrap().is_valid());
    // Aligned as the file is: what is borrowed needs no copy.
    assert_eq!(made.tensor("model.weight").unwrap().bytes().unwrap().as_ptr().addr() % 4096, 0);
}

#[test]
fn references_follow_what_is_renamed_and_storages_stay_shared() {
    let file = intricate().to_checkpoint().unwrap();
    let mut content = Content::of(&file).unwrap();
    content.rename("model", "encoder").unwrap();
    content.rename_tensor("tied", "head").unwrap();
    let made = content.builder().unwrap().to_checkpoint().unwrap();
    let tensor_names: Vec<&str> = made.tensors().map(|tensor| tensor.unwrap().name()).collect();
    // "row" is no key beneath "model", though its tensor is named as if.
    assert_eq!(tensor_names, ["bytes", "encoder.transposed", "encoder.weight", "head", "model.row", "scratch"]);
    let storages: Vec<u32> = ["encoder.transposed", "encoder.weight", "head", "model.row"]
        .map(|name| made.tensor(name).unwrap().storage())
        .to_vec();
    assert!(storages.iter().all(|storage| *storage == storages[0]));
    assert_eq!(made.tensor("encoder.transposed").unwrap().explicit_strides(), Some(&[1, 4][..]));
    assert_eq!(elements(&made, "model.row"), [4.0, 5.0, 6.0, 7.0]);
    let document = made.document().unwrap().unwrap();
    let keys: Vec<&str> = document.as_dict().unwrap().entries.iter().map(|(key, _)| key.as_str().unwrap()).collect();
    assert_eq!(keys, ["encoder", "scratch", "tied", "config", "row", "bytes"]);
    assert_eq!(document.tensor_names().filter(|name| *name == "encoder.weight").count(), 2);
    assert_eq!(document.get("tied").unwrap().as_tensor().unwrap().name, "head");
    assert_eq!(made.metadata().unwrap()["note"], "kept".into());
    assert_eq!(made.unknown_sections().next(), Some((0x8000_0001, &[1, 2, 3][..])));
    assert!(made.verify().unwrap().is_valid());
}

#[test]
fn what_is_removed_takes_its_tensors_along_unless_they_are_needed() {
    let file = intricate().to_checkpoint().unwrap();
    let mut content = Content::of(&file).unwrap();
    // Shared with "config", to which it moves; so its tensor stays.
    assert!(content.remove("scratch").unwrap());
    assert!(content.remove("model").unwrap());
    assert!(content.remove("bytes").unwrap());
    assert!(!content.remove("bytes").unwrap());
    let made = content.builder().unwrap().to_checkpoint().unwrap();
    let tensor_names: Vec<&str> = made.tensors().map(|tensor| tensor.unwrap().name()).collect();
    assert_eq!(tensor_names, ["model.row", "model.weight", "scratch", "tied"]);
    let document = made.document().unwrap().unwrap();
    let Some(Value::Object(config)) = document.get("config") else { panic!() };
    let items = config.state.as_ref().unwrap().as_slice().unwrap();
    assert_eq!(items[1], Value::Shareable(Box::new(vec![Value::tensor("scratch")].into())));
    // Without the last that needs it, it goes too.
    assert!(content.remove("config").unwrap());
    let made = content.builder().unwrap().to_checkpoint().unwrap();
    assert_eq!(made.tensors().map(|tensor| tensor.unwrap().name()).collect::<Vec<_>>(), ["model.row", "tied"]);
    assert_eq!(elements(&made, "tied").len(), 12);
    assert_eq!(content.remove_tensor("tied").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn tensors_are_added_read_and_replaced() {
    let file = intricate().to_checkpoint().unwrap();
    let mut content = Content::of(&file).unwrap();
    let doubled: Vec<f32> =
        content.tensor("model.weight").unwrap().to_vec::<f32>().unwrap().iter().map(|x| 2.0 * x).collect();
    content.set_tensor("model.weight", (&doubled, [3, 4])).unwrap();
    // A later step sees what an earlier one has made.
    let again: Vec<f32> =
        content.tensor("model.weight").unwrap().to_vec::<f32>().unwrap().iter().map(|x| x + 1.0).collect();
    content.set_tensor("more", (&again, [2, 6])).unwrap();
    content.set("more", Value::tensor("more")).unwrap();
    let made = content.builder().unwrap().to_checkpoint().unwrap();
    assert_eq!(elements(&made, "model.weight")[5], 10.0);
    assert_eq!(elements(&made, "more")[5], 11.0);
    // What was tied to it is what it was.
    assert_eq!(elements(&made, "tied")[5], 5.0);
    assert!(content.rename("more", "model").is_err() && content.rename_tensor("more", "tied").is_err());
    assert!(content.set("x", Value::SharedRef(0)).is_err());
    assert!(content.tensor("more").is_ok());
}

#[test]
fn keys_of_files_without_a_document_are_tensors_and_metadata() {
    let mut b = Builder::new();
    for name in ["model.a", "model.b", "models", "scratch.0", "scratch"] {
        b.tensor(name, &[1.0f32]).unwrap();
    }
    b.metadata("model", "x").metadata("scratch", 1);
    let file = b.to_checkpoint().unwrap();
    let mut content = Content::of(&file).unwrap();
    content.rename("model", "net").unwrap();
    content.remove("scratch").unwrap();
    content.set("pooling", "mean").unwrap();
    assert_eq!(content.tensor_names().collect::<Vec<_>>(), ["models", "net.a", "net.b"]);
    assert_eq!(content.metadata().keys().collect::<Vec<_>>(), ["net", "pooling"]);
    assert!(content.rename("absent", "x").is_err());
    assert!(content.rename("net", "pooling").is_err());
    // Names may change places, but none may be taken twice.
    content.set_tensor("models.a", &[2.0f32]).unwrap();
    assert!(content.rename("net", "models").is_err());
    assert_eq!(content.tensor_names().collect::<Vec<_>>(), ["models", "models.a", "net.a", "net.b"]);
}

// Upgrading.

fn to_2() -> Versions {
    let step = |content: &mut Content<'_>| {
        content.rename("data", "embeddings")?;
        content.set("pooling", "mean")
    };
    versions("2.0").step("1.0", "2.0", step).unwrap()
}

#[test]
fn an_upgrade_rewrites_the_file_in_its_place_and_format() {
    let room = room();
    let (dolmen, pt) = (room.path().join("a.dolmen"), room.path().join("b.pt"));
    dictionary("1.0").save(&dolmen).unwrap();
    torch_save(&dictionary("1.0"), &pt);
    for (path, format) in [(&dolmen, "dolmen"), (&pt, "torch")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        let upgraded = to_2().upgrade(path).unwrap();
        assert_eq!((upgraded.from.to_string(), upgraded.to.to_string()), ("1.0".to_owned(), "2.0".to_owned()));
        assert_eq!((upgraded.written.as_ref(), upgraded.backup, upgraded.steps.len()), (Some(path), None, 1));
        let new = Checkpoint::open(path).unwrap();
        assert_eq!(new.format(), format);
        assert_eq!(elements(&new, "embeddings"), [1.0, 2.0]);
        let document = new.document().unwrap().unwrap();
        assert_eq!((document.get("version"), document.get("pooling")), (Some(&"2.0".into()), Some(&"mean".into())));
        assert!(new.metadata().unwrap().is_empty() && new.verify().unwrap().is_valid());
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(names(&room), ["a.dolmen", "b.pt"]);
}

#[test]
fn a_file_without_a_version_gets_one_where_its_format_has_a_place() {
    let room = room();
    let (dolmen, pt) = (room.path().join("a.dolmen"), room.path().join("b.pt"));
    let mut b = Builder::new();
    b.tensor("data", &[1.0f32]).unwrap();
    b.save(&dolmen).unwrap();
    torch_save(&b, &pt);
    for path in [&dolmen, &pt] {
        let upgraded = versions("1.0").upgrade(path).unwrap();
        assert_eq!(upgraded.steps[0].to_string(), "0.x to 1.0");
        assert_eq!(CheckpointInfo::of(path).version, "1.0");
        assert_eq!(elements(&Checkpoint::open(path).unwrap(), "data"), [1.0]);
    }
    assert_eq!(Checkpoint::open(&pt).unwrap().document().unwrap().unwrap().get("version"), Some(&"1.0".into()));
    assert_eq!(Checkpoint::open(&dolmen).unwrap().document().unwrap(), None);
}

#[test]
fn where_nothing_is_to_be_done_the_file_is_not_touched() {
    let room = room();
    let path = room.path().join("current.dolmen");
    for version in ["2.0", "2.7"] {
        versioned(version).save(&path).unwrap();
        let before = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap());
        let options = UpgradeOptions::new().backup(true);
        let upgraded = to_2().upgrade_with(&path, &options).unwrap();
        assert!(upgraded.steps.is_empty() && upgraded.written.is_none() && upgraded.backup.is_none());
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((after.ino(), after.mtime_nsec()), (before.1.ino(), before.1.mtime_nsec()));
        assert_eq!(std::fs::read(&path).unwrap(), before.0);
        assert_eq!(names(&room), ["current.dolmen"]);
    }
}

#[test]
fn a_copy_of_the_original_can_be_kept() {
    let room = room();
    let path = room.path().join("x.dolmen");
    versioned("1.0").save(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let original = std::fs::read(&path).unwrap();
    // By a link, the file at its end is what is kept.
    let link = room.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let upgraded = to_2().upgrade_with(&link, &UpgradeOptions::new().backup(true)).unwrap();
    let copy = room.path().canonicalize().unwrap().join("x.dolmen.v1.0.bak");
    assert_eq!(upgraded.backup.as_ref(), Some(&copy));
    assert_eq!(std::fs::read(&copy).unwrap(), original);
    assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o777, 0o640);
    assert_eq!(CheckpointInfo::of(&link).version, "2.0");
    // One that is there already is not replaced, and then nothing is.
    versioned("1.0").save(&path).unwrap();
    let e = to_2().upgrade_with(&path, &UpgradeOptions::new().backup(true)).unwrap_err();
    assert!(e.to_string().contains("there is a file already"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), original);
    assert_eq!(names(&room), ["link", "x.dolmen", "x.dolmen.v1.0.bak"]);
}

/// A crash between the keeping and the rename leaves the original under both names: nothing stands in the way of doing it again.
#[test]
fn an_upgrade_that_was_interrupted_when_the_copy_was_made_can_be_done_again() {
    let room = room();
    let path = room.path().join("x.dolmen");
    versioned("1.0").save(&path).unwrap();
    let original = std::fs::read(&path).unwrap();
    let copy = room.path().join("x.dolmen.v1.0.bak");
    std::fs::hard_link(&path, &copy).unwrap();
    to_2().upgrade_with(&path, &UpgradeOptions::new().backup(true)).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), original);
    assert_eq!(CheckpointInfo::of(&path).version, "2.0");
    assert_eq!(names(&room), ["x.dolmen", "x.dolmen.v1.0.bak"]);
}

#[test]
fn another_output_leaves_the_file_alone() {
    let room = room();
    let (path, output) = (room.path().join("old.dolmen"), room.path().join("new.dolmen"));
    versioned("1.0").save(&path).unwrap();
    let original = std::fs::read(&path).unwrap();
    to_2().upgrade_with(&path, &UpgradeOptions::new().output(&output)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), original);
    assert_eq!(CheckpointInfo::of(&output).version, "2.0");
    let would = to_2().upgrade_with(&path, &UpgradeOptions::new().dry_run(true)).unwrap();
    assert_eq!((would.steps.len(), would.written), (1, None));
    assert_eq!(std::fs::read(&path).unwrap(), original);
}

#[test]
fn a_damaged_original_is_found_and_kept() {
    let room = room();
    let path = room.path().join("damaged.dolmen");
    for torch in [false, true] {
        if torch {
            torch_save(&dictionary("1.0"), &path)
        } else {
            versioned("1.0").save(&path).unwrap()
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|window| window == [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let UpgradeError::Checkpoint(e) = to_2().upgrade_with(&path, &UpgradeOptions::new().backup(true)).unwrap_err()
        else {
            panic!()
        };
        assert_eq!((e.kind, e.exit_code()), (CheckpointErrorKind::Corrupted, 3));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(names(&room), ["damaged.dolmen"]);
    }
}

#[test]
fn formats_that_cannot_hold_the_upgrade_say_what_to_do() {
    let room = room();
    let path = room.path().join("x.safetensors");
    let file = versioned("1.0").to_checkpoint().unwrap();
    let _ = dolmen::foreign::safetensors::save(&file, &path, &SaveOptions::new()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let e = to_2().upgrade(&path).unwrap_err();
    assert!(e.to_string().contains("convert it to .dolmen first"), "{e}");
    assert_eq!((std::fs::read(&path).unwrap(), e.exit_code()), (before, 3));
    // It can be loaded nevertheless.
    assert_eq!(elements(&to_2().load(&path).unwrap().checkpoint, "embeddings"), [1.0, 2.0]);

    // A file of PyTorch has no metadata, and no tensors but those in its document.
    let path = room.path().join("x.pt");
    torch_save(&dictionary("1.0"), &path);
    let before = std::fs::read(&path).unwrap();
    let steps: [Run; 2] = [
        |content| {
            content.metadata_mut().insert("pooling".to_owned(), "mean".into());
            Ok(())
        },
        |content| content.set_tensor("lost", &[1.0f32]),
    ];
    for step in steps {
        let e = versions("2.0").step("1.0", "2.0", step).unwrap().upgrade(&path).unwrap_err();
        assert!(e.to_string().contains("put it into the document"), "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

#[test]
fn an_upgrade_that_fails_anywhere_leaves_the_original() {
    let room = room();
    let path: PathBuf = room.path().join("m.dolmen");
    versioned("1.0").save(&path).unwrap();
    let old = std::fs::read(&path).unwrap();
    let upgrade = |fault| {
        let memory = Memory::new().behave(|b| {
            b.fault = fault;
            b.watched = Some("m.dolmen".into());
        });
        memory.put("m.dolmen", 0o640, &old);
        let options =
            UpgradeOptions::new().output("d/m.dolmen").save(SaveOptions::new().file_system(Arc::new(memory.clone())));
        (to_2().upgrade_with(&path, &options), memory)
    };
    let (result, memory) = upgrade(None);
    result.unwrap();
    let calls = memory.calls().len();
    let new = memory.content("m.dolmen").unwrap();
    assert!(verify_source(&new, &VerifyOptions::default()).unwrap().is_valid());
    assert_ne!(new, old);
    let (mut failed, mut states) = (0, 0);
    for call in 0..calls {
        for (errno, after_effect) in [(5, false), (28, false), (5, true)] {
            let (result, memory) = upgrade(Some(Fault { call, errno, after_effect, forever: false }));
            let content = memory.content("m.dolmen").unwrap();
            match result {
                Ok(_) => assert_eq!(content, new),
                Err(UpgradeError::Save(e)) if e.kind() == ErrorKind::NotDurable => assert_eq!(content, new),
                Err(e) => {
                    failed += 1;
                    assert_eq!(content, old, "{e}");
                    assert_eq!(e.exit_code(), 1, "{e}");
                }
            }
            // At no moment, and after no crash, is there anything but the old or the new.
            for moment in memory.take_moments() {
                for state in moment.after_crash.into_iter().chain([moment.visible]) {
                    states += 1;
                    let state = state.unwrap();
                    assert!(state == old || state == new, "after {:?}", moment.call);
                }
            }
        }
    }
    assert!(failed > 5 && states > 100, "{failed} failures, {states} states");
    assert_eq!(std::fs::read(&path).unwrap(), old);
}

#[test]
fn a_new_file_that_is_not_what_was_written_does_not_replace_the_original() {
    let room = room();
    let path = room.path().join("m.dolmen");
    versioned("1.0").save(&path).unwrap();
    let old = std::fs::read(&path).unwrap();
    let new_len = {
        let output = room.path().join("new.dolmen");
        to_2().upgrade_with(&path, &UpgradeOptions::new().output(&output)).unwrap();
        std::fs::metadata(&output).unwrap().len()
    };
    for at in 0..new_len {
        let memory = Memory::new().behave(|b| b.damages = Some(at));
        memory.put("m.dolmen", 0o640, &old);
        let save = SaveOptions::new().file_system(Arc::new(memory.clone()));
        let e = to_2().upgrade_with(&path, &UpgradeOptions::new().output("d/m.dolmen").save(save)).unwrap_err();
        assert!(matches!(e, UpgradeError::Save(_)) && e.to_string().contains("not what was written"), "{at}: {e}");
        assert_eq!(memory.content("m.dolmen").unwrap(), old);
        assert_eq!(memory.names(), ["m.dolmen"]);
    }
}

// Steps that are declared.

#[test]
fn declared_steps_are_parsed_strictly() {
    let parse = |text: &str| text.parse::<Steps>().map(|steps| steps.version().clone());
    let step = |fields: &str| format!(r#"{{"program": "p", "version": "2.0", "steps": [{{{fields}}}]}}"#);
    assert_eq!(parse(&step(r#""from": "1.0", "to": "2.0""#)).unwrap(), "2".parse::<Version>().unwrap());
    let wrong = [
        ("", "no JSON"),
        ("[]", "not a JSON object"),
        (r#"{"program": "p", "version": "2.0"}"#, "no field \"steps\""),
        (r#"{"program": "p", "version": 2, "steps": []}"#, "not text"),
        (r#"{"program": "p", "version": "0.x", "steps": []}"#, "0.x"),
        (r#"{"program": "p", "version": "2.0", "steps": [], "step": 1}"#, "a field \"step\""),
        (&step(r#""from": "1.0", "to": "2.0", "renames": {}"#), "a field \"renames\""),
        (&step(r#""from": "1.0""#), "no field \"to\""),
        (&step(r#""from": "1.0", "to": "3.0""#), "beyond"),
        (&step(r#""from": "1.0", "to": "2.0", "rename": ["a"]"#), "not an object"),
        (&step(r#""from": "1.0", "to": "2.0", "rename": {"a": 1}"#), "not text"),
        (&step(r#""from": "1.0", "to": "2.0", "remove": "a""#), "not a list"),
        (&step(r#""from": "1.0", "to": "2.0", "set": {"version": "3"}"#), "set by itself"),
        (&step(r#""from": "1.0", "to": "2.0"}, {"from": "1.5", "to": "2.0""#), "the same versions"),
    ];
    for (text, words) in wrong {
        let e = parse(text).unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidInput && e.reason().contains(words), "{text}: {e}");
    }
    let steps: Steps = step(r#""from": "1.0", "to": "2.0""#).parse().unwrap();
    assert!(
        steps.versions(Some(&"1.5".parse().unwrap())).is_err() && steps.versions(Some(&"3".parse().unwrap())).is_err()
    );
    assert!(steps.versions(Some(&"1.0".parse().unwrap())).is_ok());
}

#[cfg(feature = "cli")]
mod command {
    use super::*;
    use common::command::Room;

    const STEPS: &str = r#"{"program": "virnucpro", "version": "2.0", "steps": [{"from": "1.0", "to": "2.0",
        "rename": {"data": "embeddings"}, "remove": ["scratch"], "set": {"pooling": {"kind": "mean", "over": [1, 2.5, null]}}}]}"#;

    #[test]
    fn it_upgrades_by_declared_steps() {
        let room = Room::new();
        room.put("steps.json", STEPS);
        let mut b = dictionary("1.0");
        b.tensor("scratch", &[7u8]).unwrap();
        let mut document = b.document_value().unwrap().clone();
        if let Value::Dict(dict) = &mut document {
            dict.push("scratch", Value::tensor("scratch"));
        }
        b.document(document);
        let pt = room.path("b.pt");
        torch_save(&b, &pt);
        let dolmen = room.save("a.dolmen", &versioned("1.0"));
        let before = room.read("a.dolmen");

        let out = room.run(&["upgrade", "a.dolmen", "b.pt", "--steps", "steps.json", "--dry-run"]);
        assert_eq!(
            out.succeeded(),
            "would be upgraded  a.dolmen  from version 1.0 to 2.0\nwould be upgraded  b.pt  from version 1.0 to 2.0\n"
        );
        assert_eq!(room.read("a.dolmen"), before);

        let ran = room.run(&["upgrade", "a.dolmen", "b.pt", "--steps", "steps.json", "--backup"]);
        assert!(ran.succeeded().contains("the original is kept as "), "{ran:?}");
        assert_eq!(room.read("a.dolmen.v1.0.bak"), before);
        for path in [&dolmen, &pt] {
            let new = Checkpoint::open(path).unwrap();
            assert_eq!((elements(&new, "embeddings"), new.len()), (vec![1.0, 2.0], 1));
        }
        let pooling = Checkpoint::open(&pt).unwrap().document().unwrap().unwrap().get("pooling").cloned().unwrap();
        assert_eq!(pooling.get("over"), Some(&Value::List(vec![1.into(), 2.5.into(), Value::Null])));
        assert_eq!(Checkpoint::open(&dolmen).unwrap().metadata().unwrap()["pooling"].get("kind"), Some(&"mean".into()));

        let out = room.run(&["upgrade", "a.dolmen", "--steps", "steps.json"]);
        assert_eq!(out.succeeded(), "up to date  a.dolmen  version 2.0\n");
        assert_eq!(room.names(), ["a.dolmen", "a.dolmen.v1.0.bak", "b.pt", "b.pt.v1.0.bak", "steps.json"]);
    }

    #[test]
    fn without_steps_it_writes_version_1() {
        let room = Room::new();
        let mut b = Builder::new();
        b.tensor("data", &[1.0f32]).unwrap();
        let path = room.save("a.dolmen", &b);
        let json = room.json(0, &["upgrade", "a.dolmen", "--json"]);
        let (from, to) = ("0.x", "1.0");
        let expected = serde_json::json!([{"path": "a.dolmen", "verdict": "upgraded", "reason": null, "from": from, "to": to,
            "steps": [{"from": from, "to": to}], "written": "a.dolmen", "backup": null, "notes": []}]);
        assert_eq!(json, expected);
        assert_eq!(CheckpointInfo::of(path).version, "1.0");
    }

    #[test]
    fn its_exit_code_tells_whose_fault_it_is() {
        let room = Room::new();
        room.put("steps.json", STEPS);
        room.put("wrong.json", "{}");
        room.save("good.dolmen", &versioned("1.0"));
        room.save("new.dolmen", &versioned("10.0"));
        room.put("empty.dolmen", "");
        let json = room.json(
            3,
            &[
                "upgrade",
                "missing.dolmen",
                "new.dolmen",
                "empty.dolmen",
                "good.dolmen",
                "--steps",
                "steps.json",
                "--json",
            ],
        );
        let verdicts: Vec<&str> =
            json.as_array().unwrap().iter().map(|file| file["verdict"].as_str().unwrap()).collect();
        assert_eq!(verdicts, ["error", "incompatible", "corrupted", "upgraded"]);
        let reason = json[1]["reason"].as_str().unwrap();
        assert_eq!(reason, "Checkpoint version 10.0 requires virnucpro >= 10.0.0 (upgrade required)");
        assert_eq!(room.run(&["upgrade", "missing.dolmen"]).code, 1);
        room.run(&["upgrade", "good.dolmen", "--steps", "missing.json"]).failed(1, &["missing.json"]);
        for args in [
            &["--steps", "wrong.json"][..],
            &["--to", "latest"],
            &["--steps", "steps.json", "--to", "1.5"],
            &["new.dolmen", "--output", "x.dolmen"],
            &["--output", "x.dolmen", "--backup"],
        ] {
            let ran = room.run(&[&["upgrade", "good.dolmen"], args].concat());
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        }
    }

    #[test]
    fn it_writes_elsewhere_if_asked_to() {
        let room = Room::new();
        room.put("steps.json", STEPS);
        room.save("old.dolmen", &versioned("1.0"));
        let before = room.read("old.dolmen");
        room.run(&["upgrade", "old.dolmen", "--steps", "steps.json", "-o", "new.dolmen"]).succeeded();
        assert_eq!(room.read("old.dolmen"), before);
        assert_eq!(CheckpointInfo::of(room.path("new.dolmen")).version, "2.0");
    }
}

// What is lost, said before it is.

/// A `.pt` file in whose archive another program has put a record.
fn with_a_further_record(path: &Path) {
    torch_save(&dictionary("1.0"), path);
    let mut zip =
        zip::ZipWriter::new_append(std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()).unwrap();
    zip.start_file("archive/provenance.json", zip::write::SimpleFileOptions::default()).unwrap();
    std::io::Write::write_all(&mut zip, b"{}").unwrap();
    zip.finish().unwrap();
}

#[test]
fn a_record_that_an_upgrade_would_lose_is_a_reason_not_to() {
    let room = room();
    let path = room.path().join("x.pt");
    with_a_further_record(&path);
    let before = std::fs::read(&path).unwrap();
    assert!(Checkpoint::open(&path).is_ok());
    let e = versions("1.5").upgrade(&path).unwrap_err();
    assert!(e.to_string().contains("\"archive/provenance.json\" would be lost"), "{e}");
    assert_eq!((std::fs::read(&path).unwrap(), e.exit_code()), (before, 3));
    let out = room.path().join("x.dolmen");
    let notes = dolmen::foreign::convert(&path, &out, &dolmen::foreign::ConvertOptions::new()).unwrap();
    assert!(notes.iter().any(|note| note.contains("provenance.json\" is left out")), "{notes:?}");
    torch_save(&dictionary("1.0"), &path);
    versions("1.5").upgrade(&path).unwrap();
}

#[test]
fn a_dry_run_tells_all_that_the_real_one_tells() {
    let room = room();
    let path = room.path().join("x.pt");
    let mut b = Builder::new();
    b.tensor("weight", &[1.0f32, 2.0]).unwrap().tensor("bias", &[1.0f32]).unwrap();
    let entries = [("weight", Value::tensor("weight")), ("bias", Value::tensor("bias"))];
    b.document(Value::from(Dict::from(entries)));
    torch_save(&b, &path);
    let dry = versions("1.0").upgrade_with(&path, &UpgradeOptions::new().dry_run(true)).unwrap();
    assert!(dry.notes.iter().any(|note| note.contains("state dict") && note.contains("\"version\"")), "{dry:?}");
    let real = versions("1.0").upgrade(&path).unwrap();
    assert_eq!(dry.notes, real.notes);
    // What cannot be written is found without writing.
    let alien = |content: &mut Content<'_>| {
        let dtype = DType::from_code(0x9001, 8).unwrap();
        content.set_tensor("weight", TensorData::raw(dtype, [2usize], vec![0; 2])?)
    };
    let versions = versions("2.0").step("1.0", "2.0", alien).unwrap();
    versions.upgrade_with(&path, &UpgradeOptions::new().dry_run(true)).unwrap_err();
}

#[test]
fn an_output_that_is_the_file_itself_or_says_another_format_is_refused() {
    let room = room();
    let path = room.path().join("x.dolmen");
    versioned("1.0").save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let link = room.path().join("link.dolmen");
    std::os::unix::fs::symlink("x.dolmen", &link).unwrap();
    for output in [&path, &room.path().join(".").join("x.dolmen"), &link, &room.path().join("x.pt")] {
        let e = versions("1.5").upgrade_with(&path, &UpgradeOptions::new().output(output)).unwrap_err();
        assert_eq!(e.exit_code(), 1, "{e}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{}", output.display());
    }
    versions("1.5").upgrade_with(&path, &UpgradeOptions::new().output(room.path().join("y.dolmen"))).unwrap();
}

#[test]
fn tied_tensors_follow_the_key_that_they_are_named_after() {
    let tied = || {
        let mut b = Builder::new();
        b.tensor("encoder.w", &[1.0f32, 2.0]).unwrap().alias("decoder.w", "encoder.w").unwrap();
        let encoder = Dict::from([("w", Value::Shareable(Box::new(Value::tensor("encoder.w"))))]);
        let decoder = Dict::from([("w", Value::SharedRef(0))]);
        b.document(Value::from(Dict::from([("encoder", Value::from(encoder)), ("decoder", Value::from(decoder))])));
        b.to_checkpoint().unwrap()
    };
    let names = |change: fn(&mut Content<'_>)| {
        let file = tied();
        let mut content = Content::of(&file).unwrap();
        change(&mut content);
        let made = content.builder().unwrap().to_checkpoint().unwrap();
        made.tensors().map(|tensor| tensor.unwrap().name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(|content| content.rename("decoder", "dec").unwrap()), ["dec.w", "encoder.w"]);
    assert_eq!(names(|content| assert!(content.remove("decoder").unwrap())), ["encoder.w"]);
}

#[test]
fn without_a_document_names_are_taken_as_they_stand() {
    let mut b = Builder::new();
    for name in ["w", "w#old", "w.x", "model.a", "encoder.b"] {
        b.tensor(name, &[1.0f32]).unwrap();
    }
    let file = b.to_checkpoint().unwrap();
    let mut content = Content::of(&file).unwrap();
    assert!(content.remove("w").unwrap());
    assert_eq!(content.tensor_names().collect::<Vec<_>>(), ["encoder.b", "model.a", "w#old"]);
    let e = content.rename("model", "encoder").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert_eq!(content.tensor_names().collect::<Vec<_>>(), ["encoder.b", "model.a", "w#old"]);
}

#[test]
fn a_status_of_the_callers_own_can_be_saved() {
    let room = room();
    let path = room.path().join("x.dolmen");
    let mut b = Builder::new();
    b.tensor("data", &[1.0f32]).unwrap();
    Save::new().status("in_progress").save(&b, &path).unwrap();
    assert_eq!(CheckpointInfo::of(&path).status, "in_progress");
    assert!(Validator::new().validate(&path).is_err());
    assert!(Validator::new().any_status(true).validate(&path).is_ok());
}
