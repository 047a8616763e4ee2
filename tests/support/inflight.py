"""What the guest `inflight` says of its writes, and what a disk must hold then."""

from __future__ import annotations

import mmap
import os
import pathlib
import struct
from dataclasses import dataclass

RECORD = 16 << 20
REQUESTS, SECTORS, SECTOR = 8, 8, 512
IMAGE = REQUESTS * SECTORS * SECTOR


@dataclass(frozen=True)
class Writes:
    """Of a machine that stands still."""

    rung: bool  # the device was told of the first ones
    completed: int  # as the guest has seen
    by_request: tuple[int, ...]
    available: int  # the rings' indices
    used: int


def read(path: str | os.PathLike[str]) -> Writes:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ram:
        completed, rung, *rings = struct.unpack_from("<4Q", ram, RECORD)
        available, used = (struct.unpack_from("<H", ram, at)[0] if at else 0 for at in rings)
        by_request = struct.unpack_from(f"<{REQUESTS}Q", ram, RECORD + 64)
    return Writes(rung != 0, completed, by_request, available, used)


def check(ram: str | os.PathLike[str], image: pathlib.Path) -> Writes:
    """Each request is under way once or was seen to come back; the image holds what was written."""
    writes = read(ram)
    done = sum(writes.by_request)
    assert done - writes.completed in (0, 1)  # it may stand within its loop
    assert (done + REQUESTS - writes.available) % 0x10000 in (0, 1)
    assert (writes.used - done) % 0x10000 <= REQUESTS
    content = image.read_bytes()
    for request, done in enumerate(writes.by_request):
        for sector in range(SECTORS):
            at = (request * SECTORS + sector) * SECTOR
            words = set(struct.unpack_from(f"<{SECTOR // 8}Q", content, at))
            assert words in [{number} for number in allowed(request, sector, done)], (
                request, sector, done, words)
    return writes


def allowed(request: int, sector: int, done: int) -> list[int]:
    """What the sector may hold after so many writes of the request, and perhaps the next one."""
    last = done - 1 - (done - 1 - sector) % SECTORS  # the last of them that went there
    may_be = [last] if done % SECTORS != sector else [last, done]
    return [number * REQUESTS + request + 1 if number >= 0 else 0 for number in may_be]
