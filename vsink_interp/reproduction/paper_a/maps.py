"""Figures 1 and 3d: where the words of an answer look, with VAR and without sinks."""

from collections.abc import Iterator

import numpy as np

from ...experiments import Cases, word_maps
from ...graph import EditGraph
from ...metrics import content_places
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Setup
from ..maps import MOST_WORDS, map_rows
from ..measurements import Measurements, Row
from ..outcomes import higher
from ..over_cases import OverCases


def before_and_after(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Attention of every content word, before and after VAR (rho .5)."""
    del setup
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        maps = word_maps(lmm, image, prompt, max_new_tokens=cases.max_new_tokens, tick=silent)
        for arm, values in (("before", maps.before), ("after VAR", maps.after)):
            for number in content_places(maps.words)[:MOST_WORDS]:
                labels = {"case": case, "arm": arm, "word": f"{number}: {maps.words[number]}"}
                yield from map_rows(values[number], maps.span, image, maps.sinks, labels)


def without_sinks(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Attention of every content word, as it is and with its sinks taken out of the map."""
    del setup
    for case, (image, prompt) in enumerate(zip(cases.images, cases.prompts, strict=True)):
        longest = cases.max_new_tokens
        maps = word_maps(lmm, image, prompt, graph=EditGraph(), max_new_tokens=longest, tick=silent)
        for arm, kept in (("all image tokens", 1), ("without sinks", ~maps.sinks)):
            for number in content_places(maps.words)[:MOST_WORDS]:
                values = maps.before[number] * kept
                labels = {"case": case, "arm": arm, "word": f"{number}: {maps.words[number]}"}
                share = values / max(float(values.sum()), 1e-9)
                yield from map_rows(share, maps.span, image, maps.sinks, labels)


def _sinks_lose(found: Measurements) -> Outcome:
    if 1 not in found.labels("sink"):
        return Outcome(None, "no image token is a visual sink at these layers")
    return higher(found.where(sink=1), {"arm": "before"}, {"arm": "after VAR"})


def _words_differ_more(found: Measurements) -> Outcome:
    """Maps of different words resemble each other less once sinks are out of them."""
    alike = {arm: _likeness(found, arm) for arm in found.labels("arm")}
    first, second = alike["all image tokens"], alike["without sinks"]
    told = f"correlation between words' maps {first:.3f}, without sinks {second:.3f}"
    return Outcome(None if np.isnan(first - second) else bool(second < first), told)


def _likeness(found: Measurements, arm: str) -> float:
    """The mean correlation of the maps of two words of one answer."""
    maps: dict[tuple[int, str], list[float]] = {}
    for row in found.where(arm=arm).rows:
        maps.setdefault((row["case"], row["word"]), []).append(row["value"])
    likeness = [
        np.corrcoef(maps[a], maps[b])[0, 1]
        for a in maps
        for b in maps
        if a[0] == b[0] and a[1] < b[1] and np.std(maps[a]) and np.std(maps[b])
    ]
    return float(np.mean(likeness)) if likeness else float("nan")


FIG1 = Entry(
    "A.fig1",
    "attention of words to image tokens, sinks boxed, before and after VAR",
    "VAR takes attention away from visual sinks",
    measure=OverCases(before_and_after, quick=2, full=10, at_once=1),
    outcome=_sinks_lose,
    figure="maps",
    axes=("word", "arm"),
    unit="attention to the patch (share)",
    note="Mean over heads of layers 10 to 12 of 32, scaled to the depth (the authors' answer in "
    "their tracker); VAR with rho = .5.",
)
FIG3D = Entry(
    "A.fig3d",
    "attention of words to image tokens, with visual sinks taken out of the maps",
    "without sinks, maps of different words differ more",
    measure=OverCases(without_sinks, quick=2, full=10, at_once=1),
    outcome=_words_differ_more,
    figure="maps",
    axes=("word", "arm"),
    unit="share of the attention to the image",
)
