"""Checkpoints made at random, taken through Dolmen and back, and compared in a real PyTorch.

    python tests/torch_random.py [--count 1000] [--seed 1] [--dolmen target/release/dolmen] [--keep DIR]

Each object is saved by `torch.save`; converted `.pt` -> `.dolmen` -> `.pt` -> `.dolmen`; the two `.dolmen` files must be the same
bytes, and `torch.load` must give equal objects: values and types, dtypes, shapes, strides, offsets, which tensors share a storage,
which objects are one object. Without a note from Dolmen, `weights_only=True` and `mmap=True` must take the file; with one about a
default load, it must be refused. Exits with 1 on the first difference, and keeps its files.

It needs PyTorch 2.6 or later and NumPy, and nothing else.
"""

import argparse
import collections
import dataclasses
import datetime
import enum
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

# PyTorch then compares where it computes records to lie with where they lie.
os.environ["TORCH_SERIALIZATION_DEBUG"] = "1"
warnings.filterwarnings("ignore")

import numpy  # noqa: E402
import torch  # noqa: E402

Point = collections.namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1
    GREEN = "green"


@dataclasses.dataclass
class Config:
    name: str
    values: list
    nested: object = None


class Plain:
    pass


class Slots:
    __slots__ = ("a", "b")


class WithNew:
    def __new__(cls, a, *, b=None):
        made = super().__new__(cls)
        made.args = (a, b)
        return made

    def __getnewargs_ex__(self):
        return (self.args[0],), {"b": self.args[1]}


class Outer:
    class Inner:
        pass


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.tied = torch.nn.Linear(3, 4)
        self.tied.weight = self.first.weight
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("not_kept", torch.arange(2), persistent=False)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128, torch.complex32,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
    torch.float4_e2m1fn_x2,
]
NUMPY = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]


class Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pool = []  # tensors whose storages others share
        self.shared = []  # values that are referred to again
        self.open = []  # containers that are being filled
        self.is_tame = False

    def pick(self, *options):
        return self.random.choice(options)

    def bytes(self, n):
        return self.random.randbytes(n)

    # Tensors.

    def storage_tensor(self):
        """A contiguous tensor with random bits, over a storage of its own."""
        dtype = self.random.choice(DTYPES)
        count = self.pick(0, 1, 2, 5, 12, 24, 60, 700)
        if dtype == torch.bool:
            return torch.tensor([self.random.random() < 0.5 for _ in range(count)], dtype=dtype)
        raw = bytearray(self.bytes(count * dtype.itemsize)) or bytearray()
        if not raw:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(raw, dtype=torch.uint8).clone().view(dtype)

    def view(self, base):
        """A view of it: sliced, reshaped, transposed, expanded."""
        out = base
        for _ in range(self.random.randrange(4)):
            move = self.random.randrange(6)
            n = out.numel()
            if move == 0 and out.dim() == 1 and n > 1:
                at = self.random.randrange(n)
                out = out[at : at + self.random.randrange(1, n - at + 1)]
            elif move == 1 and out.dim() == 1 and n and n % 2 == 0 and out.is_contiguous():
                out = out.view(2, n // 2)
            elif move == 2 and out.dim() >= 2:
                out = out.transpose(0, 1)
            elif move == 3 and out.dim() <= 3:
                out = out.unsqueeze(self.random.randrange(out.dim() + 1))
            elif move == 4 and out.dim() and out.shape[0] == 1:
                out = out.expand(self.pick(2, 3), *out.shape[1:])
            elif move == 5 and out.dim() and out.shape[-1] > 2:
                out = out[..., :: self.pick(1, 2)]
        return out

    def plain_tensor(self):
        if self.pool and self.random.random() < 0.4:
            return self.view(self.random.choice(self.pool))
        base = self.storage_tensor()
        self.pool.append(base)
        return self.view(base)

    def tensor(self):
        kind = self.random.randrange(18)
        floats = torch.randn(self.pick(1, 2, 4), 3)
        if kind == 0:
            return torch.nn.Parameter(floats, requires_grad=self.pick(True, False))
        if kind == 1:
            made = torch.nn.Parameter(floats)
            made.note = "tame" if self.is_tame else self.value(2)
            return made
        if kind == 2:
            return floats.requires_grad_()
        if kind == 3:
            made = torch.randn(2, 2, dtype=torch.complex64)
            return self.pick(made.conj(), made.conj().imag, made.conj().T)
        if kind == 4:
            return torch.quantize_per_tensor(floats, 0.1, self.pick(0, 3), self.pick(torch.qint8, torch.quint8, torch.qint32))
        if kind == 5:
            scales = torch.rand(3, dtype=torch.float64) + 0.1
            return torch.quantize_per_channel(floats, scales, torch.tensor([0, 1, 2]), 1, torch.qint8)
        if kind == 6:
            made = torch.zeros(4, 4)
            made[self.random.randrange(4), 1] = 2.5
            return self.pick(made.to_sparse(), made.to_sparse_csr(), made.to_sparse_csc(), made.to_sparse_bsr((2, 2)))
        if kind == 7:
            return torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)])
        if kind == 8:
            return torch.empty(2, 3, device="meta", dtype=self.pick(torch.float32, torch.int8))
        if kind == 9:
            return torch.tensor(self.pick(1.5, 3, True, float("nan")))
        if kind == 10:
            return torch.arange(6, dtype=self.pick(torch.int16, torch.float64)).storage()
        if kind == 11:
            return torch.arange(6, dtype=torch.int32).untyped_storage()
        if kind == 12:
            return torch.empty(0, self.pick(3, 0))
        return self.plain_tensor()

    def array(self):
        dtype = numpy.dtype(self.pick("<", ">", "=") + self.random.choice(NUMPY))
        shape = self.pick((), (0,), (3,), (2, 3), (2, 3, 4), (600,), (30, 40))
        count = math.prod(shape)
        if dtype.kind == "b":
            data = numpy.array([self.random.random() < 0.5 for _ in range(count)], dtype=dtype).reshape(shape)
        else:
            data = numpy.frombuffer(self.bytes(count * dtype.itemsize), dtype=dtype).reshape(shape).copy()
        form = self.random.randrange(5)
        if form == 0:
            data = numpy.asfortranarray(data)
        elif form == 1 and data.ndim:
            data = data[::2]
        elif form == 2 and count:
            return data.reshape(-1)[0]
        elif form == 3 and data.ndim >= 2:
            data = self.pick(data.T, numpy.moveaxis(data, 0, -1), numpy.moveaxis(data, -1, 0), data.swapaxes(0, 1))
        return data

    # Values.

    def number_list(self):
        count = self.pick(0, 3, 63, 64, 65, 1500)
        kind = self.random.randrange(5)
        if kind == 0:
            return [float(numpy.float32(self.random.gauss(0, 1))) for _ in range(count)]
        if kind == 1:
            return [self.random.gauss(0, 1) for _ in range(count)]
        if kind == 2:
            return [self.random.randrange(-(2**63), 2**63) for _ in range(count)]
        if kind == 3:
            return [self.random.random() < 0.5 for _ in range(count)]
        return [self.pick(1, 1.0, True) for _ in range(count)]

    def integer(self):
        bits = self.pick(1, 7, 8, 15, 16, 31, 32, 63, 64, 65, 200, 2040, 2100)
        return self.pick(1, -1) * self.pick(0, 1, 2**bits, 2**bits - 1, 2**bits + 1)

    def float(self):
        return self.pick(0.0, -0.0, 1.5, 1e300, 5e-324, math.inf, -math.inf, math.nan, self.random.gauss(0, 1))

    def text(self):
        long = "x" * self.pick(64, 65, 300, 5000)
        return self.pick("", "a", "label", "mean_representation", "größe", "重み", "\U0001f600", "a\nb", "\ud800", "\0", long, "a.b")

    def key(self):
        return self.pick(self.text, self.integer, lambda: (1, "a"), lambda: None, lambda: 1.5, lambda: True, lambda: b"k")()

    def fill(self, container, add, depth):
        self.shared.append(container)
        self.open.append(container)
        for _ in range(self.random.randrange(5)):
            add(container, self.value(depth - 1))
        self.open.pop()
        return container

    def list(self, depth):
        return self.fill([], list.append, depth)

    def dict(self, depth):
        kind = self.random.randrange(5)
        made = [{}, collections.OrderedDict(), collections.defaultdict(self.pick(list, int, None)), {}, {}][kind]
        self.fill(made, lambda d, v: d.__setitem__(self.key(), v), depth)
        if kind == 1 and self.random.random() < 0.5:
            made._metadata = collections.OrderedDict([("", {"version": 1})])
        return made

    def object(self, depth):
        kind = self.random.randrange(14)
        if kind == 0:
            return argparse.Namespace(lr=0.1, value=self.value(depth - 1))
        if kind == 1:
            return Config("c", [1, 2], self.value(depth - 1))
        if kind == 2:
            return Point(self.value(depth - 1), 2)
        if kind == 3:
            return self.pick(Colour.RED, Colour.GREEN)
        if kind == 4:
            return self.pick(datetime.datetime(2024, 5, 6, 7, 8, 9), datetime.timedelta(3, 4), datetime.date(2020, 1, 2))
        if kind == 5:
            return self.pick(pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a\\b"))
        if kind == 6:
            made = Plain()
            self.shared.append(made)
            made.value = self.value(depth - 1)
            made.me = self.pick(made, None)
            return made
        if kind == 7:
            made = Slots()
            made.a = self.value(depth - 1)
            return made
        if kind == 8:
            return WithNew(self.integer(), b=self.value(depth - 1))
        if kind == 9:
            return self.pick(Outer.Inner, Outer.Inner(), Plain, len, numpy.float32, torch.float32, torch.nn.Linear, math.inf)
        if kind == 10:
            return Net()
        if kind == 11:
            net = torch.nn.Linear(2, 2)
            adam = torch.optim.AdamW(net.parameters())
            net(torch.ones(2)).sum().backward()
            adam.step()
            return {"model": net.state_dict(), "optimizer": adam.state_dict(), "epoch": 3}
        if kind == 12:
            return slice(1, None, 2) if self.protocol >= 2 else None
        return self.pick(range(3), collections.deque([1, 2]), Ellipsis, numpy.dtype("f4"), numpy.array(["a", None], dtype=object))

    def value(self, depth=4):
        if depth <= 0:
            return self.pick(None, True, False, self.integer(), self.float(), self.text())
        kind = self.random.randrange(30)
        if kind < 6:
            return self.tensor()
        if kind < 9:
            return self.list(depth)
        if kind < 13:
            return self.dict(depth)
        if kind == 13:
            return tuple(self.value(depth - 1) for _ in range(self.random.randrange(6)))
        if kind == 14:
            return {self.key() for _ in range(self.random.randrange(4))}
        if kind == 15:
            return frozenset(self.key() for _ in range(self.random.randrange(4)))
        if kind == 16:
            return collections.Counter("abca"[: self.random.randrange(5)])
        if kind == 17:
            return self.number_list()
        if kind == 18:
            return self.pick(bytes, bytearray)(self.bytes(self.pick(0, 1, 60, 3000, 9000)))
        if kind == 19:
            return complex(self.float(), self.float())
        if kind == 20:
            return self.pick(torch.Size([2, 3]), torch.Size([]), torch.device("cpu"), torch.device("cuda:1"))
        if kind == 21:
            return self.pick(torch.float32, torch.float8_e4m3fn, torch.strided, torch.sparse_coo, torch.sparse_csr)
        if kind == 22:
            return self.array()
        if kind in (23, 24):
            return self.object(depth)
        if kind == 25 and self.shared:
            return self.random.choice(self.shared)
        if kind == 26 and self.open:
            # What contains itself: directly, or through a tuple.
            around = self.random.choice(self.open)
            return self.pick(around, (around, 1))
        return self.pick(self.integer, self.float, self.text)()

    def tame(self, depth=3):
        """Only what a default load takes."""
        kind = self.random.randrange(12)
        if depth <= 0 or kind == 0:
            return self.pick(None, True, 3, -(2**40), 1.5, "label", self.text().encode("utf-8", "replace").decode())
        if kind < 5:
            made = self.tensor()
            return self.plain_tensor() if made.__class__ not in (torch.Tensor, torch.nn.Parameter) else made
        if kind == 5:
            return [self.tame(depth - 1) for _ in range(4)]
        if kind == 6:
            return self.number_list()
        if kind == 7:
            return collections.OrderedDict((f"k{i}", self.tame(depth - 1)) for i in range(3))
        if kind == 8:
            return tuple(self.tame(depth - 1) for _ in range(self.random.randrange(5)))
        if kind == 9:
            return self.pick({1, 2}, collections.Counter("aab"), torch.Size([1, 2]), torch.device("cpu"), torch.bfloat16, 1j, b"ab", bytearray(b"c"))
        return {f"k{i}": self.tame(depth - 1) for i in range(4)}


class Different(Exception):
    pass


class Compare:
    """Whether two objects are equal, and made of the same number of objects and storages, connected alike."""

    def __init__(self):
        self.seen = {}
        self.back = {}
        self.storages = {}
        self.kept = []

    def need(self, ok, path, what, a=None, b=None):
        if not ok:
            raise Different(f"{path}: {what}: {a!r:.200} and {b!r:.200}")

    def storage(self, a, b, path):
        pa, pb = a.data_ptr(), b.data_ptr()
        self.need(a.nbytes() == b.nbytes(), path, "storages of other lengths", a.nbytes(), b.nbytes())
        if a.nbytes() == 0 or a.device.type == "meta":
            return
        known = self.storages.setdefault(pa, pb)
        self.need(known == pb, path, "storages are shared otherwise")
        self.need(self.storages.setdefault(-pb, pa) == pa, path, "storages are shared otherwise")
        self.need(bytes(a) == bytes(b), path, "other bytes")

    def tensor(self, a, b, path):
        same = lambda name, get: self.need(get(a) == get(b), path, name, get(a), get(b))
        same("dtype", lambda t: t.dtype)
        same("layout", lambda t: t.layout)
        same("device", lambda t: t.device)
        same("requires_grad", lambda t: t.requires_grad)
        if a.is_nested:
            for x, y in zip(a.unbind(), b.unbind(), strict=True):
                self.tensor(x, y, path + "[nested]")
            return
        same("shape", lambda t: t.shape)
        if a.layout == torch.sparse_coo:
            same("coalesced", lambda t: t.is_coalesced())
            self.tensor(a._indices(), b._indices(), path + ".indices")
            self.tensor(a._values(), b._values(), path + ".values")
            return
        if a.layout != torch.strided:
            rows = a.layout in (torch.sparse_csr, torch.sparse_bsr)
            for part in ("crow_indices", "col_indices") if rows else ("ccol_indices", "row_indices"):
                self.tensor(getattr(a, part)(), getattr(b, part)(), f"{path}.{part}")
            self.tensor(a.values(), b.values(), path + ".values")
            return
        same("strides", lambda t: t.stride())
        same("offset", lambda t: t.storage_offset())
        same("conj", lambda t: t.is_conj())
        same("neg", lambda t: t.is_neg())
        self.storage(a.untyped_storage(), b.untyped_storage(), path)
        if a.is_quantized:
            same("quantiser", lambda t: t.qscheme())
            if a.qscheme() == torch.per_channel_affine:
                self.tensor(a.q_per_channel_scales(), b.q_per_channel_scales(), path + ".scales")
                self.tensor(a.q_per_channel_zero_points(), b.q_per_channel_zero_points(), path + ".zero_points")
            else:
                same("scale", lambda t: (t.q_scale(), t.q_zero_point()))
        elif not a.is_meta and a.dtype not in (torch.float4_e2m1fn_x2, torch.float8_e8m0fnu, torch.complex32) and not a.dtype.is_complex:
            # Equal as PyTorch itself has it, but for NaN, which equals nothing.
            self.need(torch.equal(a.detach().to(torch.float64).nan_to_num(), b.detach().to(torch.float64).nan_to_num()), path, "torch.equal")

    def same(self, a, b, path="object"):
        pending = [(a, b, path)]
        while pending:
            pending.extend(self.one(*pending.pop()))

    def one(self, a, b, path):
        self.need(type(a) is type(b), path, "other types", type(a), type(b))
        if a is None or isinstance(a, (bool, type, torch.dtype, torch.layout, torch.device, enum.Enum)):
            self.need(a == b, path, "other values", a, b)
            return []
        if isinstance(a, (int, str, bytes, datetime.date, datetime.timedelta, pathlib.PurePath, range, slice)):
            self.need(a == b, path, "other values", a, b)
            return []
        if isinstance(a, numpy.generic):
            self.need(a.dtype == b.dtype and a.tobytes() == b.tobytes(), path, "other scalars", a, b)
            return []
        if isinstance(a, float):
            self.need(repr(a) == repr(b), path, "other floats", a, b)
            return []
        if isinstance(a, complex):
            self.need(repr(a) == repr(b), path, "other numbers", a, b)
            return []
        # What can be changed is one object here exactly if it is one there; and nothing is looked into twice.
        if id(a) in self.seen or id(b) in self.back:
            self.need(self.seen.get(id(a)) == id(b) and self.back.get(id(b)) == id(a), path, "objects are shared otherwise")
            return []
        if not (isinstance(a, (tuple, frozenset)) and len(a) == 0) and not isinstance(a, torch.Size):
            self.seen[id(a)], self.back[id(b)] = id(b), id(a)
            self.kept += [a, b]
        inner = []
        if isinstance(a, torch.Tensor):
            self.tensor(a, b, path)
            inner = [(a.__dict__, b.__dict__, path + ".__dict__")] if a.__dict__ or b.__dict__ else []
            return inner
        if isinstance(a, torch.storage.TypedStorage):
            self.need(a.dtype == b.dtype, path, "dtype", a.dtype, b.dtype)
            self.storage(a._untyped_storage, b._untyped_storage, path)
            return []
        if isinstance(a, torch.UntypedStorage):
            self.storage(a, b, path)
            return []
        if isinstance(a, numpy.ndarray):
            self.need(a.dtype == b.dtype and a.shape == b.shape, path, "other arrays", (a.dtype, a.shape), (b.dtype, b.shape))
            if a.dtype.hasobject:
                return [(a.tolist(), b.tolist(), path)]
            self.need(a.tobytes() == b.tobytes(), path, "other elements")
            self.need(a.strides == b.strides or a.size < 2, path, "other order", a.strides, b.strides)
            return []
        if isinstance(a, dict):
            self.need(len(a) == len(b), path, "other lengths", len(a), len(b))
            for (ka, va), (kb, vb) in zip(a.items(), b.items()):
                inner += [(ka, kb, f"{path} key {ka!r:.30}"), (va, vb, f"{path}[{ka!r:.30}]")]
            if isinstance(a, collections.defaultdict):
                self.need(a.default_factory == b.default_factory, path, "other factories")
        elif isinstance(a, (list, tuple, collections.deque)):
            self.need(len(a) == len(b), path, "other lengths", len(a), len(b))
            inner += [(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b))]
        elif isinstance(a, (set, frozenset, bytearray)):
            self.need(a == b or repr(sorted(map(repr, a))) == repr(sorted(map(repr, b))), path, "other elements", a, b)
        elif hasattr(a, "__dict__") and not callable(a) or isinstance(a, torch.nn.Module):
            pass
        elif isinstance(a, Slots):
            inner += [(getattr(a, s, None), getattr(b, s, None), f"{path}.{s}") for s in Slots.__slots__]
        else:
            self.need(a == b or a is b, path, "other objects", a, b)
        if getattr(a, "__dict__", None) and not callable(a) or isinstance(a, torch.nn.Module):
            inner.append((dict(a.__dict__), dict(b.__dict__), path + ".__dict__"))
        return inner


