"""A machine that moves between two instances, seen from its registers and its rings."""

from __future__ import annotations

import pathlib
import re
import time
from typing import Any, Sequence

import pytest
from hotplug import PATIENCE_NS, deleted, eject, plug, refused, told
from moving import OVER, Driven, Pair, status, switch, wait_arrived, wait_migration
from qtest import Machine
from support import vm
from virtio import SECTOR, BlkStatus, BlkType

LINE_SCRATCH = 0x3FF  # the serial port's, which nothing but a driver changes
PM_TIMER = 0x608


def test_a_disk_goes_on_where_its_ring_was(driven: tuple[Pair, Driven]) -> None:
    pair, disk = driven
    disk.write(3, b"before")
    pair.move()
    assert disk.read(3).startswith(b"before")
    disk.write(4, b"behind")
    pair.started[-1].qmp.execute("quit")
    pair.started[-1].process.wait()
    image = pair.image.read_bytes()
    assert image[3 * SECTOR:].startswith(b"before") and image[4 * SECTOR:].startswith(b"behind")


def test_what_waits_in_a_ring_without_a_doorbell_is_looked_at_on_arrival(
        driven: tuple[Pair, Driven]) -> None:
    pair, disk = driven
    disk.read(0, queue=1)
    request = disk.disk.prepare(BlkType.OUT, 7, b"waited".ljust(SECTOR))
    head = disk.queues[1].offer(request.buffers())  # and nobody rings
    pair.move()
    done, _ = disk.queues[1].wait()
    assert done == head and disk.disk.status_of(request) == BlkStatus.OK
    assert disk.read(7).startswith(b"waited")


def test_registers_and_time_come_along(pair: Pair) -> None:
    guest = pair.guest
    guest.outb(LINE_SCRATCH, 0x5A)
    guest.clock_step(1_000_000_000)
    ticks = guest.inl(PM_TIMER)
    target = pair.move()
    assert guest.inb(LINE_SCRATCH) == 0x5A
    assert guest.inl(PM_TIMER) == ticks
    assert target.clock_step(1000) == 1_000_001_000


def test_events_come_in_order_on_both_sides(pair: Pair) -> None:
    target = pair.await_it()
    assert status(target) == "inmigrate"
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert pair.source.qmp.events[0]["data"] == {"status": "setup"}, "not before the answer"

    def told_by(machine: Machine) -> list[Any]:
        seen = []
        while not seen or seen[-1] != "completed":
            event = machine.qmp.wait_any()
            data = event.get("data", {})
            seen.append(data.get("status") or data.get("pass") or event["event"])
        return seen

    assert told_by(pair.source) == ["setup", 1, "active", "STOP", 2, "completed"]
    assert told_by(target) == ["active", "RESUME", "completed"]
    assert (status(pair.source), status(target)) == ("postmigrate", "running")
    answer = pair.query()
    assert answer["status"] == "completed" and answer["ram"]["remaining"] == 0
    assert {"total-time", "setup-time", "downtime"} <= set(answer)
    assert set(answer["x-phases-ms"]) == {"setup", "passes", "stop", "last-copy", "device-state",
                                          "load", "resume"}


def test_a_pause_before_the_switch_is_ended_by_the_monitor(pair: Pair) -> None:
    pair.set("pause-before-switchover")
    target = pair.await_it()
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(pair.source, "pre-switchover")
    assert status(pair.source) == "finish-migrate"
    assert "Migration is not finalized yet" in refused(pair.source, "cont")
    assert "Migration not in expected state" in refused(pair.source, "migrate-continue",
                                                        state="device")
    pair.source.qmp.execute("migrate-continue", state="pre-switchover")
    assert wait_migration(pair.source, "device", "completed") == "device"
    assert wait_migration(pair.source, *OVER) == "completed"
    assert wait_migration(target, *OVER) == "completed"


PROGRESS = re.compile(r"pre-switchover: pass (\d+), (\d+) MiB sent, (\d+) MiB left, (\d+) MiB/s, "
                      r"(\d+) pages/s written$")


