"""-mem-prealloc: what it refuses, and rings that keep the RAM pinned for a disk's transfers."""

from __future__ import annotations

import pathlib
import re
import subprocess
from typing import Iterator, Sequence

import pytest
from qtest import Machine
from support import vm
from virtio import SECTOR, Blk, BlkType, Buffer, find_disks

MIB = 1 << 20
TRANSFERS = 16


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * (MIB // 256))
    return path


class Used:
    """What the rings of a machine that has ended said of themselves."""

    def __init__(self, log: str) -> None:
        said = re.findall(r"io_uring of context (.+): (\d+) requests, (\d+) of registered memory", log)
        self.requests = {context: int(requests) for context, requests, _ in said}
        self.registered = {context: int(registered) for context, _, registered in said}
        self.refusals = re.findall(r"pinned for each request anew: (.*)", log)


def transfer(disk: Blk, data: bytes) -> None:
    """Writes and reads `data`, each a descriptor of its own, TRANSFERS times in all."""
    [queue] = disk.bring_up()
    for sector in range(0, TRANSFERS * 4, 8):
        disk.write_sectors(queue, sector, data)
        assert disk.read_sectors(queue, sector, len(data) // SECTOR) == data


def used_by(directory: pathlib.Path, image: pathlib.Path, *arguments: str, on: str = "iothread",
            launcher: Sequence[str] = ()) -> Used:
    """Transfers to a disk of a machine with these `arguments`, whose RAM has 64 MiB."""
    device = "virtio-blk-pci,drive=f0"
    if on == "iothread":
        arguments += ("-object", "iothread,id=io0")
        device += ",iothread=io0"
    with Machine(directory, "-d", "util=debug", *arguments, "-blockdev",
                 f"driver=file,aio=io_uring,node-name=f0,filename={image}", "-device", device,
                 launcher=launcher) as machine:
        [disk] = find_disks(machine)
        transfer(disk, bytes(reversed(range(256))) * 16)
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr
    return Used(machine.process.stderr)


@pytest.mark.parametrize("on, context", [("iothread", "IO io0"), ("main", "block")])
def test_transfers_of_preallocated_ram_are_registered(
        tmp_path: pathlib.Path, image: pathlib.Path, on: str, context: str) -> None:
    used = used_by(tmp_path, image, "-mem-prealloc", on=on)
    assert used.registered[context] == TRANSFERS, used.requests
    assert used.refusals == []
    assert sum(used.registered.values()) == TRANSFERS


def test_a_backend_that_is_preallocated_is_registered(
        tmp_path: pathlib.Path, image: pathlib.Path) -> None:
    used = used_by(tmp_path, image, "-object", "memory-backend-memfd,id=m,size=64M,prealloc=on",
                   "-machine", "memory-backend=m")
    assert used.registered["IO io0"] == TRANSFERS


def test_ram_that_is_not_there_yet_is_not_registered(
        tmp_path: pathlib.Path, image: pathlib.Path) -> None:
    used = used_by(tmp_path, image)
    assert used.registered["IO io0"] == 0
    assert used.requests["IO io0"] >= TRANSFERS


def test_data_in_pieces_is_not_registered(tmp_path: pathlib.Path, image: pathlib.Path) -> None:
    with Machine(tmp_path, "-d", "util=debug", "-mem-prealloc", "-blockdev",
                 f"driver=file,aio=io_uring,node-name=f0,filename={image}",
                 "-device", "virtio-blk-pci,drive=f0") as machine:
        [disk] = find_disks(machine)
        [queue] = disk.bring_up()
        request = disk.prepare(BlkType.OUT, 2, b"x" * SECTOR)
        queue.offer([Buffer(request.header, 16), Buffer(request.data, 100),
                     Buffer(request.data + 100, SECTOR - 100), Buffer(request.status, 1, True)])
        queue.ring()
        queue.wait()
        assert disk.read_sectors(queue, 2) == b"x" * SECTOR
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr
    assert Used(machine.process.stderr).registered["block"] == 1  # the read


def test_below_the_limit_of_locked_memory_the_disk_works_all_the_same(
        tmp_path: pathlib.Path, image: pathlib.Path) -> None:
    launcher = ["prlimit", "--memlock=8388608:8388608", "setpriv", "--inh-caps=-ipc_lock",
                "--bounding-set=-ipc_lock"]
    if subprocess.run([*launcher, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("prlimit and setpriv can not take the right to lock memory away")
    used = used_by(tmp_path, image, "-mem-prealloc", launcher=launcher)
    assert used.registered["IO io0"] == 0
    assert used.requests["IO io0"] >= TRANSFERS
    [refusal] = used.refusals
    assert "RLIMIT_MEMLOCK is 8 MiB" in refusal


# --- What can not be preallocated ----------------------------------------------------------------


def refused(*arguments: str) -> str:
    """The one line that such a machine ends with."""
    process = vm.rhea("-accel", "qtest", "-nodefaults", "-display", "none", "-mem-prealloc",
                      *arguments)
    assert process.wait() == 1, process.stderr
    [line] = process.stderr.splitlines()
    return line


def test_more_ram_than_the_host_has_is_refused() -> None:
    totals = re.findall(r"^(?:MemTotal|SwapTotal): *(\d+) kB$",
                        pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    all_of_it = sum(map(int, totals)) // 1024
    assert re.fullmatch(rf"rhea: RAM 'pc\.ram': cannot (preallocate|map) {all_of_it} MiB: .+",
                        refused("-m", f"{all_of_it}M"))


@pytest.fixture
def small_folder(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system in memory of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"tmpfs can not be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_without_room_for_the_ram_is_refused(small_folder: pathlib.Path) -> None:
    assert refused("-m", "16M", "-mem-path", str(small_folder)) == (
        "rhea: RAM 'pc.ram': cannot preallocate 16 MiB: the host ran out of memory or space for it")
    assert list(small_folder.iterdir()) == []
