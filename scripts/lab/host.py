"""Decides where a scenario runs: directly on this host, or in the nested machine."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError


@dataclass(frozen=True)
class Choice:
    """Where, and the reason in words for the user."""

    where: str  # "direct" or "lab"
    why: str

    def __str__(self) -> str:
        place = (
            "directly on this host"
            if self.where == "direct"
            else "in the lab (a nested machine: QEMU's TCG emulates AMD SVM, 1 CPU)"
        )
        return f"{place}: {self.why}"


def choose(cpuinfo: Path = Path("/proc/cpuinfo"), kvm: Path = Path("/dev/kvm")) -> Choice:
    """vmx or svm and a /dev/kvm that opens mean direct. RHEA_LAB=direct|lab overrides."""
    forced = os.environ.get("RHEA_LAB")
    if forced in ("direct", "lab"):
        return Choice(forced, f"RHEA_LAB={forced} asks for it")
    if forced:
        raise LabError(f"RHEA_LAB={forced}: choose direct or lab")
    extension = re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo.read_text(), re.MULTILINE)
    if extension is None:
        return Choice(
            "lab",
            "the CPU offers neither vmx nor svm, so /dev/kvm here (if any) "
            "cannot run a stock kernel at speed",
        )
    problem = kvm_problem(kvm)
    if problem:
        return Choice("lab", f"the CPU offers {extension.group(1)}, but {problem}")
    return Choice("direct", f"the CPU offers {extension.group(1)} and {kvm} opens")


def kvm_problem(kvm: Path = Path("/dev/kvm")) -> str | None:
    """Why KVM cannot be used by this user, or None."""
    try:
        os.close(os.open(kvm, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{kvm} does not open ({error.strerror})"
    return None
