"""Disks come and go while the machine runs; the client is the guest's ACPI methods."""

from __future__ import annotations

import json
import pathlib
from typing import Iterator

import pytest
from hotplug import (ACPI_INDEX, ASKED, BUS, DOWN, EJECT, GPE_ENABLE, GPE_STATUS, HOTPLUG_EVENT,
                     PATIENCE_NS, REMOVABLE, SLOTS, UP, deleted, eject, plug, refused, states,
                     told)
from qtest import Machine
from support.vm import sized
from virtio import SECTOR, BlkStatus, BlkType, Ram, find_disks, scan, wait_until

@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    arguments = ["-object", "iothread,id=io0"]
    for i in range(4):
        arguments += ["-blockdev", f"driver=null-co,node-name=n{i},size=1M,read-zeroes=on"]
    with Machine(tmp_path, *arguments) as started:
        yield started
        started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


def test_the_registers_of_a_machine_where_nothing_happened(machine: Machine) -> None:
    assert [machine.inl(at) for at in (UP, DOWN, EJECT, REMOVABLE, BUS, ACPI_INDEX, ASKED)] == [
        0, 0, 0, 0xFFFF_FFFC, 0, 0, 0]
    for at in (UP, DOWN, REMOVABLE):
        machine.outl(at, 0xFFFF_FFFF)
    assert [machine.inl(at) for at in (UP, DOWN, REMOVABLE)] == [0, 0, 0xFFFF_FFFC]
    machine.outl(BUS, 1)  # there is no such bus
    assert [machine.inl(at) for at in (UP, DOWN, REMOVABLE, BUS)] == [0, 0, 0, 1]


def test_a_device_comes_and_the_guest_hears_of_it(machine: Machine) -> None:
    plug(machine, "vd0", "n0", addr="5")
    assert states(machine) == [("vd0", 5, "plugging")]
    assert machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    assert machine.inl(UP) == 1 << 5
    assert machine.inl(UP) == 0  # a load clears it
    assert states(machine) == []
    [disk] = find_disks(machine)
    [queue] = disk.bring_up()
    assert disk.do(queue, BlkType.IN, room=SECTOR)[0] == BlkStatus.OK


def test_a_device_goes_when_the_guest_lets_it(machine: Machine) -> None:
    plug(machine, "vd0", "n0", iothread="io0")
    [disk] = find_disks(machine)
    disk.bring_up()
    machine.inl(UP)
    machine.outw(GPE_STATUS, HOTPLUG_EVENT)
    machine.qmp.execute("device_del", id="vd0")
    assert machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    assert machine.inl(DOWN) == machine.inl(DOWN) == 1 << 2
    assert [machine.inl(ASKED), machine.inl(ASKED)] == [1 << 2, 0]  # to be worked on once
    assert states(machine) == [("vd0", 2, "pending")]
    assert "Node n0 is in use" in refused(machine, "blockdev-del", **{"node-name": "n0"})
    eject(machine, 2)
    assert told(machine, 2) == deleted("vd0")
    assert machine.inl(DOWN) == 0
    assert 2 not in scan(machine)
    assert states(machine) == []
    # All its names are free.
    assert "DeviceNotFound" in refused(machine, "device_del", id="vd0")
    machine.qmp.execute("object-del", id="io0")
    machine.qmp.execute("blockdev-del", **{"node-name": "n0"})


def test_what_is_wrong_is_named(machine: Machine) -> None:
    plug(machine, "vd0", "n0")
    for arguments, message in [
        ({}, "Parameter 'driver' is missing"),
        ({"driver": "no-such"}, "'no-such' is not a valid device model name"),
        ({"driver": "isa-serial", "id": "vd1"}, "Bus 'isa.0' does not support hotplugging"),
        ({"driver": "virtio-blk-pci", "id": "vd0", "drive": "n1"}, "Duplicate device ID 'vd0'"),
        ({"driver": "virtio-blk-pci", "id": "vd1"}, "drive property not set"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "x"}, "can't find value 'x'"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n0"}, "Permission conflict"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n1", "bus": "pci.9"},
         "Bus 'pci.9' not found"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n1", "addr": "2"},
         "slot 2 function 0 not available for virtio-blk-pci, in use by vd0"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n1", "addr": "20"},
         "Property 'virtio-blk-pci.addr' doesn't take value '20'"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n1", "iothread": "no"},
         "Device 'no' not found"),
        ({"driver": "virtio-blk-pci", "id": "vd1", "drive": "n1", "bogus": 1},
         "Property 'virtio-blk-pci.bogus' not found"),
        ({"driver": "virtio-blk-pci", "id": "1", "drive": "n1"}, "expects an identifier"),
    ]:
        assert message in refused(machine, "device_add", **arguments)
    for name in ("nope", "n0", "/machine/peripheral/nope", "/machine/peripheral/vd0/virtio-backend"):
        assert f"Device '{name}' not found" in refused(machine, "device_del", id=name)
    assert "Parameter 'id' is missing" in refused(machine, "device_del")
    plug(machine, "vd1", "n1")  # none of it has left anything behind


