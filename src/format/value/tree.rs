//! Values as a tree of lines, for people to read.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::encode::in_order;
use super::{Dict, DictKind, Global, Object, TensorRef, Value};
use crate::error::quoted;

/// How much a [`Tree`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeOptions {
    /// Entries shown of each dictionary, and elements of each other collection; 20 by default.
    pub max_items: usize,
    /// Elements shown of each list, tuple or set, if that is less; 20 by default.
    pub max_list: usize,
    /// Characters shown of each text, and bytes of each byte string: 80 by default, 200 at most.
    pub max_text: usize,
    /// Levels shown; 32 by default.
    pub max_depth: usize,
}

impl Default for TreeOptions {
    fn default() -> TreeOptions {
        TreeOptions { max_items: 20, max_list: 20, max_text: 80, max_depth: 32 }
    }
}

/// What is told of a tensor besides its name.
type Describe<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value shown as a tree: see [`Value::tree`].
///
/// Names and texts have their control characters escaped, so that none can write on a terminal.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    value: &'a Value,
    options: TreeOptions,
    describe: Option<Describe<'a>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(value: &'a Value, options: TreeOptions) -> Tree<'a> {
        Tree { value, options, describe: None }
    }

    /// Tells, behind the name of each tensor, what `describe` has to say of it, such as its dtype and shape.
    #[must_use]
    pub fn describe(self, describe: &'a dyn Fn(&str) -> Option<String>) -> Tree<'a> {
        Tree { describe: Some(describe), ..self }
    }
}

impl fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("value", self.value).field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a line stands for: a value, or what an object holds that is no value of its own.
#[derive(Clone, Copy)]
enum Node<'a> {
    Value(&'a Value),
    Values(&'a [Value]),
    Pairs(&'a [(Value, Value)]),
    Text(&'a str),
}

/// The lines below a line.
#[derive(Default)]
struct Children<'a> {
    shown: Vec<(String, Node<'a>)>,
    hidden: Hidden,
}

/// How many lines are left out: because there are too many, and because there is nothing in them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Hidden {
    more: usize,
    empty: usize,
}

impl Hidden {
    fn more(all: usize, shown: usize) -> Hidden {
        Hidden { more: all.saturating_sub(shown), empty: 0 }
    }
}

impl fmt::Display for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hidden { more, empty: 0 } => write!(f, "… {more} more"),
            Hidden { more: 0, empty } => write!(f, "… {empty} empty"),
            Hidden { more, empty } => write!(f, "… {more} more, {empty} empty"),
        }
    }
}

/// The children on one level that are still to be written.
struct Level<'a> {
    rest: std::vec::IntoIter<(String, Node<'a>)>,
    hidden: Hidden,
    /// The length of the prefix that these lines have.
    prefix_len: usize,
}

impl fmt::Display for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tree { value, options, describe } = *self;
        let writer = Writer { options, describe, numbers: shareable_numbers(value) };
        let root = Node::Value(self.value);
        f.write_str(&writer.headline(root))?;
        let mut prefix = String::new();
        let mut levels = Vec::new();
        levels.extend(writer.level(root, 0, 0));
        while let Some(level) = levels.last_mut() {
            prefix.truncate(level.prefix_len);
            let Some((label, node)) = level.rest.next() else {
                if level.hidden != Hidden::default() {
                    write!(f, "\n{prefix}└─ {}", level.hidden)?;
                }
                levels.pop();
                continue;
            };
            let last = level.rest.len() == 0 && level.hidden == Hidden::default();
            let branch = if last { "└─ " } else { "├─ " };
            write!(f, "\n{prefix}{branch}{label}: {}", writer.headline(node))?;
            prefix.push_str(if last { "   " } else { "│  " });
            levels.extend(writer.level(node, levels.len(), prefix.len()));
        }
        Ok(())
    }
}

