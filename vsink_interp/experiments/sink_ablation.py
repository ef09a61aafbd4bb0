"""Hide visual sinks, compared with as many random image tokens (Kang et al. 2025, figure 3b)."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from ..edits import HideKeys
from ..errors import InputError, ResultError
from ..graph import EditGraph
from ..metrics import mean_interval
from ..model import LMM, Tick
from ..probes import SinkValue
from ..results import Run
from ..results.result import Result
from ..storage import Log
from .cases import Cases
from .depth import pattern_layers
from .provenance import dependence, with_provenance
from .steps import under_graphs

SINKS = "sink & image"
CROWDED = "more sinks than other image tokens in some layer"
"""Why a case has no control."""


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
    - `left_out`: the cases that no arm holds: in some layer more than half of their image tokens
        are sinks, with nothing hidden or under a control, so that as many others do not exist.
    """

    figure: ClassVar[str] = "sink_ablation"
    axis_labels: ClassVar[Mapping[str, str]] = {"random": "random_arms"}

    f1: Float[np.ndarray, "arm case"]
    arms: tuple[str, ...]
    graphs: tuple[EditGraph, ...]
    by_draw: Float[np.ndarray, "random draw case"]
    n_sinks: Int[np.ndarray, " case"]
    reference: str
    about: str
    left_out: tuple[int, ...] = ()

    @property
    def cases(self) -> tuple[int, ...]:
        """The cases that were measured, by their number among those given."""
        given = self.f1.shape[1] + len(self.left_out)
        return tuple(case for case in range(given) if case not in self.left_out)

    @property
    def mean(self) -> Float[np.ndarray, " arm"]:
        """F1 of each arm, mean over cases."""
        return self.f1.mean(1)

    @property
    def error(self) -> Float[np.ndarray, " arm"]:
        """The standard error of `mean`: over cases, and the draws that each of them had."""
        return self.f1.std(1) / self.f1.shape[1] ** 0.5

    @property
    def interval(self) -> Float[np.ndarray, "arm end"]:
        """The 95 % interval of `mean`: percentile bootstrap over cases; NaN for a single case."""
        return np.array([mean_interval(arm) for arm in self.f1])

    @property
    def random_arms(self) -> tuple[str, ...]:
        """The arms that hide random tokens."""
        return self.arms[len(self.arms) - len(self.by_draw) :]

    @property
    def draws(self) -> int:
        """How often the random tokens were drawn."""
        return self.by_draw.shape[1]


@with_provenance
def sink_ablation(
    lmm: LMM,
    cases: Cases,
    *,
    seed: int = 0,
    draws: int = 3,
    log: Log = None,
    tick: Tick | None = None,
) -> SinkAblation:
    """Hide the visual sinks from the text, and as many random image tokens as a control.

    The control is drawn anew for every case and every layer, and, in a second arm, once for all
    layers of a case: a token that is hidden in one layer alone can be read in the next. Layers
    without a pattern hide none. A case is left out of all arms if in some layer it has more sinks
    than other image tokens.

    ```python
    found = ex.sink_ablation(lmm, cases, draws=1)
    dict(zip(found.arms, found.f1.mean(1)))
    ```

    **Arguments:**

    - `seed`: of the first draw; the others have the seeds after it.
    - `draws`: how often each random arm is measured.
    - `log`: a JSONL file to which the answers of each batch are written; an interrupted
        measurement continues from it.
    - `tick`: called in the place of a progress bar, after each batch under each graph.

    **Raises:** `CapabilityError` if the model has no sink dimensions; `ResultError` if no case has
    a visual sink, if all are left out, or if `log` belongs to another measurement; `InputError`
    without a draw.
    """
    if draws < 1:
        raise InputError(f"draws={draws}: the control needs one draw or more")
    hidden = HideKeys(SINKS, layers=pattern_layers(lmm))
    arms = _arms(hidden, range(seed, seed + draws))
    graphs = [graph for graphs in arms.values() for graph in graphs]
    about = dependence("sink_ablation", lmm, needs_sinks=True, cases=cases) | {"left out": CROWDED}
    probe = SinkValue("image", layers=hidden.layers)
    asked = [(repr(one), one if one.nodes == (hidden,) else one | probe) for one in graphs]
    counted: list[int] = []
    told: list[list[str]] = []
    left_out: set[int] = set()
    for found in under_graphs(lmm, cases, asked, about, _reader(lmm, probe), log=log, tick=tick):
        told.append([row["answer"] for row in found])
        counted = counted or [row["sinks"] for row in found]
        _refuse_none(lmm, cases, counted)
        left_out |= {case for case, row in enumerate(found) if row.get("crowded")}
    kept = [case for case in range(len(cases)) if case not in left_out]
    _refuse_none(lmm, cases, [counted[case] for case in kept], left_out)
    scores = iter([np.array(cases.f1(texts, told[0]))[kept] for texts in told])
    f1 = [[next(scores) for _ in graphs] for graphs in arms.values()]
    against = "the unablated answer" if cases.truth is None else "the true objects"
    return SinkAblation(
        np.array([np.mean(arm, 0) for arm in f1]),
        tuple(arms),
        tuple(graphs[0] for graphs in arms.values()),
        np.array(f1[2:]),
        np.array(counted)[kept],
        against,
        cases.about,
        tuple(sorted(left_out)),
    )


