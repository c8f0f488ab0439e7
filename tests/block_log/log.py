"""The log of block writes, as QEMU's `blklogwrites` and the kernel's `dm-log-writes` write it, cut into epochs.

An epoch is what lies between two flushes of the device. What was written before a flush is on the disk when it returns; of what was
written since the last one, a crash may leave any part.
"""

import dataclasses
import os
import struct

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4
MARK_MAGIC = b"\x7fDMARK\r\n"
START, BEGUN, DONE, END = 1, 2, 3, 4
PIECE = 4096


@dataclasses.dataclass(frozen=True)
class Write:
    """Bytes of the device that were written or, if they are nowhere in the log, discarded."""

    offset: int
    length: int
    at: int | None

    def pieces(self):
        """The parts of it that the disk writes or does not write: none is longer than 4 KiB, nor goes beyond a multiple of it."""
        if self.at is None:
            return [self]
        found, offset, end = [], self.offset, self.offset + self.length
        while offset < end:
            length = min(PIECE - offset % PIECE, end - offset)
            found.append(Write(offset, length, self.at + offset - self.offset))
            offset += length
        return found


@dataclasses.dataclass
class Epoch:
    """Writes between two flushes, and how far the saver was at the second."""

    writes: list
    done: int = 0
    begun: int = 0


class Log:
    """`before` are the writes before the saver's first step; the epochs follow."""

    def __init__(self, path, file_system_length):
        self.path = path
        self.before = []
        self.epochs = [Epoch([])]
        self.flushes = 0
        self.flushes_of_step = {}
        self.ended = False
        self._read(file_system_length)

    def _read(self, file_system_length):
        started, done, begun, flushed = False, 0, 0, 0
        with open(self.path, "rb") as log:
            for offset, length, flags, at in _entries(log):
                if flags & FLUSH:
                    flushed += 1
                    if started and self.epochs[-1].writes:
                        self._close(done, begun)
                if length == 0:
                    continue
                if offset >= file_system_length:
                    log.seek(at)
                    magic, mark, number = struct.unpack("<8sQQ", log.read(24))
                    if magic != MARK_MAGIC:
                        raise ValueError("there is something else than a mark behind the file system")
                    if mark == START:
                        started, flushed = True, 0
                    elif mark == BEGUN:
                        begun, flushed = number, 0
                    elif mark == DONE:
                        done = number
                        self.flushes_of_step[number] = flushed
                    elif mark == END:
                        self.ended = True
                    continue
                write = Write(offset, length, None if flags & DISCARD else at)
                if not started:
                    self.before.append(write)
                    continue
                self.epochs[-1].writes.append(write)
                if flags & FUA:
                    # On the disk when it is complete, and the others are not: here it counts as one that all others wait for, which
                    # leaves states out and adds none. The loop driver asks for flushes instead.
                    self._close(done, begun)
        self._close(done, begun)
        self.epochs.pop()
        if not self.epochs[-1].writes:
            self.epochs.pop()

    def _close(self, done, begun):
        self.epochs[-1].done, self.epochs[-1].begun = done, begun
        self.epochs.append(Epoch([]))
        self.flushes += 1


def _entries(log):
    """Of each entry: offset and length on the device, flags, and where in the log its bytes are."""
    magic, _, count, sector = struct.unpack("<QQQI", log.read(28))
    if magic != MAGIC:
        raise ValueError("this is no log of block writes")
    size = os.fstat(log.fileno()).st_size
    at = sector
    for _ in range(count):
        log.seek(at)
        first, sectors, flags, _ = struct.unpack("<QQQQ", log.read(32))
        at += sector
        yield first * sector, sectors * sector, flags, at
        if not flags & DISCARD:
            at += sectors * sector
        if at > size:
            raise ValueError("the log of block writes ends too early")
