"""Shards: a data set answered by processes that know nothing of each other, and joined later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ResultError
from ..storage import (
    STEPS,
    RowLog,
    Shard,
    described,
    merged_steps,
    refuse_unmerged,
    shard_logs,
    sync,
)
from .run_store import LOG, RunStore, Sums, opened, refuse_changed


def merged_chunks(folder: Path, about: Mapping[str, Any], shard: Shard | None) -> frozenset[str]:
    """The chunks that a shard finds in the log of the whole data set; none for the whole itself.

    **Raises:** `ResultError` if the folder belongs to another data set, to other shards, or is
    being written by a process that answers all of it.
    """
    refuse_unmerged(folder / LOG, shard, folder)
    return frozenset() if shard is None else merged_steps(folder / LOG, about)


def merge_shards(folder: str | Path) -> RunStore:
    """Join the shards of a data set: the folder is then as one process would have written it.

    ```python
    samples, how = [(image, prompt), (other, prompt)], {"chunk": 1, "max_new_tokens": 2}
    for i in range(2):                                        # each in a process of its own
        vi.run_dataset(lmm, samples, folder="sharded", shard=(i, 2), **how)
    [run.text for run in vi.merge_shards("sharded")]
    ```

    What a shard left undone is answered by calling it, or `run_dataset` without `shard`, again.

    **Raises:** `ResultError` if there are no shards, they are about different work, one is still
    being written, or rows of one are not what was written.
    """
    place = Path(folder)
    paths = shard_logs(place / LOG)
    if not paths and not (place / LOG).exists():
        raise ResultError(f"{place} holds no shards: run_dataset(..., shard=(i, n)) writes them")
    known = {path: about for path in paths if (about := described(path)) is not None}
    if steps := [path.name for path, about in known.items() if STEPS in about]:
        raise ResultError(f"{place} holds shards of an experiment: {steps[0]}; vsink merge {place}")
    for path, about in known.items():
        whole = {name: value for name, value in about.items() if name != "shard"}
        with opened(place / LOG, whole) as log, opened(path, about) as shard:
            _adopt(log, shard, place)
    for path in paths:
        path.unlink()
    sync(place)
    return RunStore(place)


def wanted(folder: Path) -> int:
    """How many samples the data set of a folder has, be they answered or not."""
    about = described(folder / LOG)
    return 0 if about is None else about["samples"]


def _adopt(log: RowLog[Sums], shard: RowLog[Sums], folder: Path) -> None:
    """Enter the finished chunks of a shard in the log of the whole."""
    for name, sums in shard.known.items():
        if name not in log.known and (folder / name).exists():
            refuse_changed(folder / name, sums)
            log.add(name, sums)
