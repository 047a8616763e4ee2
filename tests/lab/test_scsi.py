"""Stock Debian kernels use virtio-scsi: their root, units that come and go, adapters too; CDs."""

import hashlib
import re

from conftest import DISCS, case, on_kernels

from lab.result import LabResult

DATA_SECTORS = 32 << 11


ON_DISKS, ON_CDS = on_kernels("scsi"), on_kernels("scsi_cd")


def path(name: str) -> str:
    return f"/machine/peripheral/{name}"


def deleted(name: str) -> dict:
    return {"device": name, "path": path(name)}


def of_scsi(lines: list[str]) -> list[str]:
    return [line for line in lines if re.search(r"\b(sd[a-z]*|sr\d?|scsi\d*|virtio\d*)\b", line)]


def unexpected(data: dict, places: list[tuple[int, int]], disks: set[str]) -> list[str]:
    """What the kernel complains of but the loss of those disks: it names them in either way."""
    names = [rf"\b{disk}\b" for disk in sorted(disks)]
    names += [rf"\bsd \d+:0:{target}:{lun}:" for target, lun in places]
    expected = re.compile("|".join(names))
    return [line for line in data["errors"]
            if line not in data["before"] and not expected.search(line)]


# --- Disks --------------------------------------------------------------------------------------


@ON_DISKS
def test_the_guest_runs_from_a_scsi_disk(lab: LabResult, run: str) -> None:
    data = case(lab, "view")
    root, other = data["disks"][1].split()
    assert data["root"] == [0, f"/dev/{root}\n"]
    assert {root, other} == {"sda", "sdb"}
    assert of_scsi(data["boot"]) == []


@ON_DISKS
def test_the_guest_sees_what_the_disk_says_of_itself(lab: LabResult, run: str) -> None:
    data = case(lab, "view")
    named = [data[name][1].strip() for name in ("vendor", "model", "rev", "type")]
    assert named == ["LAB", "TURNTABLE", "2.5", "0"]
    assert data["serial"] == [0, "rhea-data-1\n"]
    assert "5000c50015ea71ac" in data["identification"][1]
    assert data["sectors"] == [0, f"{DATA_SECTORS}\n"]
    assert data["queues"] == [0, "2\n"]
    assert data["cache"] == [0, "write back\nwrite back\n"]
    assert data["provisioning"] == [0, "unmap\n"]
    assert int(data["discard"][1]) > 0 and int(data["zeroes"][1]) > 0


@ON_DISKS
def test_fio_reads_back_what_it_wrote_through_both_queues(lab: LabResult, run: str) -> None:
    data = case(lab, "verify")
    assert data["fio"] == [0, ""]
    [stats] = [row["stats"] for row in data["stats"] if row.get("qdev") == "data"]
    assert stats["wr_bytes"] >= 16 << 20 and stats["rd_bytes"] >= 16 << 20
    counts = [sum(int(word) for word in line.split()[1:3])
              for line in data["interrupts"][1].splitlines()]
    assert len(counts) == 2 and min(counts) > 0, data["interrupts"]


@ON_DISKS
def test_a_flipped_bit_in_the_image_fails_the_verification(lab: LabResult, run: str) -> None:
    data = case(lab, "verify")
    status, words = data["corrupt"]
    assert status != 0 and "verify failed at file /dev/sd" in words
    assert data["repaired"] == [0, ""]


@ON_DISKS
def test_the_guest_sees_a_live_resize(lab: LabResult, run: str) -> None:
    data = case(lab, "resize")
    assert data["grown"] == [0, "grown\n"]
    assert data["last"] == [0, "end\n"]


@ON_DISKS
def test_a_discard_gives_the_images_space_back(lab: LabResult, run: str) -> None:
    data = case(lab, "discard")
    assert data["status"] == [0, ""]
    assert data["before"] - data["after"] >= 8 << 20


# --- Hot-plug -----------------------------------------------------------------------------------


PLACES = [(1, 0), (0, 2), (3, 200)]


@ON_DISKS
def test_units_are_pulled_and_pushed_under_fio(lab: LabResult, run: str) -> None:
    data = case(lab, "units")
    assert len(data["rounds"]) >= 3
    for row in data["rounds"]:
        assert row["told"] == [deleted("unit")]
        assert re.fullmatch("sd[c-z]", row["disk"])
        assert row["fio"] not in ("", "0"), "fio did not notice"
        assert row["listed"] == [1, "0\n"]
    # The other disk was written and verified all the time.
    assert data["load"] == [0, "turn\n"]
    assert unexpected(data, PLACES, {row["disk"] for row in data["rounds"]}) == []


