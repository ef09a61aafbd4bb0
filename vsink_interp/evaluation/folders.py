"""A benchmark's files in a folder of the user's: where they lie, and what they hold."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    **Raises:** `InputError` if it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not empty, with their numbers from 1.

    **Raises:** `InputError` if it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # JSON may hold other ends of lines
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())
