"""A stock kernel on virtio-scsi: its root, disks that come, grow and go under fio, adapters too."""

import os
import shutil

from lab.inside.agent import Context
from lab.inside.load import FIO, alive, end_load, kernel_errors, start_load
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

DATA_MIB, GROWN_MIB = 32, 48
UNPLUG_TIMEOUT_S = 60  # for a guest that is busy
# Where a unit of the first adapter comes to lie: target and number. The guest names it by them.
PLACES = [(1, 0), (0, 2), (3, 200)]
# Of the second adapter: targets that the first has not, so that the guest's names differ.
UNITS = [("hot1", "far0", 8, 0), ("hot2", "far1", 9, 3)]
IMAGES = ("data", "hot", "hot1", "hot2")
# What the guest's shell knows: the names of a unit in sysfs and of its disk.
SHELL = (
    "unit() { echo /sys/bus/scsi/devices/*:0:$1:$2; }; disk() { ls $(unit $1 $2)/block; }; "
    "listed() { grep -q \" $(disk $1 $2)$\" /proc/partitions; }; "
    "wait_for() { until listed $1 $2 2>/dev/null; do sleep 0.1; done; disk $1 $2; }; "
    "wait_gone() { while [ -e $(unit $1 $2) ]; do sleep 0.1; done; }; "
    "wait_pid() { while [ -d /proc/$(cat /tmp/$1.pid) ]; do sleep 0.1; done; }; "
    "wait_io() { until [ $(awk '{ print $1 + $5 }' /sys/block/$1/stat) -gt 50 ]; do "
    "sleep 0.1; done; }"
)


def run(ctx: Context) -> None:
    for name in IMAGES:
        with open(_image(name), "wb") as image:
            image.truncate(DATA_MIB << 20)
    shutil.copy(ctx.files["root"], _image("mounted"))  # a file system for the guest to mount
    options = linux(
        ctx, *_hardware(ctx), initrd="initrd_scsi", cpus=2, append=["lab.root=LABEL=lab-root"]
    )
    with ctx.vm("scsi", options, qmp=True) as vm:
        with ctx.case("view") as record:
            _log_in(vm, record)
            _view(vm, record)
        with ctx.case("verify") as record:
            _verify(vm, record)
        with ctx.case("resize") as record:
            _resize(vm, record)
        with ctx.case("discard") as record:
            _discard(vm, record)
        for name in (*IMAGES[1:], "mounted"):
            vm.monitor.execute("blockdev-add", _raw(name))
        with ctx.case("units") as record:
            record["before"] = kernel_errors(vm)
            start_load(vm, "$data")
            places = [PLACES[i % len(PLACES)] for i in range(ctx.params["rounds"])]
            record["rounds"] = [_round(vm, *place) for place in places]
            record["load"] = end_load(vm)
            record["errors"] = kernel_errors(vm)
        with ctx.case("adapters") as record:
            record["before"] = kernel_errors(vm)
            start_load(vm, "$data")
            record["rounds"] = [_adapter_round(vm) for _ in range(ctx.params["rounds"])]
            record["load"] = end_load(vm)
            record["errors"] = kernel_errors(vm)
        with ctx.case("mounted") as record:
            record["before"] = kernel_errors(vm)
            _pull_mounted(vm, record)
            vm.console.send("poweroff -f\n")
            record["exit_status"] = vm.wait_exit()


def _image(name: str) -> str:
    return f"/tmp/{name}.img"


def _raw(name: str) -> dict:
    return {
        "driver": "raw",
        "node-name": name,
        "discard": "unmap",
        "file": {"driver": "file", "filename": _image(name)},
    }


def _hardware(ctx: Context) -> list[str]:
    data = "driver=raw,node-name=data,discard=unmap,file.driver=file"
    return [
        *("-object", "iothread,id=io0", "-object", "iothread,id=io1"),
        *("-device", "virtio-scsi-pci,id=scsi0,iothread=io0,num_queues=2"),
        *("-drive", f"file={ctx.disk},format=raw,if=none,id=root"),
        *("-device", "scsi-hd,id=root,drive=root,bus=scsi0.0,scsi-id=0,lun=0"),
        *("-blockdev", f"{data},file.filename={_image('data')}", "-device"),
        "scsi-hd,id=data,drive=data,bus=scsi0.0,scsi-id=0,lun=1,serial=rhea-data-1,vendor=LAB,"
        "product=TURNTABLE,ver=2.5,wwn=0x5000c50015ea71ac",
        *ctx.params["machine"],
    ]


