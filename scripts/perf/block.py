"""`scripts/bench block`: requests through the block layer, beside qemu-img bench and fio.

The time is each tool's own, from its first request to its last. The CPU time of qemu-img is the
whole process's, some milliseconds of starting included; the others tell their own."""

import argparse
import json
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.paths import ROOT
from perf import guest_block
from perf.stats import Series, table, verdict

IMAGE_BYTES = 1 << 30
DEPTHS = (1, 8, 64)
SIZES = (4096, 65536)
NULL_COUNT = {1: 1_000_000, 8: 1_000_000, 64: 1_000_000}
FILE_COUNT = {1: 10_000, 8: 40_000, 64: 60_000}


@dataclass(frozen=True)
class Load:
    """Reads one after the other: `count` of `size` bytes, `depth` at a time."""

    driver: str  # null or file
    depth: int
    size: int
    count: int

    @property
    def label(self) -> str:
        return f"{self.driver} {self.size // 1024} KiB depth {self.depth}"


def _bench(name: str) -> Path:
    binary = ROOT / "build" / "tests" / "bench" / name
    if not binary.exists():
        raise LabError(f"{binary} does not exist; build it: meson setup build && ninja -C build")
    return binary


def _rhea(load: Load, image: Path) -> list[str]:
    nodes = {
        "null": f"driver=null-co,size={IMAGE_BYTES}",
        "file": "driver=raw,cache.direct=on,file.driver=file,file.aio=io_uring,"
        f"file.filename={image}",
    }
    words = [f"depth={load.depth}", f"size={load.size}", f"count={load.count}"]
    return [str(_bench("block_bench")), nodes[load.driver], *words]


def _qemu_img(load: Load, image: Path) -> list[str]:
    shared = ["qemu-img", "bench", "-c", str(load.count), "-d", str(load.depth)]
    shared += ["-s", str(load.size)]
    if load.driver == "null":
        return [*shared, "--image-opts", f"driver=null-co,size={IMAGE_BYTES}"]
    return [*shared, "-t", "none", "-i", "io_uring", "-f", "raw", str(image)]


def _fio(load: Load, image: Path) -> list[str]:
    return [
        "fio", "--name=read", f"--filename={image}", "--rw=read", f"--bs={load.size}",
        f"--iodepth={load.depth}", "--ioengine=io_uring", "--direct=1", "--thread",
        f"--io_size={load.count * load.size}", f"--size={IMAGE_BYTES}", "--output-format=json",
    ]


def _rhea_said(output: str, load: Load) -> tuple[float, float | None]:
    found = re.search(r"iops=(\d+) cpu_ns=([\d.]+)", output)
    return load.count / int(found[1]), float(found[2]) * load.count / 1e9


def _qemu_img_said(output: str, load: Load) -> tuple[float, float | None]:
    return float(re.search(r"completed in ([\d.]+) seconds", output)[1]), None


def _fio_said(output: str, load: Load) -> tuple[float, float | None]:
    job = json.loads(output[output.index("{") :])["jobs"][0]
    seconds = job["read"]["runtime"] / 1e3
    return seconds, seconds * (job["usr_cpu"] + job["sys_cpu"]) / 100


@dataclass(frozen=True)
class Side:
    command: Callable[[Load, Path], list[str]]
    drivers: tuple[str, ...]
    said: Callable[[str, Load], tuple[float, float | None]]  # seconds; of CPU, if it knows


SIDES = {
    "rhea": Side(_rhea, ("null", "file"), _rhea_said),
    "qemu-img": Side(_qemu_img, ("null", "file"), _qemu_img_said),
    "fio": Side(_fio, ("file",), _fio_said),
}
# What the parts cost: bench, and what it says it measures.
COSTS = ("coroutine_bench", "graph_bench", "aio_bench")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 for a verdict")
    parser.add_argument("--folder", type=Path, default=ROOT / "build",
                        help="where the image lies: on the device to measure")
    parser.add_argument("--guest", action="store_true",
                        help="fio in a stock guest instead, beside QEMU with the same options")
    parser.add_argument("--aio", choices=("io_uring", "threads"), default="io_uring",
                        help="of both sides' file driver, with --guest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")


def run(options: argparse.Namespace) -> int:
    if options.rounds < 1:
        raise LabError("--rounds must be 1 or more")
    if options.guest:
        return guest_block.run(options.rounds, options.aio, options.json)
    for tool in ("qemu-img", "fio"):
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is not installed; run scripts/setup")
    loads = [Load("null", depth, 4096, NULL_COUNT[depth]) for depth in DEPTHS]
    loads += [Load("file", depth, size, FILE_COUNT[depth]) for size in SIZES for depth in DEPTHS]
    image = options.folder / "bench-block.img"
    samples: dict[str, dict[str, list[list[float]]]] = {}
    try:
        _make_image(image)
        for number in range(options.rounds):
            for load in loads:
                for name, side in SIDES.items():
                    if load.driver in side.drivers:
                        sample = _measure(side, load, image)
                        samples.setdefault(load.label, {}).setdefault(name, []).append(sample)
            print(f"bench: round {number + 1} of {options.rounds}", flush=True)
    finally:
        image.unlink(missing_ok=True)
    _print(samples)
    _print_costs()
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1) + "\n", encoding="ascii")
    return 0


def _make_image(image: Path) -> None:
    chunk = bytes(range(256)) * 4096
    with image.open("wb") as out:
        for _ in range(IMAGE_BYTES // len(chunk)):
            out.write(chunk)


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def _measure(side: Side, load: Load, image: Path) -> list[float]:
    """Microseconds for a request, of time and of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = _run(side.command(load, image))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, cpu = side.said(output, load)
    if cpu is None:
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [seconds / load.count * 1e6, cpu / load.count * 1e6]


def _print(samples: dict[str, dict[str, list[list[float]]]]) -> None:
    for figure, name in enumerate(("time for a request", "CPU time for a request")):
        rows = [[name, *SIDES, "verdict against qemu-img"]]
        for label, sides in samples.items():
            series = {side: Series(tuple(s[figure] for s in all_)) for side, all_ in sides.items()}
            cells = [series[side].show("us") if side in series else "-" for side in SIDES]
            ratio = series["rhea"].median / series["qemu-img"].median
            said = verdict(series["rhea"], series["qemu-img"])
            rows.append([label, *cells, f"{ratio:.2f}, {said}"])
        print(f"\n{table(rows)}")


def _print_costs() -> None:
    """One run each: no peer has these by themselves."""
    for name in COSTS:
        print(f"\n{name}\n{_run([str(_bench(name))]).rstrip()}")
