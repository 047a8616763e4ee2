#!/usr/bin/python3
"""Prints a saved state as JSON: what is in it, without knowing what it is of.

    scripts/saved_state.py [FILE]        standard input if no file is named

The bytes are those of `util/saved_state.h`: they say by themselves what they hold. Byte strings are
printed in hexadecimal. Exit status: 0; 1 if the bytes are no saved state, saying where.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

MAX_NAME, MAX_DEPTH = 48, 8
NUMBERS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8}  # type: size
BOOL, I64, BYTES, STRING, STRUCT, LIST = 1, 6, 7, 8, 9, 10


class Malformed(Exception):
    """The bytes do not follow the format."""


class Reader:
    """Takes bytes from the front, and knows where it is."""

    def __init__(self, data: bytes, path: str = "") -> None:
        self.data, self.path, self.at = data, path, 0

    def refuse(self, what: str) -> Malformed:
        return Malformed(f"field '{self.path}': {what}")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.refuse("the data ends in it")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def sized(self) -> bytes:
        return self.take(self.number(4))

    @property
    def empty(self) -> bool:
        return self.at == len(self.data)


def fields(data: bytes, path: str = "", depth: int = 0) -> dict[str, Any]:
    """The fields of a state or of a struct in it, in their order."""
    reader = Reader(data, path)
    if depth > MAX_DEPTH:
        raise reader.refuse("nested too deeply")
    found: dict[str, Any] = {}
    while not reader.empty:
        reader.path = path
        size = reader.number(1)
        if not 0 < size <= MAX_NAME:
            raise reader.refuse(f"a name of {size} bytes")
        name = reader.take(size).decode("ascii", "replace")
        if name in found:
            raise reader.refuse(f"'{name}' twice")
        reader.path = f"{path}.{name}" if path else name
        found[name] = value(reader, depth)
    return found


def value(reader: Reader, depth: int) -> Any:
    kind = reader.number(1)
    if kind in NUMBERS:
        number = reader.number(NUMBERS[kind], signed=kind == I64)
        if kind == BOOL and number > 1:
            raise reader.refuse(f"{number} is neither true nor false")
        return bool(number) if kind == BOOL else number
    if kind == BYTES:
        return reader.sized().hex()
    if kind == STRING:
        return reader.sized().decode("utf-8", "replace")
    if kind == STRUCT:
        return fields(reader.sized(), reader.path, depth + 1)
    if kind == LIST:
        return elements(reader.sized(), reader.path, depth + 1)
    raise reader.refuse(f"type {kind} is not known")


def elements(data: bytes, path: str, depth: int) -> list[dict[str, Any]]:
    reader = Reader(data, path)
    count = reader.number(4)
    found: list[dict[str, Any]] = []
    while len(found) < count:
        reader.path = f"{path}[{len(found)}]"
        found.append(fields(reader.sized(), reader.path, depth + 1))
    reader.path = path
    if not reader.empty:
        raise reader.refuse("bytes are left over")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints a saved state as JSON.")
    parser.add_argument("file", nargs="?", type=pathlib.Path)
    parser.add_argument("--indent", type=int, help="spaces a level; all on one line if not given")
    arguments = parser.parse_args()
    try:
        data = arguments.file.read_bytes() if arguments.file else sys.stdin.buffer.read()
        print(json.dumps(fields(data), indent=arguments.indent))
    except (Malformed, OSError) as error:
        print(f"saved_state: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
