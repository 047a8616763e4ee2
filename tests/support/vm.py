"""Runs the built rhea for whole-process tests. Waits are for events (bytes, exit), never for time."""

from __future__ import annotations

import os
import pathlib
import selectors
import signal
import subprocess
import time
from typing import IO, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("RHEA_BUILD", ROOT / "build"))
RHEA = BUILD / "rhea"

# Far above anything a healthy run needs: reaching it is a failure, not a delay.
PATIENCE_S = 60.0


def full_size() -> bool:
    return os.environ.get("RHEA_TEST_SIZE") == "full"


def sized(brief: int, full: int) -> int:
    return full if full_size() else brief


def address_sanitized() -> bool:
    """Whether the build under test has AddressSanitizer in it."""
    return b"__asan_init" in RHEA.read_bytes()


class Process:
    """A child whose stdout and stderr are read as they come."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], stdin: int | None = None,
                 pass_fds: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.PIPE if stdin is None else stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, pass_fds=pass_fds, start_new_session=True, bufsize=0)
        assert self.process.stdout and self.process.stderr
        self._buffers = {self.process.stdout: bytearray(), self.process.stderr: bytearray()}
        self._selector = selectors.DefaultSelector()
        for stream in self._buffers:
            self._selector.register(stream, selectors.EVENT_READ)
        self._seen = dict.fromkeys(self._buffers, 0)

    @property
    def stdout(self) -> str:
        return self._buffers[self.process.stdout].decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self._buffers[self.process.stderr].decode(errors="replace")

    def _read_some(self, timeout: float) -> bool:
        """Reads what is there; False once both streams have ended or time is up."""
        if not self._selector.get_map():
            return False
        ready = self._selector.select(max(0.0, timeout))
        for key, _ in ready:
            data = os.read(key.fd, 65536)
            if data:
                self._buffers[key.fileobj] += data
            else:
                self._selector.unregister(key.fileobj)
        return bool(ready)

    def wait_for(self, text: str, patience: float = PATIENCE_S) -> str:
        """Waits until `text` shows on stdout behind what an earlier wait_for took; returns all up to it."""
        return self._wait_for(self.process.stdout, text, patience)

    def wait_for_stderr(self, text: str, patience: float = PATIENCE_S) -> str:
        """As wait_for, on stderr."""
        return self._wait_for(self.process.stderr, text, patience)

    def _wait_for(self, stream: IO[bytes], text: str, patience: float) -> str:
        deadline = time.monotonic() + patience
        out, seen = self._buffers[stream], self._seen[stream]
        while (at := out.find(text.encode(), seen)) < 0:
            if not self._read_some(deadline - time.monotonic()):
                raise AssertionError(
                    f"{text!r} did not come; stdout: {self.stdout!r} stderr: {self.stderr!r}")
        self._seen[stream] = at + len(text.encode())
        return out[seen:self._seen[stream]].decode(errors="replace")

    def drain(self) -> None:
        """Takes what the process has written so far, without waiting for more."""
        while self._read_some(0):
            pass

    def send(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(text.encode())

    def wait(self, patience: float = PATIENCE_S) -> int:
        """Waits for the end; returns the exit status (negative: the signal)."""
        deadline = time.monotonic() + patience
        while self._selector.get_map():
            if not self._read_some(deadline - time.monotonic()) and time.monotonic() > deadline:
                self.kill()
                raise AssertionError(
                    f"still running; stdout: {self.stdout!r} stderr: {self.stderr!r}")
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def rhea(*arguments: str | os.PathLike[str], launcher: Sequence[str] = (),
         **options: object) -> Process:
    """Starts the built rhea, by a `launcher` that runs the rest of its command line if given."""
    return Process([*launcher, RHEA, *arguments], **options)  # type: ignore[arg-type]
