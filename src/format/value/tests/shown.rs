//! What people and programs are shown.

use super::*;

fn sample() -> Value {
    let mut state = Dict::from([("w", Value::tensor("model.w")), ("h", TensorRef::list("hist").into())]);
    state.kind = DictKind::Ordered;
    let mut object = Object::new(Global::new("argparse", "Namespace"));
    object.args = Some(Value::Tuple(vec![]));
    object.state = Some(Dict::from([("lr", 0.5)]).into());
    Dict::from([
        (Value::from("model"), Value::Shareable(Box::new(state.into()))),
        (Value::from("again"), Value::SharedRef(0)),
        (Value::Tuple(vec![Value::from("a"), Value::from(1)]), (0..100).collect()),
        (Value::from("names"), Value::from_iter(["x\u{1b}[31m", "y", "z"])),
        (Value::from("args"), object.into()),
    ])
    .into()
}

#[test]
fn a_tree_shows_nesting_and_shortens_what_is_long() {
    let options = TreeOptions { max_items: 5, ..TreeOptions::default() };
    let expected = r#"
dict of 5
├─ "model": #0 ordered dict of 2
│  ├─ "w": tensor "model.w"
│  └─ "h": tensor "hist" (list)
├─ "again": see #0
├─ ("a", 1): list of 100: [0, 1, 2, 3, 4, … 95 more]
├─ "names": list of 3: ["x\u{1b}[31m", "y", "z"]
└─ "args": object argparse.Namespace
   └─ .lr: 0.5"#;
    assert_eq!(sample().tree(options).to_string(), expected.trim_start());
}

#[test]
fn a_tree_keeps_to_its_limits() {
    let options = TreeOptions { max_items: 2, max_text: 3, max_depth: 1, ..TreeOptions::default() };
    let expected = "dict of 5\n├─ \"mod\"…: #0 ordered dict of 2\n├─ \"aga\"…: see #0\n└─ … 3 more";
    assert_eq!(sample().tree(options).to_string(), expected);
    let value = Value::from(vec![Value::Bytes(vec![0xAB; 9]), "long".into(), Value::integer(true, &[9; 9])]);
    let options = TreeOptions { max_text: 3, ..TreeOptions::default() };
    let expected = "list of 3\n├─ 0: bytes, 9 bytes: ababab…\n├─ 1: \"lon\"…\n└─ 2: integer of 9 bytes";
    assert_eq!(value.tree(options).to_string(), expected);
}

#[test]
fn a_tree_shows_attributes_and_counts_those_with_nothing_in_them() {
    let mut module = Object::new(Global::new("torch.nn", "Linear"));
    module.args = Some(Value::Tuple(vec![]));
    module.new = Some("newobj".to_owned());
    let parameters = Dict::from([("weight", Value::tensor("w")), ("bias", Value::Null)]);
    let hooks = || Value::from(Dict::of_kind(DictKind::Ordered));
    let state = Dict::from([
        ("training", Value::from(true)),
        ("_parameters", parameters.into()),
        ("_hooks", hooks()),
        ("_more\u{1b}", Value::Null),
        ("_buffers", Value::Set(vec![])),
        ("hooks", hooks()),
    ]);
    module.state = Some(state.into());
    let module = Value::from(module);
    let describe = |name: &str| (name == "w").then(|| "f32 [2, 3]".to_owned());
    let expected = r#"
object torch.nn.Linear
├─ .training: true
├─ ._parameters: dict of 2
│  ├─ "weight": tensor "w" f32 [2, 3]
│  └─ "bias": null
├─ .hooks: ordered dict of 0
└─ … 3 empty"#;
    assert_eq!(module.tree(TreeOptions::default()).describe(&describe).to_string(), expected.trim_start());
    let options = TreeOptions { max_items: 1, ..TreeOptions::default() };
    let expected = "object torch.nn.Linear\n├─ .training: true\n└─ … 2 more, 3 empty";
    assert_eq!(module.tree(options).to_string(), expected);
    let mut call = Object::new(Global::new("torch._utils", "_rebuild_sparse_tensor"));
    call.args = Some(Value::Tuple(vec![Value::Tuple(vec![3.into()]), Value::tensor("w")]));
    let expected = "object torch._utils._rebuild_sparse_tensor\n├─ 0: tuple of 1: (3,)\n└─ 1: tensor \"w\"";
    assert_eq!(Value::from(call).tree(TreeOptions::default()).to_string(), expected);
    // What is no dictionary of names, or can be referred to, is shown as what it is.
    for (state, line) in
        [(Value::from(5), "state: 5"), (Value::Shareable(Box::new(hooks())), "state: #0 ordered dict of 0")]
    {
        let mut object = Object::new(Global::new("m", "C"));
        object.state = Some(state);
        assert_eq!(Value::from(object).tree(TreeOptions::default()).to_string(), format!("object m.C\n└─ {line}"));
    }
}

#[test]
fn a_tree_shows_long_lists_and_tables_in_part() {
    let options = TreeOptions { max_list: 2, ..TreeOptions::default() };
    let long: Value = (0..5).map(|i| format!("{i}{}", "x".repeat(30))).collect();
    let row = |i: i64| (format!("r{i}"), Dict::from([("version", i)]));
    let value = Value::from(Dict::from([("long", long), ("table", Dict::from_iter((0..5).map(row)).into())]));
    let expected = r#"
dict of 2
├─ "long": list of 5
│  ├─ 0: "0xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
│  ├─ 1: "1xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
│  └─ … 3 more
└─ "table": dict of 5
   ├─ "r0": dict of 1: {"version": 0}
   ├─ "r1": dict of 1: {"version": 1}
   └─ … 3 more"#;
    assert_eq!(value.tree(options).to_string(), expected.trim_start());
}

