//! Salvage of damaged PyTorch checkpoints: whatever is done to a file, what is called intact is what was saved, and what was not hit is.
//!
//! `DOLMEN_SALVAGE_SEEDS` says how many times each of the random damages is done; without it 100 times. `7..8` is the
//! eighth alone.
#![cfg(all(feature = "torch", feature = "fs"))]
#![allow(clippy::single_range_in_vec_init, reason = "what is compared are lists of ranges")]

#[path = "../fuzz/src/heap.rs"]
mod heap;
#[path = "common/hostile_torch.rs"]
mod hostile;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dolmen::format::value::Value;
use dolmen::salvage::{ExtraOutcome, Guide, LOST, LossReason, MARKS, Outcome, Part};
use dolmen::{Builder, Checkpoint, ErrorKind, Fill, SalvageOptions, Salvaged, TensorView};
use hostile::*;

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data").join(file)
}

fn bytes_of_file(file: &str) -> Vec<u8> {
    std::fs::read(data(file)).unwrap()
}

/// Every file that is a ZIP archive with CRCs.
fn archives() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(data(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| (name.ends_with(".pt") || name.ends_with(".pth")) && name != "crc_off.pt")
        .map(|name| (name.clone(), bytes_of_file(&name)))
        .filter(|(_, bytes)| bytes.starts_with(b"PK"))
        .collect();
    files.sort();
    assert!(files.len() > 40);
    files
}

/// Those that are short enough to be damaged at every byte.
fn short() -> Vec<(String, Vec<u8>)> {
    let names = [
        "small.pt",
        "merged.pt",
        "views.pt",
        "tied.pt",
        "version_first.pt",
        "deflated.pt",
        "script.pt",
        "big_endian.pt",
    ];
    names.into_iter().map(|name| (name.to_owned(), bytes_of_file(name))).collect()
}

/// The elements in row-major order.
fn elements(tensor: &TensorView<'_>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(tensor.contiguous_byte_len()).unwrap()];
    tensor.read_into(&mut bytes).unwrap();
    bytes
}

/// The tensors of a file that is not damaged, and its document.
struct Original {
    tensors: BTreeMap<String, (String, Vec<u64>, Vec<u8>)>,
    document: Option<Value>,
}

fn content(checkpoint: &Checkpoint) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let tensor = |tensor: TensorView<'_>| {
        (tensor.name().to_owned(), (tensor.dtype().to_string(), tensor.shape().to_vec(), elements(&tensor)))
    };
    checkpoint.tensors().map(|one| tensor(one.unwrap())).collect()
}

impl Original {
    fn of(bytes: &[u8]) -> Original {
        let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
        Original { tensors: content(&checkpoint), document: checkpoint.document().unwrap() }
    }

    /// Salvages a damaged copy; whatever is called intact must be what it was. Gives the names of those tensors.
    fn intact(&self, damaged: &[u8], what: &str) -> Vec<String> {
        self.check(&salvaged(damaged, what), what)
    }

    fn check(&self, salvaged: &Salvaged, what: &str) -> Vec<String> {
        let report = salvaged.report();
        let found = content(salvaged.checkpoint());
        let mut intact = Vec::new();
        for tensor in &report.tensors {
            assert_eq!(tensor.outcome.is_saved(), found.contains_key(&tensor.name), "{what}: {tensor:?}");
            if tensor.outcome == Outcome::Intact {
                assert_eq!(self.tensors.get(&tensor.name), found.get(&tensor.name), "{what}: {tensor:?}");
                intact.push(tensor.name.clone());
            }
        }
        let saved = report.tensors.iter().filter(|tensor| tensor.outcome.is_saved()).count();
        assert_eq!(saved, found.len(), "{what}");
        if report.document == ExtraOutcome::Intact {
            let document = salvaged.checkpoint().document().unwrap();
            match (&self.document, document) {
                (Some(whole), Some(found)) if report.tensors.iter().all(|tensor| tensor.outcome.is_saved()) => {
                    assert_eq!(*whole, found, "{what}");
                }
                (Some(_), Some(_)) => {}
                other => panic!("{what}: {other:?}"),
            }
        } else {
            assert!(salvaged.checkpoint().document().unwrap().is_none(), "{what}");
        }
        intact
    }

