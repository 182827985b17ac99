"""A tower of small hand-made layers, and walks of a method through it."""

import torch

from exporter.budget import Budget
from exporter.reducer import Grid, Shape
from exporter.sequence import Sequence
from exporter.stack import Stack, Walk
from tests.exporter.tiny_stack import WIDTH, Layer

LAYERS = [Layer(seed) for seed in range(12)]  # made before anything is traced


def tower_shape(patches, layers, has_cls=True, **more):
    """Of `layers` layers all but the last are used, as in LLaVA."""
    return Shape(patches, Grid(1, patches), tower_layers=layers, tower_last=layers - 2, has_cls=has_cls, **more)


def pictures(batch, patches, has_cls=True, seed=0):
    """`[B,n,C]`: what enters the tower."""
    return torch.randn(batch, patches + has_cls, WIDTH, generator=torch.Generator().manual_seed(seed))


def walked(method, x, keep, layers, has_cls=True, unit=1):
    """The walk of `x` `[B,n,C]` through the layers that are used; its last sequence and its outputs."""
    patches = (x.shape[1] - has_cls) // unit
    shape = tower_shape(patches, layers, has_cls)
    stages = method.plan(shape, Budget(str(keep)))
    stack = Stack("tower", tuple(layer.block() for layer in LAYERS[:layers]))
    origin = torch.arange(patches).expand(len(x), 1, -1)
    walk = Walk(stack, method, stages, shape, Sequence(x, int(has_cls), patches, origin, unit=unit))
    return walk.run(shape.tower_last + 1), walk.outputs
