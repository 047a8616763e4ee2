"""Runs one scenario by hand and prints its events: python3 -m lab SCENARIO [--vmm rhea|qemu]."""

import argparse
import json
import sys
from pathlib import Path

from lab import guest, host, kernel, runner, vmm
from lab.errors import LabError
from lab.terminal import Interrupted, signals_raise


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description=__doc__)
    parser.add_argument("scenario", type=Path)
    parser.add_argument("--vmm", help="rhea or qemu; default: RHEA_LAB_VMM, else rhea")
    parser.add_argument("--kernel", default="6.1", choices=sorted(kernel.METAPACKAGES))
    parser.add_argument("--param", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument(
        "--memory", type=int, default=4096, metavar="MIB", help="of the nested machine"
    )
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS")
    options = parser.parse_args()
    signals_raise()
    try:
        return _run(options)
    except (LabError, Interrupted, json.JSONDecodeError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    linux = kernel.fetch(options.kernel)
    choice = host.choose()
    print(f"lab: {linux.package} runs {choice}")
    params = {
        name: json.loads(value) for name, _, value in (p.partition("=") for p in options.param)
    }
    files = {
        "bzimage": linux.bzimage,
        "vmlinux": linux.vmlinux,
        "initrd": guest.initramfs(linux),
        "initrd_button": guest.initramfs(linux, modules=guest.POWER_BUTTON_MODULES),
    }
    result = runner.run(
        options.scenario.resolve(),
        vmms={"vmm": vmm.find(options.vmm)},
        files=files,
        params=params,
        timeout=options.timeout,
        memory_mib=options.memory,
        choice=choice,
        on_event=lambda event: print(json.dumps(event), flush=True),
    )
    print(result.report())
    return 0 if result.exit_status == 0 and all(c.ok for c in result.cases.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
