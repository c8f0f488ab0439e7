//! Salvage: whatever was done to a file, nothing that is called intact differs from what it held, and what was not hit is saved.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dolmen::salvage::{Doubt, MARKS, Outcome as Became, Salvaged};
use dolmen::{
    Builder, Checkpoint, DType, ErrorKind, FileOptions, Fill, Limits, SalvageOptions, TensorData, TensorView,
};

use super::dice::{Dice, Random};
use super::heap;
use super::open::{self, FIXED, Outcome, PER_BYTE, PER_VALUE_BYTE};
use super::seal::{self, Mutate, Places};
use super::work::{self, Allowance, Counted};

/// What salvaging may take of the processor.
const LINEAR: Allowance = Allowance::of(4_000, 400);
/// Bytes that are copied for one input.
const COPIED: u64 = 4 << 20;
/// Bytes of a damage in an input.
const DAMAGE_LEN: usize = 6;

/// The first byte says what is asked for, the second how many damages there are; then the damages, of six bytes each; the rest is the
/// file. If that is not valid, it is salvaged as it is. If the first byte is 128 or more, the rest says of what dtypes and lengths the
/// tensors of the file are, which may be longer than an input.
pub fn salvage(data: &[u8]) -> Outcome {
    let Some((&[asked, count], rest)) = data.split_first_chunk::<2>() else { return Outcome::Refused("empty") };
    let count = usize::from(count % 8);
    let Some((damages, file)) = rest.split_at_checked(count * DAMAGE_LEN) else { return Outcome::Refused("empty") };
    let made;
    let file = if asked >= 128 {
        made = described(file);
        &made
    } else {
        file
    };
    let original = Checkpoint::from_bytes(file).ok().filter(|original| {
        matches!(original.format(), "dolmen" | "torch")
            && !holds_another(file)
            && original.verify_with(&open::options()).is_ok_and(|r| r.is_valid())
    });
    let Some(original) = original else {
        let Some(salvaged) = salvaged(file, asked, false) else { return Outcome::Refused("limit") };
        check_copy(&salvaged);
        return outcome(&salvaged);
    };
    let mut damaged = Damaged::new(file);
    damages.chunks(DAMAGE_LEN).for_each(|damage| damaged.apply(damage));
    let Some(salvaged) = salvaged(&damaged.bytes, asked, true) else { return Outcome::Refused("limit") };
    check_against(&salvaged, &original, damaged.unfinished);
    // Of an archive there is no knowing what each byte is for.
    if original.format() == "dolmen" {
        check_saved(&salvaged, &original, &damaged);
    }
    check_copy(&salvaged);
    outcome(&salvaged)
}

/// A file of as many tensors as there are pairs of bytes, four at most: a dtype, and how many times 64 bytes.
fn described(pairs: &[u8]) -> Vec<u8> {
    let mut builder = small_blocks();
    for (number, pair) in pairs.chunks_exact(2).take(4).enumerate() {
        let dtype = DType::ALL[usize::from(pair[0]) % DType::ALL.len()];
        let count = 64 * 8 * u64::from(pair[1]) / u64::from(dtype.bits()) / 4 * 4;
        let len = (count * u64::from(dtype.bits())).div_ceil(8);
        let bytes = (0..len).map(|n| (n / 7 % 2) as u8).collect::<Vec<u8>>();
        let tensor = TensorData::raw(dtype, [4, count / 4], bytes).expect("sound");
        builder.tensor(&format!("{number}"), tensor).expect("sound");
    }
    builder.to_vec().expect("sound")
}

fn small_blocks() -> Builder<'static> {
    let options = FileOptions::new().alignment(64).and_then(|options| options.block_len(4096)).expect("allowed");
    Builder::with_options(options)
}

fn outcome(salvaged: &Salvaged) -> Outcome {
    let report = salvaged.report();
    match (report.is_undamaged(), report.has_something()) {
        (true, _) => Outcome::Valid,
        (false, true) => Outcome::Opened(report.guide.name()),
        (false, false) => Outcome::Refused("nothing"),
    }
}

