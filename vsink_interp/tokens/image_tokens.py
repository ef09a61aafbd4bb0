"""The image tokens of one image: their grids, and the pixels that each token covers."""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, final

from ..errors import LayoutError

Box: TypeAlias = tuple[float | int, float | int, float | int, float | int]
"""Left, top, right, bottom in pixels of the original image; may extend into padding."""

GridPlace: TypeAlias = tuple[int, int, int]
"""View, row and column of an image token."""


@final
@dataclass(frozen=True)
class View:
    """One view of an image: a rectangle of image tokens in raster order.

    ```python
    tile = vi.View((12, 12), box=(0, 0, 336, 336), newline=True)
    tile.size                                                 # 12 x 12 patches, and 12 newlines
    ```

    **Attributes:**

    - `grid`: rows and columns of image tokens.
    - `box`: the part of the image that they cover; None if unknown.
    - `newline`: whether each row ends with a token that is not a patch.
    - `tail`: how many non-patch tokens follow the last row.
    - `head`: how many non-patch tokens precede the first row: the CLS token of some towers.
    """

    grid: tuple[int, int]
    box: Box | None = None
    newline: bool = False
    tail: int = 0
    head: int = 0

    @property
    def size(self) -> int:
        """The number of tokens, newlines included."""
        return self.head + self.grid[0] * (self.grid[1] + self.newline) + self.tail

    def patch_box(self, row: int, column: int) -> Box | None:
        """The pixels that one patch covers."""
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        width, height = (right - left) / self.grid[1], (bottom - top) / self.grid[0]
        return (
            left + column * width,
            top + row * height,
            left + (column + 1) * width,
            top + (row + 1) * height,
        )


@final
@dataclass(frozen=True)
class ImageSpan:
    """One image of a prompt: its image tokens in order, and the pixels that they cover.

    ```python
    span = lmm.encode(image, prompt).layout.images[0][0]
    span.grid, span.size, span.places[9]                      # token 9: view, row and column
    ```

    **Attributes:**

    - `grid`: rows and columns of the view that shows the whole image.
    - `box`: the part of the original image that this view covers; None if unknown.
    - `views`: all views in token order, if there are several (tiles, a thumbnail) or if some
        tokens are not patches; `ImageSpan.of` makes a span from views.
    """

    grid: tuple[int, int]
    box: Box | None = None
    views: tuple[View, ...] = ()

    @classmethod
    def of(cls, views: tuple[View, ...], whole: int = 0) -> "ImageSpan":
        """The image with these views, of which number `whole` shows the whole image."""
        return cls(views[whole].grid, views[whole].box, views)

    def __str__(self) -> str:
        """The grids, as in `24x24` or `12*16x16+16x16`."""
        runs: list[list] = []
        for view in self.parts:
            text = f"{view.grid[0]}x{view.grid[1]}"
            if runs and runs[-1][0] == text:
                runs[-1][1] += 1
            else:
                runs.append([text, 1])
        return "+".join(text if n == 1 else f"{n}*{text}" for text, n in runs)

    @property
    def parts(self) -> tuple[View, ...]:
        """All views in token order."""
        return self.views or (View(self.grid, self.box),)

    @property
    def size(self) -> int:
        """The number of image tokens, newline tokens included."""
        return sum(view.size for view in self.parts)

    @property
    def whole(self) -> int:
        """The index of the view that shows the whole image, whose `grid` and `box` the span has."""
        return [(view.grid, view.box) for view in self.parts].index((self.grid, self.box))

    @property
    def places(self) -> tuple[GridPlace | None, ...]:
        """View, row and column of every image token; None for one that is not a patch."""
        return _places(self.parts)

    def tokens_of(self, view: int | None = None) -> tuple[int, ...]:
        """The image tokens of one view in raster order; by default, the view of the whole image.

        They are indices into this image's tokens; values at them, reshaped to `grid`, are a map.

        **Raises:** `LayoutError` if there is no such view.
        """
        wanted = self.whole if view is None else view
        if not 0 <= wanted < len(self.parts):
            raise LayoutError(f"no view {wanted}: this image has views 0 to {len(self.parts) - 1}")
        return tuple(i for i, place in enumerate(self.places) if place and place[0] == wanted)

    def patch_box(self, patch: int) -> Box:
        """The pixels that image token number `patch` covers: left, top, right, bottom.

        **Raises:** `LayoutError` if there is no such token, if it is not a patch, or if its place
        in the image is unknown.
        """
        if not 0 <= patch < self.size:
            raise LayoutError(
                f"no box for patch {patch}: this image has patches 0 to {self.size - 1}"
            )
        place = self.places[patch]
        if place is None:
            raise LayoutError(
                f"no box for token {patch} of this image: it is not a patch, but the end of a row "
                "or a token for the whole image"
            )
        box = self.parts[place[0]].patch_box(*place[1:])
        if box is None:
            raise LayoutError(f"no box for patch {patch}: its place in the image is not known")
        return box

    def tokens_in(self, box: Box) -> tuple[int, ...]:
        """The image tokens, of all views, that cover any part of a box of pixels.

        **Raises:** `LayoutError` if it is unknown where the tokens lie in the image.
        """
        left, top, right, bottom = box
        found = []
        for token, place in enumerate(self.places):
            if place is None:
                continue
            x0, y0, x1, y1 = self.patch_box(token)
            if x0 < right and left < x1 and y0 < bottom and top < y1:
                found.append(token)
        return tuple(found)

    def tokens_at(self, x: float | int, y: float | int) -> tuple[int, ...]:
        """The image tokens that cover a pixel: one in each view that shows it."""
        return self.tokens_in((x, y, x + 1e-6, y + 1e-6))


@lru_cache(maxsize=256)
def _places(views: tuple[View, ...]) -> tuple[GridPlace | None, ...]:
    found: list[GridPlace | None] = []
    for number, view in enumerate(views):
        rows, columns = view.grid
        found += [None] * view.head
        for row in range(rows):
            found += [(number, row, column) for column in range(columns)]
            found += [None] * view.newline
        found += [None] * view.tail
    return tuple(found)
