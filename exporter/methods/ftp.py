"""FTP: every decoder block runs on some of the prompt's tokens, which a small trained router chooses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.router import RouterFile
from exporter.maths.routes import Route, Routers, numbers, scaled, stages
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.scores import received
from exporter.select import ranks, top_k

MODES = ("router", "static")
NEVER = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class FTP(Reducer):
    """In block b the `k_b = round(S (1 - sparsity_b))` tokens with the largest score run; the others pass it by.

    What passes a block by keeps its hidden state and leaves no key and no value there; positions stay. `router`: the
    score is a trained perceptron's of four numbers per token, its position p, the attention a that it last received
    (mean over heads and over the queries of the last block in which it ran; 0 before), the place of a among all tokens
    (0: the largest), and sparsity_b. Padding comes last. Give its file with --aux router=FILE.safetensors
    (docs/routers.md), which says how p, a and the place are scaled. `static`: the first token, then from the newest to
    the oldest; no file. Prompts are padded to S, the lengths of --buckets; generated tokens run everywhere. Budget: the
    mean share of the prompt that blocks run on. Where this is not that of the sparsities, all of them are multiplied by
    one factor, to 0.99 at most.

    Attributes:
        mode: router or static.
        sparsity: static, the share that passes each block by, such as `0,0.3,0.5,0`; by default the same everywhere.

    Raises:
        ValueError: an unknown mode, or sparsities that are none.
        UserError: no file or not such a file, no sparsity for each block, or a budget that no factor gives.

    Source: *FTP: A Fine-grained Token-wise Pruner for Large Language Models via Token Routing*, arXiv 2412.11494.
    """

    title = "FTP"
    paper = "FTP: A Fine-grained Token-wise Pruner for Large Language Models via Token Routing"
    arxiv = "2412.11494"
    site = "decoder"
    positions = "keep"
    needs = frozenset({"router"})
    prompt = True
    pictures = False
    unverified = True
    weights: ClassVar[Routers | None] = None  # of an instance, once `trained`
    differences = (
        "unverified: no code was published, and the paper leaves the scaling of the inputs open: the file declares it",
        "a block runs on a fixed count of the padded prompt, the best scores; the paper compares scores to a threshold",
        "a --keep other than the file's own share multiplies its sparsities (ours)",
        "generated tokens always run; in the paper they are routed too, or run where a threshold says so",
        "the static order is by position, first and newest tokens before older ones; the paper's notation is ambiguous",
        "before the first attention is known all tokens count as equal, and the lower index ranks first",
    )

    mode: str = "router"
    sparsity: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode}: choose from {', '.join(MODES)}")
        if numbers(self.sparsity) and self.mode == "router":
            raise ValueError("sparsity is a parameter of mode=static; a router's file has its own")
        if self.mode == "static":
            object.__setattr__(self, "needs", frozenset())

    def trained(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str], shape: Shape) -> FTP:
        """With the router of a file.

        Raises:
            UserError: the file's layout is not the documented one.
        """
        made = copy.copy(self)
        object.__setattr__(made, "weights", Routers.of(RouterFile(tensors, facts), shape.decoder_layers))
        return made

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A choice for every block that not all tokens run in, and a look at each block before such a one.

        Raises:
            UserError: no weights, no sparsity for each block, or a budget that no factor gives.
        """
        layers, keep = shape.decoder_layers, budget.count(shape.tokens)
        own = numbers(self.sparsity) if self.mode == "static" else self._trained.sparsity
        own = own or (1 - keep / shape.tokens,) * layers
        if len(own) != layers:
            raise UserError(f"--param sparsity={self.sparsity}: give {layers} numbers, one for each block")
        return stages(scaled(own, shape.tokens, keep), shape.tokens, looks=self.mode == "router")

    @property
    def _trained(self) -> Routers:
        if self.weights is None:
            raise UserError("--method ftp: it needs trained weights: give --aux router=FILE.safetensors")
        return self.weights

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Who runs in a block, or what those that ran received there."""
        if stage.keep is None:
            return Selection(carry={"attended": self._attended(taps, stage.layer)})
        assert isinstance(stage, Route)
        there = taps.span_of(taps.valid.float()) > 0
        found = oldest_last(taps) if self.mode == "static" else self._scores(taps, stage, there)
        scores = torch.where(there, found, NEVER)
        return Selection(indices=top_k(scores, stage.keep), scores=scores)

    def _attended(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,n]` fp32: attention that each of the tokens that ran received."""
        rows = taps.valid.sum(1)[:, None, None] if self._trained.total else 1
        return received(taps, layer) * rows

    def _scores(self, taps: Taps, stage: Route, there: Tensor) -> Tensor:
        """`[B,I,N]` fp32 of the router."""
        weights, length = self._trained, taps.valid.sum(1).clamp(min=1)[:, None, None]
        attended = taps.carry.get("attended", torch.zeros(there.shape))
        place = ranks(torch.where(there, attended, -1.0))
        position, rank = (
            values / length if relative else values.float()
            for values, relative in zip((taps.span, place), weights.relative, strict=True)
        )
        sparsity = torch.full(there.shape, stage.sparsity)
        return weights.scores(torch.stack([position, attended, rank, sparsity], -1), stage.layer)


def oldest_last(taps: Taps) -> Tensor:
    """`[B,I,N]` fp32: the first token of the sequence, then from the newest to the oldest."""
    place = taps.span
    return torch.where(place == 0, place.shape[-1] + taps.valid.shape[1], place).float()


METHOD = FTP
