"""Two instances, and the machine that moves from one to the other."""

from __future__ import annotations

import pathlib
from typing import Any, Sequence

from qtest import Machine
from virtio import SECTOR, Blk

DISK_SECTORS = 2048
OVER = ("completed", "failed", "cancelled")


class Moving:
    """The machine as a driver in it sees it: wherever it is."""

    def __init__(self, machine: Machine) -> None:
        self.now = machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


class Pair:
    """A machine with a disk, and where it goes."""

    def __init__(self, folder: pathlib.Path, loop: str = "iothread",
                 extra: Sequence[str] = ()) -> None:
        """`extra`: of the source only."""
        self.folder, self.loop, self.count = folder, loop, 0
        self.image = folder / "disk.img"
        self.image.write_bytes(bytes(DISK_SECTORS * SECTOR))
        self.started: list[Machine] = []
        self.source = self.start(*extra)
        self.guest = Moving(self.source)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.started:
            machine.__exit__(None, None, None)

    def start(self, *extra: str, pass_fds: Sequence[int] = ()) -> Machine:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        arguments = ["-blockdev", f"driver=file,filename={self.image},node-name=d0"]
        device = "virtio-blk-pci,id=vd0,drive=d0,num-queues=2"
        if self.loop == "iothread":
            arguments += ["-object", "iothread,id=io0"]
            device += ",iothread=io0"
        machine = Machine(folder, *arguments, "-device", device, *extra, pass_fds=pass_fds)
        self.started.append(machine)
        return machine

    @property
    def uri(self) -> str:
        return f"unix:{self.folder / 'socket'}"

    def await_it(self, *extra: str) -> Machine:
        return self.start("-incoming", self.uri, *extra)

    def defer(self, *extra: str, **capabilities: bool) -> Machine:
        """As await_it(), for a client that misses nothing, and with these capabilities."""
        target = self.start("-incoming", "defer", *extra)
        switch(target, **capabilities)
        target.qmp.execute("migrate-incoming", uri=self.uri)
        return target

    def move(self) -> Machine:
        """To a new instance, where the guest is from then on."""
        target = self.await_it()
        self.source.qmp.execute("migrate", uri=self.uri)
        assert wait_migration(self.source, *OVER) == "completed", self.query()
        assert wait_migration(target, *OVER) == "completed"
        self.guest.now = target
        return target

    def query(self) -> dict[str, Any]:
        return self.source.qmp.execute("query-migrate")

    def set(self, *capabilities: str, **parameters: Any) -> None:
        """Of the source: these capabilities on."""
        switch(self.source, **dict.fromkeys(capabilities, True))
        self.source.qmp.execute("migrate-set-parameters",
                                **{name.replace("_", "-"): v for name, v in parameters.items()})


def switch(machine: Machine, **capabilities: bool) -> None:
    """On or off."""
    machine.qmp.execute("migrate-set-capabilities", capabilities=[
        {"capability": name.replace("_", "-"), "state": on} for name, on in capabilities.items()])


def wait_migration(machine: Machine, *wanted: str) -> str:
    while (status := machine.qmp.wait_event("MIGRATION")["status"]) not in wanted:
        assert status not in OVER, status
    return status


def wait_arrived(target: Machine) -> None:
    """Of a machine that loads from its start on: what came before the greeting brought no event."""
    if target.qmp.execute("query-migrate").get("status") != "completed":
        wait_migration(target, "completed")


def status(machine: Machine) -> str:
    return machine.qmp.execute("query-status")["status"]


class Driven:
    """A disk and its two queues."""

    def __init__(self, disk: Blk) -> None:
        self.disk = disk
        self.queues = disk.bring_up(queues=2)

    def remember(self) -> None:
        """How far the driver is, which is not in the guest's memory."""
        self.saved = [dict(vars(queue)) for queue in self.queues]

    def put_back(self) -> None:
        for queue, state in zip(self.queues, self.saved):
            vars(queue).update(state)

    def read(self, sector: int, queue: int = 0) -> bytes:
        return self.disk.read_sectors(self.queues[queue], sector)

    def write(self, sector: int, text: bytes, queue: int = 0) -> None:
        self.disk.write_sectors(self.queues[queue], sector, text.ljust(SECTOR, b"."))
