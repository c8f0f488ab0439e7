//! Compatibility for ever: files that releases wrote, frozen in `tests/compat/`, are read by this one, and say what they said.
#![cfg(all(
    unix,
    feature = "mmap",
    feature = "torch",
    feature = "safetensors",
    feature = "lifecycle",
    feature = "feature"
))]

mod common;
#[path = "compat/contents.rs"]
mod contents;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::json::{self, Json};
use common::{logical_bytes, sha256};
use dolmen::lifecycle::{FailedLog, Pipeline, PipelineState, ResumeOptions, Stage};
use dolmen::{Checkpoint, Result};

/// Each release, oldest first, and the SHA-256 of its list of checksums. A line that stands here is never changed.
const RELEASES: &[(&str, &str)] = &[("0.1.0", "8c89c018abb5103d2b873725397570b552f95891c879a86cb411a9890eaa77f6")];

const SUMS: &str = "SHA256SUMS";

fn folder(release: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat").join(release)
}

/// The files of a folder but for the list of checksums, by name.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name != SUMS).collect()
}

/// Checksum and name of each file, as `sha256sum` writes it.
fn sums(folder: &Path) -> String {
    let line = |name: &String| format!("{}  {name}\n", sha256::hex(&fs::read(folder.join(name)).unwrap()));
    names(folder).iter().map(line).collect()
}

fn is_meaning(name: &str) -> bool {
    name.ends_with(".json") && name != "pipeline_state.json"
}

fn text(text: impl Into<String>) -> Json {
    Json::Text(text.into())
}

fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    Json::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn numbers(numbers: &[u64]) -> Json {
    Json::Array(numbers.iter().map(|&n| Json::Int(n.into())).collect())
}

/// All that a checkpoint says.
fn meaning(checkpoint: &Checkpoint) -> Json {
    let tensors = checkpoint.tensors().map(|tensor| {
        let tensor = tensor.unwrap();
        object([
            ("name", text(tensor.name())),
            ("dtype", text(tensor.dtype().to_string())),
            ("bits", Json::Int(tensor.dtype().bits().into())),
            ("shape", numbers(tensor.shape())),
            ("strides", numbers(&tensor.strides())),
            ("storage", Json::Int(tensor.storage().into())),
            ("start", Json::Int(tensor.start().into())),
            ("byte_len", Json::Int(tensor.byte_len().into())),
            ("crc32", optional(tensor.storage_crc32().unwrap().map(|crc| format!("{crc:08x}")).as_deref())),
            ("sha256", text(sha256::hex(&logical_bytes(&tensor, usize::MAX).unwrap().unwrap()))),
        ])
    });
    let sections = checkpoint.unknown_sections().map(|(kind, bytes)| (format!("{kind:08x}"), text(sha256::hex(bytes))));
    object([
        ("format", text(checkpoint.format())),
        ("format_version", text(checkpoint.format_version())),
        ("tensors", Json::Array(tensors.collect())),
        ("sections", Json::Object(sections.collect())),
        ("metadata", json::map(&checkpoint.metadata().unwrap())),
        ("document", checkpoint.document().unwrap().as_ref().map_or(Json::Null, json::render)),
    ])
}

fn optional(value: Option<&str>) -> Json {
    value.map_or(Json::Null, text)
}

fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Json {
    Json::Array(items.into_iter().map(text).collect())
}

fn meaning_of_state(path: &Path) -> Json {
    let state = PipelineState::read(path).unwrap();
    let stages = state.stages().map(|stage| {
        object([
            ("name", text(&stage.name)),
            ("status", text(stage.status.name())),
            ("started_at", optional(stage.started_at.as_deref())),
            ("completed_at", optional(stage.completed_at.as_deref())),
            ("failed_at", optional(stage.failed_at.as_deref())),
            ("error", optional(stage.error.as_deref())),
            ("inputs", texts(stage.inputs)),
            ("outputs", texts(stage.outputs)),
        ])
    });
    object([
        ("config_hash", optional(state.config_hash())),
        ("created_at", optional(state.created_at())),
        ("updated_at", optional(state.updated_at())),
        ("stages", Json::Array(stages.collect())),
    ])
}

fn meaning_of_log(directory: &Path) -> Json {
    let found = FailedLog::in_directory(directory).read().unwrap();
    assert_eq!((found.malformed, found.unread_bytes), (0, 0));
    let entry = |path: &str, reason: &str, time: &str| {
        object([("path", text(path)), ("reason", text(reason)), ("time", text(time))])
    };
    Json::Array(found.entries.iter().map(|e| entry(e.path.to_str().unwrap(), &e.reason, &e.time)).collect())
}

