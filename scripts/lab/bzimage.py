"""Takes the uncompressed ELF kernel (vmlinux, with its PVH note) out of a bzImage.

The x86 boot protocol's setup header says where the compressed payload lies (payload_offset and
payload_length, protocol 2.08 and later), so nothing has to be guessed by searching for magics.
"""

import struct

from lab.errors import LabError
from lab.paths import run_tool

_SETUP_SECTS = 0x1F1
_HEADER_MAGIC = 0x202
_PAYLOAD_OFFSET = 0x248

# magic -> (tool, bytes of plain size that the kernel's build appends behind the stream).
_COMPRESSIONS: dict[bytes, tuple[list[str], int]] = {
    b"\x02\x21\x4c\x18": (["lz4", "-dc"], 4),
    b"\x28\xb5\x2f\xfd": (["zstd", "-dc"], 4),
    b"\xfd7zXZ\x00": (["xz", "-dc"], 4),
    b"\x1f\x8b": (["gzip", "-dc"], 0),
}


def extract_vmlinux(image: bytes) -> bytes:
    """The ELF image; LabError says what is wrong with anything else."""
    payload = _payload(image)
    for magic, (tool, tail) in _COMPRESSIONS.items():
        if payload.startswith(magic):
            plain = run_tool(tool, stdin=payload[: len(payload) - tail])
            break
    else:
        raise LabError(f"kernel payload starts with {payload[:6].hex()}: unknown compression")
    if not plain.startswith(b"\x7fELF"):
        raise LabError("the kernel payload is not an ELF file")
    return plain


def _payload(image: bytes) -> bytes:
    if len(image) < 0x400 or image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise LabError("not a bzImage (no HdrS in the setup header)")
    (version,) = struct.unpack_from("<H", image, _HEADER_MAGIC + 4)
    if version < 0x208:
        raise LabError(f"boot protocol {version:#x} is older than 2.08")
    setup_sects = image[_SETUP_SECTS] or 4
    offset, length = struct.unpack_from("<II", image, _PAYLOAD_OFFSET)
    start = (setup_sects + 1) * 512 + offset
    if start + length > len(image):
        raise LabError("the bzImage is cut short")
    return image[start : start + length]
