"""scripts/qmp, as people and scripts run it, against the real binary and against servers that misbehave."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import threading
from typing import Callable, Iterator

import pytest
from qtest import Machine

from support import vm

sys.path.insert(0, str(vm.ROOT / "scripts"))

from qmp_client import Pattern, UsageError, parse_address, parse_arguments, parse_script  # noqa: E402

QMP = vm.ROOT / "scripts" / "qmp"
EJECT = 0xAE08
GPE_STATUS, GPE_ENABLE, HOTPLUG_EVENT = 0xAFE0, 0xAFE2, 1 << 1


@pytest.fixture
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.chdir(tmp_path)  # the examples name their files without a folder
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    (tmp_path / "scripts").symlink_to(vm.ROOT / "scripts")
    with Machine(tmp_path, "-qmp", f"unix:{tmp_path}/qmp.sock,server=on,wait=off",
                 "-blockdev", "driver=null-co,node-name=n9") as started:
        yield started


def start(folder: pathlib.Path, line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["/bin/sh", "-c", "exec " + line], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def qmp(folder: pathlib.Path, line: str) -> tuple[int, list[str], list[str]]:
    """Exit status, and the lines of standard output and standard error."""
    process = start(folder, f"{QMP} {line}")
    out, err = process.communicate(timeout=vm.PATIENCE_S)
    return process.returncode, out.splitlines(), err.splitlines()


def serve_ejects(machine: Machine, slot: int) -> None:
    """Does once as a guest that is asked for a slot: waits for the interrupt, lets the device go."""
    while "raise" not in machine.line.read_line():
        pass
    machine.outw(GPE_STATUS, HOTPLUG_EVENT)
    machine.outl(EJECT, 1 << slot)


def test_a_reply_is_json_and_an_error_is_one_line(machine: Machine, tmp_path: pathlib.Path) -> None:
    assert qmp(tmp_path, "qmp.sock query-status") == (
        0, ['{"status": "running", "singlestep": false, "running": true}'], [])
    assert qmp(tmp_path, "unix:qmp.sock device_del id=no") == (
        1, [], ["qmp: device_del: DeviceNotFound: Device 'no' not found"])
    status, out, err = qmp(tmp_path, "qmp.sock query-uuid --pretty")
    assert (status, json.loads("\n".join(out)), len(out), err) == (
        0, {"UUID": "00000000-0000-0000-0000-000000000000"}, 3, [])


def test_commands_run_in_order_until_one_fails(machine: Machine, tmp_path: pathlib.Path) -> None:
    status, out, err = qmp(tmp_path, "qmp.sock query-kvm , blockdev-del node-name=no , quit")
    assert (status, len(out)) == (1, 1)
    assert err == ["qmp: blockdev-del: GenericError: Failed to find node with node-name='no'"]
    assert machine.qmp.execute("query-status")["running"]  # quit did not run


def test_an_event_before_its_reply_is_kept_for_the_wait(machine: Machine, tmp_path: pathlib.Path) -> None:
    """All events are out before the first of these waits begins."""
    assert qmp(tmp_path, "qmp.sock device_add driver=virtio-blk-pci id=vd0 drive=n9")[0] == 0
    status, out, err = qmp(
        tmp_path, "qmp.sock device_del id=vd0 , system_reset , query-kvm"
        " --wait DEVICE_DELETED:device=vd0 --wait RESET:guest=false"
        " --wait DEVICE_DELETED:path=/machine/peripheral/vd0/virtio-backend --events")
    assert (status, err) == (0, [])
    kinds = [line.get("event", "reply") for line in map(json.loads, out)]
    assert kinds[:3] == ["reply", "RESET", "reply"]  # as they came
    assert sorted(kinds[3:]) == ["DEVICE_DELETED", "DEVICE_DELETED", "reply"]


def test_an_event_is_taken_once(machine: Machine, tmp_path: pathlib.Path) -> None:
    status, out, err = qmp(tmp_path, "qmp.sock --timeout 0.5 stop --wait STOP --wait STOP")
    assert (status, out, err[-1]) == (3, ["{}"], "qmp: time-out: no event STOP within 0.5 s")
    assert json.loads(err[0])["event"] == "STOP"  # events go to standard error


def test_unless_ends_a_wait_as_a_failure(machine: Machine, tmp_path: pathlib.Path) -> None:
    process = start(tmp_path, f"{QMP} qmp.sock device_add driver=virtio-blk-pci id=vd0 drive=n9 ,"
                    " device_del id=vd0 --wait DEVICE_DELETED:device=vd0"
                    " --unless DEVICE_UNPLUG_GUEST_ERROR:device=vd0")
    assert process.stdout and [process.stdout.readline() for _ in range(2)] == ["{}\n"] * 2
    machine.clock_step(30_000_000_000)
    _, err = process.communicate(timeout=vm.PATIENCE_S)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(
        "qmp: DEVICE_DELETED:device=vd0: DEVICE_UNPLUG_GUEST_ERROR: the guest did not let it go")


def readme_examples() -> list[str]:
    text = (vm.ROOT / "scripts" / "README.md").read_text()
    return re.findall(r"^ {4,}(scripts/qmp qmp\.sock .*)$", text, re.MULTILINE)


def test_the_examples_of_the_readme_do_what_they_say(machine: Machine, tmp_path: pathlib.Path) -> None:
    examples = readme_examples()
    assert len(examples) == 6
    machine.intercept_irqs()
    for line in examples:
        if "id=vd0 --wait" in line and not machine.qmp.execute("query-block"):
            machine.qmp.execute("device_add", driver="virtio-blk-pci", id="vd0", drive="n9", addr="5")
        machine.outw(GPE_STATUS, HOTPLUG_EVENT)
        machine.outw(GPE_ENABLE, 0)
        machine.outw(GPE_ENABLE, HOTPLUG_EVENT)
        machine.outw(GPE_STATUS, HOTPLUG_EVENT)
        process = start(tmp_path, line)
        if "device_del" in line:
            serve_ejects(machine, 5)
        out, err = process.communicate(timeout=vm.PATIENCE_S)
        assert process.returncode == 0, (line, out, err)
    names = {node["node-name"] for node in machine.qmp.execute("query-named-block-nodes")}
    assert names == {"n0", "n9"}  # what was added and not deleted again, and ours


@pytest.mark.parametrize("words, message", [
    ("", "SOCKET and COMMAND are needed"),
    ("qmp.sock", "SOCKET and COMMAND are needed"),
    ("qmp.sock , stop", "there is no command before ','"),
    ("qmp.sock --bogus stop", "there is no option --bogus"),
    ("qmp.sock --timeout x stop", "--timeout: 'x' is no number"),
    ("qmp.sock --timeout -1 stop", "--timeout: -1 is out of range"),
    ("qmp.sock 'device_del id=x'", "'device_del id=x' is not the name of a command"),
    ("qmp.sock device_del vd0", "'vd0' is not of the form KEY=VALUE"),
    ("qmp.sock device_del id=a id=b", "'id=b': 'id' is given twice"),
    ("qmp.sock blockdev-add file=a file.driver=b", "'file' has a value already"),
    ("qmp.sock blockdev-add '{bad'", "'{bad' begins like JSON and is none"),
    ("qmp.sock x a.0=1 a.2=1", "the numbers of a list run from 0: 0, 2"),
    ("qmp.sock stop --wait", "'' is not the name of an event"),
    ("qmp.sock stop --wait stop", "'stop' is not the name of an event"),
    ("qmp.sock stop --unless RESET", "--unless goes behind a --wait"),
    ("tcp:nowhere stop", "'tcp:nowhere' is not of the form tcp:HOST:PORT"),
    ("no/such.sock stop", "no/such.sock: No such file or directory"),
])
def test_a_mistake_is_named_before_anything_happens(tmp_path: pathlib.Path, words: str,
                                                    message: str) -> None:
    status, out, err = qmp(tmp_path, words)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("qmp: ") and message in err[0]


class Server:
    """A monitor of the test's own on TCP: `talk` gets the connection, in a thread."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=[talk])

    def _serve(self, talk: Callable[[socket.socket], None]) -> None:
        connection, _ = self._listener.accept()
        with connection:
            talk(connection)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(vm.PATIENCE_S)
        self._listener.close()
        assert not self._thread.is_alive()


