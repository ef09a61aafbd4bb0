"""Work in steps: done once, written as they are done, gone on with after a stop, and told of."""

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ..graph import Graphlike
from ..model import LMM, Tick
from ..model.progress import shown
from ..results import Run
from ..storage import Log, opened_log
from .answers import answered
from .cases import Cases
from .encoded_cases import EncodedCases

T = TypeVar("T")
Step: TypeAlias = tuple[str, Callable[[], T]]
"""A step by name, and what takes it."""
Arrays: TypeAlias = Mapping[str, np.ndarray]


def taken(
    steps: Iterable[Step[T]],
    count: int,
    about: Mapping[str, Any],
    *,
    log: Log = None,
    tick: Tick | None = None,
    what: str = "steps",
) -> Iterator[T]:
    """What each step gives; a step that a log knows is not taken again.

    **Arguments:**

    - `steps`: their names, each once, and what takes them; what they give JSON can hold.
    - `count`: how many there are.
    - `about`: what they depend on; a log of other work is refused.
    - `log`: a JSONL file to which each is written as soon as it is done.
    - `tick`: called in the place of a progress bar, after every step.
    - `what`: stands before the bar.
    """
    tell = shown(tick, what)
    with opened_log(log, about) as kept:
        for done, (name, take) in enumerate(steps, 1):
            if kept.wants(name):
                kept.add(name, take())
            tell(done, count)
            if name in kept.known:
                yield kept.known[name]


def by_batch(
    lmm: LMM,
    cases: Cases,
    graph: Graphlike,
    read: Callable[[Run], Arrays],
    about: Mapping[str, Any],
    *,
    log: Log = None,
    tick: Tick | None = None,
) -> Iterator[Arrays]:
    """What `read` takes of the run of each batch of cases, under a graph."""
    size = cases.batch_size
    starts = range(0, len(cases), size)

    def step(batch: Cases) -> Callable[[], Any]:
        return lambda: packed(read(answered(lmm, batch, graph)))

    steps = (
        (f"cases from {at}", step(one)) for at, one in zip(starts, cases.batches(), strict=True)
    )
    about = {**about, "batch_size": size}
    for found in taken(steps, len(starts), about, log=log, tick=tick, what="batches"):
        yield unpacked(found)


def texts(run: Run) -> list[Any]:
    """The answers of a batch."""
    return list(run.text)


def under_graphs(
    lmm: LMM,
    cases: Cases,
    graphs: Sequence[tuple[str, Graphlike]],
    about: Mapping[str, Any],
    read: Callable[[Run], list[Any]] = texts,
    *,
    log: Log = None,
    tick: Tick | None = None,
    what: str = "graphs",
) -> Iterator[list[Any]]:
    """Under each graph, by name, what `read` takes of the run of each case; a step for each batch.

    Each batch is encoded once, for all graphs. Graphs of one name are one.
    """
    asked, longest = EncodedCases(lmm, cases), cases.max_new_tokens

    def step(at: int, graph: Graphlike) -> Callable[[], list[Any]]:
        return lambda: read(lmm.generate(asked.batch(at), graph=graph, max_new_tokens=longest))

    steps = (
        (f"{name}, cases from {at}", step(at, graph))
        for name, graph in graphs
        for at in asked.starts
    )
    about, count = {**about, "batch_size": cases.batch_size}, len(graphs) * len(asked.starts)
    found: list[Any] = []
    for rows in taken(steps, count, about, log=log, tick=tick, what=what):
        found += rows
        if len(found) == len(cases):
            yield found
            found = []


def packed(arrays: Arrays) -> dict[str, Any]:
    """Arrays as JSON can hold them, to the last bit."""
    return {
        name: [str(one.dtype), one.shape, b64encode(np.ascontiguousarray(one).tobytes()).decode()]
        for name, one in arrays.items()
    }


def unpacked(plain: Mapping[str, Any]) -> Arrays:
    """The arrays that `packed` packed."""
    return {
        name: np.frombuffer(b64decode(text), dtype).reshape(shape)
        for name, (dtype, shape, text) in plain.items()
    }


def joined(parts: Iterable[Arrays], axis: int = -1) -> tuple[np.ndarray, ...]:
    """The arrays of all batches one after another, in their order by name."""
    found = list(parts)
    return tuple(np.concatenate([one[name] for one in found], axis) for name in found[0])
