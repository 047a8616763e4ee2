"""The ACPI power-management block: events at 0x600, timer at 0x608, GPE0 at 0xafe0, SCI 9."""

from __future__ import annotations

import pytest

from qtest import Machine

STATUS, ENABLE, CONTROL, TIMER, GPE = 0x600, 0x602, 0x604, 0x608, 0xAFE0
SCI = 9
HZ = 3_579_545


def test_reset_values(machine: Machine) -> None:
    assert machine.inl(STATUS) == 0
    assert machine.inw(CONTROL) == 1
    assert machine.inl(GPE) == 0


def test_the_timer_follows_the_stepped_clock(machine: Machine) -> None:
    before = machine.inl(TIMER)
    assert machine.inl(TIMER) == before
    machine.clock_step(1_000_000_000)
    assert (machine.inl(TIMER) - before) % (1 << 32) in (HZ, HZ + 1)


def test_the_power_button(machine: Machine) -> None:
    machine.intercept_irqs()
    machine.outw(ENABLE, 0x0100)
    machine.qmp.execute("system_powerdown")
    assert machine.inw(STATUS) == 0x0100
    assert machine.take_irqs() == [("raise", SCI)]
    machine.outw(STATUS, 0x0100)
    assert machine.inw(STATUS) == 0
    assert machine.take_irqs() == [("lower", SCI)]


def test_gpe_enables_are_plain_and_status_stays_clear(machine: Machine) -> None:
    machine.outw(GPE + 2, 0xFFFF)
    assert machine.inl(GPE) == 0xFFFF0000
    machine.outw(GPE, 0xFFFF)
    assert machine.inw(GPE) == 0


def test_s5_ends_the_process_with_status_0(machine: Machine) -> None:
    machine.outw(CONTROL, 0x2000)
    assert machine.qmp.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    assert machine.process.wait() == 0


@pytest.mark.parametrize("sleep_type", [1, 2, 5, 7])
def test_other_sleep_states_wake_at_once(machine: Machine, sleep_type: int) -> None:
    machine.outw(CONTROL, 0x2000 | sleep_type << 10)
    assert machine.inw(STATUS) == 0x8000
    assert machine.qmp.execute("query-status")["status"] != "shutdown"
