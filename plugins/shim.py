"""The library name that TensorRT-RTX's wheel forgot: without it, the first plugin of a graph ends the process."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path
from types import ModuleType

MISSING = "libtensorrt_rtx.so"  # what its parser opens; the wheel ships the name with a version behind it only
LOAD, DYNAMIC, STACK = 1, 2, 0x6474E551  # kinds of program headers
NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SYMENT, SONAME = 1, 4, 5, 6, 10, 11, 14  # entries of the dynamic section
READ_WRITE = 6


def preload(module: ModuleType) -> None:
    """Make `libtensorrt_rtx.so` a name that is loaded, where `module` is `tensorrt_rtx`; else nothing.

    An empty library of that name, made in memory, needs the loaded one: whoever opens it finds that one's symbols.

    Raises:
        OSError: the loader refuses it.
    """
    if module.__name__ != "tensorrt_rtx" or sys.platform != "linux":
        return
    try:
        ctypes.CDLL(MISSING)
    except OSError:
        _load(stub(MISSING, _loaded()))


def _loaded() -> Path:
    """The library that this process has mapped."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.name.startswith(f"{MISSING}."):
            return path
    raise OSError(f"{MISSING} is not loaded: import tensorrt_rtx first")


def _load(library: bytes) -> None:
    file = os.memfd_create("tp-export-shim")
    try:
        os.write(file, library)
        ctypes.CDLL(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def stub(name: str, needed: Path) -> bytes:
    """An ELF library of 64 bits with a name, one needed library, and nothing else, for `needed`'s own machine."""
    with needed.open("rb") as file:
        start = file.read(20)
    strings = b"\0" + b"\0".join(each.encode() for each in (name, needed.name)) + b"\0"
    headers, symbols, table = 64 + 3 * 56, 24, struct.pack("<4I", 1, 1, 0, 0)
    at_table, at_strings = headers + symbols, headers + symbols + len(table)
    at_dynamic = (at_strings + len(strings) + 7) & ~7
    entries = {SONAME: 1, NEEDED: 2 + len(name), HASH: at_table, STRTAB: at_strings, SYMTAB: headers}
    entries |= {STRSZ: len(strings), SYMENT: symbols, 0: 0}
    dynamic = b"".join(struct.pack("<2Q", *entry) for entry in entries.items())
    end = at_dynamic + len(dynamic)
    head = start[:16] + struct.pack(
        "<HHIQQQIHHHHHH", 3, *struct.unpack("<H", start[18:20]), 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0
    )
    segments = (
        _segment(LOAD, 0, end, 0x10000) + _segment(DYNAMIC, at_dynamic, len(dynamic), 8) + _segment(STACK, 0, 0, 16)
    )
    body = head + segments + bytes(symbols) + table + strings
    return body.ljust(at_dynamic, b"\0") + dynamic


def _segment(kind: int, at: int, size: int, align: int) -> bytes:
    return struct.pack("<II6Q", kind, READ_WRITE, at, at, at, size, size, align)
