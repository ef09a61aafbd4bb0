"""Figures 3a and 3c: visual sinks get much attention, and contribute little."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...experiments import Cases, contributions, sink_values
from ...experiments.depth import map_layers, with_pattern
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..outcomes import both, higher
from ..over_cases import OverCases


def one_by_one(cases: Cases) -> Iterator[tuple[int, Cases]]:
    """Every case apart, with its number."""
    return iter(enumerate(replace(cases, batch_size=1).batches()))


def scatter(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """phi of every image token, and the attention that it gets."""
    del setup
    layers = with_pattern(lmm, map_layers(lmm.n_layers))
    for case, one in one_by_one(cases):
        found = sink_values(lmm, one, layers=layers, tick=silent)
        for layer, phi, attention in zip(
            found.layers, found.image_phi, found.attention, strict=True
        ):
            for token, (x, y) in enumerate(zip(phi.tolist(), attention.tolist(), strict=True)):
                tokens = "visual sinks" if x >= found.tau else "other image tokens"
                yield {
                    "case": case, "layer": layer, "token": token, "tokens": tokens, "phi": x,
                    "value": y,
                }  # fmt: skip


def norms(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Attention to an image token, and the norm of what it adds, for sinks and others."""
    del setup
    for case, one in one_by_one(cases):
        found = contributions(lmm, one, tick=silent)
        for quantity, pair in (("attention", found.attention), ("contribution", found.norm)):
            for tokens, value in zip(("visual sinks", "other image tokens"), pair, strict=True):
                if not np.isnan(value):
                    yield {
                        "case": case, "quantity": quantity, "tokens": tokens, "value": float(value)
                    }  # fmt: skip


def _apart(found: Measurements) -> Outcome:
    return higher(found, {"tokens": "visual sinks"}, {"tokens": "other image tokens"})


def _much_and_little(found: Measurements) -> Outcome:
    sinks, others = {"tokens": "visual sinks"}, {"tokens": "other image tokens"}
    return both(
        higher(found, {**sinks, "quantity": "attention"}, {**others, "quantity": "attention"}),
        higher(
            found, {**others, "quantity": "contribution"}, {**sinks, "quantity": "contribution"}
        ),
    )


FIG3A = Entry(
    "A.fig3a",
    "sink value phi of image tokens against the attention that they get",
    "image tokens with a high phi get more attention than the others",
    measure=OverCases(scatter, quick=8, full=50, at_once=4),
    outcome=_apart,
    figure="scatter",
    axes=("phi", "tokens"),
    unit="attention it gets (share)",
    published=(
        Published("LLaVA-1.5-7B", "two clusters: phi below 10, and 30 to 52", "read off figure 3a"),
    ),
)
FIG3C = Entry(
    "A.fig3c",
    "attention and contribution of visual sinks and of other image tokens",
    "visual sinks get more attention, and contribute less, than other image tokens",
    measure=OverCases(norms, quick=8, full=50, at_once=4),
    outcome=_much_and_little,
    figure="bars",
    axes=("tokens", "tokens", "quantity"),
    unit="mean over layers, heads and rows",
    published=(
        Published("visual sinks", "0.8e-4", "read off figure 3c"),
        Published("random image tokens", "8.5e-4", "read off figure 3c"),
    ),
)