@ON_DISKS
def test_adapters_are_pulled_with_their_units_under_fio(lab: LabResult, run: str) -> None:
    data = case(lab, "adapters")
    assert len(data["rounds"]) >= 3
    told = [deleted("far1"), deleted("far0"), {"path": f"{path('far')}/virtio-backend"},
            deleted("far")]
    for row in data["rounds"]:
        assert row["told"] == told
        assert [gone["listed"] for gone in row["gone"]] == [[1, "0\n"]] * 2
        assert row["gone"][0]["fio"] not in ("", "0"), "fio did not notice"
    assert data["load"] == [0, "turn\n"]
    disks = {disk for row in data["rounds"] for disk in row["disks"]}
    assert unexpected(data, [(8, 0), (9, 3)], disks) == []


@ON_DISKS
def test_a_guest_survives_the_pull_of_a_unit_that_it_has_mounted(lab: LabResult, run: str) -> None:
    data = case(lab, "mounted")
    assert data["mounted"] == [0, "0\n"]
    assert data["told"] == [deleted("unit")]
    assert data["gone"] == [1, "0\n"]
    assert data["alive"] == [0, "0\nkept\n"]
    assert unexpected(data, [(1, 0)], {data["disk"]}) == []
    assert data["oops"] == [1, ""]
    assert data["exit_status"] == 0


# --- CDs ----------------------------------------------------------------------------------------


def digest(disc: str) -> list:
    return [0, hashlib.md5(DISCS[disc]["text"].encode()).hexdigest() + "\n"]


def complaints(data: dict) -> list[str]:
    """6.12 says so of the mount that finds no medium; 6.1 says nothing."""
    return [line for line in data["errors"] if line.strip() != "/dev/sr0: Can't open blockdev"]


def moved(*to: bool) -> list[dict]:
    return [{"device": "", "id": "cd", "tray-open": is_open} for is_open in to]


def drive(medium: str | None, *, locked: bool = False, tray_open: bool = False) -> dict:
    """What query-block shows."""
    return {"locked": locked, "tray_open": tray_open, "medium": medium}


@ON_CDS
def test_the_guest_reads_the_disc_that_is_in(lab: LabResult, run: str) -> None:
    data = case(lab, "first")
    assert data["model"][1].split() == ["RHEA", "RHEA", "CD-ROM"]
    for ability in ("close tray", "open tray", "lock tray"):
        assert f"Can {ability}: 1" in data["abilities"][1]
    assert data["mounted"] == [0, ""]
    assert data["label"] == [0, DISCS["one"]["label"]]
    assert data["digest"] == digest("one")
    assert data["write"][0] != 0
    assert of_scsi(data["boot"]) == [] and data["errors"] == []


@ON_CDS
def test_a_guest_that_has_it_mounted_is_asked_for_it(lab: LabResult, run: str) -> None:
    data = case(lab, "locked")
    assert data["drive"] == drive("one", locked=True)
    assert "is locked and force was not specified" in (data["refused"] or "")
    assert data["asked"] == [0, "asked\n"]
    assert data["digest"] == digest("one")
    assert data["untold"] == []


@ON_CDS
def test_an_ejected_disc_is_gone(lab: LabResult, run: str) -> None:
    data = case(lab, "ejected")
    assert data["umount"] == [0, ""]
    assert data["unlocked"] == drive("one")
    assert data["opened"] == moved(True)
    assert data["drive"] == drive(None, tray_open=True)
    assert data["mount"][0] != 0 and "No medium found" in data["mount"][1]
    assert data["shut"] == moved(False)


@ON_CDS
def test_the_guest_reads_the_disc_that_comes_next(lab: LabResult, run: str) -> None:
    data = case(lab, "second")
    assert data["moved"] == moved(True, False)
    assert data["drive"] == drive("two")
    assert data["mounted"] == [0, ""]
    assert data["label"] == [0, DISCS["two"]["label"]]
    assert data["digest"] == digest("two")
    assert data["umount"] == [0, ""]
    assert complaints(data) == []


@ON_CDS
def test_the_guest_opens_the_tray_and_shuts_it(lab: LabResult, run: str) -> None:
    data = case(lab, "guest")
    assert data["eject"] == [0, ""]
    assert data["opened"] == moved(True)
    assert data["open"] == drive("two", tray_open=True)
    assert data["load"] == [0, ""]
    assert data["shut"] == moved(False)
    assert data["drive"] == drive("two")
    assert data["mounted"] == [0, ""]
    assert data["label"] == [0, DISCS["two"]["label"]]
    assert complaints(data) == []


@ON_CDS
def test_a_guest_survives_the_loss_of_a_disc_that_it_has_mounted(lab: LabResult, run: str) -> None:
    data = case(lab, "forced")
    assert data["opened"] == moved(True)
    assert data["read"][0] != 0
    assert data["umount"] == [0, ""]
    assert data["mounted"] == [0, ""]
    assert data["label"] == [0, DISCS["one"]["label"]]
    assert data["digest"] == digest("one")
    assert data["alive"] == [0, "kept\n"]
    assert [line for line in data["errors"] if "sr0" not in line] == []
    assert data["oops"] == [1, ""]
    assert data["exit_status"] == 0
