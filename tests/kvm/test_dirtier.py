"""The guest of the migration tests: what it promises of its memory holds wherever it is stopped."""

from __future__ import annotations

from support import vm
from support.dirtier import PAGE, UNIT, check_steps, read_area

STOPS = vm.sized(5, 100)


def test_pages_differ_by_one_step_and_never_go_back(guest, tmp_path):
    ram = tmp_path / "ram"
    process, monitor = guest.with_qmp(
        "dirtier", "-machine", "memory-backend=ram", "-debugcon", "stdio",
        "-object", f"memory-backend-file,id=ram,size=64M,mem-path={ram},share=on",
        serial="null", append="1")
    before = [0] * (UNIT // PAGE)
    for _ in range(STOPS):
        seen = process.stdout.count("\n")
        while process.stdout.count("\n") < seen + 3:  # heartbeats
            process.wait_for("\n")
        monitor.execute("stop")
        first, last = read_area(ram, UNIT)
        check_steps(first, last)
        assert all(now >= then for now, then in zip(first, before))
        before = first
        monitor.execute("cont")
        process.drain()
    assert before[-1] > 0
    lines = process.stdout.split("\n")[:-1]
    assert all(len(line) == 8 for line in lines)
    numbers = [int(line, 16) for line in lines]
    assert numbers == sorted(set(numbers))
