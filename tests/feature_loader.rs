//! Loaders: every row once, bit for bit, whatever the order, the threads, the damage, and the device.
#![cfg(all(feature = "feature", feature = "torch", unix))]

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Random;
use common::feature::{BLOCK, Call, Kind, Made, Model, Trial, Wrong, flip, in_memory, in_time, place, write};
use dolmen::feature::{
    Access, Batch, BatchPlan, Device, Host, JoinOptions, Layout, Loader, LoaderOptions, OnDamage, Order, PageCache,
    Shard, Table, Tail, Verification,
};
use dolmen::{Checkpoint, DType, ErrorKind};

fn options() -> LoaderOptions {
    LoaderOptions::new()
}

const ORDERS: [Order; 3] = [
    Order::Sequential,
    Order::Shuffled { seed: 3, epoch: 1 },
    Order::BlockShuffled { seed: 5, epoch: 2, block_rows: 9, window_blocks: 3 },
];
const TAILS: [Tail; 3] = [Tail::Keep, Tail::DropShort, Tail::DropUneven];

/// Asserts that a batch has these rows, and their bytes and labels.
fn assert_batch<D: Device>(batch: &Batch<D>, rows: &[u64], model: &Model, about: &str) {
    assert_eq!(batch.rows(), rows, "{about}");
    assert_eq!(batch.shape(), [rows.len() as u64, model.width as u64], "{about}");
    assert_eq!((batch.len(), batch.is_empty()), (rows.len(), rows.is_empty()), "{about}");
    assert!(batch.read_back().unwrap() == model.bytes_of(rows), "{about}: {rows:?}");
    assert_eq!(batch.features_in_memory().len(), rows.len() * model.row_len(), "{about}");
    if let Some(labels) = batch.labels() {
        assert_eq!(labels, model.labels_of(rows), "{about}");
        assert_eq!(batch.read_back_labels().unwrap().as_deref(), Some(labels), "{about}");
        let place = batch.labels_in_memory().unwrap();
        assert!(place.start.is_multiple_of(256) && place.start >= batch.features_in_memory().end, "{about}");
    } else {
        assert!(batch.labels_in_memory().is_none() && batch.read_back_labels().unwrap().is_none());
    }
}

/// Tables of the same rows: lent, and read; with labels and without; of one file and of several; joined and converted.
fn tables(dir: &Path, model: &Model) -> Vec<Table> {
    let unlabelled = Made { labels: false, ..Made::new(Kind::Dolmen) };
    let thirds = |kind: Kind| -> Vec<PathBuf> {
        let n = model.rows.len();
        let cuts = [0..n / 3, n / 3..n / 3, n / 3..n - n / 4, n - n / 4..n];
        let part = |(i, cut)| write(dir, &format!("part{i}"), &model.part(cut), Made::new(kind));
        cuts.into_iter().enumerate().map(part).collect()
    };
    let (half, columns) =
        (model.width / 2, |table: &Table, a: usize, b: usize| table.columns(a as u64..b as u64).unwrap());
    let whole = in_memory(model, Made::new(Kind::Dolmen));
    let backwards: Vec<u64> = (0..model.rows.len() as u64).rev().collect();
    let right = columns(&whole, half, model.width).take_rows(&backwards).unwrap();
    vec![
        in_memory(model, unlabelled),
        Table::open(thirds(Kind::Dolmen), &Layout::new()).unwrap(),
        Table::open_with(thirds(Kind::Torch), &Layout::new().no_labels(), Access::Read).unwrap(),
        columns(&whole, 0, half).join(&right, &JoinOptions::new()).unwrap().table,
        whole.cast(DType::F64).unwrap(),
    ]
}

/// The same rows, in twice the precision.
fn doubled(model: &Model) -> Model {
    let mut doubled = Model { dtype: DType::F64, ..model.clone() };
    for row in &mut doubled.rows {
        let numbers = row.bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())));
        row.bytes = numbers.flat_map(f64::to_le_bytes).collect();
    }
    doubled
}