/// Whether a file has bytes that could be taken for another file's, or for another record of it.
fn holds_another(file: &[u8]) -> bool {
    let places = seal::places(file);
    #[cfg(feature = "torch")]
    if !file.starts_with(seal::MAGIC) {
        let headers = file.windows(4).filter(|bytes| bytes == b"PK\x03\x04").count();
        return super::torch::parse(file).is_none_or(|zip| zip.entries.len() != headers);
    }
    let count = |magic: &[u8]| file.windows(8).filter(|bytes| bytes == &magic).count();
    // Without what begins each magic, nothing cut or moved can become one.
    count(seal::MAGIC) != 2 || count(b"DOLMREC\n") != places.descriptors.len()
}

fn options(asked: u8, known: bool) -> SalvageOptions {
    let options = SalvageOptions::default().threads(1).unverified(asked & 1 != 0).limits(Limits::NONE);
    // Storages without a pickle get names that the file does not have.
    let options = if known { options } else { options.raw(asked & 16 != 0) };
    match asked >> 1 & 7 {
        0..3 => options,
        3 | 4 => options.partial(Fill::Zeros),
        5 => options.partial(Fill::Byte(0x7F)),
        6 => options.partial(Fill::Ones),
        _ => options.partial(Fill::Nan),
    }
}

/// Salvages within bounds of memory, time and reads; `None` if the caller asked for what there is not.
fn salvaged(bytes: &[u8], asked: u8, known: bool) -> Option<Salvaged> {
    let places = seal::places(bytes);
    let values: usize = [6, 7].map(|kind| places.section(kind).len()).iter().sum();
    let (found, peak) = heap::peak(|| {
        work::bounded("salvaging", LINEAR, bytes.len() as u64, || options(asked, known).salvage_bytes(bytes))
    });
    let allowed = 4 * FIXED + 8 * PER_BYTE * bytes.len() as u64 + PER_VALUE_BYTE * values as u64;
    assert!(peak <= allowed, "{peak} bytes were in use for a file of {}; {allowed} are allowed", bytes.len());
    let found = match found {
        Ok(found) => found,
        Err(e) => {
            let of_the_caller = e.kind() == ErrorKind::InvalidInput && asked >> 1 & 7 >= 5;
            let of_the_file = matches!(e.kind(), ErrorKind::UnsupportedVersion | ErrorKind::Limit);
            assert!(of_the_caller || of_the_file, "not an error of a file: {e:?}");
            return None;
        }
    };
    if open::is_chosen(bytes, 4) {
        let counted = Counted::new(bytes);
        let looked_at = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&looked_at);
        let progress = move |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        };
        let options = options(asked, known).progress(progress);
        assert!(format!("{options:?}").contains("threads: 1"));
        let report = options.examine(&counted).expect("it was salvaged");
        counted.check("salvaging", 8, 8);
        assert_eq!(report.tensors, found.report().tensors);
        assert_eq!(
            (report.damage_count, report.unknown_len),
            (found.report().damage_count, found.report().unknown_len)
        );
    }
    let report = found.report();
    assert_eq!(report.file_len, bytes.len() as u64);
    let mut names = vec![report.guide.name(), report.metadata.name(), report.document.name()];
    names.extend(report.damages.iter().map(|damage| damage.part.name()));
    names.extend(report.tensors.iter().map(|tensor| tensor.outcome.name()));
    for tensor in &report.tensors {
        match &tensor.outcome {
            Became::Lost(loss) => names.push(loss.reason.name()),
            other => {
                let rows = other.doubt().and_then(|doubt| doubt.rows.as_ref());
                assert!(rows.is_none_or(|rows| rows.hit_count() <= rows.count), "{other:?}");
            }
        }
    }
    assert!(names.iter().all(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    assert_eq!(report.saved_count(), found.checkpoint().len());
    assert!(report.tensors.is_sorted_by(|a, b| a.name <= b.name));
    assert_eq!(report.is_complete() && report.damage_count == 0, report.is_undamaged());
    assert!(report.unknown.iter().all(|range| range.start < range.end && range.end <= bytes.len() as u64));
    Some(found)
}

/// What is called intact is what the original had; of what is partial or unverified, all but the listed bytes are.
fn check_against(salvaged: &Salvaged, original: &Checkpoint, unfinished: bool) {
    for tensor in &salvaged.report().tensors {
        let name = &tensor.name;
        let Some(known) = original.get(name).expect("the index is sound") else {
            // Only what nothing vouches for can have a name that never was.
            assert!(!matches!(tensor.outcome, Became::Intact), "{name:?} is called intact, and never was");
            continue;
        };
        if !tensor.outcome.is_saved() {
            continue;
        }
        let saved = salvaged.checkpoint().tensor(name).expect("it is saved");
        let expected = known.bytes().expect("valid");
        match &tensor.outcome {
            Became::Intact => {
                let rows_may_be_fewer = unfinished || salvaged.report().unfinished;
                assert_eq!(saved.dtype(), known.dtype(), "{name:?}");
                assert_eq!(saved.explicit_strides(), known.explicit_strides(), "{name:?}");
                assert!(saved.shape() == known.shape() || rows_may_be_fewer, "{name:?}: {:?}", saved.shape());
                let bytes = saved.bytes().expect("what is called intact can be read");
                assert!(bytes == &expected[..bytes.len()], "{name:?} is called intact, and differs");
            }
            Became::Partial(doubt) | Became::Unverified(doubt) => check_doubt(&saved, doubt, expected),
            _ => {}
        }
    }
}

fn check_doubt(saved: &TensorView<'_>, doubt: &Doubt, expected: &[u8]) {
    let name = saved.name();
    assert!(!doubt.why.is_empty(), "{name:?}");
    let Ok(bytes) = saved.bytes() else { panic!("{name:?} is saved, and cannot be read") };
    for ranges in [&doubt.replaced, &doubt.unverified] {
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= bytes.len() as u64), "{doubt:?}");
        assert!(ranges.windows(2).all(|two| two[0].end < two[1].start), "{doubt:?}");
    }
    let doubtful = |at: usize| {
        let at = at as u64;
        doubt.replaced.iter().chain(&doubt.unverified).any(|range| range.contains(&at))
    };
    let compared = bytes.iter().zip(expected).enumerate();
    let mut wrong = compared.filter(|(_, (found, expected))| found != expected).map(|(at, _)| at);
    if let Some(at) = wrong.find(|&at| !doubtful(at)) {
        panic!("byte {at} of {name:?} differs, and is in none of {doubt:?}");
    }
}

