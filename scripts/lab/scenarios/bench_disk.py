"""fio in a stock guest reads two disks at several depths, on each side in turn."""

import os

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux

NULL_BYTES = 1 << 30


def run(ctx: Context) -> None:
    image = _image(ctx.params["image_mib"])
    sides = ctx.params["sides"]
    for number in range(ctx.params["rounds"]):
        for side in sides if number % 2 else list(reversed(sides)):
            ctx.event("sample", side=side, values=_round(ctx, side, image))


def _image(mib: int) -> str:
    """An image in memory, without holes, which ends with this process."""
    fd = os.memfd_create("data")
    for _ in range(mib):
        os.write(fd, os.urandom(1 << 20))
    return f"/proc/{os.getpid()}/fd/{fd}"


def _disks(ctx: Context, image: str) -> list[str]:
    queue = "iothread=io0,num-queues=1,queue-size=256"
    return [
        *("-object", "iothread,id=io0"),
        *("-drive", f"file={ctx.disk},format=raw,if=none,id=root"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-blockdev", f"driver=null-co,node-name=null,size={NULL_BYTES}"),
        *("-device", f"virtio-blk-pci,drive=null,{queue}"),
        "-blockdev",
        "driver=raw,node-name=data,file.driver=file,"
        f"file.aio={ctx.params['aio']},file.filename={image}",
        *("-device", f"virtio-blk-pci,drive=data,{queue}"),
    ]


def _round(ctx: Context, side: str, image: str) -> dict[str, float]:
    options = linux(ctx, *_disks(ctx, image), initrd="initrd_disk", append=["lab.root=/dev/vda"])
    with ctx.vm(side, options, vmm=side) as vm:
        expect_banner(vm.console)
        vm.console.login()
        status, text = vm.console.run(
            "fio --eta=never --minimal --output=/tmp/report /bench.fio && "
            "cut -d';' -f 3,6,9 /tmp/report",
            timeout=ctx.params["timeout"],
        )
        if status != 0:
            raise RuntimeError(f"fio on {side} ended with status {status}: {text}")
        vm.console.send("poweroff -f\n")
        vm.wait_exit()
    # Terse format: the job's name, KiB read, milliseconds.
    rows = (line.split(";") for line in text.split())
    return {job: int(kib) * 1000 / 4 / int(ms) for job, kib, ms in rows}
