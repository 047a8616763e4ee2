"""G26 on a real vCPU: a guest that resets a disk with requests under way runs on, and is left alone."""

from __future__ import annotations

import pytest

from support import vm

REQUESTS = 64  # as in guests/disk_reset.S
HELD = {"node_name": "d0", "tag": "held"}


@pytest.mark.parametrize("iothread", [False, True], ids=["main", "iothread"])
def test_a_vcpu_runs_on_while_the_reset_of_its_disk_waits(guest, iothread):
    thread = ["-object", "iothread,id=io0"] if iothread else []
    for _ in range(vm.sized(1, 20)):
        process, monitor = guest.with_qmp(
            "disk_reset", *thread, "-blockdev",
            "driver=blkdebug,node-name=d0,image.driver=null-co,image.size=1M,image.read-zeroes=on,"
            "inject-error.0.event=read_aio,inject-error.0.suspend=held", "-device",
            "virtio-blk-pci,drive=d0" + (",iothread=io0" if iothread else ""))
        process.wait_for("offered\n")
        while monitor.execute("x-blkdebug-suspended", **HELD)["requests"] != REQUESTS:
            pass
        process.send("r")
        # A thousand registers read, while the disk still has everything.
        process.wait_for("resetting\n")
        assert monitor.execute("x-blkdebug-resume", **HELD)["requests"] == REQUESTS
        assert process.wait() == 0, process.stderr
        assert process.stdout == "offered\nresetting\nreset\nquiet\n"
