"""A stranger who takes a disk image's locks: bytes of the file, locked for an open file description."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import struct
import threading

from support import vm

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FIRST, COUNT = 100, 104  # what is used, 100 + permission; what others may not use, 200 + permission


class ImageLock:
    """Another open file description of the image, in a process that has none of its instances."""

    def __init__(self, image: pathlib.Path) -> None:
        self._fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)

    def take(self) -> bool:
        """All of it, for nobody else."""
        try:
            fcntl.fcntl(self._fd, F_OFD_SETLK, self._flock(fcntl.F_WRLCK))
        except OSError as error:
            assert error.errno in (errno.EAGAIN, errno.EACCES), error
            return False
        return True

    def give_back(self) -> None:
        fcntl.fcntl(self._fd, F_OFD_SETLK, self._flock(fcntl.F_UNLCK))

    def is_free(self) -> bool:
        """Whether nobody else holds any of it."""
        answer = fcntl.fcntl(self._fd, F_OFD_GETLK, self._flock(fcntl.F_WRLCK))
        return struct.unpack_from("h", answer)[0] == fcntl.F_UNLCK

    def expect_free(self) -> None:
        """Waits until nobody else holds any of it: the kernel may put the files of a process that was
        killed away behind its end."""
        waiter = threading.Thread(daemon=True, target=fcntl.fcntl, args=(
            self._fd, F_OFD_SETLKW, self._flock(fcntl.F_WRLCK)))
        waiter.start()
        waiter.join(vm.PATIENCE_S)
        assert not waiter.is_alive(), "somebody still holds the image's locks"
        self.give_back()

    def close(self) -> None:
        os.close(self._fd)

    @staticmethod
    def _flock(kind: int) -> bytes:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, FIRST, COUNT, 0)
