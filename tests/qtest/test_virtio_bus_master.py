"""The command register's bus master bit: without it a device reads and writes no memory, so it takes
nothing from its rings and sends no message. [PCI-3.0 6.2.2]"""

from __future__ import annotations

from conftest import ON_EITHER_LOOP
from virtio import LIVE, SECTOR, Blk, BlkRequest, BlkStatus, BlkType, PciFunction, Queue

pytestmark = ON_EITHER_LOOP

REQUESTS = 8


def set_bus_master(disk: Blk, on: bool) -> None:
    bits = disk.pci.read(PciFunction.COMMAND, 2) & ~PciFunction.BUS_MASTER
    disk.pci.write(PciFunction.COMMAND, bits | (PciFunction.BUS_MASTER if on else 0), 2)


def round_the_loops(disk: Blk) -> None:
    """Back when every loop has been told to pause and to go on: it has seen what came before."""
    for command in ("stop", "cont", "stop", "cont"):
        disk.machine.qmp.execute(command)  # type: ignore[attr-defined]


def offer(disk: Blk, queue: Queue) -> dict[int, BlkRequest]:
    requests = [disk.prepare(BlkType.IN, sector, room=SECTOR) for sector in range(REQUESTS)]
    return {queue.offer(request.buffers()): request for request in requests}


def check_untouched(disk: Blk, queue: Queue) -> None:
    assert disk.msix is not None
    queue.ring()
    round_the_loops(disk)
    assert queue.used_index() == 0
    assert not disk.msix.take(queue.index + 1)
    assert disk.status == LIVE


def check_completed(disk: Blk, queue: Queue, offered: dict[int, BlkRequest]) -> None:
    assert disk.msix is not None
    while offered:
        head, length = queue.wait()
        assert length == SECTOR + 1
        assert disk.status_of(offered.pop(head)) == BlkStatus.OK
    disk.msix.wait(queue.index + 1)


def test_a_live_device_stands_still_while_it_is_no_bus_master(disk: Blk) -> None:
    [queue] = disk.bring_up(msix=True)
    set_bus_master(disk, False)
    offered = offer(disk, queue)
    check_untouched(disk, queue)
    set_bus_master(disk, True)
    check_completed(disk, queue, offered)
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK


def test_a_device_goes_live_and_waits_until_it_is_a_bus_master(disk: Blk) -> None:
    set_bus_master(disk, False)
    [queue] = disk.bring_up(msix=True)
    offered = offer(disk, queue)
    check_untouched(disk, queue)
    set_bus_master(disk, True)
    check_completed(disk, queue, offered)


def test_a_device_that_is_no_bus_master_can_be_reset(disk: Blk) -> None:
    [queue] = disk.bring_up(msix=True)
    offer(disk, queue)
    set_bus_master(disk, False)
    disk.reset()
    before = queue.used_index()
    queue.ring()
    set_bus_master(disk, True)
    round_the_loops(disk)
    assert queue.used_index() == before
    [again] = disk.bring_up(msix=True)
    assert disk.do(again, BlkType.IN, room=SECTOR) == (BlkStatus.OK, bytes(SECTOR))


def test_a_reset_of_the_machine_takes_the_bit_away(disk: Blk) -> None:
    disk.bring_up(msix=True)
    disk.machine.qmp.execute("system_reset")  # type: ignore[attr-defined]
    assert disk.pci.read(PciFunction.COMMAND, 2) == 0
    disk.pci.assign_bars(0xC000_0000)
    set_bus_master(disk, False)
    [queue] = disk.bring_up(msix=True)
    offered = offer(disk, queue)
    check_untouched(disk, queue)
    set_bus_master(disk, True)
    check_completed(disk, queue, offered)
