#!/usr/bin/env python3
"""A strict reader of Dolmen files: format.md as a program, to be read beside it.

    python3 spec/reader.py [--sha256] [--reader] [--all-rules] FILE...

prints one JSON object for each file (vectors/README.md describes it) and exits with 0 if all files are valid, 3 if one is
rejected, 1 if one cannot be read at all. The functions follow the steps of section 10 in their order. Python's integers
are exact, so where the text says "does not fit in a u64" there is a comparison with 2^64 after the arithmetic.

--reader reads as a reader does that is not strict: steps 1 to 9, without metadata and document. --all-rules does not stop at the
first broken rule, but adds all of them to the report, as `breaks`.
"""
import functools
import hashlib
import json
import struct
import sys
import threading
import zlib
from collections import namedtuple

MAGIC = b"\x89DOLMEN\n"
RECORD_MAGIC = b"DOLMREC\n"
U64_END = 1 << 64
SECTIONS = {1: "names", 2: "dims", 3: "tensors", 4: "storages", 5: "blocks", 6: "metadata", 7: "document"}
SECTION_FLAGS = {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 1, 7: 1}
ELEMENT_SIZES = {2: 8, 3: 40, 4: 32, 5: 4}
FIRST_PRIVATE_KIND = 0x80000000
STRIDED, VIEW = 1, 2

DTYPES = {
    0x0001: ("bool", 8), 0x0010: ("u8", 8), 0x0011: ("u16", 16), 0x0012: ("u32", 32), 0x0013: ("u64", 64),
    0x0020: ("i8", 8), 0x0021: ("i16", 16), 0x0022: ("i32", 32), 0x0023: ("i64", 64),
    0x0030: ("f16", 16), 0x0031: ("bf16", 16), 0x0032: ("f32", 32), 0x0033: ("f64", 64),
    0x0040: ("c32", 32), 0x0041: ("c64", 64), 0x0042: ("c128", 128),
    0x0050: ("f8_e4m3fn", 8), 0x0051: ("f8_e4m3fnuz", 8), 0x0052: ("f8_e5m2", 8), 0x0053: ("f8_e5m2fnuz", 8),
    0x0054: ("f8_e8m0fnu", 8), 0x0060: ("f4_e2m1fn_x2", 8), 0x0061: ("f4_e2m1fn", 4), 0x0062: ("f6_e2m3fn", 6),
    0x0063: ("f6_e3m2fn", 6), 0x0070: ("u1", 1), 0x0071: ("u2", 2), 0x0072: ("u4", 4), 0x0078: ("i2", 2),
    0x0079: ("i4", 4), 0x00FF: ("opaque", None),
}

# The failure class of each rule that is not simply Malformed.
FAILURE_CLASS = {
    "HDR-2": "NotThisFormat", "HDR-3": "Corrupt", "HDR-4": "UnsupportedVersion", "HDR-5": "UnsupportedVersion",
    "HDR-12": "Corrupt", "REC-3": "Corrupt", "IDX-1": "Corrupt", "IDX-5": "UnsupportedVersion", "STO-4": "Corrupt",
    "BLK-1": "Corrupt",
}

Header = namedtuple("Header", "major minor index_offset index_len index_crc32 alignment block_len")
Storage = namedtuple("Storage", "data_offset data_len first_block block_count crc32 placed")
Tensor = namedtuple("Tensor", "name dtype bits shape strides strided storage start count extent")


class Rejected(Exception):
    def __init__(self, rule, failure_class, message, offset=None, tensor=None):
        super().__init__(rule, message)
        self.rule, self.failure_class, self.message = rule, failure_class, message
        self.offset, self.tensor = offset, tensor


# With --all-rules, the rules found broken so far: then a broken rule does not end the reading, but only what relies on it.
BROKEN = None


def need(condition, rule, message, offset=None, tensor=None):
    """A rule that what follows relies on."""
    if not condition:
        raise Rejected(rule, FAILURE_CLASS.get(rule, "Malformed"), message, offset, tensor)


def check(condition, rule, message, offset=None, tensor=None):
    """A rule that nothing relies on: with --all-rules the reading goes on. Returns whether it is kept."""
    if BROKEN is None:
        need(condition, rule, message, offset, tensor)
    elif not condition:
        BROKEN.add(rule)
    return condition


def part(step, *arguments):
    """A step that others rely on as little as they rely on each other; with --all-rules None if it could not be done."""
    if BROKEN is None:
        return step(*arguments)
    try:
        return step(*arguments)
    except Rejected as rejected:
        BROKEN.add(rejected.rule)


def round_up(x, a):
    return (x + a - 1) // a * a


