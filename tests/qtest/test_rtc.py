"""The clock at 0x70, IRQ 8."""

from __future__ import annotations

import datetime

from qtest import Machine

IRQ = 8
A, B, C, D, CENTURY = 0x0A, 0x0B, 0x0C, 0x0D, 0x32


def cmos_read(machine: Machine, index: int) -> int:
    machine.outb(0x70, index)
    return machine.inb(0x71)


def cmos_write(machine: Machine, index: int, value: int) -> None:
    machine.outb(0x70, index)
    machine.outb(0x71, value)


def date(machine: Machine) -> datetime.datetime:
    """The date, read in binary 24-hour notation as a driver reads it: twice the same."""
    cmos_write(machine, B, 0x06)
    while True:
        first, second = (
            [cmos_read(machine, index) for index in (CENTURY, 9, 8, 7, 4, 2, 0)] for _ in range(2))
        if first == second:
            century, year, *rest = first
            return datetime.datetime(century * 100 + year, *rest, tzinfo=datetime.timezone.utc)


def test_the_date_is_the_hosts(machine: Machine) -> None:
    before = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    shown = date(machine)
    after = datetime.datetime.now(datetime.timezone.utc)
    assert before - datetime.timedelta(seconds=1) <= shown <= after


def test_registers(machine: Machine) -> None:
    assert cmos_read(machine, A) & 0x7F == 0x26
    assert cmos_read(machine, B) == 0x02
    assert cmos_read(machine, D) == 0x80
    assert machine.inb(0x70) == 0xFF


def test_memory_bytes(machine: Machine) -> None:
    for index in range(0x40, 0x80):
        cmos_write(machine, index, index ^ 0xA5)
    assert [cmos_read(machine, i) for i in range(0x40, 0x80)] == [
        i ^ 0xA5 for i in range(0x40, 0x80)]


def test_a_date_that_is_set(machine: Machine) -> None:
    cmos_write(machine, B, 0x86)
    for index, value in ((CENTURY, 20), (9, 38), (8, 1), (7, 19), (4, 3), (2, 14), (0, 7)):
        cmos_write(machine, index, value)
    cmos_write(machine, B, 0x06)
    start = datetime.datetime(2038, 1, 19, 3, 14, 7, tzinfo=datetime.timezone.utc)
    assert start <= date(machine) < start + datetime.timedelta(minutes=1)


def test_the_periodic_interrupt_follows_the_stepped_clock(machine: Machine) -> None:
    machine.intercept_irqs()
    cmos_write(machine, A, 0x2F)  # every 500 ms
    cmos_write(machine, B, 0x42)
    cmos_read(machine, C)
    machine.take_irqs()
    for _ in range(3):
        machine.clock_step(500_000_000)
        assert machine.take_irqs() == [("raise", IRQ)]
        assert cmos_read(machine, C) & 0xC0 == 0xC0
        assert machine.take_irqs() == [("lower", IRQ)]
