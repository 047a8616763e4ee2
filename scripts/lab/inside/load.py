"""What a guest does while its disks are pulled, and what its kernel says of that."""

from lab.inside.vm import Vm

FIO = (
    "fio --eta=never --direct=1 --ioengine=libaio --iodepth=8 --bsrange=4k-64k --size=8m "
    "--verify_state_save=0"
)


def await_disk(name: str) -> str:
    """The node under /dev comes before the entry that /proc/partitions is made of."""
    return f"until grep -q {name} /proc/partitions; do :; done"


def kernel_errors(vm: Vm) -> list[str]:
    """What the kernel says at level "error" and above."""
    return vm.console.run("dmesg -r | grep '^<[0-3]>' | cut -d']' -f2-")[1].splitlines()


def start_load(vm: Vm, *disks: str) -> None:
    """The disks are written and verified all the time, until end_load()."""
    vm.console.run("rm -f /tmp/load*; touch /tmp/go")
    for disk in disks:
        vm.console.run(
            f"(while [ -e /tmp/go ]; do {_verify(disk)} || echo bad {disk} >> /tmp/load; "
            "echo turn >> /tmp/load; done) > /dev/null 2>&1 & echo $! >> /tmp/load.pids"
        )


def end_load(vm: Vm) -> tuple[int, str]:
    """What there was: (0, "turn\\n") if nothing was bad."""
    return vm.console.run(
        "rm /tmp/go; for pid in $(cat /tmp/load.pids); do "
        "while [ -d /proc/$pid ]; do sleep 0.1; done; done; sort -u /tmp/load",
        timeout=180,
    )


def alive(vm: Vm, disk: str) -> tuple[int, str]:
    """The rest of the guest is as well as ever: (0, "0\\nkept\\n")."""
    return vm.console.run(
        f"{_verify(disk)}; echo $?; echo kept > /root/kept && sync && cat /root/kept", timeout=180
    )


def _verify(disk: str) -> str:
    return (
        f"{FIO} --name=load --filename=/dev/{disk} --rw=randwrite --verify=crc32c "
        f"--verify_fatal=1 --output=/tmp/load.{disk}"
    )
