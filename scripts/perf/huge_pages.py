"""The host's pool of huge pages, for as long as a benchmark needs them.

A virtual host gets memory that nobody has touched from its own host, page by page: the first round
that touches it may take ten times as long as the next one, and what is freed may be given back in
between. Pages of the pool stay."""

import contextlib
import fcntl
import re
from collections.abc import Iterator
from pathlib import Path

_POOL = Path("/proc/sys/vm/nr_hugepages")


def _meminfo(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", Path("/proc/meminfo").read_text("ascii"), re.M)
    return int(found.group(1)) if found else 0


@contextlib.contextmanager
def huge_pages(mebibytes: int) -> Iterator[str | None]:
    """Has that much free meanwhile; gives why it has not."""
    size_kib = _meminfo("Hugepagesize")
    if size_kib == 0:
        yield "this kernel has no huge pages"
        return
    need = -(-(mebibytes << 10) // size_kib)
    try:
        pool = _POOL.open("r+", encoding="ascii")
    except OSError as error:
        yield f"they can not be set aside: {error.strerror}"
        return
    with pool:
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = int(_POOL.read_text("ascii"))
        taken = _meminfo("HugePages_Total") - _meminfo("HugePages_Free") + _meminfo("HugePages_Rsvd")
        try:
            _POOL.write_text(f"{max(before, taken + need)}\n", encoding="ascii")
            free = _meminfo("HugePages_Free") - _meminfo("HugePages_Rsvd")
            yield None if free >= need else f"the host finds only {free} of {need}"
        finally:
            _POOL.write_text(f"{before}\n", encoding="ascii")
