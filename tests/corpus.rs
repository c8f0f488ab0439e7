//! Replays seeds, vectors and former finds through the checks of the fuzz targets, on any toolchain. See `fuzz/README.md`.

#[allow(dead_code, reason = "the fuzz targets use the rest")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

mod common;

#[path = "../fuzz/differential.rs"]
mod differential;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fuzz::{Outcome, seal};

type Check = fn(&[u8]) -> Outcome;

/// Each target, its check, and the folders of inputs besides its own.
const TARGETS: &[(&str, Check, &[&str])] = &[
    ("open_bytes", fuzz::open_bytes, &["spec/vectors/accept", "spec/vectors/reject"]),
    ("open_resealed", fuzz::open_resealed, &["spec/vectors/accept", "spec/vectors/reject"]),
    ("write_model", fuzz::write_model, &[]),
    ("values", fuzz::values, &[]),
    ("salvage", fuzz::salvage, &[]),
    ("safetensors", fuzz::safetensors, &[]),
    #[cfg(all(feature = "npy", feature = "torch"))]
    ("npy", fuzz::npy, &["tests/guests_data"]),
    #[cfg(feature = "torch")]
    ("torch_zip", fuzz::torch_zip, &["tests/torch_data"]),
    #[cfg(feature = "torch")]
    ("torch_pickle", fuzz::torch_pickle, &[]),
    #[cfg(feature = "lifecycle")]
    ("pipeline_state", fuzz::pipeline_state, &[]),
    #[cfg(feature = "lifecycle")]
    ("failed_log", fuzz::failed_log, &[]),
    #[cfg(all(feature = "feature", feature = "torch"))]
    ("feature_table", fuzz::feature_table, &["tests/torch_data", "fuzz/seeds/torch_zip"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// The inputs of a folder, without those that campaigns found: most of these are broken in a way of their own.
fn made_seeds(folder: &str) -> Vec<Vec<u8>> {
    let is_made = |path: &PathBuf| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("reaches-"));
    files(&root().join(folder)).into_iter().filter(is_made).map(|path| std::fs::read(path).unwrap()).collect()
}

fn replay(target: &str) -> BTreeMap<Outcome, usize> {
    let (_, check, others) = TARGETS.iter().find(|(name, ..)| *name == target).unwrap();
    let own = [format!("fuzz/seeds/{target}"), format!("fuzz/regressions/{target}")];
    let mut outcomes = BTreeMap::new();
    for folder in own.iter().map(String::as_str).chain(others.iter().copied()) {
        for path in files(&root().join(folder)) {
            println!("{}", path.display());
            let outcome = check(&std::fs::read(&path).unwrap());
            *outcomes.entry(outcome).or_default() += 1;
            if folder.starts_with("spec/vectors") {
                assert_eq!(outcome == Outcome::Valid, folder.ends_with("accept"), "{}", path.display());
            }
        }
    }
    println!("{outcomes:?}");
    outcomes
}

#[test]
fn inputs_of_open_bytes_pass() {
    replay("open_bytes");
}

#[test]
fn inputs_of_open_resealed_pass() {
    replay("open_resealed");
}

#[test]
fn inputs_of_write_model_pass() {
    replay("write_model");
}

#[test]
fn inputs_of_values_pass() {
    replay("values");
}

#[test]
fn inputs_of_salvage_pass() {
    let outcomes = replay("salvage");
    let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
    assert!(
        of(Outcome::Valid) >= 1 && of(Outcome::Opened("index")) >= 10 && of(Outcome::Opened("records")) >= 5,
        "{outcomes:?}"
    );
}

#[test]
fn inputs_of_safetensors_pass() {
    replay("safetensors");
}

#[cfg(all(feature = "npy", feature = "torch"))]
#[test]
fn inputs_of_npy_pass() {
    let outcomes = replay("npy");
    assert!(outcomes.get(&Outcome::Valid).is_some_and(|&count| count >= 20), "{outcomes:?}");
}

#[cfg(feature = "torch")]
#[test]
fn inputs_of_torch_zip_pass() {
    let outcomes = replay("torch_zip");
    assert!(outcomes.get(&Outcome::Valid).is_some_and(|&count| count >= 10), "{outcomes:?}");
}

#[cfg(feature = "torch")]
#[test]
fn inputs_of_torch_pickle_pass() {
    let outcomes = replay("torch_pickle");
    assert!(outcomes.get(&Outcome::Valid).is_some_and(|&count| count >= 10), "{outcomes:?}");
}

#[cfg(all(feature = "feature", feature = "torch"))]
#[test]
fn inputs_of_feature_table_pass() {
    let outcomes = replay("feature_table");
    assert!(outcomes[&Outcome::Valid] >= 6, "tables are found in files of the pipeline: {outcomes:?}");
}

#[cfg(feature = "lifecycle")]
#[test]
fn inputs_of_pipeline_state_pass() {
    let outcomes = replay("pipeline_state");
    assert!(outcomes.get(&Outcome::Valid).is_some_and(|&count| count >= 2), "{outcomes:?}");
}

#[cfg(feature = "lifecycle")]
#[test]
fn inputs_of_failed_log_pass() {
    let outcomes = replay("failed_log");
    assert!(outcomes.get(&Outcome::Valid).is_some_and(|&count| count >= 1), "{outcomes:?}");
}

#[cfg(feature = "torch")]
#[test]
fn mutations_of_archives_get_past_the_checksums() {
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    let mut random = fuzz::dice::Random(1);
    let mut change = |bytes: &mut [u8], size: usize, _: usize| {
        if size > 0 {
            bytes[random.below(size)] = random.u64() as u8;
        }
        size
    };
    let seeds = made_seeds("fuzz/seeds/torch_zip");
    let mut buffer = vec![0; 16384];
    for round in 0..4000u32 {
        let seed = &seeds[round as usize % seeds.len()];
        buffer[..seed.len()].copy_from_slice(seed);
        let len = fuzz::torch::mutate(&mut buffer, seed.len(), 16384, round, &mut change);
        *outcomes.entry(fuzz::torch_zip(&buffer[..len])).or_default() += 1;
    }
    println!("{outcomes:?}");
    let valid = outcomes.get(&Outcome::Valid).copied().unwrap_or(0);
    assert!((1000..3900).contains(&valid), "{valid} of 4000 mutations are valid files");
}

type Mutator = fn(&mut [u8], usize, usize, u32, &mut seal::Mutate<'_>) -> usize;

/// Targets, their mutators, and how many of a hundred mutations must be valid at least.
const MUTATORS: &[(&str, Mutator, usize)] = &[
    ("open_resealed", seal::mutate, 5),
    ("values", fuzz::values::mutate, 5),
    ("salvage", fuzz::salvage::mutate, 1),
    ("safetensors", fuzz::guest::mutate, 5),
    #[cfg(all(feature = "npy", feature = "torch"))]
    ("npy", fuzz::npy::mutate, 5),
    #[cfg(feature = "torch")]
    ("torch_zip", fuzz::torch::mutate, 5),
    #[cfg(feature = "torch")]
    ("torch_pickle", fuzz::torch::mutate_pickle, 5),
    #[cfg(feature = "lifecycle")]
    ("pipeline_state", fuzz::lifecycle::mutate_state, 5),
    #[cfg(feature = "lifecycle")]
    ("failed_log", fuzz::lifecycle::mutate_log, 5),
    #[cfg(all(feature = "feature", feature = "torch"))]
    ("feature_table", fuzz::table::mutate, 1),
];

/// Each mutator makes inputs that get far, and such as do not; and every target holds against them. DOLMEN_RANDOM says how many.
#[test]
fn mutators_make_what_is_valid_and_what_is_not() {
    let count = std::env::var("DOLMEN_RANDOM").map_or(300, |count| count.parse().expect("a number"));
    let only = std::env::var("DOLMEN_TARGET").ok();
    for (target, mutate, least) in MUTATORS {
        if only.as_ref().is_some_and(|only| only != target) {
            continue;
        }
        let (_, check, others) = TARGETS.iter().find(|(name, ..)| name == target).unwrap();
        let own = format!("fuzz/seeds/{target}");
        let folders = std::iter::once(own.as_str()).chain(others.iter().copied());
        let seeds: Vec<Vec<u8>> = folders.flat_map(made_seeds).filter(|seed| seed.len() <= 8192).collect();
        let mut random = fuzz::dice::Random(5);
        let mut buffer = vec![0; 16384];
        let (mut outcomes, mut changed) = (BTreeMap::<Outcome, usize>::new(), 0);
        for _ in 0..count {
            let seed = &seeds[random.below(seeds.len())];
            buffer[..seed.len()].copy_from_slice(seed);
            let number = random.u64() as u32;
            let mut change = |bytes: &mut [u8], size: usize, most: usize| {
                let size = if size < most && random.one_in(4) { size + 1 } else { size };
                if size > 0 {
                    bytes[random.below(size)] = random.u64() as u8;
                }
                size
            };
            let len = mutate(&mut buffer, seed.len(), 16384, number, &mut change);
            changed += usize::from(buffer[..len] != **seed);
            let input = buffer[..len].to_vec();
            let outcome = std::panic::catch_unwind(|| check(&input)).unwrap_or_else(|panic| {
                let kept = std::env::temp_dir().join(format!("dolmen-{target}-{:08x}", crc32fast::hash(&input)));
                std::fs::write(&kept, &input).unwrap();
                eprintln!("the input is {}", kept.display());
                std::panic::resume_unwind(panic)
            });
            *outcomes.entry(outcome).or_default() += 1;
        }
        let valid = outcomes.get(&Outcome::Valid).copied().unwrap_or(0);
        println!("{target}: {changed} of {count} changed: {outcomes:?}");
        assert!(changed * 2 > count, "{target}: the mutator changed {changed} of {count} inputs");
        assert!(valid * 100 >= least * count && valid < count, "{target}: {valid} of {count} are valid: {outcomes:?}");
    }
}

#[test]
fn operations_at_random_agree_with_the_model() {
    let count = std::env::var("DOLMEN_RANDOM").map_or(1500, |count| count.parse().expect("a number"));
    let mut random = fuzz::dice::Random(3);
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for _ in 0..count {
        let len = 4 + random.below(200);
        let input: Vec<u8> = (0..len).map(|_| random.u64() as u8).collect();
        *outcomes.entry(fuzz::write_model(&input)).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert!(outcomes.len() == 3, "of some kind there is none: {outcomes:?}");
}

#[test]
fn every_valid_vector_is_laid_out_again_byte_for_byte() {
    let mut same = 0;
    for path in files(&root().join("spec/vectors/accept")) {
        let bytes = std::fs::read(&path).unwrap();
        let image = seal::decode(&bytes).unwrap();
        assert_eq!(seal::encode(&image, usize::MAX).unwrap(), bytes, "{}", path.display());
        let mut resealed = bytes.clone();
        seal::reseal(&mut resealed, 0);
        assert_eq!(resealed, bytes, "{}", path.display());
        same += 1;
    }
    assert!(same > 40);
}

#[test]
fn mutations_get_past_the_checksums() {
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    let seeds: Vec<_> = files(&root().join("spec/vectors/accept"))
        .into_iter()
        .map(|path| std::fs::read(path).unwrap())
        .filter(|bytes| bytes.len() < 4096)
        .collect();
    // In the place of libFuzzer's own mutations: one byte is changed.
    let mut random = fuzz::dice::Random(1);
    let mut change = |bytes: &mut [u8], size: usize, _: usize| {
        if size > 0 {
            bytes[random.below(size)] = random.u64() as u8;
        }
        size
    };
    let mut buffer = vec![0; 16384];
    for round in 0..4000u32 {
        let seed = &seeds[round as usize % seeds.len()];
        buffer[..seed.len()].copy_from_slice(seed);
        let len = seal::mutate(&mut buffer, seed.len(), 16384, round, &mut change);
        let len = if round % 2 == 0 { len } else { seal::mutate(&mut buffer, len, 16384, round + 4000, &mut change) };
        *outcomes.entry(fuzz::open_bytes(&buffer[..len])).or_default() += 1;
    }
    println!("{outcomes:?}");
    let valid = outcomes.get(&Outcome::Valid).copied().unwrap_or(0);
    assert!(valid > 400, "only {valid} of 4000 mutations are valid files");
    let rules = outcomes.keys().filter(|outcome| matches!(outcome, Outcome::Opened(_) | Outcome::Refused(_))).count();
    assert!(rules > 30, "only {rules} rules are broken by 4000 mutations");
}

/// A file of n bytes can have n/88 tensors that all view n/8200 damaged blocks: a report must not list each block for each tensor.
#[test]
fn a_report_does_not_grow_with_tensors_times_damaged_blocks() {
    let (tensors, blocks) = (4096u32, 512usize);
    let tensor = |number: u32| seal::Tensor {
        name: number.to_be_bytes().iter().map(|byte| byte & 0x7F).chain(number.to_string().bytes()).collect(),
        dtype: 0x10,
        bits: 8,
        shape: vec![blocks as u64 * 4096],
        ..seal::Tensor::default()
    };
    let image = seal::Image {
        alignment_log2: 6,
        block_log2: 12,
        storages: vec![vec![0; blocks * 4096]],
        tensors: (0..tensors).map(tensor).collect(),
        ..seal::Image::default()
    };
    let mut bytes = seal::encode(&image, usize::MAX).unwrap();
    for block in 0..blocks {
        bytes[256 + block * 4096] ^= 1;
    }
    let checkpoint = dolmen::Checkpoint::from_bytes(&bytes).unwrap();
    let mut options = dolmen::VerifyOptions::default();
    options.threads = 1;
    let (report, peak) = fuzz::heap::peak(|| checkpoint.verify_with(&options).unwrap());
    assert_eq!(report.problem_count, blocks as u64);
    assert_eq!(report.damaged.len(), tensors as usize);
    assert_eq!(report.damaged[0].bad_blocks.len(), blocks);
    assert!(report.damaged.iter().all(|tensor| !tensor.bad_blocks.is_empty()));
    assert!(peak < bytes.len() as u64, "{peak} bytes for a report on a file of {}", bytes.len());
}

#[test]
fn a_section_given_twice_stays_as_it_was() {
    let mut builder = dolmen::Builder::new();
    builder.section(0x8000_0000, b"first".to_vec()).unwrap();
    builder.section(0x8000_0000, b"second".to_vec()).unwrap_err();
    let bytes = builder.to_vec().unwrap();
    let checkpoint = dolmen::Checkpoint::from_bytes(&bytes).unwrap();
    assert!(checkpoint.unknown_sections().eq([(0x8000_0000, &b"first"[..])]));
}

#[test]
fn a_section_of_kind_0_is_carried_along() {
    let bytes = std::fs::read(root().join("spec/vectors/accept/section-unknown.dolmen")).unwrap();
    let checkpoint = dolmen::Checkpoint::from_bytes(&bytes).unwrap();
    let mut builder = dolmen::Builder::new();
    builder.checkpoint(&checkpoint).unwrap();
    let copy = builder.to_vec().unwrap();
    let copy = dolmen::Checkpoint::from_bytes(&copy).unwrap();
    assert!(copy.verify().unwrap().is_valid());
    assert_eq!(copy.unknown_sections().next(), Some((0, &b"zero"[..])));
    assert!(copy.unknown_sections().eq(checkpoint.unknown_sections()));
}

/// Counts what becomes of the files of a folder: `DOLMEN_CORPUS=fuzz/corpus/open_resealed DOLMEN_TARGET=open_resealed`.
#[test]
#[ignore = "for people"]
fn count_outcomes() {
    let folder = std::env::var("DOLMEN_CORPUS").expect("DOLMEN_CORPUS is set");
    let target = std::env::var("DOLMEN_TARGET").expect("DOLMEN_TARGET is set");
    let (_, check, _) = TARGETS.iter().find(|(name, ..)| *name == target).expect("a target");
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for path in files(&root().join(folder)) {
        let outcome = check(&std::fs::read(&path).unwrap());
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes.iter().for_each(|(outcome, count)| println!("{count:8} {outcome:?}"));
}

/// Chooses from the corpora of a campaign (`DOLMEN_CORPORA=fuzz/corpus`) the inputs that reach code which no seed and no smaller input
/// reaches, and puts them among the seeds; then looks for more by so many mutations of each target's seeds (`DOLMEN_SEARCH=10000`). It asks the counters of this very process: built with
/// `RUSTFLAGS="-C instrument-coverage --cfg dolmen_coverage"`, run with --test-threads=1.
#[cfg(dolmen_coverage)]
#[test]
#[ignore = "writes to fuzz/seeds"]
fn choose_inputs() {
    unsafe extern "C" {
        fn __llvm_profile_begin_counters() -> *const u64;
        fn __llvm_profile_end_counters() -> *const u64;
    }
    let reached = || {
        // SAFETY: both are of the profiler's runtime, and give the ends of one array that lives as long as the program. No other thread runs.
        let counters = unsafe {
            let (begin, end) = (__llvm_profile_begin_counters(), __llvm_profile_end_counters());
            std::slice::from_raw_parts(begin, end.offset_from(begin) as usize)
        };
        counters.iter().filter(|&&count| count != 0).count()
    };
    let number = |name: &str, default: usize| std::env::var(name).map_or(default, |n| n.parse().expect("a number"));
    let (longest, searches) = (number("DOLMEN_LONGEST", 4096), number("DOLMEN_SEARCH", 0));
    let only = std::env::var("DOLMEN_TARGET").ok();
    for (target, ..) in TARGETS {
        replay(target);
    }
    let mut known = reached();
    let mut random = fuzz::dice::Random(std::process::id().into());
    for (target, check, others) in TARGETS {
        if only.as_ref().is_some_and(|only| only != target) {
            continue;
        }
        let seeds = root().join("fuzz/seeds").join(target);
        std::fs::create_dir_all(&seeds).unwrap();
        let (mut kept, mut bytes) = (0, 0);
        let mut is_new = |input: &[u8]| {
            if std::panic::catch_unwind(|| check(input)).is_err() {
                let path = std::env::temp_dir().join(format!("dolmen-{target}-{:08x}", crc32fast::hash(input)));
                std::fs::write(&path, input).unwrap();
                eprintln!("{target}: an input panics: {}", path.display());
                known = reached();
                return false;
            }
            let before = std::mem::replace(&mut known, reached());
            let is_new = known > before && input.len() <= longest;
            if is_new {
                std::fs::write(seeds.join(format!("reaches-{:08x}", crc32fast::hash(input))), input).unwrap();
                (kept, bytes) = (kept + 1, bytes + input.len());
            }
            is_new
        };
        if let Some(corpora) = std::env::var_os("DOLMEN_CORPORA") {
            let inputs = files(&root().join(corpora).join(target));
            let mut inputs: Vec<_> = inputs.into_iter().map(|path| std::fs::read(path).unwrap()).collect();
            inputs.retain(|input| input.len() <= longest);
            inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
            for input in &inputs {
                is_new(input);
            }
        }
        if let Some((_, mutate, _)) = MUTATORS.iter().find(|(name, ..)| name == target) {
            let mut pool: Vec<Vec<u8>> = files(&seeds).into_iter().map(|path| std::fs::read(path).unwrap()).collect();
            pool.extend(others.iter().flat_map(|folder| made_seeds(folder)).filter(|input| input.len() <= longest));
            let mut buffer = vec![0; 16384];
            for _ in 0..searches {
                let from = &pool[random.below(pool.len())];
                let mut len = from.len().min(buffer.len());
                buffer[..len].copy_from_slice(&from[..len]);
                for _ in 0..1 + random.below(3) {
                    let seed = random.u64() as u32;
                    let mut change = |bytes: &mut [u8], size: usize, most: usize| {
                        let size = if size < most && random.one_in(4) { size + 1 } else { size };
                        if size > 0 {
                            bytes[random.below(size)] = random.u64() as u8;
                        }
                        size
                    };
                    len = mutate(&mut buffer, len, 16384, seed, &mut change);
                }
                if is_new(&buffer[..len]) {
                    pool.push(buffer[..len].to_vec());
                }
            }
        }
        println!("{target}: {kept} inputs, {bytes} bytes");
    }
}

/// One input of a target: `DOLMEN_TARGET=salvage DOLMEN_INPUT=FILE`.
#[test]
#[ignore = "for people"]
fn one_input() {
    let target = std::env::var("DOLMEN_TARGET").expect("DOLMEN_TARGET is set");
    let input = std::fs::read(std::env::var_os("DOLMEN_INPUT").expect("DOLMEN_INPUT is set")).unwrap();
    let (_, check, _) = TARGETS.iter().find(|(name, ..)| *name == target).expect("a target");
    println!("{:?}", check(&input));
}

/// Makes the seeds of `fuzz/seeds` anew.
#[test]
#[ignore = "writes to fuzz/seeds"]
fn make_seeds() {
    let seeds = root().join("fuzz/seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = seeds.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    // The values of the vectors: the section alone, after a byte that says which.
    for folder in ["accept", "reject"] {
        for path in files(&root().join("spec/vectors").join(folder)) {
            let bytes = std::fs::read(&path).unwrap();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let places = seal::places(&bytes);
            for (kind, which) in [(6, 1u8), (7, 0)] {
                let section = &bytes[places.section(kind)];
                if !section.is_empty() && (folder == "accept" || stem.starts_with("val-") && section.len() < 200) {
                    write("values", &format!("{stem}-{kind}"), &[&[which], section].concat());
                }
            }
        }
    }
    // Operations: any bytes do; these are from a fixed seed, in some lengths.
    let mut random = fuzz::dice::Random(7);
    for (number, len) in [8, 20, 40, 80, 160, 300, 600, 900, 1200, 2000, 3000, 4000].into_iter().enumerate() {
        let bytes: Vec<u8> = (0..len).map(|_| random.u64() as u8).collect();
        write("write_model", &format!("random-{number:02}"), &bytes);
    }
    // Tensors over several blocks, views of one storage, metadata and a document.
    let damaged = |rows: u64| {
        let options = dolmen::FileOptions::new().alignment(64).and_then(|options| options.block_len(4096)).unwrap();
        let mut builder = dolmen::Builder::with_options(options);
        let values: Vec<u8> = (0..100 * rows).map(|n| (n % 251) as u8).collect();
        builder.tensor("long", dolmen::TensorData::raw(dolmen::DType::U8, [rows, 100], values).unwrap()).unwrap();
        builder.tensor("b", &[1.5f32, 2.5][..]).unwrap();
        let view = dolmen::View::new(dolmen::DType::F32, [1u64]).unwrap().start(4);
        builder.view("view", builder.storage_of("b").unwrap(), view).unwrap();
        builder.tensor("empty", &[0u16; 0][..]).unwrap();
        builder.metadata("epoch", 3);
        builder.document(dolmen::Value::List(vec![dolmen::Value::tensor("b"), dolmen::Value::tensor("long")]));
        builder.to_vec().unwrap()
    };
    for (name, bytes) in fuzz::salvage::seeds(&damaged(2)) {
        write("salvage", &name, &bytes);
    }
    #[cfg(all(feature = "feature", feature = "torch"))]
    for (name, bytes) in fuzz::table::seeds() {
        write("feature_table", name, &bytes);
    }
    #[cfg(all(feature = "npy", feature = "torch"))]
    for (name, bytes) in fuzz::exports::seeds() {
        write("open_resealed", name, &bytes);
    }
    #[cfg(all(feature = "npy", feature = "torch"))]
    for (name, bytes) in fuzz::npy::seeds() {
        write("npy", &name, &bytes);
    }
    #[cfg(feature = "torch")]
    for (target, name, bytes) in fuzz::torch::seeds() {
        write(target, name, &bytes);
    }
    let guest = |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    let headers = [
        ("empty", r#"{}"#, 0),
        ("metadata-alone", r#"{"__metadata__":{"format":"pt"}}"#, 0),
        ("one-f32", r#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#, 16),
        ("padded", "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}      ", 16),
        ("scalar", r#"{"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}"#, 8),
        (
            "zero",
            r#"{"z":{"dtype":"BF16","shape":[0,3],"data_offsets":[0,0]},"y":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            1,
        ),
        ("bool", r#"{"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}"#, 3),
        (
            "f8",
            r#"{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[2,4]}}"#,
            4,
        ),
        ("f4", r#"{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}"#, 2),
        (
            "twice",
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            1,
        ),
        ("hole", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2),
        ("escape", r#"{"\u0061\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
        ("header-cut-off", r#"{"a":{"dtype":"U8""#, 0),
        ("bytes-left-over", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 3),
        ("data-cut-off", r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#, 1),
        (
            "overlap",
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
            3,
        ),
        ("backwards", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}"#, 1),
        ("half-a-byte", r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#, 1),
        ("other-length", r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}}"#, 4),
        ("unknown-dtype", r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#, 1),
        ("unknown-field", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":{"y":[1,null]}}}"#, 1),
        ("field-twice", r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
        ("field-missing", r#"{"a":{"dtype":"U8","shape":[1]}}"#, 0),
        ("three-offsets", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#, 1),
        ("one-offset", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#, 1),
        ("metadata-twice", r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
        ("metadata-key-twice", r#"{"__metadata__":{"a":"1","a":"1"}}"#, 0),
        ("metadata-number", r#"{"__metadata__":{"a":1}}"#, 0),
        ("number-with-zero", r#"{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}"#, 1),
        ("number-with-fraction", r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#, 1),
        ("number-negative", r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#, 1),
        ("control-character", "{\"a\u{1}\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1),
        ("text-without-end", "{\"a", 0),
        ("all-escapes", r#"{"__metadata__":{"\"\\\/\b\f\n\r\t\u00e9\ud83d\uddff":""}}"#, 0),
        ("half-a-surrogate", r#"{"__metadata__":{"\ud83d":""}}"#, 0),
        ("no-such-escape", r#"{"__metadata__":{"\x":""}}"#, 0),
        ("after-its-end", r#"{} x"#, 0),
        ("overflow", r#"{"a":{"dtype":"U8","shape":[9223372036854775807,4],"data_offsets":[0,1]}}"#, 1),
    ];
    for (name, header, len) in headers {
        write("safetensors", name, &guest(header, &vec![1; len]));
    }
    let many = vec!["1"; 256].join(",");
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{many}],"data_offsets":[0,1]}}}}"#);
    write("safetensors", "rank-256", &guest(&header, &[1]));
    write("safetensors", "not-utf-8", &guest("{\"a", b"\xFF\":{}}"));
    write("safetensors", "longer-than-the-file", &[&[9, 0, 0, 0, 0, 0, 0, 0][..], b"{}"].concat());
    // What people take for checkpoints.
    let others: [(&str, &[u8]); 14] = [
        ("html", b"<!DOCTYPE html><html>"),
        ("xml", b"<?xml version=\"1.0\"?><Error>"),
        ("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
        ("gguf", b"GGUF\x03\0\0\0"),
        ("hdf5", b"\x89HDF\r\n\x1a\n"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("zstandard", b"\x28\xb5\x2f\xfd\0\0\0\0"),
        ("json", b"{\"a\": 1}"),
        ("json-list", b"[{\"a\": 1}]"),
        ("flatbuffer", b"\x18\0\0\0PTMF\0\0\0\0"),
        ("pickle", b"\x80\x02N."),
        ("zip", b"PK\x03\x04"),
        ("rar", b"Rar!\x1a\x07"),
        ("zeros", &[0; 64]),
    ];
    for (name, start) in others {
        write("open_bytes", name, start);
    }
}

#[test]
fn work_that_is_not_linear_is_found_out() {
    let allowance = fuzz::work::Allowance::of(100, 10);
    let bytes = vec![1u8; 20_000];
    let linear = || bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    assert_eq!(fuzz::work::bounded("a sum", allowance, bytes.len() as u64, linear), 20_000);
    let quadratic = || bytes.iter().map(|_| std::hint::black_box(linear())).sum::<u64>();
    let found = std::panic::catch_unwind(|| fuzz::work::bounded("sums", allowance, bytes.len() as u64, quadratic));
    assert!(found.is_err(), "work of the square of the length passes");

    let counted = fuzz::work::Counted::new(&bytes);
    let mut buffer = vec![0; bytes.len()];
    let read = |times: usize| {
        (0..times).for_each(|_| dolmen::ReadAt::read_exact_at(&counted, &mut buffer.clone(), 0).unwrap())
    };
    read(2);
    counted.check("reading", 2, 64);
    read(8);
    assert!(
        std::panic::catch_unwind(|| counted.check("reading", 2, 64)).is_err(),
        "reading ten times passes for twice"
    );
    (0..20_000).for_each(|at| dolmen::ReadAt::read_exact_at(&counted, &mut buffer[..1], at).unwrap());
    assert!(std::panic::catch_unwind(|| counted.check("reading", 100, 1000)).is_err(), "bytes one by one pass");
}

/// What the inputs of all targets took at most; what is allowed should be several times as much.
#[test]
#[ignore = "for people: run it alone, with --test-threads=1"]
fn measure_work() {
    for (target, ..) in TARGETS {
        replay(target);
    }
    for (what, worst) in fuzz::work::worst::list() {
        println!("{what}: {worst:?}");
    }
}