#[test]
fn every_row_comes_once_over_all_ranks_in_its_place_in_every_way_of_loading() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(1), DType::F32, 6, 131);
    let double = doubled(&model);
    let tables = tables(dir.path(), &model);
    let mut combination = 0;
    for order in ORDERS {
        for world in [1, 3] {
            for tail in TAILS {
                for batch_len in [1, 10, 32, 131, 1000, u64::MAX] {
                    for threads in [0, 1, 2, 4] {
                        combination += 1;
                        let prefetch = [1, 3, 8][combination % 3];
                        let number = combination % tables.len();
                        let (table, model) = (&tables[number], if number == 4 { &double } else { &model });
                        let about =
                            format!("{order:?} {world} {tail:?} {batch_len} {threads} {prefetch}, table {number}");
                        let page_cache = [PageCache::Auto, PageCache::Keep, PageCache::Spare][combination / 3 % 3];
                        let options = options().batch_len(batch_len).threads(threads).prefetch(prefetch).tail(tail);
                        let options = options.page_cache(page_cache).copied(combination % 7 == 0);
                        let mut seen = Vec::new();
                        let mut expected = 0;
                        for rank in 0..world {
                            let shard = Shard::new(rank, world).unwrap();
                            let plan = BatchPlan::new(131, batch_len, order, shard, tail).unwrap();
                            let loader = Loader::new(table, Host, options.shard(shard)).unwrap();
                            assert_eq!(loader.batch_count(), plan.batch_count(), "{about}");
                            expected += plan.row_count();
                            let mut batches = loader.epoch(order).unwrap();
                            for number in 0..plan.batch_count() {
                                let left = (plan.batch_count() - number) as usize;
                                assert_eq!((batches.size_hint(), batches.next_number()), ((left, Some(left)), number));
                                let batch = batches.next().unwrap().unwrap_or_else(|e| panic!("{about}: {e}"));
                                assert_eq!(batch.number(), number);
                                assert_batch(&batch, &plan.batch(number).unwrap(), model, &about);
                                seen.extend_from_slice(batch.rows());
                            }
                            assert!(batches.next().is_none() && batches.next().is_none());
                            let report = batches.report();
                            assert_eq!(
                                (report.batches, report.rows),
                                (plan.batch_count(), plan.row_count()),
                                "{about}"
                            );
                            assert_eq!(report.bytes, plan.row_count() * table.row_byte_len() as u64);
                            assert_eq!((report.failed_batches, report.skipped_rows), (0, 0));
                        }
                        assert_eq!(seen.len() as u64, expected, "{about}");
                        let distinct: BTreeSet<u64> = seen.iter().copied().collect();
                        assert_eq!(distinct.len(), seen.len(), "{about}: a row came twice");
                        assert!(tail != Tail::Keep || seen.len() == 131, "{about}");
                    }
                }
            }
        }
    }
}

#[test]
fn resuming_at_a_batch_is_skipping_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(2), DType::F32, 6, 95);
    for (n, table) in tables(dir.path(), &model).iter().enumerate() {
        let shard = Shard::new(1, 2).unwrap();
        let loader = Loader::new(table, Host, options().batch_len(8).shard(shard).threads(n as u32 % 3)).unwrap();
        for order in ORDERS {
            let all: Vec<Vec<u8>> = loader.epoch(order).unwrap().map(|b| b.unwrap().as_bytes().to_vec()).collect();
            assert_eq!(all.len(), 6);
            for from in 0..=all.len() {
                let mut batches = loader.epoch_from(order, from as u64).unwrap();
                assert_eq!(batches.next_number(), from as u64);
                for (number, expected) in (0..).zip(&all).skip(from) {
                    let batch = batches.next().unwrap().unwrap();
                    assert_eq!((batch.number(), batch.as_bytes()), (number, &expected[..]));
                }
                assert!(batches.next().is_none());
            }
            assert!(loader.epoch_from(order, u64::MAX).unwrap().next().is_none());
        }
    }
}

#[test]
fn a_table_without_rows_has_no_batches_and_batches_without_rows_are_refused() {
    for labels in [true, false] {
        let model = Model::random(&mut Random::new(2), DType::F32, 6, 0);
        let table = in_memory(&model, Made { labels, ..Made::new(Kind::Dolmen) });
        for threads in [0, 2] {
            let loader = Loader::new(&table, Host, options().threads(threads)).unwrap();
            assert_eq!(loader.batch_count(), 0);
            for order in ORDERS {
                assert!(loader.epoch(order).unwrap().next().is_none());
            }
        }
        let e = Loader::new(&table, Host, options().batch_len(0)).unwrap_err();
        assert_eq!(e.to_string(), "batches of 0 rows have no end; a batch has a row at least");
        let loader = Loader::new(&table, Host, options()).unwrap();
        assert!(loader.epoch(Order::block_shuffled(1, 0, 1)).is_err());
    }
    // Rows of no columns are rows all the same.
    let model = Model::random(&mut Random::new(2), DType::F32, 3, 10);
    let table = in_memory(&model, Made::new(Kind::Dolmen)).columns(1..1).unwrap();
    let loader = Loader::new(&table, Trial::new(8), options().batch_len(4)).unwrap();
    for (number, batch) in loader.epoch(Order::shuffled(1)).unwrap().enumerate() {
        let batch = batch.unwrap();
        assert_batch(&batch, batch.rows(), &model.columns(1..1), "no columns");
        assert_eq!(batch.len(), [4, 4, 2][number]);
    }
}

