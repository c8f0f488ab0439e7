//! Tables of features over any checkpoint: found or refused, and then the same whichever way rows are read.

use std::sync::Arc;

use dolmen::feature::{
    Host, JoinOptions, Layout, LoadOptions, Loader, LoaderOptions, OnDamage, Order, PageCache, Table, Which,
    load_to_device,
};
use dolmen::format::value::Dict;
use dolmen::{Builder, Checkpoint, DType, Error, ErrorKind, FileOptions, OpenOptions, Result, TensorData, Value};

use super::open::{self, Outcome};
use super::{heap, seal};

/// Bytes that are copied for one input: rows may overlap, so that there can be far more of them than of the file.
const COPIED: usize = 1 << 20;

/// Bytes as they come, as a table that is found in them.
pub fn feature_table(data: &[u8]) -> Outcome {
    let Ok(checkpoint) = Checkpoint::from_bytes(data) else { return Outcome::Refused("no checkpoint") };
    let checkpoint = Arc::new(checkpoint);
    // The document as values, and ids as text. What is compressed may become a thousand times as long.
    let (table, peak) = heap::peak(|| Table::of_checkpoints([Arc::clone(&checkpoint)], &Layout::new()));
    if checkpoint.tensors().flatten().all(|tensor| tensor.is_in_place()) {
        let allowed = (1 << 20) + 1000 * data.len() as u64;
        assert!(peak <= allowed, "{peak} bytes were in use for a file of {}; {allowed} are allowed", data.len());
    }
    let table = match table {
        Ok(table) => table,
        Err(e) => return Outcome::Refused(expected(&e)),
    };
    let outcome = match check(&table, 0) {
        Ok(()) => Outcome::Valid,
        Err(e) => Outcome::Opened(expected(&e)),
    };
    if open::is_chosen(data, 16) {
        other_ways(data, outcome);
    }
    outcome
}

/// The same rows come from a file, read on demand or past the page cache, and mapped; by several threads.
fn other_ways(data: &[u8], outcome: Outcome) {
    let path = open::scratch("table");
    std::fs::write(&path, data).expect("the scratch directory can be written");
    let options = OpenOptions::new();
    // SAFETY: nobody else writes to the file.
    let mapped = unsafe { options.map(&path) };
    let ways = [
        ("map", mapped),
        ("on demand", options.open_on_demand(&path)),
        ("direct", options.clone().direct(true).open_on_demand(&path)),
    ];
    for (way, checkpoint) in ways {
        // Not every file system has direct reads.
        let Ok(checkpoint) = checkpoint else { continue };
        let table = Table::of_checkpoints([Arc::new(checkpoint)], &Layout::new()).expect("it was found in memory");
        let found = match check(&table, 2) {
            Ok(()) => Outcome::Valid,
            Err(e) => Outcome::Opened(expected(&e)),
        };
        assert_eq!(found, outcome, "{way}");
    }
    let loaded = |checkpoint: &Checkpoint| load_to_device(checkpoint, Host, &LoadOptions::new().threads(2));
    let there = options.open_on_demand(&path).expect("it was opened before");
    let here = Checkpoint::from_bytes(data).expect("it was opened before");
    match (loaded(&here), loaded(&there)) {
        (Ok(one), Ok(other)) => {
            assert_eq!(one.len(), here.len());
            for (tensor, (one, other)) in here.tensors().zip(one.tensors().zip(other.tensors())) {
                let tensor = tensor.expect("it was copied");
                assert_eq!(one.as_bytes(), tensor.bytes_unverified().expect("it was copied"));
                assert_eq!((one.name(), one.as_bytes()), (other.name(), other.as_bytes()));
            }
        }
        (Err(one), Err(other)) => assert_eq!(one.kind(), other.kind()),
        (one, other) => panic!("loaded from memory: {:?}, from a file: {:?}", one.map(drop), other.map(drop)),
    }
    std::fs::remove_file(&path).expect("it was written");
}

/// The mutation of the target `feature_table`.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut seal::Mutate<'_>) -> usize {
    if data[..size].starts_with(seal::MAGIC) {
        return seal::mutate(data, size, max_size, seed, mutate);
    }
    super::torch::mutate(data, size, max_size, seed, mutate)
}

