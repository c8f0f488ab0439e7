//! Salvage: whatever is damaged, what is called intact is what was written, to the last bit; and what was not hit is saved.
#![cfg(feature = "fs")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is compared")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use dolmen::format::checksum::crc32;
use dolmen::format::value::Dict;
use dolmen::salvage::{ExtraOutcome, Guide, LossReason, MARKS, Outcome, Part, lost_tensor, marked_tensors};
use dolmen::{
    Builder, Checkpoint, DType, Durability, ErrorKind, FileOptions, Fill, ReadAt, SalvageOptions, Salvaged,
    SaveOptions, TensorData, Value, View, Writer,
};

use common::{Random, in_parallel, is_valid, small_files, u32_at, u64_at};

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
        // Intact ones may share a storage with others that are not.
        let is_checksummed = salvaged.checkpoint().tensor(&tensor.name).unwrap().is_checksummed();
        assert!(!is_checksummed || doubted.is_empty());
        let alone = report.tensors.iter().all(|tensor| tensor.outcome.doubt().is_none());
        assert!(is_checksummed || !alone, "{}: {report:?}", tensor.name);
    }
    if report.metadata == ExtraOutcome::Intact {
        let mut found = salvaged.checkpoint().metadata().unwrap();
        let mut written = original.metadata.clone();
        found.remove(MARKS);
        written.remove(MARKS);
        assert_eq!(found, written);
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
                let is_whole = descriptor.end <= len && (data.is_empty() || data.end <= len);
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
    let mut b = Builder::with_options(if seed.is_multiple_of(2) { small() } else { FileOptions::new() });
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

/// A model of which block 1 of `embed` (rows 64 to 127) is damaged.
fn damaged_model() -> (Original, Vec<u8>) {
    let original = Original::of(&model());
    let mut damaged = original.bytes.clone();
    let data = original.places()["embed"].1.clone();
    damaged[data.start + 5000] ^= 0x40;
    (original, damaged)
}

#[test]
fn a_damaged_block_costs_the_tensors_that_touch_it_and_what_would_save_them_is_said() {
    let (original, damaged) = damaged_model();
    let salvaged = salvage(&original, &damaged, &strictly());
    assert_eq!(intact(&salvaged), ["bias", "codes", "first rows", "step"]);
    let Outcome::Lost(loss) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    assert_eq!(loss.reason, LossReason::DataDamaged);
    let rescue = loss.rescue.as_ref().unwrap();
    assert_eq!((rescue.partial, rescue.unverified, rescue.rows), (true, false, Some((300 - 64, 300))));
    let Outcome::Lost(loss) = outcome(&salvaged, "turned") else { panic!() };
    assert_eq!(loss.rescue.as_ref().unwrap().rows, None, "its rows do not lie one after the other");
    assert_eq!(salvaged.report().damages.len(), 1);
    assert_eq!(salvaged.report().damages[0].part, Part::Data);
    // The document says what is lost, and of nothing else.
    let document = salvaged.checkpoint().document().unwrap().unwrap();
    let Some(Value::Object(lost)) = document.get("weights").unwrap().get("embed") else { panic!("{document:?}") };
    assert_eq!(lost_tensor(lost), Some("embed"));
    assert_eq!(document.tensor_names().collect::<Vec<_>>(), ["bias", "codes"]);
    assert!(marked_tensors(&salvaged.checkpoint().metadata().unwrap()).is_empty());
}

#[test]
fn damaged_blocks_are_filled_as_told_and_listed() {
    let (original, damaged) = damaged_model();
    let one = 1f32.to_le_bytes();
    let fills: [(Fill, &str, Vec<u8>); 4] = [
        (Fill::Zeros, "zeros", vec![0]),
        (Fill::Ones, "ones", one.to_vec()),
        (Fill::Nan, "nan", f32::NAN.to_le_bytes().to_vec()),
        (Fill::Byte(0xA5), "0xa5", vec![0xA5]),
    ];
    for (fill, name, pattern) in fills {
        let salvaged = salvage(&original, &damaged, &strictly().partial(fill));
        assert_eq!(salvaged.report().saved_count(), original.tensors.len());
        for tensor in ["embed", "head", "turned"] {
            let Outcome::Partial(doubt) = outcome(&salvaged, tensor) else { panic!("{:?}", salvaged.report()) };
            assert_eq!(doubt.replaced, [4096..8192]);
            let rows = (tensor != "turned").then(|| vec![64..128]);
            assert_eq!(doubt.rows.as_ref().map(|rows| rows.hit.clone()), rows);
            let found = salvaged.checkpoint().tensor(tensor).unwrap().bytes().unwrap();
            assert!(found[4096..8192].chunks(pattern.len()).all(|chunk| chunk == pattern), "{name}");
        }
        let marks = salvaged.checkpoint().metadata().unwrap().remove(MARKS).unwrap();
        let mark = marks.get("tensors").unwrap().get("embed").unwrap();
        assert_eq!(mark.get("fill").unwrap().as_str(), Some(name));
    }
}

#[test]
fn a_fill_that_a_dtype_does_not_have_is_refused_with_the_tensors_name() {
    let original = Original::of(&model());
    let mut damaged = original.bytes.clone();
    damaged[original.places()["codes"].1.start] ^= 1;
    let e = strictly().partial(Fill::Nan).salvage_bytes(&damaged).unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("codes")));
    assert!(e.to_string().contains("nan"), "{e}");
    assert!(e.advice().unwrap().contains("zeros"));
    // Of one storage, two tensors cannot be ones of different dtypes.
    let mut b = Builder::with_options(small());
    let storage = b.storage(vec![7; 9000]).unwrap();
    b.view("bytes", storage, View::new(DType::U8, [9000]).unwrap()).unwrap();
    b.view("floats", storage, View::new(DType::F32, [2000]).unwrap()).unwrap();
    let original = Original::of(&b);
    let mut damaged = original.bytes.clone();
    damaged[original.places()["bytes"].1.start] ^= 1;
    let e = strictly().partial(Fill::Ones).salvage_bytes(&damaged).unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("floats")));
    salvage(&original, &damaged, &strictly().partial(Fill::Byte(1)));
}

