"""The human monitor: through QMP, on a socket, and on a console behind Ctrl-A C."""

from __future__ import annotations

import pathlib
import re
import socket
from typing import Iterator

import pytest
from qtest import Machine

from support import vm

SERIAL_2 = 0x2F8
PROMPT = "(rhea) "


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    with Machine(tmp_path, "-object", "iothread,id=io0", "-name", "g",
                 "-blockdev", "driver=null-co,node-name=n0,size=1M",
                 "-blockdev", "driver=null-co,node-name=n1,size=1M",
                 "-device", "virtio-blk-pci,id=vd0,drive=n0,addr=5,iothread=io0",
                 "-monitor", f"unix:{tmp_path}/hmp.sock,server=on,wait=off") as started:
        yield started
        if started.process.process.poll() is None:
            started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


def hmp(machine: Machine, line: str) -> str:
    text = machine.qmp.execute("human-monitor-command", **{"command-line": line})
    assert "\n" not in text.replace("\r\n", "")  # lines end as a terminal's
    return text.replace("\r\n", "\n")


class Person:
    """A client of the monitor on its socket."""

    def __init__(self, path: pathlib.Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(vm.PATIENCE_S)
        self._socket.connect(str(path))

    def read_to_prompt(self) -> str:
        data = b""
        while not data.endswith(PROMPT.encode()):
            more = self._socket.recv(4096)
            assert more, f"closed behind {data!r}"
            data += more
        return data.decode()

    def type(self, keys: str) -> str:
        self._socket.sendall(keys.encode())
        return self.read_to_prompt()

    def read_to_end(self) -> bytes:
        data = b""
        while more := self._socket.recv(4096):
            data += more
        return data

    def close(self) -> None:
        self._socket.close()


def test_info_tells_what_the_queries_answer(machine: Machine) -> None:
    assert hmp(machine, "info status") == "VM status: running\n"
    assert hmp(machine, "info name") == "g\n"
    assert hmp(machine, "info block") == (
        "n0: null-co:// (null-co)\n"
        "    Attached to:      /machine/peripheral/vd0/virtio-backend\n"
        "    Cache mode:       writeback\n")
    assert hmp(machine, "info block -n -v n1") == (
        "n1: null-co:// (null-co)\n    Cache mode:       writeback\n\n"
        "Images:\nimage: null-co://\nfile format: null-co\nvirtual size: 1048576 bytes\n")
    assert re.fullmatch(r"io0:\n  thread_id=\d+\n  poll-max-ns=32768\n  poll-grow=0\n"
                        r"  poll-shrink=0\n  aio-max-batch=0\n", hmp(machine, "info iothreads"))
    assert re.fullmatch(r"7\.2\.0 rhea-\S+\n", hmp(machine, "info version"))
    pci = hmp(machine, "info pci")
    assert "  Bus  0, device   0, function 0:\n    Host bridge: PCI device 8086:1237\n" in pci
    assert '      BAR1: 32 bit memory of 8192 bytes, not mapped.\n' in pci
    assert pci.endswith('      id "vd0"\n')


def test_every_command_and_every_info_runs(machine: Machine) -> None:
    """None of them is left behind by a change of what its query answers."""
    for line in hmp(machine, "info").splitlines():
        name = line.split()[1]
        text = hmp(machine, f"info {name}")
        assert "Error" not in text and "unknown" not in text, (name, text)
    listed = [line.split()[0] for line in hmp(machine, "help").splitlines()]
    assert listed == sorted(listed)
    assert {"cont|c", "device_add", "device_del", "help|?", "info", "quit|q", "stop|s", "system_reset",
            "system_powerdown"} <= set(listed)
    for name in listed:
        assert hmp(machine, f"help {name.partition('|')[0]}").startswith(name)


def test_info_qtree_shows_devices_in_their_slots(machine: Machine) -> None:
    tree = hmp(machine, "info qtree").splitlines()
    at = tree.index('      dev: virtio-blk-pci, id "vd0"')
    assert '        addr = "05.0"' in tree[at:]
    assert '        drive = "n0"' in tree[at:]
    assert '        iothread = "/objects/io0"' in tree[at:]
    assert '        class SCSI controller, addr 00:05.0, pci id 1af4:1042' in tree[at:]
    assert tree.index("        bus: virtio-bus") > at
    assert hmp(machine, "info qom-tree /machine/peripheral") == (
        "/machine/peripheral (container)\n  /vd0 (virtio-blk-pci)\n"
        "    /virtio-backend (virtio-blk-device)\n")


def test_commands_do_what_qmps_do(machine: Machine) -> None:
    assert hmp(machine, "device_add virtio-blk-pci,id=vd1,drive=n1,addr=6,num-queues=2,"
               "iothread-vq-mapping.0.iothread=io0") == ""
    assert machine.qmp.execute("qom-get", path="vd1", property="num-queues") == 2
    assert hmp(machine, "device_add virtio-blk-pci,id=vd1,drive=n1") == (
        "Error: Duplicate device ID 'vd1'\n")
    assert hmp(machine, "info hotplug").startswith("vd1: plugging for ")
    assert hmp(machine, "device_del vd1") == ""
    machine.outl(0xAE08, 1 << 6)
    machine.qmp.wait_event("DEVICE_DELETED")
    assert machine.qmp.wait_event("DEVICE_DELETED")["device"] == "vd1"
    assert hmp(machine, "device_del vd1") == "Error: Device 'vd1' not found\n"
    assert hmp(machine, "object_add iothread,id=io1,poll-max-ns=5") == ""
    assert hmp(machine, "qom-get io1 poll-max-ns") == "5\n"
    assert hmp(machine, "qom-set io1 poll-max-ns 6") == hmp(machine, "object_del io1") == ""
    machine.qmp.events.clear()
    for line, event in (("stop", "STOP"), ("c", "RESUME"), ("system_reset", "RESET"),
                        ("system_powerdown", "POWERDOWN")):
        assert hmp(machine, line) == ""
        assert [e["event"] for e in machine.qmp.events] == [event]  # before the answer
        machine.qmp.events.clear()


def test_a_monitor_on_a_socket_echoes_and_edits(machine: Machine, tmp_path: pathlib.Path) -> None:
    person = Person(tmp_path / "hmp.sock")
    assert re.fullmatch(r"rhea-\S+ monitor - type 'help' for more information\r\n\(rhea\) ",
                        person.read_to_prompt())
    assert person.type("info statu\x7fus\r") == (
        "info statu\b \bus\r\nVM status: running\r\n(rhea) ")
    assert person.type("bogus\n") == "bogus\r\nunknown command: 'bogus'\r\n(rhea) "
    assert person.type("quit\x15\r").endswith("\b \b\r\n(rhea) ")
    person.close()
    again = Person(tmp_path / "hmp.sock")
    again.read_to_prompt()
    assert again.type("info name\r") == "info name\r\ng\r\n(rhea) "
    again.close()


def test_lines_that_come_at_once_are_all_served(machine: Machine, tmp_path: pathlib.Path) -> None:
    person = Person(tmp_path / "hmp.sock")
    person.read_to_prompt()
    lines = vm.sized(200, 5000)
    text = person.type("info name\r" * lines)
    while text.count(PROMPT) < lines:
        text += person.read_to_prompt()
    assert text == "info name\r\ng\r\n(rhea) " * lines
    person.close()


def test_quit_ends_the_machine(machine: Machine, tmp_path: pathlib.Path) -> None:
    person = Person(tmp_path / "hmp.sock")
    person.read_to_prompt()
    person.type("q\r")
    assert machine.process.wait() == 0
    assert person.read_to_end() == b""


def test_a_client_that_goes_away_in_mid_line_leaves_nothing(machine: Machine,
                                                            tmp_path: pathlib.Path) -> None:
    for _ in range(vm.sized(10, 200)):
        person = Person(tmp_path / "hmp.sock")
        person.read_to_prompt()
        person._socket.sendall(b"info qtree\r" * 20 + b"st")
        person.close()
    person = Person(tmp_path / "hmp.sock")
    person.read_to_prompt()
    assert person.type("info name\r") == "info name\r\ng\r\n(rhea) "
    person.close()


def test_ctrl_a_c_goes_from_the_console_to_its_monitor_and_back(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-serial", "mon:stdio") as machine:
        process = machine.process

        def received() -> str:
            text = ""
            while machine.inb(SERIAL_2 + 5) & 1:
                text += chr(machine.inb(SERIAL_2))
            return text

        machine.outb(SERIAL_2 + 2, 1)  # FIFOs on
        process.send("a\x01c")
        process.wait_for(PROMPT)
        process.send("info status\r")
        process.wait_for("VM status: running\r\n" + PROMPT)
        assert received() == "a"
        machine.outb(SERIAL_2, ord("!"))  # the guest prints on
        process.wait_for("!")
        process.send("half a li\x01cb\x01cinfo name\r")
        process.wait_for(PROMPT)
        process.wait_for(PROMPT)
        assert "unknown command" not in process.stdout  # the half line went
        assert received() == "b"
        process.send("info name\rstop\rcont\rstop\r\x01cz")  # pasted, as it were
        machine.qmp.wait_event("STOP")
        machine.qmp.wait_event("RESUME")
        machine.qmp.wait_event("STOP")
        assert received() == "z"
        machine.qmp.execute("quit")
        assert process.wait() == 0


def test_a_console_without_a_monitor_says_so(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-chardev", "stdio,id=c,mux=on,signal=off", "-serial", "chardev:c") as machine:
        machine.process.send("\x01c")
        machine.process.wait_for("There is no monitor on this console.")
        machine.qmp.execute("quit")
        assert machine.process.wait() == 0


def test_a_monitor_of_its_own_on_a_chardev(tmp_path: pathlib.Path) -> None:
    with Machine(tmp_path, "-chardev", "stdio,id=c,signal=off", "-mon", "chardev=c,mode=readline",
                 "-display", "none") as machine:
        machine.process.wait_for(PROMPT)
        machine.process.send("quit\r")
        assert machine.process.wait() == 0
