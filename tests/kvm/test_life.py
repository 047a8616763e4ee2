"""A running guest's life as a monitor sees and steers it."""

from __future__ import annotations

import os
import re
import signal

import pytest

from support import qmp, vm

RESET_NEEDED = "Resetting the Virtual Machine is required"


def ticks(text: str) -> list[int]:
    """The numbers of all complete "tick N" lines; nothing else may stand between them."""
    lines = text.split("\n")[:-1]
    assert all(re.fullmatch(r"tick \d+", line) for line in lines), lines
    return [int(line[5:]) for line in lines]


def status(monitor: qmp.Qmp) -> str:
    answer = monitor.execute("query-status")
    assert answer["running"] == (answer["status"] == "running")
    return answer["status"]


def quit_cleanly(process: vm.Process, monitor: qmp.Qmp) -> None:
    monitor.events.clear()
    assert monitor.execute("quit") == {}
    assert monitor.take_event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-quit"}
    monitor.wait_eof()
    assert not monitor.events
    assert process.wait() == 0
    assert process.stderr == ""


def test_a_held_start_waits_for_cont(guest):
    process, monitor = guest.with_qmp("hello", "-S", "-no-shutdown")
    assert status(monitor) == "prelaunch"
    assert process.stdout == ""
    assert monitor.execute("cont") == {}
    assert monitor.take_event("RESUME") is None  # before the return
    process.wait_for("hello from a micro-guest\n")
    assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert monitor.wait_event("STOP") is None
    quit_cleanly(process, monitor)


def test_queries_tell_the_truth(guest):
    name, uuid = "a guest", "12345678-9abc-def0-1234-56789abcdef0"
    process, monitor = guest.with_qmp("ticks", "-name", name, "-uuid", uuid, "-smp", "2")
    process.wait_for("tick 1\n")
    assert monitor.greeting["capabilities"] == []
    assert monitor.execute("query-version") == monitor.greeting["version"]
    assert monitor.execute("query-name") == {"name": name}
    assert monitor.execute("query-uuid") == {"UUID": uuid}
    assert monitor.execute("query-kvm") == {"enabled": True, "present": True}
    assert monitor.execute("query-status") == {
        "status": "running", "singlestep": False, "running": True}

    cpus = monitor.execute("query-cpus-fast")
    assert [cpu["cpu-index"] for cpu in cpus] == [0, 1]
    threads = os.listdir(f"/proc/{process.process.pid}/task")
    for cpu in cpus:
        assert str(cpu["thread-id"]) in threads
        with open(f"/proc/{process.process.pid}/task/{cpu['thread-id']}/comm") as comm:
            assert comm.read() == f"vcpu{cpu['cpu-index']}\n"

    commands = {entry["name"] for entry in monitor.execute("query-commands")}
    assert commands >= {"query-status", "query-cpus-fast", "query-kvm", "query-name", "query-uuid",
                        "query-version", "query-commands", "stop", "cont", "system_reset",
                        "system_powerdown", "quit", "qmp_capabilities"}
    with pytest.raises(qmp.QmpError, match="The command nope has not been found") as failure:
        monitor.execute("nope")
    assert failure.value.error_class == "CommandNotFound"
    quit_cleanly(process, monitor)


def test_stop_holds_the_guest_and_cont_loses_nothing(guest):
    process, monitor = guest.with_qmp("ticks")
    for _ in range(vm.sized(3, 100)):
        process.wait_for("tick ")
        assert monitor.execute("stop") == {}
        assert monitor.take_event("STOP") is None
        assert status(monitor) == "paused"
        # What the guest said before it stood still is in the pipe; more must not come, however
        # long the monitor is talked to.
        process.drain()
        seen = process.stdout
        for _ in range(20):
            assert monitor.execute("stop") == {}  # a second stop is no event
            assert status(monitor) == "paused"
        process.drain()
        assert process.stdout == seen
        assert not monitor.events
        assert monitor.execute("cont") == {}
        assert monitor.take_event("RESUME") is None
        process.wait_for("\n")
    numbers = ticks(process.stdout[:process.stdout.rfind("\n") + 1])
    assert numbers == list(range(1, len(numbers) + 1))
    quit_cleanly(process, monitor)


def test_system_reset_boots_again(guest):
    process, monitor = guest.with_qmp("ticks")
    for _ in range(vm.sized(3, 100)):
        process.wait_for("tick 2\n")
        assert monitor.execute("system_reset") == {}
        assert monitor.take_event("RESET") == {"guest": False, "reason": "host-qmp-system-reset"}
        assert status(monitor) == "running"
        process.wait_for("tick 1\n")
    quit_cleanly(process, monitor)


def test_reset_of_a_paused_guest_waits_for_cont(guest):
    process, monitor = guest.with_qmp("ticks")
    process.wait_for("tick 2\n")
    monitor.execute("stop")
    monitor.execute("system_reset")
    assert monitor.take_event("STOP") is None
    assert monitor.take_event("RESET")["guest"] is False
    assert status(monitor) == "prelaunch"
    monitor.execute("cont")
    process.wait_for("tick 1\n")
    quit_cleanly(process, monitor)


