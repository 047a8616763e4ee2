"""Several monitors at once, some of them badly behaved, while a guest runs to its end."""

from __future__ import annotations

import json
import pathlib
import socket
import threading
from typing import Callable

from support import qmp, vm

LINES = "".join(f"line {n}\n" for n in range(1, 2001))
# What misbehaving clients may cost together: a session holds at most 1 MiB of input, one of events
# and an answer, and the heap some slack.
ALLOWED_GROWTH_KIB = 16 << 10


def peak_kib(pid: int) -> int:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0])


def stall(connection: socket.socket) -> None:
    """Asks on and on, and never reads an answer."""
    connection.setblocking(False)
    request = b'{"execute": "query-commands"}\r\n' * 64
    connection.sendall(b'{"execute": "qmp_capabilities"}\r\n')
    try:
        while True:
            connection.send(request)
    except BlockingIOError:
        pass  # rhea has stopped reading: the client stays like this


def die_mid_line(connection: socket.socket) -> None:
    connection.sendall(b'{"execute": "qmp_capabilities"}\r\n{"execute": "query-st')
    connection.close()


def one_endless_line(connection: socket.socket) -> None:
    chunk = b"x" * (1 << 20)
    connection.sendall(b'{"execute": "')
    for _ in range(vm.sized(10, 100)):
        connection.sendall(chunk)
    connection.close()


def flood(connection: socket.socket) -> None:
    """As many commands as fit, each answered."""
    monitor = qmp.Qmp(connection).negotiate()
    for _ in range(vm.sized(20, 500)):
        numbers = [monitor.send("query-cpus-fast") for _ in range(100)]
        for number in numbers:
            while "event" in (answer := monitor.read_message()):
                pass
            assert answer["id"] == number and len(answer["return"]) == 2, answer
    connection.close()


class Client:
    """Runs `behave` on a connection of its own, on a thread of its own."""

    def __init__(self, connection: socket.socket, behave: Callable[[socket.socket], None]) -> None:
        self.connection = connection  # kept: a client that stalls does not hang up
        self.failure: BaseException | None = None
        connection.settimeout(vm.PATIENCE_S)
        self._thread = threading.Thread(target=self._run, args=[behave])
        self._thread.start()

    def _run(self, behave: Callable[[socket.socket], None]) -> None:
        try:
            behave(self.connection)
        except BaseException as failure:  # shown by finish(), on the test's thread
            self.failure = failure

    def finish(self) -> None:
        self._thread.join()
        if self.failure is not None:
            raise self.failure


def test_bad_clients_cost_the_guest_nothing(guest, tmp_path):
    behaviours = [stall, die_mid_line, one_endless_line, flood]
    listeners = [qmp.Listener(tmp_path / b.__name__) for b in behaviours]
    extra = [word for l in listeners for word in ("-qmp", f"unix:{l.path}")]
    process, monitor = guest.with_qmp("lines", "-S", "-no-shutdown", "-smp", "2", *extra)
    before = peak_kib(process.process.pid)
    clients = [Client(l.accept(), b) for l, b in zip(listeners, behaviours)]
    monitor.execute("cont")
    process.wait_for("line 2000\n")
    # Somebody who behaves is served all the while.
    assert monitor.wait_event("SHUTDOWN") == {"guest": True, "reason": "guest-shutdown"}
    for client in clients:
        client.finish()
    assert monitor.execute("query-status")["status"] == "shutdown"
    assert process.stdout == LINES
    if not vm.address_sanitized():  # it keeps what is freed
        assert peak_kib(process.process.pid) - before < ALLOWED_GROWTH_KIB
    monitor.execute("quit")
    assert process.wait() == 0
    assert process.stderr == ""


def test_two_monitors_see_the_same_events(guest, tmp_path):
    listener = qmp.Listener(tmp_path / "second")
    process, first = guest.with_qmp("ticks", "-qmp", f"unix:{listener.path}")
    second = qmp.Qmp(listener.accept()).negotiate()
    process.wait_for("tick 1\n")
    first.execute("stop")
    second.execute("cont")
    first.execute("system_reset")
    second.execute("query-status")  # what the first caused is on the second's wire before this
    names = ["STOP", "RESUME", "RESET"]
    for monitor in (first, second):
        assert [event["event"] for event in monitor.events] == names
    assert list(first.events) == list(second.events)  # time stamps too
    second.execute("quit")
    first.wait_eof()
    assert first.events.pop()["event"] == "SHUTDOWN"
    assert process.wait() == 0


def test_events_wait_for_negotiation(guest, tmp_path):
    listener = qmp.Listener(tmp_path / "second")
    process, first = guest.with_qmp("ticks", "-qmp", f"unix:{listener.path}")
    second = qmp.Qmp(listener.accept())
    assert "QMP" in second.read_message()
    first.execute("stop")
    second.send("query-status")
    answer = second.read_message()
    assert answer["error"]["class"] == "CommandNotFound"
    assert "qmp_capabilities" in answer["error"]["desc"]
    assert second.execute("qmp_capabilities") == {}
    first.execute("cont")
    second.execute("query-status")
    assert [event["event"] for event in second.events] == ["RESUME"]
    first.execute("quit")
    assert process.wait() == 0


def test_a_server_socket_takes_one_client_after_another(guest, tmp_path):
    path = tmp_path / "monitor"
    process, first = guest.with_qmp("ticks", "-qmp", f"unix:{path},server=on,wait=off")
    for _ in range(vm.sized(5, 200)):
        monitor = qmp.Qmp.connect(path)
        assert monitor.execute("query-status")["running"]
        monitor.socket.sendall(json.dumps({"execute": "query-name"}).encode()[:9])
        monitor.close()
    first.execute("quit")
    assert process.wait() == 0
    assert not path.exists()
