//! Writing against a model: whatever is asked of a [`Builder`], it does what the model says, and the file holds just that.

use std::collections::BTreeMap;

use dolmen::format::value::{Dict, DictKind, Object};
use dolmen::write::StorageId;
use dolmen::{
    Builder, Checkpoint, DType, Durability, Error, ErrorKind, FileOptions, SaveOptions, TensorData, Value,
    VerifyOptions, View, Writer,
};

use super::dice::Dice;
use super::open::{self, Outcome};

const NAMES: [&str; 10] = ["", "a", "b", "blk.0.weight", "blk.0.bias", "é", "\u{1F5FF}", "a\u{0}b", "z z", "A"];

#[derive(Clone)]
struct Tensor {
    dtype: DType,
    shape: Vec<u64>,
    /// Only if they are not those of row-major order.
    strides: Option<Vec<u64>>,
    storage: usize,
    start: u64,
}

#[derive(Default)]
struct Model {
    storages: Vec<Vec<u8>>,
    ids: Vec<Option<StorageId>>,
    order: Vec<(String, Tensor)>,
    metadata: BTreeMap<String, Value>,
    document: Option<Value>,
    sections: BTreeMap<u32, Vec<u8>>,
}

/// Elements, or `None` where the format has no such shape.
fn count(shape: &[u64], bits: u32) -> Option<u128> {
    if bits == 0 {
        return None;
    }
    let nonzero = shape.iter().try_fold(u128::from(bits), |product, &dim| product.checked_mul(dim.max(1).into()))?;
    if nonzero > u64::MAX.into() {
        return None;
    }
    Some(shape.iter().map(|&dim| u128::from(dim)).product())
}

fn row_major(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

/// Bytes from the first element to the end of the last one.
fn extent(shape: &[u64], strides: Option<&[u64]>, bits: u32) -> Option<u128> {
    let count = count(shape, bits)?;
    if count == 0 {
        return Some(0);
    }
    let Some(strides) = strides else { return Some((count * u128::from(bits)).div_ceil(8)) };
    let last: u128 = shape.iter().zip(strides).map(|(&dim, &stride)| u128::from(dim - 1) * u128::from(stride)).sum();
    (last + 1).checked_mul(bits.into()).filter(|&bits| bits <= u64::MAX.into()).map(|bits| bits.div_ceil(8))
}

impl Model {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.order.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor)
    }

    /// Whether a tensor can be added, by the rules of section 6.1.
    fn fits(&self, name: &str, tensor: &Tensor, data_len: usize) -> bool {
        let Tensor { dtype, shape, strides, start, .. } = tensor;
        let bits = dtype.bits();
        let right_width = DType::from_code(dtype.code(), bits) == Some(*dtype);
        let strides_right = strides.as_ref().is_none_or(|strides| strides.len() == shape.len() && bits % 8 == 0);
        if !right_width || !strides_right || shape.len() > 255 || name.len() > 65535 || self.find(name).is_some() {
            return false;
        }
        let aligned = bits % 8 != 0 || start % u64::from(bits / 8) == 0;
        aligned
            && extent(shape, strides.as_deref(), bits)
                .is_some_and(|extent| extent + u128::from(*start) <= data_len as u128)
    }

    /// Whether the elements are such as writers write: of the tensors that introduce storages.
    fn content_right(&self) -> bool {
        let mut seen = vec![false; self.storages.len()];
        self.order.iter().all(|(_, tensor)| {
            if std::mem::replace(&mut seen[tensor.storage], true) {
                return true;
            }
            let bytes = self.bytes(tensor);
            let bits = tensor.dtype.bits();
            let used = count(&tensor.shape, bits).unwrap_or(0) * u128::from(bits) % 8;
            match tensor.dtype {
                DType::Bool if tensor.strides.is_none() => bytes.iter().all(|&byte| byte < 2),
                _ if bits % 8 != 0 && used != 0 => bytes.last().is_none_or(|&last| last >> used == 0),
                _ => true,
            }
        })
    }

    fn bytes(&self, tensor: &Tensor) -> &[u8] {
        let extent = extent(&tensor.shape, tensor.strides.as_deref(), tensor.dtype.bits()).unwrap_or(0) as usize;
        let start = tensor.start as usize;
        &self.storages[tensor.storage][start..start + extent]
    }
}

