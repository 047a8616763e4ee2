"""A file system that is full when a test wants it to be."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from typing import Iterator

import pytest


class FullTmpfs:
    """A tmpfs of the test's own that has `room` bytes left until make_room() is called."""

    def __init__(self, path: pathlib.Path, size: int, room: int) -> None:
        self.path = path
        self._ballast = path / "ballast"
        self._ballast.write_bytes(bytes(size - room))

    def image(self, name: str, size: int) -> pathlib.Path:
        """A sparse file: it takes room when it is written."""
        path = self.path / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def make_room(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def full_tmpfs(path: pathlib.Path, size: int, room: int) -> Iterator[FullTmpfs]:
    """Mounts one at `path`, which does not exist yet. Skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    path.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "rhea-test", str(path)],
                           capture_output=True, text=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"a tmpfs can not be mounted here: {mount.stderr.strip()}")
    try:
        yield FullTmpfs(path, size, room)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
