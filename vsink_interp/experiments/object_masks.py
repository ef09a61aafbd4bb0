"""`ObjectMasks`: objects with known masks, against which localisation is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from PIL.Image import Image

from ..errors import InputError
from ..model import as_image
from ..results.result import OneLine
from ..toy import Scene, scene
from ..toy.language import DESCRIBE


@final
@dataclass(frozen=True, eq=False, repr=False)
class ObjectMasks(OneLine):
    """An object in an image: the words by which an answer may name it, and its mask.

    ```python
    thing = ex.ObjectMasks(image, prompt, "red circle", mask)     # boolean [height width]
    thing.words, ex.ObjectMasks.scenes(2)[0].words
    ```

    **Arguments:**

    - `image`: one image: a PIL image, a path or an array; kept as a PIL image.
    - `prompt`: the prompt about the image.
    - `words`: the object's name, one word or more, as in `"red circle"`.
    - `mask`: boolean `[height width]`: the object's pixels, for instance from a segmentation
        model.

    **Raises:** `InputError` if the mask does not fit the image, has no pixel, or is not boolean.
    """

    image: Any
    prompt: str
    words: str
    mask: np.ndarray

    def __post_init__(self) -> None:
        if isinstance(self.image, list | tuple) or self.image is None:
            raise InputError("ObjectMasks takes one object in one image; give that image")
        object.__setattr__(self, "image", as_image(self.image))
        if not self.words.strip():
            raise InputError("ObjectMasks needs words by which to find the object in the answer")
        _check(self.mask, self.image)

    @classmethod
    def scenes(
        cls, count: int, first_seed: int = 0, *, draw: Callable[[int], Scene] = scene
    ) -> "tuple[ObjectMasks, ...]":
        """All objects of toy scenes from seed `first_seed` on, to be named in a description.

        **Arguments:**

        - `draw`: makes the scene of a seed; `toy.scene`, or one with another background.
        """
        drawn = [draw(first_seed + i) for i in range(count)]
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
