#!/usr/bin/env python3
"""A strict reader of Dolmen files: format.md as a program, to be read beside it.

    python3 spec/reader.py [--sha256] FILE...

prints one JSON object for each file (vectors/README.md describes it) and exits with 0 if all files are valid, 3 if one is
rejected, 1 if one cannot be read at all. The functions follow the steps of section 10 in their order. Python's integers
are exact, so where the text says "does not fit in a u64" there is a comparison with 2^64 after the arithmetic.
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
Storage = namedtuple("Storage", "data_offset data_len first_block crc32")
Tensor = namedtuple("Tensor", "name dtype bits shape strides strided storage start count extent")


class Rejected(Exception):
    def __init__(self, rule, failure_class, message, offset=None, tensor=None):
        super().__init__(rule, message)
        self.rule, self.failure_class, self.message = rule, failure_class, message
        self.offset, self.tensor = offset, tensor


def need(condition, rule, message, offset=None, tensor=None):
    if not condition:
        raise Rejected(rule, FAILURE_CLASS.get(rule, "Malformed"), message, offset, tensor)


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
    need(zlib.crc32(data[:60]) == header_crc32, "HDR-3", "header_crc32 is wrong", 60)
    need(major == 1, "HDR-4", f"the file has version {major}.{minor}", 8)
    need(features == 0, "HDR-5", f"required_features has unknown bits: {features:#010x}", 12)
    need(file_len != 0, "HDR-6", "the file was never committed", 16)
    need(file_len <= len(data), "HDR-7", f"{file_len - len(data)} bytes are missing at the end", 16)
    need(file_len == len(data), "HDR-7", f"{len(data) - file_len} bytes too many at the end", 16)
    need(not any(reserved), "HDR-8", "reserved bytes of the header are not 0", 46)
    need(6 <= alignment_log2 <= 21, "HDR-9", f"alignment_log2 is {alignment_log2}", 44)
    need(12 <= block_log2 <= 30, "HDR-10", f"block_log2 is {block_log2}", 45)
    need(index_offset % 64 == 0 and index_offset >= 64, "HDR-11", f"index_offset is {index_offset}", 24)
    need(index_len % 8 == 0, "HDR-11", f"index_len is {index_len}", 32)
    need(index_offset + index_len + 64 == file_len, "HDR-11", "the index does not end at the trailer", 24)
    need(data[-64:] == data[:64], "HDR-12", "the trailer is not the header", len(data) - 64)
    return Header(major, minor, index_offset, index_len, index_crc32, 1 << alignment_log2, 1 << block_log2)


# Steps 6 and 7: the index and its sections.

def read_sections(data, header):
    """The known sections by name; each is a pair of its bytes and its offset in the file."""
    origin = header.index_offset
    index = data[origin:origin + header.index_len]
    need(zlib.crc32(index) == header.index_crc32, "IDX-1", "index_crc32 is wrong", origin)
    need(len(index) >= 8, "IDX-2", "the index has no section table", origin)
    section_count, reserved = struct.unpack("<II", index[:8])
    need(reserved == 0, "IDX-2", "the reserved field of the section table is not 0", origin + 4)
    cursor = 8 + 16 * section_count
    need(cursor <= len(index), "IDX-2", f"the table of {section_count} sections is longer than the index", origin)
    sections, last_kind = {}, -1
    for i in range(section_count):
        at = 8 + 16 * i
        kind, flags, section_len = struct.unpack("<IIQ", index[at:at + 16])
        need(kind > last_kind, "IDX-3", f"section kind {kind} after {last_kind}", origin + at)
        last_kind = kind
        need(flags <= 1, "IDX-4", f"section kind {kind} has flags {flags:#x}", origin + at + 4)
        need(flags == SECTION_FLAGS.get(kind, flags), "IDX-4", f"section kind {kind} has flags {flags}", origin + at + 4)
        need(kind < FIRST_PRIVATE_KIND or flags & 1, "IDX-4", f"private section {kind:#x} is not ancillary", origin + at)
        need(kind in SECTIONS or flags & 1, "IDX-5", f"unknown section kind {kind}", origin + at)
        end = cursor + section_len
        need(round_up(end, 8) <= len(index), "IDX-7", f"section kind {kind} ends after the index", origin + at)
        need(not any(index[end:round_up(end, 8)]), "IDX-7", f"padding after section kind {kind} is not 0", origin + end)
        if kind in SECTIONS:
            sections[SECTIONS[kind]] = (index[cursor:end], origin + cursor)
        cursor = round_up(end, 8)
    for kind, flags in SECTION_FLAGS.items():
        need(flags == 1 or SECTIONS[kind] in sections, "IDX-6", f"there is no section {SECTIONS[kind]}", origin)
    need(cursor == len(index), "IDX-7", "bytes after the last section", origin + cursor)
    for name, size in (("dims", 8), ("tensors", 40), ("storages", 32), ("blocks", 4)):
        content, offset = sections[name]
        need(len(content) % size == 0, "IDX-8", f"{name} has {len(content)} bytes", offset)
    return sections


# Step 8, for all records: sections 6.1 and 6.2.

def read_storages(sections, header):
    table, offset = sections["storages"]
    blocks = [crc for crc, in struct.iter_unpack("<I", sections["blocks"][0])]
    storages, next_block, last_end = [], 0, 64
    for i, (data_offset, data_len, first_block, crc32, reserved) in enumerate(struct.iter_unpack("<QQQII", table)):
        at = offset + 32 * i
        need(reserved == 0, "STO-5", f"the reserved field of storage {i} is not 0", at + 28)
        need(data_offset % header.alignment == 0, "STO-1", f"storage {i} begins at {data_offset}, not aligned", at)
        need(data_offset >= 64 and data_offset + data_len <= header.index_offset, "STO-1",
             f"storage {i} has {data_len} bytes at {data_offset}, not between header and index", at)
        need(data_offset >= last_end, "STO-2", f"storage {i} begins before the end of the one before it", at)
        last_end = data_offset + data_len
        need(first_block == next_block, "STO-3", f"storage {i}: first_block {first_block}, not {next_block}", at + 16)
        next_block += round_up(data_len, header.block_len) // header.block_len
        need(next_block <= len(blocks), "STO-3", f"storage {i} has more blocks than are left", at + 16)
        combined = 0
        for n, block in enumerate(blocks[first_block:next_block]):
            combined = crc32_combine(combined, block, min(header.block_len, data_len - n * header.block_len))
        need(combined == crc32, "STO-4", f"the blocks of storage {i} combine to {combined:08x}, not {crc32:08x}", at + 24)
        storages.append(Storage(data_offset, data_len, first_block, crc32))
    need(next_block == len(blocks), "STO-3", f"{len(blocks)} elements in blocks, {next_block} in use", sections["blocks"][1])
    return storages, blocks


def read_tensors(sections, storages):
    names, names_offset = sections["names"]
    dims = [dim for dim, in struct.iter_unpack("<Q", sections["dims"][0])]
    table, offset = sections["tensors"]
    tensors, next_name, next_dim, last_name = [], 0, 0, None
    for i, record in enumerate(struct.iter_unpack("<QQQIIHBBI", table)):
        first_name_byte, first_dim, start, name_len, storage, dtype, rank, flags, bits = record
        at = offset + 40 * i
        need(first_name_byte == next_name, "TEN-1", f"tensor {i}: name at {first_name_byte}, not {next_name}", at)
        need(name_len <= 65535, "TEN-3", f"tensor {i}: name of {name_len} bytes", at + 24)
        next_name += name_len
        need(next_name <= len(names), "TEN-1", f"tensor {i}: name ends after the end of names", at)
        name = names[first_name_byte:next_name]
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError:
            need(False, "TEN-2", f"tensor {i}: name is not UTF-8", names_offset + first_name_byte)
        need(last_name is None or name > last_name, "TEN-4", "name not after the one before it", at, text)
        last_name = name

        need(flags & ~STRIDED == 0, "TEN-6", f"flags are {flags:#x}", at + 35, text)
        strided = flags == STRIDED
        need(first_dim == next_dim, "TEN-5", f"dims at {first_dim}, not {next_dim}", at + 8, text)
        next_dim += rank * (2 if strided else 1)
        need(next_dim <= len(dims), "TEN-5", "dims end after the end of dims", at + 8, text)
        shape = dims[first_dim:first_dim + rank]

        need(dtype != 0, "TEN-7", "dtype is 0", at + 32, text)
        need(bits >= 1, "TEN-7", "bits is 0", at + 36, text)
        listed = DTYPES.get(dtype, (None, None))[1]
        need(listed in (None, bits), "TEN-7", f"dtype {dtype:#06x} with {bits} bits", at + 36, text)

        contiguous, run = [], 1
        for dim in reversed(shape):
            contiguous.insert(0, run)
            run *= max(dim, 1)
        need(run * bits < U64_END, "TEN-8", "the number of bits overflows", at, text)
        strides = dims[first_dim + rank:next_dim] if strided else contiguous
        need(not strided or strides != contiguous, "TEN-12", "strides given, but they are the contiguous ones", at, text)
        need(not strided or bits % 8 == 0, "TEN-12", f"strides, but {bits} bits", at, text)

        need(storage < len(storages), "TEN-9", f"storage {storage} of {len(storages)}", at + 28, text)
        need(bits % 8 != 0 or start % (bits // 8) == 0, "TEN-10", f"start {start} with {bits} bits", at + 16, text)
        count = 0 if 0 in shape else run
        if count == 0:
            extent = 0
        elif strided:
            extent = (1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides))) * (bits // 8)
        else:
            extent = (count * bits + 7) // 8
        # The length of the data is less than 2^64, so a sum that overflows is rejected too.
        need(start + extent <= storages[storage].data_len, "TEN-11",
             f"{extent} bytes at {start} in a storage of {storages[storage].data_len}", at + 16, text)
        tensors.append(Tensor(name, dtype, bits, shape, strides, strided, storage, start, count, extent))
    need(next_name == len(names), "TEN-1", "bytes after the last name", names_offset + next_name)
    need(next_dim == len(dims), "TEN-5", "elements after the last dim", sections["dims"][1] + 8 * next_dim)
    return tensors


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

def check_blocks(data, header, storages, blocks):
    for number, storage in enumerate(storages):
        for n, at in enumerate(range(0, storage.data_len, header.block_len)):
            begin = storage.data_offset + at
            end = storage.data_offset + min(at + header.block_len, storage.data_len)
            need(zlib.crc32(data[begin:end]) == blocks[storage.first_block + n], "BLK-1",
                 f"block {n} of storage {number} is corrupt", begin)


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
            self.need(argument >= (24, 1 << 8, 1 << 16, 1 << 32)[info - 24], "head is not the shortest")
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
            self.need(encoded > last, "map keys are not in ascending order")
            last = encoded
            pairs.append((key, self.item(depth + 1)))
        return Map(pairs)

    def float(self, raw):
        bits64 = int.from_bytes(raw, "big")
        if len(raw) < 8:
            bits64 = widen(raw, *(HALF if len(raw) == 2 else SINGLE))
        self.need(len(raw) < 4 or not fits(bits64, *HALF), "a float that fits in half precision")
        self.need(len(raw) < 8 or not fits(bits64, *SINGLE), "a float that fits in single precision")
        return Float(bits64)


class Checker:
    """VAL-2, VAL-4, VAL-5 and VAL-6 for one decoded item."""

    def __init__(self, section, names, offset):
        self.section, self.names, self.offset, self.begun = section, names, offset, 0

    def need(self, condition, rule, message):
        need(condition, rule, f"{self.section}: {message}", self.offset)

    def visit(self, item):
        if type(item) is list:
            for element in item:
                self.visit(element)
        elif type(item) is Map:
            self.need(self.section == "metadata", "VAL-6", "a plain map")
            self.visit_map(item, "VAL-5")
        elif type(item) is Tag:
            self.need(item.number in TAG_NAMES or item.number in (BIGNUM, NEGATIVE_BIGNUM), "VAL-2", f"tag {item.number}")
            self.need(self.section == "document" or item.number not in (SHAREABLE, SHARED_REF, TENSOR, GLOBAL, OBJECT),
                      "VAL-5", f"{TAG_NAMES.get(item.number)} within metadata")
            self.visit_tag(item.number, item.content)

    def visit_map(self, item, rule):
        for key, value in item.pairs:
            self.need(type(key) is str, rule, "a map key that is not text")
            self.visit(value)

    def visit_entries(self, content):
        self.need(type(content) is list and len(content) % 2 == 0, "VAL-2", "entries are not an array of pairs")
        self.visit(content)

    def visit_tag(self, number, content):
        good = True
        if number in (BIGNUM, NEGATIVE_BIGNUM):
            good = type(content) is bytes
            self.need(not good or len(content) > 8 and content[0] != 0, "VAL-1", "a bignum that is not the shortest form")
        elif number == SHAREABLE:
            self.begun += 1
            good = type(content) is not Tag or content.number not in (SHAREABLE, SHARED_REF)
            self.visit(content)
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
                self.need(name.encode() in self.names, "VAL-4", f"there is no tensor {ascii(name):.99}")
                self.visit_map(how, "VAL-2")
        elif number in (TUPLE, SET, FROZENSET):
            good = type(content) is list
            self.visit(content if good else [])
        elif number == DICT:
            self.visit_entries(content)
        elif number == OTHER_DICT:
            good = type(content) is list and len(content) == 4 and content[0] in ("ordered", "default", "counter")
            if good:
                self.visit_entries(content[1])
                self.visit(content[2:])
                good = content[0] == "default" or content[2] is None
        elif number == BYTEARRAY:
            good = type(content) is bytes
        elif number == WTF8:
            good = type(content) is bytes and decodes(content, "surrogatepass") and not decodes(content, "strict")
        elif number == GLOBAL:
            good = type(content) is list and [type(part) for part in content] == [str, str]
        elif number == OBJECT:
            good = type(content) is Map
            self.visit_object(content if good else Map([("class", Tag(GLOBAL, ["", ""]))]))
        self.need(good, "VAL-2", f"the content of tag {number} is not as listed")

    def visit_object(self, content):
        is_array = lambda value: type(value) is list
        is_tag = lambda value, number: type(value) is Tag and value.number == number
        keys = {
            "class": lambda value: True, "args": lambda value: is_array(value) or is_tag(value, TUPLE),
            "kwargs": lambda value: is_tag(value, DICT), "state": lambda value: True, "items": is_array,
            "entries": lambda value: is_array(value) and len(value) % 2 == 0, "new": lambda value: type(value) is str,
        }
        for key, value in content.pairs:
            self.need(type(key) is str and key in keys, "VAL-2", "an object with a key that is not listed")
            self.need(keys[key](value), "VAL-2", f"the {key} of an object is not as listed")
            self.visit(value)
        self.need("class" in [key for key, _ in content.pairs], "VAL-2", "an object without class")


def decodes(content, errors):
    try:
        content.decode("utf-8", errors)
    except UnicodeDecodeError:
        return False
    return True


def read_value(sections, section, tensors):
    """The decoded item of a section, or None and False if there is no such section."""
    if section not in sections:
        return None, False
    content, offset = sections[section]
    decoder = Decoder(content, offset)
    item = decoder.item()
    decoder.need(decoder.cursor == len(content), "bytes after the item")
    if section == "metadata":
        need(type(item) is Map and len(item.pairs) > 0, "VAL-5", "metadata is not a map with entries", offset)
    Checker(section, {tensor.name for tensor in tensors}, offset).visit(item)
    return item, True


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
        need(zlib.crc32(data[at:end - 4]) == int.from_bytes(data[end - 4:end], "little"), "REC-3", "CRC is wrong", end - 4)
        need(not any(reserved), "REC-4", "reserved bytes are not 0", at + 56)
        need(flags & ~(STRIDED | VIEW) == 0, "REC-4", f"flags are {flags:#x}", at + 51)
        need(not any(data[name_end:end - 4]), "REC-4", "padding of the descriptor is not 0", name_end)

        shape_and_strides = list(struct.unpack(f"<{numbers}Q", data[at + 64:at + 64 + 8 * numbers]))
        tensor = by_name.get(data[name_end - name_len:name_end])
        need(tensor is not None, "REC-5", "the index has no tensor of this name", at)
        name = tensor.name.decode()
        need(name not in seen, "REC-6", "a second descriptor of this tensor", at, name)
        seen.add(name)
        listed = storages[tensor.storage]
        for field, here, there in (
                ("storage", storage, tensor.storage), ("start", start, tensor.start), ("bits", bits, tensor.bits),
                ("dtype", dtype, tensor.dtype), ("STRIDED", bool(flags & STRIDED), tensor.strided),
                ("shape", shape_and_strides, tensor.shape + (tensor.strides if tensor.strided else [])),
                ("data_offset", data_offset, listed.data_offset), ("data_len", data_len, listed.data_len),
                ("data_crc32", data_crc32, listed.crc32)):
            need(here == there, "REC-5", f"{field} is not that of the index", at, name)
        if flags & VIEW:
            need(storage < introduced, "REC-7", f"a view of storage {storage}, not introduced yet", at, name)
        else:
            need(storage == introduced, "REC-7", f"storage {storage} is introduced, not {introduced}", at, name)
            introduced += 1
            need(data_offset == round_up(end, header.alignment), "REC-1", "data not where section 3 puts it", at, name)
            need(not any(data[end:data_offset]), "REC-8", "padding before the data is not 0", end, name)
            end = data_offset + data_len
        cursor = round_up(end, 64)
        need(not any(data[end:cursor]), "REC-8", "padding after the record is not 0", end, name)
    need(len(seen) == len(tensors), "REC-6", f"{len(tensors) - len(seen)} tensors have no descriptor", cursor)
    need(introduced == len(storages), "REC-7", f"{len(storages) - introduced} storages are not introduced", cursor)


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


def verify(data, with_sha256=False):
    """Do all that section 10 asks of a strict reader; the report of a valid file, or Rejected."""
    header = read_header(data)
    sections = read_sections(data, header)
    storages, blocks = read_storages(sections, header)
    tensors = read_tensors(sections, storages)
    check_blocks(data, header, storages, blocks)
    metadata, _ = read_value(sections, "metadata", tensors)
    document, has_document = read_value(sections, "document", tensors)
    walk_records(data, header, tensors, storages)
    return {
        "verdict": "ok", "rule": None, "class": None, "message": None,
        "format_version": f"{header.major}.{header.minor}", "metadata": render(metadata),
        "tensors": [describe(data, tensor, storages[tensor.storage], with_sha256) for tensor in tensors],
        "has_document": has_document, "document": render(document),
    }


def main(arguments):
    with_sha256 = arguments[:1] == ["--sha256"]
    if not arguments[with_sha256:]:
        print("usage: reader.py [--sha256] FILE...", file=sys.stderr)
        return 1
    status = 0
    for path in arguments[with_sha256:]:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            status = 1
            continue
        report = {"path": path}
        try:
            report.update(verify(data, with_sha256))
        except Rejected as rejected:
            report.update({"verdict": "rejected", "rule": rejected.rule, "class": rejected.failure_class,
                           "message": rejected.message, "offset": rejected.offset, "tensor": rejected.tensor})
            status = status or 3
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
