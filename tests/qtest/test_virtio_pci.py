"""The PCI transport: identity, capabilities, and every register at every width in every phase."""

from __future__ import annotations

import pytest
from conftest import DISK_SECTORS, SERIAL
from virtio import (COMMON, DRIVEN, FOUND, LIVE, NEGOTIATED, NO_VECTOR, Blk, BlkFeature, BlkStatus,
                    BlkType, Feature, Msix, PciFunction, Status, Structure)

PHASES = [0, FOUND, DRIVEN, NEGOTIATED, LIVE]
ALL_ONES = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}
EXACT = {(register.offset, register.width) for register in COMMON.values()}


def snapshot(disk: Blk) -> dict[str, int]:
    """Every register, and those of every queue."""
    select = disk.get("queue_select")
    seen = {name: disk.get(name) for name in COMMON if not name.startswith("queue_")}
    for queue in range(disk.get("num_queues")):
        disk.set("queue_select", queue)
        seen |= {f"{name}[{queue}]": disk.get(name) for name in COMMON if name.startswith("queue_")
                 and name != "queue_select"}
    disk.set("queue_select", select)
    return seen | {"queue_select": disk.get("queue_select")}


def enter(disk: Blk, phase: int) -> None:
    disk.reset()
    disk.advance(phase)


def break_it(disk: Blk) -> None:
    """To DRIVER_OK, and then DEVICE_NEEDS_RESET."""
    disk.reset()
    [queue] = disk.bring_up()
    queue.offer_head(queue.size)
    queue.ring()
    disk.wait_broken()


# --- What it says it is -------------------------------------------------------------------------


def test_the_identity_is_that_of_a_modern_disk(disk: Blk) -> None:
    assert disk.pci.identity == (0x1AF4, 0x1042)
    assert disk.pci.read(0x08, 1) == 1
    assert disk.pci.read(0x08) >> 8 == 0x010000
    assert disk.pci.read(0x3D, 1) == 1
    assert disk.pci.read(0x0E, 1) == 0


def test_there_are_all_five_structures_inside_their_bars(disk: Blk) -> None:
    assert set(disk.structures) == set(Structure)
    for structure, where in disk.structures.items():
        if structure == Structure.PCI_CONFIG:
            assert where.length == 20
            continue
        assert where.length == (20 if structure == Structure.NOTIFY else 16)
        assert where.bar in disk.pci.bars
        assert where.offset % 4 == 0
        assert where.offset + where.size <= disk.pci.bar_sizes[where.bar]
    assert disk.structures[Structure.COMMON].size >= 0x38


def test_each_queue_has_a_doorbell_inside_the_structure(disk: Blk) -> None:
    offsets = set()
    for queue in range(disk.get("num_queues")):
        disk.set("queue_select", queue)
        offsets.add(disk.get("queue_notify_off") * disk.notify_multiplier)
    assert len(offsets) == disk.get("num_queues") == 2
    assert max(offsets) + 2 <= disk.structures[Structure.NOTIFY].size


def test_bars_move_while_decoding_is_off(disk: Blk) -> None:
    address = disk.pci.bars[4] + 0x1000_0000
    disk.pci.write(PciFunction.COMMAND, PciFunction.BUS_MASTER, 2)
    assert disk.get("num_queues") == 0xFFFF
    disk.pci.write(0x20, address)
    disk.pci.write(PciFunction.COMMAND, PciFunction.BUS_MASTER | PciFunction.MEMORY, 2)
    assert disk.get("num_queues") == 0xFFFF  # not there any more
    disk.pci.bars[4] = address
    assert disk.get("num_queues") == 2
    [queue] = disk.bring_up()
    assert disk.do(queue, BlkType.IN, room=512)[0] == BlkStatus.OK


# --- Registers x widths x phases ----------------------------------------------------------------


@pytest.mark.parametrize("phase", [*PHASES, "broken"])
def test_an_access_that_is_no_register_reads_ones_and_changes_nothing(
        disk: Blk, phase: int | str) -> None:
    if isinstance(phase, str):
        break_it(disk)
    else:
        enter(disk, phase)
    before = snapshot(disk)
    for offset in range(0x48):
        for width, ones in ALL_ONES.items():
            if (offset, width) in EXACT:
                continue
            assert disk.load(offset, width) == ones, (offset, width)
            for value in (0, 1, ones):
                disk.store(offset, value, width)
        assert snapshot(disk) == before, f"offset {offset:#x}"


