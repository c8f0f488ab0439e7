//! Tables written as their rows are computed: against a model, when anything fails, when the process is killed, and resumed.
//!
//! `DOLMEN_KILLS=1000 cargo test --test feature_writer killed -- --nocapture` kills a thousand times; `DOLMEN_SEED` gives other moments.
#![cfg(all(unix, feature = "feature"))]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Random;
use common::memory::{Fault, Memory};
use dolmen::feature::{TableFile, TableWriter, TableWriterOptions};
use dolmen::format::value::{Dict, LIST_LEN, TensorRef, Value};
use dolmen::{
    Builder, Checkpoint, DType, Durability, ErrorKind, FileOptions, Result, SaveOptions, TensorData, half,
    verify_source,
};
use proptest::prelude::*;
use rustix::io::Errno;

fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

fn options(width: usize) -> TableWriterOptions {
    TableWriterOptions::new(DType::F32, [width]).unwrap().save(quickly())
}

/// Row number `n` of a table, its id and its label.
fn row(n: usize, width: usize) -> Vec<f32> {
    (0..width).map(|column| (n * width + column) as f32 * 0.5).collect()
}

fn id(n: usize) -> String {
    format!("sequence_{n}")
}

fn label(n: usize) -> i64 {
    [0, 1, -1, i64::MIN, i64::MAX][n % 5]
}

/// Appends rows of these numbers.
fn append(w: &mut TableWriter, rows: std::ops::Range<usize>, width: usize) -> Result<()> {
    let ids: Vec<String> = rows.clone().map(id).collect();
    let elements: Vec<f32> = rows.flat_map(|n| row(n, width)).collect();
    w.append(&ids, &elements)
}

