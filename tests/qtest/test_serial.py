"""The serial port at 0x3f8, IRQ 4, with a peer on a socket."""

from __future__ import annotations

from qtest import Machine

COM1, IRQ = 0x3F8, 4
DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(COM1, COM1 + 8)


def open_port(machine: Machine) -> None:
    machine.outb(LCR, 0x80)
    machine.outb(DATA, 1)
    machine.outb(IER, 0)
    machine.outb(LCR, 0x03)
    machine.outb(IIR_FCR, 0xC7)
    machine.outb(MCR, 0x0B)


def test_reset_values(machine: Machine) -> None:
    # LCR: there is no firmware, so the machine sets the line to eight bits as firmware would.
    assert [machine.inb(port) for port in (IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR)] == [
        0x00, 0x01, 0x03, 0x00, 0x60, 0xB0, 0x00]


def test_a_word_is_two_bytes(machine: Machine) -> None:
    assert machine.inw(LSR) == 0xB060


def test_the_second_port_is_absent_unless_asked_for(machine: Machine) -> None:
    assert machine.inb(0x2F8 + 5) == 0xFF


def test_output_reaches_the_peer(machine: Machine) -> None:
    peer = machine.serial()
    open_port(machine)
    for byte in b"hello\n":
        assert machine.inb(LSR) & 0x20
        machine.outb(DATA, byte)
    assert peer.read(6) == b"hello\n"


def test_input_raises_the_timeout_interrupt(machine: Machine) -> None:
    peer = machine.serial()
    machine.intercept_irqs()
    open_port(machine)
    machine.outb(IER, 0x01)
    peer.send("abc")
    while not machine.inb(LSR) & 1:  # until the main loop has read the socket
        pass
    machine.clock_step(10_000_000)
    assert ("raise", IRQ) in machine.take_irqs()
    assert machine.inb(IIR_FCR) in (0xCC, 0xC4)
    received = b""
    while len(received) < 3:
        if machine.inb(LSR) & 1:
            received += bytes([machine.inb(DATA)])
    assert received == b"abc"
    assert machine.take_irqs()[-1] == ("lower", IRQ)


def test_the_transmit_interrupt(machine: Machine) -> None:
    machine.intercept_irqs()
    open_port(machine)
    machine.outb(IER, 0x02)
    assert machine.take_irqs() == [("raise", IRQ)]
    assert machine.inb(IIR_FCR) == 0xC2
    assert machine.take_irqs() == [("lower", IRQ)]


def test_more_input_than_the_fifo_is_not_lost(machine: Machine) -> None:
    peer = machine.serial()
    open_port(machine)
    text = bytes(i % 251 for i in range(2000))
    peer.socket.sendall(text)
    received = bytearray()
    while len(received) < len(text):
        status = machine.inb(LSR)
        assert not status & 0x02  # no overrun
        if status & 1:
            received.append(machine.inb(DATA))
    assert bytes(received) == text


def test_a_slow_peer_gets_everything(machine: Machine) -> None:
    peer = machine.serial()
    open_port(machine)
    sent = bytearray()
    for _ in range(500):
        if not machine.inb(LSR) & 0x20:
            break  # the socket's buffers are full: THRE waits for the peer
        for _ in range(16):
            machine.outb(DATA, len(sent) % 251)
            sent.append(len(sent) % 251)
    assert peer.read(len(sent)) == bytes(sent)
