//! Damage: every flipped bit, every truncation and every extension is found, no wrong bytes are ever given, and what is damaged
//! is named.

mod common;

use common::{IntoReader, Random, in_parallel, is_valid, logical_bytes, one_thread, reseal, small_files, spec};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use dolmen::read::BadBlock;
use dolmen::{Builder, Checkpoint, DType, Error, ErrorKind, FileOptions, TensorData, View, verify_source};

/// The files whose every bit is flipped: the short ones of the vectors, and those made here.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> =
        small_files().into_iter().map(|(about, bytes)| (about.to_owned(), bytes)).collect();
    for entry in std::fs::read_dir(spec().join("vectors/accept")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if bytes.len() < 2500 {
            files.push((path.display().to_string(), bytes));
        }
    }
    files.sort();
    let shapes: BTreeSet<String> = files.iter().map(|(_, bytes)| shape(bytes)).collect();
    assert!(files.len() >= 20 && shapes.len() >= 20, "{} files of {} different shapes", files.len(), shapes.len());
    // The longest ones first, so that all threads end at about the same time.
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(bytes.len()));
    files
}

/// What makes a file different from another: all but names and elements.
fn shape(file: &[u8]) -> String {
    let opened = Checkpoint::from_bytes(file).unwrap();
    let tensors: Vec<_> = opened
        .tensors()
        .map(|tensor| tensor.unwrap())
        .map(|t| {
            (t.dtype(), t.shape().to_vec(), t.strides().to_vec(), t.storage_len().unwrap(), t.file_offset().unwrap())
        })
        .collect();
    let (header, sections) = (opened.header(), opened.unknown_sections().count());
    let has = (opened.metadata().unwrap().len(), opened.document().unwrap().is_some(), sections);
    format!("{tensors:?} {has:?} {} {} {}", header.minor(), header.alignment(), header.block_len())
}

/// Counts the damaged files that a test looks at.
#[derive(Default)]
struct Cases(AtomicUsize);

impl Cases {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Says how many there were, and sees that there were as many as there should be.
    fn expect(self, what: &str, files: &[(String, Vec<u8>)], of_each: impl Fn(&[u8]) -> usize) {
        let expected: usize = files.iter().map(|(_, bytes)| of_each(bytes)).sum();
        println!("{what}: {expected} of {} files, all found", files.len());
        assert_eq!(self.0.into_inner(), expected, "{what}");
    }
}

/// What an intact file gives for each tensor: name and elements.
fn contents(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let opened = Checkpoint::from_bytes(file).unwrap();
    opened.tensors().map(|t| t.unwrap()).map(|t| (t.name().to_owned(), t.bytes().unwrap().to_vec())).collect()
}

/// Asserts that a file that is not the original is refused by verification, and gives no bytes but those of the original.
fn assert_found(about: &str, what: &dyn Fn() -> String, original: &[(String, Vec<u8>)], damaged: &[u8]) {
    let report = verify_source(&damaged.into_reader(), &one_thread()).unwrap();
    assert!(!report.is_valid(), "{about}: {} is accepted", what());
    let e = &report.problems[0];
    assert!(e.rule().is_some(), "{about}: {}: {e}", what());
    assert!(!e.to_string().is_empty() && report.problem_count >= 1);
    let Ok(opened) = Checkpoint::from_bytes(damaged) else { return };
    assert!(!opened.verify_with(&one_thread()).unwrap().is_valid(), "{about}: {} is accepted when open", what());
    for (name, bytes) in original {
        // The index was right, for its checksum was.
        let tensor = opened.tensor(name).unwrap_or_else(|e| panic!("{about}: {}: {e}", what()));
        match tensor.bytes() {
            Ok(given) => assert!(given == bytes, "{about}: {}: wrong bytes of {name:?}", what()),
            Err(e) => assert_eq!((e.kind(), e.tensor()), (ErrorKind::Corrupt, Some(&name[..])), "{about}: {}", what()),
        }
    }
    assert_eq!(opened.len(), original.len());
}

#[test]
fn every_flipped_bit_is_found() {
    let (files, cases) = (files(), Cases::default());
    in_parallel(&files, |(about, file)| {
        assert!(is_valid(file), "{about}");
        let original = contents(file);
        let mut damaged = file.clone();
        for bit in 0..file.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_found(about, &|| format!("bit {} of byte {}", bit % 8, bit / 8), &original, &damaged);
            damaged[bit / 8] ^= 1 << (bit % 8);
            cases.add();
        }
        assert_eq!(&damaged, file);
    });
    cases.expect("flipped bits", &files, |file| file.len() * 8);
}

