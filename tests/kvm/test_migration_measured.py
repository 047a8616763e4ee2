"""What a move costs, measured from outside and by the guests that move: `guests/pace.S`, `guests/inflight.S`.

On a busy host anything may take long, so nothing here is asked to be quick. What is held up by a test for a
certain time must be found, by whoever can see it; and nobody may have seen more than there was, by the clock
of the test.
"""

from __future__ import annotations

import mmap
import os
import pathlib
import time
from dataclasses import dataclass, fields
from typing import Any, Iterator

import pytest

from support import inflight, migration, pace, vm
from support.migration import Instance
from support.relay import Relay

FILLED = range(24 << 20, 64 << 20)  # of RAM
HOLD_S = 0.3
CLOCKS_AGREE = 1.001  # KVM's idea of the TSC's frequency and the kernel's
STANDING = ("stop", "last-copy", "device-state", "load", "resume")


class Machines:
    """Instances of one guest, each with its RAM in a file of its own, and the relays between them."""

    def __init__(self, guest: Any, folder: pathlib.Path) -> None:
        self.guest, self.folder, self.count = guest, folder, 0
        self.ram_bytes = 64 << 20
        self.relays: list[Relay] = []

    def start(self, name: str, *extra: str, serial: str = "null") -> Instance:
        """Its stdout is the debug port, unless it is the serial one."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        words = self.guest.arguments(
            name, "-machine", "memory-backend=ram", "-object",
            f"memory-backend-file,id=ram,size={self.ram_bytes},mem-path={folder / 'ram'},share=on",
            "-debugcon", "stdio" if serial == "null" else "null", *extra, serial=serial)
        words[words.index("-m") + 1] = f"{self.ram_bytes >> 20}"
        instance = migration.start(self.guest.run, folder, *words)
        instance.ram = folder / "ram"
        return instance

    def start_target(self, name: str, *extra: str, **options: Any) -> tuple[Instance, str]:
        """And where it listens."""
        target = self.start(name, "-incoming", "defer", *extra, **options)
        return target, migration.listen(target, f"unix:{target.ram.parent / 'socket'}")

    def relay(self, uri: str) -> Relay:
        self.relays.append(Relay(f"unix:{self.folder / 'relay'}", uri))
        return self.relays[-1]

    def clean_up(self) -> None:
        self.guest.clean_up()
        for relay in self.relays:
            relay.close()


@pytest.fixture
def machines(guest, tmp_path) -> Iterator[Machines]:
    all_of_them = Machines(guest, tmp_path)
    yield all_of_them
    all_of_them.clean_up()


def beats(instance: Instance, number: int) -> None:
    """Waits for `number` more of the guest's heartbeats."""
    for _ in range(number):
        instance.process.wait_for("\n")


def fill(instance: Instance, part: range = FILLED) -> None:
    """With what is sent as it is."""
    with open(instance.ram, "r+b") as ram:
        ram.seek(part.start)
        ram.write(os.urandom(len(part)))


def expect_moved(source: Instance, target: Instance) -> dict[str, Any]:
    """What query-migrate says of it."""
    told = source.finish()
    assert told["status"] == "completed", told
    assert target.wait_migration(*migration.OVER) == "completed"
    return told


# --- Downtime ---------------------------------------------------------------------------------------

PRE_SWITCHOVER = "pre-switchover"
SENT = ("device-state", "load")  # the source may notice late that it has sent all of it
# Where the machine is held up -> the phases in which the source sees that, and whether the guest's TSC goes on
# meanwhile: it need not from the saving of the states to their loading.
WAYS = {
    PRE_SWITCHOVER: ((), True),
    "end 1": (SENT, False),
    "ready 1": (SENT, True),
    "ack 1": (("resume",), True),
    "go 1": ((), True),  # nobody could tell the source how long GO takes
}