def _log_in(vm: Vm, record: dict) -> None:
    vm.monitor.negotiate()
    expect_banner(vm.console)
    vm.console.login()
    vm.console.run("dmesg -n 1")  # what the kernel says is asked for, not mixed with answers
    record["boot"] = kernel_errors(vm)
    vm.console.run("dmesg -c > /dev/null")  # the nested machine's CPU is good for a trace at boot
    vm.console.run(SHELL)
    vm.console.run("data=$(disk 0 1)")  # which disk gets which name is a race in the kernel


def _view(vm: Vm, record: dict) -> None:
    run = vm.console.run
    record["root"] = run("grep ' / ext4 ' /proc/mounts | cut -d' ' -f1")
    record["disks"] = run("disk 0 0; disk 0 1")
    for name in ("vendor", "model", "rev", "type"):
        record[name] = run(f"cat $(unit 0 1)/{name}")
    record["serial"] = run("tail -c +5 $(unit 0 1)/vpd_pg80; echo")
    record["identification"] = run("xxd -p $(unit 0 1)/vpd_pg83 | tr -d '\\n'; echo")
    record["queues"] = run("ls /sys/block/$data/mq | wc -l")
    record["sectors"] = run("cat /sys/block/$data/size")
    record["cache"] = run("cat /sys/block/$data/queue/write_cache $(unit 0 1)/scsi_disk/*/cache_type")
    record["provisioning"] = run("cat $(unit 0 1)/scsi_disk/*/provisioning_mode")
    record["discard"] = run("cat /sys/block/$data/queue/discard_max_bytes")
    record["zeroes"] = run("cat /sys/block/$data/queue/write_zeroes_max_bytes")


def _fio_verify(vm: Vm, *more: str) -> tuple[int, str]:
    """Two jobs, a CPU and so a queue each, with half of the disk each."""
    return vm.console.run(
        f"{FIO} --name=verify --filename=/dev/$data --rw=randwrite --numjobs=2 --thread "
        "--offset_increment=16m --cpus_allowed=0-1 --cpus_allowed_policy=split --verify=crc32c "
        f"--verify_fatal=1 --output=/tmp/verify.report {' '.join(more)}",
        timeout=180,
    )


def _verify(vm: Vm, record: dict) -> None:
    record["fio"] = _fio_verify(vm)
    record["interrupts"] = vm.console.run("grep request /proc/interrupts")
    record["stats"] = vm.monitor.execute("query-blockstats")
    with open(_image("data"), "r+b", buffering=0) as image:  # the guest bypasses its own cache
        at = os.lseek(image.fileno(), 0, os.SEEK_DATA) + 100
        byte = os.pread(image.fileno(), 1, at)[0]
        os.pwrite(image.fileno(), bytes([byte ^ 1]), at)
        record["corrupt"] = _fio_verify(vm, "--verify_only=1")
        os.pwrite(image.fileno(), bytes([byte]), at)
    record["repaired"] = _fio_verify(vm, "--verify_only=1")


def _resize(vm: Vm, record: dict) -> None:
    """Nobody asks for a rescan: the adapter's event does."""
    vm.monitor.execute("block_resize", {"node-name": "data", "size": GROWN_MIB << 20})
    record["grown"] = vm.console.run(
        f"until [ $(cat /sys/block/$data/size) = {GROWN_MIB << 11} ]; do :; done; echo grown"
    )
    last = (GROWN_MIB << 11) - 1
    record["last"] = vm.console.run(
        f"echo end | dd of=/dev/$data bs=512 seek={last} count=1 conv=sync,fsync 2>/dev/null; "
        f"dd if=/dev/$data bs=512 skip={last} count=1 iflag=direct 2>/dev/null | head -c 4"
    )


def _discard(vm: Vm, record: dict) -> None:
    def allocated() -> int:
        return os.stat(_image("data")).st_blocks * 512

    record["before"] = allocated()
    record["status"] = vm.console.run(f"blkdiscard -o 0 -l {16 << 20} /dev/$data")
    record["after"] = allocated()


