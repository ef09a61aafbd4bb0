"""Heads that localise: found on half of the cases, tested on the other half."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from ...experiments import ObjectMasks, naming_rows
from ...experiments.depth import pattern_layers
from ...metrics import Canvas, distance_to
from ...model import LMM
from ...probes import Pattern
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..outcomes import both, higher
from ..over_cases import OverCases
from ..sources import by_image, objects

LONGEST = 64
BEST = 3
"""How many heads are found."""
LEAST = 0.1
"""The least attention to the image of a head of which the entropy counts."""


def by_head(lmm: LMM, found: tuple[ObjectMasks, ...], setup: Setup) -> Iterator[Row]:
    """For each named object and head: a hit or none, and the entropy of the map, 0 to 1."""
    del setup
    probe = Pattern(layers=pattern_layers(lmm))
    for case, here in enumerate(by_image(found)):
        run = lmm.generate(here[0].image, here[0].prompt, probe, max_new_tokens=LONGEST)
        record = run.of(run.answering(probe), "image[0]")
        canvas = Canvas(run.layout.images[0][0], here[0].image.size)
        for number, thing in enumerate(here):
            rows = list(naming_rows(lmm, run, thing.words))
            if not rows:
                continue
            maps = record.values[:, 0, :, rows].float().mean(2).numpy()
            labels = {"case": case, "object": f"{number}: {thing.words}"}
            for place in np.ndindex(maps.shape[:2]):
                head = {**labels, "layer": record.labels("layer")[place[0]], "head": place[1]}
                for of, value in _measures(canvas, thing, maps[place]).items():
                    yield {**head, "of": of, "value": value}


def _measures(
    canvas: Canvas, thing: ObjectMasks, values: Float[np.ndarray, " token"]
) -> dict[str, float]:
    mass = float(values.sum())
    shares = values[values > 0] / max(mass, 1e-12)
    entropy = float(-(shares * np.log(shares)).sum() / np.log(len(values)))
    hit = distance_to(thing.mask, canvas.peak(values)) <= canvas.token_side
    return {"hit": float(hit), "entropy": entropy, "image mass": mass}


def held_out(found: Measurements) -> Measurements:
    """Hit rates on every other case of heads that were found on the cases between them."""
    means: dict[tuple[str, tuple[int, int]], list[float]] = {}
    hits: list[Row] = []
    for row in found.rows:
        head = row["layer"], row["head"]
        if row["case"] % 2 == 0:
            means.setdefault((row["of"], head), []).append(row["value"])
        elif row["of"] == "hit":
            hits.append(row)
    heads = tuple(dict.fromkeys(head for _, head in means))
    at = {key: float(np.mean(values)) for key, values in means.items()}
    looking = [head for head in heads if at["image mass", head] >= LEAST] or list(heads)
    chosen = {
        "highest hit rate": sorted(heads, key=lambda head: -at["hit", head])[:BEST],
        "lowest entropy": sorted(looking, key=lambda head: at["entropy", head])[:BEST],
        "all heads": heads,
    }
    rows = [
        {"case": row["case"], "heads": name, "value": row["value"]}
        for name, some in chosen.items()
        for row in hits
        if (row["layer"], row["head"]) in some
    ]
    return replace(found, rows=tuple(rows))


def _stay_good(found: Measurements) -> Outcome:
    shown = held_out(found)
    if not shown.rows:
        return Outcome(None, "no case to find heads on, or none to test them on")
    every = {"heads": "all heads"}
    return both(
        higher(shown, {"heads": "highest hit rate"}, every),
        higher(shown, {"heads": "lowest entropy"}, every),
    )


HEADS = Entry(
    "AB.heads",
    "hit rates of heads found to localise on half of the cases, on the other half",
    "heads with the highest hit rate, and those with the lowest entropy, on half of the cases "
    "localise better than others on the other half",
    measure=OverCases(by_head, quick=8, full=80, at_once=2, source=objects),
    outcome=_stay_good,
    drawn=held_out,
    figure="bars",
    axes=("heads",),
    unit="share of objects hit",
    note=f"The {BEST} best heads, found on even cases and tested on odd ones. Entropy is that of a "
    "head's attention over the image tokens, of heads that give the image a tenth of their "
    "attention at least.",
)
