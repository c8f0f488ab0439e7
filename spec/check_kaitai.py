#!/usr/bin/env python3
"""Compiles dolmen.ksy with Kaitai Struct, compares it with the tables of format.md, and runs it over the conformance vectors.

    python3 spec/check_kaitai.py

Needs node and npm for the compiler, and pip for the runtime; both are installed into a directory that is removed at the end, or kept
in $DOLMEN_KAITAI if that is set. Exits with 2 if they cannot be had. Of the files to accept, every part is compared with the manifest
and with its CRCs; a file to reject may be parsed or fail to parse, but neither run away nor crash.
"""
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
COMPILER, YAML, RUNTIME = "kaitai-struct-compiler@0.11.0", "js-yaml@4.1.0", "kaitaistruct==0.11"
COMPILE = """
const fs = require("fs"), yaml = require("js-yaml"), compiler = require("kaitai-struct-compiler");
const ksy = yaml.load(fs.readFileSync(process.argv[1], "utf8"));
fs.writeFileSync("ksy.json", JSON.stringify(ksy));
compiler.compile("python", ksy, null, false).then(
    files => Object.entries(files).forEach(([name, text]) => fs.writeFileSync(name, text)),
    error => { console.error(String(error)); process.exit(1); });
"""
SECONDS = 20


def unavailable(why):
    print(f"SKIPPED: Kaitai Struct cannot be had: {why}")
    sys.exit(2)


def install(work):
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            unavailable(f"there is no {tool}")
    for command in (["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", work, COMPILER, YAML],
                    [sys.executable, "-m", "pip", "install", "-q", "--target", os.path.join(work, "python"), RUNTIME]):
        try:
            done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        except (OSError, subprocess.TimeoutExpired) as error:
            unavailable(error)
        if done.returncode != 0:
            unavailable(done.stdout.decode(errors="replace")[-500:])


def compile_description(work):
    subprocess.run(["node", "-e", COMPILE, os.path.join(HERE, "dolmen.ksy")], cwd=work, check=True)
    sys.path[:0] = [os.path.join(work, "python"), work]
    with open(os.path.join(work, "ksy.json"), encoding="utf-8") as file:
        return json.load(file), importlib.import_module("dolmen").Dolmen


def table(text, name):
    rows = re.search(rf"<!-- table: {name}( size=\d+)? -->\n((?:\|.*\n)+)", text).group(2).splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def compare_with_the_text(ksy):
    with open(os.path.join(HERE, "format.md"), encoding="utf-8") as file:
        text = file.read()
    for structure in ("header", "descriptor", "section_table", "section_entry", "tensor_record", "storage_record"):
        fields = ksy["types"][structure]["seq"]
        for row, field in zip(table(text, structure), fields):
            _, size, name, kind, constraint = row
            found = field.get("type", "bytes")
            if found == "descriptor_flags":
                found = "u1"
            contents = field.get("contents")
            assert field["id"] == name, f"{structure}: {field['id']} is where the text has {name}"
            assert found == (f"u{size}" if kind != "bytes" else "bytes"), f"{structure}: {name} is a {found}"
            assert contents is None or len(contents) == int(size), f"{structure}: {name} has {contents}"
            spelt = re.match(r"`((?:[0-9A-F]{2} ?)+)`", constraint)
            assert not spelt or bytes(contents) == bytes.fromhex(spelt.group(1)), f"{structure}: {name} is {contents}"
        assert len(fields) >= len(table(text, structure)), f"{structure}: fields are missing"
    for enum, name in (("dtype", "dtypes"), ("section_kind", "sections")):
        found = {int(code, 0): value["id"] for code, value in ksy["enums"][enum].items()}
        assert found == {int(row[0], 0): row[1] for row in table(text, name)}, f"{enum} is not the table {name}"
    flags = [field["id"] for field in ksy["types"]["descriptor_flags"]["seq"]]
    assert flags == [row[1].lower() for row in table(text, "descriptor_flags")] + ["reserved"], flags


def walk(node, seen):
    """Asks for every attribute and instance, so that all is parsed that can be."""
    if isinstance(node, list):
        for item in node:
            walk(item, seen)
    elif hasattr(node, "_io") and id(node) not in seen:
        seen.add(id(node))
        for name in sorted(set(dir(type(node)) + list(vars(node)))):
            if not name.startswith("_") and not callable(getattr(type(node), name, None)):
                walk(getattr(node, name), seen)


def row_major(shape):
    strides, run = [], 1
    for dim in reversed(shape):
        strides.insert(0, run)
        run *= max(dim, 1)
    return strides


