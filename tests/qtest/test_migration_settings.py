"""What capabilities, parameters, and what is said to a destination that waits, change of a move."""

from __future__ import annotations

import os
import pathlib
import random
from typing import Iterator

import pytest
from fds import answer
from hotplug import refused
from moving import OVER, Pair, status, switch, wait_migration
from qtest import Machine

from support.image_lock import ImageLock

HERE, THERE = "8d7c4ee6-0c55-4dd5-a4ab-4e8ad2bb4f6b", "00000000-1111-2222-3333-444444444444"


def told(machine: Machine) -> list[str | int]:
    """By events so far, in order: statuses of a migration, numbers of passes, names of others."""
    machine.qmp.execute("query-status")
    return [event.get("data", {}).get("status") or event.get("data", {}).get("pass") or event["event"]
            for event in machine.qmp.events]


def wait_over(machine: Machine) -> None:
    """By its log (-d migration=info): it may send no events."""
    machine.process.wait_for_stderr("completed\n")


# --- validate-uuid ------------------------------------------------------------------------------


@pytest.fixture
def with_uuid(tmp_path: pathlib.Path) -> Iterator[Pair]:
    with Pair(tmp_path, extra=("-uuid", HERE)) as both:
        yield both


@pytest.mark.parametrize("asked", ["both", "source", "destination"])
def test_another_uuid_is_refused_before_anything_stops(with_uuid: Pair, asked: str) -> None:
    switch(with_uuid.source, validate_uuid=asked != "destination")
    here = asked != "source"
    difference = f"The UUID differs: {HERE} there, {THERE} here"
    target = with_uuid.defer("-uuid", THERE, validate_uuid=here)
    with_uuid.source.qmp.execute("migrate", uri=with_uuid.uri)
    assert wait_migration(with_uuid.source, *OVER) == "failed"
    assert with_uuid.query()["error-desc"] == f"The destination refuses the machine: {difference}"
    assert target.process.wait() == 1
    assert f"load of migration failed: {difference}" in target.process.stderr
    assert status(with_uuid.source) == "running"
    assert "STOP" not in [event["event"] for event in with_uuid.source.qmp.events]
    target = with_uuid.defer("-uuid", HERE.upper(), validate_uuid=here)
    with_uuid.source.qmp.execute("migrate", uri=with_uuid.uri)
    assert wait_migration(target, *OVER) == "completed"


def test_another_uuid_does_not_matter_unless_asked_for(with_uuid: Pair) -> None:
    target = with_uuid.defer("-uuid", THERE)
    with_uuid.source.qmp.execute("migrate", uri=with_uuid.uri)
    assert wait_migration(target, *OVER) == "completed"
    assert target.qmp.execute("query-uuid") == {"UUID": THERE}


# --- events -------------------------------------------------------------------------------------

LOGGED = ("-d", "migration=info")


def test_without_the_capability_only_stops_and_resumes_are_told(tmp_path: pathlib.Path) -> None:
    with Pair(tmp_path, extra=LOGGED) as pair:
        switch(pair.source, events=False)
        target = pair.defer(*LOGGED, events=False)
        pair.source.qmp.execute("migrate", uri=pair.uri)
        wait_over(pair.source)
        wait_over(target)
        assert (told(pair.source), told(target)) == (["STOP"], ["RESUME"])


def test_by_default_a_destination_tells_all_from_the_setup_on(tmp_path: pathlib.Path) -> None:
    with Pair(tmp_path, extra=LOGGED) as pair:
        target = pair.start("-incoming", "defer", *LOGGED)
        assert told(target) == []
        target.qmp.execute("migrate-incoming", uri=pair.uri)
        assert [event["data"] for event in target.qmp.events] == [{"status": "setup"}], (
            "not before the answer")
        pair.source.qmp.execute("migrate", uri=pair.uri)
        wait_over(pair.source)
        wait_over(target)
        assert told(pair.source) == ["setup", 1, "active", "STOP", 2, "completed"]
        assert told(target) == ["setup", "active", "RESUME", "completed"]


def test_events_are_a_choice_of_each_side(tmp_path: pathlib.Path) -> None:
    with Pair(tmp_path, extra=LOGGED) as pair:
        switch(pair.source, events=False)
        target = pair.defer()
        pair.source.qmp.execute("migrate", uri=pair.uri)
        assert wait_migration(target, *OVER) == "completed"
        wait_over(pair.source)
        assert told(pair.source) == ["STOP"]


# --- -S, cont and stop at the destination -------------------------------------------------------


