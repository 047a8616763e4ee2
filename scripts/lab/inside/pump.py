"""Waits for several file descriptors at once, so that no wait starves another source.

A scenario waits for one thing at a time (a line, a QMP reply, an exit), but while it waits every
registered source is read: a console whose pipe fills up would stall the guest.
"""

import selectors
import time
from collections.abc import Callable

# Of a wait for what must come. On a busy host a nested guest may take a minute for a command, and who
# hangs has the same time.
PATIENCE_S = 180.0


class WaitTimeout(Exception):
    """Something awaited did not come; the text says what, and what was seen instead."""


class Pump:
    """Dispatches readable descriptors to their handlers until a predicate holds.

    Thread: one thread only. Units: seconds of CLOCK_MONOTONIC.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, on_readable)

    def remove(self, fd: int) -> None:
        self._selector.unregister(fd)

    def wait(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Reads all sources until `predicate()` holds (True) or the time is over (False)."""
        deadline = time.monotonic() + timeout
        while not predicate():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in self._selector.select(left):
                key.data()
        return True

    def run_for(self, seconds: float) -> None:
        """Lets time pass as the subject of a test, with all sources still read."""
        self.wait(lambda: False, seconds)
