"""Block jobs of a whole machine: a disk's node is mirrored to another, and the monitor hears it all."""

from __future__ import annotations

import os

import pytest

from support import qmp

IMAGE_BYTES = 8 << 20


class Machine:
    """A machine without vCPUs whose disk `a` can be mirrored to `b`, and its monitor."""

    def __init__(self, guest) -> None:
        self.images = {name: guest.folder / f"{name}.img" for name in ("a", "b")}
        self.images["a"].write_bytes(os.urandom(IMAGE_BYTES))
        self.images["b"].write_bytes(bytes(IMAGE_BYTES))
        listener = qmp.Listener(guest.folder / "jobs-qmp")
        nodes = [word for name, path in self.images.items() for word in (
            "-blockdev", f"raw,node-name={name},file.driver=file,file.filename={path}")]
        self.process = guest.run("-accel", "qtest", "-nodefaults", "-display", "none", "-m", "16",
                                 "-qmp", f"unix:{listener.path}", "-object", "iothread,id=io0",
                                 *nodes, "-device", "virtio-blk-pci,drive=a,id=vd0,iothread=io0")
        self.qmp = qmp.Qmp(listener.accept()).negotiate()
        listener.close()

    def mirror(self, **more: object):
        return self.qmp.execute("blockdev-mirror", job_id="m0", device="a", target="b",
                                sync="full", **more)

    def medium(self) -> str:
        return self.qmp.execute("query-block")[0]["inserted"]["node-name"]

    def quit(self) -> None:
        self.qmp.execute("quit")
        assert self.process.wait() == 0
        assert self.process.stderr == ""


def test_a_mirror_gives_the_disk_its_copy(guest):
    machine = Machine(guest)
    assert machine.mirror() == {}
    ready = machine.qmp.wait_event("BLOCK_JOB_READY")
    assert ready == {"type": "mirror", "device": "m0", "len": IMAGE_BYTES, "offset": IMAGE_BYTES,
                     "speed": 0}
    assert machine.qmp.execute("query-jobs") == [
        {"current-progress": IMAGE_BYTES, "status": "ready", "total-progress": IMAGE_BYTES,
         "type": "mirror", "id": "m0"}]
    assert machine.qmp.execute("query-block-jobs")[0]["ready"] is True
    assert machine.qmp.execute("job-complete", id="m0") == {}
    assert "error" not in machine.qmp.wait_event("BLOCK_JOB_COMPLETED")
    while machine.qmp.wait_event("JOB_STATUS_CHANGE")["status"] != "null":
        pass
    assert machine.medium() == "b"
    assert machine.images["a"].read_bytes() == machine.images["b"].read_bytes()
    assert machine.qmp.execute("blockdev-del", node_name="a") == {}
    machine.quit()


def test_a_mirror_that_is_cancelled_changes_nothing(guest):
    machine = Machine(guest)
    machine.mirror(speed=1 << 20)
    assert machine.qmp.execute("job-cancel", id="m0") == {}
    machine.qmp.wait_event("BLOCK_JOB_CANCELLED")
    assert machine.medium() == "a"
    machine.quit()


def test_a_machine_that_quits_ends_its_jobs(guest):
    machine = Machine(guest)
    machine.mirror(speed=1 << 20)
    machine.quit()


@pytest.mark.parametrize(("command", "arguments", "error"), [
    ("blockdev-mirror", {"device": "a", "target": "b", "sync": "top"},
     ("GenericError", "Parameter 'sync' does not accept value 'top': only 'full'")),
    ("blockdev-mirror", {"device": "a", "target": "nope", "sync": "full"},
     ("GenericError", "Cannot find device='' nor node-name='nope'")),
    ("job-complete", {"id": "nope"}, ("GenericError", "Job not found")),
    ("block-job-cancel", {"device": "nope"},
     ("DeviceNotActive", "Block job 'nope' not found")),
])
def test_mistakes_are_named(guest, command, arguments, error):
    machine = Machine(guest)
    with pytest.raises(qmp.QmpError) as refused:
        machine.qmp.execute(command, **arguments)
    assert (refused.value.error_class, refused.value.description) == error
    machine.quit()
