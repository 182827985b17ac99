"""Text tokens that rate a picture (SparseVLM): who they are, and the attention that they pay to the spans."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.reducer import Taps
from exporter.select import gather_rows, marked, ranked

TINY = torch.finfo(torch.float32).tiny


def relevance(taps: Taps) -> tuple[Tensor, Tensor]:
    """`[B,T]` fp32 each, of the rows in no span: their share in the pictures, and 1.0 for text behind the first one.

    Share: `softmax(V Q^T)` over that text, mean over all spans' tokens V; both are input embeddings, without a scale.
    """
    places = taps.outside
    valid, states = taps.valid.float(), taps.hidden(-1).float()
    text = gather_rows(valid, places) * (places > taps.span[:, 0, -1:]).float()
    seen = taps.span.flatten(1)
    logits = gather_rows(states, seen) @ gather_rows(states, places).transpose(1, 2)
    shares = logits.masked_fill(text[:, None] == 0, torch.finfo(torch.float32).min).softmax(-1)
    pictures = gather_rows(valid, seen)  # a prompt may hold fewer of them
    mean = (pictures[..., None] * shares).sum(1) / pictures.sum(1, keepdim=True).clamp(min=1)
    return mean * text, text


def raters(taps: Taps) -> Tensor:
    """`[B,S]` fp32: 1.0 at text tokens whose share is above the mean; at all of the text where none is."""
    shares, text = relevance(taps)
    above = text * (shares * text.sum(1, keepdim=True) > shares.sum(1, keepdim=True)).float()
    chosen = torch.where(above.sum(1, keepdim=True) > 0, above, text)
    return torch.zeros(taps.valid.shape).scatter(1, taps.outside, chosen)


def rated(taps: Taps, layer: int, weights: Tensor, *, gravity: bool) -> Tensor:
    """`[B,I,H,N]` fp32: attention of `layer` that each token of a span receives, queries weighted by `[B,S]`.

    With `gravity` each weight is divided by how much RoPE alone favours its distance.
    """
    places = taps.outside
    attention = taps.rows(layer, places)
    if gravity:
        attention = attention / pull(taps, places)[:, None]
    weight = gather_rows(weights, places)[:, None, None]
    return taps.span_of((weight @ attention)[:, :, 0])


def pull(taps: Taps, places: Tensor) -> Tensor:
    """`[B,R,S]` fp32: `(R 1)(R 1)^T / sqrt(d)` of the rows at `places` `[B,R]`, R 1 being a rotated vector of ones."""
    assert taps.rope is not None
    cos, sin = (table.float() for table in taps.rope)
    half = cos.shape[-1] // 2
    ones = cos + sin * torch.cat([-torch.ones(half), torch.ones(half)])
    found: Tensor = gather_rows(ones, places) @ ones.transpose(1, 2) / cos.shape[-1] ** 0.5
    return found.masked_fill(found == 0, TINY)


def strongest(received: Tensor, heads: int) -> Tensor:
    """1.0 for the `heads` heads that give each span most, fp32 `[B,I,H]`, of `[B,I,H,N]`."""
    return marked(ranked(received.sum(-1), min(heads, received.shape[2])), received.shape[2])