@pytest.mark.parametrize("phase", [*PHASES, "broken"])
def test_stores_to_what_can_only_be_read_change_nothing(disk: Blk, phase: int | str) -> None:
    if isinstance(phase, str):
        break_it(disk)
    else:
        enter(disk, phase)
    before = snapshot(disk)
    for name, register in COMMON.items():
        if not register.writable:
            for value in (0, 1, ALL_ONES[register.width]):
                disk.set(name, value)
                assert snapshot(disk) == before, name


def kept(phase: int) -> set[str]:
    """The registers that keep what is stored, in that phase, of a queue that is not enabled."""
    always = {"device_feature_select", "driver_feature_select", "queue_select",
              "config_msix_vector", "queue_msix_vector"}
    rings = {f"queue_{ring}_{half}" for ring in ("desc", "driver", "device") for half in ("lo", "hi")}
    if phase < NEGOTIATED:
        return always | {"driver_feature"}
    return always | rings | {"queue_size"}


# A value that each register could hold, and does not after a reset.
GOOD = {"device_feature_select": 1, "driver_feature_select": 1, "driver_feature": 1,
        "config_msix_vector": 2, "queue_select": 1, "queue_size": 4, "queue_msix_vector": 1} | {
            f"queue_{ring}_{half}": 0x10_0000 for ring in ("desc", "driver", "device")
            for half in ("lo", "hi")}


@pytest.mark.parametrize("phase", PHASES)
def test_each_register_is_writable_in_its_phases_alone(disk: Blk, phase: int) -> None:
    for name, value in GOOD.items():
        enter(disk, phase)
        for select in ("device_feature_select", "driver_feature_select", "queue_select"):
            disk.set(select, 0)
        before, others = disk.get(name), snapshot(disk)
        assert before != value or name == "driver_feature"
        disk.set(name, value)
        assert disk.get(name) == (value if name in kept(phase) else before), name
        disk.set(name, before)
        if name not in kept(phase) or name != "driver_feature":
            assert snapshot(disk) == others, name


