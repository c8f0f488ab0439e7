//! From the graph to the document, and to the tensors and storages that it speaks of.

use std::collections::HashMap;

use super::super::pickle::{Call, Graph, How, Items, Ref};
use super::super::vocabulary::{self, TorchDType};
use super::arguments::{self, Argument, Parts};
use super::budget::Budget;
use super::lists;
use super::meaning::{self, Blob, Dictionary, Elements, Meaning};
use super::names::Names;
use super::shared;
use super::storages::Storages;
use super::tensor::{Data, StorageId, Tensor};
use super::{Rebuilt, RebuiltTensor};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::dtype::DType;
use crate::format::layout;
use crate::format::len_usize;
use crate::format::value::{Dict, DictKind, Global, MAX_DEPTH, Object, TensorRef, Value};

/// What a value costs besides its bytes, roughly; and what some cost besides that.
const VALUE_COST: u64 = 32;
const DICT_COST: u64 = 48;
const GLOBAL_COST: u64 = 48;
const OBJECT_COST: u64 = 192;
/// With its attributes, and its entries in lists and indexes.
const TENSOR_COST: u64 = 1024;
/// For each axis, length and stride, and both once more in the index.
const AXIS_COST: u64 = 64;
/// A tag and an array.
const TUPLE_LEVELS: usize = 2;
/// A tag, an array, and the map of the attributes.
const TENSOR_LEVELS: usize = 3;
/// A tensor's name is in the document, in the index, and in the lists of names that are taken.
const NAMED_TIMES: u64 = 4;

pub(super) struct Document<'g, 'c> {
    graph: &'g Graph,
    counts: Vec<u8>,
    /// For each node that is shared and has begun, its number among those, and one.
    numbers: Vec<u64>,
    begun: u64,
    /// Levels as the encoding of a document counts them.
    depth: usize,
    names: Names,
    storages: Storages<'c>,
    tensors: Vec<RebuiltTensor>,
    /// Which tensor a shareable value is, by the number of that value.
    shared_tensors: HashMap<u64, usize>,
    budget: Budget,
}

