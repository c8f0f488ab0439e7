//! Pickles taken apart into opcodes, and changed opcode by opcode: what libFuzzer's bytes would most often break at once stays a pickle.

use super::dice::Random;
use super::seal::Mutate;

/// What follows an opcode.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Arg {
    /// So many bytes, whatever they mean; most often none.
    Fixed(Vec<u8>),
    /// A length of so many bytes, then bytes.
    Counted(usize, Vec<u8>),
    /// Lines, each with its newline.
    Lines(Vec<Vec<u8>>),
}

/// An opcode with its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    code: u8,
    arg: Arg,
}

const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const STOP: u8 = b'.';

impl Op {
    fn plain(code: u8) -> Op {
        Op { code, arg: Arg::Fixed(Vec::new()) }
    }

    fn read(bytes: &[u8]) -> Option<(Op, &[u8])> {
        let (&code, rest) = bytes.split_first()?;
        let fixed = |len: usize| rest.split_at_checked(len).map(|(arg, rest)| (Arg::Fixed(arg.to_vec()), rest));
        let counted = |width: usize| {
            let (len, rest) = rest.split_at_checked(width)?;
            let len = len.iter().rev().try_fold(0usize, |n, &byte| n.checked_mul(256)?.checked_add(byte.into()))?;
            rest.split_at_checked(len).map(|(arg, rest)| (Arg::Counted(width, arg.to_vec()), rest))
        };
        let lines = |count: usize| {
            let (mut lines, mut rest) = (Vec::new(), rest);
            for _ in 0..count {
                let len = rest.iter().position(|&byte| byte == b'\n')?;
                lines.push(rest[..len].to_vec());
                rest = &rest[len + 1..];
            }
            Some((Arg::Lines(lines), rest))
        };
        let (arg, rest) = match code {
            b'K' | b'h' | b'q' | PROTO | 0x82 => fixed(1),
            b'M' | 0x83 => fixed(2),
            b'J' | b'j' | b'r' | 0x84 => fixed(4),
            b'G' | FRAME => fixed(8),
            b'U' | b'C' | 0x8a | 0x8c => counted(1),
            b'T' | b'B' | b'X' | 0x8b => counted(4),
            0x8d | 0x8e | 0x96 => counted(8),
            b'I' | b'L' | b'F' | b'S' | b'V' | b'P' | b'g' | b'p' => lines(1),
            b'c' | b'i' => lines(2),
            _ => fixed(0),
        }?;
        Some((Op { code, arg }, rest))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.code);
        match &self.arg {
            Arg::Fixed(bytes) => out.extend_from_slice(bytes),
            Arg::Counted(width, bytes) => {
                out.extend_from_slice(&(bytes.len() as u64).to_le_bytes()[..*width]);
                out.extend_from_slice(bytes);
            }
            Arg::Lines(lines) => lines.iter().for_each(|line| {
                out.extend_from_slice(line);
                out.push(b'\n');
            }),
        }
    }
}

/// The opcodes that bytes begin with, and what follows the last whole one.
pub fn disassemble(bytes: &[u8]) -> (Vec<Op>, &[u8]) {
    let (mut ops, mut rest) = (Vec::new(), bytes);
    while let Some((op, after)) = Op::read(rest) {
        ops.push(op);
        rest = after;
    }
    (ops, rest)
}

/// The bytes of opcodes. Frames are made as long as what they hold, unless told otherwise.
pub fn assemble(ops: &[Op], frames_right: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut frame = None;
    let end_frame = |out: &mut Vec<u8>, frame: &mut Option<usize>| {
        if let Some(at) = frame.take() {
            let len = (out.len() - at) as u64;
            out[at - 8..at].copy_from_slice(&len.to_le_bytes());
        }
    };
    for op in ops {
        if op.code == FRAME && frames_right {
            end_frame(&mut out, &mut frame);
            op.write(&mut out);
            frame = Some(out.len());
            continue;
        }
        op.write(&mut out);
        if op.code == STOP {
            end_frame(&mut out, &mut frame);
        }
    }
    end_frame(&mut out, &mut frame);
    out
}

