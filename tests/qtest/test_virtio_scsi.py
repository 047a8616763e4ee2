"""Disks and CD drives behind a virtio-scsi adapter, driven through its rings."""

from __future__ import annotations

import pathlib
import random
from typing import Any, Iterator

import pytest
from hotplug import refused
from qtest import Machine
from scsi import (BLOCK, CAPACITY_CHANGED, CHECK_CONDITION, GOOD, MEDIUM_CHANGED, NO_MEDIUM,
                  PARAMETER_CHANGE, POWER_ON, PREVENTED, TRAY_OPEN, Response, Scsi, Task,
                  find_adapters)
from virtio import wait_until

DISK_BLOCKS = 4096
CD_BLOCK = 2048
CD_BLOCKS = 512

ON_EITHER_LOOP = pytest.mark.parametrize("adapter", ["main", "iothread"], indirect=True)


def image(directory: pathlib.Path, name: str, size: int) -> pathlib.Path:
    path = directory / name
    path.write_bytes(random.Random(name).randbytes(size))
    return path


@pytest.fixture
def adapter(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Scsi]:
    """A disk in a file at target 0, an empty CD drive at target 1 and one with a disc at 2; two
    request queues, on main or on two iothreads."""
    disk = image(tmp_path, "disk.img", DISK_BLOCKS * BLOCK)
    disc = image(tmp_path, "disc.iso", CD_BLOCKS * CD_BLOCK)
    controller = '"driver":"virtio-scsi-pci","id":"scsi0","num_queues":2'
    arguments = []
    if getattr(request, "param", "iothread") == "iothread":
        arguments += ["-object", "iothread,id=io0", "-object", "iothread,id=io1"]
        controller += ',"iothread-vq-mapping":[{"iothread":"io0"},{"iothread":"io1"}]'
    with Machine(tmp_path, *arguments,
                 "-blockdev", f"driver=file,node-name=d0,filename={disk}",
                 "-blockdev", f"driver=file,node-name=c0,filename={disc},read-only=on",
                 "-device", "{" + controller + "}",
                 "-device", "scsi-hd,id=hd0,drive=d0,serial=rhea-1,wwn=0x5000c50012345678",
                 "-device", "scsi-cd,id=cd0,bus=scsi0.0",
                 "-device", "scsi-cd,id=cd1,drive=c0,scsi-id=2") as machine:
        [found] = find_adapters(machine)
        yield found.bring_up_adapter(requests=2)
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr


def machine_of(adapter: Scsi) -> Machine:
    assert isinstance(adapter.machine, Machine)
    return adapter.machine


def ask(adapter: Scsi, command: str, **arguments: Any) -> Any:
    return machine_of(adapter).qmp.execute(command, **arguments)


def tray_events(adapter: Scsi, count: int) -> list[tuple[str, bool]]:
    found = []
    for _ in range(count):
        found.append(machine_of(adapter).qmp.wait_event("DEVICE_TRAY_MOVED"))
    return [(data["id"], data["tray-open"]) for data in found]


def media_event(adapter: Scsi, target: int) -> int:
    """What GET EVENT STATUS NOTIFICATION says of the medium."""
    polled = adapter.do(target, 0, bytes([0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0]), room=8)
    assert polled.good, polled
    return polled.data[4] & 0x0F


def shown(adapter: Scsi, name: str) -> dict[str, Any]:
    [row] = [row for row in ask(adapter, "query-block") if row["qdev"] == name]
    return row


# --- What a unit says of itself -----------------------------------------------------------------


@ON_EITHER_LOOP
def test_units_say_who_they_are_on_every_queue(adapter: Scsi) -> None:
    for queue in (0, 1):
        disk, cd = adapter.inquiry(0, queue=queue), adapter.inquiry(1, queue=queue)
        assert (disk[0], cd[0]) == (0x00, 0x05)  # peripheral device types
        assert (disk[1], cd[1]) == (0x00, 0x80)  # removable
        assert disk[8:16] == b"RHEA    " and disk[16:32].startswith(b"RHEA HARDDISK")
    assert adapter.page(0, 0x80) == b"rhea-1"
    assert bytes.fromhex("5000c50012345678") in adapter.page(0, 0x83)
    assert adapter.luns(0) == [0]
    assert adapter.do(3, 0, bytes(6)).response == Response.BAD_TARGET
    assert adapter.inquiry(0, 5)[0] == 0x7F  # the target is there, that unit is not


