"""Perspective: points and flat faces of a street, seen through a pinhole. Used by street.py."""

from dataclasses import dataclass

from pictures.canvas import Color
from PIL import ImageDraw

EYE, FOCAL, CENTRE = 1.7, 900.0, (455, 690)  # metres above the ground, pixels, vanishing point

Point = tuple[float, float, float]


def see(x: float, y: float, z: float) -> tuple[float, float]:
    """Project a point (right, up, ahead; metres) onto the picture."""
    return CENTRE[0] + FOCAL * x / z, CENTRE[1] - FOCAL * (y - EYE) / z


@dataclass(frozen=True)
class Wall:
    """A flat face: a corner and its two sides; marks on it are given in metres along them."""

    corner: Point
    along: Point
    up: Point = (0, 1, 0)

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Project the point u metres along and v metres up."""
        x, y, z = (c + u * a + v * b for c, a, b in zip(self.corner, self.along, self.up, strict=True))
        return see(x, y, z)

    def box(self, pen: ImageDraw.ImageDraw, color: Color, u: float, v: float, size: tuple[float, float]) -> None:
        """Fill a rectangle of the face."""
        du, dv = size
        pen.polygon([self.at(u, v), self.at(u + du, v), self.at(u + du, v + dv), self.at(u, v + dv)], color)


def shade(color: str, light: float) -> Color:
    """Scale a colour '#rrggbb' by a light."""
    return tuple(min(255, int(int(color[i : i + 2], 16) * light)) for i in (1, 3, 5))
