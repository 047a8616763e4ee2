"""Micro-guests: each prints what it found, and powers off."""

from __future__ import annotations

import pytest


def test_serial_hello_and_power_off(guest):
    vm = guest("hello")
    assert vm.wait() == 0
    assert vm.stdout == "hello from a micro-guest\n"
    assert vm.stderr == ""


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_smp_start_up_and_lock_step(guest, cpus):
    vm = guest("smp", "-smp", str(cpus), append=f"cpus={cpus}")
    assert vm.wait() == 0
    turns = 2000 if cpus > 1 else 0
    assert vm.stdout == f"cpus={cpus} turns={turns}\n"


def test_port_and_mmio_storm(guest):
    vm = guest("storm")
    assert vm.wait() == 0
    assert vm.stdout == "storm ok\n"


def test_every_way_to_reset(guest):
    vm = guest("reset")
    assert vm.wait() == 0
    assert vm.stdout == "".join(f"boot {n}\n" for n in range(1, 6))


def test_no_reboot_ends_at_the_first_reset(guest):
    vm = guest("reset", "-no-reboot")
    assert vm.wait() == 0
    assert vm.stdout == "boot 1\n"


def test_two_serial_ports(guest, tmp_path):
    log = tmp_path / "com2"
    vm = guest("echo", "-serial", f"file:{log}")
    vm.wait_for("ready\n")
    vm.send("abcq")
    assert vm.wait() == 0
    assert vm.stdout == "ready\nabcq"
    assert log.read_text() == "abcq"
