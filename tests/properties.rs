//! Properties of arbitrary content and arbitrary bytes: what is written is read back, by every way of writing and every way of
//! reading; and no bytes whatever make a reader panic.
#![cfg(all(feature = "fs", feature = "mmap"))]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{IntoReader, Random, one_thread, reseal, reseal_header, sha256, small_files, touch_everything};
use dolmen::format::value::{Dict, DictKind, Global, Object, TensorRef, Value};
use dolmen::{
    Builder, Checkpoint, DType, Durability, Element, ErrorKind, FileOptions, SaveOptions, TensorData, TensorView, View,
    Writer, half, verify_source,
};
use proptest::collection::vec;
use proptest::prelude::*;

// --- Content ---------------------------------------------------------------------------------------------------------------

/// What a tensor is to be, before it is made to fit: small numbers, so that proptest can make them smaller.
#[derive(Clone, Debug)]
struct Wish {
    kind: u8,
    dtype: u16,
    bits: u32,
    dims: Vec<u8>,
    strides: Option<Vec<u8>>,
    name: String,
    /// Bytes of the storage beyond the tensor's end, or its start in a storage that it views.
    slack: u8,
    target: u8,
    seed: u64,
}

fn wish() -> impl Strategy<Value = Wish> {
    (
        0..8u8,
        0..40u16,
        1..200u32,
        vec(0..5u8, 0..=8),
        proptest::option::weighted(0.4, vec(0..6u8, 8)),
        prop_oneof![4 => "[a-z.]{0,8}", 1 => ".{0,20}", 1 => "[a-z]{300,400}"],
        (any::<u8>(), any::<u8>(), any::<u64>()),
    )
        .prop_map(|(kind, dtype, bits, dims, strides, name, (slack, target, seed))| Wish {
            kind,
            dtype,
            bits,
            dims,
            strides,
            name,
            slack,
            target,
            seed,
        })
}

/// How a tensor gets into a file.
#[derive(Clone, Debug, PartialEq)]
enum How {
    /// With a storage of its own, that begins with it.
    Own,
    /// As the first view of a storage that was given as bytes.
    First,
    /// As a further view of a storage.
    View,
    /// As another name for this tensor.
    Alias(usize),
}

/// A tensor as it should come back.
#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    how: How,
    dtype: DType,
    shape: Vec<u64>,
    strides: Option<Vec<u64>>,
    storage: usize,
    start: u64,
}

#[derive(Clone, Debug)]
struct Content {
    options: FileOptions,
    tensors: Vec<Tensor>,
    storages: Vec<Vec<u8>>,
    metadata: BTreeMap<String, Value>,
    document: Option<Value>,
    sections: BTreeMap<u32, Vec<u8>>,
}

fn dtype_of(wish: &Wish) -> DType {
    match DType::ALL.get(wish.dtype as usize) {
        Some(&dtype) => dtype,
        None if wish.dtype.is_multiple_of(2) => DType::Opaque { bits: wish.bits },
        None => DType::Unknown { code: 0x8000 | wish.dtype, bits: wish.bits },
    }
}

fn contiguous_strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}

fn element_count(shape: &[u64]) -> u64 {
    shape.iter().product()
}

/// Bytes from the first element to the end of the last one.
fn extent(dtype: DType, shape: &[u64], strides: Option<&[u64]>) -> u64 {
    let bits = u64::from(dtype.bits());
    match strides {
        _ if element_count(shape) == 0 => 0,
        None => (element_count(shape) * bits).div_ceil(8),
        Some(strides) => {
            (1 + shape.iter().zip(strides).map(|(dim, stride)| (dim - 1) * stride).sum::<u64>()) * bits / 8
        }
    }
}

/// The elements in row-major order, taken one by one.
fn elements(storage: &[u8], tensor: &Tensor) -> Vec<u8> {
    let start = tensor.start as usize;
    let (Some(strides), Some(size)) = (&tensor.strides, tensor.dtype.byte_size()) else {
        return storage[start..start + extent(tensor.dtype, &tensor.shape, None) as usize].to_vec();
    };
    let mut out = Vec::new();
    for number in 0..element_count(&tensor.shape) {
        let (mut rest, mut at) = (number, 0);
        for (dim, stride) in tensor.shape.iter().zip(strides).rev() {
            at += rest % dim * stride;
            rest /= dim;
        }
        let at = start + (at * size) as usize;
        out.extend_from_slice(&storage[at..at + size as usize]);
    }
    out
}

/// Makes bytes such as a writer may write them for a dtype that begins a storage.
fn allowed(mut bytes: Vec<u8>, dtype: DType, shape: &[u64], strides: Option<&[u64]>, start: usize) -> Vec<u8> {
    let extent = extent(dtype, shape, strides) as usize;
    if dtype == DType::Bool {
        bytes[start..start + extent].iter_mut().for_each(|byte| *byte &= 1);
    }
    let used = element_count(shape) * u64::from(dtype.bits()) % 8;
    if used != 0 {
        bytes[start + extent - 1] &= (1u8 << used) - 1;
    }
    bytes
}