/// A descriptor of the original.
struct Record {
    name: Vec<u8>,
    storage: u32,
    /// Whether the data of its storage follows it.
    introduces: bool,
    place: Range<usize>,
}

impl Record {
    fn all(file: &[u8]) -> Vec<Record> {
        let places = seal::places(file).descriptors;
        let record = |place: Range<usize>| {
            let bytes = &file[place.clone()];
            let numbers = usize::from(bytes[50]) * if bytes[51] & 1 == 0 { 1 } else { 2 };
            let name_len = u32::from_le_bytes(bytes[52..56].try_into().expect("four bytes")) as usize;
            let name = bytes[64 + 8 * numbers..][..name_len].to_vec();
            let storage = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
            Record { name, storage, introduces: bytes[51] & 2 == 0, place }
        };
        places.into_iter().map(record).collect()
    }
}

/// What became of a file, and which bytes of it are still what they were.
struct Damaged {
    bytes: Vec<u8>,
    /// What of the original was overwritten, in its own bytes.
    hit: Vec<Range<usize>>,
    /// Bytes were put before or behind it, or taken away at its beginning.
    moved: bool,
    /// Where it was cut off, in its own bytes.
    cut: usize,
    places: Places,
    records: Vec<Record>,
    original_len: usize,
    /// It was made what a writer leaves that is killed.
    unfinished: bool,
}

impl Damaged {
    fn new(file: &[u8]) -> Damaged {
        Damaged {
            bytes: file.to_vec(),
            hit: Vec::new(),
            moved: false,
            cut: file.len(),
            places: seal::places(file),
            records: Record::all(file),
            original_len: file.len(),
            unfinished: false,
        }
    }

