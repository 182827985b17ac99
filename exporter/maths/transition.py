"""Token transition (TransPrune): how far a layer's attention and its MLP move each token, in length and direction."""

from __future__ import annotations

from torch import Tensor

from exporter.reducer import Taps

EPSILON = 1e-8


def transition(taps: Taps, layer: int) -> Tensor:
    """`[B,I,N]` fp32: `w(attention) + w(MLP)` of a layer that ran; what moves is each part's own output, not the sum.

    `w(b, a) = |a| / |b| * exp(1 - cos(b, a)) / sum exp(1 - cos)`, b the part's normalised input, a its output; the sum
    is over the tokens of the sequence.
    """
    parts = (("attention_in", "attention_out"), ("mlp_in", "mlp_out"))
    there = taps.valid.float()
    moved = [_moved(taps.hidden(layer, i), taps.hidden(layer, o), there) for i, o in parts]  # type: ignore[arg-type]
    return taps.span_of(moved[0] + moved[1])


def _moved(before: Tensor, after: Tensor, there: Tensor) -> Tensor:
    """`[B,S]` of states `[B,S,C]`."""
    before, after = before.float(), after.float()
    lengths = [states.norm(dim=-1).clamp(min=EPSILON) for states in (before, after)]
    turned = (1 - (before * after).sum(-1) / (lengths[0] * lengths[1])).exp()
    moved: Tensor = lengths[1] / lengths[0] * turned / (turned * there).sum(1, keepdim=True)
    return moved
