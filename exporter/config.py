"""A checkpoint's configuration, believed only where a model can be built from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.errors import UserError
from engines.json_file import read_object
from exporter.section import Section, shown

LAYERS = 1024
POSITIONS = 2**31 - 1
STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # the others change with the length of the sequence


@contextmanager
def refusals_in_words(path: Path) -> Iterator[None]:
    """Turns whatever transformers raises over a checkpoint's file into one line that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # it raises all kinds, from its validators to KeyError
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: transformers refuses it: {type(error).__name__}: {reason}") from error


def check_clip(vision: Section) -> None:
    """A CLIP or SigLIP vision tower that reads square RGB pictures.

    Raises:
        UserError: names the value that no such tower can have.
    """
    for key in ("num_attention_heads", "intermediate_size"):
        vision.whole(key)
    vision.whole("num_hidden_layers", most=LAYERS)
    vision.multiple("hidden_size", "num_attention_heads")
    if vision.get("model_type", "") == "clip_vision_model":  # SigLIP's leaves out what is left over
        vision.multiple("image_size", "patch_size")
    vision.whole("image_size", least=vision.whole("patch_size"))
    vision.one_of("num_channels", (3,))
    vision.number("layer_norm_eps")
    _check_activation(vision, "hidden_act")


def check_llama(text: Section) -> None:
    """A LLaMA decoder whose rotation does not depend on the length of the sequence.

    Raises:
        UserError: names the value that no such decoder can have.
    """
    for key in ("hidden_size", "intermediate_size", "vocab_size"):
        text.whole(key)
    text.whole("num_hidden_layers", most=LAYERS)
    text.whole("max_position_embeddings", most=POSITIONS)
    text.multiple("num_attention_heads", "num_key_value_heads")
    if text.get("head_dim", None) is None:  # Qwen2's is what the width leaves
        text.multiple("hidden_size", "num_attention_heads")
    elif text.whole("head_dim") % 2:
        raise text.wrong("head_dim", "is odd: rotary positions turn pairs")
    text.number("rms_norm_eps")
    _check_activation(text, "hidden_act")
    rope = Section(text.path, f"{text.name}.rope_parameters", text.get("rope_parameters"))
    rope.one_of("rope_type", STATIC_ROPE)
    rope.number("rope_theta")
    rope.number("factor", 1)
    rope.one_of("partial_rotary_factor", (1.0, 1), 1.0)


def check_projector(config: Section) -> None:
    """The activation between the projector's layers."""
    _check_activation(config, "projector_hidden_act")


def stop_tokens(directory: Path, text: Any) -> tuple[int, ...]:
    """Tokens that end an answer: generation_config.json's, else the text config's; perhaps none.

    Raises:
        UserError: generation_config.json is damaged, or a token is not in the vocabulary.
    """
    config, generation = directory / "config.json", directory / "generation_config.json"
    named = Section(config, "text_config", text)
    if generation.is_file():
        from transformers import GenerationConfig

        stored = Section(generation, "", read_object(generation))
        with refusals_in_words(generation):
            GenerationConfig.from_pretrained(str(directory), local_files_only=True)
        named = stored if "eos_token_id" in stored.values else named
    return _token_ids(named, "eos_token_id", text.vocab_size)


def _token_ids(section: Section, key: str, vocabulary: int) -> tuple[int, ...]:
    """None, one or several tokens of a vocabulary, as a tuple in any case."""
    found = section.get(key, None)
    listed = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int and 0 <= token < vocabulary for token in listed):
        raise section.wrong(key, f"is {shown(found)}, not a token of the vocabulary (0 to {vocabulary - 1})")
    return tuple(listed)


def _check_activation(section: Section, key: str) -> None:
    from transformers.activations import ACT2FN

    section.one_of(key, list(ACT2FN))