#[test]
fn packed_and_bool_tensors_are_filled_with_elements_that_there_are() {
    let mut b = Builder::with_options(small());
    let packed = |dtype: DType, count: u64, byte: u8| {
        TensorData::raw(dtype, [count], vec![byte; (count * u64::from(dtype.bits())).div_ceil(8) as usize]).unwrap()
    };
    b.tensor("bits", packed(DType::U1, 8 * 4096 + 3, 0)).unwrap();
    b.tensor("sixes", packed(DType::F6E3M2Fn, 8000, 0)).unwrap();
    b.tensor("flags", TensorData::raw(DType::Bool, [5000], vec![1; 5000]).unwrap()).unwrap();
    let original = Original::of(&b);
    let places = original.places();
    let mut damaged = original.bytes.clone();
    damaged[places["bits"].1.start + 4096] ^= 1;
    damaged[places["sixes"].1.start + 4100] ^= 1;
    damaged[places["flags"].1.start] ^= 1;
    let salvaged = salvage(&original, &damaged, &strictly().partial(Fill::Ones));
    let bytes = |name: &str| salvaged.checkpoint().tensor(name).unwrap().bytes().unwrap();
    assert_eq!(bytes("bits")[4096..], [0b111], "bits beyond the last element are 0");
    assert_eq!(bytes("flags")[..4096], [1; 4096]);
    // Four elements of 001100 each in three bytes, counted from the tensor's beginning; block 1 begins in the middle of three bytes.
    let expected: Vec<u8> =
        [0b0000_1100, 0b1100_0011, 0b0011_0000].into_iter().cycle().skip(4096 % 3).take(100).collect();
    assert_eq!(bytes("sixes")[4096..4196], expected);
    let e = strictly().partial(Fill::Byte(2)).salvage_bytes(&damaged).unwrap_err();
    assert_eq!(e.tensor(), Some("flags"));
}

