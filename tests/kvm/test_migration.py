"""Live migration of micro-guests between two instances, on the host's real KVM."""

from __future__ import annotations

import os
import pathlib
import random
import socket
from typing import Any
from uuid import UUID

import pytest

from support import migration, vm
from support.dirtier import PAGE, UNIT, beats, check_steps, read_area
from support.migration import Instance

HOPS = vm.sized(20, 200)


def console(instance: Instance) -> str:
    """All that a guest has written to an instance that has ended, or that it has left."""
    instance.process.drain()
    return instance.process.stdout


def choose(dice: random.Random) -> dict[str, Any]:
    """How one hop is made."""
    transport = dice.choice(["unix", "tcp", "fd", "exec"])
    return {"transport": transport, "channels": dice.choice([0, 1, 2, 4]) if transport in ("unix", "tcp") else 0,
            "compression": dice.choice(["none", "zstd"]), "accel": dice.choice(["kvm", "kvm,dirty-ring-size=4096"]),
            "pause-before-switchover": dice.random() < 0.2,
            **{capability: dice.random() < 0.5 for capability in OFTEN}}


OFTEN = ["auto-converge", "late-block-activate", "validate-uuid"]


def connect(source: Instance, target: Instance, transport: str, folder: pathlib.Path) -> str:
    """Has the target wait; where the source is to go."""
    if transport == "fd":
        ends = socket.socketpair()
        for instance, end in zip((source, target), ends):
            instance.qmp.pass_fd("way", end.fileno())
            end.close()
        return migration.listen(target, "fd:way")
    if transport == "exec":
        os.mkfifo(folder / "fifo")
        migration.listen(target, f"exec:cat {folder / 'fifo'}")
        return f"exec:cat > {folder / 'fifo'}"
    return migration.listen(target, f"unix:{folder / 'socket'}" if transport == "unix" else "tcp:127.0.0.1:0")


def hop(source: Instance, target: Instance, how: dict[str, Any], folder: pathlib.Path) -> None:
    source.qmp.execute("migrate-set-parameters", max_bandwidth=0, x_page_checksum=True,
                       multifd_channels=max(how["channels"], 1),
                       multifd_compression=how["compression"])
    if how["channels"]:
        source.set_capabilities("multifd")
    for name in ("pause-before-switchover", *OFTEN):
        for instance in (source, target):  # each of them means something to one of the two
            instance.set_capabilities(name, state=how[name])
    source.qmp.execute("migrate", uri=connect(source, target, how["transport"], folder))
    if how["pause-before-switchover"]:
        source.wait_migration("pre-switchover")
        source.qmp.execute("migrate-continue", state="pre-switchover")
    result = source.finish()
    assert result["status"] == "completed", result
    assert target.wait_migration(*migration.OVER) == "completed"
    assert (source.status(), target.status()) == ("postmigrate", "running")


def any_uuid(dice: random.Random) -> str:
    return str(UUID(int=dice.getrandbits(128)))


def test_pages_differ_by_one_step_after_every_hop_and_none_goes_back(dirtiers, tmp_path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    uuid = any_uuid(dice)
    source = dirtiers.start("-uuid", uuid)
    beats(source, 3)
    written = ""  # by one guest, whatever process it was in
    for number in range(HOPS):
        how = choose(dice)
        print(f"hop {number}: {how}")
        if not how["validate-uuid"]:
            uuid = any_uuid(dice)
        target = dirtiers.start("-uuid", uuid, "-incoming", "defer", accel=how["accel"])
        hop(source, target, how, target.ram.parent)
        beats(target, 2)
        target.qmp.execute("stop")
        left, _ = read_area(source.ram, UNIT)
        first, last = read_area(target.ram, UNIT)
        check_steps(first, last)
        assert all(now >= then for now, then in zip(first, left)), "a page went back"
        written += console(source)
        source.qmp.execute("quit")
        assert source.process.wait() == 0, source.process.stderr
        target.qmp.execute("cont")
        source = target
    assert len(first) == UNIT // PAGE
    source.qmp.execute("quit")
    assert source.process.wait() == 0, source.process.stderr
    lines = (written + console(source)).split("\n")[:-1]
    assert all(len(line) == 8 for line in lines)
    numbers = [int(line, 16) for line in lines]
    assert numbers == sorted(set(numbers))
