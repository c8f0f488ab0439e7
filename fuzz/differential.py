#!/usr/bin/env python3
"""Compares verdicts of the crate with those of spec/reader.py, an independent strict reader.

    differential.py VERDICTS

VERDICTS is what `count_outcomes` of tests/corpus.rs wrote with DOLMEN_VERDICTS set: path, tab, outcome. Whether a file is valid must be
the same. Which rule it breaks may differ where it breaks several; those are counted.
"""

import collections
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "spec"))
sys.dont_write_bytecode = True
import reader  # noqa: E402

sys.setrecursionlimit(20000)


def main():
    both = collections.Counter()
    differ = 0
    for line in open(sys.argv[1], encoding="utf-8"):
        path, outcome = line.rstrip("\n").rsplit("\t", 1)
        ours = "valid" if outcome == "Valid" else re.search(r'"(.*)"', outcome).group(1)
        try:
            reader.verify(pathlib.Path(path).read_bytes())
            theirs = "valid"
        except reader.Rejected as e:
            theirs = e.rule
        if (ours == "valid") != (theirs == "valid"):
            differ += 1
            print(f"DIFFER: {path}: the crate says {ours}, spec/reader.py {theirs}")
        elif ours != theirs:
            both["another rule"] += 1
        both["valid" if ours == "valid" else "rejected"] += 1
    print(f"{sum(both[k] for k in ('valid', 'rejected'))} files: {both['valid']} valid for both, {both['rejected']} rejected by both, "
          f"{both['another rule']} of them for another rule; {differ} differ")
    return differ != 0


if __name__ == "__main__":
    sys.exit(main())
