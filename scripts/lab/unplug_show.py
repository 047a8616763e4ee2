"""What scripts/demo says about disks that its show `unplug` has pulled."""

import re
from typing import Any

# How Linux answers a writer whose disk has gone: to an open (ENXIO, ENODEV), to a request under way
# (EIO), and to the write behind it, because a disk that has gone has no sectors (ENOSPC).
_DISK_GONE = re.compile(r"No such device|Input/output error|I/O error|No space left on device")


def problems(data: dict[str, Any]) -> list[str]:
    """What the guest should have seen and did not, round by round, or how the VMM ended."""
    found = []
    for number, seen in enumerate(data["rounds"], 1):
        if " vda\n" not in seen["there"]:
            found.append(f"round {number}: the guest did not see the disk come")
        if not _DISK_GONE.search(seen["last_words"]):
            found.append(f"round {number}: the writer did not notice: {seen['last_words']}")
        if "vda" in seen["gone"]:
            found.append(f"round {number}: the guest still has the disk")
    if data["exit_status"] != 0:
        found.append(f"the VMM's exit status is {data['exit_status']}")
    return found
