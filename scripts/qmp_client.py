"""QMP for people and scripts: what goes over the wire, a client, and commands as one types them.

`scripts/qmp` is the command line of this module. Python's standard library is all it needs.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Message = dict[str, Any]


class UsageError(Exception):
    """What was typed makes no sense."""


class ConnectionFailed(Exception):
    """There is no monitor, or it went away."""


class TimedOut(Exception):
    """What was waited for did not come."""


class CommandError(Exception):
    """A command was answered with an error, or what ended a wait says that something failed."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"{command}: {error_class}: {description}")
        self.error_class, self.description = error_class, description


class Pattern(NamedTuple):
    """An event by name, and by members of its data where that matters."""

    event: str
    members: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """EVENT[:KEY=VALUE]...; a dot in KEY looks into an object."""
        name, *conditions = re.split(r":(?=[\w.-]+=)", text)
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise UsageError(f"'{name}' is not the name of an event, such as DEVICE_DELETED")
        return cls(name, tuple((key, value) for key, _, value in
                               (condition.partition("=") for condition in conditions)))

    def matches(self, event: Message) -> bool:
        if event["event"] != self.event:
            return False
        for key, text in self.members:
            found: Any = event.get("data", {})
            for step in key.split("."):
                found = found.get(step) if isinstance(found, dict) else None
            if found is None or found not in (text, value_of(text)):
                return False
        return True

    def __str__(self) -> str:
        return ":".join([self.event, *(f"{key}={value}" for key, value in self.members)])


class Conversation:
    """One connection's bytes as messages; it does no I/O itself.

    Invariants: `events` holds every event in order of arrival until somebody takes it; a reply
    waits until it is asked for by its number.
    """

    def __init__(self) -> None:
        self.greeting: Message | None = None
        self.events: list[Message] = []
        self._replies: dict[int, Message] = {}
        self._unread = b""
        self._last_id = 0

    def request(self, command: str, arguments: Message | None = None) -> tuple[int, bytes]:
        """The number and the bytes of a command."""
        self._last_id += 1
        message: Message = {"execute": command, "id": self._last_id}
        if arguments:
            message["arguments"] = arguments
        return self._last_id, json.dumps(message).encode() + b"\r\n"

    def feed(self, data: bytes) -> list[Message]:
        """Takes what was received; returns the messages that it completes."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        messages = [self._parse(line) for line in lines if line.strip()]
        for message in messages:
            if "QMP" in message:
                self.greeting = message
            elif "event" in message:
                self.events.append(message)
            else:
                self._replies[message.get("id", 0)] = message
        return messages

    @staticmethod
    def _parse(line: bytes) -> Message:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise ConnectionFailed(f"this is no QMP monitor: it says {line[:60]!r}")
        return message

    def take_reply(self, number: int) -> Message | None:
        # A message that the server could not parse is answered without a number.
        return self._replies.pop(number, None) or self._replies.pop(0, None)

    def take_event(self, pattern: Pattern) -> Message | None:
        """The oldest event of that kind which nobody has taken."""
        for index, event in enumerate(self.events):
            if pattern.matches(event):
                return self.events.pop(index)
        return None


class Client:
    """A negotiated connection to a monitor.

    Owns: the socket. Errors: ConnectionFailed, TimedOut, CommandError. Units: seconds, for all
    that is done with this client together; no limit without `timeout`.
    """

    def __init__(
        self,
        address: str,
        timeout: float | None = None,
        on_event: Callable[[Message], None] = lambda event: None,
    ) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout
        self._on_event = on_event
        self._talk = Conversation()
        self._received = b""
        self._socket = self._connect(address)
        try:
            self._read_until(lambda: self._talk.greeting, f"greeting from {address}"
                             " (a monitor serves one client at a time)")
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _connect(self, address: str) -> socket.socket:
        family, target = parse_address(address)
        try:
            if family == socket.AF_UNIX:
                connection = socket.socket(family)
                connection.settimeout(self._left("connection"))
                connection.connect(target)
                return connection
            return socket.create_connection(target, self._left("connection"))
        except TimeoutError:
            raise TimedOut(self._late(f"connection to {address}")) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectionFailed(f"{address}: {reason}") from None

    def _left(self, what: str) -> float | None:
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(self._late(what))
        return left

    def _late(self, what: str) -> str:
        return f"time-out: no {what} within {self._timeout:g} s"

    def _read_until(self, found: Callable[[], Any], what: str) -> Any:
        while not (result := found()):
            if self._take_line():
                continue
            try:
                self._socket.settimeout(self._left(what))
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise TimedOut(self._late(what)) from None
            except OSError as error:
                raise ConnectionFailed(f"waiting for {what}: {error.strerror}") from None
            if not data:
                raise ConnectionFailed(f"the monitor closed the connection: no {what}")
            self._received += data
        return result

    def _take_line(self) -> bool:
        """Goes on by one message, so that what came after the one that is waited for stays behind."""
        line, end, rest = self._received.partition(b"\n")
        if not end:
            return False
        self._received = rest
        for message in self._talk.feed(line + end):
            if "event" in message:
                self._on_event(message)
        return True

    def execute(self, command: str, arguments: Message | None = None) -> Any:
        """What the command returns. Events that come meanwhile are kept for wait()."""
        number, data = self._talk.request(command, arguments)
        what = f"reply to {command}"
        try:
            self._socket.settimeout(self._left(what))
            self._socket.sendall(data)
        except TimeoutError:
            raise TimedOut(self._late(what)) from None
        except OSError as error:
            raise ConnectionFailed(f"{command}: {error.strerror}") from None
        reply = self._read_until(lambda: self._talk.take_reply(number), what)
        if "error" in reply:
            error = reply["error"]
            raise CommandError(command, error.get("class", "?"), error.get("desc", "?"))
        return reply.get("return")

    def wait(self, pattern: Pattern, unless: tuple[Pattern, ...] = ()) -> Message:
        """The oldest event of that kind that no earlier wait took. CommandError: an event of
        `unless` was there first."""

        def found() -> tuple[Message, bool] | None:
            for event in self._talk.events:
                if pattern.matches(event) or any(bad.matches(event) for bad in unless):
                    self._talk.events.remove(event)
                    return event, pattern.matches(event)
            return None

        event, wanted = self._read_until(found, f"event {pattern}")
        if not wanted:
            data = event.get("data", {})
            raise CommandError(str(pattern), event["event"], data.get("reason") or json.dumps(data))
        return event

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse_address(text: str) -> tuple[int, Any]:
    """unix:PATH and tcp:HOST:PORT say it; else HOST:PORT is taken for what it looks like unless
    there is such a file, and all else is a path."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return socket.AF_UNIX, rest
    tcp = re.fullmatch(r"(?:tcp:)?(\[[^]]+\]|[^:/]*):(\d+)", text)
    if tcp and (kind == "tcp" or not os.path.exists(text)):
        return socket.AF_INET, (tcp[1].strip("[]") or "localhost", int(tcp[2]))
    if kind == "tcp":
        raise UsageError(f"'{text}' is not of the form tcp:HOST:PORT")
    return socket.AF_UNIX, text


