//! Tables of features: what they find in files, and what they give.
#![cfg(all(feature = "feature", feature = "torch", feature = "safetensors", unix))]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::Random;
use common::feature::{BLOCK, Kind, Made, Model, Row, Shape, flip, place, quickly, size_of_dtype, write};
use dolmen::feature::{Access, JoinOptions, Layout, OnMissing, Table, TableWriter, TableWriterOptions, Which};
use dolmen::format::value::Dict;
use dolmen::{Builder, Checkpoint, DType, ErrorKind, FileOptions, TensorData, Value};

const DTYPES: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::U8];

/// The bytes of rows that are borrowed, if they are.
fn slice(table: &Table, rows: std::ops::Range<u64>) -> Option<Vec<u8>> {
    fn of<T: dolmen::Element + bytemuck_pod::Pod>(table: &Table, rows: std::ops::Range<u64>) -> Option<Vec<u8>> {
        table.slice::<T>(rows).unwrap().map(|slice| slice.iter().flat_map(bytemuck_pod::bytes).collect())
    }
    match table.dtype() {
        DType::F32 => of::<f32>(table, rows),
        DType::F16 => of::<dolmen::half::f16>(table, rows),
        DType::BF16 => of::<dolmen::half::bf16>(table, rows),
        DType::F64 => of::<f64>(table, rows),
        DType::I32 => of::<i32>(table, rows),
        DType::U8 => of::<u8>(table, rows),
        other => panic!("{other}"),
    }
}

/// Elements as their bytes, for the few types that are compared here.
mod bytemuck_pod {
    pub trait Pod: Copy {
        fn le(&self) -> Vec<u8>;
    }
    macro_rules! pod {
        ($($type:ty),*) => {$(
            impl Pod for $type {
                fn le(&self) -> Vec<u8> {
                    self.to_le_bytes().to_vec()
                }
            }
        )*};
    }
    pod!(f32, f64, i32, u8, dolmen::half::f16, dolmen::half::bf16);

    pub fn bytes<T: Pod>(element: &T) -> Vec<u8> {
        element.le()
    }
}

fn read(table: &Table, rows: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0xCC; rows.len() * table.row_byte_len()];
    table.read_rows_into(rows, &mut bytes).unwrap();
    bytes
}

/// Asserts that a table is what the model says, in every way of asking.
fn assert_table(table: &Table, model: &Model, ids: bool, labels: bool, random: &mut Random, about: &str) {
    assert_eq!(table.rows() as usize, model.rows.len(), "{about}");
    assert_eq!((table.width() as usize, table.dtype()), (model.width, model.dtype), "{about}");
    assert_eq!(table.row_byte_len(), model.row_len(), "{about}");
    let all: Vec<u64> = (0..table.rows()).collect();
    assert!(read(table, &all) == model.bytes(), "{about}");
    let some: Vec<u64> = (0..random.below(40)).map(|_| random.below(all.len()) as u64).collect();
    let some = if all.is_empty() { Vec::new() } else { some };
    assert!(read(table, &some) == model.bytes_of(&some), "{about}: {some:?}");
    assert_eq!(table.labels(), labels.then(|| model.labels_of(&all)).as_deref(), "{about}");
    assert_eq!(table.ids().is_some(), ids, "{about}");
    for &row in some.iter().filter(|_| ids) {
        let id = &model.rows[row as usize].id;
        assert_eq!(table.id(row), Some(&id[..]), "{about}");
        let first = model.rows.iter().position(|row| row.id == *id).unwrap();
        assert_eq!(table.row_of(id).unwrap(), first as u64, "{about}");
    }
    assert_eq!(table.id(table.rows()), None);
    let (a, b) = (random.below(all.len() + 1) as u64, random.below(all.len() + 1) as u64);
    let range = a.min(b)..a.max(b);
    if let Some(bytes) = slice(table, range.clone()) {
        assert!(bytes == model.bytes_of(&range.clone().collect::<Vec<_>>()), "{about}: slice {range:?}");
    }
    for beyond in [all.len() as u64, u64::MAX] {
        let e = table.read_rows_into(&[beyond], &mut vec![0; table.row_byte_len()]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
    }
    assert!(table.read_rows_into(&all, &mut vec![0; model.bytes().len() + 1]).is_err());
}

/// The ways in which the files of a table are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Read,
    Direct,
    Memory,
    Map,
    Bytes,
}

const WAYS: [Way; 5] = [Way::Read, Way::Direct, Way::Memory, Way::Map, Way::Bytes];

fn open(paths: &[PathBuf], layout: &Layout, way: Way) -> dolmen::Result<Table> {
    match way {
        Way::Read => Table::open(paths, layout),
        Way::Direct => Table::open_with(paths, layout, Access::Direct),
        Way::Memory => Table::open_with(paths, layout, Access::Memory),
        // SAFETY: nobody changes the files of a test.
        Way::Map => unsafe { Table::map(paths, layout) },
        Way::Bytes => {
            let open = |path: &PathBuf| Checkpoint::from_bytes(&std::fs::read(path).unwrap());
            Table::of_checkpoints(paths.iter().map(open).collect::<dolmen::Result<Vec<_>>>()?, layout)
        }
    }
}

