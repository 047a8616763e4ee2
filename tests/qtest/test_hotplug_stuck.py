"""Disks are taken out while they have requests under way: nobody waits for those, and a disk that does
not answer stays, with an event that names the request."""

from __future__ import annotations

import pathlib
from typing import Any, Iterator

import pytest
from hotplug import PATIENCE_NS, deleted, eject, refused, states, told
from qtest import Machine
from virtio import SECTOR, Blk, BlkRequest, BlkStatus, BlkType, Queue, Status, find_disks, wait_until

TAG = "held"
DISK = 1 << 20


class Setup:
    """A machine with disk `a` in slot 2, two queues, which holds reads and has no space for the write
    of sector 1; and disk `b` in slot 3 that works."""

    def __init__(self, directory: pathlib.Path, loop: str) -> None:
        arguments = [
            "-blockdev", f"driver=blkdebug,node-name=a0,image.driver=null-co,image.size={DISK},"
            f"image.read-zeroes=on,inject-error.0.event=read_aio,inject-error.0.suspend={TAG},"
            "inject-error.1.event=write_aio,inject-error.1.sector=1,inject-error.1.errno=28",
            "-blockdev", f"driver=null-co,node-name=b0,size={DISK},read-zeroes=on",
            "-object", "iothread,id=io-a", "-object", "iothread,id=io-b"]
        for name in "ab":
            thread = f",iothread=io-{name}" if loop == "iothread" else ""
            arguments += ["-device", f"virtio-blk-pci,id={name},drive={name}0,num-queues=2,"
                          f"werror=stop{thread}"]
        self.machine = Machine(directory, *arguments)
        self.a, self.b = find_disks(self.machine)
        self.queues_a, self.queues_b = self.a.bring_up(queues=2), self.b.bring_up(queues=2)

    def held(self) -> int:
        answer = self.machine.qmp.execute("x-blkdebug-suspended", **{"node-name": "a0", "tag": TAG})
        return answer["requests"]

    def hold(self, queue: Queue, count: int = 1) -> list[tuple[int, BlkRequest]]:
        before, requests = self.held(), []
        for _ in range(count):
            request = self.a.prepare(BlkType.IN, 8, room=SECTOR)
            requests.append((queue.offer(request.buffers()), request))
        queue.ring()
        wait_until(lambda: self.held() == before + count, "the requests that are held")
        return requests

    def let_go(self, count: int) -> None:
        answer = self.machine.qmp.execute("x-blkdebug-resume", **{"node-name": "a0", "tag": TAG})
        assert answer == {"requests": count}

    def take(self, queue: Queue, requests: list[tuple[int, BlkRequest]]) -> None:
        for head, request in requests:
            assert queue.wait() == (head, SECTOR + 1)
            assert self.a.status_of(request) == BlkStatus.OK

    def check_unused(self) -> None:
        """What disk `a` had is free."""
        qmp = self.machine.qmp
        qmp.execute("blockdev-del", **{"node-name": "a0"})
        qmp.execute("object-del", id="io-a")


@pytest.fixture(params=["main", "iothread"])
def setup(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Setup]:
    made = Setup(tmp_path, request.param)
    with made.machine:
        yield made
        made.machine.qmp.execute("quit")
        assert made.machine.process.wait() == 0, made.machine.process.stderr


def works(disk: Blk, queue: Queue) -> None:
    assert disk.do(queue, BlkType.OUT, 8, bytes(SECTOR))[0] == BlkStatus.OK


def failed(machine: Machine) -> dict[str, Any]:
    [(event, data)] = told(machine, 1)
    assert event == "DEVICE_UNPLUG_GUEST_ERROR"
    return data


def test_a_disk_goes_when_its_last_request_has_ended(setup: Setup) -> None:
    machine = setup.machine
    requests = [setup.hold(queue, 3) for queue in setup.queues_a]
    machine.qmp.execute("device_del", id="a")
    eject(machine, 2)
    [row] = machine.qmp.execute("x-query-hotplug")
    assert (row["id"], row["state"]) == ("a", "pending")
    assert row["reason"] == "the guest has let it go, and what it has under way has not ended"
    # Nothing else waits for it.
    works(setup.b, setup.queues_b[0])
    assert "Device a is already in the process of unplug" in refused(
        machine, "device_del", id="a")
    eject(machine, 2)  # says nothing new
    setup.let_go(6)
    assert told(machine, 2) == deleted("a")
    # The requests were answered before the disk went.
    for queue, mine in zip(setup.queues_a, requests):
        setup.take(queue, mine)
    assert states(machine) == []
    setup.check_unused()


