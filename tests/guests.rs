//! Files of other formats: read in place, converted, written; the reference implementations as judges.
#![cfg(all(feature = "safetensors", feature = "npy"))]

use std::collections::HashMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use dolmen::foreign::{self, ConvertOptions, Kind, npy, npz};
use dolmen::format::checksum::crc32;
use dolmen::read::Checked;
use dolmen::{Builder, Checkpoint, DType, ErrorKind, GuestIndex, SaveOptions, TensorData, Value, View};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView as Theirs};

const DTYPES: &[(Dtype, DType)] = &[
    (Dtype::BOOL, DType::Bool),
    (Dtype::F4, DType::F4E2M1Fn),
    (Dtype::F6_E2M3, DType::F6E2M3Fn),
    (Dtype::F6_E3M2, DType::F6E3M2Fn),
    (Dtype::U8, DType::U8),
    (Dtype::I8, DType::I8),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::F8_E4M3, DType::F8E4M3Fn),
    (Dtype::F8_E8M0, DType::F8E8M0Fnu),
    (Dtype::F8_E4M3FNUZ, DType::F8E4M3Fnuz),
    (Dtype::F8_E5M2FNUZ, DType::F8E5M2Fnuz),
    (Dtype::I16, DType::I16),
    (Dtype::U16, DType::U16),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::BF16),
    (Dtype::I32, DType::I32),
    (Dtype::U32, DType::U32),
    (Dtype::F32, DType::F32),
    (Dtype::C64, DType::C64),
    (Dtype::F64, DType::F64),
    (Dtype::I64, DType::I64),
    (Dtype::U64, DType::U64),
];

fn checkpoint(builder: &Builder<'_>) -> Checkpoint {
    Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap()
}

fn error_of(bytes: &[u8]) -> dolmen::Error {
    Checkpoint::from_bytes(bytes).map(drop).unwrap_err()
}

fn bytes_of(tensor: &dolmen::TensorView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    tensor
        .stream(|run| {
            bytes.extend_from_slice(run);
            Ok(())
        })
        .unwrap();
    bytes
}

/// What a tensor is, whatever its layout.
type Content = (String, DType, Vec<u64>, Vec<u8>);

fn contents(checkpoint: &Checkpoint) -> Vec<Content> {
    let content = |t: dolmen::TensorView<'_>| (t.name().to_owned(), t.dtype(), t.shape().to_vec(), bytes_of(&t));
    checkpoint.tensors().map(|t| content(t.unwrap())).collect()
}

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests_data").join(file)
}

// safetensors

/// A safetensors file with this header.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn safetensors_of(checkpoint: &Checkpoint) -> (Vec<u8>, foreign::Notes) {
    let mut bytes = Vec::new();
    let notes = foreign::safetensors::write(checkpoint, &mut bytes).unwrap();
    (bytes, notes)
}

