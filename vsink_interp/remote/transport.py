"""One request to a server, bounded in size and time."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any, final

import httpx

from ..errors import RemoteError

_CONNECT, _READ = 10.0, 600.0


@final
@dataclass(frozen=True)
class Bounds:
    """How much is taken of a server: at most `size` bytes, `until` a time of `time.monotonic`."""

    size: int
    until: float


@final
@dataclass(frozen=True)
class Answer:
    """The status code and the body of a server's answer."""

    code: int
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


def ask(
    method: str, url: str, bounds: Bounds, headers: Mapping[str, str], **content: Any
) -> Answer:
    """Ask once; redirections are not followed.

    **Raises:** `httpx.HTTPError` if there is no answer; `RemoteError` if it is larger or slower
    than it may be.
    """
    left = bounds.until - time.monotonic()
    timeout = httpx.Timeout(_CONNECT, read=max(0.01, min(_READ, left)))
    # Unpacked nowhere on the way: a few bytes could become very many.
    plain = {**headers, "accept-encoding": "identity"}
    client, found = httpx.Client(timeout=timeout, verify=_tls(url)), []

    def work() -> None:
        try:
            with client.stream(method, url, headers=plain, **content) as answer:
                found.append(Answer(answer.status_code, _body(answer, bounds)))
        except BaseException as error:  # noqa: BLE001 (raised below, in the caller's thread)
            found.append(error)

    # In a thread of its own: a server that sends a byte now and then never lets a read time out.
    thread = Thread(target=work, daemon=True)
    try:
        thread.start()
        thread.join(max(0.0, left))
        late = thread.is_alive()
    finally:
        client.close()
    if late or not found:
        raise _slow(url)
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _body(answer: httpx.Response, bounds: Bounds) -> bytes:
    body = bytearray()
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > bounds.size:
            raise RemoteError(
                f"{answer.url.host} sends more than the {bounds.size} bytes that it may; nothing "
                "of it was kept"
            )
        if time.monotonic() > bounds.until:
            raise _slow(str(answer.url))
    return bytes(body)


def _slow(url: str) -> RemoteError:
    return RemoteError(
        f"{httpx.URL(url).host} has not answered to the end in the time that it has; ask again "
        "later, or give it more: Server(address, timeout=...)"
    )


def _tls(url: str) -> ssl.SSLContext | bool:
    """What certificates are checked with; reading them takes longer than a status."""
    return _certificates() if url.startswith("https://") else False


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()
