"""Figures 2e and 2f, and their kin: cut the flow from the image, in some layers."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...edits import Knockout
from ...experiments import (
    FLOWS,
    Cases,
    KnockoutSweep,
    answers,
    knockout_sweep,
    sweep_layers,
)
from ...experiments.depth import pattern_layers
from ...experiments.encoded_cases import EncodedCases
from ...graph import Layers, resolve_layers
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..outcomes import both, higher
from ..over_cases import OverCases

TO_GENERATED, TO_QUERY, TO_BOTH = FLOWS
_READ = "InternVL2-76B, read off figure 2"


def _cut(lmm: LMM, cases: Cases, places: Mapping[Any, Layers], key: str) -> Iterator[Row]:
    """Object F1 of the answers with each flow cut in each set of layers, and uncut."""
    asked = EncodedCases(lmm, cases)
    plain = answers(lmm, asked)
    for case, f1 in enumerate(cases.f1(plain, plain)):
        yield {"case": case, "flow": "uncut", "value": f1}
    for flow in FLOWS:
        for label, layers in places.items():
            told = answers(lmm, asked, Knockout(flow, layers))
            for case, f1 in enumerate(cases.f1(told, plain)):
                yield {"case": case, "flow": flow, key: label, "value": f1}


def _starts(lmm: LMM, setup: Setup) -> tuple[int, ...]:
    found = resolve_layers(pattern_layers(lmm), lmm.n_layers)
    most = 4 if setup.quick else 10
    return tuple(found[place] for place in sweep_layers(len(found), most))


def three_flows(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """In all layers, and in all except the middle ones: 20 to 40 of 80, scaled to the depth."""
    del setup
    low, high = round(lmm.n_layers / 4), round(lmm.n_layers / 2)
    outside = tuple(
        layer
        for layer in resolve_layers(pattern_layers(lmm), lmm.n_layers)
        if not low <= layer <= high
    )
    places: dict[str, Layers] = {"all layers": pattern_layers(lmm)}
    if outside:
        places[f"all except {low} to {high}"] = outside
    return _cut(lmm, cases, places, "layers")


def from_layer(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """From layer l on."""
    return _swept(knockout_sweep(lmm, cases, layers=_starts(lmm, setup), tick=silent))


def up_to_layer(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Up to layer l, which is cut too."""
    places = {stop: pattern_layers(lmm, f":{stop + 1}") for stop in _starts(lmm, setup)}
    return _cut(lmm, cases, places, "layer")


def window(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """In a fifth of the layers, from layer l on (Geva et al. 2023)."""
    size = max(1, round(lmm.n_layers / 5))
    starts = sorted({min(start, lmm.n_layers - size) for start in _starts(lmm, setup)})
    return _swept(knockout_sweep(lmm, cases, layers=starts, window=size, tick=silent))


def _swept(found: KnockoutSweep) -> Iterator[Row]:
    for case, f1 in enumerate(found.baseline.tolist()):
        yield {"case": case, "flow": "uncut", "value": f1}
    for flow, by_layer in zip(found.flows, found.f1.tolist(), strict=True):
        for layer, values in zip(found.layers, by_layer, strict=True):
            for case, f1 in enumerate(values):
                yield {"case": case, "flow": flow, "layer": layer, "value": f1}


def _query_suffices(found: Measurements) -> Outcome:
    generated = {"flow": TO_GENERATED, "layers": "all layers"}
    both_cut = {"flow": TO_BOTH, "layers": "all layers"}
    return higher(found, generated, both_cut)


def _late_is_free(found: Measurements) -> Outcome:
    first, *_, last = sorted(found.labels("layer"))
    cut = {"flow": TO_BOTH}
    return higher(found, {**cut, "layer": last}, {**cut, "layer": first})


def _early_is_free(found: Measurements) -> Outcome:
    first, *_, last = sorted(found.labels("layer"))
    cut = {"flow": TO_BOTH}
    return higher(found, {**cut, "layer": first}, {**cut, "layer": last})


def _middle_matters(found: Measurements) -> Outcome:
    means = {s.group["layer"]: s.mean for s in found.where(flow=TO_BOTH).summary(["layer"])}
    worst = min(means, key=lambda layer: means[layer])
    ends = max(means), min(means)
    cut = {"flow": TO_BOTH}
    told = f"worst with the window at layer {worst}"
    found_both = both(
        *(higher(found, {**cut, "layer": end}, {**cut, "layer": worst}) for end in ends)
    )
    return Outcome(found_both.holds, f"{told}; {found_both.because}")


def _entry(
    name: str,
    title: str,
    claim: str,
    measure: Callable[[LMM, Cases, Setup], Iterator[Row]],
    outcome: Callable[[Measurements], Outcome],
    *published: Published,
) -> Entry:
    return Entry(
        name,
        title,
        claim,
        measure=OverCases(measure, quick=8, full=80, at_once=8),
        outcome=outcome,
        figure="bars" if name == "B.fig2e" else "curves",
        axes=("flow", "layers") if name == "B.fig2e" else ("layer", "flow"),
        unit="object F1",
        published=published,
        note="F1 is against the true objects where these are known, else against the uncut answer; "
        "the paper's is a judge's.",
    )


FIG2E = _entry(
    "B.fig2e",
    "three knockouts of the image, in all layers and in all but the middle ones",
    "query tokens alone carry a coarse description: cutting image -> generated leaves more than "
    "cutting the query tokens off as well",
    three_flows,
    _query_suffices,
    Published("image -> generated, all layers", "0.38 to 0.40", _READ),
    Published("image -> query, all layers", "0.00", _READ),
    Published("both, all layers", "0.00", _READ),
    Published("all except 20 to 40 of 80", "0.76, 0.80, 0.72", _READ),
)
FIG2F = _entry(
    "B.fig2f",
    "three knockouts of the image, from layer l on",
    "in late layers the image is no longer needed",
    from_layer,
    _late_is_free,
    Published("image -> generated from 0, 20, 40, 60 of 80", ".395 .455 .76 .845", _READ),
    Published("image -> query", "0 .01 .80 .84", _READ),
    Published("both", "0 .06 .765 .84", _READ),
)
UP_TO = _entry(
    "B.up-to",
    "three knockouts of the image, up to layer l",
    "cutting early layers alone costs less than cutting all",
    up_to_layer,
    _early_is_free,
)
WINDOW = _entry(
    "B.window",
    "three knockouts of the image, in a window that slides along the depth",
    "there are layers whose window costs more than one at either end",
    window,
    _middle_matters,
)
