"""Fetches Debian's cloud kernels into the cache: downloaded and unpacked, never installed."""

import json
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.bzimage import extract_vmlinux
from lab.errors import LabError
from lab.paths import cache_dir, cache_lock, run_tool, write_atomically

# Series -> the metapackage whose dependency names the current versioned package.
METAPACKAGES = {
    "6.1": "linux-image-cloud-amd64",
    "6.12": "linux-image-6.12-cloud-amd64",
}


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package."""

    release: str  # what uname -r prints
    package: str  # name and version
    folder: Path

    @property
    def bzimage(self) -> Path:
        return self.folder / "root" / "boot" / f"vmlinuz-{self.release}"

    @property
    def vmlinux(self) -> Path:
        """The uncompressed ELF kernel with the PVH note, extracted on the first request."""
        path = self.folder / "vmlinux"
        if not path.exists():
            write_atomically(path, extract_vmlinux(self.bzimage.read_bytes()))
        return path

    @property
    def modules_dir(self) -> Path:
        return self.folder / "root" / "lib" / "modules" / self.release

    def modules(self, names: Iterable[str]) -> list[tuple[str, bytes]]:
        """(file name, content) of the modules and all they need, in an order insmod accepts."""
        depends = self._dependencies()
        builtin = {
            _module_name(l) for l in (self.modules_dir / "modules.builtin").read_text().split()
        }
        order: list[str] = []
        for name in (_module_name(n) for n in names):
            if name in depends:
                path, needs = depends[name]
                order += [p for p in (*reversed(needs), path) if p not in order]
            elif name not in builtin:
                raise LabError(f"kernel {self.release} has no module {name}")
        return [(f"{_module_name(p)}.ko", _read_module(self.modules_dir / p)) for p in order]

    def _dependencies(self) -> dict[str, tuple[str, list[str]]]:
        table = {}
        for line in (self.modules_dir / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            table[_module_name(path)] = (path, needs.split())
        return table


def _module_name(path: str) -> str:
    return re.sub(r"\.ko(\.xz)?$", "", Path(path).name).replace("-", "_")


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def fetch(series: str = "6.1", *, update: bool = False) -> Kernel:
    """The cached kernel of a series; downloads it when missing or when `update` asks."""
    folder = cache_dir() / "kernels" / series
    with cache_lock():
        if update or not (folder / "kernel.json").exists():
            try:
                _download(series, folder)
            except LabError:
                _refresh_lists()  # an old list names packages the mirror has since replaced
                _download(series, folder)
        info = json.loads((folder / "kernel.json").read_text())
    return Kernel(info["release"], info["package"], folder)


def _download(series: str, folder: Path) -> None:
    package, version = _resolve(series)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fresh = Path(scratch) / "new"
        fresh.mkdir()
        # As root, apt would drop to _apt, which cannot write here, and warn about it.
        run_tool(
            ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"],
            cwd=fresh,
        )
        (deb,) = fresh.glob("*.deb")
        run_tool(["dpkg", "-x", str(deb), str(fresh / "root")])
        deb.unlink()
        release = package.removeprefix("linux-image-")
        run_tool(["/sbin/depmod", "-b", str(fresh / "root"), release])
        info = {"release": release, "package": f"{package} {version}"}
        (fresh / "kernel.json").write_text(json.dumps(info))
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)


def _refresh_lists() -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    run_tool([*sudo, "apt-get", "-q", "update"])


def _resolve(series: str) -> tuple[str, str]:
    """The versioned package behind a metapackage, as the apt sources know it now."""
    if series not in METAPACKAGES:
        raise LabError(f"no kernel series {series}; known: {', '.join(METAPACKAGES)}")
    meta = METAPACKAGES[series]
    try:
        text = run_tool(["apt-cache", "show", "--no-all-versions", meta]).decode()
    except LabError as error:
        raise LabError(
            f"the apt sources offer no {meta} (kernel {series}): run 'apt-get update', "
            f"and for 6.12 configure bookworm-backports or security"
        ) from error
    found = re.search(r"^Depends:.*?(linux-image-\S+) \(= ([^)]+)\)", text, re.MULTILINE)
    if found is None:
        raise LabError(f"{meta} does not name a versioned kernel package")
    return found.group(1), found.group(2)