def run(dolmen, *args):
    done = subprocess.run([dolmen, *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise Different(f"dolmen {' '.join(map(str, args))}: exit {done.returncode}: {done.stderr}")
    return done.stderr


def check(dolmen, folder, seed):
    maker = Maker(seed)
    maker.protocol = maker.pick(2, 2, 2, 3, 4, 5)
    tame = maker.is_tame = seed % 3 == 0
    part = maker.tame if tame else maker.value
    made = {f"part {i}": part() for i in range(maker.pick(1, 3, 6))} if seed % 5 else part()
    first, middle, back, again = (folder / name for name in ("a.pt", "a.dolmen", "b.pt", "b.dolmen"))
    legacy = seed % 7 == 0
    try:
        torch.save(made, first, pickle_protocol=maker.protocol, _use_new_zipfile_serialization=not legacy)
        expected = torch.load(first, weights_only=False)
    except Exception as e:  # what PyTorch itself cannot save or load is no test
        return f"not saved: {type(e).__name__}"
    run(dolmen, "convert", first, middle)
    notes = run(dolmen, "convert", middle, back)
    run(dolmen, "convert", back, again)
    if middle.read_bytes() != again.read_bytes():
        raise Different("the second .dolmen file is not the first")
    run(dolmen, "verify", middle, back)
    straight = folder / "c.pt"
    run(dolmen, "convert", first, straight)
    if straight.read_bytes() != back.read_bytes():
        raise Different(".pt to .pt is not the same as through .dolmen")
    Compare().same(expected, torch.load(back, weights_only=False))
    Compare().same(expected, torch.load(back, weights_only=False, mmap=True))
    refused = "a default torch.load" in notes
    if tame and refused:
        raise Different(f"noted of what a default load takes: {notes}")
    try:
        restricted = torch.load(back, weights_only=True, mmap=True)
    except Exception as e:
        if not refused:
            raise Different(f"a default load refuses it, and nothing was noted: {e}")
        return "refused by a default load"
    Compare().same(expected, restricted)
    if refused:
        raise Different(f"a default load takes it, though it was noted that it would not: {notes}")
    return "taken by a default load"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dolmen", default="target/release/dolmen")
    parser.add_argument("--keep", help="keep the files of the last object here")
    args = parser.parse_args()
    tally = collections.Counter()
    folder = pathlib.Path(args.keep or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    seed = args.seed
    while tally["agree"] < args.count:
        try:
            outcome = check(args.dolmen, folder, seed)
        except Different as e:
            print(f"seed {seed}: {e}\nfiles are in {folder}", file=sys.stderr)
            return 1
        tally[outcome] += 1
        tally["agree"] += not outcome.startswith("not saved")
        seed += 1
    for outcome, count in sorted(tally.items()):
        print(f"{count:6} {outcome}")
    print(f"seeds {args.seed} to {seed - 1}, PyTorch {torch.__version__}, NumPy {numpy.__version__}")
    if not args.keep:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
