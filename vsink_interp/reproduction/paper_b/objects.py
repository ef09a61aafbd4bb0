"""Figures 6 and 7: do words attend to the objects that they name?"""

from collections.abc import Iterator

import numpy as np

from ...errors import LayoutError
from ...experiments import ObjectMasks, localisation, word_maps
from ...experiments.depth import with_pattern
from ...graph import EditGraph
from ...metrics import content_places
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Published, Setup
from ..maps import MOST_WORDS, map_rows
from ..measurements import Measurements, Row
from ..outcomes import higher, shown_only
from ..over_cases import OverCases
from ..sources import by_image, objects

_ABOUT = "InternVL2-76B, layers of 80; secondary source"


def hits(lmm: LMM, found: tuple[ObjectMasks, ...], setup: Setup) -> Iterator[Row]:
    """Whether the attention of a word peaks on the object that it names, layer by layer."""
    del setup
    for case, here in enumerate(by_image(found)):
        try:
            place = localisation(lmm, here, tick=silent)
        except LayoutError:  # the answer names none of them
            continue
        for number in range(len(place.located)):
            chance = float(place.chances[number])
            name = f"{number}: {place.located[number].words}"
            for k, keys in enumerate(place.keys):
                for layer, hit in zip(place.layers, place.hits[k, :, number].tolist(), strict=True):
                    yield {
                        "case": case, "object": name, "keys": keys, "layer": layer,
                        "value": float(hit),
                    }  # fmt: skip
            for layer in place.layers:
                labels = {"case": case, "object": name, "keys": "chance", "layer": layer}
                yield {**labels, "value": chance}


def examples(lmm: LMM, found: tuple[ObjectMasks, ...], setup: Setup) -> Iterator[Row]:
    """Maps of the words of an answer, in an early, a middle and a late layer."""
    del setup
    for case, (one, *_) in enumerate(by_image(found)):
        maps = word_maps(lmm, one.image, one.prompt, graph=EditGraph(), sinks=False, tick=silent)
        for depth in (0.15, 0.5, 0.85):
            (layer,) = with_pattern(lmm, (round(depth * (lmm.n_layers - 1)),))
            for number in content_places(maps.words)[:MOST_WORDS]:
                labels = {"case": case, "layer": layer, "word": f"{number}: {maps.words[number]}"}
                values = maps.by_layer[layer, number]
                yield from map_rows(values, maps.span, maps.image, None, labels)


def _above_chance(found: Measurements) -> Outcome:
    if not found.rows:
        return Outcome(None, "no answer names an object that has a mask")
    rates = {s.group["layer"]: s.mean for s in found.where(keys="image").summary(["layer"])}
    best = max(rates, key=lambda layer: rates[layer])
    low, high = np.quantile(list(rates), [0.25, 0.85])
    place = "middle" if low <= best <= high else "outer"
    above = higher(found, {"keys": "image", "layer": best}, {"keys": "chance", "layer": best})
    return Outcome(above.holds, f"best at layer {best} ({place}): {above.because}")


FIG6 = Entry(
    "B.fig6",
    "where words look that name objects, in three layers",
    "in middle layers, words look at the objects that they name",
    measure=OverCases(examples, quick=2, full=10, at_once=1, source=objects),
    outcome=shown_only,
    figure="maps",
    axes=("word", "layer"),
    unit="attention to the patch (share)",
)
FIG7 = Entry(
    "B.fig7",
    "how often the attention of a word peaks on its object, layer by layer",
    "in some layers words attend to the objects that they name, far more often than by chance",
    measure=OverCases(hits, quick=8, full=80, at_once=4, source=objects),
    outcome=_above_chance,
    figure="curves",
    axes=("layer", "keys"),
    unit="share of objects hit",
    published=(
        Published("layers 0-10, 10-20, 20-30, 30-40, 40-50", ".30 .45 .65 .73 .60", _ABOUT),
    ),
    note="No code was released. A hit lies on the mask or at most the side of one image token "
    "away, about the paper's 40 pixels.",
)
