//! Vectors: a value and the bytes it is encoded as, in both directions.

use super::super::float::{Shortest, shortest};
use super::super::tag;
use super::*;

#[track_caller]
fn document(value: impl Into<Value>, digits: &str) {
    let (value, bytes) = (value.into(), hex(digits));
    assert_eq!(encode_document(&value).unwrap(), bytes, "encoding {value:?}");
    assert_eq!(decode_document(&bytes).unwrap(), value, "decoding {digits}");
    let mut other_decoder = minicbor::Decoder::new(&bytes);
    other_decoder.skip().unwrap();
    assert_eq!(other_decoder.position(), bytes.len(), "{digits} is one item to others");
}

#[track_caller]
fn metadata<const N: usize>(entries: [(&str, Value); N], digits: &str) {
    let map: BTreeMap<_, _> = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    assert_eq!(encode_metadata(&map).unwrap(), hex(digits));
    assert_eq!(decode_metadata(&hex(digits)).unwrap(), map);
}

#[test]
fn integers_take_the_shortest_form() {
    document(0, "00");
    document(23, "17");
    document(24, "1818");
    document(255, "18ff");
    document(256, "190100");
    document(65535, "19ffff");
    document(65536, "1a00010000");
    document(u32::MAX, "1affffffff");
    document(1_u64 << 32, "1b0000000100000000");
    document(-1, "20");
    document(-24, "37");
    document(-25, "3818");
    document(-256, "38ff");
    document(-257, "390100");
    document(-65537, "3a00010000");
    document(i64::MAX, "1b7fffffffffffffff");
    document(i64::MIN, "3b7fffffffffffffff");
}

#[test]
fn integers_beyond_i64_and_beyond_cbor_integers() {
    document(1_u64 << 63, "1b8000000000000000");
    document(u64::MAX, "1bffffffffffffffff");
    document(i128::from(i64::MIN) - 1, "3b8000000000000000");
    document(-(1_i128 << 64) + 1, "3bfffffffffffffffe");
    document(-(1_i128 << 64), "3bffffffffffffffff");
    document(1_u128 << 64, "c249010000000000000000");
    document(-(1_i128 << 64) - 1, "c349010000000000000000");
    document((1_u128 << 72) - 1, "c249ffffffffffffffffff");
    // The magnitude 2^72 has a byte more than the 2^72 - 1 that is encoded.
    document(-(1_i128 << 72), "c349ffffffffffffffffff");
    document(i128::MIN, "c3507fffffffffffffffffffffffffffffff");
    assert_eq!(decode_document(&hex("1bffffffffffffffff")).unwrap().as_u64(), Some(u64::MAX));
    assert_eq!(decode_document(&hex("3b8000000000000000")).unwrap().as_i64(), None);
}

#[test]
fn integers_have_one_representation() {
    assert!(matches!(Value::integer(false, &[0, 0, 5]), Value::Int(5)));
    assert!(matches!(Value::integer(true, &[]), Value::Int(0)));
    assert!(matches!(Value::from(i64::MAX as u64), Value::Int(i64::MAX)));
    assert!(matches!(Value::integer(true, &(1_u64 << 63).to_be_bytes()), Value::Int(i64::MIN)));
    let Value::BigInt(big) = Value::integer(true, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]) else { panic!() };
    assert_eq!((big.is_negative(), big.magnitude()), (true, &[1, 0, 0, 0, 0, 0, 0, 0, 0][..]));
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn integers_from_and_to_twos_complement() {
    for value in [0, 1, -1, 127, 128, -128, -129, 255, 256, i128::from(i64::MIN), i128::from(i64::MAX)] {
        assert_eq!(Value::integer_from_le_bytes(&value.to_le_bytes()), Value::from(value));
    }
    assert_eq!(Value::integer_from_le_bytes(&[]), Value::Int(0));
    assert_eq!(Value::integer_from_le_bytes(&[0xFF]), Value::Int(-1));
    for bits in 63..126 {
        for value in
            [1 << bits, (1 << bits) - 1, -(1 << bits), -(1 << bits) - 1, -(1 << bits) + 1, (1_i128 << bits) + 1]
        {
            let Value::BigInt(big) = Value::from(value) else { continue };
            let bytes = big.to_le_bytes();
            assert_eq!(Value::integer_from_le_bytes(&bytes), Value::from(value));
            let (last, before) = (bytes[bytes.len() - 1], bytes[bytes.len() - 2]);
            assert!(!(last == 0 && before < 0x80 || last == 0xFF && before >= 0x80), "{value} is minimal: {bytes:?}");
            assert_eq!(big.to_string(), value.to_string());
        }
    }
}

