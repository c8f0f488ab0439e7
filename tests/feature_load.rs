//! Whole checkpoints on a device: the same bytes, once, verified, whatever the file and the device.
#![cfg(all(feature = "feature", feature = "torch", feature = "safetensors", unix))]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::Random;
use common::feature::{Call, Trial, Wrong, flip, in_time, place, quickly};
use dolmen::feature::{Device, Host, LoadOptions, Loaded, load_to_device};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, FileOptions, OpenOptions, TensorData, View};

fn one_thread() -> LoadOptions {
    LoadOptions::new().threads(1)
}

/// Asserts that all tensors of a checkpoint are on the device: as they are, and sharing what they share.
fn assert_loaded<D: Device>(loaded: &Loaded<D>, checkpoint: &Checkpoint, about: &str) {
    assert_eq!(loaded.len(), checkpoint.len(), "{about}");
    assert_eq!(loaded.is_empty(), checkpoint.is_empty(), "{about}");
    let mut storages = BTreeMap::new();
    for (tensor, ours) in checkpoint.tensors().zip(loaded.tensors()) {
        let tensor = tensor.unwrap();
        let about = format!("{about}: {tensor:?}");
        let named = loaded.tensor(tensor.name()).unwrap();
        assert_eq!((ours.name(), named.bytes_in_memory()), (tensor.name(), ours.bytes_in_memory()), "{about}");
        assert_eq!((ours.dtype(), ours.shape()), (tensor.dtype(), tensor.shape()), "{about}");
        assert_eq!(ours.strides(), &*tensor.strides(), "{about}");
        assert_eq!(ours.explicit_strides(), tensor.explicit_strides(), "{about}");
        let bytes = ours.bytes_in_memory();
        assert!(bytes.end <= loaded.byte_len().max(1), "{about}");
        assert!(ours.read_back().unwrap() == tensor.bytes().unwrap(), "{about}");
        // Each storage is there once.
        let start = bytes.start - tensor.start() as usize;
        assert!(start.is_multiple_of(256), "{about}");
        assert_eq!(*storages.entry(tensor.storage()).or_insert(start), start, "{about}: it is there twice");
    }
    let mut starts: Vec<usize> = storages.values().copied().collect();
    starts.sort_unstable();
    let touched = starts.len();
    starts.dedup();
    // Storages without bytes may begin where another does.
    let empty = checkpoint.tensors().flatten().filter(|tensor| tensor.storage_len().unwrap() == 0).count();
    assert!(starts.len() + empty >= touched, "{about}: two storages are in one place");
    let e = loaded.tensor("no such tensor").unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::NotFound, Some("no such tensor")));
}

/// Loads a checkpoint to the host, and through buffers of different lengths.
fn check(checkpoint: &Checkpoint, about: &str) {
    for threads in [1, 3] {
        let options = LoadOptions::new().threads(threads);
        assert_loaded(&load_to_device(checkpoint, Host, &options).unwrap(), checkpoint, about);
        for part_len in [100, 4096, 5000, 1 << 16] {
            let device =
                Arc::new(Trial { delay: if threads == 3 && part_len >= 4096 { 3 } else { 0 }, ..Trial::new(part_len) });
            let seen = Arc::clone(&device.seen);
            for options in [options, options.unverified()] {
                let loaded: Loaded<Trial> = load_to_device(checkpoint, Arc::clone(&device), &options).unwrap();
                assert_loaded(&loaded, checkpoint, &format!("{about}, {part_len}, {threads}"));
                assert_eq!(seen.lanes.now(), 0);
                assert_eq!(seen.memory.now(), 1, "one allocation");
            }
            assert_eq!(seen.lanes.most(), threads as usize);
            assert!(!seen.misused.load(Ordering::SeqCst), "{about}");
        }
    }
}

/// Every way of opening a file.
fn opened(path: &Path) -> Vec<(&'static str, Checkpoint)> {
    let bytes = std::fs::read(path).unwrap();
    vec![
        ("on demand", Checkpoint::open_on_demand(path).unwrap()),
        ("direct", OpenOptions::new().direct(true).open_on_demand(path).unwrap()),
        // SAFETY: nobody changes the file while it is mapped.
        ("mapped", unsafe { Checkpoint::map(path).unwrap() }),
        ("bytes", Checkpoint::from_bytes(&bytes).unwrap()),
    ]
}