def receive_until_closed(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'


def test_a_monitor_that_another_client_holds_is_a_time_out(tmp_path: pathlib.Path) -> None:
    with Server(receive_until_closed) as server:  # it listens and says nothing
        status, _, err = qmp(tmp_path, f"{server.address} stop --timeout 0.2")
    assert (status, err) == (3, [
        f"qmp: time-out: no greeting from {server.address} (a monitor serves one client at a time)"
        " within 0.2 s"])


def test_what_is_no_monitor_is_named(tmp_path: pathlib.Path) -> None:
    with Server(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n")) as server:
        status, _, err = qmp(tmp_path, f"{server.address} stop")
    assert (status, err) == (2, ["qmp: this is no QMP monitor: it says b'SSH-2.0-OpenSSH\\r'"])


def test_a_monitor_that_goes_away_is_an_error_of_the_connection(tmp_path: pathlib.Path) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        connection.recv(4096)
        # A byte at a time: a message may come in any pieces.
        for byte in b'{"event": "A", "timestamp": {}}\n{"return": {}, "id": 1}\n':
            connection.sendall(bytes([byte]))
        connection.recv(4096)

    with Server(talk) as server:
        status, out, err = qmp(tmp_path, f"tcp:{server.address} stop")
    assert (status, out) == (2, [])
    assert err == ['{"event": "A", "timestamp": {}}',
                   "qmp: the monitor closed the connection: no reply to stop"]


def test_values_have_the_types_that_they_look_like() -> None:
    words = ["a=1", "b=-1.5e3", "c=true", "d=null", "e=on", "f=007", "g==7", "h={\"x\": [1]}", "i=",
             "j.k.l=x", "j.m=2", "n.0=a", "n.1=b", 'o="1"', "p=0x10", '{"q": {"0": 1}}', "r===", "s=1G",
             *(f"t.{i}={i}" for i in range(11))]
    assert parse_arguments(words) == {
        "a": 1, "b": -1500.0, "c": True, "d": None, "e": "on", "f": "007", "g": "7", "h": {"x": [1]},
        "i": "", "j": {"k": {"l": "x"}, "m": 2}, "n": ["a", "b"], "o": "1", "p": "0x10",
        "q": {"0": 1}, "r": "=", "s": "1G", "t": list(range(11))}


def test_patterns_look_into_an_events_data() -> None:
    event = {"event": "X", "data": {"device": "1", "n": 2, "in": {"on": True}}}
    for matching in ("X", "X:device=1", "X:n=2:in.on=true", 'X:device="1"'):
        assert Pattern.parse(matching).matches(event), matching
    for other in ("Y", "X:device=2", "X:n=3", "X:in.off=true", "X:no=1", "X:device.x=1"):
        assert not Pattern.parse(other).matches(event), other
    assert not Pattern.parse("X:a=1").matches({"event": "X"})


def test_addresses(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:1").touch()
    unix, inet = socket.AF_UNIX, socket.AF_INET
    for text, expected in {
        "/a/b.sock": (unix, "/a/b.sock"), "q": (unix, "q"), "unix:h:1": (unix, "h:1"),
        "h:4444": (inet, ("h", 4444)), ":4444": (inet, ("localhost", 4444)),
        "[::1]:5": (inet, ("::1", 5)), "tcp:odd:1": (inet, ("odd", 1)), "odd:1": (unix, "odd:1"),
        "/a:1": (unix, "/a:1"),
    }.items():
        assert parse_address(text) == expected, text
    with pytest.raises(UsageError):
        parse_address("tcp:x")


def test_help_names_every_option(tmp_path: pathlib.Path) -> None:
    status, out, _ = qmp(tmp_path, "--help")
    assert status == 0
    for option in ("--wait", "--unless", "--timeout", "--events", "--pretty"):
        assert option in "\n".join(out)


def test_it_needs_nothing_but_the_standard_library(tmp_path: pathlib.Path) -> None:
    """Two files, copied anywhere, are the client."""
    for name in ("qmp", "qmp_client.py"):
        (tmp_path / name).write_bytes((vm.ROOT / "scripts" / name).read_bytes())
    done = subprocess.run(["/usr/bin/python3", "-I", "-S", str(tmp_path / "qmp"), "--help"],
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["qmp", "qmp_client.py"]  # it leaves no byte code


def test_a_script_is_checked_whole_before_it_runs() -> None:
    with pytest.raises(UsageError):
        parse_script(shlex.split("stop , device_del vd0"))
    steps = parse_script(shlex.split("a x=1 --wait A --unless=B:c=d e , f"))
    assert [type(step).__name__ for step in steps] == ["Command", "Wait", "Command", "Command"]
