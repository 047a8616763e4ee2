#!/usr/bin/env python3
"""Check one spin model, or one deliberately bad twin of it, and judge the outcome.

    run_model.py MODEL [-D NAME]... --expect pass
    run_model.py MODEL [-D NAME]... --expect fail [--by assertion|deadlock|cycle]
    run_model.py MODEL --ltl CLAIM ...        liveness: the claim, under weak fairness

Without --ltl the run is a safety run: assertions and invalid end states. With it the named claim is
searched for acceptance cycles (pan -a -f); the model sees LIVENESS defined.

A verdict counts only when the whole state space was searched, so a depth or memory limit is a failure
for `pass` and for `fail` alike. A `pass` of a safety run must also have reached every statement of the
model: a model that cannot get somewhere proves nothing about that place.

Exit status: 0 as expected, 1 not as expected, 2 wrong usage or a model that does not build, 77 no spin.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MAX_DEPTH = 500_000  # steps; pan grows no stack beyond it, so it is also the truncation limit
MEMORY_LIMIT_MB = 1024
TIME_LIMIT_S = 300

FAILURES = {  # how pan words each kind of counterexample
    "assertion": r"^pan:\d+: assertion violated",
    "deadlock": r"^pan:\d+: invalid end state",
    "cycle": r"^pan:\d+: acceptance cycle",
}
TRUNCATIONS = ("max search depth too small", "out of memory", "reached -DMEMLIM", "max nr of states")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("--ltl", metavar="CLAIM", help="check this ltl claim instead of safety")
    parser.add_argument("--expect", required=True, choices=["pass", "fail"])
    parser.add_argument("--by", choices=sorted(FAILURES), help="the kind of failure that is expected")
    args = parser.parse_args()
    if args.by and args.expect == "pass":
        parser.error("--by needs --expect fail")
    return args


def run(command, directory):
    """Runs a command and returns (status, output); a run over time has no verdict and ends us."""
    try:
        done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{command[0]}: no verdict within {TIME_LIMIT_S} s")
    return done.returncode, done.stdout


def must_run(command, directory):
    status, output = run(command, directory)
    if status != 0:
        print(output)
        print(f"{' '.join(command)}: exit status {status}")
        sys.exit(2)
    return output


def c_compiler():
    for name in ("cc", "gcc", "clang", "clang-19"):
        path = shutil.which(name)
        if path:
            return path
    sys.exit("no C compiler to build the verifier with")


def build_verifier(args, directory):
    defines = [f"-D{name}" for name in [*args.defines, *(["LIVENESS"] if args.ltl else [])]]
    must_run(["spin", *defines, "-a", str(args.model.resolve())], directory)
    kind = [] if args.ltl else ["-DSAFETY", "-DNOCLAIM"]
    must_run([c_compiler(), "-O1", "-w", *kind, f"-DMEMLIM={MEMORY_LIMIT_MB}", "-o", "pan", "pan.c"],
             directory)


def search(args, directory):
    """Runs the verifier and returns its report."""
    mode = ["-a", "-f", "-N", args.ltl] if args.ltl else []
    _, report = run(["./pan", f"-m{MAX_DEPTH}", *mode], directory)
    return report


def unreached(report):
    """Statements no execution reached, save the ends of processes that are meant to run for ever."""
    lines = re.findall(r"^\s+\S+\.pml:\d+, state \d+, .*$", report, re.MULTILINE)
    return [line.strip() for line in lines if '"-end-"' not in line]


def judge(args, report):
    """Returns the reason why the outcome is not the expected one, or None."""
    if any(text in report for text in TRUNCATIONS):
        return "the search was truncated"
    errors = re.search(r"errors: (\d+)", report)
    if errors is None or "states, stored" not in report:
        return "the verifier gave no verdict"
    found = [kind for kind, text in FAILURES.items() if re.search(text, report, re.MULTILINE)]
    if args.expect == "fail":
        if int(errors[1]) == 0:
            return "this twin must fail, and no failure was found"
        if args.by and found != [args.by]:
            return f"expected a failure by {args.by}, found {found}"
        return None
    if int(errors[1]) != 0:
        return f"failed by {found}"
    if not args.ltl and unreached(report):
        return "passed, but some statements are never reached: " + "; ".join(unreached(report))
    return None


def show_trail(args, directory):
    """Prints the counterexample step by step."""
    mode = ["-N", args.ltl] if args.ltl else []
    print(run(["./pan", "-r", *mode], directory)[1][-20000:])


def main():
    args = parse_arguments()
    if shutil.which("spin") is None:
        print("SKIP: spin is not installed")
        return 77
    if not args.model.is_file():
        print(f"{args.model}: no such model")
        return 2
    for name in args.defines:  # a misspelt variant would be the plain model, and pass
        if not re.search(rf"\b{re.escape(name.split('=')[0])}\b", args.model.read_text()):
            print(f"{args.model}: knows no {name}")
            return 2
    with tempfile.TemporaryDirectory(prefix="rhea-model-") as directory:
        build_verifier(args, directory)
        report = search(args, directory)
        problem = judge(args, report)
        states = re.search(r"(\d+) states, stored", report)
        depth = re.search(r"depth reached (\d+)", report)
        what = " ".join([args.model.stem, *args.defines, *([args.ltl] if args.ltl else [])])
        print(f"{what}: {states[1] if states else '?'} states, depth {depth[1] if depth else '?'}, "
              f"expected {args.expect}: {'yes' if problem is None else 'NO, ' + problem}")
        if problem is not None:
            print(report)
            if os.path.exists(os.path.join(directory, f"{args.model.name}.trail")):
                show_trail(args, directory)
        return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main())
