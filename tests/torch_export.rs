//! Writing PyTorch's checkpoints: what is written is read again as what it was, lies where PyTorch expects it, and says what a default load
//! would refuse. That PyTorch itself agrees, `tests/torch_random.py` shows.
#![cfg(all(feature = "torch", feature = "npy"))]

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use dolmen::foreign::torch::{ExportOptions, LIST_LEN, vocabulary, write};
use dolmen::foreign::{ConvertOptions, Notes, convert};
use dolmen::format::value::{Dict, DictKind, Global, Object, TensorRef};
use dolmen::half::{bf16, f16};
use dolmen::{Builder, Checkpoint, DType, ErrorKind, TensorData, Value, View};
use proptest::prelude::*;

/// Builds, writes, and reads what was written.
fn exported(builder: &Builder<'_>, options: ExportOptions) -> (Vec<u8>, Checkpoint, Notes) {
    let checkpoint = Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap();
    let mut bytes = Vec::new();
    let notes = write(&checkpoint, &mut bytes, options).unwrap();
    let read = Checkpoint::from_bytes(&bytes).unwrap_or_else(|e| panic!("{e}"));
    (bytes, read, notes)
}

/// A Dolmen file of everything that a checkpoint holds.
fn dolmen(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut builder = Builder::new();
    builder.checkpoint(checkpoint).unwrap();
    builder.to_vec().unwrap()
}

/// Asserts that a document is the same when it was written and read, and that another round changes nothing.
fn assert_kept(builder: &Builder<'_>) -> Notes {
    let original = Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap();
    let (bytes, read, notes) = exported(builder, ExportOptions::new());
    assert_eq!(read.document().unwrap(), original.document().unwrap());
    let first = dolmen(&read);
    let mut again = Vec::new();
    let _ = write(&Checkpoint::from_bytes(&first).unwrap(), &mut again, ExportOptions::new()).unwrap();
    assert!(again == bytes, "another round gives another .pt");
    assert!(dolmen(&Checkpoint::from_bytes(&again).unwrap()) == first, "another round gives another .dolmen");
    notes
}

fn holding(document: impl Into<Value>) -> Builder<'static> {
    let mut builder = Builder::new();
    builder.document(document.into());
    builder
}

fn shareable(value: impl Into<Value>) -> Value {
    Value::Shareable(Box::new(value.into()))
}

fn call(module: &str, name: &str, args: Vec<Value>) -> Object {
    let mut object = Object::new(Global::new(module, name));
    object.args = Some(Value::Tuple(args));
    object
}