/// A file, opened in each way there is.
fn opened(path: &Path) -> [(&'static str, Result<Checkpoint>); 4] {
    [
        ("from_bytes", Checkpoint::from_bytes(&fs::read(path).unwrap())),
        ("open", Checkpoint::open(path)),
        ("open_on_demand", Checkpoint::open_on_demand(path)),
        // SAFETY: nobody writes to frozen files, nor to those of a test's own directory.
        ("map", unsafe { Checkpoint::map(path) }),
    ]
}

/// What a file says, the same in each way of reading it.
fn read(path: &Path) -> Json {
    match path.file_name().unwrap().to_str().unwrap() {
        "pipeline_state.json" => return meaning_of_state(path),
        "failed_checkpoints.txt" => return meaning_of_log(path.parent().unwrap()),
        _ => {}
    }
    let [first, rest @ ..] = opened(path).map(|(way, checkpoint)| {
        let checkpoint = checkpoint.unwrap_or_else(|e| panic!("{} by {way}: {e}", path.display()));
        let report = checkpoint.verify().unwrap();
        assert!(report.is_valid(), "{} by {way}: {:?}", path.display(), report.problems);
        meaning(&checkpoint)
    });
    for other in rest {
        assert_eq!(first, other, "{}: not the same in each way of opening", path.display());
    }
    first
}

/// JSON, a line for each tensor, so that a difference is seen.
fn print(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Int(value) => value.to_string(),
        Json::Float(bits) => format!("{:?}", f64::from_bits(*bits)),
        Json::Text(text) => quoted(text),
        Json::Array(items) if items.iter().any(|item| matches!(item, Json::Object(_))) => {
            format!("[\n{}\n]", items.iter().map(print).collect::<Vec<_>>().join(",\n"))
        }
        Json::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(", ")),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{}: {}", quoted(key), print(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Asserts that frozen files are as they were: their bytes by the list of checksums, and that by what is pinned here.
fn check_frozen(folder: &Path, pinned: &str) -> Result<(), String> {
    let list = fs::read_to_string(folder.join(SUMS)).map_err(|e| format!("{SUMS}: {e}"))?;
    if sha256::hex(list.as_bytes()) != pinned {
        return Err(format!("{SUMS} was changed"));
    }
    let found = sums(folder);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    match lines(&list).symmetric_difference(&lines(&found)).next() {
        None => Ok(()),
        Some(line) => Err(format!("changed, added or removed: {line}")),
    }
}

/// Asserts that a folder's files say what is written beside them; gives their number.
fn check_meaning(folder: &Path) -> Result<usize, String> {
    let names = names(folder);
    let files: Vec<_> = names.iter().filter(|name| !is_meaning(name)).collect();
    for &name in &files {
        let expected = fs::read_to_string(folder.join(format!("{name}.json"))).map_err(|e| format!("{name}: {e}"))?;
        let found = read(&folder.join(name));
        if json::parse(&expected) != found {
            return Err(format!("{name} says\n{}\nand not\n{expected}", print(&found)));
        }
    }
    Ok(files.len())
}

#[test]
fn frozen_files_are_as_they_were_and_say_what_they_said() {
    for &(release, pinned) in RELEASES {
        check_frozen(&folder(release), pinned).unwrap_or_else(|e| panic!("{release}: {e}"));
        let files = check_meaning(&folder(release)).unwrap_or_else(|e| panic!("{release}: {e}"));
        assert!(files >= 16, "{release}: only {files} files");
    }
    let known: BTreeSet<_> = RELEASES.iter().map(|(release, _)| (*release).to_owned()).collect();
    let there = fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let there = there.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), known, "a release is not pinned, or its folder is gone");
}