#[test]
fn a_tensor_of_which_nothing_is_left_is_lost_whatever_is_asked_for() {
    let original = Original::of(&model());
    let mut damaged = original.bytes.clone();
    damaged[original.places()["bias"].1.start] ^= 1;
    let salvaged = salvage(&original, &damaged, &strictly().partial(Fill::Zeros).unverified(true));
    let Outcome::Lost(loss) = outcome(&salvaged, "bias") else { panic!("{:?}", salvaged.report()) };
    assert_eq!((loss.reason, &loss.rescue), (LossReason::DataDamaged, &None));
}

#[test]
fn without_the_index_damaged_data_is_unverified_unless_the_blocks_of_a_damaged_index_can_be_proved() {
    let (original, damaged) = damaged_model();
    let mut no_index = damaged.clone();
    no_index[original.index()].fill(0);
    let salvaged = salvage(&original, &no_index, &strictly());
    let Outcome::Lost(loss) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    assert_eq!(loss.reason, LossReason::Unverified);
    assert!(loss.rescue.as_ref().unwrap().unverified && !loss.rescue.as_ref().unwrap().partial);
    let salvaged = salvage(&original, &no_index, &strictly().unverified(true));
    let Outcome::Unverified(doubt) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    assert_eq!(doubt.unverified, [0..300 * 64]);
    assert_eq!(*outcome(&salvaged, "bias"), Outcome::Intact);
    // One wrong bit in the index, and not where the checksums of blocks are: those combine to what the descriptors say.
    let mut one_bit = damaged;
    let version = one_bit.windows(3).rposition(|bytes| bytes == b"1.0").unwrap();
    one_bit[version] ^= 1;
    let salvaged = salvage(&original, &one_bit, &strictly().partial(Fill::Zeros));
    assert_eq!(salvaged.report().guide, Guide::Records);
    let Outcome::Partial(doubt) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    assert_eq!(doubt.replaced, [4096..8192]);
}

#[test]
fn a_truncated_file_gives_what_is_there_and_the_rest_on_request() {
    let original = Original::of(&model());
    let data = original.places()["embed"].1.clone();
    let cut = &original.bytes[..data.start + 10_000];
    let salvaged = salvage(&original, cut, &strictly());
    let Outcome::Lost(loss) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    let rescue = loss.rescue.as_ref().unwrap();
    assert_eq!((loss.reason, rescue.partial, rescue.unverified), (LossReason::CutOff, true, true));
    assert_eq!(rescue.rows, Some((10_000 / 64, 300)));
    let salvaged = salvage(&original, cut, &strictly().partial(Fill::Zeros).unverified(true));
    let Outcome::Partial(doubt) = outcome(&salvaged, "embed") else { panic!("{:?}", salvaged.report()) };
    assert_eq!((&doubt.replaced[..], &doubt.unverified[..]), (&[10_000..19_200][..], &[0..10_000][..]));
    let report = salvaged.report();
    assert!(report.may_have_more && !report.is_complete());
    assert_eq!(report.original_len, Some(original.bytes.len() as u64));
}

