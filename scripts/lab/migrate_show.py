"""What scripts/demo says about a move that its show `migrate` has made."""

import re
import statistics
from itertools import pairwise
from typing import Any

from lab.result import LabResult

PHASES_STOPPED = (
    ("stop", "stop"),
    ("last-copy", "last copy"),
    ("device-state", "device state"),
    ("load", "load"),
    ("resume", "resume"),
)
_MIB = 1 << 20


def problems(data: dict[str, Any]) -> list[str]:
    """What is wrong with the counting, or with how the instances ended."""
    found = []
    lines = ticks(data["console"]) or ["(nothing)"]
    wanted = [f"tick {number}" for number in range(1, len(lines) + 1)]
    for line, expected in zip(lines, wanted):
        if line != expected:
            found.append(f"the guest's console says '{line}' instead of '{expected}'")
            break
    if min(data["by_instance"]) == 0:
        found.append(f"ticks came from one instance only: {data['by_instance']}")
    if any(data["exit_statuses"]):
        found.append(f"the VMMs' exit statuses are {data['exit_statuses']}")
    return found


def ticks(console: str) -> list[str]:
    """The lines from the first tick until the counting was interrupted, in the midst of one perhaps."""
    begin = re.search(r"^tick \d+$", console, re.MULTILINE)
    return console[begin.start() :].partition("^C")[0].split("\n")[:-1] if begin else []


def figures(result: LabResult) -> list[str]:
    """Lines to read: where the time went, how much was sent, what the guest's clock noticed."""
    told = result.case("migrate").data["migration"]
    phases = told["x-phases-ms"]
    rows = [("setup", phases["setup"], "the guest runs")]
    rows += [
        (f"pass {number}", time, "the guest runs")
        for number, time in enumerate(phases["passes"], 1)
    ]
    rows += [(name, phases[key], "it stands still") for key, name in PHASES_STOPPED]
    lines = [f"{name:<14}{time:>10.1f} ms   {where}" for name, time, where in rows]
    stopped = sum(phases[key] for key, _ in PHASES_STOPPED)
    lines.append(f"{'downtime':<14}{told['downtime']:>10} ms   ({stopped:.1f} ms in its phases)")
    lines.append(f"{'in all':<14}{told['total-time']:>10} ms")
    ram = told["ram"]
    lines.append(
        f"{ram['transferred'] / _MIB:.1f} MiB sent for {ram['total'] // _MIB} MiB of RAM: "
        f"{ram['normal']} pages, {ram['duplicate']} more were zero"
    )
    return [*lines, _rhythm(result)]


def _rhythm(result: LabResult) -> str:
    """The ticks as somebody saw them who looked at the two consoles."""
    seen = sorted(
        (int(event["text"].split()[1]), event["seen"])
        for event in result.named("line")
        if event["vm"] in ("first", "second") and re.fullmatch(r"tick \d+", event["text"])
    )
    gaps = [(1000 * (later - then), number) for (number, then), (_, later) in pairwise(seen)]
    longest, number = max(gaps)
    return (
        f"ticks as seen: one every {statistics.median(gap for gap, _ in gaps):.0f} ms, "
        f"the longest time without one was {longest:.0f} ms, behind tick {number}"
    )
