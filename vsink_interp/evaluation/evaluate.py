"""Benchmarks with an intervention off and on, over the same questions."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import InputError, NotationError, unknown
from ..graph import EditGraph, Graphlike, as_graph
from ..metrics import Judge
from ..model import LMM, fingerprint, graph_key
from ..storage import Log, opened_log
from . import toy_benchmark
from .chair import Chair
from .choice import CvBench, Mmvp
from .mme import Mme
from .mmhal import MmHal
from .pope import Pope
from .results import OFF, Evaluation, TaskAnswers
from .task import Question, Task
from .vqa import Vqa

Tick: TypeAlias = Callable[[int, int], None]
TOY: Final = ("pope", "mme", "chair")
"""The benchmarks that the toy has too."""
TASKS: Final[Mapping[str, Callable[..., Task]]] = {
    "pope": Pope.read_folder,
    "mme": Mme.read_folder,
    "chair": Chair.read_folder,
    "mmvp": Mmvp.read_folder,
    "cv-bench": CvBench.read_folder,
    "mmhal": MmHal.read_folder,
    "vqa": Vqa.read_folder,
}
"""The benchmarks by name, read from a folder."""
JUDGED: Final = "mmhal"
"""The one whose answers a judge rates."""


def load_tasks(
    names: Sequence[str],
    data: str | Path | None = None,
    limit: int | None = None,
    *,
    judge: Judge | None = None,
    first_seed: int = 0,
) -> tuple[Task, ...]:
    """Benchmarks by name: from a folder of their own files, or the toy benchmark.

    ```python
    (pope,) = vi.evaluation.load_tasks(["pope"], limit=6)              # of the toy benchmark
    pope.questions[0].prompt, pope.questions[0].truth
    ```

    **Arguments:**

    - `names`: of `"pope"`, `"mme"`, `"chair"`, `"mmvp"`, `"cv-bench"`, `"mmhal"`, `"vqa"`.
    - `data`: the folder; the toy benchmark if it is not given, which has the first three.
    - `limit`: at most about so many questions of each.
    - `judge`: who rates the answers of MMHal-Bench; words alone by default, which is rough.
    - `first_seed`: the first scene of the toy benchmark; others are other questions.

    **Raises:** `NotationError` for an unknown name; `InputError` if the folder lacks the files, or
    the toy benchmark the task, for a judge without a task that it rates, or for a seed where a
    folder says what is asked.
    """
    for name in names:
        if name not in TASKS:
            raise NotationError(unknown("task", name, TASKS))
    if judge is not None and JUDGED not in names:
        raise InputError(
            f"a judge rates the answers of {JUDGED} alone, and the tasks are {', '.join(names)}; "
            f"ask {JUDGED} as well, or leave the judge out"
        )
    if data is not None and not Path(data).is_dir():
        raise InputError(f"there is no folder {str(data)!r} with benchmarks")
    if data is not None and first_seed:
        raise InputError(f"first_seed={first_seed} is of the toy benchmark; {data} has its own")
    if data is not None:
        given = {JUDGED: {"judge": judge}}
        found = [TASKS[name](Path(data), **given.get(name, {})) for name in names]
    elif other := [name for name in names if name not in TOY]:
        raise InputError(
            f"{', '.join(other)} is asked from its own files: name their folder with data=...; the "
            f"toy benchmark has {', '.join(TOY)}"
        )
    else:
        shown = toy_benchmark.scenes(first_seed=first_seed)
        found = [getattr(toy_benchmark, name)(shown) for name in names]
    return tuple(task.limited(limit) for task in found)


def evaluate(
    lmm: LMM,
    tasks: Sequence[Task | str],
    graphs: Mapping[str, Graphlike],
    *,
    log: Log = None,
    batch_size: int = 16,
    remote: Any = None,
    tick: Tick | None = None,
) -> Evaluation:
    """Ask every question without an edit and under every graph, and compare.

    Off and every graph see the same encoding of the same batch. Answers are greedy.

    ```py
    found = vi.evaluate(lmm, ["pope", "mme"], {"var": vi.VAR(p=0.6, rho=0.5)}, log="answers.jsonl")
    print(found.table())
    ```

    **Arguments:**

    - `tasks`: benchmarks from `load_tasks`, or names of the toy benchmark's.
    - `graphs`: by the name that tables give them; `"off"` is taken.
    - `log`: a JSONL file that takes the answers as they come; a stopped evaluation goes on from it,
        and another judge rates the answers that are there.
    - `batch_size`: how many questions are asked at once.
    - `remote`: as `LMM.generate` takes it.
    - `tick`: told how many questions are done, and how many there are.

    **Returns:** an `Evaluation`.

    **Raises:** `InputError` without tasks or graphs, or for a batch size below 1; `ResultError` if
    the log is that of another evaluation; else as `LMM.generate`.
    """
    chosen = _tasks(tasks)
    arms = {name: as_graph(graph) for name, graph in graphs.items()}
    if not arms or OFF in arms or batch_size < 1:
        raise InputError(
            "evaluate needs at least one graph, under another name than 'off', and a batch_size of "
            f"at least 1; got graphs {', '.join(arms) or 'none'} and batch_size={batch_size}"
        )
    arms = {OFF: EditGraph(), **arms}
    server = lmm.backend.server(remote)
    about = {**_about(lmm, chosen, arms, batch_size), "server": server and server.host}
    total, done = sum(len(task.questions) for task in chosen), 0
    with opened_log(log, _of_answers(about)) as rows:
        for task in chosen:
            for batch in _batches(task, batch_size):
                key = f"{task.name}: {batch[0].id}"
                if rows.wants(key):
                    rows.add(key, _ask(lmm, task, batch, arms, remote))
                done += len(batch)
                if tick is not None:
                    tick(done, total)
    found = {task.name: _collected(task, rows.known, arms, batch_size) for task in chosen}
    return Evaluation({task.name: TaskAnswers(task, found[task.name]) for task in chosen}, about)


def _tasks(tasks: Sequence[Task | str]) -> tuple[Task, ...]:
    if isinstance(tasks, str) or not tasks:
        raise InputError(f"tasks is a list, as in ['pope', 'mme']; got {tasks!r}")
    chosen = tuple(load_tasks([t])[0] if isinstance(t, str) else t for t in tasks)
    names = [task.name for task in chosen]
    if len(set(names)) < len(names):
        raise InputError(f"each task once; got {', '.join(names)}")
    return chosen


def _batches(task: Task, size: int) -> Iterator[tuple[Question, ...]]:
    for start in range(0, len(task.questions), size):
        yield task.questions[start : start + size]


def _ask(
    lmm: LMM, task: Task, batch: Sequence[Question], arms: Mapping[str, EditGraph], remote: Any
) -> dict[str, list[str]]:
    """The answers of every arm to a batch, from one encoding."""
    encoding = lmm.encode([one.shown() for one in batch], [one.prompt for one in batch])
    return {
        name: list(
            lmm.generate(
                encoding, graph=graph, max_new_tokens=task.max_new_tokens, remote=remote
            ).text
        )
        for name, graph in arms.items()
    }


def _collected(
    task: Task, known: Mapping[str, Any], arms: Mapping[str, EditGraph], size: int
) -> dict[str, tuple[str, ...]]:
    answers: dict[str, list[str]] = {name: [] for name in arms}
    for batch in _batches(task, size):
        for name, texts in known[f"{task.name}: {batch[0].id}"].items():
            answers[name] += texts
    return {name: tuple(texts) for name, texts in answers.items()}


def _of_answers(about: Mapping[str, Any]) -> dict[str, Any]:
    """What answers depend on, of how a result came about: not on who rates them, and by what."""
    kept = ("source", "questions", "digest", "max_new_tokens")
    tasks = {name: {key: one[key] for key in kept} for name, one in about["tasks"].items()}
    return {**about, "tasks": tasks}


def _about(
    lmm: LMM, tasks: Sequence[Task], arms: Mapping[str, EditGraph], batch_size: int
) -> dict[str, Any]:
    def digest(task: Task) -> str:
        found = hashlib.sha256()
        for one in task.questions:
            found.update(repr((one.id, one.prompt, one.truth, one.about)).encode())
        return found.hexdigest()[:16]

    return {
        "graphs": {name: repr(graph) for name, graph in arms.items() if name != OFF},
        "keys": {name: graph_key(graph) for name, graph in arms.items()},
        "tasks": {
            task.name: {
                "source": task.source,
                "questions": len(task.questions),
                "digest": digest(task),
                "max_new_tokens": task.max_new_tokens,
                **task.rules,
            }
            for task in tasks
        },
        "decoding": "greedy",
        "batch_size": batch_size,
        "transformers": version("transformers"),
        **fingerprint(lmm),
    }
