"""Moving a machine from one instance to another."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lab.inside.vm import Vm

OVER = ("completed", "failed", "cancelled")


def configure(vm: Vm, channels: int, **settings: Any) -> None:
    """As fast as it goes; `channels` beside the main connection, 0: no multifd."""
    capabilities = {"events": True, "multifd": channels > 0}
    listed = [{"capability": name, "state": state} for name, state in capabilities.items()]
    vm.monitor.execute("migrate-set-capabilities", {"capabilities": listed})
    parameters = {"multifd-channels": max(channels, 1), "max-bandwidth": 0, **settings}
    vm.monitor.execute("migrate-set-parameters", parameters)


def listen(vm: Vm, uri: str) -> str:
    """Has an instance with -incoming defer wait at `uri`; where it can be reached."""
    vm.monitor.execute("migrate-incoming", {"uri": uri})
    if not uri.startswith("tcp:"):
        return uri
    [address] = vm.monitor.execute("query-migrate")["socket-address"]
    return f"tcp:{address['host']}:{address['port']}"


def finish(vm: Vm) -> dict[str, Any]:
    """Waits until the migration that goes on is over; what query-migrate says then."""
    while vm.monitor.wait_event("MIGRATION")["data"]["status"] not in OVER:
        pass
    return vm.monitor.execute("query-migrate")


def move(source: Vm, target: Vm, uri: str) -> dict[str, Any]:
    """From `source` to `target`, which waits at `uri`. What the source says of it in the end."""
    source.monitor.execute("migrate", {"uri": uri})
    told = finish(source)
    if told["status"] == "completed":
        there = finish(target)
        if there["status"] != "completed":
            raise AssertionError(f"completed on the source only: {there}")
    return told


def joined(vms: Iterable[Vm]) -> str:
    """What one guest wrote to the consoles of the instances that it was in, in this order."""
    return "".join(vm.console.text for vm in vms)


def numbers(text: str, word: str) -> Sequence[int]:
    """Of the lines, whole ones, that consist of `word` and a number."""
    return [int(number) for number in re.findall(rf"^{word} (\d+)\n", text, re.MULTILINE)]