fn dtype(dice: &mut Dice<'_>) -> DType {
    match dice.below(40) {
        38 => DType::Opaque { bits: u32::from(dice.byte()) },
        39 => DType::Unknown { code: dice.u64() as u16, bits: u32::from(dice.byte()) },
        n => DType::ALL[n % DType::ALL.len()],
    }
}

fn dim(dice: &mut Dice<'_>) -> u64 {
    match dice.below(20) {
        18 => dice.u64(),
        19 => 1 << dice.below(64),
        n => n as u64 % 6,
    }
}

fn shape(dice: &mut Dice<'_>) -> Vec<u64> {
    let rank = if dice.one_in(40) { 250 + dice.below(10) } else { dice.below(5) };
    (0..rank).map(|_| if rank < 250 { dim(dice) } else { 1 }).collect()
}

fn strides(dice: &mut Dice<'_>, shape: &[u64]) -> Option<Vec<u64>> {
    match dice.below(6) {
        0..3 => None,
        3 => Some(row_major(shape)),
        4 => {
            // Those of column-major order.
            let after = |next: &mut u64, &dim: &u64| {
                Some({
                    let now = *next;
                    *next = now.wrapping_mul(dim.max(1));
                    now
                })
            };
            Some(shape.iter().scan(1u64, after).collect())
        }
        _ => Some((0..shape.len() + usize::from(dice.one_in(9))).map(|_| dim(dice)).collect()),
    }
}

/// Bytes of the input, and 0 and 1 after its end; most often as many as asked for.
fn data(dice: &mut Dice<'_>, wanted: u128) -> Vec<u8> {
    let len = if dice.one_in(8) { dice.below(64) } else { wanted.min(20_000) as usize };
    let raw = dice.one_in(3);
    let mut data: Vec<u8> = dice.take(len).to_vec();
    if !raw {
        data.iter_mut().for_each(|byte| *byte &= 1);
    }
    data.resize(len, 1);
    data
}

fn name(dice: &mut Dice<'_>) -> String {
    match dice.below(30) {
        29 => "n".repeat(65533 + dice.below(5)),
        28 => String::from_utf8_lossy(dice.take(12)).into_owned(),
        n => NAMES[n % NAMES.len()].to_owned(),
    }
}

fn small_value(dice: &mut Dice<'_>, depth: usize) -> Value {
    match dice.below(if depth > 3 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => Value::from(dice.one_in(2)),
        2 => Value::from(dice.u64()),
        3 => Value::from(f64::from_bits(dice.u64())),
        4 => Value::from(name(dice)),
        5 => Value::Bytes(dice.take(9).to_vec()),
        6 => Value::List((0..dice.below(4)).map(|_| small_value(dice, depth + 1)).collect()),
        7 => Value::Tuple((0..dice.below(4)).map(|_| small_value(dice, depth + 1)).collect()),
        _ => {
            let mut dict = Dict::new();
            (0..dice.below(3)).for_each(|_| dict.push(small_value(dice, depth + 1), small_value(dice, depth + 1)));
            Value::from(dict)
        }
    }
}