_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def value_of(text: str) -> Any:
    """A value as typed: JSON where it is a number, true, false, null, or begins with one of `{["`;
    else a string."""
    if text[:1] in ("{", "[", '"'):
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"'{text}' begins like JSON and is none: {error}") from None
    if _NUMBER.fullmatch(text) or text in ("true", "false", "null"):
        return json.loads(text)
    return text


class _Nested(dict[str, Any]):
    """An object that dots in keys made; one whose keys are all numbers becomes a list."""

    def plain(self) -> Any:
        values = {k: v.plain() if isinstance(v, _Nested) else v for k, v in self.items()}
        if values and all(key.isdigit() for key in values):
            if sorted(map(int, values)) != list(range(len(values))):
                raise UsageError(f"the numbers of a list run from 0: {', '.join(values)}")
            return [values[key] for key in sorted(values, key=int)]
        return values


def parse_arguments(words: list[str]) -> Message:
    """The arguments of a command: KEY=VALUE (see value_of; dots in KEY nest), KEY==TEXT (a string,
    whatever it looks like), and JSON objects, whose members count as given."""
    result = _Nested()
    for word in words:
        if word.startswith("{"):
            for key, value in value_of(word).items():
                _put(result, [key], value, word)
            continue
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"'{word}' is not of the form KEY=VALUE")
        value = text[1:] if text.startswith("=") else value_of(text)
        _put(result, key.split("."), value, word)
    return {k: v.plain() if isinstance(v, _Nested) else v for k, v in result.items()}


def _put(into: _Nested, path: list[str], value: Any, word: str) -> None:
    *steps, last = path
    for step in steps:
        below = into.setdefault(step, _Nested())
        if not isinstance(below, _Nested):
            raise UsageError(f"'{word}': '{step}' has a value already")
        into = below
    if last in into or "" in path:
        raise UsageError(f"'{word}': '{last}' " + ("is given twice" if last else "is missing"))
    into[last] = value


class Command:
    """One command of a script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.words: list[str] = []

    def run(self, client: Client) -> Any:
        return client.execute(self.name, parse_arguments(self.words))


class Wait:
    """One wait of a script."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.unless: tuple[Pattern, ...] = ()

    def run(self, client: Client) -> Message:
        return client.wait(self.pattern, self.unless)


Step = Command | Wait


def parse_script(words: list[str]) -> list[Step]:
    """Steps as typed: NAME [ARGUMENT]..., `,` between two commands, --wait EVENT and --unless EVENT
    behind the command that causes it. Nothing is half understood: all is checked here."""
    steps: list[Step] = []
    current: Command | None = None
    rest = iter(words)
    for word in rest:
        option, equals, text = word.partition("=")
        if option in ("--wait", "--unless"):
            current = None
            pattern = Pattern.parse(text if equals else next(rest, ""))
            if option == "--wait":
                steps.append(Wait(pattern))
            elif steps and isinstance(steps[-1], Wait):
                steps[-1].unless += (pattern,)
            else:
                raise UsageError("--unless goes behind a --wait")
        elif word == ",":
            if not steps:
                raise UsageError("there is no command before ','")
            current = None
        elif current is not None:
            current.words.append(word)
        elif re.fullmatch(r"[A-Za-z_][\w-]*", word):
            current = Command(word)
            steps.append(current)
        else:
            raise UsageError(f"'{word}' is not the name of a command")
    for step in steps:
        if isinstance(step, Command):
            parse_arguments(step.words)
    return steps
