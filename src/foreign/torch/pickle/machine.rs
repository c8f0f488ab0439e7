//! The stack machine: opcodes of protocols 0 to 5.

use super::input::Input;
use super::memo::Memo;
use super::{Call, Graph, How, INLINE_LEN, Items, Node, Payload, Ref, text};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::format::{len_u64, len_usize};

/// The newest protocol.
const NEWEST: u8 = 5;
/// The longest name of a module, or of a class in it.
const MAX_GLOBAL_LEN: usize = 1024;
/// From how many floats on a run of them is taken at once.
const RUN: usize = 4;

/// Reads one pickle; the input is then where it ends. What is made of it may take so many bytes, roughly.
///
/// # Errors
/// [`Limit`](ErrorKind::Limit) if it takes more; [`Malformed`](ErrorKind::Malformed) with the byte; [`UnsupportedVersion`](ErrorKind::UnsupportedVersion) for later protocols, and for bytes that
/// are not in the pickle but were to be sent beside it.
pub(in super::super) fn read(input: &mut Input<'_>, most: u64) -> Result<(Graph, Ref)> {
    let graph = Graph::default();
    let mut machine = Machine { input, graph, stack: Vec::new(), marks: Vec::new(), memo: Memo::default(), held: 0 };
    loop {
        let at = machine.input.offset();
        match machine.step() {
            Ok(None) if machine.taken() > most => {
                let message = "the pickle would take up far more memory than it warrants";
                let e = Error::new(ErrorKind::Limit, message).with_offset(at);
                return Err(e.with_advice("do not trust where this file came from"));
            }
            Ok(None) => {}
            Ok(Some(root)) => {
                let mut graph = machine.graph;
                super::distinct::keep_last(&mut graph, machine.input.source())?;
                return Ok((graph, root));
            }
            Err(e) if e.offset().is_none() && e.kind() != ErrorKind::Io => return Err(e.with_offset(at)),
            Err(e) => return Err(e),
        }
    }
}

struct Machine<'m, 'a> {
    input: &'m mut Input<'a>,
    graph: Graph,
    stack: Vec<Ref>,
    /// How long the stack was when marks were set; nothing below the last one can be popped.
    marks: Vec<usize>,
    memo: Memo,
    /// Bytes that nodes and what is in them take up.
    held: u64,
}

/// What the machine keeps of a value, wherever it keeps it.
const REF_LEN: usize = size_of::<Ref>();

#[cold]
fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Malformed, message)
}

/// What a payload becomes, short or long.
type Makers = (fn(Box<[u8]>) -> Node, fn(Payload) -> Node);
const TEXT: Makers = (Node::Text, Node::LongText);
const OLD_TEXT: Makers = (Node::OldText, Node::LongOldText);
const BYTES: Makers = (Node::Bytes, Node::LongBytes);
const BYTE_ARRAY: Makers = (Node::ByteArray, Node::LongByteArray);

