"""What an evaluation found: answers off and on, and the tables that they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Float

from ..metrics import mcnemar
from ..results.recorded import optional_package
from .task import Metric, Question, Task

if TYPE_CHECKING:
    import pandas

OFF: Final = "off"
ALL: Final = "all"
DRAWS: Final = 2000
"""How many bootstrap samples an interval stands on."""


@final
@dataclass(frozen=True)
class Row:
    """One score of one part of a benchmark, off and on.

    **Attributes:**

    - `task`, `split`, `graph`, `metric`: what it is; split `"all"` is all of them together.
    - `off`, `on`: the score without and with the graph.
    - `low`, `high`: the 95 % interval of `on - off`: paired bootstrap over images; NaN where a
        part has one image only.
    - `p`: for the first metric of a task, the exact two-sided McNemar test over questions: answers
        that became right against those that became wrong; NaN elsewhere.
    - `questions`: how many there are.
    - `changed`, `won`, `lost`: answers whose text changed, that became right, that became wrong.
    """

    task: str
    split: str
    graph: str
    metric: str
    off: float
    on: float
    low: float
    high: float
    p: float
    questions: int
    changed: int
    won: int
    lost: int

    @property
    def difference(self) -> float:
        """`on - off`."""
        return self.on - self.off


@final
@dataclass(frozen=True, eq=False)
class TaskAnswers:
    """The answers to a benchmark's questions, of every arm.

    **Attributes:**

    - `task`: the benchmark.
    - `answers`: by arm (`"off"`, and the name of every graph), a text for each question.
    """

    task: Task
    answers: Mapping[str, tuple[str, ...]]

    def rows(self) -> Iterator[Row]:
        """Every score of every split, for each graph."""
        splits = list(dict.fromkeys(one.split for one in self.task.questions))
        for graph in self.answers:
            if graph == OFF:
                continue
            for split in [*splits, *[ALL] * (len(splits) > 1)]:
                yield from self._split(graph, split, splits)

    def _split(self, graph: str, split: str, splits: Sequence[str]) -> Iterator[Row]:
        parts = splits if split == ALL else [split]
        if split == ALL and self.task.overall == "pooled":
            stacks = [
                tuple(np.concatenate([self._sums(a, p) for p in parts]) for a in (OFF, graph))
            ]
            weights = [1.0]
        else:
            stacks = [tuple(self._sums(arm, part) for arm in (OFF, graph)) for part in parts]
            known = self.task.weights
            weights = [known[part] if split == ALL else 1.0 for part in parts]
        asked = [i for i, one in enumerate(self.task.questions) if one.split in parts]
        counts = self._changes(graph, asked)
        for number, (name, metric) in enumerate(self.task.metrics.items()):
            if len(stacks) > 1 and number:
                return  # sums over subtasks are defined for the score alone
            off, on, low, high = _compared(metric, stacks, weights)
            p = counts.p if number == 0 else float("nan")
            yield Row(
                self.task.name, split, graph, name, off, on, low, high, p,
                len(asked), *counts.numbers,
            )  # fmt: skip

    def _changes(self, graph: str, asked: Sequence[int]) -> "_Changes":
        off, on = self.answers[OFF], self.answers[graph]
        before, after = (
            [self.task.right(self.task.questions[i], arm[i]) for i in asked] for arm in (off, on)
        )
        won = sum(a > b for a, b in zip(after, before, strict=True))
        lost = sum(a < b for a, b in zip(after, before, strict=True))
        changed = sum(off[i] != on[i] for i in asked)
        return _Changes(mcnemar(won, lost), (changed, won, lost))

    def _sums(self, arm: str, split: str) -> Float[np.ndarray, "image feature"]:
        """The features of each image of a split."""
        found = self._features.get((arm, split))
        if found is None:
            images: dict[str, list[tuple[Question, str]]] = {}
            for one, text in zip(self.task.questions, self.answers[arm], strict=True):
                if one.split == split:
                    images.setdefault(one.about, []).append((one, text))
            found = np.stack([self.task.measured(asked) for asked in images.values()])
            self._features[arm, split] = found
        return found

    @cached_property
    def _features(self) -> dict[tuple[str, str], Float[np.ndarray, "image feature"]]:
        return {}

    def flips(self, graph: str) -> list[tuple[Question, str, str, float]]:
        """Questions whose reading changed: both answers, and how much more right the second is."""
        found = []
        arms = zip(self.task.questions, self.answers[OFF], self.answers[graph], strict=True)
        for one, off, on in arms:
            if self.task.read(one, off) != self.task.read(one, on):
                gain = self.task.right(one, on) - self.task.right(one, off)
                found.append((one, off, on, gain))
        return found

    def unread(self, arm: str) -> int:
        """How many answers of an arm the scorer reads nothing in: no yes or no, no option."""
        if not self.task.lacking:
            return 0
        texts = zip(self.task.questions, self.answers[arm], strict=True)
        return sum(self.task.read(one, text) == "other" for one, text in texts)


@final
@dataclass(frozen=True)
class _Changes:
    p: float
    numbers: tuple[int, int, int]


def _compared(
    metric: Metric,
    stacks: Sequence[tuple[Float[np.ndarray, "_ feature"], ...]],
    weights: Sequence[float],
) -> tuple[float, float, float, float]:
    """Off, on, and the interval of their difference; a weighted sum over the stacks."""
    rng = np.random.default_rng(0)
    off, on = (
        sum(
            weight * float(metric(pair[arm].sum(0, keepdims=True))[0])
            for pair, weight in zip(stacks, weights, strict=True)
        )
        for arm in (0, 1)
    )
    if min(len(pair[0]) for pair in stacks) < 2:
        return off, on, float("nan"), float("nan")
    drawn = np.zeros(DRAWS)
    for (before, after), weight in zip(stacks, weights, strict=True):
        n = len(before)
        for start in range(0, DRAWS, 250):
            often = rng.multinomial(n, np.full(n, 1 / n), 250).astype(float)
            stop = start + 250
            drawn[start:stop] += weight * (metric(often @ after) - metric(often @ before))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return off, on, float(low), float(high)


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """Benchmarks off and on under some graphs, over the same questions.

    **Attributes:**

    - `tasks`: the answers by name of the benchmark.
    - `about`: model, versions, graphs, prompts and rules, as they were.
    """

    tasks: Mapping[str, TaskAnswers]
    about: Mapping[str, Any]

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every score of every split, for each graph."""
        return tuple(row for answers in self.tasks.values() for row in answers.rows())

    def __repr__(self) -> str:
        sizes = ", ".join(f"{n}: {len(a.task.questions)}" for n, a in self.tasks.items())
        return f"Evaluation({sizes}; graphs: {', '.join(self.about['graphs'])})"

    def table(self) -> str:
        """The scores as text: off, on, the difference with its interval, and the test."""
        head = f"{'task':6} {'split':12} {'graph':14} {'metric':10} {'off':>8} {'on':>8}  "
        lines = [head + "difference [95 % over images]        p  changed  +won -lost"]
        for row in self.rows:
            p = "" if np.isnan(row.p) else f"{row.p:8.3g}"
            counts = f"{row.changed:8}  +{row.won:<4}-{row.lost}" if p else ""
            lines.append(
                f"{row.task:6} {row.split:12} {row.graph:14} {row.metric:10} {row.off:8.3f} "
                f"{row.on:8.3f}  {row.difference:+8.3f} [{row.low:+8.3f}, {row.high:+8.3f}] "
                f"{p:>8} {counts}".rstrip()
            )
        unread = [
            f"{name}: {answers.unread(arm)} answers of {arm} {answers.task.lacking}"
            for name, answers in self.tasks.items()
            for arm in answers.answers
            if answers.unread(arm)
        ]
        return "\n".join([*lines, *unread])

    def to_pandas(self) -> "pandas.DataFrame":
        """One line a score; needs the package pandas."""
        pandas = optional_package("pandas")
        return pandas.DataFrame([vars(row) | {"difference": row.difference} for row in self.rows])

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold of it: scores, counts, and how they came about."""
        return {
            "tasks": {name: self._task_json(name) for name in self.tasks},
            "about": dict(self.about),
        }

    def _task_json(self, name: str) -> dict[str, Any]:
        answers = self.tasks[name]
        rows = [
            {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in vars(row).items()}
            | {"difference": row.difference}
            for row in self.rows
            if row.task == name
        ]
        return {
            "questions": len(answers.task.questions),
            "source": answers.task.source,
            "rules": dict(answers.task.rules),
            "unread": {arm: answers.unread(arm) for arm in answers.answers},
            "scores": rows,
        }
