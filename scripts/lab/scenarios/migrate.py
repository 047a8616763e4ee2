"""scripts/demo migrate: a guest that counts on its console is moved to another instance."""

from lab.inside import migration
from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.show import Show
from lab.inside.vm import Vm

URI = "unix:/tmp/move.sock"
TICKER = "i=0; while sleep 0.1; do i=$((i + 1)); echo tick $i; done\n"
TICKS = 15  # on each side
MULTIFD = '{"capability": "multifd", "state": true}'


def run(ctx: Context) -> None:
    options = linux(ctx, cpus=ctx.params["cpus"], memory=ctx.params["memory"])
    with (
        ctx.case("migrate") as record,
        ctx.vm("first", options, qmp=True) as first,
    ):
        first.monitor.negotiate()
        expect_banner(first.console, ctx.params["timeout"])
        first.console.login()
        first.console.send(TICKER)
        _wait_for_tick(ctx, [first], TICKS)
        with ctx.vm("second", [*options, "-incoming", URI], qmp=True) as second:
            second.monitor.negotiate()
            _move(ctx, first, second, record)
            _go_on(ctx, first, second, record)


def _wait_for_tick(ctx: Context, vms: list[Vm], number: int) -> None:
    def came() -> bool:
        return any(n >= number for n in migration.numbers(migration.joined(vms), "tick"))

    if not ctx.pump.wait(came, ctx.params["timeout"]):
        raise AssertionError(f"no tick {number}: {vms[-1].console.tail()}")


def _move(ctx: Context, first: Vm, second: Vm, record: dict) -> None:
    here, there = Show(ctx, first, "first"), Show(ctx, second, "second")
    here.tell("type", f"build/rhea .. -qmp unix:second.sock,server=on,wait=off -incoming {URI}")
    here.qmp(f"migrate-set-capabilities 'capabilities=[{MULTIFD}]'")
    here.qmp(f"migrate-set-parameters multifd-channels={ctx.params['channels']} max-bandwidth=0")
    here.qmp(f"migrate uri={URI}")
    record["migration"] = migration.finish(first)
    if record["migration"]["status"] != "completed":
        raise AssertionError(record["migration"].get("error-desc", "no reason was given"))
    for show in (here, there):
        show.qmp("query-status")


def _go_on(ctx: Context, first: Vm, second: Vm, record: dict) -> None:
    """The counting, on the other side; the first instance is not needed for it."""
    vms = [first, second]
    reached = max(migration.numbers(migration.joined(vms), "tick"))
    first.monitor.execute("quit")
    record["exit_statuses"] = [first.wait_exit()]
    _wait_for_tick(ctx, vms, reached + TICKS)
    second.console.send("\x03")
    second.console.login()
    record["by_instance"] = [len(migration.numbers(vm.console.text, "tick")) for vm in vms]
    record["console"] = migration.joined(vms)
    second.console.send("poweroff -f\n")
    record["exit_statuses"].append(second.wait_exit())
