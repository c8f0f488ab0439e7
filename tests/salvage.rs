//! Salvage: whatever is damaged, what is called intact is what was written, to the last bit; and what was not hit is saved.
#![cfg(feature = "fs")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use dolmen::format::checksum::crc32;
use dolmen::format::value::Dict;
use dolmen::salvage::{ExtraOutcome, Guide, LossReason, MARKS, Outcome, Part};
use dolmen::{
    Builder, Checkpoint, DType, ErrorKind, FileOptions, Fill, SalvageOptions, Salvaged, TensorData, Value, View,
};

use common::{Random, in_parallel, is_valid, reseal, small_files, u32_at, u64_at};

/// A tensor as it was written.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    dtype: DType,
    shape: Vec<u64>,
    strides: Option<Vec<u64>>,
    bytes: Vec<u8>,
}

/// A file as it was written.
struct Original {
    bytes: Vec<u8>,
    tensors: BTreeMap<String, Written>,
    metadata: BTreeMap<String, Value>,
    document: Option<Value>,
}

fn tensors_of(checkpoint: &Checkpoint) -> BTreeMap<String, Written> {
    let written = |tensor: dolmen::Result<dolmen::TensorView<'_>>| {
        let tensor = tensor.unwrap();
        let written = Written {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            strides: tensor.explicit_strides().map(<[u64]>::to_vec),
            bytes: tensor.bytes().unwrap().to_vec(),
        };
        (tensor.name().to_owned(), written)
    };
    checkpoint.tensors().map(written).collect()
}

impl Original {
    fn new(bytes: Vec<u8>) -> Original {
        let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
        Original {
            tensors: tensors_of(&checkpoint),
            metadata: checkpoint.metadata().unwrap(),
            document: checkpoint.document().unwrap(),
            bytes,
        }
    }

    fn of(builder: &Builder<'_>) -> Original {
        Original::new(builder.to_vec().unwrap())
    }

    /// The place of a tensor's storage, and of its descriptor, by the text of the specification.
    fn places(&self) -> BTreeMap<String, (Range<usize>, Range<usize>)> {
        let file = &self.bytes;
        let (index, alignment) = (u64_at(file, 24) as usize, 1usize << file[44]);
        let mut places = BTreeMap::new();
        let mut at = 64;
        while at < index {
            let descriptor = at..at + u32_at(file, at + 8) as usize;
            let (rank, flags, name_len) = (usize::from(file[at + 50]), file[at + 51], u32_at(file, at + 52) as usize);
            let name_at = at + 64 + rank * if flags & 1 != 0 { 16 } else { 8 };
            let name = String::from_utf8(file[name_at..name_at + name_len].to_vec()).unwrap();
            let start = u64_at(file, at + 16) as usize;
            let data = start..start + u64_at(file, at + 24) as usize;
            let end = if flags & 2 != 0 {
                descriptor.end
            } else {
                assert_eq!(start, descriptor.end.next_multiple_of(alignment));
                data.end
            };
            places.insert(name, (descriptor, data));
            at = end.next_multiple_of(64);
        }
        places
    }

    fn index(&self) -> Range<usize> {
        let start = u64_at(&self.bytes, 24) as usize;
        start..start + u64_at(&self.bytes, 32) as usize
    }

    fn trailer(&self) -> Range<usize> {
        self.bytes.len() - 64..self.bytes.len()
    }
}

/// The strictest of all: nothing but what is intact.
fn strictly() -> SalvageOptions {
    SalvageOptions::new().threads(1)
}

/// Salvages, and checks that nothing that is said of any tensor is false.
#[track_caller]
fn salvage(original: &Original, damaged: &[u8], options: &SalvageOptions) -> Salvaged {
    let salvaged = options.salvage_bytes(damaged).unwrap();
    check(original, &salvaged);
    salvaged
}

