"""Runs a scenario directly or in the nested machine, and collects what it reports."""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import host, kernel, outer
from lab.closure import PYTHON
from lab.paths import SCRIPTS
from lab.result import Event, LabResult
from lab.vmm import Vmm

_LONGEST_WAIT = 3600.0  # poll cannot wait for ever by a float

EventHandler = Callable[[Event], None]
PowerSwitch = Callable[[Event], bool]
POWER_CUT = "the power was cut"


@dataclass(frozen=True)
class Terminal:
    """The user's terminal, connected to the scenario's tty while it runs."""

    input_fd: int
    output_fd: int


@dataclass
class _Child:
    """A started scenario: its process, and our ends of its channels."""

    process: subprocess.Popen[bytes]
    events: socket.socket
    tty: socket.socket | None


def run(
    scenario: Path,
    *,
    vmms: Mapping[str, Vmm],
    files: Mapping[str, Path] | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: float = 300,
    memory_mib: int = 4096,
    choice: host.Choice | None = None,
    on_event: EventHandler | None = None,
    terminal: Terminal | None = None,
    disk: Path | None = None,
    cut_power: PowerSwitch | None = None,
) -> LabResult:
    """Runs one scenario to its end, or until `cut_power` says of an event that it is the last.

    `disk` is an image of the caller's own: L1's virtio disk, the file itself in a direct run.
    Never raises for what happens inside: a dead L1, a time-out or a failed scenario are recorded in
    the result. No process outlives the call, however it ends. LabError: it could not be started.
    """
    choice = choice or host.choose()
    files, params = files or {}, params or {}
    result = LabResult(choice.where, choice.why)
    start = time.monotonic()
    settings = outer.context(choice.where, vmms, files, params, disk)
    with contextlib.ExitStack() as stack:
        if choice.where == "lab":
            linux = kernel.fetch()
            initrd = outer.initramfs(linux, scenario, vmms, files, settings)
            child = stack.enter_context(_nested(linux, initrd, memory_mib, disk))
        else:
            child = stack.enter_context(_direct(scenario, settings))
        _Collector(child, result, on_event, terminal, cut_power).collect(start + timeout)
    result.seconds = time.monotonic() - start
    return result


@contextlib.contextmanager
def _nested(
    linux: kernel.Kernel, initrd: Path, memory_mib: int, disk: Path | None
) -> Iterator[_Child]:
    events, events_far = socket.socketpair()
    tty, tty_far = socket.socketpair()
    argv = outer.command(linux, initrd, memory_mib, events_far.fileno(), tty_far.fileno())
    argv += outer.disk_options(disk) if disk else []
    with events, tty, events_far, tty_far, _group(argv, [events_far, tty_far]) as process:
        events_far.close()
        tty_far.close()
        yield _Child(process, events, tty)


@contextlib.contextmanager
def _direct(scenario: Path, settings: bytes) -> Iterator[_Child]:
    events, events_far = socket.socketpair()
    with tempfile.NamedTemporaryFile(suffix=".json") as context, events, events_far:
        context.write(settings)
        context.flush()
        argv = [
            str(PYTHON),
            "-B",
            "-m",
            "lab.inside.agent",
            str(scenario),
            context.name,
            f"fd:{events_far.fileno()}",
        ]
        with _group(argv, [events_far]) as process:
            events_far.close()
            yield _Child(process, events, None)


@contextlib.contextmanager
def _group(argv: list[str], inherit: list[socket.socket]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group; all of the group has been sent SIGKILL when the block ends."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        start_new_session=True,
        pass_fds=[s.fileno() for s in inherit],
        preexec_fn=_die_with_parent,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _die_with_parent() -> None:
    """Even a SIGKILL of this process leaves no machine behind (prctl PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class _Collector:
    """Reads all channels of one run until the process has ended and they are empty."""

    def __init__(
        self,
        child: _Child,
        result: LabResult,
        on_event: EventHandler | None,
        terminal: Terminal | None,
        cut_power: PowerSwitch | None,
    ) -> None:
        self._child, self._result, self._on_event = child, result, on_event
        self._terminal, self._cut_power = terminal, cut_power
        self._partial = b""
        self._selector = selectors.PollSelector()  # a terminal may be a file, which epoll refuses
        self._open = 0

    def collect(self, deadline: float) -> None:
        assert self._child.process.stdout is not None
        self._watch(self._child.process.stdout.fileno(), self._read_console)
        self._watch(self._child.events.fileno(), self._read_events)
        if self._child.tty is not None and self._terminal is not None:
            self._selector.register(self._terminal.input_fd, selectors.EVENT_READ, self._read_keys)
            self._selector.register(self._child.tty, selectors.EVENT_READ, self._read_screen)
        while self._open:
            left = deadline - time.monotonic()
            if left <= 0:
                self._result.problem = "time-out: killed"
                return
            for key, _ in self._selector.select(min(left, _LONGEST_WAIT)):
                key.data(key.fd)
        self._judge()

    def _judge(self) -> None:
        status = self._child.process.wait()
        if self._result.exit_status is None and self._result.problem is None:
            self._result.problem = (
                f"it ended (status {status}) before the scenario reported its end"
            )

    def _watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, handler)
        self._open += 1

    def _read(self, fd: int) -> bytes:
        """Reads a channel whose end of file counts towards the end of the run."""
        try:
            data = os.read(fd, 65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._selector.unregister(fd)
            self._open -= 1
        return data

    def _read_console(self, fd: int) -> None:
        self._result.outer_console += self._read(fd).decode(errors="replace").replace("\r", "")

    def _read_events(self, fd: int) -> None:
        self._partial += self._read(fd)
        *lines, self._partial = self._partial.split(b"\n")
        for line in lines:
            self._accept(json.loads(line))

    def _accept(self, event: Event) -> None:
        event["host_t"] = time.monotonic()
        self._result.events.append(event)
        if event["event"] == "end":
            self._result.exit_status = event["status"]
            self._result.problem = event["error"]
        if self._on_event is not None:
            self._on_event(event)
        if self._result.problem is None and self._cut_power is not None and self._cut_power(event):
            self._result.problem = POWER_CUT
            os.killpg(self._child.process.pid, signal.SIGKILL)

    def _read_keys(self, fd: int) -> None:
        data = os.read(fd, 4096)
        if data and self._child.tty is not None:
            self._child.tty.sendall(data)
        else:
            self._selector.unregister(fd)

    def _read_screen(self, fd: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            self._selector.unregister(fd)
        elif self._terminal is not None:
            sys.stdout.flush()
            os.write(self._terminal.output_fd, data)
