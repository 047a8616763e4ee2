"""A stock kernel and a CD drive: discs come and go by the monitor's will and by the guest's own."""

from lab.inside.agent import Context
from lab.inside.load import kernel_errors
from lab.inside.machine import expect_banner, linux
from lab.inside.qmp import QmpError
from lab.inside.vm import Vm

READ = "md5sum < /tmp/cd/text | cut -c1-32"
MOUNT = "mount -t iso9660 -o ro /dev/sr0 /tmp/cd 2>&1"


def run(ctx: Context) -> None:
    options = linux(
        ctx, *_hardware(ctx), initrd="initrd_scsi", cpus=2, append=["lab.root=/dev/sda"]
    )
    with ctx.vm("cd", options, qmp=True) as vm:
        with ctx.case("first") as record:
            _log_in(vm, record)
            _first(vm, record)
        with ctx.case("locked") as record:
            _ask_for_it(ctx, vm, record)
        with ctx.case("ejected") as record:
            _eject(ctx, vm, record)
        with ctx.case("second") as record:
            _change(ctx, vm, record)
        with ctx.case("guest") as record:
            _guest_ejects(ctx, vm, record)
        with ctx.case("forced") as record:
            _take_by_force(ctx, vm, record)
            record["exit_status"] = _end(vm)


def _hardware(ctx: Context) -> list[str]:
    disc = "driver=raw,node-name=disc,read-only=on,file.driver=file"
    return [
        *("-object", "iothread,id=io0"),
        *("-device", "virtio-scsi-pci,id=scsi0,iothread=io0,num_queues=2"),
        *("-drive", f"file={ctx.disk},format=raw,if=none,id=root"),
        *("-device", "scsi-hd,drive=root,bus=scsi0.0,scsi-id=0"),
        *("-blockdev", f"{disc},file.filename={ctx.files['one']}"),
        *("-device", "scsi-cd,id=cd,drive=disc,bus=scsi0.0,scsi-id=5"),
    ]


def _log_in(vm: Vm, record: dict) -> None:
    vm.monitor.negotiate()
    expect_banner(vm.console)
    vm.console.login()
    vm.console.run("dmesg -n 1; mkdir -p /tmp/cd")
    record["boot"] = kernel_errors(vm)
    vm.console.run("dmesg -c > /dev/null")  # the nested machine's CPU is good for a trace at boot


def _drive(ctx: Context, vm: Vm) -> dict:
    """What query-block says of it; its medium by the name that the test has for it."""
    names = {path: name for name, path in ctx.files.items()}
    [row] = [row for row in vm.monitor.execute("query-block") if row["qdev"] == "cd"]
    return {
        "locked": row["locked"],
        "tray_open": row["tray_open"],
        "medium": names[row["inserted"]["file"]] if "inserted" in row else None,
    }


def _moved(vm: Vm, count: int) -> list[dict]:
    return [vm.monitor.wait_event("DEVICE_TRAY_MOVED")["data"] for _ in range(count)]


def _first(vm: Vm, record: dict) -> None:
    run = vm.console.run
    record["model"] = run("cat /sys/block/sr0/device/vendor /sys/block/sr0/device/model")
    record["abilities"] = run("grep 'Can ' /proc/sys/dev/cdrom/info | tr -s '\\t' ' '")
    record["mounted"] = run(MOUNT)
    record["label"] = run("cat /tmp/cd/label")
    record["digest"] = run(READ)
    record["write"] = run("echo x > /tmp/cd/label")
    record["errors"] = kernel_errors(vm)


def _ask_for_it(ctx: Context, vm: Vm, record: dict) -> None:
    """The guest has it mounted, and so locked: it hears of the wish, and keeps it."""
    # What the kernel tells everybody goes to a file, once there is a first sign that it does.
    vm.console.run(
        "uevent env > /tmp/uevents 2>/dev/null & until [ -s /tmp/uevents ]; "
        "do echo change > /sys/block/sr0/uevent; sleep 0.1; done; "
        "echo 500 > /sys/block/sr0/events_poll_msecs"
    )
    record["drive"] = _drive(ctx, vm)
    try:
        vm.monitor.execute("eject", {"id": "cd"})
        record["refused"] = None
    except QmpError as error:
        record["refused"] = str(error)
    record["asked"] = vm.console.run(
        "until grep -aq DISK_EJECT_REQUEST=1 /tmp/uevents; do sleep 0.1; done; echo asked"
    )
    vm.console.run("echo -1 > /sys/block/sr0/events_poll_msecs; killall uevent")
    vm.console.run("echo 3 > /proc/sys/vm/drop_caches")
    record["digest"] = vm.console.run(READ)
    record["untold"] = [event["event"] for event in vm.monitor.events]


def _eject(ctx: Context, vm: Vm, record: dict) -> None:
    record["umount"] = vm.console.run("umount /tmp/cd")
    record["unlocked"] = _drive(ctx, vm)
    vm.monitor.execute("eject", {"id": "cd"})
    record["opened"] = _moved(vm, 1)
    record["drive"] = _drive(ctx, vm)
    vm.monitor.execute("blockdev-del", {"node-name": "disc"})
    # The guest shuts the tray to look for a medium.
    record["mount"] = vm.console.run(MOUNT)
    record["shut"] = _moved(vm, 1)


def _change(ctx: Context, vm: Vm, record: dict) -> None:
    vm.monitor.execute(
        "blockdev-change-medium", {"id": "cd", "filename": ctx.files["two"], "format": "raw"}
    )
    record["moved"] = _moved(vm, 2)
    record["drive"] = _drive(ctx, vm)
    record["mounted"] = vm.console.run(MOUNT)
    record["label"] = vm.console.run("cat /tmp/cd/label")
    record["digest"] = vm.console.run(READ)
    record["umount"] = vm.console.run("umount /tmp/cd")
    record["errors"] = kernel_errors(vm)


def _guest_ejects(ctx: Context, vm: Vm, record: dict) -> None:
    record["eject"] = vm.console.run("eject /dev/sr0")
    record["opened"] = _moved(vm, 1)
    record["open"] = _drive(ctx, vm)
    record["load"] = vm.console.run("eject -t /dev/sr0")
    record["shut"] = _moved(vm, 1)
    record["drive"] = _drive(ctx, vm)
    record["mounted"] = vm.console.run(MOUNT)
    record["label"] = vm.console.run("cat /tmp/cd/label")
    record["errors"] = kernel_errors(vm)


def _take_by_force(ctx: Context, vm: Vm, record: dict) -> None:
    """What the guest has mounted is gone: its reads fail, and nothing else."""
    vm.monitor.execute("eject", {"id": "cd", "force": True})
    record["opened"] = _moved(vm, 1)
    vm.console.run("echo 3 > /proc/sys/vm/drop_caches")
    record["read"] = vm.console.run("cat /tmp/cd/text > /dev/null 2>&1")
    record["umount"] = vm.console.run("umount /tmp/cd")
    vm.monitor.execute(
        "blockdev-change-medium", {"id": "cd", "filename": ctx.files["one"], "format": "raw"}
    )
    record["mounted"] = vm.console.run(MOUNT)
    record["label"] = vm.console.run("cat /tmp/cd/label")
    record["digest"] = vm.console.run(READ)
    record["alive"] = vm.console.run("echo kept > /root/kept && sync && cat /root/kept")
    record["errors"] = kernel_errors(vm)
    record["oops"] = vm.console.run(
        "dmesg | grep -iE -B 12 -A 25 'oops|BUG:|call trace|blocked for more'"
    )


def _end(vm: Vm) -> int:
    vm.console.send("poweroff -f\n")
    return vm.wait_exit()
