//! From a document to opcodes.

use std::collections::HashMap;

use super::super::accepted;
use super::opcodes::{
    APPENDS, BATCH, BUILD, EMPTY_DICT, EMPTY_LIST, MARK, NEWOBJ, NEWOBJ_EX, NONE, Opcodes, POP, REDUCE, SETITEMS,
};
use super::storages::Storages;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::foreign::notes::Notes;
use crate::format::len_usize;
use crate::format::value::{Dict, DictKind, Global, MAX_DEPTH, Object, Value};
use crate::read::Checkpoint;

/// A value that others refer to.
struct Shared<'d> {
    value: &'d Value,
    /// Where in the memo it is.
    memo: Option<u32>,
    /// How often it was begun, and is not finished.
    begun: u8,
}

/// Writes values as opcodes.
pub(super) struct Pickler<'w, 'd> {
    pub(super) ops: Opcodes<'w, 'd>,
    pub(super) checkpoint: &'d Checkpoint,
    pub(super) storages: &'w mut Storages,
    pub(super) notes: &'w mut Notes,
    /// Bytes of lists and arrays that may still be written into the pickle.
    pub(super) budget: u64,
    /// Byte strings of arrays that are in the memo.
    pub(super) blobs: HashMap<super::numpy::Blob, u32>,
    shared: Vec<Shared<'d>>,
    /// The number of a shareable value, by its address.
    numbers: HashMap<*const Value, usize>,
    /// What was begun within a value that can only be remembered when it is whole, by address: met again, it must be the same one.
    within: HashMap<*const Value, u32>,
    /// How many such values are open.
    open: usize,
    depth: usize,
}

/// Nesting is limited twice as far as in documents: references may lead into what has not been written yet.
const MAX_NESTING: usize = MAX_DEPTH.saturating_mul(2);

impl<'w, 'd> Pickler<'w, 'd> {
    pub(super) fn new(
        ops: Opcodes<'w, 'd>,
        checkpoint: &'d Checkpoint,
        storages: &'w mut Storages,
        document: &'d Value,
        notes: &'w mut Notes,
    ) -> Pickler<'w, 'd> {
        let mut shared = Vec::new();
        let mut numbers = HashMap::new();
        for value in document.descendants() {
            if let Value::Shareable(inner) = value {
                numbers.insert(std::ptr::from_ref(value), shared.len());
                shared.push(Shared { value: inner, memo: None, begun: 0 });
            }
        }
        let budget = super::tensors::budget(checkpoint);
        let (blobs, within) = (HashMap::new(), HashMap::new());
        Pickler { ops, checkpoint, storages, notes, budget, blobs, shared, numbers, within, open: 0, depth: 0 }
    }

    /// The whole pickle.
    pub(super) fn pickle(&mut self, document: &'d Value) -> Result<()> {
        self.ops.start(document.descendants().filter_map(|value| match value {
            Value::Global(global) => Some((global.module.as_str(), global.name.as_str())),
            _ => None,
        }))?;
        self.value(document)?;
        self.ops.stop()
    }

    pub(super) fn value(&mut self, value: &'d Value) -> Result<()> {
        if self.depth >= MAX_NESTING {
            return Err(Error::new(ErrorKind::Limit, format!("the document nests more than {MAX_NESTING} deep")));
        }
        self.depth = self.depth.saturating_add(1);
        let done = self.value_within(value);
        self.depth = self.depth.saturating_sub(1);
        done
    }

    fn value_within(&mut self, value: &'d Value) -> Result<()> {
        match value {
            Value::Shareable(_) => match self.numbers.get(&std::ptr::from_ref(value)) {
                Some(&number) => self.shared(number),
                None => Err(Error::invalid("a shareable value is not part of the document")),
            },
            Value::SharedRef(number) => {
                let number = len_usize(*number).filter(|&number| number < self.shared.len());
                self.shared(number.ok_or_else(|| Error::invalid("a reference leads to no shareable value"))?)
            }
            value => {
                if let Some(&memo) = self.within.get(&std::ptr::from_ref(value)) {
                    return self.ops.get(memo);
                }
                self.one(value, None)
            }
        }
    }