@ON_EITHER_LOOP
def test_blocks_go_through_every_queue(adapter: Scsi, tmp_path: pathlib.Path) -> None:
    assert adapter.settle(0) == [POWER_ON]
    assert adapter.capacity(0) == (DISK_BLOCKS, BLOCK)
    before = (tmp_path / "disk.img").read_bytes()
    data = random.Random(1).randbytes(16 * BLOCK)
    adapter.write_blocks(0, 64, data, queue=0)
    assert adapter.read_blocks(0, 64, 16, queue=1) == data
    adapter.write_blocks(0, 80, data, queue=1)
    assert adapter.read_blocks(0, 80, 16, queue=0) == data
    assert adapter.read_blocks(0, DISK_BLOCKS - 1) == before[-BLOCK:]
    assert adapter.do(0, 0, [0x35] + [0] * 9).good  # SYNCHRONIZE CACHE
    after = before[:64 * BLOCK] + data + data + before[96 * BLOCK:]
    assert (tmp_path / "disk.img").read_bytes() == after
    past = adapter.do(0, 0, adapter.rw10(0x28, DISK_BLOCKS, 1), room=BLOCK)
    assert (past.status, past.sense) == (CHECK_CONDITION, (5, 0x21, 0x00))


def test_the_statistics_count_and_the_limits_hold(adapter: Scsi) -> None:
    adapter.settle(0)
    adapter.read_blocks(0, 0, 8)
    adapter.write_blocks(0, 0, bytes(2 * BLOCK))
    [row] = [row for row in ask(adapter, "query-blockstats") if row.get("qdev") == "hd0"]
    assert row["node-name"] == "d0"
    assert (row["stats"]["rd_operations"], row["stats"]["rd_bytes"]) == (1, 8 * BLOCK)
    assert (row["stats"]["wr_operations"], row["stats"]["wr_bytes"]) == (1, 2 * BLOCK)
    rates = {name: 0 for name in ("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr")}
    ask(adapter, "block_set_io_throttle", id="hd0", iops=1000, **rates)
    assert shown(adapter, "hd0")["inserted"]["iops"] == 1000
    adapter.read_blocks(0, 0, 8)
    ask(adapter, "block_set_io_throttle", id="hd0", iops=0, **rates)
    assert "group" not in shown(adapter, "hd0")["inserted"]
    assert ("can not be moved: its requests run on its adapter's queues" in
            refused(machine_of(adapter), "x-blockdev-set-iothread",
                    **{"node-name": "d0", "iothread": None, "force": True}))


def test_a_disk_that_grows_tells_its_guest(adapter: Scsi) -> None:
    adapter.settle(0)
    ask(adapter, "block_resize", **{"node-name": "d0", "size": 2 * DISK_BLOCKS * BLOCK})
    assert adapter.event() == (PARAMETER_CHANGE, 0, 0, 0x2A | 0x09 << 8)
    assert adapter.settle(0) == [CAPACITY_CHANGED]
    assert adapter.capacity(0) == (2 * DISK_BLOCKS, BLOCK)


def test_a_reset_of_the_unit_is_a_unit_attention(adapter: Scsi) -> None:
    adapter.settle(0)
    assert adapter.manage(Task.UNIT_RESET, 0, 0) == Response.OK
    [(key, code, _)] = adapter.settle(0)
    assert (key, code) == (6, 0x29)
    assert adapter.manage(Task.ABORT_TASK_SET, 9, 0) == Response.BAD_TARGET


# --- CD drives ----------------------------------------------------------------------------------


def test_query_block_shows_drives_with_and_without_a_medium(adapter: Scsi) -> None:
    empty, full, disk = (shown(adapter, name) for name in ("cd0", "cd1", "hd0"))
    assert "inserted" not in empty and full["inserted"]["node-name"] == "c0"
    for row in (empty, full):
        assert (row["removable"], row["locked"], row["tray_open"]) == (True, False, False)
    assert disk["removable"] is False and "tray_open" not in disk


def test_a_guest_reads_the_medium_that_is_in(adapter: Scsi, tmp_path: pathlib.Path) -> None:
    assert adapter.settle(2) == [POWER_ON]
    assert adapter.capacity(2) == (CD_BLOCKS, CD_BLOCK)
    disc = (tmp_path / "disc.iso").read_bytes()
    assert adapter.read_blocks(2, 7, 3, size=CD_BLOCK) == disc[7 * CD_BLOCK:10 * CD_BLOCK]
    empty = adapter.do(1, 0, bytes(6))
    assert empty.sense == POWER_ON
    assert adapter.do(1, 0, bytes(6)).sense == NO_MEDIUM


