"""Knockout from layer l on, or in a window of layers (Kaduri et al. 2025, figure 2f)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np
from jaxtyping import Float

from ..edits import Knockout
from ..errors import InputError
from ..graph import Layers, resolve_layers
from ..metrics import PairedDifference, paired_difference
from ..model import LMM, Tick
from ..probes import Pattern
from ..results.recorded import optional_package
from ..results.result import Result
from ..storage import Log
from .cases import Cases
from .depth import pattern_layers, sweep_layers
from .provenance import dependence, with_provenance
from .steps import under_graphs

if TYPE_CHECKING:
    import pandas

FLOWS: Final = ("image -> generated", "image -> query", "image -> query generated")
"""KO_{img -> gen}, KO_{img -> txt} and KO_{img -> txt+gen}."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class KnockoutSweep(Result):
    """Object F1 of every case when a flow is cut from a layer on, or in a window of layers.

    **Attributes:**

    - `f1`: 0 to 1.
    - `baseline`: object F1 of the uncut answers.
    - `flows`: the flows.
    - `layers`: the first layer cut, counted from 0.
    - `n_layers`: the number of layers of the model.
    - `reference`: what F1 was measured against.
    - `about`: a description of the cases.
    - `window`: how many layers are cut; None cuts all later ones too.
    """

    figure: ClassVar[str] = "knockout_sweep"

    f1: Float[np.ndarray, "flow layer case"]
    baseline: Float[np.ndarray, " case"]
    flows: tuple[str, ...]
    layers: tuple[int, ...]
    n_layers: int
    reference: str
    about: str
    window: int | None = None

    @property
    def mean(self) -> Float[np.ndarray, "flow layer"]:
        """Mean over cases."""
        return self.f1.mean(-1)

    @cached_property
    def changes(self) -> tuple[tuple[PairedDifference, ...], ...]:
        """For each flow and layer what the cut changes on the same cases, with its interval."""
        return tuple(
            tuple(paired_difference(self.baseline, cut) for cut in by_layer) for by_layer in self.f1
        )

    @property
    def interval(self) -> Float[np.ndarray, "flow layer end"]:
        """The 95 % interval of the change in mean F1, its low and its high end.

        Paired percentile bootstrap over cases: each draw takes cut and uncut answers of the same
        cases. It says how far the change depends on which cases were taken. NaN for a single case.
        """
        ends = [[(one.low, one.high) for one in by_layer] for by_layer in self.changes]
        return np.array(ends) if len(self.baseline) > 1 else np.full_like(ends, np.nan)

    def cut(self, layer: int) -> str:
        """The layers that are cut where `layer` is the first, as in `"3:"` or `"3:6"`."""
        return _cut(layer, self.window, self.n_layers)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row per flow and layer: mean F1, uncut and cut, the change and its 95 % interval."""
        pandas = optional_package("pandas")
        ends, rows = self.interval, []
        for i, flow in enumerate(self.flows):
            for j, layer in enumerate(self.layers):
                scores = float(self.baseline.mean()), float(self.mean[i, j])
                change = scores[1] - scores[0], *map(float, ends[i, j])
                rows.append((flow, self.cut(layer), *scores, *change, len(self.baseline)))
        return pandas.DataFrame(rows, columns=list(COLUMNS))


COLUMNS: Final = ("flow", "layers", "uncut", "f1", "change", "low_95", "high_95", "cases")
"""The columns of a sweep's table."""


@with_provenance
def knockout_sweep(
    lmm: LMM,
    cases: Cases,
    *,
    flows: Sequence[str] = FLOWS,
    layers: Layers | None = None,
    window: int | None = None,
    log: Log = None,
    tick: Tick | None = None,
) -> KnockoutSweep:
    """Cut each flow from each layer on, or in a window of layers, and score the answers.

    Answers are scored against the true objects if the cases have them, else against the uncut
    answer, as in the paper. Layers without a pattern cannot be cut and still carry the image.

    ```python
    sweep = ex.knockout_sweep(lmm, cases, flows=["image -> generated"], layers=[0, 4], window=3)
    print(sweep.to_pandas())                  # with the 95 % interval of each change
    ```

    **Arguments:**

    - `flows`, `layers`: the flows to cut, and the first layers to cut; by default every layer that
        has a pattern in a shallow model, ten evenly spread ones in a deep model.
    - `window`: cut this many layers, `layer` to `layer + window - 1`, as a window that slides over
        the model and ends at its last layer; None cuts all later ones.
    - `log`: a JSONL file to which answers are written; an interrupted sweep continues from it.
    - `tick`: called in the place of a progress bar, after each batch under each cut.

    **Raises:** `ResultError` if `log` belongs to another measurement; `InputError` for a window
    that does not fit into the model.
    """
    chosen, flows = _starts(lmm, layers, window), _listed(flows)
    steps = [None, *((flow, layer) for flow in flows for layer in chosen)]
    cuts = [None if step is None else _knockout(lmm, *step, window) for step in steps]
    graphs = [(_name(lmm, cut), cut) for cut in cuts]
    about = dependence("knockout_sweep", lmm, needs_sinks=False, cases=cases)
    told = [*under_graphs(lmm, cases, graphs, about, log=log, tick=tick, what="knockouts")]
    baseline, *cut = [cases.f1(texts, told[0]) for texts in told]
    f1 = np.array(cut).reshape(len(flows), len(chosen), len(cases))
    reference = "the uncut answer" if cases.truth is None else "the true objects"
    return KnockoutSweep(
        f1, np.array(baseline), flows, chosen, lmm.n_layers, reference, cases.about, window
    )


def _name(lmm: LMM, cut: Knockout | None) -> str:
    name = "uncut" if cut is None else f"{cut.flow}, {cut.layers}"
    if cut is not None and cut.needs_sinks:
        name += f", {lmm.sinks}"
    return name


def _listed(flows: Sequence[str]) -> tuple[str, ...]:
    return (flows,) if isinstance(flows, str) else tuple(flows)


def _knockout(lmm: LMM, flow: str, layer: int, window: int | None) -> Knockout:
    return Knockout(flow, pattern_layers(lmm, _cut(layer, window, lmm.n_layers)))


def _cut(layer: int, window: int | None, n_layers: int) -> str:
    return f"{layer}:" if window is None else f"{layer}:{min(layer + window, n_layers)}"


def _starts(lmm: LMM, layers: Layers | None, window: int | None) -> tuple[int, ...]:
    """The first layers of a sweep; a window ends at the last layer."""
    last = lmm.n_layers - (window or 1)
    if window is not None and not 1 <= window <= lmm.n_layers:
        raise InputError(f"window={window}: a model of {lmm.n_layers} layers takes 1 to that many")
    if layers is None:
        every = lmm.layers_with(Pattern.hook)
        offered = [layer for layer in every if layer <= last]
        if not offered:
            raise InputError(
                f"window={window} fits up to layer {last}, and no layer up to there has a pattern; "
                f"those that have one: {', '.join(map(str, every))}"
            )
        return tuple(offered[i] for i in sweep_layers(len(offered)))
    chosen = resolve_layers(layers, lmm.n_layers)
    if beyond := [layer for layer in chosen if layer > last]:
        raise InputError(
            f"a window of {window} layers from layer {beyond[0]} on leaves this model of "
            f"{lmm.n_layers} layers; the last that fits begins at layer {last}"
        )
    return chosen
