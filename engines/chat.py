"""One conversation: every turn feeds only what the cache does not hold yet."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.kv import Arrays, State
from engines.layout import check_pictures
from engines.prompt import Stream
from engines.sampling import PickTokens
from engines.session import Session

Message = dict[str, Any]


class Chat:
    """A conversation with one model.

    Args:
        session: The model's parts.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._messages: list[Message] = []
        self._seen: Arrays = {}  # of all pictures so far, in order
        self._cached: list[int] = []  # the tokens in the state, an image token once per picture
        self._state: State | None = None

    def ask(
        self,
        question: str,
        images: Sequence[Image.Image] | None = None,
        max_new_tokens: int = 128,
        sampler: PickTokens | None = None,
    ) -> Iterator[str]:
        """Asks a question and yields the answer piece by piece, while it is generated.

        Args:
            question: What the user says.
            images: New pictures that come before it; earlier ones stay in the conversation.
            max_new_tokens: Most tokens of the answer.
            sampler: Picks tokens; greedy if not given.

        Raises:
            UserError: The conversation is too long, or does not match its pictures; it stays as it was.
        """
        images = images or []
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": question}]
        messages = [*self._messages, {"role": "user", "content": content}]
        seen = _joined(self._seen, self._session.see(images))
        tokens = self._session.prompt.encode(self._session.prompt.render(messages))
        check_pictures(tokens, len(seen.get("image_embeds", ())), self._session.contract.geometry)
        state, logits = self._feed(tokens, seen)
        self._messages, self._seen, self._state, self._cached = messages, seen, state, tokens
        yield from self._answer(state, logits, max_new_tokens, sampler)

    def _answer(
        self, state: State, logits: NDArray[Any], max_new_tokens: int, sampler: PickTokens | None
    ) -> Iterator[str]:
        """Generates; whenever the user stops listening, the conversation keeps what was said till then."""
        prompt, said = self._cached, list[int]()
        text = Stream(self._session.prompt)
        try:
            for (token,) in self._session.stream(state, logits, max_new_tokens, sampler):
                self._cached = prompt + said  # asking for a token has fed those before it
                if token in self._session.contract.eos:
                    break
                said.append(int(token))
                yield text.push(said[-1])
            yield text.finish()
        finally:
            answer = self._session.prompt.decode(said).strip()
            self._messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})

    def _feed(self, tokens: list[int], seen: Arrays) -> tuple[State, NDArray[Any]]:
        """Feeds what the cache does not hold yet, or the whole conversation where that is not enough."""
        known = _common(self._cached, tokens[:-1])  # one token at least is fed, for its logits
        rest = tokens[known:]
        geometry, split = self._session.contract.geometry, self._session.contract.split
        new = rest.count(geometry.image_token_id)
        # A split decoder prunes pictures in prefill only, and a pruned cache cannot be shortened.
        if self._state is None or (split and (new or known < len(self._cached))):
            return self._session.start([tokens], [tokens.count(geometry.image_token_id)], seen)
        state = self._state
        if not split:
            state = state.cut(1 + geometry.rows(tokens[:known]), geometry.advance(tokens[:known]))
        return state, self._session.extend(state, [rest], [new], _last(seen, new))


def _common(old: Sequence[int], new: Sequence[int]) -> int:
    """Counts the tokens that two lists begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _joined(old: Arrays, new: Arrays) -> Arrays:
    if not old or not new:
        return old or new
    return {name: np.concatenate([old[name], new[name]]) for name in old}


def _last(seen: Arrays, count: int) -> Arrays:
    """Takes the outputs of the last pictures."""
    return {name: array[len(array) - count :] for name, array in seen.items()} if count else {}
