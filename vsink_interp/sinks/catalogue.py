"""A catalogue of known sink dimensions, each with its source and status.

None is used unless asked for: `find_sink_dims` finds a model's own dimensions, and its report also
shows what the papers print for a model of that name.
"""

import json
from collections.abc import Iterable
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from ..errors import InputError, unknown
from ..storage import write_text
from .dims import SinkDims

STATUSES: Final = ("published", "inferred", "third-party", "found")
"""Printed by the method's authors or in their code; inferred from a model's backbone; from another
project's code, not verified; found with `find_sink_dims`.
"""
PACKAGED: Final = Path(__file__).with_name("catalogue.json")


@final
@dataclass(frozen=True)
class CatalogueEntry:
    """The reported sink dimensions of one model.

    ```python
    entry = vi.catalogue.find_entry("llava-hf/llava-1.5-7b-hf")
    entry.dims, entry.source, entry.sinks().tau               # lmm.sinks = entry.sinks() uses them
    ```

    **Attributes:**

    - `model`: its name.
    - `dims`: the coordinates of the residual stream, counted from 0.
    - `tau`: the threshold on phi that belongs to them; None if the source gives none.
    - `width`: the model's `d_model`.
    - `status`: one of `STATUSES`.
    - `source`: where they are reported.
    - `names`: the last parts of repository names under which the model is published, lower case.
    """

    model: str
    dims: tuple[int, ...]
    tau: float | None
    _: KW_ONLY
    width: int
    status: str
    source: str
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(unknown("status", self.status, STATUSES))
        if not self.dims or not all(0 <= dim < self.width for dim in self.dims):
            raise InputError(f"{self.model}: dims {self.dims} do not lie in 0 to {self.width - 1}")

    def sinks(self, tau: float | None = None) -> SinkDims:
        """These dimensions for an `LMM`: `lmm.sinks = entry.sinks()`.

        **Arguments:**

        - `tau`: the threshold; the entry's own by default.

        **Raises:** `InputError` if neither is known.
        """
        threshold = self.tau if tau is None else tau
        if threshold is None:
            raise InputError(
                f"no threshold is known for {self.model}; give tau=, or let find_sink_dims suggest "
                "one"
            )
        return SinkDims(self.dims, threshold, source=f"{self.status}: {self.source}")

    def describes(self, name: str) -> bool:
        """Whether this entry is about the model of this name, whatever its folder or owner."""
        last = name.rstrip("/").split("/")[-1].lower()
        return last in {self.model.lower(), *self.names}

    def __str__(self) -> str:
        tau = "" if self.tau is None else f", tau {self.tau:g}"
        return f"{self.model}: {self.dims}{tau} [{self.status}] {self.source}"


def entries(*files: str | Path) -> tuple[CatalogueEntry, ...]:
    """All entries of the packaged catalogue, then those of your own files.

    **Raises:** `InputError` if a file is not a catalogue.
    """
    return tuple(entry for file in (PACKAGED, *files) for entry in _read(Path(file)))


def _read(file: Path) -> list[CatalogueEntry]:
    try:
        data = json.loads(file.read_text())
        if data["format"] != 1:
            raise ValueError(f"format {data['format']!r}")
        return [_entry(row) for row in data["entries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is not a catalogue of sink dimensions: {error}") from error


def _entry(row: dict[str, Any]) -> CatalogueEntry:
    lists: dict[str, Any] = {name: tuple(row.get(name, ())) for name in ("dims", "names")}
    return CatalogueEntry(**(row | lists))


def find_entry(name: str, *files: str | Path) -> CatalogueEntry:
    """The entry for a model, given by name, repository or folder; the last match wins.

    **Raises:** `InputError` listing the models in the catalogue.
    """
    known = entries(*files)
    found = [entry for entry in known if entry.describes(name)]
    if not found:
        raise InputError(unknown("model in the catalogue", name, [entry.model for entry in known]))
    return found[-1]


def published(name: str, width: int) -> CatalogueEntry | None:
    """The entry that the method's authors print for a model of this name and width, if any."""
    found = [
        entry
        for entry in entries()
        if entry.status == "published" and entry.width == width and entry.describes(name)
    ]
    return found[0] if found else None


def add(entry: CatalogueEntry, file: str | Path) -> None:
    """Add an entry to your own file, existing or new; the packaged catalogue never changes.

    **Raises:** `InputError` if the file is not a catalogue, or is the packaged one.
    """
    path = Path(file)
    if path.resolve() == PACKAGED:
        raise InputError("the packaged catalogue is read-only; give a file of your own")
    kept = [old for old in (_read(path) if path.exists() else []) if old.model != entry.model]
    _write([*kept, entry], path)


def _write(rows: Iterable[CatalogueEntry], path: Path) -> None:
    found = [asdict(entry) for entry in rows]
    write_text(path, json.dumps({"format": 1, "entries": found}, indent=1) + "\n")
