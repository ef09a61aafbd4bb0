"""`run_dataset`: many prompts under one graph, in chunks that are written as they finish."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

from ..errors import InputError, ResultError, UnreachableError
from ..graph import EditGraph, Graphlike, as_graph
from ..results import Run
from .images import as_images, digest
from .lmm import LMM, Where

Tick = Callable[[int, int], None]
Sample = tuple[Any, str]


@final
class RunStore:
    """The runs of a data set on disk, in the order of the samples."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """The folders of all finished runs."""
        return sorted(self.folder.glob("chunk-*[0-9]/*"))

    def __len__(self) -> int:
        return len(self.paths())

    def __iter__(self) -> Iterator[Run]:
        return map(Run.load, self.paths())


def run_dataset(
    lmm: LMM,
    samples: Sequence[Sample],
    graph: Graphlike = None,
    *,
    folder: str | Path,
    max_new_tokens: int = 128,
    remote: Where = None,
    chunk: int = 16,
    attempts: int = 6,
    allow_large: bool = False,
    tick: Tick | None = None,
) -> RunStore:
    """Answer many prompts under a graph; after an interruption, the same call continues.

    A chunk is one request to the server, and is written completely or not at all. If the server
    does not answer or has lost the job, the chunk is sent again, after a wait that doubles.

    **Arguments:**

    - `samples`: pairs of an image and a prompt.
    - `folder`: where the runs are written.
    - `remote`, `allow_large`: as `LMM.run` takes them.
    - `chunk`: the number of samples per request.
    - `attempts`: how often a chunk is tried before its error is raised.
    - `tick`: called with the number of finished samples and of all samples.

    **Raises:** `ResultError` if the folder holds runs of other samples, or of another model, graph
    or sinks that the graph needs; `InputError` if there are no samples; else as `LMM.generate`.
    """
    if chunk < 1 or attempts < 1 or not samples:
        raise InputError("run_dataset needs samples, and a chunk and attempts of at least 1")
    asked, place = as_graph(graph), Path(folder)
    _claim(place, _about(lmm, samples, asked, max_new_tokens, chunk))
    for number, first in enumerate(range(0, len(samples), chunk)):
        done = place / f"chunk-{number:05d}"
        part = list(samples[first : first + chunk])
        if not done.exists():
            where = lmm.backend.server(remote)
            runs = _insist(
                lambda p=part, w=where: _answer(lmm, p, asked, max_new_tokens, w, allow_large),
                attempts,
            )
            _write(done, runs, first)
        if tick is not None:
            tick(min(first + chunk, len(samples)), len(samples))
    return RunStore(place)


def _answer(
    lmm: LMM,
    samples: list[Sample],
    graph: EditGraph,
    max_new_tokens: int,
    where: Any,
    allow_large: bool,
) -> list[Run]:
    if where is None:
        return [
            lmm.generate(*s, graph, max_new_tokens=max_new_tokens, allow_large=allow_large)
            for s in samples
        ]
    session = lmm.session(where, allow_large=allow_large)
    with session:
        for sample in samples:
            session.generate(*sample, graph, max_new_tokens=max_new_tokens)
    return session.runs


def _insist(attempt: Callable[[], list[Run]], attempts: int) -> list[Run]:
    for turn in range(attempts - 1):
        try:
            return attempt()
        except UnreachableError:
            time.sleep(min(0.5 * 2**turn, 60.0))
    return attempt()


def _write(done: Path, runs: list[Run], first: int) -> None:
    part = done.with_name(done.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for number, run in enumerate(runs, first):
        run.save(part / f"{number:06d}")
    part.rename(done)


def _about(
    lmm: LMM, samples: Sequence[Sample], graph: EditGraph, max_new_tokens: int, chunk: int
) -> dict[str, Any]:
    sinks = lmm.sinks if any(node.needs_sinks for node in graph) else None
    return {
        "model": lmm.name,
        "graph": repr(graph),
        "sinks": sinks and [list(sinks.dims), round(sinks.tau, 4)],
        "max_new_tokens": max_new_tokens,
        "chunk": chunk,
        "samples": len(samples),
        "digest": digest((as_images(image), repr(prompt)) for image, prompt in samples),
    }


def _claim(folder: Path, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = folder / "about.json"
    if not known.exists():
        written = folder / "about.json.part"
        written.write_text(json.dumps(about, indent=1))
        written.rename(known)
        return
    there = json.loads(known.read_text())
    if differ := [key for key in about if there.get(key) != about[key]]:
        raise ResultError(
            f"the rows in {folder} were not made by this call (they differ in: "
            f"{', '.join(differ)}); give another folder, or repeat the same call"
        )