prop_compose! {
    fn tensor()(dtype in 0..DTYPES.len(), shape in prop::collection::vec(0usize..5, 0..4), seed in any::<u8>())
        -> (usize, Vec<usize>, Vec<u8>) {
        let mut shape = shape;
        let (theirs, _) = DTYPES[dtype];
        // Packed tensors must take whole bytes.
        if theirs.bitsize() < 8 {
            shape.push(8);
        }
        let len = shape.iter().product::<usize>() * theirs.bitsize() / 8;
        let bytes = (0..len).map(|i| if theirs == Dtype::BOOL { (i % 2) as u8 } else { seed.wrapping_add((i as u8).wrapping_mul(31)) });
        (dtype, shape, bytes.collect())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_reference_implementation_writes_is_read_in_place(
        tensors in prop::collection::btree_map("\\PC{0,12}", tensor(), 0..8),
        metadata in prop::option::of(prop::collection::hash_map("\\PC{0,8}", "\\PC{0,8}", 0..4)),
    ) {
        prop_assume!(!tensors.contains_key("__metadata__"));
        // Of nothing but an empty map, version 0.8 makes `{},"__metadata__":{}`, which is no JSON and which it does not read itself.
        prop_assume!(!tensors.is_empty() || !metadata.as_ref().is_some_and(HashMap::is_empty));
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, Theirs::new(DTYPES[*dtype].0, shape.clone(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, metadata.clone()).unwrap();
        let ckpt = Checkpoint::from_bytes(&bytes).unwrap();
        prop_assert_eq!(ckpt.format(), "safetensors");
        prop_assert_eq!(ckpt.len(), tensors.len());
        for (name, (dtype, shape, data)) in &tensors {
            let t = ckpt.tensor(name).unwrap();
            prop_assert_eq!(t.dtype(), DTYPES[*dtype].1);
            prop_assert_eq!(t.shape().iter().map(|&d| d as usize).collect::<Vec<_>>(), shape.clone());
            prop_assert_eq!(t.bytes().unwrap(), &data[..]);
            prop_assert_eq!(t.storage_crc32().unwrap().is_some(), data.is_empty(), "nothing to check is checked");
            let offset = t.file_offset().unwrap() as usize;
            prop_assert_eq!(&bytes[offset..offset + data.len()], &data[..]);
        }
        let read: HashMap<String, String> =
            ckpt.metadata().unwrap().into_iter().map(|(k, v)| (k, v.as_str().unwrap().to_owned())).collect();
        let few = metadata.as_ref().is_none_or(|map| map.len() == 1);
        prop_assert_eq!(read, metadata.unwrap_or_default());
        ckpt.verify().unwrap().into_result().unwrap();

        // Written again it is the same file, if the order of the metadata, which is random, does not matter.
        let (again, notes) = safetensors_of(&ckpt);
        prop_assert!(notes.is_empty());
        if few {
            prop_assert!(again == bytes);
        }

        // And so it is by way of a Dolmen file.
        let mut b = Builder::new();
        b.checkpoint(&ckpt).unwrap();
        let dolmen = checkpoint(&b);
        prop_assert_eq!(contents(&dolmen), contents(&ckpt));
        prop_assert!(safetensors_of(&dolmen).0 == again);
    }

    #[test]
    fn what_is_written_the_reference_implementation_reads(
        tensors in prop::collection::btree_map("\\PC{0,12}", tensor(), 0..8),
        metadata in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4),
    ) {
        prop_assume!(!tensors.contains_key("__metadata__"));
        let mut b = Builder::new();
        for (name, (dtype, shape, bytes)) in &tensors {
            b.tensor(name, TensorData::raw(DTYPES[*dtype].1, shape, &bytes[..]).unwrap()).unwrap();
        }
        for (key, value) in &metadata {
            b.metadata(key, value.as_str());
        }
        let (bytes, notes) = safetensors_of(&checkpoint(&b));
        prop_assert!(notes.is_empty(), "{}", notes);
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(theirs.len(), tensors.len());
        for (name, (dtype, shape, data)) in &tensors {
            let t = theirs.tensor(name).unwrap();
            prop_assert_eq!((t.dtype(), t.shape(), t.data()), (DTYPES[*dtype].0, &shape[..], &data[..]));
        }
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let read = header.metadata().clone().unwrap_or_default();
        prop_assert_eq!(read.into_iter().collect::<std::collections::BTreeMap<_, _>>(), metadata);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_no_panic(
        start in prop::sample::select(vec![&b""[..], b"\x93NUMPY\x01\0", b"\x93NUMPY\x03\0", b"PK\x03\x04", b"\x20\0\0\0\0\0\0\0{\"a\":{"]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &bytes].concat();
        if let Ok(ckpt) = Checkpoint::from_bytes(&bytes) {
            let _ = contents(&ckpt);
        }
        let _ = foreign::recognise(&bytes);
    }

    #[test]
    fn changed_bytes_are_an_error_or_another_file_and_no_panic(
        which in 0usize..6, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
    ) {
        let mut bytes = samples()[which].clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(ckpt) = Checkpoint::from_bytes(&bytes) {
            let _ = contents(&ckpt);
        }
        let _ = imported(&bytes);
    }
}

/// Small files of each format.
fn samples() -> &'static [Vec<u8>] {
    static SAMPLES: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut b = Builder::new();
        b.tensor("w", (&[1f32, 2.0, 3.0, 4.0], [2, 2])).unwrap();
        b.tensor("bias", &[7u8, 8]).unwrap();
        b.metadata("k", "v");
        let mut samples = vec![safetensors_of(&checkpoint(&b)).0];
        for name in ["le_f4.npy", "v3.npy", "fortran_be.npy", "stored.npz", "compressed.npz"] {
            samples.push(std::fs::read(data(name)).unwrap());
        }
        samples
    })
}

/// The arrays of a file that is converted.
fn imported(bytes: &[u8]) -> dolmen::Result<Vec<Content>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in");
    std::fs::write(&path, bytes).unwrap();
    let mut b = Builder::new();
    let _ = match foreign::recognise(bytes) {
        Some(Kind::Npy) => npy::import(&path, &mut b)?,
        _ => npz::import(&path, &mut b)?,
    };
    Ok(contents(&Checkpoint::from_bytes(&b.to_vec()?)?))
}

#[test]
fn every_truncation_is_an_error() {
    for (which, sample) in samples().iter().enumerate() {
        let whole = imported(sample).ok();
        for len in 0..sample.len() {
            let cut = &sample[..len];
            if Checkpoint::from_bytes(cut).is_ok() {
                panic!("sample {which} cut to {len} was opened");
            }
            // Long archives are tried at their ends only: it takes a file each.
            if which > 0 && (len < 300 || len + 300 > sample.len()) {
                let content = imported(cut).ok();
                assert!(content.is_none() || content == whole, "sample {which} cut to {len}");
            }
        }
    }
}

