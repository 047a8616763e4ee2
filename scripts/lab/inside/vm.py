"""Starts a VMM as a child process with its console on pipes and its QMP monitor on a socket."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lab.inside.console import Console, LineHandler
from lab.inside.pump import PATIENCE_S, Pump, WaitTimeout
from lab.inside.qmp import QmpClient


class Vm:
    """One running VMM process.

    Owns: the process (killed by close), console, monitor. Invariants: `started` is read just before
    exec; nothing is polled: exit comes by a pidfd, the monitor by a socket that listens already.
    """

    def __init__(
        self, pump: Pump, argv: Sequence[str], on_line: LineHandler, *, qmp: bool = False
    ) -> None:
        self.pump = pump
        self._status: int | None = None
        self._stderr = os.fdopen(os.memfd_create("stderr"), "rb")
        listener, extra = _listening_socket() if qmp else (None, [])
        console_in, console_out = os.pipe(), os.pipe()
        self.argv = [*argv, *extra]
        client = _connect(listener) if listener else None
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(
                self.argv,
                stdin=console_in[0],
                stdout=console_out[1],
                stderr=self._stderr,
                pass_fds=[listener.fileno()] if listener else [],
            )
        finally:
            os.close(console_in[0])
            os.close(console_out[1])
            if listener:
                listener.close()
        self.console = Console(pump, console_out[0], console_in[1], on_line)
        self.qmp = QmpClient(pump, client) if client else None
        self._pidfd = os.pidfd_open(self.process.pid)
        pump.add(self._pidfd, self._reap)

    @property
    def monitor(self) -> QmpClient:
        assert self.qmp is not None, "start the VM with qmp=True"
        return self.qmp

    def _reap(self) -> None:
        self.pump.remove(self._pidfd)
        os.close(self._pidfd)
        self._status = self.process.wait()

    def wait_exit(self, timeout: float = PATIENCE_S) -> int:
        """The exit status (negative: killed by that signal), after all output has been read."""
        if not self.pump.wait(lambda: self._status is not None, timeout):
            raise WaitTimeout(
                f"the VMM still runs after {timeout:.0f} s; the console ends with:\n"
                f"{self.console.tail()}\nstderr: {self.stderr()}"
            )
        if not self.console.closed:
            self.console.drain()
        assert self._status is not None
        return self._status

    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def threads(self) -> list[str]:
        """Of each thread its name, state, CPU time in ticks, and where in the kernel it is."""
        found = []
        for task in sorted(Path(f"/proc/{self.process.pid}/task").glob("*")):
            with contextlib.suppress(OSError):  # it has gone
                stat = (task / "stat").read_text()
                name, _, fields = stat.partition("(")[2].rpartition(") ")
                state, ticks = fields.split()[0], sum(map(int, fields.split()[11:13]))
                where = re.findall(r"\] (\w+)", (task / "stack").read_text())
                found.append(f"{name} {state} {ticks} {' < '.join(where[:6])}")
        return found

    def close(self) -> None:
        """Kills the VMM if it still runs, and lets everything go."""
        if self._status is None:
            self.process.send_signal(signal.SIGKILL)
            self.pump.wait(lambda: self._status is not None, 30)
        if self.qmp:
            self.qmp.close()
        self.console.close()
        self._stderr.close()


def _listening_socket() -> tuple[socket.socket, list[str]]:
    """A monitor socket that listens before the VMM exists, so connecting needs no retry."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("")  # the kernel picks a free abstract name
    listener.listen(4)
    fd = listener.fileno()
    return listener, [
        "-chardev",
        f"socket,id=labqmp,fd={fd},server=on,wait=off",
        "-mon",
        "chardev=labqmp,mode=control",
    ]


def _connect(listener: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(listener.getsockname())
    return client
