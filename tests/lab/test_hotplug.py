"""Stock Debian kernels lose disks that they use, and survive; one that is deaf is told of."""

import re

from conftest import case, on_kernels

from lab.result import LabResult

PATH = "/machine/peripheral/hot"
DELETED = [{"path": f"{PATH}/virtio-backend"}, {"device": "hot", "path": PATH}]
# What a kernel says of a disk that is gone while it is written, and of nothing else.
EXPECTED = re.compile(r"\bvdc\b")


ON_KERNELS = on_kernels("hotplug")


@ON_KERNELS
def test_disks_are_pulled_and_pushed_under_fio(lab: LabResult, run: str) -> None:
    data = case(lab, "rounds")
    assert data["rounds"] == [[[0, "1\n"], DELETED, [1, "0\n"]]] * len(data["rounds"])
    assert len(data["rounds"]) >= 3
    # The other disk was written and verified all the time.
    assert data["load"] == [0, "turn\n"]
    unexpected = [line for line in data["errors"]
                  if line not in data["before"] and not EXPECTED.search(line)]
    assert unexpected == []


@ON_KERNELS
def test_a_guest_survives_the_pull_of_a_disk_that_it_has_mounted(lab: LabResult, run: str) -> None:
    data = case(lab, "mounted")
    assert data["came"] == [0, "1\n"] and data["mounted"] == [0, "0\n"]
    assert data["told"] == DELETED
    assert data["gone"] == [1, "0\n"]
    assert data["alive"] == [0, "0\nkept\n"]
    before = case(lab, "rounds")["errors"]
    unexpected = [line for line in data["errors"]
                  if line not in before and not EXPECTED.search(line)]
    assert unexpected == []
    assert data["oops"] == ""
    assert data["exit_status"] == 0


@ON_KERNELS
def test_a_guest_without_its_hotplug_driver_is_told_of(lab: LabResult, run: str) -> None:
    data = case(lab, "deaf")
    assert data["came"] == [0, "1\n"]
    assert [told["device"] for told in data["told"]] == ["hot", "hot"]
    assert all("the guest did not let it go within 5 s" in told["reason"] for told in data["told"])
    assert [row["state"] for row in data["state"]] == ["timed-out"]
    assert data["read"] == [0, "0\n"]
    assert data["exit_status"] == 0