def test_progress_is_logged_once_a_second(tmp_path: pathlib.Path) -> None:
    with Pair(tmp_path, extra=("-d", "migration=info")) as pair:
        sent_mib = 8
        pair.guest.memset(1 << 20, sent_mib << 20, 0x5A)
        pair.set("pause-before-switchover")
        pair.await_it()
        began = time.monotonic()
        pair.source.qmp.execute("migrate", uri=pair.uri)
        wait_migration(pair.source, "pre-switchover")
        # It stays there, so that the lines are waited for, however late a busy host is.
        for number in (1, 2):
            pair.source.process.wait_for_stderr("pre-switchover: pass ")
            pair.source.process.wait_for_stderr("\n")
            assert time.monotonic() - began >= number, "more often than once a second"
        lines = [line for line in pair.source.process.stderr.splitlines() if PROGRESS.search(line)]
        assert len(lines) >= 2
        [passes, sent, left, *_] = map(int, PROGRESS.search(lines[-1]).groups())
        assert passes == 1 and sent_mib <= sent < 64 and left == 0, lines


def test_a_cancel_at_the_switch_lets_the_source_go_on(pair: Pair) -> None:
    pair.set("pause-before-switchover")
    target = pair.await_it()
    pair.source.qmp.execute("migrate", uri=pair.uri)
    wait_migration(pair.source, "pre-switchover")
    pair.source.qmp.execute("migrate_cancel")
    assert wait_migration(pair.source, *OVER) == "cancelled"
    assert status(pair.source) == "running"
    assert target.process.wait() == 1
    assert "load of migration failed" in target.process.stderr
    switch(pair.source, pause_before_switchover=False)
    pair.move()


def test_a_paused_machine_arrives_paused_and_takes_its_images_when_it_runs(pair: Pair) -> None:
    pair.source.qmp.execute("stop")
    target = pair.move()
    assert status(target) == "paused"
    # The images are nobody's: whoever runs takes them.
    target.qmp.execute("cont")
    assert 'Failed to get "write" lock' in refused(pair.source, "cont")
    assert (status(pair.source), status(target)) == ("postmigrate", "running")


def test_stop_while_waiting_has_it_arrive_paused(pair: Pair) -> None:
    target = pair.await_it()
    target.qmp.execute("stop")
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(pair.source, *OVER) == "completed"
    assert wait_migration(target, *OVER) == "completed"
    assert status(target) == "paused"
    target.qmp.execute("cont")
    assert status(target) == "running"


NOT_MEANWHILE: list[tuple[str, dict[str, Any]]] = [
    ("device_add", {"driver": "virtio-blk-pci", "drive": "d0"}),
    ("device_del", {"id": "vd0"}),
    ("blockdev-add", {"driver": "null-co", "node-name": "n"}),
    ("blockdev-del", {"node-name": "n"}),
    ("blockdev-reopen", {"options": []}),
    ("blockdev-mirror", {"device": "d0", "target": "n", "sync": "full"}),
    ("job-complete", {"id": "j0"}),
    ("block-job-complete", {"device": "j0"}),
    ("x-allow-hotplug", {"while": "migrating"}),
    ("x-forbid-hotplug", {"while": "migrating"}),
    ("block_resize", {"node-name": "d0", "size": 4096}),
    ("object-add", {"qom-type": "iothread", "id": "io1"}),
    ("object-del", {"id": "io0"}),
    ("x-blockdev-set-iothread", {"node-name": "d0", "iothread": None}),
    ("eject", {"id": "cd0"}),
    ("blockdev-open-tray", {"id": "cd0"}),
    ("blockdev-close-tray", {"id": "cd0"}),
    ("blockdev-remove-medium", {"id": "cd0"}),
    ("blockdev-insert-medium", {"id": "cd0", "node-name": "n"}),
    ("blockdev-change-medium", {"id": "cd0", "filename": "f"}),
    ("block_set_io_throttle", {"id": "vd0", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0,
                               "iops_rd": 0, "iops_wr": 0}),
]


