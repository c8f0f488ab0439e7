//! How much memory it takes: a bounded amount for writing and verifying however much there is, and for a hostile file no more than
//! its own length warrants.
#![cfg(feature = "fs")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{IntoReader, Random, one_thread, reseal, reseal_header, spec, touch_everything};
use dolmen::{
    Builder, Checkpoint, DType, Durability, Error, ErrorKind, FileOptions, SaveOptions, TensorData, Writer,
    verify_source,
};

/// Counts what is allocated, and the most there has been at any time.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn allocated(len: usize) {
    let now = NOW.fetch_add(len, Ordering::Relaxed) + len;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: everything is passed on to the system's allocator as it came; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // While it moves, both are there.
        allocated(new_size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The tests count for the whole process, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much more than before was allocated at any time during `work`.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

const MIB: usize = 1 << 20;
const LEN: usize = 256 * MIB;

/// What saving may take: 16 MiB, with 4 of them for each thread that validates; machines have more or fewer threads.
fn allowed() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    8 * MIB + 4 * MIB * threads
}

fn produce(out: &mut dyn Write) -> dolmen::Result<()> {
    let piece = vec![7u8; MIB / 4];
    for _ in 0..LEN / piece.len() {
        out.write_all(&piece).map_err(|e| Error::io("cannot write", e))?;
    }
    Ok(())
}

fn deferred() -> TensorData<'static> {
    TensorData::deferred(DType::U8, [LEN as u64], produce).unwrap()
}

fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

#[test]
fn a_tensor_longer_than_memory_should_hold_is_saved_validated_streamed_and_copied_piece_by_piece() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.dolmen");

    let (_, taken) = peak(|| {
        let mut b = Builder::new();
        b.tensor("t", deferred()).unwrap();
        b.save_with(&path, &quickly().validate(true)).unwrap();
    });
    assert!(taken < allowed(), "Builder took {} KiB", taken >> 10);
    assert!(taken > MIB / 4, "the allocator counts nothing: {taken}");

    let (_, taken) = peak(|| {
        let mut w = Writer::create_with(&path, FileOptions::new(), &quickly().validate(true)).unwrap();
        w.tensor("t", deferred()).unwrap();
        let mut rows = w.begin_rows("rows", DType::F32, [1024]).unwrap();
        for row in 0..5_000 {
            rows.write_elements(&[row as f32; 1024]).unwrap();
        }
        rows.finish().unwrap();
        w.commit().unwrap();
    });
    assert!(taken < allowed(), "Writer took {} KiB", taken >> 10);

    let sevens = vec![7; MIB];
    let (len, taken) = peak(|| {
        let opened = Checkpoint::open_on_demand(&path).unwrap();
        let mut len = 0;
        opened
            .tensor("t")
            .unwrap()
            .stream(|bytes| {
                assert!(bytes.len() <= sevens.len() && *bytes == sevens[..bytes.len()]);
                len += bytes.len();
                Ok(())
            })
            .unwrap();
        len
    });
    assert_eq!(len, LEN);
    assert!(taken < 3 * MIB, "streaming took {} KiB", taken >> 10);

    let (report, taken) = peak(|| Checkpoint::open_on_demand(&path).unwrap().verify().unwrap());
    assert!(report.is_valid() && taken < allowed(), "verification took {} KiB", taken >> 10);

    let copy = dir.path().join("copy.dolmen");
    let (_, taken) = peak(|| {
        let opened = Checkpoint::open_on_demand(&path).unwrap();
        let mut b = Builder::new();
        b.checkpoint(&opened).unwrap();
        b.save_with(&copy, &quickly()).unwrap();
    });
    assert!(taken < 8 * MIB, "copying took {} KiB", taken >> 10);
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), std::fs::metadata(&path).unwrap().len());
}

/// The most that writing a table of so many rows of 1 KiB took, in files of so many.
#[cfg(feature = "feature")]
fn table(rows: usize, rows_per_file: u64) -> usize {
    use dolmen::feature::{TableWriter, TableWriterOptions};
    const BATCH: usize = 500;
    let dir = tempfile::tempdir().unwrap();
    let options = TableWriterOptions::new(DType::F32, [256]).unwrap().labels(true);
    let options = options.rows_per_file(rows_per_file).save(quickly());
    let elements = vec![0.5f32; BATCH * 256];
    let mut ids = vec![String::with_capacity(20); BATCH];
    let (_, taken) = peak(|| {
        let mut w = TableWriter::create(dir.path().join("part"), &options).unwrap();
        for batch in 0..rows / BATCH {
            for (n, id) in ids.iter_mut().enumerate() {
                id.clear();
                std::fmt::Write::write_fmt(id, format_args!("sequence_{:08}", batch * BATCH + n)).unwrap();
            }
            w.append_labelled(&ids, &elements, &[1; BATCH]).unwrap();
        }
        w.finish().unwrap();
    });
    taken
}

