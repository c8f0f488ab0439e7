#!/usr/bin/env python3
"""Sums up an lcov file by the rooms of src/: lines reached, lines there are; then each file with the lines that are not reached.

    coverage.py FILE.lcov

Lines of the tests within files do not count. The rooms that read what others wrote come first, and together.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
READERS = ["format", "read", "foreign"]


def lines_of(lcov):
    """For each file of src/, its lines with how often each was reached."""
    files, current = {}, {}
    for line in lcov:
        if line.startswith("SF:"):
            current = files.setdefault(line[3:].strip(), {})
        elif line.startswith("DA:"):
            number, count = map(int, line[3:].split(",")[:2])
            current[number] = max(current.get(number, 0), count)
    for path, lines in sorted(files.items()):
        path = pathlib.Path(path)
        if not path.is_relative_to(ROOT / "src") or "tests" in path.parts or path.name == "tests.rs":
            continue
        text = path.read_text(encoding="utf-8").split("\n")
        tests = next((n for n, line in enumerate(text, 1) if line == "#[cfg(test)]" and text[n].startswith("mod ")), len(text) + 1)
        yield path.relative_to(ROOT), {n: count for n, count in lines.items() if n < tests}


def ranges(numbers):
    found = []
    for n in numbers:
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return " ".join(f"{a}-{b}" if a < b else f"{a}" for a, b in found)


def main():
    rooms, missed = {}, []
    for path, lines in lines_of(open(sys.argv[1], encoding="utf-8")):
        room = path.parts[1].removesuffix(".rs")
        reached = sum(count > 0 for count in lines.values())
        so_far = rooms.get(room, (0, 0))
        rooms[room] = (so_far[0] + reached, so_far[1] + len(lines))
        if reached < len(lines):
            missed.append((len(lines) - reached, path, ranges(sorted(n for n, count in lines.items() if count == 0))))
    show = lambda name, sums: print(f"{name:24} {sums[0]:6} of {sums[1]:6} lines {100 * sums[0] / max(sums[1], 1):6.2f} %")
    show(", ".join(READERS), [sum(rooms.get(room, (0, 0))[i] for room in READERS) for i in (0, 1)])
    for room in READERS + sorted(set(rooms) - set(READERS)):
        if room in rooms:
            show(room, rooms[room])
    print()
    for count, path, where in sorted(missed, key=lambda file: (-file[0], file[1])):
        print(f"{path}: {count} not reached: {where}")


if __name__ == "__main__":
    main()
