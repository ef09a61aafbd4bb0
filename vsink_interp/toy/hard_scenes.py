"""Scenes that the toy LMM has not seen and finds hard: more, smaller and partly hidden objects.

Ordinary scenes are answered almost without error, so nothing could help there. These follow from
their seed as well, and their truth is as exact.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool
from PIL import Image

from .language import BACKGROUNDS, COLORS, SHAPES, SceneObject, ask, describe
from .scenes import PATCH, REGION_PATCHES, SIZE, Scene, bounding_box, outline, paint_background

_STREAM: Final = 0xBE7C4  # apart from the random numbers of ordinary scenes
_COUNTS: Final = (4, 5)
_RADII: Final = (2.6, 4.2)
_HIDDEN: Final = 0.35
"""How much of an object, at most, lies behind a strip of background."""


def hard_scene(seed: int) -> Scene:
    """Draw the hard scene of a seed: four or five objects, many of them smaller.

    Half of the objects are partly hidden behind a strip of background, and tints and noise vary
    more than in `scene`. Masks are of the visible pixels.

    **Arguments:**

    - `seed`: any whole number from 0; none of these scenes was trained on.
    """
    rng = np.random.default_rng([_STREAM, seed])
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    ground = paint_background(rng, background)
    pixels = ground.copy()
    count = int(rng.choice(_COUNTS))
    regions = np.sort(rng.permutation(9)[:count])
    colors = rng.permutation(list(COLORS))[:count]
    objects, masks = [], []
    for region, color in zip(regions.tolist(), colors.tolist(), strict=True):
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        row, column = divmod(region, 3)
        centre = (_near(rng, column), _near(rng, row))
        whole = outline(shape, centre, float(rng.uniform(*_RADII)))
        mask = whole & ~_strip(rng, whole)
        pixels[mask] = np.asarray(COLORS[color], np.float32) + rng.uniform(-25, 25, 3)
        objects.append(SceneObject(color, shape, row, column, centre, bounding_box(mask)))
        masks.append(mask)
    pixels = pixels + 6 * rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    return Scene(
        seed,
        image=Image.fromarray(pixels.clip(0, 255).astype(np.uint8)),
        objects=tuple(objects),
        masks=np.stack(masks),
        background=background,
        caption=describe(objects, background),
        questions=ask(rng, objects, background),
    )


def _near(rng: np.random.Generator, third: int) -> float:
    """A coordinate at most one pixel off the middle of a patch, in one of the three regions."""
    patch = int(rng.choice(REGION_PATCHES[third]))
    return PATCH * patch + PATCH / 2 + float(rng.integers(-1, 2))


def _strip(rng: np.random.Generator, whole: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """A strip over one side of a shape, in half of the cases."""
    left, top, right, bottom = bounding_box(whole)
    hidden = np.zeros_like(whole)
    if rng.random() < 0.5:
        share = rng.uniform(0.2, _HIDDEN)
        if rng.random() < 0.5:
            hidden[:, left : left + max(1, round(share * (right - left)))] = True
        else:
            hidden[top : top + max(1, round(share * (bottom - top)))] = True
    return hidden
