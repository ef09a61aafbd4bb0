"""`Recorded`: the record of one probe, with named axes, and which of its entries count."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..errors import CapabilityError, ResultError, unknown

if TYPE_CHECKING:
    import pandas
    import xarray

Reduce = Callable[[Tensor, list[int]], Tensor]
"""From values that are NaN where none counts, and axes, to what is left without these axes."""


def row_axis(axes: Iterable[str]) -> str | None:
    """The axis along which passes are joined: `query`, or `token` of a token's own value."""
    return next((axis for axis in ("query", "token") if axis in axes), None)


@final
@dataclass(frozen=True, eq=False)
class Recorded:
    """The record of one probe: a tensor with named axes, some of which have labels.

    Samples of a batch differ in length, and a row sees only tokens before it, so some entries of
    the tensor have no meaning: rows of padding, rows between those of the group, keys that a row
    cannot see. `counts` says which entries count. Reductions use only these, so a mean over a batch
    is a mean over its samples' own entries, and is NaN where nothing counts.

    ```python
    record = run[vi.probes.SegmentMass]                       # layer batch head query segment
    record.at(segment="image").mean("batch", "head", "query").values
    record.sel(layer=[2, 3], head=0).to_pandas().head()
    ```

    **Attributes:**

    - `values`: the tensor, on the CPU, as it was measured; `masked` has NaN where nothing counts.
    - `axes`: one name per axis; `layer` comes first if the probe acts on layers.
    - `coords`: the labels of some axes: layer numbers, token positions, segment names.
    - `counts`: which entries count, with size 1 along axes on which this does not depend; None if
        all do.
    - `vocabulary`: of a record of words, whose values are ids, the text of each id; else None.
    """

    values: Tensor
    axes: tuple[str, ...]
    coords: Mapping[str, tuple] = field(default_factory=dict)
    counts: Tensor | None = None
    vocabulary: Mapping[int, str] | None = None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{a}={n}" for a, n in zip(self.axes, self.values.shape, strict=True))
        return f"Recorded({sizes})"

    def _repr_html_(self) -> str:
        from ..plot.notebook import record_html

        return record_html(self)

    def __getitem__(self, places: Any) -> Tensor:
        """The values at places along the axes, as a tensor is indexed; `sel` goes by labels."""
        return self.values[places]

    def axis(self, name: str) -> int:
        """The index of an axis.

        **Raises:** `ResultError` listing the axes.
        """
        if name not in self.axes:
            raise ResultError(unknown("axis of this record", name, self.axes))
        return self.axes.index(name)

    @property
    def masked(self) -> Float[Tensor, "..."]:
        """The values in fp32, NaN where an entry does not count."""
        values = self.values if self.values.dtype == torch.float64 else self.values.float()
        return values if self.counts is None else values.masked_fill(~self.counts, torch.nan)

    @property
    def words(self) -> Shaped[np.ndarray, "..."]:
        """The words of a record of words, in the shape of `values`; empty where none counts.

        **Raises:** `ResultError` for another record.
        """
        if self.vocabulary is None:
            raise ResultError(
                "this record holds numbers, not words; run[probe, 'word'] of probes.LogitLens does"
            )
        shown = self.values if self.counts is None else self.values.masked_fill(~self.counts, -1)
        texts = [self.vocabulary.get(id_, "") for id_ in shown.flatten().tolist()]
        return np.array(texts, dtype=object).reshape(tuple(shown.shape))

    def mean(self, *names: str) -> "Recorded":
        """The mean over one or more axes, or over all, of the entries that count, ignoring NaN."""
        return self._reduced(names, lambda values, dims: values.nanmean(dims))

    def sum(self, *names: str) -> "Recorded":
        """The sum over one or more axes, or over all, of the entries that count, ignoring NaN."""
        return self._reduced(names, lambda values, dims: values.nansum(dims))

    def max(self, *names: str) -> "Recorded":
        """The maximum over one or more axes, or over all, of the entries that count."""
        return self._reduced(names, lambda values, dims: _lowered(values).amax(dims))

    def _reduced(self, names: tuple[str, ...], reduce: Reduce) -> "Recorded":
        gone = tuple(dict.fromkeys(names or self.axes))
        dims = [self.axis(name) for name in gone]
        if not dims:
            return self
        values = self.masked
        found = reduce(values, dims).masked_fill(values.isnan().all(dims), torch.nan)
        counts = None if self.counts is None else self.counts.any(dims)
        return replace(self._without(gone, found, counts), vocabulary=None)

    def argmax(self, *names: str) -> dict[str, Any]:
        """The labels of the largest entry that counts, as `record.at(**labels)` takes them.

        **Arguments:**

        - `names`: the axes to look along; those not named must have one entry, or none be named:
            then it is the largest of all.

        **Raises:** `ResultError` for an axis that is left over, or where nothing counts.
        """
        chosen = names or self.axes
        left = [a for a in self.axes if a not in chosen and self.values.shape[self.axis(a)] > 1]
        places = {name: self.axis(name) for name in chosen}
        if left:
            raise ResultError(
                f"the largest along {', '.join(chosen)} differs along {', '.join(left)}: choose "
                "one label of those with at(...), or take their mean(...) first"
            )
        values = self.masked
        if bool(values.isnan().all()):
            raise ResultError("no entry of this record counts, so none is the largest")
        flat = int(_lowered(values).argmax())
        found = [int(place) for place in torch.unravel_index(torch.tensor(flat), values.shape)]
        return {name: self.labels(name)[found[place]] for name, place in places.items()}

    def sel(self, **labels: Any) -> "Recorded":
        """Entries by label: one label takes its axis away, several, or a range, keep the axis.

        ```python
        record = run[vi.probes.SegmentMass]
        record.sel(layer=range(2, 5), head=1, segment=["image", "query"])
        ```

        **Raises:** `ResultError` listing the axis's labels.
        """
        record = self
        for name, wanted in labels.items():
            if isinstance(wanted, list | tuple | range):
                record = record.taken(name, wanted)
            else:
                record = record.at(**{name: wanted})
        return record

    def topk(self, k: int, name: str) -> tuple["Recorded", "Recorded"]:
        """The `k` largest entries along an axis among those that count, the largest first.

        **Returns:** two records with an axis `rank` instead of that axis: the values, and their
        indices into `labels(name)`. If fewer than `k` entries count, the rest is NaN and -1, and
        does not count.

        **Raises:** `ResultError` for an unknown axis, or `k` below 1 or above the axis's length.
        """
        at = self.axis(name)
        if not 1 <= k <= self.values.shape[at]:
            raise ResultError(f"topk of {k}: the axis {name} has {self.values.shape[at]} entries")
        found = _lowered(self.masked).topk(k, at)
        there = found.values > -torch.inf
        axes = tuple("rank" if axis == name else axis for axis in self.axes)
        coords = {axis: labels for axis, labels in self.coords.items() if axis != name}
        counts = None if bool(there.all()) else there
        return (
            Recorded(found.values.masked_fill(~there, torch.nan), axes, coords, counts),
            Recorded(found.indices.masked_fill(~there, -1), axes, coords, counts),
        )

    def entries(self, *names: str) -> Float[Tensor, "... entry"]:
        """The entries that count, with some axes flattened into one last axis.

        `entries("batch", "query")` of `[layer batch head query]` is `[layer head row]`: the rows
        that count, samples concatenated. One that counts only at some places along the other axes
        (rows of a layer with a window, which cannot see the image) is NaN at the others.
        """
        last = [self.axis(name) for name in names]
        order = [i for i in range(len(self.axes)) if i not in last] + last
        n_others = len(order) - len(last)
        if self.counts is None:
            return self.values.permute(order).flatten(n_others)
        counts = self.counts.permute(order)
        sizes = [self.values.shape[i] for i in last]
        some = counts.flatten(0, n_others - 1).any(0) if n_others else counts
        varies = any(size > 1 for size in counts.shape[:n_others])
        values = (self.masked if varies else self.values).permute(order).flatten(n_others)
        return values[..., some.expand(sizes).flatten()]

    def only(self, chosen: Bool[Tensor, "..."], *names: str) -> "Recorded":
        """The same record, in which only chosen entries count.

        **Arguments:**

        - `chosen`: which ones, along the axes `names`.
        """
        places = [self.axis(name) for name in names]
        order = sorted(range(len(places)), key=places.__getitem__)
        sizes = [1] * len(self.axes)
        for place, size in zip(places, chosen.shape, strict=True):
            sizes[place] = size
        wide = chosen.permute(order).reshape(sizes)
        return replace(self, counts=_some(wide if self.counts is None else wide & self.counts))

    def gathered(self, name: str, places: Int[Tensor, "batch place"], new: str) -> "Recorded":
        """The entries of each sample at its own indices along an axis, which becomes `new`.

        **Arguments:**

        - `places`: -1 stands for none: that entry does not count.
        """
        batch, at = self.axis("batch"), self.axis(name)
        sizes = [1] * len(self.axes)
        sizes[batch], sizes[at] = places.shape
        index = (places if batch < at else places.T).reshape(sizes)
        counts = index >= 0
        if self.counts is not None:
            known = [-1] * len(sizes)
            known[batch], known[at] = self.values.shape[batch], self.values.shape[at]
            counts = counts & _taken(self.counts.expand(known), at, index)
        axes = tuple(new if axis == name else axis for axis in self.axes)
        coords = {axis: labels for axis, labels in self.coords.items() if axis != name}
        values = _taken(self.values, at, index)
        return Recorded(values, axes, coords, _some(counts), self.vocabulary)

    def taken(self, name: str, labels: Iterable[Any]) -> "Recorded":
        """Select several labels of an axis, in the given order.

        **Raises:** `ResultError` listing the axis's labels.
        """
        wanted, at = tuple(labels), self.axis(name)
        index, counts = torch.tensor(self.places(name, wanted), dtype=torch.long), self.counts
        if counts is not None and counts.shape[at] > 1:
            counts = counts.index_select(at, index)
        values = self.values.index_select(at, index)
        coords = {**self.coords, name: wanted}
        return replace(self, values=values, coords=coords, counts=_some(counts))

    def at(self, **labels: Any) -> "Recorded":
        """Select one label of one or more axes, as in `at(layer=3, segment="image")`.

        **Raises:** `ResultError` listing the axis's labels.
        """
        record = self
        for name, label in labels.items():
            record = record._pick(name, label)
        return record

    def _pick(self, name: str, label: Any) -> "Recorded":
        (place,), at = self.places(name, [label]), self.axis(name)
        counts = self.counts
        if counts is not None:
            counts = counts.select(at, place if counts.shape[at] > 1 else 0)
        return self._without((name,), self.values.select(at, place), counts)

    def _without(self, gone: tuple[str, ...], values: Tensor, counts: Tensor | None) -> "Recorded":
        kept = tuple(axis for axis in self.axes if axis not in gone)
        coords = {axis: labels for axis, labels in self.coords.items() if axis in kept}
        return Recorded(values, kept, coords, _some(counts), self.vocabulary)

    def labels(self, name: str) -> tuple:
        """The labels of an axis; 0, 1, 2 ... if it has none."""
        return self.coords.get(name, tuple(range(self.values.shape[self.axis(name)])))

    def places(self, name: str, labels: Iterable[Any]) -> list[int]:
        """The indices of labels along an axis, as in `places("query", run.answer_rows)`.

        **Raises:** `ResultError` listing the axis's labels.
        """
        known = {label: place for place, label in enumerate(self.labels(name))}
        wanted = list(labels)
        if missing := [label for label in wanted if label not in known]:
            raise ResultError(unknown(f"label of {name}", missing[0], map(str, known)))
        return [known[label] for label in wanted]

    def to_xarray(self) -> "xarray.DataArray":
        """An xarray DataArray with the same axes, NaN where nothing counts; needs xarray."""
        xarray = optional_package("xarray")
        coords = {axis: list(labels) for axis, labels in self.coords.items()}
        return xarray.DataArray(self.masked.numpy(), dims=self.axes, coords=coords)

    def to_pandas(self) -> "pandas.DataFrame":
        """A table, one row per number that counts: a column per axis, and `value`; needs pandas.

        Of a record of words `value` is the id, and a column `word` has its text.
        """
        pandas = optional_package("pandas")
        index = pandas.MultiIndex.from_product([self.labels(a) for a in self.axes], names=self.axes)
        columns = {"value": self.masked.reshape(-1).numpy()}
        if self.vocabulary is not None:
            columns = {"value": self.values.reshape(-1).numpy(), "word": self.words.reshape(-1)}
        table = pandas.DataFrame(columns, index=index)
        if self.counts is not None:
            table = table[self.counts.expand(self.values.shape).reshape(-1).numpy()]
        return table.reset_index()


def _lowered(values: Tensor) -> Tensor:
    """What does not count lies below everything else."""
    return values.masked_fill(values.isnan(), -torch.inf)


def _some(counts: Tensor | None) -> Tensor | None:
    """Which entries count, or None where all do."""
    return None if counts is None or bool(counts.all()) else counts


def _taken(values: Tensor, at: int, index: Tensor) -> Tensor:
    """The entries of each sample at its own places along an axis; any entry where there is none."""
    sizes = [*values.shape]
    sizes[at] = index.shape[at]
    return values.gather(at, index.clamp_min(0).expand(sizes))


def optional_package(name: str) -> Any:
    """A package that only some need.

    **Raises:** `CapabilityError` saying how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CapabilityError(f"this needs {name}: pip install {name}") from error
