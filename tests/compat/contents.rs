//! What is frozen: small files that together use all that a release can write.

use std::collections::BTreeMap;
use std::path::Path;

use dolmen::feature::{TableWriter, TableWriterOptions};
use dolmen::foreign::{safetensors, torch};
use dolmen::format::value::{Dict, DictKind, Object, TensorRef, Value};
use dolmen::lifecycle::Save;
use dolmen::{Builder, DType, Element, FileOptions, IntoShape, SaveOptions, TensorData, View, Writer};

/// Writes every file into a directory.
pub fn write_into(directory: &Path) {
    let save = |name: &str, b: &Builder<'_>| b.save(directory.join(name)).unwrap();
    save("empty.dolmen", &Builder::new());
    save("dtypes.dolmen", &dtypes());
    save("names.dolmen", &names());
    save("shapes.dolmen", &shapes());
    save("views.dolmen", &views());
    save("values.dolmen", &values());
    save("state_dict.dolmen", &state_dict());
    save("private.dolmen", &private());
    save("blocks.dolmen", &blocks());
    streamed(&directory.join("streamed.dolmen"));
    table(&directory.join("table.dolmen"));
    Save::new().save(&state_dict(), directory.join("saved.dolmen")).unwrap();

    let checkpoint = state_dict().to_checkpoint().unwrap();
    let options = torch::ExportOptions::new();
    let notes = torch::save(&checkpoint, directory.join("state_dict.pt"), options, &SaveOptions::new()).unwrap();
    assert!(notes.is_empty(), "{notes}");
    // It has no room for the document, and says so.
    let notes = safetensors::save(&checkpoint, directory.join("state_dict.safetensors"), &SaveOptions::new()).unwrap();
    assert!(!notes.is_empty());
}

/// Aligned as little as possible: the files are small.
fn small() -> Builder<'static> {
    Builder::with_options(options())
}

fn options() -> FileOptions {
    FileOptions::new().alignment(64).unwrap().block_len(4096).unwrap()
}

/// Bytes with all values among them, the same each time.
fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(167) >> (i % 3)) as u8).collect()
}

/// A tensor that owns its elements.
fn of<T: Element>(shape: impl IntoShape, elements: &[T]) -> TensorData<'static> {
    let bytes = elements.iter().flat_map(|element| bytemuck::bytes_of(element).iter().copied()).collect::<Vec<_>>();
    TensorData::raw(T::DTYPE, shape, bytes).unwrap()
}

fn dtypes() -> Builder<'static> {
    let mut b = small();
    for &dtype in DType::ALL {
        // Five rows of eight elements are whole bytes in every dtype.
        let data = match dtype {
            DType::Bool => (0..40).map(|i| u8::from(i % 3 == 0)).collect(),
            _ => bytes(40 * u64::from(dtype.bits()) / 8),
        };
        b.tensor(&dtype.name(), TensorData::raw(dtype, [5, 8], data).unwrap()).unwrap();
    }
    b.tensor("nan payload", of([3], &[f32::from_bits(0x7FC1_2345), f32::from_bits(0xFF80_0001), -0.0])).unwrap();
    b
}

fn names() -> Builder<'static> {
    let mut b = small();
    for (i, name) in
        ["", " ", "a", "A", "a.b", "a\u{0}b", "line\nbreak", "\u{e4}", "\u{FFFD}", "\u{1F5FF}"].iter().enumerate()
    {
        b.tensor(name, of([1], &[i as u16])).unwrap();
    }
    b.tensor(&"long.".repeat(60), &[1u8]).unwrap();
    b
}

fn shapes() -> Builder<'static> {
    let mut b = small();
    b.tensor("scalar", (&[1.5f64], [0u64; 0])).unwrap();
    b.tensor("rank 8", of([2; 8], &(0..256).collect::<Vec<i32>>())).unwrap();
    b.tensor("no rows", (&[0f32; 0], [0, 768])).unwrap();
    b.tensor("no columns", (&[0f32; 0], [3, 0])).unwrap();
    b
}

fn views() -> Builder<'static> {
    let mut b = small();
    b.tensor("weight", of([3, 4], &(0..12).collect::<Vec<i16>>())).unwrap();
    let storage = b.storage_of("weight").unwrap();
    let view = |shape: &[u64]| View::new(DType::I16, shape).unwrap();
    b.view("transposed", storage, view(&[4, 3]).strides([1, 4]).unwrap()).unwrap();
    b.view("column", storage, view(&[3]).strides([4]).unwrap().start(2)).unwrap();
    b.view("expanded", storage, view(&[5, 4]).strides([0, 1]).unwrap().start(8)).unwrap();
    b.view("last row", storage, view(&[4]).start(16)).unwrap();
    b.view("as bits", storage, View::new(DType::U32, [6]).unwrap()).unwrap();
    b.alias("tied", "weight").unwrap();
    b
}