/// The numbers of shareable values, by where they are in memory.
fn shareable_numbers(value: &Value) -> BTreeMap<*const Value, u64> {
    let shareables = value.descendants().filter(|value| matches!(value, Value::Shareable(_)));
    shareables.map(std::ptr::from_ref).zip(0..).collect()
}

struct Writer<'d> {
    options: TreeOptions,
    describe: Option<Describe<'d>>,
    numbers: BTreeMap<*const Value, u64>,
}

impl Writer<'_> {
    /// The level below a node at this depth, if there is something to write there.
    fn level<'a>(&self, node: Node<'a>, depth: usize, prefix_len: usize) -> Option<Level<'a>> {
        if depth >= self.options.max_depth {
            return None;
        }
        let children = self.children(node);
        if children.shown.is_empty() && children.hidden == Hidden::default() {
            return None;
        }
        Some(Level { rest: children.shown.into_iter(), hidden: children.hidden, prefix_len })
    }

    fn children<'a>(&self, node: Node<'a>) -> Children<'a> {
        match node {
            Node::Values(items) => self.items(items),
            Node::Pairs(pairs) => self.pairs(pairs),
            Node::Text(_) => Children::default(),
            Node::Value(value) => match value.unmarked() {
                Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
                    self.items(items)
                }
                Value::Dict(dict) if self.dict_on_one_line(dict).is_some() => Children::default(),
                Value::Dict(dict) => {
                    let mut children = self.pairs(&dict.entries);
                    let extras = [("(factory)", &dict.factory), ("(attributes)", &dict.attributes)];
                    let extras = extras.into_iter().filter_map(|(label, value)| Some((label, value.as_deref()?)));
                    children.shown.extend(extras.map(|(label, value)| (label.to_owned(), Node::Value(value))));
                    children
                }
                Value::Map(map) => self.map(map),
                Value::Tensor(tensor) => self.attributes(tensor),
                Value::Object(object) if !is_call(object, self.max_list()) => self.fields(object),
                _ => Children::default(),
            },
        }
    }

    fn max_list(&self) -> usize {
        self.options.max_list.min(self.options.max_items)
    }

    fn items<'a>(&self, items: &'a [Value]) -> Children<'a> {
        if self.fits_one_line(items) {
            return Children::default();
        }
        let shown: Vec<_> = items.iter().take(self.max_list()).enumerate().collect();
        let hidden = Hidden::more(items.len(), shown.len());
        Children { shown: shown.into_iter().map(|(i, item)| (i.to_string(), Node::Value(item))).collect(), hidden }
    }

    fn pairs<'a>(&self, pairs: &'a [(Value, Value)]) -> Children<'a> {
        let is_row =
            |(_, value): &(Value, Value)| matches!(value, Value::Dict(row) if self.dict_on_one_line(row).is_some());
        // A dictionary of nothing but rows is a table, and as long as one.
        let most = if pairs.iter().take(self.options.max_items).all(is_row) {
            self.max_list()
        } else {
            self.options.max_items
        };
        let shown: Vec<_> = pairs.iter().take(most).collect();
        let hidden = Hidden::more(pairs.len(), shown.len());
        Children {
            shown: shown.into_iter().map(|(key, value)| (self.label(key), Node::Value(value))).collect(),
            hidden,
        }
    }

    fn map<'a>(&self, map: &'a BTreeMap<String, Value>) -> Children<'a> {
        let shown: Vec<_> = map.iter().take(self.options.max_items).collect();
        let hidden = Hidden::more(map.len(), shown.len());
        Children { shown: shown.into_iter().map(|(key, value)| (self.text(key), Node::Value(value))).collect(), hidden }
    }

    /// What is not on the tensor's own line.
    fn attributes<'a>(&self, tensor: &'a TensorRef) -> Children<'a> {
        let further = in_order(&tensor.attributes).into_iter().filter(|(_, value)| !is_simple(value, 0));
        Children {
            shown: further.map(|(key, value)| (self.text(key), Node::Value(value))).collect(),
            hidden: Hidden::default(),
        }
    }

    /// What an object holds. What nearly every object is like is not said: that it was made without arguments, and by its class.
    fn fields<'a>(&self, object: &'a Object) -> Children<'a> {
        let Object { class, args, kwargs, state, items, entries, new } = object;
        let no_args = matches!(args, Some(Value::Tuple(args) | Value::List(args)) if args.is_empty());
        let attributes = state.as_ref().and_then(attributes_of);
        // Of a call, the arguments are all there is.
        if let Object { kwargs: None, state: None, items: None, entries: None, new: None, .. } = object
            && let (Value::Global(_), Some(Value::Tuple(args))) = (class, args)
            && !self.fits_one_line(args)
        {
            return self.items(args);
        }
        let fields = [
            ("new", new.as_deref().filter(|new| *new != "newobj").map(Node::Text)),
            ("class", (!matches!(class, Value::Global(_))).then_some(Node::Value(class))),
            ("args", args.as_ref().filter(|_| !no_args).map(Node::Value)),
            ("items", items.as_deref().map(Node::Values)),
            ("state", state.as_ref().filter(|_| attributes.is_none()).map(Node::Value)),
            ("kwargs", kwargs.as_deref().map(Node::Pairs)),
            ("entries", entries.as_deref().map(Node::Pairs)),
        ];
        let fields = fields.into_iter().filter_map(|(label, node)| Some((label.to_owned(), node?)));
        let mut children = Children { shown: fields.collect(), hidden: Hidden::default() };
        let mut told = 0usize;
        for (key, value) in attributes.unwrap_or_default() {
            if is_bare(key, value) {
                children.hidden.empty = children.hidden.empty.saturating_add(1);
            } else if told < self.options.max_items {
                told = told.saturating_add(1);
                let name = self.bare(key.as_str().unwrap_or_default());
                children.shown.push((format!(".{name}"), Node::Value(value)));
            } else {
                children.hidden.more = children.hidden.more.saturating_add(1);
            }
        }
        children
    }

    /// Whether what is shown of a collection goes on one line: numbers and the like, however many; or all of it, if that is short.
    fn fits_one_line(&self, items: &[Value]) -> bool {
        if items.iter().take(self.max_list()).all(is_plain) {
            return true;
        }
        let all_simple = items.len() <= self.max_list() && items.iter().all(|item| is_simple(item, 1));
        all_simple && fits(&self.on_one_line("[", items, "]"))
    }

    /// A small dictionary of simple values.
    fn dict_on_one_line(&self, dict: &Dict) -> Option<String> {
        const MAX_LEN: usize = 4;
        let Dict { kind: _, entries, factory, attributes } = dict;
        let small = !entries.is_empty() && entries.len() <= MAX_LEN.min(self.options.max_items);
        if !small || factory.is_some() || attributes.is_some() {
            return None;
        }
        if !entries.iter().all(|(key, value)| is_simple(key, 1) && is_simple(value, 1)) {
            return None;
        }
        let entries = entries.iter().map(|(key, value)| format!("{}: {}", self.label(key), self.compact(value)));
        Some(format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))).filter(|line| fits(line))
    }

    /// A dictionary's key.
    fn label(&self, key: &Value) -> String {
        match key {
            Value::Tuple(items) if items.iter().all(|item| matches!(item, Value::Text(_) | Value::Int(_))) => {
                self.on_one_line("(", items, ")")
            }
            _ => self.headline(Node::Value(key)),
        }
    }

    fn headline(&self, node: Node<'_>) -> String {
        let value = match node {
            Node::Values(items) => return self.collection("list", "[", items, "]"),
            Node::Pairs(pairs) => return format!("dict of {}", pairs.len()),
            Node::Text(text) => return self.text(text),
            Node::Value(value) => value,
        };
        match value {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::BigInt(value) if value.magnitude().len() > self.max_text() => {
                format!("integer of {} bytes", value.magnitude().len())
            }
            Value::BigInt(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Complex(real, imaginary) => format!("({real:?}, {imaginary:?}i)"),
            Value::Text(text) => self.text(text),
            Value::Wtf8(bytes) => self.bytes("text with surrogates", bytes),
            Value::Bytes(bytes) => self.bytes("bytes", bytes),
            Value::ByteArray(bytes) => self.bytes("bytearray", bytes),
            Value::List(items) => self.collection("list", "[", items, "]"),
            Value::Tuple(items) => self.collection("tuple", "(", items, tuple_end(items)),
            Value::Set(items) => self.collection("set", "{", items, "}"),
            Value::FrozenSet(items) => self.collection("frozenset", "{", items, "}"),
            Value::Dict(dict) => self.dict(dict),
            Value::Map(map) => format!("map of {}", map.len()),
            Value::Tensor(tensor) => self.tensor(tensor),
            Value::Global(global) => self.global(global),
            Value::Object(object) => self.object(object),
            Value::Shareable(inner) => self.shareable(value, inner),
            Value::SharedRef(number) => format!("see #{number}"),
        }
    }

    fn dict(&self, dict: &Dict) -> String {
        let kind = if dict.kind == DictKind::Plain { String::new() } else { format!("{} ", dict.kind.name()) };
        let entries = self.dict_on_one_line(dict).map(|entries| format!(": {entries}")).unwrap_or_default();
        format!("{kind}dict of {}{entries}", dict.entries.len())
    }

    fn shareable(&self, value: &Value, inner: &Value) -> String {
        let number = |value: &Value| self.numbers.get(&std::ptr::from_ref(value)).copied().unwrap_or_default();
        let mut line = format!("#{} ", number(value));
        let mut inner = inner;
        while let Value::Shareable(next) = inner {
            let _ = write!(line, "#{} ", number(inner));
            inner = next;
        }
        line + &self.headline(Node::Value(inner))
    }

    fn max_text(&self) -> usize {
        self.options.max_text.min(200)
    }

    fn text(&self, text: &str) -> String {
        match text.char_indices().nth(self.max_text()) {
            Some((end, _)) => quoted(text.get(..end).unwrap_or_default()) + "…",
            None => quoted(text),
        }
    }

    fn global(&self, global: &Global) -> String {
        self.bare(&format!("{}.{}", global.module, global.name))
    }

    /// Text escaped as it always is, but without the quotes.
    fn bare(&self, text: &str) -> String {
        self.text(text).replace('"', "")
    }

    /// A tensor and what is simple about it: `tensor "w" (parameter, requires_grad, location "cuda:0")`.
    fn tensor(&self, tensor: &TensorRef) -> String {
        let mut words = Vec::new();
        for (key, value) in in_order(&tensor.attributes) {
            match value {
                Value::Text(text) if key == "as" => words.push(self.bare(text)),
                Value::Bool(true) => words.push(self.bare(key)),
                value if is_simple(value, 0) => words.push(format!("{} {}", self.bare(key), self.compact(value))),
                _ => {}
            }
        }
        let words = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
        let described = self.describe.and_then(|describe| describe(&tensor.name));
        let described = described.map(|described| format!(" {described}")).unwrap_or_default();
        format!("tensor {}{described}{words}", self.text(&tensor.name))
    }

    /// What made an object; with its arguments, if that is all there is to it.
    fn object(&self, object: &Object) -> String {
        let class = match &object.class {
            Value::Global(global) => self.global(global),
            Value::Null => "of the extension registry".to_owned(),
            _ => "of a class that is an object".to_owned(),
        };
        match &object.args {
            Some(Value::Tuple(args) | Value::List(args)) if is_call(object, self.max_list()) => {
                format!("{class}{}", self.on_one_line("(", args, ")"))
            }
            _ => format!("object {class}"),
        }
    }

    fn bytes(&self, what: &str, bytes: &[u8]) -> String {
        let mut line = format!("{what}, {} bytes: ", bytes.len());
        for byte in bytes.iter().take(self.max_text()) {
            let _ = write!(line, "{byte:02x}");
        }
        if bytes.len() > self.max_text() {
            line.push('…');
        }
        line
    }

    fn collection(&self, what: &str, open: &str, items: &[Value], close: &str) -> String {
        let line = format!("{what} of {}", items.len());
        if items.is_empty() || !self.fits_one_line(items) {
            return line;
        }
        format!("{line}: {}", self.on_one_line(open, items, close))
    }

    fn on_one_line(&self, open: &str, items: &[Value], close: &str) -> String {
        let mut line = open.to_owned();
        for (i, item) in items.iter().take(self.max_list()).enumerate() {
            if i != 0 {
                line.push_str(", ");
            }
            line.push_str(&self.compact(item));
        }
        let hidden = Hidden::more(items.len(), self.max_list());
        if hidden != Hidden::default() {
            let _ = write!(line, ", {hidden}");
        }
        line.push_str(close);
        line
    }

    /// A simple value within others on one line.
    fn compact(&self, value: &Value) -> String {
        match value {
            Value::Tuple(items) => self.on_one_line("(", items, tuple_end(items)),
            value => self.headline(Node::Value(value)),
        }
    }
}

