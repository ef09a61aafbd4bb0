"""`run_dataset`: many prompts under one graph, in chunks that are written as they finish."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from PIL import Image

from ..errors import InputError, unknown
from ..graph import Graphlike, as_graph
from ..storage import Shard, shard_log
from .graph_key import graph_key
from .images import digest
from .lmm import LMM, Where
from .progress import Tick, shown as ticking
from .ray_workers import OnRay
from .run_store import LOG, Chunk, RunStore, Sample, finished, opened, put
from .shards import merged_chunks
from .video import Video, as_shown
from .workers import ATTEMPTS, Here, Opener, Question, Workers

PLACES: Final = ("here", "ray")


def run_dataset(
    lmm: LMM | Opener,
    samples: Sequence[Sample],
    graph: Graphlike = None,
    *,
    folder: str | Path,
    max_new_tokens: int = 128,
    on: str = "here",
    replicas: int | None = None,
    gpus_per_replica: float | int | None = None,
    shard: Shard | None = None,
    remote: Where = None,
    chunk: int = 16,
    attempts: int | None = None,
    allow_large: bool = False,
    tick: Tick | None = None,
) -> RunStore:
    """Answer many prompts under a graph; after an interruption, the same call continues.

    A chunk is one request to a server, or one task of a replica on Ray, and is written completely
    or not at all. If the server does not answer or has lost the job, or the replica died, the chunk
    is taken again. A job may begin in one place and go on in another.

    ```python
    samples = [(image, "what is this?"), (other, "describe the image")]
    runs = vi.run_dataset(lmm, samples, vi.VAR(), folder="answers", max_new_tokens=4)
    [run.text for run in runs]
    ```

    **Arguments:**

    - `lmm`: a model; or a function without arguments that opens one, which on Ray every replica
        calls: `functools.partial(vi.LMM.from_pretrained, repo, device="cuda")`.
    - `samples`: pairs of an image, as `LMM.encode` takes it, and a prompt.
    - `folder`: where the runs are written; on Ray, one that all machines share.
    - `on`: `"here"`, this process; or `"ray"`, the cluster that `ray.init` finds, for which
        `pip install 'vsink-interp[ray]'`. Where there is none, one is started on this machine, and
        stopped at the end.
    - `replicas`, `gpus_per_replica`: on Ray, how many copies of the model answer, and how many GPUs
        each has, 0 for none; 1 and 1 by default.
    - `shard`: `(i, n)`: answer every n-th chunk alone, from chunk i on, as one of n processes that
        share the folder; `vsink merge FOLDER` joins what they wrote.
    - `remote`, `allow_large`: as `LMM.run` takes them; not on Ray.
    - `chunk`: the number of samples per request or task.
    - `attempts`: how often a chunk that a server or a replica did not answer is tried before its
        error is raised; 6 by default.
    - `tick`: in the place of a progress bar, called with the number of finished samples and of
        all samples.

    **Raises:** `ResultError` if the folder holds runs of other samples, or of another model, graph
    or sinks that the graph needs, or shards that were not merged; `InputError` if there are no
    samples, or for an argument that has no effect where they are answered; `CapabilityError` for
    replicas that the cluster has no room for; else as `LMM.generate`.
    """
    if chunk < 1 or (attempts is not None and attempts < 1) or not samples:
        raise InputError("run_dataset needs samples, and a chunk and attempts of at least 1")
    if not isinstance(lmm, LMM) and not callable(lmm):
        raise InputError(
            "run_dataset takes a model or a function without arguments that opens one, as "
            f"functools.partial(vi.LMM.from_pretrained, repo); got {lmm!r}"
        )
    refuse_place(on, shard, (replicas, gpus_per_replica), elsewhere=bool(remote or allow_large))
    place = Path(folder).absolute() if on == "ray" else Path(folder)
    question = Question(as_graph(graph), max_new_tokens, place)
    workers: Workers = (
        OnRay(lmm, 1 if replicas is None else replicas, gpus_per_replica, attempts or ATTEMPTS)
        if on == "ray"
        else Here(lmm, remote, attempts, allow_large=allow_large)
    )
    with workers:
        about = _about(samples, question, chunk) | workers.about(question)
        chunks = _Chunks(samples, chunk, shard or (0, 1), ticking(tick, "answers"))
        _answer(workers, question, chunks, about, shard)
    return RunStore(folder)


def refuse_place(
    on: str, shard: Shard | None, asked: tuple[Any, Any], *, elsewhere: bool = False
) -> None:
    """Refuse arguments that would be without effect where the work is done.

    **Arguments:**

    - `asked`: replicas and GPUs.
    - `elsewhere`: whether something was said of a server.
    """
    if on not in PLACES:
        raise InputError(unknown("place to run", on, PLACES))
    if on == "here" and asked != (None, None):
        raise InputError("replicas and gpus_per_replica are of on='ray'; say it, or leave them out")
    if on == "ray" and (elsewhere or shard is not None):
        raise InputError(
            "on='ray' opens the model on the cluster and shares its chunks out by itself: leave "
            "remote=, allow_large= and shard= out"
        )
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise InputError(f"shard={shard}: (i, n) is the i-th of n processes, with i from 0 to n-1")


@final
class _Chunks:
    """The chunks of a data set, or of one shard of it, and how many of their samples are done."""

    def __init__(self, samples: Sequence[Sample], size: int, shard: Shard, tick: Tick) -> None:
        self.samples, self.size, self.tick = samples, size, tick
        self.firsts = range(shard[0] * size, len(samples), shard[1] * size)
        self.total = sum(min(size, len(samples) - first) for first in self.firsts)
        self.done = 0

    def count(self, samples: int) -> None:
        """Tell of some samples that they are done."""
        self.done += samples
        self.tick(self.done, self.total)

    def left(self, is_done: Callable[[Chunk], bool]) -> Iterator[Chunk]:
        """The chunks that are to be answered; those that are done are counted."""
        for first in self.firsts:
            samples = list(self.samples[first : first + self.size])
            chunk = Chunk(first // self.size, first, samples)
            if is_done(chunk):
                self.count(len(samples))
            else:
                yield chunk


def _answer(
    workers: Workers,
    question: Question,
    chunks: _Chunks,
    about: Mapping[str, Any],
    shard: Shard | None,
) -> None:
    """Have all chunks answered that are not there, and write them."""
    folder = question.folder
    merged = merged_chunks(folder, about, shard)
    whole, own = folder / LOG, {} if shard is None else {"shard": [*shard]}
    with opened(shard_log(whole, shard) if shard else whole, {**about, **own}) as log:
        left = chunks.left(lambda one: one.name in merged or finished(log, folder, one))
        for made in workers.made(question, left):
            put(log, folder, made)
            chunks.count(len(made.sums))


def _asked(sample: Sample) -> tuple[list[Image.Image], str]:
    """What a sample shows, and what is asked about it: the prompt, and what videos are besides."""
    entry, prompt = sample
    shown = as_shown(entry)
    videos = [(len(one), one.fps, one.size) for one in shown if isinstance(one, Video)]
    frames = [image for one in shown for image in (one.frames if isinstance(one, Video) else [one])]
    return frames, repr((prompt, videos) if videos else prompt)


def _about(samples: Sequence[Sample], question: Question, chunk: int) -> dict[str, Any]:
    return {
        "graph": graph_key(question.graph),
        "max_new_tokens": question.max_new_tokens,
        "chunk": chunk,
        "samples": len(samples),
        "digest": digest(map(_asked, samples)),
    }
