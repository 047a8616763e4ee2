"""A QMP client on a pump: the protocol is scripts/qmp_client.py's, the waiting the pump's."""

import socket
import time
from collections.abc import Callable
from typing import Any

from lab.inside.pump import PATIENCE_S, Pump, WaitTimeout
from qmp_client import Conversation, Message, Pattern


class QmpError(Exception):
    """The server answered a command with an error."""


class QmpClient:
    """One QMP connection.

    Owns: the socket. Invariants: `events` holds every event in order of arrival, until taken by
    wait_event. Lines may end in LF or CR LF.
    """

    def __init__(self, pump: Pump, sock: socket.socket) -> None:
        self._pump, self._sock = pump, sock
        self._talk = Conversation()
        self.greeting_time = 0.0
        self.closed = False
        self.on_event: Callable[[Message], None] = lambda event: None
        sock.setblocking(False)
        pump.add(sock.fileno(), self._read)

    @property
    def greeting(self) -> Message | None:
        return self._talk.greeting

    @property
    def events(self) -> list[Message]:
        return self._talk.events

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
        for message in self._talk.feed(data):
            if "QMP" in message:
                self.greeting_time = now
            elif "event" in message:
                message["received"] = now
                self.on_event(message)

    def close(self) -> None:
        if not self.closed:
            self._pump.remove(self._sock.fileno())
            self._sock.close()
            self.closed = True

    def wait_greeting(self, timeout: float = PATIENCE_S) -> Message:
        self._pump.wait(lambda: self.greeting is not None or self.closed, timeout)
        if self.greeting is None:
            raise WaitTimeout("no QMP greeting" + (": connection closed" if self.closed else ""))
        return self.greeting

    def negotiate(self, timeout: float = PATIENCE_S) -> None:
        self.wait_greeting(timeout)
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: Message | None = None, timeout: float = PATIENCE_S) -> Any:
        """Sends a command and returns its value; QmpError carries the server's words."""
        number, data = self._talk.request(command, arguments)
        self._send(data)
        reply: Message | None = None

        def replied() -> bool:
            nonlocal reply
            reply = reply or self._talk.take_reply(number)
            return reply is not None or self.closed

        self._pump.wait(replied, timeout)
        if reply is None:
            raise WaitTimeout(
                f"no reply to {command}" + (": connection closed" if self.closed else "")
            )
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

    def wait_event(self, pattern: str | Pattern, timeout: float = PATIENCE_S) -> Message:
        """Takes the first such event out of the queue, waiting for it when needed."""
        wanted = pattern if isinstance(pattern, Pattern) else Pattern.parse(pattern)
        event: Message | None = None

        def came() -> bool:
            nonlocal event
            event = event or self._talk.take_event(wanted)
            return event is not None or self.closed

        self._pump.wait(came, timeout)
        if event is None:
            raise WaitTimeout(f"no event {wanted}; queued: {[e['event'] for e in self.events]}")
        return event