/// What pickles of PyTorch, NumPy and Python call, and what they do not.
#[rustfmt::skip]
const GLOBALS: [(&str, &str); 68] = [
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"), ("collections", "deque"),
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("builtins", "bytearray"), ("builtins", "bytes"),
    ("builtins", "getattr"), ("builtins", "int"), ("builtins", "slice"), ("builtins", "dict"), ("builtins", "eval"),
    ("__builtin__", "set"), ("__builtin__", "xrange"), ("__builtin__", "unicode"), ("copy_reg", "_reconstructor"),
    ("copyreg", "_reconstructor"), ("_codecs", "encode"), ("os", "system"), ("m", "Model"), ("m", "Outer.Inner"),
    ("torch", "FloatStorage"), ("torch", "DoubleStorage"), ("torch", "HalfStorage"), ("torch", "BFloat16Storage"),
    ("torch", "LongStorage"), ("torch", "IntStorage"), ("torch", "ByteStorage"), ("torch", "BoolStorage"),
    ("torch", "ComplexFloatStorage"), ("torch", "QInt8Storage"), ("torch", "QUInt4x2Storage"), ("torch.cuda", "FloatStorage"),
    ("torch.storage", "UntypedStorage"), ("torch.storage", "TypedStorage"), ("torch.storage", "_load_from_bytes"),
    ("torch", "Size"), ("torch", "device"), ("torch", "float32"), ("torch", "bfloat16"), ("torch", "uint16"), ("torch", "qint8"),
    ("torch", "bits8"), ("torch", "float8_e4m3fn"), ("torch", "float4_e2m1fn_x2"), ("torch", "sparse_coo"), ("torch", "sparse_csr"),
    ("torch", "per_tensor_affine"), ("torch", "per_channel_affine"), ("torch", "Tensor"), ("torch", "FloatTensor"),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"), ("torch._utils", "_rebuild_qtensor"),
    ("torch._utils", "_rebuild_sparse_tensor"), ("torch._utils", "_rebuild_nested_tensor"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"), ("torch.serialization", "_get_layout"),
    ("torch.nn.parameter", "Parameter"), ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "scalar"),
];

const TEXTS: [&str; 30] = [
    "",
    "a",
    "w",
    "0",
    "1",
    "2",
    "storage",
    "cpu",
    "cuda:0",
    "_parameters",
    "_buffers",
    "_modules",
    "_metadata",
    "training",
    "latin1",
    "f4",
    "i8",
    "c16",
    "<",
    ">",
    "|",
    "=",
    "conj",
    "neg",
    "weight",
    "h\u{e9}",
    "\u{20ac}",
    "torch.sparse_coo",
    "model.0.bias",
    "a.b",
];

fn text(text: &str) -> Op {
    Op { code: b'X', arg: Arg::Counted(4, text.as_bytes().to_vec()) }
}

fn int(n: i64) -> Op {
    match n {
        0..256 => Op { code: b'K', arg: Arg::Fixed(vec![n as u8]) },
        256..0x1_0000 => Op { code: b'M', arg: Arg::Fixed((n as u16).to_le_bytes().to_vec()) },
        _ if i32::try_from(n).is_ok() => Op { code: b'J', arg: Arg::Fixed((n as i32).to_le_bytes().to_vec()) },
        _ => Op { code: 0x8a, arg: Arg::Counted(1, n.to_le_bytes().to_vec()) },
    }
}

fn global(module: &str, name: &str) -> Op {
    Op { code: b'c', arg: Arg::Lines(vec![module.as_bytes().to_vec(), name.as_bytes().to_vec()]) }
}

/// Makes opcodes that leave one value on the stack.
struct Maker<'r> {
    random: &'r mut Random,
    ops: Vec<Op>,
}

