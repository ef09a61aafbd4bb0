"""Images from PIL images, paths or arrays."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

ImageInput: TypeAlias = Image.Image | str | Path | np.ndarray
"""A PIL image, a path, or an array `[height width 3]` of 0 to 255 (or 0 to 1 as floats)."""


def as_image(image: ImageInput) -> Image.Image:
    """Convert any image to a PIL image in RGB.

    **Raises:** `InputError` if it is not an image, or its file cannot be read.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if not isinstance(image, str | Path):
        raise InputError(
            "an image is a PIL image, a path or an array [height width 3]; got "
            f"{type(image).__name__}"
        )
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {str(image)!r}") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{str(image)!r} cannot be read as an image: {error}") from error


def as_images(entry: Any) -> list[Image.Image]:
    """The images of one prompt, given as an image, a list of images, or None."""
    if entry is None:
        return []
    many = entry if isinstance(entry, list | tuple) else [entry]
    return [as_image(image) for image in many]


def digest(cases: Iterable[tuple[Sequence[Image.Image], object]]) -> str:
    """A short name for images and what is asked about them, the same in every process."""
    found = sha256()
    for images, asked in cases:
        found.update(str(asked).encode())
        for image in images:
            found.update(repr((image.mode, image.size)).encode() + image.tobytes())
    return found.hexdigest()[:16]


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(f"an image array is [height width 3]; got shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError("an image array of floats holds 0 to 1")
        array = (array * 255).round()
    elif array.min() < 0 or array.max() > 255:
        raise InputError("an image array of whole numbers holds 0 to 255")
    return Image.fromarray(array.astype(np.uint8))