/// How Python ends a tuple.
fn tuple_end(items: &[Value]) -> &'static str {
    if items.len() == 1 { ",)" } else { ")" }
}

/// Whether a line is so short that there is no need for several.
fn fits(line: &str) -> bool {
    const MAX_LEN: usize = 72;
    line.chars().nth(MAX_LEN).is_none()
}

/// Whether a value is a number, or as short.
fn is_plain(value: &Value) -> bool {
    matches!(
        value,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Complex(..) | Value::SharedRef(_)
    )
}

/// The attributes of an object, if its state is nothing but those.
fn attributes_of(state: &Value) -> Option<&[(Value, Value)]> {
    match state {
        Value::Dict(dict) if dict.kind == DictKind::Plain => {
            let named = |(key, _): &(Value, Value)| matches!(key, Value::Text(_));
            Some(&dict.entries[..]).filter(|entries| !entries.is_empty() && entries.iter().all(named))
        }
        _ => None,
    }
}

/// Whether an attribute is one of the private kind in which there is nothing: objects can have dozens.
fn is_bare(key: &Value, value: &Value) -> bool {
    let private = key.as_str().is_some_and(|key| key.starts_with('_'));
    private
        && match value {
            Value::Null => true,
            Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => items.is_empty(),
            Value::Dict(dict) => dict.entries.is_empty() && dict.attributes.is_none(),
            _ => false,
        }
}