/// A value that most often has something that cannot be written, somewhere.
fn any_value(dice: &mut Dice<'_>, depth: usize) -> Value {
    let within = |dice: &mut Dice<'_>| any_value(dice, depth + 1);
    let boxed = |dice: &mut Dice<'_>| if dice.one_in(2) { Some(Box::new(any_value(dice, depth + 1))) } else { None };
    let pairs = |dice: &mut Dice<'_>| (0..dice.below(3)).map(|_| (within(dice), within(dice))).collect::<Vec<_>>();
    match dice.below(if depth > 3 { 5 } else { 16 }) {
        0 => Value::Null,
        1 => {
            Value::Wtf8(if dice.one_in(2) { dice.take(3).to_vec() } else { vec![0xED, 0xA0 + dice.byte() % 32, 0x80] })
        }
        2 => Value::SharedRef(dice.below(3) as u64),
        3 => Value::global("m", "C"),
        4 => small_value(dice, 4),
        5 | 6 => {
            let mut dict = Dict::of_kind(
                [DictKind::Plain, DictKind::Ordered, DictKind::Default, DictKind::Counter][dice.below(4)],
            );
            dict.entries = pairs(dice);
            (dict.factory, dict.attributes) = (boxed(dice), boxed(dice));
            Value::from(dict)
        }
        7 | 8 => {
            let mut object = Object::new(within(dice));
            object.args = boxed(dice).map(|args| if dice.one_in(3) { *args } else { Value::Tuple(vec![*args]) });
            object.state = boxed(dice).map(|state| *state);
            object.kwargs = if dice.one_in(2) { Some(pairs(dice)) } else { None };
            object.items = boxed(dice).map(|item| vec![*item]);
            object.entries = if dice.one_in(2) { Some(pairs(dice)) } else { None };
            object.new = if dice.one_in(2) { Some(name(dice)) } else { None };
            Value::Object(Box::new(object))
        }
        9..12 => Value::Shareable(Box::new(within(dice))),
        12 => Value::Map((0..dice.below(3)).map(|_| (name(dice), within(dice))).collect()),
        13 => Value::Complex(f64::from_bits(dice.u64()), 0.5),
        14 => {
            let levels = 500 + dice.below(30);
            (0..levels).fold(within(dice), |inner, _| Value::Tuple(vec![inner]))
        }
        _ => Value::List((0..dice.below(4)).map(|_| within(dice)).collect()),
    }
}

/// Whether a value can be written, by the rules of section 7: what the crate's encoder must find too.
struct Writable {
    document: bool,
    /// Shareable values that have begun.
    begun: u64,
}

/// Arrays, maps and tags that nest.
const DEPTH: usize = 1024;

impl Writable {
    fn of(value: &Value, document: bool) -> bool {
        // Metadata is a map around its values.
        Writable { document, begun: 0 }.check(value, if document { 0 } else { 1 })
    }

    fn all<'v>(&mut self, values: impl IntoIterator<Item = &'v Value>, depth: usize) -> bool {
        depth < DEPTH && values.into_iter().all(|value| self.check(value, depth + 1))
    }

    fn pairs(&mut self, pairs: &[(Value, Value)], depth: usize) -> bool {
        self.all(pairs.iter().flat_map(|(key, value)| [key, value]), depth)
    }

    /// `depth` is how many levels are around it.
    fn check(&mut self, value: &Value, depth: usize) -> bool {
        let tag = depth < DEPTH;
        match value {
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bytes(_) => true,
            // Those beyond 64 bits are tags.
            Value::BigInt(big) => big.magnitude().len() <= 8 || tag,
            Value::ByteArray(_) => tag,
            Value::Complex(..) => depth + 1 < DEPTH,
            Value::Wtf8(bytes) => tag && std::str::from_utf8(bytes).is_err() && is_generalised(bytes),
            Value::List(items) => self.all(items, depth),
            Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => tag && self.all(items, depth + 1),
            Value::Dict(dict) if dict.kind == DictKind::Plain => {
                dict.factory.is_none() && dict.attributes.is_none() && tag && self.pairs(&dict.entries, depth + 1)
            }
            Value::Dict(dict) => {
                let further = [dict.factory.as_deref(), dict.attributes.as_deref()];
                (dict.factory.is_none() || dict.kind == DictKind::Default)
                    && further.iter().flatten().all(|value| !value.is_null())
                    && self.pairs(&dict.entries, depth + 2)
                    && self.all(further.into_iter().flatten(), depth + 1)
            }
            Value::Map(map) => !self.document && self.all(map.values(), depth),
            Value::Tensor(tensor) => {
                let levels = if tensor.attributes.is_empty() { tag } else { depth + 2 < DEPTH };
                self.document && levels && self.all(tensor.attributes.values(), depth + 2)
            }
            Value::Global(_) => self.document && depth + 1 < DEPTH,
            Value::Object(object) => {
                let args = object.args.as_ref();
                self.document
                    && depth + 1 < DEPTH
                    && args.is_none_or(|args| matches!(args, Value::Tuple(_) | Value::List(_)))
                    && self.all(args, depth + 1)
                    && self.all([&object.class], depth + 1)
                    && object.items.as_ref().is_none_or(|items| self.all(items, depth + 2))
                    && self.all(&object.state, depth + 1)
                    && object.kwargs.as_ref().is_none_or(|kwargs| self.pairs(kwargs, depth + 3))
                    && object.entries.as_ref().is_none_or(|entries| self.pairs(entries, depth + 2))
            }
            Value::Shareable(inner) => {
                self.begun += 1;
                self.document
                    && !matches!(**inner, Value::Shareable(_) | Value::SharedRef(_))
                    && self.all([&**inner], depth)
            }
            Value::SharedRef(number) => self.document && tag && *number < self.begun,
            other => panic!("there is no such value: {other:?}"),
        }
    }
}