#[test]
fn rows_columns_ids_and_labels_are_those_of_the_files_whatever_these_are() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..120u64 {
        let mut random = Random::new(seed);
        let dtype = DTYPES[random.below(6)];
        let width = if random.below(4) == 0 { random.below(700) } else { random.below(12) };
        let count = random.below(90);
        let model = Model::random(&mut random, dtype, width, count);
        let part_count = random.below(6) + 1;
        let labels = random.below(2) == 0;
        let mut ids = true;
        let mut parts = Vec::new();
        for part in model.parts(&mut random, part_count) {
            let kind = [Kind::Dolmen, Kind::Dolmen, Kind::Torch, Kind::Safetensors][random.below(4)];
            let shape = match (part.rows.is_empty() || width == 0 || kind == Kind::Safetensors, random.below(3)) {
                (false, 1) => Shape::List,
                (false, 2) => Shape::Strided,
                _ => Shape::Matrix,
            };
            ids &= kind != Kind::Safetensors;
            parts.push((part, Made { shape, labels, ..Made::new(kind) }));
        }
        let paths: Vec<PathBuf> =
            (0..).zip(&parts).map(|(n, (part, made))| write(dir.path(), &format!("{seed}-{n}"), part, *made)).collect();
        let layout = if ids { Layout::new() } else { Layout::new().no_ids() };
        let way = WAYS[random.below(5)];
        let about = format!(
            "seed {seed}, {dtype}, {way:?}, {:?}",
            parts.iter().map(|p| (p.1, p.0.rows.len())).collect::<Vec<_>>()
        );
        let mut table = open(&paths, &layout, way).unwrap_or_else(|e| panic!("{about}: {e}"));
        let mut expected = model.clone();
        assert_table(&table, &expected, ids, labels, &mut random, &about);
        // Views of views.
        for step in 0..4 {
            if random.below(2) == 0 {
                let (a, b) = (random.below(expected.width + 1), random.below(expected.width + 1));
                let columns = a.min(b)..a.max(b);
                table = table.columns(columns.start as u64..columns.end as u64).unwrap();
                expected = expected.columns(columns);
            } else if !expected.rows.is_empty() {
                let rows: Vec<u64> = (0..random.below(60)).map(|_| random.below(expected.rows.len()) as u64).collect();
                table = table.take_rows(&rows).unwrap();
                expected = expected.take(&rows);
            }
            assert_table(&table, &expected, ids, labels, &mut random, &format!("{about}, step {step}"));
        }
        assert!(table.columns(0..expected.width as u64 + 1).is_err());
        assert!(table.take_rows(&[expected.rows.len() as u64]).is_err());
        paths.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

#[test]
fn rows_that_lie_together_in_memory_are_borrowed_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(7);
    for dtype in DTYPES {
        let model = Model::random(&mut random, dtype, 50, 40);
        let paths: Vec<PathBuf> = [model.part(0..25), model.part(25..40)]
            .iter()
            .enumerate()
            .map(|(n, part)| write(dir.path(), &format!("{dtype}{n}"), part, Made::new(Kind::Dolmen)))
            .collect();
        for way in WAYS {
            let table = open(&paths, &Layout::new(), way).unwrap();
            let is_resident = !matches!(way, Way::Read | Way::Direct);
            for range in [0..25, 3..17, 25..40, 39..40] {
                let rows: Vec<u64> = range.clone().collect();
                assert_eq!(slice(&table, range), is_resident.then(|| model.bytes_of(&rows)), "{dtype} {way:?}");
            }
            assert_eq!(slice(&table, 24..26), None, "of two files");
            assert_eq!(slice(&table, 9..9), Some(Vec::new()));
            assert_eq!(slice(&table.columns(0..49).unwrap(), 0..2), None);
            assert_eq!(slice(&table.take_rows(&[0, 1]).unwrap(), 0..2), None);
            let e = table.slice::<u64>(0..1).unwrap_err().to_string();
            assert!(e.contains(&format!("the table is of dtype {dtype}, not u64")), "{e}");
        }
        let table = open(&paths, &Layout::new(), Way::Map).unwrap();
        assert!(table.slice::<u8>(3..41).is_err());
        if dtype == DType::F32 {
            assert!(table.slice::<f32>(3..41).unwrap_err().to_string().contains("there are no rows 3..41 of 40"));
            let borrowed = table.slice::<f32>(3..5).unwrap().unwrap().as_ptr();
            assert_eq!(borrowed, table.slice::<f32>(3..9).unwrap().unwrap().as_ptr(), "it is not copied");
            assert_eq!(table.slice::<f32>(3..5).unwrap().unwrap(), table.read_rows::<f32>(&[3, 4]).unwrap());
            assert_eq!(table.cast(DType::F64).unwrap().slice::<f64>(3..5).unwrap(), None);
        }
    }
}

/// The bf16 nearest to a finite number; of two, the even one. `half` forgets the lower bits of an f64.
fn nearest_bf16(number: f64) -> dolmen::half::bf16 {
    let about = dolmen::half::bf16::from_f64(number).to_bits();
    let near = [about.wrapping_sub(1), about, about.wrapping_add(1)].map(dolmen::half::bf16::from_bits);
    let distance = |x: &dolmen::half::bf16| (x.to_f64() - number).abs();
    let order = |x: &dolmen::half::bf16, y: &dolmen::half::bf16| {
        distance(x).total_cmp(&distance(y)).then((x.to_bits() & 1).cmp(&(y.to_bits() & 1)))
    };
    near.into_iter().filter(|x| x.is_finite()).min_by(order).unwrap()
}

#[test]
fn rows_are_rounded_once_to_another_dtype() {
    let mut random = Random::new(11);
    for (from, shape) in DTYPES.iter().zip([Shape::Matrix, Shape::List, Shape::Strided].iter().cycle()) {
        // Longer than what is converted at a time.
        let model = Model::random(&mut random, *from, 300, 120);
        let made = Made { shape: *shape, ..Made::new(Kind::Dolmen) };
        let table = common::feature::in_memory(&model, made);
        let rows: Vec<u64> = (0..200).map(|_| random.below(120) as u64).chain(0..120).collect();
        let bytes = model.bytes_of(&rows);
        let numbers: Vec<f64> = bytes
            .chunks(size_of_dtype(*from))
            .map(|b| match from {
                DType::F32 => f32::from_le_bytes(b.try_into().unwrap()).into(),
                DType::F16 => dolmen::half::f16::from_le_bytes(b.try_into().unwrap()).into(),
                DType::BF16 => dolmen::half::bf16::from_le_bytes(b.try_into().unwrap()).into(),
                DType::F64 => f64::from_le_bytes(b.try_into().unwrap()),
                DType::I32 => i32::from_le_bytes(b.try_into().unwrap()).into(),
                _ => b[0].into(),
            })
            .collect();
        for to in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            let one = |&number: &f64| match to {
                DType::F32 => (number as f32).to_le_bytes().to_vec(),
                DType::F16 => dolmen::half::f16::from_f64(number).to_le_bytes().to_vec(),
                DType::BF16 => nearest_bf16(number).to_le_bytes().to_vec(),
                _ => number.to_le_bytes().to_vec(),
            };
            let expected: Vec<u8> = numbers.iter().flat_map(one).collect();
            let cast = table.cast(to).unwrap();
            assert_eq!(cast.dtype(), to);
            assert!(read(&cast, &rows) == expected, "{from} to {to}, {shape:?}");
            // In columns: rows are converted one by one.
            let (columns, size) = (cast.columns(100..117).unwrap(), size_of_dtype(to));
            let cut: Vec<u8> =
                expected.chunks(300 * size).flat_map(|row| row[100 * size..117 * size].to_vec()).collect();
            assert!(read(&columns, &rows) == cut, "{from} to {to}, columns");
        }
    }
    let table = common::feature::in_memory(&Model::random(&mut random, DType::F32, 3, 3), Made::new(Kind::Dolmen));
    let e = table.cast(DType::I32).unwrap_err().to_string();
    assert!(e.contains("tensor \"data\": elements of dtype f32 cannot be converted to i32; bool, integers of"), "{e}");
}

