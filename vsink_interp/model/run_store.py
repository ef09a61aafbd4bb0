"""`RunStore`: the runs of a data set on disk, written chunk by chunk, whole or not at all."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, final
from uuid import uuid4

from safetensors import SafetensorError

from ..errors import ResultError
from ..results import Run, Tables
from ..storage import RowLog, checksum, logged, make_folder, sync, unwritable

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
        known: dict[str, Sums] = {}
        for log in self.folder.glob("rows*.jsonl"):
            known |= logged(log)
        for name, sums in sorted(known.items()):
            _refuse_rows_missing(self.folder / name, sums)
        for path in self.paths():
            _refuse_changed(path, known.get(path.parent.name, {}).get(path.name, {}))
            yield Run.load(path)

    def to_parquet(self, folder: str | Path, *, mean: Sequence[str] = ()) -> Path:
        """Write what the probes recorded as tidy tables, which pandas, polars and duckdb read.

        One folder per probe (`SegmentMass`), and `answers`; in each a partition per chunk, so no
        more than one chunk is in memory. A row is a number that counts: its `sample`, the label of
        each axis, and `value`. `probes.json` says with which arguments each probe ran.

        ```py
        runs.to_parquet("tables", mean=["head", "query"])
        pandas.read_parquet("tables/SegmentMass")
        ```

        **Arguments:**

        - `folder`: a new or an empty one.
        - `mean`: axes over which records of numbers are averaged first, where they have them;
            without it a table has a row for every number that was recorded.

        **Returns:** the folder.

        **Raises:** `CapabilityError` without `pip install 'vsink-interp[data]'`; `ResultError` for
        rows that were changed, an axis that no record has, or a folder that holds something or
        cannot be written.
        """
        tables = Tables(folder, mean)
        rows = zip(self.paths(), self, strict=True)
        for name, part in groupby(rows, lambda row: row[0].parent.name):
            named = ((int(path.name), run) for path, run in part)
            tables.write(name.replace("chunk-", "chunk="), named)
        return tables.folder


@final
@dataclass(frozen=True, eq=False)
class Chunk:
    """Samples that are answered together: their folder is there whole, or not at all.

    **Attributes:**

    - `number`: which chunk of the data set it is.
    - `first`: the number of its first sample.
    """

    number: int
    first: int
    samples: Sequence[Sample]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"chunk-{self.number:05d}"

    @property
    def rows(self) -> list[str]:
        """The names of the folders of its runs."""
        return [f"{self.first + i:06d}" for i in range(len(self.samples))]


@final
@dataclass(frozen=True)
class Made:
    """A chunk that was answered and lies on the disk, but not yet under its name.

    **Attributes:**

    - `part`: the name of the folder that it lies in.
    """

    name: str
    part: str
    sums: Sums


def opened(path: Path, about: Mapping[str, Any]) -> RowLog[Sums]:
    """A log in a folder, whose holder alone writes there."""
    make_folder(path.parent)
    return RowLog(path, about)


def finished(log: RowLog[Sums], folder: Path, chunk: Chunk) -> bool:
    """Whether a chunk is there, as it was written; what a stop left of one is cleared away."""
    done = folder / chunk.name
    for left in folder.glob(f"{chunk.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    if chunk.name not in log.known or not done.exists():
        shutil.rmtree(done, ignore_errors=True)
        return False
    sums = log.known[chunk.name]
    if sorted(sums) != chunk.rows:
        raise ResultError(f"{log.path} does not list the rows of {done.name}; name another folder")
    refuse_changed(done, sums)
    log.forget(chunk.name)
    return True


def refuse_changed(done: Path, sums: Sums) -> None:
    """Refuse a chunk that is not what was written.

    **Raises:** `ResultError` naming what is missing or was changed.
    """
    _refuse_rows_missing(done, sums)
    for name, files in sums.items():
        _refuse_changed(done / name, files)


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


def write_part(folder: Path, chunk: Chunk, runs: Sequence[Run]) -> Made:
    """Write the runs of a chunk into a folder of their own, which `put` gives its name.

    **Raises:** `ResultError` if it cannot be written; then nothing is left of it.
    """
    part, sums = folder / f"{chunk.name}.{uuid4().hex[:12]}.part", {}
    try:
        for name, run in zip(chunk.rows, runs, strict=True):
            row = part / name
            run.save(row)
            sums[name] = {file.name: checksum(file) for file in sorted(row.iterdir())}
            for file in (*row.iterdir(), row):
                sync(file)
        sync(part)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise unwritable(part, error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Made(chunk.name, part.name, sums)


def put(log: RowLog[Sums], folder: Path, made: Made) -> None:
    """Give a chunk its name, and enter it in the log; from then on it is finished.

    **Raises:** `ResultError` if it is not there, or cannot be written.
    """
    part, done = folder / made.part, folder / made.name
    if not part.is_dir():
        raise ResultError(
            f"{made.name} was written, and {part} is not there: the processes that answer and this "
            "one do not see the same files; name a folder= that all machines share"
        )
    try:
        part.rename(done)
        sync(folder)
    except OSError as error:
        raise unwritable(done, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    log.add(made.name, made.sums)
    log.forget(made.name)
