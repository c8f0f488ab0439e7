//! PyTorch's checkpoints: every file of `tests/torch_data`, which a real PyTorch wrote or read, compared with what it found in it.
#![cfg(all(feature = "torch", feature = "mmap"))]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use common::json::{self, Json};
use dolmen::foreign::{self, ConvertOptions, Kind};
use dolmen::format::checksum::crc32;
use dolmen::{Checkpoint, TensorView};

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch_data").join(file)
}

fn bytes_of_file(file: &str) -> Vec<u8> {
    std::fs::read(data(file)).unwrap()
}

/// What PyTorch found in each file.
fn oracle() -> BTreeMap<String, Json> {
    match json::parse(&std::fs::read_to_string(data("oracle.json")).unwrap()) {
        Json::Object(files) => files,
        _ => panic!("the oracle is no object"),
    }
}

/// The files that hold one object: all but programs of TorchScript.
fn files_with_documents() -> Vec<(String, Json)> {
    oracle().into_iter().filter(|(_, facts)| facts.get("document").is_some()).collect()
}

fn map(path: impl AsRef<Path>) -> Checkpoint {
    // SAFETY: nobody changes the file while the test runs.
    unsafe { Checkpoint::map(path) }.unwrap()
}

fn openings(file: &str) -> Vec<(&'static str, Checkpoint)> {
    let path = data(file);
    vec![
        ("open", Checkpoint::open(&path).unwrap_or_else(|e| panic!("{e}"))),
        ("open_on_demand", Checkpoint::open_on_demand(&path).unwrap()),
        ("map", map(&path)),
        ("from_bytes", Checkpoint::from_bytes(&bytes_of_file(file)).unwrap()),
    ]
}

/// The elements in row-major order.
fn elements(tensor: &TensorView<'_>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(tensor.contiguous_byte_len()).unwrap()];
    tensor.read_into(&mut bytes).unwrap();
    bytes
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn numbers(json: &Json) -> Vec<u64> {
    json.array().iter().map(Json::number).collect()
}

/// A document beside what it should be.
struct Comparison<'c> {
    file: &'c str,
    checkpoint: &'c Checkpoint,
    /// Whether its storages have checksums.
    crc: bool,
    /// Which storage stands for which of the oracle's; both ways, so that neither is taken for two.
    storages: HashMap<u64, u32>,
    groups: HashMap<u32, u64>,
    /// Where in the document one is.
    path: Vec<String>,
    mentioned: BTreeSet<String>,
}

