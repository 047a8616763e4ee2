"""What the block graph's rules forbid does not compile (T002h): seen to fail, and for the reason given.

Each file beside this one names in its first line what clang says of it, and compiles with -DGOOD, so that
it can fail for nothing else.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess

import pytest

from scripts.checks.lint import unannotated_overrides

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLANG = shutil.which("clang++-19")
FLAGS = ["-std=c++23", "-fsyntax-only", "-Wthread-safety", "-Werror", f"-I{ROOT}"]

pytestmark = pytest.mark.skipif(
    CLANG is None, reason="clang++-19, which has the lock analysis, is not installed")


def compiles(source: pathlib.Path, *more: str) -> tuple[bool, str]:
    done = subprocess.run([CLANG, *FLAGS, *more, str(source)], text=True, capture_output=True, check=False)
    return done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", sorted(HERE.glob("*.cc")), ids=lambda path: path.stem)
def test_is_refused_for_its_reason(source: pathlib.Path) -> None:
    good, errors = compiles(source, "-DGOOD")
    assert good, errors
    expected = re.fullmatch(r"// expect: (.*)", source.read_text().splitlines()[0])
    assert expected, "the first line says what is expected"
    good, errors = compiles(source)
    assert not good, f"{source.name} compiles"
    assert any(re.search(expected[1], line) for line in errors.splitlines() if " error: " in line), errors


def test_the_lint_finds_an_override_that_clang_may_miss() -> None:
    assert unannotated_overrides(HERE / "override_without_annotation.cc")
    assert not unannotated_overrides(ROOT / "block/drivers/null_co.h")
