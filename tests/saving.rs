//! Saving checkpoints through the commit room: what fails leaves the old file, what succeeds is the new one, and a streaming writer
//! never commits what is not whole.
#![cfg(all(unix, feature = "fs", feature = "mmap"))]

mod common;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::memory::{Call, DIRECTORY, Fault, Memory};
use dolmen::commit::RealFileSystem;
use dolmen::commit::file_system::{Directory, FileSystem, OutputFile, Status};
use dolmen::format::value::Value;
use dolmen::{
    Builder, Checkpoint, DType, Durability, Error, ErrorKind, FileOptions, SaveOptions, TensorData, View, Writer,
};

const NAME: &str = "m.dolmen";
const TARGET: &str = "d/m.dolmen";

fn small() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap()
}

/// A file whose content tells which one it is.
fn builder(content: &u32) -> Builder<'_> {
    let mut b = Builder::with_options(small());
    b.tensor("content", std::slice::from_ref(content)).unwrap();
    b.tensor("weights", TensorData::raw(DType::U8, [10_000], vec![*content as u8; 10_000]).unwrap()).unwrap();
    b.alias("tied", "weights").unwrap();
    b
}

fn bytes(content: u32) -> Vec<u8> {
    builder(&content).to_vec().unwrap()
}

/// The same, by a streaming writer: the same bytes.
fn stream(path: &Path, content: u32, save: &SaveOptions) -> dolmen::Result<()> {
    let mut w = Writer::create_with(path, small(), save)?;
    w.tensor("content", &[content])?;
    let mut rows = w.begin_rows("weights", DType::U8, ())?;
    for _ in 0..10 {
        rows.write_bytes(&[content as u8; 1000])?;
    }
    rows.finish()?;
    w.alias("tied", "weights")?;
    w.commit()
}

fn content_of(opened: &Checkpoint) -> u32 {
    assert!(opened.verify().unwrap().is_valid());
    let content = opened.tensor("content").unwrap().as_slice::<u32>().unwrap()[0];
    assert_eq!(opened.tensor("tied").unwrap().as_slice::<u8>().unwrap(), vec![content as u8; 10_000]);
    content
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

/// A way of saving.
type Save = fn(&Path, u32, &SaveOptions) -> dolmen::Result<()>;

const WAYS: [(&str, Save); 2] =
    [("Builder", |path, content, save| builder(&content).save_with(path, save)), ("Writer", stream)];

// --- A file system that writes something else than it was given --------------------------------------------------------------

/// Which written byte is changed: counted over all writes.
#[derive(Debug)]
struct Flip {
    byte: usize,
    written: AtomicUsize,
}

#[derive(Debug)]
struct Faulty(Arc<Flip>);

#[derive(Debug)]
struct FaultyDirectory(Box<dyn Directory>, Arc<Flip>);

#[derive(Debug)]
struct FaultyFile(Box<dyn OutputFile>, Arc<Flip>);

impl FileSystem for Faulty {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(FaultyDirectory(RealFileSystem.open_directory(path)?, self.0.clone())))
    }
}

impl Directory for FaultyDirectory {
    fn open_directory(&self, path: &Path) -> io::Result<Box<dyn Directory>> {
        Ok(Box::new(FaultyDirectory(self.0.open_directory(path)?, self.1.clone())))
    }
    fn status(&self, name: &OsStr) -> io::Result<Option<Status>> {
        self.0.status(name)
    }
    fn read_link(&self, name: &OsStr) -> io::Result<PathBuf> {
        self.0.read_link(name)
    }
    fn create_new(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        Ok(Box::new(FaultyFile(self.0.create_new(name, mode)?, self.1.clone())))
    }
    fn open_or_create(&self, name: &OsStr, mode: u32) -> io::Result<Box<dyn OutputFile>> {
        Ok(Box::new(FaultyFile(self.0.open_or_create(name, mode)?, self.1.clone())))
    }
    fn create_directory(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        self.0.create_directory(name, mode)
    }
    fn open_existing(&self, name: &OsStr) -> io::Result<Box<dyn OutputFile>> {
        self.0.open_existing(name)
    }
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn rename_no_replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.0.rename_no_replace(from, to)
    }
    fn hard_link(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.0.hard_link(from, to)
    }
    fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.0.remove(name)
    }
    fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        self.0.names()
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

