#!/usr/bin/env python3
"""Runs a reader over the conformance vectors and compares what it prints with vectors/manifest.json.

    python3 spec/check_vectors.py [COMMAND...]

The command is run with the path of one vector after its own arguments; without one, it is reader.py. vectors/README.md
says what it has to print. The differences go to standard output, one a line; the last line counts the vectors.
"""
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(HERE, "vectors")


def same(a, b):
    """Equality that tells 1 from 1.0 and true, and 0.0 from -0.0."""
    if type(a) is not type(b):
        return False
    if type(a) not in (dict, list):
        return repr(a) == repr(b)
    if len(a) != len(b) or type(a) is dict and a.keys() != b.keys():
        return False
    for key in a if type(a) is dict else range(len(a)):
        if not same(a[key], b[key]):
            return False
    return True


def differences(entry, status, output, errors):
    try:
        report, = [json.loads(line) for line in output.splitlines()]
    except ValueError:
        yield f"exit status {status}, and not one JSON object: {(output + errors)[-300:]!r}"
        return
    if entry["expect"] == "reject":
        if report.get("verdict") != "rejected" or status != 3:
            yield f"verdict {report.get('verdict')!r}, status {status}; not rejected with {entry['rules'][0]}"
        elif report.get("rule") not in entry["rules"]:
            yield f"rule {report.get('rule')!r} is not one of {entry['rules']}: {report.get('message')}"
        elif report.get("class") not in entry.get("classes", [entry["class"]]):
            yield f"class {report.get('class')!r}, not {entry['class']!r}"
        return
    if report.get("verdict") != "ok" or status != 0:
        yield f"verdict {report.get('verdict')!r}, status {status}, {report.get('rule')}: {report.get('message')}"
        return
    for field in ("metadata", "document"):
        if not same(report.get(field), entry[field]):
            yield f"{field} is {json.dumps(report.get(field)):.300}, not {json.dumps(entry[field]):.300}"
    if len(report["tensors"]) != len(entry["tensors"]):
        yield f"{len(report['tensors'])} tensors, not {len(entry['tensors'])}"
        return
    for got, wanted in zip(report["tensors"], entry["tensors"]):
        got = dict(got, name_sha256=hashlib.sha256(got["name"].encode()).hexdigest())
        for field in wanted:
            # A reader that does not read strided elements may leave the hash of their bytes out.
            if got.get(field, wanted[field] if field == "sha256" else None) != wanted[field]:
                yield f"tensor {wanted.get('name')!r:.99}: {field} is {got.get(field)!r:.300}, not {wanted[field]!r:.300}"


def main(command):
    with open(os.path.join(VECTORS, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    with open(os.path.join(HERE, "format.md"), encoding="utf-8") as file:
        rules = re.findall(r"^\| ([A-Z]{3}-[0-9]+) \|", file.read(), re.MULTILINE)

    def run(entry):
        path = os.path.join(VECTORS, *entry["file"].split("/"))
        done = subprocess.run(command + [path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(run, manifest))
    failed = 0
    for entry, result in zip(manifest, results):
        found = list(differences(entry, *result))
        failed += bool(found)
        for difference in found:
            print(f"{entry['file']}: {difference}")

    # What the files and the manifest must cover. These are not vectors, but they fail the run all the same.
    wrong = False
    intended = {entry["rules"][0] for entry in manifest if entry["expect"] == "reject"}
    for rule in [rule for rule in rules if rule not in intended]:
        wrong = True
        print(f"{rule}: no vector breaks it")
    for rule in sorted({rule for entry in manifest for rule in entry.get("rules", [])} - set(rules)):
        wrong = True
        print(f"{rule}: named by the manifest, but not by format.md")
    listed = {entry["file"] for entry in manifest}
    for kind in ("accept", "reject"):
        for name in sorted(os.listdir(os.path.join(VECTORS, kind))):
            if f"{kind}/{name}" not in listed:
                wrong = True
                print(f"{kind}/{name}: not in the manifest")
    print(f"{len(manifest) - failed} passed, {failed} failed")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    # Some documents nest 1024 deep.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    statuses = []
    default = [sys.executable, os.path.join(HERE, "reader.py"), "--sha256"]
    thread = threading.Thread(target=lambda: statuses.append(main(sys.argv[1:] or default)))
    thread.start()
    thread.join()
    sys.exit(statuses[0] if statuses else 1)