@pytest.mark.parametrize("side", ["source", "destination"])
def test_nothing_is_reconfigured_meanwhile(pair: Pair, side: str) -> None:
    pair.set("pause-before-switchover")
    target = pair.await_it()
    pair.source.qmp.execute("migrate", uri=pair.uri)
    wait_migration(pair.source, "pre-switchover")
    wait_migration(target, "active")
    machine = pair.source if side == "source" else target
    for command, arguments in NOT_MEANWHILE:
        assert f"{command} not allowed while migrating" in refused(machine, command, **arguments)
    for command, arguments in [("migrate", {"uri": pair.uri}),
                               ("migrate-set-capabilities", {"capabilities": []})]:
        assert "There's a migration process in progress" in refused(machine, command, **arguments)
    machine.qmp.execute("migrate-set-parameters", **{"downtime-limit": 500})
    pair.source.qmp.execute("migrate-continue", state="pre-switchover")
    assert wait_migration(pair.source, *OVER) == "completed"
    assert wait_migration(target, *OVER) == "completed"


@pytest.mark.parametrize("side", ["source", "destination"])
def test_all_of_it_is_reconfigured_again_afterwards(pair: Pair, side: str) -> None:
    if side == "source":
        pair.set("pause-before-switchover")
        pair.await_it()
        pair.source.qmp.execute("migrate", uri=pair.uri)
        wait_migration(pair.source, "pre-switchover")
        pair.source.qmp.execute("migrate_cancel")
        wait_migration(pair.source, *OVER)
    else:
        pair.move()
    pair.guest.qmp.execute("blockdev-add", driver="null-co", **{"node-name": "n"})
    plug(pair.guest, "vd9", "n")


def test_who_only_waits_may_be_fitted_to_what_comes(pair: Pair) -> None:
    """A disk that was plugged in at the source, and what it needs."""
    target = pair.await_it()
    for machine in (pair.source, target):
        machine.qmp.execute("blockdev-add", driver="null-co", **{"node-name": "n"})
        plug(machine, "vd9", "n", addr="9")
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(pair.source, *OVER) == "completed", pair.query()
    assert wait_migration(target, *OVER) == "completed"


def test_a_device_that_is_asked_for_keeps_the_machine_here(pair: Pair) -> None:
    pair.source.qmp.execute("device_del", id="vd0")
    assert "Can't migrate while device 'vd0' is being unplugged" in refused(
        pair.source, "migrate", uri=pair.uri)
    pair.source.clock_step(PATIENCE_NS)
    assert pair.source.qmp.wait_event("DEVICE_UNPLUG_GUEST_ERROR")["device"] == "vd0"
    pair.move()


def slot_of_the_disk(machine: Any) -> int:
    [bus] = machine.qmp.execute("query-pci")
    return next(d["slot"] for d in bus["devices"] if d.get("qdev_id") == "vd0")


@pytest.mark.parametrize("side", ["source", "destination"])
def test_an_eject_on_the_way_is_acted_on_where_the_machine_runs(pair: Pair, side: str) -> None:
    pair.set("pause-before-switchover")
    target = pair.await_it()
    slot = slot_of_the_disk(pair.source)
    pair.source.qmp.execute("migrate", uri=pair.uri)
    wait_migration(pair.source, "pre-switchover")
    eject(pair.source, slot)
    if side == "destination":
        pair.source.qmp.execute("migrate-continue", state="pre-switchover")
    else:
        pair.source.qmp.execute("migrate_cancel")
    wait_migration(pair.source, "completed", "cancelled")
    where = target if side == "destination" else pair.source
    assert told(where, 2) == deleted("vd0")
    assert side == "source" or slot_of_the_disk(pair.source) == slot, "it went on both sides"


def test_another_machine_is_refused_before_anything_stops(pair: Pair) -> None:
    for extra, difference in [
            (("-m", "32M"), "Size mismatch: pc.ram: 0x4000000 != 0x2000000"),
            (("-smp", "2"), "The number of CPUs differs: 1 there, 2 here"),
            (("-blockdev", "driver=null-co,node-name=n", "-device", "virtio-blk-pci,drive=n,addr=9"),
             "There is no device 'pci/09.0' (virtio-blk-pci) there"),
            (("-device", "virtio-scsi-pci,addr=a"), "There is no device 'pci/0a.0' (virtio-scsi-pci)")]:
        target = pair.await_it(*extra)
        pair.source.qmp.execute("migrate", uri=pair.uri)
        assert wait_migration(pair.source, *OVER) == "failed"
        assert difference in pair.query()["error-desc"]
        assert target.process.wait() == 1
        assert difference in target.process.stderr
        assert status(pair.source) == "running"
        assert "STOP" not in [event["event"] for event in pair.source.qmp.events]
    pair.move()