/// The rows that a join must have: of the left one, and of the right one.
fn joined(left: &Model, right: &Model, which: Which) -> Vec<(usize, usize)> {
    let found = |id: &String| match which {
        Which::First => right.rows.iter().position(|row| row.id == *id),
        Which::Last => right.rows.iter().rposition(|row| row.id == *id),
    };
    (0..left.rows.len()).filter_map(|n| Some((n, found(&left.rows[n].id)?))).collect()
}

fn joined_model(left: &Model, right: &Model, which: Which) -> Model {
    let row = |(l, r): (usize, usize)| {
        let (l, r) = (&left.rows[l], &right.rows[r]);
        Row { bytes: [&l.bytes[..], &r.bytes].concat(), ..l.clone() }
    };
    let rows = joined(left, right, which).into_iter().map(row).collect();
    Model { dtype: left.dtype, width: left.width + right.width, rows }
}

/// Rows of ids below `ids`, in any order, some twice or not at all.
fn scattered(random: &mut Random, width: usize, rows: usize, ids: usize, unique: bool) -> Model {
    let mut model = Model::random(random, DType::F32, width, rows);
    let mut free: Vec<usize> = (0..ids).collect();
    for row in &mut model.rows {
        let n = if unique { free.swap_remove(random.below(free.len())) } else { random.below(ids) };
        row.id = format!("sequence {n}");
    }
    model
}

#[test]
fn joins_put_rows_of_one_id_side_by_side_whatever_the_orders_gaps_and_repetitions() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..60u64 {
        let mut random = Random::new(1000 + seed);
        let unique = seed % 2 == 0;
        let side = |random: &mut Random, n: usize| {
            let (width, rows) = (random.below(5) + n, random.below(30));
            scattered(random, width, rows, 35, unique)
        };
        let models: Vec<Model> = (0..3).map(|n| side(&mut random, n)).collect();
        let tables: Vec<Table> = models
            .iter()
            .enumerate()
            .map(|(n, model)| {
                let parts = model.parts(&mut random, 2);
                let paths: Vec<PathBuf> = parts
                    .iter()
                    .enumerate()
                    .map(|(m, part)| write(dir.path(), &format!("{seed}-{n}-{m}"), part, Made::new(Kind::Dolmen)))
                    .collect();
                open(&paths, &Layout::new(), WAYS[random.below(5)]).unwrap()
            })
            .collect();
        let which = [Which::First, Which::Last][random.below(2)];
        let options = JoinOptions::new().on_missing(OnMissing::LeaveOut).on_duplicates(which);
        let ab = tables[0].join(&tables[1], &options).unwrap();
        let expected = joined_model(&models[0], &models[1], which);
        assert_table(&ab.table, &expected, true, true, &mut random, &format!("seed {seed}"));
        let pairs = joined(&models[0], &models[1], which);
        assert_eq!(ab.missing_right as usize, models[0].rows.len() - pairs.len());
        let used: std::collections::BTreeSet<usize> = pairs.iter().map(|pair| pair.1).collect();
        assert_eq!(ab.missing_left as usize, models[1].rows.len() - used.len());

        // A join of joins, of slices, in another order.
        let (rows, width): (Vec<u64>, usize) = ((0..ab.table.rows()).rev().collect(), expected.width / 2);
        let left = ab.table.take_rows(&rows).unwrap().columns(0..width as u64).unwrap();
        let left_model = expected.take(&rows).columns(0..width);
        let abc = tables[2].join(&left, &options).unwrap().table;
        let model = joined_model(&models[2], &left_model, which);
        assert_table(&abc, &model, true, true, &mut random, &format!("seed {seed}, again"));
        let columns = random.below(model.width + 1);
        let cut = abc.columns(columns as u64..model.width as u64).unwrap();
        assert_table(&cut, &model.columns(columns..model.width), true, true, &mut random, &format!("seed {seed}, cut"));

        // With nothing allowed: whenever something is missing on either side, or is there twice in the second.
        let strict = tables[0].join(&tables[1], &JoinOptions::new());
        let ids =
            |model: &Model| model.rows.iter().map(|row| row.id.clone()).collect::<std::collections::BTreeSet<_>>();
        let repeats = ids(&models[1]).len() < models[1].rows.len();
        match strict {
            Ok(join) => {
                assert!(!repeats && ids(&models[0]) == ids(&models[1]));
                assert_eq!((join.missing_left, join.missing_right), (0, 0));
            }
            Err(e) if repeats => assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
                assert_ne!(ids(&models[0]), ids(&models[1]));
            }
        }
    }
}

