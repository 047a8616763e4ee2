"""`scripts/bench migration --guest`: Debian's guest from instance to instance, under Rhea and QEMU."""

import json
from pathlib import Path

from lab import guest, host, kernel, runner, vmm
from lab.errors import LabError
from lab.paths import SCRIPTS
from lab.result import Event, LabResult
from perf.stats import Series, table, verdict

SIDES = ("rhea", "qemu")
CHANNELS = (0, 2, 4)
# Where the machine is nested, QEMU never finds that it can end within the usual 300 ms.
DOWNTIME_LIMIT_MS = 2000
WAIT_S = 300  # for anything, on a busy machine too
ROUND_SECONDS = 600


def run(rounds: int, json_file: Path | None) -> int:
    linux, choice = kernel.fetch(), host.choose()
    print(f"bench: {linux.package} runs {choice}")
    result = runner.run(
        SCRIPTS / "lab" / "scenarios" / "bench_migration.py",
        vmms={side: vmm.find(side) for side in SIDES},
        files={"bzimage": linux.bzimage, "initrd": guest.initramfs(linux)},
        params={
            "sides": SIDES,
            "rounds": rounds,
            "channels": CHANNELS,
            "downtime_limit": DOWNTIME_LIMIT_MS,
            "timeout": WAIT_S,
        },
        timeout=60 + 2 * ROUND_SECONDS * rounds,
        choice=choice,
        on_event=_tick,
    )
    print()
    samples = _samples(result)
    _print(samples, rounds)
    if json_file:
        json_file.write_text(json.dumps(samples, indent=1) + "\n", encoding="ascii")
    if result.exit_status != 0:
        raise LabError(f"bench_migration failed\n{result.report()}")
    return 0


def _tick(event: Event) -> None:
    if event["event"] == "sample":
        print(".", end="", flush=True)


def _samples(result: LabResult) -> dict[str, dict[str, list[float]]]:
    samples: dict[str, dict[str, list[float]]] = {}
    for event in result.named("sample"):
        for figure, value in event["values"].items():
            case = f"{figure}, {event['channels'] or 'no'} channels"
            samples.setdefault(case, {}).setdefault(event["side"], []).append(value)
    return samples


def _print(samples: dict[str, dict[str, list[float]]], rounds: int) -> None:
    rows = [["Debian's guest", *SIDES, "rhea/qemu", "verdict"]]
    for case in sorted(samples):
        sides = {side: Series(tuple(values)) for side, values in samples[case].items()}
        shown = [sides[side].show("ms") if side in sides else "-" for side in SIDES]
        ratio = judged = "-"
        if len(sides) == len(SIDES):
            ours, peer = (sides[side] for side in SIDES)
            ratio = f"{ours.median / peer.median:.2f}"
            judged = verdict(ours, peer) if rounds >= 5 else "-"
        rows.append([case, *shown, ratio, judged])
    print(table(rows))
