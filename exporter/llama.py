"""Decoders of LLaMA's make as Hugging Face writes them (LLaMA, Vicuna, Mistral, Qwen2): blocks, sizes, projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from exporter.attention import Tape
from exporter.config import stop_tokens
from exporter.family import Facts, Widths
from exporter.reducer import QKV
from exporter.stack import Block, Rope, Stack


def layers(language: Any) -> Stack:
    """Its layers, with its rotation."""
    blocks = tuple(_block(layer) for layer in language.layers)
    return Stack("decoder", blocks, language.rotary_emb, norm=language.norm, turn=turned)


def widths(text: Any, *placeholders: int) -> Widths:
    """Its sizes by its config."""
    head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    return Widths(text.hidden_size, text.num_key_value_heads, head, text.vocab_size, placeholders)


def facts(family: str, text: Any, sizes: Widths, directory: Path) -> Facts:
    """What the runtime needs, from the text config and the generation config."""
    return Facts(
        family=family,
        image_token_id=sizes.placeholders[0] if sizes.placeholders else None,
        eos_token_ids=stop_tokens(directory, text),
        pad_token_id=text.pad_token_id or 0,
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_positions=text.max_position_embeddings,
        video_token_id=sizes.placeholders[1] if len(sizes.placeholders) > 1 else None,
    )


def restore_rotation(language: Any, text: Any) -> None:
    """Give the decoder its rotary frequencies."""
    language.rotary_emb = type(language.rotary_emb)(text)


def logits(language: Any, head: Any, inputs_embeds: Tensor, position_ids: Tensor) -> Tensor:
    """The stock forward without cache: logits of all rows."""
    read = language(inputs_embeds=inputs_embeds, position_ids=position_ids, use_cache=False)
    out: Tensor = head(read.last_hidden_state)
    return out


def projected(attention: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> tuple[dict[bool, QKV], float]:
    """q, k, v of a stock attention module after and before rotation, and its scale; CLIP's has the same names."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    module: Any = attention
    projections = (module.q_proj(x), module.k_proj(x), module.v_proj(x))
    q, k, v = (p.unflatten(-1, (-1, module.head_dim)).transpose(1, 2) for p in projections)
    turned_q, turned_k = (q, k) if rope is None else apply_rotary_pos_emb(q, k, *rope)
    return {False: QKV(q, k, v), True: QKV(turned_q, turned_k, v)}, float(module.head_dim) ** -0.5


def turned(keys: Tensor, rope: Rope) -> Tensor:
    """Keys `[B,Hkv,n,d]`, rotated as LLaMA does."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    out: Tensor = apply_rotary_pos_emb(keys, keys, *rope)[1]
    return out


def _block(layer: Any) -> Block:
    def attention(x: Tensor, mask: Tensor | None, rope: Rope | None, tape: Tape) -> Tensor:
        out: Tensor = layer.self_attn(x, position_embeddings=rope, attention_mask=mask, tape=tape)[0]
        return out

    return Block(layer.input_layernorm, attention, layer.post_attention_layernorm, layer.mlp)