/// Whether a value is shown on one line wherever it is.
fn is_simple(value: &Value, depth: usize) -> bool {
    /// How deep tuples and calls may nest on one line.
    const MAX_NESTING: usize = 2;
    /// How many elements such a tuple may have.
    const MAX_LEN: usize = 8;
    match value {
        value if is_plain(value) => true,
        Value::Text(text) => text.len() <= 64,
        Value::Bytes(bytes) => bytes.len() <= 16,
        Value::Global(_) => true,
        Value::Tuple(items) => {
            depth < MAX_NESTING
                && items.len() <= MAX_LEN
                && items.iter().all(|item| is_simple(item, depth.saturating_add(1)))
        }
        Value::Object(object) => depth < MAX_NESTING && is_call(object, MAX_LEN),
        _ => false,
    }
}

/// Whether an object is nothing but a call with simple arguments.
fn is_call(object: &Object, max_args: usize) -> bool {
    let Object { class, args, kwargs, state, items, entries, new: _ } = object;
    let bare = kwargs.is_none() && state.is_none() && items.is_none() && entries.is_none();
    let args = match args {
        None => return false,
        Some(Value::Tuple(args) | Value::List(args)) => args,
        Some(_) => return false,
    };
    bare && matches!(class, Value::Global(_)) && args.len() <= max_args && args.iter().all(|arg| is_simple(arg, 1))
}
