"""Makes the files of this directory, with PyTorch 2.11 and NumPy 2.4, and `oracle.json`: what PyTorch itself finds in them.

Run it by hand: `python tests/torch_data/make.py`. Every file is read again by `torch.load` (or `torch.jit.load`), and what that gives
is described in the words of `spec/torch.md`, by a walk over Python's objects that knows nothing of pickles. `tests/torch.rs` reads
both. Keys of storages in the older layout are addresses of that run, so those files differ from run to run.
"""

import collections.abc
import copyreg
import dataclasses
import datetime
import enum
import functools
import io
import json
import pathlib
import pickle
import struct
import tarfile
import types
import warnings
import zipfile
import zlib
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

warnings.simplefilter("ignore")
HERE = Path(__file__).parent
LIST_LEN = 64
REPEATED_LEN = 64
MEMBERS = ("_parameters", "_buffers", "_modules")

DTYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64", "bool": "bool",
    "complex128": "c128", "complex64": "c64", "complex32": "c32",
    "float8_e4m3fn": "f8_e4m3fn", "float8_e4m3fnuz": "f8_e4m3fnuz", "float8_e5m2": "f8_e5m2",
    "float8_e5m2fnuz": "f8_e5m2fnuz", "float8_e8m0fnu": "f8_e8m0fnu", "float4_e2m1fn_x2": "f4_e2m1fn_x2",
    # Of these the document must say which they are.
    "qint8": "i8", "quint8": "u8", "qint32": "i32", "bits8": "u8", "bits16": "u16", "bits1x8": "u8",
    "bits2x4": "u8", "bits4x2": "u8",
}
UNNAMED = {"qint8", "quint8", "qint32", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"}
NUMPY = {
    "b1": "bool", "i1": "i8", "i2": "i16", "i4": "i32", "i8": "i64", "u1": "u8", "u2": "u16", "u4": "u32", "u8": "u64",
    "f2": "f16", "f4": "f32", "f8": "f64", "c8": "c64", "c16": "c128",
}


# What Python has loaded, in the words of the document.


def tag(name, content):
    return {"$" + name: content}


def of_float(value):
    if value - value == 0:
        return value
    return tag("float", struct.pack(">d", value).hex())


def of_int(value):
    if abs(value) <= 1 << 53:
        return value
    digits = f"{abs(value):x}"
    return tag("int", ("-" if value < 0 else "") + "0x" + digits if abs(value).bit_length() > 4096 else str(value))


def name_of(value):
    """Module and name of a class or function, as pickles give them."""
    name = getattr(value, "__qualname__", None) or value.__name__
    return [pickle.whichmodule(value, name), name]


def gathered(data, itemsize, shape, strides, offset):
    """The elements in row-major order."""
    if 0 in shape:
        return b""
    first = np.frombuffer(data, dtype=f"V{itemsize}")
    view = np.lib.stride_tricks.as_strided(
        first[offset:], shape, [stride * itemsize for stride in strides], writeable=False)
    return view.tobytes()


def storage_bytes(storage):
    return bytes(storage.untyped().tolist() if not isinstance(storage, torch.UntypedStorage) else storage.tolist())


def content_of(data):
    """Bytes as the oracle has them: long ones by length and CRC-32."""
    return {"bytes": data.hex()} if len(data) <= 256 else {"byte_len": len(data), "crc32": zlib.crc32(data)}


def place_of(tensor):
    """Where a tensor's elements are, and what they are."""
    storage, offset = tensor.untyped_storage(), tensor.storage_offset()
    for root in roots:
        # A storage that is a part of another one, as only older files have them.
        skipped = storage.data_ptr() - root.data_ptr()
        if 0 <= skipped < root.nbytes():
            storage, offset = root, offset + skipped // tensor.element_size()
    data = storage_bytes(storage)
    shape, strides = list(tensor.shape), list(tensor.stride())
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {
        "dtype": DTYPES[dtype], "shape": shape, "strides": strides, "offset": offset,
        **content_of(gathered(data, tensor.element_size(), shape, strides, offset)),
        "storage_len": len(data), "storage_crc32": zlib.crc32(data), "group": storage.data_ptr(),
    }


def base_attributes(tensor):
    attributes = {}
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype in UNNAMED:
        attributes["dtype"] = dtype
    if tensor.requires_grad:
        attributes["requires_grad"] = True
    if tensor.is_conj():
        attributes["conj"] = True
    if tensor.is_neg():
        attributes["neg"] = True
    if str(tensor.device) != "cpu":
        attributes["location"] = str(tensor.device)
    return attributes


def is_simple(tensor):
    """Whether a tensor is rebuilt from a storage, and so is a tensor in the document."""
    wrapper = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__ and type(tensor) is not torch.Tensor
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta and not (
        wrapper and tensor.data_ptr() == 0)


def numpy_place(array):
    dtype = array.dtype
    order, kind = dtype.str[0], dtype.str[1:]
    little = array.astype(dtype.newbyteorder("<"))
    attributes = {"byte_order": "big"} if order == ">" else {}
    # Strides are those of the array as it was given, but of an empty one they mean nothing.
    return attributes, {
        "dtype": NUMPY[kind], "shape": list(array.shape), "strides": [stride // dtype.itemsize for stride in array.strides],
        **content_of(little.tobytes()),
    }


def listed(items):
    """The tensor that a long list of numbers is, if it is one."""
    if len(items) < LIST_LEN:
        return None
    kinds = {type(item) for item in items}
    if kinds == {float}:
        with np.errstate(over="ignore"):
            narrow = [struct.pack("<d", float(np.float32(item))) == struct.pack("<d", item) for item in items]
        dtype, data = ("f32", np.array(items, "<f4")) if all(narrow) else ("f64", np.array(items, "<f8"))
    elif kinds == {int} and all(-(1 << 63) <= item < 1 << 63 for item in items):
        dtype, data = "i64", np.array(items, "<i8")
    elif kinds == {bool}:
        dtype, data = "bool", np.array(items, "?")
    else:
        return None
    return {"attributes": {"as": "list"}, "dtype": dtype, "shape": [len(items)], "strides": [1], **content_of(data.tobytes())}


class Leaf:
    """What holds nothing else. `short` is whether it is written again wherever it occurs."""

    def __init__(self, json, short=True):
        self.json, self.short, self.within = json, short, []


class Within:
    """What holds other values, in the order in which the document has them; `make` puts them together."""

    def __init__(self, within, make, short=False):
        self.within, self.make, self.short = within, make, short


class Described:
    """Descriptions of values, each made once and known by the value's identity."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.made, self.counts, self.numbers, self.groups = {}, {}, {}, {}
        self.kept, self.silent, self.parts = [], set(), {}

    def of(self, value):
        known = self.made.get(id(value))
        if known is None:
            self.kept.append(value)
            known = self.made[id(value)] = self.describe(value)
        return known

    def document(self, root):
        self.count(root)
        return self.render(root, "")

    def count(self, value):
        seen = self.counts[id(value)] = self.counts.get(id(value), 0) + 1
        if seen == 1:
            for _, within in self.of(value).within:
                self.count(within)

    def render(self, value, path):
        described = self.of(value)
        # Persistent ids are never memoised, so a storage is never the same one twice.
        once = isinstance(value, (torch.UntypedStorage, torch.TypedStorage))
        if described.short or once or self.counts[id(value)] < 2:
            return self.bare(described, path)
        if id(value) in self.numbers:
            return tag("shared_ref", self.numbers[id(value)])
        self.numbers[id(value)] = len(self.numbers)
        return tag("shareable", self.bare(described, path))

    def bare(self, described, path):
        if isinstance(described, Leaf):
            return described.json
        def step(key):
            # An empty key is no step: what is under it has the name of what holds it.
            return None if key is None or path is None else path if key == "" else f"{path}.{key}" if path else str(key)
        made = described.make([self.render(within, step(key)) for key, within in described.within])
        if "$tensor" in made:
            made = tag("tensor", dict(made["$tensor"]))
            if path is not None:
                made["$tensor"]["name"] = path or "tensor"
            if "group" in made["$tensor"]:
                group = made["$tensor"].pop("group")
                if group:
                    made["$tensor"]["group"] = self.groups.setdefault(group, len(self.groups))
        return made

    def pairs(self, entries, silent=()):
        within = []
        for i, (key, value) in enumerate(entries):
            named = isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool))
            within += [(None, key), ("" if key in silent else key if named else i, value)]
        return within

    def describe(self, value):
        kind = type(value)
        if value is None or kind is bool:
            return Leaf(value)
        if kind is int:
            return Leaf(of_int(value), (value.bit_length() + 8) // 8 <= REPEATED_LEN)
        if kind is float:
            return Leaf(of_float(value))
        if kind is complex:
            return Leaf(tag("complex", [of_float(value.real), of_float(value.imag)]))
        if kind is str:
            encoded = value.encode("utf-8", "surrogatepass")
            try:
                encoded.decode()
                shown = value
            except UnicodeDecodeError:
                shown = tag("wtf8", tag("bytes", encoded.hex()))
            return Leaf(shown, len(encoded) <= REPEATED_LEN)
        if kind is bytes:
            return Leaf(tag("bytes", value.hex()), len(value) <= REPEATED_LEN)
        if kind is bytearray:
            return Leaf(tag("bytearray", tag("bytes", value.hex())), False)
        if kind is pickle.PickleBuffer:
            content = value.raw()
            return self.describe(bytes(content) if content.readonly else bytearray(content))
        if kind is list:
            numbers = listed(value)
            if numbers is not None:
                return Within([], lambda _: tag("tensor", numbers))
            return Within(list(enumerate(value)), list)
        if kind is tuple:
            return Within(list(zip(self.parts.get(id(value), range(len(value))), value)), lambda made: tag("tuple", made), short=not value)
        if kind in (set, frozenset):
            return Within(list(enumerate(value)), lambda made: tag(kind.__name__, made))
        if kind in (dict, OrderedDict, defaultdict, Counter):
            return self.describe_dict(value)
        if isinstance(value, torch.Tensor) and is_simple(value):
            return self.describe_tensor(value)
        if isinstance(value, torch.UntypedStorage):
            tensor = torch.tensor([], dtype=torch.uint8).set_(value)
            return Within([], lambda _: tag("tensor", {"attributes": {"as": "untyped_storage"}, **place_of(tensor)}))
        if isinstance(value, torch.TypedStorage):
            data, dtype = storage_bytes(value), str(value.dtype).removeprefix("torch.")
            # PyTorch gives storages of bytes as typed ones.
            attributes = {"as": "untyped_storage" if dtype == "uint8" else "storage"} | ({"dtype": dtype} if dtype in UNNAMED else {})
            if value.dtype.is_floating_point:
                place = place_of(torch.tensor([], dtype=value.dtype).set_(value))
            else:
                place = {
                    "dtype": DTYPES[dtype], "shape": [len(value)], "strides": [1], "offset": 0, **content_of(data),
                    "storage_len": len(data), "storage_crc32": zlib.crc32(data), "group": value.untyped().data_ptr(),
                }
            return Within([], lambda _: tag("tensor", {"attributes": attributes, **place}))
        if kind is np.ndarray and value.dtype.str[1:] in NUMPY and value.dtype.metadata is None:
            attributes, place = numpy_place(value)
            return Within([], lambda _: tag("tensor", {"attributes": {"as": "array", **attributes}, **place}))
        if isinstance(value, np.generic) and value.dtype.str[1:] in NUMPY:
            attributes, place = numpy_place(np.asarray(value))
            return Within([], lambda _: tag("tensor", {"attributes": {"as": "scalar", **attributes}, **place}))
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            return Leaf(tag("global", name_of(value)))
        return self.describe_object(value)

    def describe_dict(self, value):
        kind, attributes = type(value), getattr(value, "__dict__", None) or None
        factory = value.default_factory if kind is defaultdict else None
        entries = list(value.items())
        within = self.pairs(entries, MEMBERS if id(value) in self.silent else ())
        within += [("factory", factory)] if factory is not None else []
        within += [("attributes", attributes)] if attributes is not None else []

        def make(made):
            rest = made[2 * len(entries):]
            made = made[:2 * len(entries)]
            if kind is dict:
                return tag("dict", made)
            name = {OrderedDict: "ordered", defaultdict: "default", Counter: "counter"}[kind]
            made_factory = rest.pop(0) if factory is not None else None
            made_attributes = rest.pop(0) if attributes is not None else None
            return tag("other_dict", [name, made, made_factory, made_attributes])

        return Within(within, make)

    def describe_tensor(self, value):
        attributes, place = base_attributes(value), place_of(value)
        further = {}
        state = torch._utils._get_obj_state(value)
        if type(value) is nn.Parameter:
            attributes["as"] = "parameter"
            if state:
                further["state"] = state
        elif type(value) is not torch.Tensor or state:
            further |= {"type": type(value), "state": state}
        if value._backward_hooks:
            further["hooks"] = value._backward_hooks
        if value.is_quantized:
            further["quantizer"] = value._reduce_ex_internal(2)[1][4]
        keys = sorted(further, key=lambda key: (len(key), key))

        def make(made):
            return tag("tensor", {"attributes": attributes | dict(zip(keys, made)), **place})

        return Within([(key, further[key]) for key in keys], make)

    def describe_object(self, value):
        """An object by what it says would rebuild it."""
        by_type = copyreg.dispatch_table.get(type(value))
        reduced = by_type(value) if by_type is not None else value.__reduce_ex__(self.protocol)
        if isinstance(reduced, str):
            return Leaf(tag("global", [pickle.whichmodule(value, reduced), reduced]))
        call, args, state, items, entries = (*reduced, *[None] * (5 - len(reduced)))[:5]
        fields, kwargs = {}, None
        if call is copyreg.__newobj__:
            fields["new"], call, args = "newobj", args[0], args[1:]
        elif call is copyreg.__newobj_ex__ and self.protocol >= 4:
            fields["new"], (call, args, kwargs) = "newobj_ex", args
        elif call is copyreg.__newobj_ex__:
            # Before protocol 4, `functools.partial(cls.__new__, cls, *args, **kwargs)` is called.
            cls, cls_args, cls_kwargs = args
            call, args = functools.partial(cls.__new__, cls, *cls_args, **cls_kwargs), ()
        items, entries = list(items or ()), list(entries or ())
        parts = [("args", list(zip(self.argument_names(call, args), args)))]
        parts.append(("class", [("class", call)]))
        parts += [("items", list(enumerate(items)))] if items else []
        parts += [("state", [("", state)])] if state is not None else []
        if type(state) is dict and all(member in state for member in MEMBERS):
            # What PyTorch sorts the members of a module into is no part of their names.
            self.silent.add(id(state))
        parts += [("kwargs", self.pairs(list(kwargs.items())))] if kwargs is not None else []
        parts += [("entries", self.pairs(entries))] if entries else []
        self.kept.append(reduced)

        def make(made):
            out, made = dict(fields), iter(made)
            for key, within in parts:
                out[key] = [next(made) for _ in within]
            out["args"] = tag("tuple", out["args"])
            out["class"] = out["class"][0]
            if "state" in out:
                out["state"] = out["state"][0]
            if "kwargs" in out:
                out["kwargs"] = tag("dict", out["kwargs"])
            return tag("object", out)

        return Within([one for _, within in parts for one in within], make)

    def argument_names(self, call, args):
        """What tensors among the arguments are named by."""
        if call is torch._utils._rebuild_sparse_tensor:
            layout = str(args[0])
            if layout == "torch.sparse_coo":
                parts = ["indices", "values", "size", "coalesced"]
            elif layout in ("torch.sparse_csr", "torch.sparse_bsr"):
                parts = ["crow_indices", "col_indices", "values", "size"]
            else:
                parts = ["ccol_indices", "row_indices", "values", "size"]
            self.parts[id(args[1])] = parts
            return ["layout", ""]
        if call is torch._utils._rebuild_nested_tensor:
            return ["buffer", "sizes", "strides", "offsets"]
        if call is torch._tensor._rebuild_from_type_v2:
            self.parts[id(args[2])] = self.argument_names(args[0], args[2])
            return ["function", "type", "", "state"]
        if call in (torch._utils._rebuild_parameter, torch._utils._rebuild_parameter_with_state):
            return ["", "requires_grad", "hooks", "state"]
        return list(range(len(args)))


oracle = {}
roots = []


def describe(name, value, protocol, layout, **facts):
    roots[:] = [tensor.untyped_storage() for key, tensor in value.items() if key in ("whole", "ints")] if name.endswith("views.pt") else []
    document = Described(protocol).document(value)
    oracle[name] = {"layout": layout, **facts, "document": document}


def load(path):
    return torch.load(path, weights_only=False)


def keep(name, data, protocol=2, layout="zip", crc=True, instead=None):
    """Writes a file, and says what PyTorch finds in it; `instead` stands for what PyTorch would itself save in another way."""
    (HERE / name).write_bytes(data)
    found = load(HERE / name)
    describe(name, found | instead if instead else found, protocol, layout, crc=crc)


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def case(name, value, instead=None, **options):
    protocol = options.get("pickle_protocol", 2)
    layout = "zip" if options.get("_use_new_zipfile_serialization", True) else "legacy"
    keep(name, saved(value, **options), protocol, layout, crc=layout == "zip", instead=instead)


def ramp(count, dtype=torch.float32):
    return torch.arange(count).to(dtype)


def raw(dtype, count=4):
    """A tensor whose bytes count up, whatever its dtype can do."""
    itemsize = torch.empty(0, dtype=dtype).element_size()
    data = torch.arange(1, count * itemsize + 1).to(torch.uint8)
    return data.view(dtype) if dtype != torch.bool else data % 2 == 0


# Tensors and their storages.

plain_dtypes = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex128, torch.complex64,
]
new_dtypes = sorted(torch.storage._new_dtypes(), key=str)
every = {str(dtype).removeprefix("torch."): raw(dtype) for dtype in [*plain_dtypes, *new_dtypes]}
case("dtypes.pt", every)
case("values.pt", {
    "floats": torch.tensor([1.5, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45]),
    "halves": torch.tensor([1.5, -0.0, float("nan"), float("inf"), 65504.0], dtype=torch.float16),
    "ints": torch.tensor([-(1 << 63), (1 << 63) - 1, -1]),
    "bools": torch.tensor([True, False, True]),
    "complex": torch.tensor([1 + 2j, -3.5j], dtype=torch.complex64),
    "fp8": torch.tensor([1.0, -2.0, 0.5]).to(torch.float8_e4m3fn),
})
base = ramp(24)
case("views.pt", {
    "whole": base, "matrix": base.view(4, 6), "transposed": base.view(4, 6).t(), "rows": base.view(4, 6)[1:3],
    "columns": base.view(4, 6)[:, 2:4], "steps": base[1::5], "one": base[7], "expanded": base[3:4].expand(5, 3, 1).view(5, 3, 1),
    "empty_at_end": base[24:], "empty_rows": base.view(4, 6)[:, 3:3], "permuted": base.view(2, 3, 4).permute(2, 0, 1),
    "diagonal": base.view(4, 6)[:, :4].diagonal(), "windows": base.unfold(0, 4, 2),
    "channels_last": ramp(24).view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
})
case("small.pt", {
    "scalar": torch.tensor(3.25), "empty": torch.zeros(0), "empty_matrix": torch.zeros(0, 7, dtype=torch.int16),
    "ones": torch.ones(1, 1, 1), "scalar_view": torch.arange(5.0)[3], "list": [torch.ones(2), (torch.zeros(1),)],
})
tied = nn.Parameter(ramp(6).view(2, 3))
case("tied.pt", {"encoder": tied, "decoder": tied, "data": tied.detach(), "other": tied.detach().clone()})
held = ramp(4)
case("storages.pt", {
    "tensor": held, "typed": held.storage(), "again": held.storage(), "untyped": ramp(3).untyped_storage(),
    "empty": torch.zeros(0).untyped_storage(), "quantised": torch.quantize_per_tensor(ramp(4), 0.5, 2, torch.quint8).storage(),
})
with_state = nn.Parameter(torch.ones(2))
with_state.note = {"step": 3}
frozen = nn.Parameter(torch.ones(2), requires_grad=False)
marked = torch.zeros(2)
marked.note = "plain tensor with a state"
case("parameters.pt", {
    "parameter": nn.Parameter(torch.ones(2)), "frozen": frozen, "with_state": with_state, "marked": marked,
    "grad": torch.ones(2, requires_grad=True), "fp8": nn.Parameter(torch.ones(2).to(torch.float8_e5m2), requires_grad=False),
    "view": nn.Parameter(ramp(6).view(2, 3).t(), requires_grad=True),
})
z = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
case("bits.pt", {
    "z": z, "conj": z.conj(), "neg": z.clone().conj().imag, "both": torch._neg_view(z.conj()),
    "parameter": nn.Parameter(z.conj(), requires_grad=False),
})
case("quantised.pt", {
    "tensor": torch.quantize_per_tensor(ramp(6).view(2, 3), 0.25, 3, torch.qint8),
    "unsigned": torch.quantize_per_tensor(ramp(3), 0.5, 0, torch.quint8),
    "wide": torch.quantize_per_tensor(ramp(3), 0.125, 0, torch.qint32),
    "channels": torch.quantize_per_channel(
        ramp(6).view(2, 3), torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.qint8),
    "view": torch.quantize_per_tensor(ramp(6).view(2, 3), 0.25, 3, torch.qint8).t(),
})


def _hook(grad):
    return grad


class Rebuilt:
    """Pickles as a call that PyTorch no longer writes itself."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


hooked = torch.ones(2)
case("hooks.pt", {
    "hooks": Rebuilt(torch._utils._rebuild_tensor_v2, hooked.storage(), 0, (2,), (1,), True, OrderedDict({0: _hook})),
    "oldest": Rebuilt(torch._utils._rebuild_tensor, hooked.storage(), 1, (1,), (1,)),
    "metadata": Rebuilt(
        torch._utils._rebuild_tensor_v2, torch.ones(1, dtype=torch.complex64).storage(), 0, (1,), (1,), False, OrderedDict(), {"conj": True}),
})

# Tensors that are no strided run of a storage.

coo = torch.sparse_coo_tensor(torch.tensor([[0, 1], [2, 0]]), torch.tensor([3.0, 4.0]), (2, 3))
matrix = torch.tensor([[0.0, 1.0, 0.0, 2.0], [3.0, 0.0, 0.0, 4.0]])
three = Rebuilt(torch._utils._rebuild_sparse_tensor, torch.sparse_coo, (torch.tensor([[1]]), torch.tensor([5.0]), torch.Size([2])))
case("sparse.pt", {
    "coo": coo, "coalesced": coo.coalesce(), "csr": matrix.to_sparse_csr(), "csc": matrix.to_sparse_csc(),
    "bsr": matrix.to_sparse_bsr((2, 2)), "bsc": matrix.to_sparse_bsc((2, 2)), "parameter": nn.Parameter(coo),
    "three": three,
}, instead={"three": three})
case("nested.pt", {"nested": torch.nested.nested_tensor([torch.ones(2, 2), torch.zeros(1, 2)])})
case("meta.pt", {"meta": torch.empty(2, 3, device="meta"), "storage": torch.ones(2)})


class Tagged(torch.Tensor):
    pass


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(function)


subclassed = ramp(4).as_subclass(Tagged)
subclassed.tag = ["a", 1]
case("subclasses.pt", {"tagged": subclassed, "bare": torch.ones(1).as_subclass(Tagged), "wrapper": Wrapper(ramp(3)),
                       "buffer": nn.Buffer(torch.ones(2))})
case("torch_values.pt", {
    "size": torch.Size([2, 3]), "device": torch.device("cuda:1"), "dtype": torch.bfloat16, "layout": torch.sparse_csr,
    "scheme": torch.per_channel_affine, "dtypes": [torch.float32, torch.uint16],
    "generator_state": torch.Generator().manual_seed(1).get_state()[:16].clone(),
})

# Plain values of Python.

Point = namedtuple("Point", "x y")
text = "a text that is long enough not to be written again wherever it occurs, but kept once"
case("numbers.pt", {
    "none": None, "true": True, "false": False, "zero": 0, "byte": 255, "word": 65535, "negative": -1, "int": -(1 << 31),
    "long": [1 << 31, -(1 << 31) - 1, (1 << 63) - 1, 1 << 63, -(1 << 63), -(1 << 63) - 1, 1 << 64, -(1 << 64)],
    "bounds": [sign * (1 << bits) + more for bits in (7, 8, 15, 16, 31, 32, 55, 56, 63, 64, 127, 128) for sign in (1, -1)
               for more in (-1, 0, 1)],
    "huge": 3**400, "longest": -(7**1000),
    "floats": [0.0, -0.0, 1.5, 0.1, float("inf"), -float("inf"), float("nan"), 5e-324, 1.7976931348623157e308],
    "complex": [1 + 2j, complex(-0.0, float("nan"))],
})
case("texts.pt", {
    "empty": "", "text": "héllo €😀", "surrogate": "\ud800x", "long": text, "again": text, "very_long": text * 50,
    "bytes": b"\x00\xffab", "no_bytes": b"", "long_bytes": bytes(range(256)), "very_long_bytes": bytes(range(256)) * 17,
    "bytearray": bytearray(b"\x01\x80"), "no_bytearray": bytearray(),
})
ordered = OrderedDict([("b", 1), ("a", 2)])
ordered._metadata = OrderedDict([("", {"version": 1})])
counted = Counter("abca")
case("containers.pt", {
    "ordered": ordered, "default": defaultdict(list, {"k": [1]}), "bare_default": defaultdict(None, {1: 2}), "counter": counted,
    "set": {1, 2, 3}, "empty_set": set(), "frozenset": frozenset({"x"}), "tuple": (1, (2, ()), "three"), "four": (1, 2, 3, 4),
    "empty": [[], {}, ()], "keys": {1: "int", -5: "negative", (1, 2): "tuple", None: "none", True: "bool", 2.5: "float", b"b": "bytes"},
    "nested": {"a": {"b": [{"c": torch.ones(1)}]}},
})


@dataclasses.dataclass
class Config:
    width: int = 3
    names: list = dataclasses.field(default_factory=list)


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


class Outer:
    class Inner:
        def __init__(self):
            self.x = 1

    def method(self):
        pass


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a, self.b = 1, torch.ones(1)


class ListOf(list):
    pass


class DictOf(dict):
    pass


class Reduces:
    def __init__(self, value=None):
        self.value = value

    def __reduce__(self):
        return (Reduces, (self.value,), {"value": self.value, "more": [1]})


class Keyword:
    def __new__(cls, *args, **kwargs):
        made = super().__new__(cls)
        made.given = (args, kwargs)
        return made

    def __getnewargs_ex__(self):
        return self.given


class NewArgs(tuple):
    def __new__(cls, a, b):
        return super().__new__(cls, (a, b))

    def __getnewargs__(self):
        return tuple(self)


listed_object, dict_object = ListOf([1, torch.ones(1)]), DictOf(a=torch.zeros(1))
listed_object.note = "n"
objects = {
    "namespace": Namespace(lr=0.1, layers=[1, 2], weight=torch.ones(2)), "dataclass": Config(names=["a"]), "enum": [Colour.RED, Colour.BLUE, Colour.RED],
    "point": Point(1, torch.ones(1)), "when": datetime.datetime(2024, 2, 29, 12, 30, 1, 5), "day": datetime.date(1999, 12, 31),
    "span": datetime.timedelta(days=-1, seconds=5), "zone": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "path": pathlib.PurePosixPath("/a/b.txt"), "inner": Outer.Inner(), "class": Outer, "inner_class": Outer.Inner,
    "function": _hook, "method": Outer.method, "builtin": len, "slots": Slots(), "list_of": listed_object, "dict_of": dict_object, "reduces": Reduces(torch.ones(1)),
    "new_args": NewArgs(1, "b"), "renamed": [int, str, chr, range, ValueError, OSError, zip, collections.UserDict, collections.abc.Sequence],
    "factory": defaultdict(int, a=1), "simple": types.SimpleNamespace(a=1), "range": range(1, 9, 2), "slice": slice(1, None, 2),
    "partial": functools.partial(_hook, 1), "keyword": Keyword(1, b=torch.ones(1)), "deque": collections.deque([1, 2], 5),
}
for protocol in (2, 3, 4, 5):
    case(f"objects_{protocol}.pt", objects, pickle_protocol=protocol)

shared = [1, "x"]
itself = ["head"]
itself.append(itself)
own = {"tensor": torch.ones(2)}
own["self"] = own
in_tuple = ([],)
in_tuple[0].append(in_tuple)
loop = Namespace(name="loop")
loop.me = loop
one_tensor = torch.ones(3)
two = Config()
two.names = [two]
size = torch.Size([4])
case("shared.pt", {
    "first": shared, "second": shared, "list": itself, "dict": own, "tuple": in_tuple, "object": loop, "dataclass": two,
    "tensor": one_tensor, "same_tensor": one_tensor, "viewed": one_tensor[1:], "size": size, "same_size": size, "text": text, "same_text": text,
    "set": {1}, "by_key": {(1, 2): shared}, "bytes": [bytes(range(100))] * 2, "empty": [()] * 2, "numbers": [[0.5] * 70] * 2,
})
root = []
root.append(root)
case("itself.pt", root)
case("bare.pt", torch.arange(3))
case("bare_number.pt", 7)

# NumPy.

numbers = {}
for kind in NUMPY:
    count = np.arange(6).reshape(2, 3)
    numbers[kind] = count.astype("<" + kind) + (np.ones(1, "<" + kind) * 1j if kind[0] == "c" else 0)
    numbers["scalar_" + kind] = numbers[kind].astype("<" + kind)[1, 2]
numbers = {key: value.astype(value.dtype.newbyteorder("<")) if key in NUMPY else value for key, value in numbers.items()}
grid = np.arange(12, dtype="<f4").reshape(3, 4)
layouts = {
    "big_i2": np.arange(3, dtype=">i2"), "big_f4": grid.astype(">f4"), "big_f8": np.arange(2, dtype=">f8"), "big_c8": np.array([1 + 2j], dtype=">c8"),
    "big_c16": np.array([1 + 2j], dtype=">c16"), "native_scalar": np.array(1.5, dtype=">f4")[()], "fortran": np.asfortranarray(grid), "big_fortran": np.asfortranarray(grid.astype(">i4")),
    "ones": [np.ones(1, "i1"), np.ones(1, "i1"), np.int8(1), np.int8(1)], "steps": grid[::2, ::-1], "empty": np.zeros((0, 4), "<f8"), "scalar_array": np.array(2.5), "axes": np.arange(24, dtype="<i4").reshape(2, 3, 4).transpose(1, 0, 2),
    "middle": np.arange(700, dtype="<f4"), "long": np.arange(1500, dtype="<f4"), "long_bytes": np.full(5000, 200, "u1"), "readonly": np.frombuffer(bytes(range(16)), "<u2"),
}
layouts["same"] = layouts["long"]
opaque = {
    "objects": np.array([{"a": 1}, None], dtype=object), "texts": np.array(["ab", "c"]), "byte_strings": np.array([b"ab", b"c"]),
    "date": np.array(["2020-01-01"], dtype="M8[D]"), "span": np.array([1], dtype="m8[s]"), "fields": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8")]),
    "dtype": np.dtype("<f4"), "named": np.dtype([("a", ">i2")]), "instant": np.datetime64("2020-01-01"),
}
case("numpy_dtypes.pt", numbers)
for protocol in (2, 4, 5):
    case(f"numpy_{protocol}.pt", {"arrays": layouts, "opaque": opaque}, pickle_protocol=protocol)

# Long lists.

halves = [i / 2 for i in range(100)]
case("lists.pt", {
    "exact": halves, "inexact": [i / 10 for i in range(100)], "special": [float("nan"), float("inf"), -0.0] * 30, "ints": list(range(-50, 50)),
    "bools": [i % 3 == 0 for i in range(64)], "short": halves[:63], "shortest": halves[:64], "mixed": [1, 1.0] * 40, "with_none": [None] + halves, "big": [1 << 70] * 70,
    "tensors": [ramp(2) + i for i in range(3)], "rows": [halves[:64], halves[:64]], "tuple": tuple(halves), "long": [float(i) for i in range(1500)],
    "edges": [(1 << 63) - 1, -(1 << 63)] * 32, "subclass": ListOf(halves[:64]),
})


# Modules and training states.


class MLPClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden_layer = nn.Linear(6, 4)
        self.bn1 = nn.BatchNorm1d(4)
        self.output_layer = nn.Linear(4, 2)
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.first = self.hidden_layer

    def forward(self, x):
        return self.output_layer(self.bn1(self.hidden_layer(x)))


class TiedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.blocks = nn.ModuleList([nn.Linear(1, 1)])


torch.manual_seed(0)
mlp, two_of_one = MLPClassifier(), TiedModel()
case("module.pth", mlp)
case("tied_module.pth", two_of_one)
case("state_dict.pt", mlp.state_dict())
optimiser = torch.optim.Adam(mlp.parameters(), lr=0.01)
optimiser.zero_grad()
mlp(torch.ones(3, 6)).sum().backward()
optimiser.step()
case("training.pt", {"epoch": 3, "model": mlp.state_dict(), "optimizer": optimiser.state_dict(), "best": 0.25, "rng": torch.get_rng_state()[:32].clone()})

# A pipeline's files, in small.

case("dnabert.pt", {"nucleotide": ["seq1", "seq2"], "data": [
    {"label": label, "mean_representation": [float(np.float32(0.1 * i * sign)) for i in range(96)]} for label, sign in (("seq1", 1), ("seq2", -1))]})
case("esm.pt", {"proteins": ["p1", "p2", "p3"], "data": [ramp(8) * i for i in range(3)]})
case("merged.pt", {"ids": ["a", "b", "c"], "data": ramp(3 * 12).view(3, 12), "labels": [0, 1, 1]})
case("empty_merge.pt", {"ids": ["a"], "data": torch.zeros(0, 12)})
for protocol in (2, 4):
    case(f"batch_{protocol}.pt", {
        "embeddings": np.arange(4 * 300, dtype="<f4").reshape(4, 300) / 7, "sequence_ids": ["s1", "s2", "s3", "s4"], "metadata": {"model": "esm2", "count": np.int64(4)},
    }, pickle_protocol=protocol)

# The archive in other ways.

rich = {"w": ramp(6).view(2, 3), "u": raw(torch.complex64), "h": raw(torch.bfloat16, 5), "n": [1, 2.5, "x"], "d": raw(torch.int64), "b": raw(torch.uint8, 3)}


def records(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def zipped(entries, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, compression)
    return out.getvalue()


def renamed(entries, keep_if=lambda name: True):
    return [(name, data) for name, data in entries if keep_if(name.split("/", 1)[1])]


whole = records(saved(rich))
keep("deflated.pt", zipped(whole, zipfile.ZIP_DEFLATED))
keep("restored.pt", zipped(whole))
ordered_entries = sorted(renamed(whole, lambda name: not name.startswith(".")), key=lambda entry: entry[0])
keep("version_last.pt", zipped([entry for entry in ordered_entries if not entry[0].endswith("byteorder")]))
keep("version_first.pt", zipped(sorted(ordered_entries, key=lambda entry: not entry[0].endswith("/version"))))
old_names = [(name.replace("/version", "/.data/version"), b"6\n" if name.endswith("/version") else data) for name, data in ordered_entries]
keep("old_version.pt", zipped([entry for entry in old_names if not entry[0].endswith("byteorder")]))
torch.serialization.set_crc32_options(False)
case("crc_off.pt", rich)
oracle["crc_off.pt"]["crc"] = False
torch.serialization.set_crc32_options(True)

swaps = {"0": 4, "1": 4, "2": 2, "3": 8, "4": 1}
big = []
for name, data in whole:
    key = name.rsplit("/", 1)[1]
    if "/data/" in name and swaps[key] > 1:
        data = b"".join(data[i:i + swaps[key]][::-1] for i in range(0, len(data), swaps[key]))
    big.append((name, b"big" if key == "byteorder" else data))
keep("big_endian.pt", zipped(big))
oracle["big_endian.pt"]["same_as"] = "restored.pt"
assert all(torch.equal(load(HERE / "big_endian.pt")[key], rich[key]) for key in "wuhdb")

# Before 1.6.

case("legacy.pt", {**rich, "same": rich["w"], "t": rich["w"].t(), "row": rich["w"][1], "scalar": torch.tensor(1.0), "parameter": nn.Parameter(torch.ones(2))},
     _use_new_zipfile_serialization=False)
case("legacy_4.pt", {"w": ramp(3), "array": np.arange(1500, dtype="<f4"), "objects": Config(names=[1])}, _use_new_zipfile_serialization=False, pickle_protocol=4)
with mock.patch("torch.serialization.get_source_lines_and_file", lambda cls: (["class " + cls.__name__ + ":\n"], 1, "model.py")):
    case("legacy_module.pth", two_of_one, _use_new_zipfile_serialization=False)


class Stored:
    """A storage by the persistent id that is to be written for it."""

    def __init__(self, *pid):
        self.pid = pid


class WithIds(pickle._Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Stored) else None


def pickled(value, protocol=2):
    out = io.BytesIO()
    WithIds(out, protocol).dump(value)
    return out.getvalue()


def viewed(storage, offset, shape, strides):
    return Rebuilt(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict())


def legacy(value, storages):
    """The layout before 1.6, written by hand: storages as key, element count and bytes."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = [pickled(part) for part in (0x1950A86A20F9469CFC6C, 1001, info, value, [key for key, _, _ in storages])]
    return b"".join(out + [struct.pack("<q", count) + data for _, count, data in storages])


floats = ramp(10).numpy().tobytes()
ints = np.arange(3, dtype="<i8").tobytes()
keep("legacy_views.pt", legacy({
    "whole": viewed(Stored("storage", torch.FloatStorage, "100", "cpu", 10, None), 0, (2, 5), (5, 1)),
    "part": viewed(Stored("storage", torch.FloatStorage, "100", "cpu", 10, ("200", 4, 3)), 1, (2,), (1,)),
    "again": viewed(Stored("storage", torch.FloatStorage, "100", "cpu", 10, ("200", 4, 3)), 0, (3,), (1,)),
    "storage": Stored("storage", torch.FloatStorage, "100", "cpu", 10, ("300", 8, 2)),
    "ints": viewed(Stored("storage", torch.LongStorage, "101", "cpu", 3, None), 2, (1,), (1,)),
}, [("100", 10, floats), ("101", 3, ints)]), layout="legacy", crc=False)

# TorchScript. Its records of source positions name the machine's folders, so they are left out.


class Script(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.tensor([7], dtype=torch.int64))
        self.scale = 0.5

    def forward(self, x):
        return self.linear(x) * self.scale + torch.tensor([1.0, 2.0])


def script(name, module):
    out = io.BytesIO()
    torch.jit.save(module, out)
    reader = torch._C.PyTorchFileReader(io.BytesIO(out.getvalue()))
    writer = torch._C.PyTorchFileWriter(str(HERE / name))
    for record in reader.get_all_records():
        if not record.endswith(".debug_pkl") and record not in (".data/serialization_id", "version", ".format_version", ".storage_alignment"):
            data = reader.get_record(record)
            writer.write_record(record, data, len(data))
    writer.write_end_of_file()
    loaded = torch.jit.load(HERE / name)
    tensors = {key: place_of(value.detach()) for key, value in loaded.state_dict().items()}
    constants = [place_of(value) for value in loaded.code_with_constants[1].const_mapping.values() if isinstance(value, torch.Tensor)]
    for place in [*tensors.values(), *constants]:
        del place["group"]
    oracle[name] = {"layout": "zip (torchscript)", "crc": True, "tensors": tensors, "constants": constants}


example = Script()
script("script.pt", torch.jit.script(example))
script("traced.pt", torch.jit.trace(example, torch.ones(1, 3)))

# Python 2's pickles, as its PyTorch wrote them.


def old_text(value):
    """SHORT_BINSTRING."""
    return b"U" + bytes([len(value)]) + value


def old_global(module, name):
    return b"c" + module + b"\n" + name + b"\n"


def old_tensor(key, numel):
    storage = b"(" + old_text(b"storage") + old_global(b"torch", b"FloatStorage") + old_text(key) + old_text(b"cpu") + b"K" + bytes([numel]) + b"tQ"
    hooks = old_global(b"collections", b"OrderedDict") + b"]" + b"\x85R"
    return old_global(b"torch._utils", b"_rebuild_tensor_v2") + b"(" + storage + b"K\x00K" + bytes([numel]) + b"\x85K\x01\x85\x89" + hooks + b"tR"


def old_object(name, state):
    made = old_global(b"copy_reg", b"_reconstructor") + b"(" + old_global(b"__main__", name) + old_global(b"__builtin__", b"object") + b"NtR"
    return made + b"}(" + state + b"ub"


old = (b"\x80\x02}q\x00(" + old_text(b"w") + b"q\x01" + old_tensor(b"0", 3) + old_text(b"set") + old_global(b"__builtin__", b"set") + b"](K\x01K\x02e\x85R"
       + old_text(b"int") + b"\x8a\x01\x05" + old_text(b"object") + old_object(b"OldStyle", old_text(b"a") + b"K\x01")
       + old_text(b"unicode") + b"X\x02\x00\x00\x00\xc3\xa9" + old_text(b"utf8") + old_text("é".encode()) + old_text(b"range") + old_global(b"__builtin__", b"xrange") + b"K\x00K\x05K\x01\x87R"
       + old_text(b"ordered") + old_global(b"collections", b"OrderedDict") + b"]](" + old_text(b"k") + b"K\x01ea\x85R" + old_text(b"again") + b"h\x01u.")


class OldStyle:
    def __reduce_ex__(self, protocol):
        return (copyreg._reconstructor, (OldStyle, object, None), self.__dict__)


keep("python2.pt", zipped([("archive/data.pkl", old), ("archive/data/0", ramp(3).numpy().tobytes()), ("archive/version", b"3\n")]))

if __name__ == "__main__":
    with open(HERE / "oracle.json", "w") as out:
        out.write("{\n")
        out.write(",\n".join(f"{json.dumps(name)}:{json.dumps(facts, separators=(',', ':'))}" for name, facts in oracle.items()))
        out.write("\n}\n")
    total = sum(path.stat().st_size for path in HERE.iterdir())
    print(f"{len(oracle)} files, {total} bytes with the oracle")
