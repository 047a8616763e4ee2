"""Stock Debian kernels use virtio-blk: root file system, queues on iothreads, live resize."""

import pytest

from lab.result import LabResult

DISK = pytest.mark.lab_run("disk")


def case(lab: LabResult, name: str) -> dict:
    outcome = lab.case(name)
    assert outcome.ok, f"{outcome.error}\n{lab.report()}"
    return outcome.data


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