fn values() -> Builder<'static> {
    let mut b = small();
    b.tensor("t", &[1u8, 2, 3]).unwrap();
    b.metadata("version", "1.0").metadata("epoch", 17).metadata("loss", 0.25);
    b.metadata("nested", BTreeMap::from([("a".to_owned(), Value::from(vec![Value::Null, Value::from(true)]))]));

    let mut counter = Dict::of_kind(DictKind::Counter);
    counter.push("a", 2);
    let mut default = Dict::of_kind(DictKind::Default);
    default.push(1, "one");
    default.factory = Some(Box::new(Value::global("builtins", "list")));
    let mut ordered = Dict::of_kind(DictKind::Ordered);
    ordered.push(Value::Tuple(vec![1.into(), 2.into()]), Value::Null);
    let mut object = Object::new(Value::global("models", "Config"));
    object.args = Some(Value::Tuple(vec![Value::from(3)]));
    object.state = Some(Value::from(Dict::from([("lr", Value::from(1e-3))])));
    object.new = Some("newobj".to_owned());
    b.document(Value::List(vec![
        Value::Null,
        Value::from(false),
        Value::from(i64::MIN),
        Value::from(u64::MAX),
        Value::integer(true, &[1, 0, 0, 0, 0, 0, 0, 0, 0]),
        Value::from(1.5),
        Value::Float(f64::NEG_INFINITY),
        Value::Complex(0.5, -0.0),
        Value::from("text \u{1F5FF}"),
        Value::from_wtf8(b"\xED\xA0\x80".to_vec()).unwrap(),
        Value::Bytes(vec![0, 255]),
        Value::ByteArray(vec![1]),
        Value::Tuple(Vec::new()),
        Value::Set(vec![1.into()]),
        Value::FrozenSet(vec!["x".into()]),
        Value::from(counter),
        Value::from(default),
        Value::from(ordered),
        Value::from(object),
        Value::tensor("t"),
        Value::Tensor(Box::new(TensorRef::list("t"))),
        Value::Shareable(Box::new(Value::List(vec![Value::SharedRef(0)]))),
        Value::SharedRef(0),
    ]));
    b
}

fn state_dict() -> Builder<'static> {
    let mut b = small();
    b.tensor("encoder.weight", (&[0.5f32, -1.0, 2.0, 3.5, 4.0, 0.0], [2, 3])).unwrap();
    b.tensor("encoder.bias", &[1.0f32, -0.0]).unwrap();
    b.alias("decoder.weight", "encoder.weight").unwrap();
    let names = ["encoder.weight", "encoder.bias", "decoder.weight"];
    let mut dict = Dict::of_kind(DictKind::Ordered);
    names.into_iter().for_each(|name| dict.push(name, Value::tensor(name)));
    b.document(Value::from(dict));
    b
}

fn private() -> Builder<'static> {
    let mut b = small();
    let dtype = DType::Unknown { code: 0x8001, bits: 24 };
    b.tensor("unknown", TensorData::raw(dtype, [2], bytes(6)).unwrap()).unwrap();
    b.section(0x8000_0001, b"private".to_vec()).unwrap();
    b
}

fn blocks() -> Builder<'static> {
    let mut b = Builder::with_options(FileOptions::new().alignment(4096).unwrap().block_len(4096).unwrap());
    b.tensor("three blocks", TensorData::raw(DType::U8, [9000], bytes(9000)).unwrap()).unwrap();
    b.tensor("one block", TensorData::raw(DType::U8, [4096], bytes(4096)).unwrap()).unwrap();
    b
}

fn streamed(path: &Path) {
    let mut w = Writer::create_with(path, options(), &SaveOptions::new()).unwrap();
    w.push("first", DType::U8, [5], b"01234").unwrap();
    let mut rows = w.begin_rows("rows", DType::F32, [2]).unwrap();
    rows.write_elements(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    rows.write_elements(&[5.0f32, 6.0]).unwrap();
    assert_eq!(rows.finish().unwrap(), 3);
    w.alias("again", "first").unwrap();
    w.metadata("model", "toy");
    w.document(Value::from(Dict::from([("rows", Value::tensor("rows"))])));
    w.commit().unwrap();
}

fn table(path: &Path) {
    let options = TableWriterOptions::new(DType::F32, [4]).unwrap().labels(true).file(options());
    let mut w = TableWriter::single(path, &options).unwrap();
    w.append_labelled(&["seq_1", "seq_2"], &[0.5f32; 8], &[0, 1]).unwrap();
    w.append_labelled(&["\u{e4}"], &[-0.5f32; 4], &[-1]).unwrap();
    w.finish().unwrap();
}
