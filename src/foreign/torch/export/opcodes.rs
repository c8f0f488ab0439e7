//! The opcodes of a pickle of protocol 2, one after the other: numbers, text, names, and the memo.
//!
//! What protocol 2 has no opcode for, and later ones have, is written all the same: Python's own machine takes every opcode in every
//! pickle. PyTorch's restricted one does not, and [`Opcodes::beyond`] says which were used.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;

use super::super::accepted;
use super::super::pickle::renamed;
use super::super::rebuild::{REPEATED_LEN, is_nested_class};
use crate::error::{Error, Result};
use crate::format::len_u64;

/// As many elements are handed over at once as Python itself does.
pub(super) const BATCH: u64 = 1000;
/// The longest integer, in bytes, that `LONG1` takes.
const LONG1_LEN: usize = 255;

pub(super) const MARK: u8 = b'(';
pub(super) const NONE: u8 = b'N';
pub(super) const TRUE: u8 = 0x88;
pub(super) const FALSE: u8 = 0x89;
pub(super) const EMPTY_LIST: u8 = b']';
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const APPEND: u8 = b'a';
pub(super) const APPENDS: u8 = b'e';
pub(super) const SETITEMS: u8 = b'u';
pub(super) const REDUCE: u8 = b'R';
pub(super) const BUILD: u8 = b'b';
pub(super) const NEWOBJ: u8 = 0x81;
pub(super) const NEWOBJ_EX: u8 = 0x92;
pub(super) const BINPERSID: u8 = b'Q';
pub(super) const POP: u8 = b'0';

/// The protocol of `torch.save`, which has the names of Python 2.
const USUAL: u8 = 2;
/// The first protocol after it that every Python in use reads.
const WITH_TODAYS_NAMES: u8 = 4;

/// What Python 2 called a module.
fn old_name(module: &str) -> &str {
    match module {
        "builtins" => "__builtin__",
        "copyreg" => "copy_reg",
        module => module,
    }
}

/// Whether what protocol 2 would call it is read as something else, such as a module of one's own that is named `Queue`.
fn is_taken_for_another(module: &str, name: &str) -> bool {
    let outermost = if is_nested_class(module, name) { name.split('.').next().unwrap_or(name) } else { name };
    renamed(old_name(module), outermost) != (module, outermost)
}

/// Writes opcodes, and remembers what is in the memo.
pub(super) struct Opcodes<'w, 'd> {
    out: &'w mut dyn Write,
    protocol: u8,
    memo_len: u32,
    texts: HashMap<&'d str, u32>,
    globals: HashMap<(String, String), u32>,
    /// Names that a default load with `weights_only` refuses.
    refused: BTreeSet<(String, String)>,
    /// Opcodes that it refuses, in words.
    beyond: BTreeSet<&'static str>,
}

impl<'w, 'd> Opcodes<'w, 'd> {
    pub(super) fn new(out: &'w mut dyn Write) -> Opcodes<'w, 'd> {
        let (texts, globals) = (HashMap::new(), HashMap::new());
        let (refused, beyond) = (BTreeSet::new(), BTreeSet::new());
        Opcodes { out, protocol: USUAL, memo_len: 0, texts, globals, refused, beyond }
    }

    pub(super) fn refused(&self) -> &BTreeSet<(String, String)> {
        &self.refused
    }

