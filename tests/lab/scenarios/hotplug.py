"""Disks are pulled from a stock kernel under fio, a mounted one too, and from one that is deaf."""

import shutil

from lab.inside.agent import Context
from lab.inside.load import FIO, alive, await_disk, end_load, kernel_errors, start_load
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

DATA_MIB = 32
UNPLUG_TIMEOUT_S = 60  # for a guest that is busy; the one that does not listen has less
DEAF_TIMEOUT_S = 5


def run(ctx: Context) -> None:
    with open("/tmp/hot.img", "wb") as image:
        image.truncate(DATA_MIB << 20)
    shutil.copy(ctx.files["root"], "/tmp/mounted.img")  # a file system for the guest to mount
    with _boot(ctx, "busy", UNPLUG_TIMEOUT_S) as vm:
        for name in ("hot", "mounted"):
            vm.monitor.execute("blockdev-add", _raw(name, f"/tmp/{name}.img"))
        with ctx.case("rounds") as record:
            record["before"] = kernel_errors(vm)
            start_load(vm, "vdb")
            record["rounds"] = [_round(vm) for _ in range(ctx.params["rounds"])]
            record["load"] = end_load(vm)
            record["errors"] = kernel_errors(vm)
        with ctx.case("mounted") as record:
            _pull_mounted(vm, record)
            vm.console.send("poweroff -f\n")
            record["exit_status"] = vm.wait_exit()
    with ctx.case("deaf") as record:
        with _boot(ctx, "deaf", DEAF_TIMEOUT_S, "acpiphp.disable=1") as vm:
            _ask_in_vain(vm, record)


def _raw(name: str, path: str) -> dict:
    return {
        "driver": "raw",
        "node-name": name,
        "file": {"driver": "file", "filename": path},
    }


def _boot(ctx: Context, name: str, timeout_s: int, *append: str):
    data = f"/tmp/{name}.img"
    with open(data, "wb") as image:
        image.truncate(DATA_MIB << 20)
    options = [
        *("-object", "iothread,id=io0", "-object", "iothread,id=io1"),
        *("-drive", f"file={ctx.disk},format=raw,if=none,id=root"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-blockdev", f"driver=raw,node-name=data,file.driver=file,file.filename={data}"),
        *("-device", "virtio-blk-pci,drive=data,iothread=io0"),
        *("-machine", f"pc,x-unplug-timeout={timeout_s}"),
    ]
    vm = ctx.vm(
        name,
        linux(ctx, *options, initrd="initrd_disk", cpus=2, append=["lab.root=/dev/vda", *append]),
        qmp=True,
    )
    return _Booted(vm)


class _Booted:
    """The machine, with somebody logged in."""

    def __init__(self, vm) -> None:
        self._vm = vm

    def __enter__(self) -> Vm:
        vm = self._vm.__enter__()
        vm.monitor.negotiate()
        expect_banner(vm.console)
        vm.console.login()
        vm.console.run("dmesg -n 1")  # what the kernel says is asked for, not mixed with answers
        vm.console.run("dmesg -c > /dev/null")  # the nested machine's CPU gives a trace at boot
        return vm

    def __exit__(self, *error):
        return self._vm.__exit__(*error)


def _plug(vm: Vm, node: str = "hot") -> tuple[int, str]:
    vm.monitor.execute(
        "device_add",
        {"driver": "virtio-blk-pci", "id": "hot", "drive": node, "iothread": "io1"},
    )
    return vm.console.run(
        f"{await_disk('vdc')}; grep -c vdc /proc/partitions", timeout=180
    )


def _pull(vm: Vm) -> list[dict]:
    vm.monitor.execute("device_del", {"id": "hot"})
    told = [vm.monitor.wait_event("DEVICE_DELETED", timeout=120)["data"] for _ in range(2)]
    # At once: nothing of it is in use any more.
    vm.monitor.execute("object-del", {"id": "io1"})
    vm.monitor.execute("object-add", {"qom-type": "iothread", "id": "io1"})
    return told


def _round(vm: Vm) -> list:
    """Plugs the disk, pulls it while fio is at it. fio fails then."""
    came = _plug(vm)
    vm.console.run(
        f"{FIO} --name=hot --filename=/dev/vdc --rw=randrw --time_based --runtime=600 "
        "--output=/tmp/hot.report > /dev/null 2>&1 & echo $! > /tmp/hot.pid; "
        "until [ $(awk '{ print $1 + $5 }' /sys/block/vdc/stat) -gt 50 ]; do :; done",
        timeout=180,
    )
    told = _pull(vm)
    gone = vm.console.run(
        "while [ -e /sys/block/vdc ] || [ -d /proc/$(cat /tmp/hot.pid) ]; do sleep 0.1; done; "
        "grep -c vdc /proc/partitions",
        timeout=180,
    )
    return [came, told, gone]


def _pull_mounted(vm: Vm, record: dict) -> None:
    record["came"] = _plug(vm, "mounted")
    record["mounted"] = vm.console.run(
        "mkdir -p /tmp/hot && mount -t ext4 /dev/vdc /tmp/hot; echo $?"
    )
    vm.console.run(
        f"{FIO} --name=hot --directory=/tmp/hot --rw=randwrite --time_based --runtime=600 "
        "--output=/tmp/hot.report > /dev/null 2>&1 & echo $! > /tmp/hot.pid; "
        "until [ $(awk '{ print $5 }' /sys/block/vdc/stat) -gt 50 ]; do :; done",
        timeout=180,
    )
    record["told"] = _pull(vm)
    record["gone"] = vm.console.run(
        "while [ -d /proc/$(cat /tmp/hot.pid) ]; do sleep 0.1; done; umount -l /tmp/hot; "
        "grep -c vdc /proc/partitions",
        timeout=180,
    )
    # The rest of it is as well as ever.
    record["alive"] = alive(vm, "vdb")
    record["errors"] = kernel_errors(vm)
    record["oops"] = vm.console.run(
        "dmesg | grep -iE -A20 'oops|BUG:|WARNING:|call trace|blocked for more|stall'"
    )[1]


def _ask_in_vain(vm: Vm, record: dict) -> None:
    """Its ACPI tables are served, its hot-plug driver is off."""
    node = {"driver": "null-co", "node-name": "n", "size": 8 << 20, "read-zeroes": True}
    vm.monitor.execute("blockdev-add", node)
    vm.monitor.execute("device_add", {"driver": "virtio-blk-pci", "id": "hot", "drive": "n"})
    vm.console.run("echo 1 > /sys/bus/pci/rescan")
    record["came"] = vm.console.run(
        f"{await_disk('vdc')}; grep -c vdc /proc/partitions", timeout=180
    )
    record["told"] = []
    for _ in range(2):  # a request may be repeated, with the same end
        vm.monitor.execute("device_del", {"id": "hot"})
        record["told"].append(vm.monitor.wait_event("DEVICE_UNPLUG_GUEST_ERROR")["data"])
    record["state"] = vm.monitor.execute("x-query-hotplug")
    record["read"] = vm.console.run("dd if=/dev/vdc of=/dev/null bs=64k 2>/dev/null; echo $?")
    vm.console.send("poweroff -f\n")
    record["exit_status"] = vm.wait_exit()
