"""Opens a device node that the kernel may still be making.

virtio-serial ports appear some time after their driver was loaded: the host announces them in
messages. The kernel's uevents tell when to look again, so nothing is polled.
"""

import os
import select
import socket
import time

from lab.inside.pump import PATIENCE_S

_NETLINK_KOBJECT_UEVENT = 15


def open_port(path: str, flags: int, timeout: float = PATIENCE_S) -> int:
    """Opens `path` as soon as it exists; FileNotFoundError after `timeout` seconds."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT) as uevents:
        uevents.bind((0, 1))
        deadline = time.monotonic() + timeout
        while not os.path.exists(path):
            ready, _, _ = select.select([uevents], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            uevents.recv(65536)
    return os.open(path, flags | os.O_CLOEXEC)
