"""scripts/demo as users run it: --batch, the interactive shell, and what an interruption leaves."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import migrate_show, unplug_show, vmm

DEMO = [
    str(Path(__file__).resolve().parents[2] / "scripts" / "demo"),
    "--no-setup",
    "--vmm",
    os.environ.get("RHEA_LAB_VMM", "rhea"),
]
LIMIT = 200.0


@pytest.fixture(autouse=True)
def tested_binary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo runs the binary under test instead of building one."""
    if os.environ.get("RHEA_LAB_VMM", "rhea") == "rhea":
        monkeypatch.setenv("RHEA_BINARY", str(vmm.find("rhea").binary))


class Session:
    """The demo on a pseudo-terminal."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master, self.process, self.text = master, process, ""

    def expect(self, pattern: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not (match := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"no /{pattern}/ in: {self.text[-2000:]}"
            self.text += os.read(self.master, 65536).decode(errors="replace")
        self.text = self.text[match.end() :]

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def session() -> Iterator[tuple[Session, int]]:
    """A started demo, and the terminal's other end for looking at its modes."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        DEMO, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    try:
        yield Session(master, process), slave
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        os.close(master)
        os.close(slave)


def nested_machines(parent: int) -> list[int]:
    """Processes that the demo started and that still run (its pid is the parent of each)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The demo without a terminal, to its end."""
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def show(*arguments: str) -> list[str]:
    """What a show that must succeed prints, line by line."""
    done = run_demo(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(400)
def test_batch_runs_commands_in_the_guest_and_exits_0() -> None:
    lines = show("--batch")
    for wanted in (
        r"demo: running (directly|in the lab).*: .+$",
        r"guest\| Linux .*cloud-amd64",
        r"guest\| Mem: +\d+",
        r"guest\| 0000:00:00\.0",
    ):
        assert any(re.match(wanted, line) for line in lines), wanted


@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", ["--batch", "unplug", "migrate"])
def test_what_does_not_finish_in_time_has_failed(what: str) -> None:
    done = run_demo(what, "--timeout", "0.5")
    assert done.returncode == 1
    assert "FAILED" in done.stderr


def test_interactive_mode_without_a_terminal_is_refused() -> None:
    done = run_demo()
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr


@pytest.mark.timeout(400)
def test_the_interactive_shell_answers_and_the_terminal_is_restored() -> None:
    with session() as (demo, slave):
        modes = termios.tcgetattr(slave)
        demo.expect(r"guest# ")
        assert not termios.tcgetattr(slave)[3] & termios.ECHO, "the terminal is not raw"
        demo.send("echo $((6 * 7))lab\n")
        demo.expect(r"42lab\r\n")
        # The child's own output shows that the shell has left its line editor (which eats Ctrl-C).
        demo.send("sh -c 'echo rea''dy; exec sleep 999999'\n")
        demo.expect(r"ready\r\n")
        demo.send("\x03")  # must reach the guest, not the demo
        demo.expect(r"guest# ")
        demo.send("poweroff -f\n")
        demo.expect(r"Power down")
        demo.expect(r"demo: the guest has ended")
        assert demo.process.wait(30) == 0
        assert termios.tcgetattr(slave) == modes


@pytest.mark.timeout(400)
def test_a_signal_restores_the_terminal_and_kills_the_machine() -> None:
    with session() as (demo, slave):
        modes = termios.tcgetattr(slave)
        demo.expect(r"guest# ")
        started = nested_machines(demo.process.pid)
        assert started
        demo.process.send_signal(signal.SIGTERM)
        demo.expect(r"demo: interrupted SIGTERM")
        assert demo.process.wait(30) == 130
        assert termios.tcgetattr(slave) == modes
        assert not any(Path(f"/proc/{pid}").exists() for pid in started)


@pytest.mark.timeout(400)
def test_ctrl_a_x_quits_the_vmm() -> None:
    with session() as (demo, slave):
        modes = termios.tcgetattr(slave)
        demo.expect(r"guest# ")
        demo.send("\x01x")
        demo.expect(r"demo: the guest has ended")
        assert demo.process.wait(30) == 0
        assert termios.tcgetattr(slave) == modes


@pytest.mark.timeout(400)
def test_unplug_shows_a_disk_come_and_go_under_io_and_exits_0() -> None:
    lines = show("unplug", "--batch", "--rounds", "2")
    deleted = [line for line in lines if line.startswith("event") and "DEVICE_DELETED" in line]
    paths = [json.loads(line.partition(" ")[2])["data"]["path"] for line in deleted]
    hot = "/machine/peripheral/hot"
    assert paths == [f"{hot}/virtio-backend", hot] * 2
    # What the guest saw, in order: there, at work, gone.
    assert len([line for line in lines if re.match(r"guest\|.* 65536 vda$", line)]) == 2
    assert len([line for line in lines if re.match(r"guest\| \d+ writes so far", line)]) == 2
    typed = [line.partition("qmp.sock ")[2] for line in lines if line.startswith("$")]
    assert typed.count("device_del id=hot --wait DEVICE_DELETED:device=hot") == 2
    assert lines[-1].startswith("demo: the disk came and went 2 times, under I/O")


GOOD_ROUND = {
    "there": " 254 0 65536 vda\n",
    "last_words": "dd: can't open '/proc/self/fd/3': No such device or address",
    "gone": "major minor #blocks name\n",
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"last_words": "dd: error writing '/proc/self/fd/3': Input/output error"}, None),
        ({"last_words": "dd: error writing '/proc/self/fd/3': No space left on device"}, None),
        ({"last_words": ""}, "round 1: the writer did not notice"),
        ({"last_words": "dd: invalid number 'x'"}, "round 1: the writer did not notice"),
        ({"there": "major minor #blocks name\n"}, "round 1: the guest did not see the disk come"),
        ({"gone": " 254 0 65536 vda\n"}, "round 1: the guest still has the disk"),
    ],
)
def test_what_a_guest_must_see_of_its_disk_fails_the_show(
    change: dict, complaint: str | None
) -> None:
    problems = unplug_show.problems({"rounds": [{**GOOD_ROUND, **change}], "exit_status": 0})
    assert [complaint in problem for problem in problems] == ([True] if complaint else [])