impl OutputFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let before = self.1.written.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut bytes = bytes.to_vec();
        if let Some(byte) = self.1.byte.checked_sub(before).and_then(|within| bytes.get_mut(within)) {
            *byte ^= 0x20;
        }
        self.0.write_at(&bytes, offset)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn status(&self) -> io::Result<Status> {
        self.0.status()
    }
    fn set_len(&self, byte_len: u64) -> io::Result<()> {
        self.0.set_len(byte_len)
    }
    fn preallocate(&self, byte_len: u64) -> io::Result<()> {
        self.0.preallocate(byte_len)
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.0.set_mode(mode)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

#[test]
fn validation_finds_what_was_written_wrong_and_the_old_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    builder(&1).save_with(&path, &quickly()).unwrap();
    let len = bytes(2).len();
    for (way, save) in WAYS {
        for byte in (0..len).step_by(97).chain([0, 63, 64, len - 65, len - 64, len - 1]) {
            let flip = Arc::new(Flip { byte, written: AtomicUsize::new(0) });
            let options = quickly().file_system(Arc::new(Faulty(flip.clone())));
            let e = save(&path, 2, &options.clone().validate(true)).unwrap_err();
            assert!(e.is_corruption(), "{way}, byte {byte}: {e}");
            assert_eq!((e.path(), e.rule().is_some()), (Some(path.as_path()), true), "{way}, byte {byte}: {e}");
            assert!(e.advice().is_some(), "{e}");
            assert!(flip.written.load(Ordering::Relaxed) > byte);
            assert_eq!(content_of(&Checkpoint::open(&path).unwrap()), 1, "{way}, byte {byte}");
            assert_eq!(names(dir.path()), [NAME], "{way}, byte {byte}");
        }
        // Without validation nobody looks. That is what the option is for.
        let flip = Arc::new(Flip { byte: len / 2, written: AtomicUsize::new(0) });
        save(&path, 2, &quickly().file_system(Arc::new(Faulty(flip)))).unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap_err().rule(), Some("BLK-1"), "{way}");
        save(&path, 1, &quickly().validate(true)).unwrap();
    }
}

#[test]
fn a_validator_of_the_caller_decides_too() {
    fn refuses(_: &dyn dolmen::ReadAt) -> dolmen::Result<()> {
        Err(Error::new(ErrorKind::Limit, "not today"))
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    for (way, save) in WAYS {
        let e = save(&path, 2, &quickly().validator(Some(std::sync::Arc::new(refuses)))).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::Limit, Some(path.as_path())), "{way}");
        assert_eq!(names(dir.path()), [""; 0], "{way}");
    }
}

// --- Steps that fail -----------------------------------------------------------------------------------------------------------

fn memory() -> Memory {
    let memory = Memory::new().behave(|b| b.watched = Some(NAME.into()));
    memory.put(NAME, 0o640, &bytes(1));
    memory
}

