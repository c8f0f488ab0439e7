//! Batches of several workers: what is complete, what is to be done again, and that nothing else is touched.
#![cfg(all(unix, feature = "lifecycle", feature = "torch"))]

use dolmen::commit::file_system::{Directory, FileSystem, OutputFile, Status};
use dolmen::commit::{RealFileSystem, create_directories};
use dolmen::foreign::torch::{self, ExportOptions};
use dolmen::lifecycle::{CheckpointErrorKind, Level, Shard, ShardedBatches, Validator};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, SaveOptions, TensorData};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

mod common;

fn batch(number: u64) -> Builder<'static> {
    let mut b = Builder::new();
    let embeddings = (0..600).flat_map(|i| ((number * 1000 + i) as f32).to_le_bytes()).collect::<Vec<u8>>();
    b.tensor("embeddings", TensorData::raw(DType::F32, [30, 20], embeddings).unwrap()).unwrap();
    b
}

fn shard_of(root: &Path, count: u64) -> Shard {
    let shard = ShardedBatches::new(root).shard(0).unwrap();
    for number in 0..count {
        shard.save(number, &batch(number)).unwrap();
    }
    shard
}

/// What a file is: its bytes, and that nobody has written it again.
type Seen = BTreeMap<PathBuf, (Vec<u8>, i64, i64, u64)>;

fn seen(directory: &Path) -> Seen {
    let look = |path: PathBuf| {
        let m = fs::metadata(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        (path, (bytes, m.mtime(), m.mtime_nsec(), m.ino()))
    };
    fs::read_dir(directory).unwrap().map(|entry| look(entry.unwrap().path())).collect()
}

fn numbers(shard: &Shard, validator: &Validator, total: u64) -> Vec<u64> {
    shard.resume(validator).unwrap().to_do(total).collect()
}

#[test]
fn batches_are_saved_under_their_numbers_and_found_again() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("not/there/yet");
    let batches = ShardedBatches::new(&root);
    assert_eq!(batches.ranks().unwrap(), Vec::<u32>::new());
    assert_eq!(batches.look(3, &Validator::new()).unwrap().next, 0);
    assert!(!root.exists(), "looking creates nothing");

    let shard = batches.shard(3).unwrap();
    let path = shard.save(0, &batch(0)).unwrap();
    assert_eq!(path, root.join("shard_3/batch_00000.dolmen"));
    let mut writer = shard.writer(123_456).unwrap();
    writer.push("embeddings", DType::U8, [3], &[1, 2, 3]).unwrap();
    writer.commit().unwrap();
    assert!(root.join("shard_3/batch_123456.dolmen").exists());

    let state = shard.resume(&Validator::new()).unwrap();
    assert_eq!(state.complete.iter().map(|b| b.number).collect::<Vec<_>>(), [0, 123_456]);
    assert_eq!(state.complete[0].path, path);
    assert_eq!((state.rank, state.next, state.bad.len(), state.strange.len()), (3, 123_457, 0, 0));
    assert_eq!(state.missing, vec![Range { start: 1, end: 123_456 }]);
    assert_eq!(state.to_do(4).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(state.to_do(123_458).count(), 123_456);
    assert!(state.is_complete(1) && !state.is_complete(2));
    drop(batches.shard(10).unwrap());
    fs::create_dir(root.join("shard_007")).unwrap();
    fs::write(root.join("readme"), "").unwrap();
    assert_eq!(batches.ranks().unwrap(), [3, 10]);

    let e = shard.save(1_000_000_000, &batch(0)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
}

#[test]
fn flipped_bit_in_the_middle_is_found_in_full_and_only_that_batch_is_redone() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 7);
    let bad = shard.path(3).unwrap();
    let mut bytes = fs::read(&bad).unwrap();
    let place = batch(3).plan().unwrap().place("embeddings").unwrap();
    bytes[place.start as usize + 700] ^= 0x04;
    fs::write(&bad, &bytes).unwrap();
    let before = seen(shard.directory());

    assert_eq!(numbers(&shard, &Validator::new().quick(true), 7), [0u64; 0], "no data is read in quick mode");
    let state = shard.resume(&Validator::new()).unwrap();
    assert_eq!(state.bad.len(), 1);
    assert_eq!((state.bad[0].number, state.bad[0].error.kind), (3, CheckpointErrorKind::Corrupted));
    assert_eq!(state.bad[0].error.level, Some(Level::Checksums));
    assert_eq!(state.bad[0].error.path, bad);
    assert_eq!(state.complete.len(), 6);
    assert_eq!(state.next, 7);
    let text = state.to_string();
    assert!(text.starts_with("shard 0: 6 batches complete, 1 bad, 0 missing\n  batch 3: corrupted: "), "{text}");

    redo_and_compare(&shard, &Validator::new(), 7, &[3], before);
}

