"""Batches of Dolmen's feature pipeline in NumPy and in PyTorch, without a copy: shows how, and checks that it is so.

    cargo build --manifest-path examples/dlpack/Cargo.toml
    python3 examples/dlpack/check.py [LIBRARY]

It needs NumPy 2.1 or later; what is done with PyTorch is left out, loudly, where there is none.
"""

import ctypes
import gc
import pathlib
import sys
import tempfile
import threading

import numpy as np

HERE = pathlib.Path(__file__).parent
NAMES = {"linux": "libdolmen_dlpack.so", "darwin": "libdolmen_dlpack.dylib", "win32": "dolmen_dlpack.dll"}
CPU = 1


class Library:
    """The functions of `src/lib.rs`."""

    def __init__(self, path):
        self.c = ctypes.CDLL(str(path))
        pointer, pointers = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
        texts, long, flag = ctypes.POINTER(ctypes.c_char_p), ctypes.c_uint64, ctypes.c_bool
        for name, result, arguments in [
            ("error", ctypes.c_char_p, []),
            ("convert", ctypes.c_int, [ctypes.c_char_p, ctypes.c_char_p]),
            ("open", pointer, [texts, ctypes.c_size_t, long, flag, flag]),
            ("epoch", ctypes.c_int, [pointer, ctypes.c_int64, long]),
            ("next", ctypes.c_int, [pointer, flag, pointers, pointers]),
            ("close", None, [pointer]),
        ]:
            function = getattr(self.c, f"features_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def check(self, result):
        if result is None or (isinstance(result, int) and result < 0):
            raise RuntimeError(self.error().decode())
        return result


    def write(self, path, data, labels):
        """Writes a table with labels, by way of NumPy's format."""
        np.savez(path.with_suffix(".npz"), data=data, labels=labels)
        self.check(self.convert(str(path.with_suffix(".npz")).encode(), str(path).encode()))
        return path


# Capsules keep pointers to their names.
VERSIONED, UNVERSIONED = ctypes.c_char_p(b"dltensor_versioned"), ctypes.c_char_p(b"dltensor")
DESTRUCTOR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

python = ctypes.pythonapi
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR]
python.PyCapsule_IsValid.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


def delete(pointer, versioned):
    """Calls the deleter of a tensor that nobody has taken."""
    # version, manager_ctx, deleter; or dl_tensor (48 bytes), manager_ctx, deleter.
    at = 16 if versioned else 56
    DELETER(ctypes.c_void_p.from_address(pointer + at).value)(pointer)


@DESTRUCTOR
def destroy(capsule):
    # A consumer that takes the tensor renames the capsule.
    for name, versioned in [(VERSIONED, True), (UNVERSIONED, False)]:
        if python.PyCapsule_IsValid(capsule, name):
            delete(python.PyCapsule_GetPointer(capsule, name), versioned)


class Tensor:
    """A tensor that is handed over once: what `from_dlpack` of every framework takes."""

    def __init__(self, pointer, versioned):
        self.pointer, self.versioned = pointer, versioned

    def __dlpack_device__(self):
        return (CPU, 0)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        pointer, self.pointer = self.pointer, None
        return python.PyCapsule_New(pointer, VERSIONED if self.versioned else UNVERSIONED, destroy)

    def __del__(self):
        if self.pointer is not None:
            delete(self.pointer, self.versioned)


class Features:
    """A table's batches, epoch after epoch."""

    def __init__(self, library, paths, batch_len, mapped=False, copied=False):
        self.library = library
        names = [str(path).encode() for path in paths]
        array = (ctypes.c_char_p * len(names))(*names)
        self.handle = library.check(library.open(array, len(names), batch_len, mapped, copied))

    def epoch(self, seed=-1, number=0, versioned=True):
        self.library.check(self.library.epoch(self.handle, seed, number))
        data, labels = ctypes.c_void_p(), ctypes.c_void_p()
        while self.library.check(self.library.next(self.handle, versioned, data, labels)):
            yield Tensor(data.value, versioned), Tensor(labels.value, versioned) if labels.value else None

    def close(self):
        self.library.close(self.handle)
        self.handle = None


