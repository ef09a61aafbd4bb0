"""Objects whose place in an image is known: what localisation is measured against."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from PIL.Image import Image

from ..errors import InputError
from ..model import as_image
from ..toy import scene
from ..toy.language import DESCRIBE


@final
@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """An object of an image: the words that an answer may name it by, and where it lies.

    **Arguments:**

    - `image`: one image: a PIL image, a path or an array; kept as a PIL image.
    - `prompt`: what the model is asked about it.
    - `words`: the object's name, one word or more, as in `"red circle"`.
    - `mask`: boolean `[height width]`: the pixels of the image that it fills, for instance by a
        segmentation model.

    **Raises:** `InputError` if the mask does not fit the image, has no pixel, or is not boolean.
    """

    image: Any
    prompt: str
    words: str
    mask: np.ndarray

    def __post_init__(self) -> None:
        if isinstance(self.image, list | tuple) or self.image is None:
            raise InputError("a located object lies in one image; give one, and its mask")
        object.__setattr__(self, "image", as_image(self.image))
        if not self.words.strip():
            raise InputError("a located object needs a name to be found by in the answer")
        _check(self.mask, self.image)

    @classmethod
    def scenes(cls, count: int, first_seed: int = 0) -> "tuple[ObjectMasks, ...]":
        """Every object of the toy scenes of seeds `first_seed` on, to be named in a description."""
        drawn = [scene(first_seed + i) for i in range(count)]
        return tuple(
            cls(one.image, DESCRIBE, thing.name, mask)
            for one in drawn
            for thing, mask in zip(one.objects, one.masks, strict=True)
        )


def _check(mask: np.ndarray, image: Image) -> None:
    expected = image.size[::-1]
    if mask.shape != expected:
        raise InputError(
            f"a mask is [height width] of its image, here {list(expected)}; got "
            f"{list(mask.shape)}. Resize the mask, or take the image that it was made for"
        )
    if mask.dtype != bool:
        raise InputError(f"a mask is boolean; got {mask.dtype}. Write mask > 0.5 or the like")
    if not mask.any():
        raise InputError("a mask without a pixel marks no object")