    fn overwrite(&mut self, range: Range<usize>, with: impl Fn(usize) -> u8) {
        let range = range.start.min(self.bytes.len())..range.end.min(self.bytes.len());
        for at in range.clone() {
            self.bytes[at] = with(at - range.start);
        }
        self.hit.push(range);
    }

    fn apply(&mut self, damage: &[u8]) {
        let mut dice = Dice::new(damage);
        let kind = dice.below(14);
        let len = self.bytes.len().max(1);
        let at = (usize::from(dice.byte()) << 8 | usize::from(dice.byte())) % len;
        let (much, with) = (usize::from(dice.byte()) + 1, dice.byte());
        match kind {
            0 => self.overwrite(at..at + 1, |_| with),
            1 => self.overwrite(at..at + much, |_| with),
            2 => self.overwrite(at..at + 16 * much, |n| (n as u8).wrapping_mul(167) ^ with),
            3 => {
                let old = self.bytes.get(at).copied().unwrap_or(0);
                self.overwrite(at..at + 1, |_| old ^ 1 << (with % 8));
            }
            4 => self.overwrite(0..64, |_| with),
            5 => {
                let index = self.places.index.clone();
                self.overwrite(index, |_| with);
            }
            6 => {
                let begin = self.original_len.saturating_sub(64);
                self.overwrite(begin..begin + 64, |_| with);
            }
            7 if !self.places.descriptors.is_empty() => {
                let descriptor = self.places.descriptors[at % self.places.descriptors.len()].clone();
                self.overwrite(descriptor, |_| with);
            }
            8 => {
                self.bytes.truncate(at);
                self.cut = self.cut.min(at);
            }
            9 => {
                self.moved = true;
                let junk = vec![with; much];
                self.bytes.splice(0..0, junk);
            }
            10 => {
                self.moved = true;
                self.bytes.extend(std::iter::repeat_n(with, much));
            }
            11 => {
                self.moved = true;
                self.bytes.drain(..(much * 8).min(self.bytes.len()));
            }
            12 if (64..=self.bytes.len()).contains(&self.places.index.start) && !self.moved => {
                // A writer was killed: its header says that nothing was committed, and there is no index yet.
                self.unfinished = true;
                let end = self.places.index.start;
                self.bytes.truncate(end);
                self.bytes[16..44].fill(0);
                let crc = crc32fast::hash(&self.bytes[..60]);
                self.bytes[60..64].copy_from_slice(&crc.to_le_bytes());
                self.cut = self.cut.min(end);
            }
            13 if self.bytes.len() > 128 && !self.moved && self.cut == self.original_len && self.hit.is_empty() => {
                self.stop_within_a_record(much, with);
            }
            _ => {}
        }
    }

