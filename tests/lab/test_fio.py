"""fio's verify in Debian's guest: two disks, four queues each, two iothreads; and discard."""

import re

import pytest

from conftest import FIO_DISK_SIZE, case
from lab.result import LabResult

pytestmark = pytest.mark.lab_run("fio")
DISKS = ("vdb", "vdc")


def test_fio_reads_back_what_it_wrote(lab: LabResult) -> None:
    data = case(lab, "verify")
    assert data["fio"] == [0, ""]
    for row in data["stats"]:
        if row["qdev"].split("/")[3] in DISKS:
            assert row["stats"]["wr_bytes"] >= FIO_DISK_SIZE
            assert row["stats"]["rd_bytes"] >= FIO_DISK_SIZE


def test_all_queues_and_both_iothreads_took_part(lab: LabResult) -> None:
    data = case(lab, "verify")
    assert data["queues"] == {disk: "4\n" for disk in DISKS}
    # The root's one queue, and four of each disk.
    counts = [
        sum(int(word) for word in line.split()[1:5])
        for line in data["interrupts"].splitlines()
        if re.search(r"virtio[12]-req\.[0-3]$", line)
    ]
    assert len(counts) == 8 and min(counts) > 0, data["interrupts"]
    busy = [
        name for name, ticks in data["ticks"].items() if "io1" in name or "io2" in name if ticks
    ]
    assert len(busy) == 2, data["ticks"]


def test_a_flipped_bit_in_the_image_fails_the_verification(lab: LabResult) -> None:
    status, words = case(lab, "corrupt")["fio"]
    assert status != 0 and "verify failed at file /dev/vdc" in words


def test_a_discard_gives_the_images_space_back(lab: LabResult) -> None:
    data = case(lab, "discard")
    assert data["before"]["vdb"] == FIO_DISK_SIZE
    assert data["after"]["vdb"] == FIO_DISK_SIZE // 2
    below, from_there = (int(count) for count in data["seen"][1].split())
    assert below == 0 and from_there > 0
    assert data["after"]["vdc"] == data["before"]["vdc"], "discard=ignore"


@pytest.mark.parametrize("disk", DISKS)
def test_a_discard_leaves_the_rest_of_the_disk(lab: LabResult, disk: str) -> None:
    data = case(lab, "discard")
    assert data[disk] == [0, ""]
    assert data["kept"][disk]


def test_the_guest_powers_off(lab: LabResult) -> None:
    assert case(lab, "end")["exit_status"] == 0
