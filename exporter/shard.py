"""The header of one safetensors file, believed only where it agrees with the file."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from engines.errors import UserError

LARGEST_HEADER = 100 * 10**6
ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies.

    Attributes:
        file: name of its shard.
        dtype: as safetensors spells it ("F16").
        shape: its sizes.
        offset: first byte, from the beginning of the file.
        nbytes: how many bytes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name, in the order of their bytes.

    Raises:
        UserError: the header is no JSON object, is too large, names an unknown dtype or an impossible shape,
            tensors overlap or leave gaps, or the file is truncated or has bytes behind its last tensor.
    """
    header, start = _json_header(path)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, start) for name, entry in header.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)))
    end = start
    for name, tensor in ordered.items():
        if tensor.offset != end:
            raise UserError(f"{path}: tensor '{name}' overlaps another or leaves a gap; {_REMEDY}")
        end += tensor.nbytes
    surplus = path.stat().st_size - end
    if surplus < 0:
        raise UserError(f"{path} is truncated: {-surplus} bytes are missing; {_REMEDY}")
    if surplus:
        raise UserError(f"{path} has {surplus} bytes behind its last tensor; {_REMEDY}")
    return ordered


def lay_out(file: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[bytes, dict[str, Tensor]]:
    """The header of a safetensors file to be written, and where each tensor will lie in it.

    Args:
        file: its name.
        tensors: dtype and shape by name, in the order of their bytes.
    """
    entries, ends = {}, [0]
    for name, (dtype, shape) in tensors.items():
        ends.append(ends[-1] + math.prod(shape) * ITEM_BYTES[dtype])
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": ends[-2:]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = {
        name: Tensor(file, *tensors[name], start + begin, end - begin)
        for name, begin, end in zip(tensors, ends, ends[1:], strict=False)
    }
    return len(text).to_bytes(8, "little") + text, places


_REMEDY = "download or save the checkpoint again"


def _json_header(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and the offset of the first data byte."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise UserError(f"{path} is no safetensors file or is truncated within its header; {_REMEDY}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{path}: the safetensors header is not a JSON object; {_REMEDY}")
    return header, 8 + length


def _tensor(path: Path, name: str, entry: object, start: int) -> Tensor:
    """One entry of the header; its own numbers must agree with each other."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, span = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise UserError(f"{path}: tensor '{name}' has dtype {dtype!r}, which tp-export does not read")
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
        raise UserError(f"{path}: tensor '{name}' has an impossible shape or offsets; {_REMEDY}")
    nbytes = span[1] - span[0]
    if nbytes != math.prod(shape) * ITEM_BYTES[dtype]:
        raise UserError(f"{path}: tensor '{name}' is {dtype} {shape} but has {nbytes} bytes; {_REMEDY}")
    return Tensor(path.name, dtype, tuple(shape), start + span[0], nbytes)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