# Steps 1 to 5: the header and the trailer.

def read_header(data):
    if len(data) < 8:
        need(data and MAGIC.startswith(data), "HDR-2", "not the magic", 0)
        need(False, "HDR-1", f"the file has only {len(data)} bytes")
    need(data[:8] == MAGIC, "HDR-2", "not the magic", 0)
    need(len(data) >= 128, "HDR-1", f"the file has only {len(data)} bytes")
    (_, major, minor, features, file_len, index_offset, index_len, index_crc32, alignment_log2, block_log2, reserved,
     header_crc32) = struct.unpack("<8sHHIQQQIBB14sI", data[:64])
    check(zlib.crc32(data[:60]) == header_crc32, "HDR-3", "header_crc32 is wrong", 60)
    need(major == 1, "HDR-4", f"the file has version {major}.{minor}", 8)
    need(features == 0, "HDR-5", f"required_features has unknown bits: {features:#010x}", 12)
    need(file_len != 0, "HDR-6", "the file was never committed", 16)
    check(file_len <= len(data), "HDR-7", f"{file_len - len(data)} bytes are missing at the end", 16)
    check(file_len >= len(data), "HDR-7", f"{len(data) - file_len} bytes too many at the end", 16)
    check(not any(reserved), "HDR-8", "reserved bytes of the header are not 0", 46)
    check(6 <= alignment_log2 <= 21, "HDR-9", f"alignment_log2 is {alignment_log2}", 44)
    check(12 <= block_log2 <= 30, "HDR-10", f"block_log2 is {block_log2}", 45)
    need(index_offset % 64 == 0 and index_offset >= 64, "HDR-11", f"index_offset is {index_offset}", 24)
    need(index_len % 8 == 0, "HDR-11", f"index_len is {index_len}", 32)
    need(index_offset + index_len + 64 == file_len, "HDR-11", "the index does not end at the trailer", 24)
    check(data[-64:] == data[:64], "HDR-12", "the trailer is not the header", len(data) - 64)
    # With --all-rules: a file that is too short may have lost its index.
    need(index_offset + index_len <= len(data), "HDR-7", "the end of the index is missing", 16)
    return Header(major, minor, index_offset, index_len, index_crc32, 1 << alignment_log2, 1 << block_log2)


# Steps 6 and 7: the index and its sections.

def read_sections(data, header):
    """The known sections by name; each is a pair of its bytes and its offset in the file."""
    origin = header.index_offset
    index = data[origin:origin + header.index_len]
    check(zlib.crc32(index) == header.index_crc32, "IDX-1", "index_crc32 is wrong", origin)
    need(len(index) >= 8, "IDX-2", "the index has no section table", origin)
    section_count, reserved = struct.unpack("<II", index[:8])
    check(reserved == 0, "IDX-2", "the reserved field of the section table is not 0", origin + 4)
    cursor = 8 + 16 * section_count
    need(cursor <= len(index), "IDX-2", f"the table of {section_count} sections is longer than the index", origin)
    sections, last_kind, placed = {}, -1, True
    for i in range(section_count):
        at = 8 + 16 * i
        kind, flags, section_len = struct.unpack("<IIQ", index[at:at + 16])
        check(kind > last_kind, "IDX-3", f"section kind {kind} after {last_kind}", origin + at)
        last_kind = kind
        check(flags <= 1, "IDX-4", f"section kind {kind} has flags {flags:#x}", origin + at + 4)
        check(flags == SECTION_FLAGS.get(kind, flags), "IDX-4", f"section kind {kind} has flags {flags}", origin + at + 4)
        check(kind < FIRST_PRIVATE_KIND or flags & 1, "IDX-4", f"private section {kind:#x} is not ancillary", origin + at)
        known = kind in SECTIONS or kind >= FIRST_PRIVATE_KIND
        check(known or flags & 1, "IDX-5", f"unknown section kind {kind}", origin + at)
        size = ELEMENT_SIZES.get(kind, 1)
        placed = check(section_len % size == 0, "IDX-8", f"{SECTIONS.get(kind)} has {section_len} bytes", origin + at + 8) and placed
        end = cursor + section_len
        within = round_up(end, 8) <= len(index)
        placed = check(within, "IDX-7", f"section kind {kind} ends after the index", origin + at) and placed
        check(not any(index[end:round_up(end, 8)]), "IDX-7", f"padding after section kind {kind} is not 0", origin + end)
        if kind in SECTIONS:
            sections[SECTIONS[kind]] = (index[cursor:end], origin + cursor)
        cursor = round_up(end, 8)
    check(cursor == len(index), "IDX-7", "bytes after the last section", origin + cursor)
    for kind, flags in SECTION_FLAGS.items():
        there = flags == 1 or SECTIONS[kind] in sections
        placed = check(there, "IDX-6", f"there is no section {SECTIONS[kind]}", origin) and placed
    return sections if placed else None


