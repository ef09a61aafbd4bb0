"""Pictures as users have them: PIL images, paths, arrays."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import InputError

Picture: TypeAlias = Image.Image | str | Path | np.ndarray
"""A PIL image, a path, or an array `[height width 3]` of 0 to 255 (or 0 to 1 as floats)."""


def as_picture(picture: Picture) -> Image.Image:
    """Any picture as a PIL image in RGB.

    **Raises:** `InputError` if it is no picture, or its file cannot be read.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if not isinstance(picture, str | Path):
        raise InputError(
            "a picture is a PIL image, a path or an array [height width 3]; got "
            f"{type(picture).__name__}"
        )
    try:
        with Image.open(picture) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise InputError(f"there is no picture at {str(picture)!r}") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"{str(picture)!r} cannot be read as a picture: {error}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InputError(f"a picture array is [height width 3]; got shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError("a picture array of floats holds 0 to 1")
        array = (array * 255).round()
    elif array.min() < 0 or array.max() > 255:
        raise InputError("a picture array of whole numbers holds 0 to 255")
    return Image.fromarray(array.astype(np.uint8))
