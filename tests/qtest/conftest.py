"""The qtest tier: the real binary without vCPUs; a client drives ports, memory and the clock."""

from __future__ import annotations

import pathlib
import sys
from typing import Iterator

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from qtest import Machine  # noqa: E402


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    """A `pc` with one serial port, watched by QMP and by the IRQ interceptor."""
    with Machine(tmp_path) as started:
        yield started
