//! Properties of arbitrary values and arbitrary bytes.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<u32>().prop_map(|bits| f64::from(f32::from_bits(bits))),
        any::<i16>().prop_map(f64::from),
        (any::<bool>(), 0..52_u32)
            .prop_map(|(sign, bit)| f64::from_bits(u64::from(sign) << 63 | 0x7FF << 52 | 1 << bit)),
    ]
}

fn integer() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<i128>().prop_map(Value::from),
        (any::<bool>(), vec(any::<u8>(), 0..20)).prop_map(|(negative, bytes)| Value::integer(negative, &bytes)),
        (0..127_u32, -2..3_i128).prop_map(|(bit, near)| Value::from((1_i128 << bit).saturating_add(near))),
        (0..127_u32, -2..3_i128).prop_map(|(bit, near)| Value::from((-1_i128 << bit).saturating_add(near))),
    ]
}

fn wtf8() -> impl Strategy<Value = Value> {
    let piece = prop_oneof![Just(vec![0xED, 0xA0, 0xBD]), Just(vec![0xED, 0xBF, 0xBF]), Just("ü€".into())];
    vec(piece, 0..4).prop_map(|pieces| Value::from_wtf8(pieces.concat()).unwrap())
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        integer(),
        float().prop_map(Value::from),
        (float(), float()).prop_map(|(real, imaginary)| Value::Complex(real, imaginary)),
        ".{0,30}".prop_map(Value::from),
        wtf8(),
        vec(any::<u8>(), 0..30).prop_map(Value::Bytes),
        vec(any::<u8>(), 0..30).prop_map(Value::ByteArray),
    ]
}

fn document_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => leaf(),
        1 => "[a-z.]{0,5}".prop_map(Value::tensor),
        1 => ("[a-z.]{0,5}", "[a-z]{0,5}").prop_map(|(module, name)| Value::global(module, name)),
        1 => any::<u64>().prop_map(Value::SharedRef),
    ]
}

