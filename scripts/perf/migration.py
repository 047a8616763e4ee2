"""`scripts/bench migration`: a whole machine from process to process, beside QEMU with the same
channels.

First a machine that stands still and has no vCPU that runs, so what is measured is RAM on its way:
from the command until both sides say that it is over, and the CPU time of both processes.
Incompressible RAM, and RAM that is nearly all zeros.

Then one that writes to 16 MiB of it as fast as it can: how long it takes, and for how long the guest
stood, as the VMM tells it and as its heartbeats show it.

RAM arrives in huge pages of the host's pool where there are any, on both sides' behalf alike: see
huge_pages.py."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import LabError
from lab.paths import ROOT
from perf import guest_migration
from perf.heartbeats import Heartbeats
from perf.huge_pages import huge_pages
from perf.instance import Instance
from perf.stats import Series, table, verdict

CHANNELS = (0, 2, 4)
TRANSPORTS = ("unix", "tcp")
CONTENTS = ("random", "zeros")
NO_LIMIT = 1 << 40
# What runs no guest code: of Debian's QEMU nothing else is left, and -S keeps it from running.
_STANDS_STILL = {"rhea": ["-accel", "qtest", "-S"], "qemu": ["-accel", "tcg", "-S"]}
# The busy guest boots under either; how fast it writes matters little, as it has written to all of
# its area before a pass is over.
_RUNS = {"rhea": ["-accel", "kvm"], "qemu": ["-accel", "tcg"]}
_GUEST = ROOT / "build" / "tests" / "kvm" / "dirtier.elf"
_AREA = "2"  # of 8 MiB
_HUGE = "memory-backend-memfd,hugetlb=on,share=on"
_ORDINARY = "memory-backend-ram"

# By case, by side, the figures of each round.
Samples = dict[str, dict[str, list[list[float]]]]


@dataclass(frozen=True)
class Case:
    content: str
    transport: str
    channels: int

    @property
    def label(self) -> str:
        return f"{self.content} {self.transport} {self.channels or 'no'} channels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 for a verdict")
    parser.add_argument("--mebibytes", type=int, default=1536, help="of RAM")
    parser.add_argument("--guest", action="store_true",
                        help="a stock guest instead, which counts and writes pages; in the lab "
                             "where the host runs none")
    parser.add_argument("--ordinary-pages", action="store_true",
                        help="not the host's pool of huge pages, even if it has any")
    parser.add_argument("--rhea", type=Path, default=ROOT / "build" / "rhea")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")


def run(options: argparse.Namespace) -> int:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise LabError("qemu-system-x86_64 is not installed; run scripts/setup")
    if options.rounds < 1:
        raise LabError("--rounds must be 1 or more")
    if options.guest:
        return guest_migration.run(options.rounds, options.json)
    sides = {"rhea": str(options.rhea), "qemu": qemu}
    cases = [Case(content, transport, channels) for content in CONTENTS
             for transport in TRANSPORTS for channels in CHANNELS]
    # The ceiling needs twice as much: what leaves as well as what arrives.
    with _arriving_ram(2 * options.mebibytes, options) as ram:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            samples = _run_still(sides, cases, Path(folder), ram, options)
            busy = _run_busy(sides, Path(folder), ram, options)
        _print(samples, options.mebibytes)
        _print_busy(busy)
        _print_ceiling(ram, options)
    if options.json:
        everything = {"ram": ram, "still": samples, "busy": busy}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="ascii")
    return 0


@contextlib.contextmanager
def _arriving_ram(mebibytes: int, options: argparse.Namespace) -> Iterator[str]:
    """What RAM is made of where it arrives."""
    if options.ordinary_pages:
        yield _ORDINARY
        return
    with huge_pages(mebibytes) as missing:
        if missing:
            print(f"bench: no huge pages: {missing}. Ordinary ones vary more.")
        yield _ORDINARY if missing else _HUGE


def _run_still(sides: dict[str, str], cases: list[Case], folder: Path, ram: str,
               options: argparse.Namespace) -> Samples:
    samples: Samples = {}
    for content in CONTENTS:
        _fill(folder / content, content, options.mebibytes)
    for number in range(options.rounds):
        for case in cases:
            for name, binary in sides.items():
                sample = _measure(name, binary, case, folder, ram, options.mebibytes)
                samples.setdefault(case.label, {}).setdefault(name, []).append(sample)
        print(f"bench: round {number + 1} of {options.rounds}", flush=True)
    return samples


def _fill(path: Path, content: str, mebibytes: int) -> None:
    """Zeros are zeros but for one page in 64."""
    with path.open("wb") as out:
        for _ in range(mebibytes):
            if content == "random":
                out.write(os.urandom(1 << 20))
            else:
                out.write((os.urandom(4096) + bytes(63 * 4096)) * 4)


def _measure(name: str, binary: str, case: Case, folder: Path, ram: str,
             mebibytes: int) -> list[float]:
    """Seconds, and CPU seconds of both sides."""
    size = f"{mebibytes}M"
    source = target = None
    try:
        source = Instance(binary, folder, f"{name}-source", size, _shared(folder / case.content),
                          *_STANDS_STILL[name])
        target = Instance(binary, folder, f"{name}-target", size, ram, *_STANDS_STILL[name],
                          "-incoming", "defer")
        uri = _prepare(source, target, case, folder)
        cpu = source.cpu_seconds() + target.cpu_seconds()
        took = _move(source, target, uri)
        return [took, source.cpu_seconds() + target.cpu_seconds() - cpu]
    finally:
        _end(folder, source, target)


def _shared(path: Path) -> str:
    return f"memory-backend-file,mem-path={path},share=on"


def _prepare(source: Instance, target: Instance, case: Case, folder: Path) -> str:
    """Tells both sides how, has the target listen, and says where."""
    uri = f"unix:{folder / 'socket'}" if case.transport == "unix" else "tcp:127.0.0.1:0"
    for side in (source, target):
        capabilities = [{"capability": capability, "state": True} for capability in
                        (["events", "return-path"] + (["multifd"] if case.channels else []))]
        side.execute("migrate-set-capabilities", capabilities=capabilities)
        parameters: dict[str, Any] = {"max-bandwidth": NO_LIMIT}
        if case.channels:
            parameters["multifd-channels"] = case.channels
        side.execute("migrate-set-parameters", **parameters)
    target.execute("migrate-incoming", uri=uri)
    if case.transport == "tcp":
        [address] = target.execute("query-migrate")["socket-address"]
        uri = f"tcp:{address['host']}:{address['port']}"
    return uri


def _move(source: Instance, target: Instance, uri: str) -> float:
    """Seconds until both sides say that it is over."""
    began = time.monotonic()
    source.execute("migrate", uri=uri)
    source.wait_migrated()
    target.wait_migrated()
    return time.monotonic() - began


def _end(folder: Path, *sides: Instance | None) -> None:
    for side in sides:
        if side is not None:
            side.end()
    (folder / "socket").unlink(missing_ok=True)


def _run_busy(sides: dict[str, str], folder: Path, ram: str,
              options: argparse.Namespace) -> Samples:
    samples: Samples = {}
    if not _GUEST.exists():
        print(f"no busy guest: {_GUEST} is not built")
        return samples
    for number in range(options.rounds):
        for transport in TRANSPORTS:
            for channels in CHANNELS:
                case = Case("random", transport, channels)
                for name, binary in sides.items():
                    sample = _measure_busy(name, binary, case, folder, ram, options.mebibytes)
                    samples.setdefault(case.label, {}).setdefault(name, []).append(sample)
        print(f"bench: busy guest, round {number + 1} of {options.rounds}", flush=True)
    return samples


def _measure_busy(name: str, binary: str, case: Case, folder: Path, ram: str,
                  mebibytes: int) -> list[float]:
    """Seconds: of the whole, of the downtime as it is told, of the longest time between two beats."""
    size = f"{mebibytes}M"
    source = target = None
    with Heartbeats(folder, ("source", "target")) as beats:
        try:
            source = _start_busy(name, binary, folder, "source", size, _shared(folder / "random"))
            beats.wait("source", 10)
            target = _start_busy(name, binary, folder, "target", size, ram, "-incoming", "defer")
            uri = _prepare(source, target, case, folder)
            beats.forget()
            took = _move(source, target, uri)
            beats.wait("target", 3)
            told = source.execute("query-migrate")["downtime"] / 1e3
            return [took, told, beats.longest_gap()]
        finally:
            _end(folder, source, target)


def _start_busy(name: str, binary: str, folder: Path, side: str, size: str, ram: str,
                *extra: str) -> Instance:
    port = ["-chardev", f"file,id=beats,path={folder / side}",
            "-device", "isa-debugcon,iobase=0x402,chardev=beats"]
    if name == "rhea":
        port = ["-debugcon", f"file:{folder / side}"]
    return Instance(binary, folder, f"{name}-{side}", size, ram, *_RUNS[name], "-kernel",
                    str(_GUEST), "-append", _AREA, *port, *extra)


def _print(samples: Samples, mebibytes: int) -> None:
    for figure, name in enumerate(("time", "CPU time, both sides")):
        rows = [[name, "rhea", "qemu", "ratio, verdict", "rhea MiB/s"]]
        for label, sides in samples.items():
            ours, peer = (Series(tuple(s[figure] * 1e3 for s in sides[side]))
                          for side in ("rhea", "qemu"))
            rows.append([label, ours.show("ms"), peer.show("ms"),
                         f"{ours.median / peer.median:.2f}, {verdict(ours, peer)}",
                         f"{mebibytes / ours.median * 1e3:.0f}" if figure == 0 else ""])
        print(f"\n{table(rows)}")


def _print_busy(samples: Samples) -> None:
    for figure, name in enumerate(("busy guest: time", "busy guest: downtime as told",
                                   "busy guest: longest gap between heartbeats")):
        rows = [[name, "rhea", "qemu", "ratio, verdict"]]
        for label, sides in samples.items():
            ours, peer = (Series(tuple(s[figure] * 1e3 for s in sides[side]))
                          for side in ("rhea", "qemu"))
            ratio = f"{ours.median / peer.median:.2f}, " if peer.median else ""
            rows.append([label, ours.show("ms"), peer.show("ms"), f"{ratio}{verdict(ours, peer)}"])
        print(f"\n{table(rows)}")


def _print_ceiling(ram: str, options: argparse.Namespace) -> None:
    binary = ROOT / "build" / "tests" / "bench" / "multifd_bench"
    if not binary.exists():
        print(f"\nno ceiling: {binary} is not built")
        return
    huge = ["--hugetlb"] if ram == _HUGE else []
    done = subprocess.run([str(binary), "--rounds", str(options.rounds), *huge,
                           str(options.mebibytes)], capture_output=True, text=True, check=False)
    print(f"\na bare write/read loop, and the channels alone\n{done.stdout}{done.stderr}".rstrip())