fn paths(files: &[TableFile]) -> Vec<&Path> {
    files.iter().map(|file| file.path.as_path()).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file of these rows as a builder writes it, from the text of the specification.
struct Model {
    dtype: DType,
    row_shape: Vec<u64>,
    labels: bool,
    keys: [&'static str; 3],
    metadata: Vec<(&'static str, Value)>,
    file: FileOptions,
}

impl Model {
    fn of(width: usize) -> Model {
        let (file, keys) = (FileOptions::new(), ["ids", "data", "labels"]);
        Model { dtype: DType::F32, row_shape: vec![width as u64], labels: false, keys, metadata: Vec::new(), file }
    }

    fn bytes(&self, ids: &[String], data: &[u8], labels: &[i64]) -> Vec<u8> {
        let [ids_key, data_key, labels_key] = self.keys;
        let shape: Vec<u64> = [ids.len() as u64].iter().chain(&self.row_shape).copied().collect();
        let mut b = Builder::with_options(self.file);
        b.tensor(data_key, TensorData::raw(self.dtype, shape, data).unwrap()).unwrap();
        let mut table = Dict::new();
        table.push(ids_key, Value::from_iter(ids.iter().map(String::as_str)));
        table.push(data_key, TensorRef::new(data_key));
        if self.labels && labels.len() >= LIST_LEN {
            b.tensor(labels_key, labels).unwrap();
            table.push(labels_key, TensorRef::list(labels_key));
        } else if self.labels {
            table.push(labels_key, Value::from_iter(labels.iter().copied()));
        }
        b.document(table.into());
        for (key, value) in &self.metadata {
            b.metadata(*key, value.clone());
        }
        b.to_vec().unwrap()
    }

    /// The files of the rows of [`row`], so many in each.
    fn files(&self, rows: usize, rows_per_file: usize) -> Vec<Vec<u8>> {
        let numbers: Vec<usize> = (0..rows).collect();
        let width = self.row_shape[0] as usize;
        let file = |numbers: &[usize]| {
            let ids: Vec<String> = numbers.iter().map(|&n| id(n)).collect();
            let data: Vec<u8> = numbers.iter().flat_map(|&n| row(n, width)).flat_map(f32::to_le_bytes).collect();
            let labels: Vec<i64> = numbers.iter().map(|&n| label(n)).collect();
            self.bytes(&ids, &data, &labels)
        };
        numbers.chunks(rows_per_file).map(file).collect()
    }
}

// --- What is written ---------------------------------------------------------------------------------------------------------

const DTYPES: [DType; 10] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F64,
    DType::Bool,
    DType::I8,
    DType::U64,
    DType::C64,
    DType::F8E4M3Fn,
    DType::Opaque { bits: 24 },
];

#[derive(Clone, Debug)]
struct Wish {
    dtype: usize,
    row_shape: Vec<u64>,
    rows: usize,
    /// `None` for a table in a single file.
    rows_per_file: Option<u64>,
    labels: bool,
    batches: Vec<usize>,
    /// After how many batches the writer is dropped, and another resumes.
    dropped: Option<usize>,
    seed: u64,
}

fn wish() -> impl Strategy<Value = Wish> {
    let shape = proptest::collection::vec(1..6u64, 0..3);
    let batches = proptest::collection::vec(prop_oneof![3 => 0..20usize, 1 => 0..200usize], 1..20);
    let rows = prop_oneof![3 => 0..40usize, 2 => 60..70usize, 2 => 0..300usize];
    let per_file = proptest::option::weighted(0.8, prop_oneof![1..10u64, 60..130u64]);
    let dropped = proptest::option::weighted(0.5, 0..20usize);
    (0..DTYPES.len(), shape, rows, per_file, any::<bool>(), batches, dropped, any::<u64>()).prop_map(
        |(dtype, row_shape, rows, rows_per_file, labels, batches, dropped, seed)| {
            // What is not finished of a single file is lost.
            let dropped = dropped.filter(|_| rows_per_file.is_some());
            Wish { dtype, row_shape, rows, rows_per_file, labels, batches, dropped, seed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn batches_of_any_size_give_the_bytes_that_a_builder_gives(wish in wish()) {
        let dtype = DTYPES[wish.dtype];
        let row_len = wish.row_shape.iter().product::<u64>() as usize * dtype.bits() as usize / 8;
        let mut random = Random::new(wish.seed);
        let ids: Vec<String> = (0..wish.rows)
            .map(|n| ["", "same", "größe\n\0", &"x".repeat(random.below(300)), &id(n)][random.below(5)].to_owned())
            .collect();
        let mut data = random.bytes(wish.rows * row_len);
        if dtype == DType::Bool {
            data.iter_mut().for_each(|byte| *byte &= 1);
        }
        let labels: Vec<i64> = (0..wish.rows).map(|_| random.next() as i64).collect();

        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("part");
        let file = FileOptions::new().alignment(64 << random.below(4)).unwrap();
        let mut options = TableWriterOptions::new(dtype, wish.row_shape.clone())
            .unwrap()
            .labels(wish.labels)
            .keys("names", "features.rows", "classes")
            .unwrap()
            .metadata("model", "toy")
            .file(file)
            .save(quickly());
        let mut w = match wish.rows_per_file {
            Some(rows) => {
                options = options.rows_per_file(rows);
                TableWriter::create(&prefix, &options).unwrap()
            }
            None => TableWriter::single(&prefix, &options).unwrap(),
        };
        let mut sizes = wish.batches.iter().cycle().enumerate();
        let mut at = 0;
        while at < wish.rows {
            let (number, &size) = sizes.next().unwrap();
            if wish.dropped == Some(number) {
                drop(w);
                w = TableWriter::resume(&prefix, &options).unwrap();
                let stored = w.rows_written() as usize;
                prop_assert!(stored <= at && at - stored < wish.rows_per_file.unwrap() as usize);
                at = stored;
            }
            // A wish of empty batches alone would never end.
            let end = (at + size.max(usize::from(number > 40))).min(wish.rows);
            let bytes = &data[at * row_len..end * row_len];
            match wish.labels {
                true => w.append_bytes_labelled(&ids[at..end], bytes, &labels[at..end]).unwrap(),
                false => w.append_bytes(&ids[at..end], bytes).unwrap(),
            }
            at = end;
            prop_assert_eq!(w.rows_written(), at as u64);
            prop_assert_eq!(w.files().len() as u64, wish.rows_per_file.map_or(0, |rows| at as u64 / rows));
        }
        let files = w.finish().unwrap();

        let model = Model {
            dtype,
            row_shape: wish.row_shape.clone(),
            labels: wish.labels,
            keys: ["names", "features.rows", "classes"],
            metadata: vec![("model", Value::from("toy"))],
            file,
        };
        let per_file = wish.rows_per_file.map_or(usize::MAX, |rows| rows as usize);
        let starts: Vec<usize> = (0..wish.rows.max(1)).step_by(per_file).collect();
        prop_assert_eq!(files.len(), starts.len());
        for (number, (file, &start)) in files.iter().zip(&starts).enumerate() {
            let end = start.saturating_add(per_file).min(wish.rows);
            let expected = match wish.rows_per_file {
                Some(_) => directory.path().join(format!("part-{number:05}.dolmen")),
                None => prefix.clone(),
            };
            prop_assert_eq!((&file.path, file.rows), (&expected, (end - start) as u64));
            let bytes = model.bytes(&ids[start..end], &data[start * row_len..end * row_len], &labels[start..end]);
            prop_assert!(fs::read(&file.path).unwrap() == bytes, "file {}", number);
        }
        prop_assert_eq!(names(directory.path()).len(), files.len());
    }
}

#[test]
fn rows_are_read_back_with_their_ids_and_labels() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("features.dolmen");
    let mut w = TableWriter::single(&path, &options(3).labels(true)).unwrap();
    for batch in [0..70, 70..70, 70..100] {
        let ids: Vec<String> = batch.clone().map(id).collect();
        let rows: Vec<f32> = batch.clone().flat_map(|n| row(n, 3)).collect();
        let labels: Vec<i64> = batch.map(label).collect();
        w.append_labelled(&ids, &rows, &labels).unwrap();
    }
    assert!(!path.exists(), "visible before it is finished");
    w.finish().unwrap();

    assert!(verify_source(&fs::read(&path).unwrap(), &common::one_thread()).unwrap().is_valid());
    let opened = Checkpoint::open(&path).unwrap();
    let table = opened.document().unwrap().unwrap();
    let ids: Vec<&str> = table.get("ids").unwrap().as_slice().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(ids, (0..100).map(id).collect::<Vec<_>>());
    let data = opened.tensor("data").unwrap();
    assert_eq!((data.dtype(), data.shape()), (DType::F32, &[100, 3][..]));
    assert_eq!(data.rows(42..43).unwrap().as_slice::<f32>().unwrap(), row(42, 3));
    assert_eq!(table.get("data"), Some(&TensorRef::new("data").into()));
    assert_eq!(table.get("labels"), Some(&TensorRef::list("labels").into()));
    let labels = opened.tensor("labels").unwrap();
    assert_eq!(labels.as_slice::<i64>().unwrap(), (0..100).map(label).collect::<Vec<_>>());
}

#[test]
fn rows_of_every_type_are_taken_and_those_of_another_refused() {
    fn check<T: dolmen::Element + Default>(other: impl Fn(&mut TableWriter) -> Result<()>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.dolmen");
        let options = TableWriterOptions::new(T::DTYPE, [2]).unwrap().save(quickly());
        let mut w = TableWriter::single(&path, &options).unwrap();
        let e = other(&mut w).unwrap_err();
        assert!(e.to_string().contains(&format!("the rows of this table are of {}", T::DTYPE)), "{e}");
        w.append(&["a"], &[T::default(), T::default()]).unwrap();
        w.finish().unwrap();
        let opened = Checkpoint::open(&path).unwrap();
        assert_eq!(opened.tensor("data").unwrap().dtype(), T::DTYPE);
    }
    check::<f32>(|w| w.append(&["a"], &[0f64; 2]));
    check::<half::bf16>(|w| w.append(&["a"], &[half::f16::ZERO; 2]));
    check::<half::f16>(|w| w.append(&["a"], &[0f32; 2]));
    check::<i64>(|w| w.append(&["a"], &[0u64; 2]));
    check::<bool>(|w| w.append(&["a"], &[0u8; 2]));
    check::<[f32; 2]>(|w| w.append(&["a"], &[0f32; 4]));
}

#[test]
fn what_is_refused_appends_nothing_and_the_writer_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let mut w = TableWriter::create(&prefix, &options(2).rows_per_file(2)).unwrap();
    append(&mut w, 0..3, 2).unwrap();
    let none: [&str; 0] = [];
    for (result, words) in [
        (w.append(&["x"], &[0f32; 3]), "12 bytes were given for 1 ids, and a row of shape [2] of f32 takes 8"),
        (w.append(&["x", "y"], &[0f32; 2]), "8 bytes were given for 2 ids"),
        (w.append(&none, &[0f32; 2]), "8 bytes were given for 0 ids"),
        (w.append_bytes(&["x"], &[0; 7]), "7 bytes were given"),
        (w.append_labelled(&["x"], &[0f32; 2], &[1]), "labels were given, and the rows of this table have none"),
    ] {
        let e = result.unwrap_err();
        assert_eq!(
            (e.kind(), e.path().unwrap()),
            (ErrorKind::InvalidInput, &*prefix.with_file_name("part-00001.dolmen"))
        );
        assert!(e.to_string().contains(words), "{e}");
    }
    assert_eq!(w.rows_written(), 3);
    append(&mut w, 3..5, 2).unwrap();
    let files = w.finish().unwrap();
    for (file, expected) in files.iter().zip(Model::of(2).files(5, 2)) {
        assert!(fs::read(&file.path).unwrap() == expected);
    }

    let mut w = TableWriter::single(prefix.with_file_name("l"), &options(1).labels(true)).unwrap();
    assert!(w.append(&["x"], &[0f32]).unwrap_err().to_string().contains("no labels were given"));
    let e = w.append_labelled(&["x"], &[0f32], &[1, 2]).unwrap_err().to_string();
    assert!(e.contains("2 labels were given for 1 ids"), "{e}");
    let bools = TableWriterOptions::new(DType::Bool, [3]).unwrap().save(quickly());
    let mut w = TableWriter::single(prefix.with_file_name("b"), &bools).unwrap();
    assert!(w.append_bytes(&["x"], &[0, 1, 2]).unwrap_err().to_string().contains("neither 0 nor 1"));
    w.append_bytes(&["x"], &[0, 1, 1]).unwrap();
    w.finish().unwrap();
}

#[test]
fn options_that_describe_no_table_are_refused() {
    for shape in [vec![0u64], vec![3, 0], vec![u64::MAX, 2]] {
        let e = TableWriterOptions::new(DType::F32, shape).unwrap_err().to_string();
        assert!(e.contains("take no whole number of bytes, or none"), "{e}");
    }
    assert!(TableWriterOptions::new(DType::U4, [3]).is_err());
    assert!(TableWriterOptions::new(DType::U4, [4]).is_ok());
    for [ids, data, labels] in [["a", "a", "b"], ["a", "b", "a"], ["b", "a", "a"], ["", "a", "b"], ["a", "b", ""]] {
        assert!(options(1).keys(ids, data, labels).is_err());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t");
    let words = |result: Result<TableWriter>| result.unwrap_err().to_string();
    assert!(words(TableWriter::create(&path, &options(1).rows_per_file(0))).contains("one row at least"));
    assert!(words(TableWriter::single(&path, &options(1).rows_per_file(5))).contains("use `create`"));
    for directory in [directory.path().join(""), PathBuf::from("..")] {
        assert!(words(TableWriter::create(directory, &options(1))).contains("add the beginning of a file name"));
    }
    let missing = directory.path().join("missing/part");
    assert!(words(TableWriter::create(&missing, &options(1))).contains("create the directory first"));
    assert!(words(TableWriter::resume(&missing, &options(1))).contains("create the directory first"));
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_table_without_rows_is_a_file_without_rows() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let options = options(3328).labels(true).rows_per_file(10);
    for _ in 0..2 {
        let files = TableWriter::resume(&prefix, &options).unwrap().finish().unwrap();
        assert_eq!((files.len(), files[0].rows), (1, 0));
        let opened = Checkpoint::open(&files[0].path).unwrap();
        assert_eq!(opened.tensor("data").unwrap().shape(), [0, 3328]);
        let table = opened.document().unwrap().unwrap();
        assert_eq!(table.get("ids"), Some(&Value::List(Vec::new())));
        assert_eq!(table.get("labels"), Some(&Value::List(Vec::new())));
    }
}

// --- Other formats, and the life of checkpoints ------------------------------------------------------------------------------

#[cfg(feature = "torch")]
#[test]
fn files_are_pytorch_checkpoints_in_another_form_byte_for_byte() {
    use dolmen::foreign::{ConvertOptions, convert};

    let directory = tempfile::tempdir().unwrap();
    for (labels, rows) in
        [(false, 5), (true, 5), (true, LIST_LEN - 1), (true, LIST_LEN), (true, 3 * LIST_LEN), (true, 0)]
    {
        let [path, pt, back] = ["t.dolmen", "t.pt", "back.dolmen"].map(|name| directory.path().join(name));
        let mut w = TableWriter::single(&path, &options(3).labels(labels)).unwrap();
        for n in 0..rows {
            match labels {
                true => w.append_labelled(&[id(n)], &row(n, 3), &[label(n)]).unwrap(),
                false => w.append(&[id(n)], &row(n, 3)).unwrap(),
            }
        }
        w.finish().unwrap();
        let options = ConvertOptions::new().save(quickly());
        for (from, to) in [(&path, &pt), (&pt, &back)] {
            let notes = convert(from, to, &options).unwrap();
            assert_eq!(notes.len(), 0, "{rows} rows: {notes:?}");
        }
        assert!(fs::read(&path).unwrap() == fs::read(&back).unwrap(), "{rows} rows, labels {labels}");
        let opened = Checkpoint::open(&pt).unwrap();
        assert_eq!((opened.format(), opened.tensor("data").unwrap().shape()), ("torch", &[rows as u64, 3][..]));
    }
}

#[cfg(feature = "lifecycle")]
#[test]
fn files_pass_validation_with_ids_for_rows() {
    use dolmen::lifecycle::{CheckpointInfo, Validator};

    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let options = options(2).rows_per_file(70).labels(true).metadata("version", "1.0").metadata("status", "complete");
    let mut w = TableWriter::create(&prefix, &options).unwrap();
    for n in 0..80 {
        w.append_labelled(&[id(n)], &row(n, 2), &[label(n)]).unwrap();
    }
    let validator =
        Validator::new().required_keys(["ids", "data", "labels"]).rows("ids", "data").rows("labels", "data");
    for file in w.finish().unwrap() {
        validator.validate(&file.path).unwrap();
        let info = CheckpointInfo::of(&file.path);
        assert_eq!((&*info.version, &*info.status), ("1.0", "complete"));
    }
}

// --- What is there and what is not ---------------------------------------------------------------------------------------------

#[test]
fn a_writer_that_is_dropped_leaves_the_files_it_finished_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut w = TableWriter::create(directory.path().join("part"), &options(2).rows_per_file(2)).unwrap();
    append(&mut w, 0..5, 2).unwrap();
    assert_eq!(w.files().len(), 2);
    assert_eq!(names(directory.path()).len(), 3, "two files and what is being written");
    drop(w);
    assert_eq!(names(directory.path()), ["part-00000.dolmen", "part-00001.dolmen"]);
}

#[test]
fn a_new_table_does_not_begin_among_the_files_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    fs::write(directory.path().join("part-00007.dolmen"), "anything").unwrap();
    let e = TableWriter::create(&prefix, &options(1)).unwrap_err();
    assert!(e.to_string().contains("part-00007.dolmen: there is a table of that prefix already; resume it"), "{e}");
    assert_eq!(names(directory.path()), ["part-00007.dolmen"]);
    for other in ["part-7.dolmen", "part-00007.pt", "part2-00007.dolmen"] {
        fs::rename(directory.path().join("part-00007.dolmen"), directory.path().join(other)).unwrap();
        drop(TableWriter::create(&prefix, &options(1)).unwrap());
        fs::rename(directory.path().join(other), directory.path().join("part-00007.dolmen")).unwrap();
    }
}

#[test]
fn a_single_file_replaces_the_one_before_unless_told_not_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.dolmen");
    for rows in [2, 3] {
        let mut w = TableWriter::single(&path, &options(1)).unwrap();
        append(&mut w, 0..rows, 1).unwrap();
        w.finish().unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap().tensor("data").unwrap().shape(), [rows as u64, 1]);
    }
    let e = TableWriter::single(&path, &options(1).save(quickly().create_new(true))).unwrap_err();
    assert!(e.to_string().contains("already exists"), "{e}");
}

