"""What rows say about a claim: orderings of paired means, with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from ..metrics import paired_difference
from .entry import Outcome
from .measurements import CASE, ENDS, VALUE, Measurements, Row

TELLING: Final = ("accuracy", "f1", "score", "CHAIR_i", "CHAIR_s", "pair accuracy")
"""The scores that say whether answers are better; the others say how they differ."""


def higher(
    found: Measurements, more: Mapping[str, Any], less: Mapping[str, Any], least: float = 0.0
) -> Outcome:
    """Whether the measurements with some labels are higher than those with others, case by case.

    **Arguments:**

    - `more`, `less`: the labels of either.
    - `least`: how much higher they must be.

    **Returns:** what holds if the whole 95 % interval of the paired difference lies above `least`,
    what does not if it lies below; else it cannot be told.
    """
    a, b = _of(found, more), _of(found, less)
    cases = sorted(a.keys() & b.keys())
    if not cases:
        return Outcome(None, f"no case has both {_named(more)} and {_named(less)}")
    pair = paired_difference([b[case] for case in cases], [a[case] for case in cases])
    told = f"{_named(more)}: {pair.on:.3g}; {_named(less)}: {pair.off:.3g}; difference {pair}"
    if len(cases) < 2:
        return Outcome(None, f"{told}; one case")
    if pair.low > least:
        return Outcome(True, told)
    return Outcome(False if pair.high < least else None, told)


def both(*outcomes: Outcome) -> Outcome:
    """A claim of several parts: it holds if all hold, and does not if one does not."""
    holds = [one.holds for one in outcomes]
    verdict = False if False in holds else None if None in holds else True
    return Outcome(verdict, "; ".join(one.because for one in outcomes))


def of_all_splits(found: Measurements) -> Measurements:
    """Of benchmarks the scores over all splits; of one with a single split, its scores."""
    whole = {row["task"] for row in found.rows if row["split"] == "all"}
    rows = (row for row in found.rows if row["split"] == "all" or row["task"] not in whole)
    return replace(found, rows=tuple(rows))


def telling_scores(found: Measurements) -> Measurements:
    """Of benchmarks the scores that figures show, over all splits where these are scored together.

    Each arm has the interval of its difference from off, as far from the score of off.
    """
    if "of" not in found.factors or "score" not in found.labels("of"):
        return found
    changes = {_arm(row): row for row in found.rows if row["of"] == "difference"}
    scores = of_all_splits(found.where(of="score"))
    telling = (row for row in scores.rows if row["metric"] in TELLING)
    return replace(found, rows=tuple(_ended(row, changes.get(_arm(row))) for row in telling))


def _arm(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("task", "split", "metric", "arm"))


def _ended(score: Row, change: Row | None) -> Row:
    if change is None:
        return score
    off = score[VALUE] - change[VALUE]
    return {**score, **{end: off + change.get(end, np.nan) for end in ENDS}}


def improved(found: Measurements, arm: str = "VAR") -> Outcome:
    """Whether an arm of a benchmark beats off: its differences, and their intervals."""
    rows = [row for row in of_all_splits(found).rows if row["metric"] in TELLING]
    rows = [row for row in rows if row["arm"] == arm and row["of"] == "difference"]
    signs = [_sign(row) for row in rows]
    told = ", ".join(
        f"{r['task']} {r['metric']} {r[VALUE]:+.3g} [{r['low']:+.3g}, {r['high']:+.3g}]"
        for r in rows
    )
    if not rows or any(sign is None for sign in signs):
        return Outcome(None, f"{arm}: {told or 'not measured'}")
    return Outcome(all(sign > 0 for sign in signs if sign is not None), f"{arm}: {told}")


def ahead(found: Measurements, arm: str, others: Sequence[str], metric: str) -> Outcome:
    """Whether an arm of a benchmark scores higher than others do, by what each changes from off.

    **Returns:** what holds if its 95 % interval lies above that of every other, what does not if it
    lies below one of these; else it cannot be told. That asks for more than an interval of the
    difference between two arms would, which the rows do not hold.
    """
    rows = [row for row in of_all_splits(found).rows if row["metric"] == metric]
    rows = [row for row in rows if row["of"] == "difference" and row["arm"] in (arm, *others)]
    told = ", ".join(
        f"{r['task']} {r['arm']} {r[VALUE]:+.3g} [{r['low']:+.3g}, {r['high']:+.3g}]" for r in rows
    )
    pairs = [
        (mine, other)
        for mine in (row for row in rows if row["arm"] == arm)
        for other in (row for row in rows if row["arm"] != arm and row["task"] == mine["task"])
    ]
    holds = None
    if any(mine["high"] < other["low"] for mine, other in pairs):
        holds = False
    elif pairs and all(mine["low"] > other["high"] for mine, other in pairs):
        holds = True
    return Outcome(holds, f"{metric} from off: {told or 'not measured'}")


def _sign(row: Mapping[str, Any]) -> int | None:
    """1 for better, -1 for worse, None where the interval holds zero; CHAIR counts downwards."""
    if np.isnan(row["low"]) or row["low"] <= 0 <= row["high"]:
        return None
    better = 1 if row[VALUE] > 0 else -1
    return -better if row["metric"].startswith("CHAIR") else better


def _of(found: Measurements, group: Mapping[str, Any]) -> dict[Any, float]:
    cases: dict[Any, list[float]] = {}
    for row in found.rows:
        if CASE in row and group.items() <= row.items() and not np.isnan(row[VALUE]):
            cases.setdefault(row[CASE], []).append(row[VALUE])
    return {case: float(np.mean(values)) for case, values in cases.items()}


def _named(group: Mapping[str, Any]) -> str:
    """Labels in words: words alone, and numbers with what they number."""
    labels = group.items()
    return ", ".join(str(v) if isinstance(v, str) else f"{name} {v}" for name, v in labels)


def shown_only(found: Measurements) -> Outcome:
    """For figures that state no ordering: there is something to look at, and no verdict."""
    return Outcome(None, f"{len(found.rows)} measurements to look at; no ordering is claimed")
