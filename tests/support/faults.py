"""Two instances with a relay between them, what can be done to them, and what must be true afterwards."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import signal
import time
from typing import Any, Callable, Iterator

import pytest

from support import migration, qmp, vm
from support.dirtier import UNIT, check_steps, read_area
from support.image_lock import ImageLock
from support.migration import Instance
from support.relay import Held, Relay
from support.witness import FIRST_BEATS_S, Witness

# By the kernel, for KVM and for io_uring; and the ring itself.
MADE_AT_FIRST_USE = ("kvm-nx-lpage-re", "iou-wrk", "iou-sqp", "anon_inode:[io_uring]")
LOST = "Unable to (read from|write to) socket"
PRE_SWITCHOVER = "pre-switchover"
SECOND_PASS = "sync 2"
CONTINUED = "continued "  # after pre-switchover; then follows a frame
NEVER = {"downtime_limit": 0}  # what the guest writes is more than nothing
SOON = {"downtime_limit": 60_000}
SLOWLY = {"max_bandwidth": 1 << 20}  # a pass takes far longer than the guest's next steps


class Pair:
    """A running source, a destination that waits, and who looks at them."""

    GUEST = "dirtier"
    PATIENCE_S = FIRST_BEATS_S

    def __init__(self, guest: Any, folder: pathlib.Path, channels: int, transport: str,
                 ram: pathlib.Path | None = None) -> None:
        self.guest, self.folder = guest, folder
        self.channels, self.transport = channels, transport
        self.witness = Witness(self.PATIENCE_S)
        self.expected: list[str] = []  # who runs, in this order
        self.image = folder / "disk"
        self.image.write_bytes(bytes(1 << 20))
        self.stranger = ImageLock(self.image)
        self.alive: dict[str, Instance] = {}
        self.before: dict[str, collections.Counter[str]] = {}  # what each held
        self.relay: Relay | None = None
        self.held: Held | None = None
        self.moment = ""
        self.source = self.start("source", ram=ram)
        self.expect_run("source")
        self.before["source"] = held_by(self.source)

    # --- Instances ----------------------------------------------------------------------------------

    def start(self, who: str, *extra: str, memory: int = 64, disk: bool = True,
              ram: pathlib.Path | None = None) -> Instance:
        folder = self.folder / who
        folder.mkdir()
        ram = ram or folder / "ram"
        self.witness.watch(who, folder / "beats")
        words = self.guest.arguments(
            self.GUEST, "-debugcon", f"file:{folder / 'beats'}", "-machine", "memory-backend=ram",
            "-object", f"memory-backend-file,id=ram,size={memory}M,mem-path={ram},share=on",
            serial="null", append="1")
        words[words.index("-m") + 1] = str(memory)
        if disk:
            words += [*self.disk(), "-device", "virtio-blk-pci,drive=d0,id=vd0"]
        self.alive[who] = migration.start(self.guest.run, folder, *words, *extra)
        self.before[who] = held_by(self.alive[who])
        return self.alive[who]

    def disk(self) -> list[str]:
        """What makes the node d0."""
        return ["-blockdev", f"raw,node-name=d0,file.driver=file,file.filename={self.image}"]

    def start_target(self, *extra: str, late: bool = False, **machine: Any) -> None:
        self.target = self.start("target", "-incoming", "defer", *extra, **machine)
        if late:
            self.target.set_capabilities("late-block-activate")
        uri = migration.listen(self.target, self._address("target"))
        self.relay = Relay(self._address("relay"), uri)

    def _address(self, name: str) -> str:
        unix = self.transport == "unix"
        return f"unix:{self.folder / name}.socket" if unix else "tcp:127.0.0.1:0"

    def kill(self, instance: Instance) -> None:
        os.kill(instance.process.process.pid, signal.SIGKILL)
        assert instance.process.wait() == -signal.SIGKILL
        self._forget(instance)

    def _forget(self, instance: Instance) -> None:
        self.alive = {who: other for who, other in self.alive.items() if other is not instance}

    # --- On the way ---------------------------------------------------------------------------------

    def reach(self, moment: str) -> None:
        """Migrates until that frame, by kind and number, or by kind and path, is held; or until pre-switchover.
        Behind CONTINUED the one is behind the other."""
        self.moment = moment
        continues = moment.startswith(CONTINUED)
        if self.relay is None:
            self.start_target()
        self.source.qmp.execute("migrate-set-parameters", max_bandwidth=0, x_page_checksum=True,
                                multifd_channels=max(self.channels, 1), **SOON)
        if self.channels:
            self.source.set_capabilities("multifd")
        if continues or moment == PRE_SWITCHOVER:
            self.source.set_capabilities("pause-before-switchover")
        if moment and moment != PRE_SWITCHOVER:
            kind, which = moment.removeprefix(CONTINUED).rsplit(" ", 1)
            self.held = self.relay.hold(kind, int(which) if which.isdecimal() else which)
        if moment == SECOND_PASS:
            self.source.qmp.execute("migrate-set-parameters", **NEVER, **SLOWLY)
        self.source.qmp.execute("migrate", uri=self.relay.uri)
        if moment == SECOND_PASS:
            self._see_steps_in_first_pass()
        if continues or moment == PRE_SWITCHOVER:
            self.source.wait_migration(PRE_SWITCHOVER)
        if continues:
            self.source.qmp.execute("migrate-continue", state=PRE_SWITCHOVER)
        if self.held:
            self.held.wait()
        if continues:
            assert self.source.qmp.execute("query-migrate")["status"] == "device"

    def _see_steps_in_first_pass(self) -> None:
        """So that there is a second one, behind which at least one more comes: without them a busy host
        may not let the guest write at all."""
        self.source.wait_migration("active")
        assert self.witness.beats("source")
        self.source.qmp.execute("migrate-set-parameters", max_bandwidth=0)

    def let_go(self) -> None:
        """What is held goes on, unless the fault has decided about it."""
        if self.held and not self.held.decided:
            self.held.forward()
        if self.moment == PRE_SWITCHOVER:
            self.source.qmp.execute("migrate-continue", state=PRE_SWITCHOVER)
        self.source.qmp.execute("migrate-set-parameters", **SOON)

    def let_fall(self) -> None:
        """What is held is lost with its connection, unless the fault has decided about it."""
        if self.held and not self.held.decided:
            self.held.drop()

    # --- What follows -------------------------------------------------------------------------------

    def expect_run(self, who: str) -> None:
        assert self.witness.beats(who), f"{who} does not run: {self.witness.seen[-5:]}"
        assert self.alive[who].status() == "running"
        assert not self.stranger.is_free()
        if self.expected[-1:] != [who]:
            self.expected.append(who)

    def expect_target_gone(self, reason: str = "") -> None:
        """The process has ended by itself; or it was killed."""
        if "target" not in self.alive:
            return
        assert self.target.process.wait() == 1, self.target.process.stderr
        assert re.search(f"load of migration failed: .*{reason}", self.target.process.stderr)
        self._forget(self.target)

    def expect_status(self, instance: Instance, status: str, error: str | None = None) -> None:
        answer = instance.finish()
        assert answer["status"] == status, answer
        if error is None:
            assert "error-desc" not in answer, answer
        else:
            assert re.search(error, answer["error-desc"]), answer

    def expect_refused(self, instance: Instance) -> None:
        """By `cont`, because somebody else has the locks."""
        with pytest.raises(qmp.QmpError, match="Is another process using the image"):
            instance.qmp.execute("cont")
        assert instance.status() == "paused"

    def expect_no_leak(self, who: str) -> None:
        """Threads and descriptors; the last of them go soon after the end is told."""
        instance, before = self.alive[who], self.before[who]
        until(lambda: not held_by(instance) - before, instance,
              lambda: f"{who}: {held_by(instance) - before}")

    def finish(self, survivor: Instance | None) -> None:
        """Who survives migrates again, to one that is new; then all end, and the witness is asked."""
        if survivor:
            third = self.start("third", "-incoming", "defer")
            uri = migration.listen(third, self._address("third"))
            survivor.set_capabilities("pause-before-switchover", state=False)
            survivor.qmp.execute("migrate-set-parameters", **SOON)
            survivor.qmp.execute("migrate", uri=uri)
            self.expect_status(survivor, "completed")
            self.expect_run("third")
            third.qmp.execute("stop")
            self.check_memory(self.folder / "third" / "ram")
        for who in self.alive:
            self.expect_no_leak(who)
        for instance in self.alive.values():
            instance.qmp.execute("quit")
        for instance in self.alive.values():
            assert instance.process.wait() == 0, instance.process.stderr
        self.stranger.expect_free()
        self.witness.finish()
        assert self.witness.runners() == self.expected, self.witness.seen
        self.witness.check_one_guest()

    def check_memory(self, ram: pathlib.Path) -> None:
        """No page was lost on the way."""
        check_steps(*read_area(ram, UNIT))

    def clean_up(self) -> None:
        for process in self.guest.started:  # shown if the test has failed
            process.drain()
            print(process.process.pid, "ended with", process.process.poll(), process.stderr)
        self.stranger.close()
        if self.relay:
            self.relay.close()


def held_by(instance: Instance) -> collections.Counter[str]:
    """The threads and descriptors of a process, by what they are."""
    process = pathlib.Path("/proc") / str(instance.process.process.pid)
    held: collections.Counter[str] = collections.Counter()
    for look, folder in (("comm", "task"), ("", "fd")):
        for entry in (process / folder).iterdir():
            try:
                name = (entry / look).read_text().strip() if look else os.readlink(entry)
            except FileNotFoundError:
                continue  # it went meanwhile
            if not name.startswith(MADE_AT_FIRST_USE):
                held[name] += 1
    return held


def until(true: Callable[[], bool], instance: Instance, say: Callable[[], str]) -> None:
    """Asks again after each answer of the monitor, each of which main gives between two other works."""
    deadline = time.monotonic() + vm.PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, say()
        instance.status()


@contextlib.contextmanager
def standing(instance: Instance) -> Iterator[None]:
    """It hears and says nothing meanwhile, and keeps what it holds."""
    process = instance.process.process
    process.send_signal(signal.SIGSTOP)
    yield
    process.send_signal(signal.SIGCONT)


# --- Outcomes ---------------------------------------------------------------------------------------


def expect_back(pair: Pair, error: str) -> None:
    """The source goes on, the destination has ended."""
    pair.let_fall()
    if pair.moment == PRE_SWITCHOVER and error:
        pair.let_go()  # it notices when it looks
    pair.expect_status(pair.source, "failed" if error else "cancelled", error or None)
    pair.expect_run("source")
    pair.expect_target_gone()
    pair.expect_no_leak("source")


def back(pair: Pair, error: str) -> None:
    expect_back(pair, error)
    pair.finish(pair.source)


def back_target_kept(pair: Pair, error: str) -> None:
    """The source goes on; the destination has all of it, but must not run."""
    pair.let_fall()
    pair.expect_status(pair.source, "failed" if error else "cancelled", error or None)
    pair.expect_run("source")
    expect_unconfirmed(pair)
    pair.expect_refused(pair.target)
    pair.expect_no_leak("source")
    pair.finish(pair.source)


def expect_unconfirmed(pair: Pair) -> None:
    pair.expect_status(pair.target, "failed", "The hand-over was not confirmed")
    assert pair.target.status() == "paused"
    pair.expect_no_leak("target")


def expect_left(pair: Pair) -> None:
    """GO was sent: the machine is no longer the source's."""
    pair.expect_status(pair.source, "completed")
    assert pair.source.status() == "postmigrate"
    pair.expect_no_leak("source")


def lost(pair: Pair, _: str) -> None:
    """The machine went with the source: nothing runs, and nothing is held."""
    pair.let_fall()
    pair.expect_target_gone()
    pair.stranger.expect_free()
    pair.finish(None)


def there(pair: Pair, _: str) -> None:
    """The destination has it."""
    pair.let_go()
    if "source" in pair.alive:
        expect_left(pair)
    pair.expect_status(pair.target, "completed")
    pair.expect_run("target")
    pair.expect_no_leak("target")
    pair.finish(pair.target)


def there_by_cont(pair: Pair, _: str) -> None:
    """Only a person can know that the destination may go on."""
    pair.let_fall()
    expect_unconfirmed(pair)
    if "source" in pair.alive:
        expect_left(pair)
    pair.stranger.expect_free()
    pair.target.qmp.execute("cont")
    pair.expect_run("target")
    pair.expect_no_leak("target")
    pair.finish(pair.target)


def here_by_cont(pair: Pair, _: str) -> None:
    """Only a person can know that the source may go on."""
    pair.let_fall()
    expect_left(pair)
    pair.stranger.expect_free()
    pair.source.qmp.execute("cont")
    pair.expect_run("source")
    pair.expect_no_leak("source")
    pair.finish(pair.source)