#[test]
fn a_second_writer_of_a_table_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let options = options(1).rows_per_file(2);
    let mut w = TableWriter::create(&prefix, &options).unwrap();
    for result in [TableWriter::create(&prefix, &options), TableWriter::resume(&prefix, &options)] {
        let e = result.unwrap_err();
        assert!(e.to_string().contains("part-00000.dolmen: another writer has begun this file"), "{e}");
    }
    append(&mut w, 0..3, 1).unwrap();
    assert!(TableWriter::resume(&prefix, &options).unwrap_err().to_string().contains("part-00001.dolmen: another"));
    append(&mut w, 3..4, 1).unwrap();

    // Between two files nobody can tell that the first lives; but it does not replace what the second wrote.
    let mut second = TableWriter::resume(&prefix, &options).unwrap();
    append(&mut second, 4..5, 1).unwrap();
    append(&mut w, 4..5, 1).unwrap();
    append(&mut second, 5..6, 1).unwrap();
    let kept = fs::read(directory.path().join("part-00002.dolmen")).unwrap();
    let e = append(&mut w, 50..51, 1).unwrap_err();
    assert!(e.to_string().contains("part-00002.dolmen: another writer has written this file"), "{e}");
    assert!(append(&mut w, 6..7, 1).unwrap_err().to_string().contains("nothing more is written"));
    assert_eq!(w.files().len(), 2);
    assert!(w.finish().unwrap_err().to_string().contains("cannot be finished"));
    assert!(fs::read(directory.path().join("part-00002.dolmen")).unwrap() == kept);
}

