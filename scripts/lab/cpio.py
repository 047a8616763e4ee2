"""Writes initramfs archives ("newc" cpio) byte for byte the same for the same input.

The cpio tool would do for files, but takes owner, time and inode numbers from the disk and needs
root for device nodes; an initramfs needs neither and a content-hashed cache needs sameness.
"""

import stat
from pathlib import Path


class CpioArchive:
    """Collects entries, then serialises them in path order. Parent directories are implied."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, data)

    def copy(self, path: str, source: Path) -> None:
        executable = source.stat().st_mode & 0o111
        self.file(path, source.read_bytes(), 0o755 if executable else 0o644)

    def symlink(self, path: str, target: str) -> None:
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def char_device(self, path: str, major: int, minor: int) -> None:
        self._add(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def _add(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        path = path.strip("/")
        for parent in list(Path(path).parents)[:-1]:
            self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b"", (0, 0)))
        self._entries[path] = (mode, data, device)

    def to_bytes(self) -> bytes:
        out = bytearray()
        for inode, (path, entry) in enumerate(sorted(self._entries.items()), start=1):
            _append(out, inode, path, entry)
        _append(out, 0, "TRAILER!!!", (0, b"", (0, 0)))
        return bytes(out)


def _append(
    out: bytearray, inode: int, path: str, entry: tuple[int, bytes, tuple[int, int]]
) -> None:
    mode, data, (major, minor) = entry
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
    _pad(out)
    out += data
    _pad(out)


def _pad(out: bytearray) -> None:
    out += b"\0" * (-len(out) % 4)
