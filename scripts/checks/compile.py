"""Checks that compile without linking: headers alone, and clang's thread-safety analysis.

`python3 -m scripts.checks.compile headers|tsa`
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

from .lint import FOLDERS, sources
from .steps import ROOT

BUILD = ROOT / "build"
# What GCC knows and clang does not, and what names an output.
DROP = {"-Wduplicated-cond", "-Wlogical-op", "-Wno-maybe-uninitialized", "-c", "-MD"}
DROP_WITH_VALUE = {"-o", "-MQ", "-MF"}


def clang_flags(command: str) -> list[str]:
    """The GCC compile command's flags, for clang to read the same file."""
    words = shlex.split(command)
    words = words[words.index("c++") + 1:] if "c++" in words else words[1:]
    flags, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in DROP_WITH_VALUE:
            skip = True
        elif word not in DROP and not word.endswith(".cc"):
            flags.append(word)
    return flags


def compile_commands() -> list[dict[str, str]]:
    return json.loads((BUILD / "compile_commands.json").read_text())


def syntax_only(path: pathlib.Path, flags: list[str]) -> str:
    done = subprocess.run(["clang++-19", *flags, "-Wthread-safety", "-Wthread-safety-beta",
                           "-fsyntax-only", str(path)], cwd=BUILD, text=True,
                          capture_output=True, check=False)
    return done.stderr if done.returncode else ""


def analyse() -> list[tuple[pathlib.Path, list[str]]]:
    """Every source file with the flags of its own folder."""
    return [((BUILD / entry["file"]).resolve(), clang_flags(entry["command"]))
            for entry in compile_commands()]


def headers(scratch: pathlib.Path) -> list[tuple[pathlib.Path, list[str]]]:
    """A file a header that includes it twice and nothing else."""
    by_folder = {}
    for path, flags in analyse():
        by_folder.setdefault(path.relative_to(ROOT).parts[0], flags)
    jobs = []
    for header in (path for path in sources() if path.suffix == ".h"):
        name = header.relative_to(ROOT)
        if name.parts[0] not in FOLDERS or name.parts[0] not in by_folder:
            continue
        probe = scratch / (str(name).replace("/", "_") + ".cc")
        probe.write_text(f'#include "{name}"\n#include "{name}"\n')
        jobs.append((probe, by_folder[name.parts[0]]))
    return jobs


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        jobs = analyse() if sys.argv[1] == "tsa" else headers(pathlib.Path(scratch))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            failures = [text for text in pool.map(lambda job: syntax_only(*job), jobs) if text]
    print(f"{len(jobs)} files")
    print("\n".join(failures))
    return 1 if failures or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
