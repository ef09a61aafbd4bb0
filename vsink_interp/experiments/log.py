"""What a long measurement has found so far, kept in a file that it can go on from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar, final

from ..errors import ResultError

Row = TypeVar("Row")
Tick: TypeAlias = Callable[[int, int], None]
"""Called with the steps done and their number."""


@final
class SweepLog(Generic[Row]):
    """What a sweep has found by step, kept in a JSONL file if there is one.

    **Arguments:**

    - `path`: the file; None keeps them in memory alone.
    - `setting`: what the sweep is; a file of another setting is refused.

    **Raises:** `ResultError` if the file belongs to another sweep.
    """

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path = path
        self.known: dict[str, Row] = {}
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            self._read(path, setting)
        else:
            path.write_text(json.dumps({"format": 1, "setting": setting}) + "\n")

    def _read(self, path: Path, setting: str) -> None:
        text = path.read_text()
        head, *lines = text.splitlines()
        if _setting(head) != setting:
            raise ResultError(f"{path} belongs to another sweep; remove it or name another file")
        if not text.endswith("\n"):
            with path.open("a") as file:
                file.write("\n")  # else the next row would go on where an earlier one was cut short
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the line on which an earlier sweep was cut short
            self.known[row["step"]] = row["answers"]

    def add(self, step: str, answers: Row) -> None:
        """Keep what one step has found, anything that JSON can carry."""
        self.known[step] = answers
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "answers": answers}) + "\n")


def _setting(head: str) -> str | None:
    """What the first line of a file says that the sweep is; None if it is no such line."""
    try:
        found = json.loads(head)
    except ValueError:
        return None
    return found.get("setting") if isinstance(found, dict) else None
