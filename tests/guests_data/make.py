"""Makes the files of this directory, with NumPy 2.4. Values are those that tests/guests.rs expects."""

import sys
import warnings

import numpy as np
from numpy.lib import format as npy

base = np.arange(6).reshape(2, 3)


def save(name, array, version=None, **options):
    with open(name + ".npy", "wb") as f, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        npy.write_array(f, array, version=version, **options)


for kind in ["b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8", "c16"]:
    little = base.astype("<" + kind)
    if kind[0] == "c":
        little = little + 10j
    big = little.astype(little.dtype.newbyteorder(">"))
    little = little.astype(little.dtype.newbyteorder("<"))
    save("le_" + kind, little)
    if kind in ["i2", "f4", "f8", "c8"]:
        save("be_" + kind, big)

save("fortran", np.asfortranarray(base.astype("<f4")))
save("fortran_be", np.asfortranarray(base.astype(">i4")))
save("scalar", np.array(7, dtype="<i8"))
save("vector", np.arange(3, dtype="<f8"))
save("empty", np.zeros((0, 3), dtype="<f4"))
save("v1", base.astype("<i4"), (1, 0))
save("v2", base.astype("<i4"), (2, 0))
save("v3", base.astype("<i4"), (3, 0))
save("bytes", np.array([b"ab", b"cde"], dtype="S3"))
save("text", np.array(["h\u00e9", "abc"], dtype="<U3"))
save("date", np.array(["2020-01-01", "1970-01-02"], dtype="<M8[D]"))
save("structured", np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8")]))
save("objects", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
save("structured_v3", np.zeros(2, dtype=[("\u00e9\u4e00", "<i4")]), (3, 0))

arrays = {"w": base.astype("<f4"), "layer/b": np.arange(4, dtype="<i8"), "big": base.astype(">i4"),
          "f": np.asfortranarray(base.astype("<f8")), "zeros": np.zeros(2000, dtype="<f4")}
np.savez("stored.npz", **arrays)
np.savez_compressed("compressed.npz", **arrays)
