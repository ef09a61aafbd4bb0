"""`run_dataset`: many prompts under one graph, in chunks that are written as they finish."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final
from uuid import uuid4

from PIL import Image
from safetensors import SafetensorError

from ..errors import InputError, ResultError, UnreachableError
from ..graph import EditGraph, Graphlike, as_graph
from ..results import Run
from ..storage import RowLog, checksum, logged, sync, unwritable
from .fingerprint import fingerprint
from .graph_key import graph_key
from .images import digest
from .lmm import LMM, Where
from .progress import Tick, shown as ticking
from .video import Video, as_shown

Sample = tuple[Any, str]
Sums: TypeAlias = Mapping[str, Mapping[str, str]]
"""The files of each row of a chunk, and their checksums."""
LOG = "rows.jsonl"


@final
class RunStore:
    """The runs of a data set on disk, in the order of the samples.

    ```python
    vi.run_dataset(lmm, [(image, prompt)], folder="answers", max_new_tokens=2)
    [run.text for run in vi.RunStore("answers")]              # in another process, later
    ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def paths(self) -> list[Path]:
        """The folders of all finished runs."""
        return sorted(self.folder.glob("chunk-*[0-9]/*"))

    def __len__(self) -> int:
        return len(self.paths())

    def __iter__(self) -> Iterator[Run]:
        """The runs, each compared with what was written.

        **Raises:** `ResultError` naming a row that is missing or was changed.
        """
        known = logged(self.folder / LOG)
        for name, sums in sorted(known.items()):
            _refuse_rows_missing(self.folder / name, sums)
        for path in self.paths():
            _refuse_changed(path, known.get(path.parent.name, {}).get(path.name, {}))
            yield Run.load(path)


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

    ```python
    samples = [(image, "what is this?"), (other, "describe the image")]
    runs = vi.run_dataset(lmm, samples, vi.VAR(), folder="answers", max_new_tokens=4)
    [run.text for run in runs]
    ```

    **Arguments:**

    - `samples`: pairs of an image, as `LMM.encode` takes it, and a prompt.
    - `folder`: where the runs are written.
    - `remote`, `allow_large`: as `LMM.run` takes them.
    - `chunk`: the number of samples per request.
    - `attempts`: how often a chunk is tried before its error is raised.
    - `tick`: in the place of a progress bar, called with the number of finished samples and of
        all samples.

    **Raises:** `ResultError` if the folder holds runs of other samples, or of another model, graph
    or sinks that the graph needs; `InputError` if there are no samples; else as `LMM.generate`.
    """
    if chunk < 1 or attempts < 1 or not samples:
        raise InputError("run_dataset needs samples, and a chunk and attempts of at least 1")
    asked, place = as_graph(graph), Path(folder)
    about = _about(lmm, samples, asked, max_new_tokens, chunk)
    tell = ticking(tick, "answers")
    with _opened(place, about) as log:
        for number, first in enumerate(range(0, len(samples), chunk)):
            done, part = place / f"chunk-{number:05d}", list(samples[first : first + chunk])
            if not _finished(log, done, range(first, first + len(part))):
                where = lmm.backend.server(remote)
                runs = _insist(
                    lambda p=part, w=where: _answer(lmm, p, asked, max_new_tokens, w, allow_large),
                    attempts,
                )
                log.add(done.name, _write(done, runs, first))
            tell(min(first + chunk, len(samples)), len(samples))
    return RunStore(place)


def _opened(place: Path, about: Mapping[str, Any]) -> RowLog[Sums]:
    """The log of a folder, whose holder alone writes there."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(place, error) from error
    return RowLog(place / LOG, about)


def _finished(log: RowLog[Sums], done: Path, rows: range) -> bool:
    """Whether a chunk is there, as it was written; what a stop left of one is cleared away."""
    for left in done.parent.glob(f"{done.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    if done.name not in log.known or not done.exists():
        shutil.rmtree(done, ignore_errors=True)
        return False
    sums = log.known[done.name]
    if sorted(sums) != [f"{row:06d}" for row in rows]:
        raise ResultError(f"{log.path} does not list the rows of {done.name}; name another folder")
    _refuse_rows_missing(done, sums)
    for name, files in sums.items():
        _refuse_changed(done / name, files)
    return True


def _refuse_rows_missing(done: Path, sums: Sums) -> None:
    if done.exists() and (lost := [name for name in sums if not (done / name).is_dir()]):
        raise ResultError(
            f"{done} has lost {len(lost)} of its {len(sums)} rows ({', '.join(lost[:3])}); remove "
            "that folder and call run_dataset again, and its rows are made anew"
        )


def _refuse_changed(row: Path, sums: Mapping[str, str]) -> None:
    for name, known in sums.items():
        if not (row / name).exists() or checksum(row / name) != known:
            raise ResultError(
                f"{row / name} is not what was written; remove the folder {row.parent} and call "
                "run_dataset again, and its rows are made anew"
            )


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


def _write(done: Path, runs: list[Run], first: int) -> Sums:
    """Write a chunk, whole or not at all; the checksums of its rows."""
    part, sums = done.with_name(f"{done.name}.{uuid4().hex[:12]}.part"), {}
    try:
        for number, run in enumerate(runs, first):
            row = part / f"{number:06d}"
            run.save(row)
            sums[row.name] = {file.name: checksum(file) for file in sorted(row.iterdir())}
            for file in (*row.iterdir(), row):
                sync(file)
        sync(part)
        part.rename(done)
        sync(done.parent)
    except (OSError, SafetensorError) as error:
        raise unwritable(done, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sums


def _asked(sample: Sample) -> tuple[list[Image.Image], str]:
    """What a sample shows, and what is asked about it: the prompt, and what videos are besides."""
    entry, prompt = sample
    shown = as_shown(entry)
    videos = [(len(one), one.fps, one.size) for one in shown if isinstance(one, Video)]
    frames = [image for one in shown for image in (one.frames if isinstance(one, Video) else [one])]
    return frames, repr((prompt, videos) if videos else prompt)


def _about(
    lmm: LMM, samples: Sequence[Sample], graph: EditGraph, max_new_tokens: int, chunk: int
) -> dict[str, Any]:
    sinks = lmm.sinks if any(node.needs_sinks for node in graph) else None
    return {
        "graph": graph_key(graph),
        "sinks": sinks and [list(sinks.dims), round(sinks.tau, 4)],
        "max_new_tokens": max_new_tokens,
        "chunk": chunk,
        "samples": len(samples),
        "digest": digest(map(_asked, samples)),
        **fingerprint(lmm),
    }
