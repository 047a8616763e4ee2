"""What the hot-plug tests share: the registers, and what the monitor tells."""

from __future__ import annotations

import json
from typing import Any

import pytest
from qtest import Machine

UP, DOWN, EJECT, REMOVABLE, BUS, ACPI_INDEX, ASKED = (0xAE00 + 4 * i for i in range(7))
GPE_STATUS, GPE_ENABLE = 0xAFE0, 0xAFE2
HOTPLUG_EVENT = 1 << 1
SLOTS = range(2, 32)
PATIENCE_NS = 30_000_000_000
TOLD = ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")


def plug(machine: Machine, name: str, node: str, **more: Any) -> None:
    machine.qmp.execute("device_add", driver="virtio-blk-pci", id=name, drive=node, **more)


def refused(machine: Machine, command: str, **arguments: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        machine.qmp.execute(command, **arguments)
    return str(caught.value)


def eject(machine: Machine, slot: int) -> None:
    machine.outl(BUS, 0)
    machine.outl(EJECT, 1 << slot)


def told(machine: Machine, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next `count` events about devices."""
    qmp, found = machine.qmp, []
    while len(found) < count:
        event = qmp.events.pop(0) if qmp.events else json.loads(qmp.line.read_line())
        if event["event"] in TOLD:
            found.append((event["event"], event["data"]))
    return found


def deleted(name: str) -> list[tuple[str, dict[str, str]]]:
    path = f"/machine/peripheral/{name}"
    return [("DEVICE_DELETED", {"path": f"{path}/virtio-backend"}),
            ("DEVICE_DELETED", {"device": name, "path": path})]


def states(machine: Machine) -> list[tuple[str, int | None, str]]:
    return [(row["id"], row.get("slot"), row["state"])
            for row in machine.qmp.execute("x-query-hotplug")]