#[test]
fn batches_are_lent_where_rows_lie_together_and_are_what_copies_are() {
    let model = Model::random(&mut Random::new(3), DType::F32, 64, 100);
    let made = Made { labels: false, ..Made::new(Kind::Dolmen) };
    let table = in_memory(&model, made);
    let run = |table: &Table, order: Order, options: LoaderOptions| {
        let loader = Loader::new(table, Host, options.batch_len(16)).unwrap();
        let batches: Vec<Batch<Host>> = loader.epoch(order).unwrap().map(Result::unwrap).collect();
        batches
    };
    let (lent, copied) =
        (run(&table, Order::sequential(), options()), run(&table, Order::sequential(), options().copied(true)));
    for (lent, copied) in lent.iter().zip(&copied) {
        assert!(lent.is_lent() && !copied.is_lent());
        assert_eq!(lent.as_bytes(), copied.as_bytes());
        assert_eq!(lent.as_slice::<f32>().unwrap(), copied.as_slice::<f32>().unwrap());
        assert_ne!(lent.as_bytes().as_ptr(), copied.as_bytes().as_ptr());
        assert!(lent.as_bytes().as_ptr().addr().is_multiple_of(16));
        assert!(copied.memory().as_ptr().addr().is_multiple_of(256));
        assert_batch(lent, copied.rows(), &model, "lent");
    }
    let is_lent =
        |table: &Table, order: Order, options: LoaderOptions| run(table, order, options).iter().any(Batch::is_lent);
    let (all, sequential): (Vec<u64>, _) = ((0..100).collect(), Order::sequential());
    assert!(is_lent(&table, sequential, options().verification(Verification::Off).on_damage(OnDamage::SkipRows)));
    assert!(is_lent(&table, sequential, options().threads(0).on_damage(OnDamage::SkipRows)));
    assert!(!is_lent(&table, sequential, options().verification(Verification::EveryEpoch)));
    assert!(!is_lent(&table, Order::shuffled(1), options()));
    assert!(!is_lent(&table.columns(0..63).unwrap(), sequential, options()));
    assert!(!is_lent(&table.cast(DType::F16).unwrap(), sequential, options()));
    assert!(!is_lent(&table.take_rows(&all).unwrap(), sequential, options()));
    assert!(
        !is_lent(&in_memory(&model, Made::new(Kind::Dolmen)), sequential, options()),
        "labels would not be behind it"
    );
    // Of two parts, the batch that is in both is copied.
    let parts = [model.part(0..24), model.part(24..100)];
    let parts = parts.iter().map(|part| Checkpoint::from_bytes(&common::feature::file_of(part, made)).unwrap());
    let two = Table::of_checkpoints(parts, &Layout::new()).unwrap();
    let batches = run(&two, sequential, options());
    assert_eq!(batches.iter().map(Batch::is_lent).collect::<Vec<_>>(), [true, false, true, true, true, true, true]);
    // They outlive all that they came from.
    drop((table, two));
    for batch in lent.iter().chain(&batches) {
        assert_batch(batch, batch.rows(), &model, "alone");
    }
    let wrong = lent[0].as_slice::<f64>().unwrap_err().to_string();
    assert_eq!(wrong, "the batch is of dtype f32, not f64");
}

#[test]
fn memory_goes_round_and_is_bounded_by_what_is_ahead_and_in_use() {
    let model = Model::random(&mut Random::new(4), DType::F32, 16, 400);
    let table = in_memory(&model, Made::new(Kind::Dolmen));
    for (threads, prefetch) in [(0, 1), (1, 1), (2, 3), (4, 2)] {
        let device = Arc::new(Trial { delay: 30, ..Trial::new(1 << 16) });
        let seen = Arc::clone(&device.seen);
        let options = options().batch_len(10).threads(threads).prefetch(prefetch);
        let loader = Loader::<Trial>::new(&table, Arc::clone(&device), options).unwrap();
        let lanes = threads.max(1) as usize;
        let ahead = prefetch.max(threads) as usize;
        assert_eq!(loader.pinned_byte_len(), lanes << 16);
        for epoch in 0..10 {
            let plan = BatchPlan::new(400, 10, Order::shuffled(1).epoch(epoch), Shard::WHOLE, Tail::Keep).unwrap();
            for (number, batch) in (0..).zip(loader.epoch(Order::shuffled(1).epoch(epoch)).unwrap()) {
                assert_batch(&batch.unwrap(), &plan.batch(number).unwrap(), &model, "round");
            }
        }
        assert_eq!((seen.lanes.most(), seen.count(Call::Lane)), (lanes, lanes as u64), "buffers are taken once");
        assert!(seen.memory.most() <= ahead + 1, "{} pieces of memory, {threads} {prefetch}", seen.memory.most());
        assert!(seen.count(Call::Allocate) <= ahead as u64 + 1, "{} allocated", seen.count(Call::Allocate));
        // Those that are held are more.
        let held: Vec<_> = loader.epoch(Order::sequential()).unwrap().take(20).map(Result::unwrap).collect();
        assert!(seen.memory.most() <= ahead + 21);
        for (number, batch) in (0..).zip(&held) {
            assert_batch(batch, &(number * 10..number * 10 + 10).collect::<Vec<_>>(), &model, "held");
        }
        drop((held, loader));
        assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0));
        assert!(!seen.misused.load(Ordering::SeqCst));
    }
}

