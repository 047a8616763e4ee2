"""A host that runs out of space stops the machine; with space, the very same requests complete."""

from __future__ import annotations

import pathlib
from typing import Any, Iterator

import pytest
from qtest import Machine, Qmp
from support.tmpfs import FullTmpfs, full_tmpfs
from virtio import (SECTOR, Blk, BlkRequest, BlkStatus, BlkType, Queue, find_disks, wait_until)

FILE_SYSTEM, ROOM = 2 << 20, 64 << 10
IMAGE = 8 << 20
REQUESTS, SIZE = 16, 32 << 10  # eight times what there is room for
SPREAD = IMAGE // REQUESTS // SECTOR


@pytest.fixture
def full(tmp_path: pathlib.Path) -> Iterator[FullTmpfs]:
    with full_tmpfs(tmp_path / "full", FILE_SYSTEM, ROOM) as mounted:
        yield mounted


@pytest.fixture(params=["main", "iothread"])
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["werror=stop", "werror=enospc", "aio=io_uring"])
def disk(tmp_path: pathlib.Path, full: FullTmpfs, loop: str,
         request: pytest.FixtureRequest) -> Iterator[Blk]:
    """A disk of two queues, by pool threads or by io_uring, whose image is on `full`."""
    image = full.image("disk.img", IMAGE)
    aio = request.param if request.param.startswith("aio") else "aio=threads"
    werror = request.param if request.param.startswith("werror") else "werror=stop"
    arguments = ["-blockdev", f"driver=file,node-name=f0,filename={image},{aio}"]
    device = f"virtio-blk-pci,id=vd0,drive=f0,num-queues=2,{werror}"
    if loop == "iothread":
        arguments += ["-object", "iothread,id=io0"]
        device += ",iothread=io0"
    with Machine(tmp_path, *arguments, "-device", device) as machine:
        [found] = find_disks(machine)
        yield found
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def monitor(disk: Blk) -> Qmp:
    return disk.machine.qmp  # type: ignore[attr-defined]


def pattern(number: int) -> bytes:
    return bytes((number * 13 + 11,)) * SIZE


class Writes:
    """Requests that write all over the image, in turns to each queue, offered and rung for."""

    def __init__(self, disk: Blk, queues: list[Queue]) -> None:
        self.disk = disk
        self.offered: list[dict[int, BlkRequest]] = [{} for _ in queues]
        self.queues = queues
        for number in range(REQUESTS):
            queue = queues[number % len(queues)]
            request = disk.prepare(BlkType.OUT, number * SPREAD, pattern(number))
            self.offered[queue.index][queue.offer(request.buffers())] = request
        for queue in queues:
            queue.ring()

    def take(self) -> int:
        """Takes what has completed; how many are left."""
        for queue in self.queues:
            while (used := queue.take()) is not None:
                head, length = used
                request = self.offered[queue.index].pop(head)  # KeyError: it came twice
                assert length == 1
                assert self.disk.status_of(request) == BlkStatus.OK
        return sum(map(len, self.offered))


def go_on(qmp: Qmp) -> None:
    qmp.execute("cont")
    qmp.wait_event("RESUME")  # what requests say that failed after the first comes before it


def until_stopped(qmp: Qmp) -> list[dict[str, Any]]:
    """The errors up to the STOP that follows the first of them."""
    errors = [qmp.wait_event("BLOCK_IO_ERROR")]
    while True:
        message = qmp.wait_any()
        if message["event"] == "STOP":
            return errors
        assert message["event"] == "BLOCK_IO_ERROR", message
        errors.append(message["data"])


def check_stopped(qmp: Qmp, errors: list[dict[str, Any]]) -> None:
    for error in errors:
        assert error == {
            "device": "", "qom-path": "/machine/peripheral/vd0/virtio-backend", "node-name": "f0",
            "operation": "write", "action": "stop", "nospace": True,
            "reason": "No space left on device"}
    status = qmp.execute("query-status")
    assert (status["status"], status["running"]) == ("io-error", False)
    [block] = qmp.execute("query-block")
    assert block["io-status"] == "nospace"


def check_running(qmp: Qmp) -> None:
    status = qmp.execute("query-status")
    assert (status["status"], status["running"]) == ("running", True)
    [block] = qmp.execute("query-block")
    assert block["io-status"] == "ok"


def check_content(full: FullTmpfs) -> None:
    content = (full.path / "disk.img").read_bytes()
    for number in range(REQUESTS):
        start = number * SPREAD * SECTOR
        assert content[start:start + SIZE] == pattern(number), number
        rest = content[start + SIZE:start + SPREAD * SECTOR]
        assert rest == bytes(len(rest)), number


def test_requests_without_space_stop_the_machine_and_complete_when_there_is_some(
        disk: Blk, full: FullTmpfs) -> None:
    qmp = monitor(disk)
    queues = disk.bring_up(queues=2)
    writes = Writes(disk, queues)
    check_stopped(qmp, until_stopped(qmp))
    assert writes.take() > 0

    go_on(qmp)  # to no avail: the same again
    check_stopped(qmp, until_stopped(qmp))
    assert writes.take() > 0

    full.make_room()
    go_on(qmp)
    wait_until(lambda: writes.take() == 0, "the last of the writes")
    check_running(qmp)
    assert qmp.events == []
    for queue in queues:
        assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
        assert queue.used_index() == REQUESTS // len(queues) + 1  # each once
    for number in range(REQUESTS):
        assert disk.read_sectors(queues[0], number * SPREAD, SIZE // SECTOR) == pattern(number)
    check_content(full)