@pytest.mark.timeout(400)
def test_migrate_moves_a_counting_guest_and_exits_0() -> None:
    lines = show("migrate", "--batch", "--channels", "3")
    ticks = [match for line in lines if (match := re.match(r"(first |second)\| tick (\d+)$", line))]
    assert {match[1] for match in ticks} == {"first ", "second"}
    for name in ("setup", "pass 1", "stop", "last copy", "device state", "load", "resume"):
        assert any(re.match(rf"demo:   {name} +[\d.]+ ms", line) for line in lines), name
    assert any(re.match(r"demo:   downtime +[1-9]\d* ms", line) for line in lines)
    assert re.match(r"demo: the guest counted to \d+ over both instances", lines[-1])


GOOD_MOVE = {
    "console": "guest# for ..\ntick 1\ntick 2\ntick 3\n^C\nguest# ",
    "by_instance": [1, 1],
    "exit_statuses": [0, 0],
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, None),
        ({"console": "guest# for ..\ntick 1\ntick 2\nti^C\nguest# "}, None),
        ({"console": "guest# for ..\ntick 1\ntick 3\n^C"}, "'tick 3' instead of 'tick 2'"),
        ({"console": "guest# for ..\ntick 1\ntick 1\n^C"}, "'tick 1' instead of 'tick 2'"),
        ({"console": "guest# for ..\ntick 1\ntiick 2\n^C"}, "'tiick 2' instead of 'tick 2'"),
        ({"console": "guest# for ..\n^C"}, "'(nothing)' instead of 'tick 1'"),
        ({"by_instance": [3, 0]}, "one instance only"),
        ({"exit_statuses": [0, 1]}, "exit statuses"),
    ],
)
def test_what_a_moved_guest_must_not_do_fails_the_show(change: dict, complaint: str | None) -> None:
    problems = migrate_show.problems({**GOOD_MOVE, **change})
    assert [complaint in problem for problem in problems] == ([True] if complaint else [])
