"""VLA-Pruner: tokens that the last actions or this prompt attended to, thinned out to those unlike each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.asked import by_text
from exporter.maths.depths import at_depth
from exporter.maths.memory import guide, remembered, unlike
from exporter.reducer import Reducer, Selection, Shape, Stage, StateSpec, Taps
from exporter.scores import received
from exporter.select import gather_rows, marked, top_k

SELECTIONS, DTYPES = ("prefill_mean", "last_token", "text"), ("bf16", "fp32")
BEFORE, HISTORY, DEPTH = 2, 15, 32  # the authors cut behind layer 2 and watch layer 15


@dataclass(frozen=True)
class VLAPruner(Reducer):
    """Dual-level: candidates are the k best of the last actions' attention and the k best of this prompt's.

    An entry of the history is the attention of layer `history_layer` to each token, mean over heads and over the rows
    that made the actions: the prompt's last row and every generated token's; 0 for pruned tokens. With the last W
    entries h, i = 0 the newest: `g = sum_i gamma^(W-1-i) h_i`, divided by its sum, in bf16. Before layer `fastv_k`,
    c is the attention of the layer before it, mean over heads and rows. Of the union of both top-k the first is the one
    farthest from its nearest candidate, then k - 1 times the one whose nearest chosen one is farthest; distance is
    1 - cosine of the input embeddings. Kept in order, positions stay. The first W requests of an episode keep all.
    State: `history`, and `attended` and `rows`, the sum of the entry to come and its rows; it enters the history when
    the next request begins. Budget: tokens of the picture.

    Attributes:
        fastv_k: the decoder layer before which tokens go; by default 3 of 32, or at the same share of the depth.
        history_layer: as above, 0-based; by default 15 of 32 likewise, and behind the cut.
        temporal_w: W.
        temporal_gamma: gamma; the oldest entry counts most, as in the authors' code.
        selection: rows that c is the mean of: prefill_mean all, last_token the last, text those behind the picture.
        guide_dtype: bf16 rounds g as the authors' code does; fp32 does not.

    Raises:
        ValueError: an unknown word, or a parameter out of its range.
        UserError: prompts of several pictures, or layers that the decoder does not have in this order.

    Source: *VLA-Pruner: Temporal-Aware Dual-Level Visual Token Pruning for Efficient Vision-Language-Action Inference*,
    arXiv 2511.16449.
    """

    title = "VLA-Pruner"
    paper = "VLA-Pruner: Temporal-Aware Dual-Level Visual Token Pruning for Efficient Vision-Language-Action Inference"
    arxiv = "2511.16449"
    site = "decoder"
    positions = "keep"
    differences = (
        "gamma weighs older entries more, as the authors' code does; in the paper recent ones weigh more",
        "layers are the authors' share of the depth; in their code the history's is layer 15 of any model",
        "an entry is the mean of as many rows as were run, in the authors' code of 7",
        "ties go to the lower index, and no token is chosen twice; both are open in the authors' code",
        "text (ours): rows behind the picture",
    )

    fastv_k: int | None = None
    history_layer: int | None = None
    temporal_w: int = 3
    temporal_gamma: float = 0.8
    selection: str = "prefill_mean"
    guide_dtype: str = "bf16"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("selection", self.selection, SELECTIONS),
            ("guide_dtype", self.guide_dtype, DTYPES),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")
        for name, least in (("fastv_k", 1), ("history_layer", 1), ("temporal_w", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"{name} {value} is no whole number from {least} on")
        if not 0 < self.temporal_gamma <= 1:
            raise ValueError(f"temporal_gamma {self.temporal_gamma} is not above 0 up to 1")
        object.__setattr__(self, "warm_up", self.temporal_w)

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """The cut, and a look at the layer of the history; nothing where all tokens stay.

        Raises:
            UserError: prompts of several pictures, or layers that the decoder does not have in this order.
        """
        if shape.images > 1:
            raise UserError(f"--images {shape.images}: vla-pruner follows one picture through an episode; give 1")
        keep = budget.count(shape.tokens)
        return self.stages(shape, keep) if keep < shape.tokens else ()

    def stages(self, shape: Shape, keep: int) -> tuple[Stage, ...]:
        """The same whatever is kept."""
        layers = shape.decoder_layers
        cut = (*at_depth((BEFORE,), DEPTH, layers), BEFORE)[0] if self.fastv_k is None else self.fastv_k - 1
        watched = self.history_layer
        if watched is None:
            watched = max(cut + 1, min(round(HISTORY * layers / DEPTH), layers - 1))
        if not cut < watched < layers:
            raise UserError(
                f"--method vla-pruner: history_layer {watched} must come behind the cut before layer {cut + 1}, "
                f"and the decoder has {layers} layers; give --param fastv_k and history_layer"
            )
        return Stage("decoder", cut, keep=keep), Stage("decoder", watched)

    def states(self, shape: Shape, budget: Budget) -> tuple[StateSpec, ...]:
        """The history, and the entry to come."""
        if not self.plan(shape, budget):
            return ()
        both = ("prefill", "decode")
        return (
            StateSpec("history", (self.temporal_w, shape.tokens), reset="episode", reads=("prefill",)),
            StateSpec("attended", (shape.tokens,), reset="episode", reads=both),
            StateSpec("rows", (1,), reset="episode", reads=both),
        )

    def steps(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at the layer of the history."""
        return self.plan(shape, budget)[1:]

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """The cut, or the first row of the entry to come."""
        if stage.keep is None:
            attention = taps.span_of(taps.rows(stage.layer, "last"))[:, :, :, 0].mean(2)
            place = taps.carry["place"].round().to(torch.int64)
            wide = torch.zeros(*place.shape[:2], taps.shape.tokens).scatter(-1, place, attention)
            return Selection(state={"attended": wide[:, 0], "rows": torch.ones(wide.shape[0], 1)})
        history = remembered(taps.state["history"], taps.state["attended"], taps.state["rows"])
        kept = self.kept(taps, stage, history)
        return Selection(indices=kept, carry={"place": kept.float()}, state={"history": history})

    def kept(self, taps: Taps, stage: Stage, history: Tensor) -> Tensor:
        """`[B,I,k]` int64, of histories `[B,W,N]`."""
        assert stage.keep is not None
        past, now = self.guide(history), self.current(taps, stage.layer)
        both = [marked(top_k(scores, stage.keep), scores.shape[-1]) for scores in (past.expand(now.shape), now)]
        rows = gather_rows(taps.hidden(-1), taps.span.flatten(1)).reshape(*now.shape, -1)
        return unlike(rows, both[0] + both[1] > 0, stage.keep)

    def guide(self, history: Tensor) -> Tensor:
        """`[B,1,N]` fp32 of histories `[B,W,N]`, the oldest entry first."""
        found = guide(history, self.temporal_gamma)[:, None]
        return found.to(torch.bfloat16).float() if self.guide_dtype == "bf16" else found

    def current(self, taps: Taps, layer: int) -> Tensor:
        """`[B,I,N]` fp32: this prompt's attention."""
        if self.selection == "prefill_mean":
            return received(taps, layer)
        if self.selection == "last_token":
            return taps.span_of(taps.rows(layer, "last"))[:, :, :, 0].mean(2)
        return by_text(taps, layer)

    def decode(self, taps: Taps, stage: Stage) -> Selection:
        """Add the attention of the new rows to the entry to come."""
        new = taps.qkv(stage.layer).q.shape[2]
        slots = taps.valid.shape[1]
        fresh = taps.valid[:, slots - new :].float()
        places = torch.arange(slots - new, slots).expand(fresh.shape)
        found = taps.rows(stage.layer, places).mean(1) * fresh[..., None]
        attended = taps.state["attended"] + taps.span_of(found.sum(1))[:, 0]
        return Selection(state={"attended": attended, "rows": taps.state["rows"] + fresh.sum(1, keepdim=True)})


METHOD = VLAPruner
