"""Checking what a server sends (text, job ids, results), and which server gets the API key."""

import io
import re
import zipfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

import torch
import zstandard
from nnsight import CONFIG
from torch import Tensor

from ..errors import CapabilityError, RemoteError, VsinkError

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\)?"  # titles, links
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # the direction of writing
)
_NUMBER = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NO_KEY = "\0"  # no text holds it any more
_PORTS = {"http": 80, "https": 443}
WINDOW = 2**27
"""The most bytes that decompression may look back for, and so has to keep."""


def plain_text(text: object, longest: int = 20_000) -> str:
    """Text of a server's without what a terminal would obey and without the user's key, which some
    errors quote, and no longer than it may be."""
    shown = _ESCAPES.sub("", str(text).replace("\r\n", "\n"))
    shown = shown.replace(CONFIG.API.APIKEY or _NO_KEY, "[your API key]")
    return shown if len(shown) <= longest else f"{shown[:longest]} [...]"


def plain_values(found: Any) -> Any:
    """What JSON holds, with every text as `plain_text` gives it."""
    if isinstance(found, Mapping):
        return {plain_text(name, 200): plain_values(value) for name, value in found.items()}
    if isinstance(found, list):
        return [plain_values(value) for value in found]
    return plain_text(found) if isinstance(found, str) else found


def check_number(number: object) -> str:
    """The number of a job, which becomes part of an address.

    **Raises:** `RemoteError` if it is none.
    """
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise RemoteError(
            f"{plain_text(number, 60)!r} is no number of a job: letters, digits, '-' and '_'"
        )
    return number


def address(host: str) -> SplitResult:
    """The parts of a server's address.

    **Raises:** `CapabilityError` if it is none.
    """
    try:
        parts = urlsplit(host)
        fine = parts.scheme in _PORTS and parts.hostname and (parts.port or 1)
    except ValueError:
        fine, parts = False, urlsplit("")
    odd = parts.username is not None or parts.query or parts.fragment
    if not fine or odd or re.search(r"[\s\x00-\x20\\]", host):
        raise CapabilityError(
            f"remote={plain_text(host, 200)!r} is no address; say True for nnsight's configured "
            "server, or 'https://...'"
        )
    return parts


def key_for(host: str) -> str | None:
    """The user's key, if this server may be told it.

    It goes to the server that nnsight is configured for, over https, and to this machine.
    """
    key, parts = CONFIG.API.APIKEY, address(host)
    if not key:
        return None
    if _loopback(parts.hostname or ""):
        return key
    configured = parts.scheme == "https" and _origin(parts) == _origin(urlsplit(CONFIG.API.HOST))
    return key if configured else None


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _loopback(name: str) -> bool:
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


@contextmanager
def answering(host: str, what: str) -> Generator[None]:
    """Make of whatever a malformed answer brings about one error.

    **Raises:** `RemoteError` naming the server.
    """
    try:
        yield
    except VsinkError:
        raise
    except Exception as error:
        why = plain_text(f"{type(error).__name__}: {error}", 300).splitlines()[0]
        raise RemoteError(f"{host} sent {what} that cannot be read ({why})") from error


def load_result(content: bytes, limit: int, *, compressed: bool) -> list[Mapping[str, Any]]:
    """The states of runs that a server sent: tensors, numbers and words; nothing of it is run.

    **Arguments:**

    - `limit`: the most bytes that they may take, packed or not.

    **Raises:** `RemoteError` if they take more; else whatever malformed content brings about.
    """
    if compressed:
        reader = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(
            io.BytesIO(content)
        )
        content = reader.read(limit + 1)
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        sizes = [one.file_size for one in packed.infolist()]
        stored = all(one.compress_type == zipfile.ZIP_STORED for one in packed.infolist())
    if len(content) > limit or sum(sizes) > limit or not stored:
        raise RemoteError(f"the result is larger than the {limit} bytes that it may have")
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["found"]
    if sum(one.numel() * one.element_size() for one in _tensors(found)) > limit:
        raise RemoteError(f"the result unfolds to more than the {limit} bytes that it may have")
    if not isinstance(found, list) or not all(isinstance(state, dict) for state in found):
        raise TypeError("its runs are no list")
    return found


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Mapping):
        yield from _tensors(list(found.values()))
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _tensors(one)
