"""scripts/demo unplug: a disk is pulled from a guest that is writing to it, and pushed in again."""

from lab.inside.agent import Context
from lab.inside.load import await_disk
from lab.inside.machine import expect_banner, linux
from lab.inside.show import Show

IMAGE = "/tmp/hot.img"
IMAGE_BYTES = 64 << 20
# The open descriptor keeps the writer from making a file where the disk has been.
WRITER = (
    "rm -f /tmp/end; { (exec 3</dev/vda; while dd if=/dev/zero of=/proc/self/fd/3 bs=64k count=16"
    " conv=notrunc,fsync; do :; done 2>/tmp/writer; echo >/tmp/end) & }"
)
WRITES = "awk '{ print $5 }' /sys/block/vda/stat"


def run(ctx: Context) -> None:
    with open(IMAGE, "wb") as image:
        image.truncate(IMAGE_BYTES)
    options = linux(ctx, cpus=ctx.params["cpus"], memory=ctx.params["memory"])
    with ctx.case("unplug") as record, ctx.vm("guest", options, qmp=True) as vm:
        show = Unplug(ctx, vm)
        vm.monitor.negotiate()
        expect_banner(vm.console, ctx.params["timeout"])
        vm.console.login()
        show.qmp("object-add qom-type=iothread id=io0")
        show.qmp(
            f"blockdev-add driver=raw node-name=d0 file.driver=file file.filename={IMAGE}"
        )
        record["rounds"] = [show.round() for _ in range(ctx.params["rounds"])]
        show.qmp("blockdev-del node-name=d0 , object-del id=io0")
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()


class Unplug(Show):
    """Pushes the disk in and pulls it out."""

    def _quietly(self, command: str) -> str:
        return self.vm.console.run(command)[1].strip()

    def round(self) -> dict[str, str]:
        """In, at work, and out again."""
        self.qmp("device_add driver=virtio-blk-pci id=hot drive=d0 iothread=io0")
        self._quietly(await_disk("vda"))
        there = self.shell("cat /proc/partitions")
        self._quietly(WRITER)
        self._quietly(f"until [ $({WRITES}) -ge 20 ]; do :; done")
        writes = self.shell(f"echo $({WRITES}) writes so far, and going on")
        self.qmp("device_del id=hot --wait DEVICE_DELETED:device=hot")
        self._quietly("until [ -e /tmp/end ] && [ ! -e /dev/vda ]; do :; done")
        last_words = self.shell("grep -v records /tmp/writer | tail -n 1")
        gone = self.shell("cat /proc/partitions")
        return {"there": there, "writes": writes, "last_words": last_words, "gone": gone}
