"""A client of the qtest line protocol, and the `rhea -accel qtest` that it drives.

As in QEMU, `-qtest unix:PATH` and `-qmp unix:PATH` connect to a socket on which the test listens.
Every wait is for bytes or for the end of the process, never for time.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import select
import socket
from typing import Any, Sequence

from support import vm


class QtestError(Exception):
    """The server answered ERR or FAIL."""


class Line:
    """One end of a stream socket, read by lines."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(vm.PATIENCE_S)
        self.socket = connection
        self._buffer = bytearray()

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def read_line(self) -> str:
        while (end := self._buffer.find(b"\n")) < 0:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(f"the peer left; unfinished line: {bytes(self._buffer)!r}")
            self._buffer += data
        line = self._buffer[:end].decode().rstrip("\r")
        del self._buffer[:end + 1]
        return line

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError(f"the peer left after {bytes(self._buffer)!r}")
            self._buffer += data
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


class Listener:
    """A socket on which the test waits for rhea to connect."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(1)
        self._socket.settimeout(vm.PATIENCE_S)

    def accept(self, process: vm.Process) -> Line:
        """Waits for `process` to connect, or to end before it did."""
        ended = os.pidfd_open(process.process.pid)
        try:
            ready, _, _ = select.select([self._socket, ended], [], [], vm.PATIENCE_S)
        finally:
            os.close(ended)
        if self._socket not in ready:
            process.drain()
            raise AssertionError(f"rhea did not connect; it said: {process.stderr!r}")
        connection, _ = self._socket.accept()
        self._socket.close()
        return Line(connection)


class Qtest:
    """The protocol: one answer a command, with IRQ lines in between."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.irqs: list[tuple[str, int]] = []  # ("raise" or "lower", line), in order

    def command(self, text: str) -> str:
        """Sends a line; returns what follows OK."""
        self.line.send(text + "\n")
        while True:
            answer = self.line.read_line()
            if answer.startswith("IRQ "):
                _, change, number = answer.split()
                self.irqs.append((change, int(number)))
                continue
            if answer == "OK" or answer.startswith("OK "):
                return answer[3:]
            raise QtestError(answer)

    def take_irqs(self) -> list[tuple[str, int]]:
        taken, self.irqs = self.irqs, []
        return taken

    def outb(self, port: int, value: int) -> None:
        self.command(f"outb {port:#x} {value:#x}")

    def outw(self, port: int, value: int) -> None:
        self.command(f"outw {port:#x} {value:#x}")

    def outl(self, port: int, value: int) -> None:
        self.command(f"outl {port:#x} {value:#x}")

    def inb(self, port: int) -> int:
        return int(self.command(f"inb {port:#x}"), 16)

    def inw(self, port: int) -> int:
        return int(self.command(f"inw {port:#x}"), 16)

    def inl(self, port: int) -> int:
        return int(self.command(f"inl {port:#x}"), 16)

    def store(self, address: int, value: int, size: int) -> None:
        self.command(f"write{'bwlq'[size.bit_length() - 1]} {address:#x} {value:#x}")

    def load(self, address: int, size: int) -> int:
        return int(self.command(f"read{'bwlq'[size.bit_length() - 1]} {address:#x}"), 16)

    def write(self, address: int, data: bytes) -> None:
        self.command(f"write {address:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, address: int, size: int) -> bytes:
        return bytes.fromhex(self.command(f"read {address:#x} {size:#x}")[2:])

    def b64write(self, address: int, data: bytes) -> None:
        self.command(f"b64write {address:#x} {len(data):#x} {base64.b64encode(data).decode()}")

    def b64read(self, address: int, size: int) -> bytes:
        return base64.b64decode(self.command(f"b64read {address:#x} {size:#x}"))

    def memset(self, address: int, size: int, value: int) -> None:
        self.command(f"memset {address:#x} {size:#x} {value:#x}")

    def clock_step(self, nanoseconds: int | None = None) -> int:
        argument = "" if nanoseconds is None else f" {nanoseconds}"
        return int(self.command("clock_step" + argument))

    def clock_set(self, nanoseconds: int) -> int:
        return int(self.command(f"clock_set {nanoseconds}"))


class Qmp:
    """Just enough of QMP to see what the machine did."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.events: list[dict[str, Any]] = []
        greeting = json.loads(line.read_line())
        assert "QMP" in greeting, greeting
        self.execute("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The whole answer: what is returned, or the error."""
        self.line.send(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        while True:
            message = json.loads(self.line.read_line())
            if "event" not in message:
                return message
            self.events.append(message)

    def execute(self, command: str, **arguments: Any) -> Any:
        answer = self.ask(command, **arguments)
        assert "return" in answer, answer
        return answer["return"]

    def next_event(self) -> dict[str, Any]:
        """One that has not come yet, whole."""
        return json.loads(self.line.read_line())

    def wait_any(self) -> dict[str, Any]:
        """The next event, whole."""
        return self.events.pop(0) if self.events else self.next_event()

    def wait_event(self, name: str) -> dict[str, Any]:
        """The data of the next event of that name, dropping others."""
        while True:
            message = self.wait_any()
            if message.get("event") == name:
                return message.get("data", {})


class Machine(Qtest):
    """A running `rhea -accel qtest` with its qtest and QMP connections, stopped on leaving."""

    def __init__(self, directory: pathlib.Path, *arguments: str,
                 launcher: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> None:
        """`launcher` is a command that runs the rest of its line; `pass_fds` are inherited."""
        listeners = {name: Listener(directory / f"{name}.sock") for name in ("qtest", "qmp")}
        self.serial_path = directory / "serial.sock"
        self.process = vm.rhea(
            "-machine", "pc", "-accel", "qtest", "-m", "64M", "-nodefaults", "-display", "none",
            "-qtest", f"unix:{listeners['qtest'].path}", "-qmp", f"unix:{listeners['qmp'].path}",
            "-serial", f"unix:{self.serial_path},server=on,wait=off", *arguments,
            launcher=launcher, pass_fds=pass_fds)
        try:
            super().__init__(listeners["qtest"].accept(self.process))
            self.qmp = Qmp(listeners["qmp"].accept(self.process))
        except BaseException:
            self.process.kill()
            raise

    def serial(self) -> Line:
        """Connects to the other end of the serial port."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.serial_path))
        return Line(connection)

    def intercept_irqs(self) -> None:
        self.command("irq_intercept_in ioapic")

    def config_read(self, slot: int, register: int, size: int = 4, function: int = 0) -> int:
        self.outl(0xcf8, 1 << 31 | slot << 11 | function << 8 | register & 0xfc)
        port = 0xcfc + (register & 3)
        return {1: self.inb, 2: self.inw, 4: self.inl}[size](port)

    def config_write(self, slot: int, register: int, value: int, size: int = 4) -> None:
        self.outl(0xcf8, 1 << 31 | slot << 11 | register & 0xfc)
        port = 0xcfc + (register & 3)
        {1: self.outb, 2: self.outw, 4: self.outl}[size](port, value)

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