def held_up(source: Instance, relay: Relay, moment: str) -> float:
    """Migrates, and holds the machine at that moment; for how many seconds."""
    if moment == PRE_SWITCHOVER:
        source.set_capabilities("pause-before-switchover")
        source.qmp.execute("migrate", uri=relay.uri)
        source.wait_migration(PRE_SWITCHOVER)
    else:
        kind, number = moment.split()
        held = relay.hold(kind, int(number))
        source.qmp.execute("migrate", uri=relay.uri)
        held.wait()
    began = time.monotonic()
    time.sleep(HOLD_S)  # this is what is to be found again
    took = time.monotonic() - began
    if moment == PRE_SWITCHOVER:
        source.qmp.execute("migrate-continue", state=PRE_SWITCHOVER)
    else:
        held.forward()
    return took


def pause_of_the_move(left: pace.Book, now: pace.Book) -> pace.Pause:
    """The longest behind the last step that the source has seen: it may have stopped within a step."""
    assert now.steps > left.steps + 1
    return max((pause for pause in now.pauses if pause.step - left.steps in (0, 1)),
               key=lambda pause: pause.cycles)


@pytest.mark.parametrize("moment", WAYS)
def test_the_guest_and_the_source_see_how_long_it_stood_still(machines, moment):
    seen_by_source, seen_by_guest = WAYS[moment]
    source = machines.start("pace")
    beats(source, 3)
    target, uri = machines.start_target("pace")
    source.qmp.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=60_000)
    relay = machines.relay(uri)
    began = time.monotonic()
    steps = pace.read(source.ram).steps
    while pace.read(source.ram).steps <= steps + 1:  # so all that counts is behind `began`
        assert source.status() == "running"
    held = held_up(source, relay, moment)
    told = expect_moved(source, target)
    over = time.monotonic()
    beats(target, 2)
    ended = time.monotonic()
    target.qmp.execute("stop")
    left, now = pace.read(source.ram), pace.read(target.ram)

    assert now.backward == 0
    if seen_by_guest:
        pause = pause_of_the_move(left, now)
        assert pause.before >= left.latest
        seconds = pause.cycles / pace.tsc_hz()
        print(f"held {held:.3f} s; the guest missed {seconds:.3f} s; told {told['downtime']} ms")
        assert held / CLOCKS_AGREE < seconds < (ended - began) * CLOCKS_AGREE

    phases = told["x-phases-ms"]
    aside = told["downtime"] - sum(phases[name] for name in STANDING)
    assert told["downtime"] < (over - began) * 1000, told
    if moment == PRE_SWITCHOVER:
        assert aside + 1 > held * 1000, told
    else:
        assert -1.001 < aside < 0.001, told  # whole milliseconds, rounded down
    if seen_by_source:
        assert sum(phases[name] for name in seen_by_source) > held * 1000, told


# --- Liveness ---------------------------------------------------------------------------------------

