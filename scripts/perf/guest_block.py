"""`scripts/bench block --guest`: fio in Debian's guest, under Rhea and under QEMU."""

import json
import shutil
import tempfile
from pathlib import Path

from lab import guest, host, kernel, runner, vmm
from lab.errors import LabError
from lab.paths import SCRIPTS
from perf.guest_samples import SIDES, Samples, collect, tick
from perf.stats import Series, table, verdict

FIO = Path("/usr/bin/fio")
DEPTHS = (1, 8, 64)
DISKS = {"null": "/dev/vdb", "file": "/dev/vdc"}
IMAGE_MIB = 64
RUN_SECONDS = 3
ROUND_SECONDS = 200  # far above what one boot and all jobs take, on a busy machine too

_GLOBAL = f"""[global]
ioengine=libaio
direct=1
rw=randread
bs=4k
time_based
ramp_time=500ms
runtime={RUN_SECONDS}
"""


def _jobs() -> str:
    jobs = [
        f"[{disk}-{depth}]\nstonewall\nfilename={path}\niodepth={depth}\n"
        for disk, path in DISKS.items()
        for depth in DEPTHS
    ]
    return "\n".join([_GLOBAL, *jobs])


def run(rounds: int, aio: str, json_file: Path | None) -> int:
    linux, choice = kernel.fetch(), host.choose()
    print(f"bench: {linux.package} runs {choice}")
    root = guest.root_image(192, programs=[FIO], texts={"bench.fio": _jobs()})
    with tempfile.TemporaryDirectory() as folder:
        result = runner.run(
            SCRIPTS / "lab" / "scenarios" / "bench_disk.py",
            vmms={side: vmm.find(side) for side in SIDES},
            files={
                "bzimage": linux.bzimage,
                "initrd_disk": guest.initramfs(linux, modules=guest.DISK_MODULES),
            },
            params={
                "sides": SIDES,
                "rounds": rounds,
                "aio": aio,
                "image_mib": IMAGE_MIB,
                "timeout": ROUND_SECONDS,
            },
            timeout=60 + 2 * ROUND_SECONDS * rounds,
            choice=choice,
            on_event=tick,
            disk=Path(shutil.copy(root, folder)),
        )
    print()
    if result.exit_status != 0:
        raise LabError(f"bench_disk failed\n{result.report()}")
    samples = collect(result, lambda _, job: job)
    _print(samples, rounds, aio)
    if json_file:
        json_file.write_text(json.dumps(samples, indent=1) + "\n", encoding="ascii")
    return 0


def _print(samples: Samples, rounds: int, aio: str) -> None:
    rows = [["random read 4 KiB, IOPS", *SIDES, "rhea/qemu", "verdict"]]
    for job, sides in samples.items():
        ours, peer = (Series(tuple(sides[side])) for side in SIDES)
        disk, _, depth = job.partition("-")
        driver = disk if disk == "null" else f"{disk}, {aio}"
        rows.append(
            [
                f"{driver}, depth {depth}",
                ours.show(""),
                peer.show(""),
                f"{ours.median / peer.median:.2f}",
                # A verdict takes small for good.
                verdict(peer, ours) if rounds >= 5 else "-",
            ]
        )
    print(table(rows))