#[test]
fn a_file_within_a_tensor_is_not_taken_for_a_part_of_this_one() {
    let inner = Original::of(&model());
    let mut b = Builder::with_options(small());
    b.tensor("a", &[1u8, 2, 3]).unwrap();
    b.tensor("inner", TensorData::raw(DType::U8, [inner.bytes.len() as u64], inner.bytes.clone()).unwrap()).unwrap();
    b.tensor("z", bytes_of(DType::F32, &[40_000], 4)).unwrap();
    let original = Original::of(&b);
    let places = original.places();
    // Whatever is damaged of the outer one, `check` finds no name that it never had.
    let parts = [0..64, original.trailer(), original.index(), places["inner"].0.clone(), places["a"].0.clone()];
    for missing in 0..32u8 {
        let mut damaged = original.bytes.clone();
        for (_, part) in parts.iter().enumerate().filter(|(i, _)| missing & 1 << i != 0) {
            damaged[part.clone()].fill(0xEE);
        }
        let salvaged = salvage(&original, &damaged, &strictly().unverified(true));
        assert_eq!(*outcome(&salvaged, "z"), Outcome::Intact, "{missing:05b}: {:?}", salvaged.report());
        let junk = [&[7; 77][..], &damaged, &inner.bytes].concat();
        let salvaged = salvage(&original, &junk, &strictly().unverified(true));
        assert_eq!(*outcome(&salvaged, "z"), Outcome::Intact, "{missing:05b}: {:?}", salvaged.report());
    }
    // Cut off in the middle of the inner one, at its end, and a little behind.
    for cut in [places["inner"].1.start + 30_000, places["inner"].1.end, places["inner"].1.end + 70] {
        salvage(&original, &original.bytes[..cut], &strictly().partial(Fill::Zeros).unverified(true));
    }
}

#[test]
fn marks_stay_when_a_salvaged_file_is_salvaged_again() {
    let (original, damaged) = damaged_model();
    let first = salvage(&original, &damaged, &strictly().partial(Fill::Nan));
    let mut builder = Builder::with_options(first.file_options());
    builder.checkpoint(first.checkpoint()).unwrap();
    let saved = Original::of(&builder);
    let marks = saved.metadata[MARKS].clone();
    let again = salvage(&saved, &saved.bytes, &strictly());
    assert!(again.report().is_undamaged());
    assert_eq!(again.report().marked_before, ["embed", "head", "turned"]);
    assert_eq!(again.checkpoint().metadata().unwrap()[MARKS], marks);
    // Another block of the same tensor is damaged now: both are marked.
    let mut damaged = saved.bytes.clone();
    damaged[saved.places()["embed"].1.start + 9000] ^= 1;
    let third = salvage(&saved, &damaged, &strictly().partial(Fill::Zeros));
    let mark = third.checkpoint().metadata().unwrap()[MARKS].get("tensors").unwrap().get("head").cloned().unwrap();
    let replaced = Value::List(vec![Value::List(vec![Value::from(4096), Value::from(12_288)])]);
    assert_eq!((mark.get("replaced"), mark.get("fill").and_then(Value::as_str)), (Some(&replaced), Some("mixed")));
}

