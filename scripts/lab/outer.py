"""Makes the nested machine (L1): its initramfs and the QEMU command that runs it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import closure, tsc
from lab.cpio import CpioArchive
from lab.guest import add_busybox
from lab.kernel import Kernel
from lab.paths import cached
from lab.vmm import QEMU, Vmm

_MODULES = ("kvm-amd", "virtio_pci", "virtio_console", "virtio_blk", "ext4")
EVENTS_PORT, TTY_PORT = "/dev/vport0p1", "/dev/vport0p2"
_DISK = "/dev/vda"

_INIT = f"""#!/bin/sh
export PATH=/bin:/usr/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm
exec 0</dev/console 1>/dev/console 2>&1
while read -r module; do insmod "/modules/$module"; done < /modules/order
ip link set lo up; dmesg -n 1
[ -c /dev/kvm ] || echo "lab: L1 has no /dev/kvm"
PYTHONPATH=/{closure.L1_LIBRARY} python3 -S -B -m lab.inside.agent \
    /lab/scenario.py /lab/context.json {EVENTS_PORT} {TTY_PORT}
poweroff -f
"""


def context(
    where: str,
    vmms: Mapping[str, Vmm],
    files: Mapping[str, Path],
    params: Mapping[str, Any],
    disk: Path | None = None,
) -> bytes:
    """The scenario's settings, with paths as they are seen where it runs."""
    nested = where == "lab"
    return json.dumps(
        {
            "where": where,
            "vmms": {
                key: [_inside(vmm) if nested else str(vmm.binary)] for key, vmm in vmms.items()
            },
            "files": {
                name: f"/lab/files/{name}" if nested else str(path) for name, path in files.items()
            },
            "params": dict(params),
            "disk": _DISK if nested and disk else disk and str(disk),
        },
        sort_keys=True,
    ).encode()


def _inside(vmm: Vmm) -> str:
    """An installed binary keeps its path: QEMU looks for its firmware relative to itself."""
    installed = vmm.binary.is_relative_to("/usr")
    return str(vmm.binary) if installed else f"/lab/bin/{vmm.binary.name}"


def initramfs(
    kernel: Kernel,
    scenario: Path,
    vmms: Mapping[str, Vmm],
    files: Mapping[str, Path],
    settings: bytes,
) -> Path:
    """L1's root: the initramfs is made per scenario, and cached by the content of all its parts."""
    archive = CpioArchive()
    add_busybox(archive, "bin")
    for name in ("dev", "proc", "sys", "tmp", "root", "etc"):
        archive.directory(name)
    archive.char_device("dev/console", 5, 1)
    archive.file("init", _INIT.encode(), 0o755)
    modules = kernel.modules(_MODULES)
    for name, data in modules:
        archive.file(f"modules/{name}", data)
    archive.file("modules/order", "".join(f"{name}\n" for name, _ in modules).encode())
    closure.add_python(archive, scenario)
    for vmm in vmms.values():
        closure.add_program(archive, vmm.binary, _inside(vmm))
        for path in vmm.data:
            archive.copy(str(path), path.resolve())
    for name, path in files.items():
        archive.copy(f"lab/files/{name}", path)
    archive.copy("lab/scenario.py", scenario)
    archive.file("lab/context.json", settings)
    data = archive.to_bytes()
    return cached("outer", hashlib.sha256(data).digest(), lambda: data, keep=6)


def disk_options(disk: Path) -> list[str]:
    """What L1 has written survives its end by SIGKILL; what lies in L1's page cache does not."""
    return [
        "-drive",
        f"file={disk},if=none,id=disk,format=raw,cache=writeback,discard=unmap",
        "-device",
        "virtio-blk-pci,drive=disk",
    ]


def command(
    kernel: Kernel, initrd: Path, memory_mib: int, events_fd: int, tty_fd: int
) -> list[str]:
    """One CPU on purpose: with two, multi-threaded TCG kills about one L1 in three.

    EPYC, not max: with every feature on, the L2 kernel panics on an XSAVE size mismatch.
    no_timer_check: a kernel that is emulated on a busy host would find its timer too slow, and panic.
    tsc_early_khz: it would find out its speed wrong, too (tsc.py).
    """
    return [
        str(QEMU),
        "-accel",
        "tcg",
        "-cpu",
        "EPYC,+svm",
        "-smp",
        "1",
        "-m",
        str(memory_mib),
        "-display",
        "none",
        "-nodefaults",
        "-nic",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        str(kernel.bzimage),
        "-initrd",
        str(initrd),
        "-append",
        "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check tsc=reliable "
        f"tsc_early_khz={tsc.frequency_khz()}",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        f"socket,id=events,fd={events_fd}",
        "-device",
        "virtserialport,chardev=events,nr=1",
        "-chardev",
        f"socket,id=tty,fd={tty_fd}",
        "-device",
        "virtserialport,chardev=tty,nr=2",
    ]
