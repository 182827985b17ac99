"""Configurations of LLaVA and its kin: a CLIP tower, a projector, a LLaMA decoder, tokens that stand for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.json_file import read_object
from exporter.config import check_clip, check_llama, check_projector, refusals_in_words
from exporter.section import Section


def load(directory: Path, kind: str, config_class: str, towers: Sequence[str], texts: Sequence[str]) -> Any:
    """A checkpoint's transformers config; `towers` and `texts` are kinds, first the one that is meant by none.

    Raises:
        UserError: another kind of model, quantized weights, or something that transformers refuses.
    """
    import transformers

    path = directory / "config.json"
    _check_kind(Section(path, "", read_object(path)), kind, towers, texts)
    with refusals_in_words(path):
        return getattr(transformers, config_class).from_pretrained(str(directory), local_files_only=True)


def check(whole: Section, tokens: Sequence[str], strategies: Sequence[str]) -> None:
    """The numbers and names of a loaded config; `tokens` are the keys of its placeholders.

    `strategies` say whether the tower's first row is a [CLS] that is left out ("default") or a patch ("full").

    Raises:
        UserError: names the value that no such model can have.
    """
    vision, text = (Section(whole.path, name, whole.get(name)) for name in ("vision_config", "text_config"))
    check_clip(vision)
    check_llama(text)
    check_projector(whole)
    for token in tokens:
        whole.whole(token, least=0, most=text.get("vocab_size") - 1)
    whole.one_of("vision_feature_select_strategy", strategies)
    text.one_of("use_sliding_window", (False,), default=False)
    whole.whole("vision_feature_layer", least=-vision.get("num_hidden_layers"), most=-1)


def _check_kind(stored: Section, kind: str, towers: Sequence[str], texts: Sequence[str]) -> None:
    """The kinds of model that a config.json names, before transformers looks for others in it."""
    stored.one_of("model_type", (kind,), default=kind)
    if stored.get("quantization_config", None):
        raise stored.wrong("quantization_config", "is set: quantized weights are not supported")
    for name, wanted in (("vision_config", towers), ("text_config", texts)):
        part = Section(stored.path, name, stored.get(name, {}))
        if isinstance(part.values, dict):  # transformers says what it makes of anything else
            part.one_of("model_type", wanted, default=wanted[0])
