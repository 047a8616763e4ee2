"""Block nodes, drives and iothreads of a whole machine: what QMP says, changes and refuses.

The machines run no guest code (-accel qtest) and have no disk device: nodes and threads need none.
"""

from __future__ import annotations

import os

import pytest

from support import qmp, vm


class Machine:
    """A machine without vCPUs, and its monitor."""

    def __init__(self, guest, *arguments: str) -> None:
        listener = qmp.Listener(guest.folder / "block-qmp")
        self.process = guest.run("-accel", "qtest", "-nodefaults", "-display", "none", "-m", "16",
                                 "-S", "-qmp", f"unix:{listener.path}", *arguments)
        self.qmp = qmp.Qmp(listener.accept()).negotiate()
        listener.close()

    def ask(self, command: str, **arguments: object):
        return self.qmp.execute(command, **arguments)

    def error(self, command: str, **arguments: object) -> tuple[str, str]:
        with pytest.raises(qmp.QmpError) as refused:
            self.qmp.execute(command, **arguments)
        return refused.value.error_class, refused.value.description

    def quit(self) -> None:
        self.qmp.execute("quit")
        assert self.process.wait() == 0
        assert self.process.stderr == ""


def threads(machine: Machine) -> set[int]:
    return {int(tid) for tid in os.listdir(f"/proc/{machine.process.process.pid}/task")}


def test_nodes_come_change_and_go(guest):
    machine = Machine(guest, "-blockdev", "null-co,node-name=n0,size=1048576",
                      "-blockdev", '{"driver":"null-co","node-name":"n1","read-only":true}')
    names = [node["node-name"] for node in machine.ask("query-named-block-nodes")]
    assert names == ["n0", "n1"]
    assert machine.ask("blockdev-add", driver="null-co", node_name="n2", size=4096) == {}
    assert machine.error("blockdev-add", driver="null-co", node_name="n2") == (
        "GenericError", "Duplicate nodes with node-name='n2'")
    options = {"driver": "null-co", "node-name": "n2", "size": 4096, "read-only": True}
    assert machine.ask("blockdev-reopen", options=[options]) == {}
    assert machine.error("block_resize", node_name="n2", size=512)[1] == (
        "Block node 'n2' is read-only")
    assert machine.ask("block_resize", node_name="n0", size=512) == {}
    nodes = {node["node-name"]: node for node in machine.ask("query-named-block-nodes", flat=True)}
    assert nodes["n2"]["ro"] and nodes["n1"]["ro"] and not nodes["n0"]["ro"]
    assert nodes["n0"]["image"]["virtual-size"] == 512
    assert machine.ask("blockdev-del", node_name="n2") == {}
    assert machine.error("blockdev-del", node_name="n2")[1] == (
        "Failed to find node with node-name='n2'")
    assert machine.ask("query-block") == []
    assert len(machine.ask("query-blockstats", query_nodes=True)) == 2
    machine.quit()


def test_a_drive_is_shown_until_the_machine_ends(guest):
    machine = Machine(guest, "-drive", "driver=null-co,size=2097152,if=none,id=d0,cache=unsafe",
                      "-drive", "if=none,id=d1")
    first, second = machine.ask("query-block")
    assert (first["device"], second["device"]) == ("d0", "d1")
    assert first["inserted"]["cache"] == {"writeback": True, "direct": False, "no-flush": True}
    assert first["inserted"]["image"]["virtual-size"] == 2097152
    assert "inserted" not in second
    assert machine.ask("block_resize", device="d0", size=1024) == {}
    assert machine.error("blockdev-add", driver="null-co", node_name="d1")[1] == (
        "node-name=d1 is conflicting with a device id")
    assert [row["device"] for row in machine.ask("query-blockstats")] == ["d0", "d1"]
    machine.quit()


def test_iothreads_are_threads_of_the_process(guest):
    machine = Machine(guest, "-object", "iothread,id=iot0,poll-max-ns=0")
    [first] = machine.ask("query-iothreads")
    assert first["id"] == "iot0" and first["poll-max-ns"] == 0 and first["aio-max-batch"] == 0
    assert first["thread-id"] in threads(machine)
    machine.qmp.execute("object-add", qom_type="iothread", id="iot1")
    second = machine.ask("query-iothreads")[1]
    assert second["thread-id"] in threads(machine)
    machine.ask("qom-set", path="/objects/iot1", property="poll-max-ns", value=7)
    assert machine.ask("qom-get", path="/objects/iot1", property="poll-max-ns") == 7
    machine.ask("object-del", id="iot1")
    assert second["thread-id"] not in threads(machine)
    assert machine.error("object-del", id="iot1")[1] == "object 'iot1' not found"
    assert machine.error("qom-get", path="/objects/iot1", property="type") == (
        "DeviceNotFound", "Device '/objects/iot1' not found")
    machine.quit()


def test_iothreads_of_a_daemon_live_in_the_daemon(guest, tmp_path):
    path, pidfile = tmp_path / "qmp", tmp_path / "pid"
    starter = guest.run("-accel", "qtest", "-nodefaults", "-display", "none", "-S", "-daemonize",
                        "-pidfile", str(pidfile), "-object", "iothread,id=iot0", "-blockdev",
                        "null-co,node-name=n0", "-qmp", f"unix:{path},server=on,wait=off")
    assert starter.wait() == 0, starter.stderr
    monitor = qmp.Qmp.connect(path)
    [iothread] = monitor.execute("query-iothreads")
    assert str(iothread["thread-id"]) in os.listdir(f"/proc/{int(pidfile.read_text())}/task")
    monitor.execute("quit")
    monitor.wait_eof()


def test_graph_and_objects_under_many_changes(guest):
    machine = Machine(guest)
    for number in range(vm.sized(20, 500)):
        machine.ask("object-add", qom_type="iothread", id="iot")
        machine.ask("blockdev-add", driver="null-co", node_name="n")
        machine.ask("x-blockdev-set-iothread", node_name="n", iothread="iot")
        machine.ask("block_resize", node_name="n", size=512 * (number + 1))
        machine.ask("blockdev-del", node_name="n")
        machine.ask("object-del", id="iot")
    assert machine.ask("query-iothreads") == []
    assert machine.ask("query-named-block-nodes") == []
    machine.quit()
