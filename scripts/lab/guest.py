"""Makes the L2 guest's initramfs: static busybox, chosen kernel modules, and an init script.

The guest gives an interactive shell on ttyS0, or runs a script put in the image (`script=`), or
one given on the kernel command line as `lab.run64=BASE64`; `lab.end=poweroff|reboot|halt` says how
it ends after a script. The script's status is printed as the line `lab: exit status N`.
"""

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.closure import shared_libraries
from lab.cpio import CpioArchive
from lab.errors import LabError
from lab.kernel import Kernel
from lab.paths import cached, run_tool

BUSYBOX = Path("/bin/busybox")
CMDLINE = "console=ttyS0 panic=-1 quiet mitigations=off"

# What later users need; the shell itself needs none. The order is worked out from modules.dep.
POWER_BUTTON_MODULES = ("button", "evdev")
DISK_MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ext4")
CD_MODULES = ("sr_mod", "isofs")

_INIT = r"""#!/bin/sh
export PATH=/bin HOME=/root TERM="${TERM:-linux}" PS1='guest# '
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
exec 0</dev/console 1>/dev/console 2>&1
[ -e /modules/order ] && while read -r module; do insmod "/modules/$module"; done < /modules/order
[ -e /sys/module/evdev ] && acpid -f -l /dev/null >/dev/null 2>&1 &

value() {
    for word in $(cat /proc/cmdline); do
        case $word in "$1"=*) echo "${word#*=}";; esac
    done
}
end() { case $1 in reboot) reboot -f;; halt) halt -f;; *) poweroff -f;; esac; sleep 999999; }

root=$(value lab.root)
if [ -n "$root" ] && [ -e /modules/order ]; then
    mount -t ext4 "$root" /root && umount -l /dev /sys /proc && exec switch_root /root /init
    echo "lab: no root file system on $root"
fi
rows=$(value lab.rows); cols=$(value lab.cols)
[ -n "$rows" ] && stty rows "$rows" cols "${cols:-80}"
command=$(value lab.run64); script=/script
if [ -n "$command" ]; then echo "$command" | base64 -d > /run.sh; script=/run.sh; fi
echo "lab: guest is up, Linux $(uname -r), $(nproc) CPU"
if [ -e "$script" ]; then
    sh "$script"
    echo "lab: exit status $?"
    end "$(value lab.end)"
fi
echo "Type 'exit' or 'poweroff -f' to end."
setsid cttyhack sh
end poweroff
"""

_ROOT_UUID = "7f6c1f0e-5b1c-4a52-9d0c-6d2f7d1f3a11"
_ACPID_CONF = "PWRF\tpower.sh\nPNP0C0C:00\tpower.sh\n"
_ACPID_ACTION = "#!/bin/sh\necho 'lab: power button' > /dev/console\npoweroff -f\n"


def initramfs(kernel: Kernel, *, modules: Sequence[str] = (), script: str | None = None) -> Path:
    """The guest image for these modules and this script, from the cache when it was made before."""
    archive = CpioArchive()
    add_busybox(archive, "bin")
    for name in ("dev", "proc", "sys", "root", "tmp", "etc"):
        archive.directory(name)
    archive.char_device("dev/console", 5, 1)
    archive.file("init", _INIT.encode(), 0o755)
    archive.file("etc/acpid.conf", _ACPID_CONF.encode())
    archive.file("etc/acpi/power.sh", _ACPID_ACTION.encode(), 0o755)
    loaded = kernel.modules(modules)
    for name, data in loaded:
        archive.file(f"modules/{name}", data)
    archive.file("modules/order", "".join(f"{name}\n" for name, _ in loaded).encode())
    if script is not None:
        archive.file("script", script.encode(), 0o755)
    data = archive.to_bytes()
    return cached("guest", data, lambda: data, keep=24)


def root_image(
    size_mib: int, *, programs: Sequence[Path] = (), texts: Mapping[str, str] | None = None
) -> Path:
    """An ext4 image of the guest's system, for `lab.root=/dev/vda`: the initramfs finds it.

    Where the kernel names disks in any order, as it does behind one SCSI adapter, it is
    `lab.root=LABEL=lab-root`.

    `programs` come with their shared libraries and lie in /bin; `texts` are files, by path.
    """
    files = {f"bin/{BUSYBOX.name}": BUSYBOX}
    for program in programs:
        if not program.exists():
            raise LabError(f"{program} is missing; run scripts/setup")
        files[f"bin/{program.name}"] = program
        files |= {str(path).lstrip("/"): path for path in shared_libraries(program)}
    contents = {"init": _INIT, **(texts or {})}
    key = [f"{size_mib} lab-root {_ROOT_UUID} {sorted(contents.items())}".encode()]
    key += [name.encode() + hashlib.sha256(files[name].read_bytes()).digest() for name in files]

    def data() -> bytes:
        with tempfile.TemporaryDirectory() as scratch:
            tree, image = Path(scratch) / "tree", Path(scratch) / "root.img"
            _lay_out(tree, files, contents)
            with image.open("wb") as out:
                out.truncate(size_mib << 20)
            # The same bytes each time, so that the cache knows them again.
            run_tool(
                ["mke2fs", "-q", "-t", "ext4", "-d", str(tree), "-L", "lab-root", "-U", _ROOT_UUID]
                + ["-E", f"hash_seed={_ROOT_UUID},root_owner=0:0", str(image)]
            )
            return image.read_bytes()

    return cached("guest-root", b"".join(key), data, keep=4)


def iso_image(texts: Mapping[str, str]) -> Path:
    """A disc with these files, by path, in ISO 9660 with Rock Ridge's names."""

    def data() -> bytes:
        with tempfile.TemporaryDirectory() as scratch:
            tree, image = Path(scratch) / "tree", Path(scratch) / "disc.iso"
            tree.mkdir()
            for name, text in texts.items():
                (tree / name).write_text(text)
            run_tool(["genisoimage", "-quiet", "-R", "-V", "LAB", "-o", str(image), str(tree)])
            return image.read_bytes()

    return cached("disc", repr(sorted(texts.items())).encode(), data, keep=4)


def _lay_out(tree: Path, files: Mapping[str, Path], contents: Mapping[str, str]) -> None:
    for name in ("dev", "proc", "sys", "root", "tmp", "etc"):
        (tree / name).mkdir(parents=True)
    for name, source in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / name)
    for name, text in contents.items():
        (tree / name).write_text(text)
    (tree / "init").chmod(0o755)
    for applet in run_tool([str(BUSYBOX), "--list"]).decode().split():
        if not (tree / "bin" / applet).exists():
            (tree / "bin" / applet).symlink_to("busybox")


def run_argument(script: str) -> str:
    """The kernel command line word that makes the guest run this script."""
    word = "lab.run64=" + base64.b64encode(script.encode()).decode()
    if len(word) > 1500:
        raise LabError("script too long for the kernel command line; put it into the image")
    return word


def add_busybox(archive: CpioArchive, folder: str) -> None:
    """busybox with a symlink for each applet (making them at boot would cost a second)."""
    if not BUSYBOX.exists():
        raise LabError(f"{BUSYBOX} is missing; run scripts/setup (package busybox-static)")
    archive.copy(f"{folder}/busybox", BUSYBOX)
    for applet in run_tool([str(BUSYBOX), "--list"]).decode().split():
        if applet != "busybox":
            archive.symlink(f"{folder}/{applet}", "busybox")