impl Content {
    fn new(options: FileOptions, wishes: &[Wish]) -> Content {
        let (tensors, storages) = (Vec::new(), Vec::new());
        let (metadata, sections) = (BTreeMap::new(), BTreeMap::new());
        let mut content = Content { options, tensors, storages, metadata, document: None, sections };
        let mut names = BTreeSet::new();
        for wish in wishes {
            let mut name = wish.name.clone();
            while !names.insert(name.clone()) {
                name.push('+');
            }
            content.add(name, wish);
        }
        content
    }

    fn add(&mut self, name: String, wish: &Wish) {
        let dtype = dtype_of(wish);
        let mut shape = Vec::new();
        for &dim in &wish.dims {
            let fits = element_count(&shape).max(1) * u64::from(dim) <= 300;
            shape.push(if fits { u64::from(dim) } else { 1 });
        }
        let wished = wish.strides.as_ref().filter(|_| !dtype.is_packed());
        let strides: Option<Vec<u64>> = wished.map(|s| s.iter().take(shape.len()).map(|&s| u64::from(s)).collect());
        let size = dtype.byte_size().unwrap_or(1) as usize;
        let slack = usize::from(wish.slack);
        let mut random = Random::new(wish.seed);
        match wish.kind {
            0..=3 => {
                // A contiguous tensor of its own fills its storage, also if its strides were spelt out.
                let contiguous = strides.as_ref().is_none_or(|strides| *strides == contiguous_strides(&shape));
                let extra = if contiguous { 0 } else { slack };
                let len = extent(dtype, &shape, strides.as_deref()) as usize + extra;
                let bytes = allowed(random.bytes(len), dtype, &shape, strides.as_deref(), 0);
                self.push(name, How::Own, dtype, shape, strides, self.storages.len(), 0);
                self.storages.push(bytes);
            }
            4 => {
                let start = slack / size * size;
                let len = start + extent(dtype, &shape, strides.as_deref()) as usize + slack * 40;
                let bytes = allowed(random.bytes(len), dtype, &shape, strides.as_deref(), start);
                self.push(name, How::First, dtype, shape, strides, self.storages.len(), start as u64);
                self.storages.push(bytes);
            }
            5 if !self.tensors.is_empty() => {
                let other = usize::from(wish.target) % self.tensors.len();
                let tensor = self.tensors[other].clone();
                self.tensors.push(Tensor { name, how: How::Alias(other), ..tensor });
            }
            _ if !self.storages.is_empty() => {
                let storage = usize::from(wish.target) % self.storages.len();
                let len = self.storages[storage].len();
                let start = slack.min(len) / size * size;
                let (mut shape, mut strides) = (shape, strides);
                if start + extent(dtype, &shape, strides.as_deref()) as usize > len {
                    // As many elements as there is room for, along one axis.
                    shape = vec![((len - start) as u64 * 8 / u64::from(dtype.bits())).min(300)];
                    strides = None;
                }
                self.push(name, How::View, dtype, shape, strides, storage, start as u64);
            }
            _ => self.push_empty(name, dtype),
        }
    }

    fn push_empty(&mut self, name: String, dtype: DType) {
        self.push(name, How::Own, dtype, vec![0], None, self.storages.len(), 0);
        self.storages.push(Vec::new());
    }

    #[allow(clippy::too_many_arguments, reason = "they are the fields")]
    fn push(
        &mut self,
        name: String,
        how: How,
        dtype: DType,
        shape: Vec<u64>,
        strides: Option<Vec<u64>>,
        storage: usize,
        start: u64,
    ) {
        self.tensors.push(Tensor { name, how, dtype, shape, strides, storage, start });
    }

    fn data<'a>(&'a self, tensor: &'a Tensor) -> TensorData<'a> {
        let bytes = &self.storages[tensor.storage][..];
        match &tensor.strides {
            Some(strides) => TensorData::strided(tensor.dtype, &tensor.shape, strides, bytes).unwrap(),
            None => TensorData::raw(tensor.dtype, &tensor.shape, bytes).unwrap(),
        }
    }

    fn view(tensor: &Tensor) -> View {
        let view = View::new(tensor.dtype, &tensor.shape).unwrap().start(tensor.start);
        match &tensor.strides {
            Some(strides) => view.strides(strides).unwrap(),
            None => view,
        }
    }

