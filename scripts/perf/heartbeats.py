"""When a guest was heard of, in whichever process it was, by one clock of the host."""

import os
import selectors
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lab.errors import LabError

PATIENCE_S = 60


class Heartbeats:
    """Reads the lines that come out of one FIFO for each process, and keeps when they came."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._paths = [folder / name for name in names]
        self._times: list[float] = []
        self._lines = dict.fromkeys(names, 0)
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        for name, path in zip(names, self._paths, strict=True):
            os.mkfifo(path)
            # Its own writer, too, so that it has no end before its time.
            self._selector.register(os.open(path, os.O_RDWR | os.O_NONBLOCK),
                                    selectors.EVENT_READ, name)
        wake, self._waker = os.pipe()
        self._selector.register(wake, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Heartbeats":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._waker)
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        for path in self._paths:
            path.unlink()

    def wait(self, name: str, more: int) -> None:
        with self._changed:
            enough = self._lines[name] + more
            if not self._changed.wait_for(lambda: self._lines[name] >= enough, PATIENCE_S):
                raise LabError(f"the guest in {name} is silent")

    def forget(self) -> None:
        """All but the last one."""
        with self._changed:
            del self._times[:-1]

    def longest_gap(self) -> float:
        """Seconds between two of them."""
        with self._changed:
            return max(now - then for then, now in zip(self._times, self._times[1:]))

    def _read(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                data = os.read(key.fd, 65536)
                with self._changed:
                    lines = data.count(b"\n")
                    self._times += [time.monotonic()] * bool(lines)
                    self._lines[key.data] += lines
                    self._changed.notify_all()
