"""Dolmen's command beside PyTorch's own `torch.load`, in turns, on files that PyTorch writes here.

    python benches/beside_torch.py [--dolmen target/release/dolmen] [--rounds 7]

The command is timed as a whole process, with its start and its output; `torch.load` within this process, without the seconds that it takes to
import PyTorch. Files are warm. Times are `least / median`; a ratio is PyTorch's least time by Dolmen's.
"""

import argparse
import gc
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy
import torch


def dnabert(sequences):
    """A list of records with 768 Python floats each, every one exactly an f32: no tensor at all."""
    random = numpy.random.default_rng(1)
    rows = random.standard_normal((sequences, 768), dtype=numpy.float32).astype(numpy.float64)
    data = [{"label": f"seq_{i}_0", "mean_representation": row.tolist()} for i, row in enumerate(rows)]
    return {"nucleotide": [f"seq_{i}" for i in range(sequences)], "data": data}


def entries(count):
    return {f"encoder.layer.{i // 8}.weight_{i % 8}": torch.arange(8, dtype=torch.float32) for i in range(count)}


def timed(work):
    gc.collect()
    begin = time.perf_counter()
    kept = work()
    taken = time.perf_counter() - begin
    del kept
    return taken


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dolmen", default="target/release/dolmen")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(dir="target"))
    many, floats, out = folder / "many.pt", folder / "floats.pt", folder / "out.dolmen"
    torch.save(entries(10_000), many)
    torch.save(dnabert(10_000), floats)
    cases = [
        ("list 10,000 entries", "`dolmen inspect`", lambda: run(args.dolmen, "inspect", many),
         "`torch.load(mmap=True)`", lambda: torch.load(many, mmap=True), 5),
        ("list 10,000 entries", "`dolmen inspect --json`", lambda: run(args.dolmen, "inspect", "--json", many),
         "`torch.load(mmap=True)`", lambda: torch.load(many, mmap=True), 5),
        ("7.7 M floats in the pickle", "`dolmen convert`, durable", lambda: run(args.dolmen, "convert", floats, out),
         "`torch.load`", lambda: torch.load(floats), 2),
        ("7.7 M floats in the pickle", "`dolmen convert`, durable", lambda: run(args.dolmen, "convert", floats, out),
         "`torch.load(weights_only=False)`", lambda: torch.load(floats, weights_only=False), None),
    ]
    print(f"PyTorch {torch.__version__}, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}\n")
    print("| case | Dolmen | PyTorch | ratio of least | asked |\n|---|---|---|---:|---|")
    for case, what, ours, name, theirs, asked in cases:
        taken = [(timed(ours), timed(theirs)) for _ in range(args.rounds)]
        (our, our_median), (their, their_median) = ((min(t), statistics.median(t)) for t in zip(*taken))
        ratio = their / our
        met = "" if asked is None else f"≥ {asked}: {'met' if ratio >= asked else 'short'}"
        shown = [f"{least * 1e3:.0f} ms / {median * 1e3:.0f} ms" for least, median in ((our, our_median), (their, their_median))]
        print(f"| {case} | {what}: {shown[0]} | {name}: {shown[1]} | {ratio:.1f} | {met} |")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


if __name__ == "__main__":
    main()
