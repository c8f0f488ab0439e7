//! Opening: whatever the bytes, no panic, bounded memory, and what is called valid can be read in every way.

use std::ops::ControlFlow;

use dolmen::half::{bf16, f16};
use dolmen::{
    Builder, Checkpoint, DType, Element, Error, ErrorKind, Limits, OpenOptions, Report, TensorView, VerifyOptions,
    verify_source,
};

use super::work::{self, Allowance, Counted};
use super::{heap, seal};

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The strict reader accepts it.
    Valid,
    /// It opened, and the strict reader names this rule.
    Opened(&'static str),
    /// It did not open; the rule, or the kind of error where there is none.
    Refused(&'static str),
}

/// Peak memory per byte of the file, values aside: the copy of the file, a second one of the index and of a storage (aligned), 24 bytes
/// of a piece for each 32 of a storage record, and error messages that show dims.
pub const PER_BYTE: u64 = 16;
/// Peak memory per byte of metadata and document: each `A1 60` opens a map of one entry, and costs a node of a `BTreeMap` (11 keys
/// of 24 bytes, 11 values of 32, and links: 632 bytes); nothing costs more for its length. 632 / 2 and a slot of 32 bytes.
pub const PER_VALUE_BYTE: u64 = 350;
/// Peak memory whatever the length.
pub const FIXED: u64 = 1 << 20;
/// Bytes of tensors that are looked at for one input. Tensors may all view the same bytes, so a file of n bytes can hold n²/100
/// bytes of them: the work of reading each is the caller's wish, and is bounded here.
const WORK: u64 = 4 << 20;
/// Runs of a strided tensor that are looked at.
const RUNS: u32 = 2000;

/// What opening a file, or verifying it, may take of the processor.
const LINEAR: Allowance = Allowance::of(2_000, 300);
/// The same for files of other formats, which become values and an index first.
pub const GUEST: Allowance = Allowance::of(4_000, 400);
/// Bytes that a file stands for at most, for each of its own that is compressed.
const INFLATED: u64 = 1032;

/// Bytes as they come: open, verify, touch everything.
pub fn open_bytes(data: &[u8]) -> Outcome {
    let (outcome, peak) = heap::peak(|| open_and_touch(data));
    let places = seal::places(data);
    let values: usize = [6, 7].map(|kind| places.section(kind).len()).iter().sum();
    let allowed = FIXED + PER_BYTE * data.len() as u64 + PER_VALUE_BYTE * values as u64;
    let guest = !data.starts_with(seal::MAGIC);
    // Files of other formats have checks, and bounds, of their own.
    assert!(guest || peak <= allowed, "{peak} bytes were in use for a file of {}; {allowed} are allowed", data.len());
    outcome
}

/// As [`open_bytes`]; then, if the file is valid, it is written anew and compared; and one file in 64 is read from a disk in memory in
/// all other ways.
pub fn open_resealed(data: &[u8]) -> Outcome {
    let outcome = open_bytes(data);
    if outcome == Outcome::Valid {
        rewrite(data);
        #[cfg(all(feature = "npy", feature = "torch"))]
        if is_chosen(data, 16) {
            super::exports(&Checkpoint::from_bytes(data).expect("it is valid"), data);
        }
    }
    if is_chosen(data, 64) {
        other_ways(data, outcome);
    }
    outcome
}

pub fn options<'a>() -> VerifyOptions<'a> {
    let mut options = VerifyOptions::default();
    options.threads = 1;
    options
}

/// An error that a file may cause, whatever is in it.
fn check_error(e: &Error) {
    assert!(e.is_corruption() || e.is_incompatible(), "not an error of a file: {e:?}");
    assert!(e.to_string().len() < 100_000, "a message of {} bytes", e.to_string().len());
}

fn rule_of(e: &Error) -> &'static str {
    e.rule().unwrap_or(e.kind().name())
}

