#!/usr/bin/env python3
"""Writes the conformance vectors: vectors/accept, vectors/reject, vectors/either and vectors/manifest.json.

    python3 spec/make_vectors.py
    python3 spec/make_vectors.py --large DIR

With --large it writes into DIR the few that are too large to be kept: up to 1 GiB, for which it takes 5 GiB of memory.

It is a second, independent rendering of format.md: it shares no code with reader.py. Each file to reject begins as a valid
file in memory, has one thing changed, and is sealed again: every CRC that is not the point of the vector is right.
"""
import hashlib
import json
import os
import struct
import sys
import threading
import zlib

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors")
MAGIC = bytes.fromhex("89444F4C4D454E0A")
DESCRIPTOR_MAGIC = b"DOLMREC\n"
FAILURE_CLASS = {"HDR-2": "NotThisFormat", "HDR-3": "Corrupt", "HDR-4": "UnsupportedVersion", "HDR-5": "UnsupportedVersion",
             "HDR-12": "Corrupt", "REC-3": "Corrupt", "IDX-1": "Corrupt", "IDX-5": "UnsupportedVersion",
             "STO-4": "Corrupt", "BLK-1": "Corrupt"}
TOP = 1 << 64

DTYPES = [
    (0x0001, "bool", 8), (0x0010, "u8", 8), (0x0011, "u16", 16), (0x0012, "u32", 32), (0x0013, "u64", 64),
    (0x0020, "i8", 8), (0x0021, "i16", 16), (0x0022, "i32", 32), (0x0023, "i64", 64), (0x0030, "f16", 16),
    (0x0031, "bf16", 16), (0x0032, "f32", 32), (0x0033, "f64", 64), (0x0040, "c32", 32), (0x0041, "c64", 64),
    (0x0042, "c128", 128), (0x0050, "f8_e4m3fn", 8), (0x0051, "f8_e4m3fnuz", 8), (0x0052, "f8_e5m2", 8),
    (0x0053, "f8_e5m2fnuz", 8), (0x0054, "f8_e8m0fnu", 8), (0x0060, "f4_e2m1fn_x2", 8), (0x0061, "f4_e2m1fn", 4),
    (0x0062, "f6_e2m3fn", 6), (0x0063, "f6_e3m2fn", 6), (0x0070, "u1", 1), (0x0071, "u2", 2), (0x0072, "u4", 4),
    (0x0078, "i2", 2), (0x0079, "i4", 4),
]
CODE = {name: code for code, name, _ in DTYPES}
BITS = {name: bits for _, name, bits in DTYPES}
CODE["opaque"] = 0x00FF


