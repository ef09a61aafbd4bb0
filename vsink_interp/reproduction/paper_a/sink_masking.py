"""Figure 3b: hide visual sinks from the text, or as many random image tokens."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ...edits import HideKeys
from ...experiments import Cases, answers
from ...experiments.depth import pattern_layers
from ...graph import Graphlike
from ...model import LMM
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases
from ..over_tasks import Arm, OverTasks

SINKS, RANDOM = "visual sinks", "random image tokens"


def _arms(lmm: LMM, setup: Setup, draws: int) -> Iterator[tuple[str, int, Graphlike]]:
    """What is hidden, the number of the draw, and the edit."""
    hidden = HideKeys("sink & image", layers=pattern_layers(lmm))
    yield SINKS, 0, hidden
    for draw in range(draws):
        yield RANDOM, draw, replace(hidden, control=setup.seed + draw)
        still = replace(hidden, control=setup.seed + draw, redraw=False)
        yield f"{RANDOM}, the same in all layers", draw, still


def captions(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Object F1 of captions, with nothing, visual sinks or random tokens hidden."""
    plain = answers(lmm, cases)
    for case, f1 in enumerate(cases.f1(plain, plain)):
        yield {"case": case, "hidden": "nothing", "draw": 0, "value": f1}
    for name, draw, graph in _arms(lmm, setup, 1 if setup.quick else 3):
        for case, f1 in enumerate(cases.f1(answers(lmm, cases, graph), plain)):
            yield {"case": case, "hidden": name, "draw": draw, "value": f1}


def benchmark(lmm: LMM, setup: Setup) -> Mapping[str, Arm]:
    """The same three arms, for yes/no questions."""
    found = {name: Arm(graph) for name, draw, graph in _arms(lmm, setup, 1) if draw == 0}
    return {name: arm for name, arm in found.items() if name in (SINKS, RANDOM)}


def _sinks_are_idle(found: Measurements) -> Outcome:
    return higher(found, {"hidden": SINKS}, {"hidden": RANDOM})


def _pope(found: Measurements) -> Outcome:
    scores = {
        arm: found.mean(arm=arm, of="score", metric="f1", split="all")
        for arm in ("off", SINKS, RANDOM)
    }
    told = ", ".join(f"{arm} {value:.3f}" for arm, value in scores.items())
    return Outcome(scores[SINKS] > scores[RANDOM], f"F1: {told}")


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
    outcome=_pope,
    figure="bars",
    axes=("arm", "arm", "metric"),
    unit="score",
    published=_PUBLISHED,
)
