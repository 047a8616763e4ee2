"""scripts/demo unplug: a disk is pulled from a guest that is writing to it, and pushed in again."""

import json
import shlex

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm
from qmp_client import Command, Message, parse_arguments, parse_script

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
        show = Show(ctx, vm)
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


class Show:
    """Does things where the spectator sees them: in the guest's shell, and on the monitor."""

    def __init__(self, ctx: Context, vm: Vm) -> None:
        self._ctx, self._vm = ctx, vm
        vm.monitor.on_event = self._event

    def _event(self, event: Message) -> None:
        shown = {key: event[key] for key in ("event", "data") if key in event}
        self._ctx.event("show", who="event", text=json.dumps(shown))

    def qmp(self, line: str) -> None:
        """A line as one types it behind `scripts/qmp SOCKET`."""
        self._ctx.event("show", who="type", text=f"scripts/qmp qmp.sock {line}")
        for step in parse_script(shlex.split(line)):
            if isinstance(step, Command):
                reply = self._vm.monitor.execute(step.name, parse_arguments(step.words))
                self._ctx.event("show", who="reply", text=json.dumps(reply))
            else:
                self._vm.monitor.wait_event(step.pattern)

    def shell(self, command: str) -> str:
        """A command in the guest, and what it prints."""
        self._ctx.event("show", who="guest", text=f"# {command}")
        _, output = self._vm.console.run(command)
        for line in output.splitlines():
            self._ctx.event("show", who="guest", text=line)
        return output

    def _quietly(self, command: str) -> str:
        return self._vm.console.run(command)[1].strip()

    def round(self) -> dict[str, str]:
        """In, at work, and out again."""
        self.qmp("device_add driver=virtio-blk-pci id=hot drive=d0 iothread=io0")
        self._quietly("until [ -b /dev/vda ]; do :; done")
        there = self.shell("cat /proc/partitions")
        self._quietly(WRITER)
        self._quietly(f"until [ $({WRITES}) -ge 20 ]; do :; done")
        writes = self.shell(f"echo $({WRITES}) writes so far, and going on")
        self.qmp("device_del id=hot --wait DEVICE_DELETED:device=hot")
        self._quietly("until [ -e /tmp/end ] && [ ! -e /dev/vda ]; do :; done")
        last_words = self.shell("grep -v records /tmp/writer | tail -n 1")
        gone = self.shell("cat /proc/partitions")
        return {"there": there, "writes": writes, "last_words": last_words, "gone": gone}
