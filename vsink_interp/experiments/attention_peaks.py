"""The attention peaks behind `localisation`: where rows that name an object attend in the image."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float

from ..edits import Knockout
from ..errors import InputError, NotationError, unknown
from ..graph import EditGraph
from ..metrics import Canvas
from ..metrics.localisation import Point
from ..model import LMM, digest, fingerprint, graph_key
from ..probes import AttentionMaps, SinkValue
from ..results import Run
from .answers import naming_rows
from .depth import pattern_layers
from .object_masks import ObjectMasks

KEYS: Final = ("image", "image & ~sink")
"""Which image tokens count: all, or all except the layer's visual sinks."""

NAMING_ROWS: Final = ("predicts", "token")
"""Which row is taken as the attention of a token: the one that predicts it, or its own."""

DIRECT: Final = Knockout("image -> generated")
"""The cut under which objects that need direct access to the image are no longer named; it is
made in every layer that has a pattern."""


@final
@dataclass(frozen=True)
class Way:
    """The settings of a measurement: everything that peaks depend on, except model and objects.

    **Attributes:**

    - `keys`, `row`, `only_direct`, `max_new_tokens`: as `localisation` takes them.
    - `graph`: edits that act during the answers.
    - `layers`: the layers.
    - `upsample`, `views`: how attention is laid over the image.

    **Raises:** `NotationError` listing the valid keys and rows.
    """

    keys: tuple[str, ...]
    layers: tuple[int, ...]
    row: str = "predicts"
    _: KW_ONLY
    graph: EditGraph
    upsample: str
    views: str
    only_direct: bool
    max_new_tokens: int

    def __post_init__(self) -> None:
        for key in self.keys or ("",):
            if key not in KEYS:
                raise NotationError(unknown("group of keys here", key, KEYS))
        if self.row not in NAMING_ROWS:
            raise NotationError(unknown("row", self.row, NAMING_ROWS))

    @property
    def without_sinks(self) -> bool:
        """Whether the model's sinks must be known."""
        return "image & ~sink" in self.keys

    @property
    def maps(self) -> AttentionMaps:
        """The probe of attention."""
        return AttentionMaps(layers=self.layers)

    @property
    def phi(self) -> SinkValue:
        """The probe of sinks."""
        return SinkValue("image", self.layers)


@final
@dataclass(frozen=True, eq=False)
class SharedCanvas:
    """One image with one prompt, and all objects to find in it.

    **Attributes:**

    - `places`: their indices among all objects.
    - `objects`: the objects.
    - `canvas`: the image, with the pixels that each image token covers.
    """

    places: tuple[int, ...]
    objects: tuple[ObjectMasks, ...]
    canvas: Canvas


def grouped(lmm: LMM, located: Sequence[ObjectMasks], way: Way) -> list[SharedCanvas]:
    """Group objects by image and prompt, in order of first occurrence."""
    if not located:
        raise InputError("localisation needs at least one ObjectMasks object")
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(located):
        groups.setdefault(digest([([one.image], one.prompt)]), []).append(place)
    found = []
    for places in groups.values():
        first = located[places[0]]
        span = lmm.encode(first.image, first.prompt).layout.images[0][0]
        canvas = Canvas(span, first.image.size, way.upsample, way.views)
        found.append(SharedCanvas(tuple(places), tuple(located[place] for place in places), canvas))
    return found


def measure(lmm: LMM, asked: Sequence[SharedCanvas], way: Way) -> list[dict[str, Any]]:
    """For each image: the answer, the peaks of the objects that it names, and which are direct.

    An object is direct if it is no longer named when generated tokens cannot see the image.
    """
    graph = way.graph | way.maps
    run = _answer(lmm, asked, graph | way.phi if way.without_sinks else graph, way)
    direct = replace(DIRECT, layers=pattern_layers(lmm))
    cut = _answer(lmm, asked, way.graph | direct, way) if way.only_direct else None
    return [
        {
            "answer": run.text[sample],
            "cut": None if cut is None else cut.text[sample],
            "peaks": _peaks(lmm, run, sample, one, way),
            "direct": [
                cut is not None and not naming_rows(lmm, cut, thing.words, sample)
                for thing in one.objects
            ],
        }
        for sample, one in enumerate(asked)
    ]


def _answer(lmm: LMM, asked: Sequence[SharedCanvas], graph: EditGraph, way: Way) -> Run:
    images = [one.objects[0].image for one in asked]
    prompts = [one.objects[0].prompt for one in asked]
    return lmm.generate(images, prompts, graph, max_new_tokens=way.max_new_tokens)


def _map(
    lmm: LMM, run: Run, sample: int, thing: ObjectMasks, way: Way
) -> Float[np.ndarray, "layer token"] | None:
    """Attention of the rows that name an object to each image token; None if it is not named."""
    record, later = run.of(way.maps, "image[0]"), way.row == "token"
    named = naming_rows(lmm, run, thing.words, sample)
    positions = {run.answer_rows[row] + later for row in named} & {*record.labels("query")}
    wanted = record.places("query", sorted(positions))
    if not wanted:
        return None
    size = run.layout.images[sample][0].size
    return record.values[:, sample, wanted, :size].double().mean(1).numpy()


def _sinks(lmm: LMM, run: Run, sample: int, way: Way) -> Bool[np.ndarray, "layer token"] | None:
    if not way.without_sinks:
        return None
    size = run.layout.images[sample][0].size
    phi = run.of(way.phi, "image[0]").values[:, sample, :size]
    return (phi >= lmm.sinks.tau).numpy()


def _peaks(
    lmm: LMM, run: Run, sample: int, asked: SharedCanvas, way: Way
) -> list[dict[str, list[Point | None]] | None]:
    """Per object, the peak at each layer for each of the keys; None if it is not named."""
    sinks = _sinks(lmm, run, sample, way)
    found: list[dict[str, list[Point | None]] | None] = []
    for thing in asked.objects:
        maps = _map(lmm, run, sample, thing, way)
        if maps is None:
            found.append(None)
            continue
        kept = {"image": maps, "image & ~sink": maps if sinks is None else maps * ~sinks}
        found.append({key: [asked.canvas.peak(row) for row in kept[key]] for key in way.keys})
    return found


def log_about(lmm: LMM, asked: Sequence[SharedCanvas], way: Way) -> dict[str, Any]:
    """What a log of peaks is about."""
    shown = digest(
        ([one.objects[0].image], (one.objects[0].prompt, [thing.words for thing in one.objects]))
        for one in asked
    )
    asks = way.without_sinks or any(node.needs_sinks for node in way.graph)
    sinks = [list(lmm.sinks.dims), lmm.sinks.tau] if asks else None
    asked_for = repr(replace(way, graph=EditGraph()))
    about = {"images": shown, "way": asked_for, "graph": graph_key(way.graph), "sinks": sinks}
    return {**about, **fingerprint(lmm)}
