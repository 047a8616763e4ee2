"""What a check step is, and how the counts of each runner are read."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import xml.etree.ElementTree as ElementTree
from typing import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "check"


@dataclasses.dataclass
class Counts:
    """What a runner says of its tests. `skips` has a reason for each skipped one."""

    passed: int = 0
    failed: int = 0
    skips: list[str] = dataclasses.field(default_factory=list)

    @property
    def skipped(self) -> int:
        return len(self.skips)

    def add(self, other: "Counts") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skips += other.skips


Reader = Callable[["Step", int], Counts]


@dataclasses.dataclass(frozen=True)
class Step:
    """One command. It starts when every step in `after` has passed."""

    name: str
    command: list[str]
    read: Reader
    after: tuple[str, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    time_limit_s: int = 1200

    @property
    def report(self) -> pathlib.Path:
        return OUT / f"{self.name}.report"

    @property
    def log(self) -> pathlib.Path:
        return OUT / f"{self.name}.log"


def by_status(_step: Step, status: int) -> Counts:
    """A check that is one test: it passes with exit status 0."""
    return Counts(passed=1) if status == 0 else Counts(failed=1)


def no_tests(_step: Step, status: int) -> Counts:
    """A step that only prepares: it counts when it fails."""
    return Counts() if status == 0 else Counts(failed=1)


def catch2(step: Step, status: int) -> Counts:
    """Catch2's XML report: each test case counts; a warning "SKIP: reason" makes it a skip."""
    counts = Counts()
    try:
        cases = list(ElementTree.parse(step.report).iter("TestCase"))
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)  # it died before the report was complete
    for case in cases:
        result = case.find("OverallResult")
        warnings = [w.text or "" for w in case.iter("Warning")]
        skip = next((w.strip() for w in warnings if "SKIP: " in w), None)
        if result is None or result.get("success") != "true":
            counts.failed += 1
        elif skip is not None:
            counts.skips.append(f"{case.get('name')}: {skip}")
        else:
            counts.passed += 1
    if status != 0 and counts.failed == 0:
        counts.failed += 1  # a sanitizer's report after the last test
    return counts


def pytest(step: Step, status: int) -> Counts:
    """pytest's JUnit report."""
    counts = Counts()
    try:
        cases = list(ElementTree.parse(step.report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return Counts(failed=1)
    for case in cases:
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            counts.failed += 1
        elif skip is not None:
            counts.skips.append(f"{case.get('name')}: {skip.get('message')}")
        else:
            counts.passed += 1
    if not cases or (status != 0 and counts.failed == 0):
        counts.failed += 1
    return counts


def meson(step: Step, status: int) -> Counts:
    """Meson's testlog.json, one JSON object a line."""
    counts = Counts()
    log = pathlib.Path(step.env["MESON_TESTLOG"])
    try:
        tests = [json.loads(line) for line in log.read_text().splitlines()]
    except (OSError, json.JSONDecodeError):
        return Counts(failed=1)
    for test in tests:
        if test["result"] in ("OK", "EXPECTEDFAIL"):
            counts.passed += 1
        elif test["result"] == "SKIP":
            counts.skips.append(test["name"])
        else:
            counts.failed += 1
    if not tests or (status != 0 and counts.failed == 0):
        counts.failed += 1
    return counts
