//! Writing what was read in every other format: it is refused as the caller's wish, or holds the same elements when it is read again.

use std::io::Cursor;

use dolmen::foreign::{ConvertOptions, Held, Notes, convert, npy, npz, safetensors, torch};
use dolmen::format::value::TensorRef;
use dolmen::{
    Builder, Checkpoint, DType, Durability, Error, ErrorKind, FileOptions, Limits, Result, SaveOptions, TensorData,
    TensorView, Value,
};

use super::open;

/// Bytes that are written for one input.
const WRITTEN: u64 = 1 << 20;

/// Writes a checkpoint of which nothing is damaged; `data` is the file it was read from.
pub fn exports(checkpoint: &Checkpoint, data: &[u8]) {
    let len = |tensor: TensorView<'_>| tensor.contiguous_byte_len().saturating_add(tensor.storage_len().unwrap_or(0));
    let len = checkpoint.tensors().map(|tensor| len(tensor.expect("valid"))).fold(0, u64::saturating_add);
    // Strides of 0 make a shape of any size, and tensors may all view one storage.
    if len > WRITTEN {
        return;
    }
    let _ = (format!("{checkpoint:?}"), checkpoint.tensors().flatten().filter_map(|t| t.storage_form()).count());
    to_safetensors(checkpoint);
    to_numpy(checkpoint);
    to_torch(checkpoint);
    if let Some(document) = checkpoint.document().expect("valid") {
        look_at(&document);
    }
    if open::is_chosen(data, 128) {
        by_path(checkpoint, data);
    }
}

/// Whether something was written; what was not is the format's want of words, or the caller's of room.
fn written<T>(result: Result<T>) -> Option<T> {
    result
        .inspect_err(|e| {
            let expected = matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Limit) || is_bool(e);
            assert!(expected, "not for want of words: {e:?}");
        })
        .ok()
}

/// Bools that are neither 0 nor 1 are in files that are valid nevertheless.
fn is_bool(e: &Error) -> bool {
    e.to_string().contains("bool")
}

/// The elements as the document says that they are.
fn held(checkpoint: &Checkpoint, tensor: &TensorView<'_>) -> Vec<u8> {
    let held = Held::of(checkpoint).expect("valid");
    let name = tensor.name();
    let _ = (held.is_conj(name), held.is_neg(name), held.is_quantised(name), held.changes(tensor), held.lost(tensor));
    let mut bytes = Vec::new();
    let take = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    held.stream(tensor, take).expect("valid");
    bytes
}

