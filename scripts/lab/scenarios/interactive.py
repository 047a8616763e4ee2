"""scripts/demo in the lab: the VMM's standard streams lead to the user's terminal."""

import os
import subprocess

from lab.inside.agent import Context
from lab.inside.ports import open_port


def run(ctx: Context) -> None:
    assert ctx.tty is not None, "only the nested machine has a port for the terminal"
    port = open_port(ctx.tty, os.O_RDWR)
    ctx.event("boot")
    status = subprocess.call(
        [*ctx.vmms["vmm"], *ctx.params["options"]], stdin=port, stdout=port, stderr=port
    )
    ctx.event("vmm_exit", status=status)
    if status != 0:
        raise RuntimeError(f"the VMM ended with status {status}")
