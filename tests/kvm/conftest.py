"""The kvm tier: the real binary on the host's real KVM, with guests of a few hundred bytes."""

from __future__ import annotations

import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support import vm  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        for item in items:
            item.add_marker(pytest.mark.skip(reason="/dev/kvm can not be opened on this host"))


class Guest:
    """Starts a micro-guest by name."""

    def __call__(self, name: str, *extra: str, serial: str = "stdio",
                 append: str | None = None) -> vm.Process:
        arguments = ["-accel", "kvm", "-nodefaults", "-display", "none", "-m", "64",
                     "-serial", serial, "-kernel", str(vm.BUILD / "tests/kvm" / f"{name}.elf")]
        if append is not None:
            arguments += ["-append", append]
        process = vm.rhea(*arguments, *extra)
        self.started.append(process)
        return process

    def __init__(self) -> None:
        self.started: list[vm.Process] = []


@pytest.fixture
def guest():
    """The factory; whatever it started is gone when the test ends."""
    factory = Guest()
    yield factory
    for process in factory.started:
        process.kill()