#[track_caller]
fn check(original: &Original, salvaged: &Salvaged) {
    let report = salvaged.report();
    let found = tensors_of(salvaged.checkpoint());
    let saved: BTreeSet<&str> =
        report.tensors.iter().filter(|tensor| tensor.outcome.is_saved()).map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), saved, "{report:?}");
    for tensor in &report.tensors {
        let Some(written) = original.tensors.get(&tensor.name) else {
            panic!("{:?} never was: {report:?}", tensor.name);
        };
        if !tensor.outcome.is_saved() {
            continue;
        }
        let found = &found[&tensor.name];
        let doubt = tensor.outcome.doubt().cloned().unwrap_or_default();
        assert_eq!((found.dtype, &found.strides), (written.dtype, &written.strides));
        assert_eq!(found.shape, written.shape, "{}", tensor.name);
        assert_eq!(found.bytes.len(), written.bytes.len());
        let doubted: Vec<Range<u64>> = [doubt.replaced.clone(), doubt.unverified.clone()].concat();
        let is_doubted = |at: usize| doubted.iter().any(|range| range.contains(&(at as u64)));
        for (at, (found, written)) in found.bytes.iter().zip(&written.bytes).enumerate() {
            assert!(found == written || is_doubted(at), "byte {at} of {} is wrong: {report:?}", tensor.name);
        }
        match tensor.outcome {
            Outcome::Intact => assert!(doubted.is_empty()),
            Outcome::Partial(_) => assert!(!doubt.replaced.is_empty()),
            _ => assert!(doubt.replaced.is_empty() && !doubt.unverified.is_empty()),
        }
        assert_eq!(salvaged.checkpoint().tensor(&tensor.name).unwrap().is_checksummed(), doubted.is_empty());
    }
    if report.metadata == ExtraOutcome::Intact {
        let mut found = salvaged.checkpoint().metadata().unwrap();
        found.remove(MARKS);
        assert_eq!(found, original.metadata);
    }
    if report.document == ExtraOutcome::Intact && saved.len() == original.tensors.len() {
        assert_eq!(salvaged.checkpoint().document().unwrap(), original.document);
    }
    assert!(!report.is_complete() || saved.len() == original.tensors.len(), "{report:?}");
    // What is saved of it is a valid file that says the same.
    let mut builder = Builder::with_options(salvaged.file_options());
    builder.checkpoint(salvaged.checkpoint()).unwrap();
    let output = builder.to_vec().unwrap();
    assert!(is_valid(&output));
    let output = Checkpoint::from_bytes(&output).unwrap();
    assert_eq!(tensors_of(&output), found);
    let marks = output.metadata().unwrap().remove(MARKS);
    let marked = |name: &str| marks.as_ref()?.get("tensors")?.get(name).cloned();
    for tensor in report.tensors.iter().filter(|tensor| tensor.outcome.is_saved()) {
        let before = report.marked_before.contains(&tensor.name);
        assert_eq!(marked(&tensor.name).is_some(), tensor.outcome.doubt().is_some() || before, "{marks:?}");
    }
}

#[track_caller]
fn intact(salvaged: &Salvaged) -> Vec<&str> {
    let tensors = salvaged.report().tensors.iter().filter(|tensor| tensor.outcome == Outcome::Intact);
    tensors.map(|tensor| tensor.name.as_str()).collect()
}

#[track_caller]
fn outcome<'s>(salvaged: &'s Salvaged, name: &str) -> &'s Outcome {
    let tensor = salvaged.report().tensors.iter().find(|tensor| tensor.name == name);
    &tensor.unwrap_or_else(|| panic!("{name}: {:?}", salvaged.report())).outcome
}

fn small() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap()
}

fn bytes_of(dtype: DType, shape: &[u64], seed: u64) -> TensorData<'static> {
    let len = shape.iter().product::<u64>() * u64::from(dtype.bits()) / 8;
    TensorData::raw(dtype, shape, Random::new(seed).bytes(len as usize)).unwrap()
}

