"""Codes and scales in files beside the shards: written once, one matrix in memory at a time.

`weights.int4.safetensors` holds the codes of every matrix, `NAME` [in,out], and its scales in float16, `NAME.scales`
[blocks,out]; graphs in another precision take the same scales from `scales.fp32.int4.safetensors`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from engines.errors import UserError
from exporter.disk import full_disk_in_words
from exporter.graph_choice import PENDING
from exporter.shard import Tensor, lay_out
from exporter.weight_only.maths import MOST, Codes, Floats, Kind, block, packed, quantise

STORED: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
WIDER = {"F32": "fp32", "BF16": "bf16"}
SCALES = ".scales"
PIECE = 2**16  # numbers in float32 at once: they stay in a core's own cache
Matrices = Mapping[str, tuple[Tensor, Kind]]  # [out,in] and what it becomes, by name
Places = Mapping[str, Tensor]
Tell = Callable[[int, int], None]  # hears how many bytes of how many were read


def silent(_read: int, _all: int) -> None:
    """Tells nobody."""


def write(folder: Path, matrices: Matrices, kind: Kind, tell: Tell = silent) -> Places:
    """Codes and float16 scales of all matrices; a file that is there, laid out as this one would be, stays.

    Args:
        folder: where their shards lie, and the file will.
        matrices: what to quantise, and to what; every width has a block.
        kind: what most of them become; names the file.
        tell: progress.

    Returns:
        Where each lies in the new file, its dtype "U8" for two codes of 4 bits, "I8" for one of 8.

    Raises:
        UserError: a weight is not finite, or too large for a scale in float16; names the tensor. No file is left then.
    """
    file = folder / f"weights.{kind}.safetensors"
    head, places = lay_out(file.name, _layout(matrices))
    if _whole(file, head, places):
        return places
    total, read = sum(tensor.nbytes for tensor, _ in matrices.values()), 0
    with _whole_or_not(file) as target:
        target.write(head)
        for name, (tensor, own) in matrices.items():
            codes, scales = _quantised(folder, name, tensor, own)
            target.write(packed(codes, own).data)
            target.write(scales.data)
            tell(read := read + tensor.nbytes, total)
    return places


def _layout(matrices: Matrices) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of all codes and scales, by name."""
    found = dict[str, tuple[str, tuple[int, ...]]]()
    for name, (tensor, kind) in matrices.items():
        out, width = tensor.shape
        found[name] = ("I8", (width, out)) if kind == "int8" else ("U8", (-(-width * out // 2),))
        found[name + SCALES] = ("F16", (width // block(kind, width), out))
    return found


def scales_in(folder: Path, places: Places, kind: Kind, dtype: str) -> Places:
    """Where the scales lie in another float type ("F32", "BF16"); written now if they are not there."""
    narrow = {name: tensor for name, tensor in places.items() if name.endswith(SCALES)}
    if dtype == "F16":
        return narrow
    file = folder / f"scales.{WIDER[dtype]}.{kind}.safetensors"
    head, found = lay_out(file.name, {name: (dtype, tensor.shape) for name, tensor in narrow.items()})
    if not _whole(file, head, found):
        with _whole_or_not(file) as target:
            target.write(head)
            for tensor in narrow.values():
                target.write(_numbers(folder, tensor, 0, math.prod(tensor.shape)).astype(STORED[dtype]).tobytes())
    return found


def _quantised(folder: Path, name: str, tensor: Tensor, kind: Kind) -> tuple[Codes, NDArray[np.float16]]:
    """Codes [in,out] and scales [blocks,out] of a matrix [out,in], read some rows at a time."""
    out, width = tensor.shape
    size = block(kind, width)
    codes, scales = np.empty((width, out), np.int8), np.empty((width // size, out), np.float16)
    rows = max(1, PIECE // width)
    for first in range(0, out, rows):
        last = min(first + rows, out)
        piece = _numbers(folder, tensor, first * width, (last - first) * width).reshape(-1, width)
        piece = _usable(piece, f"{folder / tensor.file}: {name}", kind)
        some, each = quantise(piece, kind, size)
        codes[:, first:last], scales[:, first:last] = some.T, each.T
    return codes, scales


def _numbers(folder: Path, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
    """So many numbers of a stored tensor, from one on."""
    kind = np.dtype(STORED[tensor.dtype])
    with (folder / tensor.file).open("rb") as source:
        source.seek(tensor.offset + first * kind.itemsize)
        return np.frombuffer(source.read(count * kind.itemsize), kind)


def _usable(rows: NDArray[Any], what: str, kind: Kind) -> Floats:
    """The same in float32.

    Raises:
        UserError: a number is not finite or too large.
    """
    wide = rows.astype(np.float32)
    most = float(np.abs(wide).max())
    if not math.isfinite(most):
        raise UserError(f"{what} holds a number that is not finite: it cannot be in {kind}; drop --weights")
    if most > MOST:
        raise UserError(f"{what} holds {most:.3g}, too large for a scale in fp16 ({MOST:g}): drop --weights")
    return wide


def _whole(file: Path, head: bytes, places: Places) -> bool:
    """Whether a file is there and laid out like this."""
    end = max((tensor.offset + tensor.nbytes for tensor in places.values()), default=len(head))
    if not file.is_file() or file.is_symlink() or file.stat().st_size != end:
        return False
    with file.open("rb") as source:
        return source.read(len(head)) == head


def pending(file: Path) -> Path:
    """Where a file is written before it has its name."""
    return file.with_name(f"{PENDING}{os.getpid()}.{file.name}")


@contextmanager
def _whole_or_not(file: Path) -> Iterator[BinaryIO]:
    """A file that has its name only once it is whole; what a killed run leaves of it, the next build removes."""
    part = pending(file)
    try:
        with full_disk_in_words(file), part.open("wb") as target:
            yield target
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