    fn all(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
}

/// What is damaged, and what is not intact, for messages.
fn told(salvaged: &Salvaged) -> String {
    let report = salvaged.report();
    let mut out = String::new();
    for damage in report.damages.iter().take(40) {
        out += &format!("\n{:?} {:?} {}", damage.part, damage.at, damage.what);
    }
    for tensor in report.tensors.iter().filter(|tensor| tensor.outcome != Outcome::Intact) {
        out += &format!("\n{}: {:?}", tensor.name, tensor.outcome);
    }
    out
}

fn salvaged(bytes: &[u8], what: &str) -> Salvaged {
    SalvageOptions::new().salvage_bytes(bytes).unwrap_or_else(|e| panic!("{what}: {e}"))
}

/// Where the parts of a record are.
#[derive(Clone, Debug)]
struct Placed {
    /// Without the folder.
    name: String,
    header: usize,
    data: Range<usize>,
    /// Behind what follows the data.
    end: usize,
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// The records of an archive without a comment, and where its directory begins.
fn layout(bytes: &[u8]) -> (Vec<Placed>, usize) {
    let end = bytes.len() - 22;
    let (count, directory) = (u16_at(bytes, end + 10), u32_at(bytes, end + 16));
    let mut at = directory;
    let mut records = Vec::new();
    for _ in 0..count {
        let (flags, stored) = (u16_at(bytes, at + 8), u32_at(bytes, at + 20));
        let (name_len, extra_len, comment_len) =
            (u16_at(bytes, at + 28), u16_at(bytes, at + 30), u16_at(bytes, at + 32));
        let header = u32_at(bytes, at + 42);
        let name = String::from_utf8(bytes[at + 46..at + 46 + name_len].to_vec()).unwrap();
        let start = header + 30 + u16_at(bytes, header + 26) + u16_at(bytes, header + 28);
        let data = start..start + stored;
        let end = data.end + if flags & 8 != 0 { 16 } else { 0 };
        let name = name.split_once('/').unwrap().1.to_owned();
        records.push(Placed { name, header, data, end });
        at += 46 + name_len + extra_len + comment_len;
    }
    records.sort_by_key(|record| record.header);
    (records, directory)
}

/// For each tensor, the place in the file of its storage's data; `None` if it is not there as it is, or has no bytes.
fn storages(bytes: &[u8]) -> BTreeMap<String, Option<Placed>> {
    let (records, _) = layout(bytes);
    let checkpoint = Checkpoint::from_bytes(bytes).unwrap();
    let place = |tensor: TensorView<'_>| {
        let storage = tensor.storage_bytes().unwrap();
        let is_it = |record: &&Placed| {
            !record.data.is_empty()
                && (record.name.starts_with("data/") || record.name.starts_with("constants/"))
                && &bytes[record.data.clone()] == storage
        };
        let mut here = records.iter().filter(is_it);
        let first = here.next().cloned();
        // Two records of the same bytes: which is meant cannot be told like this.
        (tensor.name().to_owned(), if here.next().is_none() { first } else { None })
    };
    checkpoint.tensors().map(|tensor| place(tensor.unwrap())).collect()
}

/// A checkpoint of so many tensors, each of its own storage with its own bytes: lengths in floats.
fn model(lens: &[usize]) -> Vec<u8> {
    let mut pickle = Pickle::new().op(DICT).op(MARK);
    let mut storages: Vec<(String, Vec<u8>)> = Vec::new();
    for (number, &len) in lens.iter().enumerate() {
        let count = len as i64;
        pickle = pickle.text(&format!("layer.{number}")).tensor(&number.to_string(), count, 0, &[count], &[1]);
        let floats = (0..len).flat_map(|i| ((number * 1000 + i) as f32 * 0.37).to_le_bytes()).collect();
        storages.push((number.to_string(), floats));
    }
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, data)| (key.as_str(), data.as_slice())).collect();
    torch_archive(&pickle.op(SETITEMS).stop(), &storages)
}

/// The number of a tensor of a [`model`], as the key of its storage.
fn key_of(name: &str) -> &str {
    name.strip_prefix("layer.").unwrap()
}

/// How many seeds to try.
fn seeds() -> std::ops::Range<u64> {
    let Ok(seeds) = std::env::var("DOLMEN_SALVAGE_SEEDS") else { return 0..100 };
    match seeds.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => 0..seeds.parse().unwrap(),
    }
}

struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() as usize % end
    }
}

// What is whole.

#[test]
fn of_a_file_that_is_not_damaged_everything_is_intact() {
    for (file, bytes) in archives() {
        let original = Original::of(&bytes);
        let salvaged = salvaged(&bytes, &file);
        assert_eq!(original.check(&salvaged, &file), original.all(), "{file}");
        let report = salvaged.report();
        assert!(report.is_undamaged() && report.is_complete(), "{file}: {report:?}");
        assert_eq!((report.guide, report.format, report.begins_at), (Guide::Index, "torch", Some(0)), "{file}");
    }
}

#[test]
fn without_its_directory_or_its_end_every_archive_is_salvaged_whole() {
    for (file, bytes) in archives() {
        let original = Original::of(&bytes);
        let (_, directory) = layout(&bytes);
        let zeroed = |range: Range<usize>| {
            let mut damaged = bytes.clone();
            damaged[range].fill(0);
            damaged
        };
        let cases = [
            ("cut off in front of the directory", bytes[..directory].to_vec()),
            ("the directory zeroed", zeroed(directory..bytes.len())),
            ("the end record zeroed", zeroed(bytes.len() - 22..bytes.len())),
            ("the entries zeroed", zeroed(directory..bytes.len() - 22)),
        ];
        for (what, damaged) in cases {
            let what = format!("{file}, {what}");
            let salvaged = salvaged(&damaged, &what);
            assert_eq!(original.check(&salvaged, &what), original.all(), "{what}: {}", told(&salvaged));
            let report = salvaged.report();
            assert!(report.is_complete() && !report.is_undamaged(), "{what}: {report:?}");
            assert!(report.guide == Guide::Records && report.damages.iter().any(|damage| damage.part == Part::Index));
        }
    }
}

#[test]
fn junk_before_and_after_and_a_missing_beginning_are_told_and_do_no_harm() {
    let bytes = model(&[5, 9, 20]);
    let original = Original::of(&bytes);
    for len in (1..=200).chain([4096, 70_000]) {
        let junk: Vec<u8> = (0..len).map(|i| (i * 7 + 3) as u8).collect();
        let before = [&junk[..], &bytes].concat();
        let salvaged = salvaged(&before, "before");
        assert_eq!(original.check(&salvaged, "before"), original.all(), "{len} before");
        assert_eq!(salvaged.report().begins_at, Some(len as i64));
        let both = [&junk[..], &bytes, &junk].concat();
        assert_eq!(original.intact(&both, "both"), original.all(), "{len} at both ends");
        let behind = [&bytes[..], &junk].concat();
        let salvaged = self::salvaged(&behind, "behind");
        assert_eq!(original.check(&salvaged, "behind"), original.all(), "{len} behind");
        // A few bytes may be the rest of what follows data.
        if len > 24 {
            assert_eq!(salvaged.report().unknown_len, len as u64);
        }
    }
    let (records, _) = layout(&bytes);
    let second = records[1].header;
    for len in 1..=second {
        let salvaged = salvaged(&bytes[len..], "beginning");
        // Its header is in the directory, too.
        let kept = if len <= records[0].data.start { original.all() } else { Vec::new() };
        assert_eq!(original.check(&salvaged, "beginning"), kept, "{len} missing: {}", told(&salvaged));
        assert_eq!(salvaged.report().begins_at, Some(-(len as i64)), "{len} missing");
    }
}

