"""What a result measured, by name: its arrays, with the axes that their annotations name."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from ..errors import ResultError
from .recorded import optional_package
from .summary import Summary, summary_table

if TYPE_CHECKING:
    import pandas

    from .result import Result

CASE: Final = "case"
MEASURE: Final = "measure"
VALUE: Final = "value"
MOST_LABELS: Final = 12
MOST_LINES: Final = 60


@final
@dataclass(frozen=True, eq=False)
class Measure:
    """One measured quantity of a result.

    **Attributes:**

    - `name`: the attribute of the result.
    - `axes`: what varied.
    - `values`: one measurement an entry.
    """

    name: str
    axes: tuple[str, ...]
    values: np.ndarray


def measures(result: "Result") -> Iterator[Measure]:
    """What the class says is measured; else every array and every number that it holds."""
    for name in type(result).measured or _numbers(type(result)):
        kind, value = annotation(type(result), name), getattr(result, name)
        if value is not None:
            yield Measure(name, axes(kind), np.asarray(value))


def annotation(owner: "type[Result]", name: str) -> Any:
    """How a field or property of a class is annotated."""
    found = inspect.getattr_static(owner, name, None)
    if isinstance(found, property | cached_property):
        getter = found.fget if isinstance(found, property) else found.func
        return inspect.get_annotations(getter)["return"] if getter else None
    return next(field.type for field in fields(owner) if field.name == name)


def axes(kind: Any) -> tuple[str, ...]:
    """The axes that a jaxtyping annotation names; none of a number."""
    return tuple(one.split("=")[0] for one in getattr(kind, "dim_str", "").split())


def _numbers(owner: "type[Result]") -> tuple[str, ...]:
    kinds = {field.name: field.type for field in fields(owner)}
    return tuple(name for name, kind in kinds.items() if kind is float or axes(kind))


def labels(result: "Result", axis: str, size: int) -> tuple[Any, ...]:
    """The labels along an axis: those of the field that is called as it in the plural, or numbers.

    **Raises:** `ResultError` where the class names labels of another number.
    """
    named = type(result).axis_labels
    found = getattr(result, named.get(axis, f"{axis}s") or "", ())
    if isinstance(found, tuple) and len(found) == size:
        return found
    if named.get(axis):
        raise ResultError(f"{type(result).__name__} has {size} of {axis}, and labels {found}")
    return tuple(range(size))


def frame(result: "Result") -> "pandas.DataFrame":
    """One row a measurement: `measure`, what varied, and `value`."""
    pandas = optional_package("pandas")
    parts = [_columns(result, one) for one in measures(result)]
    names = [MEASURE, *dict.fromkeys(n for part in parts for n in part if n != VALUE), VALUE]
    names = list(dict.fromkeys(names))
    joined = {}
    for name in names:
        blank = [np.full(len(p[VALUE]), None, object) if name not in p else p[name] for p in parts]
        joined[name] = np.concatenate(blank)
    found = pandas.DataFrame(joined)
    return found.astype({VALUE: float}) if len(found) else found


def _columns(result: "Result", one: Measure) -> dict[str, np.ndarray]:
    values, places = one.values.ravel(), np.indices(one.values.shape)
    found = {MEASURE: np.full(values.size, one.name, object)}
    for number, axis in enumerate(one.axes):
        named = np.array([*labels(result, axis, one.values.shape[number]), None], object)[:-1]
        found[axis] = named[places[number].ravel()]
    for name, attribute in type(result).columns.items():
        along = axes(annotation(type(result), attribute))
        if along and {*along} <= {*one.axes}:
            index = tuple(places[one.axes.index(axis)].ravel() for axis in along)
            found[name] = np.asarray(getattr(result, attribute), object)[index]
    return {**found, VALUE: values.astype(float)}


def table(result: "Result") -> str:
    """The means as text: over cases with their interval, and over axes of many labels."""
    found = [line for one in measures(result) for line in _lines(result, one)]
    by = list(dict.fromkeys(name for one in found for name in one.group))
    return summary_table(found, by)


def _lines(result: "Result", one: Measure) -> Iterator[Summary]:
    """The means of one quantity by as many of its axes as a table has room for."""
    values, kept = one.values.astype(float), _kept(one)
    cases = [axis for axis in one.axes if axis == CASE]
    over = tuple(i for i, axis in enumerate(one.axes) if axis not in (*kept, *cases))
    means = _nanmean(values, over)
    left = [axis for axis in one.axes if axis in (*kept, *cases)]
    if cases:
        means = np.moveaxis(means, left.index(CASE), -1)
    named = [labels(result, axis, means.shape[i]) for i, axis in enumerate(kept)]
    for place in np.ndindex(means.shape[: len(kept)]):
        group = {MEASURE: one.name} | {
            axis: names[i] for axis, names, i in zip(kept, named, place, strict=True)
        }
        yield Summary.of(group, np.atleast_1d(means[place]))


def _kept(one: Measure) -> Sequence[str]:
    kept, lines = [], 1
    for axis, size in zip(one.axes, one.values.shape, strict=True):
        if axis != CASE and size <= MOST_LABELS and lines * size <= MOST_LINES:
            kept.append(axis)
            lines *= size
    return kept


def _nanmean(values: np.ndarray, over: tuple[int, ...]) -> np.ndarray:
    """The mean of what there is; NaN where there is nothing."""
    known = ~np.isnan(values)
    count = known.sum(over)
    total = np.where(known, values, 0).sum(over)
    return np.divide(total, count, out=np.full_like(total, np.nan, dtype=float), where=count > 0)
