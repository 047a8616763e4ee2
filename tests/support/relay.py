"""Stands between two instances of a migration, and reads along: migration/FORMAT.md.

A test says which frame is to be held. The thread that carries it waits there, both sides wait for it, and the
test does its worst; then the frame goes on as it is, changed, in part, or not at all.
"""

from __future__ import annotations

import pathlib
import socket
import struct
import threading
from typing import Callable

from support import vm

KINDS = {0x01: "hello", 0x02: "pages", 0x03: "sync", 0x04: "device", 0x05: "end", 0x06: "released",
         0x07: "go", 0x08: "fail", 0x81: "welcome", 0x82: "refused", 0x83: "ready", 0x84: "ack"}
HEADER, TRAILER, PAGE = 16, 4, 4096
U8, U32, BYTES, STRING = 2, 4, 7, 8  # types of fields
CHANNEL_HELLO = 64

Address = tuple[str, int] | str


def crc32c(data: bytes) -> int:
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def frame(kind: int, payload: bytes) -> bytes:
    header = b"RHEA" + struct.pack("<HHI", kind, 0, len(payload))
    return header + struct.pack("<I", crc32c(header)) + payload + struct.pack("<I", crc32c(payload))


def field(name: str, type_: int) -> bytes:
    """How a field begins in a saved state: util/saved_state.h."""
    return bytes([len(name)]) + name.encode() + bytes([type_])


PATH = field("path", STRING)


def path(of: str) -> bytes:
    """How the state of a device names it, and its entry in hello."""
    return PATH + struct.pack("<I", len(of)) + of.encode()


def device_of(data: bytes) -> str:
    """Whose state is in a device frame: its first field."""
    at = HEADER + len(PATH)
    [length] = struct.unpack_from("<I", data, at)
    return data[at + 4:at + 4 + length].decode()


