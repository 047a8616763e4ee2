"""The guest's serial ports: sockets, pseudo-terminals, files, and the terminal rhea runs on."""

from __future__ import annotations

import fcntl
import os
import pathlib
import pty
import re
import signal
import socket
import struct
import termios

import pytest

from support import vm


def connect(path: pathlib.Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(vm.PATIENCE_S)
    connection.connect(str(path))
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = connection.recv(4096)
        assert more, f"closed after {data!r}"
        data += more
    return data


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while more := connection.recv(4096):
        data += more
    return data


def test_two_ports_on_sockets(guest, tmp_path):
    paths = [tmp_path / "com1", tmp_path / "com2"]
    options = [f"unix:{path},server=on,wait=off" for path in paths]
    process, monitor = guest.with_qmp("echo", "-S", "-serial", options[1], serial=options[0])
    first, second = [connect(path) for path in paths]
    monitor.execute("cont")
    assert read_until(first, b"ready\n") == b"ready\n"
    first.sendall(b"abcq")
    assert read_all(first) == b"abcq"
    assert read_all(second) == b"abcq"
    assert process.wait() == 0
    assert not any(path.exists() for path in paths)


def test_a_socket_port_survives_its_client(guest, tmp_path):
    path = tmp_path / "com1"
    process, monitor = guest.with_qmp("echo", "-S", serial=f"unix:{path},server=on,wait=off")
    client = connect(path)
    monitor.execute("cont")
    read_until(client, b"ready\n")
    for letter in (b"a", b"b", b"c"):
        client.sendall(letter)
        assert read_until(client, letter) == letter
        client.close()
        client = connect(path)
    client.sendall(b"q")
    assert read_all(client) == b"q"
    assert process.wait() == 0


def test_wait_on_holds_the_start_until_somebody_connects(guest, tmp_path):
    listener_path = tmp_path / "com1"
    fd_owner = socket.socket(socket.AF_UNIX)
    fd_owner.bind(str(listener_path))
    fd_owner.listen(1)
    fd = fd_owner.fileno()
    process = guest.run("-accel", "kvm", "-nodefaults", "-display", "none", "-m", "64",
                        "-kernel", guest.image("echo"), "-chardev",
                        f"socket,id=c,fd={fd},server=on,wait=on", "-device",
                        "isa-serial,chardev=c", pass_fds=[fd])
    client = connect(listener_path)
    assert read_until(client, b"ready\n") == b"ready\n"  # nothing was said before we came
    client.sendall(b"q")
    assert read_all(client) == b"q"
    assert process.wait() == 0


def test_pseudo_terminal(guest):
    process, monitor = guest.with_qmp("echo", "-S", serial="pty")
    process.wait_for(")\n")
    found = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label serial0\)\n",
                         process.stdout)
    assert found, process.stdout
    terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
    monitor.execute("query-status")
    monitor.execute("query-status")  # a turn of the loop later, the open has been noticed
    monitor.execute("cont")
    with os.fdopen(terminal, "r+b", buffering=0) as console:
        assert b"".join(console.read(1) for _ in range(6)) == b"ready\n"
        console.write(b"x")
        assert console.read(1) == b"x"
        console.write(b"q")  # alone: what nobody has read goes when the master is closed
        assert process.wait() == 0


def test_a_port_connected_to_nothing(guest):
    process = guest("hello", serial="null")
    assert process.wait() == 0
    assert process.stdout == process.stderr == ""


def test_a_file_gets_all(guest, tmp_path):
    log = tmp_path / "console"
    process = guest("lines", serial=f"file:{log}")
    assert process.wait() == 0
    assert log.read_text() == "".join(f"line {n}\n" for n in range(1, 2001))


def test_a_full_pipe_holds_the_guest_and_loses_nothing(guest):
    read_end, write_end = os.pipe()
    room = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process, monitor = guest.with_qmp("lines", "-S", serial=f"file:/proc/self/fd/{write_end}",
                                      pass_fds=[write_end])
    os.close(write_end)
    monitor.execute("cont")
    waiting = 0
    while waiting < room:
        assert monitor.execute("query-status")["running"]
        waiting, = struct.unpack("i", fcntl.ioctl(read_end, termios.FIONREAD, bytes(4)))
    assert monitor.execute("query-status")["running"]  # held, and still answering
    with os.fdopen(read_end, "rb") as output:
        assert output.read().decode() == "".join(f"line {n}\n" for n in range(1, 2001))
    assert process.wait() == 0


class Terminal:
    """A pseudo-terminal for a rhea's stdin."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.before = self.mode()

    def mode(self) -> list:
        return termios.tcgetattr(self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def is_raw(self) -> bool:
        return not self.mode()[3] & (termios.ICANON | termios.ECHO)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.close()


@pytest.mark.parametrize("serial", ["stdio", "mon:stdio"])
def test_terminal_is_restored_after_power_off(guest, terminal, serial):
    process = guest("echo", serial=serial, stdin=terminal.slave)
    process.wait_for("ready\n")
    assert terminal.is_raw()
    terminal.type("abq")
    assert process.wait() == 0
    assert process.stdout == "ready\nabq"
    assert terminal.mode() == terminal.before


@pytest.mark.parametrize("serial", ["stdio", "mon:stdio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_terminal_is_restored_after_a_signal(guest, terminal, serial, number):
    process = guest("echo", serial=serial, stdin=terminal.slave)
    process.wait_for("ready\n")
    assert terminal.is_raw()
    os.kill(process.process.pid, number)
    assert process.wait() == 0
    assert terminal.mode() == terminal.before


def test_terminal_is_restored_after_a_crash(guest, terminal):
    process = guest("echo", serial="stdio", stdin=terminal.slave)
    process.wait_for("ready\n")
    os.kill(process.process.pid, signal.SIGABRT)
    assert process.wait() == -signal.SIGABRT
    assert terminal.mode() == terminal.before


def test_ctrl_a_keys(guest, terminal):
    process = guest("echo", serial="mon:stdio", stdin=terminal.slave)
    process.wait_for("ready\n")
    terminal.type("\x01h")
    process.wait_for("Ctrl-A X")
    process.wait_for("Ctrl-A Ctrl-A")
    terminal.type("a\x01\x01")  # an ordinary key, and Ctrl-A itself
    process.wait_for("a\x01")
    terminal.type("\x03")  # Ctrl-C is the guest's
    process.wait_for("\x03")
    terminal.type("\x01x")
    assert process.wait() == 0
    assert "terminated" in process.stdout.splitlines()[-1]
    assert process.stderr == ""
    assert terminal.mode() == terminal.before


def test_ctrl_a_c_is_the_monitor_beside_a_running_guest(guest, terminal):
    process = guest("echo", serial="mon:stdio", stdin=terminal.slave)
    process.wait_for("ready\n")
    terminal.type("\x01c")
    process.wait_for("(rhea) ")
    terminal.type("stop\rinfo status\r")
    process.wait_for("VM status: paused\r\n(rhea) ")
    terminal.type("cont\r")
    process.wait_for("(rhea) ")
    terminal.type("\x01cab")
    process.wait_for("ab")  # the guest's again
    terminal.type("\x01cquit\r")
    assert process.wait() == 0
    assert terminal.mode() == terminal.before