    /// A value that is referred to: written where it is first met, and looked up from then on.
    fn shared(&mut self, number: usize) -> Result<()> {
        let Some(shared) = self.shared.get_mut(number) else { return Ok(()) };
        if let Some(memo) = shared.memo {
            return self.ops.get(memo);
        }
        // Once more within itself is how a tuple that contains itself is made: what is mutable in between is known by then.
        if shared.begun >= 2 {
            return Err(Error::invalid(
                "a value contains itself with nothing mutable in between: no pickle can hold it",
            ));
        }
        shared.begun = shared.begun.saturating_add(1);
        let value = shared.value;
        self.one(value, Some(number))?;
        if let Some(shared) = self.shared.get_mut(number) {
            shared.begun = shared.begun.saturating_sub(1);
        }
        Ok(())
    }

    /// Remembers what is on top of the stack, if it is referred to.
    pub(super) fn remember(&mut self, number: Option<usize>) -> Result<()> {
        if let Some(shared) = number.and_then(|number| self.shared.get_mut(number)) {
            shared.memo = Some(self.ops.put()?);
        }
        Ok(())
    }

    /// As [`remember`](Self::remember), of something mutable that was just begun.
    fn remember_begun(&mut self, value: &'d Value, number: Option<usize>) -> Result<()> {
        self.remember(number)?;
        self.remember_within(value, number)
    }

    /// Remembers something mutable that nothing refers to, if it may be met again within what is open.
    fn remember_within(&mut self, value: &'d Value, number: Option<usize>) -> Result<()> {
        if number.is_none() && self.open > 0 {
            let memo = self.ops.put()?;
            self.within.insert(std::ptr::from_ref(value), memo);
        }
        Ok(())
    }

    /// Writes a value that exists only when it is whole: `parts` puts its parts on the stack, `make` makes it of them.
    ///
    /// If it came to be within its own parts, that one is it, and this one is dropped: so Python writes a tuple that contains itself.
    pub(super) fn whole(
        &mut self,
        number: Option<usize>,
        parts: impl FnOnce(&mut Self) -> Result<()>,
        make: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let Some(number) = number else {
            parts(self)?;
            return make(self);
        };
        self.open = self.open.saturating_add(1);
        parts(self)?;
        self.open = self.open.saturating_sub(1);
        make(self)?;
        match self.shared.get(number).and_then(|shared| shared.memo) {
            None => self.remember(Some(number)),
            Some(memo) => {
                self.ops.op_beyond(POP, "an object that contains itself through a tuple or its arguments")?;
                self.ops.get(memo)
            }
        }
    }

    fn one(&mut self, value: &'d Value, number: Option<usize>) -> Result<()> {
        match value {
            Value::List(items) => {
                self.ops.op(EMPTY_LIST)?;
                self.remember_begun(value, number)?;
                self.append(items)
            }
            Value::Dict(dict) => self.dict(value, dict, number),
            Value::Map(map) => {
                self.ops.op(EMPTY_DICT)?;
                self.remember_begun(value, number)?;
                self.store(map.len(), map.iter(), |this, (key, value)| {
                    this.ops.text(key)?;
                    this.value(value)
                })
            }
            Value::Tuple(items) => self.tuple(items, number),
            Value::Set(items) => self.set("set", items, number),
            Value::FrozenSet(items) => self.set("frozenset", items, number),
            Value::Object(object) => match crate::salvage::lost_tensor(object) {
                None => self.object(value, object, number),
                // PyTorch knows no such class. A text can be loaded everywhere, and nobody takes it for a tensor.
                Some(name) => {
                    self.notes.tensor(name, "it was lost, and a text that says so stands in its place");
                    self.ops.text_once(format!("dolmen.Lost: {name}").as_bytes())?;
                    self.remember(number)
                }
            },
            Value::Tensor(tensor) => self.tensor(tensor, number),
            Value::Shareable(_) | Value::SharedRef(_) => self.value(value),
            leaf => {
                self.leaf(leaf)?;
                self.remember(number)
            }
        }
    }