class Held:
    """A frame that does not go on until the test says how."""

    def __init__(self, name: str) -> None:
        self.name, self.data = name, b""
        self.onward: bytes = b""  # what goes on of it
        self.ends = False  # the connection, behind that
        self._came, self._goes = threading.Event(), threading.Event()

    @property
    def decided(self) -> bool:
        return self._goes.is_set()

    def wait(self) -> "Held":
        assert self._came.wait(vm.PATIENCE_S), f"no '{self.name}' came"
        return self

    def forward(self, data: bytes | None = None) -> None:
        self.onward = self.data if data is None else data
        self._goes.set()

    def corrupt(self) -> None:
        """One bit of its last byte."""
        self.forward(self.data[:-1] + bytes([self.data[-1] ^ 0x10]))

    def forge(self, begin: bytes, old: bytes, new: bytes) -> None:
        """Behind `begin`, which comes once in it, the next `old` is `new`; and its sums are right."""
        assert len(new) == len(old)
        payload = self.data[HEADER:-TRAILER]
        assert payload.count(begin) == 1
        at = payload.index(old, payload.index(begin) + len(begin))
        [kind] = struct.unpack_from("<H", self.data, 4)
        self.forward(frame(kind, payload[:at] + new + payload[at + len(old):]))

    def truncate(self) -> None:
        self.ends = True
        self.forward(self.data[:len(self.data) // 2])

    def drop(self) -> None:
        """And the connection with it."""
        self.ends = True
        self.forward(b"")

    def stand(self, data: bytes) -> None:
        """The relay's: comes back when it may go on."""
        self.data = data
        self._came.set()
        self._goes.wait()


class Connection:
    """One from the source, with the one to the destination that belongs to it."""

    def __init__(self, relay: "Relay", source: socket.socket, target: socket.socket) -> None:
        self.relay, self.source, self.target = relay, source, target
        self.is_main = False
        self._last = threading.Barrier(2, action=self._let_go)
        self.threads = [threading.Thread(target=self._run, args=(carry,), daemon=True)
                        for carry in (self._carry_there, self._carry_back)]

    def close(self) -> None:
        """Both ways of both ends; their threads let go of the sockets then."""
        for end in (self.source, self.target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is already

    def _run(self, carry: Callable[[], None]) -> None:
        try:
            carry()
        except OSError:
            self.close()  # one side is lost: so the other one is told
        self._last.wait()

    def _let_go(self) -> None:
        """With what was not read any more: who waits for room in a TCP socket learns only by this that
        nobody will make it."""
        self.source.close()
        self.target.close()

    def _carry_there(self) -> None:
        begin = read(self.source, 4)
        self.is_main = begin == b"RHEA"
        if self.is_main:
            self._carry_frames(self.source, self.target, begin)
        elif begin:
            self.relay.add_channel(self)
            self._carry_channel(begin)
        self.target.shutdown(socket.SHUT_WR)

    def _carry_back(self) -> None:
        """The destination never ends one half of a connection only."""
        begin = read(self.target, 4)
        if begin:
            self._carry_frames(self.target, self.source, begin)
        self.close()

    def _carry_frames(self, from_: socket.socket, to: socket.socket, begin: bytes) -> None:
        while begin:
            data = begin + read(from_, HEADER - len(begin))
            if len(data) == HEADER:
                kind, _, length = struct.unpack_from("<HHI", data, 4)
                payload = read(from_, length + TRAILER)
                data += payload
                if KINDS.get(kind) == "pages":
                    data += read(from_, struct.unpack_from("<H", payload, 4)[0] * PAGE)
                if not self._pass_on(KINDS.get(kind, hex(kind)), data, to):
                    return
            else:
                to.sendall(data)
            begin = read(from_, 4)

    def _carry_channel(self, begin: bytes) -> None:
        data = begin + read(self.source, CHANNEL_HELLO - len(begin))
        if not self._pass_on("channel hello", data, self.target):
            return
        while data := self.source.recv(1 << 16):
            if not self._pass_on("channel bytes", data, self.target):
                return

    def _pass_on(self, kind: str, data: bytes, to: socket.socket) -> bool:
        held = self.relay.held_at(kind, data)
        if held is None:
            to.sendall(data)
            return True
        held.connection = self
        held.stand(data)
        to.sendall(held.onward)
        if held.ends:
            self.close()
        return not held.ends


class Relay:
    """Listens like a destination at `listen`, and connects each connection to `target`."""

    def __init__(self, listen: str, target: str) -> None:
        self.target = target
        self.connections: list[Connection] = []
        self._channels: list[Connection] = []  # of pages, in the order of their first bytes
        self._more_channels = threading.Condition()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._held: dict[tuple[str, int | str], Held] = {}
        self._listener = open_socket(listen)
        self._listener.bind(address_of(listen))
        self._listener.listen(256)
        self.uri = listen if listen.startswith("unix:") else "tcp:{}:{}".format(
            *self._listener.getsockname())
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def hold(self, kind: str, which: int | str = 1) -> Held:
        """That frame of this kind is to be held, as they are counted; or of a device's, by its path."""
        held = self._held[kind, which] = Held(f"{kind} {which}")
        return held

    def held_at(self, kind: str, data: bytes) -> Held | None:
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            held = self._held.get((kind, self._counts[kind]))
            return self._held.get((kind, device_of(data)), held) if kind == "device" else held

    def add_channel(self, channel: Connection) -> None:
        with self._more_channels:
            self._channels.append(channel)
            self._more_channels.notify_all()

    def channel(self, index: int) -> Connection:
        """Waits for its first bytes: the source may have sent them, and more, before they are read."""
        with self._more_channels:
            assert self._more_channels.wait_for(lambda: len(self._channels) > index, vm.PATIENCE_S)
            return self._channels[index]

    @property
    def main(self) -> Connection:
        [main] = [connection for connection in self.connections if connection.is_main]
        return main

    def close(self) -> None:
        """Everything ends, and nobody comes in any more."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join(vm.PATIENCE_S)
        self._listener.close()
        for held in self._held.values():
            held.drop()
        for connection in self.connections:
            connection.close()
            for thread in connection.threads:
                thread.join(vm.PATIENCE_S)

    def _accept(self) -> None:
        while True:
            try:
                source, _ = self._listener.accept()
            except OSError:
                return
            target = open_socket(self.target)
            try:
                target.connect(address_of(self.target))
            except OSError:
                source.close()  # as if it were the destination's port
                continue
            connection = Connection(self, source, target)
            self.connections.append(connection)
            for thread in connection.threads:
                thread.start()


def read(from_: socket.socket, count: int) -> bytes:
    """So many bytes, or those that come before the end."""
    data = bytearray()
    while len(data) < count and (part := from_.recv(min(count - len(data), 1 << 20))):
        data += part
    return bytes(data)


def open_socket(uri: str) -> socket.socket:
    return socket.socket(socket.AF_UNIX if uri.startswith("unix:") else socket.AF_INET)


def address_of(uri: str) -> Address:
    if uri.startswith("unix:"):
        return uri.removeprefix("unix:")
    _, host, port = uri.split(":")
    return host, int(port)
