"""A guest that writes faster than the connection carries: what is said of it, how it is slowed, and what helps.

Here every pass ends as the test lets it: while the connection is slow the guest is seen to write all its pages, and
the pass is ended quickly then. So each leaves about as much as it began with, on a busy host, too.
"""

from __future__ import annotations

import pathlib
import re
import time
from typing import Any, Callable

import pytest

from support import faults, migration, vm
from support.dirtier import UNIT, beats, beats_from_now, check_steps, read_area
from support.faults import NEVER, SOON
from support.migration import Instance

SLOWLY = {"max_bandwidth": 256 << 10}  # a pass would take half a minute
QUICKLY = {"max_bandwidth": 32 << 20}  # and a quarter of a second
# Of an area that is written as a whole in each pass more than one per cent is left by the first one, too.
THROTTLE = {"throttle_trigger_threshold": 1, "cpu_throttle_initial": 20, "cpu_throttle_increment": 30,
            "max_cpu_throttle": 60}
STEPS = [20, 50, 60]  # per cent, that follow from it

STALL = (r"the guest writes \d+ MiB/s to other pages, the connection carries \d+ MiB/s: "
         r"a downtime-limit of (\d+) ms would end it, or more bandwidth, or ")


class Journey:
    """A machine on its way, which never arrives by itself."""

    def __init__(self, dirtiers: Any) -> None:
        self.source = dirtiers.start("-d", "migration=info")
        self.target = dirtiers.start("-incoming", "defer")
        self.uri = migration.listen(self.target, f"unix:{self.target.ram.parent / 'socket'}")
        [cpu] = self.source.qmp.execute("query-cpus-fast")
        self.schedstat = pathlib.Path(
            f"/proc/{self.source.process.process.pid}/task/{cpu['thread-id']}/schedstat")

    def set(self, **parameters: int) -> None:
        self.source.qmp.execute("migrate-set-parameters", **parameters)

    def told(self) -> dict[str, Any]:
        return self.source.qmp.execute("query-migrate")

    def begin(self) -> None:
        beats(self.source, 2)
        self.set(**NEVER, **SLOWLY)
        self.source.qmp.execute("migrate", uri=self.uri)
        self.source.wait_migration("active")

    def end_pass(self) -> dict[str, Any]:
        """And what is told then, while the next one is on its way."""
        beats_from_now(self.source, 2)
        self.set(**QUICKLY)
        self.source.qmp.wait_event("MIGRATION_PASS")
        self.set(**SLOWLY)
        assert self.told()["status"] == "active"
        return self.told()

    def end_passes(self, true: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Until what is told is as wanted; all that was."""
        deadline = time.monotonic() + vm.PATIENCE_S
        told = [self.end_pass()]
        while not true(told[-1]):
            assert time.monotonic() < deadline, told
            told.append(self.end_pass())
        return told

    def arrive(self) -> dict[str, Any]:
        """Because the limit is raised while it is on its way."""
        beats_from_now(self.source, 2)
        self.set(**SOON, **QUICKLY)
        self._until_completed()
        assert self.target.wait_migration(*migration.OVER) == "completed"
        beats(self.target, 2)
        self.target.qmp.execute("stop")
        check_steps(*read_area(self.target.ram, UNIT))
        quit_(self.target)
        return self.told()

    def _until_completed(self) -> None:
        """No event is awaited: as long as there are passes there are events, however many."""
        faults.until(lambda: self.told()["status"] == "completed", self.source, lambda: str(self.told()))

    def awake(self, number: int) -> tuple[float, float]:
        """The shares of the time of so many heartbeats for which the vCPU had a CPU, and had one or waited for it."""
        began, (ran, queued) = time.monotonic(), self._scheduled()
        beats_from_now(self.source, number)
        now_ran, now_queued = self._scheduled()
        took = time.monotonic() - began
        return (now_ran - ran) / took, (now_ran + now_queued - ran - queued) / took

    def _scheduled(self) -> tuple[float, float]:
        ran, queued, _ = (int(word) / 1e9 for word in self.schedstat.read_text().split())
        return ran, queued


@pytest.fixture
def journey(dirtiers) -> Journey:
    return Journey(dirtiers)


def quit_(instance: Instance) -> None:
    instance.qmp.execute("quit")
    assert instance.process.wait() == 0, instance.process.stderr


def throttled(told: dict[str, Any]) -> int:
    return told.get("cpu-throttle-percentage", 0)


def expect_over(told: dict[str, Any]) -> None:
    """What was of the guest that ran is told no longer."""
    for name in ("cpu-throttle-percentage", "expected-downtime"):
        assert name not in told, told


def test_a_guest_that_writes_too_much_is_slowed_by_steps_and_moves_when_the_limit_is_raised(journey):
    source = journey.source
    source.set_capabilities("auto-converge")
    journey.set(**THROTTLE)
    journey.begin()
    every = journey.end_passes(lambda told: throttled(told) == STEPS[-1] and "x-stall" in told)
    steps = [throttled(told) for told in every if throttled(told)]
    print(steps)
    assert set(steps) <= set(STEPS) and steps == sorted(steps)

    told = every[-1]
    match = re.fullmatch(STALL + "a guest that writes less; auto-converge throttles it by 60 % now, the most it may",
                         told["x-stall"])
    assert match, told
    assert int(match[1]) - told["expected-downtime"] in (0, 1)  # rounded up, rounded down
    lines = source.qmp.execute("human-monitor-command", command_line="info migrate").splitlines()
    assert f"does not converge: {told['x-stall']}" in lines
    assert "cpu throttle percentage: 60" in lines
    assert f"expected-downtime: {told['expected-downtime']} ms" in lines
    said = source.process.wait_for_stderr(f"; {told['x-stall']}\n").splitlines()[-1]
    assert re.search(r"active: pass \d+, \d+ MiB sent, \d+ MiB left, \d+ MiB/s, \d+ pages/s written; the", said), said

    ran, _ = journey.awake(20)
    print(f"ran for {ran:.2f} of the time")
    assert ran < 0.7  # an idle host would let it run all of it
    journey.set(max_cpu_throttle=30)
    journey.end_passes(lambda told: throttled(told) == 30)

    told = journey.arrive()
    expect_over(told)
    assert "x-stall" not in told
    quit_(source)


def test_a_cancel_gives_a_slowed_guest_its_speed_back(journey):
    source = journey.source
    source.set_capabilities("auto-converge")
    journey.set(**THROTTLE)
    journey.begin()
    journey.end_passes(lambda told: throttled(told) == STEPS[-1])
    source.qmp.execute("migrate_cancel")
    told = source.finish()
    assert told["status"] == "cancelled"
    expect_over(told)
    deadline = time.monotonic() + vm.PATIENCE_S
    while journey.awake(20)[1] < 0.8:  # to wait for a CPU is told of late
        assert time.monotonic() < deadline
    assert journey.target.process.wait() == 1
    quit_(source)


def test_without_auto_converge_a_guest_that_writes_too_much_is_only_told_of(journey):
    source = journey.source
    journey.set(**THROTTLE)
    journey.begin()
    every = journey.end_passes(lambda told: "x-stall" in told)
    assert re.fullmatch(STALL + "auto-converge, which slows the guest", every[-1]["x-stall"])
    assert not any(throttled(told) for told in every)
    expect_over(journey.arrive())
    quit_(source)
