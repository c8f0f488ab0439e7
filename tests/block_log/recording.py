"""A saver at work on a file system whose block writes are logged.

`qemu-storage-daemon` writes the log (`blklogwrites`) and shows the device as a file (FUSE); a loop device makes it a device again. The
loop driver turns the file system's flushes into fsync of that file, which the log then has.
"""

import os
import shutil
import signal
import subprocess
import time

import machine

MARKS = 1 << 20
LOG_LENGTH = 16 << 30


class FileSystem:
    """How a file system is made and mounted."""

    def __init__(self, kind, length, make, options, replay_options=""):
        self.kind, self.length, self.make, self.options = kind, length, make, options
        self.replay_options = ",".join(filter(None, [options, replay_options]))


def _ext4(path, length, features="^fast_commit"):
    lazy = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    return ["mkfs.ext4", "-q", "-F", "-b", "4096", "-O", features, "-E", lazy, path, f"{length >> 10}k"]


def _ext4_fast(path, length):
    return _ext4(path, length, "fast_commit")


def _xfs(path, length):
    return ["mkfs.xfs", "-q", "-f", "-K", "-d", f"name={path},size={length}"]


def _btrfs(path, length):
    return ["mkfs.btrfs", "-q", "-f", "-K", "-b", str(length), path]


FILE_SYSTEMS = {
    # `auto_da_alloc` flushes, behind a rename, what nobody asked to flush: it hides what the harness is to find.
    "ext4": FileSystem("ext4", 64 << 20, _ext4, "noauto_da_alloc,commit=1"),
    "ext4-auto": FileSystem("ext4", 64 << 20, _ext4, "commit=1"),
    "ext4-fast": FileSystem("ext4", 64 << 20, _ext4_fast, "noauto_da_alloc,commit=1"),
    # Both replays are mounted at once, and have the same UUID.
    "xfs": FileSystem("xfs", 300 << 20, _xfs, "", "nouuid"),
    "btrfs": FileSystem("btrfs", 128 << 20, _btrfs, "commit=1"),
}


def copy_sparse(source, target, length):
    """Copies the first `length` bytes, leaving holes where there are only zeros."""
    zeros = bytes(4096)
    with open(source, "rb") as old, open(target, "wb") as new:
        new.truncate(length)
        for begin, end in machine.data_extents(old.fileno(), length):
            for offset in range(begin - begin % 4096, end, 4096):
                piece = os.pread(old.fileno(), min(4096, length - offset), offset)
                if piece != zeros[:len(piece)]:
                    os.pwrite(new.fileno(), piece, offset)


class Recording:
    """The image before the saver's work, the log of that work, and what the saver said."""

    def __init__(self, work, file_system, saver, seed, steps, omitted, weather):
        self.image = os.path.join(work, "before.img")
        self.log = os.path.join(work, "writes.log")
        device, export, place = (os.path.join(work, name) for name in ("device.img", "export", "recorded"))
        with open(device, "wb") as file:
            file.truncate(file_system.length + MARKS)
        made = subprocess.run(file_system.make(device, file_system.length), capture_output=True, text=True)
        if made.returncode != 0:
            raise RuntimeError(f"cannot make the file system: {made.stderr}")
        copy_sparse(device, self.image, file_system.length)
        with open(self.log, "wb") as file:
            file.truncate(LOG_LENGTH)
        with open(export, "wb"):
            pass
        os.makedirs(place, exist_ok=True)

        daemon, loop = None, None
        try:
            daemon = _start_daemon(device, self.log, export, file_system.length + MARKS)
            loop = machine.Loop(export, file_system.length)
            machine.mount(loop.device, place, file_system.kind, file_system.options)
            machine.flush(place)
            command = [saver, "save", place, str(seed), str(steps), export, str(file_system.length), omitted, weather]
            with open(os.path.join(work, "saver.out"), "w+") as out:
                saved = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
                out.seek(0)
                self.told = out.read().splitlines()
            if saved.returncode != 0:
                raise RuntimeError(f"the saver failed: {saved.stderr}")
            machine.unmount(place)
            if file_system.kind == "btrfs":
                machine.forget_btrfs(loop.device)
            loop.detach()
            # So that the log's first sector says how long it is.
            with open(export, "r+b") as file:
                os.fsync(file.fileno())
        finally:
            machine.unmount_whatever_is_there(place)
            if loop is not None:
                loop.detach()
            if daemon is not None:
                _stop(daemon)
            machine.unmount_whatever_is_there(export)
        os.unlink(device)


def _start_daemon(device, log, export, length):
    command = [
        shutil.which("qemu-storage-daemon"),
        "--blockdev", f"driver=file,node-name=device,filename={device}",
        "--blockdev", f"driver=file,node-name=log,filename={log}",
        "--blockdev", "driver=blklogwrites,node-name=logged,file=device,log=log,log-sector-size=512",
        "--export", f"type=fuse,id=export,node-name=logged,mountpoint={export},writable=on,allow-other=off",
    ]
    daemon = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=machine.die_with_parent)
    for _ in range(500):
        if daemon.poll() is not None:
            raise RuntimeError(f"qemu-storage-daemon ended: {daemon.stderr.read()}")
        if os.stat(export).st_size == length:
            return daemon
        time.sleep(0.01)
    _stop(daemon)
    raise RuntimeError("qemu-storage-daemon does not show the device")


def _stop(daemon):
    # It looks whether it was told to end, and then waits for something to happen: told in between, it waits on.
    for _ in range(100):
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(0.2)
            return
        except subprocess.TimeoutExpired:
            pass
    daemon.kill()
    daemon.wait()
