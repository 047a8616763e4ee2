"""Debian guests under fio move between instances, and into a file and back, and never notice."""

import re
from typing import Any, NamedTuple

import pytest
from conftest import VMM, case, on_kernels

from lab.result import LabResult

TICK = re.compile(r"tick (\d+) ([\d.]+) (\d+\.\d{6})\.")
JUMP_S = 1.0
PATH = "/machine/peripheral/blk"


class Tick(NamedTuple):
    """What the guest's clocks showed, and when that was seen on the console."""

    number: int
    uptime: float
    realtime: float
    seen: float


def hops(lab: LabResult) -> list[dict[str, Any]]:
    return [*case(lab, "hops")["hops"], case(lab, "file")["hop"]]


def ticks(lab: LabResult, instance: int) -> list[Tick]:
    lines = [event for event in lab.named("line") if event["vm"] == f"at{instance}"]
    found = [(TICK.fullmatch(event["text"]), event["seen"]) for event in lines]
    return [Tick(int(m[1]), float(m[2]), float(m[3]), seen) for m, seen in found if m]


ON_KERNELS = on_kernels("migration")


@ON_KERNELS
def test_a_guest_under_fio_moves_with_any_number_of_channels(lab: LabResult, run: str) -> None:
    assert {hop["channels"] for hop in case(lab, "hops")["hops"]} >= {1, 2, 4}
    for hop in hops(lab):
        assert hop["told"]["status"] == "completed", hop
        assert hop["states"] == ["postmigrate", "running"], hop
        assert hop["exit_status"] == 0


@ON_KERNELS
def test_the_consoles_of_all_instances_are_one_text(lab: LabResult, run: str) -> None:
    console = case(lab, "end")["console"]
    begin = re.search(r"^tick 1 ", console, re.MULTILINE)
    assert begin, console
    # The key that ended it may have come in the midst of a line.
    lines = console[begin.start() :].partition("^C")[0].split("\n")[:-1]
    matches = [TICK.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, matches) if not match] == []
    assert [int(match[1]) for match in matches if match] == list(range(1, len(lines) + 1))


@ON_KERNELS
def test_the_clocks_of_the_guest_neither_jump_nor_go_back(lab: LabResult, run: str) -> None:
    """What the guest's clock is behind the host's grows by the time in which the guest stood."""
    moves = hops(lab)
    visits = [ticks(lab, instance) for instance in range(len(moves) + 1)]
    # The least of a visit: a line may be seen late, and one clock some time behind the other.
    behind = [min(tick.seen - tick.uptime for tick in visit) for visit in visits]
    for before, after, hop in zip(behind, behind[1:], moves):
        stood = hop["resumed"] - hop["stopped"]
        assert abs(after - before - stood) < JUMP_S, (behind, hop)
    everything = [tick for visit in visits for tick in visit]
    for then, now in zip(everything, everything[1:]):
        assert now.uptime >= then.uptime and now.realtime > then.realtime, (then, now)
    apart = [min(tick.realtime - tick.uptime for tick in visit) for visit in visits]
    assert max(apart) - min(apart) < JUMP_S, apart


@ON_KERNELS
def test_fio_reads_back_what_it_wrote_on_whichever_side(lab: LabResult, run: str) -> None:
    data = case(lab, "end")
    assert data["load"] == [0, "turn\n"]
    assert data["alive"] == [[0, "0\nkept\n"]] * 2


@ON_KERNELS
def test_the_kernel_complains_of_nothing(lab: LabResult, run: str) -> None:
    data = case(lab, "end")
    assert data["errors"] == []
    assert data["oops"] == ""
    assert data["clock"] == case(lab, "hops")["clock"] == [0, "kvm-clock\n"]


@ON_KERNELS
def test_a_disk_goes_where_the_guest_is_in_the_end(lab: LabResult, run: str) -> None:
    data = case(lab, "end")
    assert data["told"] == [{"path": f"{PATH}/virtio-backend"}, {"device": "blk", "path": PATH}]
    assert data["gone"] == [1, "0\n"]
    assert data["exit_status"] == 0


@ON_KERNELS
@pytest.mark.skipif(VMM != "rhea", reason="QEMU does not say how long the phases took")
def test_each_phase_took_its_time(lab: LabResult, run: str) -> None:
    for hop in case(lab, "hops")["hops"]:  # a file has nobody who goes on
        phases = hop["told"]["x-phases-ms"]
        standing = sum(phases[name] for name in ("stop", "last-copy", "device-state", "load"))
        assert standing + phases["resume"] == pytest.approx(hop["told"]["downtime"], abs=20), hop
        assert len(phases["passes"]) >= 1 and phases["setup"] > 0