// What is cut off.

#[test]
fn wherever_a_file_is_cut_every_storage_in_front_of_the_cut_is_saved() {
    for (file, bytes) in short() {
        let original = Original::of(&bytes);
        let (records, _) = layout(&bytes);
        let pickle = records.iter().find(|record| record.name == "data.pkl").unwrap();
        let (begins, pickle) = (pickle.data.start, pickle.end);
        // What says how long it is may lie in front of the data.
        let whole = |record: &Placed| record.end;
        let storages = storages(&bytes);
        // In a program the byte order comes last, and without it nothing says what numbers are.
        let order = records.iter().find(|record| record.name == "byteorder").filter(|_| file == "script.pt");
        let order = order.map_or(0, |record| record.end);
        for len in 0..bytes.len() {
            let what = format!("{file}, cut at {len}");
            let cut = &bytes[..len];
            let Ok(salvaged) = SalvageOptions::new().salvage_bytes(cut) else {
                assert!(len <= begins, "{what}");
                continue;
            };
            let intact = original.check(&salvaged, &what);
            for (name, record) in &storages {
                let Some(record) = record else { continue };
                if whole(record) <= len && pickle <= len && order <= len {
                    assert!(intact.contains(name), "{what}: {name}: {}", told(&salvaged));
                }
                if record.data.end > len && !original.tensors[name].2.is_empty() {
                    assert!(!intact.contains(name), "{what}: {name}");
                }
            }
        }
    }
}

#[test]
fn of_a_storage_that_is_cut_what_is_left_is_saved_on_request_and_the_rest_is_filled() {
    let bytes = model(&[6, 100, 8]);
    let (records, _) = layout(&bytes);
    let record = records.iter().find(|record| record.name == "data/1").unwrap().clone();
    let cut = &bytes[..record.data.start + 4 * 40];
    let plain = salvaged(cut, "cut");
    let report = plain.report();
    let outcome = |salvaged: &Salvaged, name: &str| {
        salvaged.report().tensors.iter().find(|tensor| tensor.name == name).unwrap().outcome.clone()
    };
    assert_eq!(outcome(&plain, "layer.0"), Outcome::Intact);
    let Outcome::Lost(loss) = outcome(&plain, "layer.1") else { panic!("{report:?}") };
    assert_eq!(loss.reason, LossReason::CutOff);
    let rescue = loss.rescue.unwrap();
    assert_eq!((rescue.partial, rescue.unverified, rescue.rows), (true, true, Some((40, 100))));
    let Outcome::Lost(loss) = outcome(&plain, "layer.2") else { panic!("{report:?}") };
    assert_eq!((loss.reason, loss.rescue), (LossReason::CutOff, None));

    let options = SalvageOptions::new().unverified(true).partial(Fill::Nan);
    let filled = options.salvage_bytes(cut).unwrap();
    let Outcome::Partial(doubt) = outcome(&filled, "layer.1") else { panic!("{:?}", filled.report()) };
    assert_eq!((doubt.unverified, doubt.replaced), (vec![0..160], vec![160..400]));
    let tensor = filled.checkpoint().tensor("layer.1").unwrap();
    assert!(!tensor.is_checksummed());
    let floats: Vec<f32> =
        elements(&tensor).chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(floats[..40], (0..40).map(|i| (1000 + i) as f32 * 0.37).collect::<Vec<f32>>());
    assert!(floats[40..].iter().all(|float| float.is_nan()));
    // What is not vouched for says so in the output.
    assert!(filled.checkpoint().metadata().unwrap().contains_key(MARKS));
    // Without a fill nothing is made up.
    let unverified = SalvageOptions::new().unverified(true).salvage_bytes(cut).unwrap();
    assert!(matches!(outcome(&unverified, "layer.1"), Outcome::Lost(_)));
    assert!(!plain.checkpoint().metadata().unwrap().contains_key(MARKS));
}

// What is damaged.

#[test]
fn one_damaged_byte_loses_no_tensor_whose_own_bytes_are_not_hit() {
    for (file, bytes) in short() {
        let original = Original::of(&bytes);
        let (records, _) = layout(&bytes);
        let pickles: Vec<Range<usize>> =
            records.iter().filter(|r| r.name.ends_with(".pkl")).map(|r| r.data.clone()).collect();
        let deflated = file == "deflated.pt";
        let storages = storages(&bytes);
        for at in 0..bytes.len() {
            for change in [0xFF, 0x01, 0x04] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                let what = format!("{file}, byte {at} ^ {change:#x}");
                let salvaged = salvaged(&damaged, &what);
                let intact = original.check(&salvaged, &what);
                // What is compressed is not looked for without its header.
                if pickles.iter().any(|pickle| pickle.contains(&at)) || deflated {
                    continue;
                }
                for (name, record) in &storages {
                    let Some(record) = record.as_ref().filter(|_| !original.tensors[name].2.is_empty()) else {
                        continue;
                    };
                    assert_eq!(
                        intact.contains(name),
                        !record.data.contains(&at),
                        "{what}: {name} in {record:?}: {}",
                        told(&salvaged)
                    );
                }
            }
        }
    }
}

