"""What a guest saw flushed outlives the VMM, killed, and the power of the machine below it, cut."""

import re

import pytest

import power_cut
from conftest import FLUSHES, case
from lab.result import LabResult

pytestmark = pytest.mark.lab_run("power_cut")
# ext4 writes the totals in its superblock at unmount only, and counts again at mount.
TOTALS = re.compile(
    r"^Free (blocks|inodes) count wrong \(\d+, counted=\d+\)\.\nFix\? no$", re.MULTILINE
)


def lost(lab: LabResult, name: str, disk: str, *guests: str) -> set[int]:
    """Records that a guest saw flushed and that are not there, whole, afterwards."""
    data = case(lab, name)
    reported = set.union(*(power_cut.flushed(lab, label, disk) for label in guests))
    assert len(reported) >= FLUSHES * len(guests), "too few for the test to mean anything"
    return reported - set(data["files"] if disk == "vda" else data["disks"][disk])


@pytest.mark.parametrize("name", ["vmm_killed", "power_cut"])
def test_the_guests_file_system_is_clean_after_its_journals_replay(
    lab: LabResult, name: str
) -> None:
    data = case(lab, name)
    status, words = data["journal"]
    assert status in (0, 1) and "recovering journal" in words
    assert "Pass 1" not in words, "it was to replay the journal, not to repair"
    status, words = data["check"]
    assert status in (0, 4) and "Pass 5" in words
    assert "? no" not in TOTALS.sub("", words), words


@pytest.mark.parametrize("disk", ["vda", "vdb"])
def test_a_power_cut_loses_nothing_that_was_flushed(lab: LabResult, disk: str) -> None:
    assert lost(lab, "power_cut", disk, "killed", "cut") == set()


def test_without_flushes_the_same_power_cut_loses_records(lab: LabResult) -> None:
    """The twin that must fail: the same guest, cut and check, and flushes that do nothing."""
    assert lost(lab, "power_cut", "vdc", "cut") != set()


@pytest.mark.parametrize("disk", power_cut.DISKS)
def test_a_killed_vmm_loses_nothing_that_was_flushed(lab: LabResult, disk: str) -> None:
    """Also where flushes do nothing: the host's page cache outlives the process."""
    assert lost(lab, "vmm_killed", disk, "killed") == set()


def test_a_killed_vmm_gives_its_images_free(lab: LabResult) -> None:
    data = case(lab, "vmm_killed")
    assert data["status"] == -9
    status, words = data["lock_held"]
    assert status == 1 and 'Failed to get "write" lock' in words
    status, words = data["lock_free"]
    assert status == 0 and "lock" not in words
