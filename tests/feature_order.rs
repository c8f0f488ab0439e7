//! The order of rows: as `spec/features.md` defines it, the same for ever, and such that every row comes once.
#![cfg(feature = "feature")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::spec;
use dolmen::ErrorKind;
use dolmen::feature::{BatchPlan, Order, Shard, Tail};
use dolmen::format::checksum::crc32;
use proptest::prelude::*;

// --- The text --------------------------------------------------------------------------------------------------------------

/// The lines of a marked table of the specification, without its head.
fn lines(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(spec().join("features.md")).unwrap();
    let mark = format!("<!-- table: {name} -->\n");
    assert_eq!(text.matches(&mark).count(), 1, "table {name}");
    let (_, rest) = text.split_once(&mark).unwrap();
    let lines: Vec<String> = rest.lines().take_while(|line| line.starts_with('|')).skip(2).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "table {name}");
    lines
}

fn rows_of(name: &str) -> Vec<Vec<String>> {
    let cells = |line: String| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines(name).into_iter().map(cells).collect()
}

fn numbers(cells: &[String]) -> Vec<u64> {
    cells.iter().map(|cell| cell.parse().unwrap_or_else(|_| panic!("{cell} is no number"))).collect()
}

/// Asserts that an order has these rows, written with spaces between, from a position on, by every way of asking.
fn assert_rows(order: Order, row_count: u64, from: u64, written: &str, at_most: u64) {
    let expected: Vec<u64> = written.split(' ').map(|row| row.parse().unwrap()).collect();
    assert_eq!(expected.len() as u64, at_most.min(row_count - from));
    let rows = order.of(row_count).unwrap();
    let mut found = Vec::new();
    rows.extend(from..from + expected.len() as u64, &mut found).unwrap();
    assert_eq!(found, expected, "{order:?} of {row_count}");
    for (&row, position) in expected.iter().zip(from..) {
        assert_eq!(rows.row_at(position), Some(row), "{order:?} of {row_count}");
        assert_eq!(rows.position_of(row), Some(position), "{order:?} of {row_count}");
    }
}

#[test]
fn shuffled_rows_are_those_of_the_text() {
    for cells in rows_of("order shuffled") {
        let [rows, seed, epoch, from] = numbers(&cells[..4])[..] else { panic!("{cells:?}") };
        assert_rows(Order::shuffled(seed).epoch(epoch), rows, from, &cells[4], 10);
    }
}

#[test]
fn block_shuffled_rows_are_those_of_the_text() {
    for cells in rows_of("order block-shuffled") {
        let [rows, seed, epoch, block_rows, window_blocks, from] = numbers(&cells[..6])[..] else {
            panic!("{cells:?}")
        };
        let order = Order::block_shuffled(seed, block_rows, window_blocks).epoch(epoch);
        assert_rows(order, rows, from, &cells[6], 20);
    }
}

fn tail(name: &str) -> Tail {
    match name {
        "keep" => Tail::Keep,
        "drop short" => Tail::DropShort,
        "drop uneven" => Tail::DropUneven,
        _ => panic!("there is no tail {name:?}"),
    }
}

#[test]
fn batches_are_those_of_the_text() {
    let tails: Vec<Tail> = rows_of("order tails").iter().map(|cells| tail(&cells[0])).collect();
    assert_eq!(tails, TAILS);
    for cells in rows_of("order batches") {
        let [rows, batch_len, rank, world] = numbers(&cells[..4])[..] else { panic!("{cells:?}") };
        let shard = Shard::new(rank as u32, world as u32).unwrap();
        let plan = BatchPlan::new(rows, batch_len, Order::Sequential, shard, tail(&cells[4])).unwrap();
        let batch = numbers(&cells[5..6])[0];
        let positions = match cells[6].split_once(" to ") {
            Some((start, end)) => Some(start.parse().unwrap()..end.parse().unwrap()),
            None => {
                assert_eq!(cells[6], "none");
                None
            }
        };
        assert_eq!(plan.positions(batch), positions, "{cells:?}");
    }
}

