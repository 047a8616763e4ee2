"""A stock kernel on virtio-blk: its root file system, a second disk, and what a monitor changes."""

import os

from lab.inside.agent import Context
from lab.inside.load import await_disk
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

DATA_MIB = 64
GROWN_MIB = 96
SERIAL = "rhea-data-0"
UNPLUG_TIMEOUT_S = 10


def run(ctx: Context) -> None:
    data = "/tmp/data.img"
    with open(data, "wb") as image:
        image.truncate(DATA_MIB << 20)
    root = "/tmp/root.img"
    os.link(ctx.files["root"], root)
    _write(ctx, root, data)
    _read_back(ctx, root, data)


def _disks(root: str, data: str) -> list[str]:
    """The root on an iothread; the data disk's four queues on two more."""
    mapping = '[{"iothread":"io1"},{"iothread":"io2"}]'
    device = (
        '{"driver":"virtio-blk-pci","id":"vd1","drive":"data","num-queues":4,'
        f'"serial":"{SERIAL}","iothread-vq-mapping":{mapping}}}'
    )
    return [
        *("-object", "iothread,id=io0", "-object", "iothread,id=io1", "-object", "iothread,id=io2"),
        *("-blockdev", f"driver=raw,node-name=root,file.driver=file,file.filename={root}"),
        "-blockdev",
        f"driver=raw,node-name=data,discard=unmap,file.driver=file,file.filename={data}",
        *("-device", "virtio-blk-pci,drive=root,id=vd0,iothread=io0", "-device", device),
        *("-machine", f"pc,x-unplug-timeout={UNPLUG_TIMEOUT_S}"),
    ]


def _boot(ctx: Context, name: str, root: str, data: str):
    options = linux(
        ctx, *_disks(root, data), initrd="initrd_disk", cpus=2, append=["lab.root=/dev/vda"]
    )
    return ctx.vm(name, options, qmp=True)


def _shell(vm: Vm, record: dict) -> None:
    vm.monitor.negotiate()
    record["release"], _ = expect_banner(vm.console)
    vm.console.login()
    record["root"] = vm.console.run("grep ' / ext4 ' /proc/mounts | cut -d' ' -f1")


def _write(ctx: Context, root: str, data: str) -> None:
    with ctx.case("write") as record, _boot(ctx, "write", root, data) as vm:
        _shell(vm, record)
        run = vm.console.run
        record["serial"] = run("cat /sys/block/vdb/serial")
        record["queues"] = run("ls /sys/block/vdb/mq | wc -l")
        record["sectors"] = run("cat /sys/block/vdb/size")
        vm.monitor.execute("block_resize", {"node-name": "data", "size": GROWN_MIB << 20})
        record["grown"] = run(
            f"until [ $(cat /sys/block/vdb/size) = {GROWN_MIB << 11} ]; do :; done; echo grown"
        )
        record["wrote"] = run(
            "dd if=/dev/urandom of=/tmp/a bs=1M count=8 2>/dev/null; "
            "for i in 0 1 2 3; do dd if=/tmp/a of=/dev/vdb bs=64k seek=$((i * 200)) "
            "conv=notrunc,fsync 2>/dev/null & done; wait; md5sum < /tmp/a | cut -c1-32"
        )
        record["kept"] = run("cp /tmp/a /root/a && sync && md5sum < /root/a | cut -c1-32")
        # "flush I/Os", the sixteenth field: what the kernel sent, which is not what was asked for, as
        # it merges flushes that wait for the same one (Documentation/block/stat.rst).
        record["flushes"] = run("awk '{ print $16 }' /sys/block/vdb/stat")
        record["stats"] = vm.monitor.execute("query-blockstats")
        _plug_and_pull(ctx, vm)
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()


def _plug_and_pull(ctx: Context, vm: Vm) -> None:
    """A third disk comes and goes, under the guest's own ACPI driver."""
    with ctx.case("hotplug") as record:
        run, monitor = vm.console.run, vm.monitor
        node = {"driver": "null-co", "node-name": "hot", "size": 8 << 20, "read-zeroes": True}
        monitor.execute("blockdev-add", node)
        record["rounds"] = []
        for _ in range(ctx.params["hotplug_rounds"]):
            monitor.execute(
                "device_add", {"driver": "virtio-blk-pci", "id": "hot", "drive": "hot"}
            )
            came = run(f"{await_disk('vdc')}; grep vdc /proc/partitions | wc -l")
            read = run("dd if=/dev/vdc of=/dev/null bs=64k 2>/dev/null; echo $?")
            monitor.execute("device_del", {"id": "hot"})
            told = [monitor.wait_event("DEVICE_DELETED")["data"] for _ in range(2)]
            gone = run("until [ ! -e /sys/block/vdc ]; do :; done; grep vdc /proc/partitions | wc -l")
            record["rounds"].append([came, read, told, gone])
    with ctx.case("no_answer") as record:
        monitor.execute("device_add", {"driver": "virtio-blk-pci", "id": "hot", "drive": "hot"})
        run(await_disk('vdc'))
        monitor.execute("stop")
        monitor.execute("device_del", {"id": "hot"})
        record["told"] = monitor.wait_event("DEVICE_UNPLUG_GUEST_ERROR")["data"]
        record["state"] = monitor.execute("x-query-hotplug")
        monitor.execute("cont")
        record["read"] = run("dd if=/dev/vdc of=/dev/null bs=64k 2>/dev/null; echo $?")
        monitor.execute("device_del", {"id": "hot"})
        record["deleted"] = [monitor.wait_event("DEVICE_DELETED")["data"] for _ in range(2)]
        wrong = "can.t assign|I/O error|acpiphp.*(error|fail)|blocked for more"
        record["warnings"] = run(f"dmesg | grep -cE '{wrong}'")


def _read_back(ctx: Context, root: str, data: str) -> None:
    with ctx.case("read_back") as record, _boot(ctx, "read_back", root, data) as vm:
        _shell(vm, record)
        run = vm.console.run
        record["kept"] = run("md5sum < /root/a | cut -c1-32")
        record["copies"] = run(
            "for i in 0 1 2 3; do dd if=/dev/vdb bs=64k skip=$((i * 200)) count=128 2>/dev/null | "
            "md5sum | cut -c1-32; done | sort -u"
        )
        vm.console.send("poweroff -f\n")
        record["exit_status"] = vm.wait_exit()