#[test]
fn floats_take_the_shortest_exact_form() {
    document(0.0, "f90000");
    document(-0.0, "f98000");
    document(1.0, "f93c00");
    document(1.5, "f93e00");
    document(65504.0, "f97bff");
    document(two_to(-24), "f90001");
    document(two_to(-14), "f90400");
    document(f64::INFINITY, "f97c00");
    document(f64::NEG_INFINITY, "f9fc00");
    document(65505.0, "fa477fe100");
    document(65536.0, "fa47800000");
    document(two_to(-25), "fa33000000");
    document(100_000.0, "fa47c35000");
    document(f64::from(f32::MAX), "fa7f7fffff");
    document(two_to(-149), "fa00000001");
    document(1.1, "fb3ff199999999999a");
    document(two_to(-150), "fb3690000000000000");
    document(1.0e300, "fb7e37e43c8800759c");
    document(f64::from_bits(1), "fb0000000000000001");
}

#[test]
fn nans_keep_sign_and_payload() {
    document(f64::from_bits(0x7FF8_0000_0000_0000), "f97e00");
    document(f64::from_bits(0xFFF8_0000_0000_0000), "f9fe00");
    // A signalling one.
    document(f64::from_bits(0x7FF0_0400_0000_0000), "f97c01");
    document(f64::from_bits(0xFFFF_FC00_0000_0000), "f9ffff");
    document(f64::from_bits(0x7FF8_0200_0000_0000), "fa7fc01000");
    document(f64::from_bits(0xFFF0_0000_2000_0000), "faff800001");
    document(f64::from_bits(0x7FF0_0000_1000_0000), "fb7ff0000010000000");
    document(f64::from_bits(0x7FF8_0000_0000_0001), "fb7ff8000000000001");
    document(f64::from_bits(0xFFF0_0000_0000_0001), "fbfff0000000000001");
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn every_half_is_its_own_shortest_form() {
    for bits in 0..=u16::MAX {
        assert_eq!(shortest(Shortest::Half(bits).widen()), Shortest::Half(bits));
    }
}

#[test]
fn text_and_bytes() {
    document("", "60");
    document("a", "6161");
    document("ü\0", "63c3bc00");
    document("x".repeat(24), &format!("7818{}", "78".repeat(24)));
    document(Value::Bytes(vec![]), "40");
    document(Value::Bytes(vec![1, 2]), "420102");
    document(Value::ByteArray(vec![1, 2]), "da444f4c07420102");
    document(Value::from_wtf8(hex("61eda080")).unwrap(), "da444f4c084461eda080");
    // Two surrogates that would make a pair, each encoded on its own.
    document(Value::Wtf8(hex("eda0bdedb880")), "da444f4c0846eda0bdedb880");
    assert_eq!(Value::from_wtf8(b"abc".to_vec()).unwrap(), Value::from("abc"));
    for bad in ["ff", "ed", "eda0", "ed9f", "eda0c0", "c0af", "eda080ff"] {
        assert!(Value::from_wtf8(hex(bad)).is_err(), "{bad}");
    }
}

#[test]
fn simple_values_and_collections() {
    document(Value::Null, "f6");
    document(false, "f4");
    document(true, "f5");
    document(vec![], "80");
    document(vec![Value::from(1), Value::List(vec![Value::Null])], "820181f6");
    document(Value::Tuple(texts(&["a"])), "da444f4c02816161");
    document(Value::Set(texts(&["b", "a"])), "da444f4c038261626161");
    document(Value::FrozenSet(vec![]), "da444f4c0480");
    document(Value::Complex(1.0, -0.0), "d9a7f882f93c00f98000");
}

#[test]
fn dictionaries_keep_order_and_keys_of_any_kind() {
    document(Dict::new(), "da444f4c0580");
    document(Dict::from([(Value::from("b"), Value::from(1)), (Value::from(2), Value::Null)]), "da444f4c058461620102f6");
    let mut ordered = Dict::from([("a", 1)]);
    ordered.kind = DictKind::Ordered;
    document(ordered.clone(), "da444f4c0684676f726465726564 82616101 f6 f6");
    ordered.attributes = Some(Box::new(Dict::new().into()));
    document(ordered, "da444f4c0684676f726465726564 82616101 f6 da444f4c0580");
    let mut default = Dict::of_kind(DictKind::Default);
    default.factory = Some(Box::new(Value::global("b", "int")));
    document(default, "da444f4c06846764656661756c7480 da444f4c09826162 63696e74 f6");
    document(Dict::of_kind(DictKind::Counter), "da444f4c068467636f756e74657280f6f6");
}

#[test]
fn tensors_globals_and_objects() {
    document(Value::tensor("w"), "da444f4c016177");
    document(TensorRef::list("w"), "da444f4c01826177a16261736 46c697374");
    let mut held = TensorRef::new("w");
    held.attributes =
        BTreeMap::from([("b".into(), 1.into()), ("aa".into(), 2.into()), ("a".into(), Value::tensor("v"))]);
    document(held, "da444f4c01826177a3 6161da444f4c016176 616201 62616102");
    document(Value::global("m", "n"), "da444f4c0982616d616e");
    let mut object = Object::new(Global::new("m", "n"));
    document(object.clone(), "da444f4c0aa1 65636c617373da444f4c0982616d616e");
    object.state = Some(Value::Null);
    object.args = Some(Value::Tuple(vec![]));
    object.kwargs = Some(vec![("k".into(), 1.into())]);
    object.items = Some(vec![2.into()]);
    object.entries = Some(vec![(3.into(), 4.into())]);
    object.new = Some("r".into());
    document(
        object.clone(),
        "da444f4c0aa7 636e65776172 6461726773da444f4c0280 65636c617373da444f4c0982616d616e 656974656d738102 \
         657374617465f6 666b7761726773da444f4c0582616b01 67656e7472696573820304",
    );
    object.args = Some(vec![].into());
    assert_eq!(decode_document(&encode_document(&object.clone().into()).unwrap()).unwrap(), object.into());
}

#[test]
fn shared_values_refer_back_and_to_what_encloses_them() {
    document(Value::Shareable(Box::new(vec![Value::SharedRef(0)].into())), "d81c81d81d00");
    let inner = Value::Shareable(Box::new(vec![Value::SharedRef(0), Value::SharedRef(1)].into()));
    document(Value::Shareable(Box::new(vec![inner, Value::SharedRef(1)].into())), "d81c82d81c82d81d00d81d01d81d01");
    // Keys of a tensor's map come in the order of their encodings, and so do the numbers.
    let mut tensor = TensorRef::new("w");
    tensor.attributes.insert("aa".into(), Value::SharedRef(0));
    tensor.attributes.insert("b".into(), Value::Shareable(Box::new(Value::Null)));
    document(tensor, "da444f4c01826177a2 6162d81cf6 626161d81d00");
}

#[test]
fn metadata_is_a_map_sorted_by_encoding() {
    metadata([("a", 1.into())], "a1616101");
    metadata([("aa", 1.into()), ("b", 2.into()), ("", 3.into())], "a36003616202 62616101");
    let map = BTreeMap::from([("k".to_owned(), Value::Null)]);
    metadata([("m", vec![map.into(), BTreeMap::new().into()].into())], "a1616d82a1616bf6a0");
    metadata([("t", Value::Tuple(vec![1.into()]))], "a16174da444f4c028101");
    metadata([("d", Dict::from([(1, 2)]).into())], "a16164da444f4c05820102");
}

#[test]
fn tags_are_those_of_the_specification() {
    let spec = include_str!("../../../../spec/format.md");
    let table = spec.split("<!-- table: tags -->").nth(1).unwrap();
    let rows =
        table.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let rows: Vec<(u64, &str)> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let number = match cells[1].strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
                None => cells[1].parse().unwrap(),
            };
            (number, cells[2])
        })
        .collect();
    assert_eq!(rows, tag::ALL);
}

