#!/usr/bin/env python3
"""The order of rows, as the section "Order of rows" of features.md defines it; without dependencies.

    python3 spec/order.py

prints the rows of the tables of that section, computed.
"""
from math import isqrt

GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key(*numbers):
    k = 0
    for number in numbers:
        k = mix((k + GAMMA + number) & MASK)
    return k


def permute(n, k, x):
    """Where the permutation of 0..n of key k sends x."""
    height = max(2, isqrt(n - 1) + 1 if n else 0)
    height += height % 2
    width = max(1, -(-n // height))
    rounds = 48 if n <= 256 else 16 if n <= 65536 else 8
    left, right = divmod(x, width)
    while True:
        for i in range(1, rounds + 1, 2):
            h = mix(mix((k + i * GAMMA) & MASK) + right * GAMMA & MASK)
            left = (left + ((h >> 32) * height >> 32)) % height
            h = mix(mix((k + (i + 1) * GAMMA) & MASK) + left * GAMMA & MASK)
            right = (right + ((h >> 32) * width >> 32)) % width
        if left * width + right < n:
            return left * width + right


def shuffled(n, seed, epoch, position):
    return permute(n, key(seed, epoch, 0), position)


def block_shuffled(n, seed, epoch, block_rows, window_blocks, position):
    """Written to be read: it goes through the blocks up to the position. features.md says how not to."""
    count = -(-n // block_rows)
    start = 0
    for window, first in enumerate(range(0, count, window_blocks)):
        permuted = range(first, min(first + window_blocks, count))
        blocks = [permute(count, key(seed, epoch, 1), i) for i in permuted]
        rows = [min(block_rows, n - block * block_rows) for block in blocks]
        if position < start + sum(rows):
            row = permute(sum(rows), key(seed, epoch, window + 2), position - start)
            for block, length in zip(blocks, rows):
                if row < length:
                    return block * block_rows + row
                row -= length
        start += sum(rows)


def batch(n, batch_len, rank, world, tail, k):
    """The positions of batch k of a rank, or None if it has no such batch."""
    count = -(-n // batch_len) if tail == "keep" else n // batch_len
    if tail == "drop uneven":
        count -= count % world
    g = k * world + rank
    return range(g * batch_len, min((g + 1) * batch_len, n)) if g < count else None


BIG = MASK >> 1
PERMUTATIONS = [
    (1, 0, 0, 0), (2, 5, 0, 0), (3, 1, 0, 0), (10, 0, 0, 0), (10, 0, 1, 0), (10, 1, 0, 0), (100, 42, 0, 0), (256, 42, 7, 0),
    (257, 42, 7, 0), (1000, MASK, 0, 990), (65536, 3, 2, 0), (65537, 3, 2, 65527), (1000000, 42, 0, 0), (1000000, 42, 1, 0),
    (6000000, 2024, 99, 5999990), (1 << 32, 8, MASK, 1 << 31), (BIG, 42, 0, 0), (BIG, MASK, MASK, BIG - 10),
]
BLOCKS = [
    (10, 0, 0, 3, 2, 0), (10, 0, 1, 3, 2, 0), (20, 7, 0, 4, 1, 0), (20, 7, 0, 1, 4, 0), (20, 7, 0, 100, 3, 0),
    (1000, 42, 3, 64, 4, 250), (1000, 42, 3, 64, 4, 990), (100000, 1, 0, 1000, 8, 7995), (100000, 1, 0, 999, 8, 7985),
    (6000000, 2024, 1, 4096, 64, 3000000),
]
BATCHES = [
    (100, 10, 1, 3, "keep", 0), (100, 10, 0, 3, "keep", 3), (100, 10, 1, 3, "keep", 3), (95, 10, 0, 3, "keep", 3),
    (95, 10, 0, 3, "drop short", 3), (95, 10, 2, 3, "drop short", 2), (100, 10, 0, 3, "drop uneven", 2),
    (100, 10, 0, 3, "drop uneven", 3), (5, 10, 0, 1, "keep", 0), (5, 10, 0, 1, "drop short", 0), (0, 10, 0, 1, "keep", 0),
]


def line(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    for n, seed, epoch, start in PERMUTATIONS:
        rows = [shuffled(n, seed, epoch, x) for x in range(start, min(start + 10, n))]
        line(n, seed, epoch, start, *[" ".join(map(str, rows))])
    print()
    for n, seed, epoch, block_rows, window_blocks, start in BLOCKS:
        rows = [block_shuffled(n, seed, epoch, block_rows, window_blocks, x) for x in range(start, min(start + 20, n))]
        line(n, seed, epoch, block_rows, window_blocks, start, " ".join(map(str, rows)))
    print()
    for case in BATCHES:
        positions = batch(*case)
        line(*case, f"{positions.start} to {positions.stop}" if positions is not None else "none")
