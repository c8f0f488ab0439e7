//! Depth: its limit, and that the stack of a thread is enough for all that has it.

use super::*;
use crate::error::ErrorKind;

/// One more level, or more, around a value.
type Wrap = fn(Value) -> Value;

fn object(state: Value) -> Value {
    let mut object = Object::new(Global::new("", ""));
    object.state = Some(state);
    object.into()
}

fn other_dict(value: Value) -> Value {
    let mut dict = Dict::of_kind(DictKind::Default);
    dict.attributes = Some(Box::new(value));
    dict.into()
}

fn tensor(value: Value) -> Value {
    let mut tensor = TensorRef::new("");
    tensor.attributes.insert(String::new(), value);
    tensor.into()
}

fn object_part(choice: usize, value: Value) -> Value {
    let mut object = Object::new(Global::new("", ""));
    match choice {
        0 => object.args = Some(vec![value].into()),
        1 => object.items = Some(vec![value]),
        2 => object.kwargs = Some(vec![(value, Value::Null)]),
        _ => object.entries = Some(vec![(Value::Null, value)]),
    }
    object.into()
}

/// Each way to nest; how many levels it takes; and how many more the deepest of what it holds besides takes.
const WAYS: [(Wrap, usize, usize); 13] = [
    (|value| vec![value].into(), 1, 0),
    (|value| Value::Shareable(Box::new(vec![value].into())), 2, 0),
    (|value| Value::Tuple(vec![value]), 2, 0),
    (|value| Value::FrozenSet(vec![value]), 2, 0),
    (|value| Dict::from([(Value::Null, value)]).into(), 2, 0),
    (|value| Dict::from([(value, Value::Null)]).into(), 2, 0),
    (other_dict, 2, 1),
    (object, 2, 2),
    (tensor, 3, 0),
    (|value| object_part(0, value), 3, 1),
    (|value| object_part(1, value), 3, 1),
    (|value| object_part(2, value), 4, 0),
    (|value| object_part(3, value), 3, 1),
];

fn nested(wrap: Wrap, times: usize, innermost: Value) -> Value {
    (0..times).fold(innermost, |value, _| wrap(value))
}

/// Uses a value in each way that this room offers.
fn use_all_of(value: &Value) {
    assert!(value.clone() == *value);
    assert!(!format!("{value:?}").is_empty());
    assert!(value.descendants().count() > 100);
    assert!(value.tree(TreeOptions::default()).to_string().len() > 10);
    let deep = TreeOptions { max_depth: usize::MAX, ..TreeOptions::default() };
    assert!(value.tree(deep).to_string().len() > 10);
    #[cfg(feature = "cli")]
    assert!(!value.to_json().to_string().is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn values_nest_1024_deep_and_no_deeper() {
    on_a_thread(|| {
        for (i, (wrap, levels, besides)) in WAYS.into_iter().enumerate() {
            let times = (MAX_DEPTH - besides) / levels;
            let value = nested(wrap, times, Value::from(false));
            let value = nested(|value| vec![value].into(), MAX_DEPTH - besides - times * levels, value);
            let bytes = encode_document(&value).unwrap_or_else(|error| panic!("way {i}: {error}"));
            let decoded = decode_document(&bytes).unwrap_or_else(|error| panic!("way {i}: {error}"));
            assert!(decoded == value, "way {i}");
            use_all_of(&decoded);

            let deeper = Value::List(vec![value]);
            assert_eq!(encode_document(&deeper).unwrap_err().kind(), ErrorKind::InvalidInput, "way {i}");
            let error = decode_document(&[&[0x81], &bytes[..]].concat()).unwrap_err();
            assert_eq!(error.rule(), Some("VAL-3"), "way {i}: {error}");
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn depth_counts_arrays_tags_and_maps_alike() {
    let arrays = |n| vec![0x81; n];
    let rule = |bytes: Vec<u8>| decode_document(&bytes).err().and_then(|error| error.rule());
    assert_eq!(rule([arrays(1024), vec![0]].concat()), None);
    assert_eq!(rule([arrays(1025), vec![0]].concat()), Some("VAL-3"));
    assert_eq!(rule([arrays(1023), vec![0x80]].concat()), None);
    assert_eq!(rule([arrays(1024), vec![0x80]].concat()), Some("VAL-3"));
    let bignum = hex("c249010000000000000000");
    assert_eq!(rule([arrays(1023), bignum.clone()].concat()), None);
    assert_eq!(rule([arrays(1024), bignum].concat()), Some("VAL-3"));
    for (with_content, levels) in
        [("da444f4c0280", 2), ("d9a7f882f90000f90000", 2), ("da444f4c0740", 1), ("da444f4c0160", 1), ("d81cf6", 1)]
    {
        assert_eq!(rule([arrays(1024 - levels), hex(with_content)].concat()), None, "{with_content}");
        assert_eq!(rule([arrays(1025 - levels), hex(with_content)].concat()), Some("VAL-3"), "{with_content}");
    }
    let maps = |n: usize| decode_metadata(&[[0xA1, 0x60].repeat(n), vec![0]].concat());
    assert!(maps(1024).is_ok());
    assert_eq!(maps(1025).unwrap_err().rule(), Some("VAL-3"));
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn writing_agrees_with_reading_on_what_a_level_is() {
    for leaf in [
        Value::Null,
        Value::from(u128::MAX),
        Value::from(u64::MAX),
        Value::Complex(0.0, 0.0),
        Value::ByteArray(vec![]),
        Value::Wtf8(hex("eda080")),
        Value::tensor("w"),
        TensorRef::list("w").into(),
        Value::global("m", "n"),
        object(Value::Null),
        Value::Tuple(vec![]),
        Dict::of_kind(DictKind::Counter).into(),
    ] {
        for depth in 1015..=1025 {
            let value = nested(|value| vec![value].into(), depth, leaf.clone());
            let within = encode_document(&leaf).unwrap();
            let bytes = [vec![0x81; depth], within].concat();
            assert_eq!(encode_document(&value).is_ok(), decode_document(&bytes).is_ok(), "{leaf:?} {depth} deep");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes minutes there")]
fn bytes_of_any_depth_are_refused_without_recursing() {
    on_a_thread(|| {
        for repeated in ["81", "d81c", "da444f4c0281", "c2", "da444f4c0aa165636c617373", "a160", "da444f4c0582f6"] {
            let bytes = hex(repeated).repeat(1 << 18);
            assert!(decode_document(&bytes).is_err());
            assert!(decode_metadata(&[hex("a160"), bytes].concat()).is_err());
        }
    });
}