#[test]
fn several_epochs_at_a_time_do_not_touch_each_other() {
    let model = Model::random(&mut Random::new(5), DType::F32, 16, 300);
    let table = in_memory(&model, Made::new(Kind::Dolmen));
    let device = Trial { delay: 20, ..Trial::new(1 << 12) };
    let seen = Arc::clone(&device.seen);
    let loader = Loader::new(&table, device, options().batch_len(7).threads(2).prefetch(3)).unwrap();
    for _ in 0..3 {
        let mut epochs: Vec<_> = (0..4).map(|epoch| loader.epoch(Order::shuffled(1).epoch(epoch)).unwrap()).collect();
        let plans: Vec<_> = (0..4)
            .map(|epoch| BatchPlan::new(300, 7, Order::shuffled(1).epoch(epoch), Shard::WHOLE, Tail::Keep).unwrap())
            .collect();
        let mut held = Vec::new();
        for number in 0..plans[0].batch_count() {
            for (epoch, plan) in epochs.iter_mut().zip(&plans) {
                let batch = epoch.next().unwrap().unwrap();
                assert_batch(&batch, &plan.batch(number).unwrap(), &model, "at once");
                if number % 5 == 0 {
                    held.push((batch, plan.batch(number).unwrap()));
                }
            }
            // One ends early.
            if number == 10 {
                drop(epochs.pop());
            }
        }
        drop(epochs);
        held.iter().for_each(|(batch, rows)| assert_batch(batch, rows, &model, "held"));
    }
    assert!(seen.lanes.most() <= 8, "{}", seen.lanes.most());
    assert_eq!(seen.lanes.now(), 2, "what the others needed is given back");
    drop(loader);
    assert_eq!((seen.lanes.now(), seen.memory.now(), seen.misused.load(Ordering::SeqCst)), (0, 0, false));
}

