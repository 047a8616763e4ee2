"""Finds all the files a program needs at run time, so that it can be moved into L1."""

import importlib.util
import json
import py_compile
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from lab.cpio import CpioArchive
from lab.paths import SCRIPTS, run_tool

PYTHON = Path("/usr/bin/python3")
L1_LIBRARY = "lab/lib"

_LIST_MODULES = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
import encodings.ascii, encodings.latin_1, encodings.utf_8
import lab.inside.agent, lab.inside.machine, runpy
spec = importlib.util.spec_from_file_location("scenario", sys.argv[2])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
files = {m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)}
print(json.dumps(sorted(f for f in files if f != sys.argv[2])))
"""


def add_program(archive: CpioArchive, program: Path, where: str) -> None:
    """The program at `where`, and the shared libraries `ldd` names at their own paths."""
    archive.copy(where, program.resolve())
    add_libraries(archive, program)


def add_libraries(archive: CpioArchive, program: Path) -> None:
    for path in shared_libraries(program):
        archive.copy(str(path), path.resolve())


def shared_libraries(program: Path) -> list[Path]:
    """What the dynamic loader will open, the loader itself included."""
    listing = run_tool(["ldd", str(program)]).decode()
    return [Path(p) for p in re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listing, re.MULTILINE)]


def add_python(archive: CpioArchive, scenario: Path) -> None:
    """The interpreter with exactly the modules that the agent and this scenario import."""
    interpreter = PYTHON.resolve()
    add_program(archive, interpreter, "usr/bin/python3")
    for path in _imported_files(scenario):
        inside = (
            Path(L1_LIBRARY) / path.relative_to(SCRIPTS) if path.is_relative_to(SCRIPTS) else path
        )
        archive.copy(str(inside), path)
        if path.suffix == ".py":
            archive.file(str(_cache_name(inside)), _compile(path, inside))
        else:
            add_libraries(archive, path)


def _imported_files(scenario: Path) -> Iterable[Path]:
    output = run_tool(
        [str(PYTHON), "-I", "-S", "-B", "-c", _LIST_MODULES, str(SCRIPTS), str(scenario)]
    )
    return [Path(name) for name in json.loads(output)]


def _cache_name(source: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(source)))


def _compile(source: Path, shown_as: Path) -> bytes:
    """Byte code that is valid whatever the file's time says: compiling in L1 takes seconds."""
    with tempfile.NamedTemporaryFile(suffix=".pyc") as out:
        py_compile.compile(
            str(source),
            cfile=out.name,
            dfile=f"/{str(shown_as).lstrip('/')}",
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        return Path(out.name).read_bytes()
