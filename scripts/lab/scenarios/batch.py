"""scripts/demo --batch: the guest runs the script in its image and powers off."""

from lab.inside.agent import Context
from lab.inside.machine import linux


def run(ctx: Context) -> None:
    options = linux(ctx, cpus=ctx.params["cpus"], memory=ctx.params["memory"])
    with ctx.case("batch") as record, ctx.vm("guest", options) as vm:
        vm.console.expect(r"^lab: exit status (\d+)", timeout=ctx.params["timeout"])
        record["exit_status"] = vm.wait_exit()
        record["seconds"] = ctx.now() - vm.started