#[test]
fn every_truncation_and_every_extension_by_up_to_64_bytes_is_found() {
    let (files, cut_off, extended) = (files(), Cases::default(), Cases::default());
    in_parallel(&files, |(about, file)| {
        let original = contents(file);
        for len in 0..file.len() {
            assert_found(about, &|| format!("cut off at {len}"), &original, &file[..len]);
            cut_off.add();
        }
        for more in 1..=64 {
            let tail = &file[file.len() - more..];
            for appended in [vec![0; more], vec![0xFF; more], tail.to_vec(), file[..more].to_vec()] {
                let longer = [&file[..], &appended].concat();
                assert_found(about, &|| format!("extended by {appended:02x?}"), &original, &longer);
                extended.add();
            }
        }
        let twice = [&file[..], file].concat();
        assert_found(about, &|| "the file twice".to_owned(), &original, &twice);
        extended.add();
    });
    cut_off.expect("truncations", &files, <[u8]>::len);
    extended.expect("extensions", &files, |_| 64 * 4 + 1);
}

#[test]
fn bursts_and_blanked_stretches_are_found() {
    in_parallel(&files(), |(about, file)| {
        let original = contents(file);
        let mut random = Random::new(file.len() as u64);
        for _ in 0..300 {
            // A burst of at most 32 bits, which a CRC-32 always finds.
            let mut damaged = file.clone();
            let at = random.below(file.len() - 4);
            let pattern = (random.next() as u32 | 1).to_le_bytes();
            damaged[at..at + 4].iter_mut().zip(pattern).for_each(|(byte, flip)| *byte ^= flip);
            assert_found(about, &|| format!("burst {pattern:02x?} at {at}"), &original, &damaged);
            // What a device leaves that lost a sector.
            let mut damaged = file.clone();
            let len = 1 + random.below(600);
            let at = random.below(file.len());
            let end = (at + len).min(file.len());
            damaged[at..end].fill([0, 0xFF][random.below(2)]);
            if damaged != *file {
                assert_found(about, &|| format!("blanked {at}..{end}"), &original, &damaged);
            }
        }
        // The same change in header and trailer, which then agree.
        for bit in 0..64 * 8 {
            let mut damaged = file.clone();
            for at in [bit / 8, file.len() - 64 + bit / 8] {
                damaged[at] ^= 1 << (bit % 8);
            }
            assert_found(about, &|| format!("bit {bit} of header and trailer"), &original, &damaged);
        }
    });
}

#[test]
fn padding_and_reserved_bytes_are_found_even_with_every_checksum_right() {
    // Resealed, nothing but the rules about zeros and about agreement protects what no content lies in.
    in_parallel(&files(), |(about, file)| {
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x80;
            reseal(&mut damaged);
            if damaged == *file {
                // It was a checksum, or part of the trailer.
                continue;
            }
            let report = verify_source(&damaged.clone().into_reader(), &one_thread()).unwrap();
            if report.is_valid() {
                // Then it is content: it says something else than before.
                let (before, after) =
                    (Checkpoint::from_bytes(file).unwrap(), Checkpoint::from_bytes(&damaged).unwrap());
                let same = before.len() == after.len()
                    && before.tensors().zip(after.tensors()).all(|(a, b)| {
                        let (a, b) = (a.unwrap(), b.unwrap());
                        (a.name(), a.dtype(), a.shape(), a.strides()) == (b.name(), b.dtype(), b.shape(), b.strides())
                            && logical_bytes(&a, 1 << 20).unwrap() == logical_bytes(&b, 1 << 20).unwrap()
                            && a.storage_bytes().unwrap() == b.storage_bytes().unwrap()
                    })
                    && before.header().minor() == after.header().minor()
                    && before.header().alignment() == after.header().alignment()
                    && before.header().block_len() == after.header().block_len()
                    && before.metadata().unwrap() == after.metadata().unwrap()
                    && before.document().unwrap() == after.document().unwrap()
                    && before.unknown_sections().eq(after.unknown_sections());
                assert!(!same, "{about}: byte {at} can be changed, and nothing tells");
            }
        }
    });
}

const BLOCK: usize = 4096;

