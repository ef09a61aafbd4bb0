"""Write files atomically, and read untrusted files safely."""

import hashlib
import json
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import ResultError


def unwritable(path: object, error: Exception) -> ResultError:
    """The error about a file or folder that cannot be written."""
    why = getattr(error, "strerror", None) or error
    return ResultError(
        f"{path} cannot be written: {why}; what was finished before is untouched. Make room, or "
        "name a folder that exists and can be written to, and call again"
    )


def make_folder(path: str | Path) -> Path:
    """A folder, and those above it, made if they are not there.

    **Raises:** `ResultError` if it cannot be made, as where a file has its name.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    return Path(path)


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: a crash, or a full disk, leaves what was there.

    **Raises:** `ResultError` if it cannot be written.
    """
    with reserved(path, 0) as write:
        write(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a binary file whole or not at all.

    **Raises:** `ResultError` if it cannot be written.
    """
    with reserved(path, 0) as write:
        write(content)


@contextmanager
def reserved(path: str | Path, size: int) -> Generator[Callable[[str | bytes], None]]:
    """Make room for a file before the work that fills it; gives what writes it, whole.

    **Arguments:**

    - `size`: how many bytes to set aside.

    **Raises:** `ResultError` if it cannot be written, before the block is entered where the room or
    the folder is lacking.
    """
    target = Path(path)
    part = target.with_name(f".{target.name[:100]}.{uuid4().hex[:12]}.part")

    def write(content: str | bytes) -> None:
        try:
            with part.open("r+b") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
            sync(target.parent)
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from error

    try:
        try:
            if target.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            with part.open("wb") as file:
                file.write(b"\0" * size)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from error
        yield write
    finally:
        with suppress(OSError, ValueError):
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on the disk now."""
    try:
        known = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders, on Windows
        return
    try:
        os.fsync(known)
    finally:
        os.close(known)


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path, what: str) -> Any:
    """What a JSON file holds.

    **Raises:** `ResultError` if there is no such file, or it is no JSON; `what` is what it should
    be, with the next step.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} holds no {what} ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} holds no {what}: it is no JSON ({error})") from error