    /// What holds no other values.
    fn leaf(&mut self, value: &'d Value) -> Result<()> {
        match value {
            Value::Bool(value) => self.ops.bool(*value),
            Value::Int(value) => self.ops.int(*value),
            Value::BigInt(value) => self.ops.long(&value.to_le_bytes()),
            Value::Float(value) => self.ops.float(*value),
            Value::Complex(real, imaginary) => self.complex(*real, *imaginary),
            Value::Text(text) => self.ops.text(text),
            Value::Wtf8(text) => self.ops.text_once(text),
            Value::Bytes(bytes) => self.byte_string("_codecs", "encode", bytes, "latin1"),
            Value::ByteArray(bytes) => self.byte_string("builtins", "bytearray", bytes, "latin-1"),
            Value::Global(global) => self.global(global),
            _ => self.ops.op(NONE),
        }
    }

    pub(super) fn complex(&mut self, real: f64, imaginary: f64) -> Result<()> {
        self.ops.global("builtins", "complex")?;
        self.ops.float(real)?;
        self.ops.float(imaginary)?;
        self.ops.tuple(2)?;
        self.ops.op(REDUCE)
    }

    pub(super) fn global(&mut self, global: &Global) -> Result<()> {
        self.ops.global(&global.module, &global.name)
    }

    /// Bytes as protocol 2 has them: text whose code points are the bytes.
    fn byte_string(&mut self, module: &str, name: &str, bytes: &[u8], codec: &'static str) -> Result<()> {
        self.ops.global(module, name)?;
        let text: String = bytes.iter().copied().map(char::from).collect();
        self.ops.text_once(text.as_bytes())?;
        self.ops.text(codec)?;
        self.ops.tuple(2)?;
        self.ops.op(REDUCE)
    }

    /// Appends to what is on top of the stack.
    fn append(&mut self, items: &'d [Value]) -> Result<()> {
        for batch in items.chunks(len_usize(BATCH).unwrap_or(1)) {
            self.ops.op(MARK)?;
            batch.iter().try_for_each(|item| self.value(item))?;
            self.ops.op(APPENDS)?;
        }
        Ok(())
    }

    /// Stores pairs into what is on top of the stack.
    fn store<T>(
        &mut self,
        len: usize,
        pairs: impl Iterator<Item = T>,
        pair: impl Fn(&mut Self, T) -> Result<()>,
    ) -> Result<()> {
        let batch = len_usize(BATCH).unwrap_or(1);
        for (i, one) in pairs.enumerate() {
            if i.is_multiple_of(batch) {
                self.ops.op(MARK)?;
            }
            pair(self, one)?;
            let next = i.saturating_add(1);
            if next.is_multiple_of(batch) || next == len {
                self.ops.op(SETITEMS)?;
            }
        }
        Ok(())
    }

    pub(super) fn entries(&mut self, entries: &'d [(Value, Value)]) -> Result<()> {
        self.store(entries.len(), entries.iter(), |this, (key, value)| {
            this.value(key)?;
            this.value(value)
        })
    }

    fn dict(&mut self, value: &'d Value, dict: &'d Dict, number: Option<usize>) -> Result<()> {
        let Dict { kind, entries, factory, attributes } = dict;
        match kind {
            DictKind::Plain => {
                self.ops.op(EMPTY_DICT)?;
                self.remember_begun(value, number)?;
            }
            DictKind::Ordered => {
                self.ops.global("collections", "OrderedDict")?;
                self.ops.tuple(0)?;
                self.ops.op(REDUCE)?;
                self.remember_begun(value, number)?;
            }
            DictKind::Default => {
                self.ops.global("collections", "defaultdict")?;
                match factory {
                    None => self.ops.tuple(0)?,
                    Some(factory) => {
                        self.value(factory)?;
                        self.ops.tuple(1)?;
                    }
                }
                self.ops.op(REDUCE)?;
                self.remember_begun(value, number)?;
            }
            DictKind::Counter => {
                let parts = |this: &mut Self| {
                    this.ops.global("collections", "Counter")?;
                    this.ops.op(EMPTY_DICT)?;
                    this.entries(entries)?;
                    this.ops.tuple(1)
                };
                self.whole(number, parts, |this| this.ops.op(REDUCE))?;
                self.remember_within(value, number)?;
                return self.state(attributes.as_deref(), Some("attributes of a dictionary"));
            }
        }
        self.entries(entries)?;
        let takes_state = *kind == DictKind::Ordered;
        self.state(attributes.as_deref(), (!takes_state).then_some("attributes of a dictionary"))
    }

