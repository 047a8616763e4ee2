"""MSI-X: the table, masks by vector and by function, and pending bits that tell the truth. (G29)"""

from __future__ import annotations

import pytest
from conftest import ON_EITHER_LOOP
from virtio import (LIVE, NEGOTIATED, NO_VECTOR, Blk, BlkStatus, BlkType, Msix, Queue, wait_until)

pytestmark = ON_EITHER_LOOP

CONFIG, QUEUE = 0, 1


def live(disk: Blk) -> tuple[Queue, Msix]:
    [queue] = disk.bring_up(msix=True)
    assert disk.msix is not None
    return queue, disk.msix


def flush(disk: Blk, queue: Queue) -> None:
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK


def settle(disk: Blk) -> None:
    """Some turns of the main loop, in which a message too many would be stored."""
    for _ in range(10):
        assert disk.status == LIVE


def test_after_power_on_every_vector_is_masked_and_msix_is_off(disk: Blk) -> None:
    msix = Msix(disk.pci, disk.ram)
    assert msix.vectors == 3
    assert msix.control() == 2
    for vector in range(msix.vectors):
        assert msix.entry(vector) == (0, 0, 1)
        assert not msix.pending(vector)


def test_the_table_keeps_what_a_driver_stores(disk: Blk) -> None:
    msix = Msix(disk.pci, disk.ram)
    for vector in range(msix.vectors):
        msix.set_message(vector, 0x1_2345_6787 + vector, 0xFFFF_FFFF - vector)
        disk.machine.store(msix.table + 16 * vector + 12, 0xFFFF_FFFE, 4)
    for vector in range(msix.vectors):
        address, data, control = msix.entry(vector)
        assert address == (0x1_2345_6787 + vector) & ~3
        assert data == 0xFFFF_FFFF - vector
        assert control == 0  # the other bits are reserved
    quad = disk.machine.load(msix.table, 8)
    assert quad == 0x1_2345_6784
    disk.machine.store(msix.table, 0xAABB_CCDD_1122_3344, 8)
    assert msix.entry(0)[0] == 0xAABB_CCDD_1122_3344


def test_narrow_accesses_and_stores_to_pending_bits_change_nothing(disk: Blk) -> None:
    msix = Msix(disk.pci, disk.ram)
    before = [msix.entry(vector) for vector in range(msix.vectors)]
    for width in (1, 2):
        disk.machine.store(msix.table, 0xFF, width)
    disk.machine.store(msix.pending_bits, 0xFFFF_FFFF, 4)
    disk.machine.store(msix.table + 16 * msix.vectors, 0xFFFF_FFFF, 4)
    assert [msix.entry(vector) for vector in range(msix.vectors)] == before
    assert not any(msix.pending(vector) for vector in range(msix.vectors))
    assert disk.machine.load(msix.table + 16 * msix.vectors, 4) == 0


def test_the_capability_takes_its_two_bits_alone(disk: Blk) -> None:
    msix = Msix(disk.pci, disk.ram)
    msix.set_control(0xFFFF)
    assert msix.control() == msix.ENABLE | msix.FUNCTION_MASK | 2
    for offset in (4, 8):
        old = disk.pci.read(msix.capability + offset)
        disk.pci.write(msix.capability + offset, 0xFFFF_FFFF)
        assert disk.pci.read(msix.capability + offset) == old


def test_a_used_entry_is_one_message_of_its_queues_vector(disk: Blk) -> None:
    disk.machine.intercept_irqs()
    queue, msix = live(disk)
    for _ in range(3):
        flush(disk, queue)
        msix.wait(QUEUE)
    settle(disk)
    assert not msix.take(QUEUE)
    assert not msix.take(CONFIG)
    assert disk.isr() == 0
    assert ("raise", 16 + disk.pci.slot % 4) not in disk.machine.take_irqs()


def test_a_change_of_the_configuration_shows_in_isr_too(disk: Blk) -> None:
    queue, msix = live(disk)
    queue.offer_head(queue.size)
    queue.ring()
    msix.wait(CONFIG)
    assert disk.isr() == 2  # [virtio-1.2 4.1.4.5.1]
    assert disk.isr() == 0


def test_two_queues_have_two_vectors(disk: Blk) -> None:
    first, second = disk.bring_up(queues=2, msix=True)
    msix = disk.msix
    assert msix is not None
    flush(disk, second)
    msix.wait(2)
    assert not msix.take(1)
    flush(disk, first)
    msix.wait(1)
    assert not msix.take(2)


@pytest.mark.parametrize("how", ["vector", "function"])
def test_a_masked_vector_is_pending_until_it_is_unmasked_and_comes_once(
        disk: Blk, how: str) -> None:
    queue, msix = live(disk)

    def mask(masked: bool) -> None:
        if how == "vector":
            msix.mask(QUEUE, masked)
        else:
            msix.set_control(msix.ENABLE | (msix.FUNCTION_MASK if masked else 0))

    for _ in range(5):
        mask(True)
        assert not msix.pending(QUEUE)
        for _ in range(3):
            flush(disk, queue)
        wait_until(lambda: msix.pending(QUEUE), "the pending bit")
        assert msix.pending(QUEUE)  # looking does not take it
        assert not msix.take(QUEUE)
        mask(False)
        msix.wait(QUEUE)
        assert not msix.pending(QUEUE)
        settle(disk)
        assert not msix.take(QUEUE)


