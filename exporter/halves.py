"""fp16 twins of shards that hold bf16, for graphs in fp16: written once, block by block.

A twin holds the bf16 tensors of its shard alone, in their order; where each lies follows from the shard's header, so
that graphs are traced without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from engines.errors import UserError
from exporter.checkpoint import Checkpoint
from exporter.draft import Draft
from exporter.publish import Records, record
from exporter.shard import Tensor, lay_out

BLOCK = 2**22  # numbers in memory at once


def twins(checkpoint: Checkpoint) -> dict[Tensor, Tensor]:
    """Of every bf16 tensor of a checkpoint its place as fp16."""
    found: dict[Tensor, Tensor] = {}
    for file in checkpoint.files:
        _, places = _laid_out(checkpoint, file, _bf16(checkpoint, file))
        found |= {checkpoint.tensors[name]: twin for name, twin in places.items()}
    return found


def needs_twins(draft: Draft) -> bool:
    """Whether any graph is in fp16 and any weight in bf16."""
    return "fp16" in draft.precisions and any(each.dtype == "BF16" for each in draft.checkpoint.tensors.values())


def write_twins(checkpoint: Checkpoint, folder: Path) -> Records:
    """Writes the twins of all shards that have one into `folder`, a bundle's `onnx`.

    Returns:
        What bundle.json will say of each.

    Raises:
        UserError: a finite number is too large for fp16; names the tensor.
    """
    records = {}
    for file in checkpoint.files:
        if not (names := _bf16(checkpoint, file)):
            continue
        twin, digest = folder / _twin(file), hashlib.sha256()
        with checkpoint.path(file).open("rb") as source, twin.open("xb") as target:
            for block in _blocks(checkpoint, file, names, source):
                target.write(block)
                digest.update(block)
        records[f"{folder.name}/{twin.name}"] = record(twin, digest.hexdigest())
    return records


def _bf16(checkpoint: Checkpoint, file: str) -> list[str]:
    mine = [(t.offset, name) for name, t in checkpoint.tensors.items() if t.file == file and t.dtype == "BF16"]
    return [name for _, name in sorted(mine)]


def _laid_out(checkpoint: Checkpoint, file: str, names: list[str]) -> tuple[bytes, dict[str, Tensor]]:
    """The first bytes of a shard's twin, and where its tensors lie in it."""
    return lay_out(_twin(file), {name: ("F16", checkpoint.tensors[name].shape) for name in names})


def _twin(file: str) -> str:
    return f"{Path(file).stem}.fp16.safetensors"


def _blocks(checkpoint: Checkpoint, file: str, names: list[str], source: BinaryIO) -> Iterator[bytes]:
    """The whole file, piece by piece."""
    yield _laid_out(checkpoint, file, names)[0]
    for name in names:
        tensor = checkpoint.tensors[name]
        source.seek(tensor.offset)
        for read in _reads(source, tensor.nbytes):
            wide = torch.frombuffer(bytearray(read), dtype=torch.bfloat16)
            half = wide.half()
            if bool((half.isinf() & wide.isfinite()).any()):
                most = float(wide[wide.isfinite()].abs().max())
                raise UserError(
                    f"{checkpoint.dir}/{tensor.file}: {name} holds {most:.3g}, too large for fp16 (65504): "
                    "leave --dtype fp16 out"
                )
            yield half.numpy().tobytes()


def _reads(source: BinaryIO, nbytes: int) -> Iterator[bytes]:
    while nbytes:
        piece = source.read(min(2 * BLOCK, nbytes))
        assert piece, "the header was checked against the file's size"
        yield piece
        nbytes -= len(piece)
