"""The notation for selecting layers, heads and positions."""

import re
from collections.abc import Iterable
from operator import index
from typing import Any, SupportsIndex, TypeAlias

from ..errors import NotationError
from .top_heads import TopHeads

Layers: TypeAlias = str | SupportsIndex | Iterable[SupportsIndex]
"""Layers: `":"`, `"12:"`, `"-4:"`, `"4:20"`, `"except 4:20"`, `"0,3,7"`, `5`, `(0, 3)`,
`range(2, 5)`, a list, or numpy's whole numbers; -1 is the last. A node keeps text, a number or a
tuple."""

Heads: TypeAlias = Layers | TopHeads | None
"""Query heads, counted from 0, in the same notation as layers; None means all, and `TopHeads`
chooses them in every row."""

Numbers: TypeAlias = str | int | tuple[int, ...]
"""The canonical form of both."""

_RANGE = re.compile(r"^(-?\d+)?(?:(:)(-?\d+)?)?$")


def _span(text: str, whole: str, what: str) -> tuple[int | None, bool, int | None]:
    match = _RANGE.match(text.strip())
    if not match or not text.strip():
        raise NotationError(
            f"{whole!r} is not a {what} range; write ':', '12:', '-4:', '4:20', 'except 4:20', "
            "'0,3,7', a number or several, as in (0, 3) or range(2, 5)"
        )
    first, colon, last = match.groups()
    return (int(first) if first else None), bool(colon), (int(last) if last else None)


def settled(numbers: Any, what: str = "layer") -> Numbers:
    """Layers, heads or positions in canonical form: text, a whole number or a tuple of them.

    **Raises:** `NotationError` listing the valid forms.
    """
    if isinstance(numbers, str):
        for part in numbers.removeprefix("except ").split(","):
            _span(part, numbers, what)
        return numbers
    given = numbers.tolist() if hasattr(numbers, "tolist") else numbers
    try:
        return _whole(given) if hasattr(given, "__index__") else tuple(map(_whole, given))
    except TypeError as error:
        raise NotationError(
            f"{numbers!r} is not a {what} range: text such as '12:', a whole number, or a tuple "
            "or list of them, as in (0, 3)"
        ) from error


def _whole(number: Any) -> int:
    plain = number.item() if hasattr(number, "item") else number
    if isinstance(plain, bool):  # True and False are whole numbers to Python
        raise TypeError(plain)
    return index(plain)


def resolve(numbers: Any, count: int, what: str = "layer", whose: str = "this model") -> list[int]:
    """The indices that a selection names among `count` layers, heads or positions, ascending.

    **Raises:** `NotationError` if a bound is out of range, or a range selects nothing.
    """
    given = settled(numbers, what)
    here = f"{whose} has {count}, 0 to {count - 1}"
    if isinstance(given, str):
        parts = given.removeprefix("except ").split(",")
        chosen = {at for part in parts for at in _expand(part, given, count, what, here)}
        if given.startswith("except "):
            chosen = set(range(count)) - chosen
    else:
        wanted = (given,) if isinstance(given, int) else given
        chosen = {_index(number, given, count, what, here) for number in wanted}
    if not chosen:
        raise NotationError(f"{what}s {numbers!r} name no {what}; {here}")
    return sorted(chosen)


def resolve_layers(layers: Layers, n_layers: int) -> tuple[int, ...]:
    """The layers that a layer range names in a model of `n_layers` layers, ascending.

    **Raises:** `NotationError` if a bound lies outside the model, or no layer is named.
    """
    return tuple(resolve(layers, n_layers))


def _index(number: int, given: Numbers, count: int, what: str, here: str) -> int:
    if not -count <= number < count:
        raise NotationError(f"{what}s {given!r}: there is no {what} {number}; {here}")
    return number % count


def _expand(part: str, given: str, count: int, what: str, here: str) -> range:
    first, colon, last = _span(part, given, what)
    if not colon:
        only = _index(first if first is not None else 0, given, count, what, here)
        return range(only, only + 1)
    start = 0 if first is None else _index(first, given, count, what, here)
    if last is None:
        return range(start, count)
    stop = last + count if last < 0 else last
    if not 0 <= stop <= count:
        raise NotationError(f"{what}s {given!r}: {what} {last} lies beyond: {here}")
    if start >= stop:
        raise NotationError(f"{what}s {given!r}: {part.strip()!r} names no {what}; {here}")
    return range(start, stop)
