"""What a VMM costs in memory beyond its guest's RAM."""

import re

_HEADER = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$")


def overhead_kib(pid: int, ram_mib: int) -> int:
    """Sum of Pss over all mappings but guest RAM, in KiB.

    Guest RAM is the one mapping of exactly the guest's size. Not counted: page tables and what the
    kernel holds for KVM. A shared library counts in proportion to the processes that map it.
    """
    sizes: list[tuple[int, int]] = []
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            if _HEADER.match(line):
                sizes.append((0, 0))
            elif line.startswith("Size:"):
                sizes[-1] = (int(line.split()[1]), 0)
            elif line.startswith("Pss:"):
                sizes[-1] = (sizes[-1][0], int(line.split()[1]))
    ram = [pss for size, pss in sizes if size == ram_mib * 1024]
    if len(ram) != 1:
        raise ValueError(f"{len(ram)} mappings of {ram_mib} MiB in process {pid}, expected one")
    return sum(pss for _, pss in sizes) - ram[0]
