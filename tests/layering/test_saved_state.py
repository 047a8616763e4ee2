"""scripts/saved_state.py prints what the C++ writer has written, as the C++ dump prints it.

The bytes and the text are those that tests/unit/util/saved_state_test.cc compares its own with. Saved
machines that no fault on the way makes, only a peer that means it, are made here; real ones are
tests/qtest/test_saved_machine.py's.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts import saved_state  # noqa: E402

SCRIPT = ROOT / "scripts" / "saved_state.py"


def golden(name: str) -> str:
    text = (ROOT / "tests" / "unit" / "util" / name).read_text()
    return re.fullmatch(r'R"\((.*)\)"\n', text, re.DOTALL).group(1)


def run(data: bytes) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([SCRIPT], input=data, capture_output=True, timeout=60, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(),
                                       done.stderr.decode())


def test_a_real_state_is_printed_as_the_writer_says() -> None:
    done = run(bytes.fromhex(golden("saved_state_golden.inc")))
    assert (done.returncode, done.stdout) == (0, golden("saved_state_golden_json.inc") + "\n")


def test_every_truncation_ends_with_an_error_or_fewer_fields() -> None:
    whole = bytes.fromhex(golden("saved_state_golden.inc"))
    names = list(saved_state.fields(whole))
    for size in range(len(whole)):
        try:
            found = list(saved_state.fields(whole[:size]))
        except saved_state.Malformed:
            continue
        assert found == names[:len(found)] and len(found) < len(names)


@pytest.mark.parametrize("data, message", [
    (b"\x01x\x63\x00", "field 'x': type 99 is not known"),
    (b"\x01x\x01\x02", "field 'x': 2 is neither true nor false"),
    (b"\x01x\x09\x03\x00\x00\x00\x01y\x03", "field 'x.y': the data ends in it"),
    (b"\x01x\x0a\x04\x00\x00\x00\xff\xff\xff\xff", "field 'x[0]': the data ends in it"),
    (b"\x01x\x0a\x05\x00\x00\x00\x00\x00\x00\x00\x07", "field 'x': bytes are left over"),
    (b"\x01x\x02\x00\x01x\x02\x00", "field '': 'x' twice"),
    (b"\x00\x02\x00", "field '': a name of 0 bytes"),
])
def test_what_is_no_state_is_named_with_its_path(data: bytes, message: str) -> None:
    done = run(data)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"saved_state: {message}\n")


def test_states_are_nested_no_deeper_than_the_format_says() -> None:
    data = b""
    for _ in range(saved_state.MAX_DEPTH):
        data = b"\x01x\x09" + len(data).to_bytes(4, "little") + data
    saved_state.fields(data)
    with pytest.raises(saved_state.Malformed, match="nested too deeply"):
        saved_state.fields(b"\x01x\x09" + len(data).to_bytes(4, "little") + data)


# --- Saved machines ------------------------------------------------------------------------------


class Bytes(bytes):
    """Of a field that holds bytes."""


def state(**fields: Any) -> bytes:
    """As util/state_writer.h writes it. A number is a u64 where that does not matter."""
    encoded = b""
    for name, value in fields.items():
        encoded += bytes([len(name)]) + name.replace("_", "-").encode()
        if isinstance(value, bool):
            encoded += bytes([saved_state.BOOL, value])
        elif isinstance(value, int):
            encoded += b"\x05" + value.to_bytes(8, "little")
        elif isinstance(value, (str, Bytes)):
            raw = value.encode() if isinstance(value, str) else bytes(value)
            kind = saved_state.STRING if isinstance(value, str) else saved_state.BYTES
            encoded += bytes([kind]) + sized(raw)
        elif isinstance(value, list):
            encoded += bytes([saved_state.LIST]) + sized(
                len(value).to_bytes(4, "little") + b"".join(map(sized, value)))
        else:
            encoded += bytes([saved_state.STRUCT]) + sized(value)
    return encoded


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def frame(kind: int, payload: bytes = b"", zero: int = 0) -> bytes:
    head = b"RHEA" + b"".join(number.to_bytes(size, "little") for number, size in (
        (kind, 2), (zero, 2), (len(payload), 4)))
    crc = saved_state.crc32c
    return head + crc(head).to_bytes(4, "little") + payload + crc(payload).to_bytes(4, "little")


def hello(version: int = 2, channels: int = 0, paths: tuple[str, ...] = ("rtc",)) -> bytes:
    devices = [state(path=path, kind="mc146818", version=1, schema=7, settings="") for path in paths]
    return frame(1, state(machine=state(
        stream_version=version, program="Rhea 0", machine="pc", accelerator="qtest", cpus=1, uuid="",
        ram=[state(name="pc.ram", size=4096 * 4)], devices=devices), channels=channels, session=9,
        validate_uuid=False))


def pages(block: int = 0, normal: tuple[int, ...] = (1,), zero: tuple[int, ...] = (),
          checksum: int | None = None) -> bytes:
    numbers = (block, len(normal) | len(zero) << 16, checksum is not None, checksum or 0, *normal, *zero)
    payload = b"".join(number.to_bytes(4, "little") for number in numbers)
    return frame(2, payload) + bytes(4096) * len(normal)


def device(path: str = "rtc", content: bytes | None = None) -> bytes:
    return frame(4, state(path=path, state=Bytes(state(index=3) if content is None else content)))


def end(pages: int = 2, devices: int = 1) -> bytes:
    return frame(5, state(runs=True, pages=pages, devices=devices))


def sync(number: int = 1) -> bytes:
    return frame(3, state(**{"pass": number, "channel_sync": 0}))


WHOLE = [hello(), pages(zero=(3,)), sync(), device(), end()]


def test_a_machine_is_whole_from_hello_to_end() -> None:
    done = run(b"".join(WHOLE))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["ram"] == [{"name": "pc.ram", "size": 16384, "normal-pages": 1, "zero-pages": 1}]
    assert found["devices"]["rtc"]["state"] == {"index": 3}
    # As the source goes on where somebody answers.
    assert run(b"".join(WHOLE) + frame(6) + frame(7)).returncode == 0


def test_the_checksum_is_castagnolis() -> None:
    assert saved_state.crc32c(b"123456789") == 0xE3069283
    assert saved_state.crc32c(b"6789", saved_state.crc32c(b"12345")) == 0xE3069283


def instead(index: int, *others: bytes) -> bytes:
    return b"".join([*WHOLE[:index], *others, *WHOLE[index + 1:]])


# Which frame of WHOLE is replaced, by what, and what is said of it (or of the one behind it).
@pytest.mark.parametrize("index, others, ahead, message", [
    (0, [], 0, "a frame 'pages': it is not its turn"),
    (0, [hello(), hello()], 1, "a frame 'hello': it is not its turn"),
    (0, [hello(version=3)], 0, "a frame 'hello': version 3 of the stream, this is a reader of version 2"),
    (0, [hello(paths=("rtc", "rtc"))], 0, "a frame 'hello': there are two devices 'rtc'"),
    (0, [hello(channels=2)], 1, "a frame 'pages': pages on the main connection, where channels of "
                                "their own carry them"),
    (0, [frame(1, state(machine=7))], 0,
     "a frame 'hello': field 'machine' is missing, or is of another type"),
    (0, [frame(1, b"\x01x\x63")], 0, "a frame 'hello': field 'x': type 99 is not known"),
    (1, [frame(2, b"short")], 0, "a frame 'pages': a list of pages of 5 bytes"),
    (1, [pages(block=1)], 0, "a frame 'pages': a list of 1 pages of RAM block 1 in 20 bytes"),
    (1, [pages(normal=(4,))], 0, "a frame 'pages': page 4 of RAM block 'pc.ram', which has 4"),
    (1, [frame(9)], 0, "a frame of unknown kind 0x9"),
    (1, [frame(3, zero=1)], 0, "a frame of unknown kind 0x10003"),
    (1, [frame(6, b"x")], 0, "a frame 'released' of 1 bytes, at most 0"),
    (1, [frame(6)], 0, "a frame 'released': it is not its turn"),
    (1, [frame(0x83)], 0, "a frame 'ready': no source says that"),
    (1, [frame(8, b"no\nroom")], 0, "a frame 'fail': the source gave up: no\\nroom"),
    (3, [device("pit")], 0, "a frame 'device': the state of 'pit', which 'hello' does not list"),
    (3, [device(), device()], 1, "a frame 'device': the state of 'rtc' for the second time"),
    (3, [device(content=b"\x01x\x63")], 0,
     "a frame 'device': the state of 'rtc': field 'x': type 99 is not known"),
    (3, [], 0, "a frame 'end': the state of 'rtc' is missing"),
    (4, [end(pages=3)], 0, "a frame 'end': it says that there were 3 pages and 1 devices, but there "
                           "were 2 and 1"),
    (4, [end(), sync()], 1, "a frame 'sync': it is not its turn"),
    (4, [], 0, "the file ends before the frame 'end': the machine is not complete"),
])
def test_a_machine_that_does_not_follow_the_format_is_refused_with_the_offset(
        index: int, others: list[bytes], ahead: int, message: str) -> None:
    done = run(instead(index, *others))
    at = len(b"".join([*WHOLE[:index], *others][:index + ahead]))
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", f"saved_state: offset {at}: {message}\n")


def test_pages_with_another_checksum_are_told_by_where_they_lie() -> None:
    good = pages(zero=(3,), checksum=saved_state.crc32c(bytes(4096)))
    assert run(instead(1, good)).returncode == 0
    at = len(WHOLE[0])
    done = run(instead(1, pages(zero=(3,), checksum=1)))
    assert (done.returncode, done.stderr) == (
        1, f"saved_state: offset {at + len(good) - 4096}: the pages of the frame 'pages' at offset {at} "
           "have another checksum than it says\n")


def test_pages_that_are_skipped_are_there_all_the_same(tmp_path: pathlib.Path) -> None:
    """Out of a file and out of a pipe: the one is measured, the other read."""
    data = b"".join(WHOLE[:2])[:-1]
    (tmp_path / "cut").write_bytes(data)
    with open(tmp_path / "cut", "rb") as file:
        of_file = subprocess.run([SCRIPT], stdin=file, capture_output=True, timeout=60, check=False)
    assert of_file.stderr.decode() == run(data).stderr == (
        f"saved_state: offset {len(data)}: the file ends in the 4096 bytes of pages "
        f"(from offset {len(data) - 4095} on)\n")


def test_the_accelerators_sections_are_opened() -> None:
    section = state(name="clock", bytes=Bytes(state(nanoseconds=5)))
    parts = [hello(paths=("accelerator",)), pages(zero=(3,)),
             device("accelerator", state(sections=[section])), end()]
    found = json.loads(run(b"".join(parts)).stdout)
    assert found["devices"]["accelerator"]["state"] == {
        "sections": [{"name": "clock", "state": {"nanoseconds": 5}}]}


def test_what_asks_for_a_part_of_a_machine_gets_none_of_a_bare_state() -> None:
    for arguments in (["--summary"], ["--device", "rtc"]):
        done = subprocess.run([SCRIPT, *arguments], input=state(index=3), capture_output=True,
                              timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"saved_state: offset 0: this is one bare state at most, and no saved machine\n"
