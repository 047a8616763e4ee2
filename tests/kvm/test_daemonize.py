"""-daemonize, and sockets that rhea is handed already open, as management software does it."""

from __future__ import annotations

import os
import pathlib
import select
import signal

import pytest

from support import qmp, vm


class Daemon:
    """A process that is not our child, known by its pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def wait_end(self) -> None:
        """Returns when it has exited."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        assert poller.poll(vm.PATIENCE_S * 1000), f"process {self.pid} does not end"

    def kill(self) -> None:
        try:
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._fd)


@pytest.fixture
def daemons():
    """The daemons of a test; none outlives it."""
    known: list[Daemon] = []
    yield known
    for daemon in known:
        daemon.kill()


def start(guest, daemons, tmp_path: pathlib.Path, *extra: str) -> tuple[Daemon, pathlib.Path]:
    """Starts a daemon; returns when its parent has exited, with the path of its monitor."""
    path, pidfile = tmp_path / "monitor", tmp_path / "pid"
    parent = guest("ticks", "-daemonize", "-pidfile", str(pidfile), "-qmp",
                   f"unix:{path},server=on,wait=off", *extra, serial=f"file:{tmp_path / 'console'}")
    # wait() also waits for the end of both pipes: the daemon has let go of them.
    assert parent.wait() == 0
    assert parent.stdout == parent.stderr == ""
    daemon = Daemon(int(pidfile.read_text()))
    daemons.append(daemon)
    assert daemon.pid != parent.process.pid
    return daemon, path


def test_the_parent_exits_when_the_daemon_is_ready(guest, daemons, tmp_path):
    daemon, path = start(guest, daemons, tmp_path)
    monitor = qmp.Qmp.connect(path)  # at once: no second attempt
    assert monitor.execute("query-status")["status"] == "running"
    threads = os.listdir(f"/proc/{daemon.pid}/task")
    assert str(monitor.execute("query-cpus-fast")[0]["thread-id"]) in threads
    for number in range(3):
        assert os.readlink(f"/proc/{daemon.pid}/fd/{number}") == "/dev/null"
    assert os.getsid(daemon.pid) != os.getsid(0)
    assert monitor.execute("quit") == {}
    monitor.wait_eof()
    daemon.wait_end()
    assert not path.exists()
    assert not (tmp_path / "pid").exists()


def test_a_signal_ends_the_daemon_in_order(guest, daemons, tmp_path):
    daemon, path = start(guest, daemons, tmp_path)
    monitor = qmp.Qmp.connect(path)
    os.kill(daemon.pid, signal.SIGTERM)
    assert monitor.wait_event("SHUTDOWN") == {"guest": False, "reason": "host-signal"}
    daemon.wait_end()
    assert not (tmp_path / "pid").exists()


def test_a_daemon_that_can_not_start_says_so_in_the_parent(guest, tmp_path):
    pidfile, path = tmp_path / "pid", tmp_path / "monitor"
    parent = guest.run("-daemonize", "-nodefaults", "-m", "64", "-kernel", str(tmp_path / "none"),
                       "-pidfile", str(pidfile), "-qmp", f"unix:{path},server=on,wait=off")
    assert parent.wait() == 1
    assert parent.stdout == ""
    assert parent.stderr.count("\n") == 1 and parent.stderr.startswith("rhea: ")
    assert "No such file or directory" in parent.stderr
    assert not pidfile.exists()
    assert not path.exists()


@pytest.mark.parametrize("background", [False, True])
def test_an_inherited_socket_takes_who_came_early(guest, daemons, tmp_path, background):
    listener = qmp.Listener(tmp_path / "monitor")
    fd = listener.socket.fileno()
    connection = qmp.socket.socket(qmp.socket.AF_UNIX)
    connection.connect(str(listener.path))  # before there is a rhea
    pidfile = tmp_path / "pid"
    process = guest("ticks", "-S", "-pidfile", str(pidfile), "-no-user-config", "-name",
                    "guest=demo,debug-threads=on", "-chardev",
                    f"socket,id=charmonitor,fd={fd},server=on,wait=off", "-mon",
                    "chardev=charmonitor,id=monitor,mode=control", "-rtc", "base=utc",
                    "-no-shutdown", *(["-daemonize"] if background else []),
                    serial="null", pass_fds=[fd])
    listener.close()
    if background:
        assert process.wait() == 0
        daemons.append(Daemon(int(pidfile.read_text())))
    monitor = qmp.Qmp(connection).negotiate()
    assert monitor.execute("query-status")["status"] == "prelaunch"
    assert monitor.execute("query-name") == {"name": "demo"}
    # A client that leaves makes room for the next.
    monitor.close()
    monitor = qmp.Qmp.connect(listener.path)
    assert monitor.execute("cont") == {}
    assert monitor.take_event("RESUME") is None
    monitor.execute("quit")
    if background:
        daemons[0].wait_end()
    else:
        assert process.wait() == 0
    assert not pidfile.exists()
