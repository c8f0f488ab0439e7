"""What the harness needs of Linux: loop devices, mounts of its own, holes in files. Root only."""

import ctypes
import errno
import fcntl
import os
import signal
import struct
import time

LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18
PR_SET_PDEATHSIG = 1
LOOP_CONFIGURE, LOOP_CLR_FD, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C01, 0x4C82
BTRFS_IOC_FORGET_DEV = 0x50009405
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 1, 2


def _check(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def own_mounts():
    """From here on mounts are seen by this process and its children alone, and go when they do."""
    _check(LIBC.unshare(CLONE_NEWNS), "unshare")
    _check(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")


def die_with_parent(how=signal.SIGTERM):
    LIBC.prctl(PR_SET_PDEATHSIG, how)


def mount(device, place, kind, options):
    _check(LIBC.mount(device.encode(), place.encode(), kind.encode(), 0, options.encode()), f"mounting {kind}")


def unmount(place):
    for attempt in range(200):
        try:
            return _check(LIBC.umount2(place.encode(), 0), f"unmounting {place}")
        except OSError as e:
            if e.errno != errno.EBUSY or attempt == 199:
                raise
            time.sleep(0.01)


def unmount_whatever_is_there(place):
    while LIBC.umount2(place.encode(), 0) == 0:
        pass


def flush(place):
    """Flushes one file system, and leaves those of others alone."""
    directory = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(LIBC.syncfs(directory), f"flushing {place}")
    finally:
        os.close(directory)


def punch(file, offset, length):
    mode = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE
    _check(LIBC.fallocate(file, mode, ctypes.c_long(offset), ctypes.c_long(length)), "punching a hole")


class Loop:
    """A loop device over a file, or over its first `length` bytes."""

    def __init__(self, path, length=0):
        backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.device = self._attach(backing, path, length)
        finally:
            os.close(backing)

    @staticmethod
    def _attach(backing, path, length):
        name = os.path.basename(path).encode()[:63]
        info = struct.pack("<5Q4I64s64s32s16s", 0, 0, 0, 0, length, 0, 0, 0, 0, name, b"", b"", b"")
        request = struct.pack("<II", backing, 512) + info + bytes(64)
        while True:
            with open("/dev/loop-control", "rb") as control:
                device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, LOOP_CONFIGURE, request)
                return device
            except OSError as e:
                # Another program was faster.
                if e.errno != errno.EBUSY:
                    raise
            finally:
                os.close(loop)

    def detach(self):
        if self.device is None:
            return
        loop = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, LOOP_CLR_FD)
        finally:
            os.close(loop)
        self.device = None


def forget_btrfs(device):
    """Makes btrfs forget what it knows of a device that is not mounted: the next image on it is an older one, maybe."""
    with open("/dev/btrfs-control", "rb") as control:
        try:
            fcntl.ioctl(control, BTRFS_IOC_FORGET_DEV, bytearray(struct.pack("<q4088s", 0, device.encode())))
        except OSError as e:
            if e.errno != errno.ENOENT:
                raise


def data_extents(file, length):
    """The parts of a file that are no holes, as pairs of beginning and end."""
    offset = 0
    while offset < length:
        try:
            begin = os.lseek(file, offset, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return
            raise
        offset = min(os.lseek(file, begin, os.SEEK_HOLE), length)
        if begin < offset:
            yield begin, offset
