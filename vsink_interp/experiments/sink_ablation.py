"""Hide visual sinks, compared with as many random image tokens (Kang et al. 2025, figure 3b)."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Int

from ..edits import HideKeys
from ..errors import InputError, ResultError
from ..graph import EditGraph
from ..model import LMM
from ..probes import SinkValue
from ..results import Run
from .answers import answers, runs
from .cases import Cases
from .depth import pattern_layers
from .result import Result

SINKS = "sink & image"


@final
@dataclass(frozen=True, eq=False, repr=False)
class SinkAblation(Result):
    """Object F1 of each case when nothing, the visual sinks, or random image tokens are hidden.

    Every case of a random arm has draws of its own, so the spread over cases holds that of the
    draws: `error` counts both.

    **Attributes:**

    - `f1`: 0 to 1; in random arms the mean over the draws.
    - `arms`: what was hidden.
    - `graphs`: the edit graph of each arm; of a random arm that of its first draw.
    - `by_draw`: F1 of each random arm, draw by draw.
    - `n_sinks`: the visual sinks of each case, summed over the layers that hide them.
    - `reference`: what F1 was measured against.
    - `about`: a description of the cases.
    """

    figure: ClassVar[str] = "sink_ablation"

    f1: Float[np.ndarray, "arm case"]
    arms: tuple[str, ...]
    graphs: tuple[EditGraph, ...]
    by_draw: Float[np.ndarray, "random draw case"]
    n_sinks: Int[np.ndarray, " case"]
    reference: str
    about: str

    @property
    def mean(self) -> Float[np.ndarray, " arm"]:
        """F1 of each arm, mean over cases."""
        return self.f1.mean(1)

    @property
    def error(self) -> Float[np.ndarray, " arm"]:
        """The standard error of `mean`: over cases, and the draws that each of them had."""
        return self.f1.std(1) / self.f1.shape[1] ** 0.5

    @property
    def draws(self) -> int:
        """How often the random tokens were drawn."""
        return self.by_draw.shape[1]


def sink_ablation(
    lmm: LMM,
    cases: Cases,
    *,
    seed: int = 0,
    draws: int = 3,
) -> SinkAblation:
    """Hide the visual sinks from the text, and as many random image tokens as a control.

    The control is drawn anew for every case and every layer, and, in a second arm, once for all
    layers of a case: a token that is hidden in one layer alone can be read in the next. Layers
    without a pattern hide none.

    ```python
    found = ex.sink_ablation(lmm, cases, draws=1)
    dict(zip(found.arms, found.f1.mean(1)))
    ```

    **Arguments:**

    - `seed`: of the first draw; the others have the seeds after it.
    - `draws`: how often each random arm is measured.

    **Raises:** `CapabilityError` if the model has no sink dimensions; `ResultError` if no case has
    a visual sink; `InputError` without a draw.
    """
    if draws < 1:
        raise InputError(f"draws={draws}: the control needs one draw or more")
    hidden = HideKeys(SINKS, layers=pattern_layers(lmm))
    controls = [replace(hidden, control=seed + i) for i in range(draws)]
    arms = {
        "nothing": (EditGraph(),),
        "visual sinks": (EditGraph(hidden),),
        "random, redrawn per layer": tuple(map(EditGraph, controls)),
        "random, the same in all layers": tuple(
            EditGraph(replace(control, redraw=False)) for control in controls
        ),
    }
    probe = SinkValue("image", layers=hidden.layers)
    plain = list(runs(lmm, cases, probe))
    n_sinks = np.concatenate([_sinks(run, probe, lmm.sinks.tau) for run in plain])
    if not n_sinks.any():
        raise ResultError(
            f"no image token of {cases.about} is a sink (phi >= {lmm.sinks.tau:g}), so there is "
            "nothing to hide; experiments.sink_values shows phi, lmm.sinks holds the threshold"
        )
    told = [text for run in plain for text in run.text]
    edited = [graphs for arm, graphs in arms.items() if arm != "nothing"]
    f1 = [[cases.f1(told, told)]]
    f1 += [[cases.f1(answers(lmm, cases, graph), told) for graph in graphs] for graphs in edited]
    against = "the unablated answer" if cases.truth is None else "the true objects"
    return SinkAblation(
        np.array([np.mean(arm, 0) for arm in f1]),
        tuple(arms),
        tuple(graphs[0] for graphs in arms.values()),
        np.array(f1[2:]),
        n_sinks,
        against,
        cases.about,
    )


def _sinks(run: Run, probe: SinkValue, tau: float) -> Int[np.ndarray, " case"]:
    record = run[probe]
    rows = run.layout.mask("image")[:, list(record.labels("token"))]
    return ((record.values >= tau) & rows).sum((0, 2)).numpy()
