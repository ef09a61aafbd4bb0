"""Hiding sinks against hiding as many random image tokens (Kang et al. 2025, fig. 3b)."""

from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float

from ..edits import HideKeys
from ..graph import EditGraph
from ..model import LMM
from .answers import answers
from .cases import Cases
from .depth import pattern_layers

SINKS = "sink & image"


@final
@dataclass(frozen=True, eq=False)
class SinkAblation:
    """Object F1 of each case when nothing, the visual sinks, or random image tokens are hidden.

    **Attributes:**

    - `f1`: 0 to 1.
    - `arms`: what was hidden.
    - `graphs`: the edit graph of each arm.
    - `reference`: what F1 was measured against.
    - `about`: what the cases were.
    """

    f1: Float[np.ndarray, "arm case"]
    arms: tuple[str, ...]
    graphs: tuple[EditGraph, ...]
    reference: str
    about: str


def sink_ablation(
    lmm: LMM,
    cases: Cases,
    *,
    seed: int = 0,
) -> SinkAblation:
    """Hide the visual sinks from the text, and as many random image tokens as a control.

    The control is drawn anew in every layer, and, in a second arm, once for all layers: a token
    that is hidden in one layer alone can be read in the next. Layers without a pattern hide none.

    **Arguments:**

    - `seed`: of the random draws.

    **Raises:** `CapabilityError` if the model has no sink dimensions.
    """
    hidden = HideKeys(SINKS, layers=pattern_layers(lmm))
    arms = {
        "nothing": EditGraph(),
        "visual sinks": EditGraph(hidden),
        "random, redrawn per layer": EditGraph(replace(hidden, control=seed)),
        "random, the same in all layers": EditGraph(replace(hidden, control=seed, redraw=False)),
    }
    told = [answers(lmm, cases, graph) for graph in arms.values()]
    f1 = np.array([cases.f1(texts, told[0]) for texts in told])
    against = "the unablated answer" if cases.truth is None else "the true objects"
    return SinkAblation(f1, tuple(arms), tuple(arms.values()), against, cases.about)
