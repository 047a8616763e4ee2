"""A guest writes and flushes until somebody pulls the plug: of the VMM, then of the whole machine.

Three disks lie in a file system on L1's own disk: the guest's root, one for records, and one more
for records whose flushes the VMM drops (cache.no-flush=on). L1 writes nothing back by itself, so
only a flush that went through carries a record from L1's page cache to the disk.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.pump import WaitTimeout
from lab.inside.vm import Vm

FOLDER = "/images"
RECORD = 32 << 10
RECORDS = 512
NODES = ("root", "kept", "dropped")  # vda, vdb, vdc
DISKS = ("vda", "vdb", "vdc")


def run(ctx: Context) -> None:
    _mount(ctx)
    if ctx.params["phase"] == "check":
        _after_the_cut(ctx)
        return
    _make_images(ctx)
    _kill_the_vmm(ctx)
    _write_until_the_cut(ctx)


def _mount(ctx: Context) -> None:
    assert ctx.disk is not None, "only a machine of its own can lose its power"
    os.mkdir(FOLDER)
    subprocess.run(["mount", "-t", "ext4", "-o", "noatime", ctx.disk, FOLDER], check=True)
    for name, value in (
        ("dirty_writeback_centisecs", 0),
        ("dirty_expire_centisecs", 1 << 30),
        ("dirty_background_ratio", 90),
        ("dirty_ratio", 95),
    ):
        with open(f"/proc/sys/vm/{name}", "w", encoding="ascii") as setting:
            setting.write(str(value))


def _make_images(ctx: Context) -> None:
    """Without holes: L1's journal must have no reason to write their blocks itself."""
    shutil.copyfile(ctx.files["root"], f"{FOLDER}/root")
    for node in NODES[1:]:
        with open(f"{FOLDER}/{node}", "wb") as image:
            image.write(bytes(RECORDS * RECORD))
    os.sync()


def _disks() -> list[str]:
    options = ["-object", "iothread,id=io0", "-object", "iothread,id=io1"]
    for number, node in enumerate(NODES):
        drop = "on" if node == "dropped" else "off"
        options += [
            "-blockdev",
            f"driver=raw,node-name={node},cache.no-flush={drop},"
            f"file.driver=file,file.filename={FOLDER}/{node}",
            "-device",
            f"virtio-blk-pci,drive={node},iothread=io{number % 2}",
        ]
    return options


def _boot(ctx: Context, name: str, *append: str):
    options = linux(
        ctx, *_disks(), initrd="initrd_disk", cpus=2, append=["lab.root=/dev/vda", *append]
    )
    return ctx.vm(name, options)


def _kill_the_vmm(ctx: Context) -> None:
    with ctx.case("vmm_killed") as record:
        with _boot(ctx, "killed", ctx.params["writer"][0]) as vm:
            _wait_for_flushes(vm, ctx.params["flushes"])
            record["lock_held"] = _start_another(ctx)
            os.kill(vm.process.pid, signal.SIGKILL)
            record["status"] = vm.wait_exit()
            record["lock_free"] = _start_another(ctx)
        record["journal"], record["check"] = _fsck(ctx)
        record["disks"] = _records_on_disks()
        record["files"] = _records_in_files(ctx, "after_kill")


def _wait_for_flushes(vm: Vm, count: int) -> None:
    def enough() -> bool:
        return all(vm.console.text.count(f"flushed {disk} ") >= count for disk in DISKS)

    if not vm.pump.wait(enough, 120):
        raise TimeoutError(f"fewer than {count} flushes a disk:\n{vm.console.tail()}")


def _start_another(ctx: Context) -> tuple[int, str]:
    """A second VMM on the same images: its exit status and words, when it was told to quit."""
    options = linux(ctx, "-S", *_disks(), initrd="initrd_disk")
    with ctx.vm("second", options, qmp=True) as vm:
        # One that is refused the images goes away, before its greeting or after.
        with contextlib.suppress(WaitTimeout):
            vm.monitor.negotiate()
            vm.monitor.execute("quit")
        return vm.wait_exit(), vm.stderr()


def _fsck(ctx: Context) -> tuple[tuple[int, str], tuple[int, str]]:
    """Replays the journal and nothing else, then looks for any fault: (status, output) of both."""

    def e2fsck(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*ctx.vmms["e2fsck"], *options, f"{FOLDER}/root"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    return e2fsck("-y", "-E", "journal_only"), e2fsck("-fn")


def _content(disk: str, number: int, size: int) -> bytes:
    line = f"{disk} {number}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def _records_on_disks() -> dict[str, list[int]]:
    """The records that lie whole where they belong, by disk."""
    found = {}
    for disk, node in zip(DISKS[1:], NODES[1:]):
        with open(f"{FOLDER}/{node}", "rb") as image:
            found[disk] = [
                n for n in range(RECORDS) if image.read(RECORD) == _content(disk, n, RECORD)
            ]
    return found


def _records_in_files(ctx: Context, name: str) -> list[int]:
    """Those in the guest's root file system, as the guest reads them after its next boot."""
    with _boot(ctx, name) as vm:
        expect_banner(vm.console)
        vm.console.login()
        _, text = vm.console.run("cd /root/records && md5sum *")
        vm.console.send("poweroff -f\n")
        vm.wait_exit()
    sums = dict(reversed(line.split()) for line in text.splitlines())
    return [
        int(number)
        for number, digest in sums.items()
        if hashlib.md5(_content("vda", int(number), RECORD)).hexdigest() == digest
    ]


def _write_until_the_cut(ctx: Context) -> None:
    with _boot(ctx, "cut", ctx.params["writer"][1]) as vm:
        vm.wait_exit(timeout=ctx.params["timeout"])
    raise RuntimeError("the guest ended before the power was cut")


def _after_the_cut(ctx: Context) -> None:
    with ctx.case("power_cut") as record:
        record["journal"], record["check"] = _fsck(ctx)
        record["disks"] = _records_on_disks()
        record["files"] = _records_in_files(ctx, "after_cut")