CAP = 2 << 20  # bytes per second: the pass takes 20 s
WINDOWS = 40
WINDOW_CPU_S = 0.1  # of the vCPU's
QUICK_S = 0.002
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Look:
    """At a moment when the vCPU's thread runs. In seconds, and steps."""

    now: float
    ran: float
    queued: float  # while others had its CPU
    busy: float  # the CPUs of the host, or what is taken for them
    stolen: float  # of that
    steps: float

    def __sub__(self, before: "Look") -> "Look":
        return Look(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    def __add__(self, other: "Look") -> "Look":
        return Look(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def rate(self) -> float:
        """Steps per second in which the vCPU could have run."""
        could = (self.now - self.queued) * (1 - self.stolen / self.busy)
        return self.steps / could


def host_seconds() -> tuple[float, float]:
    """For which the CPUs had work, and for which they were somebody else's meanwhile."""
    words = pathlib.Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    user, nice, system, _, _, irq, softirq, stolen = (int(word) / TICKS_PER_S for word in words)
    return user + nice + system + irq + softirq + stolen, stolen


class Watch:
    """Looks at a vCPU from outside, and asks nobody, who would be in its way then."""

    def __init__(self, instance: Instance) -> None:
        with open(instance.ram, "rb") as ram:
            self.ram = mmap.mmap(ram.fileno(), 0, access=mmap.ACCESS_READ)
        [cpu] = instance.qmp.execute("query-cpus-fast")
        self.schedstat = pathlib.Path(
            f"/proc/{instance.process.process.pid}/task/{cpu['thread-id']}/schedstat")

    def look(self) -> Look:
        """How long it has waited for a CPU is told when it gets one. So the guest must have been seen
        stepping first, and all be read before it can have waited for long once more."""
        deadline = time.monotonic() + vm.PATIENCE_S
        while (began := time.monotonic()) < deadline:
            then = pace.steps(self.ram)
            if pace.steps(self.ram) == then:
                os.sched_yield()
                continue
            ran, queued, _ = (int(word) for word in self.schedstat.read_text().split())
            busy, stolen = host_seconds()
            steps = pace.steps(self.ram)
            if time.monotonic() < began + QUICK_S:
                return Look(began, ran / 1e9, queued / 1e9, busy, stolen, steps)
        raise AssertionError("the guest does not step, or the host is too busy to see it")

    def window(self) -> Look:
        """What happens until it has had WINDOW_CPU_S."""
        began = self.look()
        while (passed := self.look() - began).ran < WINDOW_CPU_S:
            pass
        return passed


@pytest.mark.skipif(not vm.full_size(), reason="compares speeds: on a host that does nothing else, full size only")
def test_a_guest_keeps_its_pace_in_the_first_pass(machines):
    source = machines.start("pace")
    fill(source)
    source.qmp.execute("migrate-set-parameters", max_bandwidth=CAP)
    watch = Watch(source)
    still = moving = Look(0, 0, 0, 0, 0, 0)
    for _ in range(WINDOWS):
        still += watch.window()
        target, uri = machines.start_target("pace")
        source.qmp.execute("migrate", uri=uri)
        source.wait_migration("active")
        moving += watch.window()
        told = source.qmp.execute("query-migrate")
        assert (told["status"], told["ram"]["dirty-sync-count"]) == ("active", 1), told
        source.qmp.execute("migrate_cancel")
        assert source.finish()["status"] == "cancelled"
        assert target.process.wait() == 1
    print(f"steps per second: {still.rate:.0f} still, {moving.rate:.0f} in pass 1; {still} {moving}")
    assert moving.rate > 0.8 * still.rate


# --- Channels ---------------------------------------------------------------------------------------

PAGE = 4096
STATES = 64 << 10  # more than a vCPU's and those of a few devices


MUCH = range(24 << 20, vm.sized(64, 1024) << 20)


@pytest.mark.parametrize("channels", [2, 4])
def test_pages_go_by_every_channel_and_none_by_the_main_connection(machines, channels):
    """How much each carries is the host's scheduler's, too: what is fair shows where there is much, and nothing
    else to do."""
    machines.ram_bytes = MUCH.stop
    source = machines.start("pace")
    fill(source, MUCH)
    target, uri = machines.start_target("pace")
    source.set_capabilities("multifd", "pause-before-switchover")
    source.qmp.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=60_000,
                       multifd_channels=channels)
    source.qmp.execute("migrate", uri=uri)
    source.wait_migration(PRE_SWITCHOVER)
    main_before = source.qmp.execute("query-migrate")["ram"]["x-main-bytes"]
    source.qmp.execute("migrate-continue", state=PRE_SWITCHOVER)
    told = expect_moved(source, target)["ram"]
    carried = told["x-channels"]
    print(carried)
    assert main_before < PAGE
    assert told["x-main-bytes"] - main_before < STATES
    assert told["transferred"] == told["x-main-bytes"] + sum(carried)
    assert len(MUCH) <= told["normal"] * PAGE <= sum(carried)
    assert len(carried) == channels and all(carried)
    if vm.full_size():
        share = sum(carried) / channels
        assert all(abs(one - share) <= 0.2 * share for one in carried)


# --- Requests under way -----------------------------------------------------------------------------

HOPS = vm.sized(5, 60)
A_MINUTE_NS = 60 * 10**9  # longer than a test has patience
NO_SPACE = 28


class Disk:
    """A guest that always writes, and the image below it."""

    def __init__(self, machines: Machines, folder: pathlib.Path) -> None:
        self.machines, self.image = machines, folder / "image"
        self.image.write_bytes(bytes(inflight.IMAGE))

    def options(self, *rules: str, iothread: bool = False) -> list[str]:
        node = f"node-name=d0,image.driver=file,image.filename={self.image}"
        words = ["-blockdev", ",".join(["driver=blkdebug", node, *rules]), "-device",
                 "virtio-blk-pci,drive=d0,id=vd0,werror=stop" + (",iothread=io0" if iothread else "")]
        return ["-object", "iothread,id=io0", *words] if iothread else words

    def start(self, *rules: str, **options: bool) -> Instance:
        return self.machines.start("inflight", *self.options(*rules, **options), serial="stdio")

    def move(self, source: Instance, **options: bool) -> Instance:
        """The disk of the other side does what it is told."""
        target, uri = self.machines.start_target("inflight", *self.options(**options), serial="stdio")
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0, downtime_limit=60_000)
        source.qmp.execute("migrate", uri=uri)
        expect_moved(source, target)
        return target

    def expect_work(self, instance: Instance) -> None:
        """More than were under way comes back, and all of it is right."""
        for _ in range(2):
            instance.process.wait_for("written\n")
        instance.qmp.execute("stop")
        inflight.check(instance.ram, self.image)
        instance.qmp.execute("cont")

    def finish(self, instance: Instance) -> None:
        instance.qmp.execute("quit")
        assert instance.process.wait() == 0, instance.process.stderr


