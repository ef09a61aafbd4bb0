"""Localisation: where a map over image tokens peaks, and whether that is on an object.

Kaduri et al. (2025), figures 6 and 7: attention to the image tokens is upsampled to the image,
and its peak is a hit if it is on the object's mask or at most 40 pixels away. Distances are in
pixels of the image, between pixel centres.
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
"""How values of patches are interpolated to pixels."""

VIEWS: Final = ("all", "whole")
"""Which views of an image are used: all, or only the one that shows the whole image."""

Point: TypeAlias = tuple[int, int]
"""Column and row of a pixel."""

Z_95: Final = 1.959963984540054


def axis_weights(
    pixels: int, start: float | int, stop: float | int, cells: int, upsample: str
) -> Float[np.ndarray, "pixel cell"]:
    """The weight of each cell of a row of cells in each pixel along one side of the image.

    ```python
    >>> from vsink_interp.metrics import axis_weights
    >>> axis_weights(4, 0, 4, 2, "nearest").tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]

    ```

    **Arguments:**

    - `start`, `stop`: the pixels that the cells cover; for pixels whose centre is outside, the
        weights sum to 0 instead of 1.
    - `upsample`: `"bilinear"` interpolates between cell centres, as image libraries do, and is
        constant beyond the outermost ones; `"nearest"` takes the cell that contains the pixel.
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

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import Canvas
    >>> canvas = Canvas(vi.ImageSpan((2, 2), (0, 0, 56, 56)), size=(56, 56), upsample="nearest")
    >>> canvas.peak(np.array([0.1, 0.6, 0.2, 0.1]))                     # column and row of a pixel
    (41, 13)

    ```

    **Arguments:**

    - `span`: the image tokens, and the pixels that they cover.
    - `size`: width and height of the image.
    - `upsample`: how patch values are interpolated to pixels.
    - `views`: `"all"` adds up all views of the image, each token's value spread over the pixels
        that it covers; `"whole"` takes only the view that shows the whole image. They are equal
        if there is one view. Tokens that are not patches are ignored.

    **Raises:** `LayoutError` if it is unknown where the tokens lie in the image.
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
        """The indices of the views that are used."""
        return tuple(range(len(self.span.parts))) if self.views == "all" else (self.span.whole,)

    @property
    def token_side(self) -> float:
        """The side, in pixels, of a square with the area of one patch of the whole view."""
        (left, top, right, bottom), (rows, columns) = self._box(self.span.whole), self.span.grid
        return math.sqrt((right - left) * (bottom - top) / (rows * columns))

    @property
    def seen(self) -> Bool[np.ndarray, "height width"]:
        """The pixels that some image token covers; a processor may have cropped the others."""
        covered = [self._weights(view) for view in self.shown]
        return np.logical_or.reduce([np.outer(y.any(1), x.any(1)) for y, x in covered])

    def lay(self, values: Float[np.ndarray, " token"]) -> Float[np.ndarray, "height width"]:
        """The values of all image tokens as values of pixels; 0 where there is no token.

        A value is divided by the area of its patch relative to a patch of the whole view, so the
        result is a density, and finer tiles get neither more nor less weight.
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
        """The pixel with the largest value; None if all values are the same.

        Of several equal maxima (a whole patch with `upsample="nearest"`, the outer side of a border
        patch with `"bilinear"`) it is the one nearest to the centre of its patch.
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
        """The squared distance to the centre of a pixel's patch, summed over views."""
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
    """The distance from a pixel to the nearest pixel of a mask: 0 on it, infinite for no pixel.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import distance_to
    >>> distance_to(np.eye(8, dtype=bool), point=(7, 7)), distance_to(np.eye(8, dtype=bool), (7, 0))
    (0.0, 5.0)

    ```
    """
    if point is None or not mask.any():
        return math.inf
    y, x = np.nonzero(mask)
    return math.sqrt(float(((x - point[0]) ** 2 + (y - point[1]) ** 2).min()))


def dilated(
    mask: Bool[np.ndarray, "height width"], tolerance: float | int
) -> Bool[np.ndarray, "height width"]:
    """The pixels at most `tolerance` pixels away from a mask.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import dilated
    >>> dilated(np.arange(6)[None] == 2, tolerance=1).tolist()
    [[False, True, True, True, False, False]]

    ```
    """
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
    """The probability that a random pixel seen by the model is a hit: the dilated mask's share.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import chance
    >>> chance(np.arange(6)[None] == 2, seen=np.ones((1, 6), bool), tolerance=1)
    0.5

    ```
    """
    return float(dilated(mask, tolerance)[seen].mean()) if seen.any() else 0.0


def wilson(
    hits: Float[np.ndarray, "*rates"], n: int
) -> tuple[Float[np.ndarray, "*rates"], Float[np.ndarray, "*rates"]]:
    """The 95% Wilson interval (1927) of a share: lower and upper bound.

    ```python
    >>> import numpy as np
    >>> from vsink_interp.metrics import wilson
    >>> low, high = wilson(np.array([45.0]), n=50)
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.786], [0.957])

    ```

    **Arguments:**

    - `hits`: the number of hits in `n` independent trials.
    """
    share = hits / n
    middle = (share + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * np.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    return (middle - half).clip(0, 1), (middle + half).clip(0, 1)