#[test]
fn a_join_that_cannot_be_says_why() {
    let mut random = Random::new(3);
    let made = |b: &[&str]| {
        let mut model = Model::random(&mut Random::new(5), DType::F32, 2, b.len());
        model.rows.iter_mut().zip(b).for_each(|(row, id)| row.id = (*id).to_owned());
        common::feature::in_memory(&model, Made::new(Kind::Dolmen))
    };
    let all = made(&["a", "b", "c", "d", "e", "f", "g"]);
    let join = |left: &Table, right: &Table, options: JoinOptions| left.join(right, &options).unwrap_err().to_string();
    let e = join(&all, &made(&["c"]), JoinOptions::new());
    assert!(
        e.starts_with(
            r#"6 rows of the first table have ids that the second has not: "a", "b", "d", "e", "f", …; leave"#
        ),
        "{e}"
    );
    let e = join(&made(&["c"]), &made(&["x", "c"]), JoinOptions::new());
    assert!(
        e.starts_with(r#"1 rows of the second table have ids that the first has not: "x"; leave them out with `On"#),
        "{e}"
    );
    let twice = made(&["a", "a", "b", "c", "d", "e", "f", "g"]);
    let e = join(&all, &twice, JoinOptions::new());
    assert!(e.contains("of the second table") && e.contains("\"a\""), "{e}");
    // What is there twice in the first is no question.
    assert_eq!(twice.join(&all, &JoinOptions::new()).unwrap().table.rows(), 8);
    let last = all.join(&twice, &JoinOptions::new().on_duplicates(Which::Last)).unwrap();
    assert_eq!(last.missing_left, 1);
    assert_eq!(read(&last.table.columns(2..4).unwrap(), &[0]), read(&twice, &[1]));
    let e = join(&all, &twice.cast(DType::F16).unwrap(), JoinOptions::new());
    assert_eq!(e, "a table of dtype f32 cannot be joined with one of f16; cast one of them");
    let without = Made { ids: false, ..Made::new(Kind::Dolmen) };
    let without = common::feature::in_memory(&Model::random(&mut random, DType::F32, 2, 3), without);
    for (left, right) in [(&all, &without), (&without, &all)] {
        let e = join(left, right, JoinOptions::new());
        assert_eq!(e, "the table has no ids; name them in the layout, if the files have any");
    }
    assert!(without.row_of("a").is_err() && without.duplicates().is_err());
    assert_eq!(all.row_of("z").unwrap_err().to_string(), "no row has the id \"z\"");
    assert_eq!(all.row_of("z").unwrap_err().kind(), ErrorKind::NotFound);
    // Labels are the other's if this one has none.
    let unlabelled = Made { labels: false, ..Made::new(Kind::Dolmen) };
    let model = Model::random(&mut random, DType::F32, 1, 2);
    let (plain, labelled) =
        (common::feature::in_memory(&model, unlabelled), common::feature::in_memory(&model, Made::new(Kind::Dolmen)));
    let backwards = plain.take_rows(&[1, 0]).unwrap();
    assert_eq!(backwards.join(&labelled, &JoinOptions::new()).unwrap().table.labels(), Some(&[4, -3][..]));
}

/// A file of one document over tensors.
fn file(dir: &Path, name: &str, tensors: &[(&str, DType, &[u64])], document: Option<Dict>) -> PathBuf {
    let mut b = Builder::new();
    for (name, dtype, shape) in tensors {
        let len = shape.iter().product::<u64>() as usize * size_of_dtype(*dtype);
        let bytes: Vec<u8> = (0..len).map(|n| n as u8 % 7).collect();
        b.tensor(name, TensorData::raw(*dtype, *shape, bytes).unwrap()).unwrap();
    }
    if let Some(document) = document {
        b.document(document.into());
    }
    let path = dir.join(name);
    b.save_with(&path, &quickly()).unwrap();
    path
}

fn list(items: &[&str]) -> Value {
    items.iter().copied().collect()
}

fn integers(items: impl IntoIterator<Item = i64>) -> Value {
    items.into_iter().collect()
}

#[test]
fn ids_are_texts_or_integers_in_lists_or_tensors_and_there_may_be_more_of_them_than_rows() {
    let dir = tempfile::tempdir().unwrap();
    let data = ("data", DType::F32, &[3u64, 2][..]);
    let of = |name: &str, ids: Value| {
        file(
            dir.path(),
            name,
            &[data, ("numbers", DType::I32, &[3])],
            Some(Dict::from([("ids", ids), ("data", Value::tensor("data"))])),
        )
    };
    let texts = of("texts.dolmen", list(&["x", "y", "z", "v", "w"]));
    let table = Table::open([&texts], &Layout::new()).unwrap();
    assert_eq!((table.rows(), table.surplus_ids(), table.id(2), table.id(3)), (3, 2, Some("z"), None));
    assert_eq!(table.row_of("v").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Table::open([&texts, &texts], &Layout::new()).unwrap().surplus_ids(), 4);

    let numbers = of("integers.dolmen", integers([-5, 0, i64::MAX]));
    let table = Table::open([&numbers], &Layout::new().ids("ids")).unwrap();
    assert_eq!(table.row_of("-5").unwrap(), 0);
    assert_eq!(table.id(2), Some("9223372036854775807"));
    // They are not taken for ids unasked.
    assert!(Table::open([&numbers], &Layout::new()).unwrap().ids().is_none());
    // A tensor of integers, by its name. Texts and integers go together.
    let named = Table::open([&numbers], &Layout::new().ids("numbers")).unwrap();
    assert_eq!(named.ids().unwrap().iter().count(), 3);
    let both = Table::open([&texts, &numbers], &Layout::new().ids("ids")).unwrap();
    assert_eq!((both.row_of("z").unwrap(), both.row_of("0").unwrap()), (2, 4));

    let few = of("few.dolmen", list(&["x", "y"]));
    let e = Table::open([&texts, &few], &Layout::new()).unwrap_err();
    assert_eq!(
        (e.kind(), e.path(), e.expected(), e.found()),
        (ErrorKind::InvalidInput, Some(few.as_path()), Some(3), Some(2))
    );
    assert!(e.to_string().contains("few.dolmen: 3 rows have 2 ids; the file was cut short"), "{e}");
    let mixed = of("mixed.dolmen", Value::List(vec!["x".into(), 1.into(), "z".into()]));
    let e = Table::open([&mixed], &Layout::new().ids("ids")).unwrap_err().to_string();
    assert!(e.contains("mixed.dolmen: what is at \"ids\" cannot be ids: no texts, no integers"), "{e}");
    let e = Table::open([&texts], &Layout::new().ids("names")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(
        e.to_string().contains("there is nothing at \"names\", where its ids should be; there is \"ids\", \"data\""),
        "{e}"
    );
    let e = Table::open([&texts], &Layout::new().ids("data")).unwrap_err().to_string();
    assert!(e.contains("tensor \"data\": it is of dtype f32; integers are needed; name others in the layout"), "{e}");
}

#[test]
fn labels_are_lists_of_any_length_or_tensors_of_integers_and_as_many_as_rows() {
    let dir = tempfile::tempdir().unwrap();
    let data = |rows: u64| [("data", DType::F32, vec![rows, 2])];
    let of = |name: &str, rows: u64, labels: Value| {
        let tensors = data(rows);
        let tensors: Vec<_> = tensors.iter().map(|(name, dtype, shape)| (*name, *dtype, &shape[..])).collect();
        let mut all = tensors.clone();
        all.push(("classes", DType::I64, &[3]));
        all.push(("bytes", DType::U8, &[3]));
        all.push(("floats", DType::F32, &[3]));
        file(dir.path(), name, &all, Some(Dict::from([("data", Value::tensor("data")), ("labels", labels)])))
    };
    let labels =
        |path: &PathBuf, layout: Layout| Table::open([path], &layout).map(|table| table.labels().map(<[i64]>::to_vec));
    let short = of("short.dolmen", 3, integers([1, -2, 3]));
    assert_eq!(labels(&short, Layout::new()).unwrap(), Some(vec![1, -2, 3]));
    assert_eq!(labels(&short, Layout::new().no_labels()).unwrap(), None);
    let truths = of("truths.dolmen", 2, [true, false].into_iter().collect());
    assert_eq!(labels(&truths, Layout::new()).unwrap(), Some(vec![1, 0]));
    let i64_of = |n: i64| (0..8).fold(0, |sum, byte| sum | ((8 * n + byte) % 7) << (8 * byte));
    assert_eq!(labels(&short, Layout::new().labels("classes")).unwrap(), Some((0..3).map(i64_of).collect()));
    assert_eq!(labels(&short, Layout::new().labels("bytes")).unwrap(), Some(vec![0, 1, 2]));
    // A long list is a tensor in the file: of the writer, and of a checkpoint of PyTorch.
    let mut w = TableWriter::single(
        dir.path().join("long.dolmen"),
        &TableWriterOptions::new(DType::F32, [1]).unwrap().labels(true).save(quickly()),
    )
    .unwrap();
    let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let many: Vec<i64> = (0..500).map(|n| n * n - 9).collect();
    w.append_labelled(&ids, &vec![0f32; 500], &many).unwrap();
    let long = w.finish().unwrap().remove(0).path;
    assert!(Checkpoint::open(&long).unwrap().len() > 1, "the list is no tensor, and this tests nothing");
    assert_eq!(labels(&long, Layout::new()).unwrap(), Some(many));

    for (path, found) in [(of("few.dolmen", 3, integers([1, 2])), 2), (of("many.dolmen", 3, integers([1, 2, 3, 4])), 4)]
    {
        let e = Table::open([&path], &Layout::new()).unwrap_err();
        assert_eq!((e.path(), e.expected(), e.found()), (Some(path.as_path()), Some(3), Some(found)));
        assert!(
            e.to_string().contains(&format!("3 rows have {found} labels; name others in the layout, or leave")),
            "{e}"
        );
    }
    let e = labels(&of("floats.dolmen", 3, Value::tensor("floats")), Layout::new()).unwrap_err().to_string();
    assert!(e.contains("tensor \"floats\": it is of dtype f32; integers are needed; name others"), "{e}");
    let texts = of("texts.dolmen", 2, list(&["yes", "no"]));
    assert_eq!(labels(&texts, Layout::new().no_ids()).unwrap(), None, "texts are no labels unasked");
    let e = labels(&texts, Layout::new().no_ids().labels("labels")).unwrap_err().to_string();
    assert!(e.contains("its labels are texts; integers are needed"), "{e}");
    let e = Table::open([&short, &of("none.dolmen", 3, Value::Null)], &Layout::new()).unwrap_err().to_string();
    assert!(
        e.contains("none.dolmen: it has no labels, and files before it have; name them in the layout, or leave"),
        "{e}"
    );
}

#[test]
fn files_without_rows_go_with_all_others() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(4), DType::F32, 4, 10);
    let full = write(dir.path(), "full", &model, Made::new(Kind::Dolmen));
    let empty = |name: &str, shape: &[u64], document: Option<Dict>| {
        file(dir.path(), name, &[("data", DType::F32, shape)], document)
    };
    let data = || ("data", Value::tensor("data"));
    let nothing = || Value::List(Vec::new());
    let empties = [
        empty("written.dolmen", &[0, 4], Some(Dict::from([("ids", nothing()), data(), ("labels", nothing())]))),
        empty("unlabelled.dolmen", &[0, 4], Some(Dict::from([("ids", nothing()), data()]))),
        empty("surplus.dolmen", &[0, 4], Some(Dict::from([("ids", list(&["a", "b"])), data()]))),
        empty("bare.dolmen", &[0, 4], None),
        file(dir.path(), "list.dolmen", &[], Some(Dict::from([("ids", nothing()), ("data", nothing())]))),
        write(dir.path(), "empty", &model.part(3..3), Made::new(Kind::Torch)),
    ];
    for (n, path) in empties.iter().enumerate() {
        let layout = if n == 4 { Layout::new().matrix("data") } else { Layout::new() };
        for paths in [[path, &full], [&full, path]] {
            let table = Table::open(paths, &layout).unwrap_or_else(|e| panic!("{n}: {e}"));
            assert_eq!((table.rows(), table.width(), table.surplus_ids()), (10, 4, if n == 2 { 2 } else { 0 }), "{n}");
            assert_table(&table, &model, true, true, &mut Random::new(9), "with an empty file");
        }
        let alone = Table::open([path], &layout).unwrap();
        assert_eq!((alone.rows(), alone.ids().is_some()), (0, n != 3));
        assert_eq!(alone.labels().is_some(), n == 0 || n == 5, "{n}");
        assert!(read(&alone, &[]).is_empty() && alone.take_rows(&[]).unwrap().rows() == 0);
        assert!(alone.read_rows_into(&[0], &mut vec![0; alone.row_byte_len()]).is_err());
        let join = alone
            .join(&Table::open([&full], &Layout::new()).unwrap(), &JoinOptions::new().on_missing(OnMissing::LeaveOut));
        assert_eq!(join.map(|join| (join.table.rows(), join.missing_left)).ok(), (n != 3).then_some((0, 10)));
    }
    // An empty list is not taken for ids, or labels, of rows that there are.
    let notes = Dict::from([data(), ("notes", nothing()), ("labels", nothing())]);
    let notes = file(dir.path(), "notes.dolmen", &[("data", DType::F32, &[3, 4])], Some(notes));
    let table = Table::open([&notes], &Layout::new()).unwrap();
    assert!(table.ids().is_none() && table.labels().is_none());
    assert!(Table::open([&notes], &Layout::new().ids("notes")).is_err());
    let e = Table::open(Vec::<PathBuf>::new(), &Layout::new()).unwrap_err();
    assert_eq!(e.to_string(), "there are no checkpoints to make a table of");
}