NULL_CO = ("-blockdev", "driver=null-co,node-name=n,size=1M,read-only=on", "-device")
BLK = "virtio-blk-pci,drive=n,addr=9"
IN_SLOT_9 = {  # name -> how it is set up here and there, what the source says
    "queues": ((*NULL_CO, f"{BLK},num-queues=3"), (*NULL_CO, BLK),
               r"\(virtio-blk-pci\) has queues=3x256 features=.* there, queues=1x256 features=.* here"),
    "queue-size": ((*NULL_CO, f"{BLK},queue-size=128"), (*NULL_CO, BLK),
                   r"\(virtio-blk-pci\) has queues=1x128 there, queues=1x256 here"),
    "feature": ((*NULL_CO, BLK), (*NULL_CO, f"{BLK},event_idx=off"),
                r"\(virtio-blk-pci\) has features=.* there, features=.* here"),
    "block-size": ((*NULL_CO, BLK), (*NULL_CO, f"{BLK},logical_block_size=4096"),
                   r"\(virtio-blk-pci\) has block_size=512 there, block_size=4096 here"),
    "medium": (("-device", "virtio-scsi-pci,addr=9", *NULL_CO, "scsi-cd,drive=n"),
               ("-device", "virtio-scsi-pci,addr=9", "-device", "scsi-cd"),
               r"/scsi/0:0:0' \(scsi-cd\) has medium=yes there, medium=no here"),
}


@pytest.mark.parametrize("here,there,difference", IN_SLOT_9.values(), ids=IN_SLOT_9)
def test_a_device_set_up_otherwise_is_refused_before_anything_stops(
        tmp_path: pathlib.Path, here: Sequence[str], there: Sequence[str], difference: str) -> None:
    with Pair(tmp_path, extra=here) as pair:
        target = pair.await_it(*there)
        pair.source.qmp.execute("migrate", uri=pair.uri)
        assert wait_migration(pair.source, *OVER) == "failed"
        said = f"The destination refuses the machine: Device 'pci/09.0.*{difference}"
        assert re.search(said, pair.query()["error-desc"]), pair.query()
        assert target.process.wait() == 1
        assert status(pair.source) == "running"
        assert "STOP" not in [event["event"] for event in pair.source.qmp.events]
        pair.await_it(*here)
        pair.source.qmp.execute("migrate", uri=pair.uri)
        assert wait_migration(pair.source, *OVER) == "completed", pair.query()


def test_ids_may_differ_places_may_not(pair: Pair) -> None:
    pair.source.qmp.execute("blockdev-add", driver="null-co", size=1 << 20, **{"node-name": "n"})
    plug(pair.source, "here", "n", addr="9")
    pair.await_it("-blockdev", "driver=null-co,node-name=m,size=1M", "-device",
                                      "virtio-blk-pci,drive=m,id=there,addr=9")
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(pair.source, *OVER) == "completed", pair.query()


def test_it_is_saved_to_a_file_and_comes_out_of_it(driven: tuple[Pair, Driven]) -> None:
    pair, disk = driven
    file = pair.folder / "saved"
    disk.write(1, b"saved!")
    pair.source.qmp.execute("migrate", uri=f"file:{file}")
    assert wait_migration(pair.source, *OVER) == "completed"
    disk.remember()
    pair.source.qmp.execute("quit")
    assert pair.source.process.wait() == 0
    for _ in range(2):  # as often as one likes
        target = pair.start("-incoming", f"file:{file}")
        wait_arrived(target)
        pair.guest.now = target
        disk.put_back()
        assert disk.read(1).startswith(b"saved!")
        target.qmp.execute("quit")
        assert target.process.wait() == 0


def test_a_file_that_is_no_machine_ends_the_process(tmp_path: pathlib.Path) -> None:
    """It may be over before a monitor has been greeted, so there is none."""
    file = tmp_path / "saved"
    for content in (b"", b"what is this?", bytes(1 << 16)):
        file.write_bytes(content)
        with vm.rhea("-accel", "qtest", "-m", "64M", "-nodefaults", "-display", "none",
                     "-incoming", f"file:{file}") as process:
            assert process.wait() == 1, process.stderr
            assert "load of migration failed: " in process.stderr


