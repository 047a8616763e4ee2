"""Stock kernels boot to a shell and power off: one, two and four CPUs, bzImage and PVH ELF."""

from lab.inside.agent import Context
from lab.inside.machine import expect_banner, linux

_BOOTS = {
    "one_cpu": {"cpus": 1},
    "two_cpus": {"cpus": 2},
    "four_cpus": {"cpus": 4},
    "pvh": {"kernel": "vmlinux"},
}


def run(ctx: Context) -> None:
    for name in ctx.params.get("boots", _BOOTS):
        with ctx.case(name) as record, ctx.vm(name, linux(ctx, **_BOOTS[name])) as vm:
            record["release"], record["cpus"] = expect_banner(vm.console)
            record["boot_seconds"] = ctx.now() - vm.started
            vm.console.login()
            record["uname"] = vm.console.run("uname -r")
            record["nproc"] = vm.console.run("nproc")
            vm.console.send("poweroff -f\n")
            record["exit_status"] = vm.wait_exit()
            record["seconds"] = ctx.now() - vm.started