fn open_and_touch(data: &[u8]) -> Outcome {
    let strict = work::bounded("verifying a source", LINEAR, data.len() as u64, || {
        let counted = Counted::new(data);
        let report = verify_source(&counted, &options()).expect("memory can be read");
        counted.check("verifying", 3, 64);
        report
    });
    let checkpoint = match opened(data) {
        Ok(checkpoint) => checkpoint,
        Err(e) => {
            // A file of another format may have more axes than the index can say.
            if e.kind() != ErrorKind::Limit || data.starts_with(seal::MAGIC) {
                check_error(&e);
            }
            assert!(!strict.is_valid(), "a valid file does not open: {e}");
            return Outcome::Refused(rule_of(&e));
        }
    };
    let report = verified(&checkpoint, data);
    let outcome = check_report(&report);
    if checkpoint.format() == "dolmen" {
        assert_eq!(outcome, check_report(&strict), "an open file and its bytes are judged differently");
        assert_eq!(report.problem_count, strict.problem_count);
        assert_eq!(report.damaged, strict.damaged);
    }
    let fault = touch(&checkpoint);
    if let (Outcome::Valid, Some(fault)) = (outcome, &fault) {
        panic!("the file is valid, and cannot be read: {fault}");
    }
    outcome
}

pub fn check_report(report: &Report) -> Outcome {
    report.problems.iter().for_each(check_error);
    assert_eq!(report.problems.len() as u64, report.problem_count.min(Report::MAX_PROBLEMS as u64));
    assert!(report.damaged.is_empty() || !report.is_valid());
    report.problems.first().map_or(Outcome::Valid, |e| Outcome::Opened(rule_of(e)))
}

/// Opens a file in memory, in linear time. Its structure alone says the same, and is read once.
pub fn opened(data: &[u8]) -> dolmen::Result<Checkpoint> {
    let (what, allowance) = match data.starts_with(seal::MAGIC) {
        true => ("opening", LINEAR),
        false => ("opening another format", GUEST),
    };
    if let Some(kind) = dolmen::foreign::recognise(&data[..data.len().min(512)]) {
        assert_eq!(kind.to_string(), kind.name());
    }
    let opened = work::bounded(what, allowance, data.len() as u64, || Checkpoint::from_bytes(data));
    if is_chosen(data, 8) {
        let counted = Counted::new(data);
        let structure = OpenOptions::new().open_structure(&counted);
        // A pickle that is broken is looked through for what it names: up to five times, for a frame may hide the rest of it, and each time
        // read, searched for its last whole value, and looked at for that frame.
        counted.check(what, if data.starts_with(seal::MAGIC) { 4 } else { 24 }, 16);
        match (&opened, &structure) {
            (Ok(opened), Ok(structure)) => {
                assert_eq!(opened.len(), structure.len());
                let there = structure.verify_in(&counted, &options()).expect("memory can be read");
                let here = opened.verify_with(&options()).expect("memory can be read");
                assert_eq!((there.problem_count, &there.damaged), (here.problem_count, &here.damaged));
                let absent = structure.tensors().flatten().find(|tensor| tensor.byte_len() > 0 && tensor.is_in_place());
                assert!(absent.is_none_or(|tensor| tensor.bytes().is_err()), "data that was only lent is touched");
            }
            (Err(one), Err(other)) => assert_eq!(rule_of(one), rule_of(other)),
            (opened, structure) => panic!("from_bytes says {opened:?}, open_structure {structure:?}"),
        }
    }
    if let (Ok(opened), true) = (&opened, is_chosen(data, 8)) {
        limited(data, opened);
    }
    opened
}

/// A file is taken within limits that it keeps, and refused for those that it does not.
fn limited(data: &[u8], opened: &Checkpoint) {
    let mut limits = Limits::NONE;
    limits.max_file_len = data.len() as u64;
    limits.max_tensors = opened.len() as u64;
    assert!(OpenOptions::new().limits(limits).from_bytes(data).is_ok());
    let refused = |limits: Limits| {
        let opened = OpenOptions::new().limits(limits).threads(3).from_bytes(data);
        match opened.and_then(|opened| opened.metadata().and(opened.document()).map(drop)) {
            Err(e) => e.kind() == ErrorKind::Limit,
            Ok(()) => false,
        }
    };
    limits.max_file_len = (data.len() as u64).saturating_sub(1);
    assert!(refused(limits));
    limits.max_file_len = u64::MAX;
    limits.max_tensors = (opened.len() as u64).saturating_sub(1);
    assert_eq!(refused(limits), !opened.is_empty());
    limits.max_tensors = u64::MAX;
    limits.max_index_len = 7;
    limits.max_value_len = 7;
    let _ = refused(limits);
}