#[test]
fn every_step_that_fails_leaves_the_old_file_or_the_new_one_and_says_which() {
    let (old, new) = (Some(bytes(1)), Some(bytes(2)));
    for (way, save) in WAYS {
        for durability in [Durability::Full, Durability::None] {
            let options = |memory: &Memory| {
                SaveOptions::new().durability(durability).validate(true).file_system(Arc::new(memory.clone()))
            };
            let clean = memory();
            save(TARGET.as_ref(), 2, &options(&clean)).unwrap();
            assert!(clean.content(NAME) == new, "{way}");
            let calls = clean.calls();
            assert!(calls.iter().any(|call| matches!(call, Call::Rename(..))));
            let synced = calls.iter().filter(|call| matches!(call, Call::SyncFile(_) | Call::SyncDirectory)).count();
            assert_eq!(synced, if durability == Durability::Full { 2 } else { 0 }, "{way}");
            let mut not_durable = 0;
            for call in 0..calls.len() {
                for (errno, after_effect, forever) in [(5, false, false), (28, false, true), (5, true, false)] {
                    let memory = memory().behave(|b| b.fault = Some(Fault { call, errno, after_effect, forever }));
                    let result = save(TARGET.as_ref(), 2, &options(&memory));
                    let context = format!("{way}, {durability:?}: {:?} failing gave {result:?}", memory.failed());
                    let in_place = match &result {
                        Ok(()) => true,
                        Err(e) => {
                            assert_eq!(e.path(), Some(Path::new(TARGET)), "{context}");
                            not_durable += usize::from(e.kind() == ErrorKind::NotDurable);
                            e.kind() == ErrorKind::NotDurable
                        }
                    };
                    assert!(memory.content(NAME) == *if in_place { &new } else { &old }, "{context}");
                    for moment in memory.take_moments() {
                        assert!(moment.visible == old || moment.visible == new, "{context}: after {:?}", moment.call);
                        if durability == Durability::Full {
                            let bad = moment.after_crash.iter().find(|c| **c != old && **c != new);
                            assert!(bad.is_none(), "{context}: a crash after {:?}", moment.call);
                        }
                    }
                    if result.is_ok() && durability == Durability::Full {
                        assert!(memory.after_crash(NAME).iter().all(|c| *c == new), "{context}");
                    }
                    for name in memory.names() {
                        let left = name != NAME && !memory.failed().contains(&Call::Remove(name.clone()));
                        assert!(!left, "{context}: left {name:?}");
                    }
                }
            }
            // By a flush of the directory that failed, or a rename that had its effect and failed nevertheless.
            assert!(not_durable > 0, "{way}");
        }
    }
}

#[test]
fn a_full_disk_is_known_before_anything_is_written() {
    let clean = memory();
    let options = |memory: &Memory| quickly().file_system(Arc::new(memory.clone()));
    builder(&2).save_with(TARGET, &options(&clean)).unwrap();
    let call = clean.calls().iter().position(|call| matches!(call, Call::Preallocate(_))).unwrap();
    let no_space = rustix::io::Errno::NOSPC.raw_os_error();
    let full =
        memory().behave(|b| b.fault = Some(Fault { call, errno: no_space, after_effect: false, forever: false }));
    let e = builder(&2).save_with(TARGET, &options(&full)).unwrap_err();
    assert_eq!(e.io_error().unwrap().kind(), io::ErrorKind::StorageFull);
    assert!(!full.calls().iter().any(|call| matches!(call, Call::Write(_))));
    assert!(full.content(NAME) == Some(bytes(1)));
    assert_eq!(full.names(), [NAME]);
    assert_eq!(DIRECTORY, "d");
}

// --- Options -------------------------------------------------------------------------------------------------------------------

#[test]
fn saving_over_a_mapped_file_is_safe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    for (way, save) in WAYS {
        save(&path, 1, &quickly()).unwrap();
        // SAFETY: from here on the file is only ever replaced by renaming another one over it.
        let old = unsafe { Checkpoint::map(&path) }.unwrap();
        let on_demand = Checkpoint::open_on_demand(&path).unwrap();
        save(&path, 2, &quickly()).unwrap();
        assert_eq!(content_of(&Checkpoint::open(&path).unwrap()), 2, "{way}");
        // Not touched before now, so verified only now.
        assert_eq!((content_of(&old), content_of(&on_demand)), (1, 1), "{way}");
        // Even a copy of itself.
        // SAFETY: as above.
        let itself = unsafe { Checkpoint::map(&path) }.unwrap();
        let mut b = Builder::with_options(small());
        b.checkpoint(&itself).unwrap();
        b.metadata("copied", true);
        b.save_with(&path, &quickly().validate(true)).unwrap();
        let copy = Checkpoint::open(&path).unwrap();
        assert_eq!((content_of(&copy), content_of(&itself)), (2, 2), "{way}");
        assert_eq!(copy.metadata().unwrap()["copied"], Value::from(true));
        assert!(itself.metadata().unwrap().is_empty());
        assert_eq!(names(dir.path()), [NAME]);
    }
}