def compare(entry, raw, file):
    """The parts of a file to accept against the manifest and the checksums; the differences."""
    header, index = file.header, file.index
    yield "header_crc32", header.header_crc32, zlib.crc32(raw[:60])
    yield "trailer", raw[-64:], raw[:64]
    yield "index_crc32", header.index_crc32, zlib.crc32(raw[header.index_offset:header.index_offset + header.index_len])
    yield "file_len", header.file_len, len(raw)
    yield "minor", f"{header.major}.{header.minor}", entry["format_version"]
    yield "number of tensors", len(index.tensors.records), len(entry["tensors"])
    for tensor, wanted in zip(index.tensors.records, entry["tensors"]):
        name = tensor.name
        digest = hashlib.sha256(name.encode()).hexdigest()
        yield "name", name if "name" in wanted else digest, wanted.get("name", wanted.get("name_sha256"))
        code = tensor.dtype
        yield f"{name}: dtype", code.name if hasattr(code, "name") else f"unknown(0x{code:04X})", wanted["dtype"]
        for field, value in (("bits", tensor.bits), ("shape", tensor.shape), ("storage", tensor.storage), ("start", tensor.start),
                             ("strides", tensor.strides if tensor.is_strided else row_major(tensor.shape)),
                             ("crc32", f"{tensor.stored_in.crc32:08x}")):
            yield f"{name}: {field}", value, wanted[field]
    block_len = header.block_len
    for number, storage in enumerate(index.storages.records):
        data = storage.data
        yield f"storage {number}: crc32", storage.crc32, zlib.crc32(data)
        crcs = [zlib.crc32(data[at:at + block_len]) for at in range(0, len(data), block_len)]
        yield f"storage {number}: blocks", storage.block_crcs, crcs
    records = file.records if header.index_offset > 64 else []
    by_name = {tensor.name: tensor for tensor in index.tensors.records}
    yield "names of the records", sorted(record.descriptor.name for record in records), sorted(by_name)
    at = 64
    for record in records:
        descriptor = record.descriptor
        tensor = by_name[descriptor.name]
        end = at + descriptor.descriptor_len
        yield f"{descriptor.name}: CRC of the descriptor", descriptor.crc32, zlib.crc32(raw[at:end - 4])
        for field in ("storage", "start", "bits", "dtype", "rank"):
            yield f"{descriptor.name}: {field}", getattr(descriptor, field), getattr(tensor, field)
        yield f"{descriptor.name}: dims", descriptor.dims, tensor.shape
        yield f"{descriptor.name}: data_offset", descriptor.data_offset, tensor.stored_in.data_offset
        if not descriptor.flags.view:
            yield f"{descriptor.name}: data", record.data, tensor.stored_in.data
            yield f"{descriptor.name}: padding", any(record.padding_before_data), False
            end = descriptor.data_offset + descriptor.data_len
        yield f"{descriptor.name}: padding", any(record.padding_after), False
        at = -(-end // 64) * 64
    yield "end of the records", at, header.index_offset


def check(work):
    ksy, dolmen = compile_description(work)
    compare_with_the_text(ksy)
    from kaitaistruct import KaitaiStream
    from io import BytesIO
    with open(os.path.join(HERE, "vectors", "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    failed, refused, parsed = 0, 0, 0
    for entry in manifest:
        with open(os.path.join(HERE, "vectors", *entry["file"].split("/")), "rb") as file:
            raw = file.read()
        begun, wrong = time.monotonic(), None
        try:
            root = dolmen(KaitaiStream(BytesIO(raw)))
            walk(root, set())
            if entry["expect"] == "accept":
                for what, found, wanted in compare(entry, raw, root):
                    if found != wanted:
                        wrong = f"{what} is {found!r:.200}, not {wanted!r:.200}"
                        break
            parsed += 1
        except (MemoryError, RecursionError) as error:
            wrong = f"runs away: {error!r}"
        except Exception as error:
            refused += 1
            if entry["expect"] == "accept":
                wrong = f"is not parsed: {error!r:.300}"
        if time.monotonic() - begun > SECONDS:
            wrong = f"took {time.monotonic() - begun:.0f} s"
        if wrong:
            failed += 1
            print(f"{entry['file']}: {wrong}")
    print(f"{parsed} files were parsed, {refused} could not be: those are not files to accept")
    print(f"{len(manifest) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main():
    kept = os.environ.get("DOLMEN_KAITAI")
    work = kept or tempfile.mkdtemp()
    try:
        os.makedirs(work, exist_ok=True)
        if not os.path.exists(os.path.join(work, "python")):
            install(work)
        return check(work)
    finally:
        if not kept:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    # The manifest nests as deep as documents do.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    statuses = []
    def run():
        try:
            statuses.append(main())
        except SystemExit as end:
            statuses.append(end.code)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    sys.exit(statuses[0] if statuses else 1)
