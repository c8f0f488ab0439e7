#!/usr/bin/env python3
"""Crashes on real file systems: a saver's block writes are recorded and replayed to every crash state, each of which is mounted and checked.

    cargo build --manifest-path tests/block_log/Cargo.toml
    python3 tests/block_log/run.py [--fs ext4,xfs,btrfs] [--states 10000] [--seed 1] [--saver all] [--jobs 2]

Root only. It needs nothing but Python 3.10, `qemu-storage-daemon` with FUSE exports, and the `mkfs` of each file system; README.md
says what is looked at, and what a line of the table means. Exits with 1 if something acknowledged was lost, a file was corrupt, a
state could not be mounted, or a broken saver was not caught where it must be; with 2 if nothing could be looked at.
"""

import argparse
import collections
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import log as block_log
import machine
import recording
import replay
import states

HERE = os.path.dirname(os.path.abspath(__file__))
SAVERS = {"honest": "none", "no-file-sync": "file-sync", "no-directory-sync": "directory-sync"}
WEATHERS = "breeze", "storm"
# How many states of a voyage are looked at for each of its writes, so that there are voyages in every weather: at most, and at most if
# there are few voyages.
STATES_OF_A_WRITE = 4
STATES_OF_A_WRITE_IF_MANY = 2
KINDS = "lost", "corrupt", "foreign", "stuck", "unmountable"
# Steps that may have nothing to flush.
NEED_NO_FLUSH = "Refused", "Discarded", "Forget"
PACKAGES = {
    "qemu-storage-daemon": "qemu-system-common or qemu-storage-daemon",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
}


class Skip(Exception):
    """Something that is needed is missing."""


def find_tools(name):
    if os.geteuid() != 0:
        raise Skip("only root may mount")
    file_system = recording.FILE_SYSTEMS[name]
    for tool in ("qemu-storage-daemon", file_system.make("", 0)[0]):
        if shutil.which(tool) is None:
            raise Skip(f"there is no {tool} (package {PACKAGES[tool]})")
    told = subprocess.run(["qemu-storage-daemon", "--help"], capture_output=True, text=True).stdout
    if "type=]fuse" not in told:
        raise Skip("this qemu-storage-daemon has no FUSE exports")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(device):
            raise Skip(f"there is no {device}")
    with open("/proc/filesystems") as file:
        known = file.read().split()
    if file_system.kind not in known:
        # It may be a module.
        subprocess.run(["modprobe", "-q", file_system.kind], stderr=subprocess.DEVNULL, check=False)
        with open("/proc/filesystems") as file:
            known = file.read().split()
    if file_system.kind not in known:
        raise Skip(f"this kernel has no {file_system.kind}")
    return file_system


def find_program(given):
    if given:
        return os.path.abspath(given)
    targets = os.environ.get("CARGO_TARGET_DIR"), os.path.join(HERE, "target"), os.path.join(HERE, "../../target")
    built = [os.path.join(target, "debug", "dolmen-block-log") for target in targets if target]
    built = [path for path in built if os.path.exists(path)]
    if not built:
        raise Skip("build it first: cargo build --manifest-path tests/block_log/Cargo.toml")
    return os.path.abspath(max(built, key=os.path.getmtime))


def jobs_for(file_system, wanted):
    # Older kernels take two images with one UUID for one btrfs.
    version = tuple(int(n) for n in re.findall(r"\d+", platform.release())[:2])
    return 1 if file_system.kind == "btrfs" and version < (6, 7) else wanted


class Outcome:
    """What was found on one file system with one saver."""

    def __init__(self, name, saver):
        self.name, self.saver = name, saver
        self.counts = collections.Counter()
        self.examples = []
        self.voyages = self.states = self.bad = self.prefixes = self.every = self.writes = self.flushes = 0
        self.seconds = 0.0

    def add(self, found):
        epoch, kept, pieces, done, begun, wrong = found
        self.states += 1
        if not wrong:
            return
        self.bad += 1
        for kind in {text.split(":", 1)[0] for text in wrong}:
            self.counts[kind] += 1
        if len(self.examples) < 5:
            under_way = f", step {begun} under way" if begun > done else ""
            where = f"epoch {epoch}, {kept} of {pieces} pieces written, {done} steps acknowledged{under_way}"
            self.examples.append(f"{where}: {'; '.join(text[:150] for text in wrong[:2])}")

    @property
    def is_honest(self):
        return self.saver == "honest"

    @property
    def is_as_it_must_be(self):
        if self.is_honest:
            return self.bad == 0
        # Elsewhere a file system may order things so that nothing is lost; ext4 without auto_da_alloc does not.
        return self.name != "ext4" or self.counts["lost"] + self.counts["corrupt"] > 0

    def row(self):
        verdict = ("nothing lost" if self.bad == 0 else "LOSS") if self.is_honest else \
            ("caught" if self.counts["lost"] + self.counts["corrupt"] else "not caught")
        counts = [str(self.counts[kind]) for kind in KINDS]
        return [self.name, self.saver, str(self.voyages), str(self.states), f"{self.prefixes}/{self.every}", str(self.writes), str(self.flushes),
                *counts, verdict, f"{self.seconds:.0f}"]


HEADINGS = ["file system", "saver", "voyages", "states", "prefixes", "writes", "flushes", *KINDS, "verdict", "seconds"]