def up(n, a):
    return -(-n // a) * a


def pattern(n, seed=1):
    """Bytes without a rhythm, the same on every machine."""
    out, state = bytearray(), seed * 2654435761 % 2 ** 32
    for _ in range(n):
        state = (state * 1664525 + 1013904223) % 2 ** 32
        out.append(state >> 24)
    return bytes(out)


def row_major(shape):
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return strides


def size_of(shape):
    n = 1
    for dim in shape:
        n *= dim
    return n


# The writer. A file is a list of tensors; the first tensor over a storage has its data, a later one names that tensor.

class T:
    """A tensor to write. `data` is the whole storage it introduces, or None with `of`, the name of one that did."""

    def __init__(self, name, dtype, shape, data=None, of=None, strides=None, start=0, bits=None):
        self.name = name.encode() if isinstance(name, str) else name
        self.code = CODE[dtype] if isinstance(dtype, str) else dtype
        self.dtype = dtype if isinstance(dtype, str) else f"unknown(0x{dtype:04X})"
        self.bits = BITS[dtype] if bits is None else bits
        self.shape, self.strides, self.start, self.of = list(shape), strides, start, of
        self.data = data
        if data is None and of is None:
            self.data = pattern(-(-size_of(shape) * self.bits // 8), len(self.name) + self.code)
            spare = -size_of(shape) * self.bits % 8
            if spare:
                self.data = self.data[:-1] + bytes([self.data[-1] & 255 >> spare])


class Descriptor:
    """One descriptor; a field set afterwards overrides what the tensor gives."""

    def __init__(self, tensor, storage, view):
        self.name, self.dims, self.strides = tensor.name, list(tensor.shape), tensor.strides
        self.start, self.bits, self.code, self.rank = tensor.start, tensor.bits, tensor.code, len(tensor.shape)
        self.storage, self.flags = storage, (1 if tensor.strides is not None else 0) | (2 if view else 0)
        self.data_offset = self.data_len = self.data_crc32 = 0
        self.magic, self.reserved, self.name_len, self.crc_xor = DESCRIPTOR_MAGIC, bytes(8), len(self.name), 0
        self.descriptor_len, self.pad, self.extra_pad = None, 0, 0

    def length(self):
        numbers = len(self.dims) + len(self.strides or [])
        return up(64 + 8 * numbers + len(self.name) + 4, 8) + self.extra_pad

    def to_bytes(self):
        numbers = self.dims + (self.strides or [])
        length = self.length()
        head = struct.pack("<8sIIQQQIIHBBI8s", self.magic, self.descriptor_len or length, self.storage, self.data_offset,
                           self.data_len, self.start, self.data_crc32, self.bits, self.code, self.rank, self.flags,
                           self.name_len, self.reserved)
        body = head + struct.pack(f"<{len(numbers)}Q", *numbers) + self.name
        body += bytes([self.pad]) * (length - 4 - len(body))
        return body + struct.pack("<I", zlib.crc32(body) ^ self.crc_xor)


class File:
    """A file on its way to bytes. The stages are fields, so that a vector can change what lies between two of them."""

    def __init__(self, tensors, align=6, block=12, minor=0, metadata=None, document=None, more=()):
        self.align, self.block = align, block
        self.header = {"major": 1, "minor": minor, "features": 0, "reserved": bytes(14), "align": align, "block": block}
        self.written, self.data, self.gaps = [], [], {}
        self.storages = []
        numbers = {}
        for tensor in tensors:
            view = tensor.data is None
            if not view:
                numbers[tensor.name] = len(self.data)
                self.data.append(tensor.data)
            number = numbers[tensor.of.encode() if view else tensor.name]
            self.written.append(Descriptor(tensor, number, view))
        self.tensors = []
        for tensor, descriptor in sorted(zip(tensors, self.written), key=lambda pair: pair[0].name):
            self.tensors.append({"name": tensor.name, "dims": list(tensor.shape), "strides": tensor.strides,
                                 "start": tensor.start, "storage": descriptor.storage, "code": tensor.code,
                                 "bits": tensor.bits, "rank": len(tensor.shape),
                                 "flags": 1 if tensor.strides is not None else 0})
        self.extra = list(more)
        for kind, value in ((6, metadata), (7, document)):
            if value is not None:
                self.extra.append((kind, 1, value if isinstance(value, bytes) else cbor(value)))
        self.place()

    def place(self):
        """The positions of section 3, and the tables that follow from them."""
        self.storages, self.blocks, self.positions = [], [], []
        cursor, size = 64, 1 << self.block
        for descriptor in self.written:
            end = cursor + descriptor.length()
            self.positions.append(cursor)
            if not descriptor.flags & 2:
                data = self.data[len(self.storages)]
                offset = up(end, 1 << self.align)
                self.storages.append({"offset": offset, "len": len(data), "first": len(self.blocks),
                                      "crc": zlib.crc32(data), "reserved": 0})
                self.blocks += [zlib.crc32(data[at:at + size]) for at in range(0, len(data), size)]
                end = offset + len(data)
            cursor = up(end, 64)
        self.index_offset = cursor
        for descriptor in self.written:
            if descriptor.storage < len(self.storages):
                storage = self.storages[descriptor.storage]
                descriptor.data_offset, descriptor.data_len = storage["offset"], storage["len"]
                descriptor.data_crc32 = storage["crc"]
        return self

    def body(self):
        out = bytearray(self.index_offset - 64)
        for at, descriptor in zip(self.positions, self.written):
            raw = descriptor.to_bytes()
            out[at - 64:at - 64 + len(raw)] = raw
        for storage, data in zip(self.storages, self.data):
            out[storage["offset"] - 64:storage["offset"] - 64 + len(data)] = data
        return out

    def sections(self):
        names, dims, records = b"", [], b""
        for t in self.tensors:
            first_name, first_dim = t.get("first_name", len(names)), t.get("first_dim", len(dims))
            names += t.get("put_name", t["name"])
            dims += t.get("put_dims", t["dims"] + (t["strides"] or []))
            records += struct.pack("<QQQIIHBBI", first_name, first_dim, t["start"], t.get("name_len", len(t["name"])),
                                   t["storage"], t["code"], t["rank"], t["flags"], t["bits"])
        storages = b"".join(struct.pack("<QQQII", s["offset"], s["len"], s["first"], s["crc"], s["reserved"])
                            for s in self.storages)
        return sorted([(1, 0, names), (2, 0, struct.pack(f"<{len(dims)}Q", *dims)), (3, 0, records), (4, 0, storages),
                       (5, 0, struct.pack(f"<{len(self.blocks)}I", *self.blocks))] + self.extra)

    @staticmethod
    def index(sections, lengths=None, pad=0):
        """`lengths` overrides what the table says of the length of a kind."""
        out = struct.pack("<II", len(sections), 0)
        for kind, flags, content in sections:
            out += struct.pack("<IIQ", kind, flags, (lengths or {}).get(kind, len(content)))
        for _, _, content in sections:
            out += content + bytes([pad]) * (-len(content) % 8)
        return bytearray(out)

    def seal(self, body=None, index=None, **header):
        """The bytes of the file, with fields of the header overridden by name."""
        body = self.body() if body is None else body
        index = self.index(self.sections()) if index is None else index
        h = dict(self.header, file_len=64 + len(body) + len(index) + 64, index_offset=64 + len(body), index_len=len(index),
                 index_crc=zlib.crc32(index))
        h.update(header)
        head = MAGIC if "magic" not in h else h["magic"]
        head += struct.pack("<HHIQQQIBB14s", h["major"], h["minor"], h["features"], h["file_len"], h["index_offset"],
                            h["index_len"], h["index_crc"], h["align"], h["block"], h["reserved"])
        head += struct.pack("<I", zlib.crc32(head))
        return head + bytes(body) + bytes(index) + head


# CBOR: int, str, bytes, list, bool and None are what they seem; a Python float is written in its shortest form.

class Tag:
    def __init__(self, number, content):
        self.number, self.content = number, content


class Dict:
    """A plain map; pairs in any order."""

    def __init__(self, *pairs):
        self.pairs = pairs


class Bits:
    """A float given by its encoding (head and bits) and the bits of the double of the same value."""

    def __init__(self, encoding, double):
        self.encoding, self.double = bytes.fromhex(encoding), double


def head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for info, (code, end) in enumerate(((">B", 1 << 8), (">H", 1 << 16), (">I", 1 << 32), (">Q", 1 << 64))):
        if n < end:
            return bytes([major << 5 | 24 + info]) + struct.pack(code, n)
    raise ValueError(n)


def cbor(value):
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int) and 0 <= value < TOP:
        return head(0, value)
    if isinstance(value, int) and -TOP <= value < 0:
        return head(1, -1 - value)
    if isinstance(value, int):
        n = value if value > 0 else -1 - value
        return cbor(Tag(2 if value > 0 else 3, n.to_bytes((n.bit_length() + 7) // 8, "big")))
    if isinstance(value, float):
        for info, code in ((0xF9, ">e"), (0xFA, ">f")):
            try:
                packed = struct.pack(code, value)
            except OverflowError:
                continue
            if struct.unpack(code, packed)[0] == value:
                return bytes([info]) + packed
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, Bits):
        return value.encoding
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    # Plain loops: some versions of Python allow less depth where a built-in function calls back.
    if isinstance(value, list):
        out = head(4, len(value))
        for v in value:
            out += cbor(v)
        return out
    if isinstance(value, Dict):
        pairs = []
        for k, v in value.pairs:
            pairs.append((cbor(k), cbor(v)))
        return head(5, len(pairs)) + b"".join(k + v for k, v in sorted(pairs))
    return head(6, value.number) + cbor(value.content)


TAG_NAMES = {28: "shareable", 29: "shared_ref", 43000: "complex"}
for _i, _name in enumerate("tensor tuple set frozenset dict other_dict bytearray wtf8 global object".split()):
    TAG_NAMES[0x444F4C01 + _i] = _name
NUMBER = {name: number for number, name in TAG_NAMES.items()}


def tagged(name, content):
    return Tag(NUMBER[name], content)


def to_json(value):
    """What README.md says a reader reports for the value."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if -2 ** 53 <= value <= 2 ** 53:
            return value
        return {"$int": str(value) if abs(value) < 2 ** 4096 else f"{value:#x}"}
    if isinstance(value, float):
        return value if abs(value) != float("inf") else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, Bits):
        return {"$float": f"{value.double:016x}"}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if isinstance(value, Dict):
        return {"$" + k if k[:1] == "$" else k: to_json(v) for k, v in value.pairs}
    return {"$" + TAG_NAMES[value.number]: to_json(value.content)}


# The manifest.

MANIFEST = []
NULL = object()          # a document that is null; None is no document


def save(kind, name, data):
    path = os.path.join(HERE, kind, name + ".dolmen")
    with open(path, "wb") as file:
        file.write(data)
    return f"{kind}/{name}.dolmen"


def gathered(tensor, data):
    """The tensor's elements in row-major order, one after the other."""
    if tensor.strides is None or 0 in tensor.shape:
        return data[tensor.start:tensor.start + -(-size_of(tensor.shape) * tensor.bits // 8)]
    width, out = tensor.bits // 8, []

    def walk(axis, at):
        if axis == len(tensor.shape):
            out.append(data[tensor.start + at * width:tensor.start + (at + 1) * width])
            return
        for i in range(tensor.shape[axis]):
            walk(axis + 1, at + i * tensor.strides[axis])

    walk(0, 0)
    return b"".join(out)


def entry_of(name, dtype, bits, shape, strides, storage, start, byte_len, crc, elements):
    """What a reader is to report of a tensor; `elements` are its bytes in row-major order, or None if they are too many."""
    entry = {"name": name.decode()} if len(name) <= 256 else {"name_sha256": hashlib.sha256(name).hexdigest()}
    entry.update({
        "dtype": dtype, "bits": bits, "shape": shape, "strides": strides, "storage": storage, "start": start,
        "byte_len": byte_len, "crc32": f"{crc:08x}",
        "sha256": "" if elements is None else hashlib.sha256(elements).hexdigest(),
    })
    return entry


def extent(shape, strides, bits):
    if size_of(shape) == 0:
        return 0
    if strides is None:
        return -(-size_of(shape) * bits // 8)
    return (1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides))) * (bits // 8)


def accept(name, about, tensors=(), metadata=None, document=None, **options):
    """`document` may be a pair of the value and its bytes, where the value is too deep for this encoder."""
    if document is NULL:
        document = (None, b"\xf6")
    value, written = document if isinstance(document, tuple) else (to_json(document), document)
    file = File(tensors, metadata=metadata, document=written, **options)
    raw = file.seal()
    storage = {tensor.name: tensor.data for tensor in tensors}
    number = {descriptor.name: descriptor.storage for descriptor in file.written}
    entries = []
    for t in sorted(tensors, key=lambda tensor: tensor.name):
        data = storage[t.name] if t.data is not None else storage[t.of.encode()]
        few = size_of(t.shape) <= 10 ** 6
        entries.append(entry_of(t.name, t.dtype, t.bits, t.shape, t.strides if t.strides is not None else row_major(t.shape),
                                number[t.name], t.start, extent(t.shape, t.strides, t.bits), zlib.crc32(data),
                                gathered(t, data) if few else None))
    assert entries == content(raw), f"{name}: what was written is not what was meant"
    found = features_of(file, tensors) | set(SHOWN.get(name, "").split())
    for item in (metadata, document[1] if isinstance(document, tuple) else document):
        if isinstance(item, bytes):
            found |= {"tag:shareable"} if b"\xd8\x1c" in item else set()
        else:
            features_of_value(item, found)
    MANIFEST.append({"file": save("accept", name, raw), "file_sha256": hashlib.sha256(raw).hexdigest(), "expect": "accept",
                     "about": about, "features": sorted(found),
                     "format_version": f"1.{file.header['minor']}", "tensors": entries})
    values = {"metadata": to_json(metadata), "has_document": written is not None, "document": value}
    if is_deep(values):
        # In a file of its own, so that any parser of JSON can read the manifest.
        MANIFEST[-1]["values_in"] = f"deep/{name}.json"
        with open(os.path.join(HERE, "deep", name + ".json"), "w", encoding="utf-8", newline="\n") as out:
            out.write(json.dumps(values) + "\n")
    else:
        MANIFEST[-1].update(values)


# What a file shows that cannot be told from its parts one by one; features_of finds the rest.
SHOWN = {
    "empty": "file:smallest",
    "dtypes-packed": "packed:odd-counts",
    "packed-spare-bits": "packed:spare-bits-set",
    "dtype-unknown-strided": "dtype:unknown-strided",
    "dtype-opaque": "dtype:opaque-strided dtype:opaque-packed",
    "bool-other-bytes": "bool:other-bytes",
    "zero-size": "shape:zero-size-strided",
    "zero-size-large-dims": "shape:greatest-product",
    "strided": "strides:transposed strides:overlapping strides:step",
    "strided-introduces": "strides:gaps-in-storage",
    "strided-dim-1": "strides:dim-1",
    "strided-huge-expanded": "strides:more-elements-than-bytes",
    "aliases": "alias:same-dtype alias:other-dtype",
    "views": "packed:view",
    "start-not-0": "storage:longer-than-tensor",
    "views-in-between": "records:order-not-of-names records:view-after-other-storage",
    "no-padding": "records:no-padding",
    "blocks": "blocks:exact blocks:last-shorter",
    "alignment-65536": "alignment_log2:16-with-data",
    "names": "name:empty name:control name:not-ascii name:not-normalised name:path",
    "names-order": "name:byte-order",
    "name-65535": "name:longest",
    "many": "tensors:many",
    "minor-65535": "minor:unknown",
    "metadata": "metadata:nested metadata:dollar-key",
    "metadata-alone": "metadata:without-tensors",
    "document-null": "document:null",
    "document-root-tensor": "document:tensor-at-top",
    "document-objects": "object:class-of-any-kind object:new-unlike-keys",
    "document-tensor-maps": "tensor:as-unknown",
    "document-shared-order": "value:shareable-order",
    "document-wtf8": "wtf8:pair wtf8:four-bytes",
    "document-bignums": "value:bignum-4096-bits",
    "many-elements": "strides:1000000-elements",
    "document-repeated": "dict:repeated-key set:repeated-element",
    "document-integers": "value:integers",
    "document-floats": "value:floats value:nan-payload value:infinity value:negative-zero",
    "document-text": "value:text value:bytes value:empty-array",
    "document-text-65536": "value:long-text",
    "document-shared": "value:shared value:cycle",
    "document-tensor-names": "tensor:empty-name",
    "document-depth-1024": "value:depth-1024",
    "document-depth-1024-tags": "value:depth-1024-tags",
    "metadata-depth-1024": "metadata:depth-1024",
}


def is_deep(value, left=64):
    if left == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(is_deep(item, left - 1) for item in inner)


def features_of(file, tensors):
    """The features that can be seen in the parts of a file."""
    found = {f"alignment_log2:{file.align}", f"block_log2:{file.block}"} & {
        "alignment_log2:6", "alignment_log2:21", "block_log2:12", "block_log2:30"}
    for t, descriptor in zip(tensors, file.written):
        known = t.code in CODE.values()
        found.add(f"dtype:{t.dtype}" if known else "dtype:unknown-private" if t.code >= 0x8000 else "dtype:unknown-reserved")
        if not known and t.bits % 8:
            found.add("dtype:unknown-packed")
        found |= {f"flag:{name}" for bit, name in enumerate(("STRIDED", "VIEW")) if descriptor.flags >> bit & 1}
        found |= {f"rank:{len(t.shape)}"} & {"rank:0", "rank:1", "rank:255"}
        if 0 in t.shape:
            found.add("shape:zero-size")
        if t.strides is not None and 0 in t.strides:
            found.add("strides:zero")
        if t.start:
            found.add("start:not-0")
        if t.data == b"":
            found.add("storage:empty")
        if t.data is not None and len(t.data) > 1 << file.block:
            found.add("blocks:several")
    names = {1: "names", 2: "dims", 3: "tensors", 4: "storages", 5: "blocks", 6: "metadata", 7: "document"}
    for kind, _, _ in file.sections():
        unknown = "section:unknown-private" if kind >= 1 << 31 else "section:unknown-reserved"
        found.add(f"section:{names[kind]}" if kind in names else unknown)
    return found


def features_of_value(value, found):
    if isinstance(value, int) and not isinstance(value, bool) and not -TOP <= value < TOP:
        found.add("tag:bignum" if value > 0 else "tag:negative_bignum")
    elif isinstance(value, list):
        for item in value:
            features_of_value(item, found)
    elif isinstance(value, Dict):
        for _, item in value.pairs:
            features_of_value(item, found)
    elif isinstance(value, Tag):
        name, content = TAG_NAMES[value.number], value.content
        found.add(f"tag:{name}")
        if name == "other_dict":
            found |= {f"other_dict:{content[0]}"} | {f"other_dict:{key}" for key, item in
                                                     zip(("factory", "attributes"), content[2:]) if item is not None}
        elif name == "object":
            found |= {f"object:{key}" for key, _ in content.pairs}
            new = dict(content.pairs).get("new", "absent")
            found.add(f"new:{new if new in ('absent', 'newobj', 'newobj_ex', 'extension') else 'other'}")
        elif name == "tensor" and isinstance(content, list):
            found |= {"tensor:map"} | {"tensor:as" for key, _ in content[1].pairs if key == "as"}
        features_of_value(content, found)


def content(raw):
    """What the index of a file says of its tensors, right or wrong, read as plainly as can be."""
    _, _, index_offset = struct.unpack_from("<QQQ", raw, 8)
    count, = struct.unpack_from("<I", raw, index_offset)
    at, places = index_offset + 8 + 16 * count, {}
    for i in range(count):
        kind, _, length = struct.unpack_from("<IIQ", raw, index_offset + 8 + 16 * i)
        places[kind] = at, length
        at += up(length, 8)
    dims = [n for n, in struct.iter_unpack("<Q", raw[places[2][0]:sum(places[2])])]
    entries = []
    for record in range(places[3][0], sum(places[3]), 40):
        name_at, first, start, name_len, number, code, rank, flags, bits = struct.unpack_from("<QQQIIHBBI", raw, record)
        data_at, data_len, _, crc, _ = struct.unpack_from("<QQQII", raw, places[4][0] + 32 * number)
        name = raw[places[1][0] + name_at:places[1][0] + name_at + name_len]
        shape, strides = dims[first:first + rank], dims[first + rank:first + 2 * rank] if flags & 1 else None
        dtype = {code: name for name, code in CODE.items()}.get(code, f"unknown(0x{code:04X})")
        tensor = T(name, code, shape, b"", strides=strides, start=start, bits=bits)
        few = size_of(shape) <= 10 ** 6
        entries.append(entry_of(name, dtype, bits, shape, strides if flags & 1 else row_major(shape), number, start,
                                extent(shape, strides, bits), crc,
                                gathered(tensor, raw[data_at:data_at + data_len]) if few else None))
    return entries


# The rules of steps 1 to 7, as they come: of those of one line, any may be reported first.
STEPS = [line.split() for line in """
HDR-2
HDR-1
HDR-3
HDR-4
HDR-5
HDR-6
HDR-7
HDR-8 HDR-9 HDR-10 HDR-11
HDR-12
IDX-1
IDX-2 IDX-3 IDX-4 IDX-5 IDX-6 IDX-7 IDX-8""".split("\n") if line]
# Rules that speak of more than steps 1 to 9 look at.
STRICT = {"STO-2", "STO-4", "TEN-4"} | {f"REC-{n}" for n in range(1, 9)} | {f"VAL-{n}" for n in range(1, 7)}


def reject(name, breaks, about, raw, unread=False, kind="reject", **values):
    """`breaks` are all rules that the file breaks, the intended one first; `unread` if a reader of all tensors need not see it.
    `values` are the metadata and the document of a file that a reader may accept, where there are some."""
    breaks, raw = breaks.split(), bytes(raw)
    early = [[rule for rule in step if rule in breaks] for step in STEPS]
    rules = next((step for step in early if step), breaks)
    classes = [FAILURE_CLASS.get(rule, "Malformed") for rule in rules]
    entry = {"file": save(kind, name, raw), "file_sha256": hashlib.sha256(raw).hexdigest(), "expect": kind, "about": about}
    free = rules is breaks and (unread or set(breaks) <= STRICT)
    if kind == "either":
        entry["strict"] = "reject"
        entry["reader"] = "either" if free else "reject"
    elif free:
        entry["reader"] = "either"
    entry.update({"rules": rules, "class": classes[0]})
    if len(set(classes)) > 1:
        entry["classes"] = sorted(set(classes))
    if rules != breaks:
        entry["breaks"] = breaks
    if free:
        entry["if_accepted"] = {"tensors": content(raw)}
        for section in ("metadata", "document"):
            if not any(rule.startswith("VAL") for rule in breaks) or section in values:
                entry["if_accepted"][section] = to_json(values.get(section))
                if section == "document":
                    entry["if_accepted"]["has_document"] = values.get(section) is not None
    MANIFEST.append(entry)


def either(name, breaks, about, raw, **options):
    reject(name, breaks, about, raw, kind="either", **options)


# What a valid file may hold.

def accept_vectors():
    four = struct.pack("<4f", 1.0, -2.5, 3.25, 1e30)
    accept("empty", "No tensors, no metadata, no document: the smallest file, 216 bytes.")
    accept("one-f32", "One f32 tensor of shape [2, 2].", [T("weight", "f32", [2, 2], four)])
    accept("one-f32-default", "The same with the default alignment of 256 and blocks of 1 MiB.",
           [T("weight", "f32", [2, 2], four)], align=8, block=20)
    accept("dtypes", "Each dtype of section 7 with a fixed number of bits, three elements each.",
           [T(name, name, [3], b"\0\1\1" if name == "bool" else None) for _, name, _ in DTYPES])
    accept("dtypes-packed", "Each packed dtype with 1, 2, 5, 8 and 13 elements and as a matrix of 3 by 5.",
           [T(f"{name}/{'x'.join(map(str, shape))}", name, shape) for _, name, bits in DTYPES if bits % 8
            for shape in ([1], [2], [5], [8], [13], [3, 5])])
    accept("packed-spare-bits", "Packed tensors whose last byte has other bits than 0 beyond the last element: no writer writes "
           "them, no rule forbids them.",
           [T("u4", "u4", [3], b"\x21\xf3"), T("u1", "u1", [3, 3], b"\xaa\xff"), T("i2", "i2", [1], b"\xfe")])
    accept("dtype-unknown", "Dtype codes that this version does not list: packed and odd widths, reserved and private.",
           [T("reserved-5-bits", 0x0064, [7], bits=5), T("reserved-13-bits", 0x1234, [3, 3], bits=13),
            T("reserved-24-bits", 0x7FFF, [2, 2], bits=24), T("private-first", 0x8000, [5], bits=8),
            T("private-last", 0xFFFF, [3], bits=48), T("private-1000-bits", 0x8001, [2], bits=1000)])
    accept("dtype-unknown-strided", "A transposed tensor of an unknown dtype of 24 bits.",
           [T("t", 0xABCD, [2, 3], pattern(18), strides=[1, 2], bits=24)])
    accept("dtype-opaque", "Opaque elements of 80 bits, contiguous, strided, and from element 1; and of 1 bit.",
           [T("a", "opaque", [2, 3], pattern(60), bits=80), T("b", "opaque", [3, 2], of="a", strides=[1, 3], bits=80),
            T("c", "opaque", [5], of="a", start=10, bits=80), T("d", "opaque", [3], b"\5", bits=1)])
    accept("bool-other-bytes", "Bool bytes that are neither 0 nor 1: no writer writes them, no rule forbids them.",
           [T("b", "bool", [4], b"\0\1\2\xff")])
    accept("scalar", "Rank 0: one element, no dims.", [T("f64", "f64", [], struct.pack("<d", 3.5)),
                                                       T("u4", "u4", [], b"\7")])
    accept("zero-size", "Shapes without elements, over storages without bytes and over others.",
           [T("a", "f32", [0]), T("b", "f32", [3, 0, 2]), T("c", "u4", [0, 5]), T("d", "f64", [2], pattern(16)),
            T("e", "f64", [0], of="d", start=16), T("f", "f64", [3, 0, 2], of="d", start=8, strides=[9, 9, 9]),
            T("g", "f32", [3, 0, 2], of="a", strides=[TOP - 1, TOP - 1, TOP - 1])])
    accept("zero-size-large-dims", "No elements, but the product of the other dims times bits is 2^64 - 8, the greatest.",
           [T("a", "u8", [0, 2 ** 61 - 1]), T("b", "u8", [2 ** 61 - 1, 0])])
    accept("rank-255", "Rank 255, all dims 1; once with strides.",
           [T("r", "u8", [1] * 255, b"\x2a"), T("s", "u8", [1] * 255, of="r", strides=[1] * 254 + [7])])
    accept("strided", "Transposed, expanded, a column, a window that overlaps itself, a step of 2, all over one storage.",
           [T("base", "i16", [3, 4], pattern(24)), T("column", "i16", [3], of="base", start=4, strides=[4]),
            T("diagonal", "i16", [3], of="base", strides=[5]), T("expanded", "i16", [5, 4], of="base", strides=[0, 1]),
            T("step", "i16", [3, 2], of="base", strides=[4, 2]),
            T("transposed", "i16", [4, 3], of="base", strides=[1, 4]),
            T("window", "i16", [10, 3], of="base", strides=[1, 1])])
    accept("strided-introduces",
           "A record that introduces its storage and is strided, so a gap in the data is in no tensor.",
           [T("t", "u8", [2, 2], pattern(11), strides=[5, 3], start=1)])
    accept("strided-dim-1", "A dim of 1 with a stride that is not the contiguous one is another layout, not an error.",
           [T("t", "u8", [1, 3], pattern(3), strides=[9, 1]), T("u", "u8", [1], of="t", strides=[0])])
    accept("strided-huge-expanded", "One byte seen as 2^60 elements.",
           [T("t", "u8", [2 ** 30, 2 ** 30], b"\x55", strides=[0, 0])])
    accept("aliases", "Two names for the same bytes, and a third of another dtype.",
           [T("head.weight", "f32", [2, 2], four), T("tied.weight", "f32", [2, 2], of="head.weight"),
            T("bits", "u32", [4], of="head.weight")])
    accept("views", "Views that begin within their storage, one of them packed.",
           [T("a", "u16", [8], pattern(16)), T("first", "u16", [3], of="a"), T("last", "u16", [3], of="a", start=10),
            T("middle", "u8", [5], of="a", start=3), T("nibbles", "u4", [3], b"\x21\x03\x54\x06", start=2)])
    accept("start-not-0", "The tensor that introduces a storage begins at byte 8 of it, and ends before its end.",
           [T("t", "f32", [2], pattern(24), start=8)])
    accept("views-in-between", "Records of views after, and between, records that introduce storages; the order of the "
           "records is not that of the names.",
           [T("z", "u8", [3], b"abc"), T("y", "u8", [2], of="z", start=1), T("x", "u8", [3], b"def"),
            T("a", "u8", [1], of="z"), T("b", "u8", [1], of="x", start=2), T("m", "u8", [65], pattern(65))])
    accept("no-padding", "Descriptors of exactly 128 bytes and data of exactly 64: no padding anywhere, and the last descriptor ends "
           "where the index begins.",
           [T("a" * 52, "u8", [64], pattern(64)), T("b" * 52, "u8", [2], of="a" * 52, start=1)])
    accept("empty-storage", "Storages without bytes: no blocks, CRC 0; the first, one in the middle, and the last.",
           [T("a", "f32", [0]), T("b", "f32", [4], four), T("c", "f32", [0, 3]), T("d", "u8", [1], b"\1"),
            T("e", "i8", [0])])
    accept("blocks",
           "Storages of 10000 bytes, exactly one block, exactly two, one byte more than one, with blocks of 4096.",
           [T("a", "u8", [10000], pattern(10000, 3)), T("b", "u8", [4096], pattern(4096, 4)),
            T("c", "u8", [8192], bytes(8192)), T("d", "u8", [4097], b"\xff" * 4097)])
    accept("block-30", "block_log2 30, the greatest.", [T("a", "u8", [100], pattern(100))], block=30)
    accept("alignment-4096", "Data aligned to 4096 bytes.", [T("a", "u8", [5], b"hello"), T("b", "u8", [6], b"world!")],
           align=12)
    accept("alignment-65536", "Data aligned to 65536 bytes, and blocks of 8192.",
           [T("a", "u8", [8193], pattern(8193))], align=16, block=13)
    accept("alignment-21", "alignment_log2 21, the greatest, in a file without storages.", align=21)
    accept("names",
           "Names: empty, with a newline, a NUL, a quote, a slash, an escape, dots, unicode outside the basic plane.",
           [T(name, "u8", [1], bytes([i])) for i, name in enumerate(
               ["", "a\nb", "nul\0", "\"'\\", "../etc/passwd", "\x1b[31m", ".", "ä", "日本語", "\U0001F600", "e\u0301", " "])])
    accept("names-order",
           "Names are ordered by bytes: U+FFFD before U+10000, 'a' before 'a/b' before 'aa', upper case first.",
           [T(name, "u8", [1], bytes([i])) for i, name in enumerate(
               ["\U00010000", "\uFFFD", "aa", "a/b", "a", "B", "\x7f", "\x80", "é", "z"])])
    accept("name-65535", "A name of 65535 bytes.", [T("n" * 65535, "u8", [1], b"\1")])
    accept("many", "100 tensors over two storages, for a search by name.",
           [T("t/0", "u8", [50], pattern(50)), T("t/50", "i16", [50], pattern(100))] +
           [T(f"t/{i}", "u8" if i < 50 else "i16", [1], of="t/0" if i < 50 else "t/50", start=i if i < 50 else 2 * (i - 50))
            for i in range(100) if i not in (0, 50)])
    accept("minor-65535", "A minor version that no reader knows.", [T("a", "u8", [1], b"\1")], minor=65535)
    accept("section-unknown", "Ancillary sections that this version does not know: reserved kinds 0, 8 and 0x7FFFFFFF, "
           "private kinds 0x80000000 and 0xFFFFFFFF, one of them empty.", [T("a", "u8", [1], b"\1")],
           metadata=Dict(("k", 1)),
           more=[(0, 1, b"zero"), (8, 1, b""), (0x7FFFFFFF, 1, b"123456789"), (0x80000000, 1, b"private"),
                 (0xFFFFFFFF, 1, b"\xff")])
    accept("metadata", "Metadata: text keys in the order of their encodings, and each kind of value that it may hold.",
           metadata=Dict(("format", "pt"), ("b", 1), ("aa", 2), ("", None), ("$tuple", [1]), ("ä", True), ("n", -1),
                         ("nested", Dict(("x", [Dict(), Dict(("y", 1.5))]))), ("bytes", b"\0\xff"),
                         ("big", 2 ** 64), ("c", tagged("complex", [1.0, -0.0])), ("t", tagged("tuple", [1, 2])),
                         ("s", tagged("set", [1])), ("f", tagged("frozenset", [])),
                         ("d", tagged("dict", [1, 2, "k", Dict(("z", 0))])),
                         ("o", tagged("other_dict", ["ordered", [1, 2], None, None])),
                         ("ba", tagged("bytearray", b"x")), ("w", tagged("wtf8", b"\xed\xa0\x80"))))
    accept("metadata-alone", "Metadata in a file without tensors.", metadata=Dict(("k", "v")))
    t = T("t", "f32", [2, 2], four)
    ref = tagged("tensor", "t")
    accept("document-null", "A document that is null: a section of one byte, unlike no document.", [t], document=NULL)
    accept("document-state-dict", "A document as a training loop would save it.", [t], document=tagged("dict", [
        "model", tagged("other_dict", ["ordered", ["t", ref], None, None]), "step", 1000, "lr", 0.001,
        "betas", tagged("tuple", [0.9, 0.999]), "done", False, "note", None]))
    accept("document-tags", "Each tag of section 9.", [t], document=[
        2 ** 64, -2 ** 64 - 1, 2 ** 600, -2 ** 600, tagged("shareable", [1, tagged("shared_ref", 0)]),
        tagged("shared_ref", 0), tagged("complex", [0.5, float("-inf")]), ref,
        tagged("tensor", ["t", Dict(("as", "list"), ("other", tagged("tuple", [])))]),
        tagged("tuple", []), tagged("tuple", [1, [2]]), tagged("set", [3, 1, 2]), tagged("frozenset", ["x"]),
        tagged("dict", []), tagged("dict", [tagged("tuple", [1, 2]), "v", 1.0, None, 1, "again"]),
        tagged("other_dict", ["ordered", [], None, None]),
        tagged("other_dict", ["default", ["k", 1], tagged("global", ["builtins", "int"]), None]),
        tagged("other_dict", ["counter", ["a", 3], None, tagged("dict", ["note", 1])]),
        tagged("bytearray", b""), tagged("bytearray", b"\1\2"), tagged("wtf8", b"a\xed\xb2\x80"),
        tagged("global", ["collections", "OrderedDict"]),
        tagged("object", Dict(("class", tagged("global", ["m", "C"])))),
        tagged("object",
               Dict(("class", tagged("global", ["m", "D"])), ("args", [1, ref]), ("kwargs", tagged("dict", ["k", 2])),
                              ("state", tagged("dict", ["x", ref])), ("items", [1, 2]), ("entries", [1, 2, 3, 4]),
                              ("new", "reduce"))),
        tagged("object", Dict(("class", tagged("global", ["m", "E"])), ("args", tagged("tuple", [])))),
        tagged("object", Dict(("class", tagged("object", Dict(("class", tagged("global", ["m", "make"]))))), ("new", "newobj"))),
        tagged("object", Dict(("class", None), ("args", tagged("tuple", [7])), ("new", "extension")))])
    accept("document-root-tensor", "A document that is a reference to a tensor, which another tensor views.",
           [t, T("v", "f32", [2], of="t", start=4)], document=ref)
    accept("document-repeated", "A dict with the same key twice, also as an ordered one and in an object; a set with the same "
           "element twice; 1, 1.0 and true, which some languages take for one key.", [t], document=[
        tagged("dict", ["k", 1, "k", 2]), tagged("other_dict", ["ordered", [1, "a", 1.0, "b", True, "c", 1, "d"], None, None]),
        tagged("object", Dict(("class", None), ("kwargs", tagged("dict", ["x", 1, "x", 2])), ("entries", ["y", 1, "y", 2]),
                              ("new", "newobj_ex"))),
        tagged("set", [1, 1, 1.0, True]), tagged("frozenset", [None, None])])
    accept("document-other-dicts", "Each kind of other_dict, with and without attributes; a factory that is null, and one that is "
           "an object.", [t], document=[
        tagged("other_dict", [kind, entries, factory, attributes])
        for kind, factories in (("ordered", [None]), ("default", [None, tagged("global", ["builtins", "list"]), tagged(
            "object", Dict(("class", tagged("global", ["functools", "partial"])), ("args", [1]))), 7]), ("counter", [None]))
        for factory in factories for entries, attributes in (([], None), ([ref, 1], tagged("dict", ["a", [1]])), ([1, 2], "x"))])
    accept("document-objects", "Objects whose class is null, a number, a text or a reference; whose `new` does not fit the other "
           "keys; with keys but no `new`: none of that is a rule.", [t], document=[
        tagged("shareable", tagged("global", ["m", "C"])),
        tagged("object", Dict(("class", None))), tagged("object", Dict(("class", 5))), tagged("object", Dict(("class", "C"))),
        tagged("object", Dict(("class", tagged("shared_ref", 0)), ("args", []))),
        tagged("object", Dict(("class", tagged("shared_ref", 0)), ("new", "extension"))),
        tagged("object", Dict(("class", None), ("new", "newobj"))),
        tagged("object", Dict(("class", None), ("kwargs", tagged("dict", [])), ("new", ""))),
        tagged("object", Dict(("class", None), ("kwargs", tagged("dict", [1, 2])), ("items", []), ("entries", []))),
        tagged("shareable", tagged("object", Dict(("class", None), ("state", tagged("shared_ref", 1)))))])
    accept("document-tensor-maps", "References with maps: `as` that is unknown or no text, other keys, keys with a dollar.", [t],
           document=[tagged("tensor", ["t", Dict(("as", how))]) for how in ("list", "array", 1, None, [ref])] + [
               tagged("tensor", ["t", Dict(("$as", "x"), ("", tagged("dict", [ref, ref])))])])
    accept("document-shared-order", "Shareables are numbered as they begin in the encoding: within the map of a tensor, and in an "
           "object in the order of its keys' encodings (new, args, class, items, state, kwargs, entries).", [t], document=[
        tagged("tensor", ["t", Dict(("bb", tagged("shareable", "1")), ("a", tagged("shareable", "0")))]),
        tagged("object", Dict(("state", tagged("shareable", "5")), ("class", tagged("shareable", "3")),
                              ("args", [tagged("shareable", "2")]), ("entries", [tagged("shareable", "7"), 0]),
                              ("items", [tagged("shareable", "4")]), ("kwargs", tagged("dict", ["k", tagged("shareable", "6")])))),
        [tagged("shared_ref", n) for n in (0, 1, 2, 3, 4, 5, 6, 7)]])
    accept("document-wtf8", "Surrogates: alone, in the wrong order, a pair in three bytes each, beside a character of four bytes, after "
           "a byte order mark.", document=[tagged("wtf8", bytes.fromhex(text)) for text in (
               "eda080", "edbfbf", "edb080eda080", "eda0bdedb880", "f09f9880eda080", "efbbbfedafbf61")])
    accept("document-bignums", "Bignums of 4096 bits and one more, of both signs: from there on they are reported in hexadecimal.",
           document=[2 ** 4096 - 1, 2 ** 4096, 1 - 2 ** 4096, -2 ** 4096, 2 ** 4099 + 15])
    accept("many-elements", "1,000,000 elements, which have a hash, and 1,001,000, which have none.",
           [T("a", "u8", [1000, 1000], b"\x2a", strides=[0, 0]), T("b", "u8", [1001, 1000], of="a", strides=[0, 0])])
    accept("document-text-65536", "A text of 65536 bytes, whose length takes four bytes, and one of 65535.", document=[
        "\u00e4" * 32768, "z" * 65535])
    accept("document-and-metadata", "Tensors, a view that is strided, metadata, a document and sections of others in one file.",
           [T("w", "bf16", [3, 5], pattern(30)), T("w.t", "bf16", [5, 3], of="w", strides=[1, 5]), T("q", "u4", [3, 3])],
           metadata=Dict(("format", "x"), ("shape", [3, 5])), document=tagged("dict", [
               "w", tagged("tensor", "w"), "t", tagged("tensor", ["w.t", Dict(("how", [1, "a"]), ("as", "unknown"))]), 3, None]),
           more=[(9, 1, b"reserved"), (0x80000001, 1, bytes(9))])
    accept("document-integers", "Integers at each boundary between encodings, and around 2^64.", document=[
        0, 23, 24, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, 2 ** 53, 2 ** 53 + 1, 2 ** 63, 2 ** 64 - 1, 2 ** 64,
        -1, -24, -25, -256, -257, -65536, -65537, -2 ** 32, -2 ** 32 - 1, -2 ** 53, -2 ** 53 - 1, -2 ** 63, -2 ** 64,
        -2 ** 64 - 1])
    accept("document-floats", "Floats in half, single and double, and NaNs with payloads in each.", document=[
        0.0, -0.0, 1.0, 1.5, 65504.0, 65505.0, 65520.0, 5.960464477539063e-08, -6.097555160522461e-05,
        6.103515625e-05, 2.9802322387695312e-08, 0.1, 1e300, 5e-324, 3.4028234663852886e38, 1.401298464324817e-45,
        1.1754943508222875e-38, 65536.0, 2.0 ** 128, 2.0 ** -25, 2.0 ** -150, float("inf"), float("-inf"), Bits("F97E00", 0x7FF8000000000000),
        Bits("F9FE00", 0xFFF8000000000000), Bits("F97C01", 0x7FF0040000000000), Bits("FA7F800001", 0x7FF0000020000000),
        Bits("FAFFC00001", 0xFFF8000020000000), Bits("FB7FF8000000000001", 0x7FF8000000000001),
        Bits("FB7FF0000000000001", 0x7FF0000000000001), Bits("FBFFF0000010000000", 0xFFF0000010000000)])
    accept("document-text", "Text and byte strings at each boundary between lengths, empty, and with a NUL.", document=[
        "", "x" * 23, "x" * 24, "y" * 255, "y" * 256, b"", bytes(23), bytes(24), "\0", "ä\U0001F600", "\ufeff",
        [0] * 23, [0] * 24, [], [[]]])
    accept("document-shared", "Shared lists, a list that holds itself, and two that hold each other.",
           document=tagged("dict", [
        "a", tagged("shareable", [1]), "b", tagged("shared_ref", 0), "self", tagged("shareable", [tagged("shared_ref", 1)]),
        "pair", tagged("shareable", [tagged("shareable", [tagged("shared_ref", 2)]), tagged("shared_ref", 3)]),
        "text", tagged("shareable", "s"), "again", [tagged("shared_ref", 4), tagged("shared_ref", 0)]]))
    accept("document-tensor-names", "References to the tensor of the empty name and to one outside ASCII.",
           [T("", "u8", [1], b"\1"), T("ä\n", "u8", [1], b"\2")],
           document=[tagged("tensor", ""), tagged("tensor", "ä\n")])
    deep = 7
    for _ in range(1024):
        deep = [deep]
    accept("document-depth-1024", "Arrays 1024 deep; the innermost holds an integer, which is no level.",
           document=(deep, b"\x81" * 1024 + b"\x07"))
    deep = {"$shareable": []}
    for _ in range(511):
        deep = {"$shareable": [deep]}
    accept("document-depth-1024-tags", "Tags and arrays 1024 deep: shareable arrays of one shareable array.",
           document=(deep, b"\xd8\x1c\x81" * 511 + b"\xd8\x1c\x80"))
    deep = Dict()
    for _ in range(1023):
        deep = Dict(("", deep))
    accept("metadata-depth-1024", "Maps 1024 deep in metadata, the innermost empty.", metadata=deep)


# What a valid file must not hold. Where the thing changed breaks more than one rule, all of them are given, the intended
# one first.

FOUR = struct.pack("<4f", 1.0, -2.5, 3.25, 1e30)


def one(**options):
    return File([T("a", "f32", [2, 2], FOUR)], **options)


def two(**options):
    return File([T("a", "f32", [2, 2], FOUR), T("b", "u8", [5], b"hello")], **options)


def with_view():
    return File([T("a", "u16", [4], pattern(8)), T("b", "u16", [2], of="a", start=4)])


def changed(file, **fields):
    """Set fields in the tensor record and the descriptor of tensor 0, so that both agree."""
    descriptor = next(d for d in file.written if d.name == file.tensors[0]["name"])
    for field, value in fields.items():
        file.tensors[0][field] = value
        setattr(descriptor, field, value)
    return file


def shaped(code, dims, bits, data, strides=None, start=0):
    return File([T("a", code, dims, data, strides=strides, start=start, bits=bits)]).seal()


def header_vectors():
    good = one().seal()
    reject("hdr-1-7-bytes", "HDR-1", "The first 7 bytes of the magic and no more.", MAGIC[:7])
    reject("hdr-1-magic-alone", "HDR-1", "The magic and no more.", MAGIC)
    reject("hdr-1-header-alone", "HDR-1", "A header without the rest.", good[:64])
    reject("hdr-1-127-bytes", "HDR-1", "A file of 127 bytes.", good[:127])
    reject("hdr-2-empty", "HDR-2", "A file without bytes.", b"")
    reject("hdr-2-3-bytes", "HDR-2", "Three bytes that are no beginning of the magic.", b"\x89DX")
    reject("hdr-2-zip", "HDR-2", "A ZIP archive's first bytes, then zeros.", b"PK\3\4" + bytes(252))
    reject("hdr-2-7-bit", "HDR-2", "The magic with its highest bit lost; sealed again.", one().seal(magic=b"\x09DOLMEN\n"))
    reject("hdr-2-line-end", "HDR-2", "The line feed of the magic became CR LF.", good.replace(b"DOLMEN\n", b"DOLMEN\r\n"))
    reject("hdr-2-short-crlf", "HDR-2", "Eight bytes that differ from the magic in the last.", b"\x89DOLMEN\r")
    reject("hdr-3-bit", "HDR-3", "A bit of header_crc32 flipped, in the trailer too.",
           good[:60] + bytes([good[60] ^ 1]) + good[61:-4] + bytes([good[60] ^ 1]) + good[61:64])
    flipped = good[:10] + b"\4" + good[11:64]
    reject("hdr-3-minor", "HDR-3", "A bit of minor flipped, in the trailer too, the CRC as it was.",
           flipped + good[64:-64] + flipped)
    reject("hdr-4-major-0", "HDR-4", "Major version 0.", one().seal(major=0))
    reject("hdr-4-major-2", "HDR-4", "Major version 2.", one().seal(major=2))
    reject("hdr-5-bit-0", "HDR-5", "required_features has bit 0.", one().seal(features=1))
    reject("hdr-5-bit-31", "HDR-5", "required_features has bit 31.", one().seal(features=1 << 31))
    reject("hdr-6-provisional", "HDR-6", "A provisional header: the writer never came to the end. (file_len 0 is not the "
           "length either, but section 11 names HDR-6.)",
           one().seal(file_len=0, index_offset=0, index_len=0, index_crc=0)[:64] + good[64:-64])
    reject("hdr-6-file-len-0", "HDR-6", "Only file_len is 0.", one().seal(file_len=0))
    f = one()
    f.written[0].flags, f.written[0].dims = 4, [0, 2]
    f.written[0].data_len = f.written[0].data_crc32 = 0
    reject("hdr-6-unfinished", "HDR-6", "A file that was never committed: a provisional header, a descriptor that is not finished, "
           "some data, and no index.",
           f.seal(file_len=0, index_offset=0, index_len=0, index_crc=0)[:64] + bytes(f.body()))
    reject("hdr-7-longer", "HDR-7", "64 bytes too many at the end: the trailer once more, so it still equals the header.",
           good + good[:64])
    reject("hdr-7-byte-more", "HDR-7 HDR-12", "One zero byte too many at the end.", good + b"\0")
    reject("hdr-7-byte-less", "HDR-7 HDR-12", "The last byte is missing.", good[:-1])
    reject("hdr-7-no-trailer", "HDR-7 HDR-12", "The trailer is missing.", good[:-64])
    reject("hdr-7-half", "HDR-7 HDR-12", "The second half is missing.", good[:len(good) // 2])
    reject("hdr-7-huge", "HDR-7 HDR-11", "file_len is 2^64 - 1.", one().seal(file_len=TOP - 1))
    reject("hdr-8-first", "HDR-8", "The first reserved byte is 1.", one().seal(reserved=b"\1" + bytes(13)))
    reject("hdr-8-last", "HDR-8", "The last reserved byte is 128.", one().seal(reserved=bytes(13) + b"\x80"))
    for value in (0, 5, 22, 255):
        reject(f"hdr-9-{value}", "HDR-9", f"alignment_log2 is {value}.", File([]).seal(align=value))
    for value in (0, 11, 31, 64):
        reject(f"hdr-10-{value}", "HDR-10", f"block_log2 is {value}.", File([]).seal(block=value))
    size = len(File([]).seal())
    reject("hdr-11-index-offset-0", "HDR-11", "index_offset is 0; the sum is right.",
           File([]).seal(index_offset=0, index_len=size - 64))
    reject("hdr-11-unaligned-offset", "HDR-11", "index_offset is 72, with 8 zero bytes before the index.",
           File([]).seal(body=bytes(8)))
    reject("hdr-11-unaligned-len", "HDR-11", "index_len is no multiple of 8: four zero bytes after the last section.",
           File([]).seal(index=File.index(File([]).sections()) + bytes(4)))
    reject("hdr-11-overflow", "HDR-11", "index_offset + index_len + 64 is file_len only modulo 2^64.",
           File([]).seal(index_offset=TOP - 64, index_len=size))
    reject("hdr-11-overflow-len", "HDR-11", "index_len is 2^64 - 8; the sum does not fit.",
           File([]).seal(index_len=TOP - 8))
    reject("hdr-11-short", "HDR-11", "8 bytes between the index and the trailer.",
           File([]).seal(index_len=size - 136, file_len=size))
    reject("hdr-11-past-end", "HDR-11", "The index reaches into the trailer.", File([]).seal(index_len=size - 120))
    reject("hdr-12-byte", "HDR-12", "A bit of the trailer flipped.", good[:-20] + bytes([good[-20] ^ 8]) + good[-19:])
    reject("hdr-12-last-byte", "HDR-12", "A bit of the last byte of the file flipped.", good[:-1] + bytes([good[-1] ^ 0x80]))
    reject("hdr-12-first-byte", "HDR-12", "A bit of the trailer's first byte flipped.",
           good[:-64] + bytes([good[-64] ^ 0x80]) + good[-63:])
    reject("hdr-12-zeros", "HDR-12", "A trailer of zeros.", good[:-64] + bytes(64))
    other = one(minor=1).seal()
    reject("hdr-12-other-header", "HDR-12", "The trailer is a good header, but not this file's.", good[:-64] + other[:64])


def record_vectors():
    def patched(file, change):
        body = file.body()
        change(body)
        return file.seal(body=body)

    f = two()
    f.written[1].magic = b"DOLMRED\n"
    reject("rec-1-magic", "REC-1", "The magic of the second descriptor is wrong; its CRC is right.", f.seal())
    f = two()
    f.written[0].magic = MAGIC
    reject("rec-1-magic-of-file", "REC-1", "The first descriptor begins with the magic of the file.", f.seal())
    f = two()
    shift_record(f, 1, 64)
    reject("rec-1-gap", "REC-1", "64 zero bytes more than needed between two records.", f.seal())
    reject("rec-1-gap-before-index", "REC-1", "64 zero bytes more than needed between the last record and the index.",
           one().seal(body=one().body() + bytes(64)))
    reject("rec-1-gap-empty", "REC-1", "64 zero bytes before the index of a file without tensors.",
           File([]).seal(body=bytes(64)))
    f = one()
    f.storages[0]["offset"] = f.written[0].data_offset = f.storages[0]["offset"] + 64
    f.index_offset += 64
    reject("rec-1-data-later", "REC-1", "The data begins one alignment later than section 3 says, and "
           "everything else agrees with that.", f.seal())
    f = File([T("a", "u8", [0], b"")])
    f.storages[0]["offset"] = f.written[0].data_offset = f.index_offset + 64
    f.index_offset += 64
    reject("rec-1-empty-later", "REC-1", "A storage without bytes begins one alignment later than section 3 says.", f.seal())
    f = File([T("a", "u8", [0], b"")])
    f.storages[0]["offset"] = f.written[0].data_offset = 64
    f.data = []
    reject("rec-1-data-at-64", "REC-1", "A storage without bytes at offset 64, where its own descriptor lies.", f.seal())
    f = two()
    f.written[0].extra_pad = 8
    reject("rec-2-longer", "REC-2", "A descriptor with 8 bytes of padding too many.", f.place().seal())
    f = one()
    f.written[0].descriptor_len = f.written[0].length() - 8
    reject("rec-2-shorter", "REC-2", "descriptor_len is 8 less than the fields make it.", f.seal())
    f = one()
    f.written[0].descriptor_len = 2 ** 32 - 8
    reject("rec-2-huge", "REC-2", "descriptor_len is 2^32 - 8.", f.seal())
    f = one()
    f.written[0].name_len = 2 ** 32 - 1
    reject("rec-2-name-len", "REC-2", "name_len is 2^32 - 1, descriptor_len as before.", f.seal())
    f = one()
    f.written[0].name_len, f.written[0].descriptor_len = 1 + 4096, f.written[0].length() + 4096
    reject("rec-2-past-index", "REC-2", "name_len and descriptor_len agree, but the descriptor ends after the file.",
           f.seal())
    f = one()
    f.written[0].rank = 255
    reject("rec-2-rank", "REC-2", "rank is 255, descriptor_len as before.", f.seal())
    f = one()
    f.written[0].crc_xor = 0x80000000
    reject("rec-3-crc", "REC-3", "A bit of a descriptor's CRC flipped.", f.seal())
    f = one()
    at = f.positions[0] + 64 + 16 - 64
    reject("rec-3-name", "REC-3", "A bit of the name in a descriptor flipped, its CRC as it was.",
           patched(f, lambda body: body.__setitem__(at, body[at] ^ 1)))
    f = one()
    f.written[0].reserved = bytes(7) + b"\1"
    reject("rec-4-reserved", "REC-4", "The last reserved byte of a descriptor is 1.", f.seal())
    for bit, about in ((2, "UNFINISHED is set in a committed file."), (3, "Flag bit 3 is set."), (7, "Flag bit 7 is set.")):
        f = one()
        f.written[0].flags |= 1 << bit
        reject(f"rec-4-flag-{bit}", "REC-4", about, f.seal())
    f = one()
    f.written[0].pad = 0x20
    reject("rec-4-padding", "REC-4", "The padding of a descriptor is not 0.", f.seal())

    fields = {"start": 4, "bits": 64, "code": CODE["i32"], "data_len": 17, "data_crc32": 0, "data_offset": 256}
    for field, value in fields.items():
        f = one()
        setattr(f.written[0], field, value)
        reject(f"rec-5-{field.replace('_', '-')}", "REC-5", f"A descriptor's {field} is not that of the index.", f.seal())
    f = one()
    f.written[0].dims = [4, 1]
    reject("rec-5-dims", "REC-5", "A descriptor's dims are not those of the index.", f.seal())
    f = one()
    f.written[0].dims, f.written[0].rank, f.written[0].name = [4], 1, b"a"
    reject("rec-5-rank", "REC-5", "A descriptor's rank is not that of the index.", f.place().seal())
    f = one()
    f.written[0].strides, f.written[0].flags = [2, 1], 1
    reject("rec-5-strided", "REC-5", "A descriptor has the contiguous strides; the index has, rightly, none.",
           f.place().seal())
    f = File([T("a", "u8", [2, 2], b"1234", strides=[1, 2])])
    f.written[0].strides = [2, 1]
    reject("rec-5-strides", "REC-5", "A descriptor's strides are not those of the index.", f.seal())
    f = File([T("a", "u8", [1], b"1"), T("b", "u8", [1], b"2"), T("c", "u8", [1], of="b")])
    f.written[2].storage = 0
    reject("rec-5-storage", "REC-5", "The descriptor of a view names another storage than the index, and has that of the "
           "index's data.", f.seal())
    f = one()
    f.written[0].name = b"x"
    reject("rec-5-name", "REC-5 REC-6",
           "A descriptor of a tensor that the index does not have, in the place of one it has.",
           f.seal())
    f = with_view()
    f.tensors.pop()
    reject("rec-5-not-in-index", "REC-5", "A descriptor of a tensor that the index does not have.", f.seal())
    f = with_view()
    f.written.pop()
    reject("rec-6-missing", "REC-6", "A tensor of the index, a view, has no descriptor.", f.place().seal())
    f = with_view()
    f.written.append(f.written[1])
    reject("rec-6-twice", "REC-6", "A tensor, a view, has two descriptors.", f.place().seal())
    f = File([T("a", "u16", [4], pattern(8)), T("b", "u16", [2], of="a", start=4), T("c", "u16", [2], of="a")])
    f.written[2] = f.written[1]
    reject("rec-6-twice-and-missing", "REC-6", "A view has two descriptors, and another none, so that their number is right.",
           f.place().seal())
    f = with_view()
    again = Descriptor(T("a", "u16", [4], of="a"), 0, True)
    f.written.append(again)
    reject("rec-6-twice-as-view", "REC-6", "A tensor that introduces a storage has a second descriptor, as a view of it.",
           f.place().seal())
    f = with_view()
    f.written.reverse()
    reject("rec-7-view-first", "REC-7", "A view's record comes before the record that introduces its storage.",
           f.place().seal())
    f = File([T("a", "u8", [1], b"1"), T("b", "u8", [1], b"2"), T("c", "u8", [1], of="b")])
    f.written.insert(1, f.written.pop())
    reject("rec-7-view-before", "REC-7", "A view between two records names the storage that the second introduces.",
           f.place().seal())
    f = one()
    f.storages.append({"offset": f.index_offset, "len": 0, "first": 1, "crc": 0, "reserved": 0})
    reject("rec-7-not-introduced", "REC-7", "The index lists a second storage, without bytes, that no record introduces.",
           f.seal())
    f = File([T("a", "u8", [0], b""), T("b", "u8", [0], of="a")])
    f.written[1].flags = 0
    reject("rec-7-introduced-twice", "REC-7",
           "A view's descriptor lacks VIEW, so that it introduces storage 0 again.",
           f.seal())
    f = File([T("a", "u8", [1], b"1"), T("b", "u8", [0], b"")])
    f.written[1].flags = 2
    reject("rec-7-view-introduces", "REC-7", "The record that should introduce storage 1 has VIEW set.", f.seal())
    f = two()
    data_at = f.storages[0]["offset"] - 64
    reject("rec-8-before-data", "REC-8", "The last byte between a descriptor and its data is 1.",
           patched(f, lambda body: body.__setitem__(data_at - 1, 1)))
    reject("rec-8-after-descriptor", "REC-8", "The first byte after a descriptor, before its data, is 128.",
           patched(f, lambda body: body.__setitem__(f.written[0].length(), 0x80)))
    reject("rec-8-after-data", "REC-8", "The first byte after the data of a storage is 1.",
           patched(f, lambda body: body.__setitem__(data_at + 16, 1)))
    reject("rec-8-before-record", "REC-8", "The last byte before the second record is 1.",
           patched(f, lambda body: body.__setitem__(f.positions[1] - 65, 1)))
    reject("rec-8-before-index", "REC-8", "The last byte before the index is 1.",
           patched(f, lambda body: body.__setitem__(-1, 1)))
    f = with_view()
    reject("rec-8-after-view", "REC-8", "A byte after the descriptor of a view is 1.",
           patched(f, lambda body: body.__setitem__(f.positions[1] - 64 + f.written[1].length(), 1)))


def shift_record(file, first, by):
    """Move a record and all after it, with their data."""
    for i in range(first, len(file.written)):
        file.positions[i] += by
        file.storages[file.written[i].storage]["offset"] += by
        file.written[i].data_offset += by
    file.index_offset += by


def index_vectors():
    def indexed(sections, lengths=None, pad=0, tail=b""):
        return File([]).seal(index=File.index(sections, lengths, pad) + tail)

    empty = File([]).sections()
    f = one()
    index = f.index(f.sections())
    crc = zlib.crc32(index)
    reject("idx-1-crc", "IDX-1", "A bit of index_crc32 flipped, the header sealed again.",
           f.seal(index_crc=crc ^ 1))
    index[-1] ^= 0x40
    reject("idx-1-bit", "IDX-1 IDX-7", "A bit of the last byte of the index, which is padding, flipped.",
           f.seal(index=index, index_crc=crc))
    reject("idx-2-no-table", "IDX-2", "index_len is 0.", File([]).seal(index=b""))
    for count in (6, 2 ** 32 - 1):
        index = File.index(empty)
        index[:4] = struct.pack("<I", count)
        reject(f"idx-2-count-{count}", "IDX-2", f"section_count is {count}: the table is longer than the index.",
               File([]).seal(index=index))
    index = File.index(empty)
    index[7] = 1
    reject("idx-2-reserved", "IDX-2", "The reserved field of the section table is not 0.", File([]).seal(index=index))
    reject("idx-3-order", "IDX-3", "dims comes before names.", indexed([empty[1], empty[0]] + empty[2:]))
    reject("idx-3-twice", "IDX-3", "Two sections metadata.", indexed(empty + [(6, 1, cbor(Dict(("a", 1))))] * 2))
    reject("idx-3-twice-names", "IDX-3", "Two sections names, both empty.", indexed([empty[0]] + empty))
    reject("idx-3-private-first", "IDX-3", "A private section before the required ones.",
           indexed([(1 << 31, 1, b"x")] + empty))
    reject("idx-4-names-ancillary", "IDX-4", "The section names is marked ancillary.", indexed([(1, 1, b"")] + empty[1:]))
    reject("idx-4-metadata-required", "IDX-4", "The section metadata is not marked ancillary.",
           indexed(empty + [(6, 0, cbor(Dict(("a", 1))))]))
    reject("idx-4-document-required", "IDX-4", "The section document is not marked ancillary.",
           indexed(empty + [(7, 0, b"\xf6")]))
    reject("idx-4-bit-1", "IDX-4", "An unknown section has flag bit 1.", indexed(empty + [(9, 3, b"")]))
    reject("idx-4-bit-31", "IDX-4", "The section blocks has flag bit 31.", indexed(empty[:4] + [(5, 1 << 31, b"")]))
    reject("idx-4-private-required", "IDX-4", "A private section that is not ancillary.", indexed(empty + [(1 << 31, 0, b"")]))
    for kind in (8, 0x7FFFFFFF):
        reject(f"idx-5-{kind}", "IDX-5", f"Section kind {kind:#x}, unknown and not ancillary.",
               indexed(empty + [(kind, 0, b"")]))
    reject("idx-5-0", "IDX-5", "Section kind 0, unknown and not ancillary.", indexed([(0, 0, b"")] + empty))
    for i, name in enumerate(("names", "dims", "tensors", "storages", "blocks")):
        reject(f"idx-6-{name}", "IDX-6", f"There is no section {name}.", indexed(empty[:i] + empty[i + 1:]))
    reject("idx-6-none", "IDX-6", "There are no sections at all.", indexed([]))
    reject("idx-7-tail", "IDX-7", "8 zero bytes after the last section.", indexed(empty, tail=bytes(8)))
    more = empty + [(1 << 31, 1, b"abc")]
    reject("idx-7-padding", "IDX-7", "The padding after the last section is not 0.", indexed(more, pad=1))
    reject("idx-7-padding-between", "IDX-7", "The padding between two sections is not 0.",
           indexed(more + [(0x80000001, 1, b"12345678")], pad=1))
    reject("idx-7-past-end", "IDX-7", "The last section is 8 bytes longer than the index.", indexed(more, {1 << 31: 11}))
    reject("idx-7-padding-missing", "IDX-7", "The last section ends with the index only if its padding is counted twice.",
           indexed(more, {1 << 31: 9}))
    for value in (TOP - 1, TOP - 8, TOP - 104, 1 << 63):
        reject(f"idx-7-len-{value:x}", "IDX-7", f"A section_len of {value}.", indexed(more, {1 << 31: value}))
    reject("idx-8-dims", "IDX-8", "dims has 4 bytes.", indexed(empty[:1] + [(2, 0, bytes(4))] + empty[2:]))
    reject("idx-8-tensors", "IDX-8", "tensors has 8 bytes.", indexed(empty[:2] + [(3, 0, bytes(8))] + empty[3:]))
    f = one()
    sections = [(kind, flags, content + bytes(8) if kind == 3 else content) for kind, flags, content in f.sections()]
    reject("idx-8-tensors-48", "IDX-8", "tensors has 48 bytes.", f.seal(index=f.index(sections)))
    reject("idx-8-storages", "IDX-8", "storages has 31 bytes.", indexed(empty[:3] + [(4, 0, bytes(31))] + empty[4:]))
    reject("idx-8-blocks", "IDX-8", "blocks has 2 bytes.", indexed(empty[:4] + [(5, 0, bytes(2))]))


def tensor_vectors():
    def named(names):
        """Tensors over one byte each, with these names (bytes), in this order in the index."""
        f = File([T(name, "u8", [1], bytes([i])) for i, name in enumerate(names)])
        f.tensors.sort(key=lambda t: t["storage"])
        return f

    f = named([b"a", b"b"])
    f.tensors[1].update(first_name=2, put_name=b"xb")
    reject("ten-1-gap", "TEN-1", "A byte between two names.", f.seal(), unread=True)
    f = named([b"a"])
    f.tensors[0].update(first_name=1, put_name=b"xa")
    reject("ten-1-first", "TEN-1", "The first name begins at byte 1 of names.", f.seal(), unread=True)
    f = named([b"a"])
    f.tensors[0].update(put_name=b"ax")
    reject("ten-1-tail", "TEN-1", "A byte after the last name.", f.seal(), unread=True)
    f = named([b"ab", b"b"])
    f.tensors[1].update(first_name=1, put_name=b"")
    reject("ten-1-overlap", "TEN-1", "Two names share a byte.", f.seal(), unread=True)
    f = named([b"a", b"bc"])
    f.tensors[1].update(put_name=b"b")
    reject("ten-1-past-end", "TEN-1", "A name ends after the end of names.", f.seal())
    for value in (TOP - 1, 1 << 63):
        f = named([b"a"])
        f.tensors[0].update(first_name=value)
        reject(f"ten-1-at-{value:x}", "TEN-1", f"first_name_byte is {value}.", f.seal())
    f = File([])
    reject("ten-1-no-tensors", "TEN-1", "A name without a tensor.",
           f.seal(index=f.index([(1, 0, b"a")] + f.sections()[1:])), unread=True)
    for label, name, about in (
            ("ff", b"\xff", "the byte FF"), ("surrogate", b"\xed\xa0\x80", "a surrogate"),
            ("overlong", b"\xc0\x80", "an overlong NUL"), ("cut", b"a\xe2\x82", "a character cut short"),
            ("too-great", b"\xf4\x90\x80\x80", "a code point above U+10FFFF"),
            ("lone", b"\x80", "a lone continuation byte")):
        reject(f"ten-2-{label}", "TEN-2", f"A name with {about}.", named([name]).seal())
    f = named([b"a", b"\xc3", b"\xa9"])
    f.tensors[1]["name"], f.tensors[2]["name"] = b"\xc3", b"\xa9"
    f.tensors.sort(key=lambda t: t["name"])
    reject("ten-2-split", "TEN-2",
           "names as a whole would be UTF-8 if its parts were the other way round; no name is.",
           f.seal())
    reject("ten-3-65536", "TEN-3", "A name of 65536 bytes.", named([b"n" * 65536]).seal())
    reject("ten-4-order", "TEN-4", "Two names in descending order.", named([b"b", b"a"]).seal())
    reject("ten-4-prefix", "TEN-4", "A name before its own beginning.", named([b"aa", b"a"]).seal())
    reject("ten-4-utf-16", "TEN-4", "U+10000 before U+FFFD: the order of UTF-16, not that of the bytes.",
           named(["\U00010000".encode(), "\uFFFD".encode()]).seal())
    reject("ten-4-case", "TEN-4", "'a' before 'B': an order without regard to case.", named([b"a", b"B"]).seal())
    f = File([T("a", "u8", [1], b"1"), T("b", "u8", [1], of="a")])
    f.tensors[1]["name"] = f.written[1].name = b"a"
    reject("ten-4-twice", "TEN-4", "Two tensors of the same name, equal in all else too.", f.seal())
    f = File([T("", "u8", [1], b"1"), T("b", "u8", [1], of="")])
    f.tensors[1]["name"] = f.written[1].name = b""
    f.written[1].name_len = 0
    reject("ten-4-twice-empty", "TEN-4", "Two tensors of the empty name.", f.place().seal())

    f = two()
    f.tensors[1].update(first_dim=3, put_dims=[9, 5])
    reject("ten-5-gap", "TEN-5", "An element of dims between the dims of two tensors.", f.seal(), unread=True)
    f = two()
    f.tensors[0].update(first_dim=1, put_dims=[9, 2, 2])
    reject("ten-5-first", "TEN-5", "The first dims begin at element 1.", f.seal(), unread=True)
    f = two()
    f.tensors[1].update(put_dims=[5, 1])
    reject("ten-5-tail", "TEN-5", "An element of dims after the last.", f.seal(), unread=True)
    f = File([T("a", "u8", [2, 3], pattern(6)), T("b", "u8", [3], pattern(3))])
    f.tensors[1].update(first_dim=1, put_dims=[])
    reject("ten-5-shared", "TEN-5", "Two tensors share an element of dims.", f.seal(), unread=True)
    f = two()
    f.tensors[1].update(put_dims=[])
    reject("ten-5-past-end", "TEN-5", "The dims of a tensor end after the end of dims.", f.seal())
    f = File([T("a", "u8", [2, 2], b"1234", strides=[1, 2])])
    f.tensors[0].update(put_dims=[2, 2, 1])
    reject("ten-5-strides-past-end", "TEN-5", "The strides of a tensor end after the end of dims.", f.seal())
    f = one()
    f.tensors[0].update(first_dim=TOP - 1)
    reject("ten-5-overflow", "TEN-5", "first_dim is 2^64 - 1.", f.seal())
    f = File([T("a", "u8", [], b"1")])
    f.tensors[0].update(first_dim=1)
    reject("ten-5-rank-0", "TEN-5", "A tensor of rank 0 with first_dim 1, in a file without dims.", f.seal())
    for bit in (1, 2, 7):
        f = one()
        f.tensors[0]["flags"] = 1 << bit
        reject(f"ten-6-bit-{bit}", "TEN-6", f"Flag bit {bit} of a tensor record is set.", f.seal())

    reject("ten-7-dtype-0", "TEN-7", "dtype is 0.", changed(one(), code=0).seal())
    reject("ten-7-bits-0", "TEN-7", "bits is 0, of an opaque dtype.", shaped("opaque", [3], 0, b""))
    reject("ten-7-bits-0-unknown", "TEN-7", "bits is 0, of an unknown dtype.", shaped(0x9000, [0], 0, b""))
    reject("ten-7-f32-64", "TEN-7", "An f32 of 64 bits.", shaped("f32", [2], 64, pattern(16)))
    reject("ten-7-u4-8", "TEN-7", "A u4 of 8 bits.", shaped("u4", [2], 8, b"\1\2"))
    reject("ten-7-bool-1", "TEN-7", "A bool of 1 bit.", shaped("bool", [8], 1, b"\5"))
    reject("ten-8-product", "TEN-8", "The product of the dims is 2^80, but the tensor has no elements.",
           shaped("u8", [0, 2 ** 40, 2 ** 40], 8, b""))
    reject("ten-8-bits", "TEN-8", "The product of the dims is 2^61, times 8 bits 2^64.", shaped("u8", [0, 2 ** 61], 8, b""))
    reject("ten-8-zero-last", "TEN-8", "The dim of 0 comes last.", shaped("f64", [2 ** 32, 2 ** 32, 0], 64, b""))
    reject("ten-8-stride-0", "TEN-8", "2^64 elements over one byte.", shaped("u8", [2 ** 32, 2 ** 32], 8, b"1", [0, 0]))
    reject("ten-8-wraps-to-small", "TEN-8", "The product of the dims is 4 modulo 2^64.",
           shaped("u8", [2 ** 62 + 1, 4], 8, b"1234"))
    reject("ten-8-rank-255", "TEN-8", "255 dims of 2^64 - 1, and no way to hold them; strides 0.",
           shaped("u8", [TOP - 1] * 255, 8, b"1", [0] * 255))
    f = one()
    f.tensors[0]["storage"] = f.written[0].storage = 1
    reject("ten-9-count", "TEN-9", "storage is 1 of 1.", f.seal())
    f = one()
    f.tensors[0]["storage"] = f.written[0].storage = 2 ** 32 - 1
    reject("ten-9-last", "TEN-9", "storage is 2^32 - 1.", f.seal())
    f = with_view()
    f.tensors[1]["storage"] = f.written[1].storage = 1
    reject("ten-9-view", "TEN-9", "A view names a storage that the file does not have.", f.seal())
    reject("ten-10-u16", "TEN-10", "A u16 begins at byte 1.", shaped("u16", [1], 16, b"123", start=1))
    reject("ten-10-opaque", "TEN-10", "An opaque element of 80 bits begins at byte 8.",
           shaped("opaque", [1], 80, pattern(20), start=8))
    reject("ten-10-unknown", "TEN-10", "An element of 24 bits of an unknown dtype begins at byte 1.",
           shaped(0x8001, [1], 24, pattern(9), start=1))
    reject("ten-10-empty", "TEN-10", "An f64 without elements begins at byte 4.",
           shaped("f64", [0], 64, pattern(8), start=4))
    reject("ten-11-byte", "TEN-11", "The extent ends one byte after the data.", shaped("u8", [5], 8, b"1234"))
    reject("ten-11-packed", "TEN-11", "13 elements of 6 bits need 10 bytes; there are 9.",
           shaped("f6_e2m3fn", [13], 6, pattern(9)))
    reject("ten-11-start", "TEN-11", "start is one element too great.", shaped("u16", [2], 16, b"1234", start=2))
    reject("ten-11-empty-past-end", "TEN-11", "No elements, but start is after the end of the data.",
           shaped("u8", [0], 8, b"1234", start=5))
    reject("ten-11-no-data", "TEN-11", "One element over a storage without bytes.", shaped("f32", [], 32, b""))
    reject("ten-11-strided", "TEN-11", "The last element of a strided tensor ends after the data.",
           shaped("u16", [2, 2], 16, b"12345678", [1, 3]))
    reject("ten-11-start-overflow", "TEN-11", "start plus the extent is 2^64.", shaped("f32", [1], 32, FOUR, start=TOP - 4))
    reject("ten-11-stride-overflow", "TEN-11", "(1 + 2^63) times 2 bytes is 2 modulo 2^64.",
           shaped("u16", [2], 16, b"12", [2 ** 63]))
    reject("ten-11-product-overflow", "TEN-11", "A dim less 1 times its stride is 0 modulo 2^64.",
           shaped("u8", [3], 8, b"1", [2 ** 63]))
    reject("ten-11-sum-overflow", "TEN-11", "The sum over two axes is 0 modulo 2^64.",
           shaped("u8", [2, 2], 8, b"1", [2 ** 63, 2 ** 63]))
    reject("ten-11-greatest-stride", "TEN-11", "A stride of 2^64 - 1 over two elements.",
           shaped("u8", [2], 8, b"12", [TOP - 1]))
    reject("ten-12-contiguous", "TEN-12", "The contiguous strides are given.", shaped("u8", [2, 2], 8, b"1234", [2, 1]))
    reject("ten-12-rank-0", "TEN-12", "STRIDED is set for rank 0.", shaped("u8", [], 8, b"1", []))
    reject("ten-12-zero-size", "TEN-12", "The contiguous strides of a shape without elements are given.",
           shaped("u8", [3, 0, 2], 8, b"", [2, 2, 1]))
    reject("ten-12-packed", "TEN-12", "A u4 with strides.", shaped("u4", [2, 2], 4, b"12", [1, 2]))
    reject("ten-12-unknown-packed", "TEN-12", "An unknown dtype of 12 bits with strides.",
           shaped(0x8123, [2, 2], 12, b"123456", [1, 2]))


def storage_vectors():
    f = one()
    reject("sto-1-unaligned", "STO-1", "The header says alignment 128; the data is aligned to 64 only.",
           f.seal(align=7))
    f = File([T("a", "u8", [0], b"")])
    f.storages[0]["offset"] = f.written[0].data_offset = f.index_offset + 64
    f.data = []
    reject("sto-1-after-index", "STO-1", "A storage without bytes that begins after index_offset.", f.seal())
    f = File([T("a", "u8", [0], b"")])
    f.storages[0]["offset"] = f.written[0].data_offset = 0
    f.data = []
    reject("sto-1-offset-0", "STO-1", "A storage without bytes at offset 0, in the header.", f.seal())
    f = one()
    f.storages[0].update(offset=TOP - 64, len=128)
    f.written[0].data_offset, f.written[0].data_len, f.data = TOP - 64, 128, []
    reject("sto-1-overflow", "STO-1", "data_offset + data_len is 64 modulo 2^64.", f.seal())
    f = one()
    f.storages[0]["len"] = f.written[0].data_len = TOP - 1
    f.data = [FOUR]
    reject("sto-1-len", "STO-1 STO-3", "data_len is 2^64 - 1.", f.seal())
    f = File([T("a", "u8", [4096], pattern(4096)), T("b", "u8", [64], pattern(64))])
    body, first = f.body(), f.storages[0]["offset"] - 64
    moved = bytes(body[first + 64:first + 128])
    f.storages[1].update(offset=first + 128, crc=zlib.crc32(moved))
    f.written[1].data_offset, f.written[1].data_crc32, f.blocks[1] = first + 128, zlib.crc32(moved), zlib.crc32(moved)
    f.data.pop()
    reject("sto-2-overlap", "STO-2", "A storage lies within the one before it; its CRCs are right for those bytes.",
           f.seal())
    f = two()
    f.storages.reverse()
    f.blocks.reverse()
    f.data.reverse()
    for i, storage in enumerate(f.storages):
        storage["first"] = i
    for t, d in zip(f.tensors, f.written):
        t["storage"] = d.storage = 1 - t["storage"]
    reject("sto-2-order", "STO-2", "The storages are listed in descending order of their data.", f.seal())
    f = File([T("a", "u8", [64], pattern(64)), T("b", "u8", [0], b"")])
    f.storages[1]["offset"] = f.written[1].data_offset = f.storages[0]["offset"] + 64
    reject("sto-2-touching", "STO-2", "A storage without bytes begins where the one before it ends, without a descriptor between.",
           f.seal())
    f = one()
    f.blocks.insert(0, 0x12345678)
    f.storages[0]["first"] = 1
    reject("sto-3-first", "STO-3", "An element of blocks before that of the first storage.", f.seal(), unread=True)
    f = one()
    f.blocks.append(0)
    reject("sto-3-tail", "STO-3", "An element of blocks after that of the last storage.", f.seal(), unread=True)
    f = File([T("a", "u8", [5000], pattern(5000))])
    f.blocks.pop()
    reject("sto-3-few", "STO-3", "5000 bytes, blocks of 4096, one element of blocks.", f.seal())
    f = File([T("a", "u8", [3], b"abc"), T("b", "u8", [3], b"abc")])
    f.blocks.pop()
    f.storages[1]["first"] = 0
    reject("sto-3-shared", "STO-3", "Two storages of equal bytes share an element of blocks.", f.seal(), unread=True)
    f = two()
    f.blocks.reverse()
    f.storages[0]["first"], f.storages[1]["first"] = 1, 0
    reject("sto-3-swapped", "STO-3", "Two storages have each other's place in blocks; number and CRCs are right.", f.seal(),
           unread=True)
    for value in (TOP - 1, 1 << 62):
        f = one()
        f.storages[0]["first"] = value
        reject(f"sto-3-first-{value:x}", "STO-3", f"first_block is {value}.", f.seal())
    f = File([T("a", "u8", [0], b"")])
    f.storages[0]["first"] = 1
    reject("sto-3-empty", "STO-3", "A storage without blocks has first_block 1, in a file without blocks.", f.seal())
    for label, about, tensor, crc in (
            ("one-block", "The crc32 of a storage of one block is not that of the block.", T("a", "u8", [3], b"abc"), 1),
            ("blocks", "The crc32 of a storage of three blocks differs in one bit from their combination.",
             T("a", "u8", [8200], pattern(8200)), 1 << 31),
            ("empty", "The crc32 of a storage without bytes is not 0.", T("a", "u8", [0], b""), 1)):
        f = File([tensor])
        f.storages[0]["crc"] ^= crc
        f.written[0].data_crc32 ^= crc
        reject(f"sto-4-{label}", "STO-4", about + " The descriptor agrees with it.", f.seal())
    f = one()
    f.storages[0]["reserved"] = 1 << 31
    reject("sto-5", "STO-5", "The reserved field of a storage record is not 0.", f.seal())
    for label, about, at in (("first", "first", 0), ("last", "last, shorter, block", 8199),
                             ("middle", "second block", 5000)):
        f = File([T("a", "u8", [8200], pattern(8200))])
        f.data[0] = bytes(b ^ (16 if i == at else 0) for i, b in enumerate(f.data[0]))
        reject(f"blk-1-{label}", "BLK-1", f"A bit of the {about if at else 'first block'} of the data flipped.", f.seal())
    for label, at in (("before", 10), ("after", 90)):
        f = File([T("a", "u8", [10], pattern(100), start=50)])
        f.data[0] = bytes(b ^ (i == at) for i, b in enumerate(f.data[0]))
        reject(f"blk-1-{label}-tensor", "BLK-1", f"A bit flipped {label} the bytes of the only tensor, in the block that it lies "
               "in.", f.seal())
    f = one()
    for table, key in ((f.blocks, 0), (f.storages[0], "crc"), (f.written[0].__dict__, "data_crc32")):
        table[key] ^= 2
    reject("blk-1-all-crcs", "BLK-1",
           "All three CRCs of a storage of one block agree with each other, but not with the data.",
           f.seal())


def value_vectors():
    def document(name, rules, about, raw):
        raw = raw if isinstance(raw, bytes) else cbor(raw)
        reject(name, rules, about, File([T("t", "u8", [1], b"\1")], document=raw).seal(), metadata=None)

    def metadata(name, rules, about, raw):
        raw = raw if isinstance(raw, bytes) else cbor(raw)
        reject(name, rules, about, File([], metadata=raw).seal(), document=None)

    hexes = [
        ("empty", "", "An empty section."), ("trailing", "f6 00", "A byte after the item."),
        ("two-items", "01 02", "Two items."), ("int-18-17", "18 17", "23 in two bytes."),
        ("int-19-ff", "19 00ff", "255 in three bytes."), ("int-1a", "1a 0000ffff", "65535 in five bytes."),
        ("int-1b", "1b 00000000ffffffff", "2^32 - 1 in nine bytes."), ("negative", "38 17", "-24 in two bytes."),
        ("bytes-len", "58 01 00", "The length of a byte string is not in the shortest form."),
        ("text-len", "79 0001 61", "The length of a text is not in the shortest form."),
        ("array-len", "98 00", "The length of an array is not in the shortest form."),
        ("tag-long", "da 0000a7f8 82 f93c00 f90000", "Tag 43000 in five bytes."),
        ("tag-27", "db 00000000444f4c02 80", "The tag of tuple in nine bytes."),
        ("indefinite-array", "9f ff", "An array of indefinite length."),
        ("indefinite-bytes", "5f 41 00 ff", "A byte string of indefinite length."),
        ("indefinite-array-long", "9f" + "00" * 300 + "ff", "An array of indefinite length, with more bytes than any head has."),
        ("indefinite-bytes-long", "5f" + "4100" * 200 + "ff", "A byte string of indefinite length, likewise."),
        ("info-28-long", "82 1c" + "00" * 300, "Additional information 28, likewise."),
        ("indefinite-text", "7f 61 61 ff", "A text of indefinite length."), ("break", "ff", "A break on its own."),
        ("info-28", "1c", "Additional information 28."), ("info-30", "9e", "Additional information 30, for an array."),
        ("info-7-29", "fd", "Additional information 29, for a simple value."),
        ("undefined", "f7", "The simple value undefined."), ("simple-0", "e0", "The simple value 0."),
        ("simple-255", "f8 ff", "The simple value 255."), ("simple-false-long", "f8 14", "false in two bytes."),
        ("simple-32", "f8 20", "The simple value 32."),
        ("float-single-1", "fa 3f800000", "1.0 in single precision."),
        ("float-double-1", "fb 3ff0000000000000", "1.0 in double."),
        ("float-double-single", "fb 3ff0000020000000", "A double that fits in single precision."),
        ("float-zero", "fa 80000000", "-0.0 in single precision."),
        ("float-inf", "fb 7ff0000000000000", "Infinity in double."),
        ("float-subnormal-half", "fa 33800000", "2^-24, the least subnormal half, in single precision."),
        ("float-subnormal-single", "fb 36a0000000000000", "2^-149, the least subnormal single, in double."),
        ("float-nan-single", "fa 7fc00000", "A NaN that fits in half, in single precision."),
        ("float-nan-double", "fb 7ff8000000000000", "A NaN that fits in half, in double."),
        ("float-nan-payload", "fb fff8000020000000", "A negative NaN with a payload that fits in single, in double."),
        ("utf-8", "61 ff", "A text that is not UTF-8."), ("utf-8-surrogate", "63 eda080", "A text with a lone surrogate."),
        ("utf-8-overlong", "62 c0af", "A text with an overlong slash."),
        ("utf-8-cut", "62 c3c3", "A text that ends in a lead byte."),
        ("cut-head", "19 01", "The item ends within its head."),
        ("cut-bytes", "42 00", "The item ends within a byte string."),
        ("cut-array", "82 00", "An array lacks an element."), ("cut-tag", "d81c", "A tag lacks its content."),
        ("bytes-huge", "5b ffffffffffffffff", "A byte string of 2^64 - 1 bytes."),
        ("text-huge", "7b 7fffffffffffffff", "A text of 2^63 - 1 bytes."),
        ("array-huge", "9b ffffffffffffffff 00", "An array of 2^64 - 1 elements."),
        ("array-huge-2", "9a ffffffff 00", "An array of 2^32 - 1 elements."),
        ("nested-arrays-huge", "9a 00ffffff" * 30, "Arrays within arrays, each of 2^24 - 1 elements."),
    ]
    for label, raw, about in hexes:
        document(f"val-1-{label}", "VAL-1", about, bytes.fromhex(raw))
    # Each count is no more than the bytes left, and yet memory for all of them would be 1000 times the section.
    counts = b"".join(b"\x99" + struct.pack(">H", 3 * (1000 - i)) for i in range(1000))
    document("val-1-nested-arrays-fit", "VAL-1", "1000 arrays within arrays, each of as many elements as bytes are left.",
             counts + bytes(3))
    for label, raw, about in (
            ("map-order", "a2 6162 01 6161 02", "Map keys in descending order."),
            ("map-length-order", "a2 626161 01 6162 02", "Map keys ordered by text: 'aa' before 'b'."),
            ("map-twice", "a2 6161 01 6161 02", "A map key twice."),
            ("map-len", "b8 01 6161 01", "The length of a map is not in "
             "the shortest form."), ("map-indefinite", "bf 6161 01 ff", "A map of indefinite length."),
            ("map-huge", "bb 8000000000000000 6161 01", "A map of 2^63 pairs: twice that is 0 modulo 2^64."),
            ("map-cut", "a1 6161", "A map lacks a value.")):
        metadata(f"val-1-{label}", "VAL-1", about, bytes.fromhex(raw))
    for label, raw, about in (
            ("zero", "c2 40", "A bignum of 0."), ("small", "c2 48 ffffffffffffffff", "2^64 - 1 as a bignum."),
            ("negative-small", "c3 48 ffffffffffffffff", "-2^64 as a bignum."),
            ("leading-zero", "c2 4a 00010000000000000000", "A bignum with a leading zero byte."),
            ("leading-zero-small", "c2 49 000000000000000001", "1 as a bignum of nine bytes.")):
        document(f"val-2-bignum-{label}", "VAL-2", about, bytes.fromhex(raw))

    ref, cls = tagged("tensor", "t"), ("class", tagged("global", ["m", "C"]))

    def content(label, about, value, rules="VAL-2"):
        document(f"{rules.lower()}-{label}", rules, about, value)

    for number in (0, 1, 4, 24, 30, 258, 55799, 0x444F4C00, 0x444F4C0B, TOP - 1):
        content(f"tag-{number}", f"Tag {number}, which is not listed.", Tag(number, 0))
    content("bignum-int", "A bignum of an integer.", Tag(2, 5))
    content("bignum-text", "A negative bignum of a text.", Tag(3, "123456789"))
    content("ref-nothing", "A shared_ref, and no shareable.", tagged("shared_ref", 0))
    content("ref-forward", "A shared_ref to a shareable that begins after it.",
            [tagged("shared_ref", 0), tagged("shareable", 1)])
    content("ref-beyond", "A shared_ref to number 1 of one shareable.", [tagged("shareable", 1), tagged("shared_ref", 1)])
    content("ref-negative", "A shared_ref to -1.", tagged("shareable", [tagged("shared_ref", -1)]))
    content("ref-huge", "A shared_ref to 2^64 - 1.", tagged("shareable", [tagged("shared_ref", TOP - 1)]))
    content("shareable-twice", "A shareable shareable.", tagged("shareable", tagged("shareable", [])))
    content("shareable-itself", "A shareable that is a reference to itself.", tagged("shareable", tagged("shared_ref", 0)))
    content("ref-text", "A shared_ref to a text.", tagged("shareable", [tagged("shared_ref", "0")]))
    content("complex-ints", "A complex number of integers.", tagged("complex", [1, 2]))
    content("complex-1", "A complex number of one float.", tagged("complex", [1.0]))
    content("complex-3", "A complex number of three floats.", tagged("complex", [1.0, 2.0, 3.0]))
    content("complex-float", "A complex number that is no array.", tagged("complex", 1.0))
    content("tensor-int", "A tensor reference by number.", tagged("tensor", 0))
    content("tensor-bytes", "A tensor reference by a byte string.", tagged("tensor", b"t"))
    content("tensor-1", "A tensor reference of an array of one.", tagged("tensor", ["t"]))
    content("tensor-3", "A tensor reference of an array of three.", tagged("tensor", ["t", Dict(("a", 1)), 0]))
    content("tensor-map-empty", "A tensor reference with an empty map.", tagged("tensor", ["t", Dict()]))
    content("tensor-map-null", "A tensor reference with null for its map.", tagged("tensor", ["t", None]))
    content("tensor-key", "A tensor reference with a key that is not text.", tagged("tensor", ["t", Dict((1, 2))]),
            "VAL-6")
    for name in ("tuple", "set", "frozenset", "dict", "other_dict", "global", "object"):
        content(f"{name.replace('_', '-')}-text", f"A {name} of a text.", tagged(name, "x"))
    content("dict-odd", "A dict of three items.", tagged("dict", [1, 2, 3]))
    content("dict-map", "A dict of a map.", tagged("dict", Dict(("a", 1))))
    content("other-dict-3", "An other_dict of three items.", tagged("other_dict", ["ordered", [], None]))
    content("other-dict-5", "An other_dict of five items.", tagged("other_dict", ["ordered", [], None, None, None]))
    content("other-dict-factory", "An ordered dictionary with a factory.",
            tagged("other_dict", ["ordered", [], tagged("global", ["builtins", "int"]), None]))
    content("other-dict-kind", "An other_dict of an unknown kind.", tagged("other_dict", ["sorted", [], None, None]))
    content("other-dict-odd", "An other_dict with an odd number of keys and values.",
            tagged("other_dict", ["ordered", [1], None, None]))
    content("other-dict-entries", "An other_dict whose entries are a dict.",
            tagged("other_dict", ["ordered", tagged("dict", []), None, None]))
    content("bytearray-text", "A bytearray of a text.", tagged("bytearray", "x"))
    content("bytearray-array", "A bytearray of an array.", tagged("bytearray", [1]))
    content("wtf8-text", "A wtf8 of a text.", tagged("wtf8", "x"))
    content("wtf8-utf8", "A wtf8 of valid UTF-8, which is a text.", tagged("wtf8", b"abc"))
    content("wtf8-empty", "A wtf8 of no bytes, which is a text.", tagged("wtf8", b""))
    content("wtf8-invalid", "A wtf8 of bytes that are not generalised UTF-8.", tagged("wtf8", b"\xed\xa0\x80\xff"))
    content("wtf8-overlong", "A wtf8 with an overlong NUL.", tagged("wtf8", b"\xc0\x80"))
    content("global-1", "A global of one text.", tagged("global", ["m"]))
    content("global-3", "A global of three texts.", tagged("global", ["m", "C", "x"]))
    content("global-int", "A global of a text and an integer.", tagged("global", ["m", 1]))
    content("object-no-class", "An object without class.", tagged("object", Dict(("new", "x"))))
    content("object-empty", "An object of an empty map.", tagged("object", Dict()))
    content("object-key", "An object with a key that is not listed.", tagged("object", Dict(cls, ("slots", 1))))
    content("object-key-int", "An object with a key that is not text.", tagged("object", Dict(cls, (1, 1))), "VAL-6")
    content("object-args", "An object whose args are a set.", tagged("object", Dict(cls, ("args", tagged("set", [])))))
    content("object-kwargs", "An object whose kwargs are an array.", tagged("object", Dict(cls, ("kwargs", []))))
    content("object-items", "An object whose items are a tuple.",
            tagged("object", Dict(cls, ("items", tagged("tuple", [])))))
    content("object-entries", "An object with an odd number of entries.", tagged("object", Dict(cls, ("entries", [1]))))
    content("object-new", "An object whose new is null.", tagged("object", Dict(cls, ("new", None))))
    # Where the text names the kind of an item, it is that item itself.
    marked = lambda value: tagged("shareable", value)
    c = cls[1]
    for label, value in (
            ("tuple", tagged("tuple", marked([]))), ("set", tagged("set", marked([]))),
            ("frozenset", tagged("frozenset", marked([]))), ("dict", tagged("dict", marked([]))),
            ("complex", tagged("complex", marked([1.0, 2.0]))), ("complex-part", tagged("complex", [marked(1.0), 2.0])),
            ("tensor", tagged("tensor", marked("t"))), ("tensor-name", tagged("tensor", [marked("t"), Dict(("a", 1))])),
            ("tensor-array", tagged("tensor", marked(["t", Dict(("a", 1))]))),
            ("bytearray", tagged("bytearray", marked(b""))), ("wtf8", tagged("wtf8", marked(b"\xed\xa0\x80"))),
            ("global", tagged("global", marked(["m", "C"]))), ("global-part", tagged("global", ["m", marked("C")])),
            ("other-dict", tagged("other_dict", marked(["ordered", [], None, None]))),
            ("other-dict-kind", tagged("other_dict", [marked("ordered"), [], None, None])),
            ("other-dict-entries", tagged("other_dict", ["ordered", marked([]), None, None])),
            ("object-args", tagged("object", Dict(cls, ("args", marked([]))))),
            ("object-args-tuple", tagged("object", Dict(cls, ("args", marked(tagged("tuple", [])))))),
            ("object-kwargs", tagged("object", Dict(cls, ("kwargs", marked(tagged("dict", [])))))),
            ("object-items", tagged("object", Dict(cls, ("items", marked([]))))),
            ("object-entries", tagged("object", Dict(cls, ("entries", marked([]))))),
            ("object-new", tagged("object", Dict(cls, ("new", marked("newobj")))))):
        content(f"shareable-{label}", "A shareable where the text names the kind of the item.", value)
    for label, value in (
            ("tuple", tagged("tuple", tagged("shared_ref", 0))), ("dict", tagged("dict", tagged("shared_ref", 0))),
            ("global", tagged("global", tagged("shared_ref", 0))),
            ("object-args", tagged("object", Dict(("class", c), ("args", tagged("shared_ref", 0)))))):
        content(f"shared-ref-{label}", "A shared_ref where the text names the kind of the item.", [marked([]), value])
    metadata("val-2-metadata-tag", "VAL-2", "A tag that is not listed, within metadata.", Dict(("a", Tag(37, b""))))

    document("val-3-arrays", "VAL-3", "Arrays 1025 deep.", b"\x81" * 1024 + b"\x80")
    document("val-3-tags", "VAL-3", "Tags and arrays 1025 deep.", b"\xd8\x1c\x81" * 512 + b"\xd8\x1c\x00")
    document("val-3-mixed", "VAL-3", "Tuples, a tag and an array each, 513 of them: 1026 levels.",
             b"\xda\x44\x4f\x4c\x02\x81" * 513 + b"\x00")
    document("val-3-bignum", "VAL-3", "A bignum, whose tag is a level, in 1024 arrays.",
             b"\x81" * 1024 + cbor(2 ** 64))
    for name, inner in (("tensor", ref), ("wtf8", tagged("wtf8", b"\xed\xa0\x80")), ("bytearray", tagged("bytearray", b"")),
                        ("shareable", tagged("shareable", 0))):
        document(f"val-3-{name}", "VAL-3", f"A {name}, whose tag is a level, in 1024 arrays.", b"\x81" * 1024 + cbor(inner))
    document("val-3-shared-ref", "VAL-3", "A shared_ref, whose tag is a level, in 1024 levels of arrays and a shareable.",
             b"\xd8\x1c" + b"\x81" * 1023 + cbor(tagged("shared_ref", 0)))
    document("val-3-10000", "VAL-3", "Arrays 10000 deep.", b"\x81" * 10000 + b"\x00")
    metadata("val-3-maps", "VAL-3", "Maps 1025 deep in metadata.", b"\xa1\x60" * 1024 + b"\xa0")
    document("val-4-name", "VAL-4", "A reference to a tensor that the index does not have.", tagged("tensor", "u"))
    document("val-4-empty", "VAL-4", "A reference to the empty name; no tensor has it.", [tagged("tensor", "")])
    document("val-4-with-map", "VAL-4", "A reference with a map to a tensor that the index does not have.",
             tagged("tensor", ["T", Dict(("as", "list"))]))
    document("val-4-deep", "VAL-4", "A good reference, and within the state of an object a bad one.",
             [ref, tagged("object", Dict(cls, ("state", [tagged("tensor", "tt")])))])
    for label, value, about in (
            ("array", [1], "Metadata is an array."), ("null", None, "Metadata is null."),
            ("empty", Dict(), "Metadata is an empty map."),
            ("dict", tagged("dict", ["k", 1]), "Metadata is a dict."),
            ("key-int", Dict((1, 2)), "A key of metadata is an integer."),
            ("key-bytes", Dict((b"k", 2)), "A key of metadata is a byte string."),
            ("nested-key", Dict(("a", [Dict((1, 2))])), "A key of a map within metadata is an integer."),
            ("shareable", Dict(("a", tagged("shareable", 1))), "A shareable in metadata."),
            ("global", Dict(("a", [tagged("global", ["m", "C"])])), "A global in metadata."),
            ("object", Dict(("a", tagged("object", Dict(cls)))), "An object in metadata."),
            ("object-alone", Dict(("a", tagged("object", Dict(("class", None))))), "An object in metadata, without a global."),
            ("in-tuple", Dict(("a", tagged("tuple", [tagged("shareable", [])]))), "A shareable in a tuple in metadata.")):
        metadata(f"val-5-{label}", "VAL-5", about, value)
    metadata("val-5-shared-ref", "VAL-5", "A shared_ref in metadata.",
             Dict(("a", tagged("shared_ref", 0))))
    reject("val-5-tensor", "VAL-5", "A tensor reference, to a tensor that exists, in metadata.",
           File([T("t", "u8", [1], b"\1")], metadata=Dict(("a", ref))).seal(), document=None)
    plain = Dict(("a", 1))
    for label, value, about in (
            ("root", plain, "The document is a plain map."), ("empty", Dict(), "The document is an empty plain map."),
            ("array", [plain], "A plain map in an array."), ("tuple", tagged("tuple", [plain]), "A plain map in a tuple."),
            ("dict", tagged("dict", ["k", plain]), "A plain map as a value of a dict."),
            ("shareable", tagged("shareable", plain), "A plain map marked shareable."),
            ("tensor", tagged("tensor", ["t", Dict(("how", plain))]), "A plain map within the map of a tensor."),
            ("state", tagged("object", Dict(cls, ("state", plain))), "A plain map as the state of an object.")):
        document(f"val-6-{label}", "VAL-6", about, value)


def order_vectors():
    """Files that break rules of several of the steps 1 to 7: the one of the earliest step is reported."""
    def header_of(file, crc=True, trailer=True, tail=b"", **fields):
        raw = bytearray(file.seal(**fields))
        if not crc:
            raw[60] ^= 1
            raw[-4] ^= 1
        if not trailer:
            raw[-1] ^= 1
        return bytes(raw) + tail

    plain = one()
    reject("order-hdr-1-hdr-2", "HDR-2", "100 bytes that do not begin with the magic: what is no Dolmen file is not too short.",
           b"PK\3\4" + bytes(96))
    reject("order-hdr-1-hdr-3", "HDR-1", "100 bytes of a file whose header_crc32 is wrong: with fewer than 128, nothing more is "
           "judged.", header_of(plain, crc=False)[:100])
    reject("order-hdr-3-hdr-4", "HDR-3 HDR-4", "header_crc32 is wrong, and major is 2: what is damaged has no version.",
           header_of(plain, crc=False, major=2))
    reject("order-hdr-4-hdr-5", "HDR-4", "major is 2, and required_features has bit 0.", header_of(plain, major=2, features=1))
    reject("order-hdr-5-hdr-6", "HDR-5", "required_features has bit 7, and file_len is 0.",
           header_of(plain, features=128, file_len=0))
    reject("order-hdr-5-hdr-7", "HDR-5", "required_features has bit 7, and there is a byte too many.",
           header_of(plain, features=128, tail=b"\0"))
    reject("order-hdr-6-hdr-8", "HDR-6", "file_len is 0, and a reserved byte is 1.",
           header_of(plain, file_len=0, reserved=bytes(13) + b"\1"))
    reject("order-hdr-7-hdr-8", "HDR-7 HDR-8 HDR-12", "A byte too many at the end, and a reserved byte is 1.",
           header_of(plain, reserved=bytes(13) + b"\1", tail=b"\0"))
    reject("order-hdr-8-hdr-12", "HDR-8 HDR-9 HDR-10 HDR-12", "A reserved byte is 1, alignment_log2 is 22, block_log2 31, and the "
           "trailer differs. Three of the rules are of one step.",
           header_of(File([]), trailer=False, reserved=b"\1" + bytes(13), align=22, block=31))
    reject("order-hdr-12-idx-1", "HDR-12 IDX-1", "The trailer differs, and index_crc32 is wrong.",
           header_of(plain, trailer=False, index_crc=0))
    table = File.index(plain.sections())
    table[4] = 1
    reject("order-idx-1-idx-2", "IDX-1 IDX-2", "index_crc32 is wrong, and the reserved field of the section table is not 0.",
           plain.seal(index=table, index_crc=1))
    sections = File([]).sections()
    reject("order-idx-4-idx-7", "IDX-4 IDX-7", "A section has an unknown flag, and 8 bytes follow the last one: two rules of one "
           "step.", File([]).seal(index=File.index(sections[:4] + [(5, 2, b"")]) + bytes(8)))
    f = one()
    f.tensors[0]["flags"] = 2
    reject("order-idx-3-ten-6", "IDX-3 TEN-6", "A second, empty section blocks, and a tensor record with an unknown flag: the "
           "records are not looked at.", f.seal(index=File.index(f.sections()[:4] + [(5, 0, f.sections()[4][2])] * 2)))


def either_vectors():
    """Files over which two readers may differ, and both be right."""
    t = T("t", "u8", [8200], pattern(8200))
    first = T("t", "u8", [100], t.data)
    f = File([first])
    f.data[0] = t.data[:5000] + bytes([t.data[5000] ^ 1]) + t.data[5001:]
    either("block-not-touched", "BLK-1", "A bit flipped in the second of three blocks; the only tensor lies within the first.",
           f.seal(), unread=True)
    f = File([T("t", "u16", [0], start=8192, data=t.data)])
    f.data[0] = bytes([t.data[0] ^ 1]) + t.data[1:]
    either("block-under-no-elements", "BLK-1", "A bit flipped in the data under a tensor that has no elements.", f.seal(),
           unread=True)
    f = two()
    body = f.body()
    for at in f.positions:
        body[at - 64:at] = b"\xee" * 64
    either("descriptors-overwritten", "REC-1", "64 bytes of each descriptor are overwritten: only who walks the records sees it.",
           f.seal(body=body))
    f = two()
    f.written[0].crc_xor, f.written[0].reserved, f.written[1].flags = 1, b"\1" + bytes(7), 8
    either("record-rules", "REC-3 REC-4", "One descriptor has a wrong CRC, another an unknown flag.", f.seal())
    f = two()
    f.written[0].start, f.written[1].dims = 8, [4]
    body = f.body()
    body[-1] = 1
    either("record-rules-of-one-class", "REC-5 REC-8", "Two descriptors that differ from the index, and padding that is not 0.",
           f.seal(body=body))
    f = two()
    f.tensors.reverse()
    either("names-out-of-order", "TEN-4", "The tensors are listed in descending order: all can be read in turn, but a search by "
           "name may find none.", f.seal())
    f = two()
    f.storages[0]["crc"] ^= 1
    f.blocks[1] ^= 1
    f.storages[1]["crc"] ^= 1
    either("storage-and-block", "STO-4 BLK-1", "The crc32 of one storage is not that of its block; of another storage both are "
           "wrong. A reader that is not strict sees the second.", f.seal())
    f = two()
    f.tensors[0]["flags"] = 4
    f.data[1] = b"hullo"
    either("record-and-block", "TEN-6 BLK-1", "One tensor has an unknown flag, and the data of another is damaged: Malformed or "
           "Corrupt.", f.seal())
    f = File([T("a", "u16", [1], b"123", start=1), T("b", "u4", [2, 2], b"12", strides=[1, 2])])
    f.tensors[0]["flags"] = 128
    either("tensor-rules", "TEN-6 TEN-10 TEN-12", "Two tensors break three rules.", f.seal())
    good = File([first], metadata=Dict(("a", 1)), document=b"\x18\x17")
    either("document-alone", "VAL-1", "The document is not in deterministic encoding; tensors and metadata are right.",
           good.seal(), metadata=Dict(("a", 1)))
    either("metadata-alone", "VAL-5", "Metadata is an array; tensors and document are right.",
           File([first], metadata=[1], document=tagged("tensor", "t")).seal(), document=tagged("tensor", "t"))
    either("values", "VAL-2 VAL-4 VAL-6", "An unknown tag, a reference to nothing and a plain map, one after the other.",
           File([first], document=[Tag(99, 0), tagged("tensor", "nothing"), Dict(("k", 1))]).seal(), metadata=None)
    f = File([first], metadata=Dict(("a", tagged("shareable", 1))), document=[Tag(99, 0)])
    f.data[0] = t.data[:-1] + bytes([t.data[-1] ^ 1])
    f.written[0].crc_xor = 1
    either("all-of-it", "REC-3 BLK-1 VAL-2 VAL-5", "A descriptor, a block that no tensor touches, metadata and document are all "
           "wrong, each in its way.", f.seal(), unread=True)


def large_vectors():
    """What needs more bytes than a repository should have."""
    accept("alignment-21-with-data", "Data of two storages aligned to 2 MiB.",
           [T("a", "u8", [5], b"hello"), T("b", "f64", [0]), T("c", "u8", [6], b"world!")], align=21)
    accept("block-20-several", "Blocks of 1 MiB, the default: one, two and a part.",
           [T("a", "u8", [1 << 20], bytes(1 << 20)), T("b", "u16", [5 << 18], pattern(512) * 5120)], align=8, block=20)
    data = bytes(1 << 30) + b"\1\2\3\4\5"
    accept("block-30-several", "A block of 1 GiB, and 5 bytes.", [T("a", "u8", [(1 << 30) + 5], data)], align=8, block=30)
    f = File([T("a", "u8", [(1 << 30) + 5], data)], align=8, block=30)
    f.data[0] = data[:-1] + b"\4"
    reject("blk-1-block-30", "BLK-1", "A bit flipped in the second block, the first being 1 GiB.", f.seal())


def main(directory):
    global HERE
    large = directory is not None
    HERE = directory if large else HERE
    for kind in ("accept", "reject", "either", "deep"):
        os.makedirs(os.path.join(HERE, kind), exist_ok=True)
        for name in os.listdir(os.path.join(HERE, kind)):
            os.remove(os.path.join(HERE, kind, name))
    for vectors in (large_vectors,) if large else (accept_vectors, header_vectors, record_vectors, index_vectors, tensor_vectors, storage_vectors,
                    value_vectors, order_vectors, either_vectors):
        vectors()
    files = [entry["file"] for entry in MANIFEST]
    assert len(set(files)) == len(files), "a name is used twice"
    # One entry a line: a change of one vector is a change of one line.
    with open(os.path.join(HERE, "manifest.json"), "w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in MANIFEST) + "\n]\n")


if __name__ == "__main__":
    # The deepest values take a few calls for each of their 1024 levels.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    done = []
    if sys.argv[1:] and (len(sys.argv) != 3 or sys.argv[1] != "--large"):
        sys.exit(__doc__.strip())
    thread = threading.Thread(target=lambda: done.append(main(sys.argv[2] if sys.argv[1:] else None)))
    thread.start()
    thread.join()
    sys.exit(0 if done else 1)