#[test]
fn one_damaged_byte_of_a_file_without_its_directory_passes_nothing_wrong_off_as_intact() {
    for (file, bytes) in short() {
        let original = Original::of(&bytes);
        let (_, directory) = layout(&bytes);
        let mut damaged = bytes[..directory].to_vec();
        for at in 0..directory {
            // As a letter of the other case, so that a name stays text; and as another byte.
            for change in [0x20, 0xFF] {
                damaged[at] ^= change;
                let what = format!("{file} without its directory, byte {at} changed by {change:02x}");
                if let Ok(salvaged) = SalvageOptions::new().salvage_bytes(&damaged) {
                    original.check(&salvaged, &what);
                }
                damaged[at] ^= change;
            }
        }
    }
}

#[test]
fn a_damaged_or_missing_record_loses_what_is_in_it_and_nothing_else() {
    let bytes = model(&[7; 12]);
    let original = Original::of(&bytes);
    let (records, directory) = layout(&bytes);
    for record in &records {
        for with_directory in [true, false] {
            let damages: [(&str, Range<usize>); 5] = [
                ("header", record.header..record.data.start),
                ("data", record.data.clone()),
                ("descriptor", record.data.end..record.end),
                ("all of it", record.header..record.end),
                ("name", record.header + 30..record.header + 40),
            ];
            for (part, range) in damages {
                let what = format!("{} of {}, directory {with_directory}", part, record.name);
                let mut damaged = bytes.clone();
                damaged[range].fill(0);
                if !with_directory {
                    damaged.truncate(directory);
                }
                let intact = original.intact(&damaged, &what);
                let is_pickle = record.name == "data.pkl";
                let describes = part == "header" || part == "descriptor" || part == "name";
                // Nothing is left that says how the bytes of a number come.
                let is_order = record.name == "byteorder" && part == "all of it" && !with_directory;
                let kept = if is_order || is_pickle && !(with_directory && describes) {
                    Vec::new()
                } else {
                    let is_hit = |name: &String| {
                        record.name == format!("data/{}", key_of(name)) && !(with_directory && describes)
                    };
                    original.all().into_iter().filter(|name| !is_hit(name)).collect()
                };
                assert_eq!(intact, kept, "{what}: {}", told(&salvaged(&damaged, "")));
            }
        }
    }
}

#[test]
fn references_to_what_is_lost_say_so() {
    let bytes = model(&[4, 4]);
    let (records, _) = layout(&bytes);
    let mut damaged = bytes.clone();
    damaged[records.iter().find(|record| record.name == "data/1").unwrap().data.start] ^= 1;
    let salvaged = salvaged(&damaged, "");
    let document = salvaged.checkpoint().document().unwrap().unwrap();
    assert_eq!(document.get("layer.0"), Some(&Value::tensor("layer.0")));
    let Some(Value::Object(lost)) = document.get("layer.1") else { panic!("{document:?}") };
    assert_eq!(lost.class, Value::global(LOST.0, LOST.1));
    let damages = &salvaged.report().damages;
    assert!(damages.iter().any(|damage| damage.part == Part::Data && damage.what.contains("data/1")), "{damages:?}");
    // As it was found, on request.
    let unverified = SalvageOptions::new().unverified(true).salvage_bytes(&damaged).unwrap();
    let tensor = unverified.checkpoint().tensor("layer.1").unwrap();
    assert_eq!(elements(&tensor), damaged[records.iter().find(|r| r.name == "data/1").unwrap().data.clone()]);
    let outcome = &unverified.report().tensors[1].outcome;
    let Outcome::Unverified(doubt) = outcome else { panic!("{outcome:?}") };
    assert_eq!(doubt.unverified, [0..16]);
}

#[test]
fn where_one_byte_in_a_hundred_is_destroyed_every_record_that_was_not_hit_is_saved() {
    // Of records as short as these some are not hit; the pickle would always be, so it is spared.
    let mut lens = vec![8usize; 80];
    lens.extend([2000, 300, 1]);
    let bytes = model(&lens);
    let original = Original::of(&bytes);
    let (records, _) = layout(&bytes);
    let pickle = records.iter().find(|record| record.name == "data.pkl").unwrap().clone();
    let mut saved = 0u64;
    for seed in seeds() {
        let mut random = Seeded(seed);
        let mut damaged = bytes.clone();
        let mut hits = Vec::new();
        for _ in 0..bytes.len() / 100 {
            let at = random.below(bytes.len());
            if !(pickle.header..pickle.end).contains(&at) {
                damaged[at] = random.next() as u8;
                hits.push(at);
            }
        }
        let intact = original.intact(&damaged, &format!("seed {seed}"));
        for name in original.tensors.keys() {
            let storage = format!("data/{}", key_of(name));
            let record = records.iter().find(|record| record.name == storage).unwrap();
            if !hits.iter().any(|at| (record.header..record.end).contains(at)) {
                assert!(intact.contains(name), "seed {seed}: {name}: {}", told(&salvaged(&damaged, "")));
                saved += 1;
            }
        }
    }
    assert!(saved > 15 * seeds().end, "{saved} were not hit");
}

