"""The lab's own behaviour: decisions, artefacts, and that nothing survives a bad run."""

import json
import os
import re
import select
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from lab import guest, host, kernel, runner, tsc
from lab.bzimage import extract_vmlinux
from lab.cpio import CpioArchive
from lab.errors import LabError
from lab.inside.pump import Pump, WaitTimeout
from lab.inside.qmp import QmpClient, QmpError
from lab.vmm import Vmm
from perf.stats import Series, verdict

DIRECT = host.Choice("direct", "the test says so")
NESTED = host.Choice("lab", "the test says so")
SHELL = {"vmm": Vmm("sh", Path("/bin/sh"))}


def scenario(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "scenario.py"
    path.write_text(
        "import os, signal\n\ndef run(ctx):\n" + "".join(f"    {l}\n" for l in body.splitlines())
    )
    return path


def ends(pid: int) -> bool:
    """Waits for a process that is not our child to be gone (or a zombie that init will reap)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ready, _, _ = select.select([fd], [], [], 20)
    os.close(fd)
    return bool(ready)


@pytest.mark.parametrize(
    ("flags", "kvm", "where"),
    [
        ("fpu vmx sse2", True, "direct"),
        ("fpu svm", True, "direct"),
        ("fpu sse2", True, "lab"),
        ("fpu svm_lock xsvm", True, "lab"),
        ("fpu svm", False, "lab"),
    ],
)
def test_the_place_follows_from_the_cpu_and_from_kvm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, kvm: bool, where: str
) -> None:
    monkeypatch.delenv("RHEA_LAB", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    device = Path("/dev/null") if kvm else tmp_path / "absent"
    assert host.choose(cpuinfo, device).where == where


def test_a_scenario_reports_cases_and_goes_on_after_a_failed_one(tmp_path: Path) -> None:
    path = scenario(
        tmp_path,
        "with ctx.case('bad'):\n    raise ValueError('boo')\n"
        "with ctx.case('good') as record:\n    record['x'] = ctx.params['x']",
    )
    result = runner.run(path, vmms=SHELL, params={"x": 7}, timeout=30, choice=DIRECT)
    assert result.exit_status == 0
    assert not result.case("bad").ok and "boo" in (result.case("bad").error or "")
    assert result.case("good").ok and result.case("good").data == {"x": 7}
    with pytest.raises(LabError, match="no outcome"):
        result.case("never")


def test_a_failed_case_says_what_the_vmms_were_doing(tmp_path: Path) -> None:
    path = scenario(
        tmp_path,
        "with ctx.case('bad'), ctx.vm('v', ['-c', 'echo up; exec sleep 999']) as vm:\n"
        "    with ctx.case('worse'):\n"
        "        vm.console.expect('up')\n"
        "        raise ValueError('boo')",
    )
    result = runner.run(path, vmms=SHELL, timeout=60, choice=DIRECT)
    told = [line for line in (result.case("worse").error or "").splitlines() if line[:3] == "v: "]
    assert len(told) == 2, told
    assert re.match(r"v: sleep S \d+ .*nanosleep", told[1]), told


def test_a_time_out_kills_the_scenario_and_the_vms_it_started(tmp_path: Path) -> None:
    path = scenario(
        tmp_path,
        "with ctx.vm('v', ['-c', 'echo up; exec sleep 999']) as vm:\n"
        "    vm.console.expect('up')\n"
        "    ctx.event('pids', pids=[os.getpid(), vm.process.pid])\n"
        "    while True: signal.pause()",
    )
    result = runner.run(path, vmms=SHELL, timeout=3, choice=DIRECT)
    assert result.exit_status is None
    assert result.problem == "time-out: killed"
    assert all(ends(pid) for pid in result.named("pids")[0]["pids"])


def test_a_scenario_that_dies_is_told_from_one_that_failed(tmp_path: Path) -> None:
    result = runner.run(
        scenario(tmp_path, "os.kill(os.getpid(), 9)"), vmms=SHELL, timeout=30, choice=DIRECT
    )
    assert result.exit_status is None
    assert "before the scenario reported its end" in (result.problem or "")


def test_a_crash_of_the_nested_machine_is_recorded_with_its_last_words(tmp_path: Path) -> None:
    path = scenario(tmp_path, "open('/proc/sysrq-trigger', 'w').write('c')")
    result = runner.run(path, vmms=SHELL, timeout=100, choice=NESTED)
    assert result.exit_status is None
    assert "before the scenario reported its end" in (result.problem or "")
    assert "sysrq triggered crash" in result.outer_console


def test_the_nested_machine_is_told_the_speed_of_its_counter(tmp_path: Path) -> None:
    """By itself it may find another one: 799 MHz of 2596 were seen, on a busy host."""
    path = scenario(tmp_path, "ctx.event('cpu', text=open('/proc/cpuinfo').read())")
    result = runner.run(path, vmms=SHELL, timeout=100, choice=NESTED)
    [event] = result.named("cpu")
    mhz = re.search(r"^cpu MHz\s*: ([\d.]+)$", event["text"], re.MULTILINE)
    # Of its CPU, which it measures all the same, unless that is further off than this.
    assert mhz and abs(float(mhz[1]) * 1000 / tsc.frequency_khz() - 1) < 0.1


def test_a_power_cut_ends_the_machine_at_its_event_and_is_told_from_a_crash(
    tmp_path: Path,
) -> None:
    path = scenario(
        tmp_path,
        "ctx.event('first', pid=os.getpid())\nctx.event('last')\nwhile True: signal.pause()",
    )
    result = runner.run(
        path,
        vmms=SHELL,
        timeout=30,
        choice=DIRECT,
        cut_power=lambda event: event["event"] == "last",
    )
    assert result.exit_status is None
    assert result.problem == runner.POWER_CUT
    assert result.named("last") and ends(result.named("first")[0]["pid"])


def test_a_killed_runner_leaves_no_machine_behind(tmp_path: Path) -> None:
    path = scenario(tmp_path, "ctx.event('pid', pid=os.getpid())\nwhile True: signal.pause()")
    program = (
        "import sys; from pathlib import Path; from lab import host, runner\n"
        "runner.run(Path(sys.argv[1]), vmms={}, timeout=99, choice=host.Choice('direct', ''),"
        " on_event=lambda e: print(e.get('pid', ''), flush=True))"
    )
    scripts = str(Path(__file__).resolve().parents[2] / "scripts")
    child = subprocess.Popen(
        ["/usr/bin/python3", "-c", program, str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": scripts},
    )
    assert child.stdout is not None
    child.stdout.readline()
    pid = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()
    assert ends(pid), "the scenario outlived its runner"


def test_archives_and_guest_images_are_the_same_bytes_every_time() -> None:
    def build(names: list[str]) -> bytes:
        archive = CpioArchive()
        for name in names:
            archive.file(f"deep/er/{name}", name.encode())
        archive.char_device("dev/console", 5, 1)
        return archive.to_bytes()

    assert build(["a", "b"]) == build(["b", "a"])
    listing = subprocess.run(
        ["cpio", "-it", "--quiet"], input=build(["a", "b"]), capture_output=True, check=True
    ).stdout.split()
    # In path order, so that a folder always comes before what lies in it.
    assert listing == [b"deep", b"deep/er", b"deep/er/a", b"deep/er/b", b"dev", b"dev/console"]
    linux = kernel.fetch()
    assert guest.initramfs(linux, script="x") == guest.initramfs(linux, script="x")
    assert guest.initramfs(linux, script="x") != guest.initramfs(linux, script="y")


@pytest.mark.parametrize("image", [b"", b"\x7fELF" + bytes(2000), bytes(4096)])
def test_what_is_not_a_bzimage_is_refused(image: bytes) -> None:
    with pytest.raises(LabError, match="not a bzImage"):
        extract_vmlinux(image)


def test_a_cut_or_foreign_bzimage_is_refused() -> None:
    image = bytearray(kernel.fetch().bzimage.read_bytes())
    with pytest.raises(LabError, match="cut short"):
        extract_vmlinux(bytes(image[: len(image) // 2]))
    offset = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    image[offset : offset + 4] = b"????"
    with pytest.raises(LabError, match="unknown compression"):
        extract_vmlinux(bytes(image))


def test_unknown_modules_and_series_are_named() -> None:
    linux = kernel.fetch()
    with pytest.raises(LabError, match="no module nosuch"):
        linux.modules(["nosuch"])
    with pytest.raises(LabError, match="no kernel series 2.4"):
        kernel.fetch("2.4")
    names = [name for name, _ in linux.modules(guest.DISK_MODULES)]
    assert names.index("virtio_ring.ko") < names.index("virtio_blk.ko")
    assert names.index("scsi_mod.ko") < names.index("sd_mod.ko")


def test_the_qmp_client_sorts_replies_events_and_errors() -> None:
    near, far = socket.socketpair()
    pump = Pump()
    client = QmpClient(pump, near)
    far.sendall(
        b'{"QMP": {}}\r\n{"event": "STOP"}\n{"return": 5, "id": 1}\r\n'
        b'{"error": {"class": "GenericError", "desc": "no"}, "id": 2}\r\n{"event": "RE'
    )
    assert client.execute("one") == 5
    with pytest.raises(QmpError, match="GenericError: no"):
        client.execute("two")
    assert client.wait_event("STOP")["event"] == "STOP"
    far.sendall(b'SUME"}\r\n')
    assert client.wait_event("RESUME")["event"] == "RESUME"
    assert json.loads(far.recv(4096).splitlines()[0]) == {"execute": "one", "id": 1}
    far.close()
    with pytest.raises(WaitTimeout, match="connection closed"):
        client.execute("three")


def test_a_verdict_needs_spreads_that_do_not_overlap() -> None:
    assert verdict(Series((1, 2, 3)), Series((4, 5, 6))) == "better"
    assert verdict(Series((1, 2, 4.5)), Series((4, 5, 6))) == "overlap"
    assert verdict(Series((7, 8)), Series((4, 5, 6))) == "worse"
