"""scripts/saved_state.py prints what the C++ writer has written, as the C++ dump prints it.

The bytes and the text are those that tests/unit/util/saved_state_test.cc compares its own with.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

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
