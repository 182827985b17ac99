"""A built library of the plugins: where it is, whether it is one, and how TensorRT gets to know it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from plugins.shim import preload

NAME = "libtp_export_plugins.so"
PLACE = "TP_EXPORT_PLUGIN"  # environment variable with the path of a library
EXPORTS = ("getCreators", "setLoggerFinder", "tp_interface", "tp_cuda", "tp_gpus", "tp_complaint")
INTERFACE = 1
BUILD = "build it as docs/plugin.md says"


class LibraryError(Exception):
    """One line: which library, what is wrong with it, what to do."""


@dataclass(frozen=True)
class Built:
    """How a library was built: its CUDA version, and the GPUs that it has machine code for, in CMake's words."""

    cuda: tuple[int, int]
    gpus: str


def find(path: str | Path | None = None) -> Path:
    """The library at `path`, a file or its folder; without one, where $TP_EXPORT_PLUGIN says, or beside this module.

    Raises:
        LibraryError: There is none.
    """
    place = Path(path or os.environ.get(PLACE) or Path(__file__).parent)
    file = place / NAME if place.is_dir() else place
    if file.is_file():
        return file.absolute()
    hint = BUILD if path else f"{BUILD}, and name it with --plugin or ${PLACE}"
    raise LibraryError(f"{file}: there is no such plugin library; {hint}")


def sha256(path: str | Path) -> str:
    """Of the file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inspect(path: str | Path) -> Built:
    """What a library says of itself, once it is clear that this process can use it.

    Raises:
        LibraryError: It is no library, one for another machine, none of ours, of another version of tp-export, or
            built with a newer CUDA than the GPU driver here knows.
    """
    library = _opened(find(path))
    if library.tp_interface() != INTERFACE:
        was = library.tp_interface()
        raise LibraryError(f"{path} has interface {was} of tp-export's plugins, not {INTERFACE}: {BUILD}")
    library.tp_gpus.restype = ctypes.c_char_p
    built = Built(_version(library.tp_cuda()), library.tp_gpus().decode())
    known = _driver()
    if known is not None and known[0] < built.cuda[0]:
        here, there = (".".join(map(str, each)) for each in (known, built.cuda))
        raise LibraryError(
            f"{path} was built with CUDA {there}, and the GPU driver here knows CUDA {here}: "
            f"update the driver, or build it with a CUDA toolkit {known[0]}.x"
        )
    return built


def load(module: ModuleType, path: str | Path | None = None) -> Path:
    """Make the plugins known to `tensorrt` or `tensorrt_rtx` in this process; the path that was loaded.

    Operators that the registry has already stay as they are.

    Raises:
        LibraryError: As `find` and `inspect`, or TensorRT refuses it.
    """
    file = find(path)
    inspect(file)
    preload(module)
    registry = module.get_plugin_registry()
    known = any((each.name, each.plugin_namespace) == ("Select", "tp.export") for each in registry.all_creators)
    if not known and registry.load_library(str(file)) is None:  # to ask for a creator that is not there is an error
        raise LibraryError(f"{file}: {module.__name__} {module.__version__} refuses it; {BUILD} for that version")
    return file


def complaint(path: str | Path) -> str:
    """What a plugin of a loaded library refused last, or "": TensorRT says no more than that one did."""
    library = ctypes.CDLL(str(find(path)))
    library.tp_complaint.restype = ctypes.c_char_p
    return str(library.tp_complaint().decode())


def _opened(path: Path) -> ctypes.CDLL:
    with path.open("rb") as file, Path(sys.executable).open("rb") as own:
        head, here = file.read(64), own.read(64)
    if head[:4] != b"\x7fELF" or len(head) < 64:
        raise LibraryError(f"{path} is no shared library; {BUILD}")
    table, size, entries = int.from_bytes(head[40:48], "little"), *struct.unpack("<2H", head[58:62])
    if path.stat().st_size < table + size * entries:  # its last part; the loader would die of it
        raise LibraryError(f"{path} is cut off: copy it again")
    if here[:4] == head[:4] and head[18:20] != here[18:20]:
        raise LibraryError(f"{path} was built for another kind of processor; {BUILD}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path} cannot be loaded: {' '.join(str(error).split())}") from error
    if missing := [name for name in EXPORTS if not hasattr(library, name)]:
        raise LibraryError(f"{path} is no library of tp-export's plugins, it lacks {missing[0]}; {BUILD}")
    return library


def _driver() -> tuple[int, int] | None:
    """The newest CUDA version that the GPU driver knows, if there is a driver."""
    number = ctypes.c_int()
    try:
        known = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)) == 0
    except OSError:
        return None
    return _version(number.value) if known else None


def _version(number: int) -> tuple[int, int]:
    return number // 1000, number % 1000 // 10
