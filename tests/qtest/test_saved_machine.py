"""scripts/saved_state.py, on machines that the real binary has saved, whole and damaged."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from qtest import Machine
from support import vm
from virtio import SECTOR, find_disks

sys.path.insert(0, str(vm.ROOT))

from scripts import saved_state  # noqa: E402

SCRIPT = vm.ROOT / "scripts" / "saved_state.py"
LINE_CONTROL, LINE_SCRATCH = 0x3FB, 0x3FF
PAGE, RAM_BYTES, WRITTEN_PAGES = 4096, 4 << 20, 5
DEVICES = {  # of the machine below: path -> kind
    "accelerator": "qtest", "i8042": "i8042", "rtc": "mc146818", "port92": "port92",
    "acpi-pm": "acpi-pm", "pci-hotplug": "acpi-pci-hotplug", "serial0": "serial-16550",
    "reset-cf9": "cf9", "pci-host": "pci-host", "pci/02.0": "virtio-blk-pci",
    "pci/03.0": "virtio-scsi-pci", "pci/03.0/scsi/0:0:0": "scsi-hd", "run-state": "run-state"}


@dataclasses.dataclass
class Outcome:
    status: int
    out: str
    error: str


class Saved:
    """A file that a machine was saved to, and what the script says of it."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        self.content = file.read_bytes()

    def print(self, *arguments: str) -> Any:
        done = subprocess.run([SCRIPT, self.file, *arguments], capture_output=True, text=True,
                              timeout=vm.PATIENCE_S, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout if "--summary" in arguments else json.loads(done.stdout)


def save(folder: pathlib.Path, uri: str, page_checksum: bool) -> None:
    """A machine with disks of both kinds, in which a driver has left its traces."""
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with Machine(folder, "-m", f"{RAM_BYTES >> 20}M",
                 "-blockdev", f"driver=file,filename={image},node-name=d0",
                 "-device", "virtio-blk-pci,drive=d0,num-queues=2,addr=2",
                 "-blockdev", "driver=null-co,size=1M,node-name=d1",
                 "-device", "virtio-scsi-pci,id=scsi0,addr=3",
                 "-device", "scsi-hd,drive=d1,bus=scsi0.0") as machine:
        machine.outb(LINE_SCRATCH, 0xA5)
        machine.outb(LINE_CONTROL, 0x1B)
        machine.outb(0x70, 0x5A)
        machine.outb(0x71, 0xC3)
        [disk] = find_disks(machine)
        queues = disk.bring_up(queues=2)
        disk.write_sectors(queues[1], 7, b"saved".ljust(SECTOR, b"."))
        machine.memset(RAM_BYTES - WRITTEN_PAGES * PAGE, WRITTEN_PAGES * PAGE, 0x5A)
        machine.qmp.execute("migrate-set-parameters", **{"x-page-checksum": page_checksum})
        machine.qmp.execute("migrate", uri=uri)
        while (status := machine.qmp.wait_event("MIGRATION")["status"]) != "completed":
            assert status not in ("failed", "cancelled"), machine.qmp.execute("query-migrate")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """With checksums over the pages, so that each byte of the file is covered by one."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, f"file:{folder / 'machine'}", page_checksum=True)
    return Saved(folder / "machine")


def test_a_saved_machine_is_printed_as_it_was(saved: Saved) -> None:
    found = saved.print()
    assert found["length"] == len(saved.content)
    machine = found["hello"]["machine"]
    assert (machine["machine"], machine["accelerator"], machine["cpus"]) == ("pc", "qtest", 1)
    assert machine["ram"] == [{"name": "pc.ram", "size": RAM_BYTES}]
    assert {path: device["kind"] for path, device in found["devices"].items()} == DEVICES
    states = {path: device["state"] for path, device in found["devices"].items()}
    assert (states["serial0"]["scratch"], states["serial0"]["line_control"]) == (0xA5, 0x1B)
    assert bytes.fromhex(states["rtc"]["memory"])[0x5A] == 0xC3
    assert states["run-state"] == {"state": "running"}
    [section] = states["accelerator"]["sections"]
    assert section["name"] == "vm-clock" and section["state"]["nanoseconds"] >= 0
    first, second = states["pci/02.0"]["function"]["virtio"]["queues"]
    assert (first["enabled"], first["next_available"]) == (True, 0)
    assert (second["enabled"], second["next_available"]) == (True, 1)
    assert re.match("queues=2x256 features=0x[0-9a-f]+ block_size=512",
                    found["devices"]["pci/02.0"]["settings"])


def test_pages_are_counted_and_the_end_says_the_same(saved: Saved) -> None:
    found = saved.print()
    [ram] = found["ram"]
    assert ram["normal-pages"] >= WRITTEN_PAGES
    assert ram["normal-pages"] + ram["zero-pages"] == found["end"]["pages"] >= RAM_BYTES // PAGE
    assert found["pages"]["bytes"] == ram["normal-pages"] * PAGE < found["length"]
    assert found["pages"]["checked-frames"] == found["pages"]["frames"] > 0
    assert [sync["pass"] for sync in found["syncs"]] == list(range(1, len(found["syncs"]) + 1))
    assert found["end"]["devices"] == len(DEVICES) and found["end"]["runs"] is True


def test_one_device_or_a_few_lines_are_printed_if_asked_for(saved: Saved) -> None:
    assert saved.print("--device", "serial0") == saved.print()["devices"]["serial0"]
    lines = saved.print("--summary").splitlines()
    assert lines[0].startswith("Rhea ") and "machine pc, qtest, 1 CPUs" in lines[0]
    assert [line.split()[0] for line in lines[-len(DEVICES):]] == list(DEVICES)


def test_what_a_command_got_is_read_from_a_pipe(tmp_path: pathlib.Path) -> None:
    """Without checksums over the pages, whose bytes are skipped then."""
    save(tmp_path, f"exec:cat > {tmp_path / 'machine'}", page_checksum=False)
    with open(tmp_path / "machine", "rb") as file, \
            subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        done = subprocess.run([SCRIPT], stdin=cat.stdout, capture_output=True, text=True,
                              timeout=vm.PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found == Saved(tmp_path / "machine").print()
    assert found["pages"]["checked-frames"] == 0 < found["pages"]["frames"]
    assert found["devices"]["serial0"]["state"]["scratch"] == 0xA5


# --- Damage --------------------------------------------------------------------------------------


@pytest.fixture
def analyse(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
            capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the script in this process: an exception that it does not catch fails the test."""
    def run(content: bytes) -> Outcome:
        (tmp_path / "copy").write_bytes(content)
        monkeypatch.setattr(sys, "argv", ["saved_state.py", str(tmp_path / "copy")])
        return Outcome(saved_state.main(), *capsys.readouterr())
    return run


def check_refused(outcome: Outcome, last: int) -> None:
    """One line, and of an offset that is not behind what is wrong."""
    assert (outcome.status, outcome.out) == (1, ""), outcome
    told = re.fullmatch(r"saved_state: offset (\d+): [^\n]+\n", outcome.error)
    assert told is not None and int(told[1]) <= last, outcome


def sample(saved: Saved) -> list[int]:
    """The places around each frame that is listed, and others all over the file."""
    found = saved.print()
    frames = [entry["offset"] for entry in
              (*found["syncs"], *found["devices"].values(), found["end"])]
    offsets = {at + d for at in (0, *frames) for d in (-4, -1, 0, 1, 4, 6, 8, 12, 15, 16, 17, 40)}
    offsets |= set(range(0, found["length"], vm.sized(199, 29)))
    return sorted(at for at in offsets if 0 <= at < found["length"])


def test_a_file_that_ends_early_is_refused_wherever_that_is(saved: Saved, analyse: Any) -> None:
    assert analyse(saved.content).status == 0
    for size in sample(saved):
        check_refused(analyse(saved.content[:size]), size)


def test_any_byte_that_is_another_is_noticed(saved: Saved, analyse: Any) -> None:
    for at in sample(saved):
        damaged = bytearray(saved.content)
        damaged[at] ^= 0xFF
        check_refused(analyse(bytes(damaged)), at)


@pytest.mark.parametrize("change, message", [
    (lambda whole: whole[:100], "offset 100: the file ends in the payload of a frame 'hello' "
                                "(from offset 16 on)"),
    (lambda whole: b"", "offset 0: the file is empty"),
    (lambda whole: whole + b"more", 'offset {length}: there is no frame: it would begin with "RHEA"'),
    (lambda whole: whole[:8] + b"\x01" + whole[9:],
     "offset 0: the header of a frame has another checksum than it says"),
    (lambda whole: b"%PDF" + whole[4:], None),
], ids=["cut", "empty", "more", "header", "other"])
def test_the_command_says_in_one_line_what_is_wrong(
        saved: Saved, tmp_path: pathlib.Path, change: Any, message: str | None) -> None:
    """And of a pipe the same as of a file."""
    copy = tmp_path / "copy"
    copy.write_bytes(change(saved.content))
    for arguments, stdin in (([copy], None), ([], copy.read_bytes())):
        done = subprocess.run([SCRIPT, *arguments], input=stdin, capture_output=True,
                              timeout=vm.PATIENCE_S, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        if message is None:  # it begins as a field might
            assert re.fullmatch(rb"saved_state: [^\n]*\n", done.stderr), done.stderr
        else:
            expected = message.format(length=len(saved.content))
            assert done.stderr.decode() == f"saved_state: {expected}\n"


def test_a_device_that_is_not_there_is_named_with_those_that_are(saved: Saved) -> None:
    done = subprocess.run([SCRIPT, saved.file, "--device", "serial7"], capture_output=True, text=True,
                          timeout=vm.PATIENCE_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", f"saved_state: there is no device 'serial7'; there are: {', '.join(DEVICES)}\n")