    fn builder(&self) -> Builder<'_> {
        let mut b = Builder::with_options(self.options);
        let mut ids = Vec::new();
        for tensor in &self.tensors {
            match tensor.how {
                How::Own => drop(b.tensor(&tensor.name, self.data(tensor)).unwrap()),
                How::First => {
                    let id = b.storage(&self.storages[tensor.storage][..]).unwrap();
                    b.view(&tensor.name, id, Self::view(tensor)).unwrap();
                }
                How::View => drop(b.view(&tensor.name, ids[tensor.storage], Self::view(tensor)).unwrap()),
                How::Alias(other) => drop(b.alias(&tensor.name, &self.tensors[other].name).unwrap()),
            }
            if tensor.storage == ids.len() {
                ids.push(b.storage_of(&tensor.name).unwrap());
            }
        }
        for (key, value) in &self.metadata {
            b.metadata(key, value.clone());
        }
        if let Some(document) = &self.document {
            b.document(document.clone());
        }
        for (kind, bytes) in &self.sections {
            b.section(*kind, bytes.clone()).unwrap();
        }
        b
    }

    /// Whether a writer that streams can write it: that has no storages but those of tensors.
    fn streams(&self) -> bool {
        self.tensors.iter().all(|tensor| tensor.how != How::First)
    }

    /// Writes by streaming, the tensors' bytes in pieces of a different length each time.
    fn stream(&self, path: &std::path::Path, save: &SaveOptions) {
        let mut w = Writer::create_with(path, self.options, save).unwrap();
        let mut ids = Vec::new();
        for (i, tensor) in self.tensors.iter().enumerate() {
            let bytes = &self.storages[tensor.storage][..];
            match tensor.how {
                How::Own if tensor.strides.is_none() && i % 3 == 0 => {
                    let mut out = w.begin(&tensor.name, tensor.dtype, &tensor.shape).unwrap();
                    bytes.chunks(i * 7 + 1).for_each(|piece| out.write_bytes(piece).unwrap());
                    assert_eq!(out.finish().unwrap(), bytes.len() as u64);
                }
                How::Own if rows_can_be_streamed(tensor) && i % 3 == 1 => {
                    let mut out = w.begin_rows(&tensor.name, tensor.dtype, &tensor.shape[1..]).unwrap();
                    bytes.chunks(i * 5 + 1).for_each(|piece| out.write_bytes(piece).unwrap());
                    assert_eq!(out.finish().unwrap(), tensor.shape[0]);
                }
                How::Own => w.tensor(&tensor.name, self.data(tensor)).unwrap(),
                How::First => unreachable!("a writer has no storages of their own"),
                How::View => w.view(&tensor.name, ids[tensor.storage], Self::view(tensor)).unwrap(),
                How::Alias(other) => w.alias(&tensor.name, &self.tensors[other].name).unwrap(),
            }
            if tensor.storage == ids.len() {
                ids.push(w.storage_of(&tensor.name).unwrap());
            }
        }
        for (key, value) in &self.metadata {
            w.metadata(key, value.clone());
        }
        if let Some(document) = &self.document {
            w.document(document.clone());
        }
        for (kind, bytes) in &self.sections {
            w.section(*kind, bytes.clone()).unwrap();
        }
        w.commit().unwrap();
    }

    /// Asserts that a checkpoint holds exactly this.
    fn check(&self, opened: &Checkpoint) {
        assert_eq!((opened.len(), opened.storage_count()), (self.tensors.len(), self.storages.len()));
        let mut expected: Vec<&Tensor> = self.tensors.iter().collect();
        expected.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        for (tensor, expected) in opened.tensors().zip(expected) {
            let tensor = tensor.unwrap();
            assert_eq!(tensor.name(), expected.name);
            assert_eq!(opened.tensor(&expected.name).unwrap().start(), tensor.start());
            check_tensor(&tensor, expected, &self.storages[expected.storage]);
        }
        assert!(opened.get("no tensor \u{0} has this name").unwrap().is_none());
        assert_eq!(opened.metadata().unwrap(), self.metadata);
        assert_eq!(opened.document().unwrap(), self.document);
        let sections: BTreeMap<u32, Vec<u8>> = opened.unknown_sections().map(|(k, b)| (k, b.to_vec())).collect();
        assert_eq!(sections, self.sections);
    }
}

fn rows_can_be_streamed(tensor: &Tensor) -> bool {
    let row = || element_count(&tensor.shape[1..]) * u64::from(tensor.dtype.bits());
    tensor.strides.is_none() && !tensor.shape.is_empty() && row() > 0 && row() % 8 == 0
}