#[cfg(feature = "feature")]
#[test]
fn a_table_takes_memory_for_the_ids_of_one_file_however_many_files_and_rows_there_are() {
    let _alone = alone();
    let (one, ten) = (table(5_000, 5_000), table(50_000, 5_000));
    println!("5,000 rows of 1 KiB a file: one file took {} KiB, ten took {} KiB", one >> 10, ten >> 10);
    assert!(ten < one + (64 << 10), "{one} bytes for a file, {ten} for ten");
    assert!(ten < 3 * MIB, "{} KiB", ten >> 10);
    let single = table(50_000, 50_000);
    let row = (single - ten) / 45_000;
    println!("a further row of the same file, with an id of 17 bytes: {row} bytes");
    assert!((17..300).contains(&row), "{row} bytes for each further row of a file");
}

#[test]
fn a_tensor_in_memory_is_saved_without_another_copy() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let values = vec![1.5f32; 16 * MIB];
    let mut b = Builder::new();
    b.tensor("t", &values).unwrap();
    let (_, taken) = peak(|| b.save_with(dir.path().join("f.dolmen"), &quickly()).unwrap());
    assert!(taken < 3 * MIB, "{} KiB", taken >> 10);
    let (_, taken) = peak(|| b.write_to(std::io::sink()).unwrap());
    assert!(taken < 3 * MIB, "{} KiB", taken >> 10);
}

#[cfg(feature = "mmap")]
#[test]
fn opening_and_looking_up_builds_nothing_whatever_the_number_of_tensors() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.dolmen");
    let mut b = Builder::with_options(FileOptions::new().alignment(64).unwrap());
    for n in 0..20_000 {
        b.tensor(&format!("layer.{n}.weight"), &[0u8; 4]).unwrap();
    }
    b.save_with(&path, &quickly()).unwrap();
    let (opened, taken) = peak(|| {
        // SAFETY: nobody else knows of the file.
        let opened = unsafe { Checkpoint::map(&path) }.unwrap();
        for n in 0..100 {
            opened.tensor(&format!("layer.{n}.weight")).unwrap().bytes().unwrap();
        }
        opened
    });
    // A bit for each block, and what the paths and names of this test take.
    assert!(taken < 20 << 10, "{taken} bytes");
    assert_eq!(opened.len(), 20_000);
}

/// What opening a file, verifying it and asking it for everything took.
fn examined(bytes: &[u8]) -> usize {
    let (_, taken) = peak(|| {
        let _ = verify_source(&bytes.into_reader(), &one_thread());
    });
    let (_, opening) = peak(|| {
        if let Ok(opened) = Checkpoint::from_bytes(bytes) {
            touch_everything(&opened);
        }
    });
    taken.max(opening)
}

/// A MiB, and so many times the file's length: a decoded value takes much more than its encoding.
fn allowed_for(len: usize) -> usize {
    MIB + 100 * len
}

#[test]
fn no_vector_makes_a_reader_allocate_more_than_its_length_warrants() {
    let _alone = alone();
    for directory in ["accept", "reject"] {
        for entry in std::fs::read_dir(spec().join("vectors").join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let taken = examined(&bytes);
            assert!(taken < allowed_for(bytes.len()), "{}: {taken} bytes of {}", path.display(), bytes.len());
        }
    }
}

/// A small file whose numbers are as large as they can be, with all checksums right.
fn hostile() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("43 bytes".to_owned(), Builder::new().to_vec().unwrap()[..43].to_vec())];
    let mut b = Builder::with_options(FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap());
    b.tensor("a", &[1.5f32; 300]).unwrap();
    let data = TensorData::strided(DType::F32, [3u64, 4], [0u64, 1], vec![0; 16]).unwrap();
    b.tensor("b", data).unwrap();
    b.metadata("k", vec![dolmen::Value::from(0); 300]);
    b.document(dolmen::Value::List(vec![dolmen::Value::from(0); 300]));
    let file = b.to_vec().unwrap();
    assert!(file.len() < 4096);
    let index = common::u64_at(&file, 24) as usize;
    // Each number of header and index, one after the other, made huge: all at once where it is of 8 bytes, and in parts.
    for at in (0..60).chain(index..file.len() - 64) {
        for (len, value) in [(1, 0xFF), (2, 0xFF), (4, 0xFF), (4, 0x7F), (8, 0xFF), (8, 0x7F), (8, 0)] {
            if at % len != 0 || at + len > file.len() - 64 {
                continue;
            }
            let mut changed = file.clone();
            changed[at..at + len].fill(value);
            reseal(&mut changed);
            files.push((format!("{len} bytes {value:#x} at {at}"), changed));
        }
    }
    // Heads of CBOR items that announce more than there is.
    for kind in [6, 7] {
        let section = common::section(&file, kind).unwrap();
        for head in [0x5B, 0x7B, 0x9B, 0xBB, 0xDB, 0x9A, 0xBA, 0x99, 0xB9] {
            for at in section.clone().step_by(31).take(3) {
                let mut changed = file.clone();
                changed[at] = head;
                changed[at + 1..at + 9].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
                reseal(&mut changed);
                files.push((format!("CBOR head {head:#x} at {at}"), changed));
            }
        }
    }
    files
}