// --- Resuming ------------------------------------------------------------------------------------------------------------------

/// A table of seven rows in files of three, in a directory of its own.
fn seven() -> (tempfile::TempDir, PathBuf, TableWriterOptions) {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let options = options(2).rows_per_file(3);
    let mut w = TableWriter::create(&prefix, &options).unwrap();
    append(&mut w, 0..7, 2).unwrap();
    w.finish().unwrap();
    (directory, prefix, options)
}

fn refused(prefix: &Path, options: &TableWriterOptions) -> dolmen::Error {
    let before = names(prefix.parent().unwrap());
    let e = TableWriter::resume(prefix, options).unwrap_err();
    assert_eq!(names(prefix.parent().unwrap()), before);
    e
}

#[test]
fn a_finished_table_is_finished_again_and_takes_no_more() {
    let (directory, prefix, options) = seven();
    let mut w = TableWriter::resume(&prefix, &options).unwrap();
    assert_eq!((w.rows_written(), w.files().len()), (7, 3));
    let e = append(&mut w, 7..8, 2).unwrap_err();
    assert!(e.to_string().contains("part-00002.dolmen: the table was finished: its last file has 1 rows"), "{e}");
    append(&mut w, 7..7, 2).unwrap();
    let files = w.finish().unwrap();
    assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [3, 3, 1]);

    // As the error says.
    fs::remove_file(&files[2].path).unwrap();
    let mut w = TableWriter::resume(&prefix, &options).unwrap();
    assert_eq!(w.rows_written(), 6);
    append(&mut w, 6..9, 2).unwrap();
    // A last file that is full is no sign of an end.
    let mut w = TableWriter::resume(&prefix, &options).unwrap();
    append(&mut w, 9..10, 2).unwrap();
    let files = w.finish().unwrap();
    for (path, expected) in paths(&files).into_iter().zip(Model::of(2).files(10, 3)) {
        assert!(fs::read(path).unwrap() == expected);
    }
    assert_eq!(names(directory.path()).len(), 4);
}

