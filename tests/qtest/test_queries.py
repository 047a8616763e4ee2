"""What a client can ask: query-pci, the tree of objects, types and their properties, and the schema."""

from __future__ import annotations

import pathlib
from typing import Any, Iterator

import pytest
from qtest import Machine

from support import vm

MISSING, DEVICE = "DeviceNotFound", "/machine/peripheral/vd0"


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[Machine]:
    arguments = ["-object", "iothread,id=io0", "-object", "iothread,id=io1",
                 "-object", "throttle-group,id=tg0,limits.iops-total=7",
                 "-blockdev", "driver=null-co,node-name=n0,size=1M",
                 "-blockdev", "driver=null-co,node-name=n1,size=1M",
                 "-device", "virtio-blk-pci,id=vd0,drive=n0,iothread=io0,num-queues=2,addr=5,serial=abc"]
    with Machine(tmp_path, *arguments) as started:
        yield started
        started.qmp.execute("quit")
        assert started.process.wait() == 0, started.process.stderr


def error(machine: Machine, command: str, **arguments: Any) -> tuple[str, str]:
    answer = machine.qmp.ask(command, **arguments)
    assert "error" in answer, answer
    return answer["error"]["class"], answer["error"]["desc"]


def names(machine: Machine, path: str) -> dict[str, str]:
    return {row["name"]: row["type"] for row in machine.qmp.execute("qom-list", path=path)}


def get(machine: Machine, path: str, name: str) -> Any:
    return machine.qmp.execute("qom-get", path=path, property=name)


def pci(machine: Machine) -> dict[int, dict[str, Any]]:
    [bus] = machine.qmp.execute("query-pci")
    assert bus["bus"] == 0
    return {device["slot"]: device for device in bus["devices"]}


def test_query_pci_shows_slots_identities_and_where_bars_are(machine: Machine) -> None:
    devices = pci(machine)
    assert sorted(devices) == [0, 5]
    bridge, disk = devices[0], devices[5]
    assert (bridge["qdev_id"], bridge["regions"]) == ("", [])
    assert bridge["id"]["vendor"] == 0x8086 and bridge["class_info"]["desc"] == "Host bridge"
    assert (bridge["irq_pin"], "irq" in bridge) == (0, False)
    assert (disk["qdev_id"], disk["function"], disk["irq_pin"], disk["irq"]) == ("vd0", 0, 1, 0)
    assert disk["class_info"] == {"class": 0x100, "desc": "SCSI controller"}
    assert (disk["id"]["vendor"], disk["id"]["device"]) == (0x1AF4, 0x1042)
    assert all(region["address"] == -1 for region in disk["regions"])
    machine.config_write(5, 0x14, 0xFE00_0000)
    machine.config_write(5, 0x3C, 11, size=1)
    machine.config_write(5, 0x04, 2, size=2)
    disk = pci(machine)[5]
    assert [r for r in disk["regions"] if r["bar"] == 1] == [
        {"prefetch": False, "mem_type_64": False, "bar": 1, "size": 8192, "address": 0xFE00_0000,
         "type": "memory"}]
    assert disk["irq"] == 11


def test_devices_are_in_query_pci_and_in_the_tree_as_long_as_they_are_there(machine: Machine) -> None:
    machine.qmp.execute("device_add", driver="virtio-blk-pci", drive="n1")
    assert [(slot, d["qdev_id"]) for slot, d in sorted(pci(machine).items())] == [
        (0, ""), (2, ""), (5, "vd0")]
    assert names(machine, "/machine/peripheral") == {"type": "string", "vd0": "child<virtio-blk-pci>"}
    assert names(machine, "/machine/peripheral-anon") == {
        "type": "string", "device[0]": "child<virtio-blk-pci>"}
    assert get(machine, "/machine/peripheral-anon/device[0]", "legacy-addr") == "02.0"
    assert error(machine, "qom-list", path="virtio-backend") == (
        "GenericError", "Path 'virtio-backend' is ambiguous")
    machine.qmp.execute("device_del", id="vd0")
    machine.outl(0xAE08, 1 << 5)
    machine.qmp.wait_event("DEVICE_DELETED")
    machine.qmp.wait_event("DEVICE_DELETED")
    assert names(machine, "peripheral") == {"type": "string"}
    assert sorted(pci(machine)) == [0, 2]
    assert error(machine, "qom-list", path=DEVICE) == (MISSING, f"Device '{DEVICE}' not found")