impl<'c> Comparison<'c> {
    fn new(file: &'c str, checkpoint: &'c Checkpoint, crc: bool) -> Comparison<'c> {
        let (storages, groups) = (HashMap::new(), HashMap::new());
        Comparison { file, checkpoint, crc, storages, groups, path: Vec::new(), mentioned: BTreeSet::new() }
    }

    fn place(&self) -> String {
        format!("{} at {}", self.file, self.path.join("/"))
    }

    fn under(&mut self, step: String, expected: &Json, found: &Json) {
        self.path.push(step);
        self.same(expected, found);
        self.path.pop();
    }

    fn same(&mut self, expected: &Json, found: &Json) {
        match (expected, found) {
            (Json::Object(expected), Json::Object(found)) => {
                assert!(expected.keys().eq(found.keys()), "{}: {expected:?} is not {found:?}", self.place());
                for (key, expected) in expected {
                    let found = &found[key];
                    match key.as_str() {
                        "$tensor" => self.same_tensor(expected, found),
                        // Python's sets have no order.
                        "$set" | "$frozenset" => self.same(&sorted(expected), &sorted(found)),
                        _ => self.under(key.clone(), expected, found),
                    }
                }
            }
            (Json::Array(expected), Json::Array(found)) => {
                assert_eq!(expected.len(), found.len(), "{}: {expected:?} is not {found:?}", self.place());
                for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                    self.under(i.to_string(), expected, found);
                }
            }
            _ => assert_eq!(expected, found, "{}", self.place()),
        }
    }

    fn same_tensor(&mut self, expected: &Json, found: &Json) {
        let none = Json::Object(BTreeMap::new());
        let (name, attributes) = match found {
            Json::Text(name) => (name.as_str(), &none),
            Json::Array(both) => (both[0].text(), &both[1]),
            other => panic!("{}: no tensor: {other:?}", self.place()),
        };
        self.mentioned.insert(name.to_owned());
        // NumPy forgets on the way in that an array was big-endian, unless the pickle is of protocol 5; and so do we.
        self.under("attributes".to_owned(), expected.field("attributes"), attributes);
        if let Some(path) = expected.get("name") {
            // A second tensor on the same path has a number behind it.
            let rest = name.strip_prefix(path.text());
            assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('#')), "{}: {name}", self.place());
        }
        let tensor = self.checkpoint.tensor(name).unwrap();
        self.same_content(expected, &tensor);
        if let Some(len) = expected.get("storage_len") {
            let storage = tensor.storage_bytes().unwrap();
            assert_eq!(tensor.storage_len().unwrap(), len.number(), "{}", self.place());
            assert_eq!(u64::from(crc32(storage)), expected.field("storage_crc32").number(), "{}", self.place());
            assert_eq!(tensor.is_checksummed(), self.crc || storage.is_empty(), "{}", self.place());
        } else {
            // What the pickle holds was checked with it, or has a checksum of its own.
            assert!(tensor.is_checksummed(), "{}", self.place());
        }
        if let Some(crc) = tensor.storage_crc32().unwrap() {
            assert_eq!(crc, crc32(tensor.storage_bytes().unwrap()), "{}", self.place());
        }
        if let Some(group) = expected.get("group").map(Json::number) {
            let (storage, place) = (tensor.storage(), self.place());
            assert_eq!(*self.storages.entry(group).or_insert(storage), storage, "{place}: not shared");
            assert_eq!(*self.groups.entry(storage).or_insert(group), group, "{place}: shared with others");
        }
    }

    fn same_content(&self, expected: &Json, tensor: &TensorView<'_>) {
        let place = self.place();
        assert_eq!(tensor.dtype().to_string(), expected.field("dtype").text(), "{place}");
        assert_eq!(tensor.shape(), numbers(expected.field("shape")), "{place}");
        if tensor.element_count() > 0 {
            assert_eq!(*tensor.strides(), numbers(expected.field("strides")), "{place}");
            if let Some(offset) = expected.get("offset") {
                let size = u64::from(tensor.dtype().bits()) / 8;
                assert_eq!(tensor.start(), offset.number() * size, "{place}");
            }
        }
        let bytes = elements(tensor);
        match expected.get("bytes") {
            Some(hex) => assert_eq!(bytes, unhex(hex.text()), "{place}"),
            None => {
                assert_eq!(bytes.len() as u64, expected.field("byte_len").number(), "{place}");
                assert_eq!(u64::from(crc32(&bytes)), expected.field("crc32").number(), "{place}");
            }
        }
    }
}

fn sorted(items: &Json) -> Json {
    let mut items = items.array().to_vec();
    items.sort_by_key(|item| format!("{item:?}"));
    Json::Array(items)
}

fn document(checkpoint: &Checkpoint) -> Json {
    json::render(&checkpoint.document().unwrap().unwrap())
}

/// A tensor as another file must have it: all but its place in the file.
type Content = (String, String, Vec<u64>, Vec<u64>, u64, Vec<u8>);

fn contents(checkpoint: &Checkpoint) -> Vec<Content> {
    let content = |t: TensorView<'_>| {
        let (dtype, shape, strides) = (t.dtype().to_string(), t.shape().to_vec(), t.strides().to_vec());
        (t.name().to_owned(), dtype, shape, strides, t.start(), t.storage_bytes().unwrap().to_vec())
    };
    checkpoint.tensors().map(|t| content(t.unwrap())).collect()
}

/// For each tensor, the first one that lies in the same storage.
fn aliases(checkpoint: &Checkpoint) -> Vec<usize> {
    let storages: Vec<u32> = checkpoint.tensors().map(|t| t.unwrap().storage()).collect();
    storages.iter().map(|storage| storages.iter().position(|other| other == storage).unwrap()).collect()
}