fn check_tensor(tensor: &TensorView<'_>, expected: &Tensor, storage: &[u8]) {
    let contiguous = contiguous_strides(&expected.shape);
    let strides = expected.strides.clone().unwrap_or_else(|| contiguous.clone());
    assert_eq!(tensor.dtype(), expected.dtype);
    assert_eq!(tensor.shape(), expected.shape);
    assert_eq!(tensor.strides()[..], strides);
    assert_eq!(tensor.explicit_strides().is_some(), strides != contiguous);
    assert_eq!((tensor.storage() as usize, tensor.start()), (expected.storage, expected.start));
    assert_eq!(tensor.element_count(), element_count(&expected.shape));
    let extent = extent(expected.dtype, &expected.shape, Some(&strides).filter(|s| **s != contiguous).map(|s| &s[..]));
    assert_eq!(tensor.byte_len(), extent);
    let right = elements(storage, expected);
    assert_eq!(tensor.contiguous_byte_len(), right.len() as u64);
    assert_eq!(tensor.storage_bytes().unwrap(), storage);
    assert_eq!(tensor.storage_crc32().unwrap(), Some(dolmen::format::checksum::crc32(storage)));
    let start = expected.start as usize;
    assert_eq!(tensor.bytes().unwrap(), &storage[start..start + extent as usize]);
    assert_eq!(tensor.bytes_unverified().unwrap(), tensor.bytes().unwrap());
    let (mut runs, mut streamed, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let into = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    tensor.for_each_run(|bytes| into(&mut runs, bytes)).unwrap();
    tensor.stream(|bytes| into(&mut streamed, bytes)).unwrap();
    tensor.stream_storage(|bytes| into(&mut whole, bytes)).unwrap();
    assert_eq!((&runs, &streamed, &whole[..]), (&right, &right, storage));
    let mut buffer = vec![0xEE; right.len()];
    tensor.read_into(&mut buffer).unwrap();
    assert_eq!(buffer, right);
    assert_eq!(tensor.read_into(&mut vec![0; right.len() + 1]).unwrap_err().kind(), ErrorKind::InvalidInput);
    check_rows(tensor, &right);
    check_as::<bool>(tensor, &right);
    check_as::<u8>(tensor, &right);
    check_as::<u16>(tensor, &right);
    check_as::<u32>(tensor, &right);
    check_as::<u64>(tensor, &right);
    check_as::<i8>(tensor, &right);
    check_as::<i16>(tensor, &right);
    check_as::<i32>(tensor, &right);
    check_as::<i64>(tensor, &right);
    check_as::<half::f16>(tensor, &right);
    check_as::<half::bf16>(tensor, &right);
    check_as::<f32>(tensor, &right);
    check_as::<f64>(tensor, &right);
    check_as::<[half::f16; 2]>(tensor, &right);
    check_as::<[f32; 2]>(tensor, &right);
    check_as::<[f64; 2]>(tensor, &right);
}

/// Typed access gives the elements if the type is right, by their bits, and an error otherwise.
fn check_as<T: Element>(tensor: &TensorView<'_>, right: &[u8]) {
    if tensor.dtype() != T::DTYPE {
        assert_eq!(tensor.as_slice::<T>().unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(tensor.to_vec::<T>().unwrap_err().kind(), ErrorKind::InvalidInput);
        return;
    }
    let size = size_of::<T>();
    let valid = right.chunks(size).all(|element| bytemuck::checked::try_pod_read_unaligned::<T>(element).is_ok());
    match tensor.to_vec::<T>() {
        Ok(elements) => assert_eq!(bytemuck::cast_slice::<T, u8>(&elements), right),
        Err(e) => assert_eq!((e.kind(), valid), (ErrorKind::Malformed, false), "{e}"),
    }
    match (tensor.as_slice::<T>(), tensor.is_contiguous()) {
        (Ok(slice), contiguous) => {
            assert!(contiguous);
            assert_eq!(bytemuck::cast_slice::<T, u8>(slice), right);
            let borrowed = slice.as_ptr().cast() == tensor.bytes().unwrap().as_ptr();
            assert!(borrowed || slice.is_empty(), "it is not borrowed where it lies");
        }
        (Err(e), true) => assert_eq!((e.kind(), valid), (ErrorKind::Malformed, false), "{e}"),
        (Err(e), false) => assert_eq!(e.kind(), ErrorKind::InvalidInput),
    }
}

fn check_rows(tensor: &TensorView<'_>, right: &[u8]) {
    let Some(&count) = tensor.shape().first() else {
        assert_eq!(tensor.rows(0..0).unwrap_err().kind(), ErrorKind::InvalidInput);
        return;
    };
    assert_eq!(tensor.rows(0..count + 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    let row_bits = element_count(&tensor.shape()[1..]) * u64::from(tensor.dtype().bits());
    if !tensor.is_contiguous() || !row_bits.is_multiple_of(8) {
        assert_eq!(tensor.rows(0..count).unwrap_err().kind(), ErrorKind::InvalidInput);
        return;
    }
    let row_len = (row_bits / 8) as usize;
    for (from, to) in [(0, count), (0, count / 2), (count / 2, count), (count, count), (count / 3, count / 3)] {
        let rows = tensor.rows(from..to).unwrap();
        assert_eq!(rows.bytes().unwrap(), &right[from as usize * row_len..to as usize * row_len]);
        assert_eq!((rows.range(), rows.row_byte_len()), (from..to, row_len as u64));
        if let Ok(slice) = rows.as_slice::<f32>() {
            assert_eq!(bytemuck::cast_slice::<f32, u8>(slice), rows.bytes().unwrap());
        }
    }
}

// --- Values ----------------------------------------------------------------------------------------------------------------

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![any::<u64>().prop_map(f64::from_bits), any::<i16>().prop_map(f64::from), Just(-0.0)]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (any::<bool>(), vec(any::<u8>(), 0..20)).prop_map(|(negative, bytes)| Value::integer(negative, &bytes)),
        float().prop_map(Value::from),
        (float(), float()).prop_map(|(real, imaginary)| Value::Complex(real, imaginary)),
        ".{0,30}".prop_map(Value::from),
        Just(Value::from_wtf8(vec![b'x', 0xED, 0xA0, 0x80]).unwrap()),
        vec(any::<u8>(), 0..30).prop_map(Value::Bytes),
        vec(any::<u8>(), 0..30).prop_map(Value::ByteArray),
    ]
}

fn pairs(value: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Vec<(Value, Value)>> {
    vec((value.clone(), value), 0..4)
}

fn collection(value: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> {
    const KINDS: &[DictKind] = &[DictKind::Plain, DictKind::Ordered, DictKind::Default, DictKind::Counter];
    prop_oneof![
        vec(value.clone(), 0..5).prop_map(Value::List),
        vec(value.clone(), 0..5).prop_map(Value::Tuple),
        vec(value.clone(), 0..5).prop_map(Value::Set),
        vec(value.clone(), 0..5).prop_map(Value::FrozenSet),
        (proptest::sample::select(KINDS), pairs(value)).prop_map(|(kind, entries)| {
            let mut dict = Dict::of_kind(kind);
            dict.entries = entries;
            if kind == DictKind::Default {
                dict.factory = Some(Box::new(Value::from("list")));
            }
            dict.into()
        }),
    ]
}

fn metadata() -> impl Strategy<Value = BTreeMap<String, Value>> {
    let value = leaf().prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            collection(inner.clone()),
            proptest::collection::btree_map(".{0,5}", inner, 0..4).prop_map(Value::from)
        ]
    });
    proptest::collection::btree_map(".{0,10}", value, 0..4)
}

/// A document whose references to tensors are `names` to be, and whose shared references are made to fit later.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        5 => leaf(),
        2 => any::<u8>().prop_map(|n| Value::tensor(n.to_string())),
        1 => any::<u8>().prop_map(|n| TensorRef::list(n.to_string()).into()),
        1 => ("[a-z]{0,5}", "[a-z]{0,5}").prop_map(|(module, name)| Value::global(module, name)),
        1 => any::<u64>().prop_map(Value::SharedRef),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let object =
            (pairs(inner.clone()), vec(inner.clone(), 0..3), inner.clone()).prop_map(|(kwargs, args, state)| {
                let mut object = Object::new(Global::new("m", "C"));
                object.args = Some(Value::Tuple(args));
                object.state = Some(state);
                object.entries = Some(kwargs);
                object.into()
            });
        let shared = collection(inner.clone()).prop_map(|value| Value::Shareable(Box::new(value)));
        prop_oneof![3 => collection(inner), 1 => object, 1 => shared]
    })
}

