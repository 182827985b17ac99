"""Prompts of several lengths and pictures through a recorded decoder, together or one by one."""

import torch

from exporter.sequence import Sequence
from exporter.stack import Walk


def walked(decoder, reducer, stages, embeds, starts, width, lengths=None):
    """The walk of prompts `[B,S,C]` with spans of `width` at `starts` `[B,I]`; `lengths`: of each, the rest is padding.

    `walk.sequence` is what is left behind the last layer.
    """
    every = torch.arange(embeds.shape[1]).expand(embeds.shape[:2])
    lengths = torch.tensor(lengths or [embeds.shape[1]] * len(embeds))
    sequence = Sequence(
        hidden=embeds,
        start=starts,
        width=width,
        origin=torch.arange(width).expand(*starts.shape, -1),
        valid=every < lengths[:, None],
        positions=every,
        rows=every,
    )
    walk = Walk(decoder.stack, reducer, stages, decoder.shape(width), sequence)
    walk.run(decoder.layers)
    return walk


def states(walk, prompt):
    """`[n,C]`: the valid rows of one prompt behind the last layer."""
    return walk.sequence.hidden[prompt, walk.sequence.valid[prompt]]
