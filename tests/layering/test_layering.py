"""The build refuses an upward include and an upward call: seen to fail, not believed to."""

from __future__ import annotations

import json
import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
ORDER = ["util", "memory", "block", "devices", "migration", "vmm"]
FOLDERS = [folder for folder in ORDER if (ROOT / folder).is_dir()]


def compile_in(folder: str, source: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Compiles `source` as a file of `folder` would be."""
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    entry = next(e for e in entries if e["file"].startswith(f"../{folder}/"))
    words = shlex.split(entry["command"])
    words[words.index("-o") + 1] = str(source.with_suffix(".o"))
    words[words.index("-c") + 1] = str(source)
    return subprocess.run(words, cwd=BUILD, text=True, capture_output=True, check=False)


def a_header_of(folder: str) -> str:
    return next(f"{folder}/{path.name}" for path in sorted((ROOT / folder).glob("*.h")))


@pytest.mark.parametrize("lower,higher", [(low, high) for i, low in enumerate(FOLDERS)
                                          for high in FOLDERS[i + 1:]])
def test_upward_include_is_not_found(tmp_path: pathlib.Path, lower: str, higher: str) -> None:
    source = tmp_path / "upward.cc"
    source.write_text(f'#include "{a_header_of(higher)}"\n')
    done = compile_in(lower, source)
    assert done.returncode != 0
    assert "No such file or directory" in done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_own_include_is_found(tmp_path: pathlib.Path, folder: str) -> None:
    source = tmp_path / "own.cc"
    source.write_text(f'#include "{a_header_of(folder)}"\n')
    done = compile_in(folder, source)
    assert done.returncode == 0, done.stderr


def test_upward_call_does_not_link(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "upward_call.cc"
    source.write_text("namespace rhea::memory { void above(); }\n"
                      "int main() { rhea::memory::above(); }\n")
    assert compile_in("util", source).returncode == 0
    done = subprocess.run(["c++", str(source.with_suffix(".o")), str(BUILD / "util/libutil.a"),
                           "-o", str(tmp_path / "upward_call")],
                          text=True, capture_output=True, check=False)
    assert done.returncode != 0
    assert "undefined reference" in done.stderr
