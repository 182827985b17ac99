"""A LLaMA of random weights with grouped keys, played as recorded ones are."""

import torch

from exporter.attention import Tape
from tests.exporter.methods.common import normal
from tools.goldens.decoders import Decoder

WIDTH, HEADS, KEYS, DIM = 16, 4, 2, 4


def small_decoder(layers=3):
    """Four query heads, two key heads."""
    sizes = {
        "self_attn.q_proj": (HEADS * DIM, WIDTH),
        "self_attn.k_proj": (KEYS * DIM, WIDTH),
        "self_attn.v_proj": (KEYS * DIM, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * DIM),
        "mlp.gate_proj": (24, WIDTH),
        "mlp.up_proj": (24, WIDTH),
        "mlp.down_proj": (WIDTH, 24),
    }
    weights = {"norm.weight": torch.ones(WIDTH)}
    for layer in range(layers):
        for number, (name, size) in enumerate(sizes.items()):
            weights[f"layers.{layer}.{name}.weight"] = normal(*size, seed=10 * layer + number) / 2
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"layers.{layer}.{name}.weight"] = torch.ones(WIDTH)
    return Decoder(weights, heads=HEADS, kv_heads=KEYS)


def first_layer(decoder, rows):
    """q `[H,n,d]`, k and v `[Hkv,n,d]` of the first layer, rotated by place."""
    block, tape, places = decoder.stack.blocks[0], Tape(), torch.arange(rows.shape[1])[None]
    block.attention(block.norm1(rows), None, decoder.rotary(rows, places), tape)
    return tape.q[0], tape.k[0], tape.v[0]
