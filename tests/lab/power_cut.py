"""Cuts the power of the nested machine while its guest writes, and starts it again."""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import guest, host, runner, vmm
from lab.errors import LabError
from lab.paths import run_tool
from lab.result import Event, LabResult

DISKS = ("vda", "vdb", "vdc")
DISK_MIB = 192
E2FSCK = Path("/usr/sbin/e2fsck")
NESTED = host.Choice("lab", "the power of this host shall stay on")

# Each record says where it belongs; only what has been flushed is reported. The writers never stop.
_WRITER = r"""
mkdir -p /root/records
write() {{ dd bs=32k count=1 iflag=fullblock status=none "$@"; }}
disk() {{
    n={first}
    while yes "$1 $n" | write of=/dev/$1 seek=$n oflag=direct conv=notrunc,fsync; do
        echo "flushed $1 $n"; n=$((n + 1))
    done
}}
files() {{
    n={first}
    while yes "vda $n" | write of=/root/records/$n conv=fsync; do
        echo "flushed vda $n"; n=$((n + 1))
    done
}}
files & disk vdb & disk vdc & wait
"""


def run(scenario: Path, files: Mapping[str, Path], flushes: int, timeout: float) -> LabResult:
    """Both runs of the machine in one result: up to the cut, and what the next start finds.

    The cut comes when the guest has seen `flushes` flushes complete on each of its disks.
    """
    if not E2FSCK.exists():
        raise LabError(f"{E2FSCK} is missing; run scripts/setup (package e2fsprogs)")
    writers = [guest.run_argument(_WRITER.format(first=first)) for first in (0, 256)]
    params: dict[str, Any] = {"writer": writers, "flushes": flushes, "timeout": timeout}
    vmms = {"vmm": vmm.find(), "e2fsck": vmm.Vmm("e2fsck", E2FSCK)}
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.img"
        run_tool(["mke2fs", "-q", "-t", "ext4", str(disk), f"{DISK_MIB}M"])

        def start(phase: str, cut_power: runner.PowerSwitch | None = None) -> LabResult:
            return runner.run(
                scenario,
                vmms=vmms,
                files=files,
                params={**params, "phase": phase},
                timeout=timeout,
                choice=NESTED,
                disk=disk,
                cut_power=cut_power,
            )

        before = start("write", _Switch(flushes))
        if before.problem != runner.POWER_CUT:
            return before
        after = start("check")
    return dataclasses.replace(after, events=before.events + after.events)


class _Switch:
    """Cuts the power in mid-write: at a report of the guest, whose writers go on meanwhile."""

    def __init__(self, flushes: int) -> None:
        self._flushes, self._seen = flushes, Counter[str]()

    def __call__(self, event: Event) -> bool:
        if event["event"] == "line" and event["vm"] == "cut":
            words = event["text"].split()
            if words[:1] == ["flushed"] and len(words) == 3:
                self._seen[words[1]] += 1
        return all(self._seen[disk] >= self._flushes for disk in DISKS)


def flushed(lab: LabResult, label: str, disk: str) -> set[int]:
    """The records whose flush this guest saw completed."""
    lines = (line.split() for line in lab.vm_lines(label))
    return {int(w[2]) for w in lines if len(w) == 3 and w[:2] == ["flushed", disk]}
