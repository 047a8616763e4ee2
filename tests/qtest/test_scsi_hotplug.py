"""SCSI units and their adapters come and go while the machine runs."""

from __future__ import annotations

import json
import pathlib
import random
import time
from typing import Any, Iterator

import pytest
from hotplug import TOLD, UP, eject, refused, states, told
from qtest import Machine
from scsi import (BLOCK, LUNS_CHANGED, POWER_ON, REMOVED, RESCAN, TRANSPORT_RESET, Answer, Response,
                  Scsi, find_adapters)
from support import vm
from virtio import Ram, wait_until

NODES = 6
TAG = "held"


def unit_deleted(name: str) -> tuple[str, dict[str, str]]:
    return "DEVICE_DELETED", {"device": name, "path": f"/machine/peripheral/{name}"}


def adapter_deleted(name: str) -> list[tuple[str, dict[str, str]]]:
    path = f"/machine/peripheral/{name}"
    return [("DEVICE_DELETED", {"path": f"{path}/virtio-backend"}), unit_deleted(name)]


def plug(machine: Machine, name: str, node: str, **more: Any) -> None:
    machine.qmp.execute("device_add", driver="scsi-hd", id=name, drive=node, **more)


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """An adapter `scsi0` of two request queues, and nodes: n0 and on are free, held keeps each
    read until it is let go."""
    arguments = ["-object", "iothread,id=io0",
                 "-device", "virtio-scsi-pci,id=scsi0,num_queues=2,iothread=io0"]
    for i in range(NODES):
        arguments += ["-blockdev", f"driver=null-co,node-name=n{i},size=1M,read-zeroes=on"]
    arguments += ["-blockdev", "driver=null-co,node-name=below,size=1M,read-zeroes=on",
                  "-blockdev", "driver=blkdebug,node-name=held,image=below,"
                  f"inject-error.0.event=read_aio,inject-error.0.suspend={TAG}"]
    with Machine(tmp_path, *arguments) as started:
        yield started
        started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


def adapter_of(machine: Machine) -> Scsi:
    [found] = find_adapters(machine)
    return found.bring_up_adapter(requests=2)


def held(machine: Machine) -> int:
    return machine.qmp.execute("x-blkdebug-suspended",
                               **{"node-name": "held", "tag": TAG})["requests"]


def let_go(machine: Machine) -> None:
    machine.qmp.execute("x-blkdebug-resume", **{"node-name": "held", "tag": TAG})


# --- Units --------------------------------------------------------------------------------------


def test_a_unit_comes_and_the_guest_hears_of_it(machine: Machine) -> None:
    adapter = adapter_of(machine)
    assert adapter.do(0, 0, bytes(6)).response == Response.BAD_TARGET
    plug(machine, "lun0", "n0")
    assert adapter.event() == (TRANSPORT_RESET, 0, 0, RESCAN)
    assert adapter.settle(0) == [POWER_ON]
    assert adapter.read_blocks(0, 0, queue=1) == bytes(BLOCK)
    plug(machine, "lun5", "n1", **{"scsi-id": 0, "lun": 5})
    assert adapter.event() == (TRANSPORT_RESET, 0, 5, RESCAN)
    assert adapter.luns(0) == [0, 5]
    assert states(machine) == [] and machine.inl(UP) == 0  # of no concern to the slots


def test_a_unit_goes_at_once_and_the_guest_hears_of_it(machine: Machine) -> None:
    adapter = adapter_of(machine)
    for lun in (0, 1):
        plug(machine, f"lun{lun}", f"n{lun}", **{"scsi-id": 3, "lun": lun})
        adapter.event()
        adapter.settle(3, lun)
    adapter.settle(3)
    assert adapter.luns(3) == [0, 1]  # who has not asked is not told of a change
    assert "in use" in refused(machine, "blockdev-del", **{"node-name": "n1"})
    machine.qmp.execute("device_del", id="lun1")
    assert told(machine, 1) == [unit_deleted("lun1")]
    # All its names are free.
    machine.qmp.execute("blockdev-del", **{"node-name": "n1"})
    assert "Device 'lun1' not found" in refused(machine, "device_del", id="lun1")
    assert adapter.event() == (TRANSPORT_RESET, 3, 1, REMOVED)
    assert adapter.settle(3) == [LUNS_CHANGED]
    assert adapter.luns(3) == [0]
    assert adapter.inquiry(3, 1)[0] == 0x7F
    machine.qmp.execute("device_del", id="/machine/peripheral/lun0")
    assert told(machine, 1) == [unit_deleted("lun0")]
    assert adapter.event() == (TRANSPORT_RESET, 3, 0, REMOVED)
    assert adapter.do(3, 0, bytes(6)).response == Response.BAD_TARGET
    assert adapter.no_event()