#[test]
fn every_kind_of_value_is_kept() {
    let mut ordered = Dict::from([("weight", 1)]);
    ordered.kind = DictKind::Ordered;
    ordered.attributes = Some(Box::new(Dict::from([("_metadata", Value::Null)]).into()));
    let mut default = Dict::of_kind(DictKind::Default);
    default.factory = Some(Box::new(Value::global("builtins", "list")));
    default.push(1, 2);
    let mut counter = Dict::of_kind(DictKind::Counter);
    counter.push("a", 3);
    let mut namespace = call("argparse", "Namespace", vec![]);
    namespace.state = Some(Dict::from([("lr", 0.5)]).into());
    let mut deque = call("collections", "deque", vec![Value::Tuple(vec![]), Value::Null]);
    deque.items = Some(vec![1.into(), 2.into()]);
    let mut mapping = call("m", "Mapping", vec![]);
    mapping.entries = Some(vec![(1.into(), 2.into()), ("k".into(), Value::Null)]);
    mapping.new = Some("newobj".to_owned());
    let mut named = call("m", "Named", vec![1.into()]);
    named.new = Some("newobj_ex".to_owned());
    named.kwargs = Some(vec![("b".into(), 2.into())]);
    let mut extension = Object::new(Value::Null);
    extension.new = Some("extension".to_owned());
    extension.args = Some(Value::Tuple(vec![70_000.into()]));
    let mut curried = Object::new(call("functools", "partial", vec![Value::global("builtins", "int")]));
    curried.args = Some(Value::Tuple(vec!["7".into()]));
    let surrogate = Value::from_wtf8(vec![b'a', 0xED, 0xA0, 0x80]).unwrap();
    let numbers = [0, 255, 256, 65_535, 65_536, -1, i64::from(i32::MIN), i64::MAX, i64::MIN].map(Value::from);
    let huge = [
        Value::integer(false, &[1; 9]),
        Value::integer(true, &[0x80; 300]),
        Value::integer(true, &[1, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let nan = f64::from_bits(0x7FF8_0000_0000_1234);
    let notes = assert_kept(&holding(vec![
        Value::Null,
        true.into(),
        Value::Tuple(vec![]),
        Value::Tuple(vec![1.into(), 2.into(), 3.into(), 4.into()]),
        Value::List(numbers.into()),
        Value::List(huge.into()),
        Value::List(vec![nan.into(), (-0.0).into(), f64::NEG_INFINITY.into()]),
        Value::Complex(1.5, f64::NAN),
        "größe".into(),
        surrogate,
        Value::Bytes((0..=255).collect()),
        Value::Bytes(vec![]),
        Value::ByteArray(vec![0, 200]),
        Value::ByteArray(vec![]),
        Value::Set(vec![1.into(), Value::Tuple(vec!["a".into()])]),
        Value::FrozenSet(vec!["x".into()]),
        Dict::from([(Value::from(1), Value::from("a")), (Value::Null, Value::from(2.5))]).into(),
        ordered.into(),
        default.into(),
        counter.into(),
        Value::global("torch", "float32"),
        Value::global("m", "Outer.Inner"),
        call("torch", "Size", vec![Value::Tuple(vec![2.into(), 3.into()])]).into(),
        namespace.into(),
        deque.into(),
        mapping.into(),
        named.into(),
        extension.into(),
        curried.into(),
    ]));
    let told: Vec<&str> = notes.iter().collect();
    assert_eq!(told.len(), 3, "{notes}");
    assert!(told[0].contains("what can run code: \"functools.partial\""), "{notes}");
    for name in ["argparse.Namespace", "builtins.frozenset", "collections.defaultdict", "m.Outer"] {
        assert!(told[1].contains(name), "{name}: {notes}");
    }
    for what in ["extension registry", "255 bytes", "classes within classes"] {
        assert!(told[2].contains(what), "{what}: {notes}");
    }
}

#[test]
fn what_is_shared_stays_shared_and_what_contains_itself_still_does() {
    // A list in itself; a dictionary whose value leads back; an object whose state is itself.
    let mut node = call("m", "Node", vec![]);
    node.state = Some(Dict::from([("me", Value::SharedRef(2))]).into());
    assert!(
        !assert_kept(&holding(vec![
            shareable(vec![Value::SharedRef(0)]),
            shareable(Dict::from([("up", Value::SharedRef(1))])),
            shareable(node),
            Value::SharedRef(0),
            Value::SharedRef(2),
        ]))
        .is_empty()
    );
    // A long text and an empty list, each twice.
    let text = shareable("x".repeat(100));
    let empty = shareable(Value::List(vec![]));
    assert!(assert_kept(&holding(vec![text, empty, Value::SharedRef(0), Value::SharedRef(1)])).is_empty());
    // Before what it is called on stands what it is called with: the numbers follow the document, not the pickle.
    let mut object = Object::new(call("m", "make", vec![Value::SharedRef(0)]));
    object.args = Some(Value::Tuple(vec![shareable(vec![Value::from(1)])]));
    let _ = assert_kept(&holding(object));
}

#[test]
fn a_tuple_that_contains_itself_is_written_as_python_does_it() {
    let inner = Value::List(vec![Value::SharedRef(0), "x".into()]);
    let tuple = shareable(Value::Tuple(vec!["before".into(), inner, Value::List(vec!["after".into()])]));
    let notes = assert_kept(&holding(tuple));
    assert!(notes.to_string().contains("contains itself"), "{notes}");
    // An object that nothing else refers to leads back by its state, which it is given when it is made already.
    let mut namespace = call("argparse", "Namespace", vec![]);
    namespace.state = Some(Dict::from([("x", Value::from(1)), ("t", Value::SharedRef(0))]).into());
    let _ = assert_kept(&holding(shareable(Value::Tuple(vec![namespace.into()]))));
    let mut counter = Dict::of_kind(DictKind::Counter);
    counter.push("a", 1);
    counter.attributes = Some(Box::new(Dict::from([("t", Value::SharedRef(0))]).into()));
    let _ = assert_kept(&holding(shareable(Value::Tuple(vec![counter.into()]))));
    // The same through an object's arguments.
    let mut call = call("m", "make", vec![]);
    call.args = Some(Value::Tuple(vec![Value::List(vec![Value::SharedRef(0)])]));
    let _ = assert_kept(&holding(shareable(call)));
}

#[test]
fn a_tuple_directly_in_itself_can_be_written_by_nobody() {
    let builder = holding(shareable(Value::Tuple(vec![Value::SharedRef(0)])));
    let checkpoint = Checkpoint::from_bytes(&builder.to_vec().unwrap()).unwrap();
    let e = write(&checkpoint, Vec::new(), ExportOptions::new()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert!(e.to_string().contains("contains itself"), "{e}");
}

fn held(name: &str, attributes: &[(&str, Value)]) -> TensorRef {
    let mut held = TensorRef::new(name);
    held.attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    held
}

#[test]
fn tensors_keep_how_they_were_held() {
    let floats: Vec<f32> = (0..24u8).map(f32::from).collect();
    let mut b = Builder::new();
    b.tensor("a", (&floats, [4, 6])).unwrap();
    let storage = b.storage_of("a").unwrap();
    let view = |shape: [u64; 2], strides: [u64; 2]| View::new(DType::F32, shape).unwrap().strides(strides).unwrap();
    b.view("t", storage, view([6, 4], [1, 6])).unwrap();
    b.view("e", storage, view([3, 2], [0, 1]).start(40)).unwrap();
    b.view("one", storage, view([1, 6], [99, 1])).unwrap();
    b.tensor("c", TensorData::raw(DType::C64, [1], vec![7; 8]).unwrap()).unwrap();
    b.tensor("f8", TensorData::raw(DType::F8E5M2, [3], vec![1, 2, 3]).unwrap()).unwrap();
    b.tensor("q", (&[1i8, 2], [2])).unwrap();
    b.tensor("u", (&[9u8, 8], [2])).unwrap();
    b.tensor("s", (&[1i16, 2], [2])).unwrap();
    b.tensor("empty", TensorData::raw(DType::BF16, [0, 3], vec![]).unwrap()).unwrap();
    let quantizer = Value::Tuple(vec![Value::global("torch", "per_tensor_affine"), 0.5.into(), 3.into()]);
    let metadata = Dict::from([("x", 1)]);
    let document = Dict::from([
        ("a", held("a", &[("as", "parameter".into()), ("requires_grad", true.into()), ("location", "cuda:0".into())])),
        ("t", held("t", &[("as", "parameter".into()), ("state", Dict::from([("note", 1)]).into())])),
        ("e", held("e", &[("requires_grad", true.into()), ("hooks", Value::List(vec![1.into()]))])),
        ("one", held("one", &[("type", Value::global("m", "Sub")), ("state", Dict::from([("k", 1)]).into())])),
        ("c", held("c", &[("conj", true.into()), ("neg", true.into()), ("metadata", metadata.into())])),
        ("f8", TensorRef::new("f8")),
        ("q", held("q", &[("quantizer", quantizer), ("dtype", "qint8".into())])),
        ("u", held("u", &[("as", "untyped_storage".into())])),
        ("s", held("s", &[("as", "storage".into())])),
        ("empty", TensorRef::new("empty")),
    ]);
    b.document(document.into());
    let notes = assert_kept(&b);
    assert_eq!(notes.to_string().matches("m.Sub").count(), 1, "{notes}");

    let (_, read, _) = exported(&b, ExportOptions::new());
    for (name, shape, strides) in
        [("a", [4, 6], [6, 1]), ("t", [6, 4], [1, 6]), ("e", [3, 2], [0, 1]), ("one", [1, 6], [99, 1])]
    {
        let tensor = read.tensor(name).unwrap();
        assert_eq!((tensor.shape(), &*tensor.strides()), (&shape[..], &strides[..]), "{name}");
        assert_eq!(tensor.storage(), read.tensor("a").unwrap().storage());
        assert_eq!(tensor.storage_bytes().unwrap(), bytes_of(&floats));
    }
    assert_eq!(read.tensor("e").unwrap().start(), 40);
}

fn bytes_of(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn tensors_of_several_dtypes_over_one_storage_share_one_of_bytes() {
    let mut b = Builder::new();
    b.tensor("f", (&[1.0f32, 2.0], [2])).unwrap();
    let storage = b.storage_of("f").unwrap();
    b.view("i", storage, View::new(DType::I16, [4]).unwrap()).unwrap();
    b.document(Dict::from([("f", Value::tensor("f")), ("i", Value::tensor("i"))]).into());
    assert!(assert_kept(&b).is_empty());
}

#[test]
fn lists_come_back_as_lists_and_are_narrowed_only_without_loss() {
    let exact: Vec<f32> = (0..200u8).map(|i| f32::from(i) / 8.0).collect();
    let long: Vec<i64> = (0..2500).map(|i| i - 5).collect();
    let mut b = Builder::new();
    b.tensor("exact", &exact).unwrap();
    b.tensor("doubles", &[0.1f64; LIST_LEN]).unwrap();
    b.tensor("ints", &long).unwrap();
    b.tensor("flags", &[true; 100]).unwrap();
    let names = ["exact", "doubles", "ints", "flags"];
    let mut document = Dict::new();
    names.iter().for_each(|name| document.push(*name, TensorRef::list(*name)));
    b.document(document.into());
    let notes = assert_kept(&b);
    assert!(notes.is_empty(), "{notes}");
}

#[test]
fn lists_of_other_dtypes_and_ranks_become_python_numbers() {
    let (halves, brain) = ([f16::from_f32(0.5), f16::NEG_INFINITY], [bf16::from_f32(1.5)]);
    let mut b = Builder::new();
    b.tensor("half", &halves).unwrap();
    b.tensor("brain", &brain).unwrap();
    b.tensor("byte", &[200u8, 1]).unwrap();
    b.tensor("short", &[-2i16]).unwrap();
    b.tensor("large", &[u64::MAX]).unwrap();
    b.tensor("grid", (&[1i32, 2, 3, 4, 5, 6], [3, 2])).unwrap();
    b.tensor("cube", (&[1u8; 8], [2, 2, 2])).unwrap();
    b.tensor("none", TensorData::raw(DType::F32, [2, 0], vec![]).unwrap()).unwrap();
    b.tensor("lone", (&[7i64], ())).unwrap();
    b.tensor("complex", TensorData::raw(DType::C64, [1], [1f32.to_le_bytes(), 2f32.to_le_bytes()].concat()).unwrap())
        .unwrap();
    let names = ["half", "brain", "byte", "short", "large", "grid", "cube", "none", "lone", "complex"];
    b.document(names.iter().map(|name| Value::from(TensorRef::list(*name))).collect());
    let (_, read, _) = exported(&b, ExportOptions::new());
    let list = |items: Vec<Value>| Value::List(items);
    let ones = || list(vec![1.into(), 1.into()]);
    assert_eq!(
        read.document().unwrap().unwrap(),
        list(vec![
            list(vec![0.5.into(), f64::NEG_INFINITY.into()]),
            list(vec![1.5.into()]),
            list(vec![200.into(), 1.into()]),
            list(vec![(-2).into()]),
            list(vec![u64::MAX.into()]),
            list(vec![list(vec![1.into(), 2.into()]), list(vec![3.into(), 4.into()]), list(vec![5.into(), 6.into()])]),
            list(vec![list(vec![ones(), ones()]), list(vec![ones(), ones()])]),
            list(vec![list(vec![]), list(vec![])]),
            7.into(),
            list(vec![Value::Complex(1.0, 2.0)]),
        ])
    );
}

#[test]
fn arrays_come_back_in_their_order_and_byte_order() {
    let numbers: Vec<f64> = (0..600u16).map(f64::from).collect();
    let mut b = Builder::new();
    b.tensor("long", (&numbers, [30, 20])).unwrap();
    b.tensor("short", (&[1i32, -2, 3, -4, 5, -6], [2, 3])).unwrap();
    let storage = b.storage_of("short").unwrap();
    b.view("column_major", storage, View::new(DType::I32, [3, 2]).unwrap().strides([1, 3]).unwrap()).unwrap();
    b.view("swapped", storage, View::new(DType::I32, [2, 3]).unwrap()).unwrap();
    let bytes: Vec<u8> = (0..24).collect();
    b.tensor("cube", (&bytes, [2, 3, 4])).unwrap();
    let cube = b.storage_of("cube").unwrap();
    b.view("permuted", cube, View::new(DType::U8, [3, 4, 2]).unwrap().strides([4, 1, 12]).unwrap()).unwrap();
    b.tensor("scalar", (&[2.5f32], ())).unwrap();
    b.tensor("empty", TensorData::raw(DType::U8, [0, 2], vec![]).unwrap()).unwrap();
    let array = |name: &str| held(name, &[("as", "array".into())]);
    b.document(
        [
            array("long"),
            array("short"),
            array("column_major"),
            held("swapped", &[("as", "array".into()), ("byte_order", "big".into())]),
            held("scalar", &[("as", "scalar".into())]),
            array("empty"),
            array("permuted"),
        ]
        .into_iter()
        .map(Value::from)
        .collect(),
    );
    let (_, read, notes) = exported(&b, ExportOptions::new());
    assert!(notes.to_string().contains("numpy.ndarray"), "{notes}");
    // Names follow the document; content and order are what they were.
    assert_eq!(read.tensor("0").unwrap().as_slice::<f64>().unwrap(), numbers);
    assert_eq!(read.tensor("1").unwrap().to_vec::<i32>().unwrap(), [1, -2, 3, -4, 5, -6]);
    let column_major = read.tensor("2").unwrap();
    assert_eq!(&*column_major.strides(), [1, 3]);
    assert_eq!(column_major.to_vec::<i32>().unwrap(), [1, -4, -2, 5, 3, -6]);
    assert_eq!(read.tensor("3").unwrap().to_vec::<i32>().unwrap(), [1, -2, 3, -4, 5, -6]);
    assert_eq!(read.tensor("4").unwrap().to_vec::<f32>().unwrap(), [2.5]);
    let permuted = read.tensor("6").unwrap();
    assert_eq!((permuted.shape(), &*permuted.strides()), (&[3, 4, 2][..], &[4, 1, 12][..]));
    assert_eq!(permuted.storage_bytes().unwrap()[permuted.start() as usize..][..24], bytes);
    let kept = read.document().unwrap().unwrap();
    assert_eq!(kept.as_slice().unwrap()[3].as_tensor().unwrap().attributes["byte_order"], "big".into());
    let first = dolmen(&read);
    let mut again = Vec::new();
    let _ = write(&Checkpoint::from_bytes(&first).unwrap(), &mut again, ExportOptions::new()).unwrap();
    assert!(dolmen(&Checkpoint::from_bytes(&again).unwrap()) == first);
}

#[test]
fn only_tensors_are_written_if_that_is_asked_for() {
    let mut b = Builder::new();
    b.tensor("w", (&[1.0f32, 2.0], [2])).unwrap();
    b.tensor("x", (&[1i64], [1])).unwrap();
    b.tensor("unmentioned", (&[1u8], [1])).unwrap();
    let mut object = call("m", "Model", vec![]);
    let w = held("w", &[("as", "parameter".into()), ("requires_grad", true.into()), ("neg", true.into())]);
    object.state = Some(Dict::from([("x", Value::from(TensorRef::list("x"))), ("w", w.into())]).into());
    b.document(object.into());
    b.metadata("k", "v");
    let (_, read, notes) = exported(&b, ExportOptions::new().tensors_only(true));
    let document = read.document().unwrap().unwrap();
    let keys: Vec<&str> = document.as_dict().unwrap().entries.iter().map(|(key, _)| key.as_str().unwrap()).collect();
    assert_eq!(keys, ["x", "w", "unmentioned"]);
    assert_eq!(
        document.get("w").unwrap().as_tensor().unwrap().attributes,
        BTreeMap::from([("neg".to_owned(), true.into())])
    );
    assert!(document.get("x").unwrap().as_tensor().unwrap().attributes.is_empty());
    let told = notes.to_string();
    assert!(told.contains("the document is left out") && told.contains("the metadata (1 entry)"), "{told}");
    assert!(!told.contains("torch.load"), "{told}");

    let (_, read, notes) = exported(&b, ExportOptions::new());
    // A list of one number is no tensor when it is read again.
    assert_eq!(read.len(), 1);
    assert!(notes.to_string().contains("does not mention \"unmentioned\""), "{notes}");
}

#[test]
fn tied_tensors_are_found_under_each_of_their_names() {
    let mut b = Builder::new();
    b.tensor("first", (&[1.0f32, 2.0], [2])).unwrap();
    let tied = [("first", shareable(Value::tensor("first"))), ("second", Value::SharedRef(0))];
    b.document(Dict::from(tied).into());
    let (_, read, notes) = exported(&b, ExportOptions::new());
    assert!(notes.is_empty(), "{notes}");
    assert_eq!(read.tensor("second").unwrap().as_slice::<f32>().unwrap(), [1.0, 2.0]);
    assert_eq!((read.len(), read.storage_count()), (2, 1));
    assert!(assert_kept_read(&read).is_empty());
    // Each stands for itself when only tensors are written; what one is understood as, the other is too.
    let mut bytes = Vec::new();
    let _ = write(&read, &mut bytes, ExportOptions::new().tensors_only(true)).unwrap();
    let flat = Checkpoint::from_bytes(&bytes).unwrap();
    let names: Vec<&str> = flat.tensors().map(|tensor| tensor.unwrap().name()).collect();
    assert_eq!((names, flat.storage_count()), (vec!["first", "second"], 1));
}

/// Asserts that what was read is written and read as the same.
fn assert_kept_read(read: &Checkpoint) -> Notes {
    let mut bytes = Vec::new();
    let notes = write(read, &mut bytes, ExportOptions::new()).unwrap();
    assert!(dolmen(&Checkpoint::from_bytes(&bytes).unwrap()) == dolmen(read));
    notes
}

#[test]
fn without_a_document_tensors_are_a_dictionary_by_name() {
    let mut b = Builder::new();
    b.tensor("b.weight", (&[1.0f32], [1])).unwrap();
    b.alias("a.weight", "b.weight").unwrap();
    let (_, read, notes) = exported(&b, ExportOptions::new());
    assert!(notes.is_empty());
    let names: Vec<&str> = read.tensors().map(|tensor| tensor.unwrap().name()).collect();
    assert_eq!((names, read.storage_count()), (vec!["a.weight", "b.weight"], 1));
}

#[test]
fn dtypes_that_pytorch_does_not_have_are_refused_by_name() {
    let mut b = Builder::new();
    b.tensor("w", TensorData::raw(DType::U4, [2], vec![0x21]).unwrap()).unwrap();
    let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    let e = write(&checkpoint, Vec::new(), ExportOptions::new()).unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::InvalidInput, Some("w")));
    assert!(e.to_string().contains("u4"), "{e}");
}

#[test]
fn a_list_that_is_repeated_beyond_reason_is_refused() {
    let zeros = vec![0u8; 1 << 20];
    let mut b = Builder::new();
    b.tensor("w", &zeros).unwrap();
    b.document(vec![Value::from(TensorRef::list("w")); 300].into());
    let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    let e = write(&checkpoint, std::io::sink(), ExportOptions::new()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    // Lists that are empty take no bytes of the file: one of very many, one within others, and many of some.
    for (shape, times) in [(&[1u64 << 40, 0][..], 1), (&[1 << 40, 0, 1], 1), (&[1 << 20, 0], 500)] {
        let mut b = Builder::new();
        b.tensor("w", TensorData::raw(DType::U8, shape, vec![]).unwrap()).unwrap();
        b.document(vec![Value::from(TensorRef::list("w")); times].into());
        let checkpoint = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
        let e = write(&checkpoint, std::io::sink(), ExportOptions::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Limit, "{shape:?}: {e}");
    }
}

#[test]
fn arrays_over_one_storage_are_each_what_their_strides_say() {
    let numbers: Vec<f32> = (0..6u8).map(f32::from).collect();
    let mut b = Builder::new();
    b.tensor("plain", (&numbers, [2, 3])).unwrap();
    let storage = b.storage_of("plain").unwrap();
    b.view("repeated", storage, View::new(DType::F32, [2, 3]).unwrap().strides([5, 0]).unwrap()).unwrap();
    let arrays = ["repeated", "plain", "plain"].map(|name| Value::from(held(name, &[("as", "array".into())])));
    b.document(arrays.into_iter().collect());
    let (_, read, _) = exported(&b, ExportOptions::new());
    assert_eq!(read.tensor("0").unwrap().to_vec::<f32>().unwrap(), [0.0, 0.0, 0.0, 5.0, 5.0, 5.0]);
    assert_eq!(read.tensor("1").unwrap().to_vec::<f32>().unwrap(), numbers);
    assert_eq!(read.tensor("2").unwrap().to_vec::<f32>().unwrap(), numbers);
}

#[test]
fn arguments_of_quantisers_that_are_shared_are_written_with_each_tensor() {
    let mut b = Builder::new();
    for name in ["q", "r"] {
        b.tensor(name, (&[1i8, 2], [2])).unwrap();
    }
    let arguments = Value::Tuple(vec![Value::global("torch", "per_tensor_affine"), 0.5.into(), 3.into()]);
    let quantised = |name, quantizer| held(name, &[("quantizer", quantizer), ("dtype", "qint8".into())]);
    let document = [
        ("list", shareable(vec![Value::Null])),
        ("again", Value::SharedRef(0)),
        ("q", quantised("q", shareable(arguments.clone())).into()),
        ("r", quantised("r", Value::SharedRef(1)).into()),
    ];
    b.document(Dict::from(document).into());
    let (_, read, _) = exported(&b, ExportOptions::new().tensors_only(true));
    let document = read.document().unwrap().unwrap();
    for name in ["q", "r"] {
        assert_eq!(document.get(name).unwrap().as_tensor().unwrap().attributes["quantizer"], arguments);
    }
}

#[test]
fn records_are_stored_aligned_and_have_their_real_crc() {
    let mut b = Builder::new();
    let data: Vec<Vec<u8>> = (0..40usize).map(|i| (0..i * 7).map(|j| (i * j % 251) as u8).collect()).collect();
    for (i, bytes) in data.iter().enumerate() {
        b.tensor(&format!("t{i}"), bytes).unwrap();
    }
    let (bytes, read, _) = exported(&b, ExportOptions::new());
    let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut names = Vec::new();
    for i in 0..archive.len() {
        let mut record = archive.by_index(i).unwrap();
        assert_eq!(record.compression(), zip::CompressionMethod::Stored);
        assert_eq!(record.data_start().unwrap() % 64, 0, "{:?}", record.name());
        let mut content = Vec::new();
        // That reads to the end, and checks the CRC.
        record.read_to_end(&mut content).unwrap();
        names.push(record.name().unwrap().into_owned());
    }
    assert_eq!(
        names[..4],
        ["archive/data.pkl", "archive/.format_version", "archive/.storage_alignment", "archive/byteorder"]
    );
    assert_eq!(names[4], "archive/data/0");
    assert_eq!(names[44..], ["archive/version", "archive/.data/serialization_id"]);
    for (i, bytes) in data.iter().enumerate() {
        let tensor = read.tensor(&format!("t{i}")).unwrap();
        assert_eq!(tensor.bytes().unwrap(), bytes);
        assert!(tensor.is_checksummed());
    }
}

#[test]
fn more_than_65535_records_are_counted_beyond_the_old_end_record() {
    let mut b = Builder::new();
    let numbers: Vec<u32> = (0..66_000).collect();
    for number in &numbers {
        b.tensor(&format!("{number:05}"), (std::slice::from_ref(number), [1])).unwrap();
    }
    let (bytes, read, _) = exported(&b, ExportOptions::new());
    assert_eq!((read.len(), read.storage_count()), (66_000, 66_000));
    assert_eq!(read.tensor("65999").unwrap().as_slice::<u32>().unwrap(), [65_999]);
    assert_eq!(zip::ZipArchive::new(Cursor::new(&bytes)).unwrap().len(), 66_006);
}

#[test]
fn damage_in_the_data_is_found_on_the_way_out() {
    let mut b = Builder::new();
    b.tensor("w", &[1u8; 100]).unwrap();
    let mut bytes = b.to_vec().unwrap();
    let at = bytes.windows(100).position(|window| window == [1; 100]).unwrap();
    bytes[at] ^= 1;
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    let e = write(&checkpoint, Vec::new(), ExportOptions::new()).unwrap_err();
    assert_eq!((e.kind(), e.tensor()), (ErrorKind::Corrupt, Some("w")));
}

#[test]
fn safetensors_go_to_pytorch_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut b = Builder::new();
    b.tensor("w", (&[1.0f32, 2.0, 3.0, 4.0], [2, 2])).unwrap();
    b.tensor("b", (&[bf16::ONE], [1])).unwrap();
    b.save(at("a.dolmen")).unwrap();
    let options = ConvertOptions::new().validate(true);
    for (from, to) in
        [("a.dolmen", "a.safetensors"), ("a.safetensors", "a.pt"), ("a.pt", "b.safetensors"), ("b.safetensors", "b.pt")]
    {
        let notes = convert(at(from), at(to), &options).unwrap();
        // Only that the dictionary is no longer one object.
        assert!(notes.len() <= 1, "{from} to {to}: {notes}");
    }
    assert_eq!(std::fs::read(at("a.safetensors")).unwrap(), std::fs::read(at("b.safetensors")).unwrap());
    assert_eq!(std::fs::read(at("a.pt")).unwrap(), std::fs::read(at("b.pt")).unwrap());
}

#[test]
fn every_file_that_pytorch_wrote_comes_back_the_same() {
    let mut seen = 0;
    for entry in std::fs::read_dir("tests/torch_data").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "pt" && extension != "pth") {
            continue;
        }
        seen += 1;
        let original = Checkpoint::open(&path).unwrap();
        let first = dolmen(&original);
        let mut back = Vec::new();
        let notes = write(&Checkpoint::from_bytes(&first).unwrap(), &mut back, ExportOptions::new())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut straight = Vec::new();
        let _ = write(&original, &mut straight, ExportOptions::new()).unwrap();
        assert!(straight == back, "{}: straight is not the same as through Dolmen", path.display());
        let read = Checkpoint::from_bytes(&back).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let told = notes.to_string();
        if told.contains("left out") || told.contains("one of its own") {
            // Constants of a script; and parts of storages, which only old files have.
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(["script", "traced", "legacy_views", "tar_views"].contains(&name.as_str()), "{name}: {told}");
            continue;
        }
        assert_eq!(read.document().unwrap(), original.document().unwrap(), "{}", path.display());
        assert!(dolmen(&read) == first, "{}: the second file is not the first", path.display());
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn what_runs_code_is_told_whichever_way_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    holding(call("posix", "system", vec!["true".into()])).save(at("a.dolmen")).unwrap();
    for (from, to, told) in [("a.dolmen", "a.pt", true), ("a.pt", "b.dolmen", true), ("b.dolmen", "c.dolmen", false)] {
        let notes = convert(at(from), at(to), &ConvertOptions::new()).unwrap().to_string();
        assert_eq!(notes.contains("can run code: \"posix.system\""), told, "{from} to {to}: {notes}");
        assert!(!notes.contains("safe globals"), "{notes}");
    }
}

/// Whether Python may take two keys for the same.
fn may_be_the_same(a: &Value, b: &Value) -> bool {
    let is_number = |key: &Value| matches!(key, Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::BigInt(_));
    let is_tuple = |key: &Value| matches!(key, Value::Tuple(_));
    a == b || (is_number(a) && is_number(b)) || (is_tuple(a) && is_tuple(b))
}

/// A tensor of each of the words, and values of every kind, at random; nothing that reading would write otherwise.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(|bits| Value::from(f64::from_bits(bits))),
        "\\PC{0,12}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..80).prop_map(Value::Bytes),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Value::ByteArray),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::integer(bytes.len() % 2 == 0, &bytes)),
        (any::<f64>(), any::<f64>()).prop_map(|(a, b)| Value::Complex(a, b)),
        ("[a-z]{1,5}", "[A-Z][a-z]{0,5}").prop_map(|(module, name)| Value::global(module, name)),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let items = || proptest::collection::vec(inner.clone(), 0..6);
        let pairs = || proptest::collection::vec((inner.clone(), inner.clone()), 0..4);
        prop_oneof![
            items().prop_map(Value::List),
            items().prop_map(Value::Tuple),
            items().prop_map(Value::Set),
            items().prop_map(Value::FrozenSet),
            (pairs(), any::<bool>()).prop_map(|(entries, is_ordered)| {
                let mut dict = Dict::of_kind(if is_ordered { DictKind::Ordered } else { DictKind::Plain });
                for (key, value) in entries {
                    if !dict.entries.iter().any(|(other, _)| may_be_the_same(other, &key)) {
                        dict.entries.push((key, value));
                    }
                }
                dict.into()
            }),
            ("[a-z]{1,5}", items(), proptest::option::of(inner.clone()), any::<bool>()).prop_map(
                |(name, args, state, new)| {
                    let mut object = call("m", &name, args);
                    object.state = state;
                    object.new = new.then(|| "newobj".to_owned());
                    object.into()
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn documents_at_random_are_kept(document in values()) {
        let _ = assert_kept(&holding(document));
    }
}

#[test]
fn the_words_of_the_vocabulary_are_unique() {
    let mut names: Vec<&str> = vocabulary::DTYPES.iter().map(|dtype| dtype.name).collect();
    let mut storages: Vec<&str> = vocabulary::DTYPES.iter().filter_map(|dtype| dtype.storage).collect();
    for words in [&mut names, &mut storages] {
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
