"""Maps as rows: one row a patch, with its place in the image."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from ..tokens import ImageSpan
from .measurements import Row

MOST_WORDS = 6


def map_rows(
    values: Float[np.ndarray, " token"],
    span: ImageSpan,
    image: Image.Image,
    sinks: Bool[np.ndarray, " token"] | None,
    labels: Mapping[str, Any],
) -> Iterator[Row]:
    """The patches of the view of the whole image, as shares of its width and height."""
    scale = (image.width, image.height) * 2
    rows, columns = span.grid
    for place, token in enumerate(span.tokens_of()):
        row, column = divmod(place, columns)
        box = span.patch_box(token) if span.box else None
        grid = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        edges = grid if box is None else tuple(e / s for e, s in zip(box, scale, strict=True))
        named = dict(zip(("left", "top", "right", "bottom"), map(_short, edges), strict=True))
        sink = int(bool(sinks[token])) if sinks is not None else 0
        yield {**labels, "patch": place, **named, "sink": sink, "value": float(values[token])}


def _short(edge: float) -> float:
    return round(float(edge), 4)
