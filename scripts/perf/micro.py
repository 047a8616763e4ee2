"""Guests of ten bytes of code: they write one byte to the serial port, then halt."""

import struct

# mov dx, 0x3f8; mov al, 'R'; out dx, al; 1: hlt; jmp 1b
_CODE_32 = bytes.fromhex("66 ba f8 03 b0 52 ee f4 eb fd")
_CODE_16 = bytes.fromhex("ba f8 03 b0 52 ee f4 eb fd")
_LOAD_ADDRESS = 0x100000
_XEN_ELFNOTE_PHYS32_ENTRY = 18


def pvh_elf() -> bytes:
    """A kernel for `-kernel`: ELF64 with one segment and the PVH entry note."""
    code_at, note_at = 0x1000, 0x200
    note = struct.pack("<III4sQ", 4, 8, _XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", _LOAD_ADDRESS)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, _LOAD_ADDRESS, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = struct.pack(
        "<IIQQQQQQ",
        1,
        7,
        code_at,
        _LOAD_ADDRESS,
        _LOAD_ADDRESS,
        len(_CODE_32),
        len(_CODE_32),
        0x1000,
    )
    pt_note = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    image = bytearray(code_at + len(_CODE_32))
    image[: len(header)] = header
    image[64 : 64 + 112] = load + pt_note
    image[note_at : note_at + len(note)] = note
    image[code_at:] = _CODE_32
    return bytes(image)


def firmware() -> bytes:
    """A firmware for `-bios`: its reset vector is the code, so nothing runs before it."""
    image = bytearray(b"\xf4" * 65536)
    image[-16 : -16 + len(_CODE_16)] = _CODE_16
    return bytes(image)
