"""`run_experiment`: an experiment whose steps are shared out among replicas or shards."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, final

from typing_extensions import override

from ..errors import InputError, ResultError
from ..storage import (
    SHARD,
    STEPS,
    Part,
    PartEnd,
    RowLog,
    Shard,
    make_folder,
    merged_steps,
    opened_log,
    refuse_unmerged,
    shard_log,
)
from .batch_runs import refuse_place
from .lmm import LMM
from .progress import Tick, shown, silent
from .ray_workers import OnRay
from .workers import ATTEMPTS, Opener, Work

R = TypeVar("R")
TURNS: Final = 4
"""How often a replica takes steps by default: seldom enough to spare what comes before them."""


def run_experiment(
    experiment: Callable[..., R],
    lmm: LMM | Opener,
    *,
    log: str | Path | None = None,
    on: str = "here",
    replicas: int | None = None,
    gpus_per_replica: float | int | None = None,
    shard: Shard | None = None,
    chunk: int | None = None,
    attempts: int | None = None,
    tick: Tick | None = None,
) -> R | Any:
    """Measure an experiment, a reproduction or an evaluation with several copies of a model.

    What it keeps in its `log` step by step (a batch of cases, a cut, an image) is shared out. Every
    process is given all cases and takes some of the steps, with the places, batches and seeds that
    they have in the whole; so the rows are those of one process. A log that was begun in one place
    goes on in another.

    ```py
    sweep = functools.partial(ex.knockout_sweep, cases=cases, window=3)
    opener = functools.partial(vi.LMM.from_pretrained, "llava-hf/llava-1.5-7b-hf", device="cuda")
    found = vi.run_experiment(sweep, opener, log="sweep.jsonl", on="ray", replicas=8)

    figure = functools.partial(vi.reproduce, "A.fig3b", data="coco")
    vi.run_experiment(figure, lmm, log="fig3b", shard=(0, 8))      # then: vsink merge fig3b
    ```

    **Arguments:**

    - `experiment`: a function of `vi.experiments` that takes `log=`, `vi.reproduce` or
        `vi.evaluate`, with all arguments but the model, `log` and `tick`.
    - `lmm`, `on`, `replicas`, `gpus_per_replica`, `attempts`: as `run_dataset` takes them.
    - `log`: as the experiment takes it. On Ray the leading process alone writes it.
    - `shard`: `(i, n)`: take every n-th step alone, from step i on, as one of n processes that
        share the folder of the log. When `vsink merge LOG` has joined their logs, the call without
        `shard` gives the result.
    - `chunk`: on Ray, how many steps a replica takes at a time; by default so many that each comes
        four times. What an experiment does before its first step is done anew each time.
    - `tick`: called in the place of a progress bar with the steps that are done, and of all.

    **Returns:** what the experiment gives; None for a shard.

    **Raises:** `InputError` for an experiment without steps, or for an argument that has no effect
    where it runs; `CapabilityError` for one that measures time; `ResultError` if the log belongs
    to other work, or its shards were not merged; else as `run_dataset` and the experiment.
    """
    refuse_place(on, shard, (replicas, gpus_per_replica))
    if (chunk is not None and chunk < 1) or (attempts is not None and attempts < 1):
        raise InputError(f"chunk={chunk} and attempts={attempts}: at least 1 each")
    _refuse_stepless(experiment)
    if on == "ray":
        work = Measurement(experiment, None if log is None else Path(log).absolute())
        count = 1 if replicas is None else replicas
        workers = OnRay(lmm, count, gpus_per_replica, ATTEMPTS if attempts is None else attempts)
        return _on_ray(workers, work, chunk, shown(tick, "steps"))
    if chunk is not None or attempts is not None:
        raise InputError("chunk and attempts are of on='ray'; say it, or leave them out")
    here = lmm if isinstance(lmm, LMM) else lmm()
    if shard is None:
        return experiment(here, log=log, tick=tick)
    if log is None:
        raise InputError(f"shard={shard} writes its rows beside log=; name one for all shards")
    _take_shard(here, Measurement(experiment, Path(log)), shard, shown(tick, "steps"))
    return None


def _refuse_stepless(experiment: Callable[..., Any]) -> None:
    """Refuse what has no steps to share out, or a log that would not be used."""
    name = _name(experiment)
    taken = inspect.signature(experiment).parameters
    free = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    if not (free or {"log", "tick"} <= taken.keys()):
        raise InputError(
            f"{name} takes no log= and tick=: it measures what it is given in one piece, and has "
            "no steps to share out. Call it; for many images share out vi.reproduce or run_dataset"
        )
    given = experiment.keywords if isinstance(experiment, partial) else {}
    if clash := {"log", "tick", "lmm"} & given.keys():
        raise InputError(f"give {', '.join(sorted(clash))} to run_experiment, not to {name}")


def _name(experiment: Callable[..., Any]) -> str:
    whole = experiment.func if isinstance(experiment, partial) else experiment
    return getattr(whole, "__name__", repr(whole))


@final
@dataclass(frozen=True, eq=False)
class Steps:
    """Some steps of an experiment, which one process takes.

    **Attributes:**

    - `name`: what errors call them.
    - `steps`: their names.
    """

    name: str
    steps: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Whole:
    """All steps with their rows, of which one process makes the result."""

    rows: RowLog[Any]
    name: str = "the result"


@final
@dataclass(frozen=True, eq=False)
class Measurement(Work):
    """An experiment, step by step.

    **Attributes:**

    - `experiment`: takes a model, `log` and `tick`.
    - `log`: where the rows of the whole are kept.
    """

    experiment: Callable[..., Any]
    log: Path | None

    @override
    def about(self, lmm: LMM) -> dict[str, Any]:
        part = self.part(lmm, (), lambda *_: None)
        return {**part.about, _LOG: part.path, _NAMES: [*part.steps]}

    @override
    def made(self, lmm: LMM, piece: Steps | Whole) -> Any:
        if isinstance(piece, Whole):
            return self.experiment(lmm, log=piece.rows, tick=silent)
        rows: dict[str, Any] = {}
        self.part(lmm, piece.steps, rows.__setitem__)
        return rows

    def part(self, lmm: LMM, steps: Collection[str], keep: Callable[[str, Any], None]) -> Part:
        """Take some steps.

        **Raises:** `InputError` if the experiment has no steps; `ResultError` if it has others.
        """
        try:
            self.experiment(lmm, log=Part(self.log, steps, keep), tick=silent)
        except PartEnd as end:
            if other := end.part.wanted.difference(end.part.steps):
                raise ResultError(
                    f"{_name(self.experiment)} has no longer the step {min(other)!r}; do its cases "
                    "change from call to call?"
                ) from None
            return end.part
        raise InputError(f"{_name(self.experiment)} kept no steps in log=: nothing to share out")


_LOG, _NAMES = "its log", "its steps"


def _told(about: Mapping[str, Any]) -> tuple[Path | None, list[str], dict[str, Any]]:
    """The log of an experiment, its steps, and what they depend on, as a file would hold it."""
    rest = {name: value for name, value in about.items() if name not in (_LOG, _NAMES)}
    return about[_LOG], about[_NAMES], RowLog[Any](None, rest).about


def _on_ray(workers: OnRay, work: Measurement, chunk: int | None, tell: Tick) -> Any:
    with workers:
        path, steps, about = _told(workers.about(work))
        if path is not None:
            make_folder(path.parent)
        with opened_log(path, about) as log:
            left = [step for step in steps if log.wants(step)]
            done = len(steps) - len(left)
            for rows in workers.made(work, _pieces(left, workers.count, chunk)):
                for step, row in rows.items():
                    log.add(step, row)
                done += len(rows)
                tell(done, len(steps))
        whole = RowLog[Any](None, about)
        whole.known = dict(log.known)
        (found,) = workers.made(work, [Whole(whole)])
    return found


def _pieces(left: Sequence[str], replicas: int, chunk: int | None) -> Iterator[Steps]:
    size = -(-len(left) // (TURNS * replicas)) if chunk is None else chunk
    for first in range(0, len(left), max(size, 1)):
        some = tuple(left[first : first + size])
        yield Steps(f"the steps from {some[0]!r} on", some)


def _take_shard(lmm: LMM, work: Measurement, shard: Shard, tell: Tick) -> None:
    path, steps, about = _told(work.about(lmm))
    assert path is not None  # noqa: S101 (a shard has a log)
    refuse_unmerged(path, shard)
    merged, mine = merged_steps(path, about), steps[shard[0] :: shard[1]]
    make_folder(path.parent)
    head = {**about, SHARD: [*shard], STEPS: len(steps)}
    with RowLog[Any](shard_log(path, shard), head) as rows:
        left = [step for step in mine if rows.wants(step) and step not in merged]
        done = len(mine) - len(left)

        def keep(step: str, row: Any) -> None:
            nonlocal done
            rows.add(step, row)
            done += 1
            tell(done, len(mine))

        if left:
            work.part(lmm, left, keep)
