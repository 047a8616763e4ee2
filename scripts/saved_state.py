#!/usr/bin/python3
"""Prints a saved machine, or a saved state, as JSON: what is in it, without knowing what it is of.

    scripts/saved_state.py [FILE] [--summary | --device PATH] [--indent N]

FILE is what `migrate uri=file:..` or `exec:cat > ..` wrote; standard input if none is named. The format
is that of `migration/FORMAT.md`. Every checksum is compared; the bytes of pages are counted and left out.
A file that begins with a field and not with a frame is one bare state (`util/saved_state.h`). Byte
strings are printed in hexadecimal.

Exit status: 0; 1 if the file can not be read, is broken or incomplete, with one line that says at which
offset what is wrong, and nothing on standard output; 2 usage.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import stat
import struct
import sys
from typing import Any, BinaryIO, Callable, NamedTuple

MAX_NAME, MAX_DEPTH = 48, 8
NUMBERS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 8}  # type: size
BOOL, I64, BYTES, STRING, STRUCT, LIST = 1, 6, 7, 8, 9, 10

STREAM_VERSION = 2
MAGIC = b"RHEA"
FRAME_HEADER = struct.Struct("<4sHHII")
WIRE_PAGES = struct.Struct("<IHHII")
MAX_FRAME_PAGES, PAGE_BYTES = 512, 4096
KIB, MIB = 1 << 10, 1 << 20
KINDS = {  # kind: name, the most bytes of payload
    0x01: ("hello", MIB), 0x02: ("pages", 64 * KIB), 0x03: ("sync", 4 * KIB),
    0x04: ("device", 16 * MIB), 0x05: ("end", 4 * KIB), 0x06: ("released", 0), 0x07: ("go", 0),
    0x08: ("fail", 4 * KIB), 0x81: ("welcome", MIB), 0x82: ("refused", 4 * KIB), 0x83: ("ready", 0),
    0x84: ("ack", 0)}
FROM_DESTINATION = ("welcome", "refused", "ready", "ack")
ACCELERATOR = "accelerator"


class Malformed(Exception):
    """The bytes do not follow the format. `offset`: in the file, if it is known."""

    def __init__(self, what: str, offset: int | None = None) -> None:
        super().__init__(what if offset is None else f"offset {offset}: {what}")
        self.offset = offset


# --- States --------------------------------------------------------------------------------------


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
        return reader.sized()
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


def get(found: dict[str, Any], name: str, kind: type) -> Any:
    """A field that a state must have. The stream says its type; whether it is the right one, nobody."""
    if type(found.get(name)) is not kind:
        raise Malformed(f"field '{name}' is missing, or is of another type")
    return found[name]


# --- Frames --------------------------------------------------------------------------------------


def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ (0x82F63B78 if entry & 1 else 0) for entry in table]
    return table


CRC32C = _crc32c_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """Castagnoli's. `crc`: that of what came before."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


