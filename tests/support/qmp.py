"""A QMP client over a stream socket, strict about the wire: CR LF lines, one JSON object each."""

from __future__ import annotations

import collections
import json
import pathlib
import socket
from typing import Any

from support import vm

Event = dict[str, Any]


class QmpError(Exception):
    """The server answered with an error."""

    def __init__(self, error: dict[str, str]) -> None:
        super().__init__(error["desc"])
        self.error_class, self.description = error["class"], error["desc"]


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"a member comes twice: {names}"
    return dict(pairs)


class Qmp:
    """A connected monitor. Events wait in `events`, in order, until somebody takes them; `history` has all."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(vm.PATIENCE_S)
        self.socket = connection
        self.events: collections.deque[Event] = collections.deque()
        self.history: list[Event] = []
        self._buffer = bytearray()
        self._next_id = 0

    @classmethod
    def connect(cls, path: pathlib.Path) -> "Qmp":
        """Connects to a server and negotiates."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return cls(connection).negotiate()

    def negotiate(self) -> "Qmp":
        self.greeting = self.read_message()["QMP"]
        assert self.execute("qmp_capabilities") == {}
        return self

    def read_message(self) -> dict[str, Any]:
        """The next message of any kind. EOFError: the server closed, with no line left unfinished."""
        while (end := self._buffer.find(b"\n")) < 0:
            data = self.socket.recv(1 << 16)
            if not data:
                assert not self._buffer, f"an unfinished line: {bytes(self._buffer)!r}"
                raise EOFError("the monitor is closed")
            self._buffer += data
        line = bytes(self._buffer[:end + 1])
        del self._buffer[:end + 1]
        assert line.endswith(b"\r\n"), f"not a CR LF line: {line!r}"
        message = json.loads(line, object_pairs_hook=_no_repeats)
        assert isinstance(message, dict), line
        return message

    def send(self, command: str, **arguments: Any) -> int:
        """Sends a command without waiting; returns its id."""
        self.socket.sendall(self._request(command, arguments))
        return self._next_id

    def _request(self, command: str, arguments: dict[str, Any]) -> bytes:
        self._next_id += 1
        request: dict[str, Any] = {"execute": command, "id": self._next_id}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): v for key, v in arguments.items()}
        return json.dumps(request).encode() + b"\r\n"

    def execute(self, command: str, **arguments: Any) -> Any:
        """The command's return value; events that come before it are kept."""
        return self._answer(self.send(command, **arguments))

    def pass_fd(self, name: str, fd: int) -> None:
        """The server has one of its own by this name then."""
        socket.send_fds(self.socket, [self._request("getfd", {"fdname": name})], [fd])
        assert self._answer(self._next_id) == {}

    def _answer(self, number: int) -> Any:
        while "event" in (message := self.read_message()):
            self._keep(message)
        assert message.pop("id") == number, message
        if "error" in message:
            raise QmpError(message["error"])
        assert list(message) == ["return"], message
        return message["return"]

    def take_event(self, name: str) -> Any:
        """The data of the oldest event, which has come already and must be `name`."""
        assert self.events, f"{name} has not come"
        event = self.events.popleft()
        assert event["event"] == name, f"{name} expected, got {event}"
        return event.get("data")

    def wait_event(self, name: str) -> Any:
        """Waits for `name`; what comes before it is dropped. Returns its data."""
        while True:
            while self.events:
                event = self.events.popleft()
                if event["event"] == name:
                    return event.get("data")
            self._keep(self.read_message())

    def wait_eof(self) -> None:
        """Reads to the end; only events may come."""
        try:
            while True:
                self._keep(self.read_message())
        except EOFError:
            return

    def _keep(self, message: dict[str, Any]) -> None:
        assert list(message)[:2] == ["timestamp", "event"], f"not an event: {message}"
        assert set(message) <= {"timestamp", "event", "data"}, message
        assert 0 <= message["timestamp"]["microseconds"] < 1_000_000, message
        self.events.append(message)
        self.history.append(message)

    def close(self) -> None:
        self.socket.close()


class Listener:
    """A listening unix socket. Either rhea connects to it (`-qmp unix:PATH`), or it inherits it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(8)
        self.socket.settimeout(vm.PATIENCE_S)

    def accept(self) -> socket.socket:
        connection, _ = self.socket.accept()
        return connection

    def close(self) -> None:
        self.socket.close()