#[test]
fn where_a_hundredth_of_the_sectors_is_destroyed_every_record_that_was_not_hit_is_saved() {
    let lens: Vec<usize> = (0..100).map(|i| [16, 64, 1000, 1][i % 4]).collect();
    let bytes = model(&lens);
    let original = Original::of(&bytes);
    let (records, _) = layout(&bytes);
    let (mut saved, mut lost) = (0u64, 0u64);
    for seed in seeds() {
        let mut random = Seeded(seed + 1000);
        let mut damaged = bytes.clone();
        const SECTOR: usize = 128;
        let mut hits = Vec::new();
        for _ in 0..(bytes.len() / SECTOR).div_ceil(100) {
            let sector = random.below(bytes.len() / SECTOR) * SECTOR..;
            let sector = sector.start..sector.start + SECTOR;
            damaged[sector.clone()].iter_mut().for_each(|byte| *byte = random.next() as u8);
            hits.push(sector);
        }
        let intact = original.intact(&damaged, &format!("seed {seed}"));
        let is_hit = |name: &str| {
            let record = records.iter().find(|record| record.name == name).unwrap();
            hits.iter().any(|hit| hit.start < record.end && record.header < hit.end)
        };
        for name in original.tensors.keys() {
            if !is_hit("data.pkl") && !is_hit(&format!("data/{}", key_of(name))) {
                assert!(intact.contains(name), "seed {seed}: {name}: {}", told(&salvaged(&damaged, "")));
                saved += 1;
            } else {
                lost += u64::from(!intact.contains(name));
            }
        }
    }
    assert!(saved > 15 * seeds().end && lost > seeds().end, "{saved} saved, {lost} lost");
}

// What no checksum covers.

#[test]
fn a_damaged_name_passes_no_tensor_off_as_another() {
    // All of the same length and dtype: nothing but the name tells them apart.
    let bytes = model(&[6; 24]);
    let original = Original::of(&bytes);
    let (records, directory) = layout(&bytes);
    let storages: Vec<&Placed> = records.iter().filter(|record| record.name.starts_with("data/")).collect();
    for record in &storages {
        for other in 0..30 {
            let name = format!("data/{other}");
            if name.len() != record.name.len() || name == record.name {
                continue;
            }
            // Without a directory; and cut off behind this one, or the next, so that no other has that name.
            let next = storages.iter().find(|next| next.header > record.header).map_or(directory, |next| next.end);
            for len in [directory, record.end, next] {
                let mut damaged = bytes[..len].to_vec();
                let at = record.header + 30 + "archive/".len();
                damaged[at..at + name.len()].copy_from_slice(name.as_bytes());
                let what = format!("{} called {name}, of {len} bytes", record.name);
                let intact = original.intact(&damaged, &what);
                if len == directory {
                    // Those whose names are not in doubt are all saved.
                    assert_eq!(intact.len(), 23, "{what}: {}", told(&salvaged(&damaged, "")));
                }
            }
        }
    }
}

#[test]
fn the_byte_order_is_told_from_what_is_left_of_its_record_and_not_guessed() {
    let bytes = bytes_of_file("big_endian_new.pt");
    let original = Original::of(&bytes);
    let (records, directory) = layout(&bytes);
    let record = records.iter().find(|record| record.name == "byteorder").unwrap().clone();
    let has_numbers = original.tensors.values().any(|(dtype, ..)| dtype != "u8" && dtype != "bool");
    assert!(has_numbers);
    for with_directory in [true, false] {
        let end = if with_directory { bytes.len() } else { directory };
        for (what, range) in [
            ("data", record.data.clone()),
            ("a letter", record.data.start..record.data.start + 1),
            ("all", record.header..record.end),
        ] {
            let mut damaged = bytes[..end].to_vec();
            damaged[range].fill(0x55);
            let what = format!("{what} of the byte order, directory {with_directory}");
            let intact = original.intact(&damaged, &what);
            if what.starts_with("all") && !with_directory {
                assert!(intact.len() < original.tensors.len(), "{what}");
            } else {
                assert_eq!(intact, original.all(), "{what}: {}", told(&salvaged(&damaged, "")));
            }
        }
    }
}

#[test]
fn without_checksums_nothing_is_intact_and_all_is_there_on_request() {
    let bytes = bytes_of_file("crc_off.pt");
    let original = Original::of(&bytes);
    for damaged in [&bytes[..], &bytes[..bytes.len() - 30]] {
        let plain = salvaged(damaged, "crc_off");
        assert_eq!(original.check(&plain, "crc_off"), Vec::<String>::new());
        assert!(matches!(plain.report().document, ExtraOutcome::Lost(_)));
        let unverified = SalvageOptions::new().unverified(true).salvage_bytes(damaged).unwrap();
        assert_eq!(content(unverified.checkpoint()), original.tensors);
        assert_eq!(unverified.report().document, ExtraOutcome::Unverified);
        assert!(unverified.report().tensors.iter().all(|tensor| matches!(tensor.outcome, Outcome::Unverified(_))));
    }
}

// Without a pickle.

#[test]
fn a_damaged_pickle_is_never_guessed_at_and_storages_are_saved_as_bytes_on_request() {
    let bytes = model(&[5, 9, 20]);
    let (records, directory) = layout(&bytes);
    let pickle = records.iter().find(|record| record.name == "data.pkl").unwrap().clone();
    for len in [bytes.len(), directory] {
        for at in pickle.data.clone().step_by(7) {
            let mut damaged = bytes[..len].to_vec();
            damaged[at] ^= 0x10;
            let plain = salvaged(&damaged, "pickle");
            let report = plain.report();
            assert_eq!((plain.checkpoint().len(), report.saved_count()), (0, 0));
            assert!(report.may_have_more && matches!(report.document, ExtraOutcome::Lost(_)), "{report:?}");
            assert!(report.damages.iter().any(|damage| damage.part == Part::Pickle));
            let names: Vec<&str> = report.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert_eq!(names, ["data/0", "data/1", "data/2"]);
            for tensor in &report.tensors {
                let Outcome::Lost(loss) = &tensor.outcome else { panic!("{tensor:?}") };
                assert!(loss.rescue.as_ref().is_some_and(|rescue| rescue.raw && !rescue.unverified), "{loss:?}");
            }
            // Nor is it if nothing else is asked for than what is unverified.
            let unverified = SalvageOptions::new().unverified(true).salvage_bytes(&damaged).unwrap();
            assert_eq!(unverified.checkpoint().len(), 0);
            let raw = SalvageOptions::new().raw(true).salvage_bytes(&damaged).unwrap();
            assert!(raw.checkpoint().document().unwrap().is_none());
            for key in ["0", "1", "2"] {
                let record = records.iter().find(|record| record.name == format!("data/{key}")).unwrap();
                let tensor = raw.checkpoint().tensor(&record.name).unwrap();
                assert_eq!(tensor.as_slice::<u8>().unwrap(), &bytes[record.data.clone()]);
            }
        }
    }
}

