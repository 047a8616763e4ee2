"""Disks come and go under a guest that keeps requests under way and ejects them by itself."""

from __future__ import annotations

import pytest

from support import vm

PATH = "/machine/peripheral"
LATENCY_NS = 1_000_000  # so that an eject finds requests under way
ARGUMENTS = ["-object", "iothread,id=io0", "-object", "iothread,id=io1"]
for node in ("n0", "n1"):
    ARGUMENTS += ["-blockdev",
                  f"driver=null-co,node-name={node},size=1M,read-zeroes=on,latency-ns={LATENCY_NS}"]


def start(guest, *more: str, answers: bool = True):
    process, monitor = guest.with_qmp("hotplug", *ARGUMENTS, "-append", "go" if answers else "q",
                                      *more)
    process.wait_for("ready\n")
    return process, monitor


def plug(process, monitor, name: str, node: str, **more) -> None:
    monitor.execute("device_add", driver="virtio-blk-pci", id=name, drive=node, **more)
    process.wait_for("plug ")
    process.wait_for("\n")


def reads(monitor) -> int:
    [row] = monitor.execute("query-blockstats")
    return row["stats"]["rd_operations"]


def wait_for_reads(monitor) -> None:
    """The guest has had requests answered, and so has others under way."""
    before = reads(monitor)
    while reads(monitor) < before + 16:
        pass


def check_deleted(process, monitor, name: str) -> None:
    assert monitor.wait_event("DEVICE_DELETED") == {"path": f"{PATH}/{name}/virtio-backend"}
    assert monitor.wait_event("DEVICE_DELETED") == {"device": name, "path": f"{PATH}/{name}"}
    process.wait_for("eject ")
    process.wait_for("ready\n")


def finish(process, monitor) -> None:
    process.send("x")
    assert process.wait() == 0, process.stderr
    assert process.stdout.endswith("ready\nbye\n")


@pytest.mark.parametrize("iothread", [False, True], ids=["main", "iothread"])
def test_a_guest_ejects_disks_that_it_uses(guest, iothread):
    process, monitor = start(guest)
    for number in range(vm.sized(15, 400)):
        more = {"iothread": f"io{number % 2}"} if iothread else {}
        plug(process, monitor, "vd0", f"n{number % 2}", **more)
        wait_for_reads(monitor)
        monitor.execute("device_del", id="vd0")
        check_deleted(process, monitor, "vd0")
        assert monitor.execute("query-block") == []
    finish(process, monitor)


def test_a_guest_ejects_while_main_drains_for_a_mirror(guest):
    process, monitor = start(guest, "-blockdev", "driver=null-co,node-name=a,size=1M", "-blockdev",
                             "driver=null-co,node-name=b,size=1M")
    for _ in range(vm.sized(10, 200)):
        plug(process, monitor, "vd0", "n0", iothread="io0")
        wait_for_reads(monitor)
        # One right behind the other: the guest hears of the first while main waits in the second.
        mirror = {"job_id": "m", "device": "a", "target": "b", "sync": "full"}
        commands = [monitor.send("device_del", id="vd0"), monitor.send("blockdev-mirror", **mirror)]
        for number in commands:
            while "event" in (message := monitor.read_message()):
                monitor.events.append(message)
            assert message == {"return": {}, "id": number}
        check_deleted(process, monitor, "vd0")
        monitor.execute("object-del", id="io0")
        monitor.execute("object-add", qom_type="iothread", id="io0")
        monitor.execute("block-job-cancel", device="m")
        while monitor.execute("query-jobs"):
            pass
    finish(process, monitor)


def test_a_guest_that_stands_still_or_says_nothing_is_told_of(guest):
    for answers in (True, False):
        process, monitor = start(guest, "-machine", "pc,x-unplug-timeout=1", answers=answers)
        plug(process, monitor, "vd0", "n0", iothread="io0")
        wait_for_reads(monitor)
        if answers:
            monitor.execute("stop")
        monitor.execute("device_del", id="vd0")
        told = monitor.wait_event("DEVICE_UNPLUG_GUEST_ERROR")
        assert told["device"] == "vd0" and "within 1 s" in told["reason"]
        [row] = monitor.execute("x-query-hotplug")
        assert row["state"] == "timed-out"
        if answers:
            monitor.execute("cont")
        wait_for_reads(monitor)  # it is there, and works
        if answers:
            monitor.execute("device_del", id="vd0")
            check_deleted(process, monitor, "vd0")
            finish(process, monitor)
        else:
            monitor.execute("quit")
            assert process.wait() == 0, process.stderr


def test_a_disk_that_is_stuck_stays_with_a_guest_that_let_it_go(guest):
    """The guest's eject is not waited for, nor the disk: the vCPU polls on, the monitor answers."""
    process, monitor = start(
        guest, "-machine", "pc,x-unplug-timeout=1", "-blockdev",
        "driver=blkdebug,node-name=d0,image=n1,inject-error.0.event=read_aio,"
        "inject-error.0.once=on,inject-error.0.suspend=held")
    plug(process, monitor, "vd0", "d0", iothread="io0")
    held = {"node_name": "d0", "tag": "held"}
    while monitor.execute("x-blkdebug-suspended", **held)["requests"] != 1:
        pass
    monitor.execute("device_del", id="vd0")
    process.wait_for("eject ")
    assert monitor.execute("query-status")["status"] == "running"
    told = monitor.wait_event("DEVICE_UNPLUG_GUEST_ERROR")
    assert " on node 'd0', a read of 4096 bytes at 0, is " in told["reason"]
    # The guest still waits for the slot to become empty.
    assert monitor.execute("x-blkdebug-resume", **held)["requests"] == 1
    monitor.execute("system_reset")
    process.wait_for("ready\n")
    assert monitor.execute("query-block") != []
    monitor.execute("quit")
    assert process.wait() == 0, process.stderr