fn pairs(value: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Vec<(Value, Value)>> + Clone {
    vec((value.clone(), value), 0..4)
}

fn kind() -> impl Strategy<Value = DictKind> + Clone {
    prop_oneof![Just(DictKind::Plain), Just(DictKind::Ordered), Just(DictKind::Default), Just(DictKind::Counter)]
}

fn not_null(value: Value) -> Option<Box<Value>> {
    if value == Value::Null { None } else { Some(Box::new(value)) }
}

/// What metadata and documents can both hold.
fn collection(value: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> {
    let extra = proptest::option::of(value.clone());
    prop_oneof![
        vec(value.clone(), 0..5).prop_map(Value::List),
        vec(value.clone(), 0..5).prop_map(Value::Tuple),
        vec(value.clone(), 0..5).prop_map(Value::Set),
        vec(value.clone(), 0..5).prop_map(Value::FrozenSet),
        (kind(), pairs(value), extra.clone(), extra).prop_map(|(kind, entries, factory, attributes)| {
            let mut dict = Dict { kind, entries, ..Dict::default() };
            if kind == DictKind::Default {
                dict.factory = factory.and_then(not_null);
            }
            if kind != DictKind::Plain {
                dict.attributes = attributes.and_then(not_null);
            }
            dict.into()
        }),
    ]
}

fn object(value: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> {
    let option = proptest::option::of::<BoxedStrategy<Value>>;
    let args = (any::<bool>(), vec(value.clone(), 0..3));
    let args = args.prop_map(|(tuple, items)| if tuple { Value::Tuple(items) } else { Value::List(items) });
    (
        option(args.boxed()),
        proptest::option::of(pairs(value.clone())),
        option(value.clone().boxed()),
        proptest::option::of(vec(value.clone(), 0..3)),
        proptest::option::of(pairs(value)),
        proptest::option::of("[a-z]{0,5}"),
    )
        .prop_map(|(args, kwargs, state, items, entries, new)| {
            let class = Global::new("m", "n");
            Object { class: class.into(), args, kwargs, state, items, entries, new }.into()
        })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,4}", ".{0,30}"]
}

fn raw_document() -> impl Strategy<Value = Value> {
    document_leaf().prop_recursive(6, 60, 5, |inner| {
        prop_oneof![
            3 => collection(inner.clone()),
            1 => object(inner.clone()),
            1 => ("[a-z]{0,5}", btree_map(key(), inner.clone(), 0..4))
                .prop_map(|(name, attributes)| TensorRef { name, attributes }.into()),
            2 => inner.prop_map(|value| match value {
                shared @ (Value::Shareable(_) | Value::SharedRef(_)) => shared,
                value => Value::Shareable(Box::new(value)),
            }),
        ]
    })
}

/// An arbitrary document: references are made to refer to what has begun before them.
fn document() -> impl Strategy<Value = Value> {
    raw_document().prop_map(|mut value| {
        point_back(&mut value, &mut 0);
        value
    })
}

/// Walks in the order of the encoding, which this repeats on purpose.
fn point_back(value: &mut Value, begun: &mut u64) {
    let in_pairs = |pairs: &mut Vec<(Value, Value)>, begun: &mut u64| {
        for (key, value) in pairs {
            point_back(key, begun);
            point_back(value, begun);
        }
    };
    match value {
        Value::SharedRef(_) if *begun == 0 => *value = Value::Null,
        Value::SharedRef(number) => *number %= *begun,
        Value::Shareable(inner) => {
            *begun += 1;
            point_back(inner, begun);
        }
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items.iter_mut().for_each(|item| point_back(item, begun));
        }
        Value::Dict(dict) => {
            in_pairs(&mut dict.entries, begun);
            for extra in [&mut dict.factory, &mut dict.attributes] {
                extra.iter_mut().for_each(|value| point_back(value, begun));
                *extra = extra.take().and_then(|value| not_null(*value));
            }
        }
        Value::Tensor(tensor) => {
            let mut values: Vec<_> = tensor.attributes.iter_mut().collect();
            values.sort_by_key(|(key, _)| minicbor::to_vec(key).unwrap());
            values.into_iter().for_each(|(_, value)| point_back(value, begun));
        }
        Value::Object(object) => {
            object.args.iter_mut().for_each(|value| point_back(value, begun));
            object.items.iter_mut().flatten().for_each(|value| point_back(value, begun));
            object.state.iter_mut().for_each(|value| point_back(value, begun));
            object.kwargs.iter_mut().for_each(|pairs| in_pairs(pairs, begun));
            object.entries.iter_mut().for_each(|pairs| in_pairs(pairs, begun));
        }
        _ => {}
    }
}

fn metadata() -> impl Strategy<Value = BTreeMap<String, Value>> {
    let value = leaf().prop_recursive(
        6,
        60,
        5,
        |inner| prop_oneof![3 => collection(inner.clone()), 1 => btree_map(key(), inner, 0..4).prop_map(Value::Map)],
    );
    btree_map(key(), value, 1..5)
}

/// Bytes put together of pieces that mean something.
fn plausible_bytes() -> impl Strategy<Value = Vec<u8>> {
    let tags = (0..=0x0B_u8).prop_map(|low| vec![0xDA, 0x44, 0x4F, 0x4C, low]);
    let piece = prop_oneof![
        tags,
        (0..8_u8, 0..5_u8).prop_map(|(major, info)| vec![major << 5 | info]),
        Just(vec![0xD8, 0x1C]),
        Just(vec![0xD8, 0x1D, 0x00]),
        Just(vec![0xF6]),
        Just(vec![0x60]),
        Just(vec![0xD9, 0xA7, 0xF8, 0x82]),
        Just(hex("65636c617373da444f4c09826060")),
        Just(hex("67636f756e746572")),
        vec(any::<u8>(), 0..3),
    ];
    vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

/// What is accepted encodes to itself.
fn accepts_only_what_it_writes(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(value) = decode_document(bytes) {
        prop_assert_eq!(encode_document(&value).unwrap(), bytes);
    }
    if let Ok(value) = decode_metadata(bytes) {
        prop_assert_eq!(encode_metadata(&value).unwrap(), bytes);
    }
    Ok(())
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn documents_come_back_as_they_were(value in document()) {
        let bytes = encode_document(&value).unwrap();
        prop_assert_eq!(decode_document(&bytes).unwrap(), value.clone());
        let shareables = value.descendants().filter(|value| matches!(value, Value::Shareable(_))).count();
        let marks = bytes.windows(2).filter(|pair| *pair == [0xD8, 0x1C]).count();
        prop_assert!(shareables <= marks);
        let _ = value.tree(TreeOptions::default()).to_string();
        #[cfg(feature = "cli")]
        let _ = value.to_json();
    }

    #[test]
    fn values_are_visited_in_the_order_in_which_they_are_met(mut value in document()) {
        let met: Vec<Value> = value.descendants().cloned().collect();
        let mut visited = Vec::new();
        value.visit_mut(|value| visited.push(value.clone()));
        prop_assert_eq!(visited, met);
        value.visit_mut(|value| if matches!(value, Value::Float(_)) { *value = Value::Null });
        prop_assert!(!value.descendants().any(|value| matches!(value, Value::Float(_))));
    }

    #[test]
    fn metadata_comes_back_as_it_was(map in metadata()) {
        let bytes = encode_metadata(&map).unwrap();
        prop_assert_eq!(decode_metadata(&bytes).unwrap(), map);
    }

    #[test]
    fn equal_values_have_equal_encodings(a in document(), b in document()) {
        let encodings = (encode_document(&a).unwrap(), encode_document(&b).unwrap());
        prop_assert_eq!(a == b, encodings.0 == encodings.1);
        prop_assert_eq!(a.clone(), a);
    }

    #[test]
    fn arbitrary_bytes_are_accepted_only_as_written(bytes in vec(any::<u8>(), 0..40)) {
        accepts_only_what_it_writes(&bytes)?;
    }

    #[test]
    fn plausible_bytes_are_accepted_only_as_written(bytes in plausible_bytes()) {
        accepts_only_what_it_writes(&bytes)?;
        accepts_only_what_it_writes(&[&[0xA1, 0x60][..], &bytes].concat())?;
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn changed_documents_are_accepted_only_as_written(
        value in document(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        change in 0..3,
    ) {
        let mut bytes = encode_document(&value).unwrap();
        let at = at.index(bytes.len());
        match change {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            _ => { bytes.remove(at); }
        }
        accepts_only_what_it_writes(&bytes)?;
        // No accepted item is the beginning of another.
        prop_assert!(decode_document(&encode_document(&value).unwrap()[..at]).is_err());
    }

    #[test]
    fn every_float_comes_back_bit_by_bit(value in float()) {
        let bytes = encode_document(&Value::Float(value)).unwrap();
        let Value::Float(back) = decode_document(&bytes).unwrap() else { panic!() };
        prop_assert_eq!(back.to_bits(), value.to_bits());
    }
}

/// All sequences of up to three bytes: small enough to try each.
#[test]
fn short_bytes_are_accepted_only_as_written() {
    for n in 0..1_u32 << 24 {
        let [_, bytes @ ..] = n.to_be_bytes();
        if n < 1 << 16 {
            accepts_only_what_it_writes(&bytes[1..]).unwrap();
        }
        if matches!(bytes[0], 0x18..=0x19 | 0x38 | 0x58 | 0x62 | 0x81..=0x83 | 0xA1 | 0xC2 | 0xD8 | 0xF8..=0xFB) {
            accepts_only_what_it_writes(&bytes).unwrap();
        }
    }
}