def test_names_are_free_when_the_event_is_out(machine: Machine) -> None:
    """The answer, the event, and then the same id on the same node in the same place, in one go."""
    adapter = adapter_of(machine)
    for _ in range(vm.sized(20, 200)):
        plug(machine, "lun0", "n0")
        machine.qmp.execute("device_del", id="lun0")
        assert told(machine, 1) == [unit_deleted("lun0")]
        assert adapter.event()[3] == RESCAN
        assert adapter.event()[3] == REMOVED
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]


def test_the_answer_comes_before_the_event_and_a_repeat_is_refused(machine: Machine) -> None:
    plug(machine, "lun0", "n0")
    command = json.dumps({"execute": "device_del", "arguments": {"id": "lun0"}})
    machine.qmp.line.send(command + "\n" + command + "\n")
    first, second, third = (json.loads(machine.qmp.line.read_line()) for _ in range(3))
    assert first == {"return": {}}
    answers = [m for m in (second, third) if "error" in m]
    events = [m for m in (second, third) if "event" in m]
    assert len(answers) == len(events) == 1
    # Whichever is first: it is on its way, or it has gone.
    expected = ("Device lun0 is already in the process of unplug" if second in answers else
                "Device 'lun0' not found")
    assert answers[0]["error"]["desc"] == expected
    assert events[0]["data"] == {"device": "lun0", "path": "/machine/peripheral/lun0"}


def test_what_a_unit_has_under_way_is_cancelled(machine: Machine) -> None:
    """Requests that wait for the machine to go on keep no unit."""
    machine.qmp.execute("blockdev-add", **{
        "driver": "blkdebug", "node-name": "bad", "image": "n0",
        "inject-error": [{"event": "write_aio", "errno": 28}]})
    adapter = adapter_of(machine)
    plug(machine, "lun0", "bad", werror="stop")
    adapter.event()
    adapter.settle(0)
    queue = adapter.requests[0]
    pending = adapter.begin(queue, 0, 0, adapter.rw10(0x2A, 0, 1), bytes(BLOCK))
    machine.qmp.wait_event("STOP")
    machine.qmp.execute("device_del", id="lun0")
    assert told(machine, 1) == [unit_deleted("lun0")]
    machine.qmp.execute("cont")
    assert adapter.finish(queue, pending).response == Response.ABORTED
    machine.qmp.execute("blockdev-del", **{"node-name": "bad"})


def test_a_unit_stays_if_the_host_does_not_answer(machine: Machine) -> None:
    adapter = adapter_of(machine)
    plug(machine, "lun0", "held")
    plug(machine, "lun1", "n1", **{"scsi-id": 0, "lun": 1})
    for lun in (0, 1):
        adapter.event()
        adapter.settle(0, lun)
    queue = adapter.requests[0]
    pending = adapter.begin(queue, 0, 0, adapter.rw10(0x28, 0, 1), room=BLOCK)
    wait_until(lambda: held(machine) == 1, "the read that is held")
    machine.qmp.execute("device_del", id="lun0")
    [(event, data)] = told(machine, 1)
    assert event == "DEVICE_UNPLUG_GUEST_ERROR"
    assert (data["device"], data["path"]) == ("lun0", "/machine/peripheral/lun0")
    assert "on node 'held', a read of 512 bytes" in data["reason"], data
    # It is where it was, and so is its neighbour.
    assert adapter.luns(0) == [0, 1]
    assert adapter.read_blocks(0, 0, lun=1, queue=1) == bytes(BLOCK)
    let_go(machine)
    answer = adapter.finish(queue, pending)
    assert answer.good or answer.response == Response.ABORTED, answer
    assert adapter.do(0, 0, bytes(6), queue=1).response == Response.OK
    machine.qmp.execute("device_del", id="lun0")
    assert told(machine, 1) == [unit_deleted("lun0")]
    machine.qmp.execute("blockdev-del", **{"node-name": "held"})


# --- Adapters -----------------------------------------------------------------------------------


def test_an_adapter_takes_its_units_along(machine: Machine) -> None:
    adapter = adapter_of(machine)
    for i in range(3):
        plug(machine, f"lun{i}", f"n{i}", **{"scsi-id": i % 2, "lun": i})
        adapter.event()
    machine.qmp.execute("device_del", id="scsi0")
    assert states(machine) == [("scsi0", 2, "pending")]
    eject(machine, 2)
    assert told(machine, 5) == [unit_deleted(f"lun{i}") for i in (2, 1, 0)] + adapter_deleted(
        "scsi0")
    # All names are free, the thread too.
    machine.qmp.execute("object-del", id="io0")
    machine.qmp.execute("device_add", driver="virtio-scsi-pci", id="scsi0")
    for i in range(3):
        plug(machine, f"lun{i}", f"n{i}", bus="scsi0.0")
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]