impl Maker<'_> {
    fn put(&mut self, op: Op) {
        self.ops.push(op);
    }

    fn plain(&mut self, codes: &[u8]) {
        codes.iter().for_each(|&code| self.ops.push(Op::plain(code)));
    }

    fn ints(&mut self, values: &[i64]) {
        self.plain(b"(");
        values.iter().for_each(|&value| self.put(int(value)));
        self.plain(b"t");
    }

    fn number(&mut self) -> i64 {
        match self.random.below(4) {
            0 => self.random.interesting() as i64,
            _ => self.random.below(6) as i64,
        }
    }

    fn atom(&mut self) {
        let number = self.random.interesting();
        let op = match self.random.below(15) {
            0 => Op::plain(b'N'),
            1 => Op::plain(0x88),
            2 => Op::plain(0x89),
            3 | 4 => int(number as i64),
            5 => Op { code: 0x8a, arg: Arg::Counted(1, number.to_le_bytes()[..self.random.below(9)].to_vec()) },
            6 => Op { code: b'G', arg: Arg::Fixed(number.to_be_bytes().to_vec()) },
            7 | 8 => text(TEXTS[self.random.below(TEXTS.len())]),
            9 => Op { code: 0x8c, arg: Arg::Counted(1, TEXTS[self.random.below(TEXTS.len())].as_bytes().to_vec()) },
            10 => Op { code: b'U', arg: Arg::Counted(1, number.to_le_bytes()[..self.random.below(9)].to_vec()) },
            11 => Op { code: b'C', arg: Arg::Counted(1, number.to_le_bytes()[..self.random.below(9)].to_vec()) },
            12 => {
                let (code, line) = match self.random.below(6) {
                    0 => (b'I', format!("{}", number as i64)),
                    1 => (b'I', "01".to_owned()),
                    2 => (b'L', format!("{number}L")),
                    3 => (b'F', format!("{}", f64::from_bits(number))),
                    4 => (b'S', "'a\\x41\\n'".to_owned()),
                    _ => (b'V', "b\\u20ac".to_owned()),
                };
                Op { code, arg: Arg::Lines(vec![line.into_bytes()]) }
            }
            13 => Op { code: 0x96, arg: Arg::Counted(8, number.to_le_bytes()[..self.random.below(9)].to_vec()) },
            _ => {
                let (module, name) = GLOBALS[self.random.below(GLOBALS.len())];
                global(module, name)
            }
        };
        self.put(op);
    }

    fn hooks(&mut self) {
        self.put(global("collections", "OrderedDict"));
        self.plain(b")R");
    }

    /// Over the storages that `torch::around` has: of 16 floats, 16 bytes and none.
    fn storage(&mut self, untyped: bool) {
        let (key, count) = self.random.pick(&[("0", 16), ("0", 16), ("1", 4), ("2", 0), ("7", 1)]);
        self.plain(b"(");
        self.put(text("storage"));
        let (module, class, scale) = match untyped {
            true => ("torch.storage", "UntypedStorage", 4),
            false => {
                let (class, scale) = self.random.pick(&[
                    ("FloatStorage", 1),
                    ("FloatStorage", 1),
                    ("IntStorage", 1),
                    ("ByteStorage", 4),
                    ("HalfStorage", 2),
                    ("QInt8Storage", 4),
                    ("ComplexFloatStorage", 0),
                ]);
                ("torch", class, scale)
            }
        };
        self.put(global(module, class));
        self.put(text(key));
        let place = self.random.pick(&["cpu", "cpu", "cuda:0", "meta"]);
        self.put(text(place));
        let count = if scale == 0 { count / 2 } else { count * scale };
        let count = if self.random.one_in(8) { self.number() } else { count };
        self.put(int(count));
        self.plain(b"tQ");
    }

    fn shape_and_strides(&mut self) {
        let (shape, strides): (&[i64], &[i64]) = self.random.pick(&[
            (&[2, 3], &[3, 1]),
            (&[4], &[1]),
            (&[], &[]),
            (&[3, 2], &[1, 3]),
            (&[0, 4], &[4, 1]),
            (&[5], &[0]),
        ]);
        let (mut shape, mut strides) = (shape.to_vec(), strides.to_vec());
        if self.random.one_in(6) && !shape.is_empty() {
            shape[0] = self.number();
        }
        if self.random.one_in(6) && !strides.is_empty() {
            strides[0] = self.number();
        }
        self.ints(&shape);
        self.ints(&strides);
    }

    fn tensor(&mut self, depth: usize) {
        let which = self.random.below(12);
        let call = |name| global("torch._utils", name);
        match which {
            0..4 => {
                self.put(call("_rebuild_tensor_v2"));
                self.plain(b"(");
                self.storage(false);
                let start = if self.random.one_in(6) { self.number() } else { 1 };
                self.put(int(start));
                self.shape_and_strides();
                let grad = self.random.pick(&[0x88, 0x89]);
                self.plain(&[grad]);
                self.hooks();
                if self.random.one_in(4) {
                    self.plain(b"}(");
                    let key = self.random.pick(&["conj", "neg", "x"]);
                    self.put(text(key));
                    self.plain(b"\x88u");
                }
            }
            4 => {
                self.put(call("_rebuild_tensor"));
                self.plain(b"(");
                self.storage(false);
                self.put(int(0));
                self.shape_and_strides();
            }
            5 => {
                self.put(call("_rebuild_tensor_v3"));
                self.plain(b"(");
                self.storage(true);
                self.put(int(0));
                self.shape_and_strides();
                self.plain(b"\x89");
                self.hooks();
                let dtype =
                    self.random.pick(&["uint16", "float8_e4m3fn", "float4_e2m1fn_x2", "bits8", "complex32", "float32"]);
                self.put(global("torch", dtype));
            }
            6 => {
                self.put(call("_rebuild_parameter"));
                self.plain(b"(");
                self.tensor(depth + 1);
                self.plain(b"\x88");
                self.hooks();
            }
            7 => {
                self.put(call("_rebuild_parameter_with_state"));
                self.plain(b"(");
                self.tensor(depth + 1);
                self.plain(b"\x88");
                self.hooks();
                self.value(depth + 1);
            }
            8 => {
                self.put(call("_rebuild_qtensor"));
                self.plain(b"(");
                self.storage(false);
                self.put(int(0));
                self.shape_and_strides();
                self.plain(b"(");
                self.put(global("torch", "per_tensor_affine"));
                self.put(Op { code: b'G', arg: Arg::Fixed(0.5f64.to_be_bytes().to_vec()) });
                self.put(int(3));
                self.plain(b"t\x89");
                self.hooks();
            }
            9 => {
                self.put(global("torch._tensor", "_rebuild_from_type_v2"));
                self.plain(b"(");
                self.put(call("_rebuild_tensor_v2"));
                self.put(global("m", "Tensor"));
                self.plain(b"(");
                self.storage(false);
                self.put(int(0));
                self.shape_and_strides();
                self.plain(b"\x89");
                self.hooks();
                self.plain(b"t");
                self.value(depth + 1);
            }
            10 => {
                self.put(call("_rebuild_sparse_tensor"));
                self.plain(b"(");
                self.put(global("torch.serialization", "_get_layout"));
                self.put(text("torch.sparse_coo"));
                self.plain(b"\x85R(");
                self.tensor(depth + 1);
                self.tensor(depth + 1);
                self.ints(&[2, 3]);
                self.plain(b"\x88t");
            }
            _ => {
                self.put(call("_rebuild_meta_tensor_no_storage"));
                self.plain(b"(");
                self.put(global("torch", "float32"));
                self.ints(&[2, 3]);
                self.ints(&[3, 1]);
                self.plain(b"\x89");
            }
        }
        self.plain(b"tR");
    }

    fn array(&mut self) {
        let core = self.random.pick(&["numpy.core.multiarray", "numpy._core.multiarray"]);
        let dtype = |maker: &mut Maker<'_>| {
            maker.put(global("numpy", "dtype"));
            maker.plain(b"(");
            let name = maker.random.pick(&["f4", "i8", "c8", "b1", "u2", "f2", "O8", "M8"]);
            maker.put(text(name));
            maker.plain(b"\x89\x88tR(");
            maker.put(int(3));
            let order = maker.random.pick(&["<", ">", "|"]);
            maker.put(text(order));
            maker.plain(b"NNN");
            maker.put(int(-1));
            maker.put(int(-1));
            maker.put(int(0));
            maker.plain(b"tb");
        };
        let data = self.random.u64().to_le_bytes();
        let data = Op { code: b'C', arg: Arg::Counted(1, data[..self.random.pick(&[8, 8, 4, 1])].to_vec()) };
        if self.random.one_in(3) {
            self.put(global(core, "scalar"));
            dtype(self);
            self.put(data);
            self.plain(b"\x86R");
            return;
        }
        self.put(global(core, "_reconstruct"));
        self.plain(b"(");
        self.put(global("numpy", "ndarray"));
        self.ints(&[0]);
        self.put(data.clone());
        self.plain(b"tR(");
        self.put(int(1));
        let len = self.random.pick(&[2, 1, 4]);
        self.ints(&[len]);
        dtype(self);
        let order = self.random.pick(&[0x88, 0x89]);
        self.plain(&[order]);
        self.put(data);
        self.plain(b"tb");
    }

    fn value(&mut self, depth: usize) {
        if depth > 4 {
            return self.atom();
        }
        match self.random.below(16) {
            0..4 => self.atom(),
            4..7 => self.tensor(depth),
            7 => self.array(),
            8 => {
                self.plain(b"](");
                (0..self.random.below(4)).for_each(|_| self.value(depth + 1));
                self.plain(b"e");
            }
            9 => {
                self.plain(b"(");
                (0..self.random.below(4)).for_each(|_| self.value(depth + 1));
                let end = self.random.pick(&[b't', b't', b'l', 0x91]);
                self.plain(&[end]);
            }
            10 | 11 => {
                self.plain(b"}(");
                for _ in 0..self.random.below(4) {
                    self.atom();
                    self.value(depth + 1);
                }
                self.plain(b"u");
            }
            12 => {
                self.hooks();
                self.plain(b"(");
                let key = TEXTS[self.random.below(TEXTS.len())];
                self.put(text(key));
                self.value(depth + 1);
                self.plain(b"u");
            }
            13 => {
                // A call of anything, perhaps with a state.
                let (module, name) = GLOBALS[self.random.below(GLOBALS.len())];
                self.put(global(module, name));
                self.plain(b"(");
                (0..self.random.below(3)).for_each(|_| self.value(depth + 1));
                self.plain(b"t");
                let how = self.random.pick(&[b'R', b'R', 0x81]);
                self.plain(&[how]);
                if self.random.one_in(3) {
                    self.value(depth + 1);
                    self.plain(b"b");
                }
            }
            14 => {
                self.value(depth + 1);
                self.plain(&[0x94]);
            }
            _ => {
                self.plain(b"\x8f(");
                (0..self.random.below(4)).for_each(|_| self.atom());
                self.plain(&[0x90]);
            }
        }
    }
}