#[test]
fn the_program_of_the_text_prints_its_tables() {
    let Ok(output) = Command::new("python3").arg(spec().join("order.py")).output() else {
        eprintln!("python3 is not there: its tables are not compared");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<Vec<&str>> = printed.split("\n\n").map(|table| table.lines().collect()).collect();
    assert_eq!(printed, ["order shuffled", "order block-shuffled", "order batches"].map(lines));
}

/// Whoever resumes a run relies on these: they must not change, whatever the text says.
#[test]
fn orders_are_what_they_have_always_been() {
    let all_of = |order: Order, rows: u64| {
        let mut found = Vec::new();
        order.of(rows).unwrap().extend(0..rows, &mut found).unwrap();
        crc32(&found.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>())
    };
    let first_of = |order: Order, rows: u64| {
        let rows = order.of(rows).unwrap();
        [0, 1, 2].map(|position| rows.row_at(position).unwrap())
    };
    assert_eq!(first_of(Order::shuffled(42), 1_000_000), [964_349, 159_460, 953_520]);
    assert_eq!(first_of(Order::shuffled(42).epoch(1), 1_000_000), [498_555, 221_386, 396_010]);
    assert_eq!(first_of(Order::block_shuffled(0, 3, 2), 10), [8, 3, 7]);
    assert_eq!(all_of(Order::shuffled(1), 200), 0x2071_A71D);
    assert_eq!(all_of(Order::shuffled(1), 50_000), 0xCE02_4BD2);
    assert_eq!(all_of(Order::shuffled(1).epoch(5), 100_000), 0x65FC_589D);
    assert_eq!(all_of(Order::block_shuffled(1, 1000, 16), 99_999), 0xFDE7_AC7B);
    assert_eq!(all_of(Order::block_shuffled(u64::MAX, 7, 3).epoch(u64::MAX), 10_000), 0x8183_F5A3);
}

// --- Properties ------------------------------------------------------------------------------------------------------------

const TAILS: [Tail; 3] = [Tail::Keep, Tail::DropShort, Tail::DropUneven];

fn orders() -> impl Strategy<Value = Order> {
    let (seed, epoch) = (any::<u64>(), prop_oneof![0..5u64, any::<u64>()]);
    let len = || prop_oneof![1..20u64, 20..3000u64, any::<u64>().prop_map(|len| len.max(1))];
    prop_oneof![
        1 => Just(Order::sequential()),
        2 => (seed, epoch.clone()).prop_map(|(seed, epoch)| Order::shuffled(seed).epoch(epoch)),
        4 => (any::<u64>(), epoch, len(), len())
            .prop_map(|(seed, epoch, rows, blocks)| Order::block_shuffled(seed, rows, blocks).epoch(epoch)),
    ]
}

fn all_ranks(rows: u64, batch_len: u64, order: Order, world: u32, tail: Tail) -> Vec<BatchPlan> {
    let plan = |rank| BatchPlan::new(rows, batch_len, order, Shard::new(rank, world).unwrap(), tail).unwrap();
    (0..world).map(plan).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_row_comes_once_over_all_ranks_as_far_as_the_tail_keeps_it(
        rows in prop_oneof![0..50u64, 0..3000u64], batch_len in 1..300u64, order in orders(), world in 1..9u32
    ) {
        for tail in TAILS {
            let plans = all_ranks(rows, batch_len, order, world, tail);
            let mut seen = BTreeSet::new();
            let mut lens = BTreeSet::new();
            for plan in &plans {
                let mut row_count = 0;
                for k in 0..plan.batch_count() {
                    let batch = plan.batch(k).unwrap();
                    row_count += batch.len() as u64;
                    lens.insert(batch.len() as u64);
                    for row in batch {
                        prop_assert!(row < rows && seen.insert(row), "row {row}");
                    }
                }
                prop_assert_eq!(plan.row_count(), row_count);
                prop_assert!(plan.batch(plan.batch_count()).is_err());
            }
            let counts: BTreeSet<u64> = plans.iter().map(BatchPlan::batch_count).collect();
            let (fewest, most) = (*counts.first().unwrap(), *counts.last().unwrap());
            let world = u64::from(world);
            match tail {
                Tail::Keep => {
                    prop_assert_eq!(seen.len() as u64, rows);
                    prop_assert!(most - fewest <= 1);
                }
                Tail::DropShort => {
                    prop_assert_eq!(seen.len() as u64, rows / batch_len * batch_len);
                    prop_assert!(most - fewest <= 1 && lens.iter().all(|&len| len == batch_len));
                }
                _ => {
                    prop_assert_eq!(seen.len() as u64, rows / (batch_len * world) * batch_len * world);
                    prop_assert!(most == fewest && lens.iter().all(|&len| len == batch_len));
                }
            }
        }
    }

    #[test]
    fn who_resumes_at_a_batch_gets_what_it_would_have_got(
        rows in 1..3000u64, batch_len in 1..200u64, order in orders(), world in 1..4u32, at in any::<prop::sample::Index>()
    ) {
        let plan = || all_ranks(rows, batch_len, order, world, Tail::Keep).remove(0);
        let whole_run: Vec<Vec<u64>> = { let plan = plan(); (0..plan.batch_count()).map(|k| plan.batch(k).unwrap()).collect() };
        let at = at.index(whole_run.len());
        let resumed = plan();
        let mut batch = vec![1, 2, 3];
        for k in (at..whole_run.len()).rev() {
            resumed.fill(k as u64, &mut batch).unwrap();
            prop_assert_eq!(&batch, &whole_run[k]);
        }
    }

    #[test]
    fn a_position_has_one_row_and_a_row_one_position(rows in 1..5000u64, order in orders()) {
        let all = order.of(rows).unwrap();
        let mut together = Vec::new();
        all.extend(0..rows, &mut together).unwrap();
        prop_assert_eq!(together.len() as u64, rows);
        for (&row, position) in together.iter().zip(0..) {
            prop_assert_eq!(all.row_at(position), Some(row));
            prop_assert_eq!(all.position_of(row), Some(position));
        }
        prop_assert_eq!(all.row_at(rows), None);
        prop_assert_eq!(all.position_of(rows), None);
    }

    #[test]
    fn tables_of_any_length_are_ordered(
        rows in prop_oneof![any::<u64>(), Just((1 << 63) - 1), Just(1 << 63), Just(u64::MAX)], order in orders(),
        batch_len in prop_oneof![1..1000u64, any::<u64>().prop_map(|len| len.max(1))],
        (rank, more) in (any::<u32>(), any::<u32>()), at in any::<u64>()
    ) {
        let world = rank.saturating_add(more).max(1);
        let shard = Shard::new(rank.min(world - 1), world).unwrap();
        for tail in TAILS {
            let plan = BatchPlan::new(rows, batch_len, order, shard, tail);
            if rows >= 1 << 63 {
                prop_assert_eq!(plan.unwrap_err().kind(), ErrorKind::InvalidInput);
                continue;
            }
            let plan = plan.unwrap();
            prop_assert!(plan.row_count() <= rows);
            let last = plan.batch_count().saturating_sub(1);
            prop_assert_eq!(plan.positions(last).is_some(), plan.batch_count() > 0);
            prop_assert_eq!(plan.positions(last + 1), None);
            prop_assert_eq!(plan.positions(u64::MAX), None);
            if let Some(positions) = plan.positions(at % (last + 1)) {
                prop_assert!(positions.start < positions.end && positions.end <= rows);
                for position in [positions.start, positions.end - 1] {
                    let row = plan.rows().row_at(position).unwrap();
                    prop_assert!(row < rows);
                    prop_assert_eq!(plan.rows().position_of(row), Some(position));
                }
                let few = positions.start..positions.end.min(positions.start + 50);
                let mut together = Vec::new();
                plan.rows().extend(few.clone(), &mut together).unwrap();
                let one_by_one: Vec<u64> = few.map(|position| plan.rows().row_at(position).unwrap()).collect();
                prop_assert_eq!(together, one_by_one);
            }
        }
    }

    #[test]
    fn a_window_has_all_rows_of_its_blocks_before_the_next_begins(
        rows in 1..4000u64, block_rows in 1..300u64, window_blocks in 1..20u64, seed in any::<u64>(), batch_len in 1..500u64
    ) {
        let order = Order::block_shuffled(seed, block_rows, window_blocks);
        let all = all_ranks(rows, rows, order, 1, Tail::Keep)[0].batch(0).unwrap();
        let (mut begin, mut done) = (0, BTreeSet::new());
        while begin < all.len() {
            // As many blocks as a window has, or all that are left, whole.
            let left = rows.div_ceil(block_rows) - done.len() as u64;
            let mut blocks = BTreeSet::new();
            let mut end = begin;
            while end < all.len() && (blocks.len() as u64) < window_blocks.min(left) {
                blocks.insert(all[end] / block_rows);
                end += 1;
            }
            let len: u64 = blocks.iter().map(|block| block_rows.min(rows - block * block_rows)).sum();
            end = begin + len as usize;
            let of_blocks: BTreeSet<u64> = all[begin..end].iter().map(|row| row / block_rows).collect();
            prop_assert_eq!(&of_blocks, &blocks);
            prop_assert!(done.is_disjoint(&blocks));
            done.extend(blocks);
            begin = end;
        }
        // So a batch comes from a window and the next, or from more if it is longer than they are.
        let plan = &all_ranks(rows, batch_len, order, 1, Tail::Keep)[0];
        let windows = (batch_len - 1).div_ceil(block_rows * window_blocks) + 2;
        for k in 0..plan.batch_count() {
            let blocks: BTreeSet<u64> = plan.batch(k).unwrap().iter().map(|row| row / block_rows).collect();
            prop_assert!(blocks.len() as u64 <= window_blocks * windows);
        }
    }
}

#[test]
fn batches_of_a_window_are_mixed_from_all_of_its_blocks_and_windows_from_all_of_the_table() {
    let plan = &all_ranks(64_000, 256, Order::block_shuffled(3, 1000, 8), 1, Tail::Keep)[0];
    let blocks = |k| plan.batch(k).unwrap().iter().map(|row| row / 1000).collect::<BTreeSet<u64>>();
    for k in [0, 1, 10, 20, 29] {
        assert_eq!(blocks(k).len(), 8);
        assert_eq!(blocks(k), blocks(0));
    }
    let first = blocks(0);
    assert!(first.iter().zip(first.iter().skip(1)).any(|(a, b)| b - a > 4), "{first:?}");
    let of_epoch = |epoch| Order::block_shuffled(3, 1000, 8).epoch(epoch).of(64_000).unwrap().row_at(0).unwrap() / 1000;
    assert!((0..50).map(of_epoch).collect::<BTreeSet<u64>>().len() > 20);
}

#[test]
fn sequential_plans_are_ranges_and_others_are_not() {
    let plan = &all_ranks(1000, 300, Order::sequential().epoch(7), 2, Tail::Keep)[1];
    assert!(plan.is_sequential());
    assert_eq!(
        (plan.batch_range(0), plan.batch_range(1), plan.batch_range(2)),
        (Some(300..600), Some(900..1000), None)
    );
    assert_eq!(plan.batch(1).unwrap(), (900..1000).collect::<Vec<u64>>());
    assert_eq!((plan.batch_count(), plan.row_count()), (2, 400));
    let plan = &all_ranks(1000, 300, Order::shuffled(0), 2, Tail::Keep)[1];
    assert!(!plan.is_sequential());
    assert_eq!((plan.batch_range(0), plan.positions(0)), (None, Some(300..600)));
}

#[test]
fn epochs_seeds_and_kinds_of_order_differ() {
    let orders = [
        Order::sequential(),
        Order::shuffled(1),
        Order::shuffled(2),
        Order::shuffled(1).epoch(1),
        Order::shuffled(0).epoch(1),
        Order::block_shuffled(1, 10, 10),
        Order::block_shuffled(1, 10, 10).epoch(1),
        Order::block_shuffled(2, 10, 10),
        Order::block_shuffled(1, 1000, 1),
        Order::block_shuffled(1, 1, 1000),
    ];
    let all: BTreeSet<Vec<u64>> =
        orders.iter().map(|&o| all_ranks(1000, 1000, o, 1, Tail::Keep)[0].batch(0).unwrap()).collect();
    assert_eq!(all.len(), orders.len());
}

#[test]
fn what_cannot_be_is_refused_with_advice() {
    let refused = [
        Shard::new(0, 0).err(),
        Shard::new(2, 2).err(),
        BatchPlan::new(10, 0, Order::Sequential, Shard::WHOLE, Tail::Keep).err(),
        BatchPlan::new(0, 0, Order::Sequential, Shard::WHOLE, Tail::Keep).err(),
        BatchPlan::new(10, 1, Order::block_shuffled(0, 0, 1), Shard::WHOLE, Tail::Keep).err(),
        BatchPlan::new(0, 1, Order::block_shuffled(0, 1, 0), Shard::WHOLE, Tail::Keep).err(),
        BatchPlan::new(10, 3, Order::Sequential, Shard::WHOLE, Tail::Keep).unwrap().batch(4).err(),
    ];
    for error in refused {
        let error = error.unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.advice().is_some(), "{error}");
    }
    assert_eq!(Order::shuffled(0).of(1 << 63).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_list_of_all_rows_of_an_absurd_table_is_refused_and_stays_as_it_was() {
    let rows = Order::shuffled(0).of((1 << 63) - 1).unwrap();
    let mut list = vec![7];
    assert_eq!(rows.extend(0..u64::MAX, &mut list).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(list, [7]);
}

#[test]
fn a_table_without_rows_has_no_batches() {
    for order in [Order::sequential(), Order::shuffled(1), Order::block_shuffled(1, 10, 10)] {
        for tail in TAILS {
            let plan = &all_ranks(0, 10, order, 2, tail)[1];
            assert_eq!((plan.batch_count(), plan.row_count(), plan.positions(0)), (0, 0, None));
            assert_eq!(plan.rows().row_at(0), None);
            let mut list = Vec::new();
            plan.rows().extend(0..10, &mut list).unwrap();
            assert!(list.is_empty());
        }
    }
}
