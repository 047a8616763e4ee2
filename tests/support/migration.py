"""Moving a machine from one instance to another: what the tests of several tiers share."""

from __future__ import annotations

import pathlib
from typing import Any, Callable

from support import qmp, vm

OVER = ("completed", "failed", "cancelled")


class Instance:
    """A running rhea and its monitor."""

    def __init__(self, process: vm.Process, monitor: qmp.Qmp) -> None:
        self.process, self.qmp = process, monitor

    def status(self) -> str:
        return self.qmp.execute("query-status")["status"]

    def set_capabilities(self, *names: str, state: bool = True) -> None:
        self.qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": state} for name in names])

    def wait_migration(self, *wanted: str) -> str:
        """Waits for one of these statuses, and says which; events before it are dropped."""
        while (status := self.qmp.wait_event("MIGRATION")["status"]) not in wanted:
            assert status not in OVER, f"{status}: {self.qmp.execute('query-migrate')}"
        return status

    def finish(self) -> dict[str, Any]:
        """Waits for the end of an outgoing migration; what query-migrate says of it."""
        ended = self.wait_migration(*OVER)
        answer = self.qmp.execute("query-migrate")
        assert answer["status"] == ended
        return answer

    def told(self) -> list[str]:
        """What became of the machine and of its move, as far as events have come: each status, STOP, RESUME."""
        return [event["data"]["status"] if event["event"] == "MIGRATION" else event["event"]
                for event in self.qmp.history if event["event"] in ("MIGRATION", "STOP", "RESUME")]


def start(run: Callable[..., vm.Process], folder: pathlib.Path, *arguments: str) -> Instance:
    """Runs rhea by `run(*arguments)`, with a monitor that is negotiated when this returns."""
    listener = qmp.Listener(folder / "qmp")
    process = run(*arguments, "-qmp", f"unix:{listener.path}")
    monitor = qmp.Qmp(listener.accept()).negotiate()
    listener.close()
    return Instance(process, monitor)


def listen(instance: Instance, uri: str) -> str:
    """Has an instance with -incoming defer wait at `uri`; where it can be reached."""
    instance.qmp.execute("migrate-incoming", uri=uri)
    if not uri.startswith("tcp:"):
        return uri
    [address] = instance.qmp.execute("query-migrate")["socket-address"]
    return f"tcp:{address['host']}:{address['port']}"
