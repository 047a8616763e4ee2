"""A virtio driver over qtest: what Linux does to a modern PCI device, and what no driver should do.

The numbers are those of virtio 1.2 and PCI 3.0; sections are cited. Every wait looks again with the
next command, so it ends when the thing has happened, or fails after `vm.PATIENCE_S`.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import struct
import time
from typing import Callable, Iterable, Iterator, Sequence

from qtest import Qtest
from support import vm

VENDOR = 0x1AF4
FIRST_DEVICE = 0x1040

# Where the test puts what the guest's kernel would choose.
FIRST_BAR = 0xC000_0000
FIRST_FREE_RAM = 0x10_0000

NO_VECTOR = 0xFFFF


class Status(enum.IntFlag):
    """[virtio-1.2 2.1]"""
    RESET = 0
    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


FOUND = Status.ACKNOWLEDGE
DRIVEN = FOUND | Status.DRIVER
NEGOTIATED = DRIVEN | Status.FEATURES_OK
LIVE = NEGOTIATED | Status.DRIVER_OK


class Feature(enum.IntFlag):
    """[virtio-1.2 6]"""
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    ACCESS_PLATFORM = 1 << 33
    RING_PACKED = 1 << 34
    RING_RESET = 1 << 40


@dataclasses.dataclass(frozen=True)
class Register:
    offset: int
    width: int
    writable: bool


# The common configuration structure, as its table has it; the 64-bit fields as two halves.
# [virtio-1.2 4.1.4.3]
COMMON = {
    "device_feature_select": Register(0x00, 4, True),
    "device_feature": Register(0x04, 4, False),
    "driver_feature_select": Register(0x08, 4, True),
    "driver_feature": Register(0x0C, 4, True),
    "config_msix_vector": Register(0x10, 2, True),
    "num_queues": Register(0x12, 2, False),
    "device_status": Register(0x14, 1, True),
    "config_generation": Register(0x15, 1, False),
    "queue_select": Register(0x16, 2, True),
    "queue_size": Register(0x18, 2, True),
    "queue_msix_vector": Register(0x1A, 2, True),
    "queue_enable": Register(0x1C, 2, True),
    "queue_notify_off": Register(0x1E, 2, False),
    "queue_desc_lo": Register(0x20, 4, True),
    "queue_desc_hi": Register(0x24, 4, True),
    "queue_driver_lo": Register(0x28, 4, True),
    "queue_driver_hi": Register(0x2C, 4, True),
    "queue_device_lo": Register(0x30, 4, True),
    "queue_device_hi": Register(0x34, 4, True),
    "queue_notify_data": Register(0x38, 2, False),
    "queue_reset": Register(0x3A, 2, True),
}


def wait_until(look: Callable[[], object], what: str) -> None:
    """Looks until it is true. `look` talks to the machine, so each turn is a turn of its loop."""
    deadline = time.monotonic() + vm.PATIENCE_S
    while not look():
        if time.monotonic() > deadline:
            raise AssertionError(f"never came: {what}")


class Ram:
    """Hands out guest RAM, from the bottom up, zeroed."""

    def __init__(self, qtest: Qtest, start: int = FIRST_FREE_RAM) -> None:
        self.qtest = qtest
        self._next = start

    def take(self, size: int, align: int = 16) -> int:
        address = (self._next + align - 1) // align * align
        self._next = address + size
        self.qtest.memset(address, size, 0)
        return address


# --- PCI --------------------------------------------------------------------------------------


class PciFunction:
    """One function: configuration space, BARs, capabilities, MSI-X."""

    COMMAND = 0x04
    INTERRUPT_DISABLE, BUS_MASTER, MEMORY, IO = 1 << 10, 1 << 2, 1 << 1, 1 << 0
    MSIX_CAPABILITY = 0x11
    VENDOR_CAPABILITY = 0x09

    def __init__(self, machine: "MachineLike", slot: int) -> None:
        self.machine = machine
        self.slot = slot
        self.bars: dict[int, int] = {}  # index -> address, once assigned
        self.bar_sizes: dict[int, int] = {}

    def read(self, register: int, size: int = 4) -> int:
        return self.machine.config_read(self.slot, register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.machine.config_write(self.slot, register, value, size)

    @property
    def identity(self) -> tuple[int, int]:
        return self.read(0x00, 2), self.read(0x02, 2)

    def capabilities(self) -> Iterator[tuple[int, int]]:
        """(id, offset) of each. [PCI-3.0 6.7]"""
        assert self.read(0x06, 2) & 1 << 4, "there is no capability list"
        at = self.read(0x34, 1)
        for _ in range(48):
            if at == 0:
                return
            assert at >= 0x40 and at % 4 == 0, f"a capability at {at:#x}"
            yield self.read(at, 1), at
            at = self.read(at + 1, 1)
        raise AssertionError("the capability list is a loop")

    def assign_bars(self, at: int) -> int:
        """Sizes each BAR, puts it behind `at`, and switches decoding on. Returns what is free
        behind them. [PCI-3.0 6.2.5.1]"""
        index = 0
        while index < 6:
            register = 0x10 + 4 * index
            old = self.read(register)
            is_io, is_64 = bool(old & 1), old & 7 in (4, 0xC)
            self.write(register, 0xFFFF_FFFF)
            mask = self.read(register) & (~3 if is_io else ~15) & 0xFFFF_FFFF
            self.write(register, old)
            if mask and not is_io:
                size = (~mask & 0xFFFF_FFFF) + 1
                at = (at + size - 1) // size * size
                self.write(register, at)
                if is_64:
                    self.write(register + 4, 0)
                self.bars[index], self.bar_sizes[index] = at, size
                at += size
            index += 2 if is_64 else 1
        self.write(self.COMMAND, self.MEMORY | self.BUS_MASTER, 2)
        return at


class MachineLike(Qtest):
    """What this module needs of a machine: qtest.Machine has it."""

    def config_read(self, slot: int, register: int, size: int = 4) -> int:
        raise NotImplementedError

    def config_write(self, slot: int, register: int, value: int, size: int = 4) -> None:
        raise NotImplementedError


def scan(machine: MachineLike) -> dict[int, tuple[int, int]]:
    """(vendor, device) of each slot that has a function."""
    found = {}
    for slot in range(32):
        word = machine.config_read(slot, 0)
        if word != 0xFFFF_FFFF:
            found[slot] = word & 0xFFFF, word >> 16
    return found


class Msix:
    """The vector table, the pending bits, and a word of RAM for each vector's message.
    [PCI-3.0 6.8.2]"""

    ENABLE, FUNCTION_MASK = 1 << 15, 1 << 14

    def __init__(self, pci: PciFunction, ram: Ram) -> None:
        self.pci, self.qtest = pci, pci.machine
        self.capability = next(at for kind, at in pci.capabilities() if kind == pci.MSIX_CAPABILITY)
        self.vectors = (self.control() & 0x7FF) + 1
        table, pending = pci.read(self.capability + 4), pci.read(self.capability + 8)
        self.table = pci.bars[table & 7] + (table & ~7)
        self.pending_bits = pci.bars[pending & 7] + (pending & ~7)
        self.words = ram.take(4 * self.vectors)

    def control(self) -> int:
        return self.pci.read(self.capability + 2, 2)

    def set_control(self, bits: int) -> None:
        self.pci.write(self.capability + 2, bits, 2)

    def entry(self, vector: int) -> tuple[int, int, int]:
        """(address, data, control)"""
        low, high, data, control = (self.qtest.load(self.table + 16 * vector + 4 * i, 4)
                                    for i in range(4))
        return high << 32 | low, data, control

    def message(self, vector: int) -> tuple[int, int]:
        """Where the vector's message goes, and what it says."""
        return self.words + 4 * vector, 0x4D53_0000 | vector

    def set_message(self, vector: int, address: int, data: int) -> None:
        base = self.table + 16 * vector
        self.qtest.store(base, address & 0xFFFF_FFFF, 4)
        self.qtest.store(base + 4, address >> 32, 4)
        self.qtest.store(base + 8, data, 4)

    def mask(self, vector: int, masked: bool = True) -> None:
        self.qtest.store(self.table + 16 * vector + 12, int(masked), 4)

    def pending(self, vector: int) -> bool:
        word = self.qtest.load(self.pending_bits + vector // 32 * 4, 4)
        return bool(word >> vector % 32 & 1)

    def enable(self) -> None:
        """As a driver does: every vector with its message, unmasked, then the function."""
        self.set_control(self.ENABLE | self.FUNCTION_MASK)
        for vector in range(self.vectors):
            self.set_message(vector, *self.message(vector))
            self.mask(vector, False)
        self.set_control(self.ENABLE)

    def take(self, vector: int) -> bool:
        """Whether the vector's message came since the last look."""
        address, data = self.message(vector)
        value = self.qtest.load(address, 4)
        if value == 0:
            return False
        assert value == data, f"vector {vector} stored {value:#x}"
        self.qtest.store(address, 0, 4)
        return True

    def wait(self, vector: int) -> None:
        wait_until(lambda: self.take(vector), f"interrupt of vector {vector}")


# --- virtio-pci -------------------------------------------------------------------------------


class Structure(enum.IntEnum):
    """[virtio-1.2 4.1.4]"""
    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_CONFIG = 5


@dataclasses.dataclass(frozen=True)
class Capability:
    at: int  # in configuration space
    length: int
    bar: int
    offset: int
    size: int


class VirtioPci:
    """A modern virtio device, from its discovery on."""

    def __init__(self, machine: MachineLike, slot: int, ram: Ram | None = None,
                 bars_at: int = FIRST_BAR) -> None:
        self.machine = machine
        self.ram = ram or Ram(machine)
        self.pci = PciFunction(machine, slot)
        vendor, device = self.pci.identity
        assert vendor == VENDOR and device >= FIRST_DEVICE, f"{vendor:04x}:{device:04x}"
        self.device_type = device - FIRST_DEVICE
        self.bars_end = self.pci.assign_bars(bars_at)
        self.structures = self._find_structures()
        notify = self.structures[Structure.NOTIFY]
        self.notify_multiplier = self.pci.read(notify.at + 16)
        self.msix: Msix | None = None
        self.features = 0

    def _find_structures(self) -> dict[Structure, Capability]:
        found: dict[Structure, Capability] = {}
        for kind, at in self.pci.capabilities():
            if kind != PciFunction.VENDOR_CAPABILITY:
                continue
            structure = Structure(self.pci.read(at + 3, 1))
            found.setdefault(structure, Capability(  # the first of a kind counts [4.1.4.1]
                at, self.pci.read(at + 2, 1), self.pci.read(at + 4, 1), self.pci.read(at + 8),
                self.pci.read(at + 12)))
        return found

    def address(self, structure: Structure, offset: int = 0) -> int:
        where = self.structures[structure]
        return self.pci.bars[where.bar] + where.offset + offset

    # Registers.

    def load(self, offset: int, size: int, structure: Structure = Structure.COMMON) -> int:
        return self.machine.load(self.address(structure, offset), size)

    def store(self, offset: int, value: int, size: int,
              structure: Structure = Structure.COMMON) -> None:
        self.machine.store(self.address(structure, offset), value, size)

    def get(self, name: str) -> int:
        register = COMMON[name]
        return self.load(register.offset, register.width)

    def set(self, name: str, value: int) -> None:
        register = COMMON[name]
        self.store(register.offset, value, register.width)

    def indirect_load(self, structure: Structure, offset: int, size: int) -> int:
        """Through the configuration access capability. [virtio-1.2 4.1.4.9]"""
        return self.pci.read(self._aim(structure, offset, size), size)

    def indirect_store(self, structure: Structure, offset: int, value: int, size: int) -> None:
        self.pci.write(self._aim(structure, offset, size), value, size)

    def _aim(self, structure: Structure, offset: int, size: int) -> int:
        window, target = self.structures[Structure.PCI_CONFIG], self.structures[structure]
        self.pci.write(window.at + 4, target.bar, 1)
        self.pci.write(window.at + 8, target.offset + offset)
        self.pci.write(window.at + 12, size)
        return window.at + 16

    def isr(self) -> int:
        """Reading it clears it."""
        return self.load(0, 1, Structure.ISR)

    # Life. [virtio-1.2 3.1.1]

    @property
    def status(self) -> Status:
        return Status(self.get("device_status"))

    @status.setter
    def status(self, value: int) -> None:
        self.set("device_status", value)

    def reset(self) -> None:
        self.status = Status.RESET
        wait_until(lambda: self.status == 0, "the end of the reset")

    def offered(self) -> int:
        features = 0
        for half in (0, 1):
            self.set("device_feature_select", half)
            features |= self.get("device_feature") << 32 * half
        return features

    def accept(self, features: int) -> None:
        for half in (0, 1):
            self.set("driver_feature_select", half)
            self.set("driver_feature", features >> 32 * half & 0xFFFF_FFFF)

    def advance(self, phase: int, features: int | None = None) -> None:
        """From reset to `phase`, step by step, with what is offered of `features`."""
        for step in (FOUND, DRIVEN, NEGOTIATED, LIVE):
            if step > phase:
                return
            if step == NEGOTIATED:
                wanted = ~0 if features is None else features | Feature.VERSION_1
                self.features = self.offered() & wanted
                self.accept(self.features)
            self.status = step
            assert self.status == step, self.status

    def use_msix(self) -> Msix:
        """Vector 0 for the configuration, vector i + 1 for queue i, as far as they go."""
        if self.msix is None:
            self.msix = Msix(self.pci, self.ram)
        self.msix.enable()
        return self.msix

    def set_up_queue(self, index: int, size: int | None = None, *, enable: bool = True) -> "Queue":
        self.set("queue_select", index)
        most = self.get("queue_size")
        assert most, f"there is no queue {index}"
        queue = Queue(self, index, most if size is None else min(size, most))
        self.set("queue_size", queue.size)
        if self.msix is not None:
            vector = min(index + 1, self.msix.vectors - 1)
            self.set("queue_msix_vector", vector)
            assert self.get("queue_msix_vector") == vector
        for name, address in (("desc", queue.descriptors), ("driver", queue.available),
                              ("device", queue.used)):
            self.set(f"queue_{name}_lo", address & 0xFFFF_FFFF)
            self.set(f"queue_{name}_hi", address >> 32)
        if enable:
            self.set("queue_enable", 1)
            assert self.get("queue_enable") == 1
        return queue

    def bring_up(self, features: int | None = None, queues: int = 1, size: int | None = None,
                 msix: bool = False) -> "list[Queue]":
        """Everything, as a driver does it at probe. The device was reset."""
        self.advance(NEGOTIATED, features)
        if msix:
            self.use_msix()
            self.set("config_msix_vector", 0)
        found = [self.set_up_queue(i, size) for i in range(queues)]
        self.status = LIVE
        assert self.status == LIVE
        return found

    def wait_broken(self) -> None:
        wait_until(lambda: self.status & Status.NEEDS_RESET, "DEVICE_NEEDS_RESET")


# --- Split queues -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Buffer:
    address: int
    length: int
    device_writes: bool = False


NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT = 1  # of the available ring
NO_NOTIFY = 1  # of the used ring


def descriptor(address: int, length: int, flags: int = 0, following: int = 0) -> bytes:
    return struct.pack("<QIHH", address & (1 << 64) - 1, length, flags, following)


class Queue:
    """A split virtqueue in guest memory. [virtio-1.2 2.7]

    offer() and take() keep the rules; describe(), offer_head() and the rest do as they are told.
    """

    def __init__(self, device: VirtioPci, index: int, size: int) -> None:
        self.device, self.index, self.size = device, index, size
        self.qtest = device.machine
        self.event_idx = bool(device.features & Feature.EVENT_IDX)
        ram = device.ram
        self.descriptors = ram.take(16 * size, 16)
        self.available = ram.take(6 + 2 * size, 2)
        self.used = ram.take(6 + 8 * size, 4)
        self.next_offer = 0
        self.next_used = 0
        self._free = list(range(size))
        self._chains: dict[int, list[int]] = {}
        device.set("queue_select", index)
        self.doorbell = device.address(
            Structure.NOTIFY, device.get("queue_notify_off") * device.notify_multiplier)

    # By the rules.

    def offer(self, buffers: Sequence[Buffer]) -> int:
        """Puts a chain of direct descriptors up; returns its head. Does not ring."""
        assert len(buffers) <= len(self._free), "the queue is full"
        indices = [self._free.pop(0) for _ in buffers]
        for index, buffer, following in itertools.zip_longest(indices, buffers, indices[1:]):
            flags = (WRITE if buffer.device_writes else 0) | (0 if following is None else NEXT)
            self.describe(index, buffer.address, buffer.length, flags, following or 0)
        self._chains[indices[0]] = indices
        self.offer_head(indices[0])
        return indices[0]

    def offer_indirect(self, buffers: Sequence[Buffer]) -> int:
        """The same by way of an indirect table: one descriptor of the ring."""
        table = self.device.ram.take(16 * len(buffers))
        self.write_table(table, buffers)
        index = self._free.pop(0)
        self.describe(index, table, 16 * len(buffers), INDIRECT)
        self._chains[index] = [index]
        self.offer_head(index)
        return index

    def write_table(self, table: int, buffers: Sequence[Buffer]) -> None:
        for i, buffer in enumerate(buffers):
            flags = (WRITE if buffer.device_writes else 0) | (NEXT if i + 1 < len(buffers) else 0)
            self.qtest.write(table + 16 * i,
                             descriptor(buffer.address, buffer.length, flags, i + 1))

    def wants_ring(self, before: int) -> bool:
        """Whether the device asked to be rung for what was offered since `before`."""
        if not self.event_idx:
            return not self.used_flags() & NO_NOTIFY
        passed = self.next_offer - self.avail_event() - 1 & 0xFFFF
        return passed < (self.next_offer - before & 0xFFFF)

    def ring(self) -> None:
        self.qtest.store(self.doorbell, self.index, 2)

    def take(self) -> tuple[int, int] | None:
        """The next used entry, (head, length); its descriptors are free again."""
        if self.used_index() == self.next_used:
            return None
        head, length = self.used_entry(self.next_used)
        self.next_used = self.next_used + 1 & 0xFFFF
        self._free += self._chains.pop(head, [])
        if self.event_idx:
            self.set_used_event(self.next_used)
        return head, length

    def wait(self) -> tuple[int, int]:
        wait_until(lambda: self.used_index() != self.next_used, f"a used entry of {self.index}")
        taken = self.take()
        assert taken is not None
        return taken

    # As one likes.

    def describe(self, index: int, address: int, length: int, flags: int = 0,
                 following: int = 0) -> None:
        self.qtest.write(self.descriptors + 16 * index,
                         descriptor(address, length, flags, following))

    def offer_head(self, head: int) -> None:
        self.qtest.store(self.available + 4 + 2 * (self.next_offer % self.size), head, 2)
        self.next_offer = self.next_offer + 1 & 0xFFFF
        self.set_available_index(self.next_offer)

    def set_available_index(self, index: int) -> None:
        self.qtest.store(self.available + 2, index, 2)

    def set_available_flags(self, flags: int) -> None:
        self.qtest.store(self.available, flags, 2)

    def set_used_event(self, index: int) -> None:
        self.qtest.store(self.available + 4 + 2 * self.size, index, 2)

    def used_flags(self) -> int:
        return self.qtest.load(self.used, 2)

    def used_index(self) -> int:
        return self.qtest.load(self.used + 2, 2)

    def used_entry(self, at: int) -> tuple[int, int]:
        entry = self.qtest.read(self.used + 4 + 8 * (at % self.size), 8)
        head, length = struct.unpack("<II", entry)
        return head, length

    def avail_event(self) -> int:
        return self.qtest.load(self.used + 4 + 8 * self.size, 2)


# --- virtio-blk -------------------------------------------------------------------------------


class BlkFeature(enum.IntFlag):
    """[virtio-1.2 5.2.3]"""
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class BlkType(enum.IntEnum):
    """[virtio-1.2 5.2.6]"""
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class BlkStatus(enum.IntEnum):
    OK = 0
    IOERR = 1
    UNSUPP = 2


BLK_DEVICE_TYPE = 2
SECTOR = 512
UNTOUCHED = 0xEE  # what a status byte holds before the device wrote it


@dataclasses.dataclass
class BlkRequest:
    """A request in guest memory: header, data, status."""
    header: int
    data: int
    size: int
    status: int
    device_writes: bool

    def buffers(self) -> list[Buffer]:
        data = [Buffer(self.data, self.size, self.device_writes)] if self.size else []
        return [Buffer(self.header, 16), *data, Buffer(self.status, 1, True)]


class Blk(VirtioPci):
    """A disk and its requests."""

    def __init__(self, machine: MachineLike, slot: int, **options: object) -> None:
        super().__init__(machine, slot, **options)  # type: ignore[arg-type]
        assert self.device_type == BLK_DEVICE_TYPE

    def config(self, offset: int, size: int) -> int:
        return self.load(offset, size, Structure.DEVICE)

    @property
    def capacity(self) -> int:
        """In sectors, read until it did not change meanwhile. [virtio-1.2 2.5.1]"""
        while True:
            before = self.get("config_generation")
            capacity = self.config(0, 4) | self.config(4, 4) << 32
            if self.get("config_generation") == before:
                return capacity

    def prepare(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0) -> BlkRequest:
        """`data` goes to the device; or it has `room` bytes to fill."""
        assert not (data and room)
        size = len(data) or room
        header = self.ram.take(16)
        request = BlkRequest(header, self.ram.take(size) if size else 0, size, self.ram.take(1),
                             device_writes=bool(room))
        self.machine.write(header, struct.pack("<IIQ", kind, 0, sector))
        if data:
            self.machine.write(request.data, data)
        self.machine.store(request.status, UNTOUCHED, 1)
        return request

    def submit(self, queue: Queue, request: BlkRequest, *, indirect: bool = False) -> int:
        before = queue.next_offer
        head = (queue.offer_indirect if indirect else queue.offer)(request.buffers())
        if queue.wants_ring(before):
            queue.ring()
        return head

    def status_of(self, request: BlkRequest) -> int:
        return self.machine.load(request.status, 1)

    def do(self, queue: Queue, kind: int, sector: int = 0, data: bytes = b"", room: int = 0, *,
           indirect: bool = False) -> tuple[int, bytes]:
        """One request from start to end: its status and what the device wrote."""
        request = self.prepare(kind, sector, data, room)
        head = self.submit(queue, request, indirect=indirect)
        done, _ = queue.wait()
        assert done == head
        return self.status_of(request), self.machine.read(request.data, room) if room else b""

    def read_sectors(self, queue: Queue, sector: int, count: int = 1) -> bytes:
        status, data = self.do(queue, BlkType.IN, sector, room=count * SECTOR)
        assert status == BlkStatus.OK, status
        return data

    def write_sectors(self, queue: Queue, sector: int, data: bytes) -> None:
        status, _ = self.do(queue, BlkType.OUT, sector, data)
        assert status == BlkStatus.OK, status


def find(machine: MachineLike, device_type: int) -> list[int]:
    """The slots of the virtio devices of one type."""
    return [slot for slot, identity in scan(machine).items()
            if identity == (VENDOR, FIRST_DEVICE + device_type)]


def find_disks(machine: MachineLike, ram: Ram | None = None) -> list[Blk]:
    """Every virtio disk, with its BARs assigned, side by side."""
    ram = ram or Ram(machine)
    disks: list[Blk] = []
    at = FIRST_BAR
    for slot in find(machine, BLK_DEVICE_TYPE):
        disks.append(Blk(machine, slot, ram=ram, bars_at=at))
        at = disks[-1].bars_end
    return disks


def ranges(segments: Iterable[tuple[int, int, int]]) -> bytes:
    """The data of a discard or write-zeroes request: (sector, sectors, flags) each."""
    return b"".join(struct.pack("<QII", *segment) for segment in segments)
