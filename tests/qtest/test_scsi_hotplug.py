"""SCSI units and their adapters come and go while the machine runs."""

from __future__ import annotations

import json
import pathlib
import random
import time
from typing import Any, Iterator

import pytest
from hotplug import PATIENCE_NS, TOLD, UP, eject, refused, states, told
from qtest import Machine
from scsi import (BLOCK, LUN_NOT_SUPPORTED, LUNS_CHANGED, POWER_ON, REMOVED, RESCAN, TRANSPORT_RESET,
                  Answer, Pending, Response, Scsi, Task, find_adapters)
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


def in_one_go(machine: Machine, *commands: tuple[str, dict[str, Any]]) -> None:
    """Sends them together. The events between their answers are kept."""
    machine.qmp.line.send("".join(json.dumps({"execute": name, "arguments": arguments}) + "\n"
                                  for name, arguments in commands))
    answers = 0
    while answers < len(commands):
        message = json.loads(machine.qmp.line.read_line())
        assert "error" not in message, message
        answers += "return" in message
        if "event" in message:
            machine.qmp.events.append(message)


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


# --- Units that the host does not answer for -----------------------------------------------------


class Stuck:
    """Unit lun0, whose read at block 0 is held, and lun1 on one target, lun2 on the next; device_del
    of lun0 has been answered."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.adapter = adapter = adapter_of(machine)
        plug(machine, "lun0", "held")
        plug(machine, "lun1", "n1", **{"scsi-id": 0, "lun": 1})
        for lun in (0, 1):
            adapter.event()
            adapter.settle(0, lun)
        plug(machine, "lun2", "n2")
        adapter.event()
        adapter.settle(1)
        assert adapter.luns(0) == [0, 1]
        self.pending = self.begin_read()
        machine.qmp.execute("device_del", id="lun0")

    def begin_read(self) -> Pending:
        pending = self.adapter.begin(self.adapter.requests[0], 0, 0,
                                     self.adapter.rw10(0x28, 0, 1), room=BLOCK)
        wait_until(lambda: held(self.machine) == 1, "the read that is held")
        return pending

    def finish_read(self) -> Answer:
        let_go(self.machine)
        return self.adapter.finish(self.adapter.requests[0], self.pending)

    def neighbour_works(self) -> None:
        self.adapter.settle(0, 1)
        self.adapter.write_blocks(0, 7, bytes(BLOCK), lun=1, queue=1)
        assert self.adapter.read_blocks(0, 7, lun=1, queue=1) == bytes(BLOCK)

    def fails(self) -> str:
        """Why lun0 stays, as the event says and x-query-hotplug goes on saying."""
        [(event, data)] = told(self.machine, 1)
        assert event == "DEVICE_UNPLUG_GUEST_ERROR"
        assert (data["device"], data["path"]) == ("lun0", "/machine/peripheral/lun0")
        [row] = self.machine.qmp.execute("x-query-hotplug")
        assert (row["id"], row["state"], row["reason"]) == ("lun0", "timed-out", data["reason"])
        assert " on node 'held', a read of 512 bytes at 0, is " in data["reason"]
        return data["reason"]


@pytest.fixture
def stuck(machine: Machine) -> Stuck:
    return Stuck(machine)


def test_nobody_waits_for_a_unit_that_is_stuck(stuck: Stuck) -> None:
    """Nothing here may depend on the read that is held, so time has no part in it: the clock of the
    machine stands still, and the read is let go at the end."""
    machine, adapter = stuck.machine, stuck.adapter
    assert held(machine) == 1
    [row] = machine.qmp.execute("x-query-hotplug")
    assert "slot" not in row
    assert (row["id"], row["state"], row["reason"]) == (
        "lun0", "pending", "what it has under way has not ended")
    stuck.neighbour_works()
    assert "Device lun0 is already in the process of unplug" in refused(
        machine, "device_del", id="lun0")
    assert "Duplicate device ID 'lun0'" in refused(
        machine, "device_add", driver="scsi-hd", id="lun0", drive="n2")
    assert "lun already used by 'lun0'" in refused(
        machine, "device_add", driver="scsi-hd", id="x", drive="n2", **{"scsi-id": 0, "lun": 0})
    assert "in use" in refused(machine, "blockdev-del", **{"node-name": "held"})
    # Another goes meanwhile.
    machine.qmp.execute("device_del", id="lun2")
    assert told(machine, 1) == [unit_deleted("lun2")]
    assert adapter.event() == (TRANSPORT_RESET, 1, 0, REMOVED)
    # The guest finds nothing at its place, and has not been told that it went: it may still stay.
    refusal = adapter.do(0, 0, bytes(6), queue=1)
    assert refusal.sense == LUN_NOT_SUPPORTED
    assert adapter.inquiry(0, 0, queue=1)[0] == 0x7F
    assert adapter.manage(Task.UNIT_RESET, 0, 0) == Response.INCORRECT_LUN
    assert adapter.no_event()
    assert held(machine) == 1 and states(machine) == [("lun0", None, "pending")]
    # What was under way is answered before the unit goes.
    assert stuck.finish_read().good
    assert told(machine, 1) == [unit_deleted("lun0")]
    assert adapter.event() == (TRANSPORT_RESET, 0, 0, REMOVED)
    assert adapter.settle(0, 1) == [LUNS_CHANGED]
    assert adapter.luns(0) == [1]
    assert states(machine) == []
    machine.qmp.execute("blockdev-del", **{"node-name": "held"})


def test_a_unit_stays_if_the_host_does_not_answer(stuck: Stuck) -> None:
    machine, adapter = stuck.machine, stuck.adapter
    assert adapter.luns(0) == [1]
    machine.clock_step(PATIENCE_NS - 1)
    assert states(machine) == [("lun0", None, "pending")]
    machine.clock_step(1)
    assert stuck.fails().startswith("what it has under way did not end within 30 s: request ")
    # It is where it was, and who has looked meanwhile hears that it is back.
    assert adapter.event() == (TRANSPORT_RESET, 0, 0, RESCAN)
    assert adapter.settle(0, 1) == [LUNS_CHANGED]
    assert adapter.luns(0) == [0, 1]
    stuck.neighbour_works()
    assert stuck.finish_read().good
    adapter.settle(0)
    stuck.pending = stuck.begin_read()
    # It may be asked for again, with the same end, and then with another.
    machine.qmp.execute("device_del", id="lun0")
    machine.clock_step(PATIENCE_NS)
    stuck.fails()
    adapter.event()
    machine.qmp.execute("device_del", id="lun0")
    assert stuck.finish_read().good
    assert told(machine, 1) == [unit_deleted("lun0")]
    assert adapter.event() == (TRANSPORT_RESET, 0, 0, REMOVED)
    machine.qmp.execute("blockdev-del", **{"node-name": "held"})


def test_a_unit_that_is_stuck_over_a_reset_stays(stuck: Stuck) -> None:
    machine = stuck.machine
    machine.qmp.execute("system_reset")  # waits for 5 s, as any reset with such a disk
    assert stuck.fails().startswith("Requests of 'lun0' did not end within 1 s: request ")
    let_go(machine)
    adapter = adapter_of(machine)  # the guest that comes finds it
    assert adapter.settle(0) and adapter.settle(0, 1)
    assert adapter.luns(0) == [0, 1]
    machine.qmp.execute("device_del", id="lun0")
    assert told(machine, 1) == [unit_deleted("lun0")]


def test_a_unit_goes_with_a_reset_that_ends_its_command(machine: Machine) -> None:
    stuck = Stuck(machine)
    in_one_go(machine, ("x-blkdebug-resume", {"node-name": "held", "tag": TAG}),
              ("system_reset", {}))
    assert told(machine, 1) == [unit_deleted("lun0")]
    assert states(machine) == []
    adapter = adapter_of(machine)
    assert adapter.settle(0, 1) and adapter.luns(0) == [1]


def test_an_adapter_goes_while_a_unit_of_it_is_stuck(stuck: Stuck) -> None:
    machine = stuck.machine
    machine.qmp.execute("device_del", id="scsi0")
    eject(machine, 2)
    wait_until(lambda: states(machine) == [("scsi0", 2, "pending"), ("lun0", None, "pending")] and
               "reason" in machine.qmp.execute("x-query-hotplug")[0], "the eject")
    let_go(machine)
    gone = told(machine, 5)
    # The unit goes by itself, or with its adapter: whichever main finds idle first.
    assert sorted(str(event) for event in gone[:-2]) == sorted(
        str(unit_deleted(f"lun{lun}")) for lun in range(3))
    assert gone[-2:] == adapter_deleted("scsi0")
    assert states(machine) == []
    assert not [e for e in machine.qmp.events if e["event"] in TOLD]
    machine.qmp.execute("object-del", id="io0")


def test_a_machine_ends_while_a_unit_leaves(stuck: Stuck) -> None:
    let_go(stuck.machine)  # the fixture ends the machine, whether the unit has gone or not


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
    in_one_go(machine, ("device_del", {"id": "scsi0"}), ("device_del", {"id": "lun0"}))
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