#[test]
fn batches_of_several_parts_are_whole_and_rows_longer_than_a_part_are_refused() {
    let model = Model::random(&mut Random::new(6), DType::F32, 64, 100);
    for labels in [true, false] {
        let table = in_memory(&model, Made { labels, ..Made::new(Kind::Dolmen) });
        for (part_len, batch_len) in [(256, 20), (257, 20), (3 * 256 + 10, 20), (1 << 14, 20), (300, 100), (512, 1000)]
        {
            for threads in [0, 2] {
                let device = Trial::new(part_len);
                let seen = Arc::clone(&device.seen);
                let loader = Loader::new(&table, device, options().batch_len(batch_len).threads(threads)).unwrap();
                for order in ORDERS {
                    let plan = BatchPlan::new(100, batch_len, order, Shard::WHOLE, Tail::Keep).unwrap();
                    for (number, batch) in (0..).zip(loader.epoch(order).unwrap()) {
                        assert_batch(&batch.unwrap(), &plan.batch(number).unwrap(), &model, &format!("{part_len}"));
                    }
                }
                drop(loader);
                assert!(!seen.misused.load(Ordering::SeqCst), "{part_len} {batch_len}");
            }
        }
        for part_len in [255, 8, 0] {
            let e = Loader::new(&table, Trial::new(part_len), options()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            let expected = format!(
                "a row takes 256 bytes, and the device's buffers hold {part_len}; give the device longer buffers"
            );
            assert_eq!(e.to_string(), expected);
        }
    }
    // Rows fit, and labels do not.
    let model = Model::random(&mut Random::new(6), DType::U8, 2, 10);
    let e = Loader::new(&in_memory(&model, Made::new(Kind::Dolmen)), Trial::new(7), options()).unwrap_err();
    assert_eq!(e.to_string(), "a label takes 8 bytes, and the device's buffers hold 7; give the device longer buffers");
}

// --- Damage ----------------------------------------------------------------------------------------------------------------

/// Three files of 100 rows of 256 bytes, or of long rows; the damaged rows of the table, for some columns.
struct Damaged {
    dir: tempfile::TempDir,
    model: Model,
    kind: Kind,
    paths: Vec<PathBuf>,
    /// Files, and bytes of their data.
    places: Vec<(usize, usize)>,
}

impl Damaged {
    fn new(kind: Kind, width: usize, places: &[(usize, usize)]) -> Damaged {
        let dir = tempfile::tempdir().unwrap();
        let model = Model::random(&mut Random::new(width as u64), DType::F32, width, 300);
        let part =
            |n: usize| write(dir.path(), &format!("part{n}"), &model.part(100 * n..100 * n + 100), Made::new(kind));
        let paths = (0..3).map(part).collect();
        Damaged { dir, model, kind, paths, places: places.to_vec() }
    }

    /// Damages the files, or repairs them.
    fn flip(&self) {
        for &(file, at) in &self.places {
            flip(&self.paths[file], place(&self.paths[file], "data").start + at);
        }
    }

    /// The damaged rows, if these columns of them are wanted.
    fn rows(&self, columns: std::ops::Range<usize>) -> BTreeSet<u64> {
        let blocks = |range: std::ops::Range<usize>| range.start / BLOCK..(range.end - 1) / BLOCK + 1;
        let touches = |row: usize| {
            let (file, local) = (row / 100, row % 100);
            let start = local * self.model.row_len();
            let wanted = blocks(start + columns.start * 4..start + columns.end * 4);
            let bad = |&&(damaged, at): &&(usize, usize)| {
                damaged == file && (self.kind == Kind::Torch || wanted.contains(&(at / BLOCK)))
            };
            self.places.iter().any(|place| bad(&place))
        };
        (0..300).filter(|&row| touches(row)).map(|row| row as u64).collect()
    }

    fn table(&self, way: usize) -> Table {
        let layout = Layout::new();
        match way {
            0 => Table::open(&self.paths, &layout),
            1 => Table::open_with(&self.paths, &layout, Access::Direct),
            // SAFETY: nobody changes the files while they are mapped.
            2 => unsafe { Table::map(&self.paths, &layout.no_labels()) },
            _ => {
                let open =
                    |path: &PathBuf| Checkpoint::from_bytes(&std::fs::read(path).unwrap()).unwrap().at_path(path);
                Table::of_checkpoints(self.paths.iter().map(open), &layout.no_labels())
            }
        }
        .unwrap()
    }
}

#[test]
fn damage_fails_the_batches_that_touch_it_and_no_others() {
    for (kind, width, places) in [
        (Kind::Dolmen, 64, &[(1, 50 * 256 + 5), (2, 0), (2, 99 * 256 + 255)][..]),
        // Rows of nearly three blocks, of which one is damaged.
        (Kind::Dolmen, 3000, &[(0, 12_000 * 7 + 5000)]),
        (Kind::Torch, 64, &[(1, 77)]),
    ] {
        let damaged = Damaged::new(kind, width, places);
        damaged.flip();
        for way in 0..4 {
            for (n, columns) in [0..width, width / 2..width, 0..1].into_iter().enumerate() {
                let bad = damaged.rows(columns.clone());
                assert!(!bad.is_empty() || width == 3000, "{kind:?} {width} {columns:?}");
                let model = damaged.model.columns(columns.clone());
                for (m, order) in ORDERS.into_iter().enumerate() {
                    // What is found is remembered: each order is the first.
                    let table = damaged.table(way).columns(columns.start as u64..columns.end as u64).unwrap();
                    let verification = if (n + m) % 2 == 0 { Verification::Once } else { Verification::EveryEpoch };
                    let options =
                        options().batch_len(12).verification(verification).threads([0, 2, 4][(n + m + way) % 3]);
                    let about = format!("{kind:?} {width} way {way} {columns:?} {order:?} {options:?}");
                    let loader = Loader::new(&table, Trial::new(1 << 18), options).unwrap();
                    let plan = BatchPlan::new(300, 12, order, Shard::WHOLE, Tail::Keep).unwrap();
                    for _ in 0..2 {
                        let mut batches = loader.epoch(order).unwrap();
                        let mut failed = 0;
                        for number in 0..plan.batch_count() {
                            let rows = plan.batch(number).unwrap();
                            let hit = rows.iter().any(|row| bad.contains(row));
                            match batches.next().unwrap() {
                                Ok(batch) => {
                                    assert!(!hit, "{about}: batch {number} is damaged");
                                    assert_batch(&batch, &rows, &model, &about);
                                }
                                Err(e) => {
                                    assert!(hit, "{about}: {e}");
                                    failed += 1;
                                    assert_eq!((e.kind(), e.tensor()), (ErrorKind::Corrupt, Some("data")), "{about}");
                                    assert!(damaged.paths.iter().any(|path| e.path() == Some(path)), "{about}: {e}");
                                    let text = e.to_string();
                                    assert!(text.contains(&format!("\"data\": batch {number}: row")), "{text}");
                                    assert!(text.contains(" of the table: ") && text.contains("damaged"), "{text}");
                                    // It says a row that is damaged.
                                    let named = text.split(" of the table").next().unwrap().rsplit(' ').next().unwrap();
                                    let named: u64 = named.parse().unwrap();
                                    assert!(rows.contains(&named), "{about}: {text}");
                                }
                            }
                        }
                        assert!(batches.next().is_none());
                        assert_eq!(batches.report().failed_batches, failed);
                        assert_eq!(batches.report().batches, plan.batch_count() - failed);
                    }
                }
            }
        }
        drop(damaged.dir);
    }
}

#[test]
fn damaged_rows_are_skipped_and_all_others_come_once() {
    for (kind, width, places) in [
        (Kind::Dolmen, 64, &[(1, 50 * 256 + 5), (2, 0), (2, 99 * 256 + 255)][..]),
        (Kind::Dolmen, 3000, &[(0, 12_000 * 7 + 5000), (0, 12_000 * 8)]),
        (Kind::Torch, 64, &[(1, 77)]),
    ] {
        let damaged = Damaged::new(kind, width, places);
        damaged.flip();
        let bad = damaged.rows(0..width);
        for way in 0..4 {
            for (m, order) in ORDERS.into_iter().enumerate() {
                let table = damaged.table(way);
                let verification = [Verification::Once, Verification::EveryEpoch][(way + m) % 2];
                let options = options().batch_len(12).verification(verification).on_damage(OnDamage::SkipRows);
                let options = options.threads([0, 2, 4][(m + way) % 3]);
                let about = format!("{kind:?} {width} way {way} {options:?}");
                let loader = Loader::new(&table, Host, options).unwrap();
                let plan = BatchPlan::new(300, 12, order, Shard::WHOLE, Tail::Keep).unwrap();
                for _ in 0..2 {
                    let mut batches = loader.epoch(order).unwrap();
                    for number in 0..plan.batch_count() {
                        let (skipped, kept): (Vec<u64>, Vec<u64>) =
                            plan.batch(number).unwrap().into_iter().partition(|row| bad.contains(row));
                        let batch = batches.next().unwrap().unwrap_or_else(|e| panic!("{about}: {e}"));
                        assert_batch(&batch, &kept, &damaged.model, &about);
                        assert_eq!(
                            batch.skipped(),
                            BTreeSet::from_iter(skipped).into_iter().collect::<Vec<_>>(),
                            "{about}"
                        );
                    }
                    assert!(batches.next().is_none());
                    let report = batches.report();
                    assert_eq!(
                        (report.skipped_rows, report.rows),
                        (bad.len() as u64, 300 - bad.len() as u64),
                        "{about}"
                    );
                    assert_eq!(report.failed_batches, 0);
                }
            }
        }
    }
}

#[test]
fn a_table_whose_rows_are_all_damaged_has_batches_without_rows() {
    let damaged = Damaged::new(Kind::Torch, 8, &[(0, 0), (1, 5), (2, 9)]);
    damaged.flip();
    for threads in [0, 2] {
        let options = options().batch_len(100).on_damage(OnDamage::SkipRows).threads(threads);
        let loader = Loader::new(&damaged.table(0), Trial::new(1 << 12), options).unwrap();
        let mut batches = loader.epoch(Order::sequential()).unwrap();
        for number in 0..3 {
            let batch = batches.next().unwrap().unwrap();
            assert_batch(&batch, &[], &damaged.model, "nothing left");
            assert!(batch.skipped().iter().copied().eq(number * 100..number * 100 + 100));
        }
        assert_eq!(batches.report().skipped_rows, 300);
    }
}

#[test]
fn without_verification_damage_is_delivered() {
    for kind in [Kind::Dolmen, Kind::Torch] {
        let damaged = Damaged::new(kind, 64, &[(1, 50 * 256 + 5)]);
        let mut model = damaged.model.clone();
        model.rows[150].bytes[5] ^= 0xFF;
        damaged.flip();
        for way in 0..4 {
            for order in ORDERS {
                for on_damage in [OnDamage::Fail, OnDamage::SkipRows] {
                    let options = options().batch_len(12).verification(Verification::Off).on_damage(on_damage);
                    let loader = Loader::new(&damaged.table(way), Host, options).unwrap();
                    let plan = BatchPlan::new(300, 12, order, Shard::WHOLE, Tail::Keep).unwrap();
                    for (number, batch) in (0..).zip(loader.epoch(order).unwrap()) {
                        assert_batch(&batch.unwrap(), &plan.batch(number).unwrap(), &model, "unverified");
                    }
                }
            }
        }
    }
}

#[test]
fn each_block_is_verified_once_or_once_in_every_epoch() {
    for kind in [Kind::Dolmen, Kind::Torch] {
        for verification in [Verification::Once, Verification::EveryEpoch] {
            for access in [0, 1] {
                let damaged = Damaged::new(kind, 64, &[(1, 50 * 256 + 5)]);
                let bad = damaged.rows(0..64);
                let table = damaged.table(access);
                let options = options().batch_len(12).verification(verification).threads(2);
                let loader = Loader::new(&table, Host, options).unwrap();
                let plan =
                    |epoch| BatchPlan::new(300, 12, Order::shuffled(1).epoch(epoch), Shard::WHOLE, Tail::Keep).unwrap();
                for batch in loader.epoch(Order::shuffled(1)).unwrap() {
                    batch.unwrap();
                }
                damaged.flip();
                let mut model = damaged.model.clone();
                model.rows[150].bytes[5] ^= 0xFF;
                for (number, batch) in (0..).zip(loader.epoch(Order::shuffled(1).epoch(1)).unwrap()) {
                    let rows = plan(1).batch(number).unwrap();
                    match (batch, verification) {
                        // What was verified in the first epoch is not looked at again.
                        (batch, Verification::Once) => assert_batch(&batch.unwrap(), &rows, &model, "once"),
                        (Ok(batch), _) => {
                            assert!(rows.iter().all(|row| !bad.contains(row)));
                            assert_batch(&batch, &rows, &model, "every epoch");
                        }
                        (Err(e), _) => assert!(rows.iter().any(|row| bad.contains(row)), "{e}"),
                    }
                }
                // In the next epoch nothing is known of the damage.
                damaged.flip();
                for (number, batch) in (0..).zip(loader.epoch(Order::shuffled(1).epoch(2)).unwrap()) {
                    assert_batch(&batch.unwrap(), &plan(2).batch(number).unwrap(), &damaged.model, "repaired");
                }
            }
        }
    }
}

#[test]
fn what_is_verified_is_what_is_delivered_while_the_file_changes() {
    let damaged = Damaged::new(Kind::Dolmen, 64, &[(1, 0)]);
    let place = place(&damaged.paths[1], "data");
    let stop = Arc::new(AtomicBool::new(false));
    let (path, stopped) = (damaged.paths[1].clone(), Arc::clone(&stop));
    // Every byte changes again and again.
    let writer = std::thread::spawn(move || {
        let mut random = Random::new(1);
        while !stopped.load(Ordering::SeqCst) {
            let at = place.start + random.below(place.len());
            flip(&path, at);
            flip(&path, at);
        }
    });
    // A batch is a block, so that no bytes are copied that another thread verifies.
    let options = options().batch_len(16).verification(Verification::EveryEpoch).threads(2);
    let table = damaged.table(0).take_rows(&(100..196).collect::<Vec<u64>>()).unwrap();
    let loader = Loader::new(&table, Host, options).unwrap();
    for _ in 0..200 {
        for batch in loader.epoch(Order::sequential()).unwrap().flatten() {
            let rows: Vec<u64> = batch.rows().iter().map(|row| row + 100).collect();
            assert!(batch.as_bytes() == damaged.model.bytes_of(&rows), "damage was delivered");
        }
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
}

#[test]
fn a_file_that_becomes_shorter_fails_the_batches_that_want_its_end() {
    for access in [0, 1] {
        for verification in [Verification::Once, Verification::EveryEpoch, Verification::Off] {
            let damaged = Damaged::new(Kind::Dolmen, 64, &[]);
            let table = damaged.table(access);
            let loader =
                Loader::new(&table, Host, options().batch_len(10).verification(verification).threads(2)).unwrap();
            loader.epoch(Order::sequential()).unwrap().for_each(|batch| drop(batch.unwrap()));
            let at = place(&damaged.paths[1], "data").start + 50 * 256 + 100;
            std::fs::File::options().write(true).open(&damaged.paths[1]).unwrap().set_len(at as u64).unwrap();
            in_time(move || {
                let results: Vec<_> = loader.epoch(Order::sequential()).unwrap().collect();
                assert_eq!(results.len(), 30);
                for (number, batch) in results.into_iter().enumerate() {
                    match batch {
                        Ok(batch) => assert!(batch.rows().iter().all(|row| !(150..200).contains(row)), "{number}"),
                        Err(e) => {
                            assert!((14..20).contains(&number), "{number}: {e}");
                            assert_eq!((e.kind(), e.tensor()), (ErrorKind::Io, Some("data")));
                            assert!(e.to_string().contains(&format!("batch {number}: row")), "{e}");
                            assert!(e.to_string().contains("the file became shorter while it was read"), "{e}");
                        }
                    }
                }
            });
        }
    }
}

// --- Threads and devices ---------------------------------------------------------------------------------------------------

#[test]
fn batches_may_be_dropped_at_any_moment_and_what_is_held_stays() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::random(&mut Random::new(9), DType::F32, 6, 120);
    for (n, table) in tables(dir.path(), &model).into_iter().take(4).enumerate() {
        for threads in [0, 1, 3] {
            for taken in [0, 1, 2, 5, 11, 12] {
                let device = Trial { delay: 50, ..Trial::new(1 << 10) };
                let (seen, model, table) = (Arc::clone(&device.seen), model.clone(), table.clone());
                in_time(move || {
                    let options = options().batch_len(10).threads(threads).prefetch(4);
                    let loader = Loader::new(&table, device, options).unwrap();
                    let order = ORDERS[n % 3];
                    let plan = BatchPlan::new(120, 10, order, Shard::WHOLE, Tail::Keep).unwrap();
                    let mut batches = loader.epoch(order).unwrap();
                    let held: Vec<_> = batches.by_ref().take(taken).map(Result::unwrap).collect();
                    if taken % 2 == 0 {
                        drop(loader);
                        drop(table);
                        drop(batches);
                    } else {
                        drop(batches);
                        // Its memory goes into the next epoch, but for what is held.
                        for (number, batch) in (0..).zip(loader.epoch(order).unwrap()) {
                            assert_batch(&batch.unwrap(), &plan.batch(number).unwrap(), &model, "again");
                        }
                    }
                    for (number, batch) in (0..).zip(&held) {
                        assert_batch(batch, &plan.batch(number).unwrap(), &model, "held");
                    }
                });
                assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0), "{n} {threads} {taken}");
                assert!(!seen.misused.load(Ordering::SeqCst), "{n} {threads} {taken}");
            }
        }
    }
}

