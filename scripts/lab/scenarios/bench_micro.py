"""Start-up figures with a tiny guest: greeting, first instruction, memory beyond guest RAM."""

from contextlib import AbstractContextManager
from typing import Any

from lab.inside.agent import Context
from lab.inside.machine import BASE
from lab.inside.memory_use import overhead_kib
from lab.inside.vm import Vm

RAM_MIB = 256
# side key -> how the guest's code gets in
GUESTS = {"kernel": ("-kernel", "micro_kernel"), "bios": ("-bios", "micro_firmware")}


def run(ctx: Context) -> None:
    sides = ctx.params["sides"]
    for number in range(ctx.params["rounds"] + 1):
        # The first round only warms the page cache; then the order alternates.
        report = number > 0
        for side in sides if number % 2 else list(reversed(sides)):
            _round(ctx, side, report=report)


def _round(ctx: Context, side: dict[str, Any], *, report: bool) -> None:
    values = {"greeting_ms": _greeting(ctx, side)}
    with _vm(ctx, side) as vm:
        vm.console.expect("R", timeout=ctx.params["timeout"])
        values["first_instruction_ms"] = (vm.console.last_read - vm.started) * 1000
        values["overhead_mib"] = overhead_kib(vm.process.pid, RAM_MIB) / 1024
    if report:
        ctx.event("sample", side=side["label"], values=values)


def _greeting(ctx: Context, side: dict[str, Any]) -> float:
    with _vm(ctx, side, "-S", qmp=True) as vm:
        vm.monitor.wait_greeting()
        return (vm.monitor.greeting_time - vm.started) * 1000


def _vm(
    ctx: Context, side: dict[str, Any], *extra: str, qmp: bool = False
) -> AbstractContextManager[Vm]:
    option, name = GUESTS[side["guest"]]
    options = [*BASE, "-m", str(RAM_MIB), option, ctx.files[name], *side["micro_options"], *extra]
    return ctx.vm(side["label"], options, vmm=side["vmm"], qmp=qmp)
