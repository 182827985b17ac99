"""JetPack releases and boards."""

from dataclasses import dataclass

from engines.errors import UserError
from engines.trt.versions import VERSIONS, Version, named

ORIN, THOR = 87, 110  # compute capabilities


@dataclass(frozen=True)
class JetPack:
    """A release: its TensorRT, and the GPUs that it is for.

    Sources: Torch-TensorRT's notes for JetPack 6.1; boards' owners for 7.1 (10.13.3) and 7.2 (10.16); nothing of it was
    run here.
    """

    name: str
    version: Version
    generations: tuple[int, ...]


@dataclass(frozen=True)
class Board:
    """A module: its name, its GPU, and its memory in GiB, which GPU and CPU share."""

    name: str
    sm: int
    memory: int


JETPACKS = {
    each.name: each
    for each in (
        JetPack("6.1", named("10.3"), (ORIN,)),
        JetPack("6.2", named("10.3"), (ORIN,)),
        JetPack("7.0", named("10.13"), (THOR,)),
        JetPack("7.1", named("10.13"), (THOR,)),
        JetPack("7.2", named("10.16"), (ORIN, THOR)),
    )
}
BOARDS = {
    each.name: each
    for each in (
        *(Board(f"orin-{memory}gb", ORIN, memory) for memory in (8, 16, 32, 64)),
        *(Board(f"thor-{memory}gb", THOR, memory) for memory in (64, 128)),
    )
}


def board_for(jetpack: JetPack, name: str | None) -> Board | None:
    """The board of that name, None where none is named.

    Raises:
        UserError: That release is not for it.
    """
    if name is None:
        return None
    board = BOARDS[name]
    if board.sm not in jetpack.generations:
        fitting = [each.name for each in JETPACKS.values() if board.sm in each.generations]
        raise UserError(f"JetPack {jetpack.name} is not for {name}: choose --jetpack {' or '.join(fitting)}")
    return board


def numbers(version: Version) -> tuple[int, int]:
    """The least and the most `100 * major + minor` that the row of a version stands for."""
    later = [row.since for row in VERSIONS if row.since > version.since]
    first, end = version.since, min(later, default=(version.since[0] + 1, 0))
    return _number(first), _number(end) - 1


def _number(pair: tuple[int, int]) -> int:
    return 100 * pair[0] + pair[1]