#[test]
fn a_broken_header_is_named() {
    let f32x2 = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let at = |from: u64, to: u64| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#);
    let cases: Vec<(&str, String, usize, &str)> = vec![
        ("the same name twice", format!(r#"{{"a":{f32x2},"a":{}}}"#, at(8, 16)), 16, "name occurs twice"),
        ("the same name twice, the other escaped", format!(r#"{{"a":{f32x2},"\u0061":{}}}"#, at(8, 16)), 16, "twice"),
        ("the same tensor twice", format!(r#"{{"a":{f32x2},"a":{f32x2}}}"#), 8, "name occurs twice"),
        ("metadata twice", r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "metadata twice"),
        ("a key of the metadata twice", r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), 0, r#"key "k" occurs twice"#),
        ("metadata that is no text", r#"{"__metadata__":{"k":1}}"#.into(), 0, "where text should be"),
        (
            "a field twice",
            r#"{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#.into(),
            0,
            "there twice",
        ),
        (
            "an unknown field",
            r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}}"#.into(),
            0,
            r#"no field "x""#,
        ),
        ("a missing field", r#"{"a":{"dtype":"U8","shape":[0]}}"#.into(), 0, "one is missing"),
        ("one offset", r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}"#.into(), 0, "fewer than two"),
        ("three offsets", r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}"#.into(), 0, "more than two"),
        ("an overlap", format!(r#"{{"a":{f32x2},"b":{}}}"#, at(4, 12)), 12, "overlap"),
        ("a hole", format!(r#"{{"a":{f32x2},"b":{}}}"#, at(12, 20)), 20, "hole"),
        ("a hole before the first", format!(r#"{{"a":{}}}"#, at(4, 12)), 12, "hole"),
        ("trailing data", format!(r#"{{"a":{f32x2}}}"#), 11, "3 bytes too many"),
        ("data without tensors", "{}".into(), 5, "5 bytes too many"),
        ("missing data", format!(r#"{{"a":{f32x2}}}"#), 5, "short by 3 bytes"),
        ("the end before the beginning", format!(r#"{{"a":{}}}"#, at(8, 0)), 8, "ends at 0, before"),
        (
            "a shape of another length",
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#.into(),
            8,
            "takes 12 bytes",
        ),
        (
            "a shape that overflows",
            r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.into(),
            0,
            "overflows",
        ),
        ("an offset that overflows", format!(r#"{{"a":{}}}"#, at(u64::MAX - 7, u64::MAX)), 8, "takes 8 bytes"),
        ("a negative dim", r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}"#.into(), 0, "whole number"),
        ("a fraction", r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#.into(), 1, "not whole"),
        (
            "half a byte",
            r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#.into(),
            2,
            "no whole number of bytes",
        ),
        ("text after the object", "{} x".into(), 0, "where its end"),
        ("an object that does not end", r#"{"a":"#.into(), 0, "header ends"),
        ("a comma too many", "{,}".into(), 0, "a key"),
        ("depth", "{\"a\":".repeat(100_000), 0, "no field"),
        ("depth of arrays", format!(r#"{{"a":{{"shape":{}"#, "[".repeat(100_000)), 0, "whole number"),
        ("depth of metadata", format!(r#"{{"__metadata__":{}"#, "{\"a\":".repeat(100_000)), 0, "text"),
    ];
    for (what, header, len, words) in cases {
        let e = error_of(&file(&header, &vec![0; len]));
        assert_eq!(e.kind(), ErrorKind::Malformed, "{what}: {e}");
        assert!(e.to_string().contains(words), "{what}: {e}");
        assert!(e.advice().is_some() && e.offset().is_some(), "{what}: {e:?}");
    }
    let e = error_of(&file(r#"{"a":{"dtype":"F3","shape":[],"data_offsets":[0,0]}}"#, &[]));
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::UnsupportedVersion, Some("a")));
    assert!(e.to_string().contains(r#"dtype "F3" is not known"#), "{e}");
}

#[test]
fn a_header_length_beyond_the_file_is_what_is_missing() {
    let mut bytes = file("{}", &[]);
    bytes[0] = 200;
    let e = error_of(&bytes);
    assert_eq!((e.kind(), e.expected(), e.found()), (ErrorKind::Malformed, Some(208), Some(10)));
    assert!(e.to_string().contains("short by at least 198 bytes"), "{e}");
    bytes[4] = 0xFF;
    assert_eq!(error_of(&bytes).kind(), ErrorKind::Malformed);
    bytes[..8].fill(0xFF);
    assert_eq!(error_of(&bytes).kind(), ErrorKind::NotThisFormat);
}

#[test]
fn limits_hold_for_guests() {
    let bytes = file(
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
        &[1, 2],
    );
    let open = |limits| dolmen::OpenOptions::new().limits(limits).from_bytes(&bytes).map(drop);
    for shrink in [
        |limits: &mut dolmen::Limits| limits.max_tensors = 1,
        |limits: &mut dolmen::Limits| limits.max_index_len = 50,
        |limits: &mut dolmen::Limits| limits.max_file_len = 50,
    ] {
        let mut limits = dolmen::Limits::NONE;
        open(limits).unwrap();
        shrink(&mut limits);
        assert_eq!(open(limits).unwrap_err().kind(), ErrorKind::Limit);
    }
    let wide = format!(r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,1]}}}}"#, "1,".repeat(255));
    assert_eq!(error_of(&file(&wide, &[0])).kind(), ErrorKind::Limit);
}

#[test]
fn elements_that_the_file_does_not_align_can_be_copied() {
    let bytes = file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} "#, &f32_bytes(&[1.5, -2.0]));
    assert_ne!((bytes.len() - 8) % 4, 0);
    let ckpt = Checkpoint::from_bytes(&bytes).unwrap();
    let t = ckpt.tensor("a").unwrap();
    assert_eq!(t.as_slice::<f32>().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(t.to_vec::<f32>().unwrap(), [1.5, -2.0]);
}

fn f32_bytes(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|element| element.to_le_bytes()).collect()
}

/// A checkpoint with all that other formats lack.
fn rich() -> Checkpoint {
    let mut b = Builder::new();
    let elements: Vec<f32> = (0..12u8).map(f32::from).collect();
    let storage = b.storage(f32_bytes(&elements)).unwrap();
    b.view("w", storage, View::new(DType::F32, [3, 4]).unwrap()).unwrap();
    b.view("w.t", storage, View::new(DType::F32, [4, 3]).unwrap().strides([1, 4]).unwrap()).unwrap();
    b.view("w.odd", storage, View::new(DType::F32, [2, 2]).unwrap().strides([8, 2]).unwrap().start(4)).unwrap();
    b.tensor("x2", TensorData::raw(DType::F4E2M1FnX2, [2, 3], vec![1, 2, 3, 4, 5, 6]).unwrap()).unwrap();
    b.metadata("epoch", 3);
    b.metadata("name", "m");
    b.document(Value::List(vec![Value::tensor("w")]));
    checkpoint(&b)
}

#[test]
fn what_safetensors_cannot_hold_is_noted() {
    let ckpt = rich();
    let (bytes, notes) = safetensors_of(&ckpt);
    let notes = notes.to_string();
    for words in [
        "tensor \"w.t\": its strides are made contiguous",
        "tensor \"w.odd\": its strides are made contiguous",
        "\"w\", \"w.odd\", \"w.t\" share a storage",
        "the metadata entry \"epoch\" is written as JSON text",
        "the document is left out",
        "tensor \"x2\": f4_e2m1fn_x2 is written as F4",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert_eq!(notes.lines().count(), 6, "{notes}");
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    for t in ckpt.tensors() {
        let t = t.unwrap();
        let found = theirs.tensor(t.name()).unwrap();
        assert_eq!(found.data(), bytes_of(&t), "{}", t.name());
    }
    assert_eq!(theirs.tensor("w.odd").unwrap().data(), f32_bytes(&[1.0, 3.0, 9.0, 11.0]));
    let x2 = theirs.tensor("x2").unwrap();
    assert_eq!((x2.dtype(), x2.shape()), (Dtype::F4, &[2, 6][..]));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["epoch"], "3");
}

#[test]
fn what_safetensors_has_no_name_for_is_refused_by_name() {
    let refused = |add: &dyn Fn(&mut Builder<'static>)| {
        let mut b = Builder::new();
        add(&mut b);
        let mut out = Vec::new();
        let e = foreign::safetensors::write(&checkpoint(&b), &mut out).unwrap_err();
        assert!(out.is_empty());
        e
    };
    let raw = |dtype, shape: &[u64], bytes: Vec<u8>| TensorData::raw(dtype, shape, bytes).unwrap();
    for (dtype, len) in [
        (DType::U1, 1),
        (DType::U2, 1),
        (DType::U4, 1),
        (DType::I2, 1),
        (DType::I4, 1),
        (DType::C32, 4),
        (DType::C128, 16),
        (DType::Opaque { bits: 24 }, 3),
    ] {
        let e = refused(&|b| {
            b.tensor("odd", raw(dtype, &[1], vec![0; len])).unwrap();
        });
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
        assert!(e.to_string().contains(&dtype.name()[..]) && e.to_string().contains("\"odd\""), "{e}");
    }
    let e = refused(&|b| {
        b.tensor("f4", raw(DType::F4E2M1Fn, &[3], vec![0x11, 0x01])).unwrap();
    });
    assert!(e.kind() == ErrorKind::InvalidInput && e.to_string().contains("12 bits"), "{e}");
    let e = refused(&|b| {
        b.tensor("__metadata__", &[1u8]).unwrap();
    });
    assert!(e.kind() == ErrorKind::InvalidInput && e.to_string().contains("for its metadata"), "{e}");
    let e = refused(&|b| {
        let bomb = TensorData::strided(DType::U8, [1u64 << 20, 1 << 20], [0, 0], vec![1]).unwrap();
        b.tensor("bomb", bomb).unwrap();
    });
    assert!(e.kind() == ErrorKind::Limit && e.to_string().contains("bomb"), "{e}");
}

#[test]
fn names_and_metadata_of_any_text_survive() {
    let names = ["", "\"", "\\", "\u{1}\n\t", "é😀", "a/b.c", "\u{2028}", "__metadata__x"];
    let mut b = Builder::new();
    for name in names {
        b.tensor(name, &[1u8]).unwrap();
        b.metadata(name, name);
    }
    let (bytes, _) = safetensors_of(&checkpoint(&b));
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    let ckpt = Checkpoint::from_bytes(&bytes).unwrap();
    for name in names {
        assert!(theirs.tensor(name).is_ok() && ckpt.tensor(name).is_ok(), "{name:?}");
        assert_eq!(ckpt.metadata().unwrap()[name], Value::from(name));
    }
}

// NumPy

#[test]
fn arrays_of_every_dtype_are_read_in_place() {
    for (name, dtype) in [
        ("b1", DType::Bool),
        ("u1", DType::U8),
        ("i1", DType::I8),
        ("u2", DType::U16),
        ("i2", DType::I16),
        ("u4", DType::U32),
        ("i4", DType::I32),
        ("u8", DType::U64),
        ("i8", DType::I64),
        ("f2", DType::F16),
        ("f4", DType::F32),
        ("f8", DType::F64),
        ("c8", DType::C64),
        ("c16", DType::C128),
    ] {
        let path = data(&format!("le_{name}.npy"));
        let ckpt = Checkpoint::open(&path).unwrap();
        assert_eq!((ckpt.format(), &ckpt.format_version()[..], ckpt.len()), ("npy", "1.0", 1));
        let t = ckpt.tensor(npy::TENSOR_NAME).unwrap();
        assert_eq!((t.dtype(), t.shape(), t.file_offset().unwrap()), (dtype, &[2, 3][..], 128), "{name}");
        let values: Vec<f64> = match dtype {
            DType::Bool => t.to_vec::<bool>().unwrap().iter().map(|&x| x as u8 as f64).collect(),
            DType::U8 => t.as_slice::<u8>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::I8 => t.as_slice::<i8>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::U16 => t.as_slice::<u16>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::I16 => t.as_slice::<i16>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::U32 => t.as_slice::<u32>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::I32 => t.as_slice::<i32>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::U64 => t.as_slice::<u64>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::I64 => t.as_slice::<i64>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::F16 => t.as_slice::<dolmen::half::f16>().unwrap().iter().map(|x| x.to_f64()).collect(),
            DType::F32 => t.as_slice::<f32>().unwrap().iter().map(|&x| x as f64).collect(),
            DType::F64 => t.as_slice::<f64>().unwrap().to_vec(),
            DType::C64 => t.as_slice::<[f32; 2]>().unwrap().iter().map(|x| (x[0] * x[1] / 10.0) as f64).collect(),
            _ => t.as_slice::<[f64; 2]>().unwrap().iter().map(|x| x[0] * x[1] / 10.0).collect(),
        };
        let expected = if dtype == DType::Bool { [0., 1., 1., 1., 1., 1.] } else { [0., 1., 2., 3., 4., 5.] };
        assert_eq!(values, expected, "{name}");

        // Written again it is what NumPy wrote, to the byte.
        let mut again = Vec::new();
        assert!(npy::write_npy(&t, &mut again).unwrap().is_empty());
        assert!(again == std::fs::read(&path).unwrap(), "{name}");
    }
}

#[test]
fn arrays_of_every_shape_and_version_are_read_and_written_as_numpy_does() {
    for (name, shape, version) in [
        ("fortran", &[2u64, 3][..], "1.0"),
        ("scalar", &[], "1.0"),
        ("vector", &[3], "1.0"),
        ("empty", &[0, 3], "1.0"),
        ("v1", &[2, 3], "1.0"),
        ("v2", &[2, 3], "2.0"),
        ("v3", &[2, 3], "3.0"),
    ] {
        let path = data(&format!("{name}.npy"));
        let ckpt = Checkpoint::open(&path).unwrap();
        let t = ckpt.nth(0).unwrap();
        assert_eq!((t.shape(), &ckpt.format_version()[..]), (shape, version), "{name}");
        let mut again = Vec::new();
        assert!(npy::write_npy(&t, &mut again).unwrap().is_empty());
        if version == "1.0" {
            assert!(again == std::fs::read(&path).unwrap(), "{name}");
        }
        assert_eq!(contents(&Checkpoint::from_bytes(&again).unwrap()), contents(&ckpt));
    }
    let ckpt = Checkpoint::open(data("fortran.npy")).unwrap();
    let t = ckpt.nth(0).unwrap();
    assert_eq!(t.explicit_strides(), Some(&[1, 2][..]));
    assert_eq!(t.to_vec::<f32>().unwrap(), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(
        Checkpoint::open(data("v2.npy")).unwrap().nth(0).unwrap().as_slice::<i32>().unwrap(),
        [0, 1, 2, 3, 4, 5]
    );
}

#[test]
fn big_endian_arrays_are_converted_not_opened() {
    for (name, little) in [("be_i2", "le_i2"), ("be_f4", "le_f4"), ("be_f8", "le_f8"), ("be_c8", "le_c8")] {
        let path = data(&format!("{name}.npy"));
        let e = Checkpoint::open(&path).unwrap_err();
        assert!(e.is_incompatible() && e.to_string().contains("big-endian"), "{e}");
        let mut b = Builder::new();
        assert!(npy::import(&path, &mut b).unwrap().is_empty());
        let little = Checkpoint::open(data(&format!("{little}.npy"))).unwrap();
        assert_eq!(contents(&checkpoint(&b)), contents(&little));
    }
    let mut b = Builder::new();
    let _ = npy::import(data("fortran_be.npy"), &mut b).unwrap();
    let ckpt = checkpoint(&b);
    assert_eq!(ckpt.nth(0).unwrap().to_vec::<i32>().unwrap(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn elements_without_a_dtype_are_kept_as_opaque_bytes() {
    for (name, bits, descr, bytes) in [
        ("bytes", 24, "|S3", b"ab\0cde".to_vec()),
        ("text", 96, "<U3", "hé\0abc".chars().flat_map(|c| (c as u32).to_le_bytes()).collect()),
        ("date", 64, "<M8[D]", [18262i64, 1].iter().flat_map(|d| d.to_le_bytes()).collect()),
    ] {
        let ckpt = Checkpoint::open(data(&format!("{name}.npy"))).unwrap();
        let t = ckpt.nth(0).unwrap();
        assert_eq!((t.dtype(), t.shape(), t.bytes().unwrap()), (DType::Opaque { bits }, &[2][..], &bytes[..]));
        assert_eq!(ckpt.metadata().unwrap()[npy::DESCR_KEY].get("array"), Some(&Value::from(descr)));
    }
}

#[test]
fn structured_arrays_and_pickles_are_refused() {
    for (name, words) in [
        ("structured", "structured array"),
        ("structured_v3", "structured array"),
        ("objects", "a pickle, which can run"),
    ] {
        let path = data(&format!("{name}.npy"));
        for e in [Checkpoint::open(&path).unwrap_err(), npy::import(&path, &mut Builder::new()).unwrap_err()] {
            assert!(e.is_incompatible() && e.to_string().contains(words) && e.advice().is_some(), "{e}");
            assert_eq!(e.path(), Some(&*path));
        }
    }
}

#[test]
fn an_array_of_another_length_than_its_file_is_refused() {
    let bytes = std::fs::read(data("le_f4.npy")).unwrap();
    let e = error_of(&bytes[..bytes.len() - 3]);
    assert!(e.kind() == ErrorKind::Malformed && e.to_string().contains("short by 3 bytes"), "{e}");
    let e = error_of(&[&bytes[..], b"xx"].concat());
    assert!(e.kind() == ErrorKind::Malformed && e.to_string().contains("2 bytes too many"), "{e}");
    let mut long = b"\x93NUMPY\x02\0\xff\xff\xff\xff".to_vec();
    long.extend_from_slice(&[b' '; 100]);
    assert!(error_of(&long).to_string().contains("longer than that of any array"));
    let mut version = bytes.clone();
    version[6] = 4;
    assert!(error_of(&version).to_string().contains("version 4.0"));
}

#[test]
fn dtypes_that_numpy_lacks_are_void_or_refused() {
    let mut b = Builder::new();
    b.tensor("bf16", &[dolmen::half::bf16::ONE; 2]).unwrap();
    b.tensor("f8", TensorData::raw(DType::F8E4M3Fn, [2], vec![1, 2]).unwrap()).unwrap();
    b.tensor("u4", TensorData::raw(DType::U4, [2], vec![1]).unwrap()).unwrap();
    let ckpt = checkpoint(&b);
    for (name, descr) in [("bf16", "'|V2'"), ("f8", "'|V1'")] {
        let mut out = Vec::new();
        let notes = npy::write_npy(&ckpt.tensor(name).unwrap(), &mut out).unwrap();
        assert!(notes.len() == 1 && notes.to_string().contains("void"), "{notes}");
        assert!(String::from_utf8_lossy(&out).contains(descr));
        assert_eq!(
            Checkpoint::from_bytes(&out).unwrap().nth(0).unwrap().bytes().unwrap(),
            ckpt.tensor(name).unwrap().bytes().unwrap()
        );
    }
    let e = npy::write_npy(&ckpt.tensor("u4").unwrap(), Vec::new()).unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidInput && e.to_string().contains("--raw"), "{e}");
}

#[test]
fn archives_of_numpy_are_imported() {
    for name in ["stored.npz", "compressed.npz"] {
        let mut b = Builder::new();
        assert!(npz::import(data(name), &mut b).unwrap().is_empty());
        let ckpt = checkpoint(&b);
        let names: Vec<&str> = ckpt.tensors().map(|t| t.unwrap().name()).collect();
        assert_eq!(names, ["big", "f", "layer/b", "w", "zeros"]);
        assert_eq!(ckpt.tensor("w").unwrap().as_slice::<f32>().unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(ckpt.tensor("layer/b").unwrap().as_slice::<i64>().unwrap(), [0, 1, 2, 3]);
        assert_eq!(ckpt.tensor("big").unwrap().as_slice::<i32>().unwrap(), [0, 1, 2, 3, 4, 5]);
        let f = ckpt.tensor("f").unwrap();
        assert_eq!(f.explicit_strides(), Some(&[1, 2][..]));
        assert_eq!(f.to_vec::<f64>().unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert!(ckpt.tensor("zeros").unwrap().as_slice::<f32>().unwrap().iter().all(|&x| x == 0.0));
    }
}

#[test]
fn an_archive_is_written_the_same_each_time_and_aligned() {
    let ckpt = rich();
    let write = || {
        let mut out = Cursor::new(Vec::new());
        let notes = npz::write(&ckpt, &mut out).unwrap();
        (out.into_inner(), notes)
    };
    let (bytes, notes) = write();
    assert!(bytes == write().0);
    let notes = notes.to_string();
    for words in ["x2", "w.odd\": its strides", "share a storage", "document", "metadata (2 entries)"] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert!(!notes.contains("w.t\": its strides"), "Fortran order is held: {notes}");
    let read: Vec<(String, Vec<u8>)> = imported(&bytes).unwrap().into_iter().map(|c| (c.0, c.3)).collect();
    assert_eq!(read, contents(&ckpt).into_iter().map(|c| (c.0, c.3)).collect::<Vec<_>>());
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    for entry in 0..archive.len() {
        let entry = archive.by_index(entry).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0);
        assert_eq!(entry.compression(), zip::CompressionMethod::Stored);
    }

    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("a.npz");
    let _ = npz::save(&ckpt, &path, &SaveOptions::new()).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes, "the file is what is written to memory");
}

#[test]
fn names_that_an_archive_cannot_hold_are_refused() {
    for name in ["a\0b".to_owned(), "n".repeat(65_001)] {
        let mut b = Builder::new();
        b.tensor(&name, &[1u8]).unwrap();
        let mut out = Cursor::new(Vec::new());
        let e = npz::write(&checkpoint(&b), &mut out).unwrap_err();
        assert_eq!((e.kind(), out.into_inner().len()), (ErrorKind::InvalidInput, 0));
    }
    let mut b = Builder::new();
    b.tensor("../../etc/passwd", &[1u8]).unwrap();
    b.tensor(&"n".repeat(65_000), &[2u8]).unwrap();
    let mut out = Cursor::new(Vec::new());
    assert!(npz::write(&checkpoint(&b), &mut out).unwrap().is_empty());
    assert_eq!(imported(&out.into_inner()).unwrap(), contents(&checkpoint(&b)));
}

/// An archive of these entries, deflated.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn archives_that_are_not_in_order_are_refused() {
    let array = std::fs::read(data("le_f4.npy")).unwrap();
    let refused = |bytes: &[u8], kind: ErrorKind, words: &str| {
        let e = imported(bytes).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(words), "{words}: {e}");
    };
    refused(
        &archive(&[("archive/data.pkl", b"x")]),
        ErrorKind::UnsupportedVersion,
        "a PyTorch checkpoint, not an archive of NumPy arrays",
    );
    refused(&archive(&[("a.npy", &array), ("m/data.pkl", b"x")]), ErrorKind::UnsupportedVersion, "PyTorch");
    refused(&archive(&[("readme.txt", b"x")]), ErrorKind::NotThisFormat, "without NumPy arrays");
    refused(&archive(&[("a.npy", b"text")]), ErrorKind::Malformed, "within the header");
    refused(&archive(&[("a.npy", &[0; 100])]), ErrorKind::NotThisFormat, "does not begin as a NumPy array");
    refused(&archive(&[("a.npy", &array[..140])]), ErrorKind::Malformed, "takes 152 bytes, and its entry has 140");
    refused(&archive(&[("a.npy", &[&array[..], b"!"].concat())]), ErrorKind::Malformed, "and its entry has 153");

    // Two entries of one name, which writers refuse to write.
    let mut twice = archive(&[("a.npy", &array), ("b.npy", &array)]);
    let places: Vec<usize> = (0..twice.len() - 5).filter(|&at| &twice[at..at + 5] == b"b.npy").collect();
    assert_eq!(places.len(), 2);
    places.iter().for_each(|&at| twice[at] = b'a');
    refused(&twice, ErrorKind::Malformed, "same name");

    // Two entries over the same bytes.
    let mut shared = archive(&[("a.npy", &array), ("b.npy", &array)]);
    let second = shared.windows(4).rposition(|at| at == b"PK\x01\x02").unwrap();
    shared[second + 42..second + 46].fill(0);
    refused(&shared, ErrorKind::Malformed, "overlap");

    // A claim of more than deflate can do: the length in the directory, which the header of the array agrees with.
    let mut header = String::from("{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }");
    header.extend(std::iter::repeat_n(' ', 117 - header.len()));
    let bomb = [b"\x93NUMPY\x01\0\x76\0", header.as_bytes(), b"\n"].concat();
    let mut bytes = archive(&[("a.npy", &bomb)]);
    let directory = bytes.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
    bytes[directory + 24..directory + 28].copy_from_slice(&((1u32 << 30) + 128).to_le_bytes());
    refused(&bytes, ErrorKind::Malformed, "cannot hold");

    // Damage within the data.
    let mut bytes = std::fs::read(data("stored.npz")).unwrap();
    let at = bytes.windows(6).position(|at| at == b"\x93NUMPY").unwrap() + 128 + 5;
    bytes[at] ^= 1;
    refused(&bytes, ErrorKind::Corrupt, "damaged");

    // Encrypted, as the flags say.
    let mut bytes = archive(&[("a.npy", &array)]);
    let directory = bytes.windows(4).position(|at| at == b"PK\x01\x02").unwrap();
    bytes[directory + 8] |= 1;
    bytes[6] |= 1;
    refused(&bytes, ErrorKind::UnsupportedVersion, "encrypted");

    let mut b = Builder::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("more.npz");
    std::fs::write(&path, archive(&[("a.npy", &array), ("notes.txt", b"x")])).unwrap();
    let notes = npz::import(&path, &mut b).unwrap();
    assert!(notes.to_string().contains("\"notes.txt\" is not an array and is left out"), "{notes}");
    assert_eq!(b.len(), 1);
}

// Recognition and conversion

#[test]
fn files_are_recognised_by_their_first_bytes() {
    let array = std::fs::read(data("le_f4.npy")).unwrap();
    for (bytes, kind) in [
        (rich_bytes(), Some(Kind::Dolmen)),
        (samples()[0].clone(), Some(Kind::Safetensors)),
        (array, Some(Kind::Npy)),
        (std::fs::read(data("stored.npz")).unwrap(), Some(Kind::Npz)),
        (archive(&[("archive/data.pkl", b"")]), Some(Kind::Torch)),
        (archive(&[("x.txt", b"")]), Some(Kind::Zip)),
        (archive(&[]), Some(Kind::Zip)),
        (b"PK\x03\x04".to_vec(), Some(Kind::Zip)),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e".to_vec(), Some(Kind::Torch)),
        (b"{\"a\": 1}  {".to_vec(), None),
        (Vec::new(), None),
    ] {
        assert_eq!(foreign::recognise(&bytes), kind);
    }
}

fn rich_bytes() -> Vec<u8> {
    let ckpt = rich();
    let mut b = Builder::new();
    b.checkpoint(&ckpt).unwrap();
    b.to_vec().unwrap()
}

#[test]
fn every_format_converts_into_every_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let elements: Vec<f32> = (0..6u8).map(f32::from).collect();
    let mut b = Builder::new();
    b.tensor("array", (&elements, [2, 3])).unwrap();
    b.save(at("in.dolmen")).unwrap();
    let options = ConvertOptions::new().validate(true);
    let expected = contents(&checkpoint(&b));
    let from = ["in.dolmen", "1.safetensors", "2.npy", "3.npz"];
    for (input, made) in from.iter().zip(&from[1..]) {
        assert!(foreign::convert(at(input), at(made), &options).unwrap().is_empty());
    }
    for input in from {
        for extension in ["dolmen", "safetensors", "npy", "NPZ"] {
            let output = at(&format!("{input}.to.{extension}"));
            assert!(foreign::convert(at(input), &output, &options).unwrap().is_empty(), "{input} to {extension}");
            let back = at("back.dolmen");
            let _ = foreign::convert(&output, &back, &options).unwrap();
            let back = Checkpoint::open(back).unwrap();
            assert_eq!(contents(&back), expected, "{input} to {extension}");
            back.verify().unwrap().into_result().unwrap();
        }
    }
    // Nothing is left beside the outputs.
    let left = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("tmp"));
    assert_eq!(left.count(), 0);

    // Over itself, into another format.
    std::fs::copy(at("3.npz"), at("same.npz")).unwrap();
    let _ = foreign::convert(at("same.npz"), at("same.npz"), &options).unwrap();
    assert!(std::fs::read(at("same.npz")).unwrap() == std::fs::read(at("3.npz")).unwrap());
}

#[test]
fn conversions_of_numpys_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = ConvertOptions::new().validate(true);
    for (input, output, notes) in [
        ("compressed.npz", "a.safetensors", 1),
        ("compressed.npz", "a.npz", 0),
        ("be_f4.npy", "b.safetensors", 0),
        ("be_f4.npy", "b.npy", 0),
        ("fortran.npy", "c.npy", 0),
        ("fortran.npy", "c.npz", 0),
        ("fortran.npy", "c.dolmen", 0),
    ] {
        let output = dir.path().join(output);
        let found = foreign::convert(data(input), &output, &options).unwrap();
        assert_eq!(found.len(), notes, "{input}: {found}");
    }
    assert!(std::fs::read(dir.path().join("b.npy")).unwrap() == std::fs::read(data("le_f4.npy")).unwrap());
    assert!(std::fs::read(dir.path().join("c.npy")).unwrap() == std::fs::read(data("fortran.npy")).unwrap());
}

#[test]
fn conversions_that_cannot_be_leave_the_output_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("rich.dolmen"), rich_bytes()).unwrap();
    std::fs::write(at("model.pt"), archive(&[("model/data.pkl", b"x")])).unwrap();
    std::fs::write(at("page.npz"), b"<!DOCTYPE html>").unwrap();
    for (input, output, kind, words) in [
        ("rich.dolmen", "out.npy", ErrorKind::InvalidInput, "holds one tensor, and there are 4"),
        ("rich.dolmen", "out.onnx", ErrorKind::InvalidInput, "extension \"onnx\" names no format"),
        ("rich.dolmen", "out", ErrorKind::InvalidInput, "without an extension"),
        ("rich.dolmen", "out.pth2", ErrorKind::InvalidInput, "names no format"),
        ("model.pt", "out.dolmen", ErrorKind::Malformed, "there is no opcode 0x78"),
        ("page.npz", "out.dolmen", ErrorKind::NotThisFormat, "HTML page"),
        ("missing.npz", "out.dolmen", ErrorKind::Io, "missing.npz"),
    ] {
        std::fs::write(at(output), b"old").unwrap();
        let e = foreign::convert(at(input), at(output), &ConvertOptions::new()).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(words) && e.path().is_some(), "{words}: {e}");
        assert_eq!(std::fs::read(at(output)).unwrap(), b"old");
    }
}

#[test]
fn damage_found_while_converting_leaves_the_output_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut bytes = rich_bytes();
    let mut clean = std::fs::File::create(at("in.dolmen")).unwrap();
    let ckpt = Checkpoint::from_bytes(&bytes).unwrap();
    bytes[ckpt.tensor("w").unwrap().file_offset().unwrap() as usize] ^= 1;
    clean.write_all(&bytes).unwrap();
    for output in ["out.safetensors", "out.npz", "out.dolmen"] {
        std::fs::write(at(output), b"old").unwrap();
        let e = foreign::convert(at("in.dolmen"), at(output), &ConvertOptions::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
        assert_eq!(std::fs::read(at(output)).unwrap(), b"old");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4, "nothing is left beside them");
}

/// A guest whose one tensor of `len` bytes is made by `make`.
fn made(
    len: u64,
    checked: Checked,
    make: impl Fn(&mut dyn std::io::Write) -> dolmen::Result<()> + Send + Sync + 'static,
) -> Checkpoint {
    let mut guest = GuestIndex::new("made", "");
    let storage = guest.made_storage(len, checked, move |_, out| make(out)).unwrap();
    guest.tensor("t", DType::U8, vec![len], None, storage, 0).unwrap();
    dolmen::OpenOptions::new().guest_from_bytes(b"short", guest).unwrap()
}

fn put(out: &mut dyn std::io::Write, bytes: &[u8]) -> dolmen::Result<()> {
    out.write_all(bytes).map_err(|e| dolmen::Error::io("cannot write", e))
}

#[test]
fn a_storage_may_be_longer_than_the_file_that_it_is_made_from() {
    let content: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
    let copy = content.clone();
    let ckpt =
        made(10_000, Checked::Crc32(crc32(&content)), move |out| copy.chunks(7).try_for_each(|piece| put(out, piece)));
    let tensor = ckpt.tensor("t").unwrap();
    assert!(tensor.is_checksummed());
    assert_eq!(tensor.storage_crc32().unwrap(), Some(crc32(&content)));
    // Streamed before and after it is kept; whole, and in part.
    let stream = || {
        let mut out = Vec::new();
        let mut take = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        tensor.stream(&mut take).unwrap();
        out
    };
    assert_eq!(stream(), content);
    assert_eq!(tensor.bytes_of(100..300).unwrap(), &content[100..300]);
    assert_eq!(stream(), content);
    assert!(ckpt.verify().unwrap().is_valid());
    assert_eq!(tensor.file_offset().unwrap_err().kind(), ErrorKind::InvalidInput);
    let mut builder = Builder::new();
    builder.checkpoint(&ckpt).unwrap();
    let copied = Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap();
    assert_eq!(copied.tensor("t").unwrap().bytes().unwrap(), content);

    let mut guest = GuestIndex::new("held", "");
    let storage = guest.held_storage(&content).unwrap();
    guest.tensor("t", DType::U8, vec![10_000], None, storage, 0).unwrap();
    let ckpt = dolmen::OpenOptions::new().guest_from_bytes(b"short", guest).unwrap();
    assert_eq!(ckpt.tensor("t").unwrap().bytes().unwrap(), content);
}

#[test]
fn a_made_storage_that_is_not_what_was_promised_is_an_error_wherever_it_is_used() {
    let wrong_len = |len: usize| made(4, Checked::Never, move |out| put(out, &vec![1; len]));
    let wrong_crc = made(4, Checked::Crc32(7), |out| put(out, &[1; 4]));
    let fails =
        made(4, Checked::WhenMade, |_| Err(dolmen::Error::io("cannot be made", std::io::ErrorKind::Other.into())));
    for (ckpt, kind, words) in [
        (wrong_len(3), ErrorKind::Malformed, "3 came out"),
        (wrong_len(5), ErrorKind::Malformed, "5 came out"),
        (wrong_crc, ErrorKind::Corrupt, "should be 00000007"),
        (fails, ErrorKind::Io, "cannot be made"),
    ] {
        let tensor = ckpt.tensor("t").unwrap();
        for e in [tensor.bytes().unwrap_err(), tensor.stream(|_| Ok(())).unwrap_err(), ckpt.check_data().unwrap_err()] {
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.to_string().contains(words), "{e}");
        }
    }
}