def test_settings_are_checked_in_the_words_of_qemu(pair: Pair) -> None:
    source = pair.source
    for name, value, words in [
            ("downtime-limit", 2_000_001, "'downtime_limit' expects an integer in the range of 0 to (2000 * 1000) ms"),
            ("multifd-channels", 0, "'multifd_channels' expects a value between 1 and 255"),
            ("multifd-channels", 256, "'multifd_channels' expects a value between 1 and 255"),
            ("cpu-throttle-initial", 100, "'cpu_throttle_initial' expects an integer in the range of 1 to 99"),
            ("max-cpu-throttle", 19, "'max_cpu_throttle' expects an integer in the range of cpu_throttle_initial to 99"),
            ("max-bandwidth", -1, "'max_bandwidth' expects an integer in the range of 0 to"),
            ("multifd-compression", "lzma", "'multifd-compression' does not accept value 'lzma'")]:
        before = source.qmp.execute("query-migrate-parameters")
        assert f"Parameter {words}" in refused(source, "migrate-set-parameters", **{name: value})
        assert source.qmp.execute("query-migrate-parameters") == before
    assert "Parameter 'capability' does not accept value 'bogus'" in refused(
        source, "migrate-set-capabilities", capabilities=[{"capability": "bogus", "state": True}])
    # As clients put all that they do not need to false.
    source.qmp.execute("migrate-set-capabilities", capabilities=[
        {"capability": row["capability"], "state": False}
        for row in source.qmp.execute("query-migrate-capabilities")])
    assert [row["capability"] for row in source.qmp.execute("query-migrate-capabilities")
            if row["state"]] == ["return-path"]
    assert "expects a valid migration protocol" in refused(source, "migrate", uri="carrier:pigeon")
    assert "'-incoming' was not specified" in refused(source, "migrate-incoming", uri=pair.uri)
    assert "Migration not in expected state" in refused(source, "migrate-continue",
                                                        state="pre-switchover")
    assert source.qmp.execute("migrate_cancel") == {}
    assert source.qmp.execute("query-migrate") == {}


def test_deferred_it_waits_for_an_address_and_only_once(pair: Pair) -> None:
    target = pair.start("-incoming", "defer")
    assert status(target) == "inmigrate"
    assert "Guest is waiting for an incoming migration" in refused(target, "migrate", uri=pair.uri)
    assert "Failed to" in refused(target, "migrate-incoming", uri="unix:/no/such/folder/socket")
    target.qmp.execute("migrate-incoming", uri="tcp:127.0.0.1:0")
    [address] = target.qmp.execute("query-migrate")["socket-address"]
    assert address["type"] == "inet" and int(address["port"]) > 0
    assert "already been started" in refused(target, "migrate-incoming", uri=pair.uri)
    pair.source.qmp.execute("migrate", uri=f"tcp:{address['host']}:{address['port']}")
    assert wait_migration(pair.source, *OVER) == "completed"
    assert wait_migration(target, *OVER) == "completed"
    assert "previous migration" in refused(pair.source, "migrate", uri=pair.uri)


def test_a_monitor_for_people_tells_the_same(pair: Pair) -> None:
    def say(line: str) -> str:
        text = pair.source.qmp.execute("human-monitor-command", **{"command-line": line})
        return text.replace("\r\n", "\n")

    assert say("info migrate") == ""
    assert say("migrate_set_capability multifd on") == ""
    assert say("migrate_set_parameter multifd-channels 3") == ""
    assert say("migrate_set_parameter multifd-channels many").startswith("Error: ")
    assert "multifd: on\n" in say("info migrate_capabilities")
    assert "multifd-channels: 3\n" in say("info migrate_parameters")
    target = pair.await_it()
    assert say(f"migrate -d {pair.uri}") == ""
    wait_migration(pair.source, "completed")
    wait_migration(target, "completed")
    text = say("info migrate")
    assert text.startswith("Migration status: completed\n") and "phases: setup " in text
    assert "main connection: " in text
    assert [line.partition(":")[0] for line in text.split("\n") if line.startswith("channel ")] == [
        "channel 0", "channel 1", "channel 2"]