#[test]
fn several_matrices_lie_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let mut b = Builder::new();
    b.tensor("a", (&[1f32, 2., 3., 4.], [2, 2])).unwrap();
    b.tensor("b", (&[10f32, 20.], [2])).unwrap();
    let cube: Vec<f32> = (0..16).map(|n| n as f32).collect();
    b.tensor("cube", (&cube, [2, 2, 4])).unwrap();
    let document = Dict::from([
        ("inner", Value::from(Dict::from([("a", Value::tensor("a"))]))),
        ("b", Value::tensor("b")),
        ("with.dot", Value::tensor("cube")),
    ]);
    b.document(document.into());
    let path = dir.path().join("f.dolmen");
    b.save_with(&path, &quickly()).unwrap();
    let layout = Layout::new().matrix("b").matrix("inner.a").matrix("with.dot").matrix("b");
    let table = Table::open([&path, &path], &layout).unwrap();
    assert_eq!((table.rows(), table.width()), (4, 12));
    assert_eq!(table.read_rows::<f32>(&[3]).unwrap(), [20., 3., 4., 8., 9., 10., 11., 12., 13., 14., 15., 20.]);
    assert_eq!(table.columns(2..5).unwrap().read_rows::<f32>(&[0, 1]).unwrap(), [2., 0., 1., 4., 8., 9.]);
    assert_eq!(table.columns(1..3).unwrap().cast(DType::F64).unwrap().read_rows::<f64>(&[2]).unwrap(), [1., 2.]);
    // Of the outermost dictionary, one key has a tensor of two axes or more.
    assert_eq!(Table::open([&path], &Layout::new()).unwrap().width(), 8);
}

