"""What a guest was told is on its disk is there, wherever the move of its machine breaks.

The guest `flushed` writes numbers and says each of them when its flush has come back. The moments, the faults and
the outcomes are those of `test_migration_faults.py`; the memory that a move is about is that guest's here. A
process that is killed loses what it had not yet given to the host, and nothing else: that the host itself has
it on stable storage is the block layer's to show.
"""

from __future__ import annotations

import pathlib
import struct
from typing import Iterator

import pytest

from support import faults, vm
from support.faults import Pair

SECTORS, SECTOR = 8, 512  # the guest's
WRITES_PER_S = 20


class FlushedPair(Pair):
    """Its guest counts on the disk. Each write has to wait inside of rhea before it goes to the host: there an
    instance that said too early that it is done would lose it."""

    GUEST = "flushed"
    PATIENCE_S = vm.PATIENCE_S  # each beat is a write and a flush of the host; how soon it goes on is not asked here

    def disk(self) -> list[str]:
        return ["-object", f"throttle-group,id=tg0,limits.iops-write={WRITES_PER_S}",
                "-blockdev", "throttle,node-name=d0,throttle-group=tg0,file.driver=file,"
                f"file.filename={self.image}"]

    def check_memory(self, ram: pathlib.Path) -> None:
        """The guest itself compares what it has in memory with the disk."""

    def finish(self, survivor: faults.Instance | None) -> None:
        super().finish(survivor)
        self.check_disk()

    def on_disk(self) -> list[int]:
        with self.image.open("rb") as image:
            ring = image.read(SECTORS * SECTOR)
        return [struct.unpack_from("<Q", ring, at)[0] for at in range(0, len(ring), SECTOR)]

    def check_disk(self) -> None:
        """All that was said is there. One more may be, written and not yet said; and no sector is older."""
        said = self.witness.numbers()[-1]
        last = max(self.on_disk())
        assert last in (said, said + 1), (said, self.on_disk())
        assert self.on_disk() == written_by(last), (said, self.on_disk())


def written_by(last: int) -> list[int]:
    """The disk when this was the last number: each is in the sector that it has modulo SECTORS."""
    newest_first = range(last, max(last - SECTORS, 0), -1)
    of_sector = {number % SECTORS: number for number in newest_first}
    return [of_sector.get(sector, 0) for sector in range(SECTORS)]


@pytest.fixture
def pair(request, guest, tmp_path) -> Iterator[FlushedPair]:
    both = FlushedPair(guest, tmp_path, *getattr(request, "param", (0, "unix")))
    yield both
    both.clean_up()


def kill_source(pair: Pair) -> None:
    pair.kill(pair.source)


def kill_target(pair: Pair) -> None:
    pair.kill(pair.target)


def cancel(pair: Pair) -> None:
    pair.source.qmp.execute("migrate_cancel")


def nothing(pair: Pair) -> None:
    pass


# While the guest runs, because the source waits for who does not answer or does not read; while it stands, its
# last requests done; when its disk is given up.
RUNNING = ["welcome 1", "pages 1", "channel bytes 1"]
STANDS = ["pre-switchover", "end 1", "ready 1"]
GIVEN_UP = ["released 1", "ack 1", "go 1"]

TABLE = [  # the fault, and what follows at these moments
    (kill_source, faults.lost, RUNNING + STANDS),
    (kill_source, faults.there_by_cont, ["ack 1", "go 1"]),
    (kill_target, faults.back, [*RUNNING, *STANDS, "released 1", "ack 1"]),
    (kill_target, faults.here_by_cont, ["go 1"]),
    (cancel, faults.back, [*RUNNING, *STANDS, "released 1"]),
    (cancel, faults.back_target_kept, ["ack 1"]),
    (nothing, faults.there, ["pages 1", "channel bytes 1", "released 1"]),
]
BRIEF = [(kill_source, "pages 1"), (kill_source, "pre-switchover"), (kill_source, "ready 1"),
         (kill_source, "ack 1"), (kill_target, "channel bytes 1"), (kill_target, "go 1"), (cancel, "released 1"),
         (cancel, "ack 1"), (nothing, "pages 1")]
WAYS = [(0, "unix"), (2, "tcp")]
WAYS_OF = {"pages 1": [(0, "unix")], "channel bytes 1": [(2, "unix")]}  # a short way: nothing fits into it


def rows() -> Iterator:
    for row, (fault, outcome, moments) in enumerate(TABLE):
        for number, moment in enumerate(moments):
            if not vm.full_size() and (fault, moment) not in BRIEF:
                continue
            ways = WAYS_OF.get(moment, WAYS)
            for way in ways if vm.full_size() else [ways[(row + number) % len(ways)]]:
                name = f"{moment}-{fault.__name__}-{way[1]}".replace(" ", "-")
                yield pytest.param(way, moment, fault, outcome, id=name)


@pytest.mark.parametrize("pair,moment,fault,outcome", rows(), indirect=["pair"])
def test_what_was_flushed_is_there(pair, moment, fault, outcome):
    pair.reach(moment)
    if moment in RUNNING:
        assert pair.witness.beats("source")  # so that the fault comes upon requests under way
    fault(pair)
    outcome(pair, faults.LOST if fault is kill_target else "")


@pytest.mark.parametrize("who", ["source", "target"])
def test_what_was_flushed_is_there_if_the_machine_is_killed(pair, who):
    """No matter whether it has been moved, and the moves before are over."""
    if who == "target":
        pair.reach("")
        pair.expect_status(pair.source, "completed")
        pair.expect_run("target")
    pair.kill(pair.alive[who])
    pair.stranger.expect_free()
    pair.finish(None)


# --- What all of them stand on ----------------------------------------------------------------------

def test_a_number_that_is_missing_is_seen(pair):
    pair.kill(pair.source)
    pair.finish(None)
    with pair.image.open("r+b") as image:
        image.seek(pair.witness.numbers()[-1] % SECTORS * SECTOR)
        image.write(bytes(SECTOR))
    with pytest.raises(AssertionError):
        pair.check_disk()


def test_a_write_that_comes_late_is_seen_by_the_guest(pair):
    with pair.image.open("r+b") as image:
        image.write(struct.pack("<Q", 1) * (SECTORS * SECTOR // 8))
    assert pair.witness.says(b"stale\n")
    with pytest.raises(AssertionError, match="stale"):
        pair.witness.numbers()