def test_a_medium_is_ejected_and_another_comes(adapter: Scsi, tmp_path: pathlib.Path) -> None:
    other = image(tmp_path, "other.iso", 2 * CD_BLOCKS * CD_BLOCK)
    adapter.settle(2)
    ask(adapter, "eject", id="cd1")
    assert tray_events(adapter, 1) == [("cd1", True)]
    assert adapter.do(2, 0, bytes(6)).sense == TRAY_OPEN
    assert "inserted" not in shown(adapter, "cd1")
    ask(adapter, "blockdev-del", **{"node-name": "c0"})
    ask(adapter, "blockdev-change-medium", id="cd1", filename=str(other), format="raw")
    assert tray_events(adapter, 1) == [("cd1", False)]
    assert MEDIUM_CHANGED in adapter.settle(2)
    assert adapter.capacity(2) == (2 * CD_BLOCKS, CD_BLOCK)
    assert adapter.read_blocks(2, 0, size=CD_BLOCK) == other.read_bytes()[:CD_BLOCK]
    assert shown(adapter, "cd1")["inserted"]["file"] == str(other)


def test_a_guest_that_holds_its_medium_is_asked_for_it(adapter: Scsi) -> None:
    adapter.settle(2)
    assert adapter.do(2, 0, [0x1E, 0, 0, 0, 1, 0]).good  # PREVENT MEDIUM REMOVAL
    assert shown(adapter, "cd1")["locked"] is True
    assert ("Device 'cd1' is locked and force was not specified, wait for tray to open and try "
            "again" in refused(machine_of(adapter), "eject", id="cd1"))
    stopped = adapter.do(2, 0, [0x1B, 0, 0, 0, 2, 0])  # START STOP UNIT: eject
    assert stopped.sense == PREVENTED
    # The guest hears of the wish, lets go, and opens the tray itself.
    assert [media_event(adapter, 2) for _ in range(3)] == [2, 1, 0]  # new medium, eject request
    assert adapter.do(2, 0, [0x1E, 0, 0, 0, 0, 0]).good
    assert adapter.do(2, 0, [0x1B, 0, 0, 0, 2, 0]).good
    assert tray_events(adapter, 1) == [("cd1", True)]
    assert shown(adapter, "cd1")["tray_open"] is True
    ask(adapter, "blockdev-remove-medium", id="cd1")
    assert "inserted" not in shown(adapter, "cd1")


def test_force_takes_the_medium_from_a_guest_that_holds_it(adapter: Scsi) -> None:
    adapter.settle(2)
    assert adapter.do(2, 0, [0x1E, 0, 0, 0, 1, 0]).good
    ask(adapter, "eject", id="cd1", force=True)
    assert tray_events(adapter, 1) == [("cd1", True)]
    assert adapter.do(2, 0, bytes(6)).sense == TRAY_OPEN


def test_what_is_wrong_with_media_commands_is_named(adapter: Scsi) -> None:
    machine = machine_of(adapter)
    for command, arguments, message in [
            ("eject", {"id": "hd0"}, "Device 'hd0' is not removable"),
            ("eject", {"id": "nope"}, "Device 'nope' not found"),
            ("eject", {"id": "scsi0"}, "Device does not have a block device backend"),
            ("eject", {}, "Need exactly one of 'device' and 'id'"),
            ("blockdev-open-tray", {"id": "hd0"}, "Device 'hd0' is not removable"),
            ("blockdev-remove-medium", {"id": "cd1"}, "Tray of device 'cd1' is not open"),
            ("blockdev-insert-medium", {"id": "cd0", "node-name": "d0"},
             "Node 'd0' is already in use"),
            ("blockdev-insert-medium", {"id": "cd0", "node-name": "x"}, "Node 'x' not found"),
            ("blockdev-change-medium", {"id": "cd1", "filename": "/nope"},
             "Could not open '/nope': No such file or directory")]:
        assert message in refused(machine, command, **arguments), command
    assert shown(adapter, "cd1")["inserted"]["node-name"] == "c0"


def test_an_error_stops_the_machine_and_the_command_goes_on(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-blockdev", "driver=null-co,node-name=n0,size=1M,read-zeroes=on",
                 "-blockdev", "driver=blkdebug,node-name=b0,image=n0,inject-error.0.event=write_aio,"
                 "inject-error.0.errno=28,inject-error.0.once=on",
                 "-device", "virtio-scsi-pci", "-device", "scsi-hd,id=hd0,drive=b0") as machine:
        [adapter] = find_adapters(machine)
        adapter.bring_up_adapter()
        adapter.settle(0)
        pending = adapter.begin(adapter.requests[0], 0, 0, adapter.rw10(0x2A, 0, 1), bytes(BLOCK))
        machine.qmp.wait_event("STOP")
        wait_until(lambda: machine.qmp.execute("query-status")["status"] == "io-error", "io-error")
        assert [row["io-status"] for row in machine.qmp.execute("query-block")] == ["nospace"]
        machine.qmp.execute("cont")
        assert adapter.finish(adapter.requests[0], pending).status == GOOD
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0, machine.process.stderr
