"""Where a map over image tokens peaks in an image, and how far that is from an object.

Kaduri et al. (2025), figures 6 and 7: attention to the image tokens is upsampled to the image,
and its peak is a hit if it lies on the object's mask, or at most 40 pixels beside it. Distances are
in pixels of the image, between middles of pixels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, final

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import LayoutError, NotationError, unknown
from ..tokens import Box, ImageSpan

UPSAMPLE: Final = ("bilinear", "nearest")
"""How the values of patches become values of pixels."""

VIEWS: Final = ("all", "whole")
"""Which views of an image count: all of them, or the one that shows the whole image."""

Point: TypeAlias = tuple[int, int]
"""Column and row of a pixel."""

Z_95: Final = 1.959963984540054


def axis_weights(
    pixels: int, start: float | int, stop: float | int, cells: int, upsample: str
) -> Float[np.ndarray, "pixel cell"]:
    """What each cell of a row of cells gives to each pixel of a side of the image.

    **Arguments:**

    - `start`, `stop`: what the cells cover, in pixels; pixels with their middle beside it get
        nothing, and their weights sum to 0 instead of 1.
    - `upsample`: `"bilinear"` interpolates between the middles of cells, as image libraries do,
        and keeps the last value beyond the outermost ones; `"nearest"` takes the cell that a pixel
        lies in.
    """
    middles = np.arange(pixels) + 0.5
    inside = (middles >= start) & (middles < stop)
    place = (middles - start) / (stop - start) * cells
    if upsample == "bilinear":
        place = (place - 0.5).clip(0, cells - 1)
        rise = 1 - np.abs(place[:, None] - np.arange(cells))
        return rise.clip(0) * inside[:, None]
    nearest = np.floor(place).clip(0, cells - 1)
    return ((nearest[:, None] == np.arange(cells)) & inside[:, None]).astype(float)


@final
@dataclass(frozen=True, eq=False)
class Canvas:
    """An image onto which values of its image tokens are laid.

    **Arguments:**

    - `span`: the image tokens, and the pixels that they cover.
    - `size`: width and height of the image.
    - `upsample`: how patches become pixels.
    - `views`: `"all"` lays every view of the image over the others, each token's value spread
        over the pixels that it covers; `"whole"` takes the view that shows the whole image.
        The same where there is one view. Tokens that are no patches lie nowhere.

    **Raises:** `LayoutError` if the place of the tokens in the image is not known.
    """

    span: ImageSpan
    size: tuple[int, int]
    upsample: str = "bilinear"
    views: str = "all"

    def __post_init__(self) -> None:
        for what, word, known in (
            ("upsample", self.upsample, UPSAMPLE),
            ("views", self.views, VIEWS),
        ):
            if word not in known:
                raise NotationError(unknown(what, word, known))
        for view in {self.span.whole, *self.shown}:
            self._box(view)

    @property
    def shown(self) -> tuple[int, ...]:
        """The numbers of the views that count."""
        return tuple(range(len(self.span.parts))) if self.views == "all" else (self.span.whole,)

    @property
    def token_side(self) -> float:
        """The side of a square as large as one patch of the whole view, in pixels."""
        (left, top, right, bottom), (rows, columns) = self._box(self.span.whole), self.span.grid
        return math.sqrt((right - left) * (bottom - top) / (rows * columns))

    @property
    def seen(self) -> Bool[np.ndarray, "height width"]:
        """The pixels that some image token covers; a processor may crop the others away."""
        covered = [self._weights(view) for view in self.shown]
        return np.logical_or.reduce([np.outer(y.any(1), x.any(1)) for y, x in covered])

    def lay(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, "height width"]:
        """The values of all image tokens as values of pixels; 0 where no token lies.

        A value is divided by the pixels that its patch covers, relative to a patch of the whole
        view: what is laid out is a density, and finer tiles are not favoured or slighted.
        """
        laid = np.zeros(self.size[::-1])
        for view in self.shown:
            left, top, right, bottom = self._box(view)
            rows, columns = self.span.parts[view].grid
            patch = (right - left) * (bottom - top) / (rows * columns)
            grid = values[list(self.span.tokens_of(view))].reshape(rows, columns)
            y, x = self._weights(view)
            laid += y @ grid @ x.T * (self.token_side**2 / patch)
        return laid

    def peak(self, values: Float[np.ndarray, " token"]) -> Point | None:
        """The pixel where the laid out values are largest; None if all values are the same.

        Of several equally large pixels (those of a whole patch with `upsample="nearest"`, those on
        the outer side of a patch at the border with `"bilinear"`) it is the one nearest to the
        middle of its patch.
        """
        used = values[[token for view in self.shown for token in self.span.tokens_of(view)]]
        seen = self.seen
        if not seen.any() or used.max() == used.min():
            return None
        laid = np.where(seen, self.lay(values), -np.inf)
        y, x = np.nonzero(laid == laid.max())
        best = int(self._off_middle(x, y).argmin())
        return int(x[best]), int(y[best])

    def _off_middle(
        self, x: Int[np.ndarray, " pixel"], y: Int[np.ndarray, " pixel"]
    ) -> Float[np.ndarray, " pixel"]:
        """Squared pixels to the middle of the patch that a pixel lies in, summed over views."""
        found = np.zeros(len(x))
        for view in self.shown:
            left, top, right, bottom = self._box(view)
            rows, columns = self.span.parts[view].grid
            for place, start, patch in (
                (x, left, (right - left) / columns),
                (y, top, (bottom - top) / rows),
            ):
                found += ((place + 0.5 - start) % patch - patch / 2) ** 2
        return found

    def _box(self, view: int) -> Box:
        box = self.span.parts[view].box
        if box is None:
            raise LayoutError(f"which part of the image view {view} shows is not known")
        return box

    def _weights(
        self, view: int
    ) -> tuple[Float[np.ndarray, "height row"], Float[np.ndarray, "width column"]]:
        return _weights(self._box(view), self.span.parts[view].grid, self.size, self.upsample)


@lru_cache(maxsize=64)
def _weights(
    box: Box, grid: tuple[int, int], size: tuple[int, int], upsample: str
) -> tuple[Float[np.ndarray, "height row"], Float[np.ndarray, "width column"]]:
    left, top, right, bottom = box
    return (
        axis_weights(size[1], top, bottom, grid[0], upsample),
        axis_weights(size[0], left, right, grid[1], upsample),
    )


def distance_to(mask: Bool[np.ndarray, "height width"], point: Point | None) -> float:
    """Pixels between a pixel and the nearest pixel of a mask: 0 on it, infinite without a point."""
    if point is None or not mask.any():
        return math.inf
    y, x = np.nonzero(mask)
    return math.sqrt(float(((x - point[0]) ** 2 + (y - point[1]) ** 2).min()))


def dilated(
    mask: Bool[np.ndarray, "height width"], tolerance: float | int
) -> Bool[np.ndarray, "height width"]:
    """The pixels that lie at most `tolerance` pixels from a mask."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    count = np.zeros((height, width + 1), int)
    count[:, 1:] = mask.cumsum(1)
    for down in range(min(int(tolerance), height - 1) + 1):
        reach = int(math.sqrt(tolerance**2 - down**2) + 1e-9)
        stop = (np.arange(width) + reach + 1).clip(max=width)
        near = count[:, stop] > count[:, (np.arange(width) - reach).clip(0)]
        found[down:] |= near[: height - down]
        found[: height - down] |= near[down:]
    return found


def chance(
    mask: Bool[np.ndarray, "height width"],
    seen: Bool[np.ndarray, "height width"],
    tolerance: float | int,
) -> float:
    """How often a random pixel that the model sees is a hit: the share of the dilated mask."""
    return float(dilated(mask, tolerance)[seen].mean()) if seen.any() else 0.0


def wilson(
    hits: Float[np.ndarray, "*rates"], n: int
) -> tuple[Float[np.ndarray, "*rates"], Float[np.ndarray, "*rates"]]:
    """Wilson's interval (1927) of a share, at 95 %: lower and upper bounds.

    **Arguments:**

    - `hits`: how many of `n` independent trials were hits.
    """
    share = hits / n
    middle = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * np.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return (middle - half).clip(0, 1), (middle + half).clip(0, 1)
