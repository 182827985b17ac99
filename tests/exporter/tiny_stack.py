"""Two hand-made layers of width 8 with two heads, and a reducer made of functions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from exporter.attention import fused
from exporter.reducer import Grid, Reducer, Selection, Shape
from exporter.sequence import Sequence
from exporter.stack import Block, Stack, Walk

WIDTH = 8


class Layer:
    """Weights of one layer; `calls` notes the mask and the tables of each call."""

    def __init__(self, seed):
        source = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(4, WIDTH, WIDTH, generator=source) / WIDTH**0.5
        self.calls = []

    def qkv(self, x, rope):
        q, k, v = ((x @ w).unflatten(-1, (2, -1)).transpose(1, 2) for w in self.weights[:3])
        return (q, k, v) if rope is None else (turned(q, rope), turned(k, rope), v)

    def attention(self, x, mask, rope, tape):
        self.calls.append((mask, rope))
        return fused(None, *self.qkv(x, rope), mask, 0.5, tape)[0].flatten(2)

    def mlp(self, x):
        return torch.tanh(x @ self.weights[3])

    def block(self):
        return Block(norm, self.attention, norm, self.mlp)

    def plain(self, x, mask, rope):
        """The same layer in one line each, softmax and all."""
        q, k, v = self.qkv(norm(x), rope)
        logits = q @ k.transpose(2, 3) * 0.5
        logits = logits if mask is None else logits + mask
        x = x + (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.mlp(norm(x)), k, v


def norm(x):
    return x / (1 + x.abs().amax(-1, keepdim=True))


def rotary(hidden, positions):
    angles = positions[..., None].to(hidden.dtype) * torch.tensor([1.0, 0.1])
    return angles.cos().repeat(1, 1, 2), angles.sin().repeat(1, 1, 2)


def turned(x, rope):
    cos, sin = (table[:, None] for table in rope)
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


@dataclass(frozen=True)
class Scripted(Reducer):
    """Each stage has a function of its own from taps to a Selection; default: the first `keep` tokens."""

    script: dict = field(default_factory=dict)
    positions: str = "renumber"

    def select(self, taps, stage):
        act: Callable = self.script.get(stage, first)
        return act(taps, stage)


def first(taps, stage):
    if stage.keep is None:
        return Selection()
    return Selection(torch.arange(stage.keep).expand(*taps.span.shape[:2], -1))


class Tiny:
    """A walk over two layers with its pieces at hand."""

    def __init__(self, *stages, sequence, script=None, positions="renumber", name="decoder", turn=True):
        self.layers = [Layer(1), Layer(2)]
        stack = Stack(name, tuple(layer.block() for layer in self.layers), rotary if turn else None)
        reducer = Scripted(script=script or {}, positions=positions)
        self.walk = Walk(stack, reducer, stages, Shape(4, Grid(2, 2)), sequence)

    def run(self, layers=2):
        self.walk.run(layers)
        return self.walk


def encoded():
    """Two pictures: [CLS] and four patches, nothing else."""
    return Sequence(torch.randn(2, 5, WIDTH), 1, 4, torch.arange(4).expand(2, 1, 4))


def prompts():
    """Two prompts of seven and six tokens, one span of four each, at other places."""
    return Sequence(
        torch.randn(2, 8, WIDTH),
        torch.tensor([[1], [2]]),
        4,
        torch.arange(4).expand(2, 1, 4),
        valid=torch.arange(8) < torch.tensor([[7], [6]]),
        positions=torch.arange(8).expand(2, 8),
    )
