"""The kinds of picture that a checkpoint can be exported for: one vision part each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from engines.errors import UserError

Kind = Literal["image", "video", "text"]


@dataclass(frozen=True)
class Asked:
    """What the user said about pictures.

    Attributes:
        input: "image", "video", or None for what the family takes first.
        grids: tile grids, `ROWSxCOLS`; none: all that the checkpoint allows.
        size: picture size, `WIDTHxHEIGHT`; None: the checkpoint's own.
        frames: frames of a video; None: the family's own.
    """

    input: Kind | None = None
    grids: tuple[str, ...] = ()
    size: str | None = None
    frames: int | None = None

    def refuse(self, family: str, *options: str) -> None:
        """Refuse options that this family has no use for.

        Raises:
            UserError: one of them was given.
        """
        given = {"--grid": self.grids, "--image-size": self.size, "--frames": self.frames}
        for option in options:
            if given[option]:
                raise UserError(f"{option}: {family} has no choice there; leave it out")


@dataclass(frozen=True)
class Form:
    """One kind of picture.

    Attributes:
        part: the name of its vision part.
        kind: a picture or a video; "text" where the model reads no pictures.
        size: height and width of one view.
        views: crops or frames that the tower sees one by one.
        tiles: rows and columns of the crops behind the first, which is the whole picture.
    """

    part: str = "vision"
    kind: Kind = "image"
    size: tuple[int, int] = (0, 0)
    views: int = 1
    tiles: tuple[int, int] | None = field(default=None)


def pair(option: str, text: str, most: int = 2**14) -> tuple[int, int]:
    """Two positive numbers written `AxB`.

    Raises:
        UserError: anything else.
    """
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII)
    numbers = tuple(map(int, found.groups())) if found else (0, 0)
    if not all(1 <= number <= most for number in numbers):
        raise UserError(f"{option} {text}: write two numbers from 1 to {most} with an x between, such as 2x2")
    return numbers[0], numbers[1]
