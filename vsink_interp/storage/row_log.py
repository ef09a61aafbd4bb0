"""`RowLog`: results of a long measurement, in a file from which it can continue."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, final

from ..errors import ResultError
from .fields import told
from .files import sync, unwritable

Row = TypeVar("Row")
FORMAT = 2


@final
class RowLog(AbstractContextManager["RowLog[Any]"], Generic[Row]):
    """The results of a measurement by step, also written to a JSONL file if one is given.

    One writer at a time; each row carries a checksum and is on the disk when `add` returns. A line
    that was cut short by a crash or a full disk is dropped: its step is done again. Entered again,
    it reads what others have added since, and no more.

    **Arguments:**

    - `path`: the file; None keeps results only in memory.
    - `about`: a JSON description of the measurement; a file with another one is refused.

    **Raises:** `ResultError` if the file is about other work, is damaged, cannot be written, or is
    being written by another process or thread.
    """

    def __init__(self, path: str | Path | None, about: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.about = json.loads(json.dumps(about))
        self.known: dict[str, Row] = {}
        self._file: FileIO | None = None
        self._seen = (0, 0)  # which file on the disk, and how much of it is known

    def __enter__(self) -> "RowLog[Row]":
        if self.path is None:
            return self
        try:
            self._file = self.path.open("a+b", buffering=0)
            self._open(self.path, self._file)
        except (OSError, ValueError) as error:
            self._close()
            raise unwritable(self.path, error) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path, file: FileIO) -> None:
        _claim(path, file)
        there = os.fstat(file.fileno())
        number, length = self._seen
        known = length if there.st_ino == number and there.st_size >= length else 0
        self.known = self.known if known else {}
        head = b"" if known else _line({"format": FORMAT, "about": self.about})
        file.seek(known)
        found = file.read()
        if not known and head.startswith(found):  # new, or cut short in its first line
            file.truncate(0)
            _write(file, head)
            sync(path.parent)
        else:
            self._learn(path, found, 1 if not known else len(self.known) + 2)
            file.truncate(known + found.rfind(b"\n") + 1)
        self._seen = (there.st_ino, file.seek(0, os.SEEK_END))

    def _learn(self, path: Path, found: bytes, first: int) -> None:
        rows = _rows(path, found, first)
        if first == 1:
            _refuse_other(path, next(rows), self.about)
        for row in rows:
            self.known[row["step"]] = row["answers"]

    def add(self, step: str, answers: Row) -> None:
        """Keep what one step has found, anything that JSON can carry.

        **Raises:** `ResultError` if it cannot be written.
        """
        self.known[step] = answers
        if self._file is None:
            return
        try:
            _write(self._file, _line({"step": step, "answers": answers}))
            self._seen = (self._seen[0], self._file.seek(0, os.SEEK_END))
        except OSError as error:
            raise unwritable(self.path, error) from error

    def wants(self, step: str) -> bool:
        """Whether a step is still to be taken."""
        return step not in self.known

    def forget(self, step: str) -> None:
        """Keep in memory of a step only that it is there, and not what it has found."""
        self.known[step] = cast("Row", None)


def described(path: Path) -> dict[str, Any] | None:
    """What a log is about; None if there is none, or it stopped in its first line.

    **Raises:** `ResultError` if it is damaged, or being written by another process or thread.
    """
    if not path.exists():
        return None
    with path.open("rb", buffering=0) as file:
        _claim(path, file, alone=False)
        line = file.readline()
    return next(_rows(path, line))["about"] if line.endswith(b"\n") else None


def logged(path: Path) -> dict[str, Any]:
    """The rows of a log, to look at; nothing if there is none.

    **Raises:** `ResultError` if it is damaged.
    """
    content = path.read_bytes() if path.exists() else b""
    if b"\n" not in content:  # not there, or stopped in its first line
        return {}
    found = _rows(path, content)
    next(found, None)
    return {row["step"]: row["answers"] for row in found}


def _claim(path: Path, file: FileIO, *, alone: bool = True) -> None:
    """Be the one writer, or one of its readers, until the file is closed or the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ResultError(
            f"{path} is being written by another process or thread; wait for it, or name another"
        ) from error
    except OSError:
        return  # a file system without locks


def _write(file: FileIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]
    os.fsync(file.fileno())


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps({**row, "sum": _sum(row)}).encode() + b"\n"


def _sum(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def _rows(path: Path, found: bytes, first: int = 1) -> Iterator[Any]:
    """The rows of a log from a line on; what follows the last end of a line was cut short.

    The first line is the head.
    """
    for number, line in enumerate(found.split(b"\n")[:-1], first):
        try:
            row = json.loads(line.decode())
            total = row.pop("sum")
            sound = total == _sum(row) and ("step" in row) == (number > 1)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            sound, row = False, {}
        if not sound and number == 1:
            raise _other(path, "its first line does not say what it is about")
        if not sound:
            raise ResultError(
                f"line {number} of {path} is damaged: {told(line)}; remove that line, and its step "
                "is done again"
            )
        yield row
    if first == 1 and b"\n" not in found:
        raise _other(path, "its first line does not say what it is about")


def _refuse_other(path: Path, head: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    if head.get("format") != FORMAT:
        raise _other(path, f"it has format {told(head.get('format'))}, not {FORMAT}")
    there = head.get("about")
    refuse_about(path, there if isinstance(there, Mapping) else {}, about)


def refuse_about(path: Path, known: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Refuse a log that is about other work than `about`.

    **Raises:** `ResultError` naming what differs.
    """
    if differ := [name for name in {**about, **known} if known.get(name) != about.get(name)]:
        raise _other(path, f"they differ in: {', '.join(differ)}")


def _other(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{path} belongs to another measurement, and its rows were not made by this call ({why}); "
        "name another file or folder, or ask for the same again"
    )
