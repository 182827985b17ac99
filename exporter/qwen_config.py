"""A Qwen2.5-VL configuration, believed only where a model can be built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.json_file import read_object
from exporter.config import LAYERS, POSITIONS, STATIC_ROPE
from exporter.section import Section, shown


def check_kind(path: Path) -> None:
    """The kinds of model that a config.json names, before transformers looks for others in it.

    Raises:
        UserError: another kind, or quantized weights.
    """
    stored = Section(path, "", read_object(path))
    stored.one_of("model_type", ("qwen2_5_vl",), default="qwen2_5_vl")
    if stored.get("quantization_config", None):
        raise stored.wrong("quantization_config", "is set: quantized weights are not supported")
    for name, kinds in (
        ("vision_config", ("qwen2_5_vl_vision", "qwen2_5_vl")),  # old files name the whole model
        ("text_config", ("qwen2_5_vl_text",)),
    ):
        part = Section(path, name, stored.get(name, {}))
        if isinstance(part.values, dict):  # transformers says what it makes of anything else
            part.one_of("model_type", kinds, default=kinds[0])


def check_values(path: Path, config: Any) -> None:
    """The numbers and names of a loaded config.

    Raises:
        UserError: names the value that no such model can have.
    """
    _check_tower(Section(path, "vision_config", config.vision_config))
    text = Section(path, "text_config", config.text_config)
    check_qwen2(text)
    _check_mrope(text)
    if config.vision_config.out_hidden_size != config.text_config.hidden_size:
        raise Section(path, "vision_config", config.vision_config).wrong(
            "out_hidden_size",
            f"is {config.vision_config.out_hidden_size}, the decoder's hidden_size {config.text_config.hidden_size}",
        )
    Section(path, "", config).whole("image_token_id", least=0, most=config.text_config.vocab_size - 1)


def _check_tower(vision: Section) -> None:
    from transformers.activations import ACT2FN

    vision.whole("depth", most=LAYERS)
    for key in ("intermediate_size", "out_hidden_size", "patch_size", "temporal_patch_size", "window_size"):
        vision.whole(key)
    vision.one_of("in_channels", (3,))
    vision.one_of("spatial_merge_size", (2,))
    vision.multiple("hidden_size", "num_heads")
    if vision.get("hidden_size") // vision.get("num_heads") % 4:
        raise vision.wrong("hidden_size", "gives heads whose width is no multiple of 4: rotary positions turn pairs")
    if vision.get("window_size") < 2 * vision.get("patch_size"):
        raise vision.wrong("window_size", f"is {vision.get('window_size')}, less than two patches")
    vision.one_of("hidden_act", list(ACT2FN))
    rope = Section(vision.path, f"{vision.name}.rope_parameters", vision.get("rope_parameters"))
    rope.one_of("rope_type", ("axial",))
    rope.number("rope_theta")
    seeing = vision.get("fullatt_block_indexes")
    named = list(seeing) if isinstance(seeing, list | tuple) else []
    if not named or not all(type(layer) is int and 0 <= layer < vision.get("depth") for layer in named):
        raise vision.wrong("fullatt_block_indexes", f"is {shown(seeing)}, not a list of layers")


def check_qwen2(text: Section) -> None:
    """A Qwen2 decoder whose rotation does not depend on the length of the sequence.

    Raises:
        UserError: names the value that no such decoder can have.
    """
    from transformers.activations import ACT2FN

    for key in ("intermediate_size", "vocab_size"):
        text.whole(key)
    text.whole("num_hidden_layers", most=LAYERS)
    text.whole("max_position_embeddings", most=POSITIONS)
    text.multiple("hidden_size", "num_attention_heads")
    text.multiple("num_attention_heads", "num_key_value_heads")
    if text.get("hidden_size") // text.get("num_attention_heads") % 2:
        raise text.wrong("hidden_size", "gives heads of odd width: rotary positions turn pairs")
    text.number("rms_norm_eps")
    text.one_of("hidden_act", list(ACT2FN))
    if text.get("use_sliding_window", None):
        raise text.wrong("use_sliding_window", "is set: decoders with a sliding window are not supported")
    rope = Section(text.path, f"{text.name}.rope_parameters", text.get("rope_parameters"))
    rope.one_of("rope_type", STATIC_ROPE)
    rope.number("rope_theta")
    rope.number("factor", 1)


def _check_mrope(text: Section) -> None:
    """Three axes share the pairs of a head between them."""
    rope = Section(text.path, f"{text.name}.rope_parameters", text.get("rope_parameters"))
    pairs = text.get("hidden_size") // text.get("num_attention_heads") // 2
    shares = rope.get("mrope_section", [16, 24, 24])
    known = isinstance(shares, list) and len(shares) == 3
    if not known or not all(type(share) is int and share > 0 for share in shares) or sum(shares) != pairs:
        raise rope.wrong("mrope_section", f"is {shown(shares)}, not three numbers of {pairs} pairs together")
