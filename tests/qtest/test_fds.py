"""Descriptors that a QMP client passes (SCM_RIGHTS): getfd and closefd, and that none is left behind."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
from typing import Any, Iterator

import pytest
from fds import answer, ask, holds, open_fds, said
from qtest import Line, Machine, Qmp

from support import vm

NONE_PASSED = "No file descriptor supplied via SCM_RIGHTS"
MOST_NAMED = 64


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """With a second monitor to which clients can connect, and a human one."""
    with Machine(tmp_path, "-qmp", f"unix:{tmp_path}/second.sock,server=on,wait=off",
                 "-monitor", f"unix:{tmp_path}/human.sock,server=on,wait=off") as started:
        yield started
        started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its read end, and its write end to be passed."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def connect(path: pathlib.Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


@contextlib.contextmanager
def second_client(machine: Machine) -> Iterator[Qmp]:
    with connect(machine.serial_path.parent / "second.sock") as connection:
        yield Qmp(Line(connection))


def test_a_descriptor_gets_a_name_and_loses_it(machine: Machine, pipe: tuple[int, int]) -> None:
    before = open_fds(machine)
    assert ask(machine.qmp, "getfd", [pipe[1]], fdname="migrate") == {}
    assert holds(machine, pipe[1]) == 1
    assert machine.qmp.execute("closefd", fdname="migrate") == {}
    assert open_fds(machine) == before
    # It was the last copy beside ours.
    os.close(pipe[1])
    assert os.read(pipe[0], 1) == b""


def test_a_name_given_again_closes_what_had_it(machine: Machine, pipe: tuple[int, int]) -> None:
    with open(os.devnull, "rb") as other:
        assert ask(machine.qmp, "getfd", [other.fileno()], fdname="x") == {}
        nulls = holds(machine, other.fileno())
        assert ask(machine.qmp, "getfd", [pipe[1]], fdname="x") == {}
        assert (holds(machine, other.fileno()), holds(machine, pipe[1])) == (nulls - 1, 1)
    machine.qmp.execute("closefd", fdname="x")


def test_the_refusals_are_qemus(machine: Machine, pipe: tuple[int, int]) -> None:
    before = open_fds(machine)

    def error(command: str, **arguments: Any) -> tuple[str, str]:
        refused = machine.qmp.ask(command, **arguments)["error"]
        return refused["class"], refused["desc"]

    assert error("getfd", fdname="x") == ("GenericError", NONE_PASSED)
    assert error("getfd", fdname="1") == ("GenericError", NONE_PASSED)
    assert error("getfd", fdname=1) == (
        "GenericError", "Invalid parameter type for 'fdname', expected: string")
    assert error("closefd", fdname="x") == ("GenericError", "File descriptor named 'x' not found")
    assert ask(machine.qmp, "getfd", [pipe[1]], fdname="1x") == (
        "Parameter 'fdname' expects a name not starting with a digit")
    assert ask(machine.qmp, "getfd", []) == "Parameter 'fdname' is missing"
    assert open_fds(machine) == before


def test_of_a_set_the_first_is_named_and_none_is_left(machine: Machine, pipe: tuple[int, int]) -> None:
    before = open_fds(machine)
    with open(os.devnull, "rb") as other:
        assert ask(machine.qmp, "getfd", [pipe[1], *[other.fileno()] * 15], fdname="x") == {}
    assert holds(machine, pipe[1]) == 1
    assert len(open_fds(machine)) == len(before) + 1
    machine.qmp.execute("closefd", fdname="x")
    assert open_fds(machine) == before


def test_descriptors_wait_for_a_command_behind_their_message(machine: Machine,
                                                             pipe: tuple[int, int]) -> None:
    """As QEMU's own Python client passes them: with a blank, ahead of getfd."""
    socket.send_fds(machine.qmp.line.socket, [b" "], [pipe[1]])
    machine.qmp.execute("query-status")
    assert holds(machine, pipe[1]) == 1
    assert machine.qmp.execute("getfd", fdname="x") == {}
    assert holds(machine, pipe[1]) == 1
    machine.qmp.execute("closefd", fdname="x")


