"""What query-migrate tells of a move, on the way and when it is over."""

from __future__ import annotations

from typing import Any

from moving import OVER, Pair, wait_migration

PAGE = 4096
ALWAYS = {"status", "total-time", "setup-time", "ram", "x-phases-ms"}
RAM = {"transferred", "remaining", "total", "duplicate", "skipped", "normal", "normal-bytes",
       "dirty-pages-rate", "mbps", "dirty-sync-count", "page-size", "multifd-bytes", "precopy-bytes",
       "downtime-bytes", "pages-per-second", "postcopy-requests", "postcopy-bytes",
       "dirty-sync-missed-zero-copy", "x-main-bytes", "x-channels"}
WRITTEN = 8 << 20


def asked(pair: Pair, *more: str) -> dict[str, Any]:
    """With these keys and no others; what is of the RAM has its own, whatever the status."""
    answer = pair.query()
    assert set(answer) == ALWAYS | set(more), answer
    assert set(answer["ram"]) == RAM
    return answer


def test_query_migrate_tells_how_far_it_is(pair: Pair) -> None:
    pair.guest.memset(1 << 20, WRITTEN, 0x5A)
    slow = 1 << 16
    pair.set("pause-before-switchover", max_bandwidth=slow)
    target = pair.defer()
    assert set(target.qmp.execute("query-migrate")) == {"status", "socket-address"}
    pair.source.qmp.execute("migrate", uri=pair.uri)
    wait_migration(pair.source, "active")
    ram = asked(pair)["ram"]
    assert 0 < ram["remaining"] <= ram["total"] and ram["transferred"] < WRITTEN
    assert (ram["dirty-sync-count"], ram["mbps"]) == (1, 0)
    pair.source.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 0})
    wait_migration(pair.source, "pre-switchover")
    answer = asked(pair, "expected-downtime")
    assert answer["ram"]["remaining"] == 0 and answer["ram"]["mbps"] > 0
    pair.source.qmp.execute("migrate-continue", state="pre-switchover")
    assert wait_migration(pair.source, *OVER) == "completed"
    assert wait_migration(target, *OVER) == "completed"


def test_query_migrate_tells_what_a_completed_one_took(pair: Pair) -> None:
    pair.guest.memset(1 << 20, WRITTEN, 0x5A)
    target = pair.move()
    answer = asked(pair, "downtime")
    assert answer["status"] == "completed"
    assert answer["total-time"] >= answer["downtime"] >= 0
    ram = answer["ram"]
    assert (ram["page-size"], ram["total"], ram["remaining"]) == (PAGE, 64 << 20, 0)
    assert ram["normal"] >= WRITTEN // PAGE
    assert ram["normal"] + ram["duplicate"] >= ram["total"] // PAGE
    assert ram["normal-bytes"] == ram["normal"] * PAGE <= ram["transferred"] < ram["total"]
    assert ram["transferred"] == ram["x-main-bytes"] and ram["x-channels"] == []
    assert ram["mbps"] > 0 and ram["dirty-sync-count"] == 2
    target.qmp.execute("query-status")  # it takes the way apart at its next turn
    assert target.qmp.execute("query-migrate") == {"status": "completed"}


def test_query_migrate_tells_why_one_failed(pair: Pair) -> None:
    pair.source.qmp.execute("migrate", uri="unix:/no/such/folder/socket")
    assert wait_migration(pair.source, *OVER) == "failed"
    answer = asked(pair, "error-desc")
    assert answer["status"] == "failed"
    assert answer["error-desc"] == (
        "Failed to connect to '/no/such/folder/socket': No such file or directory")
    assert answer["ram"]["transferred"] == 0