// Checkpoints within checkpoints.

/// A checkpoint whose second tensor is the bytes of another, which has the same names, and as many storages of the same lengths.
fn nesting() -> (Vec<u8>, Placed) {
    nesting_of(&model(&[6, 500, 6, 6, 6, 6]))
}

/// A checkpoint whose second tensor is the bytes of another file.
fn nesting_of(inner: &[u8]) -> (Vec<u8>, Placed) {
    let mut pickle = Pickle::new().op(DICT).op(MARK);
    let floats = |number: usize| (0..6).flat_map(|i| ((number * 77 + i) as f32).to_le_bytes()).collect::<Vec<u8>>();
    let mut storages: Vec<(String, Vec<u8>)> = Vec::new();
    for number in 0..6usize {
        let key = number.to_string();
        pickle = pickle.text(&format!("layer.{number}"));
        if number == 1 {
            let count = inner.len() as i64;
            let function = pickle.global("torch._utils", "_rebuild_tensor_v2");
            pickle = function.tensor_args("ByteStorage", &key, count, 0, &[count], &[1]);
            storages.push((key, inner.to_vec()));
        } else {
            pickle = pickle.tensor(&key, 6, 0, &[6], &[1]);
            storages.push((key, floats(number)));
        }
    }
    let storages: Vec<(&str, &[u8])> = storages.iter().map(|(key, data)| (key.as_str(), data.as_slice())).collect();
    let bytes = torch_archive(&pickle.op(SETITEMS).stop(), &storages);
    let record = layout(&bytes).0.into_iter().find(|record| record.name == "data/1").unwrap();
    assert_eq!(&bytes[record.data.clone()], inner);
    (bytes, record)
}

#[test]
fn a_dolmen_file_within_a_tensor_is_not_taken_for_the_archive_around_it() {
    let mut b = Builder::new();
    b.tensor("layer.0", &[1.0f32; 6]).unwrap();
    let (mut bytes, _) = nesting_of(&b.to_vec().unwrap());
    let original = Original::of(&bytes);
    // Nothing says any more, where the file begins, what it is.
    bytes[..4].fill(0);
    let salvaged = salvaged(&bytes, "without its first signature");
    assert_eq!(salvaged.report().format, "torch");
    assert_eq!(original.check(&salvaged, "without its first signature"), original.all());
}

#[test]
fn a_checkpoint_within_a_tensor_is_not_taken_for_the_one_around_it() {
    let (bytes, record) = nesting();
    let original = Original::of(&bytes);
    let (records, directory) = layout(&bytes);
    let inner = layout(&bytes[record.data.clone()]);
    let zeroed = |ranges: &[Range<usize>]| {
        let mut damaged = bytes.clone();
        ranges.iter().for_each(|range| damaged[range.clone()].fill(0));
        damaged
    };
    let whole = directory..bytes.len();
    let header = record.header..record.data.start;
    let descriptor = record.data.end..record.end;
    let somewhere = record.data.start + 700..record.data.start + 701;
    let inner_directory = record.data.start + inner.1..record.data.end;
    let others: Vec<String> = original.all().into_iter().filter(|name| name != "layer.1").collect();
    let cases: [(&[Range<usize>], bool); 10] = [
        (std::slice::from_ref(&whole), true),
        (&[whole.clone(), header.clone()], false),
        (&[whole.clone(), descriptor.clone()], false),
        (&[whole.clone(), header.clone(), descriptor.clone()], false),
        (&[whole.clone(), somewhere.clone()], false),
        (&[whole.clone(), header.clone(), somewhere.clone()], false),
        (&[whole.clone(), header.clone(), somewhere.clone(), inner_directory.clone()], false),
        (&[whole.clone(), header.clone(), descriptor.clone(), inner_directory], false),
        (&[header, descriptor], true),
        (&[somewhere], false),
    ];
    for (number, (ranges, is_whole)) in cases.into_iter().enumerate() {
        let what = format!("case {number}");
        let intact = original.intact(&zeroed(ranges), &what);
        let report = || told(&salvaged(&zeroed(ranges), ""));
        assert_eq!(intact.contains(&"layer.1".to_owned()), is_whole, "{what}: {}", report());
        let kept: Vec<String> = intact.into_iter().filter(|name| name != "layer.1").collect();
        // Where nothing at all says how far it goes, what lies behind it is lost with it.
        let expected = if number == 7 { vec!["layer.0".to_owned()] } else { others.clone() };
        assert_eq!(kept, expected, "{what}: {}", report());
    }
    // Cut off anywhere within it, or behind.
    for len in (record.header..bytes.len()).step_by(13) {
        original.intact(&bytes[..len], &format!("cut at {len}"));
        // And with nothing left of the pickle around it, what is within is not taken for that.
        let mut damaged = bytes[..len].to_vec();
        damaged[..records[0].end].fill(0);
        assert_eq!(original.intact(&damaged, &format!("no pickle, cut at {len}")), Vec::<String>::new());
    }
}

// Hostile files.

