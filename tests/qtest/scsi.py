"""A virtio-scsi driver over qtest: commands, task management, events, as Linux does them.

The numbers are those of virtio 1.2 (5.6), SPC-4 and SBC-3.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from typing import Sequence

from virtio import FIRST_BAR, LIVE, NEGOTIATED, Buffer, MachineLike, Queue, Ram, VirtioPci, find

SCSI_DEVICE_TYPE = 8
CONTROL, EVENTS, FIRST_REQUESTS = 0, 1, 2
SENSE_SIZE, CDB_SIZE = 96, 32
REQUEST_HEAD, RESPONSE_HEAD = 19, 12
EVENT_SIZE = 16
BLOCK = 512


class Response(enum.IntEnum):
    """[virtio-1.2 5.6.6.1]"""
    OK = 0
    OVERRUN = 1
    ABORTED = 2
    BAD_TARGET = 3
    RESET = 4
    FUNCTION_SUCCEEDED = 10
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12


class Task(enum.IntEnum):
    """[virtio-1.2 5.6.6.2]"""
    ABORT_TASK = 0
    ABORT_TASK_SET = 1
    NEXUS_RESET = 4
    UNIT_RESET = 5


GOOD, CHECK_CONDITION = 0, 2
RESCAN, REMOVED = 1, 2  # reasons of a transport reset
TRANSPORT_RESET, PARAMETER_CHANGE = 1, 3

# (key, asc, ascq)
POWER_ON = (6, 0x29, 0x01)
LUNS_CHANGED = (6, 0x3F, 0x0E)
CAPACITY_CHANGED = (6, 0x2A, 0x09)
MEDIUM_CHANGED = (6, 0x28, 0x00)
NO_MEDIUM = (2, 0x3A, 0x00)
TRAY_OPEN = (2, 0x3A, 0x02)
PREVENTED = (5, 0x53, 0x02)
LUN_NOT_SUPPORTED = (5, 0x25, 0x00)


@dataclasses.dataclass(frozen=True)
class Answer:
    response: int
    status: int
    sense: tuple[int, int, int] | None
    data: bytes
    residual: int

    @property
    def good(self) -> bool:
        return (self.response, self.status) == (Response.OK, GOOD)


@dataclasses.dataclass
class Pending:
    head: int
    response: int  # where it comes
    data: int
    room: int


def lun_of(target: int, lun: int) -> bytes:
    """[virtio-1.2 5.6.6.1]: a single level, flat space where peripheral addressing ends."""
    level = lun if lun < 256 else lun | 0x4000
    return bytes([1, target, level >> 8, level & 0xFF, 0, 0, 0, 0])


class Scsi(VirtioPci):
    """A host adapter, once bring_up_adapter() was called."""

    control: Queue
    events: Queue
    requests: list[Queue]

    def __init__(self, machine: MachineLike, slot: int, **options: object) -> None:
        super().__init__(machine, slot, **options)  # type: ignore[arg-type]
        assert self.device_type == SCSI_DEVICE_TYPE
        self._event_at: dict[int, int] = {}
        self._next_tag = 1

    def bring_up_adapter(self, requests: int = 1, events: int = 8) -> "Scsi":
        self.advance(NEGOTIATED)
        found = [self.set_up_queue(i) for i in range(FIRST_REQUESTS + requests)]
        self.status = LIVE
        assert self.status == LIVE
        self.control, self.events, self.requests = found[CONTROL], found[EVENTS], found[2:]
        for _ in range(events):
            self.offer_event()
        self.events.ring()
        return self

    # Commands.

    def begin(self, queue: Queue, target: int, lun: int, cdb: bytes, data: bytes = b"",
              room: int = 0, tag: int | None = None) -> Pending:
        """Puts a command up and rings. `data` goes to the unit; or it has `room` bytes to fill."""
        if tag is None:
            tag, self._next_tag = self._next_tag, self._next_tag + 1
        request = self.ram.take(REQUEST_HEAD + CDB_SIZE)
        response = self.ram.take(RESPONSE_HEAD + SENSE_SIZE)
        self.machine.write(request, lun_of(target, lun) + struct.pack("<QBBB", tag, 0, 0, 0) +
                           cdb.ljust(CDB_SIZE, b"\0"))
        at = self.ram.take(max(len(data), room)) if data or room else 0
        if data:
            self.machine.write(at, data)
        buffers = [Buffer(request, REQUEST_HEAD + CDB_SIZE)]
        buffers += [Buffer(at, len(data))] if data else []
        buffers += [Buffer(response, RESPONSE_HEAD + SENSE_SIZE, True)]
        buffers += [Buffer(at, room, True)] if room else []
        head = queue.offer(buffers)
        queue.ring()
        return Pending(head, response, at, room)

    def answer_of(self, pending: Pending) -> Answer:
        head = self.machine.read(pending.response, RESPONSE_HEAD)
        length, residual, _, status, response = struct.unpack("<IIHBB", head)
        raw = self.machine.read(pending.response + RESPONSE_HEAD, length) if length else b""
        sense = (raw[2] & 15, raw[12], raw[13]) if raw else None
        data = self.machine.read(pending.data, pending.room) if pending.room else b""
        return Answer(response, status, sense, data, residual)

    def finish(self, queue: Queue, pending: Pending) -> Answer:
        head, _ = queue.wait()
        assert head == pending.head
        return self.answer_of(pending)

    def do(self, target: int, lun: int, cdb: Sequence[int] | bytes, data: bytes = b"",
           room: int = 0, queue: int = 0) -> Answer:
        on = self.requests[queue]
        return self.finish(on, self.begin(on, target, lun, bytes(cdb), data, room))

    def settle(self, target: int, lun: int = 0) -> list[tuple[int, int, int]]:
        """Takes the unit attentions, one after the other, until the unit is ready."""
        taken = []
        while not (answer := self.do(target, lun, bytes(6))).good:
            assert answer.sense is not None and answer.sense[0] == 6, answer
            taken.append(answer.sense)
        return taken

    def inquiry(self, target: int, lun: int = 0, queue: int = 0) -> bytes:
        answer = self.do(target, lun, [0x12, 0, 0, 0, 36, 0], room=36, queue=queue)
        assert answer.good, answer
        return answer.data

    def page(self, target: int, code: int, lun: int = 0) -> bytes:
        """A page of vital product data, without its header."""
        answer = self.do(target, lun, [0x12, 1, code, 0, 255, 0], room=255)
        assert answer.good, answer
        return answer.data[4:4 + int.from_bytes(answer.data[2:4], "big")]

    def luns(self, target: int) -> list[int]:
        answer = self.do(target, 0, struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, 256, 0, 0),
                         room=256)
        assert answer.good, answer
        count = int.from_bytes(answer.data[:4], "big") // 8
        return [int.from_bytes(answer.data[8 + 8 * i:10 + 8 * i], "big") & 0x3FFF
                for i in range(count)]

    @staticmethod
    def rw10(opcode: int, block: int, count: int) -> bytes:
        return struct.pack(">BBIBHB", opcode, 0, block, 0, count, 0)

    def read_blocks(self, target: int, block: int, count: int = 1, *, lun: int = 0, queue: int = 0,
                    size: int = BLOCK) -> bytes:
        answer = self.do(target, lun, self.rw10(0x28, block, count), room=count * size, queue=queue)
        assert answer.good, answer
        return answer.data

    def write_blocks(self, target: int, block: int, data: bytes, *, lun: int = 0,
                     queue: int = 0) -> None:
        answer = self.do(target, lun, self.rw10(0x2A, block, len(data) // BLOCK), data,
                         queue=queue)
        assert answer.good, answer

    def capacity(self, target: int, lun: int = 0) -> tuple[int, int]:
        """(blocks, bytes of one)"""
        answer = self.do(target, lun, [0x25] + [0] * 9, room=8)
        assert answer.good, answer
        last, size = struct.unpack(">II", answer.data)
        return last + 1, size

    def manage(self, what: Task, target: int, lun: int, tag: int = 0) -> int:
        request, response = self.ram.take(24), self.ram.take(1)
        self.machine.write(request, struct.pack("<II", 0, what) + lun_of(target, lun) +
                           struct.pack("<Q", tag))
        self.control.offer([Buffer(request, 24), Buffer(response, 1, True)])
        self.control.ring()
        self.control.wait()
        return self.machine.load(response, 1)

    # Events. [virtio-1.2 5.6.6.3]

    def offer_event(self) -> None:
        at = self.ram.take(EVENT_SIZE)
        self._event_at[self.events.offer([Buffer(at, EVENT_SIZE, True)])] = at

    def event(self) -> tuple[int, int, int, int]:
        """The next: (what, target, lun, reason). Its buffer is offered again."""
        head, length = self.events.wait()
        assert length == EVENT_SIZE
        what, lun, reason = struct.unpack("<I8sI", self.machine.read(self._event_at.pop(head),
                                                                     EVENT_SIZE))
        self.offer_event()
        self.events.ring()
        assert lun[0] == 1, lun
        return what, lun[1], (lun[2] << 8 | lun[3]) & 0x3FFF, reason

    def no_event(self) -> bool:
        return self.events.used_index() == self.events.next_used


def find_adapters(machine: MachineLike, ram: Ram | None = None) -> list[Scsi]:
    """Every host adapter, with its BARs assigned, side by side."""
    ram = ram or Ram(machine)
    found: list[Scsi] = []
    at = FIRST_BAR
    for slot in find(machine, SCSI_DEVICE_TYPE):
        found.append(Scsi(machine, slot, ram=ram, bars_at=at))
        at = found[-1].bars_end
    return found