fn converted(input: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.dolmen");
    let notes = foreign::convert(input, &output, &ConvertOptions::new().validate(true)).unwrap();
    let is_script = ["script", "traced"].iter().any(|name| input.ends_with(format!("{name}.pt")));
    // What is not kept is told; and what could run code, which is kept.
    let lost = notes.iter().filter(|note| !note.contains("can run code")).count();
    assert_eq!(lost, usize::from(is_script), "{notes}");
    (dir, output)
}

#[test]
fn every_file_holds_what_pytorch_found_in_it() {
    let files = files_with_documents();
    assert!(files.len() > 50, "files are missing");
    let differs = |(file, facts): &&(String, Json)| std::panic::catch_unwind(|| compare(file, facts)).is_err();
    let wrong: Vec<&String> = files.iter().filter(differs).map(|(file, _)| file).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

fn compare(file: &str, facts: &Json) {
    for (how, checkpoint) in openings(file) {
        let file = format!("{file}, {how}");
        assert_eq!(checkpoint.format(), "torch", "{file}");
        assert_eq!(checkpoint.format_version(), facts.field("layout").text(), "{file}");
        let crc = facts.field("crc") == &Json::Bool(true);
        let mut comparison = Comparison::new(&file, &checkpoint, crc);
        comparison.same(facts.field("document"), &document(&checkpoint));
        // Every tensor is mentioned, or is one that is under a further name.
        let place = |t: &TensorView<'_>| (t.storage(), t.start(), t.dtype(), t.shape().to_vec(), t.strides().to_vec());
        let (mentioned, further): (Vec<_>, Vec<_>) =
            checkpoint.tensors().map(Result::unwrap).partition(|t| comparison.mentioned.contains(t.name()));
        assert_eq!(mentioned.len(), comparison.mentioned.len(), "{file}: the document and the tensors");
        for tensor in further {
            assert!(mentioned.iter().any(|t| place(t) == place(&tensor)), "{file}: {} is not mentioned", tensor.name());
        }
        checkpoint.verify().unwrap().into_result().unwrap_or_else(|e| panic!("{file}: {e}"));
    }
}

#[test]
fn every_file_is_a_file_of_the_oracle() {
    let mut files: BTreeSet<String> = oracle().into_keys().collect();
    files.extend(["make.py", "oracle.json"].map(str::to_owned));
    let there = std::fs::read_dir(data("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), files);
}

#[test]
fn files_are_recognised_by_their_first_bytes() {
    for file in oracle().keys() {
        let bytes = bytes_of_file(file);
        let kind = foreign::recognise(&bytes[..bytes.len().min(512)]);
        assert!(matches!(kind, Some(Kind::Torch | Kind::Zip | Kind::Tar)), "{file}: {kind:?}");
    }
}

#[test]
fn a_dolmen_file_keeps_all_of_it() {
    for (file, _) in oracle() {
        let before = Checkpoint::open(data(&file)).unwrap();
        let (_dir, output) = converted(&data(&file));
        let after = Checkpoint::open(&output).unwrap();
        assert_eq!(after.document().unwrap(), before.document().unwrap(), "{file}");
        assert!(contents(&after) == contents(&before), "{file}");
        assert_eq!(aliases(&after), aliases(&before), "{file}");
        assert!(after.tensors().all(|t| t.unwrap().is_checksummed()), "{file}");
        after.verify().unwrap().into_result().unwrap();
    }
}

#[test]
fn converting_twice_gives_the_same_bytes() {
    for (file, _) in oracle() {
        let (_a, first) = converted(&data(&file));
        let (_b, second) = converted(&data(&file));
        assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap(), "{file}");
    }
}

/// Whether the bytes of a tensor are in the file as they are: not numbers of the pickle.
fn is_of_a_storage(expected: &Json) -> bool {
    expected.get("storage_len").is_some()
}

/// Calls `take` for every tensor of a document beside its name.
fn each_tensor(expected: &Json, found: &Json, take: &mut impl FnMut(&Json, &str)) {
    match (expected, found) {
        (Json::Object(a), Json::Object(b)) => {
            for (key, expected) in a {
                match (key.as_str(), b.get(key)) {
                    ("$tensor", Some(Json::Text(name))) => take(expected, name),
                    ("$tensor", Some(found)) => take(expected, found.array()[0].text()),
                    ("$set" | "$frozenset", _) | (_, None) => {}
                    (_, Some(found)) => each_tensor(expected, found, take),
                }
            }
        }
        (Json::Array(a), Json::Array(b)) => a.iter().zip(b).for_each(|(a, b)| each_tensor(a, b, take)),
        _ => {}
    }
}

#[test]
fn aligned_records_are_used_where_they_lie() {
    // What a real PyTorch wrote is aligned; what other tools have put together need not be.
    let rewritten = [
        "deflated.pt",
        "restored.pt",
        "big_endian.pt",
        "big_endian_new.pt",
        "version_first.pt",
        "version_last.pt",
        "old_version.pt",
        "python2.pt",
    ];
    let mut met = 0;
    for (file, facts) in files_with_documents() {
        if facts.field("layout").text() != "zip" || rewritten.contains(&file.as_str()) {
            continue;
        }
        let bytes = bytes_of_file(&file);
        let checkpoint = map(data(&file));
        let mut base = None;
        each_tensor(facts.field("document"), &document(&checkpoint), &mut |expected, name| {
            let tensor = checkpoint.tensor(name).unwrap();
            if !is_of_a_storage(expected) {
                assert!(tensor.file_offset().is_err() || tensor.element_count() == 0, "{file}: {name}");
                return;
            }
            let offset = usize::try_from(tensor.file_offset().unwrap()).unwrap();
            let view = tensor.bytes().unwrap();
            assert_eq!(view, &bytes[offset..offset + view.len()], "{file}: {name}");
            if !view.is_empty() {
                // All views lie at their offsets from one address, which is that of the map: a page's.
                let start = view.as_ptr().addr() - offset;
                assert_eq!(*base.get_or_insert(start), start, "{file}: {name} is a copy");
                assert_eq!(start % 4096, 0, "{file}: {name} is a copy");
                assert_eq!((offset as u64 - tensor.start()) % 64, 0, "{file}: {name}");
                met += 1;
            }
        });
    }
    assert!(met > 100, "only {met} tensors lie in their files");
}

#[test]
fn unaligned_storages_are_given_aligned() {
    let expected: Vec<f32> = (0..6u8).map(f32::from).collect();
    for file in ["restored.pt", "deflated.pt", "big_endian.pt", "legacy.pt"] {
        for (how, checkpoint) in openings(file) {
            assert_eq!(checkpoint.tensor("w").unwrap().as_slice::<f32>().unwrap(), expected, "{file}, {how}");
            assert_eq!(
                checkpoint.tensor("d").unwrap().as_slice::<i64>().unwrap()[0],
                0x0807_0605_0403_0201,
                "{file}, {how}"
            );
        }
    }
}

#[test]
fn a_big_endian_archive_is_the_same_as_a_little_endian_one() {
    let (big, little) =
        (Checkpoint::open(data("big_endian.pt")).unwrap(), Checkpoint::open(data("restored.pt")).unwrap());
    assert_eq!(big.document().unwrap(), little.document().unwrap());
    assert!(contents(&big) == contents(&little));
    let (_a, from_big) = converted(&data("big_endian.pt"));
    let (_b, from_little) = converted(&data("restored.pt"));
    assert!(std::fs::read(from_big).unwrap() == std::fs::read(from_little).unwrap());
}

#[test]
fn how_an_archive_is_packed_does_not_matter() {
    let expected = Checkpoint::open(data("restored.pt")).unwrap();
    for file in ["deflated.pt", "version_first.pt", "version_last.pt", "old_version.pt", "crc_off.pt"] {
        let other = Checkpoint::open(data(file)).unwrap();
        assert_eq!(other.document().unwrap(), expected.document().unwrap(), "{file}");
        assert!(contents(&other) == contents(&expected), "{file}");
    }
}

#[test]
fn names_are_the_keys_of_a_state_dict() {
    let module = Checkpoint::open(data("module.pth")).unwrap();
    let state = Checkpoint::open(data("state_dict.pt")).unwrap();
    for tensor in state.tensors().map(Result::unwrap) {
        // The same module under two names is there once.
        if tensor.name().starts_with("first.") {
            continue;
        }
        let same = module.tensor(tensor.name()).unwrap();
        assert_eq!(elements(&same), elements(&tensor), "{}", tensor.name());
    }
    assert!(module.get("scratch").unwrap().is_some() && state.get("scratch").unwrap().is_none());
}

#[test]
fn programs_of_torchscript_give_their_tensors_and_constants() {
    let mut met = 0;
    for (file, facts) in oracle() {
        let Some(Json::Object(tensors)) = facts.get("tensors") else { continue };
        for (how, checkpoint) in openings(&file) {
            let file = format!("{file}, {how}");
            assert_eq!(checkpoint.format_version(), facts.field("layout").text(), "{file}");
            let comparison = Comparison::new(&file, &checkpoint, true);
            for (name, expected) in tensors {
                comparison.same_content(expected, &checkpoint.tensor(name).unwrap());
                met += 1;
            }
            let constants: Vec<TensorView<'_>> =
                checkpoint.tensors().map(Result::unwrap).filter(|t| t.name().starts_with("constants.")).collect();
            let expected = facts.field("constants").array();
            assert_eq!(constants.len(), expected.len(), "{file}");
            constants.iter().zip(expected).for_each(|(t, expected)| comparison.same_content(expected, t));
        }
    }
    assert!(met >= 12, "{met}");
}

#[test]
fn arrays_lie_in_the_same_storages_however_the_pickle_has_them() {
    // Protocol 2 has bytes as text, which is longer; protocol 5 has them as byte arrays.
    let places = |file: &str| {
        let checkpoint = Checkpoint::open(data(file)).unwrap();
        // Of an array whose axes are in another order, protocol 5 keeps the order in memory.
        let is_alike = |t: &TensorView<'_>| t.name().starts_with("arrays.") && t.name() != "arrays.axes";
        let arrays = checkpoint.tensors().map(Result::unwrap).filter(is_alike);
        let place = |t: TensorView<'_>| (t.name().to_owned(), t.start(), t.storage(), elements(&t));
        arrays.map(place).collect::<Vec<_>>()
    };
    let expected = places("numpy_2.pt");
    let own = |name: &str| {
        let storage = expected.iter().find(|t| t.0 == name).unwrap().2;
        // One that has several names counts once.
        expected.iter().filter(|other| other.2 == storage).map(|other| other.1).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((own("arrays.middle"), own("arrays.long"), own("arrays.long_bytes")), (1, 1, 1));
    assert!(own("arrays.steps") > 1, "short arrays share a storage");
    for file in ["numpy_4.pt", "numpy_5.pt"] {
        assert!(places(file) == expected, "{file}");
    }
    let (_a, from_2) = converted(&data("batch_2.pt"));
    let (_b, from_4) = converted(&data("batch_4.pt"));
    assert!(std::fs::read(from_2).unwrap() == std::fs::read(from_4).unwrap());
}

#[test]
fn every_truncation_of_a_tar_archive_is_an_error() {
    let whole = bytes_of_file("tar_pax.pt");
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap();
    for len in 0..=used {
        assert!(Checkpoint::from_bytes(&whole[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn changed_bytes_of_a_tar_archive_never_panic() {
    let whole = bytes_of_file("tar_views.pt");
    let mut random = common::Random::new(7);
    for _ in 0..4000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(2) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
        if let Ok(checkpoint) = Checkpoint::from_bytes(&bytes) {
            common::touch_everything(&checkpoint);
        }
    }
}

#[test]
fn no_flipped_bit_of_an_archive_goes_unnoticed() {
    for file in ["tied.pt", "restored.pt", "big_endian.pt", "deflated.pt"] {
        let whole = bytes_of_file(file);
        let before = Checkpoint::from_bytes(&whole).unwrap();
        let (document, content) = (before.document().unwrap(), contents(&before));
        let mut noticed = 0;
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let Ok(after) = Checkpoint::from_bytes(&bytes) else {
                noticed += 1;
                continue;
            };
            if after.tensors().any(|t| t.and_then(|t| t.bytes().map(drop)).is_err()) {
                noticed += 1;
                continue;
            }
            // What means nothing, such as the time of a record, may change; nothing else.
            assert_eq!(after.document().unwrap(), document, "{file}: byte {at}");
            assert!(contents(&after) == content, "{file}: byte {at}");
        }
        assert!(noticed > whole.len() / 4, "{file}: {noticed}");
    }
}
