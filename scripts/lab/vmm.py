"""The VMM under test, or its peer, as files on this host."""

import os
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.paths import ROOT

QEMU = Path("/usr/bin/qemu-system-x86_64")
_QEMU_FIRMWARE = (
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
    "qboot.rom",
)


@dataclass(frozen=True)
class Vmm:
    """A binary and the data files it opens by absolute path."""

    name: str
    binary: Path
    data: tuple[Path, ...] = ()


def find(name: str | None = None) -> Vmm:
    """`rhea` (RHEA_BINARY, RHEA_BUILD/rhea or build/rhea) or `qemu`; default: RHEA_LAB_VMM."""
    name = name or os.environ.get("RHEA_LAB_VMM") or "rhea"
    if name == "rhea":
        built = Path(os.environ.get("RHEA_BUILD") or ROOT / "build") / "rhea"
        binary = Path(os.environ.get("RHEA_BINARY") or built).absolute()
        hint = "build it: meson setup build && ninja -C build"
        data: tuple[Path, ...] = ()
    elif name == "qemu":
        binary, hint = QEMU, "run scripts/setup"
        data = _firmware()
    else:
        raise LabError(f"no VMM is called {name}; choose rhea or qemu")
    if not os.access(binary, os.X_OK):
        raise LabError(f"{binary} does not exist or is not executable; {hint}")
    return Vmm(name, binary, data)


def _firmware() -> tuple[Path, ...]:
    folders = (Path("/usr/share/qemu"), Path("/usr/share/seabios"))
    return tuple(
        folder / name for folder in folders for name in _QEMU_FIRMWARE if (folder / name).exists()
    )