#[test]
fn a_new_file_is_created_only_where_there_is_none_if_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    for (way, save) in WAYS {
        save(&path, 1, &quickly().create_new(true)).unwrap();
        let e = save(&path, 2, &quickly().create_new(true)).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::InvalidInput, Some(path.as_path())), "{way}");
        assert_eq!(content_of(&Checkpoint::open(&path).unwrap()), 1, "{way}");
        assert_eq!(names(dir.path()), [NAME], "{way}");
        std::fs::remove_file(&path).unwrap();
    }
    // One that appears while this is written counts as well.
    let mut w = Writer::create_with(&path, small(), &quickly().create_new(true)).unwrap();
    w.tensor("t", &[1u8]).unwrap();
    std::fs::write(&path, b"somebody else's").unwrap();
    assert_eq!(w.commit().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
    assert_eq!(names(dir.path()), [NAME]);
}

#[test]
fn both_durabilities_save_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    for (_, save) in WAYS {
        for durability in [Durability::Full, Durability::None] {
            save(&path, 3, &SaveOptions::new().durability(durability)).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes(3));
        }
    }
}

#[test]
fn where_no_file_can_be_saved_the_error_names_the_path() {
    let dir = tempfile::tempdir().unwrap();
    for (way, save) in WAYS {
        for path in [dir.path().join("no such directory").join(NAME), dir.path().to_path_buf()] {
            let e = save(&path, 1, &quickly()).unwrap_err();
            assert_eq!(e.path(), Some(path.as_path()), "{way}: {e}");
            assert!(matches!(e.kind(), ErrorKind::Io | ErrorKind::InvalidInput), "{way}: {e}");
        }
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

// --- The builder refuses what cannot be written ----------------------------------------------------------------------------------

#[test]
fn a_builder_refuses_a_tensor_that_cannot_be_when_it_is_added() {
    let raw = |dtype, shape: &[u64], len: usize| TensorData::raw(dtype, shape, vec![0; len]).unwrap();
    let strided = |dtype, shape: &[u64], strides: &[u64], len: usize| {
        TensorData::strided(dtype, shape, strides, vec![0; len]).unwrap()
    };
    let mut b = Builder::new();
    b.tensor("there", &[1u8]).unwrap();
    let refused = [
        ("there", raw(DType::U8, &[1], 1)),
        ("short", raw(DType::F32, &[3], 11)),
        ("long", raw(DType::F32, &[3], 13)),
        ("packed", raw(DType::U4, &[3], 3)),
        ("overflow", raw(DType::U8, &[1 << 40, 1 << 40, 0], 0)),
        ("overflow", raw(DType::F64, &[1 << 61], 0)),
        ("beyond", strided(DType::U8, &[3, 2], &[1, 3], 5)),
        ("strides", strided(DType::U8, &[3, 2], &[1], 6)),
        ("strides", strided(DType::U4, &[3, 2], &[1, 3], 3)),
        ("strides", strided(DType::U8, &[3, 2], &[u64::MAX, 1], 6)),
        ("no bits", raw(DType::Opaque { bits: 0 }, &[0], 0)),
        ("another's code", raw(DType::Unknown { code: 0x10, bits: 8 }, &[1], 1)),
        ("no code", raw(DType::Unknown { code: 0, bits: 8 }, &[1], 1)),
    ];
    for (name, tensor) in refused {
        let shown = format!("{tensor:?}");
        let e = b.tensor(name, tensor).unwrap_err();
        assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some(name)), "{shown}");
    }
    assert_eq!(TensorData::raw(DType::U8, [-1i64], vec![]).unwrap_err().kind(), ErrorKind::InvalidInput);
    let storage = b.storage(vec![0; 16]).unwrap();
    for (what, view) in [
        ("start", View::new(DType::F32, [1u64]).unwrap().start(2)),
        ("end", View::new(DType::F32, [4u64]).unwrap().start(4)),
        ("end", View::new(DType::F32, [0u64]).unwrap().start(20)),
        ("overflow", View::new(DType::U8, [1u64]).unwrap().start(u64::MAX)),
    ] {
        assert_eq!(b.view("v", storage, view).unwrap_err().kind(), ErrorKind::InvalidInput, "{what}");
    }
    assert_eq!(b.alias("a", "nobody").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(b.storage_of("nobody").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(b.section(0x7FFF_FFFF, vec![]).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(b.to_vec().unwrap_err().kind(), ErrorKind::InvalidInput, "the storage has no tensor");
    b.view("v", storage, View::new(DType::F32, [3u64]).unwrap().start(4)).unwrap();
    // What was refused has left no trace.
    let opened = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    assert_eq!(opened.tensors().map(|t| t.unwrap().name()).collect::<Vec<_>>(), ["there", "v"]);
    b.document(Value::tensor("nobody"));
    let e = b.to_vec().unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("nobody")));
}

#[test]
fn bools_and_unused_bits_that_are_not_clean_are_refused_by_every_way_of_writing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    for (dtype, shape, bytes) in
        [(DType::Bool, 3, vec![0, 2, 1]), (DType::U4, 3, vec![0x21, 0x13]), (DType::U1, 1, vec![2])]
    {
        let data = || TensorData::raw(dtype, [shape], bytes.clone()).unwrap();
        let mut b = Builder::new();
        b.tensor("t", data()).unwrap();
        assert_eq!(b.to_vec().unwrap_err().kind(), ErrorKind::InvalidInput, "{dtype}");
        assert_eq!(b.write_to(Vec::new()).unwrap_err().kind(), ErrorKind::InvalidInput, "{dtype}");
        assert_eq!(b.save_with(&path, &quickly()).unwrap_err().kind(), ErrorKind::InvalidInput, "{dtype}");
        let mut w = Writer::create_with(&path, small(), &quickly()).unwrap();
        assert_eq!(w.tensor("t", data()).unwrap_err().tensor(), Some("t"), "{dtype}");
        assert!(w.commit().is_err(), "{dtype}");
    }
    let mut w = Writer::create_with(&path, small(), &quickly()).unwrap();
    assert!(w.begin_rows("t", DType::Bool, ()).unwrap().write_bytes(&[1, 0, 3]).is_err());
    assert!(w.commit().is_err());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_deferred_tensor_that_gives_too_few_too_many_or_other_bytes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    let giving = |len: usize| {
        TensorData::deferred(DType::U8, [100u64], move |out: &mut dyn Write| {
            out.write_all(&vec![1; len]).map_err(|e| Error::io("cannot write", e))
        })
        .unwrap()
    };
    for len in [0, 99, 101, 1000] {
        let mut b = Builder::new();
        b.tensor("t", giving(len)).unwrap();
        for e in
            [b.to_vec().unwrap_err(), b.save_with(&path, &quickly()).unwrap_err(), b.write_to(Vec::new()).unwrap_err()]
        {
            assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("t")), "{len}: {e}");
        }
        let mut w = Writer::create_with(&path, small(), &quickly()).unwrap();
        assert_eq!(w.tensor("t", giving(len)).unwrap_err().kind(), ErrorKind::InvalidInput, "{len}");
        assert!(w.commit().is_err());
    }
    // Asked twice, as `write_to` must, it gives something else the second time.
    let count = AtomicUsize::new(0);
    let fickle = TensorData::deferred(DType::U8, [1u64], move |out: &mut dyn Write| {
        out.write_all(&[count.fetch_add(1, Ordering::Relaxed) as u8]).map_err(|e| Error::io("cannot write", e))
    });
    let mut b = Builder::new();
    b.tensor("t", fickle.unwrap()).unwrap();
    assert_eq!(b.write_to(Vec::new()).unwrap_err().kind(), ErrorKind::InvalidInput);
    // One that fails is believed.
    let failing =
        TensorData::deferred(DType::U8, [1u64], |_: &mut dyn Write| Err(Error::new(ErrorKind::Limit, "no more")));
    let mut b = Builder::new();
    b.tensor("t", failing.unwrap()).unwrap();
    let e = b.save_with(&path, &quickly()).unwrap_err();
    assert_eq!((e.kind(), e.tensor(), e.path()), (ErrorKind::Limit, Some("t"), Some(path.as_path())));
    assert_eq!(names(dir.path()), [""; 0]);
}