def test_an_adapter_goes_with_commands_under_way_on_every_queue(machine: Machine) -> None:
    for _ in range(vm.sized(3, 30)):
        plug(machine, "lun0", "n0")
        plug(machine, "lun1", "n1")
        ram = Ram(machine)
        [adapter] = find_adapters(machine, ram)
        adapter.bring_up_adapter(requests=2)
        for queue in adapter.requests:
            for target in (0, 1):
                for _ in range(4):
                    adapter.begin(queue, target, 0, adapter.rw10(0x28, 0, 8), room=8 * BLOCK)
        machine.qmp.execute("device_del", id="scsi0")
        eject(machine, adapter.pci.slot)
        assert told(machine, 4) == [unit_deleted("lun1"), unit_deleted("lun0"),
                                    *adapter_deleted("scsi0")]
        machine.qmp.execute("device_add", driver="virtio-scsi-pci", id="scsi0", num_queues=2,
                            iothread="io0")
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]


def test_an_adapter_stays_with_its_units_if_a_command_does_not_end(machine: Machine) -> None:
    adapter = adapter_of(machine)
    plug(machine, "lun0", "held")
    plug(machine, "lun1", "n1")
    for target in (0, 1):
        adapter.event()
        adapter.settle(target)
    queue = adapter.requests[0]
    pending = adapter.begin(queue, 0, 0, adapter.rw10(0x28, 0, 1), room=BLOCK)
    wait_until(lambda: held(machine) == 1, "the read that is held")
    machine.qmp.execute("device_del", id="scsi0")
    eject(machine, 2)
    wait_until(lambda: "has not ended" in machine.qmp.execute("x-query-hotplug")[0].get(
        "reason", ""), "the eject")
    machine.clock_step(30_000_000_000)
    [(event, data)] = told(machine, 1)
    assert (event, data["device"]) == ("DEVICE_UNPLUG_GUEST_ERROR", "scsi0")
    assert "on node 'held', a read of 512 bytes" in data["reason"], data
    assert adapter.read_blocks(1, 0, queue=1) == bytes(BLOCK)
    let_go(machine)
    assert adapter.finish(queue, pending).good
    machine.qmp.execute("device_del", id="scsi0")
    eject(machine, 2)
    assert told(machine, 4) == [unit_deleted("lun1"), unit_deleted("lun0"),
                                *adapter_deleted("scsi0")]


def test_a_unit_that_is_asked_for_with_its_adapter_is_told_of_once(machine: Machine) -> None:
    plug(machine, "lun0", "n0")
    line = machine.qmp.line
    line.send(json.dumps({"execute": "device_del", "arguments": {"id": "scsi0"}}) + "\n" +
              json.dumps({"execute": "device_del", "arguments": {"id": "lun0"}}) + "\n")
    answers = 0
    while answers < 2:
        message = json.loads(line.read_line())
        answers += "return" in message
        if "event" in message:
            machine.qmp.events.append(message)
    eject(machine, 2)
    assert told(machine, 3) == [unit_deleted("lun0"), *adapter_deleted("scsi0")]
    machine.qmp.execute("query-status")
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]


def test_a_reset_of_the_machine_lets_an_adapter_go(machine: Machine) -> None:
    plug(machine, "lun0", "n0")
    machine.qmp.execute("device_del", id="scsi0")
    machine.qmp.execute("system_reset")
    assert told(machine, 3) == [unit_deleted("lun0"), *adapter_deleted("scsi0")]


# --- What is wrong ------------------------------------------------------------------------------


