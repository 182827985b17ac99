"""Cuts one behind another in the decoder: behind which layers, and what each leaves of a span."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from engines.errors import UserError
from exporter.budget import Budget
from exporter.maths.counts import counts
from exporter.maths.depths import at_depth, shrunk
from exporter.reducer import Shape

DEPTH = 32  # layers of the authors' decoder
RATIOS = re.compile(r"(\d(\.\d{0,9})?|\.\d{1,9})(,(\d(\.\d{0,9})?|\.\d{1,9}))*", re.ASCII)


@dataclass(frozen=True)
class Staircase:
    """Layers, counted from 1, and the share of a span left behind each.

    `placed`: the layers are the user's, of this decoder; else the authors', of one with `DEPTH`. `shared`: so are the
    shares, and --keep is not read; else the last one is --keep, and those before it fall as the authors' do.
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    placed: bool
    shared: bool

    def behind(self, name: str, shape: Shape) -> tuple[int, ...]:
        """The layers, 0-based; see the function."""
        return behind(name, self.layers, shape, placed=self.placed)

    def cuts(self, name: str, shape: Shape, budget: Budget) -> dict[int, int]:
        """Tokens left behind each layer, 0-based, that loses any.

        Raises:
            UserError: the decoder is too shallow, or the budget wrong.
        """
        now = shape.tokens
        left, keep = [max(1, int(now * ratio)) for ratio in self.ratios], budget.count(now)
        if not self.shared:
            left = list(shrunk(now, keep, self.ratios))
        if left[-1] == now:
            return {}
        layers, found = self.behind(name, shape), dict[int, int]()
        for layer, count in zip(layers, left[-len(layers) :], strict=True):
            if count < now:
                found[layer] = now = count
        return found


def staircase(layers: str, ratios: str, own: tuple[int, ...], shares: tuple[float, ...]) -> Staircase:
    """From the parameters `layers` and `ratios`, lists or empty; `own` and `shares` are the authors'.

    Raises:
        ValueError: no such list, layers that do not rise, shares that rise or are not in (0, 1], or lists of
            different length.
    """
    places, left = places_of(layers), shares_of(ratios)
    found = Staircase(places or own, left or shares, bool(places), bool(left))
    if len(found.layers) != len(found.ratios):
        raise ValueError(f"{len(found.layers)} layers and {len(found.ratios)} ratios: give as many of both")
    return found


def behind(name: str, layers: tuple[int, ...], shape: Shape, *, placed: bool) -> tuple[int, ...]:
    """Layers counted from 1 as 0-based ones, at the same share of the depth unless `placed`.

    In a shallow decoder the first ones are left out.

    Raises:
        UserError: the decoder is too shallow.
    """
    own = tuple(layer - 1 for layer in layers)
    found = own if placed else at_depth(own, DEPTH, shape.decoder_layers)
    if not found or found[-1] > shape.decoder_layers - 2:
        raise UserError(
            f"--method {name}: cannot cut behind layers {','.join(map(str, layers))} of {shape.decoder_layers}; "
            "give --param layers= up to the last but one"
        )
    return found


def places_of(text: str) -> tuple[int, ...]:
    """The layers of `text`, counted from 1, such as `8,16,24`; none if it is empty.

    Raises:
        ValueError: anything else, or they do not rise.
    """
    found = counts("layers", text)
    if not rising((0, *found)):
        raise ValueError(f"layers {text} do not rise from 1 on")
    return found


def rising(numbers: tuple[int, ...]) -> bool:
    """Whether each is more than the one before."""
    return all(a < b for a, b in pairwise(numbers))


def shares_of(text: str) -> tuple[float, ...]:
    """The shares of `text`, such as `0.5,0.25`; none if it is empty.

    Raises:
        ValueError: anything else, or shares that rise or are not in (0, 1].
    """
    found = tuple(map(float, text.split(","))) if RATIOS.fullmatch(text) else ()
    if (text and not found) or any(not 0 < a <= 1 for a in found) or any(a < b for a, b in pairwise(found)):
        raise ValueError(f"ratios {text} are no shares that fall, such as 0.5,0.25")
    return found
