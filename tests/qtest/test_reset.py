"""Every port through which a guest resets the machine."""

from __future__ import annotations

from typing import Sequence

import pytest

from qtest import Machine


@pytest.mark.parametrize("stores", [
    pytest.param([(0x64, 0xFE)], id="keyboard controller"),
    pytest.param([(0x64, 0xD1), (0x60, 0x02)], id="keyboard controller's output port"),
    pytest.param([(0x92, 0x01)], id="port 92"),
    pytest.param([(0xCF9, 0x02), (0xCF9, 0x06)], id="cf9, hard"),
    pytest.param([(0xCF9, 0x04)], id="cf9, soft"),
])
def test_reset_puts_the_devices_back(machine: Machine, stores: Sequence[tuple[int, int]]) -> None:
    machine.outw(0x602, 0x0100)
    machine.config_write(0, 0x3C, 0x0B, 1)
    machine.outb(0x3F9, 0x0F)
    machine.outb(0x70, 0x50)
    machine.outb(0x71, 0x5A)
    for port, value in stores:
        machine.outb(port, value)
    assert machine.qmp.wait_event("RESET") == {"guest": True, "reason": "guest-reset"}
    assert machine.inw(0x602) == 0
    assert machine.config_read(0, 0x3C, 1) == 0
    assert machine.inb(0x3F9) == 0
    machine.outb(0x70, 0x50)
    assert machine.inb(0x71) == 0x5A  # CMOS memory has a battery


def test_the_operator_resets_too(machine: Machine) -> None:
    machine.outw(0x602, 0x0100)
    machine.qmp.execute("system_reset")
    event = machine.qmp.wait_event("RESET")
    assert event == {"guest": False, "reason": "host-qmp-system-reset"}
    assert machine.inw(0x602) == 0