#[test]
fn batch_that_was_cut_off_is_found_in_quick_and_only_that_batch_is_redone() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 5);
    for (number, len) in [(1, 0), (3, 1000)] {
        fs::OpenOptions::new().write(true).open(shard.path(number).unwrap()).unwrap().set_len(len).unwrap();
    }
    let before = seen(shard.directory());
    let quick = Validator::new().quick(true);
    let state = shard.resume(&quick).unwrap();
    assert!(state.bad.iter().all(|bad| bad.error.kind == CheckpointErrorKind::Corrupted));
    redo_and_compare(&shard, &quick, 7, &[1, 3, 5, 6], before);
}

#[test]
fn missing_batch_in_the_middle_is_redone_and_nothing_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 6);
    for number in [0, 2, 3] {
        fs::remove_file(shard.path(number).unwrap()).unwrap();
    }
    let state = shard.resume(&Validator::new()).unwrap();
    assert_eq!(state.missing, [0..1, 2..4]);
    assert_eq!(state.next, 6);
    assert!(state.to_string().ends_with("3 batches complete, 0 bad, 3 missing"), "{state}");
    redo_and_compare(&shard, &Validator::new(), 6, &[0, 2, 3], seen(shard.directory()));
}

/// Does what is to be done; the rest must be untouched, and everything as if nothing had ever been wrong.
fn redo_and_compare(shard: &Shard, validator: &Validator, total: u64, expected: &[u64], before: Seen) {
    let state = shard.resume(validator).unwrap();
    assert_eq!(state.to_do(total).collect::<Vec<_>>(), expected);
    assert!(seen(shard.directory()) == before, "looking changes nothing");
    for number in state.to_do(total) {
        shard.save(number, &batch(number)).unwrap();
    }
    assert_eq!(numbers(shard, &Validator::new(), total), [0u64; 0]);
    let after = seen(shard.directory());
    for (path, was) in &before {
        let is_redone = expected.iter().any(|number| shard.path(*number).unwrap() == *path);
        assert_eq!(after[path] == *was, !is_redone, "{}", path.display());
    }
    for number in 0..total {
        assert_eq!(after[&shard.path(number).unwrap()].0, batch(number).to_vec().unwrap());
    }
}

#[test]
fn incompatible_batch_is_redone_too() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 3);
    let mut other = Builder::new();
    other.tensor("something else", &[1u8]).unwrap();
    shard.save(1, &other).unwrap();
    let state = shard.resume(&Validator::new().required_keys(["embeddings"])).unwrap();
    assert_eq!(state.bad[0].error.kind, CheckpointErrorKind::Incompatible);
    assert_eq!(state.to_do(3).collect::<Vec<_>>(), [1]);
}

#[test]
fn batches_that_the_caller_does_not_want_are_redone() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 4);
    let mut state = shard.resume(&Validator::new()).unwrap();
    let before = seen(shard.directory());
    state.retain(|batch| batch.number != 2);
    assert_eq!(state.to_do(4).collect::<Vec<_>>(), [2]);
    assert!(seen(shard.directory()) == before);
}

#[test]
fn batches_of_the_original_count_if_their_marker_says_that_they_were_finished() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 1);
    let ckpt = Checkpoint::from_bytes(&batch(1).to_vec().unwrap()).unwrap();
    let path = |name: &str| shard.directory().join(name);
    for name in ["batch_00001.pt", "batch_00002.pt", "batch_00003.pt"] {
        let _ = torch::save(&ckpt, path(name), ExportOptions::default(), &SaveOptions::new()).unwrap();
    }
    fs::write(path("batch_00001.pt.done"), "").unwrap();
    fs::write(path("batch_00003.pt.done"), "").unwrap();
    fs::write(path("batch_00003.pt"), "not a checkpoint").unwrap();
    let state = shard.resume(&Validator::new()).unwrap();
    assert_eq!(
        state.complete.iter().map(|b| b.path.clone()).collect::<Vec<_>>(),
        [path("batch_00000.dolmen"), path("batch_00001.pt")]
    );
    assert_eq!(state.bad.iter().map(|bad| bad.number).collect::<Vec<_>>(), [2, 3]);
    assert!(state.bad[0].error.to_string().contains("no .done marker"), "{}", state.bad[0].error);
    assert_eq!(state.bad[0].error.level, Some(Level::Complete));
    assert!(state.strange.is_empty());

    // Done again, they are complete; the bad file beside stays and is still named.
    shard.save(2, &batch(2)).unwrap();
    shard.save(3, &batch(3)).unwrap();
    let state = shard.resume(&Validator::new()).unwrap();
    assert!(state.is_complete(4));
    assert_eq!(state.complete[2].path, path("batch_00002.dolmen"));
    assert_eq!(state.bad.len(), 2);

    // Of two good files it is this crate's that counts.
    shard.save(1, &batch(1)).unwrap();
    assert_eq!(shard.resume(&Validator::new()).unwrap().complete[1].path, path("batch_00001.dolmen"));
}

