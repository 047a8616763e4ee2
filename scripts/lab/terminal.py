"""The user's terminal in raw mode, and back."""

import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):
    """A signal asked this process to end; raised so that everything is unwound and restored."""


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Raw mode while the block runs; whatever ends it, also a signal, the modes come back."""
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def saved_terminal() -> Iterator[None]:
    """Puts the modes back after a program that sets them itself (and may be killed half-way)."""
    fd = sys.stdin.fileno()
    saved = termios.tcgetattr(fd) if os.isatty(fd) else None
    try:
        yield
    finally:
        if saved is not None:
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def signals_raise() -> None:
    """TERM and HUP unwind the stack like Ctrl-C does, instead of ending the process on the spot."""

    def handler(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def size_words() -> list[str]:
    """Kernel command line words that tell the guest how big the user's window is."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return []
    return [f"lab.rows={size.lines}", f"lab.cols={size.columns}"]
