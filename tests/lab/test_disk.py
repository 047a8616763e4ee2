"""Stock Debian kernels use virtio-blk: root file system, queues on iothreads, live resize."""

import pytest
from conftest import FULL, case

from lab.result import LabResult

DISK = pytest.mark.lab_run("disk")


@DISK
def test_the_root_file_system_is_on_the_disk(lab: LabResult) -> None:
    assert case(lab, "write")["root"] == [0, "/dev/vda\n"]
    assert case(lab, "write")["exit_status"] == 0


@DISK
def test_the_guest_sees_serial_number_queues_and_size(lab: LabResult) -> None:
    data = case(lab, "write")
    assert data["serial"] == [0, "rhea-data-0"] or data["serial"] == [0, "rhea-data-0\n"]
    assert data["sectors"] == [0, f"{64 << 11}\n"]
    # One queue a CPU at most is what Linux uses.
    assert data["queues"] == [0, "2\n"]


@DISK
def test_the_guest_sees_a_live_resize(lab: LabResult) -> None:
    assert case(lab, "write")["grown"] == [0, "grown\n"]


@DISK
def test_what_was_written_is_there_after_the_next_boot(lab: LabResult) -> None:
    wrote, read = case(lab, "write"), case(lab, "read_back")
    digest = wrote["wrote"][1]
    assert len(digest.strip()) == 32
    assert wrote["kept"] == [0, digest]
    assert read["kept"] == [0, digest]
    assert read["copies"] == [0, digest]
    assert read["exit_status"] == 0


@DISK
def test_the_requests_are_counted(lab: LabResult) -> None:
    data = case(lab, "write")
    by_id = {row["qdev"]: row["stats"] for row in data["stats"]}
    stats = by_id["/machine/peripheral/vd1/virtio-backend"]
    assert stats["wr_bytes"] >= 32 << 20
    sent = int(data["flushes"][1])
    assert stats["flush_operations"] == sent >= 1


PATH = "/machine/peripheral/hot"
DELETED = [{"path": f"{PATH}/virtio-backend"}, {"device": "hot", "path": PATH}]


def check_rounds(lab: LabResult) -> None:
    rounds = case(lab, "hotplug")["rounds"]
    assert rounds == [[[0, "1\n"], [0, "0\n"], DELETED, [0, "0\n"]]] * len(rounds)
    assert len(rounds) >= 3


@DISK
def test_the_guest_sees_a_disk_come_and_go(lab: LabResult) -> None:
    check_rounds(lab)


if FULL:

    @pytest.mark.lab_run("disk_6_12")
    def test_debian_6_12_sees_a_disk_come_and_go_too(lab: LabResult) -> None:
        check_rounds(lab)


@DISK
def test_a_guest_that_does_not_let_a_disk_go_keeps_it(lab: LabResult) -> None:
    data = case(lab, "no_answer")
    assert data["told"]["device"] == "hot" and "within 10 s" in data["told"]["reason"]
    assert [row["state"] for row in data["state"]] == ["timed-out"]
    assert data["read"] == [0, "0\n"]
    assert data["deleted"] == DELETED
    assert data["warnings"] == [1, "0\n"]