/// Storages of all lengths, and views of them.
fn random_file(random: &mut Random) -> Vec<u8> {
    let options = FileOptions::new().alignment(64).unwrap().block_len([4096, 1 << 20][random.below(2)]).unwrap();
    let mut b = Builder::with_options(options);
    for n in 0..random.below(12) {
        let len = [0, 1, 255, 256, 257, 4096, 5000, 70_000][random.below(8)];
        let dtype = [DType::U8, DType::F32, DType::F64, DType::Bool][random.below(4)];
        let elements = len / common::feature::size_of_dtype(dtype);
        let mut bytes = random.bytes(elements * common::feature::size_of_dtype(dtype));
        if dtype == DType::Bool {
            bytes.iter_mut().for_each(|byte| *byte &= 1);
        }
        let name = format!("t{n}");
        b.tensor(&name, TensorData::raw(dtype, [elements], bytes).unwrap()).unwrap();
        if random.below(3) == 0 {
            b.alias(&format!("a{n}"), &name).unwrap();
        }
        if elements >= 12 && random.below(2) == 0 {
            let storage = b.storage_of(&name).unwrap();
            let size = common::feature::size_of_dtype(dtype) as u64;
            let view = View::new(dtype, [3, 2]).unwrap().strides([1, 4]).unwrap().start(2 * size);
            b.view(&format!("v{n}"), storage, view).unwrap();
        }
    }
    if random.below(2) == 0 {
        b.tensor("scalar", TensorData::raw(DType::F64, [0u64; 0], 1.5f64.to_le_bytes().to_vec()).unwrap()).unwrap();
    }
    b.to_vec().unwrap()
}

#[test]
fn tensors_of_any_file_are_on_the_device_as_they_are_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.dolmen");
    for (about, bytes) in common::small_files() {
        std::fs::write(&path, bytes).unwrap();
        for (way, checkpoint) in opened(&path) {
            check(&checkpoint, &format!("{about}, {way}"));
        }
    }
    for seed in 0..10 {
        std::fs::write(&path, random_file(&mut Random::new(seed))).unwrap();
        for (way, checkpoint) in opened(&path) {
            check(&checkpoint, &format!("seed {seed}, {way}"));
        }
    }
}

#[test]
fn tied_and_strided_tensors_are_there_once() {
    let mut b = Builder::new();
    b.tensor("weight", (&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3])).unwrap();
    b.alias("tied", "weight").unwrap();
    let storage = b.storage_of("weight").unwrap();
    b.view("transposed", storage, View::new(DType::F32, [3, 2]).unwrap().strides([1, 3]).unwrap()).unwrap();
    b.view("row", storage, View::new(DType::F32, [3]).unwrap().start(12)).unwrap();
    b.tensor("bool", &[true, false]).unwrap();
    let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    let loaded = load_to_device(&checkpoint, Host, &one_thread()).unwrap();
    assert_eq!(loaded.byte_len(), 256 + 24);
    let tensor = |name| loaded.tensor(name).unwrap();
    assert_eq!(tensor("weight").as_bytes().as_ptr(), tensor("tied").as_bytes().as_ptr());
    assert_eq!(tensor("row").as_slice::<f32>().unwrap(), [4.0, 5.0, 6.0]);
    assert_eq!(tensor("bool").as_slice::<bool>().unwrap(), [true, false]);
    assert_eq!((tensor("transposed").strides(), tensor("transposed").shape()), (vec![1, 3], &[3, 2][..]));
    let e = tensor("transposed").as_slice::<f32>().unwrap_err().to_string();
    assert_eq!(e, "tensor \"transposed\": its strides are not contiguous");
    let e = tensor("row").as_slice::<f64>().unwrap_err().to_string();
    assert_eq!(e, "tensor \"row\": it is of dtype f32, not f64");
    assert_eq!(tensor("weight").as_bytes().as_ptr().addr() % 256, 0);
}