/// Verifies an open file, in a time linear in its length and in what it inflates to.
pub fn verified(checkpoint: &Checkpoint, data: &[u8]) -> Report {
    let verify = || checkpoint.verify_with(&options()).expect("memory can be read");
    if checkpoint.format() == "dolmen" {
        return work::bounded("verifying", LINEAR, data.len() as u64, verify);
    }
    let in_place = checkpoint.tensors().flatten().all(|tensor| tensor.is_in_place());
    let stands_for = data.len() as u64 * if in_place { 1 } else { INFLATED };
    work::bounded("verifying another format", GUEST, stands_for, verify)
}

/// Whether an input is one of those, one in `n`, that are looked at more closely. Of those that tests replay, all are.
pub fn is_chosen(data: &[u8], n: u32) -> bool {
    cfg!(test) || crc32fast::hash(data).is_multiple_of(n)
}

/// Collects the first thing that went wrong.
struct Faults(Option<String>);

impl Faults {
    fn take<T>(&mut self, what: &str, result: dolmen::Result<T>) -> Option<T> {
        result
            .map_err(|e| {
                // An ordinary error, or one of ours: both must be able to say what they are.
                let text = e.to_string();
                self.0.get_or_insert_with(|| format!("{what}: {text}"));
            })
            .ok()
    }
}

/// Reads everything that a checkpoint can give; the first fault, if there is any.
pub fn touch(checkpoint: &Checkpoint) -> Option<String> {
    let mut faults = Faults(None);
    let header = checkpoint.header();
    let _ = (header.minor(), header.file_len(), header.index_offset(), header.index_len(), checkpoint.format_version());
    let _ = (header.alignment(), header.block_len(), checkpoint.limits(), checkpoint.path().is_none());
    assert_eq!(checkpoint.len(), checkpoint.tensors().len());
    assert_eq!(checkpoint.is_empty(), checkpoint.tensors().next().is_none());
    faults.take("index", checkpoint.check_index());
    let indexed = faults.0.is_none();
    if let Some(metadata) = faults.take("metadata", checkpoint.metadata()) {
        for value in metadata.values() {
            let _ = value.descendants().count();
        }
    }
    if let Some(Some(document)) = faults.take("document", checkpoint.document()) {
        for name in document.tensor_names() {
            faults.take("tensor of the document", checkpoint.tensor(name));
        }
        let shown = document.tree(Default::default()).to_string();
        assert!(!shown.contains('\u{1b}'), "an escape character is shown");
    }
    let _ = checkpoint.unknown_sections().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let mut work = WORK;
    for (number, tensor) in checkpoint.tensors().enumerate() {
        let Some(tensor) = faults.take("tensor", tensor) else { continue };
        if indexed {
            let found = faults.take("tensor by name", checkpoint.tensor(tensor.name()));
            assert!(found.is_none_or(|found| found.name() == tensor.name() && found.shape() == tensor.shape()));
        }
        let costs = 64 + tensor.byte_len().saturating_add(tensor.storage_len().unwrap_or(0)).saturating_mul(4);
        if costs <= work {
            work -= costs;
            touch_tensor(&tensor, &mut faults);
        } else if number > 10_000 {
            break;
        }
    }
    let missing = checkpoint.tensor("\u{0}no such tensor");
    assert!(missing.is_err() || checkpoint.get("\u{0}no such tensor").is_ok());
    assert!(checkpoint.nth(checkpoint.len()).is_err_and(|e| e.kind() == ErrorKind::InvalidInput));
    faults.0
}