// --- The streaming writer --------------------------------------------------------------------------------------------------------

fn writer(dir: &tempfile::TempDir) -> (Writer, PathBuf) {
    let path = dir.path().join(NAME);
    (Writer::create_with(&path, small(), &quickly()).unwrap(), path)
}

#[test]
fn rows_that_were_not_declared_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, path) = writer(&dir);
    for (name, count) in [("none", 0u64), ("one", 1), ("many", 70_000)] {
        let mut rows = w.begin_rows(name, DType::F32, [2, 3]).unwrap();
        for row in 0..count {
            rows.write_elements(&[row as f32; 6]).unwrap();
        }
        assert_eq!(rows.finish().unwrap(), count);
    }
    let mut scalars = w.begin_rows("scalars", DType::I64, ()).unwrap();
    scalars.write_elements(&[1i64, 2, 3]).unwrap();
    assert_eq!(scalars.finish().unwrap(), 3);
    w.commit().unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    assert!(opened.verify().unwrap().is_valid());
    assert_eq!(opened.tensor("none").unwrap().shape(), [0, 2, 3]);
    assert_eq!(opened.tensor("one").unwrap().shape(), [1, 2, 3]);
    let many = opened.tensor("many").unwrap();
    assert_eq!(many.shape(), [70_000, 2, 3]);
    assert_eq!(many.rows(69_999..70_000).unwrap().as_slice::<f32>().unwrap(), [69_999.0; 6]);
    assert_eq!(opened.tensor("scalars").unwrap().as_slice::<i64>().unwrap(), [1, 2, 3]);
}

