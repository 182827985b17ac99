"""Answers as they are generated: tokens in, pieces of text out."""

from engines.prompt import Prompt


class Stream:
    """Turns tokens into text as they arrive; the pieces join to what `Prompt.decode` makes of all tokens."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._ids: list[int] = []
        self._sent = ""

    def push(self, token: int) -> str:
        """Takes a token and returns the text that is certain now, perhaps none."""
        self._ids.append(token)
        text = self._prompt.decode(self._ids)
        # A character of several bytes shows as U+FFFD until its last byte is there.
        return self._send(text.rstrip("\ufffd"))

    def finish(self) -> str:
        """Returns what was held back."""
        return self._send(self._prompt.decode(self._ids))

    def _send(self, text: str) -> str:
        piece = text[len(self._sent) :]
        self._sent = max(self._sent, text, key=len)
        return piece