fn touch_tensor(tensor: &TensorView<'_>, faults: &mut Faults) {
    let (shape, strides) = (tensor.shape(), tensor.strides());
    assert_eq!(shape.len(), strides.len());
    let count = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    assert!(shape.contains(&0) || count == Some(tensor.element_count()));
    let _ = (format!("{tensor:?}"), tensor.storage_crc32(), tensor.file_offset());
    touch_elements(tensor, faults);
    let extent = tensor.byte_len();
    let bytes = faults.take("bytes", tensor.bytes());
    let raw = faults.take("bytes unverified", tensor.bytes_unverified());
    let Some(raw) = raw else {
        // Only what a guest makes from something else can fail to be there.
        assert!(bytes.is_none() && storage_is_made(tensor), "what is in memory cannot be given");
        return;
    };
    assert_eq!(raw.len() as u64, extent);
    let storage = faults.take("storage", tensor.storage_bytes());
    if let Some(bytes) = bytes {
        assert_eq!(bytes, raw);
        if let Some(storage) = storage {
            let start = tensor.start() as usize;
            assert_eq!(bytes, &storage[start..start + bytes.len()]);
        }
        let (third, half) = (extent / 3, extent / 2);
        assert_eq!(tensor.bytes_of(third..half).expect("within"), &bytes[third as usize..half as usize]);
    }
    assert!(tensor.bytes_of(0..extent + 1).is_err_and(|e| e.kind() == ErrorKind::InvalidInput));
    let mut streamed = 0u64;
    let stream = tensor.stream_storage(|piece| {
        streamed += piece.len() as u64;
        Ok(())
    });
    if faults.take("stream of the storage", stream).is_some() {
        assert_eq!(Some(streamed), tensor.storage_len().ok());
    }
    touch_rows(tensor, faults);
    match tensor.dtype() {
        DType::Bool => typed::<bool>(tensor, faults),
        DType::U8 => typed::<u8>(tensor, faults),
        DType::U16 => typed::<u16>(tensor, faults),
        DType::U32 => typed::<u32>(tensor, faults),
        DType::U64 => typed::<u64>(tensor, faults),
        DType::I8 => typed::<i8>(tensor, faults),
        DType::I16 => typed::<i16>(tensor, faults),
        DType::I32 => typed::<i32>(tensor, faults),
        DType::I64 => typed::<i64>(tensor, faults),
        DType::F16 => typed::<f16>(tensor, faults),
        DType::BF16 => typed::<bf16>(tensor, faults),
        DType::F32 => typed::<f32>(tensor, faults),
        DType::F64 => typed::<f64>(tensor, faults),
        DType::C32 => typed::<[f16; 2]>(tensor, faults),
        DType::C64 => typed::<[f32; 2]>(tensor, faults),
        DType::C128 => typed::<[f64; 2]>(tensor, faults),
        _ => assert!(tensor.as_slice::<f32>().is_err()),
    }
}

/// Elements in row-major order, against a slow calculation of each one's place.
fn touch_elements(tensor: &TensorView<'_>, faults: &mut Faults) {
    // Before anything else touches its bytes: what is streamed on demand must not come from memory.
    let mut got = Vec::new();
    let mut runs = 0;
    let mut enough = ControlFlow::Continue(());
    let result = tensor.stream(|run| {
        got.extend_from_slice(run);
        runs += 1;
        if runs > RUNS || got.len() > 1 << 16 {
            // Strides of 0 make a shape of any size: that is where the caller stops.
            enough = ControlFlow::Break(());
            return Err(Error::new(ErrorKind::Limit, "enough"));
        }
        Ok(())
    });
    let Some(bytes) = faults.take("bytes", tensor.bytes()) else { return };
    let stopped = enough.is_break();
    assert!(!stopped || result.as_ref().is_err_and(|e| e.kind() == ErrorKind::Limit));
    if !stopped && faults.take("stream", result).is_none() {
        return;
    }
    if !stopped {
        assert_eq!(got.len() as u64, tensor.contiguous_byte_len(), "the stream has another length than the elements");
    }
    match tensor.dtype().byte_size() {
        None => assert_eq!(&got[..], &bytes[..got.len()]),
        Some(size) => {
            let size = size as usize;
            for (number, element) in got.chunks_exact(size).take(5000).enumerate() {
                let (mut rest, mut place) = (number as u64, 0u64);
                for (&dim, &stride) in tensor.shape().iter().zip(tensor.strides().iter()).rev() {
                    place += rest % dim * stride;
                    rest /= dim;
                }
                let at = place as usize * size;
                assert_eq!(element, &bytes[at..at + size], "element {number} of {tensor:?}");
            }
        }
    }
    if tensor.contiguous_byte_len() <= 1 << 16 {
        let mut copy = vec![0xAA; tensor.contiguous_byte_len() as usize];
        if !stopped && faults.take("read_into", tensor.read_into(&mut copy)).is_some() {
            assert_eq!(copy, got);
        }
        copy.push(0);
        assert!(tensor.read_into(&mut copy).is_err_and(|e| e.kind() == ErrorKind::InvalidInput));
    }
}