def check(library, directory):
    random = np.random.default_rng(7)
    rows = random.standard_normal((1000, 24)).astype(np.float32)
    classes = random.integers(-5, 5, 1000)
    parts = [slice(start, start + 250) for start in range(0, 1000, 250)]
    labelled = [library.write(directory / f"{part.start}.dolmen", rows[part], classes[part]) for part in parts]
    plain = directory / "plain.npy"
    np.save(plain, rows)

    for versioned in (True, False):
        features = Features(library, labelled, 64)
        # In order; nothing is copied, so that the same few addresses come again and again.
        found = [(np.from_dlpack(data), np.from_dlpack(labels)) for data, labels in features.epoch(versioned=versioned)]
        assert all(data.dtype == np.float32 and labels.dtype == np.int64 for data, labels in found)
        assert np.array_equal(np.concatenate([data for data, _ in found]), rows)
        assert np.array_equal(np.concatenate([labels for _, labels in found]), classes)
        del found
        addresses, seen = set(), 0
        for number in range(20):
            for data, labels in features.epoch(seed=3, number=number, versioned=versioned):
                data, labels = np.from_dlpack(data), np.from_dlpack(labels)
                addresses.add(data.ctypes.data)
                if number == 0:
                    # Shuffled: each row is found once, with its label.
                    places = [np.flatnonzero((rows == row).all(axis=1)).item() for row in data]
                    assert np.array_equal(labels, classes[places])
                    seen += len(places)
        assert seen == 1000
        batches = 20 * 16
        assert len(addresses) < batches / 2, f"{len(addresses)} addresses in {batches} batches: memory does not go round"
        # What is never taken, and what is taken and outlives the loader.
        for data, labels in features.epoch(versioned=versioned):
            capsule = data.__dlpack__()
            break
        kept = [np.from_dlpack(data) for data, _ in features.epoch(versioned=versioned)]
        features.close()
        del capsule, data, labels
        gc.collect()
        assert np.array_equal(np.concatenate(kept), rows)
        # Given back by another thread.
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()

    # Copied batches may be written to.
    features = Features(library, [plain], 100, mapped=True, copied=True)
    for data, labels in features.epoch():
        data = np.from_dlpack(data)
        assert labels is None and data.flags.writeable
        data += 1
    assert np.array_equal(np.concatenate([np.from_dlpack(data) for data, _ in features.epoch()]), rows)
    features.close()

    # Lent ones may not, and are refused where that cannot be said.
    features = Features(library, [plain], 100, mapped=True)
    found = [np.from_dlpack(data) for data, _ in features.epoch()]
    assert np.array_equal(np.concatenate(found), rows) and not any(data.flags.writeable for data in found)
    steps = {second.ctypes.data - first.ctypes.data for first, second in zip(found, found[1:])}
    assert steps == {100 * 24 * 4}, "the file's rows do not lie where they are"
    try:
        next(features.epoch(versioned=False))
        raise AssertionError("a lent batch was handed over without a word")
    except RuntimeError as error:
        assert "must not be written to" in str(error), error
    features.close()
    del found
    print(f"NumPy {np.__version__}: batches are the same, and not copied")


def check_torch(library, directory):
    try:
        import torch
    except ImportError:
        print("!!! SKIPPED PyTorch: it is not installed")
        return
    rows = np.arange(5000, dtype=np.float32).reshape(1000, 5)
    path = library.write(directory / "torch.dolmen", rows, np.arange(1000))
    features = Features(library, [path], 64)
    forms = [False]
    try:
        torch.from_dlpack(next(features.epoch(versioned=True))[0])
        forms.append(True)
    except (RuntimeError, ValueError, TypeError, BufferError) as error:
        print(f"PyTorch {torch.__version__} does not take DLPack 1: {error}")
    for versioned in forms:
        found = []
        for data, labels in features.epoch(versioned=versioned):
            data, labels = torch.from_dlpack(data), torch.from_dlpack(labels)
            assert data.dtype == torch.float32 and labels.dtype == torch.int64
            assert torch.equal(data[:, 0].long(), labels * 5)
            found.append(data.clone())
            data.zero_()
        assert torch.equal(torch.cat(found), torch.from_numpy(rows))
    features.close()
    print(f"PyTorch {torch.__version__}: batches are the same, and not copied")


def main():
    library = HERE / "target/debug" / NAMES[sys.platform] if len(sys.argv) < 2 else sys.argv[1]
    library = Library(library)
    with tempfile.TemporaryDirectory() as directory:
        check(library, pathlib.Path(directory))
        check_torch(library, pathlib.Path(directory))
        gc.collect()


if __name__ == "__main__":
    main()
