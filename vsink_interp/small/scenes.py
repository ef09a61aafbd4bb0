"""The toy's scenes on photographs: crops, colour noise and clutter on background pixels only.

Objects, captions and questions are those of `toy.scene` with the same seed. Photographs come from
the wheel of scikit-image: only those that it says are CC0 or in the public domain.
"""

from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float
from PIL import Image

from ..errors import CapabilityError
from ..toy.scenes import SIZE, Scene, scene

PHOTOS: Final = {
    "astronaut.png": "NASA, public domain",
    "brick.png": "CC0Textures, CC0",
    "camera.png": "Lav Varshney, CC0",
    "chelsea.png": "Stefan van der Walt, CC0",
    "coffee.png": "Rachel Michetti, CC0",
    "grass.png": "linolafett (OpenGameArt), CC0",
    "gravel.png": "CC0Textures, CC0",
    "hubble_deep_field.jpg": "NASA, public domain",
    "rocket.jpg": "SpaceX, public domain",
}
"""File and licence, as the docstrings of `skimage.data` state them."""
_STREAM: Final = 0x5CA1E  # apart from the random numbers of the plain scenes
_MIXED: Final = 0.85
"""The share of scenes that have a photograph; the others are plain."""

Photo: TypeAlias = Float[np.ndarray, "_ _ channel"]


def photographs() -> tuple[Photo, ...]:
    """The photographs, 0 to 255, shrunk by up to a half.

    **Raises:** `CapabilityError` if scikit-image is not installed.
    """
    try:
        wheel = metadata.distribution("scikit-image")
    except metadata.PackageNotFoundError as error:
        raise CapabilityError(
            "training and evaluation take their photographs from scikit-image: "
            "`pip install --no-deps scikit-image`"
        ) from error
    files = [Path(str(wheel.locate_file(f"skimage/data/{name}"))) for name in PHOTOS]
    return tuple(np.asarray(Image.open(f).convert("RGB").reduce(2), np.float32) for f in files)


def photo_scene(seed: int, photos: tuple[Photo, ...], *, always: bool = False) -> Scene:
    """The scene of a seed, a crop of a photograph mixed into its background.

    The crop's luminance is scaled to a standard deviation of 10 to 32 and a quarter of its chroma
    is kept, so that the background stays the one that the caption names.

    **Arguments:**

    - `seed`: as for `toy.scene`.
    - `photos`: from `photographs()`.
    - `always`: every scene, not only 85 of 100.
    """
    plain = scene(seed)
    rng = np.random.default_rng([_STREAM, seed])
    if rng.random() >= _MIXED and not always:
        return plain
    pixels = np.asarray(plain.image, np.float32)
    behind = pixels + _crop(rng, photos) + rng.normal(0, rng.uniform(0, 8), (SIZE, SIZE, 3))
    behind = _cluttered(rng, behind)
    free = ~np.any(plain.masks, axis=0)[..., None]
    mixed = np.where(free, behind, pixels).clip(0, 255).astype(np.uint8)
    return replace(plain, image=Image.fromarray(mixed))


def _crop(rng: np.random.Generator, photos: tuple[Photo, ...]) -> Photo:
    """What a crop adds to the pixels: scaled luminance and some of its chroma."""
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.integers(SIZE, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
    part = photo[top : top + side, left : left + side]
    small = Image.fromarray(part.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BOX)
    crop = np.asarray(small, np.float32)[:, :: int(rng.choice((-1, 1)))]
    grey = crop.mean(-1, keepdims=True)
    chroma = crop - grey
    level = (grey - grey.mean()) / (grey.std() + 4) * rng.uniform(10, 32)
    return level + 0.25 * (chroma - chroma.mean((0, 1)))


def _cluttered(rng: np.random.Generator, pixels: Photo) -> Photo:
    """Specks of one to three pixels, in dull colours near those around them."""
    made = pixels.copy()
    for _ in range(int(rng.integers(0, 16))):
        high, wide = rng.integers(1, 4, 2)
        y, x = int(rng.integers(SIZE - high)), int(rng.integers(SIZE - wide))
        made[y : y + high, x : x + wide] += rng.normal(0, 35, 3)
    return made