#[test]
fn a_tree_names_each_kind() {
    let mut default = Dict::of_kind(DictKind::Default);
    default.factory = Some(Box::new(Value::global("builtins", "int")));
    let mut held = TensorRef::new("w");
    held.attributes.insert("as".to_owned(), "parameter\u{1b}".into());
    held.attributes.insert("location".to_owned(), "cuda:0".into());
    held.attributes.insert("requires_grad".to_owned(), true.into());
    held.attributes.insert("state".to_owned(), Dict::from([("k", 1)]).into());
    let mut call = Object::new(Global::new("torch", "Size"));
    call.args = Some(Value::Tuple(vec![Value::Tuple(vec![2.into(), 3.into()])]));
    let mut maker = Object::new(Global::new("m", "make"));
    maker.args = Some(Value::Tuple(vec![]));
    let mut made = Object::new(maker);
    made.new = Some("newobj".to_owned());
    let value = Value::from(vec![
        default.into(),
        Value::Complex(1.0, -2.0),
        Value::FrozenSet(vec![1.into(), Value::Null]),
        BTreeMap::from([("k".to_owned(), Value::from(f64::NAN))]).into(),
        Value::Wtf8(hex("eda080")),
        held.into(),
        call.into(),
        made.into(),
    ]);
    let expected = r#"
list of 8
├─ 0: default dict of 0
│  └─ (factory): builtins.int
├─ 1: (1.0, -2.0i)
├─ 2: frozenset of 2: {1, null}
├─ 3: map of 1
│  └─ "k": NaN
├─ 4: text with surrogates, 3 bytes: eda080
├─ 5: tensor "w" (parameter\u{1b}, location "cuda:0", requires_grad)
│  └─ "state": dict of 1: {"k": 1}
├─ 6: torch.Size((2, 3))
└─ 7: object of a class that is an object
   └─ class: m.make()"#;
    assert_eq!(value.tree(TreeOptions::default()).to_string(), expected.trim_start());
}

#[test]
fn long_integers_are_shown_in_hexadecimal() {
    let Value::BigInt(big) = Value::integer(true, &[0x10; 1025]) else { panic!() };
    assert!(big.to_string().starts_with("-0x1010"));
    let Value::BigInt(big) = Value::integer(false, &[0xFF; 1024]) else { panic!() };
    let digits = big.to_string();
    assert_eq!((digits.len(), &digits[..10], &digits[digits.len() - 5..]), (2467, "1090748135", "92895"));
}

#[cfg(feature = "cli")]
#[test]
fn json_leaves_nothing_out() {
    let json = |value: Value| value.to_json().to_string();
    assert_eq!(
        json(sample()),
        r#"{"$dict":[["model",{"$shareable":{"$ordered":{"w":{"$tensor":"model.w"},"h":{"$tensor":"hist","as":"list"}}}}],["again",{"$shared_ref":0}],[{"$tuple":["a",1]},LIST],["names",["x\u001b[31m","y","z"]],["args",{"$object":{"class":"argparse.Namespace","args":{"$tuple":[]},"state":{"lr":0.5}}}]]}"#
            .replace("LIST", &serde_json::Value::from_iter(0..100).to_string())
    );
    assert_eq!(json(Value::from(1_i64 << 53)), "9007199254740992");
    assert_eq!(json(Value::from((1_i64 << 53) + 1)), r#"{"$int":"9007199254740993"}"#);
    assert_eq!(json(Value::from(-(1_i128 << 64))), r#"{"$int":"-18446744073709551616"}"#);
    assert_eq!(json(Value::from(-0.0)), "-0.0");
    assert_eq!(json(Value::from(f64::NEG_INFINITY)), r#"{"$float":"fff0000000000000"}"#);
    assert_eq!(json(Value::Complex(1.0, f64::INFINITY)), r#"{"$complex":[1.0,{"$float":"7ff0000000000000"}]}"#);
    assert_eq!(json(Value::Bytes(vec![0, 255])), r#"{"$bytes":"00ff"}"#);
    assert_eq!(json(Value::ByteArray(vec![1])), r#"{"$bytearray":"01"}"#);
    assert_eq!(json(Value::Wtf8(hex("eda080"))), r#"{"$wtf8":"eda080"}"#);
    assert_eq!(json(Value::global("m", "n")), r#"{"$global":"m.n"}"#);
    assert_eq!(json(Value::Set(vec![1.into()])), r#"{"$set":[1]}"#);
    assert_eq!(json(Value::FrozenSet(vec![])), r#"{"$frozenset":[]}"#);
    assert_eq!(json(Dict::from([("a", 1), ("b", 2)]).into()), r#"{"a":1,"b":2}"#);
    assert_eq!(json(Dict::from([("a", 1), ("a", 2)]).into()), r#"{"$dict":[["a",1],["a",2]]}"#);
    assert_eq!(json(Dict::from([("$a", 1)]).into()), r#"{"$dict":[["$a",1]]}"#);
    assert_eq!(json(BTreeMap::from([("$a".to_owned(), Value::Null)]).into()), r#"{"$map":[["$a",null]]}"#);
    let mut counter = Dict::of_kind(DictKind::Counter);
    counter.push(1, 2);
    counter.attributes = Some(Box::new(true.into()));
    assert_eq!(json(counter.into()), r#"{"$counter":[[1,2]],"attributes":true}"#);
    let mut tensor = TensorRef::new("w");
    tensor.attributes.insert("$tensor".into(), 1.into());
    assert_eq!(json(tensor.into()), r#"{"$tensor":"w","$attributes":{"$tensor":1}}"#);
}