def test_what_is_wrong_is_named(machine: Machine) -> None:
    plug(machine, "lun0", "n0")
    hd = {"driver": "scsi-hd", "id": "x", "drive": "n1"}
    for arguments, message in [
            ({"driver": "scsi-hd", "id": "x"}, "drive property not set"),
            ({**hd, "drive": "nope"}, "Property 'scsi-hd.drive' can't find value 'nope'"),
            ({**hd, "bus": "nope"}, "Bus 'nope' not found"),
            ({**hd, "bus": "pci.0"}, "Device 'scsi-hd' can't go on PCI bus"),
            ({**hd, "channel": 1}, "bad scsi channel id: 1"),
            ({**hd, "scsi-id": 256}, "bad scsi device id: 256"),
            ({**hd, "lun": 16384}, "bad scsi device lun: 16384"),
            ({**hd, "scsi-id": 0, "lun": 0}, "lun already used by 'lun0'"),
            ({**hd, "id": "lun0"}, "Duplicate device ID 'lun0'"),
            ({**hd, "id": "scsi0"}, "Duplicate device ID 'scsi0'"),
            ({**hd, "drive": "n0"}, "Permission conflict on node 'n0'"),
            ({**hd, "bogus": 1}, "Property 'scsi-hd.bogus' not found"),
            ({**hd, "addr": "5"}, "Property 'scsi-hd.addr' not found"),
            ({**hd, "vendor": "too long for it"}, "Property 'vendor' is longer than 8 bytes"),
            ({**hd, "logical_block_size": 3}, "doesn't take value 3"),
            ({**hd, "discard_granularity": 100}, "discard_granularity must be a multiple"),
            ({"driver": "virtio-blk-pci", "drive": "n1", "bus": "scsi0.0"},
             "Device 'virtio-blk-pci' can't go on SCSI bus"),
            ({"driver": "scsi-cd", "drive": "nope"},
             "Property 'scsi-cd.drive' can't find value 'nope'")]:
        assert message in refused(machine, "device_add", **arguments), arguments
    plug(machine, "lun1", "n1", bus="scsi0.0")  # none of it has left anything behind
    machine.qmp.execute("x-forbid-hotplug", **{"while": "migrating"})
    assert "device_del not allowed while migrating" in refused(machine, "device_del", id="lun1")


def test_without_an_adapter_there_is_no_bus(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-blockdev", "driver=null-co,node-name=n0") as machine:
        assert ("No 'SCSI' bus found for device 'scsi-hd'" in
                refused(machine, "device_add", driver="scsi-hd", drive="n0"))


def test_units_fill_the_first_bus_with_room(machine: Machine) -> None:
    machine.qmp.execute("device_add", driver="virtio-scsi-pci", id="scsi1")
    for target in range(256):
        machine.qmp.execute("device_add", driver="scsi-cd", id=f"cd{target}")
    assert "no free target" in refused(machine, "device_add", driver="scsi-cd", bus="scsi0.0")
    machine.qmp.execute("device_add", driver="scsi-cd", id="next")
    machine.qmp.execute("device_add", driver="scsi-cd", id="more", bus="scsi0.0",
                        **{"scsi-id": 255})
    [first, second] = find_adapters(machine)
    first.bring_up_adapter(requests=2)
    second.bring_up_adapter()
    assert second.inquiry(0)[0] == 0x05
    assert first.luns(255) == [0, 1]


# --- All at once --------------------------------------------------------------------------------


def test_units_and_adapters_come_and_go_with_commands_under_way(machine: Machine) -> None:
    seed = time.time_ns() & 0xFFFF
    print(f"seed {seed}")
    rng = random.Random(seed)
    units: dict[str, int] = {}  # node -> target
    ram = Ram(machine)

    def fresh_adapter() -> Scsi:
        [found] = find_adapters(machine, ram)
        return found.bring_up_adapter(requests=2, events=32)

    adapter = fresh_adapter()
    for cycle in range(vm.sized(60, 600)):
        free = [f"n{i}" for i in range(NODES) if f"n{i}" not in units]
        if free and (not units or rng.random() < 0.55):
            node = rng.choice(free)
            target = rng.choice([t for t in range(8) if t not in units.values()])
            plug(machine, f"u-{node}", node, **{"scsi-id": target})
            units[node] = target
            continue
        begun = [(queue, adapter.begin(queue, target, 0, adapter.rw10(0x28, 0, 4), room=4 * BLOCK))
                 for queue in adapter.requests for target in units.values() for _ in range(2)]
        if rng.random() < 0.15:
            machine.qmp.execute("device_del", id="scsi0")
            eject(machine, adapter.pci.slot)
            gone = told(machine, len(units) + 2)
            assert gone[-2:] == adapter_deleted("scsi0"), (seed, cycle)
            assert (sorted(event[1]["device"] for event in gone[:-2]) ==
                    sorted(f"u-{node}" for node in units)), (seed, cycle)
            units.clear()
            machine.qmp.execute("device_add", driver="virtio-scsi-pci", id="scsi0", num_queues=2,
                                iothread="io0")
            adapter = fresh_adapter()
            continue
        node = rng.choice(sorted(units))
        machine.qmp.execute("device_del", id=f"u-{node}")
        assert told(machine, 1) == [unit_deleted(f"u-{node}")], (seed, cycle)
        del units[node]
        answers: list[Answer] = []
        for queue in adapter.requests:
            heads = {pending.head: pending for on, pending in begun if on is queue}
            while heads:
                answers.append(adapter.answer_of(heads.pop(queue.wait()[0])))
        assert all(answer.response in (Response.OK, Response.ABORTED, Response.BAD_TARGET)
                   for answer in answers), (seed, cycle)
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]