/// Makes references refer to tensors that exist and to shareable values that have begun before.
fn settle(value: &mut Value, names: &[&str], begun: &mut u64) {
    let all =
        |values: &mut dyn Iterator<Item = &mut Value>, begun: &mut u64| values.for_each(|v| settle(v, names, begun));
    match value {
        Value::Tensor(_) if names.is_empty() => *value = Value::Null,
        Value::Tensor(tensor) => tensor.name = names[tensor.name.parse::<usize>().unwrap() % names.len()].to_owned(),
        Value::SharedRef(_) if *begun == 0 => *value = Value::Null,
        Value::SharedRef(number) => *number %= *begun,
        Value::Shareable(inner) => {
            *begun += 1;
            settle(inner, names, begun);
        }
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            all(&mut items.iter_mut(), begun);
        }
        Value::Dict(dict) => {
            all(&mut dict.entries.iter_mut().flat_map(|(key, value)| [key, value]), begun);
            all(&mut dict.factory.iter_mut().map(|value| &mut **value), begun);
        }
        Value::Object(object) => {
            // In the order of the encoding.
            all(&mut object.args.iter_mut(), begun);
            all(&mut object.state.iter_mut(), begun);
            all(&mut object.entries.iter_mut().flatten().flat_map(|(key, value)| [key, value]), begun);
        }
        _ => {}
    }
}

fn options() -> impl Strategy<Value = FileOptions> {
    (6..=12u32, 12..=20u32).prop_map(|(alignment, block)| {
        FileOptions::new().alignment(1 << alignment).unwrap().block_len(1 << block).unwrap()
    })
}

fn content() -> impl Strategy<Value = Content> {
    let sections = proptest::collection::btree_map(0x8000_0000u32.., vec(any::<u8>(), 0..20), 0..3);
    (options(), vec(wish(), 0..9), metadata(), proptest::option::of(document()), sections).prop_map(
        |(options, wishes, metadata, document, sections)| {
            let mut content = Content::new(options, &wishes);
            let names: Vec<&str> = content.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            content.document = document.map(|mut document| {
                settle(&mut document, &names, &mut 0);
                document
            });
            content.metadata = metadata;
            content.sections = sections;
            content
        },
    )
}

