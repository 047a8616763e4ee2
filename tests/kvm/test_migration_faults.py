"""What becomes of a machine if something breaks while it is moved: every moment, every side, every fault.

A row is a moment at which both sides stand still because the relay between them holds a frame, what is done
to them then, and what must follow. `support/faults.py` has what is looked at after each of them.
"""

from __future__ import annotations

import signal
import time
from typing import Callable, Iterator

import pytest

from support import faults, vm
from support.faults import Pair

# How the pages travel: channels beside the main connection, transport.
BRIEF_WAYS = [(0, "unix"), (2, "tcp")]
WAYS = [(channels, transport) for channels in (0, 3) for transport in ("unix", "tcp")]
PAUSE_S = vm.sized(1, 10)

# The frames that are held, in their order; pre-switchover is a moment of its own.
UNTIL_READY = ["hello 1", "welcome 1", "channel hello 1", "channel bytes 1", "pages 1", "sync 1",
               faults.SECOND_PASS, faults.PRE_SWITCHOVER, "device 1", "end 1", "ready 1"]
WITH_ALL_CHANNELS = ["sync 1", faults.SECOND_PASS, faults.PRE_SWITCHOVER]
HAND_OVER = ["released 1", "ack 1", "go 1"]
# In status `device`, which ends with GO.
CONTINUED = [faults.CONTINUED + moment for moment in ("device 1", "end 1", "ready 1", "released 1", "ack 1")]
MOMENTS = UNTIL_READY + HAND_OVER + CONTINUED
ONLY_FULL_SIZE = ["welcome 1", "channel hello 1", "sync 1", "device 1", *CONTINUED[1:]]

BROKEN = f"checksum|{faults.LOST}"


@pytest.fixture
def pair(request, guest, tmp_path) -> Iterator[Pair]:
    both = Pair(guest, tmp_path, *request.param)
    yield both
    both.clean_up()


def cancel(pair: Pair) -> None:
    pair.source.qmp.execute("migrate_cancel")


def cancel_target(pair: Pair) -> None:
    """There is nothing to cancel: the move is the source's."""
    assert pair.target.qmp.execute("migrate_cancel") == {}


def kill_source(pair: Pair) -> None:
    pair.kill(pair.source)


def kill_target(pair: Pair) -> None:
    pair.kill(pair.target)


def stop(instance: faults.Instance, pair: Pair) -> None:
    """What is held goes on to one that hears nothing for a while."""
    with faults.standing(instance):
        if pair.held:
            pair.held.forward()
        time.sleep(PAUSE_S)  # the fault itself


def stop_source(pair: Pair) -> None:
    stop(pair.source, pair)


def stop_target(pair: Pair) -> None:
    stop(pair.target, pair)


def close(pair: Pair) -> None:
    pair.relay.main.close()


def corrupt(pair: Pair) -> None:
    pair.held.corrupt()


def truncate(pair: Pair) -> None:
    pair.held.truncate()


Fault = Callable[[Pair], None]
Outcome = Callable[[Pair, str], None]

# What follows until READY is in; and if RELEASED, ACK, GO is what was held. What the source says of it.
TABLE: dict[Fault, tuple[Outcome, Outcome, Outcome, Outcome, str]] = {
    cancel: (faults.back, faults.back, faults.back_target_kept, faults.there, ""),
    cancel_target: (faults.there, faults.there, faults.there, faults.there, ""),
    kill_source: (faults.lost, faults.lost, faults.there_by_cont, faults.there_by_cont, ""),
    kill_target: (faults.back, faults.back, faults.back, faults.here_by_cont, faults.LOST),
    stop_source: (faults.there, faults.there, faults.there, faults.there, ""),
    stop_target: (faults.there, faults.there, faults.there, faults.there, ""),
    close: (faults.back, faults.back, faults.back_target_kept, faults.there_by_cont, faults.LOST),
    corrupt: (faults.back, faults.back, faults.back_target_kept, faults.there_by_cont, BROKEN),
    truncate: (faults.back, faults.back, faults.back_target_kept, faults.there_by_cont, faults.LOST),
}


