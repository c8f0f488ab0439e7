#!/usr/bin/env python3
"""Runs a reader over the conformance vectors and compares what it prints with vectors/manifest.json.

    python3 spec/check_vectors.py [--level strict|reader] [--vectors DIR] [COMMAND...]

The command is run with the path of one vector after its own arguments; without one, it is reader.py. --level says what to expect
of it: all that a strict reader does (the default), or what any reader does. --vectors names another directory of vectors, such as
make_vectors.py --large writes. vectors/README.md says what the command has to print.
The differences go to standard output, one a line; the last line counts the vectors.
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
LEVELS = ("strict", "reader")


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


class Schema:
    """As much of JSON Schema as the two schemas of the vectors use; a keyword beyond that is an error."""

    TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    NOTES = {"$schema", "$id", "$defs", "title", "description"}

    def __init__(self, name):
        with open(os.path.join(HERE, "vectors", name), encoding="utf-8") as file:
            self.root = json.load(file)

    def problems(self, value, schema=None, at="$"):
        schema = self.root if schema is None else schema
        if schema is True:
            return
        for keyword, wanted in schema.items():
            if keyword == "$ref":
                yield from self.problems(value, self.root["$defs"][wanted.rsplit("/", 1)[1]], at)
            elif keyword == "type":
                types = [self.TYPES[name] for name in (wanted if type(wanted) is list else [wanted])]
                if type(value) not in types:
                    yield f"{at} is not {wanted}"
            elif keyword == "enum":
                if value not in wanted:
                    yield f"{at} is {value!r}, not one of {wanted}"
            elif keyword == "pattern":
                if type(value) is str and not re.search(wanted, value):
                    yield f"{at} does not match {wanted}"
            elif keyword in ("minimum", "maximum"):
                if type(value) is int and (value < wanted if keyword == "minimum" else value > wanted):
                    yield f"{at} is {value}, {keyword} {wanted}"
            elif keyword == "minItems":
                if type(value) is list and len(value) < wanted:
                    yield f"{at} has fewer than {wanted} items"
            elif keyword == "items":
                for i, item in enumerate(value if type(value) is list else []):
                    yield from self.problems(item, wanted, f"{at}[{i}]")
            elif keyword == "required":
                for key in wanted if type(value) is dict else []:
                    if key not in value:
                        yield f"{at} has no {key}"
            elif keyword == "properties":
                for key in wanted if type(value) is dict else []:
                    if key in value:
                        yield from self.problems(value[key], wanted[key], f"{at}.{key}")
            elif keyword == "additionalProperties":
                for key in value if type(value) is dict and wanted is False else []:
                    if key not in schema.get("properties", {}):
                        yield f"{at} has {key}, which is not listed"
            elif keyword in ("oneOf", "allOf"):
                found = [list(self.problems(value, option, at)) for option in wanted]
                good = sum(not problems for problems in found)
                if keyword == "oneOf" and good != 1:
                    yield f"{at} is {good} of the {len(wanted)} kinds: " + "; ".join(problems[0] for problems in found if problems)
                if keyword == "allOf":
                    for problems in found:
                        yield from problems
            elif keyword not in self.NOTES:
                raise ValueError(f"{keyword} is no keyword that is known here")


def differences(entry, level, schema, status, output, errors):
    try:
        report, = [json.loads(line) for line in output.splitlines()]
    except ValueError:
        yield f"exit status {status}, and not one JSON object: {(output + errors)[-300:]!r}"
        return
    for problem in schema.problems(report):
        yield f"not a report as report.schema.json has it: {problem}"
        return
    if "breaks" in report and set(report["breaks"]) != set(entry.get("breaks", entry.get("rules", []))):
        yield f"breaks {report['breaks']}, not {entry.get('breaks', entry.get('rules', []))}"
    expect = entry.get(level, entry["expect"])
    if report["verdict"] == "rejected":
        if expect == "accept" or status != 3:
            yield f"rejected with {report['rule']}, status {status}: {report.get('message')}"
        elif report["rule"] not in entry["rules"]:
            yield f"rule {report['rule']!r} is not one of {entry['rules']}: {report.get('message')}"
        elif report["class"] not in entry.get("classes", [entry["class"]]):
            yield f"class {report['class']!r}, not {entry['class']!r}"
        return
    if expect == "reject" or status != 0:
        yield f"verdict {report['verdict']!r}, status {status}; to be rejected with {entry.get('rules')}"
        return
    wanted = entry if entry["expect"] == "accept" else entry["if_accepted"]
    for field in ("metadata", "has_document", "document"):
        # A reader may lack values. What breaks a rule of values is given by none.
        if field not in report and level == "reader":
            continue
        if field not in report or field not in wanted:
            yield f"{field} is {'given' if field in report else 'left out'}"
        elif not same(report[field], wanted[field]):
            yield f"{field} is {json.dumps(report[field]):.300}, not {json.dumps(wanted[field]):.300}"
    if report["format_version"] != wanted.get("format_version", report["format_version"]):
        yield f"format_version is {report['format_version']}, not {wanted['format_version']}"
    if len(report["tensors"]) != len(wanted["tensors"]):
        yield f"{len(report['tensors'])} tensors, not {len(wanted['tensors'])}"
        return
    for got, tensor in zip(report["tensors"], wanted["tensors"]):
        got = dict(got, name_sha256=hashlib.sha256(got["name"].encode()).hexdigest())
        for field in tensor:
            if field not in got and field == "sha256" and strided(tensor):
                continue
            if got.get(field) != tensor[field]:
                yield f"tensor {got['name']!r:.99}: {field} is {got.get(field)!r:.300}, not {tensor[field]!r:.300}"


def strided(tensor):
    """Whether these are not the contiguous strides: then a reader may leave the hash of the elements out."""
    run = 1
    for dim, stride in reversed(list(zip(tensor["shape"], tensor["strides"]))):
        if stride != run:
            return True
        run *= max(dim, 1)
    return False


def wrong_with_the_vectors(manifest, complete):
    """What the files and the manifest must be, and what they must cover if they are all. That is no vector, but it fails the run all the
    same."""
    with open(os.path.join(HERE, "format.md"), encoding="utf-8") as file:
        rules = re.findall(r"^\| ([A-Z]{3}-[0-9]+) \|", file.read(), re.MULTILINE)
    schema = Schema("manifest.schema.json")
    for entry in manifest:
        for problem in schema.problems([entry]):
            yield f"manifest.json, {entry.get('file')}: {problem}"
        with open(os.path.join(VECTORS, *entry["file"].split("/")), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != entry["file_sha256"]:
                yield f"{entry['file']}: not the file that the manifest speaks of"
    alone = {entry["rules"][0] for entry in manifest
             if entry["expect"] == "reject" and len(entry["rules"]) == 1 and "breaks" not in entry}
    for rule in rules if complete else []:
        if rule not in alone:
            yield f"{rule}: no vector breaks it and no other rule"
    named = {rule for entry in manifest for rule in entry.get("rules", []) + entry.get("breaks", [])}
    for rule in sorted(named - set(rules)):
        yield f"{rule}: named by the manifest, but not by format.md"
    listed = {entry["file"] for entry in manifest}
    for kind in ("accept", "reject", "either"):
        for name in sorted(os.listdir(os.path.join(VECTORS, kind))):
            if f"{kind}/{name}" not in listed:
                yield f"{kind}/{name}: not in the manifest"


def main(arguments):
    global VECTORS
    level, complete = "strict", True
    while arguments[:1] in (["--level"], ["--vectors"]):
        option, value, arguments = arguments[0], (arguments[1:2] + [""])[0], arguments[2:]
        if option == "--level":
            level = value
        else:
            VECTORS, complete = value, False
    if level not in LEVELS or arguments[:1] in (["--help"], ["-h"]):
        print(__doc__.strip(), file=sys.stderr)
        return 1
    reader = [sys.executable, os.path.join(HERE, "reader.py"), "--sha256", "--all-rules"]
    command = arguments or reader + (["--reader"] if level == "reader" else [])
    with open(os.path.join(VECTORS, "manifest.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    wrong = list(wrong_with_the_vectors(manifest, complete))
    for entry in manifest:
        if "values_in" in entry:
            with open(os.path.join(VECTORS, *entry["values_in"].split("/")), encoding="utf-8") as file:
                entry.update(json.load(file))
    schema = Schema("report.schema.json")

    def run(entry):
        path = os.path.join(VECTORS, *entry["file"].split("/"))
        done = subprocess.run(command + [path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(run, manifest))
    failed = 0
    for entry, result in zip(manifest, results):
        found = list(differences(entry, level, schema, *result))
        failed += bool(found)
        for difference in found:
            print(f"{entry['file']}: {difference}")
    print("\n".join(wrong), end="\n" if wrong else "")
    print(f"{len(manifest) - failed} passed, {failed} failed")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    # Some documents nest 1024 deep.
    sys.setrecursionlimit(20000)
    threading.stack_size(256 << 20)
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(main(sys.argv[1:])))
    thread.start()
    thread.join()
    sys.exit(statuses[0] if statuses else 1)