/// Tensors of several blocks, views, an alias, metadata and a document.
fn model() -> Builder<'static> {
    let mut b = Builder::with_options(small());
    b.tensor("embed", bytes_of(DType::F32, &[300, 16], 1)).unwrap();
    b.tensor("bias", bytes_of(DType::F32, &[16], 2)).unwrap();
    b.tensor("step", &[7i64]).unwrap();
    b.alias("head", "embed").unwrap();
    let storage = b.storage_of("embed").unwrap();
    b.view("turned", storage, View::new(DType::F32, [16, 300]).unwrap().strides([1, 16]).unwrap()).unwrap();
    b.view("first rows", storage, View::new(DType::F32, [4, 16]).unwrap()).unwrap();
    b.tensor("codes", bytes_of(DType::U8, &[20_000], 3)).unwrap();
    b.metadata("version", "1.0");
    let weights = Dict::from([("embed", Value::tensor("embed")), ("bias", Value::tensor("bias"))]);
    b.document(Dict::from([("weights", Value::from(weights)), ("codes", Value::tensor("codes"))]).into());
    b
}

fn shapes() -> Vec<(String, Original)> {
    let mut files: Vec<_> = small_files().into_iter().map(|(what, bytes)| (what.to_owned(), bytes)).collect();
    files.push(("a model".to_owned(), model().to_vec().unwrap()));
    let mut aligned = Builder::with_options(FileOptions::new().alignment(4096).unwrap());
    aligned.tensor("a", &[1u8, 2, 3]).unwrap();
    aligned.tensor("b", bytes_of(DType::F16, &[100], 5)).unwrap();
    files.push(("data aligned to pages".to_owned(), aligned.to_vec().unwrap()));
    files.into_iter().map(|(what, bytes)| (what, Original::new(bytes))).collect()
}

#[test]
fn an_undamaged_file_gives_all_of_it() {
    for (what, original) in shapes() {
        let salvaged = salvage(&original, &original.bytes, &strictly());
        let report = salvaged.report();
        assert!(report.is_undamaged() && report.guide == Guide::Index, "{what}: {report:?}");
        assert_eq!(tensors_of(salvaged.checkpoint()), original.tensors, "{what}");
        assert_eq!(salvaged.checkpoint().metadata().unwrap(), original.metadata);
        assert_eq!(salvaged.checkpoint().document().unwrap(), original.document);
        assert!(report.unknown.is_empty() && report.begins_at == Some(0));
    }
}

#[test]
fn sections_that_this_version_does_not_know_are_carried_along() {
    let mut b = Builder::new();
    b.section(0x8000_0007, vec![1, 2, 3]).unwrap();
    let salvaged = strictly().salvage_bytes(&b.to_vec().unwrap()).unwrap();
    assert_eq!(salvaged.checkpoint().unknown_sections().collect::<Vec<_>>(), [(0x8000_0007, &[1, 2, 3][..])]);
}

#[test]
fn every_flipped_bit_of_a_small_file_costs_at_most_what_it_is_in() {
    for (what, original) in shapes().into_iter().filter(|(_, original)| original.bytes.len() < 3000) {
        let bits: Vec<usize> =
            (0..original.bytes.len() * 8).step_by(if cfg!(debug_assertions) { 3 } else { 1 }).collect();
        let places = original.places();
        in_parallel(&bits, |&bit| {
            let mut damaged = original.bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let salvaged = salvage(&original, &damaged, &strictly());
            for (name, (_, data)) in &places {
                let hit = data.contains(&(bit / 8));
                assert!(
                    hit || *outcome(&salvaged, name) == Outcome::Intact,
                    "{what}, bit {bit}: {:?}",
                    salvaged.report()
                );
            }
            assert!(!salvaged.report().is_undamaged(), "{what}, bit {bit}: {:?}", salvaged.report());
        });
    }
}

#[test]
fn every_truncation_keeps_what_is_whole() {
    for (what, original) in shapes().into_iter().filter(|(_, original)| original.bytes.len() < 3000) {
        let lens: Vec<usize> = (0..original.bytes.len()).collect();
        let places = original.places();
        in_parallel(&lens, |&len| {
            let damaged = &original.bytes[..len];
            let salvaged = salvage(&original, damaged, &strictly());
            for (name, (descriptor, data)) in &places {
                let is_whole = descriptor.end.max(data.end) <= len;
                let is_saved = intact(&salvaged).contains(&name.as_str());
                assert_eq!(is_whole, is_saved, "{what}, {len} bytes, {name}: {:?}", salvaged.report());
            }
            // All there is may be there, though the trailer is not.
            assert_eq!(salvaged.report().is_complete(), original.index().end <= len, "{what}, {len} bytes");
            assert!(!salvaged.report().is_undamaged());
        });
    }
}

