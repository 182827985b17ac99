"""Feeds prompts to the decoder, be it one part or split into prefill and decode, and keeps to its limits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import kv
from engines.errors import UserError
from engines.geometry import Ints, Seen
from engines.kv import State
from engines.layout import Layout, lay_out
from engines.parts import Parts
from engines.split import Split
from engines.states import Episode

Tokens = Sequence[Sequence[int]]


class Decoder:
    """The decoder of a bundle.

    Args:
        parts: The bundle's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self.contract = parts.contract
        self._parts = parts
        self.reset()

    def reset(self, *, warmed: bool = False) -> None:
        """Ends the episode: tensors that live from request to request begin anew.

        Args:
            warmed: The next one begins as if the requests were over that are read without cuts.
        """
        split = self.contract.split
        self._episode = Episode(split.states, split.warm_up if warmed else 0) if split else Episode()

    def start(self, prompts: Tokens, counts: Sequence[int], seen: Seen) -> tuple[State, NDArray[Any]]:
        """Starts a batch of sequences.

        Args:
            prompts: Token ids of each; one placeholder per picture.
            counts: How many pictures each has.
            seen: What `Sight.see` returned for all of them.

        Returns:
            The cache, and the logits [B, V] of what follows each prompt.

        Raises:
            UserError: A prompt does not match its pictures or is too long, or there are too many.
        """
        if len(prompts) > self.contract.max_batch:
            raise UserError(f"{len(prompts)} prompts at once, the export allows {self.contract.max_batch}")
        if self.contract.split:
            return self._prefill(self.contract.split, prompts, counts, seen)
        state = kv.empty(self.contract, len(prompts), self._parts.float)
        return state, self.extend(state, prompts, counts, seen)

    def _prefill(self, split: Split, prompts: Tokens, counts: Sequence[int], seen: Seen) -> tuple[State, NDArray[Any]]:
        spans = 0 if split.whole or not split.tokens else self.contract.images
        layout, live = self._lay_out(prompts, counts, seen, spans), self._episode.joined(len(prompts))
        reader = split.reader(layout.mask.shape[1], self._episode.requests)
        if reader.whole:
            layout = layout.padded(reader.tokens, self.contract.geometry.filler)
        self._check_room(layout, 0, np.zeros((len(prompts), 1), np.int64))
        feeds = {
            "inputs_embeds": self._parts.embed(layout.input_ids, seen),
            "attention_mask": layout.mask,
            "position_ids": layout.offsets,
            "span_starts": layout.span_starts,
            **self._parts.carried(reader.part, counts, seen),
            **live.feeds(),
        }
        outputs = self._parts.run(reader.part, feeds)
        state = kv.from_prefill(self.contract, outputs, self._parts.float, layout.mask.shape[1], live)
        self._episode.passed(live)
        return state, outputs["logits"][:, 0]

    def extend(
        self, state: State, tokens: Tokens, counts: Sequence[int] | None = None, seen: Seen | None = None
    ) -> NDArray[Any]:
        """Feeds new tokens behind the cached ones; pictures only where the decoder is one part.

        Several tokens are a new turn of a conversation, before which a part may evict some of the cache.

        Args:
            state: The cache; it takes the tokens in.
            tokens: New token ids of each sequence, at least one.
            counts: Pictures among them; none if not given.
            seen: What `Sight.see` returned for them.

        Returns:
            [B, V]: the logits of what follows.

        Raises:
            UserError: As `start`.
        """
        if self.contract.split and any(counts or ()):
            raise UserError("this bundle prunes pictures in prefill only: start again with the new picture")
        layout = self._lay_out(tokens, counts or [0] * len(tokens), seen or [])
        after = self._evicted(state) if layout.mask.shape[1] > 1 else state
        self._check_room(layout, after.slots, after.positions)
        feeds = {"inputs_embeds": self._parts.embed(layout.input_ids, seen or []), **after.feeds(layout)}
        outputs = self._parts.run("decode" if self.contract.split else "decoder", feeds)
        after.absorb(outputs, layout)
        vars(state).update(vars(after))
        return outputs["logits"][:, 0]

    def _evicted(self, state: State) -> State:
        """What is left of a cache before a new turn."""
        split = self.contract.split
        if split is None or split.above is None or state.slots <= split.above:
            return state
        return state.evicted(self._parts.run("evict", state.cached()))

    def _lay_out(self, tokens: Tokens, counts: Sequence[int], seen: Seen, spans: int = 0) -> Layout:
        assert len(seen) == sum(counts)
        ends = np.cumsum(counts).tolist()
        pictures = [seen[end - count : end] for end, count in zip(ends, counts, strict=True)]
        return lay_out(tokens, pictures, self.contract.geometry, spans)

    def room(self, slots: int, positions: Ints) -> int:
        """Counts the tokens that fit behind the given slots and positions."""
        return min(self.contract.max_length - slots, self.contract.max_positions - int(positions.max()))

    def _check_room(self, layout: Layout, slots: int, positions: Ints) -> None:
        after = slots + layout.mask.shape[1], positions + layout.advance[:, None]
        if self.room(*after) < 0:
            raise UserError(
                f"too long: {layout.mask.shape[1]} rows, {self.room(slots, positions)} are left of "
                f"{min(self.contract.max_length, self.contract.max_positions)}: shorten the prompt"
            )