# Step 8: sections 6.1 and 6.2.

class Index:
    """The tables of the index. `storage` and `tensor` check the rules as far as they speak of one record alone, `check_storages`
    and `check_tensors` the rest."""

    def __init__(self, header, sections):
        self.header = header
        self.names, self.names_offset = sections["names"]
        self.dims = [dim for dim, in struct.iter_unpack("<Q", sections["dims"][0])]
        self.dims_offset = sections["dims"][1]
        self.tensor_records = list(struct.iter_unpack("<QQQIIHBBI", sections["tensors"][0]))
        self.tensors_offset = sections["tensors"][1]
        self.storage_records = list(struct.iter_unpack("<QQQII", sections["storages"][0]))
        self.storages_offset = sections["storages"][1]
        self.blocks = [crc for crc, in struct.iter_unpack("<I", sections["blocks"][0])]
        self.blocks_offset = sections["blocks"][1]

    def storage(self, number):
        at = self.storages_offset + 32 * number
        data_offset, data_len, first_block, crc32, reserved = self.storage_records[number]
        check(reserved == 0, "STO-5", f"the reserved field of storage {number} is not 0", at + 28)
        aligned = check(data_offset % self.header.alignment == 0, "STO-1",
                        f"storage {number} begins at {data_offset}, not aligned", at)
        inside = check(data_offset >= 64 and data_offset + data_len <= self.header.index_offset, "STO-1",
                       f"storage {number} has {data_len} bytes at {data_offset}, not between header and index", at)
        block_count = round_up(data_len, self.header.block_len) // self.header.block_len
        listed = check(first_block + block_count <= len(self.blocks), "STO-3",
                       f"storage {number} has more blocks than there are", at + 16)
        return Storage(data_offset, data_len, first_block, block_count, crc32, aligned and inside and listed)

    def check_storages(self, storages):
        next_block, last_end = 0, None
        for number, storage in enumerate(storages):
            at = self.storages_offset + 32 * number
            check(last_end is None or storage.data_offset > last_end, "STO-2",
                  f"storage {number} does not begin after the end of the one before it", at)
            last_end = storage.data_offset + storage.data_len
            check(storage.first_block == next_block, "STO-3",
                  f"storage {number}: first_block {storage.first_block}, not {next_block}", at + 16)
            next_block += storage.block_count
            if storage.placed:
                combined = 0
                for n, block in enumerate(self.blocks_of(storage)):
                    block_len = min(self.header.block_len, storage.data_len - n * self.header.block_len)
                    combined = crc32_combine(combined, block, block_len)
                check(combined == storage.crc32, "STO-4",
                      f"the blocks of storage {number} combine to {combined:08x}, not {storage.crc32:08x}", at + 24)
        check(next_block == len(self.blocks), "STO-3", f"{len(self.blocks)} elements in blocks, {next_block} in use",
              self.blocks_offset)

    def blocks_of(self, storage):
        return self.blocks[storage.first_block:storage.first_block + storage.block_count]

    def tensor(self, number):
        at = self.tensors_offset + 40 * number
        first_name_byte, first_dim, start, name_len, storage, dtype, rank, flags, bits = self.tensor_records[number]
        check(name_len <= 65535, "TEN-3", f"tensor {number}: name of {name_len} bytes", at + 24)
        name, text = None, None
        if check(first_name_byte + name_len <= len(self.names), "TEN-1", f"tensor {number}: name ends after names", at):
            name = self.names[first_name_byte:first_name_byte + name_len]
            text = name.decode("utf-8", "replace")
            check(decodes(name, "strict"), "TEN-2", f"tensor {number}: name is not UTF-8", self.names_offset + first_name_byte)

        check(flags & ~STRIDED == 0, "TEN-6", f"flags are {flags:#x}", at + 35, text)
        strided = flags & STRIDED != 0
        numbers = self.dims[first_dim:first_dim + rank * (2 if strided else 1)]
        there = check(first_dim + rank * (2 if strided else 1) <= len(self.dims), "TEN-5", "dims end after the end of dims",
                      at + 8, text)
        shape, strides = (numbers[:rank], numbers[rank:]) if there else ([], [])

        typed = check(dtype != 0, "TEN-7", "dtype is 0", at + 32, text)
        typed = check(bits >= 1, "TEN-7", "bits is 0", at + 36, text) and typed
        listed = DTYPES.get(dtype, (None, None))[1]
        typed = check(listed in (None, bits), "TEN-7", f"dtype {dtype:#06x} with {bits} bits", at + 36, text) and typed

        contiguous, run = [], 1
        for dim in reversed(shape):
            contiguous.insert(0, run)
            run *= max(dim, 1)
        counted = check(run * bits < U64_END, "TEN-8", "the number of bits overflows", at, text)
        if not strided:
            strides = contiguous
        elif there:
            check(strides != contiguous, "TEN-12", "strides given, but they are the contiguous ones", at, text)
            counted = check(bits % 8 == 0, "TEN-12", f"strides, but {bits} bits", at, text) and counted

        stored = check(storage < len(self.storage_records), "TEN-9", f"storage {storage} of {len(self.storage_records)}",
                       at + 28, text)
        if typed:
            check(bits % 8 != 0 or start % (bits // 8) == 0, "TEN-10", f"start {start} with {bits} bits", at + 16, text)
        count = 0 if 0 in shape else run
        if count == 0:
            extent = 0
        elif strided:
            extent = (1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides))) * (bits // 8)
        else:
            extent = (count * bits + 7) // 8
        if there and typed and counted and stored:
            # The length of the data is less than 2^64, so a sum that overflows is rejected too.
            data_len = self.storage_records[storage][1]
            check(start + extent <= data_len, "TEN-11", f"{extent} bytes at {start} in a storage of {data_len}", at + 16, text)
        return Tensor(name, dtype, bits, shape, strides, strided, storage, start, count, extent)

    def check_tensors(self, tensors):
        next_name, next_dim, last_name = 0, 0, None
        for number, tensor in enumerate(tensors):
            at = self.tensors_offset + 40 * number
            first_name_byte, first_dim, _, name_len, _, _, rank, _, _ = self.tensor_records[number]
            check(first_name_byte == next_name, "TEN-1", f"tensor {number}: name at {first_name_byte}, not {next_name}", at)
            next_name = first_name_byte + name_len
            check(None in (last_name, tensor.name) or tensor.name > last_name, "TEN-4", "name not after the one before it", at)
            last_name = tensor.name
            check(first_dim == next_dim, "TEN-5", f"tensor {number}: dims at {first_dim}, not {next_dim}", at + 8)
            next_dim = first_dim + rank * (2 if tensor.strided else 1)
        check(next_name == len(self.names), "TEN-1", "bytes after the last name", self.names_offset + next_name)
        check(next_dim == len(self.dims), "TEN-5", "elements after the last dim", self.dims_offset + 8 * next_dim)


def multiply(a, b):
    """The product of two polynomials modulo that of CRC-32; bit 31 is the coefficient of x^0, as in the CRC itself."""
    product = 0
    while a:
        if a & 0x80000000:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return product


@functools.lru_cache(maxsize=16)
def x_to_the(n):
    """x^(8n): what a CRC is multiplied by when n bytes follow."""
    power, square = 1 << 31, 1 << 23
    while n:
        power = multiply(power, square) if n & 1 else power
        square, n = multiply(square, square), n >> 1
    return power


def crc32_combine(first, second, second_len):
    return multiply(first, x_to_the(second_len)) ^ second


# Step 9: the data.

def check_blocks(data, index, number, storage, begin, end):
    """The blocks that hold bytes `begin` to `end` of a storage."""
    block_len = index.header.block_len
    for n, at in enumerate(range(0, storage.data_len, block_len)):
        if at < end and begin < at + block_len:
            stored = data[storage.data_offset + at:storage.data_offset + min(at + block_len, storage.data_len)]
            check(zlib.crc32(stored) == index.blocks[storage.first_block + n], "BLK-1",
                  f"block {n} of storage {number} is corrupt", storage.data_offset + at)


# Step 10: metadata and document. CBOR items become Python values: int, str, bytes, list, bool and None as they are, and:

Float = namedtuple("Float", "bits64")         # the bits of the double with the same value
Map = namedtuple("Map", "pairs")
Tag = namedtuple("Tag", "number content")

BIGNUM, NEGATIVE_BIGNUM, SHAREABLE, SHARED_REF, COMPLEX = 2, 3, 28, 29, 43000
(TENSOR, TUPLE, SET, FROZENSET, DICT, OTHER_DICT, BYTEARRAY, WTF8, GLOBAL, OBJECT) = range(0x444F4C01, 0x444F4C0B)
TAG_NAMES = {
    SHAREABLE: "shareable", SHARED_REF: "shared_ref", COMPLEX: "complex", TENSOR: "tensor", TUPLE: "tuple", SET: "set",
    FROZENSET: "frozenset", DICT: "dict", OTHER_DICT: "other_dict", BYTEARRAY: "bytearray", WTF8: "wtf8",
    GLOBAL: "global", OBJECT: "object",
}
DEPTH = 1024
HALF, SINGLE = (">e", 10), (">f", 23)          # struct's code, bits of the fraction


def bits_of(value):
    return int.from_bytes(struct.pack(">d", value), "big")


def value_of(bits64):
    return struct.unpack(">d", bits64.to_bytes(8, "big"))[0]


def widen(raw, code, fraction_bits):
    """The bits of the double with the value of a half or single. NaNs by hand: conversion in hardware changes some."""
    value, = struct.unpack(code, raw)
    if value == value:
        return bits_of(value)
    bits = int.from_bytes(raw, "big")
    return raw[0] >> 7 << 63 | 0x7FF << 52 | (bits & (1 << fraction_bits) - 1) << 52 - fraction_bits


def fits(bits64, code, fraction_bits):
    """Whether a half or single has every bit of this double."""
    value = value_of(bits64)
    if value != value:
        return bits64 & (1 << 52 - fraction_bits) - 1 == 0
    try:
        return struct.unpack(code, struct.pack(code, value))[0] == value
    except OverflowError:
        return False


class Decoder:
    """RFC 8949 in deterministic encoding, VAL-1 and VAL-3."""

    def __init__(self, data, offset):
        self.data, self.offset, self.cursor = data, offset, 0

    def need(self, condition, message, rule="VAL-1"):
        need(condition, rule, message, self.offset + self.cursor)

    def check(self, condition, message):
        check(condition, "VAL-1", message, self.offset + self.cursor)

    def take(self, n):
        self.need(n <= len(self.data) - self.cursor, f"{n} bytes wanted, {len(self.data) - self.cursor} left")
        self.cursor += n
        return self.data[self.cursor - n:self.cursor]

    def head(self):
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        self.need(info < 28, "indefinite length, break or reserved head")
        if info < 24:
            return major, info, info
        argument = int.from_bytes(self.take(1 << info - 24), "big")
        if major != 7:
            self.check(argument >= (24, 1 << 8, 1 << 16, 1 << 32)[info - 24], "head is not the shortest")
        return major, info, argument

    def item(self, depth=0):
        major, info, argument = self.head()
        if major in (4, 5, 6):
            self.need(depth < DEPTH, f"more than {DEPTH} levels", "VAL-3")
        if major == 0:
            return argument
        if major == 1:
            return -1 - argument
        if major == 2:
            return self.take(argument)
        if major == 3:
            try:
                return self.take(argument).decode("utf-8")
            except UnicodeDecodeError:
                self.need(False, "text is not UTF-8")
        if major == 4:
            # An item has at least one byte, so a count that is too great is known before anything is built.
            self.need(argument <= len(self.data) - self.cursor, f"array of {argument} items")
            return [self.item(depth + 1) for _ in range(argument)]
        if major == 5:
            self.need(2 * argument <= len(self.data) - self.cursor, f"map of {argument} pairs")
            return self.map(argument, depth)
        if major == 6:
            return Tag(argument, self.item(depth + 1))
        if info in (20, 21, 22):
            return {20: False, 21: True, 22: None}[info]
        self.need(info in (25, 26, 27), "simple value other than false, true and null")
        return self.float(self.data[self.cursor - (1 << info - 24):self.cursor])

    def map(self, count, depth):
        pairs, last = [], b""
        for _ in range(count):
            begin = self.cursor
            key = self.item(depth + 1)
            encoded = self.data[begin:self.cursor]
            self.check(encoded > last, "map keys are not in ascending order")
            last = encoded
            pairs.append((key, self.item(depth + 1)))
        return Map(pairs)

    def float(self, raw):
        bits64 = int.from_bytes(raw, "big")
        if len(raw) < 8:
            bits64 = widen(raw, *(HALF if len(raw) == 2 else SINGLE))
        self.check(len(raw) < 4 or not fits(bits64, *HALF), "a float that fits in half precision")
        self.check(len(raw) < 8 or not fits(bits64, *SINGLE), "a float that fits in single precision")
        return Float(bits64)


class Checker:
    """VAL-2, VAL-4, VAL-5 and VAL-6 for one decoded item."""

    def __init__(self, section, names, offset):
        self.section, self.names, self.offset, self.begun = section, names, offset, 0

    def check(self, condition, rule, message):
        return check(condition, rule, f"{self.section}: {message}", self.offset)

    def visit(self, item):
        if type(item) is list:
            for element in item:
                self.visit(element)
        elif type(item) is Map:
            self.check(self.section == "metadata", "VAL-6", "a plain map")
            self.visit_map(item)
        elif type(item) is Tag:
            # What is not as listed, or must not be here at all, is not looked into.
            known = item.number in TAG_NAMES or item.number in (BIGNUM, NEGATIVE_BIGNUM)
            allowed = self.section == "document" or item.number not in (SHAREABLE, SHARED_REF, TENSOR, GLOBAL, OBJECT)
            if self.check(known, "VAL-2", f"tag {item.number}") and \
                    self.check(allowed, "VAL-5", f"{TAG_NAMES.get(item.number)} within metadata"):
                good = self.visit_tag(item.number, item.content)
                self.check(good, "VAL-2", f"the content of tag {item.number} is not as listed")

    def visit_map(self, item):
        for key, value in item.pairs:
            self.check(type(key) is str, "VAL-5" if self.section == "metadata" else "VAL-6", "a map key that is not text")
            self.visit(value)

    def visit_entries(self, content):
        good = type(content) is list and len(content) % 2 == 0
        self.visit(content if good else [])
        return good

    def visit_tag(self, number, content):
        """Whether the content is as listed. What lies within it is visited."""
        good = True
        if number in (BIGNUM, NEGATIVE_BIGNUM):
            good = type(content) is bytes and len(content) > 8 and content[0] != 0
        elif number == SHAREABLE:
            self.begun += 1
            good = type(content) is not Tag or content.number not in (SHAREABLE, SHARED_REF)
            self.visit(content if good else None)
        elif number == SHARED_REF:
            good = type(content) is int and 0 <= content < self.begun
        elif number == COMPLEX:
            good = type(content) is list and [type(part) for part in content] == [Float, Float]
        elif number == TENSOR:
            name, how = content, Map([])
            if type(content) is list and len(content) == 2:
                name, how = content
                good = type(how) is Map and len(how.pairs) > 0
            good = good and type(name) is str
            if good:
                self.check(name.encode() in self.names, "VAL-4", f"there is no tensor {ascii(name):.99}")
                self.visit_map(how)
        elif number in (TUPLE, SET, FROZENSET):
            good = type(content) is list
            self.visit(content if good else [])
        elif number == DICT:
            good = self.visit_entries(content)
        elif number == OTHER_DICT:
            good = type(content) is list and len(content) == 4 and content[0] in ("ordered", "default", "counter")
            if good:
                good = self.visit_entries(content[1])
                self.visit(content[2:])
                good = good and (content[0] == "default" or content[2] is None)
        elif number == BYTEARRAY:
            good = type(content) is bytes
        elif number == WTF8:
            good = type(content) is bytes and decodes(content, "surrogatepass") and not decodes(content, "strict")
        elif number == GLOBAL:
            good = type(content) is list and [type(part) for part in content] == [str, str]
        elif number == OBJECT:
            good = type(content) is Map and self.visit_object(content)
        return good

    def visit_object(self, content):
        is_array = lambda value: type(value) is list
        is_tag = lambda value, number: type(value) is Tag and value.number == number
        forms = {
            "class": lambda value: True, "args": lambda value: is_array(value) or is_tag(value, TUPLE),
            "kwargs": lambda value: is_tag(value, DICT), "state": lambda value: True, "items": is_array,
            "entries": lambda value: is_array(value) and len(value) % 2 == 0, "new": lambda value: type(value) is str,
        }
        keys = [key for key, _ in content.pairs]
        good = "class" in keys
        for key, value in content.pairs:
            if self.check(type(key) is str, "VAL-6", "a map key that is not text"):
                as_listed = key in forms and forms[key](value)
                self.visit(value if as_listed else None)
                good = good and as_listed
        return good


def decodes(content, errors):
    try:
        content.decode("utf-8", errors)
    except UnicodeDecodeError:
        return False
    return True


def read_value(sections, section, tensors):
    """The decoded item of a section, or None if there is no such section."""
    if section not in sections:
        return None
    content, offset = sections[section]
    decoder = Decoder(content, offset)
    item = decoder.item()
    decoder.check(decoder.cursor == len(content), "bytes after the item")
    if section == "metadata":
        need(type(item) is Map and len(item.pairs) > 0, "VAL-5", "metadata is not a map with entries", offset)
    Checker(section, {tensor.name for tensor in tensors}, offset).visit(item)
    return item


# The walk of section 3.

def walk_records(data, header, tensors, storages):
    by_name = {tensor.name: tensor for tensor in tensors}
    seen, introduced, cursor = set(), 0, 64
    while cursor < header.index_offset:
        at = cursor
        need(data[at:at + 8] == RECORD_MAGIC and at + 64 <= header.index_offset, "REC-1", "no descriptor here", at)
        (_, descriptor_len, storage, data_offset, data_len, start, data_crc32, bits, dtype, rank, flags, name_len,
         reserved) = struct.unpack("<8sIIQQQIIHBBI8s", data[at:at + 64])
        numbers = rank * (2 if flags & STRIDED else 1)
        name_end = at + 64 + 8 * numbers + name_len
        end = at + round_up(name_end - at + 4, 8)
        need(at + descriptor_len == end, "REC-2", f"descriptor_len {descriptor_len}, not {end - at}", at + 8)
        need(end <= header.index_offset, "REC-2", "descriptor ends after index_offset", at + 8)
        whole = zlib.crc32(data[at:end - 4]) == int.from_bytes(data[end - 4:end], "little")
        check(whole, "REC-3", "CRC is wrong", end - 4)
        tensor = by_name.get(data[name_end - name_len:name_end])
        # With --all-rules: the fields of a damaged descriptor are not judged, and without its name it says nothing.
        need(whole or tensor, "REC-3", "CRC is wrong", end - 4)
        if whole:
            check(not any(reserved), "REC-4", "reserved bytes are not 0", at + 56)
            check(flags & ~(STRIDED | VIEW) == 0, "REC-4", f"flags are {flags:#x}", at + 51)
            check(not any(data[name_end:end - 4]), "REC-4", "padding of the descriptor is not 0", name_end)
            check(tensor, "REC-5", "the index has no tensor of this name", at)
        name, listed = None, Storage(round_up(end, header.alignment), data_len, None, None, data_crc32, True)
        if tensor:
            name, listed = tensor.name.decode(), storages[tensor.storage]
            check(name not in seen, "REC-6", "a second descriptor of this tensor", at, name)
            seen.add(name)
        if tensor and whole:
            shape_and_strides = list(struct.unpack(f"<{numbers}Q", data[at + 64:at + 64 + 8 * numbers]))
            for field, here, there in (
                    ("storage", storage, tensor.storage), ("start", start, tensor.start), ("bits", bits, tensor.bits),
                    ("dtype", dtype, tensor.dtype), ("STRIDED", bool(flags & STRIDED), tensor.strided),
                    ("shape", shape_and_strides, tensor.shape + (tensor.strides if tensor.strided else [])),
                    ("data_offset", data_offset, listed.data_offset), ("data_len", data_len, listed.data_len),
                    ("data_crc32", data_crc32, listed.crc32)):
                check(here == there, "REC-5", f"{field} is not that of the index", at, name)
        if flags & VIEW:
            check(storage < introduced, "REC-7", f"a view of storage {storage}, not introduced yet", at, name)
        else:
            if check(storage == introduced, "REC-7", f"storage {storage} is introduced, not {introduced}", at, name):
                placed = listed.data_offset == round_up(end, header.alignment)
                check(placed, "REC-1", "data not where section 3 puts it", at, name)
                check(not any(data[end:listed.data_offset]), "REC-8", "padding before the data is not 0", end, name)
                end = max(end, listed.data_offset + listed.data_len)
            introduced += 1
        cursor = round_up(end, 64)
        check(not any(data[end:cursor]), "REC-8", "padding after the record is not 0", end, name)
    check(len(seen) == len(tensors), "REC-6", f"{len(tensors) - len(seen)} tensors have no descriptor", cursor)
    check(introduced == len(storages), "REC-7", f"{len(storages) - introduced} storages are not introduced", cursor)


# The report.

def render(item):
    """JSON for a decoded item, as vectors/README.md describes it."""
    if type(item) is int:
        if abs(item) <= 1 << 53:
            return item
        return {"$int": str(item) if item.bit_length() <= 4096 else hex(item)}
    if type(item) is Float:
        return value_of(item.bits64) if item.bits64 >> 52 & 0x7FF != 0x7FF else {"$float": f"{item.bits64:016x}"}
    if type(item) is bytes:
        return {"$bytes": item.hex()}
    if type(item) is list:
        return [render(element) for element in item]
    if type(item) is Map:
        return {"$" + key if key.startswith("$") else key: render(value) for key, value in item.pairs}
    if type(item) is Tag and item.number in (BIGNUM, NEGATIVE_BIGNUM):
        n = int.from_bytes(item.content, "big")
        return render(n if item.number == BIGNUM else -1 - n)
    if type(item) is Tag:
        return {"$" + TAG_NAMES[item.number]: render(item.content)}
    return item


def logical_bytes(data, tensor, storage):
    """The elements in row-major order; None where there would be too many. A stride may be 0, so a small file may ask
    for any amount."""
    if tensor.count > 1000000 or tensor.count * tensor.bits > 1 << 27:
        return None
    begin = storage.data_offset + tensor.start
    if not tensor.strided or tensor.count == 0:
        return data[begin:begin + tensor.extent]
    size, offsets = tensor.bits // 8, [begin]
    for dim, stride in zip(tensor.shape, tensor.strides):
        offsets = [at + i * stride * size for at in offsets for i in range(dim)] if dim > 1 else offsets
    return b"".join(data[at:at + size] for at in offsets)


def describe(data, tensor, storage, with_sha256):
    report = {
        "name": tensor.name.decode(), "dtype": DTYPES.get(tensor.dtype, (f"unknown(0x{tensor.dtype:04X})",))[0],
        "bits": tensor.bits, "shape": tensor.shape, "strides": tensor.strides, "storage": tensor.storage,
        "start": tensor.start, "byte_len": tensor.extent, "crc32": f"{storage.crc32:08x}",
    }
    if with_sha256:
        content = logical_bytes(data, tensor, storage)
        report["sha256"] = "" if content is None else hashlib.sha256(content).hexdigest()
    return report


def accepted(header, tensors):
    return {"verdict": "ok", "rule": None, "class": None, "message": None, "format_version": f"{header.major}.{header.minor}",
            "tensors": tensors}


def verify(data, with_sha256=False):
    """Does all that section 10 asks of a strict reader; the report of a valid file, or Rejected."""
    header = part(read_header, data)
    sections = header and part(read_sections, data, header)
    if not sections:
        return None
    index = Index(header, sections)
    storages = [index.storage(number) for number in range(len(index.storage_records))]
    index.check_storages(storages)
    tensors = [index.tensor(number) for number in range(len(index.tensor_records))]
    index.check_tensors(tensors)
    # Records are compared with an index that can be relied on, and with no other.
    sound = not BROKEN
    for number, storage in enumerate(storages):
        if storage.placed:
            check_blocks(data, index, number, storage, 0, storage.data_len)
    metadata = part(read_value, sections, "metadata", tensors)
    document = part(read_value, sections, "document", tensors)
    if sound:
        part(walk_records, data, header, tensors, storages)
    if BROKEN is not None:
        return None
    described = [describe(data, tensor, storages[tensor.storage], with_sha256) for tensor in tensors]
    return dict(accepted(header, described), metadata=render(metadata), has_document="document" in sections,
                document=render(document))


def read(data, with_sha256=False):
    """Steps 1 to 9 and no more, for each tensor in turn: a reader that is not strict, and has no metadata and documents."""
    header = read_header(data)
    index = Index(header, read_sections(data, header))
    described = []
    for number in range(len(index.tensor_records)):
        tensor = index.tensor(number)
        storage = index.storage(tensor.storage)
        if tensor.extent > 0:
            check_blocks(data, index, tensor.storage, storage, tensor.start, tensor.start + tensor.extent)
        described.append(describe(data, tensor, storage, with_sha256))
    return accepted(header, described)


def broken_rules(data):
    """Every rule that a file breaks, as far as each can be judged."""
    global BROKEN
    BROKEN = set()
    try:
        verify(data)
        return sorted(BROKEN, key=lambda rule: (rule[:3], int(rule[4:])))
    finally:
        BROKEN = None


def main(arguments):
    options = [argument for argument in arguments if argument in ("--sha256", "--reader", "--all-rules")]
    paths = arguments[len(options):]
    if not paths or paths[0].startswith("--"):
        print("usage: reader.py [--sha256] [--reader] [--all-rules] FILE...", file=sys.stderr)
        return 1
    status = 0
    for path in paths:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            status = 1
            continue
        report = {"path": path}
        try:
            report.update((read if "--reader" in options else verify)(data, "--sha256" in options))
        except Rejected as rejected:
            report.update({"verdict": "rejected", "rule": rejected.rule, "class": rejected.failure_class,
                           "message": rejected.message, "offset": rejected.offset, "tensor": rejected.tensor})
            status = status or 3
        if "--all-rules" in options:
            report["breaks"] = broken_rules(data)
        print(json.dumps(report))
    return status


if __name__ == "__main__":
    # Values nest up to 1024 deep, and each level takes a few calls: more than Python allows without being told.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main(sys.argv[1:])))
    thread.start()
    thread.join()
    sys.exit(statuses[0] if statuses else 1)
