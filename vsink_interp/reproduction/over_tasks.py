"""Measure a reproduction on benchmarks: off and some graphs, over the same questions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, final

from ..errors import InputError
from ..evaluation import Evaluation, Task, evaluate, load_tasks
from ..graph import Graphlike
from ..model import LMM
from ..model.progress import shown
from ..storage import log_within
from .entry import Measured, Setup
from .measurements import Row


@final
@dataclass(frozen=True)
class Arm:
    """One condition of a benchmark: a graph, and the labels of its rows beside its name."""

    graph: Graphlike
    labels: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class OverTasks:
    """Measures an entry by the scores of benchmarks.

    **Attributes:**

    - `tasks`: the benchmarks; of the user's folder those that it holds.
    - `arms`: the graphs by name, for a model.
    - `toy`: the benchmarks of the toy, where no folder is given.
    - `quick`, `full`: how many questions of each there are by default.
    - `at_once`: how many are asked together.
    """

    tasks: Sequence[str]
    arms: Callable[[LMM, Setup], Mapping[str, Arm]]
    _: KW_ONLY
    toy: Sequence[str]
    quick: int = 24
    full: int = 3000
    at_once: int = 16

    def __call__(self, name: str, lmm: LMM, setup: Setup) -> Measured:
        """One row for each score of each arm, and for each difference from off."""
        tasks = self._tasks(setup)
        arms = self.arms(lmm, setup)
        log = log_within(setup.log, f"{name}.answers.jsonl")
        found = evaluate(
            lmm,
            tasks,
            {label: arm.graph for label, arm in arms.items()},
            batch_size=self.at_once,
            log=log,
            tick=shown(setup.tick, name),
        )
        data = ", ".join(f"{name} {one['digest']}" for name, one in found.about["tasks"].items())
        return Measured(tuple(_rows(found, arms)), {}, data)

    def _tasks(self, setup: Setup) -> tuple[Task, ...]:
        count = setup.count(self.quick, self.full)
        if setup.data is None:
            return load_tasks(list(self.toy), None, count, first_seed=setup.seed)
        loaded, missing = [], []
        for one in self.tasks:
            try:
                loaded += load_tasks([one], setup.data, count)
            except InputError as error:
                missing.append(f"{one}: {error}")
        if not loaded:
            raise InputError(f"{setup.data} holds none of the benchmarks. " + "; ".join(missing))
        return tuple(loaded)


def _rows(found: Evaluation, arms: Mapping[str, Arm]) -> Iterator[Row]:
    labels = {key: "" for arm in arms.values() for key in arm.labels}
    seen = set()
    for row in found.rows:
        part = {"task": row.task, "split": row.split, "metric": row.metric}
        if (key := tuple(part.values())) not in seen:
            seen.add(key)
            yield {**part, "arm": "off", **labels, "of": "score", "value": row.off}
        own = {**part, "arm": row.graph, **labels, **arms[row.graph].labels}
        yield {**own, "of": "score", "value": row.on}
        ends = {"low": row.low, "high": row.high}
        yield {**own, "of": "difference", "value": row.difference, **ends}
