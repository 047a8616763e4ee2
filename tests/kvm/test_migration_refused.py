"""A machine that the destination can not take, or the source not send: the source goes on, or waits for a person,
and names why.

The relay, the witness and the outcomes are those of `test_migration_faults.py`.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import resource
import struct
from typing import Iterator

import pytest

from support import faults, qmp, relay, vm
from support.faults import Pair

DISK = "pci/02.0"  # where it sits
WAYS = [(0, "unix"), (2, "tcp")] if vm.full_size() else [(2, "tcp")]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[1]}-{way[0]}")
def pair(request, guest, tmp_path) -> Iterator[Pair]:
    both = Pair(guest, tmp_path, *request.param)
    yield both
    both.clean_up()


# --- Another machine --------------------------------------------------------------------------------

OTHERS = {  # name -> the destination, what the source says
    "ram-size": ((), {"memory": 128}, "Size mismatch: .*: 0x4000000 != 0x8000000"),
    "no-disk": ((), {"disk": False}, r"There is no device '.*' \(virtio-blk-pci\) here"),
    "one-more-device": (("-device", "virtio-scsi-pci,id=hba"), {},
                        r"There is no device '.*' \(virtio-scsi-pci\) there"),
    "cpus": (("-smp", "2"), {}, "The number of CPUs differs: 1 there, 2 here"),
    "queues": (("-blockdev", "null-co,node-name=d0", "-device", "virtio-blk-pci,drive=d0,num-queues=2"),
               {"disk": False}, r"Device '.*' \(virtio-blk-pci\) has queues=1x256 .* there, "
               "queues=2x256 .* here"),
}


def expect_refused_early(pair: Pair, error: str) -> None:
    """Before anything has stopped."""
    faults.expect_back(pair, f"The destination refuses the machine: .*{error}")
    assert pair.source.told() == ["setup", "failed"]
    pair.finish(pair.source)


@pytest.mark.parametrize("extra,machine,error", OTHERS.values(), ids=OTHERS)
def test_another_machine_is_refused_before_the_source_stops(pair, extra, machine, error):
    pair.start_target(*extra, **machine)
    pair.reach("")
    expect_refused_early(pair, error)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def test_another_version_of_the_stream_is_refused(pair):
    pair.reach("hello 1")
    version = relay.field("stream-version", relay.U32)
    pair.held.forge(version, u32(2), u32(3))
    expect_refused_early(pair, "The version of the stream differs: 3 there, 2 here")


@pytest.mark.parametrize("device", ["accelerator", "rtc", DISK])
def test_another_version_of_a_device_is_refused_by_its_name(pair, device):
    pair.reach("hello 1")
    version = relay.field("version", relay.U32)
    pair.held.forge(relay.path(device), version + u32(1), version + u32(2))
    expect_refused_early(pair, rf"Device '{device}' \(.*\) has version 2 there, 1 here")


# --- A state that can not be ------------------------------------------------------------------------

MP_STATE, INDEX = relay.field("mp_state", relay.U32), relay.field("index", relay.U8)
# The first, one in the middle, one of -device, the last -> what is behind what in it, what is to be there, the error.
FORGED = {
    "accelerator": (MP_STATE, u32(0), u32(0xffffffff), "vcpu 0: mp_state 0xffffffff is not possible"),
    "rtc": (INDEX, b"\x00", b"\x80", "rtc: field 'index'"),
    DISK: (relay.field("config", relay.BYTES), b"\xf4\x1a", b"\xf5\x1a",
           "vd0: field 'config': byte 0x00 is 0xf5, ours is 0xf4"),
    "run-state": (relay.field("state", relay.STRING), b"running", b"walking", "run-state: .*'walking'"),
}
STOPPED_AND_BACK = ["setup", "active", "STOP", "failed", "RESUME"]


@pytest.mark.parametrize("device,forged", FORGED.items(), ids=FORGED)
def test_a_state_that_can_not_be_is_refused_by_name_and_the_source_runs_again(pair, device, forged):
    *change, error = forged
    pair.reach(f"device {device}")
    pair.held.forge(*change)
    faults.expect_back(pair, f"The destination gives up: {error}")
    assert pair.source.told() == STOPPED_AND_BACK
    pair.target.qmp.wait_eof()
    assert pair.target.told() == ["setup", "active", "failed"]
    pair.finish(pair.source)


# --- Somebody else's locks --------------------------------------------------------------------------

TAKEN = "Failed to get .* lock: Is another process using the image"


def let_a_stranger_be_quicker(pair: Pair) -> None:
    """Who takes the locks when the source has given them up, before the destination does."""
    pair.reach("released 1")
    assert pair.stranger.take()
    pair.held.forward()
    pair.expect_target_gone(TAKEN)


def test_the_source_takes_locks_back_that_a_stranger_has_for_a_while(pair):
    let_a_stranger_be_quicker(pair)
    pair.stranger.give_back()
    faults.back(pair, f"The destination gives up: {TAKEN}")


def test_the_source_waits_for_a_person_if_a_stranger_keeps_the_locks(pair):
    let_a_stranger_be_quicker(pair)
    pair.expect_status(pair.source, "failed", f"The machine stays paused, because {TAKEN}")
    assert pair.source.status() == "paused"
    pair.expect_refused(pair.source)
    pair.stranger.give_back()
    pair.source.qmp.execute("cont")
    pair.expect_run("source")
    pair.expect_no_leak("source")
    pair.finish(pair.source)


def test_a_stranger_gets_no_locks_once_the_destination_has_them(pair):
    pair.reach("ack 1")
    assert not pair.stranger.take()
    faults.there(pair, "")


def test_a_destination_that_locks_late_waits_for_a_person_if_a_stranger_was_quicker(pair):
    pair.start_target(late=True)
    pair.reach("go 1")
    assert pair.stranger.take()
    pair.held.forward()
    faults.expect_left(pair)
    pair.expect_status(pair.target, "failed", TAKEN)
    assert pair.target.status() == "paused"
    pair.expect_refused(pair.target)
    pair.stranger.give_back()
    pair.target.qmp.execute("cont")
    pair.expect_run("target")
    pair.expect_no_leak("target")
    pair.finish(pair.target)


def test_a_destination_that_locks_late_has_no_lock_until_it_runs(pair):
    pair.start_target(late=True)
    pair.reach("go 1")
    assert pair.stranger.take()
    pair.stranger.give_back()
    faults.there(pair, "")


@pytest.mark.parametrize("late", [False, True])
def test_a_machine_that_arrives_paused_has_no_lock_until_cont(pair, late):
    pair.start_target("-S", late=late)
    pair.reach("")
    faults.expect_left(pair)
    pair.expect_status(pair.target, "completed")
    assert pair.target.status() == "paused"
    assert pair.stranger.take()
    pair.expect_refused(pair.target)
    pair.stranger.give_back()
    pair.target.qmp.execute("cont")
    pair.expect_run("target")
    pair.expect_no_leak("target")
    pair.finish(pair.target)


# --- A host that has no more ------------------------------------------------------------------------

NONE_LEFT = 1 << 20  # bytes; less than it has: nothing more can be mapped


def limit(pair: Pair, which: int, value: int) -> None:
    resource.prlimit(pair.target.process.process.pid, which, (value, value))


@pytest.mark.skipif(vm.address_sanitized(), reason="AddressSanitizer itself needs memory then")
def test_a_destination_without_memory_for_its_threads_ends(pair):
    pair.start_target()
    limit(pair, resource.RLIMIT_AS, NONE_LEFT)
    pair.reach("")
    pair.expect_target_gone("Resource temporarily unavailable")
    faults.back(pair, f"{faults.LOST}|The destination gives up: .*Resource temporarily unavailable")


SHORTAGES = {"memory": (resource.RLIMIT_AS, NONE_LEFT, "cannot start a thread: Resource temporarily unavailable"),
             "descriptors": (resource.RLIMIT_NOFILE, 3, "Too many open files")}


@contextlib.contextmanager
def short(pair: Pair, which: int, value: int) -> Iterator[None]:
    """The source's host, for a while."""
    pid = pair.source.process.process.pid
    before = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (value, before[1]))
    yield
    resource.prlimit(pid, which, before)