#[test]
fn checkpoints_of_others_are_loaded_as_they_are() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data");
    let mut files = 0;
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        let is_checkpoint = path.extension().is_some_and(|extension| extension == "pt" || extension == "pth");
        if !is_checkpoint || Checkpoint::open(&path).is_err() {
            continue;
        }
        files += 1;
        for (way, checkpoint) in opened(&path) {
            let about = format!("{}, {way}", path.display());
            let loaded = load_to_device(&checkpoint, Host, &LoadOptions::new().threads(2)).unwrap();
            assert_loaded(&loaded, &checkpoint, &about);
            let fresh = Checkpoint::open_on_demand(&path).unwrap();
            let loaded = load_to_device(&fresh, Trial::new(16), &one_thread()).unwrap();
            assert_loaded(&loaded, &checkpoint, &about);
        }
    }
    assert!(files > 30, "{files}");
    for name in ["deflated.pt", "tied.pt", "views.pt", "storages.pt"] {
        check(&Checkpoint::open_on_demand(data.join(name)).unwrap(), name);
    }
    // One of safetensors, which has no checksums.
    let mut bytes = Vec::new();
    let notes = dolmen::foreign::safetensors::write(&Checkpoint::open(data.join("views.pt")).unwrap(), &mut bytes);
    drop(notes.unwrap());
    check(&Checkpoint::from_bytes(&bytes).unwrap(), "safetensors");
}

/// A file of three tensors, of which the second is long: of PyTorch, where a storage is one block, or Dolmen, with such blocks.
fn long(dir: &Path, block_len: Option<u64>) -> PathBuf {
    let options = FileOptions::new().block_len(block_len.unwrap_or(4096)).unwrap();
    let mut b = Builder::with_options(options);
    let long: Vec<u8> = Random::new(5).bytes(300_001);
    b.tensor("first", &[1f32, 2.0]).unwrap();
    b.tensor("long", &long).unwrap();
    b.tensor("more", &[3u8; 5000]).unwrap();
    let path = dir.join(if block_len.is_some() { "f.dolmen" } else { "f.pt" });
    if block_len.is_some() {
        b.save_with(&path, &quickly()).unwrap();
    } else {
        let (mut bytes, made) = (Vec::new(), Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap());
        let _ = dolmen::foreign::torch::write(&made, &mut bytes, dolmen::foreign::torch::ExportOptions::new()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    path
}

#[test]
fn damage_anywhere_is_found_and_its_tensor_named_however_a_storage_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    for block_len in [None, Some(4096), Some(1 << 20)] {
        let path = long(dir.path(), block_len);
        let place = place(&path, "long");
        for part_len in [3000, 64 << 10, 1 << 20] {
            for threads in [1, 3] {
                let options = LoadOptions::new().threads(threads);
                let device = || Trial { delay: 2, ..Trial::new(part_len) };
                for at in [0, 1, 65_535, 65_536, 200_000, 300_000] {
                    let about = format!("{block_len:?} {part_len} {threads} {at}");
                    for (way, checkpoint) in opened(&path).into_iter().take(2) {
                        assert_loaded(&load_to_device(&checkpoint, device(), &options).unwrap(), &checkpoint, way);
                    }
                    flip(&path, place.start + at);
                    for (way, checkpoint) in opened(&path) {
                        // The second time it is remembered.
                        for _ in 0..2 {
                            let trial = device();
                            let seen = Arc::clone(&trial.seen);
                            let e = load_to_device(&checkpoint, trial, &options).unwrap_err();
                            assert_eq!(
                                (e.kind(), e.tensor()),
                                (ErrorKind::Corrupt, Some("long")),
                                "{about} {way}: {e}"
                            );
                            assert_eq!(e.path(), (way != "bytes").then_some(path.as_path()), "{about} {way}");
                            assert!(e.to_string().contains("damaged"), "{e}");
                            assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0));
                        }
                        assert!(checkpoint.tensor("long").unwrap().bytes().is_err(), "{about} {way}");
                        assert_eq!(checkpoint.tensor("more").unwrap().bytes().unwrap(), [3; 5000]);
                        let loaded = load_to_device(&checkpoint, device(), &options.unverified()).unwrap();
                        let found = loaded.tensor("long").unwrap().read_back().unwrap();
                        assert!(
                            found == checkpoint.tensor("long").unwrap().bytes_unverified().unwrap(),
                            "{about} {way}"
                        );
                    }
                    flip(&path, place.start + at);
                }
            }
        }
    }
}

