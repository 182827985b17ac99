"""MustDrop: windows of nearly equal patches become one token each, and the text drops more, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts, falling
from exporter.maths.depths import at_depth
from exporter.maths.panes import mended
from exporter.maths.slots import packed
from exporter.maths.words import dual
from exporter.reducer import Grid, Reducer, Selection, Shape, Stage, Taps
from exporter.scores import attended, scored_layer
from exporter.select import marked, ranked, top_k

UNSEEN = -1e4  # an attention logit: finite in fp16, and no weight is left of it
LAYERS, DEPTH = (2, 6, 10, 14), 32  # behind which the text drops
STAGES, MODES = ("all", "vision"), ("fixed", "exact")


@dataclass(frozen=True)
class MustDrop(Reducer):
    """Merge the r windows of w^2 patches that are most alike inside, each into its mean; then let the text drop tokens.

    Vision: `sim_W` is the mean cosine of all pairs of different patches of a window (fp32, epsilon 1e-8). The rows are
    the merged windows, the most alike first, then all other patches in their order: not the order of places. Of M of
    them the `ceil(keep_rate M)` with the largest [CLS] attention (head mean, the layer behind the last one used) are
    the key set, which nothing drops. Decoder: behind each of four layers, with A the head mean of its attention, rows
    the text behind the span: `g` the sum, `m` the maximum over these rows. The largest
    `max(individual_thr g / sum(g), global_thr m)` stay, in their order, numbered anew: the tokens that the authors
    keep, `g >= global_thr sum(g)` or `m >= individual_thr`, come first. The caches of the layers from the first to the
    last of these are cut to what is left in the end.

    Budget: with N patches per view, of V views `V keep` tokens are left behind the last cut. The merge and each of the
    four cuts keep the same share, `(keep / N)^(1/5)`. Where the vision stage stands alone it leaves `keep` itself. It
    merges `r = floor((T - asked) / (w^2 - 1))` windows, T counting [CLS] too, which leaves `N - r (w^2 - 1)` patches:
    up to w^2 - 2 more than asked for, or one less. The least is one patch a window.

    Attributes:
        layer: the tower's layer behind which it merges; the authors' code has 0. -1: the last one that the projector
            reads, as in LightCompress.
        window: rows x columns of a window.
        threshold: merge every window whose sim is this or more, whatever --keep says; the authors' default is 0.8. How
            many those are only the data knows, so every patch gets a slot and empty ones are masked: nothing is saved.
            With stages=vision alone.
        merge: whether windows become means. If not, their last patches stand for them and all rows keep the order of
            places, as LightCompress has it for LLaVA-NeXT.
        stages: all, or vision: LightCompress' form, without key set and decoder.
        mode: fixed, or exact: the decoder masks exactly what the thresholds drop, nothing is saved, and the outputs
            `tokens.LAYER` say how many were left. The vision stage then leaves what --keep says.
        counts: tokens that the decoder's cuts keep, such as `160,128,96,64`; the vision stage leaves what --keep says.
        layers: 0-based layers that are cut behind; by default 2, 6, 10 and 14 of 32, or at the same share of the depth.
        keep_rate: as above.
        global_thr, individual_thr: as above; by default as in the authors' script for 192 tokens.

    Raises:
        ValueError: a window that is not ROWSxCOLS, or has less than two patches; parameters that contradict each other.
        UserError: windows do not tile the grid, or a budget of less than one patch a window.

    Source: *Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model*, arXiv 2411.10803.

    """

    title = "MustDrop"
    paper = "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model"
    arxiv = "2411.10803"
    site = "encoder + decoder"
    differences = (
        "by default the decoder's counts are constants (ours); mode=exact drops by thresholds as the authors do",
        "mode=exact masks what is dropped, and leaves the others their positions; the authors number them anew",
        "by default r follows from the budget, as in LightCompress; threshold=0.8 is the paper's, with stages=vision",
        "each view counts its own windows and has its own key set; the authors take the least count of the batch",
        "several pictures: the text behind each of them; the authors' code takes one picture",
        "cosines in fp32; windows and tokens of equal score go by the lower index",
        "towers without [CLS] (ours): T is the number of patches, and the key set is what all patches attend to",
    )

    layer: int = 0
    window: str = "3x3"
    threshold: float | None = None
    merge: bool = True
    stages: str = "all"
    mode: str = "fixed"
    counts: str = ""
    layers: str = ""
    keep_rate: float = 0.08
    global_thr: float = 0.001
    individual_thr: float = 0.001

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self._sides.rows * self._sides.cols < 2:
            raise ValueError(f"window {self.window} holds no two patches")
        for name, value, allowed in (("stages", self.stages, STAGES), ("mode", self.mode, MODES)):
            if value not in allowed:
                raise ValueError(f"{name}={value}: choose from {', '.join(allowed)}")
        if self.threshold is not None and self.stages == "all":
            raise ValueError("a threshold leaves the decoder's cuts without a constant count: stages=vision")
        if counts("counts", self.counts) and self.mode == "exact":
            raise ValueError("mode exact takes no counts")
        layers = counts("layers", self.layers)
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"layers {self.layers} do not rise")
        if not 0 <= self.keep_rate <= 1:
            raise ValueError(f"keep_rate is a share from 0 to 1, not {self.keep_rate}")
        if min(self.global_thr, self.individual_thr) < 0:
            raise ValueError("global_thr and individual_thr are not negative")

    @property
    def _sides(self) -> Grid:
        sides = self.window.split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
            raise ValueError(f"window is ROWSxCOLS, such as 3x3, not {self.window}")
        return Grid(*map(int, sides))

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A cut in the tower; a look at [CLS], cuts in the decoder and that of its caches."""
        keep, given = budget.count(shape.patches), counts("counts", self.counts)
        free = bool(given) or self.mode == "exact"  # of --keep
        layers = self._layers(shape) if self.stages == "all" and (free or keep < shape.patches) else ()
        if not layers:
            return (self._merge(shape, keep),)
        left = schedule(shape, keep, len(layers))
        merge = self._merge(shape, keep if free else max(left[0], shape.patches // self._size))
        most = (merge.keep or 0) * shape.views
        if given and not (len(given) == len(layers) and given[-1] and falling(given, most, given[-1])):
            raise UserError(
                f"--param counts={self.counts}: give {len(layers)} counts from {most} down, for the cuts behind "
                f"decoder layers {','.join(map(str, layers))}"
            )
        kept = [None] * len(layers) if self.mode == "exact" else [min(n, most) for n in given or left[1:]]
        cuts = (Stage("decoder", layer, keep=count) for layer, count in zip(layers, kept, strict=True))
        compact = Stage("decoder", layers[-1], at="kv", since=layers[0])
        return merge, Stage("tower", self._looks(shape, merge.layer)), *cuts, compact

    def _layers(self, shape: Shape) -> tuple[int, ...]:
        return counts("layers", self.layers) or at_depth(LAYERS, DEPTH, shape.decoder_layers)

    def _looks(self, shape: Shape, merged: int) -> int:
        """The last tower layer, behind which [CLS] attention is looked at."""
        if attentive(shape, shape.tower_last) <= merged:
            raise UserError(
                "--method mustdrop: no tower layer is left behind the merge to look at; "
                "give --param layer=0 or --param stages=vision"
            )
        return shape.tower_last

    @property
    def _size(self) -> int:
        return self._sides.rows * self._sides.cols

    def _merge(self, shape: Shape, asked: int) -> Stage:
        grid, (rows, cols), size = shape.grid, self._sides, self._size
        if grid.rows % rows or grid.cols % cols:
            raise UserError(
                f"--method mustdrop: windows of {self.window} do not tile {grid.rows}x{grid.cols} patches; "
                "give --param window=ROWSxCOLS that does"
            )
        layer = self.layer if self.layer >= 0 else shape.tower_last + 1 + self.layer
        if self.threshold is not None:
            return Stage("tower", layer, keep=shape.patches, blanks=True)
        merged = (shape.patches + shape.has_cls - asked) // (size - 1)
        if merged > shape.patches // size:
            raise UserError(
                f"--keep {asked}: mustdrop leaves one patch or more of each {self.window} window: "
                f"give {shape.patches // size} of {shape.patches} or more"
            )
        return Stage("tower", layer, keep=shape.patches - merged * (size - 1))

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Merged windows and single patches, each in its slot; the key set; what the text drops."""
        if stage.stack == "decoder":
            return self._masked(taps, stage) if self.mode == "exact" else self._dropped(taps, stage)
        if stage.keep is not None:
            return self._merged(taps, stage.keep, stage.layer)
        attention = attended(taps, attentive(taps.shape, stage.layer))
        number = attention.shape[-1]
        count = ceil(self.keep_rate * number)
        return Selection(carry={"key": marked(ranked(attention, count), number) if count else 0 * attention})

    def _merged(self, taps: Taps, keep: int, layer: int) -> Selection:
        rows = taps.span_of(taps.hidden(layer).float().transpose(1, 2)).transpose(2, 3)
        last, mix = mended(rows, taps.shape.grid, self._sides, keep, self.threshold)
        if not self.merge:
            patches = torch.arange(rows.shape[2])
            last = packed((last.unsqueeze(-1) == patches).to(torch.int64).sum(-2) > 0, keep)
        unseen = None if self.threshold is None else (last < 0) * UNSEEN  # empty slots, in layers that follow
        if not self.merge:
            return Selection(indices=last, key_bias=unseen)
        return Selection(indices=last, mix=mix, mix_rows=tuple(range(keep)), key_bias=unseen)

    def _dropped(self, taps: Taps, stage: Stage) -> Selection:
        assert stage.keep is not None
        share, most = dual(taps, stage.layer)
        scores = torch.maximum(self.individual_thr * share, self.global_thr * most)
        key = (1 + self.individual_thr + self.global_thr) * taps.carry["key"]  # above all scores
        return Selection(indices=top_k(scores + key, stage.keep), scores=scores + key)

    def _masked(self, taps: Taps, stage: Stage) -> Selection:
        share, most = dual(taps, stage.layer)
        alive = taps.carry.get("alive", torch.ones(taps.span.shape))
        stays = (share >= self.global_thr) | (most >= self.individual_thr) | (taps.carry["key"] > 0)
        still = alive * stays.float()
        return Selection(
            key_bias=UNSEEN * (alive - still),
            carry={"alive": still},
            outputs={f"tokens.{stage.layer}": still.sum(-1).long()},
        )


def attentive(shape: Shape, last: int) -> int:
    """The layer whose attention makes the key set: with [CLS] the one behind the `last`, in CLIP the very last."""
    return min(last + 1, shape.tower_layers - 1) if shape.has_cls else scored_layer(shape, last)


def schedule(shape: Shape, keep: int, cuts: int) -> tuple[int, ...]:
    """Patches of a view behind the merge, then tokens of all views behind each cut: the same share stays each time."""
    shares = [(keep / shape.patches) ** ((cut + 1) / (cuts + 1)) for cut in range(cuts + 1)]
    return round(shape.patches * shares[0]), *(round(shape.tokens * share) for share in shares[1:])


METHOD = MustDrop
