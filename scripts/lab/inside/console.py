"""A guest's serial console: what it printed, when, and commands typed at its shell."""

import os
import re
import time
from collections.abc import Callable

from lab.inside.pump import PATIENCE_S, Pump, WaitTimeout

# Line editing asks for the cursor position and moves about; none of that is text.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")
PROMPT = r"guest# $"

LineHandler = Callable[[float, str], None]


class Console:
    """Text of one console and a cursor: a wait looks only at what came after the last match.

    Owns: both descriptors. Invariants: `text` never shrinks; the cursor only moves forward.
    """

    def __init__(self, pump: Pump, out_fd: int, in_fd: int, on_line: LineHandler) -> None:
        self.text = ""
        self._pump, self._out_fd, self._in_fd = pump, out_fd, in_fd
        self._on_line = on_line
        self._raw = b""  # undecoded tail: an escape sequence or UTF-8 character cut in two
        self._cursor = 0
        self._line_start = 0
        self.last_read = 0.0  # when the newest text arrived
        self.closed = False
        os.set_blocking(out_fd, False)
        pump.add(out_fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._out_fd, 65536)
        except BlockingIOError:
            return
        self.last_read = time.monotonic()
        if not data:
            self._pump.remove(self._out_fd)
            self.closed = True
            self._report_lines(flush=True)
            return
        self._raw += data
        escape = self._raw.rfind(b"\x1b", -16)
        whole = (
            self._raw
            if escape < 0 or _ESCAPES.match(self._raw[escape:].decode("latin-1"))
            else self._raw[:escape]
        )
        self._raw = self._raw[len(whole) :]
        self.text += _ESCAPES.sub("", whole.decode(errors="replace"))
        self._report_lines(flush=False)

    def _report_lines(self, *, flush: bool) -> None:
        now = time.monotonic()
        *lines, rest = self.text[self._line_start :].split("\n")
        for line in lines:
            self._on_line(now, line)
        self._line_start = len(self.text) - len(rest)
        if flush and rest:
            self._on_line(now, rest)
            self._line_start = len(self.text)

    def drain(self) -> None:
        """Reads what is still in the pipe, after the writer is gone."""
        self._pump.wait(lambda: self.closed, 5)

    def close(self) -> None:
        if not self.closed:
            self._pump.remove(self._out_fd)
            self.closed = True
        for fd in {self._out_fd, self._in_fd}:
            os.close(fd)

    def expect(self, pattern: str, timeout: float = PATIENCE_S) -> re.Match[str]:
        """Waits until `pattern` appears behind the cursor, then puts the cursor behind it."""
        expression = re.compile(pattern, re.MULTILINE)
        found: list[re.Match[str]] = []

        def seen() -> bool:
            match = expression.search(self.text, self._cursor)
            if match:
                found.append(match)
            return match is not None or self.closed

        self._pump.wait(seen, timeout)
        if not found:
            reason = "console closed" if self.closed else f"{timeout:.0f} s passed"
            raise WaitTimeout(
                f"{reason} without /{pattern}/; the console ends with:\n{self.tail()}"
            )
        self._cursor = found[0].end()
        return found[0]

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.text.split("\n")[-lines:])

    def send(self, text: str) -> None:
        """Types text. Short enough for the pipe, so it cannot block on a stuck guest."""
        os.write(self._in_fd, text.encode())

    def login(self, timeout: float = PATIENCE_S) -> None:
        """Waits for the guest's shell prompt."""
        self.expect(PROMPT, timeout)

    def run(self, command: str, timeout: float = PATIENCE_S) -> tuple[int, str]:
        """Runs a command in the guest's shell: (exit status, output without echo)."""
        # The marks are quoted in two pieces, so the terminal's echo of the line is not a mark.
        self.send(f"echo '<''<<'; {command}; echo '>''>>'$?\n")
        self.expect(r"^<<<\n", timeout)
        start = self._cursor
        match = self.expect(r">>>(\d+)\n", timeout)
        output = self.text[start : match.start()]
        self.expect(PROMPT, timeout)
        return int(match.group(1)), output