/// How long a salvage may take in a slow build: far less than the square of the file's length takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn bounded(file: &[u8], what: &str) -> Salvaged {
    let start = Instant::now();
    let options = SalvageOptions::new().unverified(true).raw(true).partial(Fill::Zeros);
    let (salvaged, most) = heap::peak(|| options.salvage_bytes(file).unwrap_or_else(|e| panic!("{what}: {e}")));
    assert!(start.elapsed() < PATIENCE, "{what}: {:?}", start.elapsed());
    assert!(most < file.len() as u64 * 16 + (8 << 20), "{what}: {most} bytes for a file of {}", file.len());
    salvaged
}

#[test]
fn ten_thousand_headers_that_overlap_cost_no_more_than_one() {
    let (pickle, floats) = sound();
    let sound = torch_archive(&pickle, &[("0", &floats)]);
    let original = Original::of(&sound);
    let (_, directory) = layout(&sound);
    let names: Vec<String> = (0..10_000).map(|number| format!("archive/data/{number}")).collect();
    // Headers that each claim all of the rest of the file.
    let mut headers = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut entry = Entry::new(name, b"");
        let len = (names.len() - number) as u32 * 64;
        (entry.local.len, entry.local.stored_len, entry.local.crc32) = (len, len, 7);
        headers.extend(Zip::new(vec![entry]).build()[..30 + name.len()].iter());
    }
    // What follows data, 10,000 times, each for data of another length that begins at the same place.
    let start = directory + 200;
    let mut descriptors = vec![0u8; 0];
    let header = {
        let entry = Entry::new("archive/data/7", b"");
        Zip::new(vec![entry.both(|header| header.flags |= DESCRIPTOR)]).build()[..44].to_vec()
    };
    for number in 0..10_000u32 {
        descriptors.extend(descriptor(true, 5, 16 * number + 16, 16 * number + 16));
    }
    let _ = start;
    for (what, rest) in [
        ("headers", headers.clone()),
        ("descriptors", [header, descriptors].concat()),
        ("headers of the compressed", {
            let deflated: Vec<u8> = headers.clone();
            let mut at = 0;
            let mut out = deflated;
            while at + 10 < out.len() {
                if out[at..].starts_with(b"PK\x03\x04") {
                    out[at + 8] = 8;
                }
                at += 1;
            }
            out
        }),
        ("magic", b"PK\x03\x04".repeat(200_000)),
        ("magic of entries", b"PK\x01\x02".repeat(200_000)),
        ("magic of descriptors", b"PK\x07\x08".repeat(200_000)),
        ("ends", b"PK\x05\x06PK\x06\x06".repeat(100_000)),
    ] {
        let file = [&sound[..directory], &rest].concat();
        let salvaged = bounded(&file, what);
        let intact = original.check(&salvaged, what);
        assert_eq!(intact, original.all(), "{what}: {:#?}", salvaged.report().damages.first());
    }
}

