"""The kvm tier: the real binary on the host's real KVM, with guests of a few hundred bytes."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Any, Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support import qmp, vm  # noqa: E402
from support.dirtier import Dirtiers  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"/dev/kvm can not be opened: {error.strerror}"))


class Guest:
    """Starts micro-guests by name; whatever it started is gone when the test ends."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.started: list[vm.Process] = []
        self._sockets = 0

    @staticmethod
    def image(name: str) -> str:
        return str(vm.BUILD / "tests/kvm" / f"{name}.elf")

    def arguments(self, name: str, *extra: str, serial: str = "stdio",
                  append: str | None = None) -> list[str]:
        words = ["-accel", "kvm", "-nodefaults", "-display", "none", "-m", "64",
                 "-serial", serial, "-kernel", self.image(name)]
        return words + ([] if append is None else ["-append", append]) + list(extra)

    def command(self, *words: str | os.PathLike[str], **options: Any) -> vm.Process:
        process = vm.Process(words, **options)
        self.started.append(process)
        return process

    def run(self, *arguments: str | os.PathLike[str], **options: Any) -> vm.Process:
        return self.command(vm.RHEA, *arguments, **options)

    def __call__(self, name: str, *extra: str, serial: str = "stdio", append: str | None = None,
                 **options: Any) -> vm.Process:
        return self.run(*self.arguments(name, *extra, serial=serial, append=append), **options)

    def with_qmp(self, name: str, *extra: str, serial: str = "stdio",
                 **options: Any) -> tuple[vm.Process, qmp.Qmp]:
        """A guest with a monitor, which is negotiated when this returns."""
        self._sockets += 1
        listener = qmp.Listener(self.folder / f"qmp{self._sockets}")
        process = self(name, "-qmp", f"unix:{listener.path}", *extra, serial=serial, **options)
        monitor = qmp.Qmp(listener.accept()).negotiate()
        listener.close()
        return process, monitor

    def clean_up(self) -> None:
        for process in self.started:
            process.kill()


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Iterator[Guest]:
    factory = Guest(tmp_path)
    yield factory
    factory.clean_up()


@pytest.fixture
def dirtiers(guest: Guest, tmp_path: pathlib.Path) -> Dirtiers:
    return Dirtiers(guest, tmp_path)