def ways(moment: str, number: int) -> list[tuple[int, str]]:
    """Those in which it comes; at the short size one of them, in turns."""
    every = WAYS if vm.full_size() and moment not in CONTINUED else BRIEF_WAYS
    if moment.startswith("channel"):
        every = [way for way in every if way[0]]
    if moment == "pages 1":
        every = [way for way in every if not way[0]]
    return every if vm.full_size() else [every[number % len(every)]]


def named(way: tuple[int, str], *names: str) -> str:
    return "-".join([*names, way[1], "multifd" if way[0] else "main"]).replace(" ", "-")


def rows() -> Iterator:
    for row, (fault, (*outcomes, error)) in enumerate(TABLE.items()):
        for number, moment in enumerate(MOMENTS):
            if moment == faults.PRE_SWITCHOVER and fault in (corrupt, truncate):
                continue  # nothing is on its way
            if moment in ONLY_FULL_SIZE and not vm.full_size():
                continue
            frame = moment.removeprefix(faults.CONTINUED)
            outcome = outcomes[HAND_OVER.index(frame) + 1 if frame in HAND_OVER else 0]
            for way in ways(moment, number + row):
                yield pytest.param(way, moment, fault, outcome, error,
                                   id=named(way, moment, fault.__name__))


@pytest.mark.parametrize("pair,moment,fault,outcome,error", rows(), indirect=["pair"])
def test_fault(pair, moment, fault, outcome, error):
    pair.reach(moment)
    fault(pair)
    outcome(pair, error)


def channel_rows() -> Iterator:
    """Each of them, while they are there."""
    for moment in ["channel hello 1", "channel bytes 1", *WITH_ALL_CHANNELS]:
        for way in WAYS if vm.full_size() else BRIEF_WAYS:
            for channel in range(way[0]):
                if not vm.full_size() and moment in ONLY_FULL_SIZE:
                    continue
                if moment not in WITH_ALL_CHANNELS and channel > 0:
                    continue  # it may not have come yet
                yield pytest.param(way, moment, channel, id=named(way, moment, f"channel{channel}"))


@pytest.mark.parametrize("pair,moment,channel", channel_rows(), indirect=["pair"])
def test_one_channel_closed(pair, moment, channel):
    pair.reach(moment)
    pair.relay.channel(channel).close()
    if pair.held:
        pair.held.forward()
    faults.back(pair, f"{faults.LOST}|The destination gives up")


# --- While it is cancelling -------------------------------------------------------------------------

SHORT_PAUSE_S = 1  # the source has patience for five


def wait_a_while(_: Pair) -> None:
    time.sleep(SHORT_PAUSE_S)  # the fault itself


def stop_source_a_while(pair: Pair) -> None:
    with faults.standing(pair.source):
        wait_a_while(pair)


CANCELLING: dict[Fault, Outcome] = {
    kill_source: faults.there_by_cont,
    kill_target: faults.back,
    stop_source_a_while: faults.back_target_kept,
    wait_a_while: faults.back_target_kept,
}


@pytest.mark.parametrize("pair", WAYS if vm.full_size() else BRIEF_WAYS[:1], indirect=True, ids=lambda way: named(way))
@pytest.mark.parametrize("fault,outcome", CANCELLING.items(), ids=lambda it: it.__name__)
def test_fault_while_cancelling(pair, fault, outcome):
    """The source wants its locks back, and a destination that stands still has them."""
    pair.reach("ack 1")
    with faults.standing(pair.target):
        pair.source.qmp.execute("migrate_cancel")
        pair.source.wait_migration("cancelling")
        assert pair.source.qmp.execute("query-migrate")["status"] == "cancelling"
        fault(pair)
    outcome(pair, "")


@pytest.mark.parametrize("pair", [BRIEF_WAYS[0]], indirect=True, ids=["unix"])
def test_the_witness_sees_two_that_run(pair):
    """What all rows above stand on."""
    pair.start("other", disk=False)
    for who in ("source", "other", "source", "other"):
        assert pair.witness.beats(who)
    assert len(pair.witness.runners()) > 2