#[test]
fn junk_before_and_behind_costs_nothing() {
    let shapes = shapes();
    let originals: Vec<&(String, Original)> =
        shapes.iter().filter(|(_, original)| original.bytes.len() < 10_000).collect();
    in_parallel(&originals, |(what, original)| {
        let junk = Random::new(9).bytes(200);
        for len in 1..=200 {
            for (before, behind) in [(len, 0), (0, len), (len, 201 - len)] {
                let damaged = [&junk[..before], &original.bytes, &junk[..behind]].concat();
                let salvaged = salvage(original, &damaged, &strictly());
                let report = salvaged.report();
                assert_eq!(intact(&salvaged).len(), original.tensors.len(), "{what}, {before}, {behind}: {report:?}");
                assert!(report.is_complete() && !report.is_undamaged(), "{what}: {report:?}");
                assert_eq!((report.begins_at, report.unknown_len), (Some(before as i64), (before + behind) as u64));
            }
        }
    });
}

#[test]
fn a_missing_beginning_costs_what_was_in_it() {
    let original = Original::of(&model());
    let places = original.places();
    for missing in [1, 63, 64, 65, 300, 1000, 4096, 20_000, 25_000, 40_000, original.bytes.len() - 70] {
        let salvaged = salvage(&original, &original.bytes[missing..], &strictly());
        assert_eq!(salvaged.report().begins_at, Some(-(missing as i64)));
        for (name, (_, data)) in &places {
            // The index is there: what it says of blocks saves views of what is left.
            let is_saved = intact(&salvaged).contains(&name.as_str());
            assert!(is_saved || data.start < missing, "{missing}, {name}: {:?}", salvaged.report());
        }
        let partial = salvage(&original, &original.bytes[missing..], &strictly().partial(Fill::Zeros));
        assert!(partial.report().saved_count() >= salvaged.report().saved_count());
    }
}

#[test]
fn header_trailer_and_index_can_be_missing_in_any_combination() {
    for (what, original) in shapes() {
        for missing in 0..8u8 {
            let mut damaged = original.bytes.clone();
            let parts = [0..64, original.trailer(), original.index()];
            for (_, part) in parts.into_iter().enumerate().filter(|(i, _)| missing & 1 << i != 0) {
                damaged[part].fill(0);
            }
            let salvaged = salvage(&original, &damaged, &strictly());
            let report = salvaged.report();
            assert_eq!(intact(&salvaged).len(), original.tensors.len(), "{what}, {missing:03b}: {report:?}");
            let index_is_vouched_for = missing & 4 == 0 && missing & 3 != 3;
            assert_eq!(report.guide == Guide::Index, index_is_vouched_for, "{what}, {missing:03b}: {report:?}");
            assert_eq!(report.is_complete(), index_is_vouched_for, "{what}, {missing:03b}: {report:?}");
            if missing & 4 == 0 {
                // The index is there, and nothing vouches for it: then it is taken if that is asked for.
                let asked = salvage(&original, &damaged, &strictly().unverified(true));
                let checkpoint = asked.checkpoint();
                let mut metadata = checkpoint.metadata().unwrap();
                let marks = metadata.remove(MARKS);
                assert_eq!(
                    (metadata, checkpoint.document().unwrap()),
                    (original.metadata.clone(), original.document.clone())
                );
                let doubted = !index_is_vouched_for && !original.metadata.is_empty();
                assert_eq!(
                    marks.is_some_and(|marks| marks.get("metadata").is_some()),
                    doubted,
                    "{what}, {missing:03b}"
                );
            }
        }
    }
}

#[test]
fn damaged_descriptors_cost_nothing_while_the_index_is_whole() {
    let original = Original::of(&model());
    let mut damaged = original.bytes.clone();
    for (descriptor, _) in original.places().into_values() {
        damaged[descriptor].fill(0xEE);
    }
    let salvaged = salvage(&original, &damaged, &strictly());
    assert_eq!(intact(&salvaged).len(), original.tensors.len());
    let records = salvaged.report().damages.iter().filter(|damage| damage.part == Part::Record).count();
    assert_eq!(records, original.tensors.len());
    assert!(salvaged.report().is_complete());
}

