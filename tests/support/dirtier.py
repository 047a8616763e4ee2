"""What the guest `dirtier` promises of its memory, wherever it is stopped."""

from __future__ import annotations

import mmap
import os
import struct

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