def test_the_bus_takes_thirty_devices(machine: Machine) -> None:
    for slot in SLOTS:
        machine.qmp.execute("blockdev-add", **{"driver": "null-co", "node-name": f"m{slot}"})
        plug(machine, f"d{slot}", f"m{slot}")
    assert machine.inl(UP) == 0xFFFF_FFFC
    assert ("PCI: no slot/function available for virtio-blk-pci, all in use or reserved" in
            refused(machine, "device_add", driver="virtio-blk-pci", id="more", drive="n0"))


def test_a_request_can_be_repeated_and_asks_again(machine: Machine) -> None:
    plug(machine, "vd0", "n0")
    machine.qmp.execute("device_del", id="vd0")
    assert ("Device vd0 is already in the process of unplug" in
            refused(machine, "device_del", id="vd0"))
    machine.clock_step(1_000_000)
    machine.outw(GPE_STATUS, HOTPLUG_EVENT)
    machine.qmp.execute("device_del", id="vd0")
    assert machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    eject(machine, 2)
    assert told(machine, 2) == deleted("vd0")


def test_a_guest_that_does_not_answer_is_told_of(machine: Machine) -> None:
    plug(machine, "vd0", "n0")
    machine.qmp.execute("device_del", id="vd0")
    machine.clock_step(PATIENCE_NS - 1)
    assert states(machine) == [("vd0", 2, "pending")]
    machine.clock_step(1)
    [(event, data)] = told(machine, 1)
    assert event == "DEVICE_UNPLUG_GUEST_ERROR"
    assert data["device"] == "vd0" and data["path"] == "/machine/peripheral/vd0"
    assert "within 30 s" in data["reason"]
    [row] = machine.qmp.execute("x-query-hotplug")
    assert (row["state"], row["since-ms"], row["reason"]) == ("timed-out", 0, data["reason"])
    assert machine.inl(DOWN) == 0  # it is not to be found later
    [disk] = find_disks(machine)
    [queue] = disk.bring_up()
    assert disk.do(queue, BlkType.IN, room=SECTOR)[0] == BlkStatus.OK
    machine.qmp.execute("device_del", id="vd0")
    eject(machine, 2)
    assert told(machine, 2) == deleted("vd0")


def test_a_guest_that_listens_later_hears_of_what_it_missed(machine: Machine) -> None:
    plug(machine, "vd0", "n0")
    machine.qmp.execute("device_del", id="vd0")
    machine.outw(GPE_STATUS, 0xFFFF)  # as a kernel does that starts
    assert not machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    machine.outw(GPE_ENABLE, HOTPLUG_EVENT)
    assert machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    machine.inl(UP)
    machine.inl(ASKED)
    # Its method is done and it listens again, with the request still being worked on.
    machine.outw(GPE_STATUS, 0xFFFF)
    machine.outw(GPE_ENABLE, 0)
    machine.outw(GPE_ENABLE, HOTPLUG_EVENT)
    assert not machine.inw(GPE_STATUS) & HOTPLUG_EVENT
    eject(machine, 2)
    told(machine, 2)
    machine.outw(GPE_STATUS, 0xFFFF)
    machine.outw(GPE_ENABLE, 0)
    machine.outw(GPE_ENABLE, HOTPLUG_EVENT)
    assert not machine.inw(GPE_STATUS) & HOTPLUG_EVENT  # nothing is left to tell


def test_a_reset_of_the_machine_answers_for_the_guest(machine: Machine) -> None:
    plug(machine, "vd0", "n0", addr="3")
    plug(machine, "vd1", "n1", addr="4")
    machine.qmp.execute("device_del", id="vd1")
    machine.qmp.execute("system_reset")
    assert told(machine, 2) == deleted("vd1")
    assert [slot for slot in scan(machine) if slot in SLOTS] == [3]
    assert [machine.inl(at) for at in (UP, DOWN)] == [0, 0]
    machine.clock_step(2 * PATIENCE_NS)
    assert states(machine) == []


def test_what_nobody_asked_for_goes_too_if_the_guest_ejects_it(machine: Machine) -> None:
    plug(machine, "vd0", "n0")
    plug(machine, "vd1", "n1")
    machine.outl(EJECT, 1 << 2 | 1 << 3 | 1 << 9)
    assert told(machine, 4) == deleted("vd0") + deleted("vd1")


