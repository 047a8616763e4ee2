"""The keyboard controller and the debug console."""

from __future__ import annotations

import pathlib

from qtest import Machine


def drain(machine: Machine) -> list[int]:
    data = []
    while machine.inb(0x64) & 1:
        data.append(machine.inb(0x60))
    return data


def test_the_keyboard_controller_answers_its_self_test(machine: Machine) -> None:
    machine.outb(0x64, 0xAA)
    assert drain(machine) == [0x55]


def test_the_keyboard_identifies_itself_by_interrupt(machine: Machine) -> None:
    machine.intercept_irqs()
    machine.outb(0x60, 0xF2)
    assert machine.take_irqs() == [("raise", 1)]
    assert drain(machine) == [0xFA, 0xAB, 0x41]
    assert machine.take_irqs()[-1] == ("lower", 1)


def test_without_debugcon_the_port_is_unassigned(machine: Machine) -> None:
    assert machine.inb(0x402) == 0xFF


def test_the_debug_console_prints(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "debug.log"
    with Machine(tmp_path, "-debugcon", f"file:{output}") as machine:
        assert machine.inb(0x402) == 0xE9
        for byte in b"debug\n":
            machine.outb(0x402, byte)
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0
    assert output.read_bytes() == b"debug\n"
