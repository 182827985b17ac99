"""Checkpoint shards as ONNX external data: initialisers point into the shard's own bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import torch

from engines.errors import UserError
from exporter.checkpoint import Checkpoint
from exporter.family import Family
from exporter.shard import Tensor as StoredTensor

STORED = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}


def match(family: Family, checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """The stored tensor of every parameter of the model, by parameter name.

    Raises:
        UserError: one is missing, has another shape than the config says, or a dtype that is not floating.
    """
    stored = {
        name if name.startswith("clip.") else family.module_key(name): tensor
        for name, tensor in checkpoint.tensors.items()
    }
    tied = dict(family.model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}  # of one parameter: checkpoints store any of them
    for name, parameter in tied.items():
        names.setdefault(id(parameter), []).append(name)
    found = {}
    for name, parameter in tied.items():
        known = (name, *names[id(parameter)])
        tensor = next((stored[each] for each in known if each in stored), None)
        _check(name, parameter, tensor, checkpoint)
        found[name] = tensor
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _check(name: str, parameter: torch.Tensor, tensor: StoredTensor | None, checkpoint: Checkpoint) -> None:
    where = checkpoint.dir
    if tensor is None:
        raise UserError(f"{where}: no tensor for {name}; the checkpoint is incomplete or not of this architecture")
    if tensor.shape != tuple(parameter.shape):
        raise UserError(
            f"{where}/{tensor.file}: {name} is {list(tensor.shape)}, config.json says {list(parameter.shape)}"
        )
    if tensor.dtype not in STORED:
        raise UserError(f"{where}/{tensor.file}: {name} is {tensor.dtype}; supported: {', '.join(STORED)}")


def widest(parameters: Mapping[str, StoredTensor]) -> str:
    """The dtype that most bytes of a checkpoint are stored in."""
    sums = Counter[str]()
    for tensor in parameters.values():
        sums[tensor.dtype] += tensor.nbytes
    return sums.most_common(1)[0][0]


def attach(model: ir.Model, parameters: Mapping[str, StoredTensor], shards: Path) -> int:
    """Point every parameter initialiser of a traced graph at its bytes; returns how many.

    `shards` is the directory that holds them as regular files (links are refused by every loader). A stored dtype
    other than the graph's gets one Cast behind the initialiser, which engines fold when they load.
    """
    attached = 0
    for name, value in list(model.graph.initializers.items()):
        stored = parameters.get(name.removeprefix("model."))
        if stored is None:
            continue
        _point(model.graph, value, stored, shards)
        attached += 1
    return attached


def _point(graph: ir.Graph, value: ir.Value, stored: StoredTensor, shards: Path) -> None:
    wanted, dtype = value.dtype, STORED[stored.dtype]
    name = str(value.name).removeprefix("model.")
    del graph.initializers[value.name]  # type: ignore[arg-type]
    value.name = name
    value.const_value = ir.ExternalTensor(
        stored.file,
        stored.offset,
        stored.nbytes,
        dtype,
        shape=ir.Shape(stored.shape),
        name=name,
        base_dir=shards,
    )
    value.dtype = dtype
    graph.register_initializer(value)
    if wanted == dtype or wanted is None:
        return
    cast = ir.node("Cast", [value], {"to": wanted}, name=f"{name}_cast")
    cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = (
        f"{name}_{wanted.name.lower()}",
        wanted,
        value.shape,
    )
    for use in [use for use in value.uses() if use.node is not cast]:
        use.node.replace_input_with(use.idx, cast.outputs[0])
    graph.insert_before(graph[0], cast)
