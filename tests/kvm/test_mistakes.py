"""Mistakes of the caller: one line that says what is wrong, exit status 1, and nothing left behind."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from support import vm

ELF = str(vm.BUILD / "tests/kvm/hello.elf")
BZIMAGE = vm.ROOT / "tests/fuzz/corpus/bzimage/good"


def refused(guest, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    """Runs a line that must be refused; returns the reason."""
    process = guest.command(*prefix, vm.RHEA, *arguments)
    status = process.wait()
    assert status == 1, process.stderr
    assert process.stdout == ""
    lines = process.stderr.splitlines()
    assert len(lines) == 1 and process.stderr.endswith("\n"), process.stderr
    assert lines[0].startswith("rhea: "), lines[0]
    return lines[0][len("rhea: "):]


@pytest.fixture
def files(tmp_path: pathlib.Path) -> dict[str, str]:
    (tmp_path / "text").write_text("this is no kernel\n" * 100)
    (tmp_path / "short").write_bytes(BZIMAGE.read_bytes()[:1000])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short-elf").write_bytes(pathlib.Path(ELF).read_bytes()[:100])
    with open(tmp_path / "huge", "wb") as huge:
        huge.truncate(65 << 20)
    (tmp_path / "in-use").write_text("not a pid\n")
    return {path.name: str(path) for path in tmp_path.iterdir()} | {
        "elf": ELF, "dir": str(tmp_path), "missing": str(tmp_path / "missing"),
        "below": str(tmp_path / "missing" / "below")}


BOOT = ["-nodefaults", "-m", "64", "-serial", "null"]


@pytest.mark.parametrize("words, reason", [
    # the kernel and what goes with it
    (["-kernel", "{missing}"], "No such file or directory"),
    (["-kernel", "{dir}"], "is a directory"),
    (["-kernel", "{empty}"], "is empty"),
    (["-kernel", "{text}"], "not a kernel"),
    (["-kernel", "{short}"], "truncated"),
    (["-kernel", "{short-elf}"], ""),
    (["-kernel", "/dev/null"], "not a regular file"),
    (["-kernel", "{elf}", "-initrd", "{missing}"], "No such file or directory"),
    (["-kernel", "{elf}", "-initrd", "{huge}"], "initrd"),
    (["-kernel", "{elf}", "-append", "x" * 70_000], "kernel command line too long"),
    (["-append", "quiet"], "-append only allowed with -kernel option"),
    (["-initrd", "{huge}"], "-initrd only allowed with -kernel option"),
    # the machine
    (["-m", "0"], "-m 0: "),
    (["-m", "65T"], "must not be above 64 TiB"),
    (["-m", "64X"], "-m 64X: "),
    (["-smp", "0"], "-smp 0: "),
    (["-smp", "9999"], "9999"),
    (["-smp", "cpus=4,maxcpus=2"], "-smp cpus=4,maxcpus=2: "),
    (["-machine", "q35"], "-machine q35: "),
    (["-machine", "pc,bogus=1"], "Property 'pc-machine.bogus' not found"),
    (["-accel", "tcg"], "-accel tcg: "),
    (["-accel", "kvm,dirty-ring-size=1000"], "dirty-ring-size must be a power of two"),
    (["-accel", "kvm,dirty-ring-size=2", "-kernel", "{elf}"], "dirty-ring-size=2"),
    (["-cpu", "qemu64"], "only 'host' exists"),
    (["-uuid", "xyz"], "-uuid xyz: "),
    (["-device", "e1000"], "'e1000' is not a valid device model name"),
    # objects and disks
    (["-object", "iothread"], "-object iothread: Parameter 'id' is missing"),
    (["-object", "iothread,id=a,bogus=1"], "Invalid parameter 'bogus'"),
    (["-object", "iothread,id=a", "-object", "iothread,id=a"], "Duplicate ID 'a' for object"),
    (["-object", "iothread,id=a,poll-max-ns=x"], "Parameter 'poll-max-ns' expects integer"),
    (["-blockdev", "null-co"], "'node-name' must be specified for the root node"),
    (["-blockdev", "node-name=a"], "-blockdev node-name=a: Parameter 'driver' is missing"),
    (["-blockdev", "bogus,node-name=a"], "Unknown driver 'bogus'"),
    (["-blockdev", "null-co,node-name=a,bogus=1"],
     "Block format 'null-co' does not support the option 'bogus'"),
    (["-blockdev", "null-co,node-name=a", "-blockdev", "null-co,node-name=a"],
     "Duplicate nodes with node-name='a'"),
    (["-blockdev", '{{"driver":"null-co","node-name":1}}'],
     "Invalid parameter type for 'node-name', expected: string"),
    (["-drive", "driver=null-co,if=none,bogus=1"],
     "Block format 'null-co' does not support the option 'bogus'"),
    (["-drive", "driver=bogus,if=none"], "Unknown driver 'bogus'"),
    (["-drive", "driver=null-co,if=none,cache=bogus"], "invalid cache option"),
    (["-drive", "driver=null-co,if=ide"], "machine type does not support if=ide"),
    (["-blockdev", "null-co,node-name=a", "-drive", "driver=null-co,if=none,id=a"],
     "Device name 'a' conflicts with an existing node name"),
    # the line itself
    (["-nope"], "-nope: invalid option"),
    (["disk.img"], "disk.img: not an option"),
    (["-kernel"], "-kernel: requires an argument"),
    # what the host does not give
    (["-pidfile", "{below}"], "No such file or directory"),
    (["-pidfile", "{dir}"], ""),
    (["-pidfile", "/proc/version"], "-pidfile /proc/version: "),
    (["-D", "{below}"], "-D {below}: cannot open the log file: No such file or directory"),
    (["-D", "{dir}"], "-D {dir}: cannot open the log file: Is a directory"),
    (["-qmp", "unix:{below},server=on,wait=off"], "No such file or directory"),
    (["-qmp", "unix:{missing}"], "No such file or directory"),
    (["-qmp", "unix:{text},server=on,wait=off"], "it exists and is no socket"),
    (["-qmp", "unix:/" + "x" * 120 + ",server=on,wait=off"], ""),
    (["-serial", "file:{below}"], "No such file or directory"),
    (["-chardev", "socket,id=c,fd=77,server=on", "-mon", "c,mode=control"], "77"),
    (["-mon", "nope,mode=control"], "nope"),
    (["-serial", "null", "-serial", "null"], "Max. supported number of ISA serial ports is 2"),
    (["-object", "memory-backend-file,id=m,size=64M,mem-path={below}", "-machine",
      "memory-backend=m"], "No such file or directory"),
])
def test_a_bad_line_is_one_clear_line(guest, files, words, reason):
    boot = BOOT if "-kernel" in words else [*BOOT, "-kernel", ELF]
    if words[0] in ("-append", "-initrd"):
        boot = BOOT
    filled = [word.format(**files) if "{" in word else word for word in words]
    assert reason.format(**files) in refused(guest, *boot, *filled)
    assert not pathlib.Path(files["missing"]).exists()


def test_a_machine_with_nothing_to_boot_is_refused(guest):
    assert "-kernel is missing" in refused(guest, *BOOT)


def test_a_refused_line_leaves_nothing_behind(guest, files, tmp_path):
    pidfile, path = tmp_path / "pid", tmp_path / "socket"
    refused(guest, *BOOT, "-pidfile", str(pidfile), "-qmp", f"unix:{path},server=on,wait=off",
            "-kernel", files["text"])
    assert not pidfile.exists()
    assert not path.exists()


def test_a_pidfile_in_use_is_refused(guest, tmp_path):
    pidfile = tmp_path / "pid"
    process, monitor = guest.with_qmp("ticks", "-pidfile", str(pidfile))
    assert pidfile.read_text() == f"{process.process.pid}\n"
    assert "in use" in refused(guest, *BOOT, "-kernel", ELF, "-pidfile", str(pidfile))
    assert pidfile.read_text() == f"{process.process.pid}\n"
    monitor.execute("quit")
    assert process.wait() == 0
    assert not pidfile.exists()


def test_no_permission_for_dev_kvm(guest, tmp_path):
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, and setpriv, to start it as another user")
    if os.stat("/dev/kvm").st_mode & 0o006 == 0o006:
        pytest.skip("/dev/kvm is open to everybody on this host")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    probe = guest.command(*nobody, vm.RHEA, "-version")
    if probe.wait() != 0:
        pytest.skip("the user `nobody` can not execute this build where it lies")
    reason = refused(guest, *BOOT, "-kernel", ELF, prefix=nobody)
    assert reason.endswith("could not access KVM kernel module /dev/kvm: Permission denied")