#[test]
fn keys_name_positions_of_lists_shared_values_and_keys_with_dots() {
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<(String, [f32; 2])> = (0..4).map(|n| (format!("t{n}"), [n as f32, -(n as f32)])).collect();
    let mut b = Builder::new();
    for (name, row) in &tensors {
        b.tensor(name, row).unwrap();
    }
    let item = |n: usize, label: &str| {
        Value::from(Dict::from([("label", Value::from(label)), ("mean.of.all", Value::tensor(format!("t{n}")))]))
    };
    let document = Dict::from([
        ("first.list", Value::List(vec![item(0, "x"), item(1, "y")])),
        ("tuples", Value::Tuple(vec![Value::tensor("t2"), Value::tensor("t3")])),
    ]);
    b.document(document.into());
    let path = dir.path().join("f.dolmen");
    b.save_with(&path, &quickly()).unwrap();
    let layout = Layout::new().matrix("first.list.*.mean.of.all").ids("first.list.*.label").matrix("tuples");
    let table = Table::open([&path], &layout).unwrap();
    assert_eq!((table.rows(), table.width(), table.id(1)), (2, 4, Some("y")));
    assert_eq!(table.read_rows::<f32>(&[1, 0]).unwrap(), [1., -1., 3., -3., 0., 0., 2., -2.]);
    let star = Table::open([&path], &Layout::new().matrix("tuples.*")).unwrap();
    assert_eq!(star.read_rows::<f32>(&[1]).unwrap(), [3., -3.]);

    let e = Table::open([&path], &Layout::new()).unwrap_err().to_string();
    assert!(e.contains("it has several matrices: \"first.list.*.mean.of.all\", \"tuples\"; say which to take"), "{e}");
    let e = Table::open([&path], &Layout::new().matrix("first.list.*.mean")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let e = e.to_string();
    assert!(e.contains("f.dolmen: there is nothing at \"first.list.*.mean\", where its matrix should be; there is \"first.list\", \"tuples\""), "{e}");
    let e = Table::open([&path], &Layout::new().matrix("first.list.*.label")).unwrap_err().to_string();
    assert!(e.contains("what is at \"first.list.*.label\" is neither a tensor nor a list of tensors"), "{e}");
    for key in ["*", "**", "first.list.*.*", "", ".", "first.list.", "tuples.*.x"] {
        assert!(Table::open([&path], &Layout::new().matrix(key)).is_err(), "{key:?}");
    }
}

#[test]
fn what_is_no_table_is_refused_with_file_tensor_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (f32, at) = (DType::F32, |name: &str| dir.path().join(name));
    let error = |paths: &[PathBuf], layout: Layout| Table::open(paths, &layout).unwrap_err();
    let two = file(dir.path(), "two.dolmen", &[("a", f32, &[2, 2]), ("b", f32, &[3, 2]), ("s", f32, &[])], None);
    let e = error(std::slice::from_ref(&two), Layout::new());
    assert_eq!(e.path(), Some(two.as_path()));
    assert!(e.to_string().contains("it has several matrices: \"a\", \"b\"; say which to take"), "{e}");
    let e = error(std::slice::from_ref(&two), Layout::new().matrix("a").matrix("b")).to_string();
    assert!(e.contains("two.dolmen: its matrices have different numbers of rows: \"a\" has 2 and \"b\" has 3"), "{e}");
    let e = error(std::slice::from_ref(&two), Layout::new().matrix("s"));
    assert_eq!((e.tensor(), e.path()), (Some("s"), Some(two.as_path())));
    assert!(e.to_string().contains("it is a scalar, which has no rows"), "{e}");
    let e = error(std::slice::from_ref(&two), Layout::new().matrix("c"));
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert!(
        e.to_string().contains("there is nothing at \"c\", where its matrix should be; there is \"a\", \"b\", \"s\""),
        "{e}"
    );
    let e = error(std::slice::from_ref(&two), Layout::new().matrix("a").ids("i")).to_string();
    assert!(e.contains("where its ids should be"), "{e}");

    let (narrow, wide) = (
        file(dir.path(), "narrow.dolmen", &[("d", f32, &[2, 2])], None),
        file(dir.path(), "wide.dolmen", &[("d", f32, &[2, 3])], None),
    );
    let e = error(&[narrow.clone(), wide.clone()], Layout::new());
    assert_eq!((e.path(), e.tensor(), e.expected(), e.found()), (Some(wide.as_path()), Some("d"), Some(2), Some(3)));
    assert!(e.to_string().contains("its rows have 3 elements, and those of "), "{e}");
    assert!(e.to_string().contains("narrow.dolmen have 2"), "{e}");
    let integers = file(dir.path(), "i.dolmen", &[("d", DType::I64, &[2, 2])], None);
    let e = error(&[integers.clone(), narrow.clone()], Layout::new());
    assert_eq!((e.path(), e.tensor()), (Some(narrow.as_path()), Some("d")));
    assert!(e.to_string().contains("elements of dtype f32 cannot be converted to i64; bool, integers"), "{e}");

    let mut b = Builder::new();
    b.tensor("t", TensorData::strided(f32, [2, 3], [1, 2], vec![0; 24]).unwrap()).unwrap();
    b.tensor("p", TensorData::raw(DType::U4, [2, 2], vec![0; 2]).unwrap()).unwrap();
    b.tensor("q", TensorData::raw(DType::U4, [2, 3], vec![0; 3]).unwrap()).unwrap();
    b.tensor("r0", &[1f32, 2.0]).unwrap();
    b.tensor("r1", &[1f32]).unwrap();
    b.tensor("r2", &[1f64, 2.0]).unwrap();
    let rows = |names: &[&str]| names.iter().map(|name| Value::tensor(*name)).collect::<Value>();
    b.document(
        Dict::from([
            ("short", rows(&["r0", "r1"])),
            ("wide", rows(&["r0", "r2"])),
            ("torn", rows(&["t"])),
            ("n", 1.into()),
        ])
        .into(),
    );
    b.save_with(at("odd.dolmen"), &quickly()).unwrap();
    let odd = [at("odd.dolmen")];
    for (key, tensor, text) in [
        ("t", "t", "its strides [1, 2] tear rows apart; store it contiguous: rows first"),
        ("p", "p", "a table cannot have dtype u4: it is packed"),
        ("q", "q", "its rows do not begin at byte boundaries"),
        ("short", "r1", "it is a row of 1 f32 where the first row of \"short\" has 2 f32"),
        ("wide", "r2", "it is a row of 2 f64 where the first row of \"wide\" has 2 f32"),
        ("torn", "t", "it is one row of a table, and not contiguous"),
    ] {
        let e = error(&odd, Layout::new().matrix(key));
        assert_eq!((e.path(), e.tensor()), (Some(odd[0].as_path()), Some(tensor)), "{e}");
        assert!(e.to_string().contains(text), "{e}");
    }
    assert!(error(&odd, Layout::new().matrix("n")).to_string().contains("neither a tensor nor a list of tensors"));
    let e = error(&[file(dir.path(), "no.dolmen", &[("v", f32, &[2])], None)], Layout::new()).to_string();
    assert!(
        e.contains("it has no matrix: no tensor of two axes, no list of tensors; it has \"v\"; is it a table"),
        "{e}"
    );
    let texts = Dict::from([("a", list(&["x"])), ("b", list(&["y"])), ("d", Value::tensor("d"))]);
    let texts = file(dir.path(), "texts.dolmen", &[("d", f32, &[1, 2])], Some(texts));
    let e = error(std::slice::from_ref(&texts), Layout::new()).to_string();
    assert!(e.contains("it has several lists of texts: \"a\", \"b\"; say which are the ids"), "{e}");
    assert_eq!(Table::open([&texts], &Layout::new().ids("b")).unwrap().id(0), Some("y"));
    assert_eq!(error(&[at("none.dolmen")], Layout::new()).path(), Some(at("none.dolmen").as_path()));
}

