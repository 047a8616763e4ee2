"""The guest of the migration tests: what it promises of its memory holds wherever it is stopped."""

from __future__ import annotations

import mmap
import struct

from support import vm

AREA = 16 << 20
PAGE = 4096
UNIT = 8 << 20  # of the command line's last digit
STOPS = vm.sized(5, 100)


def read_area(path: str, size: int) -> tuple[list[int], list[int]]:
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


def test_pages_differ_by_one_step_and_never_go_back(guest, tmp_path):
    ram = tmp_path / "ram"
    process, monitor = guest.with_qmp(
        "dirtier", "-machine", "memory-backend=ram", "-debugcon", "stdio",
        "-object", f"memory-backend-file,id=ram,size=64M,mem-path={ram},share=on",
        serial="null", append="1")
    before = [0] * (UNIT // PAGE)
    for _ in range(STOPS):
        seen = process.stdout.count("\n")
        while process.stdout.count("\n") < seen + 3:  # heartbeats
            process.wait_for("\n")
        monitor.execute("stop")
        first, last = read_area(ram, UNIT)
        check_steps(first, last)
        assert all(now >= then for now, then in zip(first, before))
        before = first
        monitor.execute("cont")
        process.drain()
    assert before[-1] > 0
    lines = process.stdout.split("\n")[:-1]
    assert all(len(line) == 8 for line in lines)
    numbers = [int(line, 16) for line in lines]
    assert numbers == sorted(set(numbers))
