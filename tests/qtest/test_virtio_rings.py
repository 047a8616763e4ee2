"""Rings that no driver should make, one by one: the device says that it needs a reset, touches
nothing it was not given, and works again after the reset."""

from __future__ import annotations

from typing import Callable

import pytest
from conftest import ON_EITHER_LOOP
from virtio import (INDIRECT, LIVE, NEGOTIATED, NEXT, WRITE, Blk, BlkStatus, BlkType, Buffer,
                    Feature, Queue, Status, descriptor)

pytestmark = ON_EITHER_LOOP

SIZE = 8
HOLE = 0x8000_0000
RAM_END = 64 << 20  # where the machine's RAM ends


def read_request(queue: Queue, data: int, length: int) -> list[Buffer]:
    """A whole read request but for where its data is to go."""
    request = queue.device.prepare(BlkType.IN, 0, room=512)  # type: ignore[attr-defined]
    return [Buffer(request.header, 16), Buffer(data, length, True), Buffer(request.status, 1, True)]


def chain(queue: Queue, *rows: tuple[int, int, int, int]) -> None:
    """Descriptors from 0 on, offered."""
    for index, row in enumerate(rows):
        queue.describe(index, *row)
    queue.offer_head(0)


def table(queue: Queue, *rows: tuple[int, int, int, int]) -> int:
    """An indirect table in RAM."""
    at = queue.device.ram.take(16 * len(rows))
    queue.qtest.write(at, b"".join(descriptor(*row) for row in rows))
    return at


def ram(queue: Queue) -> int:
    return queue.device.ram.take(0x1000)


def self_indirect(queue: Queue) -> None:
    at = queue.device.ram.take(16)
    queue.qtest.write(at, descriptor(at, 16, INDIRECT))
    chain(queue, (at, 16, INDIRECT, 0))


ABUSES: dict[str, Callable[[Queue], None]] = {
    "index-too-far": lambda q: q.set_available_index(q.next_offer + SIZE + 1),
    "index-backwards": lambda q: q.set_available_index(0xFFFF),
    "head-outside": lambda q: q.offer_head(SIZE),
    "head-highest": lambda q: q.offer_head(0xFFFF),
    "next-outside": lambda q: chain(q, (ram(q), 16, NEXT, SIZE)),
    "next-highest": lambda q: chain(q, (ram(q), 16, NEXT, 0xFFFF)),
    "next-itself": lambda q: chain(q, (ram(q), 16, NEXT, 0)),
    "loop-of-two": lambda q: chain(q, (ram(q), 16, NEXT, 1), (ram(q), 16, NEXT, 0)),
    "loop-behind-a-head": lambda q: chain(
        q, (ram(q), 16, NEXT, 1), (ram(q), 16, NEXT | WRITE, 2), (ram(q), 1, NEXT | WRITE, 1)),
    "no-bytes": lambda q: chain(q, (ram(q), 0, 0, 0)),
    "huge": lambda q: chain(q, (ram(q), 16, NEXT, 1), (ram(q), 0xFFFF_FFFF, WRITE, 0)),
    "wraps": lambda q: chain(q, (-8, 16, 0, 0)),
    "hole": lambda q: chain(q, (HOLE, 16, 0, 0)),
    "half-in-a-hole": lambda q: chain(q, (RAM_END - 8, 16, 0, 0)),
    "data-in-a-hole": lambda q: q.offer(read_request(q, HOLE, 512)) and None,
    "data-in-the-ioapic": lambda q: q.offer(read_request(q, 0xFEC0_0000, 512)) and None,
    "data-in-own-registers": lambda q: q.offer(read_request(q, q.device.address(1), 512)) and None,
    "data-in-own-doorbell": lambda q: q.offer(read_request(q, q.doorbell, 512)) and None,
    "readable-behind-writable": lambda q: chain(
        q, (ram(q), 16, NEXT | WRITE, 1), (ram(q), 16, 0, 0)),
    "indirect-with-next": lambda q: chain(
        q, (table(q, (ram(q), 16, 0, 0)), 16, INDIRECT | NEXT, 1), (ram(q), 1, WRITE, 0)),
    "indirect-no-bytes": lambda q: chain(q, (ram(q), 0, INDIRECT, 0)),
    "indirect-odd": lambda q: chain(q, (table(q, (ram(q), 16, 0, 0)), 17, INDIRECT, 0)),
    "indirect-hole": lambda q: chain(q, (HOLE, 16, INDIRECT, 0)),
    "indirect-registers": lambda q: chain(q, (q.device.address(1), 16, INDIRECT, 0)),
    "indirect-huge": lambda q: chain(q, (table(q, (ram(q), 16, NEXT, 0)), 0xFFFF_FFF0, INDIRECT, 0)),
    "indirect-inside-indirect": lambda q: chain(
        q, (table(q, (table(q, (ram(q), 16, 0, 0)), 16, INDIRECT, 0)), 16, INDIRECT, 0)),
    "indirect-itself": self_indirect,
    "indirect-the-ring": lambda q: chain(q, (q.descriptors, 16 * SIZE, INDIRECT, 0)),
    "indirect-loop": lambda q: chain(
        q, (table(q, (ram(q), 16, NEXT, 1), (ram(q), 16, NEXT, 0)), 32, INDIRECT, 0)),
    "indirect-next-outside": lambda q: chain(
        q, (table(q, (ram(q), 16, NEXT, 1), (ram(q), 16, 0, 0)), 16, INDIRECT, 0)),
    "no-header": lambda q: chain(q, (ram(q), 1, WRITE, 0)),
    "short-header": lambda q: chain(q, (ram(q), 15, NEXT, 1), (ram(q), 1, WRITE, 0)),
    "no-status": lambda q: chain(q, (ram(q), 16, 0, 0)),
    "no-status-but-data": lambda q: chain(q, (ram(q), 16, NEXT, 1), (ram(q), 512, 0, 0)),
}