    /// Gives a state to what is on top of the stack, if there is one.
    fn state(&mut self, state: Option<&'d Value>, beyond: Option<&'static str>) -> Result<()> {
        let Some(state) = state else { return Ok(()) };
        self.value(state)?;
        match beyond {
            None => self.ops.op(BUILD),
            Some(what) => self.ops.op_beyond(BUILD, what),
        }
    }

    fn tuple(&mut self, items: &'d [Value], number: Option<usize>) -> Result<()> {
        let short = items.len() <= 3;
        let parts = |this: &mut Self| {
            if !short {
                this.ops.op(MARK)?;
            }
            items.iter().try_for_each(|item| this.value(item))
        };
        self.whole(number, parts, |this| if short { this.ops.tuple(items.len()) } else { this.ops.tuple_of_mark() })
    }

    fn set(&mut self, class: &str, items: &'d [Value], number: Option<usize>) -> Result<()> {
        let parts = |this: &mut Self| {
            this.ops.global("builtins", class)?;
            this.ops.op(EMPTY_LIST)?;
            this.append(items)?;
            this.ops.tuple(1)
        };
        self.whole(number, parts, |this| this.ops.op(REDUCE))
    }

    fn object(&mut self, value: &'d Value, object: &'d Object, number: Option<usize>) -> Result<()> {
        let Object { class, args, kwargs, state, items, entries, new } = object;
        let parts = |this: &mut Self| {
            match (new.as_deref(), args) {
                (Some("extension"), args) => return this.extension(args.as_ref()),
                (None | Some("newobj" | "newobj_ex"), _) if class.is_null() => {
                    return Err(Error::invalid("an object of the document has no class"));
                }
                _ => this.value(class)?,
            }
            match args {
                None => this.ops.tuple(0)?,
                Some(Value::Tuple(items) | Value::List(items)) => this.tuple(items, None)?,
                Some(other) => this.value(other)?,
            }
            if new.as_deref() == Some("newobj_ex") {
                this.ops.op(EMPTY_DICT)?;
                this.entries(kwargs.as_deref().unwrap_or_default())?;
            }
            Ok(())
        };
        self.whole(number, parts, |this| match new.as_deref() {
            None if kwargs.is_none() => this.ops.op(REDUCE),
            Some("newobj") if kwargs.is_none() => this.ops.op(NEWOBJ),
            Some("newobj_ex") => this.ops.op_beyond(NEWOBJ_EX, "objects made with named arguments"),
            Some("extension") => Ok(()),
            _ => {
                let how = new.as_deref().map_or_else(|| "a call with named arguments".to_owned(), quoted);
                Err(Error::invalid(format!("an object of the document was made by {how}, which a pickle cannot say")))
            }
        })?;
        self.remember_within(value, number)?;
        if let Some(items) = items {
            self.append(items)?;
        }
        if let Some(entries) = entries {
            self.entries(entries)?;
        }
        let known = match class.unmarked() {
            Value::Global(global) => accepted::takes_state(&global.module, &global.name),
            _ => false,
        };
        self.state(state.as_ref(), (!known).then_some("states of objects of other classes than PyTorch's own"))
    }

    /// A code of the extension registry.
    fn extension(&mut self, args: Option<&'d Value>) -> Result<()> {
        let code = match args {
            Some(Value::Tuple(args) | Value::List(args)) => match args.as_slice() {
                [Value::Int(code)] => i32::try_from(*code).ok(),
                _ => None,
            },
            _ => None,
        };
        let code = code.ok_or_else(|| Error::invalid("an object of the extension registry has no code"))?;
        let what = "codes of the extension registry";
        match (u8::try_from(code), u16::try_from(code)) {
            (Ok(code), _) => {
                self.ops.op_beyond(0x82, what)?;
                self.ops.bytes(&[code])
            }
            (_, Ok(code)) => {
                self.ops.op_beyond(0x83, what)?;
                self.ops.bytes(&code.to_le_bytes())
            }
            _ => {
                self.ops.op_beyond(0x84, what)?;
                self.ops.bytes(&code.to_le_bytes())
            }
        }
    }
}