#[test]
fn lengths_and_offsets_that_lie_are_not_believed() {
    let (pickle, floats) = sound();
    type Lie = (&'static str, fn(&mut Entry));
    let lies: [Lie; 8] = [
        ("beyond the end", |entry| (entry.local.len, entry.local.stored_len) = (1 << 30, 1 << 30)),
        ("zip64 of nothing", |entry| (entry.local.len, entry.local.stored_len) = (u32::MAX, u32::MAX)),
        ("zip64 of all", |entry| {
            (entry.local.len, entry.local.stored_len) = (u32::MAX, u32::MAX);
            entry.local.extra = zip64(&[u64::MAX, u64::MAX]);
        }),
        ("zip64 of everything in the directory", |entry| {
            (entry.central.len, entry.central.stored_len) = (u32::MAX, u32::MAX);
            entry.central.extra = zip64(&[u64::MAX, u64::MAX]);
        }),
        ("in front of the file", |entry| entry.header_offset = Some(u32::MAX - 1)),
        ("within the pickle", |entry| entry.header_offset = Some(70)),
        ("a descriptor of more than there is", |entry| {
            entry.described();
            entry.descriptor = descriptor(true, 1, u32::MAX, u32::MAX);
        }),
        ("an extra field of more than there is", |entry| entry.local.extra = vec![0xFF; 65_000]),
    ];
    for (what, lie) in lies {
        let mut entries = records(&pickle, &[("0", &floats)]);
        lie(entries.iter_mut().find(|entry| entry.local.name == b"archive/data/0").unwrap());
        let file = Zip::new(entries).build();
        let salvaged = bounded(&file, what);
        let tensor = salvaged.report().tensors.iter().find(|tensor| tensor.name == "w").unwrap();
        if tensor.outcome == Outcome::Intact {
            assert_eq!(elements(&salvaged.checkpoint().tensor("w").unwrap()), floats, "{what}");
        }
        for len in 0..file.len().min(600) {
            let _ = SalvageOptions::new().unverified(true).salvage_bytes(&file[..len]);
        }
    }
}

#[test]
fn random_damage_of_any_amount_harms_nobody() {
    for (file, bytes) in short() {
        let original = Original::of(&bytes);
        for seed in seeds() {
            let mut random = Seeded(seed);
            let mut damaged = bytes.clone();
            for _ in 0..1 + random.below(60) {
                match random.below(5) {
                    0 => {
                        let at = random.below(damaged.len());
                        damaged[at] ^= 1 << random.below(8);
                    }
                    1 => damaged.truncate(damaged.len() - random.below(damaged.len() / 20 + 1)),
                    2 => {
                        // A piece of the file somewhere else in it.
                        let (from, to) = (random.below(damaged.len()), random.below(damaged.len()));
                        let len = random.below(100).min(damaged.len() - from.max(to));
                        damaged.copy_within(from..from + len, to);
                    }
                    3 => {
                        let at = random.below(damaged.len());
                        let len = random.below(40);
                        damaged.splice(at..at, std::iter::repeat_n(0, len));
                    }
                    _ => {
                        let at = random.below(damaged.len());
                        let len = random.below(40).min(damaged.len() - at);
                        damaged.drain(at..at + len);
                    }
                }
                if damaged.len() < 30 {
                    break;
                }
            }
            let what = format!("{file}, seed {seed}");
            if let Ok(salvaged) = SalvageOptions::new().salvage_bytes(&damaged) {
                original.check(&salvaged, &what);
            }
            let _ = SalvageOptions::new().unverified(true).raw(true).partial(Fill::Ones).salvage_bytes(&damaged);
        }
    }
}

// Older files.

#[test]
fn of_a_file_from_before_version_1_6_that_is_cut_off_whole_storages_are_saved_on_request() {
    for file in ["legacy.pt", "legacy_views.pt", "legacy_1.pt", "legacy_4.pt"] {
        let bytes = bytes_of_file(file);
        let original = Original::of(&bytes);
        let mut saved = 0;
        let step = bytes.len().div_ceil(2000);
        for len in (24..=bytes.len()).step_by(step) {
            let what = format!("{file}, cut at {len}");
            let Ok(plain) = SalvageOptions::new().salvage_bytes(&bytes[..len]) else { continue };
            assert_eq!(original.check(&plain, &what), Vec::<String>::new(), "{what}");
            let unverified = SalvageOptions::new().unverified(true).salvage_bytes(&bytes[..len]).unwrap();
            for (name, content) in content(unverified.checkpoint()) {
                assert_eq!(original.tensors.get(&name), Some(&content), "{what}: {name}");
                saved += 1;
            }
        }
        assert!(saved > 0, "{file}");
        let whole = SalvageOptions::new().unverified(true).salvage_bytes(&bytes).unwrap();
        assert_eq!(whole.report().saved_count(), original.tensors.len(), "{file}");
    }
}

#[test]
fn a_tar_file_is_refused_with_a_reason() {
    let e = SalvageOptions::new().salvage_bytes(&bytes_of_file("tar_pax.pt")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnsupportedVersion);
    assert!(e.to_string().contains("0.1.10"), "{e}");
}

// What comes out.

#[test]
fn what_is_salvaged_is_saved_in_either_format() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = bytes_of_file("training.pt");
    let original = Original::of(&bytes);
    let (_, directory) = layout(&bytes);
    let damaged = dir.path().join("damaged.pt");
    std::fs::write(&damaged, &bytes[..directory + 17]).unwrap();
    let salvaged = SalvageOptions::new().salvage(&damaged).unwrap();
    assert_eq!(original.check(&salvaged, "training.pt"), original.all());
    for out in ["out.dolmen", "out.pt"] {
        let out = dir.path().join(out);
        let _notes = salvaged.save(&out).unwrap();
        let saved = Checkpoint::open(&out).unwrap();
        assert_eq!((content(&saved), saved.document().unwrap()), (original.tensors.clone(), original.document.clone()));
    }
    assert!(salvaged.save(&damaged).is_err());
    assert_eq!(std::fs::read(&damaged).unwrap(), &bytes[..directory + 17]);
}

#[cfg(feature = "cli")]
#[test]
fn the_command_saves_raw_storages_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = model(&[5, 9]);
    let pickle = layout(&bytes).0.iter().find(|record| record.name == "data.pkl").unwrap().data.start;
    bytes[pickle + 9] ^= 1;
    let (damaged, out) = (dir.path().join("damaged.pt"), dir.path().join("out.dolmen"));
    std::fs::write(&damaged, &bytes).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dolmen"));
        let ran = command.arg("salvage").arg(&damaged).arg(&out).args(args).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
    };
    let (code, told) = run(&[]);
    assert!(code == Some(3) && told.contains("--raw would save it as mere bytes") && !out.exists(), "{told}");
    let (code, told) = run(&["--json"]);
    assert!(code == Some(3) && told.contains("\"raw\": true") | told.contains("\"raw\":true"), "{told}");
    let (code, told) = run(&["--raw"]);
    assert!(code == Some(3) && out.exists(), "{told}");
    assert_eq!(Checkpoint::open(&out).unwrap().tensor("data/1").unwrap().shape(), [36]);
}

// Disks that fail.

/// A file of which some bytes cannot be read.
struct BadSectors<'a>(&'a [u8], Range<usize>);

impl dolmen::ReadAt for BadSectors<'_> {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = offset as usize;
        let bytes = self.0.get(start..start + buffer.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        if start < self.1.end && self.1.start < start + buffer.len() {
            return Err(std::io::Error::other("a bad sector"));
        }
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn what_cannot_be_read_is_damage_like_any_other_and_never_passed_off_as_zeros() {
    let bytes = model(&[2000; 12]);
    let (records, _) = layout(&bytes);
    for (number, record) in records.iter().filter(|record| record.name.starts_with("data/")).enumerate() {
        let middle = record.data.start + record.data.len() / 2;
        let file = BadSectors(&bytes, middle..middle + 1);
        for options in [SalvageOptions::new(), SalvageOptions::new().unverified(true).partial(Fill::Zeros)] {
            let report = options.examine(&file).unwrap();
            assert!(report.damages.iter().any(|damage| damage.what.contains("cannot be read")), "{report:?}");
            for tensor in &report.tensors {
                // A sector may reach into a neighbour.
                let distance = key_of(&tensor.name).parse::<usize>().unwrap().abs_diff(number);
                match &tensor.outcome {
                    Outcome::Intact => assert!(distance > 0, "{}", tensor.name),
                    Outcome::Lost(loss) => assert!(distance < 2 && loss.rescue.is_none(), "{}: {loss:?}", tensor.name),
                    other => panic!("{}: {other:?}", tensor.name),
                }
            }
        }
    }
}