#[test]
fn accessors_look_through_marks() {
    let dict = Value::from(Dict::from([("a", Value::from(1.5)), ("b", Value::from(7)), ("a", Value::from(2.5))]));
    let marked = Value::Shareable(Box::new(Value::Shareable(Box::new(dict))));
    assert_eq!(marked.get("a").and_then(Value::as_f64), Some(2.5));
    assert_eq!(marked.get("b").and_then(Value::as_f64), Some(7.0));
    assert_eq!(marked.get("b").and_then(Value::as_i64), Some(7));
    assert_eq!(marked.get("c"), None);
    assert_eq!(Value::from((1_i64 << 53) + 1).as_f64(), None);
    assert_eq!(Value::from(-(1_i64 << 53)).as_f64(), Some(-two_to(53)));
    assert_eq!(Value::from(vec![Value::Null]).as_slice().map(<[Value]>::len), Some(1));
    assert_eq!(Value::from_iter(["a"]).as_slice().and_then(|items| items[0].as_str()), Some("a"));
    assert_eq!(Value::from(None::<i64>), Value::Null);
}

#[test]
fn floats_are_equal_by_their_bits() {
    assert_eq!(Value::from(f64::NAN), Value::from(f64::NAN));
    assert_ne!(Value::from(f64::NAN), Value::from(-f64::NAN));
    assert_ne!(Value::from(0.0), Value::from(-0.0));
    assert_ne!(Value::Complex(0.0, 1.0), Value::Complex(-0.0, 1.0));
    assert_ne!(Value::from(1.0), Value::from(1));
}