fn quickly() -> SaveOptions {
    SaveOptions::new().durability(Durability::None)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn what_is_written_is_read_back_by_every_way(content in content()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.dolmen");
        let b = content.builder();
        let bytes = b.to_vec().unwrap();
        b.save_with(&path, &quickly().validate(true)).unwrap();
        let report = verify_source(&bytes.clone().into_reader(), &one_thread()).unwrap();
        prop_assert!(report.is_valid(), "{:?}", report.problems);
        prop_assert_eq!((report.tensor_count, report.storage_count), (content.tensors.len() as u64, content.storages.len() as u64));
        // SAFETY: nobody else knows of the file.
        let mapped = unsafe { Checkpoint::map(&path) }.unwrap();
        let ways = [
            Checkpoint::from_bytes(&bytes).unwrap(),
            Checkpoint::open(&path).unwrap(),
            Checkpoint::open_on_demand(&path).unwrap(),
            mapped,
        ];
        for opened in &ways {
            content.check(opened);
            opened.check_index().unwrap();
            prop_assert!(opened.verify_with(&one_thread()).unwrap().is_valid());
            prop_assert_eq!(opened.header(), ways[0].header());
        }
    }

    #[test]
    fn every_way_of_writing_gives_the_same_bytes(content in content()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.dolmen");
        let b = content.builder();
        let bytes = b.to_vec().unwrap();
        let mut written = Vec::new();
        b.write_to(&mut written).unwrap();
        prop_assert!(written == bytes, "write_to");
        b.save_with(&path, &quickly()).unwrap();
        prop_assert!(std::fs::read(&path).unwrap() == bytes, "save");
        if content.streams() {
            content.stream(&path, &quickly());
            prop_assert!(std::fs::read(&path).unwrap() == bytes, "Writer");
        }
        // Again, from other memory, on another thread.
        let again = content.clone();
        let other = std::thread::spawn(move || again.builder().to_vec().unwrap()).join().unwrap();
        prop_assert!(other == bytes, "another thread");
    }

    #[test]
    fn a_plan_says_exactly_where_things_will_lie(content in content()) {
        let b = content.builder();
        let plan = b.plan().unwrap();
        let bytes = b.to_vec().unwrap();
        prop_assert_eq!(plan.file_len(), bytes.len() as u64);
        let opened = Checkpoint::from_bytes(&bytes).unwrap();
        for tensor in opened.tensors().map(|t| t.unwrap()) {
            let place = plan.place(tensor.name()).unwrap();
            prop_assert_eq!(place.start, tensor.file_offset().unwrap());
            prop_assert_eq!(place.end - place.start, tensor.byte_len());
            prop_assert_eq!(&bytes[place.start as usize..place.end as usize], tensor.bytes().unwrap());
            let data_offset = place.start - tensor.start();
            prop_assert_eq!(data_offset % opened.header().alignment(), 0);
        }
        prop_assert_eq!(plan.place("no tensor \u{0} has this name"), None);
    }

    #[test]
    fn a_copy_of_a_checkpoint_has_all_that_the_original_has(content in content()) {
        // What views a storage of bools may find other bytes there; what begins it again must not, and a writer says so.
        let bytes = content.builder().to_vec().unwrap();
        let original = Checkpoint::from_bytes(&bytes).unwrap();
        let mut b = Builder::with_options(content.options);
        b.checkpoint(&original).unwrap();
        let copied = match b.to_vec() {
            Ok(copied) => copied,
            Err(e) => {
                prop_assert_eq!(e.kind(), ErrorKind::InvalidInput, "{}", e);
                let refusable = content.tensors.iter().any(|t| t.how != How::Own && (t.dtype == DType::Bool || t.dtype.is_packed()));
                prop_assert!(refusable, "{}", e);
                return Ok(());
            }
        };
        let copy = Checkpoint::from_bytes(&copied).unwrap();
        prop_assert!(copy.verify_with(&one_thread()).unwrap().is_valid());
        content.check(&copy);
        // Each tensor alone, with its strides.
        let mut b = Builder::new();
        let tensors: Vec<_> = original.tensors().map(|t| t.unwrap()).collect();
        let alone = |t: &&TensorView<'_>| t.dtype() != DType::Bool && !t.dtype().is_packed();
        for tensor in tensors.iter().filter(alone) {
            b.tensor(tensor.name(), tensor).unwrap();
        }
        let singles = b.to_vec().unwrap();
        let singles = Checkpoint::from_bytes(&singles).unwrap();
        for tensor in tensors.iter().filter(alone) {
            let copy = singles.tensor(tensor.name()).unwrap();
            prop_assert_eq!((copy.dtype(), copy.shape(), copy.strides()), (tensor.dtype(), tensor.shape(), tensor.strides()));
            prop_assert_eq!(copy.bytes().unwrap(), tensor.bytes().unwrap());
        }
    }

    #[test]
    fn nan_payloads_survive(bits in vec(any::<u64>(), 1..40)) {
        let doubles: Vec<f64> = bits.iter().map(|b| f64::from_bits(b | 0x7FF0 << 48)).collect();
        let singles: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b as u32 | 0x7F80 << 16)).collect();
        let halves: Vec<half::f16> = bits.iter().map(|b| half::f16::from_bits(*b as u16 | 0x7C00)).collect();
        let mut b = Builder::new();
        b.tensor("f64", &doubles).unwrap();
        b.tensor("f32", &singles).unwrap();
        b.tensor("f16", &halves).unwrap();
        b.metadata("k", doubles.iter().copied().collect::<Value>());
        let opened = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
        let same = |a: &[u8], b: &[u8]| a == b;
        prop_assert!(same(bytemuck::cast_slice(opened.tensor("f64").unwrap().as_slice::<f64>().unwrap()), bytemuck::cast_slice(&doubles)));
        prop_assert!(same(bytemuck::cast_slice(&opened.tensor("f32").unwrap().to_vec::<f32>().unwrap()), bytemuck::cast_slice(&singles)));
        prop_assert!(same(bytemuck::cast_slice(opened.tensor("f16").unwrap().as_slice::<half::f16>().unwrap()), bytemuck::cast_slice(&halves)));
        let metadata = opened.metadata().unwrap();
        let floats: Vec<u64> = metadata["k"].as_slice().unwrap().iter().map(|v| v.as_f64().unwrap().to_bits()).collect();
        prop_assert_eq!(floats, doubles.iter().map(|f| f.to_bits()).collect::<Vec<_>>());
    }
}

