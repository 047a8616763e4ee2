"""The options a scenario boots its guests with: the ones every VMM under test understands."""

from collections.abc import Sequence

from lab.inside.agent import Context
from lab.inside.console import Console
from lab.inside.pump import PATIENCE_S

BASE = (
    "-machine",
    "pc",
    "-accel",
    "kvm",
    "-cpu",
    "host",
    "-nodefaults",
    "-display",
    "none",
    "-serial",
    "stdio",
)
CMDLINE = "console=ttyS0 panic=-1 quiet mitigations=off"


def linux(
    ctx: Context,
    *extra: str,
    kernel: str = "bzimage",
    initrd: str = "initrd",
    memory: str = "256",
    cpus: int = 1,
    append: Sequence[str] = ()
) -> list[str]:
    """Boots the Linux guest that lies in the scenario's files."""
    return [
        *BASE,
        "-m",
        memory,
        "-smp",
        str(cpus),
        "-kernel",
        ctx.files[kernel],
        "-initrd",
        ctx.files[initrd],
        "-append",
        " ".join([CMDLINE, *append]),
        *extra,
    ]


def expect_banner(console: Console, timeout: float = PATIENCE_S) -> tuple[str, int]:
    """Waits for the guest's init: (kernel release, number of CPUs)."""
    match = console.expect(r"^lab: guest is up, Linux (\S+), (\d+) CPU", timeout)
    return match.group(1), int(match.group(2))
