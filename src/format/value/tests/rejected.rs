//! What is rejected, in reading and in writing, and why.

use super::*;
use crate::error::ErrorKind;

#[track_caller]
fn document(rule: &str, at: u64, digits: &str) {
    let error = decode_document(&hex(digits)).expect_err(digits);
    assert_eq!((error.kind(), error.rule(), error.offset()), (ErrorKind::Malformed, Some(rule), Some(at)), "{error}");
}

#[track_caller]
fn metadata(rule: &str, at: u64, digits: &str) {
    let error = decode_metadata(&hex(digits)).expect_err(digits);
    assert_eq!((error.kind(), error.rule(), error.offset()), (ErrorKind::Malformed, Some(rule), Some(at)), "{error}");
}

#[test]
fn numbers_not_in_their_shortest_form() {
    for digits in ["1817", "1900ff", "1a0000ffff", "1b00000000ffffffff"] {
        for major in 0..7 {
            let mut bytes = hex(digits);
            bytes[0] |= major << 5;
            bytes.extend([0; 300]);
            let error = decode_document(&bytes).unwrap_err();
            assert_eq!((error.rule(), error.offset()), (Some("VAL-1"), Some(0)));
            assert!(error.to_string().contains("shortest"), "{error}");
        }
    }
    document("VAL-1", 1, "811800");
}

#[test]
fn indefinite_lengths_and_reserved_forms() {
    for digits in ["5f40ff", "7f60ff", "9fff", "bfff", "ff", "1f", "3f", "df00"] {
        document("VAL-1", 0, digits);
    }
    for major in 0..8_u8 {
        for info in 28..31 {
            document("VAL-1", 0, &format!("{:02x}", major << 5 | info));
        }
    }
}

#[test]
fn simple_values_other_than_three() {
    for first in 0xE0..=0xF3 {
        document("VAL-1", 0, &format!("{first:02x}"));
    }
    for digits in ["f7", "f814", "f820", "f8ff"] {
        document("VAL-1", 0, digits);
    }
}

#[test]
fn floats_not_in_their_shortest_form() {
    for digits in [
        "fa3f800000",
        "fb3ff0000000000000",
        "fa00000000",
        "fa7f800000",
        "fa7fc00000",
        "fa7f802000",
        "fb3ff0000020000000",
        "fb7ff8000000000000",
        "fb7ff0000020000000",
        "fb36a0000000000000",
    ] {
        document("VAL-1", 0, digits);
    }
}

#[test]
fn keys_out_of_order_twice_or_no_text() {
    metadata("VAL-1", 4, "a2616201616102");
    metadata("VAL-1", 4, "a2616101616102");
    metadata("VAL-1", 5, "a262616101616202");
    metadata("VAL-5", 1, "a10102");
    metadata("VAL-5", 4, "a16161a1f600");
    document("VAL-6", 9, "da444f4c01826177a10102");
    document("VAL-6", 6, "da444f4c0aa10102");
    document("VAL-1", 12, "da444f4c01826177a2616201616101");
    // "args" after "class".
    document("VAL-1", 22, "da444f4c0aa2 65636c617373da444f4c0982616d616e 646172677380");
}

#[test]
fn missing_and_trailing_bytes() {
    document("VAL-1", 0, "");
    document("VAL-1", 1, "0000");
    metadata("VAL-1", 4, "a161610100");
    for digits in ["18", "19ff", "1b00", "4261", "6261", "81", "f9", "f900", "fb00000000000000", "d81c", "8261", "d9a7"]
    {
        document("VAL-1", (digits.len() / 2) as u64, digits);
    }
}

#[test]
fn text_that_is_no_utf8() {
    document("VAL-1", 2, "6261ff");
    document("VAL-1", 1, "63eda080");
    metadata("VAL-1", 2, "a161ff00");
}

#[test]
fn tags_that_are_not_listed() {
    for digits in [
        "c000",
        "c11a514b67b0",
        "c482 0001",
        "d81e820102",
        "d9d9f700",
        "da444f4c0080",
        "da444f4c0b80",
        "db0000000100000000f6",
    ] {
        document("VAL-2", 0, digits);
        metadata("VAL-2", 3, &format!("a16161{digits}"));
    }
}

