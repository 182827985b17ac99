"""A question as CLIP reads it: tokens in segments, because its text tower takes so many at once."""

from pathlib import Path

import numpy as np

from engines.geometry import Ints
from engines.prompt import check_text, open_tokenizer, tokenizer_faults_in_words

TOKENIZER = "clip/tokenizer.json"


class ClipTokenizer:
    """CLIP's tokenizer.

    Args:
        directory: The bundle's; holds clip/tokenizer.json.
        length: Tokens of a segment.

    Raises:
        UserError: The file is missing or damaged.
    """

    def __init__(self, directory: Path, length: int) -> None:
        self._path, self._length = directory / TOKENIZER, length
        self._tokenizer = open_tokenizer(self._path)

    def segments(self, question: str) -> tuple[Ints, Ints]:
        """Cuts a question's tokens, the special ones included, into segments.

        Returns:
            Tokens and mask, both [M, length]; zeros behind the last token.

        Raises:
            UserError: The text holds half a character, or the tokenizer contradicts itself.
        """
        check_text(question)
        with tokenizer_faults_in_words(self._path):
            ids = list(self._tokenizer.encode(question).ids) or [0]
        count = -(-len(ids) // self._length)
        tokens, mask = np.zeros((2, count * self._length), np.int64)
        tokens[: len(ids)], mask[: len(ids)] = ids, 1
        return tokens.reshape(count, -1), mask.reshape(count, -1)
