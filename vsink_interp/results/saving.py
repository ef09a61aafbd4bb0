"""Layouts and records as what files can hold: tensors, and JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..tokens import Box, ImageSpan, TokenLayout, View
from .recorded import Recorded


def layout_parts(layout: TokenLayout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A layout, split into tensors and JSON values."""
    tensors = {
        "segments": layout.segments,
        "image_index": layout.image_index,
        "roles": layout.roles,
    }
    if layout.separators is not None:
        tensors["separators"] = layout.separators
    if layout.turns is not None:
        tensors["turns"] = layout.turns
    tensors |= {f"mark.{i}": mask for i, (_, mask) in enumerate(layout.marks)}
    return tensors, {
        "marks": [word for word, _ in layout.marks],
        "prompt_length": layout.prompt_length,
        "n_given": layout.n_given,
        "images": [[_saved(span) for span in row] for row in layout.images],
        "sight": layout.sight,
        "digests": layout.digests,
        "windows": layout.windows,
        "frames": layout.frames,
    }


def layout_from(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TokenLayout:
    """The layout that `layout_parts` split."""
    images = tuple(tuple(_span(*saved) for saved in row) for row in meta["images"])
    return TokenLayout(
        tensors["segments"],
        tensors["image_index"],
        tensors["roles"],
        images,
        meta["prompt_length"],
        tensors.get("separators"),
        meta.get("sight", "causal"),
        tuple(meta.get("digests", ())),
        n_given=meta.get("n_given", 0),
        windows=tuple(meta.get("windows", ())),
        turns=tensors.get("turns"),
        frames=tuple(map(tuple, meta.get("frames", ()))),
        marks=tuple((word, tensors[f"mark.{i}"]) for i, word in enumerate(meta.get("marks", ()))),
    )


def _saved(span: ImageSpan) -> list[Any]:
    views = [[*v.grid, v.box, v.newline, v.tail, *[v.head] * bool(v.head)] for v in span.views]
    return [*span.grid, span.box, views]


def _span(rows: int, columns: int, box: list[float] | None, views: Sequence[Any] = ()) -> ImageSpan:
    """A saved image; earlier versions wrote no views."""
    found = tuple(View((r, c), _box(b), *others) for r, c, b, *others in views)
    return ImageSpan((rows, columns), _box(box), found)


def _box(saved: list[float] | None) -> Box | None:
    return None if saved is None else (saved[0], saved[1], saved[2], saved[3])


def record_tensors(records: Mapping[str, Recorded]) -> dict[str, Tensor]:
    """The tensors of records, numbered in their order."""
    values = {f"record.{i}": record.values for i, record in enumerate(records.values())}
    counts = {f"counts.{i}": record.counts for i, record in enumerate(records.values())}
    return values | {name: each for name, each in counts.items() if each is not None}


def record_parts(records: Mapping[str, Recorded]) -> list[list[Any]]:
    """Name, axes and labels of records, and what the ids of words mean."""
    return [
        [name, r.axes, dict(r.coords), *([] if r.vocabulary is None else [[*r.vocabulary.items()]])]
        for name, r in records.items()
    ]


def records_from(saved: Sequence[Any], tensors: Mapping[str, Tensor]) -> dict[str, Recorded]:
    """Records from their tensors, and from the name, axes and labels of each."""
    return {
        name: Recorded(
            tensors[f"record.{i}"],
            tuple(axes),
            {axis: tuple(labels) for axis, labels in coords.items()},
            tensors.get(f"counts.{i}"),
            dict(vocabulary[0]) if vocabulary else None,
        )
        for i, (name, axes, coords, *vocabulary) in enumerate(saved)
    }
