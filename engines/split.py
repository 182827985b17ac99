"""How a decoder in two parts is called, as bundle.json says it, with its types made sure of."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.errors import UserError
from engines.forms import LARGEST_ROWS, whole
from engines.profiles import Limits
from engines.states import StateSpec, parse_states

WARM = "prefill.warm"


@dataclass(frozen=True)
class Prefill:
    """A part that reads prompts. Spans are pictures of `tokens` rows; with `whole` a prompt is padded to so many."""

    part: str
    tokens: int
    whole: bool


@dataclass(frozen=True)
class Split:
    """The parts behind the embeddings where they are not one.

    Attributes:
        prefills: What reads prompts, the longest last.
        warm_up: How many requests of an episode `prefill.warm` reads.
        states: Tensors that live from call to call.
        fixed: Groups of layers of whose caches the prompt leaves a constant number of slots, however long it is.
        capacity: Slots of each group's caches where they are static; none where caches grow.
        above: Most slots that are left alone between two turns; None where no part evicts.
    """

    prefills: tuple[Prefill, ...]
    warm_up: int
    states: tuple[StateSpec, ...]
    fixed: frozenset[int]
    capacity: tuple[int, ...]
    above: int | None

    @property
    def parts(self) -> set[str]:
        """Their names."""
        return {each.part for each in self.prefills} | {"decode"} | ({"evict"} if self.above is not None else set())

    @property
    def whole(self) -> bool:
        """Whether prompts are padded to constant lengths."""
        return self.prefills[-1].whole

    @property
    def tokens(self) -> int:
        """Rows of one span: of a picture, or of the longest prompt."""
        return self.prefills[-1].tokens

    def reader(self, rows: int, requests: int) -> Prefill:
        """The part for a prompt of so many rows, behind so many requests of its episode.

        Raises:
            UserError: The prompt is longer than any part takes.
        """
        if not self.whole:
            return self.prefills[0 if requests < self.warm_up else -1]
        for each in self.prefills:
            if rows <= each.tokens:
                return each
        raise UserError(
            f"too long: the prompt takes {rows} rows, this bundle reads at most {self.tokens}: "
            "shorten it, or export with longer --buckets"
        )


def parse_split(raw: Mapping[str, Any], limits: Limits, hidden: int, heads: int) -> Split | None:
    """Takes it out of bundle.json's content; None where the decoder is one part.

    Args:
        raw: The content.
        limits: Of it.
        hidden: Width of one row.
        heads: Numbers in one slot of a layer's keys.

    Raises:
        LookupError, TypeError, ValueError: An entry is missing or wrong.
    """
    warm_up, prefills = whole(raw, "warm_up", 0), tuple(_prefill(entry, hidden) for entry in raw["prefill"])
    if type(raw["slot_positions"]) is not bool:
        raise ValueError(f"slot_positions {raw['slot_positions']!r}")
    capacity = _capacity(raw["kv"], raw["groups"], limits.length, heads)
    above = None if raw["evict"] is None else whole(raw["evict"], "above")
    states = parse_states(raw["states"], limits.batch)
    if not prefills:
        return None
    _check_prefills(prefills, warm_up)
    fixed = frozenset(number for number, group in enumerate(raw["groups"]) if group["fixed"] is not None)
    return Split(prefills, warm_up, states, fixed, capacity, above)


def _prefill(raw: Mapping[str, Any], hidden: int) -> Prefill:
    found = Prefill(raw["part"], whole(raw, "tokens", 0), raw["whole"])
    if not re.fullmatch(r"prefill(\.\w+)?", found.part) or type(found.whole) is not bool:
        raise ValueError(f"prefill {dict(raw)}")
    if found.tokens * hidden > LARGEST_ROWS:
        raise ValueError(f"{found.tokens} x {hidden} numbers for one span")
    return found


def _check_prefills(prefills: Sequence[Prefill], warm_up: int) -> None:
    names, sizes = [each.part for each in prefills], [each.tokens for each in prefills]
    if any(each.whole for each in prefills):
        fits = all(each.whole for each in prefills) and sizes == sorted(set(sizes)) and sizes[0] > 0 and not warm_up
        fits = fits and len(set(names)) == len(names)
    else:
        fits = names == ([WARM, "prefill"] if warm_up else ["prefill"]) and len(set(sizes)) == 1
    if not fits:
        raise ValueError(f"prefill parts {', '.join(names)} of {sizes} tokens, {warm_up} requests to warm up")


def _capacity(raw: Mapping[str, Any], groups: Sequence[Mapping[str, Any]], length: int, heads: int) -> tuple[int, ...]:
    """Slots of each group; caches of constant length are taken from the memory at once."""
    found = tuple(whole({"capacity": each}, "capacity") for each in raw["capacity"])
    if raw["form"] not in {"growing", "static"} or len(found) != (len(groups) if raw["form"] == "static" else 0):
        raise ValueError(f"kv {dict(raw)} of {len(groups)} groups")
    for each, group in zip(found, groups, strict=False):
        if each > length + (group["fixed"] or 0) or each * heads > LARGEST_ROWS:
            raise ValueError(f"capacity {each}")
    return found