@pytest.fixture
def disk(machines, tmp_path) -> Disk:
    return Disk(machines, tmp_path)


def until_all_are_under_way(source: Instance) -> None:
    while not inflight.read(source.ram).rung:
        assert source.status() == "running"
    # Main, which answers here, looks at doorbells between two answers.
    for _ in range(2):
        source.status()


def test_writes_under_way_at_the_stop_come_back_once(disk):
    source = disk.start("inject-error.0.event=write_aio", f"inject-error.0.delay-ns={A_MINUTE_NS}")
    until_all_are_under_way(source)
    target = disk.move(source)
    left = inflight.read(source.ram)
    # They were ended when the machine stood still, so the guest can see it over there only.
    assert (left.completed, left.used) == (0, inflight.REQUESTS)
    disk.expect_work(target)
    disk.finish(target)


def test_writes_that_failed_at_the_source_are_made_once_over_there(disk):
    source = disk.start("inject-error.0.event=write_aio", f"inject-error.0.errno={NO_SPACE}")
    while source.status() != "io-error":  # perhaps it was before the monitor could tell
        pass
    target = disk.move(source)
    left = inflight.read(source.ram)
    assert 0 < left.available <= inflight.REQUESTS  # the device looks before it is told to, perhaps
    assert (left.completed, left.used) == (0, 0)
    assert not any(disk.image.read_bytes())
    assert target.status() == "io-error"
    target.qmp.execute("cont")
    disk.expect_work(target)
    disk.finish(target)


@pytest.mark.parametrize("iothread", [False, True], ids=["main", "iothread"])
def test_a_guest_that_always_writes_loses_no_write_and_sees_none_twice(disk, iothread):
    instance = disk.start(iothread=iothread)
    disk.expect_work(instance)
    for number in range(HOPS):
        print(f"hop {number}")
        before, instance = instance, disk.move(instance, iothread=iothread)
        left = inflight.read(before.ram)
        disk.finish(before)
        disk.expect_work(instance)
        assert inflight.read(instance.ram).completed > left.completed
    disk.finish(instance)
