"""What the viewer shows, taken from a run: maps over patches as bytes, words, images, boxes."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from ..errors import ResultError
from ..metrics import content_places
from ..probes import AttentionMaps, Contribution, LogitLens, Pattern, SegmentMass, SinkValue
from ..results import Recorded, Run
from ..tokens import ImageSpan
from .words import ShownWord, by_word, shown_words

SIDE: Final = 1024
"""The longest side of an image in the page, in pixels."""


def packed(values: Float[np.ndarray, "..."]) -> dict[str, Any]:
    """Values from 0 on as bytes: the square root of their share of the largest one, deflated.

    The square root keeps small values apart: the smallest step is a 65,025th of the largest.
    """
    clean = np.nan_to_num(np.asarray(values, np.float32)).clip(0)
    top = float(clean.max()) if clean.size else 0.0
    steps = np.sqrt(clean / (top or 1.0)) * 255
    content = zlib.compress(np.rint(steps).astype(np.uint8).tobytes(), 6)
    return {
        "shape": list(clean.shape),
        "top": top,
        "bytes": base64.b64encode(content).decode("ascii"),
    }


def payload(
    runs: Sequence[tuple[str, Run]], images: Sequence[Image.Image] | None, title: str
) -> dict[str, Any]:
    """What the viewer shows of one run, or of the same answer before and after an edit.

    **Raises:** `ResultError` for a batch, for a run without attention maps, for a probe that lacks
    layers or rows of these maps, and for runs of different tokens or probes.
    """
    first = runs[0][1]
    for name, run in runs:
        _check(name, run, first)
    spans = first.layout.images[0]
    panels = [
        _panel(span, number, view, images)
        for number, span in enumerate(spans)
        for view in range(len(span.parts))
    ]
    maps = first[_node(first, AttentionMaps)]
    shown = {axis: maps.labels(axis) for axis in ("layer", "query")}
    words = shown_words(first, shown["query"])
    rows = _rows(words)
    tau = first.tau if _node(first, SinkValue) is not None else None
    probes = {"attention": "attention (share)"}
    if tau is not None:
        probes["phi"] = "sink value phi"
    if _node(first, Contribution) is not None:
        probes["contribution"] = "contribution (norm)"
    lens = _lens(first, spans, shown)
    if lens:
        probes["lens"] = "lens words"
    return {
        "title": title,
        "layers": list(shown["layer"]),
        "rows": rows,
        "start": _start(rows),
        "panels": panels,
        "probes": probes,
        "sinks": tau,
        "arms": [{"name": name, **_arm(run, spans, words, shown)} for name, run in runs],
        "lens": lens or None,
    }


def _check(name: str, run: Run, first: Run) -> None:
    if run.layout.batch != 1:
        raise ResultError("the viewer shows one prompt; run the samples of a batch one by one")
    if _node(run, AttentionMaps) is None:
        raise ResultError(
            f"the run {name!r} has no attention maps: record probes.AttentionMaps(), and "
            "probes.SinkValue() to see sinks"
        )
    if run.ids.shape != first.ids.shape or bool((run.ids != first.ids).any()):
        raise ResultError(
            f"the run {name!r} has other tokens than the first; feed the first answer back: "
            "lmm.run(encoding.with_answer(run), graph=edit | probes)"
        )
    for kind in (AttentionMaps, SinkValue, Contribution, Pattern, SegmentMass):
        if _nodes(run, kind) != _nodes(first, kind):
            raise ResultError(
                f"the run {name!r} has other probes than the first ({kind.__name__}): record both "
                "with the same, as viewer.view_probes() gives them"
            )


def _nodes(run: Run, kind: type) -> list[Any]:
    return [node for node in run.graph if isinstance(node, kind)]


def _node(run: Run, kind: type) -> Any:
    return next(iter(_nodes(run, kind)), None)


def _rows(words: Sequence[ShownWord]) -> list[dict[str, Any]]:
    return [{"text": word.text, "kind": word.kind} for word in words]


def _start(rows: Sequence[dict[str, Any]]) -> int:
    """The first word of the answer that is no function word."""
    answer = [i for i, row in enumerate(rows) if row["kind"] == "answer"]
    told = content_places([rows[i]["text"] for i in answer])
    return answer[told[0]] if told else 0


def _panel(
    span: ImageSpan, number: int, view: int, images: Sequence[Image.Image] | None
) -> dict[str, Any]:
    """One view of an image: its picture, and where its patches lie, as shares of its sides."""
    part = span.parts[view]
    rows, columns = part.grid
    image = None if images is None else images[number]
    width, height = (columns * 14, rows * 14) if image is None else image.size
    boxes = []
    for row in range(rows):
        for column in range(columns):
            box = part.patch_box(row, column) if image is not None else None
            if box is None:
                box = (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
            else:
                box = tuple(e / s for e, s in zip(box, (width, height) * 2, strict=True))
            boxes.append([round(float(edge), 4) for edge in box])
    several = f", view {view}" if len(span.parts) > 1 else ""
    return {
        "name": f"image {number}{several} ({rows} x {columns})",
        "width": width,
        "height": height,
        "boxes": boxes,
        "src": None if image is None else _source(image),
    }


def _source(image: Image.Image) -> str:
    shown = image.convert("RGB")
    shown.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    kind = "PNG" if max(shown.size) <= 256 else "JPEG"
    shown.save(buffer, format=kind, **({} if kind == "PNG" else {"quality": 88}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _arm(
    run: Run, spans: Sequence[ImageSpan], words: Sequence[ShownWord], shown: Mapping[str, Any]
) -> dict[str, Any]:
    """Every stack of one run, panel by panel, at the layers and rows that are shown."""

    def by_words(probe: Any, **shown: Any) -> list[np.ndarray]:
        return [by_word(values, words, -2) for values in _panels(run, probe, spans, shown)]

    maps, phi, norms = (_node(run, kind) for kind in (AttentionMaps, SinkValue, Contribution))
    found: dict[str, Any] = {
        "attention": [packed(v) for v in by_words(maps, **shown)],
        "mass": packed(by_word(_mass(run, maps, shown), words, -1)),
        "heads": {},
    }
    if phi is not None:
        found["phi"] = [packed(v) for v in _panels(run, phi, spans, shown)]
    if norms is not None:
        found["contribution"] = [packed(v) for v in by_words(norms, **shown)]
    for pattern in _nodes(run, Pattern):
        by_panel = by_words(pattern, query=shown["query"])
        for place, layer in enumerate(run[pattern].labels("layer")):
            found["heads"][str(layer)] = [packed(values[place]) for values in by_panel]
    return found


def _panels(
    run: Run, probe: Any, spans: Sequence[ImageSpan], shown: Mapping[str, Any]
) -> list[np.ndarray]:
    """A record at the patches of every view of every image, the patches last.

    **Raises:** `ResultError` if it lacks layers or rows that are shown.
    """
    found = []
    for number, span in enumerate(spans):
        record = _taken(run.of(probe, f"image[{number}]"), shown)
        axes = [axis for axis in record.axes if axis != "batch"]
        values = record.values.float().movedim(record.axes.index("batch"), 0)[0].numpy()
        values = np.moveaxis(values, axes.index("token"), -1)
        found += [values[..., list(span.tokens_of(view))] for view in range(len(span.parts))]
    return found


def _taken(record: Recorded, shown: Mapping[str, Any]) -> Recorded:
    """The layers and rows of a record that are shown, in their order."""
    for axis in record.axes:
        if axis in shown and record.labels(axis) != shown[axis]:
            record = record.taken(axis, shown[axis])
    return record


def _mass(run: Run, maps: Any, shown: Mapping[str, Any]) -> Float[np.ndarray, "layer head query"]:
    """Attention to the image of every row: by layer and head, or by layer alone."""
    shares = _node(run, SegmentMass)
    if shares is not None and "image" in shares.groups:
        record = run[shares].at(segment="image")
        if all({*shown[axis]} <= {*record.labels(axis)} for axis in shown):
            return _taken(record, shown).values[:, 0].float().numpy()
    values = np.nansum(_taken(run[maps], shown).values[:, 0].float().numpy(), -1)
    return values[:, None]


def _lens(run: Run, spans: Sequence[ImageSpan], shown: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The likeliest word at every layer and patch, panel by panel; none without a lens."""
    probe, found = _node(run, LogitLens), []
    for number, span in enumerate(spans if probe is not None else ()):
        record = run.of(run[probe, "word"], f"image[{number}]")
        top = _taken(record, {"layer": shown["layer"]}).words[:, 0, :, 0]
        found += [_coded(top[:, list(span.tokens_of(view))]) for view in range(len(span.parts))]
    return found


def _coded(words: np.ndarray) -> dict[str, Any]:
    """Words as places in the list of those that occur."""
    vocabulary, places = np.unique(words.astype(str), return_inverse=True)
    told = [word.strip() or "␣" for word in vocabulary.tolist()]
    return {"vocabulary": told, "words": places.reshape(words.shape).tolist()}