#[test]
fn a_frozen_file_that_changes_in_bytes_or_meaning_is_told() {
    let (release, pinned) = RELEASES[0];
    let room = tempfile::tempdir().unwrap();
    let copy = |file: &str| {
        fs::copy(folder(release).join(file), room.path().join(file)).unwrap();
    };
    let everything = || names(&folder(release)).iter().map(String::as_str).chain([SUMS]).for_each(&copy);
    everything();
    check_frozen(room.path(), pinned).unwrap();

    for name in names(room.path()) {
        let path = room.path().join(&name);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let told = check_frozen(room.path(), pinned).unwrap_err();
        assert!(told.contains(&name), "{told}");
        // To note the new checksum does not help.
        fs::write(room.path().join(SUMS), sums(room.path())).unwrap();
        assert!(check_frozen(room.path(), pinned).unwrap_err().contains("was changed"));
        everything();
    }
    fs::write(room.path().join("more"), "").unwrap();
    assert!(check_frozen(room.path(), pinned).is_err());
    fs::remove_file(room.path().join("more")).unwrap();
    fs::remove_file(room.path().join("empty.dolmen")).unwrap();
    assert!(check_frozen(room.path(), pinned).is_err());

    // A reader that finds something else in a file: here, because another file stands there.
    everything();
    fs::copy(room.path().join("saved.dolmen"), room.path().join("state_dict.dolmen")).unwrap();
    let told = check_meaning(room.path()).unwrap_err();
    assert!(told.starts_with("state_dict.dolmen says"), "{told}");
}

#[test]
fn what_the_newest_release_wrote_is_still_written_byte_for_byte() {
    let (newest, _) = RELEASES[RELEASES.len() - 1];
    let room = tempfile::tempdir().unwrap();
    contents::write_into(room.path());
    let written = names(room.path());
    assert!(written.len() >= 14, "{written:?}");
    for name in written {
        let (then, now) = (fs::read(folder(newest).join(&name)).unwrap(), fs::read(room.path().join(&name)).unwrap());
        let differ = then.iter().zip(&now).position(|(then, now)| then != now);
        assert!(then == now, "{name}: {} bytes then, {} now; they differ first at {differ:?}", then.len(), now.len());
    }
}

#[test]
fn frozen_state_of_a_pipeline_is_resumed() {
    for &(release, _) in RELEASES {
        let room = tempfile::tempdir().unwrap();
        for name in ["pipeline_state.json", "failed_checkpoints.txt"] {
            fs::copy(folder(release).join(name), room.path().join(name)).unwrap();
        }
        // The outputs are made anew, with the bytes that they had.
        make_outputs(room.path());
        let run = pipeline(room.path()).resume(&ResumeOptions::new()).unwrap();
        assert_eq!(run.next_stage(), Some("PREDICTION"), "{release}");
    }
}

/// The pipeline whose state is frozen. Its last stage failed.
fn pipeline(directory: &Path) -> Pipeline {
    Pipeline::new(directory)
        .config("expected_length", 500)
        .stage(Stage::new("CHUNKING").output("chunks.fa"))
        .stage(Stage::new("FEATURES").input("chunks.fa").checkpoint("features.dolmen"))
        .stage(Stage::new("PREDICTION").input("features.dolmen").output("prediction.txt"))
}

fn make_outputs(directory: &Path) {
    fs::write(directory.join("chunks.fa"), ">a\nACGT\n").unwrap();
    let mut b = dolmen::Builder::new();
    b.tensor("data", &[1.0f32, 2.0]).unwrap();
    b.save(directory.join("features.dolmen")).unwrap();
}

/// Runs that pipeline into its failure, and remembers two failed checkpoints.
fn write_state(directory: &Path) {
    let mut run = pipeline(directory).resume(&ResumeOptions::new()).unwrap();
    let failed = run.run_all(|stage| match stage.name() {
        "PREDICTION" => Err("no model"),
        _ => {
            make_outputs(directory);
            Ok(())
        }
    });
    assert!(failed.is_err());
    let log = FailedLog::in_directory(directory);
    log.append(&dolmen::lifecycle::CheckpointError::new(
        "features/batch|3.dolmen",
        dolmen::lifecycle::CheckpointErrorKind::Corrupted,
        "file is 0 bytes",
    ))
    .unwrap();
}

#[test]
#[ignore = "writes the files of a release, once"]
fn freeze() {
    let release = env!("CARGO_PKG_VERSION");
    let folder = folder(release);
    fs::create_dir(&folder).expect("what is frozen is not frozen again");
    contents::write_into(&folder);
    let room = tempfile::tempdir().unwrap();
    write_state(room.path());
    for name in ["pipeline_state.json", "failed_checkpoints.txt"] {
        fs::copy(room.path().join(name), folder.join(name)).unwrap();
    }
    let meanings: BTreeMap<_, _> =
        names(&folder).into_iter().map(|name| (name.clone(), read(&folder.join(name)))).collect();
    for (name, meaning) in meanings {
        fs::write(folder.join(format!("{name}.json")), print(&meaning) + "\n").unwrap();
    }
    let list = sums(&folder);
    fs::write(folder.join(SUMS), &list).unwrap();
    println!("(\"{release}\", \"{}\")", sha256::hex(list.as_bytes()));
}
