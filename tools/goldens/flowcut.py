"""Vectors of FlowCut: a small encoder with its weights, its input, and what is left of it layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from exporter.attention import Tape, fused
from exporter.budget import Budget
from exporter.methods.flowcut import FlowCut, cuts
from exporter.reducer import Grid, Shape
from exporter.sequence import Sequence
from exporter.stack import Block, Rope, Stack, Walk
from tools.golden import Arrays, Check


def checks(case: Arrays) -> Iterator[Check]:
    """Mode exact, and mode schedule with the counts that were recorded."""
    layers, keep = int(case["num_layers"]), int(case["keep"])
    patches = case["x"].shape[1] - 1
    shape = Shape(patches, Grid(1, patches), tower_layers=layers, tower_last=layers - 2)
    counts = [*case["tokens_before_layer"][1:].tolist(), int(case["tokens_after_last"])]
    want: dict[str, np.ndarray] = {name: case[name] for name in ("kept_indices", "out_features", "out_cls")}
    left = {f"tokens.{n}": np.full((len(case["x"]), 1), counts[n]) for n in cuts(shape)[:-1] if keep < patches}
    schedule = ",".join(str(counts[n]) for n in cuts(shape))
    for method, wanted in ((FlowCut("exact", coupled=True), want | left), (FlowCut(schedule=schedule), want)):
        yield Check(method.mode, _runner(case, method, shape, keep), (torch.from_numpy(case["x"]),), wanted)


def _runner(case: Arrays, method: FlowCut, shape: Shape, keep: int) -> Callable[[Tensor], Mapping[str, Tensor]]:
    stages = method.plan(shape, Budget(str(keep)))
    stack = Stack("tower", tuple(_block(case, layer) for layer in range(shape.tower_layers)))

    def run(x: Tensor) -> Mapping[str, Tensor]:
        origin = torch.arange(shape.patches).expand(x.shape[0], 1, -1)
        walk = Walk(stack, method, stages, shape, Sequence(x, 1, shape.patches, origin))
        seen = walk.run(shape.tower_last + 1)
        found = {"kept_indices": seen.origin[:, 0], "out_features": seen.hidden[:, 1:], "out_cls": seen.hidden[:, :1]}
        return found | walk.outputs

    return run


def _block(case: Arrays, layer: int) -> Block:
    """A pre-norm layer of CLIP's kind."""

    def weights(name: str) -> tuple[Tensor, Tensor]:
        kinds = ("weight", "bias")
        weight, bias = (torch.from_numpy(case[f"w.{layer}.{name}.{kind}"]) for kind in kinds)
        return weight, bias

    def norm(name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: layer_norm(x, x.shape[-1:], *weights(name), float(case["layer_norm_eps"]))

    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:  # noqa: ARG001
        parts = (linear(x, *weights(f"self_attn.{part}_proj")) for part in "qkv")
        heads = int(case["num_heads"])
        q, k, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in parts)
        out, _ = fused(torch.nn.Identity(), q, k, v, mask, q.shape[-1] ** -0.5, tape)
        return linear(out.flatten(2), *weights("self_attn.out_proj"))

    def mlp(x: Tensor) -> Tensor:
        x = linear(x, *weights("mlp.fc1"))
        return linear(x * torch.sigmoid(1.702 * x), *weights("mlp.fc2"))

    return Block(norm("layer_norm1"), attention, norm("layer_norm2"), mlp)
