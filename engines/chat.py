"""One conversation, which is one episode: every turn feeds only what the cache does not hold yet."""

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from engines.geometry import Seen
from engines.kv import State
from engines.sampling import PickTokens
from engines.scorer import Scorer
from engines.session import Session
from engines.stream import Stream
from engines.videos import Picture, Video

Message = dict[str, Any]


class Chat:
    """A conversation with one model.

    Args:
        session: The model's parts.
        scorer: Says how much each frame of a video bears on a question, for methods that ask.
    """

    def __init__(self, session: Session, scorer: Scorer | None = None) -> None:
        self._session, self._scorer = session, scorer
        self._messages: list[Message] = []
        self._seen: Seen = []  # of all pictures so far, in order
        self._cached: list[int] = []  # the tokens in the state, a placeholder once per picture
        self._state: State | None = None
        session.reset()

    def ask(
        self,
        question: str,
        pictures: Sequence[Picture] = (),
        max_new_tokens: int = 128,
        sampler: PickTokens | None = None,
    ) -> Iterator[str]:
        """Asks a question and yields the answer piece by piece, while it is generated.

        Args:
            question: What the user says.
            pictures: New images and videos that come before it; earlier ones stay in the conversation.
            max_new_tokens: Most tokens of the answer.
            sampler: Picks tokens; greedy if not given.

        Raises:
            UserError: The conversation is too long, or does not match its pictures; it stays as it was.
        """
        pictures = [self._scored(picture, question) for picture in pictures]
        content = [{"type": "video" if isinstance(picture, Video) else "image"} for picture in pictures]
        messages = [*self._messages, {"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        tokens = self._session.prompt.encode(self._session.prompt.render(messages))
        count = len(pictures)
        seen = [*self._seen, *self._session.see(pictures, [tokens] * count, [question] * count)]
        self._session.contract.geometry.check(tokens, seen)
        state, logits = self._feed(tokens, seen)
        self._messages, self._seen, self._state, self._cached = messages, seen, state, tokens
        yield from self._answer(state, logits, max_new_tokens, sampler)

    def _scored(self, picture: Picture, question: str) -> Picture:
        if self._scorer is None or not isinstance(picture, Video):
            return picture
        forms = self._session.contract.geometry.forms
        return self._scorer.scored(picture, question, max(form.views for form in forms if form.kind == "video"))

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

    def _feed(self, tokens: list[int], seen: Seen) -> tuple[State, NDArray[Any]]:
        """Feeds what the cache does not hold yet, or the whole conversation where that is not enough."""
        known = _common(self._cached, tokens[:-1])  # one token at least is fed, for its logits
        geometry, split = self._session.contract.geometry, self._session.contract.split
        if split and split.above is not None and known < len(self._cached):
            known = self._told(tokens)  # evicted caches go on, whatever the template makes of what was said
        rest = tokens[known:]
        new = len(geometry.places(rest))
        # A split decoder prunes pictures in prefill only, and a pruned cache cannot be shortened.
        shorter = known < len(self._cached) and (split is None or split.above is None)
        if self._state is None or (split and (new or shorter)):
            return self._session.start([tokens], [len(seen)], seen)
        state, old = self._state, len(seen) - new
        if not split:
            slots, positions = geometry.extent(tokens[:known], seen[:old])
            state = state.cut(1 + slots, positions)
        return state, self._session.extend(state, [rest], [new], seen[old:])

    def _told(self, tokens: list[int]) -> int:
        """How many tokens of a conversation stand before its last question."""
        prompt = self._session.prompt
        before = prompt.encode(prompt.render(self._messages, add_generation_prompt=False)) if self._messages else []
        return _common(before, tokens[:-1])


def _common(old: Sequence[int], new: Sequence[int]) -> int:
    """Counts the tokens that two lists begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
