"""Configuration mechanism #1 and the host bridge."""

from __future__ import annotations

from qtest import Machine


def test_the_host_bridge(machine: Machine) -> None:
    assert machine.config_read(0, 0x00) == 0x12378086
    assert machine.config_read(0, 0x08) >> 8 == 0x060000
    assert machine.config_read(0, 0x0E, 1) == 0


def test_slot_1_is_empty(machine: Machine) -> None:
    assert machine.config_read(1, 0x00) == 0xFFFFFFFF


def test_the_bridge_has_one_function(machine: Machine) -> None:
    for function in range(1, 8):
        assert machine.config_read(0, 0x00, function=function) == 0xFFFFFFFF


def test_widths_of_the_data_port(machine: Machine) -> None:
    assert machine.config_read(0, 0x00, 2) == 0x8086
    assert machine.config_read(0, 0x02, 2) == 0x1237
    assert [machine.config_read(0, i, 1) for i in range(4)] == [0x86, 0x80, 0x37, 0x12]


def test_without_the_enable_bit_nothing_answers(machine: Machine) -> None:
    machine.outl(0xCF8, 0)
    assert machine.inl(0xCFC) == 0xFFFFFFFF


def test_the_address_is_a_dword_register(machine: Machine) -> None:
    machine.outl(0xCF8, 0xFFFFFFFF)
    assert machine.inl(0xCF8) == 0x80FFFFFC
    machine.outb(0xCF8, 0)
    assert machine.inl(0xCF8) == 0x80FFFFFC