    pub(super) fn beyond(&self) -> &BTreeSet<&'static str> {
        &self.beyond
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("cannot write", e))
    }

    pub(super) fn op(&mut self, opcode: u8) -> Result<()> {
        self.bytes(&[opcode])
    }

    /// An opcode that a default load with `weights_only` does not know.
    pub(super) fn op_beyond(&mut self, opcode: u8, what: &'static str) -> Result<()> {
        self.beyond.insert(what);
        self.op(opcode)
    }

    /// Begins the pickle. Where names are among `names` that protocol 2 takes for others, it is of a later one, which restricted loads warn of.
    pub(super) fn start<'n>(&mut self, mut names: impl Iterator<Item = (&'n str, &'n str)>) -> Result<()> {
        if names.any(|(module, name)| is_taken_for_another(module, name)) {
            self.protocol = WITH_TODAYS_NAMES;
        }
        self.bytes(&[0x80, self.protocol])
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        self.op(b'.')
    }

    /// Puts what is on top of the stack into the memo; gives its number.
    pub(super) fn put(&mut self) -> Result<u32> {
        let number = self.memo_len;
        self.memo_len = number.checked_add(1).ok_or_else(|| Error::invalid("the pickle has 2^32 objects or more"))?;
        match u8::try_from(number) {
            Ok(number) => self.bytes(&[b'q', number])?,
            Err(_) => {
                self.op(b'r')?;
                self.bytes(&number.to_le_bytes())?;
            }
        }
        Ok(number)
    }

    pub(super) fn get(&mut self, number: u32) -> Result<()> {
        match u8::try_from(number) {
            Ok(number) => self.bytes(&[b'h', number]),
            Err(_) => {
                self.op(b'j')?;
                self.bytes(&number.to_le_bytes())
            }
        }
    }

    pub(super) fn bool(&mut self, value: bool) -> Result<()> {
        self.op(if value { TRUE } else { FALSE })
    }

    pub(super) fn int(&mut self, value: i64) -> Result<()> {
        if let Ok(value) = u8::try_from(value) {
            self.bytes(&[b'K', value])
        } else if let Ok(value) = u16::try_from(value) {
            self.op(b'M')?;
            self.bytes(&value.to_le_bytes())
        } else if let Ok(value) = i32::try_from(value) {
            self.op(b'J')?;
            self.bytes(&value.to_le_bytes())
        } else {
            self.long(&value.to_le_bytes())
        }
    }

    pub(super) fn natural(&mut self, value: u64) -> Result<()> {
        match i64::try_from(value) {
            Ok(value) => self.int(value),
            Err(_) => {
                let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
                self.long(&[a, b, c, d, e, f, g, h, 0])
            }
        }
    }

    /// An integer of any size: two's complement, little-endian.
    pub(super) fn long(&mut self, bytes: &[u8]) -> Result<()> {
        let mut bytes = bytes;
        // As short as its sign allows.
        while let [rest @ .., before, last] = bytes
            && ((*last == 0 && *before < 0x80) || (*last == 0xFF && *before >= 0x80))
        {
            bytes = bytes.get(..rest.len().saturating_add(1)).unwrap_or(bytes);
        }
        match u8::try_from(bytes.len()) {
            Ok(len) if bytes.len() <= LONG1_LEN => self.bytes(&[0x8A, len])?,
            _ => {
                let len =
                    i32::try_from(bytes.len()).map_err(|_| Error::invalid("an integer is too long for a pickle"))?;
                self.op_beyond(0x8B, "integers of more than 255 bytes")?;
                self.bytes(&len.to_le_bytes())?;
            }
        }
        self.bytes(bytes)
    }

    pub(super) fn float(&mut self, value: f64) -> Result<()> {
        self.op(b'G')?;
        self.bytes(&value.to_be_bytes())
    }

    /// Text that may come again: it is looked up.
    pub(super) fn text(&mut self, text: &'d str) -> Result<()> {
        if let Some(&number) = self.texts.get(text) {
            return self.get(number);
        }
        self.text_once(text.as_bytes())?;
        // Longer text, if it is looked up, is read as one that is shared.
        if len_u64(text.len()) <= REPEATED_LEN {
            let number = self.put()?;
            self.texts.insert(text, number);
        }
        Ok(())
    }

    /// Text, in generalised UTF-8, that is not remembered.
    pub(super) fn text_once(&mut self, text: &[u8]) -> Result<()> {
        self.text_begin(len_u64(text.len()))?;
        self.bytes(text)
    }

    /// The beginning of a text of so many bytes; they must follow.
    pub(super) fn text_begin(&mut self, len: u64) -> Result<()> {
        match u32::try_from(len) {
            Ok(len) => {
                self.op(b'X')?;
                self.bytes(&len.to_le_bytes())
            }
            Err(_) => {
                self.op_beyond(0x8D, "text of 4 GiB or more")?;
                self.bytes(&len.to_le_bytes())
            }
        }
    }

    /// What has a name in a module. A name with dots is a class within a class.
    pub(super) fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let key = (module.to_owned(), name.to_owned());
        if let Some(&number) = self.globals.get(&key) {
            return self.get(number);
        }
        match name.rsplit_once('.') {
            // `torch.save` does the same: later protocols have an opcode for it, this one has a call.
            Some((outer, inner)) if is_nested_class(module, name) => {
                self.nested_class()?;
                self.global(module, outer)?;
                self.text_once(inner.as_bytes())?;
                self.tuple(2)?;
                self.op(REDUCE)?;
            }
            _ => self.plain_global(module, name)?,
        }
        let number = self.put()?;
        self.globals.insert(key, number);
        Ok(())
    }

    /// What protocol 2 asks for a class within a class.
    fn nested_class(&mut self) -> Result<()> {
        self.beyond.insert("classes within classes");
        // It does nothing else here: it is no name that somebody has to be warned of.
        let is_told = self.refused.contains(&("builtins".to_owned(), "getattr".to_owned()));
        self.global("builtins", "getattr")?;
        if !is_told {
            self.refused.remove(&("builtins".to_owned(), "getattr".to_owned()));
        }
        Ok(())
    }

    fn plain_global(&mut self, module: &str, name: &str) -> Result<()> {
        if !accepted::is_accepted(module, name) {
            self.refused.insert((module.to_owned(), name.to_owned()));
        }
        let module = if self.protocol == USUAL { old_name(module) } else { module };
        if module.contains('\n') || name.contains('\n') {
            self.text_once(module.as_bytes())?;
            self.text_once(name.as_bytes())?;
            return self.op_beyond(0x93, "names with line breaks");
        }
        self.bytes(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A tuple of the topmost elements: 0 to 3 of them.
    pub(super) fn tuple(&mut self, len: usize) -> Result<()> {
        self.op(match len {
            0 => b')',
            1 => 0x85,
            2 => 0x86,
            _ => 0x87,
        })
    }

    /// A tuple of all since the last mark.
    pub(super) fn tuple_of_mark(&mut self) -> Result<()> {
        self.op(b't')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Opcodes<'_, '_>) -> Result<()>) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut Opcodes::new(&mut out)).unwrap();
        out
    }

    #[test]
    fn integers_take_the_shortest_opcode() {
        for (value, expected) in [
            (0, &b"K\0"[..]),
            (255, b"K\xFF"),
            (256, b"M\0\x01"),
            (65536, b"J\0\0\x01\0"),
            (-1, b"J\xFF\xFF\xFF\xFF"),
            (1 << 31, b"\x8A\x05\0\0\0\x80\0"),
            (-(1 << 31) - 1, b"\x8A\x05\xFF\xFF\xFF\x7F\xFF"),
            (i64::MIN, b"\x8A\x08\0\0\0\0\0\0\0\x80"),
        ] {
            assert_eq!(written(|ops| ops.int(value)), expected, "{value}");
        }
        assert_eq!(written(|ops| ops.natural(u64::MAX)), b"\x8A\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0");
        assert_eq!(written(|ops| ops.long(&[1; 300]))[..5], [0x8B, 44, 1, 0, 0]);
    }

    #[test]
    fn what_comes_again_is_looked_up() {
        let bytes = written(|ops| {
            ops.text("a")?;
            ops.global("collections", "OrderedDict")?;
            ops.text("a")?;
            ops.global("collections", "OrderedDict")
        });
        assert_eq!(bytes, b"X\x01\0\0\0aq\0ccollections\nOrderedDict\nq\x01h\0h\x01");
    }

    #[test]
    fn a_class_within_a_class_is_asked_for_as_protocol_2_does_it() {
        let bytes = written(|ops| ops.global("m", "A.B"));
        assert_eq!(bytes, b"c__builtin__\ngetattr\nq\0cm\nA\nq\x01X\x01\0\0\0B\x86Rq\x02");
    }

    #[test]
    fn names_that_python_2_had_for_others_need_a_later_protocol() {
        let start = |module, name| {
            written(|ops| {
                ops.start([(module, name)].into_iter())?;
                ops.global(module, name)
            })
        };
        assert_eq!(start("builtins", "set"), b"\x80\x02c__builtin__\nset\nq\0");
        assert_eq!(start("Queue", "Queue"), b"\x80\x04cQueue\nQueue\nq\0");
        assert_eq!(start("__builtin__", "set"), b"\x80\x04c__builtin__\nset\nq\0");
        assert_eq!(start("builtins", "long"), b"\x80\x04cbuiltins\nlong\nq\0");
    }

    #[test]
    fn what_a_restricted_load_refuses_is_remembered() {
        let mut out = Vec::new();
        let mut ops = Opcodes::new(&mut out);
        ops.global("torch", "Size").unwrap();
        ops.global("argparse", "Namespace").unwrap();
        ops.long(&[1; 256]).unwrap();
        assert_eq!(ops.refused().iter().collect::<Vec<_>>(), [&("argparse".to_owned(), "Namespace".to_owned())]);
        assert_eq!(ops.beyond().len(), 1);
    }
}