def test_a_vector_masked_by_both_comes_when_the_last_mask_goes(disk: Blk) -> None:
    queue, msix = live(disk)
    msix.mask(QUEUE)
    msix.set_control(msix.ENABLE | msix.FUNCTION_MASK)
    flush(disk, queue)
    wait_until(lambda: msix.pending(QUEUE), "the pending bit")
    msix.set_control(msix.ENABLE)
    settle(disk)
    assert msix.pending(QUEUE) and not msix.take(QUEUE)
    msix.set_control(msix.ENABLE | msix.FUNCTION_MASK)
    msix.mask(QUEUE, False)
    settle(disk)
    assert msix.pending(QUEUE) and not msix.take(QUEUE)
    msix.set_control(msix.ENABLE)
    msix.wait(QUEUE)


def test_masking_one_vector_leaves_the_others(disk: Blk) -> None:
    first, second = disk.bring_up(queues=2, msix=True)
    msix = disk.msix
    assert msix is not None
    msix.mask(1)
    flush(disk, first)
    flush(disk, second)
    msix.wait(2)
    wait_until(lambda: msix.pending(1), "the pending bit")
    assert not msix.pending(2)


def test_a_message_changed_under_the_mask_goes_to_its_new_place(disk: Blk) -> None:
    queue, msix = live(disk)
    elsewhere = disk.ram.take(4)
    msix.mask(QUEUE)
    flush(disk, queue)
    wait_until(lambda: msix.pending(QUEUE), "the pending bit")
    msix.set_message(QUEUE, elsewhere, 0x1234_5678)
    msix.mask(QUEUE, False)
    wait_until(lambda: disk.machine.load(elsewhere, 4) == 0x1234_5678, "the message")
    assert not msix.take(QUEUE)


def test_a_message_changed_without_a_mask_is_used_from_then_on(disk: Blk) -> None:
    queue, msix = live(disk)
    flush(disk, queue)
    msix.wait(QUEUE)
    elsewhere = disk.ram.take(4)
    msix.set_message(QUEUE, elsewhere, 0x1234_5678)
    flush(disk, queue)
    wait_until(lambda: disk.machine.load(elsewhere, 4) == 0x1234_5678, "the message")
    assert not msix.take(QUEUE)


def test_a_message_that_masks_its_own_vector_comes_once(disk: Blk) -> None:
    queue, msix = live(disk)
    msix.set_message(QUEUE, msix.table + 16 * QUEUE + 12, 1)
    flush(disk, queue)
    wait_until(lambda: msix.entry(QUEUE)[2] == 1, "the mask")
    flush(disk, queue)
    wait_until(lambda: msix.pending(QUEUE), "the pending bit")


@pytest.mark.parametrize("address", [0x8000_0000, 0xFFFF_FFFF_FFFF_FFFC, 0xFEC0_0000],
                         ids=["hole", "end", "ioapic"])
def test_a_message_to_nowhere_is_harmless(disk: Blk, address: int) -> None:
    queue, msix = live(disk)
    msix.set_message(QUEUE, address, 0xFFFF_FFFF)
    for _ in range(3):
        flush(disk, queue)
    assert disk.status == LIVE


def test_a_queue_without_a_vector_interrupts_nobody(disk: Blk) -> None:
    disk.machine.intercept_irqs()
    disk.advance(NEGOTIATED)
    msix = disk.use_msix()
    queue = disk.set_up_queue(0)
    disk.set("queue_msix_vector", NO_VECTOR)
    disk.status = LIVE
    disk.machine.take_irqs()
    flush(disk, queue)
    settle(disk)
    assert not any(msix.take(v) or msix.pending(v) for v in range(msix.vectors))
    assert disk.machine.take_irqs() == []


def test_with_msix_switched_off_the_wire_is_used(disk: Blk) -> None:
    disk.machine.intercept_irqs()
    queue, msix = live(disk)
    msix.set_control(0)
    disk.machine.take_irqs()
    flush(disk, queue)
    wait_until(lambda: disk.pci.read(0x06, 2) & 1 << 3, "the interrupt status")
    assert ("raise", 16 + disk.pci.slot % 4) in disk.machine.take_irqs()
    assert not msix.take(QUEUE)
    assert disk.isr() == 1


def test_a_reset_of_the_machine_masks_and_forgets(disk: Blk) -> None:
    queue, msix = live(disk)
    msix.mask(QUEUE)
    flush(disk, queue)
    wait_until(lambda: msix.pending(QUEUE), "the pending bit")
    disk.machine.qmp.execute("system_reset")  # type: ignore[attr-defined]
    assert disk.pci.assign_bars(0xC000_0000)
    assert msix.control() == 2
    for vector in range(msix.vectors):
        assert msix.entry(vector) == (0, 0, 1)
        assert not msix.pending(vector)
    disk.reset()
    queue, msix = live(disk)
    flush(disk, queue)
    msix.wait(QUEUE)


def test_a_storm_of_masks_loses_and_doubles_nothing(disk: Blk) -> None:
    queue, msix = live(disk)
    for i in range(100):
        request = disk.prepare(BlkType.FLUSH)
        disk.submit(queue, request)
        # The request completes somewhere in here.
        for _ in range(1 + i % 4):
            msix.mask(QUEUE, True)
            msix.set_control(msix.ENABLE | msix.FUNCTION_MASK)
            msix.mask(QUEUE, False)
            msix.set_control(msix.ENABLE)
        queue.wait()
        msix.wait(QUEUE)
        assert not msix.pending(QUEUE)
        assert not msix.take(QUEUE)