/// Whether bytes are UTF-8 but for surrogates.
fn is_generalised(bytes: &[u8]) -> bool {
    // Each surrogate becomes a character that UTF-8 has; a pair of them would have to be one character.
    let mut plain = bytes.to_vec();
    let mut last_high = None;
    for at in 0..plain.len().saturating_sub(2) {
        if plain[at] == 0xED && plain[at + 1] >= 0xA0 {
            if plain[at + 1] >= 0xB0 && last_high == Some(at) {
                return false;
            }
            last_high = (plain[at + 1] < 0xB0).then_some(at + 3);
            plain[at + 1] -= 0x20;
        }
    }
    std::str::from_utf8(&plain).is_ok()
}

/// An operation did what the model says of it; what it refused, it refused as the caller's mistake.
fn agree<T>(result: Result<T, Error>, expected: bool, what: &str) -> Option<T> {
    match result {
        Ok(value) => {
            assert!(expected, "{what} was taken, and must not be");
            Some(value)
        }
        Err(e) => {
            assert!(!expected, "{what} was refused: {e}");
            assert_eq!(e.kind(), ErrorKind::InvalidInput, "{what}: {e}");
            None
        }
    }
}

/// Operations, drawn from the bytes.
pub fn write_model(input: &[u8]) -> Outcome {
    let mut dice = Dice::new(input);
    let (alignment, block_len) = (1u64 << (5 + dice.below(9)), 1u64 << (11 + dice.below(5)));
    let options = FileOptions::new().alignment(alignment).and_then(|options| options.block_len(block_len));
    let options = agree(options, alignment >= 64 && block_len >= 4096, "file options").unwrap_or_default();
    let mut builder = Builder::with_options(options);
    let mut model = Model::default();
    while !dice.is_empty() && model.order.len() < 40 {
        step(&mut dice, &mut builder, &mut model);
        assert_eq!(builder.len(), model.order.len());
        assert_eq!(builder.is_empty(), model.order.is_empty());
    }
    check_written(&builder, &model, options)
}