/// Whether its bytes are not simply in the file.
fn storage_is_made(tensor: &TensorView<'_>) -> bool {
    tensor.file_offset().is_err()
}

fn touch_rows(tensor: &TensorView<'_>, faults: &mut Faults) {
    let Some(&count) = tensor.shape().first() else {
        assert!(tensor.rows(0..0).is_err());
        return;
    };
    assert!(tensor.rows(0..count.saturating_add(1)).is_err() || count == u64::MAX);
    #[expect(clippy::reversed_empty_ranges, reason = "it must be refused")]
    let reversed = tensor.rows(1..0);
    assert!(reversed.is_err());
    let ranges = [0..count, 0..count.min(1), count / 2..count, count..count];
    for range in ranges {
        // Only what lies at byte boundaries and is contiguous has rows.
        let Ok(rows) = tensor.rows(range.clone()) else {
            assert!(!tensor.is_contiguous() || tensor.dtype().is_packed(), "{tensor:?} has no rows {range:?}");
            continue;
        };
        assert_eq!(rows.range(), range);
        assert_eq!(rows.tensor().name(), tensor.name());
        if let Some(bytes) = faults.take("rows", rows.bytes()) {
            assert_eq!(bytes.len() as u64, (range.end - range.start) * rows.row_byte_len());
        }
    }
}

fn typed<T: Element>(tensor: &TensorView<'_>, faults: &mut Faults) {
    // A bool that is neither 0 nor 1 breaks no rule of the format, and has no typed view.
    let excused = |e: &Error| e.kind() == ErrorKind::Malformed && T::DTYPE == DType::Bool;
    let aligned = tensor.is_checksummed();
    match tensor.as_slice::<T>() {
        Ok(slice) => {
            assert_eq!(slice.len() as u64, tensor.element_count());
            assert!(tensor.is_contiguous());
        }
        Err(e) if excused(&e) || !aligned || !tensor.is_contiguous() => {}
        Err(e) => drop(faults.take::<()>("typed", Err(e))),
    }
    let _ = tensor.as_slice_unverified::<T>();
    if let Some(&count) = tensor.shape().first()
        && let Ok(rows) = tensor.rows(count / 2..count)
    {
        match rows.as_slice::<T>() {
            Ok(slice) => assert_eq!(size_of_val(slice) as u64, (count - count / 2) * rows.row_byte_len()),
            Err(e) if excused(&e) || !aligned => {}
            Err(e) => drop(faults.take::<()>("typed rows", Err(e))),
        }
    }
    if tensor.contiguous_byte_len() <= 1 << 16 {
        match tensor.to_vec::<T>() {
            Ok(copy) => assert_eq!(copy.len() as u64, tensor.element_count()),
            Err(e) if excused(&e) || !aligned => {}
            Err(e) => drop(faults.take::<()>("to_vec", Err(e))),
        }
    } else if tensor.contiguous_byte_len() > tensor.byte_len().max(256 << 20) {
        assert!(tensor.to_vec::<T>().is_err_and(|e| matches!(e.kind(), ErrorKind::Limit | ErrorKind::Corrupt)));
    }
}

/// A valid file read and written again holds the same.
fn rewrite(data: &[u8]) {
    let before = Checkpoint::from_bytes(data).expect("it is valid");
    let mut builder = Builder::new();
    builder.checkpoint(&before).expect("it is valid");
    let copy = builder.to_vec().expect("a valid file can be copied");
    let after = Checkpoint::from_bytes(&copy).expect("a writer writes valid files");
    let report = after.verify_with(&options()).expect("memory can be read");
    assert!(report.is_valid(), "a writer wrote {:?}", report.problems);
    assert_same(&before, &after);
    assert_eq!(copy, {
        let mut again = Vec::new();
        builder.write_to(&mut again).expect("memory can be written");
        again
    });
    // From here on it is a fixed point, but for the order of the records, which is that of the names now.
    let mut builder = Builder::new();
    builder.checkpoint(&after).expect("it is valid");
    assert_eq!(builder.to_vec().expect("it was written before"), copy);
}