#[test]
fn damage_is_found_when_a_row_is_touched_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(8), DType::F32, 64, 100);
    for kind in [Kind::Dolmen, Kind::Torch] {
        let path = write(dir.path(), "f", &model, Made::new(kind));
        let data = place(&path, "data");
        // In row 50, of 256 bytes.
        flip(&path, data.start + 50 * 256 + 3);
        for way in [Way::Read, Way::Direct, Way::Map, Way::Bytes] {
            let table = open(std::slice::from_ref(&path), &Layout::new(), way).unwrap();
            let columns = table.columns(3..9).unwrap();
            let touched = |row: u64| kind == Kind::Torch || (row as usize * 256) / BLOCK == 50 * 256 / BLOCK;
            for row in (0..100).rev().chain(0..100) {
                for (table, expected) in [
                    (&table, model.part(row as usize..row as usize + 1)),
                    (&columns, model.part(row as usize..row as usize + 1).columns(3..9)),
                ] {
                    let mut bytes = vec![0; table.row_byte_len()];
                    match table.read_rows_into(&[row], &mut bytes) {
                        Ok(()) => assert!(!touched(row) && bytes == expected.bytes(), "{kind:?} {way:?} {row}"),
                        Err(e) => {
                            assert!(touched(row), "{kind:?} {way:?} {row}: {e}");
                            assert_eq!((e.kind(), e.tensor()), (ErrorKind::Corrupt, Some("data")));
                            assert_eq!(e.path(), (way != Way::Bytes).then_some(path.as_path()));
                            assert!(e.to_string().contains(&format!("row {row} of the table: block ")), "{e}");
                        }
                    }
                }
            }
            if matches!(way, Way::Map | Way::Bytes) {
                let e = table.slice::<f32>(49..52).unwrap_err();
                assert_eq!((e.kind(), e.tensor()), (ErrorKind::Corrupt, Some("data")));
                assert_eq!(table.slice::<f32>(0..10).is_ok(), kind == Kind::Dolmen);
            }
        }
        let e = open(std::slice::from_ref(&path), &Layout::new(), Way::Memory).unwrap_err();
        assert_eq!((e.kind(), e.path()), (ErrorKind::Corrupt, Some(path.as_path())));
    }
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_of_reading() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = Model::random(&mut Random::new(8), DType::F32, 64, 400);
    for way in [Way::Read, Way::Direct] {
        for cut in [1000usize, 50_000, 50_001, 49_152] {
            let path = write(dir.path(), "f", &model, Made::new(Kind::Dolmen));
            let table = open(std::slice::from_ref(&path), &Layout::new(), way).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
            let table = std::sync::Arc::new(table);
            let shared = std::sync::Arc::clone(&table);
            let e = common::feature::in_time(move || shared.read_rows::<f32>(&[399]).unwrap_err());
            assert_eq!(
                (e.kind(), e.tensor(), e.path()),
                (ErrorKind::Io, Some("data"), Some(path.as_path())),
                "{way:?} {cut}"
            );
            assert!(e.to_string().contains("row 399 of the table: the file became shorter while it was read"), "{e}");
            let shared = std::sync::Arc::clone(&table);
            let all = common::feature::in_time(move || {
                (0..400).filter(|&row| shared.read_rows::<f32>(&[row]).is_ok()).count()
            });
            assert!(all < 400 && (cut < 5000 || all > 100), "{way:?} {cut}: {all}");
        }
    }
}

