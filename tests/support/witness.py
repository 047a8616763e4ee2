"""Who ran the guest, and when: its heartbeats, as one reader saw them come out of several instances."""

from __future__ import annotations

import os
import pathlib
import selectors
import threading
import time

FIRST_BEATS_S = 10.0  # within which a machine that goes on must have shown it


class Witness:
    """Reads the fifos that guests' debug ports write to, by one thread, with the host's clock."""

    def __init__(self, patience: float = FIRST_BEATS_S) -> None:
        self.patience = patience
        self.seen: list[tuple[float, str, bytes]] = []  # when, who, what: in the order of reading
        self._lines: dict[str, int] = {}
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def watch(self, who: str, path: pathlib.Path) -> None:
        """Makes the fifo of one instance."""
        os.mkfifo(path)
        self._lines[who] = 0
        self._selector.register(os.open(path, os.O_RDONLY | os.O_NONBLOCK), selectors.EVENT_READ, who)

    def beats(self, who: str, number: int = 3) -> bool:
        """Whether so many more heartbeats of this instance come in time."""
        with self._changed:
            enough = self._lines[who] + number
            return self._changed.wait_for(lambda: self._lines[who] >= enough, self.patience)

    def says(self, words: bytes) -> bool:
        """Whether this comes in time, from anybody."""
        with self._changed:
            return self._changed.wait_for(lambda: words in self._said(), self.patience)

    def finish(self) -> None:
        """Reads to the end, which comes when all instances have ended."""
        os.close(self._waker)
        self._thread.join()

    def runners(self) -> list[str]:
        """The instances in the order in which they ran; one that ran, stood and ran again: twice,
        if another one ran in between."""
        order: list[str] = []
        for _, who, _ in self.seen:
            if not order or order[-1] != who:
                order.append(who)
        return order

    def numbers(self) -> list[int]:
        """What was said, by all together: a line that was torn is continued by another instance."""
        lines = self._said().split(b"\n")[:-1]
        assert all(len(line) == 8 for line in lines), lines
        return [int(line, 16) for line in lines]

    def check_one_guest(self) -> None:
        """What was written is one guest's."""
        numbers = self.numbers()
        assert numbers == sorted(set(numbers)), self.seen

    def _said(self) -> bytes:
        return b"".join(data for _, _, data in self.seen)

    def _read(self) -> None:
        """What two have written since the last look is taken to be in the order that is no fault: the
        one that ran goes first. Two that run are seen by the looks that follow."""
        while self._selector.get_map():
            ready = [key for key, _ in self._selector.select()]
            last = self.seen[-1][1] if self.seen else None
            for key in sorted(ready, key=lambda key: key.data != last):
                data = os.read(key.fd, 65536)
                if not data:  # nobody writes to it any more
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
                    continue
                with self._changed:
                    self.seen.append((time.monotonic(), key.data, data))
                    self._lines[key.data] += data.count(b"\n")
                    self._changed.notify_all()
