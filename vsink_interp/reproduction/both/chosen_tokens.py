"""Compressed contexts whose image tokens are chosen with and without sinks, and by contribution."""

from collections.abc import Iterator

from ...experiments import Quizzes, compressed_context
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases
from ..sources import quizzes

SCORES = ("attention", "attention-without-sinks", "contribution", "random")


def accuracies(lmm: LMM, some: Quizzes, setup: Setup) -> Iterator[Row]:
    """The share of questions answered right from a tenth of the image tokens, by who chose them."""
    found = compressed_context(lmm, some, keeps=(0.1,), scores=SCORES, seed=setup.seed, tick=silent)
    for score in found.scores:
        chosen = "whole prompt" if score.spec is None else score.name
        if score.spec is not None and score.spec.strategy == "qs":
            chosen = f"by {score.spec.score}"
        for question, right in enumerate(score.right.tolist()):
            yield {"case": found.image[question], "chosen": chosen, "value": float(right)}


def _without_sinks(found: Measurements) -> Outcome:
    return higher(found, {"chosen": "by attention-without-sinks"}, {"chosen": "by attention"})


TOP_K = Entry(
    "AB.top-k",
    "answers from a tenth of the image tokens, chosen with and without sinks",
    "image tokens chosen without sinks answer more than those chosen with them",
    measure=OverCases(accuracies, quick=4, full=60, at_once=2, source=quizzes),
    draws=True,
    outcome=_without_sinks,
    figure="bars",
    axes=("chosen",),
    unit="accuracy",
)
