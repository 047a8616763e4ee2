"""A stock guest that counts and writes pages moves between two instances, on each side in turn."""

import contextlib

from lab.inside import migration
from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.vm import Vm

# A few MiB again and again, as in the lab's test, and a count to see that it goes on.
LOAD = (
    "mkdir -p /tmp/ram && mount -t tmpfs ram /tmp/ram; (i=0; while :; do "
    "dd if=/bin/busybox of=/tmp/ram/pages bs=64k seek=$((i * 32)) conv=notrunc; "
    "i=$(((i + 1) % 4)); usleep 100000; done) > /dev/null 2>&1 & "
    "i=0; while sleep 0.2; do i=$((i + 1)); echo tick $i; done\n"
)
TICKS = 10  # seen before each move
NO_LIMIT = 1 << 40


def run(ctx: Context) -> None:
    for number in range(ctx.params["rounds"]):
        sides = ctx.params["sides"]
        for side in sides if number % 2 else list(reversed(sides)):
            _round(ctx, side)


def _round(ctx: Context, side: str) -> None:
    """One guest, and a move for each number of channels."""
    options = linux(ctx, cpus=2, append=["nowatchdog", "rcupdate.rcu_cpu_stall_timeout=300"])
    with contextlib.ExitStack() as stack:

        def start(label: str, *extra: str) -> Vm:
            vm = stack.enter_context(ctx.vm(label, [*options, *extra], vmm=side, qmp=True))
            vm.monitor.negotiate()
            return vm

        here = start(side)
        expect_banner(here.console)
        here.console.login()
        here.console.send(LOAD)
        _wait_for_ticks(ctx, here)
        for channels in ctx.params["channels"]:
            there = start(f"{side}-{channels}", "-incoming", "defer")
            for vm in (here, there):
                migration.configure(
                    vm,
                    channels,
                    **{"max-bandwidth": NO_LIMIT, "downtime-limit": ctx.params["downtime_limit"]},
                )
            uri = migration.listen(there, f"unix:/tmp/{side}{channels}")
            moved = migration.move(here, there, uri)
            if moved["status"] != "completed":
                raise AssertionError(f"{side}: {moved}")
            stood = (
                there.monitor.wait_event("RESUME")["received"]
                - here.monitor.wait_event("STOP")["received"]
            )
            told = here.monitor.execute("query-migrate")  # QEMU works it out behind its event
            values = {
                "time": told["total-time"],
                "downtime as told": told["downtime"],
                "STOP to RESUME": stood * 1e3,
            }
            ctx.event("sample", side=side, channels=channels, values=values)
            here.monitor.execute("quit")
            here.wait_exit()
            here = there
            _wait_for_ticks(ctx, here)
        here.monitor.execute("quit")
        here.wait_exit()


def _wait_for_ticks(ctx: Context, vm: Vm) -> None:
    start = len(migration.numbers(vm.console.text, "tick"))
    if not ctx.pump.wait(
        lambda: len(migration.numbers(vm.console.text, "tick")) >= start + TICKS,
        ctx.params["timeout"],
    ):
        raise AssertionError(f"the guest does not count: {vm.console.tail()}")