def test_power_button_powers_off(guest):
    process, monitor = guest.with_qmp("ticks")
    process.wait_for("tick 1\n")
    assert monitor.execute("system_powerdown") == {}
    assert monitor.take_event("POWERDOWN") is None
    assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert process.wait() == 0
    assert process.stdout.endswith("power button\n")


def test_no_shutdown_keeps_the_machine_until_a_reset(guest):
    process, monitor = guest.with_qmp("hello", "-S", "-no-shutdown")
    monitor.execute("cont")
    for _ in range(3):
        process.wait_for("hello from a micro-guest\n")
        assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
        assert monitor.wait_event("STOP") is None
        assert status(monitor) == "shutdown"
        with pytest.raises(qmp.QmpError) as failure:
            monitor.execute("cont")
        assert failure.value.description == RESET_NEEDED
        assert failure.value.error_class == "GenericError"
        assert status(monitor) == "shutdown"
        assert monitor.execute("system_reset") == {}
        assert monitor.take_event("RESET")["reason"] == "host-qmp-system-reset"
        assert status(monitor) == "prelaunch"
        assert monitor.execute("cont") == {}
        assert monitor.take_event("RESUME") is None
    process.wait_for("hello from a micro-guest\n")
    monitor.wait_event("STOP")
    quit_cleanly(process, monitor)


def test_no_reboot_turns_a_reset_into_the_end(guest):
    process, monitor = guest.with_qmp("reset", "-no-reboot", "-S")
    monitor.execute("cont")
    assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-reset"}
    assert process.wait() == 0
    assert process.stdout == "boot 1\n"


def test_no_reboot_turns_a_monitors_reset_into_the_end_too(guest):
    process, monitor = guest.with_qmp("ticks", "-no-reboot")
    process.wait_for("tick 1\n")
    assert monitor.execute("system_reset") == {}
    assert monitor.take_event("SHUTDOWN") == {"guest": False, "reason": "host-qmp-system-reset"}
    assert not monitor.events
    assert process.wait() == 0


def test_guest_resets_are_events(guest):
    process, monitor = guest.with_qmp("reset", "-S")
    monitor.execute("cont")
    for _ in range(4):
        assert monitor.wait_event("RESET") == {"guest": True, "reason": "guest-reset"}
    assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert process.wait() == 0
    assert process.stdout == "".join(f"boot {n}\n" for n in range(1, 6))


@pytest.mark.parametrize("state", ["running", "paused", "prelaunch"])
def test_quit(guest, state):
    process, monitor = guest.with_qmp("ticks", *(["-S"] if state == "prelaunch" else []))
    if state != "prelaunch":
        process.wait_for("tick 1\n")
    if state == "paused":
        monitor.execute("stop")
    assert status(monitor) == state
    quit_cleanly(process, monitor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("state", ["running", "prelaunch"])
def test_a_signal_ends_the_process_in_order(guest, number, state):
    process, monitor = guest.with_qmp("ticks", *(["-S"] if state == "prelaunch" else []))
    if state == "running":
        process.wait_for("tick 1\n")
    os.kill(process.process.pid, number)
    assert monitor.wait_event("SHUTDOWN") == {"guest": False, "reason": "host-signal"}
    monitor.wait_eof()
    assert process.wait() == 0
    assert process.stderr == ""


def test_an_internal_error_is_reported_and_survived(guest):
    process, monitor = guest.with_qmp("lost", "-S")
    for boot in range(1, 3):
        monitor.execute("cont")
        process.wait_for("going nowhere\n")
        assert monitor.wait_event("STOP") is None
        assert status(monitor) == "internal-error"
        with pytest.raises(qmp.QmpError) as failure:
            monitor.execute("cont")
        assert failure.value.description == RESET_NEEDED
        process.drain()
        report = process.stderr
        assert report.count("rhea: vCPU 0: ") == boot
        assert report.count("RIP=00000000d0000000") == boot
        for register in ("RAX=00000000d0000000", "RSP=", "CR0=", "CR3=", "EFER=", "CS =", "Code="):
            assert report.count(register) == boot, report
        assert monitor.execute("system_reset") == {}
        monitor.take_event("RESET")
        assert status(monitor) == "prelaunch"
    monitor.execute("quit")
    assert process.wait() == 0


def test_the_log_goes_to_the_end_of_a_file(guest, tmp_path):
    log = tmp_path / "log"
    log.write_text("what was there\n")
    process, monitor = guest.with_qmp("hello", "-S", "-d", "vmm=trace", "-D", str(log))
    quit_cleanly(process, monitor)
    first, *lines = log.read_text().splitlines()
    assert first == "what was there"
    assert any(line.startswith("rhea: T vmm: kvm_slot_set ") for line in lines), lines
    assert all(line.startswith("rhea: ") for line in lines), lines