/// Leaves a writer in a state in which it must not commit.
type Spoil = fn(&mut Writer);

#[test]
fn a_writer_that_was_given_something_incomplete_does_not_commit() {
    let spoils: [(&str, Spoil); 6] = [
        ("a row is incomplete", |w| {
            let mut rows = w.begin_rows("t", DType::F32, [2]).unwrap();
            rows.write_bytes(&[0; 12]).unwrap();
            assert_eq!(rows.finish().unwrap_err().kind(), ErrorKind::InvalidInput);
        }),
        ("bytes are missing", |w| {
            let mut out = w.begin("t", DType::F32, [2]).unwrap();
            out.write_bytes(&[0; 7]).unwrap();
            let e = out.finish().unwrap_err();
            assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("t")));
            assert_eq!((e.expected(), e.found()), (Some(8), Some(7)));
        }),
        ("bytes are too many", |w| {
            let mut out = w.begin("t", DType::F32, [2]).unwrap();
            let e = out.write_bytes(&[0; 9]).unwrap_err();
            assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("t")));
        }),
        ("a tensor is not finished", |w| {
            let mut out = w.begin("t", DType::U8, [2]).unwrap();
            out.write_bytes(&[0; 2]).unwrap();
            drop(out);
        }),
        ("rows are not finished", |w| drop(w.begin_rows("t", DType::U8, ()).unwrap())),
        ("the document refers to what is not there", |w| {
            w.document(Value::tensor("t"));
        }),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(NAME);
    builder(&1).save_with(&path, &quickly()).unwrap();
    for (what, spoil) in spoils {
        let (mut w, path) = writer(&dir);
        w.push("before", DType::U8, [1], &[1]).unwrap();
        spoil(&mut w);
        let e = w.commit().unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::InvalidInput, Some(path.as_path())), "{what}: {e}");
        assert_eq!(names(dir.path()), [NAME], "{what}");
        assert_eq!(content_of(&Checkpoint::open(&path).unwrap()), 1, "{what}");
        // Nor does it take more, unless it is the document alone that is wrong.
        let (mut w, _) = writer(&dir);
        spoil(&mut w);
        let more = w.push("after", DType::U8, [1], &[1]);
        assert_eq!(more.is_err(), !what.contains("document"), "{what}");
    }
}

