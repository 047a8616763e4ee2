"""Guest RAM on huge pages that the host has set aside: the pages are used, and given back, also where a guest
arrives or leaves. And transparent huge pages, where a guest arrives."""

from __future__ import annotations

import fcntl
import pathlib
import re
import subprocess
from typing import Iterator

import pytest

from support import migration, vm
from support.dirtier import PAGE, UNIT, check_steps, read_area
from support.migration import Instance

POOL = pathlib.Path("/proc/sys/vm/nr_hugepages")
TRANSPARENT = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
RAM_MIB = 64  # what guest.arguments() asks for
CHANNELS = [0, 1, 2, 4] if vm.full_size() else [0, 2]


def meminfo(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return int(found.group(1)) if found else 0


def mappings(process: vm.Process) -> Iterator[dict[str, int]]:
    """What smaps says of each mapping of the process, in bytes by name."""
    smaps = pathlib.Path(f"/proc/{process.process.pid}/smaps").read_text()
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", smaps):
        yield {key: int(value) << 10 for key, value in re.findall(r"^(\w+):\s+(\d+) kB$", entry, re.M)}


def hugetlb_mappings(process: vm.Process) -> list[tuple[int, int]]:
    """(bytes mapped, bytes present) of each mapping of the process that is made of huge pages."""
    return [(each["Size"], each["Shared_Hugetlb"] + each["Private_Hugetlb"])
            for each in mappings(process) if each["KernelPageSize"] > PAGE]


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


def start_dirtier(guest, folder: pathlib.Path, *extra: str) -> Instance:
    folder.mkdir()
    return migration.start(guest.run, folder, *guest.arguments(
        "dirtier", "-debugcon", "stdio", *extra, serial="null", append="1"))


def beats(instance: Instance, number: int) -> None:
    for _ in range(number):
        instance.process.wait_for("\n")


def move(source: Instance, target: Instance, channels: int, uri: str) -> None:
    """Waits until the guest runs, and has gone on, in the target; stops it there."""
    source.qmp.execute("migrate-set-parameters", max_bandwidth=0, multifd_channels=max(channels, 1))
    if channels:
        source.set_capabilities("multifd")
    source.qmp.execute("migrate", uri=migration.listen(target, uri))
    result = source.finish()
    assert result["status"] == "completed", result
    assert target.wait_migration(*migration.OVER) == "completed"
    beats(target, 2)
    target.qmp.execute("stop")


def ram_file(instance: Instance) -> pathlib.Path:
    """The memfd that is the machine's RAM."""
    [path] = [fd for fd in pathlib.Path(f"/proc/{instance.process.process.pid}/fd").iterdir()
              if str(fd.readlink()).startswith("/memfd:ram ")]
    return path


def check_moved(source: Instance, target: Instance) -> None:
    left, _ = read_area(ram_file(source), UNIT)
    first, last = read_area(ram_file(target), UNIT)
    check_steps(first, last)
    assert first[0] > 0
    assert all(now >= then for now, then in zip(first, left)), "a page went back"


def end(instance: Instance) -> None:
    instance.qmp.execute("quit")
    assert instance.process.wait() == 0, instance.process.stderr


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_guest_moves_onto_huge_pages_and_off_them(huge_pages, guest, tmp_path, channels):
    plain = ("-object", "memory-backend-memfd,id=ram,share=on,size=64M", "-machine", "memory-backend=ram")
    huge = ("-object", "memory-backend-memfd,id=ram,hugetlb=on,share=on,size=64M", *plain[2:])
    source = start_dirtier(guest, tmp_path / "source", *plain)
    beats(source, 3)
    middle = start_dirtier(guest, tmp_path / "middle", *huge, "-incoming", "defer")
    move(source, middle, channels, f"unix:{tmp_path / 'onto'}")
    [(mapped, present)] = hugetlb_mappings(middle.process)
    assert mapped == RAM_MIB << 20
    assert present >= UNIT
    check_moved(source, middle)
    end(source)

    middle.qmp.execute("cont")
    target = start_dirtier(guest, tmp_path / "target", *plain, "-incoming", "defer")
    move(middle, target, channels, f"unix:{tmp_path / 'off'}")
    [(mapped, present)] = hugetlb_mappings(middle.process)
    assert mapped == RAM_MIB << 20
    assert present >= UNIT
    assert hugetlb_mappings(target.process) == []
    check_moved(middle, target)
    end(middle)
    end(target)


def vm_events(name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", pathlib.Path("/proc/vmstat").read_text(), re.M)
    return int(found.group(1)) if found else 0


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_guest_that_arrives_in_anonymous_ram_has_transparent_huge_pages(guest, tmp_path, channels):
    if not TRANSPARENT.exists() or "[never]" in TRANSPARENT.read_text():
        pytest.skip("this host has no transparent huge pages")
    source = start_dirtier(guest, tmp_path / "source")
    beats(source, 3)
    without = vm_events("thp_fault_fallback")
    target = start_dirtier(guest, tmp_path / "target", "-incoming", "defer")
    move(source, target, channels, f"unix:{tmp_path / 'socket'}")
    [ram] = [each for each in mappings(target.process) if each["Size"] == RAM_MIB << 20]
    end(source)
    end(target)
    if ram["AnonHugePages"] < ram["Rss"] and vm_events("thp_fault_fallback") > without:
        pytest.skip("the host found no huge page when it was asked for one")
    assert ram["Rss"] >= UNIT
    assert ram["AnonHugePages"] == ram["Rss"]
