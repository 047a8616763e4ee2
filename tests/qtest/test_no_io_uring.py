"""A host that refuses io_uring, as a container's system call filter does."""

from __future__ import annotations

import errno
import pathlib
import sys

import pytest
from qtest import Machine
from support import vm
from virtio import SECTOR, BlkStatus, BlkType, find_disks

IO_URING_SETUP = 425
LAUNCHER = [sys.executable, str(pathlib.Path(vm.__file__).with_name("refuse_syscall.py")),
            str(IO_URING_SETUP), str(errno.EPERM)]
REASON = "a system call filter refuses io_uring: Operation not permitted"


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(64 * SECTOR))
    return path


@pytest.mark.parametrize("where", ["main", "io0"])
def test_file_io_falls_back_to_threads_and_the_log_says_why(tmp_path: pathlib.Path,
                                                            image: pathlib.Path,
                                                            where: str) -> None:
    arguments = ["-d", "util=info", "-blockdev", f"driver=file,node-name=f0,filename={image}"]
    device = "virtio-blk-pci,drive=f0"
    if where != "main":
        arguments += ["-object", f"iothread,id={where}"]
        device += f",iothread={where}"
    with Machine(tmp_path, *arguments, "-device", device, launcher=LAUNCHER) as machine:
        [disk] = find_disks(machine)
        [queue] = disk.bring_up()
        data = bytes(range(256)) * (SECTOR // 256)
        disk.write_sectors(queue, 5, data)
        assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
        assert image.read_bytes()[5 * SECTOR:6 * SECTOR] == data
        assert disk.read_sectors(queue, 5) == data
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr
        says = [line for line in machine.process.stderr.splitlines() if REASON in line]
        assert any("does its file I/O on threads" in line for line in says), machine.process.stderr
        assert len(says) == len(set(says))  # once for each loop


def test_io_uring_by_name_is_refused_with_the_reason(image: pathlib.Path) -> None:
    """Whoever asks for it by name gets it or an error, as from QEMU; never threads in silence."""
    with vm.rhea("-accel", "qtest", "-nodefaults", "-display", "none", "-blockdev",
                 f"driver=file,node-name=f0,aio=io_uring,filename={image}",
                 launcher=LAUNCHER) as process:
        assert process.wait() == 1
        assert (f"aio=io_uring was specified, but is not available: {REASON}"
                in process.stderr)