def test_slots_that_stay_stay(machine: Machine) -> None:
    for slots in (1, 2, 0xFFFF_FFFF):
        machine.outl(EJECT, slots)
    machine.outl(BUS, 1)
    plug(machine, "vd0", "n0")
    machine.outl(EJECT, 1 << 2)
    machine.outl(BUS, 0)
    assert set(scan(machine)) == {0, 2}


def test_a_device_without_an_id_goes_by_its_path(machine: Machine) -> None:
    machine.qmp.execute("device_add", driver="virtio-blk-pci", drive="n0")
    path = "/machine/peripheral-anon/device[0]"
    machine.qmp.execute("device_del", id=path)
    eject(machine, 2)
    assert told(machine, 2) == [("DEVICE_DELETED", {"path": f"{path}/virtio-backend"}),
                                ("DEVICE_DELETED", {"path": path})]


def test_a_device_of_the_command_line_goes_as_well(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-drive", "if=none,id=d0,driver=null-co",
                 "-device", "virtio-blk-pci,id=vd0,drive=d0") as machine:
        assert machine.inl(UP) == 0
        machine.qmp.execute("device_del", id="vd0")
        eject(machine, 2)
        assert told(machine, 2) == deleted("vd0")
        assert machine.qmp.execute("query-block") == []  # the drive lived as long as its device
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def ask_twice(machine: Machine, name: str, slot: int) -> None:
    """A slow guest takes a request, and once more when it is repeated: its queue has two."""
    for _ in range(2):
        machine.qmp.execute("device_del", id=name)
        assert machine.inl(ASKED) == 1 << slot
        machine.clock_step(1_000_000)


def test_the_second_answer_of_a_slow_guest_does_not_hit_the_next_device(machine: Machine) -> None:
    plug(machine, "vd0", "n0", addr="5")
    ask_twice(machine, "vd0", 5)
    eject(machine, 5)
    assert told(machine, 2) == deleted("vd0")
    plug(machine, "vd1", "n1", addr="5")
    machine.inl(UP)
    eject(machine, 5)  # the second, from the queue
    assert 5 in scan(machine)
    eject(machine, 5)  # nobody asked for this one at all
    assert told(machine, 2) == deleted("vd1")


def test_a_late_answer_is_as_good_as_any_if_the_next_device_is_to_go(machine: Machine) -> None:
    plug(machine, "vd0", "n0", addr="5")
    ask_twice(machine, "vd0", 5)
    eject(machine, 5)
    assert told(machine, 2) == deleted("vd0")
    plug(machine, "vd1", "n1", addr="5")
    machine.qmp.execute("device_del", id="vd1")
    eject(machine, 5)
    assert told(machine, 2) == deleted("vd1")


def test_an_answer_is_not_waited_for_longer_than_any(machine: Machine) -> None:
    plug(machine, "vd0", "n0", addr="5")
    ask_twice(machine, "vd0", 5)
    eject(machine, 5)
    assert told(machine, 2) == deleted("vd0")
    plug(machine, "vd1", "n1", addr="5")
    machine.clock_step(PATIENCE_NS)
    eject(machine, 5)
    assert told(machine, 2) == deleted("vd1")


def test_a_slot_is_not_used_again_while_others_are_free(machine: Machine) -> None:
    slots = []
    for _ in range(len(SLOTS) + 2):
        plug(machine, "vd0", "n0")
        [(_, slot, _)] = states(machine)
        slots.append(slot)
        eject(machine, slot)
        assert told(machine, 2) == deleted("vd0")
    assert slots == [*SLOTS, *SLOTS[:2]]


def test_what_must_not_be_disturbed_forbids_it_by_name(machine: Machine) -> None:
    qmp = machine.qmp
    plug(machine, "vd0", "n0")
    plug(machine, "vd1", "n1")
    qmp.execute("device_del", id="vd1")
    qmp.execute("x-forbid-hotplug", **{"while": "migrating"})
    qmp.execute("x-forbid-hotplug", **{"while": "saving"})
    for command, arguments in (("device_add", {"driver": "virtio-blk-pci", "drive": "n2"}),
                               ("device_del", {"id": "vd0"}), ("device_del", {"id": "nope"})):
        assert f"{command} not allowed while migrating" in refused(machine, command, **arguments)
    eject(machine, 3)  # asked for before: what the guest lets go goes
    assert told(machine, 2) == deleted("vd1")
    qmp.execute("x-allow-hotplug", **{"while": "migrating"})
    assert "device_del not allowed while saving" in refused(machine, "device_del", id="vd0")
    assert "'migrating' does not forbid hot-plug" in refused(
        machine, "x-allow-hotplug", **{"while": "migrating"})
    qmp.execute("x-allow-hotplug", **{"while": "saving"})
    plug(machine, "vd2", "n2")
    qmp.execute("device_del", id="vd0")


