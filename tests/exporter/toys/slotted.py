"""As evictor, in a layer more; a token's position is the number of its slot."""

from dataclasses import dataclass

from tests.exporter.toys.evictor import Evictor


@dataclass(frozen=True)
class Slotted(Evictor):
    positions = "slot"
    layers = (0, 1, 2)


METHOD = Slotted
