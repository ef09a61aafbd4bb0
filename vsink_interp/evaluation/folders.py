"""Where a benchmark's files lie in a folder of the user's."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError


def find_file(folder: Path, benchmark: str, names: Sequence[str]) -> Path:
    """A benchmark's file, by one of its usual names.

    **Raises:** `InputError` naming the first.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds no {benchmark} questions: expected {names[0]}")


def find_image(folder: Path, name: str, inside: Sequence[str]) -> Path:
    """An image by its name, in the usual places below a folder.

    **Raises:** `InputError` listing the places.
    """
    places = [folder / part / name for part in ("", *inside)]
    for path in places:
        if path.is_file():
            return path
    looked = ", ".join(str(path.parent) for path in places)
    raise InputError(f"there is no image {name!r} in any of {looked}")
