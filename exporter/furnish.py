"""What a bundle takes over from the checkpoint as it is: shards, tokenizer, template, configs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engines.errors import UserError
from engines.json_file import read_object
from engines.prompt import Prompt, read_text
from exporter.checkpoint import Checkpoint
from exporter.family import Facts
from exporter.form import Kind
from exporter.progress import LARGE, Step
from exporter.publish import Records, place, record
from exporter.transport import Way, bring

TOKENIZER = "tokenizer.json"
TEXTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
)


def furnish(opened: Checkpoint, root: Path, way: Way = "copy", step: Step | None = None) -> Records:
    """Put shards beside the graphs-to-be, and everything that the runtime reads, into `root`.

    Returns:
        What bundle.json will say of each shard.
    """
    records = _shards(opened, root, way, step or Step())
    checkpoint = opened.dir
    for name in (TOKENIZER, *TEXTS):
        if (checkpoint / name).is_file():
            place((checkpoint / name).resolve(), root / name)
    template = chat_template(checkpoint)
    if template is not None:
        (root / "chat_template.jinja").write_text(template, encoding="utf-8")
    return records


def _shards(opened: Checkpoint, root: Path, way: Way, step: Step) -> Records:
    (root / "onnx").mkdir()
    sizes = {shard: opened.path(shard).stat().st_size for shard in opened.files}
    ways, records, before, total = set[str](), {}, 0, sum(sizes.values())
    for shard in opened.files:
        target = root / "onnx" / shard
        ways.add(bring(opened, shard, target, way, partial(step.tell, total, before)))
        records[f"onnx/{shard}"] = record(target, opened.content_hash(shard))
        before += sizes[shard]
    if total > LARGE:
        step.note = f"{total / 1e9:.1f} GB {' and '.join(sorted(ways))}"
    return records


def chat_template(checkpoint: Path) -> str | None:
    """The chat template, from any of the places where checkpoints keep it; None if there is none.

    Raises:
        UserError: a file is damaged, or its template is no text.
    """
    own = checkpoint / "chat_template.jinja"
    if own.is_file():
        return read_text(own)
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = checkpoint / name
        stored = read_object(path).get("chat_template") if path.is_file() else None
        if isinstance(stored, list):  # several by name
            stored = next((t.get("template") for t in stored if isinstance(t, dict) and t.get("name") == "default"), 0)
        if isinstance(stored, str):
            return stored
        if stored is not None:
            raise UserError(f"{path}: chat_template is neither a text nor a list with a 'default' one")
    return None


def check_prompt(checkpoint: Path, facts: Facts, questions: Sequence[str], kind: Kind = "image") -> int:
    """Asks about one picture or video with the checkpoint's own template and tokenizer.

    Args:
        checkpoint: The directory.
        facts: Its tokens.
        questions: What is asked.
        kind: What of; "text": of nothing.

    Returns:
        How many tokens the first question takes, the picture as one.

    Raises:
        UserError: one of them is missing or damaged, does not write the picture as one image token, or writes tokens
            that the model does not know.
    """
    path = checkpoint / TOKENIZER
    if not path.is_file():
        raise UserError(
            f"{checkpoint}: no {TOKENIZER}; save the tokenizer with transformers' save_pretrained, which writes it"
        )
    prompt = Prompt(checkpoint, facts.image_token_id, chat_template(checkpoint), facts.video_token_id)
    content = [*([] if kind == "text" else [{"type": kind}]), {"type": "text", "text": questions[0]}]
    ids = prompt.encode(prompt.render([{"role": "user", "content": content}]))
    token = facts.image_token_id if kind == "image" else facts.video_token_id
    if kind != "text" and (places := sum(number == token for number in ids)) != 1:
        raise UserError(
            f"{checkpoint}: template and tokenizer write one {kind} as {places} tokens of number "
            f"{token}, config.json's {kind} token: it must be one"
        )
    if (highest := max(ids + prompt.encode(" ".join(questions)))) >= facts.vocab_size:
        raise UserError(f"{path} writes token {highest}; the model's vocabulary ends at {facts.vocab_size - 1}")
    return len(ids)