#[test]
fn a_small_file_with_huge_numbers_takes_little_memory() {
    let _alone = alone();
    let files = hostile();
    assert!(files.len() > 500);
    for (about, bytes) in &files {
        let taken = examined(bytes);
        assert!(taken < allowed_for(bytes.len()), "{about}: {taken} bytes");
    }
}

#[test]
fn a_damaged_file_longer_than_memory_should_hold_is_salvaged_piece_by_piece() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("f.dolmen"), dir.path().join("out.dolmen"));
    let mut b = Builder::new();
    b.tensor("t", deferred()).unwrap();
    b.tensor("u", &[1u8, 2, 3]).unwrap();
    b.save_with(&path, &quickly()).unwrap();
    let mut file = std::fs::read(&path).unwrap();
    let trailer = file.len() - 64;
    file[5 * MIB] ^= 1;
    for what in ["a block", "the header too", "the trailer too"] {
        match what {
            "the header too" => file[..64].fill(0),
            "the trailer too" => file[trailer..].fill(0),
            _ => {}
        }
        std::fs::write(&path, &file).unwrap();
        let (saved, taken) = peak(|| {
            let options = dolmen::SalvageOptions::new().partial(dolmen::Fill::Zeros).unverified(true);
            let salvaged = options.salvage(&path).unwrap();
            let save = dolmen::foreign::ConvertOptions::new().save(quickly()).validate(true);
            drop(salvaged.save_with(&out, &save).unwrap());
            salvaged.report().saved_count()
        });
        assert_eq!(saved, 2, "{what}");
        assert!(taken < allowed(), "{what}: {} KiB", taken >> 10);
        assert!(Checkpoint::open_on_demand(&out).unwrap().verify().unwrap().is_valid());
    }
}

#[test]
fn random_bytes_take_little_memory() {
    let _alone = alone();
    let mut random = Random::new(43);
    for round in 0..2000 {
        let len = [43, 200, 4096][round % 3];
        let mut bytes = random.bytes(len);
        if len >= 200 {
            let whole = len / 8 * 8;
            bytes.truncate(whole);
            bytes[..16].copy_from_slice(b"\x89DOLMEN\n\x01\0\0\0\0\0\0\0");
            bytes[16..24].copy_from_slice(&(whole as u64).to_le_bytes());
            bytes[24..32].copy_from_slice(&64u64.to_le_bytes());
            bytes[32..40].copy_from_slice(&(whole as u64 - 128).to_le_bytes());
            bytes[44..60].copy_from_slice(&[6, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            bytes[64..72].copy_from_slice(&[random.next() as u8 % 9, 0, 0, 0, 0, 0, 0, 0]);
            reseal(&mut bytes);
            reseal_header(&mut bytes);
        }
        let taken = examined(&bytes);
        assert!(taken < allowed_for(bytes.len()), "round {round}: {taken} bytes");
    }
}

#[test]
fn strides_that_expand_to_more_than_memory_are_a_limit_and_not_an_allocation() {
    let _alone = alone();
    let mut b = Builder::new();
    let data = TensorData::strided(DType::F32, [1u64 << 30, 1 << 20], [0u64, 0], vec![0; 4]).unwrap();
    b.tensor("t", data).unwrap();
    let bytes = b.to_vec().unwrap();
    let opened = Checkpoint::from_bytes(&bytes).unwrap();
    let tensor = opened.tensor("t").unwrap();
    let (e, taken) = peak(|| tensor.to_vec::<f32>().unwrap_err());
    assert_eq!(e.kind(), ErrorKind::Limit);
    assert!(taken < 10_000, "{taken} bytes");
    assert_eq!(tensor.contiguous_byte_len(), 1 << 52);
    let (mut runs, mut len) = (0, 0);
    let (_, taken) = peak(|| {
        let _ = tensor.for_each_run(|run| {
            runs += 1;
            len += run.len();
            if runs == 1000 { Err(Error::new(ErrorKind::Limit, "enough")) } else { Ok(()) }
        });
    });
    assert_eq!((runs, len), (1000, 4000));
    assert!(taken < 10_000, "{taken} bytes");
}
