"""Figure 3: a judge compares captions written with and without access to the image."""

from collections.abc import Iterator

from ...edits import Knockout
from ...experiments import FLOWS, Cases, answers
from ...experiments.depth import pattern_layers
from ...experiments.encoded_cases import EncodedCases
from ...metrics import LexicalJudge
from ...model import LMM
from ..entry import Entry, Outcome, Published, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases


def judged(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Precision, recall and F1 of the objects of captions, against the uncut ones."""
    del setup
    judge = LexicalJudge()
    asked = EncodedCases(lmm, cases)
    plain = answers(lmm, asked)
    for flow in FLOWS:
        cut = answers(lmm, asked, Knockout(flow, pattern_layers(lmm)))
        for case, (candidate, reference) in enumerate(zip(cut, plain, strict=True)):
            score = judge.compare(candidate, reference)
            for of in ("precision", "recall", "f1"):
                yield {"case": case, "flow": flow, "of": of, "value": float(getattr(score, of))}


def _some_left(found: Measurements) -> Outcome:
    return higher(found, {"flow": FLOWS[0], "of": "f1"}, {"flow": FLOWS[2], "of": "f1"})


FIG3 = Entry(
    "B.fig3",
    "objects of captions without direct access to the image, as a judge counts them",
    "a caption from query tokens alone keeps some objects; one without the image keeps none",
    measure=OverCases(judged, quick=8, full=80, at_once=8),
    outcome=_some_left,
    figure="bars",
    axes=("flow", "of"),
    unit="precision, recall, F1",
    published=(
        Published("F1 of image -> generated, all layers", "0.38 to 0.40", "read off figure 2e"),
        Published("agreement of the judge with people", "95 %", "read in the paper"),
    ),
    note="The judge here matches words, offline; metrics.ChatJudge asks a language model, as the "
    "paper does.",
)
