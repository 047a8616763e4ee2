"""A disk whose host runs out of space, under a guest whose writes are under way."""

from __future__ import annotations

import pytest

from support.tmpfs import full_tmpfs

FILE_SYSTEM, ROOM = 2 << 20, 128 << 10
IMAGE = 8 << 20
REQUESTS, SIZE = 8, 64 << 10  # as in guests/disk_writes.S: four times what there is room for


def until_stopped(monitor) -> None:
    """The machine stops for want of space, as the monitor sees it."""
    error = monitor.wait_event("BLOCK_IO_ERROR")
    assert (error["operation"], error["action"], error["nospace"]) == ("write", "stop", True)
    monitor.wait_event("STOP")
    status = monitor.execute("query-status")
    assert (status["status"], status["running"]) == ("io-error", False)
    assert monitor.execute("query-block")[0]["io-status"] == "nospace"


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
@pytest.mark.parametrize("iothread", [False, True], ids=["main", "iothread"])
def test_writes_without_space_wait_for_it_and_complete_once(guest, tmp_path, aio, iothread):
    with full_tmpfs(tmp_path / "full", FILE_SYSTEM, ROOM) as full:
        image = full.image("disk.img", IMAGE)
        thread = ["-object", "iothread,id=io0"] if iothread else []
        process, monitor = guest.with_qmp(
            "disk_writes", *thread, "-blockdev",
            f"driver=file,node-name=f0,filename={image},aio={aio}", "-device",
            "virtio-blk-pci,drive=f0,werror=stop" + (",iothread=io0" if iothread else ""))
        until_stopped(monitor)
        monitor.execute("cont")
        monitor.wait_event("RESUME")
        until_stopped(monitor)
        full.make_room()
        monitor.execute("cont")
        assert process.wait() == 0, process.stderr
        assert process.stdout == "written\nread\n"
        content = image.read_bytes()
    for number in range(REQUESTS):
        start = number << 20
        assert content[start:start + SIZE] == bytes([number + 1]) * SIZE, number
        assert not any(content[start + SIZE:start + (1 << 20)]), number