#[test]
fn tags_with_other_content() {
    // Bignums: no byte string, too small, with a leading zero, empty.
    document("VAL-2", 1, "c200");
    document("VAL-2", 1, "c248ffffffffffffffff");
    document("VAL-2", 1, "c348ffffffffffffffff");
    document("VAL-2", 1, "c24a00010000000000000000");
    document("VAL-2", 1, "c240");
    // References: to what has not begun, no unsigned integer.
    document("VAL-2", 2, "d81d00");
    document("VAL-2", 6, "82d81cf6d81d01");
    document("VAL-2", 3, "82d81d00d81cf6");
    document("VAL-2", 4, "d81cd81d20");
    document("VAL-2", 4, "d81cd81d60");
    // Complex numbers.
    document("VAL-2", 3, "d9a7f881f93c00");
    document("VAL-2", 3, "d9a7f883f93c00f93c00f93c00");
    document("VAL-2", 4, "d9a7f88201f93c00");
    document("VAL-2", 7, "d9a7f882f93c0001");
    // Tensors: no name, no map, an empty map, too much.
    document("VAL-2", 5, "da444f4c0100");
    document("VAL-2", 5, "da444f4c01816177");
    document("VAL-2", 6, "da444f4c018200a1616101");
    document("VAL-2", 8, "da444f4c0182617700");
    document("VAL-2", 8, "da444f4c01826177a0");
    document("VAL-2", 5, "da444f4c01836177a1616101f6");
    // Sequences.
    for tag in ["da444f4c02", "da444f4c03", "da444f4c04", "da444f4c05"] {
        document("VAL-2", 5, &format!("{tag}00"));
        document("VAL-2", 5, &format!("{tag}da444f4c0280"));
    }
    // Dictionaries.
    document("VAL-2", 5, "da444f4c058101");
    document("VAL-2", 5, "da444f4c0683676f72646572656480f6");
    document("VAL-2", 6, "da444f4c06846464696374 80f6f6");
    document("VAL-2", 6, "da444f4c06840080f6f6");
    document("VAL-2", 14, "da444f4c0684676f726465726564 00f6f6");
    document("VAL-2", 14, "da444f4c0684676f726465726564 8101f6f6");
    // Byte strings.
    document("VAL-2", 5, "da444f4c076161");
    document("VAL-2", 5, "da444f4c086161");
    document("VAL-2", 5, "da444f4c084161");
    document("VAL-2", 5, "da444f4c0840");
    document("VAL-2", 5, "da444f4c0841ff");
    // Globals.
    document("VAL-2", 5, "da444f4c0960");
    document("VAL-2", 5, "da444f4c098160");
    document("VAL-2", 5, "da444f4c0983606060");
    document("VAL-2", 7, "da444f4c09826000");
    // Objects: no map, no class, an unknown key, wrong content of each key.
    document("VAL-2", 5, "da444f4c0a80");
    document("VAL-2", 5, "da444f4c0aa0");
    document("VAL-2", 5, "da444f4c0aa1657374617465f6");
    document("VAL-2", 6, "da444f4c0aa1616100");
    // The class itself may be any item; what is wrong within it is wrong.
    document("VAL-2", 17, "da444f4c0aa165636c617373da444f4c0960");
    let class = "65636c617373da444f4c09826060";
    document("VAL-2", 10, &format!("da444f4c0aa2636e657700{class}"));
    document("VAL-2", 11, &format!("da444f4c0aa26461726773da444f4c0580{class}"));
    document("VAL-2", 11, &format!("da444f4c0aa26461726773d81c80{class}"));
    document("VAL-2", 26, &format!("da444f4c0aa2{class}656974656d7300"));
    document("VAL-2", 27, &format!("da444f4c0aa2{class}666b776172677380"));
    document("VAL-2", 28, &format!("da444f4c0aa2{class}67656e74726965738101"));
}