/// For each tensor: its name, its storage, and its place in it.
type Places = Vec<(&'static str, u32, std::ops::Range<usize>)>;

/// Three storages of several blocks, with tensors that touch some of them.
fn blocks() -> (Vec<u8>, Places) {
    let mut random = Random::new(7);
    let mut b = Builder::with_options(FileOptions::new().alignment(64).unwrap().block_len(BLOCK as u64).unwrap());
    let rows = random.bytes(5 * BLOCK);
    b.tensor("rows", TensorData::raw(DType::U8, [80, 256], rows).unwrap()).unwrap();
    let storage = b.storage(random.bytes(3 * BLOCK + 100)).unwrap();
    let view = |shape: &[u64], start| View::new(DType::U16, shape).unwrap().start(start);
    b.view("whole", storage, view(&[(3 * BLOCK as u64 + 100) / 2], 0)).unwrap();
    b.view("second", storage, view(&[10, 10], BLOCK as u64)).unwrap();
    b.view("edge", storage, view(&[2], 2 * BLOCK as u64 - 2)).unwrap();
    b.view("last", storage, view(&[50], 3 * BLOCK as u64)).unwrap();
    b.view("none", storage, view(&[0], 2 * BLOCK as u64)).unwrap();
    b.view("column", storage, view(&[4, 1], 0).strides([BLOCK as u64 / 4, 1]).unwrap()).unwrap();
    b.tensor("small", &[1u8, 2, 3]).unwrap();
    let places = vec![
        ("column", 1, 0..3 * BLOCK / 2 + 2),
        ("edge", 1, 2 * BLOCK - 2..2 * BLOCK + 2),
        ("last", 1, 3 * BLOCK..3 * BLOCK + 100),
        ("none", 1, 0..0),
        ("rows", 0, 0..5 * BLOCK),
        ("second", 1, BLOCK..BLOCK + 200),
        ("small", 2, 0..3),
        ("whole", 1, 0..3 * BLOCK + 100),
    ];
    (b.to_vec().unwrap(), places)
}

fn bad_block(e: &Error) -> (Option<&'static str>, Option<&str>, Option<u64>) {
    (e.rule(), e.tensor(), e.offset())
}

#[test]
fn a_damaged_block_is_named_with_the_tensors_that_touch_it() {
    let (file, places) = blocks();
    let intact = Checkpoint::from_bytes(&file).unwrap();
    let storages = ["rows", "whole", "small"].map(|name| {
        let tensor = intact.tensor(name).unwrap();
        (tensor.file_offset().unwrap() as usize, tensor.storage_len().unwrap() as usize)
    });
    for (storage, (data, len)) in storages.into_iter().enumerate() {
        for block in 0..len.div_ceil(BLOCK) {
            let in_storage = block * BLOCK..((block + 1) * BLOCK).min(len);
            let in_file = (data + in_storage.start) as u64..(data + in_storage.end) as u64;
            for at in [in_storage.start, in_storage.end - 1] {
                let mut damaged = file.clone();
                damaged[data + at] ^= 0x10;
                let opened = Checkpoint::from_bytes(&damaged).unwrap();
                for report in
                    [opened.verify().unwrap(), verify_source(&damaged.clone().into_reader(), &one_thread()).unwrap()]
                {
                    assert_eq!(report.problem_count, 1);
                    assert_eq!(
                        (report.problems[0].rule(), report.problems[0].offset()),
                        (Some("BLK-1"), Some(in_file.start))
                    );
                    let named: Vec<&str> = report.damaged.iter().map(|d| d.name.as_str()).collect();
                    let touching: Vec<&str> = places
                        .iter()
                        .filter(|(_, s, place)| {
                            *s as usize == storage && place.start < in_storage.end && in_storage.start < place.end
                        })
                        .map(|(name, _, _)| *name)
                        .collect();
                    assert_eq!(named, touching, "storage {storage}, block {block}");
                    for damaged in &report.damaged {
                        let [BadBlock { storage: s, block: b, bytes, .. }] = &damaged.bad_blocks[..] else {
                            panic!("{damaged:?}")
                        };
                        assert_eq!((*s as usize, *b as usize, bytes), (storage, block, &in_file));
                    }
                }
                for (name, s, place) in &places {
                    let tensor = opened.tensor(name).unwrap();
                    let touches =
                        *s as usize == storage && place.start < in_storage.end && in_storage.start < place.end;
                    match tensor.bytes() {
                        Ok(bytes) => {
                            assert!(!touches, "{name} of block {block}");
                            assert_eq!(bytes, intact.tensor(name).unwrap().bytes().unwrap());
                        }
                        Err(e) => {
                            assert!(touches, "{name}: {e}");
                            assert_eq!(bad_block(&e), (Some("BLK-1"), Some(*name), Some(in_file.start)));
                            assert_eq!(e.kind(), ErrorKind::Corrupt);
                            // The CRC is computed, and told, the first time alone.
                            assert!(e.expected().is_none() || e.expected() != e.found());
                        }
                    }
                    // Asked for explicitly, the bytes are there, damaged or not.
                    assert_eq!(tensor.bytes_unverified().unwrap().len(), place.len());
                }
            }
        }
    }
}

#[test]
fn several_damaged_blocks_are_all_reported_in_the_order_of_the_file() {
    let (mut file, _) = blocks();
    let data = {
        let intact = Checkpoint::from_bytes(&file).unwrap();
        intact.tensor("rows").unwrap().file_offset().unwrap() as usize
    };
    for block in [4, 0, 2] {
        file[data + block * BLOCK + 77] ^= 1;
    }
    for threads in [1, 2, 8] {
        let mut options = one_thread();
        options.threads = threads;
        let report = verify_source(&file.clone().into_reader(), &options).unwrap();
        let offsets: Vec<u64> = report.problems.iter().map(|e| e.offset().unwrap()).collect();
        assert_eq!(offsets, [0, 2, 4].map(|block| (data + block * BLOCK) as u64));
        let [damaged] = &report.damaged[..] else { panic!("{:?}", report.damaged) };
        assert_eq!(damaged.bad_blocks.iter().map(|bad| bad.block).collect::<Vec<_>>(), [0, 2, 4]);
    }
}

#[test]
fn only_the_blocks_that_a_part_touches_are_verified() {
    let (file, _) = blocks();
    let intact = Checkpoint::from_bytes(&file).unwrap();
    let data = intact.tensor("rows").unwrap().file_offset().unwrap() as usize;
    // 16 rows of 256 bytes are a block. All blocks but number 2 are damaged.
    let mut damaged = file.clone();
    for block in [0, 1, 3, 4] {
        damaged[data + block * BLOCK + BLOCK / 2] ^= 1;
    }
    let opened = Checkpoint::from_bytes(&damaged).unwrap();
    let (tensor, right) = (opened.tensor("rows").unwrap(), intact.tensor("rows").unwrap());
    assert_eq!(tensor.rows(32..48).unwrap().bytes().unwrap(), right.rows(32..48).unwrap().bytes().unwrap());
    assert_eq!(tensor.rows(40..41).unwrap().as_slice::<u8>().unwrap(), right.rows(40..41).unwrap().bytes().unwrap());
    let middle = 2 * BLOCK as u64..3 * BLOCK as u64;
    assert_eq!(tensor.bytes_of(middle.clone()).unwrap(), right.bytes_of(middle.clone()).unwrap());
    for (rows, block) in [(31..33, 1), (47..49, 3), (0..1, 0), (79..80, 4), (0..80, 0)] {
        let e = tensor.rows(rows.clone()).unwrap().bytes().unwrap_err();
        assert_eq!(bad_block(&e), (Some("BLK-1"), Some("rows"), Some((data + block * BLOCK) as u64)), "{rows:?}");
    }
    assert!(tensor.bytes_of(middle.start - 1..middle.end).is_err());
    assert!(tensor.bytes_of(middle.start..middle.end + 1).is_err());
    assert_eq!(tensor.bytes_of(middle.end..middle.end).unwrap(), [0u8; 0]);
    // Damage is not forgotten, nor does it spread to what was found right before.
    assert!(tensor.bytes().is_err());
    assert!(tensor.rows(32..48).unwrap().bytes().is_ok());
}

#[cfg(feature = "fs")]
mod files_on_disk {
    use super::*;
    use dolmen::OpenOptions;

    #[test]
    fn opening_a_file_with_any_bit_flipped_fails_or_gives_the_right_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (about, file) = small_files().swap_remove(0);
        let original = contents(&file);
        let path = dir.path().join("damaged.dolmen");
        let mut survived = 0;
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            let check = |opened: &Checkpoint| {
                for (name, bytes) in &original {
                    match opened.tensor(name).unwrap().bytes() {
                        Ok(given) => assert_eq!(given, bytes, "{about}: bit {bit}"),
                        Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
                    }
                }
            };
            // `open` checks all data, so every tensor it gives is right.
            if let Ok(opened) = OpenOptions::new().threads(1).open(&path) {
                survived += 1;
                check(&opened);
                assert!(opened.tensors().all(|t| t.unwrap().bytes().is_ok()));
                assert!(!opened.verify_with(&one_thread()).unwrap().is_valid());
            }
            if let Ok(opened) = Checkpoint::open_on_demand(&path) {
                check(&opened);
            }
        }
        // Descriptors and padding are what a reader that trusts the index never looks at.
        assert!(survived > 0 && survived < file.len() * 8 / 2, "{survived}");
    }

    #[test]
    fn opening_names_the_damaged_tensor_and_the_first_damaged_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.dolmen");
        let (mut file, _) = blocks();
        let data = Checkpoint::from_bytes(&file).unwrap().tensor("whole").unwrap().file_offset().unwrap() as usize;
        file[data + 3 * BLOCK + 5] ^= 2;
        file[data + BLOCK + 300] ^= 2;
        std::fs::write(&path, &file).unwrap();
        for threads in [1, 4] {
            let e = OpenOptions::new().threads(threads).open(&path).unwrap_err();
            // "column" is the first tensor by name that touches the block.
            assert_eq!(bad_block(&e), (Some("BLK-1"), Some("column"), Some((data + BLOCK) as u64)));
            assert_eq!(e.path(), Some(path.as_path()));
        }
    }

    #[test]
    fn reading_on_demand_never_passes_on_damaged_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.dolmen");
        let (mut file, _) = blocks();
        let intact = Checkpoint::from_bytes(&file).unwrap();
        let right = intact.tensor("rows").unwrap().bytes().unwrap().to_vec();
        let data = intact.tensor("rows").unwrap().file_offset().unwrap() as usize;
        file[data + 3 * BLOCK] ^= 1;
        std::fs::write(&path, &file).unwrap();
        let opened = Checkpoint::open_on_demand(&path).unwrap();
        let tensor = opened.tensor("rows").unwrap();
        let mut streamed = Vec::new();
        let e = tensor
            .stream(|bytes| {
                streamed.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap_err();
        assert_eq!(bad_block(&e), (Some("BLK-1"), Some("rows"), Some((data + 3 * BLOCK) as u64)));
        assert!(streamed.len() <= 3 * BLOCK && streamed == right[..streamed.len()]);
        assert!(tensor.read_into(&mut vec![0; right.len()]).is_err());
        assert!(tensor.bytes().is_err());
        assert_eq!(tensor.bytes_of(0..3 * BLOCK as u64).unwrap(), &right[..3 * BLOCK]);
        assert!(opened.tensor("whole").unwrap().bytes().is_ok());
    }

    #[test]
    fn a_storage_read_on_demand_is_read_and_verified_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.dolmen");
        let (file, _) = blocks();
        std::fs::write(&path, &file).unwrap();
        let opened = Checkpoint::open_on_demand(&path).unwrap();
        let rows = opened.tensor("rows").unwrap();
        let before = rows.bytes().unwrap();
        let data = rows.file_offset().unwrap() as usize;
        // From here on the disk gives other bytes for this storage, and for one that was not touched yet.
        let whole = opened.tensor("whole").unwrap().file_offset().unwrap() as usize;
        let mut damaged = file.clone();
        damaged[data + 9] ^= 1;
        damaged[whole + 9] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(rows.bytes().unwrap(), before);
        assert_eq!(rows.bytes().unwrap().as_ptr(), before.as_ptr());
        assert_eq!(before, &file[data..data + before.len()]);
        assert!(opened.tensor("whole").unwrap().bytes().is_err());
        // Strict verification reads the file itself.
        assert_eq!(opened.verify().unwrap().problem_count, 2);
        // A file that became shorter is an error, not a signal.
        std::fs::write(&path, &file[..whole]).unwrap();
        let e = opened.tensor("small").unwrap().bytes().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Io);
    }
}