def test_names_are_free_in_the_write_that_follows_the_event(machine: Machine) -> None:
    """The same id on the same node in the same slot, and the iothread anew: in one write each."""
    again = "".join(json.dumps({"execute": command, "arguments": arguments}) + "\n"
                    for command, arguments in [
                        ("object-del", {"id": "io0"}),
                        ("blockdev-del", {"node-name": "n0"}),
                        ("blockdev-add", {"driver": "null-co", "node-name": "n0"}),
                        ("object-add", {"qom-type": "iothread", "id": "io0"}),
                        ("device_add", {"driver": "virtio-blk-pci", "id": "vd0", "drive": "n0",
                                        "iothread": "io0", "addr": "5"}),
                        ("device_del", {"id": "vd0"})])
    plug(machine, "vd0", "n0", addr="5", iothread="io0")
    for _ in range(sized(10, 200)):
        [disk] = find_disks(machine, Ram(machine))
        [queue] = disk.bring_up()
        for _ in range(8):
            queue.offer(disk.prepare(BlkType.IN, room=SECTOR).buffers())
        queue.ring()
        eject(machine, 5)
        assert told(machine, 2) == deleted("vd0")
        machine.qmp.line.send(again)
        for _ in range(6):
            assert json.loads(machine.qmp.line.read_line()) == {"return": {}}


def test_a_guest_that_never_started_lets_a_device_go(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-S", "-blockdev", "driver=null-co,node-name=n0") as machine:
        assert machine.qmp.execute("query-status")["status"] == "prelaunch"
        plug(machine, "vd0", "n0")
        assert machine.inl(UP) == 1 << 2
        machine.qmp.execute("device_del", id="vd0")
        machine.clock_step(1_000_000)
        machine.qmp.execute("device_del", id="vd0")
        eject(machine, 2)
        assert told(machine, 2) == deleted("vd0")
        plug(machine, "vd0", "n0")
        machine.qmp.execute("device_del", id="vd0")
        machine.qmp.execute("system_reset")
        assert told(machine, 2) == deleted("vd0")
        machine.qmp.execute("cont")
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def test_a_disk_leaves_while_main_is_inside_the_drain_of_a_mirror(machine: Machine) -> None:
    qmp = machine.qmp
    for name in ("slow", "target"):
        qmp.execute("blockdev-add", **{"driver": "null-co", "node-name": name, "size": 1 << 20,
                                       "latency-ns": 300_000_000 if name == "slow" else 0})
    plug(machine, "vd0", "slow", iothread="io0")
    plug(machine, "vd1", "n1")
    disk, _ = find_disks(machine)
    [queue] = disk.bring_up()
    heads = [queue.offer(disk.prepare(BlkType.IN, room=SECTOR).buffers()) for _ in range(8)]
    queue.ring()
    eject(machine, 2)
    # Its drain waits for the requests that the disk waits for.
    qmp.execute("blockdev-mirror", **{"job-id": "m0", "device": "n1", "target": "target",
                                      "sync": "full"})
    assert told(machine, 2) == deleted("vd0")
    assert sorted(queue.wait()[0] for _ in heads) == sorted(heads)
    qmp.execute("object-del", id="io0")
    qmp.execute("blockdev-del", **{"node-name": "slow"})
    wait_until(lambda: qmp.execute("query-jobs")[0]["status"] == "ready", "the mirror")


def test_a_job_goes_on_when_the_disk_that_it_copies_is_pulled(machine: Machine) -> None:
    qmp = machine.qmp
    qmp.execute("blockdev-add", **{"driver": "null-co", "node-name": "target", "size": 1 << 20})
    plug(machine, "vd0", "n0", iothread="io0")
    qmp.execute("blockdev-mirror", **{"job-id": "m0", "device": "n0", "target": "target",
                                      "sync": "full"})
    eject(machine, 2)
    assert told(machine, 2) == deleted("vd0")
    assert "Node n0 is in use" in refused(machine, "blockdev-del", **{"node-name": "n0"})
    qmp.execute("block-job-cancel", device="m0")
    wait_until(lambda: qmp.execute("query-jobs") == [], "the end of the job")
    qmp.execute("blockdev-del", **{"node-name": "n0"})
    qmp.execute("object-del", id="io0")
