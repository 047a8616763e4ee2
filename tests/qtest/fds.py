"""Descriptors that a test passes to rhea (SCM_RIGHTS), and those that rhea has open."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Sequence

from qtest import Machine, Qmp


def said(command: str, **arguments: Any) -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode()


def ask(qmp: Qmp, command: str, fds: Sequence[int], **arguments: Any) -> Any:
    """What is returned, or the text of the error; `fds` come with the command."""
    socket.send_fds(qmp.line.socket, [said(command, **arguments)], list(fds))
    return answer(qmp)


def answer(qmp: Qmp) -> Any:
    """The next one; events that come before it are kept."""
    while "event" in (message := json.loads(qmp.line.read_line())):
        qmp.events.append(message)
    return message["return"] if "return" in message else message["error"]["desc"]


def open_fds(machine: Machine) -> list[str]:
    """What rhea has open, once it has done all that was asked; a socket's or pipe's number is in it."""
    machine.qmp.execute("query-status")
    folder = f"/proc/{machine.process.process.pid}/fd"
    return sorted(os.readlink(f"{folder}/{number}") for number in os.listdir(folder))


def holds(machine: Machine, fd: int) -> int:
    """How many copies of `fd` rhea has."""
    return open_fds(machine).count(os.readlink(f"/proc/self/fd/{fd}"))