/// Puts a descriptor together by the text of the specification.
fn descriptor(name: &str, storage: u32, data: Range<u64>, crc: u32, flags: u8, dims: &[u64]) -> Vec<u8> {
    let len = (64 + 8 * dims.len() + name.len() + 4).next_multiple_of(8);
    let mut bytes = b"DOLMREC\n".to_vec();
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend(storage.to_le_bytes());
    bytes.extend(data.start.to_le_bytes());
    bytes.extend((data.end - data.start).to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(crc.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(DType::U8.code().to_le_bytes());
    bytes.extend([dims.len() as u8, flags]);
    bytes.extend((name.len() as u32).to_le_bytes());
    bytes.extend([0; 8]);
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(name.as_bytes());
    bytes.resize(len - 4, 0);
    let crc = crc32(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// The header of a file that was never committed.
fn provisional() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..8].copy_from_slice(b"\x89DOLMEN\n");
    (bytes[8], bytes[44], bytes[45]) = (1, 6, 12);
    let crc = crc32(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Puts records behind a provisional header: name, how long its data is said to be and how long it is, flags, dims.
fn records(records: &[(&str, u64, usize, u8, &[u64])]) -> Vec<u8> {
    let mut file = provisional();
    for (i, &(name, len, there, flags, dims)) in records.iter().enumerate() {
        let data = vec![i as u8 + 1; there];
        let start = (file.len() as u64 + descriptor(name, 0, 0..0, 0, flags, dims).len() as u64).next_multiple_of(64);
        file.extend(descriptor(name, i as u32, start..start.wrapping_add(len), crc32(&data), flags, dims));
        file.resize(start as usize, 0);
        file.extend(data);
        file.resize(file.len().next_multiple_of(64), 0);
    }
    file
}

#[test]
fn what_hostile_descriptors_say_is_not_believed() {
    let everything = || strictly().partial(Fill::Zeros).unverified(true);
    let huge = u64::MAX - (1 << 12);
    // Lengths beyond all bounds, shapes that overflow, or that do not fit.
    for (len, dims) in
        [(huge, &[1u64 << 40, 1 << 40][..]), (1 << 60, &[1 << 60]), (4, &[5]), (4, &[1 << 63, 2]), (huge, &[u64::MAX])]
    {
        let file = records(&[("good", 4, 4, 0, &[4]), ("bad", len, 4, 0, dims)]);
        let salvaged = everything().salvage_bytes(&file).unwrap();
        assert_eq!(*outcome(&salvaged, "good"), Outcome::Intact);
        let bad = outcome(&salvaged, "bad");
        assert!(!matches!(bad, Outcome::Intact), "{len} {dims:?}: {bad:?}");
        assert!(strictly().salvage_bytes(&file).unwrap().checkpoint().get("bad").unwrap().is_none());
    }
    // A name twice: the first counts. An unfinished one whose rows have no length.
    let salvaged = everything().salvage_bytes(&records(&[("t", 4, 4, 0, &[4]), ("t", 8, 8, 0, &[8])])).unwrap();
    assert_eq!(salvaged.checkpoint().tensor("t").unwrap().shape(), [4]);
    let salvaged = everything().salvage_bytes(&records(&[("t", 4, 4, 0, &[4]), ("u", 0, 9, 4, &[0, 0])])).unwrap();
    assert!(matches!(outcome(&salvaged, "u"), Outcome::Lost(_)));
    // Views of what is not there, or of other bytes than those of a storage.
    let mut file = records(&[("t", 4, 4, 0, &[4])]);
    let start = u64_at(&file, 64 + 16);
    for (i, data) in [(start + 1)..(start + 3), start..start + 5, 64..100, 1 << 40..1 << 41].into_iter().enumerate() {
        file.extend(descriptor(&format!("v{i}"), 0, data, 0, 2, &[2]));
        file.resize(file.len().next_multiple_of(64), 0);
    }
    let salvaged = everything().salvage_bytes(&file).unwrap();
    assert_eq!(intact(&salvaged), ["t"]);
    assert_eq!(salvaged.report().saved_count(), 1, "{:?}", salvaged.report());
}

#[test]
fn work_is_in_proportion_to_the_file_whatever_is_in_it() {
    // Nothing but beginnings of descriptors that say to be as long as they can be, or of headers.
    let mut longest = descriptor("", 0, 0..0, 0, 0, &[]);
    longest[50..56].copy_from_slice(&[255, 1, 0xFF, 0xFF, 0, 0]);
    let len: u32 = (64 + 255 * 16 + 65535 + 4u32).next_multiple_of(8);
    longest[8..12].copy_from_slice(&len.to_le_bytes());
    longest.truncate(64);
    let header = provisional();
    for (what, unit) in [("descriptors", longest), ("headers", header)] {
        let units = 8 << 20 >> 6;
        for start in [vec![], provisional()] {
            let file = [start, unit.repeat(units)].concat();
            let began = Instant::now();
            let salvaged = strictly().salvage_bytes(&file).unwrap();
            assert!(salvaged.report().tensors.is_empty());
            let taken = began.elapsed();
            assert!(taken < Duration::from_secs(20), "{what}: {taken:?}");
        }
    }
}

/// A disk with sectors that cannot be read.
struct BadDisk<'a> {
    bytes: &'a [u8],
    bad: Vec<Range<u64>>,
}

impl ReadAt for BadDisk<'_> {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        let end = at + buffer.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && at < bad.end) {
            return Err(std::io::Error::other("bad sector"));
        }
        self.bytes.read_exact_at(buffer, at)
    }
}