#[test]
fn consumers_may_be_slower_or_faster_than_the_threads() {
    let model = Model::random(&mut Random::new(10), DType::F32, 16, 100);
    let table = in_memory(&model, Made::new(Kind::Dolmen));
    for (delay, wait) in [(0, 300), (300, 0), (100, 100)] {
        for threads in [0, 1, 4] {
            let device = Trial { delay, ..Trial::new(1 << 12) };
            let loader = Loader::new(&table, device, options().batch_len(4).threads(threads).prefetch(2)).unwrap();
            let plan = BatchPlan::new(100, 4, Order::shuffled(8), Shard::WHOLE, Tail::Keep).unwrap();
            for (number, batch) in (0..).zip(loader.epoch(Order::shuffled(8)).unwrap()) {
                assert_batch(&batch.unwrap(), &plan.batch(number).unwrap(), &model, "paced");
                std::thread::sleep(Duration::from_micros(wait));
            }
        }
    }
}

#[test]
fn what_goes_wrong_on_a_device_is_the_error_of_one_batch_and_nothing_hangs() {
    let model = Model::random(&mut Random::new(12), DType::F32, 16, 64);
    let made = Made::new(Kind::Dolmen);
    for call in [Call::Allocate, Call::Parts, Call::Fill, Call::Finish, Call::Acquire, Call::Release, Call::ReadBack] {
        for wrong in [Wrong::Fails, Wrong::Panics] {
            // The consumer's own calls panic where the consumer is.
            if wrong == Wrong::Panics && matches!(call, Call::Acquire | Call::Release | Call::ReadBack) {
                continue;
            }
            for at in [0, 1, 2, 5, 9] {
                for threads in [0, 1, 3] {
                    let table = in_memory(&model, made);
                    // Four parts of rows, and one of labels, in a batch.
                    let device = Trial { delay: 20, wrong: Some((call, at, wrong)), ..Trial::new(128) };
                    let seen = Arc::clone(&device.seen);
                    let (model, about) = (model.clone(), format!("{call:?} {wrong:?} {at} {threads}"));
                    in_time(move || {
                        let options = options().batch_len(8).threads(threads).prefetch(2);
                        let loader = Loader::new(&table, device, options).unwrap();
                        let mut failed = 0;
                        for epoch in 0..2 {
                            let order = Order::shuffled(1).epoch(epoch);
                            let plan = BatchPlan::new(64, 8, order, Shard::WHOLE, Tail::Keep).unwrap();
                            let mut batches = loader.epoch(order).unwrap();
                            for number in 0..8 {
                                match batches.next().expect(&about) {
                                    Ok(batch) if call == Call::ReadBack => {
                                        failed += u32::from(batch.read_back().is_err())
                                    }
                                    Ok(batch) => assert_batch(&batch, &plan.batch(number).unwrap(), &model, &about),
                                    Err(e) => {
                                        failed += 1;
                                        assert_eq!(e.kind(), ErrorKind::Device, "{about}: {e}");
                                        let text = e.to_string();
                                        assert!(text.starts_with(&format!("batch {number}: ")), "{about}: {text}");
                                        let what = if wrong == Wrong::Panics { "panicked" } else { "fails" };
                                        assert!(text.contains(what), "{about}: {text}");
                                    }
                                }
                            }
                            assert!(batches.next().is_none(), "{about}");
                        }
                        // A release that fails is nobody's error: its memory is not used again.
                        let happened = loader.device().seen.count(call) > at && call != Call::Release;
                        assert_eq!(failed, u32::from(happened), "{about}");
                        if call != Call::Allocate {
                            assert!(loader.device().seen.count(call) > at, "{about}: it never happened");
                        }
                    });
                    assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0), "{call:?} {at} {threads}");
                    assert!(!seen.misused.load(Ordering::SeqCst), "{call:?} {at} {threads}");
                }
            }
        }
    }
}

