"""`scripts/bench migration --guest`: Debian's guest from instance to instance, under Rhea and QEMU."""

import json
from pathlib import Path

from lab import guest, host, kernel, runner, vmm
from lab.errors import LabError
from lab.paths import SCRIPTS
from lab.result import Event
from perf.guest_samples import SIDES, Samples, collect, tick
from perf.stats import Series, table, verdict

CHANNELS = (0, 2, 4)
# Far above the usual 300 ms: a nested machine is slow, and the move is to end on both sides.
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
        on_event=tick,
    )
    print()
    samples = collect(result, _case)
    _print(samples, rounds)
    if json_file:
        json_file.write_text(json.dumps(samples, indent=1) + "\n", encoding="ascii")
    if result.exit_status != 0:
        raise LabError(f"bench_migration failed\n{result.report()}")
    return 0


def _case(event: Event, figure: str) -> str:
    return f"{figure}, {event['channels'] or 'no'} channels"


def _print(samples: Samples, rounds: int) -> None:
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
