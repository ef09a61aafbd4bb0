"""`Part`: some steps of a measurement, taken apart from the others, of which rows are kept."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias, final

from .row_log import RowLog, refuse_about
from .shard_logs import refuse_unmerged


@final
class Part(AbstractContextManager["Part"]):
    """In the place of a log: takes some steps of a measurement, and then ends it by `PartEnd`.

    Steps are those of the whole, with the place, batch and seeds that they have there; so what one
    gives does not depend on which others are taken in the same process.

    **Arguments:**

    - `path`: the log of the whole; None if there is none.
    - `wanted`: the steps to take, by name.
    - `keep`: told of every row as soon as it is there.
    - `about`: what the measurement is about, once it has said so.

    **Attributes:**

    - `steps`: all steps that the measurement has named so far, in their order.
    """

    known: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        path: Path | None,
        wanted: Collection[str],
        keep: Callable[[str, Any], None],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.wanted = frozenset(wanted)
        self.keep = keep
        self.about = about or {}
        self.steps: dict[str, None] = {}

    def wants(self, step: str) -> bool:
        """Whether to take a step; each once."""
        known = step in self.steps
        self.steps[step] = None
        return step in self.wanted and not known

    def add(self, step: str, answers: Any) -> None:
        """Tell of a row."""
        self.keep(step, answers)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            raise PartEnd(self)


@final
class PartEnd(BaseException):
    """Ends a measurement of which a part was taken: what follows needs the rows of all parts."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part


Log: TypeAlias = str | Path | RowLog[Any] | Part | None
"""Where the rows of a measurement are kept: a file, for users; or what `run_experiment` gives."""


def opened_log(log: Log, about: Mapping[str, Any]) -> RowLog[Any] | Part:
    """The log of a measurement, to be entered: ask `wants` of each step, and `add` its row.

    **Raises:** `ResultError` if shards of it were not merged, or it is about other work.
    """
    if isinstance(log, Part):
        return Part(log.path, log.wanted, log.keep, about)
    if isinstance(log, RowLog):
        refuse_about(log.path or Path(), log.about, RowLog(None, about).about)
        return log
    if log is not None:
        refuse_unmerged(Path(log))
    return RowLog(log, about)


def log_within(folder: Log, name: str) -> Log:
    """A log by its name, in a folder of logs."""
    if isinstance(folder, Part):
        return Part(folder.path and folder.path / name, folder.wanted, folder.keep)
    return Path(folder) / name if isinstance(folder, str | Path) else folder
