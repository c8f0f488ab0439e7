"""Crash states made real, one after the other: written to an image, mounted, recovered, checked."""

import multiprocessing
import os
import signal
import subprocess

import log as block_log
import machine
import recording

PART = 64 << 10
BLOCK = 4096


class Image:
    """An image that states are written to and, beside it, a mirror of what has been flushed."""

    def __init__(self, before, directory, length):
        self.length = length
        self.path = os.path.join(directory, "image.img")
        paths = self.path, os.path.join(directory, "mirror.img")
        for path in paths:
            recording.copy_sparse(before, path, length)
        self.image, self.mirror = (os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in paths)

    def apply(self, writes, log, files):
        for write in _joined(writes):
            if write.at is None:
                for file in files:
                    machine.punch(file, write.offset, write.length)
            else:
                piece = os.pread(log, write.length, write.at)
                for file in files:
                    os.pwrite(file, piece, write.offset)

    def restore(self):
        """Makes the image what the mirror is: takes back a state, and what its recovery wrote."""
        parts = set()
        for file in (self.image, self.mirror):
            for begin, end in machine.data_extents(file, self.length):
                parts.update(range(begin // PART, (end + PART - 1) // PART))
        for part in parts:
            found, wanted = (os.pread(file, PART, part * PART) for file in (self.image, self.mirror))
            if found == wanted:
                continue
            # Zeros are a hole again, or the image grows with every state.
            if wanted.count(0) == len(wanted):
                machine.punch(self.image, part * PART, len(wanted))
                continue
            differ = [at for at in range(0, len(wanted), BLOCK) if found[at:at + BLOCK] != wanted[at:at + BLOCK]]
            begin, end = differ[0], differ[-1] + BLOCK
            os.pwrite(self.image, wanted[begin:end], part * PART + begin)

    def close(self):
        os.close(self.image)
        os.close(self.mirror)


def _joined(writes):
    """The same writes, but those in one where one begins at the end of another, on the device and in the log."""
    joined = []
    for write in writes:
        last = joined[-1] if joined else None
        if last and None not in (last.at, write.at) and (last.offset + last.length, last.at + last.length) == (write.offset, write.at):
            joined[-1] = block_log.Write(last.offset, last.length + write.length, last.at)
        else:
            joined.append(write)
    return joined


class Checker:
    """The Rust checker, which knows what every step of the saver leaves."""

    def __init__(self, program, scratch, seed, steps):
        command = [program, "check", scratch, str(seed), str(steps)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=machine.die_with_parent)
        self._line()

    def ask(self, place, epoch, live):
        self.process.stdin.write(f"{place}\t{epoch.done}\t{epoch.begun}\t{'live' if live else ''}\n")
        self.process.stdin.flush()
        answer = self._line()
        return [] if answer == "ok" else answer.split("\t")

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the checker ended")
        return line.rstrip("\n")

    def close(self):
        self.process.kill()
        self.process.wait()


class Task:
    """What a worker is to do: every `jobs`-th epoch, from the `number`-th."""

    def __init__(self, number, jobs, work, recorded, log, choices, file_system, checker, seed, steps):
        self.number, self.jobs, self.recorded, self.log = number, jobs, recorded, log
        self.choices, self.file_system = choices, file_system
        self.checker, self.seed, self.steps = checker, seed, steps
        self.directory = os.path.join(work, f"worker-{number}")

    def run(self, tell):
        scratch, place = (os.path.join(self.directory, name) for name in ("scratch", "mounted"))
        os.makedirs(scratch)
        os.makedirs(place)
        checker, loop, image, log = None, None, None, None
        try:
            checker = Checker(self.checker, scratch, self.seed, self.steps)
            image = Image(self.recorded.image, self.directory, self.file_system.length)
            loop = machine.Loop(image.path)
            log = os.open(self.recorded.log, os.O_RDONLY | os.O_CLOEXEC)
            image.apply(self.log.before, log, (image.image, image.mirror))
            for number, (epoch, (pieces, states)) in enumerate(zip(self.log.epochs, self.choices)):
                if number % self.jobs == self.number:
                    flat = [piece for write in pieces for piece in write]
                    for turn, state in enumerate(states):
                        kept = [piece for bit, piece in enumerate(flat) if state >> bit & 1]
                        image.apply(kept, log, (image.image,))
                        wrong = self._look(loop.device, place, checker, epoch, turn % 8 == 0)
                        image.restore()
                        tell((number, len(kept), len(flat), epoch.done, epoch.begun, wrong))
                image.apply(epoch.writes, log, (image.image, image.mirror))
        finally:
            machine.unmount_whatever_is_there(place)
            if loop is not None:
                loop.detach()
            if checker is not None:
                checker.close()
            if image is not None:
                image.close()
            if log is not None:
                os.close(log)

    def _look(self, device, place, checker, epoch, live):
        kind = self.file_system.kind
        try:
            machine.mount(device, place, kind, self.file_system.replay_options)
        except OSError as e:
            return [f"unmountable: {e}"]
        try:
            return checker.ask(place, epoch, live)
        finally:
            machine.unmount(place)
            if kind == "btrfs":
                machine.forget_btrfs(device)


def _work(task, queue):
    machine.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(1)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        task.run(queue.put)
        queue.put(None)
    except BaseException as e:
        queue.put(e if isinstance(e, (OSError, RuntimeError, ValueError)) else RuntimeError(repr(e)))
        raise


def replay(tasks, tell):
    """Runs the tasks, each in a process, and tells of each state as it is checked."""
    processes = multiprocessing.get_context("fork")
    queue = processes.Queue()
    workers = [processes.Process(target=_work, args=(task, queue)) for task in tasks]
    try:
        for worker in workers:
            worker.start()
        working = len(workers)
        while working:
            found = queue.get()
            if found is None:
                working -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                tell(found)
    finally:
        for worker in workers:
            if worker.pid is not None and worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()
