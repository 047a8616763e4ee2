"""Reset at every stage: the device is new afterwards, touches nothing any more, and works."""

from __future__ import annotations

from typing import Callable

import pytest
from conftest import ON_EITHER_LOOP
from virtio import (COMMON, DRIVEN, FOUND, LIVE, NEGOTIATED, NO_VECTOR, SECTOR, UNTOUCHED, Blk,
                    BlkRequest, BlkStatus, BlkType, Feature, Queue, Status)

pytestmark = ON_EITHER_LOOP


def stage_enabled(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    disk.use_msix()
    disk.set("config_msix_vector", 0)
    disk.set_up_queue(0)


def stage_live(disk: Blk) -> None:
    disk.bring_up(queues=2, msix=True)


def stage_offered(disk: Blk) -> None:
    """Requests in the ring that the device was not told of."""
    [queue] = disk.bring_up(msix=True)
    for _ in range(3):
        queue.offer(disk.prepare(BlkType.IN, room=SECTOR).buffers())


def stage_rung(disk: Blk) -> None:
    """Requests that are about to be taken, or being done, or done."""
    for queue in disk.bring_up(queues=2, msix=True):
        for _ in range(16):
            queue.offer(disk.prepare(BlkType.IN, room=64 * SECTOR).buffers())
        queue.ring()


def stage_done(disk: Blk) -> None:
    [queue] = disk.bring_up()
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK


def stage_broken(disk: Blk) -> None:
    [queue] = disk.bring_up(msix=True)
    queue.offer_head(0xFFFF)
    queue.ring()
    disk.wait_broken()


def stage_failed(disk: Blk) -> None:
    disk.bring_up()
    disk.status = LIVE | Status.FAILED


STAGES: dict[str, Callable[[Blk], None]] = {
    "untouched": lambda disk: None,
    "found": lambda disk: disk.advance(FOUND),
    "driven": lambda disk: disk.advance(DRIVEN),
    "negotiated": lambda disk: disk.advance(NEGOTIATED),
    "queues-enabled": stage_enabled,
    "live": stage_live,
    "requests-offered": stage_offered,
    "requests-rung": stage_rung,
    "requests-done": stage_done,
    "broken": stage_broken,
    "failed": stage_failed,
}


def check_new(disk: Blk) -> None:
    """Every register as after power-on. [virtio-1.2 2.4.1, 4.1.4.3.1]"""
    assert disk.status == 0
    assert disk.get("config_msix_vector") == NO_VECTOR
    for half in (0, 1):
        disk.set("driver_feature_select", half)
        assert disk.get("driver_feature") == 0
    for queue in range(disk.get("num_queues")):
        disk.set("queue_select", queue)
        assert disk.get("queue_size") == 256
        assert disk.get("queue_msix_vector") == NO_VECTOR
        for name in COMMON:
            if name in ("queue_enable", "queue_reset") or name.startswith(
                    ("queue_desc", "queue_driver", "queue_device")):
                assert disk.get(name) == 0, name
    assert disk.isr() == 0


def check_works(disk: Blk) -> None:
    for queue in disk.bring_up(queues=2, msix=True):
        assert disk.do(queue, BlkType.IN, room=SECTOR) == (BlkStatus.OK, bytes(SECTOR))
        assert disk.msix is not None
        disk.msix.wait(queue.index + 1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_reset_by_the_driver(disk: Blk, stage: str) -> None:
    for _ in range(3):
        STAGES[stage](disk)
        disk.reset()
        check_new(disk)
    check_works(disk)


@pytest.mark.parametrize("stage", STAGES)
def test_a_reset_of_the_machine(disk: Blk, stage: str) -> None:
    for _ in range(2):
        STAGES[stage](disk)
        disk.machine.qmp.execute("system_reset")  # type: ignore[attr-defined]
        # Done when the monitor says so: it must not have to wait for the 0.
        assert disk.pci.read(0x04, 2) == 0
        disk.pci.assign_bars(0xC000_0000)
        check_new(disk)
    check_works(disk)


@pytest.mark.parametrize("stage", STAGES)
def test_the_end_of_the_machine(disk: Blk, stage: str) -> None:
    STAGES[stage](disk)  # the fixture ends it, and looks at its exit status


def put_aside(disk: Blk, queue: Queue, count: int) -> list[BlkRequest]:
    requests = [disk.prepare(BlkType.IN, room=8 * SECTOR) for _ in range(count)]
    for request in requests:
        disk.machine.memset(request.data, request.size, UNTOUCHED)
        queue.offer(request.buffers())
    return requests


def picture(disk: Blk, queue: Queue, requests: list[BlkRequest]) -> list[bytes]:
    ring = disk.machine.read(queue.used, 6 + 8 * queue.size)
    return [ring, *(disk.machine.read(r.data, r.size) + disk.machine.read(r.status, 1)
                    for r in requests)]


def test_no_memory_changes_after_the_status_reads_0(disk: Blk) -> None:
    for _ in range(10):
        [queue] = disk.bring_up()
        requests = put_aside(disk, queue, 32)
        queue.ring()
        disk.reset()
        after = picture(disk, queue, requests)
        queue.ring()
        put_aside(disk, queue, 1)
        queue.ring()
        # A life of its own, on other memory, goes by.
        [other] = disk.bring_up()
        for _ in range(5):
            assert disk.do(other, BlkType.IN, room=SECTOR)[0] == BlkStatus.OK
        assert picture(disk, queue, requests) == after
        disk.reset()


def test_memory_may_be_used_for_other_things_after_a_reset(disk: Blk) -> None:
    [queue] = disk.bring_up()
    put_aside(disk, queue, 4)
    queue.ring()
    disk.reset()
    for address in (queue.descriptors, queue.available, queue.used):
        disk.machine.memset(address, 64, 0xFF)
    queue.ring()
    check_new(disk)
    check_works(disk)


# --- One queue ----------------------------------------------------------------------------------


def test_one_queue_is_reset_and_set_up_anew_while_the_other_runs(disk: Blk) -> None:
    first, second = disk.bring_up(queues=2, msix=True)
    for i in range(10):
        put_aside(disk, first, 8)
        first.ring()
        disk.set("queue_select", 0)
        disk.set("queue_reset", 1)
        # [virtio-1.2 4.1.4.3.1]: 1 until it is done, then 0, and the queue is disabled
        while disk.get("queue_reset") == 1:
            pass
        assert disk.get("queue_enable") == 0
        assert disk.status == LIVE
        used = first.used_index()
        first.ring()
        assert disk.do(second, BlkType.FLUSH)[0] == BlkStatus.OK
        assert first.used_index() == used
        first = disk.set_up_queue(0, 32 << i % 3)
        assert disk.do(first, BlkType.IN, room=SECTOR) == (BlkStatus.OK, bytes(SECTOR))


def test_a_broken_queue_can_not_be_saved_by_its_own_reset_alone(disk: Blk) -> None:
    [queue] = disk.bring_up()
    queue.offer_head(0xFFFF)
    queue.ring()
    disk.wait_broken()
    disk.set("queue_select", 0)
    disk.set("queue_reset", 1)
    while disk.get("queue_reset") == 1:
        pass
    assert disk.status & Status.NEEDS_RESET
    disk.reset()
    check_works(disk)


@pytest.mark.parametrize("why", ["not-negotiated", "not-enabled", "not-1", "no-such-queue"])
def test_a_queue_reset_out_of_place_does_nothing(disk: Blk, why: str) -> None:
    features = ~Feature.RING_RESET if why == "not-negotiated" else ~0
    [queue] = disk.bring_up(features=features)
    disk.set("queue_select", {"not-enabled": 1, "no-such-queue": 2}.get(why, 0))
    disk.set("queue_reset", 2 if why == "not-1" else 1)
    assert disk.get("queue_reset") == 0
    disk.set("queue_select", 0)
    assert disk.get("queue_enable") == 1
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
