"""Pictures: opened with care, then turned into the very pixels that the checkpoint's processor would make."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from engines.errors import UserError

MAX_PIXELS = 64_000_000
# Formats that Pillow decodes by itself: EPS and the like would start other programs on an untrusted file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What Pillow's decoders raise on damaged files, beside OSError.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError)

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it prints about damage that we report


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture file, upright, as RGB; see-through parts become white, as in the processor.

    Raises:
        UserError: The file is missing, a directory, not a picture, larger than `max_pixels`, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such picture; check the path")
    if not path.is_file():
        raise UserError(f"{path}: not a file; name one picture file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning: the limit below is checked instead
        return _decode(path, max_pixels)


def _decode(path: Path, max_pixels: int) -> Image.Image:
    with damage_in_words(path, FORMATS), Image.open(path, formats=FORMATS) as image:  # reads the header only
        if image.width * image.height > max_pixels:
            raise _too_large(path, max_pixels)
        return rgb(ImageOps.exif_transpose(image))


@contextmanager
def damage_in_words(path: Path, formats: Sequence[str]) -> Iterator[None]:
    """Turns what Pillow raises over a file that is damaged, or in none of the formats, into one line."""
    try:
        yield
    except Image.DecompressionBombError:
        raise _too_large(path, MAX_PIXELS) from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a picture in one of the formats {', '.join(formats)}") from None
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); the file is damaged or incomplete") from None


def _too_large(path: Path, max_pixels: int) -> UserError:
    return UserError(f"{path}: more than {max_pixels / 1e6:g} million pixels; make the picture smaller first")


def rgb(image: Image.Image) -> Image.Image:
    """Returns a picture of its own in RGB, white where it is see-through."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image.copy()
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def visible(image: Image.Image, spec: Mapping[str, Any]) -> Image.Image:
    """Returns the resized and cropped picture that the model sees.

    Args:
        image: Any picture.
        spec: bundle.json's "preprocess": size, crop ([height, width] or null), resample (Pillow's number).

    Raises:
        UserError: The picture is so elongated that resizing its short edge would make it enormous.
    """
    image = rgb(image)
    height, width = _resized(image.height, image.width, spec["size"])
    if height * width > MAX_PIXELS:
        raise UserError(f"a picture of {image.width} x {image.height} is too elongated to resize: crop it first")
    image = image.resize((width, height), resample=spec["resample"])
    if spec["crop"] is None:
        return image
    crop_height, crop_width = spec["crop"]
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))  # fills with black where too small


def _resized(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    if set(size) == {"height", "width"}:
        return size["height"], size["width"]
    if set(size) != {"shortest_edge"}:
        raise UserError(f"preprocess.size {dict(size)}: expected shortest_edge, or height and width")
    edge = size["shortest_edge"]
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def preprocess(image: Image.Image, spec: Mapping[str, Any]) -> NDArray[np.float32]:
    """Turns a picture into pixel values.

    Args:
        image: Any picture.
        spec: bundle.json's "preprocess": as in `visible`, and rescale, mean [3], std [3].

    Returns:
        [3, H, W] float32.

    Raises:
        UserError: As `visible`.
    """
    pixels = np.asarray(visible(image, spec), dtype=np.float64) * spec["rescale"]
    mean, std = np.asarray(spec["mean"], dtype=np.float32), np.asarray(spec["std"], dtype=np.float32)
    # Rounded to float32 before the mean is taken off: this order gives the processor's bits.
    normal = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray(normal.transpose(2, 0, 1))
