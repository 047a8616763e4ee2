"""G26: a reset while the disk holds requests. It is not done before they have ended; once it is, no
memory changes, no entry is used and no interrupt comes any more. [virtio-1.2 2.4.1, 2.6.1]"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Iterator

import pytest
from qtest import Machine
from virtio import (LIVE, SECTOR, UNTOUCHED, Blk, BlkRequest, BlkStatus, BlkType, Queue, Status,
                    find_disks, wait_until)

DISK = 1 << 20
REQUESTS = 64
TAG = "held"


@pytest.fixture(params=["main", "iothread"])
def disk(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Blk]:
    """A disk of two queues that holds every read, and is out of space for writes of sector 1."""
    arguments = [
        "-blockdev", f"driver=blkdebug,node-name=d0,image.driver=null-co,image.size={DISK},"
        f"image.read-zeroes=on,inject-error.0.event=read_aio,inject-error.0.suspend={TAG},"
        "inject-error.1.event=write_aio,inject-error.1.sector=1,inject-error.1.errno=28"]
    device = "virtio-blk-pci,id=vd0,drive=d0,num-queues=2,werror=stop"
    if request.param == "iothread":
        arguments += ["-object", "iothread,id=io0"]
        device += ",iothread=io0"
    with Machine(tmp_path, *arguments, "-device", device) as machine:
        [found] = find_disks(machine)
        yield found
        let_go(found)
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def held(disk: Blk) -> int:
    qmp = disk.machine.qmp  # type: ignore[attr-defined]
    return qmp.execute("x-blkdebug-suspended", **{"node-name": "d0", "tag": TAG})["requests"]


def let_go(disk: Blk) -> int:
    qmp = disk.machine.qmp  # type: ignore[attr-defined]
    return qmp.execute("x-blkdebug-resume", **{"node-name": "d0", "tag": TAG})["requests"]


def hold(disk: Blk, queue: Queue, count: int = REQUESTS) -> list[BlkRequest]:
    """Reads that the disk has taken and does not answer."""
    before = held(disk)
    requests = [disk.prepare(BlkType.IN, sector, room=SECTOR) for sector in range(count)]
    for request in requests:
        disk.machine.memset(request.data, SECTOR, UNTOUCHED)
        queue.offer_indirect(request.buffers())
    queue.ring()
    wait_until(lambda: held(disk) == before + count, "the requests that are held")
    return requests


@dataclasses.dataclass
class Picture:
    """All that a late completion could touch."""
    disk: Blk
    queue: Queue
    requests: list[BlkRequest]

    def take(self) -> list[bytes]:
        machine, queue = self.disk.machine, self.queue
        assert self.disk.msix is not None
        return [machine.read(queue.used, 6 + 8 * queue.size),
                machine.read(self.disk.msix.words, 4 * self.disk.msix.vectors),
                *(machine.read(r.data, r.size) + machine.read(r.status, 1) for r in self.requests)]

    def check_still(self, before: list[bytes]) -> None:
        """Rings, waits for several turns of every loop, and finds nothing new."""
        self.queue.ring()
        for _ in range(20):
            self.disk.machine.qmp.execute("query-blockstats")  # type: ignore[attr-defined]
        assert self.take() == before
        assert self.disk.isr() == 0


def check_works(disk: Blk) -> None:
    for queue in disk.bring_up(queues=2, msix=True):
        assert disk.do(queue, BlkType.OUT, 8, bytes(SECTOR))[0] == BlkStatus.OK
        request = disk.prepare(BlkType.IN, 8, room=SECTOR)
        head = disk.submit(queue, request)
        wait_until(lambda: let_go(disk) == 1, "a read to let go")
        assert queue.wait() == (head, SECTOR + 1)


def test_a_reset_by_the_driver_waits_for_what_is_held_and_is_final(disk: Blk) -> None:
    queues = disk.bring_up(queues=2, msix=True)
    pictures = [Picture(disk, queue, hold(disk, queue)) for queue in queues]
    disk.status = Status.RESET
    for _ in range(50):
        assert disk.status == LIVE
    # Nobody hears what the driver says meanwhile.
    for value in (Status.ACKNOWLEDGE, LIVE | Status.FAILED, Status.RESET):
        disk.status = value
    disk.set("queue_select", 0)
    disk.set("queue_reset", 1)
    assert disk.get("queue_reset") == 0
    for queue in queues:
        queue.offer_indirect(disk.prepare(BlkType.OUT, 8, bytes(SECTOR)).buffers())
        queue.ring()
    assert disk.status == LIVE
    assert held(disk) == 2 * REQUESTS

    assert let_go(disk) == 2 * REQUESTS
    wait_until(lambda: disk.status == 0, "the end of the reset")
    before = [picture.take() for picture in pictures]
    for picture, shown in zip(pictures, before):
        # The write, if its thread had not heard of the reset when it was rung; no read.
        assert picture.queue.used_index() <= 1
        picture.check_still(shown)
    check_works(disk)
    assert [p.take()[2:] for p in pictures] == [shown[2:] for shown in before]


def test_the_status_reads_0_only_after_the_last_of_them(disk: Blk) -> None:
    first, second = disk.bring_up(queues=2, msix=True)
    hold(disk, first, 1)
    disk.status = Status.RESET
    assert disk.status == LIVE
    # One queue has nothing to wait for: it does not end the reset by itself.
    for _ in range(20):
        assert disk.status == LIVE
    assert let_go(disk) == 1
    wait_until(lambda: disk.status == 0, "the end of the reset")
    assert second.used_index() == 0
    check_works(disk)


def test_a_queues_reset_waits_for_its_own_and_leaves_the_other_alone(disk: Blk) -> None:
    first, second = disk.bring_up(queues=2, msix=True)
    reset = Picture(disk, first, hold(disk, first))
    disk.set("queue_select", 0)
    disk.set("queue_reset", 1)
    for _ in range(20):
        assert disk.get("queue_reset") == 1
        assert disk.get("queue_enable") == 1
    assert disk.do(second, BlkType.OUT, 8, bytes(SECTOR))[0] == BlkStatus.OK
    other = hold(disk, second, 3)
    assert disk.get("queue_reset") == 1
    assert disk.status == LIVE

    assert let_go(disk) == REQUESTS + 3
    wait_until(lambda: disk.get("queue_reset") == 0, "the end of the queue's reset")
    assert disk.get("queue_enable") == 0
    for _ in other:  # the other queue's complete as if nothing had been
        assert second.wait()[1] == SECTOR + 1
    assert disk.msix is not None
    disk.msix.wait(second.index + 1)
    before = reset.take()
    assert first.used_index() == 0
    reset.check_still(before)

    again = disk.set_up_queue(0)
    assert disk.do(again, BlkType.FLUSH)[0] == BlkStatus.OK
    assert reset.take()[2:] == before[2:]


def test_a_reset_of_the_machine_gives_up_waiting_and_is_done_later(disk: Blk) -> None:
    qmp = disk.machine.qmp  # type: ignore[attr-defined]
    [queue] = disk.bring_up(msix=True)
    picture = Picture(disk, queue, hold(disk, queue))
    qmp.execute("system_reset")
    assert qmp.execute("query-status")["status"] == "running"
    disk.pci.assign_bars(0xC000_0000)
    assert disk.status == LIVE
    assert let_go(disk) == REQUESTS
    wait_until(lambda: disk.status == 0, "the end of the reset")
    before = picture.take()
    assert queue.used_index() == 0
    picture.check_still(before)
    check_works(disk)


def test_a_reset_lets_requests_go_that_wait_for_the_machine(disk: Blk) -> None:
    qmp = disk.machine.qmp  # type: ignore[attr-defined]
    [queue] = disk.bring_up(msix=True)
    requests = [disk.prepare(BlkType.OUT, 1, bytes(SECTOR)) for _ in range(4)]
    for request in requests:
        queue.offer(request.buffers())
    queue.ring()
    qmp.wait_event("STOP")
    assert qmp.execute("query-status")["status"] == "io-error"
    picture = Picture(disk, queue, requests)
    disk.reset()
    before = picture.take()
    assert queue.used_index() == 0
    qmp.execute("cont")
    qmp.wait_event("RESUME")
    picture.check_still(before)
    assert qmp.execute("query-status")["status"] == "running"
    check_works(disk)