#[test]
fn a_device_that_has_no_buffers_to_give_says_so_before_anything_is_begun() {
    let model = Model::random(&mut Random::new(13), DType::F32, 16, 64);
    let table = in_memory(&model, Made::new(Kind::Dolmen));
    for at in 0..3 {
        let device = Trial { wrong: Some((Call::Lane, at, Wrong::Fails)), ..Trial::new(1 << 12) };
        let seen = Arc::clone(&device.seen);
        let e = Loader::new(&table, device, options().threads(3)).unwrap_err();
        assert_eq!((e.kind(), seen.lanes.now()), (ErrorKind::Device, 0));
    }
    // A second epoch at the same time needs more of them.
    let device = Trial { wrong: Some((Call::Lane, 4, Wrong::Fails)), ..Trial::new(1 << 12) };
    let seen = Arc::clone(&device.seen);
    let loader = Loader::new(&table, device, options().threads(3).batch_len(4)).unwrap();
    let first = loader.epoch(Order::sequential()).unwrap();
    assert_eq!(loader.epoch(Order::sequential()).unwrap_err().kind(), ErrorKind::Device);
    assert_eq!(first.map(|batch| batch.unwrap().len()).sum::<usize>(), 64);
    assert_eq!(loader.epoch(Order::sequential()).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 64);
    drop(loader);
    assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0));
}