#[test]
fn a_table_with_a_gap_is_not_resumed() {
    let (directory, prefix, options) = seven();
    fs::remove_file(directory.path().join("part-00001.dolmen")).unwrap();
    let e = refused(&prefix, &options);
    assert_eq!((e.kind(), e.path().unwrap()), (ErrorKind::NotFound, &*directory.path().join("part-00001.dolmen")));
    assert!(e.to_string().contains("part-00002.dolmen is there; put it back, or remove the files after it"), "{e}");
    fs::remove_file(directory.path().join("part-00002.dolmen")).unwrap();
    assert_eq!(TableWriter::resume(&prefix, &options).unwrap().rows_written(), 3);
}

#[test]
fn a_table_of_other_rows_is_not_resumed() {
    let (_directory, prefix, options) = seven();
    let with = |dtype, shape: &[u64]| TableWriterOptions::new(dtype, shape).unwrap().rows_per_file(3).save(quickly());
    for (options, name, words) in [
        (with(DType::F32, &[3]), "part-00000", "has rows of shape [2] of f32, and this table of [3] of f32"),
        (with(DType::F32, &[2, 1]), "part-00000", "and this table of [2, 1] of f32"),
        (with(DType::I32, &[2]), "part-00000", "and this table of [2] of i32"),
        (options.clone().rows_per_file(2), "part-00000", "has 3 rows, and a file of this table has 2"),
        (options.clone().rows_per_file(4), "part-00000", "has 3 rows, and a file of this table has 4"),
        (options.clone().labels(true), "part-00000", "has no labels"),
        (options.clone().keys("names", "data", "labels").unwrap(), "part-00000", "has no list \"names\""),
        (options.clone().keys("ids", "rows", "labels").unwrap(), "part-00000", "has no tensor \"rows\""),
    ] {
        let e = refused(&prefix, &options);
        assert_eq!(
            (e.kind(), e.path().unwrap()),
            (ErrorKind::InvalidInput, &*prefix.with_file_name(format!("{name}.dolmen")))
        );
        assert!(e.to_string().contains(words) && e.to_string().contains("another prefix"), "{e}");
    }

    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("part");
    let options = TableWriterOptions::new(DType::F32, [1]).unwrap().save(quickly()).labels(true);
    let mut w = TableWriter::create(&prefix, &options).unwrap();
    w.append_labelled(&["a"], &[1f32], &[1]).unwrap();
    w.finish().unwrap();
    assert!(refused(&prefix, &options.clone().labels(false)).to_string().contains("has labels"));
    let ids: Vec<String> = (0..2).map(id).collect();
    let path = directory.path().join("part-00000.dolmen");
    // Files that others wrote.
    for (ids, labels, words) in [(&ids[..], 1, "has 1 rows, and 2 ids"), (&ids[..1], 2, "has 1 rows, and 2 labels")] {
        let mut b = Builder::new();
        b.tensor("data", (&[1f32], [1, 1])).unwrap();
        let mut table = Dict::new();
        table.push("ids", Value::from_iter(ids.iter().map(String::as_str)));
        table.push("data", TensorRef::new("data"));
        table.push("labels", Value::from_iter(vec![1i64; labels]));
        b.document(table.into());
        b.save_with(&path, &quickly()).unwrap();
        let e = refused(&prefix, &options);
        assert!(e.to_string().contains(words), "{e}");
    }
    let mut b = Builder::new();
    b.tensor("data", (&[1f32], [1, 1])).unwrap();
    b.save_with(&path, &quickly()).unwrap();
    assert!(refused(&prefix, &options).to_string().contains("has no tensor \"data\" in its document"));
}