/// Two checkpoints hold the same, but for where it lies.
pub fn assert_same(one: &Checkpoint, other: &Checkpoint) {
    assert_eq!(one.len(), other.len());
    assert_eq!(one.storage_count(), other.storage_count());
    for (one, other) in one.tensors().zip(other.tensors()) {
        let (one, other) = (one.expect("valid"), other.expect("valid"));
        assert_eq!((one.name(), one.dtype(), one.shape()), (other.name(), other.dtype(), other.shape()));
        assert_eq!((one.explicit_strides(), one.start()), (other.explicit_strides(), other.start()));
        assert_eq!(one.bytes().expect("valid"), other.bytes().expect("valid"));
        assert_eq!(one.storage_crc32().expect("valid"), other.storage_crc32().expect("valid"));
    }
    assert_eq!(one.metadata().expect("valid"), other.metadata().expect("valid"));
    assert_eq!(one.document().expect("valid"), other.document().expect("valid"));
    assert!(one.unknown_sections().eq(other.unknown_sections()));
}

/// Reads the file by path, in every way, and compares.
pub fn other_ways(data: &[u8], outcome: Outcome) {
    let path = scratch("open");
    std::fs::write(&path, data).expect("the scratch directory can be written");
    let here = Checkpoint::from_bytes(data);
    // SAFETY: nobody else writes to the file.
    let mapped = unsafe { Checkpoint::map(&path) };
    let on_demand = Checkpoint::open_on_demand(&path);
    let direct = OpenOptions::new().direct(true).threads(2).open_on_demand(&path);
    // Not every file system has direct reads.
    let direct = if direct.as_ref().is_err_and(|e| e.kind() == ErrorKind::Io) { None } else { Some(direct) };
    let whole = Checkpoint::open(&path);
    if let (Ok(here), Ok(mapped)) = (&here, &mapped) {
        assert_eq!(here.check_data().is_ok(), mapped.check_data().is_ok());
        assert_eq!(here.check_records().is_ok(), mapped.check_records().is_ok());
    }
    let ways = [("map", Some(&mapped)), ("open_on_demand", Some(&on_demand)), ("direct", direct.as_ref())];
    for (way, other) in ways.into_iter().filter_map(|(way, other)| Some((way, other?))) {
        match (&here, other) {
            (Ok(here), Ok(other)) => {
                assert_eq!(touch(here).is_none(), touch(other).is_none(), "{way} and from_bytes differ");
                let report = other.verify_with(&options()).expect("the file can be read");
                assert_eq!(check_report(&report), outcome, "{way}");
                // Several threads find the same, in the same order.
                let checked = std::sync::atomic::AtomicU64::new(0);
                let progress = |bytes: u64| {
                    checked.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                };
                let mut several = VerifyOptions::default();
                several.threads = 3;
                several.progress = Some(&progress);
                assert!(format!("{several:?}").contains("threads: 3"));
                let again = other.verify_with(&several).expect("the file can be read");
                assert_eq!(
                    again.problems.iter().map(rule_of).collect::<Vec<_>>(),
                    report.problems.iter().map(rule_of).collect::<Vec<_>>()
                );
                assert_eq!(again.damaged, report.damaged);
                if outcome == Outcome::Valid {
                    assert_same(here, other);
                }
            }
            (Err(one), Err(other)) => {
                assert_eq!((rule_of(one), one.offset()), (rule_of(other), other.offset()), "{way}")
            }
            (here, other) => panic!("from_bytes says {here:?}, {way} says {other:?}"),
        }
    }
    match (&here, &whole) {
        (Ok(here), Ok(whole)) => {
            if touch(here).is_none() {
                assert_same(here, whole);
            }
        }
        (Err(one), Err(other)) => assert_eq!(rule_of(one), rule_of(other)),
        // Reading all of it checks all of it.
        (Ok(_), Err(e)) => {
            check_error(e);
            assert_ne!(outcome, Outcome::Valid, "open refuses a valid file: {e}");
        }
        (Err(e), Ok(_)) => panic!("open takes what from_bytes does not: {e}"),
    }
    drop((mapped, on_demand, direct));
    std::fs::remove_file(&path).expect("it was written");
}

/// A file of this process and thread, in memory where there is a place for that.
pub fn scratch(what: &str) -> std::path::PathBuf {
    let shm = std::path::Path::new("/dev/shm");
    let directory = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
    directory.join(format!("dolmen-fuzz-{}-{what}-{:?}.dolmen", std::process::id(), std::thread::current().id()))
}
