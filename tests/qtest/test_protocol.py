"""The qtest protocol on the whole machine: memory, clock, interrupts, and lines that are wrong."""

from __future__ import annotations

import pytest

from qtest import Machine, QtestError

RAM = 0x100000


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_loads_give_what_stores_put(machine: Machine, size: int) -> None:
    value = 0x1122334455667788 & ((1 << 8 * size) - 1)
    machine.store(RAM, value, size)
    assert machine.load(RAM, size) == value
    assert machine.read(RAM, size) == value.to_bytes(size, "little")


def test_block_transfers_agree(machine: Machine) -> None:
    data = bytes(range(256)) * 16
    machine.write(RAM, data)
    assert machine.b64read(RAM, len(data)) == data
    machine.b64write(RAM + 1, data)
    assert machine.read(RAM, 1 + len(data)) == data[:1] + data
    machine.memset(RAM, 16, 0x5A)
    assert machine.read(RAM, 17) == b"\x5a" * 16 + data[15:16]


def test_unassigned_reads_all_ones(machine: Machine) -> None:
    assert machine.inb(0x500) == 0xFF
    assert machine.inl(0x500) == 0xFFFFFFFF
    assert machine.load(0xF0000000, 8) == 0xFFFFFFFFFFFFFFFF
    machine.outl(0x500, 1)
    machine.store(0xF0000000, 1, 4)


def test_the_clock_moves_only_when_told(machine: Machine) -> None:
    start = machine.clock_step(0)
    assert machine.clock_step(0) == start
    assert machine.clock_step(1000) == start + 1000
    assert machine.clock_set(start + 5000) == start + 5000
    assert machine.clock_set(0) == start + 5000


@pytest.mark.parametrize("line", ["", "bogus", "outb", "outb 0x80", "inb 0x10000", "readq",
                                  "write 0 4 0xz", "b64write 0 4 ?", "clock_step x",
                                  "irq_intercept_in /nope", "module_load a b", "\x7f" * 5000])
def test_a_bad_line_gets_an_error_and_costs_nothing(machine: Machine, line: str) -> None:
    with pytest.raises(QtestError, match="^(ERR|FAIL) "):
        machine.command(line)
    assert machine.command("endianness") == "little"


def test_a_client_that_leaves_does_not_end_the_machine(machine: Machine) -> None:
    machine.line.send("outb 0x80")  # half a line
    machine.line.socket.close()
    assert "status" in machine.qmp.execute("query-status")
