"""Hugging Face's own models: empty ones to trace, and the plain one that a checkpoint holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

Renames = Iterable[tuple[re.Pattern[str], str]]


def empty(architecture: str, config: Any, dtype: torch.dtype, attention: str) -> nn.Module:
    """The model class of that name without weights, on the device in force, with the named attention function."""
    made = _class(architecture)._from_config(config, dtype=dtype, attn_implementation=attention)  # noqa: SLF001
    assert isinstance(made, nn.Module)
    return made.eval()


def loaded(architecture: str, directory: Path) -> nn.Module:
    """The model class of that name with a checkpoint's weights, eager, fp32."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    made = _class(architecture).from_pretrained(
        str(directory),
        dtype=torch.float32,
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
    )
    assert isinstance(made, nn.Module)
    return made.eval()


def renamed(stored: str, renames: Renames) -> str:
    """A tensor's name by the first pattern that it matches; as it is where none does."""
    for pattern, replacement in renames:
        name, hits = pattern.subn(replacement, stored)
        if hits:
            return name
    return stored


def _class(architecture: str) -> Any:
    import transformers

    return getattr(transformers, architecture)
