"""Where things live in the tree, how cached artefacts are made exactly once, and how tools run."""

import contextlib
import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.errors import LabError

SCRIPTS = Path(__file__).resolve().parent.parent
ROOT = SCRIPTS.parent


def cache_dir() -> Path:
    """The git-ignored cache; RHEA_CACHE_DIR moves it (to share one between clones)."""
    path = Path(os.environ.get("RHEA_CACHE_DIR") or ROOT / ".cache") / "lab"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def cache_lock() -> Iterator[None]:
    """Keeps two processes from building the same artefact; released by the kernel on any death."""
    with open(cache_dir() / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_tool(argv: list[str], *, stdin: bytes | None = None, cwd: Path | None = None) -> bytes:
    """Runs a host tool, returns its output; a failure names it and shows its last words."""
    try:
        done = subprocess.run(argv, input=stdin, cwd=cwd, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed; run scripts/setup") from error
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-4:]
        raise LabError(f"{' '.join(argv)} failed ({done.returncode}): {' | '.join(words)}")
    return done.stdout


def write_atomically(path: Path, data: bytes) -> None:
    """Readers see the old file or the whole new one, also when the writer dies half-way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as out:
        out.write(data)
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


def cached(prefix: str, key: bytes, build: Callable[[], bytes], keep: int = 8) -> Path:
    """The artefact of content hash `key`, built on the first request; old siblings are dropped."""
    path = cache_dir() / "images" / f"{prefix}-{hashlib.sha256(key).hexdigest()[:20]}"
    if path.exists():
        os.utime(path)
        return path
    with cache_lock():
        if not path.exists():
            write_atomically(path, build())
            _drop_oldest(path.parent, prefix, keep)
    return path


def _drop_oldest(folder: Path, prefix: str, keep: int) -> None:
    files = sorted(folder.glob(f"{prefix}-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for stale in files[keep:]:
        stale.unlink(missing_ok=True)
