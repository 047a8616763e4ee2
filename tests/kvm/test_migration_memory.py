"""A host that runs out of memory: a destination says so and ends while pages arrive, and the source goes on;
and a source takes none for what its guest has not touched.

The RAM is a file on a tmpfs that has no more room at some point. The relay, the witness and the outcomes are those
of `test_migration_faults.py`.
"""

from __future__ import annotations

from typing import Iterator

import pytest

from support import faults, vm
from support.faults import Pair
from support.tmpfs import full_tmpfs

MIB = 1 << 20
SIZE = 64 * MIB  # of the tmpfs, and of the RAM; the guest has 8 MiB and a bit that are not zero
LITTLE, ENOUGH = 2 * MIB, 16 * MIB
NO_MEMORY = r"the host has no memory for \d+ bytes of guest RAM"

WAYS = {"main": ((0, "unix"), "none"), "multifd": ((2, "tcp"), "none"), "zstd": ((2, "unix"), "zstd")}
if vm.full_size():
    WAYS |= {"main-tcp": ((0, "tcp"), "none"), "one-channel": ((1, "unix"), "none"), "zstd-tcp": ((3, "tcp"), "zstd")}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def pair(request, guest, tmp_path) -> Iterator[Pair]:
    way, compression = request.param
    both = Pair(guest, tmp_path, *way)
    both.source.qmp.execute("migrate-set-parameters", multifd_compression=compression)
    yield both
    both.clean_up()


def test_the_destination_says_that_its_host_has_no_memory(pair, tmp_path):
    with full_tmpfs(tmp_path / "memory", SIZE, LITTLE) as tmpfs:
        pair.start_target(ram=tmpfs.path / "ram")
        pair.reach("")
        pair.expect_target_gone(NO_MEMORY)
        # A channel that ends may be seen before the word on the main connection is.
        faults.back(pair, f"The destination gives up: .*{NO_MEMORY}" + (f"|{faults.LOST}" if pair.channels else ""))


def test_zeros_take_no_memory(pair, tmp_path):
    with full_tmpfs(tmp_path / "memory", SIZE, ENOUGH) as tmpfs:
        pair.start_target(ram=tmpfs.path / "ram")
        pair.reach("")
        pair.expect_status(pair.source, "completed")
        pair.expect_status(pair.target, "completed")
        pair.expect_run("target")
        pair.finish(None)


@pytest.mark.parametrize("way", [(0, "unix"), (2, "unix")])
def test_a_source_takes_no_memory_for_what_is_not_there(guest, tmp_path, way):
    """Where it looked at all pages it would die of a SIGBUS."""
    with full_tmpfs(tmp_path / "memory", SIZE, ENOUGH) as tmpfs:
        ram = tmpfs.path / "ram"
        pair = Pair(guest, tmp_path, *way, ram=ram)
        try:
            before = ram.stat().st_blocks
            pair.reach("")
            pair.expect_status(pair.source, "completed")
            pair.expect_run("target")
            assert (ram.stat().st_blocks - before) * 512 < MIB
            pair.finish(None)
        finally:
            pair.clean_up()
