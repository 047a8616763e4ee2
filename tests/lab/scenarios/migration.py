"""A stock kernel under fio moves from instance to instance, into a file, and out of it."""

import contextlib

from lab.inside import migration
from lab.inside.agent import Context
from lab.inside.load import alive, end_load, kernel_errors, start_load
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

DATA_MIB = 32
# Pages are written all the time, a few MiB again and again: enough to be seen in each pass.
DIRTIER = (
    "mkdir -p /tmp/ram && mount -t tmpfs ram /tmp/ram; (i=0; while [ -e /tmp/go ]; do "
    "dd if=/bin/busybox of=/tmp/ram/pages bs=64k seek=$((i * 32)) conv=notrunc; "
    "i=$(((i + 1) % 4)); usleep 20000; done) > /dev/null 2>&1 & true"
)
TICKS = 20  # seen before the machine moves on
SAVED = "/tmp/saved"
# What measures the nested machine's speed: a guest that gets no CPU for half a minute is no lockup.
PATIENT = ["nowatchdog", "rcupdate.rcu_cpu_stall_timeout=300"]
CLOCKSOURCE = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"


def run(ctx: Context) -> None:
    for disk in ("blk", "scsi"):
        with open(f"/tmp/{disk}.img", "wb") as image:
            image.truncate(DATA_MIB << 20)
    with contextlib.ExitStack() as stack:
        journey = Journey(ctx, stack)
        with ctx.case("hops") as record:
            journey.begin(record)
            record["hops"] = [
                journey.hop(number, channels)
                for number, channels in enumerate(ctx.params["channels"])
            ]
        with ctx.case("file") as record:
            record["hop"] = journey.into_a_file_and_out_of_it()
        with ctx.case("end") as record:
            journey.end(record)


class Journey:
    """One guest, and the instances that it has been in; each is a command line like the others."""

    def __init__(self, ctx: Context, stack: contextlib.ExitStack) -> None:
        self._ctx, self._stack = ctx, stack
        self._vms: list[Vm] = []

    @property
    def _here(self) -> Vm:
        return self._vms[-1]

    def _start(self, *extra: str) -> Vm:
        raw = "driver=raw,node-name={0},file.driver=file,file.filename=/tmp/{0}.img"
        options = [
            *("-object", "iothread,id=io0", "-object", "iothread,id=io1"),
            *("-drive", f"file={self._ctx.disk},format=raw,if=none,id=root"),
            *("-device", "virtio-blk-pci,drive=root"),
            *("-blockdev", raw.format("blk"), "-blockdev", raw.format("scsi")),
            *("-device", "virtio-blk-pci,id=blk,drive=blk,iothread=io0,num-queues=2"),
            *("-device", "virtio-scsi-pci,id=scsi0,iothread=io1,num_queues=2"),
            *("-device", "scsi-hd,id=unit,drive=scsi,bus=scsi0.0"),
            *extra,
        ]
        words = linux(
            self._ctx,
            *options,
            initrd="initrd_disk",
            cpus=2,
            append=["lab.root=/dev/vda", *PATIENT],
        )
        vm = self._stack.enter_context(self._ctx.vm(f"at{len(self._vms)}", words, qmp=True))
        vm.monitor.negotiate()
        return vm

    def begin(self, record: dict) -> None:
        """The disks are written and verified, and pages written, until end()."""
        vm = self._start()
        self._vms.append(vm)
        expect_banner(vm.console)
        vm.console.login()
        vm.console.run("dmesg -n 1")  # what the kernel says is asked for, not mixed with ticks
        vm.console.run("dmesg -c > /dev/null")  # the nested machine's CPU gives a trace at boot
        record["clock"] = vm.console.run(CLOCKSOURCE)
        start_load(vm, "vdb", "sda")
        vm.console.run(DIRTIER)
        vm.console.send("bash /clock.sh\n")
        self._wait_for_ticks()

    def _wait_for_ticks(self) -> None:
        """Until the guest has counted for a while where it is now."""
        console = self._here.console
        start = console.text.count(".\n")
        if not self._ctx.pump.wait(lambda: console.text.count(".\n") >= start + TICKS, 120):
            raise AssertionError(f"the guest does not count: {console.tail()}")

    def hop(self, number: int, channels: int) -> dict:
        source, target = self._here, self._start("-incoming", "defer")
        for vm in (source, target):
            migration.configure(vm, channels, **self._ctx.params["settings"])
        uri = migration.listen(
            target, "tcp:127.0.0.1:0" if number % 2 else f"unix:/tmp/move{number}"
        )
        told = migration.move(source, target, uri)
        return {"channels": channels, "uri": uri, **self._arrived(target, told)}

    def into_a_file_and_out_of_it(self) -> dict:
        there, back = (f"{how}{SAVED}" for how in self._ctx.params["file"])
        source = self._here
        migration.configure(source, 0)
        source.monitor.execute("migrate", {"uri": there})
        told = migration.finish(source)
        target = self._start("-incoming", "defer")
        migration.listen(target, back)
        migration.finish(target)
        return self._arrived(target, told)

    def _arrived(self, target: Vm, told: dict) -> dict:
        """The instance that the guest has left ends; when the guest stood, on this side's clock."""
        source = self._here
        self._vms.append(target)
        stopped = source.monitor.wait_event("STOP")["received"]
        resumed = target.monitor.wait_event("RESUME")["received"]
        states = [vm.monitor.execute("query-status")["status"] for vm in (source, target)]
        source.monitor.execute("quit")
        status = source.wait_exit()
        self._wait_for_ticks()
        return {
            "told": told,
            "states": states,
            "exit_status": status,
            "stopped": stopped,
            "resumed": resumed,
        }

    def end(self, record: dict) -> None:
        """What the load and the kernel have to say, and a disk that goes where the guest is now."""
        vm = self._here
        vm.console.send("\x03")
        vm.console.login()
        record["console"] = migration.joined(self._vms)
        record["load"] = end_load(vm)
        record["alive"] = [alive(vm, disk) for disk in ("vdb", "sda")]
        vm.monitor.execute("device_del", {"id": "blk"})
        record["told"] = [vm.monitor.wait_event("DEVICE_DELETED")["data"] for _ in range(2)]
        record["gone"] = vm.console.run(
            "while [ -e /sys/block/vdb ]; do sleep 0.1; done; grep -c vdb /proc/partitions",
            timeout=120,
        )
        record["errors"] = kernel_errors(vm)
        # Of the TSC, which goes on while the machine stands, it may say that it is unstable: it is
        # not told that it is invariant.
        record["oops"] = vm.console.run(
            "dmesg | grep -iE -A20 'oops|BUG:|WARNING:|call trace|blocked for more'"
        )[1]
        record["clock"] = vm.console.run(CLOCKSOURCE)
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()