@pytest.mark.skipif(vm.address_sanitized(), reason="AddressSanitizer itself needs both then")
@pytest.mark.parametrize("which,value,error", SHORTAGES.values(), ids=SHORTAGES)
def test_a_source_that_can_not_begin_says_so_at_once(pair, which, value, error):
    pair.start_target()
    with short(pair, which, value):
        with pytest.raises(qmp.QmpError, match=error):
            pair.reach("")
        pair.expect_run("source")
    pair.expect_no_leak("source")
    assert pair.source.told() == []
    pair.reach("")
    faults.there(pair, "")


NO_MEMORY = ("cannot start a thread: Resource temporarily unavailable|"
             "cannot map a coroutine stack: Cannot allocate memory")


@pytest.mark.skipif(vm.address_sanitized(), reason="AddressSanitizer itself needs memory then")
@pytest.mark.parametrize("pair", [(0, "unix"), (2, "tcp")], indirect=True, ids=["main", "multifd"])
def test_a_source_that_has_no_memory_on_the_way_goes_on(pair):
    """For the threads of its channels, or to bring its disks to rest: it has stopped then."""
    pair.reach("hello 1")
    with short(pair, resource.RLIMIT_AS, NONE_LEFT):
        pair.held.forward()
        faults.expect_back(pair, NO_MEMORY)
    assert ("STOP" in pair.source.told()) == (pair.channels == 0)
    pair.finish(pair.source)


A_BUFFER = 2 << 20  # that pages are copied to which get a checksum
A_STACK = 2 << 20  # of a thread, where the host does not say


def mapped_by(instance: faults.Instance) -> int:
    status = pathlib.Path(f"/proc/{instance.process.process.pid}/status").read_text()
    return int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) << 10


@pytest.mark.skipif(vm.address_sanitized(), reason="AddressSanitizer itself needs memory then")
@pytest.mark.parametrize("pair", [(0, "unix")], indirect=True, ids=["main"])
def test_a_source_that_has_memory_for_its_thread_but_for_no_buffer_goes_on(pair):
    pair.start_target()
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack = A_STACK if stack == resource.RLIM_INFINITY else stack
    with short(pair, resource.RLIMIT_AS, mapped_by(pair.source) + stack + A_BUFFER * 3 // 4):
        pair.reach("")
        faults.expect_back(pair, f"the host has no memory for a buffer of {A_BUFFER} bytes")
    assert "STOP" not in pair.source.told()
    pair.finish(pair.source)


@pytest.mark.skipif(vm.address_sanitized(), reason="AddressSanitizer itself opens files then")
def test_a_destination_without_descriptors_ends(pair):
    pair.start_target()
    limit(pair, resource.RLIMIT_NOFILE, 3)
    pair.reach("")
    pair.expect_target_gone("Too many open files")
    faults.back(pair, faults.LOST)