def test_the_tree_can_be_walked_from_its_root(machine: Machine) -> None:
    seen = {}

    def walk(path: str) -> None:
        for name, kind in names(machine, path or "/").items():
            seen[f"{path}/{name}"] = kind
            value = get(machine, path or "/", name)
            if kind.startswith("child<"):
                assert value == f"{path}/{name}"
                walk(value)

    walk("")
    assert seen["/machine"] == "child<pc-machine>"
    assert seen["/objects/tg0"] == "child<throttle-group>"
    assert seen["/objects/pc.ram"] == "child<memory-backend-ram>"
    assert seen[f"{DEVICE}/virtio-backend"] == "child<virtio-blk-device>"
    assert seen[f"{DEVICE}/iothread"] == "link<iothread>"


def test_a_devices_properties_are_what_was_asked_for_or_what_they_are_without(machine: Machine) -> None:
    for name, value in {"type": "virtio-blk-pci", "addr": 5 << 3, "legacy-addr": "05.0", "drive": "n0",
                        "num-queues": 2, "serial": "abc", "queue-size": 256, "share-rw": False,
                        "write-cache": "auto", "bus": "pci.0", "iothread": "/objects/io0"}.items():
        assert get(machine, "vd0", name) == value, name
    machine.qmp.execute("x-blockdev-set-iothread",
                        **{"node-name": "n0", "iothread": "io1", "force": True})
    assert get(machine, "vd0", "iothread") == "/objects/io1"
    machine.qmp.execute("x-blockdev-set-iothread",
                        **{"node-name": "n0", "iothread": None, "force": True})
    assert get(machine, "vd0", "iothread") == ""


def test_the_machine_tells_what_it_was_made_of(machine: Machine) -> None:
    assert get(machine, "/machine", "type") == "pc-machine"
    assert get(machine, "/machine", "memory") == {"size": 64 << 20}
    assert get(machine, "/objects/pc.ram", "size") == 64 << 20
    assert get(machine, "/machine", "x-unplug-timeout") == 30


def test_objects_can_be_changed_and_devices_say_why_not(machine: Machine) -> None:
    def refused(path: str, name: str, value: Any) -> tuple[str, str]:
        return error(machine, "qom-set", path=path, property=name, value=value)

    machine.qmp.execute("qom-set", path="/objects/io0", property="poll-max-ns", value=7)
    assert get(machine, "io0", "poll-max-ns") == 7
    machine.qmp.execute("qom-set", path="tg0", property="limits", value={"iops-total": 9})
    assert get(machine, "/objects/tg0", "limits")["iops-total"] == 9
    assert refused("io0", "type", "x") == ("GenericError", "Property 'iothread.type' is not writable")
    assert refused("io0", "poll-max-ns", "x") == (
        "GenericError", "Invalid parameter type for 'poll-max-ns', expected: integer")
    assert refused("vd0", "serial", "x") == (
        "GenericError", "Attempt to set property 'serial' on device 'vd0' (type 'virtio-blk-pci') after "
        "it was realized")
    assert refused("vd0", "nope", 1) == ("GenericError", "Property 'virtio-blk-pci.nope' not found")
    assert refused("/machine", "peripheral", 1) == (
        "GenericError", "Property 'pc-machine.peripheral' is not writable")
    assert refused("/x", "y", 1) == (MISSING, "Device '/x' not found")
    assert error(machine, "qom-get", path="/", property="y") == (
        "GenericError", "Property 'container.y' not found")


def test_types_and_what_they_are_kinds_of(machine: Machine) -> None:
    def listed(**arguments: Any) -> dict[str, str]:
        rows = machine.qmp.execute("qom-list-types", **arguments)
        return {row["name"]: row.get("parent", "") for row in rows}

    everything = listed()
    assert everything["virtio-blk-pci"] == "pci-device" and everything["iothread"] == "object"
    assert "device" not in everything and "device" in listed(abstract=True)
    assert set(listed(implements="virtio-blk-pci")) == {"virtio-blk-pci"}
    assert {"virtio-blk-pci", "isa-serial"} <= set(listed(implements="device"))
    assert "iothread" not in listed(implements="device")
    assert listed(implements="nope") == {}