fn step<'a>(dice: &mut Dice<'_>, builder: &mut Builder<'a>, model: &mut Model) {
    match dice.below(12) {
        0..4 => {
            let (name, dtype, shape) = (name(dice), dtype(dice), shape(dice));
            let given = strides(dice, &shape);
            let strides = given.clone().filter(|strides| *strides != row_major(&shape));
            let wanted = extent(&shape, strides.as_deref().filter(|s| s.len() == shape.len()), dtype.bits());
            let data = data(dice, wanted.unwrap_or(8));
            let tensor = Tensor { dtype, shape, strides, storage: model.storages.len(), start: 0 };
            let exact = tensor.strides.is_some() || wanted == Some(data.len() as u128);
            let expected = exact && model.fits(&name, &tensor, data.len());
            let shape = tensor.shape.clone();
            let made = if given.is_none() && dice.one_in(4) && wanted.is_some() {
                // Produced when it is written; a wrong length is found only then.
                let copy = data.clone();
                let wrong = wanted != Some(data.len() as u128);
                if wrong {
                    return;
                }
                TensorData::deferred(dtype, shape, move |out| {
                    copy.chunks(7).try_for_each(|piece| out.write_all(piece)).map_err(|e| Error::io("cannot write", e))
                })
            } else {
                match given {
                    None => TensorData::raw(dtype, shape, data.clone()),
                    Some(strides) => TensorData::strided(dtype, shape, strides, data.clone()),
                }
            };
            let added = made.and_then(|made| builder.tensor(&name, made).map(drop));
            if agree(added, expected, "a tensor").is_some() {
                model.storages.push(data);
                model.ids.push(Some(builder.storage_of(&name).expect("it was added")));
                model.order.push((name, tensor));
            }
        }
        4 => {
            let wanted = dice.below(256) as u128;
            let data = data(dice, wanted);
            model.ids.push(Some(builder.storage(data.clone()).expect("there are few")));
            model.storages.push(data);
        }
        5..8 if !model.storages.is_empty() => {
            let (name, dtype, shape) = (name(dice), dtype(dice), shape(dice));
            let given = strides(dice, &shape);
            let strides = given.clone().filter(|strides| *strides != row_major(&shape));
            let storage = model.storages.len() - 1 - dice.below(model.storages.len());
            let start = if dice.one_in(10) { dice.u64() } else { dice.below(24) as u64 };
            let tensor = Tensor { dtype, shape, strides, storage, start };
            let expected = model.fits(&name, &tensor, model.storages[storage].len());
            let mut view = View::new(dtype, &tensor.shape).expect("no number is negative").start(start);
            if let Some(given) = given {
                view = view.strides(given).expect("no number is negative");
            }
            let id = model.ids[storage].expect("each was given");
            if agree(builder.view(&name, id, view).map(drop), expected, "a view").is_some() {
                model.order.push((name, tensor));
            }
        }
        8 => {
            let (name, existing) = (name(dice), name(dice));
            match model.find(&existing).cloned() {
                None => assert!(builder.alias(&name, &existing).is_err_and(|e| e.kind() == ErrorKind::NotFound)),
                Some(tensor) => {
                    let expected = model.find(&name).is_none() && name.len() <= 65535;
                    if agree(builder.alias(&name, &existing).map(drop), expected, "an alias").is_some() {
                        model.order.push((name, tensor));
                    }
                }
            }
        }
        9 => {
            let (key, value) = (name(dice), small_value(dice, 0));
            let value = if dice.one_in(12) { any_value(dice, 0) } else { value };
            // Metadata has no dicts, lists of any kind are allowed; a plain dict becomes one of the tags.
            builder.metadata(key.clone(), value.clone());
            model.metadata.insert(key, value);
        }
        10 => {
            let mut items = vec![small_value(dice, 0)];
            if dice.one_in(2) {
                items.push(Value::tensor(name(dice)));
            }
            if dice.one_in(6) {
                items.push(any_value(dice, 0));
            }
            builder.document(Value::List(items.clone()));
            model.document = Some(Value::List(items));
        }
        _ => {
            let kind = [0, 6, 7, 8, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, u32::MAX][dice.below(8)];
            let bytes = dice.take(9).to_vec();
            let known = model.sections.contains_key(&kind);
            let result = builder.section(kind, bytes.clone()).map(drop);
            if agree(result, kind >= 0x8000_0000 && !known, "a section").is_some() {
                model.sections.insert(kind, bytes);
            }
        }
    }
}

fn check_written(builder: &Builder<'_>, model: &Model, options: FileOptions) -> Outcome {
    let used = |storage: usize| model.order.iter().any(|(_, tensor)| tensor.storage == storage);
    let refs = model.document.iter().flat_map(|document| document.tensor_names());
    let writable = model.metadata.values().all(|value| Writable::of(value, false))
        && model.document.iter().all(|document| Writable::of(document, true));
    let known = refs.into_iter().all(|name| model.find(name).is_some());
    let plannable = (0..model.storages.len()).all(used) && known && writable;
    let Some(plan) = agree(builder.plan(), plannable, "the plan") else {
        assert!(builder.to_vec().is_err() && builder.write_to(std::io::sink()).is_err());
        return Outcome::Refused("plan");
    };
    let mut out = Vec::new();
    let written = builder.write_to(&mut out);
    let Some(file) = agree(builder.to_vec(), model.content_right(), "the file") else {
        agree(written, false, "writing");
        return Outcome::Refused("content");
    };
    written.expect("it was written to memory");
    assert!(file == out, "to_vec and write_to differ");
    assert_eq!(plan.file_len(), file.len() as u64);

    let checkpoint = Checkpoint::from_bytes(&file).expect("a writer writes valid files");
    let mut verify = VerifyOptions::default();
    verify.threads = 1;
    let report = checkpoint.verify_with(&verify).expect("it is in memory");
    assert!(report.is_valid(), "a writer wrote {:?}", report.problems);
    assert_eq!(checkpoint.len(), model.order.len());
    assert_eq!(checkpoint.storage_count(), model.storages.len());
    let mut names: Vec<&str> = model.order.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert!(checkpoint.tensors().map(|tensor| tensor.expect("valid").name()).eq(names));
    for (name, expected) in &model.order {
        let tensor = checkpoint.tensor(name).expect("it was written");
        assert_eq!((tensor.dtype(), tensor.shape()), (expected.dtype, &expected.shape[..]));
        assert_eq!((tensor.explicit_strides(), tensor.start()), (expected.strides.as_deref(), expected.start));
        assert!(tensor.bytes().expect("valid") == model.bytes(expected), "bytes of {name:?}");
        assert!(tensor.storage_bytes().expect("valid") == model.storages[expected.storage]);
        let place = plan.place(name).expect("it is in the plan");
        assert_eq!(
            place,
            tensor.file_offset().expect("valid")..tensor.file_offset().expect("valid") + tensor.byte_len()
        );
    }
    assert_eq!(checkpoint.metadata().expect("valid"), model.metadata);
    assert_eq!(checkpoint.document().expect("valid"), model.document);
    let sections = model.sections.iter().map(|(&kind, bytes)| (kind, &bytes[..]));
    assert!(checkpoint.unknown_sections().eq(sections));
    assert_eq!(open::touch(&checkpoint).filter(|fault| !fault.contains("not a valid bool")), None);
    if cfg!(test) || crc32fast::hash(&file).is_multiple_of(16) {
        check_stream(model, options, &file);
    }
    Outcome::Valid
}