#[test]
fn a_table_with_a_damaged_file_is_not_resumed() {
    let (directory, prefix, options) = seven();
    let path = directory.path().join("part-00001.dolmen");
    let whole = fs::read(&path).unwrap();
    let data = Checkpoint::open(&path).unwrap().tensor("data").unwrap().file_offset().unwrap() as usize;
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let verified = options.clone().verify(true);
    for (bytes, found_at_once) in [
        (whole[..whole.len() - 1].to_vec(), true),
        (Vec::new(), true),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), true),
        (flipped(3), true),
        (flipped(whole.len() - 100), true),
        (flipped(data + 5), false),
    ] {
        fs::write(&path, &bytes).unwrap();
        for options in [Some(&options).filter(|_| found_at_once), Some(&verified)].into_iter().flatten() {
            let e = refused(&prefix, options);
            assert!(e.is_corruption() && e.path() == Some(&*path), "{e}");
            assert!(e.to_string().contains("remove it and the files after it, and resume"), "{e}");
        }
        if !found_at_once {
            assert_eq!(TableWriter::resume(&prefix, &options).unwrap().rows_written(), 7);
        }
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(TableWriter::resume(&prefix, &verified).unwrap().rows_written(), 7);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refused(&prefix, &options).path(), Some(&*path));
}

// --- Everything that can fail, in memory ---------------------------------------------------------------------------------------

const ROWS: usize = 7;
const PER_FILE: usize = 3;
const PREFIX: &str = "d/part";

fn in_memory(memory: &Memory) -> TableWriterOptions {
    options(2).rows_per_file(PER_FILE as u64).save(SaveOptions::new().file_system(Arc::new(memory.clone())))
}

/// Writes the rows that are missing; says how many files were acknowledged on the way.
fn job(memory: &Memory, acknowledged: &mut usize) -> Result<Vec<TableFile>> {
    let mut w = TableWriter::resume(PREFIX, &in_memory(memory))?;
    while (w.rows_written() as usize) < ROWS {
        let at = w.rows_written() as usize;
        // A batch that crosses the end of a file among them.
        let result = append(&mut w, at..(at + 2).min(ROWS), 2);
        *acknowledged = w.files().len();
        result?;
    }
    let files = w.finish()?;
    *acknowledged = files.len();
    Ok(files)
}

