"""V-sinks against L-sinks, and knockouts of sinks against knockouts of all other image tokens."""

from collections.abc import Iterator

import numpy as np

from ...edits import Knockout
from ...experiments import Cases, answers, vision_sinks
from ...experiments.depth import pattern_layers
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases

SOURCES = ("sink & image", "image & ~sink", "image")


def by_source(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Object F1 with the flow to the text cut from sinks, from other image tokens, from all."""
    del setup
    plain = answers(lmm, cases)
    for case, f1 in enumerate(cases.f1(plain, plain)):
        yield {"case": case, "cut": "nothing", "value": f1}
    for source in SOURCES:
        graph = Knockout(f"{source} -> query generated", pattern_layers(lmm))
        for case, f1 in enumerate(cases.f1(answers(lmm, cases, graph), plain)):
            yield {"case": case, "cut": source, "value": f1}


def kinds(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Which L-sinks are V-sinks, and how many image tokens are either."""
    del setup
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        found = vision_sinks(lmm, image, prompt, tick=silent)
        size = found.v_sink.size
        counts = {
            "V-sinks": found.v_sink.sum() / size,
            "L-sinks": found.l_sink.sum() / size,
            "both": found.both.sum() / size,
            "both, by chance": found.v_sink.mean() * found.l_sink.mean(),
            "L-sinks from V-sinks": found.from_vision.sum() / size,
        }
        for kind, share in counts.items():
            yield {"case": case, "kind": kind, "value": float(np.asarray(share))}


def _sinks_carry_little(found: Measurements) -> Outcome:
    return higher(found, {"cut": "sink & image"}, {"cut": "image & ~sink"})


def _related(found: Measurements) -> Outcome:
    return higher(found, {"kind": "both"}, {"kind": "both, by chance"})


KNOCKOUT = Entry(
    "AB.knockout-sinks",
    "knockouts of visual sinks, of all other image tokens, and of the image",
    "cutting the flow from visual sinks costs less than cutting it from all other image tokens",
    measure=OverCases(by_source, quick=8, full=80, at_once=8),
    outcome=_sinks_carry_little,
    figure="bars",
    axes=("cut",),
    unit="object F1",
)
SINKS = Entry(
    "AB.v-sinks",
    "outliers of the vision encoder (V-sinks) and sinks of the language model (L-sinks)",
    "V-sinks become L-sinks more often than by chance",
    measure=OverCases(kinds, quick=4, full=40, at_once=2),
    outcome=_related,
    figure="bars",
    axes=("kind",),
    unit="share of the image tokens",
)
