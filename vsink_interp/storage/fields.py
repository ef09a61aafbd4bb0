"""Read the fields of untrusted JSON files, with checks."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ResultError


def entry(data: Any, name: str, kinds: type | tuple[type, ...], where: object) -> Any:
    """A field of what a JSON file holds.

    **Arguments:**

    - `kinds`: the types that it may have; True and False are no numbers.
    - `where`: what holds it, for the error.

    **Raises:** `ResultError` naming the file and the field, if it is not there or of another type.
    """
    if not isinstance(data, Mapping) or name not in data:
        raise ResultError(f"{where} has no field {name!r}; was it written by another version?")
    value, wanted = data[name], kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in wanted)
        raise ResultError(f"{where}: the field {name!r} is {told(value)}, and should be {names}")
    return value


@contextmanager
def reading(where: object, field: str = "") -> Generator[None]:
    """Make of whatever damaged content brings about one error that names its place.

    **Raises:** `ResultError` naming the file and the field.
    """
    place = f"the field {field!r} of {where}" if field else str(where)
    try:
        yield
    except ResultError as error:
        if str(where) in str(error):
            raise
        raise ResultError(f"{place}: {error}") from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ResultError(f"{place} cannot be read: {told(why, 300)}") from error


def refuse_format(data: Any, known: int, where: object) -> None:
    """Refuse a file of another format than this version reads.

    **Raises:** `ResultError`.
    """
    if (found := entry(data, "format", int, where)) != known:
        raise ResultError(
            f"{where} has format {found}, and this version reads {known}; write it anew, or "
            "install the version that wrote it"
        )


def told(value: object, longest: int = 60) -> str:
    """A value as an error shows it: short, and on one line."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
