"""What a vision part may read of a prompt: its embeddings, or its question through a CLIP text tower."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.clip import ClipTokenizer
from engines.errors import UserError
from engines.parts import Parts
from engines.prompt import Prompt

TEXT, CLIP = frozenset({"text_embeds", "text_mask"}), frozenset({"clip_text", "clip_mask"})


class Words:
    """Prepares the words for the pictures of a bundle.

    Args:
        parts: The bundle's parts.
        prompt: Its tokenizer; only where a part reads a question.

    Raises:
        UserError: A question is read, and CLIP's tokenizer is missing or damaged.
    """

    def __init__(self, parts: Parts, prompt: Prompt | None) -> None:
        self._parts, self._prompt = parts, prompt
        self._placeholders = parts.contract.geometry.placeholders
        length = parts.contract.segment
        self._clip = ClipTokenizer(prompt.directory, length) if length and prompt else None

    def feeds(
        self, part: str, prompts: Sequence[Sequence[int]] | None, questions: Sequence[str] | None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of a vision part beside the pixels; empty if it wants none.

        Args:
            part: Which.
            prompts: For each picture the prompt that it stands in.
            questions: For each picture the user's question; if not given, the prompt's text.

        Raises:
            UserError: The part reads prompts and there are none.
        """
        wanted = set(self._parts.contract.inputs[part])
        if not wanted & (TEXT | CLIP):
            return {}
        if prompts is None:
            raise UserError(f"part '{part}' chooses by the prompt: give each picture's prompt with it")
        words = [[token for token in prompt if token not in self._placeholders] for prompt in prompts]
        feeds = self._embedded(words) if wanted & TEXT else {}
        return feeds | (self._questions(words, questions) if wanted & CLIP else {})

    def _embedded(self, words: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
        """`text_embeds [batch,words,D]` and `text_mask [batch,words]`, right-padded."""
        shape = len(words), max(1, *map(len, words))
        ids, mask = np.full(shape, self._parts.contract.geometry.filler, np.int64), np.zeros(shape, np.int64)
        for row, each in enumerate(words):
            ids[row, : len(each)], mask[row, : len(each)] = each, 1
        return {"text_embeds": self._parts.embed(ids, []), "text_mask": mask}

    def _questions(self, words: Sequence[Sequence[int]], questions: Sequence[str] | None) -> dict[str, NDArray[Any]]:
        """`clip_text [batch,segments,P]` and `clip_mask [batch,segments]`, right-padded."""
        if self._clip is None or self._prompt is None:
            raise UserError("this bundle reads questions: it needs its tokenizers and its part 'text'")
        asked = [self._prompt.decode(each).strip() for each in words] if questions is None else questions
        read = {question: self._read(self._clip, question) for question in dict.fromkeys(asked)}
        most = max(map(len, read.values()))
        padded = {q: np.pad(rows, ((0, most - len(rows)), (0, 0))) for q, rows in read.items()}
        mask = [np.arange(most) < len(read[question]) for question in asked]
        return {"clip_text": np.stack([padded[q] for q in asked]), "clip_mask": np.stack(mask).astype(np.int64)}

    def _read(self, clip: ClipTokenizer, question: str) -> NDArray[Any]:
        """One question through the text part `[M,P]`."""
        ids, mask = clip.segments(question)
        return self._parts.run("text", {"input_ids": ids, "attention_mask": mask})["text_embeds"]
