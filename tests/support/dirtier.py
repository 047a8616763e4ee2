"""The guest `dirtier`: its instances, and what it promises of its memory, wherever it is stopped."""

from __future__ import annotations

import mmap
import os
import pathlib
import struct
from typing import Any

from support import migration
from support.migration import Instance

AREA = 16 << 20
PAGE = 4096
UNIT = 8 << 20  # of the command line's last digit


def read_area(path: str | os.PathLike[str], size: int) -> tuple[list[int], list[int]]:
    """The first and the last word of each page."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ram:
        starts = range(AREA, AREA + size, PAGE)
        return ([struct.unpack_from("<Q", ram, at)[0] for at in starts],
                [struct.unpack_from("<Q", ram, at + PAGE - 8)[0] for at in starts])


def check_steps(first: list[int], last: list[int]) -> None:
    """One page is being stepped: those before it are one ahead of those behind it."""
    assert first == sorted(first, reverse=True)
    assert last == sorted(last, reverse=True)
    assert first[0] - first[-1] <= 1
    assert last[0] - last[-1] <= 1
    torn = [i for i, (a, b) in enumerate(zip(first, last)) if a != b]
    assert len(torn) <= 1
    assert all(first[i] == last[i] + 1 for i in torn)


class Dirtiers:
    """Instances of it, each with its RAM in a file of its own; its heartbeats are lines on stdout."""

    def __init__(self, guest: Any, folder: pathlib.Path) -> None:
        self.guest, self.folder, self.count = guest, folder, 0

    def start(self, *extra: str, accel: str = "kvm") -> Instance:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        words = self.guest.arguments("dirtier", "-machine", "memory-backend=ram", "-debugcon", "stdio",
                                     "-object", f"memory-backend-file,id=ram,size=64M,"
                                     f"mem-path={folder / 'ram'},share=on",
                                     *extra, serial="null", append="1")
        words[words.index("-accel") + 1] = accel
        instance = migration.start(self.guest.run, folder, *words)
        instance.ram = folder / "ram"
        return instance


def beats(instance: Instance, number: int) -> None:
    """Waits for `number` more of the guest's heartbeats."""
    for _ in range(number):
        instance.process.wait_for("\n")


def beats_from_now(instance: Instance, number: int) -> None:
    """Of which none was written before the call. Between two of them the guest has written every page."""
    instance.process.drain()
    written = instance.process.stdout.count("\n")
    while instance.process.stdout.count("\n") < written + number:
        instance.process.wait_for("\n")
