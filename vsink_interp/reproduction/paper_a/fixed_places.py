"""The abstract's claim: sinks stay where they are, whatever word is being written."""

from collections.abc import Iterator

import numpy as np

from ...experiments import Cases, word_maps
from ...graph import EditGraph
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases


def overlaps(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """How much the most attended image tokens of two words overlap, and by chance.

    As many tokens are taken as the image has sinks at these layers. By chance, two draws of m out
    of n tokens share m/n of them.
    """
    del setup
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        longest = cases.max_new_tokens
        maps = word_maps(lmm, image, prompt, graph=EditGraph(), max_new_tokens=longest, tick=silent)
        most, size = int(maps.sinks.sum()), maps.sinks.size
        if not 0 < most < size or len(maps.words) < 2:
            continue
        top = [set(np.argsort(-row)[:most].tolist()) for row in maps.before]
        shared = [len(a & b) / most for i, a in enumerate(top) for b in top[:i]]
        sinks = set(np.flatnonzero(maps.sinks).tolist())
        in_sinks = [len(one & sinks) / most for one in top]
        yield {"case": case, "overlap": "of two words", "value": float(np.mean(shared))}
        yield {
            "case": case,
            "overlap": "of a word with the sinks",
            "value": float(np.mean(in_sinks)),
        }
        yield {"case": case, "overlap": "by chance", "value": most / size}


def _fixed(found: Measurements) -> Outcome:
    if not found.rows:
        return Outcome(None, "no image has a visual sink at these layers")
    return higher(found, {"overlap": "of two words"}, {"overlap": "by chance"})


PLACES = Entry(
    "A.fixed-places",
    "do different words look at the same image tokens?",
    "the most attended image tokens are the same for all words, and they are the sinks",
    measure=OverCases(overlaps, quick=8, full=50, at_once=4),
    outcome=_fixed,
    figure="bars",
    axes=("overlap",),
    unit="share of the most attended tokens",
    note="The claim is the abstract's; the measure is ours.",
)