#[test]
fn what_was_verified_is_not_verified_again() {
    let dir = tempfile::tempdir().unwrap();
    for block_len in [None, Some(4096), Some(1 << 20)] {
        let path = long(dir.path(), block_len);
        let checkpoint = Checkpoint::open_on_demand(&path).unwrap();
        load_to_device(&checkpoint, Trial::new(64 << 10), &one_thread()).unwrap();
        let at = place(&path, "long").start + 77_777;
        flip(&path, at);
        let loaded = load_to_device(&checkpoint, Trial::new(64 << 10), &one_thread()).unwrap();
        let found = loaded.tensor("long").unwrap().read_back().unwrap();
        let expected: Vec<u8> = Random::new(5).bytes(300_001);
        assert!(found != expected && found[77_777] == !expected[77_777] && found[..77_777] == expected[..77_777]);
        flip(&path, at);
    }
}

#[test]
fn damage_in_what_is_compressed_is_found() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data/deflated.pt");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.pt");
    let whole = std::fs::read(&data).unwrap();
    let before: Vec<(String, Vec<u8>)> = Checkpoint::open(&data)
        .unwrap()
        .tensors()
        .map(|tensor| (tensor.as_ref().unwrap().name().to_owned(), tensor.unwrap().bytes().unwrap().to_vec()))
        .collect();
    let mut failed = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).unwrap();
        let Ok(checkpoint) = Checkpoint::open_on_demand(&path) else { continue };
        match load_to_device(&checkpoint, Trial::new(32), &one_thread()) {
            Ok(loaded) => {
                for (name, bytes) in &before {
                    if let Ok(tensor) = loaded.tensor(name) {
                        assert!(tensor.read_back().unwrap() == *bytes, "byte {at}, {name}");
                    }
                }
            }
            Err(e) => {
                failed += 1;
                assert!(e.is_corruption() || e.is_incompatible(), "byte {at}: {e}");
                assert!(e.tensor().is_some() && e.path().is_some(), "byte {at}: {e}");
            }
        }
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_of_reading() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for block_len in [None, Some(4096), Some(1 << 20)] {
        for direct in [false, true] {
            let path = long(dir.path(), block_len);
            let at = place(&path, "long").start + 200_000;
            let checkpoint = OpenOptions::new().direct(direct).open_on_demand(&path).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(at as u64).unwrap();
            let e =
                in_time(move || load_to_device(&checkpoint, Trial::new(64 << 10), &LoadOptions::new()).unwrap_err());
            assert_eq!((e.kind(), e.path()), (ErrorKind::Io, Some(path.as_path())), "{e}");
            assert!(matches!(e.tensor(), Some("long" | "more")), "{e}");
            assert!(e.to_string().contains("the file became shorter while it was read"), "{e}");
        }
    }
}

#[test]
fn a_device_that_fails_or_panics_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = long(dir.path(), Some(4096));
    for call in [Call::Allocate, Call::Lane, Call::Parts, Call::Fill, Call::Finish, Call::Acquire] {
        for wrong in [Wrong::Fails, Wrong::Panics] {
            for at in [0, 1, 4] {
                for threads in [1, 3] {
                    let trial = Trial { delay: 5, wrong: Some((call, at, wrong)), ..Trial::new(64 << 10) };
                    let seen = Arc::clone(&trial.seen);
                    let path = path.clone();
                    let result = in_time(move || {
                        std::panic::catch_unwind(move || {
                            let checkpoint = Checkpoint::open_on_demand(path).unwrap();
                            let loaded = load_to_device(&checkpoint, trial, &LoadOptions::new().threads(threads));
                            loaded.map(|loaded| assert_loaded(&loaded, &checkpoint, "it went well"))
                        })
                    });
                    let about = format!("{call:?} {wrong:?} {at} {threads}");
                    let happened = seen.count(call) > at;
                    match result {
                        Ok(Ok(())) => assert!(!happened, "{about}"),
                        Ok(Err(e)) => {
                            assert!(happened && wrong == Wrong::Fails && e.kind() == ErrorKind::Device, "{about}: {e}");
                        }
                        Err(_) => assert!(happened && wrong == Wrong::Panics, "{about}"),
                    }
                    assert_eq!((seen.memory.now(), seen.lanes.now()), (0, 0), "{about}");
                }
            }
        }
    }
    let checkpoint = Checkpoint::open_on_demand(&path).unwrap();
    let e = in_time(move || load_to_device(&checkpoint, Trial::new(0), &one_thread()).unwrap_err()).to_string();
    assert!(e.ends_with("the device's buffers hold 0 bytes; give the device longer buffers"), "{e}");
}
