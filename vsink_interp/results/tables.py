"""Records of many runs as tidy tables in Parquet files."""

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, final

from ..errors import CapabilityError, ResultError, unknown
from ..storage import write_bytes, write_text
from .recorded import Recorded, optional_package
from .run import Run
from .words import WORD

ANSWERS = "answers"
"""The table of the answers themselves."""


@final
class Tables:
    """A folder of tables: one for each probe, and one of the answers.

    **Arguments:**

    - `mean`: axes over which records of numbers are averaged first, where they have them.

    **Raises:** `CapabilityError` without the packages pandas and pyarrow; `ResultError` for a
    folder that holds something, or the mean over `batch`.
    """

    def __init__(self, folder: str | Path, mean: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.mean = tuple(mean)
        self.names: dict[str, str] = {}
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ResultError(
                f"{self.folder} holds something already, and what is left of other tables would be "
                "read with these; remove it, or name another folder"
            )
        if "batch" in self.mean:
            raise ResultError("the axis 'batch' tells the samples apart; average over others")
        self._pandas = optional_package("pandas")
        try:
            self._arrow = optional_package("pyarrow.parquet"), optional_package("pyarrow")
        except CapabilityError as error:
            raise CapabilityError(
                "Parquet files need the package pyarrow: pip install 'vsink-interp[data]'"
            ) from error

    def write(self, part: str, runs: Iterable[tuple[int, Run]]) -> None:
        """Write the tables of some runs, with the number of the sample of each, as one partition.

        **Raises:** `ResultError` if they cannot be written, or no record has an axis of `mean`.
        """
        found: dict[str, list[Any]] = {}
        axes: set[str] = set()
        for sample, run in runs:
            axes |= {axis for record in run.records.values() for axis in record.axes}
            found.setdefault(ANSWERS, []).append(self._answer(sample, run))
            for name, record in run.records.items():
                found.setdefault(self._named(name), []).append(self._record(sample, record))
        if strange := sorted({*self.mean} - axes):
            raise ResultError(unknown("axis of these records", strange[0], sorted(axes)))
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
        over = [axis for axis in self.mean if axis in record.axes and not record.vocabulary]
        kept = record.mean(*over) if over else record
        table = kept.to_pandas().drop(columns="batch", errors="ignore")
        table.insert(0, "sample", sample)
        return table
