"""Shape ranges of every part's dynamic axes, for builders that want them: from the contract alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engines.errors import UserError
from engines.forms import whole
from engines.registry import Profile

Range = tuple[int, int, int]
Axes = Sequence[int | str]  # numbers are static, names dynamic; `past+tokens` is a sum
Shapes = Mapping[str, Axes]  # of a part's inputs, by name


@dataclass(frozen=True)
class Limits:
    """The most that engines take.

    Attributes:
        batch: sequences, or pictures, at once.
        length: slots of a cache, and rows of a prompt.
        tokens: rows that one picture takes in a prompt.
        images: pictures of a prompt where the decoder is cut.
        fixed: slots of a cache that was cut alone, however short the prompt was: as many more fit in.
    """

    batch: int
    length: int
    tokens: int
    images: int
    fixed: int = 0

    @classmethod
    def of(cls, raw: Mapping[str, object]) -> "Limits":
        """The `limits` of bundle.json.

        Raises:
            ValueError: one is missing, or no whole number.
        """
        least = {"batch": 1, "length": 1, "tokens": 0, "images": 0, "fixed": 0}
        return cls(**{key: whole(raw, key, low) for key, low in least.items()})

    def within(self, batch: int | None, length: int | None) -> "Limits":
        """Narrower ones, for a smaller engine; None leaves a limit as it is.

        Raises:
            UserError: a wish that the bundle was not exported for.
        """
        for option, given, least, most in (
            ("--max-batch", batch, 1, self.batch),
            ("--max-length", length, self.shortest, self.length),
        ):
            if given is not None and not least <= given <= most:
                raise UserError(f"{option} {given}: engines of this bundle take {least} to {most}")
        return replace(self, batch=batch or self.batch, length=length or self.length)

    @property
    def varying(self) -> "Limits":
        """With a batch that varies: over one that does not, compilers fail in some graphs with loops."""
        return replace(self, batch=max(2, self.batch))

    @property
    def prompt(self) -> int:
        """A usual prompt: one image and forty words."""
        return min(self.length, self.tokens + 40)

    @property
    def shortest(self) -> int:
        """The least cache that is of use: all pictures and a word behind them."""
        return min(self.length, max(1, self.images) * self.tokens + 1)


def profiles(part: str, inputs: Shapes, limits: Limits) -> list[Profile]:
    """One profile, or two for parts that read the prompt and single tokens: prompt first, then step.

    No profile has an empty past: a zero dimension crashes builders, so the first call passes one masked slot.
    """
    longest, usual = limits.length, limits.prompt
    cached = (1, usual, longest + limits.fixed)
    if part not in {"decoder", "decode"}:
        shortest = limits.images * limits.tokens + 1 if part.startswith("prefill") else 1
        return [_profile(inputs, limits, tokens=(shortest, max(shortest, usual), longest), past=cached)]
    room = _room(inputs, longest)
    prompt = _profile(inputs, limits, tokens=(1, min(usual, room), min(longest, room)), past=(1, 1, cached[2]))
    step = _profile(inputs, limits, tokens=(1, 1, 1), past=cached)
    return [prompt, step]


def _room(inputs: Shapes, longest: int) -> int:
    """Most rows that one call may write: the slots of the smallest cache of constant length, where there is one."""
    slots = (axes[2] for name, axes in inputs.items() if name.startswith("past_key_values."))
    return min((size for size in slots if isinstance(size, int)), default=longest)


def _profile(inputs: Shapes, limits: Limits, tokens: Range, past: Range) -> Profile:
    pictures = limits.batch * max(1, limits.images)
    rows = pictures * limits.tokens
    ranges: Mapping[str, Range] = {
        "rows": (1, limits.tokens, rows),
        "words": (1, 40, limits.length),
        "segments": (1, 1, 8),
        "batch": (1, 1, limits.batch),
        "tokens": tokens,
        "past": past,
        "slots": past,  # of states
    }
    return {name: _ranged(axes, ranges) for name, axes in inputs.items() if any(isinstance(s, str) for s in axes)}


def _ranged(axes: Axes, ranges: Mapping[str, Range]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    low, usual, high = zip(*(_axis(size, ranges) for size in axes), strict=True)
    return low, usual, high


def _axis(size: int | str, ranges: Mapping[str, Range]) -> Range:
    """A static size, an axis, or a sum of both; `past.1` is a `past`."""
    if isinstance(size, int) or size.isdigit():
        return int(size), int(size), int(size)
    if "+" not in size:
        return ranges[size.split(".")[0]]
    parts = [_axis(part, ranges) for part in size.split("+")]
    return sum(p[0] for p in parts), sum(p[1] for p in parts), sum(p[2] for p in parts)