#[test]
fn damage_and_a_slow_device_do_not_mix_batches_up() {
    let damaged = Damaged::new(Kind::Dolmen, 64, &[(0, 3), (1, 50 * 256 + 5)]);
    damaged.flip();
    let bad = damaged.rows(0..64);
    for part_len in [256, 1024] {
        for on_damage in [OnDamage::Fail, OnDamage::SkipRows] {
            let device = Trial { delay: 10, ..Trial::new(part_len) };
            let seen = Arc::clone(&device.seen);
            let options = options().batch_len(9).threads(3).on_damage(on_damage).verification(Verification::EveryEpoch);
            let loader = Loader::new(&damaged.table(0), device, options).unwrap();
            for epoch in 0..3 {
                let order = Order::shuffled(4).epoch(epoch);
                let plan = BatchPlan::new(300, 9, order, Shard::WHOLE, Tail::Keep).unwrap();
                for (number, batch) in (0..).zip(loader.epoch(order).unwrap()) {
                    let rows = plan.batch(number).unwrap();
                    let kept: Vec<u64> = rows.iter().copied().filter(|row| !bad.contains(row)).collect();
                    match batch {
                        Ok(batch) => assert_batch(&batch, &kept, &damaged.model, "slow"),
                        Err(e) => assert!(on_damage == OnDamage::Fail && kept.len() < rows.len(), "{number}: {e}"),
                    }
                }
            }
            drop(loader);
            assert!(!seen.misused.load(Ordering::SeqCst));
        }
    }
}