def test_an_enabled_queue_keeps_its_size_and_its_addresses(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    disk.set_up_queue(0, 8)
    before = snapshot(disk)
    for phase in (NEGOTIATED, LIVE):
        disk.status = phase
        before["device_status"] = phase
        for name in GOOD:
            if name in kept(LIVE) and name.startswith("queue_") and "vector" not in name \
                    and name != "queue_select":
                disk.set(name, 2)
        disk.set("queue_enable", 0)  # [4.1.4.3.2]
        disk.set("queue_enable", 2)
        assert snapshot(disk) == before


def test_a_queue_size_that_is_no_power_of_two_or_too_large_is_refused(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    most = disk.get("queue_size")
    for size in (0, 3, 5, 6, most - 1, most + 1, 2 * most, 0x8000, 0xFFFF):
        disk.set("queue_size", size)
        assert disk.get("queue_size") == most, size


def test_a_queue_takes_every_power_of_two_up_to_its_most(disk: Blk) -> None:
    disk.advance(NEGOTIATED)
    size = disk.get("queue_size")
    assert size & size - 1 == 0 and size >= 128
    while size:
        disk.set("queue_size", size)
        assert disk.get("queue_size") == size
        size >>= 1


@pytest.mark.parametrize("phase", PHASES)
def test_a_queue_that_is_not_there_has_size_0_and_takes_nothing(disk: Blk, phase: int) -> None:
    enter(disk, phase)
    disk.set("queue_select", 0)
    before = snapshot(disk)
    for queue in (2, 3, 0x7FFF, 0xFFFF):
        disk.set("queue_select", queue)
        assert disk.get("queue_select") == queue
        for name, register in COMMON.items():
            if name.startswith("queue_") and name != "queue_select":
                assert disk.get(name) == 0, name
                if register.writable:
                    disk.set(name, 1)
                assert disk.get(name) == 0, name
    disk.set("queue_select", 0)
    assert snapshot(disk) == before


def test_a_vector_that_is_not_there_becomes_none(disk: Blk) -> None:
    assert Msix(disk.pci, disk.ram).vectors == 3
    for name in ("config_msix_vector", "queue_msix_vector"):
        assert disk.get(name) == NO_VECTOR
        for vector in (0, 2, 3, 2047, 0xFFFE, NO_VECTOR):
            disk.set(name, 1)
            disk.set(name, vector)
            assert disk.get(name) == (vector if vector < 3 else NO_VECTOR)  # [4.1.5.1.2.2]


# --- Features and status ------------------------------------------------------------------------


def test_what_is_offered(disk: Blk) -> None:
    offered = disk.offered()
    for feature in (Feature.VERSION_1, Feature.INDIRECT_DESC, Feature.EVENT_IDX, Feature.RING_RESET,
                    BlkFeature.SEG_MAX, BlkFeature.BLK_SIZE, BlkFeature.FLUSH, BlkFeature.TOPOLOGY,
                    BlkFeature.CONFIG_WCE, BlkFeature.MQ, BlkFeature.DISCARD,
                    BlkFeature.WRITE_ZEROES):
        assert offered & feature, feature
    for feature in (Feature.ACCESS_PLATFORM, Feature.RING_PACKED, BlkFeature.RO):
        assert not offered & feature, feature


def test_feature_words_beyond_the_second_are_zero(disk: Blk) -> None:
    disk.advance(DRIVEN)
    for select in (2, 3, 31, 0xFFFF_FFFF):
        for name in ("device_feature", "driver_feature"):
            disk.set(f"{name}_select", select)
            assert disk.get(name) == 0
        disk.set("driver_feature", 0xFFFF_FFFF)
        assert disk.get("driver_feature") == 0


@pytest.mark.parametrize("features, accepted", [
    (Feature.VERSION_1, True),
    (Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.EVENT_IDX, True),
    (0, False),
    (Feature.INDIRECT_DESC, False),
    (Feature.VERSION_1 | Feature.RING_PACKED, False),
    (Feature.VERSION_1 | 1 << 63, False),
    (Feature.VERSION_1 | BlkFeature.RO, False),
])
def test_features_ok_stays_for_what_was_offered_alone(
        disk: Blk, features: int, accepted: bool) -> None:
    disk.advance(DRIVEN)
    disk.accept(features)
    disk.status = NEGOTIATED
    assert disk.status == (NEGOTIATED if accepted else DRIVEN)
    if not accepted:  # and it may try again
        disk.accept(Feature.VERSION_1)
        disk.status = NEGOTIATED
        assert disk.status == NEGOTIATED


def test_every_step_of_the_status_from_every_phase(disk: Blk) -> None:
    legal = {(0, FOUND), (0, DRIVEN), (FOUND, DRIVEN), (DRIVEN, NEGOTIATED), (NEGOTIATED, LIVE)}
    for phase in PHASES:
        for value in range(1, 16):
            enter(disk, phase)
            if phase < NEGOTIATED:
                disk.accept(Feature.VERSION_1)
            disk.status = value
            assert disk.status == (value if (phase, value) in legal else phase), (phase, value)


@pytest.mark.parametrize("phase", PHASES)
def test_failed_can_be_said_at_any_time_and_needs_reset_not_at_all(disk: Blk, phase: int) -> None:
    enter(disk, phase)
    disk.status = phase | Status.NEEDS_RESET | 0x30
    assert disk.status == phase
    disk.status = phase | Status.FAILED
    assert disk.status == phase | Status.FAILED
    disk.reset()
    disk.bring_up()


# --- The configuration access capability --------------------------------------------------------


def test_every_register_can_be_read_without_the_bar(disk: Blk) -> None:
    disk.bring_up()
    for name, register in COMMON.items():
        assert disk.indirect_load(Structure.COMMON, register.offset, register.width) == \
            disk.get(name), name
    assert disk.indirect_load(Structure.DEVICE, 0, 4) == DISK_SECTORS
    assert disk.indirect_load(Structure.ISR, 0, 1) == 0


def test_a_device_can_be_driven_without_the_bar(disk: Blk) -> None:
    [queue] = disk.bring_up()
    disk.pci.write(PciFunction.COMMAND, PciFunction.BUS_MASTER, 2)
    assert disk.get("num_queues") == 0xFFFF
    request = disk.prepare(BlkType.GET_ID, room=20)
    queue.offer(request.buffers())
    doorbell = queue.doorbell - disk.address(Structure.NOTIFY)
    disk.indirect_store(Structure.NOTIFY, doorbell, 0, 2)
    queue.wait()
    assert disk.status_of(request) == BlkStatus.OK
    assert disk.machine.read(request.data, 20).rstrip(b"\0") == SERIAL.encode()
    disk.indirect_store(Structure.COMMON, COMMON["device_status"].offset, 0, 1)


def test_a_configuration_access_out_of_place_does_nothing(disk: Blk) -> None:
    disk.bring_up()
    before = snapshot(disk)
    at = disk.structures[Structure.PCI_CONFIG].at
    for bar, offset, size in [
            (0, 0x14, 1), (5, 0x14, 1), (0xFF, 0x14, 1), (1, 0x0C, 4), (4, 0x14, 0), (4, 0x14, 3),
            (4, 0x14, 8), (4, 0x14, 0xFFFF_FFFF), (4, 0x15, 2), (4, 0x12, 4), (4, 0x10000, 1),
            (4, 0xFFFF_FFFC, 4), (4, 0xFFFF_FFFF, 1)]:
        disk.pci.write(at + 4, bar, 1)
        disk.pci.write(at + 8, offset)
        disk.pci.write(at + 12, size)
        for width in (1, 2, 4):
            disk.pci.write(at + 16, 0, width)
            disk.pci.read(at + 16, width)
        assert snapshot(disk) == before, (bar, offset, size)


# --- Interrupts by wire, device configuration ---------------------------------------------------


def test_the_wire_is_raised_for_a_queue_and_lowered_by_reading_isr(disk: Blk) -> None:
    disk.machine.intercept_irqs()
    [queue] = disk.bring_up()
    line = 16 + disk.pci.slot % 4
    disk.machine.take_irqs()
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
    while not disk.machine.irqs:
        disk.status  # the next command lets main go on
    assert disk.machine.take_irqs() == [("raise", line)]
    assert disk.pci.read(0x06, 2) & 1 << 3
    assert disk.isr() == 1
    assert disk.machine.take_irqs() == [("lower", line)]
    assert disk.isr() == 0
    assert not disk.pci.read(0x06, 2) & 1 << 3


def test_the_command_register_holds_the_wire_back(disk: Blk) -> None:
    disk.machine.intercept_irqs()
    [queue] = disk.bring_up()
    command = disk.pci.read(PciFunction.COMMAND, 2)
    disk.pci.write(PciFunction.COMMAND, command | PciFunction.INTERRUPT_DISABLE, 2)
    disk.machine.take_irqs()
    assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
    while not disk.pci.read(0x06, 2) & 1 << 3:
        pass
    assert disk.machine.take_irqs() == []
    disk.pci.write(PciFunction.COMMAND, command, 2)
    assert disk.machine.take_irqs() == [("raise", 16 + disk.pci.slot % 4)]
    disk.isr()


def test_a_broken_device_says_so_by_the_configuration_interrupt(disk: Blk) -> None:
    break_it(disk)
    assert disk.status == LIVE | Status.NEEDS_RESET
    assert disk.isr() & 2


def test_the_device_configuration(disk: Blk) -> None:
    assert disk.capacity == DISK_SECTORS
    assert disk.config(20, 4) == 512
    assert disk.config(34, 2) == 2
    assert disk.config(32, 1) in (0, 1)
    for width in (1, 2, 4):
        for offset in range(60, 0x1000, 4):
            if offset % 0x100 in (0, 60):
                assert disk.config(offset, width) == 0
    whole = [disk.config(i, 1) for i in range(60)]
    for width in (1, 2, 4):
        for offset in range(0, 60, width):
            if offset <= 32 < offset + width:
                continue  # writeback, which a driver may store to
            disk.store(offset, ALL_ONES[width], width, Structure.DEVICE)
            expected = sum(whole[offset + i] << 8 * i for i in range(width))
            assert disk.config(offset, width) == expected


def test_the_write_cache_is_switched_only_if_that_was_negotiated(disk: Blk) -> None:
    writeback = 32
    disk.bring_up(features=BlkFeature.FLUSH)
    assert disk.config(writeback, 1) == 1
    disk.store(writeback, 0, 1, Structure.DEVICE)
    assert disk.config(writeback, 1) == 1
    disk.reset()
    disk.bring_up(features=BlkFeature.FLUSH | BlkFeature.CONFIG_WCE)
    disk.store(writeback, 0, 1, Structure.DEVICE)
    assert disk.config(writeback, 1) == 0
    disk.store(writeback, 1, 1, Structure.DEVICE)
    assert disk.config(writeback, 1) == 1