class Stream:
    """A file from its front on, and where in it we are."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        status = os.fstat(file.fileno())
        self.length = status.st_size if stat.S_ISREG(status.st_mode) else None

    def read(self, size: int) -> bytes:
        """As many bytes as there are, at most `size`."""
        data = self.file.read(size)
        self.at += len(data)
        return data

    def take(self, size: int, what: str) -> bytes:
        start = self.at
        data = self.read(size)
        if len(data) < size:
            raise self.ends_in(what, start)
        return data

    def skip(self, size: int, what: str) -> None:
        start = self.at
        if self.length is None:  # a pipe
            while size and (data := self.read(min(size, MIB))):
                size -= len(data)
        elif size <= self.length - self.at:
            self.at = self.file.seek(size, os.SEEK_CUR)
            return
        else:
            self.at = self.length
        if size:
            raise self.ends_in(what, start)

    def ends_in(self, what: str, start: int) -> Malformed:
        return Malformed(f"the file ends in {what} (from offset {start} on)", self.at)


class Frame(NamedTuple):
    kind: str
    payload: bytes
    offset: int


def read_frame(stream: Stream) -> Frame | None:
    """The next one, whole and checked; none where the file ends between two."""
    offset = stream.at
    header = stream.read(FRAME_HEADER.size)
    if not header:
        return None
    if not header.startswith(MAGIC[:len(header)]):
        raise Malformed(f"there is no frame: it would begin with \"{MAGIC.decode()}\"", offset)
    if len(header) < FRAME_HEADER.size:
        raise stream.ends_in("the header of a frame", offset)
    _, kind, zero, length, checksum = FRAME_HEADER.unpack(header)
    if checksum != crc32c(header[:12]):
        raise Malformed("the header of a frame has another checksum than it says", offset)
    if kind not in KINDS or zero:
        raise Malformed(f"a frame of unknown kind {kind | zero << 16:#x}", offset)
    name, most = KINDS[kind]
    if length > most:
        raise Malformed(f"a frame '{name}' of {length} bytes, at most {most}", offset)
    payload = stream.take(length, f"the payload of a frame '{name}'")
    trailer = stream.take(4, f"the checksum of a frame '{name}'")
    if int.from_bytes(trailer, "little") != crc32c(payload):
        raise Malformed(f"a frame '{name}' has another checksum than it says", offset)
    return Frame(name, payload, offset)


class SavedMachine:
    """What the main connection of a migration carried, from the source.

    Errors: Malformed, with the offset.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.hello: dict[str, Any] = {}
        self.ram: list[dict[str, Any]] = []  # as listed, with the pages that came
        self.announced: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.syncs: list[dict[str, Any]] = []
        self.end: dict[str, Any] = {}
        self.frames: collections.Counter[str] = collections.Counter()
        self.checked_frames = 0  # of pages, with a checksum over their bytes
        take: dict[str, Callable[[Frame], None]] = {
            "hello": self._take_hello, "pages": self._take_pages, "sync": self._take_sync,
            "device": self._take_device, "end": self._take_end}
        while (frame := read_frame(stream)) is not None:
            self.frames[frame.kind] += 1
            try:
                self._check_turn(frame)
                if frame.kind in take:
                    take[frame.kind](frame)
            except Malformed as error:
                if error.offset is not None:
                    raise
                raise Malformed(f"a frame '{frame.kind}': {error}", frame.offset) from None
        if not self.end:
            raise Malformed("the file ends before the frame 'end': the machine is not complete",
                            stream.at)

    def _check_turn(self, frame: Frame) -> None:
        if frame.kind == "fail":
            text = frame.payload.decode("utf-8", "replace")
            raise Malformed(f"the source gave up: {text}")
        if frame.kind in FROM_DESTINATION:
            raise Malformed("no source says that")
        first, behind = self.frames.total() == 1, bool(self.end)
        if (frame.kind == "hello") != first or (frame.kind in ("released", "go")) != behind:
            raise Malformed("it is not its turn")

    def _take_hello(self, frame: Frame) -> None:
        self.hello = fields(frame.payload)
        machine = get(self.hello, "machine", dict)
        version = get(machine, "stream-version", int)
        if version != STREAM_VERSION:
            raise Malformed(f"version {version} of the stream, this is a reader of version "
                            f"{STREAM_VERSION}")
        for name, kind in (("program", str), ("machine", str), ("accelerator", str), ("cpus", int),
                           ("uuid", str)):
            get(machine, name, kind)
        get(self.hello, "channels", int)
        for block in get(machine, "ram", list):
            self.ram.append({"name": get(block, "name", str), "size": get(block, "size", int),
                             "normal-pages": 0, "zero-pages": 0})
        for device in get(machine, "devices", list):
            path = get(device, "path", str)
            if path in self.announced:
                raise Malformed(f"there are two devices '{path}'")
            self.announced[path] = {"kind": get(device, "kind", str),
                                    "version": get(device, "version", int),
                                    "settings": get(device, "settings", str)}

    def _take_pages(self, frame: Frame) -> None:
        if self.hello["channels"]:
            raise Malformed("pages on the main connection, where channels of their own carry them")
        if len(frame.payload) < WIRE_PAGES.size:
            raise Malformed(f"a list of pages of {len(frame.payload)} bytes")
        number, normal, zero, summed, checksum = WIRE_PAGES.unpack_from(frame.payload)
        numbers = frame.payload[WIRE_PAGES.size:]
        count = normal + zero
        if number >= len(self.ram) or count > MAX_FRAME_PAGES or summed > 1 or (
                len(numbers) != 4 * count):
            raise Malformed(f"a list of {count} pages of RAM block {number} in "
                            f"{len(frame.payload)} bytes")
        block = self.ram[number]
        pages = block["size"] // PAGE_BYTES
        highest = max(struct.unpack(f"<{count}I", numbers), default=-1)
        if highest >= pages:
            raise Malformed(f"page {highest} of RAM block '{block['name']}', which has {pages}")
        self._take_page_bytes(normal * PAGE_BYTES, checksum if summed else None, frame)
        block["normal-pages"] += normal
        block["zero-pages"] += zero

    def _take_page_bytes(self, size: int, checksum: int | None, frame: Frame) -> None:
        what = f"the {size} bytes of pages"
        if checksum is None:
            self.stream.skip(size, what)
            return
        start = self.stream.at
        if crc32c(self.stream.take(size, what)) != checksum:
            raise Malformed(f"the pages of the frame 'pages' at offset {frame.offset} have another "
                            "checksum than it says", start)
        self.checked_frames += 1

    def _take_sync(self, frame: Frame) -> None:
        sync = fields(frame.payload)
        self.syncs.append({"offset": frame.offset, "pass": get(sync, "pass", int),
                           "channel-sync": get(sync, "channel-sync", int)})

    def _take_device(self, frame: Frame) -> None:
        device = fields(frame.payload)
        path, state = get(device, "path", str), get(device, "state", bytes)
        if path not in self.announced:
            raise Malformed(f"the state of '{path}', which 'hello' does not list")
        if path in self.devices:
            raise Malformed(f"the state of '{path}' for the second time")
        try:
            decoded = fields(state)
            if path == ACCELERATOR:
                self._open_sections(decoded)
        except Malformed as error:
            raise Malformed(f"the state of '{path}': {error}") from None
        self.devices[path] = {**self.announced[path], "offset": frame.offset, "length": len(state),
                              "state": decoded}

    @staticmethod
    def _open_sections(accelerator: dict[str, Any]) -> None:
        """An accelerator's sections are states themselves."""
        for section in get(accelerator, "sections", list):
            name = get(section, "name", str)
            section["state"] = fields(get(section, "bytes", bytes), name)
            del section["bytes"]

    def _take_end(self, frame: Frame) -> None:
        end = fields(frame.payload)
        self.end = {"offset": frame.offset, "runs": get(end, "runs", bool),
                    "pages": get(end, "pages", int), "devices": get(end, "devices", int)}
        for path in self.announced:
            if path not in self.devices:
                raise Malformed(f"the state of '{path}' is missing")
        pages = end["pages"] if self.hello["channels"] else self.pages
        if (end["pages"], end["devices"]) != (pages, len(self.devices)):
            raise Malformed(f"it says that there were {end['pages']} pages and {end['devices']} "
                            f"devices, but there were {pages} and {len(self.devices)}")

    @property
    def pages(self) -> int:
        return sum(block["normal-pages"] + block["zero-pages"] for block in self.ram)

    def to_json(self) -> dict[str, Any]:
        return {"length": self.stream.at, "hello": self.hello, "ram": self.ram,
                "pages": {"frames": self.frames["pages"], "checked-frames": self.checked_frames,
                          "bytes": PAGE_BYTES * sum(block["normal-pages"] for block in self.ram)},
                "syncs": self.syncs, "devices": self.devices, "end": self.end}

    def device(self, path: str) -> dict[str, Any]:
        if path not in self.devices:
            raise Malformed(f"there is no device '{path}'; there are: {', '.join(self.devices)}")
        return self.devices[path]

    def summary(self) -> str:
        machine = self.hello["machine"]
        lines = [f"{machine['program']}: machine {machine['machine']}, {machine['accelerator']}, "
                 f"{machine['cpus']} CPUs, UUID {machine['uuid'] or 'none'}",
                 f"{self.stream.at} bytes, version {STREAM_VERSION} of the stream, "
                 f"{len(self.syncs)} passes; it is to {'run' if self.end['runs'] else 'stay paused'}"]
        for block in self.ram:
            lines.append(f"RAM {block['name']}: {block['size']} bytes; sent were "
                         f"{block['normal-pages']} pages with content, {block['zero-pages']} of zeros")
        lines.append(f"{self.frames['pages']} frames of pages, {self.checked_frames} with a checksum "
                     "of their bytes")
        width = max(map(len, self.devices), default=0)
        for path, device in self.devices.items():
            lines.append(f"{path:{width}}  {device['kind']} version {device['version']}, "
                         f"{device['length']} bytes  {device['settings']}".rstrip())
        return "\n".join(map(printable, lines))


