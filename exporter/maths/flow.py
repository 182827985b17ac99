"""Information flow (FlowCut): how much a layer passes from each patch to [CLS], or in the decoder to the last token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.masks import last_place
from exporter.reducer import Selection, Stage, Taps
from exporter.scores import attended
from exporter.select import gather_rows, ranks

HIDDEN = 1e4  # taken from the logit of a token that is no longer there; within fp16
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Drop(Stage):
    """A place where mode exact masks tokens on their way to `target`, `left` layers before the last cut.

    If `coupled`, of each picture as many as of the one that loses most.
    """

    target: int = 0
    left: int = 1
    coupled: bool = False


def inflow(taps: Taps, layer: int, alive: Tensor) -> tuple[Tensor, Tensor]:
    """`[B,I,N]` fp32 each, over the `alive` `[B,I,N]`: the attention of [CLS], which sums to 1, and the flow score.

    score = (attention + likeness of values to [CLS]'s, both of sum 1) * L1 norm of the values' head mean. Without [CLS]
    as the authors have it for Qwen2-VL: the mean of all queries takes its place, and there is no likeness.
    """
    if not taps.shape.has_cls:
        shares = _mean_query(taps, layer, alive)
        return shares, shares * _strength(taps, layer)
    shares = _shares(attended(taps, layer) * alive)
    v = taps.qkv(layer).v.float()
    alike = v[:, :, :1] @ v.transpose(2, 3)
    patches = taps.span_of(alike)[:, :, :, 0] + HIDDEN * (alive - 1)[:, :, None]
    likeness = torch.cat([alike[:, None, :, 0, :1], patches], -1).softmax(-1)[..., 1:].mean(2)
    return shares, (shares + _shares(likeness)) * _strength(taps, layer) * alive


def flow_to_text(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: the same for a decoder layer and the prompt's last token; softmax over each span by itself."""
    attention = taps.span_of(taps.rows(layer, "last", logits=True))[:, :, :, 0].softmax(-1).mean(2)
    v = taps.qkv(layer).v.float().transpose(1, 2)
    last = gather_rows(v, last_place(taps.valid)).transpose(1, 2)
    alike = taps.span_of(last @ v.permute(0, 2, 3, 1))[:, :, :, 0] / v.shape[-1] ** 0.5
    likeness = alike.softmax(-1).mean(2)
    return (_shares(attention) + _shares(likeness)) * _strength(taps, layer)


def drop(shares: Tensor, scores: Tensor, alive: Tensor, stage: Drop, *, has_cls: bool) -> Selection:
    """Mask as many of the lowest scores as the information flow says."""
    wish = to_prune(shares, alive, stage, has_cls=has_cls)
    keep = (alive.sum(-1, keepdim=True) - wish).clamp(min=stage.target)
    still = (ranks(scores + (alive - 1)) < keep).float()
    return Selection(
        key_bias=HIDDEN * (still - alive),
        carry={"score": scores, "alive": still},
        outputs={f"tokens.{stage.layer}": still.sum(-1).long()},
    )


def to_prune(shares: Tensor, alive: Tensor, stage: Drop, *, has_cls: bool) -> Tensor:
    """How many of the n alive go now, `[B,I,1]`: `round((n - target) / sqrt(left) * (1 - H^2))`.

    H is the entropy of `shares` `[B,I,N]` over that of n equal ones; halves round to even.
    """
    count = alive.sum(-1, keepdim=True)
    logs = shares.clamp(min=TINY).log() if has_cls else (shares + 1e-7).log()
    entropy = -(shares * logs).sum(-1, keepdim=True) / count.log().clamp(min=TINY)
    wish: Tensor = (count - stage.target) / stage.left**0.5 * (1 - entropy * entropy)
    wish = wish.amax((0, 1), keepdim=True) if stage.coupled else wish
    return wish.round()


def _strength(taps: Taps, layer: int) -> Tensor:
    v = taps.qkv(layer).v.float().mean(1)
    return taps.span_of(v.transpose(1, 2)).abs().sum(2)


def _mean_query(taps: Taps, layer: int, alive: Tensor) -> Tensor:
    q, k, _ = (part.float() for part in taps.qkv(layer))
    mean = (taps.span_of(q.transpose(2, 3)) * alive[:, :, None, None]).sum(-1) / alive.sum(-1)[..., None, None]
    logits = mean.transpose(1, 2) @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # one span in a tower
    return _shares(taps.span_of(logits.softmax(-1))[:, :, :, 0] * alive[:, :, None]).mean(2)


def _shares(values: Tensor) -> Tensor:
    return values / values.sum(-1, keepdim=True).clamp(min=TINY)
