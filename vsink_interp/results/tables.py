"""Records of many runs as tidy tables in Parquet files."""

import json
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias, final

from ..errors import CapabilityError, ResultError
from ..storage import write_bytes, write_text
from .recorded import Recorded, optional_package
from .run import Run
from .words import WORD

Reduction: TypeAlias = Callable[[Recorded], Recorded]
ANSWERS = "answers"
"""The table of the answers themselves."""


@final
class Tables:
    """A folder of tables: one for each probe, and one of the answers.

    **Arguments:**

    - `reduce`: applied to every record before it is written; it keeps the axis `batch`.

    **Raises:** `CapabilityError` without the packages pandas and pyarrow; `ResultError` for a
    folder that holds something.
    """

    def __init__(self, folder: str | Path, reduce: Reduction | None = None) -> None:
        self.folder = Path(folder)
        self.reduce = reduce
        self.names: dict[str, str] = {}
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ResultError(
                f"{self.folder} holds something already, and what is left of other tables would be "
                "read with these; remove it, or name another folder"
            )
        self._pandas = optional_package("pandas")
        try:
            self._arrow = optional_package("pyarrow.parquet"), optional_package("pyarrow")
        except CapabilityError as error:
            raise CapabilityError(
                "Parquet files need the package pyarrow: pip install 'vsink-interp[data]'"
            ) from error

    def write(self, part: str, runs: Iterable[tuple[int, Run]]) -> None:
        """Write the tables of some runs, with the number of the sample of each, as one partition.

        **Raises:** `ResultError` if they cannot be written.
        """
        found: dict[str, list[Any]] = {}
        for sample, run in runs:
            found.setdefault(ANSWERS, []).append(self._answer(sample, run))
            for name, record in run.records.items():
                found.setdefault(self._named(name), []).append(self._record(sample, record))
        parquet, arrow = self._arrow
        for name, tables in found.items():
            table = self._pandas.concat(tables, ignore_index=True)
            content = BytesIO()
            parquet.write_table(arrow.Table.from_pandas(table, preserve_index=False), content)
            place = self.folder / name / part
            place.mkdir(parents=True, exist_ok=True)
            write_bytes(place / "rows.parquet", content.getvalue())
        write_text(self.folder / "probes.json", json.dumps(self.names, indent=1))

    def _named(self, probe: str) -> str:
        """The folder of a probe's table: its class, numbered where several share one."""
        known = {whole: name for name, whole in self.names.items()}
        if probe in known:
            return known[probe]
        if probe.endswith(WORD):
            name = self._named(probe.removesuffix(WORD)) + WORD
        else:
            kind = probe.partition("(")[0]
            alike = [n for n in self.names if n.partition("-")[0] == kind]
            name = f"{kind}-{len(alike) + 1}" if alike else kind
        self.names[name] = probe
        return name

    def _answer(self, sample: int, run: Run) -> Any:
        text = run.text if isinstance(run.text, str) else run.text[0]
        lengths = {
            "prompt_tokens": [run.layout.prompt_length],
            "new_tokens": [len(run.answer_rows)],
        }
        return self._pandas.DataFrame({"sample": [sample], "text": [text], **lengths})

    def _record(self, sample: int, record: Recorded) -> Any:
        kept = record if self.reduce is None or record.vocabulary else self.reduce(record)
        if "batch" in record.axes and "batch" not in kept.axes:
            raise ResultError(
                "reduce= took away the axis 'batch', which tells the samples apart; name the axes "
                "to reduce, as in record.mean('head', 'query')"
            )
        table = kept.to_pandas().drop(columns="batch", errors="ignore")
        table.insert(0, "sample", sample)
        return table