def _plug(vm: Vm, name: str, node: str, bus: str, target: int, lun: int) -> None:
    place = {"bus": f"{bus}.0", "channel": 0, "scsi-id": target, "lun": lun}
    vm.monitor.execute("device_add", {"driver": "scsi-hd", "id": name, "drive": node, **place})


def _wait_for(vm: Vm, target: int, lun: int) -> str:
    """The guest's name for it, once it has found it by itself."""
    return vm.console.run(f"wait_for {target} {lun}", timeout=180)[1].strip()


def _start_fio(vm: Vm, disk: str) -> None:
    vm.console.run(
        f"(rm -f /tmp/hot.end; {FIO} --name=hot --filename=/dev/{disk} --rw=randrw --time_based "
        "--runtime=600 --output=/tmp/hot.report; echo $? > /tmp/hot.end) > /dev/null 2>&1 & "
        f"echo $! > /tmp/hot.pid; wait_io {disk}",
        timeout=180,
    )


def _deleted(vm: Vm, count: int) -> list[dict]:
    return [vm.monitor.wait_event("DEVICE_DELETED", timeout=120)["data"] for _ in range(count)]


def _gone(vm: Vm, disk: str, target: int, lun: int) -> dict:
    """fio's exit status, and whether the guest still lists the disk."""
    vm.console.run(f"wait_gone {target} {lun}; wait_pid hot", timeout=180)
    return {
        "fio": vm.console.run("cat /tmp/hot.end")[1].strip(),
        "listed": vm.console.run(f"grep -c ' {disk}$' /proc/partitions"),
    }


def _round(vm: Vm, target: int, lun: int) -> dict:
    """Plugs a unit, pulls it while fio is at it. fio fails then."""
    _plug(vm, "unit", "hot", "scsi0", target, lun)
    disk = _wait_for(vm, target, lun)
    _start_fio(vm, disk)
    vm.monitor.execute("device_del", {"id": "unit"})
    return {"disk": disk, "told": _deleted(vm, 1), **_gone(vm, disk, target, lun)}


def _adapter_round(vm: Vm) -> dict:
    """The same with an adapter and two units; its driver may find them or be told of them."""
    vm.monitor.execute(
        "device_add",
        {"driver": "virtio-scsi-pci", "id": "far", "iothread": "io1", "num_queues": 2},
    )
    for node, name, target, lun in UNITS:
        _plug(vm, name, node, "far", target, lun)
    disks = [_wait_for(vm, target, lun) for _, _, target, lun in UNITS]
    _start_fio(vm, disks[0])
    vm.monitor.execute("device_del", {"id": "far"})
    told = _deleted(vm, 2 + len(UNITS))
    # At once: nothing of it is in use any more.
    vm.monitor.execute("object-del", {"id": "io1"})
    vm.monitor.execute("object-add", {"qom-type": "iothread", "id": "io1"})
    gone = [_gone(vm, disk, *unit[2:]) for disk, unit in zip(disks, UNITS)]
    return {"disks": disks, "told": told, "gone": gone}


def _pull_mounted(vm: Vm, record: dict) -> None:
    _plug(vm, "unit", "mounted", "scsi0", 1, 0)
    disk = record["disk"] = _wait_for(vm, 1, 0)
    record["mounted"] = vm.console.run(
        f"mkdir -p /tmp/hot && mount -t ext4 /dev/{disk} /tmp/hot; echo $?"
    )
    vm.console.run(
        f"{FIO} --name=hot --directory=/tmp/hot --rw=randwrite --time_based --runtime=600 "
        "--output=/tmp/hot.report > /dev/null 2>&1 & echo $! > /tmp/hot.pid; "
        f"wait_io {disk}",
        timeout=180,
    )
    vm.monitor.execute("device_del", {"id": "unit"})
    record["told"] = _deleted(vm, 1)
    record["gone"] = vm.console.run(
        f"wait_gone 1 0; wait_pid hot; umount -l /tmp/hot; grep -c ' {disk}$' /proc/partitions",
        timeout=180,
    )
    # The rest of it is as well as ever, the root on the same adapter too.
    record["alive"] = alive(vm, "$data")
    record["errors"] = kernel_errors(vm)
    record["oops"] = vm.console.run(
        "dmesg | grep -iE -B 12 -A 25 'oops|BUG:|call trace|blocked for more'"
    )