/// Opens bytes and asks for everything, in memory and strictly. Nothing may panic.
fn examine(bytes: &[u8]) {
    let report = verify_source(&bytes.into_reader(), &one_thread()).unwrap();
    match Checkpoint::from_bytes(bytes) {
        Err(e) => {
            assert!(!report.is_valid(), "valid, and cannot be opened: {e}");
            assert!(!e.to_string().is_empty() && (e.is_corruption() || e.is_incompatible()), "{e}");
        }
        Ok(opened) => {
            assert_eq!(opened.verify_with(&one_thread()).unwrap().problem_count, report.problem_count);
            touch_everything(&opened);
            if report.is_valid() {
                opened.check_index().unwrap();
                opened.metadata().unwrap();
                opened.document().unwrap();
                for tensor in opened.tensors() {
                    tensor.unwrap().bytes().unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn random_bytes_make_no_reader_panic(
        mut bytes in vec(any::<u8>(), 0..600), magic in any::<bool>(), sealed in any::<bool>(), zeros in any::<bool>(),
    ) {
        if magic && bytes.len() >= 16 {
            bytes[..8].copy_from_slice(b"\x89DOLMEN\n");
            bytes[8..16].fill(0);
            bytes[8] = 1;
        }
        if sealed && bytes.len() >= 128 {
            // A header that points at what is there.
            let len = bytes.len() / 8 * 8;
            bytes.truncate(len);
            bytes[16..24].copy_from_slice(&(len as u64).to_le_bytes());
            bytes[24..32].copy_from_slice(&64u64.to_le_bytes());
            bytes[32..40].copy_from_slice(&(len as u64 - 128).to_le_bytes());
            bytes[44..46].copy_from_slice(&[6, 12]);
            bytes[46..60].fill(0);
            if zeros && len > 136 {
                // A section table that can be one.
                bytes[64] %= 8;
                bytes[65..72].fill(0);
            }
            reseal(&mut bytes);
        }
        examine(&bytes);
    }

    #[test]
    fn changed_files_with_right_checksums_make_no_reader_panic(
        file in 0..10usize,
        changes in vec((any::<u32>(), prop_oneof![any::<u8>(), Just(0), Just(1), Just(0x7F), Just(0x80), Just(0xFF)]), 1..6),
        in_index in any::<bool>(),
        cut in proptest::option::weighted(0.2, any::<u32>()),
    ) {
        let (_, mut bytes) = small_files().swap_remove(file);
        let index = common::u64_at(&bytes, 24) as usize;
        for (at, byte) in changes {
            let range = if in_index { index..bytes.len() - 64 } else { 0..bytes.len() };
            let at = range.start + at as usize % range.len();
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            // Bytes of the index are taken out or put in twice, and the header says so.
            let at = index + (cut as usize % (bytes.len() - 64 - index)) / 8 * 8;
            if cut % 2 == 0 {
                bytes.drain(at..at + 8);
            } else {
                let copy: Vec<u8> = bytes[at..at + 8].to_vec();
                bytes.splice(at..at, copy);
            }
            let len = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&len.to_le_bytes());
            bytes[32..40].copy_from_slice(&(len - 64 - index as u64).to_le_bytes());
            reseal_header(&mut bytes);
        }
        reseal(&mut bytes);
        examine(&bytes);
    }
}

#[test]
fn resealing_an_intact_file_changes_nothing() {
    for (about, bytes) in small_files() {
        let mut resealed = bytes.clone();
        reseal(&mut resealed);
        assert!(resealed == bytes, "{about}");
        // And it mends what a change of data breaks.
        let opened = Checkpoint::from_bytes(&bytes).unwrap();
        let Some(tensor) = opened.tensors().flatten().find(|t| t.byte_len() > 0) else { continue };
        resealed[tensor.file_offset().unwrap() as usize] ^= 1;
        assert!(!common::is_valid(&resealed), "{about}");
        reseal(&mut resealed);
        assert!(common::is_valid(&resealed), "{about}");
    }
}

#[test]
fn each_rank_up_to_255_is_read_back() {
    let shapes: Vec<Vec<u64>> =
        (0..=255usize).map(|rank| (0..rank).map(|axis| if axis % 50 == 49 { 2 } else { 1 }).collect()).collect();
    let elements: Vec<Vec<u16>> =
        shapes.iter().map(|shape| vec![shape.len() as u16; element_count(shape) as usize]).collect();
    let mut b = Builder::new();
    for (shape, elements) in shapes.iter().zip(&elements) {
        let name = format!("{:03}", shape.len());
        b.tensor(&name, (elements, shape)).unwrap();
        let backwards: Vec<u64> = contiguous_strides(shape).iter().rev().copied().collect();
        if !shape.is_empty() {
            let len = extent(DType::U16, shape, Some(&backwards)) as usize;
            let data = TensorData::strided(DType::U16, shape, &backwards, vec![1; len]).unwrap();
            b.tensor(&format!("{name}s"), data).unwrap();
        }
    }
    let opened = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
    assert!(opened.verify().unwrap().is_valid());
    for shape in &shapes {
        let name = format!("{:03}", shape.len());
        let tensor = opened.tensor(&name).unwrap();
        assert_eq!(tensor.shape(), shape);
        assert_eq!(tensor.as_slice::<u16>().unwrap(), vec![shape.len() as u16; element_count(shape) as usize]);
        if let Some(strided) = opened.get(&format!("{name}s")).unwrap() {
            assert_eq!(strided.to_vec::<u16>().unwrap(), vec![0x0101; element_count(shape) as usize]);
        }
    }
}

#[test]
fn large_tensors_of_many_blocks_are_read_back_by_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.dolmen");
    // More than the buffers, chunks and spans that the crate works with, and none of their multiples.
    let values: Vec<u32> = (0..2_300_001u32).map(|n| n.wrapping_mul(0x9E37_79B9)).collect();
    let mut b = Builder::with_options(FileOptions::new().block_len(4096).unwrap());
    b.tensor("a", &values[..1_000_003]).unwrap();
    b.tensor("b", (&values, [2_300_001, 1])).unwrap();
    let storage = b.storage_of("b").unwrap();
    b.view("t", storage, View::new(DType::U32, [3, 100_000]).unwrap().strides([1, 7]).unwrap().start(12)).unwrap();
    b.save_with(&path, &quickly().validate(true)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes == b.to_vec().unwrap());
    let mut w = Writer::create_with(&path, FileOptions::new().block_len(4096).unwrap(), &quickly()).unwrap();
    let mut rows = w.begin_rows("a", DType::U32, ()).unwrap();
    values[..1_000_003].chunks(99_999).for_each(|chunk| rows.write_elements(chunk).unwrap());
    assert_eq!(rows.finish().unwrap(), 1_000_003);
    let mut whole = w.begin("b", DType::U32, [2_300_001, 1]).unwrap();
    values.chunks(12_345).for_each(|chunk| whole.write_elements(chunk).unwrap());
    whole.finish().unwrap();
    let storage = w.storage_of("b").unwrap();
    w.view("t", storage, View::new(DType::U32, [3, 100_000]).unwrap().strides([1, 7]).unwrap().start(12)).unwrap();
    w.commit().unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
    let right: Vec<u32> = (0..3).flat_map(|i| (0..100_000).map(move |j| 3 + i + 7 * j)).map(|at| values[at]).collect();
    // SAFETY: nobody else knows of the file.
    let mapped = unsafe { Checkpoint::map(&path) }.unwrap();
    for opened in [Checkpoint::open(&path).unwrap(), Checkpoint::open_on_demand(&path).unwrap(), mapped] {
        let mut streamed = Vec::new();
        opened
            .tensor("b")
            .unwrap()
            .stream(|bytes| {
                streamed.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        assert!(streamed == bytemuck::cast_slice::<u32, u8>(&values));
        assert!(opened.tensor("a").unwrap().as_slice::<u32>().unwrap() == &values[..1_000_003]);
        assert!(
            opened.tensor("b").unwrap().rows(1_000_000..1_000_100).unwrap().as_slice::<u32>().unwrap()
                == &values[1_000_000..1_000_100]
        );
        assert!(opened.tensor("t").unwrap().to_vec::<u32>().unwrap() == right);
    }
}

#[test]
fn many_threads_may_use_one_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.dolmen");
    let values: Vec<Vec<u64>> = (0..20u64).map(|n| (0..5000).map(|i| n * i).collect()).collect();
    let mut b = Builder::with_options(FileOptions::new().block_len(4096).unwrap());
    for (n, values) in values.iter().enumerate() {
        b.tensor(&format!("t{n}"), values).unwrap();
    }
    b.save_with(&path, &quickly()).unwrap();
    for opened in [Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap(), Checkpoint::open_on_demand(&path).unwrap()] {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (opened, values) = (&opened, &values);
                scope.spawn(move || {
                    for i in 0..values.len() {
                        let n = (i * 7 + thread) % values.len();
                        assert_eq!(opened.tensor(&format!("t{n}")).unwrap().as_slice::<u64>().unwrap(), values[n]);
                    }
                });
            }
        });
    }
}

#[test]
fn the_bytes_of_a_known_program_never_change() {
    // Of the same content the same bytes, in every release: this digest changes with the format alone.
    let digest = sha256::hex(&common::hexdump_builder().to_vec().unwrap());
    assert_eq!(digest, "67e8cced9ea689fe0b1674086d7980747201e8d144aca84408a174c34588bc08");
}