fn stored(tensor: &TensorView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let take = |piece: &[u8]| {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    tensor.stream(take).expect("valid");
    bytes
}

fn check_notes(notes: &Notes) {
    let shown = notes.to_string();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert_eq!((notes.len(), notes.is_empty()), (notes.iter().count(), shown.is_empty()));
}

fn to_safetensors(checkpoint: &Checkpoint) {
    let mut file = Vec::new();
    let Some(notes) = written(safetensors::write(checkpoint, &mut file)) else { return };
    check_notes(&notes);
    let back = Checkpoint::from_bytes(&file).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    assert_eq!((back.format(), back.len()), ("safetensors", checkpoint.len()));
    for tensor in checkpoint.tensors() {
        let tensor = tensor.expect("valid");
        let other = back.tensor(tensor.name()).expect("it was written");
        // Pairs of four bits have no dtype of their own there.
        if tensor.dtype() != DType::F4E2M1FnX2 {
            assert_eq!((tensor.dtype(), tensor.shape()), (other.dtype(), other.shape()));
        }
        assert_eq!(held(checkpoint, &tensor), stored(&other), "elements of {tensor:?}");
    }
}

fn to_numpy(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors().take(40) {
        let tensor = tensor.expect("valid");
        let mut file = Vec::new();
        let Some(notes) = written(npy::write_npy(&tensor, &mut file)) else { continue };
        check_notes(&notes);
        let back = Checkpoint::from_bytes(&file).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
        let other = back.tensor(npy::TENSOR_NAME).expect("a file has one");
        assert_eq!((tensor.dtype().bits(), tensor.shape()), (other.dtype().bits(), other.shape()));
        assert_eq!(held(checkpoint, &tensor), stored(&other), "elements of {tensor:?}");
    }
    let mut file = Cursor::new(Vec::new());
    let Some(notes) = written(npz::write(checkpoint, &mut file)) else { return };
    check_notes(&notes);
    // An archive of nothing does not say what it is an archive of.
    let path = open::scratch("exported").with_extension("npz");
    std::fs::write(&path, file.get_ref()).expect("the scratch directory can be written");
    let mut builder = Builder::new();
    let _ = npz::import(&path, &mut builder).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
    let back = builder.to_vec();
    std::fs::remove_file(&path).expect("it was written");
    let back = match back {
        Ok(back) => Checkpoint::from_bytes(&back).expect("a writer writes valid files"),
        Err(e) => {
            assert!(is_bool(&e), "what was written cannot be read: {e}");
            return;
        }
    };
    assert_eq!(checkpoint.len(), back.len());
    for tensor in checkpoint.tensors() {
        let tensor = tensor.expect("valid");
        let other = back.tensor(tensor.name()).expect("it was written");
        assert_eq!(held(checkpoint, &tensor), stored(&other), "elements of {tensor:?}");
    }
}

fn to_torch(checkpoint: &Checkpoint) {
    for tensors_only in [true, false] {
        let mut file = Vec::new();
        let options = torch::ExportOptions::new().tensors_only(tensors_only);
        let Some(notes) = written(torch::write(checkpoint, &mut file, options)) else { continue };
        check_notes(&notes);
        let back = Checkpoint::from_bytes(&file).unwrap_or_else(|e| panic!("what was written cannot be read: {e}"));
        assert_eq!(back.format(), "torch");
        assert!(open::verified(&back, &file).is_valid(), "what was written is not sound");
        if !tensors_only {
            continue;
        }
        // A dictionary by their names: the names of tensors that are read from it are their keys.
        for tensor in checkpoint.tensors() {
            let tensor = tensor.expect("valid");
            let Some(other) = back.get(tensor.name()).expect("it was written") else { continue };
            if tensor.shape() == other.shape() && tensor.dtype() == other.dtype() {
                let elements = stored(&other);
                assert!(stored(&tensor) == elements || held(checkpoint, &tensor) == elements, "elements of {tensor:?}");
            }
        }
    }
}

/// What can be asked of a document.
pub fn look_at(document: &Value) {
    let json = document.to_json();
    drop(json);
    let modules = torch::Modules::of(document);
    for (name, role) in modules.roles() {
        let _ = (name.len(), format!("{role:?}"));
    }
    for value in document.descendants().take(200) {
        let is_module = modules.is_module(value);
        match modules.state_dict(value) {
            Ok(tensors) => assert_eq!(tensors.is_some(), is_module),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Limit),
        }
    }
    let scan = torch::scan_document(document);
    assert!(scan.dangerous().all(|global| !global.path().is_empty()));
    for value in document.descendants().take(200) {
        match value {
            Value::BigInt(big) => {
                let bytes = big.to_le_bytes();
                assert_eq!(&Value::integer_from_le_bytes(&bytes), value);
                assert_eq!(big.to_u64().is_some(), !big.is_negative() && big.magnitude().len() <= 8);
            }
            Value::Int(number) => assert_eq!(&Value::integer(*number < 0, &number.unsigned_abs().to_be_bytes()), value),
            _ => {}
        }
        let _ = (value.as_bool(), value.as_i64(), value.as_u64(), value.as_f64(), value.as_str(), value.as_bytes());
        let _ = (value.as_slice().is_some(), value.as_dict().map(|dict| dict.get("w")), value.as_tensor());
    }
    for key in ["", "w", "a"] {
        let _ = document.get(key);
    }
    let _ = (document.as_bool(), document.as_i64(), document.as_u64(), document.as_f64(), document.as_str());
    let _ = (document.as_bytes(), document.as_slice(), document.as_dict(), document.as_tensor(), document.is_null());
    let mut copy = document.clone();
    let mut seen = 0usize;
    copy.visit_mut(|value| {
        seen += 1;
        if let Value::Int(number) = value {
            *number = number.wrapping_neg();
        }
    });
    assert_eq!(seen, document.descendants().count());
    let described = |name: &str| (name.len().is_multiple_of(2)).then(|| format!("tensor {name}"));
    let tree = document.tree(Default::default()).describe(&described).to_string();
    assert!(!tree.contains('\u{1b}'));
    let _ = format!("{:?}", document.tree(Default::default()));
}

