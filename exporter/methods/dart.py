"""DART: keep, for a few pivots, the tokens that resemble each of them least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.budget import Budget
from exporter.maths.depths import at_depth
from exporter.maths.set_order import LARGEST, set_order
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import ascending, gather_rows, marked, ranked

EPSILON = 1e-8
LAYERS, DEPTH = (1,), 32  # behind which `layer` prunes
FORMS, ORDERS = ("embed", "layer"), ("strength", "cpython")


@dataclass(frozen=True)
class DART(Reducer):
    """Duplication-aware: `pivot_image` span tokens and `pivot_text` text tokens choose, one after another, what stays.

    Pivots are the tokens with the largest L1 norms; the image's stay. Each pivot in turn, the image's first, both by
    descending norm, takes the left tokens with the lowest cosine to it, `ceil(missing / pivots to come)` of them. Kept
    in the original order. `embed`: behind the projector, norms and cosines of the decoder's input embeddings, text
    pivots from the whole prompt (TensorRT-Edge-LLM). `layer`: before decoder layer `layer`, norms of the keys of the
    layer before it, cosines of its output behind the model's final norm, text pivots from behind the span (the paper).
    Budget: tokens of a picture, with the pivots.

    Source: *Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More*, arXiv
    2502.11494 (EMNLP 2025); authors' code, LightCompress, TensorRT-Edge-LLM.

    Attributes:
        form: embed or layer.
        pivot_image: tokens of the span that are pivots.
        pivot_text: tokens of the text that are pivots.
        layer: the decoder layer that `layer` prunes before; by default 2 of 32, or at the same share of the depth.
        order: strength, or cpython: pivots in the order of a Python set of their places, as the authors' code has them.

    """

    title = "DART"
    paper = "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More"
    arxiv = "2502.11494"
    positions = "keep"
    needs = frozenset({"text"})
    differences = (
        "--keep is the final count, shared out as in TensorRT-Edge-LLM; theirs is pivot_image + P * floor(T / P)",
        "pivots act by descending norm; in the authors' code in the order of a Python set, which order=cpython gives",
        "cosines and norms are fp32, with max(|p||c|, 1e-8) below; ties go to the lower index",
        "spans below 16 tokens are pruned too; TensorRT-Edge-LLM leaves them whole",
        "a span is one picture, or one video; text pivots of layer are no tokens of other pictures",
    )

    form: str = "embed"
    pivot_image: int = 4
    pivot_text: int = 4
    layer: int | None = None
    order: str = "strength"

    def __post_init__(self) -> None:
        for name, value, allowed in (("form", self.form, FORMS), ("order", self.order, ORDERS)):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")
        layer = 1 if self.layer is None else self.layer
        if not isinstance(layer, int) or min(self.pivot_image, self.pivot_text, layer) < 1:
            raise ValueError("pivot_image, pivot_text and layer are 1 or more")
        if self.order == "cpython" and (self.form == "embed" or self.pivots > LARGEST):
            raise ValueError(f"order=cpython needs form=layer and at most {LARGEST} pivots")
        if self.form == "layer":
            object.__setattr__(self, "needs", frozenset())

    @property
    def pivots(self) -> int:
        """Of both kinds."""
        return self.pivot_image + self.pivot_text

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """One cut: behind the projector, or before decoder layer `layer`."""
        keep = budget.count(shape.tokens)
        if self.form == "embed":
            return (Stage("projected", keep=keep),)
        (layer,) = at_depth(LAYERS, DEPTH, shape.decoder_layers) or LAYERS
        return (Stage("decoder", layer if self.layer is None else self.layer - 1, keep=keep),)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Pivots and what they chose, in their original order."""
        assert stage.keep is not None
        kept = self.embed(taps, stage.keep) if self.form == "embed" else self.deep(taps, stage)
        return Selection(indices=ascending(kept))

    def embed(self, taps: Taps, keep: int) -> Tensor:
        """`[B,1,keep]` in the order of growth, from embeddings before layer 0."""
        rows, text = taps.hidden(-1).float()[:, None], taps.inputs["text"].float()[:, None]
        image = ranked(rows.abs().sum(-1), min(self.pivot_image, keep))
        words = ranked(text.abs().sum(-1).masked_fill(~taps.inputs["text_mask"][:, None], -1.0), self.pivot_text)
        return grow(torch.cat([gather_rows(rows, image), gather_rows(text, words)], 2), rows, image, keep)

    def deep(self, taps: Taps, stage: Stage) -> Tensor:
        """`[B,I,keep]` in the order of growth, from keys and output of the layer that has just run."""
        assert stage.keep is not None
        states, span = taps.normed(taps.hidden(stage.layer)).float(), taps.span
        strength = taps.qkv(stage.layer).k.float().abs().sum((1, 3))
        rows = gather_rows(states, span.flatten(1)).reshape(*span.shape, -1)
        image = ranked(taps.span_of(strength), min(self.pivot_image, stage.keep))
        places = torch.cat([torch.gather(span, 2, image), self.text_pivots(taps, strength)], 2)
        if self.order == "cpython":
            places = torch.gather(places, 2, set_order(places))
        pivots = gather_rows(states, places.flatten(1)).reshape(*places.shape, -1)
        return grow(pivots, rows, image, stage.keep)

    def text_pivots(self, taps: Taps, strength: Tensor) -> Tensor:
        """`[B,I,Pt]` places in the sequence: the largest of `[B,n]` behind each span, outside all spans."""
        span, length = taps.span, strength.shape[1]
        text = taps.valid & (marked(span.flatten(1), length) == 0)
        behind = torch.arange(length) > span[:, :, -1:]
        return ranked(strength[:, None].masked_fill(~(behind & text[:, None]), -1.0), self.pivot_text)


def grow(pivots: Tensor, rows: Tensor, image: Tensor, keep: int) -> Tensor:
    """`[B,I,keep]` span tokens in the order in which they are kept: the image pivots, then what each pivot takes.

    Shapes: pivots `[B,I,P,D]`, rows of the span `[B,I,N,D]`, image pivots' places in the span `[B,I,Pi]`.
    """
    lengths = pivots.norm(dim=-1)[..., None] * rows.norm(dim=-1)[..., None, :]
    unlike = -(pivots @ rows.transpose(2, 3)) / lengths.clamp(min=EPSILON)
    kept, missing, count = [image], keep - image.shape[-1], pivots.shape[2]
    taken = torch.zeros(rows.shape[:3])
    for turn in range(count):
        share = -(-missing // (count - turn))
        if share:
            taken = taken.scatter(-1, kept[-1], -4.0)  # a cosine is -1 to 1
            kept.append(ranked(unlike[:, :, turn] + taken, share))
            missing -= share
    return torch.cat(kept, -1)


METHOD = DART
