"""Guest RAM on huge pages that the host has set aside: the pages are used, and given back."""

from __future__ import annotations

import fcntl
import pathlib
import re
import subprocess
from typing import Iterator

import pytest

from support import vm

POOL = pathlib.Path("/proc/sys/vm/nr_hugepages")
RAM_MIB = 64  # what guest.arguments() asks for


def meminfo(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return int(found.group(1)) if found else 0


def hugetlb_mappings(process: vm.Process) -> list[tuple[int, int]]:
    """(bytes mapped, bytes present) of each mapping of the process that is made of huge pages."""
    smaps = pathlib.Path(f"/proc/{process.process.pid}/smaps").read_text()
    found = []
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        kib = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", entry, re.M)}
        if kib["KernelPageSize"] > 4:
            found.append((kib["Size"] << 10, (kib["Shared_Hugetlb"] + kib["Private_Hugetlb"]) << 10))
    return found


@pytest.fixture
def huge_pages() -> Iterator[int]:
    """As many free huge pages as the RAM needs, for as long as the test runs; the size of one."""
    size_kib = meminfo("Hugepagesize")
    if size_kib == 0:
        pytest.skip("this kernel has no huge pages")
    need = -(-(RAM_MIB << 10) // size_kib)
    try:
        pool = POOL.open("r+")
    except OSError as error:
        pytest.skip(f"huge pages can not be set aside: {error}")
    with pool:
        fcntl.flock(pool, fcntl.LOCK_EX)  # another run of this test would restore what we set
        before = int(POOL.read_text())
        in_use = meminfo("HugePages_Total") - meminfo("HugePages_Free") + meminfo("HugePages_Rsvd")
        try:
            POOL.write_text(f"{max(before, in_use + need)}\n")
            free = meminfo("HugePages_Free") - meminfo("HugePages_Rsvd")
            if free < need:
                pytest.skip(f"the host finds only {free} of {need} free huge pages")
            yield size_kib << 10
            assert meminfo("HugePages_Free") - meminfo("HugePages_Rsvd") == free  # all came back
        finally:
            POOL.write_text(f"{before}\n")


@pytest.fixture
def hugetlbfs(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    folder = tmp_path / "hugetlbfs"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "hugetlbfs", "none", str(folder)], text=True,
                          capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"hugetlbfs can not be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def check_guest(guest, *memory: str) -> None:
    """All RAM is one mapping of huge pages, present before the guest runs; then the guest runs."""
    process, monitor = guest.with_qmp("hello", *memory, "-S")
    assert hugetlb_mappings(process) == [(RAM_MIB << 20, RAM_MIB << 20)]
    assert monitor.execute("cont") == {}
    process.wait_for("hello from a micro-guest\n")
    assert process.wait() == 0, process.stderr
    assert process.stderr == ""


@pytest.mark.parametrize("size", ["", ",hugetlbsize={size}"])
def test_a_memfd_of_huge_pages_is_ram(guest, huge_pages, size):
    backend = "memory-backend-memfd,id=m,hugetlb=on,prealloc=on,size=64M"
    check_guest(guest, "-object", backend + size.format(size=huge_pages), "-machine",
                "memory-backend=m")


def test_a_file_on_hugetlbfs_is_ram(guest, hugetlbfs, huge_pages):
    backend = f"memory-backend-file,id=m,mem-path={hugetlbfs},prealloc=on,size=64M"
    check_guest(guest, "-object", backend, "-machine", "memory-backend=m")
    assert list(hugetlbfs.iterdir()) == []


def test_mem_path_on_hugetlbfs_is_ram(guest, hugetlbfs, huge_pages):
    check_guest(guest, "-mem-path", str(hugetlbfs), "-mem-prealloc")
    assert list(hugetlbfs.iterdir()) == []


def test_ram_that_is_no_multiple_of_the_huge_page_is_refused(guest, huge_pages):
    process = guest.run(*guest.arguments(
        "hello", "-object", f"memory-backend-memfd,id=m,hugetlb=on,size={(RAM_MIB << 20) + 4096}",
        "-machine", "memory-backend=m", "-m", f"{(RAM_MIB << 10) + 4}k"))
    assert process.wait() == 1
    assert process.stderr == ("rhea: RAM 'm': RAM size 67112960 bytes is not a multiple of the page "
                              f"size {huge_pages >> 20} MiB\n")
