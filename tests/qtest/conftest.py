"""The qtest tier: the real binary without vCPUs; a client drives ports, memory and the clock."""

from __future__ import annotations

import pathlib
import sys
from typing import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from moving import Driven, Pair  # noqa: E402
from qtest import Machine  # noqa: E402
from virtio import Blk, find_disks  # noqa: E402

# Marks what must hold wherever the queues run.
ON_EITHER_LOOP = pytest.mark.parametrize("disk", ["main", "iothread"], indirect=True)
SERIAL = "rhea-disk"
DISK_SECTORS = 2048


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """A `pc` with one serial port, watched by QMP and by the IRQ interceptor."""
    with Machine(tmp_path) as started:
        yield started


@pytest.fixture
def disk(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Blk]:
    """A `pc` with a virtio disk of two queues that reads as zeros. They run on an iothread, or with
    the parameter "main" on the main loop: see ON_EITHER_LOOP."""
    arguments = ["-blockdev", f"driver=null-co,node-name=d0,size={DISK_SECTORS * 512},read-zeroes=on"]
    device = f"virtio-blk-pci,id=vd0,drive=d0,num-queues=2,serial={SERIAL}"
    if getattr(request, "param", "iothread") == "iothread":
        arguments += ["-object", "iothread,id=io0"]
        device += ",iothread=io0"
    with Machine(tmp_path, *arguments, "-device", device) as machine:
        [found] = find_disks(machine)
        yield found
        # Whatever a test did, the machine is as well as it was.
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Iterator[Pair]:
    with Pair(tmp_path) as both:
        yield both


@pytest.fixture(params=["main", "iothread"])
def driven(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[tuple[Pair, Driven]]:
    """A pair, and a driver of its disk that is at work."""
    with Pair(tmp_path, request.param) as both:
        [disk] = find_disks(both.guest)
        yield both, Driven(disk)