    /// A writer was killed in the middle of a record, whose descriptor notes how far it had come, or nothing yet.
    fn stop_within_a_record(&mut self, much: usize, with: u8) {
        const UNFINISHED: u8 = 4;
        let place = self.records.iter().rev().find(|record| record.introduces).map(|record| record.place.clone());
        let Some(place) = place.filter(|place| self.bytes[place.start + 50] > 0) else { return };
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (data, len) =
            (number(&self.bytes, place.start + 16) as usize, number(&self.bytes, place.start + 24) as usize);
        let rows = number(&self.bytes, place.start + 64) as usize;
        if rows < 2 || rows > len || len % rows != 0 || self.bytes[place.start + 51] != 0 {
            return;
        }
        let row_len = len / rows;
        // 0 rows may be noted: the shape begins with what is to be, or with 0.
        let noted = if with.is_multiple_of(4) { 0 } else { much % rows };
        let there = (noted * row_len + usize::from(with)).min(len);
        let crc = crc32fast::hash(&self.bytes[data..data + noted * row_len]);
        self.bytes.truncate(data + there);
        self.cut = place.start;
        let descriptor = &mut self.bytes[place.clone()];
        descriptor[24..32].copy_from_slice(&((noted * row_len) as u64).to_le_bytes());
        descriptor[40..44].copy_from_slice(&crc.to_le_bytes());
        descriptor[51] |= UNFINISHED;
        descriptor[64..72].copy_from_slice(&(noted as u64).to_le_bytes());
        let end = descriptor.len() - 4;
        let crc = crc32fast::hash(&descriptor[..end]);
        descriptor[end..].copy_from_slice(&crc.to_le_bytes());
        self.unfinished = true;
        self.bytes[16..44].fill(0);
        let crc = crc32fast::hash(&self.bytes[..60]);
        self.bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    fn is_hit(&self, range: &Range<usize>) -> bool {
        range.end > self.cut || self.hit.iter().any(|hit| hit.start < range.end && range.start < hit.end)
    }
}

/// What was not hit is saved: data that is whole, with what describes it in the index or beside it.
fn check_saved(salvaged: &Salvaged, original: &Checkpoint, damaged: &Damaged) {
    // Two damages that move bytes may have left nothing in its place; then it is enough that nothing false is told.
    if damaged.moved {
        return;
    }
    let header = 0..64;
    let trailer = damaged.original_len - 64..damaged.original_len;
    let framed = !damaged.is_hit(&header) || !damaged.is_hit(&trailer);
    let indexed = framed && !damaged.is_hit(&damaged.places.index) && !damaged.unfinished;
    let whole = |is_it: &dyn Fn(&Record) -> bool| {
        damaged.records.iter().find(|record| is_it(record)).is_some_and(|record| !damaged.is_hit(&record.place))
    };
    for tensor in original.tensors() {
        let tensor = tensor.expect("valid");
        let (Ok(offset), Ok(len)) = (tensor.file_offset(), tensor.storage_len()) else { continue };
        let begin = (offset - tensor.start()) as usize;
        let data = begin..begin + len as usize;
        if len > 0 && damaged.is_hit(&data) {
            continue;
        }
        let described = framed
            && whole(&|record| record.name == tensor.name().as_bytes())
            && whole(&|record| record.storage == tensor.storage() && record.introduces);
        if !indexed && !described {
            continue;
        }
        let found = salvaged.report().tensors.iter().find(|found| found.name == tensor.name());
        let found = found.unwrap_or_else(|| panic!("{:?} was not hit, and is not told of", tensor.name()));
        assert!(matches!(found.outcome, Became::Intact), "{:?} was not hit: {:?}", tensor.name(), found.outcome);
    }
    if indexed {
        assert_eq!(
            salvaged.checkpoint().document().expect("it is saved").is_some(),
            original.document().expect("valid").is_some()
        );
        let kept = salvaged.checkpoint().metadata().expect("it is saved");
        let before = original.metadata().expect("valid");
        assert!(before.iter().all(|(key, value)| key == MARKS || kept.get(key) == Some(value)), "metadata is lost");
    }
    if damaged.hit.is_empty() && damaged.cut == damaged.original_len {
        assert!(salvaged.report().is_undamaged(), "nothing was done to it: {:?}", salvaged.report());
    }
}

/// Copied, it is valid and the same each time; it says what nothing vouches for; and it needs no salvage any more.
fn check_copy(salvaged: &Salvaged) {
    let lens =
        salvaged.checkpoint().tensors().map(|tensor| tensor.and_then(|tensor| tensor.storage_len()).unwrap_or(0));
    // Whoever asks for what is partial gets zeros for what is missing: as many as the file says there were.
    if lens.fold(0, u64::saturating_add) > COPIED {
        return;
    }
    let copy = |checkpoint: &Checkpoint| {
        let mut builder = Builder::with_options(salvaged.file_options());
        builder.checkpoint(checkpoint).and_then(|builder| builder.to_vec())
    };
    let bytes = copy(salvaged.checkpoint())
        .unwrap_or_else(|e| panic!("what was salvaged cannot be copied: {e}: {:?}", salvaged.report()));
    let file = Checkpoint::from_bytes(&bytes).expect("a writer writes valid files");
    let report = file.verify_with(&open::options()).expect("memory can be read");
    assert!(report.is_valid(), "a writer wrote {:?}", report.problems);
    assert!(copy(&file).expect("it was written before") == bytes, "the copy of the copy is not the copy");

    let report = salvaged.report();
    let marks = file.metadata().expect("valid").remove(MARKS);
    let doubtful =
        |name: &str| report.tensors.iter().any(|tensor| tensor.name == name && tensor.outcome.doubt().is_some());
    for tensor in report.tensors.iter().filter(|tensor| tensor.outcome.doubt().is_some()) {
        let marked = marks.as_ref().and_then(|marks| marks_of(marks)?.get(&tensor.name));
        assert!(marked.is_some(), "{:?} is in doubt, and is not marked: {marks:?}", tensor.name);
    }
    if report.marked_before.is_empty() {
        let marked = marks.as_ref().and_then(marks_of).into_iter().flatten();
        marked.for_each(|(name, _)| assert!(doubtful(name), "{name:?} is marked, and is not in doubt"));
    }

    let again = SalvageOptions::new().threads(1).salvage_bytes(&bytes).expect("it is valid");
    assert!(again.report().is_undamaged(), "it is valid: {:?}", again.report());
    assert_eq!(again.checkpoint().metadata().expect("valid").remove(MARKS), marks, "marks are lost");
    open::assert_same(&file, &Checkpoint::from_bytes(&copy(again.checkpoint()).expect("valid")).expect("valid"));
}

/// The marks of tensors, by name.
fn marks_of(marks: &dolmen::Value) -> Option<&std::collections::BTreeMap<String, dolmen::Value>> {
    let dolmen::Value::Map(marks) = marks else { return None };
    match marks.get("tensors") {
        Some(dolmen::Value::Map(tensors)) => Some(tensors),
        _ => None,
    }
}

type Inner = fn(&mut [u8], usize, usize, u32, &mut Mutate<'_>) -> usize;

fn inner_mutator(file: &[u8]) -> Inner {
    #[cfg(feature = "torch")]
    if file.starts_with(b"PK") {
        return super::torch::mutate;
    }
    let _ = file;
    seal::mutate
}

/// The mutation of the target `salvage`: of what is asked for, of a damage, or of the file, whose checksums are right again.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    let max_size = max_size.min(data.len());
    let Some((&[asked, count], rest)) = data[..size].split_first_chunk::<2>() else {
        return mutate(data, size, max_size);
    };
    let (mut asked, count) = (asked, usize::from(count % 8));
    let Some((damages, file)) = rest.split_at_checked(count * DAMAGE_LEN).filter(|_| !random.one_in(16)) else {
        return mutate(data, size, max_size);
    };
    let mut damages: Vec<Vec<u8>> = damages.chunks(DAMAGE_LEN).map(<[u8]>::to_vec).collect();
    let mut file = file.to_vec();
    let made = |random: &mut Random| (0..DAMAGE_LEN).map(|_| random.u64() as u8).collect::<Vec<u8>>();
    match random.below(10) {
        0 => asked = asked & 128 | random.u64() as u8 & 127,
        7..10 if asked >= 128 => {
            let pairs = 1 + random.below(4);
            file = (0..2 * pairs).map(|_| random.u64() as u8).collect();
        }
        1 | 2 if count < 7 => damages.push(made(&mut random)),
        3 if count > 0 => drop(damages.swap_remove(random.below(count))),
        4 | 5 if count > 0 => damages[random.below(count)][random.below(DAMAGE_LEN)] = random.u64() as u8,
        6 if count > 0 => {
            // Anywhere within the file, wherever that ends.
            let at = random.below(file.len().max(1)) as u16;
            damages[random.below(count)][1..3].copy_from_slice(&at.to_be_bytes());
        }
        7 if count == 0 && !file.is_empty() => {
            let at = random.below(file.len());
            let len = random.below(65).min(file.len() - at);
            let fill = random.pick(&[0, 0xFF, 0x20]);
            file[at..at + len].fill(fill);
        }
        _ => {
            let len = file.len();
            file.resize(max_size, 0);
            let inner = inner_mutator(&file[..len]);
            let new = inner(&mut file, len, max_size, random.u64() as u32, mutate);
            file.truncate(new);
        }
    }
    let new = [&[asked, damages.len() as u8][..], &damages.concat(), &file].concat();
    super::json::put(data, &new, max_size).unwrap_or_else(|| mutate(data, size, max_size))
}

/// A tensor of ten rows behind another one.
fn rows_file() -> Vec<u8> {
    let mut builder = small_blocks();
    builder.tensor("a", &[1u8, 2, 3][..]).expect("sound");
    let rows = (0..80).collect::<Vec<u8>>();
    builder.tensor("rows", TensorData::raw(DType::U8, [10, 8], rows).expect("sound")).expect("sound");
    builder.to_vec().expect("sound")
}

/// A small file, and each damage that there is, done to it.
pub fn seeds(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for kind in 0..13u8 {
        let damage = [kind, 1, 40, 20, 0xAA, 0];
        for asked in [0, 7] {
            seeds.push((format!("damage-{kind:02}-asked-{asked}"), [&[asked, 1][..], &damage, file].concat()));
        }
    }
    let together: [(&str, &[[u8; 6]]); 4] = [
        ("header-and-index", &[[4, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]]),
        ("header-and-trailer", &[[4, 0, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0]]),
        ("index-and-descriptor", &[[5, 0, 0, 0, 0, 0], [7, 0, 1, 0, 0, 0]]),
        ("killed-and-cut", &[[12, 0, 0, 0, 0, 0], [8, 0, 200, 0, 0, 0]]),
    ];
    for (name, damages) in together {
        seeds.push((name.to_owned(), [&[7, damages.len() as u8][..], &damages.concat(), file].concat()));
    }
    // Every dtype, damaged in its first block and filled, with ones, NaN, and a byte.
    for dtype in 0..DType::ALL.len() as u8 {
        for (name, asked) in [("ones", 0x8C), ("nan", 0x8E), ("byte", 0x8A)] {
            seeds.push((format!("{name}-{dtype}"), vec![asked, 1, 1, 1, 0, 200, 3, 0, dtype, 70]));
        }
    }
    seeds.push(("block".to_owned(), vec![0x87, 1, 1, 1, 0, 200, 3, 0, 1, 200, 9, 3]));
    seeds.push(("block-and-index".to_owned(), vec![0x87, 2, 1, 1, 0, 200, 3, 0, 5, 0, 0, 0, 0, 0, 1, 200, 9, 3]));
    seeds.push(("trailer-and-header".to_owned(), vec![0x81, 2, 4, 0, 0, 0, 3, 0, 6, 0, 0, 0, 0, 0, 1, 200, 9, 3]));
    for (number, with) in [(0, 0), (1, 30), (2, 5), (3, 255)] {
        for asked in [0, 1, 7] {
            let damage = [13, 0, 0, number, with, 0];
            let file = rows_file();
            seeds.push((format!("within-a-record-{number}-asked-{asked}"), [&[asked, 1][..], &damage, &file].concat()));
        }
    }
    #[cfg(feature = "torch")]
    for (name, cut) in [("legacy", 0), ("legacy-cut", 40)] {
        let (_, _, file) = super::torch::seeds().into_iter().find(|seed| seed.1 == "legacy-tensor").expect("it is one");
        for asked in [0, 1, 16] {
            seeds.push((format!("{name}-asked-{asked}"), [&[asked, 0][..], &file[..file.len() - cut]].concat()));
        }
    }
    #[cfg(feature = "torch")]
    for (number, (target, name, archive)) in super::torch::seeds().into_iter().enumerate() {
        if target == "torch_zip" && archive.starts_with(b"PK") {
            let kind = [0, 1, 3, 8, 9, 11, 10][number / 2 % 7];
            let damage = [kind, 1, 90 + number as u8, 20, 0xAA, 0];
            seeds.push((format!("torch-{name}"), [&[7, 1][..], &damage, &archive].concat()));
        }
    }
    seeds.push(("whole".to_owned(), [&[0, 0][..], file].concat()));
    seeds.push(("raw-cut".to_owned(), [&[7, 0][..], &file[..file.len() / 2]].concat()));
    seeds
}
