"""The layers of a small decoder by plain loops."""

from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from exporter.attention import Tape
from tests.exporter.methods.small_decoder import DIM, HEADS, KEYS


@dataclass
class Ran:
    """What one layer made of new rows: states, attention `[H,T,n]`, keys and values `[Hkv,n,d]` of all rows."""

    hidden: torch.Tensor
    attention: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor


def causal(decoder, layer, x, places, past=None, seen=None):
    """One layer on new rows `[1,T,C]` at `places` `[T]`, over the keys and values that `past` had.

    `seen` `[n]` bool: the columns that are looked at.
    """
    block, tape = decoder.stack.blocks[layer], Tape()
    block.attention(block.norm1(x), None, decoder.rotary(x, places[None]), tape)
    key, value = tape.k[0], tape.v[0]
    if past is not None:
        key, value = torch.cat([past.key, key], 1), torch.cat([past.value, value], 1)
    new, columns = x.shape[1], key.shape[1]
    each = [part.repeat_interleave(HEADS // KEYS, 0) for part in (key, value)]
    logits = tape.q[0] @ each[0].transpose(1, 2) * DIM**-0.5
    open_ = torch.arange(columns) <= torch.arange(columns - new, columns)[:, None]
    open_ = open_ if seen is None else open_ & seen
    attention = logits.masked_fill(~open_, -torch.inf).softmax(-1)
    out = (attention @ each[1]).transpose(0, 1).flatten(1)
    x = x + linear(out, decoder.weights[f"layers.{layer}.self_attn.o_proj.weight"])
    return Ran(x + block.mlp(block.norm2(x)), attention, key, value)