fn name(number: usize) -> String {
    format!("part-{number:05}.dolmen")
}

/// Whether every file is there whole, or not at all, now and after a crash.
fn check(memory: &Memory, expected: &[Vec<u8>], acknowledged: usize, story: &str) {
    let mut there = 0;
    for (number, expected) in expected.iter().enumerate() {
        match memory.content(name(number)) {
            Some(content) => {
                assert!(content == *expected, "{story}: file {number} holds something else");
                assert_eq!(there, number, "{story}: a gap");
                there += 1;
            }
            None => assert!(number >= acknowledged, "{story}: acknowledged file {number} is gone"),
        }
        let old_or_new = BTreeSet::from([None, Some(expected.clone())]);
        let after_crash = memory.after_crash(name(number));
        assert!(after_crash.is_subset(&old_or_new), "{story}: a crash tears file {number}");
        assert!(number >= acknowledged || !after_crash.contains(&None), "{story}: a crash loses file {number}");
    }
    let known: Vec<String> = (0..expected.len()).map(name).collect();
    for name in memory.names() {
        let name = name.into_string().unwrap();
        assert!(known.contains(&name) || name.ends_with(".dolmen-tmp"), "{story}: {name}");
    }
}

#[test]
fn whichever_call_fails_finished_files_stay_whole_and_the_table_can_be_resumed() {
    let expected = Model::of(2).files(ROWS, PER_FILE);
    let (mut runs, mut begun_with) = (0, BTreeSet::new());
    for errno in [Errno::IO, Errno::NOSPC, Errno::INTR, Errno::ACCESS, Errno::EXIST] {
        for (after_effect, forever) in [(false, false), (true, false), (false, true)] {
            if forever && errno == Errno::INTR {
                continue;
            }
            for call in 0.. {
                let fault = Fault { call, errno: errno.raw_os_error(), after_effect, forever };
                let memory = Memory::new().behave(|b| {
                    b.fault = Some(fault);
                    b.longest_write = 4096;
                });
                let mut acknowledged = 0;
                let result = job(&memory, &mut acknowledged);
                let Some(failed) = memory.failed().first().cloned() else {
                    result.unwrap();
                    break;
                };
                runs += 1;
                let story = format!("{fault:?} in {failed:?}: {:?}", result.as_ref().err());
                check(&memory, &expected, acknowledged, &story);
                if let Err(e) = &result {
                    assert!(e.path().is_some_and(|path| path.starts_with("d")), "{story}");
                }

                // The machine is well again.
                let memory = memory.behave(|b| b.fault = None);
                begun_with.insert(TableWriter::resume(PREFIX, &in_memory(&memory)).unwrap().rows_written());
                let files = job(&memory, &mut acknowledged).unwrap_or_else(|e| panic!("{story}, and then {e}"));
                assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), ROWS as u64);
                check(&memory, &expected, expected.len(), &story);
                assert_eq!(memory.names().len(), expected.len(), "{story}: something is left behind");
            }
        }
    }
    assert!(runs > 400, "{runs}");
    assert_eq!(begun_with, BTreeSet::from([0, 3, 6, 7]));
}

#[test]
fn whichever_call_of_resuming_fails_nothing_is_lost() {
    let expected = Model::of(2).files(ROWS, PER_FILE);
    for call in 0.. {
        let memory = Memory::new();
        for (number, content) in expected.iter().take(2).enumerate() {
            memory.put(name(number), 0o644, content);
        }
        memory.put(
            ".part-00001.dolmen.00112233445566aa.dolmen-tmp",
            0o644,
            b"the other name of a file that was linked",
        );
        memory.put(".part-00002.dolmen.00112233445566aa.dolmen-tmp", 0o644, b"half a file");
        let memory = memory.behave(|b| {
            b.fault = Some(Fault { call, errno: Errno::IO.raw_os_error(), after_effect: false, forever: false })
        });
        let result = TableWriter::resume(PREFIX, &in_memory(&memory)).map(|w| w.rows_written());
        let calls = memory.calls().len();
        let memory = memory.behave(|b| b.fault = None);
        check(&memory, &expected, 2, &format!("call {call}"));
        match result {
            Ok(rows) => assert_eq!(rows, 6),
            Err(e) => assert!(e.path().is_some() && !e.is_corruption(), "{e}"),
        }
        let mut acknowledged = 0;
        job(&memory, &mut acknowledged).unwrap();
        check(&memory, &expected, 3, &format!("call {call}"));
        assert_eq!(memory.names().len(), 3, "call {call}: {:?}", memory.names());
        if call >= calls {
            assert!(call > 10);
            break;
        }
    }
}