def look(name, file_system, saver, program, arguments, wanted):
    """Voyages, each on a new file system and with another seed and weather, until so many states have been looked at."""
    outcome = Outcome(name, saver)
    begun = time.monotonic()
    steps = arguments.steps or min(max(12, wanted // 20), 150)
    while outcome.states < wanted:
        before = outcome.states
        seed = arguments.seed * 1000 + outcome.voyages
        weather = WEATHERS[outcome.voyages % len(WEATHERS)]
        work = tempfile.mkdtemp(prefix="dolmen-block-log.", dir=arguments.work)
        try:
            travel(outcome, file_system, program, arguments.jobs, work, seed, steps, weather, wanted)
        finally:
            if arguments.keep:
                print(f"kept: {work}", file=sys.stderr)
            else:
                shutil.rmtree(work)
        outcome.voyages += 1
        if outcome.states == before:
            raise RuntimeError("a voyage without a state to look at")
    outcome.seconds = time.monotonic() - begun
    return outcome


def travel(outcome, file_system, program, jobs, work, seed, steps, weather, wanted):
    recorded = recording.Recording(work, file_system, program, seed, steps, SAVERS[outcome.saver], weather)
    log = block_log.Log(recorded.log, file_system.length)
    check_recording(log, recorded, steps, outcome.saver, weather)
    writes = sum(len(epoch.writes) for epoch in log.epochs)
    most = min(STATES_OF_A_WRITE * writes, max(STATES_OF_A_WRITE_IF_MANY * writes, wanted // 4))
    every_prefix = outcome.voyages > 0
    choices, prefixes, every = states.choose(log.epochs, min(wanted - outcome.states, most), seed, every_prefix)
    outcome.writes += writes
    outcome.flushes += log.flushes
    outcome.prefixes += prefixes
    outcome.every += every
    jobs = jobs_for(file_system, jobs)
    tasks = [
        replay.Task(n, jobs, work, recorded, log, choices, file_system, program, seed, steps) for n in range(jobs)
    ]

    def tell(found):
        outcome.add(found)
        if outcome.states % 1000 == 0:
            print(f"  {outcome.name} {outcome.saver}: {outcome.states} states, {outcome.bad} bad", file=sys.stderr, flush=True)

    replay.replay(tasks, tell)


def check_recording(log, recorded, steps, saver, weather):
    """Whether the log is one that says something: complete, and with the flushes that the saver asked for."""
    if not log.ended or sorted(log.flushes_of_step) != list(range(1, steps + 1)):
        raise RuntimeError("the log does not hold the whole of the saver's work")
    what = dict(line.split(" ", 2)[1:] for line in recorded.told if line.startswith("begun "))
    unflushed = [
        number for number, flushes in log.flushes_of_step.items()
        if flushes == 0 and not what[str(number)].startswith(NEED_NO_FLUSH)
    ]
    # In a storm the flushes may be those of others.
    if saver == "honest" and weather == "breeze" and unflushed:
        raise RuntimeError(f"no flush reached the log in step {unflushed[0]} ({what[str(unflushed[0])]}), which was acknowledged")


def print_table(rows):
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if row is rows[0]:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", default="ext4,xfs,btrfs", help=f"of {', '.join(recording.FILE_SYSTEMS)}")
    parser.add_argument("--states", type=int, default=10_000, help="crash states for each file system and saver")
    parser.add_argument("--broken-states", type=int, help="the same for the broken savers (a tenth)")
    parser.add_argument("--steps", type=int, help="steps of each voyage (12 to 150)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--saver", default="all", help=f"all, or of {', '.join(SAVERS)}")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--program", help="the saver and checker that Cargo built")
    parser.add_argument("--work", default="/dev/shm" if os.path.isdir("/dev/shm") else None, help="where images and logs are")
    parser.add_argument("--keep", action="store_true", help="keeps them")
    arguments = parser.parse_args()
    for given, known in ((arguments.fs, recording.FILE_SYSTEMS), (arguments.saver, {**SAVERS, "all": None})):
        for name in given.split(","):
            if name not in known:
                parser.error(f"unknown: {name}")
    return arguments


def main():
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    savers = list(SAVERS) if arguments.saver == "all" else arguments.saver.split(",")
    outcomes, skipped, own = [], [], False
    for name in arguments.fs.split(","):
        try:
            file_system = find_tools(name)
            program = find_program(arguments.program)
        except Skip as e:
            print(f"SKIPPED: {name}: {e}", file=sys.stderr)
            skipped.append(name)
            continue
        if not own:
            machine.own_mounts()
            own = True
        for saver in savers:
            wanted = arguments.states
            if saver != "honest":
                wanted = arguments.broken_states or max(wanted // 10, min(wanted, 50))
            outcome = look(name, file_system, saver, program, arguments, wanted)
            outcomes.append(outcome)
            print(f"  {', '.join(outcome.row())}", file=sys.stderr)
            for example in outcome.examples:
                print(f"  {name} {saver}: {example}", file=sys.stderr, flush=True)
    if outcomes:
        print(f"Linux {platform.release()}, seed {arguments.seed}, {time.strftime('%Y-%m-%d')}\n")
        print_table([HEADINGS, *(outcome.row() for outcome in outcomes)])
    if skipped:
        print(f"\n{len(skipped)} skipped: {', '.join(skipped)}")
    bad = [outcome for outcome in outcomes if not outcome.is_as_it_must_be]
    for outcome in bad:
        print(f"FAILED: {outcome.name}, {outcome.saver}")
    return 1 if bad else 0 if outcomes else 2


if __name__ == "__main__":
    sys.exit(main())
