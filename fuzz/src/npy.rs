//! NumPy's arrays and archives of them: whatever the bytes, no panic and bounded memory; and what is taken is written again as the same.

use std::io::Cursor;

use dolmen::foreign::{ConvertOptions, convert, npy, npz};
use dolmen::{Builder, Checkpoint, Durability, Error, ErrorKind, SaveOptions, Value};

use super::dice::Random;
use super::open::{self, FIXED, GUEST, Outcome};
use super::seal::Mutate;
use super::{heap, work};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Bytes as they come: an array, or an archive of arrays.
pub fn npy(data: &[u8]) -> Outcome {
    let path = open::scratch("npy").with_extension(if data.starts_with(b"PK") { "npz" } else { "npy" });
    std::fs::write(&path, data).expect("the scratch directory can be written");
    if open::is_chosen(data, 64) {
        converted(&path);
    }
    let outcome = if data.starts_with(MAGIC) { array(data, &path) } else { archive(data, &path) };
    std::fs::remove_file(&path).expect("it was written");
    outcome
}

/// Converted by path, it becomes what it becomes when it is imported: a valid file, or nothing at all.
fn converted(path: &std::path::Path) {
    for extension in ["dolmen", "safetensors", "npz", "npy", "pt"] {
        let output = open::scratch("npy-converted").with_extension(extension);
        let save = SaveOptions::new().durability(Durability::None);
        match convert(path, &output, &ConvertOptions::new().save(save).validate(true)) {
            Ok(notes) => {
                let _ = notes.len();
                if extension == "dolmen" {
                    check_valid(&Checkpoint::open(&output).expect("it was validated"));
                }
                std::fs::remove_file(&output).expect("it was written");
            }
            Err(e) => {
                refused_kind(&e);
                assert!(!output.exists(), "{extension} is there, and was not written");
            }
        }
    }
}

fn array(data: &[u8], path: &std::path::Path) -> Outcome {
    let (opened, peak) = heap::peak(|| open::opened(data));
    // A header of at most 1 MiB, and its dims.
    check_peak(peak, FIXED + 32 * data.len() as u64, data);
    let mut builder = Builder::new();
    let imported = npy::import(path, &mut builder).and_then(|_| builder.to_vec());
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) => {
            let outcome = refused(&e);
            // Only big-endian elements can be converted, and not be opened where they lie.
            let converted = match imported {
                Ok(file) => Checkpoint::from_bytes(&file).expect("a writer writes valid files"),
                Err(e) => {
                    refused(&e);
                    return outcome;
                }
            };
            assert_eq!(e.kind(), ErrorKind::UnsupportedVersion, "it can be imported, and not be opened: {e}");
            check_valid(&converted);
            check_written(&converted);
            return outcome;
        }
    };
    assert_eq!(opened.format(), "npy");
    if opened.tensors().next().is_none_or(|tensor| tensor.expect("it is listed").dtype() != dolmen::DType::Bool) {
        assert_eq!(open::touch(&opened), None);
    }
    let converted = match imported {
        Ok(file) => Checkpoint::from_bytes(&file).expect("a writer writes valid files"),
        Err(e) => {
            // Bools that are neither 0 nor 1 are read as they lie, and not written.
            assert!(e.to_string().contains("bool"), "it can be opened, and not be imported: {e}");
            return Outcome::Opened(refused_kind(&e));
        }
    };
    check_valid(&converted);
    open::assert_same(&with_crcs(&opened), &converted);
    check_written(&opened);
    if open::is_chosen(data, 64) {
        open::other_ways(data, Outcome::Valid);
    }
    Outcome::Valid
}

/// A checkpoint as a Dolmen file.
fn with_crcs(checkpoint: &Checkpoint) -> Checkpoint {
    let mut builder = Builder::new();
    builder.checkpoint(checkpoint).expect("it is valid");
    Checkpoint::from_bytes(&builder.to_vec().expect("it can be copied")).expect("a writer writes valid files")
}

