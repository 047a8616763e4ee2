"""G27: a disk that never answers. Whoever waits for it gives up in time and says what for, the rest
of the machine goes on, and once it answers nothing is lost."""

from __future__ import annotations

import pathlib
import signal
import time
from typing import Any, Iterator

import pytest
from qtest import Machine
from support import vm
from virtio import SECTOR, Blk, BlkRequest, BlkStatus, BlkType, Queue, find_disks, wait_until

DEADLINE_S = 5.0  # of a drain
PATIENCE_S = 6.0
DISK = 1 << 20
REOPEN = {"options": [{"driver": "blkdebug", "node-name": "a0", "image": "a-data"}]}
MIRROR = {"job-id": "m0", "device": "b0", "target": "c0", "sync": "full"}
TAG = "held"
RULES = {"read": "read_aio", "write": "write_aio", "flush": "flush_to_disk"}


class Stuck:
    """A machine with a disk `a` that holds one request of a kind, and a disk `b` that works."""

    def __init__(self, directory: pathlib.Path, kind: str, loop: str, *more: str) -> None:
        self.kind = kind
        arguments = [
            "-blockdev", f"driver=null-co,node-name=a-data,size={DISK},read-zeroes=on",
            "-blockdev", f"driver=blkdebug,node-name=a0,image=a-data,"
            f"inject-error.0.event={RULES[kind]},inject-error.0.once=on,"
            f"inject-error.0.suspend={TAG}",
            "-blockdev", f"driver=null-co,node-name=b0,size={DISK},read-zeroes=on",
            "-blockdev", f"driver=null-co,node-name=c0,size={DISK}"]
        for name in "ab":
            device = f"virtio-blk-pci,id={name},drive={name}0"
            if loop == "iothread":
                arguments += ["-object", f"iothread,id=io-{name}"]
                device += f",iothread=io-{name}"
            arguments += ["-device", device]
        self.machine = Machine(directory, *arguments, *more)
        self.a, self.b = find_disks(self.machine)
        [self.queue_a], [self.queue_b] = self.a.bring_up(), self.b.bring_up()

    def held(self) -> int:
        answer = self.machine.qmp.execute("x-blkdebug-suspended", **{"node-name": "a0", "tag": TAG})
        return answer["requests"]

    def hold(self) -> tuple[int, BlkRequest]:
        """Makes the request, and waits until the disk has it."""
        kind = {"read": BlkType.IN, "write": BlkType.OUT, "flush": BlkType.FLUSH}[self.kind]
        request = self.a.prepare(kind, 0, bytes(SECTOR) if self.kind == "write" else b"",
                                 SECTOR if self.kind == "read" else 0)
        head = self.a.submit(self.queue_a, request)
        wait_until(lambda: self.held() == 1, "the request that is held")
        return head, request

    def let_go(self) -> None:
        answer = self.machine.qmp.execute("x-blkdebug-resume", **{"node-name": "a0", "tag": TAG})
        assert answer == {"requests": 1}

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer, an error too, in good time."""
        began = time.monotonic()
        answer = self.machine.qmp.ask(command, **arguments)
        assert time.monotonic() - began < PATIENCE_S, command
        return answer

    def check_refused(self, command: str, **arguments: Any) -> None:
        """It fails for the request that is held, and says so. What the guest asks for meanwhile is
        done once, then or after it."""
        nodes = self.machine.qmp.execute("query-named-block-nodes")
        offered = [self.offer_some(self.queue_a), self.offer_some(self.queue_b)]
        began = time.monotonic()
        answer = self.ask(command, **arguments)
        assert time.monotonic() - began >= DEADLINE_S
        assert "error" in answer, answer
        description = answer["error"]["desc"]
        assert description.startswith("Requests did not end within 5 s: request "), description
        assert f" on node 'a0', a {self.kind} of " in description, description
        assert self.machine.qmp.execute("query-named-block-nodes") == nodes
        assert self.machine.qmp.execute("query-jobs") == []
        assert self.held() == 1
        for queue, heads in zip((self.queue_a, self.queue_b), offered):
            self.take_all(queue, heads)

    def offer_some(self, queue: Queue) -> dict[int, BlkRequest]:
        disk = queue.device
        assert isinstance(disk, Blk)
        requests = [disk.prepare(BlkType.IN, sector, room=SECTOR) for sector in range(8)]
        heads = {queue.offer(request.buffers()): request for request in requests}
        queue.ring()
        return heads

    def take_all(self, queue: Queue, heads: dict[int, BlkRequest]) -> None:
        while heads:
            head, length = queue.wait()
            assert length == SECTOR + 1
            assert self.machine.load(heads.pop(head).status, 1) == BlkStatus.OK

    def check_let_go(self, head: int, request: BlkRequest) -> None:
        """The request that was held completes, once and well, and the disk is one like another."""
        self.let_go()
        assert self.queue_a.wait()[0] == head
        assert self.a.status_of(request) == BlkStatus.OK
        for disk, queue in ((self.a, self.queue_a), (self.b, self.queue_b)):
            before = queue.used_index()
            assert disk.do(queue, BlkType.OUT, 0, bytes(SECTOR))[0] == BlkStatus.OK
            assert disk.do(queue, BlkType.FLUSH)[0] == BlkStatus.OK
            assert disk.do(queue, BlkType.IN, 0, room=SECTOR) == (BlkStatus.OK, bytes(SECTOR))
            assert queue.used_index() == before + 3


@pytest.fixture
def stuck(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Stuck]:
    made = Stuck(tmp_path, *request.param)
    with made.machine:
        yield made
        made.machine.qmp.execute("quit")
        assert made.machine.process.wait() == 0, made.machine.process.stderr


def on(*disks: tuple[str, str]) -> pytest.MarkDecorator:
    """Which request is held where; at full size on either loop, and of every kind if of several."""
    kinds = RULES if len({kind for kind, _ in disks}) > 1 else [disks[0][0]]
    everything = [(kind, loop) for kind in kinds for loop in ("main", "iothread")]
    return pytest.mark.parametrize("stuck", everything if vm.full_size() else list(disks),
                                   ids="-".join, indirect=True)


@on(("read", "iothread"), ("write", "main"))
def test_a_change_of_the_graph_fails_by_the_requests_name_and_works_later(stuck: Stuck) -> None:
    head, request = stuck.hold()
    stuck.check_refused("blockdev-reopen", **REOPEN)
    stuck.check_refused("blockdev-mirror", **MIRROR)
    stuck.check_let_go(head, request)
    assert stuck.ask("blockdev-reopen", **REOPEN) == {"return": {}}
    assert stuck.ask("blockdev-mirror", **MIRROR) == {"return": {}}
    stuck.machine.qmp.wait_event("BLOCK_JOB_READY")


@on(("read", "iothread"))
def test_what_needs_no_drain_does_not_wait(stuck: Stuck) -> None:
    head, request = stuck.hold()
    began = time.monotonic()
    for command, arguments in [
            ("blockdev-add", {"driver": "raw", "node-name": "window", "file": "a0",
                              "read-only": True}),
            ("blockdev-add", {"driver": "null-co", "node-name": "new"}),
            ("block_resize", {"node-name": "b0", "size": 2 * DISK}),
            ("blockdev-del", {"node-name": "window"}), ("blockdev-del", {"node-name": "new"}),
            ("query-status", {}), ("query-block", {}), ("query-blockstats", {})]:
        assert "return" in stuck.ask(command, **arguments), command
    assert time.monotonic() - began < DEADLINE_S
    assert stuck.b.capacity == 2 * DISK // SECTOR
    stuck.check_let_go(head, request)


@on(("read", "main"), ("flush", "iothread"))
def test_a_machine_stops_and_goes_on_around_a_stuck_request(stuck: Stuck) -> None:
    head, request = stuck.hold()
    assert stuck.ask("stop") == {"return": {}}
    assert stuck.ask("query-status")["return"]["status"] == "paused"
    stuck.machine.process.drain()
    assert "disks unsettled" in stuck.machine.process.stderr
    assert f"'a0', a {stuck.kind} of " in stuck.machine.process.stderr
    assert stuck.ask("cont") == {"return": {}}
    offered = stuck.offer_some(stuck.queue_a), stuck.offer_some(stuck.queue_b)
    stuck.take_all(stuck.queue_a, offered[0])
    stuck.take_all(stuck.queue_b, offered[1])
    stuck.check_let_go(head, request)


@on(("flush", "main"))
def test_a_disk_whose_flush_hangs_does_not_hang_the_stop_that_flushes(stuck: Stuck) -> None:
    assert stuck.ask("stop") == {"return": {}}
    assert stuck.held() == 1
    stuck.machine.process.drain()
    assert "the flush of 'a' did not end within 5 s" in stuck.machine.process.stderr
    assert stuck.ask("query-status")["return"]["status"] == "paused"
    assert stuck.ask("cont") == {"return": {}}
    offered = stuck.offer_some(stuck.queue_a)
    stuck.take_all(stuck.queue_a, offered)
    stuck.let_go()
    assert stuck.ask("stop") == {"return": {}}
    assert stuck.ask("cont") == {"return": {}}
    assert stuck.a.do(stuck.queue_a, BlkType.FLUSH)[0] == BlkStatus.OK


def quit_now(machine: Machine, how: str) -> float:
    """Ends the machine; how long that took."""
    began = time.monotonic()
    if how == "quit":
        machine.qmp.execute("quit")
    else:
        machine.process.process.send_signal(signal.SIGTERM)
    machine.qmp.wait_event("SHUTDOWN")
    machine.process.wait()
    return time.monotonic() - began


@pytest.mark.parametrize("loop", ["main", "iothread"])
@pytest.mark.parametrize("how", ["quit", "SIGTERM"])
def test_a_machine_ends_though_a_request_does_not(tmp_path: pathlib.Path, how: str,
                                                  loop: str) -> None:
    pidfile = tmp_path / "pid"
    stuck = Stuck(tmp_path, "write", loop, "-pidfile", str(pidfile))
    with stuck.machine as machine:
        stuck.hold()
        assert pidfile.exists()
        assert DEADLINE_S <= quit_now(machine, how) < PATIENCE_S + 4
        assert machine.process.process.returncode == 1
        message = "rhea: left without waiting any longer: Requests did not end within 5 s: request "
        assert message in machine.process.stderr
        assert " on node 'a0', a write of 512 bytes at 0, is " in machine.process.stderr
        assert not pidfile.exists()


def test_a_machine_ends_though_a_job_does_not(tmp_path: pathlib.Path) -> None:
    stuck = Stuck(tmp_path, "write", "iothread")
    with stuck.machine as machine:
        machine.qmp.execute("blockdev-add", **{"driver": "null-co", "node-name": "c1", "size": DISK})
        machine.qmp.execute("device_del", id="a")
        machine.outl(0xAE08, 1 << 2)
        machine.qmp.wait_event("DEVICE_DELETED")
        machine.qmp.execute("blockdev-mirror", **{"job-id": "m0", "device": "c1", "target": "a0",
                                                  "sync": "full"})
        wait_until(lambda: stuck.held() == 1, "the job's write")
        assert DEADLINE_S <= quit_now(machine, "quit") < PATIENCE_S + 4
        assert machine.process.process.returncode == 1
        assert " on node 'a0', a write of " in machine.process.stderr


def test_a_machine_ends_at_once_if_requests_wait_for_it(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-blockdev",
                 f"driver=blkdebug,node-name=d0,image.driver=null-co,image.size={DISK},"
                 "inject-error.0.event=write_aio,inject-error.0.errno=28",
                 "-device", "virtio-blk-pci,drive=d0,werror=stop") as machine:
        [disk] = find_disks(machine)
        [queue] = disk.bring_up()
        disk.submit(queue, disk.prepare(BlkType.OUT, 0, bytes(SECTOR)))
        machine.qmp.wait_event("STOP")
        assert quit_now(machine, "quit") < DEADLINE_S
        assert machine.process.process.returncode == 0, machine.process.stderr