/// By path, validated before it appears, each format has the same bytes as in memory.
fn by_path(checkpoint: &Checkpoint, data: &[u8]) {
    let input = open::scratch("convert");
    std::fs::write(&input, data).expect("the scratch directory can be written");
    let save = SaveOptions::new().durability(Durability::None);
    for extension in ["dolmen", "safetensors", "npy", "npz", "pt", "none"] {
        let output = open::scratch("converted").with_extension(extension);
        let validate = data.len().is_multiple_of(2);
        let options = ConvertOptions::default().save(save.clone()).validate(validate).limits(Limits::NONE);
        let options = options.file(FileOptions::new()).torch(torch::ExportOptions::new());
        let notes = match convert(&input, &output, &options) {
            Ok(notes) => notes,
            Err(e) => {
                let for_want = matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Limit) || is_bool(&e);
                assert!(for_want || checkpoint.format() == "torch", "to {extension}: {e:?}");
                assert!(!output.exists(), "{extension} is there, and was not written");
                continue;
            }
        };
        check_notes(&notes);
        let bytes = std::fs::read(&output).expect("it was written");
        std::fs::remove_file(&output).expect("it was written");
        let mut here = Cursor::new(Vec::new());
        let again = match extension {
            "dolmen" => Builder::new().checkpoint(checkpoint).and_then(|builder| builder.write_to(&mut here)),
            "safetensors" => safetensors::write(checkpoint, &mut here).map(drop),
            "npy" => npy::write_npy(&checkpoint.nth(0).expect("it has one"), &mut here).map(drop),
            "npz" => npz::write(checkpoint, &mut here).map(drop),
            _ => torch::write(checkpoint, &mut here, torch::ExportOptions::new()).map(drop),
        };
        again.unwrap_or_else(|e| panic!("to {extension} in memory, but not to a file: {e}"));
        assert!(here.into_inner() == bytes, "{extension} in memory and in a file differ");
    }
    if checkpoint.format() == "torch" {
        let globals = torch::globals(&input);
        assert!(globals.is_ok_and(|globals| globals.iter().all(|global| !global.path().is_empty())));
    }
    std::fs::remove_file(&input).expect("it was written");
}

/// Files whose documents say of tensors of every dtype that they are negated, conjugated, or lists.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let file = |attributes: &[(&str, Value)], dtypes: &[DType], shape: &[u64], mentioned: bool| {
        let mut builder = Builder::new();
        let mut items = Vec::new();
        for &dtype in dtypes {
            let count = shape.iter().product::<u64>();
            let len = (count * u64::from(dtype.bits())).div_ceil(8);
            let bytes = (0..len).map(|n| (n % 2) as u8).collect::<Vec<u8>>();
            let name = dtype.to_string();
            builder.tensor(&name, TensorData::raw(dtype, shape.to_vec(), bytes).expect("sound")).expect("sound");
            let mut reference = TensorRef::new(&name);
            reference.attributes.extend(attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            items.push(Value::Tensor(Box::new(reference)));
            if !mentioned {
                builder.alias(&format!("{name}, again"), &name).expect("sound");
            }
        }
        builder.document(Value::List(items));
        builder.to_vec().expect("sound")
    };
    let complex = [DType::C32, DType::C64, DType::C128];
    let of = |packed: bool| DType::ALL.iter().copied().filter(|dtype| dtype.is_packed() == packed).collect::<Vec<_>>();
    let listed: Vec<_> = of(false).into_iter().filter(|dtype| dtype.bits() <= 128).collect();
    let yes = || Value::from(true);
    let list = || Value::from("list");
    vec![
        ("negated", file(&[("neg", yes())], &of(false), &[2], true)),
        ("negated-packed", file(&[("neg", yes())], &of(true), &[4], true)),
        ("negated-packed-in-part", file(&[("neg", yes())], &of(true), &[3], true)),
        ("negated-not-mentioned", file(&[("neg", yes())], &[DType::F32, DType::I16], &[2], false)),
        ("conjugated", file(&[("conj", yes())], &complex, &[2], true)),
        ("conjugated-and-negated", file(&[("conj", yes()), ("neg", yes())], &complex, &[2], true)),
        ("lists", file(&[("as", list())], &listed[..6], &[2, 2], true)),
        ("lists-of-numbers", file(&[("as", list())], &listed[6..16.min(listed.len())], &[2], true)),
        ("lists-of-nothing", file(&[("as", list())], &listed[..3], &[2, 0, 3], true)),
        ("list-that-is-one-number", file(&[("as", list())], &listed[9..16.min(listed.len())], &[], true)),
    ]
}