fn archive(data: &[u8], path: &std::path::Path) -> Outcome {
    let mut builder = Builder::new();
    let (imported, peak) = heap::peak(|| {
        work::bounded("importing an archive of arrays", GUEST, data.len() as u64, || {
            builder = Builder::new();
            npz::import(path, &mut builder)
        })
    });
    // The archive's reader keeps an entry for each of the directory's 46 bytes, and buffers of 64 KiB.
    check_peak(peak, 2 * FIXED + 128 * data.len() as u64, data);
    if let Err(e) = imported {
        return refused(&e);
    }
    // What it inflates to: what deflate can do at most, and strict reading says the same as conversion.
    let file = match builder.plan().map(|plan| plan.file_len()) {
        Ok(len) if len > 16 << 20 => return Outcome::Opened("longer than is looked at"),
        _ => builder.to_vec(),
    };
    let converted = match file {
        Ok(file) => Checkpoint::from_bytes(&file).expect("a writer writes valid files"),
        Err(e) => return Outcome::Opened(refused_kind(&e)),
    };
    check_valid(&converted);
    check_written(&converted);
    Outcome::Valid
}

fn check_peak(peak: u64, allowed: u64, data: &[u8]) {
    assert!(peak <= allowed, "{peak} bytes were in use at a time for a file of {}; {allowed} are allowed", data.len());
}

fn refused_kind(e: &Error) -> &'static str {
    let of_the_file = e.is_corruption()
        || e.is_incompatible()
        || matches!(e.kind(), ErrorKind::Limit | ErrorKind::InvalidInput | ErrorKind::NotThisFormat);
    assert!(of_the_file, "not an error of a file: {e:?}");
    assert!(e.to_string().len() < 100_000, "a message of {} bytes", e.to_string().len());
    e.rule().unwrap_or(e.kind().name())
}

fn refused(e: &Error) -> Outcome {
    Outcome::Refused(refused_kind(e))
}

fn check_valid(checkpoint: &Checkpoint) {
    let report = checkpoint.verify_with(&open::options()).expect("memory can be read");
    assert!(report.is_valid(), "a writer wrote {:?}", report.problems);
}

/// Each tensor as an array, and all as an archive, hold the same when they are read again.
fn check_written(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors().take(8) {
        let tensor = tensor.expect("valid");
        let mut file = Vec::new();
        let _ = npy::write_npy(&tensor, &mut file).expect("NumPy has all that came from it");
        let again = Checkpoint::from_bytes(&file).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
        let again = again.tensor(npy::TENSOR_NAME).expect("it has one");
        same(&tensor, &again);
        let mut twice = Vec::new();
        let _ = npy::write_npy(&again, &mut twice).expect("it was written before");
        // Elements that are opaque to us are void then, of the same bytes; all else stays as it is.
        assert!(file == twice, "the second file is not the first");
    }
    let mut file = Cursor::new(Vec::new());
    match npz::write(checkpoint, &mut file) {
        Ok(_) => {}
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{e}");
            return;
        }
    }
    let path = open::scratch("npy-again").with_extension("npz");
    std::fs::write(&path, file.get_ref()).expect("the scratch directory can be written");
    let mut builder = Builder::new();
    let _ = npz::import(&path, &mut builder).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    let back = builder.to_vec();
    std::fs::remove_file(&path).expect("it was written");
    let back = match back {
        Ok(back) => back,
        Err(e) => {
            // Bools that are neither 0 nor 1 are read as they lie, in any order but that of rows written too, and not read again.
            assert!(e.to_string().contains("bool"), "what was written cannot be read: {e}");
            return;
        }
    };
    let back = Checkpoint::from_bytes(&back).expect("a writer writes valid files");
    assert_eq!(checkpoint.len(), back.len());
    for (one, other) in checkpoint.tensors().zip(back.tensors()) {
        let (one, other) = (one.expect("valid"), other.expect("valid"));
        assert_eq!(one.name(), other.name());
        same(&one, &other);
    }
    let kept: Option<Value> = back.metadata().expect("valid").remove(npy::DESCR_KEY);
    let opaque = |tensor: dolmen::Result<dolmen::TensorView<'_>>| {
        matches!(tensor.expect("valid").dtype(), dolmen::DType::Opaque { .. })
    };
    assert_eq!(kept.is_some(), checkpoint.tensors().any(opaque));
}

