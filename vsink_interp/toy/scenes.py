"""Procedural scenes with exact object masks; numpy and Pillow only.

A scene is 64 x 64 pixels: two to five small objects of distinct colours on a textured, noisy
background. Each object fills about one 8 x 8 patch, in one of 3 x 3 regions. Everything follows
from the seed; training draws seeds from `TRAINING_SEED` on, so all seeds below it are held out.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from .language import BACKGROUNDS, COLORS, SHAPES, Question, SceneObject, ask, describe

SIZE: Final = 64
PATCH: Final = 8
TRAINING_SEED: Final = 1_000_000
# Patch rows (or columns) 2 and 5 stay free: no object lies between two of the nine regions.
REGION_PATCHES: Final = ((0, 1), (3, 4), (6, 7))
_COUNTS: Final = ((2, 3, 4, 5), (0.15, 0.25, 0.3, 0.3))
_GROUNDS: Final = {
    "grass": (70, 105, 60),
    "sand": (175, 155, 115),
    "water": (75, 105, 135),
    "brick": (130, 85, 75),
    "stone": (125, 125, 125),
    "night": (30, 30, 45),
}


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """An image and everything that is true of it."""

    seed: int
    _: KW_ONLY
    image: Image.Image
    objects: tuple[SceneObject, ...]
    masks: Bool[np.ndarray, "object height width"]
    background: str
    caption: str
    questions: tuple[Question, ...]

    def __repr__(self) -> str:
        return f"Scene(seed={self.seed}, {self.caption!r})"

    def _repr_html_(self) -> str:
        from ..plot.notebook import scene_html

        return scene_html(self)

    def patch_masks(self, grid: int | tuple[int, int] = 8) -> Bool[np.ndarray, "object patch"]:
        """Which patches hold a pixel of which object, patches in raster order.

        **Arguments:**

        - `grid`: rows and columns of patches, one number if they are equal.

        **Returns:** one row of patches for each object; `~patch_masks().any(0)` is the background.
        """
        rows, columns = (grid, grid) if isinstance(grid, int) else grid
        count, height, width = self.masks.shape
        if height % rows or width % columns:
            raise ValueError(f"a grid of {rows} x {columns} does not divide {height} x {width} px")
        tiles = self.masks.reshape(count, rows, height // rows, columns, width // columns)
        return tiles.any(axis=(2, 4)).reshape(count, rows * columns)


def _noise(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, "..."]:
    return rng.standard_normal(shape, dtype=np.float32)


def _texture(rng: np.random.Generator, name: str) -> Float[np.ndarray, "height width"]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    phase, grain = rng.random(2) * 2 * np.pi, _noise(rng, SIZE, SIZE)
    match name:
        case "grass":
            return 12 * np.sin(x * 1.9 + phase[0] + 0.8 * np.sin(y * 0.5)) + 6 * grain
        case "sand":
            return 9 * grain + 5 * np.sin(0.15 * x + 0.2 * y + phase[0])
        case "water":
            return 14 * np.sin(y * 0.7 + 0.6 * np.sin(x * 0.25 + phase[0]) + phase[1]) + 3 * grain
        case "brick":
            rows = (y + int(phase[0] * 2)) // 6
            mortar = ((y + int(phase[0] * 2)) % 6 < 1) | ((x + 6 * (rows % 2)) % 12 < 1)
            return np.where(mortar, 28.0, 0.0).astype(np.float32) + 4 * grain
        case "stone":
            coarse = np.kron(_noise(rng, SIZE // 4, SIZE // 4), np.ones((4, 4), np.float32))
            return 12 * coarse + 5 * grain
        case _:
            return np.where(grain > 2.4, 110.0, 3 * grain).astype(np.float32)


def paint_background(
    rng: np.random.Generator, name: str
) -> Float[np.ndarray, "height width channel"]:
    """A textured background under slanting light."""
    base = np.asarray(_GROUNDS[name], np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
    slope = rng.uniform(-0.25, 0.25, 2)
    y, x = np.mgrid[0:SIZE, 0:SIZE] - SIZE / 2
    light = (slope[0] * y + slope[1] * x).astype(np.float32) + _texture(rng, name)
    return base + light[..., None]


def outline(shape: str, centre: tuple[float, float], radius: float) -> Bool[np.ndarray, "y x"]:
    """The pixels of a shape; a pixel belongs to it if its middle does."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    right, down = x - centre[0], y - centre[1]
    across, along = np.abs(right), np.abs(down)
    match shape:
        case "square":
            inside = np.maximum(across, along) <= radius * 0.9
        case "circle":
            inside = across**2 + along**2 <= radius**2
        case "triangle":
            inside = (along <= radius) & (across <= (down + radius) / 2)
        case "diamond":
            inside = across + along <= radius
        case _:
            inside = (np.minimum(across, along) <= radius * 0.3) & (
                np.maximum(across, along) <= radius
            )
    return inside


def _place(rng: np.random.Generator, region: int) -> tuple[float, float]:
    """A centre at most one pixel off the middle of a patch of the region, as (x, y)."""
    row, column = divmod(region, 3)
    patches = (rng.choice(REGION_PATCHES[column]), rng.choice(REGION_PATCHES[row]))
    x, y = (PATCH * patch + PATCH / 2 + float(rng.integers(-1, 2)) for patch in patches)
    return float(x), float(y)


def bounding_box(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what a mask holds; right and bottom out."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def scene(seed: int) -> Scene:
    """Draw the scene of a seed; the same seed gives the same scene everywhere.

    **Arguments:**

    - `seed`: below `TRAINING_SEED` for scenes that the toy LMM has not been trained on.
    """
    rng = np.random.default_rng(seed)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    pixels = paint_background(rng, background)
    count = int(rng.choice(_COUNTS[0], p=_COUNTS[1]))
    regions = np.sort(rng.permutation(9)[:count])
    colors = rng.permutation(list(COLORS))[:count]
    objects, masks = [], []
    for region, color in zip(regions, colors, strict=True):
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        centre = _place(rng, int(region))
        mask = outline(shape, centre, float(rng.uniform(3.6, 4.3)))
        tint = np.asarray(COLORS[str(color)], np.float32) + rng.uniform(-14, 14, 3)
        pixels[mask] = tint
        row, column = divmod(int(region), 3)
        objects.append(SceneObject(str(color), shape, row, column, centre, bounding_box(mask)))
        masks.append(mask)
    pixels = pixels + 4 * _noise(rng, SIZE, SIZE, 3)
    return Scene(
        seed,
        image=Image.fromarray(pixels.clip(0, 255).astype(np.uint8)),
        objects=tuple(objects),
        masks=np.stack(masks),
        background=background,
        caption=describe(objects, background),
        questions=ask(rng, objects, background),
    )
