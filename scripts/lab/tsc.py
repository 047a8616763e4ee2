"""How fast this host's time-stamp counter runs.

Linux finds that out as it boots, by a timer: on an emulated CPU whose host is busy it may be wrong by a
factor of three, and does not mend it. All that KVM in there does with time is wrong then: a guest's next
timer interrupt may be minutes late. The emulated counter is the host's, so the host can tell."""

import ctypes
import functools
import mmap
import time

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURED_S = 0.1
_TRIES = 50


@functools.cache
def frequency_khz() -> int:
    """Of the counter of an x86-64 CPU, within some parts in a million."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_RDTSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    begin = _look(read)
    time.sleep(_MEASURED_S)
    end = _look(read)
    return round((end[1] - begin[1]) * 1_000_000 / (end[0] - begin[0]))


def _look(read) -> tuple[int, int]:
    """Nanoseconds and the counter, of the try with the least time between: nobody was in the way."""
    tries = []
    for _ in range(_TRIES):
        before = time.monotonic_ns()
        count = read()
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, count))
    return min(tries)[1:]