#[test]
fn strange_names_are_reported_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(shard_of(directory.path(), 2));
    let path = |name: &str| directory.path().join("shard_0").join(name);
    let strange = ["batch_1.dolmen", "batch_000001.dolmen", "batch_x.pt", "batch_00009.pt.done", "notes.txt", "\u{e4}"];
    for name in strange {
        fs::write(path(name), name).unwrap();
    }
    fs::create_dir(path("subdirectory")).unwrap();
    fs::write(path(".batch_00001.dolmen.0123456789abcdef.dolmen-tmp"), "left by a dead worker").unwrap();

    let shard = ShardedBatches::new(directory.path()).shard(0).unwrap();
    assert!(!path(".batch_00001.dolmen.0123456789abcdef.dolmen-tmp").exists(), "swept");
    let live = shard.writer(5).unwrap();
    let state = shard.resume(&Validator::new()).unwrap();
    let mut expected: Vec<_> = strange.iter().chain(&["subdirectory"]).map(|name| path(name)).collect();
    expected.sort();
    assert_eq!(state.strange, expected);
    assert_eq!((state.complete.len(), state.next), (2, 2));
    for name in strange {
        assert_eq!(fs::read(path(name)).unwrap(), name.as_bytes());
    }
    drop(live);
}

#[test]
fn directory_in_the_place_of_a_batch_is_bad() {
    let directory = tempfile::tempdir().unwrap();
    let shard = shard_of(directory.path(), 1);
    fs::create_dir(shard.path(1).unwrap()).unwrap();
    let state = shard.resume(&Validator::new()).unwrap();
    assert_eq!(state.bad[0].number, 1);
    assert_eq!(state.to_do(2).collect::<Vec<_>>(), [1]);
    assert!(shard.save(1, &batch(1)).unwrap_err().to_string().contains("directory"));
}

#[test]
fn many_batches_are_validated_side_by_side_and_come_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let batches =
        ShardedBatches::new(directory.path()).save_options(SaveOptions::new().durability(dolmen::Durability::None));
    let shard = batches.shard(0).unwrap();
    let all: Vec<u64> = (0..300).collect();
    common::in_parallel(&all, |&number| drop(shard.save(number, &batch(number)).unwrap()));
    for number in [17, 100, 299] {
        fs::write(shard.path(number).unwrap(), "").unwrap();
    }
    let state = batches.look(0, &Validator::new()).unwrap();
    assert_eq!(state.complete.len(), 297);
    assert!(state.complete.is_sorted_by_key(|batch| batch.number));
    assert_eq!(state.bad.iter().map(|bad| bad.number).collect::<Vec<_>>(), [17, 100, 299]);
    assert_eq!(state.to_do(301).collect::<Vec<_>>(), [17, 100, 299, 300]);
}

// Two processes.

#[test]
fn child_process_works_on_a_shard() {
    let Some(root) = std::env::var_os("DOLMEN_TEST_PATH") else { return };
    let shard = ShardedBatches::new(root).shard(0).unwrap();
    shard.save(0, &batch(0)).unwrap();
    let _unfinished = shard.writer(1).unwrap();
    println!("\nready");
    io::stdout().flush().unwrap();
    let _ = io::stdin().read(&mut [0]);
}

#[test]
fn second_process_on_a_shard_is_told_and_the_lock_dies_with_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_works_on_a_shard", "--nocapture"])
        .env("DOLMEN_TEST_PATH", directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = BufReader::new(child.stdout.as_mut().unwrap()).lines().any(|line| line.unwrap().ends_with("ready"));
    assert!(ready);

    let batches = ShardedBatches::new(directory.path());
    let e = batches.shard(0).unwrap_err();
    assert!(e.to_string().contains("another worker has this shard: process "), "{e}");
    assert!(e.to_string().contains(&format!("process {} on ", child.id())), "{e}");
    assert_eq!(e.path(), Some(directory.path().join("shard_0/shard.lock").as_path()));
    assert!(e.advice().is_some());
    assert_eq!(batches.look(0, &Validator::new()).unwrap().complete.len(), 1, "looking needs no lock");
    let other = batches.shard(1).unwrap();
    assert!(batches.shard(1).is_err(), "nor does it go twice in one process");
    drop(other);
    drop(batches.shard(1).unwrap());

    child.kill().unwrap();
    child.wait().unwrap();
    let shard = batches.shard(0).unwrap();
    assert_eq!(numbers(&shard, &Validator::new(), 2), [1]);
    let left: Vec<_> = seen(shard.directory()).into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["batch_00000.dolmen", "shard.lock"]);
}

