"""A small QMP client on a pump: greeting, commands with ids, events kept in order."""

import json
import socket
import time
from typing import Any

from lab.inside.pump import Pump, WaitTimeout

Message = dict[str, Any]


class QmpError(Exception):
    """The server answered a command with an error."""


class QmpClient:
    """One QMP connection.

    Owns: the socket. Invariants: `events` holds every event in order of arrival, until taken by
    wait_event. Lines may end in LF or CR LF.
    """

    def __init__(self, pump: Pump, sock: socket.socket) -> None:
        self._pump, self._sock = pump, sock
        self._buffer = b""
        self._next_id = 0
        self._replies: dict[int, Message] = {}
        self.greeting: Message | None = None
        self.greeting_time = 0.0
        self.events: list[Message] = []
        self.closed = False
        sock.setblocking(False)
        pump.add(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
            return
        now = time.monotonic()
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.strip():
                self._dispatch(json.loads(line), now)

    def _dispatch(self, message: Message, now: float) -> None:
        if "QMP" in message:
            self.greeting, self.greeting_time = message, now
        elif "event" in message:
            self.events.append({**message, "received": now})
        else:
            self._replies[message.get("id", -1)] = message

    def close(self) -> None:
        if not self.closed:
            self._pump.remove(self._sock.fileno())
            self._sock.close()
            self.closed = True

    def wait_greeting(self, timeout: float = 30) -> Message:
        self._pump.wait(lambda: self.greeting is not None or self.closed, timeout)
        if self.greeting is None:
            raise WaitTimeout("no QMP greeting" + (": connection closed" if self.closed else ""))
        return self.greeting

    def negotiate(self, timeout: float = 30) -> None:
        self.wait_greeting(timeout)
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: Message | None = None, timeout: float = 30) -> Any:
        """Sends a command and returns its value; QmpError carries the server's words."""
        self._next_id += 1
        wanted = self._next_id
        request: Message = {"execute": command, "id": wanted}
        if arguments is not None:
            request["arguments"] = arguments
        self._send(json.dumps(request).encode() + b"\r\n")
        self._pump.wait(lambda: wanted in self._replies or self.closed, timeout)
        if wanted not in self._replies:
            raise WaitTimeout(
                f"no reply to {command}" + (": connection closed" if self.closed else "")
            )
        reply = self._replies.pop(wanted)
        if "error" in reply:
            raise QmpError(
                f"{command}: {reply['error'].get('class')}: {reply['error'].get('desc')}"
            )
        return reply["return"]

    def _send(self, data: bytes) -> None:
        """A peer that went away shows as `closed`, like an end of file does."""
        try:
            if not self.closed:
                self._sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.close()

    def wait_event(self, name: str, timeout: float = 60) -> Message:
        """Takes the first event of that name out of the queue, waiting for it when needed."""
        self._pump.wait(
            lambda: self.closed or any(e["event"] == name for e in self.events), timeout
        )
        for index, event in enumerate(self.events):
            if event["event"] == name:
                return self.events.pop(index)
        raise WaitTimeout(f"no event {name}; queued: {[e['event'] for e in self.events]}")
