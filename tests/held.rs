//! What a document says of values (conjugated, negated, quantised) in all that takes elements out.
#![cfg(all(feature = "safetensors", feature = "npy"))]

use std::collections::BTreeMap;
use std::io::Cursor;

use dolmen::foreign::{Held, Notes, npy, npz, safetensors};
use dolmen::{Builder, Checkpoint, DType, TensorData, TensorView, Value, View};

/// A reference with these attributes, all of them true.
fn reference(name: &str, flags: &[&str]) -> Value {
    let Value::Tensor(mut reference) = Value::tensor(name) else { unreachable!() };
    reference.attributes = flags.iter().map(|&flag| (flag.to_owned(), Value::Bool(true))).collect();
    Value::Tensor(reference)
}

fn quantised(name: &str) -> Value {
    let Value::Tensor(mut reference) = Value::tensor(name) else { unreachable!() };
    reference.attributes = BTreeMap::from([("quantizer".to_owned(), Value::Tuple(vec![Value::Float(0.5), 3.into()]))]);
    Value::Tensor(reference)
}

fn checkpoint(builder: &Builder<'_>) -> Checkpoint {
    Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap()
}

/// One tensor of which this is said.
fn one(dtype: DType, shape: &[u64], bytes: &[u8], flags: &[&str]) -> Checkpoint {
    let mut b = Builder::new();
    b.tensor("t", TensorData::raw(dtype, shape.to_vec(), bytes.to_vec()).unwrap()).unwrap();
    b.document(Value::List(vec![reference("t", flags)]));
    checkpoint(&b)
}

