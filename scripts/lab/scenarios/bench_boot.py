"""Boots a stock kernel to power-off, and to an idle shell, on each side in turn."""

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux
from lab.inside.memory_use import overhead_kib

RAM_MIB = 256


def run(ctx: Context) -> None:
    sides = ctx.params["sides"]
    for number in range(ctx.params["rounds"]):
        for side in sides if number % 2 else list(reversed(sides)):
            values = _power_off(ctx, side) | _idle(ctx, side)
            ctx.event("sample", side=side["label"], values=values)


def _power_off(ctx: Context, side: dict[str, str]) -> dict[str, float]:
    options = linux(ctx, memory=str(RAM_MIB), append=[ctx.params["end_at_once"]])
    with ctx.vm(side["label"], options, vmm=side["vmm"]) as vm:
        expect_banner(vm.console)
        banner = vm.console.last_read - vm.started
        status = vm.wait_exit()
        if status != 0:
            raise RuntimeError(f"{side['label']} ended with status {status}")
        return {"boot_to_init_s": banner, "boot_to_power_off_s": ctx.now() - vm.started}


def _idle(ctx: Context, side: dict[str, str]) -> dict[str, float]:
    with ctx.vm(side["label"], linux(ctx, memory=str(RAM_MIB)), vmm=side["vmm"]) as vm:
        vm.console.login()
        return {"idle_overhead_mib": overhead_kib(vm.process.pid, RAM_MIB) / 1024}
