"""The ways a machine can take beside a socket of its own: descriptors that a client passes or that are
inherited, commands, files; and `migrate` as the clients of QEMU say it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import socket
from typing import Any, Iterator

import pytest
from fds import ask, open_fds
from hotplug import refused
from moving import OVER, Driven, Pair, status, switch, wait_arrived, wait_migration
from qtest import Machine

from support import vm

NOT_FOUND = "File descriptor named '{}' not found"
# Where the queues run has nothing to do with the way.
ON_ONE_LOOP = pytest.mark.parametrize("driven", ["iothread"], indirect=True)


class Link:
    """What is written to `to` is read from `into`, in another process perhaps."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.into, self.to = os.pipe()
        else:
            self.into, self.to = (end.detach() for end in socket.socketpair())
        # As /proc/PID/fd shows them; both ends of a pipe have one name.
        self.names = {os.readlink(f"/proc/self/fd/{fd}") for fd in (self.into, self.to)}

    def close(self, *fds: int) -> None:
        """Our copies, all unless told, so that whoever else has one is alone with it."""
        for fd in fds or (self.into, self.to):
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def held(machine: Machine, link: Link) -> int:
    """How many ends of it the machine's process has, once it has put away what is over: it does that at
    its next turn, so that one command may be served before."""
    machine.qmp.execute("query-status")
    return sum(name in link.names for name in open_fds(machine))


def read_to_end(fd: int) -> bytes:
    data = bytearray()
    while True:
        assert select.select([fd], [], [], vm.PATIENCE_S)[0], "somebody still has the other end"
        if not (piece := os.read(fd, 1 << 20)):
            return bytes(data)
        data += piece


def write_all(fd: int, data: bytes) -> None:
    for at in range(0, len(data), select.PIPE_BUF):
        assert select.select([], [fd], [], vm.PATIENCE_S)[1], "nobody reads on"
        os.write(fd, data[at:at + select.PIPE_BUF])


def name_it(machine: Machine, fd: int, name: str) -> None:
    assert ask(machine.qmp, "getfd", [fd], fdname=name) == {}


def await_on(pair: Pair, link: Link, how: str) -> Machine:
    """A machine that waits at the link's end, with which it was born or which its client passes."""
    if how == "inherited":
        return pair.start("-incoming", f"fd:{link.into}", pass_fds=[link.into])
    target = pair.start("-incoming", "defer")
    name_it(target, link.into, "stream")
    target.qmp.execute("migrate-incoming", uri="fd:stream")
    return target


def leave_by(pair: Pair, uri: str, **more: Any) -> None:
    pair.source.qmp.execute("migrate", uri=uri, **more)
    assert wait_migration(pair.source, *OVER) == "completed", pair.query()
    assert status(pair.source) == "postmigrate"
    answer = pair.query()
    assert 0 <= answer["downtime"] <= answer["total-time"], answer


def reached(pair: Pair, target: Machine) -> None:
    wait_arrived(target)
    assert status(target) == "running"
    pair.guest.now = target


@ON_ONE_LOOP
@pytest.mark.parametrize("how", ["inherited", "named"])
@pytest.mark.parametrize("kind", ["socketpair", "pipe"])
def test_it_goes_by_descriptors_which_nobody_has_afterwards(driven: tuple[Pair, Driven], kind: str,
                                                            how: str) -> None:
    pair, disk = driven
    disk.write(3, b"before")
    with Link(kind) as link:
        target = await_on(pair, link, how)
        name_it(pair.source, link.to, "migrate")
        link.close()
        assert (held(pair.source, link), held(target, link)) == (1, 1)
        leave_by(pair, "fd:migrate")
        reached(pair, target)
        assert (held(pair.source, link), held(target, link)) == (0, 0)
    assert disk.read(3).startswith(b"before")
    disk.write(4, b"behind")
    assert NOT_FOUND.format("migrate") in refused(pair.source, "closefd", fdname="migrate")