fn same(one: &dolmen::TensorView<'_>, other: &dolmen::TensorView<'_>) {
    assert_eq!((one.dtype(), one.shape()), (other.dtype(), other.shape()));
    let elements = |tensor: &dolmen::TensorView<'_>| {
        let mut bytes = Vec::new();
        tensor
            .stream(|run| {
                bytes.extend_from_slice(run);
                Ok(())
            })
            .map(|()| bytes)
    };
    assert_eq!(elements(one).expect("valid"), elements(other).expect("valid"), "elements of {one:?}");
}

/// An array taken apart: its version, the text of its header, its data.
struct Array {
    version: u8,
    text: Vec<u8>,
    data: Vec<u8>,
}

impl Array {
    fn parse(bytes: &[u8]) -> Option<Array> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (&[version, _], rest) = rest.split_first_chunk::<2>()?;
        let (len, rest) = match version {
            1 => {
                let (len, rest) = rest.split_first_chunk::<2>()?;
                (usize::from(u16::from_le_bytes(*len)), rest)
            }
            _ => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                (usize::try_from(u32::from_le_bytes(*len)).ok()?, rest)
            }
        };
        let (text, data) = rest.split_at_checked(len)?;
        Some(Array { version, text: text.to_vec(), data: data.to_vec() })
    }

    fn build(&self) -> Vec<u8> {
        let len = self.text.len() as u64;
        let width = if self.version == 1 { 2 } else { 4 };
        [MAGIC, &[self.version, 0], &len.to_le_bytes()[..width], &self.text, &self.data].concat()
    }
}

const DESCRS: [&str; 30] = [
    "<f4", "<f8", "<f2", "|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "|b1", "<c8", "<c16", ">f4", ">f8",
    ">i2", ">c8", ">u8", "=f4", "f4", "|S3", "<U2", ">U2", "|V5", "<M8[ns]", ">m8[25s]", "<f16", "|O", "<x3",
];

