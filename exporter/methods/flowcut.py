"""FlowCut: inside the tower, every other layer drops the patches through which least information flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts, falling
from exporter.maths.depths import at_depth
from exporter.maths.flow import Drop, drop, flow_to_text, inflow
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, top_k

TEXT_LAYER, DEPTH = 1, 32  # of the decoder, 0-based
CHOICES = ("auto", "true", "false")


@dataclass(frozen=True)
class FlowCut(Reducer):
    """Score patches in every layer before the last one used, and cut after every second of them.

    `score = (a / sum(a) + e / sum(e)) * |v|_1`, fp32: a the head mean of the [CLS] row, e the head mean of
    softmax(v_cls v^T), v the head mean of the values; `c = score` in the first layer, then `c = c / 2 + score / 2`.
    Counting from the last layer before the one that the projector reads, every other layer keeps the largest c, in
    their order; the last of them keeps the budget T. How many of n go before that: `(n - T) / sqrt(left) * (1 - H^2)`,
    `left` the layers to come, H the entropy of a over that of n equal shares. What stays is numbered anew. With
    `llm`, more leaves the tower, and behind decoder layer 1 the T tokens of a picture stay whose flow to the prompt's
    last token is largest, by the same score over the picture's tokens, e scaled as attention is: of several views T/2
    patches each leave the tower, of one without [CLS] 2T. Budget: tokens of a picture, all its views together; without
    `llm`, patches per view.

    Attributes:
        mode: `schedule` keeps the same number of any picture after a layer, and so saves work in the tower. `exact`
            computes each H: all patches run to the last cut, what was dropped is masked, and the outputs `tokens.LAYER`
            say how many were left.
        schedule: of mode schedule, patches left after each cut, such as `112,83,36`; by default those of `entropy`.
            `tp-export calibrate` finds them for a model and pictures.
        entropy: H wherever no schedule is given, 0 to 1.
        coupled: of mode exact, drop of each picture of a batch as many as of the one that loses most, as the authors'
            code does: then a picture's result depends on those beside it, and parity holds for single pictures only.
        llm: whether to cut in the decoder, true or false; auto, as published, where pictures have several views
            (LLaVA-NeXT) or the tower no [CLS] (Qwen2-VL).

    Source: *FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models*,
    arXiv 2505.19536.
    """

    title = "FlowCut"
    paper = "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models"
    arxiv = "2505.19536"
    site = "encoder + decoder"
    differences = (
        "counts are fixed, by a rule of ours or calibrated; the authors' code computes them anew, as does mode exact",
        "mode exact computes them for each picture by itself, the authors' code for the batch (coupled=true)",
        "scores are fp32 and ties go to the lower index; the authors' code ranks in the tower's dtype",
        "videos of towers with [CLS]: every frame has the budget for itself, without a cut in the decoder (llm=auto)",
        "several views: of each at least T / views patches leave the tower, where T/2 of each would not do",
        "decoders of another depth are cut at the same share of it",
        "towers without [CLS]: as the authors' code for Qwen2-VL, but whole merged tokens are dropped, not patches",
    )

    mode: str = "schedule"
    schedule: str = ""
    entropy: float = 0.8
    coupled: bool = False
    llm: str | bool = "auto"

    def __post_init__(self) -> None:
        if self.mode not in {"schedule", "exact"}:
            raise ValueError(f"mode {self.mode} is neither schedule nor exact")
        if counts("schedule", self.schedule) and self.mode == "exact":
            raise ValueError("mode exact takes no schedule")
        if not 0 <= self.entropy <= 1:
            raise ValueError(f"entropy {self.entropy} is not between 0 and 1")
        object.__setattr__(self, "llm", str(self.llm).lower())
        if self.llm not in CHOICES:
            raise ValueError(f"llm {self.llm}: choose from {', '.join(CHOICES)}")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A look at every layer, cuts at every other, and with `llm` one in the decoder.

        Raises:
            UserError: a schedule that does not fit the tower and the budget, or `llm` where views hold too few.
        """
        twice = self._twice(shape)
        total = budget.count(shape.tokens if twice else shape.patches)
        keep = _leaving(shape, total) if twice else total
        if keep * shape.views < total:
            raise UserError(f"--param llm=true: {shape.views} views of {keep} patches do not hold --keep {total}")
        stages = self._exactly(shape, keep) if self.mode == "exact" else self._scheduled(shape, keep)
        if not twice or total == keep * shape.views:
            return stages
        (layer,) = at_depth((TEXT_LAYER,), DEPTH, shape.decoder_layers) or (TEXT_LAYER,)
        return (*stages, Stage("decoder", layer, keep=total))

    def _twice(self, shape: Shape) -> bool:
        """Whether the decoder is cut, too."""
        if self.llm == "auto":
            return not shape.has_cls or (shape.views > 1 and not shape.video)
        return self.llm == "true"

    def _exactly(self, shape: Shape, keep: int) -> tuple[Stage, ...]:
        layers = cuts(shape)
        last = layers[-1]

        def look(layer: int) -> Stage:
            if layer not in layers:
                return Stage("tower", layer)
            return Drop("tower", layer, target=keep, left=last - layer, coupled=self.coupled)

        return (*map(look, range(last)), Stage("tower", last, keep=keep)) if keep < shape.patches else ()

    def _scheduled(self, shape: Shape, keep: int) -> tuple[Stage, ...]:
        layers = cuts(shape)
        left = counts("schedule", self.schedule) or self._by_rule(shape, keep)
        if len(left) != len(layers) or not falling(left, shape.patches, keep):
            raise UserError(
                f"--param schedule={self.schedule}: give {len(layers)} counts from {shape.patches} down to {keep}"
            )
        kept, now = dict(zip(layers, left, strict=True)), shape.patches
        stages = list[Stage]()
        for layer in range(layers[-1] + 1):
            if now > keep:
                before, now = now, kept.get(layer, now)
                stages.append(Stage("tower", layer, keep=now if now < before else None))
        return tuple(stages)

    def _by_rule(self, shape: Shape, keep: int) -> tuple[int, ...]:
        left, layers = [shape.patches], cuts(shape)
        for layer in layers[:-1]:
            gone = round((left[-1] - keep) / (layers[-1] - layer) ** 0.5 * (1 - self.entropy**2))
            left.append(max(left[-1] - gone, keep))
        return (*left[1:], keep)

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Look, drop or cut."""
        if stage.stack == "decoder":
            assert stage.keep is not None
            scores = flow_to_text(taps, stage.layer)
            return Selection(indices=top_k(scores, stage.keep), scores=scores)
        alive = taps.carry.get("alive", torch.ones(taps.span.shape))
        shares, scores = inflow(taps, stage.layer, alive)
        if "score" in taps.carry:
            scores = (0.5 * taps.carry["score"] + 0.5 * scores) * alive
        if stage.keep is not None:
            scores = scores + (alive - 1)
            kept = top_k(scores, stage.keep)
            return Selection(indices=kept, carry={"score": gather_rows(scores, kept)}, scores=scores)
        if isinstance(stage, Drop):
            return drop(shares, scores, alive, stage, has_cls=taps.shape.has_cls)
        return Selection(carry={"score": scores})

    def probe(self) -> FlowCut:
        """The same in mode exact, whose outputs a schedule can be learnt from."""
        return replace(self, mode="exact", schedule="")

    def learnt(self, shape: Shape, stages: Sequence[Stage], outputs: Sequence[Mapping[str, Tensor]]) -> str:
        """What the probe's `stages` left of several pictures, as a schedule: medians, rounded to eights."""
        keep = next((stage.keep for stage in stages if stage.stack == "tower" and stage.keep is not None), None)
        if keep is None:
            raise UserError("--method flowcut: at this --keep no patch is dropped in the tower; nothing to calibrate")
        line = list[int]()
        for name in (f"tokens.{stage.layer}" for stage in stages if isinstance(stage, Drop)):
            middle = median(int(found[name]) for found in outputs)
            line.append(min(max(keep, 8 * round(middle / 8)), shape.patches))
        return f"schedule={','.join(map(str, [*line, keep]))}"


def _leaving(shape: Shape, total: int) -> int:
    """Patches of each view that leave the tower, where `total` tokens of the picture stay in the decoder."""
    if shape.views > 1:
        return min(max(total // 2, -(-total // shape.views)), shape.patches)
    return max(1, total // 2) if shape.has_cls else min(2 * total, shape.patches)


def cuts(shape: Shape) -> range:
    """The layers after which patches are dropped."""
    last = max(shape.tower_last - 1, 0)
    return range(last % 2, last + 1, 2)


METHOD = FlowCut