#[test]
fn what_cannot_be_read_is_damage_like_any_other() {
    let original = Original::of(&model());
    let places = original.places();
    let at = |range: &Range<usize>| range.start as u64..range.end as u64;
    for bad in [0..64, at(&original.index()), at(&original.trailer()), at(&places["embed"].0)] {
        let disk = BadDisk { bytes: &original.bytes, bad: vec![bad.clone()] };
        let report = strictly().examine(&disk).unwrap();
        assert_eq!(report.intact_count(), original.tensors.len(), "{bad:?}: {report:?}");
        assert!(!report.is_undamaged());
    }
    let data = at(&places["embed"].1);
    let disk = BadDisk { bytes: &original.bytes, bad: vec![data.start + 5000..data.start + 5001] };
    let report = strictly().examine(&disk).unwrap();
    assert_eq!(report.intact_count(), original.tensors.len() - 3, "{report:?}");
}

#[test]
fn a_newer_file_is_refused_and_other_things_are_called_what_they_are() {
    let mut newer = model().to_vec().unwrap();
    newer[8] = 2;
    common::reseal_header(&mut newer);
    assert_eq!(strictly().salvage_bytes(&newer).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
    let others: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-LFS"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"just some text that is nothing at all", "not a Dolmen file"),
    ];
    for (bytes, words) in others {
        let salvaged = strictly().salvage_bytes(bytes).unwrap();
        let report = salvaged.report();
        assert!(report.impostor.as_ref().unwrap().to_string().contains(words), "{report:?}");
        assert!(!report.has_something() && !report.is_complete());
    }
    let only_the_name = strictly().salvage_bytes(b"\x89DOLMEN\n").unwrap();
    assert!(only_the_name.report().impostor.is_none() && !only_the_name.report().has_something());
}

#[test]
fn it_is_saved_as_any_format_but_never_over_the_damaged_file() {
    let room = tempfile::tempdir().unwrap();
    let (original, damaged) = damaged_model();
    let path = room.path().join("damaged.dolmen");
    std::fs::write(&path, &damaged).unwrap();
    let salvaged = strictly().partial(Fill::Zeros).salvage(&path).unwrap();
    check(&original, &salvaged);
    let link = room.path().join("link.dolmen");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for same in [&path, &link] {
        if same.exists() {
            let e = salvaged.save(same).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
        }
    }
    assert_eq!(std::fs::read(&path).unwrap(), damaged);
    let out = room.path().join("out.dolmen");
    assert!(salvaged.save(&out).unwrap().is_empty());
    let saved = Checkpoint::open(&out).unwrap();
    assert!(saved.verify().unwrap().is_valid());
    assert_eq!(tensors_of(&saved), tensors_of(salvaged.checkpoint()));
    assert_eq!((saved.header().alignment(), saved.header().block_len()), (64, 4096), "as the damaged file had them");
    #[cfg(feature = "safetensors")]
    {
        let out = room.path().join("out.safetensors");
        drop(salvaged.save(&out).unwrap());
        assert_eq!(Checkpoint::open(&out).unwrap().len(), original.tensors.len());
    }
}

#[cfg(feature = "torch")]
#[test]
fn in_a_pt_file_a_text_stands_for_what_is_lost() {
    let room = tempfile::tempdir().unwrap();
    let (_, damaged) = damaged_model();
    let salvaged = strictly().salvage_bytes(&damaged).unwrap();
    let out = room.path().join("out.pt");
    let notes = salvaged.save(&out).unwrap();
    assert!(notes.iter().any(|note| note.contains("embed") && note.contains("lost")), "{notes}");
    let document = Checkpoint::open(&out).unwrap().document().unwrap().unwrap();
    let weights = document.get("weights").unwrap();
    assert_eq!(weights.get("embed").unwrap().as_str(), Some("dolmen.Lost: embed"));
    assert!(weights.get("bias").unwrap().as_tensor().is_some());
}