/// A header and the data it asks for, if that is little.
fn made(random: &mut Random) -> Array {
    let descr = random.pick(&DESCRS);
    let size: usize = descr
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(1);
    let size = if descr.contains('U') { 4 * size } else { size };
    let shape: Vec<u64> = (0..random.below(4))
        .map(|_| if random.one_in(9) { random.interesting() } else { random.below(4) as u64 })
        .collect();
    let count = shape.iter().try_fold(size as u64, |n, &dim| n.checked_mul(dim)).unwrap_or(0).min(4096);
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    let comma = if dims.len() == 1 || random.one_in(4) { "," } else { "" };
    let order = random.pick(&["False", "False", "True"]);
    let quote = random.pick(&["'", "'", "\""]);
    let space = random.pick(&["", " ", "\t"]);
    let mut fields = [
        format!("{quote}descr{quote}:{space}'{descr}'"),
        format!("'fortran_order':{space}{order}"),
        format!("'shape':{space}({}{comma})", dims.join(random.pick(&[", ", ","]))),
    ];
    fields.rotate_left(random.below(3));
    if random.one_in(12) {
        fields[0] = fields[1].clone();
    }
    let text =
        format!("{{{}{space}{}}}{}\n", fields.join(", "), random.pick(&[",", ", ", ""]), " ".repeat(random.below(64)));
    let data = (0..count).map(|_| random.below(2) as u8).collect();
    Array { version: random.pick(&[1, 1, 1, 2, 3]), text: text.into_bytes(), data }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random, mutate: &mut Mutate<'_>) {
    let Some(mut array) = Array::parse(bytes).filter(|_| !random.one_in(12)) else {
        if random.one_in(2) || bytes.is_empty() {
            *bytes = made(random).build();
        } else {
            within(bytes, mutate);
        }
        return;
    };
    match random.below(8) {
        0 => array = made(random),
        1 => array.version = random.pick(&[1, 2, 3, 4]),
        2 => array.data.resize(random.below(array.data.len() + 40), 1),
        3 => within(&mut array.data, mutate),
        4 => {
            // Another dtype, and other numbers: data as long as before.
            let new = made(random);
            array.text = new.text;
        }
        5 => {
            let digits: Vec<usize> = (0..array.text.len()).filter(|&at| array.text[at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                let at = digits[random.below(digits.len())];
                array.text[at] = b'0' + random.below(10) as u8;
            }
        }
        _ => within(&mut array.text, mutate),
    }
    *bytes = array.build();
}

fn within(bytes: &mut Vec<u8>, mutate: &mut Mutate<'_>) {
    let len = bytes.len();
    bytes.resize(len + 32, 0);
    let new = mutate(bytes, len, len + 32);
    bytes.truncate(new);
}

/// Changes an array in its header or data, lengths made right; of an archive one entry, or how it is laid out.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    if data[..size].starts_with(b"PK") && random.one_in(2) {
        return super::torch::mutate(data, size, max_size, seed, mutate);
    }
    let mut bytes = data[..size].to_vec();
    if let Some(mut zip) = super::torch::parse(&bytes) {
        use super::torch::build::{Entry, Zip};
        if zip.entries.is_empty() || random.one_in(8) {
            let name = random.pick(&["a.npy", "b/c.npy", "\u{e9}.npy", ".npy", "x.txt"]);
            let array = made(&mut random).build();
            zip.entries.push(if random.one_in(2) { Entry::new(name, &array) } else { Entry::deflated(name, &array) });
        } else {
            let at = random.below(zip.entries.len());
            let mut content = super::torch::content_of(&zip.entries[at]);
            change(&mut content, &mut random, mutate);
            let method = zip.entries[at].central.method;
            super::torch::set_content(&mut zip.entries[at], &content, method);
        }
        bytes = Zip::build(&zip);
    } else {
        change(&mut bytes, &mut random, mutate);
    }
    if bytes.len() > max_size {
        return mutate(data, size, max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}

/// Small files that reach far.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    use super::torch::build::{Entry, Zip};
    let mut seeds = Vec::new();
    let array = |descr: &str, order: &str, shape: &str, data: &[u8]| {
        let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}     \n");
        Array { version: 1, text: text.into_bytes(), data: data.to_vec() }.build()
    };
    let some = [
        ("f4", array("<f4", "False", "(2, 1)", &[0, 0, 128, 63, 0, 0, 0, 64])),
        ("fortran", array("<i2", "True", "(2, 2)", &[1, 0, 2, 0, 3, 0, 4, 0])),
        ("big-endian", array(">f4", "False", "(1,)", &[63, 128, 0, 0])),
        ("text", array("<U2", "False", "(1,)", b"a\0\0\0b\0\0\0")),
        ("scalar", array("|b1", "False", "()", &[1])),
        ("empty", array("<f8", "True", "(0, 7)", &[])),
        ("void", array("|V3", "False", "(1,)", b"abc")),
    ];
    let header = |text: &str| Array { version: 1, text: text.as_bytes().to_vec(), data: vec![0; 4] }.build();
    let dims = "1,".repeat(256);
    let wrong = [
        ("key-unknown", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}")),
        ("key-twice", header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}")),
        ("key-missing", header("{'descr': '<f4', 'fortran_order': False}")),
        ("no-dict", header("[]")),
        ("no-end", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)")),
        ("no-comma", header("{'descr': '<f4' 'fortran_order': False, 'shape': (1,)}")),
        ("no-comma-at-the-end", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}")),
        ("after-its-end", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x")),
        ("text-without-end", header("{'descr")),
        ("text-with-escape", header("{'descr': '<f\\x34', 'fortran_order': False, 'shape': (1,)}")),
        ("text-missing", header("{1: '<f4', 'fortran_order': False, 'shape': (1,)}")),
        ("truth-missing", header("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}")),
        ("number-missing", header("{'descr': '<f4', 'fortran_order': False, 'shape': (x,)}")),
        ("number-long", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1L,)}")),
        ("one-without-comma", header("{'descr': '<f4', 'fortran_order': False, 'shape': (1)}")),
        ("rank-256", header(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims})}}"))),
        ("overflow", header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}")),
        ("bool-of-two", array("|b1", "False", "(1,)", &[2])),
        ("data-too-short", array("<f4", "False", "(7,)", &[0; 4])),
        ("version-9", [MAGIC, b"\x09\0\x02\0{}"].concat()),
        ("version-2-long", [MAGIC, b"\x02\0\xFF\xFF\xFF\x7F{}"].concat()),
        ("cut-off", [MAGIC, b"\x01\0\x40\0{'descr'"].concat()),
        ("cut-off-in-the-version", MAGIC.to_vec()),
    ];
    seeds.extend(wrong.into_iter().map(|(name, array)| (name.to_owned(), array)));
    let sound = array("<f4", "False", "(1,)", &[0; 4]);
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut entry = Entry::deflated("a.npy", &sound);
        change(&mut entry);
        Zip::new(vec![entry, Entry::new("folder/", b""), Entry::new("b.npy", &sound)]).build()
    };
    let both = |change: fn(&mut super::torch::build::Header)| {
        changed(&move |entry: &mut Entry| *entry = entry.clone().both(change))
    };
    let twice = Zip::new(vec![Entry::new("a.npy", &sound), Entry::new("a.npy", &sound)]).build();
    let mut overlapping = Zip::new(vec![Entry::new("a.npy", &sound), Entry::new("b.npy", &sound)]);
    overlapping.entries[1].header_offset = Some(20);
    let archives = [
        ("archive-of-a-name-twice", twice),
        ("archive-that-overlaps", overlapping.build()),
        ("archive-encrypted", both(|header| header.flags |= 1)),
        ("archive-of-another-method", both(|header| header.method = 12)),
        ("archive-claims-too-much", both(|header| header.len = 0x7FFF_FFFF)),
        ("archive-of-another-length", both(|header| header.len += 1)),
        ("archive-of-another-crc", both(|header| header.crc32 ^= 1)),
        (
            "archive-that-does-not-inflate",
            changed(&|entry: &mut Entry| entry.stored.iter_mut().skip(9).for_each(|byte| *byte ^= 0xFF)),
        ),
        (
            "archive-that-inflates-in-part",
            changed(&|entry: &mut Entry| {
                let len = entry.stored.len();
                entry.stored[len - 3..].fill(0)
            }),
        ),
        ("archive-cut-off", changed(&|_| {})[..100].to_vec()),
        ("archive-of-torch", Zip::new(vec![Entry::new("a.npy", &sound), Entry::new("x/data.pkl", b"N.")]).build()),
    ];
    seeds.extend(archives.into_iter().map(|(name, array)| (name.to_owned(), array)));
    let entries = some.iter().enumerate().map(|(number, (name, array))| {
        let name = format!("{name}.npy");
        if number % 2 == 0 { Entry::new(&name, array) } else { Entry::deflated(&name, array) }
    });
    let archive = Zip::new(entries.collect()).build();
    seeds.extend(some.into_iter().map(|(name, array)| (name.to_owned(), array)));
    seeds.push(("archive".to_owned(), archive));
    seeds.push(("archive-empty".to_owned(), Zip::default().build()));
    seeds.push(("archive-of-text".to_owned(), Zip::new(vec![Entry::new("x.txt", b"text")]).build()));
    seeds
}