@ON_ONE_LOOP
def test_who_reads_a_pipe_gets_all_of_it_and_its_end(driven: tuple[Pair, Driven]) -> None:
    """As libvirt's iohelper, which stands between the machine and the file."""
    pair, disk = driven
    disk.write(1, b"saved!")
    with Link("pipe") as out:
        name_it(pair.source, out.to, "migrate")
        out.close(out.to)
        pair.source.qmp.execute("migrate", uri="fd:migrate")
        stream = read_to_end(out.into)
    assert wait_migration(pair.source, *OVER) == "completed"
    assert pair.query()["ram"]["transferred"] == len(stream)
    with Link("pipe") as back:
        target = await_on(pair, back, "inherited")
        back.close(back.into)
        write_all(back.to, stream)
        reached(pair, target)
    assert disk.read(1).startswith(b"saved!")


@ON_ONE_LOOP
def test_a_passed_file_goes_on_where_it_is(driven: tuple[Pair, Driven]) -> None:
    """A manager's own header is ahead of the stream, in the same open file."""
    pair, disk = driven
    disk.write(1, b"saved!")
    path, header = pair.folder / "saved", b"the manager's\n"
    with path.open("wb", buffering=0) as file:
        file.write(header)
        name_it(pair.source, file.fileno(), "migrate")
        leave_by(pair, "fd:migrate")
        assert file.tell() == path.stat().st_size
    assert path.read_bytes().startswith(header + b"RHEA")
    with path.open("rb", buffering=0) as file:
        file.seek(len(header))
        target = pair.start("-incoming", f"fd:{file.fileno()}", pass_fds=[file.fileno()])
        reached(pair, target)
    assert disk.read(1).startswith(b"saved!")


@pytest.mark.parametrize("end", ["cancelled", "failed"])
@pytest.mark.parametrize("kind", ["socketpair", "pipe"])
def test_a_descriptor_is_given_up_however_it_ends(pair: Pair, kind: str, end: str) -> None:
    pair.guest.memset(1 << 20, 8 << 20, 0x5A)  # more than a pipe or a socket takes from who is not read
    with Link(kind) as link:
        name_it(pair.source, link.to, "migrate")
        link.close(link.to)
        pair.source.qmp.execute("migrate", uri="fd:migrate")
        if end == "cancelled":
            pair.source.qmp.execute("migrate_cancel")
        else:
            link.close(link.into)
        assert wait_migration(pair.source, *OVER) == end
        assert held(pair.source, link) == 0
        assert status(pair.source) == "running"
        if end == "failed":
            assert kind.removesuffix("pair") in pair.query()["error-desc"]
    pair.move()


def test_a_descriptor_that_is_not_there_is_named(pair: Pair) -> None:
    words = "File descriptor named 'nope' has not been found"
    assert words in refused(pair.source, "migrate", uri="fd:nope")
    assert "Bad file descriptor" in refused(pair.source, "migrate", uri="fd:999")
    assert (status(pair.source), pair.query(), pair.source.qmp.events) == ("running", {}, [])
    target = pair.start("-incoming", "defer")
    assert words in refused(target, "migrate-incoming", uri="fd:nope")
    assert "Bad file descriptor" in refused(target, "migrate-incoming", uri="fd:999")
    with Link("pipe") as link:  # it can be told again, and better
        name_it(target, link.into, "stream")
        target.qmp.execute("migrate-incoming", uri="fd:stream")
        name_it(pair.source, link.to, "migrate")
        leave_by(pair, "fd:migrate")
        reached(pair, target)


@pytest.mark.parametrize("name", ["nope", "999"])
def test_who_was_not_born_with_it_does_not_start(name: str) -> None:
    with vm.rhea("-accel", "qtest", "-m", "64M", "-nodefaults", "-display", "none",
                 "-incoming", f"fd:{name}") as process:
        assert process.wait() == 1
        assert f"-incoming fd:{name}: " in process.stderr and name in process.stderr.split(": ", 2)[2]


