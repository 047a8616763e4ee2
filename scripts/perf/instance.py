"""A VMM with a monitor, as `scripts/bench migration` starts it: Rhea and QEMU by the same words."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from lab.errors import LabError

PATIENCE_S = 120
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Instance:
    """A process with a monitor."""

    def __init__(self, binary: str, folder: Path, name: str, size: str, ram: str,
                 *extra: str) -> None:
        path = folder / f"{name}.qmp"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(PATIENCE_S)
        kind, _, options = ram.partition(",")
        self.process = subprocess.Popen(
            [binary, "-machine", "pc,memory-backend=ram", "-nodefaults", "-display", "none",
             "-object", ",".join(filter(None, [kind, "id=ram", f"size={size}", options])),
             "-m", size, "-qmp", f"unix:{path}", *extra],
            stdin=subprocess.DEVNULL)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            self.process.kill()
            raise LabError(f"{binary} did not start") from None
        finally:
            listener.close()
            path.unlink()
        connection.settimeout(PATIENCE_S)
        self.lines = connection.makefile("rwb")
        self.lines.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.lines.flush()
        while "event" in (message := json.loads(self.lines.readline())):
            pass
        if "error" in message:
            raise LabError(f"{command}: {message['error']['desc']}")
        return message["return"]

    def wait_migrated(self) -> None:
        while True:
            message = json.loads(self.lines.readline())
            if message.get("event") != "MIGRATION":
                continue
            status = message["data"]["status"]
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise LabError(f"migration {status}: {self.execute('query-migrate')}")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
