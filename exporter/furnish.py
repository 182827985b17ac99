"""What a bundle takes over from the checkpoint as it is: shards, tokenizer, template, configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.errors import UserError
from exporter.publish import place

TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)
LARGEST_TEXT = 200_000_000


def furnish(checkpoint: Path, shards: list[str], root: Path) -> None:
    """Copy shards beside the graphs-to-be, and everything that the runtime reads, into `root`.

    Raises:
        UserError: there is no tokenizer.json.
    """
    (root / "onnx").mkdir()
    for shard in shards:
        place((checkpoint / shard).resolve(), root / "onnx" / shard)
    if not (checkpoint / "tokenizer.json").is_file():
        raise UserError(
            f"{checkpoint}: no tokenizer.json; save the tokenizer with transformers' save_pretrained, which writes it"
        )
    for name in ("tokenizer.json", *TEXTS):
        path = checkpoint / name
        if path.is_file() and path.stat().st_size < LARGEST_TEXT:
            place(path.resolve(), root / name)
    if template := chat_template(checkpoint):
        (root / "chat_template.jinja").write_text(template, encoding="utf-8")


def chat_template(checkpoint: Path) -> str | None:
    """The chat template, from any of the places where checkpoints keep it; None if there is none."""
    own = checkpoint / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        stored = _object(checkpoint / name).get("chat_template")
        if isinstance(stored, str):
            return stored
    return None


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return found if isinstance(found, dict) else {}