def test_each_of_many_commands_sent_at_once_gets_its_own(machine: Machine) -> None:
    """More than a turn serves, and some without: they must not take what is for another."""
    before = open_fds(machine)
    pipes = [os.pipe() for _ in range(20)]
    for index, (_, write) in enumerate(pipes):
        machine.qmp.line.socket.sendall(said("query-status") + said("getfd", fdname="none"))
        socket.send_fds(machine.qmp.line.socket, [said("getfd", fdname=f"n{index}")], [write])
    for index in range(len(pipes)):
        assert "status" in answer(machine.qmp), index
        assert answer(machine.qmp) == NONE_PASSED, index
        assert answer(machine.qmp) == {}, index
    for index, (read, write) in enumerate(pipes):
        assert holds(machine, write) == 1, index
        machine.qmp.execute("closefd", fdname=f"n{index}")
        assert holds(machine, write) == 0, index
        os.close(read)
        os.close(write)
    assert open_fds(machine) == before


def test_names_are_a_monitors_own_and_outlive_its_client(machine: Machine, pipe: tuple[int, int]) -> None:
    with second_client(machine) as client:
        assert ask(client, "getfd", [pipe[1]], fdname="x") == {}
        assert machine.qmp.ask("closefd", fdname="x")["error"]["desc"] == (
            "File descriptor named 'x' not found")
    with second_client(machine) as client:
        assert holds(machine, pipe[1]) == 1
        assert client.execute("closefd", fdname="x") == {}
    assert holds(machine, pipe[1]) == 0


def test_what_waits_goes_with_its_client(machine: Machine, pipe: tuple[int, int]) -> None:
    for _ in range(vm.sized(20, 500)):
        with second_client(machine) as client:
            ask(client, "query-status", [pipe[1]] * 16)
            assert holds(machine, pipe[1]) == 16
    with second_client(machine) as client:  # it is served when the one before has gone
        assert holds(machine, pipe[1]) == 0
        assert client.ask("getfd", fdname="x")["error"]["desc"] == NONE_PASSED


def test_a_flood_of_descriptors_costs_one_set(tmp_path: pathlib.Path, pipe: tuple[int, int]) -> None:
    """In a process that could not hold them all."""
    with Machine(tmp_path, launcher=["prlimit", "--nofile=128", "--"]) as machine:
        for _ in range(vm.sized(50, 2000)):
            ask(machine.qmp, "query-status", [pipe[1]] * 40)
        assert holds(machine, pipe[1]) == 16
        assert ask(machine.qmp, "getfd", [pipe[1]], fdname="x") == {}
        assert holds(machine, pipe[1]) == 1


def test_names_are_bounded(machine: Machine, pipe: tuple[int, int]) -> None:
    for index in range(MOST_NAMED):
        assert ask(machine.qmp, "getfd", [pipe[1]], fdname=f"n{index}") == {}
    assert ask(machine.qmp, "getfd", [pipe[1]], fdname="more") == (
        f"Too many file descriptors: {MOST_NAMED} have names already")
    assert holds(machine, pipe[1]) == MOST_NAMED
    assert ask(machine.qmp, "getfd", [pipe[1]], fdname="n0") == {}
    for index in range(MOST_NAMED):
        machine.qmp.execute("closefd", fdname=f"n{index}")
    assert holds(machine, pipe[1]) == 0


def test_who_has_no_use_for_descriptors_closes_them(machine: Machine, pipe: tuple[int, int]) -> None:
    """The serial port, qtest and the human monitor; what came with them is heard."""
    machine.outb(0x3f8 + 3, 0x03)
    with machine.serial().socket as serial:
        socket.send_fds(serial, [b"s"], [pipe[1]] * 3)
        while not machine.inb(0x3f8 + 5) & 1:
            pass
        assert machine.inb(0x3f8) == ord("s")
        assert holds(machine, pipe[1]) == 0

    socket.send_fds(machine.line.socket, [b"inb 0x3fd\n"], [pipe[1]] * 3)
    assert machine.line.read_line().startswith("OK")
    assert holds(machine, pipe[1]) == 0

    with connect(machine.serial_path.parent / "human.sock") as connection:
        human = Line(connection)
        human.read_line()
        socket.send_fds(human.socket, [b"info status\n"], [pipe[1]] * 3)
        while "VM status" not in human.read_line():
            pass
        assert holds(machine, pipe[1]) == 0
