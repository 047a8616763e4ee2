"""Starts the lab runs that the selected tests need, and hands out their results."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))

from lab import guest, host, kernel, runner, vmm  # noqa: E402
from lab.result import LabResult  # noqa: E402

import power_cut  # noqa: E402

VMM = os.environ.get("RHEA_LAB_VMM") or "rhea"
FULL = os.environ.get("RHEA_TEST_SIZE") == "full"
BIG_RAM_MIB = 3800  # over 3.5 GiB: every VMM splits it around the PCI hole
FILL_COPIES = 32  # of the guest's busybox, 2 MB each
FLUSHES = 100 if FULL else 12  # that a guest sees on each disk before the plug is pulled


FIO, EJECT, BASH = Path("/usr/bin/fio"), Path("/usr/bin/eject"), Path("/bin/bash")
FIO_JOB_MIB = 32 if FULL else 1
FIO_DISK_SIZE = 4 * FIO_JOB_MIB << 20  # each disk's four jobs fill it
# What lies on the discs that a CD drive is given.
DISCS = {
    name: {
        "label": f"disc {name}\n",
        "text": "".join(f"line {i} of disc {name}\n" for i in range(20000)),
    }
    for name in ("one", "two")
}


@dataclass(frozen=True)
class Plan:
    """One lab run: which scenario, with what."""

    scenario: str
    timeout: float
    params: dict[str, Any] = field(default_factory=dict)
    memory_mib: int = 4096
    series: str = "6.1"
    disk: Callable[[], Path] | None = None  # the machine gets a copy


def _root_with_fio() -> Path:
    return guest.root_image(
        192, programs=[FIO], texts={"verify.fio": (HERE / "verify.fio").read_text()}
    )


def _root_with_clock() -> Path:
    clock = (HERE / "clock.sh").read_text()
    return guest.root_image(192, programs=[FIO, BASH], texts={"clock.sh": clock})


def _root_with_eject() -> Path:
    return guest.root_image(64, programs=[EJECT])


def _scsi(rounds: int, series: str = "6.1") -> Plan:
    # A guest that is busy may take a while to let an adapter go; that there is an end to the
    # waiting is Rhea's alone.
    machine = ["-machine", "pc,x-unplug-timeout=60"] if VMM == "rhea" else []
    params = {"rounds": rounds, "machine": machine}
    return Plan("scsi", 480 + 30 * rounds, params, series=series, disk=_root_with_fio)


def _migration(hops: int, series: str = "6.1") -> Plan:
    rhea = VMM == "rhea"
    params = {
        "channels": [[1, 2, 4, 0][number % 4] for number in range(hops)],
        # The nested machine is slow: what is left would never fit the usual 300 ms.
        "settings": {"downtime-limit": 1000, **({"x-page-checksum": True} if rhea else {})},
        "file": ["file:", "file:"] if rhea else ["exec:cat > ", "exec:cat "],
    }
    return Plan("migration", 480 + 40 * hops, params, series=series, disk=_root_with_clock)


PLANS = {
    "boot": Plan("boot", 480),
    "life": Plan(
        "life",
        600,
        {
            "exit_0_script": guest.run_argument("true\n"),
            "big_ram_mib": BIG_RAM_MIB,
            "fill_copies": FILL_COPIES,
        },
        memory_mib=6144,
    ),
    "disk": Plan("disk", 600, {"hotplug_rounds": 50 if FULL else 5}),
    "disk_6_12": Plan("disk", 600, {"hotplug_rounds": 50}, series="6.12"),
    "hotplug": Plan("hotplug", 600, {"rounds": 50 if FULL else 3}, disk=_root_with_fio),
    "hotplug_6_12": Plan("hotplug", 600, {"rounds": 50}, series="6.12", disk=_root_with_fio),
    "scsi": _scsi(50 if FULL else 3),
    "scsi_6_12": _scsi(50, "6.12"),
    "scsi_cd": Plan("scsi_cd", 480, disk=_root_with_eject),
    "scsi_cd_6_12": Plan("scsi_cd", 480, series="6.12", disk=_root_with_eject),
    "migration": _migration(10 if FULL else 3),
    "migration_6_12": _migration(10, "6.12"),
    "power_cut": Plan("power_cut", 480),
    "fio": Plan(
        "fio",
        600 if FULL else 480,
        {
            "job_size": f"{FIO_JOB_MIB}m",
            "disk_size": FIO_DISK_SIZE,
            "timeout": 500 if FULL else 300,
        },
        disk=_root_with_fio,
    ),
    "boot_6_12": Plan("boot", 480, {"boots": ["one_cpu", "pvh"]}, series="6.12"),
}
MAKERS: dict[str, Callable[[kernel.Kernel], Path]] = {
    "bzimage": lambda linux: linux.bzimage,
    "vmlinux": lambda linux: linux.vmlinux,
    "initrd": guest.initramfs,
    "initrd_disk": lambda linux: guest.initramfs(linux, modules=guest.DISK_MODULES),
    "initrd_scsi": lambda linux: guest.initramfs(
        linux, modules=guest.DISK_MODULES + guest.CD_MODULES
    ),
    "initrd_button": lambda linux: guest.initramfs(linux, modules=guest.POWER_BUTTON_MODULES),
    "root": lambda linux: guest.root_image(64),
    "one": lambda linux: guest.iso_image(DISCS["one"]),
    "two": lambda linux: guest.iso_image(DISCS["two"]),
}
# What a scenario boots: the nested machine unpacks each byte of it.
FILES = {
    "boot": ("bzimage", "vmlinux", "initrd"),
    "life": ("bzimage", "initrd", "initrd_button"),
    "disk": ("bzimage", "initrd_disk", "root"),
    "power_cut": ("bzimage", "initrd_disk", "root"),
    "fio": ("bzimage", "initrd_disk"),
    "hotplug": ("bzimage", "initrd_disk", "root"),
    "migration": ("bzimage", "initrd_disk"),
    "scsi": ("bzimage", "initrd_scsi", "root"),
    "scsi_cd": ("bzimage", "initrd_scsi", "one", "two"),
}
Getter = Callable[[str], LabResult]
_LONGEST = max(plan.timeout for plan in PLANS.values() if FULL or plan.series == "6.1")


def _run(plan: Plan, choice: host.Choice) -> LabResult:
    linux = kernel.fetch(plan.series)
    files = {name: MAKERS[name](linux) for name in FILES[plan.scenario]}
    scenario = HERE / "scenarios" / f"{plan.scenario}.py"
    if plan.scenario == "power_cut":
        return power_cut.run(scenario, files, FLUSHES, plan.timeout)
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(shutil.copy(plan.disk(), folder)) if plan.disk else None
        return runner.run(
            scenario,
            vmms={"vmm": vmm.find()},
            files=files,
            params={"release": linux.release, **plan.params},
            timeout=plan.timeout,
            memory_mib=plan.memory_mib,
            choice=choice,
            disk=disk,
        )


@pytest.fixture(scope="session")
def lab_runs(request: pytest.FixtureRequest) -> Iterator[Getter]:
    """The runs that the selected tests name by @pytest.mark.lab_run, two at a time."""
    wanted = sorted(
        {mark.args[0] for item in request.session.items for mark in item.iter_markers("lab_run")}
    )
    choice = host.choose()
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures: dict[str, Future[LabResult]] = {
            name: pool.submit(_run, PLANS[name], choice) for name in wanted
        }
        yield lambda name: futures[name].result()
        for future in futures.values():
            future.cancel()


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_runs: Getter) -> LabResult:
    """The result of the run that this test's lab_run mark names."""
    mark = request.node.get_closest_marker("lab_run")
    assert mark is not None
    return lab_runs(mark.args[0])


def case(lab: LabResult, name: str) -> dict[str, Any]:
    """What a case recorded; it must have passed."""
    outcome = lab.case(name)
    assert outcome.ok, f"{outcome.error}\n{lab.report()}"
    return outcome.data


def on_kernels(name: str) -> pytest.MarkDecorator:
    """Marks a test of the lab run `name`: with Debian's 6.1, and at full size with 6.12."""
    runs = [name, f"{name}_6_12"] if FULL else [name]
    params = [pytest.param(run, marks=pytest.mark.lab_run(run)) for run in runs]
    return pytest.mark.parametrize("run", params)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "lab_run(name): the lab run whose outcome the test checks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a run waits for all of it: the limit per test covers two runs in a row."""
    for item in items:
        if item.get_closest_marker("lab_run") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(100 + _LONGEST))


def pytest_report_header() -> str:
    return f"lab: VMM under test: {VMM}; {host.choose()}"