fn made(random: &mut Random) -> Vec<Op> {
    let mut maker = Maker { random, ops: Vec::new() };
    maker.value(0);
    maker.ops
}

/// Changes a pickle, by its opcodes; one in eight by its bytes.
pub fn change(pickle: &mut Vec<u8>, random: &mut Random, mutate: &mut Mutate<'_>) {
    let (mut ops, rest) = disassemble(pickle);
    if ops.is_empty() || random.one_in(8) {
        let len = pickle.len();
        pickle.resize(len + 64, 0);
        let new = mutate(pickle, len, len + 64);
        pickle.truncate(new);
        return;
    }
    let rest = rest.to_vec();
    for _ in 0..1 + random.below(3) {
        change_ops(&mut ops, random, mutate);
    }
    *pickle = assemble(&ops, !random.one_in(12));
    pickle.extend_from_slice(&rest);
}

fn change_ops(ops: &mut Vec<Op>, random: &mut Random, mutate: &mut Mutate<'_>) {
    let count = ops.len();
    let at = random.below(count + 1);
    match random.below(12) {
        0 if count > 0 => {
            let from = random.below(count);
            ops.drain(from..(from + 1 + random.below(4)).min(count));
        }
        1 if count > 0 => {
            let from = random.below(count);
            let piece: Vec<Op> = ops[from..(from + 1 + random.below(40)).min(count)].to_vec();
            ops.splice(at..at, piece);
        }
        2 if count > 1 => ops.swap(random.below(count), random.below(count)),
        3 | 4 => {
            let new = made(random);
            ops.splice(at..at, new);
        }
        5 => {
            // In the place of a value: of what pushes one and takes none.
            let atoms: Vec<usize> =
                (0..count).filter(|&n| b"NIJKLMFGSTUVXBCc\x88\x89\x8a\x8c])}".contains(&ops[n].code)).collect();
            if !atoms.is_empty() {
                let at = atoms[random.below(atoms.len())];
                let new = made(random);
                ops.splice(at..at + 1, new);
            }
        }
        6 => {
            let code = random.pick(b"()]}tldaesubRQ012N\x81\x85\x86\x87\x88\x8f\x90\x91\x92\x93\x94.o");
            ops.insert(at, Op::plain(code));
        }
        7 => {
            let number = random.below(12) as u8;
            let code = random.pick(b"hqhq");
            ops.insert(at, Op { code, arg: Arg::Fixed(vec![number]) });
        }
        8 => {
            // The whole object is something made, or within something.
            let new = made(random);
            let head = ops.iter().take_while(|op| op.code == PROTO || op.code == FRAME).count();
            let stop = ops.iter().position(|op| op.code == STOP).unwrap_or(count).max(head);
            ops.splice(head..stop, new);
        }
        _ => {
            let with_arg: Vec<usize> = (0..count).filter(|&n| ops[n].arg != Arg::Fixed(Vec::new())).collect();
            if with_arg.is_empty() {
                return;
            }
            change_arg(&mut ops[with_arg[random.below(with_arg.len())]], random, mutate);
        }
    }
}