/// The streaming writer, given the same in the order of the records, writes the same bytes.
fn check_stream(model: &Model, options: FileOptions, file: &[u8]) {
    // It takes no storages apart from tensors: the first tensor over each must be all of it.
    let mut ids: Vec<Option<StorageId>> = vec![None; model.storages.len()];
    let mut seen = vec![false; ids.len()];
    let whole = model.order.iter().all(|(_, tensor)| {
        std::mem::replace(&mut seen[tensor.storage], true)
            || tensor.start == 0 && model.bytes(tensor).len() == model.storages[tensor.storage].len()
    });
    if !whole {
        return;
    }
    let path = open::scratch("stream");
    let save = SaveOptions::new().durability(Durability::None);
    let mut writer = Writer::create_with(&path, options, &save).expect("the scratch directory can be written");
    for (number, (name, tensor)) in model.order.iter().enumerate() {
        let Tensor { dtype, shape, strides, storage, start } = tensor;
        let bytes = &model.storages[*storage];
        if let Some(id) = ids[*storage] {
            let mut view = View::new(*dtype, shape).expect("sound").start(*start);
            if let Some(strides) = strides {
                view = view.strides(strides).expect("sound");
            }
            writer.view(name, id, view).expect("sound");
            continue;
        }
        // What is refused leaves no trace.
        if let Some((first, _)) = model.order.first().filter(|_| number > 0) {
            assert!(writer.push(first, DType::U8, [0], &[]).is_err_and(|e| e.kind() == ErrorKind::InvalidInput));
        }
        let short = writer.push("too short", DType::U64, [2], &[0; 15]);
        assert!(short.is_err_and(|e| e.kind() == ErrorKind::InvalidInput));
        match strides {
            Some(strides) => {
                writer
                    .tensor(name, TensorData::strided(*dtype, shape, strides, &bytes[..]).expect("sound"))
                    .expect("sound");
            }
            None if number % 2 == 0 => {
                let mut out = writer.begin(name, *dtype, shape).expect("sound");
                bytes.chunks(1000).for_each(|piece| out.write_bytes(piece).expect("sound"));
                assert_eq!(out.finish().expect("sound"), bytes.len() as u64);
            }
            None => writer.push(name, *dtype, shape, bytes).expect("sound"),
        }
        ids[*storage] = Some(writer.storage_of(name).expect("it was written"));
    }
    for (key, value) in &model.metadata {
        writer.metadata(key, value.clone());
    }
    if let Some(document) = &model.document {
        writer.document(document.clone());
    }
    for (&kind, bytes) in &model.sections {
        writer.section(kind, bytes.clone()).expect("sound");
    }
    writer.commit().expect("sound");
    let streamed = std::fs::read(&path).expect("it was written");
    std::fs::remove_file(&path).expect("it was written");
    assert!(streamed == file, "the streaming writer wrote other bytes");
}
