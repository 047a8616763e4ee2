"""Runs a command whose system call NUMBER fails with ERRNO, by seccomp(2):

    refuse_syscall.py NUMBER ERRNO COMMAND [ARGUMENT...]
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
RET_ERRNO, RET_ALLOW = 0x0005_0000, 0x7fff_0000


class SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse(number: int, error: int) -> None:
    """From here on, for this thread and what it executes."""
    program = [(LOAD_WORD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, RET_ERRNO | error),
               (RETURN, 0, 0, RET_ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    filter_ = SockFprog(len(program), ctypes.c_char_p(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0) != 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse(int(sys.argv[1]), int(sys.argv[2]))
    os.execv(sys.argv[3], sys.argv[3:])
