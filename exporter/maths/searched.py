"""The scalars that VFlowOpt's authors searched for, and what lies between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from exporter.budget import Budget

SHARES = re.compile(r"(\d(\.\d{0,18})?|\.\d{1,18})(,(\d(\.\d{0,18})?|\.\d{1,18}))*", re.ASCII)
LAYERS, DEPTH = (9, 18), 28  # of the decoder; counted from 1, cut behind


@dataclass(frozen=True)
class Scalars:
    """t, m, r_v and rho of one budget, see `exporter.methods.vflowopt`."""

    t: float
    m: float
    r_v: float
    rho: tuple[float, ...]


TABLE = {
    "10%": Scalars(39.265, 17.387, 0.11662, (1.0, 0.6011)),
    "25%": Scalars(34.760, 15.581, 0.26510, (0.98334, 0.87733)),
    "50%": Scalars(28.683, 11.757, 0.72332, (0.74875, 0.487)),
}
ENDS = {0.0: TABLE["10%"], 1.0: Scalars(28.683, 11.757, 1.0, (1.0, 1.0))}


def scalars(tokens: int, keep: int) -> Scalars:
    """For pictures of so many tokens of which `keep` are to be there, as a mean over the decoder's layers.

    The authors' own at their shares. Elsewhere t, m and rho on straight lines between these (and to rho = 1 at all
    tokens; below 10% as at 10%), and the r_v that makes the mean what is asked for.
    """
    for share, found in TABLE.items():
        if Budget(share).count(tokens) == keep:
            return found
    wanted = keep / tokens
    rows = sorted({**ENDS, **{float(share.rstrip("%")) / 100: row for share, row in TABLE.items()}}.items())
    (low, a), (high, b) = next((one, two) for one, two in pairwise(rows) if wanted <= two[0])
    way = (wanted - low) / (high - low)
    rho = tuple(x + way * (y - x) for x, y in zip(a.rho, b.rho, strict=True))
    first, second = LAYERS
    mean = (first + (second - first) * rho[0] + (DEPTH - second) * rho[0] * rho[1]) / DEPTH
    return Scalars(a.t + way * (b.t - a.t), a.m + way * (b.m - a.m), min(1.0, wanted / mean), rho)


def shares(name: str, text: str) -> tuple[float, ...]:
    """The shares of `text`, such as `0.9,0.5`; none if it is empty.

    Raises:
        ValueError: no list of numbers above 0 and up to 1.
    """
    found = tuple(map(float, text.split(","))) if SHARES.fullmatch(text) else ()
    if (text and not found) or not all(0 < share <= 1 for share in found):
        raise ValueError(f"{name} {text} is no list of shares from 0 to 1, such as 0.9,0.5")
    return found
