"""Knockout from layer l on, for the three flows (Kaduri et al. 2025, figure 2f)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..graph import Layers, resolve_layers
from ..model import LMM, Tick, digest, fingerprint
from ..model.progress import shown
from ..probes import Pattern
from ..storage import RowLog
from .answers import answers
from .cases import Cases
from .depth import pattern_layers, sweep_layers
from .result import Result

FLOWS: Final = ("image -> generated", "image -> query", "image -> query generated")
"""KO_{img -> gen}, KO_{img -> txt} and KO_{img -> txt+gen}."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class KnockoutSweep(Result):
    """Object F1 of every case when a flow is cut from a layer on.

    **Attributes:**

    - `f1`: 0 to 1.
    - `baseline`: object F1 of the uncut answers.
    - `flows`: the flows.
    - `layers`: the first layer cut, counted from 0; all later ones are cut too.
    - `n_layers`: the number of layers of the model.
    - `reference`: what F1 was measured against.
    - `about`: a description of the cases.
    """

    figure: ClassVar[str] = "knockout_sweep"

    f1: Float[np.ndarray, "flow layer case"]
    baseline: Float[np.ndarray, " case"]
    flows: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    reference: str
    about: str

    @property
    def mean(self) -> Float[np.ndarray, "flow layer"]:
        """Mean over cases."""
        return self.f1.mean(-1)

    @property
    def std(self) -> Float[np.ndarray, "flow layer"]:
        """Standard deviation over cases; the band of the paper's figure."""
        return self.f1.std(-1)


def knockout_sweep(
    lmm: LMM,
    cases: Cases,
    *,
    flows: Sequence[str] = FLOWS,
    layers: Layers | None = None,
    log: str | Path | None = None,
    tick: Tick | None = None,
) -> KnockoutSweep:
    """Cut each flow from each layer on, and score the answers.

    Answers are scored against the true objects if the cases have them, else against the uncut
    answer, as in the paper. Layers without a pattern cannot be cut and still carry the image.

    **Arguments:**

    - `flows`, `layers`: the flows to cut, and the layers from which to cut them; by default every
        layer that has a pattern in a shallow model, ten evenly spread ones in a deep model.
    - `log`: a JSONL file to which answers are written; an interrupted sweep continues from it.
    - `tick`: called in the place of a progress bar, after each step (all cases under one cut).

    **Raises:** `ResultError` if `log` belongs to another sweep.
    """
    chosen = _starts(lmm) if layers is None else resolve_layers(layers, lmm.n_layers)
    steps = [None, *((flow, layer) for flow in flows for layer in chosen)]
    told: list[list[str]] = []
    tell = shown(tick, "knockouts")
    kept: RowLog[list[str]] = RowLog(log, _about(lmm, cases))
    with kept:
        for done, step in enumerate(steps, 1):
            graph = None if step is None else Knockout(step[0], pattern_layers(lmm, f"{step[1]}:"))
            name = "uncut" if graph is None else f"{graph.flow}, {graph.layers}"
            if graph is not None and graph.needs_sinks:
                name += f", {lmm.sinks}"
            if name not in kept.known:
                made = answers(lmm, cases, graph)
                kept.add(name, made)
            told.append(kept.known[name])
            tell(done, len(steps))
    baseline, *cut = [cases.f1(texts, told[0]) for texts in told]
    f1 = np.array(cut).reshape(len(flows), len(chosen), len(cases))
    reference = "the uncut answer" if cases.truth is None else "the true objects"
    return KnockoutSweep(
        f1, np.array(baseline), tuple(flows), chosen, lmm.n_layers, reference, cases.about
    )


def _starts(lmm: LMM) -> tuple[int, ...]:
    layers = lmm.layers_with(Pattern.hook)
    return tuple(layers[i] for i in sweep_layers(len(layers)))


def _about(lmm: LMM, cases: Cases) -> dict[str, Any]:
    shown = digest(
        ([image], asked) for image, asked in zip(cases.images, cases.prompts, strict=True)
    )
    return {"cases": shown, "max_new_tokens": cases.max_new_tokens, **fingerprint(lmm)}