// Directories that are there after a crash.

#[test]
fn directories_are_created_and_their_parents_flushed() {
    #[derive(Debug)]
    struct Watched(Arc<Mutex<Vec<String>>>);
    #[derive(Debug)]
    struct WatchedDirectory(PathBuf, Box<dyn Directory>, Watched);
    impl Watched {
        fn note(&self, what: &str, path: &Path) {
            self.0.lock().unwrap().push(format!("{what} {}", path.display()));
        }
    }
    impl FileSystem for Watched {
        fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
            let open = RealFileSystem.open_directory(path)?;
            Ok(Box::new(WatchedDirectory(path.to_path_buf(), open, Watched(self.0.clone()))))
        }
    }
    impl Directory for WatchedDirectory {
        fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
            self.2.note("create", &self.0.join(name));
            self.1.create_directory(name, mode)
        }
        fn sync(&self) -> io::Result<()> {
            self.2.note("flush", &self.0);
            self.1.sync()
        }
        fn open_directory(&self, _: &Path) -> io::Result<Box<dyn Directory>> {
            unimplemented!()
        }
        fn status(&self, _: &OsStr) -> io::Result<Option<Status>> {
            unimplemented!()
        }
        fn read_link(&self, _: &OsStr) -> io::Result<PathBuf> {
            unimplemented!()
        }
        fn create_new(&self, _: &OsStr, _: u32) -> io::Result<Box<dyn OutputFile>> {
            unimplemented!()
        }
        fn open_or_create(&self, _: &OsStr, _: u32) -> io::Result<Box<dyn OutputFile>> {
            unimplemented!()
        }
        fn open_existing(&self, _: &OsStr) -> io::Result<Box<dyn OutputFile>> {
            unimplemented!()
        }
        fn rename(&self, _: &OsStr, _: &OsStr) -> io::Result<()> {
            unimplemented!()
        }
        fn rename_no_replace(&self, _: &OsStr, _: &OsStr) -> io::Result<()> {
            unimplemented!()
        }
        fn hard_link(&self, _: &OsStr, _: &OsStr) -> io::Result<()> {
            unimplemented!()
        }
        fn remove(&self, _: &OsStr) -> io::Result<()> {
            unimplemented!()
        }
        fn names(&self) -> io::Result<Vec<OsString>> {
            unimplemented!()
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let top = directory.path();
    let log = Arc::new(Mutex::new(Vec::new()));
    let watched = Watched(log.clone());
    create_directories(&watched, top.join("a/b/c")).unwrap();
    let expected: Vec<String> = [("flush", ".."), ("create", "a"), ("flush", ""), ("create", "a/b"), ("flush", "a")]
        .iter()
        .chain(&[("create", "a/b/c"), ("flush", "a/b")])
        .map(|(what, path)| match *path {
            ".." => format!("{what} {}", top.parent().unwrap().display()),
            "" => format!("{what} {}", top.display()),
            path => format!("{what} {}", top.join(path).display()),
        })
        .collect();
    assert_eq!(std::mem::take(&mut *log.lock().unwrap()), expected);
    assert!(top.join("a/b/c").is_dir());

    // What is there already may not be durable yet.
    create_directories(&watched, top.join("a/b")).unwrap();
    assert_eq!(*log.lock().unwrap(), [format!("flush {}", top.join("a").display())]);

    fs::write(top.join("file"), "").unwrap();
    let e = create_directories(&RealFileSystem, top.join("file/x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    create_directories(&RealFileSystem, ".").unwrap();
    assert!(create_directories(&RealFileSystem, "").is_err());
}

/// What an automounter provides is in a directory that cannot be flushed; the process's own entry in `/proc` is one as well.
#[cfg(target_os = "linux")]
#[test]
fn directory_that_is_there_is_used_also_where_the_one_above_it_cannot_be_flushed() {
    create_directories(&RealFileSystem, "/proc/self/cwd").unwrap();
}
