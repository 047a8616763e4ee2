"""Disks come and go in every slot, in any order, with requests under way on every queue."""

from __future__ import annotations

import pathlib
import random
import time

import pytest
from hotplug import SLOTS, TOLD, deleted, eject, plug, states, told
from qtest import Machine
from support.vm import sized
from virtio import SECTOR, Blk, BlkStatus, BlkType, Ram, Status, find, wait_until

NODES, THREADS, QUEUES, REQUESTS = 8, 2, 2, 8
LATENCY_NS = 2_000_000  # so that an eject finds them under way
BARS = 0xC000_0000
WEIGHTS = {"read": 4, "ring and eject": 3, "reset and eject": 1, "system_reset": 1, "repeat": 1}


class Loop:
    """What is plugged, and what may be done to it. Seeded: the same seed does the same."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine = machine
        self.rng = random.Random(seed)
        self.plugged: dict[int, str] = {}  # slot -> node
        self.unused = set(SLOTS)  # slots that were never plugged into

    def plug(self) -> None:
        free = [slot for slot in SLOTS if slot not in self.plugged]
        slot = self.rng.choice(sorted(self.unused) or free)
        node = self.rng.choice(sorted(set(f"n{i}" for i in range(NODES)) -
                                      set(self.plugged.values())))
        mapping = [{"iothread": f"io{i}"} for i in range(THREADS)]
        plug(self.machine, f"d{slot}", node, addr=f"{slot:x}",
             **{"num-queues": QUEUES, "iothread-vq-mapping": mapping})
        self.unused.discard(slot)
        self.plugged[slot] = node

    def disk(self, slot: int) -> Blk:
        disk = Blk(self.machine, slot, ram=Ram(self.machine), bars_at=BARS)
        disk.reset()
        return disk

    def make_busy(self, disk: Blk) -> None:
        for queue in disk.bring_up(queues=QUEUES):
            for number in range(REQUESTS):
                data = bytes(8 * SECTOR) if number % 2 else b""
                kind = BlkType.OUT if data else BlkType.IN
                queue.offer(disk.prepare(kind, 0, data, 0 if data else 8 * SECTOR).buffers())
            queue.ring()

    def pull(self) -> None:
        slot = self.rng.choice(sorted(self.plugged))
        disk = self.disk(slot)
        how = self.rng.choices(list(WEIGHTS), WEIGHTS.values())[0]
        self.make_busy(disk)
        machine, name = self.machine, f"d{slot}"
        if how == "read":  # let some of them end
            wait_until(lambda: disk.isr() or disk.status, "a turn of the loop")
        if self.rng.random() < 0.8:
            machine.qmp.execute("device_del", id=name)
        elif how == "system_reset":
            how = "ring and eject"  # nobody asks: only an eject takes it
        if how == "reset and eject":
            disk.status = Status.RESET
        if how == "repeat":
            machine.clock_step(1_000_000)
            machine.qmp.execute("device_del", id=name)
        if how == "system_reset":
            machine.qmp.execute("system_reset")
        else:
            eject(machine, slot)
        assert told(machine, 2) == deleted(name), how
        del self.plugged[slot]
        # Its names are free: the next one may have them at once.
        assert slot not in [at for _, at, _ in states(machine)]
        assert slot not in find(machine, 2)


@pytest.fixture
def machine(tmp_path: pathlib.Path):
    arguments = []
    for i in range(THREADS):
        arguments += ["-object", f"iothread,id=io{i}"]
    for i in range(NODES):
        arguments += ["-blockdev", f"driver=null-co,node-name=n{i},size=1M,read-zeroes=on,"
                      f"latency-ns={LATENCY_NS}"]
    with Machine(tmp_path, *arguments) as started:
        yield started
        started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


def test_disks_come_and_go_in_all_slots_with_requests_under_way(machine: Machine) -> None:
    seed = time.time_ns() & 0xFFFF
    print(f"seed {seed}")
    loop = Loop(machine, seed)
    cycles = 0
    while cycles < sized(60, 600):
        full = len(loop.plugged) == NODES
        if not loop.plugged or not full and loop.rng.random() < 0.5:
            loop.plug()
        else:
            loop.pull()
            cycles += 1
    assert not loop.unused, "every slot has had its turn"
    # What is left works, and nobody was told of anything else.
    for slot in sorted(loop.plugged):
        disk = loop.disk(slot)
        [queue] = disk.bring_up()
        assert disk.do(queue, BlkType.IN, room=SECTOR)[0] == BlkStatus.OK
        disk.reset()
        machine.config_write(slot, 4, 0, 2)  # the next one's BARs come to the same place
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]
