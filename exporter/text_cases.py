"""What a model without eyes is asked in parity: questions, and a prompt as long as the shortest bucket."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from engines.parity import Case
from engines.prompt import Prompt

QUESTIONS = (
    "What is the capital of France, and which river runs through it?",
    "Write three words that rhyme with light.",
    "A farmer has seventeen sheep. All but nine run away. How many are left?",
)
STORY = (
    "The lighthouse keeper wrote down the weather every evening. On Monday it rained, on Tuesday the wind turned "
    "north, and on Wednesday a ship with red sails passed the bay at noon. He drew the ship beside the date, and under "
    "it the words of a song that his mother used to sing. "
)


def write_text_cases(prompt: Prompt, buckets: Sequence[int], folder: Path) -> list[Case]:
    """Lay down the cases: each question, and one prompt that fills the shortest of `buckets` to its last token."""
    folder.mkdir(parents=True)
    cases = [_case(question, prompt) for question in QUESTIONS]
    if buckets:
        cases.append(_filling(prompt, min(buckets)))
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases], indent=1))
    return cases


def _case(question: str, prompt: Prompt) -> Case:
    text = prompt.render([{"role": "user", "content": [{"type": "text", "text": question}]}])
    return Case("", question, text, prompt.encode(text))


def _filling(prompt: Prompt, length: int) -> Case:
    """A long story, whose middle is left out so that exactly `length` tokens stay."""
    long, most = _case(STORY, prompt), 1
    while len(long.ids) < length:
        most *= 2
        long = _case(STORY * most + "What did the keeper see?", prompt)
    head = length // 2
    return Case(
        "", "What did the keeper see?", long.prompt, [*long.ids[:head], *long.ids[len(long.ids) - length + head :]]
    )