def check_works(disk: Blk, **options: object) -> None:
    disk.reset()
    [queue] = disk.bring_up(**options)  # type: ignore[arg-type]
    assert disk.do(queue, BlkType.IN, room=512) == (BlkStatus.OK, bytes(512))


@pytest.mark.parametrize("abuse", ABUSES)
def test_a_broken_ring_needs_a_reset_and_nothing_else(disk: Blk, abuse: str) -> None:
    [queue] = disk.bring_up(size=SIZE, msix=True)
    assert disk.msix is not None
    # One that is in order goes before it, and is not lost.
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
    disk.msix.wait(1)
    used = queue.used_index()
    ABUSES[abuse](queue)
    queue.ring()
    disk.wait_broken()
    assert disk.status == LIVE | Status.NEEDS_RESET
    disk.msix.wait(0)  # [virtio-1.2 2.1.2]
    assert queue.used_index() == used
    queue.ring()
    queue.offer_head(0)
    queue.ring()
    assert disk.status == LIVE | Status.NEEDS_RESET
    assert queue.used_index() == used
    assert not disk.msix.take(1)
    check_works(disk, size=SIZE, msix=True)


def test_an_indirect_table_that_was_not_negotiated_breaks_the_device(disk: Blk) -> None:
    [queue] = disk.bring_up(features=0, size=SIZE)
    chain(queue, (table(queue, (ram(queue), 16, 0, 0)), 16, INDIRECT, 0))
    queue.ring()
    disk.wait_broken()
    check_works(disk)


def test_a_broken_queue_leaves_a_live_one_alone(disk: Blk) -> None:
    bad, good = disk.bring_up(queues=2, size=SIZE)
    bad.offer_head(SIZE)
    bad.ring()
    disk.wait_broken()
    # What the device does to others is its own affair, but it does not hang or die of them.
    request = disk.prepare(BlkType.FLUSH)
    disk.submit(good, request)
    good.ring()
    assert disk.status & Status.NEEDS_RESET
    check_works(disk)


@pytest.mark.parametrize("ring", ["desc", "driver", "device"])
@pytest.mark.parametrize("address", [HOLE, 0xFEC0_0000, RAM_END - 16, 0xFFFF_FFFF_FFFF_FFF0,
                                     0x10_0001],
                         ids=["hole", "ioapic", "ends-in-a-hole", "wraps", "misaligned"])
def test_a_ring_where_no_ring_can_be_breaks_the_device(disk: Blk, ring: str, address: int) -> None:
    disk.advance(NEGOTIATED)
    disk.set_up_queue(0, enable=False)
    disk.set(f"queue_{ring}_lo", address & 0xFFFF_FFFF)
    disk.set(f"queue_{ring}_hi", address >> 32)
    disk.set("queue_enable", 1)
    disk.status = LIVE
    disk.wait_broken()
    check_works(disk)


def test_a_ring_in_the_devices_own_registers_breaks_the_device(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    disk.set_up_queue(0, enable=False)
    disk.set("queue_device_lo", disk.address(1))
    disk.set("queue_enable", 1)
    disk.status = LIVE
    disk.wait_broken()
    check_works(disk)


def test_the_size_of_an_enabled_queue_stays(disk: Blk) -> None:
    [queue] = disk.bring_up(size=SIZE)
    disk.set("queue_size", 2)
    assert disk.get("queue_size") == SIZE
    for _ in range(2 * SIZE):  # around the ring as it was set up
        assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK


def test_a_queue_that_was_not_enabled_is_never_served(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    first = disk.set_up_queue(0)
    second = disk.set_up_queue(1, enable=False)
    disk.status = LIVE
    second.offer(disk.prepare(BlkType.FLUSH).buffers())
    second.ring()
    assert disk.do(first, BlkType.FLUSH)[0] == BlkStatus.OK
    assert second.used_index() == 0
    disk.set("queue_select", 1)
    disk.set("queue_enable", 1)
    second.wait()  # it was offered before


def test_doorbells_that_are_no_queues_and_rings_of_nothing_are_ignored(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    queue = disk.set_up_queue(0)
    queue.ring()  # too early
    disk.status = LIVE
    for offset in (0, 1, 2, 3, 8, 12, 0x7FC, 0xFFC):
        for width in (1, 2, 4):
            if offset % width == 0:
                disk.machine.store(queue.doorbell + offset, 0xFFFF >> 16 - 8 * min(width, 2), width)
    for _ in range(100):
        queue.ring()
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
    assert disk.status == LIVE


@pytest.mark.parametrize("features", [0, Feature.EVENT_IDX, Feature.INDIRECT_DESC,
                                      Feature.EVENT_IDX | Feature.INDIRECT_DESC])
def test_requests_go_round_the_ring_many_times(disk: Blk, features: int) -> None:
    [queue] = disk.bring_up(features=features, size=4)
    for i in range(40):
        status, data = disk.do(queue, BlkType.IN, i, room=512,
                               indirect=bool(features & Feature.INDIRECT_DESC) and i % 2 == 0)
        assert (status, data) == (BlkStatus.OK, bytes(512))
