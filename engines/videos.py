"""Videos: an animation or a folder of pictures, opened with care, and the frames that are shown to the model."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from engines.errors import UserError
from engines.images import damage_in_words, open_image, rgb

FORMATS = ("GIF", "PNG", "WEBP")
MOST_FRAMES, MAX_PIXELS = 4096, 2**28  # of all frames together


@dataclass(frozen=True)
class Video:
    """Frames in order of time; `scores` say how much each frame shown bears on the question, for methods that ask."""

    frames: Sequence[Image.Image]
    scores: tuple[float, ...] | None = None

    def sampled(self, count: int) -> list[Image.Image]:
        """So many frames, evenly from the first to the last; some more than once where there are fewer."""
        places = np.linspace(0, len(self.frames) - 1, count).astype(np.int64)
        return [self.frames[place] for place in places]


Picture = Image.Image | Video


def open_video(path: str | Path, most_frames: int = MOST_FRAMES, max_pixels: int = MAX_PIXELS) -> Video:
    """Opens a GIF, WebP or APNG animation, or a folder of pictures in the order of their names, hidden files left out.

    Raises:
        UserError: There is no such thing, it has no frames or too many, or a frame is damaged or no picture.
    """
    path = Path(path)
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"{path}: no such video; name an animation, or a folder of pictures")
    return Video((_folder if path.is_dir() else _animation)(path, most_frames, max_pixels))


def _folder(path: Path, most_frames: int, max_pixels: int) -> list[Image.Image]:
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if not names:
        raise UserError(f"{path}: no pictures in it; a video is an animation, or a folder of pictures")
    frames, pixels = list[Image.Image](), 0
    for name in names:
        _check_size(path, len(names), pixels, most_frames, max_pixels)
        frames.append(open_image(path / name))
        pixels += frames[-1].width * frames[-1].height
    _check_size(path, len(names), pixels, most_frames, max_pixels)
    return frames


def _animation(path: Path, most_frames: int, max_pixels: int) -> list[Image.Image]:
    with warnings.catch_warnings(), damage_in_words(path, FORMATS):
        warnings.simplefilter("ignore")  # Pillow's own size warning: the limit below is checked instead
        with Image.open(path, formats=FORMATS) as image:
            count = getattr(image, "n_frames", 1)
            if count == 1:
                raise UserError(f"{path}: a still picture, not a video; give an animation, or a folder of pictures")
            _check_size(path, count, count * image.width * image.height, most_frames, max_pixels)
            return [_frame(image, number) for number in range(count)]


def _frame(image: Image.Image, number: int) -> Image.Image:
    image.seek(number)
    return rgb(image)


def _check_size(path: Path, frames: int, pixels: int, most_frames: int, max_pixels: int) -> None:
    if frames > most_frames or pixels > max_pixels:
        raise UserError(
            f"{path}: more than {most_frames} frames or {max_pixels / 1e6:.0f} million pixels in all; "
            "leave out frames, or make them smaller"
        )