@pytest.fixture
def lock(pair: Pair) -> Iterator[ImageLock]:
    """A stranger's, of the image that both instances have."""
    stranger = ImageLock(pair.image)
    yield stranger
    stranger.close()


def test_started_stopped_it_arrives_paused_and_locks_nothing(pair: Pair, lock: ImageLock) -> None:
    assert not lock.is_free()
    target = pair.defer("-S")
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(target, *OVER) == "completed"
    assert wait_migration(pair.source, *OVER) == "completed"
    assert (status(target), status(pair.source)) == ("paused", "postmigrate")
    assert lock.is_free() and lock.take()
    assert f"It is held by process {os.getpid()} " in refused(target, "cont")
    assert status(target) == "paused"
    lock.give_back()
    target.qmp.execute("cont")
    assert status(target) == "running" and not lock.is_free()


@pytest.mark.parametrize("started", ["stopped", "running"])
@pytest.mark.parametrize("said,arrives", [(["cont"], "running"), (["stop"], "paused"),
                                          (["cont", "stop"], "paused"),
                                          (["stop", "cont"], "running")])
def test_what_was_said_last_on_the_way_is_how_it_arrives(pair: Pair, lock: ImageLock, started: str,
                                                         said: list[str], arrives: str) -> None:
    target = pair.defer(*(["-S"] if started == "stopped" else []))
    for command in said:
        target.qmp.execute(command)
        assert status(target) == "inmigrate"
    pair.source.qmp.execute("migrate", uri=pair.uri)
    assert wait_migration(target, *OVER) == "completed"
    assert status(target) == arrives
    assert lock.is_free() == (arrives == "paused")


# --- multifd-zstd-level, migrate_cancel ---------------------------------------------------------


@pytest.mark.parametrize("level", [21, -1])
def test_a_level_out_of_range_is_refused_and_changes_nothing(pair: Pair, level: int) -> None:
    before = pair.source.qmp.execute("query-migrate-parameters")
    assert ("Parameter 'multifd_zstd_level' expects a value between 0 and 20"
            in refused(pair.source, "migrate-set-parameters", **{"multifd-zstd-level": level}))
    assert pair.source.qmp.execute("query-migrate-parameters") == before


def prose(size: int) -> bytes:
    """Text that is the better compressed the harder one looks."""
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9)))
             for _ in range(4000)]
    text = " ".join(dice.choices(words, weights=[1 / (n + 1) for n in range(len(words))],
                                 k=size // 3))
    assert len(text) >= size
    return text[:size].encode()


def test_a_higher_level_has_pages_take_fewer_bytes(pair: Pair) -> None:
    """The same pages, to the switch and no further: they are sent at one level after the other."""
    text = prose(2 << 20)
    pair.guest.b64write(1 << 20, text)

    def page_bytes(level: int) -> int:
        pair.set("multifd", "pause-before-switchover", multifd_channels=1,
                 multifd_compression="zstd", multifd_zstd_level=level)
        target = pair.await_it()
        pair.source.qmp.execute("migrate", uri=pair.uri)
        wait_migration(pair.source, "pre-switchover")
        [sent] = pair.query()["ram"]["x-channels"]
        pair.source.qmp.execute("migrate_cancel")
        assert wait_migration(pair.source, *OVER) == "cancelled"
        assert target.process.wait() == 1  # the address is free again
        return sent

    quick, thorough = page_bytes(1), page_bytes(20)
    assert thorough < quick * 0.95 < len(text) * 0.95, (quick, thorough)
    assert page_bytes(1) == quick
    switch(pair.source, pause_before_switchover=False)
    pair.move()
    assert pair.guest.b64read(1 << 20, len(text)) == text


def test_a_cancel_is_told_before_it_is_answered_and_once(pair: Pair) -> None:
    pair.set("pause-before-switchover")
    pair.await_it()
    pair.source.qmp.execute("migrate", uri=pair.uri)
    wait_migration(pair.source, "pre-switchover")
    assert pair.source.qmp.events == []
    # A second one, before the first can have come to its end.
    pair.source.qmp.line.send('{"execute": "migrate_cancel"}\n' * 2)
    assert answer(pair.source.qmp) == {}
    assert pair.source.qmp.events[0]["data"] == {"status": "cancelling"}, "not before the answer"
    assert answer(pair.source.qmp) == {}
    assert pair.query()["status"] in ("cancelling", "cancelled")
    while "cancelled" not in told(pair.source):
        pair.source.qmp.events.append(pair.source.qmp.next_event())
    assert told(pair.source) == ["cancelling", "RESUME", "cancelled"]
    pair.source.qmp.execute("migrate_cancel")
    assert told(pair.source) == ["cancelling", "RESUME", "cancelled"]