fn streamed(held: &Held, tensor: &TensorView<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    held.stream(tensor, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    bytes
}

/// The elements as all the writers write them: they must agree.
fn written(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let tensor = checkpoint.tensor(name).unwrap();
    let bytes = streamed(&Held::of(checkpoint).unwrap(), &tensor);
    let read = |file: &[u8], name: &str| {
        let file = Checkpoint::from_bytes(file).unwrap();
        streamed(&Held::default(), &file.tensor(name).unwrap())
    };
    let mut file = Vec::new();
    if safetensors::write(checkpoint, &mut file).is_ok() {
        assert_eq!(read(&file, name), bytes, "safetensors {name}");
    }
    let mut file = Vec::new();
    if npy::write_npy(&tensor, &mut file).is_ok() {
        assert_eq!(read(&file, npy::TENSOR_NAME), bytes, "npy {name}");
    }
    let mut file = Cursor::new(Vec::new());
    if npz::write(checkpoint, &mut file).is_ok() {
        // Entries are stored, not compressed.
        let file = file.into_inner();
        assert!(bytes.is_empty() || file.windows(bytes.len()).any(|window| window == bytes), "npz {name}");
    }
    bytes
}

fn f32s(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn notes_of(checkpoint: &Checkpoint) -> Notes {
    safetensors::write(checkpoint, std::io::sink()).unwrap()
}

#[test]
fn real_numbers_are_negated_and_are_their_own_conjugates() {
    let cases: &[(DType, &[u8], &[u8])] = &[
        (DType::F64, &1.5f64.to_le_bytes(), &(-1.5f64).to_le_bytes()),
        (DType::F32, &(-0.0f32).to_le_bytes(), &0.0f32.to_le_bytes()),
        (DType::F32, &f32::INFINITY.to_le_bytes(), &f32::NEG_INFINITY.to_le_bytes()),
        (DType::F16, &[0x00, 0x3E], &[0x00, 0xBE]),
        (DType::BF16, &[0xC0, 0x3F], &[0xC0, 0xBF]),
        (DType::F8E4M3Fn, &[0x38], &[0xB8]),
        (DType::F8E5M2, &[0xBC], &[0x3C]),
        // Neither zero nor NaN has a sign there.
        (DType::F8E4M3Fnuz, &[0x38], &[0xB8]),
        (DType::F8E4M3Fnuz, &[0x00], &[0x00]),
        (DType::F8E5M2Fnuz, &[0x80], &[0x80]),
        (DType::F4E2M1FnX2, &[0x12], &[0x9A]),
        (DType::I8, &[0x80], &[0x80]),
        (DType::I8, &[5], &[0xFB]),
        (DType::U8, &[0], &[0]),
        (DType::I16, &300i16.to_le_bytes(), &(-300i16).to_le_bytes()),
        (DType::U16, &1u16.to_le_bytes(), &0xFFFFu16.to_le_bytes()),
        (DType::I32, &65536i32.to_le_bytes(), &(-65536i32).to_le_bytes()),
        (DType::U32, &0u32.to_le_bytes(), &0u32.to_le_bytes()),
        (DType::I64, &i64::MIN.to_le_bytes(), &i64::MIN.to_le_bytes()),
        (DType::I64, &(-1i64 << 40).to_le_bytes(), &(1i64 << 40).to_le_bytes()),
        (DType::U64, &7u64.to_le_bytes(), &7u64.wrapping_neg().to_le_bytes()),
    ];
    for (dtype, stored, negated) in cases {
        // Several in a row: what is carried within one must not get into the next.
        let (stored, negated) = (stored.repeat(3), negated.repeat(3));
        assert_eq!(written(&one(*dtype, &[3], &stored, &["neg"]), "t"), negated, "{dtype}");
        assert_eq!(written(&one(*dtype, &[3], &stored, &["neg", "conj"]), "t"), negated, "{dtype}");
        let plain = one(*dtype, &[3], &stored, &["conj"]);
        assert_eq!(written(&plain, "t"), stored, "{dtype}");
        assert!(!Held::of(&plain).unwrap().changes(&plain.tensor("t").unwrap()));
    }
}

#[test]
fn packed_floats_are_negated_and_unused_bits_stay_0() {
    let negated = |dtype, shape: u64, bytes: &[u8]| written(&one(dtype, &[shape], bytes, &["neg"]), "t");
    assert_eq!(negated(DType::F4E2M1Fn, 4, &[0x12, 0x34]), [0x9A, 0xBC]);
    assert_eq!(negated(DType::F4E2M1Fn, 3, &[0x12, 0x04]), [0x9A, 0x0C]);
    assert_eq!(negated(DType::F6E2M3Fn, 4, &[0, 0, 0]), [0x20, 0x08, 0x82]);
    assert_eq!(negated(DType::F6E3M2Fn, 5, &[0, 0, 0, 0x01]), [0x20, 0x08, 0x82, 0x21]);
    assert_eq!(negated(DType::F6E3M2Fn, 1, &[0x01]), [0x21]);
}

#[test]
fn complex_numbers_are_conjugated_and_negated() {
    fn check<const N: usize>(dtype: DType, number: impl Fn(i8) -> [u8; N]) {
        let pairs = |pairs: [(i8, i8); 2]| {
            pairs.iter().flat_map(|&(re, im)| [number(re), number(im)].concat()).collect::<Vec<u8>>()
        };
        let stored = pairs([(1, 2), (3, -4)]);
        let said = |flags: &[&str]| written(&one(dtype, &[2], &stored, flags), "t");
        assert_eq!(said(&["conj"]), pairs([(1, -2), (3, 4)]), "{dtype}");
        assert_eq!(said(&["neg"]), pairs([(-1, -2), (-3, 4)]), "{dtype}");
        assert_eq!(said(&["conj", "neg"]), pairs([(-1, 2), (-3, -4)]), "{dtype}");
        assert_eq!(said(&[]), stored, "{dtype}");
    }
    check(DType::C32, |x| dolmen::half::f16::from_f32(x.into()).to_le_bytes());
    check(DType::C64, |x| f32::from(x).to_le_bytes());
    check(DType::C128, |x| f64::from(x).to_le_bytes());
}

#[test]
fn pieces_may_be_cut_anywhere_and_long_tensors_come_in_many() {
    let elements: Vec<i32> = (0..200_001).collect();
    let bytes = |elements: &[i32]| elements.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let negated: Vec<i32> = elements.iter().map(|x| -x).collect();
    let ckpt = one(DType::I32, &[200_001], &bytes(&elements), &["neg"]);
    assert_eq!(written(&ckpt, "t"), bytes(&negated));
    // 6 bits: three bytes are four elements, and pieces are of other lengths.
    let packed = one(DType::F6E2M3Fn, &[400_000], &vec![0; 300_000], &["neg"]);
    assert_eq!(written(&packed, "t"), [0x20, 0x08, 0x82].repeat(100_000));
    // An error stops it.
    let mut pieces = 0;
    let stopped = Held::of(&ckpt).unwrap().stream(&ckpt.tensor("t").unwrap(), |_| {
        pieces += 1;
        Err(dolmen::Error::new(dolmen::ErrorKind::InvalidInput, "enough"))
    });
    assert_eq!((stopped.is_err(), pieces), (true, 1));
}

#[test]
fn strided_tensors_are_changed_in_row_major_order() {
    let mut b = Builder::new();
    let storage = b.storage(f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).unwrap();
    b.view("imag", storage, View::new(DType::F32, [3]).unwrap().strides([2]).unwrap().start(4)).unwrap();
    b.view("fortran", storage, View::new(DType::F32, [3, 2]).unwrap().strides([1, 3]).unwrap()).unwrap();
    b.view("plain", storage, View::new(DType::F32, [3, 2]).unwrap().strides([1, 3]).unwrap().start(0)).unwrap();
    b.document(Value::List(vec![reference("imag", &["neg"]), reference("fortran", &["neg"]), reference("plain", &[])]));
    let ckpt = checkpoint(&b);
    assert_eq!(written(&ckpt, "imag"), f32s(&[-2.0, -4.0, -6.0]));
    assert_eq!(written(&ckpt, "fortran"), f32s(&[-1.0, -4.0, -2.0, -5.0, -3.0, -6.0]));
    let header = |name: &str| {
        let mut file = Vec::new();
        let _ = npy::write_npy(&ckpt.tensor(name).unwrap(), &mut file).unwrap();
        String::from_utf8_lossy(&file[..128]).into_owned()
    };
    assert!(header("fortran").contains("'fortran_order': False"));
    assert!(header("plain").contains("'fortran_order': True"));
}

#[test]
fn names_that_the_document_does_not_mention_are_understood_by_where_they_lie() {
    let make = |mentions: Vec<Value>| {
        let mut b = Builder::new();
        let storage = b.storage(f32s(&[1.0, 2.0, 3.0, 4.0])).unwrap();
        for name in ["first", "second", "tied"] {
            b.view(name, storage, View::new(DType::F32, [2]).unwrap()).unwrap();
        }
        b.view("elsewhere", storage, View::new(DType::F32, [2]).unwrap().start(8)).unwrap();
        b.view("shorter", storage, View::new(DType::F32, [1]).unwrap()).unwrap();
        b.view("complex", storage, View::new(DType::C64, [1]).unwrap()).unwrap();
        b.document(Value::List(mentions));
        checkpoint(&b)
    };
    let plain = make(vec![reference("first", &[]), reference("second", &[])]);
    assert_eq!(written(&plain, "tied"), f32s(&[1.0, 2.0]));
    assert!(Held::of(&plain).unwrap().lost(&plain.tensor("tied").unwrap()).is_empty());

    let agreeing = make(vec![reference("first", &["neg"]), reference("second", &["neg"])]);
    let held = Held::of(&agreeing).unwrap();
    assert!(held.is_neg("tied") && !held.is_conj("tied") && !held.is_quantised("tied"));
    assert_eq!(written(&agreeing, "tied"), f32s(&[-1.0, -2.0]));
    assert_eq!(written(&agreeing, "elsewhere"), f32s(&[3.0, 4.0]));
    assert_eq!(written(&agreeing, "shorter"), f32s(&[1.0]));
    assert_eq!(written(&agreeing, "complex"), f32s(&[1.0, 2.0]));
    assert!(!notes_of(&agreeing).to_string().contains("tied\":"), "nothing is lost");

    let disagreeing = make(vec![reference("first", &["neg"]), reference("second", &[])]);
    assert_eq!(written(&disagreeing, "first"), f32s(&[-1.0, -2.0]));
    assert_eq!(written(&disagreeing, "second"), f32s(&[1.0, 2.0]));
    assert_eq!(written(&disagreeing, "tied"), f32s(&[1.0, 2.0]));
    let notes = notes_of(&disagreeing).to_string();
    assert!(notes.contains("tensor \"tied\": the document says of what lies there"), "{notes}");

    let twice = make(vec![reference("first", &["neg"]), reference("first", &[])]);
    assert_eq!(written(&twice, "first"), f32s(&[1.0, 2.0]));
    let notes = notes_of(&twice).to_string();
    assert!(notes.contains("tensor \"first\": the document says of what lies there"), "{notes}");
}

#[test]
fn what_is_lost_is_noted() {
    let mut b = Builder::new();
    b.tensor("q", TensorData::raw(DType::I8, [2], vec![1, 2]).unwrap()).unwrap();
    b.tensor("flag", TensorData::raw(DType::Bool, [2], vec![0, 1]).unwrap()).unwrap();
    b.document(Value::List(vec![quantised("q"), reference("flag", &["neg"])]));
    let ckpt = checkpoint(&b);
    assert_eq!((written(&ckpt, "q"), written(&ckpt, "flag")), (vec![1, 2], vec![0, 1]));
    let mut notes = vec![notes_of(&ckpt)];
    notes.push(npz::write(&ckpt, Cursor::new(Vec::new())).unwrap());
    for notes in notes {
        let notes = notes.to_string();
        let quantised = "tensor \"q\": it is quantised: its integers are written, without scale and zero point";
        assert!(notes.contains(quantised), "{notes}");
        assert!(
            notes.contains("tensor \"flag\": the document says that it is negated, and bool has no neg"),
            "{notes}"
        );
    }
    let notes = npy::write_npy(&ckpt.tensor("q").unwrap(), std::io::sink()).unwrap();
    assert!(notes.to_string().contains("is quantised"), "{notes}");
}

#[test]
fn only_tensors_that_overlap_are_said_to_share_a_storage() {
    let mut b = Builder::new();
    let storage = b.storage(f32s(&[0.0; 12])).unwrap();
    let view = |n: u64, start: u64| View::new(DType::F32, [n]).unwrap().start(start);
    for (name, n, start) in [("a", 2, 0), ("b", 2, 8), ("empty", 0, 8), ("c", 4, 16), ("z", 1, 16), ("d", 3, 28)] {
        b.view(name, storage, view(n, start)).unwrap();
    }
    let notes = notes_of(&checkpoint(&b)).to_string();
    assert_eq!(notes, "\"c\", \"d\", \"z\" share a storage: each is written on its own\n");
}

#[cfg(feature = "cli")]
mod common;

#[cfg(feature = "cli")]
mod command {
    use super::common::command::Room;
    use super::*;

    /// As PyTorch holds `z = [1+2j, 3-4j]`, its conjugate, and the imaginary part of that.
    fn views() -> Builder<'static> {
        let mut b = Builder::new();
        let storage = b.storage(f32s(&[1.0, 2.0, 3.0, -4.0])).unwrap();
        b.view("z", storage, View::new(DType::C64, [2]).unwrap()).unwrap();
        b.view("conj", storage, View::new(DType::C64, [2]).unwrap()).unwrap();
        b.view("imag", storage, View::new(DType::F32, [2]).unwrap().strides([2]).unwrap().start(4)).unwrap();
        b.tensor("q", TensorData::raw(DType::I8, [2], vec![1, 2]).unwrap()).unwrap();
        b.document(Value::List(vec![
            reference("z", &[]),
            reference("conj", &["conj"]),
            reference("imag", &["neg"]),
            quantised("q"),
        ]));
        b
    }

    /// The same values, as they are.
    fn plain() -> Builder<'static> {
        let mut b = Builder::new();
        let mut add = |name: &str, dtype, elements: &[f32]| {
            b.tensor(name, TensorData::raw(dtype, [2], f32s(elements)).unwrap()).unwrap();
        };
        add("z", DType::C64, &[1.0, 2.0, 3.0, -4.0]);
        add("conj", DType::C64, &[1.0, -2.0, 3.0, 4.0]);
        add("imag", DType::F32, &[-2.0, 4.0]);
        b.tensor("q", TensorData::raw(DType::I8, [2], vec![1, 2]).unwrap()).unwrap();
        b
    }

    #[test]
    fn extract_writes_the_values_that_the_document_says() {
        let room = Room::new();
        room.save("v.dolmen", &views());
        for (name, rows, expected) in [
            ("conj", None, &[1.0, -2.0, 3.0, 4.0][..]),
            ("conj", Some("1.."), &[3.0, 4.0]),
            ("imag", None, &[-2.0, 4.0]),
            ("imag", Some("0..1"), &[-2.0]),
        ] {
            for out in ["out.raw", "out.npy"] {
                let mut args = vec!["extract", "v.dolmen", name, "-o", out];
                args.extend(rows.into_iter().flat_map(|rows| ["--rows", rows]));
                assert_eq!(room.run(&args).code, 0);
                let file = room.read(out);
                let data = if out == "out.npy" { &file[128..] } else { &file };
                assert_eq!(data, f32s(expected), "{args:?}");
            }
        }
        for args in [&["-o", "q.raw"][..], &["-o", "q.npy"], &["-o", "q.npy", "--rows", "1.."]] {
            let ran = room.run(&[&["extract", "v.dolmen", "q"], args].concat());
            assert!(ran.code == 0 && ran.err.starts_with("note: ") && ran.err.contains("is quantised"), "{ran:?}");
            assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
        }
    }

    #[test]
    fn diff_compares_the_values_that_the_documents_say() {
        let room = Room::new();
        room.save("views.dolmen", &views());
        room.save("plain.dolmen", &plain());
        let found = room.json(0, &["diff", "--json", "views.dolmen", "plain.dolmen"]);
        assert_eq!(
            (found["equal_tensors"].as_u64(), found["document"].as_str()),
            (Some(4), Some("removed")),
            "{found}"
        );
        let mut b = views();
        b.document(Value::List(vec![reference("z", &["conj"])]));
        room.save("other.dolmen", &b);
        let found = room.json(0, &["diff", "--json", "views.dolmen", "other.dolmen"]);
        let changed: Vec<&str> =
            found["changed"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
        // `conj` of the other lies where `z` lies, which it says to be conjugated.
        assert_eq!(changed, ["imag", "z"], "{found}");
    }

    #[test]
    fn inspect_shows_what_the_document_says() {
        let room = Room::new();
        room.save("v.dolmen", &views());
        let ran = room.run(&["inspect", "v.dolmen"]);
        let line = |name: &str| ran.out.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap().to_owned();
        assert!(line("conj").ends_with("conj") && !line("conj").contains("= "), "{ran:?}");
        assert!(line("imag").ends_with("neg") && line("q").ends_with("quantised"), "{ran:?}");
        assert!(!line("z").contains("conj"), "{ran:?}");
        let found = room.json(0, &["inspect", "--json", "v.dolmen"]);
        let attributes: BTreeMap<&str, _> = found["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| (t["name"].as_str().unwrap(), t.get("attributes").map(ToString::to_string)))
            .collect();
        assert_eq!(attributes["conj"].as_deref(), Some("{\"conj\":true}"));
        assert_eq!(attributes["imag"].as_deref(), Some("{\"neg\":true}"));
        assert_eq!(attributes["z"], None);
        assert!(attributes["q"].as_ref().is_some_and(|q| q.contains("quantizer")));
    }

    /// `bits.pt` is by PyTorch: z = [1+2j, 3-4j]; the values are those that it shows itself.
    #[cfg(feature = "torch")]
    #[test]
    fn what_pytorch_wrote_has_the_values_that_pytorch_shows() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torch_data/bits.pt");
        let ckpt = Checkpoint::open(file).unwrap();
        for (name, expected) in [
            ("z", &[1.0, 2.0, 3.0, -4.0][..]),
            ("conj", &[1.0, -2.0, 3.0, 4.0]),
            ("neg", &[-2.0, 4.0]),
            ("both", &[-1.0, 2.0, -3.0, -4.0]),
            ("parameter", &[1.0, -2.0, 3.0, 4.0]),
        ] {
            assert_eq!(written(&ckpt, name), f32s(expected), "{name}");
        }
        let room = Room::new();
        for name in ["bits.safetensors", "bits.dolmen"] {
            assert_eq!(room.run(&["convert", file, name]).code, 0);
            let found = room.json(0, &["diff", "--json", file, name]);
            assert_eq!(found["equal_tensors"], 5, "{found}");
        }
    }
}
