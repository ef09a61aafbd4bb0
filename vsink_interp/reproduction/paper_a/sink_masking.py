"""Figure 3b: hide visual sinks from the text, or as many random image tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...edits import HideKeys
from ...errors import ResultError
from ...experiments import Cases, sink_ablation
from ...experiments.depth import pattern_layers
from ...experiments.sink_ablation import CROWDED
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import LEFT_OUT, Measurements, Row
from ..outcomes import ahead, higher
from ..over_cases import OverCases
from ..over_tasks import Arm, OverTasks

SINKS, RANDOM = "visual sinks", "random image tokens"
STILL = f"{RANDOM}, the same in all layers"
NONE = "no visual sink"
NEITHER = f"{NONE}, or {CROWDED}"


def captions(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Object F1 of captions, with nothing, visual sinks or random tokens hidden.

    Cases without a visual sink are left out: nothing could be hidden there. So are those that have
    more sinks than other image tokens in some layer: as many others could not.
    """
    draws = 1 if setup.quick else 3
    try:
        found = sink_ablation(lmm, cases, seed=setup.seed, draws=draws, tick=silent)
    except ResultError:  # all of these would be left out
        yield from ({"case": case, LEFT_OUT: NEITHER} for case in range(len(cases)))
        return
    yield from ({"case": case, LEFT_OUT: CROWDED} for case in found.left_out)
    parts = [("nothing", 0, found.f1[0]), (SINKS, 0, found.f1[1])]
    for name, by_draw in zip((RANDOM, STILL), found.by_draw, strict=True):
        parts += [(name, draw, f1) for draw, f1 in enumerate(by_draw)]
    for at, case in enumerate(found.cases):
        if not found.n_sinks[at]:
            yield {"case": case, LEFT_OUT: NONE}
            continue
        for name, draw, f1 in parts:
            yield {"case": case, "hidden": name, "draw": draw, "value": float(f1[at])}


def benchmark(lmm: LMM, setup: Setup) -> Mapping[str, Arm]:
    """The same for yes/no questions: sinks, and as many random tokens redrawn per layer."""
    hidden = HideKeys("sink & image", layers=pattern_layers(lmm))
    control = replace(hidden, control=setup.seed, partial=True)
    return {SINKS: Arm(hidden), RANDOM: Arm(control)}


def _sinks_are_idle(found: Measurements) -> Outcome:
    if not found.rows:
        return Outcome(None, "no image has visual sinks, and as many other image tokens")
    return higher(found, {"hidden": SINKS}, {"hidden": RANDOM})


def _pope(found: Measurements) -> Outcome:
    return ahead(found, SINKS, (RANDOM,), "f1")


_PUBLISHED = (
    Published("LLaVA-1.5-7B, POPE F1, nothing hidden", "86", "read off figure 3b"),
    Published("visual sinks hidden", "84", "read off figure 3b"),
    Published("as many random image tokens hidden", "56.5", "read off figure 3b"),
)
FIG3B = Entry(
    "A.fig3b",
    "object F1 of captions with visual sinks, or as many random image tokens, hidden",
    "hiding visual sinks costs less than hiding as many random image tokens",
    measure=OverCases(captions, quick=16, full=200, at_once=16),
    draws=True,
    outcome=_sinks_are_idle,
    figure="bars",
    axes=("hidden",),
    unit="object F1",
    published=_PUBLISHED,
    note="Hidden before the softmax from the rows of query and generated tokens; the paper does "
    "not say on which side. Random tokens are drawn anew for each image, layer and draw.",
)
FIG3B_POPE = Entry(
    "A.fig3b-pope",
    "POPE with visual sinks, or as many random image tokens, hidden",
    "hiding visual sinks costs less than hiding as many random image tokens",
    measure=OverTasks(("pope",), benchmark, toy=("pope",), quick=30),
    draws=True,
    outcome=_pope,
    figure="bars",
    axes=("arm", "arm", "metric"),
    unit="score",
    published=_PUBLISHED,
    note="Where a layer has more sinks than other image tokens, its control hides all the others.",
)