#[test]
fn all_data_of_a_checkpoint_is_checked_at_once_and_remembered() {
    let elements: Vec<u32> = (0..300_000).collect();
    let mut b = Builder::new();
    b.tensor("first", &elements).unwrap();
    b.tensor("second", &elements).unwrap();
    let mut bytes = b.to_vec().unwrap();
    let place = b.plan().unwrap().place("second").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.dolmen");
    std::fs::write(&path, &bytes).unwrap();
    Checkpoint::from_bytes(&bytes).unwrap().check_data().unwrap();

    // On demand, what was read and checked stays, whatever becomes of the file.
    let on_demand = Checkpoint::open_on_demand(&path).unwrap();
    on_demand.check_data().unwrap();
    std::fs::write(&path, b"gone").unwrap();
    assert_eq!(on_demand.tensor("second").unwrap().as_slice::<u32>().unwrap(), elements);

    bytes[place.start as usize + (1 << 20)] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for damaged in [Checkpoint::from_bytes(&bytes).unwrap(), Checkpoint::open_on_demand(&path).unwrap()] {
        let e = damaged.check_data().unwrap_err();
        assert_eq!((e.kind(), e.rule(), e.tensor()), (ErrorKind::Corrupt, Some("BLK-1"), Some("second")), "{e}");
        assert_eq!(e.offset(), Some(place.start + (1 << 20)));
        assert_eq!(damaged.tensor("first").unwrap().as_slice::<u32>().unwrap(), elements);
    }
}
