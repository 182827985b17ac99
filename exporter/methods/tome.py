"""ToMe: in every layer of the tower, the most similar patches are merged in pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts
from exporter.reducer import Reducer, Selection, Shape, Stage, Taps
from exporter.select import gather_rows, marked, ranked, top_k

NEVER = -4.0  # below every cosine


@dataclass(frozen=True)
class ToMe(Reducer):
    """Between attention and MLP of each layer, r patches are averaged into the patch whose key is most like theirs.

    The sequence, [CLS] included, is split into even and odd places; keys are averaged over heads. Each even patch is
    paired with the odd one of the largest cosine, fp32, and the r best pairs merge: the odd patch becomes the mean of
    all that flow into it, weighted by size, the number of patches that each stands for. Later layers add log(size) to
    the attention logits of their keys. [CLS] neither merges nor takes in others. What is left stands in the order of
    the patches, merged ones in the odd one's place, and is numbered anew. Budget: patches per view behind the tower.

    Attributes:
        r: patches to merge in each layer, at most half of those that are left. A number is a whole schedule with
            `inflect`, a list such as `16,16,8` says it for each layer, then none. By default it follows from --keep,
            which any r must match.
        inflect: slope of the schedule, -1 to 1: 0 is constant, -1 goes from 2r down to 0, 1 up from 0.
        attention: whether log(size) is added to the logits.

    Source: *Token Merging: Your ViT But Faster*, arXiv 2210.09461.
    """

    title = "ToMe"
    paper = "Token Merging: Your ViT But Faster"
    arxiv = "2210.09461"
    differences = (
        "patches keep their order; the authors' code puts odd places behind even ones, so that later pairs differ",
        "merging happens up to the layer that the projector reads, and goes on with the language model's patches",
        "the default schedule spreads what --keep leaves to merge over the layers, rounded as it adds up (ours)",
        "similarities are fp32 and ties go to the lower index; sizes are known only inside the tower",
        "where several rows of the tower make one token, they move together, by their mean key (ours)",
    )

    r: str = ""
    inflect: float = 0.0
    attention: bool = True

    def __post_init__(self) -> None:
        counts("r", self.r)
        if not -1 <= self.inflect <= 1:
            raise ValueError(f"inflect {self.inflect} is not between -1 and 1")

    def plan(self, shape: Shape, budget: Budget) -> tuple[Stage, ...]:
        """A stage in the middle of every layer that merges.

        Raises:
            UserError: the schedule leaves another number than the budget, or no schedule can reach it.
        """
        keep, layers = budget.count(shape.patches), shape.tower_last + 1
        given = counts("r", self.r)
        if len(given) > layers:
            raise UserError(f"--param r={self.r}: {len(given)} numbers, but the tower has {layers} layers to merge in")
        left = _merged(shape.patches, schedule(layers, given, self.inflect)) if given else self._towards(keep, shape)
        if left[-1] != keep:
            if given:
                raise UserError(f"--param r={self.r}: leaves {left[-1]} patches, --keep says {keep}; make them agree")
            raise UserError(f"--keep {keep}: merging at most half in each layer leaves {left[-1]}; keep that or more")
        before = (shape.patches, *left)
        return tuple(Stage("tower", n, "mid", keep=kept) for n, kept in enumerate(left) if kept < before[n])

    def _towards(self, keep: int, shape: Shape) -> list[int]:
        """Patches left behind each layer on the way to `keep`: as the slope says, unless too many would be left."""
        layers, total = shape.tower_last + 1, shape.patches
        slope = [2 * n / max(1, layers - 1) - 1 for n in range(layers)]
        left, share, now = [], 0.0, total
        for number, lean in enumerate(slope):
            share += (1 + self.inflect * lean) / layers
            wanted = total - round((total - keep) * share)
            now = max(now - now // 2, min(now, wanted, keep << (layers - 1 - number)))
            left.append(now)
        return left

    def select(self, taps: Taps, stage: Stage) -> Selection:
        """Who flows into whom, as weights of a mean."""
        assert stage.keep is not None
        keys = taps.qkv(stage.layer).k.float().mean(1)
        keys = normalize(taps.span_of(keys.transpose(1, 2)).transpose(2, 3), dim=-1)
        length = keys.shape[2]
        size = taps.carry.get("size", torch.ones(keys.shape[:3]))
        gone, target = pairs(keys, length - stage.keep, int(not taps.shape.has_cls))
        kept = top_k(-gone, stage.keep)
        goal = torch.where(gone > 0, target, torch.arange(length))
        flow = (kept[..., None] == goal[:, :, None]).float() * size[:, :, None]
        total = flow.sum(-1)
        rows = tuple(range(stage.keep))
        return Selection(
            indices=kept,
            mix=flow / total[..., None],
            mix_rows=rows,
            key_bias=(total / gather_rows(size, kept)).log() if self.attention else None,
            carry={"size": total},
        )


def schedule(layers: int, given: tuple[int, ...], inflect: float) -> list[int]:
    """Patches to merge in each layer: `given` with zeros behind, or its one number as the mean of a line."""
    if len(given) > 1:
        return [*given, *[0] * (layers - len(given))]
    least = int(given[0] * (1 - inflect))
    step = (2 * given[0] - 2 * least) / max(1, layers - 1)
    return [int(least + step * number) for number in range(layers)]


def pairs(keys: Tensor, count: int, odd: int) -> tuple[Tensor, Tensor]:
    """1.0 at the `count` patches that merge, `[B,I,n]`, and for each patch the one that it would flow into.

    `keys` `[B,I,n,d]` have length 1; the patches from place `odd` on, every other one, take others in.
    """
    place = torch.arange(keys.shape[2])
    takes = place % 2 == odd
    alike = (keys @ keys.transpose(2, 3)).masked_fill(~takes, NEVER)
    best, target = alike.max(-1)
    return marked(ranked(best.masked_fill(takes, NEVER), count), keys.shape[2]), target


def _merged(total: int, schedule: list[int]) -> list[int]:
    left = []
    for r in schedule:
        total -= min(r, total // 2)
        left.append(total)
    return left


METHOD = ToMe