/// Tables as Dolmen files: over several blocks, with and without ids and labels.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let options = || FileOptions::new().alignment(64).and_then(|options| options.block_len(4096)).expect("allowed");
    let (rows, width) = (60u64, 40u64);
    let values: Vec<u8> = (0..rows * width).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let matrix = || TensorData::raw(DType::F32, [rows, width], values.clone()).expect("sound");
    let ids = |count: u64| Value::List((0..count).map(|n| Value::from(format!("id{}", n % 50))).collect());
    let labels = |count: u64| Value::List((0..count).map(|n| Value::from(n % 2)).collect());
    let dict = |entries: Vec<(&str, Value)>| {
        let mut dict = Dict::new();
        entries.into_iter().for_each(|(key, value)| dict.push(key, value));
        Value::from(dict)
    };
    let whole = |document: Option<Value>| {
        let mut builder = Builder::with_options(options());
        builder.tensor("features", matrix()).expect("sound");
        if let Some(document) = document {
            builder.document(document);
        }
        builder.to_vec().expect("sound")
    };
    let features = || ("features", Value::tensor("features"));
    let listed = {
        let mut builder = Builder::with_options(options());
        let mut items = Vec::new();
        for row in 0..20usize {
            let name = format!("features.{row}");
            let bytes = values[row * 160..][..160].to_vec();
            builder.tensor(&name, TensorData::raw(DType::F32, [width], bytes).expect("sound")).expect("sound");
            items.push(Value::tensor(name));
        }
        builder.document(dict(vec![
            ("features", Value::List(items)),
            ("variant_ids", ids(20)),
            ("labels", labels(20)),
        ]));
        builder.to_vec().expect("sound")
    };
    let mut damaged = whole(Some(dict(vec![features(), ("variant_ids", ids(rows))])));
    damaged[6000] ^= 1;
    vec![
        ("dolmen-matrix", whole(None)),
        ("dolmen-document", whole(Some(dict(vec![features(), ("variant_ids", ids(rows)), ("labels", labels(rows))])))),
        ("dolmen-rows", listed),
        ("dolmen-damaged", damaged),
    ]
}

/// The kind of an error that a file may be the reason of.
fn expected(e: &Error) -> &'static str {
    let kind = e.kind();
    let of_the_file = e.is_corruption()
        || e.is_incompatible()
        || matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound | ErrorKind::Limit);
    assert!(of_the_file, "not an error of a file: {e:?}");
    kind.name()
}

fn check(table: &Table, threads: u32) -> Result<()> {
    let row_len = table.row_byte_len();
    let rows = table.rows();
    if rows == 0 || row_len.saturating_mul(8) > COPIED {
        return Ok(());
    }
    let some = [rows - 1, 0, rows / 2, rows / 3];
    let mut together = vec![0; some.len() * row_len];
    table.read_rows_into(&some, &mut together)?;
    for (&row, expected) in some.iter().zip(together.chunks(row_len.max(1))) {
        let mut one = vec![1; row_len];
        table.read_rows_into(&[row], &mut one)?;
        assert_eq!(one, expected, "row {row}");
    }
    // Columns side by side are the rows.
    let middle = table.width() / 2;
    let (left, right) = (table.columns(0..middle)?, table.columns(middle..table.width())?);
    let mut halves = [vec![0; left.row_byte_len()], vec![0; right.row_byte_len()]];
    left.read_rows_into(&[rows / 2], &mut halves[0])?;
    right.read_rows_into(&[rows / 2], &mut halves[1])?;
    assert_eq!(halves.concat(), together[2 * row_len..3 * row_len]);
    for dtype in [DType::F32, DType::F16] {
        if let Ok(cast) = table.cast(dtype) {
            let mut out = vec![0; cast.row_byte_len()];
            cast.read_rows_into(&[rows - 1], &mut out)?;
        }
    }
    if let Some(id) = table.id(rows / 2) {
        assert!(table.row_of(id)? <= rows / 2, "the first row of an id is not after another one");
        let joined = table.join(table, &JoinOptions::new().on_duplicates(Which::First))?.table;
        assert_eq!((joined.rows(), joined.width()), (rows, 2 * table.width()));
    }
    let all = usize::try_from(rows).ok().and_then(|rows| rows.checked_mul(row_len.max(1)));
    if all.is_some_and(|all| all <= COPIED) {
        let orders = [Order::shuffled(rows), Order::sequential(), Order::block_shuffled(rows, 5, 2)];
        let orders = if threads == 0 { &orders[..1] } else { &orders };
        for &order in orders {
            let options = LoaderOptions::new().threads(threads).batch_len(7).on_damage(OnDamage::SkipRows);
            let options = if threads == 0 { options } else { options.page_cache(PageCache::Spare).copied(true) };
            let loader = Loader::new(table, Host, options)?;
            let mut seen = 0;
            for batch in loader.epoch(order)? {
                let batch = batch?;
                seen += batch.len() as u64 + batch.skipped().len() as u64;
            }
            assert_eq!(seen, rows);
        }
    }
    Ok(())
}