#[test]
fn files_of_the_pipeline_that_the_checkpoints_come_from_are_read_as_they_are() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data");
    for way in WAYS {
        let open = |name: &str, layout: Layout| {
            open(&[data.join(name)], &layout, way).unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        // Floats in the pickle, a list in each dictionary.
        let dna = open("dnabert.pt", Layout::new());
        assert_eq!((dna.rows(), dna.width(), dna.dtype(), dna.id(1)), (2, 96, DType::F32, Some("seq2")));
        let expected: Vec<f32> = (0..96).map(|i| -(0.1 * f64::from(i)) as f32).collect();
        assert_eq!(dna.read_rows::<f32>(&[1]).unwrap(), expected);
        // A tensor for each row.
        let esm = open("esm.pt", Layout::new());
        assert_eq!((esm.rows(), esm.width(), esm.row_of("p3").unwrap()), (3, 8, 2));
        let (one, two) = (esm.read_rows::<f32>(&[1]).unwrap(), esm.read_rows::<f32>(&[2]).unwrap());
        assert_eq!(one.iter().map(|x| x * 2.0).collect::<Vec<_>>(), two);
        assert_eq!(esm.read_rows::<f32>(&[0]).unwrap(), [0.0; 8]);
        let merged = open("merged.pt", Layout::new());
        assert_eq!((merged.rows(), merged.width(), merged.labels()), (3, 12, Some(&[0, 1, 1][..])));
        // Rows are one ramp.
        let all = merged.read_rows::<f32>(&[0, 1, 2]).unwrap();
        assert_eq!(all[12..24], merged.read_rows::<f32>(&[1]).unwrap());
        let step = all[1] - all[0];
        assert!(step != 0.0 && all.windows(2).all(|pair| ((pair[1] - pair[0]) - step).abs() < 1e-3));
        let empty = open("empty_merge.pt", Layout::new());
        assert_eq!((empty.rows(), empty.width(), empty.surplus_ids()), (0, 12, 1));
        let both = Table::open([data.join("empty_merge.pt"), data.join("merged.pt")], &Layout::new()).unwrap();
        assert_eq!((both.rows(), both.id(0), both.surplus_ids()), (3, Some("a"), 1));
        for name in ["batch_2.pt", "batch_4.pt"] {
            let batch = open(name, Layout::new());
            assert_eq!((batch.rows(), batch.width(), batch.id(3)), (4, 300, Some("s4")));
            let expected: Vec<f32> = (600..900).map(|n| n as f32 / 7.0).collect();
            assert_eq!(batch.read_rows::<f32>(&[2]).unwrap(), expected);
        }
    }
}

#[test]
fn rows_of_two_files_in_different_orders_are_those_of_the_merged_one() {
    let dir = tempfile::tempdir().unwrap();
    let ids = |of: &[u32]| of.iter().map(|n| format!("id{n}")).collect::<Vec<_>>();
    let of = |name: &str, key: &str, ids: &[String], rows: &[[f32; 2]], torch: bool| {
        let mut b = Builder::with_options(FileOptions::new());
        let names: Vec<String> = (0..rows.len()).map(|n| format!("data.{n}")).collect();
        for (name, row) in names.iter().zip(rows) {
            b.tensor(name, row).unwrap();
        }
        let rows = names.iter().map(Value::tensor).collect::<Value>();
        b.document(Dict::from([(key, ids.iter().map(|id| Value::from(id.as_str())).collect()), ("data", rows)]).into());
        let path = dir.path().join(name);
        if torch {
            let mut bytes = Vec::new();
            let made = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
            let _ =
                dolmen::foreign::torch::write(&made, &mut bytes, dolmen::foreign::torch::ExportOptions::new()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        } else {
            b.save_with(&path, &quickly()).unwrap();
        }
        Table::open([path], &Layout::new()).unwrap()
    };
    let a = of("a.pt", "nucleotide", &ids(&[0, 1, 2, 3]), &[[0., 0.5], [1., 1.5], [2., 2.5], [3., 3.5]], true);
    let b = of("b.dolmen", "proteins", &ids(&[3, 1, 0, 2]), &[[30., 31.], [10., 11.], [0., 1.], [20., 21.]], false);
    let table = a.join(&b, &JoinOptions::new()).unwrap().table;
    assert_eq!((table.rows(), table.width()), (4, 4));
    assert_eq!(table.read_rows::<f32>(&[3, 0]).unwrap(), [3., 3.5, 30., 31., 0., 0.5, 0., 1.]);
    assert_eq!(table.columns(1..3).unwrap().read_rows::<f32>(&[1]).unwrap(), [1.5, 10.]);
    assert_eq!(table.row_of("id2").unwrap(), 2);
    let counts: BTreeMap<&str, usize> = table.ids().unwrap().iter().map(|id| (id, 1)).collect();
    assert_eq!(counts.len(), 4);
}

#[test]
fn threads_that_touch_a_block_at_the_same_time_all_have_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(21), DType::F32, 16, 2000);
    for made in [Made::new(Kind::Dolmen), Made::new(Kind::Torch)] {
        let path = write(dir.path(), "f", &model, made);
        for way in WAYS {
            let table = open(std::slice::from_ref(&path), &Layout::new(), way).unwrap();
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    let (table, model) = (&table, &model);
                    scope.spawn(move || {
                        let mut random = Random::new(thread);
                        for _ in 0..30 {
                            let rows: Vec<u64> = (0..50).map(|_| random.below(2000) as u64).collect();
                            assert!(read(table, &rows) == model.bytes_of(&rows));
                        }
                    });
                }
            });
        }
    }
}