def test_a_disk_that_does_not_answer_stays_and_the_event_names_the_request(setup: Setup) -> None:
    machine = setup.machine
    [first, second] = setup.queues_a
    machine.qmp.execute("device_del", id="a")
    requests = setup.hold(first, 2)
    machine.clock_step(PATIENCE_NS // 2)
    eject(machine, 2)
    wait_until(lambda: "reason" in machine.qmp.execute("x-query-hotplug")[0], "the eject")
    machine.clock_step(PATIENCE_NS - 1)  # it is counted from the eject on
    assert states(machine) == [("a", 2, "pending")]
    head = second.offer(setup.a.prepare(BlkType.OUT, 8, bytes(SECTOR)).buffers())
    second.ring()
    machine.clock_step(1)
    data = failed(machine)
    assert (data["device"], data["path"]) == ("a", "/machine/peripheral/a")
    assert data["reason"].startswith(
        "the guest let it go, but what it has under way did not end within 30 s: request ")
    assert " on node 'a0', a read of 512 bytes at 4096, is " in data["reason"]
    [row] = machine.qmp.execute("x-query-hotplug")
    assert (row["id"], row["state"], row["reason"]) == ("a", "timed-out", data["reason"])
    # It is there, and works as it did: what came meanwhile, what was held, what comes.
    assert setup.a.status & Status.DRIVER_OK
    assert second.wait() == (head, 1)
    setup.let_go(2)
    setup.take(first, requests)
    works(setup.a, first)
    # And it can be asked for again.
    machine.qmp.execute("device_del", id="a")
    eject(machine, 2)
    assert told(machine, 2) == deleted("a")
    setup.check_unused()


def test_an_eject_that_nobody_asked_for_waits_no_longer(setup: Setup) -> None:
    machine = setup.machine
    requests = setup.hold(setup.queues_a[0])
    eject(machine, 2)
    wait_until(lambda: states(machine) == [("a", 2, "pending")], "the eject")
    machine.clock_step(PATIENCE_NS)
    assert "on node 'a0'" in failed(machine)["reason"]
    eject(machine, 2)  # the guest tries again
    wait_until(lambda: states(machine) == [("a", 2, "pending")], "the eject")
    setup.let_go(1)
    setup.take(setup.queues_a[0], requests)
    assert told(machine, 2) == deleted("a")


def test_requests_that_wait_for_the_machine_do_not_keep_their_disk(setup: Setup) -> None:
    machine = setup.machine
    for queue in setup.queues_a:
        queue.offer(setup.a.prepare(BlkType.OUT, 1, bytes(SECTOR)).buffers())
        queue.ring()
    machine.qmp.wait_event("STOP")
    machine.qmp.execute("device_del", id="a")
    eject(machine, 2)
    assert told(machine, 2) == deleted("a")
    assert machine.qmp.execute("query-status")["status"] == "io-error"
    setup.check_unused()
    machine.qmp.execute("cont")
    works(setup.b, setup.queues_b[1])


def test_a_disk_goes_while_another_is_stuck(setup: Setup) -> None:
    machine = setup.machine
    requests = setup.hold(setup.queues_a[0])
    machine.qmp.execute("device_del", id="b")
    eject(machine, 3)
    assert told(machine, 2) == deleted("b")
    machine.qmp.execute("blockdev-del", **{"node-name": "b0"})
    machine.qmp.execute("object-del", id="io-b")
    setup.let_go(1)
    setup.take(setup.queues_a[0], requests)


def test_a_disk_whose_reset_is_latched_goes_when_that_ends(setup: Setup) -> None:
    machine = setup.machine
    setup.hold(setup.queues_a[0], 2)
    setup.a.status = Status.RESET
    assert setup.a.status != 0
    machine.qmp.execute("device_del", id="a")
    eject(machine, 2)
    wait_until(lambda: "reason" in machine.qmp.execute("x-query-hotplug")[0], "the eject")
    setup.let_go(2)
    assert told(machine, 2) == deleted("a")
    assert setup.queues_a[0].used_index() == 0  # dropped: the driver gave up on them
    setup.check_unused()


def test_a_disk_that_is_stuck_over_a_reset_stays(setup: Setup) -> None:
    machine = setup.machine
    setup.hold(setup.queues_a[0])
    machine.qmp.execute("device_del", id="a")
    machine.qmp.execute("device_del", id="b")
    machine.qmp.execute("system_reset")  # waits for 5 s, as any reset of such a disk
    found = told(machine, 3)
    assert found[1:] == deleted("b")
    assert found[0][0] == "DEVICE_UNPLUG_GUEST_ERROR"
    assert "Requests of 'a' did not end within 1 s: request " in found[0][1]["reason"]
    assert states(machine) == [("a", 2, "timed-out")]
    setup.let_go(1)
    [disk] = find_disks(machine)
    disk.reset()
    [queue] = disk.bring_up()
    works(disk, queue)
    machine.qmp.execute("device_del", id="a")
    eject(machine, 2)
    assert told(machine, 2) == deleted("a")


def test_a_reset_ends_what_an_eject_waits_for(setup: Setup) -> None:
    machine = setup.machine
    setup.hold(setup.queues_a[0])
    eject(machine, 2)
    wait_until(lambda: states(machine) == [("a", 2, "pending")], "the eject")
    machine.qmp.execute("system_reset")
    assert "on node 'a0'" in failed(machine)["reason"]
    assert states(machine) == [("a", 2, "timed-out")]
    setup.let_go(1)