def test_a_device_types_properties_have_types_and_defaults(machine: Machine) -> None:
    rows = machine.qmp.execute("device-list-properties", typename="virtio-blk-pci")
    by_name = {row["name"]: row for row in rows}
    assert by_name["queue-size"] == {"default-value": 256, "name": "queue-size", "type": "uint16",
                                     "description": "a power of two from 4 to 1024"}
    assert by_name["discard"]["default-value"] is True
    assert "default-value" not in by_name["drive"]
    assert {"addr", "bus"} <= set(by_name)
    # Each can be asked of a device, if it has a value.
    has = names(machine, DEVICE)
    assert set(by_name) - set(has) == {"bootindex", "iothread-vq-mapping"}
    assert error(machine, "device-list-properties", typename="nope") == (
        MISSING, "Device 'nope' not found")
    assert error(machine, "device-list-properties", typename="iothread") == (
        "GenericError", "Parameter 'typename' expects a non-abstract device type")


def schema(machine: Machine) -> dict[str, dict[str, dict[str, Any]]]:
    """meta-type -> name -> entry."""
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in machine.qmp.execute("query-qmp-schema"):
        of_kind = entries.setdefault(entry["meta-type"], {})
        assert entry["name"] not in of_kind
        of_kind[entry["name"]] = entry
    return entries


def test_the_schema_has_every_command_and_the_server_obeys_it(machine: Machine) -> None:
    """A call with nothing but a member that nobody knows: the complaint is what the schema foretells."""
    entries = schema(machine)
    listed = {row["name"] for row in machine.qmp.execute("query-commands")}
    assert set(entries["command"]) == listed
    for name, entry in entries["command"].items():
        members = entries["object"][entry["arg-type"]]["members"]
        required = [member for member in members if "default" not in member]
        error_class, text = error(machine, name, bogus=1)
        if name == "qmp_capabilities":
            assert error_class == "CommandNotFound"  # done already
        elif required:
            assert text == f"Parameter '{required[0]['name']}' is missing", name
        else:
            assert text == "Parameter 'bogus' is unexpected", name
        for member in members:
            if member["type"] == "str" and member is (required or [None])[0]:
                assert error(machine, name, **{member["name"]: 1})[1] == (
                    f"Invalid parameter type for '{member['name']}', expected: string")
    assert machine.qmp.execute("query-status")["running"]


def test_every_type_of_the_schema_is_there_and_used(machine: Machine) -> None:
    entries = schema(machine)
    types = {name for kind in ("object", "enum", "array", "builtin") for name in entries[kind]}
    used = {"0", "number", "bool"}  # not each of these need have a user
    for entry in [*entries["command"].values(), *entries["event"].values()]:
        used |= {entry["arg-type"], entry.get("ret-type", "0")}
    for entry in entries["object"].values():
        used |= {member["type"] for member in entry["members"]}
        used |= {variant["type"] for variant in entry.get("variants", [])}
    used |= {entry["element-type"] for entry in entries["array"].values()}
    assert used == types


def test_the_schema_tells_what_libvirt_looks_for(machine: Machine) -> None:
    entries = schema(machine)
    assert "json-cli-hotplug" in entries["command"]["device_add"]["features"]
    object_add = entries["object"][entries["command"]["object-add"]["arg-type"]]
    assert object_add["tag"] == "qom-type"
    cases = {variant["case"]: variant["type"] for variant in object_add["variants"]}
    assert {m["name"] for m in entries["object"][cases["iothread"]]["members"]} == {
        "poll-max-ns", "poll-grow", "poll-shrink"}
    [tag] = [m for m in object_add["members"] if m["name"] == "qom-type"]
    assert set(entries["enum"][tag["type"]]["values"]) == set(cases)
    flat = entries["command"]["query-named-block-nodes"]["arg-type"]
    assert entries["object"][flat]["members"] == [{"name": "flat", "default": None, "type": "bool"}]


def test_events_are_those_of_the_schema_and_the_readme_names_them_all(machine: Machine) -> None:
    entries = schema(machine)
    for command in ("stop", "cont", "system_powerdown"):
        machine.qmp.execute(command)
    machine.qmp.execute("device_del", id="vd0")
    machine.qmp.execute("system_reset")
    seen = [machine.qmp.wait_any() for _ in range(6)]
    assert {event["event"] for event in seen} == {"STOP", "RESUME", "POWERDOWN", "RESET",
                                                  "DEVICE_DELETED"}
    for event in seen:
        members = entries["object"][entries["event"][event["event"]]["arg-type"]]["members"]
        assert set(event.get("data", {})) <= {member["name"] for member in members}, event
    readme = (vm.ROOT / "README.md").read_text()
    assert [name for name in entries["event"] if f"`{name}`" not in readme] == []
    exact = {name for name in entries["command"] if "job-" not in name}  # `job-*` is all of them
    assert [name for name in sorted(exact) if f"`{name}`" not in readme] == []