def children(machine: Machine) -> list[str]:
    """Those of all its threads; of a command that has ended and is not waited for, too."""
    machine.qmp.execute("query-status")
    machine.qmp.execute("query-status")  # see held()
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, behind = stat.read_text().rpartition(")")
            if int(behind.split()[1]) == machine.process.process.pid:
                found.append(name)
    # ThreadSanitizer starts one where the process forks, to have it at hand.
    return [name for name in found if not name.endswith("(llvm-symbolizer")]


@ON_ONE_LOOP
def test_it_goes_through_commands_which_do_not_outlive_it(driven: tuple[Pair, Driven]) -> None:
    pair, disk = driven
    disk.write(1, b"saved!")
    file, done = pair.folder / "saved", pair.folder / "done"
    leave_by(pair, f"exec:cat > {file} && touch {done}")
    assert done.exists(), "it says so before the command has ended"
    assert pair.query()["ram"]["transferred"] == file.stat().st_size
    assert children(pair.source) == []
    # One that would go on for ever is not needed behind the end of the stream.
    target = pair.start("-incoming", f"exec:cat {file}; exec sleep infinity")
    reached(pair, target)
    assert children(target) == []
    assert disk.read(1).startswith(b"saved!")


def test_a_command_that_fails_keeps_the_machine_here(pair: Pair) -> None:
    pair.guest.memset(1 << 20, 8 << 20, 0x5A)  # more than a pipe takes from who is not read
    for command, why in [("cat > /dev/null; exit 3", "failed with status 3"),
                         ("exit 4", "Unable to write to command: Broken pipe"),
                         ("cat > /dev/null; kill -9 $$", "was killed by signal 9")]:
        pair.source.qmp.execute("migrate", uri=f"exec:{command}")
        assert wait_migration(pair.source, *OVER) == "failed"
        assert why in pair.query()["error-desc"]
        assert (status(pair.source), children(pair.source)) == ("running", [])
    pair.move()


def test_a_command_that_says_nothing_ends_the_process() -> None:
    with vm.rhea("-accel", "qtest", "-m", "64M", "-nodefaults", "-display", "none",
                 "-incoming", "exec:true") as process:
        assert process.wait() == 1
        assert "load of migration failed: Unable to read from command" in process.stderr


def ways_of_one(pair: Pair) -> Iterator[str]:
    yield "fd:migrate"
    yield f"exec:cat > {pair.folder / 'by-command'}"
    yield f"file:{pair.folder / 'by-file'}"


def test_multifd_over_one_connection_is_refused_before_anything_is_touched(pair: Pair) -> None:
    pair.set("multifd", multifd_channels=2)
    with Link("pipe") as link:
        name_it(pair.source, link.to, "migrate")
        for uri in ways_of_one(pair):
            assert (f"Multifd needs a tcp: or unix: address: '{uri}' is one connection, and can not be 3"
                    in refused(pair.source, "migrate", uri=uri))
        assert (status(pair.source), pair.query(), pair.source.qmp.events) == ("running", {}, [])
        assert not list(pair.folder.glob("by-*"))
        # The descriptor is still the client's, to be sent through as one.
        assert held(pair.source, link) == 1
        target = await_on(pair, link, "inherited")
        switch(pair.source, multifd=False)
        leave_by(pair, "fd:migrate")
        reached(pair, target)


def test_what_qemus_clients_say_besides_is_taken_or_refused_by_name(pair: Pair) -> None:
    for name in ("blk", "inc", "resume"):
        assert f"Parameter '{name}' can only be false" in refused(
            pair.source, "migrate", uri=pair.uri, **{name: True})
    for name in ("blk", "inc", "resume", "detach"):
        assert f"Invalid parameter type for '{name}', expected: boolean" in refused(
            pair.source, "migrate", uri=pair.uri, **{name: "off"})
    assert "Parameter 'uri' is missing" in refused(pair.source, "migrate", detach=True)
    assert (pair.query(), pair.source.qmp.events) == ({}, [])
    target = pair.await_it()
    leave_by(pair, pair.uri, detach=True, resume=False, blk=False, inc=False)
    reached(pair, target)