fn change_arg(op: &mut Op, random: &mut Random, mutate: &mut Mutate<'_>) {
    let mut bytes = |bytes: &mut Vec<u8>| {
        let len = bytes.len();
        bytes.resize(len + 16, 0);
        let new = mutate(bytes, len, len + 16);
        bytes.truncate(new);
    };
    match &mut op.arg {
        Arg::Fixed(number) => {
            let len = number.len();
            let new = random.interesting().to_le_bytes();
            match random.below(3) {
                0 => number.copy_from_slice(&new[..len]),
                1 => number[0] = number[0].wrapping_add(random.pick(&[1, 255])),
                _ => number[0] = random.below(12) as u8,
            }
        }
        Arg::Counted(width, content) => {
            match random.below(3) {
                0 => *content = TEXTS[random.below(TEXTS.len())].as_bytes().to_vec(),
                _ => bytes(content),
            }
            if *width == 1 {
                content.truncate(255);
            }
        }
        Arg::Lines(lines) => {
            if lines.len() == 2 && random.one_in(2) {
                let (module, name) = GLOBALS[random.below(GLOBALS.len())];
                if random.one_in(3) {
                    lines[1] = name.as_bytes().to_vec();
                } else {
                    *lines = vec![module.as_bytes().to_vec(), name.as_bytes().to_vec()];
                }
                return;
            }
            let at = random.below(lines.len());
            bytes(&mut lines[at]);
            lines[at].retain(|&byte| byte != b'\n');
        }
    }
}