def _arms(hidden: HideKeys, seeds: Iterable[int]) -> dict[str, tuple[EditGraph, ...]]:
    """The graphs of each arm; those of random arms for each draw."""
    controls = [replace(hidden, control=seed, partial=True) for seed in seeds]
    fixed = [replace(control, redraw=False) for control in controls]
    return {
        "nothing": (EditGraph(),),
        "visual sinks": (EditGraph(hidden),),
        "random, redrawn per layer": tuple(map(EditGraph, controls)),
        "random, the same in all layers": tuple(map(EditGraph, fixed)),
    }


def crowded(run: Run, probe: SinkValue, tau: float) -> list[bool]:
    """Of each case whether a layer has more sinks than other image tokens.

    Where an edit with `partial=True` then hides fewer than there are sinks, it is no control.
    """
    sinks = _sinks(run, probe, tau)
    return (2 * sinks > run.layout.mask("image").sum(-1)).any(0).tolist()


def _reader(lmm: LMM, probe: SinkValue) -> Callable[[Run], list[Any]]:
    """Of each case the answer, and where the run recorded phi what it has of sinks."""

    def read(run: Run) -> list[Any]:
        if not run.records:
            return [{"answer": text} for text in run.text]
        tau = lmm.sinks.tau
        found = zip(
            run.text, _sinks(run, probe, tau).sum(0).tolist(), crowded(run, probe, tau), strict=True
        )
        return [{"answer": text, "sinks": n, "crowded": full} for text, n, full in found]

    return read


def _refuse_none(
    lmm: LMM, cases: Cases, n_sinks: Sequence[int], left_out: Collection[int] = ()
) -> None:
    if any(n_sinks):
        return
    tau, more = lmm.sinks.tau, "experiments.sink_values shows phi, lmm.sinks holds the threshold"
    if left_out:
        rest = ", and the others have none" if len(left_out) < len(cases) else ""
        raise ResultError(
            f"{cases.about}: {CROWDED} (phi >= {tau:g}) in {len(left_out)} of {len(cases)}, so as "
            f"many others cannot be hidden{rest}; {more}"
        )
    raise ResultError(
        f"no image token of {cases.about} is a sink (phi >= {tau:g}), so there is nothing to hide; "
        f"{more}"
    )


def _sinks(run: Run, probe: SinkValue, tau: float) -> Int[Tensor, "layer case"]:
    record = run[probe]
    rows = run.layout.mask("image")[:, list(record.labels("token"))]
    return ((record.values >= tau) & rows).sum(-1)
