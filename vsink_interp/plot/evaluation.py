"""The page of an evaluation: its scores, and every answer that changed with its image."""

from collections.abc import Iterator
from html import escape
from typing import Final

import numpy as np

from ..evaluation import Evaluation, Row, TaskAnswers
from .page import Section, note, photo, render, setting, table, text

MOST: Final = 40
"""How many changed answers of a task and graph the page shows with their image."""


def evaluation(found: Evaluation) -> str:
    """An evaluation as one HTML page that needs no other file.

    Scores first; then, for each task and graph, the answers whose reading changed: those that
    became wrong, those that became right, and the others.
    """
    sections = [_scores(found)]
    for name, answers in found.tasks.items():
        sections += [_flips(name, graph, answers) for graph in answers.answers if graph != "off"]
    graphs = "".join(
        f"<li><b>{escape(name)}</b>: <code>{escape(graph)}</code></li>"
        for name, graph in found.about["graphs"].items()
    )
    model, versions = str(found.about["model"]), found.about["versions"]
    return render(
        f"{model}: off and on",
        "<p>The same questions without an edit and under each graph.</p>",
        f"<ul>{graphs}</ul>",
        sections,
        "<p>"
        + escape(", ".join(f"{name} {number}" for name, number in versions.items()))
        + f"; weights {escape(str(found.about['weights']))}</p>",
    )


def _scores(found: Evaluation) -> Section:
    head = (
        "task",
        "split",
        "graph",
        "metric",
        "off",
        "on",
        "difference",
        "p",
        "became right/wrong",
    )
    rules = "; ".join(
        f"{name}: " + ", ".join(f"{key} {value}" for key, value in answers.task.rules.items())
        for name, answers in found.tasks.items()
    )
    body = table(head, [_row(row) for row in found.rows]) + setting(
        "Differences with their 95 % interval: paired bootstrap over images. p: exact two-sided "
        f"McNemar test over questions. Greedy answers. {escape(rules)}."
    )
    return Section("scores", "Scores", "", body)


def _row(row: Row) -> tuple[object, ...]:
    shown = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    p = "" if np.isnan(row.p) else f"{row.p:.3g}"
    counts = "" if np.isnan(row.p) else f"{row.won} / {row.lost}"
    return (row.task, row.split, row.graph, row.metric, row.off, row.on, shown, p, counts)


def _flips(name: str, graph: str, answers: TaskAnswers) -> Section:
    flips = sorted(answers.flips(graph), key=lambda flip: flip[3])
    lost, won = sum(flip[3] < 0 for flip in flips), sum(flip[3] > 0 for flip in flips)
    lead = text(
        f"{len(flips)} of {len(answers.task.questions)} answers read differently under "
        f"<code>{escape(graph)}</code>: {won} became right, {lost} became wrong."
    )
    body = lead + "".join(_cards(answers, flips[: MOST // 2] + flips[MOST // 2 :][-MOST // 2 :]))
    if len(flips) > MOST:
        body += note(f"{MOST} of {len(flips)} are shown.")
    return Section(f"{name}-{graph}", f"{name}: what {graph} changes", "", body)


def _cards(answers: TaskAnswers, flips: list) -> Iterator[str]:
    for question, off, on, gain in flips:
        verdict = "became right" if gain > 0 else "became wrong" if gain < 0 else "changed"
        truth = question.truth if isinstance(question.truth, str) else ", ".join(question.truth)
        rows = (
            ("asked", question.prompt),
            ("right", truth),
            ("off", off),
            ("on", on),
            ("read as", f"{answers.task.read(question, off)} → {answers.task.read(question, on)}"),
            ("", verdict),
        )
        image = photo(question.shown(), f"image {question.about}")
        yield f'<div class="pair">{image}<div>{table(("", ""), rows)}</div></div>'