/// What comes of going to a node.
enum Begun<'g> {
    /// It has begun before, as the shareable value of that number.
    Before(u64),
    /// Nothing else refers to it, or it is repeated where something does.
    Once(Meaning<'g>),
    Shared(Meaning<'g>),
}

/// Whether a value is listed as a tensor.
fn is_tensor(meaning: &Meaning<'_>) -> bool {
    match meaning {
        Meaning::Tensor(_) => true,
        Meaning::List(items) => lists::dtype_of(items).is_some(),
        _ => false,
    }
}

#[cold]
fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

// Values are made in the order of their encoding, for that is how shared ones are numbered. Each kind has a function of its own,
// so that the frames on the way down stay small.
impl<'g, 'c> Document<'g, 'c> {
    pub(super) fn new(graph: &'g Graph, counts: Vec<u8>, storages: Storages<'c>, budget: Budget) -> Document<'g, 'c> {
        let numbers = vec![0; counts.len()];
        let names = Names::default();
        let (tensors, shared_tensors) = (Vec::new(), HashMap::new());
        Document { graph, counts, numbers, begun: 0, depth: 0, names, storages, tensors, shared_tensors, budget }
    }

    pub(super) fn build(mut self, root: Ref) -> Result<Rebuilt> {
        let document = self.value(root)?;
        Ok(Rebuilt { document, storages: self.storages.planned, tensors: self.tensors })
    }

    fn value(&mut self, value: Ref) -> Result<Value> {
        match value {
            Ref::Node(node) => self.node(value, len_usize(node.into()).unwrap_or(usize::MAX)),
            small => self.small(small),
        }
    }

    fn small(&mut self, value: Ref) -> Result<Value> {
        self.budget.spend(VALUE_COST)?;
        Ok(match value {
            Ref::None | Ref::Node(_) => Value::Null,
            Ref::Bool(value) => Value::Bool(value),
            Ref::Int(value) => Value::Int(value),
            Ref::Float(value) => Value::Float(value),
        })
    }

    /// Goes so many levels deeper, if there are as many; [`leave`](Self::leave) takes them back.
    fn enter(&mut self, levels: usize) -> Result<()> {
        self.depth = self.depth.saturating_add(levels);
        if self.depth > MAX_DEPTH {
            let message = format!(
                "the objects nest more than {MAX_DEPTH} deep, where a list counts one level, a dictionary or tuple two"
            );
            let e = Error::new(ErrorKind::Limit, message);
            return Err(e.with_advice("save it with fewer levels, such as a flat dictionary of its tensors"));
        }
        Ok(())
    }

    fn leave(&mut self, levels: usize) {
        self.depth = self.depth.saturating_sub(levels);
    }

    fn node(&mut self, value: Ref, node: usize) -> Result<Value> {
        match self.begin(value, node)? {
            Begun::Before(number) => {
                self.name_again(number)?;
                Ok(Value::SharedRef(number))
            }
            Begun::Once(meaning) => self.meant(&meaning),
            Begun::Shared(meaning) => {
                if is_tensor(&meaning) {
                    // It is listed before what is within it.
                    self.shared_tensors.insert(self.begun.saturating_sub(1), self.tensors.len());
                }
                self.shareable(&meaning)
            }
        }
    }

    fn begin(&mut self, value: Ref, node: usize) -> Result<Begun<'g>> {
        self.budget.spend(VALUE_COST)?;
        let is_shared = self.counts.get(node).is_some_and(|&count| count >= 2);
        // Before anything is asked of its meaning, which may take long to tell.
        if is_shared && let Some(number) = self.numbers.get(node).and_then(|number| number.checked_sub(1)) {
            self.enter(1)?;
            self.leave(1);
            return Ok(Begun::Before(number));
        }
        let meaning = meaning::of(self.graph, value);
        if !is_shared || shared::is_repeated(&meaning) {
            return Ok(Begun::Once(meaning));
        }
        self.begun = self.begun.saturating_add(1);
        if let Some(number) = self.numbers.get_mut(node) {
            *number = self.begun;
        }
        Ok(Begun::Shared(meaning))
    }

    fn shareable(&mut self, meaning: &Meaning<'g>) -> Result<Value> {
        self.enter(1)?;
        let made = self.meant(meaning)?;
        self.leave(1);
        Ok(Value::Shareable(Box::new(made)))
    }

    fn meant(&mut self, meaning: &Meaning<'g>) -> Result<Value> {
        match meaning {
            Meaning::List(items) => self.list(items),
            Meaning::Tuple(items) => self.sequence(items, TUPLE_LEVELS).map(Value::Tuple),
            Meaning::Set(items) => self.elements(*items).map(Value::Set),
            Meaning::FrozenSet(items) => self.elements(*items).map(Value::FrozenSet),
            Meaning::Dict(dict) => self.dict(dict),
            Meaning::Tensor(tensor) => self.tensor(tensor),
            Meaning::Object(call) => self.object(call),
            leaf => self.leaf(leaf),
        }
    }

    /// What holds no other values.
    fn leaf(&mut self, meaning: &Meaning<'g>) -> Result<Value> {
        // None takes more than an object with a tuple of arguments.
        let levels = if matches!(meaning, Meaning::Extension(_)) { 4 } else { 2 };
        self.enter(levels)?;
        self.leave(levels);
        match meaning {
            Meaning::Bool(value) => Ok(Value::Bool(*value)),
            Meaning::Int(value) => Ok(Value::Int(*value)),
            Meaning::Float(value) => Ok(Value::Float(*value)),
            Meaning::Integer(bytes) => Ok(Value::integer_from_le_bytes(bytes)),
            Meaning::Complex(real, imaginary) => Ok(Value::Complex(*real, *imaginary)),
            Meaning::Text(blob) => Value::from_wtf8(self.read(*blob)?).map_err(|_| wrong("a text is not UTF-8")),
            Meaning::OldText(blob) => {
                // PyTorch takes it for UTF-8.
                let bytes = self.read(*blob)?;
                Ok(String::from_utf8(bytes).map_or_else(|e| Value::Bytes(e.into_bytes()), Value::Text))
            }
            Meaning::Bytes(blob) => Ok(Value::Bytes(self.read(*blob)?)),
            Meaning::ByteArray(blob) => Ok(Value::ByteArray(self.read(*blob)?)),
            Meaning::Global(module, name) => {
                let len = crate::format::len_u64(module.len().saturating_add(name.len()));
                self.budget.spend(GLOBAL_COST.saturating_add(len))?;
                Ok(Value::from(Global::new(*module, name.as_str())))
            }
            Meaning::Extension(code) => {
                self.budget.spend(OBJECT_COST)?;
                let mut object = Object::new(Value::Null);
                object.new = Some("extension".to_owned());
                object.args = Some(Value::Tuple(vec![Value::Int(*code)]));
                Ok(Value::from(object))
            }
            Meaning::UnknownId => {
                Err(wrong("a persistent id means no storage that is known").with_advice("it is not one of PyTorch's"))
            }
            Meaning::Null
            | Meaning::List(_)
            | Meaning::Tuple(_)
            | Meaning::Set(_)
            | Meaning::FrozenSet(_)
            | Meaning::Dict(_)
            | Meaning::Tensor(_)
            | Meaning::Object(_) => Ok(Value::Null),
        }
    }

    fn read(&mut self, blob: Blob<'_>) -> Result<Vec<u8>> {
        self.storages.read(blob, &mut self.budget)
    }

    fn list(&mut self, items: &'g Items) -> Result<Value> {
        if let Some(dtype) = lists::dtype_of(items) {
            return self.list_tensor(items, dtype);
        }
        self.enter(1)?;
        let mut list = Vec::with_capacity(items.len());
        for i in 0..items.len() {
            let Some(item) = items.get(i) else { break };
            list.push(self.at(i, item)?);
        }
        self.leave(1);
        Ok(Value::List(list))
    }

    fn list_tensor(&mut self, items: &Items, dtype: DType) -> Result<Value> {
        self.enter(TENSOR_LEVELS)?;
        self.leave(TENSOR_LEVELS);
        let (storage, start) = self.storages.of_list(items, dtype);
        let shape = vec![crate::format::len_u64(items.len())];
        let name = self.add(dtype, shape, None, storage, start)?;
        Ok(Value::from(TensorRef::list(name)))
    }

    fn sequence(&mut self, items: &[Ref], levels: usize) -> Result<Vec<Value>> {
        self.enter(levels)?;
        let mut values = Vec::with_capacity(items.len());
        for (i, &item) in items.iter().enumerate() {
            values.push(self.at(i, item)?);
        }
        self.leave(levels);
        Ok(values)
    }

    fn elements(&mut self, elements: Elements<'g>) -> Result<Vec<Value>> {
        self.enter(2)?;
        let mut values = Vec::new();
        for (i, item) in elements.iter().enumerate() {
            values.push(self.at(i, item)?);
        }
        self.leave(2);
        Ok(values)
    }

    /// The value at a position.
    fn at(&mut self, position: usize, value: Ref) -> Result<Value> {
        let Ref::Node(_) = value else { return self.small(value) };
        let left = self.enter_position(position);
        let made = self.value(value);
        self.names.leave(left);
        made
    }

    fn enter_position(&mut self, position: usize) -> usize {
        self.names.enter(&position.to_string())
    }

    /// The value under a key.
    fn under(&mut self, key: &str, value: Ref) -> Result<Value> {
        let left = self.names.enter(key);
        let made = self.value(value);
        self.names.leave(left);
        made
    }

    fn dict(&mut self, dict: &Dictionary<'g>) -> Result<Value> {
        self.budget.spend(DICT_COST)?;
        let mut made = Dict::of_kind(dict.kind);
        self.enter(2)?;
        // Of those that are not plain, the entries are in a list of their own.
        let levels = usize::from(dict.kind != DictKind::Plain);
        made.entries = self.entries(&dict.entries, &[], levels)?;
        if let Some(factory) = dict.factory {
            made.factory = Some(Box::new(self.under("factory", factory)?));
        }
        if let Some(attributes) = dict.attributes {
            made.attributes = Some(Box::new(self.under("attributes", attributes)?));
        }
        self.leave(2);
        Ok(Value::from(made))
    }

    /// Pairs of keys and values; values under one of the `silent` keys are named as if they were not under it.
    fn entries(&mut self, entries: &[(Ref, Ref)], silent: &[&str], levels: usize) -> Result<Vec<(Value, Value)>> {
        self.enter(levels)?;
        let mut made = Vec::with_capacity(entries.len());
        for (i, &(key, value)) in entries.iter().enumerate() {
            let key = self.under("key", key)?;
            let value = match &key {
                Value::Text(text) if silent.contains(&text.as_str()) => self.value(value)?,
                Value::Text(text) => self.under(text, value)?,
                Value::Int(number) => self.under(&number.to_string(), value)?,
                _ => self.at(i, value)?,
            };
            made.push((key, value));
        }
        self.leave(levels);
        Ok(made)
    }

    fn object(&mut self, call: &'g Call) -> Result<Value> {
        self.budget.spend(OBJECT_COST)?;
        self.enter(2)?;
        let args = self.graph.tuple(call.args).unwrap_or_default();
        let args = Value::Tuple(self.arguments(call.callable, args)?);
        let mut object = Object::new(self.under("class", call.callable)?);
        object.args = Some(args);
        if !call.items.is_empty() {
            object.items = Some(self.sequence(&call.items, 1)?);
        }
        if let Some(state) = call.state {
            object.state = Some(self.state(state)?);
        }
        match call.how {
            How::Call => {}
            How::New => object.new = Some("newobj".to_owned()),
            How::NewWith(kwargs) => {
                object.new = Some("newobj_ex".to_owned());
                if let Meaning::Dict(kwargs) = meaning::of(self.graph, kwargs) {
                    object.kwargs = Some(self.entries(&kwargs.entries, &[], 2)?);
                }
            }
        }
        if !call.entries.is_empty() {
            object.entries = Some(self.entries(&call.entries, &[], 1)?);
        }
        self.leave(2);
        Ok(Value::from(object))
    }

    /// The arguments of a function, by their names as far as those are known.
    fn arguments(&mut self, function: Ref, args: &'g [Ref]) -> Result<Vec<Value>> {
        let names = arguments::of(self.graph, function, args);
        self.enter(TUPLE_LEVELS)?;
        let mut values = Vec::with_capacity(args.len());
        for (i, &arg) in args.iter().enumerate() {
            values.push(match names.get(i) {
                None => self.at(i, arg)?,
                Some(&Argument { name: "", parts }) => self.parts(arg, parts)?,
                Some(Argument { name, .. }) => self.under(name, arg)?,
            });
        }
        self.leave(TUPLE_LEVELS);
        Ok(values)
    }

    /// An argument whose parts have names.
    fn parts(&mut self, arg: Ref, parts: Parts) -> Result<Value> {
        let shared = match arg {
            Ref::Node(node) => len_usize(node.into()).and_then(|node| self.counts.get(node)).is_none_or(|&n| n > 1),
            _ => true,
        };
        let (Some(items), false) = (self.graph.tuple(arg), shared) else { return self.value(arg) };
        self.budget.spend(VALUE_COST)?;
        let made = match parts {
            Parts::Counted => self.sequence(items, TUPLE_LEVELS),
            Parts::Named(names) => self.named(items, names),
            Parts::ArgumentsOf(function) => self.arguments(function, items),
        };
        Ok(Value::Tuple(made?))
    }

    fn named(&mut self, items: &[Ref], names: &[&str]) -> Result<Vec<Value>> {
        self.enter(TUPLE_LEVELS)?;
        let mut values = Vec::with_capacity(items.len());
        for (i, &item) in items.iter().enumerate() {
            values.push(match names.get(i) {
                Some(name) => self.under(name, item)?,
                None => self.at(i, item)?,
            });
        }
        self.leave(TUPLE_LEVELS);
        Ok(values)
    }

    /// The state of an object. Of one that is a module, what PyTorch sorts its members into is no part of their names.
    fn state(&mut self, state: Ref) -> Result<Value> {
        const MEMBERS: [&str; 3] = ["_parameters", "_buffers", "_modules"];
        if let Meaning::Dict(dict) = meaning::of(self.graph, state)
            && dict.factory.is_none()
            && dict.attributes.is_none()
            && dict.kind == DictKind::Plain
            && let Ref::Node(node) = state
            && len_usize(node.into()).and_then(|node| self.counts.get(node)).is_none_or(|&count| count < 2)
        {
            let names = |name: &str| dict.entries.iter().any(|&(key, _)| self.graph.text(key) == Some(name));
            let silent: &[&str] = if MEMBERS.into_iter().all(names) { &MEMBERS } else { &[] };
            self.budget.spend(VALUE_COST.saturating_add(DICT_COST))?;
            let mut made = Dict::new();
            made.entries = self.entries(&dict.entries, silent, 2)?;
            return Ok(Value::from(made));
        }
        self.value(state)
    }

    fn tensor(&mut self, tensor: &Tensor<'g>) -> Result<Value> {
        let name = self.place(tensor)?;
        self.enter(TENSOR_LEVELS)?;
        let mut made = TensorRef::new(name);
        let mut put = |key: &str, value: Value| drop(made.attributes.insert(key.to_owned(), value));
        let held = &tensor.held;
        if let Some(kind) = held.kind {
            put(vocabulary::AS, Value::from(kind));
        }
        for (key, flag) in [
            (vocabulary::REQUIRES_GRAD, held.requires_grad),
            (vocabulary::CONJ, held.conj),
            (vocabulary::NEG, held.neg),
        ] {
            if flag {
                put(key, Value::Bool(true));
            }
        }
        if held.big_endian {
            put(vocabulary::BYTE_ORDER, Value::from(vocabulary::BIG));
        }
        if held.is_old_numpy {
            put(vocabulary::MODULE, Value::from(vocabulary::NUMPY_CORE));
        }
        if let Some(dtype) = held.dtype {
            put(vocabulary::DTYPE, Value::from(dtype));
        }
        if let Data::Storage(id) = &tensor.data
            && id.location != vocabulary::CPU
        {
            put(vocabulary::LOCATION, Value::from(id.location));
        }
        // What holds further values, in the order of the encoding: shorter keys first.
        let mut further = tensor.further.clone();
        further.sort_by_key(|(key, _)| (key.len(), *key));
        for (key, value) in further.iter().filter(|(key, _)| key.len() < vocabulary::METADATA.len()) {
            let value = self.under(key, *value)?;
            made.attributes.insert((*key).to_owned(), value);
        }
        if !tensor.metadata.is_empty() {
            let mut metadata = Dict::new();
            metadata.entries = self.entries(&tensor.metadata, &[], 2)?;
            made.attributes.insert(vocabulary::METADATA.to_owned(), Value::from(metadata));
        }
        for (key, value) in further.iter().filter(|(key, _)| key.len() >= vocabulary::METADATA.len()) {
            let value = self.under(key, *value)?;
            made.attributes.insert((*key).to_owned(), value);
        }
        self.leave(TENSOR_LEVELS);
        Ok(Value::from(made))
    }

    /// Lists the tensor; gives its name.
    fn place(&mut self, tensor: &Tensor<'_>) -> Result<String> {
        let Tensor { dtype, shape, strides, .. } = tensor;
        let strides = strides.clone().filter(|strides| !layout::strides_are_contiguous(shape, strides));
        let (storage, start) = match &tensor.data {
            Data::Storage(id) => {
                let part = vocabulary::component_len(*dtype);
                let number = self.storages.of_id(id, part).map_err(|e| self.with_path(e))?;
                let start = self.start_in(id, tensor, strides.as_deref(), self.storages.len_of(number));
                (number, start.map_err(|e| self.with_path(e))?)
            }
            Data::Blob(blob, swap) => {
                let len = layout::element_count(shape, dtype.bits())
                    .and_then(|count| layout::contiguous_len(count, dtype.bits()))
                    .unwrap_or(u64::MAX);
                let place = self.storages.of_blob(*blob, *dtype, *swap, len, &mut self.budget);
                place.map_err(|e| self.with_path(e))?
            }
        };
        self.add(*dtype, shape.clone(), strides, storage, start)
    }

    /// The byte of its storage at which a tensor begins; checks that it ends within it.
    fn start_in(&self, id: &StorageId<'_>, tensor: &Tensor<'_>, strides: Option<&[u64]>, len: u64) -> Result<u64> {
        let Tensor { dtype, shape, offset, .. } = tensor;
        let size = u64::from(dtype.bits().div_euclid(8));
        let overflows = || wrong("where it lies in its storage overflows");
        // A view of a part of the storage begins there, and ends there.
        let unit = id.dtype.map_or(1, TorchDType::element_len);
        let (first, end) = match id.view {
            None => (0, len),
            Some((first, count)) => {
                let first = first.checked_mul(unit).ok_or_else(overflows)?;
                (first, count.checked_mul(unit).and_then(|len| first.checked_add(len)).ok_or_else(overflows)?)
            }
        };
        if end > len {
            return Err(wrong(format!("a view of storage {} ends at byte {end} of {len}", quoted(id.key))));
        }
        let start = offset.checked_mul(size).and_then(|start| start.checked_add(first)).ok_or_else(overflows)?;
        let extent = layout::extent(shape, strides, dtype.bits()).ok_or_else(overflows)?;
        if extent == 0 {
            // An empty tensor may be said to begin anywhere.
            return Ok(start.min(len).saturating_sub(start.min(len).checked_rem(size).unwrap_or(0)));
        }
        if start.checked_rem(size).is_some_and(|rest| rest != 0) {
            let message = format!("it begins at byte {start} of storage {}, within an element", quoted(id.key));
            return Err(wrong(message));
        }
        match start.checked_add(extent) {
            Some(tensor_end) if tensor_end <= end => Ok(start),
            tensor_end => {
                let tensor_end = tensor_end.unwrap_or(u64::MAX);
                let message = format!(
                    "shape {shape:?} with strides {:?} ends at byte {tensor_end} of storage {}, which has {end}",
                    strides.map_or_else(|| layout::contiguous_strides(shape), <[u64]>::to_vec),
                    quoted(id.key)
                );
                Err(wrong(message).with_numbers(end, tensor_end))
            }
        }
    }

    fn add(
        &mut self,
        dtype: DType,
        shape: Vec<u64>,
        strides: Option<Vec<u64>>,
        storage: usize,
        start: u64,
    ) -> Result<String> {
        let name = self.names.give();
        let axes = crate::format::len_u64(shape.len()).saturating_mul(AXIS_COST);
        let named = crate::format::len_u64(name.len()).saturating_mul(NAMED_TIMES);
        self.budget.spend(TENSOR_COST.saturating_add(axes).saturating_add(named))?;
        self.tensors.push(RebuiltTensor { name: name.clone(), dtype, shape, strides, storage, start });
        Ok(name)
    }

    /// Gives a tensor that is met again a name here too: tied weights are looked for under each of their names.
    fn name_again(&mut self, number: u64) -> Result<()> {
        let known = self.shared_tensors.get(&number).and_then(|&at| self.tensors.get(at));
        let Some(RebuiltTensor { name: _, dtype, shape, strides, storage, start }) = known else { return Ok(()) };
        let (dtype, shape, strides, storage, start) = (*dtype, shape.clone(), strides.clone(), *storage, *start);
        self.add(dtype, shape, strides, storage, start).map(drop)
    }

    fn with_path(&self, e: Error) -> Error {
        // A limit is one of the whole pickle's.
        if e.kind() == ErrorKind::Limit {
            return e;
        }
        e.with_tensor(self.names.path())
    }
}
