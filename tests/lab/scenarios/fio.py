"""fio writes and verifies two disks of four queues each on two iothreads; then discards."""

import hashlib
import json
import os

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

DISKS = ("vdb", "vdc")
DISCARD = {"vdb": "unmap", "vdc": "ignore"}


class Image:
    """A disk's image in memory, which ends with this process."""

    def __init__(self, disk: str, size: int) -> None:
        self._fd = os.memfd_create(disk)
        os.truncate(self._fd, size)
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def digest(self, start: int) -> str:
        """Of all from there to the end."""
        with open(self.path, "rb") as image:
            image.seek(start)
            return hashlib.md5(image.read()).hexdigest()

    def flip_a_bit(self) -> None:
        """In the first block that has been written."""
        at = os.lseek(self._fd, 0, os.SEEK_DATA) + 100
        os.pwrite(self._fd, bytes([os.pread(self._fd, 1, at)[0] ^ 1]), at)


def run(ctx: Context) -> None:
    images = {disk: Image(disk, ctx.params["disk_size"]) for disk in DISKS}
    with _boot(ctx, images) as vm:
        with ctx.case("verify") as record:
            _verify(ctx, vm, record)
        with ctx.case("corrupt") as record:
            images["vdc"].flip_a_bit()
            record["fio"] = _fio(ctx, vm, "--verify_only=1")
        with ctx.case("discard") as record:
            _discard(ctx, vm, images, record)
        with ctx.case("end") as record:
            vm.console.send("poweroff -f\n")
            record["exit_status"] = vm.wait_exit()


def _boot(ctx: Context, images: dict[str, Image]):
    options = ["-object", "iothread,id=io1", "-object", "iothread,id=io2"]
    # The machine's own disk, a block device in L1.
    options += ["-drive", f"file={ctx.disk},format=raw,if=none,id=root"]
    options += ["-device", "virtio-blk-pci,drive=root"]
    for disk, image in images.items():
        file = {"driver": "file", "filename": image.path}
        node = {"driver": "raw", "node-name": disk, "discard": DISCARD[disk], "file": file}
        device = {
            "driver": "virtio-blk-pci",
            "id": disk,
            "drive": disk,
            "num-queues": 4,
            "iothread-vq-mapping": [{"iothread": "io1"}, {"iothread": "io2"}],
        }
        options += ["-blockdev", json.dumps(node), "-device", json.dumps(device)]
    append = ["lab.root=/dev/vda"]
    return ctx.vm(
        "fio", linux(ctx, *options, initrd="initrd_disk", cpus=4, append=append), qmp=True
    )


def _fio(ctx: Context, vm: Vm, *options: str) -> tuple[int, str]:
    return vm.console.run(
        f"SIZE={ctx.params['job_size']} fio --eta=never --output=/tmp/report /verify.fio "
        f"{' '.join(options)}",
        timeout=ctx.params["timeout"],
    )


def _verify(ctx: Context, vm: Vm, record: dict) -> None:
    vm.monitor.negotiate()
    expect_banner(vm.console)
    vm.console.login()
    record["queues"] = {d: vm.console.run(f"ls /sys/block/{d}/mq | wc -l")[1] for d in DISKS}
    before = _cpu_ticks(vm.process.pid)
    record["fio"] = _fio(ctx, vm)
    after = _cpu_ticks(vm.process.pid)
    record["ticks"] = {name: after[name] - before[name] for name in before}
    record["interrupts"] = vm.console.run("grep -e '-req' /proc/interrupts")[1]
    record["stats"] = vm.monitor.execute("query-blockstats")


def _cpu_ticks(pid: int) -> dict[str, int]:
    """Of each thread of the VMM, by name."""
    ticks = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as stat:
            name, _, rest = stat.read().partition("(")[2].rpartition(")")
        fields = rest.split()
        ticks[name] = int(fields[11]) + int(fields[12])
    return ticks


def _discard(ctx: Context, vm: Vm, images: dict[str, Image], record: dict) -> None:
    """Drops the first half of both disks; what is left must be as before."""
    half = ctx.params["disk_size"] // 2
    record["before"] = {disk: images[disk].allocated() for disk in DISKS}
    sums = {disk: images[disk].digest(half) for disk in DISKS}
    for disk in DISKS:
        record[disk] = vm.console.run(f"blkdiscard -o 0 -l {half} /dev/{disk}")
    record["after"] = {disk: images[disk].allocated() for disk in DISKS}
    record["kept"] = {disk: images[disk].digest(half) == sums[disk] for disk in DISKS}
    # As the guest sees it, just below the border and from there on.
    record["seen"] = vm.console.run(
        f"for n in {(half >> 16) - 1} {half >> 16}; do dd if=/dev/vdb bs=64k skip=$n count=1 "
        "iflag=direct status=none | tr -d '\\0' | wc -c; done"
    )
