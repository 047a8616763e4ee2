"""scripts/saved_state.py, on a machine of the host's real KVM."""

from __future__ import annotations

import json
import pathlib
import subprocess
from typing import Any

from support import migration, vm

SCRIPT = vm.ROOT / "scripts" / "saved_state.py"


def test_what_kvm_saves_of_each_vcpu_is_printed(guest: Any, tmp_path: pathlib.Path) -> None:
    machine = migration.start(guest.run, tmp_path, *guest.arguments(
        "dirtier", "-smp", "2", "-debugcon", "stdio", serial="null", append="1"))
    machine.process.wait_for("\n")
    machine.qmp.execute("migrate", uri=f"file:{tmp_path / 'machine'}")
    result = machine.finish()
    assert result["status"] == "completed", result
    done = subprocess.run([SCRIPT, tmp_path / "machine"], capture_output=True, text=True,
                          timeout=vm.PATIENCE_S, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["hello"]["machine"]["accelerator"] == "kvm"
    assert found["devices"]["accelerator"]["settings"] != ""
    sections = found["devices"]["accelerator"]["state"]["sections"]
    assert [section["name"] for section in sections] == [
        "vcpu 0", "vcpu 1", "kvm-irqchip", "kvm-pit", "kvm-clock", "vm-clock"]
    assert all(section["state"] for section in sections)
    pages = sum(block["normal-pages"] + block["zero-pages"] for block in found["ram"])
    assert pages == found["end"]["pages"] == (result["ram"]["normal"] + result["ram"]["duplicate"])