/// The bytes of row `i` of the features that are written below.
fn row(i: u64) -> Vec<u8> {
    let mut row = Random::new(i).bytes(1000);
    row[..8].copy_from_slice(&i.to_le_bytes());
    row
}

/// Checks what is salvaged of features that were being written; gives how many rows are vouched for, and how many there are.
#[track_caller]
fn check_features(file: &[u8]) -> (u64, u64) {
    let plain = strictly().salvage_bytes(file).unwrap();
    let all = strictly().unverified(true).salvage_bytes(file).unwrap();
    for salvaged in [&plain, &all] {
        let report = salvaged.report();
        assert!(report.unfinished && !report.is_complete(), "{report:?}");
        assert_eq!(*outcome(salvaged, "labels"), Outcome::Intact);
        let features = salvaged.checkpoint().tensor("features").unwrap();
        let bytes = features.bytes().unwrap();
        assert_eq!(bytes.len() as u64, features.shape()[0] * 1000);
        assert!(bytes.chunks(1000).enumerate().all(|(i, found)| found == row(i as u64)));
        let mut builder = Builder::new();
        builder.checkpoint(salvaged.checkpoint()).unwrap();
        assert!(is_valid(&builder.to_vec().unwrap()));
    }
    let rows = |salvaged: &Salvaged| salvaged.checkpoint().tensor("features").unwrap().shape()[0];
    let (vouched, there) = (rows(&plain), rows(&all));
    assert_eq!(*outcome(&plain, "features"), Outcome::Intact);
    let further = plain.report().tensors.iter().find(|tensor| tensor.name == "features").unwrap().further_rows;
    assert_eq!(further, there - vouched);
    if there > vouched {
        let Outcome::Unverified(doubt) = outcome(&all, "features") else { panic!("{:?}", all.report()) };
        assert_eq!(doubt.unverified, [vouched * 1000..there * 1000]);
    }
    (vouched, there)
}

/// At most so many bytes of a file are spoken of by no note: those between two notes, a piece that was written and not yet noted, part of a row,
/// and what lies before the data.
const UNNOTED: u64 = 5 * MIB + (4 << 10);
const MIB: u64 = 1 << 20;

#[test]
fn an_unfinished_file_keeps_what_its_writer_has_noted_and_more_on_request() {
    let room = tempfile::tempdir().unwrap();
    let save = SaveOptions::new().durability(Durability::None);
    let mut w = Writer::create_with(room.path().join("f.dolmen"), FileOptions::new(), &save).unwrap();
    w.push("labels", DType::U8, [3], &[1, 2, 3]).unwrap();
    let temp = w.temp_path().to_owned();
    let mut rows = w.begin_rows("features", DType::U8, [1000]).unwrap();
    let mut most = 0;
    for i in 0..14_000u64 {
        rows.write_bytes(&row(i)).unwrap();
        if i % 1999 == 1998 {
            let file = std::fs::read(&temp).unwrap();
            let (vouched, there) = check_features(&file);
            let len = file.len() as u64;
            assert!(there * 1000 + 2000 > len, "all whole rows that are in the file");
            assert!(vouched * 1000 + UNNOTED >= len, "{vouched} of {there}");
            most = most.max(vouched);
            // A living writer has the file.
            let report = strictly().salvage(&temp).unwrap();
            assert!(report.report().being_written || cfg!(not(unix)));
        }
    }
    assert!(most > 8000, "{most}");
    // The notes leave nothing behind in the finished file.
    assert_eq!(rows.finish().unwrap(), 14_000);
    w.commit().unwrap();
    let finished = std::fs::read(room.path().join("f.dolmen")).unwrap();
    assert!(is_valid(&finished));
    assert!(strictly().salvage_bytes(&finished).unwrap().report().is_undamaged());
    // Damage among the rows that are vouched for: then nothing vouches for any of them.
    let mut w = Writer::create_with(room.path().join("g.dolmen"), FileOptions::new(), &save).unwrap();
    let temp = w.temp_path().to_owned();
    let mut rows = w.begin_rows("features", DType::U8, [1000]).unwrap();
    (0..6000).for_each(|i| rows.write_bytes(&row(i)).unwrap());
    let mut file = std::fs::read(&temp).unwrap();
    file[100_000] ^= 1;
    let salvaged = strictly().salvage_bytes(&file).unwrap();
    assert_eq!(salvaged.report().tensors[0].shape.as_deref(), Some(&[0, 1000][..]), "{:?}", salvaged.report());
    assert!(salvaged.report().tensors[0].further_rows > 5000);
}

