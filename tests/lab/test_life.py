"""What happens to a booted guest: reset, power button, a long stop, RAM above the PCI hole."""

import hashlib
import re

import pytest

from conftest import BIG_RAM_MIB, FILL_COPIES
from lab.guest import BUSYBOX
from lab.result import Case, LabResult

pytestmark = pytest.mark.lab_run("life")
GIB = 1 << 30


def passed(lab: LabResult, name: str) -> Case:
    outcome = lab.case(name)
    assert outcome.ok, f"{outcome.error}\n{lab.report()}"
    return outcome


def test_a_guest_reboot_resets_and_boots_again(lab: LabResult) -> None:
    data = passed(lab, "reboot").data
    assert data["banners"] == 2
    assert data["event"]["guest"] is True
    assert data["exit_status"] == 0


def test_no_reboot_turns_a_reboot_into_an_exit(lab: LabResult) -> None:
    data = passed(lab, "no_reboot").data
    assert data["banners"] == 1
    assert data["exit_status"] == 0


def test_a_stopped_guest_shows_its_state_and_prints_nothing(lab: LabResult) -> None:
    data = passed(lab, "stop_cont").data
    assert data["status_stopped"]["status"] == "paused"
    assert data["status_stopped"]["running"] is False
    assert data["printed_while_stopped"] == ""
    assert data["status_running"]["status"] == "running"


def test_monotonic_time_advances_under_a_second_across_a_10_s_stop(lab: LabResult) -> None:
    data = passed(lab, "stop_cont").data
    assert data["host_seconds"] >= 10
    running = data["host_seconds"] - 10
    assert data["guest_seconds"] - running < 1


def test_a_10_s_stop_causes_no_soft_lockup_or_stall_report(lab: LabResult) -> None:
    data = passed(lab, "stop_cont").data
    assert data["log_lines"] > 50
    assert data["complaints"] == ""
    assert not any("soft lockup" in line for line in lab.vm_lines("stop"))


def test_system_powerdown_reaches_the_guest_as_power_button(lab: LabResult) -> None:
    data = passed(lab, "power_button").data
    assert data["event"] == "POWERDOWN"
    assert data["shutdown"]["guest"] is True
    assert data["exit_status"] == 0
    assert any(line.endswith("lab: power button") for line in lab.vm_lines("stop"))


def test_ram_lies_on_both_sides_of_the_pci_hole(lab: LabResult) -> None:
    data = passed(lab, "big_ram").data
    ranges = [
        (int(a, 16), int(b, 16) + 1)
        for a, b in re.findall(r"([0-9a-f]+)-([0-9a-f]+) : System RAM", data["iomem"])
    ]
    low = [r for r in ranges if r[1] <= 0xE000_0000]
    high = [r for r in ranges if r[0] >= 4 * GIB]
    assert sorted(low + high) == sorted(ranges), "RAM inside the PCI hole"
    assert high and high[0][0] == 4 * GIB
    total = sum(end - begin for begin, end in ranges)
    assert BIG_RAM_MIB - 4 <= total / (1 << 20) <= BIG_RAM_MIB
    found = re.search(r"MemTotal: +(\d+) kB", data["meminfo"])
    assert found is not None and int(found[1]) > BIG_RAM_MIB * 1024 * 0.9


def test_ram_above_4_gib_holds_data(lab: LabResult) -> None:
    data = passed(lab, "big_ram").data
    content = BUSYBOX.read_bytes() * FILL_COPIES
    expected = hashlib.md5(content).hexdigest()
    assert data["fill"][1].split()[0] == expected
    pages = data["normal_free_before"] - data["normal_free_after"]
    assert pages * 4096 >= len(content) * 0.9, "the file does not lie above 4 GiB"
    assert data["exit_status"] == 0


def test_the_scenario_ran_to_its_end(lab: LabResult) -> None:
    assert lab.exit_status == 0, lab.report()