impl Machine<'_, '_> {
    /// Does one opcode; gives the result if it was the last.
    fn step(&mut self) -> Result<Option<Ref>> {
        let opcode = self.input.byte()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            b'(' => self.mark()?,
            b'0' => {
                // As Python: with nothing since the last mark, it is the mark that goes.
                if self.stack.len() == self.fence() && !self.marks.is_empty() {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            b'N' => self.stack.push(Ref::None),
            0x88 => self.stack.push(Ref::Bool(true)),
            0x89 => self.stack.push(Ref::Bool(false)),
            b'K' => {
                let value = i64::from(self.input.byte()?);
                self.stack.push(Ref::Int(value));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.input.array()?);
                self.stack.push(Ref::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.input.array()?);
                self.stack.push(Ref::Int(value.into()));
            }
            b'I' => self.text_int()?,
            b'L' => {
                let bytes = text::integer(self.input.line()?)?;
                self.integer(&bytes)?;
            }
            0x8a => {
                let len = u64::from(self.input.byte()?);
                self.long(len)?;
            }
            0x8b => {
                let len = i32::from_le_bytes(self.input.array()?);
                self.long(u64::try_from(len).map_err(|_| wrong("an integer has a negative length"))?)?;
            }
            b'G' => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.stack.push(Ref::Float(value));
            }
            b'F' => {
                let value = text::float(self.input.line()?)?;
                self.stack.push(Ref::Float(value));
            }

            b'X' => self.payload::<4>(TEXT)?,
            0x8c => self.payload::<1>(TEXT)?,
            0x8d => self.payload::<8>(TEXT)?,
            b'V' => {
                let bytes = text::raw_unicode(self.input.line()?)?;
                self.push(Node::Text(bytes.into()))?;
            }
            b'S' => {
                let bytes = text::quoted(self.input.line()?)?;
                self.push(Node::OldText(bytes.into()))?;
            }
            b'T' => self.payload::<4>(OLD_TEXT)?,
            b'U' => self.payload::<1>(OLD_TEXT)?,
            b'B' => self.payload::<4>(BYTES)?,
            b'C' => self.payload::<1>(BYTES)?,
            0x8e => self.payload::<8>(BYTES)?,
            0x96 => self.payload::<8>(BYTE_ARRAY)?,

            b']' => self.push(Node::List(Items::Refs(Vec::new())))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b')' => self.push(Node::Tuple(Box::default()))?,
            0x8f => self.push(Node::Set(Vec::new()))?,
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(Items::Refs(items)))?;
            }
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items.into()))?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.push(Node::Dict(pairs(&items)?))?;
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::FrozenSet(items.into()))?;
            }
            0x85 => self.tuple::<1>()?,
            0x86 => self.tuple::<2>()?,
            0x87 => self.tuple::<3>()?,
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(pairs(&items)?)?;
            }
            0x90 => {
                let items = self.pop_mark()?;
                self.hold(size_of_val(&*items));
                match self.top_node()? {
                    Node::Set(set) => set.extend_from_slice(&items),
                    _ => return Err(wrong("elements are added to what is no set")),
                }
            }

            b'q' => {
                let number = u64::from(self.input.byte()?);
                self.put(number)?;
            }
            b'r' => {
                let number = u32::from_le_bytes(self.input.array()?);
                self.put(number.into())?;
            }
            b'p' => {
                let number = text::index(self.input.line()?)?;
                self.put(number)?;
            }
            0x94 => self.put(self.memo.len())?,
            b'h' => {
                let number = u64::from(self.input.byte()?);
                self.recall(number)?;
            }
            b'j' => {
                let number = u32::from_le_bytes(self.input.array()?);
                self.recall(number.into())?;
            }
            b'g' => {
                let number = text::index(self.input.line()?)?;
                self.recall(number)?;
            }

            b'c' => {
                let global = self.global_lines()?;
                self.stack.push(global);
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.graph.text(module), self.graph.text(name)) else {
                    return Err(wrong("a class is named by what is no text"));
                };
                let (module, name) = (module.to_owned(), name.to_owned());
                let global = self.global(&module, &name)?;
                self.stack.push(global);
            }
            0x82 => {
                let code = i64::from(self.input.byte()?);
                self.push(Node::Extension(code))?;
            }
            0x83 => {
                let code = u16::from_le_bytes(self.input.array()?);
                self.push(Node::Extension(code.into()))?;
            }
            0x84 => {
                let code = i32::from_le_bytes(self.input.array()?);
                self.push(Node::Extension(code.into()))?;
            }
            b'R' => {
                let (args, callable) = (self.pop()?, self.pop()?);
                self.call(callable, args, How::Call)?;
            }
            0x81 => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.call(class, args, How::New)?;
            }
            0x92 => {
                let (kwargs, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                if !matches!(self.graph.get(kwargs), Some(Node::Dict(_))) {
                    return Err(wrong("named arguments are no dictionary"));
                }
                self.call(class, args, How::NewWith(kwargs))?;
            }
            b'o' => {
                let items = self.pop_mark()?;
                let Some((&class, args)) = items.split_first() else { return Err(wrong("an object has no class")) };
                self.instance(class, args)?;
            }
            b'i' => {
                let class = self.global_lines()?;
                let args = self.pop_mark()?;
                self.instance(class, &args)?;
            }
            b'b' => self.build()?,
            b'P' => {
                let line: Box<[u8]> = self.input.line()?.into();
                let id = self.node(Node::Text(line))?;
                self.push(Node::Persistent(id))?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }

            0x80 => {
                let protocol = self.input.byte()?;
                if protocol > NEWEST {
                    let message =
                        format!("the pickle is of protocol {protocol}, and {NEWEST} is the newest that is known");
                    return Err(Error::new(ErrorKind::UnsupportedVersion, message));
                }
                self.graph.protocol = protocol;
            }
            0x95 => {
                let len = u64::from_le_bytes(self.input.array()?);
                if len > self.input.left() {
                    return Err(wrong(format!("a frame of {len} bytes goes beyond the end of the pickle")));
                }
            }
            0x97 | 0x98 => {
                let e = Error::new(
                    ErrorKind::UnsupportedVersion,
                    "the pickle refers to buffers that were kept outside of it, and are not in the file",
                );
                return Err(e.with_advice("save it again, without a buffer_callback"));
            }
            other => return Err(wrong(format!("there is no opcode {other:#04x}"))),
        }
        Ok(None)
    }

    /// How long the stack must stay.
    fn fence(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Ref> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.fence() => Ok(top),
            _ => Err(wrong("the stack is empty")),
        }
    }

    fn pop(&mut self) -> Result<Ref> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// All since the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Ref>> {
        let mark = self.marks.pop().ok_or_else(|| wrong("there is no mark on the stack"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    /// Bytes that everything takes up, roughly.
    fn taken(&self) -> u64 {
        let places =
            self.memo.places().saturating_add(len_u64(self.stack.len())).saturating_add(len_u64(self.marks.len()));
        self.held.saturating_add(places.saturating_mul(len_u64(REF_LEN)))
    }

    fn hold(&mut self, len: usize) {
        self.held = self.held.saturating_add(len_u64(len));
    }

    fn node(&mut self, node: Node) -> Result<Ref> {
        let within = match &node {
            Node::Text(bytes) | Node::OldText(bytes) | Node::Bytes(bytes) | Node::ByteArray(bytes) => bytes.len(),
            Node::Integer(bytes) => bytes.len(),
            Node::Tuple(items) | Node::FrozenSet(items) => size_of_val(&**items),
            Node::List(Items::Refs(items)) => size_of_val(&**items),
            Node::Dict(entries) => size_of_val(&**entries),
            Node::Call(_) => size_of::<Call>(),
            _ => 0,
        };
        self.hold(within.saturating_add(size_of::<Node>()));
        self.graph.push(node)
    }

    fn push(&mut self, node: Node) -> Result<()> {
        let node = self.node(node)?;
        self.stack.push(node);
        Ok(())
    }

    /// The node on top of the stack, to be changed.
    fn top_node(&mut self) -> Result<&mut Node> {
        let node = match self.top()? {
            Ref::Node(node) => self.graph.node_mut(node),
            _ => None,
        };
        node.ok_or_else(|| wrong("a number, a truth value or None cannot be changed"))
    }

    /// Sets a mark; and takes the floats that follow, if they are appended to a list of nothing but floats.
    fn mark(&mut self) -> Result<()> {
        let mark = self.stack.len();
        let floats = self.floats()?;
        if !floats.is_empty()
            && self.input.ahead(1).first() == Some(&b'e')
            && let Node::List(items) = self.top_node()?
        {
            if items.len() == 0 {
                *items = Items::Floats(Vec::new());
            }
            if let Items::Floats(held) = items {
                held.extend_from_slice(&floats);
                self.hold(size_of_val(&*floats));
                self.input.byte()?;
                return Ok(());
            }
        }
        self.marks.push(mark);
        self.stack.extend(floats.into_iter().map(Ref::Float));
        Ok(())
    }

    /// The floats that come next, if they are several.
    fn floats(&mut self) -> Result<Vec<f64>> {
        const LEN: usize = 9;
        let mut floats = Vec::new();
        let is_float = |chunk: &&[u8; LEN]| chunk.first() == Some(&b'G');
        if self.input.ahead(LEN.saturating_mul(RUN)).as_chunks::<LEN>().0.iter().take_while(is_float).count() < RUN {
            return Ok(floats);
        }
        loop {
            let (chunks, _) = self.input.ahead(LEN).as_chunks::<LEN>();
            let before = floats.len();
            let values = chunks.iter().take_while(is_float);
            floats.extend(values.filter_map(|chunk| Some(f64::from_be_bytes(*chunk.last_chunk()?))));
            let taken = floats.len().saturating_sub(before);
            if taken == 0 {
                return Ok(floats);
            }
            self.input.skip(len_u64(taken.saturating_mul(LEN)))?;
        }
    }

    fn text_int(&mut self) -> Result<()> {
        let value = match self.input.line()? {
            b"00" => Ref::Bool(false),
            b"01" => Ref::Bool(true),
            line => {
                let bytes = text::integer(line)?;
                return self.integer(&bytes);
            }
        };
        self.stack.push(value);
        Ok(())
    }

    fn long(&mut self, len: u64) -> Result<()> {
        let len = len_usize(len).ok_or_else(|| wrong("an integer is too long"))?;
        let bytes = self.input.take(len)?.to_vec();
        self.integer(&bytes)
    }

    /// Pushes the integer of these bytes: two's complement, little-endian.
    fn integer(&mut self, bytes: &[u8]) -> Result<()> {
        let fill = match bytes.last() {
            Some(&last) if last >= 0x80 => 0xFF,
            _ => 0,
        };
        // What is beyond the eighth byte may only repeat the sign.
        let (low, high) = bytes.split_at_checked(8).unwrap_or((bytes, &[]));
        let mut word = [fill; 8];
        word.iter_mut().zip(low).for_each(|(place, &byte)| *place = byte);
        let value = i64::from_le_bytes(word);
        if high.iter().all(|&byte| byte == fill) && (value < 0) == (fill != 0) {
            self.stack.push(Ref::Int(value));
            return Ok(());
        }
        self.push(Node::Integer(bytes.into()))
    }

    /// Text or bytes, whose length is given in `N` bytes before them.
    fn payload<const N: usize>(&mut self, (short, long): Makers) -> Result<()> {
        let mut len = [0; 8];
        len.iter_mut().zip(self.input.array::<N>()?).for_each(|(place, byte)| *place = byte);
        let len = u64::from_le_bytes(len);
        let node = match len_usize(len).filter(|_| len < INLINE_LEN) {
            Some(len) => short(self.input.take(len)?.into()),
            None => long(Payload { offset: self.input.skip(len)?, len }),
        };
        self.push(node)
    }

    fn tuple<const N: usize>(&mut self) -> Result<()> {
        let start = self.stack.len().checked_sub(N).filter(|&start| start >= self.fence());
        let start = start.ok_or_else(|| wrong("the stack has too few elements for a tuple"))?;
        let items = self.stack.split_off(start);
        self.push(Node::Tuple(items.into()))
    }

    fn append(&mut self, items: &[Ref]) -> Result<()> {
        self.hold(size_of_val(items));
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            Node::Call(call) => call.items.extend_from_slice(items),
            _ => return Err(wrong("elements are appended to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, entries: Vec<(Ref, Ref)>) -> Result<()> {
        self.hold(size_of_val(&*entries));
        match self.top_node()? {
            Node::Dict(dict) => dict.extend(entries),
            Node::Call(call) => call.entries.extend(entries),
            _ => return Err(wrong("entries are stored into what is no dictionary")),
        }
        Ok(())
    }

    fn put(&mut self, number: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.put(number, top);
        Ok(())
    }

    fn recall(&mut self, number: u64) -> Result<()> {
        let value = self.memo.get(number).ok_or_else(|| wrong(format!("the memo has nothing under {number}")))?;
        self.stack.push(value);
        Ok(())
    }

    fn global_lines(&mut self) -> Result<Ref> {
        let mut lines = [const { String::new() }; 2];
        for place in &mut lines {
            let line = self.input.line()?;
            let line = std::str::from_utf8(line).map_err(|_| wrong("the name of a class is no text"))?;
            *place = line.to_owned();
        }
        let [module, name] = &lines;
        self.global(module, name)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<Ref> {
        if module.len() > MAX_GLOBAL_LEN || name.len() > MAX_GLOBAL_LEN {
            return Err(wrong(format!("the name of a class has more than {MAX_GLOBAL_LEN} bytes")));
        }
        let (module, name) =
            if self.graph.protocol < 3 { super::python2::renamed(module, name) } else { (module, name) };
        let known = self.graph.globals.len();
        let value = self.graph.named(module, name)?;
        if self.graph.globals.len() > known {
            // The name is there twice, in a map and in a list, each of which takes as much again for itself.
            let twice = module
                .len()
                .saturating_add(name.len())
                .saturating_add(size_of::<super::NamedGlobal>())
                .saturating_mul(4);
            self.hold(twice.saturating_add(size_of::<Node>()));
        }
        Ok(value)
    }

    fn call(&mut self, callable: Ref, args: Ref, how: How) -> Result<()> {
        if self.graph.tuple(args).is_none() {
            let what = match self.graph.global(callable) {
                Some(name) => quoted(&format!("{}.{}", name.module, name.name)),
                None => "an object".to_owned(),
            };
            return Err(wrong(format!("the arguments of {what} are no tuple")));
        }
        if let Some(&Node::Global(number)) = self.graph.get(callable)
            && let Some(global) = len_usize(number.into()).and_then(|number| self.graph.globals.get_mut(number))
        {
            global.called = true;
        }
        self.push(Node::Call(Box::new(Call {
            callable,
            args,
            how,
            state: None,
            items: Vec::new(),
            entries: Vec::new(),
        })))
    }

    /// An object of protocol 0 or 1: Python 3 calls the class if there are arguments, and makes a bare one if not.
    fn instance(&mut self, class: Ref, args: &[Ref]) -> Result<()> {
        let how = if args.is_empty() { How::New } else { How::Call };
        let args = self.node(Node::Tuple(args.into()))?;
        self.call(class, args, how)
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match self.top_node()? {
            Node::Call(call) if call.state.is_none() => call.state = Some(state),
            Node::Call(_) => return Err(wrong("an object is given a state twice")),
            _ => return Err(wrong("a state is given to what can have none")),
        }
        Ok(())
    }
}

fn pairs(items: &[Ref]) -> Result<Vec<(Ref, Ref)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(wrong("a dictionary has a key without a value"));
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}
