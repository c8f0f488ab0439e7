#!/usr/bin/env python3
"""The independent reader of spec/reader.py as a server, for fuzz/differential.rs.

Standard input: files, each after its length (u32, little-endian). Standard output: a line of JSON for each, as the reader prints it.
"""
import json
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "spec"))
sys.dont_write_bytecode = True
import reader  # noqa: E402


def main():
    files, answers = sys.stdin.buffer, sys.stdout
    while head := files.read(4):
        data = files.read(int.from_bytes(head, "little"))
        try:
            report = reader.verify(data, with_sha256=True)
        except reader.Rejected as e:
            report = {"verdict": "rejected", "rule": e.rule, "class": e.failure_class, "message": e.message}
        print(json.dumps(report), file=answers, flush=True)


if __name__ == "__main__":
    # As in reader.py: values nest deeper than Python's own limit.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
