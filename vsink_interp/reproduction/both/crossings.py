"""V-sinks against L-sinks, and knockouts of sinks against knockouts of all other image tokens."""

from collections.abc import Iterator

import numpy as np

from ...edits import HideKeys, Knockout
from ...experiments import Cases, answers, knockout_sweep, sweep_layers, vision_sinks
from ...experiments.answers import runs
from ...experiments.depth import pattern_layers
from ...experiments.encoded_cases import EncodedCases
from ...experiments.sink_ablation import CROWDED, crowded
from ...graph import Edit, resolve_layers
from ...model import LMM
from ...model.progress import silent
from ...probes import SinkValue
from ..entry import Entry, Outcome, Setup
from ..measurements import LEFT_OUT, Measurements, Row
from ..outcomes import both, higher
from ..over_cases import OverCases

SOURCES = ("sink & image", "image & ~sink", "image")
RANDOM = "as many random image tokens"


def by_source(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Object F1 with the flow to the text cut from sinks, as many random tokens, others, all.

    Cases that have more sinks than other image tokens in some layer are left out.
    """
    asked, layers = EncodedCases(lmm, cases), pattern_layers(lmm)
    phi = SinkValue("image", layers)
    control = HideKeys("sink & image", layers, control=setup.seed, partial=True)
    (plain, full), (random, short) = (_told(lmm, asked, phi, edit) for edit in (None, control))
    told = {"nothing": plain}
    for source in SOURCES:
        told[source] = answers(lmm, asked, Knockout(f"{source} -> query generated", layers))
    told[RANDOM] = random
    scores = {cut: cases.f1(texts, plain) for cut, texts in told.items()}
    for case, crowded_here in enumerate(map(any, zip(full, short, strict=True))):
        if crowded_here:
            yield {"case": case, LEFT_OUT: CROWDED}
            continue
        for cut, f1 in scores.items():
            yield {"case": case, "cut": cut, "value": f1[case]}


def _told(
    lmm: LMM, asked: EncodedCases, phi: SinkValue, edit: Edit | None
) -> tuple[list[str], list[bool]]:
    """The answers under an edit, and whether a case has more sinks than other image tokens."""
    found = list(runs(lmm, asked, phi if edit is None else edit | phi))
    full = [one for run in found for one in crowded(run, phi, lmm.sinks.tau)]
    return [text for run in found for text in run.text], full


def from_layer(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """The sweep of figure 2f with visual sinks, all other image tokens, and the image cut."""
    found = resolve_layers(pattern_layers(lmm), lmm.n_layers)
    starts = [found[place] for place in sweep_layers(len(found), 4 if setup.quick else 10)]
    flows = [f"{source} -> query generated" for source in SOURCES]
    swept = knockout_sweep(lmm, cases, flows=flows, layers=starts, tick=silent)
    for case, f1 in enumerate(swept.baseline.tolist()):
        yield {"case": case, "cut": "nothing", "value": f1}
    for source, by_layer in zip(SOURCES, swept.f1.tolist(), strict=True):
        for layer, values in zip(swept.layers, by_layer, strict=True):
            for case, f1 in enumerate(values):
                yield {"case": case, "cut": source, "layer": layer, "value": f1}


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
    return both(
        higher(found, {"cut": "sink & image"}, {"cut": "image & ~sink"}),
        higher(found, {"cut": "sink & image"}, {"cut": RANDOM}),
    )


def _sinks_carry_little_anywhere(found: Measurements) -> Outcome:
    first, *_ = sorted(found.where(cut="image").labels("layer"))
    at = {"layer": first}
    return higher(found, {"cut": "sink & image", **at}, {"cut": "image & ~sink", **at})


def _related(found: Measurements) -> Outcome:
    return higher(found, {"kind": "both"}, {"kind": "both, by chance"})


KNOCKOUT = Entry(
    "AB.knockout-sinks",
    "knockouts of visual sinks, of as many random image tokens, of all others, and of the image",
    "cutting the flow from visual sinks costs less than cutting it from all other image tokens, or "
    "from as many random ones",
    measure=OverCases(by_source, quick=8, full=80, at_once=8),
    draws=True,
    outcome=_sinks_carry_little,
    figure="bars",
    axes=("cut",),
    unit="object F1",
)
FIG2F = Entry(
    "AB.fig2f",
    "knockouts from layer l on of visual sinks, of all other image tokens, and of the image",
    "what flows from the image to the text does not flow from its visual sinks",
    measure=OverCases(from_layer, quick=8, full=80, at_once=8),
    outcome=_sinks_carry_little_anywhere,
    figure="curves",
    axes=("layer", "cut"),
    unit="object F1",
    note="Figure 2f of B with the sinks of A taken out of what is cut.",
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
