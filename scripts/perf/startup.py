"""`scripts/bench startup`: how long a VMM takes to come up, and what it costs when idle."""

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab import guest, host, kernel, runner, vmm
from lab.errors import LabError
from lab.paths import SCRIPTS
from lab.result import Event, LabResult
from perf import micro
from perf.stats import Series, table, verdict

SCENARIOS = SCRIPTS / "lab" / "scenarios"
# event value -> (what the row says, unit)
MICRO_ROWS = {
    "greeting_ms": ("exec to QMP greeting", "ms"),
    "first_instruction_ms": ("exec to first guest instruction", "ms"),
    "overhead_mib": ("PSS beyond guest RAM, micro guest", "MiB"),
}
BOOT_ROWS = {
    "boot_to_init_s": ("Debian 6.1: exec to init", "s"),
    "boot_to_power_off_s": ("Debian 6.1: exec to power-off", "s"),
    "idle_overhead_mib": ("PSS beyond guest RAM, idle shell", "MiB"),
}
Samples = dict[str, dict[str, list[float]]]  # side -> value -> rounds


@dataclass(frozen=True)
class Side:
    """One column of the table."""

    label: str
    vmm: vmm.Vmm
    guest: str  # how the micro guest gets in: kernel (PVH) or bios (reset vector)

    def as_params(self) -> dict[str, object]:
        # Some KVMs refuse IA32_ARCH_CAPABILITIES, and QEMU 7.2 aborts then; it changes no figure.
        extra = ["-cpu", "host,arch-capabilities=off"] if self.guest == "bios" else []
        return {"label": self.label, "vmm": self.label, "guest": self.guest, "micro_options": extra}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="at least 5 for a verdict")
    parser.add_argument(
        "--ours", default="rhea", metavar="VMM", help="rhea or qemu (to test the bench)"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="LABEL=BINARY",
        help="another QEMU to measure beside the installed one",
    )
    parser.add_argument("--no-boot", action="store_true", help="leave the stock kernel out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample")


def run(options: argparse.Namespace) -> int:
    if options.rounds < 1:
        raise LabError("--rounds must be 1 or more")
    sides = _sides(options)
    for side in sides:
        print(f"bench: {side.label}: {_version(side.vmm)}")
    if options.rounds < 5:
        print("bench: fewer than 5 rounds: no verdict is given")
    everything: dict[str, Samples] = {"micro": _micro(sides, options.rounds)}
    _print(everything["micro"], MICRO_ROWS, sides, options.rounds)
    if not options.no_boot:
        everything["boot"] = _boot(sides, options.rounds)
        _print(everything["boot"], BOOT_ROWS, sides, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="ascii")
    return 0


def _sides(options: argparse.Namespace) -> list[Side]:
    ours = vmm.find(options.ours)
    # QEMU's first instruction is its firmware's: the micro guest is that firmware, so that
    # QEMU is not charged for SeaBIOS. Its best case stands beside ours.
    sides = [
        Side("ours", ours, "bios" if ours.name == "qemu" else "kernel"),
        Side("qemu", vmm.find("qemu"), "bios"),
    ]
    for peer in options.peer:
        label, _, binary = peer.partition("=")
        path = Path(binary)
        if not binary or not path.exists():
            raise LabError(f"--peer {peer}: give LABEL=BINARY, the path of an existing program")
        sides.append(Side(label, vmm.Vmm(label, path, vmm.find("qemu").data), "bios"))
    return sides


def _version(program: vmm.Vmm) -> str:
    done = subprocess.run(
        [str(program.binary), "-version"], capture_output=True, text=True, check=False
    )
    return (done.stdout.splitlines() or ["?"])[0]


def _micro(sides: list[Side], rounds: int) -> Samples:
    problem = host.kvm_problem()
    choice = (
        host.choose()
        if problem
        else host.Choice("direct", "micro guests run on any kind of KVM, and /dev/kvm opens")
    )
    print(f"bench: micro guests run {choice}" + (f"; {problem}" if problem else ""))
    with tempfile.TemporaryDirectory() as scratch:
        kernel_file, firmware_file = Path(scratch) / "micro.elf", Path(scratch) / "micro.bin"
        kernel_file.write_bytes(micro.pvh_elf())
        firmware_file.write_bytes(micro.firmware())
        files = {"micro_kernel": kernel_file, "micro_firmware": firmware_file}
        return _run("bench_micro", sides, files, {"rounds": rounds, "timeout": 60}, choice, 600)


def _boot(sides: list[Side], rounds: int) -> Samples:
    linux = kernel.fetch()
    choice = host.choose()
    print(f"\nbench: {linux.package} runs {choice}")
    files = {"bzimage": linux.bzimage, "initrd": guest.initramfs(linux)}
    params = {"rounds": rounds, "end_at_once": guest.run_argument("true\n")}
    return _run("bench_boot", sides, files, params, choice, 120 + 60 * rounds * len(sides))


def _run(
    scenario: str,
    sides: list[Side],
    files: dict[str, Path],
    params: dict[str, object],
    choice: host.Choice,
    timeout: float,
) -> Samples:
    params["sides"] = [side.as_params() for side in sides]
    result = runner.run(
        SCENARIOS / f"{scenario}.py",
        vmms={s.label: s.vmm for s in sides},
        files=files,
        params=params,
        timeout=timeout,
        choice=choice,
        on_event=_tick,
    )
    print()
    if result.exit_status != 0:
        raise LabError(f"{scenario} failed\n{result.report()}")
    return _samples(result)


def _tick(event: Event) -> None:
    if event["event"] == "sample":
        print(".", end="", flush=True)


def _samples(result: LabResult) -> Samples:
    samples: Samples = {}
    for event in result.named("sample"):
        for value, number in event["values"].items():
            samples.setdefault(event["side"], {}).setdefault(value, []).append(number)
    return samples


def _print(
    samples: Samples, rows: dict[str, tuple[str, str]], sides: list[Side], rounds: int
) -> None:
    heading = ["median (min-max)", "ours"]
    for side in sides[1:]:
        heading += [re.sub(r"\s", "_", side.label), "ours/peer", "verdict"]
    lines = [heading]
    for value, (name, unit) in rows.items():
        ours = Series(tuple(samples["ours"][value]))
        line = [name, ours.show(unit)]
        for side in sides[1:]:
            peer = Series(tuple(samples[side.label][value]))
            line += [
                peer.show(unit),
                f"{ours.median / peer.median:.2f}",
                verdict(ours, peer) if rounds >= 5 else "-",
            ]
        lines.append(line)
    print(table(lines))
