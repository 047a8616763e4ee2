"""What the guest `pace` has written down of itself."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

RECORD = 16 << 20
RING, RING_ENTRIES = RECORD + 0x1000, 4096

KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_GET_TSC_KHZ = 0xAE01, 0xAE41, 0xAEA3


@dataclass(frozen=True)
class Pause:
    """Behind how many steps, and the TSC on both sides of it."""

    step: int
    before: int
    after: int

    @property
    def cycles(self) -> int:
        return self.after - self.before


@dataclass(frozen=True)
class Book:
    """Of a guest that runs, the words are not of one moment, and the pauses perhaps half written."""

    steps: int
    latest: int  # TSC
    backward: int
    pauses: list[Pause]  # as many of the last ones as there is room for


def read(path: str | os.PathLike[str]) -> Book:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ram:
        steps, latest, backward, count = struct.unpack_from("<4Q", ram, RECORD)
        pauses = [Pause(*struct.unpack_from("<3Q", ram, RING + number % RING_ENTRIES * 32))
                  for number in range(max(0, count - RING_ENTRIES), count)]
    return Book(steps, latest, backward, pauses)


def steps(ram: mmap.mmap) -> int:
    """Of a guest that may run; quick."""
    return struct.unpack_from("<Q", ram, RECORD)[0]


def tsc_hz() -> int:
    """Of guests on this host."""
    fds = [os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)]
    try:
        fds.append(fcntl.ioctl(fds[-1], KVM_CREATE_VM, 0))
        fds.append(fcntl.ioctl(fds[-1], KVM_CREATE_VCPU, 0))
        return fcntl.ioctl(fds[-1], KVM_GET_TSC_KHZ, 0) * 1000
    finally:
        for fd in reversed(fds):
            os.close(fd)