#[test]
fn without_the_index_a_damaged_descriptor_costs_its_tensor_alone() {
    let original = Original::of(&model());
    for (hit, (descriptor, _)) in original.places() {
        for also in [None, Some(0..64), Some(original.trailer())] {
            let mut damaged = original.bytes.clone();
            damaged[original.index()].fill(0);
            damaged[descriptor.clone()][9] ^= 1;
            if let Some(also) = also.clone() {
                damaged[also].fill(0);
            }
            let salvaged = salvage(&original, &damaged, &strictly());
            let expected: Vec<&str> = original.tensors.keys().map(String::as_str).filter(|name| *name != hit).collect();
            // Its storage is found by its views, if it has any.
            assert_eq!(intact(&salvaged), expected, "{hit}, {also:?}: {:?}", salvaged.report());
            assert!(salvaged.report().may_have_more);
        }
    }
}

/// How a hundredth of all bytes is destroyed.
#[derive(Clone, Copy, Debug)]
enum Destroyed {
    Bytes,
    Runs(usize),
}

/// Destroys a hundredth of all bytes; says which.
fn destroy(file: &mut [u8], how: Destroyed, random: &mut Random) -> Vec<bool> {
    let mut hit = vec![false; file.len()];
    let run = match how {
        Destroyed::Bytes => 1,
        Destroyed::Runs(len) => len,
    };
    let mut left = file.len() / 100;
    while left > 0 {
        let start = random.below(file.len());
        for at in (start..file.len()).take(run) {
            if !hit[at] && left > 0 {
                hit[at] = true;
                file[at] ^= 1 + random.below(255) as u8;
                left -= 1;
            }
        }
    }
    hit
}

/// Many small tensors and a few large ones.
fn many(seed: u64) -> Builder<'static> {
    let mut random = Random::new(seed);
    let mut b = Builder::with_options(if seed % 2 == 0 { small() } else { FileOptions::new() });
    for i in 0..400 {
        let len = 1 + random.below(60) as u64;
        b.tensor(&format!("t{i}"), bytes_of(DType::U8, &[len], seed + i)).unwrap();
        if i % 10 == 0 {
            b.alias(&format!("v{i}"), &format!("t{i}")).unwrap();
        }
    }
    for i in 0..3 {
        b.tensor(&format!("large{i}"), bytes_of(DType::F32, &[500 + 100 * i, 16], seed + i)).unwrap();
    }
    b.metadata("seed", seed);
    b
}

#[test]
fn of_a_file_with_a_hundredth_of_its_bytes_destroyed_every_tensor_that_was_not_hit_is_saved() {
    let seeds: Vec<u64> = (0..100).collect();
    let (all, expected) = (std::sync::atomic::AtomicUsize::new(0), std::sync::atomic::AtomicUsize::new(0));
    in_parallel(&seeds, |&seed| {
        let original = Original::of(&many(seed));
        let places = original.places();
        for how in [Destroyed::Bytes, Destroyed::Runs(16), Destroyed::Runs(512), Destroyed::Runs(4096)] {
            let mut damaged = original.bytes.clone();
            let hit = destroy(&mut damaged, how, &mut Random::new(seed * 7 + 1));
            let is_hit = |range: Range<usize>| hit[range].iter().any(|&hit| hit);
            let index = is_hit(original.index()) || is_hit(0..64) && is_hit(original.trailer());
            let salvaged = salvage(&original, &damaged, &strictly());
            let saved: BTreeSet<&str> = intact(&salvaged).into_iter().collect();
            for (name, (descriptor, data)) in &places {
                all.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if is_hit(data.clone()) || index && is_hit(descriptor.clone()) {
                    continue;
                }
                expected.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                assert!(saved.contains(name.as_str()), "seed {seed}, {how:?}, {name}");
            }
            // And with all that can be asked for, nothing false is said either.
            salvage(&original, &damaged, &strictly().partial(Fill::Zeros).unverified(true));
        }
    });
    let (all, expected) = (all.into_inner(), expected.into_inner());
    assert!(expected > all / 3 && expected < all * 99 / 100, "{expected} of {all}");
}
