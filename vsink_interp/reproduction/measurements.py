"""`Measurements`: what a reproduction found, one row a measurement, with how it came about."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, final

import numpy as np
from jaxtyping import Float
from PIL import Image

from ..errors import ResultError
from ..results.recorded import optional_package
from ..results.result import OneLine
from ..results.summary import Summary, summary_table
from ..storage import make_folder, read_json, write_bytes, write_text

if TYPE_CHECKING:
    import pandas

Row: TypeAlias = dict[str, Any]
"""One measurement: names of what varied with their labels, `value`, and often `case`."""
CASE: Final = "case"
VALUE: Final = "value"
ENDS: Final = ("low", "high")
LEFT_OUT: Final = "left out"
"""What `about` calls that which was not measured, and why."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class Measurements(OneLine):
    """The rows of a published figure or table, measured anew.

    **Attributes:**

    - `name`: the figure or table, as `vsink reproduce list` shows it.
    - `rows`: one mapping a measurement.
    - `about`: model, versions, settings, seeds and data, as they were.
    - `images`: the images of some cases, for figures that show them.
    """

    figure: ClassVar[str] = "reproduction"

    name: str
    rows: tuple[Row, ...]
    about: Mapping[str, Any]
    images: Mapping[int, Image.Image] = field(default_factory=dict)

    def __repr__(self) -> str:
        cases = len({row[CASE] for row in self.rows if CASE in row})
        return f"Measurements({self.name}, {len(self.rows)} rows, {cases} cases)"

    def to_pandas(self) -> "pandas.DataFrame":
        """One line a measurement; needs the package pandas."""
        return optional_package("pandas").DataFrame(list(self.rows))

    def where(self, **group: Any) -> "Measurements":
        """The rows that have these labels, as in `found.where(arm="visual sinks")`.

        **Raises:** `ResultError` listing the labels, if there are none.
        """
        kept = tuple(row for row in self.rows if group.items() <= row.items())
        if not kept:
            known = {name: sorted({str(row.get(name)) for row in self.rows}) for name in group}
            raise ResultError(f"{self.name} has no measurement with {group}; there are {known}")
        return Measurements(self.name, kept, self.about, self.images)

    def labels(self, factor: str) -> tuple[Any, ...]:
        """The labels of what varied, in the order of the rows."""
        return tuple(dict.fromkeys(row[factor] for row in self.rows if factor in row))

    def by_case(self, **group: Any) -> Float[np.ndarray, " case"]:
        """The mean of each case's measurements with these labels, in the order of the cases."""
        found = _cases(self.where(**group).rows)
        return np.array([np.nanmean(found[case]) for case in sorted(found)])

    def mean(self, **group: Any) -> float:
        """The mean over cases of the measurements with these labels."""
        rows = self.where(**group).rows
        if any(CASE not in row for row in rows):
            return float(np.mean([row[VALUE] for row in rows]))
        return float(self.by_case(**group).mean())

    def summary(self, by: Sequence[str]) -> tuple[Summary, ...]:
        """The mean of every group, and its interval over cases."""
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in self.rows:
            if all(name in row for name in by):
                groups.setdefault(tuple(row[name] for name in by), []).append(row)
        return tuple(_summed(dict(zip(by, key, strict=True)), r) for key, r in groups.items())

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """What varied between the measurements of a case."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return tuple(n for n in names if n not in (CASE, VALUE, *ENDS))

    def table(self, by: Sequence[str] = ()) -> str:
        """The means as text, with their intervals.

        **Arguments:**

        - `by`: what the lines tell apart; by default what varied in no more than twelve ways.
        """
        by = tuple(by) or tuple(n for n in self.factors if len(self.labels(n)) <= 12)
        told = summary_table(self.summary(by), by)
        missing = self.about.get(LEFT_OUT)
        return f"{told}\nleft out: {missing}" if missing else told

    def __str__(self) -> str:
        return f"{self.name}\n{self.table()}"

    def save(self, folder: str | Path) -> None:
        """Write `NAME.csv`, `NAME.json` (how it came about) and the images into a folder.

        **Raises:** `ResultError` if it cannot be written.
        """
        place = make_folder(folder)
        write_text(place / f"{self.name}.csv", _csv(self.rows))
        about = {"about": dict(self.about), "images": sorted(self.images)}
        write_text(place / f"{self.name}.json", json.dumps(about, ensure_ascii=False, indent=1))
        for number, image in self.images.items():
            write_bytes(place / f"{self.name}.case-{number}.png", _png(image))

    @classmethod
    def load(cls, folder: str | Path, name: str) -> "Measurements":
        """What `save` wrote.

        **Raises:** `ResultError` if there is nothing of that name, or it is damaged.
        """
        place = Path(folder)
        try:
            text = (place / f"{name}.csv").read_text(encoding="utf-8")
            about = read_json(place / f"{name}.json", "measurements")
            numbers = about["images"]
            shown = {n: Image.open(place / f"{name}.case-{n}.png").convert("RGB") for n in numbers}
            return cls(name, tuple(_read(text)), about["about"], shown)
        except (OSError, ValueError, KeyError) as error:
            raise ResultError(f"{place} holds no measurements of {name}: {error}") from error


def _summed(group: Mapping[str, Any], rows: Sequence[Row]) -> Summary:
    if any(CASE not in row for row in rows):  # measured over all cases at once
        ends = [float(np.mean([row.get(end, np.nan) for row in rows])) for end in ENDS]
        return Summary(group, float(np.mean([r[VALUE] for r in rows])), *ends, len(rows))
    means = np.array([np.nanmean(values) for values in _cases(rows).values()])
    return Summary.of(group, means)


def _cases(rows: Sequence[Row]) -> dict[Any, list[float]]:
    """The values of each case that has any."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if CASE in row and not np.isnan(row[VALUE]):
            found.setdefault(row[CASE], []).append(float(row[VALUE]))
    return found


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _csv(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _read(text: str) -> Iterator[Row]:
    for line in csv.DictReader(StringIO(text, newline="")):
        yield {name: _value(cell) for name, cell in line.items() if cell != ""}


def _value(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