#[test]
fn a_record_of_known_length_keeps_what_was_noted_too() {
    let room = tempfile::tempdir().unwrap();
    let save = SaveOptions::new().durability(Durability::None);
    let mut w = Writer::create_with(room.path().join("f.dolmen"), FileOptions::new(), &save).unwrap();
    w.push("labels", DType::U8, [3], &[1, 2, 3]).unwrap();
    let temp = w.temp_path().to_owned();
    let mut features = w.begin("features", DType::U8, [20_000, 1000]).unwrap();
    for i in 0..3000 {
        features.write_bytes(&row(i)).unwrap();
    }
    // Before the first note its descriptor speaks of all of it, and of no checksum.
    let file = std::fs::read(&temp).unwrap();
    let salvaged = strictly().salvage_bytes(&file).unwrap();
    let Outcome::Lost(loss) = outcome(&salvaged, "features") else { panic!("{:?}", salvaged.report()) };
    assert_eq!(loss.reason, LossReason::CutOff);
    for i in 3000..10_000 {
        features.write_bytes(&row(i)).unwrap();
    }
    let (vouched, there) = check_features(&std::fs::read(&temp).unwrap());
    assert!(vouched > 5000 && there > 8000, "{vouched} {there}");
}

/// What the test below kills: writes features for ever.
#[test]
#[ignore = "a child process of the next test"]
fn child_process_writes_features() {
    let Ok(path) = std::env::var("DOLMEN_TEST_PATH") else { return };
    let save = SaveOptions::new().durability(Durability::None);
    let mut w = Writer::create_with(path, FileOptions::new(), &save).unwrap();
    w.push("labels", DType::U8, [3], &[1, 2, 3]).unwrap();
    let mut rows = w.begin_rows("features", DType::U8, [1000]).unwrap();
    (0..400_000).for_each(|i| rows.write_bytes(&row(i)).unwrap());
}

#[cfg(unix)]
#[test]
fn of_killed_writers_what_they_wrote_is_kept() {
    let mut random = Random::new(std::process::id().into());
    for _ in 0..6 {
        let room = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_process_writes_features"])
            .env("DOLMEN_TEST_PATH", room.path().join("f.dolmen"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let enough = MIB + random.next() % (20 * MIB);
        let began = Instant::now();
        let temp = loop {
            let mut temps = std::fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().path());
            if let Some(temp) = temps.next()
                && std::fs::metadata(&temp).is_ok_and(|metadata| metadata.len() > enough)
            {
                break temp;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the writer does not come on");
            std::thread::sleep(Duration::from_millis(1));
        };
        child.kill().unwrap();
        child.wait().unwrap();
        let file = std::fs::read(&temp).unwrap();
        let (vouched, there) = check_features(&file);
        assert!(there * 1000 + 2000 > file.len() as u64);
        assert!(vouched * 1000 + UNNOTED >= file.len() as u64, "{vouched} of {there} of {}", file.len());
        assert!(!strictly().salvage(&temp).unwrap().report().being_written, "nobody has it any more");
    }
}
