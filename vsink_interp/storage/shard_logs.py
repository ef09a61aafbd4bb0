"""Logs in parts: what processes that know nothing of each other wrote, joined by step."""

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any, Final, TypeAlias

from ..errors import ResultError
from .files import sync
from .row_log import RowLog, described, logged, refuse_about

Shard: TypeAlias = tuple[int, int]
"""Which of how many processes this one is, counted from 0."""
PATTERN: Final = "[0-9][0-9][0-9][0-9]*-of-[0-9][0-9][0-9][0-9]*"
SHARD, STEPS = "shard", "steps"
"""What the log of a shard says in its head beside what its work is about."""


def shard_log(whole: Path, shard: Shard) -> Path:
    """The log of a shard, beside that of the whole."""
    number, count = shard
    return whole.with_name(f"{whole.stem}.{number:04d}-of-{count:04d}{whole.suffix}")


def shard_logs(whole: Path) -> list[Path]:
    """The logs of all shards that are there."""
    return sorted(whole.parent.glob(f"{escape(whole.stem)}.{PATTERN}{escape(whole.suffix)}"))


def refuse_unmerged(whole: Path, shard: Shard | None = None, at: Path | None = None) -> None:
    """Refuse a log beside which others lie that were not merged into it.

    **Arguments:**

    - `shard`: the caller, if it is one of the shards; others of the same number may be there.
    - `at`: what `vsink merge` is to be given; the log by default.

    **Raises:** `ResultError` naming the logs, and what joins them.
    """
    alike = None if shard is None else f"-of-{shard[1]:04d}{whole.suffix}"
    names = [path.name for path in shard_logs(whole)]
    if other := [name for name in names if alike is None or not name.endswith(alike)]:
        raise ResultError(
            f"{whole.parent} holds shards that were not merged ({', '.join(other[:3])}); call "
            f"`vsink merge {at or whole}` when they have ended"
        )


def merged_steps(whole: Path, about: Mapping[str, Any]) -> frozenset[str]:
    """The steps that a shard finds in the log of the whole.

    **Raises:** `ResultError` if that is about other work, or being written.
    """
    there = described(whole)
    if there is None:
        return frozenset()
    refuse_about(whole, there, about)
    return frozenset(logged(whole))


def merge_logs(place: str | Path) -> dict[Path, dict[str, int]]:
    """Join what `run_experiment(..., shard=(i, n))` wrote in n processes, each row once.

    The log of the whole is then as one process would have written it, but for the order of its
    lines; what shards left undone is measured by the call without `shard`, or by a shard.

    **Arguments:**

    - `place`: what was given as `log=`: a file, or a folder with the logs of reproductions.

    **Returns:** of each log how many `rows` it holds, and how many `steps` its shards say there
    are; as many as rows where it has no shards.

    **Raises:** `ResultError` if there is neither log nor shard, they are about different work, or
    one is still being written.
    """
    path = Path(place)
    wholes = _wholes(path) if path.is_dir() else [path]
    found = {whole: _merged(whole) for whole in wholes if whole.exists() or shard_logs(whole)}
    if not found:
        raise ResultError(f"{place} holds no shards: run_experiment(..., shard=(i, n)) writes them")
    return found


def holds_steps(place: Path) -> bool:
    """Whether what is to be merged are logs of steps, and not the answers to a data set."""
    return bool(_wholes(place)) if place.is_dir() else True


def _wholes(folder: Path) -> list[Path]:
    """The logs of steps in a folder of which there are shards."""
    shards = (path for path in folder.glob(f"*.{PATTERN}") if STEPS in (described(path) or ()))
    return sorted({path.with_name(path.stem.rpartition(".")[0] + path.suffix) for path in shards})


def _merged(whole: Path) -> dict[str, int]:
    paths, steps = shard_logs(whole), 0
    for path in paths:
        head = described(path)
        if head is None:  # stopped in its first line
            continue
        if not {SHARD, STEPS} <= head.keys():
            raise ResultError(f"{path} is no shard of an experiment, but of a data set's answers")
        steps = max(steps, head[STEPS])
        about = {name: value for name, value in head.items() if name not in (SHARD, STEPS)}
        with RowLog[Any](whole, about) as log, RowLog[Any](path, head) as shard:
            for step in shard.known.keys() - log.known.keys():
                log.add(step, shard.known[step])
    for path in paths:
        path.unlink()
    sync(whole.parent)
    rows = len(logged(whole))
    return {"rows": rows, "steps": steps if paths else rows}
