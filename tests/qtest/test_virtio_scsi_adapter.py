"""The SCSI host adapter by itself, without a unit on its bus: its options, its registers, and what
it answers to a driver that finds nobody."""

from __future__ import annotations

import pathlib
import struct
from typing import Iterator

import pytest
from qtest import Machine
from virtio import LIVE, Buffer, Queue, Structure, VirtioPci, find

SCSI_DEVICE_TYPE = 8
HOTPLUG, CHANGE = 1 << 1, 1 << 2
RESPONSE = 12 + 96
BAD_TARGET, FAILURE, REJECTED = 3, 9, 11
TASK_FUNCTIONS = range(8)
CLEAR_ACA = 2


class Adapter(VirtioPci):
    def __init__(self, machine: Machine) -> None:
        [slot] = find(machine, SCSI_DEVICE_TYPE)
        super().__init__(machine, slot)

    def command(self, queue: Queue, lun: bytes, cdb: bytes, room: int = 0) -> tuple[int, int, int]:
        """(response, residual, bytes written) of one command."""
        request, response = self.ram.take(19 + 32), self.ram.take(RESPONSE)
        self.machine.write(request, lun.ljust(8, b"\0") + struct.pack("<QBBB", 1, 0, 0, 0)
                           + cdb.ljust(32, b"\0"))
        buffers = [Buffer(request, 51), Buffer(response, RESPONSE, True)]
        if room:
            buffers.append(Buffer(self.ram.take(room), room, True))
        queue.offer(buffers)
        queue.ring()
        _, written = queue.wait()
        _, residual, _, _, code = struct.unpack("<IIHBB", self.machine.read(response, 12))
        return code, residual, written

    def task(self, queue: Queue, function: int, lun: bytes) -> int:
        request, response = self.ram.take(24), self.ram.take(1)
        self.machine.write(request, struct.pack("<II", 0, function) + lun.ljust(8, b"\0")
                           + struct.pack("<Q", 1))
        queue.offer([Buffer(request, 24), Buffer(response, 1, True)])
        queue.ring()
        assert queue.wait()[1] == 1
        return self.machine.load(response, 1)


@pytest.fixture(params=["main", "iothread"])
def adapter(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Adapter]:
    arguments, device = [], "virtio-scsi-pci,id=scsi0,num_queues=2,virtqueue_size=64,max_sectors=77"
    if request.param == "iothread":
        arguments += ["-object", "iothread,id=io0"]
        device += ",iothread=io0,cmd_per_lun=5"
    with Machine(tmp_path, *arguments, "-device", device) as machine:
        yield Adapter(machine)
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def test_it_is_what_linux_looks_for(adapter: Adapter) -> None:
    assert adapter.pci.identity == (0x1AF4, 0x1048)
    assert adapter.pci.read(0x08) >> 8 == 0x010000
    assert adapter.get("num_queues") == 4
    assert adapter.offered() & 0xF == HOTPLUG | CHANGE
    config = [adapter.load(4 * i, 4, Structure.DEVICE) for i in range(7)]
    assert config == [2, 62, 77, config[3], 16, 96, 32]
    assert config[3] in (5, 128)
    assert adapter.load(30, 2, Structure.DEVICE) == 255
    assert adapter.load(32, 4, Structure.DEVICE) == 16383


def test_nobody_answers_on_an_empty_bus(adapter: Adapter) -> None:
    queues = adapter.bring_up(queues=4, msix=True)
    for lun in (b"\x01", b"\x01\xff\x40\x00", b"\xc1\x01", b"\x00"):
        for queue in queues[2:]:
            for cdb in (b"\x00", b"\xa0" + bytes(8) + b"\x10", b"\x12\0\0\0\x24"):
                assert adapter.command(queue, lun, cdb, 64) == (BAD_TARGET, 64, RESPONSE)
        for function in TASK_FUNCTIONS:
            expected = REJECTED if function == CLEAR_ACA and lun != b"\x00" else BAD_TARGET
            assert adapter.task(queues[0], function, lun) == expected
    for i in (0, 2, 3):
        assert adapter.msix.take(i + 1)  # type: ignore[union-attr]
    # Buffers for events stay where they are, and go with the reset.
    queues[1].offer([Buffer(adapter.ram.take(16), 16, True)])
    queues[1].ring()
    adapter.store(20, 18, 4, Structure.DEVICE)
    assert adapter.load(20, 4, Structure.DEVICE) == 18
    assert queues[1].take() is None
    adapter.reset()
    assert adapter.load(20, 4, Structure.DEVICE) == 96
    queues = adapter.bring_up(queues=4)
    assert adapter.status == LIVE
    assert adapter.command(queues[2], b"\x01", b"\x00")[0] == BAD_TARGET


def refusal(machine: Machine, command: str, **arguments: object) -> str:
    return machine.qmp.ask(command, **arguments)["error"]["desc"]


def test_what_is_no_option_is_refused(machine: Machine) -> None:
    for options, reason in (
        ({"num_queues": 0},
         "Invalid number of queues (= 0), must be a positive integer less than 65."),
        ({"num_queues": 65},
         "Invalid number of queues (= 65), must be a positive integer less than 65."),
        ({"virtqueue_size": 2},
         "invalid virtqueue_size property (= 2), must be a power of 2 from 4 to 1024"),
        ({"virtqueue_size": 96},
         "invalid virtqueue_size property (= 96), must be a power of 2 from 4 to 1024"),
        ({"max_sectors": 0}, "Parameter 'max_sectors' expects a value between 1 and 4294967295"),
        ({"iothread": "io9"}, "Device 'io9' not found"),
        ({"iothread-vq-mapping": [{"iothread": "io9"}]}, "Device 'io9' not found"),
        ({"drive": "d0"}, "Property 'virtio-scsi-pci.drive' not found"),
    ):
        assert refusal(machine, "device_add", driver="virtio-scsi-pci", id="s",
                       **options) == reason


def test_queues_go_where_the_mapping_says(machine: Machine) -> None:
    for name in ("io0", "io1"):
        machine.qmp.execute("object-add", **{"qom-type": "iothread", "id": name})
    assert refusal(machine, "device_add", driver="virtio-scsi-pci", id="s", num_queues=2,
                   **{"iothread-vq-mapping": [{"iothread": "io0", "vqs": [2]}]}) == (
        "vq index 2 for iothread-vq-mapping must be less than num_queues 2")
    machine.qmp.execute("device_add", driver="virtio-scsi-pci", id="s", num_queues=3,
                        **{"iothread-vq-mapping": [{"iothread": "io0"}, {"iothread": "io1"}]})
    adapter = Adapter(machine)
    queues = adapter.bring_up(queues=5)
    for queue in queues[2:]:
        assert adapter.command(queue, b"\x01", b"\x00")[0] == BAD_TARGET
    assert adapter.task(queues[0], 0, b"\x01") == BAD_TARGET
    for name in ("io0", "io1"):
        assert "in use" in refusal(machine, "object-del", id=name)
