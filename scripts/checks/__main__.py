"""scripts/check: see the table for what runs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from . import table
from .lint import fix_format
from .runner import Runner, print_total


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/check", description=__doc__)
    parser.add_argument("group", nargs="?", default="default", choices=["quick", "default", "all"])
    parser.add_argument("--part", choices=["stress", "lab", "fuzz"],
                        help="with all: one part of the full sizes")
    parser.add_argument("--fix", action="store_true", help="format the tree, then check")
    parser.add_argument("--only", action="append", metavar="STEP",
                        help="this step and what it stands on; may be repeated")
    parser.add_argument("--list", action="store_true", help="name the steps and exit")
    args = parser.parse_args()
    if args.part and args.group != "all":
        parser.error("--part goes with all")
    if args.fix:
        fix_format()
    steps = table.select(args.group, args.part, args.only)
    if args.list:
        for step in steps:
            print(f"{step.name:<28} {' '.join(step.command)}")
        return 0
    return print_total(Runner(steps, cores=max(2, os.cpu_count() or 2)).run())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"check: {error}")