#[test]
fn tensor_names_come_in_the_order_of_the_encoding() {
    let mut object = Object::new(Global::new("m", "n"));
    object.entries = Some(vec![(Value::tensor("6"), Value::tensor("7"))]);
    object.args = Some(Value::Tuple(vec![Value::tensor("0"), Value::tensor("1")]));
    object.kwargs = Some(vec![("k".into(), Value::tensor("5"))]);
    object.items = Some(vec![Value::tensor("2"), Value::tensor("3")]);
    object.state = Some(Value::Shareable(Box::new(Value::tensor("4"))));
    let mut dict = Dict::of_kind(DictKind::Default);
    dict.attributes = Some(Box::new(Value::tensor("d")));
    dict.factory = Some(Box::new(Value::tensor("c")));
    dict.push(Value::tensor("a"), Value::tensor("b"));
    let mut held = TensorRef::new("8");
    held.attributes = BTreeMap::from([("aa".into(), Value::tensor("!")), ("b".into(), Value::tensor("9"))]);
    let value = Value::from(vec![object.into(), held.into(), dict.into()]);
    assert_eq!(value.tensor_names().collect::<String>(), "0123456789!abcd");
    let bytes = encode_document(&value).unwrap();
    let name_at = |bytes: &[u8]| match bytes {
        [0xDA, 0x44, 0x4F, 0x4C, 0x01, 0x61, name, ..] | [0xDA, 0x44, 0x4F, 0x4C, 0x01, 0x82, 0x61, name, ..] => {
            Some(*name)
        }
        _ => None,
    };
    let in_bytes: Vec<u8> = (0..bytes.len()).filter_map(|at| name_at(&bytes[at..])).collect();
    assert_eq!(in_bytes, b"0123456789!abcd");
}

/// What a hostile list of small values costs in memory is this, for each byte of the file.
#[test]
fn values_are_small() {
    assert_eq!(size_of::<Value>(), 32);
}