#[test]
fn what_a_writer_refuses_at_once_does_not_spoil_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, path) = writer(&dir);
    w.push("a", DType::U8, [2], &[1, 2]).unwrap();
    let storage = w.storage_of("a").unwrap();
    let invalid = |result: dolmen::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
    invalid(w.push("a", DType::U8, [1], &[1]));
    invalid(w.push("b", DType::U8, [2], &[1]));
    invalid(w.push("b", DType::U8, [-1], &[]));
    invalid(w.alias("a", "a"));
    invalid(w.begin("a", DType::U8, [1]).map(drop));
    invalid(w.begin("b", DType::U8, [u64::MAX, 2]).map(drop));
    invalid(w.begin_rows("a", DType::U8, ()).map(drop));
    invalid(w.begin_rows("b", DType::U4, [3]).map(drop));
    invalid(w.begin_rows("b", DType::U8, [0]).map(drop));
    invalid(w.view("b", storage, View::new(DType::U8, [3]).unwrap()));
    invalid(w.view("a", storage, View::new(DType::U8, [1]).unwrap()));
    invalid(w.section(6, vec![]).map(drop));
    assert_eq!(w.alias("b", "nobody").unwrap_err().kind(), ErrorKind::NotFound);
    w.view("b", storage, View::new(DType::U8, [1]).unwrap().start(1)).unwrap();
    w.commit().unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    assert_eq!(opened.tensors().map(|t| t.unwrap().name()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(opened.tensor("b").unwrap().as_slice::<u8>().unwrap(), [2]);
    assert!(opened.verify().unwrap().is_valid());
}

#[test]
fn a_writer_that_is_dropped_or_discarded_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for discard in [false, true] {
        let (mut w, path) = writer(&dir);
        w.push("a", DType::U8, [2 << 20], &vec![7; 2 << 20]).unwrap();
        assert!(!path.exists(), "nothing is visible before the commit");
        assert!(w.temp_path().exists());
        assert_eq!(w.temp_path().parent(), Some(dir.path()));
        if discard {
            w.discard()
        } else {
            drop(w)
        }
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn a_tensor_writer_is_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (mut w, path) = writer(&dir);
    let mut out = w.begin("t", DType::U8, [100_000]).unwrap();
    io::copy(&mut io::Read::take(io::repeat(5), 100_000), &mut out).unwrap();
    assert!(out.write_all(&[1]).is_err(), "one more than declared");
    drop(out);
    assert!(w.commit().is_err());
    let (mut w, _) = writer(&dir);
    let mut out = w.begin("t", DType::U8, [100_000]).unwrap();
    io::copy(&mut io::Read::take(io::repeat(5), 100_000), &mut out).unwrap();
    out.flush().unwrap();
    assert_eq!(out.finish().unwrap(), 100_000);
    w.commit().unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("t").unwrap().as_slice::<u8>().unwrap(), vec![5; 100_000]);
}

#[test]
fn two_writers_of_one_target_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, path) = writer(&dir);
    let (mut second, _) = writer(&dir);
    first.push("who", DType::U8, [1], &[1]).unwrap();
    second.push("who", DType::U8, [1], &[2]).unwrap();
    second.commit().unwrap();
    first.commit().unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tensor("who").unwrap().as_slice::<u8>().unwrap(), [1]);
    assert_eq!(names(dir.path()), [NAME]);
}

#[test]
fn writing_to_something_that_fails_is_an_error_of_io() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            if self.0 == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        }
    }
    let len = bytes(1).len();
    for room in [0, len / 2, len - 1, len] {
        let e = builder(&1).write_to(Full(room)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io, "{room}");
    }
    builder(&1).write_to(Full(len + 1)).unwrap();
}