# --- The command ---------------------------------------------------------------------------------


def printable(text: str) -> str:
    """One line, and nothing that a terminal would obey: the file is a stranger's."""
    return "".join(c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode()
                   for c in text)


def analyse(file: io.BufferedReader, arguments: argparse.Namespace) -> str:
    """What is to be printed of it."""
    first = file.peek(1)[:1]
    if not first:
        raise Malformed("the file is empty", 0)
    found: dict[str, Any]
    if first[0] > MAX_NAME:  # no field begins like that
        machine = SavedMachine(Stream(file))
        if arguments.summary:
            return machine.summary()
        found = machine.to_json() if arguments.device is None else machine.device(arguments.device)
    elif arguments.summary or arguments.device is not None:
        raise Malformed("this is one bare state at most, and no saved machine", 0)
    else:
        found = fields(file.read())
    return json.dumps(found, indent=arguments.indent, default=bytes.hex)


def main() -> int:
    parser = argparse.ArgumentParser(description="Prints a saved machine, or a saved state, as JSON.")
    parser.add_argument("file", nargs="?")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--summary", action="store_true", help="a few lines for people instead")
    what.add_argument("--device", metavar="PATH", help="this device only, such as serial0 or pci/02.0")
    parser.add_argument("--indent", type=int, help="spaces a level; all on one line if not given")
    arguments = parser.parse_args()
    try:
        if arguments.file is None:
            text = analyse(sys.stdin.buffer, arguments)
        else:
            with open(arguments.file, "rb") as file:
                text = analyse(file, arguments)
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Malformed, OSError) as error:
        print(f"saved_state: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
