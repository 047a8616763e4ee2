"""Runs one scenario and reports what happened as JSON lines on a channel.

Called as `agent.py SCENARIO CONTEXT CHANNEL [TTY]`, the same way in L1 and directly on a host.
A scenario is a Python file with `def run(ctx: Context) -> None`.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from lab.inside.ports import open_port
from lab.inside.pump import Pump
from lab.inside.vm import Vm


class Context:
    """What a scenario gets: the VMMs, the files, its parameters, and the means to report.

    Invariants: every case reports exactly one outcome; no VM outlives its `with` block.
    """

    def __init__(self, settings: dict[str, Any], channel: int, tty: str | None) -> None:
        self.where: str = settings["where"]
        self.vmms: dict[str, list[str]] = settings["vmms"]
        self.files: dict[str, str] = settings["files"]
        self.params: dict[str, Any] = settings["params"]
        self.disk: str | None = settings["disk"]
        self.tty = tty
        self.pump = Pump()
        self._running: dict[str, Vm] = {}
        self._channel = channel

    @staticmethod
    def now() -> float:
        """This side's monotonic clock, in seconds."""
        return time.monotonic()

    def event(self, name: str, **data: Any) -> None:
        """Reports one event; it carries this side's monotonic time."""
        line = json.dumps({"event": name, "t": time.monotonic(), **data}).encode() + b"\n"
        while line:
            line = line[os.write(self._channel, line) :]

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[dict[str, Any]]:
        """One behaviour under test: its data and outcome; a failure does not stop the rest."""
        record: dict[str, Any] = {}
        begin = time.monotonic()
        error = None
        try:
            yield record
        except Exception:  # the outcome is data here: the test that asks for this case fails
            error = traceback.format_exc() + self._threads()
        self.event(
            "case",
            case=name,
            ok=error is None,
            error=error,
            data=record,
            seconds=round(time.monotonic() - begin, 3),
        )

    def _threads(self) -> str:
        """What all VMMs are doing, and a second later: who hangs, and where, shows in what differs."""
        if not self._running:
            return ""
        looks = ["threads of the VMMs, twice:"]
        for _ in range(2):
            for label, vm in self._running.items():
                looks += [f"{label}: {line}" for line in vm.threads()]
            self.pump.wait(lambda: False, 1)
        return "\n".join([*looks, ""])

    @contextlib.contextmanager
    def vm(
        self, label: str, options: Sequence[str], *, vmm: str = "vmm", qmp: bool = False
    ) -> Iterator[Vm]:
        """A running VM; its console lines are reported live under `label`."""

        def on_line(t: float, text: str) -> None:
            self.event("line", vm=label, text=text, seen=t)

        argv = [*self.vmms[vmm], *options]
        self.event("vm", vm=label, argv=argv)
        vm = Vm(self.pump, argv, on_line, qmp=qmp)
        self._running[label] = vm
        try:
            yield vm
        finally:
            del self._running[label]
            stderr = vm.stderr().strip()
            if stderr:
                self.event("stderr", vm=label, text=stderr)
            vm.close()


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("scenario", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _take_channel(path: str) -> int:
    """The event channel: a device in L1, an inherited descriptor (fd:N) on a host."""
    if path.startswith("fd:"):
        fd = int(path[3:])
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        return fd
    return open_port(path, os.O_WRONLY)


def main(argv: list[str]) -> int:
    scenario, settings_path, channel = argv[:3]
    with open(settings_path, encoding="utf-8") as settings_file:
        settings = json.load(settings_file)
    ctx = Context(settings, _take_channel(channel), argv[3] if len(argv) > 3 else None)
    ctx.event("begin")
    status, error = 0, None
    try:
        _load(scenario).run(ctx)
    except Exception:
        status, error = 1, traceback.format_exc()
    ctx.event("end", status=status, error=error)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
