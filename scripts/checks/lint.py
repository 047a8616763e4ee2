"""Rules of the tree that no compiler checks. `python3 -m scripts.checks.lint RULE` runs one.

Rules: format, budgets, includes, errors, commits, annotations.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from typing import Callable

from . import cpp
from .steps import ROOT

FOLDERS = ["util", "memory", "block", "devices", "migration", "vmm"]
CC_LINES, H_LINES, FUNCTION_LINES = 500, 250, 60
COMMIT_TITLE = re.compile(r"^[a-z][a-z/, _.-]*: [A-Z][^\n]{2,}[^.\n]$")
COMMIT_COLUMNS = 100


def tracked(*patterns: str) -> list[pathlib.Path]:
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard",
                            *patterns], cwd=ROOT, check=True, text=True,
                           capture_output=True).stdout.split()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def sources() -> list[pathlib.Path]:
    return tracked("*.cc", "*.h")


def fix_format() -> None:
    subprocess.run(["clang-format-19", "-i", *map(str, sources())], check=True)


def check_format() -> list[str]:
    done = subprocess.run(["clang-format-19", "--dry-run", "--Werror", *map(str, sources())],
                          text=True, capture_output=True, check=False)
    return done.stderr.splitlines()[:40] if done.returncode else []


def file_over_budget(name: str, text: str) -> list[str]:
    lines = text.count("\n")
    limit = CC_LINES if name.endswith(".cc") else H_LINES
    return [f"{name}: {lines} lines, the budget is {limit}"] if lines > limit else []


def functions_over_budget(name: str, text: str) -> list[str]:
    return [f"{name}:{function.line}: {function.name}() has {function.lines} lines, the budget is "
            f"{FUNCTION_LINES}"
            for function in cpp.functions(text) if function.lines > FUNCTION_LINES]


def leaks_by_try(name: str, text: str) -> list[str]:
    """`new T(TRY(..))` takes the memory first and returns without it. An owner goes with its scope."""
    return [f"{name}:{line}: TRY() among the arguments of new leaks: bind its value to a variable first"
            for line in cpp.new_with(text, "TRY")]


def problems_of(*rules: Callable[[str, str], list[str]]) -> list[str]:
    """What the rules say about every source: they take its name and its text."""
    return [problem for path in sources() for rule in rules
            for problem in rule(str(path.relative_to(ROOT)), path.read_text())]


def check_budgets() -> list[str]:
    """Files and functions that stay readable: see the house style."""
    return problems_of(file_over_budget, functions_over_budget)


def check_errors() -> list[str]:
    return problems_of(leaks_by_try)


def check_includes() -> list[str]:
    """Includes are root-relative and never point at a folder to the right."""
    problems = []
    for path in sources():
        folder = path.relative_to(ROOT).parts[0]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'#include "([^"]+)"', line)
            if not found:
                if re.match(r"#include <linux/kvm.h>", line) and folder not in ("vmm", "tests"):
                    problems.append(f"{path.relative_to(ROOT)}:{number}: only vmm/ knows KVM")
                continue
            target = found.group(1)
            if target.startswith("..") or ("/" not in target and not (ROOT / target).exists()):
                problems.append(f"{path.relative_to(ROOT)}:{number}: not root-relative: {target}")
            first = target.split("/")[0]
            if folder in FOLDERS and first in FOLDERS:
                if FOLDERS.index(first) > FOLDERS.index(folder):
                    problems.append(f"{path.relative_to(ROOT)}:{number}: {folder}/ includes {first}/")
    return problems


def check_commits() -> list[str]:
    """Titles name a folder; lines of the body fit a terminal."""
    log = subprocess.run(["git", "log", "--no-merges", "-n", "400", "--format=%h%x00%B%x01"],
                         cwd=ROOT, check=True, text=True, capture_output=True).stdout
    problems = []
    for entry in filter(None, (part.strip() for part in log.split("\x01"))):
        commit, message = entry.split("\x00", 1)
        title, _, body = message.partition("\n")
        if not COMMIT_TITLE.match(title) or len(title) > COMMIT_COLUMNS:
            problems.append(f"{commit}: title '{title}'")
        problems += [f"{commit}: line too long: '{line}'" for line in body.splitlines()
                     if len(line) > COMMIT_COLUMNS and " " in line.strip()]
    return problems


def unannotated_overrides(path: pathlib.Path) -> list[int]:
    """The lines of overrides of a driver's request method that do not repeat its annotation."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    overrides = re.finditer(r"\bco_\w+\([^;{}]*?\)[^;{}()]*\boverride\b([^;{}]*)[;{]", text)
    return [text.count("\n", 0, found.start()) + 1 for found in overrides
            if "REQUIRES_SHARED(graph_lock)" not in found.group(1)]


EXEMPTION = "NO_THREAD_SAFETY_ANALYSIS"


def unexplained_exemptions(text: str) -> list[int]:
    """The lines of functions that the lock analysis leaves out, with no comment there or right above."""
    lines = text.splitlines()
    code = [line.split("//")[0].strip() for line in lines]
    unexplained = []
    for number, line in enumerate(code):
        if EXEMPTION not in line or line.startswith("#define"):
            continue
        first = number  # of the declaration
        while first > 0 and code[first - 1] and not code[first - 1].endswith((";", "{", "}", ":")):
            first -= 1
        above = lines[first - 1].lstrip() if first > 0 else ""
        if not any("//" in part for part in lines[first:number + 1]) and not above.startswith("//"):
            unexplained.append(number + 1)
    return unexplained


def check_annotations() -> list[str]:
    """An override inherits no annotation, and without one it may be called unlocked, unnoticed; what the
    analysis does not look at it can not refuse."""
    overrides = [f"{path.relative_to(ROOT)}:{line}: an override of a request method without "
                 "REQUIRES_SHARED(graph_lock)"
                 for path in sources() if path.parent.name != "annotations"
                 for line in unannotated_overrides(path)]
    return overrides + [f"{path.relative_to(ROOT)}:{line}: {EXEMPTION} without its reason beside it"
                        for path in sources() for line in unexplained_exemptions(path.read_text())]


RULES = {"format": check_format, "budgets": check_budgets, "includes": check_includes,
         "errors": check_errors, "commits": check_commits, "annotations": check_annotations}


def main() -> int:
    problems = RULES[sys.argv[1]]()
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