#[test]
fn resuming_makes_the_name_of_the_last_file_durable() {
    let expected = Model::of(2).files(3, 3);
    // The first process dies between the rename and the flush.
    let mut found = 0;
    for call in 0.. {
        let fault = Fault { call, errno: Errno::IO.raw_os_error(), after_effect: false, forever: true };
        let memory = Memory::new().behave(|b| b.fault = Some(fault));
        let mut w = match TableWriter::create(PREFIX, &in_memory(&memory)) {
            Ok(w) => w,
            Err(_) => continue,
        };
        let result = append(&mut w, 0..3, 2);
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotDurable) {
            let memory = memory.behave(|b| b.fault = None);
            assert!(memory.after_crash(name(0)).contains(&None));
            let w = TableWriter::resume(PREFIX, &in_memory(&memory)).unwrap();
            assert_eq!(w.rows_written(), 3);
            assert_eq!(memory.after_crash(name(0)), BTreeSet::from([Some(expected[0].clone())]));
            found += 1;
        }
        if result.is_ok() {
            break;
        }
    }
    assert!(found > 0);
}

#[test]
fn a_full_disk_is_told_with_the_name_of_the_file() {
    let expected = Model::of(2).files(ROWS, PER_FILE);
    let memory = Memory::new();
    let mut w = TableWriter::create(PREFIX, &in_memory(&memory)).unwrap();
    append(&mut w, 0..4, 2).unwrap();
    let call = memory.calls().len();
    let fault = Fault { call, errno: Errno::NOSPC.raw_os_error(), after_effect: false, forever: true };
    let memory = memory.behave(|b| b.fault = Some(fault));
    let e = append(&mut w, 4..7, 2).unwrap_err();
    assert_eq!((e.kind(), e.path().unwrap()), (ErrorKind::Io, Path::new("d/part-00001.dolmen")));
    assert_eq!(e.io_error().unwrap().kind(), std::io::ErrorKind::StorageFull);
    let e = append(&mut w, 4..7, 2).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert_eq!((w.files().len(), w.rows_written()), (1, 3), "the rows that are there");
    check(&memory, &expected, 1, "full disk");
    assert!(w.finish().is_err());
}

// --- Killed --------------------------------------------------------------------------------------------------------------------

const KILLED_ROWS: usize = 1200;
const KILLED_PER_FILE: usize = 100;
const KILLED_WIDTH: usize = 96;

#[test]
fn child_process_writes_a_table() {
    let Some(prefix) = std::env::var_os("DOLMEN_TEST_PATH") else { return };
    let options = options(KILLED_WIDTH).rows_per_file(KILLED_PER_FILE as u64).save(SaveOptions::new());
    let mut w = TableWriter::resume(&prefix, &options).unwrap();
    let mut at = w.rows_written() as usize;
    while at < KILLED_ROWS {
        let end = (at + 17).min(KILLED_ROWS);
        append(&mut w, at..end, KILLED_WIDTH).unwrap();
        at = end;
        // As if they were computed.
        std::thread::sleep(Duration::from_micros(200));
    }
    w.finish().unwrap();
}

fn child(prefix: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_writes_a_table", "--nocapture"])
        .env("DOLMEN_TEST_PATH", prefix)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_at_random_and_resumed_the_files_are_those_of_an_undisturbed_run() {
    let expected = Model::of(KILLED_WIDTH).files(KILLED_ROWS, KILLED_PER_FILE);
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse::<u64>().unwrap());
    let wanted = number("DOLMEN_KILLS", 60);
    let mut random = Random::new(number("DOLMEN_SEED", 4));
    let begun = Instant::now();
    let undisturbed = tempfile::tempdir().unwrap();
    assert!(child(&undisturbed.path().join("part")).wait().unwrap().success());
    let usual = begun.elapsed();

    let (mut kills, mut jobs, mut left_a_temp, mut resumed_at) = (0, 0, 0, BTreeSet::new());
    while kills < wanted {
        let directory = tempfile::tempdir().unwrap();
        jobs += 1;
        loop {
            let patience = usual.mul_f64(random.below(1000) as f64 / 1500.0);
            let mut child = child(&directory.path().join("part"));
            let begun = Instant::now();
            while child.try_wait().unwrap().is_none() && begun.elapsed() < patience {
                std::thread::sleep(Duration::from_micros(300));
            }
            child.kill().unwrap();
            let status = child.wait().unwrap();

            let (temps, files): (Vec<String>, Vec<String>) =
                names(directory.path()).into_iter().partition(|name| name.ends_with(".dolmen-tmp"));
            for (number, file) in files.iter().enumerate() {
                assert_eq!(*file, name(number), "a gap");
                assert!(fs::read(directory.path().join(file)).unwrap() == expected[number], "{file} is another");
            }
            if status.success() {
                assert_eq!((files.len(), temps.len()), (expected.len(), 0), "{temps:?}");
                break;
            }
            assert_eq!(status.code(), None, "it ended by itself, with {status}");
            kills += 1;
            left_a_temp += u64::from(!temps.is_empty());
            assert!(temps.len() <= 1, "{temps:?}");
            resumed_at.insert(files.len());
        }
    }
    println!(
        "undisturbed {usual:?}; {kills} kills in {jobs} jobs, {left_a_temp} left a temp; resumed at {resumed_at:?}"
    );
    assert!(left_a_temp > 0 && resumed_at.len() > 2, "the kills came at no interesting moment");
}