#[test]
fn metadata_with_what_only_documents_hold() {
    for value in ["da444f4c016177", "d81cf6", "d81d00", "da444f4c09826060", "da444f4c0aa165636c617373da444f4c09826060"]
    {
        metadata("VAL-5", 3, &format!("a16161{value}"));
        metadata("VAL-5", 9, &format!("a16161da444f4c0281{value}"));
    }
    metadata("VAL-5", 0, "a0");
    metadata("VAL-5", 0, "80");
    metadata("VAL-5", 0, "da444f4c0580");
}

#[test]
fn documents_with_plain_maps() {
    document("VAL-6", 0, "a0");
    document("VAL-6", 0, "a1616101");
    document("VAL-6", 1, "81a0");
    document("VAL-6", 11, "da444f4c01826177a16161a0");
}

#[test]
fn lengths_that_the_bytes_do_not_pay_for() {
    for major in [2, 3, 4, 5_u8] {
        for len in [1_u64 << 32, 1 << 40, 1 << 63, u64::MAX] {
            let mut bytes = vec![major << 5 | 27];
            bytes.extend(len.to_be_bytes());
            let error =
                decode_metadata(&bytes).and(decode_metadata(&[&[0xA1, 0x60][..], &bytes].concat())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(decode_metadata(&[&[0xA1, 0x60][..], &bytes].concat()).unwrap_err().rule() == Some("VAL-1"));
        }
    }
    // Each array claims all the bytes that are left, which together are many times the bytes there are.
    let mut bytes = Vec::new();
    for _ in 0..500 {
        bytes.extend([0x9A, 0x00, 0x0F, 0x00, 0x00]);
    }
    bytes.resize(1 << 20, 0);
    let error = decode_document(&bytes).unwrap_err();
    assert_eq!(error.rule(), Some("VAL-1"));
    assert!(error.to_string().contains("longer than its section"), "{error}");
}

#[test]
fn values_that_cannot_be_written_as_they_are() {
    #[track_caller]
    fn refused(value: impl Into<Value>) {
        let value = value.into();
        let error = encode_document(&value).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        let error = encode_document(&vec![value].into()).expect_err("refused within a list");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    refused(BTreeMap::new());
    refused(Value::Wtf8(b"valid".to_vec()));
    refused(Value::Wtf8(vec![]));
    refused(Value::Wtf8(vec![0xFF]));
    refused(Value::SharedRef(0));
    refused(vec![Value::Shareable(Box::new(Value::Null)), Value::SharedRef(1)]);
    refused(vec![Value::SharedRef(0), Value::Shareable(Box::new(Value::Null))]);
    refused(Value::Shareable(Box::new(Value::Shareable(Box::new(Value::Null)))));
    refused(Value::Shareable(Box::new(Value::SharedRef(0))));
    let mut counter = Dict::of_kind(DictKind::Counter);
    counter.factory = Some(Box::new(Value::Bool(true)));
    refused(counter);
    let mut dict = Dict::new();
    dict.attributes = Some(Box::new(Value::Bool(true)));
    refused(dict.clone());
    dict.kind = DictKind::Ordered;
    dict.attributes = Some(Box::new(Value::Null));
    refused(dict);
    let mut dict = Dict::new();
    dict.factory = Some(Box::new(Value::Bool(true)));
    refused(dict);
    let mut object = Object::new(Global::new("m", "n"));
    object.args = Some(Value::Set(vec![]));
    refused(object.clone());
    object.args = Some(Value::Shareable(Box::new(Value::Tuple(vec![]))));
    refused(object);
    let mut tensor = TensorRef::new("w");
    tensor.attributes.insert("k".into(), BTreeMap::new().into());
    refused(tensor);
}

#[test]
fn metadata_that_cannot_be_written() {
    let refused = |value: Value| {
        let error = encode_metadata(&BTreeMap::from([("k".to_owned(), vec![value].into())])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    };
    assert!(encode_metadata(&BTreeMap::new()).is_err());
    refused(Value::tensor("w"));
    refused(Value::global("m", "n"));
    refused(Object::new(Global::new("m", "n")).into());
    refused(Value::Shareable(Box::new(Value::Null)));
    refused(Value::SharedRef(0));
}
